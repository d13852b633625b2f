//! `$management`: locks, peeking, deferred messages.

use uuid::Uuid;

use super::client::{Bench, Client, Give, LOCK, Received};
use crate::amqp::codec::{Reader, Value};
use crate::amqp::encode::{Compound, Write as _};
use crate::amqp::performative as p;

pub(super) const RENEW: &str = "com.microsoft:renew-lock";
pub(super) const PEEK: &str = "com.microsoft:peek-message";
pub(super) const SETTLE: &str = "com.microsoft:update-disposition";
pub(super) const DEFERRED: &str = "com.microsoft:receive-by-sequence-number";

/// A client with links to `jobs/$management` on handles 50 and 51, and links to `jobs` on 1 (sends) and 2 (receives).
pub(super) fn client(bench: &Bench) -> Client {
    let mut client = bench.trusted();
    client.attach_receiver(0, 50, "jobs/$management", 0);
    client.attach_sender(0, 51, "jobs/$management");
    client.credit(0, 50, 0, 1_000);
    client.attach_sender(0, 1, "jobs");
    client.attach_receiver(0, 2, "jobs", 0);
    client.take();
    client
}

pub(super) fn ask(client: &mut Client, operation: &str, body: impl FnOnce(&mut Compound<'_>)) -> Received {
    client.request(
        51,
        Some("client"),
        |map| {
            map.text("operation");
            map.text(operation);
            map.text("com.microsoft:server-timeout");
            map.uint(60_000);
        },
        |out| out.map(body),
    )
}

pub(super) fn status(answer: &Received) -> (i64, Option<String>) {
    let properties = answer.section(0x74);
    let condition = properties.get("errorCondition").and_then(Value::as_text).map(str::to_owned);
    assert!(properties.get("statusDescription").and_then(Value::as_text).is_some(), "clients read a text");
    (properties.get("statusCode").and_then(Value::as_int).unwrap(), condition)
}

pub(super) fn lock_tokens(map: &mut Compound<'_>, tokens: &[Uuid]) {
    map.text("lock-tokens");
    map.array(0x98, u32::try_from(tokens.len()).unwrap(), |out| {
        tokens.iter().for_each(|token| out.extend(token.as_bytes()));
    });
}

pub(super) fn locked(client: &mut Client, bodies: &[&str]) -> Vec<(Received, Uuid)> {
    client.send(1, bodies);
    client.credit(0, 2, 0, u32::try_from(bodies.len()).unwrap());
    let with_token = |got: Received| {
        let token = Uuid::from_slice_le(&got.tag).unwrap();
        (got, token)
    };
    client.receive().into_iter().map(with_token).collect()
}

/// The messages of an answer: (body, map of the entry).
pub(super) fn messages(answer: &Received) -> Vec<(String, Value)> {
    let list = answer.section(0x77).get("messages").map(Value::elements).unwrap_or_default();
    list.iter()
        .map(|entry| {
            let Some(Value::Binary(bytes)) = entry.get("message") else { panic!("no message in {entry:?}") };
            let mut reader = Reader::new(bytes);
            let mut body = String::new();
            while !reader.is_empty() {
                if reader.descriptor().unwrap() == 0x75 {
                    body = String::from_utf8(reader.binary().unwrap().unwrap().to_vec()).unwrap();
                } else {
                    reader.skip().unwrap();
                }
            }
            (body, entry.clone())
        })
        .collect()
}

#[test]
fn a_renewed_lock_lasts_one_lock_duration_from_now() {
    let bench = Bench::new();
    let mut client = client(&bench);
    let (got, token) = locked(&mut client, &["a"]).remove(0);
    client.pass(LOCK / 2);
    let answer = ask(&mut client, RENEW, |map| lock_tokens(map, &[token]));
    assert_eq!(status(&answer), (200, None));
    let until = bench.broker.now().after(LOCK).0;
    assert_eq!(answer.section(0x77).get("expirations"), Some(&Value::Array(vec![Value::Timestamp(until)])));
    client.pass(LOCK - LOCK / 4);
    client.settle(got.delivery_id, got.delivery_id, Give::Accepted);
    assert_eq!(client.expect(p::DISPOSITION).outcome(), (0x24, None));
    let answer = ask(&mut client, RENEW, |map| lock_tokens(map, &[token]));
    assert_eq!(status(&answer), (410, Some("com.microsoft:message-lock-lost".into())));
}

#[test]
fn peeking_shows_every_state_and_changes_nothing() {
    let bench = Bench::new();
    let mut client = client(&bench);
    let first = locked(&mut client, &["deferred", "locked"]).remove(0).0;
    client.settle(first.delivery_id, first.delivery_id, Give::Deferred);
    client.take();
    client.send(1, &["active"]);
    let peek = |map: &mut Compound<'_>, from: i64, count: i32| {
        map.text("from-sequence-number");
        map.long(from);
        map.text("message-count");
        map.int(count);
    };
    let answer = ask(&mut client, PEEK, |map| peek(map, 0, 10));
    assert_eq!(status(&answer), (200, None));
    let bodies: Vec<_> = messages(&answer).into_iter().map(|(body, _)| body).collect();
    assert_eq!(bodies, ["deferred", "locked", "active"]);
    let answer = ask(&mut client, PEEK, |map| peek(map, 2, 1));
    assert_eq!(messages(&answer)[0].0, "locked");
    assert_eq!(status(&ask(&mut client, PEEK, |map| peek(map, 4, 1))), (204, None));
    let counts = bench.broker.counts("jobs").unwrap();
    assert_eq!((counts.active, counts.locked, counts.deferred, counts.totals.deliveries), (1, 1, 1, 2));
}

#[test]
fn a_peek_of_many_large_messages_is_cut_to_what_one_answer_may_hold() {
    let bench = Bench::new();
    let mut client = client(&bench);
    let body = "x".repeat(30_000);
    client.send(1, &vec![body.as_str(); 40]);
    let answer = ask(&mut client, PEEK, |map| {
        map.text("from-sequence-number");
        map.long(0);
        map.text("message-count");
        map.int(1_000);
    });
    let count = messages(&answer).len();
    assert!((10..20).contains(&count), "{count} messages of 60 KB are about 1 MiB");
}

#[test]
fn settling_by_token_does_what_settling_on_the_link_does() {
    let bench = Bench::new();
    let mut client = client(&bench);
    let tokens: Vec<Uuid> = locked(&mut client, &["a", "b", "c", "d"]).into_iter().map(|(_, token)| token).collect();
    let mut settle = |token: Uuid, how: &'static str| {
        status(&ask(&mut client, SETTLE, |map| {
            map.text("disposition-status");
            map.text(how);
            lock_tokens(map, &[token]);
            map.text("deadletter-reason");
            map.text("why");
        }))
    };
    assert_eq!(settle(tokens[0], "completed"), (200, None));
    assert_eq!(settle(tokens[1], "abandoned"), (200, None));
    assert_eq!(settle(tokens[2], "defered"), (200, None));
    assert_eq!(settle(tokens[3], "suspended"), (200, None));
    assert_eq!(settle(tokens[0], "completed"), (410, Some("com.microsoft:message-lock-lost".into())));
    assert_eq!(settle(tokens[0], "eaten").0, 400);
    let counts = bench.broker.counts("jobs").unwrap();
    assert_eq!((counts.active, counts.locked, counts.deferred, counts.dead_lettered), (1, 0, 1, 1));
    let dead = bench.broker.peek("jobs/$deadletterqueue", 0, 1).unwrap().remove(0);
    assert_eq!(dead.contents.property("DeadLetterReason"), Some(&Value::Text("why".into())));
}

#[test]
fn deferred_messages_come_by_their_numbers_with_a_lock() {
    let bench = Bench::new();
    let mut client = client(&bench);
    let (first, _) = locked(&mut client, &["a"]).remove(0);
    client.settle(first.delivery_id, first.delivery_id, Give::Deferred);
    client.take();
    let receive = |client: &mut Client, sequences: &[i64], mode: u32| {
        ask(client, DEFERRED, |map| {
            map.text("sequence-numbers");
            map.array(0x81, u32::try_from(sequences.len()).unwrap(), |out| {
                sequences.iter().for_each(|sequence| out.extend(sequence.to_be_bytes()));
            });
            map.text("receiver-settle-mode");
            map.uint(mode);
        })
    };
    let answer = receive(&mut client, &[7], 1);
    assert_eq!(status(&answer), (404, Some("com.microsoft:message-not-found".into())));
    // All or none: Azure locks nothing when one of them is not there.
    assert_eq!(status(&receive(&mut client, &[1, 7], 1)).0, 404);
    let answer = receive(&mut client, &[1], 1);
    let (body, entry) = messages(&answer).remove(0);
    assert_eq!(body, "a");
    let Some(Value::Uuid(token)) = entry.get("lock-token") else { panic!("{entry:?}") };
    let answer = ask(&mut client, SETTLE, |map| {
        map.text("disposition-status");
        map.text("completed");
        lock_tokens(map, &[*token]);
    });
    assert_eq!(status(&answer), (200, None));
    assert_eq!(bench.broker.counts("jobs").unwrap().totals.completed, 1);
}

#[test]
fn an_unknown_operation_is_501_and_names_the_known_ones() {
    let bench = Bench::new();
    let mut client = client(&bench);
    let answer = ask(&mut client, "com.microsoft:eat-message", |_| {});
    assert_eq!(status(&answer), (501, Some("amqp:not-implemented".into())));
    let text = answer.section(0x74).get("statusDescription").and_then(Value::as_text).unwrap().to_owned();
    assert!(text.contains("eat-message") && text.contains(PEEK), "{text}");
    assert!(matches!(answer.section(0x77), Value::Map(_)), "there is always a body");
}

#[test]
fn a_management_link_is_cut_with_its_token() {
    let bench = Bench::new();
    let mut client = client(&bench);
    client.pass(std::time::Duration::from_secs(3_599));
    let answer = ask(&mut client, PEEK, |_| {});
    assert_eq!(status(&answer).0, 204);
    client.pass(std::time::Duration::from_secs(1));
    client.take();
    client.transfer(51, 5, &[]);
    assert!(client.take().is_empty(), "the link is cut");
}

#[test]
fn answers_go_to_the_link_that_is_named_as_target_or_by_its_name() {
    let bench = Bench::new();
    let mut client = bench.client();
    client.begin(1, 1_000);
    // JavaScript: its own session, a null target, and the link's name as reply-to.
    client.frame(1, p::ATTACH, |list| {
        list.text("js-name");
        list.uint(0);
        list.bool(true);
        list.ubyte(1);
        list.ubyte(0);
        list.described_list(0x28, |source| source.text("$cbs"));
        list.null();
    });
    client.credit(1, 0, 0, 10);
    client.take();
    let token = bench.token("jobs", 60);
    let answer = client.request(
        101,
        Some("js-name"),
        |map| {
            for (key, value) in [("operation", "put-token"), ("name", "sb://localhost/jobs")] {
                map.text(key);
                map.text(value);
            }
        },
        |out| out.text(&token),
    );
    assert!(answer.settled, "as that link asked for");
    assert_eq!(answer.section(0x74).get("status-code"), Some(&Value::Int(202)));
}

#[test]
fn a_malformed_request_ends_its_session_only() {
    let bench = Bench::new();
    let mut client = client(&bench);
    client.transfer(51, 0, &[0x00, 0x53, 0x77, 0xd0, 0, 0]);
    assert_eq!(client.expect(p::END).error(0).0, "amqp:decode-error");
    assert_eq!(client.begin(1, 10).code, Some(p::BEGIN));
}

#[test]
fn answers_nobody_reads_do_not_pile_up() {
    let bench = Bench::new();
    let mut client = client(&bench);
    client.credit(0, 50, 0, 0);
    let mut request = Vec::new();
    request.described_list(0x73, |list| {
        list.ulong(1);
        for _ in 0..3 {
            list.null();
        }
        list.text("client");
    });
    let mut detached = None;
    for id in 0..2_000 {
        client.transfer(51, id, &request);
        detached = client.take().into_iter().find(|got| got.code == Some(p::DETACH));
        if detached.is_some() {
            break;
        }
    }
    assert_eq!(detached.expect("the link is detached").error(2).0, "amqp:resource-limit-exceeded");
}

#[test]
fn several_locks_are_renewed_together_or_not_at_all() {
    let bench = Bench::new();
    let mut client = client(&bench);
    let tokens: Vec<Uuid> = locked(&mut client, &["a", "b"]).into_iter().map(|(_, token)| token).collect();
    client.pass(LOCK / 2);
    let answer = ask(&mut client, RENEW, |map| lock_tokens(map, &tokens));
    let until = Value::Timestamp(bench.broker.now().after(LOCK).0);
    assert_eq!(answer.section(0x77).get("expirations"), Some(&Value::Array(vec![until.clone(), until])));
    client.pass(LOCK / 2);
    let answer = ask(&mut client, RENEW, |map| lock_tokens(map, &[tokens[0], Uuid::from_u128(1)]));
    assert_eq!(status(&answer), (410, Some("com.microsoft:message-lock-lost".into())));
    client.pass(LOCK / 2);
    assert_eq!(bench.broker.counts("jobs").unwrap().active, 2, "the good one was not renewed either");
}

#[test]
fn properties_are_modified_by_request_too() {
    let bench = Bench::new();
    let mut client = client(&bench);
    let tokens: Vec<Uuid> =
        locked(&mut client, &["abandoned", "defered", "suspended"]).into_iter().map(|(_, token)| token).collect();
    for (token, how) in tokens.iter().zip(["abandoned", "defered", "suspended"]) {
        let answer = ask(&mut client, SETTLE, |map| {
            lock_tokens(map, &[*token]);
            map.text("disposition-status");
            map.text(how);
            map.text("properties-to-modify");
            map.map(|map| {
                map.text("tried");
                map.text(how);
                map.text("times");
                map.ubyte(3);
            });
        });
        assert_eq!(status(&answer), (200, None));
    }
    let mut seen = bench.broker.peek("jobs", 0, 10).unwrap();
    seen.extend(bench.broker.peek("jobs/$deadletterqueue", 0, 10).unwrap());
    assert_eq!(seen.len(), 3);
    for peeked in seen {
        let body = String::from_utf8(peeked.contents.body.clone()).unwrap();
        assert_eq!(peeked.contents.property("tried"), Some(&Value::Text(body)));
        assert_eq!(peeked.contents.property("times"), Some(&Value::Uint(3)));
    }
}

#[test]
fn messages_are_deleted_in_a_batch_unless_they_are_held_or_too_new() {
    let bench = Bench::new();
    let mut client = client(&bench);
    locked(&mut client, &["held"]);
    client.send(1, &["a", "b", "c"]);
    client.pass(std::time::Duration::from_secs(1));
    let cutoff = bench.broker.now().0;
    client.send(1, &["new"]);
    let mut delete = |count: i32| {
        let answer = ask(&mut client, "com.microsoft:batch-delete-messages", |map| {
            map.text("message-count");
            map.int(count);
            map.text("enqueued-time-utc");
            map.timestamp(cutoff);
        });
        (status(&answer), answer.section(0x77).get("message-count").and_then(Value::as_int))
    };
    assert_eq!(delete(2), ((200, None), Some(2)));
    assert_eq!(delete(500), ((200, None), Some(1)));
    assert_eq!(delete(500), ((204, None), Some(0)));
    let out_of_range = || (400, Some("com.microsoft:argument-out-of-range".to_owned()));
    assert_eq!(delete(0), (out_of_range(), None));
    assert_eq!(delete(4_001), (out_of_range(), None));
    let left: Vec<_> = bench.broker.peek("jobs", 0, 10).unwrap().into_iter().map(|left| left.contents.body).collect();
    assert_eq!(left, [b"held".to_vec(), b"new".to_vec()]);
}

#[test]
fn sessions_are_refused_by_request_too_and_a_message_with_a_session_id_is_a_message() {
    let bench = Bench::new();
    let mut client = client(&bench);
    for operation in ["renew-session-lock", "get-session-state", "set-session-state", "get-message-sessions"] {
        let answer = ask(&mut client, &format!("com.microsoft:{operation}"), |map| {
            map.text("session-id");
            map.text("s");
        });
        assert_eq!(status(&answer), (400, Some("amqp:not-allowed".into())), "{operation}");
    }
    let answer = ask(&mut client, PEEK, |map| {
        map.text("session-id");
        map.text("s");
    });
    assert_eq!(status(&answer).0, 400);
    let mut sent = Vec::new();
    sent.described_list(0x73, |list| {
        for _ in 0..10 {
            list.null();
        }
        list.text("s");
    });
    sent.extend([0x00, 0x53, 0x75, 0xa0, 1, b'x']);
    client.transfer(1, 0, &sent);
    assert_eq!(client.expect(p::DISPOSITION).outcome(), (0x24, None));
    client.credit(0, 2, 0, 1);
    let got = client.receive().remove(0);
    assert_eq!(got.section(0x73).elements()[10], Value::Text("s".into()));
}

#[test]
fn requests_that_lack_what_they_need_say_so() {
    let bench = Bench::new();
    let mut client = client(&bench);
    for operation in
        [RENEW, SETTLE, DEFERRED, "com.microsoft:schedule-message", "com.microsoft:cancel-scheduled-message"]
    {
        let answer = ask(&mut client, operation, |_| {});
        assert_eq!(status(&answer), (400, Some("com.microsoft:argument-error".into())), "{operation}");
    }
}
