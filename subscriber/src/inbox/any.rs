//! The inboxes that a configuration can name.

use super::{
    Admitted, Arrival, Asked, Backlog, Beat, BlobSeen, Counts, End, FileKey, HistoryEntry, Inbox, InboxError, InboxRow,
    Lease, Leased, ListFilter, Pending, Place, PostgresInbox, PruneStep, Pruned, Retention, SequenceNamed,
    SequenceSeen, SqliteInbox, TypeTotals, Wanted, WorkerId, WorkerSeen,
};

/// An inbox in a file of its own, or in a database that several subscribers share.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum AnyInbox {
    /// In a file.
    Sqlite(SqliteInbox),
    /// In a PostgreSQL database.
    Postgres(PostgresInbox),
}

macro_rules! either {
    ($any:ident, $inbox:ident => $ask:expr) => {
        match $any {
            Self::Sqlite($inbox) => $ask.await,
            Self::Postgres($inbox) => $ask.await,
        }
    };
}

#[deny(clippy::missing_trait_methods)]
impl Inbox for AnyInbox {
    async fn admit(&self, burst: Vec<Arrival>) -> Result<Vec<Admitted>, InboxError> {
        either!(self, inbox => inbox.admit(burst))
    }

    async fn known(&self, files: &[FileKey]) -> Result<Vec<Option<i64>>, InboxError> {
        either!(self, inbox => inbox.known(files))
    }

    async fn lease(&self, worker: &WorkerId, most: u32, wanted: &Wanted) -> Result<Vec<Leased>, InboxError> {
        either!(self, inbox => inbox.lease(worker, most, wanted))
    }

    async fn renew(&self, lease: &Lease, rows: u64) -> Result<Option<Lease>, InboxError> {
        either!(self, inbox => inbox.renew(lease, rows))
    }

    async fn note_blob(&self, lease: &Lease, blob: &BlobSeen) -> Result<bool, InboxError> {
        either!(self, inbox => inbox.note_blob(lease, blob))
    }

    async fn finish(&self, lease: &Lease, end: End) -> Result<bool, InboxError> {
        either!(self, inbox => inbox.finish(lease, end))
    }

    async fn skip_other_types(&self, types: &[String]) -> Result<u64, InboxError> {
        either!(self, inbox => inbox.skip_other_types(types))
    }

    async fn done_files(&self, after: i64, most: u32) -> Result<Vec<(i64, FileKey)>, InboxError> {
        either!(self, inbox => inbox.done_files(after, most))
    }

    async fn hasten(&self, ids: &[i64]) -> Result<u64, InboxError> {
        either!(self, inbox => inbox.hasten(ids))
    }

    async fn reopen(&self, ids: &[i64]) -> Result<u64, InboxError> {
        either!(self, inbox => inbox.reopen(ids))
    }

    async fn retry(&self, id: i64) -> Result<Asked, InboxError> {
        either!(self, inbox => inbox.retry(id))
    }

    async fn skip(&self, id: i64, why: &str) -> Result<Asked, InboxError> {
        either!(self, inbox => inbox.skip(id, why))
    }

    async fn remember_place(&self, place: &Place) -> Result<(), InboxError> {
        either!(self, inbox => inbox.remember_place(place))
    }

    async fn places(&self) -> Result<Vec<Place>, InboxError> {
        either!(self, inbox => inbox.places())
    }

    async fn pending(&self, wanted: &Wanted) -> Result<Pending, InboxError> {
        either!(self, inbox => inbox.pending(wanted))
    }

    async fn counts(&self) -> Result<Counts, InboxError> {
        either!(self, inbox => inbox.counts())
    }

    async fn backlog(&self) -> Result<Backlog, InboxError> {
        either!(self, inbox => inbox.backlog())
    }

    async fn types(&self) -> Result<Vec<TypeTotals>, InboxError> {
        either!(self, inbox => inbox.types())
    }

    async fn note_named(&self, of: &SequenceNamed) -> Result<(), InboxError> {
        either!(self, inbox => inbox.note_named(of))
    }

    async fn named(&self) -> Result<Vec<SequenceNamed>, InboxError> {
        either!(self, inbox => inbox.named())
    }

    async fn sequences(&self) -> Result<Vec<SequenceSeen>, InboxError> {
        either!(self, inbox => inbox.sequences())
    }

    async fn prunable(&self, retention: &Retention) -> Result<Pruned, InboxError> {
        either!(self, inbox => inbox.prunable(retention))
    }

    async fn prune(
        &self,
        retention: &Retention,
        step: PruneStep,
        most: u32,
    ) -> Result<(Pruned, Option<PruneStep>), InboxError> {
        either!(self, inbox => inbox.prune(retention, step, most))
    }

    async fn list(&self, filter: &ListFilter) -> Result<Vec<InboxRow>, InboxError> {
        either!(self, inbox => inbox.list(filter))
    }

    async fn get(&self, id: i64) -> Result<Option<InboxRow>, InboxError> {
        either!(self, inbox => inbox.get(id))
    }

    async fn history(&self, id: i64) -> Result<Vec<HistoryEntry>, InboxError> {
        either!(self, inbox => inbox.history(id))
    }

    async fn beat(&self, worker: &WorkerId, beat: &Beat) -> Result<(), InboxError> {
        either!(self, inbox => inbox.beat(worker, beat))
    }

    async fn workers(&self) -> Result<Vec<WorkerSeen>, InboxError> {
        either!(self, inbox => inbox.workers())
    }
}
