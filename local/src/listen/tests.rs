//! Clients that are silent, slow or many, over real sockets. Where patience is the matter, time is paused.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use super::*;
use crate::{
    Local,
    fault::{Service, Step, What, When, Whose},
};

/// Less than any patience: who is served within it did not wait for a silent client to be given up.
const PROMPT: Duration = Duration::from_secs(20);
const REQUEST: &str = "GET /faults HTTP/1.1\r\nhost: localhost\r\n\r\n";

async fn connect(port: u16) -> TcpStream {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap()
}

async fn say(client: &mut TcpStream, text: &str) {
    client.write_all(text.as_bytes()).await.unwrap();
}

/// The head and what came of the body with it.
async fn hear(client: &mut TcpStream) -> String {
    let mut bytes = vec![0; 65_536];
    let read = client.read(&mut bytes).await.unwrap();
    String::from_utf8(bytes[..read].to_vec()).unwrap()
}

/// What comes until the end, be it a close or a reset, and when that was.
async fn until_the_end(client: &mut TcpStream) -> (String, Duration) {
    let began = Instant::now();
    let mut bytes = Vec::new();
    // A reset is an end too.
    drop(client.read_to_end(&mut bytes).await);
    (String::from_utf8(bytes).unwrap(), began.elapsed())
}

#[tokio::test]
async fn a_thousand_silent_sockets_keep_nobody_from_being_served() {
    let local = Local::builder().start().await.unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let ports = local.ports();
    for port in [ports.admin, ports.tenant, ports.blob] {
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            silent.push(connect(port).await);
        }
        for _ in 0..3 {
            let asked = http.get(format!("http://127.0.0.1:{port}/")).header("connection", "close").send();
            assert!(timeout(PROMPT, asked).await.unwrap_or_else(|_| panic!("{port} is silent")).is_ok());
        }
    }
    local.stop().await;
}

#[tokio::test]
async fn a_full_house_takes_the_place_of_who_has_waited_longest_and_never_that_of_a_request_under_way() {
    let local = Local::builder().start().await.unwrap();
    local.faults().install([Step::new(When::Grant { tenant: None }, What::Delay(Duration::from_secs(2)))]).unwrap();
    let ready = local.ready_file();
    let url = format!("{}{}", ready.tenant_url, waybill_contracts::TEMPORARY_ENDPOINTS_PATH);
    let asked = reqwest::Client::builder().no_proxy().build().unwrap().get(url).bearer_auth(&ready.bearer_token).send();
    let flood = async {
        local.faults().wait_for(1).await;
        let mut first = connect(local.ports().tenant).await;
        let mut others = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            others.push(connect(local.ports().tenant).await);
        }
        assert_eq!(timeout(PROMPT, until_the_end(&mut first)).await.unwrap().0, "");
    };
    let (answer, ()) = tokio::join!(asked, flood);
    assert_eq!(answer.unwrap().status(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_no_whole_head_is_given_up_after_half_a_minute() {
    let local = Local::builder().start().await.unwrap();
    let mut silent = connect(local.ports().admin).await;
    let (said, after) = until_the_end(&mut silent).await;
    assert_eq!(said, "");
    assert!((30..31).contains(&after.as_secs()), "{after:?}");

    let mut slow = connect(local.ports().admin).await;
    let (mut reader, mut writer) = slow.split();
    let trickle = async {
        say_slowly(&mut writer, "GET /faults HTTP/1.1\r\nhost: loc").await;
        std::future::pending::<()>().await;
    };
    let began = Instant::now();
    let mut rest = Vec::new();
    tokio::select! {
        ended = reader.read_to_end(&mut rest) => drop(ended),
        () = trickle => {}
    }
    assert!((30..50).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn over_tls_who_falls_silent_before_within_or_after_the_handshake_is_given_up_as_soon() {
    let local = Local::builder().tls().start().await.unwrap();
    for first in [&b""[..], b"\x16\x03\x01\x02\x00"] {
        let mut client = connect(local.ports().blob).await;
        client.write_all(first).await.unwrap();
        let (said, after) = until_the_end(&mut client).await;
        assert_eq!(said, "");
        assert!((30..32).contains(&after.as_secs()), "{after:?}");
    }
    let authority = std::fs::read_to_string(local.ready_file().ca_file.as_ref().unwrap()).unwrap();
    let tcp = connect(local.ports().blob).await;
    let mut client =
        crate::tls::test_connector(&authority).connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    let began = Instant::now();
    client.write_all(b"GET /devstoreaccount1 HTTP/1.1\r\nhost: loc").await.unwrap();
    client.flush().await.unwrap();
    // A reset is an end too.
    drop(client.read_to_end(&mut Vec::new()).await);
    assert!((29..32).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

/// A byte each five seconds, as long as somebody takes them.
async fn say_slowly(client: &mut (impl tokio::io::AsyncWrite + Unpin), text: &str) {
    for byte in text.bytes() {
        sleep(Duration::from_secs(5)).await;
        if client.write_all(&[byte]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_waits_two_minutes_for_its_next_request() {
    let local = Local::builder().start().await.unwrap();
    let mut client = connect(local.ports().admin).await;
    for _ in 0..2 {
        say(&mut client, REQUEST).await;
        assert!(hear(&mut client).await.starts_with("HTTP/1.1 200"));
        sleep(Duration::from_secs(110)).await;
    }
    let (said, after) = until_the_end(&mut client).await;
    assert_eq!(said, "");
    assert!((10..12).contains(&after.as_secs()), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_comes_too_slowly_is_refused_and_one_that_pauses_is_taken() {
    let local = Local::builder().start().await.unwrap();
    let head = "POST /faults HTTP/1.1\r\nhost: localhost\r\ncontent-length: 13\r\n\r\n";
    let mut stuck = connect(local.ports().admin).await;
    say(&mut stuck, &format!("{head}{{\"fau")).await;
    let (said, after) = until_the_end(&mut stuck).await;
    assert!(said.starts_with("HTTP/1.1 400") && said.contains("too slowly"), "{said}");
    assert!((30..32).contains(&after.as_secs()), "{after:?}");

    let mut slow = connect(local.ports().admin).await;
    say(&mut slow, head).await;
    let (mut reader, mut writer) = slow.split();
    let mut said = Vec::new();
    let began = Instant::now();
    tokio::join!(async { drop(reader.read_to_end(&mut said).await) }, say_slowly(&mut writer, "{\"faults\":[]}"));
    assert!(String::from_utf8_lossy(&said).contains("too slowly"));
    assert!((30..70).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());

    let mut pausing = connect(local.ports().admin).await;
    say(&mut pausing, &format!("{head}{{\"fau")).await;
    sleep(Duration::from_secs(20)).await;
    say(&mut pausing, "lts\":[]}").await;
    assert!(hear(&mut pausing).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn what_a_script_swallows_stays_open_until_its_client_gives_up() {
    let local = Local::builder().start().await.unwrap();
    let mut client = connect(local.ports().tenant).await;
    let lasts = Duration::from_secs(1);
    local
        .faults()
        .install([Step::new(When::Now, What::Blackhole { whose: Whose::Service(Service::Tenant), lasts })])
        .unwrap();
    say(&mut client, REQUEST).await;
    let heard = timeout(Duration::from_secs(3600), until_the_end(&mut client)).await;
    assert!(heard.is_err(), "{heard:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_is_given_up_after_ten_minutes() {
    let local = Local::builder().start().await.unwrap();
    let expires_at = time::OffsetDateTime::now_utc().unix_timestamp() + 36_000;
    let sas = local.keys().account_sas("rwc", expires_at);
    let blob = |method: &str, headers: &str| {
        format!("{method} /devstoreaccount1/batchtoprocess/big?{sas} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n")
    };
    let mut client = connect(local.ports().blob).await;
    let size = 64 << 20;
    say(&mut client, &blob("PUT", &format!("x-ms-blob-type: BlockBlob\r\ncontent-length: {size}\r\n"))).await;
    client.write_all(&vec![b'x'; size]).await.unwrap();
    assert!(hear(&mut client).await.starts_with("HTTP/1.1 201"));

    for (pause, whole) in [(590, true), (610, false)] {
        let mut reader = connect(local.ports().blob).await;
        say(&mut reader, &blob("GET", "connection: close\r\n")).await;
        sleep(Duration::from_secs(pause)).await;
        let (said, _) = until_the_end(&mut reader).await;
        assert_eq!(said.len() > size, whole, "{} bytes after {pause} s", said.len());
    }
}

/// A put of a blob without a right to it.
fn refused_put(size: usize, headers: &str) -> String {
    format!(
        "PUT /devstoreaccount1/batchtoprocess/a HTTP/1.1\r\nhost: localhost\r\nx-ms-blob-type: BlockBlob\r\n\
         content-length: {size}\r\n{headers}\r\n"
    )
}

#[tokio::test]
async fn a_refused_upload_is_answered_before_its_body_is_there() {
    let local = Local::builder().start().await.unwrap();
    // It waits to be asked for its body, and is not.
    let mut asks = connect(local.ports().blob).await;
    say(&mut asks, &refused_put(100, "expect: 100-continue\r\n")).await;
    let (said, _) = timeout(PROMPT, until_the_end(&mut asks)).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 401") && said.contains("connection: close"), "{said}");

    // It never sends its body.
    let mut silent = connect(local.ports().blob).await;
    say(&mut silent, &refused_put(100, "")).await;
    let (said, after) = timeout(PROMPT, until_the_end(&mut silent)).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 401") && said.contains("connection: close"), "{said}");
    assert!(after < Duration::from_secs(10), "{after:?}");

    // It would overwrite what must not be.
    let sas = local.keys().account_sas("rwc", time::OffsetDateTime::now_utc().unix_timestamp() + 3_600);
    let allowed = |size: usize, headers: &str| refused_put(size, headers).replace("/a HTTP", &format!("/a?{sas} HTTP"));
    let mut first = connect(local.ports().blob).await;
    say(&mut first, &(allowed(1, "if-none-match: *\r\n") + "x")).await;
    assert!(timeout(PROMPT, hear(&mut first)).await.unwrap().starts_with("HTTP/1.1 201"));
    let mut second = connect(local.ports().blob).await;
    say(&mut second, &allowed(100, "if-none-match: *\r\nexpect: 100-continue\r\n")).await;
    let (said, _) = timeout(PROMPT, until_the_end(&mut second)).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 409") && said.contains("BlobAlreadyExists"), "{said}");

    // It declares more than a blob can have.
    let mut large = connect(local.ports().blob).await;
    say(&mut large, &allowed(1 << 40, "")).await;
    let (said, _) = timeout(PROMPT, until_the_end(&mut large)).await.unwrap();
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
}

#[tokio::test]
async fn a_client_that_sends_a_large_body_all_the_same_sees_the_refusal_at_the_end_of_it() {
    let local = Local::builder().start().await.unwrap();
    for size in [2 << 20, 64 << 20] {
        let mut client = connect(local.ports().blob).await;
        say(&mut client, &refused_put(size, "")).await;
        for piece in vec![b'x'; size].chunks(1 << 20) {
            client.write_all(piece).await.unwrap();
        }
        let (said, _) = timeout(PROMPT, until_the_end(&mut client)).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 401"), "{said}");
    }
}

#[tokio::test]
async fn a_body_that_nobody_asked_for_is_read_away_behind_the_answer() {
    let local = Local::builder().start().await.unwrap();
    let sas = local.keys().account_sas("rl", time::OffsetDateTime::now_utc().unix_timestamp() + 3_600);
    let path = format!("/devstoreaccount1/batchtoprocess?restype=container&comp=list&{sas}");
    for (size, closes) in [(1_000, false), (8 << 20, true)] {
        let mut client = connect(local.ports().blob).await;
        say(&mut client, &format!("GET {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n")).await;
        client.write_all(&vec![b'x'; size]).await.unwrap();
        let said = timeout(PROMPT, hear(&mut client)).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
        assert_eq!(said.contains("connection: close"), closes, "{said}");
    }
}

#[tokio::test]
async fn every_endpoint_answers_before_a_body_that_it_does_not_want_and_lets_its_client_see_it() {
    let local = Local::builder().start().await.unwrap();
    let ports = local.ports();
    for (port, path) in [(ports.tenant, "/nowhere"), (ports.admin, "/nowhere"), (ports.blob, "/nobody/nothing")] {
        let mut client = connect(port).await;
        let size = 8 << 20;
        say(&mut client, &format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}\r\n\r\n")).await;
        client.write_all(&vec![b'x'; size]).await.unwrap();
        let (said, _) = timeout(PROMPT, until_the_end(&mut client)).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 40") && said.contains("connection: close"), "{port}: {said}");
    }
}

#[tokio::test]
async fn after_a_small_refused_upload_the_connection_serves_the_next_request() {
    let local = Local::builder().start().await.unwrap();
    let mut client = connect(local.ports().blob).await;
    for _ in 0..3 {
        say(&mut client, &refused_put(1_000, "")).await;
        client.write_all(&[b'x'; 1_000]).await.unwrap();
        let said = timeout(PROMPT, hear(&mut client)).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 401") && !said.contains("connection: close"), "{said}");
    }
}

/// Refuses every request, and does not look at its body.
struct Refuses;

impl Handler for Refuses {
    async fn handle(&self, _: Request<&mut Upload>, _: &Line) -> Response<Body> {
        let mut response = Response::new(full("no"));
        *response.status_mut() = StatusCode::FORBIDDEN;
        response
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_on_sending_after_its_refusal_is_cut_off_in_the_end() {
    let (lines, stop) = (Arc::<Lines>::default(), CancellationToken::new());
    let listener = bind(0).await.unwrap();
    let mut client = connect(listener.local_addr().unwrap().port()).await;
    let mut serving = JoinSet::new();
    serving.spawn(serve(listener, Door::Plain, Arc::new(Refuses), Arc::clone(&lines), stop.clone()));
    say(&mut client, &refused_put(1 << 30, "expect: 100-continue\r\n")).await;
    let began = Instant::now();
    let (said, _) = until_the_end(&mut client).await;
    assert!(said.starts_with("HTTP/1.1 403"), "{said}");
    while lines.count() > 0 {
        // Whether it still gets through is not the matter.
        drop(client.write_all(b"x").await);
        sleep(Duration::from_secs(1)).await;
    }
    assert!((30..33).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    stop.cancel();
    while let Some(ended) = serving.join_next().await {
        ended.unwrap();
    }
}
