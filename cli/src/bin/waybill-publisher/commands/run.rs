//! `run`: what waits in the outbox is sent.

use std::time::Instant;

use anyhow::Context;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{count, json, line, many},
    progress, signals,
};
use waybill_publisher::{Publisher, RelayState, outbox::Counts};

use crate::settings::Settings;

/// What a run did, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    sent: u64,
    waiting: u64,
    seconds: f64,
}

pub(crate) async fn run(common: &Common, settings: &Settings) -> anyhow::Result<Outcome> {
    let publisher = settings.publisher(common.local.as_deref()).await?;
    let began = Instant::now();
    let before = publisher.status().await?.counts;
    if common.format == Format::Text {
        eprintln!("{} to send in {}", many(before.uploaded, "message"), settings.outbox_path().display());
    }
    let stop = CancellationToken::new();
    let done = CancellationToken::new();
    let work = async {
        publisher.run(stop.clone()).await;
        done.cancel();
    };
    let (latest, counting) = watch_counts(&publisher, before, done.clone());
    let progress_now = || {
        let now = *latest.borrow();
        let sent = now.sent.saturating_sub(before.sent);
        format!("{} sent, {} waiting{}", count(sent), count(now.uploaded), relay_line(&publisher))
    };
    tokio::select! {
        _ = async { tokio::join!(work, counting, progress::show(progress_now, done.clone())) } => {}
        listening = signals::listen(stop.clone(), "the broker's answers are waited for") => {
            listening.context("cannot listen to signals")?;
            unreachable!("listening ends with the process");
        }
    }
    let after = publisher.status().await?.counts;
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
pub(crate) fn relay_line(publisher: &Publisher) -> String {
    match &*publisher.relay().borrow() {
        RelayState::Waiting { problem, .. } => format!("; the bus cannot be used: {problem}"),
        RelayState::Standby => "; another process sends this outbox's messages".to_owned(),
        RelayState::Stopped | RelayState::Attached => String::new(),
    }
}

/// The counts, read every second until `done`: a line of progress cannot wait for a database.
fn watch_counts(
    publisher: &Publisher,
    first: Counts,
    done: CancellationToken,
) -> (tokio::sync::watch::Receiver<Counts>, impl Future<Output = ()>) {
    let (sender, receiver) = tokio::sync::watch::channel(first);
    let counting = async move {
        loop {
            tokio::select! {
                () = done.cancelled() => return,
                () = tokio::time::sleep(std::time::Duration::from_secs(1)) => {}
            }
            // An outbox that cannot be read now is the relay's to report.
            if let Ok(status) = publisher.status().await {
                sender.send_replace(status.counts);
            }
        }
    };
    (receiver, counting)
}
