//! `[republish]` of waybill.toml. Where files come from is `[subscriber]`'s to say, where they go `[publisher]`'s.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{anyhow, bail};
use serde::{Deserialize, Serialize};
use waybill_cli::{
    args::Common,
    settings::{
        self,
        publisher::{self, FileKind},
        subscriber::{self, Flags},
    },
    work::Local,
};
use waybill_contracts::Predicate;
use waybill_formats::Compression;
use waybill_publisher::outbox::AnyOutbox;
use waybill_republish::{Job, JobError, Jobs, Republisher, RepublisherOptions};
use waybill_subscriber::inbox::AnyInbox;

use crate::PROGRAM;

const SECTION: &str = "republish";

/// With its inbox and outbox here or in databases.
pub(crate) type Republishing = Republisher<AnyInbox, AnyOutbox>;

/// The section. Every key has a default but the types.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Section {
    /// Folder of our own state, in which a folder `republish` has inbox and outbox.
    data: PathBuf,
    /// Schemas in the databases of inbox and outbox, where these are in databases. A sink and a service have others.
    inbox_schema: String,
    outbox_schema: String,
    files_in_flight_max: NonZeroU32,
    drain_timeout_ms: u64,
    /// Where health and metrics are told; nowhere by default.
    health: Option<String>,
    /// By the output's blobType.
    types: BTreeMap<String, Output>,
}

/// `[republish.types.TYPE]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Output {
    from: Vec<String>,
    #[serde(rename = "where")]
    filter: Option<String>,
    fields: Option<Vec<String>>,
    format: FileKind,
    keep_days: Option<NonZeroU32>,
}

impl Default for Section {
    fn default() -> Self {
        let options = RepublisherOptions::default();
        Self {
            data: ".waybill".into(),
            inbox_schema: "waybill_republish_inbox".to_owned(),
            outbox_schema: "waybill_republish_outbox".to_owned(),
            files_in_flight_max: options.files_in_flight_max,
            drain_timeout_ms: u64::try_from(options.drain_timeout.as_millis()).unwrap_or(u64::MAX),
            health: None,
            types: BTreeMap::new(),
        }
    }
}

/// All three sections, of one folder.
#[derive(Debug)]
pub(crate) struct Settings {
    republish: Section,
    /// Where the filters stand in the settings file.
    filters_at: BTreeMap<String, Predicate>,
    from: subscriber::Settings,
    to: publisher::Settings,
}

impl Settings {
    /// File, environment, then flags.
    pub(crate) fn load(common: &Common, entities: Option<PathBuf>) -> anyhow::Result<Self> {
        let file = common.config.as_deref();
        let mut republish: Section = settings::load(SECTION, file, std::env::vars())?;
        if let Some(data) = &common.data {
            republish.data.clone_from(data);
        }
        // A sink keeps its inbox elsewhere, and a service its outbox: what two share, one takes away from the other.
        let folder = republish.data.join(SECTION);
        let from = subscriber::Settings::load(PROGRAM, common, &Flags { entities, ..Flags::default() })?;
        let filters_at = settings::predicates(SECTION, "types", Some("where"), file)?;
        let to = publisher::Settings::load(common, None)?;
        let from = from.for_republishing(&folder, &republish.inbox_schema);
        let to = to.for_republishing(&folder, &republish.outbox_schema);
        Ok(Self { republish, filters_at, from, to })
    }

    /// Where health and metrics are told, if anywhere.
    pub(crate) fn health(&self) -> Option<&str> {
        self.republish.health.as_deref()
    }

    /// How files are packed.
    pub(crate) fn compression(&self) -> anyhow::Result<Compression> {
        self.to.compression()
    }

    /// The jobs, checked; each mistake with its file and line, where it has one.
    pub(crate) fn jobs(&self) -> anyhow::Result<Jobs> {
        if self.republish.types.is_empty() {
            bail!(
                "nothing to republish: name an output under [republish.types.TYPE] in {}, with `from`",
                settings::DEFAULT_FILE
            );
        }
        let jobs: Vec<Job> = self.republish.types.iter().map(|(to, output)| output.job(to)).collect();
        Jobs::compile(&jobs, &self.from.checked_entities()?).map_err(|error| self.placed(error))
    }

    fn placed(&self, error: JobError) -> anyhow::Error {
        let place = format!("[{SECTION}.types.{}]", error.to);
        let Some(at) = error.filter_at else { return anyhow!("{place}: {}", error.problem) };
        let text = self.republish.types.get(&error.to).and_then(|output| output.filter.as_deref());
        match self.filters_at.get(&error.to).filter(|placed| Some(placed.text()) == text) {
            Some(placed) => anyhow!(placed.error(at, &format!("{place}: `where`: {}", error.problem))),
            None => anyhow!("{place}: `where`, at character {}: {}", at + 1, error.problem),
        }
    }

    /// All of it, ready to run. A run that is to end by itself waits for its messages as long as `publish` does; a stop does not
    /// take so long.
    pub(crate) async fn republisher(&self, local: Option<&Path>, ends: bool) -> anyhow::Result<Republishing> {
        let jobs = self.jobs()?;
        let publisher = self.to.publisher(local).await?;
        let subscriber = self.from.subscriber_with(local, |builder| jobs.prepare(builder)).await?;
        let mut options = RepublisherOptions {
            files_in_flight_max: self.republish.files_in_flight_max,
            drain_timeout: Duration::from_millis(self.republish.drain_timeout_ms),
            ..RepublisherOptions::default()
        };
        if ends {
            options.send_timeout = self.to.send_timeout();
        }
        Ok(Republisher::new(jobs, subscriber, publisher, options))
    }

    /// How a command of the subscriber looks into our inbox, for a hint.
    pub(crate) fn looking(&self, command: &str) -> String {
        let data = self.republish.data.join(SECTION);
        match self.from.has_shared_inbox() {
            false => format!("`{command} --data {}`", data.display()),
            true => format!("`WAYBILL_SUBSCRIBER__INBOX_SCHEMA={} {command}`", self.republish.inbox_schema),
        }
    }

    /// One that only looks, and the jobs.
    pub(crate) async fn looker(&self, local: Option<&Path>) -> anyhow::Result<(Jobs, Local)> {
        let jobs = self.jobs()?;
        if self.from.inbox_if_there().await?.is_none() {
            bail!(
                "no inbox in {}; to receive without publishing: {}",
                self.from.inbox_place()?,
                self.looking("waybill-subscriber receive")
            );
        }
        let subscriber = self.from.looker_with(local, |builder| jobs.prepare(builder)).await?;
        Ok((jobs, subscriber))
    }
}

impl Output {
    fn job(&self, to: &str) -> Job {
        let Self { from, filter, fields, format, keep_days } = self;
        let mut job = Job::new(to, from.iter().cloned()).format((*format).into());
        if let Some(filter) = filter {
            job = job.filter(filter);
        }
        if let Some(fields) = fields {
            job = job.fields(fields.iter().cloned());
        }
        if let Some(days) = keep_days {
            job = job.keep(Duration::from_secs(u64::from(days.get()) * 86_400));
        }
        job
    }
}
