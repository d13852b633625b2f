//! A file's rows, to be looked at: nothing is brought into effect, and nothing is noted anywhere.
//!
//! Rows are decoded as they are asked for, so that memory holds one batch and what was read of the file beyond it.

use std::{fs::File, io::Read as _, path::Path};

use bytes::Bytes;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use waybill_azure::blob::Download;
use waybill_contracts::{Entity, Media, Metadata, MetadataError};
use waybill_formats::{DecodeError, DecodeOptions, FileStats, Limits, RowBatch, RowDecoder, Step};

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
    /// Gone when the file has come to its end, good or bad, and while a thread asks it.
    decoder: Option<RowDecoder>,
    /// Kept here and not in a call, so that a call may be dropped.
    asked: Option<JoinHandle<(RowDecoder, Result<Step, DecodeError>)>>,
    is_hungry: bool,
    stats: Option<FileStats>,
}

/// Where the bytes come from.
#[derive(Debug)]
enum Origin {
    Blob(Box<Download>),
    /// The file is gone while a thread reads from it.
    File {
        file: Option<File>,
        reading: Option<JoinHandle<Read>>,
    },
}

/// The file, and the next bytes of it.
type Read = std::io::Result<(File, Vec<u8>)>;

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
        match returned(spawn_blocking(move || File::open(path)).await) {
            Ok(file) => Ok(Self::new(name, Origin::File { file: Some(file), reading: None }, options)),
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
        Ok(Self::of_download(name, download, options))
    }

    fn new(name: String, origin: Origin, options: DecodeOptions) -> Self {
        let decoder = Some(RowDecoder::new(options));
        Self { name, origin, decoder, asked: None, is_hungry: false, stats: None }
    }

    /// Of a download from the blob's begin.
    pub(crate) fn of_download(name: String, download: Download, options: DecodeOptions) -> Self {
        Self::new(name, Origin::Blob(Box::new(download)), options)
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
    /// Cancel-safe: no row is lost with a call that was dropped.
    pub async fn next(&mut self) -> Result<Option<RowBatch>, LookError> {
        loop {
            if let Some(asked) = &mut self.asked {
                let (decoder, step) = returned(asked.await);
                self.asked = None;
                match step {
                    Ok(Step::Batch(batch)) => {
                        self.decoder = Some(decoder);
                        return Ok(Some(batch));
                    }
                    Ok(Step::NeedInput) => (self.decoder, self.is_hungry) = (Some(decoder), true),
                    Ok(Step::Done(stats)) => self.stats = Some(stats),
                    Err(source) => return Err(RowsError::Decode { blob: self.name.clone(), source }.into()),
                }
            }
            if self.is_hungry {
                let read = self.read().await;
                self.is_hungry = false;
                let decoder = self.decoder.take();
                let bytes = read?;
                self.decoder = decoder.map(|mut decoder| {
                    match bytes {
                        Some(bytes) => decoder.feed(bytes),
                        None => decoder.end(),
                    }
                    decoder
                });
            }
            let Some(mut decoder) = self.decoder.take() else { return Ok(None) };
            // Work for a processor.
            self.asked = Some(spawn_blocking(move || {
                let step = decoder.next();
                (decoder, step)
            }));
        }
    }

    /// What the whole file had, once it was read to its end.
    #[must_use]
    pub fn stats(&self) -> Option<&FileStats> {
        self.stats.as_ref()
    }

    async fn read(&mut self) -> Result<Option<Bytes>, LookError> {
        match &mut self.origin {
            Origin::Blob(download) => Ok(download.next().await.map_err(FetchError::from)?),
            Origin::File { file, reading } => {
                if let Some(mut taken) = file.take() {
                    *reading = Some(spawn_blocking(move || {
                        let mut bytes = Vec::with_capacity(READ_BYTES);
                        (&mut taken).take(READ_BYTES as u64).read_to_end(&mut bytes).map(|_| (taken, bytes))
                    }));
                }
                let Some(under_way) = reading else { return Ok(None) };
                let read = returned(under_way.await);
                *reading = None;
                let (back, bytes) = read.map_err(|source| LookError::Io { path: self.name.clone(), source })?;
                *file = Some(back);
                Ok((!bytes.is_empty()).then(|| bytes.into()))
            }
        }
    }
}

/// What a thread brought back.
fn returned<T>(ended: Result<T, JoinError>) -> T {
    ended.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()))
}
