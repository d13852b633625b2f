//! What the SDK sends its requests through: one grant's token, one check of where it goes, our HTTP client.
//!
//! The token is put on here, below everything of the SDK, so that its logging, its tracing and its errors never hold it.
//! A transport belongs to one grant and is made anew for every try.
//!
//! # Invariants
//! 1. The token goes to the scheme, host, port and container of its own grant, or nowhere.
//! 2. It goes over TLS, or to this machine.
//! 3. Only the body of a blob goes up. Of a refusal it is the status and the code: its text may quote a request, and be long.
//!
//! # Sources
//! Microsoft, "Authorize with Microsoft Entra ID" of the storage REST reference: `Authorization: Bearer`, over https, with an
//! `x-ms-version` of 2017-11-09 or later (the SDK's is newer).

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use azure_core::http::{
    AsyncRawResponse, Context, Method, Request,
    headers::{ERROR_CODE, HeaderName, HeaderValue, Headers},
    policies::{Policy, PolicyResult},
};
use futures::StreamExt;
use reqwest::header::AUTHORIZATION;
use url::Url;

use crate::{
    Grant, Token,
    blob::Traffic,
    http::{HttpClient, NoAnswer, bearer_header, may_carry_token, outgoing, read_up_to, without_query},
};

/// Every parameter that a SAS may consist of. None of them is a parameter of the calls that are made here.
///
/// # Sources
/// Microsoft, "Create a service SAS", "Create an account SAS", "Create a user delegation SAS".
const SAS_PARAMETERS: [&str; 31] = [
    "sv", "ss", "srt", "sr", "si", "st", "se", "sp", "sip", "spr", "sig", "sdd", "ses", "saoid", "suoid", "scid",
    "skoid", "sktid", "skt", "ske", "sks", "skv", "skdutid", "sduoid", "srh", "srq", "rscc", "rscd", "rsce", "rscl",
    "rsct",
];
/// A body that nobody needs is read up to here, to use the connection again and to find a refusal's code.
const UNUSED_BYTES_MAX: usize = 64 * 1024;
/// A page of a listing: 5,000 blobs with a kilobyte of name and six of other things each, which none of ours comes near.
const LISTING_BYTES_MAX: usize = 32 << 20;
/// A request's body gets a second more for every so many bytes: a slow uplink is no lost connection.
const UPLOAD_BYTES_PER_SECOND_MIN: u64 = 64 * 1024;

/// What went wrong below the SDK. It passes through the SDK's error and is taken out again above it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The token was not sent.
    #[error("the token was withheld: {0}")]
    Withheld(String),
    /// No answer, or half of one.
    #[error("{0}")]
    Lost(String),
    /// An answer that contradicts the request.
    #[error("{0}")]
    BadAnswer(String),
}

impl From<NoAnswer> for Fault {
    fn from(error: NoAnswer) -> Self {
        Self::Lost(error.0)
    }
}

impl From<Fault> for azure_core::Error {
    fn from(fault: Fault) -> Self {
        Self::new(azure_core::error::ErrorKind::Io, fault)
    }
}

/// The transport of one try.
pub(super) struct GrantTransport {
    http: HttpClient,
    grant: Grant,
    request_timeout: Duration,
    traffic: Arc<Traffic>,
}

impl fmt::Debug for GrantTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrantTransport").field("grant", &self.grant).finish_non_exhaustive()
    }
}

impl GrantTransport {
    pub(super) fn new(http: HttpClient, grant: Grant, request_timeout: Duration, traffic: Arc<Traffic>) -> Self {
        Self { http, grant, request_timeout, traffic }
    }

    /// The URL with the grant's token as its only SAS, or with none where the token is a header; refused unless it lies in the
    /// grant's container.
    pub(super) fn signed(&self, url: &Url) -> Result<Url, Fault> {
        let container = container_url(&self.grant).map_err(Fault::Withheld)?;
        let inside = url.scheme() == container.scheme()
            && url.host() == container.host()
            && url.port_or_known_default() == container.port_or_known_default()
            && url.username().is_empty()
            && url.password().is_none()
            && url
                .path()
                .strip_prefix(container.path())
                .is_some_and(|rest| rest.starts_with('/') || (rest.is_empty() && is_listing(url)));
        if !inside {
            let (there, here) = (without_query(url), without_query(&container));
            return Err(Fault::Withheld(format!("{there} is not in the grant's container {here}")));
        }
        if !may_carry_token(url) {
            let shown = without_query(url);
            return Err(Fault::Withheld(format!(
                "{shown} is neither https nor http on this machine; correct the grant's endpoint"
            )));
        }
        let mut query: String = url
            .query()
            .unwrap_or_default()
            .split('&')
            .filter(|pair| {
                let name = pair.split_once('=').map_or(*pair, |(name, _)| name);
                !name.is_empty() && !SAS_PARAMETERS.iter().any(|sas| name.eq_ignore_ascii_case(sas))
            })
            .flat_map(|pair| [pair, "&"])
            .collect();
        if let Token::Sas(sas) = &self.grant.token {
            query.push_str(sas.expose().trim_start_matches('?'));
        }
        let query = query.trim_end_matches('&');
        let mut signed = url.clone();
        signed.set_query((!query.is_empty()).then_some(query));
        Ok(signed)
    }

    /// The request with the grant's token.
    fn outgoing(&self, request: &Request) -> Result<reqwest::Request, Fault> {
        let mut outgoing = outgoing(request, self.signed(request.url())?).map_err(Fault::Withheld)?;
        // Nothing else says who we are.
        outgoing.headers_mut().remove(AUTHORIZATION);
        if let Token::Access(access) = &self.grant.token {
            let bearer = bearer_header(access).map_err(|error| Fault::Withheld(error.to_string()))?;
            outgoing.headers_mut().insert(AUTHORIZATION, bearer);
        }
        Ok(outgoing)
    }

    async fn exchange(&self, request: &Request) -> Result<AsyncRawResponse, Fault> {
        let outgoing = self.outgoing(request)?;
        let upload = Duration::from_secs(request.body().len().unwrap_or(0) / UPLOAD_BYTES_PER_SECOND_MIN);
        let response = self.traffic.request(self.http.send(outgoing, self.request_timeout + upload).await)?;
        let status = response.status().as_u16();
        let mut headers = answer_headers(response.headers());
        if !response.status().is_success() || request.method() != Method::Get {
            // No such answer has a body that we need, but one that is not read costs the connection.
            let body = tokio::time::timeout(self.request_timeout, read_up_to(response, UNUSED_BYTES_MAX)).await;
            if headers.get_optional_str(&ERROR_CODE).is_none()
                && let Ok(Ok(Some(body))) = body
                && let Some(code) = code_in(&body)
            {
                headers.insert(ERROR_CODE, code);
            }
            return Ok(AsyncRawResponse::from_bytes(status.into(), headers, Vec::new()));
        }
        if is_listing(request.url()) {
            // The SDK keeps a page whole, so its length is bounded here.
            let body = tokio::time::timeout(self.request_timeout, read_up_to(response, LISTING_BYTES_MAX)).await;
            let body = match body {
                Ok(Ok(Some(body))) => body,
                Ok(Ok(None)) => {
                    let problem = format!("a page of the listing is longer than {LISTING_BYTES_MAX} bytes");
                    return Err(Fault::BadAnswer(problem));
                }
                Ok(Err(_)) => return Err(Fault::Lost("the listing broke off".to_owned())),
                Err(_) => return Err(Fault::Lost(format!("no listing within {:?}", self.request_timeout))),
            };
            self.traffic.came(body.len());
            return Ok(AsyncRawResponse::from_bytes(status.into(), headers, body));
        }
        check_range(request, status, &headers)?;
        let traffic = Arc::clone(&self.traffic);
        let body = self.http.body(response).map(move |chunk| {
            let chunk = chunk.map_err(Fault::from)?;
            traffic.came(chunk.len());
            Ok::<_, azure_core::Error>(chunk)
        });
        Ok(AsyncRawResponse::new(status.into(), headers, Box::pin(body)))
    }
}

#[async_trait]
impl Policy for GrantTransport {
    async fn send(&self, _context: &Context, request: &mut Request, _next: &[Arc<dyn Policy>]) -> PolicyResult {
        Ok(self.exchange(request).await?)
    }
}

/// Where the grant's blobs lie, without a trailing slash.
///
/// # Errors
/// When the grant's endpoint cannot be the begin of an address.
pub(super) fn container_url(grant: &Grant) -> Result<Url, String> {
    let mut url = grant.endpoint.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.path_segments_mut()
        .map_err(|()| format!("the grant's endpoint {} is no address", without_query(&grant.endpoint)))?
        .pop_if_empty()
        .push(&grant.entity);
    Ok(url)
}

/// Whether it asks what the container holds: the one request that is not about a blob in it.
fn is_listing(url: &Url) -> bool {
    let says = |name: &str, value: &str| url.query_pairs().any(|(own, said)| own == name && said == value);
    says("restype", "container") && says("comp", "list")
}

fn answer_headers(headers: &reqwest::header::HeaderMap) -> Headers {
    let mut answer = Headers::new();
    for (name, value) in headers {
        // What is not ASCII is nothing that we read.
        if let Ok(value) = value.to_str() {
            answer.insert(HeaderName::from(name.as_str().to_owned()), HeaderValue::from(value.to_owned()));
        }
    }
    answer
}

/// The `<Code>` of a refusal's XML, for answers that lack the header.
fn code_in(body: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(body).ok()?;
    let (_, rest) = text.split_once("<Code>")?;
    let (code, _) = rest.split_once("</Code>")?;
    (code.len() <= 128 && code.bytes().all(|byte| byte.is_ascii_alphanumeric())).then(|| code.to_owned())
}

/// A ranged answer must be the range that was asked for, up to the blob's end. The SDK takes a shorter one for a reason
/// to fetch the rest by itself, after a first part that it pads with zeros (1.1.0, by its source).
fn check_range(request: &Request, status: u16, headers: &Headers) -> Result<(), Fault> {
    const RANGE: HeaderName = HeaderName::from_static("range");
    let Some((first, last)) = request.headers().get_optional_str(&RANGE).and_then(parse_range) else {
        return Ok(());
    };
    let text = headers.get_optional_str(&CONTENT_RANGE).unwrap_or("none");
    let fits = status == 206
        && ContentRange::parse(text)
            .is_some_and(|range| range.first == first && range.end == range.total.min(last.saturating_add(1)));
    if fits {
        Ok(())
    } else {
        Err(Fault::BadAnswer(format!("bytes {first}-{last} were asked for; it says {status}, Content-Range {text}")))
    }
}

/// `bytes=0-99`.
fn parse_range(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

pub(super) const CONTENT_RANGE: HeaderName = HeaderName::from_static("content-range");

/// `Content-Range: bytes 0-99/1000`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentRange {
    /// The first byte.
    pub(super) first: u64,
    /// The one after the last.
    pub(super) end: u64,
    /// Of the whole blob.
    pub(super) total: u64,
}

impl ContentRange {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, end, total) = (first.parse().ok()?, last.parse::<u64>().ok()?.checked_add(1)?, total.parse().ok()?);
        // A range that begins at the end is 416 from Azure, and empty from Azurite (`bytes 9-8/9`).
        (first <= end && end <= total).then_some(Self { first, end, total })
    }
}
