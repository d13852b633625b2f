//! `kill -9` between a commit of the service and its message, at each step and at any moment, on both databases. Each test starts
//! itself once more as the publisher's process, which is killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    num::NonZeroU32,
    path::Path,
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use waybill_contracts::{Fate, MANIFEST_TYPE, ReadyFile};
use waybill_store::rusqlite::Connection;

use super::{
    change_log::{PostgresService, fresh_schema, postgres_log, server},
    following::{Following, all_sent, at_once, rows_sent},
    world::{PATIENCE, World, all_rows, tokens},
};
use crate::{
    FollowOptions, Publisher, TypeOptions,
    change_log::{ChangeLog, conformance::Service},
    context::Step,
    outbox::{AnyOutbox, PostgresOutbox, PostgresOutboxOptions, SqliteOutbox, SqliteOutboxOptions, State},
};

const STEP: &str = "WAYBILL_TEST_LOG_STEP";
const READY: &str = "WAYBILL_TEST_LOG_READY";
const OUTBOX: &str = "WAYBILL_TEST_LOG_OUTBOX";
/// The schema of the log, or its file.
const LOG: &str = "WAYBILL_TEST_LOG";
/// What the other process says when it follows, and when it stands at its step.
const FOLLOWS: &str = "it follows";
const REACHED: &str = "the step is reached";

const STEPS: [Step; 11] = [
    Step::FilePlanned,
    Step::Planned,
    Step::BlockStaged,
    Step::Staged,
    Step::Numbered,
    Step::Committed,
    Step::Uploaded,
    Step::Accepted,
    Step::Sent,
    Step::FileExported,
    Step::FileMarked,
];
/// Besides one at each step; `cargo xtask soak` says more.
const RANDOM_ROUNDS: u64 = 20;

fn random_rounds() -> u64 {
    std::env::var("WAYBILL_SOAK_KILLS").map_or(RANDOM_ROUNDS, |rounds| rounds.parse().expect("a number of rounds"))
}

async fn open(log: &str) -> ChangeLog {
    match log.strip_prefix("sqlite:") {
        Some(path) => ChangeLog::sqlite(Path::new(path)).await.unwrap(),
        None => postgres_log(log).await,
    }
}

/// Beside the log: a file beside a file, a schema beside a schema.
async fn open_outbox(log: &str) -> AnyOutbox {
    if let Some(path) = log.strip_prefix("sqlite:") {
        let path = format!("{path}.outbox");
        return AnyOutbox::Sqlite(SqliteOutbox::open(Path::new(&path), SqliteOutboxOptions::default()).await.unwrap());
    }
    let options = PostgresOutboxOptions { schema: format!("{log} outbox"), ..PostgresOutboxOptions::default() };
    AnyOutbox::Postgres(PostgresOutbox::open(&server(), options).await.unwrap())
}

fn options() -> FollowOptions {
    // Small files, so that there are several in each round.
    let files = TypeOptions { max_rows: NonZeroU32::new(20).unwrap(), ..at_once().files };
    FollowOptions { files, ..at_once() }
}

/// The other process: follows and sends until it is killed.
async fn follow_until_killed() -> ! {
    let ready = std::fs::read(std::env::var_os(READY).unwrap()).unwrap();
    let ready: ReadyFile = serde_json::from_slice(&ready).unwrap();
    let outbox = open_outbox(&std::env::var(OUTBOX).unwrap()).await;
    let builder = Publisher::builder(tokens(&ready), "").name("shop");
    let publisher = builder.build_on(outbox).unwrap().hooked(stand_at_the_step);
    let log = open(&std::env::var(LOG).unwrap()).await;
    println!("{FOLLOWS}");
    let stop = CancellationToken::new();
    let (followed, ()) = tokio::join!(publisher.follow(&log, options(), stop.clone()), publisher.run(stop.clone()));
    panic!("it ended: {followed:?}");
}

fn stand_at_the_step(step: Step) {
    if std::env::var(STEP).is_ok_and(|wanted| wanted == format!("{step:?}")) {
        println!("{REACHED}");
        // It is killed here. Should the parent die first, the pipe ends.
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        std::process::exit(1);
    }
}

struct Other {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Other {
    fn start<T>(world: &World, log: &str, step: &str, test: &T) -> Self {
        let ready = world.path("ready.json");
        world.local.write_ready_file(&ready).unwrap();
        let name = std::any::type_name_of_val(test).split_once("::").expect("a path in this crate").1;
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(STEP, step)
            .env(READY, ready)
            .env(OUTBOX, log)
            .env(LOG, log)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    async fn says(&mut self, what: &str) {
        let said = async {
            while let Some(line) = self.lines.next_line().await.unwrap() {
                if line.contains(what) {
                    return true;
                }
            }
            false
        };
        assert!(timeout(PATIENCE, said).await.expect("in time"), "the process ended before it said {what:?}");
    }
}

fn insert(numbers: impl Iterator<Item = u32>) -> String {
    let rows: Vec<String> = numbers.map(|n| format!("('Number', '{{\"n\":{n}}}')")).collect();
    format!("INSERT INTO LOG (blob_type, row) VALUES {}", rows.join(", "))
}

/// Kills at each step and at random moments, while a service commits some changes and rolls back others; then compares. Where the
/// database has several writers, `late` has a transaction under way at each kill, which ends once the next process is there.
async fn every_committed_change_arrives_and_no_other<T, S: Service>(
    world: World,
    place: String,
    service: S,
    late: Option<S>,
    test: &T,
) {
    let log = open(&place).await;
    let mut committed = BTreeSet::new();
    let mut number = 0;
    // Of the transaction that is under way.
    let mut open_numbers = 0..0;
    let rounds = STEPS.iter().map(|step| format!("{step:?}")).chain((0..random_rounds()).map(|_| String::new()));
    for (round, step) in rounds.enumerate() {
        let mut other = Other::start(&world, &place, &step, test);
        other.says(FOLLOWS).await;
        // Rolled back in between, so that there are gaps in the ids.
        for (changes, end) in [(35, "COMMIT"), (5, "ROLLBACK"), (1, "COMMIT")] {
            service.must(&format!("BEGIN; {}; {end}", insert(number..number + changes))).await;
            if end == "COMMIT" {
                committed.extend(number..number + changes);
            }
            number += changes;
        }
        if let Some(late) = late.as_ref().filter(|_| !open_numbers.is_empty()) {
            // What was logged since waits for it.
            let commits = round % 3 > 0;
            late.must(if commits { "COMMIT" } else { "ROLLBACK" }).await;
            committed.extend(if commits { open_numbers } else { 0..0 });
        }
        let begin = async |number: u32| {
            if let Some(late) = &late {
                late.must(&format!("BEGIN; {}", insert(number..number + 3))).await;
            }
            number..number + if late.is_some() { 3 } else { 0 }
        };
        if step.is_empty() {
            let moment = u64::from(uuid::Uuid::new_v4().as_bytes()[0]) / 2;
            sleep(Duration::from_millis(moment)).await;
            open_numbers = begin(number).await;
            sleep(Duration::from_millis(moment)).await;
        } else {
            other.says(REACHED).await;
            open_numbers = begin(number).await;
        }
        number = number.max(open_numbers.end);
        other.child.kill().await.unwrap();
    }
    if let Some(late) = &late {
        late.must("COMMIT").await;
        committed.extend(open_numbers);
    }
    let publisher = world.builder().build_on(open_outbox(&place).await).unwrap();
    let following = Following::start(publisher, &log, options());
    all_sent(&log, &following).await;
    // A message may come twice, each with the same file.
    let rows = rows_sent(&world, "Number").await;
    let committed: Vec<String> = committed.into_iter().map(|n| format!("{{\"n\":{n}}}")).collect();
    assert_eq!(rows, committed, "every change once, in the order of the numbers");
    let sent = world.assert_promises(&following.running.publisher, 0).await;
    let exports: BTreeSet<&str> = sent.iter().map(|row| row.export_id.as_str()).collect();
    assert_eq!(exports.len(), sent.len(), "no file has two numbers that are sent");
    every_number_is_told(&world, &following).await;
    following.end().await;
    world.end().await;
}

/// The manifests name each number once, as sent or as void, and none is missing.
async fn every_number_is_told(world: &World, following: &Following<AnyOutbox>) {
    let publisher = &following.running.publisher;
    while !publisher.make_manifests().await.unwrap().is_empty() {
        following.running.sent().await;
    }
    let numbers: Vec<(u64, State)> = all_rows(publisher)
        .await
        .into_iter()
        .filter(|row| row.blob_type == "Number")
        .filter_map(|row| Some((row.sequence?, row.state)))
        .collect();
    let mut told = BTreeMap::new();
    for message in world.messages().iter().filter(|message| message.metadata.blob_type == MANIFEST_TYPE) {
        for row in super::manifests::rows_of(world, message).await {
            if row.blob_type == "Number" {
                let state = if matches!(row.fate, Fate::Sent(_)) { State::Sent } else { State::Void };
                assert_eq!(told.insert(row.sequence, state), None, "number {} is told twice", row.sequence);
            }
        }
    }
    assert_eq!(
        told.keys().copied().collect::<Vec<_>>(),
        (1..=numbers.len() as u64).collect::<Vec<_>>(),
        "none is missing"
    );
    assert_eq!(told, numbers.into_iter().collect(), "as the outbox has it");
}

struct File(std::path::PathBuf);

impl Service for File {
    async fn run(&self, sql: &str) -> Result<(), String> {
        let db = Connection::open(&self.0).unwrap();
        db.busy_timeout(PATIENCE).unwrap();
        let sql = sql.replace("BEGIN", "BEGIN IMMEDIATE").replace("LOG", "waybill_change_log");
        db.execute_batch(&sql).map_err(|error| error.to_string())
    }

    async fn last(&self) -> i64 {
        unreachable!("nobody asks")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_between_a_commit_in_sqlite_and_its_message_loses_and_repeats_no_change() {
    if std::env::var_os(STEP).is_some() {
        follow_until_killed().await;
    }
    let test = kill_9_between_a_commit_in_sqlite_and_its_message_loses_and_repeats_no_change;
    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let place = format!("sqlite:{}", path.display());
    open(&place).await.close().await;
    every_committed_change_arrives_and_no_other(world, place, File(path), None, &test).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_between_a_commit_in_postgresql_and_its_message_loses_and_repeats_no_change() {
    if std::env::var_os(STEP).is_some() {
        follow_until_killed().await;
    }
    let test = kill_9_between_a_commit_in_postgresql_and_its_message_loses_and_repeats_no_change;
    let schema = fresh_schema();
    open(&schema).await.close().await;
    let (service, late) = (PostgresService::new(&schema).await, Some(PostgresService::new(&schema).await));
    every_committed_change_arrives_and_no_other(World::new().await, schema, service, late, &test).await;
}
