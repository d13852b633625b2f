//! The sink in a PostgreSQL database.
//!
//! The algorithm runs as passes over what was fetched (`overlay`), so a batch costs a handful of statements, however many
//! rows it has: one asks for the keys' versions (`fetch`), one copies the rows (`write`, `encode`). `schema` makes tables.
//!
//! # Locks
//! A batch takes advisory transaction locks, in the order of their numbers: exclusive on its entity, shared on the parents
//! that its rows may be parked on. So nobody brings a parent while a child looks for it, and neither parking nor tombstones
//! have a race; entities that do not refer to each other go in parallel. Where rows wait for the entity, their entities are
//! locked as well, because the batch may bring them into effect. Only then is the file's progress looked at: so whoever holds
//! the locks, as a rebuild does while it swaps, holds the progress of the entity's files with them. Those who add rows to the
//! table of a type without an entity share a lock of its own.

mod ahead;
mod bad_rows;
mod encode;
mod fetch;
mod overlay;
mod rebuild;
mod schema;
mod waiting;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};
use waybill_contracts::{Entities, SqlName};
use waybill_formats::FileStats;
use waybill_store::{Postgres, PostgresError, PostgresOptions, PostgresTransaction, lock_number, tokio_postgres};

pub(super) use self::rebuild::PostgresRebuild;
use self::{ahead::Foregone, overlay::Overlay};
use super::{
    Failure, PROGRESS, ParkedRow, Released, Totals,
    apply::{Arrived, Stretch, append, apply_entity, release_rows},
    catalogue::{is_before, quoted},
    due::Due,
    hex,
    planned::{PLANNED_QUEUED, Planned, PlannedRows, Shapes},
    tables::{Parked, TableId},
};
use crate::{
    FileKey,
    apply::{Batch, EntityPlan, EntityPlans, NewFields, Reading, Shape},
    sink::{Applied, EntityBatch, Guarantee, Progress, Sink, SinkError, SinkOpenError, WaitsEnded, WholeFiles},
    tasks::blocking,
};

/// How long a check waits for who uses a table: whoever comes after it waits behind it.
const CHECK_WAIT: Duration = Duration::from_secs(5);
/// Parked rows looked at together: bounds what a release holds in memory.
const RELEASED_ROWS_MAX: i64 = 5_000;
const RELEASED_BYTES_MAX: i64 = 8 << 20;
/// Keys whose waiting rows are counted together.
const ARRIVED_KEYS_MAX: usize = 1_000;
/// Connections of the pool, at most, in which the next batch of a file is made ready.
const STAGING_MAX: usize = 3;
/// Connections of the pool, at most, in which a whole file is one transaction.
const WHOLE_MAX: usize = 4;
/// A transaction that met another's change of a table, or a deadlock with somebody else's, is begun again so often.
const TRIES: u32 = 5;
/// A transaction that waits for a file's next rows says so often that it goes on, well within the time of [`BEGIN`].
const STAY_AWAKE: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(10) };
/// Whoever is frozen in the middle of a batch lets go of what it locked after a minute, unless the address says when. And statements are
/// planned for tables as they are now: a plan that was kept from when a table had three rows reads all of it for each key.
const BEGIN: &str = "SET CONSTRAINTS ALL IMMEDIATE;
    SELECT set_config('plan_cache_mode', 'force_custom_plan', true);
    SELECT set_config('idle_in_transaction_session_timeout', '60s', true)
    WHERE current_setting('idle_in_transaction_session_timeout') = '0'";
/// Told apart from other databases and schemas in the numbers of locks.
const PLACE: &str = "SELECT current_database()::text || '/' || coalesce(current_schema()::text, '')";

/// Tables in a PostgreSQL database, which may be the user's own, in the first schema of its search path. Clones share its
/// connections.
#[derive(Clone)]
pub struct PostgresSink {
    store: Postgres,
    inner: Arc<Inner>,
}

struct Inner {
    plans: Arc<EntityPlans>,
    /// Tables that are derived again: parents may come late into these, so no wait ends by itself.
    is_shadow: bool,
    /// By entity: who waits for its rows.
    children: HashMap<String, Vec<String>>,
    now: Box<dyn Fn() -> OffsetDateTime + Send + Sync>,
    shapes: Shapes,
    /// What the last batch of each went with: by its name among the shapes, whether the guard judged it.
    guarded: Mutex<HashMap<String, bool>>,
    /// Bounds the transactions that last as long as a file: they may wait for each other, and others need connections too.
    whole: Semaphore,
    /// Bounds the connections that hold tuples of a batch whose turn has not come, so that there are some for the others.
    staging: Arc<Semaphore>,
    /// See [`PLACE`].
    place: String,
}

impl PostgresSink {
    /// Connects, and makes the tables of all entities; tables that are there are checked. The address is
    /// `postgres://user:password@host:port/database`; see [`Postgres::new`].
    ///
    /// # Errors
    /// [`SinkOpenError`]: an entity that cannot be used, a database that does not answer or is of a newer program, a table of
    /// the user that cannot take the rows. Then nothing was changed but for the sink's own empty tables.
    pub async fn open(address: &str, entities: &Entities) -> Result<Self, SinkOpenError> {
        Self::open_with(address, entities, OffsetDateTime::now_utc).await
    }

    /// Like [`PostgresSink::open`], with a clock for the times that are stored.
    ///
    /// # Errors
    /// As [`PostgresSink::open`].
    pub async fn open_with(
        address: &str,
        entities: &Entities,
        now: impl Fn() -> OffsetDateTime + Send + Sync + 'static,
    ) -> Result<Self, SinkOpenError> {
        Self::open_on(connect(address, None)?, entities, now, false).await
    }

    /// Whether [`PostgresSink::open`] would do: all that it does, in a transaction that is taken back.
    ///
    /// # Errors
    /// As [`PostgresSink::open`]; also when somebody uses a table for long that would get another column.
    pub async fn check(address: &str, entities: &Entities) -> Result<(), SinkOpenError> {
        let plans = EntityPlans::compile(entities)?;
        let store = connect(address, None)?;
        let not_open = |error| not_open(&store, &error);
        let mut connection = store.connection().await.map_err(not_open)?;
        let failed = |error| not_open(store.error(error));
        let tx = connection.transaction().await.map_err(failed)?;
        tx.batch_execute(&format!("SET LOCAL lock_timeout = '{}s'", CHECK_WAIT.as_secs())).await.map_err(failed)?;
        store.migrate_within(&tx, &schema::SCHEMA).await.map_err(not_open)?;
        schema::install(&tx, &plans).await.map_err(|failure| not_installed(&store, failure))?;
        tx.rollback().await.map_err(failed)
    }

    async fn open_on(
        store: Postgres,
        entities: &Entities,
        now: impl Fn() -> OffsetDateTime + Send + Sync + 'static,
        is_shadow: bool,
    ) -> Result<Self, SinkOpenError> {
        let plans = Arc::new(EntityPlans::compile(entities)?);
        let not_open = |error| not_open(&store, &error);
        store.migrate(&schema::SCHEMA).await.map_err(not_open)?;
        let mut connection = store.connection().await.map_err(not_open)?;
        let place = async {
            let tx = connection.transaction().await?;
            // Two programs that start at once make the tables one after the other.
            store.lock_tables(&tx).await?;
            let place: String = tx.query_one(PLACE, &[]).await?.get(0);
            schema::install(&tx, &plans).await?;
            tx.commit().await?;
            Ok::<_, Failure>(place)
        }
        .await
        .map_err(|failure| not_installed(&store, failure))?;
        drop(connection);

        let mut children: HashMap<String, Vec<String>> = HashMap::new();
        for plan in plans.iter() {
            for reference in plan.references() {
                children.entry(reference.parent.clone()).or_default().push(plan.name().to_owned());
            }
        }
        let inner = Inner {
            plans,
            is_shadow,
            children,
            now: Box::new(now),
            shapes: Shapes::default(),
            guarded: Mutex::default(),
            whole: Semaphore::new(WHOLE_MAX),
            staging: Arc::new(Semaphore::new(STAGING_MAX)),
            place,
        };
        Ok(Self { store, inner: Arc::new(inner) })
    }

    /// The entities, compiled, as [`EntityBatch::entity`] names them.
    #[must_use]
    pub fn plans(&self) -> &EntityPlans {
        &self.inner.plans
    }

    /// Figures for a summary. Counts the rows of every table.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`].
    pub async fn totals(&self) -> Result<Totals, SinkError> {
        let connection = self.connection().await?;
        let failed = |error| self.unavailable(self.store.error(error).to_string());
        let sums = "SELECT (SELECT count(*) FROM _waybill_parked), (SELECT count(*) FROM _waybill_bad_row),
                        count(*) FILTER (WHERE done), coalesce(sum(inserted), 0)::bigint, coalesce(sum(updated), 0)::bigint,
                        coalesce(sum(deleted), 0)::bigint, coalesce(sum(ignored), 0)::bigint,
                        coalesce(sum(superseded), 0)::bigint, coalesce(sum(parked), 0)::bigint,
                        coalesce(sum(released), 0)::bigint, coalesce(sum(bad), 0)::bigint,
                        coalesce(sum(filtered), 0)::bigint FROM _waybill_progress";
        let row = connection.query_one(sums, &[]).await.map_err(failed)?;
        let count = |at: usize| row.get::<_, i64>(at).cast_unsigned();
        let mut totals = Totals {
            tables: Vec::new(),
            files: count(2),
            applied: Applied {
                inserted: count(3),
                updated: count(4),
                deleted: count(5),
                ignored: count(6),
                superseded: count(7),
                parked: count(8),
                released: count(9),
                bad: count(10),
                filtered: count(11),
                rescued: 0,
            },
            parked_now: count(0),
            bad_now: count(1),
        };
        let names = connection.query("SELECT name FROM _waybill_table ORDER BY name", &[]).await.map_err(failed)?;
        for name in names {
            let name: String = name.get(0);
            let sql = format!("SELECT count(*) FROM {}", quoted(&name));
            let rows: i64 = connection.query_one(&sql, &[]).await.map_err(failed)?.get(0);
            totals.tables.push((name, rows.cast_unsigned()));
        }
        Ok(totals)
    }

    /// Rows that wait for a parent, at most `limit`, the longest waiting first.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`].
    pub async fn parked(&self, limit: u32) -> Result<Vec<ParkedRow>, SinkError> {
        let sql = "SELECT entity, key, missing_entity, missing_key, file, file_row,
                       to_char(parked_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')
                   FROM _waybill_parked ORDER BY id LIMIT $1";
        let rows = self.connection().await?.query(sql, &[&i64::from(limit)]).await;
        let rows = rows.map_err(|error| self.unavailable(self.store.error(error).to_string()))?;
        let parked = rows.iter().map(|row| ParkedRow {
            entity: row.get(0),
            key: row.get(1),
            missing_entity: row.get(2),
            missing_key: row.get(3),
            file: FileKey::from_stored(row.get(4)),
            row: row.get::<_, i64>(5).cast_unsigned(),
            parked_at: row.get(6),
        });
        Ok(parked.collect())
    }

    /// Closes the connections. Clones fail from then on.
    pub fn close(&self) {
        self.store.close();
    }

    async fn connection(&self) -> Result<waybill_store::PostgresConnection, SinkError> {
        self.store.connection().await.map_err(|error| self.unavailable(error.to_string()))
    }

    fn unavailable(&self, problem: String) -> SinkError {
        let sink = self.store.shown().to_owned();
        SinkError::Unavailable { problem: without_prefix(&problem, &sink), sink }
    }

    /// Reads a batch, unless that was done ahead; `then` is for what else can be done beside the database.
    async fn plan(
        &self,
        file: &FileKey,
        from: u64,
        batch: EntityBatch,
        then: impl FnOnce(&Inner, &mut PlannedBatch) + Send + 'static,
    ) -> Result<PlannedBatch, SinkError> {
        let inner = Arc::clone(&self.inner);
        let planned = blocking(move || {
            let mut planned = Planned::new(&inner.plans, &inner.shapes, Reading::Heads, from, batch)?;
            then(&inner, &mut planned);
            Ok(planned)
        });
        match planned.await {
            Some(planned) => planned.map_err(|failure| self.failed(failure, file, from)),
            None => Err(self.unavailable("the program is ending".to_owned())),
        }
    }

    fn failed(&self, failure: Failure, file: &FileKey, expected: u64) -> SinkError {
        match failure {
            Failure::Fenced { found } => SinkError::Fenced { file: file.as_str().to_owned(), expected, found },
            failure => self.gave_up(failure),
        }
    }

    /// After several tries: with what the last one met, which may be somebody's trigger or a table that is gone.
    fn in_the_way(&self, why: Option<tokio_postgres::Error>) -> SinkError {
        match why {
            Some(error) if is_contention(&error) => {
                let error = self.store.error(error);
                self.unavailable(format!("other transactions were in the way several times: {error}"))
            }
            Some(error) => self.database_failed(error),
            None => self.unavailable("rows that wait were in the way several times".to_owned()),
        }
    }

    fn gave_up(&self, failure: Failure) -> SinkError {
        match failure {
            Failure::Fenced { .. } => unreachable!("only a file's progress is fenced"),
            Failure::Outdated { problem } => self.unavailable(problem),
            Failure::Refused { reason, problem } => {
                SinkError::Refused { sink: self.store.shown().to_owned(), reason, problem }
            }
            Failure::Postgres(error) => self.database_failed(error),
            Failure::Sqlite(_) => unreachable!("this is PostgreSQL"),
        }
    }

    /// The batches of a file as they come, in one transaction. `None`: no more come, and the file's end was not among them.
    async fn apply_planned(
        &self,
        file: &FileKey,
        mut batches: mpsc::Receiver<(u64, PlannedBatch)>,
    ) -> Result<Option<Applied>, SinkError> {
        let Some(first) = batches.recv().await else { return Ok(None) };
        let _turn = self.inner.whole.acquire().await.expect("it is never closed");
        let mut connection = self.connection().await?;
        let failed = |error| self.database_failed(error);
        let mut tx = connection.transaction().await.map_err(failed)?;
        tx.batch_execute(BEGIN).await.map_err(failed)?;
        let (mut whole, mut next) = (Applied::default(), Some(first));
        while let Some((from, planned)) = next {
            let is_end = planned.batch.end.is_some();
            // Whoever may wait for the entity is locked from the begin: more locks than that cannot be taken later.
            let mut run = Run { file: file.as_str(), from, locks_children: true, ..Run::new(&self.inner) };
            match run.bring(&mut tx, planned).await {
                Ok(applied) => whole += applied,
                Err(Failure::Postgres(error)) if is_worth_another_try(&error) => {
                    // Its rows are gone by, so all of the file is tried again.
                    self.inner.shapes.clear();
                    let (sink, problem) = (self.store.shown().to_owned(), self.store.error(error).to_string());
                    return Err(SinkError::Failed { problem: without_prefix(&problem, &sink), sink });
                }
                Err(failure) => return Err(self.failed(failure, file, from)),
            }
            if is_end {
                tx.commit().await.map_err(failed)?;
                return Ok(Some(whole));
            }
            next = loop {
                match timeout(STAY_AWAKE, batches.recv()).await {
                    Ok(next) => break next,
                    Err(_) => tx.batch_execute("SELECT").await.map_err(failed)?,
                }
            };
        }
        tx.rollback().await.map_err(failed)?;
        Ok(None)
    }

    fn database_failed(&self, error: tokio_postgres::Error) -> SinkError {
        let (is_answer, advice) = (is_answer(&error), advice(&error));
        match self.unavailable(format!("{}{}", self.store.error(error), advice)) {
            SinkError::Unavailable { sink, problem } if is_answer => SinkError::Failed { sink, problem },
            unavailable => unavailable,
        }
    }
}

impl Inner {
    fn guarded(&self) -> MutexGuard<'_, HashMap<String, bool>> {
        // One insertion at a time, so a panic elsewhere leaves nothing half done.
        self.guarded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The database, and the schema in it that is used instead of the address's own.
fn connect(address: &str, schema: Option<&str>) -> Result<Postgres, SinkOpenError> {
    let options = PostgresOptions { schema: schema.map(str::to_owned), ..PostgresOptions::default() };
    Postgres::new(address, &options)
        .map_err(|error| SinkOpenError::Unsupported { given: "postgres:…".to_owned(), problem: error.to_string() })
}

fn not_open(store: &Postgres, error: &PostgresError) -> SinkOpenError {
    let sink = store.shown();
    SinkOpenError::of(sink, without_prefix(&error.to_string(), sink), error.passes())
}

fn not_installed(store: &Postgres, failure: Failure) -> SinkOpenError {
    match failure {
        Failure::Refused { problem, .. } => SinkOpenError::Table { sink: store.shown().to_owned(), problem },
        Failure::Postgres(error) => not_open(store, &store.error(error)),
        Failure::Fenced { .. } | Failure::Outdated { .. } | Failure::Sqlite(_) => {
            unreachable!("no file is worked here, in PostgreSQL")
        }
    }
}

/// The advisory lock of an entity's table.
fn entity_lock(place: &str, entity: &str) -> i64 {
    lock_number(&format!("waybill sink {place} {entity}"))
}

/// The advisory lock of the table of a type without an entity: shared by those who add rows to it.
fn stream_lock_number(place: &str, blob_type: &str) -> i64 {
    entity_lock(place, &format!("type {blob_type}"))
}

/// A line of what [`PROGRESS`] names.
fn progress_of(row: &tokio_postgres::Row) -> Progress {
    let count = |at| row.get::<_, i64>(at).cast_unsigned();
    Progress { rows: count(0), done: row.get(1), bad: count(2), filtered: count(3), trail: None }
}

/// The sink's name is said once.
fn without_prefix(problem: &str, sink: &str) -> String {
    problem.strip_prefix(sink).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(problem).to_owned()
}

impl fmt::Debug for PostgresSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresSink").field("name", &self.store.shown()).finish_non_exhaustive()
    }
}

impl Sink for PostgresSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    /// A server far away is asked rarely, and looks up many keys of a page at once.
    fn commit_bytes(&self) -> usize {
        16 << 20
    }

    async fn progress(&self, file: &FileKey) -> Result<Progress, SinkError> {
        let sql = format!("SELECT {PROGRESS} FROM _waybill_progress WHERE file = $1");
        let row = self.connection().await?.query_opt(&sql, &[&file.as_str()]).await;
        let row = row.map_err(|error| self.database_failed(error))?;
        Ok(row.as_ref().map(progress_of).unwrap_or_default())
    }

    async fn look_ahead(&self, file: &FileKey, from: u64, batch: EntityBatch) -> Result<EntityBatch, SinkError> {
        let mut planned = self.plan(file, from, batch, run_ahead(file, from)).await?;
        if let Some(foregone) = planned.more.as_mut().filter(|foregone| foregone.is_worth_staging())
            && let Ok(permit) = Arc::clone(&self.inner.staging).try_acquire_owned()
            && let Some(connection) = self.store.free_connection().await
        {
            foregone.stage(connection, permit).await;
        }
        Ok(planned.into_ahead(from))
    }

    async fn apply(&self, file: &FileKey, from: u64, batch: EntityBatch) -> Result<Applied, SinkError> {
        let mut planned = self.plan(file, from, batch, |_, _| {}).await?;
        let mut foregone = planned.more.take();
        let mut planned = Arc::new(planned);
        let mut session = foregone.as_mut().and_then(Foregone::session);
        let mut other;
        let connection = match &mut session {
            Some(session) => &mut session.connection,
            None => {
                other = self.connection().await?;
                &mut other
            }
        };
        let mut locks_children = false;
        let mut why = None;
        for _ in 1..TRIES {
            let mut run = Run { file: file.as_str(), from, locks_children, ..Run::new(&self.inner) };
            let tx = connection
                .transaction()
                .await
                .map_err(|error| self.unavailable(self.store.error(error).to_string()))?;
            match run.apply(tx, &mut planned, foregone.take()).await {
                Ok(Some(applied)) => return Ok(applied),
                Ok(None) => locks_children = true,
                Err(Failure::Postgres(error)) if is_worth_another_try(&error) => {
                    tracing::debug!(%error, file = file.as_str(), "the transaction is begun again");
                    self.inner.shapes.clear();
                    why = Some(error);
                }
                Err(failure) => return Err(self.failed(failure, file, from)),
            }
        }
        Err(self.in_the_way(why))
    }

    fn whole_files(&self) -> WholeFiles {
        WholeFiles::Asked
    }

    async fn apply_whole(
        &self,
        file: &FileKey,
        mut batches: mpsc::Receiver<EntityBatch>,
    ) -> Result<Option<Applied>, SinkError> {
        let (planned_to, planned) = mpsc::channel(PLANNED_QUEUED);
        let planning = async move {
            let mut from = 0;
            while let Some(batch) = batches.recv().await {
                let to = batch.to;
                let planned = self.plan(file, from, batch, run_ahead(file, from)).await?;
                if planned_to.send((from, planned)).await.is_err() {
                    // The transaction was given up, and says why.
                    break;
                }
                from = to;
            }
            Ok::<_, SinkError>(())
        };
        let applying = self.apply_planned(file, planned);
        tokio::pin!(applying);
        tokio::select! {
            biased;
            applied = &mut applying => applied,
            planned = planning => {
                planned?;
                applying.await
            }
        }
    }

    async fn end_waits(&self) -> Result<WaitsEnded, SinkError> {
        if self.inner.is_shadow { Ok(WaitsEnded::default()) } else { self.end_overdue_waits().await }
    }
}

/// The pass of a batch, before its transaction, where that can be.
fn run_ahead(file: &FileKey, from: u64) -> impl FnOnce(&Inner, &mut PlannedBatch) + Send + 'static + use<> {
    let key = file.clone();
    move |inner: &Inner, planned: &mut PlannedBatch| {
        if inner.guarded().get(&planned.shape_name) == Some(&true)
            && let Some(shape) = inner.shapes.get(&planned.shape_name)
        {
            planned.more = Foregone::run(&inner.plans, shape, key.as_str(), from, planned);
        }
    }
}

/// Somebody changed a table since its columns were read, or two transactions waited for each other.
fn is_worth_another_try(error: &tokio_postgres::Error) -> bool {
    // undefined_column, duplicate_column, undefined_table, datatype_mismatch, duplicate_table, bad_copy_file_format; cached
    // plan must not change result type.
    const CHANGED: [&str; 7] = ["42703", "42701", "42P01", "42804", "42P07", "22P04", "0A000"];
    is_contention(error) || error.code().is_some_and(|code| CHANGED.contains(&code.code()))
}

/// serialization_failure, deadlock_detected.
fn is_contention(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| ["40001", "40P01"].contains(&code.code()))
}

/// Whether a database that works says no to what was asked, so that it may say yes to other files. The rest is about the
/// connection (08, 28, 3D), other transactions (40, 55), its means (53), an operator (57), itself (58, F0, XX), or that it only
/// reads for now (25006), as a standby does. What is more than the program takes (54: a row too big for its page, too many columns)
/// does not pass.
/// (PostgreSQL documentation, Appendix A.)
fn is_answer(error: &tokio_postgres::Error) -> bool {
    const OUTAGE: [&str; 11] = ["08", "25006", "28", "3D", "40", "53", "55", "57", "58", "F0", "XX"];
    error.code().is_some_and(|code| !OUTAGE.iter().any(|class| code.code().starts_with(class)))
}

/// What to do about an answer that does not say so itself.
fn advice(error: &tokio_postgres::Error) -> &'static str {
    match error.as_db_error() {
        Some(error) if error.message().contains("row-level security") => schema::ROW_SECURITY_ADVICE,
        _ => "",
    }
}

/// A batch, with the pass that ran ahead of its transaction.
type PlannedBatch = Planned<Option<Foregone>>;

/// One batch in one transaction; or rows that are let go, which are no file's.
struct Run<'r> {
    inner: &'r Inner,
    file: &'r str,
    from: u64,
    now: String,
    /// Always there but while a pass runs.
    overlay: Option<Overlay>,
    /// Whether those who may wait for the entity are locked as well.
    locks_children: bool,
    /// A parent that whoever is let go goes without: its entity and key.
    without: Option<(String, String)>,
}

impl<'r> Run<'r> {
    fn new(inner: &'r Inner) -> Self {
        Self {
            inner,
            file: "",
            from: 0,
            now: (inner.now)().format(&Rfc3339).unwrap_or_default(),
            overlay: Some(Overlay::new(Arc::clone(&inner.plans))),
            locks_children: false,
            without: None,
        }
    }
}

impl Run<'_> {
    /// `None`: rows wait for the entity, so the transaction is to be begun again with more locks.
    async fn apply(
        &mut self,
        mut tx: PostgresTransaction<'_>,
        planned: &mut Arc<PlannedBatch>,
        foregone: Option<Foregone>,
    ) -> Result<Option<Applied>, Failure> {
        tx.batch_execute(BEGIN).await?;
        let Some(brought) = self.bring_in(&mut tx, planned, foregone).await? else { return Ok(None) };
        tx.commit().await?;
        Ok(Some(self.note(planned, brought)))
    }

    /// A batch of those that are one transaction, which has all locks that it may need.
    async fn bring(&mut self, tx: &mut PostgresTransaction<'_>, mut planned: PlannedBatch) -> Result<Applied, Failure> {
        let foregone = planned.more.take();
        let mut planned = Arc::new(planned);
        let brought = self.bring_in(tx, &mut planned, foregone).await?;
        // If it is taken back, whoever reads for these columns finds out as if somebody had dropped them.
        Ok(self.note(&planned, brought.expect("who may wait is locked")))
    }

    /// What the next batch of this kind is read for.
    fn note(&self, planned: &PlannedBatch, Brought { applied, shape, is_guarded }: Brought) -> Applied {
        self.inner.shapes.set(planned.shape_name.clone(), shape);
        self.inner.guarded().insert(planned.shape_name.clone(), is_guarded);
        applied
    }

    /// As [`Run::apply`], within a transaction.
    async fn bring_in(
        &mut self,
        tx: &mut PostgresTransaction<'_>,
        planned: &mut Arc<PlannedBatch>,
        foregone: Option<Foregone>,
    ) -> Result<Option<Brought>, Failure> {
        let plan = match &planned.rows {
            PlannedRows::Entity(plan, _) => Some(Arc::clone(plan)),
            PlannedRows::Stream(_) => None,
        };
        match &plan {
            Some(plan) => self.lock(tx, plan).await?,
            None => {
                let number = stream_lock_number(&self.inner.place, &planned.batch.blob_type);
                tx.batch_execute(&format!("SELECT pg_advisory_xact_lock_shared({number})")).await?;
            }
        }
        self.fence(tx, &planned.batch).await?;
        let Some(table) = self.open_tables(tx, plan.as_ref(), &planned.batch).await? else { return Ok(None) };
        if let (Some(plan), Some(publisher)) = (&plan, planned.batch.position.publisher())
            && plan.is_ordered_by_position()
        {
            admit_publisher(tx, plan, publisher).await?;
        }
        let is_before_begin = match &plan {
            Some(plan) => is_before(plan, self.overlay().table(table).begin.as_ref(), &planned.batch)?,
            None => false,
        };
        self.load_shape(tx, table).await?;
        let shape = self.overlay().table(table).shape.clone().expect("loaded above");
        Arc::get_mut(planned).expect("nobody else has it between passes").fit(&shape, self.from);
        let none = NewFields::default();
        let new_fields = match &planned.rows {
            // What is not stored needs no columns.
            PlannedRows::Entity(..) if is_before_begin => &none,
            PlannedRows::Entity(_, batch) => &batch.new_fields,
            PlannedRows::Stream(rows) => &rows.new_fields,
        };
        let name = self.overlay().table(table).name.clone();
        let known = (&*shape, &self.inner.shapes);
        if schema::grow(tx, &name, plan.as_deref(), known, new_fields).await? {
            self.overlay_mut().table_mut(table).shape = None;
            self.load_shape(tx, table).await?;
        }

        if let PlannedRows::Entity(plan, batch) = &planned.rows
            && !self.guard(tx, table, plan, batch).await?
        {
            let keys = batch.keys().filter_map(<[_]>::first).map(|head| batch.key(head).to_owned());
            let needs = overlay::Needs { whole: keys.collect(), ..overlay::Needs::default() };
            fetch::fetch(tx, self.overlay_mut(), table, &needs).await?;
        }
        let (file, from) = (self.file.to_owned(), self.from);
        let job = {
            let planned = Arc::clone(planned);
            move |overlay: &mut Overlay| {
                let stretch = Stretch { file: &file, from, rows: &planned.batch.rows, is_before_begin };
                match &planned.rows {
                    PlannedRows::Entity(plan, batch) => apply_entity(overlay, plan, &stretch, batch, false),
                    PlannedRows::Stream(rows) => Ok((append(overlay, table, &stretch, rows)?, Arrived::new())),
                }
            }
        };
        // What was read ahead took all rows for wanted.
        let foregone = foregone.filter(|_| !is_before_begin);
        let ready = foregone.and_then(|foregone| foregone.adopt(self.overlay_mut()));
        let (mut applied, arrived) = self.settle(tx, ready, job).await?;
        let is_guarded = self.overlay().guarded.is_some();
        if let Some(overlay::Guarded { put, inserted, updated }) = self.overlay_mut().guarded.take() {
            // The pass took all for new.
            applied.inserted -= put - inserted;
            applied.updated += updated;
            applied.ignored += put - inserted - updated;
        }
        let overlay::Skipped { new, known } = std::mem::take(&mut self.overlay_mut().skipped);
        applied.inserted = applied.inserted.saturating_sub(new);
        applied.updated = applied.updated.saturating_sub(known);
        applied.ignored += new + known;
        let released = self.release(tx, arrived).await?;
        applied.released = released.applied;
        applied.rescued += released.rescued;
        self.advance(tx, &planned.batch, &applied).await?;
        let shape = self.overlay().table(table).shape.clone().expect("loaded above");
        Ok(Some(Brought { applied, shape, is_guarded }))
    }

    /// Lets the guard of the upsert judge the versions, where nothing else has to be known of what is there: no row waits,
    /// is waited for or was taken away, neither before nor in this batch.
    async fn guard(
        &mut self,
        tx: &PostgresTransaction<'_>,
        table: TableId,
        plan: &EntityPlan,
        batch: &Batch,
    ) -> Result<bool, Failure> {
        let open = self.overlay_mut().table_mut(table);
        open.is_guarded = open.is_exact
            && open.flags == overlay::Flags::default()
            && ahead::may_be_guarded(plan, batch)
            && schema::is_plain(tx, &open.name).await?;
        Ok(open.is_guarded)
    }

    fn overlay(&self) -> &Overlay {
        self.overlay.as_ref().expect("it is there between passes")
    }

    fn overlay_mut(&mut self) -> &mut Overlay {
        self.overlay.as_mut().expect("it is there between passes")
    }

    /// Holds the file's progress, or learns that it is elsewhere.
    async fn fence(&self, tx: &PostgresTransaction<'_>, batch: &EntityBatch) -> Result<(), Failure> {
        let sql = "INSERT INTO _waybill_progress (file, blob_type, rows, done, began_at, changed_at)
                   VALUES ($1, $2, 0, false, $3::text::timestamptz, $3::text::timestamptz) ON CONFLICT (file) DO NOTHING";
        let blob_type = batch.blob_type.replace('\0', "\u{fffd}");
        tx.execute(&tx.prepare_cached(sql).await?, &[&self.file, &blob_type, &self.now]).await?;
        let sql = format!("SELECT {PROGRESS} FROM _waybill_progress WHERE file = $1 FOR UPDATE");
        let known = progress_of(&tx.query_one(&tx.prepare_cached(&sql).await?, &[&self.file]).await?);
        if known.rows != self.from || known.done {
            return Err(Failure::Fenced { found: known });
        }
        Ok(())
    }

    async fn lock(&self, tx: &PostgresTransaction<'_>, plan: &EntityPlan) -> Result<(), Failure> {
        let mut exclusive = BTreeSet::from([plan.name().to_owned()]);
        if self.locks_children {
            let mut open = vec![plan.name().to_owned()];
            while let Some(entity) = open.pop() {
                for child in self.inner.children.get(&entity).into_iter().flatten() {
                    if exclusive.insert(child.clone()) {
                        open.push(child.clone());
                    }
                }
            }
        }
        let mut locks: BTreeMap<i64, bool> = BTreeMap::new();
        for entity in &exclusive {
            for reference in self.inner.plans.get(entity).into_iter().flat_map(|plan| plan.references()) {
                locks.entry(self.lock_number(&reference.parent)).or_insert(false);
            }
        }
        for entity in &exclusive {
            locks.insert(self.lock_number(entity), true);
        }
        let statements: Vec<_> = locks
            .iter()
            .map(|(number, exclusive)| match exclusive {
                true => format!("SELECT pg_advisory_xact_lock({number})"),
                false => format!("SELECT pg_advisory_xact_lock_shared({number})"),
            })
            .collect();
        Ok(tx.batch_execute(&statements.join("; ")).await?)
    }

    fn lock_number(&self, entity: &str) -> i64 {
        entity_lock(&self.inner.place, entity)
    }

    /// Opens the batch's table and those of its parents. `None` when rows wait for it and their entities are not locked.
    async fn open_tables(
        &mut self,
        tx: &PostgresTransaction<'_>,
        plan: Option<&Arc<EntityPlan>>,
        batch: &EntityBatch,
    ) -> Result<Option<TableId>, Failure> {
        let Some(plan) = plan else {
            let name = schema::install_stream(tx, &batch.blob_type).await?;
            return Ok(Some(self.overlay_mut().add(None, name, overlay::Flags::default())));
        };
        self.open_entities(tx, [plan.name()]).await?;
        let table = self.overlay().place(plan.name()).expect("opened above");
        let is_missing_locks = self.overlay().table(table).flags.is_awaited && !self.locks_children;
        Ok((!is_missing_locks).then_some(table))
    }

    /// Opens entities that are not open yet, and their parents.
    async fn open_entities<'e>(
        &mut self,
        tx: &PostgresTransaction<'_>,
        entities: impl IntoIterator<Item = &'e str>,
    ) -> Result<(), Failure> {
        let mut wanted: Vec<Arc<EntityPlan>> = Vec::new();
        let plans = Arc::clone(&self.inner.plans);
        for plan in entities.into_iter().filter_map(|entity| plans.get(entity)) {
            for plan in ahead::with_parents(&plans, plan) {
                let is_open = self.overlay().place(plan.name()).is_some();
                if !is_open && wanted.iter().all(|wanted| wanted.name() != plan.name()) {
                    wanted.push(Arc::clone(plan));
                }
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let flags = fetch::flags(tx, &wanted).await?;
        for (plan, (flags, begin)) in wanted.into_iter().zip(flags) {
            let id = self.overlay_mut().open_entity(plan, flags);
            self.overlay_mut().table_mut(id).begin = begin;
        }
        Ok(())
    }

    async fn load_shape(&mut self, tx: &PostgresTransaction<'_>, id: TableId) -> Result<(), Failure> {
        let table = self.overlay().table(id);
        if table.shape.is_some() {
            return Ok(());
        }
        let (shape, is_exact) = schema::shape(tx, &table.name, table.plan.as_deref()).await?;
        let table = self.overlay_mut().table_mut(id);
        table.shape = Some(Arc::new(shape));
        table.is_exact = is_exact;
        Ok(())
    }

    /// Runs passes until nothing that they went on with was wrong and nothing that they said was refused. `ready` is what the
    /// first one came to, if it ran already.
    async fn settle<T: Send + 'static>(
        &mut self,
        tx: &mut PostgresTransaction<'_>,
        mut ready: Option<T>,
        job: impl Fn(&mut Overlay) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let mut job = job;
        loop {
            let result = match ready.take() {
                Some(result) => result,
                None => {
                    let result;
                    (result, job) = self.pass(job).await?;
                    result
                }
            };
            for (id, needs) in self.overlay().needs() {
                fetch::fetch(tx, self.overlay_mut(), id, &needs).await?;
            }
            if !self.overlay().guessed_right() || self.overlay_mut().must_give_up_guard() {
                continue;
            }
            let now = self.now.clone();
            if write::write(tx, self.overlay_mut(), &now).await? {
                self.tell_misfits();
                self.overlay_mut().written();
                return Ok(result);
            }
            self.overlay_mut().give_up_guard();
        }
    }

    fn tell_misfits(&self) {
        let overlay = self.overlay();
        for (id, column) in &overlay.changes.misfits {
            let table = overlay.table(*id);
            if let Some(column) = table.shape.as_ref().and_then(|shape| shape.columns.get(*column)) {
                self.inner.shapes.misfit(&table.name, column);
            }
        }
    }

    /// Runs a pass beside the runtime, and gives its job back.
    async fn pass<T: Send + 'static, J>(&mut self, job: J) -> Result<(T, J), Failure>
    where
        J: Fn(&mut Overlay) -> Result<T, Failure> + Send + 'static,
    {
        let mut overlay = self.overlay.take().expect("it is there between passes");
        let ran = blocking(move || {
            overlay.begin();
            let result = job(&mut overlay);
            (overlay, result, job)
        })
        .await;
        let Some((overlay, result, job)) = ran else {
            self.overlay = Some(Overlay::new(Arc::clone(&self.inner.plans)));
            return Err(super::refused("the program is ending".to_owned()));
        };
        self.overlay = Some(overlay);
        Ok((result?, job))
    }

    /// Applies the rows that waited for these, then those that waited for them, and so on.
    async fn release(&mut self, tx: &mut PostgresTransaction<'_>, arrived: Arrived) -> Result<Released, Failure> {
        let mut released = Released::default();
        let plans = Arc::clone(&self.inner.plans);
        let configured: Vec<&str> = plans.iter().map(|plan| plan.name()).collect();
        let mut due = Due::new(self.grouped(tx, arrived).await?);
        while let Some((parent, keys, after)) = due.next() {
            let (entity, most) = (self.overlay().table(parent).entity(), (RELEASED_ROWS_MAX, RELEASED_BYTES_MAX));
            let (waiting, more) = fetch::waiting(tx, (entity, keys), after, &configured, most).await?;
            let mut arrived = Arrived::new();
            released += self.release_some(tx, waiting, &mut arrived).await?;
            due.let_go(more, self.grouped(tx, arrived).await?);
        }
        Ok(released)
    }

    /// Of keys that are there those that rows wait for, some together.
    async fn grouped(
        &self,
        tx: &PostgresTransaction<'_>,
        mut arrived: Arrived,
    ) -> Result<Vec<(TableId, Vec<String>)>, Failure> {
        arrived.sort_unstable();
        arrived.dedup();
        let mut grouped = Vec::new();
        for of_table in arrived.chunk_by(|a, b| a.0 == b.0) {
            for some in of_table.chunks(ARRIVED_KEYS_MAX) {
                let (table, keys) = (some[0].0, some.iter().map(|(_, key)| key.as_str()).collect::<Vec<_>>());
                let entity = self.overlay().table(table).entity();
                let counts = fetch::waiting_counts(tx, entity, &keys, RELEASED_ROWS_MAX).await?;
                grouped.extend(groups(&keys, &counts).into_iter().map(|keys| (table, keys)));
            }
        }
        Ok(grouped)
    }

    /// Applies rows that waited, together with as many as fit of those that wait for them.
    async fn release_some(
        &mut self,
        tx: &mut PostgresTransaction<'_>,
        mut waiting: Vec<Parked>,
        arrived: &mut Arrived,
    ) -> Result<Released, Failure> {
        if waiting.is_empty() {
            return Ok(Released::default());
        }
        self.open_entities(tx, waiting.iter().map(|parked| parked.entity.as_str())).await?;
        let mut below = self.below(tx, &waiting).await?;
        let let_go = waiting.iter_mut().chain(&mut below.rows);
        let_go.for_each(|parked| parked.without.extend(self.without.clone()));
        self.open_entities(tx, below.rows.iter().map(|parked| parked.entity.as_str())).await?;
        let mut needs: BTreeMap<&str, overlay::Needs> = BTreeMap::new();
        for parked in waiting.iter().chain(&below.rows) {
            needs.entry(&parked.entity).or_default().whole.insert(parked.key.clone());
            // What waits under its key is this row, which need not be fetched again.
            let Some(table) = self.overlay().place(&parked.entity) else { continue };
            let known = overlay::KnownParked { id: parked.id, version: parked.version.clone() };
            self.overlay_mut().table_mut(table).know(&parked.key).parked = Some(known);
        }
        for (entity, needs) in needs {
            let Some(table) = self.overlay().place(entity) else { continue };
            self.load_shape(tx, table).await?;
            fetch::fetch(tx, self.overlay_mut(), table, &needs).await?;
        }
        self.overlay_mut().is_deep = !below.rows.is_empty();
        let settled = self.settle(tx, None, move |overlay: &mut Overlay| below.release(overlay, &waiting)).await;
        self.overlay_mut().is_deep = false;
        let (mut released, more) = settled?;
        let overlay::Skipped { new, known } = std::mem::take(&mut self.overlay_mut().skipped);
        released.applied = released.applied.saturating_sub(new + known);
        released.ignored += new + known;
        arrived.extend(more);
        Ok(released)
    }

    /// What waits for rows that wait, if anything does.
    async fn below(&self, tx: &PostgresTransaction<'_>, waiting: &[Parked]) -> Result<Below, Failure> {
        let is_awaited = |entity: &str| {
            let table = self.overlay().place(entity);
            table.is_some_and(|table| self.overlay().table(table).flags.is_awaited)
        };
        if !waiting.iter().any(|parked| is_awaited(&parked.entity)) {
            return Ok(Below { is_whole: true, ..Below::default() });
        }
        let configured: Vec<&str> = self.inner.plans.iter().map(|plan| plan.name()).collect();
        let most = (RELEASED_ROWS_MAX, RELEASED_BYTES_MAX);
        Ok(Below::new(fetch::below(tx, waiting, &configured, most).await?, waiting, most))
    }

    /// Counts rows that were let go with the file that brought one of them, so that they are in the totals.
    async fn count_released(&self, tx: &PostgresTransaction<'_>, file: &str, rows: u64) -> Result<(), Failure> {
        let sql = "UPDATE _waybill_progress SET released = released + $2 WHERE file = $1";
        tx.execute(&tx.prepare_cached(sql).await?, &[&file, &rows.cast_signed()]).await?;
        Ok(())
    }

    async fn advance(
        &self,
        tx: &PostgresTransaction<'_>,
        batch: &EntityBatch,
        applied: &Applied,
    ) -> Result<(), Failure> {
        let sql = "UPDATE _waybill_progress SET rows = $2, done = $3, inserted = inserted + $4, updated = updated + $5,
                       deleted = deleted + $6, ignored = ignored + $7, superseded = superseded + $8, parked = parked + $9,
                       released = released + $10, bad = bad + $11, filtered = filtered + $12, stored_bytes = $13,
                       plain_bytes = $14, plain_sha256 = $15, changed_at = $16::text::timestamptz WHERE file = $1";
        let end: Option<&FileStats> = batch.end.as_ref();
        let hash = end.and_then(|stats| stats.plain_sha256).map(|hash| hex(&hash));
        let statement = tx.prepare_cached(sql).await?;
        tx.execute(
            &statement,
            &[
                &self.file,
                &batch.to.cast_signed(),
                &end.is_some(),
                &applied.inserted.cast_signed(),
                &applied.updated.cast_signed(),
                &applied.deleted.cast_signed(),
                &applied.ignored.cast_signed(),
                &applied.superseded.cast_signed(),
                &applied.parked.cast_signed(),
                &applied.released.cast_signed(),
                &applied.bad.cast_signed(),
                &applied.filtered.cast_signed(),
                &end.map(|stats| stats.stored_bytes.cast_signed()),
                &end.map(|stats| stats.plain_bytes.cast_signed()),
                &hash,
                &self.now,
            ],
        )
        .await?;
        Ok(())
    }
}

/// What a batch came to.
struct Brought {
    applied: Applied,
    /// The table's columns now.
    shape: Arc<Shape>,
    /// Whether the guard judged it.
    is_guarded: bool,
}

/// Rows that wait for rows that wait, by what they wait for.
#[derive(Debug, Default)]
struct Below {
    rows: Vec<Parked>,
    by_parent: HashMap<String, HashMap<String, Vec<usize>>>,
    /// There are no others.
    is_whole: bool,
}

impl Below {
    fn new(found: Vec<((String, String), Parked)>, waiting: &[Parked], (rows_max, bytes_max): (i64, i64)) -> Self {
        let bytes: usize = found.iter().map(|(_, parked)| parked.json.len()).sum();
        let is_less = |size: usize, most: i64| i64::try_from(size).is_ok_and(|size| size < most);
        let mut below =
            Self { is_whole: is_less(found.len(), rows_max) && is_less(bytes, bytes_max), ..Self::default() };
        let above: HashSet<i64> = waiting.iter().map(|parked| parked.id).collect();
        for ((entity, key), parked) in found {
            // Rows may wait for each other in a circle.
            if !above.contains(&parked.id) {
                below.by_parent.entry(entity).or_default().entry(key).or_default().push(below.rows.len());
                below.rows.push(parked);
            }
        }
        below
    }

    fn of(&self, entity: &str, key: &str) -> impl Iterator<Item = &Parked> {
        let rows = self.by_parent.get(entity).and_then(|keys| keys.get(key));
        rows.into_iter().flatten().filter_map(|at| self.rows.get(*at))
    }

    /// Applies rows that waited, then those that wait for them. Gives the keys for which others may wait yet.
    fn release(&self, overlay: &mut Overlay, waiting: &[Parked]) -> Result<(Released, Arrived), Failure> {
        let (mut released, mut left) = (Released::default(), Arrived::new());
        let mut due: Vec<&Parked> = waiting.iter().collect();
        while !due.is_empty() {
            due.sort_unstable_by(|a, b| (&a.entity, &a.key).cmp(&(&b.entity, &b.key)));
            let mut arrived = Arrived::new();
            for of_entity in due.chunk_by(|a, b| a.entity == b.entity) {
                released += release_rows(overlay, of_entity, &mut arrived)?;
            }
            due.clear();
            for (table, key) in arrived {
                if overlay.is_deep {
                    due.extend(self.of(overlay.table(table).entity(), &key));
                }
                if !overlay.is_deep || !self.is_whole || overlay.is_newly_awaited(table, &key) {
                    left.push((table, key));
                }
            }
        }
        Ok((released, left))
    }
}

/// Keys whose waiting rows fit into one round together; one with more stands alone.
fn groups(keys: &[&str], counts: &[i64]) -> Vec<Vec<String>> {
    let mut groups: Vec<Vec<String>> = Vec::new();
    let mut rows = i64::MAX;
    for (key, count) in keys.iter().zip(counts) {
        if *count == 0 {
            continue;
        }
        match groups.last_mut() {
            Some(group) if rows.saturating_add(*count) <= RELEASED_ROWS_MAX => {
                group.push((*key).to_owned());
                rows += count;
            }
            _ => {
                groups.push(vec![(*key).to_owned()]);
                rows = *count;
            }
        }
    }
    groups
}

/// Refuses a second publisher of an entity whose rows only their place in the sequence orders.
async fn admit_publisher(tx: &PostgresTransaction<'_>, plan: &EntityPlan, publisher: &str) -> Result<(), Failure> {
    let publisher = publisher.replace('\0', "\u{fffd}");
    let sql = "UPDATE _waybill_table SET publisher = $2 WHERE name = $1 AND publisher IS NULL";
    let name = SqlName::new(plan.table());
    tx.execute(&tx.prepare_cached(sql).await?, &[&name.as_str(), &publisher]).await?;
    let sql = "SELECT publisher FROM _waybill_table WHERE name = $1";
    let known: Option<String> = tx.query_one(&tx.prepare_cached(sql).await?, &[&name.as_str()]).await?.get(0);
    match known {
        Some(known) if known != publisher => Err(super::foreign_publisher(plan, &known, &publisher)),
        _ => Ok(()),
    }
}
