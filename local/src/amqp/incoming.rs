//! What a client sends: transfers become deliveries, deliveries become messages or requests.

use std::sync::Arc;

use super::context::{Context, scripted};
use super::link::{Incoming, Link, NO_TRANSACTIONS, Partial, Target};
use super::message::messages_of;
use super::performative::{AmqpError, Reply, Transfer};
use super::session::{Failure, RequestBytes, Session, WINDOW};
use crate::broker::{LinkRole, SendRefusal};
use crate::fault::BusEvent;
use crate::log::{printable, say};

impl Session {
    pub(crate) fn transfer(
        &mut self,
        cx: &mut Context,
        transfer: &Transfer<'_>,
    ) -> Result<Option<RequestBytes>, Failure> {
        self.next_incoming_id = self.next_incoming_id.wrapping_add(1);
        self.incoming_left = self.incoming_left.checked_sub(1).ok_or_else(|| {
            Failure::session("amqp:session:window-violation", format!("more than {WINDOW} frames beyond the last flow"))
        })?;
        if self.incoming_left < WINDOW / 2 {
            self.write_flow(cx, None);
        }
        let handle = transfer.handle;
        let link = match self.links.get_mut(&handle) {
            Some(Link::Incoming(link)) => link,
            Some(Link::Detached) => return Ok(None),
            Some(Link::Outgoing(_)) => {
                let text = format!("a transfer on handle {handle}, on which the client receives");
                return Err(Failure::session("amqp:not-allowed", text));
            }
            None => {
                let text = format!("a transfer on handle {handle}, which is not attached");
                return Err(Failure::session("amqp:session:unattached-handle", text));
            }
        };
        let before = link.partial_bytes();
        let collected = collect(link, transfer);
        cx.held.add(link.partial_bytes());
        cx.held.give_back(before);
        match collected? {
            Collected::Whole(delivery) => self.delivered(cx, handle, &delivery),
            Collected::TooLarge { id, settled, cause } => {
                // The link ends, as AMQP asks; JavaScript hears of its message only by an answer to it.
                if !settled {
                    self.received.add(&mut cx.out, self.channel, id, Reply::Rejected(Some(cause.clone())));
                }
                Err(Failure::Link(handle, cause))
            }
            Collected::Part => Ok(None),
            Collected::Aborted => {
                self.grant(cx, handle, None);
                Ok(None)
            }
        }
    }

    fn delivered(
        &mut self,
        cx: &mut Context,
        handle: u32,
        delivery: &Delivery<'_>,
    ) -> Result<Option<RequestBytes>, Failure> {
        let Some(Link::Incoming(link)) = self.links.get(&handle) else { return Ok(None) };
        let to_do = match (&link.to, &link.need) {
            (Target::Entity(_), Some(need)) => {
                cx.happens(BusEvent::TransferIn, (&need.path, LinkRole::Sender), (self.channel, handle))
            }
            _ => None,
        }
        .unwrap_or_default();
        if to_do.fate.is_some() {
            return Ok(None);
        }
        let mut request = None;
        let result = match &link.to {
            Target::Request(node) => {
                request = Some(RequestBytes { node: node.clone(), bytes: delivery.payload().to_vec() });
                Ok(())
            }
            Target::Entity(destination) => match messages_of(delivery.format, delivery.payload()) {
                Err(error) => Err(AmqpError::new("amqp:decode-error", format!("the message is malformed: {error}"))),
                Ok(messages) => {
                    let messages: Vec<_> = messages.into_iter().map(Arc::new).collect();
                    match to_do.refuse {
                        Some((refusal, _)) => Err(scripted(refusal.condition())),
                        None => {
                            let times = if to_do.twice { 2 } else { 1 };
                            (0..times).try_for_each(|_| destination.send(&messages, cx.now)).map_err(AmqpError::from)
                        }
                    }
                }
            },
        };
        if let Err(cause) = &result {
            let entity = link.need.as_ref().map_or("", |need| need.path.as_str());
            say!(
                cx.lines(),
                warn,
                "bus: message refused",
                connection = cx.peer.id(),
                entity = %printable(entity),
                condition = cause.condition,
                why = %printable(&cause.description)
            );
        }
        self.grant(cx, handle, None);
        if let Some(reset) = to_do.drop_answer {
            if reset {
                cx.reset_after();
            }
            return Ok(request);
        }
        match result {
            Ok(()) if delivery.settled => {}
            Ok(()) => self.received.add(&mut cx.out, self.channel, delivery.id, Reply::Accepted),
            // Nobody waits for an answer, so only the link can tell.
            Err(cause) if delivery.settled => return Err(Failure::Link(handle, cause)),
            Err(cause) => self.received.add(&mut cx.out, self.channel, delivery.id, Reply::Rejected(Some(cause))),
        }
        Ok(request)
    }
}

/// A complete delivery: within one frame, or collected from several.
struct Delivery<'a> {
    id: u32,
    format: u32,
    settled: bool,
    payload: Payload<'a>,
}

enum Payload<'a> {
    Frame(&'a [u8]),
    Frames(Vec<u8>),
}

impl Delivery<'_> {
    fn payload(&self) -> &[u8] {
        match &self.payload {
            Payload::Frame(bytes) => bytes,
            Payload::Frames(bytes) => bytes,
        }
    }
}

/// What one frame makes of a delivery.
enum Collected<'a> {
    Whole(Delivery<'a>),
    /// More frames are to come.
    Part,
    /// It is to be forgotten; it used up credit all the same.
    Aborted,
    TooLarge {
        id: u32,
        settled: bool,
        cause: AmqpError,
    },
}

/// Takes one frame of a delivery.
fn collect<'a>(link: &mut Incoming, transfer: &Transfer<'a>) -> Result<Collected<'a>, Failure> {
    let handle = transfer.handle;
    if transfer.transactional {
        return Err(Failure::Link(handle, AmqpError::new("amqp:not-implemented", NO_TRANSACTIONS)));
    }
    let mut partial = match link.partial.take() {
        Some(partial) => {
            if transfer.delivery_id.is_some_and(|id| id != partial.delivery_id) {
                let text = format!("a delivery on handle {handle} began before the one before it ended");
                return Err(Failure::session("amqp:not-allowed", text));
            }
            partial
        }
        None => {
            let missing = || Failure::session("amqp:invalid-field", "a delivery's first transfer has no delivery-id");
            let delivery_id = transfer.delivery_id.ok_or_else(missing)?;
            link.credit = link.credit.checked_sub(1).ok_or_else(|| {
                let text = "a delivery beyond the link's credit; wait for a flow";
                Failure::Link(handle, AmqpError::new("amqp:link:transfer-limit-exceeded", text))
            })?;
            link.delivery_count = link.delivery_count.wrapping_add(1);
            let format = transfer.message_format.unwrap_or(0);
            Partial { delivery_id, format, settled: false, payload: Vec::new() }
        }
    };
    partial.settled |= transfer.settled.unwrap_or(false);
    if transfer.aborted {
        return Ok(Collected::Aborted);
    }
    let size = partial.payload.len() + transfer.payload.len();
    if u64::try_from(size).unwrap_or(u64::MAX) > link.bytes_max {
        let text =
            format!("The received message (size: {size} or more) exceeds the limit ({}) of this link.", link.bytes_max);
        // The SDKs' size error (Python `MessageSizeExceededError`, JavaScript `MessageSizeExceeded`).
        let cause = AmqpError::new("amqp:link:message-size-exceeded", text);
        return Ok(Collected::TooLarge { id: partial.delivery_id, settled: partial.settled, cause });
    }
    if transfer.more {
        let payload = &mut partial.payload;
        if payload.capacity() - payload.len() < transfer.payload.len() {
            // By a quarter and not to twice as much: what is reserved counts as held.
            payload.reserve_exact(transfer.payload.len().max(payload.len() / 4));
        }
        payload.extend_from_slice(transfer.payload);
        link.partial = Some(partial);
        return Ok(Collected::Part);
    }
    let payload = if partial.payload.is_empty() {
        Payload::Frame(transfer.payload)
    } else {
        partial.payload.extend_from_slice(transfer.payload);
        Payload::Frames(partial.payload)
    };
    let (id, format, settled) = (partial.delivery_id, partial.format, partial.settled);
    Ok(Collected::Whole(Delivery { id, format, settled, payload }))
}

impl From<SendRefusal> for AmqpError {
    fn from(refusal: SendRefusal) -> Self {
        let condition = match refusal {
            // The SDKs' quota error (Python `ServiceBusQuotaExceededError`, JavaScript `QuotaExceeded`).
            SendRefusal::Full { .. } => "amqp:resource-limit-exceeded",
        };
        Self::new(condition, refusal.to_string())
    }
}
