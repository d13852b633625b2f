//! `[subscriber.tenant]`: where TenantService is, and how we show it who we are.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    local,
    settings::{self, Hidden, entra::Entra},
};
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use url::Url;
use waybill_azure::{
    Secret,
    http::{HttpClient, HttpOptions},
};
use waybill_contracts::{GrantLayout, ReadyFile};
use waybill_subscriber::grants::Credential;

const SECTION: &str = "[subscriber.tenant.entra]";

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tenant {
    /// TenantService's base address.
    url: Option<Url>,
    /// A fixed bearer token; from the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    bearer_token: Option<Hidden>,
    /// A file that holds it.
    bearer_token_file: Option<PathBuf>,
    /// Where TenantService's answer holds each field.
    pub(super) layout: GrantLayout,
    entra: Entra,
}

/// Where grants come from, and with what.
#[derive(Debug)]
pub struct Reached {
    /// TenantService's.
    pub url: Url,
    /// Ours.
    pub credential: Credential,
    /// Whom to trust besides the system's authorities.
    pub ca_file: Option<PathBuf>,
}

impl Tenant {
    /// Whether it has what a ready file would take the place of.
    pub(super) fn names_another(&self) -> bool {
        self.url.is_some() || self.bearer_token.is_some() || self.bearer_token_file.is_some()
    }

    /// From the ready file of a running `local`, or from the settings.
    pub(super) async fn reach(&self, local: Option<&Path>, ca_file: Option<&PathBuf>) -> anyhow::Result<Reached> {
        let ready = match local {
            Some(path) => Some(local::ready_file(path).await?),
            None => None,
        };
        let ca_file = ca_file.cloned().or(ready.as_ref().and_then(|ready| ready.ca_file.as_ref()).map(PathBuf::from));
        let url = match (&ready, &self.url) {
            (Some(ready), _) => Url::parse(&ready.tenant_url).context("the ready file's tenantUrl")?,
            (None, Some(url)) => url.clone(),
            (None, None) => bail!(
                "no tenant: set `url` under [subscriber.tenant] in {}, or WAYBILL_SUBSCRIBER__TENANT__URL, \
                 or use --local READY_FILE with a running waybill-local",
                settings::DEFAULT_FILE
            ),
        };
        let credential = self.credential(&url, ready, ca_file.as_ref())?;
        Ok(Reached { url, credential, ca_file })
    }

    fn credential(&self, url: &Url, ready: Option<ReadyFile>, ca_file: Option<&PathBuf>) -> anyhow::Result<Credential> {
        let direct = self.bearer_token.as_ref().map(Hidden::show);
        let bearer = settings::secret("the tenant's bearer token", direct, self.bearer_token_file.as_deref())?;
        match (bearer, self.entra.is_set_up(), ready) {
            (Some(_), true, _) => {
                bail!("[subscriber.tenant] has a bearer token and [subscriber.tenant.entra]; leave one of them out")
            }
            (_, true, ready) => {
                let http = HttpClient::new(&HttpOptions { ca_file: ca_file.cloned(), ..HttpOptions::default() })?;
                let scope = self.entra.scope.clone().or_else(|| ready.as_ref()?.tenant_scope.clone());
                let scope = scope.with_context(|| {
                    format!("{SECTION} has no `scope`; it is TenantService's, as in api://…/.default")
                })?;
                let [tokens] = self.entra.tokens(SECTION, &http, [&scope], ready.as_ref())?;
                Ok(Credential::Entra(Arc::new(tokens)))
            }
            (_, false, Some(ready)) => Ok(Credential::Bearer(Secret::new(ready.bearer_token))),
            (Some(bearer), false, None) => Ok(Credential::Bearer(Secret::new(bearer))),
            (None, false, None) => bail!(
                "no credential for {url}: set up [subscriber.tenant.entra] with a certificate, a secret or a managed identity; \
                 or for development WAYBILL_SUBSCRIBER__TENANT__BEARER_TOKEN, or `bearer_token_file` under [subscriber.tenant]"
            ),
        }
    }
}
