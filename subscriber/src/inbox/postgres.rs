//! The inbox in a PostgreSQL database: several subscribers, on any number of machines, share its work.
//!
//! Every instant is the database's, so the workers' clocks do not matter. Rows are leased with `FOR UPDATE … SKIP LOCKED`:
//! nobody waits for another, and nobody gets what another has. A lease of a dead worker ends by its time: unlike on one
//! machine, nobody can know sooner.
//!
//! Most calls are one statement, which writes the row together with its line of history. A call that gets no answer in time,
//! or an error, gives up its connection; the next one makes another.

mod admit;
mod due;
mod retention;
mod sequences;
#[cfg(test)]
mod tests;
mod value;

use std::{fmt, sync::Arc, time::Duration};

use tokio::time::{Instant, error::Elapsed, timeout};
use waybill_contracts::MANIFEST_TYPE;
use waybill_store::{
    Migration, Postgres, PostgresConnection, PostgresError, PostgresOptions, Schema, lock_number, signed,
    tokio_postgres::{Error, Row, types::ToSql},
};

use self::value::{At, key_of, seconds};
use super::{
    AT_RISK, Admitted, Arrival, Asked, AtRisk, Backlog, Beat, BlobSeen, Counts, End, FileKey, HistoryEntry, Inbox,
    InboxError, InboxRow, Lease, Leased, ListFilter, Pending, Place, PruneStep, Pruned, PublisherSequence, Retention,
    SequenceNamed, SequenceSeen, State, TypeBacklog, TypeTotals, Wanted, WorkerId, WorkerSeen,
    health::AT_RISK_NAMED,
    refuse_older,
    stored::{
        Ending, FORGOTTEN_AFTER, HISTORY_KEPT, OTHER_TYPE, StoredFile, UNKNOWN_TO_SINK, WANTED_AGAIN, WORKERS_MAX,
        not_wanted, shown, trouble, trusted_until, unreadable,
    },
    turns::{Share, Turns},
};

pub(super) const SCHEMA: Schema = Schema {
    application_id: 0,
    name: "inbox",
    migrations: &[
        Migration { name: "inbox, its history and known places", sql: include_str!("postgres_0001.sql") },
        Migration { name: "workers tell of themselves", sql: include_str!("postgres_0002.sql") },
        Migration { name: "types take turns, and urgent files come first", sql: include_str!("postgres_0003.sql") },
        Migration { name: "a file goes on at a checkpoint", sql: include_str!("postgres_0004.sql") },
        Migration {
            name: "numbers tell what is missing, and what is over can be pruned",
            sql: include_str!("postgres_0005.sql"),
        },
        Migration { name: "numbers are noted with the rows", sql: include_str!("postgres_0006.sql") },
        Migration { name: "manifests tell of numbers", sql: include_str!("postgres_0007.sql") },
    ],
    shared_with_user: false,
};

/// The schema of the tables, unless another is named.
const SCHEMA_NAME: &str = "waybill_inbox";
/// One each for receiving, for its dead letters, for leasing, and for the ends of files.
const CONNECTIONS_MAX: usize = 4;
/// For one answer; then the connection counts as dead.
const PATIENCE: Duration = Duration::from_secs(30);
/// Files skipped in one transaction.
const SKIPPED_AT_ONCE: i64 = 10_000;
/// A plan that was made while the table was small must not be kept, nor one that reads the whole table because nobody has
/// counted yet what is in it.
///
/// Whoever is frozen, or whose machine died, in the middle of a transaction lets go of what it locked.
const SETTINGS: &str = "-c plan_cache_mode=force_custom_plan -c enable_seqscan=off \
                        -c idle_in_transaction_session_timeout=10s";

/// How a [`PostgresInbox`] behaves.
#[derive(Debug, Clone)]
pub struct PostgresInboxOptions {
    /// How long a lease lasts unless renewed; default 60 s. The same for all who share the inbox.
    pub lease: Duration,
    /// The schema that the tables have for themselves, made if it is not there; default `waybill_inbox`.
    pub schema: String,
}

impl Default for PostgresInboxOptions {
    fn default() -> Self {
        Self { lease: Duration::from_secs(60), schema: SCHEMA_NAME.to_owned() }
    }
}

/// An inbox in a schema of a PostgreSQL database, which may be the sink's. Clones share its connections, four at most.
#[derive(Clone)]
pub struct PostgresInbox {
    store: Postgres,
    lease: Duration,
    schema: String,
    turns: Arc<Turns>,
    /// The advisory lock under which messages are added.
    lock: i64,
}

impl PostgresInbox {
    /// Connects, and makes or completes the tables. The address is `postgres://user:password@host:port/database`; see
    /// [`Postgres::new`].
    ///
    /// # Errors
    /// [`InboxError::Open`] for an address, a user or a right that a person has to mend, and for a schema that is newer than this
    /// program or somebody else's; [`InboxError::Unavailable`] when the server is down, starts, or has no place:
    /// [`once_there`](crate::opening::once_there) waits for that.
    pub async fn open(address: &str, options: PostgresInboxOptions) -> Result<Self, InboxError> {
        let inbox = Self::at(address, options)?;
        inbox.store.migrate(&SCHEMA).await.map_err(not_open)?;
        Ok(inbox)
    }

    /// Connects to an inbox, if there is one; to look, or for what a person wants. Its schema stays as it is.
    ///
    /// # Errors
    /// As [`PostgresInbox::open`], and [`InboxError::Older`].
    pub async fn open_existing(address: &str, options: PostgresInboxOptions) -> Result<Option<Self>, InboxError> {
        let inbox = Self::at(address, options)?;
        let Some(version) = inbox.store.version(&SCHEMA).await.map_err(not_open)? else { return Ok(None) };
        refuse_older(version.into(), &SCHEMA)?;
        // No step is missing; a newer schema is refused.
        inbox.store.migrate(&SCHEMA).await.map_err(not_open)?;
        Ok(Some(inbox))
    }

    fn at(address: &str, options: PostgresInboxOptions) -> Result<Self, InboxError> {
        let PostgresInboxOptions { lease, schema } = options;
        let store = Postgres::new(
            address,
            &PostgresOptions {
                connections_max: CONNECTIONS_MAX,
                application_name: "waybill inbox".to_owned(),
                schema: Some(schema.clone()),
                settings: SETTINGS,
                ..PostgresOptions::default()
            },
        )
        .map_err(not_open)?;
        let lock = lock_number(&format!("waybill inbox {schema}"));
        Ok(Self { store, lease, schema, turns: Arc::default(), lock })
    }

    /// What [`PostgresInbox::shown`] says of an address and a schema; touches no network.
    ///
    /// # Errors
    /// [`InboxError::Open`] for an address that cannot be used.
    pub fn place(address: &str, schema: &str) -> Result<String, InboxError> {
        let options = PostgresInboxOptions { schema: schema.to_owned(), ..PostgresInboxOptions::default() };
        Ok(Self::at(address, options)?.shown())
    }

    /// `postgres://HOST:PORT/DATABASE, schema NAME`, without user or password.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{}, schema {}", self.store.shown(), self.schema)
    }

    /// Closes the connections. Clones fail from then on.
    pub fn close(&self) {
        self.store.close();
    }

    async fn connection(&self) -> Result<PostgresConnection, InboxError> {
        self.store.connection().await.map_err(unavailable)
    }

    async fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, InboxError> {
        let connection = self.connection().await?;
        let asked = timeout(PATIENCE, async {
            let statement = connection.prepare_cached(sql).await?;
            connection.query(&statement, values).await
        });
        let answer = asked.await;
        self.answer(connection, answer)
    }

    /// How many rows a statement changed, or added to the history.
    async fn execute(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<u64, InboxError> {
        let connection = self.connection().await?;
        let asked = timeout(PATIENCE, async {
            let statement = connection.prepare_cached(sql).await?;
            connection.execute(&statement, values).await
        });
        let answer = asked.await;
        self.answer(connection, answer)
    }

    /// A connection that failed is not used again: the server may be one that only reads by now, or have new tables.
    fn answer<T>(
        &self,
        connection: PostgresConnection,
        answer: Result<Result<T, Error>, Elapsed>,
    ) -> Result<T, InboxError> {
        let error = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => self.store.error(error),
            Err(_) => PostgresError::Unreachable {
                shown: self.store.shown().to_owned(),
                problem: "no answer in time".to_owned(),
            },
        };
        drop(PostgresConnection::take(connection));
        Err(unavailable(error))
    }

    /// Changes a row as a person wants it, with a line of history, if it is in one of the states.
    async fn decide(
        &self,
        id: i64,
        to: State,
        from: &[State],
        problem: Option<&str>,
        why: &str,
    ) -> Result<Asked, InboxError> {
        const DECIDE: &str = "WITH changed AS (
                UPDATE inbox SET state = $2, reason = CASE $2 WHEN 'saved' THEN NULL ELSE reason END, problem = $3,
                    due_at = CASE $2 WHEN 'saved' THEN clock_timestamp() END, changed_at = clock_timestamp()
                WHERE id = $1 RETURNING id, changed_at)
            INSERT INTO history (inbox_id, at, state, problem) SELECT id, changed_at, $2, $4 FROM changed";
        let mut connection = self.connection().await?;
        let asked = timeout(PATIENCE, async {
            let tx = connection.transaction().await?;
            let sql = "SELECT state, file_key IS NOT NULL FROM inbox WHERE id = $1 FOR NO KEY UPDATE";
            let Some(row) = tx.query_opt(&tx.prepare_cached(sql).await?, &[&id]).await? else {
                return Ok(Asked::Unknown);
            };
            if to == State::Saved && !row.get::<_, bool>(1) {
                return Ok(Asked::NoFile);
            }
            let state: &str = row.get(0);
            let state = state.parse().unwrap_or(State::Done);
            if !from.contains(&state) {
                return Ok(Asked::Not(state));
            }
            let decide = tx.prepare_cached(DECIDE).await?;
            tx.execute(&decide, &[&id, &to.as_str(), &problem.map(value::text), &value::text(why)]).await?;
            tx.commit().await?;
            Ok::<_, Error>(Asked::Done)
        });
        let answer = asked.await;
        self.answer(connection, answer)
    }
}

impl fmt::Debug for PostgresInbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresInbox").field("database", &self.shown()).finish_non_exhaustive()
    }
}

/// Conditions on the row, and the values that they speak of.
struct Conditions<'v> {
    sql: String,
    values: Vec<&'v (dyn ToSql + Sync)>,
}

impl<'v> Conditions<'v> {
    fn new(values: Vec<&'v (dyn ToSql + Sync)>) -> Self {
        Self { sql: "true".to_owned(), values }
    }

    /// `condition` stands before the number of its value.
    fn and(&mut self, condition: &str, value: &'v (dyn ToSql + Sync)) {
        self.values.push(value);
        self.sql.push_str(&format!(" AND {condition}${}", self.values.len()));
    }

    fn and_brackets(&mut self, condition: &str, value: &'v (dyn ToSql + Sync)) {
        self.and(condition, value);
        self.sql.push(')');
    }
}

/// What of [`Wanted`] the database is told.
struct WantedValues {
    ids: Option<Vec<i64>>,
    types: Option<Vec<String>>,
    since: Option<At>,
    untried: bool,
}

impl WantedValues {
    fn of(wanted: &Wanted) -> Self {
        Self {
            ids: wanted.ids.clone(),
            types: wanted.types.as_deref().map(patterns),
            since: wanted.since.map(At::of),
            untried: wanted.untried,
        }
    }

    fn conditions<'v>(&'v self, values: Vec<&'v (dyn ToSql + Sync)>) -> Conditions<'v> {
        let mut conditions = Conditions::new(values);
        if let Some(ids) = &self.ids {
            conditions.and_brackets("id = ANY (", ids);
        }
        if let Some(types) = &self.types {
            conditions.and_brackets("blob_type LIKE ANY (", types);
        }
        if let Some(since) = &self.since {
            conditions.and("received_at >= ", since);
        }
        if self.untried {
            conditions.sql.push_str(" AND problem IS NULL");
        }
        conditions
    }
}

impl PostgresInbox {
    async fn all_named(&self) -> Result<Vec<sequences::Named>, InboxError> {
        let up_to = self.query(sequences::NAMED, &[]).await?;
        Ok(sequences::named(&up_to, &self.query(sequences::VOID, &[]).await?))
    }
}

impl Inbox for PostgresInbox {
    async fn admit(&self, burst: Vec<Arrival>) -> Result<Vec<Admitted>, InboxError> {
        let mut connection = self.connection().await?;
        let asked = timeout(PATIENCE, async {
            let tx = connection.transaction().await?;
            let answers = admit::admit(&tx, self.lock, &burst).await?;
            tx.commit().await?;
            Ok::<_, Error>(answers)
        });
        let answer = asked.await;
        self.answer(connection, answer)
    }

    async fn known(&self, files: &[FileKey]) -> Result<Vec<Option<i64>>, InboxError> {
        let hashes: Vec<Vec<u8>> = files.iter().map(value::hash).collect();
        let sql = "SELECT coalesce((SELECT id FROM inbox WHERE file_hash = hash AND state <> 'duplicate'),
                       (SELECT id FROM pruned WHERE file_hash = hash))
                   FROM unnest($1::bytea[]) WITH ORDINALITY AS given (hash, place) ORDER BY place";
        Ok(self.query(sql, &[&hashes]).await?.iter().map(|row| row.get(0)).collect())
    }

    async fn lease(&self, worker: &WorkerId, most: u32, wanted: &Wanted) -> Result<Vec<Leased>, InboxError> {
        let trusted_until = trusted_until(Instant::now(), self.lease);
        let (wanted, lease) = (WantedValues::of(wanted), seconds(self.lease));
        let Share { urgent, after } = self.turns.share(most);
        let after = value::text(&after).into_owned();
        let mut values: Vec<&(dyn ToSql + Sync)> = vec![&worker.0, &lease];
        if wanted.ids.is_none() {
            values.push(&after);
        }
        let mut condition = |text: &str, value| {
            values.push(value);
            format!("AND {text} (${})", values.len())
        };
        let types = wanted.types.as_ref().map(|types| condition("blob_type LIKE ANY", types));
        let mut each = wanted.since.as_ref().map(|since| condition("received_at >=", since)).unwrap_or_default();
        let named = wanted.ids.as_ref().map(|ids| condition("id = ANY", ids));
        if wanted.untried {
            each.push_str(" AND problem IS NULL");
        }
        let types = types.unwrap_or_default();
        let sql = match named {
            Some(named) => due::lease_named(most, &format!("{named} {types} {each}")),
            None => due::lease(most, urgent, &types, &each),
        };
        let mut taken = Vec::new();
        let mut last = None;
        for row in self.query(&sql, &values).await? {
            let [leased_at, until] = ["leased_at", "until"].map(|name| row.get::<_, At>(name).instant());
            let lease = Lease { id: row.get("id"), worker: worker.clone(), leased_at, until, trusted_until };
            match read_file(&row).leased(lease.clone()) {
                Ok(leased) => {
                    if row.get::<_, i32>("kind") > 0 {
                        last = Some(leased.waybill.metadata.blob_type.clone());
                    }
                    taken.push(leased);
                }
                // Damaged, or saved by a version that understood more: not in the way of the others.
                Err(error) => {
                    let end = End::Quarantine { reason: error.reason, problem: unreadable(&error) };
                    if let Err(error) = self.finish(&lease, end).await {
                        tracing::warn!(id = lease.id, %error, "a row that cannot be read is not put aside yet");
                    }
                }
            }
        }
        if let Some(last) = last {
            self.turns.served(&last);
        }
        Ok(taken)
    }

    async fn renew(&self, lease: &Lease, rows: u64) -> Result<Option<Lease>, InboxError> {
        let trusted_until = trusted_until(Instant::now(), self.lease);
        let sql = "UPDATE inbox SET due_at = clock_timestamp() + make_interval(secs => $4), rows = greatest(rows, $5)
                   WHERE id = $1 AND worker = $2 AND leased_at = $3 AND state = 'working' AND due_at > clock_timestamp()
                   RETURNING due_at";
        let (leased_at, seconds) = (At::of(lease.leased_at), seconds(self.lease));
        let rows = self.query(sql, &[&lease.id, &lease.worker.0, &leased_at, &seconds, &signed(rows)]).await?;
        let until = rows.first().map(|row| row.get::<_, At>(0).instant());
        Ok(until.map(|until| Lease { until, trusted_until, ..lease.clone() }))
    }

    async fn note_blob(&self, lease: &Lease, blob: &BlobSeen) -> Result<bool, InboxError> {
        let sql = "UPDATE inbox SET blob_etag = $4, blob_length = $5, blob_checkpoint = $6
                   WHERE id = $1 AND worker = $2 AND leased_at = $3 AND state = 'working' AND due_at > clock_timestamp()";
        let (checkpoint, leased_at) = (blob.checkpoint_text(), At::of(lease.leased_at));
        let values: &[&(dyn ToSql + Sync)] =
            &[&lease.id, &lease.worker.0, &leased_at, &value::text(&blob.etag), &signed(blob.length), &checkpoint];
        Ok(self.execute(sql, values).await? == 1)
    }

    async fn finish(&self, lease: &Lease, end: End) -> Result<bool, InboxError> {
        const FINISH: &str = "WITH ended AS (
                UPDATE inbox SET state = $4, reason = $5, problem = $6,
                    due_at = clock_timestamp() + make_interval(secs => $7::double precision), attempts = attempts + $8,
                    worker = NULL, leased_at = NULL, changed_at = clock_timestamp(),
                    rows = coalesce($9, rows), bad_rows = coalesce($10, bad_rows), filtered_rows = $11,
                    stored_bytes = coalesce(nullif($12, 0::bigint), stored_bytes), plain_bytes = coalesce(nullif($13, 0::bigint), plain_bytes)
                WHERE id = $1 AND worker = $2 AND leased_at = $3 AND state = 'working' AND due_at > clock_timestamp()
                RETURNING id, changed_at, state, reason, problem)";
        const NOTE: &str = "INSERT INTO history (inbox_id, at, state, reason, problem, worker)
            SELECT id, changed_at, state, reason, problem, $2 FROM ended";
        // Whoever came to its end tells no more; who waits may do so for months.
        const FORGET: &str = "forgotten AS (
                DELETE FROM history USING ended WHERE inbox_id = ended.id
                    AND history.id > (SELECT min(id) FROM history WHERE inbox_id = $1)
                    AND history.id <= (SELECT id FROM history WHERE inbox_id = $1 ORDER BY id DESC LIMIT 1 OFFSET";
        let Ending { state, reason, problem, due_in, tries, figures } = Ending::of(&end);
        let sql = match state {
            State::Saved => &format!("{FINISH}, {FORGET} {HISTORY_KEPT})) {NOTE}"),
            _ => &format!("{FINISH} {NOTE}"),
        };
        let figure = |of: fn(&super::FileDone) -> u64| figures.map(|figures| signed(of(figures)));
        let values: &[&(dyn ToSql + Sync)] = &[
            &lease.id,
            &lease.worker.0,
            &At::of(lease.leased_at),
            &state.as_str(),
            &reason.map(|reason| reason.as_str()),
            &problem.map(value::text),
            &due_in.map(seconds),
            &i32::try_from(tries).unwrap_or(i32::MAX),
            &figure(|done| done.rows),
            &figure(|done| done.bad_rows),
            &figures.and_then(|done| done.filtered_rows).map(signed),
            &figure(|done| done.stored_bytes),
            &figure(|done| done.plain_bytes),
        ];
        Ok(self.execute(sql, values).await? == 1)
    }

    async fn skip_other_types(&self, types: &[String]) -> Result<u64, InboxError> {
        // The types that are there are found by jumps through the index, whatever number of files they have.
        let sql = "WITH RECURSIVE there (blob_type) AS (
                SELECT min(blob_type) FROM inbox WHERE state = 'saved'
                UNION ALL
                SELECT (SELECT min(blob_type) FROM inbox WHERE state = 'saved' AND blob_type > there.blob_type)
                FROM there WHERE there.blob_type IS NOT NULL),
            other AS MATERIALIZED (
                SELECT id FROM inbox
                WHERE state = 'saved' AND blob_type = ANY (ARRAY(SELECT blob_type FROM there WHERE NOT blob_type LIKE ANY ($1)))
                LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED),
            skipped AS (
                UPDATE inbox SET state = 'skipped', due_at = NULL, problem = $3, changed_at = clock_timestamp()
                FROM other WHERE inbox.id = other.id RETURNING inbox.id, changed_at)
            INSERT INTO history (inbox_id, at, state, problem) SELECT id, changed_at, 'skipped', $3 FROM skipped";
        let patterns = patterns(types);
        let mut skipped = 0;
        loop {
            let now = self.execute(sql, &[&patterns, &SKIPPED_AT_ONCE, &OTHER_TYPE]).await?;
            skipped += now;
            if now < SKIPPED_AT_ONCE.unsigned_abs() {
                return Ok(skipped);
            }
        }
    }

    async fn done_files(&self, after: i64, most: u32) -> Result<Vec<(i64, FileKey)>, InboxError> {
        let sql = "SELECT id, file_key FROM inbox
                   WHERE state = 'done' AND id > $1 AND blob_type IS DISTINCT FROM $3 ORDER BY id LIMIT $2";
        let rows = self.query(sql, &[&after, &i64::from(most), &MANIFEST_TYPE]).await?;
        Ok(rows.iter().map(|row| (row.get(0), key_of(row.get(1)))).collect())
    }

    async fn reopen(&self, ids: &[i64]) -> Result<u64, InboxError> {
        // Several who find the same at their start follow each other, in the order of the ids.
        let sql = "WITH known AS MATERIALIZED (
                SELECT id FROM inbox WHERE id = ANY ($1) AND state = 'done' ORDER BY id FOR NO KEY UPDATE),
            reopened AS (
                UPDATE inbox SET state = 'saved', due_at = clock_timestamp(), changed_at = clock_timestamp(), rows = 0,
                    bad_rows = 0, filtered_rows = NULL, blob_etag = NULL, blob_length = NULL, blob_checkpoint = NULL
                FROM known WHERE inbox.id = known.id RETURNING inbox.id, changed_at)
            INSERT INTO history (inbox_id, at, state, problem) SELECT id, changed_at, 'saved', $2 FROM reopened";
        self.execute(sql, &[&ids, &UNKNOWN_TO_SINK]).await
    }

    async fn hasten(&self, ids: &[i64]) -> Result<u64, InboxError> {
        let sql = "WITH known AS MATERIALIZED (
                SELECT id FROM inbox WHERE id = ANY ($1) AND state = 'saved' AND due_at > clock_timestamp()
                ORDER BY id FOR NO KEY UPDATE)
            UPDATE inbox SET due_at = clock_timestamp() FROM known WHERE inbox.id = known.id";
        self.execute(sql, &[&ids]).await
    }

    async fn retry(&self, id: i64) -> Result<Asked, InboxError> {
        let from = [State::Saved, State::Quarantined, State::Skipped, State::Expired];
        self.decide(id, State::Saved, &from, None, WANTED_AGAIN).await
    }

    async fn skip(&self, id: i64, why: &str) -> Result<Asked, InboxError> {
        let (from, why) = ([State::Saved, State::Quarantined, State::Expired], not_wanted(why));
        self.decide(id, State::Skipped, &from, Some(&why), &why).await
    }

    async fn remember_place(&self, place: &Place) -> Result<(), InboxError> {
        let sql = "INSERT INTO place (endpoint, container, first_seen_at) VALUES ($1, $2, clock_timestamp())
                   ON CONFLICT DO NOTHING";
        self.execute(sql, &[&place.endpoint, &place.container]).await.map(|_| ())
    }

    async fn places(&self) -> Result<Vec<Place>, InboxError> {
        let rows = self.query("SELECT endpoint, container FROM place ORDER BY endpoint, container", &[]).await?;
        Ok(rows.iter().map(|row| Place { endpoint: row.get(0), container: row.get(1) }).collect())
    }

    async fn pending(&self, wanted: &Wanted) -> Result<Pending, InboxError> {
        // What is due is all that there is less what comes later, except where only the rows tell which are wanted.
        let total = if wanted.since.is_none() && !wanted.untried && wanted.ids.is_none() {
            "(SELECT sum(messages) FROM tally WHERE state IN ('saved', 'working') AND"
        } else {
            "(SELECT count(*) FROM inbox WHERE due_at IS NOT NULL AND"
        };
        let wanted = WantedValues::of(wanted);
        let Conditions { sql: wanted, values } = wanted.conditions(Vec::new());
        let sql = format!(
            "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now)
             SELECT coalesce({total} {wanted}), 0)::bigint - count(*),
                 count(*) FILTER (WHERE state = 'working'), count(*) FILTER (WHERE state = 'saved'),
                 extract(epoch FROM min(due_at) - (SELECT now FROM clock))::double precision
             FROM inbox WHERE {wanted} AND due_at > (SELECT now FROM clock)"
        );
        let rows = self.query(&sql, &values).await?;
        Ok(rows.first().map_or_else(Pending::default, |row| Pending {
            due: count(row, 0),
            working: count(row, 1),
            later: count(row, 2),
            next_due_in: row.get::<_, Option<f64>>(3).map(|wait| Duration::from_secs_f64(wait.max(0.0))),
        }))
    }

    async fn counts(&self) -> Result<Counts, InboxError> {
        let sql =
            "SELECT state, sum(messages)::bigint, sum(filtered_rows)::double precision, sum(bad_rows)::double precision
                   FROM tally GROUP BY state";
        let mut counts = Counts::default();
        for row in self.query(sql, &[]).await? {
            counts.set(parsed(&row, 0)?, count(&row, 1));
            counts.filtered_rows += sum(&row, 2);
            counts.bad_rows += sum(&row, 3);
        }
        Ok(counts)
    }

    async fn backlog(&self) -> Result<Backlog, InboxError> {
        let sql = "SELECT blob_type, state, sum(messages)::bigint FROM tally
                   WHERE state IN ('saved', 'working', 'quarantined', 'expired')
                   GROUP BY blob_type, state HAVING sum(messages) > 0 ORDER BY blob_type COLLATE \"C\", state";
        let read = |row: &Row| {
            let state = parsed(row, 1)?;
            Ok(TypeBacklog { blob_type: row.get(0), state, messages: count(row, 2) })
        };
        let by_type = self.query(sql, &[]).await?.iter().map(read).collect::<Result<_, InboxError>>()?;
        // Numbers are given in the order of arrival. Not `=`: that is how the planner comes to walk all numbers for the first
        // that waits, where only the index of states has the order that is asked for here.
        let sql = "SELECT extract(epoch FROM clock_timestamp() - min(received_at))::double precision
                   FROM unnest(ARRAY['saved', 'working']) AS waiting (state) CROSS JOIN LATERAL (
                       SELECT received_at FROM inbox WHERE inbox.state BETWEEN waiting.state AND waiting.state
                       ORDER BY inbox.state, id LIMIT 1) AS first";
        let oldest = self.query(sql, &[]).await?.first().and_then(|row| row.get::<_, Option<f64>>(0));
        // A moment asked for once is a bound for the index; `clock_timestamp()` by itself is another one at each row.
        let at_risk = "FROM inbox WHERE expires_at IS NOT NULL AND state IN ('saved', 'working', 'quarantined')
                       AND expires_at < (SELECT clock_timestamp() + make_interval(secs => $1))";
        let within = seconds(AT_RISK);
        let many = self.query(&format!("SELECT count(*) {at_risk}"), &[&within]).await?;
        let sql =
            format!("SELECT id, blob_type, state, expires_at {at_risk} ORDER BY expires_at LIMIT {AT_RISK_NAMED}");
        let read = |row: &Row| {
            let (id, blob_type, state) = (row.get(0), row.get(1), parsed(row, 2)?);
            Ok(AtRisk { id, blob_type, state, expires_at: row.get::<_, At>(3).instant() })
        };
        let named = self.query(&sql, &[&within]).await?.iter().map(read).collect::<Result<_, InboxError>>()?;
        let missing = sequences::missing(self.query(sequences::RUNS, &[]).await?, self.all_named().await?);
        Ok(Backlog {
            by_type,
            oldest_waiting: oldest.map(span),
            at_risk: many.first().map_or(0, |row| count(row, 0)),
            first_at_risk: named,
            missing,
        })
    }

    async fn types(&self) -> Result<Vec<TypeTotals>, InboxError> {
        let sql =
            "SELECT blob_type, sum(files)::bigint, coalesce(sum(files) FILTER (WHERE state = 'skipped'), 0)::bigint,
                coalesce(sum(files) FILTER (WHERE state = 'done'), 0)::bigint, sum(rows)::double precision,
                sum(bytes)::double precision, sum(files_with_bytes)::bigint,
                coalesce(sum(filtered_rows) FILTER (WHERE state <> 'duplicate'), 0)::double precision
            FROM tally GROUP BY blob_type HAVING sum(files) > 0 ORDER BY blob_type COLLATE \"C\"";
        let rows = self.query(sql, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| TypeTotals {
                blob_type: row.get(0),
                files: count(row, 1),
                skipped: count(row, 2),
                done: count(row, 3),
                rows: sum(row, 4),
                bytes: sum(row, 5),
                files_with_bytes: count(row, 6),
                filtered_rows: sum(row, 7),
            })
            .collect())
    }

    async fn note_named(&self, of: &SequenceNamed) -> Result<(), InboxError> {
        let SequenceNamed { blob_type, publisher, epoch, up_to, void } = of;
        let (from, to): (Vec<i64>, Vec<i64>) = void.iter().map(|(from, to)| (signed(*from), signed(*to))).unzip();
        let (publisher, epoch, blob_type) = (value::text(publisher), value::text(epoch), value::text(blob_type));
        let values: &[&(dyn ToSql + Sync)] = &[&publisher, &epoch, &blob_type, &signed(*up_to), &from, &to];
        self.query(sequences::NOTE_NAMED, values).await.map(drop)
    }

    async fn named(&self) -> Result<Vec<SequenceNamed>, InboxError> {
        Ok(self.all_named().await?.into_iter().map(|named| named.of).collect())
    }

    async fn sequences(&self) -> Result<Vec<SequenceSeen>, InboxError> {
        sequences::read(self.query(sequences::ALL, &[]).await?, self.all_named().await?)
    }

    async fn prunable(&self, retention: &Retention) -> Result<Pruned, InboxError> {
        let [history, files, identities] = retention::ages(retention);
        let rows = self.query(&retention::prunable(), &[&history, &files, &identities]).await?;
        let count_of = |at| rows.first().map_or(0, |row| count(row, at));
        Ok(Pruned { history: count_of(0), files: count_of(1), replayable: count_of(2), identities: count_of(3) })
    }

    async fn prune(
        &self,
        retention: &Retention,
        step: PruneStep,
        most: u32,
    ) -> Result<(Pruned, Option<PruneStep>), InboxError> {
        let mut connection = self.connection().await?;
        let asked = timeout(PATIENCE, async {
            let tx = connection.transaction().await?;
            // So that no message refers to a file that goes just now.
            if step == PruneStep::Files {
                tx.execute("SELECT pg_advisory_xact_lock($1)", &[&self.lock]).await?;
            }
            let pruned = retention::prune(&tx, retention, step, most).await?;
            tx.commit().await?;
            Ok::<_, Error>(pruned)
        });
        let answer = asked.await;
        self.answer(connection, answer)
    }

    async fn list(&self, filter: &ListFilter) -> Result<Vec<InboxRow>, InboxError> {
        let state = filter.state.map(State::as_str);
        let mut conditions = Conditions::new(Vec::new());
        if let Some(state) = &state {
            conditions.and("state = ", state);
        }
        if let Some(blob_type) = &filter.blob_type {
            conditions.and("blob_type = ", blob_type);
        }
        if let Some(correlation_id) = &filter.correlation_id {
            conditions.and("correlation_id = ", correlation_id);
        }
        if let Some(before) = &filter.before {
            conditions.and("id < ", before);
        }
        let most = if filter.most == 0 { 100 } else { filter.most };
        let Conditions { sql, values } = conditions;
        let sql = format!("SELECT {ROW_COLUMNS} FROM inbox WHERE {sql} ORDER BY id DESC LIMIT {most}");
        self.query(&sql, &values).await?.iter().map(read_row).collect()
    }

    async fn get(&self, id: i64) -> Result<Option<InboxRow>, InboxError> {
        let sql = format!("SELECT {ROW_COLUMNS} FROM inbox WHERE id = $1");
        self.query(&sql, &[&id]).await?.first().map(read_row).transpose()
    }

    async fn history(&self, id: i64) -> Result<Vec<HistoryEntry>, InboxError> {
        let sql = "SELECT at, state, reason, problem, worker FROM history WHERE inbox_id = $1 ORDER BY id";
        let read = |row: &Row| {
            Ok(HistoryEntry {
                at: row.get::<_, At>(0).instant(),
                state: parsed(row, 1)?,
                reason: parsed_optional(row, 2)?,
                problem: row.get(3),
                worker: row.get(4),
            })
        };
        self.query(sql, &[&id]).await?.iter().map(read).collect()
    }

    async fn beat(&self, worker: &WorkerId, beat: &Beat) -> Result<(), InboxError> {
        let sql = "WITH old AS MATERIALIZED (
                SELECT worker FROM worker WHERE worker <> $1 AND (seen_at < now() - make_interval(secs => $2)
                    OR worker NOT IN (SELECT worker FROM worker ORDER BY seen_at DESC LIMIT $3))
                FOR UPDATE SKIP LOCKED),
            forgotten AS (DELETE FROM worker USING old WHERE worker.worker = old.worker)
            INSERT INTO worker AS known VALUES ($1, now(), now(), $4, $5, $6,
                now() - make_interval(secs => $7::double precision),
                now() + make_interval(secs => $8::double precision),
                now() + make_interval(secs => $9::double precision), $10, $11, $12)
            ON CONFLICT (worker) DO UPDATE SET seen_at = excluded.seen_at, receives = excluded.receives,
                works = excluded.works, attached = excluded.attached, last_contact_at = excluded.last_contact_at,
                bus_token_ends_at = excluded.bus_token_ends_at, blob_token_ends_at = excluded.blob_token_ends_at,
                lag = excluded.lag, problem = excluded.problem, stopped = excluded.stopped";
        let values: &[&(dyn ToSql + Sync)] = &[
            &worker.0,
            &seconds(FORGOTTEN_AFTER),
            &i64::from(WORKERS_MAX),
            &beat.receives,
            &beat.works,
            &beat.attached,
            &beat.last_contact_ago.map(seconds),
            &beat.bus_token_remaining.map(seconds),
            &beat.blob_token_remaining.map(seconds),
            &beat.lag.map(seconds),
            &beat.problem.as_deref().map(|problem| value::text(&trouble(problem)).into_owned()),
            &beat.stopped,
        ];
        self.execute(sql, values).await.map(|_| ())
    }

    async fn workers(&self) -> Result<Vec<WorkerSeen>, InboxError> {
        let sql = "SELECT worker, started_at, seen_at, receives, works, attached, last_contact_at, bus_token_ends_at,
                blob_token_ends_at, lag, problem, stopped,
                (SELECT count(*) FROM inbox WHERE state = 'working' AND inbox.worker = worker.worker),
                extract(epoch FROM clock_timestamp() - seen_at)::double precision
            FROM worker ORDER BY seen_at DESC, worker";
        let read = |row: &Row| {
            let optional = |at: usize| row.get::<_, Option<At>>(at).map(At::instant);
            WorkerSeen {
                worker: WorkerId(row.get(0)),
                started_at: row.get::<_, At>(1).instant(),
                seen_at: row.get::<_, At>(2).instant(),
                seen_ago: span(row.get(13)),
                receives: row.get(3),
                works: row.get(4),
                attached: row.get(5),
                last_contact_at: optional(6),
                bus_token_ends_at: optional(7),
                blob_token_ends_at: optional(8),
                lag: row.get::<_, Option<f64>>(9).map(span),
                problem: row.get(10),
                stopped: row.get(11),
                files: count(row, 12),
            }
        };
        Ok(self.query(sql, &[]).await?.iter().map(read).collect())
    }
}

/// As the database computed it; none where its clock was set back.
fn span(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default()
}

/// Patterns for LIKE, with a star for any characters, as [`is_of_types`](waybill_contracts::is_of_types) has it.
fn patterns(types: &[String]) -> Vec<String> {
    let pattern = |name: &String| {
        let mut pattern = String::with_capacity(name.len());
        for character in value::text(name).chars() {
            match character {
                '*' => pattern.push('%'),
                '%' | '_' | '\\' => pattern.extend(['\\', character]),
                other => pattern.push(other),
            }
        }
        pattern
    };
    types.iter().map(pattern).collect()
}

fn read_file(row: &Row) -> StoredFile {
    let sequence = row.get::<_, Option<i64>>("sequence").map(|sequence| PublisherSequence {
        publisher: row.get::<_, Option<String>>("publisher").unwrap_or_default(),
        epoch: row.get::<_, Option<String>>("epoch").unwrap_or_default(),
        sequence: sequence.unsigned_abs(),
    });
    let blob = row.get::<_, Option<String>>("blob_etag").map(|etag| {
        let length = row.get::<_, Option<i64>>("blob_length").unwrap_or_default().unsigned_abs();
        BlobSeen::stored(etag, length, row.get("blob_checkpoint"))
    });
    StoredFile {
        id: row.get("id"),
        key: key_of(row.get("file_key")),
        body: row.get("body"),
        sequence,
        expires_at: row.get::<_, Option<At>>("expires_at").map(At::instant),
        sequence_number: row.get("broker_sequence"),
        received_at: row.get::<_, At>("received_at").instant(),
        attempts: row.get::<_, i32>("attempts").unsigned_abs(),
        blob,
    }
}

const ROW_COLUMNS: &str = "id, state, reason, problem, file_key, blob_type, correlation_id, sequence, entity_path,
    broker_sequence, enqueued_at, message_id, received_at, changed_at, due_at, expires_at, attempts, worker, rows,
    bad_rows, duplicate_of, body, filtered_rows";

fn read_row(row: &Row) -> Result<InboxRow, InboxError> {
    let state: State = parsed(row, 1)?;
    let body: String = row.get(21);
    let (uri, content_type) = shown(&body);
    let instant = |at: usize| row.get::<_, At>(at).instant();
    let optional_instant = |at: usize| row.get::<_, Option<At>>(at).map(At::instant);
    Ok(InboxRow {
        id: row.get(0),
        state,
        reason: parsed_optional(row, 2)?,
        problem: row.get(3),
        file: row.get::<_, Option<String>>(4).map(key_of),
        blob_type: row.get(5),
        correlation_id: row.get(6),
        uri,
        content_type,
        sequence: row.get::<_, Option<i64>>(7).map(i64::unsigned_abs),
        entity_path: row.get(8),
        sequence_number: row.get(9),
        enqueued_at: instant(10),
        message_id: row.get(11),
        received_at: instant(12),
        changed_at: instant(13),
        due_at: optional_instant(14).filter(|_| state == State::Saved),
        expires_at: optional_instant(15),
        attempts: row.get::<_, i32>(16).unsigned_abs(),
        worker: row.get(17),
        rows: count(row, 18),
        bad_rows: count(row, 19),
        filtered_rows: row.get::<_, Option<i64>>(22).map(i64::unsigned_abs),
        duplicate_of: row.get(20),
        body,
    })
}

fn parsed<T: std::str::FromStr>(row: &Row, at: usize) -> Result<T, InboxError>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: &str = row.get(at);
    text.parse().map_err(|error: T::Err| InboxError::Unavailable(Box::new(error)))
}

fn parsed_optional<T: std::str::FromStr>(row: &Row, at: usize) -> Result<Option<T>, InboxError>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    if row.get::<_, Option<&str>>(at).is_none() { Ok(None) } else { parsed(row, at).map(Some) }
}

fn count(row: &Row, at: usize) -> u64 {
    row.get::<_, i64>(at).unsigned_abs()
}

/// Of figures that may be too large for a number of ours.
fn sum(row: &Row, at: usize) -> u64 {
    row.get::<_, f64>(at) as u64
}

fn not_open(error: PostgresError) -> InboxError {
    if error.passes() { unavailable(error) } else { InboxError::Open(Box::new(error)) }
}

fn unavailable(error: PostgresError) -> InboxError {
    InboxError::Unavailable(Box::new(error))
}
