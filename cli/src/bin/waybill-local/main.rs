//! Azure in one process: Service Bus, Blob Storage, TenantService and a token authority, with scripted faults.

mod act;
mod admin;
mod look;
mod run;

use std::{process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use waybill_cli::{
    args::{LogFormat, seconds, start_logs},
    exit::{self, Outcome},
};

use admin::Running;

/// Service Bus, Blob Storage and TenantService in one process, with scripted faults. Nothing outlives it.
#[derive(Debug, Parser)]
#[command(name = "waybill-local", version, arg_required_else_help = true)]
struct Cli {
    /// How log lines are written; RUST_LOG sets their level [default level: info]
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until stopped
    Run(run::Run),
    /// Of a running one: entities, containers, connections, tokens, faults
    Status {
        #[command(flatten)]
        running: Running,
    },
    /// Of a running one: messages of a queue, without taking them
    Peek {
        #[command(flatten)]
        peek: look::Peek,
        #[command(flatten)]
        running: Running,
    },
    /// Of a running one: refuse every token that was issued until now
    Rotate {
        /// Only those of this tenant
        #[arg(long, value_name = "NAME")]
        tenant: Option<String>,
        /// Refuse them only after so many seconds [default: 0, at once]
        #[arg(long, value_name = "SECS", value_parser = seconds)]
        grace: Option<Duration>,
        #[command(flatten)]
        running: Running,
    },
    /// In a running one: install a fault script, or see what came of it
    Fault {
        #[command(flatten)]
        fault: act::Fault,
        #[command(flatten)]
        running: Running,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logs(cli.log, "info");
    exit::run("waybill-local", dispatch(cli.command))
}

async fn dispatch(command: Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Run(options) => run::run(options).await,
        Command::Status { running } => look::status(&running).await,
        Command::Peek { peek, running } => look::peek(&running, &peek).await,
        Command::Rotate { tenant, grace, running } => act::rotate(&running, tenant, grace).await,
        Command::Fault { fault, running } => act::fault(&running, &fault).await,
    }
}
