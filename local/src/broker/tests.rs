//! The broker's rules, each as a sentence. Time is a number here.

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use super::moment::Moment;
use super::queue::{DeadLetter, Handed, Leaving, LockLost, NotThere, Outcome, Queue, State, Why};
use crate::amqp::message::Message;

const LOCK: Duration = Duration::from_secs(10);
const START: Moment = Moment(1_000_000);

fn message(body: &str) -> Arc<Message> {
    let mut encoded = vec![0x00, 0x53, 0x75, 0xa0, u8::try_from(body.len()).unwrap()];
    encoded.extend_from_slice(body.as_bytes());
    Arc::new(Message::read(&encoded).unwrap())
}

/// A queue and its clock.
struct Bench {
    queue: Queue,
    now: Moment,
    left: Vec<Leaving>,
    tokens: u128,
}

impl Bench {
    fn new(deliveries_max: u32) -> Self {
        Self { queue: Queue::new(LOCK, Some(deliveries_max)), now: START, left: Vec::new(), tokens: 0 }
    }

    fn with(bodies: &[&str]) -> Self {
        let mut bench = Self::new(10);
        bodies.iter().for_each(|body| bench.push(body));
        bench
    }

    fn push(&mut self, body: &str) {
        self.queue.push(message(body), self.now, Moment::NEVER, 0);
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        self.queue.advance(self.now, &mut self.left);
    }

    fn lock(&mut self) -> Option<Handed> {
        self.tokens += 1;
        self.queue.lock_next(self.now, Uuid::from_u128(self.tokens), |_| true)
    }

    fn deferred(&mut self, sequences: &[i64]) -> Result<Vec<Handed>, NotThere> {
        let tokens = &mut self.tokens;
        self.queue.take_deferred(sequences, self.now, || {
            *tokens += 1;
            Some(Uuid::from_u128(*tokens))
        })
    }

    fn settle(&mut self, handed: &Handed, outcome: Outcome) -> Result<(), LockLost> {
        let (token, _) = handed.lock.unwrap();
        self.queue.settle(token, outcome, self.now, &mut self.left)
    }
}

fn body(handed: &Handed) -> String {
    String::from_utf8(handed.message.contents().body).unwrap()
}

#[test]
fn messages_come_in_the_order_they_were_sent_with_rising_numbers() {
    let mut bench = Bench::with(&["a", "b", "c"]);
    let got: Vec<_> = std::iter::from_fn(|| bench.lock()).map(|handed| (handed.sequence, body(&handed))).collect();
    assert_eq!(got, [(1, "a".into()), (2, "b".into()), (3, "c".into())]);
}

#[test]
fn a_locked_message_is_handed_to_nobody_else_until_its_lock_ends() {
    let mut bench = Bench::with(&["a"]);
    let first = bench.lock().unwrap();
    assert_eq!(first.lock.unwrap().1, START.after(LOCK));
    bench.pass(LOCK - Duration::from_millis(1));
    assert!(bench.lock().is_none());
    bench.pass(Duration::from_millis(1));
    let second = bench.lock().unwrap();
    assert_eq!((second.sequence, second.delivery_count), (first.sequence, 1));
}

#[test]
fn a_lock_that_ended_settles_nothing_not_even_the_next_delivery() {
    let mut bench = Bench::with(&["a"]);
    let first = bench.lock().unwrap();
    bench.pass(LOCK);
    let second = bench.lock().unwrap();
    assert_eq!(bench.settle(&first, Outcome::Complete), Err(LockLost));
    assert_eq!(bench.queue.locked(), 1);
    assert_eq!(bench.settle(&second, Outcome::Complete), Ok(()));
    assert_eq!(bench.settle(&second, Outcome::Complete), Err(LockLost));
    assert_eq!(bench.queue.totals().locks_lost, 2);
}

#[test]
fn an_abandoned_message_comes_back_at_its_place_and_counts_a_delivery() {
    let mut bench = Bench::with(&["a", "b"]);
    let first = bench.lock().unwrap();
    assert_eq!(bench.settle(&first, Outcome::Abandon(Vec::new())), Ok(()));
    let again = bench.lock().unwrap();
    assert_eq!((body(&again).as_str(), again.delivery_count), ("a", 1));
}

#[test]
fn a_released_message_comes_back_at_its_place_and_counts_nothing() {
    let mut bench = Bench::with(&["a", "b"]);
    for _ in 0..50 {
        let handed = bench.lock().unwrap();
        assert_eq!((body(&handed).as_str(), handed.delivery_count), ("a", 0));
        assert_eq!(bench.settle(&handed, Outcome::Release), Ok(()));
    }
    assert!(bench.left.is_empty());
}

#[test]
fn the_last_allowed_delivery_that_fails_dead_letters_whether_abandoned_or_expired() {
    for expire in [false, true] {
        let mut bench = Bench::new(3);
        bench.push("a");
        for count in 0..3 {
            let handed = bench.lock().unwrap();
            assert_eq!(handed.delivery_count, count);
            assert!(bench.left.is_empty());
            if expire {
                bench.pass(LOCK);
            } else {
                bench.settle(&handed, Outcome::Abandon(Vec::new())).unwrap();
            }
        }
        assert!(bench.lock().is_none());
        assert_eq!(bench.left.len(), 1);
        assert_eq!((bench.left[0].why.clone(), bench.left[0].delivery_count), (Why::Deliveries(3), 3));
    }
}

#[test]
fn a_dead_lettered_message_leaves_with_its_reason() {
    let mut bench = Bench::with(&["a", "b"]);
    let handed = bench.lock().unwrap();
    let asked = DeadLetter { reason: Some("bad".into()), description: Some("very".into()), properties: Vec::new() };
    bench.settle(&handed, Outcome::DeadLetter(asked.clone())).unwrap();
    assert_eq!(bench.left[0].why, Why::Asked(asked));
    assert_eq!(body(&bench.lock().unwrap()), "b");
}

#[test]
fn a_deferred_message_comes_only_by_its_number() {
    let mut bench = Bench::with(&["a", "b"]);
    let handed = bench.lock().unwrap();
    bench.settle(&handed, Outcome::Defer(Vec::new())).unwrap();
    assert_eq!(body(&bench.lock().unwrap()), "b");
    assert!(bench.lock().is_none());
    assert_eq!(bench.deferred(&[2]).unwrap_err(), NotThere, "2 is not deferred");
    assert_eq!(bench.deferred(&[1, 2]).unwrap_err(), NotThere, "all or none");
    let back = bench.deferred(&[1, 1]).unwrap();
    assert_eq!((back.len(), back[0].state, back[0].delivery_count), (1, State::Deferred, 0));
    assert_eq!(bench.deferred(&[1]).unwrap_err(), NotThere, "it is locked");
    bench.pass(LOCK);
    let back = bench.deferred(&[1]).unwrap().remove(0);
    assert_eq!(back.delivery_count, 1, "its lock ended, and it is deferred still");
    bench.settle(&back, Outcome::Complete).unwrap();
    assert_eq!((bench.queue.deferred(), bench.queue.active(), bench.queue.locked()), (0, 1, 0));
}

#[test]
fn renewing_lets_a_lock_last_and_an_ended_lock_cannot_be_renewed() {
    let mut bench = Bench::with(&["a"]);
    let handed = bench.lock().unwrap();
    let (token, _) = handed.lock.unwrap();
    bench.pass(Duration::from_secs(6));
    assert_eq!(bench.queue.renew(&[token], bench.now), Ok(bench.now.after(LOCK)));
    bench.pass(Duration::from_secs(6));
    assert!(bench.lock().is_none());
    bench.pass(Duration::from_secs(4));
    assert_eq!(bench.queue.renew(&[token], bench.now), Err(LockLost));
    assert_eq!(bench.lock().unwrap().delivery_count, 1);
}

#[test]
fn a_message_expires_while_it_waits_but_not_while_it_is_held() {
    let mut bench = Bench::new(10);
    let life = START.after(Duration::from_secs(5));
    bench.queue.push(message("waits"), START, life, 0);
    bench.queue.push(message("held"), START, life, 0);
    let waits = bench.lock().unwrap();
    let held = bench.lock().unwrap();
    bench.settle(&waits, Outcome::Release).unwrap();
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.left.drain(..).map(|left| left.why).collect::<Vec<_>>(), [Why::Expired]);
    assert_eq!(bench.settle(&held, Outcome::Release), Ok(()), "who holds it may settle it");
    assert_eq!(bench.left.drain(..).map(|left| left.why).collect::<Vec<_>>(), [Why::Expired], "and then it is over");
    assert_eq!((bench.queue.bytes(), bench.queue.next_end()), (0, Moment::NEVER));
}

#[test]
fn a_message_whose_life_ended_under_a_lock_leaves_when_the_lock_ends() {
    let mut bench = Bench::new(10);
    bench.queue.push(message("a"), START, START.after(LOCK / 2), 0);
    bench.lock().unwrap();
    bench.pass(LOCK / 2);
    assert!(bench.left.is_empty());
    bench.pass(LOCK / 2);
    assert_eq!(bench.left.drain(..).map(|left| left.why).collect::<Vec<_>>(), [Why::Expired]);
    assert!(bench.lock().is_none());
}

#[test]
fn a_lock_and_a_life_that_end_together_lose_the_message_once() {
    let mut bench = Bench::new(10);
    bench.queue.push(message("a"), START, START.after(LOCK), 0);
    bench.lock().unwrap();
    bench.pass(LOCK);
    assert_eq!(bench.left.len(), 1);
    assert!(bench.lock().is_none());
}

#[test]
fn delivered_twice_is_the_same_number_again_and_the_first_delivery_cannot_be_settled() {
    let mut bench = Bench::with(&["a", "b"]);
    bench.queue.double_next(1);
    let first = bench.lock().unwrap();
    assert_eq!(first.lock.unwrap().1, START.after(LOCK), "the receiver believes in its lock");
    bench.pass(Duration::ZERO);
    assert_eq!(bench.settle(&first, Outcome::Complete), Err(LockLost));
    let second = bench.lock().unwrap();
    assert_eq!((second.sequence, second.delivery_count), (first.sequence, 1));
    bench.pass(Duration::ZERO);
    assert_eq!(bench.settle(&second, Outcome::Complete), Ok(()));
    let other = bench.lock().unwrap();
    assert_eq!(bench.settle(&other, Outcome::Complete), Ok(()), "only one message was asked for");
}

#[test]
fn received_and_deleted_is_gone() {
    let mut bench = Bench::with(&["a"]);
    let handed = bench.queue.remove_next(|_| true).unwrap();
    assert_eq!((body(&handed).as_str(), handed.lock), ("a", None));
    assert!(bench.queue.remove_next(|_| true).is_none());
    assert_eq!(bench.queue.bytes(), 0);
}

#[test]
fn a_message_that_does_not_fit_stays_first() {
    let mut bench = Bench::with(&["a"]);
    assert!(bench.queue.lock_next(bench.now, Uuid::from_u128(1), |_| false).is_none());
    assert_eq!(body(&bench.lock().unwrap()), "a");
}

#[test]
fn what_a_script_asked_of_deliveries_is_forgotten_when_it_is_cleared() {
    let mut bench = Bench::with(&["a"]);
    bench.queue.double_next(2);
    bench.queue.keep_order();
    assert!(bench.lock().is_some());
    bench.pass(Duration::from_millis(1));
    assert!(bench.lock().is_none(), "the lock holds, so the message does not come again");
}
