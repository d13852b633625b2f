//! Service Bus over AMQP 1.0: one connection per [`Bus`], whose links come back.
//!
//! A lost link or connection ends the [`Sender`] or [`Receiver`] with a typed reason; the owner opens a new one after
//! [`BusError::retry_after`], and [`Bus`] opens a new connection when the old one is gone. Service Bus does not support
//! link recovery, so links are always new.
//!
//! # Tokens
//! Before a link is attached its token is put for the entity; whenever the [`TokenSource`] has a newer one it is put on
//! the open connection and links stay attached. A token that the broker refuses is renewed once per attach; a second
//! refusal is [`BusError::Unauthorized`]. A link that is cut because its token died ends with [`BusError::Detached`]; the
//! next attach is refused for the same reason, or the source has renewed by then, so that all links together cost one
//! renewal.

mod address;
mod cbs;
mod connection;
mod error;
mod link;
mod message;
mod receiver;
mod route;
mod sender;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod token;
mod tunnel;
mod websocket;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::{
    sync::Mutex,
    task::JoinSet,
    time::{Instant, error::Elapsed, timeout},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::route::try_tunnel;
use self::{connection::Connection, route::Route, stream::Contact, token::Tokens};
pub use self::{error::BusError, receiver::Receiver, route::Transport, sender::Sender};
use crate::{TokenSource, proxy::ProxySettings};

/// A connection to one namespace. Clones share it, and so do its senders and receivers: it lives until the last of them
/// is dropped, or until [`Bus::close`].
#[derive(Debug, Clone)]
pub struct Bus {
    inner: Arc<Inner>,
}

/// Limits of a [`Bus`].
#[derive(Debug, Clone)]
pub struct BusOptions {
    /// For each call: open, attach, put-token, send (default 30 s).
    pub call_timeout: Duration,
    /// What the peer may be silent for, or may leave our bytes unread, before the connection counts as dead (default 60 s).
    pub idle_timeout: Duration,
    /// Extra certificate authorities, PEM.
    pub ca_file: Option<PathBuf>,
    /// How AMQP reaches the bus (default: by itself, see [`Transport::Auto`]). `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`
    /// are read when a connection is opened.
    pub transport: Transport,
    /// The clock, for `creation-time` (default: the system's).
    pub now: fn() -> OffsetDateTime,
}

impl Default for BusOptions {
    fn default() -> Self {
        Self {
            call_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            ca_file: None,
            transport: Transport::default(),
            now: OffsetDateTime::now_utc,
        }
    }
}

/// A message to send. The body goes as one data section.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// The body.
    pub body: Bytes,
    /// `message-id`: what duplicate detection looks at. Left out when empty.
    pub message_id: String,
    /// `correlation-id`.
    pub correlation_id: Option<String>,
    /// `subject` (label).
    pub subject: Option<String>,
    /// `content-type`.
    pub content_type: Option<String>,
    /// `creation-time`; default: when it is sent.
    pub created_at: Option<OffsetDateTime>,
    /// `ttl` of the header, and `absolute-expiry-time` when it is longer than the header can say (49.7 days).
    pub time_to_live: Option<Duration>,
    /// Application properties, text only.
    pub properties: BTreeMap<String, String>,
}

/// A message that was received and is locked for us.
#[derive(Debug)]
pub struct Delivery {
    /// `None` when the body is neither data nor a text or binary value: it cannot be decoded.
    pub body: Option<Bytes>,
    /// `message-id` as text, whatever its AMQP type.
    pub message_id: Option<String>,
    /// `subject`.
    pub subject: Option<String>,
    /// `correlation-id` as text.
    pub correlation_id: Option<String>,
    /// `content-type`.
    pub content_type: Option<String>,
    /// Application properties as text (numbers and booleans written out; other types left out).
    pub properties: BTreeMap<String, String>,
    /// `x-opt-sequence-number`: the broker's own, unique in the entity. Negative when the message breaks AMQP's rules so
    /// that nothing of it can be read: then it is made from the lock token, and only tells this delivery from others.
    pub sequence_number: i64,
    /// `x-opt-enqueued-time`; 1970 when the broker gave none.
    pub enqueued_at: OffsetDateTime,
    /// `x-opt-locked-until`.
    pub locked_until: Option<OffsetDateTime>,
    /// Of the header: how often it was delivered and not settled before.
    pub delivery_count: u32,
    /// Names this delivery on its link.
    pub tag: DeliveryTag,
}

/// Names a delivery on the link that brought it; any other link passes it over.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeliveryTag {
    link: u64,
    id: u32,
}

/// What ends a peek-lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Done.
    Complete,
    /// Failed; counts as a delivery.
    Abandon,
    /// Not tried; does not count as a delivery.
    Release,
    /// To the dead-letter queue. Texts beyond 4,096 characters are cut.
    DeadLetter {
        /// `DeadLetterReason`.
        reason: String,
        /// `DeadLetterErrorDescription`.
        description: String,
    },
}

/// How to open a [`Receiver`].
#[derive(Debug, Clone, Default)]
pub struct ReceiverOptions {
    /// Receive from the entity's dead-letter queue instead.
    pub dead_letter_queue: bool,
}

#[derive(Debug)]
struct Inner {
    tokens: Arc<Tokens>,
    options: BusOptions,
    contact: Contact,
    /// Held while a connection is opened, so that all who ask at once share it.
    state: Mutex<State>,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    connection: Option<Connection>,
    /// The way by which the last connection was opened.
    route: Option<Route>,
    /// Of the connections; ended by `stop`, or aborted when the bus is dropped.
    tasks: JoinSet<()>,
}

impl Bus {
    /// Does not connect yet.
    #[must_use]
    pub fn new(tokens: Arc<dyn TokenSource>, options: BusOptions) -> Self {
        let (tokens, state) = (Arc::new(Tokens::new(tokens)), Mutex::default());
        Self {
            inner: Arc::new(Inner {
                tokens,
                options,
                contact: Contact::default(),
                state,
                stop: CancellationToken::new(),
            }),
        }
    }

    /// Connects if needed, puts the token, attaches a sender.
    ///
    /// # Errors
    /// [`BusError`]; with a stale token it renews once by itself.
    ///
    /// # Cancel safety
    /// Cancel-safe: a link that nobody takes is closed again.
    pub async fn sender(&self) -> Result<Sender, BusError> {
        let attached = self.connection().await?.attach_sender().await?;
        Ok(Sender::new(attached, self.clone()))
    }

    /// Connects if needed, puts the token, attaches a receiver with no credit.
    ///
    /// # Errors
    /// [`BusError`]; with a stale token it renews once by itself.
    ///
    /// # Cancel safety
    /// Cancel-safe: a link that nobody takes is closed again.
    pub async fn receiver(&self, options: ReceiverOptions) -> Result<Receiver, BusError> {
        let attached = self.connection().await?.attach_receiver(options.dead_letter_queue).await?;
        Ok(Receiver::new(attached, self.clone()))
    }

    /// How the last connection reached the bus; `None` before the first, and never [`Transport::Auto`].
    pub async fn transport(&self) -> Option<Transport> {
        self.inner.state.lock().await.route.map(|route| match route {
            Route::Amqp => Transport::Amqp,
            Route::WebSocket => Transport::WebSocket,
        })
    }

    /// When anything was heard of the bus; `None` before the first time. A bus that lives says something at least once within
    /// [`BusOptions::idle_timeout`], messages or not.
    #[must_use]
    pub fn last_contact(&self) -> Option<Instant> {
        self.inner.contact.last()
    }

    /// Closes links and the connection, best effort, within the call timeout. Doing it twice is fine. Its senders and
    /// receivers then end with [`BusError::Disconnected`].
    pub async fn close(&self) {
        self.inner.stop.cancel();
        let mut state = self.inner.state.lock().await;
        state.connection = None;
        let ending = async { while state.tasks.join_next().await.is_some() {} };
        if let Err(Elapsed { .. }) = timeout(self.inner.options.call_timeout, ending).await {
            state.tasks.shutdown().await;
        }
    }

    fn options(&self) -> &BusOptions {
        &self.inner.options
    }

    /// The open connection, or a new one.
    async fn connection(&self) -> Result<Connection, BusError> {
        let inner = &self.inner;
        let open = async {
            let mut state = inner.state.lock().await;
            let State { connection, route, tasks } = &mut *state;
            while tasks.try_join_next().is_some() {}
            if let Some(open) = connection.as_ref().filter(|open| open.status.why().is_none()) {
                return Ok(open.clone());
            }
            let proxies = ProxySettings::from_environment();
            let (open, gone) = Connection::open(
                &inner.tokens,
                &inner.options,
                &proxies,
                *route,
                &inner.contact,
                inner.stop.clone(),
                tasks,
            )
            .await?;
            *route = Some(gone);
            Ok(connection.insert(open).clone())
        };
        tokio::select! {
            biased;
            () = inner.stop.cancelled() => Err(BusError::Disconnected { problem: "the bus was closed".to_owned() }),
            opened = open => opened,
        }
    }
}
