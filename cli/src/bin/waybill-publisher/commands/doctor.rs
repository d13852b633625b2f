//! `doctor`: everything that a run needs, tried in the order in which it is needed. Sends nothing, makes nothing.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use waybill_azure::{
    TokenSource,
    blob::{Container, ContainerOptions},
    bus::Bus,
    http::{HttpClient, HttpOptions},
};
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{json, line, many},
    settings::publisher::{Reached, Settings},
};
use waybill_publisher::{change_log::LogStatus, outbox::Outbox};

use super::change_log::{held_back, waiting_in_words};

/// For one question to somebody else.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was tried.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Check {
    check: &'static str,
    ok: bool,
    /// What was found, or what is wrong and helps.
    detail: String,
}

pub(crate) async fn doctor(common: &Common, settings: &Settings) -> anyhow::Result<Outcome> {
    let mut checks = Vec::new();
    let mut tell = |check, found: anyhow::Result<String>| {
        let (ok, detail) = match found {
            Ok(detail) => (true, detail),
            Err(error) => (false, format!("{error:#}")),
        };
        if common.format == Format::Text {
            line(format_args!("{:<6} {check:<10} {detail}", if ok { "ok" } else { "FAILED" }))?;
        }
        checks.push(Check { check, ok, detail });
        anyhow::Ok(())
    };
    if settings.has_change_log() {
        tell("change log", change_log(settings).await)?;
    }
    tell("outbox", outbox(settings).await)?;
    match settings.reached(common.local.as_deref()).await {
        Err(error) => tell("keys", Err(error))?,
        Ok(Reached { tokens, bus_options, ca_file }) => {
            let bus = async {
                let bus = Bus::new(Arc::clone(&tokens), bus_options);
                let sender = bus.sender().await;
                bus.close().await;
                anyhow::Ok(sender.map(|_| "a link to the topic opens".to_owned())?)
            };
            tell("bus", in_time(bus).await)?;
            tell(
                "storage",
                in_time(storage(Arc::clone(&tokens), HttpOptions { ca_file, ..HttpOptions::default() })).await,
            )?;
        }
    }
    let well = checks.iter().all(|check| check.ok);
    if common.format == Format::Json {
        json(&checks)?;
    }
    Ok(if well { Outcome::Done } else { Outcome::Failed })
}

async fn in_time(asked: impl Future<Output = anyhow::Result<String>>) -> anyhow::Result<String> {
    let none = || anyhow::anyhow!("no answer in {} s", PATIENCE.as_secs());
    tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(|_| Err(none()))
}

/// What keeps changes from being published is a failure here, also where nobody did anything wrong.
async fn change_log(settings: &Settings) -> anyhow::Result<String> {
    let log = settings.needed_change_log().await?;
    log.check().await?;
    let status = log.status().await?;
    anyhow::ensure!(status.held_back_by.is_none(), "{}", held_back(&status).unwrap_or_default());
    let stuck = status.open_files.iter().find_map(|file| Some((&file.blob_type, file.problem.as_deref()?)));
    if let Some((blob_type, problem)) = stuck {
        anyhow::bail!("a file of {blob_type} cannot be made: {problem}");
    }
    let LogStatus { log, followed, .. } = &status;
    let by = if *followed { "a publisher follows it" } else { "nobody follows it; `waybill-publisher run` does" };
    Ok(format!("{log}: {} not planned yet; {by}", waiting_in_words(&status)))
}

async fn outbox(settings: &Settings) -> anyhow::Result<String> {
    let outbox = settings.runs_outbox().await?;
    let counts = outbox.counts().await?;
    Ok(format!("{}: epoch {}, {} to send", outbox.shown(), outbox.epoch(), many(counts.uploaded, "message")))
}

async fn storage(tokens: Arc<dyn TokenSource>, http: HttpOptions) -> anyhow::Result<String> {
    let container = Container::new(HttpClient::new(&http)?, tokens, ContainerOptions::default());
    container.check().await?;
    Ok("the container answers (to read was tried, not to write)".to_owned())
}
