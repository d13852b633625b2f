//! Outbox to bus: what is uploaded is sent, again and again until the broker has accepted it.
//!
//! Many messages are in flight, in no promised order: subscribers need none. A try whose outcome is not known is made again
//! with the same message-id. An outage is one clock for all; a message that the broker refuses waits on a clock of its
//! own and holds up no other.

mod batch;
mod message;
mod outage;

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use waybill_azure::bus::{Bus, BusError, Sender};

use self::batch::{Batch, Outcome};
pub(crate) use self::{message::metadata, outage::Outage};
use crate::{
    context::Context,
    outbox::{ExportRow, Outbox, OutboxError, RelayLock},
    tasks::joined,
};

/// Messages in one call of the sender: what one commit of the outbox marks.
const BATCH_MAX: usize = 100;

/// What the relay is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayState {
    /// It does not run.
    Stopped,
    /// Another process sends this outbox's messages; ours takes over when that one ends.
    Standby,
    /// A link to the bus is open, or was when it was last needed.
    Attached,
    /// The outbox cannot be used, or the right to send was lost with its session; why. It is tried on.
    NoOutbox(String),
    /// It ended by itself, so that another one can take over, because only a person can help here; why.
    GaveUp(String),
    /// The bus cannot be used; why.
    Waiting {
        /// What the last try met, with its causes.
        problem: String,
        /// Whether only a person can mend it: a missing topic, a refused key. It is tried all the same, seldom.
        needs_person: bool,
    },
}

pub(crate) struct Relay<O> {
    context: Arc<Context<O>>,
    bus: Bus,
    state: tokio::sync::watch::Sender<RelayState>,
    link: Option<Arc<Sender>>,
    /// Counts links, so that many failures of one link are one step of the backoff.
    links: u64,
    sending: JoinSet<Outcome>,
    in_flight: HashSet<i64>,
    outage: Outage,
    /// Of the outbox, which is only told: it is read again each time round.
    unread: Outage,
}

/// Why it does not go on sending.
enum Ended {
    Stopped,
    /// Another one may have the right to send by now.
    LostRight,
    Forbidden(OutboxError),
}

impl<O: Outbox> Relay<O> {
    pub(crate) fn new(context: Arc<Context<O>>, bus: Bus, state: tokio::sync::watch::Sender<RelayState>) -> Self {
        let outage = || Outage::new(context.limits.backoff_max);
        let (outage, unread) = (outage(), outage());
        let (sending, in_flight) = (JoinSet::new(), HashSet::new());
        Self { context, bus, state, link: None, links: 0, sending, in_flight, outage, unread }
    }

    /// Sends until it is stopped; then waits for what is in flight, for `drain_timeout` at most. Whoever loses the right to send on
    /// the way does the same, and stands by for it again.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let (ended, lock) = loop {
            let lock = tokio::select! {
                lock = self.lock() => lock,
                () = stop.cancelled() => break (RelayState::Stopped, None),
            };
            let lock = match lock {
                Ok(lock) => lock,
                Err(error) => break (gave_up(&error), None),
            };
            tracing::debug!(publisher = self.context.publisher, "relaying");
            let ended = self.relay(&lock, &stop).await;
            self.drain().await;
            match ended {
                Ended::Stopped => break (RelayState::Stopped, Some(lock)),
                Ended::Forbidden(error) => break (gave_up(&error), Some(lock)),
                Ended::LostRight => {}
            }
        };
        self.bus.close().await;
        self.end(ended);
        drop(lock);
    }

    /// Sends as long as the right to send is ours.
    async fn relay(&mut self, lock: &RelayLock, stop: &CancellationToken) -> Ended {
        while !stop.is_cancelled() {
            self.context.counting.relay_at(Some(Instant::now()));
            match self.fill(lock, stop).await {
                Ok(true) => {}
                Ok(false) => return self.lost(),
                Err(error) => return Ended::Forbidden(error),
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                Some(done) = self.sending.join_next(), if !self.sending.is_empty() => self.ended(done).await,
                () = sleep_until(self.outage.until().unwrap_or_else(Instant::now)), if self.outage.until().is_some() => {
                    self.outage.over();
                }
                () = self.context.uploaded.notified(), if self.outage.until().is_none() => {}
                // For what another process uploads, and for messages that wait for their own time.
                () = sleep(self.context.limits.poll_interval) => {}
            }
        }
        Ended::Stopped
    }

    fn lost(&self) -> Ended {
        const LOST: &str = "the right to send was lost with its session; it is asked for again";
        tracing::warn!(publisher = self.context.publisher, messages = self.in_flight.len(), "{LOST}");
        self.state.send_replace(RelayState::NoOutbox(LOST.to_owned()));
        Ended::LostRight
    }

    async fn drain(&mut self) {
        let limit = self.context.limits.drain_timeout;
        let drained = timeout(limit, async {
            while let Some(done) = self.sending.join_next().await {
                self.ended(done).await;
            }
        });
        if drained.await.is_err() {
            tracing::warn!(messages = self.in_flight.len(), "stopped before the broker answered; they are sent again");
        }
        self.sending.shutdown().await;
        self.in_flight.clear();
        self.link = None;
    }

    fn end(&self, ended: RelayState) {
        self.state.send_replace(ended);
        self.context.counting.relay_at(None);
    }

    /// Waits for the right to send.
    ///
    /// # Errors
    /// An outbox that this program must not send from. It may follow the change log while it stands by.
    async fn lock(&mut self) -> Result<RelayLock, OutboxError> {
        loop {
            self.context.counting.relay_at(Some(Instant::now()));
            match self.context.outbox.lock_relay().await {
                Ok(Some(lock)) => {
                    self.unread.ended();
                    return Ok(lock);
                }
                Ok(None) => {
                    self.unread.ended();
                    if *self.state.borrow() != RelayState::Standby {
                        tracing::info!("another process sends this outbox's messages");
                        self.state.send_replace(RelayState::Standby);
                    }
                    // It tells nobody here what it has sent.
                    self.context.progressed();
                    if let Err(error @ OutboxError::Newer { .. }) = self.context.outbox.due(1).await {
                        return Err(error);
                    }
                }
                Err(error) => {
                    self.unread.tell("the outbox cannot be locked", &error);
                    self.state.send_replace(RelayState::NoOutbox(chain(&error)));
                }
            }
            sleep(self.context.limits.poll_interval).await;
        }
    }

    /// Puts into flight what is due, as far as the limits and the bus allow. Whether the right to send is still ours: that and what is
    /// due are one question.
    ///
    /// # Errors
    /// What this program must not send.
    async fn fill(&mut self, lock: &RelayLock, stop: &CancellationToken) -> Result<bool, OutboxError> {
        while self.outage.until().is_none()
            && self.sending.len() < self.context.limits.batches_in_flight_max.get() as usize
            && !stop.is_cancelled()
        {
            let most = u32::try_from(BATCH_MAX + self.in_flight.len()).unwrap_or(u32::MAX);
            let due = tokio::select! {
                due = lock.due(most) => due,
                // Whoever is told to stop needs no answer.
                () = stop.cancelled() => return Ok(true),
            };
            let mut due = match due {
                Ok(Some(due)) => due,
                Ok(None) => return Ok(false),
                Err(error @ OutboxError::Newer { .. }) => return Err(error),
                Err(error) => {
                    self.unread.tell("the outbox cannot be read", &error);
                    self.state.send_replace(RelayState::NoOutbox(chain(&error)));
                    return Ok(true);
                }
            };
            self.unread.ended();
            due.retain(|row| !self.in_flight.contains(&row.row));
            due.truncate(BATCH_MAX);
            // With nothing to send, whether it could be sent is found out all the same: whoever is asked for it has to know.
            let is_idle = due.is_empty();
            if is_idle && *self.state.borrow() == RelayState::Attached {
                return Ok(true);
            }
            let waits = self.link.is_none();
            let link = tokio::select! {
                link = self.link() => link,
                () = stop.cancelled() => return Ok(true),
            };
            match link {
                Ok(_) if is_idle => {
                    self.state.send_replace(RelayState::Attached);
                    return Ok(true);
                }
                // A link may take long to open, and the right to send may be lost meanwhile: what is due is read again.
                Ok(_) if waits => {}
                Ok(link) => self.send(link, due),
                Err(error) => self.wait(&error),
            }
        }
        Ok(true)
    }

    async fn link(&mut self) -> Result<Arc<Sender>, BusError> {
        if let Some(link) = &self.link {
            return Ok(Arc::clone(link));
        }
        let link = Arc::new(self.bus.sender().await?);
        self.links += 1;
        self.link = Some(Arc::clone(&link));
        self.state.send_replace(RelayState::Attached);
        Ok(link)
    }

    fn send(&mut self, link: Arc<Sender>, rows: Vec<ExportRow>) {
        // A state of the bus stays until something is sent; the outbox has just been read.
        if matches!(*self.state.borrow(), RelayState::NoOutbox(_)) {
            self.state.send_replace(RelayState::Attached);
        }
        self.in_flight.extend(rows.iter().map(|row| row.row));
        let batch = Batch { context: Arc::clone(&self.context), link, link_number: self.links, rows };
        self.sending.spawn(batch.send());
    }

    async fn ended(&mut self, done: Result<Outcome, tokio::task::JoinError>) {
        let outcome = joined(done).await;
        for row in &outcome.rows {
            self.in_flight.remove(row);
        }
        match outcome.outage {
            None => {
                if outcome.sent > 0 && self.outage.ended() {
                    self.state.send_replace(RelayState::Attached);
                }
            }
            Some(error) => {
                if outcome.link_number == self.links && self.outage.until().is_none() {
                    self.wait(&error);
                }
                if outcome.link_number == self.links && ends_link(&error) {
                    self.link = None;
                }
            }
        }
        self.context.progressed();
    }

    /// Nothing is sent for a while.
    fn wait(&mut self, error: &BusError) {
        let (problem, needs_person) = (chain(error), error.needs_person());
        self.outage.begin(error.retry_after(), needs_person);
        self.outage.tell("the bus cannot be used; what is uploaded waits in the outbox", error);
        self.state.send_replace(RelayState::Waiting { problem, needs_person });
    }
}

fn gave_up(error: &OutboxError) -> RelayState {
    tracing::error!(%error, "nothing is sent any more");
    RelayState::GaveUp(error.to_string())
}

/// Whether another link is needed after this. A full or busy entity says so on a link that goes on working.
fn ends_link(error: &BusError) -> bool {
    match error {
        BusError::Busy { .. } | BusError::QuotaExceeded { .. } => false,
        BusError::Partly { source } => ends_link(source),
        _ => true,
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

impl<O> fmt::Debug for Relay<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relay").field("in_flight", &self.in_flight.len()).finish_non_exhaustive()
    }
}

/// The first wait of a message that the broker refuses, and the longest.
const REFUSED_WAIT: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// When a message that was refused `tries` times before is tried again.
fn refused_wait(tries: u64) -> Duration {
    REFUSED_WAIT.0.saturating_mul(1 << tries.min(16)).min(REFUSED_WAIT.1)
}
