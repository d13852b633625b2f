//! The publisher: files, and changes of a change log, become blobs with a message each.

mod commands;

use std::{num::NonZeroU64, path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Parser, Subcommand, ValueEnum, error::ErrorKind};
use waybill_cli::{
    args::{Common, start_logs},
    exit,
};
use waybill_contracts::{BlobType, ExportId, Format, NameError};
use waybill_publisher::outbox::State;

/// FILE that stands for standard input.
const STANDARD_INPUT: &str = "-";

/// Uploads files of changes, given or made of a change log, and sends one message for each.
#[derive(Debug, Parser)]
#[command(name = "waybill-publisher", version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    /// The service's change log: sqlite:PATH, or postgres://USER@HOST:PORT/DATABASE
    #[arg(long, global = true, value_name = "PLACE")]
    change_log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a commented waybill.toml to start from; make the change log, where one is named
    Init,
    /// Publish files, each as one export, or what comes on standard input; ends when every message is sent
    Publish(Publish),
    /// Publish all rows of a type, as of one number of its sequence: from a table beside the change log, or from files
    Snapshot(Snapshot),
    /// Publish what is committed to the change log, and send what waits in the outbox, until stopped
    Run {
        /// Answer /health/live, /health/ready and /metrics (Prometheus) there: 9465 for this machine alone, or ADDRESS:PORT
        #[arg(long, value_name = "ADDRESS")]
        health: Option<String>,
    },
    /// How many exports are in which state, and what waits in the change log
    Status,
    /// Print the SQL of triggers that log every change of a table, for a service that cannot be changed
    Triggers {
        /// The table, in the change log's database; in PostgreSQL also SCHEMA.TABLE
        table: String,
        /// What its rows are: the message's blobType
        #[arg(long = "type", value_name = "TYPE", value_parser = blob_type)]
        blob_type: String,
        /// The columns that tell its rows apart [default: the primary key]
        #[arg(long, value_name = "COLUMN", value_delimiter = ',')]
        key: Vec<String>,
    },
    /// Changes that cannot be published, newest first
    Refused {
        /// At most this many
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Changes in the change log, newest first, each with the export that it is in
    Changes {
        /// Only this key, as it was logged
        #[arg(long)]
        key: Option<String>,
        /// Only what has this correlation id
        #[arg(long, value_name = "ID")]
        correlation: Option<String>,
        /// Only this blobType
        #[arg(long = "type", value_name = "TYPE")]
        blob_type: Option<String>,
        /// Only changes before this one: the next page
        #[arg(long, value_name = "ID")]
        before: Option<i64>,
        /// At most this many
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Publish manifests of what was sent or is void, which `run` does every hour; ends when they are sent
    Manifest,
    /// Delete blobs whose term is over, and forget their exports, as far as manifests name them
    Prune {
        /// Only count what would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Try everything that a run needs, and name what holds changes back
    Doctor,
    /// Take over a change log that is a copy, was restored, or whose outbox is lost
    Adopt,
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
    /// Have an export's message sent again: under a new message id if the broker has accepted it, else at once
    Resend {
        /// Its number, as `list` shows it, or its export id
        id: String,
        /// For its history
        #[arg(long, value_name = "TEXT", default_value = "ordered by a person")]
        why: String,
    },
    /// Give up an export whose message is not sent: nobody will get its file, and its number is told as void
    Void {
        /// Its number, as `list` shows it, or its export id
        id: String,
        /// For its history, and for those who miss the number
        #[arg(long, value_name = "TEXT")]
        why: String,
    },
    /// Hold back the messages of a blobType, whoever runs; files are made and uploaded meanwhile
    Pause {
        /// The blobType
        #[arg(value_name = "TYPE", value_parser = blob_type)]
        blob_type: String,
        /// For whoever finds it paused
        #[arg(long, value_name = "TEXT")]
        why: String,
    },
    /// Let the messages of a paused blobType go
    Resume {
        /// The blobType
        #[arg(value_name = "TYPE", value_parser = blob_type)]
        blob_type: String,
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
    #[command(flatten)]
    file: FileArgs,
    /// The export's identity, for one FILE: publishing the same one again does nothing [default: a new UUID]
    #[arg(long, value_name = "ID", value_parser = export_id)]
    id: Option<String>,
    /// For tracking, in every message [default: a new UUID for each file]
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// Plain or .gz; the suffix names the format: jsonl, ndjson, csv, json, xml or xmll. `-` is standard input, with --input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Snapshot {
    /// What the rows are: the message's blobType
    #[arg(long = "type", value_name = "TYPE", value_parser = blob_type)]
    blob_type: String,
    /// List those that were made, latest first, and say which are whole; nothing is made
    #[arg(long, conflicts_with_all = ["table", "id", "as_of", "target", "correlation_id", "max_rows", "max_bytes", "files", "input", "charset", "level"])]
    list: bool,
    /// All rows of this table in the change log's database, as its triggers log them; in PostgreSQL also SCHEMA.TABLE. Again for
    /// each further table that the type is made of
    #[arg(long, value_name = "TABLE", conflicts_with_all = ["files", "as_of", "input", "charset"])]
    table: Vec<String>,
    /// The full export's identity, such as nightly-2026-01-31: made again, the same one does nothing [default: a new UUID]
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The last number of the type that was published when the rows of FILE began to be written; 0: none was
    #[arg(long, value_name = "NUMBER")]
    as_of: Option<u64>,
    /// Write the rows in this format [default: of a table, the format of its type; else the same bytes as the file]
    #[arg(long = "as", value_enum, value_name = "FORMAT")]
    target: Option<Target>,
    #[command(flatten)]
    file: FileArgs,
    /// For tracking, in the message of every part [default: a new UUID]
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// Of a table: rows of a part at most [default: 1,000,000]
    #[arg(long, value_name = "ROWS")]
    max_rows: Option<NonZeroU64>,
    /// Of a table: plain bytes of a part, reached by its last row [default: 256 MiB]
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<NonZeroU64>,
    /// Each a part. Plain or .gz; the suffix names the format: jsonl, ndjson, csv, json, xml or xmll. `-` is standard input, with
    /// --input
    #[arg(required_unless_present_any = ["table", "list"], value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// How files are read and packed.
#[derive(Debug, clap::Args)]
struct FileArgs {
    /// The format of what comes on standard input
    #[arg(long, value_enum, value_name = "FORMAT")]
    input: Option<Target>,
    /// The charset that FILE is in, such as windows-1252 [default: by its byte order mark or XML declaration, else UTF-8]
    #[arg(long, value_name = "CHARSET")]
    charset: Option<String>,
    /// How hard to pack, 0 (not at all) to 9 (smallest) [default: compression_level of waybill.toml, else 4]
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(u32).range(0..=9))]
    level: Option<u32>,
}

/// `--as` and `--input`.
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

impl From<Target> for Format {
    fn from(target: Target) -> Self {
        match target {
            Target::Jsonl => Self::JsonLines,
            Target::Json => Self::Json,
            Target::Csv => Self::Csv,
            Target::Xml => Self::Xml,
            Target::Xmll => Self::XmlLines,
        }
    }
}

impl Publish {
    /// Why the arguments do not fit together.
    fn conflict(&self) -> Option<&'static str> {
        if self.id.is_some() && self.files.len() > 1 {
            return Some("--id names one export, and each FILE is one: give one FILE, or leave --id out");
        }
        input_conflict(&self.files, self.file.input)
    }
}

impl Snapshot {
    /// Why the arguments do not fit together.
    fn conflict(&self) -> Option<&'static str> {
        if self.table.is_empty() && !self.list && (self.max_rows.is_some() || self.max_bytes.is_some()) {
            return Some("--max-rows and --max-bytes cut a table into parts; each FILE is a part as it is");
        }
        input_conflict(&self.files, self.file.input)
    }
}

fn input_conflict(files: &[PathBuf], input: Option<Target>) -> Option<&'static str> {
    let inputs = files.iter().filter(|file| file.as_os_str() == STANDARD_INPUT).count();
    match (inputs, input) {
        (0, Some(_)) => Some("--input is the format of standard input: give `-` for FILE, or leave --input out"),
        (1.., None) => Some("standard input has no suffix that names its format: say it with --input"),
        (2.., _) => Some("`-` is standard input, which can be read once only"),
        _ => None,
    }
}

fn blob_type(text: &str) -> Result<String, NameError> {
    BlobType::new(text).map(|name| name.as_str().to_owned())
}

fn export_id(text: &str) -> Result<String, NameError> {
    ExportId::new(text).map(|id| id.as_str().to_owned())
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let conflict = match &cli.command {
        Command::Publish(publish) => publish.conflict(),
        Command::Snapshot(snapshot) => snapshot.conflict(),
        _ => None,
    };
    if let Some(problem) = conflict {
        Cli::command().error(ErrorKind::ArgumentConflict, problem).exit();
    }
    start_logs(cli.common.log, "warn");
    exit::run("waybill-publisher", commands::dispatch(cli.common, cli.change_log, cli.command))
}
