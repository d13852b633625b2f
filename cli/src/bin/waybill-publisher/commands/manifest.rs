//! `manifest` and `prune`: what was sent is told, and what is told and over goes.

use anyhow::{Context, bail};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{count, json, line, many},
    settings::publisher::Settings,
    signals,
};
use waybill_publisher::{Manifest, Pruned};

use super::beside::{beside_relay, flushed, in_time};

/// What was made, as JSON.
#[derive(Serialize)]
struct Made {
    manifests: Vec<Manifest>,
    /// Whether their messages are sent.
    sent: bool,
}

pub(crate) async fn manifest(common: &Common, settings: &Settings) -> anyhow::Result<Outcome> {
    let publisher = settings.publisher(common.local.as_deref()).await?;
    let (made, sent) = beside_relay(&publisher, "making manifests", async |stop| {
        let made = tokio::select! {
            made = publisher.make_manifests() => made?,
            () = stop.cancelled() => bail!("stopped; what was begun is made by the next run"),
        };
        let ids: Vec<&str> = made.iter().map(|manifest| manifest.export.export_id.as_str()).collect();
        let sent = flushed(&publisher, settings, &ids, stop).await?;
        Ok((made, sent))
    })
    .await?;
    let outcome = if sent { Outcome::Done } else { Outcome::Failed };
    if common.format == Format::Json {
        json(&Made { manifests: made, sent })?;
        return Ok(outcome);
    }
    if made.is_empty() {
        line(format_args!("nothing that is sent or void waits to be named"))?;
    }
    for Manifest { blob_type, first, last, void, export, .. } in &made {
        let void = if *void == 0 { String::new() } else { format!(", {} void", count(*void)) };
        line(format_args!("{blob_type}: {} to {}{void}: {}", count(*first), count(*last), export.uri))?;
    }
    if !sent {
        let counts = in_time(publisher.status()).await.map(|status| status.counts);
        let left = counts.map_or_else(|| "messages".to_owned(), |counts| many(counts.uploaded, "message"));
        line(format_args!("{left} still in the outbox; `waybill-publisher run` sends what is there"))?;
    }
    Ok(outcome)
}

/// As JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    dry_run: bool,
    #[serde(flatten)]
    pruned: Pruned,
}

pub(crate) async fn prune(common: &Common, settings: &Settings, dry_run: bool) -> anyhow::Result<Outcome> {
    let publisher = settings.publisher(common.local.as_deref()).await?;
    let stop = CancellationToken::new();
    let pruned = tokio::select! {
        pruned = publisher.prune(dry_run) => pruned?,
        // What is under way may not answer; a file without its blob is forgotten the next time.
        () = stop.cancelled() => bail!("stopped; what is gone stays gone, say it again for the rest"),
        listening = signals::listen(stop.clone(), "say it again for the rest") => {
            listening.context("cannot listen to signals")?;
            unreachable!("listening ends with the process");
        }
    };
    let outcome = if pruned.kept > 0 { Outcome::Quarantined } else { Outcome::Done };
    if common.format == Format::Json {
        json(&Said { dry_run, pruned })?;
        return Ok(outcome);
    }
    let Pruned { exports, blobs, bytes, unnamed, kept, problem, .. } = pruned;
    line(format_args!(
        "{}: {} with {}, {}",
        if dry_run { "would go" } else { "gone" },
        many(exports, "export"),
        many(blobs, "blob"),
        many(bytes, "byte")
    ))?;
    if unnamed > 0 {
        line(format_args!(
            "{} whose term is over stay, because no manifest that is sent names them: `waybill-publisher manifest`",
            many(unnamed, "export")
        ))?;
    }
    if kept > 0 {
        let problem = problem.unwrap_or_default();
        line(format_args!(
            "{} cannot be deleted and stay with their exports, the first: {problem}; `show ID` tells of each when `run` tries it again",
            many(kept, "blob")
        ))?;
    }
    Ok(outcome)
}
