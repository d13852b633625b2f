//! What the inbox holds: messages as they came, files as they are worked, and what became of them.

use std::{fmt, str::FromStr, time::Duration};

use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::Instant;
use waybill_azure::blob::BlobFacts;
use waybill_contracts::{Metadata, Reason, Snapshot};
use waybill_formats::seek::Checkpoint;

use crate::apply::Position;

/// The identity of a file: its publisher and exportId, else its normalised uri.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct FileKey(String);

impl FileKey {
    /// From the extras. An exportId may be a publisher's own choice (`nightly-7`), so it counts within its publisher.
    #[must_use]
    pub fn of_export(publisher: &str, export_id: &str) -> Self {
        Self(format!("export:{publisher}/{export_id}"))
    }

    /// From a file's address, query removed.
    #[must_use]
    pub fn of_uri(normalised: &str) -> Self {
        Self(format!("uri:{normalised}"))
    }

    /// Reads back what [`FileKey::as_str`] gave.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The text that inbox and sink store.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FileKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who works: unique per process and start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerId(pub String);

impl WorkerId {
    /// A new one, which tells people where its process is: `HOST-PID-…`.
    pub(crate) fn new() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let host = host.or_else(|| std::env::var("COMPUTERNAME").ok()).or_else(|| std::env::var("HOSTNAME").ok());
        let host = host.as_deref().map(str::trim).filter(|host| !host.is_empty()).unwrap_or("host");
        Self(format!("{host}-{}-{}", std::process::id(), uuid::Uuid::new_v4().simple()))
    }
}

/// Where an inbox row is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waits until it is due.
    Saved,
    /// Leased by a worker.
    Working,
    /// Every row took effect, or is kept aside with its reason.
    Done,
    /// Needs a person.
    Quarantined,
    /// Not wanted: by the type filter or by a person.
    Skipped,
    /// Another message for a known file.
    Duplicate,
    /// The file is gone and past its time.
    Expired,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 7] =
        [Self::Saved, Self::Working, Self::Done, Self::Quarantined, Self::Skipped, Self::Duplicate, Self::Expired];

    /// As stored and printed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Saved => "saved",
            Self::Working => "working",
            Self::Done => "done",
            Self::Quarantined => "quarantined",
            Self::Skipped => "skipped",
            Self::Duplicate => "duplicate",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for State {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or_else(|| UnknownState(text.to_owned()))
    }
}

/// What became of a person's wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// It is so now.
    Done,
    /// There is no such row.
    Unknown,
    /// The message names no file that could be tried.
    NoFile,
    /// The row is in a state in which this cannot be.
    Not(State),
}

/// A name that is no state.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no state; known are saved, working, done, quarantined, skipped, duplicate and expired")]
pub struct UnknownState(String);

/// A message as the bus delivered it, understood or not.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The entity it came from, with `/$deadletterqueue` where it did.
    pub entity_path: String,
    /// The broker's number of it in that entity.
    pub sequence_number: i64,
    /// The broker's time of it: tells apart numbers of an entity that was deleted and made again.
    pub enqueued_at: OffsetDateTime,
    /// `message-id`: shown, never trusted.
    pub message_id: Option<String>,
    /// What it says.
    pub announced: Announced,
}

/// What a message says.
#[derive(Debug, Clone)]
pub enum Announced {
    /// A file.
    File(Box<Waybill>),
    /// Nothing that we understand: kept as quarantined.
    Broken(BrokenMessage),
}

/// A message that is no waybill.
#[derive(Debug, Clone)]
pub struct BrokenMessage {
    /// Why.
    pub reason: Reason,
    /// In words.
    pub problem: String,
    /// Its body, as far as there was one (cut at 256 KiB).
    pub body: Vec<u8>,
    /// Its `blobType`, where that much was understood.
    pub blob_type: Option<String>,
    /// Its `correlationId`, where that much was understood.
    pub correlation_id: Option<String>,
}

/// A waybill, with the parts that the inbox looks at pulled out.
#[derive(Debug, Clone)]
pub struct Waybill {
    /// The file's identity.
    pub key: FileKey,
    /// The message's body as it came.
    pub body: String,
    /// The same, parsed.
    pub metadata: Metadata,
    /// The publisher's sequence, when the message has one.
    pub sequence: Option<PublisherSequence>,
    /// When the blob may be deleted.
    pub expires_at: Option<OffsetDateTime>,
}

impl Waybill {
    /// The full export that the file is a part of.
    #[must_use]
    pub fn snapshot(&self) -> Option<Snapshot> {
        self.metadata.extras().ok()?.snapshot
    }

    /// Where its rows are in the order; `sequence_number` is the broker's, for a file without a place in a sequence.
    #[must_use]
    pub fn position(&self, sequence_number: i64) -> Position {
        let Some(PublisherSequence { publisher, epoch, sequence }) = self.sequence.clone() else {
            return Position::Broker { sequence_number };
        };
        match self.snapshot() {
            Some(of) => Position::Snapshot { publisher, epoch, as_of: of.as_of, sequence },
            None => Position::Sequenced { publisher, epoch, sequence },
        }
    }
}

/// A file's place in its publisher's sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublisherSequence {
    /// The publisher's name; empty when it gave none.
    pub publisher: String,
    /// Made with the publisher's outbox.
    pub epoch: String,
    /// 1, 2, 3 … per publisher, epoch and blobType.
    pub sequence: u64,
}

/// What `admit` did with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// A new file, saved.
    Saved(i64),
    /// No waybill: saved as quarantined.
    Quarantined(i64, Reason),
    /// Another message for a file that is known.
    Duplicate {
        /// The new row.
        id: i64,
        /// The file's row.
        of: i64,
    },
    /// A redelivery of a message that is saved already.
    AlreadySeen(i64),
}

/// Our hold on a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The row.
    pub id: i64,
    /// Who holds it.
    pub worker: WorkerId,
    /// On the store's clock; names the lease together with the worker.
    pub leased_at: OffsetDateTime,
    /// On the store's clock.
    pub until: OffsetDateTime,
    /// On our own clock: how long its holder counts on it. Counted from before the lease was asked for, so it ends before
    /// [`Lease::until`] whatever the two clocks show and however slow the answer was.
    pub trusted_until: Instant,
}

/// A leased file.
#[derive(Debug, Clone)]
pub struct Leased {
    /// The hold.
    pub lease: Lease,
    /// The file.
    pub waybill: Waybill,
    /// The broker's number, for files outside a publisher's sequence.
    pub sequence_number: i64,
    /// When it was received.
    pub received_at: OffsetDateTime,
    /// How often it was tried before.
    pub attempts: u32,
    /// The blob that was noted last; `None` before any.
    pub blob: Option<BlobSeen>,
}

/// A blob as it was when its rows were read. Storage gives each content that is written a new ETag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobSeen {
    /// As storage gave it.
    pub etag: String,
    /// Its bytes as stored.
    pub length: u64,
    /// A place in it where somebody can go on who wants the rows after it; everything before it was read and found right.
    pub checkpoint: Option<Checkpoint>,
}

impl BlobSeen {
    /// A blob nothing of which was read.
    pub(crate) fn new(facts: &BlobFacts) -> Self {
        Self { etag: facts.etag.clone(), length: facts.length, checkpoint: None }
    }

    /// Whether both are one content.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (&self.etag, self.length) == (&other.etag, other.length)
    }

    /// The checkpoint as it is stored.
    pub(crate) fn checkpoint_text(&self) -> Option<String> {
        let text = |checkpoint| serde_json::to_string(checkpoint).expect("numbers and names can be written");
        self.checkpoint.as_ref().map(text)
    }

    /// As it was stored. A checkpoint of another version of this program is none.
    pub(crate) fn stored(etag: String, length: u64, checkpoint: Option<String>) -> Self {
        let checkpoint = checkpoint.and_then(|text| serde_json::from_str(&text).ok());
        Self { etag, length, checkpoint }
    }
}

/// How a lease ends.
#[derive(Debug, Clone)]
pub enum End {
    /// Worked to its end.
    Done(FileDone),
    /// Not now.
    Later {
        /// From now.
        after: Duration,
        /// Why, in words.
        problem: String,
        /// Whether it counts as a try of this file.
        counts: bool,
    },
    /// Needs a person.
    Quarantine {
        /// Why.
        reason: Reason,
        /// In words, with the rows that took effect.
        problem: String,
    },
    /// Gone and past its time.
    Expire {
        /// In words.
        problem: String,
    },
    /// Given back untouched, as at a stop.
    Release,
}

/// The figures of a file that is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileDone {
    /// Rows, good and bad.
    pub rows: u64,
    /// Bad ones among them.
    pub bad_rows: u64,
    /// Those that a filter did not want; unknown where an earlier try brought a part of the file into effect.
    pub filtered_rows: Option<u64>,
    /// Bytes of the blob.
    pub stored_bytes: u64,
    /// Bytes after unpacking.
    pub plain_bytes: u64,
}

/// Which files a worker takes.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Only these rows, by their numbers; `None` for all.
    pub ids: Option<Vec<i64>>,
    /// Only these blobTypes, `*` in them standing for any characters; `None` for all.
    pub types: Option<Vec<String>>,
    /// Only what was received at or after this time.
    pub since: Option<OffsetDateTime>,
    /// Only those that no try has failed with since they were saved, or given back by a person.
    pub untried: bool,
    /// [`Subscriber::process`](crate::Subscriber::process) begins so many at most, each try counted, and ends when they ended;
    /// `None`: it goes on until it is stopped. Others count for themselves: an inbox does not look at it.
    pub limit: Option<u64>,
}

/// Where files may lie: an origin and a container of a grant.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The blob endpoint of the grant, without a trailing slash.
    pub endpoint: String,
    /// The container.
    pub container: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.endpoint, self.container)
    }
}

/// Whether there is work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pending {
    /// Rows that somebody works.
    pub working: u64,
    /// Rows that could be leased now.
    pub due: u64,
    /// Rows that wait for a later try.
    pub later: u64,
    /// When the first of those is due.
    pub next_due_in: Option<Duration>,
}

/// Files and messages per state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// In state `saved`.
    pub saved: u64,
    /// In state `working`.
    pub working: u64,
    /// In state `done`.
    pub done: u64,
    /// In state `quarantined`.
    pub quarantined: u64,
    /// In state `skipped`.
    pub skipped: u64,
    /// In state `duplicate`.
    pub duplicate: u64,
    /// In state `expired`.
    pub expired: u64,
    /// Rows of files, not files: those that a filter did not want.
    #[serde(skip)]
    pub filtered_rows: u64,
    /// Likewise, those that could not be used.
    #[serde(skip)]
    pub bad_rows: u64,
}

impl Counts {
    /// How many are in this state.
    pub(super) fn set(&mut self, state: State, many: u64) {
        *match state {
            State::Saved => &mut self.saved,
            State::Working => &mut self.working,
            State::Done => &mut self.done,
            State::Quarantined => &mut self.quarantined,
            State::Skipped => &mut self.skipped,
            State::Duplicate => &mut self.duplicate,
            State::Expired => &mut self.expired,
        } = many;
    }
}

/// What was announced of a blobType: files, other messages for them not counted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TypeTotals {
    /// The type.
    pub blob_type: String,
    /// Files.
    pub files: u64,
    /// Those in state `skipped`.
    pub skipped: u64,
    /// Those in state `done`.
    pub done: u64,
    /// Rows: of files that are done, else as announced, where it is.
    pub rows: u64,
    /// Bytes of blobs, likewise.
    pub bytes: u64,
    /// Of how many files the bytes are known.
    pub files_with_bytes: u64,
    /// Rows that a filter did not want, of files that are done, where it is known.
    pub filtered_rows: u64,
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListFilter {
    /// Only this state.
    pub state: Option<State>,
    /// Only this blobType.
    pub blob_type: Option<String>,
    /// Only this correlation id.
    pub correlation_id: Option<String>,
    /// Only rows with a smaller id: the next page.
    pub before: Option<i64>,
    /// At most this many; 0 stands for 100.
    pub most: u32,
}

/// A row as people see it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InboxRow {
    /// The row's number: what `show` takes.
    pub id: i64,
    /// Where it is in its life.
    pub state: State,
    /// Why, when a person is needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// In words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The file; none for a message that is no waybill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FileKey>,
    /// `blobType`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blob_type: Option<String>,
    /// `correlationId`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// `uri`, as sent, without its query.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// `contentType`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
    /// The publisher's sequence number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The bus entity it came from.
    pub entity_path: String,
    /// The broker's number of it.
    pub sequence_number: i64,
    /// The broker's time of it.
    #[serde(with = "time::serde::rfc3339")]
    pub enqueued_at: OffsetDateTime,
    /// `message-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// When it was saved.
    #[serde(with = "time::serde::rfc3339")]
    pub received_at: OffsetDateTime,
    /// When its state last changed.
    #[serde(with = "time::serde::rfc3339")]
    pub changed_at: OffsetDateTime,
    /// When it may be tried, in state `saved`.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub due_at: Option<OffsetDateTime>,
    /// When the blob may be deleted.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<OffsetDateTime>,
    /// Tries so far.
    pub attempts: u32,
    /// Who works it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Rows that took effect, good or bad.
    pub rows: u64,
    /// Bad ones among them.
    pub bad_rows: u64,
    /// Those that a filter did not want, where it is known.
    pub filtered_rows: Option<u64>,
    /// Of which row it is a duplicate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duplicate_of: Option<i64>,
    /// The message's body.
    pub body: String,
}

/// A change of state.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// To which state.
    pub state: State,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// In words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Who did it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
}
