//! SQL databases: one algorithm (`apply`), a dialect each (`sqlite`, `postgres`); `rebuild` derives tables again.
//!
//! Beside the table of each entity the sink keeps, in the same database and the same transactions:
//!
//! | table | what |
//! |---|---|
//! | `_waybill_progress` | how far each file has come, and what became of its rows |
//! | `_waybill_tombstone` | deleted keys with their version, so that an older row does not bring them back |
//! | `_waybill_parked` | rows whose parent is missing |
//! | `_waybill_bad_row` | rows that cannot be used, and why |
//! | `_waybill_table`, `_waybill_column` | which tables and columns belong to what |
//!
//! # How a row takes effect
//! 1. The version decides: a row that is not newer than its key's row in the table, or its tombstone, is ignored.
//! 2. A deletion deletes, leaves a tombstone, and removes an older parked row. It waits for nothing.
//! 3. A row that refers to a missing parent is parked. Per key only the newest such row is kept. An older row that is in
//!    the table stays there, and one that arrives later and misses nothing is still applied.
//! 4. Any other row is inserted or updated; a tombstone and a parked row that are older go.
//! 5. Of several rows of one key in a batch the newest decides; while it waits, or if the database refuses it, the next
//!    older one is looked at as if it had come later. (Else the deletion that it follows would be forgotten.)
//! 6. An inserted row releases the rows that wait for it: each goes through 3 and 4 again, in the same transaction, and
//!    may release others.
//!
//! What follows: once every newest row's parents are there, tables are the same whatever the order of arrival. A row that
//! refers to itself waits for nothing. Two rows that wait for each other stay parked, both, until one comes without that
//! reference. When a parent is deleted its children stay; children that come later are parked until it is created again.

mod apply;
mod bad_rows;
mod catalogue;
mod due;
mod planned;
mod postgres;
mod rebuild;
mod sqlite;
mod tables;
mod waiting;

pub use bad_rows::{BadRowEntry, BadRowsOf};
pub use postgres::PostgresSink;
pub use rebuild::{Rebuild, RebuildError, Scope, SwappedTable, Way};
pub use sqlite::SqliteSink;
pub use tables::Outgrown;
pub use waiting::{MissingParent, Released, SqlSink};

use super::Applied;
use crate::FileKey;

/// What a sink holds, and what became of the rows that it was given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// Rows by table, those of the user's own tables too that an entity has; by name.
    pub tables: Vec<(String, u64)>,
    /// Files that are done.
    pub files: u64,
    /// Rows of all files by what became of them; `bad` counts when it was found, see [`Totals::bad_now`]. `rescued` is
    /// not kept: the rows tell it themselves.
    pub applied: Applied,
    /// Rows that wait for a parent now.
    pub parked_now: u64,
    /// Rows kept with their error now; also those that the database refused when they were released.
    pub bad_now: u64,
}

/// A row that waits for its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedRow {
    /// The row's entity.
    pub entity: String,
    /// Its key, the parts joined by commas.
    pub key: String,
    /// The entity of a parent that it waits for.
    pub missing_entity: String,
    /// That parent's key.
    pub missing_key: String,
    /// The file that brought it.
    pub file: FileKey,
    /// Its number there, from 1.
    pub row: u64,
    /// When, RFC 3339.
    pub parked_at: String,
}

/// A file's [`Progress`](super::Progress). Each row is counted once, so what is in none of the other figures is bad; rows that
/// were left out as such are in none at all.
const PROGRESS: &str =
    "rows, done, rows - (inserted + updated + deleted + ignored + superseded + parked + filtered), filtered";

/// Why a transaction was given up. Nothing of it took effect.
#[derive(Debug)]
enum Failure {
    /// Progress is elsewhere.
    Fenced { found: crate::sink::Progress },
    /// The file, or the table, needs a person.
    Refused { reason: waybill_contracts::Reason, problem: String },
    /// The table was derived again under another definition than this program has.
    Outdated { problem: String },
    /// SQLite failed.
    Sqlite(waybill_store::rusqlite::Error),
    /// PostgreSQL failed.
    Postgres(waybill_store::tokio_postgres::Error),
}

impl From<waybill_store::rusqlite::Error> for Failure {
    fn from(error: waybill_store::rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<waybill_store::tokio_postgres::Error> for Failure {
    fn from(error: waybill_store::tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

fn foreign_publisher(plan: &crate::apply::EntityPlan, known: &str, publisher: &str) -> Failure {
    let problem = format!(
        "entity {:?} has no declared version, so its rows are ordered by the sequence of one publisher, which is {known:?}; \
         this file is from {publisher:?}; declare a version",
        plan.name()
    );
    Failure::Refused { reason: waybill_contracts::Reason::ForeignPublisher, problem }
}

fn refused(problem: String) -> Failure {
    Failure::Refused { reason: waybill_contracts::Reason::RefusedByDatabase, problem }
}

/// A column's type as `_waybill_column` names it.
fn type_from_name(name: &str) -> Option<waybill_contracts::ColumnType> {
    use waybill_contracts::ColumnType::{Binary, Boolean, Date, Decimal, Float, Integer, Json, Text, Timestamp, Uuid};
    let all = [Integer, Decimal, Float, Boolean, Text, Timestamp, Date, Uuid, Json, Binary];
    all.into_iter().find(|kind| kind.to_string() == name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
