//! A service publishes what it commits: one call more in its own transaction, and no broker in its way.
//!
//! Here the service's database is an SQLite file. Set `DATABASE=postgres://USER@HOST:PORT/DATABASE` to see the same in PostgreSQL, where
//! it makes the schemas `example_shop`, `example_log` and `example_outbox`, and removes them in the end.

use std::{path::Path, time::Duration};

use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;
use waybill_examples::playground::publisher_tokens;
use waybill_local::Local;
use waybill_publisher::{
    FollowOptions, Publisher,
    change_log::{Change, ChangeLog, PostgresChangeLogOptions, append_postgres, append_sqlite},
    outbox::{AnyOutbox, PostgresOutbox, PostgresOutboxOptions, SqliteOutbox},
};

/// The log's schema in PostgreSQL.
const LOG: &str = "example_log";

/// The service's own code: a price changes, and its log says so. Neither is there without the other.
async fn change_price(shop: &mut Client, id: i32, price: &str) -> anyhow::Result<()> {
    let tx = shop.transaction().await?;
    // First the row, whose lock orders changes of the same item; then the change.
    let sql = "INSERT INTO example_shop.item (id, price) VALUES ($1, $2::text::numeric)
               ON CONFLICT (id) DO UPDATE SET price = excluded.price";
    tx.execute(sql, &[&id, &price]).await?;
    append_postgres(&tx, LOG, &[priced(id, price)?]).await?;
    tx.commit().await?;
    Ok(())
}

/// The same in SQLite.
fn change_price_in_sqlite(shop: &mut rusqlite::Connection, id: i32, price: &str) -> anyhow::Result<()> {
    let tx = shop.transaction()?;
    tx.execute("INSERT OR REPLACE INTO item (id, price) VALUES (?1, ?2)", (id, price))?;
    append_sqlite(&tx, &[priced(id, price)?])?;
    tx.commit()?;
    Ok(())
}

/// Whatever serialises as an object is a row. A price is text, so that 19.90 stays 19.90.
fn priced(id: i32, price: &str) -> anyhow::Result<Change> {
    let row = serde_json::json!({ "ItemID": id, "Price": price });
    Ok(Change::upsert("ItemChanges", &row)?.key(&id.to_string()).correlation_id("price-list-7"))
}

/// The service at its work: two prices change, one of them twice.
async fn work_in_postgres(address: &str) -> anyhow::Result<()> {
    let (mut shop, connection) = tokio_postgres::connect(address, NoTls).await?;
    let work = async move {
        shop.batch_execute(
            "CREATE SCHEMA example_shop; CREATE TABLE example_shop.item (id integer PRIMARY KEY, price numeric NOT NULL)",
        )
        .await?;
        for (id, price) in [(1, "19.90"), (2, "5.00"), (1, "17.50")] {
            change_price(&mut shop, id, price).await?;
        }
        anyhow::Ok(())
    };
    // The connection ends when `shop` is dropped, with the work.
    let (worked, served) = tokio::join!(work, connection);
    served?;
    worked
}

fn work_in_sqlite(path: &Path) -> anyhow::Result<()> {
    let mut shop = rusqlite::Connection::open(path)?;
    shop.busy_timeout(Duration::from_secs(30))?;
    shop.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY, price TEXT NOT NULL)")?;
    for (id, price) in [(1, "19.90"), (2, "5.00"), (1, "17.50")] {
        change_price_in_sqlite(&mut shop, id, price)?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (server, file) = (std::env::var("DATABASE").ok(), folder.path().join("shop.sqlite"));

    // What `waybill-publisher init` does, once: the log, in the service's own database. The outbox is beside it, or a file.
    let (log, outbox) = match &server {
        Some(address) => {
            let log = ChangeLog::postgres(address, PostgresChangeLogOptions { schema: LOG.to_owned() }).await?;
            let options = PostgresOutboxOptions { schema: "example_outbox".to_owned(), ..Default::default() };
            (log, AnyOutbox::Postgres(PostgresOutbox::open(address, options).await?))
        }
        None => {
            let outbox = folder.path().join(SqliteOutbox::FILE);
            (ChangeLog::sqlite(&file).await?, AnyOutbox::Sqlite(SqliteOutbox::open(&outbox, Default::default()).await?))
        }
    };

    // The service needs nothing else to run.
    match &server {
        Some(address) => work_in_postgres(address).await?,
        None => work_in_sqlite(&file)?,
    }

    // What `waybill-publisher run` does, in a process of its own and whenever it likes. Azure is in this process here.
    let azure = Local::builder().start().await?;
    let tokens = publisher_tokens(azure.ready_file())?;
    let publisher = Publisher::builder(tokens, folder.path()).name("shop").build_on(outbox)?;
    let stop = CancellationToken::new();
    let published = async {
        while log.status().await?.waiting > 0 || publisher.status().await?.counts.sent == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stop.cancel();
        anyhow::Ok(())
    };
    let follow = publisher.follow(&log, FollowOptions::default(), stop.clone());
    let (followed, (), published) = tokio::join!(follow, publisher.run(stop.clone()), published);
    followed?;
    published?;

    for export in publisher.list(&Default::default()).await? {
        let rows = export.rows.unwrap_or_default();
        println!("{} {}: {rows} rows, {}", export.blob_type, export.state, export.uri.unwrap_or_default());
    }
    azure.stop().await;
    if let Some(address) = &server {
        let (client, connection) = tokio_postgres::connect(address, NoTls).await?;
        let clean =
            async move { client.batch_execute("DROP SCHEMA example_shop, example_log, example_outbox CASCADE").await };
        let (cleaned, served) = tokio::join!(clean, connection);
        cleaned?;
        served?;
    }
    Ok(())
}
