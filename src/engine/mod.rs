//! Everything that touches ONNX Runtime: the library, the environment, providers, sessions, and the two encoders.
//!
//! Owns the only use of the `ort` crate. Knows nothing of batching, preprocessing or HTTP: it is handed a graph file and
//! returns an [`crate::encoder::Encoder`].
//!
//! Invariants: an execution provider that was asked for by name is the one that runs, or the engine does not start; every
//! session is driven by one thread (`Session::run` takes `&mut self`), except those of the CPU provider, which several runs have at the same
//! time with one copy of the weights (`runs`); an error is one line that names the thing.

mod beside;
mod cpu;
mod environment;
mod error;
mod floats;
mod graph;
mod graph_file;
mod late;
mod mapped;
mod openvino;
mod operators;
mod outputs;
mod provider;
mod reading;
mod row_kernels;
mod row_operators;
mod runs;
mod session_options;
mod split;
mod tensorrt;
mod text;
mod tower;
mod vision;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ort::session::Session;

pub use cpu::sums_bytes_exactly;
pub use environment::{Runtime, VARIABLES};
pub use error::EngineError;
pub use floats::{FloatInput, PixelsEncoder};
pub use late::LateEncoder;
#[doc(hidden)]
pub use reading::read_graph;
pub use row_operators::row_operators;
pub use text::{TextEncoder, TokenInput};
pub use tower::{TowerEncoder, TowerInput};
pub use vision::{Normalization, PixelInput, VisionEncoder};

use floats::Feed;
use graph::{EmbeddingSession, Held, StopHandle};
use graph_file::GraphFile;
use mapped::Mapped;
use outputs::OutputsSession;
use provider::RunningProvider;
use reading::Reading;
use session_options::SessionOptions;
use split::Tower;
use tower::Outputs;

use crate::{
    config::{EngineConfig, Precision, PrecisionChoice, Threads},
    encoder::{BatchSizes, OneByOne, Runner},
    model::{
        Graphs, external_data,
        graph_info::{GraphInfo, LEAST_GROUP},
    },
};

/// `kOrtSessionOptionsModelExternalInitializersFileFolderPath` of ONNX Runtime.
const EXTERNAL_DATA_FOLDER: &str = "session.model_external_initializers_file_folder_path";

/// A graph that is loaded.
#[derive(Clone)]
struct Opened<S = Session> {
    session: S,
    /// What it says about itself, where it is ours.
    info: Option<GraphInfo>,
    /// Why no run may have more than one item; `None` where it may.
    one_by_one: Option<OneByOne>,
}

impl<S> Opened<S> {
    /// The same, with what `hold` makes of the session.
    fn held<T>(self, hold: impl FnOnce(S) -> T) -> Opened<T> {
        let Self { session, info, one_by_one } = self;
        Opened { session: hold(session), info, one_by_one }
    }
}

/// A loaded library with a provider that starts: what sessions are made with.
#[derive(Debug)]
pub struct Engine {
    runtime: &'static Runtime,
    provider: RunningProvider,
    intra_threads: usize,
    /// Sessions of each tower, where these are not what is configured.
    sessions: Option<usize>,
}

impl Engine {
    /// Loads the library and settles the execution provider. No model is touched yet.
    ///
    /// # Errors
    /// When the library is missing, too old or broken, or an explicit provider or precision cannot be had.
    pub fn start(config: &EngineConfig) -> Result<Self, EngineError> {
        let (runtime, provider) = provider::settle(config)?;
        let (intra_threads, sessions) = match config.threads {
            Threads::Throughput if matches!(provider, RunningProvider::Cpu) => (1, Some(config.intra_threads)),
            Threads::Asked | Threads::Latency | Threads::Throughput => (config.intra_threads, None),
        };
        let engine = Self { runtime, provider, intra_threads, sessions };
        tracing::info!(
            provider = engine.provider_name(),
            onnxruntime = runtime.version(),
            intra_threads,
            "the engine started"
        );
        if config.precision == PrecisionChoice::F16 && matches!(engine.provider, RunningProvider::Cpu) {
            tracing::warn!("the CPU provider has few kernels for f16: it computes most of such a graph in f32");
        }
        Ok(engine)
    }

    /// The execution provider in use: `cpu`, `cuda`, `tensorrt` or `openvino`.
    pub fn provider_name(&self) -> &'static str {
        self.provider.name()
    }

    /// The arithmetic in use, with graphs of `graphs`: their own, or `bf16`.
    pub fn precision_name(&self, graphs: Precision) -> &'static str {
        match graphs {
            Precision::F32 if self.provider.is_bf16() => "bf16",
            Precision::Int8Weights => Precision::Int8.name(),
            graphs => graphs.name(),
        }
    }

    /// How many items a run takes best, of pictures of so many positions; as many as a ViT-B/32's where that is not known.
    pub fn batch_sizes(&self, positions: Option<usize>) -> BatchSizes {
        self.provider.batch_sizes(positions.unwrap_or(provider::USUAL_POSITIONS))
    }

    /// Whether each batch size wants a run of its own before the first request.
    pub fn warms_each_batch_size(&self) -> bool {
        self.provider.warms_each_batch_size()
    }

    /// Does `first_runs` of the sessions of `graph`, which are open, and gives back the memory of its files of weights meanwhile and
    /// afterwards, where the provider makes weights of its own of them then, laid out for its kernels. What it reads again, such as a row of
    /// the token embeddings, comes from the file again. Files that are `beside`'s too, whose sessions may be opened meanwhile, are left.
    #[expect(unsafe_code, reason = "the mappings are the runtime's")]
    pub fn release_weights_during<T>(&self, graph: &Path, beside: Option<&Path>, first_runs: impl FnOnce() -> T) -> T {
        let others = beside.map(weights_of).unwrap_or_default();
        let mapped = self.mapped(weights_of(graph).into_iter().filter(|file| !others.contains(file)).collect());
        // SAFETY: weights are data. Who unmaps them is a session of theirs that is closed, and those are open.
        unsafe { mapped.release_during(first_runs) }
    }

    /// Gives back the memory of the files of weights of `graph`, as [`Self::release_weights_during`] does, when its sessions and those of
    /// every other graph have had their first runs.
    #[expect(unsafe_code, reason = "the mappings are the runtime's")]
    pub fn release_weights(&self, graph: &Path) {
        // SAFETY: as there; none is opened or closed while the model is loaded.
        unsafe { self.mapped(weights_of(graph)).release() };
    }

    /// What is mapped of `files` where the provider computes with copies.
    fn mapped(&self, files: Vec<PathBuf>) -> Mapped {
        let files = if self.provider.copies_weights() { files } else { Vec::new() };
        Mapped::of(&files).unwrap_or_else(|error| {
            tracing::debug!(%error, "the memory of the mapped weights is not given back");
            Mapped::default()
        })
    }

    /// The library's file.
    pub fn library(&self) -> &Path {
        self.runtime.library()
    }

    /// ONNX Runtime's version.
    pub fn onnxruntime_version(&self) -> &'static str {
        self.runtime.version()
    }

    /// Opens `sessions` sessions of the vision graphs, for the threads that run them.
    ///
    /// # Errors
    /// When a file is missing or corrupt, or is not a vision encoder.
    pub fn vision(
        self: &Arc<Self>,
        graphs: &Graphs,
        normalization: &Normalization,
        sessions: usize,
    ) -> Result<Vec<Runner<VisionEncoder>>, EngineError> {
        let normalization = normalization.clone();
        let input = move |session: &Session, info: Option<&GraphInfo>| PixelInput::of(session, info, &normalization);
        self.towers(Tower::Vision, graphs, sessions, input)
    }

    /// The vision graphs for `pixel_values`, to be opened when they are first asked for.
    ///
    /// # Errors
    /// When the runtime has no handle to give.
    pub fn pixels(
        self: &Arc<Self>,
        graphs: &Graphs,
        normalization: &Normalization,
    ) -> Result<PixelsEncoder, EngineError> {
        let stop = self.stop();
        let (engine, graphs, normalization) = (Arc::clone(self), graphs.clone(), normalization.clone());
        let open = move |stop| {
            let normalization = normalization.clone();
            let input =
                move |session: &Session, info: Option<&GraphInfo>| FloatInput::of(session, info, &normalization);
            let opened = engine.embedding(Tower::Vision, Feed::Floats, &graphs);
            let tower = opened.and_then(|opened| {
                let opened = opened.map(|opened| opened.held(Held::Own));
                engine.tower(Tower::Vision, Feed::Floats, &graphs, opened, stop, input)
            });
            tower.map_err(|error| error.to_string())
        };
        Ok(LateEncoder::new(open, stop))
    }

    /// Opens `sessions` sessions of the text graphs, for the threads that run them.
    ///
    /// # Errors
    /// When a file is missing or corrupt, or is not a text encoder.
    pub fn text(self: &Arc<Self>, graphs: &Graphs, sessions: usize) -> Result<Vec<Runner<TextEncoder>>, EngineError> {
        self.towers(Tower::Text, graphs, sessions, TokenInput::of)
    }

    /// The session of the graph of embeddings, where there is one.
    fn embedding(&self, tower: Tower, feed: Feed, graphs: &Graphs) -> Result<Option<Opened>, EngineError> {
        let open = |path: &Path| self.open(path, tower, feed, true).map_err(|reason| fault(tower, path, reason));
        graphs.embedding().map(open).transpose()
    }

    /// A handle to stop a tower's runs by. The CPU provider looks at it between two operators; OpenVINO's graph is one, and what a GPU has
    /// been given it computes.
    fn stop(&self) -> StopHandle {
        StopHandle::new(matches!(self.provider, RunningProvider::Cpu))
    }

    /// The graph of embeddings, which is open, and that of all outputs when it is asked for; now, where there is no other.
    fn tower<I: TowerInput>(
        self: &Arc<Self>,
        tower: Tower,
        feed: Feed,
        graphs: &Graphs,
        embedding: Option<Opened<Held>>,
        stop: StopHandle,
        input: impl Fn(&Session, Option<&GraphInfo>) -> Result<I, String> + Send + 'static,
    ) -> Result<TowerEncoder<I>, EngineError> {
        let first = graphs.first();
        let mut one_by_one = embedding.as_ref().and_then(|opened| opened.one_by_one);
        let embedding = embedding.map(|opened| {
            let input = opened.session.look(|session| input(session, opened.info.as_ref()))?;
            Ok((EmbeddingSession::new(opened.session, stop.clone())?, input))
        });
        let embedding = embedding.transpose().map_err(|reason| fault(tower, first, reason))?;
        let outputs = match graphs.outputs() {
            None => Outputs::None,
            Some(path) => {
                let (engine, path, stop) = (Arc::clone(self), path.to_owned(), stop.clone());
                // It is not open yet when batches are planned, and shares them with the graph of embeddings.
                let operators = GraphFile::open(&path).and_then(|mut file| operators::one_by_one(&mut file));
                one_by_one = one_by_one.or(operators.map_err(|error| fault(tower, &path, error.to_string()))?);
                let open = move || {
                    // Outputs are large, and rarely asked for: what they take goes back.
                    let opened = engine.open(&path, tower, feed, false)?;
                    let input = input(&opened.session, opened.info.as_ref())?;
                    Ok((OutputsSession::new(opened.session, stop.clone())?, input))
                };
                if embedding.is_some() {
                    Outputs::Closed(Box::new(open))
                } else {
                    let (session, input) = open().map_err(|reason| fault(tower, first, reason))?;
                    Outputs::Open(session, input)
                }
            }
        };
        Ok(TowerEncoder::new(embedding, outputs, one_by_one, stop))
    }

    /// A session of the graph.
    fn open(&self, path: &Path, tower: Tower, feed: Feed, keeps_memory: bool) -> Result<Opened, String> {
        if !path.is_file() {
            return Err("no such file".to_owned());
        }
        let Reading { info, part, one_by_one: operators } =
            Reading::of(path, tower, feed).map_err(|error| error.to_string())?;
        let mut options = SessionOptions {
            exact_integers: matches!(self.provider, RunningProvider::Cpu) && !sums_bytes_exactly(),
            intra_threads: self.intra_threads,
            activation_group: info.as_ref().map_or(LEAST_GROUP, |info| info.activation_group),
            keeps_memory,
            profile: info.as_ref().and_then(|info| self.provider.profile(tower, info)),
        };
        let mut session = self.session(path, part.as_deref(), &options);
        if options.exact_integers && session.is_err() {
            options.exact_integers = false;
            session = self.session(path, part.as_deref(), &options);
            if session.is_ok() {
                tracing::warn!(
                    path = %path.display(),
                    "products of 8-bit integers may saturate on this CPU, which makes other embeddings; export the checkpoint again"
                );
            }
        }
        let session = session.map_err(|error| environment::one_line(error.message()))?;
        let one_by_one = match graph::fixed_batch(&session) {
            None => operators,
            Some(1) => Some(OneByOne::FixedBatch),
            Some(batch) => {
                return Err(format!("it is fixed to batches of {batch}; export it with any number, or with 1"));
            }
        };
        Ok(Opened { session, info, one_by_one })
    }

    /// `part` is what to load of the file, when not all of it.
    fn session(&self, path: &Path, part: Option<&[u8]>, options: &SessionOptions) -> ort::Result<Session> {
        let mut builder = provider::builder(self.runtime, &self.provider, options)?;
        let Some(part) = part else { return builder.commit_from_file(path) };
        // A graph from memory has no folder of its own in which its external data would be found.
        let folder = path.parent().unwrap_or(Path::new("")).to_string_lossy();
        builder.with_config_entry(EXTERNAL_DATA_FOLDER, folder)?.commit_from_memory(part)
    }
}

fn fault(tower: Tower, path: &Path, reason: String) -> EngineError {
    EngineError::Graph { encoder: tower.name(), path: path.to_owned(), reason }
}

/// The files of weights of `graph`; what cannot be listed is not given back.
fn weights_of(graph: &Path) -> Vec<PathBuf> {
    external_data::of(graph).unwrap_or_default()
}
