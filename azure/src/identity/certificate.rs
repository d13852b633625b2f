//! Certificate and key from files: PEM or PKCS#12, as their first bytes say.

use std::path::Path;

use rustls::{
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::ClientCertificate;

/// What is wrong with the files, and what helps.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub(super) struct CertificateProblem(pub(super) String);

/// A certificate with its key.
#[derive(Debug)]
pub(super) struct Certified {
    pub(super) der: CertificateDer<'static>,
    pub(super) key: CertifiedKey,
    from: OffsetDateTime,
    pub(super) until: OffsetDateTime,
}

/// Not to be surprised on a Sunday.
const WARN_BEFORE: time::Duration = time::Duration::days(14);

/// The newest certificate of the files that is valid at `now`.
///
/// # Errors
/// [`CertificateProblem`] names the file, or says until when each was valid.
pub(super) fn newest(of: &ClientCertificate, now: OffsetDateTime) -> Result<Certified, CertificateProblem> {
    let mut all = Vec::new();
    let mut problems = Vec::new();
    for file in &of.files {
        match read(file, of.password.as_ref().map(crate::Secret::expose)) {
            Ok(found) => all.extend(found),
            // The next one may just be put there; the others still count.
            Err(problem) => problems.push(problem),
        }
    }
    for CertificateProblem(problem) in &problems {
        tracing::warn!(problem, "a client certificate cannot be used");
    }
    let (valid, over): (Vec<Certified>, Vec<Certified>) =
        all.into_iter().partition(|certified| certified.from <= now && now < certified.until);
    let newest = valid.into_iter().max_by_key(|certified| certified.from);
    let Some(newest) = newest else {
        if let Some(problem) = problems.into_iter().next() {
            return Err(problem);
        }
        let lives: Vec<String> =
            over.iter().map(|certified| format!("{} to {}", certified.from, certified.until)).collect();
        return Err(CertificateProblem(format!(
            "no client certificate is valid at {now} (valid from {}); put a new one beside it, or check this machine's clock",
            lives.join(", from ")
        )));
    };
    if newest.until - now < WARN_BEFORE {
        tracing::warn!(until = %newest.until, "the client certificate ends soon; put the next one beside it");
    }
    Ok(newest)
}

fn read(file: &Path, password: Option<&str>) -> Result<Vec<Certified>, CertificateProblem> {
    let problem = |what: String| CertificateProblem(format!("client certificate {}: {what}", file.display()));
    let bytes = std::fs::read(file).map_err(|error| problem(error.to_string()))?;
    let is_pem = bytes.windows(11).any(|window| window == b"-----BEGIN ");
    let (certificates, keys) =
        if is_pem { from_pem(&bytes) } else { from_pkcs12(&bytes, password) }.map_err(problem)?;
    if certificates.is_empty() {
        return Err(problem("there is no certificate in it".to_owned()));
    }
    if keys.is_empty() {
        return Err(problem("there is no private key in it".to_owned()));
    }
    let mut found = Vec::new();
    for der in certificates {
        // A certificate of the chain has no key here.
        let Some(key) = keys.iter().find_map(|key| matching(&der, key)) else { continue };
        let (_, parsed) =
            X509Certificate::from_der(&der).map_err(|_| problem("a certificate in it is damaged".to_owned()))?;
        let instant = |at: x509_parser::time::ASN1Time| at.to_datetime();
        let (from, until) = (instant(parsed.validity().not_before), instant(parsed.validity().not_after));
        found.push(Certified { key, from, until, der });
    }
    if found.is_empty() {
        return Err(problem("the private key in it is of none of its certificates, or is no RSA key".to_owned()));
    }
    Ok(found)
}

type Parts = (Vec<CertificateDer<'static>>, Vec<PrivateKeyDer<'static>>);

fn from_pem(bytes: &[u8]) -> Result<Parts, String> {
    let damaged = |_| "a certificate or key in it is damaged".to_owned();
    let certificates = CertificateDer::pem_slice_iter(bytes).collect::<Result<_, _>>().map_err(damaged)?;
    let keys: Vec<PrivateKeyDer<'static>> =
        PrivateKeyDer::pem_slice_iter(bytes).collect::<Result<_, _>>().map_err(damaged)?;
    let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    if keys.is_empty() && bytes.windows(encrypted.len()).any(|window| window == encrypted) {
        return Err(
            "its key is encrypted; PEM keys stand there in the clear, or use a PKCS#12 file and its password".into()
        );
    }
    Ok((certificates, keys))
}

fn from_pkcs12(bytes: &[u8], password: Option<&str>) -> Result<Parts, String> {
    let archive = p12_keystore::Pkcs12Archive::from_pkcs12(bytes, password.unwrap_or_default()).map_err(|error| {
        let which = if password.is_some() { "with the password given" } else { "without a password" };
        format!("it is neither PEM nor PKCS#12 that can be read {which} ({error})")
    })?;
    let certificates = archive.certs.iter().map(|bag| CertificateDer::from(bag.cert.as_der().to_vec())).collect();
    let keys = archive.keys.iter().map(|bag| PrivatePkcs8KeyDer::from(bag.key.as_der().to_vec()).into()).collect();
    Ok((certificates, keys))
}

/// Both, when the key is the certificate's and RSA: Entra ID takes no other kind.
fn matching(certificate: &CertificateDer<'static>, key: &PrivateKeyDer<'static>) -> Option<CertifiedKey> {
    let provider = aws_lc_rs::default_provider();
    let certified = CertifiedKey::from_der(vec![certificate.clone()], key.clone_key(), &provider).ok()?;
    (certified.key.algorithm() == rustls::SignatureAlgorithm::RSA).then_some(certified)
}
