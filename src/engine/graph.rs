//! What a graph's inputs and outputs say about it, and running it under a stop handle.
//!
//! Owns the reading of names, element types and shapes, and the run of an embedding: run, check, copy out. Does not own what
//! goes in (`vision`, `text`), nor the other outputs (`outputs`).
//!
//! Invariants: a graph is accepted by what it declares, never by its file name, so a wrong file is refused at load; a session that several
//! threads have is one of the CPU provider.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ndarray::Array2;
use ort::{
    session::{NoSelectedOutputs, RunOptions, Session, SessionInputValue},
    value::{DynValue, Outlet, TensorElementType},
};

use super::{
    beside::{self, Shared},
    environment::one_line,
};
use crate::encoder::{Embeddings, EncodeError, Interrupt};

/// The names that exporters give the projected embedding, best first.
const OUTPUT_NAMES: [&str; 4] = ["image_embeds", "text_embeds", "embedding", "sentence_embedding"];

/// One input or output as the graph declares it.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub name: String,
    pub element: TensorElementType,
    /// -1 where the dimension is dynamic.
    pub shape: Vec<i64>,
}

impl Port {
    fn of(outlet: &Outlet) -> Option<Self> {
        Some(Self {
            name: outlet.name().to_owned(),
            element: outlet.dtype().tensor_type()?,
            shape: outlet.dtype().tensor_shape()?.to_vec(),
        })
    }

    /// A dimension's fixed size, `None` where it is dynamic (or not there).
    pub(super) fn fixed(&self, axis: usize) -> Option<usize> {
        self.shape.get(axis).and_then(|&size| usize::try_from(size).ok())
    }
}

/// The tensor inputs of a session.
pub(super) fn inputs(session: &Session) -> Vec<Port> {
    session.inputs().iter().filter_map(Port::of).collect()
}

/// How many items a run of the session has to have, where it says so: the first dimension of what it is fed.
pub(super) fn fixed_batch(session: &Session) -> Option<usize> {
    inputs(session).iter().find_map(|input| input.fixed(0))
}

/// For a message: every port with its type and shape.
pub(super) fn describe(ports: &[Port]) -> String {
    let one = |port: &Port| format!("{} {:?} {:?}", port.name, port.element, port.shape);
    ports.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// One input of a run: its name in the graph, and its tensor.
pub(super) type NamedInput<'a> = (Cow<'a, str>, SessionInputValue<'a>);

/// The session of a run.
pub(super) enum Held {
    /// Of this run alone.
    Own(Session),
    /// One that other runs have, too.
    Shared(Shared),
}

impl Held {
    /// What `look` sees in it.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Session) -> T) -> T {
        match self {
            Self::Own(session) => look(session),
            Self::Shared(shared) => look(&shared.session()),
        }
    }
}

/// A session with the one output that is the embedding.
pub(super) struct EmbeddingSession {
    session: Held,
    output: String,
    dim: Option<usize>,
    options: StopHandle,
}

impl EmbeddingSession {
    /// Finds the embedding among the outputs: by name, else the only one of rank 2.
    pub(super) fn new(session: Held, options: StopHandle) -> Result<Self, String> {
        let outputs: Vec<Port> = session.look(|session| session.outputs().iter().filter_map(Port::of).collect());
        let rank2: Vec<&Port> = outputs.iter().filter(|port| port.shape.len() == 2).collect();
        let output = OUTPUT_NAMES
            .iter()
            .find_map(|name| rank2.iter().copied().find(|port| port.name == *name))
            .or(if rank2.len() == 1 && rank2[0].name != "pooler_output" { Some(rank2[0]) } else { None })
            .ok_or_else(|| {
                format!(
                    "no projected embedding among its outputs ({}); expected image_embeds or text_embeds [batch, dim]",
                    describe(&outputs)
                )
            })?;
        if !matches!(output.element, TensorElementType::Float32 | TensorElementType::Float16) {
            return Err(format!("output {} is {:?}, expected floats", output.name, output.element));
        }
        let (name, dim) = (output.name.clone(), output.fixed(1));
        Ok(Self { session, output: name, dim, options })
    }

    /// Runs the graph on `batch` rows and copies the embedding out.
    pub(super) fn run(&mut self, batch: usize, inputs: Vec<NamedInput<'_>>) -> Result<Embeddings, EncodeError> {
        let options = self.options.begin()?;
        let found = match &mut self.session {
            Held::Own(session) => session.run_with_options(inputs, &options).and_then(|outputs| {
                let value = outputs.get(&self.output);
                floats(value.ok_or_else(|| ort::Error::new(format!("the output {} is missing", self.output)))?)
            }),
            Held::Shared(shared) => beside::run(&shared.session(), shared.place(), &inputs, &self.output, &options)
                .and_then(|value| floats(&value)),
        };
        let (shape, values) = found.map_err(|error| runtime(&error))?;
        let dim = self.dim.or_else(|| shape.get(1).and_then(|&dim| usize::try_from(dim).ok())).unwrap_or(0);
        let expected = [batch as i64, dim as i64];
        if shape != expected {
            return Err(EncodeError::Shape { actual: shape, expected: expected.to_vec() });
        }
        Array2::from_shape_vec((batch, dim), values)
            .map_err(|_| EncodeError::Shape { actual: shape, expected: expected.to_vec() })
    }
}

/// What a run is started with, by which another thread ends it. Clones are the same handle.
#[derive(Clone)]
pub(super) struct StopHandle {
    /// Of the next run, where somebody can end it. Each run has its own, since the flag is sticky, and one that is raised too late must not
    /// end another run.
    next: Arc<Mutex<Option<Arc<RunOptions<NoSelectedOutputs>>>>>,
    ends_soon: bool,
}

impl StopHandle {
    /// Of runs that look at the flag often, where `ends_soon`.
    pub(super) fn new(ends_soon: bool) -> Self {
        Self { next: Arc::default(), ends_soon }
    }

    /// The options of a run that begins now.
    pub(super) fn begin(&self) -> Result<Arc<RunOptions<NoSelectedOutputs>>, EncodeError> {
        match self.next().take() {
            Some(options) => Ok(options),
            None => RunOptions::new().map(Arc::new).map_err(|error| runtime(&error)),
        }
    }

    /// What ends the next run.
    pub(super) fn interrupt(&self) -> Interrupt {
        let options = match RunOptions::new() {
            Ok(options) => Arc::new(options),
            Err(error) => {
                tracing::error!(%error, "no run can be interrupted");
                return Arc::new(|| {});
            }
        };
        *self.next() = Some(Arc::clone(&options));
        Arc::new(move || {
            if let Err(error) = options.terminate() {
                tracing::error!(%error, "a run could not be interrupted");
            }
        })
    }

    /// Whether runs look at the flag often: between two operators.
    pub(super) fn ends_soon(&self) -> bool {
        self.ends_soon
    }

    fn next(&self) -> MutexGuard<'_, Option<Arc<RunOptions<NoSelectedOutputs>>>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What ONNX Runtime said, for the log; many of its messages end with a line end.
pub(super) fn runtime(error: &ort::Error) -> EncodeError {
    EncodeError::Runtime(one_line(error.message()))
}

fn floats(value: &DynValue) -> ort::Result<(Vec<i64>, Vec<f32>)> {
    if value.dtype().tensor_type() == Some(TensorElementType::Float16) {
        let (shape, data) = value.try_extract_tensor::<half::f16>()?;
        return Ok((shape.to_vec(), data.iter().map(|value| value.to_f32()).collect()));
    }
    let (shape, data) = value.try_extract_tensor::<f32>()?;
    Ok((shape.to_vec(), data.to_vec()))
}
