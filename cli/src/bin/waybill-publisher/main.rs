//! The publisher: files become blobs with a message each.

mod commands;
mod settings;

use std::{path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind};
use waybill_cli::{
    args::{Common, start_logs},
    exit,
};
use waybill_contracts::{BlobType, ExportId, NameError};
use waybill_publisher::outbox::State;

/// Uploads files of changes and sends one message for each.
#[derive(Debug, Parser)]
#[command(name = "waybill-publisher", version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a commented waybill.toml to start from
    Init,
    /// Publish files, each as one export; ends when every message is sent
    Publish(Publish),
    /// Send what waits in the outbox, until stopped
    Run,
    /// How many exports are in which state
    Status,
    /// Exports, newest first
    List {
        /// Only this state: planned, uploaded, sent or void
        #[arg(long)]
        state: Option<State>,
        /// Only this blobType
        #[arg(long = "type", value_name = "TYPE")]
        blob_type: Option<String>,
        /// Only what has this correlation id
        #[arg(long, value_name = "ID")]
        correlation: Option<String>,
        /// Only rows before this number: the next page
        #[arg(long, value_name = "ID")]
        before: Option<i64>,
        /// At most this many
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Everything about one export, with its history
    Show {
        /// Its number, as `list` shows it, or its export id
        id: String,
    },
}

#[derive(Debug, clap::Args)]
struct Publish {
    /// What the rows are: the message's blobType
    #[arg(long = "type", value_name = "TYPE", value_parser = blob_type)]
    blob_type: String,
    /// Write the rows in this format [default: the same bytes as the file]
    #[arg(long = "as", value_enum, value_name = "FORMAT")]
    target: Option<Target>,
    /// The charset that FILE is in, such as windows-1252 [default: by its byte order mark or XML declaration, else UTF-8]
    #[arg(long, value_name = "CHARSET")]
    charset: Option<String>,
    /// The export's identity, for one FILE: publishing the same one again does nothing [default: a new UUID]
    #[arg(long, value_name = "ID", value_parser = export_id)]
    id: Option<String>,
    /// For tracking, in every message [default: a new UUID for each file]
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// Plain or .gz; the suffix names the format: jsonl, ndjson, csv, json, xml or xmll
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// `--as`.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Target {
    /// JSON Lines.
    Jsonl,
    /// A JSON array of objects.
    Json,
    /// CSV with a header row.
    Csv,
    /// An XML document with a row element for each row.
    Xml,
    /// An XML element per line.
    Xmll,
}

fn blob_type(text: &str) -> Result<String, NameError> {
    BlobType::new(text).map(|name| name.as_str().to_owned())
}

fn export_id(text: &str) -> Result<String, NameError> {
    ExportId::new(text).map(|id| id.as_str().to_owned())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Publish(publish) = &cli.command
        && publish.id.is_some()
        && publish.files.len() > 1
    {
        let problem = "--id names one export, and each FILE is one: give one FILE, or leave --id out";
        Cli::command().error(ErrorKind::ArgumentConflict, problem).exit();
    }
    start_logs(cli.common.log, "warn");
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("waybill-publisher: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    exit::end("waybill-publisher", runtime.block_on(commands::dispatch(cli.common, cli.command)))
}
