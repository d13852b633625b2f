//! Changes into a change log in PostgreSQL, and from there into files.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use waybill_publisher::{
    FollowOptions, Publisher,
    change_log::{Change, ChangeLog, PostgresChangeLogOptions, append_postgres},
    outbox::{PostgresOutbox, PostgresOutboxOptions},
};
use waybill_store::tokio_postgres::{NoTls, connect};

use super::publish::Place;
use crate::program::Said;

/// Of a transaction.
const CHANGES: usize = 10_000;
/// Between two looks whether all is done.
const LOOK: Duration = Duration::from_millis(5);

/// Appends the rows of a file of JSON Lines, so many in a transaction.
pub(super) fn append(database: &str, rows: &Path) -> Result<Said> {
    let mut changes = Vec::new();
    for line in BufReader::new(File::open(rows)?).lines() {
        changes.push(Change::upsert("ItemChanges", &RawValue::from_string(line?)?)?);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let options = PostgresChangeLogOptions::default();
        ChangeLog::postgres(database, options.clone()).await?;
        let (mut client, connection) = connect(database, NoTls).await?;
        let mut served = JoinSet::new();
        served.spawn(connection);
        let began = Instant::now();
        for some in changes.chunks(CHANGES) {
            let tx = client.transaction().await?;
            append_postgres(&tx, &options.schema, some).await?;
            tx.commit().await?;
        }
        Ok(said(changes.len() as u64, began.elapsed()))
    })
}

/// Makes files of all changes that the log has.
pub(super) fn follow(place: &Place, database: &str, changes: u64) -> Result<Said> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let log = ChangeLog::existing_postgres(database, PostgresChangeLogOptions::default()).await?;
        let log = log.ok_or_else(|| anyhow!("there is no change log"))?;
        let outbox = PostgresOutbox::open(database, PostgresOutboxOptions::default()).await?;
        let publisher = Publisher::builder(place.tokens()?, "").build_on(outbox)?;
        let stop = CancellationToken::new();
        let began = Instant::now();
        let done = async {
            while publisher.figures().rows_uploaded < changes {
                tokio::time::sleep(LOOK).await;
            }
            let took = began.elapsed();
            publisher.flush(Duration::from_secs(120)).await?;
            stop.cancel();
            anyhow::Ok(took)
        };
        let following = publisher.follow(&log, FollowOptions::default(), stop.clone());
        let (took, followed, ()) = tokio::join!(done, following, publisher.run(stop.clone()));
        followed?;
        Ok(said(changes, took?))
    })
}

fn said(changes: u64, took: Duration) -> Said {
    let each = took.as_secs_f64() * 1e6 / changes as f64;
    Said {
        seconds: Some(took.as_secs_f64()),
        result: format!("{changes} changes"),
        figures: [("µs a change".to_owned(), each)].into(),
    }
}
