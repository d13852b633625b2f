//! Service Bus over AMQP 1.0: one connection per [`Bus`], whose links come back.
//!
//! A lost link or connection ends the [`Sender`] or [`Receiver`] with a typed reason; the owner opens a new one after
//! [`BusError::retry_after`], and [`Bus`] opens a new connection when the old one is gone. Service Bus does not support
//! link recovery, so links are always new.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use time::OffsetDateTime;

use crate::{GrantError, TokenSource};

/// A connection to one namespace. Clones share it.
#[derive(Debug, Clone)]
pub struct Bus {
    #[allow(dead_code)]
    tokens: Arc<dyn TokenSource>,
}

/// Limits of a [`Bus`].
#[derive(Debug, Clone)]
pub struct BusOptions {
    /// For each call: open, attach, put-token, send (default 30 s).
    pub call_timeout: Duration,
    /// What the peer may be silent for before the connection counts as dead (default 60 s).
    pub idle_timeout: Duration,
    /// Extra certificate authorities, PEM.
    pub ca_file: Option<std::path::PathBuf>,
}

impl Default for BusOptions {
    fn default() -> Self {
        Self { call_timeout: Duration::from_secs(30), idle_timeout: Duration::from_secs(60), ca_file: None }
    }
}

/// A message to send. The body goes as one data section.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// The body.
    pub body: Bytes,
    /// `message-id`: what duplicate detection looks at.
    pub message_id: String,
    /// `correlation-id`.
    pub correlation_id: Option<String>,
    /// `subject` (label).
    pub subject: Option<String>,
    /// `content-type`.
    pub content_type: Option<String>,
    /// `creation-time`; default: when it is sent.
    pub created_at: Option<OffsetDateTime>,
    /// `ttl` of the header.
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
    /// `x-opt-sequence-number`: the broker's own, unique in the entity.
    pub sequence_number: i64,
    /// `x-opt-enqueued-time`.
    pub enqueued_at: OffsetDateTime,
    /// `x-opt-locked-until`.
    pub locked_until: Option<OffsetDateTime>,
    /// Of the header: how often it was delivered and not settled before.
    pub delivery_count: u32,
    /// Names this delivery on its link.
    pub tag: DeliveryTag,
}

/// Names a delivery on the link that brought it; useless on any other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryTag(pub(crate) u32);

/// What ends a peek-lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Done.
    Complete,
    /// Failed; counts as a delivery.
    Abandon,
    /// Not tried; does not count as a delivery.
    Release,
    /// To the dead-letter queue.
    DeadLetter {
        /// `DeadLetterReason`.
        reason: String,
        /// `DeadLetterErrorDescription`.
        description: String,
    },
}

/// Why a link or the connection under it is gone, or a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the text of each variant says it")]
pub enum BusError {
    #[error("cannot connect to {address}: {problem}")]
    Connect { address: String, problem: String },
    #[error("no token for the bus")]
    Grant(#[from] GrantError),
    #[error("{entity}: the token was refused: {problem}")]
    Unauthorized { entity: String, problem: String },
    #[error("{entity}: no such entity: {problem}; check its name and that it exists")]
    NotFound { entity: String, problem: String },
    #[error("{entity}: the entity is disabled: {problem}")]
    Disabled { entity: String, problem: String },
    #[error("{entity}: the entity is full: {problem}; it goes on when there is room")]
    QuotaExceeded { entity: String, problem: String },
    #[error("{entity}: the broker is busy: {problem}")]
    Busy { entity: String, problem: String },
    #[error("{entity}: the link was detached: {problem}")]
    Detached { entity: String, problem: String },
    #[error("the connection is gone: {problem}")]
    Disconnected { problem: String },
    #[error("{what} took longer than {limit:?}")]
    Timeout { what: &'static str, limit: Duration },
    #[error("{entity}: message {message_id} is too large: {problem}")]
    TooLarge { entity: String, message_id: String, problem: String },
    #[error("{entity}: refused: {problem}")]
    Rejected { entity: String, problem: String },
}

/// How to open a [`Receiver`].
#[derive(Debug, Clone)]
pub struct ReceiverOptions {
    /// Receive from the entity's dead-letter queue instead.
    pub dead_letter_queue: bool,
}

/// Sends to the grant's entity.
#[derive(Debug)]
pub struct Sender {}

/// Receives from the grant's entity under peek-lock. Brings nothing until it has credit.
#[derive(Debug)]
pub struct Receiver {}

impl Bus {
    /// Does not connect yet.
    #[must_use]
    pub fn new(tokens: Arc<dyn TokenSource>, options: BusOptions) -> Self {
        todo!("{tokens:?} {options:?}")
    }

    /// Connects if needed, puts the token, attaches a sender.
    ///
    /// # Errors
    /// [`BusError`]; with a stale token it renews once by itself.
    pub async fn sender(&self) -> Result<Sender, BusError> {
        todo!()
    }

    /// Connects if needed, puts the token, attaches a receiver with no credit.
    ///
    /// # Errors
    /// [`BusError`]; with a stale token it renews once by itself.
    pub async fn receiver(&self, options: ReceiverOptions) -> Result<Receiver, BusError> {
        todo!("{options:?}")
    }

    /// Closes links and the connection, best effort, within the call timeout. Doing it twice is fine.
    pub async fn close(&self) {
        todo!()
    }
}

impl Sender {
    /// Sends the messages as batches no larger than the link allows, and waits until the broker has accepted them all.
    /// Order within a call is kept. `&self`: several calls may be under way.
    ///
    /// # Errors
    /// The first [`BusError`]; [`BusError::had_no_effect`] says whether some may have been accepted.
    pub async fn send(&self, messages: &[Message]) -> Result<(), BusError> {
        todo!("{messages:?}")
    }
}

impl Receiver {
    /// Lets the broker send `messages` more.
    ///
    /// # Errors
    /// When the link is gone.
    pub async fn add_credit(&mut self, messages: u32) -> Result<(), BusError> {
        todo!("{messages}")
    }

    /// The next delivery.
    ///
    /// # Errors
    /// Why the link is gone. After that, only errors come.
    ///
    /// # Cancel safety
    /// Cancel-safe: a delivery is returned or stays.
    pub async fn next(&mut self) -> Result<Delivery, BusError> {
        todo!()
    }

    /// Takes what has already arrived, without waiting: for bursts.
    pub fn try_next(&mut self) -> Option<Delivery> {
        todo!()
    }

    /// Settles deliveries of this link. Consecutive ones with the same settlement go as one disposition. There is no
    /// confirmation (a lost lock shows as a redelivery), so this must come after the commit that makes it safe.
    ///
    /// # Errors
    /// When the link is gone.
    pub async fn settle(&mut self, tags: &[DeliveryTag], settlement: &Settlement) -> Result<(), BusError> {
        todo!("{tags:?} {settlement:?}")
    }

    /// Stops new deliveries, releases what was not taken, detaches. Best effort, bounded by the call timeout.
    pub async fn close(self) {
        todo!()
    }
}

impl BusError {
    /// Whether the call surely had no effect at the broker, so that repeating it cannot duplicate.
    #[must_use]
    pub fn had_no_effect(&self) -> bool {
        todo!()
    }

    /// How long to wait at least before the next try, when the broker or the kind of error says so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        todo!()
    }

    /// Whether only a person can mend it (missing entity, refused token), so that it is tried on a slow clock.
    #[must_use]
    pub fn needs_person(&self) -> bool {
        todo!()
    }
}
