//! Commands that receive and work.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde::Serialize;
use tokio::sync::SetOnce;
use tokio_util::sync::CancellationToken;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    health::{Serving, subscriber::Beginning},
    output::{count, json, line, many},
    settings::subscriber::Settings,
    signals::heeded,
    work::{CONTACT_PATIENCE, FINISHING, Local, check_grant, watch_until},
};
use waybill_contracts::Entities;
use waybill_subscriber::{
    RunError,
    inbox::{Inbox, InboxError, Pending, Wanted},
    sink::{self, AnySink, Outgrown, SinkError, SinkOpenError, SqlSink as _},
};

use super::{bad_rows::Place, named, types};
use crate::PROGRAM;

pub(crate) async fn run(common: &Common, settings: &Settings, until_idle: Option<Duration>) -> anyhow::Result<Outcome> {
    heeded(FINISHING, async |stop| {
        let (target, patience) = (Target::new(settings)?, until_idle.map(|_| CONTACT_PATIENCE));
        let begin = async {
            let begun = begin(common, settings, Some(&target), patience, &stop).await?;
            let Some((subscriber, serving)) = begun else { return Ok(None) };
            check_grant(PROGRAM, &subscriber, patience.is_some()).await?;
            let told = say_types(settings, &subscriber).await?;
            Ok::<_, anyhow::Error>(Some((subscriber, serving, told)))
        };
        let Some((subscriber, _serving, told)) = unless(&stop, begin).await? else { return Ok(Outcome::Done) };
        let watching = Watching { stop: &stop, wanted: &Wanted::default(), until_idle, receiving: true };
        let outcome = watching
            .work(common, &subscriber, Say::beside(settings)?, async |stop| {
                let work = subscriber.run_once_open(|| target.open(), stop.clone());
                worked(while_read(target.unread(), &stop, work).await)
            })
            .await?;
        if !told {
            say_types(settings, &subscriber).await?;
        }
        if until_idle.is_some() && !target.is_unread() {
            refuse_nothing_done(&subscriber)?;
        }
        Ok(outcome)
    })
    .await
}

/// Says what the configuration's types do not fit: at the start what is known by then, else at the end. Whether it said so; to say it
/// is no reason to end where the inbox is away for a moment.
async fn say_types(settings: &Settings, subscriber: &Local) -> anyhow::Result<bool> {
    match types_that_do_not_fit(settings, subscriber.inbox()).await {
        Err(error) if error.downcast_ref::<InboxError>().is_some_and(InboxError::passes) => Ok(false),
        said => said,
    }
}

async fn types_that_do_not_fit(settings: &Settings, inbox: &impl Inbox) -> anyhow::Result<bool> {
    let entities = settings.read_entities()?;
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
    heeded(FINISHING, async |stop| {
        let patience = until_idle.map(|_| CONTACT_PATIENCE);
        let begin = async {
            let begun = begin(common, settings, None, patience, &stop).await?;
            if let Some((subscriber, _)) = &begun {
                check_grant(PROGRAM, subscriber, patience.is_some()).await?;
            }
            Ok::<_, anyhow::Error>(begun)
        };
        let Some((subscriber, _serving)) = unless(&stop, begin).await? else { return Ok(Outcome::Done) };
        // Files that are due do not hold the end: nobody works them here.
        let nothing = Wanted { types: Some(Vec::new()), ..Wanted::default() };
        let watching = Watching { stop: &stop, wanted: &nothing, until_idle, receiving: true };
        watching
            .work(common, &subscriber, Say::beside_nothing(), async |stop| {
                subscriber.receive(stop).await;
                Ok(())
            })
            .await
    })
    .await
}

pub(crate) async fn process(common: &Common, settings: &Settings, wanted: Wanted) -> anyhow::Result<Outcome> {
    heeded(FINISHING, async |stop| {
        let target = Target::new(settings)?;
        let begin = async {
            let begun = begin(common, settings, Some(&target), Some(CONTACT_PATIENCE), &stop).await?;
            let Some((subscriber, serving)) = begun else { return Ok(None) };
            check_grant(PROGRAM, &subscriber, true).await?;
            say_types(settings, &subscriber).await?;
            let named = named::find(settings, subscriber.inbox(), &wanted).await?;
            Ok::<_, anyhow::Error>(Some((subscriber, serving, named)))
        };
        let Some((subscriber, _serving, named)) = unless(&stop, begin).await? else { return Ok(Outcome::Done) };
        let watching = Watching { stop: &stop, wanted: &wanted, until_idle: Some(Duration::ZERO), receiving: false };
        let outcome = watching
            .work(common, &subscriber, Say::beside(settings)?, async |stop| {
                let work = subscriber.process_once_open(|| target.open(), wanted.clone(), stop.clone());
                worked(while_read(target.unread(), &stop, work).await)
            })
            .await?;
        if target.is_unread() {
            return Ok(outcome);
        }
        let outcome = named.outcome(subscriber.inbox(), outcome).await?;
        refuse_nothing_done(&subscriber)?;
        Ok(outcome)
    })
    .await
}

/// A nightly job must not stay green while nothing gets through.
fn refuse_nothing_done(subscriber: &Local) -> anyhow::Result<()> {
    let worked = subscriber.work_stats();
    if worked.tries_put_off.load(Ordering::Relaxed) > 0 && worked.files_done.load(Ordering::Relaxed) == 0 {
        bail!(
            "files were due and none was done; `waybill-subscriber list --state saved` says why, they are tried again"
        );
    }
    Ok(())
}

/// A start that was given up says for how long it waited.
fn worked(ended: Result<(), RunError>) -> anyhow::Result<()> {
    let passes = ended.as_ref().is_err_and(RunError::passes);
    let ended = ended.map_err(anyhow::Error::from);
    if !passes {
        return ended;
    }
    ended.with_context(|| {
        format!(
            "sink and inbox were not both within reach for {} s, and no file was worked; what was received is saved",
            CONTACT_PATIENCE.as_secs()
        )
    })
}

/// What `begin` comes to, unless the command is stopped before; nothing is lost then.
async fn unless<T>(
    stop: &CancellationToken,
    begin: impl Future<Output = anyhow::Result<Option<T>>>,
) -> anyhow::Result<Option<T>> {
    tokio::select! {
        () = stop.cancelled() => Ok(None),
        begun = begin => begun,
    }
}

/// The subscriber, once its inbox is there, and who answers for it until then too; `None` when it was stopped before. What a person
/// has to mend of the target ends it here; an outage of that is waited for while messages are received.
async fn begin(
    common: &Common,
    settings: &Settings,
    target: Option<&Target<'_>>,
    patience: Option<Duration>,
    stop: &CancellationToken,
) -> anyhow::Result<Option<(Local, Option<Serving>)>> {
    let local = common.local.as_deref();
    // A missing tenant is said before a folder is made.
    settings.tenant(local).await?;
    let beginning = Beginning::default();
    let serving = beginning.serve(settings.health.as_deref()).await?;
    if let Some(target) = target
        && let Err(error) = target.open().await
        && !error.passes()
    {
        return Err(error.into());
    }
    let problem = |problem: &str| beginning.inbox_is_not_there(problem);
    let Some(inbox) = settings.inbox_once_there(patience, stop, problem).await? else { return Ok(None) };
    let subscriber = settings.subscriber_in(inbox, local, patience).await?;
    beginning.begun(&subscriber);
    Ok(Some((subscriber, serving)))
}

/// Where rows go: there from the begin, or as soon as it can be.
struct Target<'s> {
    name: &'s str,
    entities: Entities,
    settings: &'s Settings,
    opened: SetOnce<AnySink>,
}

impl<'s> Target<'s> {
    /// Nothing is opened yet.
    fn new(settings: &'s Settings) -> anyhow::Result<Self> {
        let entities = settings.checked_entities()?;
        Ok(Self { name: settings.sink_to_open()?, entities, settings, opened: SetOnce::new() })
    }

    async fn open(&self) -> Result<AnySink, SinkOpenError> {
        if let Some(opened) = self.opened.get() {
            return Ok(opened.clone());
        }
        let sink = sink::open(self.name, &self.entities, &self.settings.data).await?;
        say_outgrown(&sink).await;
        drop(self.opened.set(sink.clone()));
        Ok(sink)
    }

    /// Returns once nobody reads the rows any more.
    async fn unread(&self) {
        unread(self.opened.wait().await).await;
    }

    fn is_unread(&self) -> bool {
        matches!(self.opened.get(), Some(AnySink::Stdout(out)) if out.closed().is_cancelled())
    }
}

/// Where it cannot be asked just now, the next start says it.
async fn say_outgrown(sink: &AnySink) {
    let outgrown: Result<Vec<Outgrown>, SinkError> = match sink {
        AnySink::Sqlite(sink) => sink.outgrown().await,
        AnySink::Postgres(sink) => sink.outgrown().await,
        _ => Ok(Vec::new()),
    };
    for Outgrown { table, blob_type, entity } in outgrown.unwrap_or_default() {
        eprintln!(
            "waybill-subscriber: table {table:?} holds what came of {blob_type} before it had an entity; the table of entity \
             {entity:?} gets only what comes from now on, until `waybill-subscriber rebuild --type {entity}` derives it from all \
             files"
        );
    }
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

/// Returns once nobody reads the rows any more.
pub(super) async fn unread(sink: &AnySink) {
    match sink {
        AnySink::Stdout(out) => out.closed().cancelled().await,
        _ => std::future::pending().await,
    }
}

/// Stops the work once the rows are `unread`.
pub(super) async fn while_read<T>(
    unread: impl Future<Output = ()>,
    stop: &CancellationToken,
    work: impl Future<Output = T>,
) -> T {
    tokio::pin!(work);
    tokio::select! {
        value = &mut work => value,
        () = unread => {
            stop.cancel();
            work.await
        }
    }
}

/// For how long work goes on.
pub(super) struct Watching<'w> {
    pub(super) stop: &'w CancellationToken,
    pub(super) wanted: &'w Wanted,
    pub(super) until_idle: Option<Duration>,
    pub(super) receiving: bool,
}

impl Watching<'_> {
    /// Does `work` until it is stopped, or idle, shows progress meanwhile and a summary at the end.
    pub(super) async fn work(
        &self,
        common: &Common,
        subscriber: &Local,
        say: Say,
        work: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<()>,
    ) -> anyhow::Result<Outcome> {
        let Self { stop, wanted, until_idle, receiving } = *self;
        let (began, progress) = (Instant::now(), || progress_line(subscriber));
        let pending = watch_until(stop, PROGRAM, subscriber, wanted, until_idle, receiving, progress, work).await?;
        summary(common, subscriber, pending, began.elapsed(), say).await
    }
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
