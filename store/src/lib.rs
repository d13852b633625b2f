//! SQLite and PostgreSQL as both ends of Waybill use them. SQLite: one writer with group commit, readers beside it, and a
//! file that says whose it is. PostgreSQL: a pool of connections with TLS. Both: numbered migrations. Knows no table of
//! ours: inbox, outbox and sink bring their own.
//!
//! This crate's interface is `rusqlite` and `tokio-postgres` on purpose: it is the one place that owns connections, and its
//! users are the stores of `publisher` and `subscriber`, whose own interfaces name none of them.

mod commits;
mod header;
mod migrate;
mod number;
mod postgres;
mod sqlite;
mod writer;

pub use commits::Commits;
pub use deadpool_postgres::{Object as PostgresConnection, Transaction as PostgresTransaction};
pub use migrate::{Migration, Schema};
pub use number::{lock_number, signed};
pub use postgres::{Postgres, PostgresError, PostgresOptions};
pub use rusqlite;
pub use sqlite::{OpenError, Sqlite, SqliteOptions, Stats, StoreError};
pub use tokio_postgres;

#[cfg(test)]
mod tests;
