//! How many connections are served at once: when the house is full, whoever has waited longest for nothing gives its place to
//! the next one.

use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

/// Waits until one more connection can be served; false when all stops. While `most` are open it asks one to leave
/// (`dismiss`, false when none can be asked), or waits for an end or for one that can (`one_can`).
pub(crate) async fn room_for_one<F: Future<Output = ()>>(
    connections: &mut JoinSet<()>,
    most: usize,
    mut dismiss: impl FnMut() -> bool,
    one_can: impl Fn() -> F,
    stop: &CancellationToken,
) -> bool {
    while connections.len() >= most {
        let dismissed = dismiss();
        tokio::select! {
            () = stop.cancelled() => return false,
            Some(ended) = connections.join_next() => report(ended),
            () = one_can(), if !dismissed => {}
        }
    }
    true
}

/// A connection's task has ended; a panic in one is a defect that somebody should hear of.
pub(crate) fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task panicked; this is a defect of waybill-local");
    }
}
