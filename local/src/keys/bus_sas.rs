//! A Service Bus SAS: how one is signed, and what is read of one that is shown.
//!
//! # Sources
//! "Service Bus access control with Shared Access Signatures" (token format, what is signed).

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use super::{SasRefusal, ring};

/// Everything but letters, digits, `-`, `.`, `_` and `~`: what RFC 3986 leaves unreserved.
pub(super) const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The parts of a Service Bus SAS that are checked.
pub(super) struct BusSas<'a> {
    /// `sr` as it was sent, a line feed, and `se`.
    pub(super) signed: String,
    pub(super) signature: Vec<u8>,
    pub(super) expires_at: i64,
    pub(super) key_name: Cow<'a, str>,
    /// In lower case, without a port.
    pub(super) host: String,
    pub(super) scope: String,
}

impl<'a> BusSas<'a> {
    pub(super) fn parse(token: &'a str) -> Result<Self, SasRefusal> {
        let malformed = |what: &str| SasRefusal::Malformed(what.to_owned());
        let fields = token
            .trim()
            .strip_prefix("SharedAccessSignature ")
            .ok_or_else(|| malformed("it does not begin with 'SharedAccessSignature '"))?;
        let (mut sr, mut sig, mut se, mut skn) = (None, None, None, None);
        for field in fields.trim_start().split('&') {
            let (name, value) = field.split_once('=').ok_or_else(|| malformed("a field has no '='"))?;
            match name {
                "sr" => sr = Some(value),
                "sig" => sig = Some(value),
                "se" => se = Some(value),
                "skn" => skn = Some(value),
                _ => {}
            }
        }
        let sr = sr.ok_or_else(|| malformed("'sr' is missing"))?;
        let sig = sig.ok_or_else(|| malformed("'sig' is missing"))?;
        let se = se.ok_or_else(|| malformed("'se' is missing"))?;
        let skn = skn.ok_or_else(|| malformed("'skn' is missing"))?;
        let decode = |value: &'a str, name: &str| {
            percent_decode_str(value).decode_utf8().map_err(|_| malformed(&format!("'{name}' is not UTF-8")))
        };
        let signature =
            STANDARD.decode(decode(sig, "sig")?.as_bytes()).map_err(|_| malformed("'sig' is not base64"))?;
        let (host, scope) = resource_of(&decode(sr, "sr")?);
        Ok(Self {
            signed: format!("{sr}\n{se}"),
            signature,
            expires_at: se.parse().map_err(|_| malformed("'se' is not a number of seconds"))?,
            key_name: decode(skn, "skn")?,
            host,
            scope,
        })
    }
}

pub(super) fn sign(resource: &str, key_name: &str, key: &[u8], expires_at: i64) -> String {
    let sr = utf8_percent_encode(resource, RESERVED).to_string();
    let signature = STANDARD.encode(ring::hmac(key, format!("{sr}\n{expires_at}").as_bytes()));
    format!(
        "SharedAccessSignature sr={sr}&sig={}&se={expires_at}&skn={}",
        utf8_percent_encode(&signature, RESERVED),
        utf8_percent_encode(key_name, RESERVED),
    )
}

pub(super) fn bus_key_name_of(tenant: &str) -> String {
    format!("listen-{tenant}")
}

/// `sb://Host:5671/Exports/` → `host` and `exports`. Scheme, port and case are not compared.
fn resource_of(resource: &str) -> (String, String) {
    let below_scheme = resource.split_once("://").map_or(resource, |(_, rest)| rest);
    let (host, path) = below_scheme.split_once('/').unwrap_or((below_scheme, ""));
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    (host.to_lowercase(), normal_path(path))
}

/// Whatever name of this machine a client reached us by, it is the same namespace.
pub(super) fn is_loopback(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}

pub(super) fn normal_path(path: &str) -> String {
    path.trim_matches('/').to_lowercase()
}
