//! What the outbox holds: exports, where each is in its life, and what happened to it.

use std::{fmt, str::FromStr, time::Duration};

use futures::future::BoxFuture;
use serde::Serialize;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use waybill_contracts::{BlobPath, BlobType, ExportId, Snapshot};

use super::OutboxError;

/// Where an export is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It has a blob's name; with a sequence number, the blob may be there.
    Planned,
    /// Its blob is committed; the message is due.
    Uploaded,
    /// The broker has accepted its message.
    Sent,
    /// It will never be sent; the reason is kept.
    Void,
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: [Self; 4] = [Self::Planned, Self::Uploaded, Self::Sent, Self::Void];

    /// The stored and serialised name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Uploaded => "uploaded",
            Self::Sent => "sent",
            Self::Void => "void",
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

/// A text that names no [`State`].
#[derive(Debug, thiserror::Error)]
#[error("unknown state {0:?}; states are planned, uploaded, sent and void")]
pub struct UnknownState(String);

/// What is known of an export before anything of it exists.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its identity: exporting the same one twice makes one export.
    pub export_id: ExportId,
    /// Who publishes.
    pub publisher: String,
    /// What its rows are.
    pub blob_type: BlobType,
    /// For tracking.
    pub correlation_id: String,
    /// The message or command that caused these changes.
    pub causation_id: Option<String>,
    /// W3C trace context of whoever exports.
    pub traceparent: Option<String>,
    /// Where the blob is to be.
    pub blob: BlobPath,
    /// As in the message.
    pub content_type: String,
    /// As in the message; `None` when it is not packed.
    pub content_encoding: Option<String>,
    /// A JSON object.
    pub properties: Option<Box<RawValue>>,
    /// A name or address of the rows' schema.
    pub schema: Option<String>,
    /// When the blob may be deleted.
    pub expires_at: Option<OffsetDateTime>,
}

/// What is known of a file once its last block is staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    /// The blob's address, without a query.
    pub uri: String,
    /// Rows; `None` for a format that we do not read.
    pub rows: Option<u64>,
    /// Bytes as stored.
    pub bytes: u64,
    /// Bytes after unpacking.
    pub plain_bytes: u64,
    /// SHA-256 of the plain bytes, lower-case hex.
    pub plain_sha256: String,
    /// SHA-256 of the stored bytes, lower-case hex; `None` for a file whose first block was known last.
    pub sha256: Option<String>,
    /// The full export that it is a part of.
    pub snapshot: Option<Snapshot>,
}

/// One try at an export. A later one for the same export fences it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The export's row.
    pub row: i64,
    /// Which try it is: 1, 2, 3 …
    pub number: i64,
    /// For errors.
    pub export_id: ExportId,
}

/// What [`Outbox::plan`](super::Outbox::plan) came to.
#[derive(Debug)]
pub enum Planned {
    /// Upload to this blob: the plan's, or the one of an earlier try that had not come far.
    Begin(Attempt, BlobPath),
    /// An earlier try got a number, so its blob may be there: settle that first, then plan again.
    Settle(Attempt, Box<ExportRow>),
    /// It is uploaded or sent already; there is nothing to do.
    Exported(Box<ExportRow>),
}

/// An export as the outbox holds it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ExportRow {
    /// The row. Several may have one exportId, but all of them except the last are void.
    pub row: i64,
    /// Its identity, and its first message-id.
    #[serde(serialize_with = "as_text")]
    pub export_id: ExportId,
    /// Who publishes.
    pub publisher: String,
    /// The database that numbered it.
    pub epoch: String,
    /// What its rows are.
    pub blob_type: String,
    /// 1, 2, 3 … per publisher, epoch and blobType; `None` until the file is staged.
    pub sequence: Option<u64>,
    /// For tracking.
    pub correlation_id: String,
    /// What caused these changes.
    pub causation_id: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// The blob's name in its container.
    pub blob: String,
    /// The blob's address; `None` until the file is staged.
    pub uri: Option<String>,
    /// As in the message.
    pub content_type: String,
    /// As in the message.
    pub content_encoding: Option<String>,
    /// A JSON object.
    pub properties: Option<Box<RawValue>>,
    /// The rows' schema.
    pub schema: Option<String>,
    /// Rows; `None` until the file is staged, or for a format that we do not read.
    pub rows: Option<u64>,
    /// Bytes as stored.
    pub bytes: Option<u64>,
    /// Bytes after unpacking.
    pub plain_bytes: Option<u64>,
    /// SHA-256 of the plain bytes.
    pub plain_sha256: Option<String>,
    /// SHA-256 of the stored bytes.
    pub sha256: Option<String>,
    /// The full export that it is a part of; `None` until the file is staged.
    pub snapshot: Option<Snapshot>,
    /// Where it is in its life.
    pub state: State,
    /// Why it is void.
    pub reason: Option<String>,
    /// The row that took the place of a void one.
    pub replaced_by: Option<i64>,
    /// The message-id, the same in every try to send.
    pub message_id: Option<String>,
    /// When it was planned.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the blob was committed.
    #[serde(with = "time::serde::rfc3339::option")]
    pub uploaded_at: Option<OffsetDateTime>,
    /// When the broker accepted the message.
    #[serde(with = "time::serde::rfc3339::option")]
    pub sent_at: Option<OffsetDateTime>,
    /// When the blob may be deleted.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// How often the broker refused this message; outages of the bus do not count. Once the export is over: how often storage
    /// refused to delete its blob.
    pub tries: u64,
    /// When the message is tried next, if it waits; `None` also while its type is paused. Once the export is over: when its blob is
    /// tried again that could not be deleted.
    #[serde(with = "time::serde::rfc3339::option")]
    pub due_at: Option<OffsetDateTime>,
    /// What the last try met.
    pub last_error: Option<String>,
    /// Which try to upload this is.
    pub attempt: i64,
}

impl ExportRow {
    /// Names the try that this row shows.
    #[must_use]
    pub fn attempt(&self) -> Attempt {
        Attempt { row: self.row, number: self.attempt, export_id: self.export_id.clone() }
    }

    /// Whether its term ended while it waited, not long ago: nobody else has its changes, and they stay in the change log.
    pub(crate) fn is_kept_after_term(&self, now: OffsetDateTime) -> bool {
        self.state == State::Void
            && self.reason.as_deref() == Some(TERM_ENDED)
            && self.expires_at.is_some_and(|term| now < term + KEPT_AFTER_TERM)
    }
}

fn as_text<S: serde::Serializer>(id: &ExportId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(id.as_str())
}

/// A change of an export's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The state from then on.
    pub state: State,
    /// Why, or what else is to be known.
    pub note: Option<String>,
}

/// How many exports are in each state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Under way, or interrupted.
    pub planned: u64,
    /// Waiting for the bus.
    pub uploaded: u64,
    /// Done.
    pub sent: u64,
    /// Never to be sent.
    pub void: u64,
    /// Since when the oldest uploaded one waits.
    #[serde(with = "time::serde::rfc3339::option")]
    pub waiting_since: Option<OffsetDateTime>,
    /// When the first term ends of the 1,000 uploaded ones that wait longest: what is not sent by then becomes void.
    #[serde(with = "time::serde::rfc3339::option")]
    pub waiting_until: Option<OffsetDateTime>,
}

/// Of so many that wait, [`Counts::waiting_until`] is known: it is asked for after each batch that is sent.
pub(crate) const TERMS_LOOKED_AT: u32 = 1_000;
/// Why an export is void whose term ended while it waited.
pub(crate) const TERM_ENDED: &str = "its blob's term ended before it could be sent";
/// How long changes stay in the log whose file nobody was sent within its term: whoever is told of it can still save them.
const KEPT_AFTER_TERM: Duration = Duration::from_secs(7 * 24 * 3600);

/// Numbers of a sequence that one manifest names: fixed once, so that it can be made again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestRange {
    /// The manifest's own export.
    #[serde(serialize_with = "as_text")]
    pub export_id: ExportId,
    /// Who published what it names.
    pub publisher: String,
    /// The epoch of these numbers.
    pub epoch: String,
    /// Their type.
    pub blob_type: String,
    /// The first of them.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// How far manifests name a sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NamedTo {
    /// The type.
    pub blob_type: String,
    /// The last number up to which all are named by manifests that were sent.
    pub up_to: u64,
    /// Manifests of what comes then that are fixed, and not made or not sent.
    pub unsent: u64,
}

/// A full export, as far as the outbox knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FullExport {
    /// Its id.
    pub snapshot: String,
    /// The place of its rows.
    pub as_of: u64,
    /// How many parts it has.
    pub of: u64,
    /// How many of them are uploaded or sent: with fewer than all, nobody takes it for all rows.
    pub there: u64,
    /// How many are sent.
    pub sent: u64,
    /// The last number of its parts.
    pub last: u64,
}

impl FullExport {
    /// Whether all parts are there.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.there == self.of
    }
}

/// An export that is over: its blob's term is, and it is sent or void.
#[derive(Debug, Clone)]
pub struct OverExport {
    /// The export.
    pub row: ExportRow,
    /// Whether a manifest that is sent names its number, or it has none: then it may go.
    pub is_named: bool,
}

/// A type whose messages are held back by a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Paused {
    /// The type.
    pub blob_type: String,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub since: OffsetDateTime,
    /// Why, as that person says.
    pub why: String,
}

/// When a message is due whose type is paused: at no time that comes. Resuming the type sets it anew.
pub(super) fn paused_until() -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(9_214_646_400).expect("2262 is a year that can be told")
}

/// Which rows [`Outbox::list`](super::Outbox::list) answers.
#[derive(Debug, Clone)]
pub struct ListFilter {
    /// In this state only.
    pub state: Option<State>,
    /// Of this blobType only.
    pub blob_type: Option<String>,
    /// Of this export only; more than one when earlier ones are void.
    pub export_id: Option<String>,
    /// Of this correlationId only.
    pub correlation_id: Option<String>,
    /// Rows before this one: for the next page.
    pub before: Option<i64>,
    /// At most so many; default 100.
    pub most: u32,
}

impl Default for ListFilter {
    fn default() -> Self {
        Self { state: None, blob_type: None, export_id: None, correlation_id: None, before: None, most: 100 }
    }
}

/// The right to send an outbox's messages, which one process has at a time. It ends when this is dropped, and with the
/// process; a server may end it earlier. What is to be sent is read under it.
pub struct RelayLock(Box<dyn Fn(u32) -> Reading + Send + Sync>);

/// What is due, or nothing where the right to send is lost.
type Reading = BoxFuture<'static, Result<Option<Vec<ExportRow>>, OutboxError>>;

impl RelayLock {
    /// Wraps what reads as [`Outbox::due`](super::Outbox::due) does, and owns what holds the lock. Where that may be lost, such as a
    /// session with a server, the rows come by way of it: `None` once it is lost, or in doubt. It answers within seconds.
    pub fn new(due: impl Fn(u32) -> Reading + Send + Sync + 'static) -> Self {
        Self(Box::new(due))
    }

    /// Uploaded exports whose message is due, longest waiting first, so many at most; `None` once the right to send is not ours any
    /// more. Somebody else may send then, and nothing more may be sent under it.
    ///
    /// # Errors
    /// As [`Outbox::due`](super::Outbox::due); the right to send is ours still.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn due(&self, most: u32) -> Result<Option<Vec<ExportRow>>, OutboxError> {
        (self.0)(most).await
    }
}

impl fmt::Debug for RelayLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayLock")
    }
}
