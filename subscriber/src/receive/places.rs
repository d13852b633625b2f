//! Receives from every place that the grants name, and goes along when they name others.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use waybill_azure::{
    Grant, OnePlace, Service, TokenSource,
    bus::{Bus, BusError, BusOptions, ReceiverOptions},
};

use super::{Desk, Pauses, ReceiveStats, chain, receive};
use crate::{
    inbox::Inbox,
    tasks::{all, outcome},
};

/// The connections by the places that they lead to, each with the time since when it is wanted.
#[derive(Debug, Default)]
pub(crate) struct Buses(Mutex<BTreeMap<String, (Bus, Instant)>>);

impl Buses {
    /// When the one that has been silent longest was last heard of, or wanted first if it never was; `None` while none was.
    pub(crate) fn last_contact(&self) -> Option<Instant> {
        let all = self.all();
        let heard = |(bus, since): &(Bus, Instant)| bus.last_contact().unwrap_or(*since);
        all.values().any(|(bus, _)| bus.last_contact().is_some()).then(|| all.values().map(heard).min()).flatten()
    }

    fn all(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, (Bus, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets go of connections when receiving is dropped: whoever only remembers them would keep them open.
struct LetGo(Option<Arc<Buses>>);

impl Drop for LetGo {
    fn drop(&mut self) {
        if let Some(buses) = &self.0 {
            buses.all().clear();
        }
    }
}

/// Receives for a subscriber, wherever that is at the moment.
#[derive(Debug)]
pub(crate) struct Reception<I> {
    pub(crate) tokens: Arc<dyn TokenSource>,
    pub(crate) options: BusOptions,
    pub(crate) inbox: I,
    pub(crate) messages: Arc<ReceiveStats>,
    /// Drained as well, if there is one.
    pub(crate) dead_letters: Option<Arc<ReceiveStats>>,
    pub(crate) admitted: Arc<Notify>,
    pub(crate) buses: Arc<Buses>,
    pub(crate) now: fn() -> OffsetDateTime,
}

impl<I: Inbox + Clone> Reception<I> {
    /// Until `stop`. When a grant names another place, what was received from the old one is settled first.
    pub(crate) async fn run(self, stop: CancellationToken) {
        self.buses.all().clear();
        let mut let_go = LetGo(Some(Arc::clone(&self.buses)));
        let this = Arc::new(self);
        let mut changes = this.tokens.changes();
        let mut tasks: JoinSet<String> = JoinSet::new();
        // By place, as messages are told by it in the inbox; cancelled for those that are on their way out.
        let mut open: BTreeMap<String, CancellationToken> = BTreeMap::new();
        let mut pauses = Pauses::default();
        while !stop.is_cancelled() {
            changes.mark_unchanged();
            let named = tokio::select! {
                () = stop.cancelled() => break,
                named = this.tokens.grants(Service::Bus, None) => named,
            };
            let again = match named {
                Ok(grants) => {
                    pauses.end();
                    this.say(None);
                    this.go_along(&grants, &mut open, &mut tasks, &stop);
                    None
                }
                // The links that are open go on with what they have, and ask by themselves when that is over.
                Err(_) if !open.is_empty() => None,
                Err(error) => Some(this.no_place(error.into(), &mut pauses)),
            };
            tokio::select! {
                () = stop.cancelled() => {}
                changed = changes.changed() => if changed.is_err() {
                    // A source that never changes.
                    stop.cancelled().await;
                },
                // It ends when it was told to; should its place be named again, it is opened again.
                Some(ended) = tasks.join_next() => match outcome(ended) {
                    Some(place) => drop(open.remove(&place)),
                    None => return,
                },
                () = sleep(again.unwrap_or_default()), if again.is_some() => {}
            }
        }
        all(tasks).await;
        // They are closed, and when they were last heard of is still asked.
        let_go.0 = None;
    }

    /// Opens the places that are new, and has those left that are not named any more.
    fn go_along(
        self: &Arc<Self>,
        grants: &[Grant],
        open: &mut BTreeMap<String, CancellationToken>,
        tasks: &mut JoinSet<String>,
        stop: &CancellationToken,
    ) {
        let named: BTreeMap<String, &Grant> = grants.iter().rev().map(|grant| (grant.place(), grant)).collect();
        for (place, leave) in open.iter().filter(|(place, leave)| !named.contains_key(*place) && !leave.is_cancelled())
        {
            tracing::warn!(place, "the grant does not name this place any more; receiving ends there");
            leave.cancel();
        }
        for (place, grant) in named {
            if open.contains_key(&place) {
                continue;
            }
            if !open.is_empty() {
                tracing::info!(place, "the grant names this place now; receiving from it");
            }
            let leave = stop.child_token();
            open.insert(place.clone(), leave.clone());
            let bus = Bus::new(Arc::new(OnePlace::of(Arc::clone(&self.tokens), grant)), self.options.clone());
            self.buses.all().insert(place.clone(), (bus.clone(), Instant::now()));
            let (this, stop) = (Arc::clone(self), stop.clone());
            tasks.spawn(async move {
                this.receive_from(&place, &bus, &leave).await;
                bus.close().await;
                if !stop.is_cancelled() {
                    this.buses.all().remove(&place);
                }
                place
            });
        }
    }

    async fn receive_from(&self, place: &str, bus: &Bus, leave: &CancellationToken) {
        let Self { inbox, messages, dead_letters, admitted, now, .. } = self;
        let receiving = async |stats: &ReceiveStats, dead_letter_queue| {
            let watching = stats.watch(place);
            let desk = Desk { inbox, stats, link: &watching.link, place, admitted, now: *now };
            receive(bus, ReceiverOptions { dead_letter_queue }, desk, leave).await;
        };
        match dead_letters {
            Some(dead_letters) => {
                tokio::join!(receiving(messages, false), receiving(dead_letters, true));
            }
            None => receiving(messages, false).await,
        }
    }

    /// No place is known yet; how long until the next try.
    fn no_place(&self, error: BusError, pauses: &mut Pauses) -> Duration {
        for stats in self.all_stats() {
            stats.lost.fetch_add(1, Ordering::Relaxed);
            stats.lost_by.add(error.kind());
        }
        let (problem, wait) = (chain(&error), pauses.after(&error));
        tracing::warn!(error = %problem, wait_ms = wait.as_millis(), "not receiving; trying again");
        self.say(Some(&problem));
        wait
    }

    fn say(&self, problem: Option<&str>) {
        self.all_stats().for_each(|stats| stats.set_no_place(problem.map(str::to_owned)));
    }

    fn all_stats(&self) -> impl Iterator<Item = &ReceiveStats> {
        [Some(&*self.messages), self.dead_letters.as_deref()].into_iter().flatten()
    }
}
