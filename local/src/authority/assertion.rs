//! A client's assertion: a JWT that it signed with the key of a certificate that is registered for it.
//!
//! # Sources
//! "Microsoft identity platform application authentication certificate credentials" (header, claims; `exp` may be as far
//! away as the client likes); RFC 7523, section 3.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use jsonwebtoken::{Algorithm, Header};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use time::{OffsetDateTime, macros::format_description};

use super::refusal::Refusal;
use crate::keys::{Application, Certificate};
use crate::log::printable;

/// The `client_assertion_type` of RFC 7523.
pub(crate) const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// How far a client's clock may be off.
const SKEW_S: f64 = 300.0;

/// Assertions remembered; more that are still good are a client's mistake.
const REMEMBERED_MAX: usize = 10_000;

/// What an assertion says. Numbers may be fractions (RFC 7519, section 2).
#[derive(Debug, Deserialize)]
struct Claims {
    aud: Option<String>,
    iss: Option<String>,
    sub: Option<String>,
    jti: Option<String>,
    nbf: Option<f64>,
    exp: Option<f64>,
}

/// Assertions that were used, by client and the hash of their `jti`, which may be as long as the client likes.
#[derive(Debug, Default)]
pub(crate) struct Used(Mutex<HashMap<(String, [u8; 32]), Use>>);

#[derive(Debug)]
struct Use {
    exp: f64,
    /// Of the assertion.
    hash: [u8; 32],
}

impl Used {
    /// Notes a use. Another assertion with the same `jti` is refused; the same one again only if `once`, since
    /// Microsoft's libraries show one assertion for as long as it lives.
    fn note(&self, client: &str, jti: &str, assertion: &str, exp: f64, once: bool, now: f64) -> Result<(), Refusal> {
        let hash: [u8; 32] = Sha256::digest(assertion).into();
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (client.to_owned(), Sha256::digest(jti).into());
        if let Some(known) = used.get(&key) {
            if once || known.hash != hash {
                let text =
                    format!("Assertion is invalid: an assertion with the jti '{}' was used before.", printable(jti));
                return Err(Refusal::client(50_013, text));
            }
            return Ok(());
        }
        if used.len() >= REMEMBERED_MAX {
            used.retain(|_, known| known.exp + SKEW_S > now);
        }
        if used.len() >= REMEMBERED_MAX {
            let text = format!("{REMEMBERED_MAX} assertions that are still good were used; let them live shorter.");
            return Err(Refusal::new(http::StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", 90_033, text));
        }
        used.insert(key, Use { exp, hash });
        Ok(())
    }
}

/// What an assertion is checked against.
pub(crate) struct Check<'a> {
    pub(crate) application: &'a Application,
    /// Whether an audience names this authority.
    pub(crate) is_audience: &'a dyn Fn(&str) -> bool,
    pub(crate) used: &'a Used,
    /// Whether an assertion may be used only once.
    pub(crate) once: bool,
    pub(crate) now: OffsetDateTime,
}

impl Check<'_> {
    /// Whether the assertion proves that its sender is the application.
    pub(crate) fn assertion(&self, assertion: &str) -> Result<(), Refusal> {
        let malformed =
            |problem: String| Refusal::request(50_027, format!("JWT token is invalid or malformed: {problem}."));
        // The asynchronous `azure-identity` for Python pads its base64: it is read without, and was signed with it.
        let bare = assertion.replace('=', "");
        let header = jsonwebtoken::decode_header(&bare).map_err(|error| malformed(error.to_string()))?;
        if !matches!(header.alg, Algorithm::RS256 | Algorithm::PS256) {
            let text = format!(
                "Invalid JWT token. '{:?}' is not a supported signature algorithm. Supported are RS256 and PS256.",
                header.alg
            );
            return Err(Refusal::client(5_002_738, text));
        }
        // What an assertion calls critical must be understood, and we know no extension (RFC 7515, section 4.1.11).
        if header.crit.is_some() {
            return Err(malformed("its header has 'crit', and no extension is supported".to_owned()));
        }
        let certificate = self.certificate(&header)?;
        if !certificate.holds(self.now.unix_timestamp()) {
            return Err(unproven("The key used is expired.", certificate));
        }
        let (signed, signature) = assertion.rsplit_once('.').unwrap_or_default();
        let signature = signature.trim_end_matches('=');
        match jsonwebtoken::crypto::verify(signature, signed.as_bytes(), certificate.key(), header.alg) {
            Ok(true) => {}
            Ok(false) => {
                return Err(unproven("The key used to sign the assertion is not the certificate's.", certificate));
            }
            Err(error) => return Err(malformed(error.to_string())),
        }
        let claims: Claims =
            jsonwebtoken::dangerous::insecure_decode_claims(&bare).map_err(|error| malformed(error.to_string()))?;
        self.claims(&claims, assertion)
    }

    fn certificate(&self, header: &Header) -> Result<&Certificate, Refusal> {
        let certificates = &self.application.certificates;
        // MSAL for Python pads its base64.
        let find = |name: &str, is: &dyn Fn(&Certificate, &str) -> bool| {
            certificates.iter().find(|known| is(known, name.trim_end_matches('=')))
        };
        let (name, found) = match (&header.x5t_s256, &header.x5t, &header.kid) {
            (Some(name), _, _) => (name.as_str(), find(name, &|known, name| known.sha256() == name)),
            (None, Some(name), _) => (name.as_str(), find(name, &|known, name| known.sha1() == name)),
            (None, None, Some(name)) => (name.as_str(), find(name, &Certificate::is_called)),
            (None, None, None) => ("none", None),
        };
        found.ok_or_else(|| {
            let text = format!(
                "The certificate with identifier used to sign the client assertion is not registered on application. \
                 [Reason - The key was not found., Thumbprint of key used by client: '{name}', application '{}'. Name it \
                 in the assertion's header as x5t#S256, x5t or kid.]",
                self.application.id
            );
            Refusal::client(700_027, text)
        })
    }

    fn claims(&self, claims: &Claims, assertion: &str) -> Result<(), Refusal> {
        let id = &self.application.id;
        for (name, value) in [("iss", &claims.iss), ("sub", &claims.sub)] {
            if value.as_ref().is_none_or(|value| !value.eq_ignore_ascii_case(id)) {
                let text = format!(
                    "Client assertion application identifier doesn't match 'client_id' parameter: '{name}' must be '{id}'."
                );
                return Err(Refusal::client(700_021, text));
            }
        }
        let audience = claims.aud.as_deref().unwrap_or_default();
        if !(self.is_audience)(audience) {
            let text = format!(
                "Client assertion audience claim does not match Realm issuer: 'aud' is '{audience}' and must be the token \
                 endpoint or the issuer."
            );
            return Err(Refusal::client(700_023, text));
        }
        let now = self.now.unix_timestamp_nanos() as f64 / 1e9;
        let (from, until) = (claims.nbf.unwrap_or(f64::MIN), claims.exp.unwrap_or(f64::MIN));
        if now + SKEW_S < from || now - SKEW_S >= until {
            let text = format!(
                "Client assertion is not within its valid time range. Current time: {}, assertion valid from {}, expiry \
                 time of assertion {}.",
                written(now),
                claims.nbf.map_or_else(|| "any time".to_owned(), written),
                claims.exp.map_or_else(|| "missing".to_owned(), written),
            );
            return Err(Refusal::client(700_024, text));
        }
        // One that has no name is known by itself.
        let jti = claims.jti.as_deref().unwrap_or(assertion);
        self.used.note(id, jti, assertion, until, self.once, now)
    }
}

fn unproven(reason: &str, certificate: &Certificate) -> Refusal {
    let text = format!(
        "Client assertion failed signature validation. [Reason - {reason}, Thumbprint of key used by client: '{}']",
        certificate.sha1()
    );
    Refusal::client(700_027, text)
}

fn written(seconds: f64) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    let at = OffsetDateTime::from_unix_timestamp(seconds as i64).ok();
    at.and_then(|at| at.format(&format).ok()).unwrap_or_else(|| seconds.to_string())
}
