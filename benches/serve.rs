//! The speed floor: what the service does with the hardware, against what ONNX Runtime alone does with it.
//!
//! Two measurements, both printed with their command:
//!
//! 1. Images per second at f32 with a ViT-B/32-sized model and 640x480 JPEGs at 32 connections (closed loop), as a ratio to
//!    bare `Session::run` at its best batch size. Rounds of the two alternate, so that a noisy machine hits both; medians.
//! 2. CPU time per request outside decode, resize and `run`, with the small fixture model at one connection, from the
//!    threads' own CPU clocks.
//!
//! The model is made here, with seeded random weights (605 MB under `target/`); nothing is downloaded.
//!
//! usage: make bench [ARGS="-- --seconds 10 --rounds 3 --connections 32"]
#![expect(clippy::print_stdout, reason = "a program that people run: it prints, and stops where it cannot go on")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Parser;
use clipserve::{config::Precision, export, model::clip_config::ClipConfig};
use ort::{
    ep,
    session::{Session, builder::GraphOptimizationLevel},
    value::TensorRef,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The batch sizes that bare ONNX Runtime is tried with.
const BATCHES: [usize; 5] = [1, 2, 4, 8, 16];

/// The picture of the throughput measurement.
const PICTURE: &str = "tests/fixtures/images/photo_640x480.jpg";

#[derive(Parser)]
struct Args {
    /// Seconds of each measurement of each round.
    #[arg(long, default_value_t = 8.0)]
    seconds: f64,
    /// Rounds, each with bare sessions and the service.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Connections to the service.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// `section.key=value` for the service.
    #[arg(long)]
    set: Vec<String>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let threads = thread::available_parallelism()?.get();
    println!("machine: {}, {threads} cores", cpu_name());
    let model = synthetic_model(root)?;
    throughput(&args, root, &model, threads)?;
    overhead(root)
}

/// A ViT-B/32-sized model, made once and kept under `target/`.
fn synthetic_model(root: &Path) -> Result<PathBuf> {
    let model = root.join("target/bench/vit-b-32");
    if !model.join("onnx/text_model.onnx").is_file() {
        println!("making a ViT-B/32-sized model with random weights in {}", model.display());
        let started = Instant::now();
        export::write_synthetic_model(
            &ClipConfig::default(),
            Precision::F32,
            0,
            &root.join("tests/fixtures/tiny-clip"),
            &model,
        )?;
        println!("made in {:.1} s", started.elapsed().as_secs_f64());
    }
    Ok(model)
}

fn throughput(args: &Args, root: &Path, model: &Path, threads: usize) -> Result<()> {
    let picture = fs::read(root.join(PICTURE))?;
    let mut bare = BTreeMap::<usize, Vec<f64>>::new();
    let mut served = Vec::new();
    for round in 1..=args.rounds {
        let mut session = bare_session(root, &model.join("onnx/vision_model.onnx"), threads)?;
        for batch in BATCHES {
            let rate = bare_rate(&mut session, batch, args.seconds / BATCHES.len() as f64)?;
            bare.entry(batch).or_default().push(rate);
        }
        drop(session);
        let server = Server::start(root, model, &args.set)?;
        served.push(closed_loop(&server, &picture, args.connections, args.seconds)?);
        println!("round {round}: bare {:?}, served {:.1} images/s", last_of_each(&bare), served[served.len() - 1]);
    }
    println!("\n| what | images/s (median of {}) |\n|---|---|", args.rounds);
    let mut best = (0, 0.0);
    for (batch, rates) in &mut bare {
        let rate = median(rates);
        println!("| bare Session::run, f32, batch {batch} | {rate:.1} |");
        if rate > best.1 {
            best = (*batch, rate);
        }
    }
    let served = median(&mut served);
    println!("| served, f32, {} connections, 640x480 JPEG | {served:.1} |", args.connections);
    println!("\nserved / bare at its best batch ({}): {:.3} (floor: 0.9)\n", best.0, served / best.1);
    Ok(())
}

/// A session with the options of the service.
fn bare_session(root: &Path, graph: &Path, threads: usize) -> Result<Session> {
    static ENVIRONMENT: std::sync::OnceLock<ort::environment::Environment> = std::sync::OnceLock::new();
    if ENVIRONMENT.get().is_none() {
        let library = fs::read_dir(root.join(".onnxruntime"))?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.to_string_lossy().contains("libonnxruntime.so"))
            .ok_or("no ONNX Runtime in .onnxruntime: run `make build`")?;
        let _ = ENVIRONMENT.set(ort::init_from(library)?.with_telemetry(false).build()?);
    }
    let environment = ENVIRONMENT.get().ok_or("no environment")?;
    let open = || -> ort::Result<Session> {
        Session::builder(environment)?
            .with_execution_providers([ep::CPU::default().with_arena_allocator(false).build()])?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(threads)?
            .with_intra_op_spinning(false)?
            .with_memory_pattern(false)?
            .commit_from_file(graph)
    };
    Ok(open()?)
}

/// Images per second of nothing but `run`.
fn bare_rate(session: &mut Session, batch: usize, seconds: f64) -> Result<f64> {
    let pixels: Vec<u8> = (0..batch * 224 * 224 * 3).map(|i| (i * 31 % 251) as u8).collect();
    let mut run = || -> Result<()> {
        let input = TensorRef::from_array_view(([batch, 224, 224, 3], pixels.as_slice()))?;
        session.run(ort::inputs!["pixel_values" => input])?;
        Ok(())
    };
    run()?;
    let (started, mut images) = (Instant::now(), 0);
    while started.elapsed().as_secs_f64() < seconds {
        run()?;
        images += batch;
    }
    Ok(images as f64 / started.elapsed().as_secs_f64())
}

/// Images per second of `connections` clients that each send the next picture when the last one is answered.
fn closed_loop(server: &Server, picture: &[u8], connections: usize, seconds: f64) -> Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..connections {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            let (url, picture) = (server.url("/embed/image"), bytes::Bytes::copy_from_slice(picture));
            clients.spawn(async move {
                let client = reqwest::Client::new();
                while !stop.load(Ordering::Relaxed) {
                    let request = client.post(&url).header("content-type", "image/jpeg").body(picture.clone());
                    let answer = request.send().await.and_then(reqwest::Response::error_for_status);
                    match answer {
                        Ok(answer) => drop(answer.bytes().await),
                        Err(error) => return Err(error.to_string()),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            });
        }
        // One second to reach the steady state, then the window.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (before, started) = (done.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        let rate = (done.load(Ordering::Relaxed) - before) as f64 / started.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        while let Some(client) = clients.join_next().await {
            client??;
        }
        Ok(rate)
    })
}

/// CPU per request outside decode, resize and `run`: what the I/O threads take, and what the preprocess and session threads
/// take beyond the stage times that the service itself measures.
fn overhead(root: &Path) -> Result<()> {
    const REQUESTS: usize = 2000;
    let set = ["engine.intra_threads=1", "preprocess.threads=1"].map(str::to_owned);
    let server = Server::start(root, &root.join("tests/fixtures/tiny-clip"), &set)?;
    let picture = fs::read(root.join(PICTURE))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = reqwest::Client::new();
        let ask = async |n: usize| -> Result<()> {
            for _ in 0..n {
                let request =
                    client.post(server.url("/embed/image")).header("content-type", "image/jpeg").body(picture.clone());
                request.send().await?.error_for_status()?.bytes().await?;
            }
            Ok(())
        };
        ask(200).await?;
        let (cpu, stages) = (server.cpu_by_thread()?, server.stages(&client).await?);
        ask(REQUESTS).await?;
        let (cpu_after, stages_after) = (server.cpu_by_thread()?, server.stages(&client).await?);
        let per_request = |seconds: f64| seconds / REQUESTS as f64 * 1e3;
        let of = |group: &str| per_request(cpu_after.get(group).unwrap_or(&0.0) - cpu.get(group).unwrap_or(&0.0));
        let stage = |name: &str| per_request(stages_after[name] - stages[name]);
        let (decode, resize, run) = (stage("decode"), stage("resize"), stage("image_inference"));
        let (io, preprocess, session) = (of("io"), of("preprocess"), of("session"));
        let own = io + (preprocess - decode - resize).max(0.0) + (session - run).max(0.0);
        println!("| CPU per request, 640x480 JPEG, one connection | ms |\n|---|---|");
        println!("| decode | {decode:.3} |\n| resize and crop | {resize:.3} |\n| run (fixture model) | {run:.3} |");
        println!("| I/O threads | {io:.3} |");
        println!("| preprocess thread beyond decode and resize | {:.3} |", preprocess - decode - resize);
        println!("| session thread beyond run | {:.3} |", session - run);
        println!("\nown overhead: {own:.3} ms of CPU per request (bar: 0.3)");
        Ok(())
    })
}

/// The release binary, serving.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(root: &Path, model: &Path, set: &[String]) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clipserve"));
        command.current_dir(root).args(["serve", "--listen", "127.0.0.1:0", "--provider", "cpu", "--model"]).arg(model);
        set.iter().for_each(|pair| {
            command.args(["--set", pair]);
        });
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        let log = child.stderr.take().ok_or("piped")?;
        let mut lines = BufReader::new(log).lines();
        let mut address = None;
        let mut seen = String::new();
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

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// CPU seconds so far of the I/O, preprocess and session threads.
    fn cpu_by_thread(&self) -> Result<BTreeMap<&'static str, f64>> {
        let mut groups = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            let task = task?.path();
            let name = fs::read_to_string(task.join("comm"))?;
            let group = match name.trim() {
                name if name.starts_with("preprocess") => "preprocess",
                name if name.starts_with("vision") || name.starts_with("text") => "session",
                _ => "io",
            };
            // The first field is the time on a CPU in nanoseconds.
            let statistics = fs::read_to_string(task.join("schedstat"))?;
            let nanoseconds: f64 = statistics.split_whitespace().next().ok_or("schedstat is empty")?.parse()?;
            *groups.entry(group).or_insert(0.0) += nanoseconds / 1e9;
        }
        Ok(groups)
    }

    /// Seconds so far in each stage.
    async fn stages(&self, client: &reqwest::Client) -> Result<BTreeMap<String, f64>> {
        let text = client.get(self.url("/metrics")).send().await?.text().await?;
        let stage = |line: &str| {
            let (name, value) =
                line.strip_prefix("clipserve_stage_duration_seconds_sum{stage=\"")?.split_once("\"} ")?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Ok(text.lines().filter_map(stage).collect())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn last_of_each(rates: &BTreeMap<usize, Vec<f64>>) -> Vec<String> {
    rates.iter().map(|(batch, rates)| format!("{batch}: {:.1}", rates[rates.len() - 1])).collect()
}

fn cpu_name() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    line.trim_start_matches([' ', '\t', ':']).to_owned()
}
