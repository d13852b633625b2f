//! Only some types: files of others are saved and skipped, never downloaded, and can be listed and had later.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use url::Url;
use waybill_azure::Secret;
use waybill_contracts::Entities;
use waybill_examples::playground::Playground;
use waybill_subscriber::{
    Subscriber,
    grants::Credential,
    inbox::{Inbox, ListFilter, SqliteInbox, State, Wanted},
    sink::SqliteSink,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let azure = Playground::start(folder.path()).await?;
    let (tenant, token) = (Url::parse(&azure.ready_file().tenant_url)?, &azure.ready_file().bearer_token);
    let inbox = SqliteInbox::open(&folder.path().join("inbox.sqlite"), Default::default()).await?;
    let sink = SqliteSink::open(folder.path().join("shop.sqlite"), &Entities::default()).await?;
    // A star stands for any characters.
    let subscriber = Subscriber::builder().types(["Price*".to_owned()]).with_tenant(
        inbox,
        &tenant,
        Credential::Bearer(Secret::new(token)),
    )?;

    let stop = CancellationToken::new();
    let idle = async {
        let idle = subscriber.until_idle(&Wanted::default(), Duration::from_secs(1), true, &stop).await;
        stop.cancel();
        idle
    };
    let (ran, idle) = tokio::join!(subscriber.run(sink.clone(), stop.clone()), idle);
    ran?;
    idle?;

    println!("{:#?}", sink.totals().await?);
    let skipped = ListFilter { state: Some(State::Skipped), ..ListFilter::default() };
    let skipped = subscriber.inbox().list(&skipped).await?;
    anyhow::ensure!(skipped.len() == 1, "the products should be skipped: {skipped:?}");
    for row in skipped {
        // `Inbox::retry` would have it worked after all, by a subscriber of its type.
        println!("{}: {}", row.blob_type.unwrap_or_default(), row.problem.unwrap_or_default());
    }
    azure.stop().await;
    Ok(())
}
