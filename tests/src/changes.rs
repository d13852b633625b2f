//! A service's own table, logged by triggers, against the table of a subscriber: they have to be the same in the end, whoever
//! wrote when.
//!
//! `cargo xtask soak` holds a transaction open for minutes (`WAYBILL_SOAK_OPEN_SECONDS`), and keeps the topic full for an hour
//! (`WAYBILL_SOAK_FULL_SECONDS`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::RngExt;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use waybill_contracts::{BlobType, Entities};
use waybill_local::{
    Local,
    config::{Config, Ports, TopicConfig},
};
use waybill_publisher::{
    FollowOptions, Publisher, PublisherBuilder, TypeOptions,
    change_log::{ChangeLog, PostgresChangeLogOptions},
    outbox::{Outbox, PostgresOutbox, PostgresOutboxOptions},
};
use waybill_subscriber::Subscriber;

use crate::{
    harness::{PATIENCE, Publishing, World, assert_nothing_was_dead_lettered, query},
    own_database::{OwnDatabase, session},
};

/// Rows have no version of their own: only the order of the changes tells which is the newest.
const ENTITIES: &str =
    "[entity.item]\ntypes = [\"ItemChanges\"]\nkey = [\"id\"]\ncolumns = { id = \"integer\", price = \"decimal\" }\n";
const WRITERS: u32 = 8;
const TRANSACTIONS: u32 = 60;
const KEYS: u32 = 6;
/// How long a transaction is open, in seconds, that began before all others and commits after most of them.
const OPEN_S: u64 = 5;
/// Of batches, while the topic is full: two rounds, 10 s apart, as Service Bus asks for. An hour has more of the same.
const FAILED_TRIES: u64 = 5;
/// Changes meanwhile, at least: more than one page of what the outbox shows.
const COMMITS: u32 = 150;

fn told(name: &str, usual: u64) -> Duration {
    let told = std::env::var(name).ok();
    Duration::from_secs(
        told.map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number"))),
    )
}

/// Follows the log until nothing waits in it or in the outbox, then ends.
async fn follow_all<O: Outbox>(publisher: &Publisher<O>, log: &ChangeLog, writing: impl Future<Output = ()>) {
    let stop = CancellationToken::new();
    let files = TypeOptions { max_age: Duration::from_millis(20), ..TypeOptions::default() };
    let options = FollowOptions { files, ..FollowOptions::default() };
    let drained = async {
        writing.await;
        let look = async || {
            let status = log.status().await.expect("the log answers");
            status.waiting == 0 && status.open_files.is_empty()
        };
        tokio::time::timeout(PATIENCE, async {
            while !look().await {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("everything that is committed is in files");
        stop.cancel();
    };
    let (followed, ()) = tokio::join!(publisher.follow(log, options, stop.clone()), drained);
    followed.expect("the log is ours");
}

/// One writer: transactions of a few changes each, until another one is over. Some take a number early and write late, some stay
/// open, some are rolled back; those that the database ends (a deadlock, a key that is there) have done nothing.
async fn write(database: &OwnDatabase, place: &str, number: u32, is_over: &AtomicBool) {
    let (client, _served) = session(&database.address(&[])).await.expect("the server answers");
    client.batch_execute("SET deadlock_timeout = '10ms'").await.expect("the user of the tests may");
    let mut round = 0;
    while round < TRANSACTIONS || !is_over.load(Ordering::Relaxed) {
        if round >= TRANSACTIONS {
            sleep(Duration::from_millis(20)).await;
        }
        round += 1;
        let (early, pause, statements, keep) = {
            let mut random = rand::rng();
            let statement = |random: &mut rand::rngs::ThreadRng| {
                let (key, other) = (random.random_range(0..KEYS), random.random_range(0..KEYS));
                let price = format!("{number}.{round:02}");
                match random.random_range(0..6) {
                    0 => format!("DELETE FROM {place} WHERE id = {key}"),
                    1 => format!("UPDATE {place} SET id = {other} WHERE id = {key}"),
                    2 => format!("UPDATE {place} SET price = price + 0.10 WHERE id = {key}"),
                    _ => format!(
                        "INSERT INTO {place} VALUES ({key}, {price}) ON CONFLICT (id) DO UPDATE SET price = excluded.price"
                    ),
                }
            };
            let many = random.random_range(1..4);
            let statements: Vec<String> = (0..many).map(|_| statement(&mut random)).collect();
            (random.random_bool(0.3), random.random_range(0..30), statements, random.random_bool(0.85))
        };
        let run = async {
            client.batch_execute("BEGIN").await?;
            if early {
                client.batch_execute("SELECT pg_current_xact_id()").await?;
                sleep(Duration::from_millis(pause)).await;
            }
            for statement in &statements {
                client.batch_execute(statement).await?;
            }
            if !early && pause > 20 {
                sleep(Duration::from_millis(pause)).await;
            }
            client.batch_execute(if keep { "COMMIT" } else { "ROLLBACK" }).await
        };
        if run.await.is_err() {
            client.batch_execute("ROLLBACK").await.expect("the session is there still");
        }
    }
}

/// The one that is open for long: it has written before the others begin, writes once more what all write, and commits.
async fn write_late(database: &OwnDatabase, place: &str, start_others: impl Future<Output = ()>) {
    let (client, _served) = session(&database.address(&[])).await.expect("the server answers");
    let begin = format!("BEGIN; UPDATE {place} SET price = 2.00 WHERE id = 98");
    client.batch_execute(&begin).await.expect("nobody else writes it");
    start_others.await;
    sleep(told("WAYBILL_SOAK_OPEN_SECONDS", OPEN_S)).await;
    let end =
        format!("INSERT INTO {place} VALUES (0, 98.98) ON CONFLICT (id) DO UPDATE SET price = excluded.price; COMMIT");
    client.batch_execute(&end).await.expect("it waits for nobody who waits for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn writers_of_the_same_keys_in_postgresql_end_in_the_same_table_at_the_subscriber() {
    let world = World::new().await;
    let database = OwnDatabase::new("changes").await;
    let log = ChangeLog::postgres(&database.address(&[]), PostgresChangeLogOptions::default()).await.unwrap();
    let (client, _served) = session(&database.address(&[])).await.unwrap();
    let place = "public.item".to_owned();
    let make = format!("CREATE TABLE {place} (id integer PRIMARY KEY, price numeric(12,2) NOT NULL)");
    client.batch_execute(&make).await.unwrap();
    client.batch_execute(&format!("INSERT INTO {place} VALUES (0, 19.90), (98, 1.00), (99, 0.50)")).await.unwrap();
    let triggers = log.triggers(&place, &BlobType::new("ItemChanges").unwrap(), &[]).await.unwrap();
    client.batch_execute(&triggers).await.unwrap();
    client.batch_execute(&triggers).await.expect("they can be made again");
    let truncated = client.batch_execute(&format!("TRUNCATE {place}")).await.unwrap_err();
    assert!(truncated.as_db_error().unwrap().message().contains("TRUNCATE does not tell"), "{truncated:?}");

    let entities = Entities::parse(ENTITIES, "entities.toml").unwrap();
    let subscribing = world.subscriber(Subscriber::builder(), &entities).await;
    let publishing: Publishing = world.publisher().await;
    let writing = async {
        let is_over = Arc::<AtomicBool>::default();
        let mut writers = JoinSet::new();
        let others = async {
            for number in 0..WRITERS {
                let (database, place, is_over) = (database.clone(), place.clone(), Arc::clone(&is_over));
                writers.spawn(async move { write(&database, &place, number, &is_over).await });
            }
        };
        write_late(&database, &place, others).await;
        // Until then all waited for it; now changes come as they are made.
        sleep(Duration::from_secs(1)).await;
        is_over.store(true, Ordering::Relaxed);
        while let Some(ended) = writers.join_next().await {
            ended.expect("a writer does not panic");
        }
    };
    follow_all(&publishing.publisher, &log, writing).await;
    publishing.sent().await;
    let files = publishing.publisher.status().await.unwrap().counts.sent;
    assert!(files > 5, "the publisher worked while others wrote: {files} files");
    subscribing.done(files).await;

    let rows = client.query(&format!("SELECT id, price::text FROM {place} ORDER BY id"), &[]).await.unwrap();
    let source: Vec<String> =
        rows.iter().map(|row| format!("{}|{}", row.get::<_, i32>(0), row.get::<_, String>(1))).collect();
    assert!(source.contains(&"99|0.50".to_owned()), "what was there before the triggers: {source:?}");
    assert!(source.contains(&"98|2.00".to_owned()), "what was committed last and written first: {source:?}");
    assert_eq!(world.query("SELECT id, price FROM item ORDER BY id"), source);
    world.all_settled().await;
    assert_nothing_was_dead_lettered(&world);
    subscribing.end().await;
    publishing.end().await;
    drop((client, log));
    database.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_in_sqlite_with_triggers_is_the_same_table_at_the_subscriber() {
    let world = World::new().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let service = rusqlite::Connection::open(&path).unwrap();
    service.busy_timeout(PATIENCE).unwrap();
    let make =
        "CREATE TABLE item (id INTEGER PRIMARY KEY, price TEXT NOT NULL, \"it's a \"\"note\"\"\" TEXT, picture BLOB);
                INSERT INTO item VALUES (99, '0.50', NULL, x'00ff')";
    service.execute_batch(make).unwrap();
    let triggers = log.triggers("item", &BlobType::new("ItemChanges").unwrap(), &[]).await.unwrap();
    service.execute_batch(&triggers).unwrap();
    let entities = Entities::parse(ENTITIES, "entities.toml").unwrap();
    let subscribing = world.subscriber(Subscriber::builder(), &entities).await;
    let publishing = world.publisher().await;
    let writing = async {
        for number in 0..200 {
            let (key, other) = (number * 7 % KEYS, number * 5 % KEYS);
            let sql = match number % 4 {
                0 => format!("DELETE FROM item WHERE id = {key}"),
                1 => format!("UPDATE OR IGNORE item SET id = {other} WHERE id = {key}"),
                2 => format!("UPDATE item SET price = '{number}.90' WHERE id = {key}"),
                _ => format!("INSERT INTO item VALUES ({key}, '{number}.10', 'a\n\"b\"', NULL) ON CONFLICT DO NOTHING"),
            };
            service.execute_batch(&sql).unwrap();
            sleep(Duration::from_millis(1)).await;
        }
    };
    follow_all(&publishing.publisher, &log, writing).await;
    publishing.sent().await;
    subscribing.done(publishing.publisher.status().await.unwrap().counts.sent).await;
    let sql = "SELECT id, price, \"it's a \"\"note\"\"\" FROM item ORDER BY id";
    assert_eq!(world.query(sql), query(&path, sql));
    assert_eq!(world.query("SELECT picture FROM item WHERE id = 99"), ["00ff"]);
    subscribing.end().await;
    publishing.end().await;
    world.end().await;
}

/// A world whose topic holds a few messages, and a publisher for it that tries again soon.
async fn with_a_small_topic() -> (World, PublisherBuilder) {
    let topic = TopicConfig { name: "exports".to_owned(), max_size_bytes: Some(5_000), ..TopicConfig::default() };
    let config = Config { topics: vec![topic], ..Config::default() };
    let world = World::of(Local::builder().config(config).ports(Ports::RANDOM)).await;
    let publisher =
        Publisher::builder(world.tokens(), world.path("publisher")).name("shop").backoff_max(Duration::from_millis(20));
    (world, publisher)
}

/// Commits while the topic is full, as long as it is said; then it is emptied. `commit` must not fail, and `table` is what was committed.
async fn fill_and_empty<O: Outbox>(
    world: World,
    log: &ChangeLog,
    publisher: Publisher<O>,
    commit: impl AsyncFn(String),
    table: impl AsyncFn() -> Vec<String>,
) {
    let publishing = Publishing::start(publisher);
    let full = told("WAYBILL_SOAK_FULL_SECONDS", 0);
    // In an hour not many more than in a minute: each is a file that is sent and read afterwards.
    let pause = Duration::from_millis(50).max(full / 600);
    let writing = async {
        let (mut number, began) = (0, Instant::now());
        let failed = || publishing.publisher.figures().sends_failed;
        while number < COMMITS || failed() < FAILED_TRIES || began.elapsed() < full {
            number += 1;
            let key = number % KEYS;
            let sql = format!(
                "INSERT INTO item VALUES ({key}, '{number}.90') ON CONFLICT (id) DO UPDATE SET price = excluded.price"
            );
            commit(sql).await;
            sleep(pause).await;
        }
        println!("{number} commits in {:.0?}, {} sends refused", began.elapsed(), failed());
    };
    follow_all(&publishing.publisher, log, writing).await;
    let held = publishing.publisher.status().await.unwrap();
    assert!(held.counts.sent > 0 && held.counts.uploaded > 0, "{held:?}");
    assert!(held.last_error.as_deref().is_some_and(|error| error.contains("maximum entity size")), "{held:?}");
    assert_eq!(held.counts.sent, world.counts().active as u64, "what the topic took, it holds");
    assert_eq!(held.counts.void + held.counts.planned, 0, "all the others wait in the outbox");

    let entities = Entities::parse(ENTITIES, "entities.toml").unwrap();
    let subscribing = world.subscriber(Subscriber::builder(), &entities).await;
    publishing.publisher.flush(PATIENCE + full / 4).await.expect("everything is sent");
    let sent = publishing.publisher.status().await.unwrap().counts.sent;
    assert_eq!(sent, held.counts.sent + held.counts.uploaded);
    subscribing.done(sent).await;
    assert_eq!(world.query("SELECT id, price FROM item ORDER BY id"), table().await);
    world.all_settled().await;
    assert_nothing_was_dead_lettered(&world);
    subscribing.end().await;
    publishing.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_is_full_fails_no_commit_and_all_is_sent_once_it_is_emptied() {
    let (world, publisher) = with_a_small_topic().await;
    let path = world.path("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let service = rusqlite::Connection::open(&path).unwrap();
    service.busy_timeout(PATIENCE).unwrap();
    service.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY, price TEXT NOT NULL)").unwrap();
    let triggers = log.triggers("item", &BlobType::new("ItemChanges").unwrap(), &[]).await.unwrap();
    service.execute_batch(&triggers).unwrap();
    let commit =
        async |sql: String| service.execute_batch(&sql).expect("the service does not know that the topic is full");
    let table = async || query(&path, "SELECT id, price FROM item ORDER BY id");
    fill_and_empty(world, &log, publisher.build().await.unwrap(), commit, table).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_postgresql_too_a_full_topic_fails_no_commit_and_all_is_sent_once_it_is_emptied() {
    let (world, publisher) = with_a_small_topic().await;
    let database = OwnDatabase::new("shop").await;
    let log = ChangeLog::postgres(&database.address(&[]), PostgresChangeLogOptions::default()).await.unwrap();
    let outbox = PostgresOutbox::open(&database.address(&[]), PostgresOutboxOptions::default()).await.unwrap();
    let (service, _served) = session(&database.address(&[])).await.unwrap();
    // The log's schema has the name of the tests' user, whose tables would be there.
    let make = "SET search_path = public; CREATE TABLE item (id integer PRIMARY KEY, price numeric NOT NULL)";
    service.batch_execute(make).await.unwrap();
    let triggers = log.triggers("public.item", &BlobType::new("ItemChanges").unwrap(), &[]).await.unwrap();
    service.batch_execute(&triggers).await.unwrap();
    let commit = async |sql: String| {
        service.batch_execute(&sql).await.expect("the service does not know that the topic is full");
    };
    let table = async || database.lines("SELECT id, price FROM public.item ORDER BY id").await;
    fill_and_empty(world, &log, publisher.build_on(outbox).unwrap(), commit, table).await;
    drop((service, log));
    database.end().await;
}
