use std::{path::PathBuf, sync::Arc, time::Instant};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::peer::{End, Peer, Reply};

const DEADLINE: Duration = Duration::from_secs(10);

fn client() -> HttpClient {
    HttpClient::new(&HttpOptions::default()).unwrap()
}

fn url(peer: &Peer, rest: &str) -> Url {
    Url::parse(&format!("http://127.0.0.1:{}{rest}", peer.port())).unwrap()
}

async fn get(client: &HttpClient, url: &Url) -> Result<Answer, HttpError> {
    client.get_json(url, &Secret::new("TOPSECRET"), DEADLINE, 1000).await
}

#[tokio::test]
async fn one_get_carries_the_bearer_token_and_brings_any_status() {
    let peer = Peer::start(|number, _| match number {
        0 => Reply { body: b"{\"a\":1}".to_vec(), ..Reply::new(200) },
        _ => Reply { body: b"{}".to_vec(), ..Reply::new(503).with("Retry-After", "7") },
    })
    .await;
    let client = client();
    let answer = get(&client, &url(&peer, "/api?x=1")).await.unwrap();
    assert_eq!((answer.status, answer.retry_after, &answer.body[..]), (200, None, &b"{\"a\":1}"[..]));
    let answer = get(&client, &url(&peer, "/api?x=1")).await.unwrap();
    assert_eq!((answer.status, answer.retry_after), (503, Some(Duration::from_secs(7))));
    for seen in peer.seen() {
        assert_eq!((seen.method.as_str(), seen.path.as_str(), seen.query.as_str()), ("GET", "/api", "x=1"));
        assert_eq!(seen.header("authorization"), Some("Bearer TOPSECRET"));
        assert_eq!(seen.header("accept"), Some("application/json"));
        for unwanted in ["referer", "accept-encoding", "cookie"] {
            assert_eq!(seen.header(unwanted), None, "{unwanted}");
        }
    }
}

#[tokio::test]
async fn an_answer_longer_than_the_limit_is_refused_however_it_is_framed() {
    let peer =
        Peer::start(|number, _| Reply { body: vec![b' '; 1001 - number % 2], chunked: number > 1, ..Reply::new(200) });
    let (peer, client) = (peer.await, client());
    for fits in [false, true, false, true] {
        match get(&client, &url(&peer, "/")).await {
            Ok(answer) => assert!(fits && answer.body.len() == 1000),
            Err(error) => assert!(!fits && matches!(error, HttpError::TooLong { limit: 1000, .. }), "{error}"),
        }
    }
}

#[tokio::test]
async fn the_deadline_is_for_the_whole_exchange() {
    let peer =
        Peer::start(|number, _| Reply { body: vec![b' '; 100], ..Reply::new(200) }.ending(End::Stall(number * 50)))
            .await;
    let (client, begun) = (client(), Instant::now());
    for _ in 0..2 {
        let short = Duration::from_millis(50);
        let error = client.get_json(&url(&peer, "/"), &Secret::new("x"), short, 1000).await.unwrap_err();
        assert!(matches!(error, HttpError::NoAnswer { .. }), "{error}");
    }
    assert!(begun.elapsed() < DEADLINE);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_the_token_goes_nowhere_else() {
    let elsewhere = Peer::start(|_, _| Reply::new(200)).await;
    let location = url(&elsewhere, "/").to_string();
    let peer = Peer::start(move |_, _| Reply::new(302).with("Location", location.as_str())).await;
    assert_eq!(get(&client(), &url(&peer, "/")).await.unwrap().status, 302);
    assert!(elsewhere.seen().is_empty());
}

#[tokio::test]
async fn a_token_is_not_sent_over_plain_http_to_another_machine() {
    let error = get(&client(), &Url::parse("http://192.0.2.1/grants?code=TOPSECRET").unwrap()).await.unwrap_err();
    assert!(matches!(error, HttpError::Plain { .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "GET http://192.0.2.1/grants: a token goes over https only (over http to this machine alone); correct the address"
    );
}

#[tokio::test]
async fn localhost_is_this_machine_without_asking_a_resolver() {
    let peer = Peer::start(|_, _| Reply::new(200)).await;
    let url = Url::parse(&format!("http://localhost:{}/a", peer.port())).unwrap();
    assert_eq!(get(&client(), &url).await.unwrap().status, 200);
    let seen = &peer.seen()[0];
    assert_eq!((seen.path.as_str(), seen.header("host")), ("/a", Some(format!("localhost:{}", peer.port()).as_str())));
}

#[tokio::test]
async fn no_error_shows_a_query_a_password_or_the_token() {
    let peer = Peer::start(|_, _| Reply::new(200).ending(End::Reset)).await;
    let dead = Peer::start(|_, _| Reply::new(200)).await;
    let dead_url = url(&dead, "/a?sig=TOPSECRET#TOPSECRET");
    drop(dead);
    let mut with_user = url(&peer, "/a?sig=TOPSECRET");
    with_user.set_username("TOPSECRET").unwrap();
    with_user.set_password(Some("TOPSECRET")).unwrap();
    let nowhere = Url::parse("https://nowhere.invalid/a?sig=TOPSECRET").unwrap();
    for url in [url(&peer, "/a?sig=TOPSECRET"), dead_url, with_user, nowhere] {
        let error = get(&client(), &url).await.unwrap_err();
        assert!(error.to_string().contains("/a: "), "{error}");
        assert!(!format!("{error} {error:?}").contains("TOPSECRET"), "{error:?}");
    }
    let broken = Secret::new("TOPSECRET\n");
    let error = client().get_json(&url(&peer, "/"), &broken, DEADLINE, 10).await.unwrap_err();
    assert!(matches!(error, HttpError::Setup(_)), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("TOPSECRET"), "{error:?}");
}

#[test]
fn retry_after_is_read_as_seconds_or_as_a_date_by_the_servers_own_clock() {
    let date = Some("Sun, 22 Nov 2026 10:00:00 GMT");
    for (value, expected) in [
        ("0", Some(0)),
        (" 120 ", Some(120)),
        ("Sun, 22 Nov 2026 10:01:30 GMT", Some(90)),
        ("Sun, 22 Nov 2026 09:00:00 GMT", Some(0)),
        ("-1", None),
        ("soon", None),
        ("", None),
    ] {
        assert_eq!(retry_after(Some(value), date), expected.map(Duration::from_secs), "{value}");
    }
    assert_eq!(retry_after(None, date), None);
    // Without the server's clock, ours: the year 2000 is over.
    assert_eq!(retry_after(Some("Sat, 01 Jan 2000 00:00:00 GMT"), None), Some(Duration::ZERO));
}

/// A certificate authority's PEM and a server that it vouches for.
fn certified() -> (String, TlsAcceptor) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let certificate = authority.self_signed(&authority_key).unwrap();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["127.0.0.1".to_owned(), "storage.invalid".to_owned()];
    let server = rcgen::CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![server.der().clone()], key)
        .unwrap();
    (certificate.pem(), TlsAcceptor::from(Arc::new(config)))
}

fn with_authority(directory: &tempfile::TempDir, pem: &str) -> HttpOptions {
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, pem).unwrap();
    HttpOptions { ca_file: Some(file), ..Default::default() }
}

#[tokio::test]
async fn an_extra_authority_is_trusted_and_without_it_the_connection_is_refused() {
    let (pem, tls) = certified();
    let peer = Peer::start_tls(tls, |_, _| Reply::new(200)).await;
    let url = Url::parse(&format!("https://127.0.0.1:{}/", peer.port())).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let client_with_ca = HttpClient::new(&with_authority(&directory, &pem)).unwrap();
    assert_eq!(get(&client_with_ca, &url).await.unwrap().status, 200);
    let error = get(&client(), &url).await.unwrap_err();
    assert!(error.to_string().contains("cannot connect: invalid peer certificate"), "{error}");
    assert_eq!(peer.seen().len(), 1);
}

#[test]
fn a_ca_file_that_cannot_be_used_is_named() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (options, problem) in [
        (HttpOptions { ca_file: Some(PathBuf::from("/nowhere/ca.pem")), ..Default::default() }, "No such file"),
        (with_authority(&first, "DER or something"), "there is no certificate in it"),
        (with_authority(&second, "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), "damaged"),
    ] {
        let error = HttpClient::new(&options).unwrap_err().to_string();
        assert!(error.contains("ca.pem") && error.contains(problem), "{error}");
    }
}

fn proxy_of(variables: &[(&str, &str)]) -> ProxySettings {
    ProxySettings::read(|name| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
}

/// A proxy that refuses what it is asked, and its address.
async fn refusing_proxy() -> (Peer, String) {
    let peer = Peer::start(|_, _| Reply::new(403)).await;
    let address = format!("http://user:TOPSECRET@127.0.0.1:{}", peer.port());
    (peer, address)
}

#[tokio::test]
async fn https_goes_through_the_proxy_by_connect_and_the_proxy_sees_no_token() {
    let (seen_by, address) = refusing_proxy().await;
    let proxy = proxy_of(&[("https_proxy", &address)]);
    let client = HttpClient::build(&HttpOptions::default(), &proxy).unwrap();
    let storage = Url::parse("https://storage.invalid/a?sig=TOPSECRET").unwrap();
    let error = get(&client, &storage).await.unwrap_err();
    assert!(!format!("{error:?} {client:?}").contains("TOPSECRET"), "{error:?} {client:?}");
    let seen = seen_by.seen();
    assert_eq!((seen[0].method.as_str(), seen[0].path.as_str()), ("CONNECT", "storage.invalid:443"));
    assert_eq!((seen[0].header("authorization"), seen.len()), (None, 1));
    assert!(seen[0].header("proxy-authorization").is_some());
}

#[tokio::test]
async fn what_a_proxy_hinders_names_it_with_what_helps_and_no_password() {
    let there = Url::parse("https://storage.invalid/a?sig=TOPSECRET").unwrap();
    let wants_password = Peer::start(|_, _| Reply::new(407)).await;
    let refuses = Peer::start(|_, _| Reply::new(403)).await;
    let hangs_up = Peer::start(|_, _| Reply::new(200).ending(End::Reset)).await;
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let (pem, tls) = certified();
    let no_proxy = Peer::start_tls(tls, |_, _| Reply::new(200)).await;
    let directory = tempfile::tempdir().unwrap();
    for (port, by_request, by_trial) in [
        (
            wants_password.port(),
            "answered 407 Proxy Authentication Required to CONNECT storage.invalid:443; give user and password in the proxy's URL",
            "answered 407 Proxy Authentication Required to CONNECT storage.invalid:443; give user and password in the proxy's URL",
        ),
        (
            refuses.port(),
            "(HTTPS_PROXY) opened no tunnel to storage.invalid:443; ask those who run it to allow this address",
            "answered 403 Forbidden to CONNECT storage.invalid:443; ask those who run it to allow this address",
        ),
        (nobody, "(HTTPS_PROXY): cannot connect: Connection refused", "(HTTPS_PROXY): Connection refused"),
        (hangs_up.port(), "; correct the variable, or name hosts", "; correct the variable, or name hosts"),
        (no_proxy.port(), "or correct the variable if no HTTP proxy is there", "; correct the variable, or name hosts"),
    ] {
        let address = format!("http://user:TOPSECRET@127.0.0.1:{port}");
        let proxies = proxy_of(&[("HTTPS_PROXY", &address)]);
        let options = with_authority(&directory, &pem);
        let client = HttpClient::build(&options, &proxies).unwrap();
        let request = reqwest::Request::new(reqwest::Method::GET, there.clone());
        let tried = try_proxy_of(&proxies, &there, options.ca_file.as_deref(), DEADLINE).await.unwrap_err();
        for (error, wanted) in [
            (get(&client, &there).await.unwrap_err().to_string(), by_request),
            (client.clock_of(&there, DEADLINE).await.unwrap_err().to_string(), by_request),
            (client.send(request, DEADLINE).await.unwrap_err().to_string(), by_request),
            (tried, by_trial),
        ] {
            assert!(error.contains(&format!("the proxy 127.0.0.1:{port}")) && error.contains(wanted), "{error}");
            assert!(!error.contains("TOPSECRET"), "{error}");
        }
    }
    // A host that the proxy names and that no resolver knows.
    let typo = HttpClient::build(&HttpOptions::default(), &proxy_of(&[("all_proxy", "foo.invalid")])).unwrap();
    let error = get(&typo, &there).await.unwrap_err().to_string();
    assert!(error.contains("the proxy foo.invalid:80 (all_proxy): cannot connect: "), "{error}");
}

#[tokio::test]
async fn behind_a_tunnel_a_peer_of_an_unknown_authority_is_told_with_the_proxy() {
    let (_, tls) = certified();
    let peer = Peer::start_tls(tls, |_, _| Reply::new(200)).await;
    let (port, listener) = (peer.port(), tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    let proxy_port = listener.local_addr().unwrap().port();
    let tunnel = async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        loop {
            let (mut from, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(from.read_u8().await.unwrap());
            }
            from.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            let mut to = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            drop(tokio::io::copy_bidirectional(&mut from, &mut to).await);
        }
    };
    let proxies = proxy_of(&[("HTTPS_PROXY", &format!("127.0.0.1:{proxy_port}"))]);
    let client = HttpClient::build(&HttpOptions::default(), &proxies).unwrap();
    let there = Url::parse("https://storage.invalid/").unwrap();
    let asking = async {
        let tried = try_proxy_of(&proxies, &there, None, DEADLINE).await;
        (get(&client, &there).await.unwrap_err().to_string(), tried)
    };
    let (error, tried) = tokio::select! {
        told = asking => told,
        () = tunnel => unreachable!("it accepts for ever"),
    };
    assert!(
        error.contains(&format!("by the proxy 127.0.0.1:{proxy_port}: cannot connect: invalid peer certificate")),
        "{error}"
    );
    assert!(error.ends_with("if the proxy opens TLS, name its authority in `ca_file`"), "{error}");
    assert_eq!(tried, Ok(Some(format!("127.0.0.1:{proxy_port}"))));
}

#[tokio::test]
async fn loopback_and_the_hosts_of_no_proxy_go_directly() {
    let (seen_by, address) = refusing_proxy().await;
    let (pem, tls) = certified();
    let directory = tempfile::tempdir().unwrap();
    let options = with_authority(&directory, &pem);
    let variables: [&[(&str, &str)]; 3] = [
        &[("HTTPS_PROXY", &address)],
        &[("ALL_PROXY", &address), ("HTTP_PROXY", &address)],
        &[("all_proxy", &address), ("NO_PROXY", "example.com, storage.invalid")],
    ];
    let plain = Peer::start(|_, _| Reply::new(200)).await;
    let encrypted = Peer::start_tls(tls, |_, _| Reply::new(200)).await;
    for variables in variables {
        let client = HttpClient::build(&options, &proxy_of(variables)).unwrap();
        assert_eq!(get(&client, &url(&plain, "/")).await.unwrap().status, 200);
        let local = Url::parse(&format!("https://127.0.0.1:{}/", encrypted.port())).unwrap();
        assert_eq!(get(&client, &local).await.unwrap().status, 200);
    }
    assert!(seen_by.seen().is_empty());
    let client = HttpClient::build(&options, &proxy_of(variables[2])).unwrap();
    get(&client, &Url::parse("https://storage.invalid/").unwrap()).await.unwrap_err();
    assert!(seen_by.seen().is_empty(), "excepted by NO_PROXY");
}

#[test]
fn a_proxy_variable_that_is_no_address_is_named_and_not_quoted() {
    let build = |variables: &[(&str, &str)]| HttpClient::build(&HttpOptions::default(), &proxy_of(variables));
    build(&[]).unwrap();
    build(&[("HTTPS_PROXY", " ")]).unwrap();
    let error = build(&[("HTTPS_PROXY", "http://user:TOPSECRET@:80:80")]).unwrap_err().to_string();
    assert_eq!(error, "http client: HTTPS_PROXY is not a proxy's URL (http://host:port)");
}
