//! Embeds the subscriber: a database of your own follows the publisher's.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use url::Url;
use waybill_azure::Secret;
use waybill_contracts::Entities;
use waybill_examples::playground::Playground;
use waybill_subscriber::{Subscriber, grants::Credential, inbox::SqliteInbox, inbox::Wanted, sink::SqliteSink};

const ENTITIES: &str = r#"
[entity.product]
types = ["ProductChanges"]
key = ["ProductID"]
version = { field = "ModifiedDate", type = "timestamp" }

[entity.price]
types = ["PriceChanges"]
key = ["ProductID"]
version = { field = "ModifiedDate", type = "timestamp" }
columns = { ListPrice = "decimal" }
references = [{ fields = ["ProductID"], entity = "product", on_missing = "park" }]
"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    // Stands for Azure and for the publisher; yours are named by your tenant's address and credential.
    let azure = Playground::start(folder.path()).await?;
    let (tenant, token) = (Url::parse(&azure.ready_file().tenant_url)?, &azure.ready_file().bearer_token);

    let entities = Entities::parse(ENTITIES, "entities.toml")?;
    let inbox = SqliteInbox::open(&folder.path().join("inbox.sqlite"), Default::default()).await?;
    let sink = SqliteSink::open(folder.path().join("shop.sqlite"), &entities).await?;
    let subscriber =
        Subscriber::builder().entities(entities).with_tenant(inbox, &tenant, Credential::Bearer(Secret::new(token)))?;

    // `run` goes on until `stop` is cancelled; here that is when nothing has come for a second.
    let stop = CancellationToken::new();
    let quiet = async {
        let idle = subscriber.until_idle(&Wanted::default(), Duration::from_secs(1), true, &stop).await;
        stop.cancel();
        idle
    };
    let (ran, idle) = tokio::join!(subscriber.run(sink.clone(), stop.clone()), quiet);
    ran?;
    idle?;

    println!("{:#?}", sink.totals().await?);
    azure.stop().await;
    Ok(())
}
