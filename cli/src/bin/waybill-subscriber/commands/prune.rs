//! `prune`: what is over is forgotten, and what that means is said.

use std::time::Duration;

use anyhow::bail;
use serde::Serialize;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{json, line, many},
    settings::subscriber::Settings,
};
use waybill_subscriber::inbox::{Inbox, Pruned, Retention, prune as prune_all};

/// As JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Said {
    dry_run: bool,
    #[serde(flatten)]
    pruned: Pruned,
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
    if retention.is_for_ever() {
        bail!(
            "nothing is to go: say for how long it is kept with --history 30d, --files 365d or --identities 1000d, or under \
             [subscriber.retention]"
        );
    }
    let inbox = if dry_run { settings.existing_inbox().await? } else { settings.inbox_to_change().await? };
    let pruned =
        if dry_run { inbox.prunable(&retention).await? } else { prune_all(&inbox, &retention, |_| {}).await? };
    if common.format == Format::Json {
        json(&Said { dry_run, pruned })?;
        return Ok(Outcome::Done);
    }
    line(format_args!(
        "{}: {} of history, {}, {} of files that went before",
        if dry_run { "would go" } else { "gone" },
        many(pruned.history, "line"),
        many(pruned.files, "file"),
        many(pruned.identities, "key")
    ))?;
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
