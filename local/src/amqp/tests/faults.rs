//! Fault scripts in the middle of what happens on the bus.

use std::{
    num::NonZeroU32,
    sync::Arc,
    time::{Duration, Instant as Watch},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::client::{Bench, Client, Give, LOCK, message};
use super::sockets::{LONG, end, pipe};
use super::tls::served;
use crate::amqp::codec::Value;
use crate::amqp::connection::Ending;
use crate::amqp::encode::Write as _;
use crate::amqp::performative as p;
use crate::broker::{LinkRole, Which};
use crate::fault::{
    BusEvent, BusFrames, Condition, Faults, Hands, NewOrder, Refusal, Service, Step, What, When, Whose,
};
use crate::rotation::Rotations;

const REJECTED: u64 = 0x25;

/// A namespace with scripts, and how much of its queue is where.
struct Scripted {
    bench: Bench,
    faults: Arc<Faults>,
}

impl Scripted {
    fn new() -> Self {
        let bench = Bench::new();
        let faults = faults_of(&bench);
        Self { bench, faults }
    }

    fn install(&self, step: Step) {
        self.faults.install([step]).unwrap();
    }

    fn on(&self, event: BusEvent, what: What) {
        self.install(Step::new(BusFrames::of(event), what));
    }

    /// A client that sends to the queue on handle 1 and receives from it on handle 2, without credit yet.
    fn client(&self) -> Client {
        let mut client = self.bench.trusted();
        client.attach_sender(0, 1, "jobs");
        client.attach_receiver(0, 2, "jobs", 0);
        client
    }

    /// Messages that wait, and that are locked.
    fn queue(&self) -> (usize, usize) {
        let counts = self.bench.broker.counts("jobs").unwrap();
        (counts.active, counts.locked)
    }

    fn on_log(&self) -> Vec<String> {
        self.faults.log_lines().into_iter().map(|fired| fired.on).collect()
    }
}

fn faults_of(bench: &Bench) -> Arc<Faults> {
    let hands = Hands {
        keys: Arc::clone(&bench.keys),
        rotations: Arc::new(Rotations::new(Arc::clone(&bench.keys))),
        broker: Arc::clone(&bench.broker),
        blob_lines: Arc::default(),
        tenant_lines: Arc::default(),
    };
    let faults = Arc::new(Faults::new(hands));
    bench.broker.live().tell_faults(Arc::downgrade(&faults));
    faults
}

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn condition(name: &str) -> Condition {
    name.parse().unwrap()
}

fn refuse(name: &str) -> What {
    What::Refuse { with: Refusal::Condition(condition(name)), retry_after: None }
}

fn bodies(client: &mut Client) -> Vec<String> {
    client.receive().iter().map(super::client::Received::body).collect()
}

#[test]
fn a_link_is_detached_right_after_the_message_that_a_script_names() {
    let scripted = Scripted::new();
    let mut client = scripted.client();
    client.send(1, &["a", "b", "c", "d"]);
    let of_queue = BusFrames::of(BusEvent::TransferOut).entity("Jobs").role(LinkRole::Receiver);
    scripted.install(Step::new(of_queue, What::detach(Whose::Event)).nth(number(2)).named("after the second"));
    client.credit(0, 2, 0, 10);
    let frames = client.take();
    let codes: Vec<u8> = frames.iter().filter_map(|got| got.code).collect();
    assert_eq!(codes, [p::TRANSFER, p::TRANSFER, p::DETACH]);
    assert_eq!(frames[2].error(2).0, "amqp:link:detach-forced");
    assert_eq!(scripted.queue(), (2, 2), "the third was not touched");
    let log = scripted.faults.log_lines();
    assert_eq!((log[0].name.as_deref(), log[0].connection), (Some("after the second"), Some(1)));
    assert_eq!(log[0].on, "transfer_out jobs (link 0/2)");
    assert_eq!(log[0].at.unix_timestamp(), scripted.bench.now_seconds());
}

#[test]
fn a_send_that_is_refused_is_rejected_with_the_condition_and_leaves_nothing() {
    let scripted = Scripted::new();
    let mut client = scripted.client();
    scripted.on(BusEvent::TransferIn, refuse("amqp:resource-limit-exceeded"));
    client.transfer(1, 0, &message("a"));
    let (outcome, error) = client.expect(p::DISPOSITION).outcome();
    assert_eq!((outcome, error.unwrap().0.as_str()), (REJECTED, "amqp:resource-limit-exceeded"));
    scripted.on(BusEvent::TransferIn, What::throttle(Duration::ZERO));
    client.transfer(1, 1, &message("a"));
    let (_, error) = client.expect(p::DISPOSITION).outcome();
    let (busy, text) = error.unwrap();
    assert!(busy == "com.microsoft:server-busy" && text.contains("50009"), "{text}");
    assert_eq!(scripted.queue(), (0, 0));
    client.send(1, &["a"]);
    assert_eq!(scripted.queue(), (1, 0));
}

#[test]
fn a_send_whose_answer_is_dropped_was_done() {
    let scripted = Scripted::new();
    let mut client = scripted.client();
    scripted.on(BusEvent::TransferIn, What::DropAnswer { reset: false });
    client.transfer(1, 0, &message("a"));
    assert!(client.take().iter().all(|got| got.code != Some(p::DISPOSITION)));
    assert_eq!((scripted.queue(), client.engine.ending()), ((1, 0), None));
    scripted.on(BusEvent::TransferIn, What::DropAnswer { reset: true });
    client.transfer(1, 1, &message("b"));
    assert_eq!((scripted.queue(), client.engine.ending()), ((2, 0), Some(Ending::Reset)));
}

#[test]
fn a_settlement_whose_answer_is_dropped_was_done() {
    let scripted = Scripted::new();
    let mut client = scripted.client();
    client.send(1, &["a"]);
    client.credit(0, 2, 0, 10);
    let id = client.receive()[0].delivery_id;
    scripted.on(BusEvent::Disposition, What::DropAnswer { reset: false });
    client.settle(id, id, Give::Accepted);
    assert!(client.take().iter().all(|got| got.code != Some(p::DISPOSITION)));
    assert_eq!(scripted.queue(), (0, 0));
}

#[test]
fn a_lock_that_is_lost_at_the_settlement_refuses_it_and_the_message_comes_again() {
    let scripted = Scripted::new();
    let mut client = scripted.client();
    client.send(1, &["a"]);
    client.credit(0, 2, 0, 10);
    let id = client.receive()[0].delivery_id;
    scripted.on(BusEvent::Disposition, What::LoseLocks(Whose::Event));
    client.settle(id, id, Give::Accepted);
    let frames = client.take();
    let answer = frames.iter().find(|got| got.code == Some(p::DISPOSITION)).unwrap();
    assert_eq!(answer.outcome().1.unwrap().0, "com.microsoft:message-lock-lost");
    let again = super::client::deliveries(&frames);
    assert_eq!((again.len(), again[0].delivery_count()), (1, 1));
    client.settle(id + 1, id + 1, Give::Accepted);
    client.take();
    assert_eq!(scripted.queue(), (0, 0));
}

#[test]
fn a_message_comes_twice_when_its_lock_is_lost_or_when_it_came_in_twice() {
    for what in [What::LoseLocks(Whose::Event), What::DeliverTwice { whose: Whose::Event, messages: number(1) }] {
        let scripted = Scripted::new();
        let mut client = scripted.client();
        client.send(1, &["a", "b"]);
        scripted.on(BusEvent::TransferOut, what);
        client.credit(0, 2, 0, 10);
        let received = client.receive();
        let numbers: Vec<_> = received.iter().map(|got| got.annotation("x-opt-sequence-number").clone()).collect();
        assert_eq!(numbers, [1, 1, 2].map(Value::Int), "the same message again, at its place");
    }
    let scripted = Scripted::new();
    let mut client = scripted.client();
    scripted.on(BusEvent::TransferIn, What::DeliverTwice { whose: Whose::Event, messages: number(1) });
    client.send(1, &["a", "b"]);
    client.credit(0, 2, 0, 10);
    assert_eq!(bodies(&mut client), ["a", "a", "b"], "one sequence number each");
}

#[test]
fn an_entity_can_be_disabled_for_a_time() {
    let scripted = Scripted::new();
    let mut client = scripted.bench.trusted();
    let step = Step::new(BusFrames::of(BusEvent::Attach).entity("jobs"), refuse("com.microsoft:entity-disabled"));
    scripted.install(step.times(number(2)));
    for handle in [1, 2] {
        let frames = client.attach_sender(0, handle, "jobs");
        assert_eq!(frames.iter().map(|got| got.code.unwrap()).collect::<Vec<_>>(), [p::ATTACH, p::DETACH]);
        assert_eq!(frames[1].error(2).0, "com.microsoft:entity-disabled");
    }
    let frames = client.attach_sender(0, 3, "jobs");
    assert!(frames.iter().all(|got| got.code != Some(p::DETACH)), "{frames:?}");
}

#[test]
fn a_connection_can_be_refused_closed_and_its_session_ended() {
    let scripted = Scripted::new();
    scripted.on(BusEvent::Connect, What::throttle(Duration::ZERO));
    let mut client = scripted.bench.raw_client();
    let frames = client.opened();
    let close = frames.iter().find(|got| got.code == Some(p::CLOSE)).unwrap();
    assert_eq!(close.error(0).0, "com.microsoft:server-busy");

    for (what, code) in [
        (What::close(Whose::Event), p::CLOSE),
        (What::End { whose: Whose::Event, condition: condition("amqp:internal-error") }, p::END),
    ] {
        let mut client = scripted.client();
        scripted.on(BusEvent::Flow, what);
        client.credit(0, 2, 0, 10);
        client.expect(code);
    }
    let mut other = scripted.client();
    scripted.install(Step::new(
        When::Now,
        What::End { whose: Whose::Entity("jobs".to_owned()), condition: condition("amqp:internal-error") },
    ));
    other.expect(p::END);
}

#[test]
fn requests_are_refused_as_their_node_says_it() {
    let scripted = Scripted::new();
    let mut client = scripted.bench.client();
    let token = scripted.bench.token("jobs", 3_600);
    let tokens = BusFrames::of(BusEvent::PutToken).entity("jobs");
    scripted.install(Step::new(tokens, refuse("com.microsoft:auth-failed")));
    assert_eq!(client.put_token("exports", &scripted.bench.token("exports", 3_600)), 202, "another entity");
    assert_eq!(client.put_token("jobs", &token), 401);
    assert_eq!(client.put_token("jobs", &token), 202);
    client.attach_receiver(0, 10, "jobs/$management", 2);
    client.attach_sender(0, 11, "jobs/$management");
    client.credit(0, 10, 0, 10);
    let peeks = BusFrames { operation: Some("peek-message".to_owned()), ..BusFrames::of(BusEvent::Management) };
    scripted.install(Step::new(peeks, What::throttle(Duration::ZERO)));
    let mut status = |operation: &str| {
        let answer = client.request(
            11,
            None,
            |map| {
                map.text("operation");
                map.text(operation);
            },
            |out| out.map(|_| {}),
        );
        answer.section(0x74).get("statusCode").and_then(Value::as_int).unwrap()
    };
    assert_eq!(status("com.microsoft:renew-lock"), 400);
    assert_eq!(status("com.microsoft:peek-message"), 503);
    assert_ne!(status("com.microsoft:peek-message"), 503);
    assert_eq!(scripted.on_log(), ["put_token jobs", "management jobs com.microsoft:peek-message"]);
}

#[test]
fn a_delayed_connection_stands_still_and_then_goes_on() {
    let scripted = Scripted::new();
    let mut client = scripted.client();
    scripted.on(BusEvent::TransferIn, What::Delay(Duration::from_secs(3)));
    client.transfer(1, 0, &message("a"));
    assert!(client.take().is_empty());
    client.pass(Duration::from_secs(2));
    assert!(client.take().is_empty());
    assert_eq!(client.engine.consume(&[0, 0, 0, 8, 2, 0, 0, 0], client.at), 0, "what comes meanwhile waits");
    client.pass(Duration::from_secs(1));
    assert_eq!(client.expect(p::DISPOSITION).outcome().0, 0x24);
    assert!(client.engine.input_waits() && client.engine.wants_input());
    client.send(1, &["b"]);
}

/// A client that stands still for ten minutes, with a receiver that is first in line.
fn stalled(scripted: &Scripted) -> Client {
    let mut client = scripted.client();
    client.credit(0, 2, 0, 10);
    assert!(client.receive().is_empty());
    scripted.on(BusEvent::Flow, What::Delay(Duration::from_secs(600)));
    client.flow_with_window(0, Some(2), 0, 10, false, None);
    assert!(client.take().is_empty());
    client
}

#[test]
fn what_a_delayed_connection_was_woken_for_goes_to_others() {
    let scripted = Scripted::new();
    let mut slow = stalled(&scripted);
    let mut quick = scripted.client();
    quick.credit(0, 2, 0, 10);
    assert!(quick.receive().is_empty());
    quick.transfer(1, 0, &message("a"));
    let before = bodies(&mut quick);
    assert!(slow.take().is_empty(), "it was woken, and passes on");
    assert_eq!([before, bodies(&mut quick)].concat(), ["a"]);
    quick.transfer(1, 1, &message("b"));
    assert_eq!(bodies(&mut quick), ["b"], "it does not stand in line any more");
    slow.pass(Duration::from_secs(600));
    assert_eq!([bodies(&mut slow), bodies(&mut quick)].concat().len(), 2, "and goes on as before");
}

#[test]
fn a_delayed_connection_goes_on_when_the_script_is_cleared() {
    let scripted = Scripted::new();
    let mut client = stalled(&scripted);
    scripted.faults.clear();
    client.take();
    assert!(client.engine.input_waits());
    client.transfer(1, 0, &message("a"));
    assert_eq!(bodies(&mut client), ["a"]);
}

#[test]
fn a_delayed_connection_meets_what_else_befalls_it_at_once() {
    let scripted = Scripted::new();
    let mut client = stalled(&scripted);
    scripted.bench.broker.close_connections(&Which::All);
    assert_eq!(client.expect(p::CLOSE).error(0).0, "amqp:connection:forced");
    drop(client);
    let mut client = stalled(&scripted);
    scripted.bench.broker.reset_connections(&Which::All);
    client.take();
    assert_eq!(client.engine.ending(), Some(Ending::Reset));
    drop(client);
    let mut client = stalled(&scripted);
    let lasts = Duration::ZERO;
    scripted.install(Step::new(When::Now, What::Blackhole { whose: Whose::Service(Service::Bus), lasts }));
    client.take();
    assert!(scripted.bench.broker.links().is_empty(), "the broker has heard that its links are gone");
    client.transfer(1, 0, &message("swallowed"));
    assert_eq!(scripted.queue(), (0, 0));
}

#[test]
fn a_delay_without_end_is_no_mishap() {
    let scripted = Scripted::new();
    let mut client = scripted.client();
    for _ in 0..2 {
        scripted.on(BusEvent::TransferIn, What::Delay(Duration::MAX));
    }
    client.transfer(1, 0, &message("a"));
    client.pass(Duration::from_secs(3_600));
    assert!(client.take().is_empty());
}

#[tokio::test]
async fn a_delayed_connection_ends_with_its_client_and_does_what_that_sent_last() {
    let scripted = Scripted::new();
    let mut script = Bench::new().trusted();
    script.attach_sender(0, 1, "jobs");
    let from = script.sent.len();
    for id in 0..3 {
        script.transfer(1, id, &message("x"));
    }
    let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
    for is_orderly in [true, false] {
        let mut far = pipe(&scripted.bench, &mut tasks, &stop);
        far.write_all(&script.sent[..from]).await.unwrap();
        timeout(LONG, scripted.bench.broker.wait_until(|broker| broker.links().len() == 1)).await.unwrap();
        for _ in 0..2 {
            scripted.on(BusEvent::TransferIn, What::Delay(Duration::from_secs(3_600)));
        }
        far.write_all(&script.sent[from..]).await.unwrap();
        if is_orderly {
            far.shutdown().await.unwrap();
            timeout(LONG, scripted.bench.broker.wait_until(|broker| broker.connections() == 0)).await.unwrap();
        }
        drop(far);
        timeout(LONG, scripted.bench.broker.wait_until(|broker| broker.connections() == 0)).await.unwrap();
    }
    assert_eq!(scripted.queue(), (6, 0));
    end(stop, tasks).await;
}

#[tokio::test]
async fn the_end_of_a_delayed_client_is_seen_behind_more_than_is_read() {
    let served = served().await;
    let faults = faults_of(&served.bench);
    let mut script = Bench::new().trusted();
    script.attach_sender(0, 1, "jobs");
    let from = script.sent.len();
    let body = "x".repeat(25_000);
    // More than is read ahead, and less than the system takes besides.
    for id in 0..4 {
        script.transfer(1, id, &message(&body));
    }
    for id in 4..400 {
        script.transfer(1, id, &message("x"));
    }
    for over_tls in [false, true] {
        let first = Step::new(BusFrames::of(BusEvent::TransferIn), What::Delay(Duration::from_secs(3_600)));
        faults.clear();
        faults.install([first.times(number(300))]).unwrap();
        let mut stream: Box<dyn AsyncWriteAndRead> =
            if over_tls { Box::new(served.tls().await) } else { Box::new(served.tcp().await) };
        stream.write_all(&script.sent[..from]).await.unwrap();
        timeout(LONG, served.bench.broker.wait_until(|broker| broker.links().len() == 1)).await.unwrap();
        let (mut answers, mut way) = tokio::io::split(stream);
        let sent = async {
            way.write_all(&script.sent[from..]).await.unwrap();
            way.shutdown().await.unwrap();
            tokio::io::copy(&mut answers, &mut tokio::io::sink()).await.unwrap_or(0)
        };
        let began = Watch::now();
        timeout(LONG, sent).await.expect("it is let go of");
        assert!(began.elapsed() < Duration::from_secs(20), "not one delay after the other: {:?}", began.elapsed());
        timeout(LONG, served.bench.broker.wait_until(|broker| broker.connections() == 0)).await.unwrap();
    }
    assert_eq!(served.bench.broker.counts("jobs").unwrap().active, 800, "all that was sent is there");
    served.end().await;
}

trait AsyncWriteAndRead: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> AsyncWriteAndRead for S {}

#[test]
fn a_swallowed_connection_hears_nothing_more_and_others_get_its_messages_in_time() {
    let scripted = Scripted::new();
    let mut client = scripted.client();
    client.send(1, &["a", "b"]);
    scripted.on(BusEvent::TransferOut, What::Blackhole { whose: Whose::Event, lasts: Duration::ZERO });
    client.credit(0, 2, 0, 10);
    assert!(client.take().is_empty());
    assert_eq!((scripted.queue(), client.engine.ending()), ((1, 1), None));
    client.transfer(1, 7, &message("c"));
    assert!(client.take().is_empty() && client.engine.wants_input());
    let mut other = scripted.client();
    other.credit(0, 2, 0, 10);
    assert_eq!(bodies(&mut other), ["b"]);
    other.pass(LOCK);
    assert_eq!(bodies(&mut other).len(), 2, "locks end as they always do");
}

#[tokio::test(start_paused = true)]
async fn a_bus_that_is_gone_swallows_new_connections_too_until_it_is_back() {
    let scripted = Scripted::new();
    let mut client = scripted.client();
    let lasts = Duration::from_secs(5);
    scripted.install(Step::new(When::Now, What::Blackhole { whose: Whose::Service(Service::Bus), lasts }));
    client.credit(0, 2, 0, 10);
    assert!(client.take().is_empty());
    let mut late = scripted.bench.raw_client();
    late.read(usize::MAX);
    late.bytes(&crate::amqp::frame::SASL_HEADER);
    late.read(usize::MAX);
    assert!(late.unread.is_empty());
    tokio::time::advance(lasts).await;
    scripted.client().send(1, &["a"]);
    late.read(usize::MAX);
    assert!(late.unread.is_empty(), "what was swallowed stays so");
}

#[test]
fn messages_go_out_in_another_order_or_later() {
    let scripted = Scripted::new();
    let mut client = scripted.client();
    let patience = Duration::from_secs(60);
    let whose = || Whose::Entity("jobs".to_owned());
    let reverse = What::Reorder { whose: whose(), messages: number(3), order: NewOrder::Reverse, patience };
    scripted.install(Step::new(When::Now, reverse.clone()));
    client.credit(0, 2, 0, 100);
    client.send(1, &["a", "b"]);
    assert!(client.receive().is_empty());
    client.transfer(1, 2, &message("c"));
    let received = client.receive();
    assert_eq!(received.iter().map(super::client::Received::body).collect::<Vec<_>>(), ["c", "b", "a"]);
    client.settle(received[0].delivery_id, received[2].delivery_id, Give::Accepted);

    scripted.install(Step::new(When::Now, reverse));
    client.transfer(1, 3, &message("d"));
    client.transfer(1, 4, &message("e"));
    assert!(client.receive().is_empty());
    client.pass(patience);
    assert_eq!(bodies(&mut client), ["e", "d"], "patience is over");

    let hold = What::HoldBack { whose: whose(), lasts: Duration::from_secs(2), messages: Some(number(2)) };
    scripted.install(Step::new(When::Now, hold.clone()));
    client.transfer(1, 5, &message("f"));
    assert!(client.receive().is_empty());
    client.transfer(1, 6, &message("g"));
    assert_eq!(bodies(&mut client), ["f", "g"], "so many more came");
    scripted.install(Step::new(When::Now, hold));
    client.transfer(1, 7, &message("h"));
    assert!(client.receive().is_empty());
    client.pass(Duration::from_secs(2));
    assert_eq!(bodies(&mut client), ["h"], "the time is over");
}

#[test]
fn a_bus_without_a_waiting_script_is_not_asked() {
    let scripted = Scripted::new();
    assert!(!scripted.faults.waits_for_bus());
    scripted.on(BusEvent::Flow, What::Delay(Duration::ZERO));
    assert!(scripted.faults.waits_for_bus());
    let mut client = scripted.client();
    client.credit(0, 2, 0, 10);
    assert_eq!(scripted.faults.waiting(), 0);
    assert!(!scripted.faults.waits_for_bus());
    scripted.on(BusEvent::Flow, What::Delay(Duration::ZERO));
    scripted.faults.clear();
    assert!(!scripted.faults.waits_for_bus());
}

#[test]
fn steps_that_are_done_make_room_for_others() {
    let scripted = Scripted::new();
    let many = |when: &dyn Fn() -> When| -> Vec<Step> {
        (0..10_000).map(|_| Step::new(when(), What::LoseLocks(Whose::Entity("jobs".to_owned())))).collect()
    };
    for _ in 0..3 {
        scripted.faults.install(many(&|| When::Now)).unwrap();
    }
    assert_eq!(scripted.faults.log_lines().last().map(|fired| fired.step), Some(29_999), "numbers go on");
    scripted.faults.install(many(&|| BusFrames::of(BusEvent::Connect).into())).unwrap();
    assert_eq!(scripted.faults.waiting(), 10_000);
    let one = Step::new(BusFrames::of(BusEvent::Flow), What::Delay(Duration::ZERO));
    let error = scripted.faults.install([one.clone()]).unwrap_err().to_string();
    assert!(error.contains("10000 steps wait") && error.contains("clear"), "{error}");
    scripted.faults.clear();
    scripted.faults.install([one]).unwrap();
}
