//! What whoever runs us reads: a line for each client that is refused, which says who, why and what to do, and which no
//! client can forge or multiply.

use std::{
    io,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};
use tracing::{
    Dispatch,
    subscriber::{DefaultGuard, NoSubscriber},
};

use super::client::{Bench, Give, message};
use super::hostile::unfinished;
use super::sockets::{LONG, end, receiver_script};
use super::tls::{served, web_socket};
use crate::amqp::encode::Write as _;
use crate::amqp::frame::{self, Kind, SASL_HEADER};
use crate::amqp::{EndpointOptions, performative as p};
use crate::broker::EntityStatus;

/// The log of this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn start() -> (Self, DefaultGuard) {
        // While there is one subscriber in the process, `tracing` asks only the thread that comes first to a line whether
        // anybody wants it. With two it asks all of them, so that tests without a log do not silence ours.
        static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));
        LazyLock::force(&SECOND);
        let log = Self::default();
        let writer = log.clone();
        let lines = tracing_subscriber::fmt().without_time().with_target(false).with_ansi(false);
        let guard = tracing::subscriber::set_default(lines.with_writer(move || writer.clone()).finish());
        (log, guard)
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.split('\n').filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// The only line that holds all of these.
    fn expect(&self, parts: &[&str]) {
        let lines = self.lines();
        let found = lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).count();
        assert_eq!(found, 1, "{parts:?} in {lines:#?}");
    }
}

#[test]
fn no_text_of_a_client_makes_a_line_of_its_own() {
    const FORGED: &str = "x\r\n INFO bus: forged\u{1b}[2Jy\u{2028}z";
    let (log, _guard) = Log::start();
    let bench = Bench::new();
    let mut client = bench.raw_client();
    client.bytes(&crate::amqp::frame::AMQP_HEADER);
    client.read(usize::MAX);
    client.unread.drain(..8);
    client.frame(0, p::OPEN, |list| {
        list.text(FORGED);
        (0..8).for_each(|_| list.null());
        list.map(|map| {
            map.symbol("user-agent");
            map.text(FORGED);
        });
    });
    client.take();
    client.begin(0, 100);
    client.cbs_links();
    let (status, _) = client.put_token_answer(FORGED, FORGED);
    assert_eq!(status, 401);
    client.request(
        101,
        None,
        |map| {
            map.text("operation");
            map.text(FORGED);
            map.text("name");
            map.text(FORGED);
        },
        |out| out.null(),
    );
    assert_eq!(client.put_token("", &bench.token("", 3_600)), 202);
    for channel in [0, 1] {
        if channel == 1 {
            client.begin(1, 100);
        }
        client.frame(channel, p::ATTACH, |list| {
            list.text(FORGED);
            list.uint(7);
            list.bool(false);
            list.null();
            list.null();
            list.null();
            list.described_list(0x29, |target| target.text(if channel == 0 { FORGED } else { "$cbs" }));
        });
    }
    // Another link of that name.
    client.frame(0, p::ATTACH, |list| {
        list.text(FORGED);
        list.uint(8);
        list.bool(false);
        list.null();
        list.null();
        list.null();
        list.described_list(0x29, |target| target.text("jobs"));
    });
    client.take();
    let mut other = bench.raw_client();
    other.bytes(&SASL_HEADER);
    let mut init = Vec::new();
    frame::write(&mut init, Kind::Sasl, 0, |out| out.described_list(0x41, |list| list.symbol(FORGED)));
    other.bytes(&init);
    drop((client, other));
    let lines = log.lines();
    assert!(lines.len() >= 6, "{lines:#?}");
    for line in &lines {
        assert!(["DEBUG", " INFO", " WARN"].iter().any(|level| line.starts_with(level)), "{line}");
        assert!(!line.starts_with(" INFO bus: forged") && line.chars().count() < 3_000, "{line}");
        assert!(!line.chars().any(|letter| letter.is_control() || letter == '\u{2028}'), "{line:?}");
    }
    for kind in ["connection opened", "link refused", "request refused", "connection refused", "connection closed"] {
        assert!(lines.iter().any(|line| line.contains(&format!("bus: {kind}"))), "{kind} in {lines:#?}");
    }
    assert!(lines.iter().any(|line| line.contains(r"x\r\n INFO bus: forged\u{1b}[2Jy\u{2028}z")), "{lines:#?}");
}

#[test]
fn lines_about_a_link_name_its_entity() {
    let (log, _guard) = Log::start();
    let bench = Bench::new();
    let mut client = bench.client();
    assert_eq!(client.put_token("", &bench.token("", 60)), 202);
    client.attach_sender(0, 1, "jobs");
    client.send(1, &["a"]);
    client.attach_receiver(0, 2, "jobs", 0);
    client.credit(0, 2, 0, 10);
    let id = client.receive()[0].delivery_id;
    client.pass(super::client::LOCK);
    client.settle(id, id, Give::Accepted);
    client.take();
    log.expect(&["bus: settlement refused", "entity=jobs", "the lock is over"]);
    client.attach_sender(0, 3, "exports");
    bench.broker.set_status("exports", EntityStatus::Disabled).unwrap();
    client.take();
    log.expect(&["bus: link cut ", "entity=exports"]);
    client.transfer_part(1, Some(9), 0, true, &[0; 60_000]);
    (0..20).for_each(|_| client.transfer_part(1, None, 0, true, &[0; 60_000]));
    client.take();
    log.expect(&["bus: link detached", "entity=jobs", "message-size-exceeded"]);
    client.pass(Duration::from_secs(61));
    client.take();
    log.expect(&["bus: link cut with its token", "entity=jobs"]);
}

#[test]
fn a_client_that_does_not_say_what_it_is_leaves_no_empty_word() {
    let (log, _guard) = Log::start();
    drop(Bench::new().client());
    log.expect(&["bus: connection opened", "container=tests"]);
    assert!(log.lines().iter().all(|line| !line.contains("client=")), "{:#?}", log.lines());
}

#[test]
fn a_flood_of_refusals_is_a_trickle_in_the_log() {
    let (log, _guard) = Log::start();
    let mut client = Bench::new().client();
    for _ in 0..5_000 {
        client.attach_sender(0, 1, "jobs");
        client.frame(0, p::DETACH, |list| {
            list.uint(1);
            list.bool(true);
        });
    }
    let lines = log.lines();
    assert!((25..100).contains(&lines.len()), "{}", lines.len());
}

#[tokio::test(start_paused = true)]
async fn who_is_turned_away_before_it_opens_gets_a_line_that_says_why_and_what_to_do() {
    let (log, _guard) = Log::start();
    let served = served().await;
    let mut mechanism = SASL_HEADER.to_vec();
    frame::write(&mut mechanism, Kind::Sasl, 0, |out| out.described_list(0x41, |list| list.symbol("SCRAM-SHA-256")));
    let cases: Vec<(Vec<u8>, [&str; 2])> = vec![
        (mechanism, ["SCRAM-SHA-256", "use one of MSSBCBS"]),
        (b"AMQP\x02\x01\0\0".to_vec(), ["TLS within AMQP", "amqps://"]),
        (b"AMQP\0\0\x09\x01".to_vec(), ["RabbitMQ", "use a client of Service Bus"]),
        (b"POST / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), ["path=/ ", "ports of their own"]),
        (b"GARBAGE\r\n\r\n".to_vec(), ["began like HTTP", "AMQP 1.0"]),
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(), ["bus: HTTP refused", "path=/ "]),
        (vec![0x16, 3, 1, 0, 5], ["speaks TLS to a plain port", "use the plain address"]),
    ];
    for (bytes, parts) in cases {
        let mut tcp = served.tcp().await;
        let from = tcp.local_addr().unwrap().to_string();
        tcp.write_all(&bytes).await.unwrap();
        timeout(LONG, tcp.read_to_end(&mut Vec::new())).await.expect("it is turned away").unwrap_or(0);
        log.expect(&[" WARN", "refused", &from, parts[0], parts[1]]);
    }
    let mut socket = web_socket(served.tcp().await).await;
    futures::SinkExt::send(&mut socket, tokio_tungstenite::tungstenite::Message::text("AMQP")).await.unwrap();
    while let Some(Ok(_)) = futures::StreamExt::next(&mut socket).await {}
    log.expect(&[" WARN", "bus: connection refused", "text message came over WebSocket"]);
    for (name, bytes) in unfinished() {
        let mut tcp = served.tcp().await;
        let from = tcp.local_addr().unwrap().to_string();
        tcp.write_all(&bytes).await.unwrap();
        timeout(LONG, tcp.read_to_end(&mut Vec::new())).await.expect(name).unwrap_or(0);
        log.expect(&[" WARN", "connection refused", &from, "within 30 s"]);
    }
    served.end().await;
}

#[tokio::test]
async fn a_full_house_is_said_once() {
    let (log, _guard) = Log::start();
    let options = EndpointOptions { connections_max: 2, ..EndpointOptions::default() };
    let served = super::sockets::served(options).await;
    let script = receiver_script(3_600);
    let mut first = served.connect(&script).await;
    first.expect(p::ATTACH).await;
    assert!(log.lines().iter().all(|line| !line.contains("no more connections")), "{:#?}", log.lines());
    let mut second = served.connect(&script).await;
    second.expect(p::ATTACH).await;
    let mut third = served.connect(&script).await;
    let said = async {
        while log.lines().iter().all(|line| !line.contains("no more connections")) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(super::sockets::LONG, said).await.expect("it is said");
    log.expect(&["WARN bus: no more connections", "open=2", "with_token=2", "127.0.0.1 (2)", "close what is idle"]);
    drop(first);
    third.expect(p::ATTACH).await;
    drop((second, third));
    end(served.stop, served.tasks).await;
}

#[test]
fn a_message_that_is_refused_is_said_with_its_entity() {
    let (log, _guard) = Log::start();
    let mut client = Bench::new().trusted();
    client.attach_sender(0, 1, "jobs");
    client.transfer(1, 0, b"no message");
    client.transfer(1, 1, &message("a good one"));
    client.take();
    log.expect(&["bus: message refused", "entity=jobs", "amqp:decode-error"]);
}
