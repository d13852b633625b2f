//! `run`: starts everything, says what is where, and ends in stages.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, ensure};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::sync::CancellationToken;
use waybill_cli::{exit::Outcome, output::line, signals};
use waybill_contracts::ReadyFile;
use waybill_local::{
    Local,
    config::{Config, Ports},
};

/// What is to run.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Settings: a TOML file of ours, the config.json of Microsoft's emulator, or one of each (give it twice)
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Write every endpoint and credential here when all is up; removed at the end
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    /// Free ports instead of the configured ones [default: 5672, 10000, 8080, admin 8081; with TLS 5671 and 8443]
    #[arg(long)]
    random_ports: bool,
    /// HTTPS, and AMQP over TLS beside plain AMQP, with certificates of this run
    #[arg(long)]
    tls: bool,
    /// With --tls: the name by which clients reach this process, through a proxy or a resolver of theirs [default: localhost]
    #[arg(long, value_name = "NAME", requires = "tls")]
    host: Option<String>,
    /// With --tls: write the certificate that clients are to trust here [default: beside the ready file]
    #[arg(long, value_name = "PATH", requires = "tls")]
    ca_file: Option<PathBuf>,
}

pub(crate) async fn run(options: Run) -> anyhow::Result<Outcome> {
    let stop = CancellationToken::new();
    tokio::select! {
        // First: whoever sees the ready file may send a signal.
        biased;
        listening = signals::listen(stop.clone(), "requests under way finish first") => {
            listening.context("cannot listen to signals")?;
            unreachable!("listening ends with the process");
        }
        served = serve(&options, &stop) => served,
    }
}

async fn serve(options: &Run, stop: &CancellationToken) -> anyhow::Result<Outcome> {
    let mut config = Config::load(&options.config)?;
    if options.random_ports {
        config.ports = Ports::RANDOM;
    }
    let ready_file = options.ready_file.as_deref();
    config.tls |= options.tls;
    config.host = options.host.clone().or(config.host);
    if config.tls {
        let beside = |suffix| ready_file.map(|path| beside(path, suffix));
        config.ca_file = options.ca_file.clone().or(config.ca_file).or_else(|| beside("ca.pem"));
        config.client_file = config.client_file.or_else(|| beside("client.pem"));
    }
    if let Some(path) = ready_file {
        refuse_another(path).await?;
    }
    let local = Local::builder().config(config).start().await?;
    if let Some(path) = ready_file {
        local.write_ready_file(path)?;
    }
    if let Err(error) = announce(&local, ready_file) {
        tracing::warn!("what is where cannot be printed: {error:#}");
    }
    stop.cancelled().await;
    local.stop().await;
    Ok(Outcome::Done)
}

/// `local.json` → `local-ca.pem`.
fn beside(ready_file: &Path, suffix: &str) -> PathBuf {
    let stem = ready_file.file_stem().unwrap_or_default().to_string_lossy();
    ready_file.with_file_name(format!("{stem}-{suffix}"))
}

fn announce(local: &Local, ready_file: Option<&Path>) -> anyhow::Result<()> {
    let ready = local.ready_file();
    line(format_args!("Service Bus    {}", ready.service_bus_connection_string))?;
    if let Some(secure) = &ready.service_bus_tls_connection_string {
        line(format_args!("     over TLS  {secure}"))?;
    }
    line(format_args!("Blob Storage   {}", ready.blob_connection_string))?;
    line(format_args!(
        "TenantService  {}  (bearer token of {}: {})",
        ready.tenant_url, ready.tenants[0].name, ready.bearer_token
    ))?;
    if let (Some(authority), Some(client)) = (&ready.authority_url, ready.clients.first()) {
        let certificate = client.certificate_file.as_deref().unwrap_or("none");
        line(format_args!("Authority      {authority}/{}", client.directory_id))?;
        line(format_args!(
            "               (client of {}: {}, certificate: {certificate})",
            client.tenant, client.client_id
        ))?;
    }
    line(format_args!("Admin          {}", ready.admin_url))?;
    if let Some(path) = &ready.ca_file {
        line(format_args!("Trust          {path}"))?;
    }
    match ready_file {
        Some(path) => line(format_args!("ready; other binaries find all of it with --local {}", path.display())),
        None => line(format_args!("ready")),
    }
}

/// A ready file that a crash left is written over; one whose `waybill-local` runs would take its users away from it.
async fn refuse_another(path: &Path) -> anyhow::Result<()> {
    let Ok(text) = tokio::fs::read_to_string(path).await else { return Ok(()) };
    let Ok(there) = serde_json::from_str::<ReadyFile>(&text) else { return Ok(()) };
    let address = there.admin_url.trim_start_matches("http://").trim_end_matches('/').to_owned();
    let answers = timeout(Duration::from_secs(1), TcpStream::connect(address)).await;
    ensure!(
        !matches!(answers, Ok(Ok(_))),
        "{} belongs to a waybill-local that runs ({}); end that one, or name another file",
        path.display(),
        there.admin_url
    );
    Ok(())
}
