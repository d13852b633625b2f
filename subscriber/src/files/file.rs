//! A saved file in our hand, and the words that end it.

use std::{sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::time::sleep;
use waybill_azure::blob::BlobError;
use waybill_contracts::{MediaError, Metadata, Reason};

use super::{Rows, Source, hold::Hold};
use crate::{
    Blame, FileKey, Verdict,
    fetch::FetchError,
    grants::jittered,
    inbox::{BlobSeen, End, FileDone, Inbox, InboxError, Leased, SqliteInbox, Waybill},
    receive::chain,
    rows::RowsError,
    schedule::{Dependency, WorkStats, own_pause},
};

/// The inbox is told an end again after this, while it does not answer.
const TELL_AGAIN: Duration = Duration::from_millis(200);
/// Longest time that a file is put off for.
const LATER_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// What is kept of an explanation.
const WHY_BYTES_MAX: usize = 16 << 10;

/// Why a file cannot be read, or not be ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The lease could not be renewed in time.
    #[error("the lease of this file is over, and another worker may have it by now; let go of it, it comes again")]
    Lapsed,
    /// The blob cannot be had, or not to its end.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Its bytes are not the rows that were announced.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// A malformed row, where the subscriber was built with [`OnBadRow::Fail`](crate::OnBadRow::Fail).
    #[error("row {row} at byte {offset}: {problem}; no row of the file was given out, as OnBadRow::Fail asks")]
    BadRow {
        /// Which (1-based).
        row: u64,
        /// Where it begins, in plain bytes from the file's begin.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// Rows are to follow those of an earlier try, and the blob is another one by now.
    #[error(
        "rows up to {row} were read from a blob that is not there any more, and nothing says that this one has the same content; \
         ask the publisher to export the file again under a new name"
    )]
    ContentChanged {
        /// The last one.
        row: u64,
    },
    /// A file was said to be done whose rows could not be read.
    #[error(
        "the file is not done, because its rows were not read to their end ({problem}); ask for them again, or say that it \
         failed. It comes again when its lease ends"
    )]
    NotRead {
        /// Why not.
        problem: String,
    },
    /// The inbox failed.
    #[error("the inbox failed")]
    Inbox(#[from] InboxError),
}

impl FileError {
    /// Where the file goes; `None` when it is not ours any more, or the mistake is the caller's.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        Some(match self {
            Self::Lapsed | Self::NotRead { .. } => return None,
            Self::Fetch(error) => error.verdict(),
            Self::Rows(error) => error.verdict(),
            Self::BadRow { .. } => Verdict::Quarantine(Reason::MalformedRow),
            Self::ContentChanged { .. } => Verdict::Quarantine(Reason::ContentChanged),
            Self::Inbox(_) => Verdict::Retry { after: None, blame: Blame::Dependency },
        })
    }

    /// Whose clock runs, when it is a dependency's.
    pub(super) fn dependency(&self) -> Dependency {
        match self {
            Self::Inbox(_) | Self::Fetch(FetchError::Inbox(_)) => Dependency::Inbox,
            _ => Dependency::Storage,
        }
    }

    /// The blob is not the one that it was pinned to.
    pub(super) fn is_of_another_blob(&self) -> bool {
        matches!(self, Self::Fetch(FetchError::Blob(BlobError::Changed { .. })))
    }
}

impl From<MediaError> for FileError {
    fn from(error: MediaError) -> Self {
        RowsError::from(error).into()
    }
}

/// A file that is due, leased to its holder. The lease is renewed until the file is ended or dropped.
///
/// Each word that ends it takes it. Dropped without one, its lease ends by its time, and it comes again: within the time
/// of a lease, and without counting as a try.
#[derive(Debug)]
pub struct File<I = SqliteInbox> {
    pub(super) source: Arc<Source<I>>,
    pub(super) leased: Leased,
    pub(super) hold: Hold,
    /// The blob that rows were read from, here or in an earlier try.
    pub(super) blob: Option<BlobSeen>,
    /// What was read of it.
    pub(super) read: FileDone,
    /// The last answer was an error.
    pub(super) trouble: Option<Trouble>,
}

/// Why the rows were not read to their end.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) problem: String,
    /// The dependency behind it had worked before.
    pub(super) worked_before: bool,
}

impl<I: Inbox + Clone> File<I> {
    pub(super) fn new(source: Arc<Source<I>>, leased: Leased) -> Self {
        let hold = Hold::new(source.inbox.clone(), leased.lease.clone());
        let blob = leased.blob.clone();
        Self { source, leased, hold, blob, read: FileDone::default(), trouble: None }
    }

    /// The row's number in the inbox: what `waybill-subscriber show` takes.
    #[must_use]
    pub fn id(&self) -> i64 {
        self.leased.lease.id
    }

    /// The file's identity, the same each time it comes.
    #[must_use]
    pub fn key(&self) -> &FileKey {
        &self.leased.waybill.key
    }

    /// What its message says: type, correlation id, format.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.leased.waybill.metadata
    }

    /// The whole message, with the publisher's sequence and when the blob may be deleted.
    #[must_use]
    pub fn waybill(&self) -> &Waybill {
        &self.leased.waybill
    }

    /// When it was received.
    #[must_use]
    pub fn received_at(&self) -> OffsetDateTime {
        self.leased.received_at
    }

    /// How often it was tried before.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.leased.attempts
    }

    /// Whether the file is ours still. What takes long between two calls may ask before it takes effect.
    #[must_use]
    pub fn is_held(&self) -> bool {
        !self.hold.is_over()
    }

    /// Its rows from the first one. Nothing is fetched before they are asked for.
    pub fn rows(&mut self) -> Rows<'_, I> {
        Rows::new(self, 0)
    }

    /// Its rows after this one (1-based, good or bad): to go on where an earlier try stopped whose rows took effect. Only of the
    /// same content: of the blob that was read then, or of one with the `plainSha256` that the message announced.
    pub fn rows_after(&mut self, row: u64) -> Rows<'_, I> {
        Rows::new(self, row)
    }

    /// So many of the rows that were read were not wanted: for what the inbox tells of it. To be said after the last row.
    pub fn note_filtered(&mut self, rows: u64) {
        self.read.filtered_rows = Some(rows);
    }

    /// The file is worked to its end. Rows that were not asked for are not missed, as in a file whose blob was of no interest;
    /// after an error of its rows it is refused.
    ///
    /// # Errors
    /// [`FileError::Lapsed`]: it comes again, though its rows took effect. [`FileError::NotRead`]. [`FileError::Inbox`]: the
    /// inbox was told again and again until the lease was over.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the file done or not; if not, it comes again.
    pub async fn done(self) -> Result<(), FileError> {
        if let Some(Trouble { problem, .. }) = self.trouble {
            return Err(if self.hold.is_over() { FileError::Lapsed } else { FileError::NotRead { problem } });
        }
        let (source, read, received_at) = (Arc::clone(&self.source), self.read, self.received_at());
        self.end(End::Done(read)).await?;
        let stats = &source.stats;
        WorkStats::add(&stats.files_done, 1);
        WorkStats::add(&stats.filtered, read.filtered_rows.unwrap_or_default());
        stats.lag.add_between(received_at, (source.now)());
        WorkStats::add(&stats.stored_bytes, read.stored_bytes);
        WorkStats::add(&stats.plain_bytes, read.plain_bytes);
        Ok(())
    }

    /// Not now: it comes again after this time, a year at most, and has been tried once more. `why` is shown by `list` and
    /// `show`.
    ///
    /// # Errors
    /// [`FileError::Lapsed`]: it comes again sooner. [`FileError::Inbox`] as in [`File::done`].
    ///
    /// # Cancel safety
    /// Dropping the future leaves the file put off or not; if not, it comes again when its lease ends.
    pub async fn retry_in(self, after: Duration, why: &str) -> Result<(), FileError> {
        let stats = Arc::clone(&self.source.stats);
        self.end(End::Later { after: after.min(LATER_MAX), problem: kept(why), counts: true }).await?;
        WorkStats::add(&stats.tries_put_off, 1);
        stats.put_off_by.add("file");
        Ok(())
    }

    /// A person has to look at it: it is kept aside with its reason until `retry` or `skip`. `why` is shown by `list` and
    /// `show`.
    ///
    /// # Errors
    /// As [`File::retry_in`].
    ///
    /// # Cancel safety
    /// As [`File::retry_in`].
    pub async fn quarantine(self, reason: Reason, why: &str) -> Result<(), FileError> {
        let stats = Arc::clone(&self.source.stats);
        self.end(End::Quarantine { reason, problem: kept(why) }).await?;
        WorkStats::add(&stats.files_quarantined, 1);
        stats.quarantined_by.add(reason);
        Ok(())
    }

    /// It goes where [`Subscriber::run`](crate::Subscriber::run) would send it after this error of its rows: tried again after
    /// a pause that grows with its tries, quarantined, or expired. In an outage its tries do not count, and
    /// [`Files::next`](super::Files::next) waits on the clock that all files share.
    ///
    /// # Errors
    /// As [`File::retry_in`]; at once where the error is that the lease is over.
    ///
    /// # Cancel safety
    /// As [`File::retry_in`].
    pub async fn failed(self, error: &FileError) -> Result<(), FileError> {
        let Some(verdict) = error.verdict() else { return Err(FileError::Lapsed) };
        let (stats, problem) = (Arc::clone(&self.source.stats), chain(error));
        let (counter, end) = match verdict {
            Verdict::Retry { after, blame } => {
                let attempts = self.attempts();
                let (after, counts) = match blame {
                    Blame::Dependency => {
                        let worked_before = self.trouble.as_ref().is_some_and(|trouble| trouble.worked_before);
                        self.source.circuits.of(error.dependency()).put_off(worked_before, attempts)
                    }
                    Blame::File => (after.unwrap_or_else(|| own_pause(attempts)), true),
                };
                (&stats.tries_put_off, End::Later { after: after.min(LATER_MAX), problem, counts })
            }
            Verdict::Quarantine(reason) => (&stats.files_quarantined, End::Quarantine { reason, problem }),
            Verdict::Expire => (&stats.files_expired, End::Expire { problem }),
        };
        self.end(end).await?;
        WorkStats::add(counter, 1);
        match verdict {
            Verdict::Retry { blame: Blame::Dependency, .. } => stats.put_off_by.add(error.dependency().as_str()),
            Verdict::Retry { blame: Blame::File, .. } => stats.put_off_by.add("file"),
            Verdict::Quarantine(reason) => stats.quarantined_by.add(reason),
            Verdict::Expire => {}
        }
        Ok(())
    }

    /// Back to the others, for whoever takes it next, at once: before a stop. It does not count as a try.
    ///
    /// # Errors
    /// As [`File::retry_in`].
    ///
    /// # Cancel safety
    /// As [`File::retry_in`].
    pub async fn give_back(self) -> Result<(), FileError> {
        self.end(End::Release).await
    }

    /// The store says whether the lease still holds.
    async fn end(self, end: End) -> Result<(), FileError> {
        let Self { source, hold, .. } = self;
        loop {
            match source.inbox.finish(&hold.lease, end.clone()).await {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(FileError::Lapsed),
                Err(error) if hold.is_over() => return Err(error.into()),
                Err(error) => {
                    tracing::warn!(id = hold.lease.id, error = %chain(&error), "the file's end is not noted yet");
                    sleep(jittered(TELL_AGAIN)).await;
                }
            }
        }
    }
}

/// As much of an explanation as is kept.
fn kept(why: &str) -> String {
    let mut end = why.len().min(WHY_BYTES_MAX);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    why.get(..end).unwrap_or_default().to_owned()
}
