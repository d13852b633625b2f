//! SIGTERM, and `kill -9`, while a publisher or a republisher is at something: that it ends in time, how it ends, and what is left.

use std::{
    io::Write as _,
    process::{ChildStdin, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use waybill_local::{Local, fault::Step};

use super::{
    binaries::{Ended, PATIENCE, Running, beside_local, command, publish, run, without_bus, write_ready_file},
    databases::{Schema, server},
};

/// As long as a stop may take: what the programs say, and what a machine may be late with everything else to do.
const STOP_MAX: Duration = Duration::from_secs(40);

async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, asking).await.is_ok(), "{what} did not come to be");
}

/// What an outbox has; nothing before it is there.
async fn exports(folder: &TempDir) -> Vec<Value> {
    let list = run(command(folder, "waybill-publisher", &["list", "--format", "json"])).await;
    if list.code == Some(0) { list.json().as_array().unwrap().clone() } else { Vec::new() }
}

async fn in_state(folder: &TempDir, state: &str) -> usize {
    exports(folder).await.iter().filter(|export| export["state"] == state).count()
}

/// Ends it, and tells how; with this code and in time.
async fn stopped(running: Running, code: i32) -> Ended {
    let began = Instant::now();
    let ended = running.terminate().await.with(code);
    assert!(began.elapsed() < STOP_MAX, "{:?}: {}", began.elapsed(), ended.err);
    assert!(ended.err.contains("stopping; "), "{}", ended.err);
    ended
}

fn install(local: &Local, script: &str) {
    local.faults().install(Step::from_toml(script).unwrap()).unwrap();
}

/// Storage takes a block, and does not say so for an hour.
const NO_ANSWER: &str =
    "[[faults]]\non = \"blob\"\noperation = \"PutBlock\"\ndo = \"delay\"\nms = 3600000\ntimes = 1000\n";

const FULL: [&str; 9] =
    ["snapshot", "--local", "local.json", "--type", "ItemChanges", "--id", "nightly", "--input", "jsonl"];

/// A full export with one part that is staged and one that goes on as long as its standard input does.
async fn half_a_full_export(folder: &TempDir) -> (Running, ChildStdin) {
    std::fs::write(folder.path().join("first.jsonl"), "{\"ItemID\":1}\n").unwrap();
    let mut snapshot = command(folder, "waybill-publisher", &[&FULL[..], &["first.jsonl", "-"]].concat());
    snapshot.stdin(Stdio::piped());
    let mut running = Running::start(snapshot);
    let mut stdin = running.stdin();
    stdin.write_all(b"{\"ItemID\":2}\n").unwrap();
    until("both parts are begun", async || in_state(folder, "planned").await == 2).await;
    (running, stdin)
}

/// Made once more, it is whole, and the one that was not finished is in nobody's way.
async fn the_next_is_whole(folder: &TempDir, local: &Local, why: &[&str]) {
    let made = run(command(folder, "waybill-publisher", &[&FULL[..7], &["first.jsonl", "--format", "json"]].concat()));
    let made = made.await.with(0).json();
    assert_eq!((&made["snapshot"], &made["sent"], &made["repeated"]), (&json!("nightly"), &json!(true), &json!(false)));
    let all = exports(folder).await;
    let void: Vec<_> = all.iter().filter(|export| export["state"] == "void").collect();
    assert_eq!(void.len(), 2, "{all:?}");
    for export in void {
        let reason = export["reason"].as_str().unwrap();
        assert!(export["sequence"].is_null() && why.iter().any(|why| reason.starts_with(why)), "{export}");
    }
    let counts = local.broker().counts("exports/subscriptions/acme").unwrap();
    assert_eq!(counts.totals.enqueued, 1, "one part, one message");
    let list = ["snapshot", "--type", "ItemChanges", "--list"];
    let told = run(command(folder, "waybill-publisher", &list)).await.with(0).out;
    assert!(told.contains("nightly") && told.contains("1 of 1") && told.contains("whole"), "{told}");
}

#[tokio::test]
async fn a_full_export_that_is_stopped_leaves_nothing_behind() {
    let (folder, local) = beside_local().await;
    let (running, _stdin) = half_a_full_export(&folder).await;
    let ended = stopped(running, 1).await;
    assert!(ended.err.contains("stopped; nothing of it is published, begin it again"), "{}", ended.err);
    assert_eq!((in_state(&folder, "planned").await, in_state(&folder, "void").await), (0, 2), "void at once");
    the_next_is_whole(&folder, &local, &["stopped"]).await;
    local.stop().await;
}

#[tokio::test]
async fn a_full_export_that_is_killed_is_given_up_by_the_next_process() {
    let (folder, local) = beside_local().await;
    let (running, _stdin) = half_a_full_export(&folder).await;
    // As `kill -9` does.
    drop(running);
    assert_eq!(in_state(&folder, "planned").await, 2, "nobody has looked yet");
    // The next one voids it while it works, or when it ends.
    the_next_is_whole(&folder, &local, &["interrupted", "stopped"]).await;
    local.stop().await;
}

#[tokio::test]
async fn a_full_export_whose_parts_are_not_all_there_is_told_beside_the_one_before() {
    let (folder, local) = beside_local().await;
    let full = |id: &'static str| {
        let made =
            ["snapshot", "--local", "local.json", "--type", "ItemChanges", "--as-of", "0", "--id", id, "item.csv"];
        command(&folder, "waybill-publisher", &[&made[..], &["item.csv"]].concat())
    };
    run(full("good")).await.with(0);
    // The second commit of this one comes to nothing, and the bus is asked for nothing before that.
    let refused = "[[faults]]\non = \"blob\"\noperation = \"PutBlockList\"\ndo = \"refuse\"\n\
                   code = \"AuthorizationFailure\"\nnth = 2\ntimes = 100\n";
    install(&local, refused);
    run(full("half")).await.with(1);
    local.faults().clear();
    let list = ["snapshot", "--type", "ItemChanges", "--list"];
    let told = run(command(&folder, "waybill-publisher", &list)).await.with(0).out;
    assert!(
        told.contains("\"half\" has 1 of 2 parts, so nobody begins at it; \"good\" is the latest that is whole"),
        "{told}"
    );
    let listed = run(command(&folder, "waybill-publisher", &[&list[..], &["--format", "json"]].concat())).await.with(0);
    let listed = listed.json();
    assert_eq!((&listed[0]["snapshot"], &listed[0]["whole"]), (&json!("half"), &json!(false)));
    assert_eq!((&listed[1]["snapshot"], &listed[1]["whole"]), (&json!("good"), &json!(true)));
    let made = run(full("half")).await.with(0).out;
    assert!(made.contains("full export \"half.2\" of 4 rows"), "{made}");
    local.stop().await;
}

#[tokio::test]
async fn a_publish_that_is_stopped_in_the_middle_of_a_file_gives_it_up() {
    let (folder, local) = beside_local().await;
    install(&local, NO_ANSWER);
    let running = Running::start(publish(&folder, &["item.csv"]));
    until("the file is begun", async || in_state(&folder, "planned").await == 1).await;
    let ended = stopped(running, 1).await;
    assert!(ended.err.contains("not finished 3 s after it was stopped; publish it again"), "{}", ended.err);
    let all = exports(&folder).await;
    assert_eq!((all.len(), &all[0]["state"]), (1, &json!("void")), "{all:?}");
    assert!(all[0]["reason"].as_str().unwrap().starts_with("stopped"), "{all:?}");
    local.stop().await;
}

#[tokio::test]
async fn a_run_that_is_stopped_in_the_middle_of_a_file_gives_it_up() {
    let (folder, local) = beside_local().await;
    std::fs::write(folder.path().join("waybill.toml"), "[publisher]\nchange_log = \"sqlite:shop.sqlite\"\n").unwrap();
    run(command(&folder, "waybill-publisher", &["init"])).await;
    let service = waybill_store::rusqlite::Connection::open(folder.path().join("shop.sqlite")).unwrap();
    service.execute_batch("INSERT INTO waybill_change_log (blob_type, row) VALUES ('Item', '{\"id\":1}')").unwrap();
    install(&local, NO_ANSWER);
    let running = Running::start(command(&folder, "waybill-publisher", &["run", "--local", "local.json"]));
    until("the file is begun", async || in_state(&folder, "planned").await == 1).await;
    stopped(running, 0).await;
    let all = exports(&folder).await;
    assert_eq!((all.len(), &all[0]["state"]), (1, &json!("void")), "{all:?}");
    assert!(all[0]["reason"].as_str().unwrap().starts_with("stopped"), "{all:?}");
    local.faults().clear();
    let running = Running::start(command(&folder, "waybill-publisher", &["run", "--local", "local.json"]));
    until("it is made once more and sent", async || in_state(&folder, "sent").await == 1).await;
    stopped(running, 0).await;
    local.stop().await;
}

/// Somebody holds a table of its outbox.
#[tokio::test]
async fn a_run_is_stopped_in_time_while_its_postgresql_does_not_answer() {
    let (folder, local) = beside_local().await;
    let beside = Schema::new().await;
    let outbox = format!("{}_outbox", beside.name);
    let settings = format!("[publisher]\noutbox = \"{}?sslmode=disable\"\noutbox_schema = \"{outbox}\"\n", server());
    std::fs::write(folder.path().join("waybill.toml"), settings).unwrap();
    run(publish(&folder, &["--id", "nightly", "item.csv"])).await.with(0);
    run(command(&folder, "waybill-publisher", &["resend", "nightly", "--why", "acme lost it"])).await.with(0);
    let running = Running::start(command(&folder, "waybill-publisher", &["run", "--local", "local.json"]));
    let sent = || local.broker().counts("exports/subscriptions/acme").unwrap().totals.enqueued;
    until("it runs", async || sent() == 2).await;
    let lock = format!("BEGIN; LOCK TABLE {outbox}.tally IN ACCESS EXCLUSIVE MODE");
    beside.client.batch_execute(&lock).await.unwrap();
    let waits = format!("SELECT FROM pg_locks WHERE NOT granted AND relation = '{outbox}.tally'::regclass");
    until("it waits for counts", async || !beside.client.query(&waits, &[]).await.unwrap().is_empty()).await;
    let began = Instant::now();
    stopped(running, 0).await;
    // The outbox gives up a question after 30 s, and would be asked once more then.
    assert!(began.elapsed() < Duration::from_secs(27), "{:?}", began.elapsed());
    beside.client.batch_execute("ROLLBACK").await.unwrap();
    beside.client.batch_execute(&format!("DROP SCHEMA {outbox} CASCADE")).await.unwrap();
    beside.remove().await;
    local.stop().await;
}

/// Nobody takes messages: who waits for that is stopped, and says what is left to be done.
#[tokio::test]
async fn whoever_waits_for_the_bus_is_stopped_in_time_and_leaves_its_messages_to_run() {
    let (folder, local) = beside_local().await;
    write_ready_file(&folder, "nobody.json", &without_bus(local.ready_file()));
    let publish = ["publish", "--local", "nobody.json", "--type", "ItemChanges", "item.csv"];
    let running = Running::start(command(&folder, "waybill-publisher", &publish));
    until("the file is uploaded", async || in_state(&folder, "uploaded").await == 1).await;
    let ended = stopped(running, 1).await;
    assert!(ended.out.contains("kept in the outbox"), "{}", ended.out);

    // The broker has it, and does not say so.
    install(&local, "[[faults]]\non = \"transfer_in\"\ndo = \"delay\"\nms = 3600000\ntimes = 1000\n");
    let mut fired = local.faults().fired();
    let running = Running::start(command(&folder, "waybill-publisher", &["run", "--local", "local.json"]));
    tokio::time::timeout(PATIENCE, fired.wait_for(|fired| *fired > 0)).await.unwrap().unwrap();
    let ended = stopped(running, 0).await;
    assert!(ended.out.contains("0 sent, 1 waiting"), "{}", ended.out);
    local.faults().clear();
    let running = Running::start(command(&folder, "waybill-publisher", &["run", "--local", "local.json"]));
    until("it is sent", async || in_state(&folder, "sent").await == 1).await;
    stopped(running, 0).await;

    // A manifest whose message does not go is made, and is no success.
    let running = Running::start(command(&folder, "waybill-publisher", &["manifest", "--local", "nobody.json"]));
    until("the manifest is uploaded", async || in_state(&folder, "uploaded").await == 1).await;
    let ended = stopped(running, 1).await;
    assert!(ended.out.contains("1 message still in the outbox"), "{}", ended.out);
    local.stop().await;
}

/// Storage does not answer who deletes.
#[tokio::test]
async fn a_prune_that_is_stopped_says_that_there_is_a_rest() {
    let (folder, local) = beside_local().await;
    run(publish(&folder, &["item.csv"])).await.with(0);
    run(command(&folder, "waybill-publisher", &["manifest", "--local", "local.json"])).await.with(0);
    // As if its term were over.
    let outbox = waybill_store::rusqlite::Connection::open(folder.path().join(".waybill/outbox.sqlite")).unwrap();
    outbox.busy_timeout(PATIENCE).unwrap();
    outbox.execute_batch("UPDATE export SET expires_at = 1 WHERE blob_type = 'ItemChanges'").unwrap();
    drop(outbox);
    install(
        &local,
        "[[faults]]\non = \"blob\"\noperation = \"DeleteBlob\"\ndo = \"delay\"\nms = 3600000\ntimes = 1000\n",
    );
    let mut fired = local.faults().fired();
    let running = Running::start(command(&folder, "waybill-publisher", &["prune", "--local", "local.json"]));
    tokio::time::timeout(PATIENCE, fired.wait_for(|fired| *fired > 0)).await.unwrap().unwrap();
    let ended = stopped(running, 1).await;
    assert!(ended.err.contains("say it again for the rest"), "{}", ended.err);
    local.faults().clear();
    let told = run(command(&folder, "waybill-publisher", &["prune", "--local", "local.json"])).await.with(0).out;
    assert!(told.starts_with("gone: 1 export"), "{told}");
    local.stop().await;
}

/// Storage takes nothing of what it makes.
#[tokio::test]
async fn a_republisher_that_is_stopped_gives_its_file_back_and_ends_well() {
    let (folder, local) = beside_local().await;
    let settings = "[subscriber]\nentities = \"entities.toml\"\n[republish]\ndrain_timeout_ms = 500\n\
                    [republish.types.PublicItems]\nfrom = [\"ItemChanges\"]\n";
    std::fs::write(folder.path().join("waybill.toml"), settings).unwrap();
    let entities = "[entity.item]\ntypes = [\"ItemChanges\"]\nkey = [\"ItemID\"]\n\
                    version = { field = \"Version\", type = \"integer\" }\n";
    std::fs::write(folder.path().join("entities.toml"), entities).unwrap();
    std::fs::write(folder.path().join("items.csv"), "ItemID,Version\n1,1\n").unwrap();
    run(publish(&folder, &["items.csv"])).await.with(0);
    install(&local, NO_ANSWER);
    let mut fired = local.faults().fired();
    let running = Running::start(command(&folder, "waybill-republish", &["run", "--local", "local.json"]));
    tokio::time::timeout(PATIENCE, fired.wait_for(|fired| *fired > 0)).await.unwrap().unwrap();
    let ended = stopped(running, 0).await;
    assert!(ended.out.contains("0 files republished"), "{}", ended.out);
    local.faults().clear();
    let follow = ["run", "--local", "local.json", "--until-idle", "0.5"];
    let told = run(command(&folder, "waybill-republish", &follow)).await.with(0).out;
    assert!(told.contains("1 file republished"), "{told}");
    local.stop().await;
}
