//! What a subscriber says of itself: figures, health, and a word to the inbox every few seconds for whoever looks from elsewhere.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use waybill_azure::Service;

use super::{Shared, Subscriber};
use crate::{
    figures::{CircuitFigures, Figures, FileFigures, QueueFigures, RowFigures, StorageFigures, TokenFigures},
    grants::TokenEnds,
    health::{Alarm, Health, Part, Problem},
    inbox::{Backlog, Beat, Inbox, InboxError},
    receive::ReceiveStats,
    schedule::Dependency,
};

/// How often the inbox is told.
const BEAT_EVERY: Duration = Duration::from_secs(5);
/// How long the last word may take, at a stop.
const LAST_WORD: Duration = Duration::from_secs(2);

impl<I: Inbox + Clone> Subscriber<I> {
    /// What it has done, and holds. Asks nobody.
    #[must_use]
    pub fn figures(&self) -> Figures {
        let Shared { received, dead_letters, worked, grants, traffic, circuits, sink_calls, inbox, cache, .. } =
            &*self.shared;
        Figures {
            messages: queue(received),
            dead_letters: queue(dead_letters),
            last_contact: self.last_contact(),
            tokens: grants.as_ref().map(|grants| {
                let (bus_remaining, blob_remaining) = self.remaining();
                TokenFigures { bus_remaining, blob_remaining, renewals: grants.renewals(), requests: grants.requests() }
            }),
            storage: StorageFigures {
                requests: traffic.requests(),
                failed: traffic.failed(),
                received_bytes: traffic.received_bytes(),
            },
            cache: cache.as_ref().map(|cache| cache.figures()),
            files: FileFigures {
                done: read(&worked.files_done),
                sorting: read(&worked.files_sorting),
                sorted: read(&worked.files_sorted),
                begun_again: read(&worked.files_begun_again),
                put_off: worked.put_off_by.all(),
                quarantined: worked.quarantined_by.all(),
                expired: read(&worked.files_expired),
                received_to_done: worked.lag.now(),
            },
            rows: RowFigures {
                inserted: read(&worked.inserted),
                updated: read(&worked.updated),
                deleted: read(&worked.deleted),
                ignored: read(&worked.ignored),
                superseded: read(&worked.superseded),
                filtered: read(&worked.filtered),
                parked: read(&worked.parked),
                released: read(&worked.released),
                rescued: read(&worked.rescued),
                bad: read(&worked.bad_rows),
                left_out: read(&worked.left_out),
            },
            circuits: Dependency::ALL
                .map(|dependency| {
                    let circuit = circuits.of(dependency);
                    CircuitFigures {
                        dependency: dependency.as_str(),
                        open: circuit.in_trouble(),
                        tried_in: circuit.closed_in(),
                        opened: circuit.opened(),
                    }
                })
                .into(),
            commits: sink_calls.commits.now(),
            inbox_calls_failed: inbox.calls.failed(),
            sink_calls_failed: sink_calls.failed(),
        }
    }

    /// What waits in the inbox, whoever will work it.
    ///
    /// # Errors
    /// [`InboxError`].
    ///
    /// # Cancel safety
    /// Cancel-safe: it only asks.
    pub async fn backlog(&self) -> Result<Backlog, InboxError> {
        self.shared.inbox.backlog().await
    }

    /// Whether it works, and what hinders it from doing what it was asked to do: [`Subscriber::run`] needs all, the other two
    /// their part. Asks nobody: what is not used at the moment was looked at a few seconds ago.
    #[must_use]
    pub fn health(&self) -> Health {
        Health { stuck: self.stuck(), problems: self.problems() }
    }

    fn stuck(&self) -> Vec<Problem> {
        let shared = &*self.shared;
        let (receives, works) = (shared.receiving.is_on(), shared.working.is_on());
        let loops = [
            (receives, Part::Link, "receiving", shared.received.late()),
            (receives, Part::Link, "receiving dead letters", shared.dead_letters.late()),
            (works, Part::Run, "leasing files", shared.schedule_alarm.late()),
            (receives || works, Part::Run, "looking after itself", shared.pulse_alarm.late()),
        ];
        let late = |(on, part, what, late): (bool, Part, &str, Duration)| {
            let stuck = on && late > shared.options.stuck_after;
            stuck.then(|| Problem::new(part, format!("{what} has stood still for {} s", late.as_secs())))
        };
        loops.into_iter().filter_map(late).collect()
    }

    fn problems(&self) -> Vec<Problem> {
        let shared = &*self.shared;
        let (receives, works) = (shared.receiving.is_on(), shared.working.is_on());
        let mut problems = Vec::new();
        let mut say =
            |part, problem: Option<String>| problems.extend(problem.map(|problem| Problem::new(part, problem)));
        if !receives && !works {
            say(Part::Run, Some("it has not begun, or has ended".to_owned()));
        }
        if shared.preparing.is_on() {
            say(Part::Run, Some("it begins: inbox and sink are compared".to_owned()));
        }
        if receives && !shared.received.is_attached() {
            say(Part::Link, Some(shared.received.problem().unwrap_or_else(|| "not attached yet".to_owned())));
        }
        say(Part::Token, self.token_problem(receives));
        let inbox_problem = shared.inbox.calls.problem();
        let sink_problem = shared.sink_calls.problem().filter(|_| works);
        for (dependency, part, known) in [
            (Dependency::Storage, Part::Storage, None),
            (Dependency::Sink, Part::Sink, sink_problem),
            (Dependency::Inbox, Part::Inbox, inbox_problem),
        ] {
            let circuit = shared.circuits.of(dependency);
            let open = (works && circuit.in_trouble()).then(|| {
                format!(
                    "the circuit is open, the next try in {:.1} s; what failed is told by `list --state saved`",
                    circuit.closed_in().as_secs_f64()
                )
            });
            say(part, known.or(open));
        }
        problems
    }

    /// Tokens of the embedder's own making are its own business: what is wrong with them shows at the link and at storage.
    fn token_problem(&self, receives: bool) -> Option<String> {
        let grants = self.shared.grants.as_ref()?;
        let failed = grants.problem();
        let Some(TokenEnds { bus, blob }) = grants.ends() else {
            return Some(failed.unwrap_or_else(|| "there is none yet".to_owned()));
        };
        let now = (self.shared.options.now)();
        for (service, needed, ends_at) in [(Service::Bus, receives, bus), (Service::Blob, true, blob)] {
            match (ends_at, &failed) {
                _ if !needed => {}
                (None, _) => return Some(format!("TenantService names no endpoint for {service:?}")),
                // While nothing failed, one that is over by our clock is just being renewed, or the clocks differ.
                (Some(ends_at), Some(failed)) if ends_at <= now => {
                    return Some(format!("that for {service:?} is over, and a new one is not to be had: {failed}"));
                }
                (Some(_), _) => {}
            }
        }
        None
    }

    fn last_contact(&self) -> Option<Duration> {
        self.shared.buses.last_contact().map(|at| at.elapsed())
    }

    /// How long the tokens live on, for the bus and for storage.
    fn remaining(&self) -> (Option<Duration>, Option<Duration>) {
        let TokenEnds { bus, blob } = self.shared.grants.as_ref().and_then(|grants| grants.ends()).unwrap_or_default();
        let now = (self.shared.options.now)();
        let until = |ends_at: time::OffsetDateTime| (ends_at - now).try_into().unwrap_or_default();
        (bus.map(until), blob.map(until))
    }

    /// Does the work, and meanwhile tells the inbox of it.
    pub(super) async fn beating(&self, work: impl Future<Output = ()>) {
        let over = CancellationToken::new();
        let working = async {
            work.await;
            over.cancel();
        };
        tokio::join!(working, self.beat_until(&over));
    }

    /// Works, and tells the inbox of it, until it is over. When the set is dropped before, that leaves no time for a last word:
    /// the inbox sees it fall silent.
    pub(crate) fn spawn_pulse(&self, beside: &mut JoinSet<()>, over: CancellationToken) {
        let subscriber = self.clone();
        beside.spawn(async move {
            let _working = subscriber.shared.working.begin();
            subscriber.beat_until(&over).await;
        });
    }

    async fn beat_until(&self, over: &CancellationToken) {
        let shared = &*self.shared;
        // Also where this is dropped: a loop that is gone does not stand still.
        let _at_rest = AtRest(&shared.pulse_alarm);
        while !over.is_cancelled() {
            shared.pulse_alarm.set(Duration::ZERO);
            let round = async {
                self.tell(false).await;
                shared.pulse_alarm.set(BEAT_EVERY);
                tokio::time::sleep(BEAT_EVERY).await;
            };
            tokio::select! {
                () = over.cancelled() => {}
                () = round => {}
            }
        }
        shared.pulse_alarm.rest();
        if timeout(LAST_WORD, self.tell(true)).await.is_err() {
            tracing::debug!("the inbox was not told of the end");
        }
    }

    async fn tell(&self, stopped: bool) {
        let shared = &*self.shared;
        let (bus_token_remaining, blob_token_remaining) = self.remaining();
        let problems: Vec<String> = self.problems().into_iter().map(|problem| problem.problem).collect();
        let beat = Beat {
            receives: shared.receiving.is_on(),
            works: shared.working.is_on(),
            attached: shared.received.is_attached(),
            last_contact_ago: self.last_contact(),
            bus_token_remaining,
            blob_token_remaining,
            lag: shared.worked.lag.last(),
            problem: (!stopped && !problems.is_empty()).then(|| problems.join("; ")),
            stopped,
        };
        match shared.inbox.beat(&shared.worker, &beat).await {
            Ok(()) => shared.circuits.of(Dependency::Inbox).answered(),
            // Whoever waits for it sees it in the health; a line every few seconds would tell nothing more.
            Err(error) => tracing::debug!(%error, "the inbox was not told of this worker"),
        }
    }
}

/// Lets an alarm rest when it is dropped.
struct AtRest<'a>(&'a Alarm);

impl Drop for AtRest<'_> {
    fn drop(&mut self) {
        self.0.rest();
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn queue(stats: &ReceiveStats) -> QueueFigures {
    QueueFigures {
        received: read(&stats.received),
        saved: read(&stats.saved),
        quarantined: read(&stats.quarantined),
        duplicates: read(&stats.duplicates),
        redelivered: read(&stats.redelivered),
        completed: read(&stats.completed),
        released: read(&stats.released),
        dead_lettered: read(&stats.dead_lettered),
        left_in_place: read(&stats.left_in_place),
        attached: stats.is_attached(),
        links: read(&stats.links),
        lost: stats.lost_by.all(),
        enqueued_to_received: stats.lag.now(),
    }
}
