//! Republishes what a partner may have: products above a price, without what they cost, as files of another type.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use url::Url;
use waybill_azure::Secret;
use waybill_contracts::Entities;
use waybill_examples::playground::{Playground, publisher_tokens};
use waybill_publisher::Publisher;
use waybill_republish::{Job, Jobs, Republisher, RepublisherOptions};
use waybill_subscriber::{
    Subscriber,
    grants::Credential,
    inbox::{SqliteInbox, Wanted},
};

const ENTITIES: &str = r#"
[entity.price]
types = ["PriceChanges"]
key = ["ProductID"]
version = { field = "ModifiedDate", type = "timestamp" }
columns = { ListPrice = "decimal" }
"#;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    // Stands for Azure and for the publisher that is followed.
    let azure = Playground::start(folder.path()).await?;
    let (tenant, token) = (Url::parse(&azure.ready_file().tenant_url)?, &azure.ready_file().bearer_token);

    let prices = Job::new("PublicPrices", ["PriceChanges"]).filter("row.ListPrice > 10.0").fields([
        "ProductID",
        "ModifiedDate",
        "ListPrice",
    ]);
    let jobs = Jobs::compile(&[prices], &Entities::parse(ENTITIES, "entities.toml")?)?;

    // From: a subscription of its own. To: here the same topic and container.
    let inbox = SqliteInbox::open(&folder.path().join("inbox.sqlite"), Default::default()).await?;
    let subscriber =
        jobs.prepare(Subscriber::builder()).with_tenant(inbox, &tenant, Credential::Bearer(Secret::new(token)))?;
    let publisher = Publisher::builder(publisher_tokens(azure.ready_file())?, folder.path().join("public"));
    let publisher = publisher.name("public").build().await?;
    let republisher = Republisher::new(jobs, subscriber, publisher, RepublisherOptions::default());

    // `run` goes on until `stop` is cancelled; here that is when nothing has come for a second.
    let stop = CancellationToken::new();
    let quiet = async {
        let wanted = Wanted::default();
        let idle = republisher.subscriber().until_idle(&wanted, Duration::from_secs(1), true, &stop).await;
        stop.cancel();
        idle
    };
    let ((), idle) = tokio::join!(republisher.run(stop.clone()), quiet);
    idle?;

    println!("{:#?}", republisher.figures());
    for export in republisher.publisher().list(&Default::default()).await? {
        println!("{} {}: {} rows", export.blob_type, export.state, export.rows.unwrap_or_default());
    }
    anyhow::ensure!(republisher.figures().files_republished == 1, "the file of prices should be republished");
    azure.stop().await;
    Ok(())
}
