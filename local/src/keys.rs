//! Every key of this process, and the one place where a token is checked: signature, expiry, resource, rights, and whether
//! it was revoked by a rotation. Shares no code with `waybill-azure` on purpose: a mistake made on both sides would hide.
//!
//! The namespace has a root key with all rights, the storage account an account key; both are in the ready file. Each
//! tenant has a bus key (Listen on its own subscription) and a storage key of its own, which only TenantService uses.
//! A rotation gives a tenant new keys, so everything signed with the old ones is refused from that moment, or after a
//! grace. Further policies may be configured; their keys do not change. An access token of the token authority is taken
//! in the place of a bus SAS.
//!
//! # Sources
//! "Service Bus access control with Shared Access Signatures" (token format, what is signed);
//! "Create a service SAS", "Create an account SAS" and "Authorize with Shared Key" of the storage REST reference.

mod access;
mod certificate;
mod policy;
mod ring;
mod shared_key;
mod storage_sas;

use std::{
    collections::{BTreeMap, HashMap, HashSet, btree_map::Entry},
    fmt,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

pub use access::Role;
pub(crate) use access::{AccessTokens, Application, Resource, SigningKey};
pub(crate) use certificate::Certificate;
use policy::Policy;
pub use policy::{Right, Rights};
use ring::{KeyRing, Match};
pub use storage_sas::{StorageAccess, StorageLevel, StorageQuery, StorageRefusal, StorageRequest, StorageScope};

/// Name and key of the Service Bus emulator's root policy ("Overview of the Azure Service Bus emulator").
pub const EMULATOR_BUS_KEY_NAME: &str = "RootManageSharedAccessKey";
/// See [`EMULATOR_BUS_KEY_NAME`]. Public, and good for nothing but development.
pub const EMULATOR_BUS_KEY: &str = "SAS_KEY_VALUE";
/// Account of the storage emulators ("Use the Azurite emulator for local Azure Storage development").
pub const EMULATOR_ACCOUNT: &str = "devstoreaccount1";
/// See [`EMULATOR_ACCOUNT`]. Public, and good for nothing but development.
pub const EMULATOR_ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// Everything but letters, digits, `-`, `.`, `_` and `~`: what RFC 3986 leaves unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Tokens remembered before the dead ones among them are forgotten.
const SEEN_BEFORE_SWEEP: usize = 1024;

/// Tokens whose uses are counted; those that come later are not.
const COUNTED_MAX: usize = 10_000;

/// The keys. One per process, shared by the AMQP, Blob and tenant endpoints.
pub struct Keys {
    bus_key_name: String,
    bus_key: String,
    account: String,
    account_key: Vec<u8>,
    state: Mutex<State>,
    access: OnceLock<Arc<AccessTokens>>,
    revocations: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    tenants: HashMap<String, TenantKeys>,
    policies: Vec<Policy>,
    /// Further names of the namespace, in lower case.
    hosts: HashSet<String>,
    /// Bus tokens that were accepted, by signature: whose key signed them, and which generation of it.
    seen: HashMap<String, Seen>,
    /// Single tokens, of either service, that a fault script refuses.
    refused: HashSet<String>,
    /// Each token that was accepted, by service and hash.
    used: BTreeMap<(TokenKind, String), TokenUse>,
    rotations: u64,
}

/// A rotation with a grace, until [`Keys::end_grace`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rotation(u64);

/// Which service a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum TokenKind {
    /// Service Bus.
    Bus,
    /// Blob Storage.
    Storage,
}

/// A token that was accepted, without the token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TokenUse {
    /// The first 16 hexadecimal digits of the SHA-256 of its signature in base64.
    pub sha256: String,
    /// Whose key signed it; `None` for the namespace's or the account's own.
    pub tenant: Option<String>,
    /// Seconds since 1970.
    pub expires_at: Option<i64>,
    /// How often it was accepted.
    pub uses: u64,
}

struct TenantKeys {
    /// Lower case, without a leading slash: `exports/subscriptions/acme`.
    entity: String,
    bus: KeyRing,
    storage: KeyRing,
    /// The latest end of a token that was made, in seconds since 1970.
    issued_through: i64,
    /// Tokens that end then or before are treated as expired.
    expired_through: i64,
}

struct Seen {
    /// `None` for the root key, which is never rotated.
    tenant: Option<String>,
    generation: u64,
    expires_at: i64,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("bus_key_name", &self.bus_key_name).field("account", &self.account).finish()
    }
}

/// What a valid Service Bus token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusClaim {
    /// Seconds since 1970: `se`.
    pub expires_at: i64,
    /// The `sr` as a lower-case path below the host, without a leading slash: empty for the whole namespace.
    pub scope: String,
    /// Rights of the key that signed it, or of the application that it was issued to.
    pub rights: Rights,
    /// Names this token: what [`Keys::is_revoked`] takes.
    pub signature: String,
}

/// Why a SAS is refused; the text is what Azure would say to the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the text of each variant says it")]
pub enum SasRefusal {
    #[error("InvalidSignature: The token has an invalid signature.")]
    BadSignature,
    #[error("ExpiredToken: The token is expired.")]
    Expired,
    #[error("MalformedToken: The token is malformed: {0}")]
    Malformed(String),
    #[error("InvalidAudience: The authorization header contains a token for another audience.")]
    WrongAudience,
    #[error("RevokedToken: The token was revoked: its key was rotated, or a fault script refused it.")]
    Revoked,
}

/// Why the keys could not be made or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No such tenant.
    #[error("no tenant is called {name:?}; the configuration names the tenants")]
    UnknownTenant {
        /// The name that was given.
        name: String,
    },
    /// The account key must be base64.
    #[error("the storage account key is not base64; take it as the portal shows it")]
    AccountKey,
}

impl Keys {
    /// The public keys of the emulators, and no tenant yet.
    ///
    /// # Panics
    /// Never: the emulator's key is base64.
    #[must_use]
    pub fn emulator() -> Self {
        Self::new(EMULATOR_BUS_KEY_NAME, EMULATOR_BUS_KEY, EMULATOR_ACCOUNT, EMULATOR_ACCOUNT_KEY)
            .expect("the emulator's account key is base64")
    }

    /// Keys of the caller's choice. The bus key signs as the text that it is, the account key as the bytes that its
    /// base64 stands for; so does Azure.
    ///
    /// # Errors
    /// [`KeyError::AccountKey`].
    pub fn new(bus_key_name: &str, bus_key: &str, account: &str, account_key: &str) -> Result<Self, KeyError> {
        Ok(Self {
            bus_key_name: bus_key_name.to_owned(),
            bus_key: bus_key.to_owned(),
            account: account.to_owned(),
            account_key: STANDARD.decode(account_key).map_err(|_| KeyError::AccountKey)?,
            state: Mutex::default(),
            access: OnceLock::new(),
            revocations: watch::Sender::new(0),
        })
    }

    /// Name of the root key.
    #[must_use]
    pub fn bus_key_name(&self) -> &str {
        &self.bus_key_name
    }

    /// The root key itself.
    #[must_use]
    pub fn bus_key(&self) -> &str {
        &self.bus_key
    }

    /// Name of the storage account.
    #[must_use]
    pub fn account(&self) -> &str {
        &self.account
    }

    /// The account key in base64.
    #[must_use]
    pub fn account_key(&self) -> String {
        STANDARD.encode(&self.account_key)
    }

    /// Gives a tenant random keys: Listen on `entity` (`exports/subscriptions/acme`), and one for the storage account.
    pub fn add_tenant(&self, name: &str, entity: &str) {
        let keys = TenantKeys {
            entity: normal_path(entity),
            bus: KeyRing::random(),
            storage: KeyRing::random(),
            issued_through: i64::MIN,
            expired_through: i64::MIN,
        };
        self.state().tenants.insert(name.to_owned(), keys);
    }

    /// Whether there is a tenant of this name.
    #[must_use]
    pub fn has_tenant(&self, name: &str) -> bool {
        self.state().tenants.contains_key(name)
    }

    /// Adds a key with rights on an entity and what lies below it, or on the namespace with `None`. It signs as the text
    /// that it is. One of the same name and entity is replaced.
    pub fn add_policy(&self, name: &str, key: &str, entity: Option<&str>, rights: Rights) {
        let entity = normal_path(entity.unwrap_or_default());
        let policy = Policy { name: name.to_owned(), key: key.as_bytes().to_vec(), entity, rights };
        let mut state = self.state();
        state.policies.retain(|known| known.name != policy.name || known.entity != policy.entity);
        state.policies.push(policy);
    }

    /// Adds a name by which clients call the namespace, beside those of this machine.
    pub fn add_host(&self, host: &str) {
        self.state().hosts.insert(host.to_lowercase());
    }

    /// Takes access tokens from now on; a second call changes nothing.
    pub(crate) fn take_access_tokens(&self, tokens: Arc<AccessTokens>) {
        self.access.get_or_init(|| tokens);
    }

    /// The access tokens that are taken, if there is an authority.
    pub(crate) fn access_tokens(&self) -> Option<&Arc<AccessTokens>> {
        self.access.get()
    }

    /// Gives a tenant new keys, or every tenant with `None`. Whatever was signed with the old ones is refused from now
    /// on, and links that use it are to be cut.
    ///
    /// # Errors
    /// [`KeyError::UnknownTenant`].
    pub fn rotate(&self, tenant: Option<&str>) -> Result<(), KeyError> {
        self.rotate_with(tenant, false).map(|_| ())
    }

    /// As [`rotate`](Self::rotate), but what was signed with the old keys is good until [`end_grace`](Self::end_grace).
    ///
    /// # Errors
    /// [`KeyError::UnknownTenant`].
    pub(crate) fn rotate_keeping(&self, tenant: Option<&str>) -> Result<Rotation, KeyError> {
        self.rotate_with(tenant, true)
    }

    fn rotate_with(&self, tenant: Option<&str>, grace: bool) -> Result<Rotation, KeyError> {
        let rotation = {
            let mut state = self.state();
            let rotation = state.rotations + 1;
            state.each_tenant(tenant, |keys| {
                keys.bus.rotate(rotation, grace);
                keys.storage.rotate(rotation, grace);
            })?;
            state.rotations = rotation;
            Rotation(rotation)
        };
        self.revocations.send_modify(|count| *count += 1);
        Ok(rotation)
    }

    /// Refuses what was signed with keys that this rotation, or one before it, replaced.
    pub(crate) fn end_grace(&self, rotation: Rotation) {
        for keys in self.state().tenants.values_mut() {
            keys.bus.end_grace(rotation.0);
            keys.storage.end_grace(rotation.0);
        }
        self.revocations.send_modify(|count| *count += 1);
    }

    /// Lets every token expire that was made so far for a tenant, or for every tenant with `None`. The keys stay; a new
    /// token must end later than `first_good_end` says.
    ///
    /// # Errors
    /// [`KeyError::UnknownTenant`].
    pub fn expire(&self, tenant: Option<&str>) -> Result<(), KeyError> {
        self.state().each_tenant(tenant, |keys| keys.expired_through = keys.issued_through)?;
        self.revocations.send_modify(|count| *count += 1);
        Ok(())
    }

    /// The first end, from `expires_at` on, that a tenant's new token can have without being one that has expired.
    pub(crate) fn first_good_end(&self, tenant: &str, expires_at: i64) -> i64 {
        let expired = self.state().tenants.get(tenant).map_or(i64::MIN, |keys| keys.expired_through);
        expires_at.max(expired.saturating_add(1))
    }

    /// Refuses one token from now on, of either service, by its decoded signature; its key stays good for others.
    pub fn refuse(&self, signature: &str) {
        self.state().refused.insert(signature.to_owned());
        self.revocations.send_modify(|count| *count += 1);
    }

    /// A tenant's bus token for its own subscription, good until `expires_at` (seconds since 1970). `host` is a name of the
    /// namespace: one of this machine, or one that was [added](Self::add_host).
    ///
    /// # Errors
    /// [`KeyError::UnknownTenant`].
    pub fn bus_token(&self, tenant: &str, host: &str, expires_at: i64) -> Result<String, KeyError> {
        let mut state = self.state();
        let keys = state.tenant_mut(tenant)?;
        keys.issued_through = keys.issued_through.max(expires_at);
        let resource = format!("sb://{host}/{}", keys.entity);
        Ok(sign_bus(&resource, &bus_key_name_of(tenant), keys.bus.current(), expires_at))
    }

    /// A token of the root key for any entity (empty: the whole namespace).
    #[must_use]
    pub fn root_bus_token(&self, host: &str, entity: &str, expires_at: i64) -> String {
        sign_bus(&format!("sb://{host}/{entity}"), &self.bus_key_name, self.bus_key.as_bytes(), expires_at)
    }

    /// A tenant's service SAS for a whole container, without a leading `?`, good until `expires_at` (seconds since
    /// 1970). `permissions` in Azure's letters and order: `racwdl`.
    ///
    /// # Errors
    /// [`KeyError::UnknownTenant`].
    pub fn container_token(
        &self,
        tenant: &str,
        container: &str,
        permissions: &str,
        expires_at: i64,
    ) -> Result<String, KeyError> {
        let mut state = self.state();
        let keys = state.tenant_mut(tenant)?;
        keys.issued_through = keys.issued_through.max(expires_at);
        let key = keys.storage.current().to_vec();
        Ok(storage_sas::sign_service(&key, &self.account, container, None, permissions, expires_at))
    }

    /// A service SAS of the account key, for a container or for one blob of it; as [`container_token`](Self::container_token)
    /// otherwise, but no rotation kills it.
    #[must_use]
    pub fn service_sas(&self, container: &str, blob: Option<&str>, permissions: &str, expires_at: i64) -> String {
        storage_sas::sign_service(&self.account_key, &self.account, container, blob, permissions, expires_at)
    }

    /// An account SAS of the account key for containers and blobs, without a leading `?`.
    #[must_use]
    pub fn account_sas(&self, permissions: &str, expires_at: i64) -> String {
        storage_sas::sign_account(&self.account_key, &self.account, permissions, expires_at)
    }

    /// Checks a Service Bus token, a SAS or an access token, against the entity path (`exports/subscriptions/acme`, any
    /// case, no leading slash) that it is shown for; the token's scope must be that path or a prefix of it by whole
    /// segments. `now` in seconds since 1970.
    ///
    /// # Errors
    /// The refusal to tell the client.
    pub fn check_bus(&self, token: &str, entity: &str, now: i64) -> Result<BusClaim, SasRefusal> {
        if access::looks_like_jwt(token) {
            return self.check_access(token, now);
        }
        let sas = BusSas::parse(token)?;
        let mut state = self.state();
        let signer = self.signer(&state, &sas)?;
        if now >= sas.expires_at || sas.expires_at <= signer.expired_through {
            return Err(SasRefusal::Expired);
        }
        let signature = STANDARD.encode(&sas.signature);
        if state.refused.contains(&signature) {
            return Err(SasRefusal::Revoked);
        }
        // A key speaks for what lies at or below its own entity only, and the token for what lies below its `sr`.
        let is_ours = is_loopback(&sas.host) || state.hosts.contains(&sas.host);
        if !is_ours || !covers(&signer.limit, &sas.scope) || !covers(&sas.scope, &normal_path(entity)) {
            return Err(SasRefusal::WrongAudience);
        }
        state.count_use(TokenKind::Bus, &signature, signer.tenant.as_deref(), Some(sas.expires_at));
        let seen = Seen { tenant: signer.tenant, generation: signer.generation, expires_at: sas.expires_at };
        state.remember(&signature, seen, now);
        Ok(BusClaim { expires_at: sas.expires_at, scope: sas.scope, rights: signer.rights, signature })
    }

    /// Finds whose key signed a SAS.
    fn signer(&self, state: &State, sas: &BusSas<'_>) -> Result<Signer, SasRefusal> {
        let signed_with = |key: &[u8]| ring::matches(key, sas.signed.as_bytes(), &sas.signature);
        let fixed = |limit: &str, rights| Signer {
            tenant: None,
            generation: 0,
            limit: limit.to_owned(),
            rights,
            expired_through: i64::MIN,
        };
        if sas.key_name == self.bus_key_name && signed_with(self.bus_key.as_bytes()) {
            return Ok(fixed("", Rights::ALL));
        }
        let mut named = state.policies.iter().filter(|policy| policy.name == sas.key_name);
        if let Some(policy) = named.find(|policy| signed_with(&policy.key)) {
            return Ok(fixed(&policy.entity, policy.rights));
        }
        let tenant = state.tenants.iter().find(|(name, _)| bus_key_name_of(name) == sas.key_name);
        let (name, keys) = tenant.ok_or(SasRefusal::BadSignature)?;
        match keys.bus.find(sas.signed.as_bytes(), &sas.signature) {
            Match::Current(generation) => Ok(Signer {
                tenant: Some(name.clone()),
                generation,
                limit: keys.entity.clone(),
                rights: Rights::LISTEN,
                expired_through: keys.expired_through,
            }),
            Match::Former => Err(SasRefusal::Revoked),
            Match::None => Err(SasRefusal::BadSignature),
        }
    }

    fn check_access(&self, token: &str, now: i64) -> Result<BusClaim, SasRefusal> {
        let Some(tokens) = self.access.get() else {
            let text = "it is an access token, and there is no token authority; start with --tls, or put a SAS";
            return Err(SasRefusal::Malformed(text.to_owned()));
        };
        let access = tokens.check(token, Resource::Bus, now)?;
        let mut state = self.state();
        if state.refused.contains(&access.id) {
            return Err(SasRefusal::Revoked);
        }
        state.count_use(TokenKind::Bus, &access.id, None, Some(access.expires_at));
        let scope = String::new();
        Ok(BusClaim { expires_at: access.expires_at, scope, rights: access.rights, signature: access.id })
    }

    /// Whether a rotation, or an expiry before its time, has killed this token.
    #[must_use]
    pub fn is_revoked(&self, signature: &str) -> bool {
        self.refusal_of(signature).is_some()
    }

    /// Why this token, which was accepted before, would be refused now although its time is not over.
    pub(crate) fn refusal_of(&self, signature: &str) -> Option<SasRefusal> {
        let state = self.state();
        if state.refused.contains(signature) {
            return Some(SasRefusal::Revoked);
        }
        let Some(Seen { tenant: Some(tenant), generation, expires_at }) = state.seen.get(signature) else {
            return None;
        };
        match state.tenants.get(tenant) {
            Some(keys) if *expires_at <= keys.expired_through => Some(SasRefusal::Expired),
            Some(keys) if keys.bus.is_good(*generation) => None,
            Some(_) | None => Some(SasRefusal::Revoked),
        }
    }

    /// Changes whenever a token was revoked, so that links using it can be cut.
    #[must_use]
    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.revocations.subscribe()
    }

    /// The tokens that were accepted so far, by hash.
    #[must_use]
    pub fn tokens_used(&self, kind: TokenKind) -> Vec<TokenUse> {
        let state = self.state();
        let of_kind = state.used.iter().filter(|((of, _), _)| *of == kind);
        of_kind.map(|(_, used)| used.clone()).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one insertion or one replacement, so a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tenant_mut(&mut self, name: &str) -> Result<&mut TenantKeys, KeyError> {
        self.tenants.get_mut(name).ok_or_else(|| KeyError::UnknownTenant { name: name.to_owned() })
    }

    /// Does something to one tenant, or to each.
    fn each_tenant(&mut self, name: Option<&str>, mut act: impl FnMut(&mut TenantKeys)) -> Result<(), KeyError> {
        match name {
            Some(name) => act(self.tenant_mut(name)?),
            None => self.tenants.values_mut().for_each(act),
        }
        Ok(())
    }

    fn count_use(&mut self, kind: TokenKind, signature: &str, tenant: Option<&str>, expires_at: Option<i64>) {
        let hash = Sha256::digest(signature.as_bytes());
        let sha256 = hash.iter().take(8).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        let full = self.used.len() >= COUNTED_MAX;
        match self.used.entry((kind, sha256)) {
            Entry::Occupied(mut used) => used.get_mut().uses += 1,
            Entry::Vacant(first) if !full => {
                let (sha256, tenant) = (first.key().1.clone(), tenant.map(str::to_owned));
                first.insert(TokenUse { sha256, tenant, expires_at, uses: 1 });
            }
            Entry::Vacant(_) => {}
        }
    }

    fn remember(&mut self, signature: &str, seen: Seen, now: i64) {
        if self.seen.len() >= SEEN_BEFORE_SWEEP {
            self.seen.retain(|_, seen| seen.expires_at > now);
        }
        self.seen.insert(signature.to_owned(), seen);
    }
}

/// Whose key signed a SAS, and what that key may do.
struct Signer {
    /// `None` for a key that is never rotated.
    tenant: Option<String>,
    generation: u64,
    /// The path that the key speaks for.
    limit: String,
    rights: Rights,
    /// Tokens that end by then have expired before their time.
    expired_through: i64,
}

/// The parts of a Service Bus SAS that are checked.
struct BusSas<'a> {
    /// `sr` as it was sent, a line feed, and `se`.
    signed: String,
    signature: Vec<u8>,
    expires_at: i64,
    key_name: std::borrow::Cow<'a, str>,
    /// In lower case, without a port.
    host: String,
    scope: String,
}

impl<'a> BusSas<'a> {
    fn parse(token: &'a str) -> Result<Self, SasRefusal> {
        let malformed = |what: &str| SasRefusal::Malformed(what.to_owned());
        let fields = token
            .trim()
            .strip_prefix("SharedAccessSignature ")
            .ok_or_else(|| malformed("it does not begin with 'SharedAccessSignature '"))?;
        let (mut sr, mut sig, mut se, mut skn) = (None, None, None, None);
        for field in fields.trim_start().split('&') {
            let (name, value) = field.split_once('=').ok_or_else(|| malformed("a field has no '='"))?;
            match name {
                "sr" => sr = Some(value),
                "sig" => sig = Some(value),
                "se" => se = Some(value),
                "skn" => skn = Some(value),
                _ => {}
            }
        }
        let sr = sr.ok_or_else(|| malformed("'sr' is missing"))?;
        let sig = sig.ok_or_else(|| malformed("'sig' is missing"))?;
        let se = se.ok_or_else(|| malformed("'se' is missing"))?;
        let skn = skn.ok_or_else(|| malformed("'skn' is missing"))?;
        let decode = |value: &'a str, name: &str| {
            percent_decode_str(value).decode_utf8().map_err(|_| malformed(&format!("'{name}' is not UTF-8")))
        };
        let signature =
            STANDARD.decode(decode(sig, "sig")?.as_bytes()).map_err(|_| malformed("'sig' is not base64"))?;
        let (host, scope) = resource_of(&decode(sr, "sr")?);
        Ok(Self {
            signed: format!("{sr}\n{se}"),
            signature,
            expires_at: se.parse().map_err(|_| malformed("'se' is not a number of seconds"))?,
            key_name: decode(skn, "skn")?,
            host,
            scope,
        })
    }
}

fn sign_bus(resource: &str, key_name: &str, key: &[u8], expires_at: i64) -> String {
    let sr = utf8_percent_encode(resource, RESERVED).to_string();
    let signature = STANDARD.encode(ring::hmac(key, format!("{sr}\n{expires_at}").as_bytes()));
    format!(
        "SharedAccessSignature sr={sr}&sig={}&se={expires_at}&skn={}",
        utf8_percent_encode(&signature, RESERVED),
        utf8_percent_encode(key_name, RESERVED),
    )
}

fn bus_key_name_of(tenant: &str) -> String {
    format!("listen-{tenant}")
}

/// `sb://Host:5671/Exports/` → `host` and `exports`. Scheme, port and case are not compared.
fn resource_of(resource: &str) -> (String, String) {
    let below_scheme = resource.split_once("://").map_or(resource, |(_, rest)| rest);
    let (host, path) = below_scheme.split_once('/').unwrap_or((below_scheme, ""));
    let host = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    (host.to_lowercase(), normal_path(path))
}

/// Whatever name of this machine a client reached us by, it is the same namespace.
fn is_loopback(host: &str) -> bool {
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}

fn normal_path(path: &str) -> String {
    path.trim_matches('/').to_lowercase()
}

/// Whether `path` is `scope` or lies below it, by whole segments.
fn covers(scope: &str, path: &str) -> bool {
    match path.strip_prefix(scope) {
        Some(rest) => scope.is_empty() || rest.is_empty() || rest.starts_with('/'),
        None => false,
    }
}

#[cfg(test)]
mod tests;
