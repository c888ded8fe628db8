//! ONNX Runtime alone: images per second of nothing but `Session::run`, on the graph that clipserve serves.
//!
//! Owns bare sessions with the options of the service, so that the two differ in everything but the arithmetic. A process can
//! have one environment of ONNX Runtime; it is made here.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    thread,
    time::Instant,
};

use clap::ValueEnum;
use clipserve::{config::Precision, export};
use ort::{
    environment::Environment,
    ep,
    memory::DeviceType,
    session::{Session, builder::GraphOptimizationLevel},
    value::TensorRef,
};

use crate::{Result, figures::median, services::Places};

/// The batch sizes that are tried.
const BATCHES: [usize; 5] = [1, 2, 4, 8, 16];

/// The name under which ONNX Runtime's OpenVINO plugin is registered and offers its devices.
const OPENVINO: &str = "OpenVINOExecutionProvider";

/// One precision's session, and what it has reached.
pub(crate) struct Bare {
    session: Session,
    rates: BTreeMap<usize, Vec<f64>>,
}

impl Bare {
    /// The vision graph of the checkpoint in `precision`.
    ///
    /// # Errors
    /// When this build has no such precision, or the machine not what it needs.
    pub(crate) fn open(places: &Places, precision: &str) -> Result<Self> {
        let known = Precision::from_str(precision, false).map_err(|_| "this build has no such precision")?;
        let model = export::export_cached(&places.checkpoint(), &places.cache(), known)?;
        let graph = model.vision.ok_or("the checkpoint has no vision tower")?;
        let session = session(&places.root.join(".onnxruntime"), &graph, precision == "bf16")?;
        Ok(Self { session, rates: BTreeMap::new() })
    }

    /// One round: every batch size for its share of `seconds`.
    pub(crate) fn round(&mut self, seconds: f64) -> Result<()> {
        for batch in BATCHES {
            let rate = rate(&mut self.session, batch, seconds / BATCHES.len() as f64)?;
            self.rates.entry(batch).or_default().push(rate);
        }
        Ok(())
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

/// A session as `src/engine` makes it.
fn session(libraries: &Path, graph: &Path, openvino: bool) -> Result<Session> {
    let environment = environment(libraries)?;
    let threads = thread::available_parallelism()?.get();
    let open = || -> ort::Result<Session> {
        let builder = Session::builder(environment)?;
        let builder = if openvino {
            let options =
                format!(r#"{{"CPU":{{"INFERENCE_PRECISION_HINT":"bf16","INFERENCE_NUM_THREADS":"{threads}"}}}}"#);
            let options = [(format!("{OPENVINO}.load_config"), options)];
            let devices = environment.devices().filter(|device| {
                device.ep().is_ok_and(|name| name == OPENVINO) && device.hardware_device().ty() == DeviceType::CPU
            });
            builder.with_devices(devices, Some(&options))?.with_disable_cpu_fallback()?
        } else {
            // Explicit: once a plugin is registered, sessions that do not name a device run on the plugin's.
            let devices =
                environment.devices().filter(|device| device.ep().is_ok_and(|name| name == "CPUExecutionProvider"));
            builder
                .with_execution_providers([ep::CPU::default().with_arena_allocator(false).build()])?
                .with_devices(devices, None)?
        };
        builder
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(threads)?
            .with_intra_op_spinning(false)?
            .with_memory_pattern(false)?
            .commit_from_file(graph)
    };
    Ok(open()?)
}

/// The environment, with the OpenVINO plugin where the library's folder has it.
fn environment(libraries: &Path) -> Result<&'static Environment> {
    static ENVIRONMENT: OnceLock<Environment> = OnceLock::new();
    if let Some(environment) = ENVIRONMENT.get() {
        return Ok(environment);
    }
    let library = find(libraries, "libonnxruntime.so").ok_or("no ONNX Runtime in .onnxruntime: run `make build`")?;
    let environment = ort::init_from(library)?.with_telemetry(false).build()?;
    if let Some(plugin) = find(libraries, "libonnxruntime_providers_openvino_plugin.so") {
        environment.register_ep_library(OPENVINO, plugin)?;
    }
    Ok(ENVIRONMENT.get_or_init(|| environment))
}

/// The file in `folder`, or in a folder of it, whose name begins so.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut folders = Vec::new();
    for path in fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())) {
        if path.is_dir() {
            folders.push(path);
        } else if path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name)) {
            return Some(path);
        }
    }
    folders.iter().find_map(|folder| find(folder, name))
}

/// Images per second of nothing but `run`.
fn rate(session: &mut Session, batch: usize, seconds: f64) -> Result<f64> {
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
