//! A queue with its dead-letter queue, and the receivers that wait for either.
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
use super::queue::{DeadLetter, Handed, Leaving, LockLost, Outcome, Queue, Totals, Why};
use crate::amqp::encode::Write;
use crate::amqp::message::Message;
use crate::fault::NewOrder;

/// Which of the two queues of an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    DeadLetter,
}

/// Why messages are not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SendRefusal {
    #[error(
        "The maximum entity size of {max} bytes has been reached for '{entity}'. Receive messages, then send again."
    )]
    Full { entity: String, max: u64 },
    #[error("Scheduled messages are not supported. Send the message without x-opt-scheduled-enqueue-time.")]
    Scheduled,
}

/// Why a delivery is not settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SettleRefusal {
    LockLost,
    /// What lies there cannot be dead-lettered once more.
    OnDeadLetterQueue,
}

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
    /// Messages put aside.
    pub deferred: usize,
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

/// The earliest time at which a lock or life ends anywhere.
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
    fn due(&self, at: Moment) {
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
struct Side {
    queue: Queue,
    waiting: VecDeque<Waiter>,
}

impl Side {
    fn wake_next(&mut self) {
        if self.queue.has_next()
            && let Some(waiter) = self.waiting.pop_front()
        {
            waiter.peer.wake_link(waiter.link);
        }
    }
}

#[derive(Debug)]
struct Inner {
    main: Side,
    dead: Side,
}

impl Inner {
    fn side(&mut self, part: Part) -> &mut Side {
        match part {
            Part::Main => &mut self.main,
            Part::DeadLetter => &mut self.dead,
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
        let side = |queue| Side { queue, waiting: VecDeque::new() };
        let main = side(Queue::new(options.lock_duration, Some(options.max_delivery_count)));
        let dead = side(Queue::new(options.lock_duration, None));
        let status = Mutex::new(options.status);
        Self { name, options, status, inner: Mutex::new(Inner { main, dead }), shared }
    }

    pub(crate) fn status(&self) -> EntityStatus {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_status(&self, status: EntityStatus) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// Every change goes through here: what is over ends first, and whoever waits for the result is woken after.
    fn change<R>(&self, now: Moment, change: impl FnOnce(&mut Inner, &mut Vec<Leaving>) -> R) -> R {
        let mut leaving = Vec::new();
        let mut inner = self.lock();
        inner.main.queue.advance(now, &mut leaving);
        self.bury(&mut inner, &mut leaving);
        // Nothing leaves a dead-letter queue but by completion: no delivery limit, no life.
        inner.dead.queue.advance(now, &mut leaving);
        let result = change(&mut inner, &mut leaving);
        self.bury(&mut inner, &mut leaving);
        inner.main.wake_next();
        inner.dead.wake_next();
        let next = inner.main.queue.next_end().min(inner.dead.queue.next_end());
        drop(inner);
        self.shared.clock.due(next);
        self.shared.changed.notify_waiters();
        result
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what left the queue to the dead-letter queue, with its reason, or drops it.
    fn bury(&self, inner: &mut Inner, leaving: &mut Vec<Leaving>) {
        for left in leaving.drain(..) {
            let asked = match left.why {
                Why::Asked(asked) => asked,
                Why::Deliveries(count) => DeadLetter {
                    reason: Some("MaxDeliveryCountExceeded".to_owned()),
                    description: Some(format!("Message could not be consumed after {count} delivery attempts.")),
                    properties: Vec::new(),
                },
                Why::Expired if self.options.dead_letter_expired => DeadLetter {
                    reason: Some("TTLExpiredException".to_owned()),
                    description: Some("The message expired and was dead lettered.".to_owned()),
                    properties: Vec::new(),
                },
                Why::Expired => {
                    inner.main.queue.left(false);
                    continue;
                }
            };
            inner.main.queue.left(true);
            let message = dead_letter(&left.message, &asked);
            inner.dead.queue.push(message, left.enqueued_at, Moment::NEVER, left.delivery_count);
        }
    }

    /// Whether messages of this kind may come in at all.
    pub(crate) fn admits(&self, messages: &[Arc<Message>], now: Moment) -> Result<(), SendRefusal> {
        if messages.iter().any(|message| message.scheduled_at().is_some_and(|at| at > now.0)) {
            return Err(SendRefusal::Scheduled);
        }
        let inner = self.lock();
        if inner.main.queue.bytes().saturating_add(inner.dead.queue.bytes()) >= self.options.max_size_bytes {
            return Err(SendRefusal::Full { entity: self.name.clone(), max: self.options.max_size_bytes });
        }
        Ok(())
    }

    /// Adds messages at the end. The caller asked [`Self::admits`].
    pub(crate) fn push(&self, messages: &[Arc<Message>], now: Moment) {
        self.change(now, |inner, _| {
            for message in messages {
                let stated = message.ttl().map(|ms| Duration::from_millis(u64::from(ms)));
                let life = match (stated, self.options.default_ttl) {
                    (Some(stated), Some(most)) => Some(stated.min(most)),
                    (stated, most) => stated.or(most),
                };
                let expires_at = life.map_or(Moment::NEVER, |life| now.after(life));
                inner.main.queue.push(Arc::clone(message), now, expires_at, 0);
            }
        });
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
        self.change(now, |inner, _| {
            let side = inner.side(wanted.part);
            for _ in 0..wanted.most {
                let next = if wanted.lock {
                    side.queue.lock_next(now, new_token(), &mut fits)
                } else {
                    side.queue.remove_next(&mut fits)
                };
                match next {
                    Some(next) => handed.push(next),
                    None if !side.queue.has_next() => {
                        side.waiting.extend(waiter());
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
        self.lock().side(part).wake_next();
    }

    /// The link is gone; it no longer waits.
    pub(crate) fn leave(&self, part: Part, peer: u64, link: LinkKey) {
        let mut inner = self.lock();
        let side = inner.side(part);
        side.waiting.retain(|waiter| waiter.link != link || waiter.peer.id() != peer);
        side.wake_next();
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
        self.change(now, |inner, leaving| {
            let queue = &mut inner.side(part).queue;
            let settle = |token: &Uuid| queue.settle(*token, outcome.clone(), now, leaving);
            answers.extend(tokens.iter().map(settle).map(|answer| answer.map_err(|LockLost| SettleRefusal::LockLost)));
        });
    }

    /// Lets a lock last one lock duration from now.
    pub(crate) fn renew(&self, part: Part, token: Uuid, now: Moment) -> Result<Moment, LockLost> {
        self.change(now, |inner, _| inner.side(part).queue.renew(token, now))
    }

    pub(crate) fn holds(&self, part: Part, token: Uuid) -> bool {
        self.lock().side(part).queue.holds(token)
    }

    /// Brings deferred messages by their numbers: under locks, or for good. Unknown numbers are left out.
    pub(crate) fn take_deferred(&self, part: Part, sequences: &[i64], lock: bool, now: Moment) -> Vec<Handed> {
        self.change(now, |inner, _| {
            let queue = &mut inner.side(part).queue;
            sequences.iter().filter_map(|sequence| queue.take_deferred(*sequence, now, lock.then(new_token))).collect()
        })
    }

    /// Messages from a sequence number on while `more` agrees with the last; nothing changes.
    pub(crate) fn peek(&self, part: Part, from: i64, now: Moment, more: impl FnMut(&Handed) -> bool) -> Vec<Handed> {
        self.change(now, |inner, _| inner.side(part).queue.peek(from).take_while(more).collect())
    }

    /// Ends what is over.
    pub(crate) fn tick(&self, now: Moment) {
        self.change(now, |_, _| {});
    }

    pub(crate) fn double_next(&self, part: Part, messages: u32) {
        self.lock().side(part).queue.double_next(messages);
    }

    pub(crate) fn lose_locks(&self, part: Part, tokens: &[Uuid], now: Moment) {
        self.change(now, |inner, leaving| {
            let queue = &mut inner.side(part).queue;
            tokens.iter().for_each(|token| queue.lose_lock(*token, now, leaving));
        });
    }

    pub(crate) fn hold_back(&self, part: Part, now: Moment, lasts: Duration, messages: Option<u32>) {
        self.change(now, |inner, _| inner.side(part).queue.hold_back(now.after(lasts), messages));
    }

    pub(crate) fn reorder(&self, part: Part, now: Moment, messages: u32, order: NewOrder, patience: Duration) {
        self.change(now, |inner, _| inner.side(part).queue.reorder(messages, order, now.after(patience)));
    }

    pub(crate) fn keep_order(&self, now: Moment) {
        self.change(now, |inner, _| {
            inner.main.queue.keep_order();
            inner.dead.queue.keep_order();
        });
    }

    pub(crate) fn end_locks(&self, part: Part, now: Moment) -> usize {
        self.change(now, |inner, leaving| inner.side(part).queue.end_locks(now, leaving))
    }

    pub(crate) fn counts(&self, part: Part) -> Counts {
        let mut inner = self.lock();
        let dead = &inner.dead.queue;
        let dead_lettered = match part {
            Part::Main => dead.active() + dead.locked() + dead.deferred(),
            Part::DeadLetter => 0,
        };
        let queue = &inner.side(part).queue;
        Counts {
            active: queue.active(),
            locked: queue.locked(),
            deferred: queue.deferred(),
            dead_lettered,
            bytes: queue.bytes(),
            totals: queue.totals(),
        }
    }
}

fn new_token() -> Uuid {
    Uuid::from_u128(rand::random())
}

fn dead_letter(message: &Message, asked: &DeadLetter) -> Arc<Message> {
    let text = |text: &str| {
        let mut encoded = Vec::with_capacity(text.len() + 5);
        encoded.text(text);
        encoded
    };
    let mut set: Vec<(&str, Vec<u8>)> = Vec::with_capacity(2 + asked.properties.len());
    set.extend(asked.reason.as_deref().map(|reason| ("DeadLetterReason", text(reason))));
    set.extend(asked.description.as_deref().map(|words| ("DeadLetterErrorDescription", text(words))));
    set.extend(asked.properties.iter().map(|(key, value)| (key.as_str(), value.clone())));
    Arc::new(if set.is_empty() { message.clone() } else { message.with_properties(&set) })
}
