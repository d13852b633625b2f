//! Files to exports, some at once, until it is stopped.

use std::{
    error::Error,
    fmt,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use time::OffsetDateTime;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use waybill_publisher::{
    ExportError, Publisher,
    outbox::{Outbox, OutboxError, SqliteOutbox},
};
use waybill_subscriber::{
    Subscriber, Verdict,
    files::{File, FileError},
    inbox::{Inbox, SqliteInbox, Wanted},
};

use crate::{
    figures::{Counting, Figures, add},
    jobs::Jobs,
    transfer::{Hook, Step, Transfer, TransferError, Transferred},
};

/// A file whose export another worker took over is looked at again after this.
const SOON: Duration = Duration::from_millis(500);
/// How long files are given back after a stop that took too long.
const GIVE_BACK: Duration = Duration::from_secs(2);
/// Pauses while the output cannot be stored, or the outbox not be written.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// How a [`Republisher`] works.
#[derive(Debug, Clone, Copy)]
pub struct RepublisherOptions {
    /// Files under way at once (default 1: their outputs are numbered in the order in which they came, which decides between
    /// rows of one version).
    pub files_in_flight_max: NonZeroU32,
    /// How long files under way may take to finish after a stop (default 20 s); then they are given back.
    pub drain_timeout: Duration,
    /// How long a stop then waits for messages that are not sent yet (default 10 s); what is left is sent by the next run.
    pub send_timeout: Duration,
    /// The clock (default: the system's).
    pub now: fn() -> OffsetDateTime,
}

impl Default for RepublisherOptions {
    fn default() -> Self {
        Self {
            files_in_flight_max: NonZeroU32::MIN,
            drain_timeout: Duration::from_secs(20),
            send_timeout: Duration::from_secs(10),
            now: OffsetDateTime::now_utc,
        }
    }
}

/// Receives files, and publishes what its jobs make of them. Clones share everything. Several may share an inbox and an outbox
/// in PostgreSQL; in any case an inbox is for a republisher or for a sink, not for both.
pub struct Republisher<I = SqliteInbox, O: Outbox = SqliteOutbox> {
    shared: Arc<Shared<I, O>>,
}

struct Shared<I, O: Outbox> {
    jobs: Jobs,
    subscriber: Subscriber<I>,
    publisher: Publisher<O>,
    options: RepublisherOptions,
    counting: Counting,
    pause: Pause,
    hook: Hook,
}

impl<I: Inbox + Clone, O: Outbox> Republisher<I, O> {
    /// By these jobs, from the one to the other. The subscriber was built with [`Jobs::prepare`].
    pub fn new(jobs: Jobs, subscriber: Subscriber<I>, publisher: Publisher<O>, options: RepublisherOptions) -> Self {
        let (counting, pause) = (Counting::default(), Pause::default());
        Self { shared: Arc::new(Shared { jobs, subscriber, publisher, options, counting, pause, hook: |_| {} }) }
    }

    /// The same, with a function that is called at each step.
    #[cfg(test)]
    pub(crate) fn hooked(mut self, hook: Hook) -> Self {
        Arc::get_mut(&mut self.shared).expect("nobody else has it yet").hook = hook;
        self
    }

    /// Receives, republishes and sends until `stop`, then stops in stages: no new files, those under way finish, their messages
    /// are sent. What cannot be read, stored or sent now is tried again; by itself it ends only as [`Publisher::run`] does.
    ///
    /// # Cancel safety
    /// Dropping the future is like a crash: nothing is lost and nothing published twice.
    pub async fn run(&self, stop: CancellationToken) {
        let Shared { subscriber, publisher, options, .. } = &*self.shared;
        let (stop, sending) = (stop.child_token(), CancellationToken::new());
        let working = async {
            tokio::join!(subscriber.receive(stop.clone()), self.work(stop.clone()));
            if let Err(error) = publisher.flush(options.send_timeout).await {
                tracing::info!(error = chain(&error), "stopping");
            }
            sending.cancel();
        };
        let sender = async {
            publisher.run(sending.clone()).await;
            // Unless it was stopped, it gave up, and nothing that is made now would be sent.
            stop.cancel();
        };
        tokio::join!(working, sender);
    }

    /// Only works the files that were received, until `stop`. Somebody must [run](Publisher::run) the publisher, for the
    /// messages.
    ///
    /// # Cancel safety
    /// As [`Republisher::run`].
    pub async fn work(&self, stop: CancellationToken) {
        let Shared { jobs, subscriber, options, pause, .. } = &*self.shared;
        let most = options.files_in_flight_max.get() as usize;
        let wanted = Wanted { types: Some(jobs.types().collect()), ..Wanted::default() };
        let (mut files, mut at_work) = (subscriber.files(wanted), JoinSet::new());
        let give_back = CancellationToken::new();
        while !stop.is_cancelled() {
            let paused = pause.left();
            tokio::select! {
                () = stop.cancelled() => {}
                Some(ended) = at_work.join_next() => joined(ended),
                () = sleep(paused), if !paused.is_zero() => {}
                next = files.next(), if paused.is_zero() && at_work.len() < most => match next {
                    Ok(file) => {
                        at_work.spawn(Arc::clone(&self.shared).take(file, give_back.clone()));
                    }
                    // The next call waits as long as the inbox should be left alone.
                    Err(error) => tracing::warn!(error = chain(&error), "no file could be taken; trying again"),
                },
            }
        }
        let drained = async {
            while let Some(ended) = at_work.join_next().await {
                joined(ended);
            }
        };
        if timeout(options.drain_timeout, drained).await.is_err() {
            give_back.cancel();
            let given_back = async {
                while let Some(ended) = at_work.join_next().await {
                    joined(ended);
                }
            };
            if timeout(GIVE_BACK, given_back).await.is_err() {
                tracing::warn!("the stop took too long; what was not given back comes again when its lease ends");
            }
        }
        files.close().await;
    }

    /// What it has done so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.shared.counting.figures()
    }

    /// Why no output can be stored, from the first failure until one is stored again.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.shared.pause.problem()
    }

    /// Its jobs.
    #[must_use]
    pub fn jobs(&self) -> &Jobs {
        &self.shared.jobs
    }

    /// Where files come from.
    #[must_use]
    pub fn subscriber(&self) -> &Subscriber<I> {
        &self.shared.subscriber
    }

    /// Where they go.
    #[must_use]
    pub fn publisher(&self) -> &Publisher<O> {
        &self.shared.publisher
    }
}

impl<I: Inbox + Clone, O: Outbox> Shared<I, O> {
    /// Takes one file through, or back to the others when time is up.
    async fn take(self: Arc<Self>, mut file: File<I>, give_back: CancellationToken) {
        (self.hook)(Step::Leased);
        let id = file.id();
        let Some(task) = self.jobs.task(&file.metadata().blob_type) else {
            unreachable!("only files of the jobs' types are taken")
        };
        let transfer = Transfer { publisher: &self.publisher, task, now: self.options.now, hook: self.hook };
        let transferred = tokio::select! {
            biased;
            transferred = transfer.run(&mut file) => Some(transferred),
            () = give_back.cancelled() => None,
        };
        let ended = match transferred {
            None => file.give_back().await,
            Some(Ok(transferred)) => self.done(file, transferred).await,
            Some(Err(error)) => self.failed(file, error).await,
        };
        if let Err(error) = ended {
            tracing::info!(id, error = chain(&error), "the end of a file is not noted; it comes again");
        }
    }

    /// The export is durable; only now the file is done.
    async fn done(&self, mut file: File<I>, transferred: Transferred) -> Result<(), FileError> {
        let Transferred { exported, rows } = transferred;
        self.pause.over();
        let counter = match &exported {
            None => &self.counting.files_empty,
            Some(exported) if exported.repeated => &self.counting.files_repeated,
            Some(_) => &self.counting.files_republished,
        };
        if exported.as_ref().is_some_and(|exported| exported.repeated) {
            // Begun anew and not asked for: what was read before it was known does not count.
            drop(file.rows());
        } else {
            file.note_filtered(rows.filtered());
        }
        let (id, export_id) = (file.id(), exported.map(|exported| exported.export_id));
        file.done().await?;
        (self.hook)(Step::Done);
        add(counter, 1);
        self.counting.add_rows(&rows);
        tracing::debug!(id, export_id, "republished");
        Ok(())
    }

    async fn failed(&self, file: File<I>, error: TransferError) -> Result<(), FileError> {
        let id = file.id();
        match error {
            TransferError::File(error) => {
                tracing::warn!(id, error = chain(&error), "a file could not be read");
                let is_quarantined = matches!(error.verdict(), Some(Verdict::Quarantine(_)));
                file.failed(&error).await?;
                let Counting { files_quarantined, tries_put_off, .. } = &self.counting;
                add(if is_quarantined { files_quarantined } else { tries_put_off }, 1);
                Ok(())
            }
            TransferError::Faulty { reason, problem } => {
                tracing::warn!(id, %reason, problem, "a file cannot be republished and waits for a person");
                file.quarantine(reason, &problem).await?;
                add(&self.counting.files_quarantined, 1);
                Ok(())
            }
            TransferError::Export(error) => {
                let problem = chain(&error);
                let after = if is_overtaken(&error) { SOON } else { self.pause.longer(&problem) };
                tracing::warn!(id, error = problem, ?after, "what a file becomes could not be stored; trying again");
                file.retry_in(after, &problem).await?;
                add(&self.counting.tries_put_off, 1);
                Ok(())
            }
        }
    }
}

/// Nothing is down: another worker has the file since our lease ended.
fn is_overtaken(error: &ExportError) -> bool {
    matches!(error, ExportError::Outbox { source: OutboxError::Overtaken { .. }, .. })
}

/// Longer and longer pauses of all files, until one of them goes through.
#[derive(Debug, Default)]
struct Pause(Mutex<Pausing>);

#[derive(Debug, Default)]
struct Pausing {
    next: Option<ExponentialBackoff>,
    until: Option<Instant>,
    problem: Option<String>,
}

impl Pause {
    /// How long nothing should be taken.
    fn left(&self) -> Duration {
        let until = self.0.lock().unwrap_or_else(PoisonError::into_inner).until;
        until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    fn problem(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).problem.clone()
    }

    /// Something failed. Files that were under way together share a pause.
    fn longer(&self, problem: &str) -> Duration {
        let mut pausing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pausing.problem = Some(problem.to_owned());
        let now = Instant::now();
        if let Some(until) = pausing.until.filter(|until| *until > now) {
            return until - now;
        }
        let next = pausing.next.get_or_insert_with(|| {
            let delays = ExponentialBuilder::new().with_min_delay(PAUSE_MIN).with_max_delay(PAUSE_MAX);
            delays.without_max_times().with_jitter().build()
        });
        let pause = next.next().unwrap_or(PAUSE_MAX);
        pausing.until = Some(now + pause);
        pause
    }

    fn over(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Pausing::default();
    }
}

/// A task that panicked takes us with it; else the runtime is ending.
fn joined(ended: Result<(), tokio::task::JoinError>) {
    if let Err(failed) = ended
        && let Ok(panic) = failed.try_into_panic()
    {
        std::panic::resume_unwind(panic);
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut at = error;
    while let Some(source) = at.source() {
        let said = source.to_string();
        // A transparent error says what its source says.
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        at = source;
    }
    text
}

impl<I, O: Outbox> Clone for Republisher<I, O> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<I, O: Outbox> fmt::Debug for Republisher<I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Republisher").field("jobs", &self.shared.jobs).finish_non_exhaustive()
    }
}
