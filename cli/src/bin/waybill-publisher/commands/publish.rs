//! `publish`: files become exports, and their messages are sent.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, anyhow};
use serde::Serialize;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{json, line, many},
    progress,
    settings::publisher::Settings,
    signals,
};
use waybill_publisher::{
    Exported, FlushError, Publisher,
    outbox::{AnyOutbox, OutboxError, State},
};

use super::{
    beside::{FINISH, in_time},
    run::relay_line,
};
use crate::{Publish, STANDARD_INPUT};

/// What standard input is called.
const STANDARD_INPUT_NAME: &str = "standard input";

/// What became of a file.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    file: String,
    #[serde(flatten)]
    exported: Option<Exported>,
    /// Of the export; none when there is none.
    state: Option<State>,
    error: Option<String>,
}

/// All of it, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    files: Vec<Line>,
    sent: usize,
    kept_in_outbox: usize,
    failed: usize,
}

pub(crate) async fn publish(common: &Common, settings: &Settings, publish: &Publish) -> anyhow::Result<Outcome> {
    let publisher = settings.publisher(common.local.as_deref()).await?;
    let stop = CancellationToken::new();
    let relay_stop = CancellationToken::new();
    let done = CancellationToken::new();
    let at = At::default();
    let work = async {
        let lines = export_and_send(&publisher, settings, publish, &at, &stop).await;
        relay_stop.cancel();
        done.cancel();
        lines
    };
    let progress_now = || at.line(publish.files.len(), &publisher);
    let mut lines = tokio::select! {
        (lines, (), ()) = async {
            tokio::join!(work, publisher.run(relay_stop.clone()), progress::show(progress_now, done.clone()))
        } => lines?,
        listening = signals::listen(stop.clone(), "the file under way has 3 s to finish") => {
            listening.context("cannot listen to signals")?;
            unreachable!("listening ends with the process");
        }
    };
    if in_time(look_at_states(&publisher, &mut lines)).await.is_none() {
        eprintln!(
            "waybill-publisher: the outbox does not tell whether all messages are sent; `waybill-publisher list` does"
        );
    }
    report(common, lines)
}

/// Where the work is, for a line of progress.
#[derive(Debug, Default)]
struct At {
    file: Mutex<Option<Current>>,
    /// Of the current file.
    bytes_read: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Current {
    name: String,
    number: usize,
    bytes: Option<u64>,
}

impl At {
    fn begin(&self, number: usize, file: &Path) {
        let bytes = std::fs::metadata(file).ok().map(|facts| facts.len());
        self.bytes_read.store(0, Ordering::Relaxed);
        *self.current() = Some(Current { name: name_of(file), number, bytes });
    }

    fn sending(&self) {
        *self.current() = None;
    }

    fn current(&self) -> MutexGuard<'_, Option<Current>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, files: usize, publisher: &Publisher<AnyOutbox>) -> String {
        let current = self.current();
        let Some(Current { name, number, bytes }) = &*current else {
            return format!("sending{}", relay_line(publisher));
        };
        let read = self.bytes_read.load(Ordering::Relaxed);
        let percent = bytes.and_then(|bytes| read.min(bytes).saturating_mul(100).checked_div(bytes));
        let percent = percent.map(|percent| format!(", {percent} %")).unwrap_or_default();
        format!("file {number} of {files}: {name}, {} read{percent}", many(read, "byte"))
    }
}

fn name_of(file: &Path) -> String {
    if file.as_os_str() == STANDARD_INPUT { STANDARD_INPUT_NAME.to_owned() } else { file.display().to_string() }
}

/// One file after the other, so that their numbers follow the order in which they are named; the relay sends meanwhile.
async fn export_and_send(
    publisher: &Publisher<AnyOutbox>,
    settings: &Settings,
    publish: &Publish,
    at: &At,
    stop: &CancellationToken,
) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::with_capacity(publish.files.len());
    for (index, path) in publish.files.iter().enumerate() {
        let file = name_of(path);
        if stop.is_cancelled() {
            let error = "not begun, because it was stopped; publish it again".to_owned();
            eprintln!("waybill-publisher: {file}: {error}");
            lines.push(Line { file, exported: None, state: None, error: Some(error) });
            continue;
        }
        at.begin(index + 1, path);
        let exported = tokio::select! {
            exported = export(publisher, publish, path, at) => exported,
            () = async { stop.cancelled().await; sleep(FINISH).await } => {
                Err(anyhow!("not finished {} s after it was stopped; publish it again", FINISH.as_secs()))
            }
        };
        lines.push(match exported {
            Ok(exported) => Line { file, exported: Some(exported), state: Some(State::Uploaded), error: None },
            Err(error) => {
                let error = format!("{error:#}");
                // At once: a long list of files may follow.
                let names_it = error.contains(&file);
                eprintln!("waybill-publisher: {}{error}", if names_it { String::new() } else { format!("{file}: ") });
                Line { file, exported: None, state: None, error: Some(error) }
            }
        });
    }
    at.sending();
    let ids: Vec<&str> =
        lines.iter().filter_map(|line| line.exported.as_ref()).map(|done| done.export_id.as_str()).collect();
    let flushed = tokio::select! {
        flushed = publisher.flush_exports(&ids, settings.send_timeout()) => flushed,
        () = stop.cancelled() => Ok(()),
    };
    match flushed {
        Ok(()) | Err(FlushError::Void { .. }) => {}
        Err(error @ FlushError::Timeout { .. }) => {
            eprintln!("waybill-publisher: {error}{}", relay_line(publisher));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(lines)
}

/// What became of each export, asked when the relay has ended: it may have sent more after we stopped waiting.
async fn look_at_states(publisher: &Publisher<AnyOutbox>, lines: &mut [Line]) -> Result<(), OutboxError> {
    for line in lines {
        let Some(exported) = &line.exported else { continue };
        let row = publisher.show(&exported.export_id).await?.into_iter().next();
        line.state = row.as_ref().map(|row| row.state);
        if let Some(row) = row.filter(|row| row.state == State::Void) {
            let reason = row.reason.unwrap_or_default();
            line.error = Some(format!("export {} is void ({reason}); publish it again", exported.export_id));
        }
    }
    Ok(())
}

async fn export(publisher: &Publisher<AnyOutbox>, publish: &Publish, path: &Path, at: &At) -> anyhow::Result<Exported> {
    let mut export = publisher.export(&publish.blob_type)?.progress(Arc::clone(&at.bytes_read));
    if let Some(id) = &publish.id {
        export = export.id(id)?;
    }
    if let Some(id) = &publish.correlation_id {
        export = export.correlation_id(id)?;
    }
    if let Some(charset) = &publish.file.charset {
        export = export.charset(charset)?;
    }
    if let Some(target) = publish.target {
        export = export.convert_to(target.into());
    }
    match publish.file.input.filter(|_| path.as_os_str() == STANDARD_INPUT) {
        // It can be read once, so a passing fault of storage ends it.
        Some(format) => Ok(export.reader(STANDARD_INPUT_NAME, format.into(), tokio::io::stdin()).await?),
        None => Ok(export.file(path).await?),
    }
}

fn report(common: &Common, files: Vec<Line>) -> anyhow::Result<Outcome> {
    let in_state = |state| files.iter().filter(|line| line.state == Some(state)).count();
    let (sent, kept_in_outbox) = (in_state(State::Sent), in_state(State::Uploaded));
    let failed = files.len() - sent - kept_in_outbox;
    let outcome = if sent == files.len() { Outcome::Done } else { Outcome::Failed };
    if common.format == Format::Json {
        json(&Summary { files, sent, kept_in_outbox, failed })?;
        return Ok(outcome);
    }
    for file in &files {
        let Some(exported) = &file.exported else {
            line(format_args!("{}: not published", file.file))?;
            continue;
        };
        let state = match (file.state, exported.repeated) {
            (Some(State::Sent), false) => "sent",
            (Some(State::Sent), true) => "sent before, not again",
            (Some(State::Void), _) => "void",
            _ => "kept in the outbox",
        };
        let rows = exported.rows.map(|rows| format!("{}, ", many(rows, "row"))).unwrap_or_default();
        line(format_args!(
            "{}: {state}, {rows}{}, sequence {}, export {}",
            file.file,
            many(exported.bytes, "byte"),
            exported.sequence,
            exported.export_id
        ))?;
    }
    if files.len() > 1 {
        line(format_args!(
            "{} files: {sent} sent, {kept_in_outbox} kept in the outbox, {failed} not published",
            files.len()
        ))?;
    }
    if kept_in_outbox > 0 {
        line(format_args!("what is kept is sent by `waybill-publisher run`"))?;
    }
    Ok(outcome)
}
