//! Changes into a change log, and from there into files.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::value::RawValue;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use waybill_publisher::{
    FollowOptions, Publisher,
    change_log::{Change, ChangeLog, PostgresChangeLogOptions, append_postgres, append_sqlite},
    outbox::{Outbox, PostgresOutbox, PostgresOutboxOptions},
};
use waybill_store::{
    rusqlite::Connection,
    tokio_postgres::{NoTls, connect},
};

use super::publish::Place;
use crate::program::Said;

/// Of a transaction.
const CHANGES: usize = 10_000;
/// Between two looks whether all is done.
const LOOK: Duration = Duration::from_millis(5);

/// Appends the rows of a file of JSON Lines, so many in a transaction. A database is an address of PostgreSQL, or a file of SQLite.
pub(super) async fn append(database: &str, rows: &Path) -> Result<Said> {
    let mut changes = Vec::new();
    for line in BufReader::new(File::open(rows)?).lines() {
        changes.push(Change::upsert("ItemChanges", &RawValue::from_string(line?)?)?);
    }
    let took = if is_address(database) {
        append_to_postgres(database, &changes).await?
    } else {
        append_to_sqlite(Path::new(database), &changes).await?
    };
    Ok(said(changes.len() as u64, took))
}

async fn append_to_postgres(database: &str, changes: &[Change]) -> Result<Duration> {
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
    Ok(began.elapsed())
}

async fn append_to_sqlite(database: &Path, changes: &[Change]) -> Result<Duration> {
    ChangeLog::sqlite(database).await?.close().await;
    let mut service = Connection::open(database)?;
    // Every commit is on disk, as PostgreSQL's are.
    service.pragma_update(None, "synchronous", "full")?;
    let began = Instant::now();
    for some in changes.chunks(CHANGES) {
        let tx = service.transaction()?;
        append_sqlite(&tx, some)?;
        tx.commit()?;
    }
    Ok(began.elapsed())
}

/// Makes files of all changes that the log has.
pub(super) async fn follow(place: &Place, database: &str, changes: u64) -> Result<Said> {
    let (log, took) = if is_address(database) {
        let log = ChangeLog::existing_postgres(database, PostgresChangeLogOptions::default()).await?;
        let log = log.context("there is no change log")?;
        let outbox = PostgresOutbox::open(database, PostgresOutboxOptions::default()).await?;
        let publisher = Publisher::builder(place.tokens()?, "").build_on(outbox)?;
        let took = files_of(&publisher, &log, changes).await?;
        (log, took)
    } else {
        let database = Path::new(database);
        let log = ChangeLog::existing_sqlite(database).await?.context("there is no change log")?;
        let beside = database.parent().context("a file lies in a folder")?;
        let publisher = Publisher::builder(place.tokens()?, beside).build().await?;
        let took = files_of(&publisher, &log, changes).await?;
        (log, took)
    };
    let status = log.status().await?;
    ensure!(status.waiting == 0, "{} changes are in no file", status.waiting);
    Ok(said(changes, took))
}

/// How long it takes until all are uploaded; then their messages are sent too.
async fn files_of<O: Outbox>(publisher: &Publisher<O>, log: &ChangeLog, changes: u64) -> Result<Duration> {
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
    let following = publisher.follow(log, FollowOptions::default(), stop.clone());
    let (took, followed, ()) = tokio::join!(done, following, publisher.run(stop.clone()));
    followed?;
    took
}

fn is_address(database: &str) -> bool {
    database.starts_with("postgres://")
}

fn said(changes: u64, took: Duration) -> Said {
    let each = took.as_secs_f64() * 1e6 / changes as f64;
    Said {
        seconds: Some(took.as_secs_f64()),
        result: format!("{changes} changes"),
        figures: [("µs a change".to_owned(), each)].into(),
    }
}
