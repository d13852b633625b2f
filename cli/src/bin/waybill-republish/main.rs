//! Republishes files as another blobType, with less content.

mod commands;
mod health;
mod settings;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use waybill_cli::{
    args::{Common, seconds, start_logs},
    exit,
};

/// As it is called.
const PROGRAM: &str = "waybill-republish";

/// Receives files, filters their rows and fields, and publishes what is left as files of another blobType: one for each.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    /// What rows mean: keys, versions, references [default: `entities` under [subscriber]]
    #[arg(long, global = true, value_name = "FILE")]
    entities: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Receive, republish and send until stopped
    Run {
        /// End when for SECS no message came and no file was worked or due, and every message is sent
        #[arg(long, value_name = "SECS", value_parser = seconds)]
        until_idle: Option<std::time::Duration>,
        /// Answer /health/live, /health/ready and /metrics (Prometheus) there: 9466 for this machine alone, or ADDRESS:PORT
        #[arg(long, value_name = "ADDRESS")]
        health: Option<String>,
    },
    /// Read the files that the inbox has, and say what would become of their rows; nothing is published
    Plan,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logs(cli.common.log, "warn");
    exit::run(PROGRAM, commands::dispatch(cli.common, cli.entities, cli.command))
}
