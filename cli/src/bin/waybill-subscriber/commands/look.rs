//! Commands that only look at our own state.

use anyhow::bail;
use serde::Serialize;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{count, cut, instant, json, line, table},
    settings::subscriber::Settings,
};
use waybill_contracts::{Metadata, Snapshot};
use waybill_subscriber::inbox::{HistoryEntry, Inbox, InboxRow, ListFilter, State};

pub(crate) async fn list(common: &Common, settings: &Settings, filter: &ListFilter) -> anyhow::Result<Outcome> {
    let rows = settings.existing_inbox().await?.list(filter).await?;
    if common.format == Format::Json {
        json(&rows)?;
        return Ok(Outcome::Done);
    }
    table(
        &["ID", "STATE", "TYPE", "RECEIVED", "ROWS", "BAD", "TRIES", "PROBLEM"],
        rows.iter().map(|row| {
            let problem = match (&row.reason, &row.problem, row.duplicate_of) {
                // Why an earlier try ended is in its history.
                _ if row.state == State::Working => {
                    row.worker.as_deref().map_or_else(String::new, |worker| format!("held by {}", who(worker)))
                }
                (Some(reason), Some(problem), _) => format!("{reason}: {problem}"),
                (None, Some(problem), _) => problem.clone(),
                (_, _, Some(of)) => format!("another message for {of}"),
                _ => String::new(),
            };
            vec![
                row.id.to_string(),
                row.state.to_string(),
                cut(row.blob_type.as_deref().unwrap_or("-"), 40),
                instant(row.received_at),
                count(row.rows),
                count(row.bad_rows),
                row.attempts.to_string(),
                cut(&problem, 100),
            ]
        }),
    )?;
    if let Some(last) = rows.last().filter(|_| rows.len() == filter.most as usize) {
        line(format_args!("\nmore: --before {}", last.id))?;
    }
    Ok(Outcome::Done)
}

/// A row with its history, as JSON.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    row: InboxRow,
    history: Vec<HistoryEntry>,
}

pub(crate) async fn show(common: &Common, settings: &Settings, id: i64) -> anyhow::Result<Outcome> {
    let inbox = settings.existing_inbox().await?;
    let Some(row) = inbox.get(id).await? else {
        bail!("no row {id} in {}; `waybill-subscriber list` shows the numbers", settings.inbox_place()?);
    };
    let history = inbox.history(id).await?;
    if common.format == Format::Json {
        json(&Shown { row, history })?;
        return Ok(Outcome::Done);
    }
    let mut facts = vec![("state", row.state.to_string())];
    let mut fact = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
    fact("reason", row.reason.map(|reason| reason.to_string()));
    fact("problem", row.problem);
    fact("file", row.file.map(|file| file.to_string()));
    fact("type", row.blob_type);
    fact("correlation id", row.correlation_id);
    fact("uri", row.uri);
    fact("content type", row.content_type);
    fact("sequence", row.sequence.map(|sequence| sequence.to_string()));
    fact("full export", full_export(&row.body));
    fact("from", Some(format!("{} #{} at {}", row.entity_path, row.sequence_number, instant(row.enqueued_at))));
    fact("message id", row.message_id);
    fact("received", Some(instant(row.received_at)));
    fact("held by", row.worker.as_deref().map(|worker| who(worker).to_owned()));
    fact("due", row.due_at.map(instant));
    fact("expires", row.expires_at.map(instant));
    let filtered = row.filtered_rows.map_or(String::new(), |rows| format!(", {} not wanted by a filter", count(rows)));
    fact("rows", Some(format!("{} ({} bad{filtered})", count(row.rows), count(row.bad_rows))));
    fact("bad rows", (row.bad_rows > 0).then(|| format!("see `waybill-subscriber bad-rows --file {id}`")));
    fact("tries", Some(row.attempts.to_string()));
    fact("duplicate of", row.duplicate_of.map(|of| of.to_string()));
    fact("body", Some(row.body));
    for (name, value) in facts {
        line(format_args!("{name:<15} {value}"))?;
    }
    line(format_args!(""))?;
    table(
        &["WHEN", "STATE", "WHO", "WHY"],
        history.iter().map(|entry| {
            let who = entry.worker.as_deref().map(who).unwrap_or_default();
            vec![instant(entry.at), entry.state.to_string(), who.to_owned(), why(entry)]
        }),
    )?;
    Ok(Outcome::Done)
}

pub(crate) async fn trace(common: &Common, settings: &Settings, correlation_id: &str) -> anyhow::Result<Outcome> {
    /// One id is given to a handful of files; more than this is somebody's constant.
    const MOST: u32 = 1_000;
    let inbox = settings.existing_inbox().await?;
    let filter = ListFilter { correlation_id: Some(correlation_id.to_owned()), most: MOST, ..ListFilter::default() };
    let mut shown = Vec::new();
    for row in inbox.list(&filter).await? {
        let history = inbox.history(row.id).await?;
        shown.push(Shown { row, history });
    }
    if shown.is_empty() {
        bail!(
            "nothing in {} has the correlation id {correlation_id:?}; ids are compared as they are written",
            settings.inbox_place()?
        );
    }
    shown.reverse();
    if common.format == Format::Json {
        json(&shown)?;
        return Ok(Outcome::Done);
    }
    let mut steps: Vec<(&InboxRow, &HistoryEntry)> =
        shown.iter().flat_map(|shown| shown.history.iter().map(|entry| (&shown.row, entry))).collect();
    steps.sort_by_key(|(row, entry)| (entry.at, row.id));
    table(
        &["WHEN", "ID", "TYPE", "STATE", "WHY"],
        steps.into_iter().map(|(row, entry)| {
            let blob_type = row.blob_type.clone().unwrap_or_default();
            vec![instant(entry.at), row.id.to_string(), blob_type, entry.state.to_string(), why(entry)]
        }),
    )?;
    if shown.len() == MOST as usize {
        line(format_args!("the newest {MOST} with this id; `list --correlation` pages through all"))?;
    }
    Ok(Outcome::Done)
}

/// Which part of which full export the message announces.
fn full_export(body: &str) -> Option<String> {
    let Snapshot { id, part, of, as_of } = Metadata::parse(body.as_bytes()).ok()?.extras().ok()?.snapshot?;
    Some(format!("{id:?}, part {part} of {of}, as of number {}", count(as_of)))
}

/// Machine and process of a worker, without what tells its starts apart.
pub(super) fn who(worker: &str) -> &str {
    worker.rsplit_once('-').map_or(worker, |(who, _)| who)
}

/// The reason and the problem of a step.
fn why(entry: &HistoryEntry) -> String {
    let why: Vec<String> =
        entry.reason.map(|reason| reason.to_string()).into_iter().chain(entry.problem.clone()).collect();
    why.join(": ")
}
