//! The publisher: what is exported through it is uploaded, recorded and sent.

use std::{
    fmt, io,
    num::{NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use time::OffsetDateTime;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use waybill_azure::{
    TokenSource,
    blob::{Container, ContainerOptions},
    bus::{Bus, BusOptions},
    http::{HttpClient, HttpError, HttpOptions},
};
use waybill_formats::Compression;

use crate::{
    change_log::{ChangeLog, LogError},
    context::{Context, Limits},
    export::{ExportBuilder, ExportError, settle},
    figures::Figures,
    manifest::{self, Manifest, ManifestError},
    outbox::{
        Attempt, Counts, ExportRow, HistoryEntry, ListFilter, Outbox, OutboxError, SqliteOutbox, SqliteOutboxOptions,
        State, last_error,
    },
    plan::{FollowOptions, FollowState, Follower},
    prune::{self, Manner, PruneError, Pruned},
    relay::{Relay, RelayState, chain},
    tasks::joined,
};

/// Why a file is void that nobody finished, and that has no number: its process ended in the middle.
const INTERRUPTED: &str = "interrupted before its file was staged whole";
/// The same, where it was told to end.
const STOPPED: &str = "stopped before its file was published";

/// How much longer than `drain_timeout` a stop may take: what was begun is given up, and connections are closed.
const CLOSING: Duration = Duration::from_secs(5);

/// How long a failed recovery waits before it tries again, unless something new comes up.
const RECOVERY_WAIT: Duration = Duration::from_secs(5);

/// Publishes exports. Clones share everything.
///
/// An export is durable when its `finish` returns; [`run`](Self::run) sends the messages, of this process and of earlier
/// ones.
pub struct Publisher<O: Outbox = SqliteOutbox> {
    context: Arc<Context<O>>,
    bus_options: BusOptions,
    relay: watch::Sender<RelayState>,
    follow: watch::Sender<FollowState>,
}

/// How a [`Publisher`] is built.
#[derive(Debug, Clone)]
pub struct PublisherBuilder {
    tokens: Arc<dyn TokenSource>,
    folder: PathBuf,
    name: String,
    limits: Limits,
    bus: BusOptions,
    container: ContainerOptions,
    http: HttpOptions,
    now: fn() -> OffsetDateTime,
}

/// Why a publisher cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The name goes into messages, headers and databases.
    #[error("publisher name {name:?}: it needs 1 to 100 characters of a-z, A-Z, 0-9, `.`, `_` and `-`")]
    Name {
        /// As given.
        name: String,
    },
    /// The folder of the outbox cannot be made.
    #[error("{folder}: cannot be made")]
    Folder {
        /// The folder.
        folder: String,
        /// Why.
        source: io::Error,
    },
    /// The outbox cannot be opened.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The HTTP client cannot be built.
    #[error(transparent)]
    Http(#[from] HttpError),
}

/// Why [`Publisher::flush`] gave up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// Time is up.
    #[error("{} after {after:?}{}; what waits stays in the outbox and is sent by `run`", not_sent(*.waiting), reason(.last_error))]
    Timeout {
        /// How many.
        waiting: u64,
        /// The time that was given.
        after: Duration,
        /// What the last try of one of them met.
        last_error: Option<String>,
    },
    /// An export is void, so its message will never be sent.
    #[error("export {export_id} is void ({reason}); export it again")]
    Void {
        /// The export.
        export_id: String,
        /// Why.
        reason: String,
    },
    /// This process sends nothing any more; what waits stays in the outbox.
    #[error("nothing is sent any more: {0}")]
    GaveUp(String),
    /// The outbox cannot be read.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
}

fn not_sent(waiting: u64) -> String {
    if waiting == 1 { "1 message is not sent".to_owned() } else { format!("{waiting} messages are not sent") }
}

fn reason(last_error: &Option<String>) -> String {
    last_error.as_deref().map(|error| format!(" ({error})")).unwrap_or_default()
}

/// How things stand.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The publisher's name.
    pub publisher: String,
    /// Made with the outbox.
    pub epoch: String,
    /// Exports by state.
    #[serde(flatten)]
    pub counts: Counts,
    /// What the last try to send the longest waiting message met.
    pub last_error: Option<String>,
}

impl Publisher {
    /// A publisher whose outbox is [`SqliteOutbox::FILE`] in `folder`, which is made when it is missing.
    #[must_use]
    pub fn builder(tokens: Arc<dyn TokenSource>, folder: impl AsRef<Path>) -> PublisherBuilder {
        PublisherBuilder {
            tokens,
            folder: folder.as_ref().to_owned(),
            name: "waybill".to_owned(),
            limits: Limits {
                compression: Compression::Gzip(4),
                block_bytes: NonZeroUsize::new(4 << 20).expect("it is not 0"),
                blocks_in_flight_max: NonZeroUsize::new(4).expect("it is not 0"),
                upload_bytes_max: NonZeroUsize::new(64 << 20).expect("it is not 0"),
                files_read_at_once_max: NonZeroUsize::new(32).expect("it is not 0"),
                segments_at_once_max: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
                batches_in_flight_max: NonZeroU32::new(4).expect("it is not 0"),
                storage_patience: Duration::from_secs(300),
                drain_timeout: Duration::from_secs(10),
                poll_interval: Duration::from_secs(1),
                backoff_max: Duration::from_secs(30),
                manifest_every: Some(Duration::from_secs(3600)),
                prune_every: None,
            },
            bus: BusOptions::default(),
            container: ContainerOptions::default(),
            http: HttpOptions::default(),
            now: OffsetDateTime::now_utc,
        }
    }
}

impl PublisherBuilder {
    /// Who publishes, in every message; numbers count per name. Default `waybill`.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// How files are packed; default gzip, level 4.
    #[must_use]
    pub fn compression(mut self, compression: Compression) -> Self {
        self.limits.compression = compression;
        self
    }

    /// Bytes of a block (default 4 MiB), and how many of a file are staged at once (default 4). A file in work holds about
    /// `block_bytes × (blocks_in_flight_max + 1)` and some segments in memory, whatever its size; from 40 GiB on (packed) its blocks grow.
    #[must_use]
    pub fn blocks(mut self, block_bytes: NonZeroUsize, in_flight_max: NonZeroUsize) -> Self {
        (self.limits.block_bytes, self.limits.blocks_in_flight_max) = (block_bytes, in_flight_max);
        self
    }

    /// Bytes of blocks that all files together hold (default 64 MiB), half of them under way. With many files open at once blocks get
    /// smaller, down to 128 KiB, and wait for each other.
    #[must_use]
    pub fn upload_bytes_max(mut self, bytes: NonZeroUsize) -> Self {
        self.limits.upload_bytes_max = bytes;
        self
    }

    /// How many segments of 1 MiB are packed at once, of all files together; default: one for each core. A file holds about
    /// two more than these.
    #[must_use]
    pub fn segments_at_once_max(mut self, segments: NonZeroUsize) -> Self {
        self.limits.segments_at_once_max = segments;
        self
    }

    /// Files and readers that are read at once (default 32, of some 6 MiB each), each on one of the runtime's threads for work that blocks; further
    /// exports wait. Segments are packed on such threads too, so a runtime needs more of them (tokio's own has 512), or nothing
    /// goes on.
    #[must_use]
    pub fn files_read_at_once_max(mut self, files: NonZeroUsize) -> Self {
        self.limits.files_read_at_once_max = files;
        self
    }

    /// Batches of up to 100 messages in flight; default 4.
    #[must_use]
    pub fn batches_in_flight_max(mut self, batches: NonZeroU32) -> Self {
        self.limits.batches_in_flight_max = batches;
        self
    }

    /// How long a file that can be read again is tried while storage is down; default 5 minutes.
    #[must_use]
    pub fn storage_patience(mut self, patience: Duration) -> Self {
        self.limits.storage_patience = patience;
        self
    }

    /// How long a stop waits for the broker's answers; default 10 s. What is not answered then is sent again.
    #[must_use]
    pub fn drain_timeout(mut self, limit: Duration) -> Self {
        self.limits.drain_timeout = limit;
        self
    }

    /// How often the relay looks for what another process uploaded; default 1 s. What this process uploads is sent at once.
    #[must_use]
    pub fn poll_interval(mut self, interval: Duration) -> Self {
        self.limits.poll_interval = interval;
        self
    }

    /// Longest pause between tries while the bus is down, up to twice that with jitter; default 30 s.
    #[must_use]
    pub fn backoff_max(mut self, limit: Duration) -> Self {
        self.limits.backoff_max = limit;
        self
    }

    /// How often [`Publisher::run`] makes manifests of what was sent; default every hour. `None`: only on demand.
    #[must_use]
    pub fn manifest_every(mut self, interval: Option<Duration>) -> Self {
        self.limits.manifest_every = interval;
        self
    }

    /// How often [`Publisher::run`] does what [`Publisher::prune`] does, while it is the one that sends; the first time some minutes
    /// after its start. Default `None`: only on demand.
    #[must_use]
    pub fn prune_every(mut self, interval: Option<Duration>) -> Self {
        self.limits.prune_every = interval;
        self
    }

    /// Limits of the bus.
    #[must_use]
    pub fn bus_options(mut self, options: BusOptions) -> Self {
        self.bus = options;
        self
    }

    /// Limits of storage.
    #[must_use]
    pub fn container_options(mut self, options: ContainerOptions) -> Self {
        self.container = options;
        self
    }

    /// The HTTP client's.
    #[must_use]
    pub fn http_options(mut self, options: HttpOptions) -> Self {
        self.http = options;
        self
    }

    /// The clock; default the system's.
    #[must_use]
    pub fn now(mut self, now: fn() -> OffsetDateTime) -> Self {
        self.now = now;
        self
    }

    /// Opens or creates the outbox; touches no network.
    ///
    /// # Errors
    /// [`BuildError`].
    pub async fn build(self) -> Result<Publisher, BuildError> {
        let failed = |source| BuildError::Folder { folder: self.folder.display().to_string(), source };
        std::fs::create_dir_all(&self.folder).map_err(failed)?;
        let file = self.folder.join(SqliteOutbox::FILE);
        let outbox = SqliteOutbox::open(&file, SqliteOutboxOptions { now: self.now }).await?;
        self.build_on(outbox)
    }

    /// The same on an outbox of one's own.
    ///
    /// # Errors
    /// [`BuildError`].
    pub fn build_on<O: Outbox>(self, outbox: O) -> Result<Publisher<O>, BuildError> {
        let context = self.context(outbox)?;
        Ok(Publisher {
            context: Arc::new(context),
            bus_options: self.bus,
            relay: watch::Sender::new(RelayState::Stopped),
            follow: watch::Sender::new(FollowState::Stopped),
        })
    }

    /// As [`PublisherBuilder::build`], with a function that is called at each step.
    #[cfg(test)]
    pub(crate) async fn build_with_hook(self, hook: fn(crate::context::Step)) -> Result<Publisher, BuildError> {
        self.build().await.map(|publisher| publisher.hooked(hook))
    }

    pub(crate) fn context<O>(&self, outbox: O) -> Result<Context<O>, BuildError> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=100).contains(&self.name.len()) || !self.name.bytes().all(fits) {
            return Err(BuildError::Name { name: self.name.clone() });
        }
        let http = HttpClient::new(&self.http)?;
        let container = Container::new(http, Arc::clone(&self.tokens), self.container.clone());
        let tokens = Arc::clone(&self.tokens);
        Ok(Context::new(self.name.clone(), outbox, container, tokens, self.limits.clone(), self.now))
    }
}

impl<O: Outbox> Publisher<O> {
    #[cfg(test)]
    pub(crate) fn context(&self) -> &Arc<Context<O>> {
        &self.context
    }

    /// The same, with a function that is called at each step.
    #[cfg(test)]
    pub(crate) fn hooked(mut self, hook: fn(crate::context::Step)) -> Self {
        Arc::get_mut(&mut self.context).expect("nobody else has it yet").hook = Some(hook);
        self
    }

    /// Begins an export of `blob_type`.
    ///
    /// # Errors
    /// When it is not `[A-Za-z0-9][A-Za-z0-9._-]*` of 1–200 characters.
    pub fn export(&self, blob_type: &str) -> Result<ExportBuilder<O>, ExportError> {
        ExportBuilder::new(Arc::clone(&self.context), blob_type)
    }

    /// Settles what earlier processes left, sends messages, and makes manifests, until it is stopped. What the bus or storage refuse
    /// waits in the outbox, and is tried again. Of several on one outbox, one sends; the next takes over when it ends. By itself it
    /// ends only when a newer version of this program changed the outbox: [`relay`](Self::relay) says so.
    ///
    /// A stop gives up what this process began and did not finish. So stop what [follows](Self::follow) a change log first, or at the
    /// same time: it is waited for, for `drain_timeout` and 5 s.
    ///
    /// # Cancel safety
    /// Dropping it is like a crash: what the broker had not answered is sent again. Cancel `stop` to avoid that.
    pub async fn run(&self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        let bus = Bus::new(Arc::clone(&self.context.tokens), self.bus_options.clone());
        let relay = Relay::new(Arc::clone(&self.context), bus, self.relay.clone());
        let stop = stop.child_token();
        let (ends, stopped) = (stop.clone(), stop.clone());
        tasks.spawn(async move {
            relay.run(ends.clone()).await;
            // Without it the rest is of no use.
            ends.cancel();
        });
        if let Some(every) = self.context.limits.manifest_every {
            tasks.spawn(manifest::keep(Arc::clone(&self.context), every, stop.clone()));
        }
        if let Some(every) = self.context.limits.prune_every {
            tasks.spawn(prune::keep(Arc::clone(&self.context), every, self.relay.subscribe(), stop));
        }
        // What they drop when they are stopped, and what a follower does, is left to the recovery.
        let (mut follow, others_ended) = (self.follow.subscribe(), CancellationToken::new());
        let others = async {
            while let Some(ended) = tasks.join_next().await {
                joined(ended).await;
            }
            // The sender lives as long as the publisher.
            let _ended = follow.wait_for(|state| *state == FollowState::Stopped).await;
            others_ended.cancel();
        };
        tokio::select! {
            ((), ()) = async { tokio::join!(others, recover(&self.context, &stopped, &others_ended)) } => return,
            () = self.over(&stopped) => {}
        }
        tracing::warn!(
            publisher = self.context.publisher,
            "stopped, although not everything answered; nothing is lost by it"
        );
        tasks.shutdown().await;
        self.relay.send_replace(RelayState::Stopped);
        self.context.counting.relay_at(None);
    }

    /// Returns when a stop has taken so long that whatever does not answer is not waited for any more.
    async fn over(&self, stop: &CancellationToken) {
        stop.cancelled().await;
        sleep(self.context.limits.drain_timeout + CLOSING).await;
    }

    /// Makes files of what is committed to a change log, until it is stopped. It does not give up: while the log or storage
    /// cannot be used, changes wait in the log. Of several on one log, one makes files; the next takes over when it ends.
    /// Somebody must [`run`](Self::run) too, for the messages; where that ends by itself here, this ends too.
    ///
    /// # Errors
    /// Only what a person has to mend: a log that cannot be read, or that belongs to another outbox or server.
    ///
    /// # Cancel safety
    /// Dropping it is like a crash: whoever follows the log next finishes what was begun.
    pub async fn follow(
        &self,
        log: &ChangeLog,
        options: FollowOptions,
        stop: CancellationToken,
    ) -> Result<(), LogError> {
        let (stop, mut relay) = (stop.child_token(), self.relay.subscribe());
        let follower = Follower::new(Arc::clone(&self.context), log.clone(), options, self.follow.clone());
        let following = follower.run(stop.clone());
        tokio::pin!(following);
        let all = async {
            tokio::select! {
                ended = &mut following => return ended,
                _ = relay.wait_for(|state| matches!(state, RelayState::GaveUp(_))) => stop.cancel(),
            }
            following.await
        };
        let ended = tokio::select! {
            ended = all => return ended,
            () = self.over(&stop) => Ok(()),
        };
        tracing::warn!(
            log = log.shown(),
            "stopped, although the change log did not answer; the next publisher goes on"
        );
        ended
    }

    /// Makes manifests of all that is sent or void and that none names yet: one for each sequence with anything new, of 10,000
    /// numbers at most. They are durable on return, and [`run`](Self::run) sends them. Asked again, they are not made twice.
    ///
    /// # Errors
    /// [`ManifestError`]; what was made stays, and the next call makes the rest.
    ///
    /// # Cancel safety
    /// Dropping it is like a crash: `run`, or the next call, finishes what was begun.
    pub async fn make_manifests(&self) -> Result<Vec<Manifest>, ManifestError> {
        manifest::make(&self.context).await
    }

    /// Deletes the blobs whose term is over, and forgets their exports; void ones likewise. What no manifest names that is sent
    /// stays, so that a subscriber can always learn what became of a number. A blob that storage refuses to delete is tried again at
    /// each call, and by [`run`](Self::run) after ever longer times. With `dry_run` it only counts, and asks nothing of storage.
    ///
    /// # Errors
    /// [`PruneError`]; what went stays gone, and the next call goes on.
    ///
    /// # Cancel safety
    /// Dropping it is like a crash: a blob that is deleted already is no obstacle for the next call.
    pub async fn prune(&self, dry_run: bool) -> Result<Pruned, PruneError> {
        prune::prune(&self.context, if dry_run { Manner::DryRun } else { Manner::Ordered }).await
    }

    /// What the follower of a log is doing.
    #[must_use]
    pub fn following(&self) -> watch::Receiver<FollowState> {
        self.follow.subscribe()
    }

    /// Waits until every uploaded export is sent. Somebody must [`run`](Self::run), here or in another process.
    ///
    /// # Errors
    /// [`FlushError`].
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn flush(&self, limit: Duration) -> Result<(), FlushError> {
        let waiting = || async {
            let counts = self.context.outbox.counts().await?;
            Ok::<_, FlushError>(counts.uploaded)
        };
        self.until_none(limit, waiting).await
    }

    /// Waits until these exports are sent.
    ///
    /// # Errors
    /// [`FlushError`]; also when one of them is void or unknown.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn flush_exports(&self, export_ids: &[&str], limit: Duration) -> Result<(), FlushError> {
        let waiting = || async {
            let mut waiting = 0;
            for export_id in export_ids {
                let row = self.show(export_id).await?.into_iter().next();
                match row {
                    Some(row) if row.state == State::Sent => {}
                    Some(row) if row.state == State::Void => {
                        let reason = row.reason.unwrap_or_default();
                        return Err(FlushError::Void { export_id: (*export_id).to_owned(), reason });
                    }
                    Some(_) => waiting += 1,
                    None => {
                        let reason = "it was never planned".to_owned();
                        return Err(FlushError::Void { export_id: (*export_id).to_owned(), reason });
                    }
                }
            }
            Ok::<_, FlushError>(waiting)
        };
        self.until_none(limit, waiting).await
    }

    /// `waiting` is no `AsyncFn`: a task that calls this would not be known to be `Send`.
    async fn until_none<F: Future<Output = Result<u64, FlushError>>>(
        &self,
        limit: Duration,
        waiting: impl Fn() -> F,
    ) -> Result<(), FlushError> {
        let end = Instant::now() + limit;
        let mut progress = self.context.progress.subscribe();
        loop {
            progress.mark_unchanged();
            let count = waiting().await?;
            if count == 0 {
                return Ok(());
            }
            if let RelayState::GaveUp(problem) = &*self.relay.borrow() {
                return Err(FlushError::GaveUp(problem.clone()));
            }
            // Another process may be sending: it tells us nothing.
            let look_again = async {
                tokio::select! {
                    _ = progress.changed() => {}
                    () = sleep(self.context.limits.poll_interval) => {}
                }
            };
            if timeout_at(end, look_again).await.is_err() {
                let last_error = last_error(&self.context.outbox).await?;
                return Err(FlushError::Timeout { waiting: count, after: limit, last_error });
            }
        }
    }

    /// What this process has done.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.context.counting.figures()
    }

    /// Loops that have stood still for five minutes: `change log`, `relay`. None of them should.
    #[must_use]
    pub fn stuck(&self) -> Vec<&'static str> {
        self.context.counting.stuck()
    }

    /// For how long the change log that is followed has not answered a question, once that is longer than five seconds.
    #[must_use]
    pub fn log_silent_for(&self) -> Option<Duration> {
        self.context.counting.log_silent_for()
    }

    /// Who publishes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.context.publisher
    }

    /// Its outbox.
    #[must_use]
    pub fn outbox(&self) -> &O {
        &self.context.outbox
    }

    /// What the relay of this publisher is doing.
    #[must_use]
    pub fn relay(&self) -> watch::Receiver<RelayState> {
        self.relay.subscribe()
    }

    /// How things stand.
    ///
    /// # Errors
    /// When the outbox cannot be read.
    pub async fn status(&self) -> Result<Status, OutboxError> {
        Ok(Status {
            publisher: self.context.publisher.clone(),
            epoch: self.context.outbox.epoch().to_owned(),
            counts: self.context.outbox.counts().await?,
            last_error: last_error(&self.context.outbox).await?,
        })
    }

    /// Exports, newest first.
    ///
    /// # Errors
    /// When the outbox cannot be read.
    pub async fn list(&self, filter: &ListFilter) -> Result<Vec<ExportRow>, OutboxError> {
        self.context.outbox.list(filter).await
    }

    /// The rows of an export, newest first: more than one when earlier tries are void. Empty when it is unknown.
    ///
    /// # Errors
    /// When the outbox cannot be read.
    pub async fn show(&self, export_id: &str) -> Result<Vec<ExportRow>, OutboxError> {
        let filter = ListFilter { export_id: Some(export_id.to_owned()), ..ListFilter::default() };
        self.context.outbox.list(&filter).await
    }

    /// What happened to a row of an export.
    ///
    /// # Errors
    /// When the outbox cannot be read.
    pub async fn history(&self, row: i64) -> Result<Vec<HistoryEntry>, OutboxError> {
        self.context.outbox.history(row).await
    }
}

/// Settles the plans of processes that are gone, and the tries that this one left, whenever there are some. A stop leaves none to the
/// next process, as far as that is done in time.
async fn recover<O: Outbox>(context: &Context<O>, stop: &CancellationToken, others_ended: &CancellationToken) {
    // While storage or the outbox are down, one answer may take longer than a stop. Others drop what they make after `drain_timeout`.
    let limit = async {
        stop.cancelled().await;
        sleep(context.limits.drain_timeout + CLOSING / 2).await;
    };
    tokio::select! {
        () = recover_until(context, stop, others_ended) => {}
        () = limit => {}
    }
    let left = context.left_tries().len();
    if left > 0 {
        tracing::warn!(exports = left, "stopped before what was begun was settled; the next process does it");
    }
}

async fn recover_until<O: Outbox>(context: &Context<O>, stop: &CancellationToken, others_ended: &CancellationToken) {
    let mut told = false;
    while !stop.is_cancelled() {
        let claimed = context.outbox.claim_abandoned().await;
        let claimed = claimed.map(|rows| context.left_tries().extend(rows.iter().map(ExportRow::attempt)));
        let failed = tokio::select! {
            failed = settle_all_left(context, INTERRUPTED) => failed,
            () = stop.cancelled() => break,
        };
        let failed = failed.or_else(|| claimed.err().map(|error| chain(&error)));
        if let Some(error) = failed.as_deref().filter(|_| !told) {
            tracing::warn!(error, "an interrupted export cannot be settled yet");
        }
        told = failed.is_some();
        tokio::select! {
            () = stop.cancelled() => {}
            () = context.left.notified() => {}
            () = sleep(RECOVERY_WAIT) => {}
        }
    }
    loop {
        let is_last = others_ended.is_cancelled();
        if let Some(error) = settle_all_left(context, STOPPED).await {
            tracing::debug!(error, "what was begun is not settled");
        }
        if is_last {
            return;
        }
        tokio::select! {
            () = others_ended.cancelled() => {}
            () = context.left.notified() => {}
        }
    }
}

/// Settles the tries that this process left; what the last that could not be settled met.
async fn settle_all_left<O: Outbox>(context: &Context<O>, why: &str) -> Option<String> {
    let mut failed = None;
    let left = context.left_tries().clone();
    for attempt in left {
        match settle_left(context, &attempt, why).await {
            Ok(()) => context.left_tries().retain(|left| *left != attempt),
            Err(error) => failed = Some(chain(&error)),
        }
    }
    failed
}

/// Settles a try that nobody works at any more, unless a later one did already.
async fn settle_left<O: Outbox>(context: &Context<O>, attempt: &Attempt, why: &str) -> Result<(), ExportError> {
    let failed = |source| ExportError::Outbox { export_id: attempt.export_id.as_str().to_owned(), source };
    let row = context.outbox.get(attempt.row).await.map_err(failed)?;
    let Some(row) = row.filter(|row| row.attempt == attempt.number && row.state == State::Planned) else {
        return Ok(());
    };
    let settled = if row.sequence.is_none() {
        context.outbox.void(attempt, why).await.map_err(failed)
    } else {
        settle(context, &row, None).await.map(|_| ())
    };
    match settled {
        // A later try has it now.
        Err(ExportError::Outbox { source: OutboxError::Overtaken { .. }, .. }) => Ok(()),
        other => other,
    }
}

impl<O: Outbox> Clone for Publisher<O> {
    fn clone(&self) -> Self {
        Self {
            context: Arc::clone(&self.context),
            bus_options: self.bus_options.clone(),
            relay: self.relay.clone(),
            follow: self.follow.clone(),
        }
    }
}

impl<O: Outbox> fmt::Debug for Publisher<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher").field("name", &self.context.publisher).finish_non_exhaustive()
    }
}
