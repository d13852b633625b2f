//! Rotations on a schedule: every tenant's keys are replaced again and again, as a publisher does who takes security
//! seriously. With a grace the old tokens live on for a while beside the new ones; without one they die at once.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use tokio_util::sync::CancellationToken;

use crate::keys::Keys;

/// When keys are replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// From one rotation to the next.
    pub every: Duration,
    /// How long what the old keys signed stays good; shorter than `every`.
    pub grace: Duration,
}

/// Rotates until `stop`.
pub(crate) async fn run(keys: Arc<Keys>, schedule: Schedule, stop: CancellationToken) {
    let mut due = interval_at(Instant::now() + schedule.every, schedule.every);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let rotations = async {
        loop {
            due.tick().await;
            let rotated = keys.rotate_keeping(None).expect("no tenant is named that could be unknown");
            tracing::info!(grace_s = schedule.grace.as_secs(), "the keys of all tenants were replaced");
            sleep(schedule.grace).await;
            keys.end_grace(rotated);
        }
    };
    stop.run_until_cancelled(rotations).await;
}

#[cfg(test)]
mod tests {
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
        let rotating = run(Arc::clone(&keys), Schedule { every, grace }, stop.clone());
        let watching = async {
            let mut revoked = keys.revocations();
            let mut last = keys.bus_token("acme", "localhost", END).unwrap();
            let signature = keys.check_bus(&last, "jobs", END - 60).unwrap().signature;
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
                assert!(keys.is_revoked(&signature), "of the first, and ever after");
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
        let rotating = run(Arc::clone(&keys), schedule, stop.clone());
        let watching = async {
            sleep(Duration::from_millis(1_010)).await;
            assert!(!good(&keys, &old));
            assert!(good(&keys, &keys.bus_token("acme", "localhost", END).unwrap()));
            stop.cancel();
        };
        tokio::join!(rotating, watching);
    }
}
