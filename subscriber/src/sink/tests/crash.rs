//! Workers that die, and workers that race.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rand::RngExt as _;
use tokio::sync::mpsc;
use waybill_formats::{RowBatch, Source};

use super::world::{
    decode, entities,
    postgres::{Place, run},
    progress,
    sqlite::{DATABASE, World, query},
    stats,
};
use crate::{
    FileKey,
    apply::{EntityPlans, Position},
    sink::{Ahead, DirSink, EntityBatch, PostgresSink, Sink, SinkError, SqliteSink, Stretch},
    sorted::{SortedRows, Sorter},
};

const SHOP: &str = r#"
    [entity.item]
    key = ["id"]
    version = { field = "v", type = "integer" }
    columns = { id = "integer" }
    [entity.price]
    key = ["id"]
    version = { field = "v", type = "integer" }
    columns = { id = "integer", item = "integer", amount = "decimal" }
    [[entity.price.references]]
    fields = ["item"]
    entity = "item"
"#;

const ROWS: u64 = 3_000;
const STEP: u64 = 100;
/// Of a file.
const STEPS: usize = (ROWS / STEP) as usize;

/// Prices, which all wait, then the items, which release them; with updates and deletions of both.
fn files() -> [(&'static str, FileKey, Vec<RowBatch>); 2] {
    let (mut prices, mut items) = (String::new(), String::new());
    for n in 1..=ROWS {
        let id = n * 7919 % 1_500;
        let end = if n % 10 == 0 { ",\"_deleted\":true" } else { "" };
        writeln!(prices, "{{\"id\":{id},\"item\":{},\"amount\":{n}.50,\"v\":{n}{end}}}", id % 700).unwrap();
        writeln!(items, "{{\"id\":{},\"name\":\"item {n}\",\"v\":{n}}}", n % 700).unwrap();
    }
    let rows = |text: &str| decode(Source::JsonLines, text, 10);
    [
        ("price", FileKey::of_export("shop", "prices"), rows(&prices)),
        ("item", FileKey::of_export("shop", "items"), rows(&items)),
    ]
}

fn stretch(blob_type: &str, plans: Option<&EntityPlans>, rows: &[RowBatch], from: u64) -> EntityBatch {
    let to = from + STEP;
    EntityBatch {
        blob_type: blob_type.into(),
        entity: plans.and_then(|plans| plans.for_type(blob_type)).cloned(),
        filter: None,
        format: waybill_contracts::Format::JsonLines,
        position: Position::Broker { sequence_number: 1 },
        rows: rows.iter().filter(|batch| batch.first_row() > from && batch.last_row() <= to).cloned().collect(),
        to,
        end: (to == ROWS).then(|| stats(ROWS)),
        sorted: None,
        ahead: Ahead::default(),
    }
}

/// Works both files from where they are to their ends.
async fn work(sink: &impl Sink, plans: Option<&EntityPlans>, mut tell: impl FnMut(u64)) {
    for (blob_type, key, rows) in files() {
        loop {
            let at = progress(sink, &key).await;
            if at.done {
                break;
            }
            tell(at.rows);
            match sink.apply(&key, at.rows, stretch(blob_type, plans, &rows, at.rows)).await {
                Ok(_) | Err(SinkError::Fenced { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// As [`work`], in the order of keys, in steps of `rows`.
async fn work_in_key_order(sink: &SqliteSink, rows: u64, mut tell: impl FnMut(u64)) {
    for (blob_type, key, batches) in files() {
        loop {
            let mut at = progress(sink, &key).await;
            if at.done {
                break;
            }
            let whole = stretch(blob_type, Some(sink.plans()), &batches, 0);
            let mut sorter = Sorter::new(sink.sorts_in().unwrap(), whole.entity.unwrap(), 20_000);
            batches.iter().for_each(|batch| sorter.add(batch.clone()).unwrap());
            let mut sorted = sorter.finish().unwrap();
            let mut before = at.trail.unwrap_or_default();
            assert!(sorted.skip(at.rows, before).unwrap(), "the same order comes out");
            while let Some(SortedRows { batches, rows, dropped, trail }) = sorted.next_rows(rows, usize::MAX).unwrap() {
                tell(at.rows);
                let to = at.rows + rows;
                let batch = EntityBatch {
                    rows: batches,
                    to,
                    end: (to == ROWS).then(|| stats(ROWS)),
                    sorted: Some(Stretch { before, after: trail, dropped }),
                    ..stretch(blob_type, Some(sink.plans()), &[], 0)
                };
                match sink.apply(&key, at.rows, batch).await {
                    Ok(_) => (at.rows, before) = (to, trail),
                    Err(SinkError::Fenced { .. }) => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
}

/// As [`work`], each file as one.
async fn work_whole(sink: &impl Sink, plans: &EntityPlans, mut tell: impl FnMut(u64)) {
    for (blob_type, key, rows) in files() {
        if progress(sink, &key).await.done {
            continue;
        }
        let (to, batches) = mpsc::channel(1);
        let giving = async {
            for from in (0..ROWS / STEP).map(|nth| nth * STEP) {
                tell(from);
                to.send(stretch(blob_type, Some(plans), &rows, from)).await.unwrap();
            }
        };
        let (applied, ()) = tokio::join!(sink.apply_whole(&key, batches), giving);
        assert_eq!(applied.unwrap().unwrap().rows(), ROWS);
    }
}

const TABLES: [&str; 5] = [
    "SELECT id, item, amount, v, hex(_waybill_version) FROM price ORDER BY id",
    "SELECT id, name, v, hex(_waybill_version) FROM item ORDER BY id",
    "SELECT entity, key, hex(version) FROM _waybill_tombstone ORDER BY entity, key",
    "SELECT entity, key FROM _waybill_parked ORDER BY entity, key",
    "SELECT file, rows, done, inserted, updated, deleted, ignored, superseded, parked, released, bad FROM _waybill_progress ORDER BY file",
];

fn tables(path: &Path) -> Vec<String> {
    TABLES.iter().flat_map(|sql| query(path, sql)).collect()
}

/// A process of this test binary that works the files of the named test, in a folder or a database, until it is killed. Whether it
/// was at work then.
fn kill_at_random(test: &str, place: impl AsRef<OsStr>, applies_before: usize) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("sink::tests::crash::{test}"), "--nocapture", "--test-threads=1"])
        .env("WAYBILL_TEST_CHILD", place.as_ref())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // `apply` has begun when the line comes; then it is killed within the next few milliseconds, wherever it is.
    let told = lines.map_while(Result::ok).filter(|line| line.contains("applying from")).take(applies_before).count();
    std::thread::sleep(Duration::from_micros(rand::rng().random_range(0..6_000)));
    child.kill().unwrap();
    child.wait().unwrap();
    told > 0
}

fn child_folder() -> Option<std::path::PathBuf> {
    std::env::var_os("WAYBILL_TEST_CHILD").map(Into::into)
}

fn applying(from: u64) {
    println!("applying from {from}");
}

#[tokio::test]
async fn kill_nine_in_the_middle_of_apply_changes_nothing_but_time() {
    let open = async |folder: &Path| SqliteSink::open(folder.join(DATABASE), &entities(SHOP)).await.unwrap();
    if let Some(folder) = child_folder() {
        let sink = open(&folder).await;
        return work(&sink, Some(sink.plans()), applying).await;
    }
    let calm = tempfile::tempdir().unwrap();
    let sink = open(calm.path()).await;
    work(&sink, Some(sink.plans()), |_| ()).await;
    let expected = tables(&calm.path().join(DATABASE));

    let killed = tempfile::tempdir().unwrap();
    let mut at_work = 0;
    for _ in 0..10 {
        let before = rand::rng().random_range(2..7);
        let test = "kill_nine_in_the_middle_of_apply_changes_nothing_but_time";
        at_work += u32::from(kill_at_random(test, killed.path(), before));
    }
    assert!(at_work >= 5, "only {at_work} of 10 were killed at work");
    let path = killed.path().join(DATABASE);
    let sink = open(killed.path()).await;
    let done = query(&path, "SELECT count(*) FROM _waybill_progress WHERE done").concat();
    let rows = query(&path, "SELECT sum(rows) FROM _waybill_progress").concat();
    println!("after ten kills: {rows} of {} rows, {done} files done", 2 * ROWS);
    work(&sink, Some(sink.plans()), |_| ()).await;
    assert_eq!(tables(&path), expected);
}

#[tokio::test]
async fn kill_nine_in_the_middle_of_rows_in_the_order_of_keys_changes_nothing_but_time() {
    let open = async |folder: &Path| SqliteSink::open(folder.join(DATABASE), &entities(SHOP)).await.unwrap();
    if let Some(folder) = child_folder() {
        return work_in_key_order(&open(&folder).await, STEP, applying).await;
    }
    let calm = tempfile::tempdir().unwrap();
    work_in_key_order(&open(calm.path()).await, STEP, |_| ()).await;

    let killed = tempfile::tempdir().unwrap();
    let mut at_work = 0;
    for _ in 0..8 {
        let before = rand::rng().random_range(2..9);
        let test = "kill_nine_in_the_middle_of_rows_in_the_order_of_keys_changes_nothing_but_time";
        at_work += u32::from(kill_at_random(test, killed.path(), before));
    }
    assert!(at_work >= 4, "only {at_work} of 8 were killed at work");
    let path = killed.path().join(DATABASE);
    work_in_key_order(&open(killed.path()).await, STEP, |_| ()).await;
    assert_eq!(tables(&path), tables(&calm.path().join(DATABASE)));
    let left: Vec<_> = std::fs::read_dir(killed.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name.to_str().unwrap().starts_with(DATABASE)), "{left:?}");
}

/// What is there of the files: all rows of each that is done, and none of the others.
const PARTS: &str = "SELECT count(*) FROM _waybill_progress WHERE NOT done OR rows <> 3000
    UNION ALL SELECT count(*) FROM _waybill_parked WHERE NOT EXISTS (SELECT 1 FROM _waybill_progress)";

#[tokio::test]
async fn kill_nine_in_the_middle_of_a_file_that_is_one_transaction_leaves_nothing_of_it() {
    let open = async |folder: &Path| SqliteSink::open(folder.join(DATABASE), &entities(SHOP)).await.unwrap();
    if let Some(folder) = child_folder() {
        let sink = open(&folder).await;
        return work_whole(&sink, sink.plans(), applying).await;
    }
    let calm = tempfile::tempdir().unwrap();
    let sink = open(calm.path()).await;
    work(&sink, Some(sink.plans()), |_| ()).await;

    let killed = tempfile::tempdir().unwrap();
    let path = killed.path().join(DATABASE);
    let mut at_work = 0;
    for _ in 0..8 {
        let test = "kill_nine_in_the_middle_of_a_file_that_is_one_transaction_leaves_nothing_of_it";
        at_work += u32::from(kill_at_random(test, killed.path(), rand::rng().random_range(2..STEPS)));
        let sink = open(killed.path()).await;
        assert_eq!(query(&path, PARTS), ["0", "0"]);
        sink.close().await;
    }
    // A child that is not watched for a moment may bring all files into effect before it is killed.
    assert!(at_work >= 1, "none was killed at work");
    let sink = open(killed.path()).await;
    work_whole(&sink, sink.plans(), |_| ()).await;
    assert_eq!(tables(&path), tables(&calm.path().join(DATABASE)));
}

#[tokio::test]
async fn kill_nine_in_the_middle_of_a_file_that_is_one_transaction_in_postgresql_leaves_nothing_of_it() {
    let open = async |address: &str| PostgresSink::open(address, &entities(SHOP)).await.unwrap();
    if let Some(address) = child_folder() {
        let sink = open(address.to_str().unwrap()).await;
        return work_whole(&sink, sink.plans(), applying).await;
    }
    let place = Place::new().await;
    let (calm, killed) = (place.schema("calm").await, place.schema("killed").await);
    let sink = open(&calm).await;
    work(&sink, Some(sink.plans()), |_| ()).await;

    let mut at_work = 0;
    for _ in 0..8 {
        let test = "kill_nine_in_the_middle_of_a_file_that_is_one_transaction_in_postgresql_leaves_nothing_of_it";
        at_work += u32::from(kill_at_random(test, &killed, rand::rng().random_range(2..STEPS)));
        // What the tables hold before any child had made them is nothing.
        let sink = open(&killed).await;
        assert_eq!(run(&killed, PARTS).await, ["0", "0"]);
        sink.close();
    }
    assert!(at_work >= 1, "none was killed at work");
    let sink = open(&killed).await;
    work_whole(&sink, sink.plans(), |_| ()).await;
    for sql in TABLES {
        let sql = sql.replace("hex(", "encode(").replace("version)", "version, 'hex')");
        assert_eq!(run(&killed, &sql).await, run(&calm, &sql).await, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_race_in_the_order_of_keys_apply_each_row_once() {
    let calm = World::new(SHOP).await;
    work_in_key_order(&calm.sink, 500, |_| ()).await;

    let raced = World::new(SHOP).await;
    let other = SqliteSink::open(raced.folder.path().join(DATABASE), &raced.entities).await.unwrap();
    let workers = [&raced.sink, &other, &other].map(|sink| work_in_key_order(sink, 500, |_| ()));
    futures::future::join_all(workers).await;
    assert_eq!(tables(&raced.folder.path().join(DATABASE)), tables(&calm.folder.path().join(DATABASE)));
}

#[tokio::test]
async fn kill_nine_leaves_each_row_in_a_folder_once() {
    if let Some(folder) = child_folder() {
        return work(&DirSink::open(folder).await.unwrap(), None, applying).await;
    }
    let folder = tempfile::tempdir().unwrap();
    for _ in 0..6 {
        let _: bool =
            kill_at_random("kill_nine_leaves_each_row_in_a_folder_once", folder.path(), rand::rng().random_range(1..6));
    }
    let sink = DirSink::open(folder.path()).await.unwrap();
    work(&sink, None, |_| ()).await;
    for (blob_type, _, rows) in files() {
        let inside = std::fs::read_dir(folder.path().join(blob_type)).unwrap();
        let files: Vec<_> = inside.map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1);
        let expected: String =
            rows.iter().flat_map(RowBatch::rows).map(|row| row.to_json().into_owned() + "\n").collect();
        assert_eq!(std::fs::read_to_string(&files[0]).unwrap(), expected);
    }
    assert_eq!(std::fs::read_dir(folder.path().join(".waybill/parts")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_race_for_one_file_apply_each_row_once() {
    let calm = World::new(SHOP).await;
    work(&calm.sink, Some(calm.sink.plans()), |_| ()).await;

    let raced = World::new(SHOP).await;
    // Two handles on one file, as two processes have, and two workers on each.
    let other = SqliteSink::open(raced.folder.path().join(DATABASE), &raced.entities).await.unwrap();
    let workers = [&raced.sink, &raced.sink, &other, &other].map(|sink| work(sink, Some(sink.plans()), |_| ()));
    futures::future::join_all(workers).await;
    assert_eq!(tables(&raced.folder.path().join(DATABASE)), tables(&calm.folder.path().join(DATABASE)));
}

#[tokio::test]
async fn a_batch_that_fails_leaves_no_trace() {
    let world = World::new(SHOP).await;
    let [_, (_, key, rows)] = files();
    world.query("CREATE TABLE keep AS SELECT 1");
    waybill_store::rusqlite::Connection::open(world.folder.path().join(DATABASE))
        .unwrap()
        .execute_batch("DROP TABLE _waybill_bad_row")
        .unwrap();
    let mut batch = stretch("item", Some(world.sink.plans()), &rows, 0);
    batch.rows.extend(decode(Source::JsonLines, "{\"id\":1}\n", 1));
    let result = world.sink.apply(&key, 0, batch).await;
    assert!(matches!(result, Err(SinkError::Failed { .. })), "{result:?}");
    assert!(world.query("SELECT * FROM item").is_empty());
    assert_eq!(progress(&world.sink, &key).await.rows, 0);
}
