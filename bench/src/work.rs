//! Our side of a row, where no binary of ours does just that.

mod apply;
mod backlog;
mod beside;
mod changelog;
mod decode;
mod encode;
mod exports;
pub(crate) mod idle;
mod publish;
mod save;
mod send;
mod subscribe;

use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use tokio::runtime;

use crate::program::Said;

/// What there is to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Work {
    /// Count the wanted rows of several files, some of them at a time
    Decode {
        /// Files at once, and processors
        #[arg(long)]
        workers: usize,
        files: Vec<PathBuf>,
    },
    /// Write the rows of a CSV file as packed JSON Lines
    Encode {
        #[arg(long)]
        level: u32,
        rows: PathBuf,
        out: PathBuf,
    },
    /// Bring files of item changes into effect
    Apply {
        #[arg(long)]
        sink: String,
        /// Plain bytes in a commit [default: what suits the sink]
        #[arg(long)]
        commit_mib: Option<usize>,
        /// Every item refers to a row of another table
        #[arg(long)]
        referring: bool,
        /// First fill that table, with so many rows
        #[arg(long, requires = "referring")]
        parents: Option<u64>,
        files: Vec<PathBuf>,
    },
    /// Let rows go that wait for one parent
    Release {
        #[arg(long)]
        sink: String,
        children: u64,
    },
    /// Save messages in a new inbox
    Save {
        #[arg(long)]
        messages: u64,
        #[arg(long)]
        at_once: u64,
        inbox: PathBuf,
    },
    /// Fill an inbox with messages, up to so many
    Fill { inbox: String, messages: u64 },
    /// Lease files of a long backlog
    Lease {
        /// Only of this blobType
        #[arg(long = "type")]
        blob_type: Option<String>,
        inbox: String,
    },
    /// Send messages that stand for files
    Send {
        #[arg(long)]
        bus: String,
        #[arg(long)]
        blob: String,
        #[arg(long)]
        topic: String,
        messages: u64,
    },
    /// Save and settle messages
    Receive {
        #[command(flatten)]
        source: subscribe::Source,
        messages: u64,
        inbox: PathBuf,
    },
    /// Publish files of item changes
    Publish {
        #[command(flatten)]
        place: publish::Place,
        #[arg(long)]
        state: PathBuf,
        files: Vec<PathBuf>,
    },
    /// Publish streams of rows that are all open at once
    Streams {
        #[command(flatten)]
        place: publish::Place,
        #[arg(long)]
        state: PathBuf,
        exports: usize,
        /// Of each
        rows: u64,
    },
    /// Publish files that are all read at once
    Files {
        #[command(flatten)]
        place: publish::Place,
        #[arg(long)]
        state: PathBuf,
        files: Vec<PathBuf>,
    },
    /// Append rows to a change log
    Append {
        #[arg(long)]
        database: String,
        rows: PathBuf,
    },
    /// Make files of the changes in a log
    Follow {
        #[command(flatten)]
        place: publish::Place,
        #[arg(long)]
        database: String,
        changes: u64,
    },
    /// Bring published files into effect
    Subscribe {
        #[command(flatten)]
        source: subscribe::Source,
        #[arg(long)]
        sink: String,
        /// What becomes of rows that are not wanted: `remove` or `drop`
        #[arg(long)]
        on_unwanted: String,
        files: u64,
        inbox: PathBuf,
    },
    /// Tell what processes use that have nothing to do
    Idle {
        /// First leave them alone for so long
        #[arg(long)]
        settle_seconds: u64,
        #[arg(long)]
        seconds: u64,
        /// Names and commands, as JSON
        processes: String,
    },
    /// Tell what a server uses while a client works
    Beside {
        #[arg(long)]
        pid: u32,
        #[arg(long)]
        messages: u64,
        #[arg(last = true)]
        client: Vec<String>,
    },
}

pub(crate) fn run(work: Work) -> Result<()> {
    let mut runtime = runtime::Builder::new_multi_thread();
    if let Work::Decode { workers, .. } = work {
        runtime.worker_threads(workers);
    }
    let runtime = runtime.enable_all().build()?;
    // A task like others, as in our programs: the thread that waits here need not be woken for what it waits for.
    let said = runtime.block_on(runtime.spawn(async move { said(&work).await }))??;
    println!("{}", serde_json::to_string(&said)?);
    Ok(())
}

async fn said(work: &Work) -> Result<Said> {
    match work {
        Work::Decode { workers, files } => decode::decode(*workers, files).await,
        Work::Encode { level, rows, out } => encode::encode(*level, rows, out),
        Work::Apply { sink, commit_mib, referring, parents, files } => {
            apply::apply(sink, *commit_mib, (*referring, *parents), files).await
        }
        Work::Release { sink, children } => apply::release(sink, *children).await,
        Work::Save { messages, at_once, inbox } => save::save(inbox, *messages, *at_once).await,
        Work::Fill { inbox, messages } => backlog::fill(inbox, *messages).await,
        Work::Lease { blob_type, inbox } => backlog::lease(inbox, blob_type.as_deref()).await,
        Work::Send { bus, blob, topic, messages } => send::send(bus, blob, topic, *messages).await,
        Work::Receive { source, messages, inbox } => subscribe::receive(source, inbox, *messages).await,
        Work::Publish { place, state, files } => publish::publish(place, state, files).await,
        Work::Streams { place, state, exports, rows } => exports::streams(place, state, *exports, *rows).await,
        Work::Files { place, state, files } => exports::files(place, state, files).await,
        Work::Append { database, rows } => changelog::append(database, rows).await,
        Work::Follow { place, database, changes } => changelog::follow(place, database, *changes).await,
        Work::Subscribe { source, sink, on_unwanted, files, inbox } => {
            subscribe::run(source, inbox, sink, on_unwanted, *files).await
        }
        Work::Idle { settle_seconds, seconds, processes } => idle::idle(*settle_seconds, *seconds, processes),
        Work::Beside { pid, messages, client } => beside::beside(*pid, *messages, client),
    }
}

fn result(text: impl ToString) -> Said {
    Said { result: text.to_string(), ..Said::default() }
}
