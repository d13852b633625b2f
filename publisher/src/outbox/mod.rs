//! Durable outbox: every export from its plan to its message.
//!
//! ```text
//! planned ──staged──► planned, numbered ──committed──► uploaded ──accepted──► sent
//!    │                       │                            │
//!    └──interrupted──────────┴──not our blob──► void ◄────┘ (its blob expired before the message could go)
//! ```
//!
//! A number is fixed after the last block is staged and before the blob is committed, because the blob's own headers carry
//! it. Whoever finds a numbered plan without its writer asks the container: the blob is there and ours, then it is
//! uploaded; else it is void, and its number is told.
//!
//! # Invariants
//! 1. One row that is not `void` per exportId.   2. Numbers of a publisher's blobType are 1, 2, 3 … without a gap.
//! 3. A try that was overtaken changes nothing.   4. Nothing leaves `sent` or `void`.

pub mod conformance;
mod model;
mod owner;
mod sqlite;

use std::future::Future;

pub use model::{
    Attempt, Counts, ExportRow, FileFacts, HistoryEntry, ListFilter, Plan, Planned, RelayLock, State, UnknownState,
};
pub use sqlite::{SqliteOutbox, SqliteOutboxOptions};
use time::OffsetDateTime;

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
    /// A later try, or another process, has this export now.
    #[error("export {export_id}: another try with this id has taken over")]
    Overtaken {
        /// The export.
        export_id: String,
    },
    /// A row holds what this version does not understand.
    #[error("the outbox holds what this program cannot read; was it written by a newer version?")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Keeps exports and their state. Contract, exercised by [`conformance::exercise`]:
///
/// - Each call is one transaction, durable on return. Clones share the store, and several processes may use it.
/// - The plans of an opened outbox are its own until the last of its clones is dropped or the process ends, however it
///   ends: then `claim_abandoned` of another one gives them out, each to one caller.
/// - A try that is not the latest of its export changes nothing: [`OutboxError::Overtaken`].
/// - Every change of state adds a row of history with its time and, for `void`, its reason.
pub trait Outbox: Send + Sync + 'static {
    /// Made with the database: a UUID version 7. Numbers count within it.
    fn epoch(&self) -> &str;

    /// Begins an export, or a further try at one that is not uploaded yet.
    ///
    /// # Errors
    /// Also [`OutboxError::IdInUse`].
    fn plan(&self, plan: Plan) -> impl Future<Output = Result<Planned, OutboxError>> + Send;

    /// Fixes the number, and keeps what is known of the file. Asked again by the same try, it is the same number.
    ///
    /// # Errors
    /// Also [`OutboxError::Overtaken`].
    fn number(&self, attempt: &Attempt, facts: FileFacts) -> impl Future<Output = Result<u64, OutboxError>> + Send;

    /// The blob is committed: from here on its message will be sent.
    ///
    /// # Errors
    /// Also [`OutboxError::Overtaken`].
    fn uploaded(&self, attempt: &Attempt) -> impl Future<Output = Result<ExportRow, OutboxError>> + Send;

    /// Gives up an export that is planned or uploaded; its number, if it has one, stays taken.
    ///
    /// # Errors
    /// Also [`OutboxError::Overtaken`].
    fn void(&self, attempt: &Attempt, reason: &str) -> impl Future<Output = Result<(), OutboxError>> + Send;

    /// Takes over the plans of outboxes that are gone, each as a new try.
    fn claim_abandoned(&self) -> impl Future<Output = Result<Vec<ExportRow>, OutboxError>> + Send;

    /// The right to send; `None` while another has it.
    fn lock_relay(&self) -> impl Future<Output = Result<Option<RelayLock>, OutboxError>> + Send;

    /// Uploaded exports whose message is due, longest waiting first.
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

    /// How many rows are in each state.
    fn counts(&self) -> impl Future<Output = Result<Counts, OutboxError>> + Send;

    /// Rows, newest first.
    fn list(&self, filter: &ListFilter) -> impl Future<Output = Result<Vec<ExportRow>, OutboxError>> + Send;

    /// One row.
    fn get(&self, row: i64) -> impl Future<Output = Result<Option<ExportRow>, OutboxError>> + Send;

    /// What happened to a row, oldest first.
    fn history(&self, row: i64) -> impl Future<Output = Result<Vec<HistoryEntry>, OutboxError>> + Send;
}
