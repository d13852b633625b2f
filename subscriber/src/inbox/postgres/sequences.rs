//! Publishers' numbers, as runs.

use waybill_store::tokio_postgres::Row;

use super::{count, parsed, value::At};
pub(super) use crate::inbox::sequences::Named;
use crate::inbox::{
    InboxError, OpenFile, SequenceSeen,
    sequences::{AllNamed, Assembly, Run},
};

/// Every run, and with the first one of a sequence its first file that is not in effect.
pub(super) const ALL: &str = "SELECT publisher, epoch, blob_type, first, last, since, first_open.*
    FROM sequence_run AS run LEFT JOIN LATERAL (
        SELECT id, sequence, state FROM inbox
        WHERE inbox.publisher = run.publisher AND inbox.epoch = run.epoch AND inbox.blob_type = run.blob_type
            AND sequence IS NOT NULL AND state IN ('saved', 'working', 'quarantined', 'skipped', 'expired')
        ORDER BY sequence LIMIT 1) AS first_open ON NOT EXISTS (
            SELECT 1 FROM sequence_run AS earlier
            WHERE earlier.publisher = run.publisher AND earlier.epoch = run.epoch AND earlier.blob_type = run.blob_type
                AND earlier.first < run.first)
    ORDER BY publisher COLLATE \"C\", epoch COLLATE \"C\", blob_type COLLATE \"C\", first";

/// Every run alone.
pub(super) const RUNS: &str = "SELECT publisher, epoch, blob_type, first, last, since FROM sequence_run
    ORDER BY publisher COLLATE \"C\", epoch COLLATE \"C\", blob_type COLLATE \"C\", first";

/// Up to where manifests name each sequence; and what is void.
pub(super) const NAMED: &str = "SELECT publisher, epoch, blob_type, up_to, since FROM sequence_named";
pub(super) const VOID: &str =
    "SELECT publisher, epoch, blob_type, first, last FROM sequence_void ORDER BY publisher, epoch, blob_type, first";

/// A manifest names numbers of a sequence.
pub(super) const NOTE_NAMED: &str = "WITH void AS (
        INSERT INTO sequence_void AS known (publisher, epoch, blob_type, first, last)
        SELECT $1::text, $2::text, $3::text, given.first, given.last
        FROM unnest($5::bigint[], $6::bigint[]) AS given (first, last)
        ON CONFLICT (publisher, epoch, blob_type, first) DO UPDATE SET last = greatest(known.last, excluded.last))
    INSERT INTO sequence_named AS known (publisher, epoch, blob_type, up_to, since)
    VALUES ($1::text, $2::text, $3::text, $4::bigint, clock_timestamp())
    ON CONFLICT (publisher, epoch, blob_type) DO UPDATE SET
        since = CASE WHEN excluded.up_to > known.up_to THEN excluded.since ELSE known.since END,
        up_to = greatest(known.up_to, excluded.up_to)";

pub(super) fn named(up_to: &[Row], void: &[Row]) -> Vec<Named> {
    let mut all = AllNamed::default();
    for row in up_to {
        all.add(names(row), count(row, 3), row.get::<_, At>(4).instant());
    }
    for row in void {
        all.void(&names(row), count(row, 3), count(row, 4));
    }
    all.finish()
}

/// How many numbers never came, of all sequences.
pub(super) fn missing(runs: Vec<Row>, named: Vec<Named>) -> u64 {
    let mut assembly = Assembly::default();
    for row in runs {
        assembly.add(names(&row), run(&row));
    }
    assembly.finish(named).iter().fold(0, |sum, of| sum.saturating_add(of.missing))
}

pub(super) fn read(rows: Vec<Row>, named: Vec<Named>) -> Result<Vec<SequenceSeen>, InboxError> {
    let (mut assembly, mut open) = (Assembly::default(), Vec::new());
    for row in rows {
        if assembly.add(names(&row), run(&row)) {
            open.push(match row.get::<_, Option<i64>>(6) {
                Some(id) => Some(OpenFile { id, sequence: count(&row, 7), state: parsed(&row, 8)? }),
                None => None,
            });
        }
    }
    let mut seen = assembly.finish(named);
    for (of, open) in seen.iter_mut().zip(open) {
        of.close(open);
    }
    Ok(seen)
}

fn names(row: &Row) -> [String; 3] {
    [row.get(0), row.get(1), row.get(2)]
}

fn run(row: &Row) -> Run {
    Run { first: count(row, 3), last: count(row, 4), since: row.get::<_, At>(5).instant() }
}
