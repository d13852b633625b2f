//! Many exports that are open at once.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, ensure};
use tokio::{sync::Barrier, task::JoinSet};
use tokio_util::sync::CancellationToken;
use waybill_formats::Field;
use waybill_publisher::{Exported, Publisher};

use super::{publish::Place, result};
use crate::{
    data::{COLUMNS, Items},
    program::Said,
};

/// Streams of rows, each an export.
pub(super) async fn streams(place: &Place, state: &Path, exports: usize, rows: u64) -> Result<Said> {
    published(place, state, |publisher| {
        let all_open = Arc::new(Barrier::new(exports));
        (0..exports as u64)
            .map(|number| stream(publisher.clone(), Arc::clone(&all_open), Items::new(rows, number), number))
            .collect()
    })
    .await
}

/// Files, each an export.
pub(super) async fn files(place: &Place, state: &Path, paths: &[PathBuf]) -> Result<Said> {
    published(place, state, |publisher| {
        let numbered = (0_u64..).zip(paths.iter().cloned());
        numbered.map(|(number, path)| file(publisher.clone(), path, number)).collect()
    })
    .await
}

/// Makes them beside each other, and sends their messages.
async fn published(
    place: &Place,
    state: &Path,
    exports: impl FnOnce(&Publisher) -> JoinSet<Result<Exported>>,
) -> Result<Said> {
    let publisher = Publisher::builder(place.tokens()?, state).manifest_every(None).build().await?;
    let exporting = async {
        let (mut exports, mut count, mut rows) = (exports(&publisher), 0, 0);
        while let Some(exported) = exports.join_next().await {
            let exported = exported??;
            ensure!(!exported.repeated, "{} was there before", exported.export_id);
            (count, rows) = (count + 1, rows + exported.rows.unwrap_or_default());
        }
        publisher.flush(Duration::from_secs(120)).await?;
        anyhow::Ok(result(format!("{count} exports, {rows} rows")))
    };
    tokio::select! {
        said = exporting => said,
        () = publisher.run(CancellationToken::new()) => anyhow::bail!("nothing is sent any more"),
    }
}

/// Begins when all are open.
async fn stream(publisher: Publisher, all_open: Arc<Barrier>, items: Items, number: u64) -> Result<Exported> {
    let mut writer = publisher.export(&blob_type(number))?.start().await?;
    all_open.wait().await;
    for item in items {
        let values = item.fields();
        writer.row(&fields(&values)).await?;
    }
    Ok(writer.finish().await?)
}

async fn file(publisher: Publisher, path: PathBuf, number: u64) -> Result<Exported> {
    Ok(publisher.export(&blob_type(number))?.file(&path).await?)
}

/// Each has its own.
fn blob_type(number: u64) -> String {
    format!("ItemChanges{number}")
}

/// As a service would hand them over.
fn fields(values: &[String; COLUMNS.len()]) -> [(&'static str, Field<'_>); COLUMNS.len()] {
    let mut fields = COLUMNS.map(|name| (name, Field::Missing));
    for ((name, field), value) in fields.iter_mut().zip(values) {
        *field = match *name {
            "id" | "price" | "vat" | "stock" | "version" => Field::Number(value),
            "attributes" => Field::Nested(value.as_bytes().into()),
            _ => Field::Text(value.as_str().into()),
        };
    }
    fields
}
