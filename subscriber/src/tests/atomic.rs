//! Files that take effect as a whole, or not at all: P4, P7 and P9 where they are worked.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use waybill_contracts::{Entities, Reason};
use waybill_local::{
    BlobOperation,
    fault::{BlobRequests, Step, What},
};
use waybill_store::{
    rusqlite::Connection,
    tokio_postgres::{self, NoTls},
};

use super::{
    sink::MemorySink,
    world::{Running, World, builder, rows_in, until},
};
use crate::{
    FileKey, OnBadRow, RunError, SubscriberBuilder,
    apply::EntityPlan,
    inbox::{Inbox, SqliteInbox, SqliteInboxOptions, State},
    sink::{self, AnySink, Applied, EntityBatch, Guarantee, Progress, Sink, SinkError, WaitsEnded, WholeFiles},
};

const ENTITIES: &str = r#"
    [entity.item]
    types = ["T"]
    key = ["id"]
    version = { field = "v", type = "integer" }
    columns = { id = "integer", text = "text" }

    [entity.price]
    types = ["P"]
    key = ["id"]
    version = { field = "v", type = "integer" }
    columns = { id = "integer", item = "integer" }
    references = [{ fields = ["item"], entity = "item" }]
"#;

/// Batches of the decoder hold 10,000 rows, so a file of this many comes in three.
const LONG: u64 = 25_000;
const BATCHES: usize = 3;

fn entities() -> Entities {
    Entities::parse(ENTITIES, "entities.toml").unwrap()
}

fn atomic() -> SubscriberBuilder {
    builder().entities(entities()).atomic(true).commit_rows_max(10_000.try_into().unwrap())
}

fn items(ids: std::ops::RangeInclusive<u64>) -> String {
    ids.map(|id| format!("{{\"id\":{id},\"v\":1,\"text\":\"item {id}\"}}\n")).collect()
}

fn packed(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut encoder, text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// Where the tables are.
enum Place {
    Sqlite(PathBuf),
    Postgres(String),
}

impl Place {
    /// One in each database.
    async fn each(world: &World) -> [Self; 2] {
        let server = std::env::var("WAYBILL_TEST_POSTGRES")
            .expect("WAYBILL_TEST_POSTGRES is not set: run `cargo xtask test`, which starts a PostgreSQL");
        let schema = format!("atomic_{}", Uuid::new_v4().simple());
        Self::Postgres(server.clone()).run(&format!("CREATE SCHEMA {schema}")).await;
        let address = format!("{server}?sslmode=disable&options=-c%20search_path%3D{schema}");
        [Self::Sqlite(world.folder.path().join("sink.sqlite")), Self::Postgres(address)]
    }

    async fn open(&self) -> AnySink {
        let name = match self {
            Self::Sqlite(path) => format!("sqlite:{}", path.display()),
            Self::Postgres(address) => address.clone(),
        };
        sink::open(&name, &entities(), Path::new("")).await.unwrap()
    }

    async fn run(&self, sql: &str) {
        let Self::Postgres(address) = self else { return };
        let (client, connection) = tokio_postgres::connect(address, NoTls).await.unwrap();
        let asked = async move { client.batch_execute(sql).await.unwrap() };
        tokio::join!(async { connection.await.unwrap() }, asked);
    }

    /// What a `count(*)` gives.
    async fn count(&self, of: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM {of}");
        match self {
            Self::Sqlite(path) => Connection::open(path).unwrap().query_row(&sql, [], |row| row.get(0)).unwrap(),
            Self::Postgres(address) => {
                let (client, connection) = tokio_postgres::connect(address, NoTls).await.unwrap();
                let asked = async move { client.query_one(&sql, &[]).await.unwrap().get(0) };
                tokio::join!(async { connection.await.unwrap() }, asked).1
            }
        }
    }
}

/// Lets as many batches pass to the sink as there are permits.
#[derive(Clone)]
struct Gated {
    inner: AnySink,
    gate: Arc<Semaphore>,
    /// Batches that passed.
    passed: Arc<AtomicU64>,
}

impl Gated {
    fn new(inner: AnySink, permits: usize) -> Self {
        Self { inner, gate: Arc::new(Semaphore::new(permits)), passed: Arc::default() }
    }

    async fn pass(&self) {
        self.gate.acquire().await.unwrap().forget();
        self.passed.fetch_add(1, Ordering::SeqCst);
    }

    fn passed(&self) -> u64 {
        self.passed.load(Ordering::SeqCst)
    }
}

impl Sink for Gated {
    fn guarantee(&self) -> Guarantee {
        self.inner.guarantee()
    }

    async fn progress(&self, file: &FileKey) -> Result<Progress, SinkError> {
        self.inner.progress(file).await
    }

    fn sorts_in(&self) -> Option<&Path> {
        self.inner.sorts_in()
    }

    async fn may_sort(&self, entity: &EntityPlan) -> Result<bool, SinkError> {
        self.inner.may_sort(entity).await
    }

    async fn apply(&self, file: &FileKey, from: u64, batch: EntityBatch) -> Result<Applied, SinkError> {
        self.pass().await;
        self.inner.apply(file, from, batch).await
    }

    fn whole_files(&self) -> WholeFiles {
        self.inner.whole_files()
    }

    async fn apply_whole(
        &self,
        file: &FileKey,
        mut batches: mpsc::Receiver<EntityBatch>,
    ) -> Result<Option<Applied>, SinkError> {
        let (to, passed) = mpsc::channel(1);
        let passing = async move {
            while let Some(batch) = batches.recv().await {
                self.pass().await;
                if to.send(batch).await.is_err() {
                    break;
                }
            }
        };
        tokio::join!(self.inner.apply_whole(file, passed), passing).0
    }

    async fn end_waits(&self) -> Result<WaitsEnded, SinkError> {
        self.inner.end_waits().await
    }
}

#[tokio::test]
async fn of_a_file_that_is_not_what_it_should_be_nothing_takes_effect_and_the_others_go_on() {
    for is_atomic in [true, false] {
        let world = World::new().await;
        let whole = packed(&items(1..=LONG));
        let mut wrong = whole.clone();
        let at = wrong.len() - 6;
        wrong[at] ^= 1;
        world.upload("cut", &whole[..whole.len() - 20]).await;
        world.upload("checksum", &wrong).await;
        world.upload("count", &whole).await;
        world.upload("good", &packed(&items(1..=7))).await;
        let more = format!("\"rows\":{}", LONG + 1);
        let bodies = [("cut", ""), ("checksum", ""), ("count", &*more), ("good", "")]
            .map(|(name, of)| world.waybill("T", name, of));
        for (nth, place) in Place::each(&world).await.into_iter().enumerate() {
            world.send(&bodies).await;
            let inbox = world.inbox(&format!("inbox {nth}")).await;
            let subscriber = world.subscriber(inbox.clone(), atomic().atomic(is_atomic));
            let running = Running::run(&subscriber, place.open().await);
            let quarantined = rows_in(&inbox, State::Quarantined, 3).await;
            rows_in(&inbox, State::Done, 1).await;
            running.stop().await;
            let reasons: Vec<_> = ["c-cut", "c-count"].iter().map(|id| quarantined[*id].reason.unwrap()).collect();
            assert_eq!(reasons, [Reason::TruncatedFile, Reason::HashMismatch]);
            let told = quarantined.values().filter(|row| row.problem.as_ref().unwrap().contains("applied")).count();
            let counts = (place.count("item").await, place.count("_waybill_progress").await, told);
            if is_atomic {
                assert_eq!(counts, (7, 1, 0));
            } else {
                assert_eq!(counts, (20_000, 4, 3), "what was read before that was known is in effect");
            }
        }
    }
}

#[tokio::test]
async fn a_malformed_row_that_fails_its_file_takes_back_those_before_it_and_the_file_is_read_once() {
    let world = World::new().await;
    let rows = items(1..=LONG) + "{\"id\":\n";
    world.upload("bad", rows.as_bytes()).await;
    world.upload("good", items(1..=LONG).as_bytes()).await;
    let bodies = ["bad", "good"].map(|name| world.waybill("T", name, ""));
    for (nth, place) in Place::each(&world).await.into_iter().enumerate() {
        world.send(&bodies).await;
        let inbox = world.inbox(&format!("inbox {nth}")).await;
        let subscriber = world.subscriber(inbox.clone(), atomic().on_bad_row(OnBadRow::Fail));
        let running = Running::run(&subscriber, place.open().await);
        let bad = rows_in(&inbox, State::Quarantined, 1).await.remove("c-bad").unwrap();
        rows_in(&inbox, State::Done, 1).await;
        running.stop().await;
        let problem = bad.problem.unwrap();
        assert!(problem.starts_with(&format!("row {} at byte ", LONG + 1)), "{problem}");
        assert_eq!(place.count("_waybill_progress WHERE done AND inserted = 25000").await, 1);
        assert_eq!((place.count("item").await, place.count("_waybill_progress").await), (25_000, 1));
        let (received, expected) = (subscriber.figures().storage.received_bytes, 2 * rows.len() as u64);
        assert!(received < expected + 1_000, "{received}, not {expected}");
    }
}

#[tokio::test]
async fn a_stop_in_the_middle_leaves_nothing_of_a_file_and_the_next_run_brings_all_of_it() {
    let world = World::new().await;
    world.upload("b", items(1..=LONG).as_bytes()).await;
    for (nth, place) in Place::each(&world).await.into_iter().enumerate() {
        world.send(&[world.waybill("T", "b", "")]).await;
        let inbox = world.inbox(&format!("inbox {nth}")).await;
        let stopped = Gated::new(place.open().await, BATCHES - 1);
        let running =
            Running::run(&world.subscriber(inbox.clone(), atomic().drain_timeout(Duration::ZERO)), stopped.clone());
        until("all but one batch", || async { stopped.passed() == BATCHES as u64 - 1 }).await;
        running.stop().await;
        assert_eq!((place.count("item").await, place.count("_waybill_progress").await), (0, 0));
        assert_eq!(inbox.counts().await.unwrap().saved, 1, "it was given back");

        let sink = Gated::new(place.open().await, 1_000);
        let running = Running::run(&world.subscriber(inbox.clone(), atomic()), sink.clone());
        let done = rows_in(&inbox, State::Done, 1).await.remove("c-b").unwrap();
        running.stop().await;
        assert_eq!((done.rows, sink.passed()), (LONG, BATCHES as u64), "it is not held as one");
        assert_eq!(place.count("item").await, 25_000);
        assert_eq!(place.count("_waybill_progress WHERE done AND inserted = 25000").await, 1);
    }
}

#[tokio::test]
async fn a_file_whose_storage_does_not_answer_holds_up_no_other_one() {
    let world = World::new().await;
    for blob in ["silent", "b"] {
        world.upload(blob, items(1..=3).as_bytes()).await;
    }
    let silent = BlobRequests { name_contains: Some("silent".to_owned()), ..BlobRequests::of(BlobOperation::GetBlob) };
    for (nth, place) in Place::each(&world).await.into_iter().enumerate() {
        let delay = What::Delay(Duration::from_secs(3600));
        world.local.faults().install([Step::new(silent.clone(), delay)]).unwrap();
        let inbox = world.inbox(&format!("inbox {nth}")).await;
        let one = builder().entities(entities()).atomic(true).commits_in_flight_max(1.try_into().unwrap());
        let running =
            Running::run(&world.subscriber(inbox.clone(), one.drain_timeout(Duration::ZERO)), place.open().await);
        world.send(&[world.waybill("T", "silent", "")]).await;
        rows_in(&inbox, State::Working, 1).await;
        world.send(&[world.waybill("T", "b", "")]).await;
        rows_in(&inbox, State::Done, 1).await;
        running.stop().await;
        assert_eq!(inbox.counts().await.unwrap().saved, 1, "it was given back");
        world.local.faults().clear();
    }
}

#[tokio::test]
async fn a_long_transaction_keeps_its_lease_and_no_other_worker_takes_the_file() {
    const LEASE: Duration = Duration::from_millis(700);
    let world = World::new().await;
    world.upload("b", items(1..=LONG).as_bytes()).await;
    for (nth, place) in Place::each(&world).await.into_iter().enumerate() {
        let path = world.folder.path().join(format!("inbox {nth}"));
        let inbox = async || {
            let options = SqliteInboxOptions { lease: LEASE, ..SqliteInboxOptions::default() };
            SqliteInbox::open(&path, options).await.unwrap()
        };
        let (one, two) = (inbox().await, inbox().await);
        world.send(&[world.waybill("T", "b", "")]).await;
        // Whoever opens an SQLite file in the middle waits for the end.
        let (gated, other_sink) = (Gated::new(place.open().await, 1), place.open().await);
        let first = Running::run(&world.subscriber(one.clone(), atomic()), gated.clone());
        until("the first batch", || async { gated.passed() == 1 }).await;
        let other = world.subscriber(two.clone(), atomic());
        let second = Running::run(&other, other_sink);
        sleep(3 * LEASE).await;
        assert_eq!(two.counts().await.unwrap().working, 1);
        gated.gate.add_permits(1_000);
        let done = rows_in(&one, State::Done, 1).await.remove("c-b").unwrap();
        first.stop().await;
        second.stop().await;
        assert_eq!((done.attempts, other.work_stats().files_done.load(Ordering::Relaxed)), (1, 0));
        assert_eq!(place.count("item").await, 25_000);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_workers_bring_whole_files_of_parents_and_children_into_effect_once() {
    const FILES: u64 = 5;
    const ROWS: u64 = 1_000;
    let world = World::new().await;
    let price = |id: u64| format!("{{\"id\":{id},\"v\":1,\"item\":{id}}}\n");
    let mut bodies = Vec::new();
    for file in 0..FILES {
        let ids = file * ROWS + 1..=(file + 1) * ROWS;
        world.upload(&format!("p{file}"), ids.clone().map(price).collect::<String>().as_bytes()).await;
        world.upload(&format!("i{file}"), items(ids).as_bytes()).await;
        bodies.insert(0, world.waybill("P", &format!("p{file}"), ""));
        bodies.push(world.waybill("T", &format!("i{file}"), ""));
    }
    for (nth, place) in Place::each(&world).await.into_iter().enumerate() {
        let options = || atomic().commit_rows_max(100.try_into().unwrap());
        let (one, two) = (world.inbox(&format!("inbox {nth}")).await, world.inbox(&format!("inbox {nth}")).await);
        let first = Running::run(&world.subscriber(one.clone(), options()), place.open().await);
        let second = Running::run(&world.subscriber(two, options()), place.open().await);
        world.send(&bodies).await;
        rows_in(&one, State::Done, 2 * FILES as usize).await;
        first.stop().await;
        second.stop().await;
        assert_eq!((place.count("item").await, place.count("price").await), (5_000, 5_000));
        assert_eq!((place.count("_waybill_parked").await, place.count("_waybill_bad_row").await), (0, 0));
        assert_eq!(place.count("_waybill_progress WHERE done AND inserted + parked = 1000").await, 10);
    }
}

#[tokio::test]
async fn a_large_file_for_sqlite_is_sorted_and_takes_effect_as_a_whole() {
    let world = World::new().await;
    let whole = packed(&items(1..=LONG));
    world.upload("cut", &whole[..whole.len() - 20]).await;
    world.upload("good", &whole).await;
    world.send(&["cut", "good"].map(|name| world.waybill("T", name, ""))).await;
    let [place, _] = Place::each(&world).await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), atomic().sort_bytes_max(100_000));
    let sink = Gated::new(place.open().await, 1_000);
    let running = Running::run(&subscriber, sink.clone());
    rows_in(&inbox, State::Quarantined, 1).await;
    rows_in(&inbox, State::Done, 1).await;
    running.stop().await;
    assert_eq!((place.count("item").await, sink.passed()), (25_000, BATCHES as u64));
    assert_eq!(place.count("_waybill_progress WHERE done AND rows = 25000 AND trail IS NOT NULL").await, 1);
    assert_eq!(place.count("_waybill_progress").await, 1);
}

#[tokio::test]
async fn a_file_that_began_to_take_effect_in_parts_ends_so() {
    let world = World::new().await;
    world.upload("b", items(1..=LONG).as_bytes()).await;
    for (nth, place) in Place::each(&world).await.into_iter().enumerate() {
        world.send(&[world.waybill("T", "b", "")]).await;
        let inbox = world.inbox(&format!("inbox {nth}")).await;
        let stopped = Gated::new(place.open().await, 1);
        let options = atomic().atomic(false).drain_timeout(Duration::ZERO);
        let running = Running::run(&world.subscriber(inbox.clone(), options), stopped);
        let begun = "_waybill_progress WHERE rows = 10000";
        until("the first rows", || async { place.count(begun).await == 1 }).await;
        running.stop().await;
        let running = Running::run(&world.subscriber(inbox.clone(), atomic()), place.open().await);
        rows_in(&inbox, State::Done, 1).await;
        running.stop().await;
        assert_eq!(place.count("item").await, 25_000);
        assert_eq!(place.count("_waybill_progress WHERE done AND inserted = 25000").await, 1);
    }
}

#[tokio::test]
async fn a_sink_that_cannot_take_rows_back_is_refused_and_a_folder_is_taken_as_it_is() {
    let world = World::new().await;
    world.publish("b", &items(1..=3), "").await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), atomic());
    let ended = subscriber.run(MemorySink::default(), CancellationToken::new()).await.unwrap_err();
    assert!(matches!(ended, RunError::NotAtomic) && ended.to_string().contains("another sink"), "{ended}");

    let folder = world.folder.path().join("files");
    let sink = sink::open(&format!("dir:{}", folder.display()), &entities(), Path::new("")).await.unwrap();
    let running = Running::run(&subscriber, sink);
    rows_in(&inbox, State::Done, 1).await;
    running.stop().await;
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "of the type, and of the sink");
}
