//! HTTPS, the files that it needs, and faults below it.

use super::*;
use crate::fault::{CutAt, What, When};

async fn secure() -> Local {
    Local::builder().tls().start().await.unwrap()
}

/// A client that trusts this process's authority and nobody else.
fn https(local: &Local) -> reqwest::Client {
    let pem = fs::read(local.ready_file().ca_file.as_ref().unwrap()).unwrap();
    let authority = reqwest::Certificate::from_pem(&pem).unwrap();
    reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build().unwrap()
}

#[tokio::test]
async fn with_tls_every_address_of_azure_is_a_secure_one() {
    let local = secure().await;
    let (ready, ports) = (local.ready_file(), local.ports());
    assert_ne!(ports.amqps, 0);
    let blob = format!("https://localhost:{}/devstoreaccount1", ports.blob);
    assert_eq!(ready.tenant_url, format!("https://localhost:{}", ports.tenant));
    assert!(ready.blob_connection_string.starts_with("DefaultEndpointsProtocol=https;"));
    assert!(ready.blob_connection_string.ends_with(&format!("BlobEndpoint={blob};")));
    assert_eq!(
        ready.service_bus_tls_connection_string.as_deref().unwrap(),
        format!(
            "Endpoint=sb://localhost:{};SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE",
            ports.amqps
        )
    );
    assert_eq!(
        ready.service_bus_web_socket_url.as_deref().unwrap(),
        format!("wss://localhost:{}/$servicebus/websocket", ports.amqps)
    );
    // Plain AMQP stays, as the emulator's connection string needs it.
    assert!(ready.service_bus_connection_string.ends_with(";UseDevelopmentEmulator=true"));
    TcpStream::connect(("127.0.0.1", ports.amqp)).await.unwrap();

    let url = format!("{}{TEMPORARY_ENDPOINTS_PATH}", ready.tenant_url);
    let response = https(&local).get(url).bearer_auth(&ready.bearer_token).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let endpoints = TemporaryEndpoints::parse(&response.bytes().await.unwrap(), &GrantLayout::default()).unwrap();
    assert_eq!(endpoints.service_bus[0].endpoint, format!("sb://localhost:{}", ports.amqps));
    assert_eq!(endpoints.blob_storage[0].endpoint, blob);
    let url = format!("{blob}/batchtoprocess/none?{}", endpoints.blob_storage[0].sas_token);
    assert_eq!(https(&local).get(url).send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn without_tls_nothing_of_it_is_there() {
    let local = started().await;
    let ready = local.ready_file();
    assert_eq!(local.ports().amqps, 0);
    assert_eq!((&ready.ca_file, &ready.service_bus_tls_connection_string), (&None, &None));
    let json = serde_json::to_string(ready).unwrap();
    assert!(!json.contains("caFile") && !json.contains("clients"), "{json}");
}

#[tokio::test]
async fn the_authoritys_certificate_is_a_file_and_goes_with_the_process() {
    let local = secure().await;
    let path = PathBuf::from(local.ready_file().ca_file.clone().unwrap());
    assert!(path.is_absolute());
    let pem = fs::read_to_string(&path).unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE-----") && !pem.contains("PRIVATE"), "{pem}");
    local.stop().await;
    assert!(!path.exists());
    drop(local);
    assert!(!path.parent().unwrap().exists(), "the temporary folder too");

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let local = Local::builder().tls().ca_file(&path).start().await.unwrap();
    assert_eq!(fs::canonicalize(&path).unwrap().to_str(), local.ready_file().ca_file.as_deref());
    drop(local);
    assert!(!path.exists());

    let error = Local::builder().tls().ca_file(directory.path().join("no/ca.pem")).start().await.unwrap_err();
    assert!(error.to_string().contains("certificate of the authority cannot be written"), "{error}");
    let error = Local::builder().ca_file(path).start().await.unwrap_err();
    assert_eq!(error.to_string(), "configuration: ca_file is given without TLS; set tls = true, or use --tls");
}

#[tokio::test]
async fn each_run_has_an_authority_of_its_own() {
    let (one, two) = (secure().await, secure().await);
    let url = |local: &Local| local.ready_file().tenant_url.clone();
    assert_eq!(https(&one).get(url(&one)).send().await.unwrap().status(), 404);
    let error = https(&one).get(url(&two)).send().await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    // By address the certificate holds as well.
    let by_address = format!("https://127.0.0.1:{}", one.ports().tenant);
    assert_eq!(https(&one).get(by_address).send().await.unwrap().status(), 404);
}

#[tokio::test]
async fn plain_http_on_an_https_port_is_turned_away_and_https_goes_on() {
    let local = secure().await;
    let plain = format!("http://localhost:{}/", local.ports().blob);
    assert!(http().get(plain).send().await.is_err());
    let mut idle = TcpStream::connect(("127.0.0.1", local.ports().blob)).await.unwrap();
    assert_eq!(https(&local).get(&local.ready_file().tenant_url).send().await.unwrap().status(), 404);
    let began = Instant::now();
    local.stop().await;
    assert!(began.elapsed() < Duration::from_secs(20), "one that says nothing holds nobody up");
    let mut rest = Vec::new();
    drop(timeout(Duration::from_secs(10), tokio::io::AsyncReadExt::read_to_end(&mut idle, &mut rest)).await.unwrap());
}

#[tokio::test]
async fn a_cut_under_tls_comes_after_exactly_so_many_bytes() {
    let local = secure().await;
    let sas = local.keys().account_sas("rwc", now() + 60);
    let url = format!("https://localhost:{}/devstoreaccount1/batchtoprocess/b?{sas}", local.ports().blob);
    let body: Vec<u8> = (0..300_000_u32).map(|byte| u8::try_from(byte % 251).unwrap()).collect();
    let put = https(&local).put(&url).header("x-ms-blob-type", "BlockBlob").body(body.clone()).send().await.unwrap();
    assert_eq!(put.status(), 201);
    let cut = Step::new(
        When::Blob(crate::fault::BlobRequests::default()),
        What::Cut { at: CutAt::BodyByte(123_456), refuse_sas: false },
    );
    local.faults().install([cut]).unwrap();
    let mut response = https(&local).get(&url).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let mut got = Vec::new();
    let error = loop {
        match response.chunk().await {
            Ok(Some(chunk)) => got.extend(chunk),
            Ok(None) => panic!("an orderly end after {} bytes", got.len()),
            Err(error) => break error,
        }
    };
    assert_eq!(got, body[..123_456], "{error}");
    let whole = https(&local).get(&url).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(whole, body);
}

#[tokio::test]
async fn the_token_authority_has_bad_days_too() {
    let local = secure().await;
    let script = |text: &str| local.faults().install(Step::from_toml(text).unwrap()).unwrap();
    let client = local.ready_file().clients[0].clone();
    let url =
        format!("{}/{}/oauth2/v2.0/token", local.ready_file().authority_url.as_ref().unwrap(), client.directory_id);
    let form = format!(
        "grant_type=client_credentials&client_id={}&client_secret={}&scope=api%3A%2F%2Fwaybill-tenant-service%2F.default",
        client.client_id,
        client.client_secret.as_ref().unwrap(),
    );
    let ask = async || https(&local).post(&url).body(form.clone()).timeout(Duration::from_secs(20)).send().await;

    script("[[faults]]\non = \"token\"\ndo = \"refuse\"\ncode = \"503\"\nretry_after_s = 2");
    let refused = ask().await.unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (503, &"2".parse().unwrap()));
    let refused: Json = serde_json::from_slice(&refused.bytes().await.unwrap()).unwrap();
    assert_eq!((&refused["error"], &refused["error_codes"][0]), (&"temporarily_unavailable".into(), &90_033.into()));

    script("[[faults]]\non = \"token\"\ndo = \"throttle\"\nretry_after_s = 1");
    let refused = ask().await.unwrap();
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"1".parse().unwrap()));

    script("[[faults]]\non = \"token\"\ndo = \"delay\"\nms = 300");
    let began = Instant::now();
    assert_eq!(ask().await.unwrap().status(), 200);
    assert!(began.elapsed() >= Duration::from_millis(300));

    for cut in ["reset", "drop_answer\"\nreset = true\n#\""] {
        script(&format!("[[faults]]\non = \"token\"\ndo = \"{cut}\""));
        assert!(ask().await.is_err(), "{cut}");
    }
    // Of another client: it waits on.
    script("[[faults]]\non = \"token\"\nclient = \"5e0b1f6e-0000-4000-8000-000000000000\"\ndo = \"reset\"");
    assert_eq!(ask().await.unwrap().status(), 200);
    assert_eq!((local.faults().waiting(), *local.faults().fired().borrow()), (1, 5));
    assert_eq!(local.faults().log_lines()[0].on, format!("token for {}", client.client_id));

    local.faults().clear();
    script(include_str!("../../../../examples/faults/authority-down.toml"));
    let mut answers = Vec::new();
    while answers.last() != Some(&200) {
        answers.push(ask().await.map_or(0, |answer| answer.status().as_u16()));
    }
    assert_eq!(answers, [503, 503, 429, 0, 200], "the day of the examples");
}

/// Asks the authority for a token with the secret of the first client.
async fn access_token(local: &Local, scope: &str) -> Json {
    let client = &local.ready_file().clients[0];
    let url =
        format!("{}/{}/oauth2/v2.0/token", local.ready_file().authority_url.as_ref().unwrap(), client.directory_id);
    let form = format!(
        "grant_type=client_credentials&client_id={}&client_secret={}&scope={}",
        client.client_id,
        client.client_secret.as_ref().unwrap(),
        scope.replace(':', "%3A").replace('/', "%2F"),
    );
    let response = https(local).post(url).body(form).send().await.unwrap();
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

#[tokio::test]
async fn an_access_token_of_the_authority_gets_a_grant_of_the_clients_tenant() {
    let clock = Arc::new(std::sync::atomic::AtomicI64::new(0));
    let later = Arc::clone(&clock);
    let now =
        move || OffsetDateTime::now_utc() + time::Duration::seconds(later.load(std::sync::atomic::Ordering::SeqCst));
    let local = Local::builder().tls().tenants(["acme", "zenith"]).access_token_life(Duration::from_secs(60)).now(now);
    let local = local.start().await.unwrap();
    let ready = local.ready_file();
    let answer = access_token(&local, ready.tenant_scope.as_ref().unwrap()).await;
    assert_eq!((answer["token_type"].as_str(), answer["expires_in"].as_u64()), (Some("Bearer"), Some(60)));
    let token = answer["access_token"].as_str().unwrap();
    let grant = async |token: &str| {
        let url = format!("{}{TEMPORARY_ENDPOINTS_PATH}", ready.tenant_url);
        let response = https(&local).get(url).bearer_auth(token).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let (status, body) = grant(token).await;
    assert_eq!(status, 200, "{body}");
    let endpoints = TemporaryEndpoints::parse(body.as_bytes(), &GrantLayout::default()).unwrap();
    assert_eq!(endpoints.service_bus[0].entity_path, "exports/subscriptions/acme");
    assert_eq!(local.stats().grants("acme").issued, 1);

    let bus = access_token(&local, "https://servicebus.azure.net/.default").await;
    let (status, body) = grant(bus["access_token"].as_str().unwrap()).await;
    assert!(status == 401 && body.contains("InvalidAudience"), "{body}");
    let (status, body) = grant(&token.replace(token.rsplit_once('.').unwrap().1, "AAAA")).await;
    assert!(status == 401 && body.contains("InvalidSignature"), "{body}");
    clock.store(60, std::sync::atomic::Ordering::SeqCst);
    let (status, body) = grant(token).await;
    assert!(status == 401 && body.contains("ExpiredToken"), "{body}");
}

#[tokio::test]
async fn the_authority_answers_as_entra_does_over_https() {
    let local = secure().await;
    let ready = local.ready_file();
    let url = ready.authority_url.clone().unwrap();
    let directory = ready.clients[0].directory_id.clone();
    let get = async |path: &str| -> (u16, Json) {
        let response = https(&local).get(format!("{url}/{path}")).send().await.unwrap();
        (response.status().as_u16(), serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
    };
    let (status, configuration) = get(&format!("{directory}/v2.0/.well-known/openid-configuration")).await;
    assert_eq!(status, 200);
    assert_eq!(configuration["issuer"], format!("{url}/{directory}/v2.0"));
    assert_eq!(configuration["token_endpoint"], format!("{url}/{directory}/oauth2/v2.0/token"));
    let keys = configuration["jwks_uri"].as_str().unwrap().strip_prefix(&format!("{url}/")).unwrap();
    assert_eq!(get(keys).await.1["keys"][0]["kty"], "RSA");
    let (_, instance) = get("common/discovery/instance?api-version=1.1").await;
    assert_eq!(instance["metadata"][0]["aliases"][0], url.trim_start_matches("https://"));

    let (status, unknown) = get("contoso/v2.0/.well-known/openid-configuration").await;
    assert_eq!(
        (status, &unknown["error"], &unknown["error_codes"][0]),
        (400, &"invalid_request".into(), &90_002.into())
    );
    assert_eq!(get("").await.0, 404);
    let (status, wrong) = get(&format!("{directory}/oauth2/v2.0/token")).await;
    assert_eq!((status, &wrong["error_codes"][0]), (400, &900_561.into()));

    let refused = access_token(&local, "https://example.com").await;
    assert_eq!(refused["error"], "invalid_scope");
    let text = refused["error_description"].as_str().unwrap();
    assert!(
        text.starts_with("AADSTS1002012: ") && text.contains(" Trace ID: ") && text.contains(" Timestamp: "),
        "{text}"
    );
    for field in ["timestamp", "trace_id", "correlation_id"] {
        assert!(refused[field].is_string(), "{field}");
    }
}

#[tokio::test]
async fn the_client_made_for_a_run_is_a_file_that_only_its_owner_reads() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("client.pem");
    let local = Local::builder().tls().client_file(&path).start().await.unwrap();
    let client = &local.ready_file().clients[0];
    assert_eq!((client.tenant.as_str(), client.client_id.as_str()), ("acme", crate::config::CLIENT_ID));
    assert_eq!(fs::canonicalize(&path).unwrap().to_str(), client.certificate_file.as_deref());
    let pem = fs::read_to_string(&path).unwrap();
    assert!(pem.contains("BEGIN CERTIFICATE") && pem.contains("BEGIN PRIVATE KEY"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let shown = format!("{:?} {:?}", local.ready_file(), local);
    assert!(!shown.contains(client.client_secret.as_ref().unwrap()), "{shown}");
    local.stop().await;
    assert!(!path.exists());
}

#[tokio::test]
async fn clients_of_the_configuration_take_the_place_of_the_one_made() {
    let directory = tempfile::tempdir().unwrap();
    let certificate = directory.path().join("acme.pem");
    let run = |config: &str| {
        let text = config.replace("FILE", certificate.to_str().unwrap());
        Local::builder().config(crate::config::Config::parse(&text).unwrap()).ports(Ports::RANDOM).start()
    };
    let config = "tls = true\n[[clients]]\nid = \"5E0B1F6E-0000-4000-8000-000000000000\"\ntenant = \"acme\"\n\
                  certificate_file = \"FILE\"\nsecret = \"s3cret\"\n";
    let error = run(config).await.unwrap_err();
    assert!(matches!(error, StartError::Client(_)) && error.to_string().contains("cannot be read"), "{error}");
    fs::write(&certificate, "no PEM at all").unwrap();
    let error = run(config).await.unwrap_err();
    assert!(error.to_string().contains("holds no certificate"), "{error}");
    let elliptic = rcgen::KeyPair::generate().unwrap();
    fs::write(&certificate, crate::tls::dated("x").self_signed(&elliptic).unwrap().pem()).unwrap();
    let error = run(config).await.unwrap_err();
    assert!(error.to_string().contains("is not RSA"), "{error}");
    fs::write(&certificate, crate::authority::client::make("acme").unwrap().pem).unwrap();
    let local = run(config).await.unwrap();
    let ready = local.ready_file();
    assert_eq!(ready.clients.len(), 1);
    assert_eq!(ready.clients[0].client_id, "5e0b1f6e-0000-4000-8000-000000000000");
    assert!(access_token(&local, ready.tenant_scope.as_ref().unwrap()).await["access_token"].is_string());
    assert!(certificate.exists());
    drop(local);
    assert!(certificate.exists(), "a file of its owner's is not removed");
}

#[tokio::test]
async fn policies_a_further_host_and_the_form_of_a_tokens_end_come_from_the_configuration() {
    let config = "token_end = \"detach-forced\"\n[namespace]\nkey_name = \"root\"\nkey = \"k0\"\nhost = \"ns.example.com\"\n\
                  [[policies]]\nname = \"p\"\nkey = \"k\"\nrights = [\"Listen\"]\nentity = \"exports\"\n";
    let config = crate::config::Config::parse(config).unwrap();
    assert_eq!(config.token_end, TokenEnd::DetachForced);
    let local = Local::builder().config(config).ports(Ports::RANDOM).start().await.unwrap();
    let root = local.keys().root_bus_token("NS.example.com", "exports", now() + 60);
    assert_eq!(local.keys().check_bus(&root, "exports", now()).unwrap().rights, crate::keys::Rights::ALL);
}
