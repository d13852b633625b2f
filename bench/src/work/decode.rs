//! Several files beside each other.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tokio::task::JoinSet;
use waybill_contracts::{Format, Media};
use waybill_formats::{
    Limits, RowFilter,
    filter::{FilterColumns, FilterFields},
};
use waybill_subscriber::look::FileRows;

use super::result;
use crate::program::Said;

pub(super) async fn decode(workers: usize, files: &[PathBuf]) -> Result<Said> {
    let (mut waiting, mut running, mut rows) = (files.iter().cloned(), JoinSet::new(), 0);
    loop {
        while running.len() < workers
            && let Some(path) = waiting.next()
        {
            running.spawn(async move { count(&path).await });
        }
        let Some(counted) = running.join_next().await else { return Ok(result(rows)) };
        rows += counted??;
    }
}

async fn count(path: &Path) -> Result<usize> {
    let filter = RowFilter::compile("row.currency == \"SEK\"", &FilterColumns::default())?;
    let mut file = FileRows::of_file(path, Media::new(Format::JsonLines), None, &Limits::default()).await?;
    let mut wanted = 0;
    while let Some(batch) = file.next().await? {
        let mut fields = FilterFields::default();
        for row in batch.rows() {
            wanted += usize::from(filter.matches(&row, &mut fields)?);
        }
    }
    Ok(wanted)
}
