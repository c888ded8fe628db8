//! The client's side, for a probe of a service of our own.
//!
//! Owns a client that takes any certificate: a probe asks a local address, for which no certificate is made, sends nothing that is worth
//! hearing, and believes a status at most. Whoever wants more than that must not use it.

use std::sync::Arc;

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

/// A client of `host` (a name or an address) that believes whoever answers to be that.
///
/// # Errors
/// When `host` is neither.
pub fn unverified_client(host: &str) -> Result<ClientConnection, Error> {
    let (name, config) = unverified_config(host)?;
    ClientConnection::new(config, name)
}

/// What such a client is made of.
pub(super) fn unverified_config(host: &str) -> Result<(ServerName<'static>, Arc<ClientConfig>), Error> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| Error::General(error.to_string()))?;
    let provider = super::provider();
    let verifier = Arc::new(Any(Arc::clone(&provider)));
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![super::PROTOCOL.to_vec()];
    Ok((name, Arc::new(config)))
}

/// Takes every certificate whose key the other side has.
#[derive(Debug)]
struct Any(Arc<CryptoProvider>);

impl ServerCertVerifier for Any {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
