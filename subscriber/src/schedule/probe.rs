//! Storage is looked at after an outage, for as long as there is no file that would show whether it works again: another replica
//! may take all that come.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::circuit::Circuit;
use crate::fetch::Storage;

const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK_PATIENCE: Duration = Duration::from_secs(10);

/// Looks every few seconds, until `stop`; asks nothing while all is well, nor before the pause of an outage is over.
pub(crate) async fn look_at(storage: &Storage, circuit: &Circuit, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        let look = async {
            sleep(LOOK_EVERY).await;
            if circuit.in_trouble()
                && circuit.closed_in().is_zero()
                && timeout(LOOK_PATIENCE, storage.answers()).await == Ok(true)
            {
                circuit.answered();
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = look => {}
        }
    }
}
