//! One thread writes; whatever waits while a commit runs becomes the next commit.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, Transaction};

use crate::Schema;

/// A database. Clones share it; the last one dropped ends the writer's thread after what was queued.
#[derive(Debug, Clone)]
pub struct Sqlite {}

/// Limits.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// Jobs per commit at most; default 128.
    pub group_max: usize,
    /// Jobs waiting at most; then callers wait. Default 1,024.
    pub queue_max: usize,
    /// How long another process may hold the file before we give up; default 30 s.
    pub busy_timeout: Duration,
    /// Read connections; default 2.
    pub readers: usize,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { group_max: 128, queue_max: 1024, busy_timeout: Duration::from_secs(30), readers: 2 }
    }
}

/// Why a file is not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the text of each variant says it")]
pub enum OpenError {
    #[error("{path}: not a database of Waybill ({name}); give another path")]
    Foreign { path: String, name: &'static str },
    #[error("{path}: schema version {found}, this program knows up to {known}; use a newer program")]
    Newer { path: String, found: i64, known: i64 },
    #[error("{path}: damaged or no SQLite file: {problem}")]
    Damaged { path: String, problem: String },
    #[error("{path}: cannot open: {problem}")]
    Io { path: String, problem: String },
}

/// Why a job did not take effect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the text of each variant says it")]
pub enum StoreError {
    #[error("{path}: the disk is full; nothing was lost, it goes on when there is room")]
    DiskFull { path: String },
    #[error("{path}: another process holds the database")]
    Busy { path: String },
    #[error("{path}: {source}")]
    Sqlite { path: String, source: rusqlite::Error },
    #[error("{path}: the database is closed")]
    Closed { path: String },
}

impl Sqlite {
    /// Opens or creates the file, checks whose it is, takes missing steps. WAL, `synchronous=FULL`, foreign keys on.
    ///
    /// # Errors
    /// [`OpenError`]; a file that is refused is not touched.
    pub fn open(path: &Path, schema: &Schema, options: SqliteOptions) -> Result<Self, OpenError> {
        todo!("{path:?} {schema:?} {options:?}")
    }

    /// Runs `job` on the writer's thread within a transaction (`BEGIN IMMEDIATE`), in a savepoint of its own, and returns
    /// after the commit is on disk. Jobs that wait together share one commit. An `Err` of the job rolls back its own
    /// savepoint only, and is returned as the inner result; a failed commit fails every job of the group.
    ///
    /// # Errors
    /// [`StoreError`] when the transaction could not be committed.
    ///
    /// # Cancel safety
    /// Dropping the future does not stop the job: it may still take effect.
    pub async fn write<T, E, F>(&self, job: F) -> Result<Result<T, E>, StoreError>
    where
        T: Send + 'static,
        E: Send + 'static,
        F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
    {
        todo!("{}", size_of_val(&job))
    }

    /// Runs `job` on a read connection (query only), beside the writer.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read<T, F>(&self, job: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    {
        todo!("{}", size_of_val(&job))
    }
}
