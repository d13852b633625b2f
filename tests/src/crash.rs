//! `kill -9`, again and again.

use std::{path::Path, process::Stdio, sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use waybill_examples::adventureworks::{self, Change, Table};
use waybill_formats::Field;
use waybill_local::Local;

use crate::harness::{PATIENCE, Publishing, World, assert_nothing_was_dead_lettered, binary, number, query};

const KILLS: usize = 10;

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
        run.args(["--until-idle", "1"]);
    }
    // Small transactions and requests: more moments at which a kill can do harm.
    run.env("WAYBILL_SUBSCRIBER__COMMIT_ROWS_MAX", "100").env("WAYBILL_SUBSCRIBER__RANGE_BYTES", "4096");
    // Not the folder of somebody's settings.
    run.current_dir(world.database().parent().expect("a folder"));
    run.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
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
    let child = start(&world, &ready, true);
    let output = timeout(PATIENCE, child.wait_with_output()).await.expect("it ends in time").expect("it ran");
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {told}", output.status);

    let different: Vec<_> = adventureworks::compare(&tables, &world.database())
        .expect("the database is readable")
        .into_iter()
        .filter(|table| !table.same())
        .collect();
    assert!(different.is_empty(), "seed {seed}: {different:?}\n{told}");
    assert_eq!(world.query("SELECT count(*) FROM _waybill_parked"), ["0"], "seed {seed}: nothing is left parked");
    assert_eq!(world.query("SELECT count(*) FROM _waybill_progress WHERE NOT done"), ["0"], "seed {seed}");
    // Each row took effect, or waited, exactly once.
    let counted = "SELECT sum(inserted + updated + deleted + ignored + superseded + parked + bad), sum(parked) - sum(released), sum(bad) FROM _waybill_progress";
    assert_eq!(world.query(counted), [format!("{}|0|0", changes.len())], "seed {seed}");
    assert_nothing_was_dead_lettered(&world);
    world.end().await;
}
