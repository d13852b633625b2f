//! 42 related tables of a bicycle maker: read from `examples/data`, put into the order of their changes, compared with a
//! database that a subscriber built.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use rusqlite::{Connection, OpenFlags, types::ValueRef};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use waybill_contracts::Entities;
use waybill_formats::{DecodeOptions, Field, FieldPath, Row, RowBatch, RowDecoder, Source, Step};

/// A table with all its rows, as they stand in the source.
#[derive(Debug)]
pub struct Table {
    /// The name of the file, the entity and the table.
    pub name: String,
    /// The file that it was read from.
    pub file: String,
    /// The type of the files that carry its changes.
    pub blob_type: String,
    /// In the file's order.
    pub columns: Vec<Column>,
    /// The key's columns, by index.
    pub key: Vec<usize>,
    /// The column that orders versions, by index.
    pub version: usize,
    batches: Vec<RowBatch>,
    paths: Vec<FieldPath>,
}

/// A column of a [`Table`].
#[derive(Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// What its text means.
    pub kind: Kind,
}

/// What a column's text means, as far as formats tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An integer or a decimal: a JSON number, written as it stands.
    Number,
    /// `true` or `false`.
    Boolean,
    /// Everything else.
    Text,
}

/// One row as a change: where it stands, and when it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// Which table.
    pub table: usize,
    batch: u32,
    row: u32,
}

/// What a table in the database is, compared with its source.
#[derive(Debug)]
pub struct Comparison {
    /// The table.
    pub name: String,
    /// Rows in the source.
    pub expected: u64,
    /// Rows in the database.
    pub found: u64,
    /// SHA-256 over all values of the source, sorted by key; the first 12 digits.
    pub expected_sum: String,
    /// The same of the database.
    pub found_sum: String,
}

impl Comparison {
    /// Whether they are the same.
    #[must_use]
    pub fn same(&self) -> bool {
        self.expected == self.found && self.expected_sum == self.found_sum
    }
}

#[derive(Deserialize)]
struct Schema {
    tables: Vec<SchemaTable>,
}

#[derive(Deserialize)]
struct SchemaTable {
    name: String,
    file: String,
    rows: u64,
    primary_key: Vec<String>,
    version_column: String,
    columns: Vec<SchemaColumn>,
}

#[derive(Deserialize)]
struct SchemaColumn {
    name: String,
    #[serde(rename = "type")]
    kind: String,
}

/// The folder of the data.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/adventureworks")
}

/// Its `entities.toml`.
///
/// # Errors
/// When it cannot be read.
pub fn entities() -> anyhow::Result<Entities> {
    let path = folder().join("entities.toml");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Entities::parse(&text, &path.display().to_string())?)
}

/// All tables.
///
/// # Errors
/// When a file is missing or does not hold the rows that `schema.json` says.
pub fn load() -> anyhow::Result<Vec<Table>> {
    load_from(&folder())
}

/// All tables of another folder of the same form.
///
/// # Errors
/// As [`load`].
pub fn load_from(folder: &Path) -> anyhow::Result<Vec<Table>> {
    let path = folder.join("schema.json");
    let text = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let schema: Schema = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    schema.tables.into_iter().map(|table| load_table(folder, table)).collect()
}

fn load_table(folder: &Path, schema: SchemaTable) -> anyhow::Result<Table> {
    let path = folder.join(&schema.file);
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut decoder = RowDecoder::new(DecodeOptions::new(Source::Csv { columns: None, delimiter: b',' }));
    decoder.feed(Bytes::from(bytes));
    decoder.end();
    let mut batches = Vec::new();
    loop {
        match decoder.next().with_context(|| path.display().to_string())? {
            Step::Batch(batch) => {
                if let Some(bad) = batch.bad().first() {
                    bail!("{}: row {}: {}", path.display(), bad.row, bad.problem);
                }
                batches.push(batch);
            }
            Step::NeedInput => bail!("{}: the decoder asks for more than there is", path.display()),
            Step::Done(stats) => {
                ensure!(stats.rows == schema.rows, "{}: {} rows, not {}", path.display(), stats.rows, schema.rows);
                break;
            }
        }
    }
    let index = |name: &str| {
        let found = schema.columns.iter().position(|column| column.name == name);
        found.with_context(|| format!("{}: no column {name}", schema.name))
    };
    let key = schema.primary_key.iter().map(|name| index(name)).collect::<anyhow::Result<_>>()?;
    let version = index(&schema.version_column)?;
    let camel_case: String = schema
        .name
        .split('_')
        .flat_map(|word| word.chars().enumerate().map(|(at, c)| if at == 0 { c.to_ascii_uppercase() } else { c }))
        .collect();
    Ok(Table {
        blob_type: format!("{camel_case}Changes"),
        name: schema.name,
        file: schema.file,
        paths: schema.columns.iter().map(|column| FieldPath::name(&column.name)).collect(),
        columns: schema
            .columns
            .into_iter()
            .map(|column| Column {
                kind: match column.kind.as_str() {
                    "integer" | "decimal" => Kind::Number,
                    "boolean" => Kind::Boolean,
                    _ => Kind::Text,
                },
                name: column.name,
            })
            .collect(),
        key,
        version,
        batches,
    })
}

impl Table {
    /// How many rows it has.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.batches.iter().map(|batch| batch.len() as u64).sum()
    }

    /// A row's values in the order of the columns: text or null, as in CSV.
    pub fn values<'a>(&'a self, change: Change, into: &mut Vec<Field<'a>>) {
        self.batches[change.batch as usize].row(change.row as usize).get_many(&self.paths, into);
    }

    /// A value with its column's type: what a JSON row carries.
    #[must_use]
    pub fn typed<'a>(&self, column: usize, value: &'a Field<'_>) -> Field<'a> {
        match (value, self.columns[column].kind) {
            // The source writes some decimals as `.00`, which is no JSON number: they travel as text, unchanged.
            (Field::Text(text), Kind::Number) if text.starts_with('.') || text.starts_with("-.") => {
                Field::Text(text.as_ref().into())
            }
            (Field::Text(text), Kind::Number) => Field::Number(text),
            (Field::Text(text), Kind::Boolean) => Field::Bool(text == "true"),
            (Field::Text(text), Kind::Text) => Field::Text(text.as_ref().into()),
            _ => Field::Null,
        }
    }
}

/// Every row of every table, in the order in which they were last changed: a price long before its product.
#[must_use]
pub fn changes(tables: &[Table]) -> Vec<Change> {
    let mut dated: Vec<(String, Change)> = Vec::new();
    for (number, table) in tables.iter().enumerate() {
        for (batch, rows) in table.batches.iter().enumerate() {
            for (row, content) in rows.rows().enumerate() {
                let at = text(&content, &table.paths[table.version]);
                // The data's instants are UTC in one spelling, so they sort as text.
                dated.push((at, Change { table: number, batch: batch as u32, row: row as u32 }));
            }
        }
    }
    dated.sort_by(|(a, _), (b, _)| a.cmp(b));
    dated.into_iter().map(|(_, change)| change).collect()
}

fn text(row: &Row<'_>, path: &FieldPath) -> String {
    match row.get(path) {
        Field::Text(text) => text.into_owned(),
        _ => String::new(),
    }
}

/// Compares every table with the database at `path`.
///
/// # Errors
/// When the database cannot be read; a table that is missing is a difference, not an error.
pub fn compare(tables: &[Table], path: &Path) -> anyhow::Result<Vec<Comparison>> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("cannot open {}", path.display()))?;
    tables.iter().map(|table| compare_table(table, &db)).collect()
}

fn compare_table(table: &Table, db: &Connection) -> anyhow::Result<Comparison> {
    let mut expected: Vec<String> = Vec::new();
    let mut values = Vec::new();
    for batch in &table.batches {
        for row in batch.rows() {
            row.get_many(&table.paths, &mut values);
            expected.push(line(values.iter().map(|value| match value {
                Field::Text(text) => Some(text.as_ref().to_owned()),
                _ => None,
            })));
        }
    }
    let exists = db.prepare("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1")?.exists([&table.name])?;
    let mut found: Vec<String> = Vec::new();
    if exists {
        let columns: Vec<String> = table.columns.iter().map(|column| format!("\"{}\"", column.name)).collect();
        let mut select = db
            .prepare(&format!("SELECT {} FROM \"{}\"", columns.join(", "), table.name))
            .with_context(|| table.name.clone())?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let mut values = Vec::with_capacity(table.columns.len());
            for (index, column) in table.columns.iter().enumerate() {
                values.push(match row.get_ref(index)? {
                    ValueRef::Null => None,
                    ValueRef::Integer(number) if column.kind == Kind::Boolean => Some((number == 1).to_string()),
                    ValueRef::Integer(number) => Some(number.to_string()),
                    ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
                    other => Some(format!("{other:?}")),
                });
            }
            found.push(line(values.into_iter()));
        }
    }
    let sum = |lines: &mut Vec<String>| {
        lines.sort_unstable();
        let mut sum = Sha256::new();
        for line in lines.iter() {
            sum.update(line.as_bytes());
            sum.update(b"\n");
        }
        sum.finalize().iter().take(6).fold(String::new(), |mut text, byte| {
            let _infallible = write!(text, "{byte:02x}");
            text
        })
    };
    Ok(Comparison {
        name: table.name.clone(),
        expected: expected.len() as u64,
        found: found.len() as u64,
        expected_sum: sum(&mut expected),
        found_sum: sum(&mut found),
    })
}

/// A row as text in which null and every value differ.
fn line(values: impl Iterator<Item = Option<String>>) -> String {
    let mut line = String::new();
    for value in values {
        match value {
            Some(value) => {
                let _infallible = write!(line, "{}:{value};", value.len());
            }
            None => line.push_str("-;"),
        }
    }
    line
}
