use std::{env, sync::atomic::AtomicU64, sync::atomic::Ordering};

use time::OffsetDateTime;
use tokio::task::JoinSet;
use uuid::Uuid;
use waybill_contracts::Reason;
use waybill_store::tokio_postgres::{self, Client, NoTls};

use super::*;
use crate::inbox::{
    Announced, FileDone, Pages,
    conformance::{arrival, exercise},
};

fn server() -> String {
    let server = env::var("WAYBILL_TEST_POSTGRES")
        .expect("WAYBILL_TEST_POSTGRES is not set: run `cargo xtask test`, which starts a PostgreSQL");
    format!("{server}?sslmode=disable")
}

/// A schema that no other test has; its name needs quotes.
fn fresh_schema() -> String {
    format!("an \"inbox\" {}", Uuid::new_v4().simple())
}

fn options(schema: &str, lease: Duration) -> PostgresInboxOptions {
    PostgresInboxOptions { lease, schema: schema.to_owned() }
}

async fn open(schema: &str) -> PostgresInbox {
    PostgresInbox::open(&server(), options(schema, Duration::from_secs(60))).await.unwrap()
}

/// A connection of somebody else to the same schema.
struct Beside {
    client: Client,
    /// Ends with it.
    _served: JoinSet<()>,
}

impl Beside {
    async fn new(schema: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(&server(), NoTls).await.unwrap();
        let mut served = JoinSet::new();
        served.spawn(async {
            connection.await.unwrap_or_default();
        });
        let beside = Self { client, _served: served };
        beside.run(&format!("SET search_path = \"{}\"", schema.replace('"', "\"\""))).await;
        beside
    }

    async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    async fn number(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap().get(0)
    }
}

fn worker(name: &str) -> WorkerId {
    WorkerId(name.to_owned())
}

/// Until as many sessions as that wait for a lock in this schema's inbox.
async fn waiting_for_a_lock(beside: &Beside, many: i64) {
    let sql = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'inbox'::regclass";
    while beside.number(sql).await < many {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_what_every_inbox_must() {
    let lease = Duration::from_millis(600);
    exercise(|| async { PostgresInbox::open(&server(), options(&fresh_schema(), lease)).await.unwrap() }, lease).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_for_the_first_time_at_once_make_the_tables_once() {
    let schema = fresh_schema();
    let opened = futures::future::join_all((0..6).map(|_| open(&schema))).await;
    let ids = opened[0].admit(vec![arrival(1, "a", "T")]).await.unwrap();
    for inbox in &opened {
        assert_eq!(inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap().len(), ids.len());
        assert_eq!(inbox.counts().await.unwrap().saved, 1);
    }
    let version = Beside::new(&schema).await.number("SELECT version::bigint FROM _waybill_schema").await;
    assert_eq!(version, SCHEMA.migrations.len() as i64);
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_admit_the_same_at_once_save_it_once() {
    let schema = fresh_schema();
    let (one, two) = (open(&schema).await, open(&schema).await);
    for round in 0..10 {
        let burst: Vec<Arrival> =
            (0..50).map(|number| arrival(round * 100 + number, &format!("{round}-{number}"), "T")).collect();
        let reversed: Vec<Arrival> = burst.iter().rev().cloned().collect();
        let (a, b) = tokio::join!(one.admit(burst), two.admit(reversed));
        let (a, b) = (a.unwrap(), b.unwrap());
        let saved = |answers: &[Admitted]| answers.iter().filter(|answer| matches!(answer, Admitted::Saved(_))).count();
        assert_eq!((saved(&a) + saved(&b), a.len() + b.len()), (50, 100), "{a:?} {b:?}");
    }
    assert_eq!(one.counts().await.unwrap().saved, 500);
    let beside = Beside::new(&schema).await;
    let twice = "SELECT count(*) FROM (SELECT FROM history GROUP BY inbox_id HAVING count(*) > 1) AS twice";
    assert_eq!(beside.number(twice).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_a_replica_of_an_earlier_version_adds_are_not_missed() {
    let schema = fresh_schema();
    let beside = {
        let inbox = open(&schema).await;
        inbox.admit(vec![numbered(1), numbered(4)]).await.unwrap();
        Beside::new(&schema).await
    };
    // As versions before the runs do, and the one that noted them in a statement of its own.
    let added = |number: i64| {
        format!(
            "INSERT INTO inbox (entity_path, broker_sequence, enqueued_at, state, body, received_at, changed_at, file_key,
                 blob_type, publisher, epoch, sequence)
             VALUES ('old', {number}, now(), 'saved', '{{}}', now(), now(), '{number}', 'T', 'shop', 'e', {number})"
        )
    };
    beside.run(&added(2)).await;
    beside.run("SELECT note_sequences('{shop}', '{e}', '{T}', '{2}')").await;
    // One that went on while the others were replaced by those that made the runs.
    beside
        .run(&format!(
            "DROP TRIGGER sequences_added ON inbox; DROP FUNCTION note_added; DROP FUNCTION note_sequence;
             DROP TABLE sequence_named, sequence_void;
             UPDATE _waybill_schema SET version = 5; {}",
            added(3)
        ))
        .await;
    let inbox = open(&schema).await;
    let seen = inbox.sequences().await.unwrap().remove(0);
    assert_eq!((seen.first, seen.last, seen.missing), (1, 4, 0), "{seen:?}");
    inbox.admit(vec![numbered(5)]).await.unwrap();
    assert_eq!(inbox.sequences().await.unwrap().remove(0).last, 5);
}

fn numbered(number: u64) -> Arrival {
    let mut arrival = arrival(number.cast_signed(), &number.to_string(), "T");
    let Announced::File(waybill) = &mut arrival.announced else { unreachable!() };
    waybill.sequence =
        Some(PublisherSequence { publisher: "shop".to_owned(), epoch: "e".to_owned(), sequence: number });
    arrival
}

/// Until somebody holds the lock under which messages are added, in a session of that name.
async fn admitting(beside: &Beside, name: &str) -> bool {
    let sql = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
               WHERE locktype = 'advisory' AND granted AND application_name = $1";
    beside.client.query_one(sql, &[&name]).await.unwrap().get::<_, i64>(0) > 0
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_frozen_while_it_admits_holds_up_no_other_for_long() {
    let schema = fresh_schema();
    let inbox = open(&schema).await;
    let (beside, name) = (Beside::new(&schema).await, Uuid::new_v4().to_string());
    let address =
        format!("{}&application_name={name}&options=-c%20idle_in_transaction_session_timeout%3D200", server());
    let other = PostgresInbox::open(&address, options(&schema, Duration::from_secs(60))).await.unwrap();
    // Asked for as far as the lock, then never again: as good as frozen.
    let mut frozen = Box::pin(other.admit(vec![arrival(1, "a", "T")]));
    while !admitting(&beside, &name).await {
        assert!(futures::poll!(&mut frozen).is_pending(), "it has the lock only while it is asked");
    }
    let answers = inbox.admit(vec![arrival(1, "a", "T"), arrival(2, "b", "T")]).await.unwrap();
    assert!(answers.iter().all(|answer| matches!(answer, Admitted::Saved(_))), "{answers:?}");
    let error = frozen.await.unwrap_err();
    assert!(matches!(error, InboxError::Unavailable(_)), "{error:?}");
    assert_eq!(other.admit(vec![arrival(1, "a", "T")]).await.unwrap().len(), 1, "with a new connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_many_processes_share_the_work_and_wait_for_nobody() {
    let schema = fresh_schema();
    let inbox = open(&schema).await;
    inbox.admit((1..=6).map(|number| arrival(number, &number.to_string(), "T")).collect()).await.unwrap();
    let beside = Beside::new(&schema).await;
    // Somebody is taking the first three and has not committed yet.
    beside.run("BEGIN; SELECT FROM inbox WHERE broker_sequence <= 3 FOR NO KEY UPDATE").await;
    let other = open(&schema).await;
    let leased = other.lease(&worker("other"), 4, &Wanted::default()).await.unwrap();
    assert_eq!(leased.iter().map(|file| file.sequence_number).collect::<Vec<_>>(), [4, 5, 6]);
    beside.run("ROLLBACK").await;
    assert_eq!(inbox.lease(&worker("one"), 4, &Wanted::default()).await.unwrap().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_blocks_no_writer_and_no_writer_a_reader() {
    let schema = fresh_schema();
    let inbox = open(&schema).await;
    inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap();
    let beside = Beside::new(&schema).await;
    beside.run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM inbox; SELECT * FROM history").await;
    inbox.admit(vec![arrival(2, "b", "T")]).await.unwrap();
    let leased = inbox.lease(&worker("w"), 9, &Wanted::default()).await.unwrap();
    assert!(inbox.finish(&leased[0].lease, End::Release).await.unwrap());
    assert_eq!(beside.number("SELECT count(*) FROM inbox").await, 1, "it goes on seeing what it saw");
    beside.run("ROLLBACK; BEGIN; UPDATE inbox SET attempts = 7").await;
    assert_eq!(inbox.counts().await.unwrap().saved, 1);
    assert_eq!(inbox.list(&ListFilter::default()).await.unwrap()[0].attempts, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_in_a_lease_begins_when_it_is_asked_for_however_late_the_answer_is() {
    let schema = fresh_schema();
    let inbox = open(&schema).await;
    inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap();
    let beside = Beside::new(&schema).await;
    beside.run("BEGIN; LOCK TABLE inbox IN EXCLUSIVE MODE").await;
    let mut asking = JoinSet::new();
    asking.spawn({
        let inbox = inbox.clone();
        async move { inbox.lease(&worker("w"), 1, &Wanted::default()).await.unwrap().remove(0).lease }
    });
    let watch = Beside::new(&schema).await;
    waiting_for_a_lock(&watch, 1).await;
    let blocked = Instant::now();
    tokio::time::sleep(Duration::from_millis(100)).await;
    beside.run("COMMIT").await;
    let held = asking.join_next().await.unwrap().unwrap();
    assert!(held.trusted_until <= blocked + Duration::from_secs(54), "from before the request, not from its answer");
    assert!(held.until - held.leased_at >= Duration::from_secs(60));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_dies_costs_one_call_and_loses_nothing() {
    let schema = fresh_schema();
    let inbox = open(&schema).await;
    inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap();
    let held = inbox.lease(&worker("w"), 1, &Wanted::default()).await.unwrap().remove(0).lease;
    let beside = Beside::new(&schema).await;
    // In the middle of a call, as a server that restarts does it.
    beside.run("BEGIN; LOCK TABLE inbox IN EXCLUSIVE MODE").await;
    let mut admitting = JoinSet::new();
    admitting.spawn({
        let inbox = inbox.clone();
        async move { inbox.admit(vec![arrival(2, "b", "T")]).await }
    });
    let watch = Beside::new(&schema).await;
    waiting_for_a_lock(&watch, 1).await;
    let end_them =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_locks WHERE NOT granted AND relation = 'inbox'::regclass";
    assert_eq!(watch.number(end_them).await, 1);
    let error = admitting.join_next().await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, InboxError::Unavailable(_)), "{error:?}");
    beside.run("COMMIT").await;
    assert!(matches!(inbox.admit(vec![arrival(2, "b", "T")]).await.unwrap()[..], [Admitted::Saved(_)]));
    assert!(inbox.finish(&held, End::Release).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_takes_nothing_is_unavailable_until_it_does() {
    let schema = fresh_schema();
    let inbox = open(&schema).await;
    let beside = Beside::new(&schema).await;
    // 53100 is what a full disk says.
    let refuse = |code: &str, message: &str| {
        format!(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN RAISE '{message}' USING ERRCODE = '{code}'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON history EXECUTE FUNCTION refuse()"
        )
    };
    for (code, message) in [("53100", "could not extend file: No space left on device"), ("25006", "read-only")] {
        beside.run(&refuse(code, message)).await;
        let error = inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap_err();
        let InboxError::Unavailable(cause) = error else { panic!("{error:?}") };
        assert!(cause.to_string().contains(message), "{cause}");
        assert_eq!(inbox.counts().await.unwrap().saved, 0, "nothing of it took effect");
        beside.run("DROP FUNCTION refuse CASCADE").await;
    }
    assert!(matches!(inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap()[..], [Admitted::Saved(_)]));
}

#[tokio::test]
async fn a_server_that_is_not_there_is_unavailable_and_no_secret_is_told() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let address = format!("postgres://me:geheim@127.0.0.1:{port}/shop?sslmode=disable");
    let error = PostgresInbox::open(&address, PostgresInboxOptions::default()).await.unwrap_err();
    assert!(matches!(error, InboxError::Unavailable(_)), "{error:?}");
    assert!(!format!("{error:?}").contains("geheim"));
}

#[tokio::test]
async fn a_commit_is_on_disk_even_where_the_database_does_not_wait_for_it() {
    let schema = fresh_schema();
    let inbox = open(&schema).await;
    let beside = Beside::new(&schema).await;
    beside
        .run(
            "CREATE TABLE seen (setting text);
             CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN INSERT INTO seen SELECT current_setting('synchronous_commit'); RETURN NULL; END $$;
             CREATE TRIGGER see AFTER INSERT ON history EXECUTE FUNCTION see()",
        )
        .await;
    let address = format!("{}&options=-c%20synchronous_commit%3Doff", server());
    let lax = PostgresInbox::open(&address, options(&schema, Duration::from_secs(60))).await.unwrap();
    lax.admit(vec![arrival(1, "a", "T")]).await.unwrap();
    assert_eq!(beside.number("SELECT count(*) FROM seen WHERE setting = 'on'").await, 1);
    assert_eq!(inbox.counts().await.unwrap().saved, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sums_are_what_counting_would_give_whoever_changes_what_at_once() {
    const DIFFERENT: &str = "SELECT count(*) FROM (
            SELECT state, coalesce(blob_type, '') AS blob_type, count(*) AS messages,
                count(*) FILTER (WHERE file_key IS NOT NULL AND state <> 'duplicate') AS files,
                coalesce(sum(CASE state WHEN 'done' THEN rows END), 0) AS rows, coalesce(sum(stored_bytes), 0) AS bytes,
                count(stored_bytes) AS files_with_bytes, coalesce(sum(filtered_rows), 0) AS filtered, sum(bad_rows) AS bad
            FROM inbox GROUP BY 1, 2) AS counted
        FULL JOIN (
            SELECT state, blob_type, sum(messages) AS messages, sum(files) AS files, sum(rows) AS rows, sum(bytes) AS bytes,
                sum(files_with_bytes) AS files_with_bytes, sum(filtered_rows) AS filtered, sum(bad_rows) AS bad
            FROM tally GROUP BY 1, 2 HAVING sum(messages) <> 0) AS tallied
        USING (state, blob_type, messages, files, rows, bytes, files_with_bytes, filtered, bad)
        WHERE counted IS NULL OR tallied IS NULL";
    let schema = fresh_schema();
    let replicas = futures::future::join_all((0..3).map(|_| open(&schema))).await;
    let beside = Beside::new(&schema).await;
    // All in one shard: so they meet.
    let shared = "DO $$ BEGIN EXECUTE replace(pg_get_functiondef('tally'::regproc), 'pg_backend_pid()', '1'); END $$";
    beside.run(shared).await;
    let work = async |replica: &PostgresInbox, name: i64| {
        for round in 0..20 {
            let message = |at: i64| arrival(name * 1_000 + round * 10 + at, &format!("{}", round * 10 + at), "T");
            replica.admit((0..5).map(message).collect()).await.unwrap();
            for (at, file) in replica.lease(&worker("w"), 3, &Wanted::default()).await.unwrap().iter().enumerate() {
                let done = FileDone { rows: 7, bad_rows: 1, filtered_rows: Some(2), stored_bytes: 9, plain_bytes: 10 };
                assert!(replica.renew(&file.lease, 3).await.unwrap().is_some());
                let end = match at {
                    0 => End::Done(done),
                    1 => End::Release,
                    _ => End::Expire { problem: "gone".to_owned() },
                };
                assert!(replica.finish(&file.lease, end).await.unwrap());
            }
            replica.skip(round, "no").await.unwrap();
            replica.retry(round).await.unwrap();
        }
        replica.skip_other_types(&["S".to_owned()]).await.unwrap();
    };
    tokio::join!(work(&replicas[0], 1), work(&replicas[1], 2), work(&replicas[2], 3));
    let counts = replicas[0].counts().await.unwrap();
    assert_eq!((counts.duplicate, counts.filtered_rows, counts.bad_rows), (200, counts.done * 2, counts.done));
    assert!(counts.done >= 20, "{counts:?}");
    assert_eq!(beside.number(DIFFERENT).await, 0);
    beside.run("DELETE FROM inbox WHERE state = 'duplicate'").await;
    assert_eq!(beside.number(DIFFERENT).await, 0);
    assert_eq!(replicas[0].counts().await.unwrap().duplicate, 0);
    beside.run("UPDATE tally SET messages = messages + 1 WHERE state = 'done'").await;
    assert_ne!(beside.number(DIFFERENT).await, 0, "the comparison sees a difference");
}

#[tokio::test]
async fn a_schema_of_somebody_else_is_refused_and_left_alone() {
    let schema = fresh_schema();
    let beside = Beside::new(&schema).await;
    beside.run(&format!("CREATE SCHEMA \"{}\"; CREATE TABLE photo (id int)", schema.replace('"', "\"\""))).await;
    let error = PostgresInbox::open(&server(), options(&schema, Duration::from_secs(60))).await.unwrap_err();
    let InboxError::Open(cause) = error else { panic!("{error:?}") };
    assert!(cause.to_string().contains("tables of others and no inbox of ours; name another schema"), "{cause}");
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()";
    assert_eq!(beside.number(tables).await, 1);
}

#[tokio::test]
async fn a_newer_inbox_is_refused() {
    let schema = fresh_schema();
    open(&schema).await;
    Beside::new(&schema).await.run("UPDATE _waybill_schema SET version = 99").await;
    let error = PostgresInbox::open(&server(), options(&schema, Duration::from_secs(60))).await.unwrap_err();
    let InboxError::Open(cause) = error else { panic!("{error:?}") };
    assert!(cause.to_string().contains("schema version 99"), "{cause}");
}

#[tokio::test]
async fn an_inbox_of_the_first_schema_opens_and_goes_on() {
    let schema = format!("golden_{}", Uuid::new_v4().simple());
    let golden = include_str!("../../../golden/inbox-postgres-1.sql").replace("waybill_inbox", &schema);
    Beside::new(&schema).await.run(&golden).await;
    let inbox = open(&schema).await;
    let counts = inbox.counts().await.unwrap();
    assert_eq!((counts.saved, counts.done, counts.skipped), (0, 2, 1));
    let row = inbox.get(1).await.unwrap().unwrap();
    assert_eq!((row.state, row.rows, row.filtered_rows), (State::Done, 5, Some(0)));
    let types = inbox.types().await.unwrap();
    let shown: Vec<_> = types.iter().map(|of| (of.blob_type.as_str(), of.files, of.rows, of.bytes)).collect();
    assert_eq!(shown, [("ItemChanges", 1, 5, 62), ("Log", 1, 2, 36), ("Other", 1, 1, 24)]);
    assert_eq!(inbox.history(3).await.unwrap().last().unwrap().state, State::Skipped);
    assert_eq!(inbox.workers().await.unwrap(), []);
    inbox.admit(vec![arrival(9, "a", "T")]).await.unwrap();
    assert_eq!(inbox.lease(&worker("w"), 9, &Wanted::default()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn whoever_looks_for_an_inbox_makes_none() {
    let schema = fresh_schema();
    let server = server();
    let look = || PostgresInbox::open_existing(&server, options(&schema, Duration::from_secs(60)));
    assert!(look().await.unwrap().is_none());
    assert!(look().await.unwrap().is_none(), "looking made none");
    open(&schema).await;
    assert_eq!(look().await.unwrap().unwrap().counts().await.unwrap().saved, 0);
}

#[tokio::test]
async fn whoever_looks_at_an_inbox_of_an_earlier_version_leaves_it_as_it_is() {
    const EARLIER: Schema = Schema { migrations: SCHEMA.migrations.split_at(3).0, ..SCHEMA };
    let (schema, server) = (fresh_schema(), server());
    let options = || options(&schema, Duration::from_secs(60));
    let earlier = PostgresInbox::at(&server, options()).unwrap();
    earlier.store.migrate(&EARLIER).await.unwrap();
    let looked = PostgresInbox::open_existing(&server, options()).await;
    assert!(matches!(looked, Err(InboxError::Older { found: 3, known: 7 })), "{looked:?}");
    assert_eq!(earlier.store.version(&SCHEMA).await.unwrap(), Some(3));
    PostgresInbox::open(&server, options()).await.unwrap();
    assert!(PostgresInbox::open_existing(&server, options()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_name_that_is_too_long_for_a_schema_is_refused() {
    let options = options(&"x".repeat(64), Duration::from_secs(60));
    let error = PostgresInbox::open(&server(), options).await.unwrap_err();
    let InboxError::Open(cause) = error else { panic!("{error:?}") };
    assert!(cause.to_string().contains("63 bytes"), "{cause}");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_quarantined_and_stops_no_other() {
    let schema = fresh_schema();
    let inbox = open(&schema).await;
    inbox.admit(vec![arrival(1, "a", "T"), arrival(2, "b", "T")]).await.unwrap();
    let damage = "UPDATE inbox SET body = '{\"blobType\"' WHERE broker_sequence = 1";
    Beside::new(&schema).await.run(damage).await;
    let leased = inbox.lease(&worker("w"), 10, &Wanted::default()).await.unwrap();
    assert_eq!(leased.iter().map(|file| file.sequence_number).collect::<Vec<_>>(), [2]);
    let row = inbox.get(leased[0].lease.id - 1).await.unwrap().unwrap();
    assert_eq!((row.state, row.reason), (State::Quarantined, Some(Reason::NotJson)));
    assert!(row.problem.unwrap().contains("cannot be read"));
}

#[tokio::test]
async fn a_lease_lasts_as_long_as_the_databases_clock_says() {
    let schema = fresh_schema();
    let inbox = open(&schema).await;
    inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap();
    let held = inbox.lease(&worker("w"), 1, &Wanted::default()).await.unwrap().remove(0).lease;
    // An hour passes in the database and none here.
    let beside = Beside::new(&schema).await;
    beside.run("UPDATE inbox SET due_at = due_at - interval '1 hour'").await;
    assert!(held.until > OffsetDateTime::now_utc());
    assert!(inbox.renew(&held, 1).await.unwrap().is_none());
    assert!(!inbox.finish(&held, End::Release).await.unwrap());
    assert_eq!(inbox.lease(&worker("next"), 1, &Wanted::default()).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_show_each_row_once_while_others_are_added() {
    let inbox = open(&fresh_schema()).await;
    let next = AtomicU64::new(0);
    let add = async |many: u64| {
        let from = next.fetch_add(many, Ordering::Relaxed);
        let burst = (from..from + many).map(|number| arrival(number as i64, &number.to_string(), "T")).collect();
        inbox.admit(burst).await.unwrap();
    };
    add(25).await;
    let mut pages = Pages::new(ListFilter { most: 10, ..ListFilter::default() });
    let mut seen = Vec::new();
    while let Some(rows) = pages.next(&inbox).await.unwrap() {
        seen.extend(rows.into_iter().map(|row| row.sequence_number));
        add(3).await;
    }
    assert_eq!(seen, (0..25).rev().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_nobody_wants_are_not_looked_through_for_a_lease() {
    let schema = fresh_schema();
    let inbox = open(&schema).await;
    inbox.admit(vec![arrival(1, "a", "Wanted"), arrival(2, "b", "Wanted")]).await.unwrap();
    let beside = Beside::new(&schema).await;
    beside
        .run(
            "INSERT INTO inbox (entity_path, broker_sequence, enqueued_at, state, body, received_at, changed_at, file_key, file_hash,
                 blob_type, due_at)
             SELECT 'e', number, now(), 'saved', '{}', now(), now(), number::text, sha256(number::text::bytea),
                 'Other' || number % 7, now() - interval '1 day'
             FROM generate_series(10, 20000) AS many (number);
             ANALYZE inbox; SET enable_seqscan = off; SET plan_cache_mode = force_custom_plan; BEGIN",
        )
        .await;
    let sql = format!(
        "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF) {}",
        due::lease(8, 4, "AND blob_type LIKE ANY ($4)", "")
    );
    let types = vec!["Wanted".to_owned()];
    let plan = beside.client.query(&sql, &[&"w", &60.0_f64, &"Other3", &types]).await.unwrap();
    let plan: Vec<String> = plan.iter().map(|row| row.get(0)).collect();
    beside.run("ROLLBACK").await;
    let most = plan.iter().filter_map(|line| line.trim().strip_prefix("Rows Removed by Filter: ")?.parse::<u64>().ok());
    assert!(most.max().unwrap_or(0) < 100, "{}", plan.join("\n"));
    assert!(plan.iter().any(|line| line.contains("CTE oldest")), "{}", plan.join("\n"));
    let wanted = Wanted { types: Some(types), ..Wanted::default() };
    assert_eq!(inbox.lease(&worker("w"), 8, &wanted).await.unwrap().len(), 2);
}
