//! A sink in an SQLite file.

use std::path::Path;

use tempfile::TempDir;
use waybill_contracts::Entities;
use waybill_formats::RowBatch;
use waybill_store::rusqlite::{Connection, types::ValueRef};

use super::{Clock, batch, entities, json_lines};
use crate::{
    FileKey,
    apply::Position,
    sink::{Applied, EntityBatch, Sink, SinkOpenError, SqliteSink},
};

/// A sink in a folder that goes with it.
pub(in super::super) struct World {
    pub(in super::super) folder: TempDir,
    pub(in super::super) entities: Entities,
    pub(in super::super) sink: SqliteSink,
    files: std::cell::Cell<i64>,
}

pub(in super::super) const DATABASE: &str = "sink.sqlite";

impl World {
    /// Of each property.
    pub(in super::super) const CASES: u32 = 100;
    /// Whether it takes rows in the order of their keys.
    pub(in super::super) const SORTS: bool = true;
    /// What the database takes for the name of the table `Taken`.
    pub(in super::super) const NAMES_OF_TAKEN: &[&str] = &["Taken", "taken"];
    /// What a table of the user has for the sink.
    pub(in super::super) const OWN_COLUMNS: &str = "_waybill_version BLOB, _rescued TEXT";
    /// What holds a decimal as it was written.
    pub(in super::super) const DECIMAL: &str = "TEXT";
    /// A column that numbers the rows of a table.
    pub(in super::super) const NUMBERED: &str = "INTEGER PRIMARY KEY";
    /// A table that takes no price of 13.
    pub(in super::super) const ITEM_WITHOUT_13: &str =
        "CREATE TABLE item (id INTEGER, site TEXT, changed TEXT, price TEXT CHECK (price <> '13'),
             _waybill_version BLOB, _rescued TEXT, PRIMARY KEY (id, site))";

    /// A trigger that takes no item 5.
    pub(in super::super) const REFUSING: &[&str] =
        &["CREATE TRIGGER refuse BEFORE INSERT ON item WHEN NEW.id = 5 BEGIN SELECT RAISE(ABORT, 'not this one'); END"];

    /// A trigger that leaves item 5 out.
    pub(in super::super) const SKIPPING: &[&str] =
        &["CREATE TRIGGER skip BEFORE INSERT ON item WHEN NEW.id = 5 BEGIN SELECT RAISE(IGNORE); END"];

    /// What the first schema left.
    pub(in super::super) const GOLDEN_1: &str = include_str!("../../../../golden/sink-sqlite-1.sql");

    pub(in super::super) async fn new(toml: &str) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), toml).await
    }

    /// With tables that are there before the sink.
    pub(in super::super) async fn with_tables(sql: &str, toml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Connection::open(folder.path().join(DATABASE)).unwrap().execute_batch(sql).unwrap();
        Self::in_folder(folder, toml).await
    }

    async fn in_folder(folder: TempDir, toml: &str) -> Self {
        let entities = entities(toml);
        let sink = SqliteSink::open(folder.path().join(DATABASE), &entities).await.unwrap();
        Self { folder, entities, sink, files: std::cell::Cell::new(0) }
    }

    /// With a clock of its own.
    pub(in super::super) async fn with_clock(toml: &str, clock: &Clock) -> Self {
        let (folder, entities, clock) = (tempfile::tempdir().unwrap(), entities(toml), clock.clone());
        let sink = SqliteSink::open_with(folder.path().join(DATABASE), &entities, move || clock.now()).await.unwrap();
        Self { folder, entities, sink, files: std::cell::Cell::new(0) }
    }

    /// As `sink::open` knows it.
    pub(in super::super) fn name(&self) -> String {
        format!("sqlite:{}", self.folder.path().join(DATABASE).display())
    }

    /// Closes the sink and opens it again, with other entities if there are any.
    pub(in super::super) async fn reopen(&mut self, toml: Option<&str>) {
        self.sink.close().await;
        if let Some(toml) = toml {
            self.entities = entities(toml);
        }
        self.sink = SqliteSink::open(self.folder.path().join(DATABASE), &self.entities).await.unwrap();
    }

    /// Closes the sink, and why it does not open with other entities.
    pub(in super::super) async fn refusal(&self, toml: &str) -> String {
        self.sink.close().await;
        match SqliteSink::open(self.folder.path().join(DATABASE), &entities(toml)).await.unwrap_err() {
            SinkOpenError::Table { problem, .. } => problem,
            other => panic!("{other:?}"),
        }
    }

    /// Applies rows as a file of their own, in the order of the calls.
    pub(in super::super) async fn file(&self, blob_type: &str, rows: &str) -> Applied {
        self.files.set(self.files.get() + 1);
        let number = self.files.get();
        let file = FileKey::of_export("shop", &number.to_string());
        let batch = self.batch(blob_type, Position::Broker { sequence_number: number }, json_lines(rows));
        self.sink.apply(&file, 0, batch).await.unwrap()
    }

    pub(in super::super) fn batch(&self, blob_type: &str, position: Position, rows: Vec<RowBatch>) -> EntityBatch {
        batch(self.sink.plans(), blob_type, position, rows)
    }

    /// A field of a parked row, as text.
    pub(in super::super) fn field_of_parked(name: &str) -> String {
        format!("(p.row ->> '{name}')")
    }

    /// What a query gives: a line a row, columns by `|`, nulls as `-`.
    pub(in super::super) fn query(&self, sql: &str) -> Vec<String> {
        query(&self.folder.path().join(DATABASE), sql)
    }

    /// The same where others are at work.
    pub(in super::super) async fn ask(&self, sql: &str) -> Vec<String> {
        self.query(sql)
    }
}

pub(in super::super) fn query(path: &Path, sql: &str) -> Vec<String> {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let columns = statement.column_count();
    let mut rows = statement.query([]).unwrap();
    let mut lines = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        let values: Vec<_> = (0..columns).map(|at| shown(row.get_ref(at).unwrap())).collect();
        lines.push(values.join("|"));
    }
    lines
}

fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Null => "-".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => format!("{number:?}"),
        ValueRef::Text(text) => String::from_utf8(text.to_vec()).unwrap(),
        ValueRef::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}
