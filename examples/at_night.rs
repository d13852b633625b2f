//! Receive now, process at night: by day messages are only saved, which costs next to nothing; at night a run works what is
//! there, and ends.

use std::{path::Path, time::Duration};

use tokio_util::sync::CancellationToken;
use url::Url;
use waybill_azure::Secret;
use waybill_contracts::{Entities, ReadyFile};
use waybill_examples::playground::Playground;
use waybill_subscriber::{
    Subscriber,
    grants::Credential,
    inbox::{Inbox, SqliteInbox, Wanted},
    sink::SqliteSink,
};

/// Day and night may be two processes, of which each opens the same inbox.
async fn subscriber(azure: &ReadyFile, folder: &Path) -> anyhow::Result<Subscriber> {
    let inbox = SqliteInbox::open(&folder.join("inbox.sqlite"), Default::default()).await?;
    let credential = Credential::Bearer(Secret::new(&azure.bearer_token));
    Ok(Subscriber::builder().with_tenant(inbox, &Url::parse(&azure.tenant_url)?, credential)?)
}

/// Only saves, until no message has come for a second.
async fn by_day(subscriber: &Subscriber) -> anyhow::Result<()> {
    let (stop, quiet) = (CancellationToken::new(), Duration::from_secs(1));
    // Of no type: what is saved and due does not keep the day from ending.
    let nothing = Wanted { types: Some(Vec::new()), ..Wanted::default() };
    let idle = async {
        let idle = subscriber.until_idle(&nothing, quiet, true, &stop).await;
        stop.cancel();
        idle
    };
    let (idle, ()) = tokio::join!(idle, subscriber.receive(stop.clone()));
    idle?;
    Ok(())
}

/// Works what is due, and ends when nothing is.
async fn by_night(subscriber: &Subscriber, sink: SqliteSink) -> anyhow::Result<()> {
    let (stop, all) = (CancellationToken::new(), Wanted::default());
    let idle = async {
        let idle = subscriber.until_idle(&all, Duration::ZERO, false, &stop).await;
        stop.cancel();
        idle
    };
    let (processed, idle) = tokio::join!(subscriber.process(sink, all.clone(), stop.clone()), idle);
    processed?;
    let later = idle?.later;
    if later > 0 {
        println!("{later} files wait for a later try; the next night takes them");
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let azure = Playground::start(folder.path()).await?;

    let day = subscriber(azure.ready_file(), folder.path()).await?;
    by_day(&day).await?;
    println!("in the evening: {} files saved", day.inbox().counts().await?.saved);
    drop(day);

    let night = subscriber(azure.ready_file(), folder.path()).await?;
    let sink = SqliteSink::open(folder.path().join("shop.sqlite"), &Entities::default()).await?;
    by_night(&night, sink.clone()).await?;
    let counts = night.inbox().counts().await?;
    println!("in the morning: {} files done", counts.done);
    anyhow::ensure!(counts.done == 2 && counts.saved == 0, "the night should have worked them all: {counts:?}");
    println!("{:#?}", sink.totals().await?);
    azure.stop().await;
    Ok(())
}
