//! The tables themselves: made, checked and widened; and the statements that name their columns.

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
};

use waybill_contracts::{ColumnType, SchemaMode, SqlName};
use waybill_store::{
    Migration, Schema,
    rusqlite::{self, Connection, OptionalExtension as _},
};

use super::{
    super::{
        Failure,
        catalogue::{
            Collating, FILE, RESCUED, ROW, Registered, TO_STRING, VERSION, collates_key, key_columns,
            lacks_frozen_column, lacks_key, lacks_own_column, needs_column, quoted, stream_is_taken, text_key_columns,
        },
        planned::Shapes,
        refused, type_from_name,
    },
    is_answer,
};
use crate::apply::{EntityPlan, EntityPlans, Grown, NewFields, Shape, ShapeColumn, folded};

/// The sink's own tables, in the user's database.
pub(super) const SCHEMA: Schema = Schema {
    application_id: 0,
    name: "sink",
    migrations: &[
        Migration { name: "progress, tombstones, parked and bad rows", sql: include_str!("0001_sink.sql") },
        Migration {
            name: "filtered rows are counted, and a table's filter is known",
            sql: include_str!("0002_filtered.sql"),
        },
        Migration { name: "waits that end", sql: include_str!("0003_waits.sql") },
        Migration { name: "bad rows have their key", sql: include_str!("0004_bad_row_keys.sql") },
        Migration { name: "inferred types are known as such", sql: include_str!("0005_inferred.sql") },
        Migration { name: "rows in the order of their keys", sql: include_str!("0006_trail.sql") },
        Migration { name: "tables that begin at a full export", sql: include_str!("0007_begins.sql") },
    ],
    shared_with_user: true,
};

/// In each table of an entity; by them a table that we made is known.
pub(super) const OWN_COLUMNS: &str = "_waybill_version BLOB NOT NULL, _rescued TEXT";

/// Beginnings of names that are the sink's or SQLite's own.
const RESERVED_PREFIXES: [&str; 2] = ["_waybill", "sqlite_"];

/// How SQLite converts what is stored in a column. Source: SQLite, "Datatypes In SQLite", section 3.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Affinity {
    Integer,
    Text,
    Blob,
    Real,
    Numeric,
}

impl Affinity {
    fn of(declared: &str) -> Self {
        let declared = declared.to_ascii_uppercase();
        let has = |part: &str| declared.contains(part);
        if has("INT") {
            Self::Integer
        } else if has("CHAR") || has("CLOB") || has("TEXT") {
            Self::Text
        } else if has("BLOB") || declared.is_empty() {
            Self::Blob
        } else if has("REAL") || has("FLOA") || has("DOUB") {
            Self::Real
        } else {
            Self::Numeric
        }
    }

    /// Whether values of the type come out as they went in.
    fn keeps(self, kind: ColumnType) -> bool {
        match kind {
            ColumnType::Integer | ColumnType::Boolean => matches!(self, Self::Integer | Self::Numeric | Self::Blob),
            ColumnType::Float => matches!(self, Self::Real | Self::Blob),
            ColumnType::Binary => true,
            ColumnType::Decimal
            | ColumnType::Text
            | ColumnType::Timestamp
            | ColumnType::Date
            | ColumnType::Uuid
            | ColumnType::Json => matches!(self, Self::Text | Self::Blob),
        }
    }

    /// What a column of the user holds, as far as its declaration tells; `None` where text would be changed.
    fn kind(self, declared: &str) -> Option<ColumnType> {
        match self {
            Self::Integer => Some(ColumnType::Integer),
            Self::Text => Some(ColumnType::Text),
            Self::Blob if declared.is_empty() => Some(ColumnType::Text),
            Self::Blob => Some(ColumnType::Binary),
            Self::Real => Some(ColumnType::Float),
            Self::Numeric if declared.to_ascii_uppercase().contains("BOOL") => Some(ColumnType::Boolean),
            Self::Numeric => None,
        }
    }
}

/// Never one of numeric affinity: it would turn 19.90 into 19.9.
fn declared_type(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Integer | ColumnType::Boolean => "INTEGER",
        ColumnType::Float => "REAL",
        ColumnType::Binary => "BLOB",
        ColumnType::Decimal
        | ColumnType::Text
        | ColumnType::Timestamp
        | ColumnType::Date
        | ColumnType::Uuid
        | ColumnType::Json => "TEXT",
    }
}

/// A column as the catalogue has it.
pub(super) struct Found {
    pub(super) name: String,
    pub(super) declared: String,
    is_generated: bool,
    is_needed: bool,
}

pub(super) fn found_columns(tx: &Connection, table: &SqlName) -> rusqlite::Result<Vec<Found>> {
    let sql = "SELECT name, type, hidden, \"notnull\" AND dflt_value IS NULL AND pk = 0 FROM pragma_table_xinfo(?1)";
    let mut statement = tx.prepare_cached(sql)?;
    let found = statement.query_map([table.as_str()], |row| {
        Ok(Found {
            name: row.get(0)?,
            declared: row.get(1)?,
            is_generated: row.get::<_, i64>(2)? != 0,
            is_needed: row.get(3)?,
        })
    })?;
    found.collect()
}

/// Makes the tables of all entities, or checks those that are there.
pub(super) fn install(tx: &Connection, plans: &EntityPlans) -> Result<(), Failure> {
    for plan in plans.iter() {
        install_entity(tx, plan)?;
    }
    Ok(())
}

fn install_entity(tx: &Connection, plan: &EntityPlan) -> Result<(), Failure> {
    let name = SqlName::new(plan.table());
    register(tx, plan, &name)?;
    let found = found_columns(tx, &name)?;
    if found.is_empty() {
        tx.execute_batch(&create_sql(&name, plan, plan.columns()))?;
        return plan.columns().iter().try_for_each(|column| note_column(tx, &name, column));
    }
    check(tx, plan, &name, &found)
}

/// The table as we make it, with these columns.
pub(super) fn create_sql(name: &SqlName, plan: &EntityPlan, columns: &[ShapeColumn]) -> String {
    let mut all = plan.key().map(|(field, part)| (field, part.column_type(), " NOT NULL")).collect::<Vec<_>>();
    all.extend(columns.iter().map(|column| (column.field.as_str(), column.kind, "")));
    let mut sql = format!("CREATE TABLE {name} (");
    for (field, kind, rest) in all {
        write!(sql, "{} {}{rest}, ", SqlName::new(field), declared_type(kind)).expect(TO_STRING);
    }
    write!(sql, "{OWN_COLUMNS}, PRIMARY KEY ({}))", key_columns(plan)).expect(TO_STRING);
    sql
}

/// What is known of the table, and of the entity under another table's name.
pub(super) fn registered(tx: &Connection, plan: &EntityPlan, name: &SqlName) -> rusqlite::Result<Vec<Registered>> {
    let mut statement = tx.prepare_cached(
        "SELECT name, entity, blob_type, rule, filter, begins IS NOT NULL FROM _waybill_table WHERE name = ?1 OR entity = ?2",
    )?;
    let registered = statement.query_map((name.as_str(), plan.name()), |row| {
        Ok(Registered {
            table: row.get(0)?,
            entity: row.get(1)?,
            blob_type: row.get(2)?,
            rule: row.get(3)?,
            filter: row.get(4)?,
            is_begun: row.get(5)?,
        })
    })?;
    registered.collect()
}

/// Refuses a table that is somebody else's, or was filled under another rule.
fn register(tx: &Connection, plan: &EntityPlan, name: &SqlName) -> Result<(), Failure> {
    let mut is_known = false;
    for registered in registered(tx, plan, name)? {
        registered.admit(plan, name, str::eq_ignore_ascii_case)?;
        is_known = true;
    }
    if !is_known {
        let sql = "INSERT INTO _waybill_table (name, entity, rule, filter) VALUES (?1, ?2, ?3, ?4)";
        let filter = plan.filter_signature();
        tx.prepare_cached(sql)?.execute((name.as_str(), plan.name(), plan.order(), filter))?;
    }
    Ok(())
}

/// A table that is there: whether rows can go into it unchanged, and what it lacks.
pub(super) fn check(tx: &Connection, plan: &EntityPlan, name: &SqlName, found: &[Found]) -> Result<(), Failure> {
    let entity = plan.name();
    let place = |field: &str| {
        let column = SqlName::new(field);
        if let Some(found) = found.iter().find(|found| found.name == column.as_str()) {
            return Ok(Some(found));
        }
        match found.iter().find(|found| found.name.eq_ignore_ascii_case(column.as_str())) {
            Some(other) => Err(refused(format!(
                "entity {entity:?}: table {name} has a column {:?} where {:?} is expected; rename it: ALTER TABLE {name} \
                 RENAME COLUMN {} TO {column}",
                other.name,
                column.as_str(),
                quoted(&other.name),
            ))),
            None => Ok(None),
        }
    };
    for (field, declared) in [(VERSION, "BLOB"), (RESCUED, "TEXT")] {
        if place(field)?.is_none_or(|found| !matches!(Affinity::of(&found.declared), Affinity::Blob | Affinity::Text)) {
            return Err(lacks_own_column(plan, name, field, declared));
        }
    }
    let fit = |field: &str, kind: ColumnType, found: &Found| {
        if found.is_generated {
            return Err(refused(format!(
                "entity {entity:?}: column {field:?} of table {name} is generated by the database, so no value can be put \
                 into it; make it an ordinary column, or give the entity another `table`"
            )));
        }
        if Affinity::of(&found.declared).keeps(kind) {
            return Ok(());
        }
        Err(refused(format!(
            "entity {entity:?}: column {field:?} of table {name} is declared as {:?}, which would change values of type \
             {kind}; make it {}, give the entity another `table`, or, if the sink made the table, let `waybill-subscriber \
             rebuild --type {entity}` make it anew",
            found.declared,
            declared_type(kind)
        )))
    };
    for (field, part) in plan.key() {
        match place(field)? {
            Some(found) => fit(field, part.column_type(), found)?,
            None => return Err(lacks_key(plan, name)),
        }
    }
    if !has_key(tx, plan, name)? {
        return Err(lacks_key(plan, name));
    }
    if let Some(by) = key_collation(tx, plan, name)? {
        return Err(collates_key(plan, name, &by, |column| format!("{} TEXT COLLATE BINARY", quoted(column))));
    }
    refuse_what_ends_transactions(tx, plan, name)?;
    for column in plan.columns() {
        match place(&column.field)? {
            Some(found) => fit(&column.field, column.kind, found)?,
            None => add_column(tx, plan, name, column)?,
        }
        note_column(tx, name, column)?;
    }
    let shape = shape(tx, name, Some(plan))?;
    let brings = |found: &&Found| shape.columns.iter().any(|column| SqlName::new(&column.field).as_str() == found.name);
    let ours = |found: &&Found| {
        [VERSION, RESCUED].contains(&found.name.as_str())
            || plan.key().any(|(field, _)| SqlName::new(field).as_str() == found.name)
    };
    match found.iter().find(|found| found.is_needed && !brings(found) && !ours(found)) {
        Some(needed) => Err(needs_column(plan, name, &needed.name)),
        None => Ok(()),
    }
}

/// Whether what the table takes does not depend on the order of rows of different keys: it has no trigger, nothing but the key is
/// unique, and it does not refer to itself.
pub(super) fn takes_rows_in_any_order(db: &Connection, name: &SqlName, key: &[String]) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE)
                   OR EXISTS (SELECT 1 FROM pragma_foreign_key_list(?1) WHERE \"table\" = ?1 COLLATE NOCASE)
                   OR EXISTS (SELECT 1 FROM pragma_index_list(?1) AS list WHERE \"unique\" AND (
                       SELECT json_group_array(name) FROM (
                           SELECT name FROM pragma_index_info(list.name) ORDER BY name)) <> ?2)";
    let mut key: Vec<&String> = key.iter().collect();
    key.sort_unstable();
    let key = serde_json::json!(key).to_string();
    db.prepare_cached(sql)?.query_row((name.as_str(), key), |row| row.get::<_, bool>(0)).map(|depends| !depends)
}

/// Whether a column of a table without triggers is the rowid itself.
pub(super) fn has_rowid(db: &Connection, name: &SqlName, column: &SqlName) -> rusqlite::Result<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM pragma_table_list(?1) WHERE schema = 'main' AND type = 'table' AND NOT wr)
                   AND EXISTS (SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2 AND pk = 1 AND upper(type) = 'INTEGER')
                   AND NOT EXISTS (SELECT 1 FROM pragma_index_list(?1) WHERE origin = 'pk')
                   AND NOT EXISTS (
                       SELECT 1 FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE)";
    db.prepare_cached(sql)?.query_row((name.as_str(), column.as_str()), |row| row.get(0))
}

/// Whether the key's columns, and no others, are the primary key or unique.
fn has_key(tx: &Connection, plan: &EntityPlan, name: &SqlName) -> rusqlite::Result<bool> {
    let sql = "SELECT name FROM pragma_table_xinfo(?1) WHERE pk > 0";
    Ok(names(tx, sql, name.as_str())? == key_names(plan) || !key_indexes(tx, plan, name)?.is_empty())
}

fn key_names(plan: &EntityPlan) -> HashSet<String> {
    plan.key().map(|(field, _)| SqlName::new(field).as_str().to_owned()).collect()
}

fn names(tx: &Connection, sql: &str, of: &str) -> rusqlite::Result<HashSet<String>> {
    let mut statement = tx.prepare_cached(sql)?;
    let names = statement.query_map([of], |row| row.get::<_, Option<String>>(0))?;
    // A null is an expression, which is nobody's key.
    names.map(|name| Ok(name?.unwrap_or_default())).collect()
}

/// The unique indexes on the key's columns and no others, the primary key's among them if it has one.
fn key_indexes(tx: &Connection, plan: &EntityPlan, name: &SqlName) -> rusqlite::Result<Vec<String>> {
    let wanted = key_names(plan);
    let mut found = Vec::new();
    for index in names(tx, "SELECT name FROM pragma_index_list(?1) WHERE \"unique\" AND NOT partial", name.as_str())? {
        if names(tx, "SELECT name FROM pragma_index_info(?1)", &index)? == wanted {
            found.push(index);
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Which of the key's columns compares text otherwise than by its bytes, when a row is looked for (the column does) or when one
/// is written (an index does, whichever of them SQLite takes for the conflict).
fn key_collation(tx: &Connection, plan: &EntityPlan, name: &SqlName) -> rusqlite::Result<Option<Collating>> {
    const BINARY: &str = "BINARY";
    let texts = text_key_columns(plan);
    for column in &texts {
        let (_, collation, ..) = tx.column_metadata(None::<&str>, name.as_str(), column.as_str())?;
        let collation = collation.map_or(BINARY.into(), std::ffi::CStr::to_string_lossy);
        if !collation.eq_ignore_ascii_case(BINARY) {
            let (column, collation) = (column.clone(), collation.into_owned());
            return Ok(Some(Collating { column, index: None, collation }));
        }
    }
    let sql = "SELECT name, coll FROM pragma_index_xinfo(?1) WHERE key AND coll <> 'BINARY' COLLATE NOCASE";
    for index in key_indexes(tx, plan, name)? {
        let mut statement = tx.prepare_cached(sql)?;
        for collating in statement.query_map([&index], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))? {
            let (column, collation) = collating?;
            if texts.contains(&column) {
                return Ok(Some(Collating { column, index: Some(index), collation }));
            }
        }
    }
    Ok(None)
}

/// A constraint that is checked at the commit, and a trigger that rolls back, would take rows of other files with them.
fn refuse_what_ends_transactions(tx: &Connection, plan: &EntityPlan, name: &SqlName) -> Result<(), Failure> {
    let sql = "SELECT type, name, sql FROM sqlite_schema
               WHERE sql IS NOT NULL AND type IN ('table', 'trigger') AND tbl_name = ?1 COLLATE NOCASE
               UNION SELECT m.type, m.name, m.sql FROM sqlite_schema m, pragma_foreign_key_list(m.name) f
               WHERE m.type = 'table' AND f.\"table\" = ?1 COLLATE NOCASE";
    let mut statement = tx.prepare_cached(sql)?;
    let mut rows = statement.query([name.as_str()])?;
    while let Some(row) = rows.next()? {
        let (kind, object, text): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let words: Vec<_> = text
            .split(|character: char| !character.is_alphanumeric() && character != '_')
            .filter(|word| !word.is_empty())
            .map(str::to_ascii_uppercase)
            .collect();
        let has = |wanted: &[&str]| words.windows(wanted.len()).any(|some| some.iter().eq(wanted));
        let problem = if kind == "trigger" && has(&["RAISE", "ROLLBACK"]) {
            "rolls the whole transaction back, rows of other files with it; let it RAISE(ABORT, …)"
        } else if kind == "table" && has(&["INITIALLY", "DEFERRED"]) {
            "has a foreign key that is checked at the commit only, so that one row would hold up others; make it immediate, \
             and let rows wait for their parents by [[entity.….references]]"
        } else {
            continue;
        };
        return Err(refused(format!("entity {:?}: {kind} {object} {problem}", plan.name())));
    }
    Ok(())
}

fn add_column(tx: &Connection, plan: &EntityPlan, name: &SqlName, column: &ShapeColumn) -> Result<(), Failure> {
    let sql = format!("ALTER TABLE {name} ADD COLUMN {} {}", SqlName::new(&column.field), declared_type(column.kind));
    if plan.mode() == SchemaMode::Freeze && !is_noted(tx, name)? {
        return Err(lacks_frozen_column(plan, name, column, &sql));
    }
    Ok(tx.execute_batch(&sql)?)
}

fn is_noted(tx: &Connection, name: &SqlName) -> rusqlite::Result<bool> {
    tx.prepare_cached("SELECT 1 FROM _waybill_column WHERE table_name = ?1 LIMIT 1")?.exists([name.as_str()])
}

fn note_column(tx: &Connection, name: &SqlName, column: &ShapeColumn) -> Result<(), Failure> {
    let sql = "INSERT INTO _waybill_column (table_name, field, name, type, is_inferred) VALUES (?1, ?2, ?3, ?4, ?5)
               ON CONFLICT (table_name, field)
               DO UPDATE SET name = excluded.name, type = excluded.type, is_inferred = excluded.is_inferred";
    let (sql_name, kind) = (SqlName::new(&column.field), column.kind.to_string());
    tx.prepare_cached(sql)?.execute((name.as_str(), &column.field, sql_name.as_str(), kind, column.is_inferred))?;
    Ok(())
}

/// The columns of a table as it is now.
pub(super) fn shape(tx: &Connection, name: &SqlName, plan: Option<&EntityPlan>) -> rusqlite::Result<Shape> {
    let found = found_columns(tx, name)?;
    let mut shape = Shape {
        key: plan.into_iter().flat_map(EntityPlan::key).map(|(field, _)| field.to_owned()).collect(),
        taken: found.iter().map(|found| folded(&found.name)).collect(),
        ..Shape::default()
    };
    let mut noted = HashMap::new();
    let sql = "SELECT name, field, type, is_inferred FROM _waybill_column WHERE table_name = ?1";
    let mut statement = tx.prepare_cached(sql)?;
    let mut rows = statement.query([name.as_str()])?;
    while let Some(row) = rows.next()? {
        if let Some(kind) = type_from_name(&row.get::<_, String>(2)?) {
            let column = ShapeColumn { field: row.get(1)?, kind, is_inferred: row.get(3)? };
            noted.insert(row.get::<_, String>(0)?, column);
        }
    }
    let key: HashSet<_> = shape.key.iter().map(|field| SqlName::new(field).as_str().to_owned()).collect();
    let is_free = |found: &Found| {
        !found.is_generated
            && !key.contains(&found.name)
            && ![VERSION, RESCUED, FILE, ROW].contains(&found.name.as_str())
    };
    for found in found.into_iter().filter(is_free) {
        match noted.remove(&found.name) {
            Some(column) => shape.columns.push(column),
            None => {
                shape.free.extend(Affinity::of(&found.declared).kind(&found.declared).map(|kind| (found.name, kind)));
            }
        }
    }
    Ok(shape)
}

/// Gives new fields their columns, and columns the type that holds their fields; `None` when there is nothing to do.
pub(super) fn grow(
    tx: &Connection,
    name: &SqlName,
    plan: Option<&EntityPlan>,
    (known, shapes): (&Shape, &Shapes),
    fields: &NewFields,
) -> Result<Option<Shape>, Failure> {
    let mode = plan.map_or(SchemaMode::Evolve, EntityPlan::mode);
    let grown = known.grow(fields, mode, |field| SqlName::new(field).as_str().to_owned());
    let grown = shapes.without_stuck(name, grown);
    if grown.is_empty() {
        return Ok(None);
    }
    for grown in &grown {
        let column = match grown {
            Grown::Added(column) => {
                let (field, declared) = (SqlName::new(&column.field), declared_type(column.kind));
                tx.execute_batch(&format!("ALTER TABLE {name} ADD COLUMN {field} {declared}"))?;
                column
            }
            Grown::Adopted(column) => column,
            Grown::Widened(column) => match widen(tx, name, SqlName::new(&column.field).as_str(), &column.field)? {
                Ok(()) => column,
                Err(problem) => {
                    shapes.stick(name, &column.field, &problem);
                    continue;
                }
            },
        };
        note_column(tx, name, column)?;
    }
    Ok(Some(shape(tx, name, plan)?))
}

/// Makes a column of integers one of decimals, which is text, and fills it with what was rescued before. Or else what stands
/// in the way: a view or a constraint that has the column, a trigger, which every row would set off.
pub(super) fn widen(
    tx: &Connection,
    name: &SqlName,
    column: &str,
    field: &str,
) -> Result<Result<(), String>, rusqlite::Error> {
    let triggers = "SELECT name FROM main.sqlite_schema WHERE type = 'trigger' AND tbl_name = ?1 COLLATE NOCASE";
    if let Some(trigger) = tx.query_row(triggers, [name.as_str()], |row| row.get::<_, String>(0)).optional()? {
        return Ok(Err(format!("trigger {trigger:?} would run for every row of table {:?}", name.as_str())));
    }
    let sql = "SELECT l.name, m.sql FROM pragma_index_list(?1, 'main') l JOIN main.sqlite_schema m ON m.name = l.name
               WHERE m.sql IS NOT NULL AND EXISTS (SELECT 1 FROM pragma_index_info(l.name, 'main') i WHERE i.name = ?2)";
    let mut statement = tx.prepare(sql)?;
    let indexes = statement.query_map((name.as_str(), column), |row| Ok((row.get(0)?, row.get(1)?)))?;
    let indexes: Vec<(String, String)> = indexes.collect::<Result<_, _>>()?;
    drop(statement);

    tx.execute_batch("SAVEPOINT widen")?;
    let column = quoted(column);
    let widened = indexes
        .iter()
        .try_for_each(|(index, _)| tx.execute_batch(&format!("DROP INDEX main.{}", quoted(index))))
        .and_then(|()| {
            tx.execute_batch(&format!(
                "ALTER TABLE main.{name} ADD COLUMN {WIDE} {declared};
                 UPDATE main.{name} SET {WIDE} = CAST({column} AS TEXT) WHERE {column} IS NOT NULL",
                declared = declared_type(ColumnType::Decimal)
            ))
        })
        .and_then(|()| fill(tx, name, field))
        .and_then(|()| {
            tx.execute_batch(&format!(
                "ALTER TABLE main.{name} DROP COLUMN {column};
                 ALTER TABLE main.{name} RENAME COLUMN {WIDE} TO {column}"
            ))
        })
        .and_then(|()| indexes.iter().try_for_each(|(_, sql)| tx.execute_batch(sql)));
    match widened {
        Ok(()) => tx.execute_batch("RELEASE widen").map(Ok),
        Err(error) => {
            tx.execute_batch("ROLLBACK TO widen; RELEASE widen")?;
            if is_answer(&error) { Ok(Err(error.to_string())) } else { Err(error) }
        }
    }
}

/// While a column gets another type.
const WIDE: &str = "_waybill_wide";

/// Takes numbers out of `_rescued`, spelt as they are. Others stay there until the row comes again or the table is rebuilt.
fn fill(tx: &Connection, name: &SqlName, field: &str) -> rusqlite::Result<()> {
    // Paths have no way to spell it.
    if field.contains('"') {
        return Ok(());
    }
    let sql = format!(
        "UPDATE main.{name} SET {WIDE} = {RESCUED} -> ?1, {RESCUED} = nullif(json_remove({RESCUED}, ?1), '{{}}')
         WHERE {WIDE} IS NULL AND CASE WHEN json_valid({RESCUED}) THEN json_type({RESCUED}, ?1) IN ('integer', 'real') END"
    );
    tx.execute(&sql, [format!("$.\"{field}\"")]).map(drop)
}

/// What the table of a blobType without an entity is called.
pub(super) fn stream_name(blob_type: &str) -> SqlName {
    let prefix = if RESERVED_PREFIXES.iter().any(|kept| folded(blob_type).starts_with(kept)) { "type " } else { "" };
    SqlName::new(&format!("{prefix}{blob_type}"))
}

/// The table of a blobType without an entity, made if it is not there.
pub(super) fn install_stream(tx: &Connection, blob_type: &str) -> Result<(SqlName, Shape), Failure> {
    let name = stream_name(blob_type);
    if tx.prepare_cached("SELECT 1 FROM _waybill_table WHERE blob_type = ?1")?.exists([blob_type])? {
        let shape = shape(tx, &name, None)?;
        return Ok((name, shape));
    }
    let is_taken = !found_columns(tx, &name)?.is_empty()
        || tx.prepare_cached("SELECT 1 FROM _waybill_table WHERE name = ?1")?.exists([name.as_str()])?;
    if is_taken {
        return Err(stream_is_taken(blob_type, &name));
    }
    tx.execute_batch(&format!(
        "CREATE TABLE {name} ({FILE} TEXT NOT NULL, {ROW} INTEGER NOT NULL, {RESCUED} TEXT, PRIMARY KEY ({FILE}, {ROW}))"
    ))?;
    let sql = "INSERT INTO _waybill_table (name, blob_type, rule) VALUES (?1, ?2, 'rows are added')";
    tx.prepare_cached(sql)?.execute((name.as_str(), blob_type))?;
    let shape = shape(tx, &name, None)?;
    Ok((name, shape))
}

fn key_condition(plan: &EntityPlan) -> String {
    let parts = (1..).zip(plan.key()).map(|(at, (field, _))| format!("{} = ?{at}", SqlName::new(field)));
    parts.collect::<Vec<_>>().join(" AND ")
}

/// `?1` and on: the key's parts.
pub(super) fn version_sql(name: &SqlName, plan: &EntityPlan) -> String {
    format!("SELECT {VERSION} FROM {name} WHERE {}", key_condition(plan))
}

/// `?1` and on: the key's parts.
pub(super) fn delete_sql(name: &SqlName, plan: &EntityPlan) -> String {
    format!("DELETE FROM {name} WHERE {}", key_condition(plan))
}

/// `?1` and on: the key's parts, the version, what was rescued, the shape's columns. A newer row stays as it is.
pub(super) fn upsert_sql(name: &SqlName, plan: &EntityPlan, shape: &Shape) -> String {
    let columns = shape.columns.iter().map(|column| SqlName::new(&column.field).to_string());
    let columns: Vec<_> = [VERSION, RESCUED].map(str::to_owned).into_iter().chain(columns).collect();
    let set: Vec<_> = columns.iter().map(|column| format!("{column} = excluded.{column}")).collect();
    let values = vec!["?"; plan.key().count() + columns.len()].join(", ");
    // Whatever the user's constraints say of themselves, one that fails refuses this row and nothing else.
    format!(
        "INSERT OR ABORT INTO {name} AS t ({key}, {columns}) VALUES ({values}) ON CONFLICT ({key}) DO UPDATE SET {set} \
         WHERE t.{VERSION} IS NULL OR t.{VERSION} < excluded.{VERSION}",
        key = key_columns(plan),
        columns = columns.join(", "),
        set = set.join(", "),
    )
}

/// `?1` and on: the file, the row's number, what was rescued, the shape's columns.
pub(super) fn append_sql(name: &SqlName, shape: &Shape) -> String {
    let columns: String = shape.columns.iter().map(|column| format!(", {}", SqlName::new(&column.field))).collect();
    let values = vec!["?"; 3 + shape.columns.len()].join(", ");
    format!("INSERT OR ABORT INTO {name} ({FILE}, {ROW}, {RESCUED}{columns}) VALUES ({values})")
}
