//! `status` and `peek`: what a `waybill-local` that runs has, and nothing of it changes.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::Deserialize;
use time::OffsetDateTime;
use waybill_cli::{
    args::Format,
    exit::Outcome,
    output::{count, cut, instant, json, line, many, table},
};

use super::admin::Running;

/// What is shown of `GET /status`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    version: String,
    #[serde(with = "time::serde::rfc3339")]
    started_at: OffsetDateTime,
    warnings: Vec<String>,
    entities: Vec<Entity>,
    connections: Vec<Connection>,
    tokens: Vec<Token>,
    grants: BTreeMap<String, Grants>,
    faults: Faults,
    blob: Blob,
}

#[derive(Deserialize)]
struct Entity {
    path: String,
    kind: String,
    counts: Option<Counts>,
    published: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    active: u64,
    locked: u64,
    scheduled: u64,
    deferred: u64,
    dead_lettered: u64,
}

#[derive(Deserialize)]
struct Connection {
    number: u64,
    peer: Option<String>,
    client: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    since: OffsetDateTime,
    links: Vec<Link>,
}

#[derive(Deserialize)]
struct Link {
    entity: String,
    role: String,
    credit: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Token {
    kind: String,
    sha256: String,
    tenant: Option<String>,
    signed_by: String,
    #[serde(with = "time::serde::rfc3339::option")]
    expires_at: Option<OffsetDateTime>,
    uses: u64,
}

#[derive(Deserialize)]
struct Grants {
    requests: u64,
    issued: u64,
}

#[derive(Deserialize)]
struct Faults {
    waiting: u64,
    fired: u64,
}

#[derive(Deserialize)]
struct Blob {
    containers: Vec<Container>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    name: String,
    blobs: u64,
    bytes: u64,
    uncommitted_blocks: u64,
}

pub(crate) async fn status(running: &Running) -> anyhow::Result<Outcome> {
    let answer = running.admin()?.get("status", &[]).await?;
    if running.format == Format::Json {
        json(&answer)?;
        return Ok(Outcome::Done);
    }
    let status: Status = serde_json::from_value(answer).context("the answer is not that of this waybill-local")?;
    line(format_args!("waybill-local {}, since {}", status.version, instant(status.started_at)))?;
    for warning in &status.warnings {
        line(format_args!("warning: {warning}"))?;
    }
    line(format_args!(""))?;
    entities(&status.entities)?;
    line(format_args!(""))?;
    let containers = status.blob.containers.into_iter();
    table(
        &["CONTAINER", "BLOBS", "BYTES", "UNCOMMITTED BLOCKS"],
        containers.map(|container| {
            let numbers = [container.blobs, container.bytes, container.uncommitted_blocks].map(count);
            [vec![container.name], numbers.to_vec()].concat()
        }),
    )?;
    if !status.connections.is_empty() {
        line(format_args!(""))?;
        connections(&status.connections)?;
    }
    if !status.tokens.is_empty() {
        line(format_args!(""))?;
        tokens(status.tokens)?;
    }
    line(format_args!(""))?;
    for (tenant, Grants { requests, issued }) in &status.grants {
        line(format_args!("{tenant}: {}, {} issued", many(*requests, "grant request"), count(*issued)))?;
    }
    let Faults { waiting, fired } = status.faults;
    line(format_args!("faults: {} fired, {} waiting", count(fired), count(waiting)))?;
    Ok(Outcome::Done)
}

fn entities(entities: &[Entity]) -> anyhow::Result<()> {
    let row = |entity: &Entity| {
        let numbers = match &entity.counts {
            Some(counts) => {
                [counts.active, counts.locked, counts.scheduled, counts.deferred, counts.dead_lettered].map(count)
            }
            // What was sent to a topic lies on its subscriptions.
            None => [(); 5].map(|()| "-".to_owned()),
        };
        let kind = match entity.published {
            Some(published) => format!("{}, {} sent", entity.kind, count(published)),
            None => entity.kind.clone(),
        };
        [vec![entity.path.clone(), kind], numbers.to_vec()].concat()
    };
    table(&["ENTITY", "KIND", "ACTIVE", "LOCKED", "SCHEDULED", "DEFERRED", "DEAD-LETTERED"], entities.iter().map(row))
}

fn connections(connections: &[Connection]) -> anyhow::Result<()> {
    let row = |connection: &Connection| {
        let links = connection.links.iter();
        let links = links.map(|link| format!("{} of {}, credit {}", link.role, link.entity, count(link.credit)));
        vec![
            connection.number.to_string(),
            connection.peer.clone().unwrap_or_default(),
            cut(connection.client.as_deref().unwrap_or("-"), 40),
            instant(connection.since),
            links.collect::<Vec<_>>().join("\n"),
        ]
    };
    table(&["CONNECTION", "FROM", "CLIENT", "SINCE", "LINKS"], connections.iter().map(row))
}

fn tokens(tokens: Vec<Token>) -> anyhow::Result<()> {
    let row = |token: Token| {
        vec![
            token.sha256,
            token.kind,
            token.signed_by,
            token.tenant.unwrap_or_else(|| "-".to_owned()),
            token.expires_at.map_or_else(|| "-".to_owned(), instant),
            count(token.uses),
        ]
    };
    table(&["TOKEN", "FOR", "SIGNED BY", "TENANT", "EXPIRES", "USES"], tokens.into_iter().map(row))
}

/// What `peek` shows.
#[derive(Debug, clap::Args)]
#[group(id = "what")]
pub(crate) struct Peek {
    /// Path of a queue, subscription or dead-letter queue: exports/subscriptions/acme/$DeadLetterQueue
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    entity: String,
    /// From this sequence number on
    #[arg(long, value_name = "N", default_value_t = 0)]
    from: u64,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1000))]
    max: u64,
}

#[derive(Deserialize)]
struct Peeked {
    messages: Vec<Message>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Message {
    sequence_number: i64,
    state: String,
    delivery_count: u64,
    #[serde(with = "time::serde::rfc3339")]
    enqueued_at: OffsetDateTime,
    message_id: Option<String>,
    subject: Option<String>,
    body: Option<String>,
    body_base64: Option<String>,
}

pub(crate) async fn peek(running: &Running, what: &Peek) -> anyhow::Result<Outcome> {
    let query = [("from", what.from.to_string()), ("max", what.max.to_string())];
    let path = format!("entities/{}", what.entity.trim_matches('/'));
    let answer = running.admin()?.get(&path, &query).await?;
    if running.format == Format::Json {
        json(&answer)?;
        return Ok(Outcome::Done);
    }
    let Peeked { messages } = serde_json::from_value(answer).context("the answer is not that of this waybill-local")?;
    let last = messages.last().map(|message| message.sequence_number);
    let shown = u64::try_from(messages.len()).unwrap_or(u64::MAX);
    if shown == 0 {
        line(format_args!("no messages"))?;
        return Ok(Outcome::Done);
    }
    table(
        &["SEQUENCE", "STATE", "DELIVERIES", "ENQUEUED", "MESSAGE ID", "SUBJECT", "BODY"],
        messages.into_iter().map(|message| {
            let binary = message.body_base64.map(|text| format!("base64: {text}"));
            vec![
                message.sequence_number.to_string(),
                message.state,
                count(message.delivery_count),
                instant(message.enqueued_at),
                message.message_id.unwrap_or_default(),
                message.subject.unwrap_or_default(),
                cut(&message.body.or(binary).unwrap_or_default().replace(['\n', '\r'], " "), 80),
            ]
        }),
    )?;
    if let Some(last) = last.filter(|_| shown == what.max) {
        line(format_args!("\nmore: --from {}", last.saturating_add(1)))?;
    }
    Ok(Outcome::Done)
}
