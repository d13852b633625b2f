//! Scripted bad days: a script is a list of steps, each with something to wait for and something to do. The same script
//! runs from a test, from the configuration file, and against a running process over HTTP.
//!
//! The services tell what happens to them, in the middle of it (`Faults::on_blob`, `on_body`, `on_grant`, `on_token`, `on_bus`), and are
//! told what to do about it: a `ToDo`. What goes beyond the event itself is done by `Hands`. What fired is kept in a log that a test can read and await, so that no test needs to guess when a
//! fault has happened.

mod fits;
mod hands;
mod refusal;
mod script;
mod step;
mod to_do;
mod trigger;
mod what;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use time::OffsetDateTime;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{blob::BlobOperation, log::printable};

pub(crate) use hands::Hands;
pub use refusal::{Condition, Refusal, StorageCode};
pub use script::ScriptError;
pub(crate) use script::{Written, from_written, line_of};
pub(crate) use step::About;
pub use step::{BlobRequests, BusEvent, BusFrames, Step, When};
pub(crate) use to_do::{Cut, Fate, ToBody, ToDo};
pub(crate) use trigger::mix;
pub use trigger::{Chance, Trigger};
pub use what::{CutAt, NewOrder, Service, What, Whose};

use trigger::Progress;

/// Lines of the log that are kept; the count goes on.
const LOG_MAX: usize = 10_000;

/// Steps that wait at once: each event looks at all of them.
const STEPS_MAX: usize = 10_000;

/// A line of the log: a step that fired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fired {
    /// Counts all that fired, from 1.
    pub number: u64,
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The step, counted from 0 in the order in which steps were installed.
    pub step: usize,
    /// Its name, if the script gives it one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What was done.
    pub what: String,
    /// What fired it: the event with its blob, tenant, or entity and link.
    pub on: String,
    /// The connection of the event, as [`crate::broker::LinkInfo`] numbers those of the bus; HTTP connections are numbered by
    /// service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<u64>,
}

/// A step that may still fire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// The step, counted from 0 in the order in which steps were installed.
    pub step: usize,
    /// Its name, if the script gives it one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it will do.
    pub what: String,
    /// What it waits for.
    pub on: String,
}

/// The steps that are installed, and what has fired.
pub struct Faults {
    state: Mutex<State>,
    /// Whether a step waits for an event of the bus: all that the bus looks at while there is none.
    waits_for_bus: AtomicBool,
    hands: Hands,
    fired: watch::Sender<u64>,
    /// How often everything was cleared.
    clears: watch::Sender<u64>,
    timed: Notify,
}

#[derive(Default)]
struct State {
    /// By their number. Those that are done stay until there are too many.
    steps: BTreeMap<usize, Installed>,
    /// Number of the next.
    next_step: usize,
    log: VecDeque<Fired>,
    blob_down_until: Option<Instant>,
    tenant_down_until: Option<Instant>,
}

struct Installed {
    step: Arc<Step>,
    progress: Progress,
    due: Option<Instant>,
    cleared: bool,
}

impl State {
    fn waits_for_bus(&self) -> bool {
        self.steps.values().any(|installed| matches!(installed.step.when, When::Bus(_)) && installed.progress.is_open())
    }
}

/// What fired a step.
struct Source {
    on: String,
    connection: Option<u64>,
}

impl From<&str> for Source {
    fn from(on: &str) -> Self {
        Self { on: on.to_owned(), connection: None }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("fired", &*self.fired.borrow()).finish_non_exhaustive()
    }
}

impl Faults {
    pub(crate) fn new(hands: Hands) -> Self {
        Self {
            state: Mutex::default(),
            waits_for_bus: AtomicBool::new(false),
            hands,
            fired: watch::Sender::new(0),
            clears: watch::Sender::new(0),
            timed: Notify::new(),
        }
    }

    /// Adds steps to those that wait; what is due now fires before this returns.
    ///
    /// # Errors
    /// The first step that can never fire; nothing is installed then.
    pub fn install(&self, steps: impl IntoIterator<Item = Step>) -> Result<(), ScriptError> {
        let steps: Vec<Step> = steps.into_iter().collect();
        for (index, step) in steps.iter().enumerate() {
            let problem = step.problem().or_else(|| self.hands.problem(step));
            if let Some(problem) = problem {
                return Err(ScriptError::step(index, problem));
            }
        }
        let mut at_once = Vec::new();
        {
            let mut state = self.state();
            if state.steps.len() + steps.len() > STEPS_MAX {
                state.steps.retain(|_, installed| installed.progress.is_open());
            }
            if state.steps.len() + steps.len() > STEPS_MAX {
                let waiting = state.steps.len();
                let problem =
                    format!("{waiting} steps wait, and {STEPS_MAX} may at once; clear those that are not needed");
                return Err(ScriptError::step(0, problem));
            }
            for step in steps {
                let mut progress = Progress::new(&step.trigger);
                let due = if let When::After(delay) = step.when { Some(later(delay)) } else { None };
                let (number, step) = (state.next_step, Arc::new(step));
                if step.when == When::Now {
                    at_once.push((number, Arc::clone(&step)));
                    progress.fired();
                }
                state.next_step += 1;
                state.steps.insert(number, Installed { step, progress, due, cleared: false });
            }
            self.waits_for_bus.store(state.waits_for_bus(), Ordering::Release);
        }
        for (number, step) in at_once {
            self.fire((number, &step), "", "its installation".into());
        }
        self.timed.notify_one();
        Ok(())
    }

    /// Forgets every step that has not fired yet, and ends what lasts: outages, delays, blackholes, messages held back.
    pub fn clear(&self) {
        let mut state = self.state();
        state.blob_down_until = None;
        state.tenant_down_until = None;
        for installed in state.steps.values_mut() {
            installed.progress.close();
            installed.due = None;
            installed.cleared = true;
        }
        self.waits_for_bus.store(false, Ordering::Release);
        self.clears.send_modify(|clears| *clears += 1);
        drop(state);
        self.hands.clear();
    }

    /// How many faults have fired: changes with each.
    #[must_use]
    pub fn fired(&self) -> watch::Receiver<u64> {
        self.fired.subscribe()
    }

    /// Waits until so many faults have fired since the process began.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is lost.
    pub async fn wait_for(&self, count: u64) {
        // The sender lives in `self`, so waiting cannot fail.
        drop(self.fired.subscribe().wait_for(|fired| *fired >= count).await);
    }

    /// What has fired, oldest first; the last 10,000.
    #[must_use]
    pub fn log_lines(&self) -> Vec<Fired> {
        self.state().log.iter().cloned().collect()
    }

    /// Steps that may still fire.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.state().steps.values().filter(|installed| installed.progress.is_open()).count()
    }

    /// The steps that may still fire.
    #[must_use]
    pub fn waiting_steps(&self) -> Vec<Waiting> {
        let state = self.state();
        let open = state.steps.iter().filter(|(_, installed)| installed.progress.is_open());
        open.map(|(number, Installed { step, .. })| Waiting {
            step: *number,
            name: step.name.clone(),
            what: step.what.to_string(),
            on: step.when.to_string(),
        })
        .collect()
    }

    /// Fires the steps that wait for a time, until `stop`.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        loop {
            let next = self.state().steps.values().filter_map(|installed| installed.due).min();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.timed.notified() => {}
                () = async { sleep_until(next.unwrap_or_else(Instant::now)).await }, if next.is_some() => self.fire_due(),
            }
        }
    }

    fn fire_due(&self) {
        let now = Instant::now();
        let due: Vec<(usize, Arc<Step>)> = {
            let mut state = self.state();
            let due = state.steps.iter_mut().filter(|(_, installed)| installed.due.is_some_and(|due| due <= now));
            due.map(|(number, installed)| {
                installed.due = None;
                installed.progress.fired();
                (*number, Arc::clone(&installed.step))
            })
            .collect()
        };
        for (number, step) in due {
            self.fire((number, &step), "", "its time".into());
        }
    }

    /// A blob request, before its credential is checked.
    pub(crate) fn on_blob(&self, operation: BlobOperation, name: &str, connection: u64) -> ToDo {
        let fits = |step: &Step| {
            matches!(&step.when, When::Blob(requests)
                if requests.fit(operation, name) && fits::counts(&step.what, requests.operation, operation))
        };
        let source =
            || Source { on: format!("{} {}", operation.name(), printable(name)), connection: Some(connection) };
        let mut to_do = self.on_event("", fits, source);
        let down = self.state().blob_down_until;
        to_do.refuse = to_do.refuse.or_else(|| seconds_until(down).map(|seconds| (Refusal::Busy, Some(seconds))));
        to_do
    }

    /// A request to TenantService; `asks` is the tenant whose bearer token came with it.
    pub(crate) fn on_grant(&self, asks: Option<&str>, connection: u64) -> ToDo {
        let fits = |step: &Step| match (&step.when, asks) {
            (When::Grant { tenant }, Some(name)) => tenant.as_ref().is_none_or(|tenant| tenant == name),
            _ => false,
        };
        let source = || Source { on: format!("grant for {}", asks.unwrap_or_default()), connection: Some(connection) };
        let mut to_do = self.on_event("", fits, source);
        let down = self.state().tenant_down_until;
        to_do.refuse =
            to_do.refuse.or_else(|| seconds_until(down).map(|seconds| (Refusal::Status(503), Some(seconds))));
        to_do
    }

    /// A request for an access token by who says to be this client.
    pub(crate) fn on_token(&self, asks: &str, connection: u64) -> ToDo {
        let fits = |step: &Step| matches!(&step.when, When::Token { client } if client.as_ref().is_none_or(|id| id.eq_ignore_ascii_case(asks)));
        let source = || Source { on: format!("token for {}", printable(asks)), connection: Some(connection) };
        self.on_event("", fits, source)
    }

    /// Delays a request as scripts want it, until they are cleared at the latest.
    pub(crate) async fn delay(&self, to_do: &ToDo) {
        if to_do.delay.is_zero() {
            return;
        }
        let mut clears = self.clears.subscribe();
        tokio::select! {
            () = sleep_until(later(to_do.delay)) => {}
            // The sender lives in `self`, so waiting cannot fail.
            _ = clears.wait_for(|clears| *clears != to_do.clears) => {}
        }
    }

    /// A GetBlob that is about to send the blob's bytes `from..to`.
    pub(crate) fn on_body(self: &Arc<Self>, name: &str, from: u64, to: u64, connection: u64) -> ToBody {
        let mut to_body = ToBody::default();
        let mut touched = Vec::new();
        let on = || format!("GetBlob {} bytes {from}-{}", printable(name), to.saturating_sub(1));
        {
            let mut state = self.state();
            for (number, installed) in &mut state.steps {
                let Installed { step, progress, .. } = installed;
                let When::Blob(requests) = &step.when else { continue };
                let at = match &step.what {
                    What::Cut { at: CutAt::BlobByte(at), .. } | What::Corrupt { at } => *at,
                    What::Cut { at: CutAt::BodyByte(at), .. } => from.saturating_add(*at),
                    What::Slow { .. } => from,
                    _ => continue,
                };
                let fits = (from..to).contains(&at) && requests.fit(BlobOperation::GetBlob, name);
                match &step.what {
                    What::Cut { refuse_sas, .. } if fits && to_body.cut.is_none() && progress.counts(&step.trigger) => {
                        let source = Source { on: on(), connection: Some(connection) };
                        to_body.cut = Some(Cut::new(self, (*number, Arc::clone(step)), source, at, *refuse_sas));
                    }
                    What::Corrupt { .. } if fits && progress.counts(&step.trigger) => {
                        to_body.corrupt.push(at);
                        touched.push((*number, Arc::clone(step)));
                    }
                    What::Slow { bytes_per_second } if fits && progress.counts(&step.trigger) => {
                        to_body.slow = Some(*bytes_per_second);
                        touched.push((*number, Arc::clone(step)));
                    }
                    _ => {}
                }
            }
        }
        for (number, step) in touched {
            self.happened((number, &step), Source { on: on(), connection: Some(connection) });
        }
        to_body
    }

    /// Whether an event of the bus could fire anything. One load: the bus asks before each message.
    pub(crate) fn waits_for_bus(&self) -> bool {
        self.waits_for_bus.load(Ordering::Acquire)
    }

    /// Something happens on the bus.
    pub(crate) fn on_bus(&self, about: &About<'_>) -> ToDo {
        let fits = |step: &Step| matches!(&step.when, When::Bus(frames) if frames.fit(about));
        let source = || Source { on: about.to_string(), connection: Some(about.connection) };
        let to_do = self.on_event(about.entity, fits, source);
        // Under the lock, or a step that is installed in between would never fire.
        let state = self.state();
        self.waits_for_bus.store(state.waits_for_bus(), Ordering::Release);
        drop(state);
        to_do
    }

    fn on_event(&self, entity: &str, fits: impl Fn(&Step) -> bool, source: impl Fn() -> Source) -> ToDo {
        let mut to_do = ToDo::default();
        let mut to_fire = Vec::new();
        {
            let mut state = self.state();
            to_do.clears = *self.clears.borrow();
            for (number, Installed { step, progress, .. }) in &mut state.steps {
                if fits(step) && progress.counts(&step.trigger) {
                    to_fire.push((*number, Arc::clone(step), to_do.take_up(&step.what)));
                }
            }
        }
        for (number, step, done_by_event) in to_fire {
            if done_by_event {
                self.happened((number, &step), source());
            } else {
                self.fire((number, &step), entity, source());
            }
        }
        to_do
    }

    /// Does what a step that was counted says, beyond its event, and writes it to the log.
    fn fire(&self, (number, step): (usize, &Step), entity: &str, source: Source) {
        let what = &step.what;
        match what {
            What::Down { service: Service::Blob, lasts } => self.state().blob_down_until = Some(later(*lasts)),
            What::Down { service: Service::Tenant, lasts } => self.state().tenant_down_until = Some(later(*lasts)),
            _ => {}
        }
        self.hands.act(what, entity);
        self.happened((number, step), source);
    }

    /// Writes a step that fired to the log.
    fn happened(&self, (number, step): (usize, &Step), source: Source) {
        let Source { on, connection } = source;
        let at = i128::from(self.hands.broker.now().0) * 1_000_000;
        let at = OffsetDateTime::from_unix_timestamp_nanos(at).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let mut state = self.state();
        let (name, what, step) = (step.name.clone(), step.what.to_string(), number);
        self.fired.send_modify(|fired| {
            *fired += 1;
            tracing::info!(step, name, what, on, connection, "fault");
            if state.log.len() == LOG_MAX {
                state.log.pop_front();
            }
            state.log.push_back(Fired { number: *fired, at, step, name, what, on, connection });
        });
    }

    /// A cut that was promised did not happen.
    fn give_back(&self, step: usize) {
        if let Some(installed) = self.state().steps.get_mut(&step)
            && !installed.cleared
        {
            installed.progress.give_back();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is a counter or one insertion, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An instant from now; one that no clock can hold is a century off.
fn later(by: Duration) -> Instant {
    const CENTURY: Duration = Duration::from_secs(100 * 365 * 86_400);
    let now = Instant::now();
    now.checked_add(by).unwrap_or(now + CENTURY)
}

/// Whole seconds, at least one, until an outage ends.
fn seconds_until(end: Option<Instant>) -> Option<u64> {
    let left = end?.checked_duration_since(Instant::now())?;
    (!left.is_zero()).then(|| left.as_secs() + u64::from(left.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests;
