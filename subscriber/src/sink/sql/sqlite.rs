//! The sink in an SQLite file.

mod schema;
mod tables;

use std::{
    collections::HashMap,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use waybill_contracts::{Entities, Reason, SqlName};
use waybill_formats::FileStats;
use waybill_store::{
    Sqlite, SqliteOptions,
    rusqlite::{self, Connection, OptionalExtension, Transaction},
};

use self::tables::SqliteTables;
use super::{
    Failure,
    apply::{Arrived, Stretch, append, apply_entity, release_rows},
    tables::Tables,
};
use crate::{
    FileKey,
    apply::{Batch, EntityPlan, EntityPlans, NewFields, Position, Shape},
    sink::{Applied, EntityBatch, Guarantee, Progress, Sink, SinkError, SinkOpenError},
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
    plans: EntityPlans,
    now: Box<dyn Fn() -> OffsetDateTime + Send + Sync>,
    /// Columns by entity, or by blobType where there is none, as they were last seen: so that new fields can be found
    /// before the transaction.
    shapes: Mutex<HashMap<String, Arc<Shape>>>,
}

/// What a sink holds, and what became of the rows that it was given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// Rows by table, those of the user's own tables too that an entity has; by name.
    pub tables: Vec<(String, u64)>,
    /// Files that are done.
    pub files: u64,
    /// Rows of all files by what became of them; `bad` counts when it was found, see [`Totals::bad_now`].
    pub applied: Applied,
    /// Rows that wait for a parent now.
    pub parked_now: u64,
    /// Rows kept with their error now; also those that the database refused when they were released.
    pub bad_now: u64,
}

/// A row that waits for its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedRow {
    /// The row's entity.
    pub entity: String,
    /// Its key, the parts joined by commas.
    pub key: String,
    /// The entity of a parent that it waits for.
    pub missing_entity: String,
    /// That parent's key.
    pub missing_key: String,
    /// The file that brought it.
    pub file: FileKey,
    /// Its number there, from 1.
    pub row: u64,
    /// When, RFC 3339.
    pub parked_at: String,
}

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRowEntry {
    /// The file.
    pub file: FileKey,
    /// The row's number there, from 1.
    pub row: u64,
    /// Where it begins, in plain bytes; unknown for one that was parked before.
    pub offset: Option<u64>,
    /// As in [`Reason::as_str`].
    pub reason: String,
    /// What is wrong.
    pub problem: String,
    /// The row as it stands in the file, cut at 64 KiB.
    pub bytes: Vec<u8>,
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
        let path = path.into();
        let name = format!("sqlite:{}", path.display());
        let plans = EntityPlans::compile(entities)?;
        let open = move || Sqlite::open(&path, &schema::SCHEMA, SqliteOptions::default());
        let store = blocking(open).await.ok_or_else(|| SinkOpenError::closing(&name))??;
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
            Ok(Err(Failure::Refused { problem, .. })) => return Err(SinkOpenError::Table { sink: name, problem }),
            Ok(Err(Failure::Fenced { .. })) => unreachable!("no file is worked here"),
            Ok(Err(Failure::Database(error))) => {
                return Err(SinkOpenError::Unavailable { problem: store.error(error).to_string(), sink: name });
            }
            Err(error) => return Err(SinkOpenError::Unavailable { problem: error.to_string(), sink: name }),
        };
        let inner = Inner { name, plans, now: Box::new(now), shapes: Mutex::new(shapes) };
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

    /// Rows that cannot be used, at most `limit`; of one file, or of all.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`].
    pub async fn bad_rows(&self, file: Option<&FileKey>, limit: u32) -> Result<Vec<BadRowEntry>, SinkError> {
        let file = file.map(|file| file.as_str().to_owned());
        self.read(move |connection| {
            let sql = "SELECT file, row, byte_offset, reason, problem, bytes FROM _waybill_bad_row
                       WHERE ?1 IS NULL OR file = ?1 ORDER BY file, row LIMIT ?2";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map((file, limit), |row| {
                Ok(BadRowEntry {
                    file: FileKey::from_stored(row.get(0)?),
                    row: row.get::<_, i64>(1)?.cast_unsigned(),
                    offset: row.get::<_, Option<i64>>(2)?.map(i64::cast_unsigned),
                    reason: row.get(3)?,
                    problem: row.get(4)?,
                    bytes: row.get(5)?,
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
        self.store.read(job).await.map_err(|error| self.unavailable(error.to_string()))
    }

    fn unavailable(&self, problem: String) -> SinkError {
        SinkError::Unavailable { sink: self.inner.name.clone(), problem }
    }

    fn failed(&self, failure: Failure, file: &FileKey, expected: u64) -> SinkError {
        match failure {
            Failure::Fenced { found } => SinkError::Fenced { file: file.as_str().to_owned(), expected, found },
            Failure::Refused { reason, problem } => {
                SinkError::Refused { sink: self.inner.name.clone(), reason, problem }
            }
            Failure::Database(error) => self.unavailable(self.store.error(error).to_string()),
        }
    }
}

impl Sink for SqliteSink {
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    async fn progress(&self, file: &FileKey) -> Result<Progress, SinkError> {
        let file = file.as_str().to_owned();
        self.read(move |connection| progress(connection, &file)).await
    }

    async fn apply(&self, file: &FileKey, from: u64, batch: EntityBatch) -> Result<Applied, SinkError> {
        let inner = Arc::clone(&self.inner);
        let planned = blocking(move || Planned::new(&inner, from, batch)).await;
        let Some(planned) = planned else { return Err(self.unavailable("the program is ending".to_owned())) };
        let planned = planned.map_err(|failure| self.failed(failure, file, from))?;
        let (inner, key) = (Arc::clone(&self.inner), file.as_str().to_owned());
        let shape_name = planned.shape_name.clone();
        match self.store.write(move |tx| planned.apply(tx, &inner, &key, from)).await {
            Ok(Ok((applied, shape))) => {
                self.inner.shapes.lock().unwrap_or_else(PoisonError::into_inner).insert(shape_name, shape);
                Ok(applied)
            }
            Ok(Err(failure)) => Err(self.failed(failure, file, from)),
            Err(error) => Err(self.unavailable(error.to_string())),
        }
    }
}

impl fmt::Debug for SqliteSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteSink").field("name", &self.inner.name).finish_non_exhaustive()
    }
}

/// A batch, read as far as it can be before its transaction.
struct Planned {
    batch: EntityBatch,
    /// The entity's name, or the blobType behind a word that tells it from one.
    shape_name: String,
    seen: Arc<Shape>,
    rows: PlannedRows,
}

enum PlannedRows {
    Entity(Arc<EntityPlan>, Batch),
    Stream(NewFields),
}

impl Planned {
    fn new(inner: &Inner, from: u64, batch: EntityBatch) -> Result<Self, Failure> {
        let plan = match &batch.entity {
            Some(entity) => match inner.plans.get(entity.name()) {
                Some(plan) => Some(Arc::clone(plan)),
                None => {
                    let problem = format!("entity {:?} is not among those of the sink", entity.name());
                    return Err(Failure::Refused { reason: Reason::RefusedByDatabase, problem });
                }
            },
            None => None,
        };
        let shape_name = match &plan {
            Some(plan) => plan.name().to_owned(),
            None => format!("type {}", batch.blob_type),
        };
        let shapes = inner.shapes.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = shapes.get(&shape_name).map(Arc::clone).unwrap_or_default();
        drop(shapes);
        let rows = PlannedRows::new(plan, &seen, from, &batch);
        Ok(Self { batch, shape_name, seen, rows })
    }

    /// Everything, in the writer's transaction.
    fn apply(
        mut self,
        tx: &Transaction<'_>,
        inner: &Inner,
        file: &str,
        from: u64,
    ) -> Result<(Applied, Arc<Shape>), Failure> {
        let known = progress(tx, file)?;
        if known.rows != from || known.done {
            return Err(Failure::Fenced { found: known });
        }
        let now = (inner.now)().format(&Rfc3339).unwrap_or_default();
        let mut tables = SqliteTables::new(tx, &inner.plans, &now);
        let table = match &self.rows {
            PlannedRows::Entity(plan, _) => tables.open(plan.name())?,
            PlannedRows::Stream(_) => {
                let (name, shape) = schema::install_stream(tx, &self.batch.blob_type)?;
                tables.open_stream(name, Arc::new(shape))
            }
        };
        if !tables.shape(table)?.covers(&self.seen) {
            // Somebody dropped a column since: its field is new again.
            self.rows = self.rows.again(&*tables.shape(table)?, from, &self.batch);
        }
        let stretch = Stretch { file, from, rows: &self.batch.rows };
        let applied = match &self.rows {
            PlannedRows::Entity(plan, batch) => {
                if let (true, Position::Sequenced { publisher, .. }) =
                    (plan.is_ordered_by_position(), &self.batch.position)
                {
                    tables.admit_publisher(table, publisher)?;
                }
                tables.grow(table, &batch.new_fields)?;
                let (mut applied, arrived) = apply_entity(&mut tables, plan, &stretch, batch)?;
                applied.released = release(&mut tables, arrived)?;
                applied
            }
            PlannedRows::Stream(new_fields) => {
                tables.grow(table, new_fields)?;
                append(&mut tables, table, &stretch)?
            }
        };
        let shape = tables.shape(table)?;
        advance(tx, file, &self.batch, &applied, &now)?;
        Ok((applied, shape))
    }
}

impl PlannedRows {
    fn new(plan: Option<Arc<EntityPlan>>, shape: &Shape, from: u64, batch: &EntityBatch) -> Self {
        match plan {
            Some(plan) => {
                let rows = Batch::new(&plan, shape, &batch.position, &batch.rows, from);
                Self::Entity(plan, rows)
            }
            None => Self::Stream(NewFields::of(shape, &batch.rows, from)),
        }
    }

    fn again(self, shape: &Shape, from: u64, batch: &EntityBatch) -> Self {
        match self {
            Self::Entity(plan, _) => Self::new(Some(plan), shape, from, batch),
            Self::Stream(_) => Self::new(None, shape, from, batch),
        }
    }
}

/// Applies the rows that waited for these, then those that waited for them, and so on. Returns how many.
fn release(tables: &mut SqliteTables<'_>, mut arrived: Arrived) -> Result<u64, Failure> {
    let mut released = 0;
    while let Some((parent, key)) = arrived.pop() {
        let mut after = 0;
        loop {
            let mut waiting = tables.waiting(parent, &key, after, RELEASED_ROWS_MAX, RELEASED_BYTES_MAX)?;
            let Some(last) = waiting.iter().map(|parked| parked.id).max() else { break };
            after = last;
            // Tables are then touched page by page.
            waiting.sort_unstable_by(|a, b| (&a.entity, &a.key).cmp(&(&b.entity, &b.key)));
            for of_entity in waiting.chunk_by(|a, b| a.entity == b.entity) {
                released += release_rows(tables, of_entity, &mut arrived)?;
            }
        }
    }
    Ok(released)
}

/// Runs CPU work or waiting beside the runtime. `None` when the runtime is shutting down.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => Some(value),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => None,
        },
    }
}

fn progress(connection: &Connection, file: &str) -> rusqlite::Result<Progress> {
    let mut statement = connection.prepare_cached("SELECT rows, done FROM _waybill_progress WHERE file = ?1")?;
    let known = statement
        .query_row([file], |row| Ok(Progress { rows: row.get::<_, i64>(0)?.cast_unsigned(), done: row.get(1)? }));
    known.optional().map(Option::unwrap_or_default)
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
                   parked, released, bad, stored_bytes, plain_bytes, plain_sha256, began_at, changed_at)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?16)
               ON CONFLICT (file) DO UPDATE SET rows = excluded.rows, done = excluded.done,
                   inserted = inserted + excluded.inserted, updated = updated + excluded.updated,
                   deleted = deleted + excluded.deleted, ignored = ignored + excluded.ignored,
                   superseded = superseded + excluded.superseded, parked = parked + excluded.parked,
                   released = released + excluded.released, bad = bad + excluded.bad,
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
        end.map(|stats| stats.stored_bytes.cast_signed()),
        end.map(|stats| stats.plain_bytes.cast_signed()),
        hash,
        now,
    ])?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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
                    coalesce(sum(released), 0), coalesce(sum(bad), 0) FROM _waybill_progress";
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
        })
    })?;
    let mut statement = connection.prepare("SELECT name FROM _waybill_table ORDER BY name")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    for name in names {
        let rows = number(&format!("SELECT count(*) FROM {}", schema::quoted(&name)))?;
        totals.tables.push((name, rows));
    }
    Ok(totals)
}
