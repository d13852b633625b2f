//! Access tokens of Microsoft Entra ID: who we are, proved by a certificate, a secret, or by where we run.
//!
//! The protocol and the cache are `azure_identity`'s; requests go by our own HTTP client (proxy, authorities, no retries of
//! its own), and the assertion that a certificate signs is ours, because the library's wants PKCS#12 and SHA-1 only.
//!
//! # Sources
//! Microsoft, "Microsoft identity platform and the OAuth 2.0 client credentials flow"; "Microsoft identity platform
//! application authentication certificate credentials" (the assertion's form); "What is managed identity"; "Workload
//! identity federation".

mod assertion;
mod certificate;
#[cfg(test)]
mod tests;
mod transport;

use std::{
    error::Error,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use azure_core::{
    cloud::{CloudConfiguration, CustomConfiguration},
    credentials::TokenCredential,
    http::{ClientOptions, RetryOptions, Transport},
};
use azure_identity::{
    ClientAssertionCredential, ClientAssertionCredentialOptions, ClientSecretCredential, ClientSecretCredentialOptions,
    ManagedIdentityCredential, ManagedIdentityCredentialOptions, UserAssignedId, WorkloadIdentityCredential,
    WorkloadIdentityCredentialOptions,
};
use time::OffsetDateTime;
use url::Url;

use self::{
    assertion::Assertions,
    certificate::CertificateProblem,
    transport::{Exchange, Failed},
};
use crate::{Secret, http::HttpClient};

/// Who we are.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Identity {
    /// An application with a certificate.
    Certificate(ClientCertificate),
    /// An application with a secret.
    Secret {
        /// The directory (Entra tenant) that it is registered in.
        directory_id: String,
        /// Its id.
        client_id: String,
        /// Its secret.
        secret: Secret,
    },
    /// The managed identity of the virtual machine or App Service that we run on.
    Managed {
        /// Which one, when it is user-assigned.
        client_id: Option<String>,
    },
    /// The workload identity of a pod. What is `None` comes from `AZURE_TENANT_ID`, `AZURE_CLIENT_ID` and
    /// `AZURE_FEDERATED_TOKEN_FILE`, which the cluster sets.
    Workload {
        /// The directory.
        directory_id: Option<String>,
        /// The application's id.
        client_id: Option<String>,
        /// Where the pod's token lies; read again when it changes.
        token_file: Option<PathBuf>,
    },
}

/// An application that proves itself by a certificate.
#[derive(Debug, Clone)]
pub struct ClientCertificate {
    /// The directory (Entra tenant) that it is registered in.
    pub directory_id: String,
    /// Its id.
    pub client_id: String,
    /// Files with certificate and RSA key: PEM, or PKCS#12. They are read for each new token; of several certificates the
    /// newest that is valid now counts, so that the next one can lie there before the old one ends.
    pub files: Vec<PathBuf>,
    /// Of PKCS#12 files.
    pub password: Option<Secret>,
    /// How assertions are signed.
    pub signing: Signing,
}

/// The signature of an assertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Signing {
    /// RSASSA-PSS with SHA-256 and the certificate's SHA-256 thumbprint: what Microsoft recommends.
    #[default]
    Ps256,
    /// RSASSA-PKCS1-v1_5 with SHA-256, for authorities that know no other.
    Rs256,
}

/// Why there is no access token.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// Something on this side: a file, an id, a certificate that is over.
    #[error("no access token: {0}")]
    Setup(String),
    /// The authority refused us. Trying again soon does not help; a person must look.
    #[error(
        "no access token: {0}; check the ids, and the certificate or secret that is registered for the application"
    )]
    Refused(String),
    /// The authority gave no answer, or none now.
    #[error("no access token: {problem}")]
    Unavailable {
        /// What happened.
        problem: String,
        /// How long it asked us to wait.
        retry_after: Option<Duration>,
    },
}

/// How to get access tokens.
#[derive(Debug, Clone)]
pub struct AccessTokenOptions {
    /// Of whom: `api://…/.default`, `https://resource/.default`.
    pub scope: String,
    /// The authority; `None` (the default) is `AZURE_AUTHORITY_HOST`, else `https://login.microsoftonline.com`.
    pub authority: Option<Url>,
    /// The clock (default: the system's).
    pub now: fn() -> OffsetDateTime,
}

impl AccessTokenOptions {
    /// The defaults, for a scope.
    #[must_use]
    pub fn of(scope: impl Into<String>) -> Self {
        Self { scope: scope.into(), authority: None, now: OffsetDateTime::now_utc }
    }
}

/// Access tokens for one scope, kept until five minutes before they end.
#[derive(Debug)]
pub struct AccessTokens {
    http: HttpClient,
    identity: Identity,
    options: AccessTokenOptions,
    /// With its cache.
    credential: Mutex<Arc<dyn TokenCredential>>,
}

impl AccessTokens {
    /// Checks what can be checked without asking anybody.
    ///
    /// # Errors
    /// [`IdentityError::Setup`]: an id or scope is missing, a file of a pod cannot be read, the authority is not https.
    pub fn new(http: HttpClient, identity: Identity, options: AccessTokenOptions) -> Result<Self, IdentityError> {
        if options.scope.trim().is_empty() {
            return Err(IdentityError::Setup(
                "the scope is empty; it is TenantService's, as in api://…/.default".into(),
            ));
        }
        let credential = Mutex::new(credential(&http, &identity, &options)?);
        Ok(Self { http, identity, options, credential })
    }

    /// A token that is good for now. One request at a time; who comes meanwhile waits for its answer.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub async fn token(&self) -> Result<Secret, IdentityError> {
        Ok(self.token_and_end().await?.0)
    }

    /// The same, and when it ends.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub async fn token_and_end(&self) -> Result<(Secret, OffsetDateTime), IdentityError> {
        let credential = Arc::clone(&self.credential.lock().unwrap_or_else(PoisonError::into_inner));
        match credential.get_token(&[self.options.scope.as_str()], None).await {
            Ok(token) => Ok((Secret::new(token.token.secret()), token.expires_on)),
            Err(error) => Err(sorted(&error)),
        }
    }

    /// Until when the certificate is valid that would sign now; `None` for who has none.
    ///
    /// # Errors
    /// [`IdentityError::Setup`]: no file holds one that is valid.
    pub async fn certificate_until(&self) -> Result<Option<OffsetDateTime>, IdentityError> {
        let Identity::Certificate(certificate) = self.identity.clone() else { return Ok(None) };
        let now = (self.options.now)();
        let newest = tokio::task::spawn_blocking(move || certificate::newest(&certificate, now)).await;
        match newest {
            Ok(Ok(certified)) => Ok(Some(certified.until)),
            Ok(Err(CertificateProblem(problem))) => Err(IdentityError::Setup(problem)),
            Err(error) => Err(IdentityError::Setup(error.to_string())),
        }
    }

    /// Forgets the token, because it was refused where it was shown.
    ///
    /// # Errors
    /// As [`AccessTokens::new`].
    pub fn forget(&self) -> Result<(), IdentityError> {
        let fresh = credential(&self.http, &self.identity, &self.options)?;
        *self.credential.lock().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

fn credential(
    http: &HttpClient,
    identity: &Identity,
    options: &AccessTokenOptions,
) -> Result<Arc<dyn TokenCredential>, IdentityError> {
    let cloud = options.authority.as_ref().map(|authority| {
        let authority_host = authority.as_str().trim_end_matches('/').to_owned();
        let mut custom = CustomConfiguration::default();
        custom.authority_host = authority_host;
        Arc::new(CloudConfiguration::Custom(custom))
    });
    let client_options = |exchange: Exchange| ClientOptions {
        cloud: cloud.clone(),
        retry: RetryOptions::none(),
        transport: Some(Transport::with_policy(Arc::new(exchange))),
        ..ClientOptions::default()
    };
    let with_authority = || client_options(Exchange::with_authority(http.clone()));
    let built: azure_core::Result<Arc<dyn TokenCredential>> = match identity.clone() {
        Identity::Certificate(certificate) => {
            if certificate.files.is_empty() {
                return Err(IdentityError::Setup("no file with a client certificate is named".to_owned()));
            }
            let (directory, client) = (certificate.directory_id.clone(), certificate.client_id.clone());
            let assertions = Assertions::new(certificate, options);
            let options = ClientAssertionCredentialOptions { client_options: with_authority() };
            ClientAssertionCredential::new(directory, client, assertions, Some(options)).map(|made| made as _)
        }
        Identity::Secret { directory_id, client_id, secret } => {
            let options = ClientSecretCredentialOptions { client_options: with_authority() };
            let secret = secret.expose().to_owned().into();
            ClientSecretCredential::new(&directory_id, client_id, secret, Some(options)).map(|made| made as _)
        }
        Identity::Managed { client_id } => {
            let options = ManagedIdentityCredentialOptions {
                user_assigned_id: client_id.map(UserAssignedId::ClientId),
                client_options: client_options(Exchange::with_this_machine(http.clone())),
            };
            ManagedIdentityCredential::new(Some(options)).map(|made| made as _)
        }
        Identity::Workload { directory_id, client_id, token_file } => {
            // Said here, because the library names its own options and not those of the settings.
            for (given, variable, key) in [
                (directory_id.is_some(), "AZURE_TENANT_ID", "directory_id"),
                (client_id.is_some(), "AZURE_CLIENT_ID", "client_id"),
                (token_file.is_some(), "AZURE_FEDERATED_TOKEN_FILE", "token_file"),
            ] {
                if !given && std::env::var_os(variable).is_none_or(|value| value.is_empty()) {
                    return Err(IdentityError::Setup(format!(
                        "the workload identity has neither `{key}` in the settings nor {variable} in the environment; is the \
                         pod labelled azure.workload.identity/use, and does it run under the service account?"
                    )));
                }
            }
            let options = WorkloadIdentityCredentialOptions {
                credential_options: ClientAssertionCredentialOptions { client_options: with_authority() },
                client_id,
                tenant_id: directory_id,
                token_file_path: token_file,
            };
            WorkloadIdentityCredential::new(Some(options)).map(|made| made as _)
        }
    };
    built.map_err(|error| IdentityError::Setup(chain(&error)))
}

/// The library wraps what our own parts said; it is found again by its type.
fn sorted(error: &azure_core::Error) -> IdentityError {
    let mut next: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(at) = next {
        if let Some(CertificateProblem(problem)) = at.downcast_ref() {
            return IdentityError::Setup(problem.clone());
        }
        if let Some(failed) = at.downcast_ref::<Failed>() {
            return failed.clone().into();
        }
        next = at.source();
    }
    IdentityError::Unavailable { problem: chain(error), retry_after: None }
}

/// An error and its causes on one line, each once.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text.replace(['\r', '\n'], " ")
}
