//! A nightly full export: all rows of a table, so that a third party that lost something, or begins today, has what it needs from here
//! on. For a job that a scheduler starts; begun twice in a night, it makes one.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use waybill_examples::playground::publisher_tokens;
use waybill_local::Local;
use waybill_publisher::{Exported, Publisher, SnapshotOptions, change_log::ChangeLog};

/// What the night makes. The rows are those of one moment, and count as newer than every file that has its number now.
async fn full_export(publisher: &Publisher, log: &ChangeLog, night: &str) -> anyhow::Result<Vec<Exported>> {
    let options = SnapshotOptions { max_rows: 2.try_into()?, ..SnapshotOptions::default() };
    let mut snapshot = publisher.export("ItemChanges")?.snapshot(&format!("nightly-{night}"), options).await?;
    // Rows can also be written one by one: `snapshot.serialize(&row)`.
    snapshot.table(log, "item").await?;
    Ok(snapshot.finish().await?)
}

fn shown(parts: &[Exported]) -> Vec<String> {
    let of =
        |part: &Exported| part.snapshot.as_ref().map(|of| format!("part {} of {}, as of {}", of.part, of.of, of.as_of));
    let rows = |part: &Exported| part.rows.unwrap_or_default();
    parts.iter().map(|part| format!("{}: {} rows", of(part).unwrap_or_default(), rows(part))).collect()
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let here = tempfile::tempdir()?;
    let database = here.path().join("shop.sqlite");
    let shop = rusqlite::Connection::open(&database)?;
    shop.execute_batch(
        "CREATE TABLE item (id INTEGER PRIMARY KEY, price TEXT); INSERT INTO item VALUES (1, '19.90'), (2, '5.00'), (3, '7.50')",
    )?;

    let azure = Local::builder().start().await?;
    let publisher = Publisher::builder(publisher_tokens(azure.ready_file())?, here.path()).name("shop").build().await?;
    let log = ChangeLog::sqlite(&database).await?;
    println!("first night:  {:?}", shown(&full_export(&publisher, &log, "2026-11-26").await?));
    shop.execute("DELETE FROM item WHERE id = 2", [])?;
    println!("said again:   {:?}", shown(&full_export(&publisher, &log, "2026-11-26").await?));
    println!("second night: {:?}", shown(&full_export(&publisher, &log, "2026-11-27").await?));

    // Sends what is uploaded; a job may do this in the same run, or leave it to `waybill-publisher run`.
    let stop = CancellationToken::new();
    let sent = async {
        let sent = publisher.flush(Duration::from_secs(60)).await;
        stop.cancel();
        sent
    };
    tokio::join!(publisher.run(stop.clone()), sent).1?;
    println!("{} messages sent", publisher.status().await?.counts.sent);
    azure.stop().await;
    Ok(())
}
