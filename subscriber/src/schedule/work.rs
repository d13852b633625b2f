//! One file's way from a lease to its end: download, decode and apply run side by side, each a queue apart.

mod sorting;
mod whole;

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use time::OffsetDateTime;
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use waybill_azure::blob::BlobError;
use waybill_contracts::{Entities, Extras, Format, MANIFEST_TYPE, Reason};
use waybill_formats::{DecodeOptions, FileStats, Limits, RowBatch, RowFilter, seek::Checkpoint};

use super::{
    WorkStats,
    circuit::{Circuits, Dependency, FILE_PAUSE, own_pause},
};
use crate::{
    Blame, FileKey, OnBadRow, Verdict,
    apply::{EntityPlan, EntityPlans, Position},
    cache::Draft,
    fetch::{self, Claim, FetchError, Fetched, Located, Storage},
    files::Hold,
    grants::jittered,
    health::Alarm,
    inbox::{BlobSeen, End, FileDone, Inbox, InboxError, Lease, Leased},
    look::{FileRows, LookError},
    manifest::{BadRow, Names},
    receive::chain,
    rows::{self, CHUNKS_QUEUED, Decoded, GROUPS_QUEUED, Group, GroupLimits, Grouping, Pool, RowsError, Way},
    sink::{Ahead, Applied, EntityBatch, Progress, Sink, SinkError},
    sorted::{SortError, Sorter},
};

/// Stored bytes between two checkpoints at least: a note costs a write, and after a crash so much may be downloaded again.
pub(crate) const CHECKPOINT_BYTES: u64 = 4 << 20;

/// A file of more plain bytes is sorted: it would be several commits, each of which touches as many pages of SQLite as it has rows.
const SORT_FROM_BYTES: usize = 8 << 20;

/// Bytes of rows that are sorted in memory, unless it is said.
pub(crate) const SORT_BYTES: usize = 48 << 20;

/// How long a large file waits for its turn to be sorted; then it goes in its own order.
const SORT_TURN_MAX: Duration = Duration::from_secs(10);

/// Everything that working a file needs.
#[derive(Debug)]
pub(crate) struct Workshop<I, S> {
    pub(crate) inbox: I,
    pub(crate) sink: Arc<S>,
    pub(crate) storage: Storage,
    pub(crate) entities: Arc<Entities>,
    pub(crate) plans: Arc<EntityPlans>,
    /// Of types that no entity has.
    pub(crate) filters: HashMap<String, Arc<RowFilter>>,
    pub(crate) circuits: Arc<Circuits>,
    /// The configured types; files of others are skipped.
    pub(crate) types: Option<Vec<String>>,
    pub(crate) stats: Arc<WorkStats>,
    /// Of the loop that leases.
    pub(crate) alarm: Arc<Alarm>,
    pub(crate) pool: Pool,
    pub(crate) limits: Limits,
    pub(crate) groups: GroupLimits,
    /// The turns of those that bring rows into effect at once.
    pub(crate) commits: Semaphore,
    /// A file of more plain bytes is sorted, where the sink wants it, and so many of them at once in memory.
    pub(crate) sort_bytes: usize,
    /// The turn of the one file that is sorted in memory.
    pub(crate) sorting: Semaphore,
    pub(crate) on_bad_row: OnBadRow,
    /// All of a file takes effect at once, or nothing of it.
    pub(crate) atomic: bool,
    pub(crate) verify_hash: bool,
    pub(crate) now: fn() -> OffsetDateTime,
}

/// Why a try ended early.
#[derive(Debug, thiserror::Error)]
enum WorkError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Rows(#[from] RowsError),
    #[error(transparent)]
    Sort(#[from] SortError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Inbox(#[from] InboxError),
    #[error("row {row} at byte {offset}: {problem}; nothing of the file was applied, as on_bad_row = \"fail\" asks")]
    BadRow { row: u64, offset: u64, problem: String },
    #[error(
        "rows up to {row} took effect from a blob that {was}; rows of the one that is there now cannot follow them, because no \
         plainSha256 was announced that says whether it is the same. Ask the publisher to export the file again under a new name"
    )]
    ContentChanged { row: u64, was: String },
    #[error("row {row} of the manifest: {problem}; what the others say is noted")]
    Manifest { row: u64, problem: String },
    #[error("the lease lapsed; another worker may have the file")]
    Lapsed,
    #[error("stopped")]
    GivenBack,
    #[error("a defect of this program: {0}; please report it with the file")]
    Defect(String),
}

impl From<LookError> for WorkError {
    fn from(error: LookError) -> Self {
        match error {
            LookError::Fetch(error) => error.into(),
            LookError::Rows(error) => error.into(),
            LookError::Inbox(error) => error.into(),
            other => Self::Defect(chain(&other)),
        }
    }
}

impl WorkError {
    /// The first of the rows that is malformed.
    fn of_bad_row(group: &Group) -> Result<(), Self> {
        match group.batches.iter().flat_map(RowBatch::bad).min_by_key(|bad| bad.row) {
            Some(bad) => Err(Self::BadRow { row: bad.row, offset: bad.offset, problem: bad.problem.clone() }),
            None => Ok(()),
        }
    }

    /// Whose clock runs, when it is a dependency's.
    fn dependency(&self) -> Dependency {
        match self {
            Self::Sink(_) | Self::Sort(_) => Dependency::Sink,
            Self::Inbox(_) | Self::Fetch(FetchError::Inbox(_)) => Dependency::Inbox,
            _ => Dependency::Storage,
        }
    }
}

/// How far a file is in this try.
#[derive(Debug, Default)]
struct Reached {
    /// The sink's progress when the try began.
    from: AtomicU64,
    /// And now.
    to: Arc<AtomicU64>,
    /// Those of its rows that cannot be used.
    bad: AtomicU64,
    /// In the order of their keys.
    is_sorted: AtomicBool,
}

impl Reached {
    fn begin(&self, before: &Progress) {
        self.from.store(before.rows, Ordering::Relaxed);
        self.at(before);
    }

    fn at(&self, now: &Progress) {
        self.to.store(now.rows, Ordering::Relaxed);
        self.bad.store(now.bad, Ordering::Relaxed);
        self.is_sorted.store(now.trail.is_some(), Ordering::Relaxed);
    }
}

impl<I: Inbox + Clone, S: Sink> Workshop<I, S> {
    /// Works a leased file to its end, whatever that is, and tells the inbox.
    pub(crate) async fn work(&self, file: Leased, give_back: CancellationToken) {
        let span = tracing::debug_span!("file", id = file.lease.id, file = %file.waybill.key);
        let reached = Reached::default();
        let result = {
            // Renewed by a task of its own: the file goes on while the inbox does not answer, and the sink's locks are not held for it.
            let hold = Hold::telling(self.inbox.clone(), file.lease.clone(), Arc::clone(&reached.to));
            // A panic is this file's trouble alone; without an end, its lease would have to lapse at each try.
            let work = AssertUnwindSafe(self.try_file(&file, &reached)).catch_unwind();
            tokio::select! {
                // First, so that whoever slept past it, as a frozen process does, goes no further.
                biased;
                () = hold.end() => Err(WorkError::Lapsed),
                result = work => result.unwrap_or_else(|panic| Err(WorkError::Defect(text_of(&*panic)))),
                // What the sink was given may still take effect, whole or not at all; its progress tells the next.
                () = give_back.cancelled() => Err(WorkError::GivenBack),
            }
        };
        let end = self.end_of(&file, result, &reached, &span);
        if let Some(end) = end {
            self.finish(&file.lease, end, &span).await;
        }
    }

    /// What the inbox is told; `None` when the file is another worker's by now.
    fn end_of(
        &self,
        file: &Leased,
        result: Result<FileDone, WorkError>,
        reached: &Reached,
        span: &tracing::Span,
    ) -> Option<End> {
        let error = match result {
            Ok(done) => {
                WorkStats::add(&self.stats.files_done, 1);
                self.stats.lag.add_between(file.received_at, (self.now)());
                return Some(End::Done(done));
            }
            Err(error) => error,
        };
        let verdict = match &error {
            WorkError::GivenBack => return Some(End::Release),
            WorkError::Lapsed => {
                tracing::warn!(parent: span, "{error}");
                return None;
            }
            WorkError::Sink(SinkError::Fenced { .. }) => {
                tracing::warn!(parent: span, "{error}");
                WorkStats::add(&self.stats.fenced, 1);
                // Whoever was faster may be gone by now: look again soon, at what the sink says then.
                return Some(End::Later { after: jittered(FILE_PAUSE), problem: error.to_string(), counts: false });
            }
            WorkError::Fetch(error) => error.verdict(),
            WorkError::Rows(error) => error.verdict(),
            WorkError::Sink(error) => error.verdict().unwrap_or(Verdict::Retry { after: None, blame: Blame::File }),
            WorkError::Inbox(_) => Verdict::Retry { after: None, blame: Blame::Dependency },
            // The next try goes in the file's order.
            WorkError::Sort(_) => Verdict::Retry { after: None, blame: Blame::File },
            WorkError::ContentChanged { .. } => Verdict::Quarantine(Reason::ContentChanged),
            WorkError::BadRow { .. } | WorkError::Manifest { .. } => Verdict::Quarantine(Reason::MalformedRow),
            WorkError::Defect(_) => Verdict::Retry { after: None, blame: Blame::File },
        };
        if let WorkError::Sink(SinkError::Failed { .. } | SinkError::Refused { .. }) = &error {
            self.circuits.of(Dependency::Sink).worked();
        }
        // What fitted when the first rows were applied does not fit any more.
        let verdict = match verdict {
            Verdict::Quarantine(Reason::HashMismatch) if reached.from.load(Ordering::Relaxed) > 0 => {
                Verdict::Quarantine(Reason::ContentChanged)
            }
            verdict => verdict,
        };
        if let WorkError::Fetch(error) = &error
            && error.is_answer()
        {
            self.circuits.of(Dependency::Storage).worked();
        }
        let mut problem = chain(&error);
        let applied_to = reached.to.load(Ordering::Relaxed);
        if applied_to > 0 {
            problem.push_str(&match reached.is_sorted.load(Ordering::Relaxed) {
                true => format!("; {applied_to} rows were applied, in the order of their keys"),
                false => format!("; applied up to row {applied_to}"),
            });
            let bad = reached.bad.load(Ordering::Relaxed);
            if bad > 0 {
                problem.push_str(&format!(", but for {bad} that cannot be used"));
            }
        }
        Some(match verdict {
            Verdict::Retry { after, blame } => {
                WorkStats::add(&self.stats.tries_put_off, 1);
                let (after, counts) = match blame {
                    Blame::Dependency => {
                        self.stats.put_off_by.add(error.dependency().as_str());
                        let circuit = self.circuits.of(error.dependency());
                        circuit.put_off(circuit.failed(after), file.attempts)
                    }
                    Blame::File => {
                        self.stats.put_off_by.add("file");
                        (after.unwrap_or_else(|| own_pause(file.attempts)), true)
                    }
                };
                tracing::warn!(parent: span, problem, wait_ms = after.as_millis(), "put off");
                End::Later { after, problem, counts }
            }
            Verdict::Quarantine(reason) => {
                WorkStats::add(&self.stats.files_quarantined, 1);
                self.stats.quarantined_by.add(reason);
                tracing::error!(parent: span, %reason, problem, "quarantined");
                End::Quarantine { reason, problem }
            }
            Verdict::Expire => {
                WorkStats::add(&self.stats.files_expired, 1);
                tracing::error!(parent: span, problem, "expired");
                End::Expire { problem }
            }
        })
    }

    async fn finish(&self, lease: &Lease, end: End, span: &tracing::Span) {
        match self.inbox.finish(lease, end).await {
            Ok(true) => self.circuits.of(Dependency::Inbox).worked(),
            Ok(false) => tracing::warn!(parent: span, "the lease lapsed before the file's end was noted"),
            // The lease lapses, and the next worker finds in the sink how far the file is.
            Err(error) => tracing::error!(parent: span, error = %chain(&error), "the file's end was not noted"),
        }
    }

    /// What a manifest says goes to the inbox, and nothing of it to the sink.
    async fn try_manifest(&self, file: &Leased) -> Result<FileDone, WorkError> {
        let (metadata, now) = (&file.waybill.metadata, (self.now)());
        let blob = self.storage.locate(&self.inbox, Claim::of(file), now).await?;
        let download = blob.open(Claim::of(file), (0, None), now).await?;
        let mut rows = FileRows::of_blob(blob.name().to_owned(), download, metadata, None, &self.limits, false)?;
        let mut names = Names::of(metadata);
        while let Some(batch) = rows.next().await? {
            names.add(&batch, &self.inbox).await?;
        }
        let Some(stats) = rows.stats() else { return Err(WorkError::Defect("a manifest without an end".to_owned())) };
        rows::check_figures(blob.name(), &metadata.extras().unwrap_or_default(), stats)?;
        if rows.is_from_storage() {
            self.circuits.of(Dependency::Storage).worked();
        }
        match names.finish(&self.inbox).await? {
            Some(BadRow { row, problem }) => Err(WorkError::Manifest { row, problem }),
            None => Ok(FileDone {
                rows: stats.rows,
                stored_bytes: stats.stored_bytes,
                plain_bytes: stats.plain_bytes,
                ..FileDone::default()
            }),
        }
    }

    async fn try_file(&self, file: &Leased, reached: &Reached) -> Result<FileDone, WorkError> {
        if file.waybill.metadata.blob_type == MANIFEST_TYPE {
            return self.try_manifest(file).await;
        }
        let key = &file.waybill.key;
        let mut before = self.sink.progress(key).await?;
        let metadata = &file.waybill.metadata;
        let plan = self.plans.for_type(&metadata.blob_type).cloned();
        let sorts_in = plan.as_ref().and_then(|_| self.sink.sorts_in());
        if before.trail.is_some() && !before.done && sorts_in.is_none() {
            self.sink.begin_again(key, before).await?;
            WorkStats::add(&self.stats.files_begun_again, 1);
            before = self.sink.progress(key).await?;
        }
        let from = before.rows;
        reached.begin(&before);
        if before.done {
            let Progress { rows, bad, filtered, .. } = before;
            return Ok(FileDone { rows, bad_rows: bad, filtered_rows: Some(filtered), ..FileDone::default() });
        }
        // In which order a file began, it goes on.
        let is_sorted = from > 0 && before.trail.is_some();
        let entity = self.entities.for_type(&metadata.blob_type);
        let extras = metadata.extras().unwrap_or_default();
        // After a try that ended early the file may be another one: then it is looked at closely.
        let again = from > 0 || file.attempts > 0;
        let hash_plain = (self.verify_hash || again) && extras.plain_sha256.is_some();
        // The packing is decided by the file's first bytes; here it is only checked that we know its name.
        let encoding = metadata.encoding().map_err(RowsError::from)?;
        let options = rows::decode_options(
            metadata.media().map_err(RowsError::from)?,
            &metadata.blob_type,
            entity,
            &self.limits,
        )?;
        let options = DecodeOptions { hash_plain, ..options };
        let blob = self.storage.locate(&self.inbox, Claim::of(file), (self.now)()).await?;
        let fail_on_bad_row = self.on_bad_row == OnBadRow::Fail && from == 0;
        let is_whole = self.takes_whole(key, &before);
        // Rows of one content must not follow rows of another, nor any row a bad one that fails the file. So what is read
        // next is pinned to what was looked at.
        // A hash tells whether another blob has the same content; without one, only the blob of before will do.
        let resumed = if is_sorted || fail_on_bad_row { None } else { self.resume(file, &blob, from).await? };
        // What is sorted is read to its end, and compared with what was announced, before any of it takes effect.
        let is_looked_through = is_sorted && extras.plain_sha256.is_some();
        let mut etag = if resumed.is_some() || is_looked_through {
            None
        } else if from > 0 && extras.plain_sha256.is_some() {
            let download = blob.open(Claim::of(file), (0, None), (self.now)()).await?;
            Some(self.look_through(file, download, &blob, options.clone(), &extras, false).await?)
        } else if from > 0 {
            let Some(noted) = &file.blob else { return Err(content_changed(file, from)) };
            Some(noted.etag.clone())
        } else {
            None
        };
        let of_before = from > 0 && extras.plain_sha256.is_none();
        let changed = |error| match error {
            FetchError::Blob(BlobError::Changed { .. }) if of_before => content_changed(file, from),
            error => error.into(),
        };
        let of_changed = |error| match error {
            WorkError::Fetch(error) => changed(error),
            error => error,
        };
        let open = async |etag: Option<String>| {
            let from_begin = (0, etag.as_deref());
            blob.open(Claim::of(file), from_begin, (self.now)()).await.map_err(changed)
        };
        let (mut download, way) = match resumed {
            Some((download, checkpoint)) => (download, Way::From(checkpoint)),
            None => {
                let mut download = open(etag.clone()).await?;
                if download.is_unsure() {
                    let looked =
                        self.look_through(file, download, &blob, options.clone(), &extras, fail_on_bad_row).await?;
                    etag = Some(looked);
                    download = open(etag.clone()).await?;
                }
                let length = download.facts().length;
                (download, Way::BySegments(length))
            }
        };
        let plain_bytes = sorting::plain_bytes(extras.plain_bytes, download.facts().length, encoding);
        let is_large = self.sort_bytes < usize::MAX && plain_bytes > self.sort_bytes.min(SORT_FROM_BYTES) as u64;
        // What was read before and brought nothing into effect goes in its own order: the disk may have no room to sort it, or
        // nobody may come to its end before the next restart.
        let was_read = from == 0 && (file.attempts > 0 || file.blob.is_some());
        let sorter = match (plan.as_ref(), sorts_in) {
            (Some(plan), Some(folder))
                if is_sorted || (from == 0 && is_large && !was_read && self.sink.may_sort(plan).await?) =>
            {
                // One that was begun in this order ends in it, also where it is not large any more.
                let run_bytes = if is_large { self.sort_bytes } else { SORT_BYTES };
                Some(Sorter::new(folder, Arc::clone(plan), run_bytes))
            }
            _ => None,
        };
        // One at a time: what is sorted in memory is not held for each file that is worked. But no file waits for long for another
        // one, which may come slowly.
        let sorting = match sorter {
            Some(sorter) => match self.sorting.try_acquire() {
                Ok(turn) => Some((sorter, turn)),
                Err(_) => {
                    drop(download);
                    let turn = self.turn_to_sort(is_sorted).await;
                    download = open(etag.clone()).await?;
                    turn.map(|turn| (sorter, turn))
                }
            },
            None => None,
        };
        // Of what is sorted nothing takes effect either before all of it was read, nor of what takes effect as a whole; and what has
        // an ETag was looked through above.
        if fail_on_bad_row && !is_whole && etag.is_none() && sorting.is_none() {
            let looked = self.look_through(file, download, &blob, options.clone(), &extras, true).await?;
            download = open(Some(looked)).await?;
        }
        let format = metadata.media().map_or(Format::JsonLines, |media| media.format);
        let facts = BatchFacts {
            blob_type: metadata.blob_type.as_str().into(),
            entity: plan,
            filter: self.filters.get(&metadata.blob_type).cloned(),
            format,
            position: file.waybill.position(file.sequence_number),
        };
        let (group_to, group_from) = mpsc::channel::<Group>(GROUPS_QUEUED);
        let (at, end) = match sorting {
            None => {
                let seen = BlobSeen::new(download.facts());
                let effect = Effect { file, blob: &blob, extras: &extras, facts: &facts, seen, reached, is_whole };
                let reading = self.read(file, download, &blob, (options, way), from, group_to);
                let (read, applied) = tokio::join!(reading, self.bring_into_effect(&effect, group_from, before));
                let applied = applied?;
                let draft = read.map_err(of_changed)?;
                fetch::keep(draft).await;
                applied
            }
            Some((sorter, turn)) => {
                tracing::info!(plain_bytes, folder = %sorts_in.unwrap_or(Path::new("")).display(), "a large file is sorted");
                let under_way = self.stats.sorting();
                let seen = BlobSeen::new(download.facts());
                if file.blob.is_none() {
                    self.note_blob(file, &seen).await?;
                }
                let effect = Effect { file, blob: &blob, extras: &extras, facts: &facts, seen, reached, is_whole };
                let reading = self.read(file, download, &blob, (options, way), 0, group_to);
                let (read, sorted) = tokio::join!(reading, sorting::collect(sorter, group_from, fail_on_bad_row));
                let sorted = sorted?;
                let draft = read.map_err(of_changed)?;
                drop(turn);
                drop(under_way);
                let Some((sorted, stats)) = sorted else { return Err(without_end()) };
                rows::check_figures(blob.name(), &extras, &stats)?;
                fetch::keep(draft).await;
                let Some((sorted, is_alike)) = sorting::go_on(sorted, &before).await? else {
                    return Err(without_end());
                };
                if !is_alike {
                    tracing::warn!(%before, "its rows come in another order now; it begins again");
                    self.sink.begin_again(key, before).await?;
                    WorkStats::add(&self.stats.files_begun_again, 1);
                    before = self.sink.progress(key).await?;
                    reached.begin(&before);
                    if before != Progress::default() {
                        // Somebody who had the file before was slow to end.
                        return Err(SinkError::Fenced { file: key.to_string(), expected: 0, found: before }.into());
                    }
                }
                tracing::info!(rows = stats.rows, "it is sorted, and takes effect in the order of its keys");
                WorkStats::add(&self.stats.files_sorted, 1);
                let (group_to, group_from) = mpsc::channel::<Group>(GROUPS_QUEUED);
                let handing_on = sorting::hand_on(sorted, stats, before, self.groups, group_to);
                let applying = self.bring_into_effect(&effect, group_from, before);
                let (handed_on, applied) = tokio::join!(handing_on, applying);
                let applied = applied?;
                handed_on?;
                applied
            }
        };
        let Progress { bad, filtered, .. } = at;
        let stats = end.ok_or_else(without_end)?;
        WorkStats::add(&self.stats.stored_bytes, stats.stored_bytes);
        WorkStats::add(&self.stats.plain_bytes, stats.plain_bytes);
        Ok(FileDone {
            rows: stats.rows,
            bad_rows: bad,
            filtered_rows: Some(filtered),
            stored_bytes: stats.stored_bytes,
            plain_bytes: stats.plain_bytes,
        })
    }

    /// A turn to sort; `None`: it did not come in time, and the file need not wait for it.
    async fn turn_to_sort(&self, must_wait: bool) -> Option<SemaphorePermit<'_>> {
        let turn = async { self.sorting.acquire().await.expect("it is never closed") };
        if must_wait { Some(turn.await) } else { timeout(SORT_TURN_MAX, turn).await.ok() }
    }

    /// Gives groups to the sink, one after the other. Says how far the file is then, and its figures, if its end was among them.
    async fn bring_into_effect(
        &self,
        effect: &Effect<'_>,
        mut groups: mpsc::Receiver<Group>,
        before: Progress,
    ) -> Result<(Progress, Option<FileStats>), WorkError> {
        if effect.is_whole {
            return self.bring_into_effect_as_one(effect, groups, before).await;
        }
        let Effect { file, blob, extras, facts, seen, reached, .. } = effect;
        let key = &file.waybill.key;
        // Stored bytes up to the checkpoint that was noted last.
        let mut noted = 0;
        let (mut end, mut at, mut ahead) = (None, before, before.rows);
        let mut next = self.next_batch(&mut groups, key, &mut ahead, facts).await;
        while let Some(Ready { rows, batch: ready, checkpoint }) = next {
            let ready = ready?;
            if let Some(stats) = &ready.end {
                rows::check_figures(blob.name(), extras, stats)?;
                end = Some(stats.clone());
            }
            let (to, done, sorted) = (ready.to, ready.end.is_some(), ready.sorted);
            // Rows that take effect together with the end of their file are followed by none.
            let mut note = before.rows == 0 && at.rows == 0 && !done;
            let taking_effect = async {
                // Rows of a blob that was noted earlier may still take effect, if an earlier try was cut short; then the
                // sink fences this one, and the earlier note must stand.
                if note && file.blob.as_ref().is_none_or(|earlier| earlier.is(seen)) {
                    self.note_blob(file, seen).await?;
                    note = false;
                }
                let applied = {
                    let _turn = self.commits.acquire().await.expect("it is never closed");
                    self.sink.apply(key, at.rows, ready).await?
                };
                self.circuits.of(Dependency::Sink).worked();
                let now = Progress { trail: sorted.map(|stretch| stretch.after), ..at.after(to, done, &applied) };
                self.count(&applied, rows, now.bad - at.bad);
                reached.at(&now);
                if note {
                    self.note_blob(file, seen).await?;
                }
                // The rows before it took effect: whoever comes after this process goes on there.
                if let Some(checkpoint) = checkpoint.filter(|at| !done && at.stored >= noted + CHECKPOINT_BYTES) {
                    noted = checkpoint.stored;
                    self.note_blob(file, &BlobSeen { checkpoint: Some(checkpoint), ..seen.clone() }).await?;
                }
                Ok::<_, WorkError>(now)
            };
            let reading_ahead = async { Ok(self.next_batch(&mut groups, key, &mut ahead, facts).await) };
            (at, next) = tokio::try_join!(taking_effect, reading_ahead)?;
        }
        // The queue is dropped here, so that the stages before it notice an error and end.
        Ok((at, end))
    }

    /// The next group, read by the sink as far as it can be before its turn. `ahead` is how far the groups before it go.
    async fn next_batch(
        &self,
        groups: &mut mpsc::Receiver<Group>,
        key: &FileKey,
        ahead: &mut u64,
        facts: &BatchFacts,
    ) -> Option<Ready> {
        let group = groups.recv().await?;
        let (rows, checkpoint) = (group.rows, group.checkpoint.clone());
        let from = std::mem::replace(ahead, group.to);
        let batch = self.sink.look_ahead(key, from, facts.with(group, self.on_bad_row)).await;
        Some(Ready { rows, batch, checkpoint })
    }

    async fn note_blob(&self, file: &Leased, seen: &BlobSeen) -> Result<(), WorkError> {
        if file.blob.as_ref() == Some(seen) || self.inbox.note_blob(&file.lease, seen).await? {
            Ok(())
        } else {
            Err(WorkError::Lapsed)
        }
    }

    /// Reads and decodes the file, and hands on groups of the rows after `from`. What can be kept of it is for who finds it right
    /// to the end.
    async fn read(
        &self,
        file: &Leased,
        mut download: Fetched,
        blob: &Located,
        (options, way): (DecodeOptions, Way),
        from: u64,
        groups: mpsc::Sender<Group>,
    ) -> Result<Option<Draft>, WorkError> {
        let etag = download.facts().etag.clone();
        let decoded = self.read_once(&mut download, blob, (options.clone(), way), from, groups.clone()).await?;
        let Decoded::Doubt { to } = decoded else { return Ok(download.into_draft()) };
        tracing::warn!(blob = blob.name(), row = to, "something in its segments cannot be right; reading it in one go");
        let mut again = blob.open(Claim::of(file), (0, Some(&etag)), (self.now)()).await?;
        drop(download);
        self.read_once(&mut again, blob, (options, Way::InOneGo), to, groups).await?;
        Ok(again.into_draft())
    }

    /// Opens the file where an earlier try left off, if it noted such a place and the blob is still that one. Whoever wants the
    /// hash of a file reads all of it.
    async fn resume(
        &self,
        file: &Leased,
        blob: &Located,
        from: u64,
    ) -> Result<Option<(Fetched, Checkpoint)>, FetchError> {
        let Some(BlobSeen { etag, checkpoint: Some(checkpoint), .. }) = &file.blob else { return Ok(None) };
        if self.verify_hash || checkpoint.rows > from {
            return Ok(None);
        }
        let place = (checkpoint.stored, Some(etag.as_str()));
        match blob.open(Claim::of(file), place, (self.now)()).await {
            Ok(download) => Ok(Some((download, checkpoint.clone()))),
            Err(FetchError::Blob(BlobError::Changed { .. })) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn read_once(
        &self,
        download: &mut Fetched,
        blob: &Located,
        (options, way): (DecodeOptions, Way),
        from: u64,
        groups: mpsc::Sender<Group>,
    ) -> Result<Decoded, WorkError> {
        let (chunk_to, chunk_from) = mpsc::channel(CHUNKS_QUEUED);
        let grouping = Grouping::new(from, self.groups);
        let decode = rows::decode(options, way, grouping, self.pool.clone(), chunk_from, groups);
        // Both are awaited to their end: a stage whose neighbour failed finds its queue closed.
        // Not only at the end: while the others wait to hear of it, one long file would hold them up.
        let storage = self.circuits.of(Dependency::Storage);
        let (fetched, decoded) = tokio::join!(fetch::stream(download, chunk_to, || storage.delivers()), decode);
        fetched?;
        decoded.map_err(|source| RowsError::Decode { blob: blob.name().to_owned(), source }.into())
    }

    /// Reads the file through once before anything (more) of it is applied: whether it is what its message announced and,
    /// with `fail_on_bad_row`, whether all its rows are good. Says which ETag that is true of.
    async fn look_through(
        &self,
        file: &Leased,
        download: Fetched,
        blob: &Located,
        options: DecodeOptions,
        extras: &Extras,
        fail_on_bad_row: bool,
    ) -> Result<String, WorkError> {
        let options = DecodeOptions { hash_plain: options.hash_plain || download.is_unsure(), ..options };
        let (etag, way) = (download.facts().etag.clone(), Way::BySegments(download.facts().length));
        let (group_to, mut group_from) = mpsc::channel::<Group>(GROUPS_QUEUED);
        let looking = async move {
            while let Some(group) = group_from.recv().await {
                if fail_on_bad_row {
                    WorkError::of_bad_row(&group)?;
                }
                if let Some(stats) = &group.end {
                    rows::check_figures(blob.name(), extras, stats)?;
                }
            }
            Ok::<_, WorkError>(())
        };
        let (read, looked) = tokio::join!(self.read(file, download, blob, (options, way), 0, group_to), looking);
        looked?;
        fetch::keep(read?).await;
        Ok(etag)
    }

    /// `bad` rows, among them those that were left out and not given to the sink.
    fn count(&self, applied: &Applied, rows: u64, bad: u64) {
        let stats = &self.stats;
        WorkStats::add(&stats.rows, rows);
        WorkStats::add(&stats.bad_rows, applied.bad);
        WorkStats::add(&stats.left_out, bad.saturating_sub(applied.bad));
        WorkStats::add(&stats.inserted, applied.inserted);
        WorkStats::add(&stats.updated, applied.updated);
        WorkStats::add(&stats.deleted, applied.deleted);
        WorkStats::add(&stats.ignored, applied.ignored);
        WorkStats::add(&stats.superseded, applied.superseded);
        WorkStats::add(&stats.filtered, applied.filtered);
        WorkStats::add(&stats.parked, applied.parked);
        WorkStats::add(&stats.released, applied.released);
        WorkStats::add(&stats.rescued, applied.rescued);
    }
}

fn content_changed(file: &Leased, row: u64) -> WorkError {
    let was = match &file.blob {
        Some(BlobSeen { etag, length, .. }) => format!("had {length} bytes and the ETag {etag}"),
        None => "this inbox does not know".to_owned(),
    };
    WorkError::ContentChanged { row, was }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic".to_owned())
}

fn without_end() -> WorkError {
    WorkError::Defect("the file ended without an end".to_owned())
}

/// What bringing a file into effect needs to know of it.
struct Effect<'a> {
    file: &'a Leased,
    blob: &'a Located,
    extras: &'a Extras,
    facts: &'a BatchFacts,
    seen: BlobSeen,
    reached: &'a Reached,
    is_whole: bool,
}

/// A batch that waits for its turn.
struct Ready {
    /// Good and bad ones.
    rows: u64,
    batch: Result<EntityBatch, SinkError>,
    checkpoint: Option<Checkpoint>,
}

/// What all batches of a file share.
struct BatchFacts {
    blob_type: Arc<str>,
    format: Format,
    entity: Option<Arc<EntityPlan>>,
    filter: Option<Arc<RowFilter>>,
    position: Position,
}

impl BatchFacts {
    fn with(&self, group: Group, on_bad_row: OnBadRow) -> EntityBatch {
        let mut rows = group.batches;
        if on_bad_row == OnBadRow::Skip {
            rows.iter_mut().for_each(|batch| batch.forget_bad());
        }
        EntityBatch {
            blob_type: Arc::clone(&self.blob_type),
            entity: self.entity.clone(),
            filter: self.filter.clone(),
            format: self.format,
            position: self.position.clone(),
            rows,
            to: group.to,
            end: group.end,
            sorted: group.sorted,
            ahead: Ahead::default(),
        }
    }
}
