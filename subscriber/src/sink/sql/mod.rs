//! SQL databases: one algorithm (`apply`), a dialect each (`sqlite`).
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
mod sqlite;
mod tables;

pub use sqlite::{BadRowEntry, ParkedRow, SqliteSink, Totals};

/// Why a transaction was given up. Nothing of it took effect.
#[derive(Debug)]
enum Failure {
    /// Progress is elsewhere.
    Fenced { found: crate::sink::Progress },
    /// The file, or the table, needs a person.
    Refused { reason: waybill_contracts::Reason, problem: String },
    /// The database failed.
    Database(waybill_store::rusqlite::Error),
}

impl From<waybill_store::rusqlite::Error> for Failure {
    fn from(error: waybill_store::rusqlite::Error) -> Self {
        Self::Database(error)
    }
}
