//! Which token the bus uses, and which it must not use again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{error::Elapsed, timeout},
};

use super::BusError;
use crate::{Generation, Grant, Service, TokenSource};

/// The token source as all connections of one [`Bus`](super::Bus) see it.
#[derive(Debug)]
pub(super) struct Tokens {
    source: Arc<dyn TokenSource>,
    /// One more than the newest generation that the broker refused; 0 when it refused none.
    refused: AtomicU64,
}

impl Tokens {
    pub(super) fn new(source: Arc<dyn TokenSource>) -> Self {
        Self { source, refused: AtomicU64::new(0) }
    }

    pub(super) fn changes(&self) -> watch::Receiver<Generation> {
        self.source.changes()
    }

    /// The current grant, whether its token was refused or not.
    pub(super) async fn current(&self, limit: Duration) -> Result<Grant, BusError> {
        self.ask(None, limit).await
    }

    /// A grant whose token was not refused yet. Renews at most once per call of the caller, who keeps `renewed`: with
    /// `renewed` already set it gives the current one.
    pub(super) async fn usable(&self, renewed: &mut bool, limit: Duration) -> Result<Grant, BusError> {
        let grant = self.current(limit).await?;
        if *renewed || grant.generation.0 >= self.refused.load(Ordering::Acquire) {
            return Ok(grant);
        }
        *renewed = true;
        self.ask(Some(grant.generation), limit).await
    }

    async fn ask(&self, refused: Option<Generation>, limit: Duration) -> Result<Grant, BusError> {
        match timeout(limit, self.source.grant(Service::Bus, refused)).await {
            Ok(grant) => Ok(grant?),
            Err(Elapsed { .. }) => Err(BusError::Timeout { what: "getting a token", limit }),
        }
    }

    /// The broker refused this token.
    pub(super) fn refuse(&self, generation: Generation) {
        self.refused.fetch_max(generation.0.saturating_add(1), Ordering::AcqRel);
    }
}
