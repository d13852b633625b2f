//! Azure in one process: Service Bus, Blob Storage and TenantService, with scripted faults.

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use tokio_util::sync::CancellationToken;
use waybill_cli::{
    args::{LogFormat, start_logs},
    exit::{self, Outcome},
    signals,
};
use waybill_local::{
    Local,
    config::{Config, Ports},
};

/// Service Bus, Blob Storage and TenantService in one process, with scripted faults. Nothing outlives it.
#[derive(Debug, Parser)]
#[command(name = "waybill-local", version, arg_required_else_help = true)]
struct Cli {
    /// How log lines are written; RUST_LOG sets their level [default level: warn]
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until stopped
    Run {
        /// Settings file (TOML): ports, topic, container, tenants, token life, faults
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Write every endpoint and credential here when all is up; removed at the end
        #[arg(long, value_name = "PATH")]
        ready_file: Option<PathBuf>,
        /// Free ports instead of the configured ones [default: 5672, 10000, 8080, admin 8081]
        #[arg(long)]
        random_ports: bool,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logs(cli.log, "warn");
    let Command::Run { config, ready_file, random_ports } = cli.command;
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("waybill-local: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    exit::end("waybill-local", runtime.block_on(run(config, ready_file, random_ports)))
}

async fn run(config: Option<PathBuf>, ready_file: Option<PathBuf>, random_ports: bool) -> anyhow::Result<Outcome> {
    let mut config = match config {
        Some(path) => Config::load(&path)?,
        None => Config::default(),
    };
    if random_ports {
        config.ports = Ports::RANDOM;
    }
    let local = Local::builder().config(config).start().await?;
    if let Some(path) = &ready_file {
        local.write_ready_file(path)?;
    }
    let ready = local.ready_file();
    println!("Service Bus    {}", ready.service_bus_connection_string);
    println!("Blob Storage   {}", ready.blob_connection_string);
    println!(
        "TenantService  {}  (bearer token of {}: {})",
        ready.tenant_url, ready.tenants[0].name, ready.bearer_token
    );
    println!("Admin          {}", ready.admin_url);
    match &ready_file {
        Some(path) => println!("ready; other binaries find all of it with --local {}", path.display()),
        None => println!("ready"),
    }
    let stop = CancellationToken::new();
    tokio::select! {
        listening = signals::listen(stop.clone()) => listening?,
        () = stop.cancelled() => {}
    }
    local.stop().await;
    Ok(Outcome::Done)
}
