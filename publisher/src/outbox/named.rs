//! What manifests name, and what may go because they do: SQL that both databases understand.

use super::ManifestRange;
use waybill_contracts::MANIFEST_TYPE;

/// For each sequence the numbers that no manifest names yet, $1 at most.
pub(super) const NEXT: &str = "WITH known AS (SELECT DISTINCT publisher, epoch, blob_type FROM export WHERE sequence IS NOT NULL),
    begun AS (
        SELECT known.publisher, known.epoch, known.blob_type, coalesce(up_to, 0) AS after
        FROM known LEFT JOIN manifested ON manifested.publisher = known.publisher AND manifested.epoch = known.epoch
            AND manifested.blob_type = known.blob_type),
    ended AS (
        SELECT begun.*, coalesce(
            (SELECT min(sequence) - 1 FROM export WHERE export.epoch = begun.epoch AND export.publisher = begun.publisher
                AND export.blob_type = begun.blob_type AND sequence > after AND state IN ('planned', 'uploaded')),
            (SELECT max(sequence) FROM export WHERE export.epoch = begun.epoch AND export.publisher = begun.publisher
                AND export.blob_type = begun.blob_type)) AS last
        FROM begun)
    SELECT publisher, epoch, blob_type, after + 1,
        CASE WHEN last > after + CAST($1 AS bigint) THEN after + CAST($1 AS bigint) ELSE last END
    FROM ended WHERE last > after ORDER BY epoch, publisher, blob_type";

/// Fixes a range: its export, then its place and numbers.
pub(super) const FIX: &str =
    "INSERT INTO manifest (export_id, publisher, epoch, blob_type, first, last) VALUES ($1, $2, $3, $4, $5, $6)";
/// And that its sequence is named up to there.
pub(super) const MOVE: &str = "INSERT INTO manifested (publisher, epoch, blob_type, up_to) VALUES ($1, $2, $3, $4)
    ON CONFLICT (publisher, epoch, blob_type) DO UPDATE SET up_to = excluded.up_to";

/// How far manifests that were sent name sequences of publisher $1 in epoch $2, and how many that are fixed were not sent.
pub(super) const NAMED_TO: &str =
    "SELECT known.blob_type, coalesce(min(unsent.first) - 1, known.up_to), count(unsent.first)
    FROM manifested AS known LEFT JOIN (
        SELECT publisher, epoch, blob_type, first FROM manifest WHERE NOT EXISTS (
            SELECT 1 FROM export WHERE export.export_id = manifest.export_id AND sent_at IS NOT NULL)) AS unsent
        ON unsent.publisher = known.publisher AND unsent.epoch = known.epoch AND unsent.blob_type = known.blob_type
    WHERE known.publisher = $1 AND known.epoch = $2 GROUP BY known.blob_type, known.up_to ORDER BY known.blob_type";

/// Ranges whose manifest is not made; those of the manifests themselves last.
pub(super) fn open() -> String {
    format!(
        "SELECT export_id, publisher, epoch, blob_type, first, last FROM manifest
         WHERE NOT EXISTS (SELECT 1 FROM export WHERE export.export_id = manifest.export_id AND state IN ('uploaded', 'sent'))
         ORDER BY blob_type = '{MANIFEST_TYPE}', epoch, publisher, blob_type, first"
    )
}

/// The exports of a range, $1 to $3, with numbers from $4 to $5, $6 at most.
pub(super) fn members(columns: &str) -> String {
    format!(
        "SELECT {columns} FROM export WHERE publisher = $1 AND epoch = $2 AND blob_type = $3 AND sequence >= $4 AND sequence <= $5
         ORDER BY sequence LIMIT $6"
    )
}

/// Exports after row $1 that are over at $2, $3 at most, and whether a manifest that is sent names each.
pub(super) fn over(columns: &str) -> String {
    format!(
        "SELECT {columns}, sequence IS NULL OR EXISTS (
             SELECT 1 FROM manifest JOIN export AS own ON own.export_id = manifest.export_id AND own.state = 'sent'
             WHERE manifest.publisher = export.publisher AND manifest.epoch = export.epoch
                 AND manifest.blob_type = export.blob_type AND last >= export.sequence AND first = (
                     SELECT max(first) FROM manifest AS near
                     WHERE near.publisher = export.publisher AND near.epoch = export.epoch
                         AND near.blob_type = export.blob_type AND near.first <= export.sequence))
         FROM export WHERE row > $1 AND state IN ('sent', 'void') AND expires_at <= $2
             AND NOT (state = 'sent' AND EXISTS (
                 SELECT 1 FROM manifest JOIN export AS member ON member.publisher = manifest.publisher
                     AND member.epoch = manifest.epoch AND member.blob_type = manifest.blob_type
                     AND member.sequence >= first AND member.sequence <= last
                 WHERE manifest.export_id = export.export_id))
         ORDER BY row LIMIT $3"
    )
}

/// The full exports of publisher $1 and type $2, $3 at most, latest first: what each says of itself, how many of its parts are there
/// and how many are sent, and its last number.
pub(super) const FULL_EXPORTS: &str = "SELECT snapshot_id, max(snapshot_as_of), max(snapshot_of),
        count(CASE WHEN state IN ('uploaded', 'sent') THEN 1 END), count(CASE WHEN sent_at IS NOT NULL AND state <> 'void' THEN 1 END),
        max(sequence)
    FROM export WHERE publisher = $1 AND blob_type = $2 AND snapshot_id IS NOT NULL
    GROUP BY snapshot_id ORDER BY max(row) DESC LIMIT $3";

/// A manifest of manifests is one more to be named by the next: it has to have another reason.
pub(super) fn worth_naming(next: Vec<ManifestRange>) -> Vec<ManifestRange> {
    if next.iter().all(|range| range.blob_type == MANIFEST_TYPE) { Vec::new() } else { next }
}
