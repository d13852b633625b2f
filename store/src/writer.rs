//! The writer's thread: whatever waits while a commit runs becomes the next commit.
//!
//! Jobs share one `BEGIN IMMEDIATE`, each after the first in a savepoint of its own; callers hear of it after the commit. A savepoint
//! keeps a copy of every page that is written in it, which costs a large job a tenth of its time. The first one has none: if it
//! fails, all that there is to be taken back is its own. A job that may take long is always the first of its group.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use crate::StoreError;

/// After this long no further job joins a group, so that the first one is not kept waiting by long ones.
const GROUP_TIME_MAX: Duration = Duration::from_millis(20);

/// What the writer's queue carries.
pub(crate) enum Order {
    Job(Box<dyn Job>),
    /// The same in no group that began before it.
    Alone(Box<dyn Job>),
    /// Take nothing more, finish what is queued, close the file, then drop the sender.
    Close(oneshot::Sender<()>),
}

/// A job with its types erased.
pub(crate) trait Job: Send {
    /// Runs it and keeps its result; says whether its effect is to be kept.
    fn run(&mut self, tx: &Transaction<'_>) -> bool;
    /// Tells the caller; `failure` when the group was not committed.
    fn reply(self: Box<Self>, path: &str, failure: Option<&rusqlite::Error>);
}

/// How the transaction stands after a job.
enum After {
    Open,
    /// The first job failed: nothing is to be kept.
    Empty,
    /// SQLite ended it: the jobs before have lost their effect too.
    Broken(rusqlite::Error),
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commits: AtomicU64,
    pub(crate) jobs: AtomicU64,
}

pub(crate) struct Writer {
    pub(crate) path: Arc<str>,
    pub(crate) connection: Connection,
    pub(crate) orders: Orders,
    pub(crate) group_max: usize,
    pub(crate) counters: Arc<Counters>,
}

impl Writer {
    /// Until every sender is gone, or somebody closes.
    pub(crate) fn run(mut self) {
        while let Some(first) = self.orders.first() {
            self.group(first);
        }
        // The last connection to close check-points and removes the WAL; with others still open, this shortens it.
        if let Err(error) = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            tracing::debug!(path = %self.path, %error, "check-point on close");
        }
        if let Err((_, error)) = self.connection.close() {
            tracing::warn!(path = %self.path, %error, "closing the database");
        }
        drop(self.orders);
    }

    fn group(&mut self, first: Box<dyn Job>) {
        let mut done: Vec<Box<dyn Job>> = Vec::new();
        let tx = match self.connection.transaction_with_behavior(TransactionBehavior::Immediate) {
            Ok(tx) => tx,
            Err(error) => {
                // Each would wait for the file as long as the first did: those that wait together fail together.
                first.reply(&self.path, Some(&error));
                while let Some(job) = self.orders.next() {
                    job.reply(&self.path, Some(&error));
                }
                return;
            }
        };
        let began = Instant::now();
        let mut broken = None;
        let mut waiting = Some(first);
        while let Some(mut job) = waiting.take() {
            let after = if done.is_empty() { alone(&tx, job.as_mut()) } else { in_savepoint(&tx, job.as_mut()) };
            done.push(job);
            match after {
                After::Open => {}
                After::Empty => {
                    let undone = tx.rollback().err();
                    self.counters.jobs.fetch_add(1, Ordering::Relaxed);
                    done.into_iter().for_each(|job| job.reply(&self.path, undone.as_ref()));
                    return;
                }
                After::Broken(error) => {
                    broken = Some(error);
                    break;
                }
            }
            if done.len() < self.group_max && began.elapsed() < GROUP_TIME_MAX {
                waiting = self.orders.next();
            }
        }
        let failure = match broken {
            Some(error) => Some(error),
            None => tx.commit().err(),
        };
        self.counters.commits.fetch_add(u64::from(failure.is_none()), Ordering::Relaxed);
        self.counters.jobs.fetch_add(done.len() as u64, Ordering::Relaxed);
        for job in done {
            job.reply(&self.path, failure.as_ref());
        }
    }
}

/// What the writer is to do, in the order in which it was told.
pub(crate) struct Orders {
    queue: mpsc::Receiver<Order>,
    /// A job that begins a group of its own.
    held: Option<Box<dyn Job>>,
    /// Those who wait for the end.
    closed: Vec<oneshot::Sender<()>>,
}

impl Orders {
    pub(crate) fn new(queue: mpsc::Receiver<Order>) -> Self {
        Self { queue, held: None, closed: Vec::new() }
    }

    /// Waits for the first job of a group; `None` when there will be none.
    fn first(&mut self) -> Option<Box<dyn Job>> {
        if let Some(job) = self.held.take() {
            return Some(job);
        }
        loop {
            match self.queue.blocking_recv()? {
                Order::Job(job) | Order::Alone(job) => return Some(job),
                Order::Close(tell) => self.close(tell),
            }
        }
    }

    /// The next job of the group that is waiting already.
    fn next(&mut self) -> Option<Box<dyn Job>> {
        if self.held.is_some() {
            return None;
        }
        loop {
            match self.queue.try_recv().ok()? {
                Order::Job(job) => return Some(job),
                Order::Alone(job) => {
                    self.held = Some(job);
                    return None;
                }
                Order::Close(tell) => self.close(tell),
            }
        }
    }

    fn close(&mut self, tell: oneshot::Sender<()>) {
        self.closed.push(tell);
        self.queue.close();
    }
}

/// Runs a job before which nothing was written.
fn alone(tx: &Transaction<'_>, job: &mut dyn Job) -> After {
    let keep = job.run(tx);
    match tx.is_autocommit() {
        true => rolled_back(),
        false if keep => After::Open,
        false => After::Empty,
    }
}

/// A full disk or a failing one makes SQLite roll the whole transaction back; so does a job that meddles with it.
fn rolled_back() -> After {
    After::Broken(rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL),
        Some("the transaction was rolled back while a job ran".to_owned()),
    ))
}

fn in_savepoint(tx: &Transaction<'_>, job: &mut dyn Job) -> After {
    let statement = |sql| tx.prepare_cached(sql).and_then(|mut statement| statement.execute([]));
    if let Err(error) = statement("SAVEPOINT _waybill_job") {
        return After::Broken(error);
    }
    let keep = job.run(tx);
    if tx.is_autocommit() {
        return rolled_back();
    }
    let ended = if keep {
        statement("RELEASE _waybill_job")
    } else {
        statement("ROLLBACK TO _waybill_job").and_then(|_| statement("RELEASE _waybill_job"))
    };
    match ended {
        Ok(_) => After::Open,
        Err(error) => After::Broken(error),
    }
}

/// A job, and who waits for it.
pub(crate) struct Waiting<T, E, F> {
    job: Option<F>,
    outcome: Option<Outcome<T, E>>,
    reply: oneshot::Sender<Result<Result<T, E>, StoreError>>,
}

enum Outcome<T, E> {
    Returned(Result<T, E>),
    Panicked(String),
}

impl<T, E, F> Waiting<T, E, F> {
    pub(crate) fn new(job: F, reply: oneshot::Sender<Result<Result<T, E>, StoreError>>) -> Self {
        Self { job: Some(job), outcome: None, reply }
    }
}

impl<T, E, F> Job for Waiting<T, E, F>
where
    T: Send + 'static,
    E: Send + 'static,
    F: FnOnce(&Transaction<'_>) -> Result<T, E> + Send + 'static,
{
    fn run(&mut self, tx: &Transaction<'_>) -> bool {
        let job = self.job.take().expect("a job runs once");
        // What the job left half done is rolled back with its savepoint; its own captures are gone with it.
        let outcome = match catch_unwind(AssertUnwindSafe(|| job(tx))) {
            Ok(result) => Outcome::Returned(result),
            Err(panic) => Outcome::Panicked(panic_text(panic.as_ref())),
        };
        let keep = matches!(outcome, Outcome::Returned(Ok(_)));
        self.outcome = Some(outcome);
        keep
    }

    fn reply(self: Box<Self>, path: &str, failure: Option<&rusqlite::Error>) {
        let answer = match (self.outcome, failure) {
            (Some(Outcome::Panicked(problem)), _) => Err(StoreError::Panicked { path: path.to_owned(), problem }),
            // The disk's fault, not the job's: the caller finds it where it looks for such faults.
            (Some(Outcome::Returned(Err(error))), _) => match as_disk_full(&error) {
                Some(full) => Err(StoreError::new(path, full)),
                None => Ok(Err(error)),
            },
            (Some(Outcome::Returned(Ok(value))), None) => Ok(Ok(value)),
            (Some(Outcome::Returned(Ok(_))) | None, Some(failure)) => Err(StoreError::new(path, copy_of(failure))),
            (None, None) => Err(StoreError::Closed { path: path.to_owned() }),
        };
        // A caller that no longer waits does not matter.
        drop(self.reply.send(answer));
    }
}

/// The error, when it is SQLite's and says that the disk is full.
fn as_disk_full(error: &dyn Any) -> Option<rusqlite::Error> {
    error.downcast_ref::<rusqlite::Error>().filter(|error| StoreError::is_disk_full(error)).map(copy_of)
}

fn copy_of(error: &rusqlite::Error) -> rusqlite::Error {
    match error {
        rusqlite::Error::SqliteFailure(code, text) => rusqlite::Error::SqliteFailure(*code, text.clone()),
        other => {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR);
            rusqlite::Error::SqliteFailure(code, Some(other.to_string()))
        }
    }
}

pub(crate) fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned())
}
