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
    assert!(began.elapsed() < Duration::from_secs(3), "one that says nothing holds nobody up");
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
