//! Everything that touches ONNX Runtime: the library, the environment, providers, sessions, and the two encoders.
//!
//! Owns the only use of the `ort` crate. Knows nothing of batching, preprocessing or HTTP: it is handed a graph file and
//! returns an [`crate::encoder::Encoder`].
//!
//! Invariants: an execution provider that was asked for by name is the one that runs, or the engine does not start; every
//! session is owned and driven by one thread (`Session::run` takes `&mut self`); an error is one line that names the thing.

mod environment;
mod graph;
mod outputs;
mod split;
mod text;
mod tower;
mod vision;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ort::{
    ep,
    session::{Session, builder::GraphOptimizationLevel},
};

pub use environment::Runtime;
pub use text::{TextEncoder, TokenInput};
pub use tower::{TowerEncoder, TowerInput};
pub use vision::{Normalization, PixelInput, VisionEncoder};

use graph::{EmbeddingSession, StopHandle};
use outputs::OutputsSession;
use split::Tower;
use tower::Outputs;

use crate::{
    config::{EngineConfig, Provider},
    model::Graphs,
};

/// `kOrtSessionOptionsModelExternalInitializersFileFolderPath` of ONNX Runtime.
const EXTERNAL_DATA_FOLDER: &str = "session.model_external_initializers_file_folder_path";

/// Why the engine cannot start, in one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No library anywhere.
    #[error("the ONNX Runtime library was not found (looked for libonnxruntime.so* in {}); set engine.library or ORT_DYLIB_PATH", .searched.join(", "))]
    LibraryNotFound {
        /// Where it was looked for.
        searched: Vec<String>,
    },
    /// There is a file, but it is not a library that can be used.
    #[error("ONNX Runtime library {path}: {reason}", path = .path.display())]
    Library {
        /// The file.
        path: PathBuf,
        /// Missing, not a library, or too old.
        reason: String,
    },
    /// An explicit provider that does not start.
    #[error("engine.provider = \"{provider}\" cannot start: {reason}")]
    Provider {
        /// The provider's name.
        provider: &'static str,
        /// What ONNX Runtime said.
        reason: String,
    },
    /// A graph file that is missing, corrupt, or cannot be run.
    #[error("{encoder} encoder {path}: {reason}", path = .path.display())]
    Graph {
        /// `vision` or `text`.
        encoder: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The provider that really runs, after `auto` has been decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RunningProvider {
    Cpu,
    Cuda { device_id: i32 },
}

/// A loaded library with a provider that starts: what sessions are made with.
#[derive(Debug)]
pub struct Engine {
    runtime: &'static Runtime,
    provider: RunningProvider,
    intra_threads: usize,
}

impl Engine {
    /// Loads the library and settles the execution provider. No model is touched yet.
    ///
    /// # Errors
    /// When the library is missing, too old or broken, or an explicit provider does not start.
    pub fn start(config: &EngineConfig) -> Result<Self, EngineError> {
        let runtime = environment::load(config.library.as_deref(), config.executable_dir.as_deref())?;
        let cuda = RunningProvider::Cuda { device_id: config.device_id };
        let provider = match config.provider {
            Provider::Cpu => RunningProvider::Cpu,
            Provider::Cuda => match runtime.try_provider(cuda) {
                Ok(()) => cuda,
                Err(reason) => return Err(EngineError::Provider { provider: "cuda", reason }),
            },
            Provider::Auto => match runtime.try_provider(cuda) {
                Ok(()) => cuda,
                Err(reason) => {
                    tracing::info!(reason, "engine.provider = \"auto\": CUDA does not start, the CPU is used");
                    RunningProvider::Cpu
                }
            },
        };
        let engine = Self { runtime, provider, intra_threads: config.intra_threads };
        tracing::info!(
            provider = engine.provider_name(),
            onnxruntime = runtime.version(),
            intra_threads = config.intra_threads,
            "the engine started"
        );
        Ok(engine)
    }

    /// The execution provider in use: `cpu` or `cuda`.
    pub fn provider_name(&self) -> &'static str {
        match self.provider {
            RunningProvider::Cpu => "cpu",
            RunningProvider::Cuda { .. } => "cuda",
        }
    }

    /// ONNX Runtime's version.
    pub fn onnxruntime_version(&self) -> &'static str {
        self.runtime.version()
    }

    /// Opens the vision graphs.
    ///
    /// # Errors
    /// When a file is missing or corrupt, or is not a vision encoder.
    pub fn vision(
        self: &Arc<Self>,
        graphs: &Graphs,
        normalization: &Normalization,
    ) -> Result<VisionEncoder, EngineError> {
        let normalization = normalization.clone();
        self.tower(Tower::Vision, graphs, move |session| PixelInput::of(session, &normalization))
    }

    /// Opens the text graphs.
    ///
    /// # Errors
    /// When a file is missing or corrupt, or is not a text encoder.
    pub fn text(self: &Arc<Self>, graphs: &Graphs) -> Result<TextEncoder, EngineError> {
        self.tower(Tower::Text, graphs, TokenInput::of)
    }

    /// The graph of embeddings now, that of all outputs when it is asked for; now, where there is no other.
    fn tower<I: TowerInput>(
        self: &Arc<Self>,
        tower: Tower,
        graphs: &Graphs,
        input: impl Fn(&Session) -> Result<I, String> + Send + 'static,
    ) -> Result<TowerEncoder<I>, EngineError> {
        let fault = |path: &Path| {
            let path = path.to_owned();
            move |reason| EngineError::Graph { encoder: tower.name(), path, reason }
        };
        let first = graphs.first();
        let stop = StopHandle::new().map_err(fault(first))?;
        let embedding = graphs.embedding().map(|path| {
            let open = || {
                let session = self.open(path, tower)?;
                let input = input(&session)?;
                Ok((EmbeddingSession::new(session, stop.clone())?, input))
            };
            open().map_err(fault(path))
        });
        let embedding = embedding.transpose()?;
        let outputs = match graphs.outputs() {
            None => Outputs::None,
            Some(path) => {
                let (engine, path, stop) = (Arc::clone(self), path.to_owned(), stop.clone());
                let open = move || {
                    let session = engine.open(&path, tower)?;
                    let input = input(&session)?;
                    Ok((OutputsSession::new(session, stop.clone())?, input))
                };
                if embedding.is_some() {
                    Outputs::Closed(Box::new(open))
                } else {
                    let (session, input) = open().map_err(fault(first))?;
                    Outputs::Open(session, input)
                }
            }
        };
        Ok(TowerEncoder::new(embedding, outputs, stop))
    }

    fn open(&self, path: &Path, tower: Tower) -> Result<Session, String> {
        if !path.is_file() {
            return Err("no such file".to_owned());
        }
        let part = split::tower_of_both(path, tower).map_err(|error| error.to_string())?;
        self.session(path, part.as_deref()).map_err(|error| environment::one_line(error.message()))
    }

    /// Arena off: it keeps the largest batch's memory for ever, at no gain in speed (measured: +244 MB against +2 MB over
    /// batches of 1 to 32). Memory pattern off: it assumes one input shape. Spinning off: the intra-op threads would burn the
    /// cores that decode pictures. Thread count explicit: ONNX Runtime's own default ignores the container's quota and pins.
    ///
    /// `part` is what to load of the file, when not all of it.
    fn session(&self, path: &Path, part: Option<&[u8]>) -> ort::Result<Session> {
        let mut builder = Session::builder(self.runtime.environment())?
            .with_execution_providers(self.provider.dispatch())?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(self.intra_threads)?
            .with_inter_threads(1)?
            .with_intra_op_spinning(false)?
            .with_memory_pattern(false)?;
        let Some(part) = part else { return builder.commit_from_file(path) };
        // A graph from memory has no folder of its own in which its external data would be found.
        let folder = path.parent().unwrap_or(Path::new("")).to_string_lossy();
        builder.with_config_entry(EXTERNAL_DATA_FOLDER, folder)?.commit_from_memory(part)
    }
}

impl RunningProvider {
    /// In order of priority; `error_on_failure`, because by default ONNX Runtime falls back to the CPU without a word.
    fn dispatch(self) -> Vec<ep::ExecutionProviderDispatch> {
        let cpu = ep::CPU::default().with_arena_allocator(false).build();
        match self {
            Self::Cpu => vec![cpu],
            Self::Cuda { device_id } => {
                let cuda = ep::CUDA::default()
                    .with_device_id(device_id)
                    .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested)
                    // The default, EXHAUSTIVE, tries every algorithm again for each new batch size: hundreds of
                    // milliseconds against a few, and the patch embedding is the only convolution there is.
                    .with_conv_algorithm_search(ep::cuda::ConvAlgorithmSearch::Heuristic)
                    .build()
                    .error_on_failure();
                vec![cuda, cpu]
            }
        }
    }
}
