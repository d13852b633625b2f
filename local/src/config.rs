//! The configuration: our own TOML, and the `config.json` of Microsoft's emulator (told apart by their content). In TOML
//! everything has a default; a key that nobody knows is refused with its line.
//!
//! ```toml
//! topic = "exports"
//! container = "batchtoprocess"
//! token_life_s = 3600          # of the tokens in a grant
//! lock_duration_ms = 10000     # of a message that a receiver holds
//! max_delivery_count = 10      # failed deliveries before a message is dead-lettered
//! containers = ["more"]        # further containers
//!
//! tls = true                   # default false: HTTPS, and AMQP over TLS beside plain AMQP
//! host = "azure.example"       # with tls: the name in the certificate and in every address given out; default localhost
//! ca_file = "ca.pem"           # where the certificate to trust goes; default a temporary file
//! client_file = "client.pem"   # where certificate and key of the client made for this run go, likewise
//! rotate_every_s = 600         # new keys for all tenants; default never
//! rotate_grace_s = 60          # how long old tokens live on then; default 0
//! token_end = "detach-forced"  # how a link learns that its token is over; default "unauthorized-access"
//!
//! [ports]                      # 0 takes a free one
//! amqp = 5672
//! amqps = 5671                 # with tls
//! blob = 10000
//! tenant = 8080
//! authority = 8443             # with tls
//! admin = 8081
//!
//! [[tenants]]                  # default: one, called acme
//! name = "acme"
//! subscription = "acme"        # default: its name
//! bearer_token = "..."         # default: random, in the ready file
//! blob_permissions = "r"       # of its SAS; "rl" may also list
//!
//! [[queues]]                   # short: queues = ["jobs"]
//! name = "jobs"
//! lock_duration_ms = 5000
//! max_delivery_count = 3
//! default_ttl_ms = 3600000     # default: messages that state none do not expire
//! dead_letter_expired = true   # default: what expires is dropped
//! duplicate_detection_window_ms = 60000  # default: duplicates are not looked for
//! max_message_bytes = 262144   # default: 1 MiB
//! max_size_bytes = 10000000    # default: 1 GiB
//! status = "active"            # or disabled, send_disabled, receive_disabled
//!
//! [[topics]]                   # short: topics = ["orders"]; the topic above may stand here too
//! name = "orders"
//! default_ttl_ms = 3600000     # also duplicate_detection_window_ms, max_message_bytes, max_size_bytes, status
//!
//! [[topics.subscriptions]]     # short: subscriptions = ["all"]
//! name = "large"
//! lock_duration_ms = 5000      # also max_delivery_count, default_ttl_ms, dead_letter_expired, max_size_bytes, status
//!
//! [[topics.subscriptions.rules]]   # without rules it gets every message
//! name = "large"
//! sql = "amount > 1000"        # or all = true, or correlation, which compares properties:
//!
//! [[topics.subscriptions.rules]]
//! name = "north"
//! correlation = { subject = "order", properties = { region = "north" } }
//!
//! [namespace]                  # default: the public key of Microsoft's emulator
//! key_name = "RootManageSharedAccessKey"
//! key = "SAS_KEY_VALUE"
//! host = "ns.example.com"      # a name beside localhost that tokens may be for
//!
//! [[policies]]                 # further keys of the bus
//! name = "send-only"
//! key = "..."
//! entity = "exports"           # default: the namespace
//! rights = ["Send"]            # Send, Listen, Manage
//!
//! [authority]                  # with tls: where access tokens come from
//! directory_id = "10ca1000-0000-4000-8000-000000000001"
//! access_token_life_s = 3600
//! assertions_once = false      # true refuses an assertion that was used before
//!
//! [[clients]]                  # default with tls: one, with a certificate and a secret of this run
//! id = "5e0b1f6e-0000-4000-8000-000000000000"
//! tenant = "acme"
//! secret = "..."
//! certificate_file = "acme.pem"
//! roles = ["Azure Service Bus Data Receiver"]
//!
//! [account]                    # default: the public account of the storage emulators
//! name = "devstoreaccount1"
//! key = "base64"
//!
//! [[faults]]                   # as a fault script has them
//! on = "blob"
//! do = "throttle"
//! ```

mod emulator;
mod entity;
#[cfg(test)]
mod golden;
mod near;
mod rule;
mod security;

use std::{
    collections::BTreeSet,
    fmt,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use toml::Spanned;

pub use entity::{QueueConfig, SubscriptionConfig, TopicConfig};
pub(crate) use near::{with_nearest, without_place};
pub use security::{AuthorityConfig, CLIENT_ID, ClientConfig, DIRECTORY_ID, PolicyConfig};

use crate::{
    amqp::TokenEnd,
    broker::{BrokerError, names_entity, names_subscription},
    fault::{ScriptError, Step, Written, from_written, line_of},
    keys::{EMULATOR_ACCOUNT, EMULATOR_ACCOUNT_KEY, EMULATOR_BUS_KEY, EMULATOR_BUS_KEY_NAME, KeyError, Keys},
    rotation::Schedule,
};

/// Where the endpoints listen, all on 127.0.0.1; 0 takes a free port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ports {
    /// Service Bus; 5672 is AMQP's.
    pub amqp: u16,
    /// Service Bus over TLS, if there is TLS; 5671 is AMQP's.
    pub amqps: u16,
    /// Blob Storage; 10000 is Azurite's.
    pub blob: u16,
    /// TenantService; default 8080.
    pub tenant: u16,
    /// The token authority, if there is TLS; default 8443.
    pub authority: u16,
    /// Rotations, fault scripts and counts; default 8081.
    pub admin: u16,
}

impl Ports {
    /// A free port for each.
    pub const RANDOM: Self = Self { amqp: 0, amqps: 0, blob: 0, tenant: 0, authority: 0, admin: 0 };
}

impl Default for Ports {
    fn default() -> Self {
        Self { amqp: 5672, amqps: 5671, blob: 10_000, tenant: 8080, authority: 8443, admin: 8081 }
    }
}

/// A tenant: one subscription, one bearer token.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TenantConfig {
    /// Its name; unique.
    pub name: String,
    /// Its subscription of the topic; default its name.
    pub subscription: Option<String>,
    /// What it shows TenantService; default random.
    pub bearer_token: Option<String>,
    /// What its SAS for the container allows, in Azure's letters and order: `racwdl`; default `r`.
    pub blob_permissions: Option<String>,
}

impl fmt::Debug for TenantConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TenantConfig")
            .field("name", &self.name)
            .field("subscription", &self.subscription)
            .field("blob_permissions", &self.blob_permissions)
            .finish_non_exhaustive()
    }
}

impl TenantConfig {
    /// A tenant with the defaults.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), subscription: None, bearer_token: None, blob_permissions: None }
    }

    pub(crate) fn subscription(&self) -> &str {
        self.subscription.as_deref().unwrap_or(&self.name)
    }
}

/// The root key of the namespace.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamespaceConfig {
    /// Its name: `skn` in a token.
    pub key_name: String,
    /// The key, which signs as the text that it is.
    pub key: String,
    /// A name beside those of this machine that tokens may be for; default none.
    pub host: Option<String>,
}

/// The storage account.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountConfig {
    /// Its name: the first part of every path.
    pub name: String,
    /// Its key in base64.
    pub key: String,
}

impl fmt::Debug for NamespaceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NamespaceConfig").field("key_name", &self.key_name).finish_non_exhaustive()
    }
}

impl fmt::Debug for AccountConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountConfig").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Default for NamespaceConfig {
    fn default() -> Self {
        Self { key_name: EMULATOR_BUS_KEY_NAME.to_owned(), key: EMULATOR_BUS_KEY.to_owned(), host: None }
    }
}

impl Default for AccountConfig {
    fn default() -> Self {
        Self { name: EMULATOR_ACCOUNT.to_owned(), key: EMULATOR_ACCOUNT_KEY.to_owned() }
    }
}

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Default: 5672 (5671 for TLS), 10000, 8080, 8081.
    pub ports: Ports,
    /// HTTPS, and AMQP over TLS beside plain AMQP, with certificates of this run; default no.
    pub tls: bool,
    /// With TLS, the name by which clients reach this process through a proxy or by a resolver of theirs: it stands in the
    /// certificate, the ready file and the grants; default `localhost`. Everything listens on 127.0.0.1 all the same.
    pub host: Option<String>,
    /// Where the certificate that clients are to trust is written; default a temporary file. Removed at the end.
    pub ca_file: Option<PathBuf>,
    /// Where certificate and key of the client that is made when `clients` is empty are written; likewise.
    pub client_file: Option<PathBuf>,
    /// The topic that waybills go to; default `exports`.
    pub topic: String,
    /// Further queues; default none.
    pub queues: Vec<QueueConfig>,
    /// Further topics, and what is to be said of the one for waybills; default none.
    pub topics: Vec<TopicConfig>,
    /// The container that files go to; default `batchtoprocess`.
    pub container: String,
    /// Further containers; default none.
    pub containers: Vec<String>,
    /// Default: one, `acme`.
    pub tenants: Vec<TenantConfig>,
    /// How long a grant's tokens live, at least; rounded up to whole seconds when it is issued. Default 1 hour.
    pub token_life: Duration,
    /// How long a receiver holds a message, where the queue or subscription does not say; default 10 s.
    pub lock_duration: Duration,
    /// Failed deliveries before a message is dead-lettered, where the queue or subscription does not say; default 10.
    pub max_delivery_count: NonZeroU32,
    /// When all tenants' keys are replaced; default never.
    pub rotation: Option<Schedule>,
    /// How a link learns that its token is over; default `amqp:unauthorized-access`.
    pub token_end: TokenEnd,
    /// The root key of the namespace.
    pub namespace: NamespaceConfig,
    /// Further keys of the bus; default none.
    pub policies: Vec<PolicyConfig>,
    /// The token authority.
    pub authority: AuthorityConfig,
    /// The applications that it knows; default one, made for this run.
    pub clients: Vec<ClientConfig>,
    /// The storage account.
    pub account: AccountConfig,
    /// Steps that are installed before the services are up.
    pub faults: Vec<Step>,
    /// What a configuration file asks for that is passed over; logged at the start.
    pub warnings: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            ports: Ports::default(),
            tls: false,
            host: None,
            ca_file: None,
            client_file: None,
            topic: "exports".to_owned(),
            queues: Vec::new(),
            topics: Vec::new(),
            container: "batchtoprocess".to_owned(),
            containers: Vec::new(),
            tenants: vec![TenantConfig::named("acme")],
            token_life: Duration::from_secs(3600),
            lock_duration: Duration::from_secs(10),
            max_delivery_count: NonZeroU32::new(10).expect("10 is not 0"),
            rotation: None,
            token_end: TokenEnd::default(),
            namespace: NamespaceConfig::default(),
            policies: Vec::new(),
            authority: AuthorityConfig::default(),
            clients: Vec::new(),
            account: AccountConfig::default(),
            faults: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

/// What to do about a file that cannot be read.
fn to_read(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::InvalidData => "it is not text in UTF-8: save it as UTF-8",
        _ => "check the path and its permissions",
    }
}

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file could not be read.
    #[error("the configuration {path} cannot be read; {}", to_read(source))]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something in this file.
    #[error("{path}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: Box<ConfigError>,
    },
    /// Two files of one kind.
    #[error("{path} is a second {kind}; give one of our own (TOML) and one of the emulator (config.json) at most")]
    Twice {
        /// The second one.
        path: String,
        /// Of which kind.
        kind: &'static str,
    },
    /// Something in the text.
    #[error("configuration, line {line}: {problem}")]
    Text {
        /// Counted from 1.
        line: usize,
        /// What is wrong, and what may stand there.
        problem: String,
    },
    /// Something about a queue, topic, subscription or rule.
    #[error("configuration, {entity}: {problem}")]
    Entity {
        /// Which one.
        entity: String,
        /// The key, what is wrong, and what may stand there.
        problem: String,
    },
    /// A step of `[[faults]]`.
    #[error("configuration")]
    Faults(#[from] ScriptError),
    /// A value that cannot be.
    #[error("configuration: {key} {problem}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong, and what may stand there.
        problem: String,
    },
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    ports: Option<Ports>,
    #[serde(default)]
    tls: bool,
    host: Option<String>,
    ca_file: Option<PathBuf>,
    client_file: Option<PathBuf>,
    rotate_every_s: Option<u64>,
    rotate_grace_s: Option<u64>,
    #[serde(default)]
    token_end: TokenEnd,
    #[serde(default)]
    policies: Vec<PolicyConfig>,
    #[serde(default)]
    authority: AuthorityConfig,
    #[serde(default)]
    clients: Vec<ClientConfig>,
    topic: Option<String>,
    #[serde(default, deserialize_with = "entity::names_or_tables")]
    queues: Vec<QueueConfig>,
    #[serde(default, deserialize_with = "entity::names_or_tables")]
    topics: Vec<TopicConfig>,
    container: Option<String>,
    #[serde(default)]
    containers: Vec<String>,
    tenants: Option<Vec<TenantConfig>>,
    token_life_s: Option<u64>,
    lock_duration_ms: Option<u64>,
    max_delivery_count: Option<NonZeroU32>,
    namespace: Option<NamespaceConfig>,
    account: Option<AccountConfig>,
    #[serde(default)]
    faults: Vec<Spanned<Written>>,
}

impl Config {
    /// Reads configuration files: one of our own, one of the emulator, or one of each.
    ///
    /// # Errors
    /// [`ConfigError`] says where and what to do.
    pub fn load(paths: &[impl AsRef<Path>]) -> Result<Self, ConfigError> {
        let (mut own, mut emulator) = (None, None);
        for path in paths {
            let path = path.as_ref().display().to_string();
            let text = std::fs::read_to_string(&path)
                .map_err(|source| ConfigError::Unreadable { path: path.clone(), source })?;
            let in_file = |source| ConfigError::File { path: path.clone(), source: Box::new(source) };
            let twice = if emulator::is_json(&text) {
                let read = emulator::parse(&text).map_err(in_file)?;
                emulator.replace(read).is_some().then_some("config.json")
            } else {
                own.replace(Self::parse(&text).map_err(in_file)?).is_some().then_some("TOML file")
            };
            if let Some(kind) = twice {
                return Err(ConfigError::Twice { path, kind });
            }
        }
        let mut config = own.unwrap_or_default();
        if let Some(emulator) = emulator {
            config.add(emulator)?;
        }
        Ok(config)
    }

    fn add(&mut self, emulator: emulator::Entities) -> Result<(), ConfigError> {
        self.queues.extend(emulator.queues);
        self.topics.extend(emulator.topics);
        self.warnings.extend(emulator.warnings);
        self.check()
    }

    /// Reads the text of a configuration file: our own TOML, or the emulator's `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] says where and what to do.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        if emulator::is_json(text) {
            let mut config = Self::default();
            config.add(emulator::parse(text)?)?;
            return Ok(config);
        }
        let written: Text = toml::from_str(text).map_err(|error| ConfigError::Text {
            line: line_of(text, error.span().map_or(0, |span| span.start)),
            problem: match error.message() {
                "duplicate key" => {
                    let key = error.span().and_then(|span| text.get(span)).unwrap_or("a key");
                    format!("{key} is written twice; write all of it in one place, as {key} = […] or as [[{key}]]")
                }
                other => with_nearest(other),
            },
        })?;
        let default = Self::default();
        let config = Self {
            ports: written.ports.unwrap_or_default(),
            tls: written.tls,
            host: written.host,
            ca_file: written.ca_file,
            client_file: written.client_file,
            rotation: security::schedule(written.rotate_every_s, written.rotate_grace_s)?,
            token_end: written.token_end,
            policies: written.policies,
            authority: written.authority,
            clients: written.clients,
            topic: written.topic.unwrap_or(default.topic),
            queues: written.queues,
            topics: written.topics,
            container: written.container.unwrap_or(default.container),
            containers: written.containers,
            tenants: written.tenants.unwrap_or(default.tenants),
            token_life: written.token_life_s.map_or(default.token_life, Duration::from_secs),
            lock_duration: written.lock_duration_ms.map_or(default.lock_duration, Duration::from_millis),
            max_delivery_count: written.max_delivery_count.unwrap_or(default.max_delivery_count),
            namespace: written.namespace.unwrap_or_default(),
            account: written.account.unwrap_or_default(),
            faults: from_written(text, written.faults)?,
            warnings: Vec::new(),
        };
        config.check()?;
        Ok(config)
    }

    /// Checks what the types do not; [`start`](crate::Builder::start) asks again.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        let refuse = |key, problem: String| Err(ConfigError::Value { key, problem });
        if self.token_life.is_zero() {
            return refuse("token_life_s", "is 0; a token lives at least 1 s".to_owned());
        }
        if self.lock_duration.is_zero() {
            return refuse("lock_duration_ms", "is 0; give a receiver some time".to_owned());
        }
        self.check_entities()?;
        if !names_entity(&self.topic) {
            return refuse("topic", format!("cannot be: {}", BrokerError::BadName(self.topic.clone())));
        }
        if self.tenants.is_empty() {
            return refuse("tenants", "is empty; without a tenant nobody gets a grant".to_owned());
        }
        let mut names = BTreeSet::new();
        let mut subscriptions = BTreeSet::new();
        for tenant in &self.tenants {
            if !is_plain(&tenant.name) {
                return refuse(
                    "tenants",
                    format!("has the name {:?}; use letters, digits, '-', '_' and '.'", tenant.name),
                );
            }
            if !names.insert(&tenant.name) {
                return refuse("tenants", format!("names {:?} twice", tenant.name));
            }
            if !names_subscription(tenant.subscription()) {
                let problem = BrokerError::BadSubscription(tenant.subscription().to_owned());
                return refuse("tenants", format!("has one that cannot be: {problem}"));
            }
            if !subscriptions.insert(tenant.subscription().to_lowercase()) {
                return refuse("tenants", format!("gives subscription {:?} to two of them", tenant.subscription()));
            }
            let permissions = tenant.blob_permissions.as_deref().unwrap_or("r");
            if permissions.is_empty() || !permissions.chars().all(|right| "racwdxl".contains(right)) {
                return refuse("blob_permissions", format!("is {permissions:?}; use some of the letters racwdxl"));
            }
            if tenant.bearer_token.as_ref().is_some_and(|token| token.is_empty() || token.contains(char::is_whitespace))
            {
                return refuse("bearer_token", format!("of {:?} is empty or has a space", tenant.name));
            }
        }
        let tokens: BTreeSet<&String> = self.tenants.iter().filter_map(|tenant| tenant.bearer_token.as_ref()).collect();
        if tokens.len() < self.tenants.iter().filter(|tenant| tenant.bearer_token.is_some()).count() {
            return refuse("bearer_token", "is the same for two tenants; each needs its own".to_owned());
        }
        for container in self.containers.iter().chain([&self.container]) {
            if !crate::blob::is_container_name(container) {
                let rule = "3 to 63 lower-case letters, digits and single hyphens";
                return refuse("container", format!("{container:?} is no container's name; use {rule}"));
            }
        }
        security::check(self)?;
        if !is_plain(&self.account.name) {
            return refuse("account", format!("has the name {:?}; use letters and digits", self.account.name));
        }
        self.keys().map(drop)
    }

    fn check_entities(&self) -> Result<(), ConfigError> {
        let refuse = |entity: String, problem: String| Err(ConfigError::Entity { entity, problem });
        let mut names = BTreeSet::new();
        for queue in &self.queues {
            let entity = format!("queue '{}'", queue.name);
            if let Some(problem) = queue.problem() {
                return refuse(entity, problem);
            }
            if queue.name.eq_ignore_ascii_case(&self.topic) {
                let problem =
                    "has the name of the topic that waybills go to; give another one as `topic`, in a TOML file";
                return refuse(entity, problem.to_owned());
            }
            if !names.insert(queue.name.to_lowercase()) {
                return refuse(entity, "is named twice".to_owned());
            }
        }
        for topic in &self.topics {
            let entity = format!("topic '{}'", topic.name);
            if let Some(problem) = topic.problem() {
                return refuse(entity, problem);
            }
            if !names.insert(topic.name.to_lowercase()) {
                return refuse(entity, "has the name of another queue or topic".to_owned());
            }
            for subscription in &topic.subscriptions {
                let entity = format!("subscription '{}/{}'", topic.name, subscription.name);
                if let Some(problem) = subscription.problem() {
                    return refuse(entity, problem);
                }
            }
        }
        Ok(())
    }

    pub(crate) fn keys(&self) -> Result<Keys, ConfigError> {
        let keys = Keys::new(&self.namespace.key_name, &self.namespace.key, &self.account.name, &self.account.key)
            .map_err(|error: KeyError| ConfigError::Value {
                key: "account.key",
                problem: format!("cannot be used: {error}"),
            })?;
        for host in [&self.namespace.host, &self.host].into_iter().flatten() {
            keys.add_host(host);
        }
        for policy in &self.policies {
            keys.add_policy(&policy.name, &policy.key, policy.entity.as_deref(), policy.rights());
        }
        Ok(keys)
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 50
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        && name != "."
        && name != ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(text: &str) -> String {
        let error = Config::parse(text).expect_err(text);
        let source = std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
        format!("{error}{source}")
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn every_key_of_the_module_doc_is_read() {
        let doc = include_str!("config.rs");
        let example: String = doc
            .lines()
            .skip_while(|line| *line != "//! ```toml")
            .skip(1)
            .take_while(|line| *line != "//! ```")
            .map(|line| format!("{}\n", line.trim_start_matches("//!").trim_start()))
            .collect();
        let config = Config::parse(&example.replace("\"base64\"", "\"YQ==\"")).unwrap();
        assert_eq!(config.queues[0].lock_duration, Some(Duration::from_secs(5)));
        assert_eq!(config.topics[0].subscriptions[0].name, "large");
        assert_eq!(config.faults.len(), 1);
        assert_eq!(config.tenants[0].bearer_token.as_deref(), Some("..."));
        assert_eq!(config.ports, Ports::default());
    }

    #[test]
    fn some_ports_leave_the_others_at_their_default() {
        let config = Config::parse("[ports]\nblob = 0\n").unwrap();
        assert_eq!(config.ports, Ports { blob: 0, ..Ports::default() });
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let message = refused("topic = \"exports\"\n\n[ports]\nampq = 5672\n");
        assert!(message.starts_with("configuration, line 4: unknown field `ampq`"), "{message}");
        let message = refused("topik = \"exports\"\n");
        assert!(
            message.starts_with("configuration, line 1: unknown field `topik`")
                && message.contains("; did you mean `topic`? Expected one of"),
            "{message}"
        );
    }

    #[test]
    fn a_wrong_fault_is_refused_with_its_line() {
        let message = refused("\n\n[[faults]]\non = \"blob\"\ndo = \"cut\"\n");
        assert!(message.contains("line 3") && message.contains("`after_bytes`"), "{message}");
    }

    #[test]
    fn values_that_cannot_be_are_refused_with_what_may_stand_there() {
        for (text, says) in [
            ("token_life_s = 0", "token_life_s is 0"),
            ("lock_duration_ms = 0", "lock_duration_ms is 0"),
            ("max_delivery_count = 0", "line 1"),
            ("tenants = []", "tenants is empty"),
            ("[[tenants]]\nname = \"a/b\"", "use letters, digits"),
            ("topic = \"bad name?#\"", "\"bad name?#\" cannot name a queue or topic"),
            ("queues = [\"x/subscriptions/y\"]", "no segment 'subscriptions'"),
            ("queues = [\"a\\nb\"]", "\"a\\nb\" cannot name"),
            ("topics = [{name = \"t\", subscriptions = [\"a\", \"A\"]}]", "names the subscription 'A' twice"),
            ("topics = [{name = \"t\", subscriptions = [\"a/b\"]}]", "\"a/b\" cannot name a subscription"),
            ("[[tenants]]\nname = \"-a\"", "\"-a\" cannot name a subscription"),
            ("[[tenants]]\nname = \"a\"\n[[tenants]]\nname = \"a\"", "twice"),
            ("[[tenants]]\nname = \"a\"\n[[tenants]]\nname = \"b\"\nsubscription = \"A\"", "two of them"),
            ("[[tenants]]\nname = \"a\"\nblob_permissions = \"rq\"", "racwdxl"),
            (
                "[[tenants]]\nname = \"a\"\nbearer_token = \"x\"\n[[tenants]]\nname = \"b\"\nbearer_token = \"x\"",
                "its own",
            ),
            ("[[tenants]]\nname = \"a\"\nbearer_token = \"a b\"", "has a space"),
            ("container = \"Batch\"", "no container's name"),
            ("[account]\nname = \"a\"\nkey = \"*\"", "not base64"),
        ] {
            let message = refused(text);
            assert!(message.contains(says), "{text}: {message}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let message = Config::load(&["no/such.toml"]).unwrap_err().to_string();
        assert_eq!(message, "the configuration no/such.toml cannot be read; check the path and its permissions");
    }

    #[test]
    fn debug_shows_no_secret() {
        let config = Config::parse("[[tenants]]\nname = \"a\"\nbearer_token = \"geheim\"").unwrap();
        let shown = format!("{config:?}");
        assert!(!shown.contains("geheim") && !shown.contains("SAS_KEY") && !shown.contains("Eby8"), "{shown}");
    }
}
