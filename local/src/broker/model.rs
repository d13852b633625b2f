//! Any sequence of what clients and time may do, on the store and on a model of it that is slow and obvious.
//!
//! The model keeps one list of messages, each with the place where it is. After every step the two must agree on who is
//! where, in which order and with how many deliveries; numbers must stay unique, and an ended lock must settle nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;
use uuid::Uuid;

use super::moment::Moment;
use super::options::QueueOptions;
use super::queue::{DeadLetter, Outcome, State};
use super::store::{Part, Store};
use crate::amqp::encode::Write as _;
use crate::amqp::message::Message;

const LOCK: i64 = 10_000;
const DELIVERIES_MAX: u32 = 3;
const WINDOW: i64 = 25_000;

#[derive(Debug, Clone)]
enum Step {
    /// A message with an id, a life and a delay in seconds.
    Send {
        id: u8,
        ttl: Option<u8>,
        delay: u8,
    },
    Cancel(prop::sample::Index),
    Lock(Part),
    ReceiveAndDelete(Part),
    /// Settles the nth token ever given, whether its lock holds or not.
    Settle(prop::sample::Index, How),
    Renew(prop::sample::Index),
    TakeDeferred(Part, prop::sample::Index, bool),
    DeleteOld(u8),
    EndLocks(Part),
    Pass(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Complete,
    Abandon,
    Release,
    Defer,
    DeadLetter,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let part = prop_oneof![4 => Just(Part::Main), 1 => Just(Part::DeadLetter)];
    let how = prop_oneof![
        2 => Just(How::Complete),
        3 => Just(How::Abandon),
        1 => Just(How::Release),
        2 => Just(How::Defer),
        1 => Just(How::DeadLetter)
    ];
    let index = any::<prop::sample::Index>;
    let step = prop_oneof![
        6 => (any::<u8>(), prop::option::weighted(0.4, 0..40_u8), prop_oneof![3 => Just(0_u8), 1 => 0..40_u8])
            .prop_map(|(id, ttl, delay)| Step::Send { id: id % 24, ttl, delay }),
        1 => index().prop_map(Step::Cancel),
        6 => part.clone().prop_map(Step::Lock),
        1 => part.clone().prop_map(Step::ReceiveAndDelete),
        6 => (index(), how).prop_map(|(index, how)| Step::Settle(index, how)),
        2 => index().prop_map(Step::Renew),
        2 => (part.clone(), index(), any::<bool>())
            .prop_map(|(part, index, lock)| Step::TakeDeferred(part, index, lock)),
        1 => (0..3_u8).prop_map(Step::DeleteOld),
        1 => part.prop_map(Step::EndLocks),
        4 => (0..12_000_u16).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..120)
}

/// Where a message of the model is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Scheduled(i64),
    Waiting(Part),
    Deferred(Part),
}

#[derive(Debug, Clone)]
struct Known {
    /// Told by its body, which no other message has.
    body: u32,
    number: i64,
    ttl: Option<i64>,
    expires_at: i64,
    deliveries: u32,
    lock: Option<(Uuid, i64)>,
    place: Place,
}

#[derive(Debug, Default)]
struct Model {
    dead_letter_expired: bool,
    default_ttl: Option<i64>,
    messages: Vec<Known>,
    next_number: [i64; 2],
    /// Ids with the time when each is forgotten.
    ids: BTreeMap<u8, i64>,
    /// What left for good, by body.
    gone: BTreeSet<u32>,
}

impl Model {
    fn number(&mut self, part: Part) -> i64 {
        let next = &mut self.next_number[usize::from(part == Part::DeadLetter)];
        *next += 1;
        *next
    }

    fn send(&mut self, body: u32, id: u8, ttl: Option<i64>, due: i64, now: i64) {
        let number = self.number(Part::Main);
        self.ids.retain(|_, until| *until > now);
        if self.ids.contains_key(&id) {
            self.gone.insert(body);
            return;
        }
        self.ids.insert(id, now + WINDOW);
        let place = if due > now { Place::Scheduled(due) } else { Place::Waiting(Part::Main) };
        let expires_at = self.end_of(ttl, now);
        self.messages.push(Known { body, number, ttl, expires_at, deliveries: 0, lock: None, place });
    }

    fn end_of(&self, ttl: Option<i64>, now: i64) -> i64 {
        ttl.into_iter().chain(self.default_ttl).min().map_or(i64::MAX, |life| now + life)
    }

    fn bury(&mut self, body: u32) {
        let number = self.number(Part::DeadLetter);
        if let Some(known) = self.messages.iter_mut().find(|known| known.body == body) {
            known.number = number;
            known.lock = None;
            known.expires_at = i64::MAX;
            known.place = Place::Waiting(Part::DeadLetter);
        }
    }

    fn forget(&mut self, body: u32) {
        self.messages.retain(|known| known.body != body);
        assert!(self.gone.insert(body), "it left once");
    }

    fn expire(&mut self, body: u32) {
        if self.dead_letter_expired { self.bury(body) } else { self.forget(body) }
    }

    /// A lock ends without a settlement, or by an abandon: one delivery more.
    fn failed(&mut self, body: u32, now: i64) {
        let Some(known) = self.messages.iter_mut().find(|known| known.body == body) else { return };
        known.lock = None;
        known.deliveries += 1;
        let on_main = matches!(known.place, Place::Waiting(Part::Main) | Place::Deferred(Part::Main));
        if on_main && known.deliveries >= DELIVERIES_MAX {
            self.bury(body);
        } else if matches!(known.place, Place::Waiting(Part::Main)) && known.expires_at <= now {
            self.expire(body);
        }
    }

    fn advance(&mut self, now: i64) {
        let mut due: Vec<_> = self
            .messages
            .iter()
            .filter_map(|known| match known.place {
                Place::Scheduled(due) if due <= now => Some((due, known.number, known.body)),
                _ => None,
            })
            .collect();
        due.sort_unstable();
        for (_, _, body) in due {
            let number = self.number(Part::Main);
            let place = self.messages.iter().position(|known| known.body == body).unwrap();
            let expires_at = self.end_of(self.messages[place].ttl, now);
            let known = &mut self.messages[place];
            (known.number, known.expires_at, known.place) = (number, expires_at, Place::Waiting(Part::Main));
        }
        for part in [Part::Main, Part::DeadLetter] {
            let mut over: Vec<_> = self
                .of(part)
                .filter_map(|known| {
                    known.lock.filter(|(_, end)| *end <= now).map(|(_, end)| (end, known.number, known.body))
                })
                .collect();
            over.sort_unstable();
            for (_, _, body) in over {
                self.failed(body, now);
            }
        }
        let mut expired: Vec<_> = self
            .messages
            .iter()
            .filter(|known| {
                known.place == Place::Waiting(Part::Main) && known.lock.is_none() && known.expires_at <= now
            })
            .map(|known| (known.expires_at, known.number, known.body))
            .collect();
        expired.sort_unstable();
        for (_, _, body) in expired {
            self.expire(body);
        }
    }

    fn of(&self, part: Part) -> impl Iterator<Item = &Known> {
        self.messages.iter().filter(move |known| match known.place {
            Place::Waiting(of) | Place::Deferred(of) => of == part,
            Place::Scheduled(_) => false,
        })
    }

    /// The first message that waits on a part.
    fn first(&self, part: Part) -> Option<&Known> {
        self.messages
            .iter()
            .filter(|known| known.place == Place::Waiting(part) && known.lock.is_none())
            .min_by_key(|known| known.number)
    }

    fn held_by(&self, token: Uuid) -> Option<(u32, Place)> {
        let holds = |known: &&Known| known.lock.is_some_and(|(held, _)| held == token);
        self.messages.iter().find(holds).map(|known| (known.body, known.place))
    }

    fn known(&mut self, body: u32) -> &mut Known {
        self.messages.iter_mut().find(|known| known.body == body).unwrap()
    }
}

/// The store and the model, side by side.
struct Pair {
    store: Store,
    model: Model,
    now: i64,
    bodies: u32,
    tokens: Vec<(Part, Uuid)>,
}

fn encoded(body: u32, id: u8, ttl: Option<i64>, due: i64) -> Arc<Message> {
    let mut bytes = Vec::new();
    if let Some(ttl) = ttl {
        bytes.described_list(0x70, |list| {
            list.null();
            list.null();
            list.uint(u32::try_from(ttl).unwrap());
        });
    }
    bytes.extend([0x00, 0x53, 0x72]);
    bytes.map(|map| {
        map.symbol("x-opt-scheduled-enqueue-time");
        map.timestamp(due);
    });
    bytes.described_list(0x73, |list| list.text(&id.to_string()));
    bytes.extend([0x00, 0x53, 0x75]);
    bytes.binary(&body.to_be_bytes());
    Arc::new(Message::read(&bytes).unwrap())
}

fn body_of(message: &Message) -> u32 {
    u32::from_be_bytes(message.contents().body.try_into().unwrap())
}

impl Pair {
    fn step(&mut self, step: Step) {
        let now = Moment(self.now);
        self.store.advance(now);
        self.model.advance(self.now);
        match step {
            Step::Send { id, ttl, delay } => {
                self.bodies += 1;
                let ttl = ttl.map(|seconds| i64::from(seconds) * 1_000);
                let due = self.now + i64::from(delay) * 1_000;
                self.store.push(encoded(self.bodies, id, ttl, due), now);
                self.model.send(self.bodies, id, ttl, due, self.now);
            }
            Step::Cancel(index) => {
                let number = i64::try_from(index.index(40)).unwrap();
                let scheduled = |known: &&Known| known.number == number && matches!(known.place, Place::Scheduled(_));
                let body = self.model.messages.iter().find(scheduled).map(|known| known.body);
                assert_eq!(self.store.cancel(&[number]).is_ok(), body.is_some());
                body.into_iter().for_each(|body| self.model.forget(body));
            }
            Step::Lock(part) => {
                let token = Uuid::from_u128(self.tokens.len() as u128 + 1);
                let handed = self.store.queue_mut(part).lock_next(now, token, |_| true);
                let first = self.model.first(part).cloned();
                assert_eq!(handed.is_some(), first.is_some());
                if let (Some(handed), Some(first)) = (handed, first) {
                    assert_eq!(body_of(&handed.message), first.body, "the first in order");
                    assert_eq!((handed.sequence, handed.delivery_count), (first.number, first.deliveries));
                    self.model.known(first.body).lock = Some((token, self.now + LOCK));
                    self.tokens.push((part, token));
                }
            }
            Step::ReceiveAndDelete(part) => {
                let handed = self.store.queue_mut(part).remove_next(|_| true);
                let first = self.model.first(part).map(|known| known.body);
                assert_eq!(handed.map(|handed| body_of(&handed.message)), first);
                first.into_iter().for_each(|body| self.model.forget(body));
            }
            Step::Settle(index, how) => self.settle(index, how),
            Step::Renew(index) => {
                let Some((part, token)) = self.token(index) else { return };
                let renewed = self.store.queue_mut(part).renew(&[token], now);
                let held = self.model.held_by(token);
                assert_eq!(renewed.is_ok(), held.is_some());
                if let Some((body, _)) = held {
                    self.model.known(body).lock = Some((token, self.now + LOCK));
                }
            }
            Step::TakeDeferred(part, index, lock) => {
                let number = i64::try_from(index.index(40)).unwrap();
                let deferred = |known: &&Known| {
                    known.number == number && known.place == Place::Deferred(part) && known.lock.is_none()
                };
                let body = self.model.messages.iter().find(deferred).map(|known| known.body);
                let token = lock.then(|| Uuid::from_u128(self.tokens.len() as u128 + 1));
                let taken = self.store.queue_mut(part).take_deferred(&[number], now, || token);
                assert_eq!(taken.ok().map(|taken| body_of(&taken[0].message)), body);
                match (body, token) {
                    (Some(body), Some(token)) => {
                        self.model.known(body).lock = Some((token, self.now + LOCK));
                        self.tokens.push((part, token));
                    }
                    (Some(body), None) => self.model.forget(body),
                    (None, _) => {}
                }
            }
            Step::DeleteOld(most) => {
                let deleted = self.store.queue_mut(Part::Main).delete_before(Moment::NEVER, usize::from(most));
                for _ in 0..deleted {
                    let body = self.model.first(Part::Main).map(|known| known.body).expect("it was there");
                    self.model.forget(body);
                }
                assert!(deleted == usize::from(most) || self.model.first(Part::Main).is_none());
            }
            Step::EndLocks(part) => {
                let mut held: Vec<_> = self
                    .model
                    .of(part)
                    .filter_map(|known| known.lock.map(|(_, end)| (end, known.number, known.body)))
                    .collect();
                held.sort_unstable();
                assert_eq!(self.store.end_locks(part, now), held.len());
                held.into_iter().for_each(|(_, _, body)| self.model.failed(body, self.now));
            }
            Step::Pass(ms) => {
                self.now += i64::from(ms);
                self.store.advance(Moment(self.now));
                self.model.advance(self.now);
                assert!(self.store.next_end() > Moment(self.now), "nothing is left to be done");
            }
        }
    }

    fn token(&self, index: prop::sample::Index) -> Option<(Part, Uuid)> {
        (!self.tokens.is_empty()).then(|| self.tokens[index.index(self.tokens.len())])
    }

    fn settle(&mut self, index: prop::sample::Index, how: How) {
        let Some((part, token)) = self.token(index) else { return };
        if (part, how) == (Part::DeadLetter, How::DeadLetter) {
            return;
        }
        let outcome = match how {
            How::Complete => Outcome::Complete,
            How::Abandon => Outcome::Abandon(Vec::new()),
            How::Release => Outcome::Release,
            How::Defer => Outcome::Defer(Vec::new()),
            How::DeadLetter => Outcome::DeadLetter(DeadLetter::default()),
        };
        let settled = self.store.settle(part, token, outcome, Moment(self.now));
        let held = self.model.held_by(token);
        assert_eq!(settled.is_ok(), held.is_some(), "a token settles while its lock holds, and then only");
        let Some((body, place)) = held else { return };
        match how {
            How::Complete => self.model.forget(body),
            How::Abandon => self.model.failed(body, self.now),
            How::Release => {
                let known = self.model.known(body);
                known.lock = None;
                if place == Place::Waiting(Part::Main) && known.expires_at <= self.now {
                    self.model.expire(body);
                }
            }
            How::Defer => {
                let known = self.model.known(body);
                (known.lock, known.place) = (None, Place::Deferred(part));
            }
            How::DeadLetter => self.model.bury(body),
        }
    }

    /// Both hold the same messages at the same places.
    fn agree(&self) {
        let mut bodies = BTreeSet::new();
        for part in [Part::Main, Part::DeadLetter] {
            let seen = self.store.peek(part, 0, Moment(i64::MIN), |_| true);
            assert!(seen.windows(2).all(|two| two[0].sequence < two[1].sequence), "in the order of unique numbers");
            let mut expected: Vec<_> = self.model.of(part).collect();
            if part == Part::Main {
                let is_scheduled = |known: &&Known| matches!(known.place, Place::Scheduled(_));
                expected.extend(self.model.messages.iter().filter(is_scheduled));
            }
            expected.sort_unstable_by_key(|known| known.number);
            assert_eq!(seen.len(), expected.len());
            for (seen, known) in seen.iter().zip(expected) {
                assert_eq!((body_of(&seen.message), seen.sequence), (known.body, known.number));
                assert_eq!(
                    (seen.delivery_count, seen.lock),
                    (known.deliveries, known.lock.map(|(t, end)| (t, Moment(end))))
                );
                let state = match (known.lock, known.place) {
                    (Some(_), _) => State::Locked,
                    (None, Place::Scheduled(_)) => State::Scheduled,
                    (None, Place::Waiting(_)) => State::Active,
                    (None, Place::Deferred(_)) => State::Deferred,
                };
                assert_eq!(seen.state, state);
                assert!(bodies.insert(known.body), "it is in one place");
            }
            let queue = self.store.queue(part);
            assert_eq!(queue.active() + queue.locked(), self.model.of(part).filter(|k| state_counts(k)).count());
        }
        assert!(bodies.is_disjoint(&self.model.gone));
        assert_eq!(bodies.len() + self.model.gone.len(), self.bodies as usize, "nothing is lost");
        assert_eq!(self.store.bytes() == 0, bodies.is_empty());
    }
}

/// Whether a message of the model is active or locked.
fn state_counts(known: &Known) -> bool {
    known.lock.is_some() || matches!(known.place, Place::Waiting(_))
}

proptest! {
    #[test]
    fn whatever_clients_and_time_do_the_store_is_what_the_model_says(
        steps in steps(),
        dead_letter_expired in any::<bool>(),
        default_ttl in prop::option::weighted(0.3, 1..40_i64),
    ) {
        let default_ttl = default_ttl.map(|seconds| seconds * 1_000);
        let options = QueueOptions {
            lock_duration: Duration::from_millis(LOCK.unsigned_abs()),
            max_delivery_count: DELIVERIES_MAX,
            default_ttl: default_ttl.map(|ms| Duration::from_millis(ms.unsigned_abs())),
            dead_letter_expired,
            duplicate_detection_window: Some(Duration::from_millis(WINDOW.unsigned_abs())),
            ..QueueOptions::default()
        };
        let model = Model { dead_letter_expired, default_ttl, ..Model::default() };
        let mut pair = Pair { store: Store::new(&options), model, now: 1_000_000, bodies: 0, tokens: Vec::new() };
        for step in steps {
            pair.step(step);
            pair.agree();
        }
    }
}
