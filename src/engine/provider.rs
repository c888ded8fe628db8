//! Which execution provider runs, in which arithmetic, and how a session is told.
//!
//! Owns the decision from `engine.provider` and `engine.precision`, and every option of every provider. Does not own the
//! library (`environment`) or where OpenVINO's files are (`openvino`).
//!
//! Invariants: a provider or a precision that was asked for by name is the one that runs, or the engine does not start; only
//! `auto` falls back, and says to what; a session on the CPU provider stays there, also in a process that has loaded a plugin.

use ort::{
    ep::{self, ArbitrarilyConfigurableExecutionProvider as _},
    session::builder::{GraphOptimizationLevel, SessionBuilder},
};

use super::{
    cpu,
    environment::{self, Runtime, one_line},
    error::EngineError,
    openvino::{self, Arithmetic, OpenVino},
    row_operators::{announce, row_operators},
    session_options::SessionOptions,
    split::Tower,
    tensorrt::{Largest, Profile},
};
use crate::{
    config::{EngineConfig, PrecisionChoice, Provider, TensorRtConfig},
    encoder::BatchSizes,
    model::graph_info::GraphInfo,
};

/// What runs, after `auto` has been decided.
#[derive(Clone, Debug)]
pub(super) enum RunningProvider {
    /// ONNX Runtime's own CPU kernels.
    Cpu,
    /// NVIDIA CUDA.
    Cuda { device_id: i32 },
    /// NVIDIA TensorRT in f16, and CUDA for what it does not take.
    TensorRt { device_id: i32, config: TensorRtConfig },
    /// Intel's OpenVINO on the CPU.
    OpenVino { form: OpenVino, arithmetic: Arithmetic },
}

impl RunningProvider {
    /// As the configuration and `/info` spell it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda { .. } => "cuda",
            Self::TensorRt { .. } => "tensorrt",
            Self::OpenVino { .. } => "openvino",
        }
    }

    /// Whether it computes in bf16, whatever the graphs hold.
    pub(super) fn is_bf16(&self) -> bool {
        matches!(self, Self::OpenVino { arithmetic: Arithmetic::Bf16, .. })
    }

    /// What measures best (`docs/performance.md`) of pictures of so many positions each: what fills the caches are rows. Not measured on
    /// GPUs, which are busy only where a CPU's caches end.
    pub(super) fn batch_sizes(&self, positions: usize) -> BatchSizes {
        let of_rows = |rows: usize| BatchSizes { images: (rows / positions.max(1)).max(1), texts: 64 };
        match self {
            Self::Cpu => of_rows(CPU_ROWS),
            Self::OpenVino { arithmetic: Arithmetic::Bf16, .. } if cpu::has_amx() => of_rows(AMX_ROWS),
            Self::OpenVino { .. } => of_rows(OPENVINO_ROWS),
            Self::Cuda { .. } | Self::TensorRt { .. } => BatchSizes { images: 64, texts: 256 },
        }
    }

    /// The ranges to plan for, where the provider plans and the graph says enough.
    pub(super) fn profile(&self, tower: Tower, info: &GraphInfo) -> Option<Profile> {
        let Self::TensorRt { config, .. } = self else { return None };
        let automatic = self.batch_sizes(USUAL_POSITIONS);
        let batch = match tower {
            Tower::Vision => config.max_images.unwrap_or(automatic.images),
            Tower::Text => config.max_texts.unwrap_or(automatic.texts),
        };
        Profile::of(&info.inputs, Largest { batch, sequence: info.context_length.unwrap_or(1) })
    }

    /// Whether its sessions compute with copies of the weights, and no longer with the files that they were loaded from.
    pub(super) fn copies_weights(&self) -> bool {
        matches!(self, Self::OpenVino { .. })
    }

    /// Whether a batch size that was never run costs its first batch time: GPUs choose their kernels then.
    pub(super) fn warms_each_batch_size(&self) -> bool {
        matches!(self, Self::Cuda { .. } | Self::TensorRt { .. })
    }
}

/// Loads the library that the configuration needs and settles what runs.
pub(super) fn settle(config: &EngineConfig) -> Result<(&'static Runtime, RunningProvider), EngineError> {
    let arithmetic = match config.precision {
        PrecisionChoice::Bf16 => Arithmetic::Bf16,
        PrecisionChoice::Auto if cpu::gains_from_bf16() => Arithmetic::Bf16,
        PrecisionChoice::Int8 => Arithmetic::Int8,
        PrecisionChoice::Auto | PrecisionChoice::F32 | PrecisionChoice::F16 => Arithmetic::F32,
    };
    let required = config.provider == Provider::OpenVino || config.precision == PrecisionChoice::Bf16;
    if required {
        return openvino(config, arithmetic).map_err(|reason| match (config.provider, reason) {
            (_, Unusable::Library(error)) => error,
            (Provider::OpenVino, Unusable::Reason(reason)) => EngineError::Provider { provider: "openvino", reason },
            (_, Unusable::Reason(reason)) => EngineError::Precision { precision: "bf16", reason },
        });
    }
    if config.provider == Provider::Auto {
        return automatic(config, arithmetic);
    }
    let runtime = environment::load(config.library.as_deref(), config.executable_dir.as_deref())?;
    let provider = match config.provider {
        Provider::Cuda => RunningProvider::Cuda { device_id: config.device_id },
        Provider::TensorRt => {
            RunningProvider::TensorRt { device_id: config.device_id, config: config.tensorrt.clone() }
        }
        Provider::Cpu | Provider::OpenVino | Provider::Auto => RunningProvider::Cpu,
    };
    match try_provider(runtime, &provider) {
        Ok(()) => Ok((runtime, provider)),
        Err(reason) => Err(EngineError::Provider { provider: provider.name(), reason }),
    }
}

/// `auto`: CUDA where it starts, else OpenVINO where bf16 is wanted, else the CPU; what does not start, the log says.
fn automatic(
    config: &EngineConfig,
    arithmetic: Arithmetic,
) -> Result<(&'static Runtime, RunningProvider), EngineError> {
    let openvino = || match openvino(config, arithmetic) {
        Ok(running) => {
            tracing::info!("engine.precision = \"auto\": the CPU gains from bf16, OpenVINO is used");
            Some(running)
        }
        Err(unusable) => {
            let reason = match unusable {
                Unusable::Library(error) => error.to_string(),
                Unusable::Reason(reason) => reason,
            };
            tracing::info!(reason, "engine.precision = \"auto\": OpenVINO does not start, f32 is used");
            None
        }
    };
    let wants_openvino = arithmetic == Arithmetic::Bf16;
    if config.precision == PrecisionChoice::Auto && !wants_openvino && cpu::computes_in_bf16() {
        tracing::info!("engine.precision = \"auto\": this CPU is slower in bf16 than in f32, f32 is used");
    }
    // Before any library is loaded, of which a process can have one: OpenVINO may bring another.
    let has_cuda = openvino::is_cuda_build(config);
    if wants_openvino
        && !has_cuda
        && let Some(running) = openvino()
    {
        return Ok(running);
    }
    let runtime = match environment::loaded() {
        Some(runtime) => runtime,
        None => environment::load(config.library.as_deref(), config.executable_dir.as_deref())?,
    };
    // CUDA has no product of unsigned and signed 8-bit integers, which is what int8 graphs are made of.
    if config.precision != PrecisionChoice::Int8 {
        let cuda = RunningProvider::Cuda { device_id: config.device_id };
        match try_provider(runtime, &cuda) {
            Ok(()) => return Ok((runtime, cuda)),
            Err(reason) => {
                tracing::info!(reason, "engine.provider = \"auto\": CUDA does not start, the CPU is used");
            }
        }
    }
    let running = if wants_openvino && has_cuda { openvino() } else { None };
    Ok(running.unwrap_or((runtime, RunningProvider::Cpu)))
}

/// Whether sessions can be made with `provider`: registers it with a session builder, loads no model.
fn try_provider(runtime: &Runtime, provider: &RunningProvider) -> Result<(), String> {
    if let RunningProvider::OpenVino { form: OpenVino::Plugin(plugin), .. } = provider {
        runtime.register(plugin)?;
        if openvino::cpu_devices(runtime.environment()).next().is_none() {
            return Err("the OpenVINO plugin finds no CPU that it takes".to_owned());
        }
    }
    builder(runtime, provider, &SessionOptions::PROBE).map(|_| ()).map_err(|error| one_line(error.message()))
}

/// Why OpenVINO does not run.
enum Unusable {
    /// The ONNX Runtime library itself.
    Library(EngineError),
    /// OpenVINO.
    Reason(String),
}

fn openvino(config: &EngineConfig, arithmetic: Arithmetic) -> Result<(&'static Runtime, RunningProvider), Unusable> {
    if arithmetic == Arithmetic::Bf16 && !cpu::computes_in_bf16() {
        let reason = format!(
            "{} has neither AMX-BF16 nor AVX512-BF16 instructions; use f32 or int8",
            cpu::name().unwrap_or_else(|| "this CPU".to_owned())
        );
        return Err(Unusable::Reason(reason));
    }
    let (library, form) = openvino::find(config).map_err(|found| match found {
        openvino::Missing::Library(error) => Unusable::Library(error),
        openvino::Missing::OpenVino(reason) => Unusable::Reason(reason),
    })?;
    let runtime = environment::load(Some(&library), None).map_err(Unusable::Library)?;
    let provider = RunningProvider::OpenVino { form, arithmetic };
    try_provider(runtime, &provider).map_err(Unusable::Reason)?;
    Ok((runtime, provider))
}

/// A session builder with the options of `provider`.
///
/// The CPU provider's arena is on where memory is kept: a batch's tensors are tens of megabytes, which the system would be asked for
/// and give back, page by page, in every run (a third of an int8 run on a virtual machine: `docs/performance.md`). Memory pattern off: it
/// assumes one input shape. The intra-op threads spin from one operator to the next, [`SPIN_MICROSECONDS`] at most: to be woken
/// takes them as long as a small operator does, and longer would burn the cores that decode pictures. Thread count explicit: ONNX Runtime's own default ignores the container's quota and pins.
pub(super) fn builder(
    runtime: &Runtime,
    provider: &RunningProvider,
    options: &SessionOptions,
) -> ort::Result<SessionBuilder> {
    let environment = runtime.environment();
    let optimization = match provider {
        // OpenVINO optimises by itself, and would be handed weights that ONNX Runtime has made anew in memory.
        RunningProvider::OpenVino { .. } => GraphOptimizationLevel::Disable,
        RunningProvider::Cpu | RunningProvider::Cuda { .. } | RunningProvider::TensorRt { .. } => {
            GraphOptimizationLevel::All
        }
    };
    let builder = ort::session::Session::builder(environment)?
        .with_optimization_level(optimization)?
        .with_intra_threads(options.intra_threads)?
        .with_inter_threads(1)?
        .with_intra_op_spinning(runtime.bounds_spinning())?
        .with_config_entry(SPIN, SPIN_MICROSECONDS)?
        .with_memory_pattern(false)?;
    let builder = if options.exact_integers { builder.with_precise_qmm()? } else { builder };
    let cpu = ep::CPU::default().with_arena_allocator(options.keeps_memory).build();
    match provider {
        RunningProvider::Cpu => {
            let builder = builder.with_execution_providers([cpu])?.with_operators(row_operators()?)?;
            // Once a plugin is registered, every session of the process that names no device goes to it, in its own
            // precision, although the CPU provider is listed.
            let own = environment.devices().filter(|device| device.ep().is_ok_and(|name| name == CPU_PROVIDER));
            let builder = if runtime.has_plugin() { builder.with_devices(own, None)? } else { builder };
            announce(&builder)?;
            Ok(builder)
        }
        // `error_on_failure`, because by default ONNX Runtime falls back to the CPU without a word.
        RunningProvider::Cuda { device_id } => {
            Ok(builder.with_execution_providers([cuda(*device_id).build().error_on_failure(), cpu])?)
        }
        RunningProvider::TensorRt { device_id, config } => {
            let mut tensorrt = ep::TensorRT::default().with_device_id(*device_id).with_fp16(true);
            if let Some(Profile { least, best, most }) = &options.profile {
                tensorrt = tensorrt.with_profile_min_shapes(least);
                tensorrt = tensorrt.with_profile_opt_shapes(best).with_profile_max_shapes(most);
            }
            if let Some(cache) = &config.cache {
                // Without it every start builds its engines anew, which takes minutes.
                let folder = cache.display();
                tensorrt = tensorrt.with_engine_cache(true).with_engine_cache_path(folder.to_string());
                tensorrt = tensorrt.with_timing_cache(true).with_timing_cache_path(folder.to_string());
            }
            let providers = [tensorrt.build().error_on_failure(), cuda(*device_id).build().error_on_failure(), cpu];
            Ok(builder.with_execution_providers(providers)?)
        }
        RunningProvider::OpenVino { form, arithmetic } => {
            let load_config = openvino::options(*arithmetic, options);
            let builder = match form {
                OpenVino::Plugin(_) => {
                    let devices = openvino::cpu_devices(environment);
                    builder.with_devices(devices, Some(&[(openvino::PLUGIN_OPTIONS.to_owned(), load_config)]))?
                }
                OpenVino::BuiltIn => {
                    let provider = ep::OpenVINO::default().with_device_type("CPU");
                    let provider = provider.with_arbitrary_config(openvino::OPTIONS, load_config);
                    builder.with_execution_providers([provider.build().error_on_failure()])?
                }
            };
            // A node that OpenVINO does not take would run in f32 on the CPU provider, silently.
            Ok(builder.with_disable_cpu_fallback()?)
        }
    }
}

/// Rows of a run on ONNX Runtime's own kernels: larger ones leave the caches.
const CPU_ROWS: usize = 300;

/// Rows of a run by OpenVINO.
const OPENVINO_ROWS: usize = 800;

/// The same with AMX, where 800 rows take longer than 750 or 850 do.
const AMX_ROWS: usize = 790;

/// Positions of a picture of a ViT-B/32: of models that do not say how many.
pub(super) const USUAL_POSITIONS: usize = 50;

const CPU_PROVIDER: &str = "CPUExecutionProvider";

/// `kOrtSessionOptionsConfigIntraOpSpinDurationUs` of ONNX Runtime.
const SPIN: &str = "session.intra_op.spin_duration_us";

/// What measures best (`docs/performance.md`).
const SPIN_MICROSECONDS: &str = "50";

fn cuda(device_id: i32) -> ep::CUDA {
    ep::CUDA::default()
        .with_device_id(device_id)
        .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
        // ONNX Runtime's default rounds the inputs of f32 products to TF32's ten bits.
        .with_tf32(false)
        // The default, EXHAUSTIVE, tries every algorithm again for each new batch size: hundreds of milliseconds against a
        // few, and the patch embedding is the only convolution there is.
        .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
}
