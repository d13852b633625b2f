//! Shared access signatures: signing them with a key, and reading when they die.
//!
//! # Sources
//! Microsoft, "Service Bus access control with Shared Access Signatures"; "Create a service SAS" (version 2021-12-02).

use time::OffsetDateTime;
use url::Url;

use crate::Secret;

/// Why a SAS cannot be read or made.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SasError(pub(crate) String);

/// What a key may do; informational for Service Bus, where the key itself has the rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "Azure's own words")]
pub enum BusRights {
    Send,
    Listen,
    Manage,
}

/// What a container SAS allows (`sp=`): read, create, write, delete, list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "Azure's own words")]
pub struct BlobPermissions {
    pub read: bool,
    pub create: bool,
    pub write: bool,
    pub delete: bool,
    pub list: bool,
}

/// Signs a Service Bus SAS for `resource` (`sb://host/exports`).
#[must_use]
pub fn bus_sas(resource: &str, key_name: &str, key: &Secret, expires_at: OffsetDateTime) -> Secret {
    todo!("{resource} {key_name} {key:?} {expires_at}")
}

/// Signs a service SAS for a container; the query without `?`. `starts_at` is left out when `None` (clock skew).
///
/// # Errors
/// When the account key is not base64.
pub fn blob_service_sas(
    account: &str,
    key: &Secret,
    container: &str,
    permissions: BlobPermissions,
    expires_at: OffsetDateTime,
    endpoint: &Url,
) -> Result<Secret, SasError> {
    todo!("{account} {key:?} {container} {permissions:?} {expires_at} {endpoint}")
}

/// When a SAS of either kind dies: `se=` as seconds since 1970 (bus) or ISO 8601 (blob).
///
/// # Errors
/// When there is no `se=`, or it is neither.
pub fn sas_expiry(sas: &Secret) -> Result<OffsetDateTime, SasError> {
    todo!("{sas:?}")
}
