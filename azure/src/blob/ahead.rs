//! How many ranges of a download are under way at once: what it may have, and what it gains by.
//!
//! One range in flight is enough where the reader is the bound, and where storage's link is. More of them help where each
//! connection, or each request, has its own limit. Which of these holds is not known beforehand, so it is tried: when the
//! reader waits for the network, as many as there may be are opened, and go on if that brought more bytes.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// Nobody opens more ranges for so long after storage said that it is too busy, or for longer if it said so.
const CALM_MIN: Duration = Duration::from_secs(10);
/// A longer time is cut to this.
const CALM_MAX: Duration = Duration::from_secs(600);

/// What all downloads that share it may read ahead: ranges beside the first of each, and so the bytes that wait in memory for
/// their turn. Give one to a [`Container`](super::Container) with [`reading_ahead`](super::Container::reading_ahead).
#[derive(Debug)]
pub struct ReadAhead {
    places: Arc<Semaphore>,
    ranges_max: usize,
    range_bytes: u64,
    /// What a download begins with.
    begin_with: usize,
    calm_until: Mutex<Option<Instant>>,
    /// Downloads that would have more than one range now.
    starved: AtomicUsize,
}

/// The place of one range, until it is dropped.
pub(super) type AheadPlace = OwnedSemaphorePermit;

impl ReadAhead {
    /// At most `ranges_max` ranges of `range_bytes` each; 0 is none.
    #[must_use]
    pub fn new(ranges_max: usize, range_bytes: u64) -> Self {
        let ranges_max = ranges_max.min(Semaphore::MAX_PERMITS);
        let places = Arc::new(Semaphore::new(ranges_max));
        Self {
            places,
            ranges_max,
            range_bytes: range_bytes.max(1),
            begin_with: 1,
            calm_until: Mutex::default(),
            starved: AtomicUsize::new(0),
        }
    }

    /// For tests: nothing is tried, all of them are opened at once.
    #[cfg(test)]
    pub(super) fn at_once(self) -> Self {
        Self { begin_with: self.ranges_max + 1, ..self }
    }

    /// Ranges that are under way now, or wait in memory.
    #[must_use]
    pub fn ranges(&self) -> usize {
        self.ranges_max - self.places.available_permits()
    }

    pub(super) fn range_bytes(&self) -> u64 {
        self.range_bytes
    }

    /// A place if one is free, which nobody waits for: the first range of a download needs none. `has`: how many places the
    /// download has; it gets no more than its share while others starve too.
    pub(super) fn place(&self, has: usize) -> Option<AheadPlace> {
        if has >= self.ranges_max.div_ceil(self.starved.load(Ordering::Relaxed).max(1)) {
            return None;
        }
        let calm_until = *self.calm_until.lock().unwrap_or_else(PoisonError::into_inner);
        if calm_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Storage is too busy.
    pub(super) fn throttled(&self, retry_after: Option<Duration>) {
        let until = Instant::now() + retry_after.unwrap_or_default().clamp(CALM_MIN, CALM_MAX);
        let mut calm_until = self.calm_until.lock().unwrap_or_else(PoisonError::into_inner);
        *calm_until = Some(calm_until.map_or(until, |known| known.max(until)));
    }
}

impl Default for ReadAhead {
    /// None.
    fn default() -> Self {
        Self::new(0, 1)
    }
}

/// A shorter time says nothing.
const PERIOD_MIN: Duration = Duration::from_millis(20);
/// A reader that waits for this share of the time has a use for more.
const STARVED: f64 = 0.5;
/// One that waits for less than this has a use for fewer, after so many periods.
const SATED: f64 = 0.05;
const SATED_PERIODS: u32 = 8;
/// What all of them must bring, as many times the bytes of one, to go on.
const GAIN_MIN: f64 = 1.2;

/// A download would have more than one range, until it is dropped.
#[derive(Debug)]
struct Starves(Arc<ReadAhead>);

impl Starves {
    fn new(ahead: &Arc<ReadAhead>) -> Self {
        ahead.starved.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(ahead))
    }
}

impl Drop for Starves {
    fn drop(&mut self) {
        self.0.starved.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many ranges one download has under way, the first one among them.
#[derive(Debug)]
pub(super) struct Width {
    ahead: Arc<ReadAhead>,
    now: usize,
    most: usize,
    starves: Option<Starves>,
    /// In this period there was no place for a range.
    lacked: bool,
    /// A period is at least so many bytes for each range.
    period_bytes: u64,
    since: Instant,
    bytes: u64,
    waited: Duration,
    /// The number has just changed: this period says nothing.
    settling: bool,
    /// They are tried: bytes a second of one alone.
    alone: Option<f64>,
    sated: u32,
}

impl Width {
    /// Of a download whose first range was asked for at `since`.
    pub(super) fn new(ahead: &Arc<ReadAhead>, since: Instant) -> Self {
        Self {
            ahead: Arc::clone(ahead),
            now: ahead.begin_with,
            most: ahead.ranges_max + 1,
            starves: (ahead.begin_with > 1).then(|| Starves::new(ahead)),
            lacked: false,
            period_bytes: (ahead.range_bytes / 4).max(1),
            since,
            bytes: 0,
            waited: since.elapsed(),
            settling: false,
            alone: None,
            sated: 0,
        }
    }

    pub(super) fn ranges(&self) -> usize {
        self.now
    }

    /// So many bytes came; whether the number of ranges is another one now.
    pub(super) fn came(&mut self, bytes: usize, now: Instant) -> bool {
        self.bytes += bytes as u64;
        let took = now.saturating_duration_since(self.since);
        if self.most == 1 || took < PERIOD_MIN || self.bytes < self.period_bytes * self.now as u64 {
            return false;
        }
        let (rate, waited) = (self.bytes as f64 / took.as_secs_f64(), self.waited.as_secs_f64() / took.as_secs_f64());
        let lacked = self.lacked;
        self.begin_period(now);
        if std::mem::take(&mut self.settling) {
            return false;
        }
        let ranges = self.after_period(rate, waited, lacked);
        self.settling = ranges != self.now;
        self.set(ranges);
        self.settling
    }

    /// There is no place for a range that it would have.
    pub(super) fn lacks(&mut self) {
        self.lacked = true;
    }

    fn set(&mut self, ranges: usize) {
        self.now = ranges;
        if ranges == 1 {
            self.starves = None;
        } else if self.starves.is_none() {
            self.starves = Some(Starves::new(&self.ahead));
        }
    }

    /// The reader waited for the network.
    pub(super) fn waited(&mut self, time: Duration) {
        self.waited += time;
    }

    /// A range that was opened beside the first one broke off: with fewer of them there is less of that.
    pub(super) fn broke_off(&mut self, now: Instant) {
        if self.now > 1 {
            self.most = (self.now / 2).max(1);
            self.alone(now);
        }
    }

    /// One range, until the reader is starved by it.
    pub(super) fn alone(&mut self, now: Instant) {
        (self.alone, self.settling, self.sated) = (None, false, 0);
        self.set(1);
        self.begin_period(now);
    }

    fn begin_period(&mut self, now: Instant) {
        (self.since, self.bytes, self.waited, self.lacked) = (now, 0, Duration::ZERO, false);
    }

    fn after_period(&mut self, rate: f64, waited: f64, lacked: bool) -> usize {
        if self.alone.take().is_some_and(|alone| waited >= STARVED && rate < alone * GAIN_MIN) {
            // Where some had no place, it was no trial: there may be one later.
            if !lacked {
                self.most = 1;
            }
            return 1;
        }
        self.sated = if waited < SATED { self.sated + 1 } else { 0 };
        if waited >= STARVED && self.now < self.most {
            self.alone = (self.now == 1).then_some(rate);
            self.most
        } else if self.sated >= SATED_PERIODS {
            self.sated = 0;
            (self.now - 1).max(1)
        } else {
            self.now
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A download of so many ranges in one way of the world: how many bytes a second come, and which share of the time the
    /// reader waits.
    struct Course {
        width: Width,
        now: Instant,
    }

    impl Course {
        fn new(ranges_max: usize) -> Self {
            let now = Instant::now();
            Self { width: Width::new(&Arc::new(ReadAhead::new(ranges_max, 4 * MIB)), now), now }
        }

        /// Each range brings 10 MiB a second, all together `most` at most; the reader takes `reader`.
        fn go(&mut self, seconds: u32, most: f64, reader: f64) -> usize {
            for _ in 0..seconds * 100 {
                let network = (10.0 * self.width.ranges() as f64).min(most);
                let rate = network.min(reader);
                self.now += Duration::from_millis(10);
                self.width.waited(Duration::from_millis(10).mul_f64(1.0 - rate / reader));
                self.width.came((rate / 100.0 * MIB as f64) as usize, self.now);
            }
            self.width.ranges()
        }
    }

    #[test]
    fn a_starved_reader_gets_more_ranges_and_no_more_than_there_may_be() {
        for most in [1, 2, 3, 4, 8] {
            assert_eq!(Course::new(most).go(10, 1000.0, 1000.0), most + 1, "so many beside the first one");
        }
        assert_eq!(Course::new(0).go(10, 1000.0, 1000.0), 1);
    }

    #[test]
    fn one_is_enough_where_the_reader_is_the_bound() {
        let mut course = Course::new(8);
        for _ in 0..100 {
            assert_eq!(course.go(1, 1000.0, 9.0), 1);
        }
    }

    #[test]
    fn more_are_given_up_where_they_bring_nothing() {
        let mut course = Course::new(8);
        assert_eq!(course.go(10, 10.0, 1000.0), 1, "the link is the bound");
        assert_eq!(Course::new(8).go(10, 20.0, 1000.0), 9, "two would fill it: all are tried, and are better than one");
    }

    #[test]
    fn a_reader_that_becomes_slow_gives_them_back() {
        let mut course = Course::new(4);
        assert_eq!(course.go(10, 1000.0, 1000.0), 5);
        assert_eq!(course.go(60, 1000.0, 5.0), 1);
    }

    #[test]
    fn ranges_that_break_off_are_fewer_next_time_and_in_the_end_there_is_one() {
        let mut course = Course::new(8);
        for most in [9, 4, 2, 1] {
            assert_eq!(course.go(10, 1000.0, 1000.0), most);
            course.width.broke_off(course.now);
            assert_eq!(course.width.ranges(), 1);
        }
        assert_eq!(course.go(10, 1000.0, 1000.0), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_free_again_when_it_is_dropped_and_none_is_while_storage_is_busy() {
        let ahead = ReadAhead::new(2, MIB);
        let places = [ahead.place(0).unwrap(), ahead.place(1).unwrap()];
        assert!(ahead.place(0).is_none());
        assert_eq!(ahead.ranges(), 2);
        drop(places);
        assert_eq!(ahead.ranges(), 0);
        ahead.throttled(Some(Duration::from_secs(30)));
        ahead.throttled(None);
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(ahead.place(0).is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(ahead.place(0).is_some());
        ahead.throttled(Some(Duration::from_secs(u64::MAX)));
        assert!(ahead.place(0).is_none());
        tokio::time::advance(CALM_MAX).await;
        assert!(ahead.place(0).is_some(), "as long as anybody may say");
    }

    #[test]
    fn a_trial_without_places_decides_nothing() {
        let mut course = Course::new(4);
        for _ in 0..2000 {
            course.now += Duration::from_millis(10);
            course.width.waited(Duration::from_millis(10));
            if course.width.ranges() > 1 {
                course.width.lacks();
            }
            course.width.came(100 << 10, course.now);
        }
        assert_eq!(course.go(10, 1000.0, 1000.0), 5, "once there are places");
    }

    #[test]
    fn downloads_that_starve_share_the_places() {
        let ahead = Arc::new(ReadAhead::new(4, MIB));
        let first = Starves::new(&ahead);
        let second = Starves::new(&ahead);
        let places = [ahead.place(0).unwrap(), ahead.place(1).unwrap()];
        assert!(ahead.place(2).is_none(), "it has half of them");
        assert!(ahead.place(0).is_some(), "the other one gets its own");
        drop(second);
        assert!(ahead.place(2).is_some());
        drop((first, places));
    }
}
