//! Our own routes: `/embed/*`, `/similarity`, `/classify`, `/info`.
//!
//! Owns their handlers (`embed` with `format` and `outputs`, `classify`), what is compared and answered on the paths that are another
//! service's too (`similarity`, `info`; the handlers of both are in `dialects::tei`), and the shapes of what they take and answer
//! (`wire`). Does not own how a request is read (`request`), how large an answer may become and how it is sent (`answer`,
//! `reply`), nor computing anything (the embedder).
//!
//! Invariant: nothing names it but the route table, the dialect that shares its paths, and tests that want a shape to read or to write;
//! it names no dialect.

pub(super) mod classify;
pub(super) mod embed;
mod format;
pub(super) mod info;
mod outputs;
pub(super) mod similarity;
pub(super) mod wire;
