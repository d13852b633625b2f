//! Durable outbox: every export from its plan to its message.
//!
//! ```text
//! planned ──staged──► planned, numbered ──committed──► uploaded ──accepted──► sent
//!    │                       │                            │ ▲                   │
//!    │                       │                            │ └──a person resends─┘ (under a new message-id, or not after all)
//!    └──interrupted──────────┴──not our blob──► void ◄────┘ (its blob expired before the message could go, or a person says so)
//! ```
//!
//! A number is fixed after the last block is staged and before the blob is committed, because the blob's own headers carry
//! it. Whoever finds a numbered plan without its writer asks the container: the blob is there and ours, then it is
//! uploaded; else it is void, and its number is told.
//!
//! What is sent or void is named by a manifest, number by number, and may be forgotten once that is sent and the blob's term
//! is over.
//!
//! # Invariants
//! 1. One row that is not `void` per exportId.   2. Numbers of a publisher's blobType are 1, 2, 3 … without a gap.
//! 3. A try that was overtaken changes nothing.   4. Nothing leaves `void`, and only a person's word leaves `sent`.
//! 5. A manifest's range is fixed once; ranges of a sequence follow each other from 1 without a gap.

mod any;
pub mod conformance;
mod model;
mod named;
mod owner;
mod postgres;
mod sqlite;

use std::future::Future;

pub use any::AnyOutbox;
pub use model::{
    Attempt, Counts, ExportRow, FileFacts, FullExport, HistoryEntry, ListFilter, ManifestRange, NamedTo, OverExport,
    Paused, Plan, Planned, RelayLock, State, UnknownState,
};
pub(crate) use model::{TERM_ENDED, TERMS_LOOKED_AT};
pub use postgres::{PostgresOutbox, PostgresOutboxOptions};
pub use sqlite::{SqliteOutbox, SqliteOutboxOptions};
use time::OffsetDateTime;
use waybill_contracts::BlobType;
use waybill_store::{Schema, rusqlite, tokio_postgres};

/// Why the outbox could not do something. Nothing of the call took effect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutboxError {
    /// The file or server is not an outbox of ours, or cannot be opened.
    #[error("the outbox cannot be opened")]
    Open(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It cannot take or give anything now; later it may (disk full, held by another process, server down).
    #[error("the outbox is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The exportId belongs to an export of another type.
    #[error("export {export_id} is one of {blob_type} already; give this one another id")]
    IdInUse {
        /// The id.
        export_id: String,
        /// What it was used for.
        blob_type: String,
    },
    /// Another epoch began while this outbox was open.
    #[error("the outbox began another epoch (`waybill-publisher adopt`) since this process opened it; start it again")]
    OtherEpoch,
    /// A newer version of this program changed the outbox while this one had it open.
    #[error(
        "the outbox has schema version {found} by now, which a newer version of this program made, and this one knows up to \
         {known}; end this process, and run the newer version"
    )]
    Newer {
        /// What it has.
        found: i64,
        /// What this program knows.
        known: i64,
    },
    /// An earlier version of this program made it, and whoever only looks brings it to no other schema.
    #[error(
        "the outbox has schema version {found}, which an earlier version of this program made, and this one needs {known}; \
         `waybill-publisher run` of this version upgrades it, and publishers of the earlier one end then; until then look with \
         the earlier one"
    )]
    Older {
        /// What it has.
        found: i64,
        /// What this program needs.
        known: i64,
    },
    /// A later try, or another process, has this export now.
    #[error("export {export_id}: another try with this id has taken over")]
    Overtaken {
        /// The export.
        export_id: String,
    },
    /// What a person asked for does not fit the export.
    #[error("export {export_id} {problem}")]
    Refused {
        /// The export.
        export_id: String,
        /// Why, and what helps.
        problem: String,
    },
    /// A row holds what this version does not understand.
    #[error("the outbox holds what this program cannot read; was it written by a newer version?")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Keeps exports and their state. Contract, exercised by [`conformance::exercise`]:
///
/// - Each call is one transaction, durable on return. Clones share the store, and several processes may use it.
/// - The plans of an opened outbox are its own until the last of its clones is dropped or the process ends, however it
///   ends: then, a moment later, `claim_abandoned` of another one gives them out, each to one caller.
/// - A try that is not the latest of its export changes nothing: [`OutboxError::Overtaken`].
/// - Every change of state adds a row of history with its time and, for `void`, its reason.
pub trait Outbox: Send + Sync + 'static {
    /// Made with the database, or by [`Outbox::begin_epoch`]: a UUID version 7, as it was when this outbox was opened. Numbers
    /// count within it.
    fn epoch(&self) -> &str;

    /// Begins another epoch: numbers begin at 1 again, and can be told from those that were given before. For a database that was
    /// restored, or is a copy: its numbers were given to other files elsewhere. Whoever has it open numbers nothing more, and
    /// has to open it again. What is numbered stays as it is.
    fn begin_epoch(&self) -> impl Future<Output = Result<String, OutboxError>> + Send;

    /// Begins an export, or a further try at one that is not uploaded yet.
    ///
    /// # Errors
    /// Also [`OutboxError::IdInUse`].
    fn plan(&self, plan: Plan) -> impl Future<Output = Result<Planned, OutboxError>> + Send;

    /// Fixes the number, and keeps what is known of the file. Asked again by the same try, it is the same number.
    ///
    /// # Errors
    /// Also [`OutboxError::Overtaken`], by another file that is this part of the same full export too,
    /// [`OutboxError::OtherEpoch`] and [`OutboxError::Newer`].
    fn number(&self, attempt: &Attempt, facts: FileFacts) -> impl Future<Output = Result<u64, OutboxError>> + Send;

    /// The last number that a file of the type got in this epoch; 0 before the first.
    ///
    /// # Errors
    /// Also [`OutboxError::OtherEpoch`].
    fn last_number(
        &self,
        publisher: &str,
        blob_type: &BlobType,
    ) -> impl Future<Output = Result<u64, OutboxError>> + Send;

    /// The parts of a full export that have a number, void ones too, by part.
    fn parts(
        &self,
        publisher: &str,
        blob_type: &BlobType,
        snapshot: &str,
    ) -> impl Future<Output = Result<Vec<ExportRow>, OutboxError>> + Send;

    /// The full exports of a type, also those that are not whole, latest first.
    fn full_exports(
        &self,
        publisher: &str,
        blob_type: &BlobType,
        most: u32,
    ) -> impl Future<Output = Result<Vec<FullExport>, OutboxError>> + Send;

    /// The blob is committed: from here on its message will be sent.
    ///
    /// # Errors
    /// Also [`OutboxError::Overtaken`].
    fn uploaded(&self, attempt: &Attempt) -> impl Future<Output = Result<ExportRow, OutboxError>> + Send;

    /// Gives up an export that is planned or uploaded; its number, if it has one, stays taken. One that was sent before, and whose
    /// message a person ordered again, is sent as it was: subscribers have it, and nothing else may have its exportId.
    ///
    /// # Errors
    /// Also [`OutboxError::Overtaken`].
    fn void(&self, attempt: &Attempt, reason: &str) -> impl Future<Output = Result<(), OutboxError>> + Send;

    /// Takes over the plans of outboxes that are gone, each as a new try.
    fn claim_abandoned(&self) -> impl Future<Output = Result<Vec<ExportRow>, OutboxError>> + Send;

    /// The right to send; `None` while another has it. What is due is read [under it](RelayLock::due): where it can be lost before it
    /// is dropped, who has lost it reads nothing.
    ///
    /// # Errors
    /// Also where nobody else has it and we cannot have it either, since a server holds it for a session of ours that is gone.
    fn lock_relay(&self) -> impl Future<Output = Result<Option<RelayLock>, OutboxError>> + Send;

    /// Uploaded exports whose message is due, longest waiting first: to look. Who sends reads them under its lock.
    ///
    /// # Errors
    /// Also [`OutboxError::Newer`], whether there are some or not: what a newer version says in them would not be in the messages,
    /// and who has nothing to send has to let go of the outbox too.
    fn due(&self, most: u32) -> impl Future<Output = Result<Vec<ExportRow>, OutboxError>> + Send;

    /// The broker has accepted the messages of these rows.
    fn sent(&self, rows: &[i64]) -> impl Future<Output = Result<(), OutboxError>> + Send;

    /// A try to send these rows failed: with `due_at`, by their own fault, and they wait until then; without, by an outage,
    /// which is no try of theirs.
    fn not_sent(
        &self,
        rows: &[i64],
        error: &str,
        due_at: Option<OffsetDateTime>,
    ) -> impl Future<Output = Result<(), OutboxError>> + Send;

    /// A person orders that the message of this row is sent again: under a new message-id if the broker has accepted it, else at
    /// once. The row; it must be uploaded or sent, and its blob's term not over.
    ///
    /// # Errors
    /// Also [`OutboxError::Refused`].
    fn resend(&self, row: i64, why: &str) -> impl Future<Output = Result<ExportRow, OutboxError>> + Send;

    /// Holds back the messages of a type that are not under way, until it is resumed. Files are made meanwhile.
    fn pause(&self, blob_type: &str, why: &str) -> impl Future<Output = Result<(), OutboxError>> + Send;

    /// Whether the type was paused; from now on its messages are due.
    fn resume(&self, blob_type: &str) -> impl Future<Output = Result<bool, OutboxError>> + Send;

    /// The types that are paused, by name.
    fn paused(&self) -> impl Future<Output = Result<Vec<Paused>, OutboxError>> + Send;

    /// When manifests were looked for last; before that, when the outbox, or its epoch, began.
    fn manifested_at(&self) -> impl Future<Output = Result<OffsetDateTime, OutboxError>> + Send;

    /// Up to which number of each type's sequence, of this publisher in this epoch (ours, or one that was), manifests that were sent
    /// name what became of it, and how many are fixed and not sent; by type.
    fn named_to(&self, publisher: &str, epoch: &str) -> impl Future<Output = Result<Vec<NamedTo>, OutboxError>> + Send;

    /// Fixes what the next manifests name: of each sequence the numbers that none names yet, up to the first one that is neither
    /// sent nor void, `most` at most. The sequence of the manifests themselves gets one only beside another, or there would be no
    /// end. Answers with those, and with the ones that were fixed before and whose own export is not uploaded.
    fn plan_manifests(&self, most: u32) -> impl Future<Output = Result<Vec<ManifestRange>, OutboxError>> + Send;

    /// The exports that a manifest names, by their numbers, from the number `from` on.
    fn named(
        &self,
        range: &ManifestRange,
        from: u64,
        most: u32,
    ) -> impl Future<Output = Result<Vec<ExportRow>, OutboxError>> + Send;

    /// Exports with a row after this one that are over, by row. A manifest is not, while an export that it names is there.
    fn over(&self, after: i64, most: u32) -> impl Future<Output = Result<Vec<OverExport>, OutboxError>> + Send;

    /// The blob of an export that is over could not be deleted: why, and when that is tried again. It counts as a try of the row.
    fn not_deleted(
        &self,
        row: i64,
        error: &str,
        due_at: OffsetDateTime,
    ) -> impl Future<Output = Result<(), OutboxError>> + Send;

    /// Forgets exports that are over, with their history, and the range of a manifest with it; how many.
    fn forget(&self, rows: &[i64]) -> impl Future<Output = Result<u64, OutboxError>> + Send;

    /// How many rows are in each state.
    fn counts(&self) -> impl Future<Output = Result<Counts, OutboxError>> + Send;

    /// Rows, newest first.
    fn list(&self, filter: &ListFilter) -> impl Future<Output = Result<Vec<ExportRow>, OutboxError>> + Send;

    /// One row.
    fn get(&self, row: i64) -> impl Future<Output = Result<Option<ExportRow>, OutboxError>> + Send;

    /// What happened to a row, oldest first.
    fn history(&self, row: i64) -> impl Future<Output = Result<Vec<HistoryEntry>, OutboxError>> + Send;
}

/// What the last try to send the longest waiting message met.
///
/// # Errors
/// When the outbox cannot be read.
pub async fn last_error(outbox: &impl Outbox) -> Result<Option<String>, OutboxError> {
    // In an outage all are due, and those that waited longest were tried.
    let due = outbox.due(1).await?;
    let newest = outbox.list(&ListFilter { state: Some(State::Uploaded), ..ListFilter::default() }).await?;
    Ok(due.into_iter().chain(newest.into_iter().rev()).find_map(|row| row.last_error))
}

/// The parts of a full export, of $1, $2 and $3, in their order.
const PARTS: &str = "publisher = $1 AND blob_type = $2 AND snapshot_id = $3 ORDER BY snapshot_part";

/// What a newer version made of an outbox that is open, this program does not know.
fn refuse_newer(found: i64, schema: &Schema) -> Result<(), OutboxError> {
    let known = schema.known().into();
    if found > known { Err(OutboxError::Newer { found, known }) } else { Ok(()) }
}

/// A sum that somebody spoilt is told, and is no large number.
fn not_below_0(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_else(|_| {
        tracing::warn!(count, "the outbox's sums are wrong: was a row changed while its triggers were off?");
        0
    })
}

/// To look is no reason to take the outbox from an older version that runs.
fn refuse_older(found: i64, schema: &Schema) -> Result<(), OutboxError> {
    let known = schema.known().into();
    if found < known { Err(OutboxError::Older { found, known }) } else { Ok(()) }
}

fn overtaken(attempt: &Attempt) -> OutboxError {
    OutboxError::Overtaken { export_id: attempt.export_id.as_str().to_owned() }
}

/// Why a row cannot be sent again.
fn not_again(row: Option<ExportRow>, number: i64) -> OutboxError {
    let export_id = row.as_ref().map_or_else(|| number.to_string(), |row| row.export_id.as_str().to_owned());
    let problem = match row {
        None => "is none of this outbox".to_owned(),
        Some(ExportRow { state: State::Planned, .. }) => "is not uploaded yet, so there is nothing to send".to_owned(),
        Some(ExportRow { state: State::Void, reason, .. }) => {
            format!("is void ({}); export it again", reason.unwrap_or_default())
        }
        Some(_) => "cannot be sent: its blob's term is over, so that nobody could fetch it; export it again".to_owned(),
    };
    OutboxError::Refused { export_id, problem }
}

/// What a job of a store met: its database, or a rule of the outbox.
enum JobError<E> {
    Database(E),
    Rule(OutboxError),
}

impl<E> From<OutboxError> for JobError<E> {
    fn from(error: OutboxError) -> Self {
        Self::Rule(error)
    }
}

impl From<rusqlite::Error> for JobError<rusqlite::Error> {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl From<tokio_postgres::Error> for JobError<tokio_postgres::Error> {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error)
    }
}
