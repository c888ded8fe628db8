//! TLS of the main listener: what it shows and asks of its clients, from files that are read again when they change.
//!
//! Owns the certificates and the handshake, which is bounded in time. Does not own the connection behind it (`http::connection`), nor when
//! the files are looked at (`watched`).
//!
//! Invariants: a connection keeps the certificates that its handshake was made with; files that cannot be used change nothing once the
//! service runs; there is one implementation of cryptography, the one that this program's own requests use.

mod probe;

use std::{io, net::SocketAddr, path::Path, sync::Arc};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject as _},
    },
    server::WebPkiClientVerifier,
};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

pub use self::probe::unverified_client;
use crate::{
    config::TlsFiles,
    telemetry::{FileKind, Handshake, Metrics},
    watched::{self, Current, Watched, read_and_watch},
};

/// Bytes of a file of certificates or a key.
const MAX_FILE: u64 = 1 << 20;

/// What is spoken inside, as it is called in the handshake.
const PROTOCOL: &[u8] = b"http/1.1";

/// Why there is no TLS; one line.
#[derive(Debug, thiserror::Error)]
#[error("{key} {path}: {reason}")]
pub struct TlsError {
    key: &'static str,
    path: String,
    reason: String,
}

impl TlsError {
    fn new(key: &'static str, path: &Path, reason: impl ToString) -> Self {
        let line = |text: String| text.replace(['\n', '\r'], " ");
        Self { key, path: line(path.display().to_string()), reason: line(reason.to_string()) }
    }
}

/// TLS for the connections of a listener. Clones are of one.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<Current<ServerConfig>>,
    metrics: Arc<Metrics>,
}

impl Tls {
    /// From these files, which are to be watched.
    ///
    /// # Errors
    /// When one of them cannot be read, or the key is not that of the certificate.
    pub fn start(files: &TlsFiles, metrics: Arc<Metrics>) -> Result<(Self, Watched), TlsError> {
        let TlsFiles { certificate, key, client_ca } = files;
        let paths = [Some(certificate), Some(key), client_ca.as_ref()].into_iter().flatten().cloned().collect();
        let files = files.clone();
        let (config, watched) = read_and_watch(FileKind::Tls, paths, move |_: Option<&ServerConfig>| read(&files))?;
        Ok((Self { config, metrics }, watched))
    }

    /// The handshake with `peer`, until `limit` at most; `None` where it failed, which is counted and logged.
    pub async fn accept(&self, stream: TcpStream, peer: SocketAddr, limit: Instant) -> Option<TlsStream<TcpStream>> {
        let accepted = timeout_at(limit, TlsAcceptor::from(self.config.get()).accept(stream)).await;
        let (outcome, error) = match accepted {
            Ok(Ok(stream)) => {
                self.metrics.tls_handshake(Handshake::Ok);
                return Some(stream);
            }
            // What TLS itself says is of this kind; all else says that the peer went.
            Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => (Handshake::Failed, error.to_string()),
            Ok(Err(error)) => (Handshake::Left, error.to_string()),
            Err(late) => (Handshake::TimedOut, late.to_string()),
        };
        self.metrics.tls_handshake(outcome);
        tracing::debug!(%peer, error, "a TLS handshake failed");
        None
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn read(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    const CERTIFICATE: &str = "server.tls_certificate";
    const KEY: &str = "server.tls_key";
    const CLIENT_CA: &str = "server.tls_client_ca";
    let chain = certificates(CERTIFICATE, &files.certificate)?;
    let (pem, mode) = contents(KEY, &files.key)?;
    let of_key = |reason: String| TlsError::new(KEY, &files.key, reason);
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| of_key(in_words(&error, "private key")))?;
    if mode & 0o004 != 0 {
        tracing::warn!(
            "{KEY} {} can be read by every account of this machine (mode {:o}): take that away (chmod o-r)",
            files.key.display(),
            mode & 0o777
        );
    }
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| of_key(error.to_string()))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let fault = |reason: String| TlsError::new(CLIENT_CA, path, reason);
            let mut roots = RootCertStore::empty();
            for root in certificates(CLIENT_CA, path)? {
                roots.add(root).map_err(|error| fault(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| fault(error.to_string()))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        of_key(format!("it does not go with {CERTIFICATE} {}: {error}", files.certificate.display()))
    })?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    tracing::info!(certificate = %files.certificate.display(), "the TLS certificate is read");
    Ok(config)
}

/// One certificate at least.
fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |error: pem::Error| TlsError::new(key, path, in_words(&error, "certificate"));
    let (pem, _) = contents(key, path)?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>().map_err(fault)?;
    if found.is_empty() { Err(fault(pem::Error::NoItemsFound)) } else { Ok(found) }
}

/// What is wrong with a file that should have a `wanted` in it; never its bytes, which may be a key's.
fn in_words(error: &pem::Error, wanted: &str) -> String {
    match error {
        pem::Error::NoItemsFound => format!("there is no {wanted} in PEM in it"),
        pem::Error::MissingSectionEnd { .. } => "it is cut: a part in PEM begins in it and does not end".to_owned(),
        _ => "it is not PEM: what stands between BEGIN and END is no base64".to_owned(),
    }
}

/// The bytes of a file, and its mode.
fn contents(key: &'static str, path: &Path) -> Result<(Vec<u8>, u32), TlsError> {
    watched::contents(path, MAX_FILE).map_err(|reason| TlsError::new(key, path, reason))
}

/// Both sides of a connection, for tests of what stands on it.
#[cfg(test)]
pub(crate) mod testing {
    use tokio::io::{AsyncRead, AsyncWrite};
    use tokio_rustls::{TlsConnector, client};

    use super::*;

    /// A handshake between two ends, with certificates of the tests.
    pub(crate) async fn handshake<T>(near: T, far: T) -> (TlsStream<T>, client::TlsStream<T>)
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls");
        let (certificate, key) = (folder.join("server-one.pem"), folder.join("server-one.key"));
        let config = read(&TlsFiles { certificate, key, client_ca: None }).expect("the fixtures");
        let (name, client) = probe::unverified_config("localhost").expect("a name");
        let connector = TlsConnector::from(client);
        let sides = tokio::join!(TlsAcceptor::from(Arc::new(config)).accept(near), connector.connect(name, far));
        (sides.0.expect("the server's side"), sides.1.expect("the client's side"))
    }
}
