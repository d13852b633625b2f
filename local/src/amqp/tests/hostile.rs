//! Clients that are broken, stuck or malicious, over real sockets: each is refused or bounded, and the others are served on.

use std::{
    process::Command,
    time::{Duration, Instant as Watch},
};

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;

use super::client::{Bench, Client, message};
use super::sockets::{Far, LONG, receiver_script};
use super::tls::{Served, served, web_socket};
use crate::amqp::connection::HANDSHAKE;
use crate::amqp::encode::{Compound, Write as _};
use crate::amqp::frame::{self, AMQP_HEADER, Kind, SASL_HEADER};
use crate::amqp::{EndpointOptions, performative as p};
use crate::broker::Broker;

/// Set in a process that runs one test alone.
const ALONE: &str = "WAYBILL_TEST_ALONE";

/// A client that does nothing wrong, and notices when it is not served.
pub(super) struct Bystander {
    far: Far<TcpStream>,
    script: Client,
    sent: u32,
}

impl Bystander {
    pub(super) async fn new(served: &Served) -> Self {
        let mut script = Bench::new().trusted();
        script.attach_sender(0, 2, "exports");
        script.attach_receiver(0, 1, "exports/subscriptions/acme", 1);
        script.flow_with_window(0, Some(1), 0, 1_000, false, Some((0, 1_000_000)));
        let far = attached(served.tcp().await, &script).await;
        Self { far, script, sent: 0 }
    }

    /// Sends a message and receives it.
    pub(super) async fn is_served(&mut self) {
        let from = self.script.sent.len();
        let body = format!("bystander {}", self.sent);
        self.script.transfer(2, self.sent, &message(&body));
        self.script.take();
        self.sent += 1;
        self.far.go_on(&self.script, from).await;
        let got = self.far.messages(1).await;
        assert_eq!(got.last().unwrap().body(), body);
    }
}

/// Replays a script, and reads the answers to the attach of handle 1 and to the token.
pub(super) async fn attached<S: AsyncRead + AsyncWrite + Unpin>(stream: S, script: &Client) -> Far<S> {
    let mut far = Far::replay(stream, script).await;
    let (mut attached, mut settled) = (false, false);
    while !attached || !settled {
        let frames = far.until(if attached { p::DISPOSITION } else { p::ATTACH }).await;
        attached |= frames.iter().any(|got| got.code == Some(p::ATTACH) && got.number(1) == 1);
        settled |= frames.iter().any(|got| got.code == Some(p::DISPOSITION));
    }
    far
}

pub(super) async fn until(served: &Served, condition: impl Fn(&Broker) -> bool) {
    timeout(LONG, served.bench.broker.wait_until(condition)).await.expect("the broker comes to it in time");
}

pub(super) fn frame(kind: Kind, code: u8, payload: &[u8], write: impl FnOnce(&mut Compound<'_>)) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write(&mut out, kind, 0, |out| {
        out.described_list(code, write);
        out.extend_from_slice(payload);
    });
    out
}

/// A frame with this body, whatever that is.
fn raw(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write(&mut out, Kind::Amqp, 0, |out| out.extend_from_slice(body));
    out
}

/// One part of a delivery on handle 1; the first has `delivery_id`.
fn part(delivery_id: Option<u32>, more: bool, payload: &[u8]) -> Vec<u8> {
    frame(Kind::Amqp, p::TRANSFER, payload, |list| {
        list.uint(1);
        match delivery_id {
            Some(id) => {
                list.uint(id);
                list.binary(&id.to_be_bytes());
                list.uint(0);
                list.bool(false);
            }
            None => (0..4).for_each(|_| list.null()),
        }
        list.bool(more);
    })
}

/// A list in a list in a list, so deep that a decoder which calls itself would run out of stack.
fn nested() -> Vec<u8> {
    let mut value = vec![0x45];
    while value.len() < 60_000 {
        let length = u32::try_from(value.len() + 4).unwrap();
        let mut outer = vec![0xd0];
        outer.extend(length.to_be_bytes());
        outer.extend(1_u32.to_be_bytes());
        outer.append(&mut value);
        value = outer;
    }
    let mut body = vec![0x00, 0x53, p::FLOW];
    body.append(&mut value);
    body
}

#[tokio::test]
async fn malformed_frames_close_their_own_connection_with_the_right_condition() {
    let framing = "amqp:connection:framing-error";
    let decode = "amqp:decode-error";
    let refused = "amqp:not-allowed";
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a frame beyond max-frame-size", vec![0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0], framing),
        ("a frame smaller than its header", vec![0, 0, 0, 3, 2, 0, 0, 0], framing),
        ("a data offset within the header", vec![0, 0, 0, 8, 1, 0, 0, 0], framing),
        ("a data offset beyond the frame", vec![0, 0, 0, 8, 200, 0, 0, 0], framing),
        ("an unknown type of frame", vec![0, 0, 0, 8, 2, 7, 0, 0], framing),
        ("a SASL frame after SASL", frame(Kind::Sasl, 0x41, &[], |list| list.symbol("ANONYMOUS")), framing),
        ("a text in the place of a performative", raw(b"\xa1\x05hello"), decode),
        ("an unknown constructor", raw(&[0x00, 0x53, p::FLOW, 0x3f]), decode),
        ("an unknown performative", raw(&[0x00, 0x53, 0x77, 0x45]), decode),
        ("a list that states more than the frame holds", raw(&[0x00, 0x53, p::FLOW, 0xc0, 0xff, 5, 0x43]), decode),
        ("a list of more elements than bytes", raw(b"\x00\x53\x13\xd0\0\0\0\x04\xff\xff\xff\xff"), decode),
        ("a text cut off", raw(&[0x00, 0x53, p::ATTACH, 0xc0, 4, 1, 0xa1, 0xff, b'x']), decode),
        ("lists nested beyond any sense", raw(&nested()), decode),
        ("a mandatory field left out", frame(Kind::Amqp, p::TRANSFER, &[], |_| {}), decode),
        ("a field of another type", frame(Kind::Amqp, p::ATTACH, &[], |list| list.uint(1)), decode),
        ("a second open", frame(Kind::Amqp, p::OPEN, &[], |list| list.text("again")), refused),
        (
            "a second session on a channel",
            frame(Kind::Amqp, p::BEGIN, &[], |list| {
                list.null();
                (0..3).for_each(|_| list.uint(1));
            }),
            refused,
        ),
    ];
    let served = served().await;
    let mut bystander = Bystander::new(&served).await;
    let mut script = Bench::new().trusted();
    script.attach_sender(0, 1, "jobs");
    for (name, bytes, condition) in cases {
        let mut far = attached(served.tcp().await, &script).await;
        far.stream.write_all(&bytes).await.unwrap();
        let (got, text) = far.expect(p::CLOSE).await.error(0);
        assert_eq!(got, condition, "{name}: {text}");
        far.stream.write_all(&frame(Kind::Amqp, p::CLOSE, &[], |_| {})).await.unwrap();
        let mut rest = Vec::new();
        timeout(LONG, far.stream.read_to_end(&mut rest)).await.expect(name).unwrap();
        assert!(rest.is_empty(), "{name}: {rest:?}");
        drop(far);
        bystander.is_served().await;
    }
    until(&served, |broker| broker.connections() == 1).await;
    drop(bystander);
    served.end().await;
}

#[tokio::test]
async fn malformed_deliveries_are_answered_and_frames_out_of_place_end_their_session() {
    let served = served().await;
    let mut script = Bench::new().trusted();
    script.attach_sender(0, 1, "jobs");
    let mut far = attached(served.tcp().await, &script).await;
    let messages: [&[u8]; 4] = [b"\x00", b"\x00\x53\x75\xa0\xffcut off", b"\x00\x53\x99\x45", b"no sections at all"];
    for (id, payload) in (0..).zip(messages) {
        far.stream.write_all(&part(Some(id), false, payload)).await.unwrap();
        let (code, error) = far.expect(p::DISPOSITION).await.outcome();
        assert_eq!((code, error.unwrap().0.as_str()), (0x25, "amqp:decode-error"), "{payload:?}");
    }
    far.stream.write_all(&part(Some(9), false, &message("the link lives on"))).await.unwrap();
    assert_eq!(far.expect(p::DISPOSITION).await.outcome(), (0x24, None));
    let stray = frame(Kind::Amqp, p::TRANSFER, b"", |list| list.uint(77));
    far.stream.write_all(&stray).await.unwrap();
    assert_eq!(far.expect(p::END).await.error(0).0, "amqp:session:unattached-handle");
    assert_eq!(served.bench.broker.counts("jobs").unwrap().active, 1);
    drop(far);
    served.end().await;
}

/// The bytes of a handshake, cut where it is not done.
pub(super) fn unfinished() -> Vec<(&'static str, Vec<u8>)> {
    let init = frame(Kind::Sasl, 0x41, &[], |list| list.symbol("ANONYMOUS"));
    let sasl = [&SASL_HEADER[..], &init].concat();
    let open = frame(Kind::Amqp, p::OPEN, &[], |list| list.text("tests"));
    let almost = [&sasl, &AMQP_HEADER[..], &open[..open.len() - 1]].concat();
    vec![
        ("nothing", Vec::new()),
        ("half a header", SASL_HEADER[..4].to_vec()),
        ("a header", SASL_HEADER.to_vec()),
        ("half of sasl-init", [&SASL_HEADER[..], &init[..9]].concat()),
        ("SASL alone", sasl),
        ("all but the last byte of open", almost),
        ("half a request for WebSocket", b"GET /$servicebus/websocket HTTP/1.1\r\nhost: local".to_vec()),
    ]
}

#[tokio::test(start_paused = true)]
async fn half_open_connections_end_with_the_time_for_the_handshake() {
    let served = served().await;
    for (name, bytes) in unfinished() {
        let began = Instant::now();
        let mut tcp = served.tcp().await;
        tcp.write_all(&bytes).await.unwrap();
        let mut answer = Vec::new();
        timeout(LONG, tcp.read_to_end(&mut answer)).await.expect(name).unwrap_or(0);
        let after = began.elapsed();
        assert!(after >= HANDSHAKE && after < HANDSHAKE + Duration::from_secs(3), "{name}: {after:?}");
    }
    until(&served, |broker| broker.connections() == 0).await;
    served.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_byte_now_and_then_does_not_stretch_the_handshake() {
    let served = served().await;
    let scripts = [unfinished().remove(5).1, unfinished().remove(6).1];
    for script in scripts {
        let began = Instant::now();
        let (mut reader, mut writer) = served.tcp().await.into_split();
        let mut drops = JoinSet::new();
        drops.spawn(async move {
            for byte in script {
                if writer.write_all(&[byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_secs(5)).await;
            }
        });
        timeout(LONG, reader.read_to_end(&mut Vec::new())).await.expect("it ends in time").unwrap_or(0);
        let after = began.elapsed();
        assert!(after >= HANDSHAKE && after < HANDSHAKE + Duration::from_secs(3), "{after:?}");
        drops.shutdown().await;
    }
    served.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_falls_silent_and_reads_nothing_is_given_up_and_its_buffer_with_it() {
    let served = served().await;
    let mut script = Bench::new().trusted();
    script.attach_sender(0, 2, "exports");
    let body = "x".repeat(30_000);
    for id in 0..400 {
        script.transfer(2, id, &message(&body));
    }
    script.take();
    script.attach_receiver(0, 1, "exports/subscriptions/acme", 0);
    script.flow_with_window(0, Some(1), 0, 1_000_000, false, Some((0, 1_000_000)));
    let began = Instant::now();
    let far = Far::replay(served.tcp().await, &script).await;
    until(&served, |broker| broker.links().len() == 2).await;
    let limit = EndpointOptions::default().idle_time_out;
    let gone = served.bench.broker.wait_until(|broker| broker.connections() == 0);
    timeout(limit * 2, gone).await.expect("it is given up");
    let after = began.elapsed();
    assert!(after >= limit && after < limit + Duration::from_secs(5), "{after:?}");
    drop(far);
    served.end().await;
}

/// Runs one test, by its path below `amqp::tests`, in a process of its own, with memory of its own and room for many files;
/// true in there.
pub(super) fn is_alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let output = Command::new("sh")
        .args(["-c", r#"ulimit -S -n 4096; exec "$0" --exact "$1" --nocapture"#])
        .arg(std::env::current_exe().unwrap())
        .arg(format!("amqp::tests::{test}"))
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    false
}

/// Resident memory of this process, the highest so far, in MiB.
pub(super) fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

#[tokio::test]
async fn a_thousand_connections_are_served_at_once_and_the_next_one_waits() {
    if !is_alone("hostile::a_thousand_connections_are_served_at_once_and_the_next_one_waits") {
        return;
    }
    let began = Watch::now();
    let served = served().await;
    let mut bystander = Bystander::new(&served).await;
    bystander.is_served().await;
    let script = receiver_script(3_600);
    let before = peak_mib();
    let mut crowd = Vec::new();
    for _ in 0..999 {
        crowd.push(Far::replay(served.tcp().await, &script).await);
    }
    until(&served, |broker| broker.links().len() == 1_001).await;
    for far in &mut crowd {
        far.expect(p::ATTACH).await;
    }
    let grown = peak_mib() - before;
    assert!(grown < 64, "{grown} MiB for a thousand connections at both ends");
    let mut late = Far::replay(served.tcp().await, &script).await;
    // All of them stand in line for messages, the bystander too; fifty get one.
    let from = bystander.script.sent.len();
    for id in 1..=50 {
        bystander.script.transfer(2, id, &message("for one of the crowd"));
    }
    bystander.far.go_on(&bystander.script, from).await;
    let delivered = |broker: &Broker| broker.counts("exports/subscriptions/acme").unwrap().totals.deliveries;
    until(&served, |broker| delivered(broker) == 51).await;
    assert_eq!(served.bench.broker.connections(), 1_000);
    assert!(timeout(Duration::from_millis(100), late.read()).await.is_err(), "nobody has time for it");
    crowd.pop();
    late.expect(p::ATTACH).await;
    drop((late, crowd, bystander));
    until(&served, |broker| broker.connections() == 0).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(30), "{took:?}");
    served.end().await;
}

#[tokio::test]
async fn a_thousand_clients_without_a_token_keep_nobody_out() {
    if !is_alone("hostile::a_thousand_clients_without_a_token_keep_nobody_out") {
        return;
    }
    let served = served().await;
    let mut bystander = Bystander::new(&served).await;
    bystander.is_served().await;
    let script = receiver_script(3_600);
    let opened = Bench::new().client();
    let before = peak_mib();
    let upgrade = b"GET /$servicebus/websocket HTTP/1.1\r\nhost: localhost\r\n";
    for (what, first) in [("silent", &b""[..]), ("opened", &opened.sent), ("half a WebSocket", upgrade)] {
        let mut longest = Far::replay(served.tcp().await, &opened).await;
        longest.expect(p::OPEN).await;
        let mut crowd = Vec::new();
        for _ in 0..1_100 {
            let mut stranger = served.tcp().await;
            // One that had to leave already does not take it.
            drop(stranger.write_all(first).await);
            crowd.push(stranger);
        }
        let began = Watch::now();
        let mut late = Far::replay(served.tcp().await, &script).await;
        late.expect(p::ATTACH).await;
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "{what}: a client with a token waited for {took:?}");
        bystander.is_served().await;
        let (condition, why) = longest.expect(p::CLOSE).await.error(0);
        assert_eq!(condition, "amqp:connection:forced");
        assert!(why.contains("had no token"), "{why}");
        assert!(served.bench.broker.connections() <= 1_000);
    }
    let grown = peak_mib() - before;
    assert!(grown < 96, "{grown} MiB for a thousand connections at both ends");
    drop(bystander);
    served.end().await;
}

/// Sends one delivery of 100 MB, and then a small one on the same session.
async fn pour<S: AsyncRead + AsyncWrite + Unpin>(stream: S, bystander: &mut Bystander) {
    const PIECE: usize = 60_000;
    let mut script = Bench::new().trusted();
    script.attach_sender(0, 1, "jobs");
    let mut far = attached(stream, &script).await;
    far.stream.write_all(&part(Some(0), true, &[0; PIECE])).await.unwrap();
    let piece = part(None, true, &[0; PIECE]);
    for number in 0..100_000_000 / PIECE {
        far.stream.write_all(&piece).await.unwrap();
        if number % 500 == 0 {
            bystander.is_served().await;
        }
    }
    far.stream.write_all(&part(None, false, b"the end")).await.unwrap();
    far.stream.flush().await.unwrap();
    let frames = far.until(p::DETACH).await;
    let condition = "amqp:link:message-size-exceeded";
    let answer = frames.iter().find(|got| got.code == Some(p::DISPOSITION)).unwrap().outcome();
    assert_eq!((answer.0, answer.1.unwrap().0.as_str()), (0x25, condition));
    let detach = frames.iter().find(|got| got.code == Some(p::DETACH)).unwrap();
    assert_eq!(detach.error(2).0, condition);
    let from = script.sent.len();
    script.frame(0, p::DETACH, |list| {
        list.uint(1);
        list.bool(true);
    });
    script.attach_sender(0, 1, "jobs");
    script.transfer(1, 1, &message("small"));
    far.go_on(&script, from).await;
    assert_eq!(far.expect(p::DISPOSITION).await.outcome(), (0x24, None));
}

#[tokio::test]
async fn a_message_of_100_mb_is_refused_and_never_held() {
    if !is_alone("hostile::a_message_of_100_mb_is_refused_and_never_held") {
        return;
    }
    let served = served().await;
    let mut bystander = Bystander::new(&served).await;
    bystander.is_served().await;
    let before = peak_mib();
    pour(served.tcp().await, &mut bystander).await;
    pour(served.tls().await, &mut bystander).await;
    let mut tasks = JoinSet::new();
    pour(over_web_socket(served.tls().await, &mut tasks).await, &mut bystander).await;
    let grown = peak_mib() - before;
    assert!(grown < 24, "{grown} MiB");
    assert_eq!(served.bench.broker.counts("jobs").unwrap().active, 3);
    tasks.shutdown().await;
    drop(bystander);
    served.end().await;
}

/// A byte stream that goes through a WebSocket.
async fn over_web_socket(stream: TlsStream<TcpStream>, tasks: &mut JoinSet<()>) -> DuplexStream {
    let mut socket = web_socket(stream).await;
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    tasks.spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            tokio::select! {
                read = near.read(&mut buffer) => match read.unwrap() {
                    0 => break,
                    read => socket.send(Message::Binary(Bytes::copy_from_slice(&buffer[..read]))).await.unwrap(),
                },
                message = socket.next() => match message {
                    Some(Ok(Message::Binary(bytes))) => near.write_all(&bytes).await.unwrap(),
                    _ => break,
                },
            }
        }
    });
    far
}
