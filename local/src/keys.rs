//! Every key of this process, and the one place where a token is checked: signature, expiry, resource, rights, and whether
//! it was revoked by a rotation. Shares no code with `waybill-azure` on purpose: a mistake made on both sides would hide.
//!
//! The namespace has a root key with all rights, the storage account an account key; both are in the ready file. Each
//! tenant has a bus key (Listen on its own subscription) and a storage key of its own, which only TenantService uses.
//! A rotation gives a tenant new keys, so everything signed with the old ones is refused from that moment, or after a
//! grace. Further policies may be configured; their keys do not change. An access token of the token authority is taken
//! in the place of a bus SAS; a rotation ends those that applications of the tenant have, like the tenant's other tokens.
//!
//! # Sources
//! "Create a service SAS", "Create an account SAS" and "Authorize with Shared Key" of the storage REST reference.

mod access;
mod bus_sas;
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
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use tokio::sync::watch;

pub use access::Role;
use access::{Access, Issue};
pub(crate) use access::{AccessError, AccessTokens, Application, Resource, SigningKey};
use bus_sas::{BusSas, bus_key_name_of, is_loopback, normal_path};
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

/// Single tokens that fault scripts refuse, at most.
const REFUSED_MAX: usize = 100_000;

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
    /// Single tokens, of either service, that a fault script refuses: a hash of their names.
    refused: HashSet<[u8; 32]>,
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
    /// Whose key signed it, or whose application it was issued to; `None` for the namespace's or the account's own.
    pub tenant: Option<String>,
    /// The key that signed it, or the client that it was issued to.
    pub signed_by: String,
    /// Seconds since 1970.
    pub expires_at: Option<i64>,
    /// How often it was accepted.
    pub uses: u64,
}

struct TenantKeys {
    /// What its tokens may be for, its own subscription first. Lower case, without a leading slash:
    /// `exports/subscriptions/acme`.
    entities: Vec<String>,
    bus: KeyRing,
    storage: KeyRing,
    /// The latest end of a token that was made, in seconds since 1970.
    issued_through: i64,
    /// Tokens that end then or before are treated as expired.
    expired_through: i64,
    /// How often that was said.
    expiries: u64,
}

impl TenantKeys {
    /// Why a token of this tenant is refused although its signature holds and its time is not over.
    fn refusal_of(&self, origin: &Origin, expires_at: i64) -> Option<SasRefusal> {
        let expired = match origin.expiries {
            Some(expiries) => expiries < self.expiries,
            None => expires_at <= self.expired_through,
        };
        match self.bus.is_good(origin.generation) {
            _ if expired => Some(SasRefusal::Expired),
            true => None,
            false => Some(SasRefusal::Revoked),
        }
    }
}

/// Where a token comes from that a rotation or an expiry can end before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    tenant: String,
    /// Of the tenant's keys.
    generation: u64,
    /// Of an access token: how often tokens of the tenant had been expired when it was issued. A SAS cannot say that; of
    /// those the ones expire that end by a certain time.
    expiries: Option<u64>,
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
    /// Names this token: what [`Keys::refuse`] takes.
    pub signature: String,
    /// `None` for a token of a key that does not change.
    pub(crate) origin: Option<Origin>,
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
    /// So many rotations have a grace that one more cannot be kept in mind.
    #[error("{0} rotations are within their grace; wait until one is over, or rotate without a grace")]
    Graces(usize),
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
            entities: vec![normal_path(entity)],
            bus: KeyRing::random(),
            storage: KeyRing::random(),
            issued_through: i64::MIN,
            expired_through: i64::MIN,
            expiries: 0,
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

    /// Whether there is an authority whose access tokens are taken.
    pub(crate) fn takes_access_tokens(&self) -> bool {
        self.access.get().is_some()
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
        self.state().each_tenant(tenant, |keys| {
            keys.expired_through = keys.issued_through;
            keys.expiries += 1;
        })?;
        self.revocations.send_modify(|count| *count += 1);
        Ok(())
    }

    /// The first end, from `expires_at` on, that a tenant's new token can have without being one that has expired.
    pub(crate) fn first_good_end(&self, tenant: &str, expires_at: i64) -> i64 {
        let expired = self.state().tenants.get(tenant).map_or(i64::MIN, |keys| keys.expired_through);
        expires_at.max(expired.saturating_add(1))
    }

    /// Refuses one token from now on, of either service, by its decoded signature; its key stays good for others. At most
    /// 100,000 are.
    pub fn refuse(&self, signature: &str) {
        {
            let mut state = self.state();
            if state.refused.len() >= REFUSED_MAX {
                tracing::error!(
                    "{REFUSED_MAX} tokens are refused by fault scripts already; this one is not: start again"
                );
                return;
            }
            state.refused.insert(hash(signature));
        }
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
        let entity = keys.entities.first().map_or("", String::as_str);
        let resource = format!("sb://{host}/{entity}");
        Ok(bus_sas::sign(&resource, &bus_key_name_of(tenant), keys.bus.current(), expires_at))
    }

    /// As [`bus_token`](Self::bus_token), for another entity, which the tenant may receive from now on.
    pub(crate) fn bus_token_for(
        &self,
        tenant: &str,
        entity: &str,
        host: &str,
        expires_at: i64,
    ) -> Result<String, KeyError> {
        let entity = normal_path(entity);
        let mut state = self.state();
        let keys = state.tenant_mut(tenant)?;
        keys.issued_through = keys.issued_through.max(expires_at);
        let resource = format!("sb://{host}/{entity}");
        if !keys.entities.contains(&entity) {
            keys.entities.push(entity);
        }
        Ok(bus_sas::sign(&resource, &bus_key_name_of(tenant), keys.bus.current(), expires_at))
    }

    /// A token of the root key for any entity (empty: the whole namespace).
    #[must_use]
    pub fn root_bus_token(&self, host: &str, entity: &str, expires_at: i64) -> String {
        bus_sas::sign(&format!("sb://{host}/{entity}"), &self.bus_key_name, self.bus_key.as_bytes(), expires_at)
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
            return self.check_bus_access(token, now);
        }
        let sas = BusSas::parse(token)?;
        let mut state = self.state();
        let signer = self.signer(&state, &sas)?;
        if now >= sas.expires_at {
            return Err(SasRefusal::Expired);
        }
        let signature = STANDARD.encode(&sas.signature);
        state.check_not_refused(&signature, signer.origin.as_ref(), sas.expires_at)?;
        // A key speaks for what lies at or below its own entity only, and the token for what lies below its `sr`.
        let is_ours = is_loopback(&sas.host) || state.hosts.contains(&sas.host);
        if !is_ours
            || !signer.limits.iter().any(|limit| covers(limit, &sas.scope))
            || !covers(&sas.scope, &normal_path(entity))
        {
            return Err(SasRefusal::WrongAudience);
        }
        let tenant = signer.origin.as_ref().map(|origin| origin.tenant.as_str());
        state.count_use(TokenKind::Bus, &signature, tenant, &sas.key_name, Some(sas.expires_at));
        let (expires_at, scope, rights) = (sas.expires_at, sas.scope, signer.rights);
        Ok(BusClaim { expires_at, scope, rights, signature, origin: signer.origin })
    }

    /// Finds whose key signed a SAS.
    fn signer(&self, state: &State, sas: &BusSas<'_>) -> Result<Signer, SasRefusal> {
        let signed_with = |key: &[u8]| ring::matches(key, sas.signed.as_bytes(), &sas.signature);
        let fixed = |limit: &str, rights| Signer { origin: None, limits: vec![limit.to_owned()], rights };
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
                origin: Some(Origin { tenant: name.clone(), generation, expiries: None }),
                limits: keys.entities.clone(),
                rights: Rights::LISTEN,
            }),
            Match::Former => Err(SasRefusal::Revoked),
            Match::None => Err(SasRefusal::BadSignature),
        }
    }

    /// An access token for an application, and how many seconds it lives.
    ///
    /// # Errors
    /// There is no token authority, or the token could not be signed.
    pub(crate) fn issue_access(
        &self,
        application: &Application,
        audience: &str,
        by_certificate: bool,
        now: OffsetDateTime,
    ) -> Result<(String, u64), AccessError> {
        let tokens = self.access.get().ok_or(AccessError::NoAuthority)?;
        let issue = {
            let state = self.state();
            let keys = state.tenants.get(&application.tenant);
            let keys = keys.ok_or_else(|| KeyError::UnknownTenant { name: application.tenant.clone() })?;
            Issue { generation: keys.bus.generation(), expiries: keys.expiries }
        };
        tokens.issue(application, audience, by_certificate, issue, now)
    }

    /// Checks an access token that was shown to `resource`. `now` in seconds since 1970.
    ///
    /// # Errors
    /// The refusal to tell the client.
    pub(crate) fn check_access(&self, token: &str, resource: Resource, now: i64) -> Result<Access<'_>, SasRefusal> {
        let Some(tokens) = self.access.get() else {
            let text = "it is an access token, and there is no token authority; start with --tls, or put a SAS";
            return Err(SasRefusal::Malformed(text.to_owned()));
        };
        let access = tokens.check(token, resource, now)?;
        self.state().check_not_refused(&access.id, Some(&access.origin()), access.expires_at)?;
        Ok(access)
    }

    fn check_bus_access(&self, token: &str, now: i64) -> Result<BusClaim, SasRefusal> {
        let access = self.check_access(token, Resource::Bus, now)?;
        let (origin, signed_by) = (access.origin(), format!("client {}", access.application.id));
        self.state().count_use(TokenKind::Bus, &access.id, Some(&origin.tenant), &signed_by, Some(access.expires_at));
        Ok(BusClaim {
            expires_at: access.expires_at,
            scope: String::new(),
            rights: access.rights,
            signature: access.id,
            origin: Some(origin),
        })
    }

    /// Whether a fault script refuses the token with this signature.
    pub(crate) fn is_refused(&self, signature: &str) -> bool {
        self.state().refused.contains(&hash(signature))
    }

    /// Whether a rotation, an expiry before its time or a fault script has ended this token.
    #[must_use]
    pub fn is_revoked(&self, claim: &BusClaim) -> bool {
        self.refusal_of(claim).is_some()
    }

    /// Why this token, which was accepted before, would be refused now although its time is not over.
    pub(crate) fn refusal_of(&self, claim: &BusClaim) -> Option<SasRefusal> {
        self.state().check_not_refused(&claim.signature, claim.origin.as_ref(), claim.expires_at).err()
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

    /// Refuses a token that was ended before its time.
    fn check_not_refused(&self, name: &str, origin: Option<&Origin>, expires_at: i64) -> Result<(), SasRefusal> {
        if !self.refused.is_empty() && self.refused.contains(&hash(name)) {
            return Err(SasRefusal::Revoked);
        }
        let Some(origin) = origin else { return Ok(()) };
        let keys = self.tenants.get(&origin.tenant).ok_or(SasRefusal::Revoked)?;
        keys.refusal_of(origin, expires_at).map_or(Ok(()), Err)
    }

    fn count_use(
        &mut self,
        kind: TokenKind,
        signature: &str,
        tenant: Option<&str>,
        signed_by: &str,
        expires_at: Option<i64>,
    ) {
        let sha256 = hash(signature).iter().take(8).fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
        let full = self.used.len() >= COUNTED_MAX;
        match self.used.entry((kind, sha256)) {
            Entry::Occupied(mut used) => used.get_mut().uses += 1,
            Entry::Vacant(first) if !full => {
                let (sha256, tenant) = (first.key().1.clone(), tenant.map(str::to_owned));
                first.insert(TokenUse { sha256, tenant, signed_by: signed_by.to_owned(), expires_at, uses: 1 });
            }
            Entry::Vacant(_) => {}
        }
    }
}

fn hash(signature: &str) -> [u8; 32] {
    Sha256::digest(signature.as_bytes()).into()
}

/// Whose key signed a SAS, and what that key may do.
struct Signer {
    /// `None` for a key that is never rotated.
    origin: Option<Origin>,
    /// The paths that the key speaks for.
    limits: Vec<String>,
    rights: Rights,
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
