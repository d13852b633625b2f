//! A file of item changes into a sink, decoded beside it, as the subscriber does.

use std::{
    fmt::Write as _,
    fs::File,
    io::{Cursor, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use bytes::Bytes;
use tokio::sync::mpsc;
use waybill_contracts::{Entities, Format};
use waybill_formats::{
    DecodeOptions, FileStats, RowBatch, RowDecoder, Source, Step,
    unpack::{Unpacked, Unpacking},
};
use waybill_subscriber::{
    FileKey,
    apply::{EntityPlan, EntityPlans, Position},
    sink::{Ahead, AnySink, Applied, EntityBatch, Sink, Stretch, open},
    sorted::{Sorted, SortedRows, Sorter, Trail},
};

use super::result;
use crate::program::Said;

pub(super) const ENTITIES: &str = r#"
[entity.item]
key = ["id"]
version = { field = "version", type = "integer" }
[entity.item.columns]
id = "integer"
change = "text"
sku = "text"
name = "text"
gtin = "text"
price = "decimal"
currency = "text"
unit = "text"
vat = "decimal"
stock = "integer"
categories = "json"
attributes = "json"
updatedAt = "timestamp"
version = "integer"
"#;

/// Every item then has a parent of its own, which is dearer than one that many share.
const REFERRING: &str = r#"
[[entity.item.references]]
fields = ["id"]
entity = "product"
[entity.product]
key = ["id"]
version = { field = "version", type = "integer" }
columns = { id = "integer" }
"#;

/// Rows that wait for one parent.
const WAITING: &str = r#"
[entity.parent]
key = ["id"]
version = { field = "version", type = "integer" }
columns = { id = "integer" }
[entity.child]
key = ["id"]
version = { field = "version", type = "integer" }
columns = { id = "integer", parent = "integer", name = "text", price = "decimal", updatedAt = "timestamp" }
[[entity.child.references]]
fields = ["parent"]
entity = "parent"
"#;

/// As the subscriber's default.
const COMMIT_ROWS_MAX: u64 = 100_000;
const RUN_BYTES: usize = 48 << 20;
const SORTED_BYTES_MIN: u64 = 48 << 20;

/// Between unpacking and decoding.
const PIECES_QUEUED: usize = 4;

#[derive(Default)]
struct Group {
    rows: Vec<RowBatch>,
    to: u64,
    end: Option<FileStats>,
    sorted: Option<Stretch>,
}

/// Of a group.
#[derive(Clone, Copy)]
struct Limits {
    rows_max: u64,
    bytes_max: usize,
}

/// A sink with its entities.
struct Tables {
    sink: AnySink,
    plans: EntityPlans,
    limits: Limits,
}

/// Plain bytes in a commit are what suits the sink, where nothing is said. `parents`: whether every item refers to a row of another
/// table, and how many rows are put there first.
pub(super) async fn apply(
    sink: &str,
    commit_mib: Option<usize>,
    (referring, parents): (bool, Option<u64>),
    files: &[PathBuf],
) -> Result<Said> {
    let entities = if referring { format!("{ENTITIES}{REFERRING}") } else { ENTITIES.to_owned() };
    let tables = Tables::open(sink, &entities, commit_mib).await?;
    if let Some(parents) = parents {
        let lines = |text: &mut String, id: u64| writeln!(text, "{{\"id\":{id},\"version\":1}}");
        tables.made("product", parents, lines).await?;
    }
    let mut rows = 0;
    for path in files {
        rows += tables.file(path).await?;
    }
    Ok(result(rows))
}

/// What it takes from a parent to all of its children that waited.
pub(super) async fn release(sink: &str, children: u64) -> Result<Said> {
    let tables = Tables::open(sink, WAITING, None).await?;
    let child = |text: &mut String, id: u64| {
        writeln!(
            text,
            "{{\"id\":{id},\"parent\":0,\"name\":\"one of {children}\",\"price\":19.90,\
             \"updatedAt\":\"2026-03-01T12:00:00Z\",\"version\":1}}"
        )
    };
    let parked = tables.made("child", children, child).await?.parked;
    ensure!(parked == children, "{parked} of {children} wait");
    let began = Instant::now();
    let parent = |text: &mut String, id: u64| writeln!(text, "{{\"id\":{id},\"version\":1}}");
    let released = tables.made("parent", 1, parent).await?.released;
    Ok(Said { seconds: Some(began.elapsed().as_secs_f64()), ..result(format!("{released} released")) })
}

impl Tables {
    async fn open(sink: &str, entities: &str, commit_mib: Option<usize>) -> Result<Self> {
        let entities = Entities::parse(entities, "bench")?;
        let plans = EntityPlans::compile(&entities)?;
        let sink = open(sink, &entities, &std::env::temp_dir()).await?;
        let bytes_max = commit_mib.map_or_else(|| sink.commit_bytes(), |mib| mib << 20);
        Ok(Self { sink, plans, limits: Limits { rows_max: COMMIT_ROWS_MAX, bytes_max } })
    }

    /// Rows of a file of items; how many there are.
    async fn file(&self, path: &Path) -> Result<u64> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        // What is read from a file of rows is a few times as long.
        let is_long = 5 * file.metadata()?.len() > SORTED_BYTES_MIN;
        let unsorted = decoded(file, self.limits);
        let groups = match (self.sink.sorts_in(), self.plans.for_type("item")) {
            (Some(folder), Some(plan)) if is_long => {
                let sorter = Sorter::new(folder, Arc::clone(plan), RUN_BYTES);
                let sorted = tokio::task::spawn_blocking(move || collect(sorter, unsorted)).await??;
                handed_on(sorted, self.limits)
            }
            _ => unsorted,
        };
        self.effect("item", &path.display().to_string(), groups).await.map(|(rows, _)| rows)
    }

    /// Rows that are made here, one for each number below `rows`.
    async fn made(
        &self,
        blob_type: &str,
        rows: u64,
        row: impl Fn(&mut String, u64) -> std::fmt::Result,
    ) -> Result<Applied> {
        let mut text = String::new();
        (0..rows).try_for_each(|id| row(&mut text, id))?;
        let groups = decoded(Cursor::new(text), self.limits);
        self.effect(blob_type, &format!("made {blob_type}"), groups).await.map(|(_, applied)| applied)
    }

    async fn effect(
        &self,
        blob_type: &str,
        name: &str,
        groups: mpsc::Receiver<Result<Group>>,
    ) -> Result<(u64, Applied)> {
        let key = FileKey::of_export("bench", name);
        let (mut from, mut all) = (0, Applied::default());
        let plan = self.plans.for_type(blob_type).cloned();
        let mut groups = Groups { key: &key, blob_type: Arc::from(blob_type), plan, groups, ahead: 0 };
        let mut next = groups.next(&self.sink).await?;
        while let Some(batch) = next {
            let to = batch.to;
            let (applied, following) = tokio::join!(self.sink.apply(&key, from, batch), groups.next(&self.sink));
            all += applied?;
            (from, next) = (to, following?);
        }
        Ok((from, all))
    }
}

/// Groups on their way to the sink, read ahead by it.
struct Groups<'a> {
    key: &'a FileKey,
    blob_type: Arc<str>,
    plan: Option<Arc<EntityPlan>>,
    groups: mpsc::Receiver<Result<Group>>,
    ahead: u64,
}

impl Groups<'_> {
    async fn next(&mut self, sink: &impl Sink) -> Result<Option<EntityBatch>> {
        let Some(group) = self.groups.recv().await else { return Ok(None) };
        let Group { rows, to, end, sorted } = group?;
        let batch = EntityBatch {
            blob_type: Arc::clone(&self.blob_type),
            entity: self.plan.clone(),
            filter: None,
            format: Format::JsonLines,
            position: Position::Broker { sequence_number: 1 },
            rows,
            to,
            end,
            sorted,
            ahead: Ahead::default(),
        };
        let from = std::mem::replace(&mut self.ahead, to);
        Ok(Some(sink.look_ahead(self.key, from, batch).await?))
    }
}

/// All rows of a file, in the order of their keys.
fn collect(mut sorter: Sorter, mut groups: mpsc::Receiver<Result<Group>>) -> Result<(Sorted, FileStats)> {
    let mut stats = None;
    while let Some(group) = groups.blocking_recv() {
        let group = group?;
        group.rows.into_iter().try_for_each(|batch| sorter.add(batch))?;
        stats = group.end.or(stats);
    }
    Ok((sorter.finish()?, stats.context("the file has no end")?))
}

/// What was sorted, beside who takes it.
fn handed_on((mut sorted, stats): (Sorted, FileStats), limits: Limits) -> mpsc::Receiver<Result<Group>> {
    let (sender, groups) = mpsc::channel(1);
    std::thread::spawn(move || {
        let (mut to, mut before) = (0, Trail::default());
        loop {
            let group = sorted.next_rows(limits.rows_max, limits.bytes_max).map(|rows| match rows {
                Some(SortedRows { batches, rows, dropped, trail }) => {
                    to += rows;
                    let stretch = Stretch { before: std::mem::replace(&mut before, trail), after: trail, dropped };
                    let end = (to >= stats.rows).then(|| stats.clone());
                    Some(Group { rows: batches, to, end, sorted: Some(stretch) })
                }
                None => None,
            });
            let Some(group) = group.map_err(Into::into).transpose() else { return };
            if sender.blocking_send(group).is_err() {
                return;
            }
        }
    });
    groups
}

/// A file's rows in its own order, beside who takes them.
fn decoded(file: impl Read + Send + 'static, limits: Limits) -> mpsc::Receiver<Result<Group>> {
    let (sender, groups) = mpsc::channel(1);
    std::thread::spawn(move || {
        if let Err(error) = decode(file, limits, &sender) {
            let _nobody_listens = sender.blocking_send(Err(error));
        }
    });
    groups
}

fn decode(file: impl Read + Send + 'static, limits: Limits, groups: &mpsc::Sender<Result<Group>>) -> Result<()> {
    let mut decoder = RowDecoder::new(DecodeOptions::new(Source::JsonLines));
    let unpacking = decoder.unpacked_elsewhere();
    let (piece_to, mut pieces) = mpsc::channel(PIECES_QUEUED);
    let unpacked = std::thread::spawn(move || unpack(file, unpacking, &piece_to));
    let (mut group, mut bytes, mut begin) = (Group::default(), 0, 0);
    let hand_on = |group| groups.blocking_send(Ok(group)).map_err(|_| anyhow!("the sink failed"));
    loop {
        match decoder.next()? {
            Step::NeedInput => match pieces.blocking_recv() {
                Some(piece) => decoder.hand(piece),
                None => return unpacked.join().map_err(|_| anyhow!("unpacking panicked"))?,
            },
            Step::Batch(batch) => {
                bytes += batch.size();
                group.to = batch.last_row();
                group.rows.push(batch);
                if group.to - begin >= limits.rows_max || bytes >= limits.bytes_max {
                    (begin, bytes) = (group.to, 0);
                    hand_on(std::mem::replace(&mut group, Group { to: begin, ..Group::default() }))?;
                }
            }
            Step::Done(stats) => {
                group.end = Some(stats);
                return hand_on(group);
            }
        }
    }
}

fn unpack(mut file: impl Read, mut unpacking: Unpacking, pieces: &mpsc::Sender<Unpacked>) -> Result<()> {
    loop {
        match unpacking.next() {
            Some(piece) => {
                let is_last = piece.is_last();
                if pieces.blocking_send(piece).is_err() || is_last {
                    return Ok(());
                }
            }
            None => {
                let mut chunk = vec![0; 256 * 1024];
                let read = file.read(&mut chunk)?;
                chunk.truncate(read);
                match read {
                    0 => unpacking.end(),
                    _ => unpacking.feed(Bytes::from(chunk)),
                }
            }
        }
    }
}
