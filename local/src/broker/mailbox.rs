//! A queue or subscription as connections see it: its [`Store`] behind a lock, and the receivers that wait for either part.
//!
//! Receivers that found nothing stand in line. Whoever is woken takes what it can and wakes the next while messages are
//! left; one that is woken and cannot take says so with [`Mailbox::pass_on`]. So no message lies while somebody waits.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;
use uuid::Uuid;

use super::live::{LinkKey, Peer};
use super::moment::Moment;
use super::options::{EntityStatus, QueueOptions};
use super::queue::{Handed, LockLost, NotThere, Outcome, Totals};
use super::store::{Part, Store};
use crate::amqp::message::Message;
use crate::fault::NewOrder;

/// Why messages are not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendRefusal {
    #[error(
        "The maximum entity size of {max} bytes has been reached for '{entity}'. Receive messages, then send again."
    )]
    Full { entity: String, max: u64 },
}

/// Why a delivery is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SettleRefusal {
    LockLost,
    /// What lies there cannot be dead-lettered once more.
    OnDeadLetterQueue,
    /// The entity has no room for the properties that the message is to get.
    Full,
}

/// Bytes that settling may add to a message of a full entity: a reason and a description, which Azure limits to 4,096
/// characters each.
const ADDED_FREE: u64 = 8_192;

/// What a receiver asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) part: Part,
    /// Under a lock, or for good.
    pub(crate) lock: bool,
    pub(crate) most: u32,
}

/// What an entity holds now, and what happened on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Messages that wait for a receiver.
    pub active: usize,
    /// Messages that a receiver holds.
    pub locked: usize,
    /// Messages put aside, those among them that a receiver holds included.
    pub deferred: usize,
    /// Messages that are to appear later.
    pub scheduled: usize,
    /// Messages on the dead-letter queue of this entity, whatever their state.
    pub dead_lettered: usize,
    /// Bytes held, with a fixed cost per message.
    pub bytes: u64,
    /// What happened since the start.
    pub totals: Totals,
}

/// What all entities of a broker share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Something changed that a test may wait for.
    pub(crate) changed: Notify,
    pub(crate) clock: Clock,
}

/// The earliest time at which a lock or life ends, or a message is due, anywhere.
#[derive(Debug)]
pub(crate) struct Clock {
    next: AtomicI64,
    pub(crate) sooner: Notify,
}

impl Default for Clock {
    fn default() -> Self {
        Self { next: AtomicI64::new(i64::MAX), sooner: Notify::new() }
    }
}

impl Clock {
    pub(crate) fn due(&self, at: Moment) {
        if at.0 < self.next.fetch_min(at.0, Ordering::AcqRel) {
            self.sooner.notify_one();
        }
    }

    pub(crate) fn next(&self) -> Moment {
        Moment(self.next.load(Ordering::Acquire))
    }

    /// Forgets the earliest time; the caller states all that still hold.
    pub(crate) fn clear(&self) {
        self.next.store(i64::MAX, Ordering::Release);
    }
}

/// A link that waits for messages.
#[derive(Debug, Clone)]
pub(crate) struct Waiter {
    pub(crate) peer: Arc<Peer>,
    pub(crate) link: LinkKey,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    /// Links that wait for the queue, and those that wait for its dead-letter queue.
    lines: [VecDeque<Waiter>; 2],
}

impl Inner {
    fn line(&mut self, part: Part) -> &mut VecDeque<Waiter> {
        let [main, dead] = &mut self.lines;
        match part {
            Part::Main => main,
            Part::DeadLetter => dead,
        }
    }

    fn wake_next(&mut self, part: Part) {
        if self.store.queue(part).has_next()
            && let Some(waiter) = self.line(part).pop_front()
        {
            waiter.peer.wake_link(waiter.link);
        }
    }
}

/// A queue or subscription.
#[derive(Debug)]
pub(crate) struct Mailbox {
    /// As it was given, for people.
    pub(crate) name: String,
    pub(crate) options: QueueOptions,
    /// Set to begin with from the options, and changed while it runs.
    status: Mutex<EntityStatus>,
    inner: Mutex<Inner>,
    shared: Arc<Shared>,
}

impl Mailbox {
    pub(crate) fn new(name: String, options: QueueOptions, shared: Arc<Shared>) -> Self {
        let inner = Mutex::new(Inner { store: Store::new(&options), lines: Default::default() });
        Self { name, status: Mutex::new(options.status), options, inner, shared }
    }

    pub(crate) fn status(&self) -> EntityStatus {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The options with the status of now.
    pub(crate) fn options_now(&self) -> QueueOptions {
        QueueOptions { status: self.status(), ..self.options.clone() }
    }

    pub(crate) fn set_status(&self, status: EntityStatus) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// Every change goes through here: what is over ends first, and whoever waits for the result is woken after.
    fn change<R>(&self, now: Moment, change: impl FnOnce(&mut Inner) -> R) -> R {
        let mut inner = self.lock();
        inner.store.advance(now);
        let result = change(&mut inner);
        inner.wake_next(Part::Main);
        inner.wake_next(Part::DeadLetter);
        let next = inner.store.next_end();
        drop(inner);
        self.shared.clock.due(next);
        self.shared.changed.notify_waiters();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is room for more, and how many bytes are held: a send is taken whole as long as there is any room.
    pub(crate) fn admits(&self) -> Result<u64, SendRefusal> {
        let (bytes, max) = (self.lock().store.bytes(), self.options.max_size_bytes);
        if bytes < max { Ok(bytes) } else { Err(SendRefusal::Full { entity: self.name.clone(), max }) }
    }

    /// Takes messages: now, or when they are due. The caller asked [`Self::admits`].
    pub(crate) fn push(&self, messages: &[Arc<Message>], now: Moment) {
        self.change(now, |inner| {
            for message in messages {
                inner.store.push(Arc::clone(message), now);
            }
        });
    }

    /// As [`Self::push`], and says the numbers that the messages have.
    pub(crate) fn schedule(&self, messages: &[Arc<Message>], now: Moment) -> Vec<i64> {
        let push = |inner: &mut Inner, message: &Arc<Message>| inner.store.push(Arc::clone(message), now);
        self.change(now, |inner| messages.iter().map(|message| push(inner, message)).collect())
    }

    /// Forgets scheduled messages by their numbers: all of them, or none when one is not scheduled.
    pub(crate) fn cancel(&self, sequences: &[i64], now: Moment) -> Result<(), NotThere> {
        self.change(now, |inner| inner.store.cancel(sequences))
    }

    /// Hands out messages until `wanted.most` or until `fits` refuses the next one. True when the queue had fewer than
    /// were wanted; then `waiter`, if there is one, stands in line.
    pub(crate) fn take(
        &self,
        wanted: Wanted,
        now: Moment,
        mut fits: impl FnMut(&Message) -> bool,
        handed: &mut Vec<Handed>,
        waiter: impl FnOnce() -> Option<Waiter>,
    ) -> bool {
        self.change(now, |inner| {
            let queue = inner.store.queue_mut(wanted.part);
            for _ in 0..wanted.most {
                let next = if wanted.lock {
                    queue.lock_next(now, new_token(), &mut fits)
                } else {
                    queue.remove_next(&mut fits)
                };
                match next {
                    Some(next) => handed.push(next),
                    None if !queue.has_next() => {
                        inner.line(wanted.part).extend(waiter());
                        return true;
                    }
                    None => break,
                }
            }
            false
        })
    }

    /// The link was woken but cannot take now: somebody else may.
    pub(crate) fn pass_on(&self, part: Part) {
        self.lock().wake_next(part);
    }

    /// The link is gone; it no longer waits.
    pub(crate) fn leave(&self, part: Part, peer: u64, link: LinkKey) {
        let mut inner = self.lock();
        inner.line(part).retain(|waiter| waiter.link != link || waiter.peer.id() != peer);
        inner.wake_next(part);
    }

    /// Settles deliveries alike; one answer each.
    pub(crate) fn settle(
        &self,
        part: Part,
        tokens: &[Uuid],
        outcome: &Outcome,
        now: Moment,
        answers: &mut Vec<Result<(), SettleRefusal>>,
    ) {
        if part == Part::DeadLetter && matches!(outcome, Outcome::DeadLetter(_)) {
            answers.extend(tokens.iter().map(|_| Err(SettleRefusal::OnDeadLetterQueue)));
            return;
        }
        let added = outcome.added_bytes();
        self.change(now, |inner| {
            answers.extend(tokens.iter().map(|token| {
                if added > ADDED_FREE && inner.store.bytes().saturating_add(added) > self.options.max_size_bytes {
                    return Err(SettleRefusal::Full);
                }
                let settled = inner.store.settle(part, *token, outcome.clone(), now);
                settled.map_err(|LockLost| SettleRefusal::LockLost)
            }));
        });
    }

    /// Lets locks last one lock duration from now; none of them when one is over.
    pub(crate) fn renew(&self, part: Part, tokens: &[Uuid], now: Moment) -> Result<Moment, LockLost> {
        self.change(now, |inner| inner.store.queue_mut(part).renew(tokens, now))
    }

    pub(crate) fn holds(&self, part: Part, token: Uuid) -> bool {
        self.lock().store.queue(part).holds(token)
    }

    /// How much [`Self::take_deferred`] would bring.
    pub(crate) fn deferred_bytes(&self, part: Part, sequences: &[i64]) -> usize {
        self.lock().store.queue(part).deferred_bytes(sequences)
    }

    /// Brings deferred messages by their numbers, under locks or for good: all of them, or none.
    pub(crate) fn take_deferred(
        &self,
        part: Part,
        sequences: &[i64],
        lock: bool,
        now: Moment,
    ) -> Result<Vec<Handed>, NotThere> {
        self.change(now, |inner| inner.store.queue_mut(part).take_deferred(sequences, now, || lock.then(new_token)))
    }

    /// Deletes up to `most` messages that wait and were enqueued before a time. Returns how many.
    pub(crate) fn delete_before(&self, part: Part, before: Moment, most: usize, now: Moment) -> usize {
        self.change(now, |inner| inner.store.queue_mut(part).delete_before(before, most))
    }

    /// Messages from a sequence number on while `more` agrees with the last; nothing changes.
    pub(crate) fn peek(&self, part: Part, from: i64, now: Moment, more: impl FnMut(&Handed) -> bool) -> Vec<Handed> {
        self.change(now, |inner| inner.store.peek(part, from, now, more))
    }

    /// Ends what is over, and enqueues what is due.
    pub(crate) fn tick(&self, now: Moment) {
        self.change(now, |_| {});
    }

    pub(crate) fn double_next(&self, part: Part, messages: u32) {
        self.lock().store.queue_mut(part).double_next(messages);
    }

    pub(crate) fn lose_locks(&self, part: Part, tokens: &[Uuid], now: Moment) {
        self.change(now, |inner| tokens.iter().for_each(|token| inner.store.lose_lock(part, *token, now)));
    }

    pub(crate) fn hold_back(&self, part: Part, now: Moment, lasts: Duration, messages: Option<u32>) {
        self.change(now, |inner| inner.store.queue_mut(part).hold_back(now.after(lasts), messages));
    }

    pub(crate) fn reorder(&self, part: Part, now: Moment, messages: u32, order: NewOrder, patience: Duration) {
        self.change(now, |inner| inner.store.queue_mut(part).reorder(messages, order, now.after(patience)));
    }

    pub(crate) fn keep_order(&self, now: Moment) {
        self.change(now, |inner| {
            for part in [Part::Main, Part::DeadLetter] {
                inner.store.queue_mut(part).keep_order();
            }
        });
    }

    pub(crate) fn end_locks(&self, part: Part, now: Moment) -> usize {
        self.change(now, |inner| inner.store.end_locks(part, now))
    }

    pub(crate) fn counts(&self, part: Part) -> Counts {
        let inner = self.lock();
        let queue = inner.store.queue(part);
        let (dead_lettered, scheduled, bytes) = match part {
            Part::Main => {
                let dead = inner.store.queue(Part::DeadLetter);
                (dead.len(), inner.store.scheduled(), inner.store.bytes() - dead.bytes())
            }
            Part::DeadLetter => (0, 0, queue.bytes()),
        };
        Counts {
            active: queue.active(),
            locked: queue.locked(),
            deferred: queue.deferred(),
            scheduled,
            dead_lettered,
            bytes,
            totals: queue.totals(),
        }
    }
}

fn new_token() -> Uuid {
    Uuid::from_u128(rand::random())
}
