//! Counts that tests and the admin endpoint read: requests, grants, and which tokens were seen, by a hash of them.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use http::StatusCode;
use serde::Serialize;

/// Counts of a process, kept while it lives.
#[derive(Debug, Default)]
pub struct Stats {
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    blob: BTreeMap<(&'static str, u16), u64>,
    blob_bytes_in: u64,
    blob_bytes_out: u64,
    grants: BTreeMap<String, GrantCounts>,
    grants_unknown: u64,
}

/// How often an operation ended with a status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobCount {
    /// Azure's name of the operation, or `Unknown`.
    pub operation: &'static str,
    /// The HTTP status. A body that was cut later still counts with the status that it began with; a request that was
    /// reset before its answer has 0.
    pub status: u16,
    /// How often.
    pub count: u64,
}

/// Requests of one tenant to TenantService.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GrantCounts {
    /// Requests with this tenant's bearer token.
    pub requests: u64,
    /// Those of them that were answered with a grant.
    pub issued: u64,
}

/// What the storage and tenant endpoints have counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counted {
    /// Blob requests by operation and status.
    pub blob: Vec<BlobCount>,
    /// Bytes of bodies that were kept.
    pub blob_bytes_in: u64,
    /// Bytes of blobs that were sent.
    pub blob_bytes_out: u64,
    /// By tenant; a tenant that never asked is missing.
    pub grants: BTreeMap<String, GrantCounts>,
    /// Requests to TenantService that no known bearer token came with.
    pub grants_unknown: u64,
}

impl Counted {
    /// Blob requests of this operation (Azure's name, `GetBlob`) that ended with this status.
    #[must_use]
    pub fn blob_requests(&self, operation: &str, status: u16) -> u64 {
        let found = self.blob.iter().find(|count| count.operation == operation && count.status == status);
        found.map_or(0, |count| count.count)
    }
}

impl Stats {
    /// The counts now.
    #[must_use]
    pub fn counted(&self) -> Counted {
        let counts = self.counts();
        Counted {
            blob: counts
                .blob
                .iter()
                .map(|(&(operation, status), &count)| BlobCount { operation, status, count })
                .collect(),
            blob_bytes_in: counts.blob_bytes_in,
            blob_bytes_out: counts.blob_bytes_out,
            grants: counts.grants.clone(),
            grants_unknown: counts.grants_unknown,
        }
    }

    /// Requests of a tenant to TenantService so far.
    #[must_use]
    pub fn grants(&self, tenant: &str) -> GrantCounts {
        self.counts().grants.get(tenant).copied().unwrap_or_default()
    }

    pub(crate) fn blob_request(&self, operation: &'static str, status: Option<StatusCode>) {
        let status = status.map_or(0, |status| status.as_u16());
        *self.counts().blob.entry((operation, status)).or_default() += 1;
    }

    pub(crate) fn blob_in(&self, bytes: u64) {
        self.counts().blob_bytes_in += bytes;
    }

    pub(crate) fn blob_out(&self, bytes: u64) {
        self.counts().blob_bytes_out += bytes;
    }

    /// Counts a request to TenantService; `tenant` is `None` when no known bearer token came with it.
    pub(crate) fn grant(&self, tenant: Option<&str>, issued: bool) {
        let mut counts = self.counts();
        match tenant {
            Some(tenant) => {
                let grants = counts.grants.entry(tenant.to_owned()).or_default();
                grants.requests += 1;
                grants.issued += u64::from(issued);
            }
            None => counts.grants_unknown += 1,
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counters only grow, so a panic elsewhere leaves nothing to repair.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
