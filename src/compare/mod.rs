//! `clipserve compare`: whether an index that another service has filled may be kept.
//!
//! Owns the order: find samples, start our model as configured, ask both, tell. It stands where `server` stands, above an
//! `Embedder`, and asks that without HTTP: what it answers is what `serve` with the same configuration would.
//!
//! ```text
//! pairs -> peer -> kinds     report -> statistics
//! ```
//!
//! Invariants: nothing of the other service is trusted (`peer`, `kinds`); a comparison that was not made is an error and no verdict.

mod error;
mod kinds;
mod pairs;
mod peer;
mod report;
mod samples;
mod statistics;

use std::{path::PathBuf, sync::Arc};

use tokio::runtime::Runtime;

pub use error::CompareError;
pub use kinds::Kind;
pub use peer::{KEY_VARIABLE, PeerUrl};
pub use report::Report;
pub use statistics::Verdict;

use pairs::{Asked, Sides};
use peer::Peer;
use report::{Other, Ours};

use crate::{
    config::{Config, Secret},
    embedder::{self, Embedder, Modality},
    health::Health,
    telemetry::Metrics,
};

/// What is compared.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// The base URL of the other service.
    pub url: PeerUrl,
    /// Whose routes it speaks.
    pub kind: Kind,
    /// What its requests name as the model.
    pub model: Option<String>,
    /// What goes into its `Authorization: Bearer`.
    pub key: Option<Secret>,
    /// Files and folders of pictures.
    pub pictures: Vec<PathBuf>,
    /// A file of texts, one a line, in place of those that are built in.
    pub texts: Option<PathBuf>,
    /// Pictures, and texts, at most.
    pub samples: usize,
}

/// Embeds the same samples by `config`'s model and by the other service; `progress` is told a line at a time how far it is.
///
/// # Errors
/// See [`CompareError`].
pub fn compare(
    config: &Config,
    options: CompareOptions,
    runtime: &Runtime,
    progress: &mut dyn FnMut(&str),
) -> Result<Report, CompareError> {
    let CompareOptions { url, kind, model, key, pictures, texts, samples } = options;
    let texts = samples::texts(texts.as_deref(), samples)?;
    let files = match (kind.has_pictures(), pictures.is_empty()) {
        (false, _) => Vec::new(),
        (true, true) => return Err(CompareError::Samples("give folders or files of pictures to compare".to_owned())),
        (true, false) => samples::pictures(&pictures, samples)?,
    };
    let other = Other { url: url.to_string(), kind: kind.name(), model: model.clone() };
    let peer = Peer::new(&config.model.hub, &url, kind, model, key)?;
    let embedder = embedder::start(config, Arc::new(Metrics::new()), &Health::new(config.engine.stall_timeout))?;
    let sides = Sides { embedder: &embedder, runtime, peer: &peer, kind, max_file_bytes: config.limits.max_body_bytes };
    let report = report(&sides, other, &files, &texts, progress);
    embedder.shut_down();
    report
}

/// Asks both for all that both have.
fn report(
    sides: &Sides<'_>,
    other: Other,
    files: &[PathBuf],
    texts: &[String],
    progress: &mut dyn FnMut(&str),
) -> Result<Report, CompareError> {
    let info = sides.embedder.info();
    let ours =
        Ours { model: info.name.clone(), fingerprint: info.fingerprint.clone(), precision: info.precision.clone() };
    let mut notes = Vec::new();
    let (mut of_pictures, mut of_texts) = (None, None);
    if !sides.kind.has_pictures() {
        notes.push(format!("{} has no pictures: texts alone are compared", other.kind));
    } else if has(sides.embedder, Modality::Image, &mut notes) {
        match sides.pictures(files, progress)? {
            Asked::Pairs(pairs) => of_pictures = Some(pairs),
            Asked::OtherModel(lengths) => return Ok(Report::of_other_model(ours, other, lengths)),
        }
    }
    if has(sides.embedder, Modality::Text, &mut notes) {
        match sides.texts(texts, progress)? {
            Asked::Pairs(pairs) => of_texts = Some(pairs),
            Asked::OtherModel(lengths) => return Ok(Report::of_other_model(ours, other, lengths)),
        }
    }
    if of_pictures.is_none() && of_texts.is_none() {
        return Err(CompareError::Nothing(notes.join("; ")));
    }
    Ok(Report::new(ours, other, of_pictures, of_texts, notes))
}

/// Whether our model embeds these; else a note that it does not.
fn has(embedder: &Embedder, modality: Modality, notes: &mut Vec<String>) -> bool {
    let has = embedder.dim(modality).is_ok();
    if !has {
        notes.push(format!("our model has no {modality} embeddings: they are not compared"));
    }
    has
}
