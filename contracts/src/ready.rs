//! The ready file: what `waybill-local run --ready-file PATH` writes when every service is up, and the `--local`
//! flag of the other binaries reads. Written under another name and renamed; removed on exit.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Every endpoint and credential of a running `local`. The credentials are development ones; `Debug` shows none. Fields
/// that a reader does not know are passed over.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadyFile {
    /// Namespace level, all rights: `Endpoint=sb://…;SharedAccessKeyName=…;SharedAccessKey=…;UseDevelopmentEmulator=true`.
    pub service_bus_connection_string: String,
    /// `DefaultEndpointsProtocol=…;AccountName=…;AccountKey=…;BlobEndpoint=…;`, the host spelt as in the grants.
    pub blob_connection_string: String,
    /// The topic that waybills go to; default `exports`.
    pub topic: String,
    /// The container that files go to; default `batchtoprocess`.
    pub container: String,
    /// Base address of TenantService, without the path of the grants call.
    pub tenant_url: String,
    /// The bearer token of the first tenant.
    pub bearer_token: String,
    /// Every tenant, in the order of the configuration.
    pub tenants: Vec<LocalTenant>,
    /// Base address of the endpoint for rotations and fault scripts.
    pub admin_url: String,
}

/// A tenant of `local`: one subscription and the token that TenantService knows it by, which `Debug` does not show.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalTenant {
    /// The tenant's name.
    pub name: String,
    /// What it shows TenantService in `Authorization: Bearer …`.
    pub bearer_token: String,
    /// Its subscription of the topic.
    pub subscription: String,
}

impl fmt::Debug for ReadyFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyFile")
            .field("topic", &self.topic)
            .field("container", &self.container)
            .field("tenant_url", &self.tenant_url)
            .field("tenants", &self.tenants)
            .field("admin_url", &self.admin_url)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for LocalTenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalTenant")
            .field("name", &self.name)
            .field("subscription", &self.subscription)
            .finish_non_exhaustive()
    }
}
