//! What the service adds to one picture's latency: `cargo bench --bench latency`.
//!
//! One connection asks `/embed/image` with a 640x480 JPEG, the next time when the last one is answered; in turn with each request the
//! same picture is decoded, resized and given to a bare `Session::run` in this process, with the options of the service. Medians of
//! both and of their difference, for the fixture model, whose run is short, and for a ViT-B/32-sized one with random weights, made once
//! under `target/bench`. A request goes through a kernel socket, four threads and JSON; all of that is in the difference.
#![expect(clippy::print_stdout, reason = "a program that people run: it prints, and stops where it cannot go on")]

use std::{
    fs,
    hint::black_box,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Instant,
};

use clipserve::{
    config::Precision,
    export,
    model::{clip_config::ClipConfig, preprocessor::PreprocessorConfig},
    preprocess::image::{ImageOptions, ImageProcessor},
};
use ort::{
    environment::Environment,
    ep,
    session::{Session, builder::GraphOptimizationLevel},
    value::{TensorElementType, TensorRef},
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const ROUNDS: usize = 300;

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let threads = thread::available_parallelism()?.get();
    let library = fs::read_dir(root.join(".onnxruntime"))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.to_string_lossy().contains("libonnxruntime.so"))
        .ok_or("no ONNX Runtime in .onnxruntime: run `make build`")?;
    let environment = ort::init_from(library)?.with_telemetry(false).build()?;
    println!("{threads} cores, 640x480 JPEG, one connection, medians of {ROUNDS}\n");
    println!("| model | decode, resize, run | request | difference (bar: 1) |\n|---|---|---|---|");
    let fixture = root.join("tests/fixtures/tiny-clip");
    for (name, model) in [("fixture", fixture.clone()), ("ViT-B/32-sized", synthetic_model(root, &fixture)?)] {
        measure(root, &environment, name, &model, threads)?;
    }
    Ok(())
}

/// A ViT-B/32-sized model, made once and kept under `target/`.
fn synthetic_model(root: &Path, preprocessing: &Path) -> Result<PathBuf> {
    let model = root.join("target/bench/vit-b-32");
    if !model.join("onnx/text_model.onnx").is_file() {
        export::write_synthetic_model(&ClipConfig::default(), Precision::F32, 0, preprocessing, &model)?;
    }
    Ok(model)
}

/// One line of the table.
fn measure(root: &Path, environment: &Environment, name: &str, model: &Path, threads: usize) -> Result<()> {
    let picture = fs::read(root.join("tests/fixtures/images/photo_640x480.jpg"))?;
    let options = ImageOptions { exif_orientation: true, fast_decode: false, max_pixels: 50_000_000 };
    let config = PreprocessorConfig::from_json(&fs::read_to_string(model.join("preprocessor_config.json"))?)?;
    let mut processor = ImageProcessor::new(&config, options)?;
    let mut session = session(environment, &model.join("onnx/vision_model.onnx"), threads)?;
    let server = Server::start(root, model)?;
    let mut connection = Connection::open(&server.address, &picture)?;
    let (mut bare, mut served, mut differences) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS + 20 {
        let started = Instant::now();
        run(&mut session, processor.process(&picture)?.as_bytes())?;
        let direct = started.elapsed();
        let started = Instant::now();
        connection.ask()?;
        let request = started.elapsed();
        // The first rounds warm caches and clocks up.
        if round >= 20 {
            differences.push(request.as_secs_f64() - direct.as_secs_f64());
            bare.push(direct.as_secs_f64());
            served.push(request.as_secs_f64());
        }
    }
    let [bare, served, difference] = [bare, served, differences].map(|times| format!("{:.2} ms", median(times) * 1e3));
    println!("| {name} | {bare} | {served} | {difference} |");
    Ok(())
}

/// A session with the options of the service.
fn session(environment: &Environment, graph: &Path, threads: usize) -> Result<Session> {
    let open = || -> ort::Result<Session> {
        Session::builder(environment)?
            .with_execution_providers([ep::CPU::default().with_arena_allocator(true).build()])?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(threads)?
            .with_intra_op_spinning(false)?
            .with_memory_pattern(false)?
            .commit_from_file(graph)
    };
    Ok(open()?)
}

/// Runs one crop of 224x224; a graph that wants it normalised gets the samples as they are, which takes as long.
fn run(session: &mut Session, crop: &[u8]) -> Result<()> {
    let wants_bytes = session.inputs()[0].dtype().tensor_type() == Some(TensorElementType::Uint8);
    if wants_bytes {
        let input = TensorRef::from_array_view(([1, 224, 224, 3], crop))?;
        black_box(session.run(ort::inputs!["pixel_values" => input])?);
    } else {
        let planes: Vec<f32> = (0..3).flat_map(|c| crop.iter().skip(c).step_by(3).map(|&v| f32::from(v))).collect();
        let input = TensorRef::from_array_view(([1, 3, 224, 224], planes.as_slice()))?;
        black_box(session.run(ort::inputs!["pixel_values" => input])?);
    }
    Ok(())
}

/// The release binary, serving.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(root: &Path, model: &Path) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clipserve"));
        command.current_dir(root).args(["serve", "--listen", "127.0.0.1:0", "--provider", "cpu", "--model"]).arg(model);
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let log = child.stderr.take().ok_or("piped")?;
        let mut lines = BufReader::new(log).lines();
        let (mut address, mut seen) = (None, String::new());
        for line in lines.by_ref() {
            let line = line?;
            if let Some((_, listening)) = line.rsplit_once("address=") {
                address = Some(listening.trim().to_owned());
            }
            if line.trim_end().ends_with("ready") {
                break;
            }
            seen.push_str(&line);
        }
        thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, address: address.ok_or(seen)? })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One kept-alive connection that asks for one picture.
struct Connection {
    stream: BufReader<TcpStream>,
    request: Vec<u8>,
}

impl Connection {
    fn open(address: &str, picture: &[u8]) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let head = format!(
            "POST /embed/image HTTP/1.1\r\nhost: {address}\r\ncontent-type: image/jpeg\r\ncontent-length: {}\r\n\r\n",
            picture.len()
        );
        Ok(Self { stream: BufReader::new(stream), request: [head.as_bytes(), picture].concat() })
    }

    fn ask(&mut self) -> Result<()> {
        self.stream.get_mut().write_all(&self.request)?;
        let (mut line, mut length) = (String::new(), None);
        self.stream.read_line(&mut line)?;
        if !line.starts_with("HTTP/1.1 200") {
            return Err(format!("the server answered {line:?}").into());
        }
        while line != "\r\n" {
            line.clear();
            self.stream.read_line(&mut line)?;
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = Some(value.trim().parse()?);
            }
        }
        let mut body = vec![0; length.ok_or("an answer without a length")?];
        self.stream.read_exact(&mut body)?;
        black_box(body);
        Ok(())
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
