//! Commands that only look at our own state.

use anyhow::bail;
use serde::Serialize;
use time::OffsetDateTime;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{count, cut, in_one_line, instant, json, line, table},
    settings::publisher::Settings,
};
use waybill_contracts::Snapshot;
use waybill_publisher::{
    change_log::LogStatus,
    outbox::{self, AnyOutbox, Counts, ExportRow, HistoryEntry, ListFilter, Outbox, Paused, State},
};

use super::change_log;

/// A status, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    epoch: String,
    exports: Counts,
    last_error: Option<String>,
    paused: Vec<Paused>,
    change_log: Option<LogStatus>,
}

pub(crate) async fn status(common: &Common, settings: &Settings) -> anyhow::Result<Outcome> {
    // A change log goes with the outbox of `run`.
    let log = if settings.looks_elsewhere()? { None } else { settings.change_log().await? };
    let log = match log {
        Some(log) => Some(log.status().await?),
        None => None,
    };
    // With a change log, nothing need have been published yet.
    let outbox = if log.is_some() { settings.runs_outbox_or_new().await? } else { settings.existing_outbox().await? };
    let exports = outbox.counts().await?;
    let last_error = outbox::last_error(&outbox).await?;
    let paused = outbox.paused().await?;
    if common.format == Format::Json {
        json(&Status { epoch: outbox.epoch().to_owned(), exports, last_error, paused, change_log: log })?;
        return Ok(Outcome::Done);
    }
    table(
        &["STATE", "EXPORTS"],
        [
            (State::Planned, exports.planned),
            (State::Uploaded, exports.uploaded),
            (State::Sent, exports.sent),
            (State::Void, exports.void),
        ]
        .map(|(state, exports)| vec![state.to_string(), count(exports)]),
    )?;
    if let Some(since) = exports.waiting_since {
        line(format_args!(
            "\n{} wait to be sent, since {}; `waybill-publisher run` sends them",
            count(exports.uploaded),
            instant(since)
        ))?;
    }
    if let Some(until) = exports.waiting_until {
        line(format_args!(
            "the term of the first of them ends {}; what is not sent by then becomes void, and its changes reach nobody",
            instant(until)
        ))?;
    }
    if let Some(error) = last_error {
        line(format_args!("the last try met: {error}"))?;
    }
    for Paused { blob_type, since, why } in &paused {
        line(format_args!(
            "{blob_type} is paused since {} ({}); `waybill-publisher resume {blob_type}` lets its messages go",
            instant(*since),
            in_one_line(why)
        ))?;
    }
    if exports.void > 0 {
        line(format_args!("see what came to nothing: waybill-publisher list --state void"))?;
    }
    if let Some(log) = log {
        change_log::report(&log)?;
    }
    Ok(Outcome::Done)
}

pub(crate) async fn list(common: &Common, settings: &Settings, filter: &ListFilter) -> anyhow::Result<Outcome> {
    let rows = settings.existing_outbox().await?.list(filter).await?;
    if common.format == Format::Json {
        json(&rows)?;
        return Ok(Outcome::Done);
    }
    table(
        &["ID", "STATE", "TYPE", "SEQUENCE", "ROWS", "BYTES", "CREATED", "EXPORT", "PROBLEM"],
        rows.iter().map(|row| {
            vec![
                row.row.to_string(),
                row.state.to_string(),
                cut(&row.blob_type, 40),
                number(row.sequence),
                number(row.rows),
                number(row.bytes),
                instant(row.created_at),
                row.export_id.as_str().to_owned(),
                cut(problem(row), 100),
            ]
        }),
    )?;
    if let Some(last) = rows.last().filter(|_| rows.len() == filter.most as usize) {
        line(format_args!("\nmore: --before {}", last.row))?;
    }
    Ok(Outcome::Done)
}

fn number(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), count)
}

fn problem(row: &ExportRow) -> &str {
    row.reason.as_deref().or(row.last_error.as_deref().filter(|_| row.state != State::Sent)).unwrap_or_default()
}

/// A row with its history, as JSON.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    row: ExportRow,
    history: Vec<HistoryEntry>,
}

pub(crate) async fn show(common: &Common, settings: &Settings, id: &str) -> anyhow::Result<Outcome> {
    let outbox = settings.existing_outbox().await?;
    let row = found(&outbox, id).await?;
    let history = outbox.history(row.row).await?;
    if common.format == Format::Json {
        json(&Shown { row, history })?;
        return Ok(Outcome::Done);
    }
    let mut facts = vec![("id", row.row.to_string()), ("state", row.state.to_string())];
    let mut fact = |name, value: Option<String>| facts.extend(value.map(|value| (name, value)));
    let at = |at: Option<OffsetDateTime>| at.map(instant);
    fact("reason", row.reason);
    fact("replaced by", row.replaced_by.map(|row| row.to_string()));
    fact("export", Some(row.export_id.as_str().to_owned()));
    fact("publisher", Some(row.publisher));
    fact("type", Some(row.blob_type));
    fact("sequence", row.sequence.map(|sequence| format!("{sequence} of epoch {}", row.epoch)));
    let part = |of: Snapshot| format!("{:?}, part {} of {}, as of number {}", of.id, of.part, of.of, count(of.as_of));
    fact("full export", row.snapshot.map(part));
    fact("correlation id", Some(row.correlation_id));
    fact("caused by", row.causation_id);
    fact("message id", row.message_id);
    fact("uri", row.uri);
    fact("blob", Some(row.blob));
    let packed = row.content_encoding.map(|encoding| format!(", {encoding}")).unwrap_or_default();
    fact("content type", Some(format!("{}{packed}", row.content_type)));
    fact("schema", row.schema);
    fact("properties", row.properties.map(|properties| properties.get().to_owned()));
    fact("rows", row.rows.map(count));
    fact("bytes", row.bytes.map(|bytes| format!("{} ({} unpacked)", count(bytes), number(row.plain_bytes))));
    fact("sha-256", row.plain_sha256.map(|hash| format!("{hash} (unpacked)")));
    fact("created", Some(instant(row.created_at)));
    fact("uploaded", at(row.uploaded_at));
    fact("sent", at(row.sent_at));
    fact("expires", at(row.expires_at));
    fact("failed tries", (row.tries > 0).then(|| count(row.tries)));
    fact("due", at(row.due_at));
    fact("last error", row.last_error);
    for (name, value) in facts {
        line(format_args!("{name:<15} {value}"))?;
    }
    line(format_args!(""))?;
    table(
        &["WHEN", "STATE", "WHY"],
        history
            .into_iter()
            .map(|entry| vec![instant(entry.at), entry.state.to_string(), entry.note.unwrap_or_default()]),
    )?;
    Ok(Outcome::Done)
}

/// By number, else by export id: the newest of its rows.
pub(crate) async fn found(outbox: &AnyOutbox, id: &str) -> anyhow::Result<ExportRow> {
    if let Ok(number) = id.parse()
        && let Some(row) = outbox.get(number).await?
    {
        return Ok(row);
    }
    let filter = ListFilter { export_id: Some(id.to_owned()), most: 1, ..ListFilter::default() };
    match outbox.list(&filter).await?.into_iter().next() {
        Some(row) => Ok(row),
        None => bail!("no export {id} in {}; `waybill-publisher list` shows the numbers", outbox.shown()),
    }
}
