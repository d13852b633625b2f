//! `waybill-local` as a user runs it: configured by a file, looked at, and treated badly from the command line.

use std::time::{Duration, Instant};

use tempfile::TempDir;
use waybill_azure::{
    bus::{Bus, BusOptions, Message, ReceiverOptions},
    connection_string::key_tokens,
};
use waybill_contracts::ReadyFile;

use super::binaries::{Ended, PATIENCE, Running, command, run};

/// A running `waybill-local` with its ready file.
struct Started {
    folder: TempDir,
    ready: ReadyFile,
    process: Running,
}

impl Started {
    async fn with(arguments: &[&str]) -> Self {
        Self::inside(tempfile::tempdir().unwrap(), arguments).await
    }

    async fn inside(folder: TempDir, arguments: &[&str]) -> Self {
        let run = [&["run", "--random-ports", "--ready-file", "local.json"], arguments].concat();
        let process = Running::start(command(&folder, "waybill-local", &run));
        let began = Instant::now();
        let ready = loop {
            if let Ok(text) = std::fs::read_to_string(folder.path().join("local.json")) {
                break serde_json::from_str(&text).unwrap();
            }
            assert!(began.elapsed() < PATIENCE, "no ready file");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        Self { folder, ready, process }
    }

    /// `waybill-local arguments --local local.json`.
    async fn ask(&self, arguments: &[&str]) -> Ended {
        run(command(&self.folder, "waybill-local", &[arguments, &["--local", "local.json"]].concat())).await
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    /// A connection to an entity with the namespace's key.
    fn bus(&self, entity: &str) -> Bus {
        let tokens = key_tokens(
            self.ready.service_bus_connection_string.parse().unwrap(),
            entity.to_owned(),
            self.ready.blob_connection_string.parse().unwrap(),
            self.ready.container.clone(),
            Duration::from_secs(3600),
        );
        Bus::new(tokens, BusOptions::default())
    }

    /// Sends messages to an entity.
    async fn send(&self, entity: &str, bodies: &[&str]) {
        let bus = self.bus(entity);
        let sender = bus.sender().await.unwrap();
        let message = |body: &&str| Message {
            body: (*body).to_owned().into(),
            message_id: format!("id-{body}"),
            ..Message::default()
        };
        sender.send(&bodies.iter().map(message).collect::<Vec<_>>()).await.unwrap();
        bus.close().await;
    }
}

fn folder_with(name: &str, text: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(name), text).unwrap();
    folder
}

const EMULATOR: &str = include_str!("../../../local/golden/config/shop.json");

#[tokio::test]
async fn the_emulators_config_runs_as_it_is_with_our_own_besides() {
    let folder = folder_with("config.json", EMULATOR);
    let local = Started::inside(folder, &["--config", "config.json"]).await;
    let status = local.ask(&["status", "--format", "json"]).await.with(0).json();
    let paths: Vec<&str> =
        status["entities"].as_array().unwrap().iter().map(|entity| entity["path"].as_str().unwrap()).collect();
    assert_eq!(
        paths,
        [
            "exports",
            "exports/subscriptions/acme",
            "letters/inbound",
            "orders",
            "orders/subscriptions/all",
            "orders/subscriptions/json",
            "orders/subscriptions/north",
            "returns",
        ]
    );
    local.send("letters/inbound", &["one"]).await;
    let peeked = local.ask(&["peek", "letters/inbound", "--format", "json"]).await.with(0).json();
    assert_eq!(peeked["messages"][0]["body"], "one");
    let ended = local.process.terminate().await.with(0);
    assert!(
        ended.err.contains("actions of rules are not supported"),
        "a warning of what is passed over: {}",
        ended.err
    );
}

#[tokio::test]
async fn peek_shows_messages_page_by_page_and_takes_none() {
    let local = Started::with(&[]).await;
    local.send("exports", &["one", "two", "three"]).await;
    let subscription = "exports/subscriptions/acme";
    for _ in 0..2 {
        let ended = local.ask(&["peek", subscription, "--max", "2"]).await.with(0);
        assert!(ended.out.contains("id-one") && ended.out.contains("id-two"), "{}", ended.out);
        assert!(!ended.out.contains("id-three") && ended.out.contains("more: --from 3"), "{}", ended.out);
    }
    let ended = local.ask(&["peek", subscription, "--from", "3"]).await.with(0);
    assert!(ended.out.contains("id-three") && !ended.out.contains("more"), "{}", ended.out);
    let dead = local.ask(&["peek", &format!("{subscription}/$DeadLetterQueue")]).await.with(0);
    assert_eq!(dead.out, "no messages\n");

    let ended = local.ask(&["peek", "exports/subscriptions/acne"]).await.with(1);
    assert!(
        ended.err.contains("there are exports, exports/subscriptions/acme") && ended.err.lines().count() == 1,
        "{}",
        ended.err
    );
    local.process.terminate().await.with(0);
}

#[tokio::test]
async fn status_counts_what_there_is_in_tables_and_in_json() {
    let local = Started::with(&[]).await;
    local.send("exports", &["one", "two"]).await;
    let ended = local.ask(&["status"]).await.with(0);
    for part in ["ENTITY", "exports/subscriptions/acme  subscription", "topic, 2 sent", "CONTAINER", "batchtoprocess"] {
        assert!(ended.out.contains(part), "{part}: {}", ended.out);
    }
    assert!(ended.out.contains("RootManageSharedAccessKey"), "who signed a token: {}", ended.out);
    let status = local.ask(&["status", "--format", "json"]).await.with(0).json();
    let entities = status["entities"].as_array().unwrap();
    let acme = entities.iter().find(|entity| entity["path"] == "exports/subscriptions/acme").unwrap();
    assert_eq!(acme["counts"]["active"], 2, "{acme}");
    let token = &status["tokens"][0];
    assert_eq!((token["kind"].as_str(), token["sha256"].as_str().map(str::len)), (Some("bus"), Some(16)), "{token}");
    local.process.terminate().await.with(0);
}

#[tokio::test]
async fn status_shows_who_is_connected_and_how_much_credit_is_left() {
    let local = Started::with(&[]).await;
    let bus = local.bus("exports/subscriptions/acme");
    let mut receiver = bus.receiver(ReceiverOptions::default()).await.unwrap();
    receiver.add_credit(7).await.unwrap();
    local.send("exports", &["one", "two"]).await;
    for _ in 0..2 {
        receiver.next().await.unwrap();
    }
    let status = local.ask(&["status", "--format", "json"]).await.with(0).json();
    // The sender's connection may still be closing.
    let connections = status["connections"].as_array().unwrap();
    let ours = connections.iter().find(|connection| connection["links"][0]["role"] == "receiver").unwrap();
    assert_eq!(ours["links"].as_array().unwrap().len(), 1, "{ours}");
    assert_eq!(
        (&ours["links"][0]["entity"], &ours["links"][0]["credit"]),
        (&"exports/subscriptions/acme".into(), &5.into())
    );
    assert!(ours["peer"].as_str().unwrap().starts_with("127.0.0.1:"), "{ours}");
    assert!(ours["containerId"].as_str().is_some_and(|id| !id.is_empty()), "{ours}");
    let ended = local.ask(&["status"]).await.with(0);
    assert!(ended.out.contains("receiver of exports/subscriptions/acme, credit 5"), "{}", ended.out);
    receiver.close().await;
    bus.close().await;
    local.process.terminate().await.with(0);
}

#[tokio::test]
async fn rotate_and_fault_reach_the_running_one() {
    let local = Started::with(&[]).await;
    let ended = local.ask(&["rotate", "--tenant", "acme"]).await.with(0);
    assert!(ended.out.starts_with("rotated acme: "), "{}", ended.out);
    let ended = local.ask(&["rotate", "--grace", "1.5"]).await.with(0);
    assert!(ended.out.ends_with("refused in 1.5 s\n"), "{}", ended.out);
    local.ask(&["rotate", "--grace", "soon"]).await.with(2);
    let ended = local.ask(&["rotate", "--tenant", "nobody"]).await.with(1);
    assert!(ended.err.contains("nobody"), "{}", ended.err);
    assert_eq!(local.ask(&["rotate", "--format", "json"]).await.with(0).json()["rotated"], "all tenants");

    local.write("day.toml", "[[faults]]\ndo = \"rotate\"\n\n[[faults]]\non = \"grant\"\ndo = \"throttle\"\n");
    let ended = local.ask(&["fault", "day.toml"]).await.with(0);
    assert!(ended.out.starts_with("2 steps installed; "), "{}", ended.out);
    let ended = local.ask(&["fault", "--list"]).await.with(0);
    assert!(
        ended.out.contains("rotate") && ended.out.contains("waits") && ended.out.contains("grant for any tenant"),
        "{}",
        ended.out
    );
    assert_eq!(local.ask(&["fault", "--clear"]).await.with(0).out, "no step waits any more, and outages are over\n");
    assert_eq!(local.ask(&["fault", "--list", "--format", "json"]).await.with(0).json()["waiting"], 0);

    local.write("wrong.toml", "[[faults]]\n\ndo = \"dance\"\n");
    let ended = local.ask(&["fault", "wrong.toml"]).await.with(1);
    assert!(ended.err.contains("wrong.toml") && ended.err.contains("dance"), "{}", ended.err);
    let ended = local.ask(&["fault", "none.toml"]).await.with(1);
    assert!(ended.err.contains("cannot read none.toml"), "{}", ended.err);
    local.ask(&["fault"]).await.with(2);
    local.ask(&["fault", "--list", "--clear"]).await.with(2);
    local.process.terminate().await.with(0);
}

#[tokio::test]
async fn who_cannot_be_reached_is_said_with_what_to_do() {
    let local = Started::with(&[]).await;
    let ready = std::fs::read_to_string(local.folder.path().join("local.json")).unwrap();
    let admin_url = local.ready.admin_url.clone();
    local.ask(&["status"]).await.with(0);
    let folder = local.folder;
    local.process.terminate().await.with(0);

    let status =
        async |arguments: &[&str]| run(command(&folder, "waybill-local", &[&["status"], arguments].concat())).await;
    let ended = status(&["--local", "local.json"]).await.with(1);
    assert!(ended.err.contains("there is no ready file local.json; start `waybill-local run"), "{}", ended.err);
    std::fs::write(folder.path().join("local.json"), ready).unwrap();
    let ended = status(&["--local", "local.json"]).await.with(1);
    assert!(ended.err.contains("that wrote local.json has ended; start it again"), "{}", ended.err);
    let ended = status(&["--admin", &admin_url]).await.with(1);
    assert!(ended.err.contains(&format!("{admin_url} cannot be reached")), "{}", ended.err);
    std::fs::write(folder.path().join("other.json"), "{}").unwrap();
    let ended = status(&["--local", "other.json"]).await.with(1);
    assert!(ended.err.contains("other.json is no ready file of waybill-local"), "{}", ended.err);
    status(&["--admin", "ftp://x"]).await.with(2);
    status(&["--local", "local.json", "--admin", &admin_url]).await.with(2);
}

#[tokio::test]
async fn a_wrong_configuration_is_one_line_with_file_line_and_what_was_meant() {
    for (name, text, wanted) in [
        ("a.toml", "[[queues]]\nname = \"q\"\nlock_duration = 1\n", "a.toml: configuration, line 3: unknown field"),
        ("b.json", "{\"UserConfig\": {}}", "b.json: configuration, UserConfig: Namespaces has 0 entries"),
    ] {
        let folder = folder_with(name, text);
        let ended = run(command(&folder, "waybill-local", &["run", "--random-ports", "--config", name])).await.with(1);
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
        assert!(ended.err.contains(wanted), "{}", ended.err);
    }
}

#[tokio::test]
async fn the_terminal_shows_connections_and_why_something_was_refused() {
    let local = Started::with(&[]).await;
    local.send("exports", &["one"]).await;
    let storage = format!("{}/batchtoprocess/nothing?sv=2021-12-02&sig=GEHEIM", blob_endpoint(&local.ready));
    let refused = reqwest::Client::builder().no_proxy().build().unwrap().get(&storage).send().await.unwrap();
    assert_eq!(refused.status(), 403);
    let err = local.process.terminate().await.with(0).err;
    for part in [
        "bus: connection opened",
        "bus: connection closed",
        "blob: request refused",
        "/devstoreaccount1/batchtoprocess/nothing",
    ] {
        assert!(err.contains(part), "{part}: {err}");
    }
    assert!(!err.contains("GEHEIM"), "{err}");
}

#[tokio::test]
async fn a_client_cannot_forge_a_line_of_the_log() {
    let local = Started::with(&["--tls"]).await;
    let pem = std::fs::read(local.ready.ca_file.as_ref().unwrap()).unwrap();
    let authority = reqwest::Certificate::from_pem(&pem).unwrap();
    let http = reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build().unwrap();
    let directory = &local.ready.clients[0].directory_id;
    let token = format!("{}/{directory}/oauth2/v2.0/token", local.ready.authority_url.as_ref().unwrap());
    let form = "grant_type=client_credentials&scope=x&client_id=a%0AINFO+forged%1B%5B2J";
    assert_eq!(http.post(token).body(form).send().await.unwrap().status(), 400);
    let admin = format!("{}/entities/a%0AINFO%20forged", local.ready.admin_url);
    assert_eq!(http.get(admin).send().await.unwrap().status(), 404);
    let blob = format!("{}/a%0AINFO%20forged", blob_endpoint(&local.ready));
    assert!(http.get(blob).send().await.unwrap().status().is_client_error());
    let err = local.process.terminate().await.with(0).err;
    assert!(err.contains(r"no access token") && err.contains(r"a\nINFO forged\u{1b}[2J"), "{err}");
    assert!(!err.contains('\u{1b}') && !err.lines().any(|line| line.starts_with("INFO forged")), "{err}");
}

fn blob_endpoint(ready: &ReadyFile) -> &str {
    let (_, rest) = ready.blob_connection_string.split_once("BlobEndpoint=").unwrap();
    rest.split(';').next().unwrap()
}
