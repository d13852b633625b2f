//! TLS as a client: the system's trust store, and the authorities of a file besides.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Goes over to TLS with `host`.
///
/// # Errors
/// [`TlsError`].
pub(super) async fn connect<S>(host: &str, stream: S, ca_file: Option<&Path>) -> Result<TlsStream<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = tls_config(ca_file.map(Path::to_owned)).await.map_err(TlsError::Setup)?;
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| TlsError::Setup("the host is neither a DNS name nor an IP address".to_owned()))?;
    TlsConnector::from(config).connect(name, stream).await.map_err(|error| TlsError::Handshake(error.to_string()))
}

/// Why there is no TLS.
#[derive(Debug)]
pub(super) enum TlsError {
    /// On this side; trying again does not help.
    Setup(String),
    /// With the other side.
    Handshake(String),
}

/// The system's trust store and the extra authorities of `ca_file`; read at each connect, so a changed file counts.
async fn tls_config(ca_file: Option<PathBuf>) -> Result<Arc<ClientConfig>, String> {
    let load = move || {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let extra = match &ca_file {
            Some(file) => authorities(file)?,
            None => Vec::new(),
        };
        let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, Arc::clone(&provider))
            .map_err(|error| format!("cannot load certificate authorities: {error}"))?;
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("cannot set up TLS: {error}"))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Arc::new(config))
    };
    tokio::task::spawn_blocking(load).await.unwrap_or_else(|error| Err(format!("cannot set up TLS: {error}")))
}

fn authorities(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let fault =
        |error: &dyn fmt::Display| format!("cannot read certificate authorities from {}: {error}", file.display());
    let authorities: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file).map_err(|error| fault(&error))?.collect();
    let authorities = authorities.map_err(|error| fault(&error))?;
    if authorities.is_empty() { Err(fault(&"it holds no PEM certificate")) } else { Ok(authorities) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bad_authority_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        let error = tls_config(Some(file.clone())).await.unwrap_err();
        assert!(error.contains("ca.pem"), "{error}");
        std::fs::write(&file, "not a certificate").unwrap();
        let error = tls_config(Some(file)).await.unwrap_err();
        assert!(error.contains("holds no PEM certificate"), "{error}");
    }
}
