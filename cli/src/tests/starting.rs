//! A start beside a PostgreSQL that is down, and beside one that says no.

use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::{
    binaries::{Ended, ITEM, PATIENCE, Running, beside_local, command, publish, run},
    databases::{Behind, Door, Schema},
};

/// A program that waits, and answers for itself.
struct Waiting {
    running: Running,
    address: String,
}

impl Waiting {
    async fn start(folder: &TempDir, arguments: &[&str]) -> Self {
        let arguments = [arguments, &["--local", "local.json", "--health", "127.0.0.1:0"]].concat();
        let mut running = Running::start(command(folder, "waybill-subscriber", &arguments));
        let address = running.says("waybill-subscriber: health and metrics at ").await;
        Self { running, address }
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let answer = reqwest::get(format!("{}{path}", self.address)).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Waits until it is not ready because of this part, in words with this among them.
    async fn until_not_ready(&self, part: &str, wanted: &str) {
        let asking = async {
            loop {
                let (status, text) = self.get("/health/ready").await;
                let told: Value = serde_json::from_str(&text).unwrap();
                let says = |problem: &Value| problem["part"] == part && problem["problem"].to_string().contains(wanted);
                if told["problems"].as_array().unwrap().iter().any(says) {
                    assert_eq!((status, &told["ready"]), (503, &Value::Bool(false)));
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let told = tokio::time::timeout(PATIENCE, asking).await;
        assert!(told.is_ok(), "{part}: {wanted}: {:?}", self.get("/health/ready").await);
        assert_eq!(self.get("/health/live").await.0, 200, "a restart would mend nothing");
    }

    async fn until_ready(&self) {
        let asking = async {
            while self.get("/health/ready").await.0 != 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let ready = tokio::time::timeout(PATIENCE, asking).await;
        assert!(ready.is_ok(), "{:?}", self.get("/health/ready").await);
    }
}

async fn subscriber(folder: &TempDir, arguments: &[&str]) -> Ended {
    run(command(folder, "waybill-subscriber", arguments)).await
}

fn entities(folder: &TempDir) {
    std::fs::write(folder.path().join("entities.toml"), ITEM).unwrap();
}

const ITEMS: &str = "SELECT \"ItemID\", \"Price\" FROM item ORDER BY 1";

#[tokio::test]
async fn a_run_whose_sink_is_down_receives_says_why_it_is_not_ready_and_works_once_it_is_there() {
    let (folder, local) = beside_local().await;
    entities(&folder);
    run(publish(&folder, &["item.csv"])).await.with(0);
    let (schema, door) = (Schema::new().await, Door::new(Behind::Down).await);
    let sink = door.sink(&schema.name);
    let waiting = Waiting::start(&folder, &["run", "--entities", "entities.toml", "--sink", &sink]).await;
    waiting.until_not_ready("sink", "Connection refused").await;
    let saved = async {
        loop {
            let listed = subscriber(&folder, &["list", "--state", "saved", "--format", "json"]).await;
            if listed.code == Some(0) && listed.json().as_array().unwrap().len() == 1 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, saved).await.expect("messages are received meanwhile");
    // As a server that starts says it.
    door.set(Behind::Saying("57P03"));
    waiting.until_not_ready("sink", "57P03").await;
    door.set(Behind::Open);
    schema.until(ITEMS, &["1|19.90", "2|5.00"]).await;
    waiting.until_ready().await;
    let ended = waiting.running.terminate().await.with(0);
    for told in ["the sink is not there; trying again until it is", "the sink is there again"] {
        assert_eq!(ended.err.matches(told).count(), 1, "once: {told}: {}", ended.err);
    }
    assert!(ended.err.contains(" WARN ") && ended.out.contains("1 file done"), "{}\n{}", ended.err, ended.out);
    schema.remove().await;
    local.stop().await;
}

#[tokio::test]
async fn whoever_has_the_inbox_in_a_database_that_is_down_waits_for_it_and_a_stop_ends_that_at_once() {
    let (folder, local) = beside_local().await;
    run(publish(&folder, &["item.csv"])).await.with(0);
    let (schema, door) = (Schema::new().await, Door::new(Behind::Down).await);
    let inbox = format!("{}?sslmode=disable", door.server());
    std::fs::write(
        folder.path().join("waybill.toml"),
        format!("[subscriber]\ninbox_schema = \"{}_inbox\"\nsink = \"sqlite:a.sqlite\"\n", schema.name),
    )
    .unwrap();
    for what in ["run", "receive", "process"] {
        let waiting = Waiting::start(&folder, &[what, "--inbox", &inbox]).await;
        waiting.until_not_ready("inbox", "Connection refused").await;
        let page = waiting.get("/metrics").await.1;
        assert!(page.contains("waybill_ready 0.0\n") && page.contains("waybill_build_info"), "{page}");
        let ended = waiting.running.terminate().await.with(0);
        assert_eq!(ended.err.matches("the inbox is not there; trying again until it is").count(), 1, "{}", ended.err);
    }
    // Whoever only looks is told at once.
    let looked = subscriber(&folder, &["status", "--inbox", &inbox]).await.with(1).err;
    assert!(looked.contains("cannot connect") && !looked.contains("trying again"), "{looked}");

    let waiting = Waiting::start(&folder, &["receive", "--inbox", &inbox]).await;
    waiting.until_not_ready("inbox", "Connection refused").await;
    door.set(Behind::Saying("57P03"));
    waiting.until_not_ready("inbox", "57P03").await;
    door.set(Behind::Open);
    waiting.until_ready().await;
    let saved = format!("SELECT state FROM {}_inbox.inbox", schema.name);
    schema.until(&saved, &["saved"]).await;
    let ended = waiting.running.terminate().await.with(0);
    assert_eq!(ended.err.matches("the inbox is there again").count(), 1, "{}", ended.err);
    schema.client.batch_execute(&format!("DROP SCHEMA {}_inbox CASCADE", schema.name)).await.unwrap();
    schema.remove().await;
    local.stop().await;
}

#[tokio::test]
async fn what_a_person_has_to_mend_ends_a_start_at_once() {
    let (folder, local) = beside_local().await;
    let door = Door::new(Behind::Open).await;
    let no_database = door.server().replace("/postgres", "/nowhere") + "?sslmode=disable";
    let there = format!("{}?sslmode=disable", door.server());
    let started = async |address: &str, wanted: &str| {
        let (sink, inbox) = (["--sink", address], ["--sink", "sqlite:a.sqlite", "--inbox", address]);
        for (what, of) in
            [("run", &sink[..]), ("process", &sink), ("run", &inbox), ("process", &inbox), ("receive", &inbox[2..])]
        {
            let ended = subscriber(&folder, &[&[what, "--local", "local.json"], of].concat()).await.with(1);
            assert!(ended.err.contains(wanted) && !ended.err.contains("trying again"), "{what}: {}", ended.err);
        }
    };
    started(&no_database, "database \"nowhere\" does not exist (3D000)").await;
    for code in ["28P01", "42501"] {
        door.set(Behind::Saying(code));
        started(&there, &format!("the server says no ({code})")).await;
    }
    local.stop().await;
}

#[tokio::test]
async fn a_script_that_waits_for_the_end_is_told_after_half_a_minute_that_the_database_is_down() {
    let (folder, local) = beside_local().await;
    entities(&folder);
    run(publish(&folder, &["item.csv"])).await.with(0);
    let door = Door::new(Behind::Down).await;
    let (sink, inbox) = (door.sink("nobody"), format!("{}?sslmode=disable", door.server()));
    let begun = async |data: &str, arguments: &[&str]| {
        subscriber(&folder, &[arguments, &["--local", "local.json", "--data", data]].concat()).await.with(1).err
    };
    let until_idle = ["run", "--until-idle", "0.5", "--sink"];
    let first = [&until_idle[..], &[sink.as_str()]].concat();
    let processing = ["process", "--sink", sink.as_str()];
    let second = [&until_idle[..], &["sqlite:a.sqlite", "--inbox", inbox.as_str()]].concat();
    let third = ["receive", "--until-idle", "0.5", "--inbox", inbox.as_str()];
    let (run_into, processed, run_from, received) =
        tokio::join!(begun("one", &first), begun("two", &processing), begun("three", &second), begun("four", &third),);
    for told in [run_into, processed] {
        assert!(told.contains("sink and inbox were not both within reach for 30 s, and no file was worked"), "{told}");
        assert!(told.contains("Connection refused"), "{told}");
    }
    for told in [run_from, received] {
        assert!(told.contains("the inbox was out of reach for 30 s") && told.contains("Connection refused"), "{told}");
    }
    let listed = subscriber(&folder, &["list", "--data", "one", "--state", "saved", "--format", "json"]).await.with(0);
    assert_eq!(listed.json().as_array().unwrap().len(), 1, "what was received is saved");
    local.stop().await;
}

#[tokio::test]
async fn a_script_is_told_when_the_files_that_were_due_did_not_get_through() {
    let (folder, local) = beside_local().await;
    run(publish(&folder, &["item.csv"])).await.with(0);
    let steps =
        "[[faults]]\non = \"blob\"\noperation = \"GetBlob\"\ndo = \"refuse\"\ncode = \"InternalError\"\ntimes = 1000\n";
    local.faults().install(waybill_local::fault::Step::from_toml(steps).unwrap()).unwrap();
    let follow = ["run", "--local", "local.json", "--sink", "sqlite:a.sqlite", "--until-idle", "0.5"];
    let ended = subscriber(&folder, &follow).await.with(1);
    assert!(ended.err.contains("files were due and none was done"), "{}", ended.err);
    assert!(ended.out.contains("waiting for a later try: 1 file"), "{}", ended.out);
    local.stop().await;
}
