//! What TLS brings: certificates, the token authority, and the files that clients need for them.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{net::TcpListener, task::spawn_blocking};
use waybill_contracts::{LocalClient, ReadyFile};

use super::{StartError, bind};
use crate::{
    authority::{Authority, client},
    broker::Now,
    config::Config,
    fault::Faults,
    files::OwnFiles,
    keys::{AccessTokens, Keys, Resource, SigningKey},
    tls::{Certificates, HOST},
};

pub(super) struct Secure {
    pub(super) certificates: Certificates,
    pub(super) tokens: Arc<AccessTokens>,
    assertions_once: bool,
    pub(super) authority_port: u16,
    url: String,
    ca_file: PathBuf,
    clients: Vec<LocalClient>,
    pub(super) files: OwnFiles,
    /// Where files go that nobody gave a place; removed with it.
    _directory: TempDir,
}

impl Secure {
    /// Makes certificates and keys, writes the files, and opens the authority's port.
    pub(super) async fn new(config: &Config) -> Result<(Self, TcpListener), StartError> {
        let tenant = config.tenants.first().map(|tenant| tenant.name.clone()).unwrap_or_default();
        let make = config.clients.is_empty();
        // An RSA key takes some tens of milliseconds, and credential libraries know no other kind. The one that signs tokens
        // is made when all is up.
        let made = spawn_blocking(move || make.then(|| client::make(&tenant)).transpose()).await;
        let made = made.expect("making keys does not panic")?;
        let certificates = Certificates::generate(config.host.as_deref())?;

        let directory = tempfile::Builder::new()
            .prefix("waybill-local-")
            .tempdir()
            .map_err(|source| file_error("directory for certificates", &std::env::temp_dir(), source))?;
        let files = OwnFiles::default();
        let write = |what, place: &Option<PathBuf>, name: &str, content: &str| {
            let path = place.clone().unwrap_or_else(|| directory.path().join(name));
            files.write(&path, content.as_bytes()).map_err(|source| file_error(what, &path, source))
        };
        let ca_file = write("certificate of the authority", &config.ca_file, "ca.pem", certificates.ca_pem())?;

        let mut applications = client::registered(config)?;
        let directory_id = config.authority.directory_id.to_lowercase();
        let mut clients = Vec::new();
        for (application, configured) in applications.iter().zip(&config.clients) {
            let file = configured.certificate_file.as_ref();
            let file =
                file.map(|file| std::path::absolute(file).unwrap_or_else(|_| file.clone()).display().to_string());
            clients.push(client::shown(application, &directory_id, file));
        }
        if let Some(made) = made {
            let file = write("certificate of the client", &config.client_file, "client.pem", &made.pem)?;
            clients.push(client::shown(&made.application, &directory_id, Some(file.display().to_string())));
            applications.push(made.application);
        }

        let (listener, authority_port) = bind(config.ports.authority, "the token authority", "authority").await?;
        let url = format!("https://{}:{authority_port}", config.host.as_deref().unwrap_or(HOST));
        let tokens = AccessTokens {
            issuer: format!("{url}/{directory_id}/v2.0"),
            directory: directory_id,
            key: SigningKey::lazy(),
            applications,
            life: Duration::from_secs(config.authority.access_token_life_s),
        };
        let secure = Self {
            certificates,
            tokens: Arc::new(tokens),
            assertions_once: config.authority.assertions_once,
            authority_port,
            url,
            ca_file,
            clients,
            files,
            _directory: directory,
        };
        Ok((secure, listener))
    }

    /// The token authority; `keys` takes its tokens from now on.
    pub(super) fn authority(&self, keys: &Arc<Keys>, faults: &Arc<Faults>, now: &Now) -> Arc<Authority> {
        let (tokens, url) = (Arc::clone(&self.tokens), self.url.clone());
        let authority =
            Authority::new(tokens, Arc::clone(keys), Arc::clone(faults), url, self.assertions_once, Arc::clone(now));
        Arc::new(authority)
    }

    /// Where clients that lack a token are sent.
    pub(super) fn authorization(&self) -> String {
        format!("{}/{}/oauth2/authorize", self.url, self.tokens.directory)
    }

    /// What the ready file says of it.
    pub(super) fn show(&self, ready: &mut ReadyFile) {
        ready.ca_file = Some(self.ca_file.display().to_string());
        ready.authority_url = Some(self.url.clone());
        ready.tenant_scope = Some(format!("{}/.default", Resource::TenantService.uri()));
        ready.clients.clone_from(&self.clients);
    }
}

fn file_error(what: &'static str, path: &Path, source: io::Error) -> StartError {
    StartError::File { what, path: path.display().to_string(), source }
}
