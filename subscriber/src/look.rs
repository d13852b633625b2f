//! A file's rows, to be looked at: nothing is brought into effect, and nothing is noted anywhere.
//!
//! Files are read and rows decoded a few batches ahead of who asks for them, on all processors, so that memory does not grow
//! with the file.

use std::{
    collections::VecDeque,
    fs::File,
    io::Read as _,
    num::NonZero,
    path::{Path, PathBuf},
    thread::available_parallelism,
};

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinSet};
use waybill_contracts::{Entity, Extras, Media, Metadata, MetadataError};
use waybill_formats::{DecodeError, DecodeOptions, FileStats, Limits, RowBatch, seek::Checkpoint};

use crate::{
    Verdict,
    cache::Draft,
    fetch::{self, FetchError, Fetched},
    inbox::InboxError,
    rows::{self, Chunk, Decoded, Group, GroupLimits, Grouping, Pool, RowsError, Way},
    tasks::{blocking, outcome},
};

/// What is read of a local file at once.
const READ_BYTES: usize = 256 << 10;
/// A batch is given as soon as it is there.
const GROUP_LIMITS: GroupLimits = GroupLimits { rows_max: 1, bytes_max: 1 };

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
    /// The runtime that reads is shutting down.
    #[error("reading ends with the runtime that it runs on")]
    Closing,
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

impl LookError {
    /// Where a run would put the file; `None` where that says nothing about the file.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Fetch(error) => Some(error.verdict()),
            Self::Rows(error) => Some(error.verdict()),
            Self::Unknown { .. } | Self::NoFile { .. } | Self::Inbox(_) | Self::Closing | Self::Io { .. } => None,
        }
    }
}

/// The rows of one file, batch by batch, in the file's order. They are read and decoded ahead of who asks, a few batches far.
#[derive(Debug)]
pub struct FileRows {
    name: String,
    /// Gone when the file has come to its end, good or bad.
    work: Option<Work>,
    /// Batches that came with the one that was given last.
    waiting: VecDeque<RowBatch>,
    stats: Option<FileStats>,
    /// What the message says of it.
    announced: Option<Extras>,
    /// What becomes a copy of it, once its reader says that it is right.
    draft: Option<Draft>,
    is_from_storage: bool,
    /// It may be another one: only its hash tells.
    is_unsure: bool,
    /// A place up to which all rows were given.
    checkpoint: Option<Checkpoint>,
    /// A download that is other than its index or the checkpoint says: whoever opened it reads it again, in one go.
    is_doubted: bool,
    /// How to decode it again, should it be other than its index says.
    again: Option<(PathBuf, DecodeOptions)>,
}

/// Tasks that end with it.
#[derive(Debug)]
struct Work {
    groups: mpsc::Receiver<Group>,
    reading: JoinSet<Result<Option<Draft>, LookError>>,
    decoding: JoinSet<Result<Decoded, DecodeError>>,
    /// What reading came to.
    read: Option<Result<Option<Draft>, LookError>>,
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
        let blob_type = entity.map_or("", |entity| entity.name.as_str());
        let options = rows::decode_options(media, blob_type, entity, limits)?;
        let (file, length) = open(path).await?;
        let work = Work::of_file(file, path, options.clone(), Way::BySegments(length), 0);
        let again = Some((path.to_owned(), options));
        let name = path.display().to_string();
        Ok(Self { again, ..Self::new(name, work) })
    }

    /// Of a blob, by the message that stands for it; to be compared with the announced hash if `verify_hash`.
    pub(crate) fn of_blob(
        name: String,
        download: Fetched,
        metadata: &Metadata,
        entity: Option<&Entity>,
        limits: &Limits,
        verify_hash: bool,
    ) -> Result<Self, LookError> {
        let media = metadata.media().map_err(RowsError::from)?;
        let options = rows::decode_options(media, &metadata.blob_type, entity, limits)?;
        let announced = metadata.extras().unwrap_or_default();
        let hash_plain = (verify_hash || download.is_unsure()) && announced.plain_sha256.is_some();
        let rows = Self::of_download(name, download, DecodeOptions { hash_plain, ..options }, Way::InOneGo);
        Ok(Self { announced: Some(announced), ..rows })
    }

    /// Of a download from the blob's begin, or from where `way` begins.
    pub(crate) fn of_download(name: String, mut download: Fetched, options: DecodeOptions, way: Way) -> Self {
        let (is_from_storage, is_unsure) = (download.is_from_storage(), download.is_unsure());
        let work = Work::begin(options, way, 0, async move |chunks| {
            fetch::stream(&mut download, chunks, || {}).await?;
            Ok(download.into_draft())
        });
        Self { is_from_storage, is_unsure, ..Self::new(name, work) }
    }

    fn new(name: String, work: Work) -> Self {
        Self {
            name,
            work: Some(work),
            waiting: VecDeque::new(),
            stats: None,
            announced: None,
            draft: None,
            is_from_storage: false,
            is_unsure: false,
            checkpoint: None,
            is_doubted: false,
            again: None,
        }
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
            if let Some(batch) = self.waiting.pop_front() {
                return Ok(Some(batch));
            }
            let Some(work) = &mut self.work else { return Ok(None) };
            if let Some(group) = work.groups.recv().await {
                self.waiting.extend(group.batches);
                self.stats = group.end.or(self.stats.take());
                self.checkpoint = group.checkpoint.or(self.checkpoint.take());
                continue;
            }
            // A call that is dropped here finds the tasks, or what they came to, when it is repeated.
            let ended = work.ended().await;
            self.work = None;
            let (decoded, draft) = ended?;
            match (decoded, &self.again) {
                (Ok(Decoded::Over), _) => {
                    self.draft = draft;
                    match self.check_announced() {
                        Ok(()) if self.announced.is_some() => self.keep().await,
                        Err(error) if self.is_unsure => return Err(error),
                        Ok(()) | Err(_) => {}
                    }
                }
                (Ok(Decoded::Doubt { to }), Some((path, options))) => {
                    let (file, _) = open(path).await?;
                    self.work = Some(Work::of_file(file, path, options.clone(), Way::InOneGo, to));
                }
                (Ok(Decoded::Doubt { .. }), None) => self.is_doubted = true,
                (Err(source), _) => return Err(RowsError::Decode { blob: self.name.clone(), source }.into()),
            }
        }
    }

    /// Once the file was read to its end: whether it is what its message announced, as a run asks before it is done.
    ///
    /// # Errors
    /// [`LookError::Rows`]. The hash counts only where the subscriber was built to verify it.
    pub fn check_announced(&self) -> Result<(), LookError> {
        match (&self.announced, &self.stats) {
            (Some(announced), Some(stats)) => Ok(rows::check_figures(&self.name, announced, stats)?),
            _ => Ok(()),
        }
    }

    /// The last place before or within the rows that were given, where they can be gone on with.
    pub(crate) fn checkpoint(&self) -> Option<&Checkpoint> {
        self.checkpoint.as_ref()
    }

    /// At the end: it is none, and the rows that follow are had by reading in one go.
    pub(crate) fn is_doubted(&self) -> bool {
        self.is_doubted
    }

    /// Whether storage gave it, or said of it what it knows.
    pub(crate) fn is_from_storage(&self) -> bool {
        self.is_from_storage
    }

    /// It is right: a copy of it is kept, where there is a cache. Where the message is known here, that is done at the file's end.
    pub(crate) async fn keep(&mut self) {
        fetch::keep(self.draft.take()).await;
    }

    /// What the whole file had, once it was read to its end.
    #[must_use]
    pub fn stats(&self) -> Option<&FileStats> {
        self.stats.as_ref()
    }
}

impl Work {
    fn of_file(file: File, path: &Path, options: DecodeOptions, way: Way, from: u64) -> Self {
        let path = path.display().to_string();
        Self::begin(options, way, from, async move |chunks| {
            let mut file = file;
            loop {
                let (back, read) = blocking(move || read(file)).await.ok_or(LookError::Closing)?;
                file = back;
                let bytes = read.map_err(|source| LookError::Io { path: path.clone(), source })?;
                let chunk = if bytes.is_empty() { Chunk::End } else { Chunk::Bytes(bytes) };
                let is_last = matches!(chunk, Chunk::End);
                if chunks.send(chunk).await.is_err() || is_last {
                    return Ok(None);
                }
            }
        })
    }

    fn begin<R>(options: DecodeOptions, way: Way, from: u64, read: impl FnOnce(mpsc::Sender<Chunk>) -> R) -> Self
    where
        R: Future<Output = Result<Option<Draft>, LookError>> + Send + 'static,
    {
        let (chunk_to, chunk_from) = mpsc::channel(rows::CHUNKS_QUEUED);
        let (group_to, groups) = mpsc::channel(rows::GROUPS_QUEUED);
        let (mut reading, mut decoding) = (JoinSet::new(), JoinSet::new());
        reading.spawn(read(chunk_to));
        let pool = Pool::new(available_parallelism().map_or(1, NonZero::get));
        let grouping = Grouping::new(from, GROUP_LIMITS);
        decoding.spawn(rows::decode(options, way, grouping, pool, chunk_from, group_to));
        Self { groups, reading, decoding, read: None }
    }

    /// What it came to, when there are no more groups.
    async fn ended(&mut self) -> Result<(Result<Decoded, DecodeError>, Option<Draft>), LookError> {
        // What the decoder says counts, unless bytes were missing.
        if let Some(read) = self.reading.join_next().await {
            self.read = Some(outcome(read).ok_or(LookError::Closing)?);
        }
        if let Some(Err(_)) = &self.read {
            return Err(self.read.take().and_then(Result::err).unwrap_or(LookError::Closing));
        }
        let decoded = self.decoding.join_next().await.expect("it is joined once");
        let decoded = outcome(decoded).ok_or(LookError::Closing)?;
        Ok((decoded, self.read.take().and_then(Result::ok).flatten()))
    }
}

async fn open(path: &Path) -> Result<(File, u64), LookError> {
    let there = path.to_owned();
    let opened = move || {
        let file = File::open(there)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    };
    let failed = |source| LookError::Io { path: path.display().to_string(), source };
    blocking(opened).await.ok_or(LookError::Closing)?.map_err(failed)
}

/// The next bytes; none at the end.
fn read(mut file: File) -> (File, std::io::Result<Bytes>) {
    let mut bytes = Vec::with_capacity(READ_BYTES);
    let read = (&mut file).take(READ_BYTES as u64).read_to_end(&mut bytes);
    (file, read.map(|_| bytes.into()))
}
