//! What a subscriber says of itself at `/health/live`, `/health/ready` and `/metrics`.

use std::time::Duration;

use crate::{
    health::{self, Serving, Told},
    metrics::{self, subscriber::Snapshot},
    work::Local,
};
use serde_json::{Value, json};
use tokio::time::timeout;

/// How long the inbox may take to say what waits; without it the page has all but that.
const BACKLOG_PATIENCE: Duration = Duration::from_secs(5);

/// A subscriber that is asked.
#[derive(Debug, Clone)]
pub struct Asked(pub Local);

/// Begins to answer at this address, if there is one.
///
/// # Errors
/// As [`health::serve`].
pub async fn serve(address: Option<&str>, subscriber: &Local) -> anyhow::Result<Option<Serving>> {
    health::serve("waybill-subscriber", address, Asked(subscriber.clone())).await
}

impl Asked {
    /// Its figures now.
    pub async fn snapshot(&self) -> Snapshot {
        let backlog = match timeout(BACKLOG_PATIENCE, self.0.backlog()).await {
            Ok(Ok(backlog)) => Some(backlog),
            // The health says what is wrong.
            Ok(Err(_)) | Err(_) => None,
        };
        Snapshot::of(&self.0, backlog)
    }
}

impl Told for Asked {
    fn live(&self) -> (bool, Value) {
        let health = self.0.health();
        (health.is_live(), json!({ "live": health.is_live(), "stuck": health.stuck }))
    }

    fn ready(&self) -> (bool, Value) {
        let health = self.0.health();
        let body = json!({ "ready": health.is_ready(), "stuck": health.stuck, "problems": health.problems });
        (health.is_ready(), body)
    }

    async fn page(&self) -> String {
        metrics::page(self.snapshot().await)
    }
}
