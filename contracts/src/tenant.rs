//! What TenantService answers at `/api/external/integration/export/temporaryendpoints`: the default shape, which the
//! public description leaves open, and where to find each field when a service uses another one.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// The path of the grants call, below TenantService's base address.
pub const TEMPORARY_ENDPOINTS_PATH: &str = "/api/external/integration/export/temporaryendpoints";

/// The answer in its default shape, read through a [`GrantLayout`]. Either part may be a list in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TemporaryEndpoints {
    /// Where messages are received. At least one of both lists is not empty.
    pub service_bus: Vec<BusEndpoint>,
    /// Where files are fetched.
    pub blob_storage: Vec<BlobEndpoint>,
}

/// A namespace, an entity in it and the token for it. `Debug` shows no token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BusEndpoint {
    /// `sb://…` or `amqps://…` (TLS), or `amqp://127.0.0.1:port` (plain, loopback only).
    pub endpoint: String,
    /// `exports/subscriptions/acme`.
    pub entity_path: String,
    /// `SharedAccessSignature sr=…&sig=…&se=…&skn=…`.
    pub sas_token: String,
    /// When the token dies; taken from `se=` when the answer does not say.
    #[serde(with = "time::serde::rfc3339::option", default)]
    pub expires_at: Option<OffsetDateTime>,
}

/// A blob endpoint, a container in it and the token for it. `Debug` shows no token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobEndpoint {
    /// `https://account.blob.core.windows.net` or `http://127.0.0.1:port/account` (loopback only).
    pub endpoint: String,
    /// `batchtoprocess`.
    pub container: String,
    /// `sv=…&se=…&sr=c&sp=r&sig=…`, with or without a leading `?`.
    pub sas_token: String,
    /// When the token dies; taken from `se=` when the answer does not say.
    #[serde(with = "time::serde::rfc3339::option", default)]
    pub expires_at: Option<OffsetDateTime>,
}

/// Where each field stands in the answer, as RFC 6901 JSON pointers. The pointers of a part's fields are relative to
/// that part, so that the part may be one object or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrantLayout {
    /// Default `/serviceBus`.
    pub bus: String,
    /// Default `/endpoint`.
    pub bus_endpoint: String,
    /// Default `/entityPath`.
    pub bus_entity: String,
    /// Default `/sasToken`.
    pub bus_sas: String,
    /// Default `/expiresAt`; may be missing in the answer.
    pub bus_expires_at: String,
    /// Default `/blobStorage`.
    pub blob: String,
    /// Default `/endpoint`.
    pub blob_endpoint: String,
    /// Default `/container`.
    pub blob_container: String,
    /// Default `/sasToken`.
    pub blob_sas: String,
    /// Default `/expiresAt`; may be missing in the answer.
    pub blob_expires_at: String,
}

/// Where an answer is not as expected.
#[derive(Debug, thiserror::Error)]
#[error("TenantService's answer at {pointer}: {problem}")]
pub struct TenantError {
    pointer: String,
    problem: String,
}

impl Default for GrantLayout {
    fn default() -> Self {
        Self {
            bus: "/serviceBus".to_owned(),
            bus_endpoint: "/endpoint".to_owned(),
            bus_entity: "/entityPath".to_owned(),
            bus_sas: "/sasToken".to_owned(),
            bus_expires_at: "/expiresAt".to_owned(),
            blob: "/blobStorage".to_owned(),
            blob_endpoint: "/endpoint".to_owned(),
            blob_container: "/container".to_owned(),
            blob_sas: "/sasToken".to_owned(),
            blob_expires_at: "/expiresAt".to_owned(),
        }
    }
}

impl TemporaryEndpoints {
    /// Reads an answer.
    ///
    /// # Errors
    /// Names the JSON pointer that is missing or of the wrong type; never quotes a value.
    pub fn parse(body: &[u8], layout: &GrantLayout) -> Result<Self, TenantError> {
        todo!("{body:?} {layout:?}")
    }
}
