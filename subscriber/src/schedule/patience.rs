//! Rows that wait for a parent do not wait for ever: the sink is asked now and then, though no file comes.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::WorkStats;
use crate::{
    grants::jittered,
    sink::{Sink, WaitsEnded},
};

/// A sink that does not answer is asked again after this.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Ends waits that have lasted long enough, until `stop`; at once where no wait ever ends by itself. A transaction under way
/// is finished first.
pub(crate) async fn end_waits(sink: &impl Sink, stats: &WorkStats, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        let pause = match sink.end_waits().await {
            Ok(WaitsEnded { applied, bad, again_in }) => {
                WorkStats::add(&stats.released, applied);
                WorkStats::add(&stats.bad_rows, bad);
                if applied + bad > 0 {
                    tracing::warn!(
                        applied,
                        quarantined = bad,
                        "rows waited for their parents longer than max_wait allows"
                    );
                }
                let Some(again_in) = again_in else { return };
                again_in
            }
            Err(error) => {
                tracing::warn!(%error, "rows that waited too long were not looked for; trying again");
                jittered(AFTER_FAILURE)
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
