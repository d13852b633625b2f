//! Files to blobs and messages.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use tokio_util::sync::CancellationToken;
use waybill_azure::{TokenSource, connection_string::key_tokens};
use waybill_publisher::Publisher;

use super::result;
use crate::program::Said;

/// Where they go.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    #[arg(long)]
    bus: String,
    #[arg(long)]
    blob: String,
    #[arg(long)]
    topic: String,
    #[arg(long)]
    container: String,
}

impl Place {
    /// For it.
    pub(super) fn tokens(&self) -> Result<Arc<dyn TokenSource>> {
        let Self { bus, blob, topic, container } = self;
        Ok(key_tokens(bus.parse()?, topic.clone(), blob.parse()?, container.clone(), Duration::from_secs(3600)))
    }
}

/// Publishes each file as one export of item changes, and sends its message.
pub(super) async fn publish(place: &Place, state: &Path, files: &[PathBuf]) -> Result<Said> {
    let publisher = Publisher::builder(place.tokens()?, state).build().await?;
    let stop = CancellationToken::new();
    let exporting = async {
        for path in files {
            publisher.export("ItemChanges")?.file(path).await?;
        }
        publisher.flush(Duration::from_secs(120)).await?;
        stop.cancel();
        anyhow::Ok(())
    };
    tokio::select! {
        exported = exporting => exported?,
        () = publisher.run(stop.clone()) => {}
    }
    Ok(result(files.len()))
}
