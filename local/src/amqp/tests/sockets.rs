//! What needs a socket: resets, slow readers, and that an idle connection is woken. With a pipe and paused time where time
//! is the matter, over TCP where the socket is.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::client::{Bench, Client, Got, HOST, LOCK, Received, deliveries, frames_of, message};
use crate::amqp::codec::Value;
use crate::amqp::connection::Engine;
use crate::amqp::frame::{AMQP_HEADER, SASL_HEADER};
use crate::amqp::{EndpointOptions, performative as p, serve, wire};
use crate::broker::Which;

/// Longer than anything here takes, and short enough to end a test that hangs.
pub(super) const LONG: Duration = Duration::from_secs(120);

/// The other end of a connection.
pub(super) struct Far<S> {
    pub(super) stream: S,
    unread: Vec<u8>,
    greeted: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Far<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, unread: Vec::new(), greeted: false }
    }

    /// Sends what a client of [`Bench`] sent to its engine.
    pub(super) async fn replay(stream: S, client: &Client) -> Self {
        let mut far = Self { stream, unread: Vec::new(), greeted: false };
        far.stream.write_all(&client.sent).await.unwrap();
        far
    }

    /// Sends what the client sent since `from`.
    pub(super) async fn go_on(&mut self, client: &Client, from: usize) {
        self.stream.write_all(&client.sent[from..]).await.unwrap();
    }

    pub(super) async fn read(&mut self) -> io::Result<usize> {
        let read = self.stream.read_buf(&mut self.unread).await?;
        if !self.greeted && self.unread.windows(8).any(|window| window == AMQP_HEADER) {
            // Two headers with SASL frames between them.
            self.greeted = true;
            assert!(self.unread.starts_with(&SASL_HEADER));
            let at = self.unread.windows(8).position(|window| window == AMQP_HEADER).unwrap();
            self.unread.drain(..at + 8);
        }
        Ok(read)
    }

    /// Frames until one of this kind came, that one the last looked at.
    pub(super) async fn until(&mut self, code: u8) -> Vec<Got> {
        let mut frames = Vec::new();
        loop {
            if self.greeted {
                frames.extend(frames_of(&mut self.unread));
            }
            if frames.iter().any(|got| got.code == Some(code)) {
                return frames;
            }
            let read = timeout(LONG, self.read()).await.expect("a frame comes in time").unwrap();
            assert!(read > 0, "the connection ended before {code:#x}; {frames:#?}");
        }
    }

    /// The next `count` messages on handle 1, other frames aside.
    pub(super) async fn messages(&mut self, count: usize) -> Vec<Received> {
        let mut frames = Vec::new();
        loop {
            let on_link = |got: &Got| got.code == Some(p::TRANSFER) && got.number(0) == 1;
            frames.extend(self.until(p::TRANSFER).await.into_iter().filter(on_link));
            let whole = frames.iter().filter(|got: &&Got| *got.field(5) != Value::Bool(true)).count();
            if whole >= count {
                return deliveries(&frames);
            }
        }
    }

    pub(super) async fn expect(&mut self, code: u8) -> Got {
        self.until(code).await.into_iter().find(|got| got.code == Some(code)).unwrap()
    }
}

/// A connection over a pipe, on paused time.
pub(super) fn pipe(bench: &Bench, tasks: &mut JoinSet<()>, stop: &CancellationToken) -> tokio::io::DuplexStream {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let mut engine =
        Engine::new(Arc::clone(&bench.broker), Arc::clone(&bench.keys), EndpointOptions::default(), Instant::now());
    let (revocations, stop) = (bench.keys.revocations(), stop.clone());
    let mut near = near;
    tasks.spawn(async move {
        wire::serve(&mut near, &mut engine, revocations, &stop).await;
    });
    far
}

fn keep_time(bench: &Bench, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
    let (broker, stop) = (Arc::clone(&bench.broker), stop.clone());
    tasks.spawn(async move { broker.keep_time(&stop).await });
}

pub(super) async fn end(stop: CancellationToken, mut tasks: JoinSet<()>) {
    stop.cancel();
    while let Some(ended) = timeout(LONG, tasks.join_next()).await.expect("everything ends") {
        ended.unwrap();
    }
}

/// A script whose token for the subscription lives for `life` seconds, with a receiver on handle 1.
pub(super) fn receiver_script(life: i64) -> Client {
    let bench = Bench::new();
    let mut client = bench.client();
    client.put_token("exports", &bench.token("exports", life));
    client.attach_receiver(0, 1, "exports/subscriptions/acme", 0);
    client.credit(0, 1, 0, 10);
    client
}

#[tokio::test(start_paused = true)]
async fn a_token_that_dies_cuts_an_idle_link_in_time() {
    let bench = Bench::ticking();
    let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
    let start = Instant::now();
    let mut far = Far::replay(pipe(&bench, &mut tasks, &stop), &receiver_script(60)).await;
    let detach = far.expect(p::DETACH).await;
    assert_eq!(detach.error(2).0, "amqp:unauthorized-access");
    let after = start.elapsed();
    assert!(after >= Duration::from_secs(60) && after < Duration::from_millis(60_100), "{after:?}");
    end(stop, tasks).await;
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_ends_wakes_an_idle_receiver() {
    let bench = Bench::ticking();
    let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
    keep_time(&bench, &mut tasks, &stop);
    let mut script = receiver_script(3_600);
    let from = script.sent.len();
    let mut far = Far::replay(pipe(&bench, &mut tasks, &stop), &script).await;
    bench.broker.wait_until(|broker| broker.links().len() == 1).await;
    let sender = Bench::new();
    let mut sender = sender.trusted();
    sender.attach_sender(0, 1, "exports");
    sender.transfer(1, 0, &message("a"));
    let start = Instant::now();
    let mut other = Far::replay(pipe(&bench, &mut tasks, &stop), &sender).await;
    other.expect(p::DISPOSITION).await;
    assert_eq!(far.messages(1).await[0].delivery_count(), 0);
    let second = far.messages(1).await;
    assert_eq!((second[0].body(), second[0].delivery_count()), ("a".to_owned(), 1));
    assert!(start.elapsed() >= LOCK && start.elapsed() < LOCK + Duration::from_millis(100), "{:?}", start.elapsed());
    let id = second[0].delivery_id;
    script.settle(id, id, super::client::Give::Accepted);
    far.go_on(&script, from).await;
    assert_eq!(far.expect(p::DISPOSITION).await.outcome(), (0x24, None));
    bench.broker.wait_until(|broker| broker.counts("exports/subscriptions/acme").unwrap().totals.completed == 1).await;
    end(stop, tasks).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_gets_its_heartbeats() {
    let bench = Bench::ticking();
    let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
    let scratch = Bench::new();
    let mut script = scratch.raw_client();
    script.handshake(65_536, Some(30_000));
    let mut far = Far::replay(pipe(&bench, &mut tasks, &stop), &script).await;
    far.until(p::OPEN).await;
    for _ in 0..5 {
        let before = Instant::now();
        far.read().await.unwrap();
        let frames = frames_of(&mut far.unread);
        assert_eq!(frames.iter().map(|got| got.code).collect::<Vec<_>>(), [None]);
        assert!(before.elapsed() < Duration::from_secs(15), "{:?}", before.elapsed());
    }
    end(stop, tasks).await;
}

/// The endpoint on a port of its own.
pub(super) struct Served {
    bench: Bench,
    address: std::net::SocketAddr,
    pub(super) tasks: JoinSet<()>,
    pub(super) stop: CancellationToken,
}

pub(super) async fn served(options: EndpointOptions) -> Served {
    let bench = Bench::ticking();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
    tasks.spawn(serve(listener, None, Arc::clone(&bench.broker), Arc::clone(&bench.keys), options, stop.clone()));
    Served { bench, address, tasks, stop }
}

impl Served {
    pub(super) async fn connect(&self, script: &Client) -> Far<TcpStream> {
        Far::replay(TcpStream::connect(self.address).await.unwrap(), script).await
    }
}

#[tokio::test]
async fn a_reset_is_a_reset_on_the_wire() {
    let served = served(EndpointOptions::default()).await;
    let mut far = served.connect(&receiver_script(3_600)).await;
    served.bench.broker.wait_until(|broker| broker.links().len() == 1).await;
    assert_eq!(served.bench.broker.reset_connections(&Which::Receivers), 1);
    let error = timeout(LONG, async {
        loop {
            match far.read().await {
                Ok(0) => panic!("an orderly end"),
                Ok(_) => {}
                Err(error) => break error,
            }
        }
    });
    assert_eq!(error.await.unwrap().kind(), io::ErrorKind::ConnectionReset);
    served.bench.broker.wait_until(|broker| broker.connections() == 0).await;
    end(served.stop, served.tasks).await;
}

#[tokio::test]
async fn a_forced_close_arrives_before_the_end_of_the_stream() {
    let served = served(EndpointOptions::default()).await;
    let mut far = served.connect(&receiver_script(3_600)).await;
    served.bench.broker.wait_until(|broker| broker.links().len() == 1).await;
    served.bench.broker.close_connections(&Which::All);
    assert_eq!(far.expect(p::CLOSE).await.error(0).0, "amqp:connection:forced");
    // The client still sends, and does not agree: it is neither reset nor waited for without end.
    far.stream.write_all(&[0, 0, 0, 8, 2, 0, 0, 0]).await.unwrap();
    assert_eq!(timeout(LONG, far.read()).await.unwrap().unwrap(), 0);
    end(served.stop, served.tasks).await;
}

#[tokio::test]
async fn another_protocol_reads_our_answer_and_an_orderly_end() {
    let served = served(EndpointOptions::default()).await;
    for (first, begins) in [("SSH-2.0-OpenSSH_9.6\r\n", &SASL_HEADER[..]), ("HELO example.com\r\n", b"HTTP/1.1 400 ")] {
        let mut stream = TcpStream::connect(served.address).await.unwrap();
        let mut request = first.as_bytes().to_vec();
        request.resize(100_000, b'x');
        stream.write_all(&request).await.unwrap();
        let mut answer = Vec::new();
        stream.shutdown().await.unwrap();
        // What it sent is read away: a socket that closes over unread input would reset the connection.
        timeout(LONG, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with(begins), "{first}: {}", String::from_utf8_lossy(&answer));
    }
    end(served.stop, served.tasks).await;
}

#[tokio::test]
async fn a_stop_closes_every_connection_and_returns() {
    let served = served(EndpointOptions::default()).await;
    let script = receiver_script(3_600);
    let mut far = Vec::new();
    for _ in 0..20 {
        far.push(served.connect(&script).await);
    }
    served.bench.broker.wait_until(|broker| broker.links().len() == 20).await;
    served.stop.cancel();
    for far in &mut far {
        assert_eq!(far.expect(p::CLOSE).await.error(0).0, "amqp:connection:forced");
    }
    drop(far);
    end(served.stop, served.tasks).await;
    assert_eq!(served.bench.broker.connections(), 0);
}

#[tokio::test]
async fn a_rotation_wakes_an_idle_connection() {
    let served = served(EndpointOptions::default()).await;
    let keys = &served.bench.keys;
    keys.add_tenant("acme", "exports/subscriptions/acme");
    let scratch = Bench::new();
    scratch.keys.add_tenant("acme", "exports/subscriptions/acme");
    let mut script = scratch.client();
    let token = keys.bus_token("acme", HOST, scratch.now_seconds() + 3_600).unwrap();
    script.put_token("exports/subscriptions/acme", &token);
    // The scratch broker does not know that key, so its answer does not matter here.
    script.attach_receiver(0, 1, "exports/subscriptions/acme", 0);
    let mut far = served.connect(&script).await;
    served.bench.broker.wait_until(|broker| broker.links().len() == 1).await;
    keys.rotate(None).unwrap();
    assert!(far.expect(p::DETACH).await.error(2).1.contains("RevokedToken"));
    drop(far);
    end(served.stop, served.tasks).await;
}

#[tokio::test]
async fn one_that_does_not_read_stops_nobody_else_and_gets_everything_in_the_end() {
    let served = served(EndpointOptions::default()).await;
    let scratch = Bench::new();
    let mut slow = scratch.trusted();
    slow.attach_receiver(0, 1, "exports/subscriptions/acme", 0);
    slow.flow_with_window(0, Some(1), 0, 1_000_000, false, Some((0, 1_000_000)));
    let mut slow = served.connect(&slow).await;
    let mut quick = scratch.trusted();
    quick.attach_sender(0, 1, "exports");
    let body = "x".repeat(30_000);
    for id in 0..400 {
        quick.transfer(1, id, &message(&body));
    }
    let mut quick = served.connect(&quick).await;
    let mut accepted = 0;
    while accepted < 400 {
        let frames = quick.until(p::DISPOSITION).await;
        let ranges = frames.iter().filter(|got| got.code == Some(p::DISPOSITION));
        accepted += ranges.map(|got| got.number(2) - got.number(1) + 1).sum::<i64>();
    }
    let counts = || served.bench.broker.counts("exports/subscriptions/acme").unwrap();
    assert!(counts().active > 0, "24 MB do not fit into the buffers of a socket and ours; the rest is not locked");
    assert!(slow.messages(400).await.iter().all(|got| got.body() == body));
    assert_eq!((counts().active, counts().locked), (0, 400));
    drop((slow, quick));
    end(served.stop, served.tasks).await;
}

#[tokio::test]
async fn no_more_connections_than_allowed_are_served_at_once() {
    let served = served(EndpointOptions { connections_max: 1, ..EndpointOptions::default() }).await;
    let script = receiver_script(3_600);
    let mut first = served.connect(&script).await;
    first.until(p::ATTACH).await;
    let mut second = served.connect(&script).await;
    drop(first);
    // It is served once the first is gone.
    second.until(p::ATTACH).await;
    assert_eq!(served.bench.broker.connections(), 1);
    drop(second);
    end(served.stop, served.tasks).await;
}
