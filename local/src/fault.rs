//! Scripted bad days: a script is a list of steps, each with something to wait for and something to do. The same script
//! runs from a test, from the configuration file, and against a running process over HTTP.
//!
//! A step fires a stated number of times (once by default) and is then done. What fired is kept in a log that a test can
//! read and await, so that no test needs to guess when a fault has happened.

mod hands;
mod script;
mod step;

use std::{
    collections::VecDeque,
    fmt,
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::blob::BlobOperation;

pub(crate) use hands::Hands;
pub use script::ScriptError;
pub(crate) use script::{Written, from_written, line_of};
pub use step::{BlobRequests, BusEvent, CutAt, Service, Step, What, When};

/// Lines of the log that are kept; the count goes on.
const LOG_MAX: usize = 10_000;

/// A line of the log: a step that fired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Fired {
    /// Counts all that fired, from 1.
    pub number: u64,
    /// The step, counted from 0 in the order in which steps were installed.
    pub step: usize,
    /// What was done.
    pub what: String,
    /// What fired it.
    pub on: String,
}

/// The steps that are installed, and what has fired.
pub struct Faults {
    state: Mutex<State>,
    hands: Hands,
    fired: watch::Sender<u64>,
    timed: Notify,
}

#[derive(Default)]
struct State {
    steps: Vec<Installed>,
    log: VecDeque<Fired>,
    blob_down_until: Option<Instant>,
    tenant_down_until: Option<Instant>,
}

struct Installed {
    step: Step,
    /// Events that fitted.
    seen: u32,
    /// How often it may still fire.
    left: u32,
    due: Option<Instant>,
    /// For the bus: the count at which it fires next.
    due_count: Option<u64>,
    cleared: bool,
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults").field("fired", &*self.fired.borrow()).finish_non_exhaustive()
    }
}

/// What is to be done to a request, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ToRequest {
    pub(crate) delay: Duration,
    pub(crate) reset: bool,
    pub(crate) refuse_sas: bool,
    /// Seconds to tell the client.
    pub(crate) busy: Option<u64>,
}

/// A cut that was promised to one response. It counts as fired once [`happened`](Cut::happened); when the client goes away
/// before, it is given back to the script.
pub(crate) struct Cut {
    faults: Arc<Faults>,
    step: usize,
    on: String,
    happened: bool,
    /// The first byte of the blob that is not sent.
    pub(crate) at: u64,
    pub(crate) refuse_sas: bool,
}

impl Cut {
    /// Writes it to the log.
    pub(crate) fn happened(mut self) {
        self.happened = true;
        let mut state = self.faults.state();
        let on = std::mem::take(&mut self.on);
        self.faults.log(&mut state, self.step, on);
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        if !self.happened
            && let Some(installed) = self.faults.state().steps.get_mut(self.step)
            && !installed.cleared
        {
            installed.left += 1;
        }
    }
}

impl Faults {
    pub(crate) fn new(hands: Hands) -> Self {
        Self { state: Mutex::default(), hands, fired: watch::Sender::new(0), timed: Notify::new() }
    }

    /// Adds steps to those that wait; what is due now fires before this returns.
    ///
    /// # Errors
    /// The first step that can never fire; nothing is installed then.
    pub fn install(&self, steps: impl IntoIterator<Item = Step>) -> Result<(), ScriptError> {
        let steps: Vec<Step> = steps.into_iter().collect();
        for (index, step) in steps.iter().enumerate() {
            let problem = step.problem().map(str::to_owned).or_else(|| self.hands.problem(step));
            if let Some(problem) = problem {
                return Err(ScriptError::step(index, problem));
            }
        }
        let mut at_once = Vec::new();
        {
            let mut state = self.state();
            for step in steps {
                let mut left = step.times.get();
                let due = if let When::After(delay) = step.when { Some(later(delay)) } else { None };
                let due_count = self.hands.count(&step.when).map(|(count, nth)| count + nth);
                if step.when == When::Now {
                    at_once.push(state.steps.len());
                    left -= 1;
                }
                state.steps.push(Installed { step, seen: 0, left, due, due_count, cleared: false });
            }
        }
        for index in at_once {
            self.fire(index, "its installation".to_owned());
        }
        self.timed.notify_one();
        Ok(())
    }

    /// Forgets every step that has not fired yet, and ends outages.
    pub fn clear(&self) {
        let mut state = self.state();
        state.blob_down_until = None;
        state.tenant_down_until = None;
        for installed in &mut state.steps {
            installed.left = 0;
            installed.due = None;
            installed.due_count = None;
            installed.cleared = true;
        }
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
        self.state().steps.iter().filter(|installed| installed.left > 0).count()
    }

    /// Fires the steps that wait for a time or for messages, until `stop`.
    pub(crate) async fn run(&self, stop: CancellationToken) {
        loop {
            let next = self.state().steps.iter().filter_map(|installed| installed.due).min();
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.timed.notified() => {}
                () = async { sleep_until(next.unwrap_or_else(Instant::now)).await }, if next.is_some() => self.fire_due(),
                () = self.hands.broker.wait_until(|_| self.state().steps.iter().any(|step| self.is_counted(step))) => {
                    self.fire_counted();
                }
            }
        }
    }

    /// Whether a step's count of messages is reached.
    fn is_counted(&self, installed: &Installed) -> bool {
        installed
            .due_count
            .is_some_and(|due| self.hands.count(&installed.step.when).is_some_and(|(count, _)| count >= due))
    }

    fn fire_counted(&self) {
        let claim = || {
            let mut state = self.state();
            let (index, installed) =
                state.steps.iter_mut().enumerate().find(|(_, installed)| self.is_counted(installed))?;
            let When::Bus { event, entity, nth } = &installed.step.when else { return None };
            let on = format!("{} {entity}", event.name());
            let next = installed.due_count.map(|due| due + u64::from(nth.get()));
            installed.left -= 1;
            installed.due_count = next.filter(|_| installed.left > 0);
            Some((index, on))
        };
        while let Some((index, on)) = claim() {
            self.fire(index, on);
        }
    }

    fn fire_due(&self) {
        let now = Instant::now();
        let due: Vec<usize> = {
            let mut state = self.state();
            let due = state.steps.iter_mut().enumerate();
            due.filter(|(_, installed)| installed.due.is_some_and(|due| due <= now))
                .map(|(index, installed)| {
                    installed.due = None;
                    installed.left -= 1;
                    index
                })
                .collect()
        };
        for index in due {
            self.fire(index, "its time".to_owned());
        }
    }

    /// A blob request, before its credential is checked.
    pub(crate) fn on_blob(&self, operation: BlobOperation, name: &str) -> ToRequest {
        let fits = |when: &When, what: &What| match when {
            When::Blob(requests) if !matches!(what, What::Cut { .. }) && requests.fit(operation, name) => {
                Some(requests.nth)
            }
            _ => None,
        };
        let mut to_request = self.on_request(Service::Blob, fits, || format!("{} {name}", operation.name()));
        let down = self.state().blob_down_until;
        to_request.busy = to_request.busy.or_else(|| seconds_until(down));
        to_request
    }

    /// A request to TenantService; `asks` is the tenant whose bearer token came with it.
    pub(crate) fn on_grant(&self, asks: Option<&str>) -> ToRequest {
        let fits = |when: &When, _: &What| match (when, asks) {
            (When::Grant { tenant, nth }, Some(name)) if tenant.as_ref().is_none_or(|tenant| tenant == name) => {
                Some(*nth)
            }
            _ => None,
        };
        let on = || format!("grant for {}", asks.unwrap_or_default());
        let mut to_request = self.on_request(Service::Tenant, fits, on);
        let down = self.state().tenant_down_until;
        to_request.busy = to_request.busy.or_else(|| seconds_until(down));
        to_request
    }

    /// A GetBlob that is about to send the blob's bytes `from..to`.
    pub(crate) fn on_body(self: &Arc<Self>, name: &str, from: u64, to: u64) -> Option<Cut> {
        let mut state = self.state();
        state.steps.iter_mut().enumerate().find_map(|(index, installed)| {
            let (When::Blob(requests), What::Cut { at, refuse_sas }) = (&installed.step.when, &installed.step.what)
            else {
                return None;
            };
            let (nth, refuse_sas) = (requests.nth, *refuse_sas);
            let at = match at {
                CutAt::BlobByte(at) => *at,
                CutAt::BodyByte(at) => from.saturating_add(*at),
            };
            let fits = (from..to).contains(&at) && requests.fit(BlobOperation::GetBlob, name);
            if !fits || !counts(installed, nth) {
                return None;
            }
            let on = format!("GetBlob {name} bytes {from}-{}", to - 1);
            Some(Cut { faults: Arc::clone(self), step: index, on, happened: false, at, refuse_sas })
        })
    }

    fn on_request(
        &self,
        asked: Service,
        fits: impl Fn(&When, &What) -> Option<NonZeroU32>,
        on: impl Fn() -> String,
    ) -> ToRequest {
        let mut to_request = ToRequest::default();
        let mut to_fire = Vec::new();
        for (index, installed) in self.state().steps.iter_mut().enumerate() {
            let Some(nth) = fits(&installed.step.when, &installed.step.what) else { continue };
            if counts(installed, nth) {
                to_fire.push(index);
                match &installed.step.what {
                    What::Delay(by) => to_request.delay += *by,
                    What::Busy { retry_after } => to_request.busy = Some(retry_after.as_secs()),
                    What::RefuseSas => to_request.refuse_sas = true,
                    What::Reset { service } if *service == asked => to_request.reset = true,
                    _ => {}
                }
            }
        }
        for index in to_fire {
            self.fire(index, on());
        }
        to_request
    }

    /// Does what a step that was counted says, beyond its request, and writes it to the log.
    fn fire(&self, index: usize, on: String) {
        let Step { when, what, .. } = {
            let mut state = self.state();
            let step = state.steps[index].step.clone();
            match &step.what {
                What::Down { service: Service::Blob, lasts } => state.blob_down_until = Some(later(*lasts)),
                What::Down { service: Service::Tenant, lasts } => state.tenant_down_until = Some(later(*lasts)),
                _ => {}
            }
            step
        };
        if !what.is_done_by_request(&when) {
            self.hands.act(&what);
        }
        let mut state = self.state();
        self.log(&mut state, index, on);
    }

    fn log(&self, state: &mut State, step: usize, on: String) {
        let what = state.steps.get(step).map_or_else(String::new, |installed| installed.step.what.to_string());
        self.fired.send_modify(|fired| {
            *fired += 1;
            tracing::info!(step, what, on, "fault");
            if state.log.len() == LOG_MAX {
                state.log.pop_front();
            }
            state.log.push_back(Fired { number: *fired, step, what, on });
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is a counter or one insertion, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts an event that fits; whether the step fires at it, which is taken off what is left.
fn counts(installed: &mut Installed, nth: NonZeroU32) -> bool {
    installed.seen = installed.seen.saturating_add(1);
    let fires = installed.seen >= nth.get() && installed.left > 0;
    installed.left -= u32::from(fires);
    fires
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
