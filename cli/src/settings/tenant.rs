//! `[subscriber.tenant]`: where TenantService is, and how we show it who we are.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{
    local,
    settings::{self, Hidden},
};
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use url::Url;
use waybill_azure::{
    Secret,
    http::{HttpClient, HttpOptions},
    identity::{AccessTokenOptions, AccessTokens, ClientCertificate, Identity, Signing},
};
use waybill_contracts::{GrantLayout, ReadyFile};
use waybill_subscriber::grants::Credential;

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

/// `[subscriber.tenant.entra]`: access tokens of Entra ID. One of certificate, secret, managed and workload identity.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Entra {
    /// TenantService's: `api://…/.default`.
    scope: Option<String>,
    /// Default `https://login.microsoftonline.com`.
    authority: Option<Url>,
    /// The directory (Entra tenant) of the application.
    directory_id: Option<String>,
    client_id: Option<String>,
    /// PEM or PKCS#12, with certificate and key; read again for each token.
    certificate_files: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_password: Option<Hidden>,
    certificate_password_file: Option<PathBuf>,
    /// `PS256` or `RS256`.
    signing: SigningName,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret: Option<Hidden>,
    client_secret_file: Option<PathBuf>,
    managed_identity: bool,
    workload_identity: bool,
    /// Of a pod; default what the cluster says.
    token_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
enum SigningName {
    #[default]
    #[serde(rename = "PS256")]
    Ps256,
    #[serde(rename = "RS256")]
    Rs256,
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
        let entra = self.entra != Entra::default();
        match (bearer, entra, ready) {
            (Some(_), true, _) => {
                bail!("[subscriber.tenant] has a bearer token and [subscriber.tenant.entra]; leave one of them out")
            }
            (_, true, ready) => {
                let http = HttpClient::new(&HttpOptions { ca_file: ca_file.cloned(), ..HttpOptions::default() })?;
                self.entra.tokens(http, ready).map(|tokens| Credential::Entra(Arc::new(tokens)))
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

impl Entra {
    /// What the settings leave open, a running `local` knows.
    fn tokens(&self, http: HttpClient, ready: Option<ReadyFile>) -> anyhow::Result<AccessTokens> {
        const SECTION: &str = "[subscriber.tenant.entra]";
        let known = ready.as_ref().and_then(|ready| ready.clients.first());
        let directory_id = self.directory_id.clone().or_else(|| known.map(|client| client.directory_id.clone()));
        let client_id = self.client_id.clone().or_else(|| known.map(|client| client.client_id.clone()));
        let scope = self.scope.clone().or_else(|| ready.as_ref()?.tenant_scope.clone());
        let authority = match (&self.authority, ready.as_ref().and_then(|ready| ready.authority_url.as_deref())) {
            (Some(authority), _) => Some(authority.clone()),
            (None, Some(url)) => Some(Url::parse(url).context("the ready file's authorityUrl")?),
            (None, None) => None,
        };
        let Some(scope) = scope else {
            bail!("{SECTION} has no `scope`; it is TenantService's, as in api://…/.default")
        };
        let secret = |what: &str, direct: Option<&Hidden>, file: Option<&Path>| {
            settings::secret(what, direct.map(Hidden::show), file).map(|text| text.map(Secret::new))
        };
        let client_secret =
            secret("the client's secret", self.client_secret.as_ref(), self.client_secret_file.as_deref())?;
        let password = secret(
            "the certificate's password",
            self.certificate_password.as_ref(),
            self.certificate_password_file.as_deref(),
        )?;
        let proofs = [
            !self.certificate_files.is_empty(),
            client_secret.is_some(),
            self.managed_identity,
            self.workload_identity,
        ];
        if proofs.into_iter().filter(|given| *given).count() != 1 {
            bail!(
                "{SECTION} needs one of `certificate_files`, `client_secret` (or `client_secret_file`), \
                 `managed_identity = true` and `workload_identity = true`"
            );
        }
        let needed = |value: Option<String>, key: &str| value.with_context(|| format!("{SECTION} has no `{key}`"));
        let identity = if self.managed_identity {
            Identity::Managed { client_id: self.client_id.clone() }
        } else if self.workload_identity {
            Identity::Workload {
                directory_id: self.directory_id.clone(),
                client_id: self.client_id.clone(),
                token_file: self.token_file.clone(),
            }
        } else {
            let (directory_id, client_id) = (needed(directory_id, "directory_id")?, needed(client_id, "client_id")?);
            match client_secret {
                Some(secret) => Identity::Secret { directory_id, client_id, secret },
                None => Identity::Certificate(ClientCertificate {
                    directory_id,
                    client_id,
                    files: self.certificate_files.clone(),
                    password,
                    signing: match self.signing {
                        SigningName::Ps256 => Signing::Ps256,
                        SigningName::Rs256 => Signing::Rs256,
                    },
                }),
            }
        };
        Ok(AccessTokens::new(http, identity, AccessTokenOptions { authority, ..AccessTokenOptions::of(scope) })?)
    }
}
