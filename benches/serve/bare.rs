//! ONNX Runtime alone: items per second of nothing but `Session::run`, on a graph that clipserve serves.
//!
//! Owns bare sessions with the options of the service (`src/engine/provider.rs`), so that the two differ in everything but the
//! arithmetic. Each is a process of its own, this program again: a process can load one ONNX Runtime, and OpenVINO comes with
//! another one on some CPUs. It takes a line on its input, answers a line, and rests in between: `rate BATCH SECONDS` with the items
//! per second, `run` with the seconds of one run of one item, `embed COUNT` with embeddings in JSON. What it runs on, `inputs` makes up.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use clipserve::{
    engine, export,
    model::{Digests, graph_info::GraphInfo},
};
use ort::{
    ep::{self, ArbitrarilyConfigurableExecutionProvider as _},
    memory::DeviceType,
    session::{Session, builder::GraphOptimizationLevel},
};

use crate::{Result, arithmetic::Arithmetic, figures::median, inputs::Inputs, services::Places};

/// The batch sizes that are tried: up to the largest that `auto` takes on a CPU, all of those among them.
const BATCHES: [usize; 8] = [1, 2, 3, 4, 6, 8, 15, 16];

/// `kOrtSessionOptionsConfigIntraOpSpinDurationUs` of ONNX Runtime.
const SPIN: &str = "session.intra_op.spin_duration_us";

/// For so long threads wait awake from one operator to the next: the service's own.
const SPIN_MICROSECONDS: &str = "50";

/// The name under which ONNX Runtime offers OpenVINO.
const OPENVINO: &str = "OpenVINOExecutionProvider";

/// A process with one session, and what it has reached.
pub(crate) struct Bare {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    rates: BTreeMap<usize, Vec<f64>>,
}

impl Bare {
    /// The vision graph of the checkpoint in `arithmetic`.
    ///
    /// # Errors
    /// When the machine has not what it needs.
    pub(crate) fn open(places: &Places, arithmetic: Arithmetic) -> Result<Self> {
        let model =
            export::export_cached(&places.checkpoint(), &places.cache(), arithmetic.graphs(), &Digests::default())?;
        Self::start(&model.vision.ok_or("the checkpoint has no vision tower")?, arithmetic, None)
    }

    /// This graph of either tower, with another activation group than its own where one is given.
    ///
    /// # Errors
    /// When the machine has not what it needs, or the graph does not run.
    pub(crate) fn start(graph: &Path, arithmetic: Arithmetic, activation_group: Option<usize>) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bare", arithmetic.name()]).arg(graph);
        command.args(activation_group.map(|group| group.to_string()));
        command.envs(engine::VARIABLES).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let input = child.stdin.take().ok_or("the input is piped")?;
        let output = BufReader::new(child.stdout.take().ok_or("the output is piped")?);
        let mut bare = Self { child, input, output, rates: BTreeMap::new() };
        bare.rate(1, 0.0).map_err(|_| format!("bare ONNX Runtime does not run in {}: see above", arithmetic.name()))?;
        Ok(bare)
    }

    /// One round around what it is compared with: every batch size for its share of `seconds` before, and again after. A round's
    /// rate is the mean of both, so that a machine that drifts meanwhile hits both sides alike.
    pub(crate) fn around<T>(&mut self, seconds: f64, compared: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = self.pass(seconds)?;
        let result = compared()?;
        let after = self.pass(seconds)?;
        for (batch, (before, after)) in BATCHES.into_iter().zip(before.into_iter().zip(after)) {
            self.rates.entry(batch).or_default().push((before + after) / 2.0);
        }
        Ok(result)
    }

    /// Images per second of each of [`BATCHES`].
    fn pass(&mut self, seconds: f64) -> Result<Vec<f64>> {
        BATCHES.into_iter().map(|batch| self.rate(batch, seconds / BATCHES.len() as f64)).collect()
    }

    /// Items per second in batches of `batch`.
    pub(crate) fn rate(&mut self, batch: usize, seconds: f64) -> Result<f64> {
        Ok(self.ask(&format!("rate {batch} {seconds}"))?.trim().parse()?)
    }

    /// How long one run of one item takes.
    pub(crate) fn run(&mut self) -> Result<Duration> {
        Ok(Duration::from_secs_f64(self.ask("run")?.trim().parse()?))
    }

    /// The embeddings of the first `count` inputs, in one batch.
    pub(crate) fn embeddings(&mut self, count: usize) -> Result<Vec<Vec<f64>>> {
        Ok(serde_json::from_str(&self.ask(&format!("embed {count}"))?)?)
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.input, "{line}")?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        Ok(answer)
    }

    /// Median images per second of each batch size.
    pub(crate) fn rates(&self) -> impl Iterator<Item = (usize, f64)> {
        self.rates.iter().map(|(batch, rates)| (*batch, median(rates)))
    }

    /// Images per second of this batch size in each round.
    pub(crate) fn samples(&self, batch: usize) -> &[f64] {
        self.rates.get(&batch).map_or(&[], Vec::as_slice)
    }

    /// The best batch size and its rate.
    pub(crate) fn best(&self) -> (usize, f64) {
        self.rates().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default()
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process's own `main`.
pub(crate) fn serve(
    places: &Places,
    arithmetic: Arithmetic,
    graph: &Path,
    activation_group: Option<usize>,
) -> Result<()> {
    let group = match (arithmetic, activation_group) {
        (Arithmetic::Int8OpenVino, None) => GraphInfo::read(graph)?.ok_or("the graph is not ours")?.activation_group,
        (_, group) => group.unwrap_or(0),
    };
    let mut session = session(&places.root.join(".onnxruntime"), graph, arithmetic, group)?;
    let inputs = Inputs::of(&session)?;
    for line in std::io::stdin().lines() {
        let line = line?;
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["rate", batch, seconds] => println!("{}", rate(&mut session, &inputs, batch.parse()?, seconds.parse()?)?),
            ["run"] => println!("{}", run(&mut session, &inputs)?),
            ["embed", count] => println!("{}", embed(&mut session, &inputs, count.parse()?)?),
            _ => return Err(format!("not understood: {line}").into()),
        }
    }
    Ok(())
}

/// Which ONNX Runtime, and how it comes to OpenVINO.
enum Library {
    /// The CPU build on its own.
    Own(PathBuf),
    /// The CPU build with OpenVINO's plugin.
    Plugin(PathBuf, PathBuf),
    /// OpenVINO's own build.
    BuiltIn(PathBuf),
}

/// As the service chooses (`src/engine/openvino.rs`): the plugin on Intel's CPUs, OpenVINO's own build on others.
fn library(folder: &Path, arithmetic: Arithmetic) -> Result<Library> {
    let find = |folder: &Path| {
        let files = fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
        let is_library = |path: &PathBuf| path.to_string_lossy().contains("/libonnxruntime.so");
        files.filter(is_library).max()
    };
    let own = find(folder).ok_or("no ONNX Runtime in .onnxruntime: run `make build`")?;
    if !arithmetic.is_openvino() {
        return Ok(Library::Own(own));
    }
    if fs::read_to_string("/proc/cpuinfo")?.contains("GenuineIntel") {
        let plugin = folder.join("openvino/plugin/libonnxruntime_providers_openvino_plugin.so");
        return Ok(Library::Plugin(own, plugin));
    }
    let built_in = find(&folder.join("openvino/runtime")).ok_or("no OpenVINO: run `make fetch-openvino`")?;
    Ok(Library::BuiltIn(built_in))
}

fn session(libraries: &Path, graph: &Path, arithmetic: Arithmetic, group: usize) -> Result<Session> {
    let library = library(libraries, arithmetic)?;
    let (Library::Own(file) | Library::Plugin(file, _) | Library::BuiltIn(file)) = &library;
    let environment = ort::init_from(file)?.with_telemetry(false).build()?;
    if let Library::Plugin(_, plugin) = &library {
        environment.register_ep_library(OPENVINO, plugin)?;
    }
    let threads = thread::available_parallelism()?.get();
    let hint = if arithmetic == Arithmetic::Bf16 { "bf16" } else { "f32" };
    let options = serde_json::json!({"CPU": {
        "INFERENCE_PRECISION_HINT": hint,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": group.to_string(),
        "INFERENCE_NUM_THREADS": threads.to_string(),
        "NUM_STREAMS": "1",
        "ENABLE_CPU_PINNING": "NO",
        "CPU_RUNTIME_CACHE_CAPACITY": "256",
    }})
    .to_string();
    let open = || -> ort::Result<Session> {
        let builder = Session::builder(&environment)?
            .with_optimization_level(if arithmetic.is_openvino() {
                GraphOptimizationLevel::Disable
            } else {
                GraphOptimizationLevel::All
            })?
            .with_intra_threads(threads)?
            .with_inter_threads(1)?
            .with_intra_op_spinning(!matches!(library, Library::BuiltIn(_)))?
            .with_config_entry(SPIN, SPIN_MICROSECONDS)?
            .with_memory_pattern(false)?;
        let builder = if engine::sums_bytes_exactly() { builder } else { builder.with_precise_qmm()? };
        let mut builder = match &library {
            Library::Own(_) => {
                let cpu = ep::CPU::default().with_arena_allocator(true).build();
                builder.with_execution_providers([cpu])?.with_operators(engine::row_operators()?)?
            }
            Library::Plugin(..) => {
                let devices = environment.devices().filter(|device| {
                    device.ep().is_ok_and(|name| name == OPENVINO) && device.hardware_device().ty() == DeviceType::CPU
                });
                let options = [(format!("{OPENVINO}.load_config"), options)];
                builder.with_devices(devices.take(1), Some(&options))?.with_disable_cpu_fallback()?
            }
            Library::BuiltIn(_) => {
                let provider =
                    ep::OpenVINO::default().with_device_type("CPU").with_arbitrary_config("load_config", options);
                builder.with_execution_providers([provider.build().error_on_failure()])?.with_disable_cpu_fallback()?
            }
        };
        builder.commit_from_file(graph)
    };
    Ok(open()?)
}

/// Items per second of nothing but `run`.
fn rate(session: &mut Session, inputs: &Inputs, batch: usize, seconds: f64) -> Result<f64> {
    let (name, tensor) = inputs.tensor(batch)?;
    session.run(ort::inputs![name => tensor.view()])?;
    let (started, mut items) = (Instant::now(), 0);
    while started.elapsed().as_secs_f64() < seconds {
        session.run(ort::inputs![name => tensor.view()])?;
        items += batch;
    }
    Ok(items as f64 / started.elapsed().as_secs_f64())
}

/// Seconds of one `run` of one item.
fn run(session: &mut Session, inputs: &Inputs) -> Result<f64> {
    let (name, tensor) = inputs.tensor(1)?;
    let started = Instant::now();
    session.run(ort::inputs![name => tensor.view()])?;
    Ok(started.elapsed().as_secs_f64())
}

/// A JSON array of `count` embeddings.
fn embed(session: &mut Session, inputs: &Inputs, count: usize) -> Result<String> {
    let (name, tensor) = inputs.tensor(count)?;
    let outputs = session.run(ort::inputs![name => tensor.view()])?;
    let (_, values) = outputs[0].try_extract_tensor::<f32>()?;
    Ok(serde_json::to_string(&values.chunks_exact(values.len() / count).collect::<Vec<_>>())?)
}
