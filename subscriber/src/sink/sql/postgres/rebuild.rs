//! Tables of a PostgreSQL schema derived again: the shadow is a schema beside it, `_waybill_rebuild_SCHEMA`.

use std::{collections::BTreeSet, fmt};

use time::OffsetDateTime;
use waybill_contracts::SqlName;
use waybill_store::{
    Postgres, PostgresConnection, PostgresTransaction,
    tokio_postgres::{self, error::SqlState},
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
    PLACE, PostgresSink, connect, entity_lock, schema, stream_lock_number, without_prefix,
};
use crate::{
    FileKey,
    apply::{Begin, EntityPlan, EntityPlans},
    sink::SinkOpenError,
};

/// A rebuild under way.
pub(in super::super) struct PostgresRebuild {
    store: Postgres,
    /// Has the lock of whoever rebuilds, and the transaction of the swap. A connection that dies takes both along.
    live: PostgresConnection,
    shadow: PostgresSink,
    scope: Scope,
    plans: EntityPlans,
    schemas: Schemas,
    /// Told apart from other schemas in the numbers of locks.
    place: String,
    /// Tables that do not fit their entities any more.
    anew: Vec<SqlName>,
    is_held: bool,
}

/// Where the tables are.
struct Schemas {
    live: String,
    shadow: String,
}

/// A table's columns, as both sides have them.
struct Columns {
    key: Vec<String>,
    /// With the type's name.
    others: Vec<(String, String)>,
}

impl PostgresRebuild {
    pub(in super::super) async fn begin(address: &str, scope: &Scope) -> Result<Self, RebuildError> {
        let plans = EntityPlans::compile(scope.entities())?;
        let store = connect(address, None)?;
        let sink = store.shown().to_owned();
        let unavailable = |problem: String| SinkOpenError::Unavailable {
            problem: without_prefix(&problem, &sink),
            sink: sink.clone(),
        };
        store.migrate(&schema::SCHEMA).await.map_err(|error| unavailable(error.to_string()))?;
        let mut live = store.connection().await.map_err(|error| unavailable(error.to_string()))?;
        let failed = |failure: Failure| match failure {
            Failure::Refused { problem, .. } => SinkOpenError::Table { sink: sink.clone(), problem },
            failure => unavailable(told(failure)),
        };
        let prepared = async {
            let place: String = live.query_one(PLACE, &[]).await?.get(0);
            let name: String = live.query_one("SELECT current_schema()::text", &[]).await?.get(0);
            let number = entity_lock(&place, "rebuild");
            let is_alone: bool = live.query_one("SELECT pg_try_advisory_lock($1)", &[&number]).await?.get(0);
            Ok::<_, Failure>((place, name, is_alone))
        };
        let (place, name, is_alone) = prepared.await.map_err(failed)?;
        if !is_alone {
            return Err(RebuildError::UnderWay { sink: sink.clone() });
        }
        let shadow = SqlName::new(&format!("_waybill_rebuild_{name}")).as_str().to_owned();
        let schemas = Schemas { live: name, shadow };
        let begun = async {
            schemas.clear(&live).await.map_err(Failure::from).map_err(failed)?;
            let made = format!("CREATE SCHEMA {}", quoted(&schemas.shadow));
            live.batch_execute(&made).await.map_err(|error| match error.code() {
                Some(&SqlState::INSUFFICIENT_PRIVILEGE) => unavailable(format!(
                    "a rebuild needs a schema of its own, {}, which this role may not make: {}; GRANT CREATE ON DATABASE … TO …",
                    schemas.shadow,
                    told(error.into())
                )),
                _ => failed(error.into()),
            })?;
            let beside = connect(address, Some(&schemas.shadow))?;
            beside.migrate(&schema::SCHEMA).await.map_err(|error| unavailable(error.to_string()))?;
            let anew = schemas.model(&mut live, &plans, scope).await.map_err(failed)?;
            let shadow = PostgresSink::open_on(beside, scope.entities(), OffsetDateTime::now_utc, true).await?;
            Ok::<_, RebuildError>((anew, shadow))
        };
        match begun.await {
            Ok((anew, shadow)) => {
                Ok(Self { store, live, shadow, scope: scope.clone(), plans, schemas, place, anew, is_held: false })
            }
            Err(error) => {
                // The connection is closed some time after this; another rebuild may begin now.
                if let Err(problem) = live.batch_execute("ROLLBACK; SELECT pg_advisory_unlock_all()").await {
                    tracing::debug!(%problem, "the lock goes with the connection");
                }
                Err(error)
            }
        }
    }

    pub(in super::super) fn shadow(&self) -> &PostgresSink {
        &self.shadow
    }

    pub(in super::super) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Has the table of an entity begin at a full export. Whether there is one.
    pub(in super::super) async fn begin_at(&self, entity: &str, begin: &Begin) -> Result<bool, RebuildError> {
        let Some(plan) = self.shadow.plans().get(entity) else { return Ok(false) };
        let sql =
            format!("UPDATE {} SET rule = $2, begins = $3 WHERE entity = $1", self.schemas.of_shadow("_waybill_table"));
        let stored = self.live.execute(&sql, &[&entity, &rule_of(plan, true), &write_begin(begin)]).await;
        Ok(stored.map_err(|error| self.failed(error.into()))? == 1)
    }

    pub(in super::super) async fn behind(&self, types: &[String]) -> Result<Vec<FileKey>, RebuildError> {
        let sql = format!(
            "SELECT file FROM {} p WHERE p.done AND p.blob_type = ANY ($1)
               AND NOT EXISTS (SELECT 1 FROM {} s WHERE s.file = p.file AND s.done) LIMIT $2",
            self.schemas.of_live("_waybill_progress"),
            self.schemas.of_shadow("_waybill_progress"),
        );
        let limit = i64::try_from(BEHIND_MAX).unwrap_or(i64::MAX);
        let rows = self.live.query(&sql, &[&types, &limit]).await;
        let rows = rows.map_err(|error| self.failed(error.into()))?;
        Ok(rows.iter().map(|row| FileKey::from_stored(row.get(0))).collect())
    }

    pub(in super::super) async fn hold(&mut self) -> Result<(), RebuildError> {
        if self.is_held {
            return Ok(());
        }
        let entities = self.scope.order.iter().map(|entity| entity_lock(&self.place, entity));
        let streams = self.scope.types().iter().filter(|name| self.plans.for_type(name).is_none());
        let numbers: BTreeSet<i64> =
            entities.chain(streams.map(|name| stream_lock_number(&self.place, name))).collect();
        let locks: Vec<_> = numbers.iter().map(|number| format!("SELECT pg_advisory_xact_lock({number})")).collect();
        // A call before this one may have failed, or been dropped.
        let held = self.live.batch_execute(&format!("ROLLBACK; BEGIN; {}", locks.join("; "))).await;
        held.map_err(|error| self.failed(error.into()))?;
        self.is_held = true;
        Ok(())
    }

    /// What is no fact of the files: since when rows wait, and which of them were let go.
    async fn carry_over(&self) -> Result<(), RebuildError> {
        loop {
            let ids = self.let_go_before().await.map_err(|failure| self.failed(failure))?;
            if ids.is_empty() {
                break;
            }
            self.shadow.let_these_go(&ids).await?;
        }
        self.shadow.end_overdue_waits().await?;
        Ok(())
    }

    /// Rows that wait in the shadow, and took effect without their parent in the old table. They all wait since they did. On a
    /// connection of its own: what that of the swap changes is not to be seen before its commit.
    async fn let_go_before(&self) -> Result<Vec<i64>, Failure> {
        let connection = match self.store.connection().await {
            Ok(connection) => connection,
            Err(error) => return Err(refused(error.to_string())),
        };
        let since = format!(
            "UPDATE {0} p SET parked_at = coalesce(
               (SELECT l.parked_at FROM {1} l WHERE l.entity = p.entity AND l.key = p.key),
               (SELECT l.changed_at FROM {2} l WHERE l.file = p.file), p.parked_at)",
            self.schemas.of_shadow("_waybill_parked"),
            self.schemas.of_live("_waybill_parked"),
            self.schemas.of_live("_waybill_progress")
        );
        connection.execute(&since, &[]).await?;
        let mut ids = Vec::new();
        for plan in self.plans.iter() {
            let table = self.schemas.of_live(SqlName::new(plan.table()).as_str());
            let has_versions = "SELECT EXISTS (SELECT 1 FROM pg_attribute
                                               WHERE attrelid = to_regclass($1) AND attname = $2 AND NOT attisdropped)";
            if !connection.query_one(has_versions, &[&table, &VERSION]).await?.get::<_, bool>(0) {
                continue;
            }
            let sql = format!(
                "SELECT id FROM {} WHERE entity = $1 AND version IN (SELECT {VERSION} FROM {table}) ORDER BY id LIMIT {LET_GO_MAX}",
                self.schemas.of_shadow("_waybill_parked")
            );
            ids.extend(connection.query(&sql, &[&plan.name()]).await?.iter().map(|row| row.get::<_, i64>(0)));
        }
        Ok(ids)
    }

    pub(in super::super) async fn swap(self) -> Result<Vec<SwappedTable>, RebuildError> {
        if !self.is_held {
            return Err(RebuildError::not_held(self.store.shown()));
        }
        self.carry_over().await?;
        let swapped = self.try_swap().await.map_err(|failure| self.failed(failure))?;
        if let Err(error) = self.live.batch_execute("COMMIT").await {
            let sink = self.store.shown().to_owned();
            return Err(match error.as_db_error() {
                Some(_) => self.failed(error.into()),
                None => RebuildError::Unknown { sink, problem: error.to_string() },
            });
        }
        if let Err(error) = self.give_up().await {
            tracing::warn!(%error, "the shadow stays until the next rebuild");
        }
        Ok(swapped)
    }

    pub(in super::super) async fn give_up(self) -> Result<(), RebuildError> {
        self.shadow.close();
        // Without a transaction the answer is a warning.
        let given_up = async {
            self.live.batch_execute("ROLLBACK").await?;
            self.schemas.clear(&self.live).await?;
            // The connection is closed some time after this; another rebuild may begin now.
            self.live.batch_execute("SELECT pg_advisory_unlock_all()").await
        };
        let result = given_up.await.map_err(|error| self.failed(error.into()));
        self.store.close();
        result
    }

    fn failed(&self, failure: Failure) -> RebuildError {
        RebuildError::Swap { sink: self.store.shown().to_owned(), problem: told(failure) }
    }

    /// All but the commit.
    async fn try_swap(&self) -> Result<Vec<SwappedTable>, Failure> {
        let (live, schemas) = (&self.live, &self.schemas);
        let mut tables = self.scope.tables(&self.plans);
        let sql = format!(
            "SELECT blob_type FROM {} WHERE blob_type IS NOT NULL ORDER BY 1",
            schemas.of_shadow("_waybill_table")
        );
        for row in live.query(&sql, &[]).await? {
            tables.push((schema::stream_name(row.get(0)), vec![FILE.to_owned(), ROW.to_owned()]));
        }
        // A plan made for an empty table would compare each row with each.
        for (name, _) in &tables {
            live.batch_execute(&format!("ANALYZE {}", schemas.of_shadow(name.as_str()))).await?;
        }

        let references = self.without_references().await?;
        let mut swapped = Vec::with_capacity(tables.len());
        for (name, _) in &tables {
            let way = self.make_room(name).await?;
            swapped.push(SwappedTable::of(name, way));
        }
        let mut compared = Vec::new();
        for ((name, key), swapped) in tables.iter().zip(&swapped) {
            compared.push(match swapped.way {
                Way::Compared => Some(schemas.columns(live, name, key).await?),
                Way::Made | Way::MadeAnew | Way::LeftBehind => None,
            });
        }
        // Children go before their parents, and come after them.
        for (((name, _), columns), swapped) in tables.iter().zip(&compared).zip(&mut swapped).rev() {
            if let Some(columns) = columns {
                swapped.deleted = live.execute(&columns.delete(schemas, name), &[]).await?;
            }
        }
        for (((name, _), columns), swapped) in tables.iter().zip(&compared).zip(&mut swapped) {
            if let Some(columns) = columns {
                swapped.updated = live.execute(&columns.update(schemas, name), &[]).await?;
                swapped.inserted = live.execute(&columns.insert(schemas, name), &[]).await?;
            }
            let count = format!("SELECT count(*) FROM {}", schemas.of_live(name.as_str()));
            swapped.rows = live.query_one(&count, &[]).await?.get::<_, i64>(0).cast_unsigned();
            if columns.is_none() {
                swapped.inserted = swapped.rows;
            }
        }
        for sql in references {
            live.batch_execute(&sql).await?;
        }
        swapped.extend(self.leave_behind(&tables).await?);
        self.take_over(&tables).await?;
        Ok(swapped)
    }

    /// Drops the foreign keys that tables which are made anew have, and those that refer to them. Gives the statements that
    /// make them again, which fail if a row would refer to one that is not there.
    async fn without_references(&self) -> Result<Vec<String>, Failure> {
        let anew: Vec<String> = self.anew.iter().map(|name| self.schemas.of_live(name.as_str())).collect();
        let sql = "SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname),
                       format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
                   FROM pg_constraint WHERE contype = 'f' AND conparentid = 0
                     AND (ARRAY[conrelid, confrelid]::oid[] && ARRAY(SELECT to_regclass(t)::oid FROM unnest($1::text[]) t))
                   ORDER BY conrelid, conname";
        let mut again = Vec::new();
        for row in self.live.query(sql, &[&anew]).await? {
            self.live.batch_execute(row.get(0)).await?;
            again.push(row.get(1));
        }
        Ok(again)
    }

    /// The tables of types that have an entity with another table now: they are forgotten, not dropped.
    async fn leave_behind(&self, tables: &[(SqlName, Vec<String>)]) -> Result<Vec<SwappedTable>, Failure> {
        let (live, schemas) = (&self.live, &self.schemas);
        let [of_tables, columns] = ["_waybill_table", "_waybill_column"].map(|table| schemas.of_live(table));
        let sql = format!("SELECT name, blob_type FROM {of_tables} WHERE blob_type IS NOT NULL ORDER BY name");
        let known = live.query(&sql, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect();
        let mut left = Vec::new();
        for Outgrown { table, .. } in Outgrown::of(&self.plans, known) {
            if tables.iter().any(|(name, _)| name.as_str() == table) {
                continue;
            }
            let old = schemas.of_live(&table);
            if live.query_one("SELECT to_regclass($1) IS NOT NULL", &[&old]).await?.get(0) {
                let rows: i64 = live.query_one(&format!("SELECT count(*) FROM {old}"), &[]).await?.get(0);
                left.push(SwappedTable::left_behind(table.clone(), rows.cast_unsigned()));
            }
            live.execute(&format!("DELETE FROM {columns} WHERE table_name = $1"), &[&table]).await?;
            live.execute(&format!("DELETE FROM {of_tables} WHERE name = $1"), &[&table]).await?;
        }
        Ok(left)
    }

    /// A table that rows can go into; a new one has them already.
    async fn make_room(&self, name: &SqlName) -> Result<Way, Failure> {
        let (live, schemas) = (&self.live, &self.schemas);
        let old = schemas.of_live(name.as_str());
        let is_there = live.query_one("SELECT to_regclass($1) IS NOT NULL", &[&old]).await?.get::<_, bool>(0);
        let moved = format!("ALTER TABLE {} SET SCHEMA {}", schemas.of_shadow(name.as_str()), quoted(&schemas.live));
        if !is_there {
            live.batch_execute(&moved).await?;
            return Ok(Way::Made);
        }
        if !self.anew.contains(name) {
            let is_anothers = format!(
                "SELECT EXISTS (SELECT 1 FROM {} s WHERE s.name = $1 AND s.blob_type IS NOT NULL
                   AND NOT EXISTS (SELECT 1 FROM {} m WHERE m.name = s.name AND m.blob_type = s.blob_type))",
                schemas.of_shadow("_waybill_table"),
                schemas.of_live("_waybill_table")
            );
            return match live.query_one(&is_anothers, &[&name.as_str()]).await?.get(0) {
                true => Err(table_is_taken(name)),
                false => Ok(Way::Compared),
            };
        }
        let attached: Vec<String> = live.query(ATTACHED, &[&old]).await?.iter().map(|row| row.get(0)).collect();
        live.batch_execute(&format!("DROP TABLE {old}; {moved}")).await?;
        for sql in attached {
            live.batch_execute(&sql).await?;
        }
        Ok(Way::MadeAnew)
    }

    /// What belongs to the rows: progress, tombstones, parked and bad rows, and whose tables they are.
    async fn take_over(&self, tables: &[(SqlName, Vec<String>)]) -> Result<(), Failure> {
        let (live, schemas) = (&self.live, &self.schemas);
        let names: Vec<&str> = tables.iter().map(|(name, _)| name.as_str()).collect();
        let (entities, types) = (&self.scope.order, self.scope.types());
        let [progress, of_tables, columns] =
            ["_waybill_progress", "_waybill_table", "_waybill_column"].map(|table| schemas.of_live(table));
        for table in ["_waybill_tombstone", "_waybill_parked"] {
            // Those of an entity that had one of the tables before, too.
            let sql = format!(
                "DELETE FROM {} WHERE entity = ANY ($1) OR entity IN (SELECT entity FROM {of_tables} WHERE name = ANY ($2))",
                schemas.of_live(table)
            );
            live.execute(&sql, &[entities, &names]).await?;
        }
        let sql = format!(
            "DELETE FROM {} WHERE file IN (SELECT file FROM {progress} WHERE blob_type = ANY ($1) UNION ALL SELECT file FROM {})",
            schemas.of_live("_waybill_bad_row"),
            schemas.of_shadow("_waybill_progress")
        );
        live.execute(&sql, &[&types]).await?;
        live.execute(&format!("DELETE FROM {progress} WHERE blob_type = ANY ($1)"), &[&types]).await?;
        live.execute(&format!("DELETE FROM {columns} WHERE table_name = ANY ($1)"), &[&names]).await?;
        live.execute(&format!("DELETE FROM {of_tables} WHERE name = ANY ($1)"), &[&names]).await?;
        for own in ["progress", "tombstone", "parked", "bad_row", "table", "column"] {
            let table = format!("_waybill_{own}");
            let listed = "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute
                          WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped AND attidentity = ''";
            let (from, to) = (schemas.of_shadow(&table), schemas.of_live(&table));
            let columns: String = live.query_one(listed, &[&from]).await?.get(0);
            let order = if own == "parked" { " ORDER BY id" } else { "" };
            live.execute(&format!("INSERT INTO {to} ({columns}) SELECT {columns} FROM {from}{order}"), &[]).await?;
        }
        Ok(())
    }
}

/// Statements that give a table what the user put on it: constraints but for keys, indexes, triggers and grants.
const ATTACHED: &str = "WITH r AS (SELECT c.oid, c.relacl, c.relowner FROM pg_class c WHERE c.oid = to_regclass($1))
    SELECT sql FROM (
        SELECT 1 AS n, format('ALTER TABLE %s ADD CONSTRAINT %I %s', $1::text, conname, pg_get_constraintdef(k.oid)) AS sql
            FROM pg_constraint k, r WHERE conrelid = r.oid AND contype IN ('c', 'u', 'x')
        UNION ALL SELECT 2, pg_get_indexdef(i.indexrelid) FROM pg_index i, r WHERE i.indrelid = r.oid
            AND NOT EXISTS (SELECT 1 FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.conrelid = i.indrelid)
        UNION ALL SELECT 3, pg_get_triggerdef(t.oid) FROM pg_trigger t, r WHERE tgrelid = r.oid AND NOT tgisinternal
        UNION ALL SELECT 4, format('GRANT %s ON %s TO %s', a.privilege_type, $1::text,
                CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
                || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
            FROM r, aclexplode(r.relacl) a WHERE a.grantee <> r.relowner
    ) AS attached ORDER BY n, sql";

impl Schemas {
    fn of_live(&self, table: &str) -> String {
        format!("{}.{}", quoted(&self.live), quoted(table))
    }

    fn of_shadow(&self, table: &str) -> String {
        format!("{}.{}", quoted(&self.shadow), quoted(table))
    }

    /// Removes the shadow, or what a rebuild that died has left of one.
    async fn clear(&self, live: &PostgresConnection) -> Result<(), tokio_postgres::Error> {
        live.batch_execute(&format!("DROP SCHEMA IF EXISTS {} CASCADE", quoted(&self.shadow))).await
    }

    /// Tables that fit stand in the shadow as they are in use, so that it takes and refuses the same rows. The others are
    /// the answer.
    async fn model(
        &self,
        live: &mut PostgresConnection,
        plans: &EntityPlans,
        scope: &Scope,
    ) -> Result<Vec<SqlName>, Failure> {
        let (mut anew, mut fitting) = (Vec::new(), Vec::new());
        {
            // Columns that a table lacks are only tried.
            let tx = live.transaction().await?;
            for plan in plans.iter() {
                let name = SqlName::new(plan.table());
                match fits(&tx, plan, &name, scope).await? {
                    Some(true) => fitting.push(name),
                    Some(false) => anew.push(name),
                    None => {}
                }
            }
            tx.rollback().await?;
        }
        let tx = live.transaction().await?;
        for name in &fitting {
            self.make_like(&tx, name).await?;
        }
        for name in &fitting {
            self.refer_like(&tx, name, &fitting).await?;
        }
        let sql = "SELECT blob_type FROM _waybill_table WHERE blob_type = ANY ($1)";
        for row in tx.query(sql, &[&scope.types()]).await? {
            let blob_type: &str = row.get(0);
            let name = schema::stream_name(blob_type);
            let is_there = "SELECT to_regclass($1) IS NOT NULL";
            if plans.for_type(blob_type).is_none()
                && tx.query_one(is_there, &[&self.of_live(name.as_str())]).await?.get(0)
            {
                self.make_like(&tx, &name).await?;
                let sql = format!(
                    "INSERT INTO {} (name, blob_type, rule) SELECT name, blob_type, rule FROM {} WHERE blob_type = $1",
                    self.of_shadow("_waybill_table"),
                    self.of_live("_waybill_table")
                );
                tx.execute(&sql, &[&blob_type]).await?;
            }
        }
        tx.commit().await?;
        Ok(anew)
    }

    async fn make_like(&self, tx: &PostgresTransaction<'_>, name: &SqlName) -> Result<(), Failure> {
        let (old, new) = (self.of_live(name.as_str()), self.of_shadow(name.as_str()));
        tx.batch_execute(&format!("CREATE TABLE {new} (LIKE {old} INCLUDING ALL)")).await?;
        let sql = format!(
            "INSERT INTO {} SELECT * FROM {} WHERE table_name = $1",
            self.of_shadow("_waybill_column"),
            self.of_live("_waybill_column")
        );
        tx.execute(&sql, &[&name.as_str()]).await?;
        Ok(())
    }

    /// Foreign keys refer to tables of the shadow where it has them.
    async fn refer_like(
        &self,
        tx: &PostgresTransaction<'_>,
        name: &SqlName,
        fitting: &[SqlName],
    ) -> Result<(), Failure> {
        let sql = "SELECT k.conname::text, pg_get_constraintdef(k.oid), c.relname::text, n.nspname::text
                   FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE k.conrelid = to_regclass($1) AND k.contype = 'f' AND k.conparentid = 0";
        for row in tx.query(sql, &[&self.of_live(name.as_str())]).await? {
            let (constraint, definition): (String, String) = (row.get(0), row.get(1));
            let (parent, schema): (String, String) = (row.get(2), row.get(3));
            let is_ours = schema == self.live && fitting.iter().any(|name| name.as_str() == parent);
            let first = if is_ours { &self.shadow } else { &schema };
            tx.batch_execute(&format!(
                "SET LOCAL search_path = {}, {}; ALTER TABLE {} ADD CONSTRAINT {} {definition}; SET LOCAL search_path = {}",
                quoted(first),
                quoted(&self.live),
                self.of_shadow(name.as_str()),
                quoted(&constraint),
                quoted(&self.live)
            ))
            .await?;
        }
        Ok(())
    }

    /// The columns that the shadow fills; the old table gets those that it lacks.
    async fn columns(&self, live: &PostgresConnection, name: &SqlName, key: &[String]) -> Result<Columns, Failure> {
        let (old, new) = (self.of_live(name.as_str()), self.of_shadow(name.as_str()));
        let sql = format!(
            "SELECT x.attname::text, t.typname::text, format_type(x.atttypid, x.atttypmod), m.attname IS NOT NULL,
                 x.atttypid = 'numeric'::regtype AND m.atttypid = 'int8'::regtype
             FROM pg_attribute x JOIN pg_type t ON t.oid = x.atttypid
                 LEFT JOIN pg_attribute m ON m.attrelid = to_regclass($2) AND m.attname = x.attname AND NOT m.attisdropped
             WHERE x.attrelid = to_regclass($1) AND x.attnum > 0 AND NOT x.attisdropped AND x.attgenerated = ''
               AND (x.attname IN ('{VERSION}', '{RESCUED}')
                    OR EXISTS (SELECT 1 FROM {} c WHERE c.table_name = $3 AND c.name = x.attname))",
            self.of_shadow("_waybill_column")
        );
        let mut others = Vec::new();
        for row in live.query(&sql, &[&new, &old, &name.as_str()]).await? {
            let (column, kind, declared): (String, String, String) = (row.get(0), row.get(1), row.get(2));
            if !row.get::<_, bool>(3) {
                live.batch_execute(&format!("ALTER TABLE {old} ADD COLUMN {} {declared}", quoted(&column))).await?;
            } else if row.get::<_, Option<bool>>(4) == Some(true) {
                let widened = live.batch_execute(&schema::widen_sql(&old, &quoted(&column))).await;
                widened.map_err(|error| wont_widen(name, &column, &told(error.into())))?;
            }
            if !key.contains(&column) {
                others.push((column, kind));
            }
        }
        Ok(Columns { key: key.to_vec(), others })
    }
}

impl Columns {
    fn delete(&self, schemas: &Schemas, name: &SqlName) -> String {
        format!(
            "DELETE FROM {} t WHERE NOT EXISTS (SELECT 1 FROM {} s WHERE {})",
            schemas.of_live(name.as_str()),
            schemas.of_shadow(name.as_str()),
            same_key(&self.key)
        )
    }

    fn update(&self, schemas: &Schemas, name: &SqlName) -> String {
        let set: Vec<_> = self.others.iter().map(|(column, _)| format!("{0} = s.{0}", quoted(column))).collect();
        let as_written = |of: &str| {
            let columns = self.others.iter().map(|(column, kind)| match kind.as_str() {
                // 19.90 is not 19.9 here, and json knows no equality.
                "json" | "jsonb" | "numeric" | "float8" => format!("{of}.{}::text", quoted(column)),
                "text" | "varchar" => format!("{of}.{} COLLATE \"C\"", quoted(column)),
                _ => format!("{of}.{}", quoted(column)),
            });
            columns.collect::<Vec<_>>().join(", ")
        };
        format!(
            "UPDATE {} AS t SET {} FROM {} AS s WHERE {} AND ROW ({}) IS DISTINCT FROM ROW ({})",
            schemas.of_live(name.as_str()),
            set.join(", "),
            schemas.of_shadow(name.as_str()),
            same_key(&self.key),
            as_written("t"),
            as_written("s")
        )
    }

    fn insert(&self, schemas: &Schemas, name: &SqlName) -> String {
        let all = || self.key.iter().chain(self.others.iter().map(|(column, _)| column));
        let list =
            |before: &str| all().map(|column| format!("{before}{}", quoted(column))).collect::<Vec<_>>().join(", ");
        format!(
            "INSERT INTO {live} ({}) SELECT {} FROM {} s WHERE NOT EXISTS (SELECT 1 FROM {live} t WHERE {})",
            list(""),
            list("s."),
            schemas.of_shadow(name.as_str()),
            same_key(&self.key),
            live = schemas.of_live(name.as_str()),
        )
    }
}

/// `None`: there is no such table.
async fn fits(
    tx: &PostgresTransaction<'_>,
    plan: &EntityPlan,
    name: &SqlName,
    scope: &Scope,
) -> Result<Option<bool>, Failure> {
    let mut is_known = false;
    for registered in schema::registered(tx, plan, name).await? {
        registered.admit_place(plan, name, |table, wanted| table == wanted, |entity| scope.is_configured(entity))?;
        is_known = true;
    }
    let found = schema::found_columns(tx, name).await?;
    if found.is_empty() {
        return Ok(None);
    }
    match schema::check(tx, plan, name, &found).await {
        Ok(()) => Ok(Some(true)),
        Err(Failure::Refused { .. }) if is_known => {
            let sql = "SELECT name FROM _waybill_column WHERE table_name = $2
                       UNION SELECT a.attname::text FROM pg_index i JOIN pg_attribute a
                         ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[])
                       WHERE i.indrelid = to_regclass($1) AND i.indisprimary";
            let ours = tx.query(sql, &[&name.to_string(), &name.as_str()]).await?;
            let is_ours = |column: &str| {
                [VERSION, RESCUED, FILE, ROW].contains(&column)
                    || ours.iter().any(|row| row.get::<_, &str>(0) == column)
            };
            match found.iter().find(|found| !is_ours(&found.name)) {
                Some(other) => Err(would_lose(plan, name, &other.name)),
                None => Ok(Some(false)),
            }
        }
        Err(failure) => Err(failure),
    }
}

/// What the server says, with what it says beside: which view needs the table, which row has no parent.
fn told(failure: Failure) -> String {
    match failure {
        Failure::Refused { problem, .. } | Failure::Outdated { problem } => problem,
        Failure::Postgres(error) => match error.as_db_error() {
            Some(error) => {
                let detail =
                    error.detail().map(|detail| format!("; {}", detail.replace('\n', "; "))).unwrap_or_default();
                format!("{} ({}{detail})", error.message(), error.code().code())
            }
            None => error.to_string(),
        },
        Failure::Fenced { .. } | Failure::Sqlite(_) => unreachable!("no file is worked here, in PostgreSQL"),
    }
}

impl fmt::Debug for PostgresRebuild {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresRebuild").field("shadow", &self.schemas.shadow).finish_non_exhaustive()
    }
}
