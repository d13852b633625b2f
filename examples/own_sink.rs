//! A sink of your own: every price that changes is told on standard output.

use std::{collections::HashMap, sync::Mutex};

use waybill_examples::playground::{Playground, run_until_idle};
use waybill_formats::FieldPath;
use waybill_subscriber::{
    FileKey,
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
    // `embed` shows what is in these two.
    let subscriber = azure.subscriber(folder.path(), &["PriceChanges"]).await?;
    run_until_idle(&subscriber, PriceTeller::default()).await?;
    azure.stop().await;
    Ok(())
}
