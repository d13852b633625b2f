//! Sizes, windows and times that a client must keep, and what it is told when it does not.

use std::time::Duration;

use super::client::{Bench, Client, message};
use crate::amqp::EndpointOptions;
use crate::amqp::codec::Value;
use crate::amqp::connection::Ending;
use crate::amqp::encode::{Compound, Write as _};
use crate::amqp::frame::AMQP_HEADER;
use crate::amqp::performative as p;
use crate::broker::QueueOptions;

fn closed(client: &mut Client, condition: &str, words: &str) {
    let (got, text) = client.expect(p::CLOSE).error(0);
    assert_eq!(got, condition);
    assert!(text.contains(words), "{text}");
    assert_eq!(client.engine.ending(), None, "the client is to agree");
    client.frame(0, p::CLOSE, |_| {});
    client.engine.turn(client.at);
    assert_eq!(client.engine.ending(), Some(Ending::Close));
}

#[test]
fn a_frame_beyond_the_max_frame_size_closes_the_connection() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.bytes(&[0, 1, 0, 1, 2, 0, 0, 0]);
    closed(&mut client, "amqp:connection:framing-error", "65537");
}

#[test]
fn rubbish_within_a_frame_closes_the_connection() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.bytes(&[0, 0, 0, 12, 2, 0, 0, 0, 1, 2, 3, 4]);
    closed(&mut client, "amqp:decode-error", "described value");
    let mut client = bench.trusted();
    client.frame(0, 0x99, |_| {});
    closed(&mut client, "amqp:decode-error", "unknown performative");
    let mut client = bench.trusted();
    client.frame(0, p::TRANSFER, |_| {});
    closed(&mut client, "amqp:decode-error", "mandatory");
}

#[test]
fn an_error_before_open_sends_open_first() {
    let bench = Bench::new();
    let mut client = bench.raw_client();
    client.bytes(&AMQP_HEADER);
    client.read(usize::MAX);
    client.unread.drain(..8);
    client.frame(0, p::END, |_| {});
    let codes: Vec<_> = client.take().iter().filter_map(|got| got.code).collect();
    assert_eq!(codes, [p::OPEN, p::CLOSE]);
}

#[test]
fn a_message_beyond_the_limit_is_rejected_and_its_link_detached() {
    let bench = Bench::with(QueueOptions { max_message_bytes: 100_000, ..QueueOptions::default() });
    let mut client = bench.trusted();
    for entity in ["jobs", "exports"] {
        client.attach_sender(0, 1, entity);
        client.transfer_part(1, Some(0), 0, true, &vec![0; 60_000]);
        client.transfer_part(1, None, 0, true, &vec![0; 40_000]);
        assert!(client.take().is_empty(), "exactly the limit is allowed");
        client.transfer_part(1, None, 0, true, &[0]);
        let frames = client.take();
        let (code, error) = frames[0].outcome();
        assert_eq!((code, error.unwrap().0.as_str()), (0x25, "amqp:link:message-size-exceeded"));
        let (condition, text) = frames[1].error(2);
        assert_eq!(condition, "amqp:link:message-size-exceeded");
        assert!(text.contains("100001") && text.contains("100000"), "{text}");
        // The rest of it is still under way, and is dropped.
        client.transfer_part(1, None, 0, false, &[0; 10]);
        assert!(client.take().is_empty());
        client.frame(0, p::DETACH, |list| {
            list.uint(1);
            list.bool(true);
        });
        client.take();
    }
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["the session lives on"]);
}

#[test]
fn aborted_deliveries_are_forgotten_and_their_credit_comes_back() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    for id in 0..1_500 {
        client.transfer_part(1, Some(id), 0, true, b"the start of something that never comes");
        client.frame(0, p::TRANSFER, |list| {
            list.uint(1);
            for _ in 0..8 {
                list.null();
            }
            list.bool(true);
        });
    }
    let flows = client.take().into_iter().filter(|got| got.code == Some(p::FLOW) && got.field(6) != &Value::Null);
    assert_eq!(flows.map(|flow| (flow.number(5), flow.number(6))).next_back(), Some((1_500, 1_000)));
    client.send(1, &["a whole one"]);
    assert_eq!(bench.broker.counts("jobs").unwrap().active, 1);
}

#[test]
fn too_many_bytes_of_unfinished_deliveries_close_the_connection() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    let piece = vec![0; 60_000];
    let mut parts = 0;
    'fill: for handle in 0..99 {
        client.attach_sender(0, handle, "jobs");
        client.transfer_part(handle, Some(handle), 0, true, &piece);
        for _ in 0..16 {
            client.transfer_part(handle, None, 0, true, &piece);
            parts += 1;
            if client.take().iter().any(|got| got.code == Some(p::CLOSE)) {
                break 'fill;
            }
        }
    }
    assert!(parts * 60_000 <= 65 * 1024 * 1024, "64 MiB is the limit, not {}", parts * 60_000);
    client.engine.turn(client.at);
    assert!(bench.broker.links().is_empty());
}

#[test]
fn what_a_detached_link_held_is_not_counted_any_more() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    let piece = vec![0; 60_000];
    for round in 0..80 {
        client.attach_sender(0, 1, "jobs");
        client.transfer_part(1, Some(round), 0, true, &piece);
        for _ in 0..15 {
            client.transfer_part(1, None, 0, true, &piece);
        }
        client.frame(0, p::DETACH, |list| {
            list.uint(1);
            list.bool(true);
        });
        assert!(client.take().iter().all(|got| got.code != Some(p::CLOSE)), "in round {round}");
    }
}

#[test]
fn handles_and_channels_beyond_the_highest_close_the_connection() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.frame(0, p::ATTACH, |list| {
        list.text("n");
        list.uint(256);
        list.bool(false);
    });
    closed(&mut client, "amqp:connection:framing-error", "handle-max");
    let mut client = bench.trusted();
    client.frame(256, p::BEGIN, |list| {
        list.null();
        list.uint(0);
        list.uint(1);
        list.uint(1);
    });
    closed(&mut client, "amqp:connection:framing-error", "channel-max");
}

#[test]
fn heartbeats_leave_before_half_of_the_clients_time_out() {
    let bench = Bench::new();
    let mut client = bench.raw_client();
    client.handshake(65_536, Some(30_000));
    for _ in 0..5 {
        let due = client.engine.deadline();
        assert!(due < client.at + Duration::from_secs(15), "less than half of 30 s");
        let wait = due - client.at;
        client.pass(wait.saturating_sub(Duration::from_millis(1)));
        assert!(client.take().is_empty());
        client.pass(Duration::from_millis(1));
        let frames = client.take();
        assert_eq!((frames.len(), frames[0].code, frames[0].size), (1, None, 8));
        client.bytes(&[0, 0, 0, 8, 2, 0, 0, 0]);
    }
}

#[test]
fn a_time_out_of_a_millisecond_is_not_kept() {
    let bench = Bench::new();
    let mut client = bench.raw_client();
    client.handshake(65_536, Some(1));
    client.take();
    client.bytes(&[0, 0, 0, 8, 2, 0, 0, 0]);
    assert_eq!(client.engine.deadline(), client.at + Duration::from_millis(20));
}

#[test]
fn a_client_without_a_time_out_gets_no_heartbeats() {
    let bench = Bench::new();
    let mut client = bench.raw_client();
    client.handshake(65_536, None);
    client.pass(Duration::from_secs(200));
    assert!(client.take().is_empty());
}

#[test]
fn a_silent_client_is_closed_after_twice_the_time_that_it_was_told() {
    let bench = Bench::new();
    let idle_time_out = Duration::from_secs(60);
    let mut client = bench.client_with(EndpointOptions { idle_time_out, ..EndpointOptions::default() });
    client.handshake(65_536, None);
    client.pass(Duration::from_secs(119));
    assert!(client.take().is_empty());
    client.bytes(&[0, 0, 0, 8, 2, 0, 0, 0]);
    client.pass(Duration::from_secs(119));
    assert!(client.take().is_empty(), "a heartbeat of the client counts");
    assert_eq!(client.engine.deadline(), client.at + Duration::from_secs(1));
    client.pass(Duration::from_secs(1));
    let (condition, text) = client.expect(p::CLOSE).error(0);
    assert_eq!(condition, "amqp:connection:forced");
    assert!(text.contains("inactive") && text.contains("120000"), "{text}");
    // It does not agree either.
    client.pass(Duration::from_secs(2));
    client.take();
    assert_eq!(client.engine.ending(), Some(Ending::Close));
}

#[test]
fn a_client_that_never_opens_is_given_up() {
    let bench = Bench::new();
    let mut client = bench.raw_client();
    assert_eq!(client.engine.consume(b"AMQP", client.at), 0);
    assert_eq!(client.engine.deadline(), client.at + Duration::from_secs(30));
    client.pass(Duration::from_secs(30));
    client.read(usize::MAX);
    assert_eq!(client.engine.ending(), Some(Ending::Close));
    assert!(!client.engine.wants_input());
}

#[test]
fn a_stop_closes_in_order() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.transfer(1, 0, &message("a"));
    client.engine.stop(client.at);
    client.engine.stop(client.at);
    let codes: Vec<_> = client.take().iter().filter_map(|got| got.code).collect();
    assert_eq!(codes, [p::DISPOSITION, p::CLOSE], "what was taken is answered, and once is enough");
}

/// A flow of link 1 that wants an answer.
fn echo(list: &mut Compound<'_>) {
    for number in [0, 100, 0, 100, 1, 0, 1] {
        list.uint(number);
    }
    list.null();
    list.bool(false);
    list.bool(true);
}

#[test]
fn a_client_that_writes_and_never_reads_is_not_read_any_further() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    let mut attached = 0;
    // Every flow with echo costs an answer; nobody reads them.
    client.attach_receiver(0, 1, "jobs", 0);
    while client.engine.wants_input() {
        client.frame(0, p::FLOW, echo);
        attached += 1;
        assert!(attached < 200_000, "reading never stops");
    }
    assert!(client.engine.output().len() < 1_500_000);
    client.take();
    assert!(client.engine.wants_input(), "and goes on when it reads");
}

#[test]
fn who_has_no_token_is_not_read_any_further_than_a_frame_or_two() {
    let bench = Bench::new();
    let mut client = bench.client();
    let name = "n".repeat(20_000);
    let mut frames = 0;
    // Each attach is answered with the link's name, and refused.
    while client.engine.wants_input() {
        client.frame(0, p::ATTACH, |list| {
            list.text(&name);
            list.uint(frames);
            list.bool(true);
        });
        frames += 1;
        assert!(frames < 100, "reading never stops");
    }
    assert!(client.engine.output().len() < 64 * 1024, "{}", client.engine.output().len());
    let held = client.engine.held_bytes();
    assert!(held >= client.engine.output().len(), "what waits to be written is counted");
    client.take();
    assert!(client.engine.wants_input(), "and goes on when it reads");
    assert!(client.engine.held_bytes() + 16 * 1024 < held);
}

#[test]
fn a_client_that_takes_nothing_is_given_up_though_it_sends_heartbeats() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_receiver(0, 1, "jobs", 0);
    let limit = EndpointOptions::default().idle_time_out;
    let step = limit / 4;
    for round in 0..4 {
        assert_eq!(client.engine.ending(), None, "{round}");
        client.bytes(&[0, 0, 0, 8, 2, 0, 0, 0]);
        if round == 0 {
            client.frame(0, p::FLOW, echo);
            assert!(!client.engine.output().is_empty(), "something waits for it");
        }
        client.at += step;
        client.engine.turn(client.at);
    }
    assert_eq!(client.engine.ending(), Some(Ending::Reset));
}

#[test]
fn who_had_a_token_is_not_cut_down_to_a_strangers_share_when_it_ends() {
    let bench = Bench::new();
    let mut client = bench.client();
    assert_eq!(client.put_token("", &bench.token("", 60)), 202);
    client.attach_sender(0, 1, "jobs");
    client.transfer_part(1, Some(1), 0, true, &[0; 60_000]);
    for _ in 0..8 {
        client.transfer_part(1, None, 0, true, &[0; 60_000]);
    }
    client.pass(Duration::from_secs(61));
    let frames = client.take();
    assert!(frames.iter().any(|got| got.code == Some(p::DETACH)), "its link ends with the token");
    assert!(frames.iter().all(|got| got.code != Some(p::CLOSE)), "and its connection does not: {frames:#?}");
    assert_eq!(client.put_token("", &bench.token("", 60)), 202);
}

#[test]
fn a_message_beyond_what_a_connection_may_hold_ends_its_link_and_not_the_connection() {
    let bench = Bench::with(QueueOptions { max_message_bytes: 1 << 30, ..QueueOptions::default() });
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    let piece = vec![0; 60_000];
    client.transfer_part(1, Some(1), 0, true, &piece);
    let mut frames = Vec::new();
    for _ in 0..1_200 {
        client.transfer_part(1, None, 0, true, &piece);
        frames.extend(client.take());
    }
    let detach = frames.iter().find(|got| got.code == Some(p::DETACH)).unwrap();
    assert_eq!(detach.error(2).0, "amqp:link:message-size-exceeded");
    assert!(frames.iter().all(|got| got.code != Some(p::CLOSE)));
}

#[test]
fn deliveries_that_are_never_settled_are_forgotten_once_their_locks_are_over() {
    let bench = Bench::with(QueueOptions {
        max_delivery_count: u32::MAX,
        lock_duration: Duration::from_secs(1),
        ..QueueOptions::default()
    });
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    let bodies: Vec<String> = (0..500).map(|n: u32| n.to_string()).collect();
    client.send(1, &bodies.iter().map(String::as_str).collect::<Vec<_>>());
    client.attach_receiver(0, 2, "jobs", 0);
    let mut deliveries = 0;
    for _ in 0..60 {
        client.credit(0, 2, deliveries, 500);
        deliveries += u32::try_from(client.receive().len()).unwrap();
        client.pass(Duration::from_secs(1));
    }
    assert_eq!(deliveries, 30_000);
    assert!(client.engine.unsettled() <= 20_000, "{} remembered", client.engine.unsettled());
}
