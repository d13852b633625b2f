//! The sink is put back from a copy that was taken in the middle of its work, and the inbox is lost beside it: `reconcile` and `run` mend
//! both, in SQLite and in PostgreSQL.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rand::RngExt as _;
use tokio::{
    process::Command,
    time::{Instant, sleep, timeout},
};
use waybill_formats::Field;
use waybill_local::{
    BlobOperation, Local,
    config::{Config, Ports, TenantConfig},
    fault::{BlobRequests, Step, What},
};

use crate::{
    harness::{
        PATIENCE, PRICED_ITEMS, Publishing, TENANT, World, assert_nothing_was_dead_lettered, binary, freeze, number,
        query,
    },
    own_database::{OwnDatabase, lines},
};

/// Before the copy, and as many after it.
const FILES: u64 = 18;
const ROWS: u64 = 60;
/// Keys of items, which have a price below [`PRICED`], and come and go from there on.
const KEYS: u64 = 40;
const PRICED: u64 = 30;

/// What was published.
#[derive(Default)]
struct Source {
    files: u64,
    numbers: u64,
    version: u64,
    /// Newest version by key; `None`: deleted.
    items: BTreeMap<u64, Option<u64>>,
    prices: BTreeMap<u64, u64>,
}

impl Source {
    /// A file of each type in turn.
    async fn more(&mut self, publishing: &Publishing, files: u64) {
        for _ in 0..files {
            match self.files % 3 {
                0 => self.prices(publishing).await,
                1 => self.items(publishing).await,
                _ => {
                    publishing.numbers("Number", self.numbers..self.numbers + ROWS).await;
                    self.numbers += ROWS;
                }
            }
            self.files += 1;
        }
        publishing.sent().await;
    }

    async fn items(&mut self, publishing: &Publishing) {
        let mut rows = Vec::new();
        for row in 0..ROWS {
            self.version += 1;
            // Each that has a price is in every file, and some are there twice.
            let key = if row < PRICED { row } else { rand::rng().random_range(0..KEYS) };
            let goes = key >= PRICED && rand::rng().random_bool(0.4);
            self.items.insert(key, (!goes).then_some(self.version));
            rows.push((key, self.version, goes));
        }
        write(publishing, "Item", &rows).await;
    }

    async fn prices(&mut self, publishing: &Publishing) {
        let mut rows = Vec::new();
        for _ in 0..ROWS {
            self.version += 1;
            let key = rand::rng().random_range(0..PRICED);
            self.prices.insert(key, self.version);
            rows.push((key, self.version, false));
        }
        write(publishing, "Price", &rows).await;
    }

    async fn assert_same(&self, stores: &Stores, when: &str) {
        let items = self.items.iter().filter_map(|(key, version)| Some(format!("{key}|{}", (*version)?)));
        let prices = self.prices.iter().map(|(key, version)| format!("{key}|{version}"));
        let read =
            async |table: &str| stores.sink(&format!("SELECT n, v FROM {table} ORDER BY CAST(n AS integer)")).await;
        assert_eq!(read("item").await, items.collect::<Vec<_>>(), "{when}: items");
        assert_eq!(read("price").await, prices.collect::<Vec<_>>(), "{when}: prices");
        let numbers = "SELECT count(*), count(DISTINCT n), min(n), max(n) FROM \"Number\"";
        let once = format!("{0}|{0}|0|{1}", self.numbers, self.numbers - 1);
        assert_eq!(stores.sink(numbers).await, [once], "{when}: numbers");
        let progress = "SELECT count(*), count(*) FILTER (WHERE done), \
                        sum(inserted + updated + deleted + ignored + superseded + parked + bad) FROM _waybill_progress";
        let every = format!("{0}|{0}|{1}", self.files, self.files * ROWS);
        assert_eq!(stores.sink(progress).await, [every], "{when}: each row of each file took effect once");
        assert_eq!(stores.sink("SELECT count(*) FROM _waybill_parked").await, ["0"], "{when}: nothing waits");
    }
}

async fn write(publishing: &Publishing, blob_type: &str, rows: &[(u64, u64, bool)]) {
    let mut writer = publishing.publisher.export(blob_type).expect("a good type").start().await.expect("it begins");
    for (key, version, goes) in rows {
        let (key, version) = (key.to_string(), version.to_string());
        let mut row = vec![("n", Field::Number(&key)), ("v", Field::Number(&version))];
        if *goes {
            row.push(("_deleted", Field::Bool(true)));
        }
        writer.row(&row).await.expect("the row is written");
    }
    writer.finish().await.expect("the export is durable");
}

/// Where inbox and sink lie, each by itself.
enum Stores {
    Sqlite { folder: PathBuf },
    Postgres { inbox: OwnDatabase, sink: OwnDatabase },
}

/// Of the sink.
enum Copy {
    Files,
    Database(OwnDatabase),
}

impl Stores {
    /// What `run` is told of them.
    fn arguments(&self) -> Vec<String> {
        match self {
            Self::Sqlite { folder } => vec!["--sink".to_owned(), format!("sqlite:{}", sink_file(folder).display())],
            Self::Postgres { sink, .. } => [self.inbox(), vec!["--sink".to_owned(), sink.address(&[])]].concat(),
        }
    }

    fn inbox(&self) -> Vec<String> {
        match self {
            Self::Sqlite { .. } => Vec::new(),
            Self::Postgres { inbox, .. } => vec!["--inbox".to_owned(), inbox.address(&[])],
        }
    }

    async fn sink(&self, sql: &str) -> Vec<String> {
        match self {
            Self::Sqlite { folder } => query(&sink_file(folder), sql),
            Self::Postgres { sink, .. } => sink.lines(sql).await,
        }
    }

    /// Whether some files are done and another is halfway. Whoever works is frozen meanwhile, and may hold a lock.
    async fn is_in_the_middle(&self) -> bool {
        let middle = "SELECT count(*) FROM _waybill_progress HAVING count(*) FILTER (WHERE done) > 2 \
                      AND count(*) FILTER (WHERE NOT done AND rows > 0) > 0";
        match self {
            Self::Sqlite { folder } => {
                let db = rusqlite::Connection::open_with_flags(
                    sink_file(folder),
                    rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
                );
                db.is_ok_and(|db| db.query_row(middle, [], |_| Ok(())).is_ok())
            }
            Self::Postgres { sink, .. } => {
                let asked = lines(&sink.address(&[]), &format!("SET lock_timeout = '100ms'; {middle}")).await;
                asked.is_ok_and(|rows| !rows.is_empty())
            }
        }
    }

    /// Of a sink whose process was killed: what is not in the file itself is in its log.
    async fn copy(&self) -> Copy {
        match self {
            Self::Sqlite { folder } => {
                copy_database(&sink_file(folder), &folder.join("copy.sqlite"));
                Copy::Files
            }
            Self::Postgres { sink, .. } => Copy::Database(sink.copy().await),
        }
    }

    async fn restore_sink_and_lose_inbox(&self, copy: Copy) {
        match (self, copy) {
            (Self::Sqlite { folder }, _) => {
                copy_database(&folder.join("copy.sqlite"), &sink_file(folder));
                for ending in ["", "-wal", "-shm"] {
                    remove(&folder.join(format!("data/inbox.sqlite{ending}")));
                }
            }
            (Self::Postgres { inbox, sink }, Copy::Database(copy)) => {
                sink.restore(&copy).await;
                copy.end().await;
                inbox.lose().await;
            }
            (Self::Postgres { .. }, Copy::Files) => unreachable!("it is a database"),
        }
    }

    async fn end(self) {
        if let Self::Postgres { inbox, sink } = self {
            inbox.end().await;
            sink.end().await;
        }
    }
}

fn sink_file(folder: &Path) -> PathBuf {
    folder.join("sink.sqlite")
}

fn remove(path: &Path) {
    if path.exists() {
        std::fs::remove_file(path).expect("a file goes");
    }
}

/// Copies a database that nobody has open, in the place of what is there.
fn copy_database(from: &Path, to: &Path) {
    let with = |path: &Path, ending: &str| PathBuf::from(format!("{}{ending}", path.display()));
    remove(&with(to, "-shm"));
    for ending in ["", "-wal"] {
        remove(&with(to, ending));
        if with(from, ending).exists() {
            std::fs::copy(with(from, ending), with(to, ending)).expect("a copy");
        }
    }
}

struct Subscriber<'a> {
    world: &'a World,
    ready: PathBuf,
}

impl Subscriber<'_> {
    fn command(&self, arguments: &[&str], more: &[String]) -> Command {
        let mut run = Command::new(binary("waybill-subscriber"));
        run.args(arguments).args(more).arg("--local").arg(&self.ready).arg("--data").arg(self.world.path("data"));
        if arguments.contains(&"run") {
            run.arg("--entities").arg(self.world.path("entities.toml"));
        }
        // What a killed one held is free again soon.
        run.env("WAYBILL_SUBSCRIBER__LEASE_MS", "3000");
        // Small transactions, and several requests for a file.
        run.env("WAYBILL_SUBSCRIBER__COMMIT_ROWS_MAX", "5").env("WAYBILL_SUBSCRIBER__RANGE_BYTES", "400");
        run.current_dir(self.world.path("")).stdin(Stdio::null()).kill_on_drop(true);
        run
    }

    async fn answer(&self, arguments: &[&str], more: &[String]) -> serde_json::Value {
        let mut command = self.command(arguments, more);
        command.args(["--format", "json"]);
        let output = timeout(PATIENCE, command.output()).await.expect("it ends in time").expect("it runs");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {} {told}", output.status);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {told}"))
    }

    /// Works until some files are done and another is halfway, and is killed there.
    async fn work_to_the_middle(&self, stores: &Stores) {
        let mut child = self.command(&["run"], &stores.arguments());
        let log = std::fs::File::create(self.world.path("killed.log")).expect("a log");
        let mut child = child.stdout(Stdio::null()).stderr(log).spawn().expect("it starts");
        let pid = child.id().expect("it runs");
        let signal = async |signal: &str| {
            let sent = Command::new("kill").args([signal, &pid.to_string()]).status().await.expect("kill runs");
            assert!(sent.success(), "{signal}");
        };
        let end = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < end, "it is never in the middle of a file");
            sleep(Duration::from_millis(5)).await;
            freeze(pid).await;
            if stores.is_in_the_middle().await {
                break;
            }
            signal("-CONT").await;
        }
        child.kill().await.expect("it is killed");
    }
}

async fn mends(stores: impl AsyncFnOnce(&World) -> Stores) {
    let tenant = TenantConfig { blob_permissions: Some("rl".to_owned()), ..TenantConfig::named(TENANT) };
    let config = Config { tenants: vec![tenant], ..Config::default() };
    let world = World::of(Local::builder().config(config).ports(Ports::RANDOM)).await;
    std::fs::write(world.path("entities.toml"), PRICED_ITEMS).expect("a file");
    let stores = stores(&world).await;
    let (subscriber, publishing) = (Subscriber { world: &world, ready: world.ready_file() }, world.publisher().await);
    let mut source = Source::default();
    source.more(&publishing, FILES).await;

    // Slow enough to be met in the middle of a file.
    let reads = BlobRequests::of(BlobOperation::GetBlob);
    let slow = Step::new(reads, What::Delay(Duration::from_millis(40))).times(number(1_000_000));
    world.local.faults().install([slow]).expect("a sound script");
    subscriber.work_to_the_middle(&stores).await;
    let copy = stores.copy().await;
    world.local.faults().clear();

    // Life goes on: updates of what was there, and what is new.
    source.more(&publishing, FILES).await;
    let run = ["run", "--until-idle", "1"];
    subscriber.answer(&run, &stores.arguments()).await;
    source.assert_same(&stores, "before").await;
    world.all_settled().await;

    stores.restore_sink_and_lose_inbox(copy).await;
    let done = stores.sink("SELECT count(*) FILTER (WHERE done) FROM _waybill_progress").await.concat();
    assert!(done.parse::<u64>().expect("a number") < FILES, "{done} files are done in the copy");
    let found = subscriber.answer(&["reconcile"], &stores.inbox()).await;
    assert_eq!(
        found["added"]["count"], source.files,
        "the messages are gone; what is in the container is found: {found}"
    );
    subscriber.answer(&run, &stores.arguments()).await;
    source.assert_same(&stores, "after").await;
    let again = subscriber.answer(&["reconcile"], &stores.inbox()).await;
    assert_eq!((&again["added"]["count"], &again["known"]), (&0.into(), &source.files.into()), "{again}");

    assert_nothing_was_dead_lettered(&world);
    publishing.end().await;
    stores.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_of_yesterday_without_an_inbox_becomes_the_source_again_in_sqlite() {
    mends(async |world: &World| Stores::Sqlite { folder: world.path("") }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_of_yesterday_without_an_inbox_becomes_the_source_again_in_postgresql() {
    mends(async |_: &World| Stores::Postgres {
        inbox: OwnDatabase::new("inbox").await,
        sink: OwnDatabase::new("sink").await,
    })
    .await;
}
