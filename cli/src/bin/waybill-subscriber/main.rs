//! The reference subscriber: your database follows the publisher's.

mod commands;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use waybill_cli::{
    args::{Common, seconds, start_logs},
    exit,
};
use waybill_formats::{FieldPath, FieldPathError};
use waybill_subscriber::inbox::State;

/// As it is called.
const PROGRAM: &str = "waybill-subscriber";

/// Receives waybills, fetches their files and brings each row into effect once.
#[derive(Debug, Parser)]
#[command(name = PROGRAM, version, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    /// The database that holds the inbox, where several subscribers share it: postgres://USER@HOST:PORT/DATABASE
    /// [default: a file in the folder of our own state]
    #[arg(long, global = true, value_name = "INBOX")]
    inbox: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a commented waybill.toml and entities.toml to start from
    Init {
        /// Draft entities.toml from sample files of any format; TYPE is the blobType of their messages, else the file's name
        #[arg(long, num_args = 1.., value_name = "[TYPE=]FILE")]
        from: Vec<String>,
        /// What those FILEs are whose names do not say otherwise, such as 'text/csv; delimiter=semicolon; charset=windows-1252'
        /// [default: by their suffixes]
        #[arg(long, value_name = "TYPE", requires = "from")]
        content_type: Option<String>,
        /// How the FILEs are packed, gzip or identity; their first bytes decide all the same
        #[arg(long, value_name = "ENCODING", requires = "from")]
        content_encoding: Option<String>,
    },
    /// Receive and process until stopped
    Run {
        #[command(flatten)]
        target: Target,
        /// End when for SECS no message came and no file was worked or due; with an error when what that needs is out of reach for 30 s
        #[arg(long, value_name = "SECS", value_parser = seconds)]
        until_idle: Option<std::time::Duration>,
        #[command(flatten)]
        watch: Watch,
    },
    /// Only receive: save messages, work no files
    Receive {
        /// End when for SECS no message came; with an error when what that needs is out of reach for 30 s
        #[arg(long, value_name = "SECS", value_parser = seconds)]
        until_idle: Option<std::time::Duration>,
        #[command(flatten)]
        watch: Watch,
    },
    /// Work the files that were saved and are due, then end
    Process {
        #[command(flatten)]
        target: Target,
        /// Only files of this blobType, such as ItemChanges or Gateway.* (may be repeated)
        #[arg(long = "type", value_name = "TYPE")]
        types: Vec<String>,
        /// Only files received at or after this time, such as 2026-11-23T06:30:00Z or 2026-11-23 (midnight UTC)
        #[arg(long, value_name = "TIME", value_parser = instant)]
        since: Option<OffsetDateTime>,
        /// Only the files with these numbers, as `list` shows them
        #[arg(long = "id", num_args = 1.., value_name = "ID")]
        ids: Vec<i64>,
        /// Begin at most this many files, then end; each try of one counts
        #[arg(long, value_name = "FILES")]
        limit: Option<u64>,
        #[command(flatten)]
        watch: Watch,
    },
    /// Rows of a file as JSON Lines, whatever its format; nothing is brought into effect
    Rows(RowsOf),
    /// What is filtered where, and what that saves of what the inbox has
    Plan {
        /// What rows mean: keys, versions, references, filters
        #[arg(long, value_name = "FILE")]
        entities: Option<PathBuf>,
    },
    /// Work the files that were received again, into another sink, beside the running subscriber
    Replay {
        #[command(flatten)]
        target: Target,
        /// Only files of this blobType (may be repeated)
        #[arg(long = "type", value_name = "TYPE")]
        types: Vec<String>,
        /// Only files received at or after this time, such as 2026-11-23T06:30:00Z or 2026-11-23 (midnight UTC)
        #[arg(long, value_name = "TIME", value_parser = instant, conflicts_with = "complete")]
        since: Option<OffsetDateTime>,
        /// Only if the files are provably all: each publisher's numbers from 1 without a gap
        #[arg(long)]
        complete: bool,
    },
    /// Derive tables again from the files that were received, and swap them in one transaction, beside the running subscriber
    Rebuild {
        #[command(flatten)]
        target: Target,
        /// Only the table of this blobType or entity, and those that are tied to it by references (may be repeated)
        /// [default: all]
        #[arg(long = "type", value_name = "TYPE")]
        types: Vec<String>,
        /// Go on although files are missing or may be: rows that only they brought will be gone
        #[arg(long)]
        incomplete: bool,
    },
    /// Compare the container's listing with the inbox, and add the files whose messages are lost
    Reconcile {
        /// Only files of this blobType, such as ItemChanges or Gateway.* (may be repeated) [default: the configured ones]
        #[arg(long = "type", value_name = "TYPE")]
        types: Vec<String>,
        /// Only say what would be added
        #[arg(long)]
        dry_run: bool,
    },
    /// Whether every file up to here came and took effect, by publishers' numbers, and what is missing
    Complete {
        /// Only this blobType, such as ItemChanges or Gateway.* (may be repeated) [default: the configured ones]
        #[arg(long = "type", value_name = "TYPE")]
        types: Vec<String>,
        /// Only whether everything up to this number is there, in the latest epoch of each publisher of the types
        #[arg(long, value_name = "NUMBER", requires = "types")]
        up_to: Option<u64>,
    },
    /// Forget what is over: lines of history, files that came to their end, and old copies in the cache. Ages are as 90d, 12h, 30m
    Prune {
        /// Lines of history that are older, of files that came to their end [default: as configured]
        #[arg(long, value_name = "AGE", value_parser = age)]
        history: Option<std::time::Duration>,
        /// Files and other messages that came to their end longer ago: they can neither be replayed nor rebuilt from any more
        /// [default: as configured]
        #[arg(long, value_name = "AGE", value_parser = age)]
        files: Option<std::time::Duration>,
        /// The keys of files that were pruned longer ago: another message for one of them is a new file then
        /// [default: as configured]
        #[arg(long, value_name = "AGE", value_parser = age)]
        identities: Option<std::time::Duration>,
        /// Only say what would go
        #[arg(long)]
        dry_run: bool,
    },
    /// Try everything that a run needs, in order, and say what to do about what does not work
    Doctor {
        #[command(flatten)]
        target: Target,
    },
    /// How many files are in which state, what waits, who works, and what may be lost
    Status,
    /// Files and messages, newest first
    List {
        /// Only this state: saved, working, done, quarantined, skipped, duplicate or expired
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
    /// Rows that cannot be used: what, where and why
    BadRows(BadRows),
    /// What rows wait for, since when, and how many; or let them go without it
    Parked {
        #[command(flatten)]
        target: Target,
        /// Only what rows of this blobType or entity wait for
        #[arg(long = "type", value_name = "TYPE")]
        blob_type: Option<String>,
        /// At most this many
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Apply the rows that wait for this parent without it: its entity or blobType, and its key as listed
        #[arg(long, num_args = 2, value_names = ["PARENT", "KEY"], conflicts_with_all = ["blob_type", "limit"], allow_hyphen_values = true)]
        release: Option<Vec<String>>,
    },
    /// What became of everything with one correlation id, step by step
    Trace {
        /// The correlation id, as the publisher gave it
        correlation_id: String,
    },
    /// Have files tried again now: quarantined, skipped or expired ones, or ones that wait for a later try
    Retry {
        /// Their numbers, as `list` shows them
        #[arg(required_unless_present_any = ["quarantined", "skipped"], conflicts_with_all = ["quarantined", "skipped"])]
        ids: Vec<i64>,
        /// Every file that is quarantined
        #[arg(long, group = "all")]
        quarantined: bool,
        /// Every file that an earlier choice of `types` put aside and that is wanted now
        #[arg(long, group = "all")]
        skipped: bool,
        /// With --quarantined or --skipped: only files of this blobType
        #[arg(long = "type", value_name = "TYPE", requires = "all")]
        blob_type: Option<String>,
    },
    /// Put files or messages aside that nobody wants: saved, quarantined or expired ones
    Skip {
        /// Their numbers, as `list` shows them
        #[arg(required = true)]
        ids: Vec<i64>,
        /// Why, for whoever looks later
        #[arg(long, value_name = "TEXT")]
        why: String,
    },
    /// Everything about one file or message, with its history
    Show {
        /// Its number, as `list` shows it
        id: i64,
    },
}

/// Which rows of which file.
#[derive(Debug, Clone, clap::Args)]
struct RowsOf {
    /// The file's number, as `list` shows it
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    id: Option<i64>,
    /// A file on this machine instead, plain or gzip
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// What FILE is, such as 'text/csv; delimiter=semicolon; charset=windows-1252' [default: by its suffix]
    #[arg(long, value_name = "TYPE", conflicts_with = "id")]
    content_type: Option<String>,
    /// How FILE is packed, gzip or identity; its first bytes decide all the same
    #[arg(long, value_name = "ENCODING", conflicts_with = "id")]
    content_encoding: Option<String>,
    /// FILE's blobType: its entity says what the columns are
    #[arg(long = "type", value_name = "TYPE", conflicts_with = "id")]
    blob_type: Option<String>,
    /// Only rows that match, in CEL: 'row.Price > 10.0'
    #[arg(long = "where", value_name = "PREDICATE")]
    predicate: Option<String>,
    /// Only these fields: Name,Address.City,Lines[0].Item
    #[arg(long, value_name = "FIELDS", value_parser = fields)]
    fields: Option<Fields>,
    /// At most this many rows
    #[arg(long, value_name = "ROWS")]
    limit: Option<u64>,
    /// Only say how many rows that are
    #[arg(long, conflicts_with = "fields")]
    count: bool,
    /// What rows mean: the columns' types, for --where
    #[arg(long, value_name = "FILE")]
    entities: Option<PathBuf>,
}

/// Which rows that cannot be used.
#[derive(Debug, Clone, clap::Args)]
struct BadRows {
    #[command(flatten)]
    target: Target,
    /// Only of the file with this number, as `list` shows it
    #[arg(long, value_name = "ID")]
    file: Option<i64>,
    /// Only of files of this blobType or entity
    #[arg(long = "type", value_name = "TYPE")]
    blob_type: Option<String>,
    /// With --file: only rows after this one, the next page
    #[arg(long, value_name = "ROW", requires = "file")]
    after: Option<u64>,
    /// At most this many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Each row's whole bytes, as far as they were kept (64 KiB), and not only their begin
    #[arg(long)]
    full: bool,
}

#[derive(Debug, Clone)]
struct Fields(Vec<FieldPath>);

fn fields(text: &str) -> Result<Fields, FieldPathError> {
    FieldPath::parse_list(text).map(Fields)
}

/// Where rows go, and what they mean.
#[derive(Debug, Clone, Default, clap::Args)]
struct Target {
    /// Where rows go: sqlite:PATH, postgres://USER@HOST:PORT/DATABASE, dir:PATH or stdout
    #[arg(long, value_name = "SINK")]
    sink: Option<String>,
    /// What rows mean: keys, versions, references
    #[arg(long, value_name = "FILE")]
    entities: Option<PathBuf>,
}

/// How it can be watched.
#[derive(Debug, Clone, clap::Args)]
struct Watch {
    /// Answer /health/live, /health/ready and /metrics (Prometheus) there: 9464 for this machine alone, or ADDRESS:PORT
    #[arg(long, value_name = "ADDRESS")]
    health: Option<String>,
}

/// An instant; a date alone is its begin in UTC.
fn instant(text: &str) -> Result<OffsetDateTime, String> {
    let of_date = || OffsetDateTime::parse(&format!("{text}T00:00:00Z"), &Rfc3339);
    OffsetDateTime::parse(text, &Rfc3339).or_else(|_| of_date()).map_err(|_| {
        format!("{text:?} is no time; write 2026-11-23T06:30:00Z, or 2026-11-23 for the begin of that day in UTC")
    })
}

/// A whole number and a unit: what is kept for so long.
fn age(text: &str) -> Result<std::time::Duration, String> {
    let wrong = || format!("{text:?} is no age; write a whole number and a unit, as 90d, 12h, 30m or 10s");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "d" => 86_400,
        "h" => 3_600,
        "m" => 60,
        "s" => 1,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds).map(std::time::Duration::from_secs).ok_or_else(wrong)
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    keep_freed_batches();
    start_logs(cli.common.log, "warn");
    exit::run(PROGRAM, commands::dispatch(cli.common, cli.inbox, cli.command))
}

/// Has glibc keep blocks of some MiB that were freed, which is what batches of rows are: else each goes back to the system, and the
/// next one's pages are cleared anew, a sixth of the time that a file takes. Costs about 10 MiB.
///
/// Source: mallopt(3), `M_MMAP_THRESHOLD` and `M_TRIM_THRESHOLD`: freeing a block that was mapped for itself raises the first to its
/// size, and the second to twice that. No page of it is touched.
fn keep_freed_batches() {
    const BYTES: usize = 4 << 20;
    drop(std::hint::black_box(Vec::<u8>::with_capacity(BYTES)));
}
