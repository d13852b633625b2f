//! Large files, brought into effect in the order of their keys: P4, P7 and P9 where they are worked.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};

use waybill_contracts::{Entities, Reason};
use waybill_formats::Limits;
use waybill_store::rusqlite::Connection;

use super::world::{Running, World, builder, rows_in, until};
use crate::{
    FileKey, OnBadRow, SubscriberBuilder,
    apply::{EntityPlan, EntityPlans},
    inbox::{Inbox, State},
    sink::{Applied, EntityBatch, Guarantee, Progress, Sink, SinkError, SqliteSink, WaitsEnded},
};

const ENTITIES: &str = r#"
    [entity.item]
    types = ["T"]
    key = ["id"]
    version = { field = "v", type = "integer" }
    columns = { id = "integer", text = "text" }
"#;

const ROWS: u64 = 3_000;

fn entities() -> Entities {
    Entities::parse(ENTITIES, "entities.toml").unwrap()
}

/// Row `number` of the file: keys in no order, each of them twice.
fn row(number: u64) -> String {
    let id = number * 7919 % (ROWS / 2);
    format!("{{\"id\":{id},\"v\":{number},\"text\":\"row {number}\"}}\n")
}

fn whole() -> String {
    lines(ROWS)
}

fn lines(rows: u64) -> String {
    (1..=rows).map(row).collect()
}

/// Sorts all files, and commits often.
fn sorting() -> SubscriberBuilder {
    builder().entities(entities()).sort_bytes_max(100_000).commit_rows_max(200.try_into().unwrap())
}

/// A sink that takes as many batches as it is let, and then is down.
#[derive(Clone)]
struct Counting {
    inner: SqliteSink,
    left: Arc<AtomicI64>,
    folder: Option<PathBuf>,
}

impl Counting {
    async fn new(world: &World, left: i64) -> Self {
        let inner = SqliteSink::open(world.folder.path().join("sink.sqlite"), &entities()).await.unwrap();
        Self { inner, left: Arc::new(AtomicI64::new(left)), folder: None }
    }

    fn let_on(&self) {
        self.left.store(i64::MAX, Ordering::SeqCst);
    }

    fn is_down(&self) -> bool {
        self.left.load(Ordering::SeqCst) < 0
    }
}

impl Sink for Counting {
    fn guarantee(&self) -> Guarantee {
        self.inner.guarantee()
    }

    async fn progress(&self, file: &FileKey) -> Result<Progress, SinkError> {
        self.inner.progress(file).await
    }

    fn sorts_in(&self) -> Option<&Path> {
        self.folder.as_deref().or(self.inner.sorts_in())
    }

    async fn may_sort(&self, entity: &EntityPlan) -> Result<bool, SinkError> {
        self.inner.may_sort(entity).await
    }

    async fn begin_again(&self, file: &FileKey, at: Progress) -> Result<(), SinkError> {
        self.inner.begin_again(file, at).await
    }

    async fn apply(&self, file: &FileKey, from: u64, batch: EntityBatch) -> Result<Applied, SinkError> {
        if self.left.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(SinkError::Unavailable { sink: "test".to_owned(), problem: "it is down".to_owned() });
        }
        self.inner.apply(file, from, batch).await
    }

    async fn end_waits(&self) -> Result<WaitsEnded, SinkError> {
        self.inner.end_waits().await
    }
}

/// One value, or `-`.
fn query(world: &World, sql: &str) -> String {
    let connection = Connection::open(world.folder.path().join("sink.sqlite")).unwrap();
    connection.query_row(sql, [], |row| row.get::<_, Option<String>>(0)).unwrap().unwrap_or("-".to_owned())
}

/// The newest row of each key, as a sum that another row would change.
fn expected() -> String {
    expected_of(ROWS)
}

fn expected_of(rows: u64) -> String {
    let newest: std::collections::BTreeMap<u64, u64> =
        (1..=rows).map(|number| (number * 7919 % (ROWS / 2), number)).collect();
    let sum: u64 = newest.iter().map(|(id, number)| (id + 1) * number).sum();
    format!("{} {sum}", newest.len())
}

const TABLE: &str = "SELECT count(*) || ' ' || sum((id + 1) * v) FROM item WHERE text = 'row ' || v";
const COUNTED: &str =
    "SELECT rows || ' ' || done || ' ' || (inserted + updated + superseded + ignored) FROM _waybill_progress";
const IS_SORTED: &str = "SELECT CAST(trail IS NOT NULL AS TEXT) FROM _waybill_progress";

#[tokio::test]
async fn a_large_file_takes_effect_by_key_and_bad_rows_keep_their_places() {
    let world = World::new().await;
    let mut lines: Vec<String> = (1..=ROWS).map(row).collect();
    let offset = |row: usize, lines: &[String]| lines[..row - 1].iter().map(String::len).sum::<usize>();
    lines[1_233] = "{\"id\":\n".to_owned();
    lines[2_345] = "{\"id\":\"none\",\"v\":1}\n".to_owned();
    let places = format!("1234 {}, 2346 {}", offset(1_234, &lines), offset(2_346, &lines));
    world.publish("b", &lines.concat(), "").await;
    let inbox = world.inbox("inbox").await;
    let sink = Counting::new(&world, i64::MAX).await;
    let running = Running::run(&world.subscriber(inbox.clone(), sorting()), sink);
    let done = rows_in(&inbox, State::Done, 1).await.remove("c-b").unwrap();
    running.stop().await;
    assert_eq!((done.rows, done.bad_rows), (ROWS, 2));
    assert_eq!(query(&world, IS_SORTED), "1");
    let bad = "SELECT group_concat(row || ' ' || byte_offset, ', ') FROM (SELECT * FROM _waybill_bad_row ORDER BY row)";
    assert_eq!(query(&world, bad), places);
    assert_eq!(query(&world, "SELECT CAST(count(*) AS TEXT) FROM item WHERE text <> 'row ' || v"), "0");
    assert_eq!(query(&world, COUNTED), format!("{ROWS} 1 {}", ROWS - 2));
}

#[tokio::test]
async fn a_small_file_is_applied_as_it_comes() {
    let world = World::new().await;
    world.publish("b", &whole(), "").await;
    let inbox = world.inbox("inbox").await;
    let sink = Counting::new(&world, i64::MAX).await;
    let running = Running::run(&world.subscriber(inbox.clone(), sorting().sort_bytes_max(48 << 20)), sink);
    rows_in(&inbox, State::Done, 1).await;
    running.stop().await;
    assert_eq!((query(&world, IS_SORTED), query(&world, TABLE)), ("0".to_owned(), expected()));
}

#[tokio::test]
async fn a_large_file_goes_on_where_it_stopped() {
    for extras in [String::new(), format!(r#""plainBytes":{},"rows":{ROWS}"#, whole().len())] {
        let world = World::new().await;
        world.publish("b", &whole(), &extras).await;
        let inbox = world.inbox("inbox").await;
        let sink = Counting::new(&world, 5).await;
        let running = Running::run(&world.subscriber(inbox.clone(), sorting()), sink.clone());
        until("an outage", || async { sink.is_down() }).await;
        assert_eq!(query(&world, COUNTED), "1000 0 1000");
        sink.let_on();
        rows_in(&inbox, State::Done, 1).await;
        running.stop().await;
        assert_eq!(query(&world, TABLE), expected());
        // None of them was looked at twice: then it would be ignored, and as many less be superseded.
        let ignored = "SELECT CAST(ignored AS TEXT) FROM _waybill_progress";
        assert!(query(&world, ignored).parse::<u64>().unwrap() <= ROWS / 200, "only keys that two commits share");
        assert_eq!(query(&world, COUNTED), format!("{ROWS} 1 {ROWS}"));
    }
}

#[tokio::test]
async fn a_file_ends_in_the_order_in_which_it_began() {
    // In its own order a file is cut where the decoder's batches end, after 10,000 rows.
    for (rows, first, then, is_sorted) in [(ROWS, 100_000, usize::MAX, "1"), (12_000, usize::MAX, 100_000, "0")] {
        let world = World::new().await;
        world.publish("b", &lines(rows), "").await;
        let inbox = world.inbox("inbox").await;
        let sink = Counting::new(&world, 1).await;
        let running = Running::run(&world.subscriber(inbox.clone(), sorting().sort_bytes_max(first)), sink.clone());
        until("an outage", || async { sink.is_down() }).await;
        running.stop().await;
        let begun = query(&world, "SELECT rows || ' ' || done FROM _waybill_progress");
        assert_eq!(begun, if is_sorted == "1" { "200 0" } else { "10000 0" });
        sink.let_on();
        let running = Running::run(&world.subscriber(inbox.clone(), sorting().sort_bytes_max(then)), sink);
        rows_in(&inbox, State::Done, 1).await;
        running.stop().await;
        assert_eq!((query(&world, IS_SORTED).as_str(), query(&world, TABLE)), (is_sorted, expected_of(rows)));
        assert_eq!(query(&world, COUNTED), format!("{rows} 1 {rows}"));
    }
}

#[tokio::test]
async fn a_file_whose_order_is_another_one_after_a_change_begins_again() {
    let world = World::new().await;
    // A row that is too long, until the limit is raised; then it is the last but one.
    let long = format!("{{\"id\":{},\"v\":1,\"long\":\"{}\"}}\n", ROWS, "x".repeat(2_000));
    let last = format!("{{\"id\":{},\"v\":1,\"text\":\"row 1\"}}\n", ROWS + 1);
    world.publish("b", &(long + &whole() + &last), "").await;
    let inbox = world.inbox("inbox").await;
    let sink = Counting::new(&world, 5).await;
    let limits = Limits { row_bytes_max: 1_000, ..Limits::default() };
    let running = Running::run(&world.subscriber(inbox.clone(), sorting().limits(limits)), sink.clone());
    until("an outage", || async { sink.is_down() }).await;
    running.stop().await;
    assert_eq!(query(&world, "SELECT group_concat(row || ' ' || reason) FROM _waybill_bad_row"), "1 malformed-row");
    assert_eq!(query(&world, COUNTED), "1000 0 999");

    sink.let_on();
    let subscriber = world.subscriber(inbox.clone(), sorting());
    let running = Running::run(&subscriber, sink);
    let done = rows_in(&inbox, State::Done, 1).await.remove("c-b").unwrap();
    running.stop().await;
    let files = subscriber.figures().files;
    assert_eq!((files.sorting, files.sorted, files.begun_again), (0, 1, 1));
    assert_eq!(
        subscriber.figures().rows.ignored,
        999 - 500,
        "those that had taken effect, but for the older ones of each key"
    );
    assert_eq!((done.rows, done.bad_rows), (ROWS + 2, 0));
    assert_eq!(query(&world, COUNTED), format!("{} 1 {}", ROWS + 2, ROWS + 2));
    assert_eq!(query(&world, "SELECT CAST(count(*) AS TEXT) FROM _waybill_bad_row"), "0");
    let of_old = format!("{TABLE} AND id < {ROWS}");
    assert_eq!(query(&world, &of_old), expected());
    assert_eq!(query(&world, &format!("SELECT CAST(length(long) AS TEXT) FROM item WHERE id = {ROWS}")), "2000");
}

#[tokio::test]
async fn nothing_of_a_large_file_takes_effect_before_all_of_it_was_read() {
    let world = World::new().await;
    let hash = "0".repeat(64);
    world.publish("differs", &whole(), &format!(r#""plainSha256":"{hash}""#)).await;
    world.publish("rows", &whole(), r#""rows":2999"#).await;
    let inbox = world.inbox("inbox").await;
    let sink = Counting::new(&world, i64::MAX).await;
    let running = Running::run(&world.subscriber(inbox.clone(), sorting().verify_hash(true)), sink);
    let quarantined = rows_in(&inbox, State::Quarantined, 2).await;
    running.stop().await;
    assert!(quarantined.values().all(|row| row.reason == Some(Reason::HashMismatch)), "{quarantined:?}");
    assert_eq!(query(&world, "SELECT CAST(count(*) AS TEXT) FROM item"), "0");
}

#[tokio::test]
async fn nothing_of_a_large_file_with_a_bad_row_takes_effect_where_one_fails_it_and_it_is_read_once() {
    for (sort_bytes, reads) in [(100_000, 1), (48 << 20, 2)] {
        let world = World::new().await;
        let rows = whole() + "{\"id\":\n";
        world.publish("b", &rows, "").await;
        let inbox = world.inbox("inbox").await;
        let sink = Counting::new(&world, i64::MAX).await;
        let options = sorting().sort_bytes_max(sort_bytes).on_bad_row(OnBadRow::Fail);
        let subscriber = world.subscriber(inbox.clone(), options);
        let running = Running::run(&subscriber, sink);
        let row = rows_in(&inbox, State::Quarantined, 1).await.remove("c-b").unwrap();
        world.publish("good", &whole(), "").await;
        rows_in(&inbox, State::Done, 1).await;
        running.stop().await;
        let problem = row.problem.unwrap();
        assert!(problem.starts_with(&format!("row {} at byte {}: ", ROWS + 1, whole().len())), "{problem}");
        let files = query(&world, "SELECT CAST(count(*) AS TEXT) FROM _waybill_progress");
        assert_eq!((files.as_str(), query(&world, TABLE)), ("1", expected()));
        let received = subscriber.figures().storage.received_bytes;
        // The bad one was not read again once it was known.
        let expected = rows.len() as u64 + reads * whole().len() as u64;
        assert!((expected..expected + 1_000).contains(&received), "{received}, not {expected}");
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_sorted_says_why_and_goes_in_its_own_order() {
    let world = World::new().await;
    world.publish("b", &whole(), "").await;
    let inbox = world.inbox("inbox").await;
    let sink = Counting::new(&world, i64::MAX).await;
    let sink = Counting { folder: Some(world.folder.path().join("not there")), ..sink };
    let running = Running::run(&world.subscriber(inbox.clone(), sorting()), sink);
    let done = rows_in(&inbox, State::Done, 1).await.remove("c-b").unwrap();
    running.stop().await;
    let told: Vec<String> =
        inbox.history(done.id).await.unwrap().into_iter().filter_map(|entry| entry.problem).collect();
    assert!(told.iter().any(|problem| problem.contains("a large file cannot be sorted there")), "{told:?}");
    assert_eq!((query(&world, IS_SORTED), query(&world, TABLE)), ("0".to_owned(), expected()));
}

/// Whoever is stopped more often than a file is read would never come to its end otherwise.
#[tokio::test]
async fn a_file_that_was_read_in_vain_goes_in_its_own_order() {
    let world = World::new().await;
    world.publish("b", &whole(), "").await;
    let inbox = world.inbox("inbox").await;
    let sink = Counting::new(&world, 0).await;
    let running = Running::run(&world.subscriber(inbox.clone(), sorting()), sink.clone());
    until("an outage", || async { sink.is_down() }).await;
    running.stop().await;
    sink.let_on();
    let running = Running::run(&world.subscriber(inbox.clone(), sorting()), sink);
    rows_in(&inbox, State::Done, 1).await;
    running.stop().await;
    assert_eq!((query(&world, IS_SORTED), query(&world, TABLE)), ("0".to_owned(), expected()));
}

#[tokio::test]
async fn rows_whose_order_the_table_looks_at_are_not_sorted() {
    let world = World::new().await;
    let database = Connection::open(world.folder.path().join("sink.sqlite")).unwrap();
    database.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY, v INTEGER, text TEXT UNIQUE, _waybill_version BLOB, _rescued TEXT)").unwrap();
    // Texts that go from high ids to low ones, which would come first.
    let had = |id: u64| format!("{{\"id\":{},\"v\":1,\"text\":\"t {id}\"}}\n", id + ROWS);
    let gone = |id: u64| format!("{{\"id\":{},\"v\":2,\"_deleted\":true}}\n", id + ROWS);
    let has = |id: u64| format!("{{\"id\":{id},\"v\":2,\"text\":\"t {id}\"}}\n");
    let inbox = world.inbox("inbox").await;
    let sink = Counting::new(&world, i64::MAX).await;
    let running = Running::run(&world.subscriber(inbox.clone(), sorting()), sink);
    world.publish("a", &(0..ROWS).map(had).collect::<String>(), "").await;
    rows_in(&inbox, State::Done, 1).await;
    world.publish("b", &(0..ROWS).map(gone).chain((0..ROWS).map(has)).collect::<String>(), "").await;
    let done = rows_in(&inbox, State::Done, 2).await.remove("c-b").unwrap();
    running.stop().await;
    assert_eq!((done.rows, done.bad_rows), (2 * ROWS, 0));
    let rows = format!("SELECT CAST(count(*) AS TEXT) FROM item WHERE id < {ROWS} AND text = 't ' || id");
    assert_eq!(query(&world, &rows), ROWS.to_string());
}

#[tokio::test]
async fn only_a_table_that_takes_rows_in_any_order_is_filled_by_key() {
    const PARENTS: &str = "[entity.item]\nkey = [\"id\"]\ncolumns = { id = \"integer\" }\n";
    let cases = [
        ("CREATE TABLE item (id INTEGER PRIMARY KEY, boss INTEGER)", "", true),
        ("CREATE TABLE item (id INTEGER NOT NULL UNIQUE, boss INTEGER)", "", true),
        ("CREATE TABLE item (id INTEGER PRIMARY KEY, boss INTEGER UNIQUE)", "", false),
        ("CREATE TABLE item (id INTEGER PRIMARY KEY, boss INTEGER REFERENCES item (id))", "", false),
        (
            "CREATE TABLE item (id INTEGER PRIMARY KEY, boss INTEGER);
             CREATE TRIGGER t BEFORE INSERT ON item BEGIN SELECT 1; END",
            "",
            false,
        ),
        ("CREATE TABLE other (id INTEGER PRIMARY KEY, x UNIQUE)", "", true),
        ("", "references = [{ fields = [\"boss\"], entity = \"item\", on_missing = \"park\" }]\n", false),
    ];
    for (number, (tables, more, expected)) in cases.into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sink.sqlite");
        let tables = tables.replace("TABLE item (", "TABLE item (_waybill_version BLOB, _rescued TEXT, ");
        Connection::open(&path).unwrap().execute_batch(&tables).unwrap();
        let entities = Entities::parse(&format!("{PARENTS}{more}"), "entities.toml").unwrap();
        let sink = SqliteSink::open(path, &entities).await.unwrap();
        let plans = EntityPlans::compile(&entities).unwrap();
        assert_eq!(sink.may_sort(plans.get("item").unwrap()).await.unwrap(), expected, "{number}: {tables} {more}");
    }
}
