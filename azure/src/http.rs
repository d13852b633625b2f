//! The one HTTP client: rustls with the system's trust store, no redirects, no Referer, no transparent decompression,
//! URLs without their query in errors, no retries of its own.
//!
//! A proxy is taken from `HTTPS_PROXY` or `ALL_PROXY` (upper or lower case; `NO_PROXY` excepts hosts) and used for https
//! alone, by CONNECT: it never sees a token. Plain http goes to loopback only, and loopback never through a proxy.

use std::{
    error::Error,
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http::StatusCode;
use reqwest::{
    Certificate,
    header::{ACCEPT, AUTHORIZATION, DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect, retry,
};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};
use url::{Position, Url};

use crate::{
    Secret,
    bus::try_tunnel,
    endpoint::is_loopback,
    proxy::{Proxy, ProxySettings},
};

/// The client. Clones share its connections.
#[derive(Clone)]
pub struct HttpClient {
    inner: reqwest::Client,
    read_timeout: Duration,
    proxies: Arc<ProxySettings>,
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not the inner client: it would show a proxy's password.
        f.debug_struct("HttpClient").field("read_timeout", &self.read_timeout).finish_non_exhaustive()
    }
}

/// How to build an [`HttpClient`].
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Extra certificate authorities, PEM.
    pub ca_file: Option<std::path::PathBuf>,
    /// For the connection; default 10 s.
    pub connect_timeout: Duration,
    /// Longest silence while a body is read; default 30 s.
    pub read_timeout: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self { ca_file: None, connect_timeout: Duration::from_secs(10), read_timeout: Duration::from_secs(30) }
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The client could not be built.
    #[error("http client: {0}")]
    Setup(String),
    /// The proxy that the environment names does not let this through.
    #[error("{0}")]
    Proxy(String),
    /// The address is plain http and not on this machine; nothing was sent.
    #[error("{method} {url}: a token goes over https only (over http to this machine alone); correct the address")]
    Plain {
        /// The method.
        method: &'static str,
        /// Without its query.
        url: String,
    },
    /// No answer: not connected, reset, or too slow.
    #[error("{method} {url}: {problem}")]
    NoAnswer {
        /// The method.
        method: &'static str,
        /// Without its query.
        url: String,
        /// What happened.
        problem: String,
    },
    /// The body is longer than the caller allows.
    #[error("{method} {url}: the answer is longer than {limit} bytes")]
    TooLong {
        /// The method.
        method: &'static str,
        /// Without its query.
        url: String,
        /// The limit.
        limit: usize,
    },
}

/// A small answer, whatever its status.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// `Retry-After`, if it was given as seconds or as a date.
    pub retry_after: Option<Duration>,
    /// The body, at most the limit.
    pub body: Bytes,
}

/// What happened instead of an answer, in words and without a URL.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoAnswer(pub(crate) String);

impl HttpClient {
    /// Reads the CA file, the trust store and the proxy variables; touches no network.
    ///
    /// # Errors
    /// [`HttpError::Setup`] when the CA file cannot be read, there is no trust store and no CA file, or a proxy variable
    /// holds no URL.
    pub fn new(options: &HttpOptions) -> Result<Self, HttpError> {
        Self::build(options, &ProxySettings::from_environment())
    }

    fn build(options: &HttpOptions, proxy: &ProxySettings) -> Result<Self, HttpError> {
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("waybill/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            .redirect(redirect::Policy::none())
            .referer(false)
            .retry(retry::never())
            // Plain text may go there, so no resolver decides where it is. (Port 0 stands for the URL's.)
            .resolve_to_addrs("localhost", &[(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()])
            .no_proxy();
        if let Some(proxy) = proxy.for_http().map_err(HttpError::Setup)? {
            builder = builder.proxy(proxy);
        }
        if let Some(path) = &options.ca_file {
            builder = builder.tls_certs_merge(read_certificates(path)?);
        }
        let inner = builder.build().map_err(|error| {
            HttpError::Setup(format!(
                "{}; is the system's trust store (package ca-certificates) installed?",
                describe(&error)
            ))
        })?;
        // The timeout is ours and not the client's, because the client's also runs while a request's body is sent.
        Ok(Self { inner, read_timeout: options.read_timeout, proxies: Arc::new(proxy.clone()) })
    }

    /// One GET with a bearer token; `deadline` for all of it; at most `limit` bytes of body.
    ///
    /// # Errors
    /// Every status is an [`Answer`]. [`HttpError::NoAnswer`], [`HttpError::TooLong`], [`HttpError::Plain`] when the
    /// address is plain http and not loopback, and [`HttpError::Setup`] when the token cannot be a header.
    pub async fn get_json(
        &self,
        url: &Url,
        bearer: &Secret,
        deadline: Duration,
        limit: usize,
    ) -> Result<Answer, HttpError> {
        const METHOD: &str = "GET";
        if !may_carry_token(url) {
            return Err(HttpError::Plain { method: METHOD, url: without_query(url) });
        }
        let authorization = bearer_header(bearer)?;
        let no_answer = |problem: String| HttpError::NoAnswer { method: METHOD, url: without_query(url), problem };
        let too_long = || HttpError::TooLong { method: METHOD, url: without_query(url), limit };
        let exchange = async {
            let response = self
                .inner
                .get(url.clone())
                .header(AUTHORIZATION, authorization)
                .header(ACCEPT, HeaderValue::from_static("application/json"))
                .send()
                .await
                .map_err(|error| no_answer(self.unreached(url, &error)))?;
            let status = response.status().as_u16();
            let retry_after = retry_after(header(response.headers(), RETRY_AFTER), header(response.headers(), DATE));
            let body = match read_up_to(response, limit).await {
                Ok(Some(body)) => body,
                Ok(None) => return Err(too_long()),
                Err(error) => return Err(no_answer(describe(&error))),
            };
            Ok(Answer { status, retry_after, body })
        };
        match tokio::time::timeout(deadline, exchange).await {
            Ok(result) => result,
            Err(_) => Err(no_answer(self.silent(url, deadline))),
        }
    }

    /// The time by the clock of whoever serves `url`, from the `Date` of an answer without a token; `None` when it has
    /// none. Exact to the second, less the way there and back.
    ///
    /// # Errors
    /// [`HttpError::NoAnswer`]; any status is an answer.
    pub async fn clock_of(&self, url: &Url, deadline: Duration) -> Result<Option<OffsetDateTime>, HttpError> {
        const METHOD: &str = "HEAD";
        let no_answer = |problem: String| HttpError::NoAnswer { method: METHOD, url: without_query(url), problem };
        match tokio::time::timeout(deadline, self.inner.head(url.clone()).send()).await {
            Ok(Ok(response)) => {
                let date = header(response.headers(), DATE);
                Ok(date.and_then(|date| OffsetDateTime::parse(date.trim(), &Rfc2822).ok()))
            }
            Ok(Err(error)) => Err(no_answer(self.unreached(url, &error))),
            Err(_) => Err(no_answer(self.silent(url, deadline))),
        }
    }

    /// Sends a request and waits for the answer's headers, at most `until_headers`.
    pub(crate) async fn send(
        &self,
        request: reqwest::Request,
        until_headers: Duration,
    ) -> Result<reqwest::Response, NoAnswer> {
        let url = request.url().clone();
        match tokio::time::timeout(until_headers, self.inner.execute(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(NoAnswer(self.unreached(&url, &error))),
            Err(_) => Err(NoAnswer(self.silent(&url, until_headers))),
        }
    }

    /// Why there was no answer; where a proxy stands before `url`, what became of it there, and what helps.
    fn unreached(&self, url: &Url, error: &reqwest::Error) -> String {
        let problem = describe(error);
        let Some(proxy) = self.proxy_before(url).filter(|_| error.is_connect()) else { return problem };
        let there = format!("{}:{}", url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(443));
        let said = chain(error).find_map(|said| said.strip_prefix(TUNNEL).map(str::to_owned));
        match said.as_deref() {
            Some(PROXY_WANTS_PASSWORD) => proxy.refused(&there, StatusCode::PROXY_AUTHENTICATION_REQUIRED),
            Some(TUNNEL_REFUSED) => proxy.silent(&there),
            Some(NO_PROXY_THERE) => proxy.failed(problem),
            Some(other) => proxy.failed(other),
            None => format!("by the proxy {proxy}: {problem}; if the proxy opens TLS, name its authority in `ca_file`"),
        }
    }

    fn silent(&self, url: &Url, limit: Duration) -> String {
        let by = self.proxy_before(url).map(|proxy| format!(" by the proxy {proxy}")).unwrap_or_default();
        format!("no answer within {limit:?}{by}")
    }

    fn proxy_before(&self, url: &Url) -> Option<Proxy> {
        let host = url.host_str().filter(|_| url.scheme() == "https")?;
        self.proxies.before(host).ok().flatten()
    }

    /// An answer's body as it arrives; a silence longer than the read timeout ends it with an error.
    pub(crate) fn body(
        &self,
        response: reqwest::Response,
    ) -> impl Stream<Item = Result<Bytes, NoAnswer>> + Send + use<> {
        let read_timeout = self.read_timeout;
        stream::unfold(Some(response.bytes_stream()), move |body| async move {
            let mut body = body?;
            match tokio::time::timeout(read_timeout, body.next()).await {
                Ok(None) => None,
                Ok(Some(Ok(chunk))) => Some((Ok(chunk), Some(body))),
                Ok(Some(Err(error))) => Some((Err(NoAnswer(describe(&error))), None)),
                Err(_) => Some((Err(NoAnswer(format!("the answer stood still for {read_timeout:?}"))), None)),
            }
        })
    }
}

/// Asks the proxy that stands before `url` by the variables of this process for a tunnel there, and leaves it at that. Says
/// which proxy that is, as `host:port`; `None` when the host is reached directly.
///
/// # Errors
/// [`HttpError::Proxy`] names the variable whose value is no proxy, or the proxy, what it answered, and what helps.
pub async fn try_proxy(url: &Url, ca_file: Option<&Path>, deadline: Duration) -> Result<Option<String>, HttpError> {
    try_proxy_of(&ProxySettings::from_environment(), url, ca_file, deadline).await.map_err(HttpError::Proxy)
}

async fn try_proxy_of(
    proxies: &ProxySettings,
    url: &Url,
    ca_file: Option<&Path>,
    deadline: Duration,
) -> Result<Option<String>, String> {
    let plain = matches!(url.scheme(), "http" | "amqp");
    let Some(host) = url.host_str().filter(|_| !plain) else { return Ok(None) };
    let Some(proxy) = proxies.before(host)? else { return Ok(None) };
    // Without a port of its own the bus is reached as a website is.
    let port = url.port_or_known_default().unwrap_or(443);
    match tokio::time::timeout(deadline, try_tunnel(&proxy, host, port, ca_file)).await {
        Ok(tried) => tried.map(|()| Some(proxy.to_string())),
        Err(_) => Err(proxy.failed(format_args!("no answer within {deadline:?}"))),
    }
}

/// Whether a token may be sent to this address: over TLS, or to this machine.
#[must_use]
pub fn may_carry_token(url: &Url) -> bool {
    url.scheme() == "https" || (url.scheme() == "http" && is_loopback(url))
}

/// A request of Microsoft's SDK as this client sends it, to `url`.
///
/// # Errors
/// What of it cannot be sent.
pub(crate) fn outgoing(request: &azure_core::http::Request, url: Url) -> Result<reqwest::Request, String> {
    let method = request.method();
    let method =
        reqwest::Method::from_bytes(method.as_str().as_bytes()).map_err(|_| format!("{method} is no method"))?;
    let mut outgoing = reqwest::Request::new(method, url);
    for (name, value) in request.headers().iter() {
        let unfit = |_| format!("`{}` has a value that no header can carry", name.as_str());
        let header = HeaderName::from_bytes(name.as_str().as_bytes())
            .map_err(|_| format!("`{}` is no name for a header", name.as_str()))?;
        outgoing.headers_mut().insert(header, value.as_str().parse().map_err(unfit)?);
    }
    *outgoing.body_mut() = match request.body().clone() {
        azure_core::http::Body::Bytes(bytes) if bytes.is_empty() => None,
        azure_core::http::Body::Bytes(bytes) => Some(bytes.into()),
        azure_core::http::Body::SeekableStream(stream) => Some(reqwest::Body::wrap_stream(stream)),
    };
    Ok(outgoing)
}

/// Reads a body whole; `None` when it is longer than `limit`.
pub(crate) async fn read_up_to(mut response: reqwest::Response, limit: usize) -> Result<Option<Bytes>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.into()))
}

/// The text of `Retry-After` as a duration: seconds, or a date, which is measured by the answer's own `Date` where there
/// is one, so that a wrong clock here does not matter.
pub(crate) fn retry_after(value: Option<&str>, date: Option<&str>) -> Option<Duration> {
    let value = value?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = OffsetDateTime::parse(value, &Rfc2822).ok()?;
    let now =
        date.and_then(|date| OffsetDateTime::parse(date.trim(), &Rfc2822).ok()).unwrap_or_else(OffsetDateTime::now_utc);
    Some(Duration::try_from(at - now).unwrap_or(Duration::ZERO))
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// A URL as errors may show it: without user, query and fragment.
pub(crate) fn without_query(url: &Url) -> String {
    format!("{}://{}", url.scheme(), &url[Position::BeforeHost..Position::AfterPath])
}

/// What the client's tunnel says of a proxy. Source: hyper-util, `client::legacy::connect::proxy::Tunnel`, whose error has no
/// other form; a test of each pins the words.
const TUNNEL: &str = "tunnel error: ";
const PROXY_WANTS_PASSWORD: &str = "proxy authorization required";
const TUNNEL_REFUSED: &str = "unsuccessful";
const NO_PROXY_THERE: &str = "failed to create underlying connection";

/// What an error and its causes say.
fn chain(error: &reqwest::Error) -> impl Iterator<Item = String> {
    std::iter::successors(error.source(), |error: &&dyn Error| (*error).source()).map(ToString::to_string)
}

/// What an error of the client says at its root, without the URL (which may hold a token).
fn describe(error: &reqwest::Error) -> String {
    let mut root: &dyn Error = error;
    while let Some(source) = root.source() {
        root = source;
    }
    let stage = if error.is_connect() {
        "cannot connect"
    } else if error.is_builder() {
        "cannot build the request"
    } else if error.is_body() || error.is_decode() {
        "the answer broke off"
    } else {
        "no answer"
    };
    match root.downcast_ref::<reqwest::Error>() {
        // Its own text would end with the URL.
        Some(_) => stage.to_owned(),
        None => format!("{stage}: {root}"),
    }
}

/// The header, which no log shows.
pub(crate) fn bearer_header(bearer: &Secret) -> Result<HeaderValue, HttpError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", bearer.expose())).map_err(|_| {
        HttpError::Setup(
            "the bearer token holds a character that no header can carry; is there a line end in it?".into(),
        )
    })?;
    value.set_sensitive(true);
    Ok(value)
}

fn read_certificates(path: &Path) -> Result<Vec<Certificate>, HttpError> {
    let setup = |problem: String| HttpError::Setup(format!("ca_file {}: {problem}", path.display()));
    let pem = std::fs::read(path).map_err(|error| setup(error.to_string()))?;
    let certificates =
        Certificate::from_pem_bundle(&pem).map_err(|_| setup("a certificate in it is damaged".to_owned()))?;
    if certificates.is_empty() {
        return Err(setup("there is no certificate in it; it must be PEM (-----BEGIN CERTIFICATE-----)".to_owned()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests;
