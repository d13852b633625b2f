//! Blob Storage: staged blocks with one conditional commit, and ranged reads that resume at a byte.
//!
//! Every try takes the current SAS from the [`TokenSource`]; a 401 or 403 renews it once. Retries of lost connections
//! and 5xx are the callers', with our clock: the SDK's own are off.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::{GrantError, TokenSource, http::HttpClient};

/// The container of a grant. Clones share everything.
#[derive(Debug, Clone)]
pub struct Container {
    #[allow(dead_code)]
    http: HttpClient,
    #[allow(dead_code)]
    tokens: Arc<dyn TokenSource>,
}

/// Limits of a [`Container`].
#[derive(Debug, Clone)]
pub struct ContainerOptions {
    /// Bytes asked for in one ranged read (default 8 MiB).
    pub range_bytes: u64,
    /// For one request until its headers came (default 60 s).
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
    /// Metadata; names are lower case.
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
    /// `Content-Encoding`, if somebody set it.
    pub content_encoding: Option<String>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the text of each variant says it")]
pub enum BlobError {
    #[error("no token for storage")]
    Grant(#[from] GrantError),
    #[error("{blob}: storage refused a fresh token too ({code}); check the grant's rights, the firewall and the clock")]
    AccessRefused { blob: String, code: String },
    #[error("{blob}: no such blob")]
    NotFound { blob: String },
    #[error("{blob}: no such container; check the grant")]
    ContainerNotFound { blob: String },
    #[error("{blob}: archived; it must be rehydrated before it can be read")]
    Archived { blob: String },
    #[error("{blob}: it is there already")]
    AlreadyExists { blob: String },
    #[error("{blob}: it changed since it was first read")]
    Changed { blob: String },
    #[error("{blob}: a staged block vanished ({code})")]
    BlockVanished { blob: String, code: String },
    #[error("{blob}: storage is busy ({status} {code})")]
    Busy { blob: String, status: u16, code: String, retry_after: Option<Duration> },
    #[error("{blob}: the connection was lost: {problem}")]
    Lost { blob: String, problem: String },
    #[error("{blob}: refused with {status} {code}")]
    Refused { blob: String, status: u16, code: String },
}

/// An upload under way. Dropping it leaves staged blocks that are never committed (Azure forgets them after a week).
#[derive(Debug)]
pub struct Upload {}

/// A download under way.
#[derive(Debug)]
pub struct Download {}

impl Container {
    /// Touches no network.
    #[must_use]
    pub fn new(http: HttpClient, tokens: Arc<dyn TokenSource>, options: ContainerOptions) -> Self {
        todo!("{http:?} {tokens:?} {options:?}")
    }

    /// Begins an upload. Block ids have a fixed width: a random number of this attempt and an index, so that two attempts
    /// cannot mix.
    #[must_use]
    pub fn upload(&self, blob: &str) -> Upload {
        todo!("{blob}")
    }

    /// Opens a blob at byte `from`. With `etag`, only if it is unchanged ([`BlobError::Changed`] else).
    ///
    /// # Errors
    /// [`BlobError`].
    pub async fn download(&self, blob: &str, from: u64, etag: Option<&str>) -> Result<Download, BlobError> {
        todo!("{blob} {from} {etag:?}")
    }

    /// What is known of a blob.
    ///
    /// # Errors
    /// [`BlobError`].
    pub async fn head(&self, blob: &str) -> Result<BlobFacts, BlobError> {
        todo!("{blob}")
    }

    /// Deletes a blob.
    ///
    /// # Errors
    /// [`BlobError`].
    pub async fn delete(&self, blob: &str) -> Result<(), BlobError> {
        todo!("{blob}")
    }
}

impl Upload {
    /// Stages the next block; `&self`, so that several may be under way: the order is that of the calls.
    ///
    /// # Errors
    /// [`BlobError`]. Lost connections and 5xx are retried here on the same block id (which is harmless), up to 5 times.
    pub async fn stage(&self, bytes: Bytes) -> Result<(), BlobError> {
        todo!("{bytes:?}")
    }

    /// Commits the blocks with `If-None-Match: *`: the blob appears whole, or not at all, and is never overwritten.
    ///
    /// # Errors
    /// [`BlobError::AlreadyExists`] when there is one: the caller decides whether it is its own. A commit whose outcome is
    /// unknown is repeated; if it had succeeded this shows as `AlreadyExists` as well.
    pub async fn commit(self, headers: &BlobHeaders) -> Result<BlobFacts, BlobError> {
        todo!("{headers:?}")
    }
}

impl Download {
    /// What the first answer said of the whole blob.
    #[must_use]
    pub fn facts(&self) -> &BlobFacts {
        todo!()
    }

    /// The next bytes; `None` at the end, which is exactly `facts().length`. Lost connections, 5xx and refused tokens are
    /// retried from the next byte with `If-Match`, with backoff, a bounded number of times without progress (default 5).
    ///
    /// # Errors
    /// [`BlobError::Changed`] when the blob is another one now; what the last try met otherwise.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        todo!()
    }

    /// How many bytes have been handed out, counted from the blob's begin: where to go on.
    #[must_use]
    pub fn position(&self) -> u64 {
        todo!()
    }
}
