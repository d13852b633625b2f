//! Files and types that a person names to `process`: whatever of them is not worked is said, with why.

use anyhow::Context as _;
use time::OffsetDateTime;
use waybill_cli::{exit::Outcome, output::instant, settings::subscriber::Settings};
use waybill_contracts::{MANIFEST_TYPE, is_of_types};
use waybill_subscriber::inbox::{Inbox, InboxRow, State, Wanted};

use super::types;
use crate::PROGRAM;

/// What was named, before the work.
#[derive(Debug)]
pub(super) struct Named {
    /// Files that can be worked now.
    workable: Vec<i64>,
    /// They may be left for another time.
    is_limited: bool,
    /// Whether something was named that cannot be worked.
    lacks: bool,
}

/// Says of each file and type that is named why nothing will be done about it, if nothing will. A file that is done needs nothing.
pub(super) async fn find(settings: &Settings, inbox: &impl Inbox, wanted: &Wanted) -> anyhow::Result<Named> {
    let mut named = Named { workable: Vec::new(), is_limited: wanted.limit.is_some(), lacks: false };
    for id in wanted.ids.iter().flatten() {
        let row = inbox.get(*id).await?;
        let is_done = row.as_ref().is_some_and(|row| row.state == State::Done);
        let why = match row {
            None => Some(format!("there is no number {id}; `waybill-subscriber list` shows them")),
            Some(row) => why_not(settings, wanted, &row),
        };
        let Some(why) = why else {
            named.workable.push(*id);
            continue;
        };
        eprintln!("{PROGRAM}: {id} is not worked: {why}");
        named.lacks |= !is_done;
    }
    if let Some(asked) = &wanted.types {
        let (entities, announced) = (settings.read_entities()?, inbox.types().await?);
        for pattern in asked {
            if let Some(types) = types::left_out(settings, &announced, pattern) {
                eprintln!(
                    "{PROGRAM}: nothing of --type {pattern:?} is worked: the configured types are {}; add it to `types`",
                    types.join(", ")
                );
                named.lacks = true;
            } else if let Some(unknown) = types::unknown(settings, &entities, &announced, pattern) {
                eprintln!("{PROGRAM}: --type {unknown}");
            }
        }
    }
    Ok(named)
}

/// Why a file is not worked now; `None` where it is.
fn why_not(settings: &Settings, wanted: &Wanted, row: &InboxRow) -> Option<String> {
    let id = row.id;
    let blob_type = row.blob_type.as_deref().unwrap_or_default();
    match row.state {
        State::Saved if blob_type != MANIFEST_TYPE && !settings.wants(blob_type) => {
            Some(format!("its type {blob_type} is none of the configured ones; add it to `types`"))
        }
        State::Saved if wanted.types.as_ref().is_some_and(|types| !is_of_types(blob_type, types)) => {
            Some(format!("its type is {blob_type}, and --type names another"))
        }
        State::Saved if wanted.since.is_some_and(|since| row.received_at < since) => {
            Some(format!("it was received at {}, before --since", instant(row.received_at)))
        }
        State::Saved => row.due_at.filter(|due_at| *due_at > OffsetDateTime::now_utc()).map(|due_at| {
            let due_at = instant(due_at);
            format!("it waits for a later try at {due_at}; `waybill-subscriber retry {id}` has it tried now")
        }),
        // Its end, or that of its lease, is waited for.
        State::Working => None,
        State::Done => Some("it is done; `waybill-subscriber replay` works files again".to_owned()),
        State::Duplicate => Some(match row.duplicate_of {
            Some(file) => format!("its message is another one for a file that is known, which is number {file}"),
            None => "its message is another one for a file that is known".to_owned(),
        }),
        state @ (State::Quarantined | State::Skipped | State::Expired) => Some(match &row.file {
            Some(_) => format!("it is {state}; `waybill-subscriber retry {id}` has it tried again"),
            None => {
                format!("it is {state}, and its message stands for no file; `waybill-subscriber show {id}` says why")
            }
        }),
    }
}

impl Named {
    /// After work that came to `outcome`: what all of it came to. Says of each file that could be worked and is not done why not,
    /// where the summary does not.
    pub(super) async fn outcome(&self, inbox: &impl Inbox, outcome: Outcome) -> anyhow::Result<Outcome> {
        let mut lacks = self.lacks;
        for id in &self.workable {
            let row = inbox.get(*id).await?.with_context(|| format!("number {id} is gone"))?;
            let why = match row.state {
                State::Done => continue,
                // The summary has it, and so has the exit code.
                State::Quarantined if outcome == Outcome::Quarantined => continue,
                State::Saved if self.is_limited && row.problem.is_none() => continue,
                State::Saved => row.problem.unwrap_or_else(|| "it was not begun".to_owned()),
                state => format!("it is {state}"),
            };
            eprintln!("{PROGRAM}: {id} is not done: {why}; `waybill-subscriber show {id}` tells more");
            lacks = true;
        }
        Ok(if lacks { Outcome::Failed } else { outcome })
    }
}
