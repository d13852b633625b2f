//! `[publisher]` of waybill.toml.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use waybill_azure::{
    bus::{BusOptions, Transport},
    connection_string::{BlobConnectionString, BusConnectionString, key_tokens},
    http::HttpOptions,
};
use waybill_cli::{
    args::Common,
    local,
    settings::{self, Hidden},
};
use waybill_formats::Compression;
use waybill_publisher::{
    Publisher,
    outbox::{SqliteOutbox, SqliteOutboxOptions},
};

/// The topic when neither the settings nor the connection string name one.
const TOPIC: &str = "exports";

/// The section. Every key has a default but the two connection strings.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Folder of our own state.
    data: PathBuf,
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
    token_life_ms: u64,
    /// Extra certificate authorities, PEM.
    ca_file: Option<PathBuf>,
    /// `auto`, `amqp` or `websocket`.
    transport: Transport,
    send_timeout_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data: ".waybill".into(),
            name: "waybill".to_owned(),
            topic: None,
            container: "batchtoprocess".to_owned(),
            compression_level: 4,
            service_bus_connection_string: None,
            service_bus_connection_string_file: None,
            blob_connection_string: None,
            blob_connection_string_file: None,
            token_life_ms: 3_600_000,
            ca_file: None,
            transport: Transport::Auto,
            send_timeout_ms: 60_000,
        }
    }
}

/// Where files and messages go, and the keys to it.
struct Target {
    bus: BusConnectionString,
    topic: String,
    blob: BlobConnectionString,
    container: String,
    /// Whom to trust besides the system's authorities.
    ca_file: Option<PathBuf>,
}

impl Settings {
    /// File, environment, then flags.
    pub(crate) fn load(common: &Common) -> anyhow::Result<Self> {
        let mut settings: Self = settings::load("publisher", common.config.as_deref(), std::env::vars())?;
        if let Some(data) = &common.data {
            settings.data.clone_from(data);
        }
        Ok(settings)
    }

    /// How long `publish` tries.
    pub(crate) fn send_timeout(&self) -> Duration {
        Duration::from_millis(self.send_timeout_ms)
    }

    pub(crate) fn outbox_path(&self) -> PathBuf {
        self.data.join(SqliteOutbox::FILE)
    }

    /// The outbox, if there is one: for commands that only look.
    pub(crate) async fn existing_outbox(&self) -> anyhow::Result<SqliteOutbox> {
        let path = self.outbox_path();
        if !path.exists() {
            bail!(
                "no outbox at {}; give the folder with --data, or publish first with `waybill-publisher publish`",
                path.display()
            );
        }
        Ok(SqliteOutbox::open(&path, SqliteOutboxOptions::default()).await?)
    }

    /// The publisher, with its keys from `--local` or the settings.
    pub(crate) async fn publisher(&self, local: Option<&Path>) -> anyhow::Result<Publisher> {
        ensure!(self.compression_level <= 9, "compression_level is {}; it is 0 to 9", self.compression_level);
        let compression = match self.compression_level {
            0 => Compression::None,
            level => Compression::Gzip(level),
        };
        let Target { bus, topic, blob, container, ca_file } = self.target(local).await?;
        let tokens = key_tokens(bus, topic, blob, container, Duration::from_millis(self.token_life_ms));
        let publisher = Publisher::builder(tokens, &self.data)
            .name(&self.name)
            .compression(compression)
            .storage_patience(self.send_timeout())
            .http_options(HttpOptions { ca_file: ca_file.clone(), ..HttpOptions::default() })
            .bus_options(BusOptions { ca_file, transport: self.transport, ..BusOptions::default() });
        Ok(publisher.build().await?)
    }

    async fn target(&self, local: Option<&Path>) -> anyhow::Result<Target> {
        if let Some(path) = local {
            let ready = local::ready_file(path).await?;
            let within = || format!("{}", path.display());
            return Ok(Target {
                bus: ready
                    .service_bus_tls_connection_string
                    .unwrap_or(ready.service_bus_connection_string)
                    .parse()
                    .with_context(within)?,
                topic: ready.topic,
                blob: ready.blob_connection_string.parse().with_context(within)?,
                container: ready.container,
                ca_file: self.ca_file.clone().or(ready.ca_file.map(PathBuf::from)),
            });
        }
        let bus: BusConnectionString = connection_string(
            "service_bus_connection_string",
            self.service_bus_connection_string.as_ref(),
            self.service_bus_connection_string_file.as_deref(),
        )?
        .parse()?;
        let blob = connection_string(
            "blob_connection_string",
            self.blob_connection_string.as_ref(),
            self.blob_connection_string_file.as_deref(),
        )?
        .parse()?;
        let topic = self.topic.clone().or_else(|| bus.entity_path.clone()).unwrap_or_else(|| TOPIC.to_owned());
        Ok(Target { bus, topic, blob, container: self.container.clone(), ca_file: self.ca_file.clone() })
    }
}

fn connection_string(key: &str, direct: Option<&Hidden>, file: Option<&Path>) -> anyhow::Result<String> {
    match settings::secret(key, direct.map(Hidden::show), file)? {
        Some(text) => Ok(text),
        None => bail!(
            "no {key}: set WAYBILL_PUBLISHER__{}, or `{key}_file` under [publisher] in {}, or use --local READY_FILE \
             with a running waybill-local",
            key.to_ascii_uppercase(),
            settings::DEFAULT_FILE
        ),
    }
}
