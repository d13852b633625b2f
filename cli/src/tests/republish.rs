//! `waybill-republish` as its user meets it.

use std::{
    hash::{BuildHasher, RandomState},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use waybill_azure::{TokenSource, connection_string::key_tokens};
use waybill_contracts::ReadyFile;
use waybill_formats::Field;
use waybill_local::{
    BlobOperation,
    fault::{BlobRequests, Refusal, Step, What},
};
use waybill_publisher::{
    Publisher,
    outbox::{PostgresOutbox, PostgresOutboxOptions},
};

use super::binaries::{PATIENCE, Running, beside_local, command, publish, run};

const ENTITIES: &str = r#"
[entity.item]
types = ["ItemChanges"]
key = ["ItemID"]
version = { field = "Version", type = "integer" }
columns = { ItemID = "integer", Price = "decimal" }
"#;
const SETTINGS: &str = r#"[subscriber]
entities = "entities.toml"

[republish.types.PublicItems]
from = ["ItemChanges"]
where = 'row.Price > 10.0'
fields = ["ItemID", "Version", "Price"]
"#;
/// Where the other binaries look into its folder.
const DATA: [&str; 2] = ["--data", ".waybill/republish"];

fn republish(folder: &TempDir, arguments: &[&str]) -> std::process::Command {
    command(folder, "waybill-republish", arguments)
}

fn tokens(ready: &ReadyFile) -> Arc<dyn TokenSource> {
    key_tokens(
        ready.service_bus_connection_string.parse().unwrap(),
        ready.topic.clone(),
        ready.blob_connection_string.parse().unwrap(),
        ready.container.clone(),
        Duration::from_secs(3600),
    )
}

fn write(folder: &TempDir, name: &str, text: &str) {
    std::fs::write(folder.path().join(name), text).unwrap();
}

#[tokio::test]
async fn files_are_republished_as_the_plan_said_and_the_other_binaries_look_into_its_folder() {
    let (folder, local) = beside_local().await;
    write(&folder, "waybill.toml", SETTINGS);
    write(&folder, "entities.toml", ENTITIES);
    write(&folder, "items.csv", "ItemID,Version,Price,Secret\n1,1,19.90,x\n2,1,5.00,y\n");
    write(&folder, "odd.csv", "ItemID,Version,Price\n3,1,\n");
    run(publish(&folder, &["items.csv", "odd.csv"])).await.with(0);
    let none = run(republish(&folder, &["plan", "--local", "local.json"])).await.with(1);
    assert!(none.err.contains("no inbox in .waybill/republish/inbox.sqlite"), "{}", none.err);
    let hint = "to receive without publishing: `waybill-subscriber receive --data .waybill/republish`";
    assert!(none.err.contains(hint), "{}", none.err);

    let receive = ["receive", "--local", "local.json", "--until-idle", "0.5"];
    run(command(&folder, "waybill-subscriber", &[&receive[..], &DATA].concat())).await.with(0);
    let planned = run(republish(&folder, &["plan", "--local", "local.json", "--format", "json"])).await.with(3).json();
    let of = &planned["types"][0];
    assert_eq!((&of["from"], &of["to"]), (&Value::from("ItemChanges"), &Value::from("PublicItems")));
    let counted = ["files", "filesOut", "filesQuarantined", "rowsPassed", "rowsUnwanted"].map(|name| of[name].as_u64());
    assert_eq!(counted, [2, 1, 1, 1, 1].map(Some), "{planned}");
    assert_eq!(planned["files"][0]["reason"], "filter-error");
    let told = run(republish(&folder, &["plan", "--local", "local.json"])).await.with(3).out;
    assert!(told.contains("1 file would be quarantined:\n") && told.contains("filter-error: row 1: "), "{told}");

    let follow = ["run", "--local", "local.json", "--until-idle", "0.5", "--format", "json"];
    let ran = run(republish(&folder, &follow)).await.with(3).json();
    let counted = ["filesRepublished", "filesQuarantined", "rowsPassed", "rowsUnwanted", "unsent"];
    assert_eq!(counted.map(|name| ran[name].as_u64()), [1, 1, 1, 1, 0].map(Some), "{ran}");
    let list = |name| command(&folder, name, &[&["list", "--format", "json"], &DATA[..]].concat());
    let exports = run(list("waybill-publisher")).await.with(0).json();
    let export = &exports[0];
    assert_eq!(
        (&export["blobType"], &export["state"]),
        (&Value::from("PublicItems"), &Value::from("sent")),
        "{exports}"
    );
    let files = run(list("waybill-subscriber")).await.with(0).json();
    let states: Vec<_> = files.as_array().unwrap().iter().map(|row| row["state"].as_str().unwrap()).collect();
    assert!(states.contains(&"done") && states.contains(&"quarantined"), "{files}");

    // Once more: nothing is there to do.
    let told = run(republish(&folder, &follow[..5])).await.with(0);
    assert!(told.out.contains("0 files republished"), "{}", told.out);
    assert!(told.err.contains("ItemChanges becomes PublicItems"), "{}", told.err);
    local.stop().await;
}

/// Of the settings of a service and of a sink, only what the guide says counts for a republisher that has the same file.
#[tokio::test]
async fn a_republisher_leaves_the_outbox_of_the_service_and_the_inbox_of_the_sink_alone() {
    let (folder, local) = beside_local().await;
    let server = std::env::var("WAYBILL_TEST_POSTGRES")
        .expect("WAYBILL_TEST_POSTGRES is not set: run `cargo xtask test`, which starts a PostgreSQL");
    let server = format!("{server}?sslmode=disable");
    write(&folder, "entities.toml", ENTITIES);
    for (item, place) in ["change_log", "outbox"].into_iter().enumerate() {
        let name = format!("{place}_{:016x}", RandomState::new().hash_one(place));
        let others = SETTINGS.replace(
            "[subscriber]\n",
            &format!(
                "[subscriber]\ninbox = \"{server}\"\ninbox_schema = \"{name}_sink\"\nsink = \"stdout\"\ntypes = [\"Else\"]\n\
                 filters = {{ ItemChanges = \"row.x > 1\" }}\n"
            ),
        );
        let settings = format!(
            "{others}[publisher]\n{place} = \"{server}\"\noutbox_schema = \"{name}_service\"\nchange_log_schema = \"{name}_log\"\n\
             [republish]\ninbox_schema = \"{name}_in\"\noutbox_schema = \"{name}_out\"\ndata = \"{place}\"\n"
        );
        write(&folder, "waybill.toml", &settings);
        // The service's own message, which is not for the topic of the republisher.
        let options = PostgresOutboxOptions { schema: format!("{name}_service"), ..PostgresOutboxOptions::default() };
        let outbox = PostgresOutbox::open(&server, options).await.unwrap();
        let service = Publisher::builder(tokens(local.ready_file()), folder.path().join("service")).name("service");
        let service = service.build_on(outbox).unwrap();
        let mut export = service.export("Secrets").unwrap().start().await.unwrap();
        export.row(&[("Cost", Field::Number("1"))]).await.unwrap();
        export.finish().await.unwrap();
        // Published elsewhere, for the republisher to work on.
        let file = format!("items-{item}.csv");
        write(&folder, &file, "ItemID,Version,Price\n1,1,19.90\n");
        let mut elsewhere = publish(&folder, &[&file]);
        elsewhere
            .env("WAYBILL_PUBLISHER__OUTBOX", &server)
            .env("WAYBILL_PUBLISHER__OUTBOX_SCHEMA", format!("{name}_else"));
        run(elsewhere).await.with(0);

        let follow = ["run", "--local", "local.json", "--until-idle", "0.5", "--format", "json"];
        let ran = run(republish(&folder, &follow)).await.with(0).json();
        assert_eq!(ran["filesRepublished"], 1, "{place}: {ran}");
        let counts = service.status().await.unwrap().counts;
        assert_eq!((counts.uploaded, counts.sent), (1, 0), "{place}: the service sends its messages itself");
        // There is no inbox where the sink would have it; ours is elsewhere in that database.
        let status = |schema: &str| {
            let mut status = command(&folder, "waybill-subscriber", &["status"]);
            status.env("WAYBILL_SUBSCRIBER__INBOX_SCHEMA", format!("{name}_{schema}"));
            status
        };
        let none = run(status("sink")).await.with(1).err;
        assert!(none.contains("no inbox in ") && none.contains(&format!("{name}_sink")), "{place}: {none}");
        run(status("in")).await.with(0);
        let is_file = folder.path().join(place).join("republish/outbox.sqlite").exists();
        assert_eq!(is_file, place == "change_log", "{place}");
        if is_file {
            // A person who names the folder means the outbox that is in it.
            let list = |more: &[&str]| command(&folder, "waybill-publisher", &[&["list"], more].concat());
            let ours = run(list(&["--data", "change_log/republish"])).await.with(0);
            assert!(ours.out.contains("PublicItems") && !ours.out.contains("Secrets"), "{}", ours.out);
            assert!(ours.err.contains("not the one that `run` uses"), "{}", ours.err);
            // To change something there it has to be said otherwise.
            let pause = ["pause", "PublicItems", "--why", "x", "--data", "change_log/republish"];
            let refused = run(command(&folder, "waybill-publisher", &pause)).await.with(1).err;
            assert!(refused.contains("`run` has its own in a database"), "{refused}");
            let theirs = run(list(&[])).await.with(0);
            assert!(theirs.out.contains("Secrets") && !theirs.out.contains("PublicItems"), "{}", theirs.out);
        }
    }
    local.stop().await;
}

fn refused_outputs() -> Step {
    let commit = BlobRequests::of(BlobOperation::PutBlockList).named("PublicItems/");
    let refuse = What::Refuse { with: Refusal::Busy, retry_after: None };
    Step::new(commit, refuse).times(NonZeroU32::new(100_000).unwrap())
}

#[tokio::test]
async fn while_storage_takes_no_output_readiness_says_so_and_a_run_that_ends_by_itself_fails() {
    let (folder, local) = beside_local().await;
    write(&folder, "waybill.toml", SETTINGS);
    write(&folder, "entities.toml", ENTITIES);
    write(&folder, "items.csv", "ItemID,Version,Price\n1,1,19.90\n");
    run(publish(&folder, &["items.csv"])).await.with(0);
    local.faults().install([refused_outputs()]).unwrap();
    // Storage is tried for so long before the file is put off.
    let impatient = |arguments: &[&str]| {
        let mut command = republish(&folder, &[&["run", "--local", "local.json"], arguments].concat());
        command.env("WAYBILL_PUBLISHER__SEND_TIMEOUT_MS", "300");
        command
    };
    let told = run(impatient(&["--until-idle", "0.3"])).await.with(1);
    assert!(
        told.out.contains("waiting for a later try: 1 file; `waybill-subscriber list --state saved"),
        "{}",
        told.out
    );

    let mut running = Running::start(impatient(&["--health", "127.0.0.1:0"]));
    let address = running.says("waybill-republish: health and metrics at ").await;
    let until_ready_is = async |wanted: &dyn Fn(u16, &Value) -> bool| {
        let asking = async {
            loop {
                let answer = reqwest::get(format!("{address}/health/ready")).await.unwrap();
                let (status, body) = (answer.status().as_u16(), answer.text().await.unwrap());
                if wanted(status, &serde_json::from_str(&body).unwrap()) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.expect("it says so");
    };
    until_ready_is(&|status, body| status == 503 && body["problems"][0]["part"] == "storage of the output").await;
    local.faults().clear();
    until_ready_is(&|status, body| status == 200 && body["problems"] == serde_json::json!([])).await;
    running.terminate().await.with(0);
    local.stop().await;
}

#[tokio::test]
async fn what_cannot_be_republished_is_said_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "entities.toml", ENTITIES);
    for (settings, wanted) in [
        ("".to_owned(), "name an output under [republish.types.TYPE] in waybill.toml"),
        (
            SETTINGS.replace("> 10.0", "> 'x'").replace('\'', "\"").replace("\"x\"", "'x'"),
            "waybill.toml:6:20: [republish.types.PublicItems]: `where`: ",
        ),
        (
            SETTINGS.replace("\"Version\", ", ""),
            "[republish.types.PublicItems]: `fields` leaves out \"Version\", which is the version of entity \"item\"",
        ),
        (SETTINGS.replace("from = [\"ItemChanges\"]", ""), "nothing says from which blobTypes"),
        (SETTINGS.replace("where", "wher"), "waybill.toml:6: unknown field `wher`"),
        (format!("{SETTINGS}format = \"yaml\"\n"), "unknown variant `yaml`"),
    ] {
        write(&folder, "waybill.toml", &settings);
        let refused = run(republish(&folder, &["run", "--local", "local.json"])).await.with(1).err;
        assert!(refused.starts_with("waybill-republish: ") && refused.contains(wanted), "{wanted}: {refused}");
    }
    run(republish(&folder, &["publish"])).await.with(2);
}

#[tokio::test]
async fn health_and_metrics_tell_of_both_sides_and_what_the_guide_lists() {
    let (folder, local) = beside_local().await;
    write(&folder, "waybill.toml", SETTINGS);
    write(&folder, "entities.toml", ENTITIES);
    write(&folder, "items.csv", "ItemID,Version,Price\n1,1,19.90\n");
    run(publish(&folder, &["items.csv"])).await.with(0);
    let mut running = Running::start(republish(&folder, &["run", "--local", "local.json", "--health", "127.0.0.1:0"]));
    let address = running.says("waybill-republish: health and metrics at ").await;
    let get = async |path: &str| {
        let answer = reqwest::get(format!("{address}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let until = async |path: &str, wanted: &dyn Fn(u16, &str) -> bool| {
        let asking = async {
            loop {
                let (status, text) = get(path).await;
                if wanted(status, &text) {
                    return text;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{path} never said it"))
    };
    let ready: Value = serde_json::from_str(&until("/health/ready", &|status, _| status == 200).await).unwrap();
    assert_eq!((&ready["subscriber"]["ready"], &ready["publisher"]["ready"]), (&Value::from(true), &Value::from(true)));
    assert_eq!(get("/health/live").await.0, 200);
    let page = until("/metrics", &|_, page| {
        page.contains("waybill_republish_files_total{outcome=\"republished\"} 1\n")
            && page.contains("waybill_publisher_messages_sent_total 1\n")
    })
    .await;
    assert!(page.contains("waybill_files_done_total 1\n"), "{page}");
    let guide = include_str!("../../../docs/republish.md");
    let listed = guide.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name);
    let listed: Vec<_> = listed.filter(|name| name.starts_with("waybill_republish_")).collect();
    let told = page.lines().filter_map(|line| line.strip_prefix("# TYPE waybill_republish_")?.split_once(' '));
    let told: Vec<_> =
        told.map(|(name, _)| format!("waybill_republish_{name}_total").replace("_total_total", "_total")).collect();
    assert_eq!(listed, told);
    running.terminate().await.with(0);
    local.stop().await;
}
