//! From a change in the service's transaction to the message at the broker, on both databases.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use waybill_store::rusqlite::Connection;

use super::{
    change_log::{PostgresService, SqliteService, fresh_schema, postgres_log},
    world::{PATIENCE, Running, World, until},
};
use crate::{
    FollowOptions, FollowState, Publisher, RelayState, TypeOptions,
    change_log::{Change, ChangeLog, LogError, append_postgres, append_sqlite, conformance::Service},
    outbox::{ListFilter, Outbox, SqliteOutbox, SqliteOutboxOptions, State},
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
        self.unfollow().await;
        self.running.end().await;
    }

    /// The same, whatever is still to be sent.
    pub(super) async fn stop_now(mut self) {
        self.unfollow().await;
        self.running.stop_now().await;
    }

    async fn unfollow(&mut self) {
        self.stop.cancel();
        while let Some(ended) = self.follow.join_next().await {
            ended.expect("it does not panic");
        }
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

/// A second where the machine is free.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(10);

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
    let taken_over = state.wait_for(|state| *state == FollowState::Active);
    timeout(TAKEN_OVER_WITHIN, taken_over).await.expect("within seconds").unwrap();
    insert(2);
    all_sent(&log, &second).await;
    assert_eq!(rows_sent(&world, "Item").await, [r#"{"id":1}"#, r#"{"id":2}"#]);
    second.end().await;
    world.end().await;
}

/// What a log takes and no message could carry.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_or_a_trace_that_no_message_carries_is_left_out_and_holds_up_nothing() {
    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let service = Connection::open(&path).unwrap();
    service.busy_timeout(PATIENCE).unwrap();
    // One character for SQLite, and 601 for whoever replaces what is no UTF-8.
    let bytes = format!("CAST(x'c0{}' AS TEXT)", "80".repeat(600));
    let columns = "blob_type, row, correlation_id, causation_id, traceparent";
    for (blob_type, said) in [("Odd", bytes.as_str()), ("Bytes", "CAST(x'ff' AS TEXT)")] {
        let values = format!("'{blob_type}', '{{\"id\":1}}', {said}, {said}, {said}");
        service.execute(&format!("INSERT INTO waybill_change_log ({columns}) VALUES ({values})"), []).unwrap();
    }
    let long = "\u{e9}".repeat(256);
    let values = format!("'Long', '{{\"id\":1}}', '{long}', '{long}', '{long}'");
    service.execute(&format!("INSERT INTO waybill_change_log ({columns}) VALUES ({values})"), []).unwrap();
    // As a version planned it that did not look.
    let known = "INSERT INTO waybill_change_log (blob_type, row) VALUES ('Old', '{\"id\":1}')";
    service.execute(known, []).unwrap();
    let replaced = "\u{fffd}".repeat(601);
    let plan = format!(
        "INSERT INTO waybill_file (export_id, blob_type, after, up_to, changes, bytes, correlation_id, causation_id, traceparent,
             planned_at) VALUES ('old', 'Old', 0, 4, 1, 9, '{replaced}', '{replaced}', '{replaced}', 0);
         INSERT INTO waybill_planned (blob_type, up_to) VALUES ('Old', 4);"
    );
    service.execute_batch(&plan).unwrap();
    let following = Following::start(world.publisher().await, &log, at_once());
    all_sent(&log, &following).await;
    for blob_type in ["Odd", "Bytes", "Long", "Old"] {
        assert_eq!(rows_sent(&world, blob_type).await, [r#"{"id":1}"#], "{blob_type}");
    }
    for message in world.messages() {
        let (causation, correlation) = (message.extras.causation_id, message.metadata.correlation_id);
        if message.metadata.blob_type == "Long" {
            assert_eq!((causation.as_ref(), &correlation), (Some(&long), &long));
        } else {
            assert_eq!(causation, None);
            assert!(uuid::Uuid::parse_str(&correlation).is_ok(), "one of its own: {correlation}");
        }
    }
    following.end().await;
    world.end().await;

    let world = World::new().await;
    let schema = fresh_schema();
    let log = postgres_log(&schema).await;
    let service = PostgresService::new(&schema).await;
    service.must(&format!("INSERT INTO LOG ({columns}) VALUES ({values})")).await;
    let following = Following::start(world.publisher().await, &log, at_once());
    all_sent(&log, &following).await;
    assert_eq!(rows_sent(&world, "Long").await, [r#"{"id":1}"#]);
    following.end().await;
    world.end().await;
}

/// What a log holds of a type.
async fn kept(log: &ChangeLog, blob_type: &str) -> usize {
    let filter = crate::change_log::ChangeFilter { blob_type: Some(blob_type.to_owned()), ..Default::default() };
    log.changes(&filter).await.unwrap().len()
}

/// Far in the future, when every term is over.
fn later() -> time::OffsetDateTime {
    time::OffsetDateTime::now_utc() + Duration::from_secs(86_400)
}

/// All that a follower would delete by then.
async fn prune(log: &ChangeLog, outbox: &impl Outbox, by: time::OffsetDateTime) {
    let (mut seat, mut pruning) = (seat_of(log, outbox).await, crate::plan::Pruning::default());
    while pruning.step(&mut seat, outbox, by).await.unwrap() {}
}

async fn seat_of(log: &ChangeLog, outbox: &impl Outbox) -> crate::change_log::Seat {
    loop {
        if let Some(seat) = log.seat(outbox.epoch()).await.unwrap() {
            return seat;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The term is in the message, the log keeps what was never sent, and lets go of the rest when the term is over.
async fn a_term_is_kept<S: Service>(world: World, log: ChangeLog, service: S) {
    let keep = Duration::from_secs(3600);
    let files = TypeOptions { keep: Some(keep), ..at_once().files };
    let kept_for_ever = TypeOptions { keep: None, ..at_once().files };
    let types = [("Ever".to_owned(), kept_for_ever)].into();
    let options = FollowOptions { files, types, ..at_once() };
    let publisher = world.publisher().await;
    publisher.outbox().pause("Paused", "a wrong price list").await.unwrap();
    let began = time::OffsetDateTime::now_utc();
    let following = Following::start(publisher, &log, options);
    for blob_type in ["Sent", "Paused", "Ever"] {
        service.must(&format!("INSERT INTO LOG (blob_type, row) VALUES ('{blob_type}', '{{\"id\":1}}')")).await;
    }
    let publisher = following.running.publisher.clone();
    let of_type = async |blob_type: &str| {
        let filter = ListFilter { blob_type: Some(blob_type.to_owned()), ..ListFilter::default() };
        publisher.list(&filter).await.unwrap().into_iter().next()
    };
    for (blob_type, state) in [("Sent", State::Sent), ("Ever", State::Sent), ("Paused", State::Uploaded)] {
        until(blob_type, async || of_type(blob_type).await.is_some_and(|row| row.state == state)).await;
    }
    until("the files to be marked", async || log.status().await.unwrap().open_files.is_empty()).await;
    let term = |blob_type: &str| {
        let messages = world.messages();
        let message = messages.iter().find(|message| message.metadata.blob_type == blob_type).unwrap();
        message.extras.expires_at
    };
    let expires_at = term("Sent").expect("it has one");
    assert!(expires_at >= began + keep && expires_at <= time::OffsetDateTime::now_utc() + keep, "{expires_at}");
    assert_eq!((term("Ever"), of_type("Sent").await.unwrap().expires_at), (None, Some(expires_at)));
    let counts = publisher.outbox().counts().await.unwrap();
    assert_eq!(counts.waiting_until, of_type("Paused").await.unwrap().expires_at);
    following.stop_now().await;

    let all = async || {
        let mut counts = Vec::new();
        for blob_type in ["Sent", "Paused", "Ever"] {
            counts.push(kept(&log, blob_type).await);
        }
        counts
    };
    prune(&log, publisher.outbox(), began + Duration::from_secs(60)).await;
    assert_eq!(all().await, [1, 1, 1], "no term is over");
    prune(&log, publisher.outbox(), later()).await;
    assert_eq!(all().await, [0, 1, 1], "what was never sent stays, however late it is");
    // Void is told too, with its reason; what waited in vain stays for those who are told.
    let paused = of_type("Paused").await.unwrap();
    publisher.outbox().void(&paused.attempt(), crate::outbox::TERM_ENDED).await.unwrap();
    prune(&log, publisher.outbox(), later()).await;
    assert_eq!(all().await, [0, 1, 1]);
    // Also where what is over is pruned at once from the outbox.
    let running = world.running().await;
    running.publisher.make_manifests().await.unwrap();
    running.sent().await;
    running.end().await;
    let pruner = world.builder().now(later).build().await.unwrap();
    assert_eq!(pruner.prune(false).await.unwrap().exports, 1, "the one that was sent");
    prune(&log, publisher.outbox(), later()).await;
    assert_eq!(all().await, [0, 1, 1]);
    prune(&log, publisher.outbox(), later() + Duration::from_secs(7 * 86_400)).await;
    assert_eq!(all().await, [0, 0, 1]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_sqlite_keeps_what_was_never_sent_and_lets_go_of_what_is_over() {
    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    a_term_is_kept(world, log, SqliteService(path)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_postgresql_keeps_what_was_never_sent_and_lets_go_of_what_is_over() {
    let schema = fresh_schema();
    let (log, service) = (postgres_log(&schema).await, PostgresService::new(&schema).await);
    a_term_is_kept(World::new().await, log, service).await;
}

/// What one outbox forgot, because it was sent and told, may go; what another one that took its place never knew stays.
async fn only_what_is_proven_goes<S: Service>(world: World, log: ChangeLog, service: S) {
    let files = TypeOptions { keep: Some(Duration::from_secs(3600)), ..at_once().files };
    let publisher = world.publisher().await;
    publisher.outbox().pause("Waits", "a wrong price list").await.unwrap();
    let following = Following::start(publisher.clone(), &log, FollowOptions { files, ..at_once() });
    for blob_type in ["Sent", "Waits"] {
        service.must(&format!("INSERT INTO LOG (blob_type, row) VALUES ('{blob_type}', '{{\"id\":1}}')")).await;
    }
    let of_type = async |blob_type: &str| {
        let filter = ListFilter { blob_type: Some(blob_type.to_owned()), ..ListFilter::default() };
        publisher.list(&filter).await.unwrap().into_iter().next()
    };
    for (blob_type, state) in [("Sent", State::Sent), ("Waits", State::Uploaded)] {
        until(blob_type, async || of_type(blob_type).await.is_some_and(|row| row.state == state)).await;
    }
    until("the files to be marked", async || log.status().await.unwrap().open_files.is_empty()).await;
    let path = world.outbox().join(SqliteOutbox::FILE);
    let later_on = SqliteOutbox::open(&path, SqliteOutboxOptions { now: later }).await.unwrap();
    let sent = of_type("Sent").await.unwrap().row;
    assert_eq!(later_on.over(0, 10).await.unwrap()[0].row.row, sent);
    publisher.make_manifests().await.unwrap();
    until("its manifest to be sent", async || later_on.over(0, 10).await.unwrap()[0].is_named).await;
    following.stop_now().await;
    assert_eq!(later_on.forget(&[sent]).await.unwrap(), 1);
    let kept = async || (kept(&log, "Sent").await, kept(&log, "Waits").await);
    prune(&log, publisher.outbox(), later()).await;
    assert_eq!(kept().await, (0, 1), "a manifest proves that it was sent");
    assert!(log.status().await.unwrap().unproven.is_empty());

    // The outbox is lost, and with it the message that waited.
    let another = SqliteOutbox::open(&world.path("another.sqlite"), SqliteOutboxOptions::default()).await.unwrap();
    while !log.adopt(another.epoch()).await.unwrap() {}
    for _ in 0..2 {
        prune(&log, &another, later()).await;
        assert_eq!(kept().await, (0, 1), "nobody can tell");
        let told = log.status().await.unwrap().unproven;
        assert_eq!((told.len(), told[0].blob_type.as_str(), told[0].changes), (1, "Waits", 1));
    }
    // The one that was lost is found.
    while !log.adopt(publisher.outbox().epoch()).await.unwrap() {}
    let waits = of_type("Waits").await.unwrap();
    publisher.outbox().void(&waits.attempt(), "a wrong price list").await.unwrap();
    prune(&log, publisher.outbox(), later()).await;
    assert_eq!(kept().await, (0, 0), "what was in doubt is looked at again by each publisher");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_sqlite_whose_outbox_is_lost_lets_go_of_nothing_that_was_not_sent() {
    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    only_what_is_proven_goes(world, log, SqliteService(path)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_postgresql_whose_outbox_is_lost_lets_go_of_nothing_that_was_not_sent() {
    let schema = fresh_schema();
    let (log, service) = (postgres_log(&schema).await, PostgresService::new(&schema).await);
    only_what_is_proven_goes(World::new().await, log, service).await;
}

/// Its numbers would be given again, and what was made since would be taken for what it forgot.
async fn an_older_copy_is_refused<S: Service>(world: World, log: ChangeLog, service: S) {
    let (outbox, copy) = (world.outbox().join(SqliteOutbox::FILE), world.path("copy.sqlite"));
    let files = TypeOptions { keep: Some(Duration::from_secs(3600)), ..at_once().files };
    let publish = async || {
        service.must("INSERT INTO LOG (blob_type, row) VALUES ('Item', '{\"id\":1}')").await;
        let publisher = world.publisher().await;
        let following = Following::start(publisher.clone(), &log, FollowOptions { files: files.clone(), ..at_once() });
        all_sent(&log, &following).await;
        following.end().await;
        publisher.outbox().close().await;
    };
    publish().await;
    std::fs::copy(&outbox, &copy).unwrap();
    publish().await;
    std::fs::copy(&copy, &outbox).unwrap();

    let publisher = world.publisher().await;
    let checked = log.check_outbox(publisher.outbox()).await;
    let followed = publisher.follow(&log, at_once(), CancellationToken::new()).await;
    for refused in [checked.unwrap_err(), followed.unwrap_err()] {
        assert!(matches!(&refused, LogError::OlderOutbox { theirs: 2, ours: 1, .. }), "{refused}");
        assert!(refused.to_string().contains("waybill-publisher adopt"), "{refused}");
    }
    drop(publisher);
    // Somebody publishes without the log meanwhile: its last number is as high, and is told of another export.
    let running = world.running().await;
    for id in ["without-a-log", "nor-this"] {
        let mut export = running.publisher.export("Item").unwrap().id(id).unwrap().start().await.unwrap();
        export.serialize(&serde_json::json!({"id": 2})).await.unwrap();
        export.finish().await.unwrap();
    }
    running.sent().await;
    running.publisher.make_manifests().await.unwrap();
    running.sent().await;
    running.end().await;
    let publisher = world.publisher().await;
    let refused = log.check_outbox(publisher.outbox()).await.unwrap_err();
    assert!(matches!(&refused, LogError::OlderOutbox { theirs: 2, ours: 3, .. }), "{refused}");
    prune(&log, publisher.outbox(), later()).await;
    assert_eq!(kept(&log, "Item").await, 1, "the one of the first file is gone");

    let epoch = publisher.outbox().begin_epoch().await.unwrap();
    while !log.adopt(&epoch).await.unwrap() {}
    drop(publisher);
    publish().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_that_was_restored_from_an_older_copy_is_refused_for_a_log_in_sqlite() {
    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    an_older_copy_is_refused(world, log, SqliteService(path)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outbox_that_was_restored_from_an_older_copy_is_refused_for_a_log_in_postgresql() {
    let schema = fresh_schema();
    let (log, service) = (postgres_log(&schema).await, PostgresService::new(&schema).await);
    an_older_copy_is_refused(World::new().await, log, service).await;
}

/// Somebody holds its table for long: the loop that makes files waits, and that is told although nothing has failed yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_does_not_answer_is_told_and_holds_up_no_stop() {
    let world = World::new().await;
    let schema = fresh_schema();
    let (log, service) = (postgres_log(&schema).await, PostgresService::new(&schema).await);
    let publisher = world.builder().drain_timeout(Duration::from_millis(100)).build().await.unwrap();
    let following = Following::start(publisher.clone(), &log, at_once());
    until("it to follow", async || *publisher.following().borrow() == FollowState::Active).await;
    assert_eq!(publisher.log_silent_for(), None);
    // What is logged is seen, and no file can be planned: this lock has no number of a transaction, which would hold changes back.
    let planned = format!("\"{}\".planned", schema.replace('"', "\"\""));
    service.must(&format!("BEGIN; LOCK TABLE {planned} IN EXCLUSIVE MODE")).await;
    let beside = PostgresService::new(&schema).await;
    beside.must("INSERT INTO LOG (blob_type, row) VALUES ('Item', '{\"id\":2}')").await;
    until("it to be told", async || publisher.log_silent_for().is_some()).await;
    assert_eq!(*publisher.following().borrow(), FollowState::Active);
    let began = Instant::now();
    following.stop_now().await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    service.must("ROLLBACK").await;
    world.end().await;
}

/// The first change after a silence goes at once; those that come then wait for each other, no longer than they may.
#[tokio::test(flavor = "multi_thread")]
async fn a_type_gets_one_file_in_the_time_that_it_may_wait() {
    const MAX_AGE: Duration = Duration::from_secs(10);
    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let service = SqliteService(path);
    let types = [("Slow".to_owned(), TypeOptions { max_age: MAX_AGE, ..TypeOptions::default() })].into();
    let following = Following::start(world.publisher().await, &log, FollowOptions { types, ..at_once() });
    let insert = async |blob_type: &str, id: u32| {
        let values = format!("('{blob_type}', '{{\"id\":{id}}}')");
        service.must(&format!("INSERT INTO LOG (blob_type, row) VALUES {values}")).await;
    };
    insert("Slow", 0).await;
    all_sent(&log, &following).await;
    let first = Instant::now();
    for id in 1..=5 {
        insert("Slow", id).await;
        insert("Quick", id).await;
        until("the quick one", async || rows_sent(&world, "Quick").await.len() == id as usize).await;
    }
    assert!(first.elapsed() < MAX_AGE, "the machine is too slow for this test");
    assert_eq!(rows_sent(&world, "Slow").await.len(), 1, "they wait");
    all_sent(&log, &following).await;
    assert!(first.elapsed() > MAX_AGE / 2, "they waited: {:?}", first.elapsed());
    let files = world.messages().into_iter().filter(|message| message.metadata.blob_type == "Slow").count();
    assert_eq!((files, rows_sent(&world, "Slow").await.len()), (2, 6));
    following.end().await;
    world.end().await;
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What a change says of its origin is in its message.
async fn origins_arrive(world: &World, log: &ChangeLog, following: &Following) {
    all_sent(log, following).await;
    assert_eq!(rows_sent(world, "Item").await, [r#"{"id":1}"#]);
    let peeked = world.local.broker().peek(super::world::SUBSCRIPTION, 0, 10).unwrap();
    let message = &peeked.last().unwrap().contents;
    let said = super::world::message(message.message_id.clone(), message.body.clone());
    assert_eq!(
        (said.metadata.correlation_id.as_str(), message.correlation_id.as_deref()),
        ("order-7", Some("order-7"))
    );
    assert_eq!(said.extras.causation_id.as_deref(), Some("command-3"));
    for property in ["traceparent", "Diagnostic-Id"] {
        let value = format!("{:?}", message.property(property));
        assert!(value.contains(TRACE), "{property}: {value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_change_in_sqlite_says_of_its_origin_is_in_its_message() {
    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let following = Following::start(world.publisher().await, &log, at_once());
    let mut service = Connection::open(&path).unwrap();
    service.busy_timeout(PATIENCE).unwrap();
    let tx = service.transaction().unwrap();
    append_sqlite(&tx, &[item(1).causation_id("command-3").traceparent(TRACE)]).unwrap();
    tx.commit().unwrap();
    origins_arrive(&world, &log, &following).await;
    following.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_change_in_postgresql_says_of_its_origin_is_in_its_message() {
    for by_settings in [false, true] {
        let world = World::new().await;
        let schema = fresh_schema();
        let log = postgres_log(&schema).await;
        let following = Following::start(world.publisher().await, &log, at_once());
        let mut service = PostgresService::new(&schema).await;
        if by_settings {
            let insert = "INSERT INTO LOG (blob_type, row) VALUES ('Item', '{\"id\":1}')";
            service
                .must(&format!(
                    "BEGIN; SET LOCAL waybill.correlation_id = 'order-7'; SET LOCAL waybill.causation_id = 'command-3';
                     SET LOCAL waybill.traceparent = '{TRACE}'; {insert}; COMMIT"
                ))
                .await;
        } else {
            let tx = service.client.transaction().await.unwrap();
            append_postgres(&tx, &schema, &[item(1).causation_id("command-3").traceparent(TRACE)]).await.unwrap();
            tx.commit().await.unwrap();
        }
        origins_arrive(&world, &log, &following).await;
        following.end().await;
        world.end().await;
    }
}

/// From the commit of the service to the broker, after the log was silent for so long that it is looked at as seldom as ever. What is
/// measured while others have transactions in the same server, which have to be waited for, does not count.
async fn how_long_until_sent<S: Service>(world: World, log: ChangeLog, service: S, is_quiet: impl AsyncFn() -> bool) {
    const SILENCE: Duration = Duration::from_secs(6);
    let following = Following::start(world.publisher().await, &log, FollowOptions::default());
    let insert = "INSERT INTO LOG (blob_type, row) VALUES ('Item', '{\"id\":1}')";
    service.must(insert).await;
    all_sent(&log, &following).await;
    let mut took = Vec::new();
    for _ in 0..30 {
        tokio::time::sleep(SILENCE).await;
        until("the server to be quiet", &is_quiet).await;
        let arrived = world.arrived();
        service.must(insert).await;
        let committed = Instant::now();
        let counts = is_quiet().await;
        let broker = world.local.broker();
        let there = broker.wait_until(|_| world.arrived() > arrived);
        tokio::time::timeout(PATIENCE, there).await.expect("it arrives");
        if counts {
            took.push(committed.elapsed());
        }
        if took.len() == 5 {
            break;
        }
    }
    took.sort();
    println!("from commit to broker after {SILENCE:?}: {took:?}");
    // Without optimisation, and beside other tests, it takes longer.
    let limit = Duration::from_millis(if cfg!(debug_assertions) { 500 } else { 100 });
    assert!(took.get(2).is_some_and(|median| *median < limit), "{took:?}");
    following.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_after_a_silence_is_at_the_broker_at_once_from_sqlite() {
    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    how_long_until_sent(world, log, SqliteService(path), async || true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_after_a_silence_is_at_the_broker_at_once_from_postgresql() {
    let schema = fresh_schema();
    let (log, service) = (postgres_log(&schema).await, PostgresService::new(&schema).await);
    let looks = PostgresService::new(&schema).await;
    let is_quiet = async || {
        let others =
            "SELECT NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'transactionid' AND mode = 'ExclusiveLock')";
        looks.client.query_one(others, &[]).await.unwrap().get(0)
    };
    how_long_until_sent(World::new().await, log, service, is_quiet).await;
}
