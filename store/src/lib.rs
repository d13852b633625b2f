//! SQLite as both ends of Waybill use it: one writer with group commit, readers beside it, numbered migrations, and a
//! file that says whose it is. Knows no table of ours: inbox, outbox and sink bring their own.
//!
//! This crate's interface is `rusqlite` on purpose: it is the one place that owns connections, and its users are the
//! stores of `publisher` and `subscriber`, whose own interfaces name none of it.

mod header;
mod migrate;
mod sqlite;
mod writer;

pub use migrate::{Migration, Schema};
pub use rusqlite;
pub use sqlite::{OpenError, Sqlite, SqliteOptions, Stats, StoreError};

#[cfg(test)]
mod tests;
