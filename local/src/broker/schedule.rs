//! Messages that are to appear later. Pure: time and numbers are passed in.
//!
//! scheduled ──due──► enqueued, with a new number and a new place;  scheduled ──cancel──► gone
//!
//! # Sources
//! Service Bus "Message sequencing and timestamps", section "Scheduled messages": the number that names a scheduled message
//! is valid while it is scheduled; once due, it is appended as if it were sent then, with a new number.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::moment::Moment;
use super::queue::{Handed, State, cost};
use crate::amqp::message::Message;

#[derive(Debug)]
struct Entry {
    message: Arc<Message>,
    /// When it was sent.
    sent_at: Moment,
    due_at: Moment,
}

/// What an entity keeps aside until it is due.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    entries: BTreeMap<i64, Entry>,
    due: BTreeSet<(Moment, i64)>,
    bytes: u64,
}

impl Schedule {
    /// Keeps a message aside under a number that no other message of its entity has.
    pub(crate) fn add(&mut self, sequence: i64, message: Arc<Message>, sent_at: Moment, due_at: Moment) {
        self.bytes += cost(&message);
        self.due.insert((due_at, sequence));
        self.entries.insert(sequence, Entry { message, sent_at, due_at });
    }

    /// Forgets these messages; none of them, and false, when one is not scheduled (any more).
    pub(crate) fn cancel(&mut self, sequences: &[i64]) -> bool {
        let all = sequences.iter().all(|sequence| self.entries.contains_key(sequence));
        if all {
            for sequence in sequences {
                self.remove(*sequence);
            }
        }
        all
    }

    /// Takes out the next message whose time has come; of those due at one time, the one that was sent first.
    pub(crate) fn pop_due(&mut self, now: Moment) -> Option<Arc<Message>> {
        let (due_at, sequence) = *self.due.first()?;
        if due_at > now {
            return None;
        }
        self.remove(sequence)
    }

    fn remove(&mut self, sequence: i64) -> Option<Arc<Message>> {
        let entry = self.entries.remove(&sequence)?;
        self.due.remove(&(entry.due_at, sequence));
        self.bytes -= cost(&entry.message);
        Some(entry.message)
    }

    /// When [`Self::pop_due`] has something next.
    pub(crate) fn next_due(&self) -> Moment {
        self.due.first().map_or(Moment::NEVER, |(due_at, _)| *due_at)
    }

    /// Messages from a number on, in the order of their numbers.
    pub(crate) fn peek(&self, from: i64) -> impl Iterator<Item = Handed> + '_ {
        self.entries.range(from..).map(|(sequence, entry)| Handed {
            message: Arc::clone(&entry.message),
            sequence: *sequence,
            enqueued_at: entry.sent_at,
            expires_at: Moment::NEVER,
            delivery_count: 0,
            lock: None,
            state: State::Scheduled,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }
}
