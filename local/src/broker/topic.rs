//! A topic: what is sent to it is put on each of its subscriptions whose rules match.

use std::{
    cell::OnceCell,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::filter::View;
use super::mailbox::{Mailbox, SendRefusal};
use super::moment::Moment;
use super::options::{EntityStatus, TopicOptions};
use super::rule::Rules;
use crate::amqp::message::Message;

#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) options: TopicOptions,
    /// Set to begin with from the options, and changed while it runs.
    status: Mutex<EntityStatus>,
    subscriptions: RwLock<Vec<(Arc<Mailbox>, Arc<Rules>)>>,
    published: AtomicU64,
}

impl Topic {
    pub(crate) fn new(options: TopicOptions) -> Self {
        Self {
            status: Mutex::new(options.status),
            options,
            subscriptions: RwLock::default(),
            published: AtomicU64::new(0),
        }
    }

    pub(crate) fn subscribe(&self, subscription: Arc<Mailbox>, rules: Arc<Rules>) {
        self.subscriptions.write().unwrap_or_else(PoisonError::into_inner).push((subscription, rules));
    }

    pub(crate) fn unsubscribe(&self, subscription: &Arc<Mailbox>) {
        let mut subscriptions = self.subscriptions.write().unwrap_or_else(PoisonError::into_inner);
        subscriptions.retain(|(known, _)| !Arc::ptr_eq(known, subscription));
    }

    pub(crate) fn status(&self) -> EntityStatus {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_status(&self, status: EntityStatus) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// Puts the messages on every subscription that wants them, or on none when one of those has no room.
    pub(crate) fn publish(&self, messages: &[Arc<Message>], now: Moment) -> Result<(), SendRefusal> {
        let subscriptions = self.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
        // Made by the first subscription that does not take everything.
        let views = OnceCell::new();
        let views = || views.get_or_init(|| messages.iter().map(|message| View::new(message, now)).collect::<Vec<_>>());
        let chosen: Vec<_> = subscriptions
            .iter()
            .map(|(subscription, rules)| (subscription, rules.select(messages, || views().as_slice())))
            .filter(|(_, messages)| !messages.is_empty())
            .collect();
        for (subscription, messages) in &chosen {
            subscription.admits(messages, now)?;
        }
        for (subscription, messages) in &chosen {
            subscription.push(messages, now);
        }
        self.published.fetch_add(u64::try_from(messages.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(())
    }

    pub(crate) fn published(&self) -> u64 {
        self.published.load(Ordering::Relaxed)
    }
}
