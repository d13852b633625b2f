use std::time::Duration;

use reqwest::{Response, StatusCode};
use time::OffsetDateTime;
use tokio::{io::AsyncReadExt as _, io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use super::*;
use crate::{Local, amqp::message::Message, broker::Node, keys::EMULATOR_ACCOUNT};

fn nth(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

/// A process with one blob of 100,000 bytes, and a client with a tenant's token.
struct Setup {
    local: Local,
    http: reqwest::Client,
    body: Vec<u8>,
}

const LEN: usize = 100_000;

async fn setup() -> Setup {
    let local = Local::builder().tenants(["acme", "zenith"]).start().await.unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let body: Vec<u8> = (0..LEN).map(|index| (index % 251) as u8).collect();
    let setup = Setup { local, http, body: body.clone() };
    let sas = setup.local.keys().account_sas("rwdlc", setup.later());
    let put = setup.http.put(setup.url("data", &sas)).header("x-ms-blob-type", "BlockBlob").body(body).send().await;
    assert_eq!(put.unwrap().status(), 201);
    setup
}

impl Setup {
    fn later(&self) -> i64 {
        OffsetDateTime::now_utc().unix_timestamp() + 3600
    }

    fn url(&self, blob: &str, sas: &str) -> String {
        format!("http://127.0.0.1:{}/{EMULATOR_ACCOUNT}/batchtoprocess/{blob}?{sas}", self.local.ports().blob)
    }

    fn token(&self, tenant: &str) -> String {
        self.local.keys().container_token(tenant, "batchtoprocess", "r", self.later()).unwrap()
    }

    async fn get(&self, sas: &str, range: &str) -> reqwest::Result<Response> {
        let get = self.http.get(self.url("data", sas)).header("range", range).timeout(Duration::from_secs(30));
        get.send().await
    }

    /// The bytes that come before the body ends or breaks, and whether it broke.
    async fn read(&self, sas: &str, range: &str) -> (Vec<u8>, bool) {
        let mut response = self.get(sas, range).await.unwrap();
        assert_eq!(response.status(), 206);
        let mut got = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(more)) => got.extend_from_slice(&more),
                Ok(None) => return (got, false),
                Err(_) => return (got, true),
            }
        }
    }

    async fn grant(&self, tenant: usize) -> Response {
        let ready = self.local.ready_file();
        let url = format!("{}{}", ready.tenant_url, waybill_contracts::TEMPORARY_ENDPOINTS_PATH);
        self.http.get(url).bearer_auth(&ready.tenants[tenant].bearer_token).send().await.unwrap()
    }

    fn install(&self, step: Step) {
        self.local.faults().install([step]).unwrap();
    }
}

fn blob(number: u32) -> When {
    When::Blob(BlobRequests::default().nth(nth(number)))
}

#[tokio::test]
async fn a_body_is_cut_after_exactly_the_bytes_before_the_place() {
    let setup = setup().await;
    let sas = setup.token("acme");
    for (at, range, from) in [
        (0, "bytes=0-", 0),
        (1, "bytes=0-", 0),
        (50_000, "bytes=0-", 0),
        (99_999, "bytes=0-", 0),
        (70_000, "bytes=69999-80000", 69_999),
    ] {
        setup.install(Step::new(blob(1), What::Cut { at: CutAt::BlobByte(at), refuse_sas: false }));
        let (got, broke) = setup.read(&sas, range).await;
        let at = usize::try_from(at).unwrap();
        assert!(broke, "{at}");
        assert!(got == setup.body[from..at], "{at}: {} bytes", got.len());
        let (whole, broke) = setup.read(&sas, "bytes=0-").await;
        assert!(!broke && whole == setup.body, "the step fires once");
    }
}

#[tokio::test]
async fn a_cut_waits_for_the_request_that_covers_its_byte() {
    let setup = setup().await;
    let sas = setup.token("acme");
    setup.install(Step::new(blob(2), What::Cut { at: CutAt::BlobByte(1_500), refuse_sas: false }));
    for (range, cut) in [
        ("bytes=0-999", false),
        ("bytes=1501-1999", false),
        ("bytes=1000-1999", false),
        ("bytes=1000-1499", false),
        ("bytes=1400-1500", true),
        ("bytes=1400-1500", false),
    ] {
        assert_eq!(setup.read(&sas, range).await.1, cut, "{range}");
    }
    let log = setup.local.faults().log_lines();
    assert_eq!(log.len(), 1);
    assert_eq!((log[0].what.as_str(), log[0].on.as_str()), ("cut before byte 1500", "GetBlob data bytes 1400-1500"));
}

#[tokio::test]
async fn a_cut_can_count_the_bytes_of_the_response() {
    let setup = setup().await;
    let sas = setup.token("acme");
    let step = Step::new(blob(1), What::Cut { at: CutAt::BodyByte(10), refuse_sas: false });
    setup.install(step.times(nth(2)));
    assert_eq!(setup.read(&sas, "bytes=0-9").await, (setup.body[..10].to_vec(), false), "no byte left to cut");
    assert_eq!(setup.read(&sas, "bytes=100-200").await, (setup.body[100..110].to_vec(), true));
    assert_eq!(setup.read(&sas, "bytes=300-400").await, (setup.body[300..310].to_vec(), true));
    assert!(!setup.read(&sas, "bytes=300-400").await.1);
}

#[tokio::test]
async fn a_cut_can_kill_the_token_of_its_request_and_no_other() {
    let setup = setup().await;
    let (sas, other) = (setup.token("acme"), setup.token("zenith"));
    setup.install(Step::new(blob(1), What::Cut { at: CutAt::BlobByte(500), refuse_sas: true }));
    assert_eq!(setup.read(&sas, "bytes=0-").await, (setup.body[..500].to_vec(), true));
    let refused = setup.get(&sas, "bytes=500-").await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), refused.headers()["x-ms-error-code"].to_str().unwrap()),
        (403, "AuthenticationFailed")
    );
    assert_eq!(setup.read(&other, "bytes=500-").await, (setup.body[500..].to_vec(), false));
}

#[tokio::test]
async fn a_download_cut_at_twenty_places_can_be_put_together() {
    const PIECE: usize = 400_000;
    let setup = setup().await;
    let write = setup.local.keys().account_sas("rwc", setup.later());
    // Long enough to lie in a file and to fill the buffers on the way.
    let large: Vec<u8> = (0..20 * PIECE + 1).map(|index| (index % 249) as u8).collect();
    let put = setup.http.put(setup.url("large", &write)).header("x-ms-blob-type", "BlockBlob").body(large.clone());
    assert_eq!(put.send().await.unwrap().status(), 201);
    setup
        .local
        .faults()
        .install((1..=20).map(|place| {
            let at = CutAt::BlobByte((place * PIECE) as u64);
            Step::new(blob(1), What::Cut { at, refuse_sas: true })
        }))
        .unwrap();
    let (mut got, mut tokens) = (Vec::new(), 0);
    while got.len() < large.len() {
        // One more second of life makes it another token.
        tokens += 1;
        let sas = setup.local.keys().service_sas("batchtoprocess", None, "r", setup.later() + tokens);
        let mut response = setup
            .http
            .get(setup.url("large", &sas))
            .header("range", format!("bytes={}-", got.len()))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 206);
        while let Ok(Some(more)) = response.chunk().await {
            got.extend_from_slice(&more);
        }
        let refused = setup.get(&sas, "bytes=0-0").await.unwrap().status();
        assert_eq!(refused.as_u16(), if got.len() < large.len() { 403 } else { 206 });
    }
    assert!(got == large);
    assert_eq!((tokens, *setup.local.faults().fired().borrow()), (21, 20));
}

#[tokio::test]
async fn a_cut_that_its_client_did_not_wait_for_is_still_to_come() {
    let setup = setup().await;
    let sas = setup.local.keys().account_sas("rwc", setup.later());
    // More than all buffers on the way, so that the server cannot get to the place while nobody reads.
    let large = vec![7_u8; 64 << 20];
    let put = setup.http.put(setup.url("large", &sas)).header("x-ms-blob-type", "BlockBlob").body(large).send().await;
    assert_eq!(put.unwrap().status(), 201);
    setup.install(Step::new(blob(1), What::Cut { at: CutAt::BlobByte((64 << 20) - 1), refuse_sas: false }));
    let reading = setup.http.get(setup.url("large", &sas)).send().await.unwrap();
    assert_eq!(setup.local.faults().waiting(), 0, "it is promised to this request");
    drop(reading);
    timeout(Duration::from_secs(20), async {
        while setup.local.faults().waiting() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(*setup.local.faults().fired().borrow(), 0);
}

#[tokio::test]
async fn parallel_requests_share_out_the_firings_of_a_step() {
    let setup = setup().await;
    let sas = setup.token("acme");
    setup.install(Step::new(blob(3), What::Busy { retry_after: Duration::from_secs(7) }).times(nth(4)));
    let ask = async || setup.get(&sas, "bytes=0-0").await.unwrap().status();
    let statuses = futures::future::join_all((0..16).map(|_| ask())).await;
    let busy = statuses.iter().filter(|status| **status == StatusCode::SERVICE_UNAVAILABLE).count();
    assert_eq!((busy, statuses.len()), (4, 16), "{statuses:?}");
    assert_eq!(setup.local.faults().log_lines().len(), 4);
    assert_eq!(setup.local.stats().counted().blob_requests("GetBlob", 503), 4);
    assert_eq!(setup.local.stats().counted().blob_requests("GetBlob", 206), 12);
}

#[tokio::test]
async fn busy_tells_when_to_come_again() {
    let setup = setup().await;
    let sas = setup.token("acme");
    let when =
        When::Blob(BlobRequests { name_contains: Some("at".to_owned()), ..BlobRequests::of(BlobOperation::GetBlob) });
    setup.install(Step::new(when, What::Busy { retry_after: Duration::from_secs(7) }));
    let head = setup.http.head(setup.url("data", &sas)).send().await.unwrap();
    assert_eq!(head.status(), 200, "another operation");
    let busy = setup.get(&sas, "bytes=0-0").await.unwrap();
    assert_eq!((busy.status().as_u16(), busy.headers()["retry-after"].to_str().unwrap()), (503, "7"));
    assert_eq!(busy.headers()["x-ms-error-code"], "ServerBusy");
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 206);
}

#[tokio::test]
async fn a_reset_loses_the_request_and_only_its_connection() {
    let setup = setup().await;
    let sas = setup.token("acme");
    let mut idle = TcpStream::connect(("127.0.0.1", setup.local.ports().blob)).await.unwrap();
    setup.install(Step::new(blob(1), What::Reset { service: Service::Blob }));
    let mut stream = TcpStream::connect(("127.0.0.1", setup.local.ports().blob)).await.unwrap();
    let path = setup.url("data", &sas).split_once("/devstore").unwrap().1.to_owned();
    stream.write_all(format!("GET /devstore{path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let error = stream.read(&mut [0; 1]).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(setup.local.stats().counted().blob_requests("GetBlob", 0), 1);

    idle.write_all(format!("GET /devstore{path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut start = [0; 12];
    idle.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    setup.install(Step::new(When::Now, What::Reset { service: Service::Blob }));
    let mut rest = Vec::new();
    let ended = idle.read_to_end(&mut rest).await;
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset, "all connections, the idle ones too");
}

#[tokio::test]
async fn a_request_to_one_service_can_reset_the_connections_of_another() {
    let setup = setup().await;
    let mut idle = TcpStream::connect(("127.0.0.1", setup.local.ports().blob)).await.unwrap();
    // Its first answer shows that the server knows the connection.
    idle.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    idle.read_exact(&mut [0; 12]).await.unwrap();
    let when = When::Grant { tenant: None, nth: nth(1) };
    setup.install(Step::new(when, What::Reset { service: Service::Blob }));
    assert_eq!(setup.grant(0).await.status(), 200, "its own connection is left alone");
    let error = idle.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

    setup.install(Step::from_toml("[[faults]]\non = \"grant\"\ndo = \"reset\"").unwrap().remove(0));
    let ready = setup.local.ready_file();
    let url = format!("{}{}", ready.tenant_url, waybill_contracts::TEMPORARY_ENDPOINTS_PATH);
    let reset = reqwest::Client::builder().no_proxy().build().unwrap().get(url).bearer_auth(&ready.bearer_token);
    assert!(reset.send().await.is_err());
    assert_eq!(setup.local.stats().grants("acme").issued, 1);
}

#[tokio::test]
async fn a_rotation_at_a_request_hits_that_request() {
    let setup = setup().await;
    let (sas, other) = (setup.token("acme"), setup.token("zenith"));
    setup.install(Step::new(blob(2), What::Rotate { tenant: Some("acme".to_owned()) }));
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 206);
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 403);
    assert_eq!(setup.get(&other, "bytes=0-0").await.unwrap().status(), 206);
    assert_eq!(setup.get(&setup.token("acme"), "bytes=0-0").await.unwrap().status(), 206);
}

#[tokio::test]
async fn a_refused_token_is_refused_in_the_request_that_fires_it() {
    let setup = setup().await;
    let sas = setup.token("acme");
    setup.install(Step::new(blob(2), What::RefuseSas));
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 206);
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 403);
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 403);
}

#[tokio::test]
async fn a_service_that_is_down_says_so_until_it_is_up() {
    let setup = setup().await;
    let sas = setup.token("acme");
    let down = |service, lasts| Step::new(When::Now, What::Down { service, lasts });
    setup.install(down(Service::Blob, Duration::from_secs(3600)));
    setup.install(down(Service::Tenant, Duration::from_secs(3600)));
    let busy = setup.get(&sas, "bytes=0-0").await.unwrap();
    assert_eq!((busy.status().as_u16(), busy.headers()["retry-after"].to_str().unwrap()), (503, "3600"));
    assert_eq!(setup.grant(0).await.status(), 503);
    let counts = setup.local.stats().grants("acme");
    assert_eq!((counts.requests, counts.issued), (1, 0));
    setup.local.faults().clear();
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 206);
    assert_eq!(setup.grant(0).await.status(), 200);
    // An outage that ends by itself.
    setup.install(down(Service::Tenant, Duration::from_millis(50)));
    assert_eq!(setup.grant(0).await.status(), 503);
    timeout(Duration::from_secs(20), async { while setup.grant(0).await.status() != 200 {} }).await.unwrap();
}

#[tokio::test]
async fn grants_of_one_tenant_can_fail_while_the_others_work() {
    let setup = setup().await;
    let when = When::Grant { tenant: Some("acme".to_owned()), nth: nth(2) };
    setup.install(Step::new(when, What::Busy { retry_after: Duration::from_secs(1) }));
    let statuses = async |tenant| {
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(setup.grant(tenant).await.status().as_u16());
        }
        statuses
    };
    assert_eq!(statuses(1).await, [200, 200, 200]);
    assert_eq!(statuses(0).await, [200, 503, 200]);
}

#[tokio::test]
async fn a_delayed_request_waits_and_others_do_not() {
    let setup = setup().await;
    let sas = setup.token("acme");
    setup.install(Step::new(blob(1), What::Delay(Duration::from_millis(300))));
    let started = tokio::time::Instant::now();
    let delayed = setup.get(&sas, "bytes=0-0");
    let delayed = async { (delayed.await.unwrap().status(), started.elapsed()) };
    let other = async {
        setup.local.faults().wait_for(1).await;
        setup.get(&sas, "bytes=0-0").await.unwrap().status();
        started.elapsed()
    };
    let ((status, late), soon) = tokio::join!(delayed, other);
    assert_eq!(status, 206);
    assert!(late >= Duration::from_millis(300) && soon < late, "{late:?} {soon:?}");
}

#[tokio::test]
async fn a_timed_step_fires_by_itself_and_can_be_awaited() {
    let setup = setup().await;
    let sas = setup.token("acme");
    let mut watch = setup.local.faults().fired();
    let rotate = || What::Rotate { tenant: None };
    setup.install(Step::new(When::After(Duration::from_secs(3600)), rotate()));
    setup.install(Step::new(When::After(Duration::from_millis(20)), rotate()));
    timeout(Duration::from_secs(20), watch.wait_for(|fired| *fired == 1)).await.unwrap().unwrap();
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 403);
    let log = setup.local.faults().log_lines();
    let expected = Fired { number: 1, step: 1, what: "rotate all tenants".to_owned(), on: "its time".to_owned() };
    assert_eq!((log, setup.local.faults().waiting()), (vec![expected], 1));
}

#[tokio::test]
async fn messages_on_the_bus_fire_a_step_by_their_number() {
    let setup = setup().await;
    let entity = "exports/subscriptions/acme".to_owned();
    let broker = setup.local.broker();
    let Some(Node::Subscription(subscription, _)) = broker.node(&entity) else { panic!("no {entity}") };
    let send = |count: usize| {
        // One data section of one byte.
        let message = Arc::new(Message::read(&[0x00, 0x53, 0x75, 0xa0, 1, b'x']).unwrap());
        subscription.push(&vec![message; count], broker.now());
    };
    send(5);
    let when = When::Bus { event: BusEvent::Enqueued, entity: entity.clone(), nth: nth(3) };
    setup.install(Step::new(when, What::DeliverTwice { entity, messages: nth(1) }).times(nth(3)));
    send(2);
    setup.install(Step::new(When::Now, What::ExpireLocks { entity: "exports/subscriptions/acme".to_owned() }));
    assert_eq!(*setup.local.faults().fired().borrow(), 1, "what was there before does not count");
    send(1);
    timeout(Duration::from_secs(20), setup.local.faults().wait_for(2)).await.unwrap();
    send(6);
    timeout(Duration::from_secs(20), setup.local.faults().wait_for(4)).await.unwrap();
    send(9);
    assert_eq!(setup.local.faults().waiting(), 0);
    let log = setup.local.faults().log_lines();
    let on: Vec<&str> = log.iter().map(|line| line.on.as_str()).collect();
    let sent = "enqueued exports/subscriptions/acme";
    assert_eq!(on, ["its installation", sent, sent, sent]);
    assert_eq!(log[3].what, "deliver 1 of exports/subscriptions/acme twice");
}

#[tokio::test]
async fn cleared_steps_never_fire() {
    let setup = setup().await;
    let sas = setup.token("acme");
    setup.install(Step::new(blob(1), What::Busy { retry_after: Duration::from_secs(1) }).times(nth(5)));
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 503);
    setup.local.faults().clear();
    assert_eq!(setup.local.faults().waiting(), 0);
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 206);
}

#[tokio::test]
async fn a_script_that_can_never_fire_is_refused_whole() {
    let setup = setup().await;
    let good = Step::new(When::Now, What::Rotate { tenant: None });
    for (step, says) in [
        (Step::new(When::Now, What::RefuseSas), "on = \"blob\""),
        (Step::new(When::Now, What::Cut { at: CutAt::BlobByte(1), refuse_sas: false }), "on = \"blob\""),
        (Step::new(When::Now, What::Delay(Duration::ZERO)), "on = \"blob\" or \"grant\""),
        (Step::new(When::Now, What::Reset { service: Service::Tenant }), "on = \"grant\""),
        (good.clone().times(nth(2)), "`times`"),
        (Step::new(When::Now, What::Down { service: Service::Bus, lasts: Duration::ZERO }), "the bus has no answer"),
        (Step::new(When::Now, What::Rotate { tenant: Some("acmee".to_owned()) }), "no tenant is called \"acmee\""),
        (Step::new(When::Now, What::Detach { entity: "nowhere".to_owned() }), "nowhere"),
        (Step::new(When::Now, What::ExpireLocks { entity: "exports".to_owned() }), "one of its subscriptions"),
        (
            Step::new(
                When::Bus { event: BusEvent::Enqueued, entity: "exports".to_owned(), nth: nth(1) },
                What::Rotate { tenant: None },
            ),
            "one of its subscriptions",
        ),
        (
            Step::new(
                When::Blob(BlobRequests::of(BlobOperation::PutBlob)),
                What::Cut { at: CutAt::BlobByte(1), refuse_sas: false },
            ),
            "only GetBlob",
        ),
    ] {
        let error = setup.local.faults().install([good.clone(), step]).unwrap_err().to_string();
        assert!(error.starts_with("fault script, step 2: ") && error.contains(says), "{error}");
    }
    assert_eq!(*setup.local.faults().fired().borrow(), 0, "the good step did not fire either");
}

#[test]
fn toml_and_json_say_the_same() {
    let toml = r#"
        [[faults]]
        do = "rotate"

        [[faults]]
        on = "blob"
        operation = "GetBlob"
        blob = "Product"
        nth = 3
        do = "cut"
        at = 1000
        refuse_sas = true
        times = 2

        [[faults]]
        on = "grant"
        tenant = "acme"
        do = "busy"
        retry_after_s = 9

        [[faults]]
        on = "delivered"
        entity = "exports/subscriptions/acme"
        nth = 5
        do = "detach"

        [[faults]]
        on = "after"
        after_ms = 250
        do = "down"
        service = "tenant"
        ms = 1000

        [[faults]]
        do = "deliver_twice"
        entity = "exports/subscriptions/acme"
        messages = 4
    "#;
    let json = r#"{"faults": [
        {"do": "rotate"},
        {"on": "blob", "operation": "GetBlob", "blob": "Product", "nth": 3, "do": "cut", "at": 1000, "refuse_sas": true, "times": 2},
        {"on": "grant", "tenant": "acme", "do": "busy", "retry_after_s": 9},
        {"on": "delivered", "entity": "exports/subscriptions/acme", "nth": 5, "do": "detach"},
        {"on": "after", "after_ms": 250, "do": "down", "service": "tenant", "ms": 1000},
        {"do": "deliver_twice", "entity": "exports/subscriptions/acme", "messages": 4}
    ]}"#;
    let acme = || "exports/subscriptions/acme".to_owned();
    let expected = vec![
        Step::new(When::Now, What::Rotate { tenant: None }),
        Step::new(
            When::Blob(BlobRequests {
                operation: Some(BlobOperation::GetBlob),
                name_contains: Some("Product".to_owned()),
                nth: nth(3),
            }),
            What::Cut { at: CutAt::BlobByte(1000), refuse_sas: true },
        )
        .times(nth(2)),
        Step::new(
            When::Grant { tenant: Some("acme".to_owned()), nth: nth(1) },
            What::Busy { retry_after: Duration::from_secs(9) },
        ),
        Step::new(
            When::Bus { event: BusEvent::Delivered, entity: acme(), nth: nth(5) },
            What::Detach { entity: acme() },
        ),
        Step::new(
            When::After(Duration::from_millis(250)),
            What::Down { service: Service::Tenant, lasts: Duration::from_secs(1) },
        ),
        Step::new(When::Now, What::DeliverTwice { entity: acme(), messages: nth(4) }),
    ];
    assert_eq!(Step::from_toml(toml).unwrap(), expected);
    assert_eq!(Step::from_json(json).unwrap(), expected);
}

#[test]
fn a_wrong_script_is_refused_with_its_place() {
    for (text, says) in [
        ("\n[[faults]]\ndo = \"rotat\"", "fault script, line 2: do = \"rotat\" is unknown; there are rotate,"),
        ("[[faults]]\ndo = \"rotate\"\nwho = 1", "fault script, line 3: unknown field `who`"),
        ("[[faults]]\non = \"blobs\"\ndo = \"rotate\"", "on = \"blobs\" is unknown; there are now,"),
        ("[[faults]]\ndo = \"rotate\"\nat = 5", "`at` means nothing with on = \"now\" and do = \"rotate\""),
        ("[[faults]]\non = \"blob\"\ndo = \"cut\"\nat = 5\nafter_bytes = 6", "either `at`"),
        (
            "[[faults]]\non = \"blob\"\ndo = \"busy\"\noperation = \"Get\"",
            "no blob operation; there are ListContainers",
        ),
        ("[[faults]]\non = \"blob\"\ndo = \"delay\"", "needs `ms`"),
        ("[[faults]]\ndo = \"reset\"", "needs `service`: one of blob, bus, tenant"),
        ("[[faults]]\ndo = \"reset\"\nservice = \"tenant\"", "on = \"grant\""),
        ("[[faults]]\ndo = \"down\"\nms = 1\nservice = \"bus\"", "needs `service`: one of blob, tenant"),
        ("[[faults]]\ndo = \"detach\"", "needs `entity`"),
        ("[[faults]]\non = \"completed\"\ndo = \"rotate\"", "needs `entity`"),
        ("[[faults]]\ndo = \"rotate\"\nentity = \"exports\"", "`entity` means nothing"),
        ("[[faults]]\ndo = \"rotate\"\nnth = 0", "line 3"),
        ("do = \"rotate\"", "line 1"),
    ] {
        let error = Step::from_toml(text).expect_err(text).to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
    for (text, says) in [
        ("{\"faults\": [{\"do\": \"rotate\"}, {\"do\": \"x\"}]}", "fault script, step 2: do = \"x\""),
        ("{\"faults\": [\n{\"do\": \"rotate\", \"who\": 1}]}", "fault script, line 2: unknown field `who`"),
        ("{}", "missing field `faults`"),
    ] {
        let error = Step::from_json(text).expect_err(text).to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}
