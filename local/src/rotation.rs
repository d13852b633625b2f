//! Rotations of keys: now or on a schedule, as a publisher does who takes security seriously. With a grace the old tokens
//! live on for a while beside the new ones; without one they die at once.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::keys::{KeyError, Keys, Rotation};

/// Rotations within their grace at one time.
const GRACES_MAX: usize = 1_000;
/// Longer than any process lives; what no clock can hold is cut to it.
const GRACE_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);

/// When keys are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// From one rotation to the next.
    pub every: Duration,
    /// How long what the old keys signed stays good; shorter than `every`.
    pub grace: Duration,
}

/// Rotates keys, and ends graces in their time.
pub(crate) struct Rotations {
    keys: Arc<Keys>,
    graces: Mutex<Vec<(Instant, Rotation)>>,
    changed: Notify,
}

impl Rotations {
    pub(crate) fn new(keys: Arc<Keys>) -> Self {
        Self { keys, graces: Mutex::default(), changed: Notify::new() }
    }

    /// Gives one tenant, or all with `None`, new keys; tokens from before are refused once `grace` is over.
    ///
    /// # Errors
    /// [`KeyError`]: no such tenant, or too many rotations within their grace.
    pub(crate) fn rotate(&self, tenant: Option<&str>, grace: Duration) -> Result<(), KeyError> {
        if grace.is_zero() {
            return self.keys.rotate(tenant);
        }
        let mut graces = self.graces();
        if graces.len() >= GRACES_MAX {
            return Err(KeyError::Graces(GRACES_MAX));
        }
        let rotation = self.keys.rotate_keeping(tenant)?;
        graces.push((Instant::now() + grace.min(GRACE_MAX), rotation));
        self.changed.notify_one();
        Ok(())
    }

    /// Rotates by the schedule, if there is one, and ends graces, until `stop`.
    pub(crate) async fn run(&self, schedule: Option<Schedule>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.end_graces() => {}
            () = self.keep(schedule) => {}
        }
    }

    async fn keep(&self, schedule: Option<Schedule>) {
        let Some(Schedule { every, grace }) = schedule else { return std::future::pending().await };
        let mut due = interval_at(Instant::now() + every, every);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            due.tick().await;
            match self.rotate(None, grace) {
                Ok(()) => tracing::info!(grace_s = grace.as_secs(), "the keys of all tenants were replaced"),
                Err(error) => tracing::error!(%error, "the keys of all tenants could not be replaced"),
            }
        }
    }

    async fn end_graces(&self) {
        loop {
            let next = self.graces().iter().map(|(ends, _)| *ends).min();
            tokio::select! {
                () = self.changed.notified() => {}
                () = async { sleep_until(next.unwrap_or_else(Instant::now)).await }, if next.is_some() => {
                    let now = Instant::now();
                    let over: Vec<_> = self.graces().extract_if(.., |(ends, _)| *ends <= now).collect();
                    for (_, rotation) in over {
                        self.keys.end_grace(rotation);
                    }
                }
            }
        }
    }

    fn graces(&self) -> MutexGuard<'_, Vec<(Instant, Rotation)>> {
        self.graces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    const END: i64 = 1_800_000_000;

    fn good(keys: &Keys, token: &str) -> bool {
        keys.check_bus(token, "jobs", END - 60).is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn old_tokens_live_through_the_grace_and_no_longer() {
        let keys = Arc::new(Keys::emulator());
        keys.add_tenant("acme", "jobs");
        let (every, grace) = (Duration::from_secs(60), Duration::from_secs(20));
        let stop = CancellationToken::new();
        let rotations = Rotations::new(Arc::clone(&keys));
        let rotating = rotations.run(Some(Schedule { every, grace }), stop.clone());
        let watching = async {
            let mut revoked = keys.revocations();
            let mut last = keys.bus_token("acme", "localhost", END).unwrap();
            let first = keys.check_bus(&last, "jobs", END - 60).unwrap();
            sleep(Duration::from_millis(59_999)).await;
            assert_eq!(keys.bus_token("acme", "localhost", END).unwrap(), last, "not before its time");
            for _ in 0..3 {
                sleep(Duration::from_millis(2)).await;
                let fresh = keys.bus_token("acme", "localhost", END).unwrap();
                assert_ne!(fresh, last);
                assert!(good(&keys, &last) && good(&keys, &fresh));
                revoked.mark_unchanged();
                sleep(Duration::from_millis(19_997)).await;
                assert!(good(&keys, &last));
                sleep(Duration::from_millis(4)).await;
                assert!(!good(&keys, &last) && good(&keys, &fresh));
                assert!(revoked.has_changed().unwrap(), "links that use it are told");
                revoked.mark_unchanged();
                assert!(keys.is_revoked(&first), "of the first, and ever after");
                last = fresh;
                sleep(Duration::from_millis(39_997)).await;
            }
            stop.cancel();
        };
        tokio::join!(rotating, watching);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_grace_the_old_tokens_die_with_the_rotation() {
        let keys = Arc::new(Keys::emulator());
        keys.add_tenant("acme", "jobs");
        let old = keys.bus_token("acme", "localhost", END).unwrap();
        let stop = CancellationToken::new();
        let schedule = Schedule { every: Duration::from_secs(1), grace: Duration::ZERO };
        let rotations = Rotations::new(Arc::clone(&keys));
        let rotating = rotations.run(Some(schedule), stop.clone());
        let watching = async {
            sleep(Duration::from_millis(1_010)).await;
            assert!(!good(&keys, &old));
            assert!(good(&keys, &keys.bus_token("acme", "localhost", END).unwrap()));
            stop.cancel();
        };
        tokio::join!(rotating, watching);
    }
}
