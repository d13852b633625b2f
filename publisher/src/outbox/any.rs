//! The outboxes that a configuration can name.

use time::OffsetDateTime;
use waybill_contracts::BlobType;

use super::{
    Attempt, Counts, ExportRow, FileFacts, FullExport, HistoryEntry, ListFilter, ManifestRange, NamedTo, Outbox,
    OutboxError, OverExport, Paused, Plan, Planned, PostgresOutbox, RelayLock, SqliteOutbox,
};

/// An outbox in a file of its own, or in a database that several publishers share.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum AnyOutbox {
    /// In a file.
    Sqlite(SqliteOutbox),
    /// In a PostgreSQL database.
    Postgres(PostgresOutbox),
}

macro_rules! either {
    ($any:ident, $outbox:ident => $ask:expr) => {
        match $any {
            Self::Sqlite($outbox) => $ask.await,
            Self::Postgres($outbox) => $ask.await,
        }
    };
}

impl AnyOutbox {
    /// Where it is, without secrets.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Sqlite(outbox) => outbox.shown(),
            Self::Postgres(outbox) => outbox.shown(),
        }
    }

    /// Writes what a publisher writes, and takes it back: whether it may.
    ///
    /// # Errors
    /// Why not.
    pub async fn try_writing(&self) -> Result<(), OutboxError> {
        either!(self, outbox => outbox.try_writing())
    }
}

#[deny(clippy::missing_trait_methods)]
impl Outbox for AnyOutbox {
    fn epoch(&self) -> &str {
        match self {
            Self::Sqlite(outbox) => outbox.epoch(),
            Self::Postgres(outbox) => outbox.epoch(),
        }
    }

    async fn begin_epoch(&self) -> Result<String, OutboxError> {
        either!(self, outbox => outbox.begin_epoch())
    }

    async fn plan(&self, plan: Plan) -> Result<Planned, OutboxError> {
        either!(self, outbox => outbox.plan(plan))
    }

    async fn number(&self, attempt: &Attempt, facts: FileFacts) -> Result<u64, OutboxError> {
        either!(self, outbox => outbox.number(attempt, facts))
    }

    async fn last_number(&self, publisher: &str, blob_type: &BlobType) -> Result<u64, OutboxError> {
        either!(self, outbox => outbox.last_number(publisher, blob_type))
    }

    async fn parts(
        &self,
        publisher: &str,
        blob_type: &BlobType,
        snapshot: &str,
    ) -> Result<Vec<ExportRow>, OutboxError> {
        either!(self, outbox => outbox.parts(publisher, blob_type, snapshot))
    }

    async fn full_exports(
        &self,
        publisher: &str,
        blob_type: &BlobType,
        most: u32,
    ) -> Result<Vec<FullExport>, OutboxError> {
        either!(self, outbox => outbox.full_exports(publisher, blob_type, most))
    }

    async fn uploaded(&self, attempt: &Attempt) -> Result<ExportRow, OutboxError> {
        either!(self, outbox => outbox.uploaded(attempt))
    }

    async fn void(&self, attempt: &Attempt, reason: &str) -> Result<(), OutboxError> {
        either!(self, outbox => outbox.void(attempt, reason))
    }

    async fn claim_abandoned(&self) -> Result<Vec<ExportRow>, OutboxError> {
        either!(self, outbox => outbox.claim_abandoned())
    }

    async fn lock_relay(&self) -> Result<Option<RelayLock>, OutboxError> {
        either!(self, outbox => outbox.lock_relay())
    }

    async fn due(&self, most: u32) -> Result<Vec<ExportRow>, OutboxError> {
        either!(self, outbox => outbox.due(most))
    }

    async fn sent(&self, rows: &[i64]) -> Result<(), OutboxError> {
        either!(self, outbox => outbox.sent(rows))
    }

    async fn not_sent(&self, rows: &[i64], error: &str, due_at: Option<OffsetDateTime>) -> Result<(), OutboxError> {
        either!(self, outbox => outbox.not_sent(rows, error, due_at))
    }

    async fn resend(&self, row: i64, why: &str) -> Result<ExportRow, OutboxError> {
        either!(self, outbox => outbox.resend(row, why))
    }

    async fn pause(&self, blob_type: &str, why: &str) -> Result<(), OutboxError> {
        either!(self, outbox => outbox.pause(blob_type, why))
    }

    async fn resume(&self, blob_type: &str) -> Result<bool, OutboxError> {
        either!(self, outbox => outbox.resume(blob_type))
    }

    async fn paused(&self) -> Result<Vec<Paused>, OutboxError> {
        either!(self, outbox => outbox.paused())
    }

    async fn manifested_at(&self) -> Result<OffsetDateTime, OutboxError> {
        either!(self, outbox => outbox.manifested_at())
    }

    async fn named_to(&self, publisher: &str, epoch: &str) -> Result<Vec<NamedTo>, OutboxError> {
        either!(self, outbox => outbox.named_to(publisher, epoch))
    }

    async fn plan_manifests(&self, most: u32) -> Result<Vec<ManifestRange>, OutboxError> {
        either!(self, outbox => outbox.plan_manifests(most))
    }

    async fn named(&self, range: &ManifestRange, from: u64, most: u32) -> Result<Vec<ExportRow>, OutboxError> {
        either!(self, outbox => outbox.named(range, from, most))
    }

    async fn over(&self, after: i64, most: u32) -> Result<Vec<OverExport>, OutboxError> {
        either!(self, outbox => outbox.over(after, most))
    }

    async fn not_deleted(&self, row: i64, error: &str, due_at: OffsetDateTime) -> Result<(), OutboxError> {
        either!(self, outbox => outbox.not_deleted(row, error, due_at))
    }

    async fn forget(&self, rows: &[i64]) -> Result<u64, OutboxError> {
        either!(self, outbox => outbox.forget(rows))
    }

    async fn counts(&self) -> Result<Counts, OutboxError> {
        either!(self, outbox => outbox.counts())
    }

    async fn list(&self, filter: &ListFilter) -> Result<Vec<ExportRow>, OutboxError> {
        either!(self, outbox => outbox.list(filter))
    }

    async fn get(&self, row: i64) -> Result<Option<ExportRow>, OutboxError> {
        either!(self, outbox => outbox.get(row))
    }

    async fn history(&self, row: i64) -> Result<Vec<HistoryEntry>, OutboxError> {
        either!(self, outbox => outbox.history(row))
    }
}
