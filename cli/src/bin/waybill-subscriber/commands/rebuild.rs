//! `rebuild`: tables derived again from the files, and swapped.

use std::{
    collections::{BTreeSet, HashSet},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{count, json, line, many, table},
    settings::subscriber::Settings,
    work::{Local, check_grant, watch},
};
use waybill_contracts::Entities;
use waybill_subscriber::{
    FileKey,
    inbox::{AnyInbox, Inbox, ListFilter, Pages, State, Wanted},
    replay::{FullExport, copy_done},
    sink::{Rebuild, Scope, SwappedTable, Way},
};

use super::{
    copy::{remove, say_failed},
    proof::{Begun, Proof, Unfit},
    work::progress_line,
};

use crate::PROGRAM;

/// Rounds in which a running subscriber goes on; then it waits for the rest.
const ROUNDS_BESIDE: u32 = 3;
/// Files of a copy that are looked at together.
const PAGE: u32 = 500;
/// How often it is asked meanwhile whether files are lost.
const LOOK_FOR_LOST: Duration = Duration::from_secs(1);

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
    /// The full exports at which tables begin.
    full_exports: Vec<Begun>,
    /// Those that do not stand for what is missing.
    full_exports_unfit: Vec<Unfit>,
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
    let path = settings.copy_path("rebuild")?;
    let mut lost = BTreeSet::new();
    let (rebuild, subscriber, derived, proof) = loop {
        let proof = Proof::find(&inbox, &wanted, &entities, &lost, (common, settings), incomplete).await?;
        proof.refuse_gaps(incomplete)?;
        let mut rebuild = Rebuild::begin(settings.sink()?, &scope).await?;
        let derived = async {
            for of in &proof.begins {
                rebuild.begin_at(of).await?;
            }
            // What one that died has left.
            remove(&path)?;
            let subscriber = settings.subscriber_on(settings.copy_inbox(&path).await?, common.local.as_deref()).await?;
            check_grant(PROGRAM, &subscriber, true).await?;
            let derive = Derive { inbox: &inbox, subscriber: &subscriber, wanted: &wanted, proof: &proof, incomplete };
            let mut derived = None;
            watch(
                PROGRAM,
                &subscriber,
                &wanted,
                None,
                false,
                || progress_line(&subscriber),
                async |stop| {
                    derived = Some(derive.until_ready(&mut rebuild, &stop).await?);
                    Ok(())
                },
            )
            .await?;
            Ok::<_, anyhow::Error>((subscriber, derived.context("the tables were not derived")?))
        }
        .await;
        match derived {
            Ok((subscriber, Derived::Ready(ready))) => break (rebuild, subscriber, ready, proof),
            Ok((_, Derived::Lost(types))) => {
                rebuild.give_up().await?;
                for blob_type in &types {
                    eprintln!(
                        "waybill-subscriber: {blob_type}: files could not be worked for which a full export may stand; beginning again, \
                         there"
                    );
                }
                lost.extend(types);
            }
            Err(error) => {
                let cleared = rebuild.give_up().await.map_err(anyhow::Error::from).and_then(|()| remove(&path));
                if let Err(problem) = cleared {
                    tracing::debug!(%problem, "what is left of the rebuild goes with the next one");
                }
                return Err(error);
            }
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
        gaps: proof.gaps(),
        files_left_out: derived.files_left_out,
        full_exports: derived.begun,
        full_exports_unfit: proof.unfit(),
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

/// What came of it.
enum Derived {
    /// The shadow may be put in place of the old tables.
    Ready(Ready),
    /// Files of these types cannot be had any more, for which a full export may stand that the shadow does not begin at.
    Lost(BTreeSet<String>),
}

struct Ready {
    files_left_out: u64,
    begun: Vec<Begun>,
}

/// Files into the shadow.
struct Derive<'d> {
    inbox: &'d AnyInbox,
    subscriber: &'d Local,
    wanted: &'d Wanted,
    /// Where tables begin, and where they could.
    proof: &'d Proof,
    incomplete: bool,
}

impl Derive<'_> {
    /// Works all files, then those that took effect in the old tables meanwhile, until there are none and nobody can bring
    /// more.
    async fn until_ready(&self, rebuild: &mut Rebuild, stop: &CancellationToken) -> anyhow::Result<Derived> {
        let mut begun = self.proof.begun();
        let mut also: HashSet<FileKey> = HashSet::new();
        let mut is_held = false;
        for round in 1.. {
            copy_done(self.inbox, self.subscriber.inbox(), self.wanted, &also).await?;
            self.work(rebuild, stop).await?;
            let lost = self.lost(&[State::Saved, State::Quarantined, State::Expired]).await?;
            if !lost.is_empty() {
                return Ok(Derived::Lost(lost));
            }
            for (of, begun) in self.proof.begins.iter().zip(&mut begun) {
                begun.files_passed_over += self.pass_over(rebuild, of).await?;
            }
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
            self.refuse_flaws(rebuild).await?;
            return Ok(Derived::Ready(Ready { files_left_out: failed + lost, begun }));
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
        // Files whose time is over are found out first.
        let lost = async {
            while enough.run_until_cancelled(tokio::time::sleep(LOOK_FOR_LOST)).await.is_some() {
                if !self.lost(&[State::Expired]).await?.is_empty() {
                    enough.cancel();
                }
            }
            Ok::<_, anyhow::Error>(())
        };
        let (worked, pending, lost) = tokio::join!(work, idle, lost);
        worked?;
        pending?;
        lost?;
        if stop.is_cancelled() {
            bail!("stopped; the tables are as they were");
        }
        Ok(())
    }

    /// Types of which files could not be worked that are before a full export at which their table does not begin, and could.
    async fn lost(&self, states: &[State]) -> anyhow::Result<BTreeSet<String>> {
        let mut lost = BTreeSet::new();
        if self.proof.spare.is_empty() {
            return Ok(lost);
        }
        for state in states {
            let mut pages = Pages::new(ListFilter { state: Some(*state), most: PAGE, ..ListFilter::default() });
            while let Some(rows) = pages.next(self.subscriber.inbox()).await? {
                let replaced = self.proof.spare.iter().filter(|of| rows.iter().any(|row| of.replaces(row)));
                lost.extend(replaced.map(|of| of.begin.blob_type.clone()));
            }
        }
        Ok(lost)
    }

    /// Files before a full export are worked as well as they can be, since they may delete; what is not there any more is not needed.
    /// How many these are.
    async fn pass_over(&self, rebuild: &Rebuild, of: &FullExport) -> anyhow::Result<u64> {
        let (copy, mut passed_over) = (self.subscriber.inbox(), 0);
        for state in [State::Saved, State::Quarantined, State::Expired] {
            let mut pages = Pages::new(ListFilter { state: Some(state), most: PAGE, ..ListFilter::default() });
            while let Some(rows) = pages.next(copy).await? {
                for row in rows.iter().filter(|row| of.replaces(row)) {
                    let Some(file) = &row.file else { continue };
                    rebuild.pass_over(file, of).await?;
                    copy.skip(row.id, "a full export stands for it").await?;
                    passed_over += 1;
                }
            }
        }
        // Of what was pruned the inbox knows no more than that it came. Where a number after the full export is missing it may be that one.
        if self.proof.missing_of(&of.begin.blob_type) > 0 {
            return Ok(passed_over);
        }
        loop {
            let mut pruned = 0;
            let files = rebuild.behind_of(std::slice::from_ref(&of.begin.blob_type)).await?;
            let ids = self.inbox.known(&files).await?;
            for (file, id) in files.iter().zip(ids) {
                if let Some(id) = id.filter(|_| of.may_replace(file))
                    && self.inbox.get(id).await?.is_none()
                {
                    rebuild.pass_over(file, of).await?;
                    pruned += 1;
                }
            }
            passed_over += pruned;
            if pruned == 0 {
                return Ok(passed_over);
            }
        }
    }

    /// A row of a full export that cannot be used would be missing, as if it had been deleted before.
    async fn refuse_flaws(&self, rebuild: &Rebuild) -> anyhow::Result<()> {
        for of in &self.proof.begins {
            let Some(flaw) = rebuild.flaw(of).await? else { continue };
            let (blob_type, snapshot) = (&of.begin.blob_type, &of.begin.snapshot);
            if !self.incomplete {
                bail!(
                    "{blob_type}: full export {snapshot:?} does not stand for what is missing before it: {flaw}. The tables are left \
                     as they were; have the publisher mend that and make another full export, or go on all the same: --incomplete"
                );
            }
            eprintln!("waybill-subscriber: {blob_type}: full export {snapshot:?} is not whole: {flaw}");
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
    for Begun { begin, files_passed_over, .. } in &report.full_exports {
        let passed_over = match files_passed_over {
            0 => String::new(),
            files => format!("; {} before it could not be worked, which does no harm", many(*files, "file")),
        };
        line(format_args!(
            "{} begins at full export {:?}, as of number {}{passed_over}\n",
            begin.blob_type,
            begin.snapshot,
            count(begin.as_of)
        ))?;
    }
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
