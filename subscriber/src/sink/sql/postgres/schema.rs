//! The tables themselves: made, checked and widened.

use std::{collections::HashMap, fmt::Write as _};

use waybill_contracts::{ColumnType, SchemaMode, SqlName};
use waybill_store::{
    Migration, PostgresTransaction, Schema,
    tokio_postgres::{self, error::SqlState},
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
    encode::declared_type,
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
        Migration { name: "tables that begin at a full export", sql: include_str!("0006_begins.sql") },
    ],
    shared_with_user: true,
};

/// A column as the catalogue has it.
pub(super) struct Found {
    pub(super) name: String,
    /// `int4`, `numeric`.
    kind: String,
    /// `numeric(10,2)`.
    declared: String,
    has_modifier: bool,
    is_generated: bool,
    is_needed: bool,
}

impl Found {
    /// Whether values of the type come out as they went in, or are refused row by row.
    fn keeps(&self, kind: ColumnType) -> bool {
        match kind {
            ColumnType::Integer => matches!(self.kind.as_str(), "int8" | "int4" | "int2"),
            ColumnType::Text => matches!(self.kind.as_str(), "text" | "varchar"),
            ColumnType::Json => matches!(self.kind.as_str(), "json" | "jsonb" | "text"),
            _ => self.is_exactly(kind),
        }
    }

    /// Whether it is what we would have made.
    fn is_exactly(&self, kind: ColumnType) -> bool {
        let made = match kind {
            ColumnType::Integer => "int8",
            ColumnType::Decimal => "numeric",
            ColumnType::Float => "float8",
            ColumnType::Boolean => "bool",
            ColumnType::Text => "text",
            ColumnType::Timestamp => "timestamptz",
            ColumnType::Date => "date",
            ColumnType::Uuid => "uuid",
            ColumnType::Json => "json",
            ColumnType::Binary => "bytea",
        };
        self.kind == made && !self.has_modifier
    }

    /// What a column of the user holds; `None` where values would be changed.
    fn holds(&self) -> Option<ColumnType> {
        let kind = match self.kind.as_str() {
            "int8" | "int4" | "int2" => ColumnType::Integer,
            "numeric" => ColumnType::Decimal,
            "float8" => ColumnType::Float,
            "bool" => ColumnType::Boolean,
            "text" | "varchar" => ColumnType::Text,
            "timestamptz" => ColumnType::Timestamp,
            "date" => ColumnType::Date,
            "uuid" => ColumnType::Uuid,
            "json" | "jsonb" => ColumnType::Json,
            "bytea" => ColumnType::Binary,
            _ => return None,
        };
        self.keeps(kind).then_some(kind)
    }
}

pub(super) async fn found_columns(tx: &PostgresTransaction<'_>, table: &SqlName) -> Result<Vec<Found>, Failure> {
    Ok(columns_with_dropped(tx, table).await?.0)
}

/// The columns, and what those are called now that were dropped and count all the same.
async fn columns_with_dropped(
    tx: &PostgresTransaction<'_>,
    table: &SqlName,
) -> Result<(Vec<Found>, Vec<String>), Failure> {
    let sql = "SELECT a.attname::text, t.typname::text, format_type(a.atttypid, a.atttypmod), a.atttypmod <> -1,
                   a.attgenerated <> '' OR a.attidentity = 'a',
                   a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', a.attisdropped
               FROM pg_attribute a LEFT JOIN pg_type t ON t.oid = a.atttypid
               WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 ORDER BY a.attnum";
    let rows = tx.query(&tx.prepare_cached(sql).await?, &[&table.to_string()]).await?;
    let (dropped, rows): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row.get(6));
    let found = rows.iter().map(|row| Found {
        name: row.get(0),
        kind: row.get(1),
        declared: row.get(2),
        has_modifier: row.get(3),
        is_generated: row.get(4),
        is_needed: row.get(5),
    });
    Ok((found.collect(), dropped.iter().map(|row| row.get(0)).collect()))
}

/// Makes the tables of all entities, or checks those that are there.
pub(super) async fn install(tx: &PostgresTransaction<'_>, plans: &EntityPlans) -> Result<(), Failure> {
    for plan in plans.iter() {
        install_entity(tx, plan).await?;
    }
    Ok(())
}

/// A sink that does not see all rows cannot know which are newer.
pub(super) const ROW_SECURITY_ADVICE: &str = "; the sink has to see and to write every row: ALTER ROLE … BYPASSRLS, or let \
    its role own the table, without FORCE ROW LEVEL SECURITY";

/// PostgreSQL, "System Columns".
const SYSTEM_COLUMNS: [&str; 6] = ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"];

async fn install_entity(tx: &PostgresTransaction<'_>, plan: &EntityPlan) -> Result<(), Failure> {
    let name = SqlName::new(plan.table());
    register(tx, plan, &name).await?;
    let found = found_columns(tx, &name).await?;
    if !found.is_empty() {
        return check(tx, plan, &name, &found).await;
    }
    let mut columns = plan.key().map(|(field, part)| (field, part.column_type(), true)).collect::<Vec<_>>();
    columns.extend(plan.columns().iter().map(|column| (column.field.as_str(), column.kind, false)));
    if let Some((field, ..)) = columns.iter().find(|(field, ..)| SYSTEM_COLUMNS.contains(field)) {
        return Err(refused(format!(
            "entity {:?}: PostgreSQL has a column {field:?} of its own in every table; leave it out of the entity's columns \
             (its values are kept in _rescued then), or have the publisher name the field otherwise",
            plan.name()
        )));
    }
    let mut sql = format!("CREATE TABLE {name} (");
    for (field, kind, is_key) in columns {
        // Keys are told apart byte by byte, whatever the database's collation.
        let rest = match (is_key, kind) {
            (true, ColumnType::Text) => " COLLATE \"C\" NOT NULL",
            (true, _) => " NOT NULL",
            (false, _) => "",
        };
        write!(sql, "{} {}{rest}, ", SqlName::new(field), declared_type(kind)).expect(TO_STRING);
    }
    write!(sql, "{VERSION} bytea NOT NULL, {RESCUED} json, PRIMARY KEY ({}))", key_columns(plan)).expect(TO_STRING);
    tx.batch_execute(&sql).await.map_err(|error| too_many_columns(plan, &name, error))?;
    for column in plan.columns() {
        note_column(tx, &name, column).await?;
    }
    Ok(())
}

/// A table has no room for the columns that are declared: that is no outage.
fn too_many_columns(plan: &EntityPlan, name: &SqlName, error: tokio_postgres::Error) -> Failure {
    if error.code() != Some(&SqlState::TOO_MANY_COLUMNS) {
        return error.into();
    }
    let entity = plan.name();
    refused(format!(
        "entity {entity:?}: table {name} would have more columns than PostgreSQL allows, which is 1,600 and counts those that were \
         dropped; declare fewer columns (fields without one are kept in _rescued), or, if columns of it were dropped and the sink \
         made the table, let `waybill-subscriber rebuild --type {entity}` make it anew"
    ))
}

/// What is known of the table, and of the entity under another table's name.
pub(super) async fn registered(
    tx: &PostgresTransaction<'_>,
    plan: &EntityPlan,
    name: &SqlName,
) -> Result<Vec<Registered>, Failure> {
    let sql = "SELECT name, entity, blob_type, rule, filter, begins IS NOT NULL FROM _waybill_table
               WHERE name = $1 OR entity = $2";
    let rows = tx.query(sql, &[&name.as_str(), &plan.name()]).await?;
    let of_row = rows.iter().map(|row| Registered {
        table: row.get(0),
        entity: row.get(1),
        blob_type: row.get(2),
        rule: row.get(3),
        filter: row.get(4),
        is_begun: row.get(5),
    });
    Ok(of_row.collect())
}

/// Refuses a table that is somebody else's, or was filled under another rule.
async fn register(tx: &PostgresTransaction<'_>, plan: &EntityPlan, name: &SqlName) -> Result<(), Failure> {
    let mut is_known = false;
    for registered in registered(tx, plan, name).await? {
        registered.admit(plan, name, |table, wanted| table == wanted)?;
        is_known = true;
    }
    if !is_known {
        let sql = "INSERT INTO _waybill_table (name, entity, rule, filter) VALUES ($1, $2, $3, $4)";
        let filter = plan.filter_signature();
        tx.execute(sql, &[&name.as_str(), &plan.name(), &plan.order(), &filter]).await?;
    }
    Ok(())
}

/// A table that is there: whether rows can go into it unchanged, and what it lacks.
pub(super) async fn check(
    tx: &PostgresTransaction<'_>,
    plan: &EntityPlan,
    name: &SqlName,
    found: &[Found],
) -> Result<(), Failure> {
    let entity = plan.name();
    let relation: i8 =
        tx.query_one("SELECT relkind FROM pg_class WHERE oid = to_regclass($1)", &[&name.to_string()]).await?.get(0);
    if !matches!(relation.cast_unsigned(), b'r' | b'p') {
        return Err(refused(format!(
            "entity {entity:?}: {name} is no table (a view or foreign table); give the entity another `table`"
        )));
    }
    if tx.query_one("SELECT row_security_active(to_regclass($1))", &[&name.to_string()]).await?.get(0) {
        return Err(refused(format!(
            "entity {entity:?}: row-level security of table {name} hides rows from this role{ROW_SECURITY_ADVICE}"
        )));
    }
    let place = |field: &str| {
        let column = SqlName::new(field);
        found.iter().find(|found| found.name == column.as_str())
    };
    for (field, kind) in [(VERSION, ColumnType::Binary), (RESCUED, ColumnType::Json)] {
        if place(field).is_none_or(|found| !found.keeps(kind)) {
            return Err(lacks_own_column(plan, name, field, declared_type(kind)));
        }
    }
    let fit = |field: &str, kind: ColumnType, found: &Found| {
        if found.is_generated {
            return Err(refused(format!(
                "entity {entity:?}: column {field:?} of table {name} is generated by the database, so no value can be put \
                 into it; drop the expression (ALTER TABLE {name} ALTER COLUMN {} DROP EXPRESSION), or give the entity \
                 another `table`",
                quoted(&found.name)
            )));
        }
        if found.keeps(kind) {
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
        match place(field) {
            Some(found) => fit(field, part.column_type(), found)?,
            None => return Err(lacks_key(plan, name)),
        }
    }
    if !has_key(tx, plan, name).await? {
        return Err(lacks_key(plan, name));
    }
    if let Some(by) = key_collation(tx, plan, name).await? {
        return Err(collates_key(plan, name, &by, |column| {
            let declared = found.iter().find(|found| found.name == column).map_or("text", |found| &found.declared);
            format!("ALTER TABLE {name} ALTER COLUMN {} TYPE {declared} COLLATE \"C\"", quoted(column))
        }));
    }
    for column in plan.columns() {
        match place(&column.field) {
            Some(found) => fit(&column.field, column.kind, found)?,
            None => add_column(tx, plan, name, column).await?,
        }
        note_column(tx, name, column).await?;
    }
    let (shape, _) = shape(tx, name, Some(plan)).await?;
    let brings = |found: &&Found| shape.columns.iter().any(|column| SqlName::new(&column.field).as_str() == found.name);
    let ours = |found: &&Found| {
        [VERSION, RESCUED].contains(&found.name.as_str())
            || plan.key().any(|(field, _)| SqlName::new(field).as_str() == found.name)
    };
    match found.iter().find(|found| found.is_needed && !found.is_generated && !brings(found) && !ours(found)) {
        Some(needed) => Err(needs_column(plan, name, &needed.name)),
        None => Ok(()),
    }
}

/// The unique indexes `i` on the key's columns and no others: of the table `$1`, and `$2` has the names in their order.
const KEY_INDEXES: &str = "pg_index i WHERE i.indrelid = to_regclass($1) AND i.indisunique AND i.indisvalid
    AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
    AND (SELECT array_agg(a.attname::text ORDER BY a.attname::text COLLATE \"C\") FROM pg_attribute a
         WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])) = $2::text[]";

fn key_names(plan: &EntityPlan) -> Vec<String> {
    let mut names: Vec<String> = plan.key().map(|(field, _)| SqlName::new(field).as_str().to_owned()).collect();
    names.sort_unstable();
    names
}

/// Whether the key's columns, and no others, are the primary key or unique.
async fn has_key(tx: &PostgresTransaction<'_>, plan: &EntityPlan, name: &SqlName) -> Result<bool, Failure> {
    let sql = format!("SELECT EXISTS (SELECT 1 FROM {KEY_INDEXES})");
    Ok(tx.query_one(&sql, &[&name.to_string(), &key_names(plan)]).await?.get(0))
}

/// Which of the key's columns compares text otherwise than by its bytes, when a row is looked for (the column does) or when one
/// is written (an index does: each of them is one for the conflict).
async fn key_collation(
    tx: &PostgresTransaction<'_>,
    plan: &EntityPlan,
    name: &SqlName,
) -> Result<Option<Collating>, Failure> {
    let sql = format!(
        "SELECT a.attname::text, NULL, c.collname::text FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation
         WHERE a.attrelid = to_regclass($1) AND a.attname = ANY ($3::text[]) AND NOT c.collisdeterministic
         UNION ALL
         SELECT a.attname::text, x.relname::text, c.collname::text
         FROM (SELECT i.* FROM {KEY_INDEXES}) i
         JOIN pg_class x ON x.oid = i.indexrelid
         CROSS JOIN unnest(i.indkey::int2[], i.indcollation::oid[]) AS part (attribute, collated)
         JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = part.attribute
         JOIN pg_collation c ON c.oid = part.collated
         WHERE a.attname = ANY ($3::text[]) AND NOT c.collisdeterministic
         ORDER BY 2 NULLS FIRST, 1 LIMIT 1"
    );
    let found = tx.query_opt(&sql, &[&name.to_string(), &key_names(plan), &text_key_columns(plan)]).await?;
    Ok(found.map(|row| Collating { column: row.get(0), index: row.get(1), collation: row.get(2) }))
}

async fn add_column(
    tx: &PostgresTransaction<'_>,
    plan: &EntityPlan,
    name: &SqlName,
    column: &ShapeColumn,
) -> Result<(), Failure> {
    let sql = format!("ALTER TABLE {name} ADD COLUMN {} {}", SqlName::new(&column.field), declared_type(column.kind));
    let noted = "SELECT EXISTS (SELECT 1 FROM _waybill_column WHERE table_name = $1)";
    if plan.mode() == SchemaMode::Freeze && !tx.query_one(noted, &[&name.as_str()]).await?.get::<_, bool>(0) {
        return Err(lacks_frozen_column(plan, name, column, &sql));
    }
    tx.batch_execute(&sql).await.map_err(|error| too_many_columns(plan, name, error))
}

async fn note_column(tx: &PostgresTransaction<'_>, name: &SqlName, column: &ShapeColumn) -> Result<(), Failure> {
    let sql = "INSERT INTO _waybill_column (table_name, field, name, type, is_inferred) VALUES ($1, $2, $3, $4, $5)
               ON CONFLICT (table_name, field)
               DO UPDATE SET name = excluded.name, type = excluded.type, is_inferred = excluded.is_inferred";
    let (sql_name, kind) = (SqlName::new(&column.field), column.kind.to_string());
    tx.execute(sql, &[&name.as_str(), &column.field, &sql_name.as_str(), &kind, &column.is_inferred]).await?;
    Ok(())
}

/// The columns of a table as it is now, and whether each of them, the key's too, is of the type that we would have made:
/// only then does it take tuples as they are encoded.
pub(super) async fn shape(
    tx: &PostgresTransaction<'_>,
    name: &SqlName,
    plan: Option<&EntityPlan>,
) -> Result<(Shape, bool), Failure> {
    let (found, dropped) = columns_with_dropped(tx, name).await?;
    let mut shape = Shape {
        key: plan.into_iter().flat_map(EntityPlan::key).map(|(field, _)| field.to_owned()).collect(),
        taken: found.iter().map(|found| folded(&found.name)).chain(dropped).collect(),
        ..Shape::default()
    };
    let mut noted = HashMap::new();
    let sql = "SELECT name, field, type, is_inferred FROM _waybill_column WHERE table_name = $1";
    for row in tx.query(&tx.prepare_cached(sql).await?, &[&name.as_str()]).await? {
        if let Some(kind) = type_from_name(row.get(2)) {
            noted.insert(row.get::<_, String>(0), ShapeColumn { field: row.get(1), kind, is_inferred: row.get(3) });
        }
    }
    let mut is_exact = true;
    let key: HashMap<_, _> = plan
        .into_iter()
        .flat_map(EntityPlan::key)
        .map(|(field, part)| (SqlName::new(field).as_str().to_owned(), part.column_type()))
        .collect();
    for found in found {
        if let Some(kind) = key.get(&found.name) {
            is_exact &= found.is_exactly(*kind);
        } else if found.name == VERSION {
            is_exact &= found.is_exactly(ColumnType::Binary);
        } else if found.name == RESCUED {
            is_exact &= found.is_exactly(ColumnType::Json);
        } else if !found.is_generated && ![FILE, ROW].contains(&found.name.as_str()) {
            match noted.remove(&found.name) {
                Some(column) => {
                    is_exact &= found.is_exactly(column.kind);
                    shape.columns.push(column);
                }
                None => shape.free.extend(found.holds().map(|kind| (found.name, kind))),
            }
        }
    }
    Ok((shape, is_exact))
}

/// Whether it is an ordinary table without triggers and rules: then an upsert can tell which of its rows were new.
pub(super) async fn is_plain(tx: &PostgresTransaction<'_>, name: &SqlName) -> Result<bool, Failure> {
    let sql =
        "SELECT relkind = 'r' AND NOT relhastriggers AND NOT relhasrules FROM pg_class WHERE oid = to_regclass($1)";
    let found = tx.query_opt(&tx.prepare_cached(sql).await?, &[&name.to_string()]).await?;
    Ok(found.is_some_and(|row| row.get(0)))
}

/// Gives new fields their columns, and columns the type that holds their fields; whether there was anything to do.
pub(super) async fn grow(
    tx: &mut PostgresTransaction<'_>,
    name: &SqlName,
    plan: Option<&EntityPlan>,
    (known, shapes): (&Shape, &Shapes),
    fields: &NewFields,
) -> Result<bool, Failure> {
    let mode = plan.map_or(SchemaMode::Evolve, EntityPlan::mode);
    let grown = known.grow(fields, mode, |field| SqlName::new(field).as_str().to_owned());
    let mut grown = shapes.without_stuck(name, grown);
    // No name of PostgreSQL has a U+0000; such a field is rescued.
    grown.retain(|grown| match grown {
        Grown::Added(column) | Grown::Adopted(column) | Grown::Widened(column) => !column.field.contains('\0'),
    });
    for grown in &grown {
        let column = match grown {
            Grown::Added(column) => {
                let (field, declared) = (SqlName::new(&column.field), declared_type(column.kind));
                tx.batch_execute(&format!("ALTER TABLE {name} ADD COLUMN {field} {declared}")).await?;
                column
            }
            Grown::Adopted(column) => column,
            Grown::Widened(column) => match widen(tx, name, column).await? {
                Ok(()) => column,
                Err(problem) => {
                    shapes.stick(name, &column.field, &problem);
                    continue;
                }
            },
        };
        note_column(tx, name, column).await?;
    }
    Ok(!grown.is_empty())
}

/// Makes a column of integers one of decimals, and fills it with what was rescued before. Or else what the database says: a
/// view, a policy or a constraint may stand on the column, and the table may be somebody else's.
async fn widen(
    tx: &mut PostgresTransaction<'_>,
    name: &SqlName,
    column: &ShapeColumn,
) -> Result<Result<(), String>, Failure> {
    let inner = tx.savepoint("widen").await?;
    let widened = inner.batch_execute(&widen_sql(&name.to_string(), &SqlName::new(&column.field).to_string())).await;
    if let Err(error) = widened {
        inner.rollback().await?;
        return if is_answer(&error) { Ok(Err(told(&error))) } else { Err(error.into()) };
    }
    inner.commit().await?;
    fill(tx, name, column).await?;
    Ok(Ok(()))
}

/// Numbers stay what they are.
pub(super) fn widen_sql(table: &str, column: &str) -> String {
    format!("ALTER TABLE {table} ALTER COLUMN {column} TYPE {}", declared_type(ColumnType::Decimal))
}

/// Takes numbers out of `_rescued` for which there is room now. Others, and all where the table refuses one of them, stay
/// there until the row comes again or the table is rebuilt.
async fn fill(tx: &mut PostgresTransaction<'_>, name: &SqlName, column: &ShapeColumn) -> Result<(), Failure> {
    let inner = tx.savepoint("fill").await?;
    // Spelt as they are. A text with U+0000, which cannot be read here, is left alone.
    let sql = format!(
        r#"UPDATE {name} SET {column} = ({RESCUED} ->> $1)::numeric, {RESCUED} = (
               SELECT ('{{' || string_agg(to_json(key)::text || ':' || value::text, ',') || '}}')::json
               FROM json_each({RESCUED}) WHERE key <> $1)
           WHERE {RESCUED} IS NOT NULL AND {column} IS NULL AND CASE WHEN strpos({RESCUED}::text, '\u0000') > 0 THEN false
               ELSE json_typeof({RESCUED} -> $1) = 'number' AND length({RESCUED} ->> $1) < 1000
                   AND {RESCUED} ->> $1 ~ '^-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{{1,3}})?$' END"#,
        column = SqlName::new(&column.field)
    );
    match inner.execute(&sql, &[&column.field]).await {
        Ok(_) => inner.commit().await?,
        Err(error) if is_answer(&error) => {
            inner.rollback().await?;
            let problem = told(&error);
            tracing::warn!(
                table = name.as_str(),
                field = column.field,
                problem,
                "what was rescued before stays in _rescued"
            );
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// What the server says, with what it says beside.
fn told(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(error) => match error.detail() {
            Some(detail) => format!("{} ({})", error.message(), detail.replace('\n', "; ")),
            None => error.message().to_owned(),
        },
        None => error.to_string(),
    }
}

/// What the table of a blobType without an entity is called.
pub(super) fn stream_name(blob_type: &str) -> SqlName {
    let prefix = if ["_waybill", "pg_"].iter().any(|kept| folded(blob_type).starts_with(kept)) { "type " } else { "" };
    SqlName::new(&format!("{prefix}{blob_type}"))
}

/// The table of a blobType without an entity, made if it is not there.
pub(super) async fn install_stream(tx: &PostgresTransaction<'_>, blob_type: &str) -> Result<SqlName, Failure> {
    if blob_type.contains('\0') {
        return Err(refused(format!(
            "type {blob_type:?} has no entity, and its name cannot be that of a table; define an entity for the type"
        )));
    }
    let name = stream_name(blob_type);
    let known = "SELECT 1 FROM _waybill_table WHERE blob_type = $1";
    if tx.query_opt(known, &[&blob_type]).await?.is_some() {
        return Ok(name);
    }
    // Two files of a new type may come at once.
    tx.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", &[&name.as_str()]).await?;
    if tx.query_opt(known, &[&blob_type]).await?.is_some() {
        return Ok(name);
    }
    let is_taken = !found_columns(tx, &name).await?.is_empty()
        || tx.query_opt("SELECT 1 FROM _waybill_table WHERE name = $1", &[&name.as_str()]).await?.is_some();
    if is_taken {
        return Err(stream_is_taken(blob_type, &name));
    }
    tx.batch_execute(&format!(
        "CREATE TABLE {name} ({FILE} text COLLATE \"C\" NOT NULL, {ROW} bigint NOT NULL, {RESCUED} json,
             PRIMARY KEY ({FILE}, {ROW}))"
    ))
    .await?;
    let sql = "INSERT INTO _waybill_table (name, blob_type, rule) VALUES ($1, $2, 'rows are added')";
    tx.execute(sql, &[&name.as_str(), &blob_type]).await?;
    Ok(name)
}

/// Names of all columns that a tuple of this shape fills, in its order, with the types that it is encoded in.
pub(super) fn tuple_columns(plan: Option<&EntityPlan>, shape: &Shape) -> Vec<(String, &'static str)> {
    let mut columns: Vec<(String, &'static str)> = match plan {
        Some(plan) => {
            let key =
                plan.key().map(|(field, part)| (SqlName::new(field).to_string(), declared_type(part.column_type())));
            key.chain([(VERSION.to_owned(), "bytea")]).collect()
        }
        None => vec![(FILE.to_owned(), "text"), (ROW.to_owned(), "bigint")],
    };
    columns.push((RESCUED.to_owned(), "json"));
    let others =
        shape.columns.iter().map(|column| (SqlName::new(&column.field).to_string(), declared_type(column.kind)));
    columns.extend(others);
    columns
}
