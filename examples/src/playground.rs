//! Something to subscribe to, for examples that are about the subscriber: `local` in this process, and two published files,
//! the prices before their products.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use url::Url;
use waybill_azure::{Secret, TokenSource, connection_string::key_tokens};
use waybill_contracts::ReadyFile;
use waybill_formats::Field;
use waybill_local::Local;
use waybill_publisher::Publisher;
use waybill_subscriber::{
    Subscriber,
    grants::Credential,
    inbox::{SqliteInbox, Wanted},
    sink::Sink,
};

/// The tokens of a publisher that holds the keys of `local`, an hour each.
///
/// # Errors
/// When a connection string of the ready file cannot be read.
pub fn publisher_tokens(ready: &ReadyFile) -> anyhow::Result<Arc<dyn TokenSource>> {
    Ok(key_tokens(
        ready.service_bus_connection_string.parse()?,
        ready.topic.clone(),
        ready.blob_connection_string.parse()?,
        ready.container.clone(),
        Duration::from_secs(3600),
    ))
}

/// The tokens of a subscriber that holds the keys of `local`, an hour each: of the first tenant's subscription.
///
/// # Errors
/// As [`publisher_tokens`]; and when there is no tenant.
pub fn subscriber_tokens(ready: &ReadyFile) -> anyhow::Result<Arc<dyn TokenSource>> {
    let tenant = ready.tenants.first().context("no tenant is set up")?;
    Ok(key_tokens(
        ready.service_bus_connection_string.parse()?,
        format!("{}/subscriptions/{}", ready.topic, tenant.subscription),
        ready.blob_connection_string.parse()?,
        ready.container.clone(),
        Duration::from_secs(3600),
    ))
}

/// A running `local` with two files published.
#[derive(Debug)]
pub struct Playground {
    local: Local,
}

impl Playground {
    /// Starts and publishes. `folder` holds the publisher's outbox.
    ///
    /// # Errors
    /// When a part does not start, or does not publish.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        let local = Local::builder().start().await?;
        let ready = local.ready_file();
        let publisher = Publisher::builder(publisher_tokens(ready)?, folder.join("publisher")).build().await?;
        let at = Field::Text("2026-11-23T08:00:00Z".into());
        let mut prices = publisher.export("PriceChanges")?.start().await?;
        for (product, price) in [("1", "19.90"), ("2", "5.00")] {
            let row = [
                ("ProductID", Field::Number(product)),
                ("ListPrice", Field::Number(price)),
                ("ModifiedDate", at.clone()),
            ];
            prices.row(&row).await?;
        }
        prices.finish().await?;
        let mut products = publisher.export("ProductChanges")?.start().await?;
        for (product, name) in [("1", "Bell"), ("2", "Saddle")] {
            let row = [
                ("ProductID", Field::Number(product)),
                ("Name", Field::Text(name.into())),
                ("ModifiedDate", at.clone()),
            ];
            products.row(&row).await?;
        }
        products.finish().await?;
        let stop = tokio_util::sync::CancellationToken::new();
        let (flushed, ()) = tokio::join!(
            async {
                let flushed = publisher.flush(Duration::from_secs(30)).await;
                stop.cancel();
                flushed
            },
            publisher.run(stop.clone())
        );
        flushed?;
        Ok(Self { local })
    }

    /// Every endpoint and credential.
    #[must_use]
    pub fn ready_file(&self) -> &ReadyFile {
        self.local.ready_file()
    }

    /// A subscriber of these blobTypes, with its inbox in `folder`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn subscriber(&self, folder: &Path, types: &[&str]) -> anyhow::Result<Subscriber<SqliteInbox>> {
        let inbox = SqliteInbox::open(&folder.join("inbox.sqlite"), Default::default()).await?;
        let credential = Credential::Bearer(Secret::new(&self.ready_file().bearer_token));
        let types = types.iter().map(|name| (*name).to_owned());
        Ok(Subscriber::builder().types(types).with_tenant(
            inbox,
            &Url::parse(&self.ready_file().tenant_url)?,
            credential,
        )?)
    }

    /// Ends it.
    pub async fn stop(self) {
        self.local.stop().await;
    }
}

/// Runs a subscriber until nothing has come for a second.
///
/// # Errors
/// When it fails.
pub async fn run_until_idle(subscriber: &Subscriber<SqliteInbox>, sink: impl Sink) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let quiet = async {
        let idle = subscriber.until_idle(&Wanted::default(), Duration::from_secs(1), true, &stop).await;
        stop.cancel();
        idle
    };
    let (ran, idle) = tokio::join!(subscriber.run(sink, stop.clone()), quiet);
    ran?;
    idle?;
    Ok(())
}
