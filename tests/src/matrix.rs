//! Every bad day at every step of a file's way: what the inbox, the sink, the broker and the two hosts have seen afterwards.

mod gate;
mod stores;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    ops::RangeInclusive,
    panic::AssertUnwindSafe,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, stream};
use sha2::{Digest as _, Sha256};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use waybill_local::{
    Local,
    broker::Which,
    fault::{Service, Step as FaultStep, What, When, Whose},
    keys::TokenKind,
};
use waybill_subscriber::{
    Subscriber,
    inbox::{AnyInbox, Counts, Inbox, State},
};

use self::{
    gate::{Behind, Gate, ROWS, Step, Victim, subscriber},
    stores::{Copy, Stores},
};
use crate::harness::{
    PATIENCE, SUBSCRIPTION, TENANT, World, assert_nothing_was_dead_lettered, freeze, number, until, waybill,
};

/// Cells at once: most of them wait most of the time.
const AT_ONCE: usize = 10;
/// Of those with a database of their own.
const AT_ONCE_IN_POSTGRES: usize = 5;
/// Of the broker, so that a message that nobody settled comes again soon.
const LOCK: Duration = Duration::from_secs(1);
/// When a file whose blob is gone for good stops being waited for, counted from when it is sent.
const KEPT: Duration = Duration::from_millis(1500);
/// How long a service is away.
const AWAY: Duration = Duration::from_millis(700);
const LOOK: Duration = Duration::from_millis(5);

/// What happens, as DESIGN has it under "What happens when".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Crash,
    LinkDetached,
    ConnectionClosed,
    ConnectionSwallowed,
    SasRotated,
    SasExpired,
    BlobGone,
    BlobGoneForGood,
    PriceBeforeItem,
    OlderAfterNewer,
    LeaseLapsed,
    SinkRestored,
    SinkDown,
    DiskFull,
    StorageDown,
    TenantDown,
}

impl Fault {
    const ALL: [Self; 16] = [
        Self::Crash,
        Self::LinkDetached,
        Self::ConnectionClosed,
        Self::ConnectionSwallowed,
        Self::SasRotated,
        Self::SasExpired,
        Self::BlobGone,
        Self::BlobGoneForGood,
        Self::PriceBeforeItem,
        Self::OlderAfterNewer,
        Self::LeaseLapsed,
        Self::SinkRestored,
        Self::SinkDown,
        Self::DiskFull,
        Self::StorageDown,
        Self::TenantDown,
    ];
    /// Those that meet the databases: what is locked, what is written, and what a process leaves behind there.
    const OF_DATABASES: [Self; 4] = [Self::Crash, Self::LeaseLapsed, Self::SinkRestored, Self::SinkDown];

    fn name(self) -> &'static str {
        match self {
            Self::Crash => "kill -9",
            Self::LinkDetached => "link detached",
            Self::ConnectionClosed => "connection closed",
            Self::ConnectionSwallowed => "connection swallowed",
            Self::SasRotated => "SAS rotated",
            Self::SasExpired => "SAS expired",
            Self::BlobGone => "blob gone for a while",
            Self::BlobGoneForGood => "blob gone for good",
            Self::PriceBeforeItem => "price before item",
            Self::OlderAfterNewer => "older after newer",
            Self::LeaseLapsed => "frozen past its lease",
            Self::SinkRestored => "sink from a copy",
            Self::SinkDown => "sink down",
            Self::DiskFull => "disk full",
            Self::StorageDown => "storage down",
            Self::TenantDown => "TenantService down",
        }
    }

    /// Why it cannot be.
    fn impossible(self, step: Step) -> Option<&'static str> {
        match (self, step) {
            (Self::LinkDetached | Self::ConnectionClosed | Self::ConnectionSwallowed, Step::Grant) => {
                Some("there is neither link nor connection before there is a token")
            }
            _ => None,
        }
    }

    /// It befalls the link that a delivery hangs on.
    fn cuts_the_link(self) -> bool {
        matches!(
            self,
            Self::LinkDetached
                | Self::ConnectionClosed
                | Self::ConnectionSwallowed
                | Self::SasRotated
                | Self::SasExpired
                | Self::TenantDown
        )
    }

    fn kills(self) -> bool {
        matches!(self, Self::Crash | Self::SinkRestored)
    }

    /// Files of the cell.
    fn files(self) -> u64 {
        match self {
            Self::PriceBeforeItem | Self::OlderAfterNewer | Self::LeaseLapsed | Self::SinkRestored => 2,
            _ => 1,
        }
    }

    /// Deliveries of all messages, where `lost` links were lost.
    fn deliveries(self, step: Step, lost: u64) -> RangeInclusive<u64> {
        let files = self.files();
        match self {
            // Delivered, and not saved: it comes again when its lock ends.
            Self::Crash | Self::SinkRestored if step == Step::Receive => files + 1..=files + 1,
            // What it had sent may have been read before its connection was gone.
            Self::Crash | Self::SinkRestored if step == Step::Settle => files..=files + 1,
            // The frozen link is given it too, as long as it has credit.
            Self::LeaseLapsed => files..=files + 10,
            _ if self.cuts_the_link() => files..=files + lost,
            // What cannot be saved is released, and comes again at once.
            Self::DiskFull if step == Step::Receive => files + 1..=files + 10,
            // The disk may have room again before the message comes: what misses it first may be a look for work.
            Self::DiskFull if step <= Step::Grant => files..=files + 10,
            _ => files..=files,
        }
    }

    /// Requests to TenantService, of all processes.
    fn grants(self, step: Step) -> RangeInclusive<u64> {
        match self {
            // One for each process; of one that died before its answer nobody may know.
            Self::Crash if step == Step::Grant => 1..=2,
            Self::SinkRestored if step == Step::Grant => 2..=3,
            // It may have worked its file before it is frozen, and nothing is left for another one.
            Self::LeaseLapsed if step == Step::Settle => 1..=2,
            Self::Crash | Self::LeaseLapsed => 2..=2,
            Self::SinkRestored => 3..=3,
            // The answer that is waited for is made afterwards.
            Self::SasRotated | Self::SasExpired if step == Step::Grant => 1..=1,
            Self::TenantDown if step == Step::Grant => 1..=8,
            Self::SasRotated | Self::SasExpired => 2..=2,
            // While it is down it is asked again and again, on one clock.
            Self::TenantDown => 2..=8,
            _ => 1..=1,
        }
    }
}

/// What was seen in a cell, when all was over.
#[derive(Debug)]
struct Seen {
    /// Done.
    files: u64,
    deliveries: u64,
    grants: u64,
    bus: usize,
    storage: usize,
}

/// A world with the subscriber's inbox and sink.
struct Cell {
    fault: Fault,
    step: Step,
    world: World,
    stores: Stores,
    sent: u64,
}

/// A subscriber at work in this process.
struct Running {
    subscriber: Subscriber<Behind<AnyInbox>>,
    stop: CancellationToken,
    run: JoinSet<()>,
}

impl Running {
    async fn start(gate: &Arc<Gate>, cell: &Cell) -> Self {
        let (subscriber, sink) = subscriber(gate, &cell.stores, cell.world.local.ready_file()).await;
        let stop = CancellationToken::new();
        let mut run = JoinSet::new();
        let (running, stopped) = (subscriber.clone(), stop.clone());
        run.spawn(async move { running.run(sink, stopped).await.expect("the subscriber runs") });
        Self { subscriber, stop, run }
    }

    async fn counts(&self) -> Counts {
        self.subscriber.inbox().counts().await.expect("the inbox answers")
    }

    /// Until so many files are done, or have expired.
    async fn done(&self, files: u64) {
        let end = Instant::now() + PATIENCE;
        loop {
            let counts = self.counts().await;
            if counts.done + counts.expired >= files {
                return;
            }
            if Instant::now() >= end {
                let rows = self.subscriber.inbox().list(&Default::default()).await;
                panic!("not done: {counts:?}; {rows:#?}");
            }
            sleep(LOOK).await;
        }
    }

    fn lost(&self) -> u64 {
        self.subscriber.receive_stats().lost.load(Ordering::Relaxed)
    }

    async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.run.join_next().await {
            ended.expect("the subscriber does not panic");
        }
    }
}

impl Cell {
    async fn new(fault: Fault, step: Step, in_postgres: bool) -> Self {
        // A frozen link is given a message again and again until its credit is used up.
        let world = World::of(Local::builder().lock_duration(LOCK).max_delivery_count(number(30))).await;
        let stores = if in_postgres { Stores::postgres().await } else { Stores::sqlite(&folder_of(&world)) };
        Self { fault, step, world, stores, sent: 0 }
    }

    fn gate(&self, step: Option<Step>) -> Arc<Gate> {
        Gate::at(step, &folder_of(&self.world))
    }

    fn rows(&self, file: u64) -> String {
        // Numbers of a file are its own, unless it is about the same items.
        let (first, version) = match self.fault {
            Fault::PriceBeforeItem | Fault::OlderAfterNewer => (0, file),
            _ => (file * u64::from(ROWS), 0),
        };
        (first..first + u64::from(ROWS))
            .map(|n| format!("{{\"n\":{n},\"v\":{version},\"text\":\"{:040}\"}}\n", n))
            .collect()
    }

    fn blob_type(&self, file: u64) -> &'static str {
        match (self.fault, file) {
            (Fault::PriceBeforeItem, 0) => "Price",
            (Fault::PriceBeforeItem | Fault::OlderAfterNewer, _) => "Item",
            _ => "Number",
        }
    }

    fn blob(file: u64) -> String {
        format!("files/{file}.jsonl")
    }

    /// Uploads the next file and sends its message.
    async fn publish(&mut self) {
        let file = self.sent;
        self.sent += 1;
        let rows = self.rows(file);
        let uri = self.world.put(&Self::blob(file), rows.clone()).await;
        let hash: String = Sha256::digest(rows.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut message = waybill(self.blob_type(file), &uri);
        message["properties"]["waybill"] = serde_json::json!({
            "exportId": format!("file-{file}"), "publisher": "shop", "epoch": "e", "sequence": file + 1,
            "rows": ROWS, "plainSha256": hash,
        });
        if self.fault == Fault::BlobGoneForGood {
            let until = (OffsetDateTime::now_utc() + KEPT).format(&Rfc3339).expect("a time");
            message["properties"]["waybill"]["expiresAt"] = until.into();
        }
        self.world.send([message.to_string()]).await;
    }

    /// Lives through it, up to the point where all is as it should be.
    async fn live(mut self) -> Seen {
        let mut copy = None;
        if self.fault == Fault::SinkRestored {
            self.publish().await;
            let running = Running::start(&self.gate(None), &self).await;
            running.done(1).await;
            self.world.all_settled().await;
            running.end().await;
            copy = Some(self.stores.copy_sink().await);
        }
        self.publish().await;
        let gate = self.gate(Some(self.step));
        gate.arm(&self.world);
        let lost = if self.fault.kills() || self.fault == Fault::LeaseLapsed {
            self.in_another_process(&gate, copy).await
        } else {
            self.in_this_process(&gate).await
        };
        self.world.all_settled().await;
        self.look(lost).await
    }

    /// The sink of `copy` is put in the place of the one that the victim leaves.
    async fn in_another_process(&mut self, gate: &Gate, copy: Option<Copy>) -> u64 {
        let victim = Victim::start(self.step, &self.stores, &self.world);
        gate.reached(&self.world).await;
        if self.fault == Fault::LeaseLapsed {
            self.freeze(&victim).await;
        } else {
            victim.kill().await;
            // What it had sent and nobody had read is lost with its connection.
            self.world.local.broker().reset_connections(&Which::All);
            gate.open(&self.world);
            if let Some(copy) = copy {
                self.stores.restore_sink(copy).await;
            }
            let running = Running::start(&self.gate(None), self).await;
            running.done(self.fault.files()).await;
            // The inbox may call done what the sink of the copy does not know yet.
            let files = self.fault.files().to_string();
            self.until("all is in the sink", async || {
                self.stores.sink("SELECT count(*) FROM _waybill_progress WHERE done").await == [files.as_str()]
            })
            .await;
            running.done(self.fault.files()).await;
            self.world.all_settled().await;
            running.end().await;
            return 1;
        }
        // Frozen, it held up nobody; now another one works what it held.
        gate.open(&self.world);
        let running = Running::start(&self.gate(None), self).await;
        running.done(1).await;
        running.end().await;
        let before = self.stores.inbox("SELECT max(id) FROM history").await;
        victim.signal("-CONT").await;
        // Woken, it goes on with what is new, and changes nothing of what it had lost.
        self.publish().await;
        self.until("the woken one works", async || {
            self.stores.inbox("SELECT count(*) FROM inbox WHERE state = 'done'").await == ["2"]
        })
        .await;
        self.world.all_settled().await;
        victim.kill().await;
        let meddled = format!(
            "SELECT count(*) FROM history WHERE inbox_id = (SELECT min(id) FROM inbox) AND id > {}",
            before.first().expect("a number")
        );
        assert_eq!(self.stores.inbox(&meddled).await, ["0"], "what it held is as the other one left it");
        2
    }

    /// Asks until it is so.
    async fn until(&self, what: &str, so: impl AsyncFn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !so().await {
            assert!(Instant::now() < end, "{what} did not come to be");
            sleep(LOOK).await;
        }
    }

    /// Freezes it where it holds no lock of a database: there all others would wait for it.
    async fn freeze(&self, victim: &Victim) {
        let end = Instant::now() + PATIENCE;
        loop {
            freeze(victim.pid()).await;
            if self.stores.are_free().await {
                return;
            }
            victim.signal("-CONT").await;
            assert!(Instant::now() < end, "it never lets go of its databases");
            sleep(LOOK).await;
        }
    }

    async fn in_this_process(&mut self, gate: &Arc<Gate>) -> u64 {
        let running = Running::start(gate, self).await;
        gate.reached(&self.world).await;
        self.strike(gate, &running).await;
        running.done(self.fault.files()).await;
        self.world.all_settled().await;
        // A link that the fault cut is back: that, too, takes a token at most.
        until("a link", || !self.world.local.broker().links().is_empty()).await;
        let cut = matches!(self.fault, Fault::SasRotated | Fault::SasExpired | Fault::TenantDown);
        if cut && self.step != Step::Grant {
            until("a new token", || self.world.local.stats().grants(TENANT).issued >= 2).await;
        }
        let lost = running.lost();
        running.end().await;
        lost
    }

    /// Has the fault happen while the subscriber is held, and lets it go on.
    async fn strike(&mut self, gate: &Gate, running: &Running) {
        let Self { fault, step, ref world, .. } = *self;
        let now = |what| {
            world.local.faults().install([FaultStep::new(When::Now, what)]).expect("a sound script");
        };
        match fault {
            Fault::Crash | Fault::LeaseLapsed | Fault::SinkRestored => unreachable!("in another process"),
            Fault::LinkDetached => drop(world.local.broker().detach_links(SUBSCRIPTION).expect("it is there")),
            Fault::ConnectionClosed => drop(world.local.broker().close_connections(&Which::All)),
            Fault::ConnectionSwallowed => {
                now(What::Blackhole { whose: Whose::Service(Service::Bus), lasts: AWAY });
                gate.open(world);
                now(What::Blackhole { whose: Whose::Service(Service::Bus), lasts: AWAY });
            }
            Fault::SasRotated => world.local.rotate(None).expect("a rotation"),
            Fault::SasExpired => now(What::Expire { tenant: None }),
            Fault::BlobGone => {
                let blob = Self::blob(0);
                world.delete(&blob).await;
                gate.open(world);
                let missed = || world.local.stats().counted().blob_requests("GetBlob", 404) > 0;
                let end = Instant::now() + PATIENCE;
                // Whoever has read it already does not miss it.
                while !missed() && running.counts().await.done == 0 {
                    assert!(Instant::now() < end, "neither missed nor done");
                    sleep(LOOK).await;
                }
                world.put(&blob, self.rows(0)).await;
            }
            Fault::BlobGoneForGood => world.delete(&Self::blob(0)).await,
            Fault::PriceBeforeItem | Fault::OlderAfterNewer => {
                self.publish().await;
                // As long as messages come in, the second file overtakes the first.
                if step >= Step::FetchStart {
                    running.done(1).await;
                }
            }
            Fault::SinkDown | Fault::DiskFull => {
                let is_down = if fault == Fault::SinkDown { &gate.sink_is_down } else { &gate.disk_is_full };
                is_down.store(true, Ordering::SeqCst);
                gate.open(world);
                let refused = || gate.refused.load(Ordering::SeqCst) > 0;
                let end = Instant::now() + PATIENCE;
                while !refused() && running.counts().await.done == 0 {
                    assert!(Instant::now() < end, "neither missed nor done");
                    sleep(LOOK).await;
                }
                if fault == Fault::SinkDown {
                    until("receiving goes on", || world.counts().totals.completed == 1).await;
                }
                is_down.store(false, Ordering::SeqCst);
            }
            Fault::StorageDown => {
                gate.open(world);
                now(What::Down { service: Service::Blob, lasts: AWAY });
            }
            Fault::TenantDown => {
                world.local.rotate(None).expect("a rotation");
                gate.open(world);
                now(What::Down { service: Service::Tenant, lasts: AWAY });
            }
        }
        gate.open(&self.world);
    }

    /// Every row once, nothing lost, nothing left.
    async fn look(self, lost: u64) -> Seen {
        let Self { fault, step, ref world, .. } = self;
        let files = fault.files();
        let rows = files * u64::from(ROWS);
        let inbox = self.stores.inbox("SELECT state, count(*) FROM inbox GROUP BY state").await;
        let expired = inbox == [format!("{}|1", State::Expired)];
        if fault == Fault::BlobGoneForGood && expired {
            self.look_at_what_expired().await;
        } else {
            // Whoever had read the blob before it was gone does not miss it.
            assert!(
                fault != Fault::BlobGoneForGood || step > Step::Receive && step != Step::Grant,
                "it cannot be read"
            );
            assert_eq!(inbox, [format!("{}|{files}", State::Done)], "a row for each file, done");
            self.look_into_sink(rows).await;
        }

        assert_nothing_was_dead_lettered(world);
        let totals = world.counts().totals;
        assert_eq!((totals.completed, totals.abandoned), (files, 0), "{totals:?}");
        let wanted = fault.deliveries(step, lost);
        // On a machine with much to do a lock may end before its message is settled.
        let wanted = *wanted.start()..=wanted.end() + totals.locks_expired;
        assert!(wanted.contains(&totals.deliveries), "{} deliveries, {wanted:?} wanted: {totals:?}", totals.deliveries);

        let asked = world.local.stats().grants(TENANT);
        let wanted = fault.grants(step);
        assert!(wanted.contains(&asked.requests), "{} requests to TenantService, {wanted:?} wanted", asked.requests);
        let stats = world.local.stats().counted();
        assert_eq!(stats.grants_unknown, 0);
        let refused = stats.blob_requests("GetBlob", 403);
        assert!(refused == 0 || fault.cuts_the_link(), "storage was shown a token that is none of its own: {refused}");
        let shown = |kind| {
            let of_ours = world.local.keys().tokens_used(kind).into_iter().filter(|token| token.tenant.is_some());
            let of_ours: BTreeMap<String, u64> = of_ours.map(|token| (token.sha256, token.uses)).collect();
            assert!(of_ours.len() as u64 <= asked.issued, "{kind:?}: {of_ours:?} of {asked:?}");
            of_ours
        };
        let (bus, storage) = (shown(TokenKind::Bus), shown(TokenKind::Storage));
        assert!(!bus.is_empty() && !storage.is_empty(), "{bus:?}, {storage:?}");
        assert!(bus.keys().all(|token| !storage.contains_key(token)), "each host has seen its own only");
        let (bus, storage) = (bus.len(), storage.len());
        let done = if expired { 0 } else { files };
        let seen = Seen { files: done, deliveries: totals.deliveries, grants: asked.requests, bus, storage };
        self.stores.end().await;
        self.world.end().await;
        seen
    }

    /// Each row of every file is in its table once.
    async fn look_into_sink(&self, rows: u64) {
        let files = self.fault.files();
        let progress = "SELECT count(*), count(*) FILTER (WHERE done) FROM _waybill_progress";
        assert_eq!(self.stores.sink(progress).await, [format!("{files}|{files}")]);
        let counted = "SELECT sum(inserted + updated + deleted + ignored + superseded + parked + bad), \
                       sum(parked) - sum(released), sum(bad) FROM _waybill_progress";
        let seen = self.stores.sink(counted).await;
        assert_eq!(seen, [format!("{rows}|0|0")], "each row took effect once, or waited once");
        match self.fault {
            Fault::PriceBeforeItem => {
                let both = "SELECT (SELECT count(*) FROM item), (SELECT count(*) FROM price), \
                            (SELECT count(*) FROM _waybill_parked)";
                assert_eq!(self.stores.sink(both).await, [format!("{ROWS}|{ROWS}|0")]);
            }
            Fault::OlderAfterNewer => {
                let newest = "SELECT count(*), min(v), max(v) FROM item";
                assert_eq!(self.stores.sink(newest).await, [format!("{ROWS}|1|1")]);
            }
            _ => {
                let once = "SELECT count(*), count(DISTINCT n), min(n), max(n) FROM \"Number\"";
                assert_eq!(self.stores.sink(once).await, [format!("{rows}|{rows}|0|{}", rows - 1)]);
            }
        }
    }

    /// Whatever was committed of it before is there once, and the inbox says why there is not more, and since when.
    async fn look_at_what_expired(&self) {
        let problem = self.stores.inbox("SELECT problem FROM inbox").await.concat();
        assert!(problem.contains("ask the publisher"), "{problem}");
        let tables = "SELECT count(*) FROM sqlite_schema WHERE name = 'Number'";
        if self.stores.sink(tables).await == ["0"] {
            return;
        }
        let there =
            self.stores.sink("SELECT count(*), count(DISTINCT n), coalesce(max(n) + 1, 0) FROM \"Number\"").await;
        let half = ROWS / 2;
        assert!([format!("{half}|{half}|{half}"), "0|0|0".to_owned()].contains(&there.concat()), "{there:?}");
        assert!(self.step > Step::Grant || there == ["0|0|0"], "nothing was to be read: {there:?}");
    }
}

fn folder_of(world: &World) -> PathBuf {
    world.ready_file().parent().expect("a folder").to_owned()
}

/// The table as people read it.
fn table(cells: &[(Fault, Step, Option<Seen>)]) -> String {
    const WIDTH: usize = 14;
    let mut text = String::new();
    let _infallible = write!(text, "{:22}", "");
    for step in Step::ALL {
        let _infallible = write!(text, "{:WIDTH$}", step.name());
    }
    let mut reasons: Vec<&str> = Vec::new();
    for fault in Fault::ALL.into_iter().filter(|fault| cells.iter().any(|(of, ..)| of == fault)) {
        let _infallible = write!(text, "\n{:22}", fault.name());
        for step in Step::ALL {
            let cell = cells.iter().find(|(of, at, _)| (*of, *at) == (fault, step));
            let cell = match (cell, fault.impossible(step)) {
                (Some((_, _, Some(seen))), _) => {
                    let Seen { files, deliveries, grants, bus, storage } = seen;
                    format!("{files} {deliveries} {grants} {bus}/{storage}")
                }
                (_, Some(reason)) => {
                    let known = reasons.iter().position(|known| *known == reason);
                    let place = known.unwrap_or_else(|| {
                        reasons.push(reason);
                        reasons.len() - 1
                    });
                    format!("- ({})", place + 1)
                }
                _ => "FAILED".to_owned(),
            };
            let _infallible = write!(text, "{cell:WIDTH$}");
        }
    }
    text.push_str(
        "\n\nfiles done, each row once; deliveries of their messages; requests to TenantService; tokens that bus and storage have \
         seen\n",
    );
    for (place, reason) in reasons.iter().enumerate() {
        let _infallible = writeln!(text, "({}) cannot be: {reason}", place + 1);
    }
    text.push_str(
        "What can befall a publisher's steps is met by kill -9 there: a_publisher_killed_at_random_moments_sends_every_file_…\n",
    );
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_at_every_step_leaves_each_row_once_and_nothing_behind() {
    live_through(&Fault::ALL, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_postgresql_too_every_fault_of_databases_leaves_each_row_once_at_every_step() {
    live_through(&Fault::OF_DATABASES, true).await;
}

/// All cells of these faults, or those that `WAYBILL_TEST_CELL` names.
async fn live_through(faults: &[Fault], in_postgres: bool) {
    let only = std::env::var("WAYBILL_TEST_CELL").ok();
    let possible = Step::ALL.iter().flat_map(|step| faults.iter().map(|fault| (*fault, *step)));
    let possible = possible.filter(|(fault, step)| fault.impossible(*step).is_none());
    let wanted = possible.filter(|(fault, step)| {
        only.as_ref().is_none_or(|only| format!("{} × {}", fault.name(), step.name()).contains(only.as_str()))
    });
    let began = Instant::now();
    let lived: Vec<_> = stream::iter(wanted)
        .map(|(fault, step)| async move {
            let began = Instant::now();
            // A panic is told with its cell, and the others are lived through.
            let lived = async { Cell::new(fault, step, in_postgres).await.live().await };
            let seen = AssertUnwindSafe(lived).catch_unwind().await;
            let took = began.elapsed().as_secs_f32();
            eprintln!(
                "{} × {}: {} in {took:.1} s",
                fault.name(),
                step.name(),
                if seen.is_ok() { "ok" } else { "FAILED" }
            );
            (fault, step, seen.ok())
        })
        .buffer_unordered(if in_postgres { AT_ONCE_IN_POSTGRES } else { AT_ONCE })
        .collect()
        .await;
    println!("{}{:.1} s", table(&lived), began.elapsed().as_secs_f32());
    let failed: Vec<_> =
        lived.iter().filter(|(.., seen)| seen.is_none()).map(|(fault, step, _)| (fault, step)).collect();
    assert!(failed.is_empty(), "these ended badly: {failed:?}");
}
