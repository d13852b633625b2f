//! A batch while it grows: plain bytes are written to its end, a framer says where rows begin and end.
//!
//! The text is written once. When a batch is handed out, the bytes of the incomplete row at its end move to the next
//! one. Bytes that belong to no row of the batch (blank lines, an over-long row) are dropped as soon as room is needed.

use std::{mem, str};

use bytes::Bytes;
use memchr::memrchr;

use crate::{
    Charset, DecodeOptions, find,
    row::{BadRow, Layout, Place, RowBatch, RowSpan},
};

/// How much of a bad row is kept.
pub(crate) const BAD_BYTES_MAX: usize = 64 << 10;
/// The least room for inflating into.
const ROOM_MIN: usize = 4 << 10;
/// A row, before any was seen.
const ROW_BYTES_GUESS: usize = 1 << 10;

#[derive(Debug)]
pub(crate) struct Growing {
    /// Plain bytes: complete rows up to `begin`, then what has come of the next one.
    pub(crate) text: Vec<u8>,
    /// Where the row that is being read begins in `text`.
    pub(crate) begin: usize,
    /// `text` is UTF-8 from there to here, where a row or a character ends.
    utf8_to: usize,
    /// Something in the batch is not: rows are looked at one by one.
    is_utf8_broken: bool,
    batch_bytes: usize,
    batch_rows: usize,
    /// Where the batch's first row begins in `text`.
    first_begin: usize,
    rows: Vec<RowSpan>,
    bad: Vec<BadRow>,
    first_row: u64,
    next_row: u64,
    /// Bytes that were written to `text`, ever.
    written: u64,
    /// Where `text` begins among those.
    base: u64,
    /// For a file in another charset than UTF-8.
    transcoded: Option<Transcoded>,
    /// A row that is over the limit and is being skipped.
    long: Option<LongRow>,
    /// The next row does not fit.
    full: bool,
    /// How large the batch before was: text, rows.
    before: (usize, usize),
}

/// Where the text's places lie in a file of another charset.
#[derive(Debug)]
struct Transcoded {
    charset: Charset,
    /// Where `begin` lies.
    begin: u64,
    /// Where the batch's good rows begin.
    rows: Vec<u64>,
}

#[derive(Debug)]
struct LongRow {
    offset: u64,
    head: Vec<u8>,
}

impl Growing {
    pub(crate) fn new(options: &DecodeOptions) -> Self {
        Self {
            text: Vec::new(),
            begin: 0,
            utf8_to: 0,
            is_utf8_broken: false,
            batch_bytes: options.batch_bytes.clamp(1, 1 << 29),
            batch_rows: options.batch_rows.max(1),
            first_begin: 0,
            rows: Vec::new(),
            bad: Vec::new(),
            first_row: 1,
            next_row: 1,
            written: 0,
            base: 0,
            transcoded: None,
            long: None,
            full: false,
            before: (0, 0),
        }
    }

    /// Whether it holds no row, good or bad.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.bad.is_empty()
    }

    /// Whether it has to be handed out before more rows are framed.
    pub(crate) fn is_full(&self) -> bool {
        self.full || self.rows.len() + self.bad.len() >= self.batch_rows
    }

    /// Whether it has to be handed out before more bytes are written: the row that is being read will not fit, or is
    /// being skipped, which would tear a gap into the text.
    pub(crate) fn must_go_first(&self) -> bool {
        !self.is_empty() && (self.long.is_some() || self.text.len() - self.first_begin > self.batch_bytes)
    }

    /// Whether the row before `next` may join the batch. A batch that holds no row takes a row of any length.
    pub(crate) fn fits(&mut self, next: usize) -> bool {
        let fits = self.is_empty() || next - self.first_begin <= self.batch_bytes;
        self.full |= !fits;
        fits
    }

    /// Whether an over-long row may be added: it is a batch of its own, whether its bytes came at once or one by one.
    pub(crate) fn fits_alone(&mut self) -> bool {
        self.full |= !self.is_empty();
        !self.full
    }

    /// Begins after so many rows and bytes.
    pub(crate) fn go_on(&mut self, rows: u64, bytes: u64) {
        (self.first_row, self.next_row) = (rows + 1, rows + 1);
        (self.base, self.written) = (bytes, bytes);
    }

    /// Whether nothing is left of the text but complete rows.
    pub(crate) fn is_between_rows(&self) -> bool {
        self.is_empty() && !self.is_skipping() && self.begin == self.text.len()
    }

    /// The number of the row that is being read.
    pub(crate) fn row(&self) -> u64 {
        self.next_row
    }

    /// Says that the text is not the file's bytes, but what they became. To be said before there is any.
    pub(crate) fn is_transcoded(&mut self, charset: Charset) {
        self.text.clear();
        self.utf8_to = 0;
        self.written = 0;
        self.transcoded = Some(Transcoded { charset, begin: 0, rows: Vec::new() });
    }

    /// Where the row that is being read begins, in the file's plain bytes.
    pub(crate) fn offset(&self) -> u64 {
        self.long.as_ref().map_or(self.offset_of(self.begin), |long| long.offset)
    }

    /// Where a place of the text at or after `begin` lies in the file's plain bytes.
    pub(crate) fn offset_of(&self, at: usize) -> u64 {
        match &self.transcoded {
            None => self.base + at as u64,
            Some(there) => there.begin + there.charset.bytes_of(&self.text[self.begin..at]),
        }
    }

    /// Where the row that is being read, which ends at `end`, is not UTF-8 (0-based, in the row). All lines that are there are
    /// looked at together: rows are short.
    #[inline]
    pub(crate) fn not_utf8(&mut self, end: usize) -> Option<usize> {
        if end <= self.utf8_to {
            return None;
        }
        let from = self.utf8_to.max(self.begin);
        let last = if self.is_utf8_broken { None } else { memrchr(b'\n', &self.text[end..]) };
        let to = last.map_or(end, |at| end + at);
        let broken = find::not_utf8(&self.text[from..to]);
        self.is_utf8_broken |= broken.is_some();
        self.utf8_to = broken.map_or(to, |at| from + at);
        (self.utf8_to < end).then(|| self.utf8_to - self.begin)
    }

    /// Says that there is no character at a place (0-based, in the row).
    pub(crate) fn no_character(&self, at: usize) -> String {
        match &self.transcoded {
            None => {
                format!("not UTF-8 at byte {at} of the row; another charset is named in contentType (charset=latin1)")
            }
            Some(there) => format!("no character of {} at byte {at} of the row (as UTF-8)", there.charset),
        }
    }

    /// Goes on at `next`.
    fn begin_at(&mut self, next: usize) {
        if self.transcoded.is_some() {
            let offset = self.offset_of(next);
            self.transcoded.iter_mut().for_each(|there| there.begin = offset);
        }
        self.begin = next;
    }

    /// Makes room for more bytes; `expected` is a guess at how many will come at once. Returns whether the text moved,
    /// so that the row being read now begins elsewhere.
    pub(crate) fn make_room(&mut self, expected: usize) -> bool {
        let mut moved = false;
        if self.text.capacity() > self.text.len() {
            return moved;
        }
        if self.is_empty() && self.begin > 0 {
            self.text.drain(..self.begin);
            self.utf8_to = self.utf8_to.saturating_sub(self.begin);
            self.begin = 0;
            self.base = self.written - self.text.len() as u64;
            moved = true;
        }
        let len = self.text.len();
        let usual = self.first_begin + self.batch_bytes + 64;
        let capacity = if len >= usual {
            len + self.batch_bytes.max(len / 4).max(ROOM_MIN)
        } else {
            // After a whole batch: as much as that one needed. Before: as much as comes, but not much more than so few rows
            // need, because what is beyond them is copied. Doubled where it is too little.
            let rows = self.batch_rows.saturating_mul(ROW_BYTES_GUESS);
            let guess = if self.before.0 > 0 { self.before.0 + self.before.0 / 16 } else { expected.min(rows) };
            guess.max(2 * len).max(len + ROOM_MIN).min(usual.max(len + ROOM_MIN))
        };
        if capacity > self.text.capacity() {
            self.text.reserve_exact(capacity - len);
        }
        moved
    }

    /// Counts bytes that were written to the end of `text`.
    pub(crate) fn wrote(&mut self, bytes: usize) {
        self.written += bytes as u64;
    }

    /// Passes over bytes that are no row.
    pub(crate) fn pass(&mut self, next: usize) {
        self.begin_at(next);
    }

    /// Adds the row `begin..end`; `fields` is where its fields begin in the framer's table.
    pub(crate) fn good(&mut self, end: usize, next: usize, fields: usize) {
        self.note_first();
        if self.rows.capacity() == 0 {
            self.rows.reserve(self.before.1 + self.before.1 / 8);
        }
        let place = |at: usize| u32::try_from(at).expect("a batch stays below 2 GiB");
        self.rows.push(RowSpan {
            start: place(self.begin),
            end: place(end),
            fields: place(fields),
            number: place((self.next_row - self.first_row) as usize),
        });
        if let Some(there) = &mut self.transcoded {
            there.rows.push(there.begin);
        }
        self.next_row += 1;
        self.begin_at(next);
    }

    /// Adds the row `begin..end` as a bad one.
    pub(crate) fn bad(&mut self, end: usize, next: usize, problem: String) {
        let (offset, offset_after) = (self.offset(), self.offset_of(next));
        let row = &mut self.text[self.begin..end];
        let bytes = Bytes::copy_from_slice(&row[..row.len().min(BAD_BYTES_MAX)]);
        if str::from_utf8(row).is_err() {
            // The text becomes a `str`; nobody reads this part of it.
            row.fill(b' ');
        }
        self.add_bad(offset, problem, bytes);
        self.begin = next;
        self.transcoded.iter_mut().for_each(|there| there.begin = offset_after);
    }

    /// Adds the over-long row `begin..end`, all of which is here.
    pub(crate) fn bad_alone(&mut self, end: usize, next: usize, problem: String) {
        self.bad(end, next, problem);
        self.full = true;
    }

    /// Whether an over-long row is being skipped.
    pub(crate) fn is_skipping(&self) -> bool {
        self.long.is_some()
    }

    /// Drops what has come of an over-long row, up to `at`; keeps its first bytes for the report. A `\r` at its end stays,
    /// because it may belong to the line end. Returns how many bytes were dropped.
    pub(crate) fn skip_part(&mut self, at: usize) -> usize {
        self.drop_long(if at > self.begin && self.text[at - 1] == b'\r' { at - 1 } else { at })
    }

    fn drop_long(&mut self, at: usize) -> usize {
        let (offset, offset_after) = (self.offset(), self.offset_of(at));
        let part = &self.text[self.begin..at];
        let long = self.long.get_or_insert_with(|| LongRow { offset, head: Vec::new() });
        let room = BAD_BYTES_MAX - long.head.len();
        long.head.extend_from_slice(&part[..part.len().min(room)]);
        let dropped = part.len();
        self.transcoded.iter_mut().for_each(|there| there.begin = offset_after);
        self.text.drain(self.begin..at);
        self.utf8_to = self.utf8_to.min(self.begin);
        if self.is_empty() {
            self.base = self.written - self.text.len() as u64;
        }
        dropped
    }

    /// Ends the skipping: the row's last byte is before `end`.
    pub(crate) fn skip_end(&mut self, end: usize, next: usize, problem: String) {
        debug_assert!(self.is_empty(), "a batch is handed out before a row is skipped");
        let dropped = self.drop_long(end);
        self.pass(next - dropped);
        let long = self.long.take().expect("just skipped");
        self.add_bad(long.offset, problem, Bytes::from(long.head));
        self.full = true;
    }

    fn add_bad(&mut self, offset: u64, problem: String, bytes: Bytes) {
        self.note_first();
        self.bad.push(BadRow { row: self.next_row, offset, problem, bytes });
        self.next_row += 1;
    }

    fn note_first(&mut self) {
        if self.is_empty() {
            self.first_row = self.next_row;
            self.first_begin = self.begin;
        }
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        let long = self.long.as_ref().map_or(0, |long| long.head.capacity());
        let bad: usize = self.bad.iter().map(|bad| size_of::<BadRow>() + bad.problem.len() + bad.bytes.len()).sum();
        let places = self.transcoded.as_ref().map_or(0, |there| there.rows.capacity() * size_of::<u64>());
        self.text.capacity() + self.rows.capacity() * size_of::<RowSpan>() + places + long + bad
    }

    /// Hands the batch out and goes on with the bytes after `begin`.
    pub(crate) fn take(&mut self, layout: Layout) -> RowBatch {
        let end_offset = self.offset_of(self.begin);
        let rest = Vec::from(&self.text[self.begin..]);
        let mut text = mem::replace(&mut self.text, rest);
        text.truncate(self.begin);
        let mut rows = mem::take(&mut self.rows);
        self.before = (text.len() - self.first_begin, rows.len());
        shrink(&mut text);
        shrink(&mut rows);
        let place = match &mut self.transcoded {
            None => Place::From(self.base),
            Some(there) => Place::Each(mem::take(&mut there.rows)),
        };
        let (bad, numbers) = (mem::take(&mut self.bad), (self.first_row, self.next_row - 1));
        let batch = RowBatch::new(text, layout, rows, bad, place, numbers, end_offset);
        self.base = self.written - self.text.len() as u64;
        self.utf8_to = self.utf8_to.saturating_sub(self.begin);
        self.is_utf8_broken = false;
        self.begin = 0;
        self.first_begin = 0;
        self.full = false;
        batch
    }
}

/// Gives back memory where much was reserved for little.
pub(crate) fn shrink<T>(vec: &mut Vec<T>) {
    if vec.capacity() - vec.len() > vec.len() / 4 {
        vec.shrink_to_fit();
    }
}
