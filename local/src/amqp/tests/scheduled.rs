//! Messages for later, by annotation and by request, and messages that are known already.

use std::time::Duration;

use super::client::{Bench, Client, HOST, LOCK, Received, message};
use super::management::{PEEK, ask, client, messages, status};
use crate::amqp::codec::Value;
use crate::amqp::encode::Write as _;
use crate::amqp::message::BATCH_FORMAT;
use crate::amqp::performative as p;
use crate::broker::{QueueOptions, State, TopicOptions};

const SCHEDULE: &str = "com.microsoft:schedule-message";
const CANCEL: &str = "com.microsoft:cancel-scheduled-message";
const LATER: Duration = Duration::from_secs(60);

fn due_at(at: i64, body: &str) -> Vec<u8> {
    let mut encoded = vec![0x00, 0x53, 0x72];
    encoded.map(|map| {
        map.symbol("x-opt-scheduled-enqueue-time");
        map.timestamp(at);
    });
    encoded.extend(message(body));
    encoded
}

fn schedule(client: &mut Client, encoded: &[Vec<u8>]) -> Received {
    ask(client, SCHEDULE, |map| {
        map.text("messages");
        map.list(|list| {
            for message in encoded {
                list.map(|map| {
                    map.text("message-id");
                    map.text("id");
                    map.text("message");
                    map.binary(message);
                });
            }
        });
    })
}

fn numbers(answer: &Received) -> Vec<i64> {
    let numbers = answer.section(0x77).get("sequence-numbers").map(Value::elements).unwrap_or_default();
    numbers.iter().filter_map(Value::as_int).collect()
}

fn cancel(client: &mut Client, sequences: &[i64]) -> (i64, Option<String>) {
    status(&ask(client, CANCEL, |map| {
        map.text("sequence-numbers");
        map.array(0x81, u32::try_from(sequences.len()).unwrap(), |out| {
            sequences.iter().for_each(|sequence| out.extend(sequence.to_be_bytes()));
        });
    }))
}

fn not_found() -> (i64, Option<String>) {
    (404, Some("com.microsoft:message-not-found".into()))
}

#[test]
fn a_message_for_later_comes_when_it_is_due_at_a_new_place_with_a_new_number() {
    let bench = Bench::new();
    let mut client = client(&bench);
    let due = bench.broker.now().after(LATER).0;
    client.transfer(1, 0, &due_at(due, "later"));
    assert_eq!(client.expect(p::DISPOSITION).outcome(), (0x24, None));
    client.send(1, &["now"]);
    let counts = bench.broker.counts("jobs").unwrap();
    assert_eq!((counts.active, counts.scheduled), (1, 1));
    assert!(counts.bytes > 400, "it takes room");

    let answer = ask(&mut client, PEEK, |map| {
        map.text("message-count");
        map.int(10);
    });
    let bodies: Vec<_> = messages(&answer).into_iter().map(|(body, _)| body).collect();
    assert_eq!(bodies, ["later", "now"], "in the order of their numbers");
    let peeked = bench.broker.peek("jobs", 0, 10).unwrap();
    assert_eq!((peeked[0].sequence_number, peeked[0].state), (1, State::Scheduled));

    client.credit(0, 2, 0, 10);
    assert_eq!(client.receive().len(), 1);
    client.pass(LATER - Duration::from_millis(1));
    assert_eq!(client.receive().len(), 1, "the first again, whose lock is over");
    client.pass(Duration::from_millis(1));
    let got = client.receive().remove(0);
    assert_eq!(got.body(), "later");
    assert_eq!(got.annotation("x-opt-sequence-number"), &Value::Int(3));
    assert_eq!(got.annotation("x-opt-enqueued-time"), &Value::Timestamp(due));
    assert_eq!(got.annotation("x-opt-scheduled-enqueue-time"), &Value::Timestamp(due), "the sender's stays");
    assert_eq!(got.delivery_count(), 0);
}

#[test]
fn a_peeked_message_shows_that_it_is_scheduled() {
    let bench = Bench::new();
    let mut client = client(&bench);
    client.transfer(1, 0, &due_at(bench.broker.now().after(LATER).0, "later"));
    let answer = ask(&mut client, PEEK, |_| {});
    let (_, entry) = messages(&answer).remove(0);
    let Some(Value::Binary(bytes)) = entry.get("message") else { panic!("{entry:?}") };
    let mut state = Vec::new();
    state.symbol("x-opt-message-state");
    state.int(2);
    assert!(bytes.windows(state.len()).any(|window| window == state));
}

#[test]
fn a_time_that_is_past_or_now_is_no_schedule() {
    let bench = Bench::new();
    let mut client = client(&bench);
    client.transfer(1, 0, &due_at(bench.broker.now().0, "now"));
    let answer = schedule(&mut client, &[due_at(0, "long ago"), message("without a time")]);
    assert_eq!(numbers(&answer), [2, 3]);
    let counts = bench.broker.counts("jobs").unwrap();
    assert_eq!((counts.active, counts.scheduled), (3, 0));
}

#[test]
fn a_batch_may_hold_messages_for_later() {
    let bench = Bench::new();
    let mut client = client(&bench);
    let mut batch = Vec::new();
    for encoded in [message("a"), due_at(bench.broker.now().after(LATER).0, "later"), message("b")] {
        batch.extend([0x00, 0x53, 0x75]);
        batch.binary(&encoded);
    }
    client.transfer_part(1, Some(0), BATCH_FORMAT, false, &batch);
    assert_eq!(client.expect(p::DISPOSITION).outcome(), (0x24, None));
    client.credit(0, 2, 0, 10);
    let bodies: Vec<_> = client.receive().iter().map(Received::body).collect();
    assert_eq!(bodies, ["a", "b"]);
    assert_eq!(bench.broker.counts("jobs").unwrap().scheduled, 1);
}

#[test]
fn what_is_scheduled_by_request_is_cancelled_by_its_number_until_it_is_due() {
    let bench = Bench::new();
    let mut client = client(&bench);
    let due = bench.broker.now().after(LATER).0;
    let answer = schedule(&mut client, &[due_at(due, "a"), due_at(due, "b"), due_at(due, "c")]);
    assert_eq!((status(&answer), numbers(&answer)), ((200, None), vec![1, 2, 3]));
    assert_eq!(cancel(&mut client, &[2]), (200, None));
    assert_eq!(cancel(&mut client, &[2]), not_found());
    assert_eq!(cancel(&mut client, &[1, 2]), not_found(), "all or none");
    client.credit(0, 2, 0, 10);
    client.pass(LATER);
    let bodies: Vec<_> = client.receive().iter().map(Received::body).collect();
    assert_eq!(bodies, ["a", "c"], "those due together come in the order in which they were sent");
    assert_eq!(cancel(&mut client, &[1]), not_found(), "its number was good while it was scheduled");
}

#[test]
fn a_topic_keeps_messages_for_later_and_gives_them_to_the_subscriptions_that_it_has_then() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_receiver(0, 50, "exports/$management", 0);
    client.attach_sender(0, 51, "exports/$management");
    client.credit(0, 50, 0, 1_000);
    client.attach_sender(0, 1, "exports");
    client.take();
    let due = bench.broker.now().after(LATER).0;
    client.transfer(1, 0, &due_at(due, "sent"));
    let answer = schedule(&mut client, &[due_at(due, "asked"), due_at(due, "taken back")]);
    assert_eq!(numbers(&answer), [2, 3]);
    assert_eq!(cancel(&mut client, &[3]), (200, None));
    let answer = ask(&mut client, PEEK, |map| {
        map.text("message-count");
        map.int(10);
    });
    assert_eq!(messages(&answer).len(), 2);
    bench.broker.add_subscription("exports", "late", QueueOptions::default()).unwrap();
    assert_eq!(bench.broker.counts("exports").unwrap().scheduled, 2);
    client.attach_receiver(0, 2, "exports/subscriptions/late", 1);
    client.credit(0, 2, 0, 10);
    assert!(client.receive().is_empty());
    client.pass(LATER);
    let bodies: Vec<_> = client.receive().iter().map(Received::body).collect();
    assert_eq!(bodies, ["sent", "asked"]);
    assert_eq!(bench.broker.counts("exports/subscriptions/acme").unwrap().active, 2);
    let counts = bench.broker.counts("exports").unwrap();
    assert_eq!((counts.scheduled, counts.totals.enqueued), (0, 2));
}

#[test]
fn scheduling_takes_the_right_to_send_and_a_node_that_is_sent_to() {
    let bench = Bench::new();
    bench.keys.add_tenant("jobs", "jobs");
    let mut listener = bench.client();
    let token = bench.keys.bus_token("jobs", HOST, bench.now_seconds() + 60).unwrap();
    assert_eq!(listener.put_token("jobs", &token), 202);
    listener.attach_receiver(0, 50, "jobs/$management", 0);
    listener.attach_sender(0, 51, "jobs/$management");
    listener.credit(0, 50, 0, 10);
    listener.take();
    let unauthorized = || (401, Some("amqp:unauthorized-access".into()));
    assert_eq!(status(&schedule(&mut listener, &[message("a")])), unauthorized());
    assert_eq!(cancel(&mut listener, &[1]), unauthorized());

    for node in ["exports/subscriptions/acme", "jobs/$deadletterqueue"] {
        let mut client = bench.trusted();
        client.attach_receiver(0, 50, &format!("{node}/$management"), 0);
        client.attach_sender(0, 51, &format!("{node}/$management"));
        client.credit(0, 50, 0, 10);
        client.take();
        assert_eq!(status(&schedule(&mut client, &[message("a")])), (400, Some("amqp:not-allowed".into())));
    }
}

#[test]
fn scheduling_keeps_the_limits_of_sending() {
    let options = QueueOptions { max_message_bytes: 1_000, max_size_bytes: 300, ..QueueOptions::default() };
    let bench = Bench::with(options);
    let mut client = client(&bench);
    let due = bench.broker.now().after(LATER).0;
    let answer = schedule(&mut client, &[due_at(due, &"x".repeat(1_000))]);
    assert_eq!(status(&answer), (403, Some("amqp:link:message-size-exceeded".into())));
    assert_eq!(status(&schedule(&mut client, &[vec![1, 2, 3]])).0, 400);
    assert_eq!(status(&schedule(&mut client, &[due_at(due, "a"), due_at(due, "b")])).0, 200);
    let answer = schedule(&mut client, &[due_at(due, "c")]);
    assert_eq!(status(&answer), (403, Some("amqp:resource-limit-exceeded".into())));
    bench.broker.set_status("jobs", crate::broker::EntityStatus::SendDisabled).unwrap();
    let answer = schedule(&mut client, &[due_at(due, "c")]);
    assert_eq!(status(&answer), (400, Some("com.microsoft:entity-disabled".into())));
}

#[test]
fn a_second_message_with_a_known_id_is_accepted_and_dropped_within_the_window() {
    let bench = Bench::with(QueueOptions { duplicate_detection_window: Some(LATER), ..QueueOptions::default() });
    let mut client = client(&bench);
    client.send(1, &["a", "b", "a"]);
    client.pass(LATER - Duration::from_millis(1));
    client.send(1, &["a"]);
    let due = bench.broker.now().after(LATER).0;
    assert_eq!(numbers(&schedule(&mut client, &[due_at(due, "a"), due_at(due, "c")])).len(), 2);
    client.send(1, &["c"]);
    let counts = bench.broker.counts("jobs").unwrap();
    assert_eq!((counts.active, counts.scheduled, counts.totals.duplicates), (2, 1, 4));
    client.pass(Duration::from_millis(1));
    client.send(1, &["a"]);
    assert_eq!(bench.broker.counts("jobs").unwrap().active, 3);
    // Two without an id are two messages.
    for id in 0..2 {
        client.transfer(1, id, &[0x00, 0x53, 0x75, 0xa0, 1, b'x']);
    }
    client.take();
    assert_eq!(bench.broker.counts("jobs").unwrap().active, 5);
}

#[test]
fn a_topic_finds_duplicates_for_all_its_subscriptions() {
    let bench = Bench::new();
    let options = TopicOptions { duplicate_detection_window: Some(LATER), ..TopicOptions::default() };
    bench.broker.add_topic("once", options).unwrap();
    for name in ["a", "b"] {
        bench.broker.add_subscription("once", name, QueueOptions::default()).unwrap();
    }
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "once");
    client.send(1, &["x", "y", "x"]);
    for name in ["a", "b"] {
        assert_eq!(bench.broker.counts(&format!("once/subscriptions/{name}")).unwrap().active, 2);
    }
    assert_eq!(bench.broker.counts("once").unwrap().totals.duplicates, 1);
}

#[test]
fn a_topic_is_full_when_its_fullest_subscription_is() {
    let bench = Bench::new();
    bench.broker.add_topic("small", TopicOptions { max_size_bytes: 300, ..TopicOptions::default() }).unwrap();
    bench.broker.add_subscription("small", "a", QueueOptions::default()).unwrap();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "small");
    client.send(1, &["x", "y"]);
    client.transfer(1, 9, &message("z"));
    let (code, error) = client.expect(p::DISPOSITION).outcome();
    let (condition, text) = error.unwrap();
    assert_eq!((code, condition.as_str()), (0x25, "amqp:resource-limit-exceeded"));
    assert!(text.contains("'small'") && text.contains("300 bytes"), "{text}");
}

#[test]
fn a_receiver_that_waits_is_woken_when_a_message_is_due() {
    let bench = Bench::new();
    let mut client = client(&bench);
    client.transfer(1, 0, &due_at(bench.broker.now().after(LOCK).0, "later"));
    client.credit(0, 2, 0, 1);
    assert!(client.receive().is_empty());
    assert_eq!(bench.broker.tick(), bench.broker.now().after(LOCK), "the broker knows when to look again");
    client.pass(LOCK);
    assert_eq!(client.receive().len(), 1);
}
