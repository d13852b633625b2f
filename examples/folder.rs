//! A folder of files is published, each file once, however often this is run: for a job that writes exports at night.
//!
//! A file is known by its name and its content, so that it can be found again after a crash at any moment, and a file that was
//! written anew is another one.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use waybill_examples::playground::publisher_tokens;
use waybill_local::Local;
use waybill_publisher::Publisher;

/// What nobody else gives: the file's identity, as long as its content is the same.
fn export_id(path: &Path) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    hash.update(path.file_name().unwrap_or_default().as_encoded_bytes());
    let (mut file, mut buffer) = (fs::File::open(path)?, vec![0; 64 << 10]);
    loop {
        let length = file.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        hash.update(buffer.get(..length).unwrap_or_default());
    }
    Ok(hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

/// Publishes what lies in the folder, in the order of the names; returns what is new.
async fn publish(publisher: &Publisher, folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.sort();
    let mut new = Vec::new();
    for file in files {
        // `ItemChanges-2026-11-26.csv`: what stands before the first dash is the type.
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some((blob_type, _)) = name.split_once('-') else { continue };
        let exported = publisher.export(blob_type)?.id(&export_id(&file)?)?.file(&file).await?;
        if !exported.repeated {
            new.push(format!("{name}: {} rows, number {}", exported.rows.unwrap_or_default(), exported.sequence));
        }
    }
    Ok(new)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let here = tempfile::tempdir()?;
    let folder = here.path().join("exports");
    fs::create_dir(&folder)?;
    fs::write(folder.join("ItemChanges-2026-11-25.csv"), "ItemID,Price\n1,19.90\n2,5.00\n")?;
    fs::write(folder.join("StockChanges-2026-11-25.jsonl"), "{\"ItemID\":1,\"Stock\":7}\n")?;

    let azure = Local::builder().start().await?;
    let publisher =
        Publisher::builder(publisher_tokens(azure.ready_file())?, here.path()).name("nightly").build().await?;
    println!("first night:  {:?}", publish(&publisher, &folder).await?);
    fs::write(folder.join("ItemChanges-2026-11-26.csv"), "ItemID,Price\n1,17.50\n")?;
    println!("second night: {:?}", publish(&publisher, &folder).await?);

    // Sends what is uploaded; a job may do this in the same run, or leave it to `waybill-publisher run`.
    let stop = CancellationToken::new();
    let sent = async {
        let sent = publisher.flush(Duration::from_secs(60)).await;
        stop.cancel();
        sent
    };
    tokio::join!(publisher.run(stop.clone()), sent).1?;
    println!("{} messages sent", publisher.status().await?.counts.sent);
    azure.stop().await;
    Ok(())
}
