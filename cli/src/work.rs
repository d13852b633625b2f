//! A subscriber at work, watched until it is idle or somebody stops it.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use tokio_util::sync::CancellationToken;
use waybill_azure::GrantError;
use waybill_subscriber::{
    Subscriber,
    inbox::{AnyInbox, Pending, Wanted},
};

use crate::{progress, signals};

/// Where somebody waits for the end, how long the bus, TenantService, the inbox and, at the start, the sink may be out of reach
/// before we give up.
pub const CONTACT_PATIENCE: Duration = Duration::from_secs(30);

/// What a signal is answered with.
pub const FINISHING: &str = "files under way finish first";

/// With its inbox here or in a database.
pub type Local = Subscriber<AnyInbox>;

/// A wrong credential shows at once. An outage is waited out, except where a script waits for the end.
///
/// # Errors
/// What TenantService refused, or that it was out of reach for too long.
pub async fn check_grant(program: &str, subscriber: &Local, impatient: bool) -> anyhow::Result<()> {
    let (began, mut told) = (Instant::now(), false);
    loop {
        match subscriber.check_grant().await {
            Ok(()) => return Ok(()),
            Err(error @ GrantError::Unavailable { .. }) => {
                if impatient && !told {
                    eprintln!("{program}: {error}; trying for {} s", CONTACT_PATIENCE.as_secs());
                    told = true;
                }
                if impatient && began.elapsed() > CONTACT_PATIENCE {
                    return Err(error).context("TenantService is out of reach");
                }
                if !impatient {
                    eprintln!("{program}: {error}; going on, and trying again");
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Returns when no link to the bus has been attached for [`CONTACT_PATIENCE`], at the start or since it was lost.
async fn out_of_reach(program: &str, subscriber: &Local) {
    let (mut attached_at, mut told) = (Instant::now(), false);
    while attached_at.elapsed() < CONTACT_PATIENCE {
        if subscriber.receive_stats().attached.load(Ordering::Relaxed) > 0 {
            (attached_at, told) = (Instant::now(), false);
        } else if !told && let Some(why) = subscriber.receive_stats().problem() {
            eprintln!("{program}: {why}; trying for {} s", CONTACT_PATIENCE.as_secs());
            told = true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Runs `work` until a signal, or until idle, and shows progress meanwhile. What was pending then is known only in the latter
/// case.
///
/// # Errors
/// As [`watch_until`].
pub async fn watch(
    program: &str,
    subscriber: &Local,
    wanted: &Wanted,
    until_idle: Option<Duration>,
    receiving: bool,
    progress_line: impl Fn() -> String,
    work: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<()>,
) -> anyhow::Result<Option<Pending>> {
    signals::heeded(FINISHING, async |stop| {
        watch_until(&stop, program, subscriber, wanted, until_idle, receiving, progress_line, work).await
    })
    .await
}

/// The same, for whoever heeds signals itself: until `stop`, or until idle.
///
/// # Errors
/// What ended the work, the inbox, or that the bus was out of reach for too long while a script waits for the end.
#[allow(clippy::too_many_arguments, reason = "each is a word of what is watched")]
pub async fn watch_until(
    stop: &CancellationToken,
    program: &str,
    subscriber: &Local,
    wanted: &Wanted,
    until_idle: Option<Duration>,
    receiving: bool,
    progress_line: impl Fn() -> String,
    work: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<()>,
) -> anyhow::Result<Option<Pending>> {
    let idle = async {
        match until_idle {
            None => {
                stop.cancelled().await;
                Ok(None)
            }
            Some(quiet) => {
                let idle = subscriber.until_idle(wanted, quiet, receiving, stop);
                tokio::pin!(idle);
                let patience = async {
                    if !receiving {
                        std::future::pending::<()>().await;
                    }
                    out_of_reach(program, subscriber).await;
                };
                let pending = tokio::select! {
                    pending = &mut idle => pending,
                    () = patience => {
                        stop.cancel();
                        let why = subscriber.receive_stats().problem().map(|why| format!(": {why}")).unwrap_or_default();
                        bail!("the bus was out of reach for {} s; nothing was received{why}", CONTACT_PATIENCE.as_secs());
                    }
                };
                stop.cancel();
                Ok(Some(pending?))
            }
        }
    };
    let done = CancellationToken::new();
    let all = async {
        let work = async {
            let result = work(stop.clone()).await;
            // A run that ended by itself ends the watch for idleness too.
            stop.cancel();
            result
        };
        let (worked, pending) = tokio::join!(work, idle);
        done.cancel();
        worked?;
        pending
    };
    let (pending, ()) = tokio::join!(all, progress::show(progress_line, done.clone()));
    pending
}
