//! `parked`: what rows wait for, and letting them go without it.

use std::path::Path;

use anyhow::bail;
use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{count, cut, in_one_line, instant, json, line, many, table},
    settings::subscriber::Settings,
};
use waybill_contracts::Entities;
use waybill_subscriber::sink::{AnySink, MissingParent, Released, SqlSink};

use super::types::say_unknown;

/// Longer keys are cut in the table; JSON has them whole.
const KEY_SHOWN_MAX: usize = 60;

/// A missing parent, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Missing {
    parent: String,
    key: String,
    waiting: String,
    rows: u64,
    since: String,
}

/// What a release did, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LetGo {
    applied: u64,
    ignored: u64,
    still_waiting: u64,
    bad: u64,
    rescued: u64,
}

pub(crate) async fn list(
    common: &Common,
    settings: &Settings,
    blob_type: Option<&str>,
    limit: u32,
) -> anyhow::Result<Outcome> {
    let waiting = match blob_type {
        Some(name) => Some(entity_of(&settings.read_entities()?, name)),
        None => None,
    };
    // Looking needs no entities: so no table is made or changed for it.
    let missing = match open(settings, &Entities::default()).await? {
        AnySink::Sqlite(sink) => sink.missing(waiting.as_deref(), limit).await?,
        AnySink::Postgres(sink) => sink.missing(waiting.as_deref(), limit).await?,
        _ => bail!("{NO_PARKING}"),
    };
    if common.format == Format::Json {
        let missing = missing.into_iter().map(|MissingParent { entity, key, waiting, rows, since }| Missing {
            parent: entity,
            key,
            waiting,
            rows,
            since,
        });
        json(&missing.collect::<Vec<_>>())?;
        return Ok(Outcome::Done);
    }
    table(
        &["MISSING", "KEY", "ROWS", "OF", "SINCE"],
        missing.iter().map(|parent| {
            vec![
                parent.entity.clone(),
                in_one_line(&cut(&parent.key, KEY_SHOWN_MAX)),
                count(parent.rows),
                parent.waiting.clone(),
                OffsetDateTime::parse(&parent.since, &Rfc3339).map_or_else(|_| parent.since.clone(), instant),
            ]
        }),
    )?;
    if missing.is_empty()
        && let Some(name) = blob_type
    {
        say_unknown(name, &settings.read_entities()?, &[])?;
    }
    if missing.len() == limit as usize {
        line(format_args!("\nthere may be more; see them with --limit"))?;
    }
    Ok(Outcome::Done)
}

pub(crate) async fn release(common: &Common, settings: &Settings, parent: &str, key: &str) -> anyhow::Result<Outcome> {
    let entities = settings.read_entities()?;
    let entity = entity_of(&entities, parent);
    if !entities.0.contains_key(&entity) {
        let names: Vec<&str> = entities.0.keys().map(String::as_str).collect();
        bail!(
            "{parent:?} is no entity; give its definition with --entities, or name one of: {}",
            if names.is_empty() { "(none is configured)".to_owned() } else { names.join(", ") }
        );
    }
    let sink = open(settings, &entities).await?;
    let mut released = Released::default();
    // As it is written, and then as the list shows it: no argument can hold a U+0000.
    for key in [key, &key.replace("\\u{0}", "\0")] {
        if released.rows() == 0 {
            released = match &sink {
                AnySink::Sqlite(sink) => sink.release(&entity, key).await?,
                AnySink::Postgres(sink) => sink.release(&entity, key).await?,
                _ => bail!("{NO_PARKING}"),
            };
        }
    }
    if released.rows() == 0 {
        bail!("no row waits for {entity} {key:?}; `waybill-subscriber parked` lists what is missing");
    }
    let Released { applied, ignored, still_waiting, bad, rescued } = released;
    if common.format == Format::Json {
        json(&LetGo { applied, ignored, still_waiting, bad, rescued })?;
    } else {
        line(format_args!(
            "{} applied without {entity} {key:?}, with those that waited for them",
            many(applied, "row")
        ))?;
        let others = [
            (ignored, "older than what is there by now, ignored"),
            (still_waiting, "still waiting for another parent"),
            (bad, "kept with their error"),
            (rescued, "with a value that does not fit its column, kept in _rescued"),
        ];
        for (number, what) in others.iter().filter(|(number, _)| *number > 0) {
            line(format_args!("{} {what}", many(*number, "row")))?;
        }
    }
    Ok(if bad > 0 { Outcome::Quarantined } else { Outcome::Done })
}

const NO_PARKING: &str =
    "in this sink no row waits; name the database with --sink sqlite:PATH or postgres://USER@HOST:PORT/DATABASE";

pub(super) async fn open(settings: &Settings, entities: &Entities) -> anyhow::Result<AnySink> {
    let target = settings.sink()?;
    if let Some(path) = target.strip_prefix("sqlite:")
        && !Path::new(path).exists()
    {
        bail!("there is no database {path}; name the one that `run` fills with --sink");
    }
    settings.open_sink(entities).await
}

/// By its own name, or by one of its types.
fn entity_of(entities: &Entities, name: &str) -> String {
    match entities.for_type(name) {
        Some(entity) if !entities.0.contains_key(name) => entity.name.clone(),
        _ => name.to_owned(),
    }
}
