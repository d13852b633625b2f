//! Tables of an SQLite file derived again: the shadow is a file beside it, `NAME.rebuild`.

use std::{
    fs::{File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use time::OffsetDateTime;
use waybill_contracts::SqlName;
use waybill_store::{
    Sqlite, SqliteOptions, StoreError,
    rusqlite::{self, Connection, OpenFlags, OptionalExtension, types::Value},
};

use super::{
    super::{
        Failure,
        catalogue::{
            FILE, RESCUED, ROW, VERSION, quoted, rule_of, table_is_taken, wont_widen, would_lose, write_begin,
        },
        rebuild::{BEHIND_MAX, LET_GO_MAX, RebuildError, Scope, SwappedTable, Way, same_key},
        refused,
        tables::Outgrown,
    },
    SqliteSink, schema,
};
use crate::{
    FileKey,
    apply::{Begin, EntityPlan, EntityPlans},
    sink::SinkOpenError,
    tasks::blocking,
};

/// How long a writer of the old tables may take to end.
const HOLD_PATIENCE: Duration = Duration::from_secs(120);

/// A rebuild under way.
#[derive(Debug)]
pub(in super::super) struct SqliteRebuild {
    place: Arc<Place>,
    shadow: SqliteSink,
    /// Away while something runs on it. Nobody waits for its lock: it lets what borrows the rebuild go to another thread.
    live: Mutex<Option<Connection>>,
    /// Kept by whoever rebuilds.
    _lock: File,
}

#[derive(Debug)]
struct Place {
    name: String,
    live: PathBuf,
    shadow: PathBuf,
    scope: Scope,
    plans: EntityPlans,
    /// Tables that do not fit their entities any more.
    anew: Vec<String>,
}

/// A table's columns, as both sides have them.
struct Columns {
    key: Vec<String>,
    others: Vec<String>,
}

impl SqliteRebuild {
    pub(in super::super) async fn begin(live: PathBuf, scope: &Scope) -> Result<Self, RebuildError> {
        let (name, plans) = (format!("sqlite:{}", live.display()), EntityPlans::compile(scope.entities())?);
        let shadow = beside(&live, ".rebuild");
        let place = Place { name, live, shadow, scope: scope.clone(), plans, anew: Vec::new() };
        let (shadow_path, sink) = (place.shadow.clone(), place.name.clone());
        let closing = || SinkOpenError::closing(&sink);
        let opened = blocking(move || {
            let lock = place.lock()?;
            place.clear()?;
            let stores = (place.open(&place.live)?, place.open(&place.shadow)?);
            Ok::<_, RebuildError>((place, lock, stores))
        });
        let (mut place, lock, (live, shadow)) = opened.await.ok_or_else(closing)??;
        // Their tables are there now.
        live.close().await;
        shadow.close().await;
        let modelled = blocking(move || {
            let live = place.opened(connect(&place.live).map_err(Failure::from))?;
            place.anew = place.opened(place.model(&live))?;
            Ok::<_, RebuildError>((Arc::new(place), live))
        });
        let (place, live) = modelled.await.ok_or_else(closing)??;
        let shadow = SqliteSink::open_as(shadow_path, scope.entities(), OffsetDateTime::now_utc, true).await?;
        Ok(Self { place, shadow, live: Mutex::new(Some(live)), _lock: lock })
    }

    pub(in super::super) fn shadow(&self) -> &SqliteSink {
        &self.shadow
    }

    pub(in super::super) fn scope(&self) -> &Scope {
        &self.place.scope
    }

    /// Has the table of an entity begin at a full export. Whether there is one.
    pub(in super::super) async fn begin_at(&self, entity: &str, begin: &Begin) -> Result<bool, RebuildError> {
        let Some(plan) = self.shadow.plans().get(entity) else { return Ok(false) };
        let (place, entity, rule, begin) =
            (Arc::clone(&self.place), entity.to_owned(), rule_of(plan, true), write_begin(begin));
        self.on(move || {
            let sql = "UPDATE _waybill_table SET rule = ?2, begins = ?3 WHERE entity = ?1";
            Ok(connect(&place.shadow)?.execute(sql, (entity, rule, begin))? == 1)
        })
        .await
    }

    pub(in super::super) async fn behind(&self, types: &[String]) -> Result<Vec<FileKey>, RebuildError> {
        let (place, types) = (Arc::clone(&self.place), serde_json::json!(types).to_string());
        self.on(move || {
            let connection = connect(&place.live)?;
            attach(&connection, &place.shadow)?;
            let sql = "SELECT file FROM main._waybill_progress p WHERE p.done AND p.blob_type IN (SELECT value FROM json_each(?1))
                         AND NOT EXISTS (SELECT 1 FROM shadow._waybill_progress s WHERE s.file = p.file AND s.done) LIMIT ?2";
            let mut statement = connection.prepare(sql)?;
            let limit = i64::try_from(BEHIND_MAX).unwrap_or(i64::MAX);
            let files = statement.query_map((types, limit), |row| row.get(0).map(FileKey::from_stored))?;
            Ok(files.collect::<Result<_, _>>()?)
        })
        .await
    }

    pub(in super::super) async fn hold(&mut self) -> Result<(), RebuildError> {
        let (place, live) = (Arc::clone(&self.place), self.live().take());
        let live = self.on(move || {
            // Of a call that failed or was dropped nothing is left.
            let live = live.map_or_else(|| connect(&place.live), Ok)?;
            if live.is_autocommit() {
                // A table that goes would else take away rows that refer to it; they are checked after the swap instead.
                let keys = if place.anew.is_empty() { "ON" } else { "OFF" };
                live.execute_batch(&format!("PRAGMA foreign_keys = {keys}; BEGIN IMMEDIATE"))?;
            }
            Ok(live)
        });
        *self.live() = Some(live.await?);
        Ok(())
    }

    /// What is no fact of the files: since when rows wait, and which of them were let go.
    async fn carry_over(&self) -> Result<(), RebuildError> {
        loop {
            let place = Arc::clone(&self.place);
            let ids = self.on(move || place.let_go_before()).await?;
            if ids.is_empty() {
                break;
            }
            self.shadow.let_go(ids).await?;
        }
        self.shadow.end_overdue_waits().await?;
        Ok(())
    }

    pub(in super::super) async fn swap(mut self) -> Result<Vec<SwappedTable>, RebuildError> {
        let Some(live) = self.live().take().filter(|live| !live.is_autocommit()) else {
            return Err(RebuildError::not_held(&self.place.name));
        };
        self.carry_over().await?;
        let place = Arc::clone(&self.place);
        let swapped = self
            .on(move || {
                attach(&live, &place.shadow)?;
                let swapped = place.swap(&live)?;
                live.execute_batch("COMMIT")?;
                Ok(swapped)
            })
            .await?;
        if let Err(error) = self.give_up().await {
            tracing::warn!(%error, "the shadow stays until the next rebuild");
        }
        Ok(swapped)
    }

    pub(in super::super) async fn give_up(self) -> Result<(), RebuildError> {
        let Self { place, shadow, live, _lock } = self;
        drop(live);
        shadow.close().await;
        drop(shadow);
        let name = place.name.clone();
        blocking(move || place.clear()).await.ok_or_else(|| SinkOpenError::closing(&name))?
    }

    fn live(&mut self) -> &mut Option<Connection> {
        self.live.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    async fn on<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, RebuildError> {
        let done = blocking(job).await.ok_or_else(|| SinkOpenError::closing(&self.place.name))?;
        done.map_err(|failure| {
            let problem = self.place.told(failure);
            RebuildError::Swap { sink: self.place.name.clone(), problem }
        })
    }
}

impl Place {
    fn told(&self, failure: Failure) -> String {
        match failure {
            Failure::Refused { problem, .. } | Failure::Outdated { problem } => problem,
            Failure::Sqlite(error) if StoreError::is_disk_full(&error) => "the disk is full".to_owned(),
            Failure::Sqlite(error) => error.to_string(),
            Failure::Fenced { .. } | Failure::Postgres(_) => unreachable!("no file is worked here, in SQLite"),
        }
    }

    fn opened<T>(&self, result: Result<T, Failure>) -> Result<T, RebuildError> {
        result.map_err(|failure| {
            let is_refused = matches!(failure, Failure::Refused { .. });
            let (sink, problem) = (self.name.clone(), self.told(failure));
            let error = match is_refused {
                true => SinkOpenError::Table { sink, problem },
                false => SinkOpenError::Unavailable { sink, problem },
            };
            error.into()
        })
    }

    fn types(&self) -> String {
        serde_json::json!(self.scope.types()).to_string()
    }

    fn entities(&self) -> String {
        serde_json::json!(self.scope.order).to_string()
    }

    /// One rebuild at a time. The system takes the lock back from a process that dies.
    fn lock(&self) -> Result<File, RebuildError> {
        let path = beside(&self.live, ".rebuild-lock");
        let unavailable = |error: io::Error| SinkOpenError::Unavailable {
            sink: self.name.clone(),
            problem: format!("cannot make {}: {error}", path.display()),
        };
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(unavailable)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(RebuildError::UnderWay { sink: self.name.clone() }),
            Err(TryLockError::Error(error)) => Err(unavailable(error).into()),
        }
    }

    /// Removes the shadow, or what a rebuild that died has left of one.
    fn clear(&self) -> Result<(), RebuildError> {
        for suffix in ["", "-wal", "-shm", "-journal"] {
            let path = beside(&self.shadow, suffix);
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let problem = format!("cannot remove {}: {error}", path.display());
                    return Err(SinkOpenError::Unavailable { sink: self.name.clone(), problem }.into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// With the sink's own tables.
    fn open(&self, path: &Path) -> Result<Sqlite, SinkOpenError> {
        Ok(Sqlite::open(path, &schema::SCHEMA, SqliteOptions::default())?)
    }

    /// Tables that fit stand in the shadow as they are in the file, so that it takes and refuses the same rows. The others are
    /// the answer.
    fn model(&self, live: &Connection) -> Result<Vec<String>, Failure> {
        let shadow = connect(&self.shadow)?;
        let (mut anew, mut fitting) = (Vec::new(), Vec::new());
        live.execute_batch("BEGIN IMMEDIATE")?;
        let fits = self.plans.iter().try_for_each(|plan| {
            match self.fits(live, plan)? {
                Some(true) => fitting.push(plan),
                Some(false) => anew.push(plan.table().to_owned()),
                None => {}
            }
            Ok::<_, Failure>(())
        });
        // Columns that a table lacks were only tried.
        live.execute_batch("ROLLBACK")?;
        fits?;
        for plan in &fitting {
            let name = SqlName::new(plan.table());
            for sql in self.made_like(live, &name, plan, &fitting)? {
                shadow.execute_batch(&sql)?;
            }
            copy_columns(live, &shadow, &name)?;
        }
        let sql = "SELECT blob_type FROM _waybill_table WHERE blob_type IN (SELECT value FROM json_each(?1))";
        let mut statement = live.prepare(sql)?;
        for blob_type in statement.query_map([self.types()], |row| row.get::<_, String>(0))? {
            let blob_type = blob_type?;
            if self.plans.for_type(&blob_type).is_none() {
                let (name, _) = schema::install_stream(&shadow, &blob_type)?;
                if let Some(sql) = table_sql(live, &name)? {
                    shadow.execute_batch(&format!("DROP TABLE {name}; {sql}"))?;
                }
                copy_columns(live, &shadow, &name)?;
            }
        }
        Ok(anew)
    }

    /// `None`: there is no such table.
    fn fits(&self, live: &Connection, plan: &EntityPlan) -> Result<Option<bool>, Failure> {
        let name = SqlName::new(plan.table());
        let owner = self.owner(live, plan, &name)?;
        let found = schema::found_columns(live, &name)?;
        if found.is_empty() {
            return Ok(None);
        }
        match schema::check(live, plan, &name, &found) {
            Ok(()) => Ok(Some(true)),
            Err(Failure::Refused { problem, .. }) if owner => {
                let is_ours = table_sql(live, &name)?.is_some_and(|sql| {
                    let own = [schema::OWN_COLUMNS.to_owned(), format!("{FILE} TEXT NOT NULL, {ROW} INTEGER NOT NULL")];
                    own.iter().any(|own| sql.contains(own))
                });
                if !is_ours {
                    return Err(refused(format!("{problem} (rebuild makes only tables anew that the sink made)")));
                }
                let ours = our_columns(live, &name)?;
                match found.iter().find(|found| !ours.contains(&found.name)) {
                    Some(other) => Err(would_lose(plan, &name, &other.name)),
                    None => Ok(Some(false)),
                }
            }
            Err(failure) => Err(failure),
        }
    }

    /// Whether the table was filled by the sink so far. Refuses one that another entity has.
    fn owner(&self, live: &Connection, plan: &EntityPlan, name: &SqlName) -> Result<bool, Failure> {
        let mut is_known = false;
        for registered in schema::registered(live, plan, name)? {
            registered.admit_place(plan, name, str::eq_ignore_ascii_case, |entity| self.scope.is_configured(entity))?;
            is_known = true;
        }
        Ok(is_known)
    }

    /// How to make the table in the shadow: as it is, unless it refers to a table that the shadow has not.
    fn made_like(
        &self,
        live: &Connection,
        name: &SqlName,
        plan: &EntityPlan,
        fitting: &[&Arc<EntityPlan>],
    ) -> Result<Vec<String>, Failure> {
        let mut statement = live.prepare("SELECT \"table\" FROM pragma_foreign_key_list(?1)")?;
        let parents = statement.query_map([name.as_str()], |row| row.get::<_, String>(0))?;
        for parent in parents {
            let parent = parent?;
            if !fitting.iter().any(|plan| SqlName::new(plan.table()).as_str().eq_ignore_ascii_case(&parent)) {
                let shape = schema::shape(live, name, Some(plan))?;
                return Ok(vec![schema::create_sql(name, plan, &shape.columns)]);
            }
        }
        let sql = "SELECT sql FROM sqlite_schema WHERE tbl_name = ?1 COLLATE NOCASE AND sql IS NOT NULL
                     AND (type = 'table' OR (type = 'index' AND sql LIKE 'CREATE UNIQUE %')) ORDER BY type DESC";
        let mut statement = live.prepare(sql)?;
        let made = statement.query_map([name.as_str()], |row| row.get(0))?;
        Ok(made.collect::<Result<_, _>>()?)
    }

    /// Rows that wait in the shadow, and took effect without their parent in the old table. They all wait since they did.
    fn let_go_before(&self) -> Result<Vec<i64>, Failure> {
        let shadow = connect(&self.shadow)?;
        attach_as(&shadow, &self.live, "live")?;
        let since = "UPDATE main._waybill_parked SET parked_at = coalesce(
                       (SELECT l.parked_at FROM live._waybill_parked l WHERE l.entity = _waybill_parked.entity AND l.key = _waybill_parked.key),
                       (SELECT l.changed_at FROM live._waybill_progress l WHERE l.file = _waybill_parked.file), parked_at)";
        shadow.execute(since, [])?;
        let mut ids = Vec::new();
        for plan in self.plans.iter() {
            let name = SqlName::new(plan.table());
            let has_versions = "SELECT 1 FROM pragma_table_info(?1, 'live') WHERE name = ?2";
            if !shadow.prepare(has_versions)?.exists((name.as_str(), VERSION))? {
                continue;
            }
            let sql = format!(
                "SELECT id FROM main._waybill_parked WHERE entity = ?1
                   AND version IN (SELECT {VERSION} FROM live.{name}) ORDER BY id LIMIT {LET_GO_MAX}"
            );
            let mut statement = shadow.prepare(&sql)?;
            for id in statement.query_map([plan.name()], |row| row.get(0))? {
                ids.push(id?);
            }
        }
        Ok(ids)
    }

    /// In one transaction of `live`, to which the shadow is attached.
    fn swap(&self, live: &Connection) -> Result<Vec<SwappedTable>, Failure> {
        let mut tables = self.scope.tables(&self.plans);
        let mut statement =
            live.prepare("SELECT blob_type FROM shadow._waybill_table WHERE blob_type IS NOT NULL ORDER BY 1")?;
        for blob_type in statement.query_map([], |row| row.get::<_, String>(0))? {
            tables.push((schema::stream_name(&blob_type?), vec![FILE.to_owned(), ROW.to_owned()]));
        }
        drop(statement);

        let mut swapped = Vec::with_capacity(tables.len());
        for (name, _) in &tables {
            let way = self.make_room(live, name)?;
            swapped.push(SwappedTable::of(name, way));
        }
        let compared: Vec<Columns> =
            tables.iter().map(|(name, key)| columns(live, name, key)).collect::<Result<_, _>>()?;
        // Children go before their parents, and come after them.
        for (((name, _), columns), swapped) in tables.iter().zip(&compared).zip(&mut swapped).rev() {
            swapped.deleted = columns.delete(live, name)?;
        }
        for (((name, _), columns), swapped) in tables.iter().zip(&compared).zip(&mut swapped) {
            swapped.updated = columns.update(live, name)?;
            swapped.inserted = columns.insert(live, name)?;
            swapped.rows = count(live, name)?;
        }
        swapped.extend(self.leave_behind(live, &tables)?);
        self.take_over(live, &tables)?;
        if !self.anew.is_empty() {
            for (name, _) in &tables {
                check_references(live, name)?;
            }
        }
        Ok(swapped)
    }

    /// The tables of types that have an entity with another table now: they are forgotten, not dropped.
    fn leave_behind(&self, live: &Connection, tables: &[(SqlName, Vec<String>)]) -> Result<Vec<SwappedTable>, Failure> {
        let mut left = Vec::new();
        for Outgrown { table, .. } in super::outgrown(live, &self.plans)? {
            if tables.iter().any(|(name, _)| name.as_str().eq_ignore_ascii_case(&table)) {
                continue;
            }
            let is_there = "SELECT 1 FROM main.sqlite_schema WHERE name = ?1 COLLATE NOCASE";
            if live.prepare(is_there)?.exists([&table])? {
                let sql = format!("SELECT count(*) FROM main.{}", quoted(&table));
                let rows: i64 = live.query_row(&sql, [], |row| row.get(0))?;
                left.push(SwappedTable::left_behind(table.clone(), rows.cast_unsigned()));
            }
            live.execute("DELETE FROM main._waybill_column WHERE table_name = ?1", [&table])?;
            live.execute("DELETE FROM main._waybill_table WHERE name = ?1", [&table])?;
        }
        Ok(left)
    }

    /// A table that rows can go into.
    fn make_room(&self, live: &Connection, name: &SqlName) -> Result<Way, Failure> {
        let is_there = "SELECT 1 FROM main.sqlite_schema WHERE name = ?1 COLLATE NOCASE";
        if live.prepare(is_there)?.exists([name.as_str()])? {
            if !self.anew.iter().any(|anew| SqlName::new(anew) == *name) {
                let is_anothers = "SELECT 1 FROM shadow._waybill_table s WHERE s.name = ?1 AND s.blob_type IS NOT NULL
                    AND NOT EXISTS (SELECT 1 FROM main._waybill_table m WHERE m.name = s.name AND m.blob_type = s.blob_type)";
                return match live.prepare(is_anothers)?.exists([name.as_str()])? {
                    true => Err(table_is_taken(name)),
                    false => Ok(Way::Compared),
                };
            }
            let sql =
                "SELECT sql FROM main.sqlite_schema WHERE tbl_name = ?1 COLLATE NOCASE AND type IN ('index', 'trigger')
                         AND sql IS NOT NULL ORDER BY type, name";
            let mut statement = live.prepare(sql)?;
            let attached =
                statement.query_map([name.as_str()], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
            drop(statement);
            live.execute_batch(&format!("DROP TABLE main.{name}"))?;
            make(live, name)?;
            for sql in attached {
                live.execute_batch(&sql)?;
            }
            return Ok(Way::MadeAnew);
        }
        make(live, name)?;
        Ok(Way::Made)
    }

    /// What belongs to the rows: progress, tombstones, parked and bad rows, and whose tables they are.
    fn take_over(&self, live: &Connection, tables: &[(SqlName, Vec<String>)]) -> Result<(), Failure> {
        let (types, entities) = (self.types(), self.entities());
        let names = serde_json::json!(tables.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>()).to_string();
        // Those of an entity that had one of the tables before, too.
        let entities_of = "(SELECT value FROM json_each(?1)
              UNION SELECT entity FROM main._waybill_table WHERE name IN (SELECT value FROM json_each(?2)) AND entity IS NOT NULL)";
        for table in ["_waybill_tombstone", "_waybill_parked"] {
            let sql = format!("DELETE FROM main.{table} WHERE entity IN {entities_of}");
            live.execute(&sql, (&entities, &names))?;
        }
        live.execute(
            "DELETE FROM main._waybill_bad_row WHERE file IN (SELECT file FROM shadow._waybill_progress
               UNION ALL SELECT file FROM main._waybill_progress WHERE blob_type IN (SELECT value FROM json_each(?1)))",
            [&types],
        )?;
        live.execute(
            "DELETE FROM main._waybill_progress WHERE blob_type IN (SELECT value FROM json_each(?1))",
            [&types],
        )?;
        live.execute(
            "DELETE FROM main._waybill_column WHERE table_name IN (SELECT value FROM json_each(?1))",
            [&names],
        )?;
        live.execute("DELETE FROM main._waybill_table WHERE name IN (SELECT value FROM json_each(?1))", [&names])?;
        let own =
            ["progress", "tombstone", "parked", "bad_row", "table", "column"].map(|own| format!("_waybill_{own}"));
        for table in own {
            let listed = "SELECT group_concat('\"' || name || '\"', ', ') FROM pragma_table_info(?1, 'main') WHERE ?1 <> '_waybill_parked' OR name <> 'id'";
            let columns: String = live.query_row(listed, [&table], |row| row.get(0))?;
            let order = if table == "_waybill_parked" { " ORDER BY id" } else { "" };
            live.execute(
                &format!("INSERT INTO main.{table} ({columns}) SELECT {columns} FROM shadow.{table}{order}"),
                [],
            )?;
        }
        Ok(())
    }
}

impl Columns {
    fn list(columns: impl IntoIterator<Item = impl AsRef<str>>, before: &str) -> String {
        let listed = columns.into_iter().map(|column| format!("{before}{}", quoted(column.as_ref())));
        listed.collect::<Vec<_>>().join(", ")
    }

    fn delete(&self, live: &Connection, name: &SqlName) -> Result<u64, Failure> {
        let same = same_key(&self.key);
        let sql = format!("DELETE FROM main.{name} AS t WHERE NOT EXISTS (SELECT 1 FROM shadow.{name} s WHERE {same})");
        Ok(live.execute(&sql, [])? as u64)
    }

    fn update(&self, live: &Connection, name: &SqlName) -> Result<u64, Failure> {
        let set =
            self.others.iter().map(|column| format!("{0} = s.{0}", quoted(column))).collect::<Vec<_>>().join(", ");
        let as_bytes = |of: &str| {
            let columns = self.others.iter().map(|column| format!("{of}.{} COLLATE BINARY", quoted(column)));
            columns.collect::<Vec<_>>().join(", ")
        };
        let sql = format!(
            "UPDATE main.{name} AS t SET {set} FROM shadow.{name} AS s WHERE {} AND ({}) IS NOT ({})",
            same_key(&self.key),
            as_bytes("t"),
            as_bytes("s")
        );
        Ok(live.execute(&sql, [])? as u64)
    }

    fn insert(&self, live: &Connection, name: &SqlName) -> Result<u64, Failure> {
        let all = || self.key.iter().chain(&self.others);
        let sql = format!(
            "INSERT OR ABORT INTO main.{name} ({}) SELECT {} FROM shadow.{name} s
             WHERE NOT EXISTS (SELECT 1 FROM main.{name} t WHERE {})",
            Self::list(all(), ""),
            Self::list(all(), "s."),
            same_key(&self.key)
        );
        Ok(live.execute(&sql, [])? as u64)
    }
}

/// The columns that the shadow fills; the old table gets those that it lacks.
fn columns(live: &Connection, name: &SqlName, key: &[String]) -> Result<Columns, Failure> {
    let sql = "SELECT x.name, x.type, EXISTS (SELECT 1 FROM pragma_table_xinfo(?1, 'main') m WHERE m.name = x.name COLLATE NOCASE),
                 (SELECT s.field FROM shadow._waybill_column s JOIN main._waybill_column m
                    ON m.table_name = s.table_name AND m.field = s.field
                  WHERE s.table_name = ?1 AND s.name = x.name AND s.type = 'decimal' AND m.type = 'integer' AND m.is_inferred)
               FROM pragma_table_xinfo(?1, 'shadow') x WHERE x.hidden = 0 AND (x.name IN (?2, ?3) OR EXISTS
                 (SELECT 1 FROM shadow._waybill_column c WHERE c.table_name = ?1 AND c.name = x.name))";
    let mut statement = live.prepare(sql)?;
    let found = statement.query_map((name.as_str(), VERSION, RESCUED), |row| {
        Ok((
            row.get::<_, String>(0)?,
            row.get::<_, String>(1)?,
            row.get::<_, bool>(2)?,
            row.get::<_, Option<String>>(3)?,
        ))
    })?;
    let found = found.collect::<Result<Vec<_>, _>>()?;
    drop(statement);
    let mut others = Vec::new();
    for (column, declared, is_there, narrow) in found {
        if !is_there {
            live.execute_batch(&format!("ALTER TABLE main.{name} ADD COLUMN {} {declared}", quoted(&column)))?;
        } else if let Some(field) = narrow {
            schema::widen(live, name, &column, &field)?.map_err(|problem| wont_widen(name, &column, &problem))?;
        }
        if !key.contains(&column) {
            others.push(column);
        }
    }
    Ok(Columns { key: key.to_vec(), others })
}

/// The shadow's table in the file, empty.
fn make(live: &Connection, name: &SqlName) -> Result<(), Failure> {
    let sql: String = live.query_row(
        "SELECT sql FROM shadow.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE",
        [name.as_str()],
        |row| row.get(0),
    )?;
    // A name without a schema is made in the file itself.
    Ok(live.execute_batch(&sql)?)
}

fn table_sql(live: &Connection, name: &SqlName) -> rusqlite::Result<Option<String>> {
    let sql = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
    live.query_row(sql, [name.as_str()], |row| row.get(0)).optional()
}

/// Names of the columns that the sink made or fills.
fn our_columns(live: &Connection, name: &SqlName) -> Result<Vec<String>, Failure> {
    let sql = "SELECT name FROM pragma_table_xinfo(?1) WHERE pk > 0 OR name IN (?2, ?3, ?4, ?5)
               UNION SELECT name FROM _waybill_column WHERE table_name = ?1";
    let mut statement = live.prepare(sql)?;
    let names = statement.query_map((name.as_str(), VERSION, RESCUED, FILE, ROW), |row| row.get(0))?;
    Ok(names.collect::<Result<_, _>>()?)
}

fn copy_columns(live: &Connection, shadow: &Connection, name: &SqlName) -> Result<(), Failure> {
    let columns = "table_name, field, name, type, is_inferred";
    let mut read = live.prepare(&format!("SELECT {columns} FROM _waybill_column WHERE table_name = ?1"))?;
    let mut write = shadow.prepare(&format!("INSERT INTO _waybill_column ({columns}) VALUES (?1, ?2, ?3, ?4, ?5)"))?;
    let mut rows = read.query([name.as_str()])?;
    while let Some(row) = rows.next()? {
        let values: [Value; 5] = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?];
        write.execute(rusqlite::params_from_iter(values))?;
    }
    Ok(())
}

/// Rows that refer to one that is not there, in the table or in one that refers to it.
fn check_references(live: &Connection, name: &SqlName) -> Result<(), Failure> {
    let sql = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE
               UNION SELECT m.name FROM main.sqlite_schema m, pragma_foreign_key_list(m.name, 'main') f
               WHERE m.type = 'table' AND f.\"table\" = ?1 COLLATE NOCASE";
    let mut statement = live.prepare(sql)?;
    let tables = statement.query_map([name.as_str()], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    for table in tables {
        let broken = "SELECT parent FROM pragma_foreign_key_check(?1, 'main') LIMIT 1";
        let parent: Option<String> = live.query_row(broken, [&table], |row| row.get(0)).optional()?;
        if let Some(parent) = parent {
            return Err(refused(format!(
                "a row of table {table:?} would refer to one of {parent:?} that is not there"
            )));
        }
    }
    Ok(())
}

fn count(live: &Connection, name: &SqlName) -> Result<u64, Failure> {
    let count = live.query_row(&format!("SELECT count(*) FROM main.{name}"), [], |row| row.get::<_, i64>(0))?;
    Ok(count.cast_unsigned())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(HOLD_PATIENCE)?;
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON")?;
    Ok(connection)
}

fn attach(connection: &Connection, shadow: &Path) -> rusqlite::Result<()> {
    attach_as(connection, shadow, "shadow")
}

fn attach_as(connection: &Connection, path: &Path, name: &str) -> rusqlite::Result<()> {
    connection.execute(&format!("ATTACH DATABASE ?1 AS {name}"), [path.to_string_lossy()]).map(drop)
}
