//! The change log: what a service changed, written in the transaction that changed it.
//!
//! ```text
//! service's transaction ── append, INSERT or trigger ──► change_log ──plan──► file ──export──► outbox
//! ```
//!
//! The log lies in the service's own database, so a change is logged if and only if it is committed. Everything else is
//! derived from it. Changes are told apart and ordered by their `id`, and files are ranges of ids: what is planned once is
//! made of the same changes, in the same order, however often it is tried.
//!
//! # Invariants
//! 1. A file holds every change of its type in its range: an id is planned only once no transaction that may still bring
//!    it, or a lower one, is under way.
//! 2. Two changes of one key have ids in the order of their commits, if each is logged after the row itself was written:
//!    the row's lock is held from there to the commit.
//! 3. One publisher plans at a time, and has the right to as long as it can write.
//! 4. A change whose file has a term stays until an outbox proves that the file was sent or is void: that it does not know the file
//!    is no proof, unless a manifest of it that was sent names the file's number.

mod any;
#[cfg(any(feature = "rusqlite", feature = "tokio-postgres"))]
mod append;
#[cfg(test)]
pub(crate) mod conformance;
mod line;
mod model;
mod postgres;
mod sqlite;
mod triggers;

pub(crate) use any::Seat;
pub use any::{ChangeLog, PostgresChangeLogOptions};
#[cfg(feature = "rusqlite")]
pub use append::append_sqlite;
#[cfg(feature = "tokio-postgres")]
pub use append::{AppendError, append_postgres};
#[cfg(any(feature = "rusqlite", feature = "tokio-postgres"))]
pub use append::{Change, InvalidChange, Op};
pub(crate) use model::{BadChange, Cut, ExpiredFile, FileNumber, PlannedFile, TableRows, Tail};
use model::{COUNTED_MAX, ROW_BYTES_MAX, too_long};
pub use model::{
    ChangeFilter, Holder, LogError, LogStatus, LoggedChange, OpenFile, RefusedChange, Unproven, WaitingType,
};

/// Of a row that is shown, in characters.
const SHOWN_MAX: i32 = 64 << 10;

/// Files whose term is over that are looked at together.
const EXPIRED_AT_ONCE: i64 = 100;

/// What either database reads of a [`PlannedFile`].
const FILE_COLUMNS: &str =
    "number, export_id, blob_type, after, up_to, changes, correlation_id, causation_id, traceparent";
