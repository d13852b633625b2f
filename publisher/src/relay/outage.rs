//! One clock for an outage: how long nothing is tried, and how often it is told.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

use super::chain;

const DELAY_MIN: Duration = Duration::from_millis(100);
/// What only a person can mend is not tried more often than this.
const SLOW: Duration = Duration::from_secs(30);
/// A longer wait that somebody asks for is cut to this.
const ASKED_MAX: Duration = Duration::from_secs(3600);
/// After the first time, an outage is told this often.
const TOLD_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Outage {
    delay_max: Duration,
    backoff: Option<ExponentialBackoff>,
    until: Option<Instant>,
    told: Option<(Instant, u64)>,
}

impl Outage {
    pub(crate) fn new(delay_max: Duration) -> Self {
        Self { delay_max, backoff: None, until: None, told: None }
    }

    /// Until when nothing is tried.
    pub(crate) fn until(&self) -> Option<Instant> {
        self.until
    }

    /// A try failed: the next one is made later than after the one before.
    pub(crate) fn begin(&mut self, at_least: Option<Duration>, needs_person: bool) {
        let backoff = self.backoff.get_or_insert_with(|| {
            ExponentialBuilder::new()
                .with_min_delay(DELAY_MIN.min(self.delay_max))
                .with_max_delay(self.delay_max)
                .without_max_times()
                .with_jitter()
                .build()
        });
        let delay = backoff.next().unwrap_or(self.delay_max).max(at_least.unwrap_or_default().min(ASKED_MAX));
        let delay = if needs_person { delay.max(SLOW.min(self.delay_max)) } else { delay };
        self.until = Some(Instant::now() + delay);
    }

    /// The wait is over, a try may be made.
    pub(crate) fn over(&mut self) {
        self.until = None;
    }

    /// A try went well. Whether one had failed before.
    pub(crate) fn ended(&mut self) -> bool {
        self.until = None;
        let was = self.backoff.take().is_some();
        if let Some((_, times)) = self.told.take() {
            tracing::info!(failed_tries = times, "it goes on");
        }
        was
    }

    /// Says what failed: the first time, and then once a minute.
    pub(crate) fn tell(&mut self, what: &str, error: &(dyn std::error::Error + Send + Sync + 'static)) {
        let now = Instant::now();
        match &mut self.told {
            Some((last, times)) if now.duration_since(*last) < TOLD_EVERY => *times += 1,
            told => {
                let times = told.map_or(1, |(_, times)| times + 1);
                tracing::warn!(error = chain(error), tries = times, "{what}");
                *told = Some((now, times));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn waits_grow_with_jitter_up_to_the_limit_and_begin_anew_after_success() {
        let mut outage = Outage::new(Duration::from_secs(10));
        let mut waits = Vec::new();
        for _ in 0..12 {
            outage.begin(None, false);
            waits.push(outage.until().unwrap() - Instant::now());
            outage.over();
        }
        assert!(waits[0] >= DELAY_MIN && waits[0] <= 2 * DELAY_MIN, "{waits:?}");
        assert!(waits[11] >= Duration::from_secs(10) && waits[11] <= Duration::from_secs(20), "{waits:?}");
        assert!(outage.ended());
        outage.begin(None, false);
        assert!(outage.until().unwrap() - Instant::now() <= 2 * DELAY_MIN);
    }

    #[tokio::test(start_paused = true)]
    async fn the_broker_and_what_only_a_person_can_mend_are_given_their_time() {
        let mut outage = Outage::new(Duration::from_secs(60));
        outage.begin(Some(Duration::from_secs(10)), false);
        assert!(outage.until().unwrap() - Instant::now() >= Duration::from_secs(10));
        outage.begin(None, true);
        assert!(outage.until().unwrap() - Instant::now() >= SLOW);
        outage.begin(Some(Duration::MAX), false);
        assert_eq!(outage.until().unwrap() - Instant::now(), ASKED_MAX, "somebody means forever");
    }
}
