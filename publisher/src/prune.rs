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

/// How long a blob is left alone that storage refused to delete: the first time, and at most.
const KEPT_WAIT: (Duration, Duration) = (Duration::from_secs(3600), Duration::from_secs(7 * 24 * 3600));

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
    /// Exports that stay because storage refuses to delete their blobs (a lease, a policy or a hold that keeps them, no right), or
    /// because these lie elsewhere. Each is tried again on its own clock.
    pub kept: u64,
    /// Those of them that were tried for the first time.
    pub newly_kept: u64,
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
    /// Storage cannot be used.
    #[error("a blob cannot be deleted; nothing is lost, prune again later")]
    Storage(#[source] BlobError),
}

/// Who prunes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// A person, who wants to know.
    DryRun,
    /// A person, who may have mended what kept a blob.
    Ordered,
    /// Nobody: what was refused has its time.
    ByItself,
}

/// What became of an export's blob.
enum Blob {
    Deleted(u64),
    /// There was none, or somebody else's.
    NotOurs,
    Kept(String),
}

/// When a blob that storage refused so often to delete is tried again.
fn kept_wait(refused: u64) -> Duration {
    KEPT_WAIT.0.saturating_mul(1 << refused.min(16)).min(KEPT_WAIT.1)
}

pub(crate) async fn prune<O: Outbox>(context: &Arc<Context<O>>, manner: Manner) -> Result<Pruned, PruneError> {
    let mut pruned = Pruned::default();
    let mut after = 0;
    loop {
        let mut page = context.outbox.over(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(pruned) };
        after = last.row.row;
        // By its row the change log knows that nobody was sent those changes.
        page.retain(|over| !over.row.is_kept_after_term((context.now)()));
        let (named, unnamed): (Vec<_>, Vec<_>) = page.into_iter().partition(|over| over.is_named);
        pruned.unnamed += unnamed.len() as u64;
        let mut rows: Vec<ExportRow> = named.into_iter().map(|over| over.row).collect();
        if manner == Manner::DryRun {
            pruned.exports += rows.len() as u64;
            let uploaded = rows.iter().filter(|row| row.state == State::Sent);
            for row in uploaded {
                pruned.blobs += 1;
                pruned.bytes += row.bytes.unwrap_or_default();
            }
            continue;
        }
        if manner == Manner::ByItself {
            let now = (context.now)();
            rows.retain(|row| {
                let waits = row.due_at.is_some_and(|at| at > now);
                if waits {
                    pruned.kept += 1;
                    pruned.problem = pruned.problem.take().or(row.last_error.clone());
                }
                !waits
            });
        }
        // All of them end before any error is told: their rows have to go with them.
        let ended: Vec<_> = stream::iter(rows)
            .map(|row: ExportRow| async move {
                let blob = delete(context, &row).await;
                (row, blob)
            })
            .buffer_unordered(BLOBS_AT_ONCE)
            .collect()
            .await;
        context.reached(Step::BlobsDeleted);
        let (mut over, mut refused, mut failed) = (Vec::with_capacity(ended.len()), Vec::new(), None);
        for (row, blob) in ended {
            match blob {
                Ok(Blob::Deleted(bytes)) => {
                    over.push(row.row);
                    pruned.blobs += 1;
                    pruned.bytes += bytes;
                }
                Ok(Blob::NotOurs) => over.push(row.row),
                Ok(Blob::Kept(problem)) => refused.push((row, problem)),
                Err(error) => failed = Some(error),
            }
        }
        let forgotten = context.outbox.forget(&over).await?;
        context.counting.add(Figure::ExportsPruned, forgotten);
        pruned.exports += forgotten;
        context.counting.add(Figure::DeletionsRefused, refused.len() as u64);
        for (row, problem) in refused {
            let before = row.due_at.map_or(0, |_| row.tries);
            context.outbox.not_deleted(row.row, &problem, (context.now)() + kept_wait(before)).await?;
            pruned.kept += 1;
            pruned.newly_kept += u64::from(before == 0);
            pruned.problem.get_or_insert(problem);
        }
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
        let pruning = prune(&context, Manner::ByItself);
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
            Ok(Pruned { exports, blobs, bytes, unnamed, kept, newly_kept, problem }) => {
                if exports > 0 {
                    tracing::info!(exports, blobs, bytes, unnamed, "what was over is deleted");
                } else if unnamed > 0 && context.limits.manifest_every.is_none() {
                    tracing::warn!(unnamed, "exports whose term is over stay: no manifest that was sent names them");
                }
                // Once for each, though it is tried on.
                if let Some(problem) = problem.filter(|_| newly_kept > 0) {
                    tracing::warn!(
                        kept,
                        newly_kept,
                        problem,
                        "exports whose term is over stay, because of their blobs"
                    );
                }
            }
            Err(error) => {
                next = Instant::now() + every.min(SOON);
                tracing::warn!(error = chain(&error), "what is over is not all deleted; trying again");
            }
        }
    }
}

/// Its own trouble, such as a lease, a hold or a policy that keeps it, or a right that is given for others: those may go.
fn kept(error: BlobError) -> Result<Blob, PruneError> {
    match error {
        BlobError::Refused { .. }
        | BlobError::Changed { .. }
        | BlobError::Archived { .. }
        | BlobError::AccessRefused { .. }
        // A refusal too, shortly after another one: no further token is asked for.
        | BlobError::Grant(GrantError::RefusedTwice { .. }) => Ok(Blob::Kept(chain(&error))),
        error => Err(PruneError::Storage(error)),
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
        Err(error) => return kept(error),
    };
    match context.container.delete_unchanged(&row.blob, &facts.etag).await {
        Ok(()) => Ok(Blob::Deleted(facts.length)),
        Err(BlobError::NotFound { .. }) => Ok(Blob::NotOurs),
        Err(error) => kept(error),
    }
}
