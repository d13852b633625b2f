//! What is over is deleted: a blob first, then what the outbox knows of it. A crash between the two leaves an export without a
//! blob, which the next call forgets.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use serde::Serialize;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use waybill_azure::{GrantError, Service, blob::BlobError};
use waybill_contracts::BlobPath;

use crate::{
    context::{Context, Step},
    export::{address, is_ours},
    figures::Figure,
    outbox::{ExportRow, Outbox, OutboxError, State},
    relay::{RelayState, chain},
};

/// Exports of one transaction.
const PAGE: u32 = 500;
/// Blobs that are looked for and deleted at once.
const BLOBS_AT_ONCE: usize = 16;

/// The first time comes so long after the start, that a publisher which is often started anew prunes too; and the next one so long
/// after a failure.
const SOON: Duration = Duration::from_secs(300);

/// What was pruned, or would be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pruned {
    /// Exports that were forgotten.
    pub exports: u64,
    /// Their blobs that were deleted; in a dry run, those that were uploaded.
    pub blobs: u64,
    /// The bytes of these, as stored.
    pub bytes: u64,
    /// Exports whose term is over and that no sent manifest names: they stay.
    pub unnamed: u64,
    /// Exports that stay because storage refuses to delete their blobs, or because these lie elsewhere.
    pub kept: u64,
    /// What the first of those met.
    pub problem: Option<String>,
}

/// Why pruning ended early. What went before stays gone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PruneError {
    /// The outbox cannot be used.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// There is no token for storage.
    #[error("no token for storage")]
    Grant(#[from] GrantError),
    /// Storage cannot be used, or the key gives no right to delete.
    #[error("a blob cannot be deleted; nothing is lost, prune again later")]
    Storage(#[source] BlobError),
}

/// What became of an export's blob.
enum Blob {
    Deleted(u64),
    /// There was none, or somebody else's.
    NotOurs,
    Kept(String),
}

pub(crate) async fn prune<O: Outbox>(context: &Arc<Context<O>>, dry_run: bool) -> Result<Pruned, PruneError> {
    let mut pruned = Pruned::default();
    let mut after = 0;
    loop {
        let page = context.outbox.over(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(pruned) };
        after = last.row.row;
        let (named, unnamed): (Vec<_>, Vec<_>) = page.into_iter().partition(|over| over.is_named);
        pruned.unnamed += unnamed.len() as u64;
        let rows: Vec<ExportRow> = named.into_iter().map(|over| over.row).collect();
        if dry_run {
            pruned.exports += rows.len() as u64;
            let uploaded = rows.iter().filter(|row| row.state == State::Sent);
            for row in uploaded {
                pruned.blobs += 1;
                pruned.bytes += row.bytes.unwrap_or_default();
            }
            continue;
        }
        // All of them end before any error is told: their rows have to go with them.
        let ended: Vec<_> = stream::iter(rows)
            .map(|row: ExportRow| async move { (row.row, delete(context, &row).await) })
            .buffer_unordered(BLOBS_AT_ONCE)
            .collect()
            .await;
        context.reached(Step::BlobsDeleted);
        let (mut over, mut failed) = (Vec::with_capacity(ended.len()), None);
        for (row, blob) in ended {
            match blob {
                Ok(Blob::Deleted(bytes)) => {
                    over.push(row);
                    pruned.blobs += 1;
                    pruned.bytes += bytes;
                }
                Ok(Blob::NotOurs) => over.push(row),
                Ok(Blob::Kept(problem)) => {
                    pruned.kept += 1;
                    pruned.problem.get_or_insert(problem);
                }
                Err(error) => failed = Some(error),
            }
        }
        let forgotten = context.outbox.forget(&over).await?;
        context.counting.add(Figure::ExportsPruned, forgotten);
        pruned.exports += forgotten;
        if let Some(failed) = failed {
            return Err(failed);
        }
    }
}

/// Prunes every so often until it is stopped, as long as this process is the one that sends.
pub(crate) async fn keep<O: Outbox>(
    context: Arc<Context<O>>,
    every: Duration,
    mut relay: watch::Receiver<RelayState>,
    stop: CancellationToken,
) {
    let mut next = Instant::now() + every.min(SOON);
    loop {
        let sends = |state: &RelayState| matches!(state, RelayState::Attached | RelayState::Waiting { .. });
        let turn = async {
            sleep_until(next).await;
            // The sender lives as long as the publisher.
            relay.wait_for(sends).await.is_ok()
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            its_turn = turn => if !its_turn { return },
        }
        let pruning = prune(&context, false);
        tokio::pin!(pruning);
        let pruned = tokio::select! {
            pruned = &mut pruning => pruned,
            () = stop.cancelled() => match timeout(context.limits.drain_timeout, pruning).await {
                Ok(pruned) => pruned,
                Err(_) => return,
            },
        };
        next = Instant::now() + every;
        match pruned {
            Ok(Pruned { exports, blobs, bytes, unnamed, kept, problem }) => {
                if exports > 0 {
                    tracing::info!(exports, blobs, bytes, unnamed, "what was over is deleted");
                } else if unnamed > 0 && context.limits.manifest_every.is_none() {
                    tracing::warn!(unnamed, "exports whose term is over stay: no manifest that was sent names them");
                }
                if let Some(problem) = problem {
                    tracing::warn!(kept, problem, "exports whose term is over stay, because of their blobs");
                }
            }
            Err(error) => {
                next = Instant::now() + every.min(SOON);
                tracing::warn!(error = chain(&error), "what is over is not all deleted; trying again");
            }
        }
    }
}

/// Deletes an export's blob, if it is there and the one that it uploaded.
async fn delete<O: Outbox>(context: &Context<O>, row: &ExportRow) -> Result<Blob, PruneError> {
    // Without an address no block of it was ever committed.
    let Some(uri) = &row.uri else { return Ok(Blob::NotOurs) };
    let grant = context.tokens.grant(Service::Blob, None).await?;
    let here = BlobPath::new(row.blob.as_str()).ok().map(|blob| address(&grant.endpoint, &grant.entity, &blob));
    if here.as_ref() != Some(uri) {
        return Ok(Blob::Kept(format!("{uri}: not in the container that is configured now")));
    }
    let facts = match context.container.head(&row.blob).await {
        Ok(facts) if is_ours(&facts, row) => facts,
        Ok(_) | Err(BlobError::NotFound { .. }) => return Ok(Blob::NotOurs),
        Err(error) => return Err(PruneError::Storage(error)),
    };
    match context.container.delete_unchanged(&row.blob, &facts.etag).await {
        Ok(()) => Ok(Blob::Deleted(facts.length)),
        Err(BlobError::NotFound { .. }) => Ok(Blob::NotOurs),
        // Its own trouble, such as a lease or a policy that keeps it: others may go.
        Err(error @ (BlobError::Refused { .. } | BlobError::Changed { .. })) => Ok(Blob::Kept(error.to_string())),
        Err(error) => Err(PruneError::Storage(error)),
    }
}
