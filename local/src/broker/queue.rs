//! One queue: order, peek-locks and delivery counts. Pure: time and lock tokens are passed in, nothing is awaited.
//!
//! ready ──lock──► locked ──complete──► gone;  locked ──abandon, lock expiry──► ready, one delivery counted
//! locked ──release──► ready, nothing counted;  locked ──defer──► deferred ──lock──► locked
//! ready, locked, deferred ──too many deliveries, dead-letter──► leaves;  ready ──expiry──► leaves
//!
//! # Invariants
//! 1. A message is handed out under at most one lock that holds.
//! 2. A message that comes back keeps its sequence number and its place in the order.
//! 3. A token whose lock has ended settles nothing, not even the message's next delivery.
//!
//! # Sources
//! Service Bus "Message transfers, locks, and settlement", "Overview of Service Bus dead-letter queues" (delivery count;
//! deferred messages do not leave when they expire), "Message expiration" (nor do locked ones, until their lock ends); that
//! `released` counts no delivery: Azure/amqpnetlite issue 342.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use uuid::Uuid;

use super::moment::Moment;
use super::order::Order;
use crate::amqp::message::Message;
use crate::fault::NewOrder;

/// Counted for each message besides its bytes, against the size of an entity.
const MESSAGE_COST: u64 = 200;

/// How many messages one request may delete (Service Bus "Batch delete": 4,000 on the Premium tier).
pub(crate) const DELETE_MAX: usize = 4_000;

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Waits for a receiver.
    Active,
    /// Held by a receiver.
    Locked,
    /// Put aside: only its sequence number brings it.
    Deferred,
    /// Kept aside until it is due.
    Scheduled,
}

#[derive(Debug)]
struct Entry {
    message: Arc<Message>,
    enqueued_at: Moment,
    expires_at: Moment,
    delivery_count: u32,
    lock: Option<(Uuid, Moment)>,
    deferred: bool,
    /// Was delivered twice by the fault of that name.
    doubled: bool,
}

impl Entry {
    fn state(&self) -> State {
        match (self.lock, self.deferred) {
            (Some(_), _) => State::Locked,
            (None, true) => State::Deferred,
            (None, false) => State::Active,
        }
    }
}

/// What a receiver gets.
#[derive(Debug, Clone)]
pub(crate) struct Handed {
    pub(crate) message: Arc<Message>,
    pub(crate) sequence: i64,
    pub(crate) enqueued_at: Moment,
    /// [`Moment::NEVER`] when it does not expire.
    pub(crate) expires_at: Moment,
    /// Deliveries that failed before this one.
    pub(crate) delivery_count: u32,
    /// Absent when it was received and deleted.
    pub(crate) lock: Option<(Uuid, Moment)>,
    pub(crate) state: State,
}

/// A message that leaves the queue without having been completed.
#[derive(Debug)]
pub(crate) struct Leaving {
    pub(crate) message: Arc<Message>,
    pub(crate) enqueued_at: Moment,
    pub(crate) delivery_count: u32,
    pub(crate) why: Why,
}

/// Why a message leaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Why {
    /// So many deliveries did not end in completion.
    Deliveries(u32),
    /// Its time to live is over.
    Expired,
    /// A receiver asked for it.
    Asked(DeadLetter),
}

/// What a receiver states when it dead-letters a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct DeadLetter {
    pub(crate) reason: Option<String>,
    pub(crate) description: Option<String>,
    /// Further application properties, with encoded values.
    pub(crate) properties: Vec<(String, Vec<u8>)>,
}

/// How a receiver settles a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Complete,
    /// Counts as a delivery; sets application properties, whose values are encoded.
    Abandon(Vec<(String, Vec<u8>)>),
    Release,
    Defer(Vec<(String, Vec<u8>)>),
    DeadLetter(DeadLetter),
}

impl Outcome {
    /// Bytes that it adds to a message, about.
    pub(crate) fn added_bytes(&self) -> u64 {
        let of = |properties: &[(String, Vec<u8>)]| properties.iter().map(|(key, value)| key.len() + value.len()).sum();
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let bytes: usize = match self {
            Self::Complete | Self::Release => 0,
            Self::Abandon(properties) | Self::Defer(properties) => of(properties),
            Self::DeadLetter(asked) => of(&asked.properties) + text(&asked.reason) + text(&asked.description),
        };
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

/// The lock is over: it expired, or the message was settled before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LockLost;

/// One of the numbers that were asked for names no message in the state that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotThere;

/// What happened on a queue since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Messages that came in.
    pub enqueued: u64,
    /// Messages handed out, redeliveries included.
    pub deliveries: u64,
    /// Messages that were known already, and dropped.
    pub duplicates: u64,
    /// Messages completed, or received and deleted, or deleted without being received.
    pub completed: u64,
    /// Deliveries abandoned.
    pub abandoned: u64,
    /// Deliveries released.
    pub released: u64,
    /// Deliveries deferred.
    pub deferred: u64,
    /// Messages that left for the dead-letter queue, for whatever reason.
    pub dead_lettered: u64,
    /// Messages dropped because their time to live was over.
    pub expired: u64,
    /// Locks that ended because nobody settled in time.
    pub locks_expired: u64,
    /// Settlements and renewals refused because the lock was over.
    pub locks_lost: u64,
}

/// The queue itself.
#[derive(Debug)]
pub(crate) struct Queue {
    lock_duration: Duration,
    /// `None` on a dead-letter queue.
    deliveries_max: Option<u32>,
    next_sequence: i64,
    entries: BTreeMap<i64, Entry>,
    ready: BTreeSet<i64>,
    locks: HashMap<Uuid, i64>,
    lock_ends: BTreeSet<(Moment, i64)>,
    /// Of messages that expire at all, whatever their state.
    life_ends: BTreeSet<(Moment, i64)>,
    deferred: usize,
    bytes: u64,
    double_next: u32,
    order: Order,
    totals: Totals,
}

impl Queue {
    pub(crate) fn new(lock_duration: Duration, deliveries_max: Option<u32>) -> Self {
        Self {
            lock_duration,
            deliveries_max,
            next_sequence: 1,
            entries: BTreeMap::new(),
            ready: BTreeSet::new(),
            locks: HashMap::new(),
            lock_ends: BTreeSet::new(),
            life_ends: BTreeSet::new(),
            deferred: 0,
            bytes: 0,
            double_next: 0,
            order: Order::default(),
            totals: Totals::default(),
        }
    }

    /// A number that no message has, for one that is kept elsewhere.
    pub(crate) fn next_number(&mut self) -> i64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        sequence
    }

    /// Counts a message that is known already, and gives it a number that names nothing.
    pub(crate) fn refuse_duplicate(&mut self) -> i64 {
        self.totals.duplicates += 1;
        self.next_number()
    }

    /// Adds a message at the end and returns its sequence number. `delivery_count` is 0 but on a dead-letter queue.
    pub(crate) fn push(
        &mut self,
        message: Arc<Message>,
        enqueued_at: Moment,
        expires_at: Moment,
        delivery_count: u32,
    ) -> i64 {
        let sequence = self.next_number();
        self.bytes += cost(&message);
        self.totals.enqueued += 1;
        let entry =
            Entry { message, enqueued_at, expires_at, delivery_count, lock: None, deferred: false, doubled: false };
        self.entries.insert(sequence, entry);
        self.ready.insert(sequence);
        self.order.arrived(&self.ready);
        if expires_at != Moment::NEVER {
            self.life_ends.insert((expires_at, sequence));
        }
        sequence
    }

    /// Ends locks and lives that are over at `now`.
    pub(crate) fn advance(&mut self, now: Moment, leaving: &mut Vec<Leaving>) {
        while let Some(&(end, sequence)) = self.lock_ends.first()
            && end <= now
        {
            self.end_lock(sequence, now, leaving);
        }
        while let Some(&(end, sequence)) = self.life_ends.first()
            && end <= now
        {
            self.life_ends.pop_first();
            // A receiver that holds it may still settle it; it expires when it comes back.
            if self.ready.contains(&sequence) {
                self.leave(sequence, Why::Expired, leaving);
            }
        }
        self.order.advance(now, &self.ready);
    }

    /// When [`Self::advance`] has work next.
    pub(crate) fn next_end(&self) -> Moment {
        let lock = self.lock_ends.first().map_or(Moment::NEVER, |(end, _)| *end);
        let life = self.life_ends.first().map_or(Moment::NEVER, |(end, _)| *end);
        lock.min(life).min(self.order.next_end())
    }

    /// Locks the first message that waits, if `fits` says so of its size.
    pub(crate) fn lock_next(
        &mut self,
        now: Moment,
        token: Uuid,
        fits: impl FnOnce(&Message) -> bool,
    ) -> Option<Handed> {
        let sequence = self.order.next(&self.ready)?;
        if !fits(&self.entries.get(&sequence)?.message) {
            return None;
        }
        self.ready.remove(&sequence);
        self.lock(sequence, now, token)
    }

    fn lock(&mut self, sequence: i64, now: Moment, token: Uuid) -> Option<Handed> {
        let entry = self.entries.get_mut(&sequence)?;
        let until = now.after(self.lock_duration);
        let state = entry.state();
        entry.lock = Some((token, until));
        self.totals.deliveries += 1;
        self.locks.insert(token, sequence);
        let mut ends = until;
        if self.double_next > 0 && !entry.doubled {
            // The receiver believes in its lock, but it ends at once: the same message comes again.
            self.double_next -= 1;
            entry.doubled = true;
            entry.lock = Some((token, now));
            ends = now;
        }
        self.lock_ends.insert((ends, sequence));
        Some(Handed {
            message: Arc::clone(&entry.message),
            sequence,
            enqueued_at: entry.enqueued_at,
            expires_at: entry.expires_at,
            delivery_count: entry.delivery_count,
            lock: Some((token, until)),
            state,
        })
    }

    /// Hands out the first message that waits and forgets it.
    pub(crate) fn remove_next(&mut self, fits: impl FnOnce(&Message) -> bool) -> Option<Handed> {
        let sequence = self.order.next(&self.ready)?;
        if !fits(&self.entries.get(&sequence)?.message) {
            return None;
        }
        self.remove_now(sequence)
    }

    fn remove_now(&mut self, sequence: i64) -> Option<Handed> {
        let entry = self.remove(sequence)?;
        self.totals.deliveries += 1;
        self.totals.completed += 1;
        Some(Handed {
            state: entry.state(),
            sequence,
            enqueued_at: entry.enqueued_at,
            expires_at: entry.expires_at,
            delivery_count: entry.delivery_count,
            lock: None,
            message: entry.message,
        })
    }

    /// Bytes of the messages of these numbers that are deferred, each as often as it is named.
    pub(crate) fn deferred_bytes(&self, sequences: &[i64]) -> usize {
        let entries = sequences.iter().filter_map(|sequence| self.entries.get(sequence));
        entries.filter(|entry| entry.state() == State::Deferred).map(|entry| entry.message.len()).sum()
    }

    /// Brings deferred messages by their numbers: under locks, if `token` makes one for each, or for good. All of them, or
    /// none when one is not deferred or is locked.
    pub(crate) fn take_deferred(
        &mut self,
        sequences: &[i64],
        now: Moment,
        mut token: impl FnMut() -> Option<Uuid>,
    ) -> Result<Vec<Handed>, NotThere> {
        let is_deferred =
            |sequence: &i64| self.entries.get(sequence).is_some_and(|entry| entry.state() == State::Deferred);
        if sequences.is_empty() || !sequences.iter().all(is_deferred) {
            return Err(NotThere);
        }
        let mut taken = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            // One that is named twice was taken by its first name.
            if self.entries.get(sequence).is_none_or(|entry| entry.state() != State::Deferred) {
                continue;
            }
            taken.extend(match token() {
                Some(token) => self.lock(*sequence, now, token),
                None => self.remove_now(*sequence),
            });
        }
        Ok(taken)
    }

    /// Deletes the first messages that wait, up to `most` (at most [`DELETE_MAX`]) and only those enqueued before a time.
    /// Returns how many. Locked and deferred messages stay.
    pub(crate) fn delete_before(&mut self, before: Moment, most: usize) -> usize {
        let old = |sequence: &&i64| self.entries.get(sequence).is_some_and(|entry| entry.enqueued_at < before);
        let sequences: Vec<i64> = self.ready.iter().filter(old).take(most.min(DELETE_MAX)).copied().collect();
        for sequence in &sequences {
            self.totals.completed += 1;
            self.remove(*sequence);
        }
        sequences.len()
    }

    /// Settles the delivery that `token` locks. The caller advances to now before.
    pub(crate) fn settle(
        &mut self,
        token: Uuid,
        outcome: Outcome,
        now: Moment,
        leaving: &mut Vec<Leaving>,
    ) -> Result<(), LockLost> {
        let Some(&sequence) = self.locks.get(&token) else {
            self.totals.locks_lost += 1;
            return Err(LockLost);
        };
        match outcome {
            Outcome::Complete => {
                self.totals.completed += 1;
                self.remove(sequence);
            }
            Outcome::Abandon(properties) => {
                self.totals.abandoned += 1;
                self.modify(sequence, &properties);
                self.unlock(sequence);
                self.count_delivery(sequence, leaving);
                self.expire(sequence, now, leaving);
            }
            Outcome::Release => {
                self.totals.released += 1;
                self.unlock(sequence);
                self.expire(sequence, now, leaving);
            }
            Outcome::Defer(properties) => {
                self.totals.deferred += 1;
                self.modify(sequence, &properties);
                if let Some(entry) = self.entries.get_mut(&sequence)
                    && !entry.deferred
                {
                    entry.deferred = true;
                    self.deferred += 1;
                }
                self.unlock(sequence);
            }
            Outcome::DeadLetter(asked) => self.leave(sequence, Why::Asked(asked), leaving),
        }
        Ok(())
    }

    /// Whether the lock of this token still holds.
    pub(crate) fn holds(&self, token: Uuid) -> bool {
        self.locks.contains_key(&token)
    }

    /// Lets locks last one lock duration from `now`, and says until when. None of them is touched when one is over.
    pub(crate) fn renew(&mut self, tokens: &[Uuid], now: Moment) -> Result<Moment, LockLost> {
        if !tokens.iter().all(|token| self.locks.contains_key(token)) {
            self.totals.locks_lost += 1;
            return Err(LockLost);
        }
        let until = now.after(self.lock_duration);
        for token in tokens {
            let Some(&sequence) = self.locks.get(token) else { continue };
            let Some(entry) = self.entries.get_mut(&sequence) else { continue };
            if let Some((_, end)) = entry.lock.replace((*token, until)) {
                self.lock_ends.remove(&(end, sequence));
            }
            self.lock_ends.insert((until, sequence));
        }
        Ok(until)
    }

    /// Messages from a sequence number on, whatever their state but for expired ones; nothing changes. A deferred message
    /// does not expire.
    pub(crate) fn peek(&self, from: i64, now: Moment) -> impl Iterator<Item = Handed> + '_ {
        let lives = move |(_, entry): &(&i64, &Entry)| entry.expires_at > now || entry.deferred;
        self.entries.range(from..).filter(lives).map(|(sequence, entry)| Handed {
            message: Arc::clone(&entry.message),
            sequence: *sequence,
            enqueued_at: entry.enqueued_at,
            expires_at: entry.expires_at,
            delivery_count: entry.delivery_count,
            lock: entry.lock,
            state: entry.state(),
        })
    }

    /// Fault: the next `messages` deliveries of messages that were not doubled before lose their locks at once.
    pub(crate) fn double_next(&mut self, messages: u32) {
        self.double_next = self.double_next.saturating_add(messages);
    }

    /// Fault: every lock ends now. Returns how many.
    pub(crate) fn end_locks(&mut self, now: Moment, leaving: &mut Vec<Leaving>) -> usize {
        let held: Vec<i64> = self.lock_ends.iter().map(|(_, sequence)| *sequence).collect();
        for sequence in &held {
            self.end_lock(*sequence, now, leaving);
        }
        held.len()
    }

    /// Fault: the lock of one delivery ends now, as if its time were over.
    pub(crate) fn lose_lock(&mut self, token: Uuid, now: Moment, leaving: &mut Vec<Leaving>) {
        if let Some(&sequence) = self.locks.get(&token) {
            self.end_lock(sequence, now, leaving);
        }
    }

    /// Fault: nothing is handed out until then, or until so many more came.
    pub(crate) fn hold_back(&mut self, until: Moment, arrivals: Option<u32>) {
        self.order.hold_back(until, arrivals);
    }

    /// Fault: the next messages go out in another order, once so many wait or it is that late.
    pub(crate) fn reorder(&mut self, messages: u32, order: NewOrder, until: Moment) {
        self.order.reorder(messages, order, until, &self.ready);
    }

    /// Ends what faults did to the order.
    pub(crate) fn keep_order(&mut self) {
        self.order = Order::default();
        self.double_next = 0;
    }

    /// Whether something could be handed out now: there are messages, and no script holds them back.
    pub(crate) fn has_next(&self) -> bool {
        self.order.is_open() && !self.ready.is_empty()
    }

    /// All messages, whatever their state.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn active(&self) -> usize {
        self.ready.len()
    }

    pub(crate) fn locked(&self) -> usize {
        self.locks.len()
    }

    /// Deferred messages, those among them that are locked included.
    pub(crate) fn deferred(&self) -> usize {
        self.deferred
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn totals(&self) -> Totals {
        self.totals
    }

    fn end_lock(&mut self, sequence: i64, now: Moment, leaving: &mut Vec<Leaving>) {
        self.totals.locks_expired += 1;
        self.unlock(sequence);
        self.count_delivery(sequence, leaving);
        self.expire(sequence, now, leaving);
    }

    fn unlock(&mut self, sequence: i64) {
        let Some(entry) = self.entries.get_mut(&sequence) else { return };
        if let Some((token, end)) = entry.lock.take() {
            self.locks.remove(&token);
            self.lock_ends.remove(&(end, sequence));
        }
        if !entry.deferred {
            self.ready.insert(sequence);
        }
    }

    fn count_delivery(&mut self, sequence: i64, leaving: &mut Vec<Leaving>) {
        let Some(entry) = self.entries.get_mut(&sequence) else { return };
        entry.delivery_count = entry.delivery_count.saturating_add(1);
        let count = entry.delivery_count;
        if self.deliveries_max.is_some_and(|max| count >= max) {
            self.leave(sequence, Why::Deliveries(count), leaving);
        }
    }

    /// A message whose life ended while it was locked leaves when it comes back, unless it is deferred.
    fn expire(&mut self, sequence: i64, now: Moment, leaving: &mut Vec<Leaving>) {
        if self.entries.get(&sequence).is_some_and(|entry| entry.expires_at <= now && !entry.deferred) {
            self.leave(sequence, Why::Expired, leaving);
        }
    }

    fn modify(&mut self, sequence: i64, properties: &[(String, Vec<u8>)]) {
        if properties.is_empty() {
            return;
        }
        if let Some(entry) = self.entries.get_mut(&sequence) {
            let set: Vec<(&str, Vec<u8>)> =
                properties.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
            self.bytes -= cost(&entry.message);
            entry.message = Arc::new(entry.message.with_properties(&set));
            self.bytes += cost(&entry.message);
        }
    }

    fn leave(&mut self, sequence: i64, why: Why, leaving: &mut Vec<Leaving>) {
        let Some(entry) = self.remove(sequence) else { return };
        leaving.push(Leaving {
            message: entry.message,
            enqueued_at: entry.enqueued_at,
            delivery_count: entry.delivery_count,
            why,
        });
    }

    /// Counts what became of a message that left.
    pub(crate) fn left(&mut self, dead_lettered: bool) {
        if dead_lettered {
            self.totals.dead_lettered += 1;
        } else {
            self.totals.expired += 1;
        }
    }

    fn remove(&mut self, sequence: i64) -> Option<Entry> {
        let entry = self.entries.remove(&sequence)?;
        self.ready.remove(&sequence);
        if let Some((token, end)) = entry.lock {
            self.locks.remove(&token);
            self.lock_ends.remove(&(end, sequence));
        }
        if entry.expires_at != Moment::NEVER {
            self.life_ends.remove(&(entry.expires_at, sequence));
        }
        if entry.deferred {
            self.deferred -= 1;
        }
        self.bytes -= cost(&entry.message);
        Some(entry)
    }
}

/// What a message counts against the size of its entity.
pub(crate) fn cost(message: &Message) -> u64 {
    u64::try_from(message.len()).unwrap_or(u64::MAX) + MESSAGE_COST
}
