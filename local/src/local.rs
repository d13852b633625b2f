//! The process: every service on a port of 127.0.0.1, started together, ended together.

mod ready;
mod secure;

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use waybill_contracts::ReadyFile;

use crate::{
    admin::Admin,
    amqp::{self, EndpointOptions, TokenEnd},
    authority::ClientError,
    blob::{BlobService, is_container_name},
    broker::{Broker, BrokerError, Now, QueueOptions, TopicOptions},
    config::{Config, ConfigError, PolicyConfig, Ports, TenantConfig},
    door::Door,
    fault::{Faults, Hands, ScriptError, Step},
    files::OwnFiles,
    keys::{KeyError, Keys},
    listen::{self, Lines},
    rotation::{Rotations, Schedule},
    stats::Stats,
    tenant::{Offer, Place, Site, Tenant, TenantService},
    tls::{CertificateError, HOST},
};
use ready::Addresses;
use secure::Secure;

/// How long services have to end after a stop before they are cut off.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the services could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Somebody else has the port.
    #[error(
        "port {port} for {service} is in use; end the other process, set ports.{key} in the configuration, or use --random-ports"
    )]
    PortInUse {
        /// The port.
        port: u16,
        /// What was to listen there.
        service: &'static str,
        /// The key of the configuration.
        key: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The port cannot be had for another reason.
    #[error("port {port} for {service} cannot be opened; set ports.{key} in the configuration, or use --random-ports")]
    Port {
        /// The port.
        port: u16,
        /// What was to listen there.
        service: &'static str,
        /// The key of the configuration.
        key: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration cannot be.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// No certificates for TLS.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A client of the configuration cannot be registered.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A file for clients cannot be written.
    #[error("the {what} cannot be written to {path}; check that its directory exists and can be written to")]
    File {
        /// What it holds.
        what: &'static str,
        /// Where it was to be.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// A name cannot be that of a topic, subscription or queue.
    #[error("a topic, subscription or queue of the configuration cannot be made")]
    Entity(#[from] BrokerError),
    /// A fault of the configuration can never fire.
    #[error("the faults of the configuration cannot be installed")]
    Faults(#[from] ScriptError),
}

/// Why the ready file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("the ready file {path} cannot be written; check that its directory exists and can be written to")]
pub struct ReadyFileError {
    path: String,
    source: io::Error,
}

/// What is to be started. Made by [`Local::builder`].
#[must_use]
pub struct Builder {
    config: Config,
    now: Now,
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Builder {
    /// Everything from a configuration, its ports included; call [`ports`](Self::ports) afterwards to choose others.
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Ports; default [`Ports::RANDOM`].
    pub fn ports(mut self, ports: Ports) -> Self {
        self.config.ports = ports;
        self
    }

    /// HTTPS, and AMQP over TLS beside plain AMQP, with certificates that are made at the start.
    pub fn tls(mut self) -> Self {
        self.config.tls = true;
        self
    }

    /// With [`tls`](Self::tls): the name by which clients reach this process, see [`Config::host`]; default `localhost`.
    pub fn host(mut self, name: impl Into<String>) -> Self {
        self.config.host = Some(name.into());
        self
    }

    /// Where the certificate that clients are to trust is written (with [`tls`](Self::tls)); default a temporary file.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.ca_file = Some(path.into());
        self
    }

    /// Where certificate and key of the client that is made for this run are written (with [`tls`](Self::tls)); default a
    /// temporary file.
    pub fn client_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.config.client_file = Some(path.into());
        self
    }

    /// How long access tokens of the token authority live, in whole seconds; default 1 hour.
    pub fn access_token_life(mut self, life: Duration) -> Self {
        self.config.authority.access_token_life_s = life.as_secs();
        self
    }

    /// Replaces all tenants' keys `every` so often; what the old ones signed stays good for `grace`. Default never.
    pub fn rotate(mut self, every: Duration, grace: Duration) -> Self {
        self.config.rotation = Some(Schedule { every, grace });
        self
    }

    /// The topic that waybills go to; default `exports`.
    pub fn topic(mut self, name: &str) -> Self {
        name.clone_into(&mut self.config.topic);
        self
    }

    /// The container that files go to; default `batchtoprocess`.
    pub fn container(mut self, name: &str) -> Self {
        name.clone_into(&mut self.config.container);
        self
    }

    /// The tenants, each with a subscription of its own name; default `acme`.
    pub fn tenants<'a>(mut self, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.config.tenants = names.into_iter().map(TenantConfig::named).collect();
        self
    }

    /// How long a grant's tokens live; rounded up to whole seconds when it is issued. Default 1 hour.
    pub fn token_life(mut self, life: Duration) -> Self {
        self.config.token_life = life;
        self
    }

    /// How long a receiver holds a message; default 10 s.
    pub fn lock_duration(mut self, duration: Duration) -> Self {
        self.config.lock_duration = duration;
        self
    }

    /// Failed deliveries before a message is dead-lettered; default 10.
    pub fn max_delivery_count(mut self, count: std::num::NonZeroU32) -> Self {
        self.config.max_delivery_count = count;
        self
    }

    /// Steps that are installed before the services are up.
    pub fn faults(mut self, steps: impl IntoIterator<Item = Step>) -> Self {
        self.config.faults.extend(steps);
        self
    }

    /// How a link learns that its token is over; default `amqp:unauthorized-access`.
    pub fn token_end(mut self, token_end: TokenEnd) -> Self {
        self.config.token_end = token_end;
        self
    }

    /// The clock of locks, tokens and dates; default the system's.
    pub fn now(mut self, now: impl Fn() -> OffsetDateTime + Send + Sync + 'static) -> Self {
        self.now = Arc::new(now);
        self
    }

    /// Starts every service. When this returns they are up, and topic, subscriptions and container exist.
    ///
    /// # Errors
    /// [`StartError`] names the port or the setting and what to do. Nothing runs then.
    pub async fn start(self) -> Result<Local, StartError> {
        let Self { config, now } = self;
        config.check()?;
        for warning in &config.warnings {
            tracing::warn!("configuration, {warning}");
        }
        let keys = Arc::new(config.keys()?);
        let broker = Arc::new(Broker::new(Arc::clone(&now)));
        let tenants = make_entities(&config, &broker, &keys)?;
        check_policies(&config, &broker)?;

        let (secure, authority_listener) = match config.tls {
            true => Secure::new(&config).await.map(|(secure, listener)| (Some(secure), Some(listener)))?,
            false => (None, None),
        };
        let amqp = bind(config.ports.amqp, "Service Bus", "amqp").await?;
        let amqps = match &secure {
            Some(secure) => {
                let (listener, port) = bind(config.ports.amqps, "Service Bus over TLS", "amqps").await?;
                (Some((listener, secure.certificates.acceptor(&[]))), port)
            }
            None => (None, 0),
        };
        let blob_listener = bind(config.ports.blob, "Blob Storage", "blob").await?;
        let tenant_listener = bind(config.ports.tenant, "TenantService", "tenant").await?;
        let admin_listener = bind(config.ports.admin, "the admin endpoint", "admin").await?;
        let ports = Ports {
            amqp: amqp.1,
            amqps: amqps.1,
            blob: blob_listener.1,
            tenant: tenant_listener.1,
            authority: secure.as_ref().map_or(0, |secure| secure.authority_port),
            admin: admin_listener.1,
        };
        let addresses = Addresses { ports, tls_host: config.tls.then(|| config.host.as_deref().unwrap_or(HOST)) };

        let stats = Arc::new(Stats::default());
        let (blob_lines, tenant_lines) = (Arc::new(Lines::default()), Arc::new(Lines::default()));
        let rotations = Arc::new(Rotations::new(Arc::clone(&keys)));
        let hands = Hands {
            keys: Arc::clone(&keys),
            rotations: Arc::clone(&rotations),
            broker: Arc::clone(&broker),
            blob_lines: Arc::clone(&blob_lines),
            tenant_lines: Arc::clone(&tenant_lines),
        };
        let faults = Arc::new(Faults::new(hands));
        broker.live().tell_faults(Arc::downgrade(&faults));
        faults.install(config.faults.iter().cloned())?;
        let (blob_keys, blob_faults) = (Arc::clone(&keys), Arc::clone(&faults));
        let authorization = secure.as_ref().map(Secure::authorization);
        let blob =
            BlobService::new(blob_keys, blob_faults, Arc::clone(&stats), Arc::clone(&now), authorization.as_deref());
        let blob = Arc::new(blob);
        for container in config.containers.iter().chain([&config.container]) {
            blob.create_container(container);
        }
        let mut ready = ready::ready_file(&config, &keys, addresses, &tenants);
        if let Some(secure) = &secure {
            secure.show(&mut ready);
        }
        let tenant_service = Arc::new(TenantService {
            tenants,
            site: Arc::new(Site {
                keys: Arc::clone(&keys),
                bus_endpoint: addresses.bus(),
                blob_endpoint: addresses.blob(keys.account()),
            }),
            faults: Arc::clone(&faults),
            stats: Arc::clone(&stats),
            now: Arc::clone(&now),
            container: config.container.clone(),
            token_life: Mutex::new(config.token_life),
        });
        let admin = Arc::new(Admin {
            keys: Arc::clone(&keys),
            rotations: Arc::clone(&rotations),
            broker: Arc::clone(&broker),
            blob: Arc::clone(&blob),
            faults: Arc::clone(&faults),
            stats: Arc::clone(&stats),
            started_at: now(),
            now: Arc::clone(&now),
            defaults: defaults_of(&config),
            warnings: config.warnings,
        });

        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let endpoint = EndpointOptions { token_end: config.token_end, ..EndpointOptions::default() };
        tasks.spawn(amqp::serve(amqp.0, amqps.0, Arc::clone(&broker), Arc::clone(&keys), endpoint, stop.clone()));
        let https = match &secure {
            Some(secure) => Door::Tls(secure.certificates.acceptor(&["http/1.1"])),
            None => Door::Plain,
        };
        tasks.spawn(listen::serve(blob_listener.0, https.clone(), Arc::clone(&blob), blob_lines, stop.clone()));
        if let (Some(secure), Some(listener)) = (&secure, authority_listener) {
            let authority = secure.authority(&keys, &faults, &now);
            let tokens = Arc::clone(&secure.tokens);
            tasks.spawn_blocking(move || tokens.make_key());
            tasks.spawn(listen::serve(listener, https.clone(), authority, Arc::default(), stop.clone()));
        }
        let (scheduled, stopped) = (Arc::clone(&rotations), stop.clone());
        tasks.spawn(async move { scheduled.run(config.rotation, stopped).await });
        let grants = Arc::clone(&tenant_service);
        tasks.spawn(listen::serve(tenant_listener.0, https, grants, tenant_lines, stop.clone()));
        tasks.spawn(listen::serve(admin_listener.0, Door::Plain, admin, Arc::default(), stop.clone()));
        let (scripted, stopped) = (Arc::clone(&faults), stop.clone());
        tasks.spawn(async move { scripted.run(stopped).await });
        Ok(Local {
            keys,
            rotations,
            broker,
            faults,
            stats,
            blob,
            tenants: tenant_service,
            ports,
            ready,
            stop,
            tasks: tokio::sync::Mutex::new(tasks),
            files: OwnFiles::default(),
            secure,
        })
    }
}

/// How queues and subscriptions behave where nothing else is said.
fn defaults_of(config: &Config) -> QueueOptions {
    QueueOptions {
        lock_duration: config.lock_duration,
        max_delivery_count: config.max_delivery_count.get(),
        ..QueueOptions::default()
    }
}

fn make_entities(config: &Config, broker: &Broker, keys: &Keys) -> Result<Vec<Tenant>, BrokerError> {
    let options = defaults_of(config);
    for queue in &config.queues {
        broker.add_queue(&queue.name, queue.options(&options))?;
    }
    for topic in &config.topics {
        broker.add_topic(&topic.name, topic.options())?;
        for subscription in &topic.subscriptions {
            let (name, rules) = (&subscription.name, subscription.rules.clone());
            broker.add_subscription_with_rules(&topic.name, name, subscription.options(&options), rules)?;
        }
    }
    if !broker.has(&config.topic) {
        broker.add_topic(&config.topic, TopicOptions::default())?;
    }
    let mut tenants = Vec::with_capacity(config.tenants.len());
    for tenant in &config.tenants {
        let entity = format!("{}/subscriptions/{}", config.topic, tenant.subscription());
        if !broker.has(&entity) {
            broker.add_subscription(&config.topic, tenant.subscription(), options.clone())?;
        }
        keys.add_tenant(&tenant.name, &entity);
        tenants.push(Tenant {
            name: tenant.name.clone(),
            bearer_token: tenant.bearer_token.clone().unwrap_or_else(|| Uuid::new_v4().simple().to_string()),
            entity,
            permissions: tenant.blob_permissions.clone().unwrap_or_else(|| "r".to_owned()),
            offers: Mutex::default(),
        });
    }
    Ok(tenants)
}

/// A policy of an entity that does not exist would open nothing, and nobody would see why.
fn check_policies(config: &Config, broker: &Broker) -> Result<(), ConfigError> {
    let of_nothing =
        |policy: &&PolicyConfig| policy.entity.as_ref().is_some_and(|entity| broker.counts(entity).is_err());
    let Some(policy) = config.policies.iter().find(of_nothing) else { return Ok(()) };
    let problem = format!(
        "has {:?} for {:?}, which is no queue, topic or subscription; there are {}",
        policy.name,
        policy.entity.as_deref().unwrap_or_default(),
        broker.entities().join(", ")
    );
    Err(ConfigError::Value { key: "policies", problem })
}

async fn bind(port: u16, service: &'static str, key: &'static str) -> Result<(TcpListener, u16), StartError> {
    let opened = async {
        let listener = listen::bind(port).await?;
        let port = listener.local_addr().map(|address: SocketAddr| address.port())?;
        Ok((listener, port))
    };
    opened.await.map_err(|source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::PortInUse { port, service, key, source },
        _ => StartError::Port { port, service, key, source },
    })
}

/// The running services. [`stop`](Self::stop) ends them in stages; dropping it ends them at once.
pub struct Local {
    keys: Arc<Keys>,
    rotations: Arc<Rotations>,
    broker: Arc<Broker>,
    faults: Arc<Faults>,
    stats: Arc<Stats>,
    blob: Arc<BlobService>,
    tenants: Arc<TenantService>,
    ports: Ports,
    ready: ReadyFile,
    stop: CancellationToken,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
    /// Ready files.
    files: OwnFiles,
    secure: Option<Secure>,
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("ports", &self.ports).finish_non_exhaustive()
    }
}

impl Local {
    /// Services with the defaults, on random ports.
    pub fn builder() -> Builder {
        Builder { config: Config { ports: Ports::RANDOM, ..Config::default() }, now: Arc::new(OffsetDateTime::now_utc) }
    }

    /// The ports that the services listen on.
    #[must_use]
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// Every endpoint and credential, as the ready file has them.
    #[must_use]
    pub fn ready_file(&self) -> &ReadyFile {
        &self.ready
    }

    /// Writes the ready file: under another name first, then renamed, so that who waits for it reads it whole. Only the
    /// owner may read it. It is removed when the services end.
    ///
    /// # Errors
    /// The directory does not exist or cannot be written to.
    pub fn write_ready_file(&self, path: &Path) -> Result<(), ReadyFileError> {
        let mut json = serde_json::to_vec_pretty(&self.ready).expect("text and lists of text serialise");
        json.push(b'\n');
        self.files.write(path, &json).map_err(|source| ReadyFileError { path: path.display().to_string(), source })?;
        Ok(())
    }

    /// Gives one tenant, or all, new keys: whatever was issued so far, access tokens included, is refused, and links that
    /// use it are cut.
    ///
    /// # Errors
    /// [`KeyError::UnknownTenant`].
    pub fn rotate(&self, tenant: Option<&str>) -> Result<(), KeyError> {
        self.keys.rotate(tenant)
    }

    /// As [`rotate`](Self::rotate), but what was issued so far is good for `grace`.
    ///
    /// # Errors
    /// [`KeyError::UnknownTenant`], and [`KeyError::Graces`] when too many rotations are within their grace.
    pub fn rotate_with_grace(&self, tenant: Option<&str>, grace: Duration) -> Result<(), KeyError> {
        self.rotations.rotate(tenant, grace)
    }

    /// How long tokens live that are issued from now on.
    pub fn set_token_life(&self, life: Duration) {
        self.tenants.set_token_life(life);
    }

    /// What TenantService answers a tenant from now on, in this order: places of these services, and of others that run in
    /// the same process and know a tenant of the same name. Several of a kind are told as a list. Tokens that were issued
    /// before stay good.
    ///
    /// # Errors
    /// [`KeyError::UnknownTenant`].
    pub fn set_grant(&self, tenant: &str, offers: impl IntoIterator<Item = Offer>) -> Result<(), KeyError> {
        self.tenants.set_offers(tenant, offers.into_iter().collect())
    }

    /// A queue or subscription of this bus, for [`set_grant`](Self::set_grant).
    #[must_use]
    pub fn bus_offer(&self, entity: &str) -> Offer {
        Offer { site: Arc::clone(&self.tenants.site), at: Place::Entity(entity.to_owned()), life: None }
    }

    /// A container of this account, for [`set_grant`](Self::set_grant).
    #[must_use]
    pub fn blob_offer(&self, container: &str) -> Offer {
        Offer { site: Arc::clone(&self.tenants.site), at: Place::Container(container.to_owned()), life: None }
    }

    /// Fault scripts.
    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// The entities of the bus, and faults that hit them directly.
    #[must_use]
    pub fn broker(&self) -> &Broker {
        &self.broker
    }

    /// Makes a further blob container; nothing happens when it is there.
    ///
    /// # Errors
    /// [`ConfigError::Value`] when the name cannot be one.
    pub fn add_container(&self, name: &str) -> Result<(), ConfigError> {
        if !is_container_name(name) {
            let rule = "3 to 63 lower-case letters, digits and single hyphens";
            let problem = format!("{name:?} is no container's name; use {rule}");
            return Err(ConfigError::Value { key: "container", problem });
        }
        self.blob.create_container(name);
        Ok(())
    }

    /// The keys, to make tokens with.
    #[must_use]
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Counts of blob requests and grants.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Ends the services: removes the files that it wrote, takes no more connections, lets running requests end for a short time,
    /// then cuts what is left. Once it has returned, nothing listens any more; a second call returns at once.
    ///
    /// # Cancel safety
    /// Cancel safe: the services go on ending, and a second call waits for them.
    pub async fn stop(&self) {
        self.remove_files();
        self.stop.cancel();
        let mut tasks = self.tasks.lock().await;
        let ended = timeout(STOP_TIMEOUT, async {
            while let Some(ended) = tasks.join_next().await {
                if let Err(error) = ended {
                    tracing::error!(%error, "a service ended by a defect of waybill-local");
                }
            }
        });
        if ended.await.is_err() {
            tracing::warn!("services were still running after {STOP_TIMEOUT:?} and were cut off");
            tasks.shutdown().await;
        }
    }

    #[cfg(test)]
    pub(crate) fn blob(&self) -> &BlobService {
        &self.blob
    }

    fn remove_files(&self) {
        self.files.remove();
        if let Some(secure) = &self.secure {
            secure.files.remove();
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.remove_files();
        self.stop.cancel();
    }
}

#[cfg(test)]
mod tests;
