//! What is over is forgotten, and its key kept; and publishers' numbers, as runs.

use waybill_store::{
    PostgresTransaction,
    tokio_postgres::{Error, types::ToSql},
};

use super::value::seconds;
use crate::inbox::{PruneStep, Pruned, Retention};

/// The states of files that came to their end.
const ENDED: &str = "state IN ('done', 'skipped', 'duplicate', 'expired')";
/// Of these, what can go: nothing refers to it. What was lost is told until a person says that it is not wanted (`skip`).
const FREE: &str =
    "state <> 'expired' AND NOT EXISTS (SELECT 1 FROM inbox AS other WHERE other.duplicate_of = inbox.id)";
/// Or only what goes before it.
const FREE_SOON: &str =
    "state <> 'expired' AND NOT EXISTS (SELECT 1 FROM inbox AS other WHERE other.duplicate_of = inbox.id
                             AND other.changed_at >= (SELECT clock_timestamp() - make_interval(secs => $2)))";
/// A line of history that is not its row's last one.
const FORMER: &str =
    "EXISTS (SELECT 1 FROM history AS later WHERE later.inbox_id = history.inbox_id AND later.id > history.id)";
/// It is done, and its blob may still be there.
const REPLAYABLE: &str = "state = 'done' AND coalesce(expires_at > clock_timestamp(), true)";

/// Asks for the four counts of [`Pruned`], by the ages `$1` (history), `$2` (files) and `$3` (keys) in seconds.
pub(super) fn prunable() -> String {
    format!(
        "SELECT (SELECT count(*) FROM history WHERE at < (SELECT clock_timestamp() - make_interval(secs => $1)) AND {FORMER}
                     AND inbox_id IN (SELECT id FROM inbox WHERE {ENDED})),
             files, replayable,
             (SELECT count(*) FROM pruned WHERE pruned_at < (SELECT clock_timestamp() - make_interval(secs => $3)))
         FROM (SELECT count(*) AS files, count(*) FILTER (WHERE {REPLAYABLE}) AS replayable FROM inbox
               WHERE {ENDED} AND changed_at < (SELECT clock_timestamp() - make_interval(secs => $2)) AND {FREE_SOON}) AS ended"
    )
}

/// In seconds; where there is none, longer ago than anything.
pub(super) fn ages(retention: &Retention) -> [f64; 3] {
    [retention.history, retention.files, retention.identities].map(|age| age.map_or(1e11, seconds))
}

/// One part, and what comes next.
pub(super) async fn prune(
    tx: &PostgresTransaction<'_>,
    retention: &Retention,
    step: PruneStep,
    most: u32,
) -> Result<(Pruned, Option<PruneStep>), Error> {
    let ([history_age, files_age, identities_age], many) = (ages(retention), i64::from(most));
    let (pruned, again) = match step {
        PruneStep::History { after } => {
            // Lines come in the order of their numbers, about that of their times: behind a page without an old one is none.
            let sql = format!(
                "WITH page AS MATERIALIZED (
                     SELECT id, at < (SELECT clock_timestamp() - make_interval(secs => $2)) AS is_old FROM history
                     WHERE id > $1 ORDER BY id LIMIT $3),
                 gone AS (
                     DELETE FROM history USING page WHERE history.id = page.id AND is_old AND {FORMER}
                         AND EXISTS (SELECT 1 FROM inbox WHERE inbox.id = history.inbox_id AND {ENDED})
                     RETURNING 1)
                 SELECT (SELECT count(*) FROM gone), count(*) = $3 AND bool_or(is_old), max(id) FROM page"
            );
            let row = tx.query_one(&tx.prepare_cached(&sql).await?, &[&after, &history_age, &many]).await?;
            let pruned = Pruned { history: super::count(&row, 0), ..Pruned::default() };
            let last: Option<i64> = row.get(2);
            (
                pruned,
                last.filter(|_| row.get::<_, Option<bool>>(1) == Some(true)).map(|after| PruneStep::History { after }),
            )
        }
        PruneStep::Files => {
            let sql = format!(
                "WITH old AS MATERIALIZED (
                     SELECT id, {REPLAYABLE} AS replayable FROM inbox
                     WHERE {ENDED} AND changed_at < (SELECT clock_timestamp() - make_interval(secs => $1)) AND {FREE}
                     ORDER BY changed_at LIMIT $2 FOR UPDATE SKIP LOCKED),
                 gone AS (
                     DELETE FROM inbox USING old WHERE inbox.id = old.id
                     RETURNING inbox.id, file_hash, state, replayable),
                 kept AS (
                     INSERT INTO pruned SELECT file_hash, id, clock_timestamp() FROM gone
                     WHERE file_hash IS NOT NULL AND state <> 'duplicate' ON CONFLICT DO NOTHING),
                 forgotten AS (DELETE FROM history USING gone WHERE history.inbox_id = gone.id)
                 SELECT count(*), count(*) FILTER (WHERE replayable) FROM gone"
            );
            let row = tx.query_one(&tx.prepare_cached(&sql).await?, &[&files_age, &many]).await?;
            let (files, replayable) = (super::count(&row, 0), super::count(&row, 1));
            // Where duplicates went, what they referred to may follow.
            (Pruned { files, replayable, ..Pruned::default() }, (files > 0).then_some(PruneStep::Files))
        }
        PruneStep::Identities => {
            let sql = "DELETE FROM pruned WHERE file_hash IN (
                SELECT file_hash FROM pruned WHERE pruned_at < (SELECT clock_timestamp() - make_interval(secs => $1))
                ORDER BY pruned_at LIMIT $2)";
            let values: &[&(dyn ToSql + Sync)] = &[&identities_age, &many];
            let identities = tx.execute(&tx.prepare_cached(sql).await?, values).await?;
            let again = identities == u64::from(most);
            (Pruned { identities, ..Pruned::default() }, again.then_some(PruneStep::Identities))
        }
    };
    Ok((pruned, again.or(step.next())))
}
