//! Receives under peek-lock: credit in, deliveries out, settlements back.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
};

use fe2o3_amqp::link::{RecvError, delivery::DeliveryInfo, receiver::TerminalDeliveryState};
use fe2o3_amqp_types::{
    definitions::{self, ErrorCondition, Fields},
    messaging::{Accepted, Body, Modified, Rejected, Released},
    primitives::{Symbol, Value},
};
use futures::FutureExt;
use tokio::sync::oneshot;

use super::{
    Bus, BusError, Delivery, DeliveryTag, Settlement,
    connection::Attached,
    link::{Ended, Link},
    message,
};

/// Service Bus cuts longer reasons and descriptions of dead-lettered messages.
const DEAD_LETTER_TEXT_MAX: usize = 4096;

/// Counts links, so that a tag of an earlier link never settles a delivery of a later one.
static LINKS: AtomicU64 = AtomicU64::new(0);

/// Receives from the grant's entity under peek-lock. Brings nothing until it has credit.
///
/// What it holds in memory is bounded by the credit that it was given. Dropping it gives back what was not taken, in the
/// background; [`Receiver::close`] waits for that.
#[derive(Debug)]
pub struct Receiver {
    link: Link,
    number: u64,
    /// Absent only while the receiver is being dropped, and then its way out is too.
    end: Option<(fe2o3_amqp::Receiver, oneshot::Sender<fe2o3_amqp::Receiver>)>,
    /// What the engine needs to settle the deliveries that were taken.
    unsettled: HashMap<u32, DeliveryInfo>,
    _bus: Bus,
}

type Received = Result<fe2o3_amqp::Delivery<Body<Value>>, RecvError>;

impl Receiver {
    pub(super) fn new(attached: Attached<fe2o3_amqp::Receiver>, bus: Bus) -> Self {
        let Attached { end, link, retire } = attached;
        let number = LINKS.fetch_add(1, Ordering::Relaxed);
        Self { link, number, end: Some((end, retire)), unsettled: HashMap::new(), _bus: bus }
    }

    /// The path that it receives from: the grant's entity, with `/$DeadLetterQueue` behind it for that queue.
    #[must_use]
    pub fn entity(&self) -> &str {
        &self.link.entity
    }

    /// Lets the broker send `messages` more.
    ///
    /// # Errors
    /// When the link is gone.
    ///
    /// # Cancel safety
    /// When cancelled, the credit was given or not.
    pub async fn add_credit(&mut self, messages: u32) -> Result<(), BusError> {
        self.alive()?;
        let receiver = attached(&mut self.end);
        let credit = receiver.credit().saturating_add(messages);
        match self.link.bounded("giving credit", receiver.set_credit(credit)).await? {
            Ok(()) => Ok(()),
            Err(error) => Err(self.link.lost(Ended::from(&error)).await),
        }
    }

    /// The next delivery.
    ///
    /// # Errors
    /// Why the link is gone. After that, only errors come.
    ///
    /// # Cancel safety
    /// Cancel-safe: a delivery is returned or stays.
    pub async fn next(&mut self) -> Result<Delivery, BusError> {
        self.alive()?;
        let received = tokio::select! {
            biased;
            received = attached(&mut self.end).recv() => received,
            why = self.link.status.ended() => return Err(why),
        };
        match self.take(received) {
            Ok(delivery) => Ok(delivery),
            Err(ended) => Err(self.link.lost(ended).await),
        }
    }

    /// Takes what has already arrived, without waiting: for bursts.
    pub fn try_next(&mut self) -> Option<Delivery> {
        self.alive().ok()?;
        // Unconstrained, because a spent cooperative budget would look like an empty link.
        let received = tokio::task::unconstrained(attached(&mut self.end).recv()).now_or_never()?;
        match self.take(received) {
            Ok(delivery) => Some(delivery),
            Err(ended) => {
                // The end of a connection is told once more by `next`, which can wait for its reason.
                if !matches!(ended, Ended::WithConnection) {
                    drop(self.link.lost(ended).now_or_never());
                }
                None
            }
        }
    }

    /// Settles deliveries of this link. Consecutive ones with the same settlement go as one disposition. Deliveries of
    /// an earlier link, and those settled before, are passed over: the broker brings the former again.
    ///
    /// There is no confirmation (a lost lock shows as a redelivery), so this must come after the commit that makes it safe.
    ///
    /// # Errors
    /// When the link is gone.
    ///
    /// # Cancel safety
    /// When cancelled, the deliveries were settled or come again.
    pub async fn settle(&mut self, tags: &[DeliveryTag], settlement: &Settlement) -> Result<(), BusError> {
        self.alive()?;
        let ours = tags.iter().filter(|tag| tag.link == self.number);
        let deliveries: Vec<DeliveryInfo> = ours.filter_map(|tag| self.unsettled.remove(&tag.id)).collect();
        if deliveries.is_empty() {
            return Ok(());
        }
        let settling = attached(&mut self.end).dispose_all(deliveries, state(settlement));
        match self.link.bounded("settling", settling).await? {
            Ok(()) => Ok(()),
            Err(error) => Err(self.link.lost(Ended::from(&error)).await),
        }
    }

    /// Stops new deliveries, releases what was not taken, detaches. Best effort, bounded by the call timeout. Deliveries
    /// that were taken and not settled come again when their locks end.
    pub async fn close(mut self) {
        let status = std::sync::Arc::clone(&self.link.status);
        self.retire();
        let ended = status.ended().await;
        tracing::debug!(entity = self.link.entity, %ended, "receiver closed");
    }

    fn alive(&self) -> Result<(), BusError> {
        self.link.status.why().map_or(Ok(()), Err)
    }

    fn take(&mut self, received: Received) -> Result<Delivery, Ended> {
        let (info, delivery) = match received {
            Ok(delivery) => {
                let (info, message) = delivery.into_parts();
                let tag = DeliveryTag { link: self.number, id: info.delivery_id() };
                (info, message::delivery(message, tag))
            }
            Err(RecvError::MessageDecode(error)) => {
                let tag = DeliveryTag { link: self.number, id: error.info.delivery_id() };
                tracing::warn!(entity = self.link.entity, error = %error.source, "a message cannot be decoded");
                let delivery = message::undecodable(error.info.delivery_tag(), tag);
                (error.info, delivery)
            }
            Err(error) => return Err(Ended::from(&error)),
        };
        self.unsettled.insert(info.delivery_id(), info);
        Ok(delivery)
    }

    /// Hands the engine's receiver to the task that winds it down.
    fn retire(&mut self) {
        if let Some((receiver, retire)) = self.end.take() {
            // When that task is gone, so is the connection.
            drop(retire.send(receiver));
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.retire();
    }
}

fn attached(
    end: &mut Option<(fe2o3_amqp::Receiver, oneshot::Sender<fe2o3_amqp::Receiver>)>,
) -> &mut fe2o3_amqp::Receiver {
    &mut end.as_mut().expect("only `close` and `drop` take it, and nothing follows them").0
}

fn state(settlement: &Settlement) -> TerminalDeliveryState {
    match settlement {
        Settlement::Complete => Accepted {}.into(),
        Settlement::Abandon => {
            Modified { delivery_failed: Some(true), undeliverable_here: Some(false), message_annotations: None }.into()
        }
        Settlement::Release => Released {}.into(),
        Settlement::DeadLetter { reason, description } => {
            let mut info = Fields::new();
            info.insert(Symbol::from("DeadLetterReason"), Value::String(cut(reason)));
            info.insert(Symbol::from("DeadLetterErrorDescription"), Value::String(cut(description)));
            let condition = ErrorCondition::Custom(Symbol::from("com.microsoft:dead-letter"));
            Rejected { error: Some(definitions::Error::new(condition, None, info)) }.into()
        }
    }
}

fn cut(text: &str) -> String {
    text.chars().take(DEAD_LETTER_TEXT_MAX).collect()
}
