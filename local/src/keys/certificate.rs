//! Public keys of X.509 certificates, and the thumbprints by which tokens name them.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use x509_parser::{pem::Pem, prelude::parse_x509_certificate, public_key::PublicKey};

use crate::tls::CertificateError;

/// Shortest RSA key that is taken, as everywhere today.
const BITS_MIN: usize = 2048;

/// A certificate with an RSA key.
pub(crate) struct Certificate {
    /// Thumbprints in base64 for URLs, as `x5t` and `x5t#S256` have them.
    sha1: String,
    sha256: String,
    /// The first in hexadecimal, as the portal shows it and some clients put it into `kid`.
    sha1_hex: String,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
    key: DecodingKey,
    valid_from: i64,
    valid_to: i64,
}

impl Certificate {
    /// The certificates in a PEM text, whose other parts, a key for example, are passed over.
    pub(crate) fn all_in_pem(pem: &[u8]) -> Result<Vec<Self>, CertificateError> {
        let mut certificates = Vec::new();
        for part in Pem::iter_from_buffer(pem) {
            let part = part.map_err(|error| CertificateError::Read(format!("is no PEM: {error}")))?;
            if part.label == "CERTIFICATE" {
                certificates.push(Self::from_der(&part.contents)?);
            }
        }
        if certificates.is_empty() {
            return Err(CertificateError::Read("holds no certificate; it needs a part BEGIN CERTIFICATE".to_owned()));
        }
        Ok(certificates)
    }

    pub(crate) fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let refuse = |text: &str| CertificateError::Read(text.to_owned());
        let (_, certificate) = parse_x509_certificate(der)
            .map_err(|error| CertificateError::Read(format!("holds a malformed certificate: {error}")))?;
        let Ok(PublicKey::RSA(key)) = certificate.public_key().parsed() else {
            return Err(refuse("holds a certificate whose key is not RSA; RS256 and PS256 need one"));
        };
        // DER puts a zero before a number that would else be negative.
        let unsigned = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
        let (modulus, exponent) = (unsigned(key.modulus), unsigned(key.exponent));
        if modulus.len() * 8 < BITS_MIN {
            return Err(refuse("holds a certificate whose key is too short; it needs 2048 bits"));
        }
        let sha1 = Sha1::digest(der);
        Ok(Self {
            sha1: URL_SAFE_NO_PAD.encode(sha1),
            sha256: URL_SAFE_NO_PAD.encode(Sha256::digest(der)),
            sha1_hex: sha1.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02X}")),
            key: DecodingKey::from_rsa_raw_components(&modulus, &exponent),
            modulus,
            exponent,
            valid_from: certificate.validity().not_before.timestamp(),
            valid_to: certificate.validity().not_after.timestamp(),
        })
    }

    pub(crate) fn sha1(&self) -> &str {
        &self.sha1
    }

    pub(crate) fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Whether `kid` is one of the ways to write its thumbprint.
    pub(crate) fn is_called(&self, kid: &str) -> bool {
        kid == self.sha1 || kid == self.sha256 || kid.eq_ignore_ascii_case(&self.sha1_hex)
    }

    /// Whether it holds at a time, in seconds since 1970.
    pub(crate) fn holds(&self, now: i64) -> bool {
        (self.valid_from..=self.valid_to).contains(&now)
    }

    pub(crate) fn key(&self) -> &DecodingKey {
        &self.key
    }

    /// Modulus and exponent.
    pub(crate) fn components(&self) -> (&[u8], &[u8]) {
        (&self.modulus, &self.exponent)
    }
}
