//! The same conversations over TLS and over WebSocket: what a client sends and reads is what it is on a bare socket.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest as _},
};
use tokio_util::sync::CancellationToken;

use super::client::{Bench, Client, message};
use super::sockets::{Far, LONG, end, receiver_script};
use crate::amqp::{EndpointOptions, performative as p, serve};
use crate::broker::Which;
use crate::tls::{Certificates, test_connector};

/// The endpoint on two ports, one of them for TLS.
pub(super) struct Served {
    pub(super) bench: Bench,
    plain: SocketAddr,
    tls: SocketAddr,
    connector: TlsConnector,
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

pub(super) async fn served() -> Served {
    let bench = Bench::ticking();
    let certificates = Certificates::generate(None).unwrap();
    let (plain_listener, tls_listener) =
        (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
    let (plain, tls) = (plain_listener.local_addr().unwrap(), tls_listener.local_addr().unwrap());
    let (mut tasks, stop) = (JoinSet::new(), CancellationToken::new());
    tasks.spawn(serve(
        plain_listener,
        Some((tls_listener, certificates.acceptor(&[]))),
        Arc::clone(&bench.broker),
        Arc::clone(&bench.keys),
        EndpointOptions::default(),
        stop.clone(),
    ));
    Served { bench, plain, tls, connector: test_connector(certificates.ca_pem()), tasks, stop }
}

impl Served {
    pub(super) async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.plain).await.unwrap()
    }

    pub(super) async fn tls(&self) -> TlsStream<TcpStream> {
        let tcp = TcpStream::connect(self.tls).await.unwrap();
        self.connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap()
    }

    pub(super) async fn end(self) {
        end(self.stop, self.tasks).await;
    }
}

/// A sender's script: one message for each body, on handle 1.
fn sender_script(bodies: &[&str]) -> Client {
    let mut client = Bench::new().trusted();
    client.attach_sender(0, 1, "exports");
    for (id, body) in (0..).zip(bodies) {
        client.transfer(1, id, &message(body));
    }
    client
}

pub(super) async fn web_socket<S>(stream: S) -> WebSocketStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut request = "ws://localhost/$servicebus/websocket".into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "AMQPWSB10".parse().unwrap());
    let (socket, response) = client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "AMQPWSB10");
    socket
}

/// Sends a script in messages of `piece` bytes, and reads what comes until it holds `code`.
async fn converse<S>(socket: &mut WebSocketStream<S>, script: &Client, piece: usize, code: u8)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    for piece in script.sent.chunks(piece) {
        socket.send(Message::Binary(Bytes::copy_from_slice(piece))).await.unwrap();
    }
    let (mut near, far) = tokio::io::duplex(1 << 20);
    let mut far = Far::new(far);
    let pump = async {
        while let Some(message) = socket.next().await {
            match message.unwrap() {
                Message::Binary(bytes) => near.write_all(&bytes).await.unwrap(),
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::select! {
        _ = far.expect(code) => {}
        () = pump => panic!("the connection ended before {code:#x}"),
    }
}

#[tokio::test]
async fn over_tls_messages_go_out_and_come_in() {
    let served = served().await;
    let mut receiver = Far::replay(served.tls().await, &receiver_script(3_600)).await;
    served.bench.broker.wait_until(|broker| broker.links().len() == 1).await;
    let mut sender = Far::replay(served.tls().await, &sender_script(&["over TLS"])).await;
    sender.expect(p::DISPOSITION).await;
    assert_eq!(receiver.messages(1).await[0].body(), "over TLS");
    drop((sender, receiver));
    served.end().await;
}

#[tokio::test]
async fn large_messages_pass_a_reader_of_tls_that_pauses() {
    let served = served().await;
    let mut client = Bench::new().trusted();
    client.attach_receiver(0, 1, "exports/subscriptions/acme", 0);
    client.flow_with_window(0, Some(1), 0, 1_000_000, false, Some((0, 1_000_000)));
    let mut slow = Far::replay(served.tls().await, &client).await;
    let body = "x".repeat(30_000);
    let bodies = vec![body.as_str(); 200];
    let mut sender = Far::replay(served.tls().await, &sender_script(&bodies)).await;
    sender.expect(p::DISPOSITION).await;
    // 6 MB fit into no buffer: what is held back below AMQP must go on when the reader does.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(slow.messages(200).await.iter().all(|got| got.body() == body));
    drop((slow, sender));
    served.end().await;
}

#[tokio::test]
async fn a_reset_under_tls_is_a_reset_on_the_wire() {
    let served = served().await;
    let mut far = Far::replay(served.tls().await, &receiver_script(3_600)).await;
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
    served.end().await;
}

#[tokio::test]
async fn a_forced_close_over_tls_arrives_before_an_orderly_end() {
    let served = served().await;
    let mut far = Far::replay(served.tls().await, &receiver_script(3_600)).await;
    served.bench.broker.wait_until(|broker| broker.links().len() == 1).await;
    served.bench.broker.close_connections(&Which::All);
    assert_eq!(far.expect(p::CLOSE).await.error(0).0, "amqp:connection:forced");
    // With close_notify: rustls would report an end without it as an error.
    assert_eq!(timeout(LONG, far.read()).await.unwrap().unwrap(), 0);
    served.end().await;
}

#[tokio::test]
async fn the_wrong_protocol_for_a_port_is_turned_away_at_once() {
    let served = served().await;
    let tcp = served.tcp().await;
    let refused = timeout(LONG, served.connector.connect("localhost".try_into().unwrap(), tcp)).await.unwrap();
    assert!(refused.is_err(), "TLS on the plain port");
    let mut tcp = TcpStream::connect(served.tls).await.unwrap();
    tcp.write_all(b"AMQP\x03\x01\x00\x00").await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end as well: what it sent was not read.
    drop(timeout(LONG, tcp.read_to_end(&mut answer)).await.unwrap());
    assert_eq!(answer, b"", "plain AMQP on the port for TLS");
    // Neither harms anybody else.
    Far::replay(served.tls().await, &receiver_script(60)).await.expect(p::ATTACH).await;
    served.end().await;
}

#[tokio::test]
async fn frames_and_web_socket_messages_need_not_agree() {
    let served = served().await;
    let script = sender_script(&["a", "b", "c"]);
    for (round, piece) in (1..).zip([1, 7, 8, 1_000_000]) {
        let mut plain = web_socket(served.tcp().await).await;
        converse(&mut plain, &script, piece, p::DISPOSITION).await;
        let mut secure = web_socket(served.tls().await).await;
        converse(&mut secure, &script, piece, p::DISPOSITION).await;
        let active = |broker: &crate::broker::Broker| broker.counts("exports/subscriptions/acme").unwrap().active;
        served.bench.broker.wait_until(|broker| active(broker) == round * 6).await;
    }
    served.end().await;
}

#[tokio::test]
async fn an_end_of_the_web_socket_is_an_end_of_the_connection_and_a_ping_is_answered() {
    let served = served().await;
    let mut socket = web_socket(served.tls().await).await;
    converse(&mut socket, &receiver_script(3_600), 100, p::ATTACH).await;
    assert_eq!(served.bench.broker.connections(), 1);
    socket.send(Message::Ping(Bytes::from_static(b"?"))).await.unwrap();
    loop {
        match timeout(LONG, socket.next()).await.unwrap().unwrap().unwrap() {
            Message::Pong(bytes) => break assert_eq!(bytes, "?"),
            Message::Binary(_) => {}
            other => panic!("{other:?}"),
        }
    }
    socket.close(None).await.unwrap();
    served.bench.broker.wait_until(|broker| broker.connections() == 0).await;
    // A message of text ends it as well.
    let mut socket = web_socket(served.tcp().await).await;
    socket.send(Message::text("AMQP")).await.unwrap();
    timeout(LONG, async { while socket.next().await.is_some_and(|message| message.is_ok()) {} }).await.unwrap();
    served.bench.broker.wait_until(|broker| broker.connections() == 0).await;
    served.end().await;
}

#[tokio::test]
async fn a_web_socket_that_is_reset_or_too_large_ends() {
    let served = served().await;
    let mut socket = web_socket(served.tls().await).await;
    converse(&mut socket, &receiver_script(3_600), 100, p::ATTACH).await;
    assert_eq!(served.bench.broker.reset_connections(&Which::All), 1);
    timeout(LONG, async { while socket.next().await.is_some_and(|message| message.is_ok()) {} }).await.unwrap();
    let mut socket = web_socket(served.tcp().await).await;
    drop(socket.send(Message::Binary(vec![0; 5 << 20].into())).await);
    timeout(LONG, async { while socket.next().await.is_some_and(|message| message.is_ok()) {} }).await.unwrap();
    served.bench.broker.wait_until(|broker| broker.connections() == 0).await;
    served.end().await;
}

#[tokio::test]
async fn a_request_that_is_not_for_amqp_is_answered_in_http() {
    let served = served().await;
    let ask = async |path: &str, headers: &[(&'static str, &str)]| {
        let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let stream = served.tcp().await;
        match timeout(LONG, client_async(request, stream)).await.unwrap() {
            Ok(_) => StatusCode::SWITCHING_PROTOCOLS,
            Err(tungstenite::Error::Http(response)) => response.status(),
            Err(error) => panic!("{error}"),
        }
    };
    let amqp = ("sec-websocket-protocol", "AMQPWSB10");
    let path = "/$servicebus/websocket";
    assert_eq!(ask(path, &[amqp]).await, 101);
    assert_eq!(ask("/%24servicebus/websocket/", &[("sec-websocket-protocol", "chat, amqp")]).await, 101);
    assert_eq!(ask(path, &[amqp, ("origin", "https://localhost:5671")]).await, 101, "as Python's client says");
    assert_eq!(ask("/", &[amqp]).await, 404);
    assert_eq!(ask(path, &[("sec-websocket-protocol", "mqtt")]).await, 400);
    for origin in ["https://evil.example", "null", "https://localhost.evil.example"] {
        assert_eq!(ask(path, &[amqp, ("origin", origin)]).await, 403, "{origin}");
    }
    for method in ["GET", "POST", "HEAD", "DELETE", "OPTIONS"] {
        let mut tcp = served.tcp().await;
        let request = format!("{method} /$servicebus/websocket HTTP/1.1\r\nHost: localhost\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(LONG, tcp.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 426 ") && answer.contains("\r\nupgrade: websocket"), "{method}: {answer}");
    }
    for (key, status) in [("dGhlIHNhbXBsZSBub25jZQ==", 101), ("c2hvcnQ=", 400), ("no base64, really", 400), ("", 400)] {
        let mut tcp = served.tcp().await;
        let request = upgrade().replace("dGhlIHNhbXBsZSBub25jZQ==", key);
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        timeout(LONG, tcp.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), format!("HTTP/1.1 {status}"), "{key:?}");
    }
    served.end().await;
}

/// A request for WebSocket as a client writes it.
fn upgrade() -> String {
    "GET /$servicebus/websocket HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
     Sec-WebSocket-Protocol: AMQPWSB10\r\n\r\n"
        .to_owned()
}

#[tokio::test]
async fn who_breaks_the_protocol_of_web_socket_is_told_how_before_the_end() {
    let served = served().await;
    let masked = |first: u8, payload: &[u8]| {
        let size = u8::try_from(payload.len()).unwrap();
        [&[first, 0x80 | size, 0, 0, 0, 0][..], payload].concat()
    };
    let too_large = [&[0x82, 0xff, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0][..], &[0; 1_000]].concat();
    let cases = [
        ("text", masked(0x81, b"AMQP"), 1003_u16),
        ("not masked", b"\x82\x04AMQP".to_vec(), 1002),
        ("a reserved bit", masked(0xc2, b"AMQP"), 1002),
        ("an unknown kind", masked(0x83, b"AMQP"), 1002),
        ("a continuation of nothing", masked(0x80, b"AMQP"), 1002),
        ("too large", too_large, 1009),
    ];
    for (what, bytes, code) in cases {
        let mut tcp = served.tcp().await;
        tcp.write_all(upgrade().as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(LONG, tcp.read_u8()).await.unwrap().unwrap());
        }
        tcp.write_all(&bytes).await.unwrap();
        let mut rest = Vec::new();
        timeout(LONG, tcp.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert_eq!(rest, [&[0x88, 2][..], &code.to_be_bytes()].concat(), "{what}");
    }
    served.end().await;
}
