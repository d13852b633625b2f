//! `kill -9`, again and again.

use std::{collections::BTreeSet, path::Path, process::Stdio, sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use waybill_examples::adventureworks::{self, Change, Table};
use waybill_formats::Field;
use waybill_local::Local;

use waybill_contracts::Entities;
use waybill_publisher::outbox::SqliteOutbox;
use waybill_subscriber::{Subscriber, inbox::SqliteInbox};

use crate::harness::{
    PATIENCE, Publishing, SUBSCRIPTION, World, assert_each_number_once, assert_nothing_was_dead_lettered, binary,
    log_all_to, number, query, tail, until,
};

const KILLS: usize = 10;
/// Of all subscribers of a test.
const LOG: &str = "subscriber.log";

/// Rows that took effect, as the sink itself counts them; none while there is no database.
fn progress(database: &Path) -> u64 {
    if !database.exists() {
        return 0;
    }
    let there = query(database, "SELECT 1 FROM sqlite_schema WHERE name = '_waybill_progress'");
    if there.is_empty() {
        return 0;
    }
    query(database, "SELECT coalesce(sum(rows), 0) FROM _waybill_progress")[0].parse().expect("a number")
}

fn start(world: &World, ready: &Path, until_idle: bool) -> Child {
    let mut run = Command::new(binary("waybill-subscriber"));
    run.arg("run").arg("--local").arg(ready);
    run.arg("--sink").arg(format!("sqlite:{}", world.database().display()));
    run.arg("--entities").arg(adventureworks::folder().join("entities.toml"));
    run.arg("--data").arg(world.path("data"));
    if until_idle {
        // Longer than a lock: a message that a kill left locked comes again before the run is over.
        run.args(["--until-idle", "3"]);
    }
    // Small transactions and requests: more moments at which a kill can do harm.
    run.env("WAYBILL_SUBSCRIBER__COMMIT_ROWS_MAX", "100").env("WAYBILL_SUBSCRIBER__RANGE_BYTES", "4096");
    // Not the folder of somebody's settings.
    run.current_dir(world.database().parent().expect("a folder"));
    run.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    log_all_to(&mut run, &world.path(LOG));
    run.spawn().expect("the subscriber starts")
}

/// Publishes changes, a file per table.
async fn publish(publishing: &Publishing, tables: &[Table], changes: &[Change]) {
    let mut of_table: Vec<Vec<Change>> = tables.iter().map(|_| Vec::new()).collect();
    for change in changes {
        of_table[change.table].push(*change);
    }
    let mut values = Vec::new();
    for (table, changes) in tables.iter().zip(of_table).filter(|(_, changes)| !changes.is_empty()) {
        let export = publishing.publisher.export(&table.blob_type).expect("a good type");
        let mut writer = export.start().await.expect("the export begins");
        for change in changes {
            table.values(change, &mut values);
            let fields = table.columns.iter().zip(&values).enumerate();
            let row: Vec<(&str, Field<'_>)> =
                fields.map(|(index, (column, value))| (column.name.as_str(), table.typed(index, value))).collect();
            writer.row(&row).await.expect("the row is written");
        }
        writer.finish().await.expect("the export is durable");
    }
    publishing.sent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_kills_at_random_moments_give_the_same_database() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    // Ten kills are ten lost links: Azure's ten deliveries would not be enough for a message that meets all of them.
    let world = World::of(Local::builder().lock_duration(Duration::from_secs(2)).max_delivery_count(number(20))).await;
    let ready = world.ready_file();
    let tables = Arc::new(adventureworks::load().expect("the data is there"));
    let changes = adventureworks::changes(&tables);
    let publishing = world.publisher().await;

    // Before each start some more is published, so that every run has something to receive and to work.
    let mut parts = changes.chunks(changes.len().div_ceil(KILLS + 1));
    let mut published = 0;
    let mut hit_at_work = 0;
    for kill in 0..KILLS {
        let part = parts.next().expect("a part for every run");
        publish(&publishing, &tables, part).await;
        published += part.len() as u64;
        let before = progress(&world.database());
        let mut child = start(&world, &ready, false);
        if kill % 3 > 0 {
            // When it works; else wherever it is, perhaps still starting.
            let end = Instant::now() + PATIENCE;
            while progress(&world.database()) == before && before < published {
                assert!(Instant::now() < end, "the subscriber does not work");
                assert!(child.try_wait().expect("a child").is_none(), "the subscriber ended by itself");
                sleep(Duration::from_millis(5)).await;
            }
            sleep(Duration::from_millis(random.random_range(0..100))).await;
        } else {
            sleep(Duration::from_millis(random.random_range(50..400))).await;
        }
        let ran = child.try_wait().expect("a child").is_none();
        child.kill().await.expect("the child is killed");
        assert!(ran, "kill {kill}: the subscriber ended by itself");
        let after = progress(&world.database());
        hit_at_work += u32::from(before < after && after < published);
        println!("kill {kill}: {before} to {after} of {published} rows");
    }
    assert!(hit_at_work >= 3, "{hit_at_work} of {KILLS} kills hit it in the middle of its work; seed {seed}");

    for part in parts {
        publish(&publishing, &tables, part).await;
    }
    publishing.end().await;
    let mut child = start(&world, &ready, true);
    let status = timeout(PATIENCE, child.wait()).await.expect("it ends in time").expect("it ran");
    assert!(status.success(), "{status}: {}", tail(&world.path(LOG)));

    let different: Vec<_> = adventureworks::compare(&tables, &world.database())
        .expect("the database is readable")
        .into_iter()
        .filter(|table| !table.same())
        .collect();
    assert!(different.is_empty(), "seed {seed}: {different:?}\n{}", tail(&world.path(LOG)));
    assert_eq!(world.query("SELECT count(*) FROM _waybill_parked"), ["0"], "seed {seed}: nothing is left parked");
    assert_eq!(world.query("SELECT count(*) FROM _waybill_progress WHERE NOT done"), ["0"], "seed {seed}");
    // Each row took effect, or waited, exactly once.
    let counted = "SELECT sum(inserted + updated + deleted + ignored + superseded + parked + bad), sum(parked) - sum(released), sum(bad) FROM _waybill_progress";
    assert_eq!(world.query(counted), [format!("{}|0|0", changes.len())], "seed {seed}");
    assert_nothing_was_dead_lettered(&world);
    world.end().await;
}

/// Every message that the broker holds or held names a blob that is there.
async fn assert_every_message_has_its_blob(world: &World) {
    let messages = world.local.broker().peek(SUBSCRIPTION, 0, 10_000).expect("the subscription is there");
    for message in messages {
        let body: serde_json::Value = serde_json::from_slice(&message.contents.body).expect("a waybill");
        let uri = body["uri"].as_str().expect("an address");
        assert!(world.has_blob(uri).await, "a message came before its blob: {uri}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_killed_at_random_moments_sends_every_file_and_none_before_its_blob() {
    const FILES: u64 = 8;
    const ROWS: u64 = 20_000;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let world = World::new().await;
    let ready = world.ready_file();
    let outbox = world.path("outbox").join(SqliteOutbox::FILE);
    let (mut kills, mut between) = (0, 0);
    for file in 0..FILES {
        let path = world.path(&format!("{file}.jsonl"));
        let rows: String = (file * ROWS..(file + 1) * ROWS)
            .map(|number| format!("{{\"n\":{number},\"text\":\"{:016x}\"}}\n", random.random::<u64>()))
            .collect();
        std::fs::write(&path, rows).expect("a file");
        let id = format!("nightly-{file}");
        let publish = || {
            let mut publish = Command::new(binary("waybill-publisher"));
            publish.arg("publish").arg("--local").arg(&ready).arg("--data").arg(world.path("outbox"));
            publish.args(["--type", "Number", "--id", &id]).arg(&path).current_dir(world.path(""));
            publish.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
            publish.spawn().expect("the publisher starts")
        };
        // Each try is given a little more time, so that kills meet every step on the way.
        let mut time = Duration::from_millis(random.random_range(5..30));
        let output = loop {
            let mut child = publish();
            if let Ok(ended) = timeout(time, child.wait()).await {
                ended.expect("it ran");
                break child.wait_with_output().await.expect("it ran");
            }
            child.kill().await.expect("the child is killed");
            kills += 1;
            let state = format!("SELECT count(*) FROM export WHERE export_id = '{id}' AND state <> 'void'");
            if outbox.exists() && !query(&outbox, "SELECT 1 FROM sqlite_schema WHERE name = 'export'").is_empty() {
                between += u32::from(query(&outbox, &state) != ["0"]);
            }
            assert_every_message_has_its_blob(&world).await;
            time += Duration::from_millis(random.random_range(5..30));
            assert!(time < PATIENCE, "it does not come to its end");
        };
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "seed {seed}, {id}: {} {told}", output.status);
    }
    println!("{kills} kills, {between} of them between plan and sent");
    assert!(kills >= 8 && between >= 3, "{kills} kills, {between} of them in the middle; seed {seed}");
    assert_every_message_has_its_blob(&world).await;

    // A send whose answer was lost is repeated with the same identity: the subscriber takes it for what it is.
    let subscribing = world.subscriber(Subscriber::<SqliteInbox>::builder(), &Entities::default()).await;
    subscribing.done(FILES).await;
    let messages = world.counts().totals.enqueued;
    let rows = subscribing.until("all received", |c| c.done + c.duplicate == messages).await;
    assert_eq!((rows.done, rows.quarantined, rows.saved), (FILES, 0, 0), "seed {seed}: {rows:?}");
    let ids: BTreeSet<String> = subscribing.rows().await.into_iter().filter_map(|row| row.message_id).collect();
    let wanted: BTreeSet<String> = (0..FILES).map(|file| format!("nightly-{file}")).collect();
    assert_eq!(ids, wanted, "one message-id per export, also when it was sent again");
    until("everything is settled", || world.counts().totals.completed == messages).await;
    world.all_settled().await;
    subscribing.end().await;
    assert_each_number_once(&world, FILES * ROWS);
    assert_nothing_was_dead_lettered(&world);
    world.end().await;
}
