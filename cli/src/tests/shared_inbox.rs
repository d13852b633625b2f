//! Every command on an inbox in PostgreSQL.

use serde_json::Value;
use tempfile::TempDir;
use waybill_local::Local;

use super::binaries::{Ended, ITEM, beside_local_that_lists, command, publish, run};

/// A schema of its own, in the database that the tests have.
struct Shared {
    folder: TempDir,
    server: String,
    schema: String,
}

impl Shared {
    fn command(&self, what: &[&str]) -> std::process::Command {
        let mut command = command(&self.folder, "waybill-subscriber", &[what, &["--inbox", &self.server]].concat());
        command.env("WAYBILL_SUBSCRIBER__INBOX_SCHEMA", &self.schema);
        command
    }

    async fn run(&self, what: &[&str]) -> Ended {
        run(self.command(what)).await
    }

    async fn json(&self, what: &[&str], code: i32) -> Value {
        self.run(&[what, &["--format", "json"]].concat()).await.with(code).json()
    }
}

/// With two good files, one that is damaged, and a message that is no waybill.
async fn shared() -> (Shared, Local) {
    let (folder, local) = beside_local_that_lists().await;
    std::fs::write(folder.path().join("entities.toml"), ITEM).unwrap();
    std::fs::write(folder.path().join("more.csv"), "ItemID,Price\n3,7.00\n,9.00\n").unwrap();
    let server = std::env::var("WAYBILL_TEST_POSTGRES")
        .expect("WAYBILL_TEST_POSTGRES is not set: run `cargo xtask test`, which starts a PostgreSQL");
    let schema = format!("cli_{:016x}", rand_number());
    (Shared { folder, server: format!("{server}?sslmode=disable"), schema }, local)
}

/// Different in every test and run.
fn rand_number() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

const TARGET: [&str; 6] = ["--local", "local.json", "--entities", "entities.toml", "--sink", "sqlite:a.sqlite"];

#[tokio::test]
async fn every_command_works_on_an_inbox_in_postgresql() {
    let (shared, local) = shared().await;
    let place = format!("schema {}", shared.schema);

    // Before there is one, it is said so, and looking makes none.
    let err = shared.run(&["status"]).await.with(1).err;
    assert!(err.contains("no inbox in postgres://127.0.0.1") && err.contains(&place), "{err}");
    let doctor = async || {
        let checks = shared.json(&[&["doctor"][..], &TARGET].concat(), 0).await;
        let checks = checks.as_array().unwrap().clone();
        checks.into_iter().find(|check| check["check"] == "inbox").unwrap()["detail"].as_str().unwrap().to_owned()
    };
    let detail = doctor().await;
    assert!(detail.starts_with("not there yet; `run` makes it: postgres://127.0.0.1"), "{detail}");

    // One by one: files that are published together may overtake each other.
    for file in ["item.csv", "item.csv", "more.csv"] {
        run(publish(&shared.folder, &[file])).await.with(0);
    }
    let received = shared.json(&["receive", "--local", "local.json", "--until-idle", "0.5"], 0).await;
    assert_eq!(received["filesSaved"], 3);
    let detail = doctor().await;
    assert!(detail.starts_with("postgres://127.0.0.1") && detail.ends_with(&place), "{detail}");

    let skipped = shared.run(&["skip", "2", "--why", "sent twice"]).await.with(0).out;
    assert!(skipped.starts_with("1 skipped"), "{skipped}");
    let processed = shared.json(&[&["process"][..], &TARGET].concat(), 3).await;
    assert_eq!((&processed["filesDone"], &processed["rowsInserted"]), (&2.into(), &3.into()), "{processed}");
    let retried = shared.run(&["retry", "2"]).await.with(0).out;
    assert!(retried.starts_with("1 file to be tried again"), "{retried}");
    let ran = shared.json(&[&["run", "--until-idle", "0.5"][..], &TARGET].concat(), 0).await;
    assert_eq!((&ran["filesDone"], &ran["rowsUpdated"]), (&1.into(), &2.into()), "{ran}");

    let status = shared.json(&["status"], 0).await;
    assert_eq!((&status["files"]["done"], &status["due"]), (&3.into(), &0.into()), "{status}");
    let listed = shared.json(&["list", "--state", "done", "--limit", "2"], 0).await;
    let ids: Vec<_> = listed.as_array().unwrap().iter().map(|row| row["id"].as_i64().unwrap()).collect();
    assert_eq!(ids, [3, 2]);
    let shown = shared.json(&["show", "2"], 0).await;
    let states: Vec<_> =
        shown["history"].as_array().unwrap().iter().map(|entry| entry["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["saved", "skipped", "saved", "working", "done"]);
    let traced = shared.json(&["trace", shown["correlationId"].as_str().unwrap()], 0).await;
    assert_eq!(traced[0]["id"], 2);
    let err = shared.run(&["show", "99"]).await.with(1).err;
    assert!(err.contains("no row 99 in postgres://") && err.contains(&place), "{err}");
    shared.run(&["plan", "--entities", "entities.toml"]).await.with(0);
    let rows = shared.run(&["rows", "1", "--local", "local.json"]).await.with(0).out;
    assert_eq!(rows.lines().count(), 2, "{rows}");
    let bad = shared.run(&["bad-rows", "--sink", "sqlite:a.sqlite"]).await.with(0).out;
    assert!(bad.contains("9.00"), "{bad}");
    let reconciled = shared.json(&["reconcile", "--local", "local.json"], 0).await;
    assert_eq!((&reconciled["known"], &reconciled["added"]["count"]), (&3.into(), &0.into()));

    let again = ["replay", "--local", "local.json", "--entities", "entities.toml", "--sink", "dir:out"];
    assert_eq!(shared.json(&again, 0).await["filesDone"], 3);
    let rebuilt = shared.json(&[&["rebuild"][..], &TARGET].concat(), 3).await;
    assert_eq!((&rebuilt["files"], &rebuilt["tables"][0]["rows"]), (&3.into(), &3.into()), "{rebuilt}");
    assert!(!shared.folder.path().join(".waybill").join("inbox.sqlite").exists(), "and there is no other inbox");
    local.stop().await;
}

#[tokio::test]
async fn a_password_is_taken_from_no_flag_and_told_to_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let address = "postgres://me:geheim@127.0.0.1:1/shop?sslmode=disable";
    let err = run(command(&folder, "waybill-subscriber", &["status", "--inbox", address])).await.with(1).err;
    assert!(err.contains("may hold no password") && err.contains("WAYBILL_SUBSCRIBER__INBOX"), "{err}");
    let into_sink = run(command(&folder, "waybill-subscriber", &["bad-rows", "--sink", address])).await.with(1).err;
    assert!(into_sink.contains("--sink may hold no password"), "{into_sink}");
    assert!(into_sink.contains("WAYBILL_SUBSCRIBER__SINK"), "{into_sink}");
    // As a parameter, and in addresses that are no URLs by the standard: several hosts with ports, a bare slash.
    for hidden in [
        "postgres://me@127.0.0.1:1/shop?password=geheim",
        "postgres://me:geheim@127.0.0.1:1,127.0.0.1:2/shop",
        "postgres://me:ge/heim@127.0.0.1:1/shop",
    ] {
        let refused = run(command(&folder, "waybill-subscriber", &["bad-rows", "--sink", hidden])).await.with(1).err;
        assert!(refused.contains("--sink may hold no password") && !refused.contains("heim"), "{refused}");
    }
    let mut sink_by_variable = command(&folder, "waybill-subscriber", &["bad-rows"]);
    sink_by_variable.env("WAYBILL_SUBSCRIBER__SINK", address).env("RUST_LOG", "trace");
    let sink_unreachable = run(sink_by_variable).await.with(1).err;
    assert!(sink_unreachable.contains("postgres://127.0.0.1:1/shop: cannot connect"), "{sink_unreachable}");
    std::fs::write(folder.path().join("waybill.toml"), format!("[subscriber]\nsink = \"{address}\"\n")).unwrap();
    let by_file = run(command(&folder, "waybill-subscriber", &["bad-rows"])).await.with(1).err;
    assert!(by_file.contains("postgres://127.0.0.1:1/shop: cannot connect"), "{by_file}");
    std::fs::remove_file(folder.path().join("waybill.toml")).unwrap();
    let mut by_variable = command(&folder, "waybill-subscriber", &["status"]);
    by_variable.env("WAYBILL_SUBSCRIBER__INBOX", address).env("RUST_LOG", "trace");
    let unreachable = run(by_variable).await.with(1).err;
    assert!(unreachable.contains("postgres://127.0.0.1:1/shop: cannot connect"), "{unreachable}");
    let mut other = command(&folder, "waybill-subscriber", &["status"]);
    other.env("WAYBILL_SUBSCRIBER__INBOX", "mysql://me:geheim@127.0.0.1/shop");
    let refused = run(other).await.with(1).err;
    assert!(refused.contains("`inbox` is postgres://USER@HOST:PORT/DATABASE"), "{refused}");
    for err in [err, into_sink, sink_unreachable, by_file, unreachable, refused] {
        assert!(!err.contains("geheim"), "{err}");
    }
}
