//! What must not be seen: tokens, in anything that we write.

use std::{path::Path, process::Stdio, time::Duration};

use tokio::{
    io::AsyncReadExt,
    process::Command,
    time::{Instant, timeout},
};
use waybill_local::{
    BlobOperation, Local,
    fault::{BlobRequests, CutAt, Service, Step, What, When, Whose},
};

use crate::harness::{PATIENCE, World, assert_each_number_once, binary, number, query};

/// All files below a folder.
fn files(folder: &Path, into: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files(&path, into) } else { into.push(path) }
    }
}

/// The places where `secret` stands in `bytes`, with what is around it.
fn found(bytes: &[u8], secret: &str) -> Vec<String> {
    let places = bytes.windows(secret.len()).enumerate().filter(|(_, window)| *window == secret.as_bytes());
    places
        .take(3)
        .map(|(at, _)| {
            let around = &bytes[at.saturating_sub(200)..bytes.len().min(at + 60)];
            String::from_utf8_lossy(around).into_owned()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_is_secret_is_in_any_log_error_or_database() {
    const FILES: u64 = 12;
    const ROWS: u64 = 100;
    let world = World::of(Local::builder().token_life(Duration::from_secs(2))).await;
    let ready = world.ready_file();
    let publishing = world.publisher().await;
    publishing.files_of_numbers(FILES / 2, ROWS).await;
    // Everything that may write a token into an error: refusals, broken bodies, lost links, a file that is not there.
    let read = |nth, what| Step::new(When::Blob(BlobRequests::of(BlobOperation::GetBlob)), what).nth(number(nth));
    let cut = read(2, What::Cut { at: CutAt::BodyByte(100), refuse_sas: true });
    let reset = read(4, What::Reset(Whose::Event));
    let busy = read(5, What::throttle(Duration::from_secs(1)));
    let close = Step::new(When::After(Duration::from_secs(1)), What::close(Whose::Service(Service::Bus)));
    world.local.faults().install([cut, reset, busy, close]).expect("a sound script");
    let missing = crate::harness::waybill("Number", &world.uri("Number/none.jsonl"));
    let foreign = crate::harness::waybill("Number", "https://storage.example/c/x.jsonl?sv=1&se=2");
    world.send([missing.to_string(), foreign.to_string(), "no waybill".to_owned()]).await;

    let mut run = Command::new(binary("waybill-subscriber"));
    run.arg("run").arg("--local").arg(&ready).arg("--data").arg(world.path("data"));
    run.arg("--sink").arg(format!("sqlite:{}", world.database().display()));
    run.env("RUST_LOG", "trace").env("WAYBILL_SUBSCRIBER__RANGE_BYTES", "2000").current_dir(world.path(""));
    run.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = run.spawn().expect("the subscriber starts");
    let mut stderr = child.stderr.take().expect("it is piped");
    let told = async {
        let mut told = Vec::new();
        stderr.read_to_end(&mut told).await.expect("it is read");
        told
    };
    let work = async {
        let done = || {
            let inbox = world.path("data/inbox.sqlite");
            let database = world.database();
            if !inbox.exists() || !database.exists() {
                return 0;
            }
            if query(&database, "SELECT 1 FROM sqlite_schema WHERE name = '_waybill_progress'").is_empty() {
                return 0;
            }
            query(&database, "SELECT count(*) FROM _waybill_progress WHERE done")[0].parse().expect("a number")
        };
        let until_done = async |files: u64| {
            let end = Instant::now() + PATIENCE;
            while done() < files {
                assert!(Instant::now() < end, "the subscriber did not finish");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        until_done(1).await;
        world.local.rotate(None).expect("a rotation");
        until_done(FILES / 2).await;
        for file in FILES / 2..FILES {
            publishing.numbers("Number", file * ROWS..(file + 1) * ROWS).await;
        }
        until_done(FILES).await;
        // Past the time at which a token is renewed because it is due.
        world.local.faults().wait_for(4).await;
        child.kill().await.expect("it is killed");
    };
    let (told, ()) = timeout(PATIENCE, async { tokio::join!(told, work) }).await.expect("in time");
    publishing.end().await;
    assert_each_number_once(&world, FILES * ROWS);
    let trace = found(&told, "TRACE").len() + found(&told, "DEBUG").len();
    assert!(trace > 1 && told.len() > 10_000, "it logged, down to the last level: {}", String::from_utf8_lossy(&told));

    let bearer = world.local.ready_file().bearer_token.clone();
    let secrets = ["sig=", "sig%3D", "SharedAccessSignature sr", bearer.as_str()];
    for secret in secrets {
        assert_eq!(found(&told, secret), [""; 0], "the log holds {secret}");
    }
    let mut written = Vec::new();
    files(&world.path("data"), &mut written);
    for name in ["sink.sqlite", "sink.sqlite-wal", "publisher"] {
        let path = world.path(name);
        if path.is_dir() {
            files(&path, &mut written);
        } else if path.exists() {
            written.push(path);
        }
    }
    assert!(written.len() >= 3, "{written:?}");
    for path in &written {
        // SQLite takes a `-wal` away when the last connection closes.
        let Ok(bytes) = std::fs::read(path) else { continue };
        for secret in secrets {
            assert_eq!(found(&bytes, secret), [""; 0], "{} holds {secret}", path.display());
        }
    }
    world.end().await;
}

#[tokio::test]
async fn nothing_that_is_secret_is_in_what_a_publisher_writes() {
    let world = World::new().await;
    let ready = world.ready_file();
    let block = When::Blob(BlobRequests::of(BlobOperation::PutBlock));
    let refuse = Step::new(block, What::RefuseSas);
    let list = When::Blob(BlobRequests::of(BlobOperation::PutBlockList));
    let reset = Step::new(list, What::Reset(Whose::Event));
    world.local.faults().install([refuse, reset]).expect("a sound script");
    let file = world.path("rows.jsonl");
    std::fs::write(&file, "{\"n\":1}\n").expect("a file");
    let mut publish = Command::new(binary("waybill-publisher"));
    publish.arg("publish").arg("--local").arg(&ready).arg("--data").arg(world.path("outbox"));
    publish.args(["--type", "Number"]).arg(&file).current_dir(world.path("")).env("RUST_LOG", "trace");
    let output = timeout(PATIENCE, publish.output()).await.expect("in time").expect("it runs");
    let told = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&told));
    assert_eq!(world.local.faults().log_lines().len(), 2, "both faults were met");
    assert!(!found(&told, "TRACE").is_empty(), "it logged: {}", String::from_utf8_lossy(&told));

    let connection = &world.local.ready_file().blob_connection_string;
    let account_key = connection.split(';').find_map(|part| part.strip_prefix("AccountKey=")).expect("a key");
    let secrets = ["sig=", "sig%3D", "SharedAccessSignature sr", account_key, "SAS_KEY_VALUE"];
    let mut written = Vec::new();
    files(&world.path("outbox"), &mut written);
    assert!(!written.is_empty());
    for secret in secrets {
        assert_eq!(found(&told, secret), [""; 0], "the log holds {secret}");
        for path in &written {
            let Ok(bytes) = std::fs::read(path) else { continue };
            assert_eq!(found(&bytes, secret), [""; 0], "{} holds {secret}", path.display());
        }
    }
    world.end().await;
}
