//! Standard output: a line of JSON for each row, whatever its file's format.
//!
//! Rows are written and flushed before progress says so, so a crash in between brings them again and none is lost. Rows that
//! cannot be used are logged, each with its place and its reason.

use std::{
    fmt,
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use tokio_util::sync::CancellationToken;
use waybill_store::{
    Migration, Schema, Sqlite, SqliteOptions,
    rusqlite::{self, Connection, OptionalExtension},
};

use super::{Applied, EntityBatch, Guarantee, Progress, Sink, SinkError, SinkOpenError, WaitsEnded, lines::Lines};
use crate::{FileKey, tasks::blocking};

const SCHEMA: Schema = Schema {
    application_id: 0x5742_534F, // "WBSO"
    name: "standard output",
    migrations: &[
        Migration { name: "progress", sql: include_str!("stdout_0001.sql") },
        Migration { name: "bad and filtered rows are counted", sql: include_str!("stdout_0002.sql") },
    ],
    shared_with_user: false,
};

const NAME: &str = "stdout";

/// Lines on standard output. Clones share it.
#[derive(Clone)]
pub struct StdoutSink {
    store: Sqlite,
    out: Arc<Mutex<Box<dyn Write + Send>>>,
    closed: CancellationToken,
}

enum Failure {
    Fenced { found: Progress },
    Out(io::Error),
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl StdoutSink {
    /// Writes to standard output. How far each file has come is kept in the file `progress`.
    ///
    /// # Errors
    /// [`SinkOpenError::Store`].
    pub async fn open(progress: &Path) -> Result<Self, SinkOpenError> {
        Self::open_with(progress, io::stdout()).await
    }

    /// Like [`StdoutSink::open`], and writes elsewhere.
    ///
    /// # Errors
    /// [`SinkOpenError::Store`].
    pub async fn open_with(progress: &Path, out: impl Write + Send + 'static) -> Result<Self, SinkOpenError> {
        let path = progress.to_owned();
        let open = move || Sqlite::open(&path, &SCHEMA, SqliteOptions::default());
        let opened = blocking(open).await.ok_or_else(|| SinkOpenError::closing(NAME))?;
        Ok(Self { store: opened?, out: Arc::new(Mutex::new(Box::new(out))), closed: CancellationToken::new() })
    }

    /// Cancelled once nobody reads what is written.
    #[must_use]
    pub fn closed(&self) -> &CancellationToken {
        &self.closed
    }

    fn unavailable(&self, problem: String) -> SinkError {
        SinkError::Unavailable { sink: NAME.to_owned(), problem }
    }
}

impl Sink for StdoutSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    async fn progress(&self, file: &FileKey) -> Result<Progress, SinkError> {
        let file = file.as_str().to_owned();
        let known = self.store.read(move |connection| progress(connection, &file)).await;
        known.map_err(|error| self.unavailable(error.to_string()))
    }

    async fn apply(&self, file: &FileKey, from: u64, batch: EntityBatch) -> Result<Applied, SinkError> {
        let (to, done) = (batch.to, batch.end.is_some());
        let Some(lines) = blocking(move || Lines::of(&batch, from)).await else {
            return Err(self.unavailable("the program is ending".to_owned()));
        };
        let applied = lines.applied();
        let (key, out) = (file.as_str().to_owned(), Arc::clone(&self.out));
        // Within the transaction, so that of two workers of one file one writes.
        let write = move |tx: &rusqlite::Transaction<'_>| {
            let known = progress(tx, &key)?;
            if known.rows != from || known.done {
                return Err(Failure::Fenced { found: known });
            }
            let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
            out.write_all(&lines.good).and_then(|()| out.flush()).map_err(Failure::Out)?;
            for bad in lines.bad.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                tracing::warn!(file = key, row = %String::from_utf8_lossy(bad), "a row cannot be used");
            }
            let sql = "INSERT INTO progress (file, rows, done, bad, filtered) VALUES (?1, ?2, ?3, ?4, ?5)
                       ON CONFLICT (file) DO UPDATE SET rows = excluded.rows, done = excluded.done, bad = excluded.bad,
                           filtered = excluded.filtered";
            let Progress { rows, done, bad, filtered, .. } = known.after(to, done, &applied);
            let [rows, bad, filtered] = [rows, bad, filtered].map(u64::cast_signed);
            tx.prepare_cached(sql)?.execute((&key, rows, done, bad, filtered))?;
            Ok(())
        };
        match self.store.write(write).await {
            Ok(Ok(())) => Ok(applied),
            Ok(Err(Failure::Fenced { found })) => {
                Err(SinkError::Fenced { file: file.as_str().to_owned(), expected: from, found })
            }
            Ok(Err(Failure::Out(error))) => {
                if error.kind() == io::ErrorKind::BrokenPipe {
                    self.closed.cancel();
                }
                Err(self.unavailable(error.to_string()))
            }
            Ok(Err(Failure::Database(error))) => Err(self.unavailable(self.store.error(error).to_string())),
            Err(error) => Err(self.unavailable(error.to_string())),
        }
    }

    async fn end_waits(&self) -> Result<WaitsEnded, SinkError> {
        Ok(WaitsEnded::default())
    }
}

impl fmt::Debug for StdoutSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdoutSink").field("store", &self.store).finish_non_exhaustive()
    }
}

fn progress(connection: &Connection, file: &str) -> rusqlite::Result<Progress> {
    let mut statement = connection.prepare_cached("SELECT rows, done, bad, filtered FROM progress WHERE file = ?1")?;
    let known = statement.query_row([file], |row| {
        let count = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
        Ok(Progress { rows: count(0)?, done: row.get(1)?, bad: count(2)?, filtered: count(3)?, trail: None })
    });
    known.optional().map(Option::unwrap_or_default)
}
