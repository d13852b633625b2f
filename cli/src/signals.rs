//! SIGTERM and Ctrl-C stop in stages; the second one ends at once.

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

/// Does `work`, whose token is cancelled at the first signal; `first` tells what is still done then. At the second the process ends.
///
/// # Errors
/// What the work came to, or that signals cannot be listened to.
pub async fn heeded<T>(
    first: &str,
    work: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let stop = CancellationToken::new();
    tokio::select! {
        done = work(stop.clone()) => done,
        listening = listen(stop.clone(), first) => {
            listening.context("cannot listen to signals")?;
            unreachable!("listening ends with the process");
        }
    }
}

/// Cancels `stop` at the first signal; `first` tells what is still done. At the second the process ends as if it had
/// crashed, which loses nothing.
///
/// # Errors
/// When signals cannot be listened to.
pub async fn listen(stop: CancellationToken, first: &str) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut wait = async || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    wait().await;
    eprintln!("stopping; {first} (again to end at once)");
    stop.cancel();
    wait().await;
    std::process::exit(130);
}
