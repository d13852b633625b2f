//! A topic: what is sent to it is put on each of its subscriptions whose rules match, at once or when it is due.

use std::{
    borrow::Cow,
    cell::OnceCell,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::filter::View;
use super::mailbox::{Counts, Mailbox, SendRefusal, Shared};
use super::moment::Moment;
use super::options::{EntityStatus, TopicOptions};
use super::queue::{Handed, NotThere, Totals};
use super::rule::Rules;
use super::schedule::Schedule;
use super::seen::Seen;
use crate::amqp::message::Message;

type Subscription = (Arc<Mailbox>, Arc<Rules>);

/// A subscription and what it wants of some messages.
type Chosen<'a> = (&'a Mailbox, Cow<'a, [Arc<Message>]>);

#[derive(Debug)]
pub(crate) struct Topic {
    /// As it was given, for people.
    name: String,
    pub(crate) options: TopicOptions,
    /// Set to begin with from the options, and changed while it runs.
    status: Mutex<EntityStatus>,
    subscriptions: RwLock<Vec<Subscription>>,
    desk: Mutex<Desk>,
    published: AtomicU64,
    shared: Arc<Shared>,
}

/// Where messages come in: each gets a number, known ones are dropped, later ones kept aside.
#[derive(Debug)]
struct Desk {
    last_sequence: i64,
    schedule: Schedule,
    seen: Option<Seen>,
    duplicates: u64,
}

impl Desk {
    fn next_number(&mut self) -> i64 {
        self.last_sequence += 1;
        self.last_sequence
    }
}

impl Topic {
    pub(crate) fn new(name: String, options: TopicOptions, shared: Arc<Shared>) -> Self {
        let seen = options.duplicate_detection_window.map(Seen::new);
        Self {
            name,
            status: Mutex::new(options.status),
            options,
            subscriptions: RwLock::default(),
            desk: Mutex::new(Desk { last_sequence: 0, schedule: Schedule::default(), seen, duplicates: 0 }),
            published: AtomicU64::new(0),
            shared,
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

    /// The options with the status of now.
    pub(crate) fn options_now(&self) -> TopicOptions {
        TopicOptions { status: self.status(), ..self.options.clone() }
    }

    pub(crate) fn set_status(&self, status: EntityStatus) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// Puts the messages on every subscription, now or when they are due; on none when one of them has no room.
    pub(crate) fn publish(&self, messages: &[Arc<Message>], now: Moment) -> Result<(), SendRefusal> {
        self.accept(messages, now, |_| {})
    }

    /// As [`Self::publish`], and says the numbers that the messages have on the topic.
    pub(crate) fn schedule(&self, messages: &[Arc<Message>], now: Moment) -> Result<Vec<i64>, SendRefusal> {
        let mut sequences = Vec::with_capacity(messages.len());
        self.accept(messages, now, |sequence| sequences.push(sequence))?;
        Ok(sequences)
    }

    fn accept(&self, messages: &[Arc<Message>], now: Moment, mut numbered: impl FnMut(i64)) -> Result<(), SendRefusal> {
        let mut desk = self.desk();
        self.deliver_due(&mut desk, now);
        let subscriptions = self.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
        let chosen = choose(&subscriptions, messages, now);
        self.admits(&desk, &chosen)?;
        if desk.seen.is_none() && messages.iter().all(|message| message.due_after(now).is_none()) {
            messages.iter().for_each(|_| numbered(desk.next_number()));
            self.deliver(messages.len(), &chosen, now);
            return Ok(());
        }
        let mut ready = Vec::new();
        for message in messages {
            let sequence = desk.next_number();
            numbered(sequence);
            if let Some(seen) = &mut desk.seen
                && !seen.is_new(message.message_id(), now)
            {
                desk.duplicates += 1;
            } else if let Some(due) = message.due_after(now) {
                desk.schedule.add(sequence, Arc::clone(message), now, due);
            } else {
                ready.push(Arc::clone(message));
            }
        }
        self.deliver(ready.len(), &choose(&subscriptions, &ready, now), now);
        self.shared.clock.due(desk.schedule.next_due());
        self.shared.changed.notify_waiters();
        Ok(())
    }

    /// A message lies on the topic once, on however many subscriptions: the fullest of them says how full it is.
    fn admits(&self, desk: &Desk, chosen: &[Chosen<'_>]) -> Result<(), SendRefusal> {
        let mut fullest = 0;
        for (subscription, _) in chosen {
            fullest = fullest.max(subscription.admits()?);
        }
        if fullest.saturating_add(desk.schedule.bytes()) >= self.options.max_size_bytes {
            return Err(SendRefusal::Full { entity: self.name.clone(), max: self.options.max_size_bytes });
        }
        Ok(())
    }

    fn deliver(&self, published: usize, chosen: &[Chosen<'_>], now: Moment) {
        for (subscription, messages) in chosen {
            subscription.push(messages, now);
        }
        self.published.fetch_add(u64::try_from(published).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn deliver_due(&self, desk: &mut Desk, now: Moment) {
        let mut due = Vec::new();
        while let Some(message) = desk.schedule.pop_due(now) {
            due.push(message);
        }
        if !due.is_empty() {
            let subscriptions = self.subscriptions.read().unwrap_or_else(PoisonError::into_inner);
            self.deliver(due.len(), &choose(&subscriptions, &due, now), now);
        }
    }

    /// Puts on the subscriptions what is due.
    pub(crate) fn tick(&self, now: Moment) {
        let mut desk = self.desk();
        self.deliver_due(&mut desk, now);
        self.shared.clock.due(desk.schedule.next_due());
    }

    /// Forgets scheduled messages by their numbers: all of them, or none when one is not scheduled.
    pub(crate) fn cancel(&self, sequences: &[i64], now: Moment) -> Result<(), NotThere> {
        let mut desk = self.desk();
        self.deliver_due(&mut desk, now);
        if desk.schedule.cancel(sequences) { Ok(()) } else { Err(NotThere) }
    }

    /// Scheduled messages from a number on while `more` agrees with the last; nothing changes.
    pub(crate) fn peek(&self, from: i64, now: Moment, more: impl FnMut(&Handed) -> bool) -> Vec<Handed> {
        let mut desk = self.desk();
        self.deliver_due(&mut desk, now);
        desk.schedule.peek(from).take_while(more).collect()
    }

    /// What is scheduled, and what was published, as `totals.enqueued`.
    pub(crate) fn counts(&self) -> Counts {
        let desk = self.desk();
        let enqueued = self.published.load(Ordering::Relaxed);
        let totals = Totals { enqueued, duplicates: desk.duplicates, ..Totals::default() };
        Counts { scheduled: desk.schedule.len(), bytes: desk.schedule.bytes(), totals, ..Counts::default() }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The subscriptions that want any of the messages, with those that they want.
fn choose<'a>(subscriptions: &'a [Subscription], messages: &'a [Arc<Message>], now: Moment) -> Vec<Chosen<'a>> {
    // Made by the first subscription that does not take everything.
    let views = OnceCell::new();
    let views = || views.get_or_init(|| messages.iter().map(|message| View::new(message, now)).collect::<Vec<_>>());
    subscriptions
        .iter()
        .map(|(subscription, rules)| (subscription.as_ref(), rules.select(messages, || views().as_slice())))
        .filter(|(_, messages)| !messages.is_empty())
        .collect()
}
