//! `prune`: what is over is forgotten, and what that means is said.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;
use time::OffsetDateTime;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{json, line, many},
    settings::subscriber::Settings,
};
use waybill_subscriber::{
    cache::{CacheOptions, CacheUse, prune_cache},
    inbox::{Inbox, Pruned, Retention, prune as prune_all},
};

/// As JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    dry_run: bool,
    #[serde(flatten)]
    pruned: Pruned,
    /// Copies of files, where there is a cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<CacheUse>,
}

/// `flags` go before what is configured.
pub(crate) async fn prune(
    common: &Common,
    settings: &Settings,
    flags: Retention,
    dry_run: bool,
) -> anyhow::Result<Outcome> {
    let configured = settings.retention();
    let or = |flag: Option<Duration>, configured| flag.or(configured);
    let retention = Retention {
        history: or(flags.history, configured.history),
        files: or(flags.files, configured.files),
        identities: or(flags.identities, configured.identities),
    };
    let cache = settings.cache()?;
    if retention.is_for_ever() && cache.is_none() {
        bail!(
            "nothing is to go: say for how long it is kept with --history 30d, --files 365d or --identities 1000d, or under \
             [subscriber.retention]; there is no [subscriber.cache] to clear up either"
        );
    }
    let pruned = match (retention.is_for_ever(), dry_run) {
        (true, _) => Pruned::default(),
        (false, true) => settings.existing_inbox().await?.prunable(&retention).await?,
        (false, false) => prune_all(&settings.inbox_to_change().await?, &retention, |_| {}).await?,
    };
    let clear_up = |options: CacheOptions| {
        prune_cache(&options, OffsetDateTime::now_utc(), dry_run)
            .with_context(|| format!("cannot look through the cache in {}", options.dir.display()))
    };
    let cache = cache.map(clear_up).transpose()?;
    if common.format == Format::Json {
        json(&Said { dry_run, pruned, cache })?;
        return Ok(Outcome::Done);
    }
    let gone = if dry_run { "would go" } else { "gone" };
    if !retention.is_for_ever() {
        line(format_args!(
            "{gone}: {} of history, {}, {} of files that went before",
            many(pruned.history, "line"),
            many(pruned.files, "file"),
            many(pruned.identities, "key")
        ))?;
    }
    if let Some(CacheUse { copies, bytes }) = cache {
        line(format_args!(
            "{gone}: {} in the cache, {}",
            if copies == 1 { "1 copy".to_owned() } else { format!("{copies} copies") },
            many(bytes, "byte")
        ))?;
    }
    if pruned.replayable > 0 {
        let verb = if dry_run { "would be" } else { "is" };
        line(format_args!(
            "the blobs of {} may still be there: no `replay` and no `rebuild` {verb} complete without them, and a sink that \
             loses them does not get them again",
            many(pruned.replayable, "done file")
        ))?;
    }
    Ok(Outcome::Done)
}
