//! A topic: what is sent to it is put on each of its subscriptions.

use std::sync::{
    Arc, PoisonError, RwLock,
    atomic::{AtomicU64, Ordering},
};

use super::mailbox::{Mailbox, SendRefusal};
use super::moment::Moment;
use crate::amqp::message::Message;

/// How a topic behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicOptions {
    /// Largest delivery that a sender may make, a batch counting as one (default 1 MiB).
    pub max_message_bytes: u64,
}

impl Default for TopicOptions {
    fn default() -> Self {
        Self { max_message_bytes: 1024 * 1024 }
    }
}

#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) options: TopicOptions,
    subscriptions: RwLock<Vec<Arc<Mailbox>>>,
    published: AtomicU64,
}

impl Topic {
    pub(crate) fn new(options: TopicOptions) -> Self {
        Self { options, subscriptions: RwLock::default(), published: AtomicU64::new(0) }
    }

    pub(crate) fn subscribe(&self, subscription: Arc<Mailbox>) {
        self.subscriptions.write().unwrap_or_else(PoisonError::into_inner).push(subscription);
    }

    /// Puts the messages on every subscription, or on none when one of them has no room.
    pub(crate) fn publish(&self, messages: &[Arc<Message>], now: Moment) -> Result<(), SendRefusal> {
        let subscriptions = self.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
        for subscription in subscriptions.iter() {
            subscription.admits(messages, now)?;
        }
        for subscription in subscriptions.iter() {
            subscription.push(messages, now);
        }
        self.published.fetch_add(u64::try_from(messages.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }
}
