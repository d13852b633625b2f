//! The certificates of one run: an authority that is made at the start and whose key nobody keeps, and what it signed.
//!
//! Clients trust the authority's certificate, which is written to a file; the next run has another one.

use std::{net::IpAddr, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use time::OffsetDateTime;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{self, ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer},
};

/// How clients on this machine reach us; the certificate bears it whatever else it bears.
pub(crate) const HOST: &str = "localhost";
/// How long the certificates hold: longer than anybody lets a development server run, shorter than the 825 days beyond
/// which Apple's clients refuse.
const LIFE: time::Duration = time::Duration::days(365);
/// A client's clock may be behind ours.
const EARLIER: time::Duration = time::Duration::DAY;

/// Why a certificate could not be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// Keys or certificates.
    #[error("the certificates for TLS could not be made")]
    Generate(#[from] rcgen::Error),
    /// What was made does not fit together.
    #[error("the certificates for TLS cannot be served")]
    Serve(#[from] rustls::Error),
    /// One that was given cannot be used.
    #[error("{0}")]
    Read(String),
}

/// The authority's certificate, and a server certificate that it signed.
pub(crate) struct Certificates {
    ca_pem: String,
    server: ServerConfig,
}

impl Certificates {
    /// Makes new ones. The dates are the system clock's, because clients compare them with theirs.
    pub(crate) fn generate(host: Option<&str>) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let mut authority = dated("waybill-local development authority");
        authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_pem = authority.self_signed(&key)?.pem();
        let issuer = Issuer::new(authority, key);

        let key = KeyPair::generate()?;
        let mut server = dated(HOST);
        server.subject_alt_names = vec![
            SanType::DnsName(HOST.try_into()?),
            SanType::IpAddress(IpAddr::from([127, 0, 0, 1])),
            SanType::IpAddress(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1_u16])),
        ];
        if let Some(host) = host {
            server.subject_alt_names.push(SanType::DnsName(host.try_into()?));
        }
        server.is_ca = IsCa::ExplicitNoCa;
        server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        server.use_authority_key_identifier_extension = true;
        let certificate = server.signed_by(&key, &issuer)?;
        let server = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))?;
        Ok(Self { ca_pem, server })
    }

    /// What clients are to trust.
    pub(crate) fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// Accepts TLS, for these application protocols (none: the client need not name one).
    pub(crate) fn acceptor(&self, protocols: &[&str]) -> TlsAcceptor {
        let mut config = self.server.clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A certificate's name and life.
pub(crate) fn dated(name: &str) -> CertificateParams {
    let now = OffsetDateTime::now_utc();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = now - EARLIER;
    params.not_after = now + LIFE;
    params
}

/// A client that trusts one authority.
#[cfg(test)]
pub(crate) fn test_connector(ca_pem: &str) -> tokio_rustls::TlsConnector {
    use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject as _};
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config).into()
}
