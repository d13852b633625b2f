//! Publishers' numbers, as runs.

use waybill_store::{
    rusqlite::{self, Connection, OptionalExtension, Transaction, params},
    signed,
};

use super::row::{count, instant, parse_column};
use crate::inbox::{
    OpenFile, PublisherSequence, SequenceNamed, SequenceSeen,
    sequences::{AllNamed, Assembly, Named, Run},
};

/// A number was announced: it begins a run, makes one longer, or joins two.
pub(super) fn note(tx: &Transaction<'_>, of: &PublisherSequence, blob_type: &str, now: i64) -> rusqlite::Result<()> {
    let PublisherSequence { publisher, epoch, sequence } = of;
    let number = signed(*sequence);
    const OF: &str = "publisher = ?1 AND epoch = ?2 AND blob_type = ?3";
    let earlier: Option<(i64, i64)> = tx
        .prepare_cached(&format!(
            "SELECT first, last FROM sequence_run WHERE {OF} AND first <= ?4 ORDER BY first DESC LIMIT 1"
        ))?
        .query_row(params![publisher, epoch, blob_type, number], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if earlier.is_some_and(|(_, last)| last >= number) {
        return Ok(());
    }
    let later: Option<(i64, i64, i64)> = tx
        .prepare_cached(&format!(
            "SELECT first, last, since FROM sequence_run WHERE {OF} AND first > ?4 ORDER BY first LIMIT 1"
        ))?
        .query_row(params![publisher, epoch, blob_type, number], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .optional()?;
    let joined = later.filter(|(first, ..)| number.checked_add(1) == Some(*first));
    if let Some((first, ..)) = joined {
        tx.prepare_cached(&format!("DELETE FROM sequence_run WHERE {OF} AND first = ?4"))?
            .execute(params![publisher, epoch, blob_type, first])?;
    }
    let last = joined.map_or(number, |(_, last, _)| last);
    match earlier.filter(|(_, last)| last.checked_add(1) == Some(number)) {
        Some((first, _)) => tx
            .prepare_cached(&format!("UPDATE sequence_run SET last = ?5 WHERE {OF} AND first = ?4"))?
            .execute(params![publisher, epoch, blob_type, first, last])?,
        // What is missed before it was missed before the later run already.
        None => tx.prepare_cached("INSERT INTO sequence_run VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(params![
            publisher,
            epoch,
            blob_type,
            number,
            last,
            later.map_or(now, |(.., since)| since)
        ])?,
    };
    Ok(())
}

/// A manifest names numbers of a sequence.
pub(super) fn note_named(tx: &Transaction<'_>, of: &SequenceNamed, now: i64) -> rusqlite::Result<()> {
    let SequenceNamed { blob_type, publisher, epoch, up_to, void } = of;
    tx.prepare_cached(
        "INSERT INTO sequence_named (publisher, epoch, blob_type, up_to, since) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET since = iif(excluded.up_to > up_to, excluded.since, since),
             up_to = max(up_to, excluded.up_to)",
    )?
    .execute(params![publisher, epoch, blob_type, signed(*up_to), now])?;
    let mut insert = tx.prepare_cached(
        "INSERT INTO sequence_void (publisher, epoch, blob_type, first, last) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET last = max(last, excluded.last)",
    )?;
    for (from, to) in void {
        insert.execute(params![publisher, epoch, blob_type, signed(*from), signed(*to)])?;
    }
    Ok(())
}

pub(super) fn named(db: &Connection) -> rusqlite::Result<Vec<Named>> {
    let mut all = AllNamed::default();
    let names = |row: &rusqlite::Row<'_>| Ok::<_, rusqlite::Error>([row.get(0)?, row.get(1)?, row.get(2)?]);
    let mut named = db.prepare_cached("SELECT publisher, epoch, blob_type, up_to, since FROM sequence_named")?;
    let mut rows = named.query([])?;
    while let Some(row) = rows.next()? {
        all.add(names(row)?, count(row, 3)?, instant(row.get(4)?));
    }
    let mut void =
        db.prepare_cached("SELECT publisher, epoch, blob_type, first, last FROM sequence_void ORDER BY 1, 2, 3, 4")?;
    let mut rows = void.query([])?;
    while let Some(row) = rows.next()? {
        all.void(&names(row)?, count(row, 3)?, count(row, 4)?);
    }
    Ok(all.finish())
}

/// How many numbers never came, of all sequences.
pub(super) fn missing(db: &Connection) -> rusqlite::Result<u64> {
    Ok(announced(db)?.iter().fold(0, |sum, of| sum.saturating_add(of.missing)))
}

pub(super) fn all(db: &Connection) -> rusqlite::Result<Vec<SequenceSeen>> {
    let mut seen = announced(db)?;
    let mut open = db.prepare_cached(
        "SELECT id, sequence, state FROM inbox INDEXED BY inbox_open
         WHERE publisher = ?1 AND epoch = ?2 AND blob_type = ?3 AND sequence IS NOT NULL
             AND state IN ('saved', 'working', 'quarantined', 'skipped', 'expired') ORDER BY sequence LIMIT 1",
    )?;
    for of in &mut seen {
        let read = |row: &rusqlite::Row<'_>| {
            Ok(OpenFile { id: row.get(0)?, sequence: count(row, 1)?, state: parse_column(row, 2)? })
        };
        let first = open.query_row([&of.publisher, &of.epoch, &of.blob_type], read).optional()?;
        of.close(first);
    }
    Ok(seen)
}

/// Without what is not in effect.
fn announced(db: &Connection) -> rusqlite::Result<Vec<SequenceSeen>> {
    let mut assembly = Assembly::default();
    let mut runs = db.prepare_cached(
        "SELECT publisher, epoch, blob_type, first, last, since FROM sequence_run
         ORDER BY publisher, epoch, blob_type, first",
    )?;
    let mut rows = runs.query([])?;
    while let Some(row) = rows.next()? {
        let names = [row.get(0)?, row.get(1)?, row.get(2)?];
        assembly.add(names, Run { first: count(row, 3)?, last: count(row, 4)?, since: instant(row.get(5)?) });
    }
    Ok(assembly.finish(named(db)?))
}
