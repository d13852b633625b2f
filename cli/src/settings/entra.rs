//! `[subscriber.tenant.entra]` and `[publisher.entra]`: who we are to Entra ID.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use url::Url;
use waybill_azure::{
    Secret,
    http::HttpClient,
    identity::{AccessTokenOptions, AccessTokens, ClientCertificate, Identity, Signing},
};
use waybill_contracts::ReadyFile;

use super::{Hidden, secret};

/// Access tokens of Entra ID. One of certificate, secret, managed and workload identity.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Entra {
    /// TenantService's: `api://…/.default`. Of no use where Azure's own services are asked: they have one each.
    pub(super) scope: Option<String>,
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

impl Entra {
    /// Whether anything is said.
    pub(super) fn is_set_up(&self) -> bool {
        *self != Self::default()
    }

    /// Whether a running `local` can know us: it has an authority of its own, and we something to show it. What this machine or its
    /// cluster would issue are tokens for Azure, which are not for the endpoints of a file.
    pub(super) fn is_for_local(&self, ready: &ReadyFile) -> bool {
        self.is_set_up() && ready.authority_url.is_some() && !self.managed_identity && !self.workload_identity
    }

    /// Access tokens for each scope. `section` is where this stands; what it leaves open, a running `local` knows.
    pub(super) fn tokens<const N: usize>(
        &self,
        section: &str,
        http: &HttpClient,
        scopes: [&str; N],
        ready: Option<&ReadyFile>,
    ) -> anyhow::Result<[AccessTokens; N]> {
        let identity = self.identity(section, ready)?;
        // The file comes first: what it names gets no token of another authority.
        let authority = match ready.and_then(|ready| ready.authority_url.as_deref()) {
            Some(url) => Some(Url::parse(url).context("the ready file's authorityUrl")?),
            None => self.authority.clone(),
        };
        let tokens = scopes.map(|scope| {
            let options = AccessTokenOptions { authority: authority.clone(), ..AccessTokenOptions::of(scope) };
            AccessTokens::new(http.clone(), identity.clone(), options)
        });
        let tokens: Vec<AccessTokens> = tokens.into_iter().collect::<Result<_, _>>()?;
        Ok(tokens.try_into().expect("one for each scope"))
    }

    fn identity(&self, section: &str, ready: Option<&ReadyFile>) -> anyhow::Result<Identity> {
        let known = ready.and_then(|ready| ready.clients.first());
        let directory_id = self.directory_id.clone().or_else(|| known.map(|client| client.directory_id.clone()));
        let client_id = self.client_id.clone().or_else(|| known.map(|client| client.client_id.clone()));
        let given = |what: &str, direct: Option<&Hidden>, file: Option<&Path>| {
            secret(what, direct.map(Hidden::show), file).map(|text| text.map(Secret::new))
        };
        let client_secret =
            given("the client's secret", self.client_secret.as_ref(), self.client_secret_file.as_deref())?;
        let password = given(
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
                "{section} needs one of `certificate_files`, `client_secret` (or `client_secret_file`), \
                 `managed_identity = true` and `workload_identity = true`"
            );
        }
        if self.managed_identity {
            return Ok(Identity::Managed { client_id: self.client_id.clone() });
        }
        if self.workload_identity {
            return Ok(Identity::Workload {
                directory_id: self.directory_id.clone(),
                client_id: self.client_id.clone(),
                token_file: self.token_file.clone(),
            });
        }
        let needed = |value: Option<String>, key: &str| value.with_context(|| format!("{section} has no `{key}`"));
        let (directory_id, client_id) = (needed(directory_id, "directory_id")?, needed(client_id, "client_id")?);
        Ok(match client_secret {
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
        })
    }

    /// Refuses a scope, where the services have their own.
    pub(super) fn refuse_scope(&self, section: &str) -> anyhow::Result<()> {
        ensure!(self.scope.is_none(), "{section} has a `scope`; leave it out: Service Bus and storage have their own");
        Ok(())
    }
}
