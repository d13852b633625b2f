//! `snapshot`: all rows of a type, as they are at one place of its sequence.

use anyhow::{Context, bail};
use serde::Serialize;
use time::OffsetDateTime;
use tokio::time::sleep;
use tokio_util::io::SyncIoBridge;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{count, cut, json, line, many, table},
    settings::publisher::Settings,
};
use waybill_contracts::{BlobType, ExportId};
use waybill_publisher::{
    Exported, Publisher, SnapshotOptions, SnapshotWriter,
    outbox::{AnyOutbox, FullExport, Outbox},
};

use super::beside::{FINISH, beside_relay, flushed};
use crate::{STANDARD_INPUT, Snapshot};

/// Of a type, so many are listed.
const LISTED_MAX: u32 = 50;

/// What was made, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    snapshot: String,
    as_of: u64,
    rows: Option<u64>,
    parts: Vec<Exported>,
    /// It had been made before, and nothing was done now.
    repeated: bool,
    /// Whether all messages are sent.
    sent: bool,
}

pub(crate) async fn snapshot(common: &Common, settings: &Settings, args: &Snapshot) -> anyhow::Result<Outcome> {
    let publisher = settings.publisher(common.local.as_deref()).await?;
    let id = args.id.clone().unwrap_or_else(|| ExportId::random().as_str().to_owned());
    let (parts, sent) = beside_relay(&publisher, "making a full export", async |stop| {
        // Nothing is committed yet: what is staged is given up.
        let staged = tokio::select! {
            staged = stage(&publisher, settings, args, &id) => staged?,
            () = stop.cancelled() => bail!("stopped; nothing of it is published, begin it again"),
        };
        // From the first part on it is whole or half, and the rest takes a moment.
        let parts = tokio::select! {
            parts = staged.finish() => parts?,
            () = async { stop.cancelled().await; sleep(FINISH).await } => bail!(
                "stopped while its parts were committed: those that are published are no full export, and nobody takes them for one; \
                 begin it again, then it is made anew"
            ),
        };
        let ids: Vec<&str> = parts.iter().map(|part| part.export_id.as_str()).collect();
        let sent = flushed(&publisher, settings, &ids, stop).await?;
        Ok((parts, sent))
    })
    .await?;
    report(common, parts, sent)
}

/// All parts, of which nothing is committed.
async fn stage(
    publisher: &Publisher<AnyOutbox>,
    settings: &Settings,
    args: &Snapshot,
    id: &str,
) -> anyhow::Result<SnapshotWriter<AnyOutbox>> {
    let mut part = publisher.export(&args.blob_type)?;
    if let Some(id) = &args.correlation_id {
        part = part.correlation_id(id)?;
    }
    if let Some(charset) = &args.file.charset {
        part = part.charset(charset)?;
    }
    if !args.table.is_empty() {
        // As the files of the type's changes are.
        let options = settings.follow_options()?;
        let of_type = options.types.get(&args.blob_type).unwrap_or(&options.files);
        if let Some((format, columns)) = of_type.format.target() {
            part = part.convert_to(format);
            if let Some(columns) = columns {
                part = part.columns(columns);
            }
        }
        if let Some(keep) = of_type.keep {
            part = part.expires_at(OffsetDateTime::now_utc() + keep);
        }
    }
    if let Some(target) = args.target {
        part = part.convert_to(target.into());
    }
    let options = SnapshotOptions { as_of: args.as_of, ..SnapshotOptions::default() };
    let options = SnapshotOptions {
        max_rows: args.max_rows.unwrap_or(options.max_rows),
        max_bytes: args.max_bytes.unwrap_or(options.max_bytes),
        ..options
    };
    let mut snapshot = part.snapshot(id, options).await?;
    if snapshot.already_exported().is_none() {
        write(&mut snapshot, settings, args).await?;
    }
    Ok(snapshot)
}

/// As JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    #[serde(flatten)]
    full_export: FullExport,
    whole: bool,
}

/// The full exports that were made of a type, and whether each is whole: what a subscriber can begin at.
pub(crate) async fn list(common: &Common, settings: &Settings, blob_type: &str) -> anyhow::Result<Outcome> {
    let outbox = settings.existing_outbox().await?;
    let made = outbox.full_exports(settings.name(), &BlobType::new(blob_type)?, LISTED_MAX).await?;
    let half_first = made.first().filter(|latest| !latest.is_whole()).cloned();
    let before = made.iter().find(|made| made.is_whole()).map(|made| made.snapshot.clone());
    if common.format == Format::Json {
        let made = made.into_iter().map(|made| Listed { whole: made.is_whole(), full_export: made });
        json(&made.collect::<Vec<_>>())?;
        return Ok(Outcome::Done);
    }
    table(
        &["FULL EXPORT", "AS OF", "PARTS", "SENT", "LAST NUMBER", "IS"],
        made.into_iter().map(|made| {
            let is = if made.is_whole() { "whole" } else { "half" };
            vec![
                cut(&made.snapshot, 60),
                count(made.as_of),
                format!("{} of {}", count(made.there), count(made.of)),
                count(made.sent),
                count(made.last),
                is.to_owned(),
            ]
        }),
    )?;
    if let Some(FullExport { snapshot, there, of, .. }) = half_first {
        let before = match before {
            Some(before) => format!("{before:?} is the latest that is whole"),
            None => "none before it is whole".to_owned(),
        };
        line(format_args!(
            "\n{snapshot:?} has {} of {} parts, so nobody begins at it; {before}. Made again with its id, another one is made in its place",
            count(there),
            count(of)
        ))?;
    }
    Ok(Outcome::Done)
}

async fn write(snapshot: &mut SnapshotWriter<AnyOutbox>, settings: &Settings, args: &Snapshot) -> anyhow::Result<()> {
    if !args.table.is_empty() {
        let log = settings.needed_change_log().await?;
        let others = log.other_tables_of(&BlobType::new(&*args.blob_type)?, &args.table).await?;
        if !others.is_empty() {
            let others = others.join(", ");
            bail!(
                "rows of {} also come from {others}, by its triggers: name all its tables with --table",
                args.blob_type
            );
        }
        for table in &args.table {
            snapshot.table(&log, table).await?;
        }
        return Ok(());
    }
    if args.as_of.is_none() && snapshot.as_of() > 0 {
        bail!(
            "{} has files up to number {} already, and which of their changes these rows hold cannot be seen: give --as-of with the \
             last number that was published when the rows began to be written (0: none was)",
            args.blob_type,
            count(snapshot.as_of())
        );
    }
    for file in &args.files {
        match args.file.input.filter(|_| file.as_os_str() == STANDARD_INPUT) {
            Some(format) => {
                let input = SyncIoBridge::new(tokio::io::stdin());
                snapshot.reader("standard input", format.into(), input).await?;
            }
            None => snapshot.file(file).await?,
        }
    }
    Ok(())
}

fn report(common: &Common, parts: Vec<Exported>, sent: bool) -> anyhow::Result<Outcome> {
    let of = parts.first().and_then(|part| part.snapshot.clone()).context("a full export has a part")?;
    let rows = parts.iter().map(|part| part.rows).sum::<Option<u64>>();
    let repeated = parts.iter().all(|part| part.repeated);
    let outcome = if sent { Outcome::Done } else { Outcome::Failed };
    if common.format == Format::Json {
        json(&Made { snapshot: of.id, as_of: of.as_of, rows, parts, repeated, sent })?;
        return Ok(outcome);
    }
    for part in &parts {
        let snapshot = part.snapshot.as_ref().map_or(0, |of| of.part);
        let rows = part.rows.map(|rows| format!("{}, ", many(rows, "row"))).unwrap_or_default();
        line(format_args!(
            "part {snapshot} of {}: {rows}{}, sequence {}, export {}",
            of.of,
            many(part.bytes, "byte"),
            part.sequence,
            part.export_id
        ))?;
    }
    let rows = rows.map(|rows| format!(" of {}", many(rows, "row"))).unwrap_or_default();
    let state = match (sent, repeated) {
        (true, false) => "sent",
        (true, true) => "sent before, not again",
        (false, _) => "kept in the outbox; `waybill-publisher run` sends what is there",
    };
    line(format_args!("full export {:?}{rows}, as of number {}: {state}", of.id, count(of.as_of)))?;
    Ok(outcome)
}
