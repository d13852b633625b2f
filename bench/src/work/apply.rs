//! A file of item changes into a sink, decoded beside it, as the subscriber does.

use std::{fs::File, io::Read as _, path::Path, path::PathBuf, sync::Arc};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use tokio::sync::mpsc;
use waybill_contracts::{Entities, Format};
use waybill_formats::{DecodeOptions, FileStats, RowBatch, RowDecoder, Source, Step};
use waybill_subscriber::{
    FileKey,
    apply::{EntityPlans, Position},
    sink::{Ahead, EntityBatch, Sink, open},
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

#[derive(Default)]
struct Group {
    rows: Vec<RowBatch>,
    to: u64,
    end: Option<FileStats>,
}

/// Plain bytes in a commit are what suits the sink, where nothing is said.
pub(super) fn apply(sink: &str, commit_mib: Option<usize>, files: &[PathBuf]) -> Result<Said> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let entities = Entities::parse(ENTITIES, "bench")?;
        let plans = EntityPlans::compile(&entities)?;
        let sink = open(sink, &entities, &std::env::temp_dir()).await?;
        let commit_bytes_max = commit_mib.map_or_else(|| sink.commit_bytes(), |mib| mib << 20);
        let mut rows = 0;
        for path in files {
            rows += one(&sink, &plans, path, commit_bytes_max).await?;
        }
        Ok(result(rows))
    })
}

async fn one(sink: &impl Sink, plans: &EntityPlans, path: &Path, commit_bytes_max: usize) -> Result<u64> {
    let (sender, mut groups) = mpsc::channel(1);
    let decoding = {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || decode(&path, commit_bytes_max, &sender))
    };
    let key = FileKey::of_export("bench", &path.display().to_string());
    let (mut from, mut ahead) = (0, 0);
    let mut next_batch = async || -> Result<Option<EntityBatch>> {
        let Some(Group { rows, to, end }) = groups.recv().await else { return Ok(None) };
        let batch = EntityBatch {
            blob_type: Arc::from("item"),
            entity: plans.for_type("item").cloned(),
            filter: None,
            format: Format::JsonLines,
            position: Position::Broker { sequence_number: 1 },
            rows,
            to,
            end,
            ahead: Ahead::default(),
        };
        let from = std::mem::replace(&mut ahead, to);
        Ok(Some(sink.look_ahead(&key, from, batch).await?))
    };
    let mut next = next_batch().await?;
    while let Some(batch) = next {
        let to = batch.to;
        let (applied, following) = tokio::join!(sink.apply(&key, from, batch), next_batch());
        applied?;
        (from, next) = (to, following?);
    }
    decoding.await??;
    Ok(from)
}

fn decode(path: &Path, commit_bytes_max: usize, groups: &mpsc::Sender<Group>) -> Result<()> {
    let mut decoder = RowDecoder::new(DecodeOptions::new(Source::JsonLines));
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let (mut group, mut bytes, mut begin) = (Group::default(), 0, 0);
    let hand_on = |group| groups.blocking_send(group).map_err(|_| anyhow!("the sink failed"));
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
                if group.to - begin >= COMMIT_ROWS_MAX || bytes >= commit_bytes_max {
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
