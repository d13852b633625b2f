//! The one HTTP client: rustls with the system's trust store, no redirects, no Referer, no transparent decompression,
//! URLs without their query in errors, no retries of its own.

use std::time::Duration;

use bytes::Bytes;

use crate::Secret;

/// The client. Clones share its connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    pub(crate) inner: reqwest::Client,
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

impl HttpClient {
    /// # Errors
    /// When the CA file cannot be read, or the trust store is unusable.
    pub fn new(options: &HttpOptions) -> Result<Self, HttpError> {
        todo!("{options:?}")
    }

    /// One GET with a bearer token; `deadline` for all of it; at most `limit` bytes of body.
    ///
    /// # Errors
    /// [`HttpError::NoAnswer`] and [`HttpError::TooLong`]; every status is an [`Answer`].
    pub async fn get_json(
        &self,
        url: &url::Url,
        bearer: &Secret,
        deadline: Duration,
        limit: usize,
    ) -> Result<Answer, HttpError> {
        todo!("{url} {bearer:?} {deadline:?} {limit}")
    }
}
