//! What a subscriber says of itself at `/health/live`, `/health/ready` and `/metrics`.

use std::{
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use crate::{
    health::{self, Serving, Told},
    metrics::{
        self,
        subscriber::{NotBegun, Snapshot},
    },
    work::Local,
};
use serde_json::{Value, json};
use tokio::time::timeout;

/// How long the inbox may take to say what waits; without it the page has all but that.
const BACKLOG_PATIENCE: Duration = Duration::from_secs(5);

/// A subscriber that is asked.
#[derive(Debug, Clone)]
pub struct Asked(pub Local);

/// A program whose subscriber is not there yet, because its inbox is not.
#[derive(Debug, Clone, Default)]
pub struct Beginning(Arc<Begin>);

#[derive(Debug, Default)]
struct Begin {
    subscriber: OnceLock<Local>,
    /// Why there is none.
    problem: Mutex<Option<String>>,
}

impl Beginning {
    /// Begins to answer at this address, if there is one.
    ///
    /// # Errors
    /// As [`health::serve`].
    pub async fn serve(&self, address: Option<&str>) -> anyhow::Result<Option<Serving>> {
        health::serve("waybill-subscriber", address, self.clone()).await
    }

    /// Why the inbox cannot be opened yet.
    pub fn inbox_is_not_there(&self, problem: &str) {
        *self.0.problem.lock().expect("no panic while it is held") = Some(problem.to_owned());
    }

    /// From now on it is the subscriber that answers.
    pub fn begun(&self, subscriber: &Local) {
        drop(self.0.subscriber.set(subscriber.clone()));
    }

    fn asked(&self) -> Option<Asked> {
        self.0.subscriber.get().cloned().map(Asked)
    }
}

impl Told for Beginning {
    fn live(&self) -> (bool, Value) {
        match self.asked() {
            Some(asked) => asked.live(),
            None => (true, json!({ "live": true, "stuck": [] })),
        }
    }

    fn ready(&self) -> (bool, Value) {
        if let Some(asked) = self.asked() {
            return asked.ready();
        }
        let problem = match &*self.0.problem.lock().expect("no panic while it is held") {
            Some(problem) => json!({ "part": "inbox", "problem": problem }),
            None => json!({ "part": "run", "problem": "it has not begun" }),
        };
        (false, json!({ "ready": false, "stuck": [], "problems": [problem] }))
    }

    async fn page(&self) -> String {
        match self.asked() {
            Some(asked) => asked.page().await,
            None => metrics::page(NotBegun),
        }
    }
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
