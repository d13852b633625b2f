//! Ways to the bus: over WebSocket, around a closed port, through a proxy.

use super::{
    tls::{NAMESPACE, tls_in_front_of},
    *,
};
use crate::bus::{address::Address, stream::GuardedStream};

/// What a proxy was asked.
type Heads = Arc<Mutex<Vec<String>>>;

/// A proxy that knows one place, whatever it is asked for, or answers with a refusal.
async fn proxy(to: u16, refusal: Option<&'static str>) -> (ProxySettings, Heads, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://user:TOPSECRET@127.0.0.1:{}", listener.local_addr().unwrap().port());
    let heads = Heads::default();
    let mut tasks = JoinSet::new();
    let seen = Arc::clone(&heads);
    tasks.spawn(async move {
        let mut lines = JoinSet::new();
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let seen = Arc::clone(&seen);
            lines.spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                seen.lock().unwrap().push(String::from_utf8(head).unwrap());
                let answer = refusal.unwrap_or("HTTP/1.1 200 Connection established\r\n\r\n");
                client.write_all(answer.as_bytes()).await.unwrap();
                if refusal.is_none() {
                    let mut server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                }
            });
        }
    });
    let settings = ProxySettings::read(|name| (name == "HTTPS_PROXY").then(|| address.clone()));
    (settings, heads, tasks)
}

fn no_proxy() -> ProxySettings {
    ProxySettings::read(|_| None)
}

fn trusting(authority: &str) -> (tempfile::TempDir, BusOptions) {
    let directory = tempfile::tempdir().unwrap();
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, authority).unwrap();
    (directory, BusOptions { ca_file: Some(ca_file), ..options() })
}

fn address(host: &str, port: u16, web_port: u16) -> Address {
    Address { host: host.to_owned(), port, web_port, tls: true }
}

async fn speaks_amqp(mut stream: GuardedStream) {
    // SASL, as the protocol's header says.
    let mut header = *b"AMQP\x03\x01\x00\x00";
    stream.write_all(&header).await.unwrap();
    stream.flush().await.unwrap();
    header.fill(0);
    soon(stream.read_exact(&mut header)).await.unwrap();
    assert_eq!(&header, b"AMQP\x03\x01\x00\x00");
}

#[tokio::test]
async fn over_websocket_messages_go_and_come_and_links_live_on_with_a_new_token() {
    let local = local().await;
    let options = BusOptions { transport: Transport::WebSocket, ..options() };
    let tokens = TestTokens::new(&local, Holder::Root(TOPIC.to_owned()), HOUR);
    let bus = Bus::new(Arc::<TestTokens>::clone(&tokens), options.clone());
    let sender = soon(bus.sender()).await.unwrap();
    soon(sender.send(&messages(300))).await.unwrap();
    tokens.renew();
    let large =
        Message { body: Bytes::from(vec![b'x'; 900_000]), message_id: "large".to_owned(), ..Message::default() };
    soon(sender.send(&[large])).await.unwrap();

    let tokens = TestTokens::new(&local, Holder::Tenant("acme".to_owned()), HOUR);
    let receiving = Bus::new(tokens, options);
    let mut receiver = soon(receiving.receiver(ReceiverOptions::default())).await.unwrap();
    receiver.add_credit(400).await.unwrap();
    let deliveries = soon(take(&mut receiver, 301)).await;
    soon(receiver.settle(&tags(&deliveries), &Settlement::Complete)).await.unwrap();
    let longest = deliveries.iter().filter_map(|delivery| delivery.body.as_ref()).map(Bytes::len).max();
    assert_eq!(longest, Some(900_000));
    bus.close().await;
    receiving.close().await;
    assert_eq!(counts(local.broker(), ACME).totals.completed, 301);
}

#[tokio::test]
async fn where_amqps_port_is_closed_or_silent_the_bus_is_reached_over_websocket_and_the_way_is_remembered() {
    let local = local().await;
    let (port, authority, _tasks) = tls_in_front_of(local.ports().amqp).await;
    let (_directory, options) = trusting(&authority);
    let options = BusOptions { call_timeout: Duration::from_secs(6), ..options };
    // Accepts (in the system's queue) and never answers: what a firewall that drops looks like, and slower than a closed port.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let proxies = no_proxy();
    let go = async |port: u16, web_port: u16, last: Option<Route>| {
        soon(route::connect(&address("localhost", port, web_port), &options, &proxies, last)).await
    };
    let (stream, _guard, route) = go(silent_port, port, None).await.unwrap();
    assert_eq!(route, Route::WebSocket);
    speaks_amqp(stream).await;
    silent.accept().await.unwrap();

    go(silent_port, port, Some(route)).await.unwrap();
    let asked_again = timeout(Duration::from_millis(50), silent.accept()).await;
    assert!(asked_again.is_err(), "the silent port was tried first again");

    drop(silent);
    let closed_port = silent_port;
    assert_eq!(go(closed_port, port, None).await.unwrap().2, Route::WebSocket);
    assert_eq!(go(port, closed_port, Some(Route::WebSocket)).await.unwrap().2, Route::Amqp, "and back again");
    let text = go(closed_port, closed_port, None).await.unwrap_err().to_string();
    assert!(text.contains("AMQP on port") && text.contains("WebSocket on port"), "{text}");
}

#[tokio::test]
async fn through_a_proxy_the_namespace_is_reached_by_its_name_and_the_proxy_sees_no_token() {
    let local = local().await;
    let (port, authority, _tasks) = tls_in_front_of(local.ports().amqp).await;
    let (_directory, options) = trusting(&authority);
    let (settings, heads, _proxy) = proxy(port, None).await;
    for (transport, expected, port) in [
        (Transport::Auto, Route::WebSocket, 443),
        (Transport::WebSocket, Route::WebSocket, 443),
        (Transport::Amqp, Route::Amqp, 5671),
    ] {
        let options = BusOptions { transport, ..options.clone() };
        let address = Address::of(&format!("sb://{NAMESPACE}").parse().unwrap()).unwrap();
        let (stream, _guard, route) = soon(route::connect(&address, &options, &settings, None)).await.unwrap();
        assert_eq!(route, expected);
        speaks_amqp(stream).await;
        let head = heads.lock().unwrap().pop().unwrap();
        assert!(head.starts_with(&format!("CONNECT {NAMESPACE}:{port} HTTP/1.1\r\n")), "{head}");
        assert!(head.to_ascii_lowercase().contains("proxy-authorization: basic "), "{head}");
    }
}

#[tokio::test]
async fn what_a_proxy_answers_is_told_with_what_helps_and_without_its_password() {
    let address = Address::of(&format!("sb://{NAMESPACE}").parse().unwrap()).unwrap();
    for (answer, says) in [
        ("HTTP/1.1 407 Proxy Authentication Required\r\ncontent-length: 0\r\n\r\n", "user and password"),
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n", "allow this address"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "the proxy 127.0.0.1"),
    ] {
        let (settings, _heads, _proxy) = proxy(1, Some(answer)).await;
        let error = soon(route::connect(&address, &options(), &settings, None)).await.unwrap_err();
        assert!(matches!(error, BusError::Connect { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(says) && text.contains(NAMESPACE) && !text.contains("TOPSECRET"), "{text}");
    }
}
