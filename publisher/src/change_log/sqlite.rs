//! The change log in the service's SQLite file. One transaction writes at a time, so ids come in the order of the commits, and
//! what is read is settled.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, try_unfold, unfold};
use time::OffsetDateTime;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use uuid::Uuid;
use waybill_contracts::{BlobType, ExportId, NameError};
use waybill_store::{
    Commits, Migration, Schema, Sqlite, SqliteOptions, StoreError,
    rusqlite::{
        self, Connection, OpenFlags, OptionalExtension, Row, params,
        types::{Type, ValueRef},
    },
    signed,
};

use super::{
    BadChange, COUNTED_MAX, ChangeFilter, Cut, EXPIRED_AT_ONCE, ExpiredFile, FILE_COLUMNS, FileNumber, LogError,
    LogStatus, LoggedChange, OpenFile, PlannedFile, ROW_BYTES_MAX, RefusedChange, SHOWN_MAX, TableRows, Tail, Unproven,
    WaitingType, line, too_long,
    triggers::{self, Table},
};
use crate::export::fits_a_message;

const SCHEMA: Schema = Schema {
    application_id: 0,
    name: "change log",
    migrations: &[
        Migration { name: "changes, and the files made of them", sql: include_str!("sqlite_0001.sql") },
        Migration { name: "the number of each file, and what nobody can prove", sql: include_str!("sqlite_0002.sql") },
    ],
    shared_with_user: true,
};

/// Lines that are read at once, in bytes; more when one row is longer.
const CHUNK_BYTES: usize = 256 * 1024;
/// Chunks of a table that are read ahead.
const CHUNKS_WAITING: usize = 2;
/// Changes that are deleted in one transaction: others wait as long.
const PRUNED_AT_ONCE: i64 = 5_000;

/// A log in a file.
#[derive(Debug, Clone)]
pub(crate) struct SqliteLog {
    db: Sqlite,
}

/// The right to plan.
#[derive(Debug)]
pub(crate) struct SqliteSeat {
    log: SqliteLog,
    db: Sqlite,
    /// Ids up to here were handed on as settled, or were published before.
    settled: i64,
    /// Once somebody waits for news.
    commits: Option<Commits>,
    /// The operating system gives it back when the process ends, however it ends.
    _locked: File,
}

impl SqliteLog {
    pub(crate) async fn open(path: &Path) -> Result<Self, LogError> {
        let file = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || Sqlite::open(&file, &SCHEMA, SqliteOptions::default())).await;
        let opened = opened.map_err(|error| LogError::Open(error.into()))?;
        let db = opened.map_err(|error| LogError::Open(error.into()))?;
        write(&db, |tx| {
            tx.execute("INSERT OR IGNORE INTO waybill_log (one, created_at) VALUES (1, ?1)", [now()]).map(drop)
        })
        .await?;
        Ok(Self { db })
    }

    /// Whether there is a log in the file; touches nothing.
    pub(crate) async fn is_there(path: &Path) -> Result<bool, LogError> {
        if !path.exists() {
            return Ok(false);
        }
        let path = path.to_owned();
        let looked = tokio::task::spawn_blocking(move || {
            let db = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
            let sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'waybill_change_log'";
            db.query_row(sql, [], |_| Ok(())).optional()
        });
        let found = looked.await.map_err(|error| LogError::Open(error.into()))?;
        Ok(found.map_err(|error| LogError::Open(error.into()))?.is_some())
    }

    pub(crate) fn shown(&self) -> String {
        format!("sqlite:{}", self.db.path().display())
    }

    pub(crate) async fn close(&self) {
        self.db.close().await;
    }

    fn lock_path(&self) -> PathBuf {
        let mut name = self.db.path().as_os_str().to_owned();
        name.push(".waybill-publisher");
        name.into()
    }

    fn lock(&self) -> Result<Option<File>, LogError> {
        let unavailable = |error: std::io::Error| LogError::Unavailable(error.into());
        let file = File::options().create(true).truncate(false).write(true).open(self.lock_path());
        let file = file.map_err(unavailable)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(unavailable(error)),
        }
    }

    pub(crate) async fn seat(&self, epoch: &str) -> Result<Option<SqliteSeat>, LogError> {
        let Some(locked) = self.lock()? else { return Ok(None) };
        let ours = epoch.to_owned();
        let theirs: String = write(&self.db, move |tx| {
            tx.execute("UPDATE waybill_log SET epoch = ?1 WHERE epoch IS NULL", [&ours])?;
            tx.query_row("SELECT epoch FROM waybill_log", [], |row| row.get(0))
        })
        .await?;
        self.ours(Some(theirs), epoch)?;
        let settled = self.published().await?;
        Ok(Some(SqliteSeat { log: self.clone(), db: self.db.clone(), settled, commits: None, _locked: locked }))
    }

    pub(crate) async fn adopt(&self, epoch: &str) -> Result<bool, LogError> {
        let Some(_locked) = self.lock()? else { return Ok(false) };
        let epoch = epoch.to_owned();
        write(&self.db, move |tx| tx.execute("UPDATE waybill_log SET epoch = ?1", [epoch]).map(|_| true)).await
    }

    /// Whether its files go to the outbox of this epoch, if they go anywhere yet.
    fn ours(&self, theirs: Option<String>, epoch: &str) -> Result<(), LogError> {
        match theirs {
            Some(theirs) if theirs != epoch => {
                Err(LogError::OtherOutbox { shown: self.shown(), theirs, ours: epoch.to_owned() })
            }
            _ => Ok(()),
        }
    }

    pub(crate) async fn check_outbox(&self, epoch: &str) -> Result<(), LogError> {
        let theirs = read(&self.db, |db| db.query_row("SELECT epoch FROM waybill_log", [], |row| row.get(0))).await?;
        self.ours(theirs, epoch)
    }

    pub(crate) async fn last_numbers(&self, epoch: &str) -> Result<Vec<(String, ExportId, FileNumber)>, LogError> {
        let epoch = epoch.to_owned();
        read(&self.db, move |db| {
            // Files of a type are numbered one after the other, so the last of them has the highest number.
            let sql = "SELECT p.blob_type, f.export_id, f.publisher, f.epoch, f.sequence FROM waybill_planned p JOIN waybill_file f
                    ON f.number = (SELECT number FROM waybill_file WHERE blob_type = p.blob_type AND exported_at IS NOT NULL
                                   ORDER BY up_to DESC LIMIT 1)
                WHERE f.epoch = ?1";
            let mut last = db.prepare(sql)?;
            let rows = last.query_map([epoch], |row| {
                Ok((row.get(0)?, ExportId::new(row.get::<_, String>(1)?).map_err(unreadable)?, file_number(row, 2)?))
            })?;
            rows.filter_map(|row| row.map(|(of, id, number)| Some((of, id, number?))).transpose()).collect()
        })
        .await
    }

    pub(crate) async fn try_writing(&self) -> Result<(), LogError> {
        // An error of the job takes back what it wrote.
        let tried = self.db.write(|tx| Err::<(), _>(tx.execute_batch(TRIAL).err()));
        match tried.await.map_err(unavailable)? {
            Ok(()) | Err(None) => Ok(()),
            Err(Some(error)) => Err(unavailable(self.db.error(error))),
        }
    }

    /// The file's lines, chunk by chunk: changes never change, so each chunk may be a read of its own.
    pub(crate) fn lines(&self, file: &PlannedFile) -> BoxStream<'static, std::io::Result<Bytes>> {
        let (db, blob_type, up_to) = (self.db.clone(), file.blob_type.clone(), file.up_to);
        try_unfold(file.after, move |after| {
            let (db, blob_type) = (db.clone(), blob_type.clone());
            async move {
                let chunk = read(&db, move |db| lines_after(db, &blob_type, after, up_to)).await;
                let chunk = chunk.map_err(std::io::Error::other)?;
                Ok(chunk.map(|(last, lines)| (Bytes::from(lines), last)))
            }
        })
        .boxed()
    }

    /// Whether the next id is higher than those that were published.
    pub(crate) async fn check(&self) -> Result<(), LogError> {
        self.published().await.map(drop)
    }

    /// The highest id that was published, which is no higher than the last one given.
    async fn published(&self) -> Result<i64, LogError> {
        let (given, published): (i64, i64) = read(&self.db, |db| {
            let sql = "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'waybill_change_log'), 0),
                           coalesce((SELECT max(up_to) FROM waybill_planned), 0)";
            db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
        })
        .await?;
        if given >= published { Ok(published) } else { Err(self.begun_anew(given, published)) }
    }

    fn begun_anew(&self, given: i64, published: i64) -> LogError {
        let problem = format!(
            "its ids began anew: the last one given is {given}, but those up to {published} are published; what is logged with a \
             lower one would be missing. Say: UPDATE sqlite_sequence SET seq = {published} WHERE name = 'waybill_change_log' \
             (INSERT it, if there is no such row), and log again what was logged since"
        );
        LogError::Ids { shown: self.shown(), problem }
    }

    pub(crate) async fn status(&self) -> Result<LogStatus, LogError> {
        let followed = self.lock()?.is_none();
        let log = self.shown();
        read(&self.db, move |db| {
            let mut types = db.prepare(&format!("{TYPES} SELECT blob_type, after FROM known ORDER BY blob_type"))?;
            let types: Vec<(String, i64)> =
                types.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
            let mut waiting = Vec::new();
            for (blob_type, after) in types {
                let count = "SELECT count(*) FROM (
                    SELECT 1 FROM waybill_change_log WHERE blob_type = ?1 AND id > ?2 LIMIT ?3)";
                let counted: i64 = db
                    .prepare_cached(count)?
                    .query_row(params![blob_type, after, signed(COUNTED_MAX + 1)], |row| row.get(0))?;
                if counted == 0 {
                    continue;
                }
                let first =
                    "SELECT occurred_at FROM waybill_change_log WHERE blob_type = ?1 AND id > ?2 ORDER BY id LIMIT 1";
                let since = db.prepare_cached(first)?.query_row(params![blob_type, after], |row| text(row, 0))?;
                let since = since
                    .and_then(|at| OffsetDateTime::parse(&at, &time::format_description::well_known::Rfc3339).ok());
                waiting.push(WaitingType::counted(blob_type, counted.unsigned_abs(), since));
            }
            let mut files = db.prepare(
                "SELECT export_id, blob_type, changes, planned_at, problem FROM waybill_file WHERE exported_at IS NULL
                 ORDER BY number LIMIT 100",
            )?;
            let open_files = files.query_map([], |row| {
                Ok(OpenFile {
                    export_id: row.get(0)?,
                    blob_type: row.get(1)?,
                    changes: row.get::<_, i64>(2)?.unsigned_abs(),
                    planned_at: instant(row.get(3)?),
                    problem: row.get(4)?,
                })
            })?;
            let open_files = open_files.collect::<Result<_, _>>()?;
            let refused: i64 = db.query_row("SELECT count(*) FROM waybill_refused", [], |row| row.get(0))?;
            let refused = refused.unsigned_abs();
            let mut unproven = db.prepare(
                "SELECT blob_type, count(*), sum(changes) FROM waybill_file WHERE proven = 0 GROUP BY blob_type
                 ORDER BY blob_type",
            )?;
            let unproven = unproven.query_map([], |row| {
                let [files, changes] = [row.get::<_, i64>(1)?, row.get(2)?].map(i64::unsigned_abs);
                Ok(Unproven { blob_type: row.get(0)?, files, changes })
            })?;
            let unproven = unproven.collect::<Result<_, _>>()?;
            let let_go_with = LET_GO.to_owned();
            Ok(LogStatus { open_files, refused, unproven, let_go_with, followed, ..LogStatus::of(log, waiting) })
        })
        .await
    }

    pub(crate) async fn triggers(&self, table: &str, blob_type: &BlobType, key: &[String]) -> Result<String, LogError> {
        Ok(triggers::sqlite(&self.table(table).await?.keyed(key)?, blob_type))
    }

    /// All rows of a table as they are when the first is read, and its columns. A connection of its own reads on as they are
    /// taken: while it does, the write-ahead log cannot be shortened.
    pub(crate) async fn rows_of(&self, table: &str) -> Result<TableRows, LogError> {
        let table = self.table(table).await?;
        let sql = triggers::rows_in_sqlite(&table);
        let path = self.db.path().to_owned();
        let (sender, chunks) = mpsc::channel(CHUNKS_WAITING);
        let reading = tokio::task::spawn_blocking(move || {
            if let Err(error) = read_rows(&path, &sql, &sender) {
                // Nobody may be there to take it.
                drop(sender.blocking_send(Err(std::io::Error::other(error))));
            }
        });
        let rows = unfold((chunks, reading), |(mut chunks, reading)| async move {
            chunks.recv().await.map(|chunk| (chunk, (chunks, reading)))
        });
        Ok(TableRows { columns: table.columns, rows: rows.boxed() })
    }

    /// Tables whose triggers log a type.
    pub(crate) async fn tables_of(&self, blob_type: &BlobType) -> Result<Vec<String>, LogError> {
        let logs = triggers::logs_as(blob_type);
        read(&self.db, move |db| {
            let sql = "SELECT DISTINCT tbl_name FROM sqlite_master
                       WHERE type = 'trigger' AND name LIKE 'waybill % inserted' AND instr(sql, ?1) > 0 ORDER BY 1";
            db.prepare(sql)?.query_map([logs], |row| row.get(0))?.collect()
        })
        .await
    }

    /// The table's name as it was made.
    pub(crate) async fn table_name(&self, table: &str) -> Result<String, LogError> {
        let name = self.table(table).await?.name;
        read(&self.db, move |db| {
            let sql = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND lower(name) = lower(?1)";
            let known = db.query_row(sql, [&name], |row| row.get(0)).optional()?;
            Ok(known.unwrap_or(name))
        })
        .await
    }

    async fn table(&self, table: &str) -> Result<Table, LogError> {
        let name = table.to_owned();
        let known = read(&self.db, move |db| {
            let mut select = db.prepare("SELECT name, pk FROM pragma_table_xinfo(?1) WHERE hidden <> 1")?;
            let columns: Vec<(String, i64)> =
                select.query_map([&name], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
            let mut key: Vec<&(String, i64)> = columns.iter().filter(|(_, place)| *place > 0).collect();
            key.sort_by_key(|(_, place)| *place);
            let key = key.into_iter().map(|(column, _)| column.clone()).collect();
            let columns = columns.into_iter().map(|(column, _)| column).collect();
            Ok(Table { schema: None, name, columns, key, unique: Vec::new() })
        })
        .await?;
        if known.columns.is_empty() {
            let problem = format!("there is no such table in {}", self.shown());
            return Err(LogError::Table { table: table.to_owned(), problem });
        }
        Ok(known)
    }

    pub(crate) async fn changes(&self, filter: &ChangeFilter) -> Result<Vec<LoggedChange>, LogError> {
        let ChangeFilter { blob_type, key, correlation_id, before, most } = filter.clone();
        read(&self.db, move |db| {
            let mut changes = db.prepare(
                "SELECT id, blob_type, op, key, substr(row, 1, ?6), occurred_at, correlation_id, causation_id,
                     (SELECT iif(after < c.id, export_id, NULL) FROM waybill_file f
                      WHERE f.blob_type = c.blob_type AND f.up_to >= c.id ORDER BY f.up_to LIMIT 1),
                     (SELECT problem FROM waybill_refused WHERE change = c.id)
                 FROM waybill_change_log c
                 WHERE (?1 IS NULL OR blob_type = ?1) AND (?2 IS NULL OR key = ?2) AND (?3 IS NULL OR correlation_id = ?3)
                     AND (?4 IS NULL OR id < ?4)
                 ORDER BY id DESC LIMIT ?5",
            )?;
            let values = params![blob_type, key, correlation_id, before, most, SHOWN_MAX];
            let rows = changes.query_map(values, |row| {
                Ok(LoggedChange {
                    id: row.get(0)?,
                    blob_type: row.get(1)?,
                    op: row.get(2)?,
                    key: text(row, 3)?,
                    row: text(row, 4)?.unwrap_or_default(),
                    occurred_at: text(row, 5)?.unwrap_or_default(),
                    correlation_id: text(row, 6)?,
                    causation_id: text(row, 7)?,
                    export_id: row.get(8)?,
                    refused: row.get(9)?,
                })
            })?;
            rows.collect()
        })
        .await
    }

    pub(crate) async fn refused(&self, most: u32) -> Result<Vec<RefusedChange>, LogError> {
        read(&self.db, move |db| {
            let mut refused = db.prepare(
                "SELECT id, blob_type, key, problem, at FROM waybill_refused JOIN waybill_change_log ON change = id
                 ORDER BY id DESC LIMIT ?1",
            )?;
            let rows = refused.query_map([most], |row| {
                Ok(RefusedChange {
                    id: row.get(0)?,
                    blob_type: row.get(1)?,
                    key: text(row, 2)?,
                    problem: row.get(3)?,
                    at: instant(row.get(4)?),
                })
            })?;
            rows.collect()
        })
        .await
    }
}

/// A person says that files may go of which nobody can tell whether they were sent.
const LET_GO: &str = "UPDATE waybill_file SET proven = 1 WHERE proven = 0";

/// All that a publisher writes into its tables, to be rolled back.
const TRIAL: &str = "UPDATE waybill_log SET epoch = epoch;
    INSERT INTO waybill_planned (blob_type, up_to) VALUES ('waybill-doctor', 0)
        ON CONFLICT (blob_type) DO UPDATE SET up_to = excluded.up_to;
    DELETE FROM waybill_file WHERE export_id = 'waybill-doctor'";

/// The changes of a file: its type, and its range.
const OF_A_FILE: &str = "FROM waybill_change_log WHERE blob_type = ?1 AND id > ?2 AND id <= ?3
    AND NOT EXISTS (SELECT 1 FROM waybill_refused WHERE change = waybill_change_log.id)";

/// The types that are there, and up to where each is planned: found by jumps through the index.
const TYPES: &str = "WITH RECURSIVE there (blob_type) AS (
        SELECT min(blob_type) FROM waybill_change_log
        UNION ALL
        SELECT (SELECT min(blob_type) FROM waybill_change_log c WHERE c.blob_type > there.blob_type)
        FROM there WHERE there.blob_type IS NOT NULL),
    known AS (
        SELECT there.blob_type, coalesce(p.up_to, 0) AS after
        FROM there LEFT JOIN waybill_planned p ON p.blob_type = there.blob_type
        WHERE there.blob_type IS NOT NULL)";

/// All that a statement gives, in one transaction, as long as somebody takes it.
fn read_rows(path: &Path, sql: &str, taker: &mpsc::Sender<std::io::Result<Bytes>>) -> rusqlite::Result<()> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    let mut select = db.prepare(sql)?;
    let mut rows = select.query([])?;
    let mut lines = Vec::new();
    while let Some(row) = rows.next()? {
        line::push(bytes(row.get_ref(0)?), false, &mut lines);
        if lines.len() >= CHUNK_BYTES && taker.blocking_send(Ok(std::mem::take(&mut lines).into())).is_err() {
            return Ok(());
        }
    }
    if !lines.is_empty() {
        drop(taker.blocking_send(Ok(lines.into())));
    }
    Ok(())
}

fn lines_after(db: &Connection, blob_type: &str, after: i64, up_to: i64) -> rusqlite::Result<Option<(i64, Vec<u8>)>> {
    let mut select = db.prepare_cached(&format!("SELECT id, op, row {OF_A_FILE} ORDER BY id"))?;
    let mut rows = select.query(params![blob_type, after, up_to])?;
    let (mut last, mut lines) = (after, Vec::new());
    while let Some(row) = rows.next()? {
        last = row.get(0)?;
        line::push(bytes(row.get_ref(2)?), row.get_ref(1)?.as_str()? == "delete", &mut lines);
        if lines.len() >= CHUNK_BYTES {
            break;
        }
    }
    Ok((!lines.is_empty()).then_some((last, lines)))
}

impl SqliteSeat {
    /// See [`super::any::Seat::until_news`].
    pub(crate) async fn until_news(&mut self, every: Duration, at_most: Duration) {
        if self.commits.is_none() {
            self.commits = self.db.commits(every).ok();
        }
        match &mut self.commits {
            Some(commits) => drop(timeout(at_most, commits.next()).await),
            None => sleep(every).await,
        }
    }

    pub(crate) async fn settled(&mut self) -> Result<i64, LogError> {
        let (highest, given): (i64, i64) = read(&self.db, |db| {
            let sql = "SELECT coalesce(max(id), 0),
                           coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'waybill_change_log'), 0)
                       FROM waybill_change_log";
            db.prepare_cached(sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))
        })
        .await?;
        if given < self.settled {
            return Err(self.log.begun_anew(given, self.settled));
        }
        self.settled = self.settled.max(highest);
        Ok(highest)
    }

    pub(crate) async fn waiting(&mut self, up_to: i64) -> Result<Vec<(String, i64)>, LogError> {
        read(&self.db, move |db| {
            let mut types = db.prepare_cached(&format!(
                "{TYPES} SELECT blob_type, after FROM known WHERE EXISTS (
                     SELECT 1 FROM waybill_change_log c WHERE c.blob_type = known.blob_type AND c.id > after AND c.id <= ?1)"
            ))?;
            types.query_map([up_to], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
        .await
    }

    pub(crate) async fn plan(
        &mut self,
        blob_type: &str,
        up_to: i64,
        cut: Cut,
        due: bool,
    ) -> Result<Option<Tail>, LogError> {
        let blob_type = blob_type.to_owned();
        write(&self.db, move |tx| {
            let after: i64 = tx
                .prepare_cached("SELECT up_to FROM waybill_planned WHERE blob_type = ?1")?
                .query_row([&blob_type], |row| row.get(0))
                .optional()?
                .unwrap_or(0);
            let mut taken = tx.prepare_cached(
                "SELECT id, length(CAST(row AS BLOB)), correlation_id, causation_id, traceparent
                 FROM waybill_change_log WHERE blob_type = ?1 AND id > ?2 AND id <= ?3 ORDER BY id",
            )?;
            let mut rows = taken.query(params![blob_type, after, up_to])?;
            let (mut last, mut changes, mut bytes, mut full) = (after, 0_u32, 0_i64, false);
            let (mut correlation_id, mut causation_id, mut traceparent) = (Common::Nothing, Common::Nothing, Common::Nothing);
            let mut left_out = Vec::new();
            while !full && let Some(row) = rows.next()? {
                last = row.get(0)?;
                changes += 1;
                match row.get::<_, i64>(1)? {
                    length if length > ROW_BYTES_MAX => left_out.push((last, too_long(length))),
                    length => bytes += length + 1,
                }
                correlation_id.add(row.get_ref(2)?);
                causation_id.add(row.get_ref(3)?);
                traceparent.add(row.get_ref(4)?);
                full = changes == cut.max_rows.get() || bytes >= signed(cut.max_bytes.get());
            }
            if changes == 0 {
                return Ok(None);
            }
            if !full && !due {
                return Ok(Some(Tail::Waits(changes.into())));
            }
            let file = PlannedFile {
                number: 0,
                export_id: ExportId::random(),
                blob_type,
                after,
                up_to: last,
                changes: changes.into(),
                correlation_id: correlation_id.text().unwrap_or_else(|| Uuid::new_v4().to_string()),
                causation_id: causation_id.text(),
                traceparent: traceparent.text(),
            };
            for (change, problem) in left_out {
                refuse(tx, change, &problem)?;
            }
            tx.prepare_cached(
                "INSERT INTO waybill_file (export_id, blob_type, after, up_to, changes, bytes, correlation_id, causation_id,
                     traceparent, planned_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                file.export_id.as_str(),
                file.blob_type,
                file.after,
                file.up_to,
                changes,
                bytes,
                file.correlation_id,
                file.causation_id,
                file.traceparent,
                now(),
            ])?;
            let number = tx.last_insert_rowid();
            tx.prepare_cached(
                "INSERT INTO waybill_planned (blob_type, up_to) VALUES (?1, ?2)
                 ON CONFLICT (blob_type) DO UPDATE SET up_to = excluded.up_to",
            )?
            .execute(params![file.blob_type, file.up_to])?;
            Ok(Some(Tail::File(Box::new(PlannedFile { number, ..file }), full)))
        })
        .await
    }

    pub(crate) async fn open_files(&mut self) -> Result<Vec<PlannedFile>, LogError> {
        read(&self.db, |db| {
            let sql = format!("SELECT {FILE_COLUMNS} FROM waybill_file WHERE exported_at IS NULL ORDER BY number");
            db.prepare_cached(&sql)?.query_map([], planned_file)?.collect()
        })
        .await
    }

    pub(crate) async fn exported(
        &mut self,
        number: i64,
        expires_at: Option<OffsetDateTime>,
        as_number: &FileNumber,
    ) -> Result<(), LogError> {
        let (expires_at, FileNumber { publisher, epoch, sequence }) = (expires_at.map(nanos), as_number.clone());
        write(&self.db, move |tx| {
            let sql =
                "UPDATE waybill_file SET exported_at = ?2, expires_at = ?3, publisher = ?4, epoch = ?5, sequence = ?6
                       WHERE number = ?1";
            let values = params![number, now(), expires_at, publisher, epoch, signed(sequence)];
            tx.prepare_cached(sql)?.execute(values).map(drop)
        })
        .await
    }

    pub(crate) async fn refuse(&mut self, file: &PlannedFile, bad: &[BadChange]) -> Result<Vec<i64>, LogError> {
        let (blob_type, after, up_to, bad) = (file.blob_type.clone(), file.after, file.up_to, bad.to_vec());
        write(&self.db, move |tx| {
            let mut select = tx.prepare_cached(&format!("SELECT id {OF_A_FILE} ORDER BY id"))?;
            let mut ids = select.query_map(params![blob_type, after, up_to], |row| row.get::<_, i64>(0))?;
            // The number of the row that `ids` gives next.
            let (mut next, mut refused) = (1, Vec::new());
            for BadChange { row, problem } in bad {
                let Some(id) = usize::try_from(row - next).ok().and_then(|skipped| ids.nth(skipped)) else { break };
                next = row + 1;
                refused.push((id?, problem));
            }
            refused.into_iter().map(|(change, problem)| refuse(tx, change, &problem).map(|()| change)).collect()
        })
        .await
    }

    pub(crate) async fn not_made(&mut self, number: i64, problem: &str) -> Result<(), LogError> {
        let problem = problem.to_owned();
        write(&self.db, move |tx| {
            let sql = "UPDATE waybill_file SET problem = ?2 WHERE number = ?1";
            tx.prepare_cached(sql)?.execute(params![number, problem]).map(drop)
        })
        .await
    }

    pub(crate) async fn expired(
        &mut self,
        by: OffsetDateTime,
        (at, number): (OffsetDateTime, i64),
        unproven: bool,
    ) -> Result<Vec<ExpiredFile>, LogError> {
        read(&self.db, move |db| {
            let sql =
                "SELECT number, export_id, expires_at, blob_type, proven, publisher, epoch, sequence FROM waybill_file
                       WHERE expires_at <= ?1 AND expires_at >= ?2 AND (expires_at, number) > (?2, ?3)
                           AND (?5 OR proven IS NOT 0)
                       ORDER BY expires_at, number LIMIT ?4";
            let mut files = db.prepare_cached(sql)?;
            let files = files.query_map(params![nanos(by), nanos(at), number, EXPIRED_AT_ONCE, unproven], |row| {
                let export_id = ExportId::new(row.get::<_, String>(1)?).map_err(unreadable)?;
                Ok(ExpiredFile {
                    number: row.get(0)?,
                    export_id,
                    expires_at: instant(row.get(2)?),
                    blob_type: row.get(3)?,
                    proven: row.get(4)?,
                    as_number: file_number(row, 5)?,
                })
            })?;
            files.collect()
        })
        .await
    }

    pub(crate) async fn unproven(&mut self, number: i64) -> Result<bool, LogError> {
        write(&self.db, move |tx| {
            let sql = "UPDATE waybill_file SET proven = 0 WHERE number = ?1 AND proven IS NULL";
            Ok(tx.prepare_cached(sql)?.execute([number])? > 0)
        })
        .await
    }

    pub(crate) async fn prune(&mut self, number: i64) -> Result<bool, LogError> {
        write(&self.db, move |tx| {
            let deleted = tx
                .prepare_cached(
                    "DELETE FROM waybill_change_log WHERE id IN (
                         SELECT id FROM waybill_file f JOIN waybill_change_log c
                             ON c.blob_type = f.blob_type AND id > after AND id <= up_to
                         WHERE number = ?1 AND NOT EXISTS (SELECT 1 FROM waybill_refused WHERE change = id)
                         ORDER BY id LIMIT ?2)",
                )?
                .execute(params![number, PRUNED_AT_ONCE])? as u64;
            let is_done = signed(deleted) < PRUNED_AT_ONCE;
            if is_done {
                tx.prepare_cached("DELETE FROM waybill_file WHERE number = ?1")?.execute([number])?;
            }
            Ok(is_done)
        })
        .await
    }
}

fn refuse(tx: &Connection, change: i64, problem: &str) -> rusqlite::Result<()> {
    let sql = "INSERT OR IGNORE INTO waybill_refused (change, problem, at) VALUES (?1, ?2, ?3)";
    tx.prepare_cached(sql)?.execute(params![change, problem, now()]).map(drop)
}

/// What all changes of a file say alike.
enum Common {
    Nothing,
    Alike(Vec<u8>),
    Differs,
}

impl Common {
    fn add(&mut self, value: ValueRef<'_>) {
        let value = bytes(value);
        match self {
            // An empty one is refused when it is logged.
            _ if value.is_empty() => *self = Self::Differs,
            Self::Nothing => *self = Self::Alike(value.to_vec()),
            Self::Alike(known) if known == value => {}
            Self::Alike(_) | Self::Differs => *self = Self::Differs,
        }
    }

    /// Nothing where a message could not carry it: SQLite counts characters its own way where text is no UTF-8.
    fn text(self) -> Option<String> {
        match self {
            Self::Alike(value) => String::from_utf8(value).ok().filter(|text| fits_a_message(text)),
            Self::Nothing | Self::Differs => None,
        }
    }
}

/// What a service may have stored as text or as bytes; nothing for what is neither.
fn bytes(value: ValueRef<'_>) -> &[u8] {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => &[],
    }
}

/// A text that may be no UTF-8.
fn text(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<String>> {
    let value = row.get_ref(at)?;
    Ok((value != ValueRef::Null).then(|| String::from_utf8_lossy(bytes(value)).into_owned()))
}

fn unreadable(error: NameError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(1, Type::Text, Box::new(error))
}

fn planned_file(row: &Row<'_>) -> rusqlite::Result<PlannedFile> {
    Ok(PlannedFile {
        number: row.get(0)?,
        export_id: ExportId::new(row.get::<_, String>(1)?).map_err(unreadable)?,
        blob_type: row.get(2)?,
        after: row.get(3)?,
        up_to: row.get(4)?,
        changes: row.get::<_, i64>(5)?.unsigned_abs(),
        correlation_id: row.get(6)?,
        causation_id: row.get(7)?,
        traceparent: row.get(8)?,
    })
}

/// The number that a file has, where it was kept.
fn file_number(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<FileNumber>> {
    let (publisher, epoch) = (row.get::<_, Option<String>>(at)?, row.get::<_, Option<String>>(at + 1)?);
    Ok(match (publisher, epoch, row.get::<_, Option<i64>>(at + 2)?) {
        (Some(publisher), Some(epoch), Some(sequence)) => {
            Some(FileNumber { publisher, epoch, sequence: sequence.unsigned_abs() })
        }
        _ => None,
    })
}

fn now() -> i64 {
    nanos(OffsetDateTime::now_utc())
}

fn nanos(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

fn instant(nanos: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn unavailable(error: StoreError) -> LogError {
    match error {
        StoreError::Sqlite { source: rusqlite::Error::FromSqlConversionFailure(..), .. } => {
            LogError::Unreadable(error.into())
        }
        error => LogError::Unavailable(error.into()),
    }
}

async fn write<T: Send + 'static>(
    db: &Sqlite,
    job: impl FnOnce(&rusqlite::Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, LogError> {
    db.write(job).await.map_err(unavailable)?.map_err(|error| unavailable(db.error(error)))
}

async fn read<T: Send + 'static>(
    db: &Sqlite,
    job: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, LogError> {
    db.read(job).await.map_err(unavailable)
}
