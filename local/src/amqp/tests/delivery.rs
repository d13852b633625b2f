//! Sending, receiving and settling.

use uuid::Uuid;

use super::client::{Bench, Client, Give, Got, HOST, LOCK, deliveries, message};
use crate::amqp::codec::Value;
use crate::amqp::encode::Write as _;
use crate::amqp::message::BATCH_FORMAT;
use crate::amqp::performative as p;
use crate::broker::{QueueOptions, State};

#[test]
fn a_delivery_carries_its_lock_token_as_tag_and_as_annotation_in_the_byte_orders_of_the_sdks() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["a"]);
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 1);
    let got = client.receive().remove(0);
    let Value::Map(annotations) = got.section(0x71) else { panic!("no delivery annotations") };
    let (Value::Symbol(key), Value::Uuid(token)) = &annotations[0] else { panic!("{annotations:?}") };
    assert_eq!(key, "x-opt-lock-token");
    assert_eq!(Uuid::from_slice_le(&got.tag).unwrap(), *token, "the tag is in .NET's order");
    assert_ne!(got.tag, token.as_bytes(), "which is another one");
    let now = bench.broker.now();
    assert_eq!(got.annotation("x-opt-sequence-number"), &Value::Int(1));
    assert_eq!(got.annotation("x-opt-enqueued-time"), &Value::Timestamp(now.0));
    assert_eq!(got.annotation("x-opt-locked-until"), &Value::Timestamp(now.after(LOCK).0));
    assert_eq!(got.section(0x70).elements().len(), 5, "trailing defaults are written: Rust's client needs them");
    assert_eq!(got.delivery_count(), 0);
}

#[test]
fn bytes_from_properties_on_and_the_senders_annotations_pass_untouched() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    let mut sent = Vec::new();
    sent.described_list(0x70, |list| {
        list.bool(true);
        list.ubyte(9);
    });
    sent.extend([0x00, 0x53, 0x72]);
    sent.map(|map| {
        map.symbol("x-opt-partition-key");
        map.text("p");
        map.symbol("x-opt-sequence-number");
        map.long(999);
    });
    // Wide forms where small ones would do, an exotic type, a footer: nothing of it may be written anew.
    let mut bare = vec![0x00, 0x80, 0, 0, 0, 0, 0, 0, 0, 0x73, 0xd0, 0, 0, 0, 9, 0, 0, 0, 1, 0xb1, 0, 0, 0, 0];
    bare.extend([0x00, 0x53, 0x74, 0xc1, 9, 2, 0xa1, 1, b'k', 0x74, 0x22, 0x50, 0, 0]);
    bare.extend([0x00, 0x53, 0x75, 0xb0, 0, 0, 0, 2, b'h', b'i', 0x00, 0x53, 0x78, 0xc1, 1, 0]);
    sent.extend(&bare);
    client.transfer(1, 0, &sent);
    assert_eq!(client.expect(p::DISPOSITION).outcome(), (0x24, None));
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 1);
    let frames = client.take();
    let payload = &frames.iter().find(|got| got.code == Some(p::TRANSFER)).unwrap().payload;
    assert!(payload.ends_with(&bare), "{payload:02x?}");
    let got = deliveries(&frames).remove(0);
    let header = got.section(0x70).elements();
    assert_eq!(header[..3], [Value::Bool(true), Value::Uint(9), Value::Null]);
    assert_eq!(got.annotation("x-opt-partition-key"), &Value::Text("p".into()));
    assert_eq!(got.annotation("x-opt-sequence-number"), &Value::Int(1), "the broker's, not the sender's");
}

#[test]
fn a_message_without_an_id_gets_one_and_keeps_its_other_properties() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    let mut with_subject = Vec::new();
    with_subject.described_list(0x73, |list| {
        list.null();
        list.null();
        list.text("to");
        list.text("subject");
    });
    with_subject.extend([0x00, 0x53, 0x75, 0xa0, 1, b'a']);
    client.transfer(1, 0, &with_subject);
    client.transfer(1, 1, &[0x00, 0x53, 0x75, 0xa0, 1, b'b']);
    client.take();
    let peeked = bench.broker.peek("jobs", 0, 10).unwrap();
    let ids: Vec<_> = peeked.iter().map(|peeked| peeked.contents.message_id.clone().unwrap()).collect();
    assert!(ids.iter().all(|id| id.len() == 32) && ids[0] != ids[1], "{ids:?}");
    assert_eq!(peeked[0].contents.subject.as_deref(), Some("subject"));
    assert_eq!((peeked[0].contents.body.as_slice(), peeked[1].contents.body.as_slice()), (&b"a"[..], &b"b"[..]));
}

#[test]
fn a_batch_becomes_its_messages_in_order_and_has_one_answer() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "exports");
    // The envelope copies the first message's properties; it is no message.
    let mut batch = Vec::new();
    batch.described_list(0x73, |list| list.text("envelope"));
    for body in ["a", "b", "c"] {
        batch.extend([0x00, 0x53, 0x75]);
        batch.binary(&message(body));
    }
    let (begin, end) = batch.split_at(20);
    client.transfer_part(1, Some(7), BATCH_FORMAT, true, begin);
    assert!(client.take().iter().all(|got| got.code != Some(p::DISPOSITION)), "not before its last frame");
    client.transfer_part(1, None, 0, false, end);
    let answer = client.expect(p::DISPOSITION);
    assert_eq!((answer.number(1), answer.number(2), answer.outcome()), (7, 7, (0x24, None)));
    let peeked = bench.broker.peek("exports/Subscriptions/ACME", 0, 10).unwrap();
    let seen: Vec<_> =
        peeked.iter().map(|p| (p.sequence_number, p.contents.message_id.clone().unwrap_or_default())).collect();
    assert_eq!(seen, [(1, "a".into()), (2, "b".into()), (3, "c".into())]);
}

#[test]
fn a_batch_with_one_malformed_message_is_refused_whole() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    let mut batch = Vec::new();
    for bytes in [message("good"), vec![0x00, 0x53, 0x75, 0xa0, 9, b'x']] {
        batch.extend([0x00, 0x53, 0x75]);
        batch.binary(&bytes);
    }
    client.transfer_part(1, Some(0), BATCH_FORMAT, false, &batch);
    let (code, error) = client.expect(p::DISPOSITION).outcome();
    assert_eq!((code, error.unwrap().0.as_str()), (0x25, "amqp:decode-error"));
    assert_eq!(bench.broker.counts("jobs").unwrap().active, 0);
    client.send(1, &["the link lives on"]);
}

#[test]
fn a_message_of_many_frames_arrives_whole_and_leaves_in_frames_of_the_receivers_size() {
    let bench = Bench::new();
    let mut client = bench.raw_client();
    client.handshake(1_000, None);
    client.begin(0, 2_048);
    client.cbs_links();
    client.put_token("", &bench.token("", 3_600));
    client.attach_sender(0, 1, "jobs");
    let body = "0123456789".repeat(30_000);
    let message = message(&body);
    let pieces: Vec<_> = message.chunks(60_000).collect();
    for (index, piece) in pieces.iter().enumerate() {
        client.transfer_part(1, (index == 0).then_some(0), 0, index + 1 < pieces.len(), piece);
    }
    assert_eq!(client.expect(p::DISPOSITION).outcome(), (0x24, None));
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 5);
    let frames = client.take();
    assert!(frames.iter().all(|got| got.size <= 1_000), "max-frame-size holds");
    let got = deliveries(&frames).remove(0);
    assert!(got.frames > 300, "{} frames", got.frames);
    assert!(got.body() == body);
}

#[test]
fn an_aborted_delivery_leaves_nothing_behind() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.transfer_part(1, Some(0), 0, true, &message("half")[..3]);
    client.frame(0, p::TRANSFER, |list| {
        list.uint(1);
        for _ in 0..8 {
            list.null();
        }
        list.bool(true);
    });
    client.send(1, &["next"]);
    let peeked = bench.broker.peek("jobs", 0, 10).unwrap();
    assert_eq!(peeked.len(), 1);
    assert_eq!(peeked[0].contents.body, b"next");
}

#[test]
fn settled_transfers_are_taken_without_an_answer() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.frame_with(0, p::TRANSFER, &message("a"), |list| {
        list.uint(1);
        list.uint(0);
        list.binary(b"t");
        list.uint(0);
        list.bool(true);
    });
    assert!(client.take().iter().all(|got| got.code != Some(p::DISPOSITION)));
    assert_eq!(bench.broker.counts("jobs").unwrap().active, 1);
}

#[test]
fn every_settlement_is_confirmed_with_its_own_outcome() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["a", "b", "c", "d", "e"]);
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 5);
    let ids: Vec<u32> = client.receive().iter().map(|got| got.delivery_id).collect();
    // (what is given, the descriptor of the answer): Python compares names, and takes any error for a failure.
    let expected = [
        (Give::Accepted, 0x24),
        (Give::Modified, 0x27),
        (Give::Deferred, 0x27),
        (Give::DeadLetter, 0x25),
        (Give::Released, 0x26),
    ];
    for (id, (give, code)) in ids.iter().zip(expected) {
        client.settle(*id, *id, give);
        let answer = client.expect(p::DISPOSITION);
        assert_eq!(answer.field(0), &Value::Bool(false), "as a sender");
        assert_eq!(answer.field(3), &Value::Bool(true), "settled");
        assert_eq!((answer.number(1), answer.number(2)), (i64::from(*id), i64::from(*id)));
        assert_eq!(answer.outcome(), (code, None), "{give:?}");
    }
    let counts = bench.broker.counts("jobs").unwrap();
    let totals = counts.totals;
    assert_eq!((counts.active, counts.locked, counts.deferred, counts.dead_lettered), (2, 0, 1, 1));
    assert_eq!(
        (totals.completed, totals.abandoned, totals.deferred, totals.dead_lettered, totals.released),
        (1, 1, 1, 1, 1)
    );
    let by_body = |body: &str| {
        let peeked = bench.broker.peek("jobs", 0, 10).unwrap();
        peeked.into_iter().find(|peeked| peeked.contents.body == body.as_bytes()).unwrap()
    };
    assert_eq!((by_body("b").delivery_count, by_body("b").state), (1, State::Active), "abandoning counts");
    assert_eq!((by_body("c").delivery_count, by_body("c").state), (0, State::Deferred), "deferring does not");
    assert_eq!((by_body("e").delivery_count, by_body("e").state), (0, State::Active), "releasing does not");
}

#[test]
fn a_range_is_confirmed_as_a_range_and_parted_where_a_lock_was_lost() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["a", "b", "c", "d", "e"]);
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 5);
    let first = client.receive()[0].delivery_id;
    client.settle(first + 2, first + 2, Give::Accepted);
    client.take();
    client.settle(first, first + 4, Give::Accepted);
    let answers: Vec<_> = client
        .take()
        .iter()
        .map(|got| (got.number(1), got.number(2), got.outcome().0, got.outcome().1.map(|(condition, _)| condition)))
        .collect();
    let id = i64::from(first);
    let lost = Some("com.microsoft:message-lock-lost".to_owned());
    assert_eq!(answers, [(id, id + 1, 0x24, None), (id + 2, id + 2, 0x25, lost), (id + 3, id + 4, 0x24, None)]);
    assert_eq!(bench.broker.counts("jobs").unwrap().totals.completed, 5);
}

#[test]
fn settling_after_the_lock_ended_is_answered_as_lost_and_the_message_comes_again() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["a"]);
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 10);
    let first = client.receive().remove(0);
    client.pass(LOCK);
    let second = client.receive().remove(0);
    assert_eq!((second.delivery_count(), second.body()), (1, "a".to_owned()));
    assert_eq!(second.annotation("x-opt-sequence-number"), first.annotation("x-opt-sequence-number"));
    client.settle(first.delivery_id, first.delivery_id, Give::Accepted);
    let (code, error) = client.expect(p::DISPOSITION).outcome();
    assert_eq!((code, error.unwrap().0.as_str()), (0x25, "com.microsoft:message-lock-lost"));
    client.settle(second.delivery_id, second.delivery_id, Give::Accepted);
    assert_eq!(client.expect(p::DISPOSITION).outcome(), (0x24, None));
}

#[test]
fn a_lock_ends_on_time_even_when_the_clock_has_not_ticked() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["a"]);
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 1);
    let got = client.receive().remove(0);
    assert_eq!(bench.broker.expire_locks("jobs").unwrap(), 1);
    client.settle(got.delivery_id, got.delivery_id, Give::Accepted);
    assert_eq!(client.expect(p::DISPOSITION).outcome().0, 0x25);
    assert_eq!(bench.broker.peek("jobs", 0, 1).unwrap()[0].delivery_count, 1);
}

#[test]
fn a_settlement_that_is_settled_already_has_no_answer() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["a", "b"]);
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 2);
    let ids: Vec<u32> = client.receive().iter().map(|got| got.delivery_id).collect();
    client.settle_with(ids[0], ids[0], true, Some(Give::Accepted));
    // Without an outcome nobody says that it was worked.
    client.settle_with(ids[1], ids[1], true, None);
    assert!(client.take().iter().all(|got| got.code != Some(p::DISPOSITION)));
    let totals = bench.broker.counts("jobs").unwrap().totals;
    assert_eq!((totals.completed, totals.released), (1, 1));
}

#[test]
fn dispositions_of_what_was_never_sent_change_nothing() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["a"]);
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 1);
    let id = client.receive()[0].delivery_id;
    client.settle(id + 1, u32::MAX, Give::Accepted);
    client.settle(u32::MAX, 5, Give::Accepted);
    client.take();
    assert_eq!(bench.broker.counts("jobs").unwrap().locked, 1);
    // A range that reaches beyond settles what there is.
    client.settle(id, id + 1_000_000, Give::Accepted);
    assert_eq!(client.expect(p::DISPOSITION).outcome(), (0x24, None));
}

#[test]
fn a_dead_lettered_message_shows_reason_source_and_extra_properties() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "exports");
    let mut sent = Vec::new();
    sent.described_list(0x73, |list| list.text("id"));
    sent.extend([0x00, 0x53, 0x74]);
    sent.map(|map| {
        map.text("blobType");
        map.text("Items");
        map.text("DeadLetterReason");
        map.text("from an earlier life");
    });
    sent.extend([0x00, 0x53, 0x75, 0xa0, 1, b'x']);
    client.transfer(1, 0, &sent);
    client.attach_receiver(0, 2, "exports/subscriptions/acme", 0);
    client.credit(0, 2, 0, 1);
    let id = client.receive()[0].delivery_id;
    client.settle(id, id, Give::DeadLetter);
    client.take();
    client.attach_receiver(0, 3, "exports/subscriptions/acme/$DeadLetterQueue", 0);
    client.credit(0, 3, 0, 1);
    let dead = client.receive().remove(0);
    let properties = dead.section(0x74);
    let expected = [
        ("blobType", Value::Text("Items".into())),
        ("DeadLetterReason", Value::Text("bad".into())),
        ("DeadLetterErrorDescription", Value::Text("very bad".into())),
        ("extra", Value::Int(7)),
    ];
    let pairs = expected.map(|(key, value)| (Value::Text(key.to_owned()), value)).to_vec();
    assert_eq!(properties, &Value::Map(pairs), "each once");
    assert_eq!(dead.annotation("x-opt-deadletter-source"), &Value::Text("exports/subscriptions/acme".into()));
    assert_eq!(dead.section(0x75), &Value::Binary(b"x".to_vec()));
    // What lies there cannot be dead-lettered once more, and stays locked.
    client.settle(dead.delivery_id, dead.delivery_id, Give::DeadLetter);
    let (code, error) = client.expect(p::DISPOSITION).outcome();
    assert_eq!((code, error.unwrap().0.as_str()), (0x25, "amqp:not-allowed"));
    assert_eq!(bench.broker.counts("exports/subscriptions/acme/$deadletterqueue").unwrap().locked, 1);
}

#[test]
fn too_many_deliveries_dead_letter_with_azures_reason() {
    let bench = Bench::with(QueueOptions { max_delivery_count: 2, lock_duration: LOCK, ..QueueOptions::default() });
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["a"]);
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 10);
    let id = client.receive()[0].delivery_id;
    client.settle(id, id, Give::Modified);
    client.receive();
    client.pass(LOCK);
    assert!(client.receive().is_empty());
    let dead = bench.broker.peek("jobs/$DeadLetterQueue", 0, 10).unwrap().remove(0);
    assert_eq!(dead.contents.property("DeadLetterReason"), Some(&Value::Text("MaxDeliveryCountExceeded".into())));
    let text = "Message could not be consumed after 2 delivery attempts.";
    assert_eq!(dead.contents.property("DeadLetterErrorDescription"), Some(&Value::Text(text.into())));
    assert_eq!(bench.broker.counts("jobs").unwrap().dead_lettered, 1);
}

#[test]
fn an_expired_message_is_dropped_or_dead_lettered_as_configured() {
    for dead_letter_expired in [false, true] {
        let bench = Bench::with(QueueOptions {
            default_ttl: Some(LOCK),
            dead_letter_expired,
            lock_duration: LOCK,
            ..QueueOptions::default()
        });
        let mut client = bench.trusted();
        client.attach_sender(0, 1, "jobs");
        client.send(1, &["a"]);
        client.pass(LOCK);
        let counts = bench.broker.counts("jobs").unwrap();
        assert_eq!((counts.active, counts.dead_lettered), (0, usize::from(dead_letter_expired)));
        assert_eq!(counts.totals.expired, u64::from(!dead_letter_expired));
    }
}

#[test]
fn receive_and_delete_hands_out_once_without_a_lock() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["a"]);
    client.attach_receiver(0, 2, "jobs", 1);
    client.credit(0, 2, 0, 10);
    let got = client.receive().remove(0);
    assert!(got.settled);
    assert_eq!((got.tag.len(), got.annotation("x-opt-locked-until")), (16, &Value::Null));
    let counts = bench.broker.counts("jobs").unwrap();
    assert_eq!((counts.active, counts.locked, counts.totals.completed), (0, 0, 1));
}

#[test]
fn the_fault_delivers_twice_under_the_same_number() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["a", "b"]);
    bench.broker.deliver_twice("jobs", 1).unwrap();
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 10);
    let mut got = client.receive();
    got.extend({
        bench.broker.tick();
        client.receive()
    });
    let seen: Vec<_> = got.iter().map(|got| (got.body(), got.delivery_count())).collect();
    assert_eq!(seen, [("a".into(), 0), ("b".into(), 0), ("a".into(), 1)]);
    client.settle(got[0].delivery_id, got[0].delivery_id, Give::Accepted);
    assert_eq!(client.expect(p::DISPOSITION).outcome().0, 0x25, "the first delivery's lock is lost");
    client.settle(got[1].delivery_id, got[2].delivery_id, Give::Accepted);
    assert_eq!(client.expect(p::DISPOSITION).outcome(), (0x24, None));
    assert_eq!(bench.broker.counts("jobs").unwrap().totals.completed, 2);
}

#[test]
fn a_full_entity_refuses_and_takes_again_when_there_is_room() {
    let bench = Bench::with(QueueOptions { max_size_bytes: 250, ..QueueOptions::default() });
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "exports");
    client.transfer(1, 0, &message("a"));
    client.transfer(1, 1, &message("b"));
    client.transfer(1, 2, &message("c"));
    let answers: Vec<_> = client.take().into_iter().filter(|got| got.code == Some(p::DISPOSITION)).collect();
    assert_eq!(answers[0].outcome(), (0x24, None));
    assert_eq!(answers[1].outcome(), (0x24, None), "there was room before it");
    let (code, error) = answers[2].outcome();
    let (condition, text) = error.unwrap();
    assert_eq!((code, condition.as_str()), (0x25, "amqp:resource-limit-exceeded"));
    assert!(text.contains("exports/subscriptions/acme") && text.contains("250 bytes"), "{text}");
    client.attach_receiver(0, 2, "exports/subscriptions/acme", 1);
    client.credit(0, 2, 0, 10);
    client.receive();
    client.send(1, &["d"]);
}

#[test]
fn each_subscription_of_a_topic_gets_its_own_copy_and_a_late_one_only_what_follows() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, &format!("amqps://{HOST}/Exports"));
    client.send(1, &["a"]);
    bench.broker.add_subscription("exports", "late", QueueOptions::default()).unwrap();
    client.send(1, &["b"]);
    assert_eq!(bench.broker.counts("exports/subscriptions/acme").unwrap().active, 2);
    assert_eq!(bench.broker.counts("exports/subscriptions/late").unwrap().active, 1);
    assert_eq!(bench.broker.counts("exports").unwrap().totals.enqueued, 2);
    client.attach_receiver(0, 2, "exports/subscriptions/late", 1);
    client.credit(0, 2, 0, 10);
    assert_eq!(client.receive()[0].body(), "b");
    assert_eq!(bench.broker.counts("exports/subscriptions/acme").unwrap().active, 2);
}

#[test]
fn what_is_known_of_a_range_is_settled_and_the_rest_is_answered_in_ranges() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 5_000);
    (0..5_000).for_each(|id| client.transfer(1, id, &message("x")));
    let first = client.receive()[0].delivery_id;
    for (from, to) in [(3, 3), (7, 8)] {
        client.settle(first + from, first + to, Give::Accepted);
        client.take();
    }
    let answers = |client: &mut Client, from: u32, to: u32| -> Vec<(i64, i64, u64)> {
        client.settle(first + from, first + to, Give::Accepted);
        let frames = client.take();
        let answers = frames.iter().filter(|got| got.code == Some(p::DISPOSITION));
        let place = |got: &Got, field| got.number(field) - i64::from(first);
        answers.map(|got| (place(got, 1), place(got, 2), got.outcome().0)).collect()
    };
    let expected = [(0, 2, 0x24), (3, 3, 0x25), (4, 6, 0x24), (7, 8, 0x25), (9, 4_999, 0x24)];
    assert_eq!(answers(&mut client, 0, 4_999), expected);
    assert_eq!(answers(&mut client, 0, 4_999), [(0, 4_999, 0x25)], "they are all settled");
    assert_eq!(answers(&mut client, 10, 2_000_000), [(10, 4_999, 0x25)], "what was never sent is not answered");
    assert_eq!(bench.broker.counts("jobs").unwrap().totals.completed, 5_000);
}
