//! `replay`: files again, into another sink.

use std::time::Duration;

use anyhow::bail;
use waybill_cli::{
    args::Common,
    exit::Outcome,
    output::{count, many},
};
use waybill_subscriber::{
    inbox::{Inbox, Wanted},
    replay::{Copied, copy_files, coverage},
};

use super::work::{Say, check_grant, supervise, while_read};
use crate::settings::Settings;

/// Gaps that are printed.
const GAPS_PRINTED_MAX: usize = 10;

pub(crate) async fn replay(
    common: &Common,
    settings: &Settings,
    mut wanted: Wanted,
    complete: bool,
) -> anyhow::Result<Outcome> {
    let inbox = settings.existing_inbox().await?;
    if wanted.types.is_none() {
        wanted.types = settings.types().map(<[String]>::to_vec);
    }
    if complete {
        refuse_gaps(&inbox, &wanted).await?;
    }
    let copy = settings.replay_inbox().await?;
    let Copied { files, left_out } = copy_files(&inbox, &copy, &wanted).await?;
    if files == 0 {
        bail!("no file to replay; `waybill-subscriber list` shows what was received");
    }
    if left_out > 0 {
        eprintln!(
            "waybill-subscriber: left out, because they are quarantined or expired: {}; `waybill-subscriber list` says why",
            many(left_out, "file")
        );
    }
    let sink = settings.open_sink(&settings.read_entities()?).await?;
    let subscriber = settings.subscriber_on(copy, common.local.as_deref()).await?;
    check_grant(&subscriber, true).await?;
    let say = Say::beside(&sink);
    let outcome = supervise(common, &subscriber, &wanted, Some(Duration::ZERO), false, say, async |stop| {
        Ok(while_read(&sink, &stop, subscriber.process(sink.clone(), wanted.clone(), stop.clone())).await?)
    })
    .await?;
    let counts = subscriber.inbox().counts().await?;
    let open = counts.saved + counts.working;
    if open > 0 {
        bail!("{} could not be worked yet; begin the replay again, it goes on there", many(open, "file"));
    }
    Ok(if counts.quarantined + counts.expired > 0 { Outcome::Quarantined } else { outcome })
}

async fn refuse_gaps(inbox: &impl Inbox, wanted: &Wanted) -> anyhow::Result<()> {
    let coverage = coverage(inbox, wanted).await?;
    if coverage.is_complete() {
        return Ok(());
    }
    for gap in coverage.gaps.iter().take(GAPS_PRINTED_MAX) {
        eprintln!("waybill-subscriber: {gap}");
    }
    if coverage.gaps_found > GAPS_PRINTED_MAX as u64 {
        eprintln!("waybill-subscriber: and {} more", count(coverage.gaps_found - GAPS_PRINTED_MAX as u64));
    }
    bail!("the files are not provably all; nothing was done. Mend what is named above, or leave --complete out")
}
