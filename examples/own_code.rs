//! Rows to your own code: saved files as a stream, each ended with a word of yours.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use url::Url;
use waybill_azure::Secret;
use waybill_examples::playground::Playground;
use waybill_formats::FieldPath;
use waybill_subscriber::{
    Subscriber,
    files::{File, FileError},
    grants::Credential,
    inbox::{Inbox, SqliteInbox, Wanted},
};

/// Tells every row. Here your own code goes: it may take its time, as the file is kept from others while it lives.
async fn tell(file: &mut File) -> Result<(), FileError> {
    let blob_type = file.metadata().blob_type.clone();
    let product = FieldPath::name("ProductID");
    let mut rows = file.rows();
    while let Some(batch) = rows.next().await? {
        for row in batch.rows() {
            println!("{blob_type}: product {:?}, {}", row.get(&product), row.to_json());
        }
        for bad in batch.bad() {
            println!("{blob_type}: row {} cannot be used: {}", bad.row, bad.problem);
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let azure = Playground::start(folder.path()).await?;
    let (tenant, token) = (Url::parse(&azure.ready_file().tenant_url)?, &azure.ready_file().bearer_token);
    let inbox = SqliteInbox::open(&folder.path().join("inbox.sqlite"), Default::default()).await?;
    let subscriber = Subscriber::builder().with_tenant(inbox, &tenant, Credential::Bearer(Secret::new(token)))?;

    let stop = CancellationToken::new();
    let work = async {
        let mut files = subscriber.files(Wanted::default());
        // Until nothing has come for two seconds; a service of yours goes on.
        while let Ok(next) = tokio::time::timeout(Duration::from_secs(2), files.next()).await {
            let mut file = next?;
            match tell(&mut file).await {
                Ok(()) => file.done().await?,
                // Tried again later, or put aside: as the error asks.
                Err(error) => file.failed(&error).await?,
            }
        }
        stop.cancel();
        let counts = subscriber.inbox().counts().await?;
        anyhow::ensure!(counts.done == 2, "both files should be done: {counts:?}");
        Ok(())
    };
    let (worked, ()) = tokio::join!(work, subscriber.receive(stop.clone()));
    worked?;
    azure.stop().await;
    Ok(())
}
