//! What is worked next: leases what is due, works several files at once, and holds back while something behind them is
//! down. One outage is one retry clock, whatever number of files it touches.

mod circuit;
mod compare;
mod patience;
mod probe;
mod work;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use waybill_contracts::Reason;

pub(crate) use circuit::{Circuit, Circuits, Dependency, own_pause};
pub use compare::CompareError;
pub(crate) use compare::compare;
pub(crate) use patience::end_waits;
pub(crate) use probe::look_at;
pub(crate) use work::{CHECKPOINT_BYTES, SORT_BYTES, Workshop};

use crate::{
    figures::{Histogram, Tally},
    grants::jittered,
    inbox::{Inbox, InboxError, Leased, Pending, Wanted, WorkerId},
    receive::chain,
    sink::Sink,
};

/// Looks for work at least this often: another process may have saved some, or its lease may have lapsed.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Files of types that are not configured are looked for this often at most, when something arrived.
const SKIP_EVERY: Duration = Duration::from_secs(2);
/// And this often when nothing did: another process may have received.
const SKIP_ANYWAY: Duration = Duration::from_secs(30);
/// The end waits so long for the last of them; what is left is the next start's.
const SKIP_AT_END: Duration = Duration::from_secs(5);
/// What a lease that was asked for has, when files are to be given back.
const LAST_LEASE: Duration = Duration::from_millis(500);

/// What the working side has done so far.
#[derive(Debug, Default)]
pub struct WorkStats {
    /// Files worked to their end.
    pub files_done: AtomicU64,
    /// Files put aside for a person.
    pub files_quarantined: AtomicU64,
    /// Files whose time was over.
    pub files_expired: AtomicU64,
    /// Tries that ended early and are repeated.
    pub tries_put_off: AtomicU64,
    /// Large files of which all rows were read and sorted.
    pub files_sorted: AtomicU64,
    /// Sorted ones whose rows came in another order than those that had taken effect, and began again: rows that took effect are
    /// counted again, mostly as `ignored`.
    pub files_begun_again: AtomicU64,
    /// Rows, good and bad, brought into effect by this process.
    pub rows: AtomicU64,
    /// Those kept with their error.
    pub bad_rows: AtomicU64,
    /// Malformed ones that were left out, as `on_bad_row = "skip"` asks.
    pub left_out: AtomicU64,
    /// New rows.
    pub inserted: AtomicU64,
    /// Rows that replaced an older version.
    pub updated: AtomicU64,
    /// Deletions.
    pub deleted: AtomicU64,
    /// Rows no newer than what was there.
    pub ignored: AtomicU64,
    /// Rows superseded within their own commit.
    pub superseded: AtomicU64,
    /// Rows that the filter did not want.
    pub filtered: AtomicU64,
    /// Rows kept until their parent arrived.
    pub parked: AtomicU64,
    /// Parked rows that their parent brought into effect.
    pub released: AtomicU64,
    /// Rows in effect with a value that did not fit its column.
    pub rescued: AtomicU64,
    /// Commits of another worker that were met.
    pub fenced: AtomicU64,
    /// Bytes of blobs.
    pub stored_bytes: AtomicU64,
    /// Their plain bytes.
    pub plain_bytes: AtomicU64,
    /// Files that are read and sorted now.
    pub(crate) files_sorting: AtomicU64,
    pub(crate) quarantined_by: Tally<Reason>,
    /// By whose clock runs.
    pub(crate) put_off_by: Tally<&'static str>,
    /// From received to done.
    pub(crate) lag: Histogram,
}

/// A stop, in stages.
#[derive(Debug, Clone)]
pub(crate) struct Stages {
    /// Nothing new is begun.
    pub(crate) stop: CancellationToken,
    /// What is under way is given back.
    pub(crate) give_back: CancellationToken,
}

impl Stages {
    /// Begins when `stop` is cancelled, or by itself.
    pub(crate) fn of(stop: &CancellationToken) -> Self {
        Self { stop: stop.child_token(), give_back: CancellationToken::new() }
    }
}

/// Works files until a stop, or until so many were begun as are wanted; then those under way finish, or are given back.
pub(crate) async fn process<I: Inbox + Clone, S: Sink>(
    workshop: Arc<Workshop<I, S>>,
    worker: WorkerId,
    wanted: Wanted,
    files_in_flight_max: u32,
    admitted: Arc<Notify>,
    stages: &Stages,
) {
    let (mut files, types) = (JoinSet::new(), workshop.types.as_deref());
    tokio::select! {
        () = lease_files(&workshop, &worker, &wanted, files_in_flight_max, &admitted, stages, &mut files) => {}
        // Beside it: there may be a million of them, and no file that is wanted waits for their end.
        () = skip_others(&workshop.inbox, types, &admitted) => {}
        // What is being leased is waited for, to be given back at once. An inbox that does not answer holds up no stop: what it leased
        // all the same comes again when that lease ends.
        () = async {
            stages.give_back.cancelled().await;
            sleep(LAST_LEASE).await;
        } => {}
    }
    workshop.alarm.rest();
    tokio::select! {
        _ = timeout(SKIP_AT_END, skip_now(&workshop.inbox, types)) => {}
        () = stages.give_back.cancelled() => {}
    }
    while let Some(ended) = files.join_next().await {
        note_panic(ended);
    }
}

async fn lease_files<I: Inbox + Clone, S: Sink>(
    workshop: &Arc<Workshop<I, S>>,
    worker: &WorkerId,
    wanted: &Wanted,
    files_in_flight_max: u32,
    admitted: &Notify,
    Stages { stop, give_back }: &Stages,
    files: &mut JoinSet<()>,
) {
    let mut pause = Duration::ZERO;
    let mut left = wanted.limit.unwrap_or(u64::MAX);
    while !stop.is_cancelled() && left > 0 {
        workshop.alarm.set(Duration::ZERO);
        // Armed before looking, so that nothing saved in between is overlooked.
        let arrived = admitted.notified();
        tokio::pin!(arrived);
        arrived.as_mut().enable();

        let free = files_in_flight_max.saturating_sub(u32::try_from(files.len()).unwrap_or(u32::MAX));
        // While something is on trial, one file finds out for all.
        let on_trial = workshop.circuits.on_trial();
        let most = if on_trial { u32::from(files.is_empty()) } else { free };
        let most = most.min(u32::try_from(left).unwrap_or(u32::MAX));
        let held_back = workshop.circuits.closed_in();
        let mut wait = LOOK_AGAIN;
        if held_back > Duration::ZERO {
            wait = held_back;
        } else if most > 0 {
            match lease(&workshop.inbox, worker, most, wanted, on_trial).await {
                Ok(leased) => {
                    pause = Duration::ZERO;
                    left = left.saturating_sub(leased.len() as u64);
                    // It took something: nobody has to wait for the end of a long file to hear that.
                    if !leased.is_empty() {
                        workshop.circuits.of(Dependency::Inbox).worked();
                    }
                    // Fewer than asked for: nothing else is due now, so the next time counts.
                    let all = leased.len() < most as usize;
                    for file in leased {
                        let (workshop, give_back) = (Arc::clone(workshop), give_back.clone());
                        files.spawn(async move { workshop.work(file, give_back).await });
                    }
                    if all && let Ok(Pending { next_due_in: Some(due), .. }) = workshop.inbox.pending(wanted).await {
                        wait = wait.min(due.max(Duration::from_millis(1)));
                    }
                }
                Err(error) => {
                    tracing::error!(error = %chain(&error), "the inbox gives no work; trying again");
                    pause = (pause * 2).clamp(Duration::from_millis(200), Duration::from_secs(30));
                    wait = jittered(pause);
                }
            }
        }
        if left == 0 {
            return;
        }
        workshop.alarm.set(wait);
        // What arrives changes nothing while there is no place for it, or a clock has to run out.
        let deaf = most == 0 || held_back > Duration::ZERO || pause > Duration::ZERO;
        tokio::select! {
            () = stop.cancelled() => {}
            // A file ended: its place is free.
            Some(ended) = files.join_next() => note_panic(ended),
            () = &mut arrived, if !deaf => {}
            () = sleep(wait) => {}
        }
        while let Some(ended) = files.try_join_next() {
            note_panic(ended);
        }
    }
}

/// Takes what is due. While something is on trial, a file that has not failed yet is the better witness: those that failed may
/// fail for ever, and come first by their age.
pub(crate) async fn lease(
    inbox: &impl Inbox,
    worker: &WorkerId,
    most: u32,
    wanted: &Wanted,
    on_trial: bool,
) -> Result<Vec<Leased>, InboxError> {
    if on_trial && !wanted.untried {
        let leased = inbox.lease(worker, most, &Wanted { untried: true, ..wanted.clone() }).await?;
        if !leased.is_empty() {
            return Ok(leased);
        }
    }
    inbox.lease(worker, most, wanted).await
}

/// `work` catches what a file does; a panic that gets here is in the bookkeeping around it, and the lease lapses.
fn note_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a file's task ended by a defect; the file is tried again when its lease lapses");
    }
}

/// Puts files of types that nobody configured aside, where they can be listed: now, and when some may have come. Ends when it is
/// dropped; what the inbox is asked then may still take effect.
pub(crate) async fn skip_others(inbox: &impl Inbox, types: Option<&[String]>, admitted: &Notify) {
    loop {
        // Armed before looking, so that nothing saved in between is overlooked.
        let arrived = admitted.notified();
        tokio::pin!(arrived);
        arrived.as_mut().enable();
        skip_now(inbox, types).await;
        let soon = async {
            arrived.await;
            sleep(SKIP_EVERY).await;
        };
        tokio::select! {
            () = soon => {}
            () = sleep(SKIP_ANYWAY) => {}
        }
    }
}

/// Once.
pub(crate) async fn skip_now(inbox: &impl Inbox, types: Option<&[String]>) {
    let Some(types) = types else { return };
    match inbox.skip_other_types(types).await {
        Ok(0) => {}
        Ok(skipped) => tracing::info!(files = skipped, "skipped: outside the configured types"),
        Err(error) => tracing::warn!(error = %chain(&error), "files of other types were not skipped yet"),
    }
}

impl WorkStats {
    pub(crate) fn add(counter: &AtomicU64, more: u64) {
        counter.fetch_add(more, Ordering::Relaxed);
    }

    /// A file is sorted until what this gives is dropped.
    pub(crate) fn sorting(&self) -> UnderWay<'_> {
        Self::add(&self.files_sorting, 1);
        UnderWay(&self.files_sorting)
    }
}

/// Something that a gauge counts.
#[derive(Debug)]
pub(crate) struct UnderWay<'s>(&'s AtomicU64);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
