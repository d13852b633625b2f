//! The pipeline against real services: what `cargo xtask test-live` runs, where the environment names them. So that it is known to
//! work before somebody pays for a namespace, it also runs against `waybill-local`, named by the same variables.

use std::{
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use tokio::{
    process::Command,
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;
use waybill_local::Local;

use crate::harness::{World, binary, query};

/// A network lies between.
const PATIENCE: Duration = Duration::from_secs(900);
const ROWS: u64 = 5_000;
const FILES: u64 = 12;

/// Where our binaries run, and what they are told beside the environment.
struct Place {
    folder: PathBuf,
    settings: Vec<(&'static str, String)>,
}

impl Place {
    /// A binary with its own state in the folder.
    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary(name));
        command.args(arguments).arg("--data").arg(self.folder.join("data")).current_dir(&self.folder);
        command.envs(self.settings.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn run(&self, name: &str, arguments: &[&str]) -> Output {
        let output =
            timeout(PATIENCE, self.command(name, arguments).output()).await.expect("in time").expect("it runs");
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{name} {arguments:?}: {}\n{told}", output.status);
        println!("{name} {}: ok", arguments.join(" "));
        output
    }
}

fn jsonl(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|n| format!("{{\"n\":{n},\"text\":\"{}\"}}\n", Uuid::new_v4())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a real namespace, storage account and TenantService: cargo xtask test-live says which variables name them"]
async fn the_pipeline_against_real_services_brings_each_row_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = Place { folder: folder.path().to_owned(), settings: Vec::new() };
    pipeline(&place, "20").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_run_against_real_services_passes_against_waybill_local() {
    let world = World::of(Local::builder().tls()).await;
    let ready = world.local.ready_file().clone();
    let ca_file = ready.ca_file.expect("with TLS there is one");
    let bus = ready.service_bus_tls_connection_string.expect("with TLS there is one");
    // As `cargo xtask test-live` asks for them.
    let settings = vec![
        ("WAYBILL_PUBLISHER__SERVICE_BUS_CONNECTION_STRING", bus),
        ("WAYBILL_PUBLISHER__BLOB_CONNECTION_STRING", ready.blob_connection_string),
        ("WAYBILL_PUBLISHER__CA_FILE", ca_file.clone()),
        ("WAYBILL_SUBSCRIBER__TENANT__URL", ready.tenant_url),
        ("WAYBILL_SUBSCRIBER__TENANT__BEARER_TOKEN", ready.bearer_token),
        ("WAYBILL_SUBSCRIBER__CA_FILE", ca_file),
    ];
    let folder = world.path("live");
    std::fs::create_dir(&folder).expect("a folder");
    pipeline(&Place { folder, settings }, "2").await;
    world.end().await;
}

/// It is over when for so many seconds nothing came.
async fn pipeline(place: &Place, until_idle: &str) {
    let folder = &*place.folder;
    let sink = ["--sink", "sqlite:live.sqlite"];
    let follow = [&["run", "--until-idle", until_idle][..], &sink].concat();
    place.run("waybill-subscriber", &[&["doctor"][..], &sink].concat()).await;

    // Types that nobody else has: the subscription may hold messages of earlier runs.
    let run_id = Uuid::new_v4().simple().to_string();
    std::fs::write(folder.join("rows.jsonl"), jsonl(0..ROWS)).expect("a file");
    let formats = ["jsonl", "csv", "json", "xml", "xmll"];
    for format in formats {
        let blob_type = format!("Live{run_id}{format}");
        let mut publish = vec!["publish", "--type", &blob_type];
        if format != "jsonl" {
            publish.extend(["--as", format]);
        }
        publish.push("rows.jsonl");
        place.run("waybill-publisher", &publish).await;
    }
    place.run("waybill-subscriber", &follow).await;
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
    place.run("waybill-publisher", &publish).await;
    let mut child = place
        .command("waybill-subscriber", &[&["run"][..], &sink].concat())
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
    place.run("waybill-subscriber", &follow).await;
    once(&blob_type, FILES * ROWS);
    let complete = place.run("waybill-subscriber", &["complete", "--type", &blob_type]).await;
    println!("{}", String::from_utf8_lossy(&complete.stdout));
}
