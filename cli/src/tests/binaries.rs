//! Exit codes and messages of the built binaries, against a `Local` in this process.

use std::{
    io::{BufRead as _, BufReader, Read, Write},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Output, Stdio},
    time::{Duration, Instant},
};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use serde_json::Value;
use tempfile::TempDir;
use waybill_azure::{
    TokenSource,
    blob::{BlobHeaders, Container, ContainerOptions},
    bus::{Bus, BusOptions, Message},
    connection_string::key_tokens,
    http::{HttpClient, HttpOptions},
};
use waybill_contracts::ReadyFile;
use waybill_local::{
    Builder, Local,
    config::{Config, Ports, TenantConfig},
    fault::Step,
};

/// Far more than any of this takes; a test that meets it has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

fn binary(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let file = tests.parent().unwrap().parent().unwrap().join(name);
    assert!(file.exists(), "{} is missing: run `cargo xtask test`, which builds the binaries", file.display());
    file
}

/// `binary arguments` in `folder`, with no settings from the environment that the tests run in.
pub(super) fn command(folder: &TempDir, name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary(name));
    command.args(arguments).current_dir(folder.path()).stdin(Stdio::null());
    for (variable, _) in std::env::vars().filter(|(name, _)| name.starts_with("WAYBILL_") || name == "RUST_LOG") {
        command.env_remove(variable);
    }
    command.env("WAYBILL_PUBLISHER__SEND_TIMEOUT_MS", "20000");
    command
}

pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) out: String,
    pub(super) err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ended {
    #[track_caller]
    pub(super) fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

/// Runs it to its end, without holding up the runtime in which `Local` lives.
pub(super) async fn run(mut command: Command) -> Ended {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap().into()
}

/// A started program that does not outlive its test.
pub(super) struct Running(Option<Child>);

impl Running {
    pub(super) fn start(mut command: Command) -> Self {
        Self(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    /// Waits for a line on standard error that begins so, and gives the rest of it.
    pub(super) async fn says(&mut self, begin: &'static str) -> String {
        let stderr = self.0.as_mut().unwrap().stderr.take().unwrap();
        let (stderr, rest) = tokio::task::spawn_blocking(move || {
            // One byte at a time: what follows the line is still there for whoever reads on.
            let mut lines = BufReader::with_capacity(1, stderr);
            loop {
                let mut line = String::new();
                assert_ne!(lines.read_line(&mut line).unwrap(), 0, "it ended without saying {begin:?}");
                if let Some(rest) = line.trim_end().strip_prefix(begin) {
                    let rest = rest.to_owned();
                    return (lines.into_inner(), rest);
                }
            }
        })
        .await
        .unwrap();
        self.0.as_mut().unwrap().stderr = Some(stderr);
        rest
    }

    /// What its standard input is written with, which stays open as long as this does.
    pub(super) fn stdin(&mut self) -> ChildStdin {
        self.0.as_mut().unwrap().stdin.take().expect("it is piped")
    }

    pub(super) async fn terminate(mut self) -> Ended {
        let child = self.0.take().unwrap();
        let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap().into()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

/// A folder with the ready file of a running `Local`, and a file to publish.
pub(super) async fn beside_local() -> (TempDir, Local) {
    beside(Local::builder()).await
}

/// The same, whose tenant may list its container.
pub(super) async fn beside_local_that_lists() -> (TempDir, Local) {
    let mut tenant = TenantConfig::named("acme");
    tenant.blob_permissions = Some("rl".to_owned());
    let config = Config { tenants: vec![tenant], ..Config::default() };
    beside(Local::builder().config(config).ports(Ports::RANDOM)).await
}

async fn beside(local: Builder) -> (TempDir, Local) {
    let folder = tempfile::tempdir().unwrap();
    let local = local.start().await.unwrap();
    local.write_ready_file(&folder.path().join("local.json")).unwrap();
    std::fs::write(folder.path().join("item.csv"), "ItemID,Price\n1,19.90\n2,5.00\n").unwrap();
    (folder, local)
}

const PUBLISH: [&str; 5] = ["publish", "--local", "local.json", "--type", "ItemChanges"];

pub(super) fn publish(folder: &TempDir, files: &[&str]) -> Command {
    command(folder, "waybill-publisher", &[&PUBLISH, files].concat())
}

/// What the rows of [`publish`]'s files are.
pub(super) const ITEM: &str = r#"
[entity.item]
types = ["ItemChanges"]
key = ["ItemID"]
columns = { ItemID = "integer", Price = "decimal" }
"#;

/// Two files of items, the second long enough to be hit in its middle.
pub(super) async fn publish_long(folder: &TempDir) {
    std::fs::write(folder.path().join("entities.toml"), ITEM).unwrap();
    let rows: String = (10..40_010).map(|id| format!("{id},1.50\n")).collect();
    std::fs::write(folder.path().join("long.csv"), format!("ItemID,Price\n{rows}")).unwrap();
    run(publish(folder, &["item.csv", "long.csv"])).await.with(0);
}

fn keys(ready: &ReadyFile) -> std::sync::Arc<dyn TokenSource> {
    key_tokens(
        ready.service_bus_connection_string.parse().unwrap(),
        ready.topic.clone(),
        ready.blob_connection_string.parse().unwrap(),
        ready.container.clone(),
        Duration::from_secs(3600),
    )
}

/// Sends a message as it is.
pub(super) async fn send(ready: &ReadyFile, body: impl Into<String>, message_id: &str) {
    let bus = Bus::new(keys(ready), BusOptions::default());
    let message =
        Message { body: body.into().into_bytes().into(), message_id: message_id.to_owned(), ..Message::default() };
    bus.sender().await.unwrap().send(&[message]).await.unwrap();
    bus.close().await;
}

/// Announces a file of ItemChanges that our own publisher would refuse.
pub(super) async fn put(local: &Local, name: &str, content_type: &str, text: &str) {
    let ready = local.ready_file();
    let http = HttpClient::new(&HttpOptions::default()).unwrap();
    let upload = Container::new(http, keys(ready), ContainerOptions::default()).upload(name);
    upload.stage(text.to_owned().into()).await.unwrap();
    upload.commit(&BlobHeaders { content_type: content_type.to_owned(), ..BlobHeaders::default() }).await.unwrap();
    let uri = format!("http://127.0.0.1:{}/devstoreaccount1/{}/{name}", local.ports().blob, ready.container);
    let body = serde_json::json!({
        "blobType": "ItemChanges", "correlationId": name, "uri": uri, "contentType": content_type,
    });
    send(ready, body.to_string(), name).await;
}

/// Deletes a file's blob, as a publisher's rule does with old ones.
pub(super) async fn delete_blob(local: &Local, uri: &str) {
    let ready = local.ready_file();
    let (_, name) = uri.split_once(&format!("/{}/", ready.container)).unwrap();
    let http = HttpClient::new(&HttpOptions::default()).unwrap();
    Container::new(http, keys(ready), ContainerOptions::default()).delete(name).await.unwrap();
}

pub(super) fn write_ready_file(folder: &TempDir, name: &str, ready: &ReadyFile) {
    std::fs::write(folder.path().join(name), serde_json::to_string(ready).unwrap()).unwrap();
}

/// The ready file, as if the bus were elsewhere, where nothing listens.
pub(super) fn without_bus(ready: &ReadyFile) -> ReadyFile {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (_, rest) = ready.service_bus_connection_string.split_once(';').unwrap();
    ReadyFile { service_bus_connection_string: format!("Endpoint=sb://{nobody};{rest}"), ..ready.clone() }
}

#[tokio::test]
async fn without_configuration_one_line_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    for (name, arguments, wanted) in [
        (
            "waybill-publisher",
            &["publish", "--type", "T", "x.csv"][..],
            "WAYBILL_PUBLISHER__SERVICE_BUS_CONNECTION_STRING",
        ),
        ("waybill-publisher", &["run"], "--local READY_FILE"),
        ("waybill-publisher", &["status"], "--data"),
        ("waybill-subscriber", &["run"], "--sink"),
        ("waybill-subscriber", &["run", "--sink", "sqlite:x.sqlite"], "WAYBILL_SUBSCRIBER__TENANT__URL"),
        ("waybill-subscriber", &["receive"], "--local READY_FILE"),
        ("waybill-subscriber", &["list"], "--data"),
        ("waybill-republish", &["run"], "[republish.types.TYPE]"),
        ("waybill-republish", &["plan"], "[republish.types.TYPE]"),
        ("waybill-local", &["run", "--config", "none.toml"], "none.toml"),
    ] {
        let ended = run(command(&folder, name, arguments)).await.with(1);
        assert_eq!(ended.err.lines().count(), 1, "{name} {arguments:?}: {}", ended.err);
        assert!(ended.err.starts_with(&format!("{name}: ")), "{}", ended.err);
        assert!(ended.err.contains(wanted), "{name} {arguments:?}: {}", ended.err);
        assert_eq!(ended.out, "");
    }
}

#[tokio::test]
async fn wrong_usage_ends_with_2() {
    let folder = tempfile::tempdir().unwrap();
    for (name, arguments, wanted) in [
        ("waybill-publisher", &["publish", "--bogus"][..], "--bogus"),
        ("waybill-publisher", &["publish", "x.csv"], "--type"),
        ("waybill-publisher", &["publish", "--type", "T"], "<FILE>"),
        ("waybill-publisher", &["publish", "--type", "T", "--id", "a", "x.csv", "y.csv"], "--id names one export"),
        ("waybill-publisher", &["publish", "--type", "a/b", "x.csv"], "a/b"),
        ("waybill-publisher", &["publish", "--type", "T", "--as", "yaml", "x.csv"], "jsonl, json, csv, xml, xmll"),
        ("waybill-publisher", &["list", "--state", "lost"], "planned, uploaded, sent and void"),
        ("waybill-subscriber", &["list", "--state", "lost"], "quarantined"),
        ("waybill-subscriber", &["run", "--until-idle", "soon"], "soon"),
        ("waybill-republish", &["run", "--until-idle", "soon"], "soon"),
        ("waybill-local", &["walk"], "walk"),
    ] {
        let ended = run(command(&folder, name, arguments)).await.with(2);
        assert!(ended.err.contains(wanted), "{name} {arguments:?}: {}", ended.err);
    }
}

#[tokio::test]
async fn what_is_published_is_sent_and_arrives() {
    let (folder, local) = beside_local().await;
    let ended = run(publish(&folder, &["item.csv"])).await.with(0);
    assert!(ended.out.starts_with("item.csv: sent, 2 rows, "), "{}", ended.out);
    assert!(ended.out.contains(", sequence 1, export "), "{}", ended.out);
    assert_eq!(ended.err, "");

    // Once more under one id: nothing is sent twice.
    for state in ["sent, ", "sent before, not again, "] {
        let ended = run(publish(&folder, &["--as", "jsonl", "--id", "mine", "item.csv"])).await.with(0);
        assert!(ended.out.starts_with(&format!("item.csv: {state}2 rows, ")), "{}", ended.out);
    }

    let follow =
        ["run", "--local", "local.json", "--sink", "sqlite:shop.sqlite", "--until-idle", "0.5", "--format", "json"];
    let summary = run(command(&folder, "waybill-subscriber", &follow)).await.with(0).json();
    assert_eq!((&summary["filesDone"], &summary["rows"]), (&2.into(), &4.into()), "{summary}");

    let list = run(command(&folder, "waybill-publisher", &["list", "--format", "json"])).await.with(0).json();
    let states: Vec<_> = list.as_array().unwrap().iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["sent", "sent"]);
    let shown = run(command(&folder, "waybill-publisher", &["show", "mine", "--format", "json"])).await.with(0).json();
    assert_eq!(shown["exportId"], "mine");
    let history: Vec<_> =
        shown["history"].as_array().unwrap().iter().map(|entry| entry["state"].as_str().unwrap()).collect();
    assert_eq!((history.first(), history.last()), (Some(&"planned"), Some(&"sent")));
    local.stop().await;
}

#[tokio::test]
async fn with_tls_the_ready_file_is_all_that_the_binaries_need() {
    let folder = tempfile::tempdir().unwrap();
    let local = Local::builder().tls().start().await.unwrap();
    local.write_ready_file(&folder.path().join("local.json")).unwrap();
    std::fs::write(folder.path().join("item.csv"), "ItemID,Price\n1,19.90\n2,5.00\n").unwrap();
    run(publish(&folder, &["item.csv"])).await.with(0);
    let follow =
        ["run", "--local", "local.json", "--sink", "sqlite:shop.sqlite", "--until-idle", "0.5", "--format", "json"];
    let summary = run(command(&folder, "waybill-subscriber", &follow)).await.with(0).json();
    assert_eq!((&summary["filesDone"], &summary["rows"]), (&1.into(), &2.into()), "{summary}");
    local.stop().await;
}

#[tokio::test]
async fn a_broken_file_is_named_and_the_others_go() {
    let (folder, local) = beside_local().await;
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    for row in 0..1000 {
        writeln!(packed, "{{\"ItemID\":{row}}}").unwrap();
    }
    let packed = packed.finish().unwrap();
    let short = &packed[..packed.len() / 2];
    std::fs::write(folder.path().join("short.jsonl.gz"), short).unwrap();
    let mut came = Vec::new();
    GzDecoder::new(short).read_to_end(&mut came).unwrap_err();
    let whole_rows = came.iter().filter(|byte| **byte == b'\n').count();
    assert!(whole_rows > 1);
    std::fs::write(folder.path().join("bad.csv"), "ItemID,Price\n1,19.90\n2\n").unwrap();

    let ended = run(publish(&folder, &["short.jsonl.gz", "missing.csv", "bad.csv", "item.csv"])).await.with(1);
    let errors: Vec<&str> = ended.err.lines().collect();
    assert_eq!(errors.len(), 3, "{}", ended.err);
    assert!(errors[0].contains(&format!("short.jsonl.gz: row {}, byte ", whole_rows + 1)));
    assert!(errors[0].contains("ends early"), "{}", errors[0]);
    assert!(errors[1].contains("missing.csv: cannot be read"), "{}", errors[1]);
    assert!(errors[2].contains("bad.csv: row 2, byte 21: "), "{}", errors[2]);
    assert!(ended.out.contains("short.jsonl.gz: not published"), "{}", ended.out);
    assert!(ended.out.contains("item.csv: sent, 2 rows"), "{}", ended.out);
    assert!(ended.out.contains("4 files: 1 sent, 0 kept in the outbox, 3 not published"), "{}", ended.out);
    local.stop().await;
}

#[tokio::test]
async fn a_quarantined_message_ends_a_run_with_3() {
    let (folder, local) = beside_local().await;
    send(local.ready_file(), "no waybill", "1").await;
    run(publish(&folder, &["item.csv"])).await.with(0);

    let follow = ["run", "--local", "local.json", "--sink", "sqlite:shop.sqlite", "--until-idle", "0.5"];
    let ended = run(command(&folder, "waybill-subscriber", &follow)).await.with(3);
    assert!(ended.out.contains("1 file done, 2 rows"), "{}", ended.out);
    assert!(ended.out.contains("waybill-subscriber list --state quarantined"), "{}", ended.out);
    let list = ["list", "--state", "quarantined", "--format", "json"];
    let list = run(command(&folder, "waybill-subscriber", &list)).await.with(0).json();
    assert_eq!(list.as_array().unwrap().len(), 1, "{list}");

    // It counts for the run that met it alone.
    run(command(&folder, "waybill-subscriber", &follow)).await.with(0);
    local.stop().await;
}

#[tokio::test]
async fn what_cannot_be_sent_is_kept_and_sent_by_run() {
    let (folder, local) = beside_local().await;
    write_ready_file(&folder, "elsewhere.json", &without_bus(local.ready_file()));
    let mut command_without_bus = command(
        &folder,
        "waybill-publisher",
        &["publish", "--local", "elsewhere.json", "--type", "ItemChanges", "item.csv"],
    );
    command_without_bus.env("WAYBILL_PUBLISHER__SEND_TIMEOUT_MS", "1500");
    let ended = run(command_without_bus).await.with(1);
    assert!(ended.out.starts_with("item.csv: kept in the outbox, 2 rows, "), "{}", ended.out);
    assert!(ended.out.contains("waybill-publisher run"), "{}", ended.out);
    assert!(ended.err.contains("not sent after 1.5s"), "{}", ended.err);
    let status = ["status", "--format", "json"];
    let exports = run(command(&folder, "waybill-publisher", &status)).await.with(0).json()["exports"].clone();
    assert_eq!((&exports["uploaded"], &exports["sent"]), (&1.into(), &0.into()));

    let relay = Running::start(command(&folder, "waybill-publisher", &["run", "--local", "local.json"]));
    let began = Instant::now();
    loop {
        let exports = run(command(&folder, "waybill-publisher", &status)).await.with(0).json()["exports"].clone();
        if exports["sent"] == 1 {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{exports}");
    }
    let ended = relay.terminate().await.with(0);
    assert!(ended.out.contains("1 sent, 0 waiting"), "{}", ended.out);
    local.stop().await;
}

#[tokio::test]
async fn no_storage_and_a_wrong_token_are_one_line_each() {
    let (folder, local) = beside_local().await;
    let ready = local.ready_file().clone();
    write_ready_file(&folder, "gone.json", &ready);
    write_ready_file(&folder, "wrong.json", &ReadyFile { bearer_token: "wr0ng".to_owned(), ..ready });
    for what in ["run", "process"] {
        let follow = [what, "--local", "wrong.json", "--sink", "sqlite:shop.sqlite"];
        let ended = run(command(&folder, "waybill-subscriber", &follow)).await.with(1);
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
        assert!(!ended.err.contains("wr0ng"), "a token in an error: {}", ended.err);
    }

    local.stop().await;
    let mut alone =
        command(&folder, "waybill-publisher", &["publish", "--local", "gone.json", "--type", "T", "item.csv"]);
    alone.env("WAYBILL_PUBLISHER__SEND_TIMEOUT_MS", "1");
    let ended = run(alone).await.with(1);
    assert!(ended.err.lines().last().unwrap_or_default().contains("item.csv"), "{}", ended.err);
    assert!(ended.out.contains("item.csv: not published"), "{}", ended.out);
}

#[tokio::test]
async fn a_publisher_that_waits_for_storage_says_so_and_ends_soon_after_it_is_stopped() {
    let (folder, local) = beside_local().await;
    let toml = "[[faults]]\non = \"blob\"\ndo = \"throttle\"\nretry_after_s = 20\nfor_ms = 600000\n";
    local.faults().install(waybill_local::fault::Step::from_toml(toml).unwrap()).unwrap();
    let publishing = Running::start(publish(&folder, &["item.csv"]));
    local.faults().wait_for(1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    let ended = publishing.terminate().await.with(1);
    // Sooner than storage asked to be left alone.
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(ended.err.contains("storage does not serve us now; trying again"), "{}", ended.err);
    assert!(ended.err.contains("item.csv: not finished 3 s after it was stopped"), "{}", ended.err);
    local.stop().await;
}

#[tokio::test]
async fn a_second_local_leaves_the_ready_file_of_the_first() {
    let (folder, local) = beside_local().await;
    let second = ["run", "--random-ports", "--ready-file", "local.json"];
    let ended = run(command(&folder, "waybill-local", &second)).await.with(1);
    assert!(ended.err.contains("local.json belongs to a waybill-local that runs"), "{}", ended.err);
    run(publish(&folder, &["item.csv"])).await.with(0);

    // What a crash left is written over.
    let left = local.ready_file().clone();
    local.stop().await;
    write_ready_file(&folder, "local.json", &left);
    let third = Running::start(command(&folder, "waybill-local", &second));
    let began = Instant::now();
    while std::fs::read_to_string(folder.path().join("local.json")).unwrap().contains(&left.admin_url) {
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    run(publish(&folder, &["item.csv"])).await.with(0);
    third.terminate().await.with(0);
    assert!(!folder.path().join("local.json").exists());
}

#[tokio::test]
async fn a_signal_ends_a_subscriber_with_0_and_what_it_did() {
    let (folder, local) = beside_local().await;
    run(publish(&folder, &["item.csv"])).await.with(0);
    // Made first, so that the looks below find it.
    run(command(&folder, "waybill-subscriber", &["receive", "--local", "local.json", "--until-idle", "0"]))
        .await
        .with(0);
    let follow = ["run", "--local", "local.json", "--sink", "sqlite:shop.sqlite", "--format", "json"];
    let follower = Running::start(command(&folder, "waybill-subscriber", &follow));
    let began = Instant::now();
    while run(command(&folder, "waybill-subscriber", &["status", "--format", "json"])).await.with(0).json()["files"]["done"]
        != 1
    {
        assert!(began.elapsed() < PATIENCE);
    }
    let summary = follower.terminate().await.with(0).json();
    assert_eq!((&summary["filesDone"], &summary["rows"]), (&1.into(), &2.into()), "{summary}");
    local.stop().await;
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_is_told_nothing() {
    let (folder, local) = beside_local().await;
    run(publish(&folder, &["item.csv"])).await.with(0);
    for arguments in [&["status"][..], &["list"], &["show", "1"], &["list", "--format", "json"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut closed = command(&folder, "waybill-publisher", arguments);
        closed.stdout(writer).stderr(Stdio::piped());
        let output = tokio::task::spawn_blocking(move || closed.spawn().unwrap().wait_with_output().unwrap());
        let ended = Ended::from(output.await.unwrap()).with(0);
        assert_eq!(ended.err, "", "{arguments:?}");
    }
    local.stop().await;
}

#[tokio::test]
async fn init_writes_what_the_settings_take_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["waybill-publisher", "waybill-subscriber"] {
        let folder = tempfile::tempdir().unwrap();
        run(command(&folder, name, &["init"])).await.with(0);
        let written = std::fs::read_to_string(folder.path().join("waybill.toml")).unwrap();
        // What is commented out is understood, too.
        let all: Vec<&str> = written
            .lines()
            .map(|line| {
                line.strip_prefix("# ")
                    .filter(|rest| rest.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')))
                    .unwrap_or(line)
            })
            .collect();
        std::fs::write(folder.path().join("all.toml"), all.join("\n")).unwrap();
        let ended = run(command(&folder, name, &["status", "--config", "all.toml"])).await.with(1);
        let missing = if name == "waybill-publisher" { "shop.sqlite: there is no such file" } else { "--data" };
        assert!(ended.err.contains(missing), "the settings were refused: {}", ended.err);
        let again = run(command(&folder, name, &["init"])).await.with(0);
        let section = if name == "waybill-publisher" { "[publisher]" } else { "[subscriber]" };
        let told = format!("waybill.toml has its section {section} already, and was left as it is");
        assert!(again.out.contains(&told), "{}", again.out);
        assert_eq!(std::fs::read_to_string(folder.path().join("waybill.toml")).unwrap(), written);
        // Another name, if one is given.
        run(command(&folder, name, &["init", "--config", "other.toml"])).await.with(0);
        assert_eq!(std::fs::read_to_string(folder.path().join("other.toml")).unwrap(), written);
    }
    // Both programs share one file: the second prints what to add.
    run(command(&folder, "waybill-publisher", &["init"])).await.with(0);
    let second = run(command(&folder, "waybill-subscriber", &["init"])).await.with(1);
    assert!(second.out.contains("[subscriber]"), "{}", second.out);
    assert!(second.err.contains("waybill.toml is there already, without [subscriber]"), "{}", second.err);
    assert!(folder.path().join("entities.toml").exists());
}

#[tokio::test]
async fn the_plan_says_what_is_filtered_where_and_what_it_saves() {
    let (folder, _local) = beside_local().await;
    std::fs::write(folder.path().join("item.csv"), "ItemID,Price\n1,19.90\n2,5.00\n").unwrap();
    run(publish(&folder, &["item.csv"])).await.with(0);
    let other = ["publish", "--local", "local.json", "--type", "Gateway.Order", "item.csv"];
    run(command(&folder, "waybill-publisher", &other)).await.with(0);
    std::fs::write(
        folder.path().join("entities.toml"),
        "[entity.item]\ntypes = [\"ItemChanges\"]\nkey = [\"ItemID\"]\nwhere = 'row.Price > 10.0'\n[entity.item.columns]\nPrice = \"decimal\"\n",
    )
    .unwrap();
    std::fs::write(
        folder.path().join("waybill.toml"),
        "[subscriber]\nsink = \"sqlite:shop.sqlite\"\nentities = \"entities.toml\"\ntypes = [\"Item*\"]\n",
    )
    .unwrap();
    let arguments = ["run", "--local", "local.json", "--until-idle", "1", "--format", "json"];
    let ran = run(command(&folder, "waybill-subscriber", &arguments)).await.with(0).json();
    assert_eq!((&ran["rowsInserted"], &ran["rowsFiltered"]), (&1.into(), &1.into()), "{ran}");

    let plan = run(command(&folder, "waybill-subscriber", &["plan", "--format", "json"])).await.with(0).json();
    assert_eq!(plan["brokerRule"], "blobType LIKE 'Item%'");
    assert_eq!((&plan["saved"]["files"], &plan["saved"]["rows"]), (&1.into(), &2.into()), "{plan}");
    let bytes = &plan["saved"]["bytes"];
    assert!(bytes.as_u64().is_some_and(|bytes| bytes > 0), "{plan}");
    let item = &plan["types"][1];
    assert_eq!(
        (&item["blobType"], &item["wanted"], &item["entity"]),
        (&"ItemChanges".into(), &true.into(), &"item".into())
    );
    assert_eq!((&item["filter"], &item["filteredRows"]), (&"row.Price > 10.0".into(), &1.into()), "{plan}");
    let shown = run(command(&folder, "waybill-subscriber", &["show", "1"])).await.with(0).out;
    assert!(shown.contains("2 (0 bad, 1 not wanted by a filter)"), "{shown}");
    let status = run(command(&folder, "waybill-subscriber", &["status"])).await.with(0).out;
    assert!(status.contains("1 row not wanted by a filter"), "{status}");
    let status = run(command(&folder, "waybill-subscriber", &["status", "--format", "json"])).await.with(0).json();
    assert_eq!(status["filteredRows"], 1, "{status}");
}

#[tokio::test]
async fn a_wrong_filter_is_refused_at_its_line_and_column() {
    let (folder, _local) = beside_local().await;
    let entities =
        "[entity.item]\nkey = [\"ItemID\"]\nwhere = 'row.Price > \"a\"'\ncolumns = { Price = \"decimal\" }\n";
    std::fs::write(folder.path().join("entities.toml"), entities).unwrap();
    let sink = ["--sink", "sqlite:shop.sqlite", "--entities", "entities.toml"];
    let arguments = [&["run", "--local", "local.json", "--until-idle", "1"][..], &sink].concat();
    let refused = run(command(&folder, "waybill-subscriber", &arguments)).await.with(1).err;
    assert!(
        refused.contains("entities.toml:3:20: entity \"item\": `where`: `>` cannot compare a decimal with text"),
        "{refused}"
    );
}

#[tokio::test]
async fn the_rule_that_the_plan_prints_keeps_the_same_messages_away_at_the_broker() {
    let (folder, _local) = beside_local().await;
    let settings = "[subscriber]\ntypes = [\"Price\", \"Item*\", \"A_B.*\"]\n";
    std::fs::write(folder.path().join("waybill.toml"), settings).unwrap();
    let receive = ["receive", "--local", "local.json", "--until-idle", "0.2"];
    run(command(&folder, "waybill-subscriber", &receive)).await.with(0);
    let plan = run(command(&folder, "waybill-subscriber", &["plan", "--format", "json"])).await.with(0).json();
    let rule = plan["brokerRule"].as_str().unwrap();

    let config = format!(
        "[[topics]]\nname = \"exports\"\n[[topics.subscriptions]]\nname = \"acme\"\n\
         [[topics.subscriptions.rules]]\nname = \"wanted\"\nsql = {rule:?}\n"
    );
    let config = waybill_local::config::Config::parse(&config).unwrap();
    let ruled = Local::builder().config(config).ports(waybill_local::config::Ports::RANDOM).start().await.unwrap();
    ruled.write_ready_file(&folder.path().join("ruled.json")).unwrap();
    for blob_type in ["ItemChanges", "Item", "AnItem", "Price", "Prices", "A_B.x", "AxB.x"] {
        let publish = ["publish", "--local", "ruled.json", "--data", "p", "--type", blob_type, "item.csv"];
        run(command(&folder, "waybill-publisher", &publish)).await.with(0);
    }
    let receive = ["receive", "--local", "ruled.json", "--data", "s", "--until-idle", "0.5"];
    run(command(&folder, "waybill-subscriber", &receive)).await.with(0);
    let list = ["list", "--data", "s", "--format", "json"];
    let list = run(command(&folder, "waybill-subscriber", &list)).await.with(0).json();
    let mut types: Vec<_> = list.as_array().unwrap().iter().map(|row| row["blobType"].as_str().unwrap()).collect();
    types.sort_unstable();
    assert_eq!(types, ["A_B.x", "Item", "ItemChanges", "Price"], "by {rule}");
}

#[tokio::test]
async fn the_doctor_tries_everything_in_order_and_names_the_first_thing_to_do() {
    let (folder, local) = beside_local().await;
    let doctor = ["doctor", "--local", "local.json", "--sink", "sqlite:shop.sqlite"];
    let told = run(command(&folder, "waybill-subscriber", &doctor)).await.with(0).out;
    assert!(
        told.lines().all(|line| line.starts_with("ok ")) && told.contains("attached to exports/subscriptions/acme"),
        "{told}"
    );
    let mut there: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    there.sort();
    assert_eq!(there, ["item.csv", "local.json"], "nothing was made");

    let mut lost =
        command(&folder, "waybill-subscriber", &["doctor", "--sink", "sqlite:no/shop.sqlite", "--format", "json"]);
    lost.env("WAYBILL_SUBSCRIBER__TENANT__URL", &local.ready_file().tenant_url);
    lost.env("WAYBILL_SUBSCRIBER__TENANT__BEARER_TOKEN", "TOPSECRET");
    let ended = run(lost).await.with(1);
    let states: Vec<(String, String)> = ended
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|check| (check["check"].as_str().unwrap().to_owned(), check["state"].as_str().unwrap().to_owned()))
        .collect();
    let expected = [
        ("configuration", "ok"),
        ("access token", "ok"),
        ("clock", "ok"),
        ("TenantService", "failed"),
        ("proxy", "ok"),
        ("Service Bus", "not-tried"),
        ("storage", "not-tried"),
        ("inbox", "ok"),
        ("sink", "failed"),
    ];
    assert_eq!(states, expected.map(|(check, state)| (check.to_owned(), state.to_owned())));
    assert!(!format!("{}{}", ended.out, ended.err).contains("TOPSECRET"));
    local.stop().await;
}

#[tokio::test]
async fn a_file_that_was_quarantined_is_tried_again_or_skipped_as_a_person_wants() {
    let (folder, local) = beside_local().await;
    let rows: String = (0..500).map(|n| format!("{n},{n}\n")).collect();
    std::fs::write(folder.path().join("item.csv"), format!("ItemID,Price\n{rows}")).unwrap();
    let steps =
        Step::from_toml("[[faults]]\non = \"blob\"\noperation = \"GetBlob\"\ndo = \"corrupt\"\nat = 900\n").unwrap();
    local.faults().install(steps).unwrap();
    run(publish(&folder, &["item.csv"])).await.with(0);
    let follow =
        ["run", "--local", "local.json", "--sink", "sqlite:shop.sqlite", "--until-idle", "0.5", "--format", "json"];
    let subscriber = |arguments: &[&str]| command(&folder, "waybill-subscriber", arguments);
    assert_eq!(run(subscriber(&follow)).await.with(3).json()["filesDone"], 0);

    let refused = run(subscriber(&["retry", "7"])).await.with(1);
    assert!(refused.err.contains("7: there is no such number"), "{}", refused.err);
    assert_eq!(
        run(subscriber(&["skip", "1", "--why", "known to be bad"])).await.with(0).out,
        "1 skipped; `retry` takes it back\n"
    );
    let shown = run(subscriber(&["show", "1", "--format", "json"])).await.with(0).json();
    assert_eq!(
        (&shown["state"], &shown["problem"]),
        (&"skipped".into(), &"a person does not want it: known to be bad".into())
    );
    let none = run(subscriber(&["retry", "--quarantined"])).await.with(0).out;
    assert!(none.starts_with("0 files"), "{none}");
    let tried = run(subscriber(&["retry", "1", "--format", "json"])).await.with(0).json();
    assert_eq!(tried["done"], serde_json::json!([1]));
    let worked = run(subscriber(&follow)).await.with(0).json();
    assert_eq!((&worked["filesDone"], &worked["rowsInserted"]), (&1.into(), &500.into()), "{worked}");
    let id = run(subscriber(&["list", "--format", "json"])).await.with(0).json()[0]["correlationId"].clone();
    let traced = run(subscriber(&["trace", id.as_str().unwrap()])).await.with(0).out;
    let states = ["saved", "working", "quarantined", "skipped", "saved", "working", "done"];
    let told: Vec<&str> =
        traced.lines().skip(1).filter_map(|line| states.into_iter().find(|state| line.contains(state))).collect();
    assert_eq!(told.len(), traced.lines().count() - 1, "{traced}");
    assert!(traced.contains("a person wants it tried again") && traced.contains("corrupt-gzip"), "{traced}");
    assert!(run(subscriber(&["trace", "nobody's"])).await.with(1).err.contains("has the correlation id"));
    let done = run(subscriber(&["retry", "1"])).await.with(1).err;
    assert!(done.contains("1: it is done, and cannot be tried again"), "{done}");
    local.stop().await;
}
