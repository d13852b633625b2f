//! The publisher's commands as a person uses them: what is resent, void, paused, found, and told of itself.

use std::{io::Write as _, process::Stdio, time::Duration};

use serde_json::Value;
use tempfile::TempDir;
use waybill_local::Local;
use waybill_store::rusqlite::Connection;

use super::binaries::{Ended, PATIENCE, Running, beside_local, command, publish, run};

const RUN: [&str; 5] = ["run", "--local", "local.json", "--health", "127.0.0.1:0"];
const SAYS: &str = "waybill-publisher: health and metrics at ";
const SUBSCRIPTION: &str = "exports/subscriptions/acme";

async fn publisher(folder: &TempDir, arguments: &[&str]) -> Ended {
    run(command(folder, "waybill-publisher", arguments)).await
}

async fn json(folder: &TempDir, arguments: &[&str]) -> Value {
    publisher(folder, &[arguments, &["--format", "json"]].concat()).await.with(0).json()
}

fn message_ids(local: &Local) -> Vec<String> {
    let peeked = local.broker().peek(SUBSCRIPTION, 0, usize::MAX).unwrap();
    peeked.into_iter().map(|peeked| peeked.contents.message_id.unwrap()).collect()
}

async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, asking).await.is_ok(), "{what} did not come to be");
}

/// A service's database with a change log in it.
async fn with_a_log(folder: &TempDir) -> Connection {
    std::fs::write(folder.path().join("waybill.toml"), "[publisher]\nchange_log = \"sqlite:shop.sqlite\"\n").unwrap();
    publisher(folder, &["init"]).await;
    let service = Connection::open(folder.path().join("shop.sqlite")).unwrap();
    service.busy_timeout(PATIENCE).unwrap();
    let made = service.query_row("SELECT count(*) FROM waybill_change_log", [], |row| row.get::<_, i64>(0));
    assert_eq!(made.unwrap_or(-1), 0, "init makes the log");
    service
}

fn log(service: &Connection, blob_type: &str, key: &str, order: &str) {
    let sql = "INSERT INTO waybill_change_log (blob_type, row, key, correlation_id) VALUES (?1, json_object('k', ?2), ?2, ?3)";
    service.execute(sql, (blob_type, key, order)).unwrap();
}

#[tokio::test]
async fn a_sent_export_is_sent_again_under_a_new_message_id() {
    let (folder, local) = beside_local().await;
    run(publish(&folder, &["--id", "nightly", "item.csv"])).await.with(0);
    let told = publisher(&folder, &["resend", "nightly", "--why", "acme lost it"]).await.with(0).out;
    assert!(told.contains("it is sent again as message nightly.1"), "{told}");
    let running = Running::start(command(&folder, "waybill-publisher", &["run", "--local", "local.json"]));
    until("the message comes again", async || message_ids(&local) == ["nightly", "nightly.1"]).await;
    running.terminate().await.with(0);
    let shown = publisher(&folder, &["show", "nightly"]).await.with(0).out;
    assert!(shown.contains("to be sent again: acme lost it"), "{shown}");
    let refused = publisher(&folder, &["resend", "77"]).await.with(1).err;
    assert!(refused.contains("no export 77"), "{refused}");
    let refused = publisher(&folder, &["void", "nightly", "--why", "wrong"]).await.with(1).err;
    assert!(refused.contains("nothing takes it back"), "{refused}");
    local.stop().await;
}

#[tokio::test]
async fn a_paused_type_waits_and_what_is_made_void_meanwhile_is_never_sent() {
    let (folder, local) = beside_local().await;
    let service = with_a_log(&folder).await;
    let told = publisher(&folder, &["pause", "Item", "--why", "a wrong price list"]).await.with(0).out;
    assert!(told.contains("resume Item"), "{told}");
    log(&service, "Item", "wrong", "c");
    let running = Running::start(command(&folder, "waybill-publisher", &["run", "--local", "local.json"]));
    let uploaded = async || json(&folder, &["list", "--state", "uploaded"]).await.as_array().unwrap().len();
    until("the wrong file is uploaded", async || uploaded().await == 1).await;
    log(&service, "Other", "b", "c");
    until("another type goes", async || message_ids(&local).len() == 1).await;
    let status = publisher(&folder, &["status"]).await.with(0).out;
    assert!(status.contains("Item is paused since") && status.contains("a wrong price list"), "{status}");
    publisher(&folder, &["void", "1", "--why", "a wrong price list"]).await.with(0);
    log(&service, "Item", "right", "c");
    until("the right file is uploaded", async || uploaded().await == 1).await;
    publisher(&folder, &["resume", "Item"]).await.with(0);
    until("the right file goes", async || message_ids(&local).len() == 2).await;
    running.terminate().await.with(0);
    let void = json(&folder, &["list", "--state", "void"]).await;
    assert_eq!((void.as_array().unwrap().len(), &void[0]["reason"]), (1, &Value::from("a wrong price list")));
    let sent = json(&folder, &["list", "--state", "sent", "--type", "Item"]).await;
    assert_eq!(sent[0]["sequence"], 2, "the void number is taken");
    local.stop().await;
}

#[tokio::test]
async fn standard_input_is_published_as_what_it_is_said_to_be() {
    let (folder, local) = beside_local().await;
    let arguments =
        ["publish", "--local", "local.json", "--type", "ItemChanges", "--input", "csv", "--as", "jsonl", "-"];
    let mut command_of = command(&folder, "waybill-publisher", &arguments);
    let ended = tokio::task::spawn_blocking(move || {
        let mut child = command_of.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"ItemID,Price\n1,19.90\n").unwrap();
        child.wait_with_output().unwrap()
    });
    let ended: Ended = ended.await.unwrap().into();
    let told = ended.with(0).out;
    assert!(told.starts_with("standard input: sent, 1 row"), "{told}");
    assert_eq!(message_ids(&local).len(), 1);
    for wrong in [&["-"][..], &["--input", "csv", "item.csv"], &["--input", "csv", "-", "-"]] {
        run(publish(&folder, wrong)).await.with(2);
    }
    local.stop().await;
}

#[tokio::test]
async fn a_change_is_found_by_its_key_and_told_with_its_export() {
    let (folder, local) = beside_local().await;
    let service = with_a_log(&folder).await;
    log(&service, "Item", "a", "order-1");
    log(&service, "Item", "b", "order-1");
    let found = json(&folder, &["changes", "--key", "a"]).await;
    assert_eq!((found.as_array().unwrap().len(), &found[0]["exportId"]), (1, &Value::Null));
    let running = Running::start(command(&folder, "waybill-publisher", &["run", "--local", "local.json"]));
    until("it is sent", async || message_ids(&local).len() == 1).await;
    running.terminate().await.with(0);
    let found = json(&folder, &["changes", "--correlation", "order-1"]).await;
    assert_eq!((found.as_array().unwrap().len(), &found[0]["key"]), (2, &Value::from("b")));
    assert_eq!(found[0]["exportId"].as_str(), message_ids(&local).first().map(String::as_str));
    let told = publisher(&folder, &["changes", "--limit", "1"]).await.with(0).out;
    assert!(told.contains("more: --before 2"), "{told}");
    local.stop().await;
}

#[tokio::test]
async fn to_prune_what_no_manifest_will_name_is_refused() {
    let (folder, local) = beside_local().await;
    let settings = "[publisher]\nprune_hours = 24\nmanifest_minutes = 0\n";
    std::fs::write(folder.path().join("waybill.toml"), settings).unwrap();
    let refused = publisher(&folder, &["run", "--local", "local.json"]).await.with(1).err;
    assert!(refused.contains("prune_hours is 24 and manifest_minutes 0"), "{refused}");
    local.stop().await;
}

#[tokio::test]
async fn formats_of_types_are_checked_before_anything_runs() {
    let (folder, local) = beside_local().await;
    let _service = with_a_log(&folder).await;
    for (settings, told) in [
        ("format = \"csv\"", "[publisher.types.Item]: CSV needs its columns"),
        ("columns = [\"a\"]", "say format = \"csv\" as well"),
        ("format = \"csv\"\ncolumns = [\"a\", \"a\"]", "columns have names, each its own"),
    ] {
        let begin = "[publisher]\nchange_log = \"sqlite:shop.sqlite\"\n[publisher.types.Item]\n";
        std::fs::write(folder.path().join("waybill.toml"), format!("{begin}{settings}\n")).unwrap();
        let refused = publisher(&folder, &["run", "--local", "local.json"]).await.with(1).err;
        assert!(refused.contains(told), "{refused}");
    }
    local.stop().await;
}

#[tokio::test]
async fn after_adopt_numbers_begin_anew_in_an_epoch_of_their_own() {
    let (folder, local) = beside_local().await;
    let service = with_a_log(&folder).await;
    log(&service, "Item", "a", "c");
    let publishing = || Running::start(command(&folder, "waybill-publisher", &["run", "--local", "local.json"]));
    let running = publishing();
    until("it is sent", async || message_ids(&local).len() == 1).await;
    let refused = publisher(&folder, &["adopt"]).await.with(1).err;
    assert!(refused.contains("a publisher follows it now"), "{refused}");
    running.terminate().await.with(0);
    let told = publisher(&folder, &["adopt"]).await.with(0).out;
    assert!(told.contains("in a new epoch"), "{told}");
    log(&service, "Item", "b", "c");
    let running = publishing();
    until("the next one is sent", async || message_ids(&local).len() == 2).await;
    running.terminate().await.with(0);
    let sent = json(&folder, &["list", "--state", "sent"]).await;
    assert_eq!((&sent[0]["sequence"], &sent[1]["sequence"]), (&Value::from(1), &Value::from(1)));
    assert!(sent[0]["epoch"].as_str() > sent[1]["epoch"].as_str(), "{sent}");
    local.stop().await;
}

/// The numbers of the epoch that ended are told as the others are, so that nobody waits for them.
#[tokio::test]
async fn a_manifest_names_what_was_sent_in_an_epoch_that_ended() {
    let (folder, local) = beside_local().await;
    let service = with_a_log(&folder).await;
    let sent = async |number: usize| {
        log(&service, "Item", "a", "c");
        let running = Running::start(command(&folder, "waybill-publisher", &["run", "--local", "local.json"]));
        until("it is sent", async || message_ids(&local).len() == number).await;
        running.terminate().await.with(0);
    };
    sent(1).await;
    sent(2).await;
    publisher(&folder, &["adopt"]).await.with(0);
    sent(3).await;
    let made = json(&folder, &["manifest", "--local", "local.json"]).await;
    let of = |number: usize| {
        let manifest = &made["manifests"][number];
        (manifest["blobType"].as_str().unwrap(), manifest["first"].as_u64(), manifest["last"].as_u64())
    };
    assert_eq!(made["manifests"].as_array().unwrap().len(), 2, "{made}");
    assert_eq!([of(0), of(1)], [("Item", Some(1), Some(2)), ("Item", Some(1), Some(1))]);
    let epochs = [0, 1].map(|number: usize| made["manifests"][number]["epoch"].as_str().unwrap());
    assert!(epochs[0] < epochs[1], "the one that ended, whole, and the one that began: {made}");
    local.stop().await;
}

#[tokio::test]
async fn the_doctor_of_a_publisher_tries_everything_in_order_also_to_write_and_leaves_nothing() {
    let (folder, local) = beside_local().await;
    let service = with_a_log(&folder).await;
    let doctor = ["doctor", "--local", "local.json"];
    let states = |told: &Value| {
        let checks = told.as_array().unwrap().iter();
        let of = |check: &Value, key: &str| check[key].as_str().unwrap().to_owned();
        checks.map(|check| (of(check, "check"), of(check, "state"))).collect::<Vec<_>>()
    };
    let all = ["configuration", "change log", "horizon", "outbox", "keys", "storage", "bus", "clock"];
    let well = json(&folder, &doctor).await;
    assert_eq!(states(&well), all.map(|check| (check.to_owned(), "ok".to_owned())), "{well}");
    assert!(well[3]["detail"].as_str().unwrap().contains("not there yet; `run` makes it"), "{well}");
    assert!(well[5]["detail"].as_str().unwrap().contains("a file was made in it, and deleted again"), "{well}");
    let counted = local.stats().counted();
    assert_eq!((counted.blob_requests("PutBlockList", 201), counted.blob_requests("DeleteBlob", 202)), (1, 1));
    assert!(message_ids(&local).is_empty() && !folder.path().join(".waybill").exists(), "nothing is left");
    // With an outbox, which is written too.
    run(publish(&folder, &["item.csv"])).await.with(0);
    let told = publisher(&folder, &doctor).await.with(0).out;
    assert!(told.lines().all(|line| line.starts_with("ok ")) && told.contains("can be written; epoch"), "{told}");
    assert_eq!(json(&folder, &["list"]).await.as_array().unwrap().len(), 1, "the trial is no export");

    let failing = async |what: &str| {
        let ended = publisher(&folder, &[&doctor[..], &["--format", "json"]].concat()).await.with(1).json();
        let failed = ended.as_array().unwrap().iter().find(|check| check["check"] == what).unwrap().clone();
        assert_eq!(failed["state"], "failed", "{ended}");
        failed["detail"].as_str().unwrap().to_owned()
    };
    let refuse = |operation: &str| {
        let script = format!(
            "[[faults]]\non = \"blob\"\noperation = \"{operation}\"\ndo = \"refuse\"\n\
             code = \"AuthorizationPermissionMismatch\"\ntimes = 100\n"
        );
        local.faults().install(waybill_local::fault::Step::from_toml(&script).unwrap()).unwrap();
    };
    refuse("PutBlock");
    let told = failing("storage").await;
    assert!(told.contains("no file can be made in it, or nobody answered; give the key or role the right"), "{told}");
    local.faults().clear();
    refuse("DeleteBlob");
    let told = failing("storage").await;
    assert!(
        told.contains("cannot be deleted, or nobody answered: `prune` needs that right")
            && told.contains("waybill-doctor/"),
        "{told}"
    );
    local.faults().clear();
    // What `run` would make in the place of a lost one is refused by the log.
    service.execute_batch("UPDATE waybill_log SET epoch = 'lost'").unwrap();
    std::fs::remove_dir_all(folder.path().join(".waybill")).unwrap();
    let told = failing("outbox").await;
    assert!(
        told.contains("its files go to the outbox of epoch lost, and there is none") && told.contains("adopt"),
        "{told}"
    );
    // A log that cannot be written.
    service.execute_batch("DROP TABLE waybill_planned").unwrap();
    let told = failing("change log").await;
    assert!(told.contains("waybill_planned"), "{told}");
    std::fs::write(folder.path().join("waybill.toml"), "[publisher]\nnonsense = 1\n").unwrap();
    let ended = publisher(&folder, &[&doctor[..], &["--format", "json"]].concat()).await.with(1).json();
    let expected = [("configuration", "failed"), ("outbox", "not-tried"), ("keys", "not-tried")];
    assert_eq!(states(&ended)[..3], expected.map(|(check, state)| (check.to_owned(), state.to_owned())), "{ended}");
    local.stop().await;
}

/// Storage makes the file, and does not say so.
#[tokio::test]
async fn the_doctor_of_a_publisher_deletes_its_file_also_where_nobody_answers_who_makes_it() {
    let (folder, local) = beside_local().await;
    let script = "[[faults]]\non = \"blob\"\noperation = \"PutBlockList\"\ndo = \"drop_answer\"\ntimes = 1000\n";
    local.faults().install(waybill_local::fault::Step::from_toml(script).unwrap()).unwrap();
    let checks = publisher(&folder, &["doctor", "--local", "local.json", "--format", "json"]).await.with(1).json();
    let storage = checks.as_array().unwrap().iter().find(|check| check["check"] == "storage").unwrap();
    let told = storage["detail"].as_str().unwrap();
    assert!(told.contains("or nobody answered") && told.contains("delete waybill-doctor/"), "{told}");
    assert_eq!(local.stats().counted().blob_requests("DeleteBlob", 202), 1);
    local.stop().await;
}

struct Watched {
    running: Running,
    address: String,
}

impl Watched {
    async fn start(folder: &TempDir) -> Self {
        let mut running = Running::start(command(folder, "waybill-publisher", &RUN));
        let address = running.says(SAYS).await;
        Self { running, address }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("{}{path}", self.address)).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    async fn until(&self, path: &str, wanted: impl Fn(u16, &str) -> bool) -> String {
        let asking = async {
            loop {
                let (status, text) = self.get(path).await;
                if wanted(status, &text) {
                    return text;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{path} never said it"))
    }
}

/// Names and types of the metrics in a page, or in the guide's table.
fn named(page: &str) -> std::collections::BTreeMap<String, String> {
    let printed = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    printed.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}

fn documented() -> std::collections::BTreeMap<String, String> {
    let guide = include_str!("../../../docs/publishing.md");
    let rows = guide.lines().filter(|line| line.starts_with("| `waybill_publisher_"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        (cells[1].trim_matches('`').to_owned(), cells[2].to_owned())
    })
    .collect()
}

#[tokio::test]
async fn a_publisher_tells_how_it_goes_and_when_the_bus_is_gone() {
    let (folder, local) = beside_local().await;
    let service = with_a_log(&folder).await;
    let watched = Watched::start(&folder).await;
    log(&service, "Item", "a", "c");
    let page = watched
        .until("/metrics", |_, page| {
            page.contains("waybill_publisher_messages_sent_total 1\n")
                && page.contains("waybill_publisher_exports{state=\"sent\"} 1.0\n")
        })
        .await;
    assert!(page.contains("waybill_publisher_log_followed 1.0\n"), "{page}");
    assert!(page.contains("waybill_publisher_changes_planned_total 1\n"), "{page}");
    assert_eq!(named(&page), documented(), "the table of docs/publishing.md");
    watched.until("/health/ready", |status, _| status == 200).await;
    assert_eq!(watched.get("/health/live").await.0, 200);
    // An outbox that cannot be read.
    let outbox = Connection::open(folder.path().join(".waybill/outbox.sqlite")).unwrap();
    outbox.busy_timeout(PATIENCE).unwrap();
    outbox.execute_batch("ALTER TABLE export RENAME TO hidden").unwrap();
    let told = watched.until("/health/ready", |status, _| status == 503).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["problems"][0]["part"], "outbox", "{told}");
    outbox.execute_batch("ALTER TABLE hidden RENAME TO export").unwrap();
    watched.until("/health/ready", |status, _| status == 200).await;
    local.stop().await;
    log(&service, "Item", "b", "c");
    let told = watched.until("/health/ready", |status, _| status == 503).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert!(!told["problems"][0]["problem"].as_str().unwrap().is_empty(), "{told}");
    assert_eq!(watched.get("/health/live").await.0, 200, "a restart would not help");
    watched.running.terminate().await;
}
