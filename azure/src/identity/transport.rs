//! One request for a token, by our HTTP client: to an authority over https, or to the address on this machine's link where
//! a managed identity is asked for.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use azure_core::{
    error::ErrorKind,
    http::{
        AsyncRawResponse, Context, Request, Url,
        headers::Headers,
        policies::{Policy, PolicyResult},
    },
};
use serde::Deserialize;

use super::IdentityError;
use crate::http::{HttpClient, may_carry_token, outgoing, read_up_to, retry_after, without_query};

/// For one request.
const TIMEOUT: Duration = Duration::from_secs(20);
/// A token is a few kilobytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Of an authority's explanation; its first line says all.
const PROBLEM_CHARS_MAX: usize = 500;

/// The transport.
#[derive(Debug)]
pub(super) struct Exchange {
    http: HttpClient,
    /// Whether plain http to the machine's own link is allowed.
    to_this_machine: bool,
}

/// Why a request brought no token.
#[derive(Debug, Clone)]
pub(super) enum Failed {
    Withheld(String),
    Lost(String),
    Answered { status: u16, problem: String, retry_after: Option<Duration> },
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Withheld(problem) | Self::Lost(problem) => f.write_str(problem),
            Self::Answered { status, problem, .. } => write!(f, "{status}: {problem}"),
        }
    }
}

impl std::error::Error for Failed {}

impl From<Failed> for IdentityError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Withheld(problem) => Self::Setup(problem),
            Failed::Lost(problem) => Self::Unavailable { problem, retry_after: None },
            Failed::Answered { status: 408 | 410 | 429 | 500.., problem, retry_after } => {
                Self::Unavailable { problem, retry_after }
            }
            Failed::Answered { problem, .. } => Self::Refused(problem),
        }
    }
}

/// RFC 6749, section 5.2.
#[derive(Deserialize)]
struct Refusal {
    #[serde(default)]
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Exchange {
    /// With an authority somewhere.
    pub(super) fn with_authority(http: HttpClient) -> Self {
        Self { http, to_this_machine: false }
    }

    /// With the endpoint that a machine in Azure has on its own link.
    pub(super) fn with_this_machine(http: HttpClient) -> Self {
        Self { http, to_this_machine: true }
    }

    async fn exchange(&self, request: &Request) -> Result<AsyncRawResponse, Failed> {
        let url = request.url();
        let shown = without_query(url);
        if !(may_carry_token(url) || self.to_this_machine && is_link_local(url)) {
            return Err(Failed::Withheld(format!("{shown}: access tokens are asked for over https only")));
        }
        let lost = |problem: &dyn fmt::Display| Failed::Lost(format!("{shown}: {problem}"));
        let response = self
            .http
            .send(outgoing(request, url.clone()).map_err(Failed::Withheld)?, TIMEOUT)
            .await
            .map_err(|error| lost(&error))?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let retry_after = retry_after(header("retry-after"), header("date"));
        let body = match tokio::time::timeout(TIMEOUT, read_up_to(response, ANSWER_BYTES_MAX)).await {
            Ok(Ok(Some(body))) => body,
            Ok(Ok(None)) => return Err(lost(&format!("the answer is longer than {ANSWER_BYTES_MAX} bytes"))),
            Ok(Err(_)) => return Err(lost(&"the answer broke off")),
            Err(_) => return Err(lost(&format!("no whole answer within {TIMEOUT:?}"))),
        };
        if !(200..300).contains(&status) {
            let problem = format!("{shown} answered {status}{}", explanation(&body));
            return Err(Failed::Answered { status, problem, retry_after });
        }
        Ok(AsyncRawResponse::from_bytes(status.into(), Headers::new(), body))
    }
}

#[async_trait]
impl Policy for Exchange {
    async fn send(&self, _context: &Context, request: &mut Request, _next: &[Arc<dyn Policy>]) -> PolicyResult {
        self.exchange(request).await.map_err(|failed| azure_core::Error::new(ErrorKind::Other, failed))
    }
}

/// 169.254.0.0/16: where Azure's machines find their metadata.
fn is_link_local(url: &Url) -> bool {
    url.host_str().and_then(|host| host.parse::<IpAddr>().ok()).is_some_and(|address| match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(_) => false,
    })
}

/// What an authority says of its refusal: `: invalid_client: AADSTS700027: …`.
fn explanation(body: &[u8]) -> String {
    let Ok(Refusal { error, error_description }) = serde_json::from_slice(body) else { return String::new() };
    let first_line = error_description.lines().next().unwrap_or_default();
    let text = [error.as_str(), first_line].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
    let text: String = text.chars().filter(|char| !char.is_control()).take(PROBLEM_CHARS_MAX).collect();
    if text.is_empty() { text } else { format!(": {text}") }
}
