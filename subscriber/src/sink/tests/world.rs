//! Entities, files and a look into the database.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use tempfile::TempDir;
use waybill_contracts::Entities;
use waybill_formats::{DecodeOptions, FileStats, RowBatch, RowDecoder, Source, Step};
use waybill_store::rusqlite::{Connection, types::ValueRef};

use crate::{
    FileKey,
    apply::Position,
    sink::{Applied, EntityBatch, Progress, Sink, SinkError, SqliteSink},
};

/// A sink in a folder that goes with it.
pub(super) struct World {
    pub(super) folder: TempDir,
    pub(super) entities: Entities,
    pub(super) sink: SqliteSink,
    files: std::cell::Cell<i64>,
}

pub(super) const DATABASE: &str = "sink.sqlite";

pub(super) fn entities(toml: &str) -> Entities {
    Entities::parse(toml, "entities.toml").unwrap()
}

impl World {
    pub(super) async fn new(toml: &str) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), toml).await
    }

    /// With tables that are there before the sink.
    pub(super) async fn with_tables(sql: &str, toml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Connection::open(folder.path().join(DATABASE)).unwrap().execute_batch(sql).unwrap();
        Self::in_folder(folder, toml).await
    }

    async fn in_folder(folder: TempDir, toml: &str) -> Self {
        let entities = entities(toml);
        let sink = SqliteSink::open(folder.path().join(DATABASE), &entities).await.unwrap();
        Self { folder, entities, sink, files: std::cell::Cell::new(0) }
    }

    /// Closes the sink and opens it again, with other entities if there are any.
    pub(super) async fn reopen(&mut self, toml: Option<&str>) {
        self.sink.close().await;
        if let Some(toml) = toml {
            self.entities = entities(toml);
        }
        self.sink = SqliteSink::open(self.folder.path().join(DATABASE), &self.entities).await.unwrap();
    }

    /// Applies rows as a file of their own, in the order of the calls.
    pub(super) async fn file(&self, blob_type: &str, rows: &str) -> Applied {
        self.files.set(self.files.get() + 1);
        let number = self.files.get();
        let file = FileKey::of_export("shop", &number.to_string());
        let batch = self.batch(blob_type, Position::Broker { sequence_number: number }, json_lines(rows));
        self.sink.apply(&file, 0, batch).await.unwrap()
    }

    pub(super) fn batch(&self, blob_type: &str, position: Position, rows: Vec<RowBatch>) -> EntityBatch {
        let to = rows.iter().map(RowBatch::last_row).max().unwrap_or(0);
        EntityBatch {
            blob_type: Arc::from(blob_type),
            entity: self.sink.plans().for_type(blob_type).cloned(),
            position,
            rows,
            to,
            end: Some(stats(to)),
        }
    }

    /// What a query gives: a line a row, columns by `|`, nulls as `-`.
    pub(super) fn query(&self, sql: &str) -> Vec<String> {
        query(&self.folder.path().join(DATABASE), sql)
    }
}

pub(super) fn query(path: &Path, sql: &str) -> Vec<String> {
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

pub(super) fn stats(rows: u64) -> FileStats {
    FileStats { rows, bad_rows: 0, stored_bytes: 10, plain_bytes: 100, plain_sha256: Some([7; 32]), gzip: true }
}

pub(super) fn json_lines(text: &str) -> Vec<RowBatch> {
    decode(Source::JsonLines, text, usize::MAX)
}

pub(super) fn csv(text: &str) -> Vec<RowBatch> {
    decode(Source::Csv { columns: None, delimiter: b',' }, text, usize::MAX)
}

/// With at most so many rows in a batch.
pub(super) fn decode(source: Source, text: &str, batch_rows: usize) -> Vec<RowBatch> {
    let options = DecodeOptions { batch_rows: batch_rows.min(10_000), ..DecodeOptions::new(source) };
    let mut decoder = RowDecoder::new(options);
    decoder.feed(Bytes::copy_from_slice(text.as_bytes()));
    decoder.end();
    let mut batches = Vec::new();
    while let Step::Batch(batch) = decoder.next().unwrap() {
        batches.push(batch);
    }
    batches
}

pub(super) async fn progress(sink: &impl Sink, file: &FileKey) -> Progress {
    sink.progress(file).await.unwrap()
}

pub(super) fn refused(result: Result<Applied, SinkError>) -> (waybill_contracts::Reason, String) {
    match result {
        Err(SinkError::Refused { reason, problem, .. }) => (reason, problem),
        other => panic!("refused, not {other:?}"),
    }
}
