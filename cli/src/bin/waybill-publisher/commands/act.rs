//! Commands by which a person decides about exports: they change the outbox, and whoever runs does the rest.

use anyhow::ensure;
use serde::Serialize;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{json, line},
    settings::publisher::Settings,
};
use waybill_publisher::outbox::{ExportRow, Outbox, Paused, State};

use super::look::found;

/// What is paused now, as JSON.
#[derive(Serialize)]
struct Types {
    paused: Vec<Paused>,
}

pub(crate) async fn resend(common: &Common, settings: &Settings, id: &str, why: &str) -> anyhow::Result<Outcome> {
    let outbox = settings.outbox_to_change(false).await?;
    let row = outbox.resend(found(&outbox, id).await?.row, why).await?;
    let message = row.message_id.as_deref().unwrap_or_default();
    let paused = outbox.paused().await?.into_iter().any(|paused| paused.blob_type == row.blob_type);
    let when = if paused { "once its type is resumed" } else { "as soon as `waybill-publisher run` runs" };
    tell(common, &row, &format!("export {}: it is sent again as message {message}, {when}", row.export_id.as_str()))
}

pub(crate) async fn void(common: &Common, settings: &Settings, id: &str, why: &str) -> anyhow::Result<Outcome> {
    let outbox = settings.outbox_to_change(false).await?;
    let row = found(&outbox, id).await?;
    let export_id = row.export_id.as_str();
    ensure!(
        row.state != State::Sent,
        "export {export_id} is sent: subscribers have its message, and nothing takes it back; publish rows that correct it"
    );
    ensure!(row.state != State::Void, "export {export_id} is void already ({})", row.reason.unwrap_or_default());
    outbox.void(&row.attempt(), why).await?;
    let again = if row.state == State::Planned { "; changes of a change log are made a file again" } else { "" };
    let now = found(&outbox, &row.row.to_string()).await?;
    if now.state == State::Sent {
        return tell(common, &now, &format!("export {export_id} is sent as before: its message is not sent again"));
    }
    tell(common, &now, &format!("export {export_id} is void: its message will not be sent{again}"))
}

pub(crate) async fn pause(common: &Common, settings: &Settings, blob_type: &str, why: &str) -> anyhow::Result<Outcome> {
    let outbox = settings.outbox_to_change(true).await?;
    outbox.pause(blob_type, why).await?;
    if common.format == Format::Json {
        json(&Types { paused: outbox.paused().await? })?;
        return Ok(Outcome::Done);
    }
    line(format_args!(
        "{blob_type}: its messages wait from now on, but those that are under way; `waybill-publisher resume {blob_type}` lets \
         them go"
    ))?;
    Ok(Outcome::Done)
}

pub(crate) async fn resume(common: &Common, settings: &Settings, blob_type: &str) -> anyhow::Result<Outcome> {
    let outbox = settings.outbox_to_change(false).await?;
    let was = outbox.resume(blob_type).await?;
    if common.format == Format::Json {
        json(&Types { paused: outbox.paused().await? })?;
        return Ok(Outcome::Done);
    }
    if was {
        line(format_args!("{blob_type}: its messages go"))?;
    } else {
        line(format_args!("{blob_type} was not paused"))?;
    }
    Ok(Outcome::Done)
}

fn tell(common: &Common, row: &ExportRow, text: &str) -> anyhow::Result<Outcome> {
    if common.format == Format::Json {
        json(row)?;
    } else {
        line(format_args!("{text}"))?;
    }
    Ok(Outcome::Done)
}
