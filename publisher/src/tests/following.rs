//! From a change in the service's transaction to the message at the broker, on both databases.

use std::{num::NonZeroU32, time::Duration};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use waybill_store::rusqlite::Connection;

use super::{
    change_log::{PostgresService, fresh_schema, postgres_log},
    world::{PATIENCE, Running, World, until},
};
use crate::{
    FollowOptions, FollowState, Publisher, RelayState, TypeOptions,
    change_log::{Change, ChangeLog, append_postgres, append_sqlite, conformance::Service},
    outbox::{ListFilter, Outbox, SqliteOutbox},
};

/// A publisher that follows a log and sends.
pub(super) struct Following<O: Outbox = SqliteOutbox> {
    pub(super) running: Running<O>,
    stop: CancellationToken,
    follow: JoinSet<()>,
}

impl<O: Outbox> Following<O> {
    pub(super) fn start(publisher: Publisher<O>, log: &ChangeLog, options: FollowOptions) -> Self {
        let stop = CancellationToken::new();
        let (follower, log, stopped) = (publisher.clone(), log.clone(), stop.clone());
        let mut follow = JoinSet::new();
        follow.spawn(async move { follower.follow(&log, options, stopped).await.expect("the log is ours") });
        Self { running: Running::start(publisher), stop, follow }
    }

    pub(super) async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.follow.join_next().await {
            ended.expect("it does not panic");
        }
        self.running.end().await;
    }
}

/// Until nothing waits in the log, nor in the outbox.
pub(super) async fn all_sent<O: Outbox>(log: &ChangeLog, following: &Following<O>) {
    until("every change in a file", async || {
        let status = log.status().await.unwrap();
        status.waiting == 0 && status.open_files.is_empty()
    })
    .await;
    following.running.sent().await;
}

/// All rows of a type that were sent, in the order of their numbers.
pub(super) async fn rows_sent(world: &World, blob_type: &str) -> Vec<String> {
    let mut files: Vec<_> =
        world.messages().into_iter().filter(|message| message.metadata.blob_type == blob_type).collect();
    files.sort_by_key(|message| message.extras.sequence);
    // A message may be sent again.
    files.dedup_by_key(|message| message.id.clone());
    let mut rows = Vec::new();
    for file in &files {
        let plain = String::from_utf8(world.plain(&file.metadata.uri).await).unwrap();
        assert_eq!(plain.lines().count() as u64, file.extras.rows.unwrap());
        rows.extend(plain.lines().map(str::to_owned));
    }
    rows
}

pub(super) fn at_once() -> FollowOptions {
    FollowOptions {
        files: TypeOptions { max_age: Duration::ZERO, ..TypeOptions::default() },
        ..FollowOptions::default()
    }
}

fn item(id: u32) -> Change {
    Change::upsert("Item", &serde_json::json!({ "id": id })).unwrap().correlation_id("order-7").key(&id.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_publishers_whose_outbox_was_changed_by_a_newer_version_end_and_the_next_one_goes_on() {
    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let first = Following::start(world.publisher().await, &log, at_once());
    until("the first to send", async || *first.running.publisher.relay().borrow() == RelayState::Attached).await;
    until("the first to follow", async || *first.running.publisher.following().borrow() == FollowState::Active).await;
    // It stands by for both.
    let second = Following::start(world.publisher().await, &log, at_once());
    until("the second to stand by", async || *second.running.publisher.relay().borrow() == RelayState::Standby).await;

    let newer = Connection::open(world.outbox().join("outbox.sqlite")).unwrap();
    let known: i64 = newer.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    let mut service = Connection::open(&path).unwrap();
    service.busy_timeout(PATIENCE).unwrap();
    let tx = service.transaction().unwrap();
    append_sqlite(&tx, &[item(1)]).unwrap();
    tx.commit().unwrap();
    for following in [first, second] {
        let publisher = following.running.publisher.clone();
        let gave_up = || matches!(*publisher.relay().borrow(), RelayState::GaveUp(_));
        until("it to end by itself", async || gave_up() && *publisher.following().borrow() == FollowState::Stopped)
            .await;
        following.end().await;
    }
    assert!(world.messages().is_empty());

    // The newer version knows its schema.
    newer.pragma_update(None, "user_version", known).unwrap();
    // In the file itself, whose first bytes are looked at before it is opened.
    until("the version in the file", async || {
        let is_busy = newer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
        !is_busy.unwrap()
    })
    .await;
    let third = Following::start(world.publisher().await, &log, at_once());
    all_sent(&log, &third).await;
    assert_eq!(rows_sent(&world, "Item").await, [r#"{"id":1}"#]);
    third.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_commits_in_postgresql_is_sent_and_what_it_rolls_back_is_not() {
    let world = World::new().await;
    let schema = fresh_schema();
    let log = postgres_log(&schema).await;
    let following = Following::start(world.publisher().await, &log, at_once());
    let mut service = PostgresService::new(&schema).await;
    for (ids, commit) in [(0..3, true), (3..5, false), (5..2_500, true)] {
        let tx = service.client.transaction().await.unwrap();
        let changes: Vec<Change> = ids.map(item).collect();
        append_postgres(&tx, &schema, &changes).await.unwrap();
        if commit { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
    }
    let delete = r#"INSERT INTO LOG (blob_type, op, row) VALUES ('Item', 'delete', '{"id":1}')"#;
    service.must(&format!("BEGIN; SET LOCAL waybill.correlation_id = 'order-7'; {delete}; COMMIT")).await;
    all_sent(&log, &following).await;
    let mut expected: Vec<String> = (0..3).chain(5..2_500).map(|id| format!("{{\"id\":{id}}}")).collect();
    expected.push(r#"{"_deleted":true,"id":1}"#.to_owned());
    assert_eq!(rows_sent(&world, "Item").await, expected);
    assert!(world.messages().iter().all(|message| message.metadata.correlation_id == "order-7"));
    world.assert_promises(&following.running.publisher, 0).await;
    following.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_commits_in_sqlite_is_sent_and_what_it_rolls_back_is_not() {
    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let following = Following::start(world.publisher().await, &log, at_once());
    let mut service = Connection::open(&path).unwrap();
    service.busy_timeout(PATIENCE).unwrap();
    for (ids, commit) in [(0..3, true), (3..5, false), (5..2_500, true)] {
        let tx = service.transaction().unwrap();
        append_sqlite(&tx, &ids.map(item).collect::<Vec<_>>()).unwrap();
        if commit { tx.commit().unwrap() } else { tx.rollback().unwrap() }
    }
    all_sent(&log, &following).await;
    let expected: Vec<String> = (0..3).chain(5..2_500).map(|id| format!("{{\"id\":{id}}}")).collect();
    assert_eq!(rows_sent(&world, "Item").await, expected);
    assert!(world.messages().iter().all(|message| message.metadata.correlation_id == "order-7"));
    following.end().await;
    world.end().await;
}

/// The example of `docs/publishing.md`, as it stands.
#[tokio::test(flavor = "multi_thread")]
async fn a_python_script_that_only_inserts_is_published() {
    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let python = std::env::var_os("WAYBILL_TEST_PYTHON")
        .expect("WAYBILL_TEST_PYTHON is not set: run `cargo xtask test`, which sets up Python");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/log_changes.py");
    let ran = tokio::process::Command::new(python).arg(script).arg(&path).status().await.unwrap();
    assert!(ran.success());
    let following = Following::start(world.publisher().await, &log, at_once());
    all_sent(&log, &following).await;
    let expected = [
        r#"{"id": 1, "name": "Ball", "price": "19.90"}"#,
        r#"{"id": 2, "name": "Hat", "price": "7.50"}"#,
        r#"{"_deleted":true,"id": 2}"#,
    ];
    assert_eq!(rows_sent(&world, "ItemChanges").await, expected);
    following.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_no_reader_takes_is_left_out_and_told_and_stops_nothing() {
    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let service = Connection::open(&path).unwrap();
    // More levels than any reader takes, fewer than SQLite does.
    let deep = format!("{{\"deep\":{}1{}}}", "[".repeat(500), "]".repeat(500));
    for row in [r#"{"id":1}"#, &deep, r#"{"id":2}"#, &deep, r#"{"id":3}"#] {
        service.execute("INSERT INTO waybill_change_log (blob_type, row) VALUES ('Item', ?1)", [row]).unwrap();
    }
    let following = Following::start(world.publisher().await, &log, at_once());
    all_sent(&log, &following).await;
    assert_eq!(rows_sent(&world, "Item").await, [r#"{"id":1}"#, r#"{"id":2}"#, r#"{"id":3}"#]);
    assert_eq!(log.status().await.unwrap().refused, 2);
    following.end().await;
    world.end().await;
}

/// A file is read as often as it has bad rows, if each is found alone.
#[tokio::test(flavor = "multi_thread")]
async fn many_rows_that_no_reader_takes_are_found_in_one_reading() {
    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let mut service = Connection::open(&path).unwrap();
    let tx = service.transaction().unwrap();
    let deep = format!("{{\"deep\":{}1{}}}", "[".repeat(500), "]".repeat(500));
    for id in 0..6_000 {
        let row = if id % 2 == 0 { format!("{{\"id\":{id}}}") } else { deep.clone() };
        tx.execute("INSERT INTO waybill_change_log (blob_type, row) VALUES ('Item', ?1)", [row]).unwrap();
    }
    tx.commit().unwrap();
    let following = Following::start(world.publisher().await, &log, at_once());
    all_sent(&log, &following).await;
    let expected: Vec<String> = (0..6_000).step_by(2).map(|id| format!("{{\"id\":{id}}}")).collect();
    assert_eq!(rows_sent(&world, "Item").await, expected);
    assert_eq!(log.status().await.unwrap().refused, 3_000);
    let rows = following.running.publisher.list(&ListFilter::default()).await.unwrap();
    assert_eq!(rows.len(), 2, "one try that found them, and one without them: {rows:?}");
    following.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_made_holds_up_no_other_type_and_is_told() {
    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let service = Connection::open(&path).unwrap();
    service.busy_timeout(PATIENCE).unwrap();
    let insert = |blob_type: &str| {
        let sql = "INSERT INTO waybill_change_log (blob_type, row) VALUES (?1, '{\"id\":1}')";
        service.execute(sql, [blob_type]).unwrap();
    };
    insert("Bad");
    // An id that another type's export has: what only a person can have done.
    let publisher = world.publisher().await;
    super::world::export(&publisher, "taken", 1).await.unwrap();
    let plan =
        "INSERT INTO waybill_file (export_id, blob_type, after, up_to, changes, bytes, correlation_id, planned_at)
                VALUES ('taken', 'Bad', 0, 1, 1, 9, 'c', 0);
                INSERT INTO waybill_planned (blob_type, up_to) VALUES ('Bad', 1);";
    service.execute_batch(plan).unwrap();
    let following = Following::start(publisher, &log, at_once());
    for id in 1..=3 {
        insert("Good");
        until("the other type is sent", async || rows_sent(&world, "Good").await.len() == id).await;
    }
    until("why it is not made", async || log.status().await.unwrap().open_files[0].problem.is_some()).await;
    let status = log.status().await.unwrap();
    assert!(status.open_files[0].problem.as_ref().unwrap().contains("is one of Number already"), "{status:?}");
    assert_eq!(*following.running.publisher.following().borrow(), FollowState::Active, "that is no outage");
    // Once it can be made, it is.
    let outbox = Connection::open(world.outbox().join(SqliteOutbox::FILE)).unwrap();
    outbox.busy_timeout(PATIENCE).unwrap();
    outbox.execute_batch("UPDATE export SET state = 'void' WHERE export_id = 'taken'").unwrap();
    all_sent(&log, &following).await;
    assert_eq!(rows_sent(&world, "Bad").await, [r#"{"id":1}"#]);
    following.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_a_type_are_numbered_in_the_order_of_their_changes() {
    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let service = Connection::open(&path).unwrap();
    service.execute_batch("BEGIN").unwrap();
    for id in 0..200 {
        for blob_type in ["A", "B", "C"] {
            let sql = "INSERT INTO waybill_change_log (blob_type, row) VALUES (?1, json_object('id', ?2))";
            service.execute(sql, (blob_type, id)).unwrap();
        }
    }
    service.execute_batch("COMMIT").unwrap();
    let files = TypeOptions { max_rows: NonZeroU32::new(10).unwrap(), ..TypeOptions::default() };
    let following =
        Following::start(world.publisher().await, &log, FollowOptions { files, ..FollowOptions::default() });
    all_sent(&log, &following).await;
    let expected: Vec<String> = (0..200).map(|id| format!("{{\"id\":{id}}}")).collect();
    for blob_type in ["A", "B", "C"] {
        assert_eq!(rows_sent(&world, blob_type).await, expected, "{blob_type}");
    }
    let rows = following.running.publisher.list(&ListFilter { most: 100, ..ListFilter::default() }).await.unwrap();
    assert_eq!(rows.len(), 60, "200 rows of three types in files of 10");
    following.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_publishers_one_follows_and_the_other_takes_over() {
    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let service = Connection::open(&path).unwrap();
    service.busy_timeout(PATIENCE).unwrap();
    let insert = |id: u32| {
        let sql = "INSERT INTO waybill_change_log (blob_type, row) VALUES ('Item', json_object('id', ?1))";
        service.execute(sql, [id]).unwrap();
    };
    let first = Following::start(world.publisher().await, &log, at_once());
    insert(1);
    all_sent(&log, &first).await;
    let second = Following::start(world.publisher().await, &log, at_once());
    let mut state = second.running.publisher.following();
    state.wait_for(|state| *state == FollowState::Standby).await.unwrap();
    first.end().await;
    insert(2);
    all_sent(&log, &second).await;
    assert_eq!(rows_sent(&world, "Item").await, [r#"{"id":1}"#, r#"{"id":2}"#]);
    second.end().await;
    world.end().await;
}
