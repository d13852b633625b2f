//! The address of a file, as a message gives it, and whether it lies where a grant allows.
//!
//! The text is taken apart here and not by [`url::Url`], which repairs what it reads: it would resolve dot segments,
//! turn backslashes into slashes and drop line ends before anyone could refuse them.
//!
//! Errors name the rule and never quote the address: a token may hide anywhere in it.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use url::{Host, Url};

use crate::{BlobPath, Reason};

/// Everything but RFC 3986's unreserved characters is escaped in a path segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// An account (24), a container (63) and a blob's name (1,024) with the slashes between. Source: Microsoft, "Naming and
/// referencing containers, blobs, and metadata".
const PATH_CHARACTERS_MAX: usize = 24 + 1 + 63 + 1 + 1_024;

/// A `uri` that may be fetched: https (http for loopback only), no userinfo, no fragment, no dot segments, no encoded
/// slashes; its query was dropped.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BlobUri {
    /// Scheme, host and port in lower case, without a default port: `https://myaccount.blob.core.windows.net`.
    pub origin: String,
    /// Every path segment, decoded; at least two. Whether the first is an account (`http://127.0.0.1:10000/devstoreaccount1/…`)
    /// or the container is known only when compared with a grant; see [`BlobUri::under`].
    pub segments: Vec<String>,
}

/// Why a `uri` will not be fetched.
#[derive(Debug, thiserror::Error)]
#[error("uri {problem}")]
pub struct BlobUriError {
    /// For the inbox.
    pub reason: Reason,
    problem: &'static str,
}

impl BlobUriError {
    fn new(problem: &'static str) -> Self {
        Self { reason: Reason::BadUri, problem }
    }
}

impl BlobUri {
    /// Parses an address by the rules above. Characters outside ASCII and spaces may stand unescaped: some clients
    /// write them so.
    ///
    /// # Errors
    /// `bad-uri`, naming the rule. The text of the error holds nothing of the address.
    pub fn parse(text: &str) -> Result<Self, BlobUriError> {
        if text.chars().any(char::is_control) {
            return Err(BlobUriError::new("holds a control character"));
        }
        if text.contains('\\') {
            return Err(BlobUriError::new("holds a backslash"));
        }
        if text.contains('#') {
            return Err(BlobUriError::new("has a fragment; escape a '#' in a blob's name as %23"));
        }
        let (scheme, rest) = text.split_once("://").ok_or(BlobUriError::new("is not an absolute https address"))?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return Err(BlobUriError::new("is not an https address")),
        };
        let (address, _query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = address.split_once('/').ok_or(BlobUriError::new("names no blob"))?;
        Ok(Self { origin: origin(secure, authority)?, segments: segments(path)? })
    }

    /// The blob's name when this address lies in `container` at `endpoint` (a grant's, which may carry a path such as
    /// `/devstoreaccount1`), else `None`. Scheme, host, port, account and container must all be the same.
    #[must_use]
    pub fn under(&self, endpoint: &Url, container: &str) -> Option<BlobPath> {
        if endpoint.origin().ascii_serialization() != self.origin {
            return None;
        }
        let mut own = self.segments.iter();
        for segment in endpoint.path().split('/').filter(|segment| !segment.is_empty()) {
            let segment = percent_decode_str(segment).decode_utf8().ok()?;
            if *own.next()? != segment {
                return None;
            }
        }
        if own.next()? != container {
            return None;
        }
        BlobPath::new(own.as_slice().join("/")).ok()
    }

    /// The address without its query, in one normal spelling: the identity of a file without an exportId.
    #[must_use]
    pub fn normalised(&self) -> String {
        let mut text = self.origin.clone();
        for segment in &self.segments {
            text.push('/');
            text.push_str(&encode_segment(segment));
        }
        text
    }
}

/// A path segment as it stands in a URL.
pub(crate) fn encode_segment(segment: &str) -> String {
    utf8_percent_encode(segment, SEGMENT).to_string()
}

fn origin(secure: bool, authority: &str) -> Result<String, BlobUriError> {
    if authority.contains('@') {
        return Err(BlobUriError::new("carries a user name; publish it without one"));
    }
    // A bracket ends an IPv6 address; the colons within it are no port.
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    if host.contains(['%', ' ']) {
        return Err(BlobUriError::new("has an escaped host"));
    }
    let host = Host::parse(host).map_err(|_| BlobUriError::new("has no valid host"))?;
    if !secure && !is_loopback(&host) {
        return Err(BlobUriError::new("is not an https address; http is taken for loopback only"));
    }
    let port = match port {
        None | Some("") => None,
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => {
            let port = digits.parse::<u16>().ok().filter(|port| *port > 0);
            Some(port.ok_or(BlobUriError::new("has a port outside 1 to 65535"))?)
        }
        Some(_) => return Err(BlobUriError::new("has a port that is no number")),
    };
    let (scheme, default_port) = if secure { ("https", 443) } else { ("http", 80) };
    Ok(match port {
        Some(port) if port != default_port => format!("{scheme}://{host}:{port}"),
        _ => format!("{scheme}://{host}"),
    })
}

/// 127.0.0.0/8, `::1` and the name `localhost`: nothing else is reached without a network.
pub(crate) fn is_loopback<S: AsRef<str>>(host: &Host<S>) -> bool {
    match host {
        Host::Domain(name) => name.as_ref().eq_ignore_ascii_case("localhost"),
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    }
}

fn segments(path: &str) -> Result<Vec<String>, BlobUriError> {
    let segments = path.split('/').map(segment).collect::<Result<Vec<_>, _>>()?;
    if segments.len() < 2 {
        return Err(BlobUriError::new("names no blob in a container"));
    }
    let characters: usize = segments.iter().map(|segment| segment.chars().count() + 1).sum();
    if characters > PATH_CHARACTERS_MAX + 1 {
        return Err(BlobUriError::new("is longer than a blob's address can be"));
    }
    Ok(segments)
}

fn segment(raw: &str) -> Result<String, BlobUriError> {
    if raw.is_empty() {
        return Err(BlobUriError::new("has an empty path segment"));
    }
    let escapes_are_whole = raw.split('%').skip(1).all(|after| {
        let mut digits = after.bytes();
        (0..2).all(|_| digits.next().is_some_and(|digit| digit.is_ascii_hexdigit()))
    });
    if !escapes_are_whole {
        return Err(BlobUriError::new("has a '%' without two hexadecimal digits after it"));
    }
    let decoded = percent_decode_str(raw)
        .decode_utf8()
        .map_err(|_| BlobUriError::new("has escapes that are not UTF-8"))?
        .into_owned();
    if decoded.contains(['/', '\\']) {
        return Err(BlobUriError::new("has an escaped slash or backslash"));
    }
    if decoded.chars().any(char::is_control) {
        return Err(BlobUriError::new("holds an escaped control character"));
    }
    if decoded == "." || decoded == ".." {
        return Err(BlobUriError::new("has a dot segment"));
    }
    Ok(decoded)
}
