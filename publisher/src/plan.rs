//! Which changes make which files, and files to exports.
//!
//! Files are cut from the log by rows, bytes and time; each is fixed in one transaction, with the id of its export. From
//! then on every step can be repeated: a file that was exported before is answered by the outbox with that export. Files of a
//! type are exported one after the other, so that their sequence numbers follow the order of their changes also when one of them
//! is void and is made again; other types go on beside them.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    num::{NonZeroU32, NonZeroU64, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{
    io::{StreamReader, SyncIoBridge},
    sync::CancellationToken,
};
use waybill_contracts::Format;
use waybill_formats::WriterOptions;

use crate::{
    change_log::{BadChange, ChangeLog, Cut, ExpiredFile, FileNumber, LogError, PlannedFile, Seat, Tail},
    context::{Context, Step},
    export::{self, ExportBuilder, ExportError, Exported, fits_a_message},
    figures::Figure,
    outbox::{ListFilter, Outbox, OutboxError, State},
    relay::{Outage, chain},
    tasks::{blocking, joined},
};

/// Files of a type that are planned ahead: one is made while the other waits. What comes meanwhile becomes a larger file.
const PLANNED_AHEAD: usize = 2;
/// Rows that no file can hold, found in one reading of a file: what is kept of them in memory.
const BAD_AT_ONCE: usize = 10_000;
/// How much shorter the pause is while a transaction is waited for that is over in a moment.
const SOONER: u32 = 8;
/// After a silence the log is asked each time a hundredth of it later, up to so many times `poll_interval`: a change after minutes is
/// noticed some hundredths of a second later, and who has nothing to publish leaves the processor and the database alone.
const SILENCE_PARTS: u32 = 100;
const QUIET_FACTOR: u32 = 2;
/// The field that tells a deletion.
const DELETED: &str = "_deleted";
/// Between two looks for what can be deleted.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// Between two tries to get the right to plan.
const SEAT_EVERY: Duration = Duration::from_millis(500);

/// How files are cut from a type's changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeOptions {
    /// Rows of a file at most; default 100,000.
    pub max_rows: NonZeroU32,
    /// The row with which a file's plain text reaches so many bytes is its last; default 256 MiB.
    pub max_bytes: NonZeroU64,
    /// A change waits no longer for others than this: a type gets one file in this time, unless files are full. After a
    /// longer silence a change goes at once. Default 1 s.
    pub max_age: Duration,
    /// How long a file may be fetched, from its export on; then its changes are deleted from the log too, once its message is sent or
    /// its number is void. Default: for ever.
    pub keep: Option<Duration>,
    /// What its files are written in; default JSON Lines.
    pub format: FileFormat,
}

/// What the files of a type are written in. A change that the format cannot hold is left out, and listed as refused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum FileFormat {
    /// JSON Lines: a row is as it was logged, byte for byte.
    #[default]
    JsonLines,
    /// A JSON array.
    Json,
    /// CSV with these columns, and `_deleted`, which tells deletions. What a row lacks is null; a change with a field that is no
    /// column cannot be held.
    Csv {
        /// In their order; at least one.
        columns: Vec<String>,
    },
    /// An XML document.
    Xml,
    /// An XML element per line.
    XmlLines,
}

impl FileFormat {
    /// What rows are converted to, with the columns of CSV; `None` when they stay as they are.
    #[must_use]
    pub fn target(&self) -> Option<(Format, Option<Vec<String>>)> {
        match self {
            Self::JsonLines => None,
            Self::Json => Some((Format::Json, None)),
            Self::Xml => Some((Format::Xml, None)),
            Self::XmlLines => Some((Format::XmlLines, None)),
            Self::Csv { columns } => {
                let deleted = (!columns.iter().any(|column| column == DELETED)).then(|| DELETED.to_owned());
                Some((Format::Csv, Some(columns.iter().cloned().chain(deleted).collect())))
            }
        }
    }

    /// How they are written then.
    fn writer(&self) -> Option<WriterOptions> {
        let (format, columns) = self.target()?;
        WriterOptions::of(format).or(columns.map(|columns| WriterOptions::Csv { columns }))
    }
}

impl Default for TypeOptions {
    fn default() -> Self {
        Self {
            max_rows: NonZeroU32::new(100_000).expect("it is not 0"),
            max_bytes: NonZeroU64::new(256 << 20).expect("it is not 0"),
            max_age: Duration::from_secs(1),
            keep: None,
            format: FileFormat::default(),
        }
    }
}

/// How a log is followed.
#[derive(Debug, Clone)]
pub struct FollowOptions {
    /// For types that are not named in `types`.
    pub files: TypeOptions,
    /// By blobType.
    pub types: BTreeMap<String, TypeOptions>,
    /// How often the log is asked for news; default 25 ms. In PostgreSQL that is one look at an index, after a silence of five seconds half
    /// as often; in SQLite a thread asks half as often whether anything was committed to the file, and only then, and once a second, there is
    /// such a look.
    pub poll_interval: Duration,
    /// Files that are made at once, each of another type; default 4. Each takes memory as an export does.
    pub files_in_flight_max: NonZeroUsize,
}

impl Default for FollowOptions {
    fn default() -> Self {
        Self {
            files: TypeOptions::default(),
            types: BTreeMap::new(),
            poll_interval: Duration::from_millis(25),
            files_in_flight_max: NonZeroUsize::new(4).expect("it is not 0"),
        }
    }
}

impl FollowOptions {
    fn of(&self, blob_type: &str) -> &TypeOptions {
        self.types.get(blob_type).unwrap_or(&self.files)
    }
}

/// What the follower of a log is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FollowState {
    /// It does not run.
    Stopped,
    /// Another publisher follows the log; ours takes over when that one ends.
    Standby,
    /// It makes files of what is committed.
    Active,
    /// The log or storage cannot be used; why, with its causes.
    Waiting(String),
}

/// Makes files of a log's changes until it is stopped.
pub(crate) struct Follower<O: Outbox> {
    context: Arc<Context<O>>,
    log: ChangeLog,
    options: FollowOptions,
    state: watch::Sender<FollowState>,
    outage: Outage,
}

/// What is known while we have the right to plan.
struct Active<O: Outbox> {
    seat: Seat,
    /// Of the types that had changes since we began.
    types: HashMap<String, Type>,
    /// The last look at the log covered ids up to here, and left nothing that is due.
    seen: i64,
    exports: JoinSet<Made>,
    /// Types with a file that is being made.
    busy: HashSet<String>,
    prune_at: Instant,
    pruning: Pruning,
    /// When the log last held something new.
    news_at: Instant,
    context: Arc<Context<O>>,
}

/// What became of a file.
struct Made {
    file: PlannedFile,
    exported: Result<Exported, ExportError>,
    /// Rows that no file can hold, where that is why it was not exported.
    bad: Vec<BadChange>,
    expires_at: Option<OffsetDateTime>,
}

#[derive(Debug)]
struct Type {
    /// When its last file was planned.
    cut_at: Option<Instant>,
    /// Planned and not exported, in their order.
    open: VecDeque<PlannedFile>,
    /// With no id beyond this one, no file can be full.
    full_from: i64,
    /// Its first file cannot be made, by its own fault: until when it is left alone.
    held: Outage,
}

impl Type {
    fn new(delay_max: Duration) -> Self {
        Self { cut_at: None, open: VecDeque::new(), full_from: 0, held: Outage::new(delay_max) }
    }

    fn is_held(&self) -> bool {
        self.held.until().is_some_and(|until| Instant::now() < until)
    }
}

impl<O: Outbox> Follower<O> {
    pub(crate) fn new(
        context: Arc<Context<O>>,
        log: ChangeLog,
        options: FollowOptions,
        state: watch::Sender<FollowState>,
    ) -> Self {
        let outage = Outage::new(context.limits.backoff_max);
        Self { context, log, options, state, outage }
    }

    /// Follows the log. Ends when it is stopped, or when only a person can help.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), LogError> {
        let mut ended = Ok(());
        while !stop.is_cancelled() {
            let problem = match self.seat(&stop).await {
                Ok(Some(seat)) => self.work(seat, &stop).await.err(),
                Ok(None) => None,
                Err(error) => Some(error),
            };
            match problem {
                Some(error) if error.needs_person() => {
                    ended = Err(error);
                    break;
                }
                Some(error) => self.wait("the change log cannot be used; changes wait in it", &error),
                None => {}
            }
            self.context.counting.log_asked_at(None);
            self.pause(&stop).await;
        }
        ended
    }

    /// Waits for the right to plan.
    async fn seat(&mut self, stop: &CancellationToken) -> Result<Option<Seat>, LogError> {
        let mut told = false;
        while !stop.is_cancelled() {
            self.context.counting.follower_at(Some(Instant::now()));
            self.context.counting.log_asked_at(Some(Instant::now()));
            if let Some(seat) = self.log.seat(self.context.outbox.epoch()).await? {
                self.log.check_numbers(&self.context.outbox).await?;
                self.state.send_replace(FollowState::Active);
                return Ok(Some(seat));
            }
            self.context.counting.log_asked_at(None);
            if !told {
                tracing::info!(log = self.log.shown(), "another publisher follows the change log");
                self.state.send_replace(FollowState::Standby);
                told = true;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep(SEAT_EVERY) => {}
            }
        }
        Ok(None)
    }

    fn wait(&mut self, what: &str, error: &(dyn std::error::Error + Send + Sync + 'static)) {
        self.outage.begin(None, false);
        self.outage.tell(what, error);
        self.state.send_replace(FollowState::Waiting(chain(error)));
    }

    async fn pause(&mut self, stop: &CancellationToken) {
        if let Some(until) = self.outage.until() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = sleep_until(until) => {}
            }
            self.outage.over();
        }
    }

    /// Plans and makes files, until it is stopped or the log fails.
    async fn work(&mut self, seat: Seat, stop: &CancellationToken) -> Result<(), LogError> {
        tracing::debug!(log = self.log.shown(), "following");
        let mut active = Active {
            seat,
            types: HashMap::new(),
            seen: 0,
            exports: JoinSet::new(),
            busy: HashSet::new(),
            prune_at: Instant::now() + PRUNE_EVERY,
            pruning: Pruning::default(),
            news_at: Instant::now(),
            context: Arc::clone(&self.context),
        };
        for file in active.seat.open_files().await? {
            active.known(&file.blob_type.clone()).open.push_back(file);
        }
        while !stop.is_cancelled() {
            self.context.counting.follower_at(Some(Instant::now()));
            self.context.counting.log_asked_at(Some(Instant::now()));
            let is_planned = active.plan(&self.options).await?;
            if self.outage.until().is_none() {
                active.make(&self.log, &self.options);
            }
            if Instant::now() >= active.prune_at {
                self.context.counting.log_asked_at(Some(Instant::now()));
                let (outbox, now) = (&self.context.outbox, (self.context.now)());
                if !active.pruning.step(&mut active.seat, outbox, now).await? {
                    active.prune_at = Instant::now() + PRUNE_EVERY;
                }
            }
            self.context.counting.log_asked_at(None);
            let pause = if active.seat.may_settle_soon() {
                self.options.poll_interval / SOONER
            } else {
                let pause = self.options.poll_interval;
                (active.news_at.elapsed() / SILENCE_PARTS).clamp(pause, pause * QUIET_FACTOR)
            };
            let is_pruned = Instant::now() < active.prune_at;
            let is_calm = is_planned && is_pruned && active.types.values().all(|known| known.open.is_empty());
            let looked_again = async {
                if is_calm {
                    active.seat.until_news(self.options.poll_interval * QUIET_FACTOR, pause).await;
                } else {
                    sleep(pause).await;
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                Some(done) = active.exports.join_next(), if !active.exports.is_empty() => {
                    self.ended(&mut active, done).await?;
                }
                () = sleep_until(self.outage.until().unwrap_or_else(Instant::now)), if self.outage.until().is_some() => {
                    self.outage.over();
                }
                () = looked_again => {}
            }
        }
        // What is being made is finished if that is quick; else it is given up, and the next publisher makes it.
        let limit = self.context.limits.drain_timeout;
        let drain = async {
            while let Some(done) = active.exports.join_next().await {
                self.ended(&mut active, done).await?;
                self.context.counting.log_asked_at(None);
            }
            Ok(())
        };
        let drained = timeout(limit, drain).await.unwrap_or(Ok(()));
        // What is dropped is with the recovery before we say that we ended.
        active.exports.shutdown().await;
        drained
    }

    async fn ended(
        &mut self,
        active: &mut Active<O>,
        done: Result<Made, tokio::task::JoinError>,
    ) -> Result<(), LogError> {
        let Made { file, exported, bad, expires_at } = joined(done).await;
        active.busy.remove(&file.blob_type);
        self.context.counting.log_asked_at(Some(Instant::now()));
        let error = match exported {
            Ok(Exported { publisher, epoch, sequence, .. }) => {
                self.context.reached(Step::FileExported);
                let as_number = FileNumber { publisher, epoch, sequence };
                active.seat.exported(file.number, expires_at, &as_number).await?;
                self.context.reached(Step::FileMarked);
                let known = active.known(&file.blob_type);
                known.open.pop_front();
                known.held.ended();
                // More of the type may be planned.
                active.seen = active.seen.min(file.up_to);
                if self.outage.ended() {
                    self.state.send_replace(FollowState::Active);
                }
                return Ok(());
            }
            Err(error) => error,
        };
        self.context.counting.add(Figure::ExportsFailed, 1);
        if !bad.is_empty() {
            let changes = active.seat.refuse(&file, &bad).await?;
            let (first, count) = (changes.iter().min(), changes.len());
            self.context.counting.add(Figure::ChangesRefused, count as u64);
            let (export_id, error) = (file.export_id.as_str(), chain(&error));
            tracing::error!(
                export_id,
                first,
                count,
                error,
                "changes cannot be published; they are left out and listed"
            );
        } else if is_its_own(&error) {
            let known = active.known(&file.blob_type);
            known.held.begin(None, false);
            known.held.tell("a file cannot be made; the changes of its type wait in the log", &error);
            active.seat.not_made(file.number, &chain(&error)).await?;
        } else {
            self.wait("files cannot be made; changes wait in the log", &error);
        }
        Ok(())
    }
}

impl<O: Outbox> Drop for Follower<O> {
    /// However it ends, whoever waits for that is told.
    fn drop(&mut self) {
        self.state.send_replace(FollowState::Stopped);
        self.context.counting.follower_at(None);
        self.context.counting.log_asked_at(None);
    }
}

/// Deletes changes from the log whose file is over and told: what was never sent stays, however long a type is paused or the bus is
/// down, because nobody else has it; and so does that of which nobody can prove that it was sent.
#[derive(Debug, Default)]
pub(crate) struct Pruning {
    files: VecDeque<ExpiredFile>,
    /// The last file that was looked at, until there are no more.
    last: Option<ExpiredFile>,
    /// Every file was looked at. Those that could not be proven are looked at once by each publisher that follows the log.
    again: bool,
    /// By type, how many could not be proven for the first time since the last round, and are not told yet.
    unproven: BTreeMap<String, u64>,
}

/// Whether a file's changes may go.
enum Fate {
    /// It is sent or void, and its number is told with that.
    Told,
    /// Not yet.
    Waits,
    /// The outbox does not know it, and does not prove that it ever did: it was restored or made anew.
    Unknown,
}

impl Pruning {
    /// Goes on by as much as one transaction deletes. Whether there may be more now.
    ///
    /// # Errors
    /// When the log cannot be used. An outbox that cannot be asked is asked again the next time.
    pub(crate) async fn step(
        &mut self,
        seat: &mut Seat,
        outbox: &impl Outbox,
        now: OffsetDateTime,
    ) -> Result<bool, LogError> {
        let Some(file) = self.files.front() else {
            self.files = seat.expired(now, self.last.as_ref(), !self.again).await?.into();
            self.last = self.files.back().cloned();
            if self.files.is_empty() {
                self.again = true;
                self.tell();
            }
            return Ok(!self.files.is_empty());
        };
        let is_over = match fate(outbox, file, now).await {
            Ok(Fate::Told) => seat.prune(file.number).await?,
            Ok(Fate::Waits) => true,
            Ok(Fate::Unknown) => {
                if seat.unproven(file.number).await? {
                    *self.unproven.entry(file.blob_type.clone()).or_default() += 1;
                }
                true
            }
            Err(error) => {
                tracing::debug!(error = chain(&error), "what is over stays in the log until the outbox can be asked");
                return Ok(false);
            }
        };
        if is_over {
            self.files.pop_front();
        }
        Ok(true)
    }

    /// After a lost outbox these may be all files of a year.
    fn tell(&mut self) {
        for (blob_type, files) in std::mem::take(&mut self.unproven) {
            tracing::warn!(
                blob_type,
                files,
                "the outbox does not know files whose term is over: they stay in the log with their changes, because nobody can tell \
                 whether they were sent (`waybill-publisher doctor`)"
            );
        }
    }
}

/// Whether an export is sent or void, so that its number is told with what became of it. Of one whose term ended while it waited
/// nobody else has the changes: they stay a week longer, and so does it. One that the outbox does not know, or never numbered, was pruned there if
/// manifests that were sent name its number, which is kept beside the exports, and no other has it.
async fn fate(outbox: &impl Outbox, file: &ExpiredFile, now: OffsetDateTime) -> Result<Fate, OutboxError> {
    if file.proven == Some(true) {
        return Ok(Fate::Told);
    }
    let of_it = ListFilter { export_id: Some(file.export_id.as_str().to_owned()), most: 1, ..ListFilter::default() };
    let newest = outbox.list(&of_it).await?.into_iter().next();
    if let Some(row) = newest.filter(|row| row.state != State::Void || row.sequence.is_some()) {
        let is_told = match row.state {
            State::Sent => true,
            State::Void => !row.is_kept_after_term(now),
            State::Planned | State::Uploaded => false,
        };
        return Ok(if is_told { Fate::Told } else { Fate::Waits });
    }
    let Some(number) = &file.as_number else { return Ok(Fate::Unknown) };
    if number.is_anothers(outbox, &file.blob_type, &file.export_id).await? {
        return Ok(Fate::Unknown);
    }
    let named = outbox.named_to(&number.publisher, &number.epoch).await?;
    Ok(match named.into_iter().find(|of| of.blob_type == file.blob_type) {
        Some(of) if of.up_to >= number.sequence => Fate::Told,
        // One that is not sent yet may be the one that names it.
        Some(of) if of.unsent > 0 => Fate::Waits,
        _ => Fate::Unknown,
    })
}

/// Whether other files may be made all the same.
pub(crate) fn is_its_own(error: &ExportError) -> bool {
    match error {
        ExportError::Storage { .. } | ExportError::Unsettled { .. } => false,
        ExportError::Outbox { source, .. } => !matches!(
            source,
            OutboxError::Unavailable(_) | OutboxError::Open(_) | OutboxError::OtherEpoch | OutboxError::Newer { .. }
        ),
        ExportError::Invalid { .. }
        | ExportError::Row { .. }
        | ExportError::Source { .. }
        | ExportError::Read { .. }
        | ExportError::Void { .. }
        | ExportError::Failed { .. } => true,
    }
}

impl<O: Outbox> Active<O> {
    fn known(&mut self, blob_type: &str) -> &mut Type {
        let delay_max = self.context.limits.backoff_max;
        self.types.entry(blob_type.to_owned()).or_insert_with(|| Type::new(delay_max))
    }

    /// Plans what is full or due. Whether nothing is left for later.
    async fn plan(&mut self, options: &FollowOptions) -> Result<bool, LogError> {
        let settled = self.seat.settled().await?;
        if settled <= self.seen {
            return Ok(true);
        }
        self.news_at = Instant::now();
        let mut rest = false;
        for (blob_type, after) in self.seat.waiting(settled).await? {
            let wanted = options.of(&blob_type);
            let cut = Cut { max_rows: wanted.max_rows, max_bytes: wanted.max_bytes };
            let delay_max = self.context.limits.backoff_max;
            let known = self.types.entry(blob_type.clone()).or_insert_with(|| Type::new(delay_max));
            loop {
                let due = known.cut_at.is_none_or(|at| at.elapsed() >= wanted.max_age);
                let may_be_full = settled >= known.full_from && settled - after >= i64::from(wanted.max_rows.get());
                if known.open.len() >= PLANNED_AHEAD || !(due || may_be_full) {
                    rest = true;
                    break;
                }
                // Of many types each has its time.
                self.context.counting.log_asked_at(Some(Instant::now()));
                match self.seat.plan(&blob_type, settled, cut, due).await? {
                    None => break,
                    Some(Tail::Waits(changes)) => {
                        let missing = u64::from(wanted.max_rows.get()).saturating_sub(changes);
                        known.full_from = settled.saturating_add(i64::try_from(missing).unwrap_or(i64::MAX));
                        rest = true;
                        break;
                    }
                    Some(Tail::File(file, full)) => {
                        self.context.reached(Step::FilePlanned);
                        self.context.counting.add(Figure::FilesPlanned, 1);
                        self.context.counting.add(Figure::ChangesPlanned, file.changes);
                        tracing::debug!(
                            export_id = file.export_id.as_str(),
                            blob_type,
                            changes = file.changes,
                            "planned"
                        );
                        known.open.push_back(*file);
                        known.cut_at = Some(Instant::now());
                        known.full_from = 0;
                        if !full {
                            break;
                        }
                    }
                }
            }
        }
        if !rest {
            self.seen = settled;
        }
        Ok(!rest)
    }

    /// Begins the first file of each type that has none in work, those that were planned first before others.
    fn make(&mut self, log: &ChangeLog, options: &FollowOptions) {
        let free = options.files_in_flight_max.get().saturating_sub(self.exports.len());
        let waits = |known: &&Type| known.open.front().is_some_and(|file| !self.busy.contains(&file.blob_type));
        if free == 0 || !self.types.values().any(|known| waits(&known)) {
            return;
        }
        let waiting = self.types.values().filter(waits).filter(|known| !known.is_held());
        let mut files: Vec<PlannedFile> = waiting.filter_map(|known| known.open.front().cloned()).collect();
        files.sort_by_key(|file| file.number);
        for file in files.into_iter().take(free) {
            self.busy.insert(file.blob_type.clone());
            let wanted = options.of(&file.blob_type);
            let expires_at = wanted.keep.map(|keep| (self.context.now)() + keep);
            let (context, log, format) = (Arc::clone(&self.context), log.clone(), wanted.format.clone());
            self.exports.spawn(async move {
                let exported = export(context, &log, &file, &format, expires_at).await;
                let bad = match &exported {
                    Err(ExportError::Source { row, problem, .. }) => {
                        bad_changes(&log, &file, &format, *row, problem).await
                    }
                    _ => Vec::new(),
                };
                Made { file, exported, bad, expires_at }
            });
        }
    }
}

async fn export<O: Outbox>(
    context: Arc<Context<O>>,
    log: &ChangeLog,
    file: &PlannedFile,
    format: &FileFormat,
    expires_at: Option<OffsetDateTime>,
) -> Result<Exported, ExportError> {
    let mut export = ExportBuilder::new(context, &file.blob_type)?.id(file.export_id.as_str())?;
    // An earlier version may have planned one that no message can carry.
    if fits_a_message(&file.correlation_id) {
        export = export.correlation_id(&file.correlation_id)?;
    }
    if let Some(id) = file.causation_id.as_ref().filter(|id| fits_a_message(id)) {
        export = export.causation_id(id);
    }
    if let Some(traceparent) = file.traceparent.as_ref().filter(|trace| fits_a_message(trace)) {
        export = export.traceparent(traceparent);
    }
    if let Some(at) = expires_at {
        export = export.expires_at(at);
    }
    if let Some((target, columns)) = format.target() {
        export = export.convert_to(target);
        if let Some(columns) = columns {
            export = export.columns(columns);
        }
    }
    let name = format!("changes {} to {} of {}", file.after + 1, file.up_to, file.blob_type);
    export.reader(&name, Format::JsonLines, StreamReader::new(log.lines(file))).await
}

/// All rows of a file that no file can hold, so that it need not be made once more for each of them. This one is known.
async fn bad_changes(
    log: &ChangeLog,
    file: &PlannedFile,
    format: &FileFormat,
    row: u64,
    problem: &str,
) -> Vec<BadChange> {
    let lines = SyncIoBridge::new(StreamReader::new(log.lines(file)));
    let target = format.writer();
    let found = blocking(move || export::bad_rows(Format::JsonLines, target, lines, BAD_AT_ONCE)).await;
    let found = found.unwrap_or_else(|error| {
        tracing::debug!(%error, "the other rows that no file can hold are not known yet");
        Vec::new()
    });
    let known = found.is_empty().then(|| (row, problem.to_owned()));
    found.into_iter().chain(known).map(|(row, problem)| BadChange { row, problem }).collect()
}
