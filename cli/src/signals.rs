//! SIGTERM and Ctrl-C stop in stages; the second one ends at once.

use tokio_util::sync::CancellationToken;

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
