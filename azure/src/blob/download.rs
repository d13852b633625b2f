//! A blob's bytes in ranges, from any byte on, resumed wherever they break off.

use std::{fmt, num::NonZero, pin::Pin};

use azure_core::http::AsyncResponseBody;
use azure_storage_blob::models::{BlobClientDownloadOptions, BlobClientDownloadResult, HttpRange};
use bytes::Bytes;
use futures::StreamExt;
use tokio::time::Instant;

use super::{
    BlobError, BlobFacts, BlobHeaders, Container,
    error::{Failure, sort},
    retry::{Stalls, retried},
    transport::{CONTENT_RANGE, ContentRange},
};

/// A download under way.
pub struct Download {
    container: Container,
    blob: String,
    facts: BlobFacts,
    position: u64,
    range: Option<Range>,
    stalls: Stalls,
    not_before: Option<Instant>,
}

/// The range whose body is being read.
struct Range {
    body: Pin<Box<AsyncResponseBody>>,
    end: u64,
}

impl fmt::Debug for Download {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Download")
            .field("blob", &self.blob)
            .field("facts", &self.facts)
            .field("position", &self.position)
            .finish_non_exhaustive()
    }
}

impl Download {
    pub(super) async fn open(
        container: Container,
        blob: &str,
        from: u64,
        etag: Option<&str>,
    ) -> Result<Self, BlobError> {
        let (facts, range) = match retried(|| request(&container, blob, from, etag)).await {
            Ok((facts, range)) => (facts, Some(range)),
            // No byte is left at the end, and storage calls that a range that it cannot satisfy.
            Err(BlobError::Refused { status: 416, code, blob }) => {
                let facts = container.head(&blob).await?;
                if etag.is_some_and(|etag| etag != facts.etag) {
                    return Err(BlobError::Changed { blob });
                }
                if facts.length != from {
                    return Err(BlobError::Refused { blob, status: 416, code });
                }
                (facts, None)
            }
            Err(error) => return Err(error),
        };
        let blob = blob.to_owned();
        Ok(Self { container, blob, facts, position: from, range, stalls: Stalls::default(), not_before: None })
    }

    /// What the first answer said of the whole blob.
    #[must_use]
    pub fn facts(&self) -> &BlobFacts {
        &self.facts
    }

    /// How many bytes have been handed out, counted from the blob's begin: where to go on.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next bytes as they arrive, never empty; `None` at the end, which is exactly `facts().length`. Lost connections,
    /// bodies that are cut short, 429, 5xx and refused tokens are retried from the next byte with `If-Match`, with backoff,
    /// 5 tries without a single byte of progress.
    ///
    /// # Errors
    /// [`BlobError::Changed`] when the blob is another one now; what the last try met otherwise. The download may be asked
    /// again after an error, and goes on at [`position`](Self::position).
    ///
    /// # Cancel safety
    /// Cancel-safe: bytes are returned or come again.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        while self.position < self.facts.length {
            let failed = match &mut self.range {
                Some(range) => match range.next(self.position).await {
                    Ok(Some(bytes)) => {
                        self.position += bytes.len() as u64;
                        self.stalls.end();
                        return Ok(Some(bytes));
                    }
                    Ok(None) => {
                        self.range = None;
                        continue;
                    }
                    Err(error) => error.of(&self.blob),
                },
                None => match self.next_range().await {
                    Ok(range) => {
                        self.range = Some(range);
                        continue;
                    }
                    Err(error) => error,
                },
            };
            self.range = None;
            let (blob, position, length) = (&self.blob, self.position, self.facts.length);
            tracing::debug!(blob, position, length, problem = %failed, "the download will resume here");
            self.not_before = Some(Instant::now() + self.stalls.after(failed)?);
        }
        self.range = None;
        Ok(None)
    }

    async fn next_range(&mut self) -> Result<Range, BlobError> {
        if let Some(at) = self.not_before {
            tokio::time::sleep_until(at).await;
            self.not_before = None;
        }
        let (facts, range) = request(&self.container, &self.blob, self.position, Some(&self.facts.etag)).await?;
        if facts.length == self.facts.length {
            Ok(range)
        } else {
            let problem = format!("one ETag, but {} bytes and then {}", self.facts.length, facts.length);
            Err(BlobError::BadAnswer { blob: self.blob.clone(), problem })
        }
    }
}

/// Why a body ended before its range did.
enum BodyError {
    Sdk(azure_core::Error),
    Cut { position: u64, end: u64 },
    TooLong { end: u64 },
}

impl BodyError {
    fn of(self, blob: &str) -> BlobError {
        let name = blob.to_owned();
        match self {
            Self::Sdk(error) => match sort(&error, blob) {
                Failure::Other(error) => error,
                Failure::Token { code } => {
                    BlobError::AccessRefused { blob: name, code, advice: "it had answered with a part of it" }
                }
            },
            Self::Cut { position, end } => {
                BlobError::Lost { blob: name, problem: format!("the answer ended at byte {position} of {end}") }
            }
            Self::TooLong { end } => {
                BlobError::BadAnswer { blob: name, problem: format!("the answer goes on after byte {end}") }
            }
        }
    }
}

impl Range {
    /// The next bytes; `None` at the range's end.
    async fn next(&mut self, position: u64) -> Result<Option<Bytes>, BodyError> {
        if position == self.end {
            return Ok(None);
        }
        loop {
            match self.body.next().await {
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) if bytes.len() as u64 > self.end - position => {
                    return Err(BodyError::TooLong { end: self.end });
                }
                Some(Ok(bytes)) => return Ok(Some(bytes)),
                Some(Err(error)) => return Err(BodyError::Sdk(error)),
                None => return Err(BodyError::Cut { position, end: self.end }),
            }
        }
    }
}

/// Asks for the range at `from`, up to its headers.
async fn request(
    container: &Container,
    blob: &str,
    from: u64,
    etag: Option<&str>,
) -> Result<(BlobFacts, Range), BlobError> {
    let length = container.options.range_bytes.max(1);
    let options = BlobClientDownloadOptions {
        range: Some(HttpRange::new(from, length)),
        // One partition: else the SDK would fetch several by itself, buffered whole.
        partition_size: NonZero::new(usize::try_from(length).unwrap_or(usize::MAX)),
        parallel: NonZero::new(1),
        if_match: etag.map(Into::into),
        ..Default::default()
    };
    let answer = container
        .call(blob, |client| {
            let options = options.clone();
            async move { client.download(Some(options)).await }
        })
        .await?;
    let BlobClientDownloadResult { body, properties, headers, .. } = answer;
    let (end, total) = match headers.get_optional_str(&CONTENT_RANGE).and_then(ContentRange::parse) {
        Some(range) => (Some(range.end), Some(range.total)),
        // The SDK asks for an empty blob once more without a range.
        None => (properties.content_length, properties.content_length),
    };
    let blob_headers = BlobHeaders {
        content_type: properties.content_type.unwrap_or_default(),
        metadata: properties.metadata.into_iter().collect(),
    };
    let facts = BlobFacts::new(blob, properties.etag, total, blob_headers, properties.content_encoding)?;
    Ok((facts, Range { body: Box::pin(body), end: end.unwrap_or(0) }))
}
