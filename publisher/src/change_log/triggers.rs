//! Tables of the service: triggers that log the changes of one, for a service that nobody can change, and all rows of one, as the
//! triggers log them.
//!
//! A key that changes is a deletion and an upsert. Existing rows are logged once under a lock that keeps writers away, so that no
//! older state of a row gets a higher id than a newer one.

use waybill_contracts::{BlobType, SqlName};

use super::LogError;

/// A table and its key, as the database knows them.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// `None` in SQLite.
    pub(super) schema: Option<String>,
    pub(super) name: String,
    pub(super) columns: Vec<String>,
    pub(super) key: Vec<String>,
    /// What keeps rows apart; empty in SQLite, where nothing of the kind waits for the end of a transaction.
    pub(super) unique: Vec<Unique>,
}

/// Columns of which no two rows have the same values.
#[derive(Debug, Clone)]
pub(super) struct Unique {
    /// Of the constraint or the index.
    pub(super) name: String,
    pub(super) columns: Vec<String>,
    pub(super) is_primary: bool,
    /// At any moment, or (`DEFERRABLE`) only at the end of a statement or transaction.
    pub(super) always: bool,
}

impl Table {
    /// Its name in a statement.
    fn place(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", name(schema), name(&self.name)),
            None => name(&self.name),
        }
    }

    /// The key that the caller names, or else the table's own; every column of it has to be there.
    pub(super) fn keyed(mut self, key: &[String]) -> Result<Self, LogError> {
        let refused = |problem: String| LogError::Table { table: self.name.clone(), problem };
        if let Some(unknown) = key.iter().find(|column| !self.columns.contains(column)) {
            return Err(refused(format!("it has no column {unknown:?}; it has {}", self.columns.join(", "))));
        }
        if !key.is_empty() {
            self.key = key.to_vec();
        } else if self.key.is_empty() {
            return Err(refused(
                "it has no primary key; name the columns that tell its rows apart with --key".to_owned(),
            ));
        }
        // Where one row takes the key that another one still has, and that one is deleted or gets another key then, its deletion is
        // logged after the row that has the key by now: the row would be lost.
        let keeps = |of: &Unique| of.columns.iter().all(|column| self.key.contains(column));
        let late = self.unique.iter().find(|of| !of.always && keeps(of));
        if let Some(late) = late.filter(|_| !self.unique.iter().any(|of| of.always && keeps(of))) {
            let kind = if late.is_primary { "PRIMARY KEY" } else { "UNIQUE" };
            let columns = late.columns.iter().map(|column| name(column)).collect::<Vec<_>>().join(", ");
            return Err(refused(format!(
                "its key ({columns}) may stand in two rows until the end of a transaction, because constraint {} is DEFERRABLE; then a \
                 key's deletion may be logged after the row that has it, which subscribers would lose. Name with --key the columns \
                 of a key that is not deferrable, or make this one so: ALTER TABLE {} DROP CONSTRAINT {}, ADD {kind} ({columns})",
                late.name,
                self.place(),
                name(&late.name),
            )));
        }
        Ok(self)
    }
}

/// The statements for PostgreSQL 13 and later; `log` is the schema of the log.
pub(super) fn postgres(table: &Table, log: &str, blob_type: &BlobType) -> String {
    let (logs, in_schema) = (text(&logs_as(blob_type)), text(log));
    let (log, blob_type) = (name(log), blob_type.as_str());
    // Tables of two schemas may have one name, and a table may have several types.
    let called =
        format!("{}.{} to {blob_type}", plain(table.schema.as_deref().unwrap_or_default()), plain(&table.name));
    let function = format!("{log}.{}", SqlName::new(&called));
    let trigger = |event: &str| SqlName::new(&format!("waybill {event} {blob_type}"));
    let (changed, truncated) = (trigger("changed"), trigger("truncated"));
    let place = table.place();
    let (table_text, function_text) = (text(&place), text(&function));
    let of =
        |row: &str| table.key.iter().map(|column| format!("{row}.{}", name(column))).collect::<Vec<_>>().join(", ");
    let (old, new) = (of("OLD"), of("NEW"));
    // As they are logged, byte for byte: a column's own equality may take two keys for one that subscribers tell apart.
    let as_logged = |row: &str| {
        let texts = table.key.iter().map(|column| format!("to_json({row}.{})::text COLLATE \"C\"", name(column)));
        texts.collect::<Vec<_>>().join(", ")
    };
    let (old_text, new_text) = (as_logged("OLD"), as_logged("NEW"));
    format!(
        "-- Changes of {place} are logged as {blob_type}, by whoever may write it.

CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $waybill$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        RAISE EXCEPTION '%.% is published, and TRUNCATE does not tell which rows are gone', TG_TABLE_SCHEMA, TG_TABLE_NAME
            USING HINT = 'Use DELETE instead.';
    END IF;
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND ROW({old_text}) IS DISTINCT FROM ROW({new_text})) THEN
        INSERT INTO {log}.change_log (blob_type, op, row, key)
        VALUES ('{blob_type}', 'delete', row_to_json(OLD), concat_ws(',', {old}));
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO {log}.change_log (blob_type, op, row, key)
        VALUES ('{blob_type}', 'upsert', row_to_json(NEW), concat_ws(',', {new}));
    END IF;
    RETURN NULL;
END $waybill$;

BEGIN;
LOCK TABLE {place} IN SHARE ROW EXCLUSIVE MODE;
-- Triggers of the table that log this type already, whatever they are called; those of its other types stay.
DO $waybill$
DECLARE
    known record;
BEGIN
    FOR known IN SELECT tgname, tgfoid, proowner FROM pg_trigger
            JOIN pg_proc p ON p.oid = tgfoid JOIN pg_namespace n ON n.oid = pronamespace
        WHERE tgrelid = {table_text}::regclass AND NOT tgisinternal AND tgparentid = 0 AND nspname = {in_schema}
            AND position({logs} IN prosrc) > 0
    LOOP
        EXECUTE format('DROP TRIGGER %I ON %s', known.tgname, {table_text});
        -- Under the name that an earlier version gave it, and nobody else uses it.
        IF known.tgfoid <> {function_text}::regproc AND pg_has_role(known.proowner, 'USAGE')
            AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgfoid = known.tgfoid)
        THEN
            EXECUTE format('DROP FUNCTION %s', known.tgfoid::regprocedure);
        END IF;
    END LOOP;
END $waybill$;
CREATE TRIGGER {changed} AFTER INSERT OR UPDATE OR DELETE ON {place}
    FOR EACH ROW EXECUTE FUNCTION {function}();
CREATE TRIGGER {truncated} BEFORE TRUNCATE ON {place}
    FOR EACH STATEMENT EXECUTE FUNCTION {function}();
-- What is there already; leave it out if subscribers have it.
INSERT INTO {log}.change_log (blob_type, row) SELECT '{blob_type}', row_to_json(there) FROM {place} AS there;
COMMIT;
"
    )
}

/// The statements for SQLite.
pub(super) fn sqlite(table: &Table, blob_type: &BlobType) -> String {
    let (place, blob_type) = (table.place(), blob_type.as_str());
    let trigger = |event: &str| name(&format!("waybill {} to {blob_type} {event}", table.name));
    let (inserted, updated, deleted) = (trigger("inserted"), trigger("updated"), trigger("deleted"));
    let of = |row: &str| table.key.iter().map(|column| format!("{row}.{}", name(column))).collect::<Vec<_>>();
    let key = |row: &str| {
        of(row).iter().map(|column| format!("coalesce({column}, '')")).collect::<Vec<_>>().join(" || ',' || ")
    };
    // As they are logged: a column's own collation may take two keys for one that subscribers tell apart.
    let is_another = |column: &String| format!("{} IS NOT {}", value("OLD", column), value("NEW", column));
    let is_another = table.key.iter().map(is_another).collect::<Vec<_>>().join(" OR ");
    let (old_row, new_row, row) =
        (object("OLD", &table.columns), object("NEW", &table.columns), object("there", &table.columns));
    let (old_key, new_key) = (key("OLD"), key("NEW"));
    let insert = "INSERT INTO waybill_change_log (blob_type, op, row, key)";
    format!(
        "-- Changes of {place} are logged as {blob_type}, by whoever writes it. INSERT OR REPLACE deletes rows of other keys
-- without a trigger, unless the connection says PRAGMA recursive_triggers = ON.

BEGIN IMMEDIATE;
DROP TRIGGER IF EXISTS {inserted};
DROP TRIGGER IF EXISTS {updated};
DROP TRIGGER IF EXISTS {deleted};

CREATE TRIGGER {inserted} AFTER INSERT ON {place} BEGIN
    {insert}
    VALUES ('{blob_type}', 'upsert', {new_row}, {new_key});
END;

CREATE TRIGGER {updated} AFTER UPDATE ON {place} BEGIN
    {insert}
    SELECT '{blob_type}', 'delete', {old_row}, {old_key}
    WHERE {is_another};
    {insert}
    VALUES ('{blob_type}', 'upsert', {new_row}, {new_key});
END;

CREATE TRIGGER {deleted} AFTER DELETE ON {place} BEGIN
    {insert}
    VALUES ('{blob_type}', 'delete', {old_row}, {old_key});
END;

-- What is there already; leave it out if subscribers have it.
INSERT INTO waybill_change_log (blob_type, row)
SELECT '{blob_type}', {row} FROM {place} AS there;
COMMIT;
"
    )
}

/// The statement that gives all rows, as the triggers log them.
pub(super) fn rows_in_postgres(table: &Table) -> String {
    format!("SELECT row_to_json(there)::text FROM {} AS there", table.place())
}

/// As [`rows_in_postgres`].
pub(super) fn rows_in_sqlite(table: &Table) -> String {
    format!("SELECT {} FROM {} AS there", object("there", &table.columns), table.place())
}

/// What a trigger of ours has in its text that logs this type, and no other has.
pub(super) fn logs_as(blob_type: &BlobType) -> String {
    format!("'{}', 'upsert'", blob_type.as_str())
}

/// A row as JSON, put together as text: `json_object` takes 127 arguments at most. Bytes become hex.
fn object(row: &str, columns: &[String]) -> String {
    let fields: Vec<String> = columns
        .iter()
        .map(|column| {
            let field = serde_json::to_string(column).unwrap_or_default().replace('\'', "''");
            format!("'{field}:' || {}", value(row, column))
        })
        .collect();
    format!("'{{' || {} || '}}'", fields.join(" || ',' || "))
}

/// A column of a row as the JSON that is logged.
fn value(row: &str, column: &str) -> String {
    let value = format!("{row}.{}", name(column));
    format!("json_quote(iif(typeof({value}) = 'blob', lower(hex({value})), {value}))")
}

/// A name within another one: quoted where it holds what could end it there.
fn plain(part: &str) -> String {
    let is_plain = !part.is_empty() && part.chars().all(|letter| letter.is_alphanumeric() || letter == '_');
    if is_plain { part.to_owned() } else { name(part) }
}

/// A literal for PostgreSQL.
fn text(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    // With E, a backslash is one whatever `standard_conforming_strings` says.
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
