//! Entities, files and a look into the database.

pub(super) mod postgres;
pub(super) mod sqlite;

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use bytes::Bytes;
use time::OffsetDateTime;
use waybill_contracts::{Entities, Format};
use waybill_formats::{DecodeOptions, FileStats, RowBatch, RowDecoder, Source, Step};

use crate::{
    FileKey,
    apply::{EntityPlan, EntityPlans, Position},
    sink::{Ahead, Applied, EntityBatch, Progress, Sink, SinkError, Stretch},
    sorted::Sorter,
};

/// An entity with a version, and a price to change.
pub(super) const ITEM: &str = r#"
    [entity.item]
    key = ["id"]
    version = { field = "v", type = "integer" }
    columns = { id = "integer", price = "decimal" }
"#;

/// A column of each type.
pub(super) const TYPES: &str = r#"
    [entity.thing]
    key = ["id"]
    [entity.thing.columns]
    id = "uuid"
    i = "integer"
    d = "decimal"
    f = "float"
    b = "boolean"
    t = "text"
    ts = "timestamp"
    day = "date"
    u = "uuid"
    j = "json"
    bin = "binary"
"#;

/// A key of two fields, and a time for a version.
pub(super) const PRICED: &str = r#"
    [entity.item]
    key = ["id", "site"]
    version = { field = "changed", type = "timestamp" }
    columns = { id = "integer", price = "decimal" }
"#;

/// A row of it, without a price.
pub(super) fn priced(id: &str) -> String {
    format!("{{\"id\":{id},\"site\":\"a\",\"changed\":\"2024-01-01T00:00:00Z\"}}")
}

pub(super) fn entities(toml: &str) -> Entities {
    Entities::parse(toml, "entities.toml").unwrap()
}

/// A clock that stands still until it is told.
#[derive(Clone, Default)]
pub(super) struct Clock(Arc<AtomicI64>);

impl Clock {
    pub(super) fn now(&self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_400_000_000 + self.0.load(Ordering::SeqCst)).unwrap()
    }

    pub(super) fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

/// A whole file of a blobType, in one batch.
pub(super) fn batch(plans: &EntityPlans, blob_type: &str, position: Position, rows: Vec<RowBatch>) -> EntityBatch {
    let to = rows.iter().map(RowBatch::last_row).max().unwrap_or(0);
    EntityBatch {
        blob_type: Arc::from(blob_type),
        entity: plans.for_type(blob_type).cloned(),
        filter: None,
        format: Format::JsonLines,
        position,
        rows,
        to,
        end: Some(stats(to)),
        sorted: None,
        ahead: Ahead::default(),
    }
}

/// Of the rows of a file those from the one after `from` to `to` in the order of their keys.
pub(super) fn in_key_order(
    plan: &Arc<EntityPlan>,
    rows: Vec<RowBatch>,
    from: u64,
    to: u64,
) -> (Vec<RowBatch>, Stretch) {
    let folder = tempfile::tempdir().unwrap();
    let mut sorter = Sorter::new(folder.path(), Arc::clone(plan), 1_000);
    rows.into_iter().for_each(|batch| sorter.add(batch).unwrap());
    let mut sorted = sorter.finish().unwrap();
    let mut take = |rows| match sorted.next_rows(rows, usize::MAX).unwrap() {
        Some(taken) => (taken.batches, taken.dropped, Some(taken.trail)),
        None => (Vec::new(), 0, None),
    };
    let before = take(from).2.unwrap_or_default();
    let (rows, dropped, after) = take(to - from);
    (rows, Stretch { before, after: after.unwrap_or(before), dropped })
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
