//! Why a comparison has no result.
//!
//! Owns the words. Everything that is of others in them has been cut and escaped by whoever made the error.

use crate::{
    embedder::{EmbedError, StartError},
    model::hub::HubError,
};

/// Why there is nothing to report, in one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// Our model does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The proxy or the certificates of the environment.
    #[error(transparent)]
    Network(#[from] HubError),
    /// A folder or file of the command line.
    #[error("{0}")]
    Samples(String),
    /// Both sides have nothing in common that could be compared.
    #[error("there is nothing to compare: {0}")]
    Nothing(String),
    /// The other service.
    #[error("{url}: {reason}")]
    Peer {
        /// What was asked.
        url: String,
        /// What came instead of embeddings.
        reason: String,
    },
    /// Ours stopped answering.
    #[error("our own model: {0}")]
    Embed(#[from] EmbedError),
}
