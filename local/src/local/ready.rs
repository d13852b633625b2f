//! Where everything is, as the ready file and the grants say it.

use waybill_contracts::{LocalTenant, ReadyFile};

use crate::{
    config::{Config, Ports},
    keys::Keys,
    tenant::Tenant,
};

/// The addresses of a process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Addresses<'a> {
    pub(super) ports: Ports,
    /// With TLS: how clients name this machine.
    pub(super) tls_host: Option<&'a str>,
}

impl Addresses<'_> {
    /// The bus, as a grant names it.
    pub(super) fn bus(self) -> String {
        match self.tls_host {
            Some(host) => format!("sb://{host}:{}", self.ports.amqps),
            None => format!("amqp://127.0.0.1:{}", self.ports.amqp),
        }
    }

    /// The storage account.
    pub(super) fn blob(self, account: &str) -> String {
        format!("{}/{account}", self.http(self.ports.blob))
    }

    /// HTTPS with TLS, else HTTP.
    fn http(self, port: u16) -> String {
        match self.tls_host {
            Some(host) => format!("https://{host}:{port}"),
            None => format!("http://127.0.0.1:{port}"),
        }
    }
}

/// Everything but what only TLS brings.
pub(super) fn ready_file(config: &Config, keys: &Keys, addresses: Addresses<'_>, tenants: &[Tenant]) -> ReadyFile {
    let tenants: Vec<LocalTenant> = tenants
        .iter()
        .zip(&config.tenants)
        .map(|(tenant, configured)| LocalTenant {
            name: tenant.name.clone(),
            bearer_token: tenant.bearer_token.clone(),
            subscription: configured.subscription().to_owned(),
        })
        .collect();
    let Addresses { ports, tls_host } = addresses;
    let key = format!("SharedAccessKeyName={};SharedAccessKey={}", keys.bus_key_name(), keys.bus_key());
    ReadyFile {
        service_bus_connection_string: format!(
            "Endpoint=sb://127.0.0.1:{};{key};UseDevelopmentEmulator=true",
            ports.amqp
        ),
        blob_connection_string: format!(
            "DefaultEndpointsProtocol={};AccountName={};AccountKey={};BlobEndpoint={};",
            if tls_host.is_some() { "https" } else { "http" },
            keys.account(),
            keys.account_key(),
            addresses.blob(keys.account()),
        ),
        topic: config.topic.clone(),
        container: config.container.clone(),
        tenant_url: addresses.http(ports.tenant),
        bearer_token: tenants.first().map(|tenant| tenant.bearer_token.clone()).unwrap_or_default(),
        tenants,
        admin_url: format!("http://127.0.0.1:{}", ports.admin),
        ca_file: None,
        service_bus_tls_connection_string: tls_host.map(|host| format!("Endpoint=sb://{host}:{};{key}", ports.amqps)),
        service_bus_web_socket_url: tls_host.map(|host| format!("wss://{host}:{}/$servicebus/websocket", ports.amqps)),
        authority_url: None,
        tenant_scope: None,
        clients: Vec::new(),
    }
}
