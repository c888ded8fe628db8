//! The doors of other services: routes that their clients know, answered as those clients read it.
//!
//! Owns what a dialect is ([`Dialect`]: a request becomes inputs and options, embeddings become an answer, an error has its clients' shape)
//! and the one handler of all of them. Each dialect is one file, with what the OpenAPI document says of it. Does not own a model, nor what
//! an embedding is: that is the same on every route.
//!
//! Invariants: a dialect is read before anything is computed, and answered whole or not at all; what its clients ask for and cannot be
//! had is refused, never replaced. Fields that a dialect does not know are passed over, as its own service does; those that it knows and
//! cannot honour are not.

pub(super) mod cohere;
pub(super) mod immich;
pub(super) mod infinity;
mod inputs;
mod intel;
pub(super) mod jina;
pub(super) mod nim;
pub(super) mod oip;
pub(super) mod openai;
mod options;
mod parts;
pub(super) mod tei;
pub(super) mod voyage;
pub(super) mod weaviate;

use std::{sync::Arc, time::SystemTime};

use axum::{
    extract::{Request, State},
    response::Response,
};
use bytes::Bytes;
use ndarray::Array2;

use self::inputs::{Inputs, Wanted};
use super::{
    ApiError, AppState,
    answer::Size,
    connection::held::Held,
    door::with_priority,
    embedding::{EmbeddingForm, Embeddings, ScaledForm},
    error::ErrorShape,
    reply::Written,
    request::payload::{Accepts, Payload, check_dimensions},
};
use crate::{
    embedder::{Embedder, Terms},
    model::UNIT_SCALE,
};

/// What a request asks, in no dialect any more.
#[derive(Debug)]
pub(super) struct Asked {
    /// The name of the model; none is the one that is served.
    pub(super) model: Option<String>,
    /// What is to be embedded.
    pub(super) wanted: Wanted,
    /// Whether texts that are too long are cut.
    pub(super) truncate: bool,
    /// Whether embeddings are scaled to length 1.
    pub(super) normalize: bool,
    /// How many values an embedding is cut to.
    pub(super) dimensions: Option<usize>,
    /// How the embeddings are written: in each of these forms. None when what is answered is made of them.
    pub(super) forms: Vec<EmbeddingForm>,
    /// As vLLM and Cohere have it: lower is sooner, above 0 is bulk.
    pub(super) priority: Option<i64>,
}

/// What an answer is made of.
#[derive(Debug)]
pub(super) struct Answered<'a> {
    /// The name of the model.
    pub(super) model: &'a str,
    /// An embedding for each input, in order.
    pub(super) rows: &'a Array2<f32>,
    /// As they were asked for.
    pub(super) forms: &'a [ScaledForm],
    /// Ids of all texts, without padding.
    pub(super) tokens: usize,
    /// The texts among the inputs, in order.
    pub(super) texts: &'a [String],
    /// The place of each picture among the inputs.
    pub(super) pictures: &'a [usize],
}

impl Answered<'_> {
    /// The first form, of a dialect that knows but one at a time.
    pub(super) fn form(&self) -> ScaledForm {
        self.forms.first().copied().unwrap_or_else(|| EmbeddingForm::FLOATS.scaled(UNIT_SCALE))
    }

    /// All embeddings, to be written in `form`.
    pub(super) fn all_in(&self, form: ScaledForm) -> Embeddings<'_> {
        Embeddings { rows: self.rows.view(), form }
    }

    /// Seconds since 1970.
    pub(super) fn created(&self) -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

/// A way to ask for embeddings. The value is what of the request its answer repeats.
pub(super) trait Dialect: Sized + Send {
    /// The content types of its requests.
    const ACCEPTS: &'static [Accepts];

    /// Reads a request.
    ///
    /// # Errors
    /// In the shape of the path's first owner, unless they are [`ApiError::shaped`].
    fn read(reader: Reader<'_>) -> Result<(Asked, Self), ApiError>;

    /// How what is refused from here on looks; `None`: as the path's first owner has it.
    fn errors(&self) -> Option<ErrorShape> {
        None
    }

    /// What is refused from here on, in its own words: by the place among its inputs it cannot tell what a request calls the input.
    fn explain(&self, error: ApiError) -> ApiError {
        error
    }

    /// Looks at the files of the pictures, which are all there now; later they are gone.
    fn look(&mut self, _files: &[Bytes]) {}

    /// Bytes of its answer besides the embeddings, for `n` inputs: see [`Size`].
    fn around(&self, asked: &Asked) -> usize;

    /// Writes the answer.
    ///
    /// # Errors
    /// 500 when it cannot be written, which does not happen in memory.
    fn write(&self, answered: &Answered<'_>, buffer: Vec<u8>) -> Result<Written, ApiError>;
}

/// A request of a dialect, its body unread.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    pub(super) state: &'a AppState,
    pub(super) embedder: &'a Embedder,
    pub(super) payload: Payload,
}

impl<'a> Reader<'a> {
    /// No inputs so far.
    pub(super) fn inputs(&self) -> Inputs<'a> {
        Inputs::new(self.state, self.payload.claim(self.state))
    }
}

/// The handler of every dialect.
pub(super) async fn embed<D: Dialect>(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, ApiError> {
    let embedder = state.embedder()?;
    let payload = Payload::receive(&state, request, D::ACCEPTS).await?;
    let (terms, held) = (payload.terms, payload.held.clone());
    let reading = payload.reading();
    let (asked, dialect) =
        embedder.heavy().run(reading, || D::read(Reader { state: &state, embedder, payload })).await?;
    answer(&state, asked, dialect, terms, &held).await
}

/// The answer to a request that has been read.
async fn answer<D: Dialect>(
    state: &AppState,
    mut asked: Asked,
    mut dialect: D,
    terms: Terms,
    held: &Held,
) -> Result<Response, ApiError> {
    let shape = dialect.errors();
    let answer = async {
        let embedder = state.resolve(asked.model.as_deref())?;
        let dim = asked.wanted.dim(embedder)?;
        check_dimensions(asked.dimensions, dim)?;
        let columns = asked.dimensions.unwrap_or(dim);
        asked.forms.iter().try_for_each(|form| form.kind.check(columns, asked.normalize))?;
        let terms = with_priority(terms, asked.priority);
        let n = asked.wanted.len();
        let scale = embedder.info().int8_scale(columns);
        let forms: Vec<ScaledForm> = asked.forms.iter().map(|form| form.scaled(scale)).collect();
        let size = Size::new(&embedder.info().name).holding(n.saturating_mul(dim.saturating_add(columns)));
        let size = asked.forms.iter().fold(size, |size, form| form.add_to(size, n, columns));
        let room = size.writing(dialect.around(&asked)).reserve(state).await?;
        asked.wanted.bring(state, terms).await?;
        dialect.look(asked.wanted.files());
        let embedded = asked.wanted.embed(embedder, asked.truncate, terms).await?;
        let takes = room.writing();
        let write = || {
            let (timings, tokens) = (embedded.timings, embedded.tokens);
            let rows = embedded.finish(asked.dimensions, asked.normalize);
            let answered = Answered {
                model: &embedder.info().name,
                rows: &rows,
                forms: &forms,
                tokens,
                texts: asked.wanted.texts(),
                pictures: asked.wanted.picture_places(),
            };
            let written = dialect.write(&answered, room.buffer());
            drop(rows);
            Ok(written?.answer(room, held, timings))
        };
        embedder.heavy().run(takes, write).await
    };
    answer.await.map_err(|error: ApiError| dialect.explain(error).shaped_if_not(shape))
}
