//! `status`: how it goes, also from another shell or machine than the one where it works.

use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{count, cut, instant, json, line, many, span, table},
    settings::subscriber::Settings,
};
use waybill_subscriber::{
    cache::{CacheUse, cache_use},
    inbox::{AtRisk, Backlog, Counts, Inbox, Pending, State, TypeBacklog, Wanted, WorkerSeen},
};

use super::look::who;

/// Types and states that are shown to people; programs get all.
const TYPES_SHOWN: usize = 20;
/// A worker that ended, or is silent, is shown to people for as long.
const SHOWN_FOR: Duration = Duration::from_secs(24 * 3600);
/// A worker that was not heard for so long is frozen or dead, or cannot reach the inbox: it speaks every five seconds.
const SILENT_AFTER: Duration = Duration::from_secs(30);

/// A status, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    files: Counts,
    filtered_rows: u64,
    bad_rows: u64,
    due: u64,
    later: u64,
    next_due_in_ms: Option<u128>,
    backlog: Vec<TypeBacklog>,
    oldest_waiting_ms: Option<u128>,
    workers: Vec<WorkerSeen>,
    at_risk: u64,
    first_at_risk: Vec<AtRisk>,
    missing: u64,
    cache: Option<CacheUse>,
    cache_problem: Option<String>,
}

pub(crate) async fn status(common: &Common, settings: &Settings) -> anyhow::Result<Outcome> {
    let inbox = settings.existing_inbox().await?;
    let files = inbox.counts().await?;
    let wanted = Wanted { types: settings.types().map(<[String]>::to_vec), ..Wanted::default() };
    let Pending { due, later, next_due_in, .. } = inbox.pending(&wanted).await?;
    let (backlog, workers) = (inbox.backlog().await?, inbox.workers().await?);
    // It tells how files go also where nobody may look into the cache.
    let (cache, cache_problem) = match settings.cache()?.map(|cache| (cache_use(&cache.dir), cache.dir)) {
        Some((Ok(used), _)) => (Some(used), None),
        Some((Err(error), dir)) => (None, Some(format!("{} cannot be read: {error}", dir.display()))),
        None => (None, None),
    };
    let Backlog { by_type, oldest_waiting, at_risk, first_at_risk, missing } = backlog;
    let status = Status {
        files,
        filtered_rows: files.filtered_rows,
        bad_rows: files.bad_rows,
        due,
        later,
        next_due_in_ms: next_due_in.map(|wait| wait.as_millis()),
        backlog: by_type,
        oldest_waiting_ms: oldest_waiting.map(|age| age.as_millis()),
        workers,
        at_risk,
        first_at_risk,
        missing,
        cache,
        cache_problem,
    };
    if common.format == Format::Json {
        json(&status)?;
        return Ok(Outcome::Done);
    }
    say_files(&status, next_due_in, oldest_waiting)?;
    say_backlog(&status.backlog)?;
    say_workers(&status.workers)?;
    say_risk(&status)?;
    Ok(Outcome::Done)
}

fn say_files(status: &Status, next_due_in: Option<Duration>, oldest_waiting: Option<Duration>) -> anyhow::Result<()> {
    let Status { files, due, later, .. } = status;
    table(
        &["STATE", "FILES"],
        [
            (State::Saved, files.saved),
            (State::Working, files.working),
            (State::Done, files.done),
            (State::Quarantined, files.quarantined),
            (State::Skipped, files.skipped),
            (State::Duplicate, files.duplicate),
            (State::Expired, files.expired),
        ]
        .map(|(state, files)| vec![state.to_string(), count(files)]),
    )?;
    line(format_args!("\n{} due now, {} waiting for a later try", count(*due), count(*later)))?;
    if let Some(wait) = next_due_in {
        line(format_args!("next try in {:.1} s", wait.as_secs_f64()))?;
    }
    if let Some(age) = oldest_waiting {
        line(format_args!("the oldest has waited for {}", span(age)))?;
    }
    if status.filtered_rows > 0 {
        line(format_args!("{} not wanted by a filter", many(status.filtered_rows, "row")))?;
    }
    if status.bad_rows > 0 {
        line(format_args!("{} could not be used: waybill-subscriber bad-rows", many(status.bad_rows, "row")))?;
    }
    if status.missing > 0 {
        line(format_args!(
            "{} never announced, though later ones were: waybill-subscriber complete",
            many(status.missing, "file")
        ))?;
    }
    if let Some(CacheUse { copies, bytes }) = status.cache {
        line(format_args!("{} in the cache, {}", many(copies, "file"), many(bytes, "byte")))?;
    }
    if let Some(problem) = &status.cache_problem {
        line(format_args!("the cache: {problem}"))?;
    }
    if files.quarantined > 0 {
        line(format_args!("see what is quarantined: waybill-subscriber list --state quarantined"))?;
    }
    Ok(())
}

fn say_backlog(backlog: &[TypeBacklog]) -> anyhow::Result<()> {
    if backlog.is_empty() {
        return Ok(());
    }
    line(format_args!(""))?;
    table(
        &["TYPE", "STATE", "NOT DONE"],
        backlog.iter().take(TYPES_SHOWN).map(|of| {
            let blob_type = if of.blob_type.is_empty() { "-" } else { &of.blob_type };
            vec![cut(blob_type, 40), of.state.to_string(), count(of.messages)]
        }),
    )?;
    let more = backlog.len().saturating_sub(TYPES_SHOWN);
    if more > 0 {
        line(format_args!("and {more} more; --format json has all"))?;
    }
    Ok(())
}

fn say_workers(workers: &[WorkerSeen]) -> anyhow::Result<()> {
    let shown: Vec<_> = workers.iter().filter(|of| of.files > 0 || of.seen_ago < SHOWN_FOR).collect();
    if shown.is_empty() {
        return Ok(());
    }
    line(format_args!(""))?;
    table(
        &["SUBSCRIBER", "IS", "HEARD", "HOLDS", "BUS HEARD", "BUS TOKEN", "STORAGE TOKEN", "LAG"],
        shown.iter().map(|of| {
            let ago = |at: OffsetDateTime| format!("{} ago", span((of.now() - at).try_into().unwrap_or_default()));
            vec![
                who(&of.worker.0).to_owned(),
                is(of).to_owned(),
                ago(of.seen_at),
                many(of.files, "file"),
                of.last_contact_at.map_or("-".to_owned(), ago),
                life(of, of.bus_token_ends_at),
                life(of, of.blob_token_ends_at),
                of.lag.map_or("-".to_owned(), |lag| format!("{:.1} s", lag.as_secs_f64())),
            ]
        }),
    )?;
    for of in shown.iter().filter(|of| !of.stopped) {
        if let Some(problem) = &of.problem {
            line(format_args!("{}: {problem}", who(&of.worker.0)))?;
        }
    }
    Ok(())
}

fn is(of: &WorkerSeen) -> &'static str {
    match (of.stopped, of.seen_ago > SILENT_AFTER, of.problem.is_some()) {
        (true, ..) => "stopped",
        (_, true, _) => "silent",
        (_, _, true) => "not ready",
        _ => "ready",
    }
}

/// How long a token lives on; of somebody who ended, it is nobody's business.
fn life(of: &WorkerSeen, ends_at: Option<OffsetDateTime>) -> String {
    match ends_at.filter(|_| !of.stopped) {
        None => "-".to_owned(),
        Some(ends_at) => match Duration::try_from(ends_at - of.now()) {
            Ok(life) if !life.is_zero() => span(life),
            _ => "over".to_owned(),
        },
    }
}

fn say_risk(status: &Status) -> anyhow::Result<()> {
    if status.at_risk == 0 {
        return Ok(());
    }
    line(format_args!(
        "\nretention at risk: {} not done, whose blobs may be deleted within a day:",
        many(status.at_risk, "file")
    ))?;
    table(
        &["ID", "TYPE", "STATE", "MAY BE DELETED"],
        status.first_at_risk.iter().map(|file| {
            let blob_type = file.blob_type.as_deref().unwrap_or("-");
            vec![file.id.to_string(), cut(blob_type, 40), file.state.to_string(), instant(file.expires_at)]
        }),
    )
}
