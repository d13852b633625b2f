//! The subscriber as third parties run it: known to TenantService by Entra ID. The publisher as its company may run it: known to
//! Service Bus and storage by Entra ID, without a key.

use std::{path::PathBuf, process::Stdio, sync::Arc};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    process::Command,
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use url::Url;
use waybill_azure::{
    Secret, Service, TokenSource as _,
    http::{HttpClient, HttpOptions},
    identity::{AccessTokenOptions, AccessTokens, Identity},
};
use waybill_contracts::GrantLayout;
use waybill_local::{Local, keys::TokenKind};
use waybill_subscriber::grants::{Credential, Grants};

use crate::{
    harness::{PATIENCE, TENANT, World, binary},
    watch::signature_in,
};

const SECTION: &str = "WAYBILL_SUBSCRIBER__TENANT__ENTRA__";

async fn world() -> World {
    let world = World::of(Local::builder().tls()).await;
    world.ready_file();
    world
}

/// Runs the subscriber until it is idle, with every line of the log; what it said, and whether it succeeded.
async fn run(world: &World, settings: &[(&str, String)], others: &[(&str, String)]) -> (bool, String) {
    let mut command = Command::new(binary("waybill-subscriber"));
    command.args(["run", "--until-idle", "0.2", "--sink"]).arg(format!("sqlite:{}", world.database().display()));
    command.arg("--local").arg(world.path("ready.json")).arg("--data").arg(world.path("data"));
    for (key, value) in settings {
        command.env(format!("{SECTION}{key}"), value);
    }
    command.envs(others.iter().map(|(key, value)| (*key, value)));
    command.current_dir(world.path("")).stdin(Stdio::null()).kill_on_drop(true).env("RUST_LOG", "trace");
    let output = timeout(PATIENCE, command.output()).await.expect("it ends in time").expect("it runs");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(signature_in(told.as_bytes()), None, "a token is shown");
    (output.status.success(), told)
}

/// Publishes one file as the identity of these settings, with every line of the log; what was said, and whether it went.
async fn publish(world: &World, command: &[&str], settings: &[(&str, String)]) -> (bool, String) {
    std::fs::write(world.path("one.jsonl"), "{\"n\":1}\n").expect("the file is written");
    let mut publisher = Command::new(binary("waybill-publisher"));
    publisher.args(command).arg("--data").arg(world.path("published")).env("RUST_LOG", "trace");
    publisher.envs(settings.iter().map(|(key, value)| (format!("WAYBILL_PUBLISHER__{key}"), value)));
    publisher.current_dir(world.path("")).stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, publisher.output()).await.expect("it ends in time").expect("it runs");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), told)
}

#[tokio::test]
async fn a_publisher_without_a_key_uploads_and_sends_as_its_identity_and_no_token_is_in_its_log() {
    let world = world().await;
    let ready = world.local.ready_file().clone();
    let client = &ready.clients[0];
    let secret = client.client_secret.clone().expect("a client that was made has a secret");
    let address = |text: &str, name: &str| {
        let part = text.split(';').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        part.expect("a part of the connection string").to_owned()
    };
    let bus = ready.service_bus_tls_connection_string.clone().expect("there is TLS");
    // As in a settings file, with nothing of the ready file but where everything is.
    let mut settings = vec![
        ("SERVICE_BUS_NAMESPACE", address(&bus, "Endpoint")),
        ("BLOB_ENDPOINT", address(&ready.blob_connection_string, "BlobEndpoint")),
        ("TOPIC", ready.topic.clone()),
        ("CONTAINER", ready.container.clone()),
        ("CA_FILE", ready.ca_file.clone().expect("there is TLS")),
        ("ENTRA__AUTHORITY", ready.authority_url.clone().expect("there is TLS")),
        ("ENTRA__DIRECTORY_ID", client.directory_id.clone()),
        ("ENTRA__CLIENT_ID", client.client_id.clone()),
        ("ENTRA__CLIENT_SECRET", secret.clone()),
    ];
    let command = ["publish", "--type", "Number", "one.jsonl"];
    let (went, told) = publish(&world, &command, &settings).await;
    assert!(went, "{told}");
    // Of a token the beginning is the same for all: a header in base64.
    for hidden in [secret.as_str(), "eyJ", "sig="] {
        assert!(!told.contains(hidden), "{hidden} in {told}");
    }
    let (well, told) = publish(&world, &["doctor"], &settings).await;
    assert!(well && told.contains("a link to the topic opens") && told.contains("the container answers"), "{told}");

    // What contradicts itself, or lacks something, is said.
    let with = |more: &[(&'static str, &str)]| {
        let mut all = settings.clone();
        all.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
        all
    };
    for (more, expected) in [
        (with(&[("BLOB_CONNECTION_STRING", "AccountName=a;AccountKey=a2V5")]), "leave one of them out"),
        (with(&[("ENTRA__SCOPE", "api://x/.default")]), "has a `scope`; leave it out"),
        (with(&[("ENTRA__MANAGED_IDENTITY", "true")]), "[publisher.entra] needs one of"),
        (with(&[("BLOB_ENDPOINT", "http://127.0.0.1:1/account")]), "over https only"),
        (with(&[("SERVICE_BUS_NAMESPACE", "mybus")]), "mybus.servicebus.windows.net"),
        (with(&[("ENTRA__CLIENT_SECRET", "TOPSECRET")]), "invalid_client"),
    ] {
        let (well, told) = publish(&world, &["doctor"], &more).await;
        assert!(!well && told.contains(expected) && !told.contains("TOPSECRET"), "{expected} not in {told}");
    }
    settings.retain(|(key, _)| *key != "BLOB_ENDPOINT");
    let (well, told) = publish(&world, &["doctor"], &settings).await;
    assert!(!well && told.contains("no blob_connection_string") && told.contains("`blob_endpoint`"), "{told}");
    world.end().await;
}

#[tokio::test]
async fn a_publisher_with_a_certificate_publishes_to_a_local_of_its_own() {
    let world = world().await;
    let file = world.local.ready_file().clients[0].certificate_file.clone().expect("a certificate");
    let ready = world.path("ready.json").display().to_string();
    let command = ["publish", "--type", "Number", "one.jsonl", "--local", &ready];
    // The settings' authority is not that of the file: nothing of it goes to the file's endpoints.
    let another = ("ENTRA__AUTHORITY", "https://127.0.0.1:1".to_owned());
    let (went, told) = publish(&world, &command, &[("ENTRA__CERTIFICATE_FILES", file), another]).await;
    assert!(went, "{told}");
    let used = world.local.keys().tokens_used(TokenKind::Storage);
    assert!(!used.is_empty() && used.iter().all(|used| used.signed_by.starts_with("client ")), "{used:?}");
    world.end().await;
}

#[tokio::test]
async fn a_local_publisher_shows_no_token_of_azures_and_uses_the_files_keys() {
    let plain = World::of(Local::builder()).await;
    plain.ready_file();
    let tls = world().await;
    for (world, setting) in [
        (&plain, ("ENTRA__CLIENT_SECRET", "TOPSECRET".to_owned())),
        (&tls, ("ENTRA__MANAGED_IDENTITY", "true".to_owned())),
    ] {
        // Nobody is asked for one: nobody would answer there.
        let id = "5e0b1f6e-0000-4000-8000-000000000001".to_owned();
        let settings = [
            setting,
            ("ENTRA__AUTHORITY", "https://127.0.0.1:1".to_owned()),
            ("ENTRA__DIRECTORY_ID", id.clone()),
            ("ENTRA__CLIENT_ID", id),
        ];
        let ready = world.path("ready.json").display().to_string();
        let command = ["publish", "--type", "Number", "one.jsonl", "--local", &ready];
        let (went, told) = publish(world, &command, &settings).await;
        assert!(went, "{told}");
        for kind in [TokenKind::Storage, TokenKind::Bus] {
            let used = world.local.keys().tokens_used(kind);
            assert!(!used.is_empty() && used.iter().all(|used| !used.signed_by.starts_with("client ")), "{used:?}");
        }
    }
    plain.end().await;
    tls.end().await;
}

/// Access tokens of the one client, by its secret.
fn tokens(world: &World) -> AccessTokens {
    let ready = world.local.ready_file();
    let client = &ready.clients[0];
    let http =
        HttpClient::new(&HttpOptions { ca_file: ready.ca_file.clone().map(PathBuf::from), ..HttpOptions::default() });
    let identity = Identity::Secret {
        directory_id: client.directory_id.clone(),
        client_id: client.client_id.clone(),
        secret: Secret::new(client.client_secret.clone().expect("a client that was made has a secret")),
    };
    let authority = ready.authority_url.as_deref().map(|url| url.parse().expect("an address"));
    let scope = ready.tenant_scope.clone().expect("TenantService has a scope");
    let options = AccessTokenOptions { authority, ..AccessTokenOptions::of(scope) };
    AccessTokens::new(http.expect("a client"), identity, options).expect("a client with a secret")
}

#[tokio::test]
async fn a_subscriber_with_a_certificate_applies_files_and_settings_that_say_two_things_are_refused() {
    let world = world().await;
    std::fs::write(world.path("one.jsonl"), "{\"n\":1}\n").expect("the file is written");
    let mut publish = Command::new(binary("waybill-publisher"));
    publish.args(["publish", "--type", "Number", "one.jsonl", "--local"]).arg(world.path("ready.json"));
    let published = timeout(PATIENCE, publish.current_dir(world.path("")).output()).await.expect("it ends in time");
    assert!(published.expect("it runs").status.success());
    let file = world.local.ready_file().clients[0].certificate_file.clone().expect("a certificate");
    let (went, told) = run(&world, &[("CERTIFICATE_FILES", file)], &[]).await;
    assert!(went, "{told}");
    assert_eq!(world.query("SELECT n FROM \"Number\""), ["1"]);

    // Both, or neither, is a mistake of the settings.
    let (went, told) = run(&world, &[("SIGNING", "RS256".to_owned())], &[]).await;
    assert!(!went && told.contains("needs one of `certificate_files`"), "{told}");
    let both = [("CERTIFICATE_FILES", "a.pem".to_owned()), ("CLIENT_SECRET", "TOPSECRET".to_owned())];
    let (went, told) = run(&world, &both, &[]).await;
    assert!(!went && told.contains("needs one of") && !told.contains("TOPSECRET"), "{told}");
    world.end().await;
}

#[tokio::test]
async fn a_managed_identity_is_asked_for_on_this_machine_and_its_token_is_taken() {
    let world = world().await;
    // The endpoint that App Service gives a program; its token is one of the authority's.
    let token = tokens(&world).token().await.expect("a token");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://127.0.0.1:{}/msi/token", listener.local_addr().expect("an address").port());
    let mut tasks = JoinSet::new();
    let (seen, mut heads) = mpsc::channel(8);
    tasks.spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.expect("a client");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.expect("a head"));
            }
            seen.send(String::from_utf8_lossy(&head).into_owned()).await.expect("the test looks");
            let body = format!(
                "{{\"access_token\":\"{}\",\"expires_on\":\"4102444800\",\"token_type\":\"Bearer\",\"resource\":\"r\"}}",
                token.expose()
            );
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            client.write_all(answer.as_bytes()).await.expect("it waits");
        }
    });
    let environment = [("IDENTITY_ENDPOINT", endpoint), ("IDENTITY_HEADER", "TOPSECRET".to_owned())];
    let (went, told) = run(&world, &[("MANAGED_IDENTITY", "true".to_owned())], &environment).await;
    assert!(went, "{told}");
    assert!(!told.contains("TOPSECRET"), "{told}");
    let head = heads.try_recv().expect("the endpoint was asked").to_ascii_lowercase();
    assert!(head.starts_with("get /msi/token?") && head.contains("\r\nx-identity-header: topsecret\r\n"), "{head}");
    world.end().await;
}

#[tokio::test]
async fn an_access_token_that_was_withdrawn_is_replaced_at_once() {
    let world = world().await;
    let ready = world.local.ready_file();
    let http =
        HttpClient::new(&HttpOptions { ca_file: ready.ca_file.clone().map(PathBuf::from), ..HttpOptions::default() });
    let tenant: Url = ready.tenant_url.parse().expect("an address");
    let credential = Credential::Entra(Arc::new(tokens(&world)));
    let now = time::OffsetDateTime::now_utc;
    let grants =
        Grants::new(http.expect("a client"), &tenant, credential, GrantLayout::default(), now).expect("grants");
    let first = grants.grant(Service::Blob, None).await.expect("a grant");
    world.local.rotate(Some(TENANT)).expect("a tenant");
    let second = grants.grant(Service::Blob, Some(first.generation)).await.expect("another grant");
    assert!(second.generation > first.generation);
    world.end().await;
}
