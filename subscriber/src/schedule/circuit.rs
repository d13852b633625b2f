//! A dependency's retry clock: while it is down, nobody tries; then one does, for all.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::grants::jittered;

const PAUSE: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A dependency that asks for more is tried after this.
const ASKED_MAX: Duration = Duration::from_secs(600);
/// The first pause of a file that failed by its own fault; doubled with each try.
pub(crate) const FILE_PAUSE: Duration = Duration::from_secs(1);
const FILE_PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// How long a file that failed by its own fault waits, after so many tries before.
pub(crate) fn own_pause(attempts: u32) -> Duration {
    jittered(FILE_PAUSE.saturating_mul(1 << attempts.min(16)).min(FILE_PAUSE_MAX))
}

/// What a file needs beside itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dependency {
    /// Blob Storage and the tokens for it.
    Storage,
    /// Where rows go.
    Sink,
    /// Our own table of files.
    Inbox,
}

impl Dependency {
    pub(crate) const ALL: [Self; 3] = [Self::Storage, Self::Sink, Self::Inbox];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Storage => "storage",
            Self::Sink => "sink",
            Self::Inbox => "inbox",
        }
    }
}

/// A clock each: files are leased while all of them are without a fault, as a file needs all.
#[derive(Debug, Default)]
pub(crate) struct Circuits {
    storage: Circuit,
    sink: Circuit,
    inbox: Circuit,
}

impl Circuits {
    pub(crate) fn of(&self, dependency: Dependency) -> &Circuit {
        match dependency {
            Dependency::Storage => &self.storage,
            Dependency::Sink => &self.sink,
            Dependency::Inbox => &self.inbox,
        }
    }

    /// How long nobody may try; zero when somebody may.
    pub(crate) fn closed_in(&self) -> Duration {
        self.all().map(Circuit::closed_in).max().unwrap_or_default()
    }

    /// Whether the last thing known of one of them is a failure.
    pub(crate) fn on_trial(&self) -> bool {
        self.all().any(Circuit::on_trial)
    }

    fn all(&self) -> impl Iterator<Item = &Circuit> {
        [&self.storage, &self.sink, &self.inbox].into_iter()
    }
}

/// The clock. Starts without a fault.
#[derive(Debug, Default)]
pub(crate) struct Circuit {
    state: Mutex<State>,
    opened: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// It worked since it last failed, or for the first time.
    works: bool,
    failures: u32,
    closed_until: Option<Instant>,
    /// It answered somebody who only looked, since its pause was over.
    answered: bool,
}

impl Circuit {
    /// The dependency failed; `after` is what it asked for. Failures of files that were under way together count once.
    /// Answers whether it was seen to work since the failure before: then the fault may be the file's own.
    pub(crate) fn failed(&self, after: Option<Duration>) -> bool {
        let mut state = self.state.lock().expect("no panic while the circuit is held");
        let worked = std::mem::take(&mut state.works);
        state.answered = false;
        let now = Instant::now();
        let asked = after.unwrap_or_default().min(ASKED_MAX);
        if let Some(until) = state.closed_until.filter(|until| *until > now) {
            // Part of the same outage; only a longer wait that was asked for is news.
            state.closed_until = Some(until.max(now + asked));
            return worked;
        }
        let pause = PAUSE.saturating_mul(1 << state.failures.min(16)).min(PAUSE_MAX);
        state.failures = state.failures.saturating_add(1);
        self.opened.fetch_add(1, Ordering::Relaxed);
        state.closed_until = Some(now + asked.max(jittered(pause)));
        worked
    }

    /// How long a file waits that met the failure, and whether that counts as a try of it. What works for other files and
    /// fails with this one, time and again, is this file's fault in the end; in an outage nothing works.
    pub(crate) fn put_off(&self, worked_before: bool, attempts: u32) -> (Duration, bool) {
        // The circuit says when somebody tries; the file is ready for it.
        let closed = self.closed_in();
        (if worked_before { closed.max(own_pause(attempts)) } else { closed }, worked_before)
    }

    /// The dependency works.
    pub(crate) fn worked(&self) {
        *self.state.lock().expect("no panic while the circuit is held") = State { works: true, ..State::default() };
    }

    /// Some of a file came: nobody has to wait for its end to hear that. During a pause it says nothing, and a dependency that gives a
    /// little each time and then fails is waited for longer and longer all the same.
    pub(crate) fn delivers(&self) {
        let mut state = self.state.lock().expect("no panic while the circuit is held");
        if state.closed_until.is_none_or(|until| until <= Instant::now()) {
            (state.works, state.answered, state.closed_until) = (true, true, None);
        }
    }

    /// The dependency answered somebody who only looked, which is less than to work: one file goes first all the same. During a
    /// pause it says nothing.
    pub(crate) fn answered(&self) {
        let mut state = self.state.lock().expect("no panic while the circuit is held");
        if state.closed_until.is_none_or(|until| until <= Instant::now()) {
            state.answered = true;
        }
    }

    /// Whether the dependency is down, as far as is known: it failed, and answered nobody since.
    pub(crate) fn in_trouble(&self) -> bool {
        let state = self.state.lock().expect("no panic while the circuit is held");
        state.failures > 0 && !state.answered
    }

    /// How long nobody may try; zero when somebody may.
    pub(crate) fn closed_in(&self) -> Duration {
        let state = self.state.lock().expect("no panic while the circuit is held");
        state.closed_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()))
    }

    /// How often a pause began.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Whether the last thing known of the dependency is a failure.
    pub(crate) fn on_trial(&self) -> bool {
        let state = self.state.lock().expect("no panic while the circuit is held");
        state.failures > 0 && !state.works
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
        assert_eq!(circuit.opened(), 21);
        assert!(longest > PAUSE_MAX / 2 && longest <= PAUSE_MAX, "{longest:?}");
        circuit.worked();
        assert!(!circuit.on_trial());
        assert_eq!(circuit.closed_in(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_first_failure_after_it_worked_may_be_a_files_own() {
        let circuit = Circuit::default();
        assert!(!circuit.failed(None), "nobody saw it work");
        circuit.worked();
        assert!(circuit.failed(None));
        assert!(!circuit.failed(None), "under way together");
        tokio::time::advance(circuit.closed_in()).await;
        assert!(!circuit.failed(None), "still down");
        circuit.worked();
        assert!(circuit.failed(None));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_a_look_ends_the_trouble_and_not_the_trial() {
        let circuit = Circuit::default();
        circuit.answered();
        circuit.failed(None);
        circuit.answered();
        assert!(circuit.in_trouble(), "during the pause nobody is asked");
        tokio::time::advance(circuit.closed_in()).await;
        assert!(circuit.in_trouble(), "nobody knows yet");
        circuit.answered();
        assert!(!circuit.in_trouble() && circuit.on_trial());
        assert!(!circuit.failed(None), "an answer is not to have worked");
        assert!(circuit.in_trouble() && circuit.closed_in() > PAUSE / 2, "the pause goes on growing");
        circuit.worked();
        assert!(!circuit.in_trouble() && !circuit.on_trial());
    }

    #[tokio::test(start_paused = true)]
    async fn who_delivers_some_ends_the_trial_and_neither_a_pause_nor_its_growing() {
        let circuit = Circuit::default();
        for _ in 0..5 {
            circuit.failed(None);
            tokio::time::advance(circuit.closed_in()).await;
        }
        circuit.delivers();
        assert!(!circuit.on_trial() && !circuit.in_trouble());
        assert!(circuit.failed(None), "it was seen to work");
        let pause = circuit.closed_in();
        assert!(pause > 8 * PAUSE, "{pause:?}");
        circuit.delivers();
        assert_eq!(circuit.closed_in(), pause, "a file that was opened before says nothing of what comes");
        assert!(circuit.on_trial());
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_asks_for_is_obeyed() {
        let circuit = Circuit::default();
        circuit.failed(Some(Duration::from_secs(90)));
        assert_eq!(circuit.closed_in(), Duration::from_secs(90));
    }

    #[tokio::test(start_paused = true)]
    async fn four_files_that_are_told_to_wait_are_one_failure() {
        let circuit = Circuit::default();
        for _ in 0..4 {
            circuit.failed(Some(Duration::from_millis(1)));
        }
        tokio::time::advance(circuit.closed_in()).await;
        circuit.failed(None);
        assert!(circuit.closed_in() <= PAUSE * 2, "the second failure, not the fifth: {:?}", circuit.closed_in());
    }

    #[tokio::test(start_paused = true)]
    async fn one_dependency_that_works_does_not_hide_another_that_does_not() {
        let circuits = Circuits::default();
        circuits.of(Dependency::Sink).failed(None);
        circuits.of(Dependency::Storage).worked();
        circuits.of(Dependency::Inbox).worked();
        assert!(circuits.on_trial() && circuits.closed_in() > Duration::ZERO);
        circuits.of(Dependency::Sink).worked();
        assert!(!circuits.on_trial() && circuits.closed_in() == Duration::ZERO);
    }
}
