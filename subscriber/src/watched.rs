//! Inbox and sink as a subscriber uses them: each call that fails is counted, and what is wrong is known until one works.

use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::mpsc,
    time::{error::Elapsed, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    FileKey,
    apply::EntityPlan,
    figures::Histogram,
    inbox::{
        Admitted, Arrival, Asked, Backlog, Beat, BlobSeen, Counts, End, HistoryEntry, Inbox, InboxError, InboxRow,
        Lease, Leased, ListFilter, Pending, Place, PruneStep, Pruned, Retention, SequenceNamed, SequenceSeen,
        TypeTotals, Wanted, WorkerId, WorkerSeen,
    },
    receive::chain,
    schedule::Circuit,
    sink::{Applied, EntityBatch, Guarantee, Progress, Sink, SinkError, WaitsEnded, WholeFiles},
};

/// What became of calls.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    failed: AtomicU64,
    problem: Mutex<Option<String>>,
    /// Commits of a sink.
    pub(crate) commits: Histogram,
}

impl Calls {
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// What is wrong, as far as is known.
    pub(crate) fn problem(&self) -> Option<String> {
        self.problem.lock().expect("no panic while it is held").clone()
    }

    pub(crate) fn note_failure(&self, problem: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        *self.problem.lock().expect("no panic while it is held") = Some(problem);
    }

    fn works(&self) {
        *self.problem.lock().expect("no panic while it is held") = None;
    }
}

/// Wraps an inbox or a sink. Clones count together.
#[derive(Debug, Clone)]
pub(crate) struct Watched<T> {
    pub(crate) inner: T,
    pub(crate) calls: Arc<Calls>,
}

impl<T> Watched<T> {
    pub(crate) fn new(inner: T, calls: Arc<Calls>) -> Self {
        Self { inner, calls }
    }

    /// A database may be read and yet take nothing: that it works is known when something was written.
    fn written<V>(&self, answer: Result<V, InboxError>) -> Result<V, InboxError> {
        match &answer {
            Ok(_) => self.calls.works(),
            Err(error) => self.calls.note_failure(chain(error)),
        }
        answer
    }

    fn read<V>(&self, answer: Result<V, InboxError>) -> Result<V, InboxError> {
        answer.inspect_err(|error| self.calls.note_failure(chain(error)))
    }

    /// What the sink says of a file alone is an answer.
    fn sunk<V>(&self, answer: Result<V, SinkError>) -> Result<V, SinkError> {
        match &answer {
            Err(error @ (SinkError::Unavailable { .. } | SinkError::Unusable { .. })) => {
                self.calls.note_failure(chain(error))
            }
            _ => self.calls.works(),
        }
        answer
    }
}

/// How often a sink that takes no rows at the moment is asked whether it is there.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long it may take to say so.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);

impl<S: Sink> Watched<S> {
    /// Knows of an outage though no file comes, and of its end, until `stop`.
    pub(crate) async fn look_after(&self, circuit: &Circuit, stop: &CancellationToken) {
        // No file's: those have an origin, or an id.
        let nobody = FileKey::of_uri("health");
        let mut commits = None;
        while !stop.is_cancelled() {
            let look = async {
                let seen = commits.replace(self.calls.commits.now().count);
                if seen == commits {
                    match timeout(LOOK_PATIENCE, self.progress(&nobody)).await {
                        Ok(Ok(_)) => circuit.answered(),
                        Ok(Err(_)) => {}
                        Err(Elapsed { .. }) => {
                            self.calls.note_failure(format!("no answer within {} s", LOOK_PATIENCE.as_secs()));
                        }
                    }
                }
                tokio::time::sleep(LOOK_EVERY).await;
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = look => {}
            }
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl<I: Inbox> Inbox for Watched<I> {
    async fn admit(&self, burst: Vec<Arrival>) -> Result<Vec<Admitted>, InboxError> {
        self.written(self.inner.admit(burst).await)
    }

    async fn known(&self, files: &[FileKey]) -> Result<Vec<Option<i64>>, InboxError> {
        self.read(self.inner.known(files).await)
    }

    async fn lease(&self, worker: &WorkerId, most: u32, wanted: &Wanted) -> Result<Vec<Leased>, InboxError> {
        self.written(self.inner.lease(worker, most, wanted).await)
    }

    async fn renew(&self, lease: &Lease, rows: u64) -> Result<Option<Lease>, InboxError> {
        self.written(self.inner.renew(lease, rows).await)
    }

    async fn note_blob(&self, lease: &Lease, blob: &BlobSeen) -> Result<bool, InboxError> {
        self.written(self.inner.note_blob(lease, blob).await)
    }

    async fn finish(&self, lease: &Lease, end: End) -> Result<bool, InboxError> {
        self.written(self.inner.finish(lease, end).await)
    }

    async fn skip_other_types(&self, types: &[String]) -> Result<u64, InboxError> {
        match self.inner.skip_other_types(types).await {
            // There were none, so nothing was written.
            Ok(0) => Ok(0),
            skipped => self.written(skipped),
        }
    }

    async fn done_files(&self, after: i64, most: u32) -> Result<Vec<(i64, FileKey)>, InboxError> {
        self.read(self.inner.done_files(after, most).await)
    }

    async fn hasten(&self, ids: &[i64]) -> Result<u64, InboxError> {
        self.written(self.inner.hasten(ids).await)
    }

    async fn reopen(&self, ids: &[i64]) -> Result<u64, InboxError> {
        self.written(self.inner.reopen(ids).await)
    }

    async fn retry(&self, id: i64) -> Result<Asked, InboxError> {
        self.written(self.inner.retry(id).await)
    }

    async fn skip(&self, id: i64, why: &str) -> Result<Asked, InboxError> {
        self.written(self.inner.skip(id, why).await)
    }

    async fn remember_place(&self, place: &Place) -> Result<(), InboxError> {
        self.written(self.inner.remember_place(place).await)
    }

    async fn places(&self) -> Result<Vec<Place>, InboxError> {
        self.read(self.inner.places().await)
    }

    async fn pending(&self, wanted: &Wanted) -> Result<Pending, InboxError> {
        self.read(self.inner.pending(wanted).await)
    }

    async fn counts(&self) -> Result<Counts, InboxError> {
        self.read(self.inner.counts().await)
    }

    async fn backlog(&self) -> Result<Backlog, InboxError> {
        self.read(self.inner.backlog().await)
    }

    async fn types(&self) -> Result<Vec<TypeTotals>, InboxError> {
        self.read(self.inner.types().await)
    }

    async fn note_named(&self, of: &SequenceNamed) -> Result<(), InboxError> {
        self.written(self.inner.note_named(of).await)
    }

    async fn named(&self) -> Result<Vec<SequenceNamed>, InboxError> {
        self.read(self.inner.named().await)
    }

    async fn sequences(&self) -> Result<Vec<SequenceSeen>, InboxError> {
        self.read(self.inner.sequences().await)
    }

    async fn prunable(&self, retention: &Retention) -> Result<Pruned, InboxError> {
        self.read(self.inner.prunable(retention).await)
    }

    async fn prune(
        &self,
        retention: &Retention,
        step: PruneStep,
        most: u32,
    ) -> Result<(Pruned, Option<PruneStep>), InboxError> {
        self.written(self.inner.prune(retention, step, most).await)
    }

    async fn list(&self, filter: &ListFilter) -> Result<Vec<InboxRow>, InboxError> {
        self.read(self.inner.list(filter).await)
    }

    async fn get(&self, id: i64) -> Result<Option<InboxRow>, InboxError> {
        self.read(self.inner.get(id).await)
    }

    async fn history(&self, id: i64) -> Result<Vec<HistoryEntry>, InboxError> {
        self.read(self.inner.history(id).await)
    }

    async fn beat(&self, worker: &WorkerId, beat: &Beat) -> Result<(), InboxError> {
        self.written(self.inner.beat(worker, beat).await)
    }

    async fn workers(&self) -> Result<Vec<WorkerSeen>, InboxError> {
        self.read(self.inner.workers().await)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<S: Sink> Sink for Watched<S> {
    fn guarantee(&self) -> Guarantee {
        self.inner.guarantee()
    }

    fn commit_bytes(&self) -> usize {
        self.inner.commit_bytes()
    }

    fn sorts_in(&self) -> Option<&Path> {
        self.inner.sorts_in()
    }

    async fn may_sort(&self, entity: &EntityPlan) -> Result<bool, SinkError> {
        self.sunk(self.inner.may_sort(entity).await)
    }

    async fn begin_again(&self, file: &FileKey, at: Progress) -> Result<(), SinkError> {
        self.sunk(self.inner.begin_again(file, at).await)
    }

    async fn progress(&self, file: &FileKey) -> Result<Progress, SinkError> {
        self.sunk(self.inner.progress(file).await)
    }

    async fn look_ahead(&self, file: &FileKey, from: u64, batch: EntityBatch) -> Result<EntityBatch, SinkError> {
        self.inner.look_ahead(file, from, batch).await
    }

    async fn apply(&self, file: &FileKey, from: u64, batch: EntityBatch) -> Result<Applied, SinkError> {
        let began = Instant::now();
        let applied = self.sunk(self.inner.apply(file, from, batch).await);
        if applied.is_ok() {
            self.calls.commits.add(began.elapsed());
        }
        applied
    }

    fn whole_files(&self) -> WholeFiles {
        self.inner.whole_files()
    }

    async fn apply_whole(
        &self,
        file: &FileKey,
        batches: mpsc::Receiver<EntityBatch>,
    ) -> Result<Option<Applied>, SinkError> {
        let began = Instant::now();
        let applied = self.sunk(self.inner.apply_whole(file, batches).await);
        if let Ok(Some(_)) = &applied {
            self.calls.commits.add(began.elapsed());
        }
        applied
    }

    async fn end_waits(&self) -> Result<WaitsEnded, SinkError> {
        self.sunk(self.inner.end_waits().await)
    }
}
