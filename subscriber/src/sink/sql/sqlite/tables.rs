//! The statements of the algorithm, each prepared once.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use waybill_contracts::{Reason, SqlName};
use waybill_store::rusqlite::{
    self, CachedStatement, Connection, ErrorCode, ToSql, Transaction,
    types::{ToSqlOutput, ValueRef},
};

use super::{
    super::{
        Failure,
        catalogue::{FOREIGN_KEY_ADVICE, is_before, read_begin, same_definition},
        foreign_publisher,
        planned::Shapes,
        tables::{
            BAD_BYTES_MAX, Current, Origin, Parked, Parking, Put, TableId, Tables, Written, read_without, stored,
            write_without,
        },
        waiting::Patience,
    },
    Inner, schema,
};
use crate::{
    apply::{Begin, EntityPlan, EntityPlans, KeyPart, NewFields, ReadRow, Shape, Value},
    sink::EntityBatch,
};

/// The tables that one transaction works on.
pub(super) struct SqliteTables<'tx> {
    tx: &'tx Connection,
    plans: &'tx EntityPlans,
    shapes: &'tx Shapes,
    /// For what is stored with a time.
    now: &'tx str,
    open: Vec<Table<'tx>>,
    places: HashMap<&'tx str, TableId>,
    statements: Statements<'tx>,
    /// A parent that whoever is let go goes without: its entity and key.
    pub(super) without: Option<(String, String)>,
    /// Columns to which values came that do not fit.
    misfits: HashSet<(TableId, usize)>,
}

struct Table<'tx> {
    /// `None`: a table to which rows are only added.
    plan: Option<&'tx EntityPlan>,
    name: SqlName,
    shape: Option<Arc<Shape>>,
    version: Option<CachedStatement<'tx>>,
    write: Option<CachedStatement<'tx>>,
    /// Whether SQLite tells a row that was inserted from one that was updated.
    tells_inserts: Option<bool>,
    has_tombstones: bool,
    has_parked: bool,
    /// The full export at which it begins.
    begin: Option<Begin>,
}

/// Statements on our own tables, prepared when first needed.
#[derive(Default)]
struct Statements<'tx> {
    tombstone: Option<CachedStatement<'tx>>,
    bury: Option<CachedStatement<'tx>>,
    unbury: Option<CachedStatement<'tx>>,
    park: Option<CachedStatement<'tx>>,
    forget_parked: Option<CachedStatement<'tx>>,
    unpark: Option<CachedStatement<'tx>>,
    wait_for: Option<CachedStatement<'tx>>,
    is_waited_for: Option<CachedStatement<'tx>>,
}

impl<'tx> SqliteTables<'tx> {
    pub(super) fn new(tx: &'tx Transaction<'_>, Inner { plans, shapes, .. }: &'tx Inner, now: &'tx str) -> Self {
        let (open, places, statements) = (Vec::new(), HashMap::new(), Statements::default());
        Self { tx, plans, shapes, now, open, places, statements, without: None, misfits: HashSet::new() }
    }

    /// Opens a table to which rows are only added.
    pub(super) fn open_stream(&mut self, name: SqlName, shape: Arc<Shape>) -> TableId {
        self.push(Table { shape: Some(shape), ..Table::new(None, name) })
    }

    fn push(&mut self, table: Table<'tx>) -> TableId {
        self.open.push(table);
        TableId(self.open.len() - 1)
    }

    /// Gives new fields their columns, and columns the type that holds their fields.
    pub(super) fn grow(&mut self, id: TableId, fields: &NewFields) -> Result<(), Failure> {
        let shape = self.shape(id)?;
        let Table { plan, name, .. } = &self.open[id.0];
        if let Some(grown) = schema::grow(self.tx, name, *plan, (&shape, self.shapes), fields)? {
            self.open[id.0].shape = Some(Arc::new(grown));
        }
        Ok(())
    }

    /// Refuses a second publisher of an entity whose rows only their place in the sequence orders.
    pub(super) fn admit_publisher(&mut self, id: TableId, publisher: &str) -> Result<(), Failure> {
        let Table { plan: Some(plan), name, .. } = &self.open[id.0] else { return Ok(()) };
        let mut statement = self.tx.prepare_cached("SELECT publisher FROM _waybill_table WHERE name = ?1")?;
        let known: Option<String> = statement.query_row([name.as_str()], |row| row.get(0))?;
        match known {
            Some(known) if known == publisher => Ok(()),
            Some(known) => Err(foreign_publisher(plan, &known, publisher)),
            None => {
                let sql = "UPDATE _waybill_table SET publisher = ?2 WHERE name = ?1";
                self.tx.prepare_cached(sql)?.execute((name.as_str(), publisher))?;
                Ok(())
            }
        }
    }

    /// Whether a file is before the full export at which the table begins.
    pub(super) fn is_before_begin(&self, id: TableId, batch: &EntityBatch) -> Result<bool, Failure> {
        let Table { plan: Some(plan), begin, .. } = &self.open[id.0] else { return Ok(false) };
        is_before(plan, begin.as_ref(), batch)
    }

    /// Rows that wait for this one, in the order of their ids after `after`: at most `rows_max`, and no further one once
    /// they take `bytes_max`; and the last one's id, unless these are all.
    pub(crate) fn waiting(
        &mut self,
        id: TableId,
        key: &str,
        after: i64,
        rows_max: usize,
        bytes_max: usize,
    ) -> Result<(Vec<Parked>, Option<i64>), Failure> {
        let sql = "SELECT id, entity, key, version, row, file, file_row, without FROM _waybill_parked
                   WHERE missing_entity = ?1 AND missing_key = ?2 AND id > ?3 ORDER BY id";
        let mut statement = self.tx.prepare_cached(sql)?;
        let mut rows = statement.query((self.open[id.0].entity(), key, after))?;
        let mut waiting = Vec::new();
        let mut bytes = 0;
        while waiting.len() < rows_max && bytes < bytes_max {
            let Some(row) = rows.next()? else { return Ok((waiting, None)) };
            let parked = parked(row)?;
            bytes += parked.json.len();
            waiting.push(parked);
        }
        let last = waiting.last().map(|last| last.id);
        Ok((waiting, last))
    }

    /// Rows whose reference has run out of patience: parked before `cutoff`, the longest waiting first, at most `rows_max`,
    /// and no further one once they take `bytes_max`. Each is to go without what it waits for now.
    pub(crate) fn overdue(
        &self,
        patience: &Patience,
        cutoff: &str,
        rows_max: i64,
        bytes_max: usize,
    ) -> Result<Vec<Parked>, Failure> {
        let sql = "SELECT id, entity, key, version, row, file, file_row, without, missing_key FROM _waybill_parked
                   WHERE missing_entity = ?1 AND entity = ?2 AND parked_at <= ?3 ORDER BY parked_at, id LIMIT ?4";
        let mut statement = self.tx.prepare_cached(sql)?;
        let mut rows = statement.query((&patience.parent, &patience.entity, cutoff, rows_max))?;
        let mut overdue = Vec::new();
        let mut bytes = 0;
        while bytes < bytes_max {
            let Some(row) = rows.next()? else { break };
            let mut parked = parked(row)?;
            bytes += parked.json.len();
            parked.without.push((patience.parent.clone(), row.get(8)?));
            overdue.push(parked);
        }
        Ok(overdue)
    }
}

impl SqliteTables<'_> {
    /// Whether a deletion that is not older is remembered.
    fn is_buried(&mut self, id: TableId, key: &str, version: &[u8]) -> Result<bool, Failure> {
        let table = &self.open[id.0];
        let (Some(plan), true) = (table.plan, table.has_tombstones) else { return Ok(false) };
        let sql = "SELECT version FROM _waybill_tombstone WHERE entity = ?1 AND key = ?2";
        let mut rows = prepared(self.tx, &mut self.statements.tombstone, || sql)?.query((plan.name(), key))?;
        Ok(match rows.next()? {
            Some(row) => row.get_ref(0)?.as_blob().is_ok_and(|known| known >= version),
            None => false,
        })
    }

    /// These parked rows, but no further one once they take `bytes_max`. Each is to go without what it waits for now.
    pub(crate) fn these(&self, ids: &[i64], bytes_max: usize) -> Result<Vec<Parked>, Failure> {
        let sql = "SELECT id, entity, key, version, row, file, file_row, without, missing_entity, missing_key
                   FROM _waybill_parked WHERE id = ?1";
        let mut statement = self.tx.prepare_cached(sql)?;
        let (mut these, mut bytes) = (Vec::new(), 0);
        for id in ids {
            if bytes >= bytes_max {
                break;
            }
            let mut rows = statement.query([id])?;
            if let Some(row) = rows.next()? {
                let mut parked = parked(row)?;
                bytes += parked.json.len();
                parked.without.push((row.get(8)?, row.get(9)?));
                these.push(parked);
            }
        }
        Ok(these)
    }

    /// Counts rows that were let go with the file that brought one of them, so that they are in the totals.
    pub(crate) fn count_released(&self, file: &str, rows: u64) -> Result<(), Failure> {
        let sql = "UPDATE _waybill_progress SET released = released + ?2 WHERE file = ?1";
        self.tx.prepare_cached(sql)?.execute((file, stored(rows)))?;
        Ok(())
    }
}

impl<'tx> Tables for SqliteTables<'tx> {
    fn plan(&self, name: &str) -> Option<Arc<EntityPlan>> {
        self.plans.get(name).map(Arc::clone)
    }

    fn open(&mut self, entity: &str) -> Result<TableId, Failure> {
        if let Some(id) = self.places.get(entity) {
            return Ok(*id);
        }
        let Some(plan) = self.plans.get(entity) else {
            let problem = format!("entity {entity:?} is not among those that the sink was opened with");
            return Err(Failure::Refused { reason: Reason::RefusedByDatabase, problem });
        };
        let registered = "SELECT rule, filter, begins FROM _waybill_table WHERE entity = ?1";
        let mut statement = self.tx.prepare_cached(registered)?;
        let mut rows = statement.query([entity])?;
        let mut begin = None;
        if let Some(row) = rows.next()? {
            let text = |at| row.get_ref(at)?.as_str_or_null().map_err(rusqlite::Error::from);
            same_definition(plan, text(0)?, text(1)?, text(2)?)?;
            begin = read_begin(plan, text(2)?)?;
        }
        drop(rows);
        let exists = |table: &str| {
            let mut statement = self.tx.prepare_cached(&format!("SELECT 1 FROM {table} WHERE entity = ?1 LIMIT 1"))?;
            statement.exists([entity])
        };
        let table = Table {
            has_tombstones: exists("_waybill_tombstone")?,
            has_parked: exists("_waybill_parked")?,
            begin,
            ..Table::new(Some(plan), SqlName::new(plan.table()))
        };
        let id = self.push(table);
        self.places.insert(plan.name(), id);
        Ok(id)
    }

    fn shape(&mut self, id: TableId) -> Result<Arc<Shape>, Failure> {
        let Table { plan, name, shape, .. } = &mut self.open[id.0];
        if shape.is_none() {
            *shape = Some(Arc::new(schema::shape(self.tx, name, *plan)?));
        }
        Ok(shape.as_ref().map(Arc::clone).expect("set above"))
    }

    fn holds_key(&self, _: TableId, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn compare(&mut self, id: TableId, key: &str, version: &[u8]) -> Result<Current, Failure> {
        let against = |known: Option<&[u8]>| match known {
            Some(known) if known >= version => Current::SameOrNewer,
            // A row without a version was not written by us; any version is newer.
            _ => Current::Older,
        };
        let table = &mut self.open[id.0];
        if let Some(current) = table.with_version(self.tx, key, against)? {
            return Ok(current);
        }
        Ok(if self.is_buried(id, key, version)? { Current::SameOrNewer } else { Current::Absent })
    }

    fn is_present(&mut self, id: TableId, key: &str) -> Result<bool, Failure> {
        Ok(self.open[id.0].with_version(self.tx, key, |_| ())?.is_some())
    }

    fn upsert(&mut self, id: TableId, key: &str, version: &[u8], row: ReadRow<'_>) -> Result<Written, Failure> {
        let Table { plan: Some(plan), name, shape: Some(shape), write, has_tombstones, .. } = &mut self.open[id.0]
        else {
            unreachable!("a reader was made from its shape");
        };
        let statement = prepared(self.tx, write, || schema::upsert_sql(name, plan, shape))?;
        let next = bind_key(statement, plan, key)?.expect("a row's key has the types of its columns");
        statement.raw_bind_parameter(next, version)?;
        bind_row(statement, next + 1, row)?;
        let written = written(self.tx, statement.raw_execute())?;
        if *has_tombstones && matches!(written, Written::Done) {
            let sql = "DELETE FROM _waybill_tombstone WHERE entity = ?1 AND key = ?2";
            prepared(self.tx, &mut self.statements.unbury, || sql)?.execute((plan.name(), key))?;
        }
        Ok(written)
    }

    fn put(&mut self, id: TableId, key: &str, version: &[u8], row: ReadRow<'_>) -> Result<Option<Put>, Failure> {
        // An insert leaves its rowid, which is the key here, and an update what was left before. Source: SQLite,
        // "sqlite3_last_insert_rowid".
        let rowid = match self.open[id.0].tells_inserts(self.tx)? {
            true => key.parse::<i64>().ok().filter(|rowid| self.tx.last_insert_rowid() != *rowid),
            false => None,
        };
        let Some(rowid) = rowid else { return Ok(None) };
        if self.is_buried(id, key, version)? {
            return Ok(None);
        }
        Ok(match self.upsert(id, key, version, row)? {
            Written::Done if self.tx.last_insert_rowid() == rowid => Some(Put::Inserted),
            Written::Done => Some(Put::Updated),
            Written::Skipped => Some(Put::NotNewer),
            // Perhaps it is older than what is there, and need not be taken.
            Written::Refused(_) => None,
        })
    }

    fn append(&mut self, id: TableId, file: &str, number: u64, row: ReadRow<'_>) -> Result<Written, Failure> {
        let Table { name, shape: Some(shape), write, .. } = &mut self.open[id.0] else {
            unreachable!("a reader was made from its shape");
        };
        let statement = prepared(self.tx, write, || schema::append_sql(name, shape))?;
        statement.raw_bind_parameter(1, file)?;
        statement.raw_bind_parameter(2, stored(number))?;
        bind_row(statement, 3, row)?;
        written(self.tx, statement.raw_execute())
    }

    fn delete(&mut self, id: TableId, key: &str, _version: &[u8]) -> Result<Written, Failure> {
        let Table { plan: Some(plan), name, .. } = &self.open[id.0] else { unreachable!("only entities have keys") };
        let mut statement = self.tx.prepare_cached(&schema::delete_sql(name, plan))?;
        bind_key(&mut statement, plan, key)?.expect("a row's key has the types of its columns");
        written(self.tx, statement.raw_execute())
    }

    fn bury(&mut self, id: TableId, key: &str, version: &[u8]) -> Result<Written, Failure> {
        let table = &mut self.open[id.0];
        table.has_tombstones = true;
        let sql = "INSERT INTO _waybill_tombstone (entity, key, version, deleted_at) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (entity, key) DO UPDATE SET version = excluded.version, deleted_at = excluded.deleted_at";
        let statement = prepared(self.tx, &mut self.statements.bury, || sql)?;
        statement.execute((table.entity(), key, version, self.now))?;
        Ok(Written::Done)
    }

    fn park(
        &mut self,
        id: TableId,
        key: &str,
        version: &[u8],
        (parent, missing_key): (TableId, &str),
        origin: &Origin<'_>,
        json: &str,
    ) -> Result<Parking, Failure> {
        self.open[id.0].has_parked = true;
        let (entity, missing) = (self.open[id.0].entity(), self.open[parent.0].entity());
        let sql = "INSERT INTO _waybill_parked
                       (entity, key, version, missing_entity, missing_key, row, file, file_row, parked_at)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                   ON CONFLICT (entity, key) DO UPDATE SET version = excluded.version,
                       missing_entity = excluded.missing_entity, missing_key = excluded.missing_key, row = excluded.row,
                       file = excluded.file, file_row = excluded.file_row, parked_at = excluded.parked_at, without = NULL
                   WHERE excluded.version > version";
        let statement = prepared(self.tx, &mut self.statements.park, || sql)?;
        let number = stored(origin.row);
        let changed =
            statement.execute((entity, key, version, missing, missing_key, json, origin.file, number, self.now))?;
        Ok(if changed > 0 { Parking::Parked } else { Parking::NotNewer })
    }

    fn forget_parked(&mut self, id: TableId, key: &str, version: &[u8]) -> Result<(), Failure> {
        let table = &self.open[id.0];
        if table.has_parked {
            let sql = "DELETE FROM _waybill_parked WHERE entity = ?1 AND key = ?2 AND version <= ?3";
            let statement = prepared(self.tx, &mut self.statements.forget_parked, || sql)?;
            statement.execute((table.entity(), key, version))?;
        }
        Ok(())
    }

    fn unpark(&mut self, parked: i64) -> Result<(), Failure> {
        let sql = "DELETE FROM _waybill_parked WHERE id = ?1";
        prepared(self.tx, &mut self.statements.unpark, || sql)?.execute([parked])?;
        Ok(())
    }

    fn wait_for(
        &mut self,
        parked: &Parked,
        (_, parent): (TableId, TableId),
        missing_key: &str,
    ) -> Result<Written, Failure> {
        let entity = self.open[parent.0].entity();
        let sql = "UPDATE _waybill_parked SET missing_entity = ?2, missing_key = ?3, without = ?4 WHERE id = ?1";
        let without = write_without(&parked.without);
        let statement = prepared(self.tx, &mut self.statements.wait_for, || sql)?;
        statement.execute((parked.id, entity, missing_key, without))?;
        Ok(Written::Done)
    }

    fn has_waiting(&mut self, id: TableId) -> Result<bool, Failure> {
        let sql = "SELECT 1 FROM _waybill_parked WHERE missing_entity = ?1 LIMIT 1";
        Ok(self.tx.prepare_cached(sql)?.exists([self.open[id.0].entity()])?)
    }

    fn is_waited_for(&mut self, id: TableId, key: &str) -> Result<bool, Failure> {
        let sql = "SELECT 1 FROM _waybill_parked WHERE missing_entity = ?1 AND missing_key = ?2 LIMIT 1";
        let statement = prepared(self.tx, &mut self.statements.is_waited_for, || sql)?;
        Ok(statement.exists((self.open[id.0].entity(), key))?)
    }

    fn note_misfit(&mut self, id: TableId, column: usize) {
        let Table { name, shape: Some(shape), .. } = &self.open[id.0] else { return };
        if self.misfits.insert((id, column))
            && let Some(column) = shape.columns.get(column)
        {
            self.shapes.misfit(name, column);
        }
    }

    fn keep_bad_row(
        &mut self,
        origin: &Origin<'_>,
        reason: Reason,
        problem: &str,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        let sql = "INSERT INTO _waybill_bad_row (file, row, byte_offset, reason, problem, bytes, found_at, key)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                   ON CONFLICT (file, row) DO UPDATE SET reason = excluded.reason, problem = excluded.problem,
                       bytes = excluded.bytes, found_at = excluded.found_at, key = excluded.key";
        let bytes = bytes.get(..BAD_BYTES_MAX).unwrap_or(bytes);
        let (number, offset) = (stored(origin.row), origin.offset.map(stored));
        self.tx.prepare_cached(sql)?.execute((
            origin.file,
            number,
            offset,
            reason.as_str(),
            problem,
            bytes,
            self.now,
            origin.key,
        ))?;
        Ok(())
    }
}

fn parked(row: &rusqlite::Row<'_>) -> rusqlite::Result<Parked> {
    Ok(Parked {
        id: row.get(0)?,
        entity: row.get(1)?,
        key: row.get(2)?,
        version: row.get(3)?,
        json: row.get(4)?,
        file: row.get(5)?,
        row: row.get::<_, i64>(6)?.cast_unsigned(),
        without: read_without(row.get_ref(7)?.as_str_or_null().unwrap_or_default()),
    })
}

impl<'tx> Table<'tx> {
    fn new(plan: Option<&'tx EntityPlan>, name: SqlName) -> Self {
        Self {
            plan,
            name,
            shape: None,
            version: None,
            write: None,
            tells_inserts: None,
            has_tombstones: false,
            has_parked: false,
            begin: None,
        }
    }

    fn entity(&self) -> &'tx str {
        self.plan.map(EntityPlan::name).expect("only rows of entities are parked and buried")
    }

    fn tells_inserts(&mut self, tx: &Connection) -> rusqlite::Result<bool> {
        if let Some(tells) = self.tells_inserts {
            return Ok(tells);
        }
        let mut key = self.plan.into_iter().flat_map(EntityPlan::key);
        let tells = match (key.next(), key.next()) {
            (Some((field, KeyPart::Integer)), None) => schema::has_rowid(tx, &self.name, &SqlName::new(field))?,
            _ => false,
        };
        self.tells_inserts = Some(tells);
        Ok(tells)
    }

    /// Calls `look` with the version of the row that has this key.
    fn with_version<T>(
        &mut self,
        tx: &'tx Connection,
        key: &str,
        look: impl FnOnce(Option<&[u8]>) -> T,
    ) -> rusqlite::Result<Option<T>> {
        let Some(plan) = self.plan else { return Ok(None) };
        let statement = prepared(tx, &mut self.version, || schema::version_sql(&self.name, plan))?;
        if bind_key(statement, plan, key)?.is_none() {
            return Ok(None);
        }
        match statement.raw_query().next()? {
            Some(row) => Ok(Some(look(row.get_ref(0)?.as_blob().ok()))),
            None => Ok(None),
        }
    }
}

fn prepared<'s, 'tx, Sql: AsRef<str>>(
    tx: &'tx Connection,
    slot: &'s mut Option<CachedStatement<'tx>>,
    sql: impl FnOnce() -> Sql,
) -> rusqlite::Result<&'s mut CachedStatement<'tx>> {
    if slot.is_none() {
        *slot = Some(tx.prepare_cached(sql().as_ref())?);
    }
    Ok(slot.as_mut().expect("set above"))
}

/// Binds the parts of a key from the first parameter on and returns the next; `None` when a part is not of its column's
/// type, so that no row can have this key.
fn bind_key(statement: &mut CachedStatement<'_>, plan: &EntityPlan, key: &str) -> rusqlite::Result<Option<usize>> {
    let mut at = 1;
    for (part, text) in plan.key_form().split(key) {
        match part {
            KeyPart::Integer => match text.parse::<i64>() {
                Ok(number) => statement.raw_bind_parameter(at, number)?,
                Err(_) => return Ok(None),
            },
            KeyPart::Boolean => match text.as_ref() {
                "true" => statement.raw_bind_parameter(at, true)?,
                "false" => statement.raw_bind_parameter(at, false)?,
                _ => return Ok(None),
            },
            KeyPart::Decimal | KeyPart::Timestamp | KeyPart::Date | KeyPart::Uuid | KeyPart::AsWritten => {
                statement.raw_bind_parameter(at, text.as_ref())?;
            }
        }
        at += 1;
    }
    Ok(Some(at))
}

/// Binds what could not be stored in columns, and then these.
fn bind_row(statement: &mut CachedStatement<'_>, first: usize, row: ReadRow<'_>) -> rusqlite::Result<()> {
    statement.raw_bind_parameter(first, row.rescued())?;
    for (at, value) in (first + 1..).zip(row.values()) {
        statement.raw_bind_parameter(at, Bound(value))?;
    }
    Ok(())
}

struct Bound<'v>(Value<'v>);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match &self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Float(number) => ValueRef::Real(*number),
            Value::Boolean(value) => ValueRef::Integer(i64::from(*value)),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Binary(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// A statement that fails on what the row is had no effect; the transaction goes on without it.
fn written(tx: &Connection, result: rusqlite::Result<usize>) -> Result<Written, Failure> {
    let error = match result {
        // A row that is not older is there, or a trigger has it that none is written: RAISE(IGNORE).
        Ok(0) => return Ok(Written::Skipped),
        Ok(_) => return Ok(Written::Done),
        Err(error) => error,
    };
    let is_the_rows = matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
    );
    if !is_the_rows || tx.is_autocommit() {
        return Err(error.into());
    }
    let is_foreign_key =
        error.sqlite_error().is_some_and(|error| error.extended_code == rusqlite::ffi::SQLITE_CONSTRAINT_FOREIGNKEY);
    Ok(Written::Refused(format!("{error}{}", if is_foreign_key { FOREIGN_KEY_ADVICE } else { "" })))
}
