//! The subscriber as one thing: builder, run, staged stop.

mod opening;
mod proof;
mod vital;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    num::NonZeroU32,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{
    sync::{Notify, Semaphore, oneshot},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use url::Url;
use waybill_azure::{
    GrantError, Service, TokenSource,
    blob::{ContainerOptions, ReadAhead, Traffic},
    bus::BusOptions,
    http::{HttpClient, HttpError, HttpOptions},
};
use waybill_contracts::{BlobUri, Entities, GrantLayout, Metadata};
use waybill_formats::{Limits, RowFilter, filter::FilterColumns};

use crate::{
    OnBadRow,
    apply::{EntityPlans, PlanError},
    cache::{Cache, CacheOptions},
    fetch::{Claim, HostAliases, RANGE_AHEAD_BYTES, Storage},
    files::{Files, Source},
    grants::{Credential, Grants, jittered, place_of},
    health::{Alarm, Doing},
    inbox::{
        Inbox, InboxError, InboxRow, ListFilter, Pages, Pending, Place, Retention, SqliteInbox, State, Wanted,
        WorkerId, prune,
    },
    look::{FileRows, LookError},
    manifest::with_manifests,
    receive::{Buses, ReceiveStats, Reception, chain},
    reconcile::{ReconcileError, Reconciled, Walk},
    rows::{GroupLimits, Pool},
    schedule::{
        Circuits, CompareError, Dependency, SORT_BYTES, Stages, WorkStats, Workshop, compare, end_waits, look_at,
        process,
    },
    sink::{Sink, SinkOpenError},
    tasks::all,
    watched::{Calls, Watched},
};

/// Everything a subscriber does, ready to run. Clones are the same subscriber. Two subscribers in one process share
/// nothing.
#[derive(Debug, Clone)]
pub struct Subscriber<I = SqliteInbox> {
    shared: Arc<Shared<I>>,
}

#[derive(Debug)]
struct Shared<I> {
    inbox: Watched<I>,
    tokens: Arc<dyn TokenSource>,
    grants: Option<Arc<Grants>>,
    http: HttpClient,
    cache: Option<Arc<Cache>>,
    entities: Arc<Entities>,
    plans: Arc<EntityPlans>,
    filters: HashMap<String, Arc<RowFilter>>,
    options: SubscriberBuilder,
    worker: WorkerId,
    received: Arc<ReceiveStats>,
    dead_letters: Arc<ReceiveStats>,
    worked: Arc<WorkStats>,
    admitted: Arc<Notify>,
    sink_calls: Arc<Calls>,
    traffic: Arc<Traffic>,
    ahead: Arc<ReadAhead>,
    circuits: Arc<Circuits>,
    /// While it receives.
    receiving: Doing,
    /// While it works files.
    working: Doing,
    /// Of the loop that leases.
    schedule_alarm: Arc<Alarm>,
    /// Of the loop that tells the inbox of itself.
    pulse_alarm: Alarm,
    /// Those that messages came from last.
    buses: Arc<Buses>,
    /// Runs that compare inbox and sink: what they find is not due yet.
    preparing: Doing,
}

/// Why a subscriber cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The HTTP client.
    #[error("the HTTP client cannot be set up")]
    Http(#[from] HttpError),
    /// TenantService's address.
    #[error("the tenant cannot be used")]
    Tenant(#[from] GrantError),
    /// An entity.
    #[error("the entities cannot be used")]
    Entity(#[from] PlanError),
    /// A filter of a type that no entity has is wrong.
    #[error("the filter of type {blob_type:?}: {problem}")]
    Filter {
        /// The type.
        blob_type: String,
        /// What is wrong, and where.
        problem: String,
    },
    /// A reference that nothing can satisfy.
    #[error("the entities and the configured types do not fit: {0}")]
    Types(String),
}

/// Why a run ended before it was stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Inbox and sink could not be compared at the start.
    #[error("the start failed")]
    Compare(#[from] CompareError),
    /// The sink was not opened.
    #[error(transparent)]
    Open(#[from] SinkOpenError),
    /// The sink cannot do what [`SubscriberBuilder::atomic`] asks.
    #[error(
        "atomic = true wants a sink that can take back what it did of a file: an SQL database, or a folder; this one cannot. Leave \
         `atomic` away, or name another sink"
    )]
    NotAtomic,
}

impl RunError {
    /// Whether it was an outage, which ends without a person, and lasted for longer than the
    /// [patience](SubscriberBuilder::start_patience) of the start.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Compare(error) => error.passes(),
            Self::Open(error) => error.passes(),
            Self::NotAtomic => false,
        }
    }
}

/// How long [`Subscriber::process`] waits at its start for an inbox or a sink that is down, unless it is told.
const COMPARE_PATIENCE: Duration = Duration::from_secs(30);
/// How long the inbox may take to get files back, and the bus to end its links, when the time of a stop is over.
const GIVE_BACK: Duration = Duration::from_secs(2);

/// Makes a [`Subscriber`]. Defaults are said at each method.
#[derive(Debug, Clone)]
pub struct SubscriberBuilder {
    entities: Entities,
    types: Option<Vec<String>>,
    filters: BTreeMap<String, String>,
    files_in_flight_max: NonZeroU32,
    commits_in_flight_max: Option<NonZeroU32>,
    commit_rows_max: u64,
    commit_bytes_max: Option<usize>,
    sort_bytes_max: usize,
    limits: Limits,
    on_bad_row: OnBadRow,
    atomic: bool,
    verify_hash: bool,
    dead_letters: bool,
    drain_timeout: Duration,
    start_patience: Option<Duration>,
    stuck_after: Duration,
    retention: Retention,
    layout: GrantLayout,
    http: HttpOptions,
    bus: BusOptions,
    blob: ContainerOptions,
    ranges_ahead_max: usize,
    cache: Option<CacheOptions>,
    aliases: HostAliases,
    now: fn() -> OffsetDateTime,
}

impl Default for SubscriberBuilder {
    fn default() -> Self {
        Self {
            entities: Entities::default(),
            types: None,
            filters: BTreeMap::new(),
            files_in_flight_max: NonZeroU32::new(4).expect("four is not zero"),
            commits_in_flight_max: None,
            commit_rows_max: 100_000,
            commit_bytes_max: None,
            sort_bytes_max: SORT_BYTES,
            limits: Limits::default(),
            on_bad_row: OnBadRow::Quarantine,
            atomic: false,
            verify_hash: false,
            dead_letters: true,
            drain_timeout: Duration::from_secs(20),
            start_patience: None,
            stuck_after: Duration::from_secs(300),
            retention: Retention::default(),
            layout: GrantLayout::default(),
            http: HttpOptions::default(),
            bus: BusOptions::default(),
            blob: ContainerOptions::default(),
            ranges_ahead_max: 4,
            cache: None,
            aliases: HostAliases::default(),
            now: OffsetDateTime::now_utc,
        }
    }
}

impl SubscriberBuilder {
    /// What rows mean (default: none; each blobType is a table or stream of its own, to which rows are only added).
    #[must_use]
    pub fn entities(mut self, entities: Entities) -> Self {
        self.entities = entities;
        self
    }

    /// Work only these blobTypes; files of others are saved, skipped and listed (default: all). `*` stands for any characters:
    /// `Gateway.*`.
    #[must_use]
    pub fn types(mut self, types: impl IntoIterator<Item = String>) -> Self {
        self.types = Some(types.into_iter().collect());
        self
    }

    /// Which rows are wanted of a blobType that no entity has, as a predicate in CEL (default: all); the others are counted
    /// and dropped. An entity has its own, `where`.
    #[must_use]
    pub fn filter(mut self, blob_type: impl Into<String>, predicate: impl Into<String>) -> Self {
        self.filters.insert(blob_type.into(), predicate.into());
        self
    }

    /// Most files worked at once (default 4). Decoded rows in memory stay below
    /// `files_in_flight_max × 4 × commit_bytes_max`, for SQLite twice that, with a [`sort_bytes_max`](Self::sort_bytes_max) more where
    /// files are sorted.
    #[must_use]
    pub fn files_in_flight_max(mut self, files: NonZeroU32) -> Self {
        self.files_in_flight_max = files;
        self
    }

    /// Most commits in the sink at once (default: as many as there are files). With fewer, more files are downloaded and decoded than the
    /// sink has writers: for a long line to storage before a small database. Replicas count each for itself.
    #[must_use]
    pub fn commits_in_flight_max(mut self, commits: NonZeroU32) -> Self {
        self.commits_in_flight_max = Some(commits);
        self
    }

    /// Most rows in one transaction of the sink (default 100,000); a long file resumes at the last one.
    #[must_use]
    pub fn commit_rows_max(mut self, rows: NonZeroU32) -> Self {
        self.commit_rows_max = u64::from(rows.get());
        self
    }

    /// Most plain bytes in one transaction of the sink (default: what [suits it](Sink::commit_bytes), 16 MiB in PostgreSQL,
    /// else 4 MiB).
    #[must_use]
    pub fn commit_bytes_max(mut self, bytes: usize) -> Self {
        self.commit_bytes_max = Some(bytes.max(1));
        self
    }

    /// Most bytes of rows that are sorted in memory at once (default 48 MiB), whatever the number of files. Rows of a file with
    /// more plain bytes than 8 MiB, or than this, are brought into effect in the order of their keys, where [the sink gains by
    /// it](Sink::sorts_in): SQLite writes each page of a table once then. A larger file is sorted in a temporary one, which takes a
    /// little more than its plain bytes. `usize::MAX`: none are sorted.
    #[must_use]
    pub fn sort_bytes_max(mut self, bytes: usize) -> Self {
        self.sort_bytes_max = bytes;
        self
    }

    /// What a file may cost (defaults at [`Limits`]).
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// What a malformed row does to its file (default: [`OnBadRow::Quarantine`]).
    #[must_use]
    pub fn on_bad_row(mut self, what: OnBadRow) -> Self {
        self.on_bad_row = what;
        self
    }

    /// All of a file takes effect at once, or nothing of it (default: no, a long one takes effect in commits of
    /// [`commit_rows_max`](Self::commit_rows_max)). In an SQL database it is one transaction then, which takes no more memory, and
    /// makes others wait as `docs/operations.md` says; in a folder a file is seen as a whole anyhow. [`Subscriber::files`] gives rows
    /// out as before.
    #[must_use]
    pub fn atomic(mut self, atomic: bool) -> Self {
        self.atomic = atomic;
        self
    }

    /// Compare the plain bytes with `plainSha256` where a message has it (default: no; length and CRC always are).
    #[must_use]
    pub fn verify_hash(mut self, verify: bool) -> Self {
        self.verify_hash = verify;
        self
    }

    /// Drain the subscription's dead-letter queue into the inbox as well (default: yes).
    #[must_use]
    pub fn dead_letters(mut self, drain: bool) -> Self {
        self.dead_letters = drain;
        self
    }

    /// How long files under way may take to finish after a stop (default 20 s); then they are given back. Where the inbox or the bus
    /// does not answer, the stop takes 4 s more at most, and what was not given back comes again when its lease or lock ends.
    #[must_use]
    pub fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// How long a start waits for a sink or an inbox that is down, before it ends with an error (default: [`Subscriber::run`] for
    /// as long as it takes, [`Subscriber::process`] half a minute). For those whose end somebody waits for.
    #[must_use]
    pub fn start_patience(mut self, patience: Duration) -> Self {
        self.start_patience = Some(patience);
        self
    }

    /// Where TenantService's answer holds each field (default: the shape of `docs/wire.md`).
    #[must_use]
    pub fn grant_layout(mut self, layout: GrantLayout) -> Self {
        self.layout = layout;
        self
    }

    /// Timeouts and trust of the HTTP client.
    #[must_use]
    pub fn http(mut self, options: HttpOptions) -> Self {
        self.http = options;
        self
    }

    /// Timeouts and trust of the bus.
    #[must_use]
    pub fn bus(mut self, options: BusOptions) -> Self {
        self.bus = options;
        self
    }

    /// Ranges and timeouts of downloads.
    #[must_use]
    pub fn blob(mut self, options: ContainerOptions) -> Self {
        self.blob = options;
        self
    }

    /// Most ranges of large blobs that are under way beside the first one of each download, of all files together (default 4,
    /// 0: none). More of them are opened only while decoding waits for the network, and only as long as that brings more bytes.
    /// Each is of 4 MiB at most (or of the range of [`blob`](Self::blob), if that is less), and so is the memory that it takes.
    #[must_use]
    pub fn ranges_ahead_max(mut self, ranges: usize) -> Self {
        self.ranges_ahead_max = ranges;
        self
    }

    /// Hosts that messages name in the place of those that grants name, such as a custom domain (default: none). Files are fetched
    /// from the grant's host all the same.
    #[must_use]
    pub fn host_aliases(mut self, aliases: HostAliases) -> Self {
        self.aliases = aliases;
        self
    }

    /// Keep copies of the files' stored bytes on disk, and read those instead of a download when a file is read again: by a
    /// replay, a rebuild, another sink or [`Subscriber::rows`] (default: no).
    #[must_use]
    pub fn cache(mut self, cache: CacheOptions) -> Self {
        self.cache = Some(cache);
        self
    }

    /// How late one of its loops may be before [`Subscriber::health`] calls it stuck (default 5 min): more than any database
    /// takes to answer.
    #[must_use]
    pub fn stuck_after(mut self, late: Duration) -> Self {
        self.stuck_after = late;
        self
    }

    /// What of the inbox is forgotten, and when; looked at every hour by whoever receives or works (default: nothing ever).
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// The clock (default: the system's).
    #[must_use]
    pub fn now(mut self, now: fn() -> OffsetDateTime) -> Self {
        self.now = now;
        self
    }

    /// A subscriber with tokens from TenantService. Touches no network yet.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn with_tenant<I: Inbox + Clone>(
        self,
        inbox: I,
        tenant: &Url,
        credential: Credential,
    ) -> Result<Subscriber<I>, BuildError> {
        let http = HttpClient::new(&self.http)?;
        let grants = Grants::new(http.clone(), tenant, credential, self.layout.clone(), self.now)?;
        self.build(inbox, http, Arc::clone(&grants) as Arc<dyn TokenSource>, Some(grants))
    }

    /// A subscriber with tokens of your own making. Touches no network yet.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn with_tokens<I: Inbox + Clone>(
        self,
        inbox: I,
        tokens: Arc<dyn TokenSource>,
    ) -> Result<Subscriber<I>, BuildError> {
        let http = HttpClient::new(&self.http)?;
        self.build(inbox, http, tokens, None)
    }

    fn build<I: Inbox + Clone>(
        self,
        inbox: I,
        http: HttpClient,
        tokens: Arc<dyn TokenSource>,
        grants: Option<Arc<Grants>>,
    ) -> Result<Subscriber<I>, BuildError> {
        self.entities.check_types(self.types.as_deref()).map_err(|error| BuildError::Types(error.to_string()))?;
        let plans = EntityPlans::compile(&self.entities)?;
        let filters = compile_filters(&self.filters, &plans)?;
        Ok(Subscriber {
            shared: Arc::new(Shared {
                inbox: Watched::new(inbox, Arc::default()),
                tokens,
                grants,
                http,
                entities: Arc::new(self.entities.clone()),
                plans: Arc::new(plans),
                filters,
                worker: WorkerId::new(),
                cache: self.cache.clone().map(|options| Arc::new(Cache::new(options, self.now))),
                ahead: Arc::new(ReadAhead::new(self.ranges_ahead_max, self.blob.range_bytes.min(RANGE_AHEAD_BYTES))),
                options: self,
                received: Arc::default(),
                dead_letters: Arc::default(),
                worked: Arc::default(),
                admitted: Arc::default(),
                sink_calls: Arc::default(),
                traffic: Arc::default(),
                circuits: Arc::default(),
                receiving: Doing::default(),
                working: Doing::default(),
                schedule_alarm: Arc::default(),
                pulse_alarm: Alarm::default(),
                buses: Arc::default(),
                preparing: Doing::default(),
            }),
        })
    }
}

impl Subscriber<SqliteInbox> {
    /// Begins a builder, for any inbox.
    #[must_use]
    pub fn builder() -> SubscriberBuilder {
        SubscriberBuilder::default()
    }
}

impl<I: Inbox + Clone> Subscriber<I> {
    /// Receives and works until `stop`, then stops in stages: no new messages, files under way finish within
    /// `drain_timeout`, the rest is given back, links are closed.
    ///
    /// Messages are received from the begin. No file is worked before the sink was asked about every file that the inbox calls
    /// done; those that it does not know are worked again. While the sink or the inbox is down that is waited for, unless
    /// [`SubscriberBuilder::start_patience`] says for how long. With a sink that may be down before it is opened, use
    /// [`Subscriber::run_once_open`].
    ///
    /// # Errors
    /// [`RunError`], at the start only: the sink does not let itself be asked, which a person has to mend. Everything else is
    /// tried again until it works.
    ///
    /// # Cancel safety
    /// Dropping the future ends everything at once, and nothing is lost, as after a crash: links are closed, messages that were not
    /// settled come again, files under way come again when their leases end and go on after the last rows that took effect.
    /// To stop without that wait, cancel `stop` and await the future.
    pub async fn run(&self, sink: impl Sink, stop: CancellationToken) -> Result<(), RunError> {
        self.run_once_open(opening::there(sink), stop).await
    }

    /// Only receives: bus to inbox, until `stop`.
    ///
    /// # Cancel safety
    /// As [`Subscriber::run`].
    pub async fn receive(&self, stop: CancellationToken) {
        let _doing = self.shared.receiving.begin();
        let (stages, mut tasks) = (Stages::of(&stop), JoinSet::new());
        self.spawn_receive(&mut tasks, &stages.stop);
        self.beating(self.all_ended(tasks, &stages)).await;
    }

    /// Only works what the inbox holds, until `stop`, or as many files as are [wanted](Wanted::limit).
    ///
    /// # Errors
    /// As [`Subscriber::run`]; also when the sink or the inbox is down at the start, and for half a minute after, or for as long as
    /// [`SubscriberBuilder::start_patience`] says.
    ///
    /// # Cancel safety
    /// As [`Subscriber::run`].
    pub async fn process(&self, sink: impl Sink, wanted: Wanted, stop: CancellationToken) -> Result<(), RunError> {
        self.process_once_open(opening::there(sink), wanted, stop).await
    }

    /// Until all tasks ended, or a stop has lasted as long as it may.
    async fn all_ended(&self, tasks: JoinSet<()>, Stages { stop, give_back }: &Stages) {
        let too_long = async {
            stop.cancelled().await;
            sleep(self.shared.options.drain_timeout).await;
            give_back.cancel();
            sleep(GIVE_BACK).await;
        };
        tokio::select! {
            () = all(tasks) => {}
            () = too_long => tracing::warn!(
                "the stop took too long; what was not given back comes again when its lease or lock ends"
            ),
        }
    }

    /// The saved files that are due, for code of your own, which says what became of each: see [`files`](crate::files).
    /// Within `wanted`, by default within the types of the builder, whose other options hold as for [`Subscriber::run`], but for
    /// the filters: rows come as they are, and [`Rows::sieve`](crate::files::Rows::sieve) asks them. Touches nothing yet;
    /// [`Subscriber::receive`] may run beside it, here or in another process, or at another time.
    ///
    /// An inbox is for a sink or for such a stream: a sink knows nothing of files that a stream did, so that at its next start
    /// it would have them worked again.
    #[must_use]
    pub fn files(&self, wanted: Wanted) -> Files<I> {
        let Shared { inbox, entities, plans, filters, options, worker, worked, admitted, circuits, .. } = &*self.shared;
        let source = Source {
            inbox: inbox.clone(),
            worker: worker.clone(),
            storage: self.storage(),
            entities: Arc::clone(entities),
            plans: Arc::clone(plans),
            filters: filters.clone(),
            types: with_manifests(options.types.clone()),
            circuits: Arc::clone(circuits),
            stats: Arc::clone(worked),
            limits: options.limits.clone(),
            on_bad_row: options.on_bad_row,
            verify_hash: options.verify_hash,
            now: options.now,
        };
        Files::new(self.clone(), source, self.wanted(wanted), Arc::clone(admitted))
    }

    /// The rows of a file that the inbox knows, whatever became of it, by the row's number in the inbox. Nothing is brought
    /// into effect, and nothing is noted.
    ///
    /// # Errors
    /// [`LookError`]: there is no such file, or its blob cannot be had.
    ///
    /// # Cancel safety
    /// Cancel-safe: it only asks.
    pub async fn rows(&self, id: i64) -> Result<FileRows, LookError> {
        let shared = &self.shared;
        let (row, metadata) = self.known(id).await?;
        let (claim, now) = (Claim::of_row(&row, &metadata), (shared.options.now)());
        let blob = self.storage().locate(&shared.inbox, claim, now).await?;
        let download = blob.open(claim, (0, None), now).await?;
        let entity = shared.entities.for_type(&metadata.blob_type);
        let (limits, verify_hash) = (&shared.options.limits, shared.options.verify_hash);
        FileRows::of_blob(blob.name().to_owned(), download, &metadata, entity, limits, verify_hash)
    }

    /// A row of the inbox that stands for a file, and what its message says.
    async fn known(&self, id: i64) -> Result<(InboxRow, Metadata), LookError> {
        let row = self.shared.inbox.get(id).await?.ok_or(LookError::Unknown { id })?;
        let metadata = Metadata::parse(row.body.as_bytes()).map_err(|source| LookError::NoFile { id, source })?;
        Ok((row, metadata))
    }

    /// Compares manifests, and the container's listing where the grant allows it, with the inbox, within `types` (default: the configured ones), and admits the files that
    /// no message announced; with `dry_run` it only says which. Files are worked by [`Subscriber::run`] and
    /// [`Subscriber::process`], here or in another process. See [`reconcile`](crate::reconcile).
    ///
    /// # Errors
    /// [`ReconcileError`]; what was admitted before stays.
    ///
    /// # Cancel safety
    /// Dropping the future ends it, and nothing is lost: what was admitted stays, and the next one finds the rest.
    pub async fn reconcile(&self, types: Option<Vec<String>>, dry_run: bool) -> Result<Reconciled, ReconcileError> {
        let Shared { inbox, admitted, options, .. } = &*self.shared;
        let types = with_manifests(types.or_else(|| options.types.clone()));
        let (limits, now) = (options.limits.clone(), (options.now)());
        let walk = Walk { storage: self.storage(), inbox, types, dry_run, limits, now };
        let reconciled = walk.run().await;
        // Also after an error: some may be there.
        admitted.notify_waiters();
        reconciled
    }

    fn storage(&self) -> Storage {
        let Shared { http, tokens, options, traffic, ahead, cache, .. } = &*self.shared;
        let (http, tokens) = (http.clone(), Arc::clone(tokens));
        let (traffic, ahead) = (Arc::clone(traffic), Arc::clone(ahead));
        let (cache, aliases) = (cache.clone(), options.aliases.clone());
        Storage { http, tokens, options: options.blob.clone(), traffic, ahead, cache, aliases }
    }

    fn watched<S: Sink>(&self, sink: S) -> Arc<Watched<S>> {
        Arc::new(Watched::new(sink, Arc::clone(&self.shared.sink_calls)))
    }

    /// Asks for a grant once, so that a wrong credential shows at the start.
    ///
    /// # Errors
    /// What TenantService answered.
    ///
    /// # Cancel safety
    /// Cancel-safe: whoever asks next asks TenantService again.
    pub async fn check_grant(&self) -> Result<(), GrantError> {
        self.shared.tokens.grant(Service::Blob, None).await.map(|_| ())
    }

    /// Returns when for `quiet` no message came and no file was worked or due, or when `stop` is cancelled. With
    /// `receiving`, a time without a link to the bus does not count as quiet: [`ReceiveStats::problem`] says why there is
    /// none. Files that wait for a later try do not hold it: they are
    /// in the answer.
    ///
    /// # Errors
    /// [`InboxError`].
    ///
    /// # Cancel safety
    /// Cancel-safe: it only looks; another call waits for the whole of `quiet` again.
    pub async fn until_idle(
        &self,
        wanted: &Wanted,
        quiet: Duration,
        receiving: bool,
        stop: &CancellationToken,
    ) -> Result<Pending, InboxError> {
        /// Often enough for the first evening, seldom enough for an idle machine.
        const LOOK: Duration = Duration::from_millis(50);
        let wanted = self.wanted(wanted.clone());
        let messages = || {
            self.shared.received.received.load(Ordering::Relaxed)
                + self.shared.dead_letters.received.load(Ordering::Relaxed)
        };
        let (mut before, mut since) = (messages(), Instant::now());
        loop {
            // Read first: what the comparison reopened is due by the time it is over.
            let preparing = self.shared.preparing.is_on();
            let asked = Instant::now();
            let pending = self.shared.inbox.pending(&wanted).await?;
            // With a long backlog the question costs something: asked more seldom then.
            let look = LOOK.max(asked.elapsed() * 10);
            let attached = !receiving || self.shared.received.is_attached();
            let now = messages();
            let busy = pending.working > 0 || pending.due > 0 || now != before || !attached || preparing;
            if busy {
                (before, since) = (now, Instant::now());
            }
            if (!busy && since.elapsed() >= quiet) || stop.is_cancelled() {
                return Ok(pending);
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(look) => {}
            }
        }
    }

    /// What the receiving side has done in this process, without the dead-letter queue.
    #[must_use]
    pub fn receive_stats(&self) -> &ReceiveStats {
        &self.shared.received
    }

    /// What was drained from the dead-letter queue in this process.
    #[must_use]
    pub fn dead_letter_stats(&self) -> &ReceiveStats {
        &self.shared.dead_letters
    }

    /// What the working side has done in this process.
    #[must_use]
    pub fn work_stats(&self) -> &WorkStats {
        &self.shared.worked
    }

    /// The cache of tokens, when they come from TenantService.
    #[must_use]
    pub fn grants(&self) -> Option<&Grants> {
        self.shared.grants.as_deref()
    }

    /// The inbox.
    #[must_use]
    pub fn inbox(&self) -> &I {
        &self.shared.inbox.inner
    }

    fn wanted(&self, mut wanted: Wanted) -> Wanted {
        wanted.types = with_manifests(wanted.types.or_else(|| self.shared.options.types.clone()));
        wanted
    }

    pub(crate) fn spawn_grants(&self, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        if let Some(grants) = self.shared.grants.clone() {
            let stop = stop.clone();
            tasks.spawn(async move { grants.run(&stop).await });
        }
        {
            let (shared, stop) = (Arc::clone(&self.shared), stop.clone());
            tasks.spawn(async move { keep_in_bounds(&shared.inbox, &shared.options.retention, &stop).await });
        }
        if let Some(cache) = self.shared.cache.clone() {
            let stop = stop.clone();
            tasks.spawn(async move { clear_up_cache(&cache, &stop).await });
        }
        {
            let (shared, storage, stop) = (Arc::clone(&self.shared), self.storage(), stop.clone());
            tasks.spawn(async move { look_at(&storage, shared.circuits.of(Dependency::Storage), &stop).await });
        }
        let (shared, stop) = (Arc::clone(&self.shared), stop.clone());
        tasks.spawn(async move {
            remember_places(&*shared.tokens, &shared.inbox, &shared.options.aliases, &stop).await;
        });
    }

    fn spawn_receive(&self, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        self.spawn_grants(tasks, stop);
        let Shared { tokens, inbox, received, dead_letters, admitted, buses, options, .. } = &*self.shared;
        let reception = Reception {
            tokens: Arc::clone(tokens),
            options: options.bus.clone(),
            inbox: inbox.clone(),
            messages: Arc::clone(received),
            dead_letters: options.dead_letters.then(|| Arc::clone(dead_letters)),
            admitted: Arc::clone(admitted),
            buses: Arc::clone(buses),
            now: options.now,
        };
        tasks.spawn(reception.run(stop.clone()));
    }

    /// Compares inbox and sink, then works. The answer is told why it does not begin.
    fn spawn_process(
        &self,
        tasks: &mut JoinSet<()>,
        sink: Arc<Watched<impl Sink>>,
        wanted: Wanted,
        patience: Option<Duration>,
        stages: &Stages,
    ) -> oneshot::Receiver<CompareError> {
        let shared = Arc::clone(&self.shared);
        let options = &shared.options;
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        let commit_bytes_max = options.commit_bytes_max.unwrap_or_else(|| sink.commit_bytes().max(1));
        let workshop = Arc::new(Workshop {
            inbox: shared.inbox.clone(),
            sink,
            storage: self.storage(),
            entities: Arc::clone(&shared.entities),
            plans: Arc::clone(&shared.plans),
            circuits: Arc::clone(&shared.circuits),
            alarm: Arc::clone(&shared.schedule_alarm),
            types: with_manifests(options.types.clone()),
            filters: shared.filters.clone(),
            stats: Arc::clone(&shared.worked),
            pool: Pool::new(cores),
            limits: options.limits.clone(),
            groups: GroupLimits { rows_max: options.commit_rows_max, bytes_max: commit_bytes_max },
            commits: Semaphore::new(options.commits_in_flight_max.unwrap_or(options.files_in_flight_max).get() as usize),
            sort_bytes: options.sort_bytes_max,
            sorting: Semaphore::new(1),
            on_bad_row: options.on_bad_row,
            atomic: options.atomic,
            verify_hash: options.verify_hash,
            now: options.now,
        });
        {
            let (workshop, stop) = (Arc::clone(&workshop), stages.stop.clone());
            tasks.spawn(async move {
                workshop.sink.look_after(workshop.circuits.of(Dependency::Sink), &stop).await;
            });
        }
        // From now on, and not when the task begins: until then nothing is idle.
        let preparing = shared.preparing.begin();
        let (failed, failure) = oneshot::channel();
        let (stages, files) = (stages.clone(), options.files_in_flight_max.get());
        tasks.spawn(async move {
            let Workshop { inbox, sink, circuits, stats, .. } = &*workshop;
            match compare(inbox, &**sink, circuits, patience, &stages.stop).await {
                Ok(true) => {
                    drop(preparing);
                    let (worker, admitted) = (shared.worker.clone(), Arc::clone(&shared.admitted));
                    let working = async {
                        process(Arc::clone(&workshop), worker, wanted, files, admitted, &stages).await;
                        stages.stop.cancel();
                    };
                    tokio::join!(end_waits(&**sink, stats, &stages.stop), working);
                }
                Ok(false) => {}
                Err(error) => {
                    // Whoever waited for it is gone where nobody takes it.
                    drop(failed.send(error));
                    stages.stop.cancel();
                }
            }
        });
        failure
    }
}

/// Why the work did not begin, if it did not.
fn failed_at_start(mut failure: oneshot::Receiver<CompareError>) -> Result<(), RunError> {
    failure.try_recv().map_or(Ok(()), |error| Err(error.into()))
}

/// Filters of types that no entity has.
fn compile_filters(
    filters: &BTreeMap<String, String>,
    plans: &EntityPlans,
) -> Result<HashMap<String, Arc<RowFilter>>, BuildError> {
    let compile = |(blob_type, predicate): (&String, &String)| {
        let failed = |problem: String| BuildError::Filter { blob_type: blob_type.clone(), problem };
        if let Some(entity) = plans.for_type(blob_type) {
            let problem =
                format!("its rows belong to entity {:?}; write the predicate there, as `where`", entity.name());
            return Err(failed(problem));
        }
        let filter = RowFilter::compile(predicate, &FilterColumns::default());
        Ok((blob_type.clone(), Arc::new(filter.map_err(|error| failed(error.to_string()))?)))
    };
    filters.iter().map(compile).collect()
}

/// How often it is looked at what may go.
const LOOK_BACK_EVERY: Duration = Duration::from_secs(3600);

/// Forgets what may be forgotten, now and every hour.
async fn keep_in_bounds(inbox: &impl Inbox, retention: &Retention, stop: &CancellationToken) {
    while !retention.is_for_ever() && !stop.is_cancelled() {
        tokio::select! {
            () = stop.cancelled() => return,
            pruned = prune(inbox, retention, |_| {}) => match pruned {
                Ok(pruned) => tracing::debug!(?pruned, "pruned"),
                Err(error) => tracing::warn!(error = %chain(&error), "the inbox was not pruned; trying again in an hour"),
            },
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(LOOK_BACK_EVERY) => {}
        }
    }
}

/// Removes copies that are too old, now and every hour: whoever makes none would not find them.
async fn clear_up_cache(cache: &Arc<Cache>, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        let round = async {
            cache.clear_up().await;
            sleep(LOOK_BACK_EVERY).await;
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = round => {}
        }
    }
}

/// The first pause before a source of tokens that failed is asked for its places again, and the longest.
const PLACES_PAUSE: Duration = Duration::from_secs(1);
const PLACES_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Notes in the inbox where each new grant says that files lie, so that a file of an earlier place waits for it, and has those
/// tried again whose place is named anew.
pub(crate) async fn remember_places(
    tokens: &dyn TokenSource,
    inbox: &impl Inbox,
    aliases: &HostAliases,
    stop: &CancellationToken,
) {
    let mut changes = tokens.changes();
    let mut known: Option<BTreeSet<Place>> = None;
    let mut pause = PLACES_PAUSE;
    while !stop.is_cancelled() {
        changes.mark_unchanged();
        let noting = async {
            let Ok(grants) = tokens.grants(Service::Blob, None).await else {
                // Told by whoever needs a token. A source may tell of no change when it works again.
                return Some(jittered(pause));
            };
            let now: BTreeSet<Place> = grants.iter().map(place_of).collect();
            if known.as_ref() == Some(&now) {
                return None;
            }
            match opened(inbox, aliases, known.as_ref(), &now).await {
                Ok(()) => {
                    known = Some(now);
                    None
                }
                Err(error) => {
                    tracing::warn!(error = %chain(&error), "the grant's places were not noted; trying again");
                    Some(PLACES_PAUSE)
                }
            }
        };
        let again = tokio::select! {
            () = stop.cancelled() => return,
            again = noting => again,
        };
        pause = if again.is_some() { (pause * 2).min(PLACES_PAUSE_MAX) } else { PLACES_PAUSE };
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(again.unwrap_or_default()), if again.is_some() => {}
            changed = changes.changed() => if changed.is_err() {
                let Some(again) = again else { return stop.cancelled().await };
                // A source that never tells of a change, and has failed.
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep(again) => {}
                }
            },
        }
    }
}

/// Files of a page that is looked through for those that wait for a place.
const PAGE: u32 = 500;

/// Files of a place that is named `now` and was not `before` have waited for it. At the start any may have.
pub(crate) async fn opened(
    inbox: &impl Inbox,
    aliases: &HostAliases,
    before: Option<&BTreeSet<Place>>,
    now: &BTreeSet<Place>,
) -> Result<(), InboxError> {
    let ever: BTreeSet<Place> = inbox.places().await?.into_iter().collect();
    for place in now.difference(&ever) {
        inbox.remember_place(place).await?;
    }
    let anew: Vec<&Place> = now
        .iter()
        .filter(|place| before.is_none_or(|before| !before.contains(place)) && ever.contains(place))
        .collect();
    // With one place alone there was never another to wait for.
    if anew.is_empty() || ever.len() < 2 {
        return Ok(());
    }
    let waited = |row: &InboxRow| {
        let uri = row.uri.as_deref().and_then(|uri| BlobUri::parse(uri).ok())?;
        (row.attempts > 0 && anew.iter().any(|place| aliases.holds(place, &uri))).then_some(row.id)
    };
    let mut pages = Pages::new(ListFilter { state: Some(State::Saved), most: PAGE, ..ListFilter::default() });
    let mut due = 0;
    while let Some(rows) = pages.next(inbox).await? {
        let ids: Vec<i64> = rows.iter().filter_map(waited).collect();
        if !ids.is_empty() {
            due += inbox.hasten(&ids).await?;
        }
    }
    if due > 0 {
        tracing::info!(files = due, "files waited for a place that the grant names again; they are due now");
    }
    Ok(())
}
