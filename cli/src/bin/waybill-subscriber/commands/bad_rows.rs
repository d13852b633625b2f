//! `bad-rows`: the rows that cannot be used, with what, where and why.

use anyhow::bail;
use serde::Serialize;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{count, in_lines, in_one_line, json, line, many},
    settings::subscriber::Settings,
};
use waybill_contracts::Entities;
use waybill_subscriber::{
    FileKey,
    inbox::Inbox,
    sink::{self, AnySink, BadRowEntry, BadRowsOf, SinkError, SqlSink},
};

use super::{parked::open, types::say_unknown};
use crate::BadRows;

/// Of a row that is shown without `--full`.
const SHOWN_MAX: usize = 200;

/// A row, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    /// Its number in the inbox; none when another inbox received it.
    file: Option<i64>,
    file_key: FileKey,
    blob_type: Option<String>,
    row: u64,
    offset: Option<u64>,
    key: Option<String>,
    reason: String,
    problem: String,
    bytes: String,
    is_cut: bool,
    found_at: String,
}

pub(crate) async fn list(common: &Common, settings: &Settings, wanted: &BadRows) -> anyhow::Result<Outcome> {
    let target = settings.sink()?;
    let (target, place) = (sink::shown(target), Place::of(target));
    if place != Place::Tables {
        bail!("{target} keeps no list of bad rows: {place}");
    }
    let inbox = settings.inbox_if_there().await?;
    let mut of = BadRowsOf { file: None, types: types(settings, wanted)?, after: wanted.after.unwrap_or(0) };
    let mut found_bad = 0;
    if let Some(id) = wanted.file {
        let row = match &inbox {
            Some(inbox) => inbox.get(id).await?,
            None => settings.existing_inbox().await?.get(id).await?,
        };
        let Some(row) = row else { bail!("there is no number {id}; `waybill-subscriber list` shows them") };
        found_bad = row.bad_rows;
        let Some(file) = row.file else {
            bail!("{id} is a message that names no file; see `waybill-subscriber show {id}`")
        };
        of.file = Some(file);
    }
    // Looking needs no entities: so no table is made or changed for it.
    let (rows, all) = match open(settings, &Entities::default()).await? {
        AnySink::Sqlite(sink) => read(&sink, &of, wanted.limit).await?,
        AnySink::Postgres(sink) => read(&sink, &of, wanted.limit).await?,
        _ => bail!("{target} keeps no list of bad rows"),
    };
    let files: Vec<FileKey> = rows.iter().map(|row| row.file.clone()).collect();
    let ids = match &inbox {
        Some(inbox) => inbox.known(&files).await?,
        None => vec![None; files.len()],
    };
    let shown: Vec<Shown> = rows.into_iter().zip(ids).map(|(row, id)| Shown::new(row, id, wanted.full)).collect();
    if common.format == Format::Json {
        json(&shown)?;
        return Ok(Outcome::Done);
    }
    for row in &shown {
        say(row)?;
    }
    if shown.is_empty() {
        line(format_args!("no row is kept with an error"))?;
        if let Some(name) = &wanted.blob_type {
            let announced = match &inbox {
                Some(inbox) => inbox.types().await?,
                None => Vec::new(),
            };
            say_unknown(name, &settings.read_entities()?, &announced)?;
        }
    }
    if shown.is_empty() && found_bad > 0 && of.after == 0 {
        line(format_args!(
            "of this file {} could not be used: left out, as on_bad_row = \"skip\" asks, or brought into another sink",
            many(found_bad, "row")
        ))?;
    }
    let more = all.saturating_sub(shown.len() as u64);
    if let (Some(last), true) = (shown.last(), more > 0) {
        match wanted.file {
            Some(id) => line(format_args!("\n{} more: --file {id} --after {}", count(more), last.row))?,
            None => line(format_args!("\n{} more: name one of their files (--file) or types (--type)", count(more)))?,
        }
    }
    Ok(Outcome::Done)
}

async fn read(sink: &impl SqlSink, of: &BadRowsOf, limit: u32) -> Result<(Vec<BadRowEntry>, u64), SinkError> {
    Ok((sink.bad_rows(of, limit).await?, sink.count_bad_rows(of).await?))
}

/// The blobTypes that were asked for, by name or as those of an entity.
fn types(settings: &Settings, wanted: &BadRows) -> anyhow::Result<Option<Vec<String>>> {
    let Some(name) = &wanted.blob_type else { return Ok(None) };
    Ok(Some(match settings.read_entities()?.0.get(name) {
        Some(entity) => entity.types.clone(),
        None => vec![name.clone()],
    }))
}

impl Shown {
    fn new(row: BadRowEntry, file: Option<i64>, full: bool) -> Self {
        let BadRowEntry { file: file_key, blob_type, row, offset, key, reason, problem, bytes, found_at } = row;
        let text = String::from_utf8_lossy(&bytes);
        let shown: String = if full { text.as_ref().to_owned() } else { text.chars().take(SHOWN_MAX).collect() };
        let is_cut = shown.len() < text.len();
        Self { file, file_key, blob_type, row, offset, key, reason, problem, bytes: shown, is_cut, found_at }
    }
}

fn say(row: &Shown) -> anyhow::Result<()> {
    let file = row.file.map_or_else(|| row.file_key.to_string(), |id| id.to_string());
    let blob_type = row.blob_type.as_ref().map(|name| format!(" ({})", in_one_line(name))).unwrap_or_default();
    let offset = row.offset.map(|offset| format!(", byte {offset}")).unwrap_or_default();
    let key = row.key.as_ref().map(|key| format!(", key {}", printable(key))).unwrap_or_default();
    line(format_args!(
        "file {file}{blob_type}, row {}{offset}{key}: {}: {}",
        row.row,
        row.reason,
        printable(&row.problem)
    ))?;
    line(format_args!("    {}{}", printable(&row.bytes).replace('\n', "\n    "), if row.is_cut { "…" } else { "" }))
}

/// Other people's text on our terminal, without the end of its last line.
fn printable(text: &str) -> String {
    in_lines(text.trim_end_matches(['\r', '\n']))
}

/// Where a sink leaves the rows that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In a table beside the others.
    Tables,
    /// In files of this folder, beside those of the good rows.
    Files(String),
    /// Nowhere but in the log.
    Log,
}

impl Place {
    pub(super) fn of(target: &str) -> Self {
        match target.split_once(':') {
            None => Self::Log,
            Some((kind, path)) if kind == "dir" || kind.starts_with("dir+") => Self::Files(path.to_owned()),
            Some(_) => Self::Tables,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tables => f.write_str("see `waybill-subscriber bad-rows` with the same sink"),
            Self::Files(folder) => {
                write!(f, "those of a file are in {folder}/TYPE/FILE+bad.jsonl, beside its good rows")
            }
            Self::Log => f.write_str("each is said once, in a warning of the log (standard error)"),
        }
    }
}
