//! Rows of a `.jsonl.gz` or `.csv.gz` into a sink: `cargo bench -p waybill-subscriber --bench apply -- SINK FILE…`.
//!
//! The time of each file is printed. The rows are those of a set of item changes: `id` is the key, `version` the version.
//! Decoding runs beside the sink, as in the subscriber. With `REFERENCE=FIELD`, that field of an item names its parent, and
//! files whose name begins with `parent` bring parents (`id`, `version`); an item without its parent waits for it.

use std::{io::Read as _, path::Path, sync::Arc, time::Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use waybill_contracts::Entities;
use waybill_formats::{DecodeOptions, FileStats, RowBatch, RowDecoder, Source, Step};
use waybill_subscriber::{
    FileKey,
    apply::{EntityPlans, Position},
    sink::{Ahead, EntityBatch, Sink, open},
};

const ENTITIES: &str = r#"
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

/// What `REFERENCE` adds.
fn parents() -> String {
    let Ok(field) = std::env::var("REFERENCE") else { return String::new() };
    let id = if field == "id" { "integer" } else { "text" };
    format!(
        "[[entity.item.references]]\nfields = [\"{field}\"]\nentity = \"parent\"\non_missing = \"park\"\n\
         [entity.parent]\nkey = [\"id\"]\nversion = {{ field = \"version\", type = \"integer\" }}\n\
         [entity.parent.columns]\nid = \"{id}\"\nversion = \"integer\"\n"
    )
}

/// As the subscriber's default.
const COMMIT_ROWS_MAX: u64 = 100_000;

/// As the subscriber's default, but where `COMMIT_MIB` says otherwise.
fn commit_bytes_max() -> usize {
    std::env::var("COMMIT_MIB").ok().and_then(|mib| mib.parse::<usize>().ok()).unwrap_or(4) << 20
}

#[derive(Debug, Default)]
struct Group {
    rows: Vec<RowBatch>,
    to: u64,
    end: Option<FileStats>,
}

fn decode(path: &Path, groups: &mpsc::Sender<Group>) {
    let mut decoder = RowDecoder::new(DecodeOptions::new(Source::JsonLines));
    let mut file = std::fs::File::open(path).expect("the file is there");
    let commit_bytes_max = commit_bytes_max();
    let (mut group, mut bytes, mut begin) = (Group::default(), 0, 0);
    loop {
        match decoder.next().expect("the file is whole") {
            Step::NeedInput => {
                let mut chunk = vec![0; 256 * 1024];
                let read = file.read(&mut chunk).expect("the file can be read");
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
                    let next = Group { to: begin, ..Group::default() };
                    groups.blocking_send(std::mem::replace(&mut group, next)).expect("somebody takes them");
                }
            }
            Step::Done(stats) => {
                group.end = Some(stats);
                return groups.blocking_send(group).expect("somebody takes them");
            }
        }
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [name, files @ ..] = arguments.as_slice() else {
        println!("usage: SINK FILE.jsonl.gz…, for example sqlite:/tmp/shop.sqlite apply.jsonl.gz");
        return;
    };
    let entities = Entities::parse(&(ENTITIES.to_owned() + &parents()), "bench").expect("the entities are right");
    let plans = EntityPlans::compile(&entities).expect("the entities are right");
    let sink = open(name, &entities, &std::env::temp_dir()).await.expect("the sink can be opened");
    for (nth, path) in files.iter().enumerate() {
        let began = Instant::now();
        let (sender, mut groups) = mpsc::channel(1);
        let decoding = {
            let path = path.clone();
            tokio::task::spawn_blocking(move || decode(Path::new(&path), &sender))
        };
        let (mut from, mut ahead, mut commits) = (0, 0, 0);
        let key = FileKey::of_export("bench", path);
        let is_parent = Path::new(path).file_name().is_some_and(|name| name.to_string_lossy().starts_with("parent"));
        let entity = if is_parent { "parent" } else { "item" };
        let mut next_batch = async || {
            let Group { rows, to, end } = groups.recv().await?;
            let batch = EntityBatch {
                blob_type: Arc::from(entity),
                entity: plans.for_type(entity).cloned(),
                filter: None,
                format: waybill_contracts::Format::JsonLines,
                position: Position::Broker { sequence_number: i64::try_from(nth).expect("few files") },
                rows,
                to,
                end,
                ahead: Ahead::default(),
            };
            let from = std::mem::replace(&mut ahead, to);
            Some(sink.look_ahead(&key, from, batch).await.expect("rows are read"))
        };
        let mut next = next_batch().await;
        while let Some(batch) = next {
            let to = batch.to;
            let applied;
            (applied, next) = tokio::join!(sink.apply(&key, from, batch), next_batch());
            applied.expect("rows are applied");
            (from, commits) = (to, commits + 1);
        }
        decoding.await.expect("decoding ends");
        let took = began.elapsed().as_secs_f64();
        println!("{path}: {from} rows in {took:.3} s, {commits} commits");
    }
}
