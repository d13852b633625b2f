//! Who may do what to the storage account: account key (SharedKey), service SAS of a container or a blob, account SAS, access
//! token.
//!
//! Storage checks a request once, when it starts; a body that is still running when its SAS dies runs on.
//!
//! # Sources
//! "Create a service SAS" and "Create an account SAS" of the storage REST reference: fields, strings to sign, rights. "Authorize
//! with Microsoft Entra ID" there: access tokens come over https, with version 2017-11-09 or later.

use std::net::{IpAddr, Ipv4Addr};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderMap, Method};
use percent_encoding::{percent_decode_str, utf8_percent_encode};
use time::{
    Date, OffsetDateTime, PrimitiveDateTime,
    format_description::{BorrowedFormatItem, well_known::Rfc3339},
    macros::format_description,
};

use super::{Keys, Resource, SasRefusal, bus_sas::RESERVED, ring, ring::Match, shared_key};

/// The version that our own tokens name: any from 2020-12-06 on has the 16 fields of [`service_string_to_sign`].
const OWN_VERSION: &str = "2021-12-02";
/// The first version whose tokens sign `sr` and the snapshot time.
const WITH_RESOURCE: &str = "2018-11-09";
/// The first version whose tokens sign the encryption scope.
const WITH_ENCRYPTION_SCOPE: &str = "2020-12-06";
/// The first version that knows access tokens.
const WITH_ACCESS_TOKENS: &str = "2017-11-09";
/// The oldest version that is read; older ones sign other fields.
const OLDEST: &str = "2015-04-05";

const SECONDS_FORMAT: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
const MINUTES_FORMAT: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]Z");
const DATE_FORMAT: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");

/// A request's query, decoded, in the order it was sent.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct StorageQuery(Vec<(String, String)>);

// A query may hold a SAS, so it shows its names only.
impl std::fmt::Debug for StorageQuery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl StorageQuery {
    /// Reads what follows the `?`. A `+` stays a plus: signatures contain it, and every client encodes a space as `%20`.
    #[must_use]
    pub fn parse(raw: &str) -> Self {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        Self(
            raw.split('&')
                .filter(|part| !part.is_empty())
                .map(|part| part.split_once('=').unwrap_or((part, "")))
                .map(|(name, value)| (decode(name).to_ascii_lowercase(), decode(value)))
                .collect(),
        )
    }

    /// The first value of this name (lower case).
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Names and values in the order they were sent.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or("")
    }

    fn of(fields: &[(&str, &str)]) -> Self {
        Self(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    /// The fields and their signature, encoded as a query.
    fn signed_with(&self, key: &[u8], signed: &str) -> String {
        let signature = STANDARD.encode(ring::hmac(key, signed.as_bytes()));
        let mut query = String::new();
        for (name, value) in self.iter().chain([("sig", signature.as_str())]) {
            if !query.is_empty() {
                query.push('&');
            }
            query.extend([name, "="]);
            query.extend(utf8_percent_encode(value, RESERVED));
        }
        query
    }
}

/// What is known of a request when its right to run is checked.
#[derive(Debug)]
pub struct StorageRequest<'a> {
    /// The HTTP method.
    pub method: &'a Method,
    /// The path as it was sent, still encoded.
    pub path: &'a str,
    /// The query.
    pub query: &'a StorageQuery,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// The account that the URL names.
    pub account: &'a str,
    /// The container that the URL names, decoded.
    pub container: Option<&'a str>,
    /// The blob that the URL names, decoded.
    pub blob: Option<&'a str>,
    /// Who calls.
    pub client: IpAddr,
    /// Whether the request came over TLS.
    pub https: bool,
}

/// What a request that may run is allowed to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageAccess {
    scope: StorageScope,
    /// Letters of `sp`; unused for the account key.
    permissions: String,
    /// The decoded signature of the SAS in base64, or an access token's name: what [`Keys::refuse`] takes. `None` for the account
    /// key.
    pub signature: Option<String>,
}

/// What kind of credential came with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorageScope {
    /// The account key: everything.
    AccountKey,
    /// An access token: what its application's roles allow, in the whole account.
    Roles,
    /// A service SAS with `sr=c`.
    Container,
    /// A service SAS with `sr=b`.
    Blob,
    /// An account SAS.
    Account {
        /// Letters of `ss`.
        services: String,
        /// Letters of `srt`.
        resource_types: String,
    },
}

/// The kind of resource that an operation is about; the letters are those of `srt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StorageLevel {
    /// The blob service.
    Service,
    /// A container itself.
    Container,
    /// The blobs of a container: listing them. An account SAS counts it as a container's operation.
    Listing,
    /// One blob.
    Object,
}

/// Why a request may not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StorageRefusal {
    /// Nothing that says who calls.
    #[error("the request carries neither an Authorization header nor a SAS")]
    Anonymous,
    /// A credential that does not hold. The text is the detail that Azure adds.
    #[error("{0}")]
    AuthenticationFailed(&'static str),
    /// An access token that does not hold, and why.
    #[error("{0}")]
    InvalidAuthenticationInfo(&'static str),
    /// `sp` lacks the right.
    #[error("the SAS lacks the permission, or the application the role, for this operation")]
    PermissionMismatch,
    /// `srt` lacks the kind of resource.
    #[error("the SAS does not cover this kind of resource")]
    ResourceTypeMismatch,
    /// `ss` lacks the blob service.
    #[error("the SAS does not cover the blob service")]
    ServiceMismatch,
    /// No service SAS can do this at all.
    #[error("a service SAS cannot do this")]
    NotAuthorized,
    /// `spr=https`, and the request came in plain.
    #[error("the SAS is for https only")]
    ProtocolMismatch,
    /// `sip` names other addresses.
    #[error("the SAS is for other addresses")]
    SourceAddressMismatch,
}

impl StorageAccess {
    pub(super) fn account_key() -> Self {
        Self { scope: StorageScope::AccountKey, permissions: String::new(), signature: None }
    }

    /// Whether an operation on `level` that needs one of the rights `any_of` (letters of `sp`) may run.
    ///
    /// # Errors
    /// What is missing.
    pub fn allows(&self, level: StorageLevel, any_of: &str) -> Result<(), StorageRefusal> {
        match (&self.scope, level) {
            (StorageScope::AccountKey, _) => return Ok(()),
            (StorageScope::Roles, _) => {}
            (StorageScope::Container, StorageLevel::Listing | StorageLevel::Object)
            | (StorageScope::Blob, StorageLevel::Object) => {}
            (StorageScope::Container | StorageScope::Blob, _) => return Err(StorageRefusal::NotAuthorized),
            (StorageScope::Account { services, resource_types }, level) => {
                if !services.contains('b') {
                    return Err(StorageRefusal::ServiceMismatch);
                }
                let letter = match level {
                    StorageLevel::Service => 's',
                    StorageLevel::Container | StorageLevel::Listing => 'c',
                    StorageLevel::Object => 'o',
                };
                if !resource_types.contains(letter) {
                    return Err(StorageRefusal::ResourceTypeMismatch);
                }
            }
        }
        if self.may(any_of) { Ok(()) } else { Err(StorageRefusal::PermissionMismatch) }
    }

    /// Whether one of these rights is there, whatever it is about.
    #[must_use]
    pub fn may(&self, any_of: &str) -> bool {
        self.scope == StorageScope::AccountKey || any_of.chars().any(|right| self.permissions.contains(right))
    }
}

impl Keys {
    /// Checks the credential of a storage request: account key, SAS or access token. `now` in seconds since 1970. What the
    /// credential allows is asked of the answer, once the operation is known.
    ///
    /// # Errors
    /// The refusal to tell the client.
    pub fn check_storage(&self, request: &StorageRequest<'_>, now: i64) -> Result<StorageAccess, StorageRefusal> {
        if let Some(header) = request.headers.get(http::header::AUTHORIZATION) {
            if let Some(token) = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")) {
                return self.check_storage_access(token.trim(), request, now);
            }
            return shared_key::check(&self.account, &self.account_key, header, request, now)
                .map(|()| StorageAccess::account_key());
        }
        if request.query.get("sig").is_none() {
            return Err(StorageRefusal::Anonymous);
        }
        self.check_sas(request, now)
    }

    fn check_storage_access(
        &self,
        token: &str,
        request: &StorageRequest<'_>,
        now: i64,
    ) -> Result<StorageAccess, StorageRefusal> {
        use StorageRefusal::InvalidAuthenticationInfo;
        if !request.https {
            return Err(InvalidAuthenticationInfo("access tokens are taken over https only"));
        }
        let version = request.headers.get("x-ms-version").and_then(|version| version.to_str().ok()).unwrap_or_default();
        if version < WITH_ACCESS_TOKENS {
            return Err(InvalidAuthenticationInfo("access tokens need x-ms-version 2017-11-09 or later"));
        }
        let access = self.check_access(token, Resource::Storage, now).map_err(|refusal| {
            InvalidAuthenticationInfo(match refusal {
                SasRefusal::BadSignature => "the access token's signature is not the authority's",
                SasRefusal::Expired => "the access token is expired",
                SasRefusal::Malformed(_) => "the access token is malformed, or there is no token authority",
                SasRefusal::WrongAudience => "the access token is for another audience than https://storage.azure.com",
                SasRefusal::Revoked => "the access token was revoked",
            })
        })?;
        let (name, tenant) = (access.id.clone(), access.origin().tenant);
        let signed_by = format!("client {}", access.application.id);
        let ends = Some(access.expires_at);
        self.state().count_use(super::TokenKind::Storage, &name, Some(&tenant), &signed_by, ends);
        let permissions = access.application.blob_permissions().to_owned();
        Ok(StorageAccess { scope: StorageScope::Roles, permissions, signature: Some(name) })
    }

    fn check_sas(&self, request: &StorageRequest<'_>, now: i64) -> Result<StorageAccess, StorageRefusal> {
        use StorageRefusal::AuthenticationFailed;
        let query = request.query;
        let version = query.text("sv");
        if Date::parse(version, DATE_FORMAT).is_err() || version < OLDEST {
            return Err(AuthenticationFailed("sv is missing or older than 2015-04-05"));
        }
        if query.get("skoid").is_some() {
            return Err(AuthenticationFailed(
                "the SAS is signed with a user delegation key; only account keys are known here",
            ));
        }
        if request.account != self.account {
            return Err(AuthenticationFailed("the SAS is for another account"));
        }
        let (scope, signed) = if query.get("ss").is_some() || query.get("srt").is_some() {
            let scope = StorageScope::Account {
                services: query.text("ss").to_owned(),
                resource_types: query.text("srt").to_owned(),
            };
            (scope, account_string_to_sign(query, &self.account))
        } else {
            let Some(container) = request.container else {
                return Err(AuthenticationFailed("a service SAS is for a container or a blob, and the URL names none"));
            };
            match (query.text("sr"), request.blob) {
                ("c", _) => (StorageScope::Container, service_string_to_sign(query, &self.account, container)),
                ("b", Some(blob)) => {
                    let path = format!("{container}/{blob}");
                    (StorageScope::Blob, service_string_to_sign(query, &self.account, &path))
                }
                ("b", None) => return Err(AuthenticationFailed("the SAS is for a blob, and the URL names none")),
                _ => return Err(AuthenticationFailed("sr is not b or c; other resources are not supported")),
            }
        };
        let Ok(signature) = STANDARD.decode(query.text("sig")) else {
            return Err(AuthenticationFailed("sig is not base64"));
        };
        let name = STANDARD.encode(&signature);
        let tenant = self.check_storage_signature(query, signed.as_bytes(), &signature, &name)?;
        if query.get("si").is_some() {
            return Err(AuthenticationFailed("si names a stored access policy, and the container has none"));
        }
        check_times(query, now)?;
        check_source(query, request)?;
        let expires_at = instant(query.text("se"));
        let signed_by =
            tenant.as_ref().map_or_else(|| "account key".to_owned(), |tenant| format!("storage key of {tenant}"));
        self.state().count_use(super::TokenKind::Storage, &name, tenant.as_deref(), &signed_by, expires_at);
        Ok(StorageAccess { scope, permissions: query.text("sp").to_owned(), signature: Some(name) })
    }

    /// Whose key made the signature: a tenant's, or the account's.
    fn check_storage_signature(
        &self,
        query: &StorageQuery,
        signed: &[u8],
        signature: &[u8],
        name: &str,
    ) -> Result<Option<String>, StorageRefusal> {
        use StorageRefusal::AuthenticationFailed;
        if self.is_refused(name) {
            return Err(AuthenticationFailed("a fault script refused this SAS"));
        }
        if ring::matches(&self.account_key, signed, signature) {
            return Ok(None);
        }
        let state = self.state();
        let mut rotated = false;
        for (owner, tenant) in &state.tenants {
            match tenant.storage.find(signed, signature) {
                Match::Current(_) if ends_by(query, tenant.expired_through) => {
                    return Err(AuthenticationFailed("Signature not valid in the specified time frame"));
                }
                Match::Current(_) => return Ok(Some(owner.clone())),
                Match::Former => rotated = true,
                Match::None => {}
            }
        }
        Err(AuthenticationFailed(if rotated {
            "the key that signed the SAS was rotated"
        } else {
            "Signature did not match."
        }))
    }
}

/// What a service SAS signs, by version. `resource` is the container, or container and blob, decoded.
fn service_string_to_sign(query: &StorageQuery, account: &str, resource: &str) -> String {
    let version = query.text("sv");
    let resource = format!("/blob/{account}/{resource}");
    let mut fields = vec![query.text("sp"), query.text("st"), query.text("se"), &resource];
    fields.extend(["si", "sip", "spr", "sv"].map(|name| query.text(name)));
    if version >= WITH_RESOURCE {
        // The request's own snapshot; snapshots are not kept here, so it is always empty.
        fields.extend([query.text("sr"), ""]);
    }
    if version >= WITH_ENCRYPTION_SCOPE {
        fields.push(query.text("ses"));
    }
    fields.extend(["rscc", "rscd", "rsce", "rscl", "rsct"].map(|name| query.text(name)));
    fields.join("\n")
}

/// What an account SAS signs, by version; it ends with a line feed.
fn account_string_to_sign(query: &StorageQuery, account: &str) -> String {
    let mut fields = vec![account];
    fields.extend(["sp", "ss", "srt", "st", "se", "sip", "spr", "sv"].map(|name| query.text(name)));
    if query.text("sv") >= WITH_ENCRYPTION_SCOPE {
        fields.push(query.text("ses"));
    }
    fields.push("");
    fields.join("\n")
}

/// A service SAS without its `?`: for a container, or for one blob of it.
pub(super) fn sign_service(
    key: &[u8],
    account: &str,
    container: &str,
    blob: Option<&str>,
    permissions: &str,
    expires_at: i64,
) -> String {
    let expiry = written(expires_at);
    let kind = if blob.is_some() { "b" } else { "c" };
    let query = StorageQuery::of(&[("sv", OWN_VERSION), ("se", &expiry), ("sr", kind), ("sp", permissions)]);
    let resource = blob.map_or_else(|| container.to_owned(), |blob| format!("{container}/{blob}"));
    let signed = service_string_to_sign(&query, account, &resource);
    query.signed_with(key, &signed)
}

/// An account SAS without its `?`, for containers and blobs.
pub(super) fn sign_account(key: &[u8], account: &str, permissions: &str, expires_at: i64) -> String {
    let expiry = written(expires_at);
    let query =
        StorageQuery::of(&[("sv", OWN_VERSION), ("ss", "b"), ("srt", "sco"), ("se", &expiry), ("sp", permissions)]);
    let signed = account_string_to_sign(&query, account);
    query.signed_with(key, &signed)
}

fn written(expires_at: i64) -> String {
    let known = OffsetDateTime::from_unix_timestamp(expires_at).ok();
    known.and_then(|at| at.format(SECONDS_FORMAT).ok()).unwrap_or_else(|| "9999-12-31T23:59:59Z".to_owned())
}

fn check_times(query: &StorageQuery, now: i64) -> Result<(), StorageRefusal> {
    use StorageRefusal::AuthenticationFailed;
    let Some(expiry) = query.get("se") else {
        return Err(AuthenticationFailed("se is mandatory"));
    };
    let expiry = instant(expiry).ok_or(AuthenticationFailed("se is not a time in UTC as ISO 8601 writes it"))?;
    if now >= expiry {
        return Err(AuthenticationFailed("Signature not valid in the specified time frame: the SAS is expired"));
    }
    if let Some(start) = query.get("st").filter(|start| !start.is_empty()) {
        let start = instant(start).ok_or(AuthenticationFailed("st is not a time in UTC as ISO 8601 writes it"))?;
        if now < start {
            return Err(AuthenticationFailed("Signature not valid in the specified time frame: the SAS begins later"));
        }
    }
    Ok(())
}

/// Whether a SAS ends by then.
fn ends_by(query: &StorageQuery, seconds: i64) -> bool {
    query.get("se").and_then(instant).is_some_and(|expiry| expiry <= seconds)
}

/// A date, minutes, seconds, or fractions of them; all in UTC. Whole seconds since 1970.
fn instant(text: &str) -> Option<i64> {
    if let Ok(date) = Date::parse(text, DATE_FORMAT) {
        return Some(date.midnight().assume_utc().unix_timestamp());
    }
    if let Ok(minute) = PrimitiveDateTime::parse(text, MINUTES_FORMAT) {
        return Some(minute.assume_utc().unix_timestamp());
    }
    OffsetDateTime::parse(text, &Rfc3339).ok().map(OffsetDateTime::unix_timestamp)
}

fn check_source(query: &StorageQuery, request: &StorageRequest<'_>) -> Result<(), StorageRefusal> {
    match query.text("spr") {
        "" | "https,http" | "http,https" => {}
        "https" if request.https => {}
        "https" => return Err(StorageRefusal::ProtocolMismatch),
        _ => return Err(StorageRefusal::AuthenticationFailed("spr is not 'https' or 'https,http'")),
    }
    let range = query.text("sip");
    if range.is_empty() {
        return Ok(());
    }
    let (from, to) = range.split_once('-').unwrap_or((range, range));
    let (Ok(from), Ok(to)) = (from.parse::<Ipv4Addr>(), to.parse::<Ipv4Addr>()) else {
        return Err(StorageRefusal::AuthenticationFailed("sip is not an IPv4 address or a range of them"));
    };
    match request.client.to_canonical() {
        IpAddr::V4(client) if (from..=to).contains(&client) => Ok(()),
        _ => Err(StorageRefusal::SourceAddressMismatch),
    }
}
