//! What was sent, told number by number: the manifests of a publisher's sequences.
//!
//! Which numbers a manifest names is fixed in the outbox in one transaction, with the id of its export. From then on it can be
//! made again as often as it takes, and is one export, as any other is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::value::RawValue;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use waybill_contracts::{Fate, ManifestRow, ManifestScope};

use crate::{
    context::Context,
    export::{ExportBuilder, ExportError, ExportWriter, Exported},
    outbox::{ExportRow, ManifestRange, Outbox, OutboxError, State},
    plan::is_its_own,
    relay::{chain, metadata},
};

/// Numbers that one manifest names: a file that is soon made again, and soon read.
const NAMED_MAX: u32 = 10_000;
/// Exports read from the outbox at once.
const PAGE: u32 = 500;
/// Manifests are kept until the last file that they name may be deleted, and so long at least: who was away has to find them.
const KEPT: time::Duration = time::Duration::days(7);
/// How often somebody looks whether manifests are due, unless they are due more often.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// A manifest that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The type whose numbers it names.
    pub blob_type: String,
    /// Their epoch.
    pub epoch: String,
    /// The first of them.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// How many of them are void.
    pub void: u64,
    /// Its file.
    pub export: Exported,
}

/// Why manifests are not all made. What was fixed is made by the next try.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The outbox cannot say what to name.
    #[error("the outbox cannot say what manifests are to name")]
    Outbox(#[from] OutboxError),
    /// One of them could not be exported.
    #[error("the manifest of {blob_type} {first} to {last} is not made yet; the next try makes it")]
    Export {
        /// The type.
        blob_type: String,
        /// The first number.
        first: u64,
        /// The last.
        last: u64,
        /// Why.
        source: ExportError,
    },
}

/// Makes manifests of all that is sent or void and named by none.
pub(crate) async fn make<O: Outbox>(context: &Arc<Context<O>>) -> Result<Vec<Manifest>, ManifestError> {
    let mut made = Vec::new();
    let mut failed = None;
    loop {
        let before = made.len();
        for range in context.outbox.plan_manifests(NAMED_MAX).await? {
            match export(context, &range).await {
                Ok(manifest) => made.push(manifest),
                Err(source) => {
                    let stops = !is_its_own(&source);
                    let ManifestRange { blob_type, first, last, .. } = range;
                    failed = Some(ManifestError::Export { blob_type, first, last, source });
                    if stops {
                        break;
                    }
                }
            }
        }
        // A long backlog takes several rounds.
        match failed {
            Some(failed) => return Err(failed),
            None if made.len() == before => return Ok(made),
            None => {}
        }
    }
}

async fn export<O: Outbox>(context: &Arc<Context<O>>, range: &ManifestRange) -> Result<Manifest, ExportError> {
    let mut expires_at = Some((context.now)() + KEPT);
    let mut named = Named { context, range, next: range.first };
    while let Some(rows) = named.page().await? {
        for row in rows {
            expires_at = expires_at.and_then(|latest| row.expires_at.map(|at| latest.max(at)));
        }
    }
    let scope = ManifestScope {
        publisher: range.publisher.clone(),
        epoch: range.epoch.clone(),
        blob_type: range.blob_type.clone(),
        first: range.first,
        last: range.last,
    };
    let mut export = ExportBuilder::of_manifest(Arc::clone(context))
        .id(range.export_id.as_str())?
        .properties(&BTreeMap::from([(ManifestScope::PROPERTY, scope)]))?;
    if let Some(at) = expires_at {
        export = export.expires_at(at);
    }
    let mut writer = export.start().await?;
    let void = match write(context, range, &mut writer).await {
        Ok(void) => void,
        Err(error) => return Err(writer.failed(error).await),
    };
    let export = writer.finish().await?;
    let ManifestRange { blob_type, epoch, first, last, .. } = range.clone();
    tracing::info!(blob_type, first, last, void, "a manifest is made");
    Ok(Manifest { blob_type, epoch, first, last, void, export })
}

/// Writes a row for each number; how many are void.
async fn write<O: Outbox>(
    context: &Context<O>,
    range: &ManifestRange,
    writer: &mut ExportWriter<O>,
) -> Result<u64, ExportError> {
    let mut void = 0;
    let mut named = Named { context, range, next: range.first };
    while let Some(rows) = named.page().await? {
        for row in rows {
            void += u64::from(row.state == State::Void);
            let json = line(&row).map_err(|problem| ExportError::Invalid { what: "row of the manifest", problem })?;
            writer.serialize(&json).await?;
        }
    }
    Ok(void)
}

fn line(row: &ExportRow) -> Result<Box<RawValue>, String> {
    let fate = if row.state == State::Void {
        Fate::Void(row.reason.clone().unwrap_or_default())
    } else {
        Fate::Sent(Box::new(metadata(row).map_err(|error| error.to_string())?))
    };
    let row = ManifestRow {
        publisher: row.publisher.clone(),
        epoch: row.epoch.clone(),
        blob_type: row.blob_type.clone(),
        sequence: row.sequence.unwrap_or_default(),
        fate,
    };
    let json = row.to_json().map_err(|error| error.to_string())?;
    Ok(RawValue::from_string(json).expect("it was written as JSON"))
}

/// The exports of a range, by number.
struct Named<'a, O> {
    context: &'a Context<O>,
    range: &'a ManifestRange,
    next: u64,
}

impl<O: Outbox> Named<'_, O> {
    async fn page(&mut self) -> Result<Option<Vec<ExportRow>>, ExportError> {
        let rows = self.context.outbox.named(self.range, self.next, PAGE).await.map_err(|source| {
            let export_id = self.range.export_id.as_str().to_owned();
            ExportError::Outbox { export_id, source }
        })?;
        let last = rows.last().and_then(|row| row.sequence);
        self.next = last.map_or(u64::MAX, |last| last + 1);
        Ok(last.is_some().then_some(rows))
    }
}

/// Makes manifests whenever they are due, until it is stopped. Of several processes on an outbox, whoever looks first makes them.
pub(crate) async fn keep<O: Outbox>(context: Arc<Context<O>>, every: Duration, stop: CancellationToken) {
    let mut again = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(LOOK_EVERY.min(every)) => {}
        }
        let due = match context.outbox.manifested_at().await {
            Ok(at) => (context.now)() - at >= every,
            // Whoever sends tells of an outbox that cannot be read.
            Err(_) => false,
        };
        if !due && !again {
            continue;
        }
        let making = make(&context);
        tokio::pin!(making);
        let made = tokio::select! {
            made = &mut making => made,
            () = stop.cancelled() => match timeout(context.limits.drain_timeout, making).await {
                Ok(made) => made,
                Err(_) => return,
            },
        };
        again = made.is_err();
        if let Err(error) = made {
            tracing::warn!(error = chain(&error), "manifests are not made; trying again");
        }
    }
}
