//! A dependency's retry clock: while it is down, nobody tries; then one does, for all.

use std::{sync::Mutex, time::Duration};

use tokio::time::Instant;

use crate::grants::jittered;

const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// The clock. Starts without a fault.
#[derive(Debug, Default)]
pub(crate) struct Circuit {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    closed_until: Option<Instant>,
}

impl Circuit {
    /// The dependency failed; `after` is what it asked for. Failures of files that were under way together count once.
    pub(crate) fn failed(&self, after: Option<Duration>) {
        let mut state = self.state.lock().expect("no panic while the circuit is held");
        let now = Instant::now();
        if state.closed_until.is_some_and(|until| until > now) && after.is_none() {
            return;
        }
        let pause = PAUSE.saturating_mul(1 << state.failures.min(16)).min(PAUSE_MAX);
        state.failures += 1;
        let wait = after.unwrap_or_default().max(jittered(pause));
        state.closed_until = Some(state.closed_until.map_or(now + wait, |until| until.max(now + wait)));
    }

    /// The dependency works.
    pub(crate) fn worked(&self) {
        *self.state.lock().expect("no panic while the circuit is held") = State::default();
    }

    /// How long nobody may try; zero when somebody may.
    pub(crate) fn closed_in(&self) -> Duration {
        let state = self.state.lock().expect("no panic while the circuit is held");
        state.closed_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// Whether the last thing known of the dependency is a failure.
    pub(crate) fn on_trial(&self) -> bool {
        self.state.lock().expect("no panic while the circuit is held").failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_of_one_outage_count_once_and_the_pause_grows_until_it_works() {
        let circuit = Circuit::default();
        assert!(!circuit.on_trial());
        circuit.failed(None);
        let first = circuit.closed_in();
        assert!(first > Duration::ZERO && first <= PAUSE, "{first:?}");
        circuit.failed(None);
        assert_eq!(circuit.closed_in(), first, "the second file of the same outage changes nothing");
        let mut longest = first;
        for _ in 0..20 {
            tokio::time::advance(circuit.closed_in()).await;
            assert_eq!(circuit.closed_in(), Duration::ZERO);
            circuit.failed(None);
            longest = longest.max(circuit.closed_in());
        }
        assert!(longest > PAUSE_MAX / 2 && longest <= PAUSE_MAX, "{longest:?}");
        circuit.worked();
        assert!(!circuit.on_trial());
        assert_eq!(circuit.closed_in(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_asks_for_is_obeyed() {
        let circuit = Circuit::default();
        circuit.failed(Some(Duration::from_secs(90)));
        assert_eq!(circuit.closed_in(), Duration::from_secs(90));
    }
}
