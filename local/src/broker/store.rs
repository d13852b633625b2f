//! What a queue or subscription holds: the queue, its dead-letter queue, what is scheduled, and the ids it remembers. Pure.
//!
//! sent ──known id──► dropped;  sent ──later──► scheduled ──due──► queue ──dead-letter, too many deliveries, expiry──►
//! dead-letter queue, or dropped when expired messages are not dead-lettered
//!
//! # Invariants
//! 1. A message that was taken is in exactly one of queue, dead-letter queue and schedule until it is completed, cancelled,
//!    deleted, or dropped as expired.
//! 2. No number names two messages of one queue, whether scheduled or not.
//!
//! # Sources
//! Service Bus "Overview of Service Bus dead-letter queues" (reasons; no life and no delivery limit there), "Message
//! expiration" (the smaller life holds).

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use super::moment::Moment;
use super::options::QueueOptions;
use super::queue::{DeadLetter, Handed, Leaving, LockLost, NotThere, Outcome, Queue, Why};
use super::schedule::Schedule;
use super::seen::Seen;
use crate::amqp::encode::Write as _;
use crate::amqp::message::Message;

/// Which of the two queues of an entity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Main,
    DeadLetter,
}

#[derive(Debug)]
pub(crate) struct Store {
    default_ttl: Option<Duration>,
    dead_letter_expired: bool,
    main: Queue,
    dead: Queue,
    schedule: Schedule,
    seen: Option<Seen>,
    /// Empty between calls; kept for its allocation.
    leaving: Vec<Leaving>,
}

impl Store {
    pub(crate) fn new(options: &QueueOptions) -> Self {
        Self {
            default_ttl: options.default_ttl,
            dead_letter_expired: options.dead_letter_expired,
            main: Queue::new(options.lock_duration, Some(options.max_delivery_count)),
            dead: Queue::new(options.lock_duration, None),
            schedule: Schedule::default(),
            seen: options.duplicate_detection_window.map(Seen::new),
            leaving: Vec::new(),
        }
    }

    pub(crate) fn queue(&self, part: Part) -> &Queue {
        match part {
            Part::Main => &self.main,
            Part::DeadLetter => &self.dead,
        }
    }

    pub(crate) fn queue_mut(&mut self, part: Part) -> &mut Queue {
        match part {
            Part::Main => &mut self.main,
            Part::DeadLetter => &mut self.dead,
        }
    }

    /// Messages that are scheduled.
    pub(crate) fn scheduled(&self) -> usize {
        self.schedule.len()
    }

    /// Bytes of all messages, with a fixed cost for each.
    pub(crate) fn bytes(&self) -> u64 {
        self.main.bytes().saturating_add(self.dead.bytes()).saturating_add(self.schedule.bytes())
    }

    /// Does what is due at `now`. Comes before every other change.
    pub(crate) fn advance(&mut self, now: Moment) {
        while let Some(message) = self.schedule.pop_due(now) {
            self.enqueue(message, now);
        }
        self.main.advance(now, &mut self.leaving);
        self.bury();
        // Nothing leaves a dead-letter queue but by completion: no delivery limit, no life.
        self.dead.advance(now, &mut self.leaving);
    }

    /// When [`Self::advance`] has work next.
    pub(crate) fn next_end(&self) -> Moment {
        self.main.next_end().min(self.dead.next_end()).min(self.schedule.next_due())
    }

    /// Takes a message: at the end of the queue, or aside when it is for later, or not at all when its id is known. Returns
    /// the number that it has; that of a duplicate names nothing.
    pub(crate) fn push(&mut self, message: Arc<Message>, now: Moment) -> i64 {
        if let Some(seen) = &mut self.seen
            && !seen.is_new(message.message_id(), now)
        {
            return self.main.refuse_duplicate();
        }
        match message.due_after(now) {
            Some(due) => {
                let sequence = self.main.next_number();
                self.schedule.add(sequence, message, now, due);
                sequence
            }
            None => self.enqueue(message, now),
        }
    }

    fn enqueue(&mut self, message: Arc<Message>, now: Moment) -> i64 {
        let stated = message.ttl().map(|ms| Duration::from_millis(u64::from(ms)));
        let life = match (stated, self.default_ttl) {
            (Some(stated), Some(most)) => Some(stated.min(most)),
            (stated, most) => stated.or(most),
        };
        let expires_at = life.map_or(Moment::NEVER, |life| now.after(life));
        self.main.push(message, now, expires_at, 0)
    }

    /// Forgets scheduled messages by their numbers: all of them, or none when one is not scheduled.
    pub(crate) fn cancel(&mut self, sequences: &[i64]) -> Result<(), NotThere> {
        if self.schedule.cancel(sequences) { Ok(()) } else { Err(NotThere) }
    }

    /// Settles the delivery that `token` locks.
    pub(crate) fn settle(&mut self, part: Part, token: Uuid, outcome: Outcome, now: Moment) -> Result<(), LockLost> {
        let queue = match part {
            Part::Main => &mut self.main,
            Part::DeadLetter => &mut self.dead,
        };
        let settled = queue.settle(token, outcome, now, &mut self.leaving);
        self.bury();
        settled
    }

    /// Fault: the lock of one delivery ends now, as if its time were over.
    pub(crate) fn lose_lock(&mut self, part: Part, token: Uuid, now: Moment) {
        let queue = match part {
            Part::Main => &mut self.main,
            Part::DeadLetter => &mut self.dead,
        };
        queue.lose_lock(token, now, &mut self.leaving);
        self.bury();
    }

    /// Fault: every lock ends now. Returns how many.
    pub(crate) fn end_locks(&mut self, part: Part, now: Moment) -> usize {
        let queue = match part {
            Part::Main => &mut self.main,
            Part::DeadLetter => &mut self.dead,
        };
        let ended = queue.end_locks(now, &mut self.leaving);
        self.bury();
        ended
    }

    /// Messages from a number on while `more` agrees with the last, scheduled ones among them; nothing changes.
    pub(crate) fn peek(
        &self,
        part: Part,
        from: i64,
        now: Moment,
        mut more: impl FnMut(&Handed) -> bool,
    ) -> Vec<Handed> {
        let mut queued = self.queue(part).peek(from, now).peekable();
        let mut scheduled = self.schedule.peek(from).filter(|_| part == Part::Main).peekable();
        let mut peeked = Vec::new();
        loop {
            let queued_first = match (queued.peek(), scheduled.peek()) {
                (Some(queued), Some(scheduled)) => queued.sequence < scheduled.sequence,
                (queued, _) => queued.is_some(),
            };
            let next = if queued_first { queued.next() } else { scheduled.next() };
            match next {
                Some(next) if more(&next) => peeked.push(next),
                _ => return peeked,
            }
        }
    }

    /// Moves what left the queue to the dead-letter queue, with its reason, or drops it.
    fn bury(&mut self) {
        for left in self.leaving.drain(..) {
            let asked = match left.why {
                Why::Asked(asked) => asked,
                Why::Deliveries(count) => DeadLetter {
                    reason: Some("MaxDeliveryCountExceeded".to_owned()),
                    description: Some(format!("Message could not be consumed after {count} delivery attempts.")),
                    properties: Vec::new(),
                },
                Why::Expired if self.dead_letter_expired => DeadLetter {
                    reason: Some("TTLExpiredException".to_owned()),
                    description: Some("The message expired and was dead lettered.".to_owned()),
                    properties: Vec::new(),
                },
                Why::Expired => {
                    self.main.left(false);
                    continue;
                }
            };
            self.main.left(true);
            let message = dead_letter(&left.message, &asked);
            self.dead.push(message, left.enqueued_at, Moment::NEVER, left.delivery_count);
        }
    }
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
