//! A large file's way in the order of its keys: first all of it is read and sorted, then it is handed on.

use tokio::sync::mpsc;
use waybill_contracts::Encoding;
use waybill_formats::FileStats;

use super::WorkError;
use crate::{
    rows::{Group, GroupLimits},
    sink::{Progress, Stretch},
    sorted::{SortError, Sorted, SortedRows, Sorter},
    tasks::{blocking, on_a_thread},
};

/// What gzip makes of rows, about: plain bytes for each stored one.
const RATIO: u64 = 5;

/// How many plain bytes a file has: as it was announced, or else guessed.
pub(super) fn plain_bytes(announced: Option<u64>, stored: u64, encoding: Option<Encoding>) -> u64 {
    announced.unwrap_or(match encoding {
        Some(Encoding::Identity) => stored,
        Some(Encoding::Gzip) | None => stored.saturating_mul(RATIO),
    })
}

/// Sorts all rows of a file; `None` when they ended before the file did: who reads it says why.
///
/// # Errors
/// [`SortError`]; with `fail_on_bad_row` the first row that is malformed.
pub(super) async fn collect(
    mut sorter: Sorter,
    mut groups: mpsc::Receiver<Group>,
    fail_on_bad_row: bool,
) -> Result<Option<(Sorted, FileStats)>, WorkError> {
    let sorted = on_a_thread("waybill-sort", move || {
        while let Some(group) = groups.blocking_recv() {
            if fail_on_bad_row {
                WorkError::of_bad_row(&group)?;
            }
            group.batches.into_iter().try_for_each(|batch| sorter.add(batch))?;
            if let Some(stats) = group.end {
                return Ok(Some((sorter.finish()?, stats)));
            }
        }
        Ok(None)
    });
    sorted.await.unwrap_or(Ok(None))
}

/// Goes to where the file is: behind its first rows, if they are those that took effect. Says whether they are.
///
/// # Errors
/// [`SortError`].
pub(super) async fn go_on(mut sorted: Sorted, at: &Progress) -> Result<Option<(Sorted, bool)>, SortError> {
    let (rows, trail) = (at.rows, at.trail.unwrap_or_default());
    blocking(move || sorted.skip(rows, trail).map(|is_alike| (sorted, is_alike))).await.transpose()
}

/// Hands on what was sorted, a group beside the one that takes effect.
///
/// # Errors
/// [`SortError`]; [`WorkError::Defect`] when there are fewer rows than the file has.
pub(super) async fn hand_on(
    mut sorted: Sorted,
    stats: FileStats,
    at: Progress,
    limits: GroupLimits,
    groups: mpsc::Sender<Group>,
) -> Result<(), WorkError> {
    let handed_on = on_a_thread("waybill-sorted", move || {
        let (mut to, mut before) = (at.rows, at.trail.unwrap_or_default());
        let mut is_over = false;
        while !is_over {
            let next = sorted.next_rows(limits.rows_max, limits.bytes_max)?;
            // A file without rows ends all the same.
            let none = SortedRows { batches: Vec::new(), rows: 0, dropped: 0, trail: before };
            let SortedRows { batches, rows, dropped, trail: after } = next.unwrap_or(none);
            to += rows;
            if rows == 0 && to < stats.rows {
                return Err(WorkError::Defect(format!("{to} of {} rows came out of sorting", stats.rows)));
            }
            is_over = to >= stats.rows;
            let end = is_over.then(|| stats.clone());
            let stretch = Stretch { before: std::mem::replace(&mut before, after), after, dropped };
            let group = Group::sorted(batches, (rows, to), end, stretch);
            if groups.blocking_send(group).is_err() {
                // The sink failed and says so itself.
                break;
            }
        }
        Ok(())
    });
    handed_on.await.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use waybill_contracts::Entities;

    use super::*;
    use crate::{apply::EntityPlans, sorted::Trail};

    /// Those who read rows for it, and the sink that takes them, may need a thread of the runtime's, of which there is one here.
    #[test]
    fn sorting_takes_no_thread_from_those_who_bring_rows_or_take_them() {
        let stats =
            |rows| FileStats { rows, bad_rows: 0, stored_bytes: 0, plain_bytes: 0, plain_sha256: None, gzip: false };
        let plans = EntityPlans::compile(&Entities::parse("[entity.item]\nkey = [\"id\"]", "e").unwrap()).unwrap();
        let plan = plans.get("item").map(Arc::clone).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let one_thread = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(1).build();
        one_thread.unwrap().block_on(async {
            let (group_to, groups) = mpsc::channel(1);
            let bringing = async {
                for end in [None, None, Some(stats(0))] {
                    let nowhere = Stretch { before: Trail::default(), after: Trail::default(), dropped: 0 };
                    let group = blocking(move || Group::sorted(Vec::new(), (0, 0), end, nowhere)).await.unwrap();
                    group_to.send(group).await.unwrap();
                }
            };
            let sorter = Sorter::new(folder.path(), plan, 1 << 20);
            let (collected, ()) = tokio::join!(collect(sorter, groups, false), bringing);
            let (sorted, stats) = collected.unwrap().unwrap();

            let (group_to, mut groups) = mpsc::channel(1);
            group_to.send(Group::default()).await.unwrap();
            let limits = GroupLimits { rows_max: 10, bytes_max: 1 << 20 };
            let handing_on = hand_on(sorted, stats, Progress::default(), limits, group_to);
            let taking = async {
                let mut taken = 0;
                while groups.recv().await.is_some() {
                    // As a sink that plans its batch.
                    taken += blocking(|| 1).await.unwrap();
                }
                taken
            };
            let (handed_on, taken) = tokio::join!(handing_on, taking);
            handed_on.unwrap();
            assert_eq!(taken, 2);
        });
    }
}
