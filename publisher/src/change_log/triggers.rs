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
        Ok(self)
    }
}

/// The statements for PostgreSQL 13 and later; `log` is the schema of the log.
pub(super) fn postgres(table: &Table, log: &str, blob_type: &BlobType) -> String {
    let (log, blob_type) = (name(log), blob_type.as_str());
    let called = format!("{} to {blob_type}", table.name);
    let function = format!("{log}.{}", name(SqlName::new(&called).as_str()));
    let place = table.place();
    let of =
        |row: &str| table.key.iter().map(|column| format!("{row}.{}", name(column))).collect::<Vec<_>>().join(", ");
    let (old, new) = (of("OLD"), of("NEW"));
    format!(
        "-- Changes of {place} are logged as {blob_type}, by whoever may write it.

CREATE OR REPLACE FUNCTION {function}() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $waybill$
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        RAISE EXCEPTION '%.% is published, and TRUNCATE does not tell which rows are gone', TG_TABLE_SCHEMA, TG_TABLE_NAME
            USING HINT = 'Use DELETE instead.';
    END IF;
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND ROW({old}) IS DISTINCT FROM ROW({new})) THEN
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
DROP TRIGGER IF EXISTS waybill_changed ON {place};
DROP TRIGGER IF EXISTS waybill_truncated ON {place};
CREATE TRIGGER waybill_changed AFTER INSERT OR UPDATE OR DELETE ON {place}
    FOR EACH ROW EXECUTE FUNCTION {function}();
CREATE TRIGGER waybill_truncated BEFORE TRUNCATE ON {place}
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
    let (old, new) = (of("OLD").join(", "), of("NEW").join(", "));
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
    WHERE ({old}) IS NOT ({new});
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
            let value = format!("{row}.{}", name(column));
            let field = serde_json::to_string(column).unwrap_or_default().replace('\'', "''");
            format!("'{field}:' || json_quote(iif(typeof({value}) = 'blob', lower(hex({value})), {value}))")
        })
        .collect();
    format!("'{{' || {} || '}}'", fields.join(" || ',' || "))
}

fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
