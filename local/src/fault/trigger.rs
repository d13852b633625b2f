//! At which of the events that fit a step fires.

use std::{num::NonZeroU32, time::Duration};

use tokio::time::Instant;

use super::later;

/// At which events a step fires: at the `nth` that fits and from there at each `every`-th, if chance agrees, until it was
/// `times` or the time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trigger {
    /// The first that counts: 1 is the next.
    pub nth: NonZeroU32,
    /// From then on each so many-th.
    pub every: NonZeroU32,
    /// How often at most; [`NonZeroU32::MAX`] has no end.
    pub times: NonZeroU32,
    /// Whether it fires at such an event; default always.
    pub chance: Option<Chance>,
    /// How long it may go on after it has fired first; default without end.
    pub lasts: Option<Duration>,
    /// Events do not count until so long after the installation.
    pub after: Duration,
}

impl Default for Trigger {
    /// Once, at the next event.
    fn default() -> Self {
        let one = NonZeroU32::MIN;
        Self { nth: one, every: one, times: one, chance: None, lasts: None, after: Duration::ZERO }
    }
}

/// A probability with the seed of its dice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chance {
    per_million: u32,
    seed: u64,
}

impl Chance {
    /// `probability` from 0 to 1, in steps of a millionth.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and a million")]
    pub fn new(probability: f64, seed: u64) -> Self {
        Self { per_million: (probability.clamp(0.0, 1.0) * 1e6).round() as u32, seed }
    }

    /// Whether it hits the event of this number: the same for the same seed and number, whatever else happens.
    fn hits(self, number: u64) -> bool {
        mix(self.seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15))) % 1_000_000
            < u64::from(self.per_million)
    }
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): each bit of the input changes half of the output's.
pub(crate) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// How far a step has come.
#[derive(Debug)]
pub(super) struct Progress {
    /// Events that fitted.
    seen: u64,
    /// How often it may still fire.
    left: u32,
    counts_from: Option<Instant>,
    ends: Option<Instant>,
}

impl Progress {
    pub(super) fn new(trigger: &Trigger) -> Self {
        let counts_from = (!trigger.after.is_zero()).then(|| later(trigger.after));
        Self { seen: 0, left: trigger.times.get(), counts_from, ends: None }
    }

    /// Whether it may still fire.
    pub(super) fn is_open(&self) -> bool {
        self.left > 0 && self.ends.is_none_or(|ends| Instant::now() < ends)
    }

    /// Counts an event that fits; whether the step fires at it, which is taken off what is left.
    pub(super) fn counts(&mut self, trigger: &Trigger) -> bool {
        if !self.is_open() || self.counts_from.is_some_and(|from| Instant::now() < from) {
            return false;
        }
        self.seen += 1;
        let first = u64::from(trigger.nth.get());
        let due = self.seen >= first && (self.seen - first).is_multiple_of(u64::from(trigger.every.get()));
        if !due || trigger.chance.is_some_and(|chance| !chance.hits(self.seen)) {
            return false;
        }
        self.fired();
        self.ends = self.ends.or_else(|| trigger.lasts.map(later));
        true
    }

    /// Takes one firing off what is left.
    pub(super) fn fired(&mut self) {
        if self.left < u32::MAX {
            self.left = self.left.saturating_sub(1);
        }
    }

    /// What was counted did not happen after all.
    pub(super) fn give_back(&mut self) {
        self.left = self.left.saturating_add(1);
    }

    pub(super) fn close(&mut self) {
        self.left = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(number: u32) -> NonZeroU32 {
        NonZeroU32::new(number).unwrap()
    }

    fn firings(trigger: Trigger, events: u64) -> Vec<u64> {
        let mut progress = Progress::new(&trigger);
        (1..=events).filter(|_| progress.counts(&trigger)).collect()
    }

    #[test]
    fn a_step_fires_at_the_nth_event_and_then_at_each_so_many_th_until_it_was_so_often() {
        let trigger = Trigger { nth: number(3), every: number(2), times: number(3), ..Trigger::default() };
        assert_eq!(firings(trigger, 20), [3, 5, 7]);
        assert_eq!(firings(Trigger::default(), 20), [1]);
        assert_eq!(firings(Trigger { times: NonZeroU32::MAX, ..Trigger::default() }, 4), [1, 2, 3, 4]);
    }

    #[test]
    fn the_same_seed_gives_the_same_faults_and_about_as_many_as_it_says() {
        let with = |probability, seed| Trigger {
            times: NonZeroU32::MAX,
            chance: Some(Chance::new(probability, seed)),
            ..Trigger::default()
        };
        let first = firings(with(0.1, 7), 10_000);
        assert_eq!(first, firings(with(0.1, 7), 10_000));
        assert_ne!(first, firings(with(0.1, 8), 10_000));
        assert!((800..1_200).contains(&first.len()), "{}", first.len());
        assert!(firings(with(0.0, 7), 10_000).is_empty());
        assert_eq!(firings(with(1.0, 7), 100).len(), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lasting_step_fires_at_every_event_from_its_first_until_its_time_is_over() {
        let lasts = Some(Duration::from_secs(5));
        let trigger = Trigger { nth: number(2), times: NonZeroU32::MAX, lasts, ..Trigger::default() };
        let mut progress = Progress::new(&trigger);
        let counts: Vec<bool> = (0..4).map(|_| progress.counts(&trigger)).collect();
        assert_eq!(counts, [false, true, true, true]);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(!progress.counts(&trigger) && !progress.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn events_before_a_steps_time_do_not_count() {
        let trigger = Trigger { nth: number(2), after: Duration::from_secs(5), ..Trigger::default() };
        let mut progress = Progress::new(&trigger);
        assert!(!progress.counts(&trigger) && !progress.counts(&trigger));
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(!progress.counts(&trigger) && progress.counts(&trigger));
    }
}
