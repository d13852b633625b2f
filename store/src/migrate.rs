//! Whose file it is, and which steps brought it to its schema.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior};

use crate::{
    OpenError,
    header::{self, FirstBytes},
};

/// A file up to this size is checked whole when it is opened; a longer one only where it is read. A check of 8 MiB takes
/// about as long as the first commit.
const CHECKED_BYTES_MAX: i64 = 8 << 20;
/// How long whoever looks at the version waits for another process.
const LOOK_WAIT: Duration = Duration::from_secs(5);

/// One numbered step. Steps are append-only: a released one never changes.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// What it does, for logs.
    pub name: &'static str,
    /// The statements.
    pub sql: &'static str,
}

/// What a database of ours looks like. The schema version (`PRAGMA user_version`) is the number of steps taken.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// `PRAGMA application_id`: says whose file it is. Not 0. Not used with `shared_with_user`.
    pub application_id: i32,
    /// What it is called in errors: `inbox`, `outbox`, `sink`.
    pub name: &'static str,
    /// The steps from an empty file on.
    pub migrations: &'static [Migration],
    /// Whether a file with tables of others, and no application id, may be taken as well: a sink lies in the user's own
    /// database. Then the version is kept in a table `_waybill_schema` instead of the pragmas. In PostgreSQL tables that are
    /// not shared have a schema for themselves.
    pub shared_with_user: bool,
}

/// Refuses a file that is not ours, newer or damaged by its first bytes, before SQLite touches anything.
pub(crate) fn admit(path: &Path, schema: &Schema) -> Result<(), OpenError> {
    let first = header::read(path).map_err(|error| OpenError::io(path, error))?;
    match first {
        FirstBytes::Absent | FirstBytes::Undecided => Ok(()),
        FirstBytes::NoDatabase(problem) => {
            Err(OpenError::Damaged { path: path.display().to_string(), problem: problem.to_owned() })
        }
        FirstBytes::Database { application_id: 0, empty, .. } if empty || schema.shared_with_user => Ok(()),
        FirstBytes::Database { application_id, user_version, .. } => {
            if schema.shared_with_user || application_id != schema.application_id {
                return Err(schema.foreign(path));
            }
            schema.refuse_newer(path, user_version)
        }
    }
}

/// Takes the missing steps, each in a transaction with its number. Another process may be doing the same: each step looks
/// again once it holds the file. With no step missing nobody waits for the file, and nothing is written.
pub(crate) fn migrate(path: &Path, connection: &mut Connection, schema: &Schema) -> Result<(), OpenError> {
    let failed = |error| OpenError::sqlite(path, error);
    let tx = connection.transaction().map_err(failed)?;
    refuse_damaged(path, &tx)?;
    let mut is_behind = schema.step_after(schema.version(path, &tx)?).is_some();
    tx.finish().map_err(failed)?;
    while is_behind {
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
        is_behind = step(path, &tx, schema)?;
        tx.commit().map_err(failed)?;
    }
    Ok(())
}

/// All missing steps and then the job, in one transaction that is taken back: the file stays as it is. It waits for other writers, and they
/// for it.
pub(crate) fn rehearse<T>(
    path: &Path,
    connection: &mut Connection,
    schema: &Schema,
    job: impl FnOnce(&Transaction<'_>) -> T,
) -> Result<T, OpenError> {
    let failed = |error| OpenError::sqlite(path, error);
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    refuse_damaged(path, &tx)?;
    while step(path, &tx, schema)? {}
    let told = job(&tx);
    tx.rollback().map_err(failed)?;
    Ok(told)
}

/// Takes the next missing step; `false` when there is none.
fn step(path: &Path, tx: &Transaction<'_>, schema: &Schema) -> Result<bool, OpenError> {
    let version = schema.version(path, tx)?;
    let Some(step) = schema.step_after(version) else { return Ok(false) };
    tracing::debug!(path = %path.display(), version = version + 1, step = step.name, "migrating");
    tx.execute_batch(step.sql).map_err(|error| {
        let (shown, problem) = (path.display().to_string(), error.to_string());
        match OpenError::sqlite(path, error) {
            passing if passing.passes() => passing,
            _ => OpenError::Migration { path: shown, name: step.name, problem },
        }
    })?;
    schema.set_version(tx, version + 1).map_err(|error| OpenError::sqlite(path, error))?;
    Ok(true)
}

fn refuse_damaged(path: &Path, connection: &Connection) -> Result<(), OpenError> {
    let failed = |error| OpenError::sqlite(path, error);
    if number(connection, "PRAGMA page_count").map_err(failed)?
        * number(connection, "PRAGMA page_size").map_err(failed)?
        > CHECKED_BYTES_MAX
    {
        return Ok(());
    }
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
    if found == "ok" {
        return Ok(());
    }
    Err(OpenError::Damaged { path: path.display().to_string(), problem: found })
}

fn number(connection: &Connection, sql: &str) -> rusqlite::Result<i64> {
    connection.query_row(sql, [], |row| row.get(0))
}

/// Changes the file to WAL. SQLite does not wait for other connections here, whatever the busy timeout says.
pub(crate) fn enter_wal(path: &Path, connection: &Connection, patience: Duration) -> Result<(), OpenError> {
    let began = Instant::now();
    loop {
        let answer: Result<String, _> = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0));
        match answer {
            Ok(mode) if mode == "wal" => return Ok(()),
            Ok(mode) => {
                return Err(OpenError::Io {
                    path: path.display().to_string(),
                    problem: format!("it stays in journal mode {mode}; put it on a local disk"),
                });
            }
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && began.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(OpenError::sqlite(path, error)),
        }
    }
}

impl Schema {
    /// How many steps there are: the newest version that this program knows.
    #[must_use]
    pub fn known(&self) -> i32 {
        i32::try_from(self.migrations.len()).unwrap_or(i32::MAX)
    }

    /// How many steps were taken in a file, which stays as it is. `None` where there are none, or it is not ours, newer or damaged: that
    /// is told when it is opened. Blocks while another process holds the file, for some seconds.
    #[must_use]
    pub fn look(&self, path: &Path) -> Option<i64> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).ok()?;
        connection.busy_timeout(LOOK_WAIT).ok()?;
        self.version(path, &connection).ok().filter(|version| *version > 0)
    }

    fn step_after(&self, version: i64) -> Option<&Migration> {
        self.migrations.get(usize::try_from(version).ok()?)
    }

    /// How many steps were taken; refuses what is not ours or newer.
    fn version(&self, path: &Path, connection: &Connection) -> Result<i64, OpenError> {
        let failed = |error| OpenError::sqlite(path, error);
        let application_id = number(connection, "PRAGMA application_id").map_err(failed)?;
        let version = if self.shared_with_user {
            if application_id != 0 {
                return Err(self.foreign(path));
            }
            self.shared_version(connection).map_err(failed)?
        } else if application_id == 0 {
            let tables = number(connection, "SELECT count(*) FROM sqlite_schema").map_err(failed)?;
            if tables > 0 {
                return Err(self.foreign(path));
            }
            0
        } else if application_id == i64::from(self.application_id) {
            number(connection, "PRAGMA user_version").map_err(failed)?
        } else {
            return Err(self.foreign(path));
        };
        self.refuse_newer(path, version)?;
        Ok(version)
    }

    fn shared_version(&self, connection: &Connection) -> rusqlite::Result<i64> {
        let known = connection
            .query_row("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = '_waybill_schema'", [], |_| Ok(()))
            .optional()?;
        if known.is_none() {
            return Ok(0);
        }
        connection
            .query_row("SELECT version FROM _waybill_schema WHERE name = ?1", [self.name], |row| row.get(0))
            .optional()
            .map(|version| version.unwrap_or(0))
    }

    fn set_version(&self, connection: &Connection, version: i64) -> rusqlite::Result<()> {
        if self.shared_with_user {
            connection.execute_batch(
                "CREATE TABLE IF NOT EXISTS _waybill_schema (name TEXT PRIMARY KEY, version INTEGER NOT NULL)",
            )?;
            connection
                .execute(
                    "INSERT INTO _waybill_schema (name, version) VALUES (?1, ?2)
                     ON CONFLICT (name) DO UPDATE SET version = excluded.version",
                    (self.name, version),
                )
                .map(|_| ())
        } else {
            connection.execute_batch(&format!(
                "PRAGMA application_id = {}; PRAGMA user_version = {version}",
                self.application_id
            ))
        }
    }

    fn refuse_newer(&self, path: &Path, found: i64) -> Result<(), OpenError> {
        let known = self.known().into();
        if found > known {
            return Err(OpenError::Newer { path: path.display().to_string(), found, known });
        }
        if found < 0 {
            let problem = format!("schema version {found}");
            return Err(OpenError::Damaged { path: path.display().to_string(), problem });
        }
        Ok(())
    }

    fn foreign(&self, path: &Path) -> OpenError {
        OpenError::Foreign { path: path.display().to_string(), name: self.name }
    }
}
