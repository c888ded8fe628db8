//! Why a server could not start or go on, in one line for the operator.

use std::{io, net::SocketAddr};

use crate::{embedder::StartError, http::access::AccessError, tls::TlsError, web::WebError};

/// Why a server could not start or go on, in one line for the operator.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A listener.
    #[error("{key} = \"{address}\": {error}")]
    Bind {
        /// The configuration key.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// Open files.
    #[error(
        "the system allows this process {limit} open files, and it needs {least} at least: raise the limit (`ulimit -n`, \
         `docker run --ulimit nofile=`, LimitNOFILE= of systemd)"
    )]
    Files {
        /// What the system allows.
        limit: usize,
        /// With one connection.
        least: usize,
    },
    /// The model.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Who may ask.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// What TLS is made with.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// What fetches pictures.
    #[error(transparent)]
    Web(#[from] WebError),
    /// What sends spans.
    #[error("telemetry.otlp_endpoint is set: {0}")]
    Spans(String),
    /// A thread for the loader, the admin listener or what watches files.
    #[error("a thread could not be started: {0}")]
    Thread(io::Error),
    /// The thread that loads the model panicked.
    #[error("loading the model failed unexpectedly; the log above has the reason")]
    LoadPanicked,
    /// The drain was not clean.
    #[error("{0} requests were still running after server.drain_timeout and were cut off")]
    Cut(usize),
}
