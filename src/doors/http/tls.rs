//! Certificate and key of the HTTP port.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use crate::control::failure::Failure;

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read, or is not PEM.
    #[error("{}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// A file has nothing of what it should.
    #[error("{} has no {what} in it", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
        /// What it should have.
        what: &'static str,
    },
    /// They do not fit, or are of no use.
    #[error("the certificate and the key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
}

impl TlsError {
    fn of(path: &Path, what: &'static str, e: pem::Error) -> Self {
        let path = path.to_owned();
        match e {
            pem::Error::NoItemsFound => Self::Empty { path, what },
            pem::Error::Io(source) => Self::Read { path, source },
            other => Self::Read {
                path,
                source: io::Error::other(other.to_string()),
            },
        }
    }
}

impl From<TlsError> for Failure {
    fn from(e: TlsError) -> Self {
        Self::failed(&e).hint("--tls-cert takes a PEM chain, --tls-key the PEM key that fits it")
    }
}

/// Reads a certificate chain and its key.
///
/// # Errors
/// When they cannot be read or do not fit each other.
pub fn load(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(cert)?;
    let key = private_key(key)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let what = "certificate";
    let chain: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|e| TlsError::of(path, what, e))?;
    if chain.is_empty() {
        return Err(TlsError::of(path, what, pem::Error::NoItemsFound));
    }
    Ok(chain)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|e| TlsError::of(path, "private key", e))
}
