//! What a subscriber has done and holds, as plain numbers: for an embedder's own metrics.
//!
//! Nothing here is global: two subscribers in one process have each their own. Counters count since the subscriber was built
//! and only grow; reading them asks nobody. What waits is the inbox's to say: [`Subscriber::backlog`](crate::Subscriber::backlog).

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use time::OffsetDateTime;
use waybill_contracts::Reason;

pub use crate::cache::CacheFigures;
use crate::grants::RenewedBecause;

/// A subscriber's figures at one moment.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Figures {
    /// Of the subscription.
    pub messages: QueueFigures,
    /// Of its dead-letter queue.
    pub dead_letters: QueueFigures,
    /// How long ago anything was heard of the bus; `None` before the first time.
    pub last_contact: Option<Duration>,
    /// The tokens, when they come from TenantService.
    pub tokens: Option<TokenFigures>,
    /// Requests to storage.
    pub storage: StorageFigures,
    /// The cache of blobs, where there is one.
    pub cache: Option<CacheFigures>,
    /// Files.
    pub files: FileFigures,
    /// Their rows.
    pub rows: RowFigures,
    /// Storage, sink and inbox, in this order.
    pub circuits: Vec<CircuitFigures>,
    /// Commits of the sink that took effect, and how long each took, in seconds.
    pub commits: Distribution,
    /// Calls that the inbox's database failed.
    pub inbox_calls_failed: u64,
    /// Calls that the sink failed, because it was not available.
    pub sink_calls_failed: u64,
}

/// What was received from one queue of the bus.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct QueueFigures {
    /// Messages delivered to us, redeliveries among them.
    pub received: u64,
    /// New files.
    pub saved: u64,
    /// Messages kept as quarantined.
    pub quarantined: u64,
    /// Second messages for known files.
    pub duplicates: u64,
    /// Messages that we had already.
    pub redelivered: u64,
    /// Messages settled: completed.
    pub completed: u64,
    /// Messages given back, because they could not be saved.
    pub released: u64,
    /// Messages sent to the dead-letter queue, because they cannot be decoded.
    pub dead_lettered: u64,
    /// Dead letters that cannot be decoded and stay in their queue; each counts once per link.
    pub left_in_place: u64,
    /// Whether a link is attached now.
    pub attached: bool,
    /// Links that were opened.
    pub links: u64,
    /// Links and connections that were lost, or could not be opened, by the kind of error; each is followed by another try.
    pub lost: BTreeMap<&'static str, u64>,
    /// Seconds from the broker's time of a new file's message to ours; the two clocks may differ.
    pub enqueued_to_received: Distribution,
}

/// The tokens of a tenant.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct TokenFigures {
    /// How long the token for Service Bus lives on; zero when it is over.
    pub bus_remaining: Option<Duration>,
    /// How long the token for storage lives on.
    pub blob_remaining: Option<Duration>,
    /// Renewals, by why.
    pub renewals: BTreeMap<RenewedBecause, u64>,
    /// Requests to TenantService, by what came of them: `granted`, `refused` or `unavailable`.
    pub requests: BTreeMap<&'static str, u64>,
}

/// What went to storage and came from it.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct StorageFigures {
    /// Requests, each try by itself.
    pub requests: u64,
    /// Those among them without an answer, or with a refusal.
    pub failed: u64,
    /// Bytes that came.
    pub received_bytes: u64,
}

/// What became of files.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct FileFigures {
    /// Worked to their end.
    pub done: u64,
    /// Large ones that are read and sorted now: no row of theirs has taken effect in this try.
    pub sorting: u64,
    /// Large ones that were sorted, to take effect in the order of their keys.
    pub sorted: u64,
    /// Sorted ones whose rows came in another order after a change, and began again: their rows that had taken effect are counted
    /// again.
    pub begun_again: u64,
    /// Tries that ended early and are repeated, by whose clock runs: `storage`, `sink`, `inbox` or the `file`'s own.
    pub put_off: BTreeMap<&'static str, u64>,
    /// Put aside for a person, by why; without messages that are no waybill.
    pub quarantined: BTreeMap<Reason, u64>,
    /// Gone, and past their time.
    pub expired: u64,
    /// Seconds from received to done.
    pub received_to_done: Distribution,
}

/// What became of rows. Each is counted once, but for those that were parked, which are counted once more when they are
/// released and rescued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RowFigures {
    /// New rows.
    pub inserted: u64,
    /// Rows that replaced an older version.
    pub updated: u64,
    /// Deletions.
    pub deleted: u64,
    /// Rows no newer than what was there.
    pub ignored: u64,
    /// Rows superseded within their own commit.
    pub superseded: u64,
    /// Rows that a filter did not want.
    pub filtered: u64,
    /// Rows kept until their parent comes.
    pub parked: u64,
    /// Parked rows that took effect.
    pub released: u64,
    /// Rows in effect with a value that did not fit its column, and is in their `_rescued`.
    pub rescued: u64,
    /// Rows kept with their error.
    pub bad: u64,
    /// Malformed rows that were left out, as `on_bad_row = "skip"` asks.
    pub left_out: u64,
}

/// A dependency's circuit: while it is open, nobody tries; then one file does, for all.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CircuitFigures {
    /// `storage`, `sink` or `inbox`.
    pub dependency: &'static str,
    /// Whether the last thing known of the dependency is a failure: it answered nobody since.
    pub open: bool,
    /// When somebody tries again.
    pub tried_in: Duration,
    /// How often it was opened, each longer pause of an outage by itself.
    pub opened: u64,
}

/// How often things took how long: counts by upper bounds, as a histogram of Prometheus has them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Distribution {
    /// Upper bounds, and what is at most that and more than the bound before. What is more than the last bound is only in
    /// `count`.
    pub buckets: Vec<(f64, u64)>,
    /// Everything.
    pub count: u64,
    /// The sum of all.
    pub sum: f64,
}

/// Seconds, from the commit of a few rows to a backlog of a day.
const BOUNDS: [f64; 14] = [0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 86400.0];

/// A [`Distribution`] in the making.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BOUNDS.len()],
    count: AtomicU64,
    sum_micros: AtomicU64,
    /// The last one, in milliseconds and one more; 0 before the first.
    last_ms: AtomicU64,
}

impl Histogram {
    pub(crate) fn add(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        if let Some((_, bucket)) = BOUNDS.iter().zip(&self.buckets).find(|(bound, _)| seconds <= **bound) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.last_ms.store(u64::try_from(took.as_millis()).unwrap_or(u64::MAX).saturating_add(1), Ordering::Relaxed);
    }

    /// Clocks may differ: what seems to end before it began took no time.
    pub(crate) fn add_between(&self, from: OffsetDateTime, to: OffsetDateTime) {
        self.add((to - from).try_into().unwrap_or_default());
    }

    /// The last one that was added.
    pub(crate) fn last(&self) -> Option<Duration> {
        self.last_ms.load(Ordering::Relaxed).checked_sub(1).map(Duration::from_millis)
    }

    pub(crate) fn now(&self) -> Distribution {
        let buckets: Vec<_> =
            BOUNDS.iter().zip(&self.buckets).map(|(bound, count)| (*bound, count.load(Ordering::Relaxed))).collect();
        // Others add meanwhile, and no bucket may hold more than all.
        let count = self.count.load(Ordering::Relaxed).max(buckets.iter().map(|(_, count)| count).sum());
        Distribution { buckets, count, sum: self.sum_micros.load(Ordering::Relaxed) as f64 / 1e6 }
    }
}

/// Counters by a key of which there are few.
#[derive(Debug)]
pub(crate) struct Tally<K>(Mutex<BTreeMap<K, u64>>);

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord + Copy> Tally<K> {
    pub(crate) fn add(&self, key: K) {
        *self.0.lock().expect("no panic while it is held").entry(key).or_default() += 1;
    }

    pub(crate) fn all(&self) -> BTreeMap<K, u64> {
        self.0.lock().expect("no panic while it is held").clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_bucket_that_holds_it_and_in_the_sum() {
        let histogram = Histogram::default();
        assert_eq!(histogram.last(), None);
        for ms in [5, 6, 1000, 200_000_000] {
            histogram.add(Duration::from_millis(ms));
        }
        let Distribution { buckets, count, sum } = histogram.now();
        let held: Vec<_> = buckets.iter().filter(|(_, count)| *count > 0).copied().collect();
        assert_eq!(held, [(0.005, 1), (0.02, 1), (1.0, 1)], "more than a day is in none");
        assert_eq!(count, 4);
        assert!((sum - 200_001.011).abs() < 1e-6, "{sum}");
        assert_eq!(histogram.last(), Some(Duration::from_millis(200_000_000)));
    }

    #[test]
    fn clocks_that_differ_make_no_negative_time() {
        let histogram = Histogram::default();
        histogram.add_between(OffsetDateTime::UNIX_EPOCH + Duration::from_secs(5), OffsetDateTime::UNIX_EPOCH);
        let now = histogram.now();
        assert_eq!((now.count, now.sum), (1, 0.0));
    }
}
