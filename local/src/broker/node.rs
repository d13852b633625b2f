//! What a path names for a link: an entity to receive from, to send to, or to ask.

use std::sync::Arc;

use super::mailbox::{Mailbox, SendRefusal};
use super::moment::Moment;
use super::options::EntityStatus;
use super::queue::{Handed, NotThere};
use super::store::Part;
use super::topic::Topic;
use crate::amqp::message::Message;

/// What a link may attach to.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Queue(Arc<Mailbox>, Part),
    Subscription(Arc<Mailbox>, Part),
    Topic(Arc<Topic>),
}

impl Node {
    /// Largest delivery that may be sent to it.
    pub(crate) fn max_message_bytes(&self) -> u64 {
        match self {
            Self::Queue(mailbox, _) | Self::Subscription(mailbox, _) => mailbox.options.max_message_bytes,
            Self::Topic(topic) => topic.options.max_message_bytes,
        }
    }

    /// Messages from a sequence number on while `more` agrees with the last; nothing changes.
    pub(crate) fn peek(&self, from: i64, now: Moment, more: impl FnMut(&Handed) -> bool) -> Vec<Handed> {
        match self {
            Self::Queue(mailbox, part) | Self::Subscription(mailbox, part) => mailbox.peek(*part, from, now, more),
            Self::Topic(topic) => topic.peek(from, now, more),
        }
    }

    /// The entity that a dead-letter queue belongs to.
    pub(crate) fn dead_letter_source(&self) -> Option<&str> {
        match self {
            Self::Queue(mailbox, Part::DeadLetter) | Self::Subscription(mailbox, Part::DeadLetter) => {
                Some(&mailbox.name)
            }
            _ => None,
        }
    }
}

/// Where a sender's messages go.
#[derive(Debug, Clone)]
pub(crate) enum Destination {
    Queue(Arc<Mailbox>),
    Topic(Arc<Topic>),
}

impl Destination {
    pub(crate) fn status(&self) -> EntityStatus {
        match self {
            Self::Queue(mailbox) => mailbox.status(),
            Self::Topic(topic) => topic.status(),
        }
    }

    pub(crate) fn max_message_bytes(&self) -> u64 {
        match self {
            Self::Queue(mailbox) => mailbox.options.max_message_bytes,
            Self::Topic(topic) => topic.options.max_message_bytes,
        }
    }

    /// Takes all messages or none.
    pub(crate) fn send(&self, messages: &[Arc<Message>], now: Moment) -> Result<(), SendRefusal> {
        match self {
            Self::Queue(mailbox) => {
                mailbox.admits()?;
                mailbox.push(messages, now);
                Ok(())
            }
            Self::Topic(topic) => topic.publish(messages, now),
        }
    }

    /// As [`Self::send`], and says the numbers that the messages have: those of scheduled ones cancel them.
    pub(crate) fn schedule(&self, messages: &[Arc<Message>], now: Moment) -> Result<Vec<i64>, SendRefusal> {
        match self {
            Self::Queue(mailbox) => {
                mailbox.admits()?;
                Ok(mailbox.schedule(messages, now))
            }
            Self::Topic(topic) => topic.schedule(messages, now),
        }
    }

    /// Forgets scheduled messages by their numbers: all of them, or none when one is not scheduled.
    pub(crate) fn cancel(&self, sequences: &[i64], now: Moment) -> Result<(), NotThere> {
        match self {
            Self::Queue(mailbox) => mailbox.cancel(sequences, now),
            Self::Topic(topic) => topic.cancel(sequences, now),
        }
    }
}
