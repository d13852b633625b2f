//! Work that makes exports, while their messages are sent.

use std::time::Duration;

use anyhow::Context;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use waybill_cli::{progress, settings::publisher::Settings, signals};
use waybill_publisher::{
    FlushError, Publisher,
    outbox::{AnyOutbox, OutboxError},
};

use super::run::relay_line;

/// How long what is nearly done may take to finish after a stop: one that waits for a service that is gone would not end.
pub(super) const FINISH: Duration = Duration::from_secs(3);

/// How long an outbox is asked what became of the work.
const PATIENCE: Duration = Duration::from_secs(5);

/// What it answers once the work is done, if it does: one that does not holds up no end, and makes no failure of what is done.
pub(super) async fn in_time<T>(asked: impl Future<Output = Result<T, OutboxError>>) -> Option<T> {
    timeout(PATIENCE, asked).await.ok()?.ok()
}

/// Does the work beside a relay, with a line of progress. The work is told of the first signal, and has to end then.
pub(super) async fn beside_relay<T>(
    publisher: &Publisher<AnyOutbox>,
    doing: &str,
    work: impl AsyncFnOnce(&CancellationToken) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let (stop, over) = (CancellationToken::new(), CancellationToken::new());
    let work = async {
        let done = work(&stop).await;
        over.cancel();
        done
    };
    let progress_now = || format!("{doing}{}", relay_line(publisher));
    tokio::select! {
        (done, (), ()) = async {
            tokio::join!(work, publisher.run(over.clone()), progress::show(progress_now, over.clone()))
        } => done,
        listening = signals::listen(stop.clone(), "the broker's answers are waited for") => {
            listening.context("cannot listen to signals")?;
            unreachable!("listening ends with the process");
        }
    }
}

/// Waits until these exports are sent, or somebody stops it, or time is up; whether they are.
pub(super) async fn flushed(
    publisher: &Publisher<AnyOutbox>,
    settings: &Settings,
    export_ids: &[&str],
    stop: &CancellationToken,
) -> anyhow::Result<bool> {
    tokio::select! {
        flushed = publisher.flush_exports(export_ids, settings.send_timeout()) => match flushed {
            Ok(()) => Ok(true),
            Err(FlushError::Timeout { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        },
        () = stop.cancelled() => Ok(false),
    }
}
