//! `run`: what is committed to the change log is published, and what waits in the outbox is sent.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    health::publisher as health,
    output::{count, json, line, many},
    progress,
    settings::publisher::Settings,
    signals,
};
use waybill_publisher::{
    FollowState, Publisher, RelayState,
    outbox::{AnyOutbox, Counts},
};

use super::beside::in_time;

/// What a run did, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    sent: u64,
    waiting: u64,
    seconds: f64,
}

pub(crate) async fn run(common: &Common, settings: &Settings, health: Option<&str>) -> anyhow::Result<Outcome> {
    let options = settings.follow_options()?;
    let log = settings.change_log().await?;
    let publisher = settings.publisher(common.local.as_deref()).await?;
    let _serving = health::serve(health.or(settings.health()), &publisher, log.as_ref()).await?;
    let began = Instant::now();
    let before = publisher.status().await?.counts;
    if common.format == Format::Text {
        eprintln!("{} to send in {}", many(before.uploaded, "message"), publisher.outbox().shown());
        if let Some(log) = &log {
            eprintln!("publishing what is committed to {}", log.shown());
        }
    }
    let stop = CancellationToken::new();
    let done = CancellationToken::new();
    let follow = async {
        let Some(log) = &log else { return Ok(()) };
        // It ends by itself only when a person has to help: then there is nothing more to do here.
        let ended = publisher.follow(log, options, stop.clone()).await;
        stop.cancel();
        ended
    };
    let work = async {
        let run = async {
            publisher.run(stop.clone()).await;
            stop.cancel();
        };
        let ((), followed) = tokio::join!(run, follow);
        done.cancel();
        followed
    };
    let (latest, counting) = watch_counts(&publisher, before, done.clone());
    let progress_now = || {
        let now = *latest.borrow();
        let sent = now.sent.saturating_sub(before.sent);
        let (relay, follow) = (relay_line(&publisher), follow_line(&publisher));
        format!("{} sent, {} waiting{relay}{follow}", count(sent), count(now.uploaded))
    };
    let followed = tokio::select! {
        (followed, (), ()) = async { tokio::join!(work, counting, progress::show(progress_now, done.clone())) } => followed,
        listening = signals::listen(stop.clone(), "the broker's answers are waited for") => {
            listening.context("cannot listen to signals")?;
            unreachable!("listening ends with the process");
        }
    };
    followed?;
    if let RelayState::GaveUp(problem) = &*publisher.relay().borrow() {
        bail!("{problem}");
    }
    // A database that does not answer holds up no stop: then what was known last is told.
    let after = in_time(publisher.status()).await.map_or_else(|| *latest.borrow(), |status| status.counts);
    let summary = Summary {
        sent: after.sent.saturating_sub(before.sent),
        waiting: after.uploaded,
        seconds: began.elapsed().as_secs_f64(),
    };
    if common.format == Format::Json {
        json(&summary)?;
    } else {
        line(format_args!("{} sent, {} waiting", count(summary.sent), count(summary.waiting)))?;
    }
    Ok(Outcome::Done)
}

/// What keeps the relay from sending, for a line of progress.
pub(crate) fn relay_line(publisher: &Publisher<AnyOutbox>) -> String {
    match &*publisher.relay().borrow() {
        RelayState::Waiting { problem, .. } => format!("; the bus cannot be used: {problem}"),
        RelayState::NoOutbox(problem) => format!("; the outbox cannot be used: {problem}"),
        RelayState::GaveUp(problem) => format!("; {problem}"),
        RelayState::Standby => "; another process sends this outbox's messages".to_owned(),
        RelayState::Stopped | RelayState::Attached => String::new(),
    }
}

/// What keeps the log from being published, for a line of progress.
fn follow_line(publisher: &Publisher<AnyOutbox>) -> String {
    match &*publisher.following().borrow() {
        FollowState::Waiting(problem) => format!("; changes wait: {problem}"),
        FollowState::Standby => "; another publisher follows the change log".to_owned(),
        FollowState::Stopped | FollowState::Active => String::new(),
    }
}

/// The counts, read every second until `done`: a line of progress cannot wait for a database.
fn watch_counts(
    publisher: &Publisher<AnyOutbox>,
    first: Counts,
    done: CancellationToken,
) -> (tokio::sync::watch::Receiver<Counts>, impl Future<Output = ()>) {
    let (sender, receiver) = tokio::sync::watch::channel(first);
    let counting = async move {
        loop {
            tokio::select! {
                () = done.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
            }
            tokio::select! {
                () = done.cancelled() => return,
                // An outbox that cannot be read now is the relay's to report.
                status = publisher.status() => if let Ok(status) = status {
                    sender.send_replace(status.counts);
                },
            }
        }
    };
    (receiver, counting)
}
