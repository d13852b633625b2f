//! Two replicas share one inbox and one database: each file is worked by one of them.
//!
//! Here both are in one process, on SQLite. On several machines the inbox and the sink are in PostgreSQL: set
//! `DATABASE=postgres://USER@HOST:PORT/DATABASE` to see it.

use std::{path::Path, sync::atomic::Ordering, time::Duration};

use tokio_util::sync::CancellationToken;
use url::Url;
use waybill_azure::Secret;
use waybill_contracts::Entities;
use waybill_examples::playground::{Playground, publisher_tokens};
use waybill_formats::Field;
use waybill_publisher::Publisher;
use waybill_subscriber::{
    Subscriber,
    grants::Credential,
    inbox::{AnyInbox, PostgresInbox, SqliteInbox, Wanted},
    sink,
};

/// Publishes some more files, so that there is something to share.
async fn publish(azure: &Playground, folder: &Path) -> anyhow::Result<()> {
    let publisher = Publisher::builder(publisher_tokens(azure.ready_file())?, folder.join("stock")).build().await?;
    for product in 1..=40 {
        let mut stock = publisher.export("StockChanges")?.start().await?;
        stock.row(&[("ProductID", Field::Number(&product.to_string())), ("Stock", Field::Number("7"))]).await?;
        stock.finish().await?;
    }
    let stop = CancellationToken::new();
    let sent = async {
        let sent = publisher.flush(Duration::from_secs(30)).await;
        stop.cancel();
        sent
    };
    Ok(tokio::join!(sent, publisher.run(stop.clone())).0?)
}

/// As each replica does it at its start.
async fn replica(azure: &Playground, folder: &Path) -> anyhow::Result<(Subscriber<AnyInbox>, sink::AnySink)> {
    let (inbox, target) = match std::env::var("DATABASE") {
        Ok(address) => (AnyInbox::Postgres(PostgresInbox::open(&address, Default::default()).await?), address),
        Err(_) => {
            let inbox = SqliteInbox::open(&folder.join("inbox.sqlite"), Default::default()).await?;
            (AnyInbox::Sqlite(inbox), format!("sqlite:{}", folder.join("shop.sqlite").display()))
        }
    };
    let (tenant, token) = (Url::parse(&azure.ready_file().tenant_url)?, &azure.ready_file().bearer_token);
    let subscriber = Subscriber::builder().with_tenant(inbox, &tenant, Credential::Bearer(Secret::new(token)))?;
    Ok((subscriber, sink::open(&target, &Entities::default(), folder).await?))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let azure = Playground::start(folder.path()).await?;
    let (one, into_one) = replica(&azure, folder.path()).await?;
    let (two, into_two) = replica(&azure, folder.path()).await?;

    // First only received, by one of them: so there is a backlog when both begin to work.
    publish(&azure, folder.path()).await?;
    let (stop, quiet) = (CancellationToken::new(), Duration::from_secs(1));
    let nothing = Wanted { types: Some(Vec::new()), ..Wanted::default() };
    let received = async {
        let idle = one.until_idle(&nothing, quiet, true, &stop).await;
        stop.cancel();
        idle
    };
    tokio::join!(one.receive(stop.clone()), received).1?;

    let (stop, all) = (CancellationToken::new(), Wanted::default());
    let worked = async {
        let idle = one.until_idle(&all, quiet, false, &stop).await;
        stop.cancel();
        idle
    };
    let (ran_one, ran_two, idle) = tokio::join!(
        one.process(into_one, all.clone(), stop.clone()),
        two.process(into_two, all.clone(), stop.clone()),
        worked
    );
    ran_one?;
    ran_two?;
    idle?;

    for (name, replica) in [("one", &one), ("two", &two)] {
        let (received, worked) = (replica.receive_stats(), replica.work_stats());
        println!(
            "replica {name}: {} messages received, {} files worked, {} rows",
            received.received.load(Ordering::Relaxed),
            worked.files_done.load(Ordering::Relaxed),
            worked.rows.load(Ordering::Relaxed)
        );
    }
    azure.stop().await;
    Ok(())
}
