//! `[publisher]` of waybill.toml.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::{NonZeroU32, NonZeroU64},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    args::Common,
    local,
    settings::{self, Hidden, entra::Entra},
};
use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use url::Url;
use waybill_azure::{
    TokenSource,
    account::{Account, BLOB_SCOPE, BUS_SCOPE, account_tokens},
    bus::{BusOptions, Transport},
    connection_string::{BlobConnectionString, BusConnectionString},
    http::{HttpClient, HttpOptions},
    identity::AccessTokens,
};
use waybill_contracts::{BlobType, Format, ReadyFile};
use waybill_formats::Compression;
use waybill_publisher::{
    FileFormat, FollowOptions, Publisher, TypeOptions,
    change_log::{ChangeLog, PostgresChangeLogOptions},
    outbox::{AnyOutbox, PostgresOutbox, PostgresOutboxOptions, SqliteOutbox, SqliteOutboxOptions},
};

/// The topic when neither the settings nor the connection string name one.
const TOPIC: &str = "exports";

/// Who we are, where it is an identity and no key.
const ENTRA: &str = "[publisher.entra]";

/// The section. Every key has a default but what reaches Service Bus and storage.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Folder of our own state.
    data: PathBuf,
    /// Whether a flag names it.
    #[serde(skip)]
    data_is_said: bool,
    /// Who publishes.
    name: String,
    /// Where messages go.
    topic: Option<String>,
    /// Where files go.
    container: String,
    /// 0 leaves files unpacked.
    compression_level: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_bus_connection_string: Option<Hidden>,
    service_bus_connection_string_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    blob_connection_string: Option<Hidden>,
    blob_connection_string_file: Option<PathBuf>,
    /// The namespace's host, where its key is not used but the identity of `entra`.
    service_bus_namespace: Option<String>,
    /// The account's address, likewise.
    blob_endpoint: Option<Url>,
    /// The identity.
    entra: Entra,
    token_life_ms: u64,
    /// Extra certificate authorities, PEM.
    ca_file: Option<PathBuf>,
    /// `auto`, `amqp` or `websocket`.
    transport: Transport,
    send_timeout_ms: u64,
    /// Between two manifests that `run` makes; 0 for none but on demand.
    manifest_minutes: u64,
    /// Between two times that `run` deletes what is over; 0 for none but on demand.
    prune_hours: u64,
    /// Where `run` answers about itself.
    health: Option<String>,
    /// The service's change log: `sqlite:PATH`, or the database's address.
    change_log: Option<String>,
    /// The schema in that database.
    change_log_schema: String,
    /// The outbox's database, where publishers share it; else it is with a change log in PostgreSQL, or a file in `data`.
    outbox: Option<String>,
    /// The schema in that database.
    outbox_schema: String,
    /// How files are cut from the change log.
    files: Files,
    /// The same for some blobTypes; what is not said is as in `files`.
    types: BTreeMap<String, Files>,
}

/// Tokens, and how to connect.
#[allow(missing_debug_implementations, reason = "keys have nothing to show")]
pub struct Reached {
    /// Signed with the keys, or issued to the identity.
    pub tokens: Arc<dyn TokenSource>,
    /// Of the bus.
    pub bus_options: BusOptions,
    /// Whom to trust besides the system's authorities.
    pub ca_file: Option<PathBuf>,
}

/// Where the change log is.
enum LogPlace<'s> {
    File(&'s Path),
    Server(&'s str, PostgresChangeLogOptions),
}

/// How files are cut.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Files {
    max_rows: Option<NonZeroU32>,
    max_bytes: Option<NonZeroU64>,
    max_age_ms: Option<u64>,
    keep_days: Option<NonZeroU32>,
    format: Option<FileKind>,
    /// Of CSV.
    columns: Option<Vec<String>>,
}

/// `format` of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum FileKind {
    #[default]
    Jsonl,
    Json,
    Csv,
    Xml,
    Xmll,
}

impl From<FileKind> for Format {
    fn from(kind: FileKind) -> Self {
        match kind {
            FileKind::Jsonl => Self::JsonLines,
            FileKind::Json => Self::Json,
            FileKind::Csv => Self::Csv,
            FileKind::Xml => Self::Xml,
            FileKind::Xmll => Self::XmlLines,
        }
    }
}

impl Files {
    /// What the files are written in, if this says it; `place` is where it stands.
    fn format(&self, place: &str) -> anyhow::Result<Option<FileFormat>> {
        let columns = self.columns.clone().unwrap_or_default();
        let is_csv = self.format == Some(FileKind::Csv);
        ensure!(is_csv || self.columns.is_none(), "[{place}]: columns are those of CSV; say format = \"csv\" as well");
        ensure!(
            !is_csv || !columns.is_empty(),
            "[{place}]: CSV needs its columns, such as columns = [\"id\", \"price\"]"
        );
        let distinct: BTreeSet<&String> = columns.iter().collect();
        ensure!(
            distinct.len() == columns.len() && !columns.iter().any(String::is_empty),
            "[{place}]: columns have names, each its own"
        );
        Ok(self.format.map(|format| match format {
            FileKind::Jsonl => FileFormat::JsonLines,
            FileKind::Json => FileFormat::Json,
            FileKind::Csv => FileFormat::Csv { columns },
            FileKind::Xml => FileFormat::Xml,
            FileKind::Xmll => FileFormat::XmlLines,
        }))
    }

    fn over(&self, default: &TypeOptions, place: &str) -> anyhow::Result<TypeOptions> {
        Ok(TypeOptions {
            format: self.format(place)?.unwrap_or_else(|| default.format.clone()),
            max_rows: self.max_rows.unwrap_or(default.max_rows),
            max_bytes: self.max_bytes.unwrap_or(default.max_bytes),
            max_age: self.max_age_ms.map_or(default.max_age, Duration::from_millis),
            keep: self.keep_days.map(|days| Duration::from_secs(u64::from(days.get()) * 86_400)).or(default.keep),
        })
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data: ".waybill".into(),
            data_is_said: false,
            name: "waybill".to_owned(),
            topic: None,
            container: "batchtoprocess".to_owned(),
            compression_level: 4,
            service_bus_connection_string: None,
            service_bus_connection_string_file: None,
            blob_connection_string: None,
            blob_connection_string_file: None,
            service_bus_namespace: None,
            blob_endpoint: None,
            entra: Entra::default(),
            token_life_ms: 3_600_000,
            ca_file: None,
            transport: Transport::Auto,
            send_timeout_ms: 60_000,
            manifest_minutes: 60,
            prune_hours: 0,
            health: None,
            change_log: None,
            change_log_schema: PostgresChangeLogOptions::default().schema,
            outbox: None,
            outbox_schema: PostgresOutboxOptions::default().schema,
            files: Files::default(),
            types: BTreeMap::new(),
        }
    }
}

/// Where files and messages go, and by what right.
struct Target {
    bus: Account<BusConnectionString>,
    topic: String,
    blob: Account<BlobConnectionString>,
    container: String,
    /// Whom to trust besides the system's authorities.
    ca_file: Option<PathBuf>,
}

#[allow(clippy::missing_errors_doc, reason = "each says which setting is wrong, or what cannot be reached or opened")]
impl Settings {
    /// File, environment, then flags.
    pub fn load(common: &Common, change_log: Option<&str>) -> anyhow::Result<Self> {
        let mut settings: Self = settings::load("publisher", common.config.as_deref(), std::env::vars())?;
        if let Some(data) = &common.data {
            settings.data.clone_from(data);
            settings.data_is_said = true;
        }
        if let Some(change_log) = change_log {
            settings::refuse_password("--change-log", "WAYBILL_PUBLISHER__CHANGE_LOG", change_log)?;
            settings.change_log = Some(change_log.to_owned());
        }
        Ok(settings)
    }

    /// For one who publishes what others published: with its own state in this folder, or this schema of the outbox's database.
    /// A change log is the service's, and so is the outbox beside it.
    #[must_use]
    pub fn for_republishing(mut self, data: &Path, outbox_schema: &str) -> Self {
        data.clone_into(&mut self.data);
        self.change_log = None;
        outbox_schema.clone_into(&mut self.outbox_schema);
        self
    }

    /// Who publishes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Folder of our own state.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// How files are packed.
    pub fn compression(&self) -> anyhow::Result<Compression> {
        ensure!(self.compression_level <= 9, "compression_level is {}; it is 0 to 9", self.compression_level);
        Ok(match self.compression_level {
            0 => Compression::None,
            level => Compression::Gzip(level),
        })
    }

    /// With `--level`, which counts more.
    pub fn with_level(mut self, level: Option<u32>) -> Self {
        self.compression_level = level.unwrap_or(self.compression_level);
        self
    }

    /// How long `publish` tries.
    pub fn send_timeout(&self) -> Duration {
        Duration::from_millis(self.send_timeout_ms)
    }

    /// Where `run` answers about itself, if it is asked to.
    pub fn health(&self) -> Option<&str> {
        self.health.as_deref()
    }

    fn outbox_path(&self) -> PathBuf {
        self.data.join(SqliteOutbox::FILE)
    }

    /// The outbox's database, if it is in one.
    fn outbox_server(&self) -> anyhow::Result<Option<(&str, PostgresOutboxOptions)>> {
        let is_server = |place: &&str| place.starts_with("postgres://") || place.starts_with("postgresql://");
        let named = self.outbox.as_deref();
        ensure!(named.as_ref().is_none_or(is_server), "outbox is not postgres://USER@HOST:PORT/DATABASE");
        let place = named.or(self.change_log.as_deref().filter(is_server));
        let options = PostgresOutboxOptions { schema: self.outbox_schema.clone(), ..PostgresOutboxOptions::default() };
        Ok(place.map(|place| (place, options)))
    }

    /// Whether a flag names a folder that has an outbox, while that of `run` is in a database: a republisher's, for example.
    pub fn looks_elsewhere(&self) -> anyhow::Result<bool> {
        Ok(self.data_is_said && self.outbox_server()?.is_some() && self.outbox_path().exists())
    }

    /// The outbox that a person asks about, if there is one: that of `run`, unless a flag names the folder of another.
    pub async fn existing_outbox(&self) -> anyhow::Result<AnyOutbox> {
        if !self.looks_elsewhere()? {
            return self.runs_outbox().await;
        }
        let path = self.outbox_path();
        eprintln!("waybill-publisher: this is the outbox in {}, not the one that `run` uses", path.display());
        Ok(AnyOutbox::Sqlite(SqliteOutbox::open_existing(&path, SqliteOutboxOptions::default()).await?))
    }

    /// The outbox in which a person changes something: it has to be clear which one. With `new` it need not be there.
    pub async fn outbox_to_change(&self, new: bool) -> anyhow::Result<AnyOutbox> {
        ensure!(
            !self.looks_elsewhere()?,
            "--data names the outbox in {}, and `run` has its own in a database: leave --data out to change something there, or \
             give --config with a file that names neither `outbox` nor a `change_log` in a database",
            self.outbox_path().display()
        );
        if new { self.runs_outbox_or_new().await } else { self.runs_outbox().await }
    }

    /// The outbox of `run`, if there is one. It is brought to no other schema.
    pub async fn runs_outbox(&self) -> anyhow::Result<AnyOutbox> {
        let found = self.found_outbox().await?;
        found.with_context(|| {
            if self.outbox_server().is_ok_and(|server| server.is_some()) {
                return "there is no outbox in that database yet; `waybill-publisher run` makes it".to_owned();
            }
            let path = self.outbox_path();
            let path = path.display();
            format!(
                "no outbox at {path}; give the folder with --data, or publish first with `waybill-publisher publish`"
            )
        })
    }

    /// The same, made if it is not there.
    pub async fn runs_outbox_or_new(&self) -> anyhow::Result<AnyOutbox> {
        match self.found_outbox().await? {
            Some(outbox) => Ok(outbox),
            None => self.outbox().await,
        }
    }

    /// The outbox of `run`, if there is one, as [`runs_outbox`](Self::runs_outbox) finds it, and where it is or will be.
    pub async fn outbox_if_there(&self) -> anyhow::Result<(Option<AnyOutbox>, String)> {
        let place = match self.outbox_server()? {
            Some((_, options)) => format!("in the database, schema {}", options.schema),
            None => self.outbox_path().display().to_string(),
        };
        Ok((self.found_outbox().await?, place))
    }

    async fn found_outbox(&self) -> anyhow::Result<Option<AnyOutbox>> {
        if let Some((address, options)) = self.outbox_server()? {
            return Ok(PostgresOutbox::open_existing(address, options).await?.map(AnyOutbox::Postgres));
        }
        let path = self.outbox_path();
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(AnyOutbox::Sqlite(SqliteOutbox::open_existing(&path, SqliteOutboxOptions::default()).await?)))
    }

    /// The change log, if one is named; made if it is not there.
    pub async fn made_change_log(&self) -> anyhow::Result<Option<ChangeLog>> {
        Ok(match self.change_log_place()? {
            None => None,
            Some(LogPlace::File(path)) => Some(ChangeLog::sqlite(path).await?),
            Some(LogPlace::Server(address, options)) => Some(ChangeLog::postgres(address, options).await?),
        })
    }

    /// The change log, if one is named; it has to be there, so that a slip makes no second one.
    pub async fn change_log(&self) -> anyhow::Result<Option<ChangeLog>> {
        let log = match self.change_log_place()? {
            None => return Ok(None),
            Some(LogPlace::File(path)) => {
                ensure!(
                    path.exists(),
                    "{}: there is no such file; name your service's database, or make a new one with `waybill-publisher init`",
                    path.display()
                );
                ChangeLog::existing_sqlite(path).await?
            }
            Some(LogPlace::Server(address, options)) => ChangeLog::existing_postgres(address, options).await?,
        };
        ensure!(log.is_some(), "there is no change log in that database yet; make it with `waybill-publisher init`");
        Ok(log)
    }

    fn change_log_place(&self) -> anyhow::Result<Option<LogPlace<'_>>> {
        let Some(place) = &self.change_log else { return Ok(None) };
        if let Some(path) = place.strip_prefix("sqlite:") {
            ensure!(!path.is_empty(), "change_log is \"sqlite:\"; it names a file, such as sqlite:shop.sqlite");
            return Ok(Some(LogPlace::File(Path::new(path))));
        }
        if place.starts_with("postgres://") || place.starts_with("postgresql://") {
            let options = PostgresChangeLogOptions { schema: self.change_log_schema.clone() };
            return Ok(Some(LogPlace::Server(place, options)));
        }
        // What else it says may be a secret.
        bail!("change_log is neither sqlite:PATH nor postgres://USER@HOST:PORT/DATABASE")
    }

    /// The change log, which this command is about.
    pub async fn needed_change_log(&self) -> anyhow::Result<ChangeLog> {
        let log = self.change_log().await?;
        log.context(
            "no change log is named: give --change-log sqlite:PATH or --change-log postgres://USER@HOST:PORT/DATABASE, or \
             change_log under [publisher] in waybill.toml",
        )
    }

    /// The table that services write.
    pub fn change_log_table(&self) -> String {
        self.change_log_schema()
            .map_or_else(|| "waybill_change_log".to_owned(), |schema| format!("{schema}.change_log"))
    }

    /// The log's schema as SQL names it, where it has one.
    pub fn change_log_schema(&self) -> Option<String> {
        let is_file = self.change_log.as_deref().is_none_or(|place| place.starts_with("sqlite:"));
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let quoted = || format!("\"{}\"", self.change_log_schema.replace('"', "\"\""));
        let schema = &self.change_log_schema;
        (!is_file).then(|| if schema.bytes().all(plain) { schema.clone() } else { quoted() })
    }

    /// The outbox; made, or brought to this program's schema.
    pub async fn outbox(&self) -> anyhow::Result<AnyOutbox> {
        if let Some((address, options)) = self.outbox_server()? {
            return Ok(AnyOutbox::Postgres(PostgresOutbox::open(address, options).await?));
        }
        std::fs::create_dir_all(&self.data).with_context(|| format!("{}: cannot be made", self.data.display()))?;
        Ok(AnyOutbox::Sqlite(SqliteOutbox::open(&self.outbox_path(), SqliteOutboxOptions::default()).await?))
    }

    /// How files are cut.
    pub fn follow_options(&self) -> anyhow::Result<FollowOptions> {
        let files = self.files.over(&TypeOptions::default(), "publisher.files")?;
        let mut types = BTreeMap::new();
        for (name, of_type) in &self.types {
            let place = format!("publisher.types.{name}");
            BlobType::new(name.as_str()).with_context(|| format!("[{place}]"))?;
            types.insert(name.clone(), of_type.over(&files, &place)?);
        }
        Ok(FollowOptions { files, types, ..FollowOptions::default() })
    }

    /// Whether one is named.
    #[must_use]
    pub fn has_change_log(&self) -> bool {
        self.change_log.is_some()
    }

    /// What a run reaches the bus and storage with.
    pub async fn reached(&self, local: Option<&Path>) -> anyhow::Result<Reached> {
        let Target { bus, topic, blob, container, ca_file } = self.target(local).await?;
        let tokens = account_tokens(bus, topic, blob, container, Duration::from_millis(self.token_life_ms));
        let bus_options = BusOptions { ca_file: ca_file.clone(), transport: self.transport, ..BusOptions::default() };
        Ok(Reached { tokens, bus_options, ca_file })
    }

    /// The publisher, with its keys from `--local` or the settings.
    pub async fn publisher(&self, local: Option<&Path>) -> anyhow::Result<Publisher<AnyOutbox>> {
        let compression = self.compression()?;
        ensure!(
            self.prune_hours == 0 || self.manifest_minutes > 0,
            "prune_hours is {} and manifest_minutes 0: `run` deletes nothing that no manifest names, and would make none; set \
             manifest_minutes, or prune on demand with prune_hours = 0",
            self.prune_hours
        );
        let Reached { tokens, bus_options, ca_file } = self.reached(local).await?;
        let publisher = Publisher::builder(tokens, &self.data)
            .name(&self.name)
            .compression(compression)
            .storage_patience(self.send_timeout())
            .manifest_every((self.manifest_minutes > 0).then(|| Duration::from_mins(self.manifest_minutes)))
            .prune_every((self.prune_hours > 0).then(|| Duration::from_hours(self.prune_hours)))
            .http_options(HttpOptions { ca_file, ..HttpOptions::default() })
            .bus_options(bus_options);
        Ok(publisher.build_on(self.outbox().await?)?)
    }

    async fn target(&self, local: Option<&Path>) -> anyhow::Result<Target> {
        if let Some(path) = local {
            let ready = local::ready_file(path).await?;
            return self.target_of(&ready).with_context(|| format!("{}", path.display()));
        }
        let bus = connection_string(
            "service_bus_connection_string",
            self.service_bus_connection_string.as_ref(),
            self.service_bus_connection_string_file.as_deref(),
            ("service_bus_namespace", self.service_bus_namespace.is_some()),
        )?;
        let blob = connection_string(
            "blob_connection_string",
            self.blob_connection_string.as_ref(),
            self.blob_connection_string_file.as_deref(),
            ("blob_endpoint", self.blob_endpoint.is_some()),
        )?;
        let key: Option<BusConnectionString> = bus.map(|text| text.parse()).transpose()?;
        let in_key = key.as_ref().and_then(|key| key.entity_path.clone());
        let topic = self.topic.clone().or(in_key).unwrap_or_else(|| TOPIC.to_owned());
        let blob: Option<BlobConnectionString> = blob.map(|text| text.parse()).transpose()?;
        let (bus, blob) = match (key, blob) {
            (Some(bus), Some(blob)) => {
                ensure!(
                    !self.entra.is_set_up(),
                    "{ENTRA} is set up and not used: both connection strings hold a key; name `service_bus_namespace` or \
                     `blob_endpoint` instead of one, or leave {ENTRA} out"
                );
                (Account::Key(bus), Account::Key(blob))
            }
            (bus, blob) => {
                let namespace = self.service_bus_namespace.as_deref().map(namespace).transpose()?;
                let account = self.blob_endpoint.as_ref().map(account).transpose()?;
                let [for_bus, for_blob] = self.identity(self.ca_file.as_ref(), None)?.map(Box::new);
                let by_identity = |endpoint: Option<Url>, what: &str| {
                    endpoint.with_context(|| format!("[publisher] has no `{what}`"))
                };
                let bus = match bus {
                    Some(key) => Account::Key(key),
                    None => Account::Identity {
                        endpoint: by_identity(namespace, "service_bus_namespace")?,
                        tokens: for_bus,
                    },
                };
                let blob = match blob {
                    Some(key) => Account::Key(key),
                    None => Account::Identity { endpoint: by_identity(account, "blob_endpoint")?, tokens: for_blob },
                };
                (bus, blob)
            }
        };
        Ok(Target { bus, topic, blob, container: self.container.clone(), ca_file: self.ca_file.clone() })
    }

    /// A running `local`: by the identity that is set up, where it can be one of `local`'s own, else by its keys.
    fn target_of(&self, ready: &ReadyFile) -> anyhow::Result<Target> {
        let bus = ready.service_bus_tls_connection_string.as_ref().unwrap_or(&ready.service_bus_connection_string);
        let bus: BusConnectionString = bus.parse()?;
        let blob: BlobConnectionString = ready.blob_connection_string.parse()?;
        let ca_file = self.ca_file.clone().or(ready.ca_file.as_ref().map(PathBuf::from));
        let (bus, blob) = if self.entra.is_for_local(ready) {
            let [for_bus, for_blob] = self.identity(ca_file.as_ref(), Some(ready))?.map(Box::new);
            (
                Account::Identity { endpoint: bus.endpoint, tokens: for_bus },
                Account::Identity { endpoint: blob.endpoint, tokens: for_blob },
            )
        } else {
            (Account::Key(bus), Account::Key(blob))
        };
        Ok(Target { bus, topic: ready.topic.clone(), blob, container: ready.container.clone(), ca_file })
    }

    /// The identity's access tokens for the bus and for storage.
    fn identity(&self, ca_file: Option<&PathBuf>, ready: Option<&ReadyFile>) -> anyhow::Result<[AccessTokens; 2]> {
        self.entra.refuse_scope(ENTRA)?;
        let http = HttpClient::new(&HttpOptions { ca_file: ca_file.cloned(), ..HttpOptions::default() })?;
        self.entra.tokens(ENTRA, &http, [BUS_SCOPE, BLOB_SCOPE], ready)
    }
}

/// A connection string, unless `instead` names where the identity goes.
fn connection_string(
    key: &str,
    direct: Option<&Hidden>,
    file: Option<&Path>,
    (instead, is_named): (&str, bool),
) -> anyhow::Result<Option<String>> {
    match (settings::secret(key, direct.map(Hidden::show), file)?, is_named) {
        (Some(_), true) => {
            bail!("[publisher] has `{key}` with a key and `{instead}` for {ENTRA}; leave one of them out")
        }
        (Some(text), false) => Ok(Some(text)),
        (None, true) => Ok(None),
        (None, false) => bail!(
            "no {key}: set WAYBILL_PUBLISHER__{}, or `{key}_file` under [publisher] in {}; or, without a key, `{instead}` \
             and {ENTRA}; or use --local READY_FILE with a running waybill-local",
            key.to_ascii_uppercase(),
            settings::DEFAULT_FILE
        ),
    }
}

/// `NAME.servicebus.windows.net` as an address.
fn namespace(host: &str) -> anyhow::Result<Url> {
    const WRONG: &str = "service_bus_namespace is the namespace's host, such as mybus.servicebus.windows.net";
    let bare = host.trim().trim_end_matches('/');
    let bare = bare.strip_prefix("sb://").or_else(|| bare.strip_prefix("amqps://")).unwrap_or(bare);
    let url = Url::parse(&format!("amqps://{bare}")).context(WRONG)?;
    let is_host = url.host_str().is_some_and(|host| host.contains('.') || host == "localhost");
    let is_all =
        url.path().is_empty() && url.query().is_none() && url.username().is_empty() && url.password().is_none();
    ensure!(is_host && is_all, "{WRONG}");
    Ok(url)
}

/// The account's address, over which an access token may go.
fn account(url: &Url) -> anyhow::Result<Url> {
    let is_all =
        url.query().is_none() && url.fragment().is_none() && url.username().is_empty() && url.password().is_none();
    ensure!(
        url.scheme() == "https" && url.has_host() && is_all,
        "blob_endpoint is the account's address, such as https://myaccount.blob.core.windows.net; access tokens go over https only"
    );
    Ok(url.clone())
}
