//! How long messages live, and what receivers are told of it.

use std::time::Duration;

use super::client::{Bench, Give, LOCK, message};
use super::management::{DEFERRED, client};
use crate::amqp::codec::Value;
use crate::amqp::encode::Write as _;
use crate::broker::{QueueOptions, TopicOptions};

fn living(ttl: Duration, body: &str) -> Vec<u8> {
    let mut encoded = Vec::new();
    encoded.described_list(0x70, |list| {
        list.null();
        list.null();
        list.uint(u32::try_from(ttl.as_millis()).unwrap());
    });
    encoded.extend(message(body));
    encoded
}

#[test]
fn the_smaller_of_two_lives_holds_and_the_receiver_is_told_which() {
    let bench = Bench::with(QueueOptions { default_ttl: Some(LOCK), lock_duration: LOCK, ..QueueOptions::default() });
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.transfer(1, 0, &living(LOCK * 2, "long"));
    client.transfer(1, 1, &living(LOCK / 2, "short"));
    client.transfer(1, 2, &message("stated none"));
    client.take();
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 3);
    let got = client.receive();
    let now = bench.broker.now();
    for (got, life) in got.iter().zip([LOCK, LOCK / 2, LOCK]) {
        let ms = u64::try_from(life.as_millis()).unwrap();
        assert_eq!(got.section(0x70).elements()[2], Value::Uint(ms), "{}", got.body());
        let properties = got.section(0x73).elements();
        assert_eq!(properties[0], Value::Text(got.body()), "the others stay as they were");
        assert_eq!(properties[8], Value::Timestamp(now.after(life).0), "absolute-expiry-time is the broker's");
    }
}

#[test]
fn a_senders_absolute_expiry_time_is_ignored() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    let mut sent = Vec::new();
    sent.described_list(0x73, |list| {
        list.text("id");
        for _ in 0..7 {
            list.null();
        }
        list.timestamp(1);
        list.timestamp(2);
    });
    client.transfer(1, 0, &sent);
    client.pass(Duration::from_secs(3_000));
    assert_eq!(bench.broker.counts("jobs").unwrap().active, 1);
}

#[test]
fn a_topics_life_holds_on_its_subscriptions() {
    let bench = Bench::new();
    bench.broker.add_topic("t", TopicOptions { default_ttl: Some(LOCK), ..TopicOptions::default() }).unwrap();
    for (name, ttl) in [("none", None), ("longer", Some(LOCK * 2)), ("shorter", Some(LOCK / 2))] {
        bench.broker.add_subscription("t", name, QueueOptions { default_ttl: ttl, ..QueueOptions::default() }).unwrap();
    }
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "t");
    client.send(1, &["a"]);
    let active = |name: &str| bench.broker.counts(&format!("t/subscriptions/{name}")).unwrap().active;
    client.pass(LOCK / 2);
    assert_eq!([active("none"), active("longer"), active("shorter")], [1, 1, 0]);
    client.pass(LOCK / 2);
    assert_eq!([active("none"), active("longer"), active("shorter")], [0, 0, 0]);
}

#[test]
fn a_message_that_expires_while_it_is_held_is_not_peeked_and_may_still_be_settled() {
    let bench = Bench::with(QueueOptions { dead_letter_expired: true, lock_duration: LOCK, ..QueueOptions::default() });
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.transfer(1, 0, &living(LOCK / 2, "completed"));
    client.transfer(1, 1, &living(LOCK / 2, "abandoned"));
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 2);
    let got = client.receive();
    client.pass(LOCK / 2);
    assert_eq!(bench.broker.peek("jobs", 0, 10).unwrap().len(), 0);
    client.settle(got[0].delivery_id, got[0].delivery_id, Give::Accepted);
    client.settle(got[1].delivery_id, got[1].delivery_id, Give::Modified);
    client.take();
    let counts = bench.broker.counts("jobs").unwrap();
    assert_eq!((counts.totals.completed, counts.locked, counts.active, counts.dead_lettered), (1, 0, 0, 1));
    let dead = bench.broker.peek("jobs/$deadletterqueue", 0, 1).unwrap().remove(0);
    assert_eq!(dead.contents.property("DeadLetterReason"), Some(&Value::Text("TTLExpiredException".into())));
    client.pass(LOCK * 100);
    assert_eq!(bench.broker.counts("jobs").unwrap().dead_lettered, 1, "nothing expires on a dead-letter queue");
}

#[test]
fn a_deferred_message_does_not_expire() {
    let bench =
        Bench::with(QueueOptions { default_ttl: Some(LOCK / 2), lock_duration: LOCK, ..QueueOptions::default() });
    let mut client = client(&bench);
    client.send(1, &["a"]);
    client.credit(0, 2, 0, 1);
    let id = client.receive()[0].delivery_id;
    client.settle(id, id, Give::Deferred);
    client.pass(LOCK * 2);
    assert_eq!(bench.broker.peek("jobs", 0, 10).unwrap().len(), 1);
    let answer = super::management::ask(&mut client, DEFERRED, |map| {
        map.text("sequence-numbers");
        map.array(0x81, 1, |out| out.extend(1_i64.to_be_bytes()));
    });
    assert_eq!(super::management::messages(&answer).len(), 1);
    client.pass(LOCK);
    assert_eq!(bench.broker.counts("jobs").unwrap().deferred, 1, "nor when its lock ends");
}

#[test]
fn a_scheduled_message_lives_from_when_it_is_due() {
    let bench = Bench::with(QueueOptions { default_ttl: Some(LOCK), lock_duration: LOCK, ..QueueOptions::default() });
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    let mut sent = vec![0x00, 0x53, 0x72];
    sent.map(|map| {
        map.symbol("x-opt-scheduled-enqueue-time");
        map.timestamp(bench.broker.now().after(LOCK * 3).0);
    });
    sent.extend(message("later"));
    client.transfer(1, 0, &sent);
    client.pass(LOCK * 3);
    assert_eq!(bench.broker.counts("jobs").unwrap().active, 1);
    client.pass(LOCK);
    assert_eq!(bench.broker.counts("jobs").unwrap().totals.expired, 1);
}
