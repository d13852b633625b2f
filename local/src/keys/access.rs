//! Access tokens: what the token authority issues, and what TenantService, the bus and storage take in the place of their
//! own tokens. Here are the key that signs them and the applications that may have them; how an application proves
//! itself is `authority`'s matter.
//!
//! # Sources
//! "Access tokens in the Microsoft identity platform" (claims); RFC 7515 and 7517 (signatures, keys).

use std::{collections::BTreeSet, fmt, sync::LazyLock, time::Duration};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use jsonwebtoken::{Algorithm, Validation};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize, SigningKey as _};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{KeyError, Origin, Rights, SasRefusal, certificate::Certificate};
use crate::tls::{CertificateError, dated};

/// What a token is for, as scopes and `aud` name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Resource {
    /// `https://servicebus.azure.net`.
    Bus,
    /// `https://storage.azure.com`.
    Storage,
    /// `api://waybill-tenant-service`: our own.
    TenantService,
}

impl Resource {
    const ALL: [Self; 3] = [Self::Bus, Self::Storage, Self::TenantService];

    pub(crate) fn uri(self) -> &'static str {
        match self {
            Self::Bus => "https://servicebus.azure.net",
            Self::Storage => "https://storage.azure.com",
            Self::TenantService => "api://waybill-tenant-service",
        }
    }

    /// The one of this URI; a slash at its end does not matter.
    pub(crate) fn of(uri: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|resource| uri.trim_end_matches('/').eq_ignore_ascii_case(resource.uri()))
    }
}

/// What an application may do with the services themselves, for the whole namespace and the whole account; the names are
/// Azure's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Role {
    /// Send, receive, and manage rules.
    #[serde(rename = "Azure Service Bus Data Owner")]
    BusOwner,
    /// Send.
    #[serde(rename = "Azure Service Bus Data Sender")]
    BusSender,
    /// Receive.
    #[serde(rename = "Azure Service Bus Data Receiver")]
    BusReceiver,
    /// Everything with blobs and containers.
    #[serde(rename = "Storage Blob Data Owner")]
    BlobOwner,
    /// The same here, where there is no ownership.
    #[serde(rename = "Storage Blob Data Contributor")]
    BlobContributor,
    /// Read and list.
    #[serde(rename = "Storage Blob Data Reader")]
    BlobReader,
}

/// An application that is registered with the authority.
pub(crate) struct Application {
    /// Its client id, in lower case.
    pub(crate) id: String,
    /// The tenant that TenantService takes it for.
    pub(crate) tenant: String,
    pub(crate) certificates: Vec<Certificate>,
    pub(crate) secret: Option<String>,
    pub(crate) roles: BTreeSet<Role>,
}

impl Application {
    fn rights(&self) -> Rights {
        let owner = self.roles.contains(&Role::BusOwner);
        Rights {
            send: owner || self.roles.contains(&Role::BusSender),
            listen: owner || self.roles.contains(&Role::BusReceiver),
            manage: owner,
        }
    }

    /// What it may do in the storage account, in the letters of a SAS.
    pub(super) fn blob_permissions(&self) -> &'static str {
        if self.roles.contains(&Role::BlobOwner) || self.roles.contains(&Role::BlobContributor) {
            "racwdl"
        } else if self.roles.contains(&Role::BlobReader) {
            "rl"
        } else {
            ""
        }
    }
}

impl fmt::Debug for Application {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Application").field("id", &self.id).field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

/// The key that signs access tokens, with a certificate that names it.
pub(crate) struct SigningKey {
    key: KeyPair,
    der: Vec<u8>,
    certificate: Certificate,
}

impl SigningKey {
    /// A new one, which takes some tens of milliseconds: it is made when it is needed.
    pub(crate) fn lazy() -> LazyKey {
        LazyLock::new(Self::generate)
    }

    fn generate() -> Result<Self, CertificateError> {
        let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
        let der = dated("waybill-local token authority").self_signed(&key)?.der().to_vec();
        let certificate = Certificate::from_der(&der)?;
        Ok(Self { key, der, certificate })
    }

    /// The compact form of a signed token.
    fn sign(&self, claims: &impl Serialize) -> Result<String, rcgen::Error> {
        let header = json!({
            "typ": "JWT", "alg": "RS256", "kid": self.certificate.sha1(), "x5t": self.certificate.sha1(),
        });
        let part = |value: Vec<u8>| URL_SAFE_NO_PAD.encode(value);
        let claims = serde_json::to_vec(claims).expect("claims have text keys and serialise");
        let signed = format!("{}.{}", part(header.to_string().into_bytes()), part(claims));
        let signature = self.key.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", part(signature)))
    }
}

/// A key that is made by whoever needs it first; the others wait.
pub(crate) type LazyKey = LazyLock<Result<SigningKey, CertificateError>>;

/// What an access token says. Entra adds more that nobody here reads.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    aud: String,
    iss: String,
    iat: i64,
    nbf: i64,
    exp: i64,
    appid: String,
    /// How the application proved itself: 1 with a secret, 2 with a certificate.
    appidacr: String,
    oid: String,
    sub: String,
    tid: String,
    /// Names this token.
    uti: String,
    ver: String,
    /// A claim of our own, which nobody else need read.
    #[serde(rename = "waybill_issue")]
    issue: Issue,
}

/// When a token was issued, as its tenant's keys count: what a rotation and an expiry compare.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Issue {
    /// Of the tenant's keys.
    pub(super) generation: u64,
    /// How often the tenant's tokens had been expired.
    pub(super) expiries: u64,
}

/// Why no access token is issued.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AccessError {
    #[error("there is no token authority; start with --tls")]
    NoAuthority,
    #[error(transparent)]
    Tenant(#[from] KeyError),
    #[error("the key that signs access tokens could not be made; start again")]
    NoKey,
    #[error("the token could not be signed")]
    Sign(#[from] rcgen::Error),
}

/// An access token that holds.
#[derive(Debug)]
pub(crate) struct Access<'a> {
    pub(crate) application: &'a Application,
    pub(crate) expires_at: i64,
    /// Names this token.
    pub(crate) id: String,
    pub(crate) rights: Rights,
    issue: Issue,
}

impl Access<'_> {
    pub(super) fn origin(&self) -> Origin {
        let Issue { generation, expiries } = self.issue;
        Origin { tenant: self.application.tenant.clone(), generation, expiries: Some(expiries) }
    }
}

/// Issues and checks access tokens.
pub(crate) struct AccessTokens {
    pub(crate) directory: String,
    /// `https://localhost:8443/{directory}/v2.0`.
    pub(crate) issuer: String,
    pub(crate) key: LazyKey,
    pub(crate) applications: Vec<Application>,
    pub(crate) life: Duration,
}

impl AccessTokens {
    /// Makes the key, if it is not there yet.
    pub(crate) fn make_key(&self) {
        if let Err(error) = &*self.key {
            tracing::error!(%error, "the key that signs access tokens could not be made; start again");
        }
    }

    /// The application of this client id.
    pub(crate) fn application(&self, id: &str) -> Option<&Application> {
        self.applications.iter().find(|application| application.id.eq_ignore_ascii_case(id))
    }

    /// A token, and how many seconds it lives.
    pub(super) fn issue(
        &self,
        application: &Application,
        audience: &str,
        by_certificate: bool,
        issue: Issue,
        now: OffsetDateTime,
    ) -> Result<(String, u64), AccessError> {
        let now = now.unix_timestamp();
        let life = self.life.as_secs().max(1);
        // The service principal's object, which is not the application's id.
        let object = Uuid::from_u128(Uuid::parse_str(&application.id).map_or(0, |id| id.as_u128() ^ 1)).to_string();
        let key = self.key.as_ref().map_err(|_| AccessError::NoKey)?;
        let token = key.sign(&Claims {
            aud: audience.to_owned(),
            iss: self.issuer.clone(),
            iat: now,
            nbf: now,
            exp: now.saturating_add(i64::try_from(life).unwrap_or(i64::MAX)),
            appid: application.id.clone(),
            appidacr: if by_certificate { "2" } else { "1" }.to_owned(),
            oid: object.clone(),
            sub: object,
            tid: self.directory.clone(),
            uti: Uuid::new_v4().simple().to_string(),
            ver: "1.0".to_owned(),
            issue,
        })?;
        Ok((token, life))
    }

    /// Checks form, signature, time and purpose of a token that was shown to `resource`. `now` in seconds since 1970.
    pub(super) fn check(&self, token: &str, resource: Resource, now: i64) -> Result<Access<'_>, SasRefusal> {
        use jsonwebtoken::errors::ErrorKind;
        let validation = signature_only(&[Algorithm::RS256]);
        let key = self.key.as_ref().map_err(|_| SasRefusal::BadSignature)?;
        let claims = jsonwebtoken::decode::<Claims>(token, key.certificate.key(), &validation)
            .map_err(|error| match error.kind() {
                ErrorKind::InvalidSignature => SasRefusal::BadSignature,
                _ => SasRefusal::Malformed(format!("as an access token: {error}")),
            })?
            .claims;
        if now >= claims.exp {
            return Err(SasRefusal::Expired);
        }
        if Resource::of(&claims.aud) != Some(resource) || claims.iss != self.issuer {
            return Err(SasRefusal::WrongAudience);
        }
        let application = self
            .application(&claims.appid)
            .ok_or_else(|| SasRefusal::Malformed("its application is not registered".to_owned()))?;
        let rights = if resource == Resource::Bus { application.rights() } else { Rights::default() };
        Ok(Access { application, expires_at: claims.exp, id: claims.uti, rights, issue: claims.issue })
    }

    /// The document that says with what tokens are checked (RFC 7517).
    pub(crate) fn key_set(&self) -> Result<Json, AccessError> {
        let key = self.key.as_ref().map_err(|_| AccessError::NoKey)?;
        let (certificate, (n, e)) = (&key.certificate, key.certificate.components());
        Ok(json!({ "keys": [{
            "kty": "RSA",
            "use": "sig",
            "kid": certificate.sha1(),
            "x5t": certificate.sha1(),
            "n": URL_SAFE_NO_PAD.encode(n),
            "e": URL_SAFE_NO_PAD.encode(e),
            "x5c": [STANDARD.encode(&key.der)],
            "issuer": self.issuer,
        }] }))
    }
}

/// A check of form and signature; times and names are compared with our own clock and words.
fn signature_only(algorithms: &[Algorithm]) -> Validation {
    let mut validation = Validation::new(Algorithm::RS256);
    validation.algorithms = algorithms.to_vec();
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

/// Whether this looks like a JWT rather than a SAS.
pub(super) fn looks_like_jwt(token: &str) -> bool {
    token.starts_with("eyJ") && token.bytes().filter(|byte| *byte == b'.').count() == 2
}
