//! `snapshot`: all rows of a type, as they are at one place of its sequence.

use anyhow::{Context, bail};
use serde::Serialize;
use time::OffsetDateTime;
use tokio_util::io::SyncIoBridge;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{count, json, line, many},
    settings::publisher::Settings,
};
use waybill_contracts::{BlobType, ExportId};
use waybill_publisher::{Exported, Publisher, SnapshotOptions, SnapshotWriter, outbox::AnyOutbox};

use super::beside::{beside_relay, flushed};
use crate::{STANDARD_INPUT, Snapshot};

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
        let parts = tokio::select! {
            parts = make(&publisher, settings, args, &id) => parts?,
            () = stop.cancelled() => bail!("stopped; begin it again, then it is made anew"),
        };
        let ids: Vec<&str> = parts.iter().map(|part| part.export_id.as_str()).collect();
        let sent = flushed(&publisher, settings, &ids, stop).await?;
        Ok((parts, sent))
    })
    .await?;
    report(common, parts, sent)
}

async fn make(
    publisher: &Publisher<AnyOutbox>,
    settings: &Settings,
    args: &Snapshot,
    id: &str,
) -> anyhow::Result<Vec<Exported>> {
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
    Ok(snapshot.finish().await?)
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
