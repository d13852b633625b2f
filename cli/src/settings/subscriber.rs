//! `[subscriber]` of waybill.toml.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use waybill_azure::{
    blob::ContainerOptions,
    bus::{BusOptions, Transport},
    http::HttpOptions,
};
use waybill_contracts::{Entities, GrantLayout, Predicate, is_of_types};
use waybill_formats::{RowFilter, filter::FilterColumns};
use waybill_subscriber::{
    OnBadRow, Subscriber, SubscriberBuilder,
    apply::EntityPlans,
    cache::CacheOptions,
    fetch::HostAliases,
    inbox::{AnyInbox, InboxError, PostgresInbox, PostgresInboxOptions, Retention, SqliteInbox, SqliteInboxOptions},
    opening::once_there,
    sink::{self, AnySink},
};

use crate::{
    args::Common,
    settings::{
        self,
        tenant::{Reached, Tenant},
    },
};

/// The section. Every key has a default but the tenant's address and credential, and the sink.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Folder of our own state.
    pub data: PathBuf,
    /// The database that holds the inbox, where several subscribers share it; else it is a file in `data`.
    inbox: Option<String>,
    /// The schema in that database.
    inbox_schema: String,
    /// Where rows go.
    pub sink: Option<String>,
    /// The file that says what rows mean.
    pub entities: Option<PathBuf>,
    /// Work only these blobTypes; `*` stands for any characters.
    types: Option<Vec<String>>,
    /// Which rows are wanted of a blobType that no entity has.
    filters: BTreeMap<String, String>,
    /// Where they stand in the settings file.
    #[serde(skip)]
    filters_at: BTreeMap<String, Predicate>,
    /// `quarantine`, `skip` or `fail`.
    on_bad_row: BadRow,
    /// All of a file takes effect at once, or nothing of it.
    atomic: bool,
    /// Compare the plain bytes with `plainSha256`.
    verify_hash: bool,
    /// Drain the dead-letter queue too.
    dead_letters: bool,
    files_in_flight_max: NonZeroU32,
    /// As many as there are files, unless it is said.
    commits_in_flight_max: Option<NonZeroU32>,
    commit_rows_max: NonZeroU32,
    commit_bytes_max: Option<usize>,
    sort_bytes_max: usize,
    /// Bytes asked for in one ranged read.
    range_bytes: u64,
    /// Ranges of large blobs under way beside the first one of each download, of all files together.
    ranges_ahead_max: usize,
    drain_timeout_ms: u64,
    lease_ms: u64,
    /// Extra certificate authorities, PEM.
    ca_file: Option<PathBuf>,
    /// `auto`, `amqp` or `websocket`.
    transport: Transport,
    /// Where health and metrics are told; nowhere by default.
    pub health: Option<String>,
    /// What of the inbox is forgotten, and when; nothing by default.
    retention: RetentionDays,
    /// Copies of files, to be read instead of a download; none by default.
    cache: CacheSettings,
    storage: StorageSettings,
    tenant: Tenant,
}

/// `[subscriber.storage]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct StorageSettings {
    /// Hosts that messages name in the place of a grant's.
    aliases: HostAliases,
}

/// `[subscriber.retention]`.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RetentionDays {
    /// Lines of history of files that came to their end.
    history_days: Option<u32>,
    /// Files that came to their end.
    files_days: Option<u32>,
    /// The keys of those that were pruned.
    identities_days: Option<u32>,
}

/// `[subscriber.cache]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CacheSettings {
    /// The folder.
    dir: Option<PathBuf>,
    /// All copies together.
    bytes_max: Option<u64>,
    /// A copy goes so long after it was downloaded.
    age_days: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BadRow {
    #[default]
    Quarantine,
    Skip,
    Fail,
}

/// What flags say instead.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--inbox`.
    pub inbox: Option<String>,
    /// `--sink`.
    pub sink: Option<String>,
    /// `--entities`.
    pub entities: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data: ".waybill".into(),
            inbox: None,
            inbox_schema: PostgresInboxOptions::default().schema,
            sink: None,
            entities: None,
            types: None,
            filters: BTreeMap::new(),
            filters_at: BTreeMap::new(),
            on_bad_row: BadRow::Quarantine,
            atomic: false,
            verify_hash: false,
            dead_letters: true,
            files_in_flight_max: NonZeroU32::new(4).expect("four is not zero"),
            commits_in_flight_max: None,
            commit_rows_max: NonZeroU32::new(100_000).expect("it is not zero"),
            commit_bytes_max: None,
            sort_bytes_max: 48 << 20,
            range_bytes: 8 << 20,
            ranges_ahead_max: 4,
            drain_timeout_ms: 20_000,
            lease_ms: 60_000,
            ca_file: None,
            transport: Transport::Auto,
            health: None,
            retention: RetentionDays::default(),
            cache: CacheSettings::default(),
            storage: StorageSettings::default(),
            tenant: Tenant::default(),
        }
    }
}

#[allow(clippy::missing_errors_doc, reason = "each says which setting is wrong, or what cannot be reached or opened")]
impl Settings {
    /// File, environment, then flags; `program` is who says what --local takes the place of.
    pub fn load(program: &str, common: &Common, flags: &Flags) -> anyhow::Result<Self> {
        let mut settings: Self = settings::load("subscriber", common.config.as_deref(), std::env::vars())?;
        if !settings.filters.is_empty() {
            settings.filters_at = settings::predicates("subscriber", "filters", None, common.config.as_deref())?;
        }
        if common.local.is_some() && settings.tenant.names_another() {
            eprintln!(
                "{program}: --local wins: address and token are those of its ready file, and not those of \
                 [subscriber.tenant] (or of WAYBILL_SUBSCRIBER__TENANT__…)"
            );
        }
        if let Some(data) = &common.data {
            settings.data.clone_from(data);
        }
        let Flags { inbox, sink, entities } = flags;
        if let Some(inbox) = inbox {
            settings::refuse_password("--inbox", "WAYBILL_SUBSCRIBER__INBOX", inbox)?;
        }
        if let Some(sink) = sink {
            settings::refuse_password("--sink", "WAYBILL_SUBSCRIBER__SINK", sink)?;
        }
        settings.inbox = inbox.clone().or(settings.inbox);
        settings.sink = sink.clone().or(settings.sink);
        settings.entities = entities.clone().or(settings.entities);
        Ok(settings)
    }

    /// For one who republishes: with its own state in this folder, or this schema of the inbox's database. Which files and rows
    /// are wanted is for it to say, and sinks are none of its concern.
    #[must_use]
    pub fn for_republishing(mut self, data: &Path, inbox_schema: &str) -> Self {
        data.clone_into(&mut self.data);
        inbox_schema.clone_into(&mut self.inbox_schema);
        (self.sink, self.types) = (None, None);
        self.filters.clear();
        self.filters_at.clear();
        self
    }

    /// With the flag of commands that can be watched.
    #[must_use]
    pub fn watched(mut self, health: Option<String>) -> Self {
        self.health = health.or(self.health);
        self
    }

    /// Whether the inbox is in a database.
    #[must_use]
    pub fn has_shared_inbox(&self) -> bool {
        self.inbox.is_some()
    }

    fn inbox_path(&self) -> PathBuf {
        self.data.join("inbox.sqlite")
    }

    /// Where the inbox is or would be, without user or password.
    pub fn inbox_place(&self) -> anyhow::Result<String> {
        Ok(match self.inbox_address()? {
            None => self.inbox_path().display().to_string(),
            Some(address) => PostgresInbox::place(address, &self.inbox_schema)?,
        })
    }

    /// The database of the inbox, where it has one.
    fn inbox_address(&self) -> anyhow::Result<Option<&str>> {
        match self.inbox.as_deref() {
            None => Ok(None),
            Some(address) if ["postgres://", "postgresql://"].iter().any(|kind| address.starts_with(kind)) => {
                Ok(Some(address))
            }
            // It may hold a password.
            Some(_) => bail!(
                "`inbox` is postgres://USER@HOST:PORT/DATABASE, where several subscribers share it; leave it out for a file in the \
                 data folder"
            ),
        }
    }

    /// The inbox; made if it is not there.
    pub async fn inbox(&self) -> anyhow::Result<AnyInbox> {
        Ok(self.open_inbox(self.inbox_to_open()?).await?)
    }

    /// The same, once it is there; `None` when it was stopped before. `problem` is told why it is not.
    pub async fn inbox_once_there(
        &self,
        patience: Option<Duration>,
        stop: &CancellationToken,
        problem: impl FnMut(&str) + Send,
    ) -> anyhow::Result<Option<AnyInbox>> {
        let address = self.inbox_to_open()?;
        let opened = once_there("the inbox", patience, stop, problem, || self.open_inbox(address)).await;
        opened.map_err(|error| match patience {
            Some(patience) if error.passes() => {
                anyhow!(error).context(format!("the inbox was out of reach for {} s", patience.as_secs()))
            }
            _ => error.into(),
        })
    }

    /// Its address, if it is in a database; else its folder is there.
    fn inbox_to_open(&self) -> anyhow::Result<Option<&str>> {
        let address = self.inbox_address()?;
        if address.is_none() {
            self.make_data()?;
        }
        Ok(address)
    }

    async fn open_inbox(&self, address: Option<&str>) -> Result<AnyInbox, InboxError> {
        match address {
            Some(address) => Ok(AnyInbox::Postgres(PostgresInbox::open(address, self.postgres_options()).await?)),
            None => self.open_file().await,
        }
    }

    fn make_data(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.data)
            .with_context(|| format!("cannot make the data folder {}", self.data.display()))
    }

    /// The inbox, if there is one: for commands that only look.
    pub async fn existing_inbox(&self) -> anyhow::Result<AnyInbox> {
        if let Some(inbox) = self.inbox_if_there().await? {
            return Ok(inbox);
        }
        let place = self.inbox_place()?;
        match self.inbox {
            None => bail!(
                "no inbox at {place}; give the folder with --data, or the database with --inbox, or receive first with \
                 `waybill-subscriber run`"
            ),
            Some(_) => bail!("no inbox in {place}; receive first with `waybill-subscriber run`"),
        }
    }

    /// The same, where none is no error.
    pub async fn inbox_if_there(&self) -> anyhow::Result<Option<AnyInbox>> {
        let path = self.inbox_path();
        Ok(match self.inbox_address()? {
            Some(address) => {
                PostgresInbox::open_existing(address, self.postgres_options()).await?.map(AnyInbox::Postgres)
            }
            None if path.exists() => Some(AnyInbox::Sqlite(SqliteInbox::open_to_look(&path).await?)),
            None => None,
        })
    }

    /// The inbox, if there is one: for a person's decisions.
    pub async fn inbox_to_change(&self) -> anyhow::Result<AnyInbox> {
        match self.existing_inbox().await? {
            AnyInbox::Sqlite(_) => Ok(self.open_file().await?),
            shared => Ok(shared),
        }
    }

    async fn open_file(&self) -> Result<AnyInbox, InboxError> {
        Ok(AnyInbox::Sqlite(SqliteInbox::open(&self.inbox_path(), self.inbox_options()).await?))
    }

    fn inbox_options(&self) -> SqliteInboxOptions {
        SqliteInboxOptions { lease: Duration::from_millis(self.lease_ms), ..SqliteInboxOptions::default() }
    }

    fn postgres_options(&self) -> PostgresInboxOptions {
        PostgresInboxOptions { lease: Duration::from_millis(self.lease_ms), schema: self.inbox_schema.clone() }
    }

    /// How the bus is reached.
    pub fn bus_options(&self, ca_file: Option<PathBuf>) -> BusOptions {
        BusOptions { ca_file, transport: self.transport, ..BusOptions::default() }
    }

    /// Where TenantService's answer holds each field.
    pub fn grant_layout(&self) -> GrantLayout {
        self.tenant.layout.clone()
    }

    /// Where rows go.
    pub fn sink(&self) -> anyhow::Result<&str> {
        match &self.sink {
            Some(target) => Ok(target),
            None => bail!(
                "no sink: say where rows go with --sink sqlite:PATH, postgres://USER@HOST:PORT/DATABASE, dir:PATH or stdout, or \
                 set `sink` under [subscriber]"
            ),
        }
    }

    /// The sink.
    pub async fn open_sink(&self, entities: &Entities) -> anyhow::Result<AnySink> {
        Ok(sink::open(self.sink_to_open()?, entities, &self.data).await?)
    }

    /// Its name; the folder for its progress is there.
    pub fn sink_to_open(&self) -> anyhow::Result<&str> {
        let name = self.sink()?;
        self.make_data()?;
        Ok(name)
    }

    /// The entities as they are written.
    pub fn read_entities(&self) -> anyhow::Result<Entities> {
        let Some(path) = &self.entities else { return Ok(Entities::default()) };
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Entities::parse(&text, &path.display().to_string())?)
    }

    /// The entities, once all that the configuration says of types, entities and filters is checked as a run checks it; each
    /// mistake with its file and line.
    pub fn checked_entities(&self) -> anyhow::Result<Entities> {
        let entities = self.read_entities()?;
        EntityPlans::compile(&entities)?;
        entities.check_types(self.types())?;
        for (blob_type, text) in &self.filters {
            let at_line = self.filters_at.get(blob_type).filter(|placed| placed.text() == text);
            let mistake = |at: usize, problem: String| match at_line {
                Some(placed) => anyhow!(placed.error(at, &format!("the filter of {blob_type:?}: {problem}"))),
                None => anyhow!(
                    "environment, WAYBILL_SUBSCRIBER__FILTERS__…: the filter of {blob_type:?}: at character {}: {problem}",
                    at + 1
                ),
            };
            if blob_type.contains('*') {
                return Err(mistake(0, "a star stands for nothing here; name each blobType".to_owned()));
            }
            if let Some(entity) = entities.for_type(blob_type) {
                let problem =
                    format!("its rows belong to entity {:?}; write the predicate there, as `where`", entity.name);
                return Err(mistake(0, problem));
            }
            RowFilter::compile(text, &FilterColumns::default()).map_err(|error| mistake(error.at, error.problem))?;
        }
        Ok(entities)
    }

    /// What of the inbox is forgotten, and when.
    pub fn retention(&self) -> Retention {
        let days = |days: Option<u32>| days.map(|days| Duration::from_secs(u64::from(days) * 86_400));
        let RetentionDays { history_days, files_days, identities_days } = self.retention;
        Retention { history: days(history_days), files: days(files_days), identities: days(identities_days) }
    }

    /// Where copies of files are kept, and how many.
    pub fn cache(&self) -> anyhow::Result<Option<CacheOptions>> {
        let CacheSettings { dir, bytes_max, age_days } = &self.cache;
        let Some(dir) = dir else {
            if bytes_max.is_some() || age_days.is_some() {
                bail!("[subscriber.cache] says how much is kept, but not where: set `dir`, or leave the section out");
            }
            return Ok(None);
        };
        let mut options = CacheOptions::new(dir);
        options.bytes_max = bytes_max.unwrap_or(options.bytes_max);
        options.age_max = age_days.map_or(options.age_max, |days| Duration::from_secs(u64::from(days) * 86_400));
        Ok(Some(options))
    }

    /// Only these types, as configured.
    pub fn types(&self) -> Option<&[String]> {
        self.types.as_deref()
    }

    /// Whether a blobType is among them.
    pub fn wants(&self, blob_type: &str) -> bool {
        self.types().is_none_or(|types| is_of_types(blob_type, types))
    }

    /// Predicates by the blobType, of those that no entity has.
    pub fn filters(&self) -> &BTreeMap<String, String> {
        &self.filters
    }

    /// Where the files of a replay or rebuild into this sink are listed while it goes on.
    pub fn copy_path(&self, what: &str) -> anyhow::Result<PathBuf> {
        let mut hasher = DefaultHasher::new();
        self.sink()?.hash(&mut hasher);
        Ok(self.data.join(what).join(format!("{:016x}.sqlite", hasher.finish())))
    }

    /// An inbox at [`Settings::copy_path`], the one that is there or a new one.
    pub async fn copy_inbox(&self, path: &Path) -> anyhow::Result<AnyInbox> {
        let folder = path.parent().context("the copy is in a folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(AnyInbox::Sqlite(SqliteInbox::open(path, self.inbox_options()).await?))
    }

    /// The subscriber, with its tenant from `--local` or the settings.
    pub async fn subscriber(&self, local: Option<&Path>) -> anyhow::Result<Subscriber<AnyInbox>> {
        self.subscriber_with(local, |builder| builder).await
    }

    /// The same, built with something more.
    pub async fn subscriber_with(
        &self,
        local: Option<&Path>,
        more: impl FnOnce(SubscriberBuilder) -> SubscriberBuilder,
    ) -> anyhow::Result<Subscriber<AnyInbox>> {
        // A missing tenant is said before a folder is made.
        self.tenant(local).await?;
        self.build(self.inbox().await?, local, more).await
    }

    /// The same, with another inbox.
    pub async fn subscriber_on(&self, inbox: AnyInbox, local: Option<&Path>) -> anyhow::Result<Subscriber<AnyInbox>> {
        self.build(inbox, local, |builder| builder).await
    }

    /// The same, whose start waits for its sink for no longer than this.
    pub async fn subscriber_in(
        &self,
        inbox: AnyInbox,
        local: Option<&Path>,
        patience: Option<Duration>,
    ) -> anyhow::Result<Subscriber<AnyInbox>> {
        let patient = |builder: SubscriberBuilder| match patience {
            Some(patience) => builder.start_patience(patience),
            None => builder,
        };
        self.build(inbox, local, patient).await
    }

    /// One that only looks.
    pub async fn looker(&self, local: Option<&Path>) -> anyhow::Result<Subscriber<AnyInbox>> {
        self.looker_with(local, |builder| builder).await
    }

    /// The same, built with something more.
    pub async fn looker_with(
        &self,
        local: Option<&Path>,
        more: impl FnOnce(SubscriberBuilder) -> SubscriberBuilder,
    ) -> anyhow::Result<Subscriber<AnyInbox>> {
        self.build(self.existing_inbox().await?, local, more).await
    }

    async fn build(
        &self,
        inbox: AnyInbox,
        local: Option<&Path>,
        more: impl FnOnce(SubscriberBuilder) -> SubscriberBuilder,
    ) -> anyhow::Result<Subscriber<AnyInbox>> {
        let Reached { url, credential, ca_file } = self.tenant(local).await?;
        Ok(more(self.builder(ca_file)?).with_tenant(inbox, &url, credential)?)
    }

    /// Where grants come from.
    pub async fn tenant(&self, local: Option<&Path>) -> anyhow::Result<Reached> {
        self.tenant.reach(local, self.ca_file.as_ref()).await
    }

    fn builder(&self, ca_file: Option<PathBuf>) -> anyhow::Result<SubscriberBuilder> {
        let mut builder = Subscriber::<SqliteInbox>::builder()
            .entities(self.checked_entities()?)
            .files_in_flight_max(self.files_in_flight_max)
            .commit_rows_max(self.commit_rows_max)
            .on_bad_row(match self.on_bad_row {
                BadRow::Quarantine => OnBadRow::Quarantine,
                BadRow::Skip => OnBadRow::Skip,
                BadRow::Fail => OnBadRow::Fail,
            })
            .atomic(self.atomic)
            .verify_hash(self.verify_hash)
            .dead_letters(self.dead_letters)
            .drain_timeout(Duration::from_millis(self.drain_timeout_ms))
            .sort_bytes_max(self.sort_bytes_max)
            .retention(self.retention())
            .grant_layout(self.grant_layout())
            .http(HttpOptions { ca_file: ca_file.clone(), ..HttpOptions::default() })
            .bus(self.bus_options(ca_file))
            .blob(ContainerOptions { range_bytes: self.range_bytes, ..ContainerOptions::default() })
            .ranges_ahead_max(self.ranges_ahead_max)
            .host_aliases(self.storage.aliases.clone());
        if let Some(commits) = self.commits_in_flight_max {
            builder = builder.commits_in_flight_max(commits);
        }
        if let Some(cache) = self.cache()? {
            builder = builder.cache(cache);
        }
        if let Some(types) = &self.types {
            builder = builder.types(types.iter().cloned());
        }
        if let Some(bytes) = self.commit_bytes_max {
            builder = builder.commit_bytes_max(bytes);
        }
        for (blob_type, predicate) in &self.filters {
            builder = builder.filter(blob_type, predicate);
        }
        Ok(builder)
    }
}
