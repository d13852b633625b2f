//! Credit, windows, drain, and who is woken.

use std::ops::Range;

use super::client::{Bench, Client, Give, LOCK, message};
use crate::amqp::codec::Value;
use crate::amqp::encode::Write as _;
use crate::amqp::performative as p;

#[test]
fn nothing_comes_without_credit_and_no_more_than_was_granted() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["a", "b", "c", "d"]);
    client.attach_receiver(0, 2, "jobs", 0);
    assert!(client.receive().is_empty());
    client.credit(0, 2, 0, 2);
    assert_eq!(client.receive().len(), 2);
    assert_eq!(bench.broker.counts("jobs").unwrap().locked, 2, "what is not sent is not locked");
    // The client counts from what it had seen when it wrote: 1 of the 2, and wants 2 from there.
    client.credit(0, 2, 1, 2);
    assert_eq!(client.receive().len(), 1);
    // Taking credit back.
    client.credit(0, 2, 3, 0);
    client.credit(0, 2, 0, 1);
    assert!(client.receive().is_empty());
}

#[test]
fn drain_sends_what_there_is_and_gives_the_rest_of_the_credit_back() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["a", "b"]);
    client.attach_receiver(0, 2, "jobs", 0);
    client.flow(0, 2, 0, 10, true);
    let frames = client.take();
    let codes: Vec<_> = frames.iter().filter_map(|got| got.code).collect();
    assert_eq!(codes, [p::TRANSFER, p::TRANSFER, p::FLOW]);
    let flow = frames.last().unwrap();
    assert_eq!((flow.number(4), flow.number(5), flow.number(6)), (2, 10, 0));
    assert_eq!(flow.field(8), &Value::Bool(true));
    client.send(1, &["c"]);
    assert!(client.receive().is_empty(), "the credit is gone");
    client.flow_with_window(0, None, 0, 0, false, None);
    assert!(client.take().is_empty(), "a drain is confirmed once");
    client.credit(0, 2, 10, 1);
    assert_eq!(client.receive()[0].body(), "c");
}

#[test]
fn drain_without_credit_or_messages_is_answered_at_once() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_receiver(0, 2, "jobs", 0);
    // Python does this when it closes.
    client.flow(0, 2, 0, 0, true);
    assert_eq!(client.expect(p::FLOW).number(6), 0);
    client.credit(0, 2, 0, 5);
    assert!(client.take().is_empty());
    // It waits in the queue's line now; draining takes it out of nothing.
    client.flow(0, 2, 0, 5, true);
    let flow = client.expect(p::FLOW);
    assert_eq!((flow.number(5), flow.number(6)), (5, 0));
}

#[test]
fn a_drain_that_uses_up_all_credit_is_confirmed_too() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["a", "b", "c"]);
    client.attach_receiver(0, 2, "jobs", 0);
    client.flow(0, 2, 0, 2, true);
    let codes: Vec<_> = client.take().iter().filter_map(|got| got.code).collect();
    assert_eq!(codes, [p::TRANSFER, p::TRANSFER, p::FLOW]);
}

#[test]
fn the_session_window_stops_frames_and_a_flow_lets_them_go_on() {
    let bench = Bench::new();
    let mut client = bench.raw_client();
    client.handshake(1_000, None);
    client.begin(0, 100);
    client.cbs_links();
    client.put_token("", &bench.token("", 3_600));
    client.attach_sender(0, 1, "jobs");
    let big = "x".repeat(5_000);
    client.send(1, &[&big, "small"]);
    client.attach_receiver(0, 2, "jobs", 0);
    client.flow_with_window(0, Some(2), 0, 10, false, Some((1, 3)));
    let first = client.take();
    assert_eq!(first.len(), 3, "three frames of the big message");
    assert_eq!(bench.broker.counts("jobs").unwrap().locked, 1, "the small one waits where others could have it");
    client.flow_with_window(0, None, 0, 0, false, Some((4, 2)));
    let second = client.take();
    assert_eq!(second.len(), 2);
    client.flow_with_window(0, None, 0, 0, false, Some((6, 100)));
    let frames = [first, second, client.take()].concat();
    let got = super::client::deliveries(&frames);
    let sizes: Vec<_> = got.iter().map(|got| got.body().len()).collect();
    assert_eq!(sizes, [5_000, 5]);
}

#[test]
fn a_sender_is_granted_credit_again_before_it_runs_out() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    let attached = client.attach_sender(0, 1, "jobs");
    let flow = attached.iter().find(|got| got.code == Some(p::FLOW)).unwrap();
    assert_eq!((flow.number(4), flow.number(5), flow.number(6)), (1, 0, 1_000));
    let mut granted = 1_000;
    for id in 0..3_000_u32 {
        assert!(i64::from(id) < granted, "credit ran out at {id}");
        client.transfer(1, id, &[0x00, 0x53, 0x75, 0xa0, 0]);
        for got in client.take().iter().filter(|got| got.code == Some(p::FLOW) && got.fields.len() > 4) {
            granted = got.number(5) + got.number(6);
        }
    }
    assert_eq!(bench.broker.counts("jobs").unwrap().active, 3_000);
}

#[test]
fn a_burst_is_answered_with_one_disposition() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    let mut burst = Vec::new();
    for id in 10..60_u32 {
        crate::amqp::frame::write(&mut burst, crate::amqp::frame::Kind::Amqp, 0, |out| {
            out.described_list(p::TRANSFER, |list| {
                list.uint(1);
                list.uint(id);
                list.binary(b"t");
            });
            out.extend([0x00, 0x53, 0x75, 0xa0, 0]);
        });
    }
    client.bytes(&burst);
    let answer = client.expect(p::DISPOSITION);
    assert_eq!((answer.number(1), answer.number(2)), (10, 59));
}

#[test]
fn an_echo_is_answered_with_the_state_of_the_link() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_receiver(0, 2, "jobs", 0);
    client.frame(0, p::FLOW, |list| {
        list.uint(0);
        list.uint(100);
        list.uint(0);
        list.uint(100);
        list.uint(2);
        list.uint(0);
        list.uint(7);
        list.null();
        list.bool(false);
        list.bool(true);
    });
    let flow = client.expect(p::FLOW);
    assert_eq!((flow.number(4), flow.number(5), flow.number(6)), (2, 0, 7));
}

#[test]
fn a_waiting_receiver_is_woken_by_a_message_a_lock_that_ends_and_an_abandoned_one() {
    let bench = Bench::new();
    let mut sender = bench.trusted();
    sender.attach_sender(0, 1, "jobs");
    let mut first = bench.trusted();
    first.attach_receiver(0, 2, "jobs", 0);
    first.credit(0, 2, 0, 10);
    assert!(first.receive().is_empty());
    sender.send(1, &["a"]);
    let got = first.receive().remove(0);
    let mut second = bench.trusted();
    second.attach_receiver(0, 2, "jobs", 0);
    second.credit(0, 2, 0, 10);
    assert!(second.receive().is_empty());
    // Who stands first in the line gets it, which may be the one that abandons.
    first.settle(got.delivery_id, got.delivery_id, Give::Modified);
    let again = first.receive().len() + second.receive().len();
    assert_eq!(again, 1);
    second.pass(LOCK);
    assert_eq!(first.receive().len() + second.receive().len(), 1);
}

#[test]
fn receivers_that_wait_take_turns() {
    let bench = Bench::new();
    let mut sender = bench.trusted();
    sender.attach_sender(0, 1, "jobs");
    let mut receivers: Vec<_> = (0..3).map(|_| bench.trusted()).collect();
    for receiver in &mut receivers {
        receiver.attach_receiver(0, 2, "jobs", 0);
        receiver.credit(0, 2, 0, 100);
        assert!(receiver.receive().is_empty());
    }
    for round in 0..9 {
        sender.send(1, &["x"]);
        let got: Vec<_> = receivers.iter_mut().map(|receiver| receiver.receive().len()).collect();
        let expected: Vec<_> = (0..3).map(|index| usize::from(index == round % 3)).collect();
        assert_eq!(got, expected, "round {round}");
    }
}

#[test]
fn a_woken_receiver_that_goes_away_leaves_the_message_to_the_next_in_line() {
    let bench = Bench::new();
    let mut sender = bench.trusted();
    sender.attach_sender(0, 1, "jobs");
    let mut first = bench.trusted();
    first.attach_receiver(0, 2, "jobs", 0);
    first.credit(0, 2, 0, 1);
    first.take();
    let mut second = bench.trusted();
    second.attach_receiver(0, 2, "jobs", 0);
    second.credit(0, 2, 0, 1);
    second.take();
    sender.send(1, &["a"]);
    // It was woken, and dies before it looks.
    drop(first);
    assert_eq!(second.receive().len(), 1);
}

#[test]
fn a_woken_receiver_that_took_its_credit_back_passes_on() {
    let bench = Bench::new();
    let mut sender = bench.trusted();
    sender.attach_sender(0, 1, "jobs");
    let mut first = bench.trusted();
    first.attach_receiver(0, 2, "jobs", 0);
    first.credit(0, 2, 0, 1);
    first.take();
    let mut second = bench.trusted();
    second.attach_receiver(0, 2, "jobs", 0);
    second.credit(0, 2, 0, 1);
    second.take();
    sender.send(1, &["a"]);
    first.credit(0, 2, 0, 0);
    assert!(first.receive().is_empty());
    assert_eq!(second.receive().len(), 1);
}

#[test]
fn a_receiver_that_does_not_read_does_not_hold_what_others_could_have() {
    let bench = Bench::new();
    let mut sender = bench.trusted();
    sender.attach_sender(0, 1, "jobs");
    let mut slow = bench.trusted();
    slow.attach_receiver(0, 2, "jobs", 0);
    slow.credit(0, 2, 0, 100_000);
    slow.read(0);
    let body = "x".repeat(25_000);
    for _ in 0..40 {
        sender.send(1, &[&body]);
        slow.read(0);
    }
    let waiting = slow.engine.output().len();
    assert!((250_000..350_000).contains(&waiting), "{waiting} bytes wait for the slow one, and no more");
    let mut quick = bench.trusted();
    quick.attach_receiver(0, 2, "jobs", 0);
    quick.credit(0, 2, 0, 100);
    let taken = quick.receive().len();
    assert!(taken > 30, "{taken}");
    assert_eq!(slow.receive().len() + taken, 40);
    // And it is in the line again, or would be at its next turn.
    sender.send(1, &["new"]);
    assert_eq!(slow.receive().len() + quick.receive().len(), 1);
}

#[test]
fn one_that_is_woken_while_its_window_is_closed_passes_on() {
    let bench = Bench::new();
    let mut sender = bench.trusted();
    sender.attach_sender(0, 1, "jobs");
    sender.attach_sender(0, 2, "exports");
    let mut client = bench.trusted();
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 100);
    client.attach_receiver(0, 3, "exports/subscriptions/acme", 0);
    // The answer of `$cbs` was the first frame; one more is allowed.
    client.flow_with_window(0, Some(3), 0, 100, false, Some((1, 1)));
    assert!(client.receive().is_empty());
    sender.send(2, &["takes the window"]);
    assert_eq!(client.receive().len(), 1);
    let mut quick = bench.trusted();
    quick.attach_receiver(0, 2, "jobs", 0);
    quick.credit(0, 2, 0, 100);
    assert!(quick.receive().is_empty());
    sender.send(1, &["new"]);
    assert!(client.receive().is_empty());
    assert_eq!(quick.receive()[0].body(), "new");
    // With its window open again it is served as before.
    client.flow_with_window(0, None, 0, 0, false, Some((2, 100)));
    assert!(client.receive().is_empty());
    sender.send(1, &["next", "and next"]);
    assert_eq!(client.receive().len() + quick.receive().len(), 2);
}

#[test]
fn one_that_is_woken_while_its_buffer_is_full_passes_on() {
    let bench = Bench::new();
    let mut sender = bench.trusted();
    sender.attach_sender(0, 1, "jobs");
    let mut slow = bench.trusted();
    let body = "x".repeat(30_000);
    sender.send(1, &[body.as_str(); 5]);
    slow.attach_receiver(0, 2, "jobs", 0);
    slow.credit(0, 2, 0, 100);
    // It took all there was, which fills its buffer, and stands in the line.
    slow.read(0);
    assert_eq!(bench.broker.counts("jobs").unwrap().locked, 5);
    let mut quick = bench.trusted();
    quick.attach_receiver(0, 2, "jobs", 0);
    quick.credit(0, 2, 0, 100);
    assert!(quick.receive().is_empty());
    sender.send(1, &["new"]);
    slow.read(0);
    assert_eq!(quick.receive()[0].body(), "new");
}

#[test]
fn no_more_is_locked_at_once_than_the_buffer_takes() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    let body = "x".repeat(30_000);
    client.send(1, &[body.as_str(); 60]);
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 100);
    client.read(0);
    let waiting = client.engine.output().len();
    assert!((190_000..330_000).contains(&waiting), "{waiting}");
    assert!(bench.broker.counts("jobs").unwrap().locked <= 6);
    assert_eq!(client.receive().len(), 60);
}

#[test]
fn many_links_share_a_connection() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    for channel in 1..20 {
        client.begin(channel, 1_000);
        for handle in 0..20 {
            client.attach_receiver(channel, handle, "jobs", 0);
            client.credit(channel, handle, 0, 1);
        }
    }
    client.take();
    client.attach_sender(0, 1, "jobs");
    let bodies: Vec<String> = (0..400).map(|n: u32| n.to_string()).collect();
    client.attach_sender(0, 2, "exports");
    for (id, body) in (0..).zip(&bodies) {
        client.transfer(1, id, &super::client::message(body));
    }
    let got = super::client::deliveries(&client.take());
    assert_eq!(got.len(), 19 * 20, "each link its one message");
    assert_eq!(bench.broker.counts("jobs").unwrap().active, 20);
}

fn transfer(client: &mut Client, ids: Range<u32>) {
    ids.for_each(|id| client.transfer(1, id, &message("x")));
}

#[test]
fn the_largest_credit_and_the_largest_window_are_taken_as_they_are_stated() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.attach_receiver(0, 2, "jobs", 0);
    client.flow_with_window(0, Some(2), 0, u32::MAX, false, Some((0, u32::MAX)));
    transfer(&mut client, 0..20);
    assert_eq!(client.receive().len(), 20);
    // Stated again, and late: by what was known before any of them came.
    client.flow_with_window(0, Some(2), 0, u32::MAX, false, Some((0, u32::MAX)));
    transfer(&mut client, 20..25);
    assert_eq!(client.receive().len(), 5);
    client.flow_with_window(0, Some(2), 25, 1 << 31, false, Some((25, 1 << 31)));
    transfer(&mut client, 25..30);
    assert_eq!(client.receive().len(), 5);
}

#[test]
fn a_link_goes_on_where_its_delivery_count_wraps() {
    let bench = Bench::new();
    let mut client = bench.trusted();
    client.attach_sender(0, 1, "jobs");
    client.attach_receiver(0, 2, "jobs", 0);
    // Drained credit is counted as if it were used.
    client.flow(0, 2, 0, u32::MAX - 2, true);
    client.take();
    assert_eq!(client.delivered(2), u32::MAX - 2);
    client.credit(0, 2, u32::MAX - 2, 6);
    transfer(&mut client, 0..10);
    assert_eq!(client.receive().len(), 6);
    assert_eq!(client.delivered(2), 3);
    client.credit(0, 2, u32::MAX, 5);
    assert_eq!(client.receive().len(), 1, "five after the third of them, of which four are here");
}
