//! Whether a subscriber works, and whether it can do what it is there for: for whoever restarts it, and whoever is called
//! at night.
//!
//! It is live while its loops come round. An outage of anything around it makes it not ready, and never dead: nothing is
//! mended by a restart then.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

/// A subscriber's health at one moment.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// Loops that did not come round when they should have: a defect, or a machine that stands still.
    pub stuck: Vec<Problem>,
    /// What hinders it from doing its work now, without secrets.
    pub problems: Vec<Problem>,
}

impl Health {
    /// Whether the process works. If not, a restart helps, and loses nothing.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.stuck.is_empty()
    }

    /// Whether everything that it needs is there.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_live() && self.problems.is_empty()
    }
}

/// What is wrong with a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// Which part.
    pub part: Part,
    /// In words.
    pub problem: String,
}

impl Problem {
    pub(crate) fn new(part: Part, problem: impl Into<String>) -> Self {
        Self { part, problem: problem.into() }
    }
}

/// The parts that can be in trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Part {
    /// The subscriber itself: it has not begun, or has ended.
    Run,
    /// The link to the bus.
    Link,
    /// The tokens.
    Token,
    /// The inbox.
    Inbox,
    /// The sink.
    Sink,
    /// Storage.
    Storage,
}

/// Set by a loop to when it will come round again.
#[derive(Debug, Default)]
pub(crate) struct Alarm(Mutex<Option<Instant>>);

impl Alarm {
    pub(crate) fn set(&self, within: Duration) {
        self.put(Some(Instant::now() + within));
    }

    /// From now on it waits for somebody else, for however long that takes.
    pub(crate) fn rest(&self) {
        self.put(None);
    }

    /// By how much it is late.
    pub(crate) fn late(&self) -> Duration {
        let due = *self.0.lock().expect("no panic while it is held");
        due.map_or(Duration::ZERO, |due| Instant::now().saturating_duration_since(due))
    }

    fn put(&self, due: Option<Instant>) {
        *self.0.lock().expect("no panic while it is held") = due;
    }
}

/// How many tasks do something now.
#[derive(Debug, Default)]
pub(crate) struct Doing(Arc<AtomicU64>);

impl Doing {
    /// Until the answer is dropped.
    pub(crate) fn begin(&self) -> impl Drop + Send + Sync + use<> {
        struct Ending(Arc<AtomicU64>);
        impl Drop for Ending {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.0.fetch_add(1, Ordering::Relaxed);
        Ending(Arc::clone(&self.0))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_is_late_when_it_does_not_come_round_and_never_while_it_rests() {
        let alarm = Alarm::default();
        assert_eq!(alarm.late(), Duration::ZERO);
        alarm.set(Duration::from_secs(60));
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(alarm.late(), Duration::ZERO);
        tokio::time::advance(Duration::from_secs(11)).await;
        assert_eq!(alarm.late(), Duration::from_secs(10));
        alarm.set(Duration::ZERO);
        assert_eq!(alarm.late(), Duration::ZERO);
        alarm.rest();
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(alarm.late(), Duration::ZERO);
    }

    #[test]
    fn whoever_does_two_things_does_something_until_both_are_over() {
        let doing = Doing::default();
        let first = doing.begin();
        let second = doing.begin();
        drop(first);
        assert!(doing.is_on());
        drop(second);
        assert!(!doing.is_on());
    }
}
