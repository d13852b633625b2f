//! The outbox in one SQLite file: no server, many processes on one machine.

use std::{fmt, path::Path, str::FromStr, sync::Arc};

use serde_json::value::RawValue;
use time::OffsetDateTime;
use uuid::Uuid;
use waybill_contracts::{BlobPath, ExportId};
use waybill_store::{
    Migration, Schema, Sqlite, SqliteOptions, StoreError,
    rusqlite::{
        self, Connection, OptionalExtension, Row, ToSql, Transaction, named_params, params, params_from_iter,
        types::Type,
    },
};

use super::{
    Attempt, Counts, ExportRow, FileFacts, HistoryEntry, ListFilter, Outbox, OutboxError, Plan, Planned, RelayLock,
    State,
    owner::{self, Owner},
};

const SCHEMA: Schema = Schema {
    // `WBOX` in ASCII.
    application_id: 0x5742_4f58,
    name: "outbox",
    migrations: &[Migration { name: "exports, their numbers and history", sql: include_str!("sqlite_0001.sql") }],
    shared_with_user: false,
};

const COLUMNS: &str = "row, export_id, publisher, epoch, blob_type, sequence, correlation_id, causation_id, traceparent, \
    blob, uri, content_type, content_encoding, properties, schema, rows, bytes, plain_bytes, plain_sha256, sha256, state, \
    reason, replaced_by, message_id, created_at, uploaded_at, sent_at, expires_at, tries, due_at, last_error, attempt";

/// An outbox in a SQLite file. Clones share it.
#[derive(Clone)]
pub struct SqliteOutbox {
    db: Sqlite,
    epoch: Arc<str>,
    owner: Arc<Owner>,
    options: SqliteOutboxOptions,
}

/// How a [`SqliteOutbox`] behaves.
#[derive(Debug, Clone)]
pub struct SqliteOutboxOptions {
    /// The clock.
    pub now: fn() -> OffsetDateTime,
}

impl Default for SqliteOutboxOptions {
    fn default() -> Self {
        Self { now: OffsetDateTime::now_utc }
    }
}

impl SqliteOutbox {
    /// The file's name in a folder of our own state (`--data`).
    pub const FILE: &str = "outbox.sqlite";

    /// Opens or creates the file. Beside it lie `FILE.owners`, a folder with a locked file for each process that has it
    /// open, and `FILE.relay`, locked by the one that sends.
    ///
    /// # Errors
    /// [`OutboxError::Open`] when it is not an outbox, newer than this program, or damaged.
    pub async fn open(path: &Path, options: SqliteOutboxOptions) -> Result<Self, OutboxError> {
        let open = |error: Box<dyn std::error::Error + Send + Sync>| OutboxError::Open(error);
        let file = path.to_owned();
        let (db, owner) = tokio::task::spawn_blocking(move || {
            let db = Sqlite::open(&file, &SCHEMA, SqliteOptions::default()).map_err(|error| open(error.into()))?;
            let owner = Owner::register(&file).map_err(|error| open(error.into()))?;
            Ok::<_, OutboxError>((db, owner))
        })
        .await
        .map_err(|error| open(error.into()))??;
        let now = nanos((options.now)());
        let epoch: String = run(&db, move |tx| {
            tx.execute(
                "INSERT OR IGNORE INTO outbox (one, epoch, created_at) VALUES (1, ?1, ?2)",
                params![Uuid::now_v7().to_string(), now],
            )?;
            tx.query_row("SELECT epoch FROM outbox", [], |row| row.get(0))
        })
        .await?;
        Ok(Self { db, epoch: epoch.into(), owner: Arc::new(owner), options })
    }

    /// Waits for what is under way and closes the file; clones are closed with it.
    pub async fn close(&self) {
        self.db.close().await;
    }

    fn now(&self) -> i64 {
        nanos((self.options.now)())
    }
}

impl fmt::Debug for SqliteOutbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteOutbox")
            .field("path", &self.db.path())
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl Outbox for SqliteOutbox {
    fn epoch(&self) -> &str {
        &self.epoch
    }

    async fn plan(&self, plan: Plan) -> Result<Planned, OutboxError> {
        let (now, epoch, owner) = (self.now(), Arc::clone(&self.epoch), Arc::clone(&self.owner));
        checked(&self.db, move |tx| {
            let known = row_where(tx, "export_id = ?1 AND state <> 'void'", params![plan.export_id.as_str()])?;
            let Some(known) = known else {
                let row = insert(tx, &plan, &epoch, &owner.id, now)?;
                return Ok(Planned::Begin(Attempt { row, number: 1, export_id: plan.export_id }, plan.blob));
            };
            if known.blob_type != plan.blob_type.as_str() {
                let export_id = plan.export_id.as_str().to_owned();
                return Err(OutboxError::IdInUse { export_id, blob_type: known.blob_type }.into());
            }
            if known.state != State::Planned {
                return Ok(Planned::Exported(Box::new(known)));
            }
            let attempt = Attempt { row: known.row, number: known.attempt + 1, export_id: plan.export_id.clone() };
            if known.sequence.is_some() {
                take(tx, &attempt, &owner.id)?;
                let known = ExportRow { attempt: attempt.number, ..known };
                return Ok(Planned::Settle(attempt, Box::new(known)));
            }
            // The earlier blob's name ends as its content does.
            let same = known.content_type == plan.content_type && known.content_encoding == plan.content_encoding;
            let earlier = BlobPath::new(known.blob.as_str()).ok().filter(|_| same);
            let blob = earlier.unwrap_or_else(|| plan.blob.clone());
            update(tx, &attempt, &plan, &blob, &owner.id)?;
            note(tx, attempt.row, now, State::Planned, Some(&format!("try {}", attempt.number)))?;
            Ok(Planned::Begin(attempt, blob))
        })
        .await
    }

    async fn number(&self, attempt: &Attempt, facts: FileFacts) -> Result<u64, OutboxError> {
        let (now, attempt) = (self.now(), attempt.clone());
        checked(&self.db, move |tx| {
            let row = latest(tx, &attempt, &[State::Planned])?;
            if let Some(number) = row.sequence {
                return Ok(number);
            }
            let number: i64 = tx
                .prepare_cached(
                    "INSERT INTO sequence (publisher, blob_type, last) VALUES (?1, ?2, 1)
                     ON CONFLICT (publisher, blob_type) DO UPDATE SET last = last + 1 RETURNING last",
                )?
                .query_row(params![row.publisher, row.blob_type], |row| row.get(0))?;
            tx.prepare_cached(
                "UPDATE export SET sequence = :sequence, uri = :uri, rows = :rows, bytes = :bytes,
                 plain_bytes = :plain_bytes, plain_sha256 = :plain_sha256, sha256 = :sha256 WHERE row = :row",
            )?
            .execute(named_params! {
                ":sequence": number,
                ":uri": facts.uri,
                ":rows": facts.rows.map(signed),
                ":bytes": signed(facts.bytes),
                ":plain_bytes": signed(facts.plain_bytes),
                ":plain_sha256": facts.plain_sha256,
                ":sha256": facts.sha256,
                ":row": attempt.row,
            })?;
            note(tx, attempt.row, now, State::Planned, Some(&format!("number {number}")))?;
            Ok(number.unsigned_abs())
        })
        .await
    }

    async fn uploaded(&self, attempt: &Attempt) -> Result<ExportRow, OutboxError> {
        let (now, attempt) = (self.now(), attempt.clone());
        checked(&self.db, move |tx| {
            let row = latest(tx, &attempt, &[State::Planned, State::Uploaded, State::Sent])?;
            if row.state != State::Planned {
                return Ok(row);
            }
            tx.prepare_cached(
                "UPDATE export SET state = 'uploaded', uploaded_at = ?2, due_at = ?2, message_id = export_id, owner = NULL
                 WHERE row = ?1",
            )?
            .execute(params![attempt.row, now])?;
            note(tx, attempt.row, now, State::Uploaded, None)?;
            latest(tx, &attempt, &[State::Uploaded])
        })
        .await
    }

    async fn void(&self, attempt: &Attempt, reason: &str) -> Result<(), OutboxError> {
        let (now, attempt, reason) = (self.now(), attempt.clone(), reason.to_owned());
        checked(&self.db, move |tx| {
            latest(tx, &attempt, &[State::Planned, State::Uploaded])?;
            tx.prepare_cached(
                "UPDATE export SET state = 'void', reason = ?2, owner = NULL, due_at = NULL WHERE row = ?1",
            )?
            .execute(params![attempt.row, reason])?;
            Ok(note(tx, attempt.row, now, State::Void, Some(&reason))?)
        })
        .await
    }

    async fn claim_abandoned(&self) -> Result<Vec<ExportRow>, OutboxError> {
        let (path, owner) = (self.db.path().to_owned(), Arc::clone(&self.owner));
        checked(&self.db, move |tx| {
            let mut claimed = Vec::new();
            for gone in owners_that_are_gone(tx, &path)? {
                let sql = format!("SELECT {COLUMNS} FROM export WHERE state = 'planned' AND owner = ?1 ORDER BY row");
                let rows: Vec<ExportRow> =
                    tx.prepare_cached(&sql)?.query_map([gone], export_row)?.collect::<Result<_, _>>()?;
                for mut row in rows {
                    row.attempt += 1;
                    take(tx, &row.attempt(), &owner.id)?;
                    claimed.push(row);
                }
            }
            Ok(claimed)
        })
        .await
    }

    async fn lock_relay(&self) -> Result<Option<RelayLock>, OutboxError> {
        let path = self.db.path().to_owned();
        let locked = tokio::task::spawn_blocking(move || owner::lock_relay(&path))
            .await
            .map_err(|error| OutboxError::Unavailable(error.into()))?
            .map_err(|error| OutboxError::Unavailable(error.into()))?;
        Ok(locked.map(RelayLock::new))
    }

    async fn due(&self, most: u32) -> Result<Vec<ExportRow>, OutboxError> {
        let now = self.now();
        read(&self.db, move |db| {
            let sql = format!(
                "SELECT {COLUMNS} FROM export WHERE state = 'uploaded' AND due_at <= ?1 ORDER BY due_at, row LIMIT ?2"
            );
            db.prepare_cached(&sql)?.query_map(params![now, most], export_row)?.collect()
        })
        .await
    }

    async fn sent(&self, rows: &[i64]) -> Result<(), OutboxError> {
        let (now, rows) = (self.now(), rows.to_vec());
        run(&self.db, move |tx| {
            let mut update = tx.prepare_cached(
                "UPDATE export SET state = 'sent', sent_at = ?2, due_at = NULL, last_error = NULL
                 WHERE row = ?1 AND state = 'uploaded'",
            )?;
            for row in rows {
                if update.execute(params![row, now])? == 1 {
                    note(tx, row, now, State::Sent, None)?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn not_sent(&self, rows: &[i64], error: &str, due_at: Option<OffsetDateTime>) -> Result<(), OutboxError> {
        let (rows, error, due_at) = (rows.to_vec(), error.to_owned(), due_at.map(nanos));
        run(&self.db, move |tx| {
            let mut update = tx.prepare_cached(
                "UPDATE export SET tries = tries + (?3 IS NOT NULL), last_error = ?2, due_at = coalesce(?3, due_at)
                 WHERE row = ?1 AND state = 'uploaded'",
            )?;
            for row in rows {
                update.execute(params![row, error, due_at])?;
            }
            Ok(())
        })
        .await
    }

    async fn counts(&self) -> Result<Counts, OutboxError> {
        read(&self.db, |db| {
            let mut counts = Counts::default();
            let mut states = db.prepare_cached("SELECT state, count(*) FROM export GROUP BY state")?;
            let mut rows = states.query([])?;
            while let Some(row) = rows.next()? {
                let count = unsigned(row, 1)?.unwrap_or(0);
                match parsed(row, 0)? {
                    State::Planned => counts.planned = count,
                    State::Uploaded => counts.uploaded = count,
                    State::Sent => counts.sent = count,
                    State::Void => counts.void = count,
                }
            }
            counts.waiting_since = db
                .prepare_cached("SELECT min(uploaded_at) FROM export WHERE state = 'uploaded'")?
                .query_row([], |row| instant(row, 0))?;
            Ok(counts)
        })
        .await
    }

    async fn list(&self, filter: &ListFilter) -> Result<Vec<ExportRow>, OutboxError> {
        let filter = filter.clone();
        read(&self.db, move |db| {
            let mut wanted: Vec<(&str, Box<dyn ToSql>)> = Vec::new();
            if let Some(state) = filter.state {
                wanted.push(("state = ?", Box::new(state.as_str())));
            }
            if let Some(blob_type) = filter.blob_type {
                wanted.push(("blob_type = ?", Box::new(blob_type)));
            }
            if let Some(export_id) = filter.export_id {
                wanted.push(("export_id = ?", Box::new(export_id)));
            }
            if let Some(correlation_id) = filter.correlation_id {
                wanted.push(("correlation_id = ?", Box::new(correlation_id)));
            }
            if let Some(before) = filter.before {
                wanted.push(("row < ?", Box::new(before)));
            }
            let (clauses, values): (Vec<_>, Vec<_>) = wanted.into_iter().unzip();
            let clauses = if clauses.is_empty() { "TRUE".to_owned() } else { clauses.join(" AND ") };
            let sql = format!("SELECT {COLUMNS} FROM export WHERE {clauses} ORDER BY row DESC LIMIT {}", filter.most);
            db.prepare_cached(&sql)?.query_map(params_from_iter(values), export_row)?.collect()
        })
        .await
    }

    async fn get(&self, row: i64) -> Result<Option<ExportRow>, OutboxError> {
        read(&self.db, move |db| row_where(db, "row = ?1", params![row])).await
    }

    async fn history(&self, row: i64) -> Result<Vec<HistoryEntry>, OutboxError> {
        read(&self.db, move |db| {
            db.prepare_cached("SELECT at, state, note FROM history WHERE export = ?1 ORDER BY id")?
                .query_map([row], |row| {
                    Ok(HistoryEntry {
                        at: instant(row, 0)?.unwrap_or(OffsetDateTime::UNIX_EPOCH),
                        state: parsed(row, 1)?,
                        note: row.get(2)?,
                    })
                })?
                .collect()
        })
        .await
    }
}

fn insert(tx: &Transaction<'_>, plan: &Plan, epoch: &str, owner: &str, now: i64) -> rusqlite::Result<i64> {
    tx.prepare_cached(
        "INSERT INTO export (export_id, publisher, epoch, blob_type, correlation_id, causation_id, traceparent, blob,
            content_type, content_encoding, properties, schema, expires_at, state, created_at, owner)
         VALUES (:export_id, :publisher, :epoch, :blob_type, :correlation_id, :causation_id, :traceparent, :blob,
            :content_type, :content_encoding, :properties, :schema, :expires_at, 'planned', :now, :owner)",
    )?
    .execute(named_params! {
        ":export_id": plan.export_id.as_str(),
        ":publisher": plan.publisher,
        ":epoch": epoch,
        ":blob_type": plan.blob_type.as_str(),
        ":correlation_id": plan.correlation_id,
        ":causation_id": plan.causation_id,
        ":traceparent": plan.traceparent,
        ":blob": plan.blob.as_str(),
        ":content_type": plan.content_type,
        ":content_encoding": plan.content_encoding,
        ":properties": plan.properties.as_deref().map(RawValue::get),
        ":schema": plan.schema,
        ":expires_at": plan.expires_at.map(nanos),
        ":now": now,
        ":owner": owner,
    })?;
    let row = tx.last_insert_rowid();
    note(tx, row, now, State::Planned, None)?;
    tx.prepare_cached(
        "UPDATE export SET replaced_by = ?2 WHERE export_id = ?1 AND state = 'void' AND replaced_by IS NULL",
    )?
    .execute(params![plan.export_id.as_str(), row])?;
    Ok(row)
}

/// A further try at a plan whose file was never staged whole: what the caller says now counts.
fn update(tx: &Transaction<'_>, attempt: &Attempt, plan: &Plan, blob: &BlobPath, owner: &str) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "UPDATE export SET publisher = :publisher, correlation_id = :correlation_id, causation_id = :causation_id,
            traceparent = :traceparent, blob = :blob, content_type = :content_type,
            content_encoding = :content_encoding, properties = :properties, schema = :schema,
            expires_at = :expires_at, owner = :owner, attempt = :attempt WHERE row = :row",
    )?
    .execute(named_params! {
        ":publisher": plan.publisher,
        ":correlation_id": plan.correlation_id,
        ":causation_id": plan.causation_id,
        ":traceparent": plan.traceparent,
        ":blob": blob.as_str(),
        ":content_type": plan.content_type,
        ":content_encoding": plan.content_encoding,
        ":properties": plan.properties.as_deref().map(RawValue::get),
        ":schema": plan.schema,
        ":expires_at": plan.expires_at.map(nanos),
        ":owner": owner,
        ":attempt": attempt.number,
        ":row": attempt.row,
    })
    .map(|_| ())
}

fn take(tx: &Transaction<'_>, attempt: &Attempt, owner: &str) -> rusqlite::Result<()> {
    tx.prepare_cached("UPDATE export SET owner = ?2, attempt = ?3 WHERE row = ?1")?
        .execute(params![attempt.row, owner, attempt.number])
        .map(|_| ())
}

fn note(tx: &Transaction<'_>, row: i64, at: i64, state: State, note: Option<&str>) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT INTO history (export, at, state, note) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![row, at, state.as_str(), note])
        .map(|_| ())
}

fn owners_that_are_gone(tx: &Transaction<'_>, path: &Path) -> rusqlite::Result<Vec<String>> {
    let mut select =
        tx.prepare_cached("SELECT DISTINCT owner FROM export WHERE state = 'planned' AND owner NOT NULL")?;
    let owners: Vec<String> = select.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(owners.into_iter().filter(|id| owner::is_gone(path, id)).collect())
}

/// The row of a try, if the try is the latest one and the row is in one of these states.
fn latest(tx: &Transaction<'_>, attempt: &Attempt, states: &[State]) -> Result<ExportRow, JobError> {
    row_where(tx, "row = ?1 AND attempt = ?2", params![attempt.row, attempt.number])?
        .filter(|row| states.contains(&row.state))
        .ok_or_else(|| OutboxError::Overtaken { export_id: attempt.export_id.as_str().to_owned() }.into())
}

fn row_where(db: &Connection, clause: &str, values: impl rusqlite::Params) -> rusqlite::Result<Option<ExportRow>> {
    db.prepare_cached(&format!("SELECT {COLUMNS} FROM export WHERE {clause}"))?.query_row(values, export_row).optional()
}

/// Reads a row of [`COLUMNS`].
fn export_row(row: &Row<'_>) -> rusqlite::Result<ExportRow> {
    let properties: Option<String> = row.get(13)?;
    Ok(ExportRow {
        row: row.get(0)?,
        export_id: ExportId::new(row.get::<_, String>(1)?).map_err(|error| unreadable(1, error))?,
        publisher: row.get(2)?,
        epoch: row.get(3)?,
        blob_type: row.get(4)?,
        sequence: unsigned(row, 5)?,
        correlation_id: row.get(6)?,
        causation_id: row.get(7)?,
        traceparent: row.get(8)?,
        blob: row.get(9)?,
        uri: row.get(10)?,
        content_type: row.get(11)?,
        content_encoding: row.get(12)?,
        properties: properties.map(RawValue::from_string).transpose().map_err(|error| unreadable(13, error))?,
        schema: row.get(14)?,
        rows: unsigned(row, 15)?,
        bytes: unsigned(row, 16)?,
        plain_bytes: unsigned(row, 17)?,
        plain_sha256: row.get(18)?,
        sha256: row.get(19)?,
        state: parsed(row, 20)?,
        reason: row.get(21)?,
        replaced_by: row.get(22)?,
        message_id: row.get(23)?,
        created_at: instant(row, 24)?.unwrap_or(OffsetDateTime::UNIX_EPOCH),
        uploaded_at: instant(row, 25)?,
        sent_at: instant(row, 26)?,
        expires_at: instant(row, 27)?,
        tries: unsigned(row, 28)?.unwrap_or(0),
        due_at: instant(row, 29)?,
        last_error: row.get(30)?,
        attempt: row.get(31)?,
    })
}

fn parsed<T: FromStr>(row: &Row<'_>, index: usize) -> rusqlite::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    row.get_ref(index)?.as_str()?.parse().map_err(|error| unreadable(index, error))
}

fn unreadable(column: usize, error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, Box::new(error))
}

fn unsigned(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<u64>> {
    Ok(row.get::<_, Option<i64>>(index)?.map(i64::unsigned_abs))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Nanoseconds since 1970, which sort and fit until 2262.
fn nanos(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

fn instant(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<OffsetDateTime>> {
    let nanos: Option<i64> = row.get(index)?;
    nanos
        .map(|nanos| OffsetDateTime::from_unix_timestamp_nanos(i128::from(nanos)))
        .transpose()
        .map_err(|error| unreadable(index, error))
}

/// What a job met: the database, or a rule of the outbox.
enum JobError {
    Sqlite(rusqlite::Error),
    Rule(OutboxError),
}

impl From<rusqlite::Error> for JobError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<OutboxError> for JobError {
    fn from(error: OutboxError) -> Self {
        Self::Rule(error)
    }
}

fn unavailable(error: StoreError) -> OutboxError {
    match error {
        StoreError::Sqlite { source: rusqlite::Error::FromSqlConversionFailure(..), .. } => {
            OutboxError::Unreadable(Box::new(error))
        }
        error => OutboxError::Unavailable(Box::new(error)),
    }
}

async fn checked<T: Send + 'static>(
    db: &Sqlite,
    job: impl FnOnce(&Transaction<'_>) -> Result<T, JobError> + Send + 'static,
) -> Result<T, OutboxError> {
    db.write(job).await.map_err(unavailable)?.map_err(|error| match error {
        JobError::Sqlite(error) => unavailable(db.error(error)),
        JobError::Rule(error) => error,
    })
}

async fn run<T: Send + 'static>(
    db: &Sqlite,
    job: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, OutboxError> {
    checked(db, move |tx| Ok(job(tx)?)).await
}

async fn read<T: Send + 'static>(
    db: &Sqlite,
    job: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
) -> Result<T, OutboxError> {
    db.read(job).await.map_err(unavailable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::conformance;

    #[tokio::test]
    async fn it_keeps_the_contract_of_an_outbox() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &'static str| {
            let path = folder.path().join(name);
            async move { SqliteOutbox::open(&path, SqliteOutboxOptions::default()).await.unwrap() }
        };
        conformance::exercise(open).await;
    }

    #[tokio::test]
    async fn what_was_said_is_there_after_it_is_opened_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.sqlite");
        let outbox = SqliteOutbox::open(&path, SqliteOutboxOptions::default()).await.unwrap();
        let epoch = outbox.epoch().to_owned();
        assert_eq!(Uuid::parse_str(&epoch).unwrap().get_version_num(), 7);
        conformance::upload(&outbox, "x", "T").await;
        outbox.close().await;
        assert!(matches!(outbox.due(1).await, Err(OutboxError::Unavailable(_))));
        drop(outbox);
        let outbox = SqliteOutbox::open(&path, SqliteOutboxOptions::default()).await.unwrap();
        assert_eq!(outbox.epoch(), epoch);
        assert_eq!(outbox.due(10).await.unwrap().len(), 1);
        let next = conformance::begin(&outbox, "y", "T").await;
        assert_eq!(outbox.number(&next, conformance::facts()).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn calls_that_wait_together_share_commits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.sqlite");
        let outbox = SqliteOutbox::open(&path, SqliteOutboxOptions::default()).await.unwrap();
        let before = outbox.db.stats();
        let ids: Vec<String> = (0..100).map(|n| format!("x{n}")).collect();
        futures::future::join_all(ids.iter().map(|id| conformance::begin(&outbox, id, "T"))).await;
        let after = outbox.db.stats();
        assert_eq!(after.jobs - before.jobs, 100);
        assert!(after.commits - before.commits < 50, "{} commits", after.commits - before.commits);
    }

    #[tokio::test]
    async fn a_file_that_is_no_outbox_is_refused_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.sqlite");
        std::fs::write(&path, "hello").unwrap();
        let error = SqliteOutbox::open(&path, SqliteOutboxOptions::default()).await.unwrap_err();
        let text = crate::relay::chain(&error);
        assert!(text.contains("outbox.sqlite: damaged or no SQLite file"), "{text}");
    }
}
