//! Which files are due, and whose turn it is, as one statement: each part of it reads a few rows through an index.

use std::fmt::Write as _;

use crate::inbox::{
    AT_RISK,
    turns::{TYPES_LOOKED_AT, TYPES_PASSED_OVER, URGENT_LOOKED_AT},
};

/// Takes up to `most` files for the worker `$1`, for `$2` seconds, beginning with the type after `$3`. `types` and `each`
/// are conditions that follow others, on `blob_type` and on other columns.
///
/// The candidates are found without locks; whoever was faster with one of them is made up for by the oldest that nobody has. Where
/// every type was asked and there are fewer than wanted, the candidates are all that is due: the oldest are not looked for then, among a
/// million that nobody wants perhaps.
/// In the answer `kind` is 0 for those that are urgent.
pub(super) fn lease(most: u32, urgent: u32, types: &str, each: &str) -> String {
    let mut sql = format!(
        "WITH RECURSIVE clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
         urgent AS MATERIALIZED (
             SELECT id, row_number() OVER (ORDER BY expires_at, id) AS place FROM (
                 SELECT id, expires_at, due_at, blob_type, received_at, problem FROM inbox
                 WHERE due_at IS NOT NULL AND expires_at > (SELECT now FROM clock)
                     AND expires_at <= (SELECT now FROM clock) + make_interval(secs => {short})
                 ORDER BY expires_at, id LIMIT {URGENT_LOOKED_AT}) AS short
             WHERE due_at <= (SELECT now FROM clock) {types} {each} ORDER BY expires_at, id LIMIT {urgent}),",
        short = AT_RISK.as_secs(),
    );
    // The order names all columns of the index, so that no other index will do.
    let next = |after: &str| {
        format!(
            "(SELECT next.blob_type FROM inbox AS next WHERE next.due_at IS NOT NULL AND next.blob_type > {after}
              ORDER BY next.blob_type, next.due_at, next.id LIMIT 1)"
        )
    };
    // A comparison of rows, and no equality, after which the order would not need the type: the index of all that is due gives that order
    // too, with a million files of other types in front.
    let due = |most: u32| {
        format!(
            "SELECT id, due_at FROM inbox
             WHERE (blob_type, due_at) >= (there.blob_type, '-infinity'::timestamptz)
                 AND (blob_type, due_at) <= (there.blob_type, (SELECT now FROM clock)) AND due_at <= (SELECT now FROM clock) {each}
             ORDER BY blob_type, due_at, id LIMIT {most}"
        )
    };
    let _infallible = write!(
        sql,
        "there (blob_type, is_round, place, looked_at) AS (
             SELECT {first}, false, 1, 0
             UNION ALL
             SELECT CASE WHEN blob_type IS NULL THEN {again} ELSE {next} END, is_round OR blob_type IS NULL, place + 1,
                 looked_at + CASE WHEN blob_type IS NOT NULL {types} THEN 1 ELSE 0 END
             FROM there
             WHERE CASE WHEN is_round THEN blob_type <= $3 ELSE true END AND looked_at < {TYPES_LOOKED_AT}
                 AND place < {TYPES_PASSED_OVER}),
         turn AS MATERIALIZED (
             SELECT blob_type, place FROM there
             WHERE blob_type IS NOT NULL AND (NOT is_round OR blob_type <= $3) {types}
                 AND (SELECT due.id FROM ({one}) AS due) IS NOT NULL
             LIMIT {most}),
         in_turn AS MATERIALIZED (
             SELECT id, row_number() OVER (ORDER BY round, place) AS place
             FROM turn AS there, LATERAL (
                 SELECT id, row_number() OVER (ORDER BY due_at, id) AS round FROM ({many}) AS due) AS dealt
             WHERE NOT id = ANY (ARRAY(SELECT id FROM urgent))
             ORDER BY round, there.place LIMIT {most}),",
        first = next("$3"),
        again = next("''"),
        next = next("there.blob_type"),
        one = due(1),
        many = due(most),
    );
    let _infallible = write!(
        sql,
        "candidate AS MATERIALIZED (
             SELECT id, 0 AS kind, place FROM urgent UNION ALL SELECT id, 1, place FROM in_turn ORDER BY 2, 3 LIMIT {most}),
         chosen AS MATERIALIZED (
             SELECT inbox.id, inbox.due_at, kind, place FROM candidate JOIN inbox ON inbox.id = candidate.id
             WHERE inbox.due_at <= (SELECT now FROM clock) FOR NO KEY UPDATE OF inbox SKIP LOCKED),
         walk AS MATERIALIZED (
             SELECT EXISTS (SELECT FROM there WHERE is_round AND (blob_type IS NULL OR blob_type > $3)) AS are_all),
         oldest AS MATERIALIZED (
             SELECT id, due_at, 2 AS kind, 0::bigint AS place FROM inbox
             WHERE (SELECT count(*) FROM chosen) < {most}
                 AND ((SELECT count(*) FROM candidate) >= {most} OR NOT (SELECT are_all FROM walk))
                 AND due_at <= (SELECT now FROM clock) {types} {each}
                 AND NOT id = ANY (ARRAY(SELECT id FROM candidate))
             ORDER BY due_at, id LIMIT {most} FOR NO KEY UPDATE SKIP LOCKED),
         due AS MATERIALIZED (
             SELECT * FROM chosen UNION ALL SELECT * FROM oldest ORDER BY kind, place, due_at, id LIMIT {most}), {TAKE}"
    );
    sql
}

/// The same of some rows alone: `named` is a condition that follows another, on their numbers and other columns. No type has its turn.
pub(super) fn lease_named(most: u32, named: &str) -> String {
    format!(
        "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
         due AS MATERIALIZED (
             SELECT id, due_at, 2 AS kind, 0::bigint AS place FROM inbox
             WHERE due_at <= (SELECT now FROM clock) {named} ORDER BY due_at, id LIMIT {most} FOR NO KEY UPDATE SKIP LOCKED), {TAKE}"
    )
}

/// Takes what is `due`.
const TAKE: &str = "
         taken AS (
             UPDATE inbox SET state = 'working', worker = $1, leased_at = now, changed_at = now,
                 due_at = now + make_interval(secs => $2)
             FROM clock, due WHERE inbox.id = due.id
             RETURNING inbox.id, file_key, body, publisher, epoch, sequence, expires_at, broker_sequence, received_at,
                 attempts, blob_etag, blob_length, blob_checkpoint, leased_at, inbox.due_at AS until, due.due_at AS was_due, kind, place),
         noted AS (
             INSERT INTO history (inbox_id, at, state, worker) SELECT id, leased_at, 'working', $1 FROM taken)
         SELECT * FROM taken ORDER BY kind, place, was_due, id";
