//! Everything bad at once, by a seed: three subscribers on one PostgreSQL inbox and sink, which are killed and frozen, while
//! links, connections, locks, downloads and tokens die.
//!
//! `WAYBILL_SOAK_SEED` repeats a run, `WAYBILL_SOAK_SECONDS` makes it longer: `cargo xtask soak` does for ten minutes what a
//! test does for some seconds. A seed gives the same misfortunes in the same order; what each of them meets is up to the
//! machine.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::time::{Instant, sleep, timeout};
use waybill_formats::Field;
use waybill_local::{
    BlobOperation, Local,
    broker::Which,
    fault::{BlobRequests, CutAt, NewOrder, Step, What, Whose},
};

use crate::{
    harness::{
        PATIENCE, PRICED_ITEMS, Publishing, SUBSCRIPTION, TENANT, World, assert_nothing_was_dead_lettered, number,
        tail, until,
    },
    replicas::{Database, LEASE, Replica},
};

const REPLICAS: usize = 3;
/// Rows of a file.
const ROWS: u64 = 40;
/// Keys of the items and their prices.
const KEYS: u64 = 60;
/// Between two misfortunes, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 100..500;
/// For all that was published, when nothing bad happens any more.
const RECOVERY: Duration = Duration::from_secs(110);

/// What happens to the subscribers and what they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Misfortune {
    Kill,
    Freeze,
    Rotate,
    DetachLinks,
    CloseConnections,
    ResetConnections,
    LoseLocks,
    DeliverTwice,
    Reorder,
    HoldBack,
    CutDownload,
    ResetDownload,
    ThrottleStorage,
}

impl Misfortune {
    const ALL: [Self; 13] = [
        Self::Kill,
        Self::Freeze,
        Self::Rotate,
        Self::DetachLinks,
        Self::CloseConnections,
        Self::ResetConnections,
        Self::LoseLocks,
        Self::DeliverTwice,
        Self::Reorder,
        Self::HoldBack,
        Self::CutDownload,
        Self::ResetDownload,
        Self::ThrottleStorage,
    ];

    /// Those that a script does, so that its log tells when they happen.
    const SCRIPTED: [Self; 4] = [Self::HoldBack, Self::CutDownload, Self::ResetDownload, Self::ThrottleStorage];
}

/// What was published: what the sink must hold in the end.
#[derive(Default)]
struct Published {
    files: u64,
    numbers: u64,
    rows: u64,
    version: u64,
    /// Kind and key, with the newest version.
    newest: BTreeMap<(&'static str, u64), u64>,
}

impl Published {
    /// A file of one kind or another.
    async fn more(&mut self, publishing: &Publishing, random: &mut StdRng) {
        self.files += 1;
        self.rows += ROWS;
        let kind = ["Number", "Item", "Price"][random.random_range(0..3)];
        if kind == "Number" {
            publishing.numbers("Number", self.numbers..self.numbers + ROWS).await;
            self.numbers += ROWS;
            return;
        }
        let export = publishing.publisher.export(kind).expect("a good type");
        let mut writer = export.start().await.expect("the export begins");
        for _ in 0..ROWS {
            self.version += 1;
            let key = random.random_range(0..KEYS);
            self.newest.insert((kind, key), self.version);
            let (key, version) = (key.to_string(), self.version.to_string());
            let row = [("n", Field::Number(&key)), ("v", Field::Number(&version))];
            writer.row(&row).await.expect("the row is written");
        }
        writer.finish().await.expect("the export is durable");
    }

    /// Files come until something has happened: what meets nobody at work would be no misfortune.
    async fn amid<T>(&mut self, publishing: &Publishing, seed: u64, happens: impl Future<Output = T>) -> T {
        // Of its own, so that how many files it takes changes nothing of what comes next.
        let (mut random, over) = (StdRng::seed_from_u64(seed), Cell::new(false));
        let happens = async {
            let happened = timeout(PATIENCE, happens).await.expect("it meets somebody at work");
            over.set(true);
            happened
        };
        let files = async {
            while !over.get() {
                self.more(publishing, &mut random).await;
            }
        };
        tokio::join!(happens, files).0
    }
}

/// Until it happens to somebody.
async fn befall(what: impl Fn() -> usize) {
    while what() == 0 {
        sleep(Duration::from_millis(1)).await;
    }
}

/// A subscriber's process, and how many tokens it may have asked for.
struct Process {
    replica: Replica,
    rotations_before: u64,
}

struct Torture {
    world: World,
    ready: PathBuf,
    database: Database,
    processes: Vec<Process>,
    started: u64,
    rotations: u64,
    /// Of processes that are gone.
    tokens_max: u64,
    met: BTreeMap<String, u64>,
}

impl Torture {
    fn start(&mut self) -> Process {
        self.started += 1;
        let name = format!("r{}", self.started);
        let replica = Replica::start_with(&self.world, &self.ready, &self.database, &name, |run| {
            run.arg("--entities").arg(self.world.path("entities.toml"));
            // Every line of an hour would be many GB.
            run.env("WAYBILL_SUBSCRIBER__RANGE_BYTES", "400").env("RUST_LOG", "debug");
        });
        Process { replica, rotations_before: self.rotations }
    }

    fn rotate(&mut self) {
        self.world.local.rotate(None).expect("a rotation");
        self.rotations += 1;
    }

    /// One for its start and one for each rotation that it lived through.
    fn tokens_max(&self, process: &Process) -> u64 {
        1 + self.rotations - process.rotations_before
    }

    async fn meet(
        &mut self,
        misfortune: Misfortune,
        random: &mut StdRng,
        published: &mut Published,
        publishing: &Publishing,
    ) {
        let broker = self.world.local.broker();
        let install = |step: Step| {
            let named = step.named(&format!("{misfortune:?}"));
            self.world.local.faults().install([named]).expect("a sound script");
        };
        let seed = random.random();
        let reads = BlobRequests::of(BlobOperation::GetBlob);
        let whose = || Whose::Entity(SUBSCRIPTION.to_owned());
        let many = random.random_range(1..20);
        match misfortune {
            Misfortune::Kill => {
                let place = random.random_range(0..REPLICAS);
                let next = self.start();
                let killed = std::mem::replace(&mut self.processes[place], next);
                self.tokens_max += self.tokens_max(&killed);
                killed.replica.kill().await;
            }
            Misfortune::Freeze => {
                let replica = &self.processes[random.random_range(0..REPLICAS)].replica;
                let (held, _) = published.amid(publishing, seed, replica.freeze_at_work(&self.database)).await;
                assert!(!held.is_empty(), "it holds a file");
                sleep(LEASE + Duration::from_millis(random.random_range(200..800))).await;
                replica.signal("-CONT").await;
            }
            Misfortune::Rotate => self.rotate(),
            Misfortune::DetachLinks => befall(|| broker.detach_links(SUBSCRIPTION).expect("it is there")).await,
            Misfortune::CloseConnections => befall(|| broker.close_connections(&Which::All)).await,
            Misfortune::ResetConnections => befall(|| broker.reset_connections(&Which::All)).await,
            Misfortune::LoseLocks => {
                let lose = befall(|| broker.expire_locks(SUBSCRIPTION).expect("it is there"));
                published.amid(publishing, seed, lose).await;
            }
            Misfortune::DeliverTwice => broker.deliver_twice(SUBSCRIPTION, many).expect("it is there"),
            Misfortune::Reorder => {
                let order = NewOrder::Shuffled(random.random());
                broker.reorder(SUBSCRIPTION, many, order, Duration::from_millis(500)).expect("it is there");
            }
            Misfortune::HoldBack => {
                let lasts = Duration::from_millis(random.random_range(50..500));
                install(Step::new(
                    waybill_local::fault::When::Now,
                    What::HoldBack { whose: whose(), lasts, messages: None },
                ));
            }
            Misfortune::CutDownload => {
                let at = CutAt::BodyByte(random.random_range(0..400));
                let refuse_sas = false;
                install(Step::new(reads, What::Cut { at, refuse_sas }).times(number(3)));
            }
            Misfortune::ResetDownload => install(Step::new(reads, What::Reset(Whose::Event)).times(number(3))),
            Misfortune::ThrottleStorage => {
                install(Step::new(reads, What::throttle(Duration::from_millis(200))).times(number(3)))
            }
        }
    }

    /// The last lines of all logs, for who has to find out.
    fn logs(&self) -> String {
        let logs = self.processes.iter().map(|process| &process.replica.log);
        logs.map(|log| format!("{}:\n{}\n", log.display(), tail(log))).collect()
    }

    /// Files come until each that a script does has happened at least once.
    async fn all_scripted_happened(&self, seed: u64, published: &mut Published, publishing: &Publishing) {
        let wanted: BTreeSet<String> =
            Misfortune::SCRIPTED.iter().map(|misfortune| format!("{misfortune:?}")).collect();
        let happened = || {
            let fired = self.world.local.faults().log_lines();
            wanted.is_subset(&fired.into_iter().filter_map(|fired| fired.name).collect())
        };
        published.amid(publishing, seed, until("each fault of a script", happened)).await;
    }
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_in_whatever_order_each_row_is_there_once_in_the_end() {
    let seed = from_environment("WAYBILL_SOAK_SEED").unwrap_or_else(rand::random);
    let lasts = Duration::from_secs(from_environment("WAYBILL_SOAK_SECONDS").unwrap_or(6));
    println!("seed {seed}: WAYBILL_SOAK_SEED={seed} WAYBILL_SOAK_SECONDS={} repeats it", lasts.as_secs());
    let mut random = StdRng::seed_from_u64(seed);
    let local = Local::builder().lock_duration(Duration::from_secs(2)).max_delivery_count(number(1_000));
    let world = World::of(local).await;
    std::fs::write(world.path("entities.toml"), PRICED_ITEMS).expect("a file");
    let (ready, database) = (world.ready_file(), Database::new().await);
    let mut torture = Torture {
        world,
        ready,
        database,
        processes: Vec::new(),
        started: 0,
        rotations: 0,
        tokens_max: 0,
        met: BTreeMap::new(),
    };
    torture.processes = (0..REPLICAS).map(|_| torture.start()).collect();
    let publishing = torture.world.publisher().await;
    let mut published = Published::default();
    for _ in 0..30 {
        published.more(&publishing, &mut random).await;
    }
    torture.database.done(1).await;

    // Each once in a random order, and then again.
    let (began, mut waiting) = (Instant::now(), Vec::new());
    while began.elapsed() < lasts || !waiting.is_empty() {
        if waiting.is_empty() {
            waiting = Misfortune::ALL.to_vec();
            waiting.shuffle(&mut random);
        }
        let misfortune = waiting.pop().expect("one of all");
        torture.meet(misfortune, &mut random, &mut published, &publishing).await;
        *torture.met.entry(format!("{misfortune:?}")).or_default() += 1;
        for _ in 0..random.random_range(1..6) {
            published.more(&publishing, &mut random).await;
        }
        sleep(Duration::from_millis(random.random_range(PAUSE_MS))).await;
    }
    torture.all_scripted_happened(random.random(), &mut published, &publishing).await;
    torture.world.local.faults().clear();
    publishing.end().await;
    println!(
        "{} files, {} processes, {} rotations, {:?}",
        published.files, torture.started, torture.rotations, torture.met
    );

    let all_done = async {
        torture.database.done(published.files).await;
        torture.world.all_settled().await;
    };
    assert!(timeout(RECOVERY, all_done).await.is_ok(), "seed {seed}: not all is done; {}", torture.logs());
    torture.assert_as_published(&published, seed).await;
    let Torture { world, database, processes, .. } = torture;
    for process in processes {
        process.replica.stop().await;
    }
    database.end().await;
    world.end().await;
}

impl Torture {
    async fn assert_as_published(&self, published: &Published, seed: u64) {
        let database = &self.database;
        let (files, rows, numbers) =
            (published.files.cast_signed(), published.rows.cast_signed(), published.numbers.cast_signed());
        let inbox = "SELECT count(*) FROM inbox WHERE state NOT IN ('done', 'duplicate')";
        assert_eq!(database.number(inbox).await, 0, "seed {seed}");
        let inbox = "SELECT count(*) FROM inbox WHERE state = 'done'";
        assert_eq!(database.number(inbox).await, files, "seed {seed}");
        for (sql, wanted) in [
            ("SELECT count(*) FROM \"Number\"", numbers),
            ("SELECT count(DISTINCT n) FROM \"Number\"", numbers),
            ("SELECT count(*) FROM _waybill_progress WHERE done", files),
            (
                "SELECT sum(inserted + updated + deleted + ignored + superseded + parked + bad)::bigint FROM _waybill_progress",
                rows,
            ),
        ] {
            assert_eq!(database.number(sql).await, wanted, "seed {seed}: {sql}");
        }
        for kind in ["Item", "Price"] {
            let newest = published.newest.iter().filter(|((of, _), _)| *of == kind);
            // A price whose item never came still waits.
            let newest = newest.filter(|((_, key), _)| published.newest.contains_key(&("Item", *key)));
            let newest: Vec<i64> = newest.map(|(_, version)| version.cast_signed()).collect();
            let sql = format!("SELECT v::bigint FROM {} ORDER BY n::bigint", kind.to_lowercase());
            assert_eq!(database.numbers(&sql).await, newest, "seed {seed}: the newest version of each {kind}");
        }

        assert_nothing_was_dead_lettered(&self.world);
        let totals = self.world.counts().totals;
        assert_eq!(totals.abandoned, 0, "seed {seed}: {totals:?}");
        let asked = self.world.local.stats().grants(TENANT).requests;
        let most = self.tokens_max + self.processes.iter().map(|process| self.tokens_max(process)).sum::<u64>();
        println!("{} deliveries, {asked} requests to TenantService of at most {most}", totals.deliveries);
        assert!(asked <= most, "seed {seed}: {asked} requests, one for each token and process would be {most}");
        for process in 1..=self.started {
            let log = std::fs::read_to_string(self.world.path(&format!("r{process}.log"))).expect("a log");
            assert!(
                !log.contains("sig=") && !log.contains("SharedAccessSignature sr"),
                "seed {seed}: a token in a log"
            );
        }
    }
}
