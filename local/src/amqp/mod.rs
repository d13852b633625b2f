//! The Service Bus endpoint: AMQP 1.0 as Microsoft's clients speak it, over the [`Broker`].
//!
//! The engine is our own, not `fe2o3-amqp`'s acceptor, which cannot set a delivery tag (the lock token) or confirm a
//! settlement. From the wire inwards: `wire` moves bytes, `frame` cuts them, `codec`, `encode` and `performative` read and
//! write them; `connection`, `session` and `link` keep the protocol's state, `context` what they share, `held` what that
//! costs; `handshake` begins a connection, `mail` is what others want of it; `incoming`, `outgoing` and `settle` are what
//! happens on a session; `websocket` is another way in; `answering` gives requests to `cbs`, `management`, `scheduling`
//! and `rules`, by what `tokens` allow; `message` is what the broker keeps.
//!
//! # Sources
//! AMQP 1.0 (OASIS, parts 1 to 5); "AMQP 1.0 in Azure Service Bus and Event Hubs protocol guide"; behaviour seen with
//! `azure-servicebus` 7.15.0 (Python) and `@azure/service-bus` 7.9.5.

pub(crate) mod address;
mod answering;
mod cbs;
pub(crate) mod codec;
pub(crate) mod connection;
mod context;
pub(crate) mod encode;
pub(crate) mod frame;
mod guests;
mod handshake;
mod held;
mod incoming;
mod link;
mod mail;
mod management;
pub(crate) mod message;
mod outgoing;
pub(crate) mod performative;
mod request;
mod rules;
mod scheduling;
mod session;
mod settle;
#[cfg(test)]
mod tests;
mod tokens;
mod websocket;
mod wire;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::FutureExt as _;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

pub use codec::Value;

use self::connection::{Ending, Engine, HANDSHAKE};
use self::guests::{Guest, Guests};
use self::wire::Socket;
use crate::broker::Broker;
use crate::door::{Door, Refused, Stream};
use crate::house::{report, room_for_one};
use crate::keys::Keys;
use crate::log::{Lines, PERIOD, say};

/// Pause after an accept that failed, because the reason (no file descriptors left) does not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a link learns that its token is over. Both forms were reported from Azure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenEnd {
    /// `amqp:unauthorized-access`, "ExpiredToken: The token is expired. Expiration time: …".
    #[default]
    UnauthorizedAccess,
    /// `amqp:link:detach-forced`, "The link is force detached. Code: RenewToken. …" (Azure/azure-sdk-for-python issue 23487).
    DetachForced,
}

/// How the endpoint behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointOptions {
    /// The idle time-out that clients are told (default 120 s); one that is silent for twice as long is closed.
    pub idle_time_out: Duration,
    /// Connections served at once (default 1,000). When they are, one without a token gives way to whoever comes; where all
    /// have one, others wait.
    pub connections_max: usize,
    /// How a link learns that its token is over.
    pub token_end: TokenEnd,
}

impl Default for EndpointOptions {
    fn default() -> Self {
        Self { idle_time_out: Duration::from_secs(120), connections_max: 1_000, token_end: TokenEnd::default() }
    }
}

/// Serves AMQP on a listener, and on one for TLS if there is one, until `stop`; then closes the connections in order (2 s at
/// most) and returns.
///
/// # Cancel safety
/// Dropping the future ends all connections without a word.
pub(crate) async fn serve(
    plain: TcpListener,
    tls: Option<(TcpListener, TlsAcceptor)>,
    broker: Arc<Broker>,
    keys: Arc<Keys>,
    options: EndpointOptions,
    stop: CancellationToken,
) {
    let guests = Arc::new(Guests::default());
    let (mut keeper, mut tasks) = (JoinSet::new(), JoinSet::new());
    {
        let (broker, stop) = (Arc::clone(&broker), stop.clone());
        keeper.spawn(async move {
            tokio::join!(broker.keep_time(&stop), tell_left_out(broker.live().lines(), &stop));
        });
    }
    loop {
        let accepted = async {
            let Some((secure, acceptor)) = &tls else {
                return (plain.accept().await, Door::Plain);
            };
            tokio::select! {
                accepted = plain.accept() => (accepted, Door::Plain),
                accepted = secure.accept() => (accepted, Door::Tls(acceptor.clone())),
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = tasks.join_next() => report(ended),
            (accepted, door) = accepted => match accepted {
                Ok((tcp, peer)) => {
                    // A full house takes the place of the stranger who has waited longest. One newcomer is one line.
                    let (most, mut said) = (options.connections_max, false);
                    let dismiss = || {
                        let dismissed = guests.dismiss_one();
                        if !std::mem::replace(&mut said, true) {
                            say_full(broker.live().lines(), most, &guests, dismissed);
                        }
                        dismissed
                    };
                    if !room_for_one(&mut tasks, most, dismiss, || guests.one_is_stranger(), &stop).await {
                        break;
                    }
                    let guest = guests.enter(peer);
                    let room = Room {
                        peer,
                        broker: Arc::clone(&broker),
                        keys: Arc::clone(&keys),
                        options: options.clone(),
                        stop: stop.clone(),
                        leave: guest.leave(),
                    };
                    tasks.spawn(async move { connection(tcp, &door, guest, room).await });
                }
                Err(error) => {
                    say!(broker.live().lines(), warn, "a connection could not be accepted", %error);
                    // Most likely there are no file descriptors left: a stranger gives its own back.
                    guests.dismiss_one();
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop((plain, tls));
    for mut ending in [tasks, keeper] {
        while let Some(ended) = ending.join_next().await {
            report(ended);
        }
    }
}

/// Says from time to time how many lines were left out, until `stop`.
async fn tell_left_out(lines: &Lines, stop: &CancellationToken) {
    let mut counting = interval(PERIOD);
    counting.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(counting.tick()).await.is_some() {
        for (kind, left_out) in lines.take_left_out() {
            tracing::warn!(left_out, kind, "lines were left out, because there were too many of their kind");
        }
    }
}

/// Says why the house is full, and who had to give way.
fn say_full(lines: &Lines, open: usize, guests: &Guests, dismissed: bool) {
    let (with_token, most_from) = guests.summary();
    let most_from = most_from.map(|(address, count)| format!("{address} ({count})"));
    if dismissed {
        let why = "as many connections as are served at once are open; one without a token had to give way";
        say!(lines, warn, "bus: the house is full", open, with_token, most_from, why);
    } else {
        let why = "as many connections as are served at once are open and have tokens; others wait until one ends: \
                   close what is idle";
        say!(lines, warn, "bus: no more connections", open, with_token, most_from, why);
    }
}

/// What a connection is served with.
struct Room {
    peer: SocketAddr,
    broker: Arc<Broker>,
    keys: Arc<Keys>,
    options: EndpointOptions,
    stop: CancellationToken,
    /// It has to give its place to another.
    leave: CancellationToken,
}

/// Finds out what the client speaks, and serves it.
async fn connection(tcp: TcpStream, door: &Door, guest: Guest, room: Room) {
    let peer = room.peer;
    if let Err(error) = tcp.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
    let began = Instant::now();
    let opened = async {
        door.knock(&tcp).await?;
        let mut stream = door.open(tcp).await?;
        let first = stream.first().await.map_err(Refused::Gone)?;
        Ok((stream, first))
    };
    let opened = tokio::select! {
        opened = timeout_at(began + HANDSHAKE, opened) => opened,
        () = room.stop.cancelled() => return,
        () = room.leave.cancelled() => return,
    };
    let (stream, first) = match opened {
        Ok(Ok(opened)) => opened,
        Ok(Err(refused)) => return Refused::log(&refused, peer),
        Err(_) => return Refused::Silent(HANDSHAKE.as_secs()).log(peer),
    };
    if !first.is_some_and(websocket::is_http) {
        return serve_engine(stream, began, guest, room).await;
    }
    let broker = Arc::clone(&room.broker);
    let lines = broker.live().lines();
    let accepted = tokio::select! {
        accepted = timeout_at(began + HANDSHAKE, websocket::accept(stream, peer, guest.trusted(), lines)) => accepted,
        () = room.stop.cancelled() => return,
        () = room.leave.cancelled() => return,
    };
    match accepted {
        Ok(Some(socket)) => serve_engine(socket, began, guest, room).await,
        Ok(None) => {}
        Err(_) => {
            let why = format!("it began a request for WebSocket and did not finish within {} s", HANDSHAKE.as_secs());
            say!(lines, warn, "bus: connection refused", from = %peer, why);
        }
    }
}

async fn serve_engine<S: Socket>(mut stream: S, began: Instant, guest: Guest, room: Room) {
    let revocations = room.keys.revocations();
    let mut engine = Engine::new(room.broker, room.keys, room.options, began).of(guest);
    engine.peer().came_from(room.peer);
    let ending = tokio::select! {
        ending = wire::serve(&mut stream, &mut engine, revocations, &room.stop) => ending,
        () = room.leave.cancelled() => {
            engine.dismiss(Instant::now());
            // Its place is needed now: what the socket does not take at once is not waited for.
            drop(stream.write_all(engine.output()).now_or_never());
            drop(stream.flush().now_or_never());
            Ending::Close
        }
    };
    if ending == Ending::Reset
        && let Some(Err(error)) = stream.below().map(Stream::reset)
    {
        tracing::warn!(%error, "a connection ends without RST");
    }
}
