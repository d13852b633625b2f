//! `retry` and `skip`: what only a person can decide about a file or message.

use serde::Serialize;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{json, line, many},
    settings::subscriber::Settings,
};
use waybill_subscriber::inbox::{Asked, Inbox, InboxRow, ListFilter, OTHER_TYPE, Pages, State};

use super::types::skipped;

/// Rows that are looked up at once.
const PAGE: u32 = 500;

/// Which files are to be tried again.
pub(crate) enum Of {
    Ids(Vec<i64>),
    /// All that are quarantined, or those of one type.
    Quarantined(Option<String>),
    /// All that were put aside for their type and are wanted now, or those of one type.
    Skipped(Option<String>),
}

/// What became of it, as JSON.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Decided {
    done: Vec<i64>,
    refused: Vec<Refused>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Refused {
    id: i64,
    why: String,
}

pub(crate) async fn retry(common: &Common, settings: &Settings, of: Of) -> anyhow::Result<Outcome> {
    let inbox = settings.inbox_to_change().await?;
    let mut decided = Decided::default();
    match of {
        Of::Ids(ids) => {
            for id in ids {
                let asked = inbox.retry(id).await?;
                decided.note(id, asked, "tried again");
            }
        }
        Of::Quarantined(blob_type) => {
            let filter = ListFilter { state: Some(State::Quarantined), blob_type, most: PAGE, ..ListFilter::default() };
            // A message that names no file is for its sender to mend.
            retry_all(&inbox, filter, |row| row.file.is_some(), &mut decided).await?;
        }
        Of::Skipped(blob_type) => {
            let is_of = |row: &InboxRow| {
                row.problem.as_deref() == Some(OTHER_TYPE)
                    && row.blob_type.as_ref().is_some_and(|name| settings.wants(name))
            };
            retry_all(&inbox, skipped(blob_type), is_of, &mut decided).await?;
        }
    }
    let done = decided.done.len() as u64;
    if common.format == Format::Json {
        json(&decided)?;
    } else {
        line(format_args!(
            "{} to be tried again; a subscriber that runs takes them, or `process`",
            many(done, "file")
        ))?;
    }
    decided.end()
}

async fn retry_all(
    inbox: &impl Inbox,
    filter: ListFilter,
    is_meant: impl Fn(&InboxRow) -> bool,
    decided: &mut Decided,
) -> anyhow::Result<()> {
    let mut pages = Pages::new(filter);
    while let Some(rows) = pages.next(inbox).await? {
        for row in rows.iter().filter(|row| is_meant(row)) {
            // Another person may have decided meanwhile.
            if inbox.retry(row.id).await? == Asked::Done {
                decided.done.push(row.id);
            }
        }
    }
    Ok(())
}

pub(crate) async fn skip(common: &Common, settings: &Settings, ids: &[i64], why: &str) -> anyhow::Result<Outcome> {
    let inbox = settings.inbox_to_change().await?;
    let mut decided = Decided::default();
    for id in ids {
        let asked = inbox.skip(*id, why).await?;
        decided.note(*id, asked, "skipped");
    }
    if common.format == Format::Json {
        json(&decided)?;
    } else {
        line(format_args!("{} skipped; `retry` takes it back", decided.done.len()))?;
    }
    decided.end()
}

impl Decided {
    fn note(&mut self, id: i64, asked: Asked, what: &str) {
        let why = match asked {
            Asked::Done => return self.done.push(id),
            Asked::Unknown => "there is no such number; `waybill-subscriber list` shows them".to_owned(),
            Asked::NoFile => {
                "its message names no file that could be tried; the publisher must send a good one".to_owned()
            }
            Asked::Not(state @ State::Working) => format!("it is {state}; wait until its worker has ended"),
            Asked::Not(state) => format!("it is {state}, and cannot be {what}"),
        };
        eprintln!("waybill-subscriber: {id}: {why}");
        self.refused.push(Refused { id, why });
    }

    fn end(&self) -> anyhow::Result<Outcome> {
        Ok(if self.refused.is_empty() { Outcome::Done } else { Outcome::Failed })
    }
}
