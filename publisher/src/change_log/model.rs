//! What the log holds, and what can be wrong with it.

use std::num::{NonZeroU32, NonZeroU64};

use bytes::Bytes;
use futures::stream::BoxStream;
use serde::Serialize;
use time::OffsetDateTime;
use waybill_contracts::ExportId;

use crate::outbox::{ManifestRange, Outbox, OutboxError};

/// Why the log could not do something. Nothing of the call took effect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// It is no change log of ours, newer than this program, or its address cannot be used.
    #[error("the change log cannot be opened")]
    Open(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It does not answer now; later it may.
    #[error("the change log is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It is a copy: its changes were published from elsewhere.
    #[error(
        "{shown}: this change log belongs to another database server ({theirs}; this is {ours}), so it is a copy or was \
         restored; if this one is to publish from now on, say `waybill-publisher adopt`"
    )]
    OtherCluster {
        /// The log.
        shown: String,
        /// The server that it was made on.
        theirs: String,
        /// The server that answers.
        ours: String,
    },
    /// Its files went to another outbox, whose numbers go on there.
    #[error(
        "{shown}: its files go to the outbox of epoch {theirs}, and this one has epoch {ours}; give the folder of that \
         one (--data), or say `waybill-publisher adopt` if that one is lost"
    )]
    OtherOutbox {
        /// The log.
        shown: String,
        /// The epoch of the outbox that it knows.
        theirs: String,
        /// The epoch of the one that was given.
        ours: String,
    },
    /// Its files went to an outbox, and there is none.
    #[error(
        "{shown}: its files go to the outbox of epoch {theirs}, and there is none; give the folder of that one (--data), or \
         restore it, or say `waybill-publisher adopt` if it is lost"
    )]
    NoOutbox {
        /// The log.
        shown: String,
        /// The epoch of the outbox that it knows.
        theirs: String,
    },
    /// The outbox gave numbers that it does not know of any more, or gave them once more since.
    #[error(
        "{shown}: one of its files is number {theirs} of {blob_type}, and the outbox, whose last one is {ours}, gave that number to none, \
         or to another file: it was restored from an older copy, and gives the same numbers to other files; say \
         `waybill-publisher adopt`, then publish all rows (`waybill-publisher snapshot`)"
    )]
    OlderOutbox {
        /// The log.
        shown: String,
        /// What the file's rows are.
        blob_type: String,
        /// The file's number.
        theirs: u64,
        /// The last number of the type that the outbox knows.
        ours: u64,
    },
    /// Its ids do not tell any more what is published.
    #[error("{shown}: {problem}")]
    Ids {
        /// The log.
        shown: String,
        /// What is wrong with them, and what to do.
        problem: String,
    },
    /// It cannot be told how to log a table's changes.
    #[error("table {table:?}: {problem}")]
    Table {
        /// As it was named.
        table: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// It holds what this version does not understand.
    #[error("the change log holds what this program cannot read; was it written by a newer version?")]
    Unreadable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl LogError {
    /// Whether only a person can mend it.
    #[must_use]
    pub fn needs_person(&self) -> bool {
        !matches!(self, Self::Unavailable(_))
    }
}

/// Changes of a type that a status counts.
pub(super) const COUNTED_MAX: u64 = 100_000;

/// Why a change with a longer row is in no file: no reader takes it.
pub(super) fn too_long(bytes: impl std::fmt::Display) -> String {
    format!("the row has {bytes} bytes; readers take {ROW_BYTES_MAX} at most")
}

/// Of a row, as [`DecodeOptions`](waybill_formats::DecodeOptions) has it. What is longer is never read, so that it needs no
/// memory.
pub(super) const ROW_BYTES_MAX: i64 = 16 << 20;

/// A row of a file that no file can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BadChange {
    /// 1-based, among the rows that the file has now.
    pub(crate) row: u64,
    pub(crate) problem: String,
}

/// Where a file ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) max_rows: NonZeroU32,
    /// The row that reaches it is the last.
    pub(crate) max_bytes: NonZeroU64,
}

/// A file that is fixed: the changes of a type with ids in (`after`, `up_to`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedFile {
    pub(crate) number: i64,
    pub(crate) export_id: ExportId,
    pub(crate) blob_type: String,
    pub(crate) after: i64,
    pub(crate) up_to: i64,
    pub(crate) changes: u64,
    pub(crate) correlation_id: String,
    pub(crate) causation_id: Option<String>,
    pub(crate) traceparent: Option<String>,
}

/// The number that an outbox gave to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileNumber {
    pub(crate) publisher: String,
    pub(crate) epoch: String,
    pub(crate) sequence: u64,
}

impl FileNumber {
    /// Whether the outbox gave it to another export of the type than this one, since it was restored from an older copy. What it forgot
    /// does not tell.
    pub(crate) async fn is_anothers(
        &self,
        outbox: &impl Outbox,
        blob_type: &str,
        export_id: &ExportId,
    ) -> Result<bool, OutboxError> {
        let (Self { publisher, epoch, sequence }, blob_type) = (self.clone(), blob_type.to_owned());
        let (first, last) = (sequence, sequence);
        let only = ManifestRange { export_id: export_id.clone(), publisher, epoch, blob_type, first, last };
        let there = outbox.named(&only, first, 1).await?;
        Ok(there.iter().any(|row| row.export_id != *export_id))
    }
}

/// A file whose term is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExpiredFile {
    pub(crate) number: i64,
    pub(crate) export_id: ExportId,
    pub(crate) expires_at: OffsetDateTime,
    pub(crate) blob_type: String,
    /// Whether it may go: no, once nobody could tell whether it was sent; yes, where a person says so.
    pub(crate) proven: Option<bool>,
    /// Nothing where an earlier version exported it.
    pub(crate) as_number: Option<FileNumber>,
}

/// What [`Seat::plan`](super::Seat::plan) came to.
#[derive(Debug)]
pub(crate) enum Tail {
    /// A file was planned; whether it is full, so that more may follow.
    File(Box<PlannedFile>, bool),
    /// So many changes wait; they fill no file.
    Waits(u64),
}

/// How a log stands.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogStatus {
    /// Where it is, without secrets.
    pub log: String,
    /// Changes that are in no file yet. Of a type no more than 100,000 are counted.
    pub waiting: u64,
    /// Whether there are more than that.
    pub waiting_more: bool,
    /// When the oldest of them was logged.
    #[serde(with = "time::serde::rfc3339::option")]
    pub waiting_since: Option<OffsetDateTime>,
    /// Types of which changes wait.
    pub types: Vec<WaitingType>,
    /// Files that are planned and not uploaded, oldest first, 100 at most.
    pub open_files: Vec<OpenFile>,
    /// Changes that no file can hold; `refused` lists them.
    pub refused: u64,
    /// Files whose term is over and that stay with their changes, because the outbox does not know them: it was restored or made anew,
    /// and nobody can tell whether they were sent.
    pub unproven: Vec<Unproven>,
    /// The statement by which a person lets these go, where that person knows better.
    pub let_go_with: String,
    /// Whether a publisher follows it now.
    pub followed: bool,
    /// In PostgreSQL, the transaction with the oldest number that has not ended, if it is older than a second: changes that were
    /// logged after it got that number, with the first thing that it wrote, wait for its end.
    pub held_back_by: Option<Holder>,
}

/// A type of which changes are in no file yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WaitingType {
    /// What the rows are.
    pub blob_type: String,
    /// How many; no more than 100,000 are counted.
    pub waiting: u64,
    /// Whether there are more.
    pub waiting_more: bool,
    /// When the oldest was logged, as far as what the service says is a time.
    #[serde(with = "time::serde::rfc3339::option")]
    pub waiting_since: Option<OffsetDateTime>,
}

impl WaitingType {
    /// Of this many, which were counted up to one more than the limit.
    pub(super) fn counted(blob_type: String, counted: u64, since: Option<OffsetDateTime>) -> Self {
        let (waiting, waiting_more) = (counted.min(COUNTED_MAX), counted > COUNTED_MAX);
        Self { blob_type, waiting, waiting_more, waiting_since: since }
    }
}

impl LogStatus {
    /// What waits in all.
    pub(super) fn of(log: String, types: Vec<WaitingType>) -> Self {
        Self {
            log,
            waiting: types.iter().map(|of_type| of_type.waiting).sum(),
            waiting_more: types.iter().any(|of_type| of_type.waiting_more),
            waiting_since: types.iter().filter_map(|of_type| of_type.waiting_since).min(),
            types,
            open_files: Vec::new(),
            refused: 0,
            unproven: Vec::new(),
            let_go_with: String::new(),
            followed: false,
            held_back_by: None,
        }
    }
}

/// Files of a type of which nobody can tell whether they were sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Unproven {
    /// What their rows are.
    pub blob_type: String,
    /// How many.
    pub files: u64,
    /// The changes in them.
    pub changes: u64,
}

/// A transaction that is under way, in any database of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// What to end: `pg_terminate_backend(PID)`, or `ROLLBACK PREPARED 'NAME'` in its database.
    pub ended_by: String,
    /// Whose it is: user and program.
    pub who: String,
    /// Since when; `None` where our role may not know (`pg_read_all_stats`): then it was there for a second at least.
    #[serde(with = "time::serde::rfc3339::option")]
    pub since: Option<OffsetDateTime>,
    /// Its state and its last statement, as far as we may know.
    pub doing: String,
}

/// A change that no file can hold: the others of its file went without it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedChange {
    /// Its id in the log, where it stays.
    pub id: i64,
    /// What its row is.
    pub blob_type: String,
    /// As it was logged.
    pub key: Option<String>,
    /// What is wrong with it.
    pub problem: String,
    /// When it was found.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

/// Which changes [`ChangeLog::changes`](super::ChangeLog::changes) answers.
#[derive(Debug, Clone)]
pub struct ChangeFilter {
    /// Of this type only.
    pub blob_type: Option<String>,
    /// With this key only, as it was logged.
    pub key: Option<String>,
    /// With this correlation id only.
    pub correlation_id: Option<String>,
    /// Changes before this one: for the next page.
    pub before: Option<i64>,
    /// At most so many; default 100.
    pub most: u32,
}

impl Default for ChangeFilter {
    fn default() -> Self {
        Self { blob_type: None, key: None, correlation_id: None, before: None, most: 100 }
    }
}

/// A change, and the file that it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LoggedChange {
    /// Its id in the log.
    pub id: i64,
    /// What its row is.
    pub blob_type: String,
    /// `upsert` or `delete`.
    pub op: String,
    /// As it was logged.
    pub key: Option<String>,
    /// The row as it was logged, cut after 64 KiB.
    pub row: String,
    /// When, as the service says.
    pub occurred_at: String,
    /// As it was logged.
    pub correlation_id: Option<String>,
    /// As it was logged.
    pub causation_id: Option<String>,
    /// The export of its file; `None` while it is in no file.
    pub export_id: Option<String>,
    /// Why no file can hold it.
    pub refused: Option<String>,
}

/// A planned file that is not uploaded yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenFile {
    /// The export that it becomes.
    pub export_id: String,
    /// What its rows are.
    pub blob_type: String,
    /// How many changes.
    pub changes: u64,
    /// When it was planned.
    #[serde(with = "time::serde::rfc3339")]
    pub planned_at: OffsetDateTime,
    /// Why it could not be made when that was tried last, if the fault is its own.
    pub problem: Option<String>,
}

/// All rows of a table of the service, as they were in one moment.
pub(crate) struct TableRows {
    /// In the table's order.
    pub(crate) columns: Vec<String>,
    /// JSON Lines.
    pub(crate) rows: BoxStream<'static, std::io::Result<Bytes>>,
}
