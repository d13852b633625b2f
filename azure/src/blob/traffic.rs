//! What goes to storage and comes from it, counted below everything else, so that each try counts.

use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::Response;

use crate::http::NoAnswer;

/// Counters of requests to storage. Give one to a [`Container`](super::Container) with
/// [`counting`](super::Container::counting); several may share it.
#[derive(Debug, Default)]
pub struct Traffic {
    requests: AtomicU64,
    failed: AtomicU64,
    received_bytes: AtomicU64,
}

impl Traffic {
    /// Requests that were sent, each try by itself.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Those among them that had no answer, or a refusal.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Bytes of blobs and listings that came.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn request(&self, answer: Result<Response, NoAnswer>) -> Result<Response, NoAnswer> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if answer.as_ref().map_or(true, |response| !response.status().is_success()) {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        answer
    }

    pub(super) fn came(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
