//! Durable inbox: which files were announced, who works them, and what became of them.
//!
//! The inbox row says what was received, the sink what took effect; the broker's lock only says who tries next. A message
//! is settled after its row commits, so a crash between the two causes a redelivery that `admit` answers with
//! [`Admitted::AlreadySeen`].
//!
//! ```text
//! saved ──lease──► working ──► done
//!   ▲                 ├──► saved again, due later (a passing fault)
//!   └───lapsed────────┤
//!                     ├──► quarantined (reason)        skipped        duplicate (of which)        expired
//! ```
//!
//! # Invariants
//! 1. Only a person takes a row out of `quarantined`.   2. A lapsed lease cannot change its row, even for the same worker.
//! 3. One row per message (entity path, sequence number, enqueued time); one row that is not `duplicate` per file.
//!
//! # Sources
//! Microsoft, "Message transfers, locks, and settlement" (peek-lock); "Message sequencing and timestamps".

mod any;
pub mod conformance;
mod health;
mod model;
mod pages;
mod postgres;
mod retention;
mod sequences;
mod sqlite;
mod stored;
mod turns;
#[cfg(test)]
mod upgrades;

use std::future::Future;

use waybill_store::Schema;

pub use any::AnyInbox;
pub use health::{AT_RISK, AtRisk, Backlog, Beat, TypeBacklog, WorkerSeen};
pub use model::{
    Admitted, Announced, Arrival, Asked, BlobSeen, BrokenMessage, Counts, End, FileDone, FileKey, HistoryEntry,
    InboxRow, Lease, Leased, ListFilter, Pending, Place, PublisherSequence, State, TypeTotals, UnknownState, Wanted,
    Waybill, WorkerId,
};
pub use pages::Pages;
pub use postgres::{PostgresInbox, PostgresInboxOptions};
pub use retention::{PruneStep, Pruned, Retention, prune};
pub use sequences::{OpenFile, SequenceGap, SequenceNamed, SequenceSeen};
pub use sqlite::{SqliteInbox, SqliteInboxOptions};
pub use stored::{HISTORY_KEPT, OTHER_TYPE};

/// Why the inbox could not answer. Nothing of the call took effect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InboxError {
    /// The file or server is not an inbox of ours, or lets nobody open it, which a person has to mend.
    #[error("the inbox cannot be opened")]
    Open(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// An earlier version of this program made it, and whoever only looks brings it to no other schema.
    #[error(
        "the inbox has schema version {found}, which an earlier version of this program made, and this one needs {known}; \
         `waybill-subscriber run` of this version upgrades it, and subscribers of the earlier one cannot open it then; until then \
         look with the earlier one"
    )]
    Older {
        /// What it has.
        found: i64,
        /// What this program needs.
        known: i64,
    },
    /// An earlier version of this program works it, which cannot go on once the schema is this version's.
    #[error(
        "{path} has schema version {found}, this program needs {known}, and a program of the earlier version works with it; \
         end that one first (it stops within its drain_timeout), then start this one"
    )]
    WorkedByOlder {
        /// The file.
        path: String,
        /// What it has.
        found: i64,
        /// What this program needs.
        known: i64,
    },
    /// It cannot take or give anything now; later it may (disk full, held by another process, server down).
    #[error("the inbox is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl InboxError {
    /// Whether it ends without a person, as an outage does.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// To look is no reason to take the inbox from an older version that runs.
fn refuse_older(found: i64, schema: &Schema) -> Result<(), InboxError> {
    let known = schema.known().into();
    if found < known { Err(InboxError::Older { found, known }) } else { Ok(()) }
}

/// Keeps announced files and their state. Contract, exercised by [`conformance::exercise`]:
///
/// - Each call is one transaction, durable on return. Clones share the store, and several processes may use it.
/// - `admit` answers in the order of its arguments. A redelivery adds no row; a second message for a known file becomes a
///   row in state `duplicate`.
/// - A lease is named by `(worker, leased_at)` on the store's own clock, and ends at `until`. What a lapsed or foreign
///   lease asks for changes nothing and is answered with `false`. Its holder counts on it until [`Lease::trusted_until`].
/// - Every change of state adds a row of history with its time and reason. Of a file that is tried again and again the first and
///   the latest are kept, about [`HISTORY_KEPT`] in all.
///
/// # Cancel safety
/// A dropped call may still take effect, whole or not at all. Files of a dropped `lease` come again when it ends.
pub trait Inbox: Send + Sync + 'static {
    /// Saves a burst of messages.
    fn admit(&self, burst: Vec<Arrival>) -> impl Future<Output = Result<Vec<Admitted>, InboxError>> + Send;

    /// The rows of these files, in the order of the keys; `None` for a file that was never announced. Of one that was pruned it is
    /// the number that it had.
    fn known(&self, files: &[FileKey]) -> impl Future<Output = Result<Vec<Option<i64>>, InboxError>> + Send;

    /// Takes up to `most` files that are due (or whose lease has lapsed). Half of them, or every second one, are those whose
    /// `expiresAt` is less than [`AT_RISK`] away, the most urgent first, if there are any; else the types take turns, so that
    /// none waits for the many files of another, and of each type comes first what is due longest.
    fn lease(
        &self,
        worker: &WorkerId,
        most: u32,
        wanted: &Wanted,
    ) -> impl Future<Output = Result<Vec<Leased>, InboxError>> + Send;

    /// Makes a lease last longer and notes the rows that took effect; `None` when it has lapsed.
    fn renew(&self, lease: &Lease, rows: u64) -> impl Future<Output = Result<Option<Lease>, InboxError>> + Send;

    /// Notes which blob a leased file's rows are taken from, in place of an earlier one; `false` when the lease has lapsed.
    fn note_blob(&self, lease: &Lease, blob: &BlobSeen) -> impl Future<Output = Result<bool, InboxError>> + Send;

    /// Ends a lease; `false` when it has lapsed.
    fn finish(&self, lease: &Lease, end: End) -> impl Future<Output = Result<bool, InboxError>> + Send;

    /// Puts files in state `saved` whose type [is not of](waybill_contracts::is_of_types) `types` to `skipped`, with the
    /// problem [`OTHER_TYPE`]; how many.
    fn skip_other_types(&self, types: &[String]) -> impl Future<Output = Result<u64, InboxError>> + Send;

    /// Files in state `done`, after `after` in the order of their ids, at most `most`: to be compared with the sink. Manifests are
    /// none, since a sink knows nothing of them.
    fn done_files(&self, after: i64, most: u32)
    -> impl Future<Output = Result<Vec<(i64, FileKey)>, InboxError>> + Send;

    /// Puts `done` files back to `saved`, because the sink does not know them.
    fn reopen(&self, ids: &[i64]) -> impl Future<Output = Result<u64, InboxError>> + Send;

    /// Has files in state `saved` that wait for a later try tried now, because what they waited for has come; how many.
    fn hasten(&self, ids: &[i64]) -> impl Future<Output = Result<u64, InboxError>> + Send;

    /// Has a file tried again, now, because a person wants it: one that is quarantined, skipped or expired, or waits for a
    /// later try.
    fn retry(&self, id: i64) -> impl Future<Output = Result<Asked, InboxError>> + Send;

    /// Puts a message or file to `skipped`, because a person does not want it, with what the person says: one that is saved,
    /// quarantined or expired.
    fn skip(&self, id: i64, why: &str) -> impl Future<Output = Result<Asked, InboxError>> + Send;

    /// Remembers a place that a grant named.
    fn remember_place(&self, place: &Place) -> impl Future<Output = Result<(), InboxError>> + Send;

    /// Every place that a grant ever named; there are few.
    fn places(&self) -> impl Future<Output = Result<Vec<Place>, InboxError>> + Send;

    /// Whether there is work, and when the next piece is due.
    fn pending(&self, wanted: &Wanted) -> impl Future<Output = Result<Pending, InboxError>> + Send;

    /// How many rows are in each state.
    fn counts(&self) -> impl Future<Output = Result<Counts, InboxError>> + Send;

    /// What waits, and what may be lost; soon answered, whatever the inbox holds.
    fn backlog(&self) -> impl Future<Output = Result<Backlog, InboxError>> + Send;

    /// What was announced, by blobType, in the order of the names.
    fn types(&self) -> impl Future<Output = Result<Vec<TypeTotals>, InboxError>> + Send;

    /// Notes what a manifest says of a sequence, beside what others said.
    fn note_named(&self, of: &SequenceNamed) -> impl Future<Output = Result<(), InboxError>> + Send;

    /// What manifests said of publishers' sequences, by publisher, epoch and blobType in the order of their names: also of those
    /// of which nothing was announced.
    fn named(&self) -> impl Future<Output = Result<Vec<SequenceNamed>, InboxError>> + Send;

    /// Publishers' sequences of which anything was announced, by publisher, epoch and blobType in the order of their names.
    fn sequences(&self) -> impl Future<Output = Result<Vec<SequenceSeen>, InboxError>> + Send;

    /// What [`prune`] would take away now.
    fn prunable(&self, retention: &Retention) -> impl Future<Output = Result<Pruned, InboxError>> + Send;

    /// Prunes a part, at most about `most` rows, and says with which step to go on: a file that is gone is known all the same,
    /// by `known` and by `admit`. [`prune`] calls it until there is nothing left.
    fn prune(
        &self,
        retention: &Retention,
        step: PruneStep,
        most: u32,
    ) -> impl Future<Output = Result<(Pruned, Option<PruneStep>), InboxError>> + Send;

    /// Rows, newest first.
    fn list(&self, filter: &ListFilter) -> impl Future<Output = Result<Vec<InboxRow>, InboxError>> + Send;

    /// One row by its id.
    fn get(&self, id: i64) -> impl Future<Output = Result<Option<InboxRow>, InboxError>> + Send;

    /// What happened to a row, oldest first.
    fn history(&self, id: i64) -> impl Future<Output = Result<Vec<HistoryEntry>, InboxError>> + Send;

    /// Notes what a worker tells of itself, in place of what it told before, and forgets those not heard for a week.
    fn beat(&self, worker: &WorkerId, beat: &Beat) -> impl Future<Output = Result<(), InboxError>> + Send;

    /// Who told, latest first.
    fn workers(&self) -> impl Future<Output = Result<Vec<WorkerSeen>, InboxError>> + Send;
}
