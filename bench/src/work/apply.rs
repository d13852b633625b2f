//! A file of item changes into a sink, decoded beside it, as the subscriber does.

use std::{fs::File, io::Read as _, path::Path, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use tokio::sync::mpsc;
use waybill_contracts::{Entities, Format};
use waybill_formats::{DecodeOptions, FileStats, RowBatch, RowDecoder, Source, Step};
use waybill_subscriber::{
    FileKey,
    apply::{EntityPlan, EntityPlans, Position},
    sink::{Ahead, EntityBatch, Sink, Stretch, open},
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

/// As the subscriber's default.
const COMMIT_ROWS_MAX: u64 = 100_000;
const RUN_BYTES: usize = 48 << 20;
const SORTED_BYTES_MIN: u64 = 48 << 20;

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

/// Plain bytes in a commit are what suits the sink, where nothing is said.
pub(super) fn apply(sink: &str, commit_mib: Option<usize>, files: &[PathBuf]) -> Result<Said> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let entities = Entities::parse(ENTITIES, "bench")?;
        let plans = EntityPlans::compile(&entities)?;
        let sink = open(sink, &entities, &std::env::temp_dir()).await?;
        let bytes_max = commit_mib.map_or_else(|| sink.commit_bytes(), |mib| mib << 20);
        let limits = Limits { rows_max: COMMIT_ROWS_MAX, bytes_max };
        let mut rows = 0;
        for path in files {
            rows += one(&sink, &plans, path, limits).await?;
        }
        Ok(result(rows))
    })
}

async fn one(sink: &impl Sink, plans: &EntityPlans, path: &Path, limits: Limits) -> Result<u64> {
    let key = FileKey::of_export("bench", &path.display().to_string());
    let plan = plans.for_type("item").cloned();
    // What is read from a file of rows is a few times as long.
    let is_long = 5 * std::fs::metadata(path)?.len() > SORTED_BYTES_MIN;
    let groups = match (sink.sorts_in(), &plan) {
        (Some(folder), Some(plan)) if is_long => {
            let sorter = Sorter::new(folder, Arc::clone(plan), RUN_BYTES);
            let unsorted = decoded(path, limits);
            let sorted = tokio::task::spawn_blocking(move || collect(sorter, unsorted)).await??;
            handed_on(sorted, limits)
        }
        _ => decoded(path, limits),
    };
    let mut from = 0;
    let mut groups = Groups { key: &key, plan, groups, ahead: 0 };
    let mut next = groups.next(sink).await?;
    while let Some(batch) = next {
        let to = batch.to;
        let (applied, following) = tokio::join!(sink.apply(&key, from, batch), groups.next(sink));
        applied?;
        (from, next) = (to, following?);
    }
    Ok(from)
}

/// Groups on their way to the sink, read ahead by it.
struct Groups<'a> {
    key: &'a FileKey,
    plan: Option<Arc<EntityPlan>>,
    groups: mpsc::Receiver<Result<Group>>,
    ahead: u64,
}

impl Groups<'_> {
    async fn next(&mut self, sink: &impl Sink) -> Result<Option<EntityBatch>> {
        let Some(group) = self.groups.recv().await else { return Ok(None) };
        let Group { rows, to, end, sorted } = group?;
        let batch = EntityBatch {
            blob_type: Arc::from("item"),
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
                Some(SortedRows { batches, rows, trail }) => {
                    to += rows;
                    let stretch = Stretch { before: std::mem::replace(&mut before, trail), after: trail };
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
fn decoded(path: &Path, limits: Limits) -> mpsc::Receiver<Result<Group>> {
    let (sender, groups) = mpsc::channel(1);
    let path = path.to_owned();
    std::thread::spawn(move || {
        if let Err(error) = decode(&path, limits, &sender) {
            let _nobody_listens = sender.blocking_send(Err(error));
        }
    });
    groups
}

fn decode(path: &Path, limits: Limits, groups: &mpsc::Sender<Result<Group>>) -> Result<()> {
    let mut decoder = RowDecoder::new(DecodeOptions::new(Source::JsonLines));
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let (mut group, mut bytes, mut begin) = (Group::default(), 0, 0);
    let hand_on = |group| groups.blocking_send(Ok(group)).map_err(|_| anyhow!("the sink failed"));
    loop {
        match decoder.next()? {
            Step::NeedInput => {
                let mut chunk = vec![0; 256 * 1024];
                let read = file.read(&mut chunk)?;
                chunk.truncate(read);
                match read {
                    0 => decoder.end(),
                    _ => decoder.feed(Bytes::from(chunk)),
                }
            }
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
