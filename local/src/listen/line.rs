//! One connection as requests, fault scripts and the door-keeper see it: whose turn it is, and how it is to end.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::fault::Fate;

/// How long a client may take until its first request's head is whole, or until TLS begins.
const FIRST_PATIENCE: Duration = Duration::from_secs(30);
/// How long a connection may wait for its next request: longer than clients keep theirs, so that they end it.
const NEXT_PATIENCE: Duration = Duration::from_secs(120);

/// One connection. Clones are the same connection.
#[derive(Clone)]
pub(crate) struct Line(Arc<LineState>);

struct LineState {
    id: u64,
    peer: IpAddr,
    tls: bool,
    turn: Mutex<Turn>,
    /// Told when it begins to wait for its client.
    waits: Arc<Notify>,
    /// End the connection once everything that was written has been flushed.
    cut: AtomicBool,
    /// End it at once, with a reset on the wire.
    reset: CancellationToken,
    /// End it: its place is needed.
    dismissed: CancellationToken,
    /// What comes is swallowed, and nothing is sent any more.
    blackhole: AtomicBool,
    /// The last request was answered before its body was there.
    lingers: AtomicBool,
}

/// Whose move is next.
#[derive(Debug, Clone, Copy)]
enum Turn {
    /// The client's: it has to send a request, and waits longer than it should from `until` on.
    Client { since: Instant, until: Instant },
    /// Ours: a request is read, done and answered.
    Ours,
    /// The answer is whole; what is left of it is on its way out.
    Sending,
}

impl Line {
    /// Its number among those of its endpoint.
    pub(crate) fn id(&self) -> u64 {
        self.0.id
    }

    /// Who is at the other end.
    pub(crate) fn peer(&self) -> IpAddr {
        self.0.peer
    }

    /// Whether it goes over TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.0.tls
    }

    /// Ends the connection after the bytes that the response's body has given so far. The caller then gives no more
    /// bytes, and no end either: it stays pending.
    pub(crate) fn cut(&self) {
        self.0.cut.store(true, Ordering::Release);
    }

    /// Ends the connection after this answer, and reads away before what its client still sends: a client that is cut off
    /// while it sends may never see the answer.
    pub(super) fn linger(&self) {
        self.0.lingers.store(true, Ordering::Release);
    }

    /// Ends the connection at once; what is in its buffers is lost.
    pub(crate) fn reset(&self) {
        self.0.reset.cancel();
    }

    /// Meets what a script wants of the connection. Never returns: nothing more is answered on it.
    pub(crate) async fn meet(&self, fate: Fate) {
        match fate {
            Fate::Blackhole => self.0.blackhole.store(true, Ordering::Release),
            // HTTP has no other end; a script that wants one is refused.
            Fate::Reset | Fate::Close(_) | Fate::End(_) | Fate::Detach(_) => self.reset(),
        }
        std::future::pending().await
    }

    /// Keeps the answer to a request that was done. Never returns.
    pub(crate) async fn drop_answer(&self, reset: bool) {
        if reset {
            self.reset();
        }
        std::future::pending().await
    }

    pub(super) fn is_cut(&self) -> bool {
        self.0.cut.load(Ordering::Acquire)
    }

    pub(super) fn lingers(&self) -> bool {
        self.0.lingers.load(Ordering::Acquire)
    }

    pub(super) fn swallows(&self) -> bool {
        self.0.blackhole.load(Ordering::Acquire)
    }

    pub(super) fn is_reset(&self) -> bool {
        self.0.reset.is_cancelled()
    }

    pub(super) async fn reset_wanted(&self) {
        self.0.reset.cancelled().await;
    }

    /// It is let in: its first request may take as long again.
    pub(super) fn let_in(&self) {
        *self.turn() = Turn::client(FIRST_PATIENCE);
    }

    /// A request's head is whole.
    pub(super) fn request_began(&self) {
        *self.turn() = Turn::Ours;
    }

    /// Its answer is whole.
    pub(super) fn answered(&self) {
        *self.turn() = Turn::Sending;
    }

    /// Everything that was written is out.
    pub(super) fn flushed(&self) {
        let mut turn = self.turn();
        if matches!(*turn, Turn::Sending) {
            *turn = Turn::client(NEXT_PATIENCE);
            self.0.waits.notify_one();
        }
    }

    /// Waits until the connection is to end because of its client: it did not send its request in time, or its place is
    /// needed by others. Says which.
    pub(super) async fn outstays(&self) -> &'static str {
        let in_time = async {
            while let Some(until) = self.patience_ends() {
                sleep_until(until).await;
            }
        };
        tokio::select! {
            () = in_time => "its client did not send a whole request in time",
            () = self.0.dismissed.cancelled() => "its client sends no request, and another needs its place",
        }
    }

    /// When to look again whether the client took too long; `None` when it did. A connection that a script swallows has no
    /// such end.
    fn patience_ends(&self) -> Option<Instant> {
        let now = Instant::now();
        match *self.turn() {
            Turn::Client { until, .. } if until > now => Some(until),
            Turn::Client { .. } if !self.swallows() => None,
            // Whoever begins to wait from now on may wait for at least so long.
            _ => Some(now + NEXT_PATIENCE),
        }
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.0.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    fn client(patience: Duration) -> Self {
        let since = Instant::now();
        Self::Client { since, until: since + patience }
    }
}

/// The connections of one endpoint that are open.
#[derive(Default)]
pub(crate) struct Lines {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Weak<LineState>>>,
    /// Told when one of them begins to wait for its client.
    waits: Arc<Notify>,
    /// New connections are swallowed until then.
    blackhole: Mutex<Option<Instant>>,
}

impl Lines {
    /// Resets every open connection; says how many there were.
    pub(crate) fn reset_all(&self) -> usize {
        let open = self.all();
        open.iter().for_each(Line::reset);
        open.len()
    }

    /// Swallows every open connection, and those that come within this time; says how many were open.
    pub(crate) fn blackhole_all(&self, lasts: Duration) -> usize {
        *self.blackhole() = Some(Instant::now() + lasts);
        let open = self.all();
        for line in &open {
            line.0.blackhole.store(true, Ordering::Release);
        }
        open.len()
    }

    /// New connections are served again; those that were swallowed stay so.
    pub(crate) fn end_blackhole(&self) {
        *self.blackhole() = None;
    }

    pub(super) fn add(&self, peer: SocketAddr, tls: bool) -> Line {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let swallowed = self.blackhole().is_some_and(|until| Instant::now() < until);
        let line = Line(Arc::new(LineState {
            id,
            peer: peer.ip(),
            tls,
            turn: Mutex::new(Turn::client(FIRST_PATIENCE)),
            waits: Arc::clone(&self.waits),
            cut: AtomicBool::new(false),
            reset: CancellationToken::new(),
            dismissed: CancellationToken::new(),
            blackhole: AtomicBool::new(swallowed),
            lingers: AtomicBool::new(false),
        }));
        self.open().insert(id, Arc::downgrade(&line.0));
        line
    }

    pub(super) fn remove(&self, line: &Line) {
        self.open().remove(&line.0.id);
    }

    /// Ends the connection that has waited longest for its client to send a request; false when none waits.
    pub(super) fn dismiss_one(&self) -> bool {
        let waiting = self.all().into_iter().filter(|line| !line.0.dismissed.is_cancelled());
        let waiting = waiting.filter_map(|line| match *line.turn() {
            Turn::Client { since, .. } => Some((since, line.0.id)),
            Turn::Ours | Turn::Sending => None,
        });
        let longest = waiting.min().and_then(|(_, id)| self.open().get(&id).and_then(Weak::upgrade));
        longest.is_some_and(|line| {
            line.dismissed.cancel();
            true
        })
    }

    /// Waits until a connection begins to wait for its client.
    ///
    /// # Cancel safety
    /// Cancel safe: what it would have told is told to the next call.
    pub(super) async fn one_waits(&self) {
        self.waits.notified().await;
    }

    /// How many are open.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.open().len()
    }

    fn all(&self) -> Vec<Line> {
        self.open().values().filter_map(Weak::upgrade).map(Line).collect()
    }

    fn blackhole(&self) -> MutexGuard<'_, Option<Instant>> {
        self.blackhole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> MutexGuard<'_, HashMap<u64, Weak<LineState>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
