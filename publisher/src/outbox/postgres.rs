//! The outbox in a schema of a PostgreSQL database: beside a service's change log, or for publishers on several machines.
//!
//! Each opened outbox has a session with a lock of its own number, which says that its plans are not abandoned; the relay has
//! another one.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use futures::future::FutureExt;
use serde_json::value::RawValue;
use time::OffsetDateTime;
use tokio::{sync::Mutex, time::timeout};
use uuid::Uuid;
use waybill_contracts::{BlobPath, BlobType, ExportId, Snapshot};
use waybill_store::{
    Migration, Postgres, PostgresConnection, PostgresError, PostgresTransaction, Schema, lock_number, signed,
    tokio_postgres::{Error, Row, types::ToSql},
};

use super::{
    Attempt, Counts, ExportRow, FileFacts, FullExport, HistoryEntry, ListFilter, ManifestRange, NamedTo, Outbox,
    OutboxError, OverExport, PARTS, Paused, Plan, Planned, RelayLock, State, TERMS_LOOKED_AT, model::paused_until,
    named, not_again, not_below_0, overtaken, refuse_newer, refuse_older,
};
use crate::session::{self, Lock, Session};

const SCHEMA: Schema = Schema {
    application_id: 0,
    name: "outbox",
    migrations: &[
        Migration { name: "exports, their numbers and history", sql: include_str!("postgres_0001.sql") },
        Migration { name: "manifests name what is sent", sql: include_str!("postgres_0002.sql") },
        Migration { name: "parts of full exports", sql: include_str!("postgres_0003.sql") },
        Migration { name: "how many are in each state", sql: include_str!("postgres_0004.sql") },
        Migration { name: "what is not known is not told", sql: include_str!("postgres_0005.sql") },
    ],
    shared_with_user: false,
};

/// The schema of the tables, unless another is named.
const SCHEMA_NAME: &str = "waybill_outbox";
/// Two are for locks.
const CONNECTIONS_MAX: usize = 10;
/// For one call; then its connection counts as dead.
const PATIENCE: Duration = Duration::from_secs(30);
/// For a statement in the session of the relay's lock: the server gives up one that it cannot reach within about 7 s, and another may
/// send then.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

const COLUMNS: &str = "row, export_id, publisher, epoch, blob_type, sequence, correlation_id, causation_id, traceparent, \
    blob, uri, content_type, content_encoding, properties, schema, rows, bytes, plain_bytes, plain_sha256, sha256, state, \
    reason, replaced_by, message_id, created_at, uploaded_at, sent_at, expires_at, tries, due_at, last_error, attempt, \
    snapshot_id, snapshot_part, snapshot_of, snapshot_as_of";
/// So many.
const COLUMNS_COUNT: usize = 36;

/// Whether the type of an export is paused. Nobody resumes it until the transaction ends: whoever resumes it then finds the row.
const PAUSED: &str = "EXISTS (SELECT FROM paused WHERE paused.blob_type = export.blob_type FOR SHARE)";

/// All that a publisher writes into its tables, to be rolled back.
const TRIAL: &str = "SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '15s';
    UPDATE outbox SET epoch = epoch;
    INSERT INTO sequence (publisher, blob_type, last) VALUES ('waybill doctor', 'waybill-doctor', 0);
    INSERT INTO export (export_id, publisher, epoch, blob_type, correlation_id, blob, content_type, state, created_at)
        VALUES ('waybill-doctor', 'waybill doctor', '-', 'waybill-doctor', '-', '-', '-', 'void', clock_timestamp());
    UPDATE export SET reason = 'tried' WHERE export_id = 'waybill-doctor';
    INSERT INTO history (export, at, state) SELECT row, clock_timestamp(), state FROM export WHERE export_id = 'waybill-doctor';
    INSERT INTO manifested (publisher, epoch, blob_type, up_to) VALUES ('waybill doctor', '-', 'waybill-doctor', 0);
    INSERT INTO manifest (export_id, publisher, epoch, blob_type, first, last)
        VALUES ('waybill-doctor', 'waybill doctor', '-', 'waybill-doctor', 1, 1);
    INSERT INTO paused (blob_type, since, why) VALUES ('waybill-doctor', clock_timestamp(), '-');
    DELETE FROM paused WHERE blob_type = 'waybill-doctor';
    DELETE FROM manifest WHERE export_id = 'waybill-doctor';
    DELETE FROM history WHERE export IN (SELECT row FROM export WHERE export_id = 'waybill-doctor');
    DELETE FROM export WHERE export_id = 'waybill-doctor'";

/// The schema version now: another process may have brought it further.
const VERSION: &str = "(SELECT version FROM _waybill_schema WHERE name = 'outbox')::bigint";

/// How a [`PostgresOutbox`] behaves.
#[derive(Debug, Clone)]
pub struct PostgresOutboxOptions {
    /// The schema that the tables have for themselves, made if it is not there; default `waybill_outbox`.
    pub schema: String,
    /// The clock.
    pub now: fn() -> OffsetDateTime,
}

impl Default for PostgresOutboxOptions {
    fn default() -> Self {
        Self { schema: SCHEMA_NAME.to_owned(), now: OffsetDateTime::now_utc }
    }
}

/// An outbox in a PostgreSQL database. Clones share its connections.
#[derive(Clone)]
pub struct PostgresOutbox {
    store: Postgres,
    epoch: Arc<str>,
    owner: Arc<Owner>,
    /// Of the one who sends.
    relay: Lock,
    options: PostgresOutboxOptions,
}

/// An opened outbox: dropping it makes its plans abandoned.
struct Owner {
    number: i64,
    session: Mutex<Option<Session>>,
}

type JobError = super::JobError<Error>;

impl PostgresOutbox {
    /// Connects, and makes or completes the tables. The address is `postgres://user:password@host:port/database`.
    ///
    /// # Errors
    /// [`OutboxError::Open`] for an address that cannot be used, and for a schema that is newer than this program or
    /// somebody else's; [`OutboxError::Unavailable`] when there is no answer.
    pub async fn open(address: &str, options: PostgresOutboxOptions) -> Result<Self, OutboxError> {
        let store = Self::at(address, &options)?;
        store.migrate(&SCHEMA).await.map_err(opening)?;
        let connection = store.connection().await.map_err(opening)?;
        let made = "INSERT INTO outbox (one, epoch, created_at) VALUES (1, $1, $2) ON CONFLICT DO NOTHING";
        let asked = async {
            connection.execute(made, &[&Uuid::now_v7().to_string(), &(options.now)()]).await?;
            connection.query_one("SELECT epoch FROM outbox", &[]).await
        };
        let epoch: String = asked.await.map_err(|error| opening(store.error(error)))?.get(0);
        drop(connection);
        let (number, _) = Uuid::new_v4().as_u64_pair();
        let owner = Owner { number: number.cast_signed(), session: Mutex::new(None) };
        let relay = Lock::new(lock_number(&format!("waybill relay {}", options.schema)));
        let outbox = Self { store, epoch: epoch.into(), owner: Arc::new(owner), relay, options };
        outbox.be_there().await?;
        Ok(outbox)
    }

    /// Connects to an outbox, if there is one: to look. Its schema stays as it is.
    ///
    /// # Errors
    /// As [`PostgresOutbox::open`], and [`OutboxError::Older`].
    pub async fn open_existing(address: &str, options: PostgresOutboxOptions) -> Result<Option<Self>, OutboxError> {
        let version = Self::at(address, &options)?.version(&SCHEMA).await.map_err(opening)?;
        let Some(version) = version else { return Ok(None) };
        refuse_older(version.into(), &SCHEMA)?;
        Self::open(address, options).await.map(Some)
    }

    fn at(address: &str, options: &PostgresOutboxOptions) -> Result<Postgres, OutboxError> {
        Postgres::new(address, &session::options("waybill outbox", &options.schema, CONNECTIONS_MAX)).map_err(opening)
    }

    /// `postgres://HOST:PORT/DATABASE, schema NAME`, without user or password.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{}, schema {}", self.store.shown(), self.options.schema)
    }

    /// Closes the connections. Clones fail from then on.
    pub async fn close(&self) {
        *self.owner.session.lock().await = None;
        self.store.close();
    }

    /// Holds the lock that says so. Where its session was lost, others may have taken our plans; our tries are overtaken then.
    async fn be_there(&self) -> Result<(), OutboxError> {
        let mut session = self.owner.session.lock().await;
        let alive = match &*session {
            Some(session) => session.is_alive().await,
            None => false,
        };
        if !alive {
            *session = Lock::new(self.owner.number).take(&self.store, PATIENCE).await.map_err(unavailable)?;
        }
        Ok(())
    }

    /// Writes what a publisher writes, and takes it back: whether its user may.
    ///
    /// # Errors
    /// What the database refuses, or that it does not answer.
    pub async fn try_writing(&self) -> Result<(), OutboxError> {
        let mut connection = self.store.connection().await.map_err(unavailable)?;
        let tried = async {
            let tx = connection.transaction().await?;
            tx.batch_execute(TRIAL).await?;
            tx.rollback().await
        };
        let tried = tried.await;
        // Whatever it met, nothing of it is to come back to others.
        drop(PostgresConnection::take(connection));
        tried.map_err(|error| unavailable(self.store.error(error)))
    }

    fn now(&self) -> OffsetDateTime {
        (self.options.now)()
    }

    /// Runs a job as one transaction. A connection that fails is not used again.
    async fn transaction<T>(
        &self,
        job: impl AsyncFnOnce(&PostgresTransaction<'_>) -> Result<T, JobError>,
    ) -> Result<T, OutboxError> {
        let mut connection = self.store.connection().await.map_err(unavailable)?;
        let done = timeout(PATIENCE, async {
            let tx = connection.transaction().await?;
            let value = job(&tx).await?;
            tx.commit().await?;
            Ok(value)
        });
        let problem = match done.await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(JobError::Rule(error))) => return Err(error),
            Ok(Err(JobError::Database(error))) => self.store.error(error),
            Err(_) => self.no_answer(),
        };
        drop(PostgresConnection::take(connection));
        Err(unavailable(problem))
    }

    /// Runs one statement, which is a transaction of its own.
    async fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, OutboxError> {
        let connection = self.store.connection().await.map_err(unavailable)?;
        let done = timeout(PATIENCE, async {
            let statement = connection.prepare_cached(sql).await?;
            connection.query(&statement, values).await
        });
        let problem = match done.await {
            Ok(Ok(rows)) => return Ok(rows),
            Ok(Err(error)) => self.store.error(error),
            Err(_) => self.no_answer(),
        };
        drop(PostgresConnection::take(connection));
        Err(unavailable(problem))
    }

    fn no_answer(&self) -> PostgresError {
        PostgresError::Unreachable { shown: self.store.shown().to_owned(), problem: "no answer in time".to_owned() }
    }
}

impl PostgresOutbox {
    /// The row of a new plan, unless there is one of its export that is not void.
    async fn insert(&self, plan: &Plan) -> Result<Option<i64>, OutboxError> {
        let sql = "WITH new AS (
                INSERT INTO export (export_id, publisher, epoch, blob_type, correlation_id, causation_id, traceparent, blob,
                    content_type, content_encoding, properties, schema, expires_at, state, created_at, owner)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'planned', $14, $15)
                ON CONFLICT (export_id) WHERE state <> 'void' DO NOTHING RETURNING row),
            noted AS (INSERT INTO history (export, at, state) SELECT row, $14, 'planned' FROM new),
            replaced AS (
                UPDATE export SET replaced_by = new.row FROM new
                WHERE export_id = $1 AND state = 'void' AND replaced_by IS NULL)
            SELECT row FROM new";
        let values: &[&(dyn ToSql + Sync)] = &[
            &plan.export_id.as_str(),
            &plan.publisher,
            &&*self.epoch,
            &plan.blob_type.as_str(),
            &plan.correlation_id,
            &plan.causation_id,
            &plan.traceparent,
            &plan.blob.as_str(),
            &plan.content_type,
            &plan.content_encoding,
            &plan.properties.as_deref().map(RawValue::get),
            &plan.schema,
            &plan.expires_at,
            &self.now(),
            &self.owner.number,
        ];
        Ok(self.query(sql, values).await?.first().map(|row| row.get(0)))
    }

    /// A further try at an export that is known; `None` when it is void meanwhile.
    async fn plan_known(&self, plan: &Plan) -> Result<Option<Planned>, OutboxError> {
        let (now, owner) = (self.now(), self.owner.number);
        self.transaction(async |tx| {
            let wanted = "export_id = $1 AND state <> 'void' FOR UPDATE";
            let Some(known) = row_where(tx, wanted, &[&plan.export_id.as_str()]).await? else { return Ok(None) };
            if known.blob_type != plan.blob_type.as_str() {
                let export_id = plan.export_id.as_str().to_owned();
                return Err(OutboxError::IdInUse { export_id, blob_type: known.blob_type }.into());
            }
            if known.state != State::Planned {
                return Ok(Some(Planned::Exported(Box::new(known))));
            }
            let attempt = Attempt { row: known.row, number: known.attempt + 1, export_id: plan.export_id.clone() };
            if known.sequence.is_some() {
                take(tx, &attempt, owner).await?;
                let known = ExportRow { attempt: attempt.number, ..known };
                return Ok(Some(Planned::Settle(attempt, Box::new(known))));
            }
            // The earlier blob's name ends as its content does.
            let same = known.content_type == plan.content_type && known.content_encoding == plan.content_encoding;
            let earlier = BlobPath::new(known.blob.as_str()).ok().filter(|_| same);
            let blob = earlier.unwrap_or_else(|| plan.blob.clone());
            update(tx, &attempt, plan, &blob, owner).await?;
            note(tx, attempt.row, now, State::Planned, Some(&format!("try {}", attempt.number))).await?;
            Ok(Some(Planned::Begin(attempt, blob)))
        })
        .await
    }

    /// Whether the outbox still is in the epoch in which we opened it, and in a schema that we know.
    async fn same_epoch(&self) -> Result<(), OutboxError> {
        let rows = self.query(&format!("SELECT epoch, {VERSION} FROM outbox"), &[]).await?;
        rows.first().map_or(Ok(()), |row| refuse_newer(row.get(1), &SCHEMA))?;
        let is_same = rows.first().is_some_and(|row| row.get::<_, &str>(0) == &*self.epoch);
        if is_same { Ok(()) } else { Err(OutboxError::OtherEpoch) }
    }

    /// The row of a try, if the try is the latest one and the row is in one of these states.
    async fn latest(&self, attempt: &Attempt, states: &[State]) -> Result<ExportRow, OutboxError> {
        let row = self.get(attempt.row).await?;
        row.filter(|row| row.attempt == attempt.number && states.contains(&row.state)).ok_or_else(|| overtaken(attempt))
    }
}

impl fmt::Debug for PostgresOutbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOutbox")
            .field("database", &self.shown())
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

impl Outbox for PostgresOutbox {
    fn epoch(&self) -> &str {
        &self.epoch
    }

    async fn begin_epoch(&self) -> Result<String, OutboxError> {
        let epoch = Uuid::now_v7().to_string();
        self.transaction(async |tx| {
            rows(tx, "UPDATE outbox SET epoch = $1, created_at = $2", &[&epoch, &self.now()]).await?;
            rows(tx, "DELETE FROM sequence", &[]).await?;
            Ok(())
        })
        .await?;
        Ok(epoch)
    }

    async fn plan(&self, plan: Plan) -> Result<Planned, OutboxError> {
        loop {
            // One statement, as long as the export is a new one.
            if let Some(row) = self.insert(&plan).await? {
                return Ok(Planned::Begin(Attempt { row, number: 1, export_id: plan.export_id }, plan.blob));
            }
            if let Some(planned) = self.plan_known(&plan).await? {
                return Ok(planned);
            }
        }
    }

    async fn number(&self, attempt: &Attempt, facts: FileFacts) -> Result<u64, OutboxError> {
        let sql = "WITH mine AS MATERIALIZED (
                SELECT row, publisher, blob_type FROM export
                WHERE row = $1 AND attempt = $2 AND state = 'planned' AND sequence IS NULL
                    AND EXISTS (SELECT FROM outbox WHERE one = 1 AND epoch = $10 FOR SHARE)
                    AND (SELECT version FROM _waybill_schema WHERE name = 'outbox') <= $15
                    AND NOT EXISTS (
                        SELECT FROM export AS other WHERE other.publisher = export.publisher
                            AND other.blob_type = export.blob_type AND other.snapshot_id = $11 AND other.snapshot_part = $12)
                FOR UPDATE),
            next AS (
                INSERT INTO sequence AS known (publisher, blob_type, last) SELECT publisher, blob_type, 1 FROM mine
                ON CONFLICT (publisher, blob_type) DO UPDATE SET last = known.last + 1 RETURNING last),
            numbered AS (
                UPDATE export SET epoch = $10, sequence = next.last, uri = $3, rows = $4, bytes = $5, plain_bytes = $6,
                    plain_sha256 = $7, sha256 = $8, snapshot_id = $11, snapshot_part = $12, snapshot_of = $13,
                    snapshot_as_of = $14
                FROM mine, next WHERE export.row = mine.row RETURNING export.row, export.sequence),
            noted AS (
                INSERT INTO history (export, at, state, note)
                SELECT row, $9::timestamptz, 'planned', 'number ' || sequence FROM numbered)
            SELECT sequence FROM numbered";
        let part = facts.snapshot.as_ref();
        let values: &[&(dyn ToSql + Sync)] = &[
            &attempt.row,
            &attempt.number,
            &facts.uri,
            &facts.rows.map(signed),
            &signed(facts.bytes),
            &signed(facts.plain_bytes),
            &facts.plain_sha256,
            &facts.sha256,
            &self.now(),
            &&*self.epoch,
            &part.map(|of| &of.id),
            &part.map(|of| signed(of.part)),
            &part.map(|of| signed(of.of)),
            &part.map(|of| signed(of.as_of)),
            &SCHEMA.known(),
        ];
        if let Some(numbered) = self.query(sql, values).await?.first() {
            return Ok(numbered.get::<_, i64>(0).unsigned_abs());
        }
        let row = self.latest(attempt, &[State::Planned]).await?;
        let Some(number) = row.sequence else {
            self.same_epoch().await?;
            return Err(overtaken(attempt));
        };
        Ok(number)
    }

    async fn last_number(&self, publisher: &str, blob_type: &BlobType) -> Result<u64, OutboxError> {
        self.same_epoch().await?;
        let sql = "SELECT last FROM sequence WHERE publisher = $1 AND blob_type = $2";
        let rows = self.query(sql, &[&publisher, &blob_type.as_str()]).await?;
        Ok(rows.first().map_or(0, |row| row.get::<_, i64>(0).unsigned_abs()))
    }

    async fn parts(
        &self,
        publisher: &str,
        blob_type: &BlobType,
        snapshot: &str,
    ) -> Result<Vec<ExportRow>, OutboxError> {
        let sql = format!("SELECT {COLUMNS} FROM export WHERE {PARTS}");
        self.query(&sql, &[&publisher, &blob_type.as_str(), &snapshot]).await?.iter().map(export_row).collect()
    }

    async fn full_exports(
        &self,
        publisher: &str,
        blob_type: &BlobType,
        most: u32,
    ) -> Result<Vec<FullExport>, OutboxError> {
        let values: &[&(dyn ToSql + Sync)] = &[&publisher, &blob_type.as_str(), &i64::from(most)];
        let rows = self.query(named::FULL_EXPORTS, values).await?;
        let number = |row: &Row, at| row.get::<_, i64>(at).unsigned_abs();
        let full_export = |row: &Row| FullExport {
            snapshot: row.get(0),
            as_of: number(row, 1),
            of: number(row, 2),
            there: number(row, 3),
            sent: number(row, 4),
            last: number(row, 5),
        };
        Ok(rows.iter().map(full_export).collect())
    }

    async fn uploaded(&self, attempt: &Attempt) -> Result<ExportRow, OutboxError> {
        let sql = format!(
            "WITH uploaded AS (
                 UPDATE export SET state = 'uploaded', uploaded_at = $3, message_id = export_id, owner = NULL,
                     due_at = CASE WHEN {PAUSED} THEN $4::timestamptz ELSE $3::timestamptz END
                 WHERE row = $1 AND attempt = $2 AND state = 'planned' RETURNING *),
             noted AS (INSERT INTO history (export, at, state) SELECT row, $3, 'uploaded' FROM uploaded)
             SELECT {COLUMNS} FROM uploaded"
        );
        match self.query(&sql, &[&attempt.row, &attempt.number, &self.now(), &paused_until()]).await?.first() {
            Some(row) => export_row(row),
            None => self.latest(attempt, &[State::Uploaded, State::Sent]).await,
        }
    }

    async fn void(&self, attempt: &Attempt, reason: &str) -> Result<(), OutboxError> {
        let sql = "WITH voided AS (
                UPDATE export SET state = CASE WHEN sent_at IS NULL THEN 'void' ELSE 'sent' END,
                    reason = CASE WHEN sent_at IS NULL THEN $3::text END, owner = NULL, due_at = NULL
                WHERE row = $1 AND attempt = $2 AND state IN ('planned', 'uploaded') RETURNING row, state),
            noted AS (INSERT INTO history (export, at, state, note) SELECT row, $4::timestamptz, state, $3::text FROM voided)
            SELECT row FROM voided";
        let voided = self.query(sql, &[&attempt.row, &attempt.number, &text(reason), &self.now()]).await?;
        if voided.is_empty() { Err(overtaken(attempt)) } else { Ok(()) }
    }

    async fn claim_abandoned(&self) -> Result<Vec<ExportRow>, OutboxError> {
        self.be_there().await?;
        let sql = format!(
            "WITH owners AS MATERIALIZED (
                 SELECT DISTINCT owner FROM export WHERE state = 'planned' AND owner IS NOT NULL AND owner <> $1),
             gone AS MATERIALIZED (SELECT owner FROM owners WHERE pg_try_advisory_xact_lock(owner)),
             claimed AS (
                 UPDATE export SET owner = $1, attempt = attempt + 1 FROM gone
                 WHERE export.owner = gone.owner AND state = 'planned' RETURNING export.*)
             SELECT {COLUMNS} FROM claimed ORDER BY row"
        );
        self.query(&sql, &[&self.owner.number]).await?.iter().map(export_row).collect()
    }

    async fn lock_relay(&self) -> Result<Option<RelayLock>, OutboxError> {
        let session = self.relay.take(&self.store, LOCK_PATIENCE).await.map_err(unavailable)?;
        Ok(session.map(|session| {
            let (session, now) = (Arc::new(session), self.options.now);
            RelayLock::new(move |most| {
                let session = Arc::clone(&session);
                async move { due_in(&session, now(), most).await }.boxed()
            })
        }))
    }

    async fn due(&self, most: u32) -> Result<Vec<ExportRow>, OutboxError> {
        due_rows(&self.query(&due_sql(), &[&self.now(), &i64::from(most)]).await?)
    }

    async fn sent(&self, rows: &[i64]) -> Result<(), OutboxError> {
        // A message may have been on its way when a person made its export void: the broker has it.
        let sql = "WITH sent AS (
                UPDATE export SET state = 'sent', sent_at = $2, due_at = NULL, last_error = NULL, reason = NULL
                WHERE row = ANY ($1)
                    AND (state = 'uploaded' OR state = 'void' AND uploaded_at IS NOT NULL AND replaced_by IS NULL)
                RETURNING row)
            INSERT INTO history (export, at, state) SELECT row, $2, 'sent' FROM sent";
        self.query(sql, &[&rows, &self.now()]).await.map(drop)
    }

    async fn not_sent(&self, rows: &[i64], error: &str, due_at: Option<OffsetDateTime>) -> Result<(), OutboxError> {
        let sql = "UPDATE export SET tries = tries + ($3::timestamptz IS NOT NULL)::integer, last_error = $2,
                       due_at = CASE WHEN due_at = $4 THEN due_at ELSE coalesce($3, due_at) END
                   WHERE row = ANY ($1) AND state = 'uploaded'";
        self.query(sql, &[&rows, &text(error), &due_at, &paused_until()]).await.map(drop)
    }

    async fn resend(&self, row: i64, why: &str) -> Result<ExportRow, OutboxError> {
        let sql = format!(
            "WITH again AS (
                 UPDATE export SET state = 'uploaded', tries = 0, last_error = NULL,
                     due_at = CASE WHEN {PAUSED} THEN $4::timestamptz ELSE $3::timestamptz END,
                     message_id = CASE WHEN state = 'sent' THEN export_id || '.' || (resent + 1) ELSE message_id END,
                     resent = CASE WHEN state = 'sent' THEN resent + 1 ELSE resent END,
                     resent_at = CASE WHEN state = 'sent' THEN $3::timestamptz ELSE resent_at END
                 WHERE row = $1 AND state IN ('uploaded', 'sent') AND (expires_at IS NULL OR expires_at > $3)
                 RETURNING *),
             noted AS (INSERT INTO history (export, at, state, note) SELECT row, $3::timestamptz, 'uploaded', $2::text FROM again)
             SELECT {COLUMNS} FROM again"
        );
        let note = format!("to be sent again: {}", text(why));
        match self.query(&sql, &[&row, &note, &self.now(), &paused_until()]).await?.first() {
            Some(row) => export_row(row),
            None => Err(not_again(self.get(row).await?, row)),
        }
    }

    async fn pause(&self, blob_type: &str, why: &str) -> Result<(), OutboxError> {
        let pause = "INSERT INTO paused (blob_type, since, why) VALUES ($1, $3, $2)
            ON CONFLICT (blob_type) DO UPDATE SET why = excluded.why";
        let hold = "UPDATE export SET due_at = $2 WHERE state = 'uploaded' AND blob_type = $1";
        self.transaction(async |tx| {
            rows(tx, pause, &[&blob_type, &text(why), &self.now()]).await?;
            rows(tx, hold, &[&blob_type, &paused_until()]).await?;
            Ok(())
        })
        .await
    }

    async fn resume(&self, blob_type: &str) -> Result<bool, OutboxError> {
        let resume = "DELETE FROM paused WHERE blob_type = $1 RETURNING blob_type";
        // A statement of its own: it sees what others held back before the first one got hold of the type.
        let let_go = "UPDATE export SET due_at = $2 WHERE state = 'uploaded' AND blob_type = $1 AND due_at = $3";
        self.transaction(async |tx| {
            let was = !rows(tx, resume, &[&blob_type]).await?.is_empty();
            rows(tx, let_go, &[&blob_type, &self.now(), &paused_until()]).await?;
            Ok(was)
        })
        .await
    }

    async fn paused(&self) -> Result<Vec<Paused>, OutboxError> {
        let rows = self.query("SELECT blob_type, since, why FROM paused ORDER BY blob_type", &[]).await?;
        Ok(rows.iter().map(|row| Paused { blob_type: row.get(0), since: row.get(1), why: row.get(2) }).collect())
    }

    async fn manifested_at(&self) -> Result<OffsetDateTime, OutboxError> {
        let rows = self.query("SELECT coalesce(manifested_at, created_at) FROM outbox", &[]).await?;
        Ok(rows.first().map_or(OffsetDateTime::UNIX_EPOCH, |row| row.get(0)))
    }

    async fn named_to(&self, publisher: &str, epoch: &str) -> Result<Vec<NamedTo>, OutboxError> {
        let rows = self.query(named::NAMED_TO, &[&publisher, &epoch]).await?;
        let number = |row: &Row, at| row.get::<_, i64>(at).unsigned_abs();
        let named = |row: &Row| NamedTo { blob_type: row.get(0), up_to: number(row, 1), unsent: number(row, 2) };
        Ok(rows.iter().map(named).collect())
    }

    async fn plan_manifests(&self, most: u32) -> Result<Vec<ManifestRange>, OutboxError> {
        let now = self.now();
        self.transaction(async |tx| {
            // Its lock makes those who plan follow each other.
            rows(tx, "UPDATE outbox SET manifested_at = $1", &[&now]).await?;
            let next = rows(tx, named::NEXT, &[&i64::from(most)]).await?;
            let next = next.iter().map(|row| ManifestRange {
                export_id: ExportId::random(),
                publisher: row.get(0),
                epoch: row.get(1),
                blob_type: row.get(2),
                first: row.get::<_, i64>(3).unsigned_abs(),
                last: row.get::<_, i64>(4).unsigned_abs(),
            });
            for range in named::worth_naming(next.collect()) {
                let ManifestRange { export_id, publisher, epoch, blob_type, first, last } = range;
                let (first, last) = (signed(first), signed(last));
                let values: &[&(dyn ToSql + Sync)] =
                    &[&export_id.as_str(), &publisher, &epoch, &blob_type, &first, &last];
                rows(tx, named::FIX, values).await?;
                rows(tx, named::MOVE, &[&publisher, &epoch, &blob_type, &last]).await?;
            }
            let open = rows(tx, &named::open(), &[]).await?;
            Ok(open.iter().map(manifest_range).collect::<Result<_, _>>()?)
        })
        .await
    }

    async fn named(&self, range: &ManifestRange, from: u64, most: u32) -> Result<Vec<ExportRow>, OutboxError> {
        let ManifestRange { publisher, epoch, blob_type, first, last, .. } = range;
        let (from, last) = (signed(from.max(*first)), signed(*last));
        let values: &[&(dyn ToSql + Sync)] = &[publisher, epoch, blob_type, &from, &last, &i64::from(most)];
        self.query(&named::members(COLUMNS), values).await?.iter().map(export_row).collect()
    }

    async fn over(&self, after: i64, most: u32) -> Result<Vec<OverExport>, OutboxError> {
        let found = self.query(&named::over(COLUMNS), &[&after, &self.now(), &i64::from(most)]).await?;
        found.iter().map(|row| Ok(OverExport { row: export_row(row)?, is_named: row.get(COLUMNS_COUNT) })).collect()
    }

    async fn not_deleted(&self, row: i64, error: &str, due_at: OffsetDateTime) -> Result<(), OutboxError> {
        let sql =
            "UPDATE export SET tries = CASE WHEN due_at IS NULL THEN 1 ELSE tries + 1 END, last_error = $2, due_at = $3
                   WHERE row = $1 AND state IN ('sent', 'void')";
        self.query(sql, &[&row, &text(error), &due_at]).await.map(drop)
    }

    async fn forget(&self, of: &[i64]) -> Result<u64, OutboxError> {
        let now = self.now();
        self.transaction(async |tx| {
            let over = "SELECT row, export_id, state FROM export
                        WHERE row = ANY ($1) AND state IN ('sent', 'void') AND expires_at <= $2 ORDER BY row FOR UPDATE";
            let over = rows(tx, over, &[&of, &now]).await?;
            let of: Vec<i64> = over.iter().map(|row| row.get(0)).collect();
            let sent = over.iter().filter(|row| row.get::<_, &str>(2) == State::Sent.as_str());
            let sent: Vec<&str> = sent.map(|row| row.get(1)).collect();
            rows(tx, "DELETE FROM manifest WHERE export_id = ANY ($1)", &[&sent]).await?;
            rows(tx, "UPDATE export SET replaced_by = NULL WHERE replaced_by = ANY ($1)", &[&of]).await?;
            rows(tx, "DELETE FROM history WHERE export = ANY ($1)", &[&of]).await?;
            rows(tx, "DELETE FROM export WHERE row = ANY ($1)", &[&of]).await?;
            Ok(of.len() as u64)
        })
        .await
    }

    async fn counts(&self) -> Result<Counts, OutboxError> {
        let mut counts = Counts::default();
        // Those that wait longest are found in an index; the terms of all are not.
        let sql = format!(
            "WITH oldest AS (
                 SELECT coalesce(resent_at, uploaded_at) AS since, expires_at FROM export WHERE state = 'uploaded'
                 ORDER BY coalesce(resent_at, uploaded_at) LIMIT {TERMS_LOOKED_AT})
             SELECT state, sum(exports)::bigint, (SELECT min(since) FROM oldest), (SELECT min(expires_at) FROM oldest)
             FROM tally GROUP BY state"
        );
        for row in self.query(&sql, &[]).await? {
            let count = not_below_0(row.get(1));
            (counts.waiting_since, counts.waiting_until) = (row.get(2), row.get(3));
            match parsed(row.get(0))? {
                State::Planned => counts.planned = count,
                State::Uploaded => counts.uploaded = count,
                State::Sent => counts.sent = count,
                State::Void => counts.void = count,
            }
        }
        Ok(counts)
    }

    async fn list(&self, filter: &ListFilter) -> Result<Vec<ExportRow>, OutboxError> {
        let state = filter.state.map(State::as_str);
        let mut values: Vec<&(dyn ToSql + Sync)> = Vec::new();
        let mut wanted = String::from("true");
        let mut and = |condition: &str, value| {
            values.push(value);
            wanted.push_str(&format!(" AND {condition} ${}", values.len()));
        };
        if let Some(state) = &state {
            and("state =", state);
        }
        if let Some(blob_type) = &filter.blob_type {
            and("blob_type =", blob_type);
        }
        if let Some(export_id) = &filter.export_id {
            and("export_id =", export_id);
        }
        if let Some(correlation_id) = &filter.correlation_id {
            and("correlation_id =", correlation_id);
        }
        if let Some(before) = &filter.before {
            and("row <", before);
        }
        let sql = format!("SELECT {COLUMNS} FROM export WHERE {wanted} ORDER BY row DESC LIMIT {}", filter.most);
        self.query(&sql, &values).await?.iter().map(export_row).collect()
    }

    async fn get(&self, row: i64) -> Result<Option<ExportRow>, OutboxError> {
        let sql = format!("SELECT {COLUMNS} FROM export WHERE row = $1");
        self.query(&sql, &[&row]).await?.first().map(export_row).transpose()
    }

    async fn history(&self, row: i64) -> Result<Vec<HistoryEntry>, OutboxError> {
        let rows = self.query("SELECT at, state, note FROM history WHERE export = $1 ORDER BY id", &[&row]).await?;
        let entry = |row: &Row| Ok(HistoryEntry { at: row.get(0), state: parsed(row.get(1))?, note: row.get(2) });
        rows.iter().map(entry).collect()
    }
}

/// What is due, and the version of the schema. One row without an export where none is due: the version is told all the same.
fn due_sql() -> String {
    format!(
        "SELECT {COLUMNS}, known.version FROM (SELECT {VERSION} AS version) AS known LEFT JOIN (
             SELECT * FROM export WHERE state = 'uploaded' AND due_at <= $1 ORDER BY due_at, row LIMIT $2) AS due ON true
         ORDER BY due_at, row"
    )
}

fn due_rows(due: &[Row]) -> Result<Vec<ExportRow>, OutboxError> {
    due.first().map_or(Ok(()), |row| refuse_newer(row.get(COLUMNS_COUNT), &SCHEMA))?;
    due.iter().filter(|row| row.get::<_, Option<i64>>(0).is_some()).map(export_row).collect()
}

/// What is due, asked in the session of the lock, so that the answer also says that the lock is held; nothing where it may be lost.
async fn due_in(session: &Session, now: OffsetDateTime, most: u32) -> Result<Option<Vec<ExportRow>>, OutboxError> {
    match session.query(&due_sql(), &[&now, &i64::from(most)]).await {
        Ok(rows) => due_rows(&rows).map(Some),
        Err(_) if session.is_lost() => Ok(None),
        // The server answers, and keeps the session: it takes too long, or refuses.
        Err(error) => Err(unavailable(error)),
    }
}

async fn rows(tx: &PostgresTransaction<'_>, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Error> {
    let statement = tx.prepare_cached(sql).await?;
    tx.query(&statement, values).await
}

/// A further try at a plan whose file was never staged whole: what the caller says now counts.
async fn update(
    tx: &PostgresTransaction<'_>,
    attempt: &Attempt,
    plan: &Plan,
    blob: &BlobPath,
    owner: i64,
) -> Result<(), Error> {
    let sql = "UPDATE export SET publisher = $2, correlation_id = $3, causation_id = $4, traceparent = $5, blob = $6,
            content_type = $7, content_encoding = $8, properties = $9, schema = $10, expires_at = $11, owner = $12,
            attempt = $13
        WHERE row = $1";
    let values: &[&(dyn ToSql + Sync)] = &[
        &attempt.row,
        &plan.publisher,
        &plan.correlation_id,
        &plan.causation_id,
        &plan.traceparent,
        &blob.as_str(),
        &plan.content_type,
        &plan.content_encoding,
        &plan.properties.as_deref().map(RawValue::get),
        &plan.schema,
        &plan.expires_at,
        &owner,
        &attempt.number,
    ];
    rows(tx, sql, values).await.map(drop)
}

async fn take(tx: &PostgresTransaction<'_>, attempt: &Attempt, owner: i64) -> Result<(), Error> {
    let sql = "UPDATE export SET owner = $2, attempt = $3 WHERE row = $1";
    rows(tx, sql, &[&attempt.row, &owner, &attempt.number]).await.map(drop)
}

async fn note(
    tx: &PostgresTransaction<'_>,
    row: i64,
    at: OffsetDateTime,
    state: State,
    note: Option<&str>,
) -> Result<(), Error> {
    let sql = "INSERT INTO history (export, at, state, note) VALUES ($1, $2, $3, $4)";
    rows(tx, sql, &[&row, &at, &state.as_str(), &note]).await.map(drop)
}

async fn row_where(
    tx: &PostgresTransaction<'_>,
    clause: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<Option<ExportRow>, JobError> {
    let found = rows(tx, &format!("SELECT {COLUMNS} FROM export WHERE {clause}"), values).await?;
    Ok(found.first().map(export_row).transpose()?)
}

fn manifest_range(row: &Row) -> Result<ManifestRange, OutboxError> {
    Ok(ManifestRange {
        export_id: ExportId::new(row.get::<_, String>(0)).map_err(|error| OutboxError::Unreadable(error.into()))?,
        publisher: row.get(1),
        epoch: row.get(2),
        blob_type: row.get(3),
        first: row.get::<_, i64>(4).unsigned_abs(),
        last: row.get::<_, i64>(5).unsigned_abs(),
    })
}

/// Reads a row of [`COLUMNS`].
fn export_row(row: &Row) -> Result<ExportRow, OutboxError> {
    let unsigned = |at: usize| row.get::<_, Option<i64>>(at).map(i64::unsigned_abs);
    let properties = row.get::<_, Option<String>>(13).map(RawValue::from_string).transpose();
    Ok(ExportRow {
        row: row.get(0),
        export_id: ExportId::new(row.get::<_, String>(1)).map_err(unreadable)?,
        publisher: row.get(2),
        epoch: row.get(3),
        blob_type: row.get(4),
        sequence: unsigned(5),
        correlation_id: row.get(6),
        causation_id: row.get(7),
        traceparent: row.get(8),
        blob: row.get(9),
        uri: row.get(10),
        content_type: row.get(11),
        content_encoding: row.get(12),
        properties: properties.map_err(unreadable)?,
        schema: row.get(14),
        rows: unsigned(15),
        bytes: unsigned(16),
        plain_bytes: unsigned(17),
        plain_sha256: row.get(18),
        sha256: row.get(19),
        state: parsed(row.get(20))?,
        reason: row.get(21),
        replaced_by: row.get(22),
        message_id: row.get(23),
        created_at: row.get(24),
        uploaded_at: row.get(25),
        sent_at: row.get(26),
        expires_at: row.get(27),
        tries: unsigned(28).unwrap_or(0),
        due_at: row.get::<_, Option<OffsetDateTime>>(29).filter(|at| *at < paused_until()),
        last_error: row.get(30),
        attempt: row.get(31),
        snapshot: snapshot(row),
    })
}

fn snapshot(row: &Row) -> Option<Snapshot> {
    let id = row.get::<_, Option<String>>(32)?;
    let number = |at: usize| row.get::<_, Option<i64>>(at).unwrap_or_default().unsigned_abs();
    Some(Snapshot { id, part: number(33), of: number(34), as_of: number(35) })
}

fn parsed<T: FromStr>(text: &str) -> Result<T, OutboxError>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().map_err(unreadable)
}

/// A text that is only shown: PostgreSQL takes no zero.
fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> OutboxError {
    OutboxError::Unreadable(Box::new(error))
}

fn unavailable(error: impl std::error::Error + Send + Sync + 'static) -> OutboxError {
    OutboxError::Unavailable(Box::new(error))
}

fn opening(error: PostgresError) -> OutboxError {
    match error {
        PostgresError::Unreachable { .. } | PostgresError::Refused { .. } | PostgresError::Failed { .. } => {
            unavailable(error)
        }
        error => OutboxError::Open(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::conformance;

    async fn open(name: &str, run: &str) -> PostgresOutbox {
        let server = std::env::var("WAYBILL_TEST_POSTGRES")
            .expect("WAYBILL_TEST_POSTGRES is not set: run `cargo xtask test`, which starts a PostgreSQL");
        let options = PostgresOutboxOptions { schema: format!("an \"outbox\" {name} {run}"), ..Default::default() };
        PostgresOutbox::open(&format!("{server}?sslmode=disable"), options).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_outbox_in_postgresql_keeps_the_contract() {
        let run = Uuid::new_v4().simple().to_string();
        conformance::exercise(|name| open(name, &run)).await;
    }

    #[tokio::test]
    async fn an_outbox_in_postgresql_that_a_newer_version_changed_is_not_sent_from_and_not_opened() {
        let run = Uuid::new_v4().simple().to_string();
        let outbox = open("newer", &run).await;
        let upgrade = async {
            outbox.query("UPDATE _waybill_schema SET version = 99", &[]).await.unwrap();
        };
        conformance::refuses_what_is_newer(&outbox, upgrade).await;
        let server = std::env::var("WAYBILL_TEST_POSTGRES").unwrap();
        let error =
            PostgresOutbox::open(&format!("{server}?sslmode=disable"), outbox.options.clone()).await.unwrap_err();
        let text = crate::relay::chain(&error);
        assert!(text.contains("schema version 99") && text.contains("use a newer program"), "{text}");
    }

    #[tokio::test]
    async fn an_outbox_in_postgresql_of_schema_3_is_counted_when_it_is_opened_and_left_alone_by_who_looks() {
        const EARLIER: Schema = Schema { migrations: SCHEMA.migrations.split_at(3).0, ..SCHEMA };
        let server = std::env::var("WAYBILL_TEST_POSTGRES").unwrap();
        let address = format!("{server}?sslmode=disable");
        let schema = format!("earlier {}", Uuid::new_v4().simple());
        let options = PostgresOutboxOptions { schema, ..Default::default() };
        let store = PostgresOutbox::at(&address, &options).unwrap();
        store.migrate(&EARLIER).await.unwrap();
        let rows = "INSERT INTO export (export_id, publisher, epoch, blob_type, correlation_id, blob, content_type, state, created_at)
            VALUES ('a', 'p', 'e', 'T', 'c', 'b', 't', 'sent', now()), ('b', 'p', 'e', 'T', 'c', 'b', 't', 'void', now())";
        store.connection().await.unwrap().execute(rows, &[]).await.unwrap();
        let looked = PostgresOutbox::open_existing(&address, options.clone()).await;
        assert!(matches!(looked, Err(OutboxError::Older { found: 3, .. })), "{looked:?}");
        assert_eq!(store.version(&SCHEMA).await.unwrap(), Some(3));
        let outbox = PostgresOutbox::open(&address, options).await.unwrap();
        let counts = outbox.counts().await.unwrap();
        assert_eq!((counts.sent, counts.void, counts.planned, counts.uploaded), (1, 1, 0, 0));
        conformance::begin(&outbox, "c", "T").await;
        assert_eq!(outbox.counts().await.unwrap().planned, 1);
    }

    #[tokio::test]
    async fn what_is_tried_in_postgresql_is_taken_back() {
        let outbox = open("tried", &Uuid::new_v4().simple().to_string()).await;
        conformance::takes_back_what_it_tries(&outbox, outbox.try_writing()).await;
        outbox.query("DROP TABLE paused", &[]).await.unwrap();
        let text = crate::relay::chain(&outbox.try_writing().await.unwrap_err());
        assert!(text.contains("paused"), "{text}");
        assert_eq!(outbox.list(&ListFilter::default()).await.unwrap().len(), 1);
    }

    /// They would delete from the change log what nobody can prove was sent.
    #[tokio::test]
    async fn programs_that_know_the_outbox_in_postgresql_of_schema_4_let_go_of_it() {
        const EARLIER: Schema = Schema { migrations: SCHEMA.migrations.split_at(4).0, ..SCHEMA };
        let server = std::env::var("WAYBILL_TEST_POSTGRES").unwrap();
        let address = format!("{server}?sslmode=disable");
        let schema = format!("earlier {}", Uuid::new_v4().simple());
        let options = PostgresOutboxOptions { schema, ..Default::default() };
        PostgresOutbox::at(&address, &options).unwrap().migrate(&EARLIER).await.unwrap();
        let outbox = PostgresOutbox::open(&address, options).await.unwrap();
        conformance::begin(&outbox, "a", "T").await;
        let version = outbox.query(&format!("SELECT {VERSION}"), &[]).await.unwrap()[0].get(0);
        let noticed = refuse_newer(version, &EARLIER);
        assert!(matches!(noticed, Err(OutboxError::Newer { .. })), "{noticed:?}");
    }

    #[tokio::test]
    async fn an_outbox_in_postgresql_is_counted_also_after_its_schema_was_renamed() {
        let run = Uuid::new_v4().simple().to_string();
        let before = open("before", &run).await;
        conformance::begin(&before, "a", "T").await;
        let rename =
            format!("ALTER SCHEMA \"an \"\"outbox\"\" before {run}\" RENAME TO \"an \"\"outbox\"\" after {run}\"");
        before.query(&rename, &[]).await.unwrap();
        before.close().await;
        let after = open("after", &run).await;
        conformance::begin(&after, "b", "T").await;
        assert_eq!(after.counts().await.unwrap().planned, 2);
    }

    /// Somebody holds a table for long, as an `ALTER TABLE` or a `VACUUM FULL` does.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_session_that_is_given_up_because_the_server_is_slow_is_not_taken_for_another_publisher() {
        let run = Uuid::new_v4().simple().to_string();
        let (outbox, another) = (open("slow", &run).await, open("slow", &run).await);
        let lock = outbox.lock_relay().await.unwrap().expect("nobody has it");
        let mut beside = outbox.store.connection().await.unwrap();
        let held = beside.transaction().await.unwrap();
        held.batch_execute("LOCK TABLE export IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let holder: i32 = held.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let waits = async {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))";
            while outbox.query(sql, &[&holder]).await.unwrap()[0].get::<_, i64>(0) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            due = lock.due(10) => panic!("it waits: {due:?}"),
            () = waits => {}
        }
        drop(lock);
        let refused = outbox.lock_relay().await.unwrap_err();
        let text = crate::relay::chain(&refused);
        assert!(text.contains("it is slow") && text.contains("no other publisher has"), "{text}");
        assert!(another.lock_relay().await.unwrap().is_none(), "for others it is another's");
        held.commit().await.unwrap();
        while !matches!(outbox.lock_relay().await, Ok(Some(_))) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn the_server_compiles_no_statement() {
        let outbox = open("compiled", &Uuid::new_v4().simple().to_string()).await;
        let jit: String = outbox.query("SHOW jit", &[]).await.unwrap()[0].get(0);
        assert_eq!(jit, "off", "it takes longer than to run one");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_uploaded_while_its_type_is_resumed_is_sent() {
        let outbox = open("resumed", &Uuid::new_v4().simple().to_string()).await;
        let attempt = conformance::begin(&outbox, "x", "T").await;
        outbox.number(&attempt, conformance::facts()).await.unwrap();
        outbox.pause("T", "a wrong price list").await.unwrap();
        // Somebody keeps the upload waiting after it saw that the type is paused.
        let mut beside = outbox.store.connection().await.unwrap();
        let held = beside.transaction().await.unwrap();
        held.execute("SELECT FROM export FOR UPDATE", &[]).await.unwrap();
        let holder: i32 = held.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let waiting = async |sessions: i64| {
            let sql = "WITH first AS (SELECT pid FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid)))
                SELECT count(*) FROM pg_stat_activity AS session WHERE pid IN (SELECT pid FROM first)
                    OR EXISTS (SELECT FROM first WHERE first.pid = ANY (pg_blocking_pids(session.pid)))";
            while outbox.query(sql, &[&holder]).await.unwrap()[0].get::<_, i64>(0) < sessions {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let resumed = async {
            waiting(1).await;
            let resume = outbox.resume("T");
            tokio::pin!(resume);
            let at_once = tokio::select! {
                () = waiting(2) => None,
                resumed = &mut resume => Some(resumed),
            };
            held.commit().await.unwrap();
            match at_once {
                Some(resumed) => resumed,
                None => resume.await,
            }
        };
        let (uploaded, resumed) = tokio::join!(outbox.uploaded(&attempt), resumed);
        assert!(uploaded.is_ok() && resumed.unwrap());
        assert_eq!(outbox.due(10).await.unwrap().len(), 1, "nobody is left to let it go");
    }
}
