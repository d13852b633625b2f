//! Commands that receive and work.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::bail;
use serde::Serialize;
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    health::subscriber as health,
    output::{count, instant, json, line, many},
    settings::subscriber::Settings,
    work::{Local, check_grant, watch},
};
use waybill_subscriber::{
    inbox::{Inbox, Pending, State, Wanted},
    sink::{AnySink, Outgrown, SqlSink as _},
};

use super::{bad_rows::Place, types};
use crate::PROGRAM;

pub(crate) async fn run(common: &Common, settings: &Settings, until_idle: Option<Duration>) -> anyhow::Result<Outcome> {
    let sink = open_sink(settings).await?;
    let subscriber = settings.subscriber(common.local.as_deref()).await?;
    let _serving = health::serve(settings.health.as_deref(), &subscriber).await?;
    check_grant(PROGRAM, &subscriber, until_idle.is_some()).await?;
    let told = say_types(settings, &subscriber).await?;
    let say = Say::beside(settings)?;
    let outcome = supervise(common, &subscriber, &Wanted::default(), until_idle, true, say, async |stop| {
        Ok(while_read(&sink, &stop, subscriber.run(sink.clone(), stop.clone())).await?)
    })
    .await?;
    if !told {
        say_types(settings, &subscriber).await?;
    }
    Ok(outcome)
}

/// Says what the configuration's types do not fit: at the start what is known by then, else at the end. Whether it said so.
async fn say_types(settings: &Settings, subscriber: &Local) -> anyhow::Result<bool> {
    let (inbox, entities) = (subscriber.inbox(), settings.read_entities()?);
    let announced = inbox.types().await?;
    let aside = types::put_aside(inbox, settings, &announced).await?;
    let by_type: u64 = aside.values().map(|of| of.by_type).sum();
    if by_type > 0 {
        let names: Vec<&str> = aside.iter().filter(|(_, of)| of.by_type > 0).map(|(name, _)| name.as_str()).collect();
        eprintln!(
            "waybill-subscriber: skipped by an earlier choice of types, and wanted now: {} ({}); `waybill-subscriber retry \
             --skipped` has them worked",
            many(by_type, "file"),
            names.join(", ")
        );
    }
    let unseen = types::say_unseen(&types::unseen(settings, &entities, &announced), &announced);
    if let Some(unseen) = &unseen {
        eprintln!("waybill-subscriber: {unseen}");
    }
    Ok(by_type > 0 || unseen.is_some())
}

pub(crate) async fn receive(
    common: &Common,
    settings: &Settings,
    until_idle: Option<Duration>,
) -> anyhow::Result<Outcome> {
    let subscriber = settings.subscriber(common.local.as_deref()).await?;
    let _serving = health::serve(settings.health.as_deref(), &subscriber).await?;
    check_grant(PROGRAM, &subscriber, until_idle.is_some()).await?;
    // Files that are due do not hold the end: nobody works them here.
    let nothing = Wanted { types: Some(Vec::new()), ..Wanted::default() };
    supervise(common, &subscriber, &nothing, until_idle, true, Say::beside_nothing(), async |stop| {
        subscriber.receive(stop).await;
        Ok(())
    })
    .await
}

pub(crate) async fn process(common: &Common, settings: &Settings, wanted: Wanted) -> anyhow::Result<Outcome> {
    let sink = open_sink(settings).await?;
    let subscriber = settings.subscriber(common.local.as_deref()).await?;
    let _serving = health::serve(settings.health.as_deref(), &subscriber).await?;
    check_grant(PROGRAM, &subscriber, true).await?;
    say_types(settings, &subscriber).await?;
    say_not_worked(subscriber.inbox(), wanted.ids.as_deref().unwrap_or_default()).await?;
    let say = Say::beside(settings)?;
    let outcome = supervise(common, &subscriber, &wanted, Some(Duration::ZERO), false, say, async |stop| {
        Ok(while_read(&sink, &stop, subscriber.process(sink.clone(), wanted.clone(), stop.clone())).await?)
    })
    .await?;
    if matches!(&sink, AnySink::Stdout(out) if out.closed().is_cancelled()) {
        return Ok(outcome);
    }
    let worked = subscriber.work_stats();
    // A nightly job must not stay green while nothing gets through.
    if worked.tries_put_off.load(Ordering::Relaxed) > 0 && worked.files_done.load(Ordering::Relaxed) == 0 {
        bail!(
            "files were due and none was done; `waybill-subscriber list --state saved` says why, they are tried again"
        );
    }
    Ok(outcome)
}

/// Says of each file that a person named why it is not worked now, if it is not. A number that nobody has is a mistake.
async fn say_not_worked(inbox: &impl Inbox, ids: &[i64]) -> anyhow::Result<()> {
    for id in ids {
        let Some(row) = inbox.get(*id).await? else {
            bail!("there is no number {id}; `waybill-subscriber list` shows them");
        };
        let why = match row.state {
            State::Saved => match row.due_at.filter(|due_at| *due_at > OffsetDateTime::now_utc()) {
                None => continue,
                Some(due_at) => format!(
                    "it waits for a later try at {}; `waybill-subscriber retry {id}` has it tried now",
                    instant(due_at)
                ),
            },
            State::Working => "a worker has it".to_owned(),
            State::Done => "it is done; `waybill-subscriber replay` works files again".to_owned(),
            State::Duplicate => "its message is another one for a file that is known".to_owned(),
            state @ (State::Quarantined | State::Skipped | State::Expired) => {
                format!("it is {state}; `waybill-subscriber retry {id}` has it tried again")
            }
        };
        eprintln!("{PROGRAM}: {id} is not worked: {why}");
    }
    Ok(())
}

async fn open_sink(settings: &Settings) -> anyhow::Result<AnySink> {
    let sink = settings.open_sink(&settings.checked_entities()?).await?;
    let outgrown = match &sink {
        AnySink::Sqlite(sink) => sink.outgrown().await?,
        AnySink::Postgres(sink) => sink.outgrown().await?,
        _ => Vec::new(),
    };
    for Outgrown { table, blob_type, entity } in outgrown {
        eprintln!(
            "waybill-subscriber: table {table:?} holds what came of {blob_type} before it had an entity; the table of entity \
             {entity:?} gets only what comes from now on, until `waybill-subscriber rebuild --type {entity}` derives it from all \
             files"
        );
    }
    Ok(sink)
}

/// Where a summary goes, and what it says of bad rows.
#[derive(Debug)]
pub(super) struct Say {
    /// Rows go to standard output.
    to_stderr: bool,
    bad_rows: Place,
}

impl Say {
    pub(super) fn beside(settings: &Settings) -> anyhow::Result<Self> {
        let target = settings.sink()?;
        Ok(Self { to_stderr: target == "stdout", bad_rows: Place::of(target) })
    }

    fn beside_nothing() -> Self {
        Self { to_stderr: false, bad_rows: Place::Log }
    }

    fn line(&self, text: fmt::Arguments<'_>) -> anyhow::Result<()> {
        if !self.to_stderr {
            return line(text);
        }
        eprintln!("{text}");
        Ok(())
    }
}

/// Stops the work once nobody reads the rows any more.
pub(super) async fn while_read<T>(sink: &AnySink, stop: &CancellationToken, work: impl Future<Output = T>) -> T {
    let AnySink::Stdout(out) = sink else { return work.await };
    tokio::pin!(work);
    tokio::select! {
        value = &mut work => value,
        () = out.closed().cancelled() => {
            stop.cancel();
            work.await
        }
    }
}

/// Runs `work` until a signal, or until idle, shows progress meanwhile and a summary at the end.
pub(super) async fn supervise(
    common: &Common,
    subscriber: &Local,
    wanted: &Wanted,
    until_idle: Option<Duration>,
    receiving: bool,
    say: Say,
    work: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<()>,
) -> anyhow::Result<Outcome> {
    let began = Instant::now();
    let pending = watch(PROGRAM, subscriber, wanted, until_idle, receiving, || progress_line(subscriber), work).await?;
    summary(common, subscriber, pending, began.elapsed(), say).await
}

pub(super) fn progress_line(subscriber: &Local) -> String {
    let (received, worked) = (subscriber.receive_stats(), subscriber.work_stats());
    let read = |counter: &AtomicU64| count(counter.load(Ordering::Relaxed));
    format!(
        "{} messages, {} files done, {} rows, {} parked, {} released",
        read(&received.received),
        read(&worked.files_done),
        read(&worked.rows),
        read(&worked.parked),
        read(&worked.released)
    )
}

/// What a run did, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    messages: u64,
    files_saved: u64,
    files_done: u64,
    files_quarantined: u64,
    messages_quarantined: u64,
    files_expired: u64,
    rows: u64,
    rows_bad: u64,
    rows_left_out: u64,
    rows_inserted: u64,
    rows_updated: u64,
    rows_deleted: u64,
    rows_ignored: u64,
    rows_superseded: u64,
    rows_filtered: u64,
    rows_parked: u64,
    rows_released: u64,
    rows_rescued: u64,
    waiting_for_a_later_try: u64,
    seconds: f64,
}

async fn summary(
    common: &Common,
    subscriber: &Local,
    pending: Option<Pending>,
    took: Duration,
    say: Say,
) -> anyhow::Result<Outcome> {
    let (received, letters, worked) =
        (subscriber.receive_stats(), subscriber.dead_letter_stats(), subscriber.work_stats());
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let summary = Summary {
        messages: read(&received.received) + read(&letters.received),
        files_saved: read(&received.saved) + read(&letters.saved),
        files_done: read(&worked.files_done),
        files_quarantined: read(&worked.files_quarantined),
        messages_quarantined: read(&received.quarantined) + read(&letters.quarantined),
        files_expired: read(&worked.files_expired),
        rows: read(&worked.rows),
        rows_bad: read(&worked.bad_rows),
        rows_left_out: read(&worked.left_out),
        rows_inserted: read(&worked.inserted),
        rows_updated: read(&worked.updated),
        rows_deleted: read(&worked.deleted),
        rows_ignored: read(&worked.ignored),
        rows_superseded: read(&worked.superseded),
        rows_filtered: read(&worked.filtered),
        rows_parked: read(&worked.parked),
        rows_released: read(&worked.released),
        rows_rescued: read(&worked.rescued),
        waiting_for_a_later_try: match pending {
            Some(pending) => pending.later,
            None => subscriber.inbox().pending(&Wanted::default()).await?.later,
        },
        seconds: took.as_secs_f64(),
    };
    let outcome = if summary.files_quarantined + summary.messages_quarantined + summary.rows_bad > 0 {
        Outcome::Quarantined
    } else {
        Outcome::Done
    };
    if common.format == Format::Json {
        if say.to_stderr {
            eprintln!("{}", serde_json::to_string(&summary)?);
        } else {
            json(&summary)?;
        }
        return Ok(outcome);
    }
    say.line(format_args!(
        "{}, {} done, {} in {:.1} s",
        many(summary.messages, "message"),
        many(summary.files_done, "file"),
        many(summary.rows, "row"),
        summary.seconds
    ))?;
    let parts = [
        (summary.rows_inserted, "inserted"),
        (summary.rows_updated, "updated"),
        (summary.rows_deleted, "deleted"),
        (summary.rows_ignored, "older or the same, ignored"),
        (summary.rows_superseded, "superseded in their own file"),
        (summary.rows_filtered, "not wanted by a filter"),
        (summary.rows_left_out, "malformed, left out"),
        (summary.rows_bad, "bad, kept with their error"),
        (summary.rows_parked, "parked until what they refer to comes"),
        (summary.rows_released, "released"),
    ];
    let parts: Vec<String> =
        parts.iter().filter(|(many, _)| *many > 0).map(|(many, what)| format!("{} {what}", count(*many))).collect();
    if !parts.is_empty() {
        say.line(format_args!("rows: {}", parts.join(", ")))?;
    }
    if summary.files_quarantined + summary.messages_quarantined > 0 {
        say.line(format_args!(
            "quarantined: {}, {}; see `waybill-subscriber list --state quarantined`",
            many(summary.files_quarantined, "file"),
            many(summary.messages_quarantined, "message"),
        ))?;
    }
    if summary.rows_bad > 0 {
        say.line(format_args!("{} cannot be used; {}", many(summary.rows_bad, "row"), say.bad_rows))?;
    }
    if summary.rows_rescued > 0 {
        say.line(format_args!(
            "{} of which a value does not fit its column: the column is empty, the value is in the row's `_rescued`; declare the \
             column's type in entities.toml, then `waybill-subscriber rebuild`",
            many(summary.rows_rescued, "row")
        ))?;
    }
    if summary.files_expired > 0 {
        say.line(format_args!(
            "expired: {}; see `waybill-subscriber list --state expired`",
            many(summary.files_expired, "file")
        ))?;
    }
    if summary.waiting_for_a_later_try > 0 {
        say.line(format_args!(
            "waiting for a later try: {}; see `waybill-subscriber list --state saved`",
            many(summary.waiting_for_a_later_try, "file")
        ))?;
    }
    Ok(outcome)
}
