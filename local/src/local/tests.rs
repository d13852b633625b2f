//! The process as a whole, TenantService and the admin endpoint, over HTTP.

mod tls;

use std::{fs, time::Instant};

use reqwest::{Method, Response, StatusCode};
use serde_json::Value as Json;
use tokio::net::TcpStream;
use waybill_contracts::{GrantLayout, TEMPORARY_ENDPOINTS_PATH, TemporaryEndpoints};

use super::*;
use crate::keys::TokenKind;

async fn started() -> Local {
    Local::builder().start().await.unwrap()
}

fn http() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

async fn ask_grant(local: &Local, bearer: &str) -> Response {
    let url = format!("{}{TEMPORARY_ENDPOINTS_PATH}", local.ready_file().tenant_url);
    http().get(url).bearer_auth(bearer).send().await.unwrap()
}

async fn grant(local: &Local, tenant: usize) -> TemporaryEndpoints {
    let response = ask_grant(local, &local.ready_file().tenants[tenant].bearer_token).await;
    assert_eq!((response.status().as_u16(), response.headers()["cache-control"].to_str().unwrap()), (200, "no-store"));
    TemporaryEndpoints::parse(&response.bytes().await.unwrap(), &GrantLayout::default()).unwrap()
}

fn now() -> i64 {
    OffsetDateTime::now_utc().unix_timestamp()
}

async fn admin(local: &Local, method: Method, path: &str, body: &str) -> (u16, Json) {
    let url = format!("{}/{path}", local.ready_file().admin_url);
    let response = http().request(method, url).body(body.to_owned()).send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
}

#[tokio::test]
async fn everything_is_there_when_start_returns_and_that_is_soon() {
    let began = Instant::now();
    let local = started().await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    let ports = local.ports();
    for port in [ports.amqp, ports.blob, ports.tenant, ports.admin] {
        assert_ne!(port, 0);
        TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    }
    assert_eq!(local.broker().entities(), ["exports", "exports/subscriptions/acme"]);
    let ready = local.ready_file();
    let sas = local.keys().account_sas("r", now() + 60);
    let url = format!("http://127.0.0.1:{}/devstoreaccount1/batchtoprocess?restype=container&{sas}", ports.blob);
    assert_eq!(http().get(url).send().await.unwrap().status(), 200);
    assert_eq!((ready.topic.as_str(), ready.container.as_str()), ("exports", "batchtoprocess"));
    assert_eq!((ready.tenants.len(), ready.tenants[0].subscription.as_str()), (1, "acme"));
    assert_eq!(ready.bearer_token, ready.tenants[0].bearer_token);
    assert_eq!(
        ready.blob_connection_string,
        format!(
            "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==;BlobEndpoint=http://127.0.0.1:{}/devstoreaccount1;",
            ports.blob
        )
    );
    assert_eq!(
        ready.service_bus_connection_string,
        format!(
            "Endpoint=sb://127.0.0.1:{};SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE;UseDevelopmentEmulator=true",
            ports.amqp
        )
    );
}

#[tokio::test]
async fn stopping_frees_the_ports_and_may_be_done_twice() {
    let local = started().await;
    let ports = local.ports();
    let mut idle = TcpStream::connect(("127.0.0.1", ports.blob)).await.unwrap();
    let began = Instant::now();
    local.stop().await;
    local.stop().await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    for port in [ports.amqp, ports.blob, ports.tenant, ports.admin] {
        assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "{port}");
    }
    // Closed, or reset if it had not been accepted yet; in any case over.
    let mut rest = Vec::new();
    let ended = timeout(Duration::from_secs(10), tokio::io::AsyncReadExt::read_to_end(&mut idle, &mut rest)).await;
    assert!(ended.is_ok());
    let again = Local::builder().ports(ports).start().await.unwrap();
    assert_eq!(again.ports(), ports);
}

#[tokio::test]
async fn a_running_request_ends_before_the_stop() {
    let local = started().await;
    local
        .faults()
        .install([Step::new(
            crate::fault::When::Grant { tenant: None },
            crate::fault::What::Delay(Duration::from_millis(300)),
        )])
        .unwrap();
    let asked = ask_grant(&local, &local.ready_file().bearer_token);
    let stopped = async {
        local.faults().wait_for(1).await;
        local.stop().await;
    };
    let (answer, ()) = tokio::join!(asked, stopped);
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn a_client_that_does_not_read_cannot_hold_up_the_stop() {
    let local = started().await;
    let sas = local.keys().account_sas("rwc", now() + 60);
    let url = format!("http://127.0.0.1:{}/devstoreaccount1/batchtoprocess/large?{sas}", local.ports().blob);
    let put = http().put(&url).header("x-ms-blob-type", "BlockBlob").body(vec![0_u8; 64 << 20]).send().await.unwrap();
    assert_eq!(put.status(), 201);
    let reading = http().get(&url).send().await.unwrap();
    timeout(Duration::from_secs(4), local.stop()).await.unwrap();
    assert!(reading.bytes().await.is_err());
}

#[tokio::test]
async fn dropping_ends_everything_too() {
    let local = started().await;
    let ports = local.ports();
    drop(local);
    timeout(Duration::from_secs(10), async {
        for port in [ports.amqp, ports.blob, ports.tenant, ports.admin] {
            while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                tokio::task::yield_now().await;
            }
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_named_with_what_to_do() {
    let taken = started().await.ports();
    let holder = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = holder.local_addr().unwrap().port();
    assert_ne!(taken.blob, port);
    let error = Local::builder().ports(Ports { blob: port, ..Ports::RANDOM }).start().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "port {port} for Blob Storage is in use; end the other process, set ports.blob in the configuration, or use --random-ports"
        )
    );
}

#[tokio::test]
async fn two_processes_do_not_see_each_other() {
    let (one, two) = (started().await, started().await);
    assert_ne!(one.ready_file().bearer_token, two.ready_file().bearer_token);
    assert_eq!(ask_grant(&two, &one.ready_file().bearer_token).await.status(), 401);
    let sas = grant(&one, 0).await.blob_storage[0].sas_token.clone();
    let url =
        |local: &Local| format!("http://127.0.0.1:{}/devstoreaccount1/batchtoprocess/b?{sas}", local.ports().blob);
    assert_eq!(http().get(url(&one)).send().await.unwrap().status(), 404);
    assert_eq!(http().get(url(&two)).send().await.unwrap().status(), 403);
}

#[tokio::test]
async fn a_token_that_was_refused_is_not_issued_again() {
    // Without a clock that moves, every token would end in the same second.
    let fixed = time::OffsetDateTime::now_utc();
    let local = Local::builder().now(move || fixed).start().await.unwrap();
    for _ in 0..3 {
        let sas = grant(&local, 0).await.blob_storage[0].sas_token.clone();
        let url = format!("http://127.0.0.1:{}/devstoreaccount1/batchtoprocess/b?{sas}", local.ports().blob);
        assert_eq!(http().get(&url).send().await.unwrap().status(), 404, "a fresh token works");
        let refuse = crate::fault::When::Blob(crate::fault::BlobRequests::default());
        local.faults().install([Step::new(refuse, crate::fault::What::RefuseSas)]).unwrap();
        assert_eq!(http().get(&url).send().await.unwrap().status(), 403);
    }
}

#[tokio::test]
async fn a_name_that_cannot_be_is_refused_before_anything_runs() {
    let error = Local::builder().topic("$bad").start().await.unwrap_err();
    assert!(matches!(error, StartError::Config(_)), "{error}");
    let error = Local::builder().container("Bad").start().await.unwrap_err();
    assert!(matches!(error, StartError::Config(_)), "{error}");
    let never = Step::new(crate::fault::When::Now, crate::fault::What::RefuseSas);
    let error = Local::builder().faults([never]).start().await.unwrap_err();
    assert!(matches!(error, StartError::Faults(_)), "{error}");
}

#[tokio::test]
async fn the_ready_file_appears_whole_and_goes_with_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ready.json");
    let local = started().await;
    local.write_ready_file(&path).unwrap();
    let read: ReadyFile = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!(&read, local.ready_file());
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no other file is left");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    local.stop().await;
    assert!(!path.exists());

    let local = started().await;
    local.write_ready_file(&path).unwrap();
    let other = started().await;
    other.write_ready_file(&path).unwrap();
    drop(local);
    assert!(path.exists(), "another process has replaced it");
    drop(other);
    assert!(!path.exists());

    let missing = started().await.write_ready_file(&directory.path().join("no/ready.json")).unwrap_err();
    assert!(missing.to_string().contains("check that its directory exists"), "{missing}");
}

#[tokio::test]
async fn a_grant_opens_its_own_subscription_and_the_container() {
    let local = Local::builder().tenants(["acme", "zenith"]).token_life(Duration::from_secs(30)).start().await.unwrap();
    let before = now();
    let endpoints = grant(&local, 1).await;
    let after = now();
    let (bus, blob) = (&endpoints.service_bus[0], &endpoints.blob_storage[0]);
    assert_eq!(bus.endpoint, format!("amqp://127.0.0.1:{}", local.ports().amqp));
    assert_eq!(bus.entity_path, "exports/subscriptions/zenith");
    assert_eq!(blob.endpoint, format!("http://127.0.0.1:{}/devstoreaccount1", local.ports().blob));
    assert_eq!(blob.container, "batchtoprocess");
    for expires_at in [bus.expires_at.unwrap(), blob.expires_at.unwrap()] {
        assert_eq!(expires_at.nanosecond(), 0);
        assert!((before + 30..=after + 31).contains(&expires_at.unix_timestamp()), "{expires_at}");
    }
    let claim = local.keys().check_bus(&bus.sas_token, "exports/subscriptions/zenith", now()).unwrap();
    assert_eq!(claim.expires_at, bus.expires_at.unwrap().unix_timestamp());
    assert!(local.keys().check_bus(&bus.sas_token, "exports/subscriptions/acme", now()).is_err());
    let url = |path: &str| format!("{}/batchtoprocess{path}{}", blob.endpoint, blob.sas_token);
    assert_eq!(http().get(url("/none?")).send().await.unwrap().status(), 404);
    assert_eq!(http().get(url("?restype=container&comp=list&")).send().await.unwrap().status(), 403);
    assert_eq!(local.stats().grants("zenith"), crate::GrantCounts { requests: 1, issued: 1 });
    assert_eq!(local.stats().grants("acme"), crate::GrantCounts::default());
}

#[tokio::test]
async fn a_wrong_bearer_token_is_401_with_a_reason() {
    let local = started().await;
    let url = format!("{}{TEMPORARY_ENDPOINTS_PATH}", local.ready_file().tenant_url);
    let good = &local.ready_file().bearer_token;
    for (header, says) in [
        (None, "no Authorization header"),
        (Some(format!("Basic {good}")), "not 'Bearer TOKEN'"),
        (Some(good.clone()), "not 'Bearer TOKEN'"),
        (Some(format!("Bearer {good}x")), "no tenant has this bearer token"),
    ] {
        let mut ask = http().get(&url);
        if let Some(header) = header {
            ask = ask.header("authorization", header);
        }
        let response = ask.send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), response.headers()["www-authenticate"].to_str().unwrap()),
            (401, "Bearer")
        );
        let body: Json = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        assert!(body["error"]["message"].as_str().unwrap().contains(says), "{body}");
    }
    assert_eq!(local.stats().counted().grants_unknown, 4);
    let lower = http().get(&url).header("authorization", format!("bearer {good}")).send().await.unwrap();
    assert_eq!(lower.status(), 200);
    let post = http().post(&url).bearer_auth(good).send().await.unwrap();
    assert_eq!((post.status().as_u16(), post.headers()["allow"].to_str().unwrap()), (405, "GET"));
    let other = http().get(format!("{}/api", local.ready_file().tenant_url)).bearer_auth(good).send().await.unwrap();
    assert_eq!(other.status(), 404);
}

#[tokio::test]
async fn rotation_kills_the_grants_of_one_tenant_or_of_all() {
    let local = Local::builder().tenants(["acme", "zenith"]).start().await.unwrap();
    let alive = async |endpoints: &TemporaryEndpoints| {
        let (bus, blob) = (&endpoints.service_bus[0], &endpoints.blob_storage[0]);
        let bus = local.keys().check_bus(&bus.sas_token, &bus.entity_path, now()).is_ok();
        let url = format!("{}/batchtoprocess/none?{}", blob.endpoint, blob.sas_token);
        let blob = http().get(url).send().await.unwrap().status() == StatusCode::NOT_FOUND;
        assert_eq!(bus, blob);
        bus
    };
    let (acme, zenith) = (grant(&local, 0).await, grant(&local, 1).await);
    local.rotate(Some("acme")).unwrap();
    assert_eq!((alive(&acme).await, alive(&zenith).await), (false, true));
    let acme = grant(&local, 0).await;
    assert!(alive(&acme).await);
    local.rotate(None).unwrap();
    assert_eq!((alive(&acme).await, alive(&zenith).await), (false, false));
    assert!(local.rotate(Some("nobody")).is_err());
}

#[tokio::test]
async fn a_rotation_by_the_admin_endpoint_can_have_a_grace() {
    let local = started().await;
    let old = grant(&local, 0).await.service_bus.remove(0);
    let check = || local.keys().check_bus(&old.sas_token, &old.entity_path, now());
    let claim = check().unwrap();
    let mut revocations = local.keys().revocations();
    assert_eq!(admin(&local, Method::POST, "rotate?tenant=acme&grace_ms=300", "").await.0, 200);
    revocations.mark_unchanged();
    assert!(check().is_ok() && !local.keys().is_revoked(&claim));
    timeout(Duration::from_secs(20), revocations.changed()).await.unwrap().unwrap();
    assert!(check().is_err() && local.keys().is_revoked(&claim));
    let (status, refused) = admin(&local, Method::POST, "rotate?grace_ms=soon", "").await;
    assert!(status == 400 && refused["error"]["message"].as_str().unwrap().contains("'soon'"), "{refused}");
}

#[tokio::test]
async fn the_life_of_tokens_can_change_while_it_runs() {
    let local = started().await;
    local.set_token_life(Duration::from_millis(1_200));
    let expires_at = grant(&local, 0).await.service_bus[0].expires_at.unwrap().unix_timestamp();
    assert!((1..=3).contains(&(expires_at - now())), "{expires_at}");
}

#[tokio::test]
async fn the_admin_endpoint_rotates_scripts_and_counts() {
    let local = started().await;
    let old = grant(&local, 0).await;
    assert_eq!(admin(&local, Method::POST, "rotate?tenant=acme", "").await.0, 200);
    assert_eq!(admin(&local, Method::POST, "rotate", "").await, (200, serde_json::json!({"rotated": "all tenants"})));
    assert_eq!(admin(&local, Method::POST, "rotate?tenant=no", "").await.0, 404);
    assert_eq!(admin(&local, Method::POST, "rotate?tennant=acme", "").await.0, 400, "a misspelt name rotates nobody");
    assert!(local.keys().check_bus(&old.service_bus[0].sas_token, "exports/subscriptions/acme", now()).is_err());

    let toml = "[[faults]]\non = \"grant\"\ndo = \"throttle\"\n";
    assert_eq!(admin(&local, Method::POST, "faults", toml).await, (200, serde_json::json!({"installed": 1})));
    let json = "{\"faults\": [{\"on\": \"blob\", \"do\": \"delay\", \"ms\": 1}]}";
    assert_eq!(admin(&local, Method::POST, "faults", json).await.0, 200);
    let (status, wrong) = admin(&local, Method::POST, "faults", "[[faults]]\ndo = 1").await;
    assert!(status == 400 && wrong["error"]["message"].as_str().unwrap().contains("line 2"), "{wrong}");
    let bearer = &local.ready_file().bearer_token;
    assert_eq!(ask_grant(&local, bearer).await.status(), 429);
    let (_, faults) = admin(&local, Method::GET, "faults", "").await;
    assert_eq!(faults["waiting"], 1);
    assert_eq!(faults["fired"][0]["what"], "throttle");
    assert_eq!(admin(&local, Method::DELETE, "faults", "").await.0, 200);
    assert_eq!(local.faults().waiting(), 0);

    let fresh = grant(&local, 0).await;
    let blob = &fresh.blob_storage[0];
    let url = format!("{}/batchtoprocess/none?{}", blob.endpoint, blob.sas_token);
    assert_eq!(http().get(url).send().await.unwrap().status(), 404);
    let (_, status) = admin(&local, Method::GET, "status", "").await;
    assert_eq!(status["grants"]["acme"], serde_json::json!({"requests": 3, "issued": 2}));
    let requests = &status["blob"]["requests"];
    assert_eq!(requests[0], serde_json::json!({"operation": "GetBlob", "status": 404, "count": 1}));
    let used = local.keys().tokens_used(TokenKind::Storage);
    let [token] = &status["tokens"].as_array().unwrap()[..] else { panic!("{status}") };
    assert_eq!((used.len(), token["sha256"].as_str()), (1, Some(used[0].sha256.as_str())));
    assert_eq!((token["kind"].as_str(), token["tenant"].as_str()), (Some("storage"), Some("acme")));
    assert!(token["expiresAt"].as_str().is_some_and(|end| end.ends_with('Z')), "{token}");
    let shown = status.to_string();
    assert!(!shown.contains("sig=") && !shown.contains(bearer.as_str()), "{shown}");
}

#[tokio::test]
async fn the_admin_endpoint_shows_entities_and_refuses_web_pages() {
    let local = started().await;
    let (status, entities) = admin(&local, Method::GET, "entities", "").await;
    assert_eq!((status, entities.as_array().unwrap().len()), (200, 2));
    let (status, peeked) = admin(&local, Method::GET, "entities/exports/Subscriptions/acme?max=5", "").await;
    assert_eq!((status, peeked), (200, serde_json::json!({"messages": []})));
    for (method, path, status) in [
        (Method::GET, "entities/none", 404),
        (Method::GET, "entities/exports/subscriptions/acme?max=x", 400),
        (Method::GET, "", 404),
        (Method::PUT, "rotate", 404),
    ] {
        let (got, body) = admin(&local, method, path, "").await;
        assert_eq!(got, status, "{path}");
        assert!(!body["error"]["message"].as_str().unwrap().is_empty());
    }
    let url = format!("{}/rotate", local.ready_file().admin_url);
    for (name, value) in [("origin", "https://evil.example"), ("host", "evil.example:8081")] {
        let response = http().post(&url).header(name, value).send().await.unwrap();
        assert_eq!(response.status(), 403, "{name}");
    }
}
