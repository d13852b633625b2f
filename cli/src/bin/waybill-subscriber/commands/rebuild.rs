//! `rebuild`: tables derived again from the files, and swapped.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::bail;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{count, json, line, many, table},
};
use waybill_contracts::Entities;
use waybill_subscriber::{
    FileKey,
    inbox::{AnyInbox, Inbox, State, Wanted},
    replay::{Waiting, copy_done, coverage},
    sink::{Rebuild, Scope, SwappedTable, Way},
};

use super::{
    copy::{remove, say_failed, say_gaps},
    work::{Local, check_grant, watch},
};
use crate::settings::Settings;

/// Rounds in which a running subscriber goes on; then it waits for the rest.
const ROUNDS_BESIDE: u32 = 3;

/// What a rebuild did, as JSON.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    files: u64,
    rows: u64,
    rows_bad: u64,
    /// What speaks against completeness, gone over with `--incomplete`.
    gaps: u64,
    /// Files whose rows are not in the tables: they could not be worked, or only the old tables had them.
    files_left_out: u64,
    tables: Vec<SwappedTable>,
    seconds: f64,
}

pub(crate) async fn rebuild(
    common: &Common,
    settings: &Settings,
    types: Option<Vec<String>>,
    incomplete: bool,
) -> anyhow::Result<Outcome> {
    let began = Instant::now();
    Rebuild::admit(settings.sink()?)?;
    let inbox = settings.existing_inbox().await?;
    let entities = settings.checked_entities()?;
    let scope = scope(&inbox, settings, &entities, types.as_deref()).await?;
    if types.is_some() {
        say_scope(&scope);
    }
    let wanted = Wanted {
        types: Some(scope.types().iter().filter(|name| settings.wants(name)).cloned().collect()),
        ..Wanted::default()
    };
    let gaps = refuse_gaps(&inbox, &wanted, incomplete).await?;

    let mut rebuild = Rebuild::begin(settings.sink()?, &scope).await?;
    let path = settings.copy_path("rebuild")?;
    let mut files_left_out = 0;
    let derived: anyhow::Result<Local> = async {
        // What one that died has left.
        remove(&path)?;
        let subscriber = settings.subscriber_on(settings.copy_inbox(&path).await?, common.local.as_deref()).await?;
        check_grant(&subscriber, true).await?;
        let derive = Derive { inbox: &inbox, subscriber: &subscriber, wanted: &wanted, incomplete };
        watch(&subscriber, &wanted, None, false, async |stop| {
            files_left_out = derive.until_ready(&mut rebuild, &stop).await?;
            Ok(())
        })
        .await?;
        Ok(subscriber)
    }
    .await;
    let subscriber = match derived {
        Ok(subscriber) => subscriber,
        Err(error) => {
            let cleared = rebuild.give_up().await.map_err(anyhow::Error::from).and_then(|()| remove(&path));
            if let Err(problem) = cleared {
                tracing::debug!(%problem, "what is left of the rebuild goes with the next one");
            }
            return Err(error);
        }
    };
    let swapped = rebuild.swap().await?;
    if let Err(problem) = remove(&path) {
        tracing::warn!(%problem, "what is left of the rebuild goes with the next one");
    }
    let worked = subscriber.work_stats();
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let report = Report {
        files: read(&worked.files_done),
        rows: read(&worked.rows),
        rows_bad: read(&worked.bad_rows),
        gaps,
        files_left_out,
        tables: swapped,
        seconds: began.elapsed().as_secs_f64(),
    };
    if common.format == Format::Json {
        json(&report)?;
    } else {
        say(&report)?;
    }
    Ok(if report.rows_bad + report.gaps + report.files_left_out > 0 { Outcome::Quarantined } else { Outcome::Done })
}

/// What was named, or all that the configuration and the inbox know.
async fn scope(
    inbox: &impl Inbox,
    settings: &Settings,
    entities: &Entities,
    types: Option<&[String]>,
) -> anyhow::Result<Scope> {
    if let Some(types) = types {
        return Ok(Scope::of(entities, types));
    }
    let announced = inbox.types().await?.into_iter().map(|of| of.blob_type).filter(|name| settings.wants(name));
    let all: Vec<String> = entities.0.keys().cloned().chain(announced).collect();
    Ok(Scope::of(entities, &all))
}

fn say_scope(scope: &Scope) {
    let names: Vec<&str> = scope.entities().0.keys().map(String::as_str).collect();
    if names.len() > 1 {
        eprintln!("waybill-subscriber: together, because rows of one wait for rows of another: {}", names.join(", "));
    }
}

/// What is not proven to be there: refused, or counted when that was asked for.
async fn refuse_gaps(inbox: &impl Inbox, wanted: &Wanted, incomplete: bool) -> anyhow::Result<u64> {
    let coverage = coverage(inbox, wanted, Waiting::Comes).await?;
    if coverage.files == 0 {
        bail!("no file to derive tables from; `waybill-subscriber list` shows what was received");
    }
    if coverage.is_complete() {
        return Ok(0);
    }
    say_gaps(&coverage);
    if incomplete {
        eprintln!("waybill-subscriber: going on without what is named above");
        return Ok(coverage.gaps_found);
    }
    bail!(
        "the files are not provably all, so tables derived from them might lack rows; nothing was done. Mend what is named above \
         (`waybill-subscriber reconcile` finds files whose messages are lost), or go on without it: --incomplete"
    )
}

/// Files into the shadow.
struct Derive<'d> {
    inbox: &'d AnyInbox,
    subscriber: &'d Local,
    wanted: &'d Wanted,
    incomplete: bool,
}

impl Derive<'_> {
    /// Works all files, then those that took effect in the old tables meanwhile, until there are none and nobody can bring
    /// more. How many could not be worked.
    async fn until_ready(&self, rebuild: &mut Rebuild, stop: &CancellationToken) -> anyhow::Result<u64> {
        let mut also: HashSet<FileKey> = HashSet::new();
        let mut is_held = false;
        for round in 1.. {
            copy_done(self.inbox, self.subscriber.inbox(), self.wanted, &also).await?;
            self.work(rebuild, stop).await?;
            let failed = self.refuse_failed().await?;
            let mut behind = rebuild.behind().await?;
            if !is_held && (round >= ROUNDS_BESIDE || behind.iter().all(|file| also.contains(file))) {
                rebuild.hold().await?;
                is_held = true;
                behind = rebuild.behind().await?;
            }
            if !is_held || behind.iter().any(|file| !also.contains(file)) {
                also.extend(behind);
                continue;
            }
            let lost = (behind.len() as u64).saturating_sub(failed);
            if lost > 0 {
                self.refuse_lost(lost)?;
            }
            return Ok(failed + lost);
        }
        unreachable!("rounds do not end")
    }

    async fn work(&self, rebuild: &Rebuild, stop: &CancellationToken) -> anyhow::Result<()> {
        let enough = stop.child_token();
        let shadow = rebuild.shadow();
        let idle = async {
            let pending = self.subscriber.until_idle(self.wanted, Duration::ZERO, false, &enough).await;
            enough.cancel();
            pending
        };
        let work = self.subscriber.process(shadow, self.wanted.clone(), enough.clone());
        let (worked, pending) = tokio::join!(work, idle);
        worked?;
        pending?;
        if stop.is_cancelled() {
            bail!("stopped; the tables are as they were");
        }
        Ok(())
    }

    async fn refuse_failed(&self) -> anyhow::Result<u64> {
        let open = [State::Saved, State::Working, State::Quarantined, State::Expired];
        let failed = say_failed(self.inbox, self.subscriber.inbox(), &open).await?;
        if failed > 0 && !self.incomplete {
            bail!(
                "{} could not be worked, so the tables are left as they were; begin again, or go on without: --incomplete",
                many(failed, "file")
            );
        }
        Ok(failed)
    }

    fn refuse_lost(&self, lost: u64) -> anyhow::Result<()> {
        let lost = many(lost, "file");
        if self.incomplete {
            eprintln!(
                "waybill-subscriber: going on without {lost} that took effect in the tables and that this inbox has not"
            );
            return Ok(());
        }
        bail!(
            "{lost} took effect in the tables and this inbox has not, or their types are not configured; name the folder that \
             the tables were filled from with --data, or go on without: --incomplete"
        )
    }
}

/// For people.
fn told(table: &SwappedTable) -> String {
    let SwappedTable { inserted, updated, deleted, .. } = table;
    match table.way {
        Way::Made => "made".to_owned(),
        Way::MadeAnew => "made anew".to_owned(),
        Way::LeftBehind => "left as it was: its type has an entity now; yours to drop".to_owned(),
        Way::Compared if inserted + updated + deleted == 0 => "was right".to_owned(),
        Way::Compared => {
            format!("{} inserted, {} updated, {} deleted", count(*inserted), count(*updated), count(*deleted))
        }
    }
}

fn say(report: &Report) -> anyhow::Result<()> {
    line(format_args!(
        "{}, {}; the tables were swapped after {:.1} s\n",
        many(report.files, "file"),
        many(report.rows, "row"),
        report.seconds
    ))?;
    let rows = report.tables.iter().map(|table| vec![table.table.clone(), count(table.rows), told(table)]);
    table(&["TABLE", "ROWS", "CHANGED"], rows)?;
    if report.rows_bad > 0 {
        line(format_args!(
            "\n{} cannot be used; see `waybill-subscriber bad-rows` with the same sink",
            many(report.rows_bad, "row")
        ))?;
    }
    if report.gaps + report.files_left_out > 0 {
        line(format_args!(
            "\nnot proven to be whole: {}, {} left out; named above",
            many(report.gaps, "gap"),
            many(report.files_left_out, "file")
        ))?;
    }
    Ok(())
}
