//! The Service Bus endpoint: AMQP 1.0 as Microsoft's clients speak it, over the [`Broker`].
//!
//! The engine is our own, not `fe2o3-amqp`'s acceptor, which cannot set a delivery tag (the lock token) or confirm a
//! settlement. From the wire inwards: `wire` moves bytes, `frame` cuts them, `codec`, `encode` and `performative` read and
//! write them; `connection`, `session` and `link` keep the protocol's state, `incoming`, `outgoing` and `settle` are what
//! happens on a session; `cbs`, `tokens`, `management` and `rules` answer requests; `message` is what the broker keeps.
//!
//! # Sources
//! AMQP 1.0 (OASIS, parts 1 to 5); "AMQP 1.0 in Azure Service Bus and Event Hubs protocol guide"; behaviour seen with
//! `azure-servicebus` 7.15.0 (Python) and `@azure/service-bus` 7.9.5.

pub(crate) mod address;
mod cbs;
pub(crate) mod codec;
pub(crate) mod connection;
pub(crate) mod encode;
pub(crate) mod frame;
mod incoming;
mod link;
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
mod wire;

use std::{sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::{JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

pub use codec::Value;

use self::connection::{Ending, Engine};
use crate::broker::Broker;
use crate::keys::Keys;

/// Pause after an accept that failed, because the reason (no file descriptors left) does not go away at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a link learns that its token is over. Both forms were reported from Azure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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
    /// Connections served at once (default 1,000); more wait in the listener's backlog.
    pub connections_max: usize,
    /// How a link learns that its token is over.
    pub token_end: TokenEnd,
}

impl Default for EndpointOptions {
    fn default() -> Self {
        Self { idle_time_out: Duration::from_secs(120), connections_max: 1_000, token_end: TokenEnd::default() }
    }
}

/// Serves AMQP on a listener until `stop`; then closes the connections in order (2 s at most) and returns.
///
/// # Cancel safety
/// Dropping the future ends all connections without a word.
pub async fn serve(
    listener: TcpListener,
    broker: Arc<Broker>,
    keys: Arc<Keys>,
    options: EndpointOptions,
    stop: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(options.connections_max));
    let mut tasks = JoinSet::new();
    {
        let (broker, stop) = (Arc::clone(&broker), stop.clone());
        tasks.spawn(async move { broker.keep_time(&stop).await });
    }
    loop {
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (listener.accept().await, permit)
        };
        tokio::select! {
            () = stop.cancelled() => break,
            Some(ended) = tasks.join_next() => report(ended),
            (accepted, permit) = accepted => match accepted {
                Ok((stream, _)) => {
                    let engine = Engine::new(Arc::clone(&broker), Arc::clone(&keys), options.clone(), Instant::now());
                    let (revocations, stop) = (keys.revocations(), stop.clone());
                    tasks.spawn(async move {
                        connection(stream, engine, revocations, &stop).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while let Some(ended) = tasks.join_next().await {
        report(ended);
    }
}

async fn connection(
    mut stream: TcpStream,
    mut engine: Engine,
    revocations: tokio::sync::watch::Receiver<u64>,
    stop: &CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
    if wire::serve(&mut stream, &mut engine, revocations, stop).await == Ending::Reset
        && let Err(error) = stream.set_zero_linger()
    {
        tracing::warn!(%error, "a connection ends without RST");
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked; this is a defect of waybill-local");
    }
}
