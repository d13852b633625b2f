//! Rows as JSON Lines, for the sinks that write text.

use waybill_contracts::Reason;

use super::{Applied, EntityBatch};

/// Of a bad row in its line.
const BAD_BYTES_MAX: usize = 64 << 10;

/// The rows of a batch as text.
#[derive(Default)]
pub(super) struct Lines {
    pub(super) good: Vec<u8>,
    pub(super) good_rows: u64,
    /// Of each its number, where it begins, and why.
    pub(super) bad: Vec<u8>,
    pub(super) bad_rows: u64,
    /// Left out.
    pub(super) filtered_rows: u64,
}

impl Lines {
    pub(super) fn of(batch: &EntityBatch, after: u64) -> Self {
        let mut lines = Self::default();
        let mut sieve = batch.sieve();
        for batch in &batch.rows {
            for row in batch.rows().filter(|row| row.number() > after) {
                match sieve.ask(&row) {
                    Ok(true) => {}
                    Ok(false) => {
                        lines.filtered_rows += 1;
                        continue;
                    }
                    Err(fault) => {
                        lines.add_bad((row.number(), row.offset()), fault.reason, &fault.problem, row.raw());
                        continue;
                    }
                }
                lines.good.extend_from_slice(row.to_json().as_bytes());
                lines.good.push(b'\n');
                lines.good_rows += 1;
            }
            for bad in batch.bad().iter().filter(|bad| bad.row > after) {
                lines.add_bad((bad.row, bad.offset), Reason::MalformedRow, &bad.problem, &bad.bytes);
            }
        }
        lines
    }

    /// What became of the rows.
    pub(super) fn applied(&self) -> Applied {
        Applied { inserted: self.good_rows, bad: self.bad_rows, filtered: self.filtered_rows, ..Applied::default() }
    }

    pub(super) fn add_bad(&mut self, (row, offset): (u64, u64), reason: Reason, problem: &str, bytes: &[u8]) {
        let bytes = bytes.get(..BAD_BYTES_MAX).unwrap_or(bytes);
        let bytes = String::from_utf8_lossy(bytes);
        let line = serde_json::json!({
            "row": row, "offset": offset, "reason": reason, "problem": problem, "bytes": bytes,
        });
        self.bad.extend_from_slice(line.to_string().as_bytes());
        self.bad.push(b'\n');
        self.bad_rows += 1;
    }
}
