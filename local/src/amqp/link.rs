//! Links: what a client attached, how far it has come, and what it may still send or get.

use std::{collections::VecDeque, sync::Arc};

use super::address::Address;
use super::context::scripted;
use super::held::{LINK_BYTES, MESSAGE_MAX};
use super::performative::{AmqpError, Attach, Role, Terminus};
use super::tokens::{Need, Right, Tokens, unauthorized};
use crate::broker::{Broker, Cut, Destination, EntityStatus, LinkKey, LinkRole, Mailbox, Moment, Node, Part};

/// Deliveries that a sender may make before it hears of more; granted again at half.
pub(crate) const CREDIT: u32 = 1_000;

/// Largest request to `$cbs`, and what one to `$management` may have besides the largest message of its entity.
const REQUEST_MAX: u64 = 64 * 1024;

/// What an attach states as the largest answer.
const ANSWER_MAX: u64 = 1024 * 1024;

/// Answers that wait for a client's credit; more means that it never reads them.
const REPLIES_MAX: usize = 1_000;

/// What is answered to whoever wants a transaction.
pub(crate) const NO_TRANSACTIONS: &str = "transactions are not supported; send and settle without one";

/// A link, by the direction that messages take.
#[derive(Debug)]
pub(crate) enum Link {
    /// The client sends.
    Incoming(Incoming),
    /// The client receives.
    Outgoing(Outgoing),
    /// We detached it; what still comes on the handle until the client agrees is dropped.
    Detached,
}

/// Where a client's messages go.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Entity(Destination),
    Request(Address),
}

#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) key: LinkKey,
    pub(crate) name: String,
    pub(crate) need: Option<Need>,
    pub(crate) to: Target,
    pub(crate) delivery_count: u32,
    pub(crate) credit: u32,
    pub(crate) bytes_max: u64,
    pub(crate) partial: Option<Partial>,
}

/// A delivery whose last frame has not come.
#[derive(Debug)]
pub(crate) struct Partial {
    pub(crate) delivery_id: u32,
    pub(crate) format: u32,
    pub(crate) settled: bool,
    pub(crate) payload: Vec<u8>,
}

/// Where a client's messages come from.
#[derive(Debug)]
pub(crate) enum Origin {
    Entity {
        mailbox: Arc<Mailbox>,
        part: Part,
        /// Peek-lock; else receive and delete.
        lock: bool,
    },
    /// Answers to requests on this node.
    Replies { node: Address, waiting: VecDeque<Vec<u8>>, settled: bool },
}

#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) key: LinkKey,
    pub(crate) name: String,
    pub(crate) need: Option<Need>,
    pub(crate) from: Origin,
    /// What a request gives as `reply-to`.
    pub(crate) target: Option<String>,
    pub(crate) delivery_count: u32,
    pub(crate) credit: u32,
    pub(crate) drain: bool,
    /// It stands in the queue's line.
    pub(crate) waiting: bool,
    /// It was woken and has not taken yet: others wait for it to take or to pass on.
    pub(crate) woken: bool,
    /// It stands in the connection's line of links to pump.
    pub(crate) runnable: bool,
}

impl Link {
    pub(crate) fn need(&self) -> Option<&Need> {
        match self {
            Self::Incoming(link) => link.need.as_ref(),
            Self::Outgoing(link) => link.need.as_ref(),
            Self::Detached => None,
        }
    }

    pub(crate) fn key(&self) -> Option<LinkKey> {
        match self {
            Self::Incoming(link) => Some(link.key),
            Self::Outgoing(link) => Some(link.key),
            Self::Detached => None,
        }
    }

    /// The name that the client gave it, and what the client does.
    pub(crate) fn name(&self) -> Option<(&str, Role)> {
        match self {
            Self::Incoming(link) => Some((&link.name, Role::Sender)),
            Self::Outgoing(link) => Some((&link.name, Role::Receiver)),
            Self::Detached => None,
        }
    }

    /// The entity and what the client does there, unless it is a link for requests.
    pub(crate) fn entity(&self) -> Option<(&str, LinkRole)> {
        let (role, need) = match self {
            Self::Incoming(Incoming { to: Target::Entity(_), need, .. }) => (LinkRole::Sender, need),
            Self::Outgoing(Outgoing { from: Origin::Entity { .. }, need, .. }) => (LinkRole::Receiver, need),
            _ => return None,
        };
        need.as_ref().map(|need| (need.path.as_str(), role))
    }

    /// The node that it is attached to; empty when it is not any more.
    pub(crate) fn node(&self) -> String {
        match self {
            Self::Incoming(Incoming { to: Target::Request(node), .. })
            | Self::Outgoing(Outgoing { from: Origin::Replies { node, .. }, .. }) => node.to_string(),
            Self::Incoming(_) | Self::Outgoing(_) => self.need().map_or_else(String::new, |need| need.path.clone()),
            Self::Detached => String::new(),
        }
    }

    /// What this link is told when links of an entity are cut, if it is one of them.
    pub(crate) fn cut_of(&self, entity: &str, cut: Cut) -> Option<AmqpError> {
        let path = self.need()?.path.as_str();
        match cut {
            Cut::Fault(condition) => (path == entity && self.entity().is_some()).then(|| scripted(condition)),
            // Its dead-letter queue and requests about either go with it.
            Cut::Deleted => (owner_of(path) == entity).then(|| not_found(entity)),
            Cut::Disabled(status) => {
                let (_, role) = self.entity()?;
                (owner_of(path) == entity).then(|| disabled(entity, status, role)).flatten()
            }
        }
    }

    /// Deliveries that may still be made on it.
    pub(crate) fn credit(&self) -> u32 {
        match self {
            Self::Incoming(link) => link.credit,
            Self::Outgoing(link) => link.credit,
            Self::Detached => 0,
        }
    }

    /// Bytes that are held as long as it is there.
    pub(crate) fn held_bytes(&self) -> usize {
        let more = match self {
            Self::Incoming(link) => link.name.len() + link.partial_bytes(),
            Self::Outgoing(link) => {
                let waiting = match &link.from {
                    Origin::Replies { waiting, .. } => waiting.iter().map(Vec::len).sum(),
                    Origin::Entity { .. } => 0,
                };
                link.name.len() + link.target.as_ref().map_or(0, String::len) + waiting
            }
            Self::Detached => 0,
        };
        LINK_BYTES + more
    }

    /// Largest delivery, as the attach states it.
    pub(crate) fn bytes_max(&self) -> u64 {
        match self {
            Self::Incoming(link) => link.bytes_max,
            Self::Outgoing(Outgoing { from: Origin::Entity { mailbox, .. }, .. }) => mailbox.options.max_message_bytes,
            // An answer may hold as many messages as it has room for, and one of any size.
            Self::Outgoing(_) | Self::Detached => ANSWER_MAX,
        }
    }

    /// Opens the link that a client asks for, or says why not.
    pub(crate) fn open(
        attach: &Attach<'_>,
        key: LinkKey,
        broker: &Broker,
        tokens: &Tokens,
        now: Moment,
    ) -> Result<Self, AmqpError> {
        let read = |raw| Terminus::read(raw).map_err(|error| AmqpError::new("amqp:invalid-field", error.to_string()));
        let (source, target) = (read(attach.source)?, read(attach.target)?);
        let terminus = if attach.role == Role::Sender { target } else { source };
        if terminus.coordinator {
            return Err(AmqpError::new("amqp:not-implemented", NO_TRANSACTIONS));
        }
        if terminus.dynamic {
            return Err(AmqpError::new("amqp:not-implemented", "dynamic nodes are not supported; name an address"));
        }
        let Some(address) = terminus.address else {
            return Err(AmqpError::new("amqp:invalid-field", "the link names no address; name an entity"));
        };
        let address = Address::parse(address);
        let link = match attach.role {
            Role::Sender => Self::incoming(attach, address, key, broker, tokens, now)?,
            Role::Receiver => {
                let target = target.address.map(str::to_owned);
                if terminus.wants_session() {
                    let text = "A sessionful message receiver cannot be created on an entity that does not require \
                                sessions. There are none here: receive without a session filter.";
                    return Err(AmqpError::new("amqp:not-allowed", text));
                }
                Self::outgoing(attach, address, target, key, broker, tokens, now)?
            }
        };
        Ok(link)
    }

    fn incoming(
        attach: &Attach<'_>,
        address: Address,
        key: LinkKey,
        broker: &Broker,
        tokens: &Tokens,
        now: Moment,
    ) -> Result<Self, AmqpError> {
        let need = need_of(&address, Right::Send);
        let node = permitted_node(&address, need.as_ref(), broker, tokens, now)?;
        let message_max = node.as_ref().map_or(0, Node::max_message_bytes).min(MESSAGE_MAX);
        let to = match (address, node) {
            (Address::Entity(_), Some(Node::Queue(mailbox, Part::Main))) => Target::Entity(Destination::Queue(mailbox)),
            (Address::Entity(_), Some(Node::Topic(topic))) => Target::Entity(Destination::Topic(topic)),
            (Address::Entity(path), Some(Node::Subscription(..) | Node::Queue(..))) => {
                let text = format!("nothing can be sent to '{path}'; send to its queue or topic");
                return Err(AmqpError::new("amqp:not-allowed", text));
            }
            (address, _) => Target::Request(address),
        };
        if let (Target::Entity(destination), Some(need)) = (&to, &need)
            && let Some(refusal) = disabled(&need.path, destination.status(), LinkRole::Sender)
        {
            return Err(refusal);
        }
        let bytes_max = match &to {
            Target::Entity(_) => message_max,
            // A message may be scheduled that may be sent.
            Target::Request(_) => message_max.saturating_add(REQUEST_MAX),
        };
        let name = attach.name.to_owned();
        Ok(Self::Incoming(Incoming { key, name, need, to, delivery_count: 0, credit: 0, bytes_max, partial: None }))
    }

    fn outgoing(
        attach: &Attach<'_>,
        address: Address,
        target: Option<String>,
        key: LinkKey,
        broker: &Broker,
        tokens: &Tokens,
        now: Moment,
    ) -> Result<Self, AmqpError> {
        let need = need_of(&address, Right::Listen);
        let node = permitted_node(&address, need.as_ref(), broker, tokens, now)?;
        let from = match (address, node) {
            (Address::Entity(_), Some(Node::Queue(mailbox, part) | Node::Subscription(mailbox, part))) => {
                Origin::Entity { mailbox, part, lock: attach.snd_settle_mode != 1 }
            }
            (Address::Entity(path), Some(Node::Topic(_))) => {
                let text = format!("nothing can be received from the topic '{path}'; receive from a subscription");
                return Err(AmqpError::new("amqp:not-allowed", text));
            }
            (node, _) => Origin::Replies { node, waiting: VecDeque::new(), settled: attach.snd_settle_mode != 0 },
        };
        if let (Origin::Entity { mailbox, .. }, Some(need)) = (&from, &need)
            && let Some(refusal) = disabled(&need.path, mailbox.status(), LinkRole::Receiver)
        {
            return Err(refusal);
        }
        Ok(Self::Outgoing(Outgoing {
            key,
            name: attach.name.to_owned(),
            need,
            from,
            target,
            delivery_count: 0,
            credit: 0,
            drain: false,
            waiting: false,
            woken: false,
            runnable: false,
        }))
    }

    /// The link is gone: whoever else waits for its messages is heard.
    pub(crate) fn close(&self, peer: u64) {
        if let Self::Outgoing(Outgoing { key, from: Origin::Entity { mailbox, part, .. }, .. }) = self {
            mailbox.leave(*part, peer, *key);
        }
    }
}

impl Incoming {
    /// Bytes of a delivery that is not complete.
    pub(crate) fn partial_bytes(&self) -> usize {
        self.partial.as_ref().map_or(0, |partial| partial.payload.capacity())
    }
}

impl Outgoing {
    /// Takes a new credit from a flow (AMQP 1.0 part 2, section 2.6.7).
    pub(crate) fn grant(&mut self, delivery_count: Option<u32>, link_credit: u32, drain: bool) {
        self.credit = left_of(link_credit, delivery_count.unwrap_or(0), self.delivery_count);
        self.drain = drain;
    }

    /// Queues the answer to a request.
    pub(crate) fn reply(&mut self, answer: Vec<u8>) -> Result<(), AmqpError> {
        if let Origin::Replies { waiting, .. } = &mut self.from {
            if waiting.len() >= REPLIES_MAX {
                let text = "too many answers wait for credit; grant credit on the link that receives them";
                return Err(AmqpError::new("amqp:resource-limit-exceeded", text));
            }
            waiting.push_back(answer);
        }
        Ok(())
    }

    /// It cannot take what it was woken for.
    pub(crate) fn pass_on(&mut self) {
        if let Origin::Entity { mailbox, part, .. } = &self.from
            && self.woken
        {
            self.woken = false;
            mailbox.pass_on(*part);
        }
    }
}

/// What is left of so many deliveries or frames that a client granted when its count stood at `theirs`, now that ours
/// stands at `ours`. Counts wrap (AMQP 1.0 part 2, section 1.3.3, by RFC 1982), so any number may be granted, but a client
/// whose count is ahead of ours is mistaken, and has nothing taken away.
pub(super) fn left_of(granted: u32, theirs: u32, ours: u32) -> u32 {
    let sent = ours.wrapping_sub(theirs);
    if sent > i32::MAX.unsigned_abs() { granted } else { granted.saturating_sub(sent) }
}

/// JavaScript knows a missing entity by these words, not by the condition alone (`translate` in `@azure/core-amqp`).
fn not_found(path: &str) -> AmqpError {
    let text = format!("The messaging entity '{path}' could not be found. Create it, or correct its name.");
    AmqpError::new("amqp:not-found", text)
}

/// Why a client may not do this on an entity now, if so.
pub(crate) fn disabled(path: &str, status: EntityStatus, role: LinkRole) -> Option<AmqpError> {
    let (allowed, what) = match role {
        LinkRole::Sender => (status.allows_send(), "Send"),
        LinkRole::Receiver => (status.allows_receive(), "Receive"),
    };
    let text = match status {
        EntityStatus::Disabled => format!("Messaging entity '{path}' is currently disabled. Enable it again."),
        _ => format!("Messaging entity '{path}' is currently disabled for {what} operations. Enable it again."),
    };
    (!allowed).then(|| AmqpError::new("com.microsoft:entity-disabled", text))
}

/// The queue, topic or subscription that a path below it belongs to.
fn owner_of(path: &str) -> &str {
    let path = path.strip_suffix("/$management").unwrap_or(path);
    path.strip_suffix("/$deadletterqueue").unwrap_or(path)
}

fn need_of(address: &Address, right: Right) -> Option<Need> {
    match address {
        Address::Cbs => None,
        Address::Management { entity } => Some(Need { path: format!("{entity}/$management"), right: Right::Any }),
        Address::Entity(path) => Some(Need { path: path.clone(), right }),
    }
}

/// Asks for the right first: who has none learns nothing about what exists.
fn permitted_node(
    address: &Address,
    need: Option<&Need>,
    broker: &Broker,
    tokens: &Tokens,
    now: Moment,
) -> Result<Option<Node>, AmqpError> {
    if let Some(need) = need
        && !tokens.allow(need, now.seconds())
    {
        return Err(unauthorized(need));
    }
    match address {
        Address::Cbs => Ok(None),
        Address::Management { entity: path } | Address::Entity(path) => match broker.node(path) {
            Some(node) => Ok(Some(node)),
            None => Err(not_found(path)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_grant_is_what_was_not_sent_since_whatever_its_size_and_wherever_counts_wrap() {
        let cases = [
            // Granted, their count, ours, what is left.
            (10, 0, 0, 10),
            (10, 0, 4, 6),
            (10, 0, 10, 0),
            (10, 0, 11, 0),
            (u32::MAX, 0, 0, u32::MAX),
            (u32::MAX, 0, 7, u32::MAX - 7),
            (1 << 31, 5, 6, (1 << 31) - 1),
            (10, u32::MAX, 0, 9),
            (10, u32::MAX - 3, 2, 4),
            (u32::MAX, u32::MAX, 1, u32::MAX - 2),
            (0, u32::MAX, u32::MAX, 0),
            // Ahead of us.
            (10, 3, 0, 10),
            (10, 1, u32::MAX, 10),
        ];
        for (granted, theirs, ours, left) in cases {
            assert_eq!(left_of(granted, theirs, ours), left, "{granted} at {theirs}, now {ours}");
        }
    }
}
