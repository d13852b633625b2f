//! `run`: files become files of another type.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio_util::sync::CancellationToken;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{count, json, line, many},
    work::{check_grant, watch},
};
use waybill_publisher::RelayState;
use waybill_republish::figures::Figures;
use waybill_subscriber::inbox::{Pending, Wanted};

use crate::{
    PROGRAM, health,
    settings::{Republishing, Settings},
};

/// What a run did, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    messages: u64,
    messages_quarantined: u64,
    #[serde(flatten)]
    figures: Figures,
    waiting_for_a_later_try: u64,
    /// Exports whose messages are not sent yet.
    unsent: u64,
    seconds: f64,
}

pub(crate) async fn run(
    common: &Common,
    settings: &Settings,
    until_idle: Option<Duration>,
    health: Option<&str>,
) -> anyhow::Result<Outcome> {
    let republisher = settings.republisher(common.local.as_deref(), until_idle.is_some()).await?;
    let subscriber = republisher.subscriber();
    let _serving = health::serve(health.or(settings.health()), &republisher).await?;
    check_grant(PROGRAM, subscriber, until_idle.is_some()).await?;
    if common.format == Format::Text {
        for from in republisher.jobs().types() {
            eprintln!("{from} becomes {}", republisher.jobs().becomes(&from).unwrap_or_default());
        }
    }
    let began = Instant::now();
    let work = async |stop: CancellationToken| {
        republisher.run(stop).await;
        match &*republisher.publisher().relay().borrow() {
            RelayState::GaveUp(problem) => Err(anyhow::anyhow!("{problem}")),
            _ => Ok(()),
        }
    };
    let progress_now = || progress_line(&republisher);
    let pending = watch(PROGRAM, subscriber, &Wanted::default(), until_idle, true, progress_now, work).await?;
    summary(common, settings, &republisher, pending, began.elapsed()).await
}

fn progress_line(republisher: &Republishing) -> String {
    let Figures { files_republished, files_quarantined, rows, .. } = republisher.figures();
    let received = republisher.subscriber().receive_stats().received.load(Ordering::Relaxed);
    format!(
        "{} messages, {} files republished, {} quarantined, {} rows",
        count(received),
        count(files_republished),
        count(files_quarantined),
        count(rows.read())
    )
}

async fn summary(
    common: &Common,
    settings: &Settings,
    republisher: &Republishing,
    pending: Option<Pending>,
    took: Duration,
) -> anyhow::Result<Outcome> {
    let (received, letters) = (republisher.subscriber().receive_stats(), republisher.subscriber().dead_letter_stats());
    let of = |stats: &waybill_subscriber::receive::ReceiveStats| {
        (stats.received.load(Ordering::Relaxed), stats.quarantined.load(Ordering::Relaxed))
    };
    let ((messages, broken), (dead, broken_dead)) = (of(received), of(letters));
    let summary = Summary {
        messages: messages + dead,
        messages_quarantined: broken + broken_dead,
        figures: republisher.figures(),
        waiting_for_a_later_try: pending.map_or(0, |pending| pending.later),
        unsent: republisher.publisher().status().await?.counts.uploaded,
        seconds: took.as_secs_f64(),
    };
    let quarantined = summary.figures.files_quarantined + summary.messages_quarantined;
    let outcome = match (summary.waiting_for_a_later_try, quarantined) {
        (0, 0) => Outcome::Done,
        (0, _) => Outcome::Quarantined,
        // A script that waits for the outputs has to know that some are not there.
        (_, _) => Outcome::Failed,
    };
    if common.format == Format::Json {
        json(&summary)?;
        return Ok(outcome);
    }
    let Figures { files_republished, files_repeated, files_empty, rows, .. } = summary.figures;
    line(format_args!(
        "{}, {} republished in {:.1} s: {} passed, {} deleted, {} became deletions, {} left out",
        many(summary.messages, "message"),
        many(files_republished, "file"),
        summary.seconds,
        many(rows.rows_passed, "row"),
        count(rows.rows_deleted),
        count(rows.rows_unwanted),
        count(rows.rows_left_out)
    ))?;
    if files_repeated + files_empty > 0 {
        line(format_args!(
            "{} had been republished before, {} had no row that is wanted",
            many(files_repeated, "file"),
            count(files_empty)
        ))?;
    }
    if quarantined > 0 {
        line(format_args!(
            "quarantined: {}; {} says why",
            count(quarantined),
            settings.looking("waybill-subscriber list --state quarantined")
        ))?;
    }
    if summary.waiting_for_a_later_try > 0 {
        line(format_args!(
            "waiting for a later try: {}; {} says why",
            many(summary.waiting_for_a_later_try, "file"),
            settings.looking("waybill-subscriber list --state saved")
        ))?;
    }
    if summary.unsent > 0 {
        line(format_args!("not sent yet: {}; the next run sends what waits", many(summary.unsent, "message")))?;
    }
    Ok(outcome)
}
