//! The change log in a schema of the service's PostgreSQL database.
//!
//! Many transactions write at once, and one that began early may commit late. An id is given when a row is inserted, so
//! what is not there yet may have a lower id than what is. What is settled is found so: the highest id that was given is read,
//! then our own transaction takes a number. Whoever has taken an id up to there had its number before, hence a lower one.
//! Once no transaction with a lower number is under way, every id up to there is committed or will never be.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, TryStreamExt, try_unfold};
use time::OffsetDateTime;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Duration, sleep},
};
use uuid::Uuid;
use waybill_contracts::{BlobType, ExportId};
use waybill_store::{
    Migration, Postgres, PostgresConnection, PostgresError, Schema, lock_number, signed,
    tokio_postgres::{Error, Row, types::ToSql},
};

use super::{
    BadChange, COUNTED_MAX, ChangeFilter, Cut, EXPIRED_AT_ONCE, ExpiredFile, FILE_COLUMNS, FileNumber, Holder,
    LogError, LogStatus, LoggedChange, OpenFile, PlannedFile, ROW_BYTES_MAX, RefusedChange, SHOWN_MAX, TableRows, Tail,
    Unproven, WaitingType, line, too_long,
    triggers::{self, Table, Unique},
};
use crate::session::{self, Lock, Session, SessionError};

const SCHEMA: Schema = Schema {
    application_id: 0,
    name: "change log",
    migrations: &[
        Migration { name: "changes, and the files made of them", sql: include_str!("postgres_0001.sql") },
        Migration {
            name: "the number of each file, and what nobody can prove",
            sql: include_str!("postgres_0002.sql"),
        },
    ],
    shared_with_user: false,
};

/// The schema of the log, unless another is named.
pub(super) const SCHEMA_NAME: &str = "waybill";
/// One for the right to plan, one for whoever looks, the others for what is read to its end.
const CONNECTIONS_MAX: usize = 8;
/// Files and tables that are read at once, each over a connection of its own; further ones wait for it, however long that takes: a
/// pool would give up on them.
const READ_AT_ONCE: usize = CONNECTIONS_MAX - 2;
/// For one answer in the session of the right to plan.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines that are handed on at once, in bytes; more when one row is longer.
const CHUNK_BYTES: usize = 256 * 1024;
/// Rows of a table that are read at once: they may be long.
const FETCH: &str = "FETCH FORWARD 200 FROM waybill_rows";
/// Changes that are deleted in one transaction.
const PRUNED_AT_ONCE: i64 = 20_000;
/// Most transactions are over in a moment: how often is looked for that sooner than for news.
const LOOKS_SOON: u32 = 10;
/// Changes that are looked at first to cut a file; then more, if they do not fill it. Rows may be long, and there may be many.
const LOOKED_AT_FIRST: i64 = 2_000;

/// A log in a schema.
#[derive(Debug, Clone)]
pub(crate) struct PostgresLog {
    store: Postgres,
    schema: String,
    /// Of the one who plans.
    lock: Lock,
    /// Places for what is read to its end.
    reading: Arc<Semaphore>,
}

/// The right to plan, which this session has. What it writes goes through this session, so that whoever has lost the right
/// cannot write any more.
#[derive(Debug)]
pub(crate) struct PostgresSeat {
    log: PostgresLog,
    session: Session,
    /// What gives ids, as SQL names it.
    sequence: String,
    /// Every id up to here is committed or will never be.
    settled: i64,
    awaited: Option<Awaited>,
}

/// A connection over which something is read to its end. It is given back before its place is.
struct Reading {
    connection: PostgresConnection,
    _place: OwnedSemaphorePermit,
}

/// Ids that are settled once some transactions are over.
#[derive(Debug, Clone, Copy)]
struct Awaited {
    up_to: i64,
    /// None with a lower number may be under way.
    number: i64,
    /// How often they were under way still.
    looks: u32,
}

impl PostgresLog {
    pub(crate) fn at(address: &str, schema: &str) -> Result<Self, LogError> {
        let options = session::options("waybill publisher", schema, CONNECTIONS_MAX);
        let store = Postgres::new(address, &options).map_err(opening)?;
        let lock = Lock::new(lock_number(&format!("waybill change log {schema}")));
        Ok(Self { store, schema: schema.to_owned(), lock, reading: Arc::new(Semaphore::new(READ_AT_ONCE)) })
    }

    pub(crate) async fn open(address: &str, schema: &str) -> Result<Self, LogError> {
        let log = Self::at(address, schema)?;
        log.store.migrate(&SCHEMA).await.map_err(opening)?;
        let sql = format!("INSERT INTO log (one, cluster) VALUES (1, {CLUSTER}) ON CONFLICT DO NOTHING");
        let connection = log.connection().await?;
        connection.execute(&sql, &[]).await.map_err(|error| log.failed(error))?;
        Ok(log)
    }

    pub(crate) async fn is_there(address: &str, schema: &str) -> Result<bool, LogError> {
        let log = Self::at(address, schema)?;
        Ok(log.store.version(&SCHEMA).await.map_err(opening)?.is_some())
    }

    pub(crate) fn shown(&self) -> String {
        format!("{}, schema {}", self.store.shown(), self.schema)
    }

    pub(crate) fn close(&self) {
        self.store.close();
    }

    async fn connection(&self) -> Result<PostgresConnection, LogError> {
        self.store.connection().await.map_err(|error| LogError::Unavailable(error.into()))
    }

    /// A connection for what is read to its end.
    async fn reading(&self) -> std::io::Result<Reading> {
        let place = Arc::clone(&self.reading).acquire_owned().await.map_err(std::io::Error::other)?;
        let connection = self.connection().await.map_err(std::io::Error::other)?;
        Ok(Reading { connection, _place: place })
    }

    fn failed(&self, error: Error) -> LogError {
        LogError::Unavailable(self.store.error(error).into())
    }

    /// The session that has the lock, unless another has it.
    async fn lock(&self) -> Result<Option<Session>, LogError> {
        self.lock.take(&self.store, PATIENCE).await.map_err(unavailable)
    }

    pub(crate) async fn seat(&self, epoch: &str) -> Result<Option<PostgresSeat>, LogError> {
        let Some(session) = self.lock().await? else { return Ok(None) };
        let asked = async {
            session.query("UPDATE log SET epoch = $1 WHERE epoch IS NULL", &[&epoch]).await?;
            Ok::<_, SessionError>((session.query_one(&identity(), &[]).await?, session.query_one(IDS, &[]).await?))
        };
        let (identity, ids) = asked.await.map_err(unavailable)?;
        self.ours(&identity, epoch)?;
        let sequence = self.sound(&ids)?;
        Ok(Some(PostgresSeat { log: self.clone(), session, sequence, settled: 0, awaited: None }))
    }

    /// Whether the log is this server's, and its files go to the outbox of this epoch, if they go anywhere yet.
    fn ours(&self, identity: &Row, epoch: &str) -> Result<(), LogError> {
        let (theirs, made_on, here): (Option<String>, String, String) =
            (identity.get(0), identity.get(1), identity.get(2));
        if made_on != here {
            return Err(LogError::OtherCluster { shown: self.shown(), theirs: made_on, ours: here });
        }
        match theirs {
            Some(theirs) if theirs != epoch => {
                Err(LogError::OtherOutbox { shown: self.shown(), theirs, ours: epoch.to_owned() })
            }
            _ => Ok(()),
        }
    }

    pub(crate) async fn check_outbox(&self, epoch: &str) -> Result<(), LogError> {
        let identity = self.connection().await?.query_one(&identity(), &[]).await;
        self.ours(&identity.map_err(|error| self.failed(error))?, epoch)
    }

    pub(crate) async fn last_numbers(&self, epoch: &str) -> Result<Vec<(String, ExportId, FileNumber)>, LogError> {
        // Files of a type are numbered one after the other, so the last of them has the highest number.
        let sql = "SELECT blob_type, export_id, publisher, epoch, sequence FROM planned JOIN LATERAL (
                SELECT export_id, publisher, epoch, sequence FROM file
                WHERE file.blob_type = planned.blob_type AND exported_at IS NOT NULL ORDER BY file.up_to DESC LIMIT 1) AS latest
            ON epoch = $1";
        let rows = self.connection().await?.query(sql, &[&epoch]).await.map_err(|error| self.failed(error))?;
        let last = rows.iter().filter_map(|row| Some((row, file_number(row, 2)?)));
        last.map(|(row, number)| Ok((row.get(0), export_id(row, 1)?, number))).collect()
    }

    pub(crate) async fn try_writing(&self) -> Result<(), LogError> {
        let mut connection = self.connection().await?;
        let tried = async {
            let tx = connection.transaction().await?;
            tx.batch_execute(TRIAL).await?;
            tx.rollback().await
        };
        let tried = tried.await;
        // Whatever it met, nothing of it is to come back to others.
        drop(PostgresConnection::take(connection));
        tried.map_err(|error| self.failed(error))
    }

    pub(crate) async fn adopt(&self, epoch: &str) -> Result<bool, LogError> {
        let Some(session) = self.lock().await? else { return Ok(false) };
        let adopted = session.query(&format!("UPDATE log SET epoch = $1, cluster = {CLUSTER}"), &[&epoch]).await;
        adopted.map(|_| true).map_err(unavailable)
    }

    pub(crate) async fn check(&self) -> Result<(), LogError> {
        let ids = self.connection().await?.query_one(IDS, &[]).await.map_err(|error| self.failed(error))?;
        self.sound(&ids).map(drop)
    }

    /// Whether ids are given one by one, and each is higher than those that were published: the name of what gives them.
    fn sound(&self, ids: &Row) -> Result<String, LogError> {
        let (sequence, given, highest) = (ids.get::<_, String>(0), ids.get::<_, i64>(1), ids.get::<_, i64>(2));
        let (step, cache) = (ids.get::<_, i64>(3), ids.get::<_, i64>(4));
        if step != 1 || cache != 1 {
            let problem = format!(
                "a session takes {cache} ids at a time in steps of {step}, so a lower one may be committed after a higher one \
                 was published, and would be missing; say: ALTER SEQUENCE {sequence} INCREMENT 1 CACHE 1"
            );
            return Err(LogError::Ids { shown: self.shown(), problem });
        }
        if given < highest {
            return Err(self.begun_anew(&sequence, given, highest));
        }
        Ok(sequence)
    }

    fn begun_anew(&self, sequence: &str, given: i64, highest: i64) -> LogError {
        let problem = format!(
            "its ids began anew (TRUNCATE … RESTART IDENTITY, or rows that were copied in): the last one given is {given}, but \
             those up to {highest} are published or there; what is logged with a lower one would be missing. Say: SELECT \
             setval('{}', {highest}), and log again what was logged since",
            sequence.replace('\'', "''")
        );
        LogError::Ids { shown: self.shown(), problem }
    }

    /// The file's lines; the server sends on as they are taken.
    pub(crate) fn lines(&self, file: &PlannedFile) -> BoxStream<'static, std::io::Result<Bytes>> {
        let (log, blob_type, after, up_to) = (self.clone(), file.blob_type.clone(), file.after, file.up_to);
        let chunks = async move {
            let reading = log.reading().await?;
            let sql = format!("SELECT op = 'delete', row::text {OF_A_FILE} ORDER BY id");
            let values: [&(dyn ToSql + Sync); 3] = [&blob_type, &after, &up_to];
            let statement = reading.connection.prepare_cached(&sql).await.map_err(std::io::Error::other)?;
            let rows = reading.connection.query_raw(&statement, values).await.map_err(std::io::Error::other)?;
            // The connection is held as long as rows come over it.
            let rows = Box::pin(rows.fuse());
            Ok::<_, std::io::Error>(futures::stream::try_unfold((rows, reading), |(mut rows, reading)| async move {
                let mut lines = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8);
                while lines.len() < CHUNK_BYTES
                    && let Some(row) = rows.try_next().await.map_err(std::io::Error::other)?
                {
                    line::push(row.get::<_, &str>(1).as_bytes(), row.get(0), &mut lines);
                }
                Ok((!lines.is_empty()).then(|| (Bytes::from(lines), (rows, reading))))
            }))
        };
        futures::stream::once(chunks).try_flatten().boxed()
    }

    pub(crate) async fn status(&self) -> Result<LogStatus, LogError> {
        let connection = self.connection().await?;
        let asked = async {
            let limit = signed(COUNTED_MAX + 1);
            let sql = format!(
                "{TYPES} SELECT blob_type, waiting, occurred_at FROM known
                 JOIN LATERAL (
                     SELECT occurred_at FROM change_log c WHERE c.blob_type = known.blob_type AND id > after
                     ORDER BY id LIMIT 1) AS first ON true
                 JOIN LATERAL (
                     SELECT count(*) AS waiting FROM (
                         SELECT FROM change_log c WHERE c.blob_type = known.blob_type AND id > after LIMIT $1) AS of_them) AS counted
                     ON true
                 ORDER BY blob_type"
            );
            let types = connection.query(&sql, &[&limit]).await?;
            let files = connection
                .query(
                    "SELECT export_id, blob_type, changes, planned_at, problem FROM file WHERE exported_at IS NULL
                     ORDER BY number LIMIT 100",
                    &[],
                )
                .await?;
            let refused = connection.query_one("SELECT count(*) FROM refused", &[]).await?;
            let unproven = "SELECT blob_type, count(*), sum(changes)::bigint FROM file WHERE NOT proven
                GROUP BY blob_type ORDER BY blob_type";
            let unproven = connection.query(unproven, &[]).await?;
            let holder = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                AND (classid::bigint << 32 | objid::bigint) = $1)";
            let followed = connection.query_one(holder, &[&self.lock.number()]).await?;
            let held = held_back_by(&connection).await?;
            Ok((types, files, (refused, unproven), followed, held))
        };
        let asked = asked.await.map_err(|error: Error| self.failed(error))?;
        let (types, files, (refused, unproven), followed, held) = asked;
        let types = types.iter().map(|row| WaitingType::counted(row.get(0), unsigned(row, 1), row.get(2)));
        Ok(LogStatus {
            open_files: files
                .iter()
                .map(|row| OpenFile {
                    export_id: row.get(0),
                    blob_type: row.get(1),
                    changes: unsigned(row, 2),
                    planned_at: row.get(3),
                    problem: row.get(4),
                })
                .collect(),
            refused: unsigned(&refused, 0),
            unproven: unproven
                .iter()
                .map(|row| Unproven { blob_type: row.get(0), files: unsigned(row, 1), changes: unsigned(row, 2) })
                .collect(),
            let_go_with: format!(
                "UPDATE \"{}\".file SET proven = true WHERE NOT proven",
                self.schema.replace('"', "\"\"")
            ),
            followed: followed.get(0),
            held_back_by: held,
            ..LogStatus::of(self.shown(), types.collect())
        })
    }

    pub(crate) async fn triggers(&self, table: &str, blob_type: &BlobType, key: &[String]) -> Result<String, LogError> {
        Ok(triggers::postgres(&self.table(table).await?.keyed(key)?, &self.schema, blob_type))
    }

    /// All rows of a table as they are in one moment, and its columns. A policy that hides rows from us is an error.
    pub(crate) async fn rows_of(&self, table: &str) -> Result<TableRows, LogError> {
        let table = self.table(table).await?;
        let begin = format!(
            "BEGIN READ ONLY; SET LOCAL row_security = off; DECLARE waybill_rows CURSOR FOR {}",
            triggers::rows_in_postgres(&table)
        );
        let log = self.clone();
        let begun = async move {
            // Not the pool's any more: whoever goes away in the middle leaves no transaction open in it.
            let Reading { connection, _place: place } = log.reading().await?;
            let connection = PostgresConnection::take(connection);
            connection.batch_execute(&begin).await.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>(try_unfold((connection, place), |(connection, place)| async move {
                let mut lines = Vec::new();
                while lines.len() < CHUNK_BYTES {
                    let rows = connection.query(FETCH, &[]).await.map_err(std::io::Error::other)?;
                    if rows.is_empty() {
                        break;
                    }
                    for row in &rows {
                        line::push(row.get::<_, &str>(0).as_bytes(), false, &mut lines);
                    }
                }
                Ok((!lines.is_empty()).then(|| (Bytes::from(lines), (connection, place))))
            }))
        };
        let rows = futures::stream::once(begun).try_flatten().boxed();
        Ok(TableRows { columns: table.columns, rows })
    }

    /// Tables whose triggers log a type.
    pub(crate) async fn tables_of(&self, blob_type: &BlobType) -> Result<Vec<String>, LogError> {
        let sql = "SELECT DISTINCT n.nspname || '.' || relname FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
                JOIN pg_namespace n ON n.oid = relnamespace JOIN pg_proc p ON p.oid = tgfoid
                JOIN pg_namespace f ON f.oid = pronamespace
            WHERE f.nspname = $1 AND position($2 IN prosrc) > 0 AND tgparentid = 0 ORDER BY 1";
        let connection = self.connection().await?;
        let logs = triggers::logs_as(blob_type);
        let found = connection.query(sql, &[&self.schema, &logs]).await.map_err(|error| self.failed(error))?;
        Ok(found.iter().map(|row| row.get(0)).collect())
    }

    /// The table's name with its schema.
    pub(crate) async fn table_name(&self, table: &str) -> Result<String, LogError> {
        let Table { schema, name, .. } = self.table(table).await?;
        Ok(format!("{}.{name}", schema.unwrap_or_default()))
    }

    async fn table(&self, table: &str) -> Result<Table, LogError> {
        let (schema, name) = match table.split_once('.') {
            Some((schema, name)) => (Some(schema), name),
            None => (None, table),
        };
        // What an index only holds along (INCLUDE) is no part of its key.
        let sql = "SELECT nspname, relname,
                ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
                      ORDER BY attnum),
                ARRAY(SELECT attname::text FROM pg_index, unnest(indkey) WITH ORDINALITY AS part (number, place)
                          JOIN pg_attribute ON attnum = number
                      WHERE indrelid = c.oid AND indisprimary AND attrelid = c.oid AND place <= indnkeyatts ORDER BY place), c.oid
            FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
            WHERE relname = $1 AND nspname = coalesce($2, nspname) AND relkind IN ('r', 'p') AND nspname <> $3
                AND nspname <> 'information_schema' AND NOT starts_with(nspname, 'pg_')";
        let connection = self.connection().await?;
        let found = connection.query(sql, &[&name, &schema, &self.schema]).await.map_err(|error| self.failed(error))?;
        let refused = |problem| Err(LogError::Table { table: table.to_owned(), problem });
        match &*found {
            [] => refused(format!("there is no such table in {}", self.store.shown())),
            [row] => {
                let unique = "SELECT relname, indisprimary, indimmediate,
                        ARRAY(SELECT attname::text FROM unnest(indkey) WITH ORDINALITY AS part (number, place)
                                  JOIN pg_attribute ON attnum = number
                              WHERE attrelid = indrelid AND place <= indnkeyatts ORDER BY place)
                    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
                    WHERE indrelid = $1 AND indisunique AND indpred IS NULL AND indexprs IS NULL ORDER BY relname";
                let unique = connection.query(unique, &[&row.get::<_, u32>(4)]).await;
                let unique = unique.map_err(|error| self.failed(error))?;
                let unique = unique.iter().map(|row| Unique {
                    name: row.get(0),
                    is_primary: row.get(1),
                    always: row.get(2),
                    columns: row.get(3),
                });
                let (schema, name, columns, key) = (Some(row.get(0)), row.get(1), row.get(2), row.get(3));
                Ok(Table { schema, name, columns, key, unique: unique.collect() })
            }
            several => {
                let schemas: Vec<&str> = several.iter().map(|row| row.get(0)).collect();
                refused(format!("there is one in each of the schemas {}; name it as SCHEMA.TABLE", schemas.join(", ")))
            }
        }
    }

    pub(crate) async fn changes(&self, filter: &ChangeFilter) -> Result<Vec<LoggedChange>, LogError> {
        let sql = "SELECT id, blob_type, op, key, left(row::text, $6),
                to_char(occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), correlation_id, causation_id,
                (SELECT CASE WHEN after < c.id THEN export_id END FROM file
                 WHERE file.blob_type = c.blob_type AND file.up_to >= c.id ORDER BY file.up_to LIMIT 1),
                (SELECT problem FROM refused WHERE change = c.id)
            FROM change_log c
            WHERE ($1::text IS NULL OR blob_type = $1) AND ($2::text IS NULL OR key = $2)
                AND ($3::text IS NULL OR correlation_id = $3) AND ($4::bigint IS NULL OR id < $4)
            ORDER BY id DESC LIMIT $5";
        let ChangeFilter { blob_type, key, correlation_id, before, most } = filter;
        let values: &[&(dyn ToSql + Sync)] = &[blob_type, key, correlation_id, before, &i64::from(*most), &SHOWN_MAX];
        let rows = self.connection().await?.query(sql, values).await.map_err(|error| self.failed(error))?;
        let changes = rows.iter().map(|row| LoggedChange {
            id: row.get(0),
            blob_type: row.get(1),
            op: row.get(2),
            key: row.get(3),
            row: row.get(4),
            occurred_at: row.get(5),
            correlation_id: row.get(6),
            causation_id: row.get(7),
            export_id: row.get(8),
            refused: row.get(9),
        });
        Ok(changes.collect())
    }

    pub(crate) async fn refused(&self, most: u32) -> Result<Vec<RefusedChange>, LogError> {
        let sql = "SELECT id, blob_type, key, problem, at FROM refused JOIN change_log ON change = id
                   ORDER BY id DESC LIMIT $1";
        let rows =
            self.connection().await?.query(sql, &[&i64::from(most)]).await.map_err(|error| self.failed(error))?;
        let refused = rows.iter().map(|row| RefusedChange {
            id: row.get(0),
            blob_type: row.get(1),
            key: row.get(2),
            problem: row.get(3),
            at: row.get(4),
        });
        Ok(refused.collect())
    }
}

/// The transaction with the oldest number, which is the one that is waited for, and how to end it. When it began tells nothing of
/// that: one may begin early and get its number late. Source: PostgreSQL, "pg_locks": a transaction holds an exclusive lock on
/// its own number until it ends; everybody may see that, and little else of others' sessions.
const OLDEST: &str = "SELECT number::text, ended_by, who, since, doing, since > clock_timestamp() - interval '1 s' FROM (
        SELECT transactionid AS number, format('SELECT pg_terminate_backend(%s)', pid) AS ended_by,
            format('user %s, program %s', coalesce(usename, '?'), coalesce(nullif(application_name, ''), '?')) AS who,
            xact_start AS since,
            format('%s: %s', coalesce(state, '?'), coalesce(left(query, 200), '?')) AS doing
        FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock' AND granted AND pid <> pg_backend_pid()
        UNION ALL
        SELECT transaction, format('ROLLBACK PREPARED %L', gid), format('user %s, database %s', owner, database), prepared,
            'prepared'
        FROM pg_prepared_xacts) AS under_way
    ORDER BY age(number) DESC LIMIT 1";
/// Where a transaction's age is not for us to know, it is looked for again so long after: most are over by then.
const LOOKED_AGAIN: Duration = Duration::from_secs(1);

/// The server's identity, which is made with its files, and the database's in it.
const CLUSTER: &str =
    "(SELECT system_identifier || '/' || (SELECT oid FROM pg_database WHERE datname = current_database())
    FROM pg_control_system())";

/// All that a publisher writes into its tables, to be rolled back.
const TRIAL: &str = "SET LOCAL lock_timeout = '5s'; SET LOCAL statement_timeout = '15s';
    SELECT pg_current_xact_id();
    UPDATE log SET epoch = epoch;
    INSERT INTO planned (blob_type, up_to) VALUES ('waybill-doctor', 0)
        ON CONFLICT (blob_type) DO UPDATE SET up_to = excluded.up_to;
    INSERT INTO file (export_id, blob_type, after, up_to, changes, bytes, correlation_id, planned_at)
        VALUES ('waybill-doctor', 'waybill-doctor', 0, 0, 0, 0, '-', clock_timestamp());
    UPDATE file SET exported_at = clock_timestamp() WHERE export_id = 'waybill-doctor';
    DELETE FROM file WHERE export_id = 'waybill-doctor';
    INSERT INTO refused (change, problem, at) VALUES (0, '-', clock_timestamp());
    DELETE FROM change_log WHERE false";

/// How ids are given, and up to where they are published or there.
const IDS: &str = "SELECT format('%I.%I', nspname, relname), CASE WHEN is_called THEN last_value ELSE 0 END,
        greatest((SELECT max(id) FROM change_log), (SELECT max(up_to) FROM planned), 0), seqincrement, seqcache
    FROM pg_sequence JOIN pg_class ON pg_class.oid = seqrelid JOIN pg_namespace ON pg_namespace.oid = relnamespace,
        change_log_id_seq
    WHERE seqrelid = 'change_log_id_seq'::regclass";

/// The types that are there, and up to where each is planned. They are found by jumps through the index, whatever number of
/// changes they have.
const TYPES: &str = "WITH RECURSIVE there (blob_type) AS (
        SELECT min(blob_type) FROM change_log
        UNION ALL
        SELECT (SELECT min(blob_type) FROM change_log c WHERE c.blob_type > there.blob_type)
        FROM there WHERE there.blob_type IS NOT NULL),
    known AS (
        SELECT there.blob_type, coalesce(planned.up_to, 0) AS after FROM there LEFT JOIN planned USING (blob_type)
        WHERE there.blob_type IS NOT NULL)";

/// The changes of a file: its type, and its range.
const OF_A_FILE: &str = "FROM change_log WHERE blob_type = $1 AND id > $2 AND id <= $3
    AND NOT EXISTS (SELECT FROM refused WHERE change = change_log.id)";

impl PostgresSeat {
    async fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, LogError> {
        self.session.query(sql, values).await.map_err(unavailable)
    }

    async fn number(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<i64, LogError> {
        Ok(self.query(sql, values).await?.first().map_or(0, |row| row.get(0)))
    }

    pub(crate) async fn settled(&mut self) -> Result<i64, LogError> {
        if let Some(Awaited { up_to, number, looks }) = self.awaited {
            let oldest = "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint";
            // Our own transaction with that number is over.
            if self.number(oldest, &[]).await? <= number {
                self.awaited = Some(Awaited { up_to, number, looks: looks.saturating_add(1) });
                return Ok(self.settled);
            }
            (self.settled, self.awaited) = (up_to, None);
        }
        let given = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM change_log_id_seq";
        let given = self.number(given, &[]).await?;
        if given < self.settled {
            return Err(self.log.begun_anew(&self.sequence, given, self.settled));
        }
        if given > self.settled {
            // The snapshot is taken first: when nothing was under way then, its oldest is at most our number.
            let sql =
                "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint, pg_current_xact_id()::text::bigint";
            let rows = self.query(sql, &[]).await?;
            let (oldest, number) = rows.first().map_or((0, i64::MAX), |row| (row.get(0), row.get::<_, i64>(1)));
            if oldest >= number {
                self.settled = given;
            } else {
                self.awaited = Some(Awaited { up_to: given, number, looks: 0 });
            }
        }
        Ok(self.settled)
    }

    pub(crate) fn may_settle_soon(&self) -> bool {
        self.awaited.as_ref().is_some_and(|awaited| awaited.looks < LOOKS_SOON)
    }

    pub(crate) async fn waiting(&mut self, up_to: i64) -> Result<Vec<(String, i64)>, LogError> {
        let sql = format!(
            "{TYPES} SELECT blob_type, after FROM known WHERE EXISTS (
                SELECT FROM change_log c WHERE c.blob_type = known.blob_type AND c.id > after AND c.id <= $1)"
        );
        Ok(self.query(&sql, &[&up_to]).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    pub(crate) async fn plan(
        &mut self,
        blob_type: &str,
        up_to: i64,
        cut: Cut,
        due: bool,
    ) -> Result<Option<Tail>, LogError> {
        // One statement, so that a file and the place up to which its type is planned are one transaction.
        let sql = "WITH place AS MATERIALIZED (SELECT coalesce((SELECT up_to FROM planned WHERE blob_type = $1), 0) AS after),
            taken AS MATERIALIZED (
                SELECT id, octet_length(row::text)::bigint AS length, correlation_id, causation_id, traceparent
                FROM change_log WHERE blob_type = $1 AND id > (SELECT after FROM place) AND id <= $2 ORDER BY id LIMIT $3::bigint),
            measured AS (SELECT *, CASE WHEN length <= $10::bigint THEN length + 1 ELSE 0 END AS bytes FROM taken),
            summed AS (SELECT *, sum(bytes) OVER (ORDER BY id) - bytes AS before FROM measured),
            cut AS MATERIALIZED (
                SELECT *, NOT is_full AND (SELECT count(*) FROM taken) = $3::bigint AND $3::bigint < $8::bigint AS is_more FROM (
                    SELECT max(id) AS up_to, count(*) AS changes, sum(bytes)::bigint AS bytes,
                        CASE WHEN min(correlation_id) = max(correlation_id) AND count(correlation_id) = count(*)
                             THEN min(correlation_id) ELSE $6 END AS correlation_id,
                        CASE WHEN min(causation_id) = max(causation_id) AND count(causation_id) = count(*)
                             THEN min(causation_id) END AS causation_id,
                        CASE WHEN min(traceparent) = max(traceparent) AND count(traceparent) = count(*)
                             THEN min(traceparent) END AS traceparent,
                        count(*) < (SELECT count(*) FROM taken) OR count(*) = $8::bigint OR sum(bytes) >= $4::bigint AS is_full
                    FROM summed WHERE before < $4::bigint HAVING count(*) > 0) AS of_them),
            made AS (
                INSERT INTO file (export_id, blob_type, after, up_to, changes, bytes, correlation_id, causation_id, traceparent,
                    planned_at)
                SELECT $5, $1, after, up_to, changes, bytes, correlation_id, causation_id, traceparent, clock_timestamp()
                FROM cut, place WHERE (is_full OR $7) AND NOT is_more
                RETURNING number, after, up_to),
            moved AS (
                INSERT INTO planned (blob_type, up_to) SELECT $1, up_to FROM made
                ON CONFLICT (blob_type) DO UPDATE SET up_to = excluded.up_to),
            left_out AS (
                INSERT INTO refused (change, problem, at)
                SELECT id, format($9::text, length), clock_timestamp() FROM taken, made
                WHERE length > $10::bigint AND id <= made.up_to
                ON CONFLICT DO NOTHING)
            SELECT cut.changes, cut.is_full, made.number, made.after, made.up_to, cut.correlation_id, cut.causation_id,
                cut.traceparent, cut.is_more
            FROM cut LEFT JOIN made ON true";
        let export_id = ExportId::random();
        let max_rows = i64::from(cut.max_rows.get());
        let mut looked_at = LOOKED_AT_FIRST.min(max_rows);
        let (found, row) = loop {
            let values: &[&(dyn ToSql + Sync)] = &[
                &blob_type,
                &up_to,
                &looked_at,
                &signed(cut.max_bytes.get()),
                &export_id.as_str(),
                &Uuid::new_v4().to_string(),
                &due,
                &max_rows,
                &too_long("%s"),
                &ROW_BYTES_MAX,
            ];
            let rows = self.query(sql, values).await?;
            let Some(row) = rows.into_iter().next() else { return Ok(None) };
            if !row.get::<_, bool>(8) {
                break (unsigned(&row, 0), row);
            }
            looked_at = looked_at.saturating_mul(8).min(max_rows);
        };
        let Some(number) = row.get::<_, Option<i64>>(2) else { return Ok(Some(Tail::Waits(found))) };
        let file = PlannedFile {
            number,
            export_id,
            blob_type: blob_type.to_owned(),
            after: row.get(3),
            up_to: row.get(4),
            changes: found,
            correlation_id: row.get(5),
            causation_id: row.get(6),
            traceparent: row.get(7),
        };
        Ok(Some(Tail::File(Box::new(file), row.get(1))))
    }

    pub(crate) async fn open_files(&mut self) -> Result<Vec<PlannedFile>, LogError> {
        let sql = format!("SELECT {FILE_COLUMNS} FROM file WHERE exported_at IS NULL ORDER BY number");
        self.query(&sql, &[]).await?.iter().map(planned_file).collect()
    }

    pub(crate) async fn exported(
        &mut self,
        number: i64,
        expires_at: Option<OffsetDateTime>,
        as_number: &FileNumber,
    ) -> Result<(), LogError> {
        let sql = "UPDATE file SET exported_at = clock_timestamp(), expires_at = $2, publisher = $3, epoch = $4, sequence = $5
                   WHERE number = $1";
        let FileNumber { publisher, epoch, sequence } = as_number;
        self.query(sql, &[&number, &expires_at, publisher, epoch, &signed(*sequence)]).await.map(drop)
    }

    pub(crate) async fn refuse(&mut self, file: &PlannedFile, bad: &[BadChange]) -> Result<Vec<i64>, LogError> {
        let sql = format!(
            "INSERT INTO refused (change, problem, at)
             SELECT id, problem, clock_timestamp()
             FROM (SELECT id, row_number() OVER (ORDER BY id) AS place {OF_A_FILE}) AS of_it
             JOIN unnest($4::bigint[], $5::text[]) AS bad (place, problem) USING (place)
             ON CONFLICT DO NOTHING RETURNING change"
        );
        let places: Vec<i64> = bad.iter().map(|bad| signed(bad.row)).collect();
        let problems: Vec<String> = bad.iter().map(|bad| shown(&bad.problem)).collect();
        let values: &[&(dyn ToSql + Sync)] = &[&file.blob_type, &file.after, &file.up_to, &places, &problems];
        Ok(self.query(&sql, values).await?.iter().map(|row| row.get(0)).collect())
    }

    pub(crate) async fn not_made(&mut self, number: i64, problem: &str) -> Result<(), LogError> {
        let sql = "UPDATE file SET problem = $2 WHERE number = $1";
        self.query(sql, &[&number, &shown(problem)]).await.map(drop)
    }

    pub(crate) async fn expired(
        &mut self,
        by: OffsetDateTime,
        (at, number): (OffsetDateTime, i64),
        unproven: bool,
    ) -> Result<Vec<ExpiredFile>, LogError> {
        let sql = "SELECT number, export_id, expires_at, blob_type, proven, publisher, epoch, sequence FROM file
                   WHERE expires_at <= $1 AND expires_at >= $2 AND (expires_at, number) > ($2, $3)
                       AND ($5::boolean OR proven IS DISTINCT FROM false)
                   ORDER BY expires_at, number LIMIT $4";
        let rows = self.query(sql, &[&by, &at, &number, &EXPIRED_AT_ONCE, &unproven]).await?;
        let file = |row: &Row| {
            let export_id = export_id(row, 1)?;
            let (number, expires_at, blob_type, proven) = (row.get(0), row.get(2), row.get(3), row.get(4));
            Ok(ExpiredFile { number, export_id, expires_at, blob_type, proven, as_number: file_number(row, 5) })
        };
        rows.iter().map(file).collect()
    }

    pub(crate) async fn unproven(&mut self, number: i64) -> Result<bool, LogError> {
        let sql = "UPDATE file SET proven = false WHERE number = $1 AND proven IS NULL RETURNING number";
        Ok(!self.query(sql, &[&number]).await?.is_empty())
    }

    pub(crate) async fn prune(&mut self, number: i64) -> Result<bool, LogError> {
        let sql = "WITH it AS MATERIALIZED (SELECT number, blob_type, after, up_to FROM file WHERE number = $1),
            old AS MATERIALIZED (
                SELECT id FROM it JOIN LATERAL (
                    SELECT id FROM change_log c WHERE c.blob_type = it.blob_type AND id > after AND id <= up_to
                        AND NOT EXISTS (SELECT FROM refused WHERE change = c.id)
                    ORDER BY id LIMIT $2) AS of_it ON true),
            deleted AS (DELETE FROM change_log USING old WHERE change_log.id = old.id),
            ended AS (DELETE FROM file USING it WHERE file.number = it.number AND (SELECT count(*) FROM old) < $2)
            SELECT count(*) FROM old";
        Ok(self.number(sql, &[&number, &PRUNED_AT_ONCE]).await? < PRUNED_AT_ONCE)
    }
}

/// The transaction that others wait for, if it is older than a second.
async fn held_back_by(connection: &PostgresConnection) -> Result<Option<Holder>, Error> {
    let Some(mut row) = connection.query_opt(OLDEST, &[]).await? else { return Ok(None) };
    if row.get::<_, Option<bool>>(5).is_none() {
        let number: String = row.get(0);
        sleep(LOOKED_AGAIN).await;
        match connection.query_opt(OLDEST, &[]).await? {
            Some(again) if again.get::<_, &str>(0) == number => row = again,
            _ => return Ok(None),
        }
    }
    let is_young = row.get::<_, Option<bool>>(5) == Some(true);
    let holder = Holder { ended_by: row.get(1), who: row.get(2), since: row.get(3), doing: row.get(4) };
    Ok((!is_young).then_some(holder))
}

fn export_id(row: &Row, at: usize) -> Result<ExportId, LogError> {
    ExportId::new(row.get::<_, String>(at)).map_err(|error| LogError::Unreadable(error.into()))
}

fn planned_file(row: &Row) -> Result<PlannedFile, LogError> {
    Ok(PlannedFile {
        number: row.get(0),
        export_id: export_id(row, 1)?,
        blob_type: row.get(2),
        after: row.get(3),
        up_to: row.get(4),
        changes: unsigned(row, 5),
        correlation_id: row.get(6),
        causation_id: row.get(7),
        traceparent: row.get(8),
    })
}

/// The number that a file has, where it was kept.
fn file_number(row: &Row, at: usize) -> Option<FileNumber> {
    let (publisher, epoch) = (row.get::<_, Option<String>>(at)?, row.get::<_, Option<String>>(at + 1)?);
    let sequence = row.get::<_, Option<i64>>(at + 2)?.unsigned_abs();
    Some(FileNumber { publisher, epoch, sequence })
}

/// Where the log's files go, the server that it was made on, and this one.
fn identity() -> String {
    format!("SELECT epoch, cluster, {CLUSTER} FROM log")
}

/// A text that is only shown: PostgreSQL takes no zero.
fn shown(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn unsigned(row: &Row, at: usize) -> u64 {
    row.get::<_, i64>(at).unsigned_abs()
}

fn unavailable(error: SessionError) -> LogError {
    LogError::Unavailable(error.into())
}

fn opening(error: PostgresError) -> LogError {
    match error {
        PostgresError::Unreachable { .. } | PostgresError::Refused { .. } | PostgresError::Failed { .. } => {
            LogError::Unavailable(error.into())
        }
        error => LogError::Open(error.into()),
    }
}
