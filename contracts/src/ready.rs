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
    /// With TLS: the certificate to trust, PEM, as an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
    /// With TLS: as `service_bus_connection_string`, over TLS: `Endpoint=sb://localhost:…;…` without
    /// `UseDevelopmentEmulator`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_bus_tls_connection_string: Option<String>,
    /// With TLS: AMQP over WebSocket, `wss://localhost:…/$servicebus/websocket`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_bus_web_socket_url: Option<String>,
    /// With TLS: base address of the token authority, in the place of `https://login.microsoftonline.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority_url: Option<String>,
    /// With TLS: what a client asks the authority for before it calls TenantService.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant_scope: Option<String>,
    /// With TLS: the applications that the authority knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clients: Vec<LocalClient>,
}

/// An application that the token authority of `local` knows. `Debug` does not show its secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalClient {
    /// The directory that it is registered in: the tenant id of credential libraries.
    pub directory_id: String,
    /// Its client id.
    pub client_id: String,
    /// The tenant that TenantService takes it for.
    pub tenant: String,
    /// Its certificate and, if it was made for this run, its key: PEM, as an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<String>,
    /// Its secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<String>,
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
            .field("ca_file", &self.ca_file)
            .field("authority_url", &self.authority_url)
            .field("clients", &self.clients)
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

impl fmt::Debug for LocalClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalClient")
            .field("directory_id", &self.directory_id)
            .field("client_id", &self.client_id)
            .field("tenant", &self.tenant)
            .field("certificate_file", &self.certificate_file)
            .finish_non_exhaustive()
    }
}
