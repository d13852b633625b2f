//! A file's rows, to be looked at: nothing is brought into effect, and nothing is noted anywhere.
//!
//! Rows are decoded as they are asked for, so that memory holds one batch and what was read of the file beyond it.

use std::{io::Read, path::Path};

use bytes::Bytes;
use waybill_azure::blob::Download;
use waybill_contracts::{Entity, Media, Metadata, MetadataError};
use waybill_formats::{DecodeOptions, FileStats, Limits, RowBatch, RowDecoder, Step};

use crate::{
    fetch::FetchError,
    inbox::InboxError,
    rows::{self, RowsError},
};

/// What is read of a local file at once.
const READ_BYTES: usize = 256 << 10;

/// Why a file's rows cannot be looked at, or not to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LookError {
    /// The inbox has no such row.
    #[error("the inbox has no row {id}; `waybill-subscriber list` shows their numbers")]
    Unknown {
        /// As asked for.
        id: i64,
    },
    /// The message is none that stands for a file.
    #[error("row {id} of the inbox stands for no file; `waybill-subscriber show {id}` says why")]
    NoFile {
        /// As asked for.
        id: i64,
        /// What is wrong with the message.
        source: MetadataError,
    },
    /// The inbox failed.
    #[error("the inbox failed")]
    Inbox(#[from] InboxError),
    /// The blob cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A local file cannot be read.
    #[error("{path}: it cannot be read")]
    Io {
        /// Of the file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// Its bytes are not rows.
    #[error(transparent)]
    Rows(#[from] RowsError),
}

/// The rows of one file, batch by batch, in the file's order.
#[derive(Debug)]
pub struct FileRows {
    name: String,
    origin: Origin,
    /// Gone when the file has come to its end, good or bad.
    decoder: Option<RowDecoder>,
    stats: Option<FileStats>,
}

/// Where the bytes come from.
#[derive(Debug)]
enum Origin {
    Blob(Box<Download>),
    /// `None` while a thread reads from it.
    File(Option<std::fs::File>),
}

impl FileRows {
    /// Of a file on this machine, packed or not: its first bytes say so. `entity` gives the columns of a CSV without header.
    ///
    /// # Errors
    /// [`LookError::Io`], and [`LookError::Rows`] for what this version does not read.
    pub async fn of_file(
        path: &Path,
        media: Media,
        entity: Option<&Entity>,
        limits: &Limits,
    ) -> Result<Self, LookError> {
        let name = path.display().to_string();
        let blob_type = entity.map_or("", |entity| entity.name.as_str());
        let options = rows::decode_options(media, blob_type, entity, limits)?;
        let path = path.to_owned();
        match blocking(move || std::fs::File::open(path)).await {
            Ok(file) => Ok(Self::new(name, Origin::File(Some(file)), options)),
            Err(source) => Err(LookError::Io { path: name, source }),
        }
    }

    /// Of a blob, by the message that stands for it.
    pub(crate) fn of_blob(
        name: String,
        download: Download,
        metadata: &Metadata,
        entity: Option<&Entity>,
        limits: &Limits,
    ) -> Result<Self, LookError> {
        let media = metadata.media().map_err(RowsError::from)?;
        let options = rows::decode_options(media, &metadata.blob_type, entity, limits)?;
        Ok(Self::new(name, Origin::Blob(Box::new(download)), options))
    }

    fn new(name: String, origin: Origin, options: DecodeOptions) -> Self {
        Self { name, origin, decoder: Some(RowDecoder::new(options)), stats: None }
    }

    /// The file's name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next rows, the bad ones of this stretch with them; `None` after the file's end, and after an error.
    ///
    /// # Errors
    /// [`LookError::Fetch`] and [`LookError::Io`] where the bytes end early, [`LookError::Rows`] where they cannot be read on.
    ///
    /// # Cancel safety
    /// None: a call that was dropped was the last one.
    pub async fn next(&mut self) -> Result<Option<RowBatch>, LookError> {
        while let Some(mut decoder) = self.decoder.take() {
            // Work for a processor.
            let (decoded, step) = blocking(move || {
                let step = decoder.next();
                (decoder, step)
            })
            .await;
            decoder = decoded;
            match step {
                Ok(Step::Batch(batch)) => {
                    self.decoder = Some(decoder);
                    return Ok(Some(batch));
                }
                Ok(Step::NeedInput) => {
                    match self.read().await? {
                        Some(bytes) => decoder.feed(bytes),
                        None => decoder.end(),
                    }
                    self.decoder = Some(decoder);
                }
                Ok(Step::Done(stats)) => self.stats = Some(stats),
                Err(source) => return Err(RowsError::Decode { blob: self.name.clone(), source }.into()),
            }
        }
        Ok(None)
    }

    /// What the whole file had, once it was read to its end.
    #[must_use]
    pub fn stats(&self) -> Option<&FileStats> {
        self.stats.as_ref()
    }

    async fn read(&mut self) -> Result<Option<Bytes>, LookError> {
        match &mut self.origin {
            Origin::Blob(download) => Ok(download.next().await.map_err(FetchError::from)?),
            Origin::File(file) => {
                let Some(mut taken) = file.take() else { return Ok(None) };
                let read = blocking(move || {
                    let mut bytes = Vec::with_capacity(READ_BYTES);
                    (&mut taken).take(READ_BYTES as u64).read_to_end(&mut bytes).map(|_| (taken, bytes))
                });
                let (back, bytes) = read.await.map_err(|source| LookError::Io { path: self.name.clone(), source })?;
                *file = Some(back);
                Ok((!bytes.is_empty()).then(|| bytes.into()))
            }
        }
    }
}

async fn blocking<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(job).await.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()))
}
