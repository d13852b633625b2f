//! The sink in an SQLite file.

mod bad_rows;
mod rebuild;
mod schema;
mod tables;
mod waiting;

use std::{
    collections::HashMap,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::mpsc;
use waybill_contracts::{Entities, SqlName};
use waybill_formats::FileStats;
use waybill_store::{
    OpenError, Sqlite, SqliteOptions, StoreError,
    rusqlite::{self, Connection, OptionalExtension, Transaction},
};

pub(super) use self::rebuild::SqliteRebuild;
use self::tables::SqliteTables;
use super::{
    Failure, PROGRESS, ParkedRow, Released, Totals,
    apply::{Arrived, Stretch, append, apply_entity, release_rows},
    catalogue::quoted,
    due::Due,
    hex,
    planned::{PLANNED_QUEUED, Planned, PlannedRows, Shapes},
    tables::{Outgrown, Parked, Tables},
};
use crate::{
    FileKey,
    apply::{EntityPlan, EntityPlans, Reading, Shape},
    sink::{
        Applied, EntityBatch, Guarantee, Progress, Sink, SinkError, SinkOpenError, WaitsEnded, WholeFiles,
        trouble::Trouble,
    },
    sorted::Trail,
    tasks::blocking,
};

/// Parked rows looked at together: bounds what a release holds in memory.
const RELEASED_ROWS_MAX: usize = 1_000;
const RELEASED_BYTES_MAX: usize = 4 << 20;

/// Tables in an SQLite file, which may be the user's own database. Clones share it.
#[derive(Clone)]
pub struct SqliteSink {
    store: Sqlite,
    inner: Arc<Inner>,
}

struct Inner {
    name: String,
    /// Where the file lies.
    folder: PathBuf,
    plans: EntityPlans,
    /// Tables that are derived again: parents may come late into these, so no wait ends by itself.
    is_shadow: bool,
    now: Box<dyn Fn() -> OffsetDateTime + Send + Sync>,
    shapes: Shapes,
}

impl SqliteSink {
    /// Opens or creates the file and the tables of all entities; tables that are there are checked.
    ///
    /// # Errors
    /// [`SinkOpenError`]: an entity that cannot be used, a file that is none of SQLite or of a newer program, a table of the
    /// user that cannot take the rows. Then nothing was changed but for the sink's own empty tables.
    pub async fn open(path: impl Into<PathBuf>, entities: &Entities) -> Result<Self, SinkOpenError> {
        Self::open_with(path, entities, OffsetDateTime::now_utc).await
    }

    /// Like [`SqliteSink::open`], with a clock for the times that are stored.
    ///
    /// # Errors
    /// As [`SqliteSink::open`].
    pub async fn open_with(
        path: impl Into<PathBuf>,
        entities: &Entities,
        now: impl Fn() -> OffsetDateTime + Send + Sync + 'static,
    ) -> Result<Self, SinkOpenError> {
        Self::open_as(path.into(), entities, now, false).await
    }

    /// Whether [`SqliteSink::open`] would do in a file that is there: all that it does to its tables, in a transaction that is taken back.
    ///
    /// # Errors
    /// As [`SqliteSink::open`].
    pub async fn check(path: impl Into<PathBuf>, entities: &Entities) -> Result<(), SinkOpenError> {
        let path = path.into();
        let shown = path.display().to_string();
        let name = format!("sqlite:{shown}");
        let plans = EntityPlans::compile(entities)?;
        let options = SqliteOptions::default();
        let check = move || Sqlite::rehearse(&path, &schema::SCHEMA, &options, |tx| schema::install(tx, &plans));
        let installed = blocking(check).await.ok_or_else(|| SinkOpenError::closing(&name))??;
        installed.map_err(|failure| not_installed(&name, failure, |error| StoreError::new(&shown, error)))
    }

    async fn open_as(
        path: PathBuf,
        entities: &Entities,
        now: impl Fn() -> OffsetDateTime + Send + Sync + 'static,
        is_shadow: bool,
    ) -> Result<Self, SinkOpenError> {
        let name = format!("sqlite:{}", path.display());
        let plans = EntityPlans::compile(entities)?;
        let open = move || {
            let store = Sqlite::open(&path, &schema::SCHEMA, SqliteOptions::default())?;
            // Of the file itself, wherever a link to it lies.
            let file = path.canonicalize().unwrap_or(path);
            Ok::<_, OpenError>((store, file.parent().unwrap_or(Path::new(".")).to_owned()))
        };
        let (store, folder) = blocking(open).await.ok_or_else(|| SinkOpenError::closing(&name))??;
        let installed = plans.clone();
        let install = move |tx: &Transaction<'_>| {
            schema::install(tx, &installed)?;
            let shape = |plan: &Arc<EntityPlan>| {
                let shape = schema::shape(tx, &SqlName::new(plan.table()), Some(plan))?;
                Ok((plan.name().to_owned(), Arc::new(shape)))
            };
            installed.iter().map(shape).collect::<Result<HashMap<_, _>, Failure>>()
        };
        let shapes = match store.write(install).await {
            Ok(Ok(shapes)) => shapes,
            Ok(Err(failure)) => return Err(not_installed(&name, failure, |error| store.error(error))),
            Err(error) => return Err(SinkOpenError::of_store(&name, &error)),
        };
        let inner = Inner { name, folder, plans, is_shadow, now: Box::new(now), shapes: Shapes::new(shapes) };
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
        self.read(totals).await
    }

    /// Rows that wait for a parent, at most `limit`, the longest waiting first.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`].
    pub async fn parked(&self, limit: u32) -> Result<Vec<ParkedRow>, SinkError> {
        self.read(move |connection| {
            let sql = "SELECT entity, key, missing_entity, missing_key, file, file_row, parked_at
                       FROM _waybill_parked ORDER BY id LIMIT ?1";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map([limit], |row| {
                Ok(ParkedRow {
                    entity: row.get(0)?,
                    key: row.get(1)?,
                    missing_entity: row.get(2)?,
                    missing_key: row.get(3)?,
                    file: FileKey::from_stored(row.get(4)?),
                    row: row.get::<_, i64>(5)?.cast_unsigned(),
                    parked_at: row.get(6)?,
                })
            })?;
            rows.collect()
        })
        .await
    }

    /// Ends the writer and closes the file. Clones fail from then on.
    pub async fn close(&self) {
        self.store.close().await;
    }

    async fn read<T, F>(&self, job: F) -> Result<T, SinkError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    {
        self.store
            .read(job)
            .await
            .map_err(|error| Trouble::of_store(&error).of_all().error(self.inner.name.clone(), error.to_string()))
    }

    /// What the writer said, whatever it was asked.
    fn not_written(&self, error: &StoreError) -> SinkError {
        Trouble::of_store(error).error(self.inner.name.clone(), error.to_string())
    }

    fn unavailable(&self, problem: String) -> SinkError {
        SinkError::Unavailable { sink: self.inner.name.clone(), problem }
    }

    async fn plan(&self, file: &FileKey, from: u64, batch: EntityBatch) -> Result<Planned, SinkError> {
        let inner = Arc::clone(&self.inner);
        match blocking(move || Planned::new(&inner.plans, &inner.shapes, Reading::Whole, from, batch)).await {
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

    fn gave_up(&self, failure: Failure) -> SinkError {
        match failure {
            Failure::Fenced { .. } => unreachable!("only a file's progress is fenced"),
            Failure::Outdated { problem } => self.unavailable(problem),
            Failure::Refused { reason, problem } => {
                SinkError::Refused { sink: self.inner.name.clone(), reason, problem }
            }
            Failure::Sqlite(error) => {
                let trouble = Trouble::of_sqlite(&error);
                trouble.error(self.inner.name.clone(), self.store.error(error).to_string())
            }
            Failure::Postgres(_) => unreachable!("this is SQLite"),
        }
    }
}

fn not_installed(sink: &str, failure: Failure, told: impl FnOnce(rusqlite::Error) -> StoreError) -> SinkOpenError {
    match failure {
        Failure::Refused { problem, .. } => SinkOpenError::Table { sink: sink.to_owned(), problem },
        Failure::Sqlite(error) => SinkOpenError::of_store(sink, &told(error)),
        Failure::Fenced { .. } | Failure::Outdated { .. } | Failure::Postgres(_) => {
            unreachable!("no file is worked here, in SQLite")
        }
    }
}

impl Sink for SqliteSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn sorts_in(&self) -> Option<&Path> {
        Some(&self.inner.folder)
    }

    async fn may_sort(&self, entity: &EntityPlan) -> Result<bool, SinkError> {
        // A parent that stands before its children would come behind them.
        if entity.references().iter().any(|reference| reference.parent == entity.name()) {
            return Ok(false);
        }
        let name = SqlName::new(entity.table());
        let key: Vec<String> = entity.key().map(|(field, _)| SqlName::new(field).as_str().to_owned()).collect();
        self.read(move |connection| schema::takes_rows_in_any_order(connection, &name, &key)).await
    }

    async fn begin_again(&self, file: &FileKey, at: Progress) -> Result<(), SinkError> {
        let (key, now) = (file.as_str().to_owned(), self.inner.now());
        match self.store.write(move |tx| begin_again(tx, &key, at, &now)).await {
            Ok(begun) => begun.map_err(|failure| self.failed(failure, file, at.rows)),
            Err(error) => Err(self.not_written(&error)),
        }
    }

    async fn progress(&self, file: &FileKey) -> Result<Progress, SinkError> {
        let file = file.as_str().to_owned();
        self.read(move |connection| progress(connection, &file)).await
    }

    async fn look_ahead(&self, file: &FileKey, from: u64, batch: EntityBatch) -> Result<EntityBatch, SinkError> {
        Ok(self.plan(file, from, batch).await?.into_ahead(from))
    }

    async fn apply(&self, file: &FileKey, from: u64, batch: EntityBatch) -> Result<Applied, SinkError> {
        let planned = self.plan(file, from, batch).await?;
        let (inner, key) = (Arc::clone(&self.inner), file.as_str().to_owned());
        let shape_name = planned.shape_name.clone();
        match self.store.write(move |tx| apply(planned, tx, &inner, &key, from)).await {
            Ok(Ok((applied, shape))) => {
                self.inner.shapes.set(shape_name, shape);
                Ok(applied)
            }
            Ok(Err(failure)) => Err(self.failed(failure, file, from)),
            Err(error) => Err(self.not_written(&error)),
        }
    }

    fn whole_files(&self) -> WholeFiles {
        WholeFiles::Asked
    }

    /// Others that write wait until it is over.
    async fn apply_whole(
        &self,
        file: &FileKey,
        mut batches: mpsc::Receiver<EntityBatch>,
    ) -> Result<Option<Applied>, SinkError> {
        let (inner, key) = (Arc::clone(&self.inner), file.as_str().to_owned());
        let (planned_to, mut planned) = mpsc::channel(PLANNED_QUEUED);
        let planning = async move {
            let mut from = 0;
            while let Some(batch) = batches.recv().await {
                let to = batch.to;
                let planned = self.plan(file, from, batch).await?;
                if planned_to.send((from, planned)).await.is_err() {
                    // The transaction was given up, and says why.
                    break;
                }
                from = to;
            }
            Ok::<_, SinkError>(())
        };
        // Nobody has to wait for the first rows to come.
        let applying = async move {
            let Some(first) = planned.recv().await else { return Ok(None) };
            match self.store.write_alone(move |tx| apply_whole(first, planned, tx, &inner, &key)).await {
                Ok(Ok(applied)) => Ok(Some(applied)),
                Ok(Err(None)) => Ok(None),
                Ok(Err(Some(failure))) => Err(self.failed(failure, file, 0)),
                Err(error) => Err(self.not_written(&error)),
            }
        };
        tokio::pin!(applying);
        tokio::select! {
            biased;
            applied = &mut applying => applied,
            read = planning => {
                read?;
                applying.await
            }
        }
    }

    async fn end_waits(&self) -> Result<WaitsEnded, SinkError> {
        if self.inner.is_shadow { Ok(WaitsEnded::default()) } else { self.end_overdue_waits().await }
    }
}

impl Inner {
    /// As it is stored.
    fn now(&self) -> String {
        (self.now)().format(&Rfc3339).unwrap_or_default()
    }
}

impl fmt::Debug for SqliteSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteSink").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

/// Whether a database that works says no to what was asked, so that it may say yes to other files.
fn is_answer(error: &rusqlite::Error) -> bool {
    Trouble::of_sqlite(error) == Trouble::File
}

/// The tables of types that have an entity now, in the file itself.
fn outgrown(connection: &Connection, plans: &EntityPlans) -> rusqlite::Result<Vec<Outgrown>> {
    let sql = "SELECT name, blob_type FROM main._waybill_table WHERE blob_type IS NOT NULL ORDER BY name";
    let mut statement = connection.prepare(sql)?;
    let known = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<Vec<_>, _>>()?;
    Ok(Outgrown::of(plans, known))
}

/// The batches of a file as they come, in the writer's transaction. `None`: no more come, and the file's end was not among them.
fn apply_whole(
    first: (u64, Planned),
    mut rest: mpsc::Receiver<(u64, Planned)>,
    tx: &Transaction<'_>,
    inner: &Inner,
    file: &str,
) -> Result<Applied, Option<Failure>> {
    let (mut whole, mut next) = (Applied::default(), Some(first));
    while let Some((from, planned)) = next {
        let (shape_name, is_end) = (planned.shape_name.clone(), planned.batch.end.is_some());
        let (applied, shape) = apply(planned, tx, inner, file, from)?;
        // If it is taken back, whoever reads for these columns finds out as if somebody had dropped them.
        inner.shapes.set(shape_name, shape);
        whole += applied;
        if is_end {
            return Ok(whole);
        }
        next = rest.blocking_recv();
    }
    Err(None)
}

/// Everything, in the writer's transaction.
fn apply(
    mut planned: Planned,
    tx: &Transaction<'_>,
    inner: &Inner,
    file: &str,
    from: u64,
) -> Result<(Applied, Arc<Shape>), Failure> {
    let known = progress(tx, file)?;
    if !planned.batch.follows(&known, from) {
        return Err(Failure::Fenced { found: known });
    }
    let now = inner.now();
    let mut tables = SqliteTables::new(tx, inner, &now);
    let table = match &planned.rows {
        PlannedRows::Entity(plan, _) => tables.open(plan.name())?,
        PlannedRows::Stream(_) => {
            let (name, shape) = schema::install_stream(tx, &planned.batch.blob_type)?;
            tables.open_stream(name, Arc::new(shape))
        }
    };
    planned.fit(&*tables.shape(table)?, from);
    let stretch = Stretch {
        file,
        from: planned.batch.passed_over(from),
        rows: &planned.batch.rows,
        is_before_begin: tables.is_before_begin(table, &planned.batch)?,
    };
    let applied = match &planned.rows {
        PlannedRows::Entity(plan, batch) => {
            if let (true, Some(publisher)) = (plan.is_ordered_by_position(), planned.batch.position.publisher()) {
                tables.admit_publisher(table, publisher)?;
            }
            // What is not stored needs no columns.
            if !stretch.is_before_begin {
                tables.grow(table, &batch.new_fields)?;
            }
            let is_kept = planned.is_read_for(&*tables.shape(table)?);
            let (mut applied, arrived) = apply_entity(&mut tables, plan, &stretch, batch, is_kept)?;
            let released = release(&mut tables, arrived)?;
            applied.released = released.applied;
            applied.rescued += released.rescued;
            applied
        }
        PlannedRows::Stream(rows) => {
            tables.grow(table, &rows.new_fields)?;
            append(&mut tables, table, &stretch, rows)?
        }
    };
    let shape = tables.shape(table)?;
    advance(tx, file, &planned.batch, &applied, &now)?;
    Ok((applied, shape))
}

/// Applies the rows that waited for these, then those that waited for them, and so on.
fn release(tables: &mut SqliteTables<'_>, arrived: Arrived) -> Result<Released, Failure> {
    let mut released = Released::default();
    let mut due = Due::new(arrived);
    while let Some((parent, key, after)) = due.next() {
        let (waiting, more) = tables.waiting(parent, key, after, RELEASED_ROWS_MAX, RELEASED_BYTES_MAX)?;
        let mut arrived = Arrived::new();
        released += release_some(tables, waiting, &mut arrived)?;
        due.let_go(more, arrived);
    }
    Ok(released)
}

fn release_some(
    tables: &mut SqliteTables<'_>,
    mut waiting: Vec<Parked>,
    arrived: &mut Arrived,
) -> Result<Released, Failure> {
    let mut released = Released::default();
    waiting.iter_mut().for_each(|parked| parked.without.extend(tables.without.clone()));
    // Tables are then touched page by page.
    waiting.sort_unstable_by(|a, b| (&a.entity, &a.key).cmp(&(&b.entity, &b.key)));
    let waiting: Vec<&Parked> = waiting.iter().collect();
    for of_entity in waiting.chunk_by(|a, b| a.entity == b.entity) {
        released += release_rows(tables, of_entity, arrived)?;
    }
    Ok(released)
}

fn progress(connection: &Connection, file: &str) -> rusqlite::Result<Progress> {
    let mut statement =
        connection.prepare_cached(&format!("SELECT {PROGRESS}, trail FROM _waybill_progress WHERE file = ?1"))?;
    let known = statement.query_row([file], |row| {
        let count = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
        let trail = row.get::<_, Option<i64>>(4)?.map(Trail::from_stored);
        Ok(Progress { rows: count(0)?, done: row.get(1)?, bad: count(2)?, filtered: count(3)?, trail })
    });
    known.optional().map(Option::unwrap_or_default)
}

/// Of a file whose rows took effect in an order that does not come out again.
fn begin_again(tx: &Transaction<'_>, file: &str, at: Progress, now: &str) -> Result<(), Failure> {
    let known = progress(tx, file)?;
    if known != at || at.done || at.trail.is_none() {
        return Err(Failure::Fenced { found: known });
    }
    let sql =
        "UPDATE _waybill_progress SET rows = 0, trail = NULL, inserted = 0, updated = 0, deleted = 0, ignored = 0,
                   superseded = 0, parked = 0, bad = 0, filtered = 0, changed_at = ?2 WHERE file = ?1";
    tx.prepare_cached(sql)?.execute((file, now))?;
    // Those that cannot be used are found again.
    tx.prepare_cached("DELETE FROM _waybill_bad_row WHERE file = ?1")?.execute([file])?;
    Ok(())
}

fn advance(
    tx: &Transaction<'_>,
    file: &str,
    batch: &EntityBatch,
    applied: &Applied,
    now: &str,
) -> rusqlite::Result<()> {
    let sql =
        "INSERT INTO _waybill_progress (file, blob_type, rows, done, inserted, updated, deleted, ignored, superseded,
                   parked, released, bad, filtered, stored_bytes, plain_bytes, plain_sha256, began_at, changed_at, trail)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?17, ?18)
               ON CONFLICT (file) DO UPDATE SET rows = excluded.rows, done = excluded.done, trail = excluded.trail,
                   inserted = inserted + excluded.inserted, updated = updated + excluded.updated,
                   deleted = deleted + excluded.deleted, ignored = ignored + excluded.ignored,
                   superseded = superseded + excluded.superseded, parked = parked + excluded.parked,
                   released = released + excluded.released, bad = bad + excluded.bad,
                   filtered = filtered + excluded.filtered,
                   stored_bytes = excluded.stored_bytes, plain_bytes = excluded.plain_bytes,
                   plain_sha256 = excluded.plain_sha256, changed_at = excluded.changed_at";
    let end: Option<&FileStats> = batch.end.as_ref();
    let hash = end.and_then(|stats| stats.plain_sha256).map(|hash| hex(&hash));
    tx.prepare_cached(sql)?.execute(rusqlite::params![
        file,
        &*batch.blob_type,
        batch.to.cast_signed(),
        end.is_some(),
        applied.inserted.cast_signed(),
        applied.updated.cast_signed(),
        applied.deleted.cast_signed(),
        applied.ignored.cast_signed(),
        applied.superseded.cast_signed(),
        applied.parked.cast_signed(),
        applied.released.cast_signed(),
        applied.bad.cast_signed(),
        applied.filtered.cast_signed(),
        end.map(|stats| stats.stored_bytes.cast_signed()),
        end.map(|stats| stats.plain_bytes.cast_signed()),
        hash,
        now,
        batch.sorted.map(|stretch| stretch.after.to_stored()),
    ])?;
    Ok(())
}

fn totals(connection: &Connection) -> rusqlite::Result<Totals> {
    let number = |sql: &str| connection.query_row(sql, [], |row| row.get(0)).map(i64::cast_unsigned);
    let mut totals = Totals {
        parked_now: number("SELECT count(*) FROM _waybill_parked")?,
        bad_now: number("SELECT count(*) FROM _waybill_bad_row")?,
        files: number("SELECT count(*) FROM _waybill_progress WHERE done")?,
        ..Totals::default()
    };
    let sums = "SELECT coalesce(sum(inserted), 0), coalesce(sum(updated), 0), coalesce(sum(deleted), 0),
                    coalesce(sum(ignored), 0), coalesce(sum(superseded), 0), coalesce(sum(parked), 0),
                    coalesce(sum(released), 0), coalesce(sum(bad), 0), coalesce(sum(filtered), 0)
                FROM _waybill_progress";
    totals.applied = connection.query_row(sums, [], |row| {
        let count = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
        Ok(Applied {
            inserted: count(0)?,
            updated: count(1)?,
            deleted: count(2)?,
            ignored: count(3)?,
            superseded: count(4)?,
            parked: count(5)?,
            released: count(6)?,
            bad: count(7)?,
            filtered: count(8)?,
            rescued: 0,
        })
    })?;
    let mut statement = connection.prepare("SELECT name FROM _waybill_table ORDER BY name")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    for name in names {
        let rows = number(&format!("SELECT count(*) FROM {}", quoted(&name)))?;
        totals.tables.push((name, rows));
    }
    Ok(totals)
}
