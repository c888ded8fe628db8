//! How fast the resampler is, single thread, beside Pillow's own: `cargo bench --bench resample -- --pillow PYTHON`.
//!
//! Resizes noise to a shorter side of 224, bicubic. `whole` computes all of the resized picture, as Pillow must; `crop` computes
//! only the middle 224x224 that the service needs. With `--pillow`, a Python that can `import PIL` runs `resample_pillow.py` in turn
//! with each round, so that both see the same state of the machine. Times are medians over the rounds.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a program that people run: it prints, and stops where it cannot go on"
)]

use std::{
    hint::black_box,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use clipserve::{
    model::preprocessor::Resample,
    preprocess::resample::{Resizer, Source, Window},
};

const SIZES: [(u32, u32); 3] = [(640, 480), (1920, 1280), (4000, 3000)];
const EDGE: usize = 224;
const ROUNDS: usize = 21;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut pillow = None;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--pillow" => pillow = Some(Pillow::start(&arguments.next().expect("--pillow PYTHON"))),
            // Cargo passes it to every benchmark.
            "--bench" => {}
            other => panic!("unknown argument {other}; the only one is --pillow PYTHON"),
        }
    }
    println!(
        "{:>11} {:>10} {:>10} {:>10} {:>12} {:>12}",
        "picture", "whole", "crop", "Pillow", "Pillow/whole", "Pillow/crop"
    );
    for (width, height) in SIZES {
        let mut resizer = Resizer::default();
        let data = noise(width as usize * height as usize * 3);
        let source = Source::new(width, height, &data);
        let size = (EDGE * width as usize / height as usize, EDGE);
        let whole = Window { left: 0, top: 0, width: size.0, height: EDGE };
        let crop = Window { left: (size.0 - EDGE) / 2, width: EDGE, ..whole.clone() };
        let [mut wholes, mut crops, mut pillows] = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            wholes.push(time(|| resizer.resize(source, size, &whole, Resample::Bicubic).unwrap()));
            crops.push(time(|| resizer.resize(source, size, &crop, Resample::Bicubic).unwrap()));
            if let Some(pillow) = &mut pillow {
                pillows.push(pillow.round((width, height), size));
            }
        }
        let (whole, crop) = (median(wholes), median(crops));
        print!("{:>11} {:>10} {:>10}", format!("{width}x{height}"), milliseconds(whole), milliseconds(crop));
        if pillows.is_empty() {
            println!("{:>11} {:>12} {:>12}", "-", "-", "-");
        } else {
            let pillow = median(pillows);
            let ratio = |ours: Duration| format!("{:.1}x", pillow.as_secs_f64() / ours.as_secs_f64());
            println!("{:>11} {:>12} {:>12}", milliseconds(pillow), ratio(whole), ratio(crop));
        }
    }
}

/// The quickest of a few calls: what the machine can do, less what disturbed it.
fn time<T>(mut work: impl FnMut() -> T) -> Duration {
    let calls = (0..3).map(|_| {
        let start = Instant::now();
        black_box(work());
        start.elapsed()
    });
    calls.min().unwrap_or_default()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

fn noise(length: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A Python that times Pillow, one line of numbers in, one out.
struct Pillow {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Pillow {
    fn start(python: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/resample_pillow.py");
        let mut process = Command::new(python)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {python}: {error}"));
        let (input, output) = (process.stdin.take().unwrap(), BufReader::new(process.stdout.take().unwrap()));
        Self { process, input, output }
    }

    fn round(&mut self, from: (u32, u32), to: (usize, usize)) -> Duration {
        writeln!(self.input, "{} {} {} {}", from.0, from.1, to.0, to.1).expect("the Python process lives");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the Python process answers");
        Duration::from_secs_f64(line.trim().parse().expect("a time in seconds; does that Python have Pillow?"))
    }
}

impl Drop for Pillow {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
