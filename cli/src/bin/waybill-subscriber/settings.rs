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
use waybill_azure::{
    blob::ContainerOptions,
    bus::{BusOptions, Transport},
    http::HttpOptions,
};
use waybill_cli::{args::Common, settings};
use waybill_contracts::{Entities, GrantLayout, Predicate, is_of_types};
use waybill_formats::{RowFilter, filter::FilterColumns};
use waybill_subscriber::{
    OnBadRow, Subscriber, SubscriberBuilder,
    apply::EntityPlans,
    inbox::{SqliteInbox, SqliteInboxOptions},
    sink::{self, AnySink},
};

use crate::{
    Target,
    tenant::{Reached, Tenant},
};

/// The section. Every key has a default but the tenant's address and credential, and the sink.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Folder of our own state.
    pub(crate) data: PathBuf,
    /// Where rows go.
    pub(crate) sink: Option<String>,
    /// The file that says what rows mean.
    pub(crate) entities: Option<PathBuf>,
    /// Work only these blobTypes; `*` stands for any characters.
    types: Option<Vec<String>>,
    /// Which rows are wanted of a blobType that no entity has.
    filters: BTreeMap<String, String>,
    /// Where they stand in the settings file.
    #[serde(skip)]
    filters_at: BTreeMap<String, Predicate>,
    /// `quarantine`, `skip` or `fail`.
    on_bad_row: BadRow,
    /// Compare the plain bytes with `plainSha256`.
    verify_hash: bool,
    /// Drain the dead-letter queue too.
    dead_letters: bool,
    files_in_flight_max: NonZeroU32,
    commit_rows_max: NonZeroU32,
    commit_bytes_max: usize,
    /// Bytes asked for in one ranged read.
    range_bytes: u64,
    drain_timeout_ms: u64,
    lease_ms: u64,
    /// Extra certificate authorities, PEM.
    ca_file: Option<PathBuf>,
    /// `auto`, `amqp` or `websocket`.
    transport: Transport,
    tenant: Tenant,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BadRow {
    #[default]
    Quarantine,
    Skip,
    Fail,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data: ".waybill".into(),
            sink: None,
            entities: None,
            types: None,
            filters: BTreeMap::new(),
            filters_at: BTreeMap::new(),
            on_bad_row: BadRow::Quarantine,
            verify_hash: false,
            dead_letters: true,
            files_in_flight_max: NonZeroU32::new(4).expect("four is not zero"),
            commit_rows_max: NonZeroU32::new(100_000).expect("it is not zero"),
            commit_bytes_max: 4 << 20,
            range_bytes: 8 << 20,
            drain_timeout_ms: 20_000,
            lease_ms: 60_000,
            ca_file: None,
            transport: Transport::Auto,
            tenant: Tenant::default(),
        }
    }
}

impl Settings {
    /// File, environment, then flags.
    pub(crate) fn load(common: &Common, target: Option<&Target>) -> anyhow::Result<Self> {
        let mut settings: Self = settings::load("subscriber", common.config.as_deref(), std::env::vars())?;
        if !settings.filters.is_empty() {
            settings.filters_at = settings::predicates("subscriber", "filters", common.config.as_deref())?;
        }
        if let Some(data) = &common.data {
            settings.data.clone_from(data);
        }
        if let Some(target) = target {
            settings.sink = target.sink.clone().or(settings.sink);
            settings.entities = target.entities.clone().or(settings.entities);
        }
        Ok(settings)
    }

    pub(crate) fn inbox_path(&self) -> PathBuf {
        self.data.join("inbox.sqlite")
    }

    pub(crate) async fn inbox(&self) -> anyhow::Result<SqliteInbox> {
        self.make_data()?;
        self.open_inbox().await
    }

    fn make_data(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.data)
            .with_context(|| format!("cannot make the data folder {}", self.data.display()))
    }

    /// The inbox, if there is one: for commands that only look.
    pub(crate) async fn existing_inbox(&self) -> anyhow::Result<SqliteInbox> {
        let path = self.inbox_path();
        if !self.has_inbox() {
            bail!(
                "no inbox at {}; give the folder with --data, or receive first with `waybill-subscriber run`",
                path.display()
            );
        }
        Ok(SqliteInbox::open_to_look(&path).await?)
    }

    /// Whether there is one to look at.
    pub(crate) fn has_inbox(&self) -> bool {
        self.inbox_path().exists()
    }

    /// The inbox, if there is one: for a person's decisions.
    pub(crate) async fn inbox_to_change(&self) -> anyhow::Result<SqliteInbox> {
        self.existing_inbox().await?;
        self.open_inbox().await
    }

    async fn open_inbox(&self) -> anyhow::Result<SqliteInbox> {
        Ok(SqliteInbox::open(&self.inbox_path(), self.inbox_options()).await?)
    }

    fn inbox_options(&self) -> SqliteInboxOptions {
        SqliteInboxOptions { lease: Duration::from_millis(self.lease_ms), ..SqliteInboxOptions::default() }
    }

    /// How the bus is reached.
    pub(crate) fn bus_options(&self, ca_file: Option<PathBuf>) -> BusOptions {
        BusOptions { ca_file, transport: self.transport, ..BusOptions::default() }
    }

    /// Where TenantService's answer holds each field.
    pub(crate) fn grant_layout(&self) -> GrantLayout {
        self.tenant.layout.clone()
    }

    /// Where rows go.
    pub(crate) fn sink(&self) -> anyhow::Result<&str> {
        match &self.sink {
            Some(target) => Ok(target),
            None => bail!(
                "no sink: say where rows go with --sink sqlite:PATH, postgres://USER@HOST:PORT/DATABASE, dir:PATH or stdout, or \
                 set `sink` under [subscriber]"
            ),
        }
    }

    pub(crate) async fn open_sink(&self, entities: &Entities) -> anyhow::Result<AnySink> {
        self.make_data()?;
        Ok(sink::open(self.sink()?, entities, &self.data).await?)
    }

    pub(crate) fn read_entities(&self) -> anyhow::Result<Entities> {
        let Some(path) = &self.entities else { return Ok(Entities::default()) };
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Entities::parse(&text, &path.display().to_string())?)
    }

    /// The entities, once all that the configuration says of types, entities and filters is checked as a run checks it; each
    /// mistake with its file and line.
    pub(crate) fn checked_entities(&self) -> anyhow::Result<Entities> {
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

    /// Only these types, as configured.
    pub(crate) fn types(&self) -> Option<&[String]> {
        self.types.as_deref()
    }

    /// Whether a blobType is among them.
    pub(crate) fn wants(&self, blob_type: &str) -> bool {
        self.types().is_none_or(|types| is_of_types(blob_type, types))
    }

    /// Predicates by the blobType, of those that no entity has.
    pub(crate) fn filters(&self) -> &BTreeMap<String, String> {
        &self.filters
    }

    /// Where the files of a replay or rebuild into this sink are listed while it goes on.
    pub(crate) fn copy_path(&self, what: &str) -> anyhow::Result<PathBuf> {
        let mut hasher = DefaultHasher::new();
        self.sink()?.hash(&mut hasher);
        Ok(self.data.join(what).join(format!("{:016x}.sqlite", hasher.finish())))
    }

    /// An inbox at [`Settings::copy_path`], the one that is there or a new one.
    pub(crate) async fn copy_inbox(&self, path: &Path) -> anyhow::Result<SqliteInbox> {
        let folder = path.parent().context("the copy is in a folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        Ok(SqliteInbox::open(path, self.inbox_options()).await?)
    }

    /// The subscriber, with its tenant from `--local` or the settings.
    pub(crate) async fn subscriber(&self, local: Option<&Path>) -> anyhow::Result<Subscriber<SqliteInbox>> {
        // A missing tenant is said before a folder is made.
        self.tenant(local).await?;
        self.subscriber_on(self.inbox().await?, local).await
    }

    /// The same, with another inbox.
    pub(crate) async fn subscriber_on(
        &self,
        inbox: SqliteInbox,
        local: Option<&Path>,
    ) -> anyhow::Result<Subscriber<SqliteInbox>> {
        let Reached { url, credential, ca_file } = self.tenant(local).await?;
        let builder = self.builder(ca_file)?;
        Ok(builder.with_tenant(inbox, &url, credential)?)
    }

    /// One that only looks.
    pub(crate) async fn looker(&self, local: Option<&Path>) -> anyhow::Result<Subscriber<SqliteInbox>> {
        let inbox = self.existing_inbox().await?;
        let Reached { url, credential, ca_file } = self.tenant(local).await?;
        Ok(self.builder(ca_file)?.with_tenant(inbox, &url, credential)?)
    }

    pub(crate) async fn tenant(&self, local: Option<&Path>) -> anyhow::Result<Reached> {
        self.tenant.reach(local, self.ca_file.as_ref()).await
    }

    fn builder(&self, ca_file: Option<PathBuf>) -> anyhow::Result<SubscriberBuilder> {
        let mut builder = Subscriber::<SqliteInbox>::builder()
            .entities(self.checked_entities()?)
            .files_in_flight_max(self.files_in_flight_max)
            .commit_rows_max(self.commit_rows_max)
            .commit_bytes_max(self.commit_bytes_max)
            .on_bad_row(match self.on_bad_row {
                BadRow::Quarantine => OnBadRow::Quarantine,
                BadRow::Skip => OnBadRow::Skip,
                BadRow::Fail => OnBadRow::Fail,
            })
            .verify_hash(self.verify_hash)
            .dead_letters(self.dead_letters)
            .drain_timeout(Duration::from_millis(self.drain_timeout_ms))
            .lease(Duration::from_millis(self.lease_ms))
            .grant_layout(self.grant_layout())
            .http(HttpOptions { ca_file: ca_file.clone(), ..HttpOptions::default() })
            .bus(self.bus_options(ca_file))
            .blob(ContainerOptions { range_bytes: self.range_bytes, ..ContainerOptions::default() });
        if let Some(types) = &self.types {
            builder = builder.types(types.iter().cloned());
        }
        for (blob_type, predicate) in &self.filters {
            builder = builder.filter(blob_type, predicate);
        }
        Ok(builder)
    }
}
