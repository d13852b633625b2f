//! `rotate` and `fault`: a bad day for a `waybill-local` that runs.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use reqwest::Method;
use serde::Deserialize;
use time::OffsetDateTime;
use waybill_cli::{
    args::Format,
    exit::Outcome,
    output::{instant, json, line, many, table},
};

use super::admin::Running;

/// What `fault` is to do: one of these.
#[derive(Debug, clap::Args)]
#[group(id = "what", required = true, multiple = false)]
pub(crate) struct Fault {
    /// Install this script (TOML or JSON; - is standard input)
    #[arg(value_name = "SCRIPT")]
    script: Option<PathBuf>,
    /// Show what waits and what has fired
    #[arg(long)]
    list: bool,
    /// Forget the steps that wait, and end outages
    #[arg(long)]
    clear: bool,
}

pub(crate) async fn rotate(
    running: &Running,
    tenant: Option<String>,
    grace: Option<Duration>,
) -> anyhow::Result<Outcome> {
    let grace_ms = grace.map(|grace| ("grace_ms", grace.as_millis().to_string()));
    let query: Vec<_> = tenant.map(|name| ("tenant", name)).into_iter().chain(grace_ms).collect();
    let answer = running.admin()?.call(Method::POST, "rotate", &query, String::new()).await?;
    match running.format {
        Format::Json => json(&answer)?,
        Format::Text => {
            let whom = answer["rotated"].as_str().unwrap_or_default();
            let from = match grace {
                Some(grace) if !grace.is_zero() => format!(" in {} s", grace.as_secs_f64()),
                _ => String::new(),
            };
            line(format_args!("rotated {whom}: tokens that were issued until now are refused{from}"))?;
        }
    }
    Ok(Outcome::Done)
}

pub(crate) async fn fault(running: &Running, what: &Fault) -> anyhow::Result<Outcome> {
    match &what.script {
        Some(script) => install(running, script).await,
        None if what.clear => clear(running).await,
        None => list(running).await,
    }
}

async fn install(running: &Running, script: &Path) -> anyhow::Result<Outcome> {
    let text = if script == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("cannot read the script from standard input")?;
        text
    } else {
        std::fs::read_to_string(script).with_context(|| format!("cannot read {}", script.display()))?
    };
    let answer = running.admin()?.call(Method::POST, "faults", &[], text).await;
    let answer = answer.with_context(|| script.display().to_string())?;
    match running.format {
        Format::Json => json(&answer)?,
        Format::Text => {
            let steps = many(answer["installed"].as_u64().unwrap_or_default(), "step");
            line(format_args!("{steps} installed; `waybill-local fault --list` shows what has fired"))?;
        }
    }
    Ok(Outcome::Done)
}

async fn clear(running: &Running) -> anyhow::Result<Outcome> {
    let answer = running.admin()?.call(Method::DELETE, "faults", &[], String::new()).await?;
    match running.format {
        Format::Json => json(&answer)?,
        Format::Text => line(format_args!("no step waits any more, and outages are over"))?,
    }
    Ok(Outcome::Done)
}

#[derive(Deserialize)]
struct Faults {
    steps: Vec<Waiting>,
    fired: Vec<Fired>,
}

#[derive(Deserialize)]
struct Waiting {
    name: Option<String>,
    what: String,
    on: String,
}

#[derive(Deserialize)]
struct Fired {
    number: u64,
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    name: Option<String>,
    what: String,
    on: String,
}

async fn list(running: &Running) -> anyhow::Result<Outcome> {
    let answer = running.admin()?.get("faults", &[]).await?;
    if running.format == Format::Json {
        json(&answer)?;
        return Ok(Outcome::Done);
    }
    let faults: Faults = serde_json::from_value(answer).context("the answer is not that of waybill-local")?;
    if faults.fired.is_empty() && faults.steps.is_empty() {
        line(format_args!("nothing waits, and nothing has fired"))?;
        return Ok(Outcome::Done);
    }
    let name = Option::unwrap_or_default;
    let fired = faults.fired.into_iter().map(|fired| {
        let number = fired.number.to_string();
        vec![number, instant(fired.at), name(fired.name), fired.what, fired.on]
    });
    let waiting = faults
        .steps
        .into_iter()
        .map(|step| vec!["waits".to_owned(), String::new(), name(step.name), step.what, step.on]);
    table(&["FIRED", "AT", "NAME", "WHAT", "ON"], fired.chain(waiting))?;
    Ok(Outcome::Done)
}
