//! A sink of your own: every price that changes is told on standard output.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use tokio_util::sync::CancellationToken;
use url::Url;
use waybill_azure::Secret;
use waybill_examples::playground::Playground;
use waybill_formats::FieldPath;
use waybill_subscriber::{
    FileKey, Subscriber,
    grants::Credential,
    inbox::{SqliteInbox, Wanted},
    sink::{Applied, EntityBatch, Guarantee, Progress, Sink, SinkError, WaitsEnded},
};

/// Keeps in memory how far each file has come, so after a restart all files come again. Keep it on disk, best in one
/// transaction with what the rows do, and they come once.
#[derive(Default)]
struct PriceTeller(Mutex<HashMap<FileKey, Progress>>);

impl Sink for PriceTeller {
    fn guarantee(&self) -> Guarantee {
        Guarantee::AtLeastOnce
    }

    async fn progress(&self, file: &FileKey) -> Result<Progress, SinkError> {
        Ok(self.0.lock().expect("no panic").get(file).copied().unwrap_or_default())
    }

    async fn apply(&self, file: &FileKey, from: u64, batch: EntityBatch) -> Result<Applied, SinkError> {
        let mut files = self.0.lock().expect("no panic");
        let found = files.get(file).copied().unwrap_or_default();
        if found.done || found.rows != from {
            return Err(SinkError::Fenced { file: file.to_string(), expected: from, found });
        }
        let (product, price) = (FieldPath::name("ProductID"), FieldPath::name("ListPrice"));
        let mut applied = Applied::default();
        for rows in &batch.rows {
            for row in rows.rows().filter(|row| row.number() > from) {
                println!("{}: product {:?} costs {:?}", batch.blob_type, row.get(&product), row.get(&price));
                applied.inserted += 1;
            }
            applied.bad += rows.bad().iter().filter(|bad| bad.row > from).count() as u64;
        }
        files.insert(file.clone(), found.after(batch.to, batch.end.is_some(), &applied));
        Ok(applied)
    }

    async fn end_waits(&self) -> Result<WaitsEnded, SinkError> {
        Ok(WaitsEnded::default()) // nothing waits here
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let azure = Playground::start(folder.path()).await?;
    let (tenant, token) = (Url::parse(&azure.ready_file().tenant_url)?, &azure.ready_file().bearer_token);
    let inbox = SqliteInbox::open(&folder.path().join("inbox.sqlite"), Default::default()).await?;
    let subscriber = Subscriber::builder().types(["PriceChanges".to_owned()]).with_tenant(
        inbox,
        &tenant,
        Credential::Bearer(Secret::new(token)),
    )?;
    let stop = CancellationToken::new();
    let quiet = async {
        let idle = subscriber.until_idle(&Wanted::default(), Duration::from_secs(1), true, &stop).await;
        stop.cancel();
        idle
    };
    let (ran, idle) = tokio::join!(subscriber.run(PriceTeller::default(), stop.clone()), quiet);
    ran?;
    idle?;
    azure.stop().await;
    Ok(())
}
