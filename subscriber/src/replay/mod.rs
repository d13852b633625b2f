//! Files again: what an inbox announced is worked once more, into another sink, or into the shadow of a
//! [`Rebuild`](crate::sink::Rebuild).
//!
//! The inbox stays as it is, and whoever works from it is not disturbed: its files are copied into an inbox of the replay's
//! own. Killed in the middle and begun again, a replay goes on where it was, as any run does: the copy knows its files, and
//! the sink how far each of them is.

mod coverage;
mod full_export;

use std::collections::HashSet;

pub use coverage::{Coverage, GAPS_SHOWN_MAX, Gap, Waiting};
pub use full_export::{Flaw, FullExport, FullExports, Part, UnfitFullExport};
use waybill_contracts::{Entities, MANIFEST_TYPE, is_of_types};

use crate::{
    FileKey,
    inbox::{Announced, Arrival, Inbox, InboxError, InboxRow, ListFilter, Pages, State, Wanted},
    receive::announced,
};

/// Rows read from an inbox at once.
const PAGE: u32 = 500;

/// What was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Copied {
    /// Files that are in the copy now.
    pub files: u64,
    /// Files that are wanted and were left out, because they were quarantined or their time is over.
    pub left_out: u64,
}

/// Copies the wanted files of one inbox into another, where they wait to be worked: those that are done, and those that are
/// still to be worked. What a person or the filter of types skipped stays out. Doing it again adds what came since.
///
/// # Errors
/// [`InboxError`]; what was copied before stays.
///
/// # Cancel safety
/// Dropping the future ends it, and what was copied before stays: begin again.
pub async fn copy_files(from: &impl Inbox, to: &impl Inbox, wanted: &Wanted) -> Result<Copied, InboxError> {
    copy(from, to, wanted, |row| match row.state {
        State::Done | State::Saved | State::Working => Some(true),
        State::Quarantined | State::Expired => Some(false),
        State::Skipped | State::Duplicate => None,
    })
    .await
}

/// Copies the wanted files that are done, and those of `also`: which took effect in the sink, whatever the inbox says of them
/// yet. What else the inbox has comes later, or not at all.
///
/// # Errors
/// As [`copy_files`].
///
/// # Cancel safety
/// As [`copy_files`].
pub async fn copy_done(
    from: &impl Inbox,
    to: &impl Inbox,
    wanted: &Wanted,
    also: &HashSet<FileKey>,
) -> Result<Copied, InboxError> {
    copy(from, to, wanted, |row| {
        (row.state == State::Done || row.file.as_ref().is_some_and(|file| also.contains(file))).then_some(true)
    })
    .await
}

/// `choose`: whether a file is copied or left out; `None`: it does not count.
async fn copy(
    from: &impl Inbox,
    to: &impl Inbox,
    wanted: &Wanted,
    choose: impl Fn(&InboxRow) -> Option<bool>,
) -> Result<Copied, InboxError> {
    for place in from.places().await? {
        to.remember_place(&place).await?;
    }
    let mut copied = Copied::default();
    let mut pages = pages();
    while let Some(rows) = pages.next(from).await? {
        let mut arrivals = Vec::with_capacity(rows.len());
        for row in rows.into_iter().filter(|row| is_wanted(row, wanted)) {
            match choose(&row) {
                Some(true) => arrivals.extend(arrival_of(row)),
                Some(false) => copied.left_out += 1,
                None => {}
            }
        }
        copied.files += arrivals.len() as u64;
        to.admit(arrivals).await?;
    }
    Ok(copied)
}

/// Whether the wanted files are all that there ever were, or all that are needed where tables begin at these full exports. See
/// [`Coverage`].
///
/// # Errors
/// [`InboxError`].
///
/// # Cancel safety
/// Cancel-safe: it only asks.
pub async fn coverage(
    inbox: &impl Inbox,
    wanted: &Wanted,
    waiting: Waiting,
    begins: &[FullExport],
) -> Result<Coverage, InboxError> {
    let mut coverage = Coverage::new(waiting);
    let mut pages = pages();
    while let Some(rows) = pages.next(inbox).await? {
        for row in rows.into_iter().filter(|row| is_wanted(row, wanted)) {
            if row.state != State::Done && begins.iter().any(|of| of.replaces(&row)) {
                continue;
            }
            let (id, state) = (row.id, row.state);
            let Some(Arrival { announced: Announced::File(waybill), .. }) = arrival_of(row) else { continue };
            coverage.see(id, state, &waybill.metadata.blob_type, waybill.sequence.as_ref());
        }
    }
    for named in inbox.named().await? {
        if wanted.types.as_ref().is_none_or(|types| is_of_types(&named.blob_type, types)) {
            coverage.named(&named);
        }
    }
    coverage.finish(begins.iter().map(|of| &of.begin));
    Ok(coverage)
}

/// Full exports of the wanted types at which tables may begin. See [`FullExport`].
///
/// # Errors
/// [`InboxError`].
pub async fn full_exports(inbox: &impl Inbox, wanted: &Wanted, entities: &Entities) -> Result<FullExports, InboxError> {
    let mut found = full_export::Search::new(entities);
    let mut pages = pages();
    while let Some(rows) = pages.next(inbox).await? {
        for row in rows.into_iter().filter(|row| is_wanted(row, wanted)) {
            let (id, state) = (row.id, row.state);
            if let Some(Arrival { announced: Announced::File(waybill), .. }) = arrival_of(row) {
                found.see(id, state, *waybill);
            }
        }
    }
    for of in inbox.sequences().await? {
        found.source(&of.blob_type, &of.publisher, &of.epoch);
    }
    for of in inbox.named().await? {
        found.source(&of.blob_type, &of.publisher, &of.epoch);
    }
    Ok(found.finish())
}

fn pages() -> Pages {
    Pages::new(ListFilter { most: PAGE, ..ListFilter::default() })
}

fn is_wanted(row: &InboxRow, wanted: &Wanted) -> bool {
    let is_of_type = |types: &Vec<String>| row.blob_type.as_ref().is_some_and(|name| is_of_types(name, types));
    row.file.is_some()
        && row.blob_type.as_deref() != Some(MANIFEST_TYPE)
        && row.state != State::Duplicate
        && wanted.types.as_ref().is_none_or(is_of_type)
        && wanted.since.is_none_or(|since| row.received_at >= since)
}

/// The row's message as it came; `None` for what is no file.
fn arrival_of(row: InboxRow) -> Option<Arrival> {
    let announced = announced(row.body.as_bytes());
    matches!(announced, Announced::File(_)).then_some(Arrival {
        entity_path: row.entity_path,
        sequence_number: row.sequence_number,
        enqueued_at: row.enqueued_at,
        message_id: row.message_id,
        announced,
    })
}
