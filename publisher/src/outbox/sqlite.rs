//! The outbox in one SQLite file: no server, many processes on one machine.

use std::{fmt, path::Path, str::FromStr, sync::Arc};

use futures::future::FutureExt;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use uuid::Uuid;
use waybill_contracts::{BlobPath, BlobType, ExportId, Snapshot};
use waybill_store::{
    Migration, Schema, Sqlite, SqliteOptions, StoreError,
    rusqlite::{
        self, Connection, OptionalExtension, Row, ToSql, Transaction, named_params, params, params_from_iter,
        types::Type,
    },
    signed,
};

use super::{
    Attempt, Counts, ExportRow, FileFacts, FullExport, HistoryEntry, ListFilter, ManifestRange, NamedTo, Outbox,
    OutboxError, OverExport, PARTS, Paused, Plan, Planned, RelayLock, State, TERMS_LOOKED_AT,
    model::paused_until,
    named, not_again, not_below_0, overtaken,
    owner::{self, Owner},
    refuse_newer, refuse_older,
};
use crate::tasks::blocking;

const SCHEMA: Schema = Schema {
    // `WBOX` in ASCII.
    application_id: 0x5742_4f58,
    name: "outbox",
    migrations: &[
        Migration { name: "exports, their numbers and history", sql: include_str!("sqlite_0001.sql") },
        Migration { name: "manifests name what is sent", sql: include_str!("sqlite_0002.sql") },
        Migration { name: "parts of full exports", sql: include_str!("sqlite_0003.sql") },
        Migration { name: "how many are in each state", sql: include_str!("sqlite_0004.sql") },
        Migration { name: "what is not known is not told", sql: include_str!("sqlite_0005.sql") },
    ],
    shared_with_user: false,
};

const COLUMNS: &str = "row, export_id, publisher, epoch, blob_type, sequence, correlation_id, causation_id, traceparent, \
    blob, uri, content_type, content_encoding, properties, schema, rows, bytes, plain_bytes, plain_sha256, sha256, state, \
    reason, replaced_by, message_id, created_at, uploaded_at, sent_at, expires_at, tries, due_at, last_error, attempt, \
    snapshot_id, snapshot_part, snapshot_of, snapshot_as_of";
/// So many.
const COLUMNS_COUNT: usize = 36;

/// A state in words of which SQLite knows that the index of what is not sent has all of it.
const UNSENT: &str = "state <> 'sent' AND state = ?";

/// The schema version now: another process may have brought it further.
const VERSION: &str = "(SELECT user_version FROM pragma_user_version)";

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

    /// Opens an outbox that is there: to look. Its schema stays as it is.
    ///
    /// # Errors
    /// As [`SqliteOutbox::open`], and [`OutboxError::Older`].
    pub async fn open_existing(path: &Path, options: SqliteOutboxOptions) -> Result<Self, OutboxError> {
        let file = path.to_owned();
        // What is no outbox, or not one yet, is told when it is opened.
        let version = blocking(move || SCHEMA.look(&file)).await;
        version.map_or(Ok(()), |version| refuse_older(version, &SCHEMA))?;
        Self::open(path, options).await
    }

    /// The file's path.
    #[must_use]
    pub fn shown(&self) -> String {
        self.db.path().display().to_string()
    }

    /// Writes what a publisher writes, and takes it back: whether the file can be written.
    ///
    /// # Errors
    /// Why not.
    pub async fn try_writing(&self) -> Result<(), OutboxError> {
        // An error of the job takes back what it wrote.
        let tried = self.db.write(|tx| {
            let written =
                tx.execute("INSERT INTO sequence (publisher, blob_type, last) VALUES ('waybill doctor', '-', 0)", []);
            Err::<(), _>(written.err())
        });
        match tried.await.map_err(unavailable)? {
            Ok(()) | Err(None) => Ok(()),
            Err(Some(error)) => Err(unavailable(self.db.error(error))),
        }
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

    async fn begin_epoch(&self) -> Result<String, OutboxError> {
        let (now, epoch) = (self.now(), Uuid::now_v7().to_string());
        run(&self.db, move |tx| {
            tx.execute("UPDATE outbox SET epoch = ?1, created_at = ?2", params![epoch, now])?;
            tx.execute("DELETE FROM sequence", [])?;
            Ok(epoch)
        })
        .await
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
        let (now, attempt, epoch) = (self.now(), attempt.clone(), Arc::clone(&self.epoch));
        checked(&self.db, move |tx| {
            let row = latest(tx, &attempt, &[State::Planned])?;
            if let Some(number) = row.sequence {
                return Ok(number);
            }
            same_epoch(tx, &epoch)?;
            if let Some(Snapshot { id, part, .. }) = &facts.snapshot {
                let taken = tx
                    .prepare_cached(
                        "SELECT EXISTS (SELECT 1 FROM export WHERE publisher = ?1 AND blob_type = ?2
                             AND snapshot_id = ?3 AND snapshot_part = ?4)",
                    )?
                    .query_row(params![row.publisher, row.blob_type, id, signed(*part)], |row| row.get(0))?;
                if taken {
                    return Err(overtaken(&attempt).into());
                }
            }
            let number: i64 = tx
                .prepare_cached(
                    "INSERT INTO sequence (publisher, blob_type, last) VALUES (?1, ?2, 1)
                     ON CONFLICT (publisher, blob_type) DO UPDATE SET last = last + 1 RETURNING last",
                )?
                .query_row(params![row.publisher, row.blob_type], |row| row.get(0))?;
            tx.prepare_cached(
                "UPDATE export SET epoch = :epoch, sequence = :sequence, uri = :uri, rows = :rows, bytes = :bytes,
                 plain_bytes = :plain_bytes, plain_sha256 = :plain_sha256, sha256 = :sha256, snapshot_id = :snapshot_id,
                 snapshot_part = :snapshot_part, snapshot_of = :snapshot_of, snapshot_as_of = :snapshot_as_of
                 WHERE row = :row",
            )?
            .execute(named_params! {
                ":epoch": &*epoch,
                ":sequence": number,
                ":uri": facts.uri,
                ":rows": facts.rows.map(signed),
                ":bytes": signed(facts.bytes),
                ":plain_bytes": signed(facts.plain_bytes),
                ":plain_sha256": facts.plain_sha256,
                ":sha256": facts.sha256,
                ":snapshot_id": facts.snapshot.as_ref().map(|of| &of.id),
                ":snapshot_part": facts.snapshot.as_ref().map(|of| signed(of.part)),
                ":snapshot_of": facts.snapshot.as_ref().map(|of| signed(of.of)),
                ":snapshot_as_of": facts.snapshot.as_ref().map(|of| signed(of.as_of)),
                ":row": attempt.row,
            })?;
            note(tx, attempt.row, now, State::Planned, Some(&format!("number {number}")))?;
            Ok(number.unsigned_abs())
        })
        .await
    }

    async fn last_number(&self, publisher: &str, blob_type: &BlobType) -> Result<u64, OutboxError> {
        let (publisher, blob_type, epoch) = (publisher.to_owned(), blob_type.clone(), Arc::clone(&self.epoch));
        checked(&self.db, move |tx| {
            same_epoch(tx, &epoch)?;
            let last = tx
                .prepare_cached("SELECT last FROM sequence WHERE publisher = ?1 AND blob_type = ?2")?
                .query_row(params![publisher, blob_type.as_str()], |row| unsigned(row, 0))
                .optional()?;
            Ok(last.flatten().unwrap_or_default())
        })
        .await
    }

    async fn parts(
        &self,
        publisher: &str,
        blob_type: &BlobType,
        snapshot: &str,
    ) -> Result<Vec<ExportRow>, OutboxError> {
        let (publisher, blob_type, snapshot) = (publisher.to_owned(), blob_type.clone(), snapshot.to_owned());
        read(&self.db, move |db| {
            db.prepare_cached(&format!("SELECT {COLUMNS} FROM export WHERE {PARTS}"))?
                .query_map(params![publisher, blob_type.as_str(), snapshot], export_row)?
                .collect()
        })
        .await
    }

    async fn full_exports(
        &self,
        publisher: &str,
        blob_type: &BlobType,
        most: u32,
    ) -> Result<Vec<FullExport>, OutboxError> {
        let (publisher, blob_type) = (publisher.to_owned(), blob_type.clone());
        read(&self.db, move |db| {
            let number = |row: &Row<'_>, at| Ok::<_, rusqlite::Error>(unsigned(row, at)?.unwrap_or_default());
            let full_export = |row: &Row<'_>| {
                Ok(FullExport {
                    snapshot: row.get(0)?,
                    as_of: number(row, 1)?,
                    of: number(row, 2)?,
                    there: number(row, 3)?,
                    sent: number(row, 4)?,
                    last: number(row, 5)?,
                })
            };
            db.prepare_cached(named::FULL_EXPORTS)?
                .query_map(params![publisher, blob_type.as_str(), most], full_export)?
                .collect()
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
                "UPDATE export SET state = 'uploaded', uploaded_at = ?2, message_id = export_id, owner = NULL,
                     due_at = iif(blob_type IN (SELECT blob_type FROM paused), ?3, ?2)
                 WHERE row = ?1",
            )?
            .execute(params![attempt.row, now, nanos(paused_until())])?;
            note(tx, attempt.row, now, State::Uploaded, None)?;
            latest(tx, &attempt, &[State::Uploaded])
        })
        .await
    }

    async fn void(&self, attempt: &Attempt, reason: &str) -> Result<(), OutboxError> {
        let (now, attempt, reason) = (self.now(), attempt.clone(), reason.to_owned());
        checked(&self.db, move |tx| {
            let row = latest(tx, &attempt, &[State::Planned, State::Uploaded])?;
            let (state, why) = if row.sent_at.is_none() { (State::Void, Some(&reason)) } else { (State::Sent, None) };
            tx.prepare_cached("UPDATE export SET state = ?2, reason = ?3, owner = NULL, due_at = NULL WHERE row = ?1")?
                .execute(params![attempt.row, state.as_str(), why])?;
            Ok(note(tx, attempt.row, now, state, Some(&reason))?)
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
        Ok(locked.map(|file| {
            // The file's lock is ours as long as it is open.
            let (outbox, file) = (self.clone(), Arc::new(file));
            RelayLock::new(move |most| {
                let (outbox, file) = (outbox.clone(), Arc::clone(&file));
                async move {
                    let due = outbox.due(most).await;
                    drop(file);
                    due.map(Some)
                }
                .boxed()
            })
        }))
    }

    async fn due(&self, most: u32) -> Result<Vec<ExportRow>, OutboxError> {
        let now = self.now();
        let (due, version) = read(&self.db, move |db| {
            let sql = format!(
                "SELECT {COLUMNS} FROM export WHERE state = 'uploaded' AND due_at <= ?1 ORDER BY due_at, row LIMIT ?2"
            );
            let due = db.prepare_cached(&sql)?.query_map(params![now, most], export_row)?.collect::<Result<_, _>>()?;
            // After the rows: what a newer version wrote is there no earlier than its schema.
            let version = db.prepare_cached(&format!("SELECT {VERSION}"))?.query_row([], |row| row.get(0))?;
            Ok((due, version))
        })
        .await?;
        refuse_newer(version, &SCHEMA).map(|()| due)
    }

    async fn sent(&self, rows: &[i64]) -> Result<(), OutboxError> {
        let (now, rows) = (self.now(), rows.to_vec());
        run(&self.db, move |tx| {
            // A message may have been on its way when a person made its export void: the broker has it.
            let mut update = tx.prepare_cached(
                "UPDATE export SET state = 'sent', sent_at = ?2, due_at = NULL, last_error = NULL, reason = NULL
                 WHERE row = ?1
                     AND (state = 'uploaded' OR state = 'void' AND uploaded_at IS NOT NULL AND replaced_by IS NULL)",
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
                "UPDATE export SET tries = tries + (?3 IS NOT NULL), last_error = ?2,
                     due_at = iif(due_at = ?4, due_at, coalesce(?3, due_at))
                 WHERE row = ?1 AND state = 'uploaded'",
            )?;
            for row in rows {
                update.execute(params![row, error, due_at, nanos(paused_until())])?;
            }
            Ok(())
        })
        .await
    }

    async fn resend(&self, row: i64, why: &str) -> Result<ExportRow, OutboxError> {
        let (now, note_of) = (self.now(), format!("to be sent again: {why}"));
        checked(&self.db, move |tx| {
            let again = tx
                .prepare_cached(
                    "UPDATE export SET state = 'uploaded', tries = 0, last_error = NULL,
                         due_at = iif(blob_type IN (SELECT blob_type FROM paused), ?3, ?2),
                         message_id = iif(state = 'sent', export_id || '.' || (resent + 1), message_id),
                         resent = resent + (state = 'sent'), resent_at = iif(state = 'sent', ?2, resent_at)
                     WHERE row = ?1 AND state IN ('uploaded', 'sent') AND (expires_at IS NULL OR expires_at > ?2)",
                )?
                .execute(params![row, now, nanos(paused_until())])?;
            let known = row_where(tx, "row = ?1", params![row])?;
            match known {
                Some(known) if again == 1 => {
                    note(tx, row, now, State::Uploaded, Some(&note_of))?;
                    Ok(known)
                }
                known => Err(not_again(known, row).into()),
            }
        })
        .await
    }

    async fn pause(&self, blob_type: &str, why: &str) -> Result<(), OutboxError> {
        let (now, blob_type, why) = (self.now(), blob_type.to_owned(), why.to_owned());
        run(&self.db, move |tx| {
            tx.execute(
                "INSERT INTO paused (blob_type, since, why) VALUES (?1, ?2, ?3)
                 ON CONFLICT (blob_type) DO UPDATE SET why = excluded.why",
                params![blob_type, now, why],
            )?;
            let sql = "UPDATE export SET due_at = ?2 WHERE state = 'uploaded' AND blob_type = ?1";
            tx.execute(sql, params![blob_type, nanos(paused_until())]).map(drop)
        })
        .await
    }

    async fn resume(&self, blob_type: &str) -> Result<bool, OutboxError> {
        let (now, blob_type) = (self.now(), blob_type.to_owned());
        run(&self.db, move |tx| {
            let was = tx.execute("DELETE FROM paused WHERE blob_type = ?1", [&blob_type])? > 0;
            let sql = "UPDATE export SET due_at = ?2 WHERE state = 'uploaded' AND blob_type = ?1 AND due_at = ?3";
            tx.execute(sql, params![blob_type, now, nanos(paused_until())])?;
            Ok(was)
        })
        .await
    }

    async fn paused(&self) -> Result<Vec<Paused>, OutboxError> {
        read(&self.db, |db| {
            let mut paused = db.prepare_cached("SELECT blob_type, since, why FROM paused ORDER BY blob_type")?;
            let rows = paused.query_map([], |row| {
                let since = instant(row, 1)?.unwrap_or(OffsetDateTime::UNIX_EPOCH);
                Ok(Paused { blob_type: row.get(0)?, since, why: row.get(2)? })
            })?;
            rows.collect()
        })
        .await
    }

    async fn manifested_at(&self) -> Result<OffsetDateTime, OutboxError> {
        read(&self.db, |db| {
            db.prepare_cached("SELECT coalesce(manifested_at, created_at) FROM outbox")?
                .query_row([], |row| Ok(instant(row, 0)?.unwrap_or(OffsetDateTime::UNIX_EPOCH)))
        })
        .await
    }

    async fn named_to(&self, publisher: &str, epoch: &str) -> Result<Vec<NamedTo>, OutboxError> {
        let (publisher, epoch) = (publisher.to_owned(), epoch.to_owned());
        read(&self.db, move |db| {
            let named = |row: &Row<'_>| {
                let [up_to, unsent] = [unsigned(row, 1)?, unsigned(row, 2)?].map(Option::unwrap_or_default);
                Ok(NamedTo { blob_type: row.get(0)?, up_to, unsent })
            };
            db.prepare_cached(named::NAMED_TO)?.query_map(params![publisher, epoch], named)?.collect()
        })
        .await
    }

    async fn plan_manifests(&self, most: u32) -> Result<Vec<ManifestRange>, OutboxError> {
        let now = self.now();
        run(&self.db, move |tx| {
            tx.prepare_cached("UPDATE outbox SET manifested_at = ?1")?.execute([now])?;
            let next: Vec<ManifestRange> = tx
                .prepare_cached(named::NEXT)?
                .query_map([most], |row| {
                    let export_id = ExportId::random();
                    let (publisher, epoch, blob_type) = (row.get(0)?, row.get(1)?, row.get(2)?);
                    let [first, last] = [unsigned(row, 3)?, unsigned(row, 4)?].map(Option::unwrap_or_default);
                    Ok(ManifestRange { export_id, publisher, epoch, blob_type, first, last })
                })?
                .collect::<rusqlite::Result<_>>()?;
            for range in named::worth_naming(next) {
                let ManifestRange { export_id, publisher, epoch, blob_type, first, last } = range;
                let (first, last) = (signed(first), signed(last));
                tx.prepare_cached(named::FIX)?.execute(params![
                    export_id.as_str(),
                    publisher,
                    epoch,
                    blob_type,
                    first,
                    last
                ])?;
                tx.prepare_cached(named::MOVE)?.execute(params![publisher, epoch, blob_type, last])?;
            }
            tx.prepare_cached(&named::open())?.query_map([], manifest_range)?.collect()
        })
        .await
    }

    async fn named(&self, range: &ManifestRange, from: u64, most: u32) -> Result<Vec<ExportRow>, OutboxError> {
        let range = range.clone();
        read(&self.db, move |db| {
            let ManifestRange { publisher, epoch, blob_type, first, last, .. } = &range;
            let (from, last) = (signed(from.max(*first)), signed(*last));
            db.prepare_cached(&named::members(COLUMNS))?
                .query_map(params![publisher, epoch, blob_type, from, last, most], export_row)?
                .collect()
        })
        .await
    }

    async fn over(&self, after: i64, most: u32) -> Result<Vec<OverExport>, OutboxError> {
        let now = self.now();
        read(&self.db, move |db| {
            let read = |row: &Row<'_>| Ok(OverExport { row: export_row(row)?, is_named: row.get(COLUMNS_COUNT)? });
            db.prepare_cached(&named::over(COLUMNS))?.query_map(params![after, now, most], read)?.collect()
        })
        .await
    }

    async fn not_deleted(&self, row: i64, error: &str, due_at: OffsetDateTime) -> Result<(), OutboxError> {
        let (error, due_at) = (error.to_owned(), nanos(due_at));
        run(&self.db, move |tx| {
            tx.prepare_cached(
                "UPDATE export SET tries = iif(due_at IS NULL, 1, tries + 1), last_error = ?2, due_at = ?3
                 WHERE row = ?1 AND state IN ('sent', 'void')",
            )?
            .execute(params![row, error, due_at])
            .map(drop)
        })
        .await
    }

    async fn forget(&self, rows: &[i64]) -> Result<u64, OutboxError> {
        let (now, rows) = (self.now(), rows.to_vec());
        run(&self.db, move |tx| {
            let mut over = tx.prepare_cached(
                "SELECT export_id, state FROM export WHERE row = ?1 AND state IN ('sent', 'void') AND expires_at <= ?2",
            )?;
            let mut forgotten = 0;
            for row in rows {
                let known = |row: &Row<'_>| Ok((row.get::<_, String>(0)?, parsed::<State>(row, 1)?));
                let Some((export_id, state)) = over.query_row(params![row, now], known).optional()? else { continue };
                if state == State::Sent {
                    tx.prepare_cached("DELETE FROM manifest WHERE export_id = ?1")?.execute([export_id])?;
                }
                tx.prepare_cached("UPDATE export SET replaced_by = NULL WHERE replaced_by = ?1")?.execute([row])?;
                tx.prepare_cached("DELETE FROM history WHERE export = ?1")?.execute([row])?;
                tx.prepare_cached("DELETE FROM export WHERE row = ?1")?.execute([row])?;
                forgotten += 1;
            }
            Ok(forgotten)
        })
        .await
    }

    async fn counts(&self) -> Result<Counts, OutboxError> {
        read(&self.db, |db| {
            let mut counts = Counts::default();
            let mut states = db.prepare_cached("SELECT state, exports FROM tally")?;
            let mut rows = states.query([])?;
            while let Some(row) = rows.next()? {
                let count = not_below_0(row.get(1)?);
                match parsed(row, 0)? {
                    State::Planned => counts.planned = count,
                    State::Uploaded => counts.uploaded = count,
                    State::Sent => counts.sent = count,
                    State::Void => counts.void = count,
                }
            }
            // Those that wait longest are found in an index; the terms of all are not.
            let sql = format!(
                "SELECT min(since), min(expires_at) FROM (
                     SELECT coalesce(resent_at, uploaded_at) AS since, expires_at FROM export WHERE state = 'uploaded'
                     ORDER BY coalesce(resent_at, uploaded_at) LIMIT {TERMS_LOOKED_AT})"
            );
            (counts.waiting_since, counts.waiting_until) =
                db.prepare_cached(&sql)?.query_row([], |row| Ok((instant(row, 0)?, instant(row, 1)?)))?;
            Ok(counts)
        })
        .await
    }

    async fn list(&self, filter: &ListFilter) -> Result<Vec<ExportRow>, OutboxError> {
        let filter = filter.clone();
        read(&self.db, move |db| {
            let mut wanted: Vec<(&str, Box<dyn ToSql>)> = Vec::new();
            if let Some(state) = filter.state {
                wanted.push((if state == State::Sent { "state = ?" } else { UNSENT }, Box::new(state.as_str())));
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

/// Whether the outbox still is in the epoch in which we opened it, and in a schema that we know.
fn same_epoch(tx: &Transaction<'_>, epoch: &str) -> Result<(), JobError> {
    let (current, version): (String, i64) = tx
        .prepare_cached(&format!("SELECT epoch, {VERSION} FROM outbox"))?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    refuse_newer(version, &SCHEMA)?;
    if current == epoch { Ok(()) } else { Err(OutboxError::OtherEpoch.into()) }
}

/// The row of a try, if the try is the latest one and the row is in one of these states.
fn latest(tx: &Transaction<'_>, attempt: &Attempt, states: &[State]) -> Result<ExportRow, JobError> {
    row_where(tx, "row = ?1 AND attempt = ?2", params![attempt.row, attempt.number])?
        .filter(|row| states.contains(&row.state))
        .ok_or_else(|| overtaken(attempt).into())
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
        due_at: instant(row, 29)?.filter(|at| *at < paused_until()),
        last_error: row.get(30)?,
        attempt: row.get(31)?,
        snapshot: snapshot(row)?,
    })
}

fn snapshot(row: &Row<'_>) -> rusqlite::Result<Option<Snapshot>> {
    let Some(id) = row.get(32)? else { return Ok(None) };
    let [part, of, as_of] = [unsigned(row, 33)?, unsigned(row, 34)?, unsigned(row, 35)?].map(Option::unwrap_or_default);
    Ok(Some(Snapshot { id, part, of, as_of }))
}

fn manifest_range(row: &Row<'_>) -> rusqlite::Result<ManifestRange> {
    Ok(ManifestRange {
        export_id: ExportId::new(row.get::<_, String>(0)?).map_err(|error| unreadable(0, error))?,
        publisher: row.get(1)?,
        epoch: row.get(2)?,
        blob_type: row.get(3)?,
        first: unsigned(row, 4)?.unwrap_or_default(),
        last: unsigned(row, 5)?.unwrap_or_default(),
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

type JobError = super::JobError<rusqlite::Error>;

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
        JobError::Database(error) => unavailable(db.error(error)),
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
    async fn an_outbox_that_a_newer_version_changed_is_not_sent_from_and_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.sqlite");
        let outbox = SqliteOutbox::open(&path, SqliteOutboxOptions::default()).await.unwrap();
        let newer = i64::from(SCHEMA.known()) + 1;
        let upgrade = async {
            Connection::open(&path).unwrap().pragma_update(None, "user_version", newer).unwrap();
        };
        conformance::refuses_what_is_newer(&outbox, upgrade).await;
        outbox.close().await;
        let error = SqliteOutbox::open(&path, SqliteOutboxOptions::default()).await.unwrap_err();
        let text = crate::relay::chain(&error);
        assert!(text.contains(&format!("schema version {newer}")) && text.contains("newer"), "{text}");
    }

    #[tokio::test]
    async fn an_outbox_of_the_first_schema_is_counted_when_it_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.sqlite");
        let earlier = Connection::open(&path).unwrap();
        earlier.execute_batch(SCHEMA.migrations[0].sql).unwrap();
        let mark = format!("PRAGMA application_id = {}; PRAGMA user_version = 1", SCHEMA.application_id);
        earlier.execute_batch(&mark).unwrap();
        earlier
            .execute_batch(
                "INSERT INTO export (export_id, publisher, epoch, blob_type, correlation_id, blob, content_type, state, created_at)
                 VALUES ('a', 'p', 'e', 'T', 'c', 'b', 't', 'sent', 0), ('b', 'p', 'e', 'T', 'c', 'b', 't', 'void', 0)",
            )
            .unwrap();
        drop(earlier);
        // Who only looks leaves it as it is.
        for _ in 0..2 {
            let looked = SqliteOutbox::open_existing(&path, SqliteOutboxOptions::default()).await;
            assert!(matches!(looked, Err(OutboxError::Older { found: 1, .. })), "{looked:?}");
        }
        let outbox = SqliteOutbox::open(&path, SqliteOutboxOptions::default()).await.unwrap();
        SqliteOutbox::open_existing(&path, SqliteOutboxOptions::default()).await.unwrap();
        let counts = outbox.counts().await.unwrap();
        assert_eq!((counts.sent, counts.void, counts.planned, counts.uploaded), (1, 1, 0, 0));
        conformance::begin(&outbox, "c", "T").await;
        assert_eq!(outbox.counts().await.unwrap().planned, 1);
    }

    #[tokio::test]
    async fn what_is_tried_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.sqlite");
        let outbox = SqliteOutbox::open(&path, SqliteOutboxOptions::default()).await.unwrap();
        conformance::takes_back_what_it_tries(&outbox, outbox.try_writing()).await;
        Connection::open(&path).unwrap().execute_batch("DROP TABLE sequence").unwrap();
        let text = crate::relay::chain(&outbox.try_writing().await.unwrap_err());
        assert!(text.contains("sequence"), "{text}");
    }

    /// They would delete from the change log what nobody can prove was sent.
    #[tokio::test]
    async fn programs_that_know_the_outbox_of_schema_4_let_go_of_it() {
        const EARLIER: Schema = Schema { migrations: SCHEMA.migrations.split_at(4).0, ..SCHEMA };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.sqlite");
        drop(Sqlite::open(&path, &EARLIER, SqliteOptions::default()).unwrap());
        let outbox = SqliteOutbox::open(&path, SqliteOutboxOptions::default()).await.unwrap();
        conformance::begin(&outbox, "a", "T").await;
        let version = Connection::open(&path).unwrap().query_row(&format!("SELECT {VERSION}"), [], |row| row.get(0));
        let noticed = refuse_newer(version.unwrap(), &EARLIER);
        assert!(matches!(noticed, Err(OutboxError::Newer { .. })), "{noticed:?}");
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
