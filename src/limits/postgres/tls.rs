//! The TLS settings of a connection, and the check of the server's certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

/// The TLS settings of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tls {
    pub(super) mode: SslMode,
    pub(super) trust: Trust,
    /// The authorities that are trusted; `None`: those of the system.
    pub(super) root: Option<PathBuf>,
    /// The files of the client's certificate and of its key.
    pub(super) client_identity: Option<(PathBuf, PathBuf)>,
}

/// The servers that are trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// Any server: others can't read the connection, but it may lead to anyone.
    Anyone,
    /// A server with a certificate of a trusted authority, for any name.
    Authority,
    /// A server with a certificate of a trusted authority, for the name of the host.
    Host,
}

impl Tls {
    /// Returns the connector that opens TLS sessions with these settings.
    pub(super) fn connector(&self) -> anyhow::Result<MakeRustlsConnect> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match self.trust {
            Trust::Anyone => {
                Arc::new(NameIgnoringVerifier { inner: None, provider: provider.clone() })
            }
            trust => {
                let roots = Arc::new(self.roots()?);
                let inner = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
                    .build()
                    .context("using the trusted certificates")?;
                match trust {
                    Trust::Host => inner,
                    _ => Arc::new(NameIgnoringVerifier {
                        inner: Some(inner),
                        provider: provider.clone(),
                    }),
                }
            }
        };
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("choosing TLS versions")?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match &self.client_identity {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let read = || format!("reading the key from \"{}\"", key.display());
                let private = PrivateKeyDer::from_pem_file(key).with_context(read)?;
                config
                    .with_client_auth_cert(certificates(certificate)?, private)
                    .context("using the client certificate")?
            }
        };
        Ok(MakeRustlsConnect::new(config))
    }

    fn roots(&self) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        let found = match &self.root {
            Some(file) => certificates(file)?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        roots.add_parsable_certificates(found);
        if roots.is_empty() {
            let whose = self
                .root
                .as_deref()
                .map_or_else(|| "the system".to_owned(), |file| format!("\"{}\"", file.display()));
            return Err(anyhow!("{whose} has no trusted certificates: give sslrootcert=FILE"));
        }
        Ok(roots)
    }
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || format!("reading certificates from \"{}\"", file.display());
    let found = CertificateDer::pem_file_iter(file).with_context(read)?;
    found.collect::<Result<Vec<_>, _>>().with_context(read)
}

/// Accepts a certificate for any name, and without `inner` one of any authority. The server must still prove
/// that it has the certificate's key.
#[derive(Debug)]
struct NameIgnoringVerifier {
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for NameIgnoringVerifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(inner) = &self.inner else {
            return Ok(ServerCertVerified::assertion());
        };
        // The library checks the name last, so everything else is valid here.
        match inner.verify_server_cert(certificate, between, name, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
