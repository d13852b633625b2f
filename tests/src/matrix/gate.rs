//! Holds a subscriber at a step of a file's way, so that a fault can meet it just there; also in a process of its own, which
//! can be killed or frozen.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    sync::mpsc,
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use url::Url;
use waybill_azure::{Secret, blob::ContainerOptions, bus::BusOptions, http::HttpOptions};
use waybill_contracts::{Entities, ReadyFile};
use waybill_local::{
    BlobOperation,
    fault::{BlobRequests, BusEvent, BusFrames, Step as FaultStep, What, When},
};
use waybill_subscriber::{
    FileKey, Subscriber,
    apply::EntityPlan,
    grants::Credential,
    inbox::{
        Admitted, AnyInbox, Arrival, Asked, Backlog, Beat, BlobSeen, Counts, End, HistoryEntry, Inbox, InboxError,
        InboxRow, Lease, Leased, ListFilter, Pending, Place, PruneStep, Pruned, Retention, SequenceNamed, SequenceSeen,
        TypeTotals, Wanted, WorkerId, WorkerSeen,
    },
    sink::{AnySink, Applied, EntityBatch, Guarantee, Progress, Sink, SinkError, WaitsEnded, WholeFiles},
};

use super::stores::Stores;
use crate::harness::{PRICED_ITEMS, SUBSCRIPTION, World, number, until};

/// How long a lease lasts: a frozen one's files are taken over after it.
pub(super) const LEASE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(3);
/// Of a step that the services hold; [`Gate::open`] ends it.
const HELD: Duration = Duration::from_secs(600);

/// Where a file is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// Its message was delivered, and is not on disk.
    Receive,
    /// Its row is on disk, and the broker does not know.
    Settle,
    /// TenantService is asked for the first token.
    Grant,
    /// Storage is asked for the first byte.
    FetchStart,
    /// Storage is asked for a byte in the middle.
    FetchMiddle,
    /// The sink is given the first half of the rows.
    Apply,
    /// They took effect, and the subscriber does not know.
    Commit,
    /// All rows took effect, and the inbox does not know.
    Complete,
}

impl Step {
    pub(super) const ALL: [Self; 8] = [
        Self::Receive,
        Self::Settle,
        Self::Grant,
        Self::FetchStart,
        Self::FetchMiddle,
        Self::Apply,
        Self::Commit,
        Self::Complete,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Receive => "receive",
            Self::Settle => "settle",
            Self::Grant => "grant",
            Self::FetchStart => "fetch start",
            Self::FetchMiddle => "fetch middle",
            Self::Apply => "apply",
            Self::Commit => "commit",
            Self::Complete => "complete",
        }
    }

    /// Where the services hold it; the other steps are held by what stands between the subscriber and its databases.
    fn at_services(self) -> Option<When> {
        let read = || When::Blob(BlobRequests::of(BlobOperation::GetBlob));
        match self {
            Self::Settle => Some(BusFrames::of(BusEvent::Disposition).entity(SUBSCRIPTION).into()),
            Self::Grant => Some(When::Grant { tenant: None }),
            Self::FetchStart | Self::FetchMiddle => Some(read()),
            Self::Receive | Self::Apply | Self::Commit | Self::Complete => None,
        }
    }
}

/// The one place where a subscriber is held, once. It speaks through files, since the subscriber may be another process.
#[derive(Debug)]
pub(super) struct Gate {
    step: Option<Step>,
    folder: PathBuf,
    passed: AtomicBool,
    pub(super) sink_is_down: AtomicBool,
    pub(super) disk_is_full: AtomicBool,
    /// Calls that were refused because of these two.
    pub(super) refused: AtomicU64,
}

impl Gate {
    pub(super) fn at(step: Option<Step>, folder: &Path) -> Arc<Self> {
        Arc::new(Self {
            step,
            folder: folder.to_owned(),
            passed: AtomicBool::default(),
            sink_is_down: AtomicBool::default(),
            disk_is_full: AtomicBool::default(),
            refused: AtomicU64::default(),
        })
    }

    /// Has the services hold what they can; before the subscriber starts.
    pub(super) fn arm(&self, world: &World) {
        if let Some(step) = self.step
            && let Some(when) = step.at_services()
        {
            let nth = if step == Step::FetchMiddle { 3 } else { 1 };
            let hold = FaultStep::new(when, What::Delay(HELD)).nth(number(nth));
            world.local.faults().install([hold]).expect("a sound script");
        }
    }

    pub(super) async fn reached(&self, world: &World) {
        match self.step.and_then(Step::at_services) {
            Some(_) => until("the step", || !world.local.faults().log_lines().is_empty()).await,
            None => until("the step", || self.folder.join("reached").exists()).await,
        }
    }

    /// Lets whoever is held go on.
    pub(super) fn open(&self, world: &World) {
        std::fs::write(self.folder.join("open"), "").expect("a file");
        world.local.faults().clear();
    }

    async fn pass(&self, step: Step) {
        if self.step != Some(step) || self.passed.swap(true, Ordering::SeqCst) {
            return;
        }
        std::fs::write(self.folder.join("reached"), "").expect("a file");
        while !self.folder.join("open").exists() {
            sleep(LOOK).await;
        }
    }

    fn has_room(&self) -> Result<(), InboxError> {
        if self.disk_is_full.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(InboxError::Unavailable("the disk is full".into()));
        }
        Ok(())
    }

    fn sink_works(&self) -> Result<(), SinkError> {
        if self.sink_is_down.load(Ordering::SeqCst) {
            self.refused.fetch_add(1, Ordering::SeqCst);
            return Err(SinkError::Unavailable { sink: "the sink".to_owned(), problem: "it is down".to_owned() });
        }
        Ok(())
    }
}

/// An inbox or a sink behind a gate.
#[derive(Debug, Clone)]
pub(super) struct Behind<T> {
    inner: T,
    gate: Arc<Gate>,
}

#[deny(clippy::missing_trait_methods)]
impl Inbox for Behind<AnyInbox> {
    async fn admit(&self, burst: Vec<Arrival>) -> Result<Vec<Admitted>, InboxError> {
        self.gate.pass(Step::Receive).await;
        self.gate.has_room()?;
        self.inner.admit(burst).await
    }
    async fn known(&self, files: &[FileKey]) -> Result<Vec<Option<i64>>, InboxError> {
        self.inner.known(files).await
    }
    async fn lease(&self, worker: &WorkerId, most: u32, wanted: &Wanted) -> Result<Vec<Leased>, InboxError> {
        self.gate.has_room()?;
        self.inner.lease(worker, most, wanted).await
    }
    async fn renew(&self, lease: &Lease, rows: u64) -> Result<Option<Lease>, InboxError> {
        self.gate.has_room()?;
        self.inner.renew(lease, rows).await
    }
    async fn note_blob(&self, lease: &Lease, blob: &BlobSeen) -> Result<bool, InboxError> {
        self.gate.has_room()?;
        self.inner.note_blob(lease, blob).await
    }
    async fn finish(&self, lease: &Lease, end: End) -> Result<bool, InboxError> {
        if matches!(end, End::Done(_)) {
            self.gate.pass(Step::Complete).await;
        }
        self.gate.has_room()?;
        self.inner.finish(lease, end).await
    }
    async fn skip_other_types(&self, types: &[String]) -> Result<u64, InboxError> {
        self.inner.skip_other_types(types).await
    }
    async fn done_files(&self, after: i64, most: u32) -> Result<Vec<(i64, FileKey)>, InboxError> {
        self.inner.done_files(after, most).await
    }
    async fn reopen(&self, ids: &[i64]) -> Result<u64, InboxError> {
        self.inner.reopen(ids).await
    }
    async fn hasten(&self, ids: &[i64]) -> Result<u64, InboxError> {
        self.inner.hasten(ids).await
    }
    async fn retry(&self, id: i64) -> Result<Asked, InboxError> {
        self.inner.retry(id).await
    }
    async fn skip(&self, id: i64, why: &str) -> Result<Asked, InboxError> {
        self.inner.skip(id, why).await
    }
    async fn remember_place(&self, place: &Place) -> Result<(), InboxError> {
        self.gate.has_room()?;
        self.inner.remember_place(place).await
    }
    async fn places(&self) -> Result<Vec<Place>, InboxError> {
        self.inner.places().await
    }
    async fn pending(&self, wanted: &Wanted) -> Result<Pending, InboxError> {
        self.inner.pending(wanted).await
    }
    async fn counts(&self) -> Result<Counts, InboxError> {
        self.inner.counts().await
    }
    async fn backlog(&self) -> Result<Backlog, InboxError> {
        self.inner.backlog().await
    }
    async fn types(&self) -> Result<Vec<TypeTotals>, InboxError> {
        self.inner.types().await
    }
    async fn note_named(&self, of: &SequenceNamed) -> Result<(), InboxError> {
        self.inner.note_named(of).await
    }
    async fn named(&self) -> Result<Vec<SequenceNamed>, InboxError> {
        self.inner.named().await
    }
    async fn sequences(&self) -> Result<Vec<SequenceSeen>, InboxError> {
        self.inner.sequences().await
    }
    async fn prunable(&self, retention: &Retention) -> Result<Pruned, InboxError> {
        self.inner.prunable(retention).await
    }
    async fn prune(
        &self,
        retention: &Retention,
        step: PruneStep,
        most: u32,
    ) -> Result<(Pruned, Option<PruneStep>), InboxError> {
        self.inner.prune(retention, step, most).await
    }
    async fn list(&self, filter: &ListFilter) -> Result<Vec<InboxRow>, InboxError> {
        self.inner.list(filter).await
    }
    async fn get(&self, id: i64) -> Result<Option<InboxRow>, InboxError> {
        self.inner.get(id).await
    }
    async fn history(&self, id: i64) -> Result<Vec<HistoryEntry>, InboxError> {
        self.inner.history(id).await
    }
    async fn beat(&self, worker: &WorkerId, beat: &Beat) -> Result<(), InboxError> {
        self.inner.beat(worker, beat).await
    }
    async fn workers(&self) -> Result<Vec<WorkerSeen>, InboxError> {
        self.inner.workers().await
    }
}

#[deny(clippy::missing_trait_methods)]
impl Sink for Behind<AnySink> {
    fn guarantee(&self) -> Guarantee {
        self.inner.guarantee()
    }
    fn commit_bytes(&self) -> usize {
        self.inner.commit_bytes()
    }
    async fn progress(&self, file: &FileKey) -> Result<Progress, SinkError> {
        self.gate.sink_works()?;
        self.inner.progress(file).await
    }
    async fn look_ahead(&self, file: &FileKey, from: u64, batch: EntityBatch) -> Result<EntityBatch, SinkError> {
        self.inner.look_ahead(file, from, batch).await
    }
    fn sorts_in(&self) -> Option<&Path> {
        self.inner.sorts_in()
    }
    async fn may_sort(&self, entity: &EntityPlan) -> Result<bool, SinkError> {
        self.gate.sink_works()?;
        self.inner.may_sort(entity).await
    }
    async fn begin_again(&self, file: &FileKey, at: Progress) -> Result<(), SinkError> {
        self.gate.sink_works()?;
        self.inner.begin_again(file, at).await
    }
    async fn apply(&self, file: &FileKey, from: u64, batch: EntityBatch) -> Result<Applied, SinkError> {
        self.gate.pass(Step::Apply).await;
        self.gate.sink_works()?;
        let applied = self.inner.apply(file, from, batch).await?;
        self.gate.pass(Step::Commit).await;
        Ok(applied)
    }
    fn whole_files(&self) -> WholeFiles {
        self.inner.whole_files()
    }
    async fn apply_whole(
        &self,
        file: &FileKey,
        batches: mpsc::Receiver<EntityBatch>,
    ) -> Result<Option<Applied>, SinkError> {
        self.gate.sink_works()?;
        self.inner.apply_whole(file, batches).await
    }
    async fn end_waits(&self) -> Result<WaitsEnded, SinkError> {
        self.gate.sink_works()?;
        self.inner.end_waits().await
    }
}

/// Of the kinds of rows that the cells need.
pub(super) fn entities() -> Entities {
    Entities::parse(PRICED_ITEMS, "entities.toml").expect("sound entities")
}

/// A subscriber behind a gate.
pub(super) async fn subscriber(
    gate: &Arc<Gate>,
    stores: &Stores,
    ready: &ReadyFile,
) -> (Subscriber<Behind<AnyInbox>>, Behind<AnySink>) {
    let (inbox, sink) = stores.open().await;
    // Time-outs of seconds where a service would have a minute; several requests and commits a file.
    let subscriber = Subscriber::builder()
        .entities(entities())
        .drain_timeout(Duration::ZERO)
        .commit_rows_max(number(ROWS / 2))
        .bus(BusOptions { idle_timeout: Duration::from_secs(2), ..BusOptions::default() })
        .http(HttpOptions { read_timeout: Duration::from_secs(60), ..HttpOptions::default() })
        .blob(ContainerOptions { range_bytes: RANGE, ..ContainerOptions::default() });
    let tenant = Url::parse(&ready.tenant_url).expect("an address");
    let credential = Credential::Bearer(Secret::new(&ready.bearer_token));
    let inbox = Behind { inner: inbox, gate: Arc::clone(gate) };
    let subscriber = subscriber.with_tenant(inbox, &tenant, credential).expect("a subscriber");
    (subscriber, Behind { inner: sink, gate: Arc::clone(gate) })
}

/// Of a file; two commits.
pub(super) const ROWS: u32 = 40;
/// A file is a few of these.
const RANGE: u64 = 400;

/// What `victim` is told.
const VICTIM: &str = "WAYBILL_TEST_VICTIM";

/// A subscriber in a process of its own, which can be killed and frozen.
pub(super) struct Victim(Child);

impl Victim {
    pub(super) fn start(step: Step, stores: &Stores, world: &World) -> Self {
        let place = Step::ALL.iter().position(|other| *other == step).expect("one of all");
        let mut run = Command::new(std::env::current_exe().expect("this program has a path"));
        run.args(["--exact", "matrix::gate::victim", "--ignored", "--nocapture"]);
        run.env(VICTIM, format!("{place}:{}:{}", stores.told(), world.ready_file().display())).env_remove("RUST_LOG");
        run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        Self(run.spawn().expect("this program starts"))
    }

    pub(super) fn pid(&self) -> u32 {
        self.0.id().expect("it runs")
    }

    pub(super) async fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.pid().to_string()]).status().await.expect("kill runs");
        assert!(sent.success(), "{signal}");
    }

    /// `kill -9`, and until it is gone.
    pub(super) async fn kill(mut self) {
        self.0.kill().await.expect("it is killed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "not a test: the process that the fault matrix kills and freezes"]
async fn victim() {
    let Ok(told) = std::env::var(VICTIM) else { return };
    let told: Vec<&str> = told.splitn(3, ':').collect();
    let [step, stores, ready] = told[..] else {
        panic!("a step, where inbox and sink are, and a ready file: {told:?}")
    };
    let step = Step::ALL[step.parse::<usize>().expect("a number")];
    let ready = Path::new(ready);
    let folder = ready.parent().expect("a folder");
    let (gate, stores) = (Gate::at(Some(step), folder), Stores::named(stores, folder).of_victim());
    let ready: ReadyFile = serde_json::from_slice(&std::fs::read(ready).expect("a file")).expect("a ready file");
    let (subscriber, sink) = subscriber(&gate, &stores, &ready).await;
    subscriber.run(sink, CancellationToken::new()).await.expect("it runs until it is killed");
}
