//! Blob Storage: staged blocks with one conditional commit, and ranged reads that resume at a byte.
//!
//! Every try takes the current token from the [`TokenSource`]; a 401 or 403 renews it once, and a second refusal is
//! [`BlobError::AccessRefused`]. What fails for a moment (a lost connection, 429, 5xx, an issuer that cannot answer now)
//! is repeated here on one clock, 5 tries in all, and the SDK's own retries are off. A `Retry-After` is obeyed up to 30 s;
//! a longer one is an error at once, for the caller to wait with.
//!
//! # Invariants
//! 1. A token goes only to the endpoint and container of its own grant, over TLS or to this machine, and is in no error,
//!    log or `Debug`.
//! 2. A blob is never overwritten.
//! 3. Memory: the chunks that the caller stages, one network read of a download and what [`ReadAhead`] allows, and one page of
//!    a listing.

mod ahead;
mod download;
mod error;
mod list;
mod retry;
mod traffic;
mod transport;
mod upload;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, future::Future, num::NonZeroU32, sync::Arc, time::Duration};

use azure_core::http::{ClientOptions, Etag, RetryOptions, Transport};
use azure_storage_blob::{
    BlobClient, BlobClientOptions, BlobContainerClient, BlobContainerClientOptions,
    models::{BlobClientDeleteOptions, BlobClientGetPropertiesResultHeaders},
};

pub use self::{
    ahead::ReadAhead,
    download::Download,
    error::BlobError,
    list::{ListedBlob, Listing},
    traffic::Traffic,
    upload::Upload,
};
use self::{
    error::{Failure, sort},
    retry::retried,
    transport::{GrantTransport, container_url},
};
use crate::{Grant, Service, TokenSource, http::HttpClient};

/// A name that no blob of a publisher has.
const NO_BLOB: &str = "waybill-doctor/no-such-file";

/// The container of a grant. Clones share everything.
#[derive(Debug, Clone)]
pub struct Container {
    http: HttpClient,
    tokens: Arc<dyn TokenSource>,
    options: ContainerOptions,
    traffic: Arc<Traffic>,
    ahead: Arc<ReadAhead>,
}

/// Limits of a [`Container`].
#[derive(Debug, Clone)]
pub struct ContainerOptions {
    /// Bytes asked for in one ranged read (default 8 MiB; at least 1).
    pub range_bytes: u64,
    /// For one request until its headers came (default 60 s), and a second more for every 64 KiB that it sends.
    pub request_timeout: Duration,
}

impl Default for ContainerOptions {
    fn default() -> Self {
        Self { range_bytes: 8 * 1024 * 1024, request_timeout: Duration::from_secs(60) }
    }
}

/// What a blob carries beside its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlobHeaders {
    /// `Content-Type`.
    pub content_type: String,
    /// Metadata; names are lower case (a-z, 0-9, `_`), values printable ASCII.
    pub metadata: BTreeMap<String, String>,
}

/// What the service says of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobFacts {
    /// Its ETag, quoted, as given.
    pub etag: String,
    /// Its length in bytes.
    pub length: u64,
    /// Its headers.
    pub headers: BlobHeaders,
    /// `Content-Encoding`, if somebody set it. The bytes come as they are stored all the same.
    pub content_encoding: Option<String>,
}

impl BlobFacts {
    fn new(
        blob: &str,
        etag: Option<Etag>,
        length: Option<u64>,
        headers: BlobHeaders,
        content_encoding: Option<String>,
    ) -> Result<Self, BlobError> {
        let lacks = |what: &str| BlobError::BadAnswer { blob: blob.to_owned(), problem: format!("it has no {what}") };
        Ok(Self {
            etag: etag.ok_or_else(|| lacks("ETag"))?.into(),
            length: length.ok_or_else(|| lacks("length"))?,
            headers,
            content_encoding,
        })
    }
}

impl Container {
    /// Touches no network.
    #[must_use]
    pub fn new(http: HttpClient, tokens: Arc<dyn TokenSource>, options: ContainerOptions) -> Self {
        Self { http, tokens, options, traffic: Arc::default(), ahead: Arc::default() }
    }

    /// Counts there what goes to and comes from storage.
    #[must_use]
    pub fn counting(mut self, traffic: Arc<Traffic>) -> Self {
        self.traffic = traffic;
        self
    }

    /// Lets downloads read several ranges at once where that is faster, within what is free there (default: none ever).
    #[must_use]
    pub fn reading_ahead(mut self, ahead: Arc<ReadAhead>) -> Self {
        self.ahead = ahead;
        self
    }

    /// Begins an upload. Block ids have a fixed width: a random number of this attempt and an index, so that two attempts
    /// cannot mix.
    #[must_use]
    pub fn upload(&self, blob: &str) -> Upload {
        Upload::new(self.clone(), blob.to_owned())
    }

    /// Opens a blob at byte `from`, which may be its end. With `etag`, only if it is unchanged ([`BlobError::Changed`]
    /// else).
    ///
    /// # Errors
    /// [`BlobError`]; [`BlobError::Refused`] with 416 when the blob is shorter than `from`.
    pub async fn download(&self, blob: &str, from: u64, etag: Option<&str>) -> Result<Download, BlobError> {
        Download::open(self.clone(), blob, from, etag).await
    }

    /// Whether a reader is answered: that there is no such blob is an answer.
    ///
    /// # Errors
    /// [`BlobError`].
    pub async fn check(&self) -> Result<(), BlobError> {
        match self.head(NO_BLOB).await {
            Ok(_) | Err(BlobError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What is known of a blob.
    ///
    /// # Errors
    /// [`BlobError`].
    pub async fn head(&self, blob: &str) -> Result<BlobFacts, BlobError> {
        let answer = retried(|| self.call(blob, |client| async move { client.get_properties(None).await })).await?;
        let read = || -> azure_core::Result<_> {
            let headers = BlobHeaders {
                content_type: answer.content_type()?.unwrap_or_default(),
                metadata: answer.metadata()?.into_iter().collect(),
            };
            Ok((answer.etag()?, answer.content_length()?, headers, answer.content_encoding()?))
        };
        let (etag, length, headers, content_encoding) =
            read().map_err(|error| BlobError::BadAnswer { blob: blob.to_owned(), problem: error.to_string() })?;
        BlobFacts::new(blob, etag, length, headers, content_encoding)
    }

    /// Begins a walk through the blobs whose names begin with `prefix` (empty for all), at most `page` of them at a time (at
    /// most 5,000, which is Azure's limit). The grant needs the right to list.
    #[must_use]
    pub fn list(&self, prefix: &str, page: NonZeroU32) -> Listing {
        Listing::new(self.clone(), prefix.to_owned(), page)
    }

    /// Deletes a blob.
    ///
    /// # Errors
    /// [`BlobError`]. A call whose outcome is unknown is repeated; if it had succeeded this shows as
    /// [`BlobError::NotFound`].
    pub async fn delete(&self, blob: &str) -> Result<(), BlobError> {
        retried(|| self.call(blob, |client| async move { client.delete(None).await })).await?;
        Ok(())
    }

    /// Deletes a blob if it still has this ETag.
    ///
    /// # Errors
    /// [`BlobError::Changed`] if it has another; else as [`Container::delete`].
    pub async fn delete_unchanged(&self, blob: &str, etag: &str) -> Result<(), BlobError> {
        let unchanged = || BlobClientDeleteOptions { if_match: Some(Etag::from(etag)), ..Default::default() };
        retried(|| self.call(blob, |client| async move { client.delete(Some(unchanged())).await })).await?;
        Ok(())
    }

    /// One try of one call for a blob.
    async fn call<T, F>(&self, blob: &str, operation: impl Fn(BlobClient) -> F) -> Result<T, BlobError>
    where
        F: Future<Output = azure_core::Result<T>>,
    {
        self.with_grant(blob, |grant| Ok(operation(self.client(grant, blob)?))).await
    }

    /// One try of one call, with the current token, and once more with a newer one when that is refused. `subject` is what
    /// errors are about.
    async fn with_grant<T, F>(
        &self,
        subject: &str,
        begin: impl Fn(Grant) -> Result<F, BlobError>,
    ) -> Result<T, BlobError>
    where
        F: Future<Output = azure_core::Result<T>>,
    {
        let mut refused = None;
        loop {
            let grant = self.tokens.grant(Service::Blob, refused).await?;
            let (generation, advice) = (grant.generation, grant.token.advice(Service::Blob));
            let error = match begin(grant)?.await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            match sort(&error, subject) {
                Failure::Other(error) => return Err(error),
                Failure::Token { .. } if refused.is_none() => {
                    tracing::debug!(blob = subject, generation = generation.0, "storage refused the token");
                    refused = Some(generation);
                }
                Failure::Token { code } => {
                    return Err(BlobError::AccessRefused { blob: subject.to_owned(), code, advice });
                }
            }
        }
    }

    /// The SDK's client for one try. It is cheap beside a request, and a grant may move to another endpoint at any time.
    fn client(&self, grant: Grant, blob: &str) -> Result<BlobClient, BlobError> {
        let unfit = |problem: String| BlobError::Unfit { blob: blob.to_owned(), problem };
        let mut url = container_url(&grant).map_err(unfit)?;
        if blob.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(unfit("a blob's name may not be empty, nor have an empty segment, `.` or `..`".to_owned()));
        }
        url.path_segments_mut().map_err(|()| unfit("its address has no path".to_owned()))?.extend(blob.split('/'));
        let options = BlobClientOptions { client_options: self.client_options(grant), ..Default::default() };
        BlobClient::new(url, None, Some(options)).map_err(|error| unfit(error.to_string()))
    }

    /// The same for the container itself.
    fn container_client(&self, grant: Grant, subject: &str) -> Result<BlobContainerClient, BlobError> {
        let unfit = |problem: String| BlobError::Unfit { blob: subject.to_owned(), problem };
        let url = container_url(&grant).map_err(unfit)?;
        let options = BlobContainerClientOptions { client_options: self.client_options(grant), ..Default::default() };
        BlobContainerClient::new(url, None, Some(options)).map_err(|error| unfit(error.to_string()))
    }

    fn client_options(&self, grant: Grant) -> ClientOptions {
        let (http, traffic) = (self.http.clone(), Arc::clone(&self.traffic));
        let transport = GrantTransport::new(http, grant, self.options.request_timeout, traffic);
        ClientOptions {
            retry: RetryOptions::none(),
            transport: Some(Transport::with_policy(Arc::new(transport))),
            ..Default::default()
        }
    }
}
