//! Which files are due, and whose turn it is.

use waybill_contracts::is_of_types;
use waybill_store::rusqlite::{self, OptionalExtension, Transaction, named_params, params_from_iter, types::Value};

use super::{StoredFile, nanos, nanos_of, read_file, wanted_clause};
use crate::inbox::{
    AT_RISK, Wanted,
    turns::{Share, TYPES_LOOKED_AT, TYPES_PASSED_OVER, URGENT_LOOKED_AT, dealt},
};

/// What is asked of the rows that are due.
pub(super) struct Due<'t> {
    pub(super) tx: &'t Transaction<'t>,
    pub(super) wanted: &'t Wanted,
    pub(super) now: i64,
}

/// The files whose turn it is.
pub(super) struct Chosen {
    /// Those that are urgent first.
    pub(super) files: Vec<StoredFile>,
    /// How many are here because they are urgent.
    pub(super) urgent: usize,
}

impl Due<'_> {
    pub(super) fn choose(&self, most: u32, share: &Share) -> rusqlite::Result<Chosen> {
        let (ids, urgent) = self.numbers(most as usize, share)?;
        let mut read = self.tx.prepare_cached(
            "SELECT id, file_key, body, publisher, epoch, sequence, expires_at, broker_sequence, received_at, attempts,
                    blob_etag, blob_length, blob_checkpoint
             FROM inbox WHERE id = ?1",
        )?;
        let files = ids.into_iter().map(|id| read.query_row([id], read_file)).collect::<Result<_, _>>()?;
        Ok(Chosen { files, urgent })
    }

    /// And how many of the first of them are urgent.
    fn numbers(&self, most: usize, share: &Share) -> rusqlite::Result<(Vec<i64>, usize)> {
        // Those that are named are few: no type has its turn, and no other row is looked at.
        if self.wanted.ids.is_some() {
            return Ok((self.oldest(most)?, 0));
        }
        let mut ids = self.urgent(share.urgent)?;
        let urgent = ids.len();
        let (mut hands, are_all) = self.hands(&share.after, most)?;
        hands.iter_mut().for_each(|hand| hand.retain(|id| !ids.contains(id)));
        ids.extend(dealt(hands, most - urgent));
        // Where every type was asked, nothing else is due. To look for it among a million that nobody wants would take long.
        if ids.len() < most && !are_all {
            let oldest = self.oldest(most)?;
            let rest: Vec<i64> = oldest.into_iter().filter(|id| !ids.contains(id)).take(most - ids.len()).collect();
            ids.extend(rest);
        }
        Ok((ids, urgent))
    }

    fn urgent(&self, most: u32) -> rusqlite::Result<Vec<i64>> {
        if most == 0 {
            return Ok(Vec::new());
        }
        let (wanted, conditions) = wanted_clause(self.wanted);
        let sql = format!(
            "SELECT id FROM (
                 SELECT id, expires_at, due_at, blob_type, received_at, problem FROM inbox INDEXED BY inbox_urgent
                 WHERE due_at IS NOT NULL AND expires_at > ? AND expires_at <= ?
                 ORDER BY expires_at LIMIT {URGENT_LOOKED_AT})
             WHERE {wanted} due_at <= ? ORDER BY expires_at LIMIT ?"
        );
        let mut values = [self.now, self.now + nanos_of(AT_RISK)].map(Value::Integer).to_vec();
        values.extend(conditions);
        values.extend([self.now, i64::from(most)].map(Value::Integer));
        self.tx.prepare_cached(&sql)?.query_map(params_from_iter(values), |row| row.get(0))?.collect()
    }

    /// What is due of each type, the next one first, until there are enough types; and whether those are all that there are.
    fn hands(&self, after: &str, most: usize) -> rusqlite::Result<(Vec<Vec<i64>>, bool)> {
        // Each is found by a jump through the index, whatever number of files the one before it has.
        let mut next = self.tx.prepare_cached(
            "SELECT blob_type FROM inbox INDEXED BY inbox_turn WHERE due_at IS NOT NULL AND blob_type > ?1
             ORDER BY blob_type LIMIT 1",
        )?;
        let untried = if self.wanted.untried { "AND problem IS NULL" } else { "" };
        let mut due = self.tx.prepare_cached(&format!(
            "SELECT id FROM inbox INDEXED BY inbox_turn
             WHERE blob_type = :blob_type AND due_at <= :now AND received_at >= :since {untried}
             ORDER BY due_at, id LIMIT :most",
        ))?;
        let (mut hands, mut at, mut is_round) = (Vec::new(), after.to_owned(), false);
        let (mut looked_at, mut passed_over) = (0, 0);
        while looked_at < TYPES_LOOKED_AT && passed_over < TYPES_PASSED_OVER && hands.len() < most {
            let found: Option<String> = next.query_row([&at], |row| row.get(0)).optional()?;
            let Some(blob_type) = found.filter(|found| !is_round || found.as_str() <= after) else {
                if is_round {
                    return Ok((hands, true));
                }
                (at, is_round) = (String::new(), true);
                continue;
            };
            if self.wanted.types.as_ref().is_none_or(|types| is_of_types(&blob_type, types)) {
                let values = named_params! {
                    ":blob_type": blob_type,
                    ":now": self.now,
                    ":since": self.wanted.since.map_or(i64::MIN, nanos),
                    ":most": i64::try_from(most).unwrap_or(i64::MAX),
                };
                let hand: Vec<i64> = due.query_map(values, |row| row.get(0))?.collect::<Result<_, _>>()?;
                if !hand.is_empty() {
                    hands.push(hand);
                }
                looked_at += 1;
            } else {
                passed_over += 1;
            }
            at = blob_type;
        }
        Ok((hands, false))
    }

    fn oldest(&self, most: usize) -> rusqlite::Result<Vec<i64>> {
        let (wanted, mut values) = wanted_clause(self.wanted);
        values.extend([Value::Integer(self.now), Value::Integer(i64::try_from(most).unwrap_or(i64::MAX))]);
        // The plus keeps the index of what is due out of a question for some rows.
        let due = if self.wanted.ids.is_some() { "+due_at" } else { "due_at" };
        let sql =
            format!("SELECT id FROM inbox WHERE {due} IS NOT NULL AND {wanted} {due} <= ? ORDER BY {due}, id LIMIT ?");
        self.tx.prepare_cached(&sql)?.query_map(params_from_iter(values), |row| row.get(0))?.collect()
    }
}
