use std::{num::NonZeroU32, time::Duration};

use reqwest::{Response, StatusCode};
use time::OffsetDateTime;
use tokio::{io::AsyncReadExt as _, io::AsyncWriteExt as _, net::TcpStream, time::timeout};

use super::*;
use crate::{Local, broker::LinkRole, keys::EMULATOR_ACCOUNT};

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
    setup_of(Local::builder().tenants(["acme", "zenith"]).start().await.unwrap()).await
}

async fn setup_of(local: Local) -> Setup {
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

/// At the blob request of this number.
fn blob(number: u32, what: What) -> Step {
    Step::new(BlobRequests::default(), what).nth(nth(number))
}

const ACME: &str = "exports/subscriptions/acme";

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
        setup.install(blob(1, What::Cut { at: CutAt::BlobByte(at), refuse_sas: false }));
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
    setup.install(blob(2, What::Cut { at: CutAt::BlobByte(1_500), refuse_sas: false }));
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
    let step = blob(1, What::Cut { at: CutAt::BodyByte(10), refuse_sas: false });
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
    setup.install(blob(1, What::Cut { at: CutAt::BlobByte(500), refuse_sas: true }));
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
            blob(1, What::Cut { at, refuse_sas: true })
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
    setup.install(blob(1, What::Cut { at: CutAt::BlobByte((64 << 20) - 1), refuse_sas: false }));
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
    setup.install(blob(3, What::throttle(Duration::from_secs(7))).times(nth(4)));
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
    setup.install(Step::new(
        BlobRequests::of(BlobOperation::GetBlob).named("at"),
        What::throttle(Duration::from_secs(7)),
    ));
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
    setup.install(blob(1, What::Reset(Whose::Event)));
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
    setup.install(Step::new(When::Now, What::Reset(Whose::Service(Service::Blob))));
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
    let when = When::Grant { tenant: None };
    setup.install(Step::new(when, What::Reset(Whose::Service(Service::Blob))));
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
    setup.install(blob(2, What::rotate(Some("acme"))));
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 206);
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 403);
    assert_eq!(setup.get(&other, "bytes=0-0").await.unwrap().status(), 206);
    assert_eq!(setup.get(&setup.token("acme"), "bytes=0-0").await.unwrap().status(), 206);
}

#[tokio::test]
async fn a_refused_token_is_refused_in_the_request_that_fires_it() {
    let setup = setup().await;
    let sas = setup.token("acme");
    setup.install(blob(2, What::RefuseSas));
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
    let when = When::Grant { tenant: Some("acme".to_owned()) };
    setup.install(Step::new(when, What::throttle(Duration::from_secs(1))).nth(nth(2)));
    let statuses = async |tenant| {
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(setup.grant(tenant).await.status().as_u16());
        }
        statuses
    };
    assert_eq!(statuses(1).await, [200, 200, 200]);
    assert_eq!(statuses(0).await, [200, 429, 200]);
}

#[tokio::test]
async fn a_delayed_request_waits_and_others_do_not() {
    let setup = setup().await;
    let sas = setup.token("acme");
    setup.install(blob(1, What::Delay(Duration::from_millis(300))));
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

/// Longer than any test, and longer than anything here takes.
const FOR_EVER: Duration = Duration::from_secs(3_600);
const PROMPT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn clearing_ends_the_delays_of_requests_that_wait() {
    let setup = setup().await;
    let sas = setup.token("acme");
    setup.install(blob(1, What::Delay(FOR_EVER)));
    setup.install(Step::new(When::Grant { tenant: None }, What::Delay(FOR_EVER)));
    let clear = async {
        setup.local.faults().wait_for(2).await;
        setup.local.faults().clear();
    };
    let all = async { tokio::join!(setup.get(&sas, "bytes=0-0"), setup.grant(0), clear) };
    let (part, grant, ()) = timeout(PROMPT, all).await.expect("nobody waits any more");
    assert_eq!((part.unwrap().status(), grant.status()), (StatusCode::PARTIAL_CONTENT, StatusCode::OK));

    // A delay that begins after a clearing is none of its.
    setup.install(blob(1, What::Delay(Duration::from_millis(300))));
    let started = tokio::time::Instant::now();
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 206);
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn clearing_ends_the_delay_of_a_request_for_an_access_token() {
    let local = Local::builder().tls().start().await.unwrap();
    local.faults().install([Step::new(When::Token { client: None }, What::Delay(FOR_EVER))]).unwrap();
    let ready = local.ready_file();
    let url = format!("{}/{}/oauth2/v2.0/token", ready.authority_url.as_ref().unwrap(), crate::config::DIRECTORY_ID);
    let authority = reqwest::Certificate::from_pem(&std::fs::read(ready.ca_file.as_ref().unwrap()).unwrap()).unwrap();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build().unwrap();
    let asked = http.post(url).body("client_id=x").send();
    let clear = async {
        local.faults().wait_for(1).await;
        local.faults().clear();
    };
    let (answer, ()) = timeout(PROMPT, async { tokio::join!(asked, clear) }).await.expect("nobody waits any more");
    assert_eq!(answer.unwrap().status(), 400, "it says no more than who it is");
}

#[tokio::test]
async fn a_timed_step_fires_by_itself_and_can_be_awaited() {
    let setup = setup().await;
    let sas = setup.token("acme");
    let mut watch = setup.local.faults().fired();
    let rotate = || What::rotate(None);
    setup.install(Step::new(When::After(Duration::from_secs(3600)), rotate()));
    setup.install(Step::new(When::After(Duration::from_millis(20)), rotate()));
    timeout(Duration::from_secs(20), watch.wait_for(|fired| *fired == 1)).await.unwrap().unwrap();
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 403);
    let log = setup.local.faults().log_lines();
    assert_eq!((log.len(), log[0].number, log[0].step, log[0].connection), (1, 1, 1, None));
    assert_eq!((log[0].what.as_str(), log[0].on.as_str()), ("rotate all tenants", "its time"));
    assert!((OffsetDateTime::now_utc() - log[0].at).abs() < time::Duration::MINUTE);
    assert_eq!(setup.local.faults().waiting(), 1);
}

#[tokio::test]
async fn cleared_steps_never_fire() {
    let setup = setup().await;
    let sas = setup.token("acme");
    setup.install(blob(1, What::throttle(Duration::from_secs(1))).times(nth(5)));
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 503);
    setup.local.faults().clear();
    assert_eq!(setup.local.faults().waiting(), 0);
    assert_eq!(setup.get(&sas, "bytes=0-0").await.unwrap().status(), 206);
}

#[tokio::test]
async fn a_script_that_can_never_fire_is_refused_whole() {
    let setup = setup().await;
    let good = Step::new(When::Now, What::rotate(None));
    let on_bus = |event, what| Step::new(BusFrames::of(event), what);
    let entity = |path: &str| Whose::Entity(path.to_owned());
    let hold = |whose| What::HoldBack { whose, lasts: Duration::from_secs(1), messages: None };
    let cut = || What::Cut { at: CutAt::BlobByte(1), refuse_sas: false };
    for (step, says) in [
        (Step::new(When::Now, What::RefuseSas), "on = \"blob\""),
        (Step::new(When::Now, cut()), "on = \"blob\""),
        (Step::new(When::Now, What::Delay(Duration::ZERO)), "blob, grant, token or an event of the bus"),
        (Step::new(When::Now, What::Reset(Whose::Event)), "or a `service`"),
        (good.clone().times(nth(2)), "happens once"),
        (good.clone().chance(0.5, 1), "happens once"),
        (Step::new(When::Now, What::Down { service: Service::Bus, lasts: Duration::ZERO }), "the bus has no answer"),
        (Step::new(When::Now, What::rotate(Some("acmee"))), "no tenant is called \"acmee\""),
        (Step::new(When::Now, What::detach(entity("nowhere"))), "nowhere"),
        (Step::new(When::Now, What::LoseLocks(entity("exports"))), "one of its subscriptions"),
        (on_bus(BusEvent::TransferIn, What::LoseLocks(Whose::Event)), "transfer_out, disposition"),
        (on_bus(BusEvent::TransferOut, What::throttle(Duration::ZERO)), "on = blob, grant, token, connect,"),
        (on_bus(BusEvent::TransferIn, hold(Whose::Event)), "a `target` entity"),
        (on_bus(BusEvent::Flow, hold(entity("exports"))), "one of its subscriptions"),
        (on_bus(BusEvent::Connect, What::detach(Whose::Event)), "attach, transfer_in"),
        (Step::new(BusFrames::of(BusEvent::Connect).entity("exports"), What::Reset(Whose::Event)), "not yet about"),
        (Step::new(BusFrames::of(BusEvent::Attach).entity("exprots"), What::Reset(Whose::Event)), "'exprots'"),
        (
            Step::new(When::Grant { tenant: None }, What::Refuse { with: Refusal::Status(200), retry_after: None }),
            "400 to 599",
        ),
        (Step::new(When::Grant { tenant: None }, What::close(Whose::Event)), "on = connect, put_token"),
        (Step::new(BlobRequests::of(BlobOperation::GetBlockList), cut()), "only GetBlob, PutBlob"),
        (Step::new(BlobRequests::of(BlobOperation::PutBlob), cut()), "`after_bytes`"),
        (Step::new(BlobRequests::of(BlobOperation::PutBlob), What::Corrupt { at: 0 }), "only GetBlob"),
        (
            Step::new(BlobRequests::of(BlobOperation::PutBlob), What::Slow { bytes_per_second: nth(1) }),
            "only GetBlob has a body that can be slow",
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
        do = "throttle"
        retry_after_s = 9

        [[faults]]
        on = "transfer_out"
        entity = "exports/subscriptions/acme"
        role = "receiver"
        nth = 5
        every = 2
        do = "detach"
        condition = "com.microsoft:entity-disabled"

        [[faults]]
        on = "after"
        after_ms = 250
        do = "down"
        service = "tenant"
        ms = 1000

        [[faults]]
        name = "doubles"
        do = "deliver_twice"
        entity = "exports/subscriptions/acme"
        messages = 4

        [[faults]]
        on = "management"
        operation = "renew-lock"
        probability = 0.25
        seed = 9
        do = "refuse"
        code = "com.microsoft:timeout"

        [[faults]]
        on = "transfer_in"
        after_ms = 10
        for_ms = 500
        do = "reorder"
        target = "exports/subscriptions/acme"
        messages = 3
        order = "shuffle"
        seed = 4

        [[faults]]
        on = "blob"
        do = "slow"
        bytes_per_second = 1000
    "#;
    let json = r#"{"faults": [
        {"do": "rotate"},
        {"on": "blob", "operation": "GetBlob", "blob": "Product", "nth": 3, "do": "cut", "at": 1000, "refuse_sas": true, "times": 2},
        {"on": "grant", "tenant": "acme", "do": "throttle", "retry_after_s": 9},
        {"on": "transfer_out", "entity": "exports/subscriptions/acme", "role": "receiver", "nth": 5, "every": 2,
         "do": "detach", "condition": "com.microsoft:entity-disabled"},
        {"on": "after", "after_ms": 250, "do": "down", "service": "tenant", "ms": 1000},
        {"name": "doubles", "do": "deliver_twice", "entity": "exports/subscriptions/acme", "messages": 4},
        {"on": "management", "operation": "renew-lock", "probability": 0.25, "seed": 9, "do": "refuse",
         "code": "com.microsoft:timeout"},
        {"on": "transfer_in", "after_ms": 10, "for_ms": 500, "do": "reorder", "target": "exports/subscriptions/acme",
         "messages": 3, "order": "shuffle", "seed": 4},
        {"on": "blob", "do": "slow", "bytes_per_second": 1000}
    ]}"#;
    let acme = || Whose::Entity(ACME.to_owned());
    let requests = BlobRequests::of(BlobOperation::GetBlob).named("Product");
    let frames = BusFrames::of(BusEvent::TransferOut).entity(ACME).role(LinkRole::Receiver);
    let disabled = "com.microsoft:entity-disabled".parse().unwrap();
    let renewals = BusFrames { operation: Some("renew-lock".to_owned()), ..BusFrames::of(BusEvent::Management) };
    let timeout = Refusal::Condition("com.microsoft:timeout".parse().unwrap());
    let order = NewOrder::Shuffled(4);
    let shuffle = What::Reorder { whose: acme(), messages: nth(3), order, patience: Duration::from_secs(1) };
    let mut shuffled = Step::new(BusFrames::of(BusEvent::TransferIn), shuffle).lasting(Duration::from_millis(500));
    shuffled.trigger.after = Duration::from_millis(10);
    let expected = vec![
        Step::new(When::Now, What::rotate(None)),
        Step::new(requests, What::Cut { at: CutAt::BlobByte(1000), refuse_sas: true }).nth(nth(3)).times(nth(2)),
        Step::new(When::Grant { tenant: Some("acme".to_owned()) }, What::throttle(Duration::from_secs(9))),
        Step::new(frames, What::Detach { whose: Whose::Event, condition: disabled })
            .nth(nth(5))
            .every(nth(2))
            .times(NonZeroU32::MAX),
        Step::new(
            When::After(Duration::from_millis(250)),
            What::Down { service: Service::Tenant, lasts: Duration::from_secs(1) },
        ),
        Step::new(When::Now, What::DeliverTwice { whose: acme(), messages: nth(4) }).named("doubles"),
        Step::new(renewals, What::Refuse { with: timeout, retry_after: None }).chance(0.25, 9).times(NonZeroU32::MAX),
        shuffled,
        Step::new(BlobRequests::default(), What::Slow { bytes_per_second: nth(1000) }),
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
            "[[faults]]\non = \"blob\"\ndo = \"throttle\"\noperation = \"Get\"",
            "no blob operation; there are ListContainers",
        ),
        ("[[faults]]\non = \"blob\"\ndo = \"delay\"", "needs `ms`"),
        ("[[faults]]\non = \"blob\"\ndo = \"slow\"", "needs `bytes_per_second`"),
        ("[[faults]]\ndo = \"reset\"", "a `service`: one of blob, bus, tenant"),
        (
            "[[faults]]\ndo = \"reset\"\nservice = \"mail\"",
            "service = \"mail\" is unknown; there are blob, bus, tenant",
        ),
        ("[[faults]]\ndo = \"down\"\nms = 1\nservice = \"bus\"", "needs `service`: one of blob, tenant"),
        ("[[faults]]\ndo = \"detach\"", "needs `entity`"),
        ("[[faults]]\non = \"completed\"\ndo = \"rotate\"", "there are now, after, blob, grant, token, connect,"),
        ("[[faults]]\ndo = \"rotate\"\nentity = \"exports\"", "`entity` means nothing"),
        ("[[faults]]\non = \"blob\"\ndo = \"refuse\"\ncode = \"Tired\"", "there are InternalError, OperationTimedOut,"),
        ("[[faults]]\non = \"grant\"\ndo = \"refuse\"\ncode = \"Tired\"", "no HTTP status"),
        ("[[faults]]\non = \"attach\"\ndo = \"refuse\"\ncode = \"tired\"", "there are com.microsoft:server-busy,"),
        ("[[faults]]\non = \"attach\"\ndo = \"detach\"\nrole = \"boss\"", "there are sender, receiver"),
        ("[[faults]]\non = \"connect\"\ndo = \"reset\"\nrole = \"sender\"", "has no `role`"),
        ("[[faults]]\non = \"blob\"\ndo = \"reset\"\nprobability = 0.5", "needs a `seed`"),
        ("[[faults]]\non = \"blob\"\ndo = \"reset\"\nprobability = 1.5\nseed = 1", "from 0 to 1"),
        ("[[faults]]\non = \"blob\"\ndo = \"reset\"\nseed = 1", "`seed` needs a `probability`"),
        ("[[faults]]\non = \"transfer_out\"\ndo = \"throttle\"", "on = blob, grant, token, connect"),
        ("[[faults]]\ndo = \"rotate\"\ntimes = 2", "`times` means nothing"),
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

mod storage;
