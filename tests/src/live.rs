//! The pipeline against real services: what `cargo xtask test-live` runs, where the environment names them.

use std::{
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{
    process::Command,
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;

use crate::harness::{binary, query};

/// A network lies between.
const PATIENCE: Duration = Duration::from_secs(900);
const ROWS: u64 = 5_000;
const FILES: u64 = 12;

/// A binary with the settings of the environment, its own state in `folder`.
fn command(folder: &Path, name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary(name));
    command.args(arguments).arg("--data").arg(folder.join("data")).current_dir(folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(folder: &Path, name: &str, arguments: &[&str]) -> Output {
    let output = timeout(PATIENCE, command(folder, name, arguments).output()).await.expect("in time").expect("it runs");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} {arguments:?}: {}\n{told}", output.status);
    println!("{name} {}: ok", arguments.join(" "));
    output
}

fn jsonl(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|n| format!("{{\"n\":{n},\"text\":\"{}\"}}\n", Uuid::new_v4())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real namespace, storage account and TenantService: cargo xtask test-live says which variables name them"]
async fn the_pipeline_against_real_services_brings_each_row_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let sink = ["--sink", "sqlite:live.sqlite"];
    let follow = [&["run", "--until-idle", "20"][..], &sink].concat();
    run(folder, "waybill-subscriber", &[&["doctor"][..], &sink].concat()).await;

    // Types that nobody else has: the subscription may hold messages of earlier runs.
    let run_id = Uuid::new_v4().simple().to_string();
    std::fs::write(folder.join("rows.jsonl"), jsonl(0..ROWS)).expect("a file");
    let formats = ["jsonl", "json", "xml", "xmll"];
    for format in formats {
        let blob_type = format!("Live{run_id}{format}");
        let mut publish = vec!["publish", "--type", &blob_type];
        if format != "jsonl" {
            publish.extend(["--as", format]);
        }
        publish.push("rows.jsonl");
        run(folder, "waybill-publisher", &publish).await;
    }
    run(folder, "waybill-subscriber", &follow).await;
    let database = folder.join("live.sqlite");
    let once = |blob_type: &str, rows: u64| {
        let counted = format!("SELECT count(*), count(DISTINCT CAST(n AS INTEGER)) FROM \"{blob_type}\"");
        assert_eq!(query(&database, &counted), [format!("{rows}|{rows}")], "{blob_type}");
    };
    for format in formats {
        once(&format!("Live{run_id}{format}"), ROWS);
    }

    // Killed in the middle of its work, it goes on where it was.
    let blob_type = format!("Live{run_id}killed");
    let files: Vec<String> = (0..FILES).map(|file| format!("{file}.jsonl")).collect();
    for (file, name) in (0..).zip(&files) {
        std::fs::write(folder.join(name), jsonl(file * ROWS..(file + 1) * ROWS)).expect("a file");
    }
    let mut publish = vec!["publish", "--type", &blob_type];
    publish.extend(files.iter().map(String::as_str));
    run(folder, "waybill-publisher", &publish).await;
    let mut child = command(folder, "waybill-subscriber", &[&["run"][..], &sink].concat())
        .env("WAYBILL_SUBSCRIBER__COMMIT_ROWS_MAX", "500")
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let begun = format!("SELECT coalesce(sum(rows), 0) > 0 FROM _waybill_progress WHERE blob_type = '{blob_type}'");
    let end = Instant::now() + PATIENCE;
    while query(&database, &begun) != ["1"] {
        assert!(Instant::now() < end, "it does not begin");
        sleep(Duration::from_millis(20)).await;
    }
    child.kill().await.expect("it is killed");
    run(folder, "waybill-subscriber", &follow).await;
    once(&blob_type, FILES * ROWS);
    let complete = run(folder, "waybill-subscriber", &["complete", "--type", &blob_type]).await;
    println!("{}", String::from_utf8_lossy(&complete.stdout));
}
