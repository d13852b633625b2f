//! The `Authorization: SharedKey account:signature` header.
//!
//! # Sources
//! "Authorize with Shared Key" of the storage REST reference, version 2015-02-21 and later.

use std::cmp::Ordering;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, header};
use time::{
    OffsetDateTime, PrimitiveDateTime,
    format_description::{BorrowedFormatItem, well_known::Rfc2822},
    macros::format_description,
};

use super::{
    ring,
    storage_sas::{StorageRefusal, StorageRequest},
};

/// How far a request's date may lie from ours, in seconds.
const CLOCK_SKEW_S: i64 = 15 * 60;

const RFC1123: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// Headers that are signed by place, in this order.
const SIGNED_HEADERS: [&str; 11] = [
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
];

/// Checks the header against the account key. `now` in seconds since 1970.
pub(super) fn check(
    account: &str,
    key: &[u8],
    authorization: &HeaderValue,
    request: &StorageRequest<'_>,
    now: i64,
) -> Result<(), StorageRefusal> {
    use StorageRefusal::AuthenticationFailed;
    let header = authorization.to_str().map_err(|_| AuthenticationFailed("the Authorization header is not text"))?;
    let Some(credential) = header.strip_prefix("SharedKey ") else {
        return Err(AuthenticationFailed(
            "the Authorization header is neither SharedKey nor Bearer; SharedKeyLite is not supported",
        ));
    };
    let (name, signature) = credential
        .trim()
        .split_once(':')
        .ok_or(AuthenticationFailed("the Authorization header is not 'SharedKey account:signature'"))?;
    if name != account || request.account != account {
        return Err(AuthenticationFailed("the Authorization header names another account"));
    }
    let signature = STANDARD.decode(signature).map_err(|_| AuthenticationFailed("the signature is not base64"))?;
    check_date(request.headers, now)?;
    // Clients sort names by byte; the service is said to sort as .NET does, with hyphens ignored. Both are taken.
    let accepted = [by_byte as Order, as_dotnet]
        .into_iter()
        .any(|order| ring::matches(key, string_to_sign(account, request, order).as_bytes(), &signature));
    if accepted {
        Ok(())
    } else {
        Err(AuthenticationFailed(
            "The MAC signature found in the HTTP request is not the same as any computed signature.",
        ))
    }
}

fn check_date(headers: &HeaderMap, now: i64) -> Result<(), StorageRefusal> {
    use StorageRefusal::AuthenticationFailed;
    let date = headers
        .get("x-ms-date")
        .or_else(|| headers.get(header::DATE))
        .and_then(|value| value.to_str().ok())
        .ok_or(AuthenticationFailed("the request has neither an x-ms-date nor a Date header"))?;
    let date = PrimitiveDateTime::parse(date, RFC1123)
        .map(PrimitiveDateTime::assume_utc)
        .or_else(|_| OffsetDateTime::parse(date, &Rfc2822))
        .map_err(|_| AuthenticationFailed("the date header is not as RFC 1123 writes it"))?;
    if (date.unix_timestamp() - now).abs() > CLOCK_SKEW_S {
        return Err(AuthenticationFailed("the request's date lies more than 15 minutes from the server's"));
    }
    Ok(())
}

type Order = fn(&str, &str) -> Ordering;

fn by_byte(left: &str, right: &str) -> Ordering {
    left.cmp(right)
}

/// Hyphens count only between names that are equal without them; punctuation comes before digits before letters.
fn as_dotnet(left: &str, right: &str) -> Ordering {
    let weights = |name: &str| -> Vec<(u8, u8)> {
        name.bytes()
            .filter(|byte| *byte != b'-')
            .map(|byte| match byte {
                b'a'..=b'z' => (2, byte),
                b'0'..=b'9' => (1, byte),
                _ => (0, byte),
            })
            .collect()
    };
    weights(left).cmp(&weights(right)).then_with(|| left.cmp(right))
}

fn string_to_sign(account: &str, request: &StorageRequest<'_>, order: Order) -> String {
    let mut signed = String::with_capacity(512);
    signed.push_str(request.method.as_str());
    signed.push('\n');
    for name in SIGNED_HEADERS {
        let value = match name {
            "date" if request.headers.contains_key("x-ms-date") => "",
            "content-length" => match text(request.headers, name) {
                "0" => "",
                length => length,
            },
            _ => text(request.headers, name),
        };
        signed.push_str(value);
        signed.push('\n');
    }
    canonical_headers(request.headers, order, &mut signed);
    signed.push('/');
    signed.push_str(account);
    signed.push_str(request.path);
    canonical_query(request, &mut signed);
    signed
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("")
}

fn canonical_headers(headers: &HeaderMap, order: Order, signed: &mut String) {
    let mut names: Vec<&str> =
        headers.keys().map(header::HeaderName::as_str).filter(|name| name.starts_with("x-ms-")).collect();
    names.sort_by(|left, right| order(left, right));
    for name in names {
        signed.push_str(name);
        signed.push(':');
        for (index, value) in headers.get_all(name).iter().enumerate() {
            if index > 0 {
                signed.push(',');
            }
            signed.push_str(String::from_utf8_lossy(value.as_bytes()).trim());
        }
        signed.push('\n');
    }
}

fn canonical_query(request: &StorageRequest<'_>, signed: &mut String) {
    let mut pairs: Vec<(&str, &str)> = request.query.iter().collect();
    pairs.sort_unstable();
    let mut previous = None;
    for (name, value) in pairs {
        if previous == Some(name) {
            signed.push(',');
        } else {
            signed.push('\n');
            signed.push_str(name);
            signed.push(':');
        }
        signed.push_str(value);
        previous = Some(name);
    }
}
