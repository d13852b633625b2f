//! Tables derived again from files, beside those in use, and put in their place in one transaction.
//!
//! The shadow is a sink of its own, in a file or schema beside the old tables: what makes a table right the first time makes
//! it right again, and what is left of a rebuild that died is never taken for a table of the user. What each dialect adds is
//! the swap. A table that still fits its entity stays: only rows that differ are written, so views, grants, indexes, triggers
//! and columns of the user stay with it. One that does not fit is made anew. ADR 27 says why.
//!
//! # Order
//! 1. [`Rebuild::begin`] makes the shadow; files are worked into it while others go on writing to the old tables.
//! 2. [`Rebuild::hold`] keeps these others out; [`Rebuild::behind`] says which files they brought meanwhile.
//! 3. With none left, [`Rebuild::swap`] compares, writes what differs, and takes over progress, tombstones, parked and bad rows.
//!
//! A table may begin at a full export: [`Rebuild::begin_at`], after 1 and before the first file. The shadow then knows its place, and
//! ignores upserts of earlier files as any sink does that knows one; the swap takes the place over with the rows. So it is in effect
//! for the rows that were derived with it, and for no others.
//!
//! Until the commit of 3 nothing of the old tables has changed.

use std::collections::BTreeSet;

use serde::Serialize;
use waybill_contracts::{Entities, Entity, Format, OnMissing, SqlName};
use waybill_formats::FileStats;

use super::{
    bad_rows::BadRowsOf, catalogue::quoted, postgres::PostgresRebuild, sqlite::SqliteRebuild, waiting::SqlSink,
};
use crate::{
    FileKey,
    apply::{Begin, EntityPlans, PlanError, Position},
    replay::FullExport,
    sink::{Ahead, AnySink, EntityBatch, Sink, SinkError, SinkOpenError},
};

/// Files told by [`Rebuild::behind`] at once.
pub(super) const BEHIND_MAX: usize = 10_000;

/// Rows that are let go in one transaction, of each entity.
pub(super) const LET_GO_MAX: usize = 5_000;

/// Which tables are derived together: rows wait for rows of another table, so what is tied by such references goes together.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scope {
    /// Parents first, as far as there are no cycles.
    pub(super) order: Vec<String>,
    entities: Entities,
    types: Vec<String>,
    configured: BTreeSet<String>,
}

impl Scope {
    /// The tables of these blobTypes or entities, and those that are tied to them. A type without an entity has a table of its
    /// own.
    #[must_use]
    pub fn of(entities: &Entities, wanted: &[String]) -> Self {
        let mut names = BTreeSet::new();
        let mut types = BTreeSet::new();
        for name in wanted {
            match entities.for_type(name).or_else(|| entities.0.get(name)) {
                Some(entity) => {
                    names.insert(entity.name.clone());
                }
                None => {
                    types.insert(name.clone());
                }
            }
        }
        while let Some(more) = entities.0.values().flat_map(ties).find_map(|(child, parent)| {
            match (names.contains(child), names.contains(parent)) {
                (true, false) => Some(parent.to_owned()),
                (false, true) => Some(child.to_owned()),
                _ => None,
            }
        }) {
            names.insert(more);
        }
        let chosen = Entities(entities.0.iter().filter(|(name, _)| names.contains(*name)).map(own).collect());
        types.extend(chosen.0.values().flat_map(|entity| entity.types.iter().cloned()));
        let configured = entities.0.keys().cloned().collect();
        Self { order: parents_first(&chosen), entities: chosen, types: types.into_iter().collect(), configured }
    }

    /// The entities, by name.
    #[must_use]
    pub fn entities(&self) -> &Entities {
        &self.entities
    }

    /// The blobTypes whose files make the tables.
    #[must_use]
    pub fn types(&self) -> &[String] {
        &self.types
    }

    /// The entities' tables with the columns of their keys, parents first as far as there are no cycles.
    pub(super) fn tables(&self, plans: &EntityPlans) -> Vec<(SqlName, Vec<String>)> {
        let table = |entity: &String| {
            let plan = plans.get(entity).expect("the scope is compiled");
            let key = plan.key().map(|(field, _)| SqlName::new(field).as_str().to_owned()).collect();
            (SqlName::new(plan.table()), key)
        };
        self.order.iter().map(table).collect()
    }

    /// Whether some entity of the configuration has this name, in the scope or not.
    pub(super) fn is_configured(&self, entity: &str) -> bool {
        self.configured.contains(entity)
    }
}

fn own((name, entity): (&String, &Entity)) -> (String, Entity) {
    (name.clone(), entity.clone())
}

fn ties(entity: &Entity) -> impl Iterator<Item = (&str, &str)> {
    let waits = entity.references.iter().filter(|reference| reference.on_missing == OnMissing::Park);
    waits.map(|reference| (entity.name.as_str(), reference.entity.as_str()))
}

fn parents_first(entities: &Entities) -> Vec<String> {
    fn visit(entity: &Entity, entities: &Entities, seen: &mut BTreeSet<String>, order: &mut Vec<String>) {
        if seen.insert(entity.name.clone()) {
            for parent in entity.references.iter().filter_map(|reference| entities.0.get(&reference.entity)) {
                visit(parent, entities, seen, order);
            }
            order.push(entity.name.clone());
        }
    }
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    for entity in entities.0.values() {
        visit(entity, entities, &mut seen, &mut order);
    }
    order
}

/// What becomes of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Way {
    /// It fits its entity and stays; rows that differ are written.
    Compared,
    /// It was not there.
    Made,
    /// It did not fit its entity any more, and a new one is in its place.
    MadeAnew,
    /// Its type has an entity with another table now. It stays as it is, and is nobody's but the user's.
    LeftBehind,
}

/// A table after the swap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SwappedTable {
    /// Its name.
    pub table: String,
    /// What became of it.
    pub way: Way,
    /// Rows that it has now.
    pub rows: u64,
    /// Rows that it lacked before.
    pub inserted: u64,
    /// Rows that were not as the files say.
    pub updated: u64,
    /// Rows that it should not have had.
    pub deleted: u64,
}

impl SwappedTable {
    /// Before its rows are compared.
    pub(super) fn of(name: &SqlName, way: Way) -> Self {
        Self { table: name.as_str().to_owned(), way, rows: 0, inserted: 0, updated: 0, deleted: 0 }
    }

    pub(super) fn left_behind(table: String, rows: u64) -> Self {
        Self { table, way: Way::LeftBehind, rows, inserted: 0, updated: 0, deleted: 0 }
    }
}

/// Whether a row of the shadow, `s`, is that of the table, `t`.
pub(super) fn same_key(key: &[String]) -> String {
    let same = key.iter().map(|column| format!("s.{0} = t.{0}", quoted(column)));
    same.collect::<Vec<_>>().join(" AND ")
}

/// Why tables are not derived again. The old ones are as they were, but for [`RebuildError::Unknown`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// The sink keeps no tables.
    #[error("{sink}: rebuild derives the tables of a database; replay brings the files into any other sink")]
    NoTables {
        /// Which sink.
        sink: String,
    },
    /// Somebody does so already.
    #[error("{sink}: another rebuild is under way; wait for its end")]
    UnderWay {
        /// Which sink.
        sink: String,
    },
    /// An entity cannot be used as it is configured.
    #[error(transparent)]
    Entity(#[from] PlanError),
    /// The shadow, or the old tables, cannot be used.
    #[error(transparent)]
    Open(#[from] SinkOpenError),
    /// The shadow failed.
    #[error(transparent)]
    Shadow(#[from] SinkError),
    /// No table of the rebuild can begin at this full export.
    #[error("no table of this rebuild is made of {} alone, so none begins at full export {:?}", .0.blob_type, .0.snapshot)]
    NoTableFor(Box<Begin>),
    /// The database refused the new rows.
    #[error("{sink}: the tables were not swapped, and are as they were: {problem}")]
    Swap {
        /// Which sink.
        sink: String,
        /// What happened.
        problem: String,
    },
    /// Nobody answered to the commit.
    #[error(
        "{sink}: the connection was lost at the commit, so the tables are whole, but whether they are the old or the new ones is \
         unknown: {problem}; begin again"
    )]
    Unknown {
        /// Which sink.
        sink: String,
        /// What happened.
        problem: String,
    },
}

impl RebuildError {
    pub(super) fn not_held(sink: &str) -> Self {
        Self::Swap { sink: sink.to_owned(), problem: "others may write to them; hold them first".to_owned() }
    }
}

/// A rebuild under way. Dropped, it leaves the old tables in effect; the next one throws its shadow away.
#[derive(Debug)]
pub struct Rebuild {
    dialect: Dialect,
}

#[derive(Debug)]
enum Dialect {
    Sqlite(Box<SqliteRebuild>),
    Postgres(Box<PostgresRebuild>),
}

impl Rebuild {
    /// Whether a sink keeps tables that can be derived again; touches nothing.
    ///
    /// # Errors
    /// [`RebuildError::NoTables`].
    pub fn admit(sink: &str) -> Result<(), RebuildError> {
        match sink.split_once(':') {
            Some(("sqlite", path)) if !path.is_empty() => Ok(()),
            Some(("postgres" | "postgresql", _)) => Ok(()),
            Some((kind, _)) => Err(RebuildError::NoTables { sink: format!("{kind}:…") }),
            None => Err(RebuildError::NoTables { sink: sink.to_owned() }),
        }
    }

    /// Makes an empty shadow beside the tables of a sink, named as for [`open`](crate::sink::open).
    ///
    /// # Errors
    /// [`RebuildError`]: the sink has no tables, another rebuild is under way, a table is the user's and fits no entity.
    pub async fn begin(sink: &str, scope: &Scope) -> Result<Self, RebuildError> {
        Self::admit(sink)?;
        let dialect = match sink.strip_prefix("sqlite:") {
            Some(path) => Dialect::Sqlite(Box::new(SqliteRebuild::begin(path.into(), scope).await?)),
            None => Dialect::Postgres(Box::new(PostgresRebuild::begin(sink, scope).await?)),
        };
        Ok(Self { dialect })
    }

    /// Where the files go.
    #[must_use]
    pub fn shadow(&self) -> AnySink {
        match &self.dialect {
            Dialect::Sqlite(rebuild) => AnySink::Sqlite(rebuild.shadow().clone()),
            Dialect::Postgres(rebuild) => AnySink::Postgres(rebuild.shadow().clone()),
        }
    }

    /// Has the table of a full export's type begin at it; to be called before any file is worked. All its parts have to be worked
    /// into the shadow, and [`flaw`](Rebuild::flaw) says whether it stands for the files before it.
    ///
    /// # Errors
    /// [`RebuildError::NoTableFor`]; [`RebuildError::Shadow`].
    pub async fn begin_at(&self, of: &FullExport) -> Result<(), RebuildError> {
        let begin = &of.begin;
        let scope = self.scope();
        let Some(entity) = scope.entities().for_type(&begin.blob_type).filter(|entity| entity.types.len() == 1) else {
            return Err(RebuildError::NoTableFor(Box::new(begin.clone())));
        };
        let is_there = match &self.dialect {
            Dialect::Sqlite(rebuild) => rebuild.begin_at(&entity.name, begin).await?,
            Dialect::Postgres(rebuild) => rebuild.begin_at(&entity.name, begin).await?,
        };
        if is_there { Ok(()) } else { Err(RebuildError::NoTableFor(Box::new(begin.clone()))) }
    }

    /// What speaks against a full export once all files were worked into the shadow: a part that is not in effect, or a row of it
    /// that cannot be used.
    ///
    /// # Errors
    /// [`RebuildError::Shadow`].
    pub async fn flaw(&self, of: &FullExport) -> Result<Option<String>, RebuildError> {
        for part in &of.parts {
            let at = self.shadow().progress(&part.file).await?;
            if !at.done {
                return Ok(Some(format!("file {} could not be worked", part.id)));
            }
            let bad_rows = BadRowsOf::file(&part.file);
            let first = match &self.dialect {
                Dialect::Sqlite(rebuild) => rebuild.shadow().bad_rows(&bad_rows, 1).await?,
                Dialect::Postgres(rebuild) => rebuild.shadow().bad_rows(&bad_rows, 1).await?,
            };
            if let Some(bad) = first.first() {
                return Ok(Some(format!("row {} of file {} cannot be used: {}", bad.row, part.id, bad.problem)));
            }
            // Those that are left out are kept nowhere.
            if at.bad > 0 {
                return Ok(Some(format!("file {} has rows that cannot be used: {}", part.id, at.bad)));
            }
        }
        Ok(None)
    }

    /// Counts a file as worked that is before the full export at which its table begins, and that cannot be worked any more.
    ///
    /// # Errors
    /// [`RebuildError::Shadow`].
    pub async fn pass_over(&self, file: &FileKey, of: &FullExport) -> Result<(), RebuildError> {
        let (shadow, begin) = (self.shadow(), &of.begin);
        let mut at = shadow.progress(file).await?;
        if at.trail.is_some() && !at.done {
            shadow.begin_again(file, at).await?;
            at = shadow.progress(file).await?;
        }
        if at.done {
            return Ok(());
        }
        let plans = match &self.dialect {
            Dialect::Sqlite(rebuild) => rebuild.shadow().plans(),
            Dialect::Postgres(rebuild) => rebuild.shadow().plans(),
        };
        let position = Position::Sequenced {
            publisher: begin.publisher.clone(),
            epoch: begin.epoch.clone(),
            sequence: begin.as_of,
        };
        let nothing = EntityBatch {
            blob_type: begin.blob_type.as_str().into(),
            entity: plans.for_type(&begin.blob_type).cloned(),
            filter: None,
            format: Format::JsonLines,
            position,
            rows: Vec::new(),
            to: at.rows,
            end: Some(FileStats {
                rows: at.rows,
                bad_rows: at.bad,
                stored_bytes: 0,
                plain_bytes: 0,
                plain_sha256: None,
                gzip: false,
            }),
            sorted: None,
            ahead: Ahead::default(),
        };
        shadow.apply(file, at.rows, nothing).await?;
        Ok(())
    }

    fn scope(&self) -> &Scope {
        match &self.dialect {
            Dialect::Sqlite(rebuild) => rebuild.scope(),
            Dialect::Postgres(rebuild) => rebuild.scope(),
        }
    }

    /// Files that took effect in the old tables and not yet in the shadow, at most 10,000.
    ///
    /// # Errors
    /// [`RebuildError`].
    pub async fn behind(&self) -> Result<Vec<FileKey>, RebuildError> {
        self.behind_of(self.scope().types()).await
    }

    /// Those of these types.
    ///
    /// # Errors
    /// [`RebuildError`].
    pub async fn behind_of(&self, types: &[String]) -> Result<Vec<FileKey>, RebuildError> {
        match &self.dialect {
            Dialect::Sqlite(rebuild) => rebuild.behind(types).await,
            Dialect::Postgres(rebuild) => rebuild.behind(types).await,
        }
    }

    /// Waits for whoever writes to the old tables, and keeps all others out until the end. They wait, and go on afterwards.
    ///
    /// # Errors
    /// [`RebuildError`]; nobody is kept out, and it may be tried again.
    ///
    /// # Cancel safety
    /// Dropped, it keeps nobody out once it would have come to its end, and may be tried again.
    pub async fn hold(&mut self) -> Result<(), RebuildError> {
        match &mut self.dialect {
            Dialect::Sqlite(rebuild) => rebuild.hold().await,
            Dialect::Postgres(rebuild) => rebuild.hold().await,
        }
    }

    /// Puts the shadow's rows, with all that belongs to them, in the place of the old ones, in one transaction; to be called
    /// while [held](Rebuild::hold), or else it is refused. Then the shadow goes.
    ///
    /// # Errors
    /// [`RebuildError`]; nothing changed.
    pub async fn swap(self) -> Result<Vec<SwappedTable>, RebuildError> {
        match self.dialect {
            Dialect::Sqlite(rebuild) => rebuild.swap().await,
            Dialect::Postgres(rebuild) => rebuild.swap().await,
        }
    }

    /// Throws the shadow away.
    ///
    /// # Errors
    /// [`RebuildError`]; the next rebuild throws it away.
    pub async fn give_up(self) -> Result<(), RebuildError> {
        match self.dialect {
            Dialect::Sqlite(rebuild) => rebuild.give_up().await,
            Dialect::Postgres(rebuild) => rebuild.give_up().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entities() -> Entities {
        let toml = r#"
            [entity.shop]
            key = ["id"]
            [entity.item]
            types = ["ItemChanges"]
            key = ["id"]
            references = [{ fields = ["shop"], entity = "shop" }, { fields = ["tax"], entity = "tax", on_missing = "apply" }]
            [entity.price]
            key = ["item"]
            references = [{ fields = ["item"], entity = "item" }]
            [entity.tax]
            key = ["id"]
        "#;
        Entities::parse(toml, "entities.toml").unwrap()
    }

    #[test]
    fn tables_whose_rows_wait_for_each_other_go_together() {
        let scope = Scope::of(&entities(), &["ItemChanges".to_owned()]);
        assert_eq!(scope.entities().0.keys().collect::<Vec<_>>(), ["item", "price", "shop"]);
        assert_eq!(scope.types(), ["ItemChanges", "price", "shop"]);
        assert_eq!(scope.order, ["shop", "item", "price"], "parents first");
        assert_eq!(Scope::of(&entities(), &["shop".to_owned()]), scope, "whichever of them was named");
    }

    #[test]
    fn a_table_that_nothing_waits_for_goes_alone() {
        assert_eq!(Scope::of(&entities(), &["tax".to_owned()]).types(), ["tax"]);
        let scope = Scope::of(&entities(), &["Log".to_owned()]);
        assert!(scope.entities().0.is_empty() && scope.types() == ["Log"], "{scope:?}");
    }
}
