//! A batch of raw rows: one buffer, a span per row, and the layout that says how to read them.

use std::borrow::Cow;

use bytes::Bytes;

use crate::{Field, FieldPath};

/// Rows as they stand in the file. A row costs no allocation.
#[derive(Debug, Clone)]
pub struct RowBatch {}

/// One row, borrowed from its batch.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    #[allow(dead_code)]
    batch: &'a RowBatch,
}

/// A row that does not match its format; kept with its error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRow {
    /// 1-based, counting every row of the file, good or bad; a CSV header is not a row.
    pub row: u64,
    /// Where the row begins, in plain bytes from the file's begin.
    pub offset: u64,
    /// What is wrong, and where within the row.
    pub problem: String,
    /// The raw bytes, cut at 64 KiB.
    pub bytes: Bytes,
}

impl RowBatch {
    /// How many good rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        todo!()
    }
    /// Whether there is no good row.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        todo!()
    }
    /// The good rows in their order.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> + '_ {
        (0..self.len()).map(|index| self.row(index))
    }
    /// The good row at `index` (0-based in this batch).
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn row(&self, index: usize) -> Row<'_> {
        todo!("{index}")
    }
    /// The rows of this stretch of the file that do not match its format.
    #[must_use]
    pub fn bad(&self) -> &[BadRow] {
        todo!()
    }
    /// The number (1-based) of the last row of this stretch of the file, good or bad: progress after this batch.
    #[must_use]
    pub fn last_row(&self) -> u64 {
        todo!()
    }
    /// The number (1-based) of the first row of this stretch, good or bad.
    #[must_use]
    pub fn first_row(&self) -> u64 {
        todo!()
    }
    /// Bytes held: for memory limits.
    #[must_use]
    pub fn size(&self) -> usize {
        todo!()
    }
}

impl<'a> Row<'a> {
    /// 1-based, in the file.
    #[must_use]
    pub fn number(&self) -> u64 {
        todo!()
    }
    /// Where it begins, in plain bytes from the file's begin.
    #[must_use]
    pub fn offset(&self) -> u64 {
        todo!()
    }
    /// Its bytes, without the line end.
    #[must_use]
    pub fn raw(&self) -> &'a [u8] {
        todo!()
    }
    /// One field. With repeated names the first one wins.
    #[must_use]
    pub fn get(&self, path: &FieldPath) -> Field<'a> {
        todo!("{path:?}")
    }
    /// Several fields in one pass over the row: `into[i]` becomes the value of `paths[i]` ([`Field::Missing`] if absent).
    pub fn get_many(&self, paths: &[FieldPath], into: &mut Vec<Field<'a>>) {
        todo!("{paths:?} {into:?}")
    }
    /// All top-level fields in the row's order; repeated names only once, the first.
    pub fn for_each(&self, visit: &mut dyn FnMut(Cow<'a, str>, Field<'a>)) {
        visit(Cow::Borrowed(""), Field::Missing);
    }
    /// The row as one line of JSON, whatever its format: for parking, quarantine and `rows`. JSON Lines rows unchanged;
    /// CSV: texts and nulls.
    #[must_use]
    pub fn to_json(&self) -> Cow<'a, str> {
        todo!()
    }
}
