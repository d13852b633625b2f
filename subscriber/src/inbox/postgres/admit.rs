//! A burst of messages: what is known of them is asked in one statement, what is new is written in another.

use std::collections::HashMap;

use waybill_contracts::Reason;
use waybill_store::{
    PostgresTransaction, signed,
    tokio_postgres::{Error, Row},
};

use super::value::{self, At};
use crate::inbox::{Admitted, Announced, Arrival, BrokenMessage, State, Waybill};

/// Bursts follow each other, also those of other processes: so nobody adds a message or file while it is looked for, and
/// numbers are given in the order of the commits. Whatever the database's default is, the commit is on disk before it is
/// answered.
const LOCK: &str = "SELECT pg_advisory_xact_lock($1),
        CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END";

/// For each message the row that has it, the row that has its file, the number of the row that had it before it was pruned, and
/// a number that the message could have.
const KNOWN: &str = "SELECT message.id, file.id, pruned.id, nextval('inbox_id_seq')
    FROM unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::bytea[]) WITH ORDINALITY
         AS given (entity_path, broker_sequence, enqueued_at, file_hash, place)
    LEFT JOIN inbox AS message ON message.entity_path = given.entity_path
         AND message.broker_sequence = given.broker_sequence AND message.enqueued_at = given.enqueued_at
    LEFT JOIN inbox AS file ON file.file_hash = given.file_hash AND file.state <> 'duplicate'
    LEFT JOIN pruned ON pruned.file_hash = given.file_hash
    ORDER BY given.place";

const ADD: &str = "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS now),
    added AS (
        INSERT INTO inbox (id, entity_path, broker_sequence, enqueued_at, message_id, state, reason, problem, body,
                           received_at, changed_at, due_at, file_key, file_hash, blob_type, correlation_id, publisher,
                           epoch, sequence, expires_at, announced_rows, announced_bytes, duplicate_of)
        SELECT id, entity_path, broker_sequence, enqueued_at, message_id, state, reason, problem, body,
               now, now, CASE state WHEN 'saved' THEN now END, file_key, file_hash, blob_type, correlation_id, publisher,
               epoch, sequence, expires_at, announced_rows, announced_bytes, duplicate_of
        FROM clock, unnest($1::bigint[], $2::text[], $3::bigint[], $4::timestamptz[], $5::text[], $6::text[], $7::text[],
                           $8::text[], $9::text[], $10::text[], $11::bytea[], $12::text[], $13::text[], $14::text[],
                           $15::text[], $16::bigint[], $17::timestamptz[], $18::bigint[], $19::bigint[], $20::bigint[])
             AS given (id, entity_path, broker_sequence, enqueued_at, message_id, state, reason, problem, body, file_key,
                       file_hash, blob_type, correlation_id, publisher, epoch, sequence, expires_at, announced_rows,
                       announced_bytes, duplicate_of)
        RETURNING id, received_at, state, reason, problem)
    INSERT INTO history (inbox_id, at, state, reason, problem)
    SELECT id, received_at, state, reason, problem FROM added ORDER BY id";

/// Answers in the order of the burst. `lock` is the inbox's own number.
pub(super) async fn admit(tx: &PostgresTransaction<'_>, lock: i64, burst: &[Arrival]) -> Result<Vec<Admitted>, Error> {
    tx.query_one(&tx.prepare_cached(LOCK).await?, &[&lock]).await?;
    let (mut answers, mut new) = (Vec::with_capacity(burst.len()), NewRows::default());
    // What an earlier message of this burst made.
    let (mut messages, mut files) = (HashMap::new(), HashMap::new());
    let hashes: Vec<Option<Vec<u8>>> = burst.iter().map(hash_of).collect();
    for ((arrival, hash), row) in burst.iter().zip(&hashes).zip(known(tx, burst, &hashes).await?) {
        let (seen, known, id): (Option<i64>, Option<i64>, i64) = (row.get(0), row.get(1), row.get(3));
        let message = (arrival.entity_path.as_str(), arrival.sequence_number, At::of(arrival.enqueued_at));
        let answer = match (seen.or_else(|| messages.get(&message).copied()), &arrival.announced, hash) {
            (Some(id), ..) => Admitted::AlreadySeen(id),
            (None, Announced::File(waybill), Some(hash)) => {
                let of = known.or_else(|| files.get(hash).copied());
                let pruned = row.get::<_, Option<i64>>(2).filter(|_| of.is_none());
                if of.or(pruned).is_none() {
                    files.entry(hash).or_insert(id);
                }
                let state = if of.or(pruned).is_some() { State::Duplicate } else { State::Saved };
                new.add_file(id, arrival, waybill, hash, (state, of));
                of.or(pruned).map_or(Admitted::Saved(id), |of| Admitted::Duplicate { id, of })
            }
            (None, Announced::File(_), None) => unreachable!("a file has a hash"),
            (None, Announced::Broken(broken), _) => {
                new.add_broken(id, arrival, broken);
                Admitted::Quarantined(id, broken.reason)
            }
        };
        messages.entry(message).or_insert(id);
        answers.push(answer);
    }
    new.write(tx).await?;
    Ok(answers)
}

async fn known(tx: &PostgresTransaction<'_>, burst: &[Arrival], hashes: &[Option<Vec<u8>>]) -> Result<Vec<Row>, Error> {
    let paths: Vec<&str> = burst.iter().map(|arrival| arrival.entity_path.as_str()).collect();
    let numbers: Vec<i64> = burst.iter().map(|arrival| arrival.sequence_number).collect();
    let times: Vec<At> = burst.iter().map(|arrival| At::of(arrival.enqueued_at)).collect();
    tx.query(&tx.prepare_cached(KNOWN).await?, &[&paths, &numbers, &times, &hashes]).await
}

fn hash_of(arrival: &Arrival) -> Option<Vec<u8>> {
    match &arrival.announced {
        Announced::File(waybill) => Some(value::hash(&waybill.key)),
        Announced::Broken(_) => None,
    }
}

/// Rows to be, a column each.
#[derive(Default)]
struct NewRows {
    ids: Vec<i64>,
    entity_paths: Vec<String>,
    broker_sequences: Vec<i64>,
    enqueued_ats: Vec<At>,
    message_ids: Vec<Option<String>>,
    states: Vec<&'static str>,
    reasons: Vec<Option<&'static str>>,
    problems: Vec<Option<String>>,
    bodies: Vec<String>,
    file_keys: Vec<Option<String>>,
    file_hashes: Vec<Option<Vec<u8>>>,
    blob_types: Vec<Option<String>>,
    correlation_ids: Vec<Option<String>>,
    publishers: Vec<Option<String>>,
    epochs: Vec<Option<String>>,
    sequences: Vec<Option<i64>>,
    expires_ats: Vec<Option<At>>,
    announced_rows: Vec<Option<i64>>,
    announced_bytes: Vec<Option<i64>>,
    duplicates_of: Vec<Option<i64>>,
}

impl NewRows {
    /// `of` is the row that it is a duplicate of, where that is still there.
    fn add_file(
        &mut self,
        id: i64,
        arrival: &Arrival,
        waybill: &Waybill,
        hash: &[u8],
        (state, of): (State, Option<i64>),
    ) {
        self.add(id, arrival, state, None, &waybill.body);
        self.file_keys.push(Some(value::key(&waybill.key).into_owned()));
        self.file_hashes.push(Some(hash.to_vec()));
        self.blob_types.push(text(Some(&waybill.metadata.blob_type)));
        self.correlation_ids.push(text(Some(&waybill.metadata.correlation_id)));
        let sequence = waybill.sequence.as_ref();
        self.publishers.push(text(sequence.map(|of| of.publisher.as_str())));
        self.epochs.push(text(sequence.map(|of| of.epoch.as_str())));
        self.sequences.push(sequence.map(|of| signed(of.sequence)));
        self.expires_ats.push(waybill.expires_at.map(At::of));
        let extras = waybill.metadata.extras().unwrap_or_default();
        self.announced_rows.push(extras.rows.map(signed));
        self.announced_bytes.push(extras.bytes.map(signed));
        self.duplicates_of.push(of);
    }

    fn add_broken(&mut self, id: i64, arrival: &Arrival, broken: &BrokenMessage) {
        let why = Some((broken.reason, broken.problem.as_str()));
        self.add(id, arrival, State::Quarantined, why, &String::from_utf8_lossy(&broken.body));
        self.file_keys.push(None);
        self.file_hashes.push(None);
        self.blob_types.push(text(broken.blob_type.as_deref()));
        self.correlation_ids.push(text(broken.correlation_id.as_deref()));
        self.publishers.push(None);
        self.epochs.push(None);
        self.sequences.push(None);
        self.expires_ats.push(None);
        self.announced_rows.push(None);
        self.announced_bytes.push(None);
        self.duplicates_of.push(None);
    }

    fn add(&mut self, id: i64, arrival: &Arrival, state: State, why: Option<(Reason, &str)>, body: &str) {
        self.ids.push(id);
        self.entity_paths.push(arrival.entity_path.clone());
        self.broker_sequences.push(arrival.sequence_number);
        self.enqueued_ats.push(At::of(arrival.enqueued_at));
        self.message_ids.push(text(arrival.message_id.as_deref()));
        self.states.push(state.as_str());
        self.reasons.push(why.map(|(reason, _)| reason.as_str()));
        self.problems.push(text(why.map(|(_, problem)| problem)));
        self.bodies.push(value::text(body).into_owned());
    }

    async fn write(&self, tx: &PostgresTransaction<'_>) -> Result<(), Error> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let statement = tx.prepare_cached(ADD).await?;
        tx.execute(
            &statement,
            &[
                &self.ids,
                &self.entity_paths,
                &self.broker_sequences,
                &self.enqueued_ats,
                &self.message_ids,
                &self.states,
                &self.reasons,
                &self.problems,
                &self.bodies,
                &self.file_keys,
                &self.file_hashes,
                &self.blob_types,
                &self.correlation_ids,
                &self.publishers,
                &self.epochs,
                &self.sequences,
                &self.expires_ats,
                &self.announced_rows,
                &self.announced_bytes,
                &self.duplicates_of,
            ],
        )
        .await
        .map(|_| ())
    }
}

fn text(text: Option<&str>) -> Option<String> {
    text.map(|text| value::text(text).into_owned())
}
