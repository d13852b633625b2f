//! What is over is forgotten, and its key kept.

use waybill_store::rusqlite::{self, Connection, Transaction, params};

use super::{nanos_of, row::count};
use crate::inbox::{PruneStep, Pruned, Retention};

/// The states of files that came to their end.
const ENDED: &str = "state IN ('done', 'skipped', 'duplicate', 'expired')";
/// Of these, what can go: nothing refers to it. What was lost is told until a person says that it is not wanted (`skip`).
const FREE: &str =
    "state <> 'expired' AND NOT EXISTS (SELECT 1 FROM inbox AS other WHERE other.duplicate_of = inbox.id)";
/// Or only what goes before it.
const FREE_SOON: &str = "state <> 'expired' AND NOT EXISTS (
    SELECT 1 FROM inbox AS other WHERE other.duplicate_of = inbox.id AND other.changed_at >= ?1)";
/// A line of history that is not its row's last one.
const FORMER: &str =
    "EXISTS (SELECT 1 FROM history AS later WHERE later.inbox_id = history.inbox_id AND later.id > history.id)";

/// Before when, by an age; nothing is where there is none.
fn before(now: i64, age: Option<std::time::Duration>) -> i64 {
    age.map_or(i64::MIN, |age| now.saturating_sub(nanos_of(age)))
}

pub(super) fn prunable(db: &Connection, retention: &Retention, now: i64) -> rusqlite::Result<Pruned> {
    let ended = format!("SELECT id FROM inbox WHERE {ENDED}");
    let history = format!("SELECT count(*) FROM history WHERE at < ?1 AND inbox_id IN ({ended}) AND {FORMER}");
    let files = format!(
        "SELECT count(*), coalesce(sum(state = 'done' AND coalesce(expires_at > ?2, true)), 0)
         FROM inbox INDEXED BY inbox_ended WHERE {ENDED} AND changed_at < ?1 AND {FREE_SOON}"
    );
    let identities = "SELECT count(*) FROM pruned WHERE pruned_at < ?1";
    let history = db.query_row(&history, [before(now, retention.history)], |row| count(row, 0))?;
    let read = |row: &rusqlite::Row<'_>| Ok((count(row, 0)?, count(row, 1)?));
    let (files, replayable) = db.query_row(&files, [before(now, retention.files), now], read)?;
    let identities = db.query_row(identities, [before(now, retention.identities)], |row| count(row, 0))?;
    Ok(Pruned { history, files, replayable, identities })
}

/// One part, and what comes next.
pub(super) fn prune(
    tx: &Transaction<'_>,
    retention: &Retention,
    step: PruneStep,
    most: u32,
    now: i64,
) -> rusqlite::Result<(Pruned, Option<PruneStep>)> {
    let (pruned, again) = match step {
        PruneStep::History { after } => {
            let (history, last) = history(tx, before(now, retention.history), after, most)?;
            (Pruned { history, ..Pruned::default() }, last.map(|after| PruneStep::History { after }))
        }
        PruneStep::Files => {
            let pruned = files(tx, before(now, retention.files), most, now)?;
            // Where duplicates went, what they referred to may follow.
            (pruned, (pruned.files > 0).then_some(PruneStep::Files))
        }
        PruneStep::Identities => {
            let sql = "DELETE FROM pruned WHERE file_key IN (
                SELECT file_key FROM pruned INDEXED BY pruned_when WHERE pruned_at < ?1 ORDER BY pruned_at LIMIT ?2)";
            let gone = tx.execute(sql, params![before(now, retention.identities), most])? as u64;
            let pruned = Pruned { identities: gone, ..Pruned::default() };
            (pruned, (gone == u64::from(most)).then_some(PruneStep::Identities))
        }
    };
    Ok((pruned, again.or(step.next())))
}

/// Lines come in the order of their numbers, about that of their times: behind a page without an old one is none. How many went,
/// and the last one that was looked at, unless that is all.
fn history(tx: &Transaction<'_>, before: i64, after: i64, most: u32) -> rusqlite::Result<(u64, Option<i64>)> {
    let sql = "SELECT max(id), count(*) = ?3 AND max(at < ?2) FROM (
        SELECT id, at FROM history WHERE id > ?1 ORDER BY id LIMIT ?3)";
    let (last, goes_on): (Option<i64>, Option<bool>) =
        tx.query_row(sql, params![after, before, most], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let Some(last) = last else { return Ok((0, None)) };
    let gone = tx.execute(
        &format!(
            "DELETE FROM history WHERE id > ?1 AND id <= ?2 AND at < ?3 AND {FORMER}
                 AND EXISTS (SELECT 1 FROM inbox WHERE inbox.id = history.inbox_id AND {ENDED})"
        ),
        params![after, last, before],
    )?;
    Ok((gone as u64, Some(last).filter(|_| goes_on == Some(true))))
}

fn files(tx: &Transaction<'_>, before: i64, most: u32, now: i64) -> rusqlite::Result<Pruned> {
    let sql = format!(
        "SELECT id, state = 'done' AND coalesce(expires_at > ?2, true) FROM inbox INDEXED BY inbox_ended
         WHERE {ENDED} AND changed_at < ?1 AND {FREE} ORDER BY changed_at LIMIT ?3"
    );
    let found: Vec<(i64, bool)> = tx
        .prepare_cached(&sql)?
        .query_map(params![before, now, most], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let mut keep = tx.prepare_cached(
        "INSERT OR IGNORE INTO pruned SELECT file_key, id, ?2 FROM inbox
         WHERE id = ?1 AND file_key IS NOT NULL AND state <> 'duplicate'",
    )?;
    let mut forget = tx.prepare_cached("DELETE FROM history WHERE inbox_id = ?1")?;
    let mut remove = tx.prepare_cached("DELETE FROM inbox WHERE id = ?1")?;
    for (id, _) in &found {
        keep.execute(params![id, now])?;
        forget.execute([id])?;
        remove.execute([id])?;
    }
    let replayable = found.iter().filter(|(_, replayable)| *replayable).count() as u64;
    Ok(Pruned { files: found.len() as u64, replayable, ..Pruned::default() })
}
