//! JSON Lines: where rows begin and end. Lines end with `\n` or `\r\n`; blank ones are no rows.

use std::mem;

use memchr::memchr;

use crate::{
    Limits,
    batch::{Growing, shrink},
    find,
    json::{Checker, FieldSpan},
    row::Layout,
};

#[derive(Debug)]
pub(crate) struct JsonLines {
    checker: Checker,
    row_bytes_max: usize,
    /// The fields of the batch's rows.
    spans: Vec<FieldSpan>,
    /// How many the batch before had.
    spans_before: usize,
    /// How far the row being read was searched for its end.
    searched: usize,
}

impl JsonLines {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            checker: Checker::new(limits.nesting_max, limits.columns_max),
            row_bytes_max: limits.row_bytes_max(),
            spans: Vec::new(),
            spans_before: 0,
            searched: 0,
        }
    }

    /// Frames one line. `false`: it needs more bytes, or the batch has to be handed out first.
    pub(crate) fn next_row(&mut self, batch: &mut Growing, last: bool) -> bool {
        let len = batch.text.len();
        let from = self.searched.max(batch.begin);
        let (mut end, next) = match memchr(b'\n', &batch.text[from..]) {
            Some(distance) => (from + distance, from + distance + 1),
            None if last && (batch.begin < len || batch.is_skipping()) => (len, len),
            None => {
                self.searched = len;
                // One more, because the last byte may be the `\r` of the line end.
                if batch.is_skipping() || len - batch.begin > self.row_bytes_max + 1 {
                    batch.skip_part(len);
                    self.searched = batch.begin;
                }
                return false;
            }
        };
        if end > batch.begin && batch.text[end - 1] == b'\r' {
            end -= 1;
        }
        if batch.is_skipping() {
            batch.skip_end(end, next, self.too_long());
            self.searched = batch.begin;
            return true;
        }
        self.searched = from;
        if end - batch.begin > self.row_bytes_max {
            if !batch.fits_alone() {
                return false;
            }
            batch.bad_alone(end, next, self.too_long());
            return true;
        }
        if !batch.fits(next) {
            return false;
        }
        let row = &batch.text[batch.begin..end];
        if row.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
            batch.pass(next);
            return true;
        }
        if self.spans.capacity() == 0 {
            self.spans.reserve(self.spans_before + self.spans_before / 8);
        }
        let fields = self.spans.len();
        let checked = match find::not_utf8(row) {
            Some(at) => Err(batch.no_character(at)),
            None => self
                .checker
                .row(row, batch.begin, &mut self.spans)
                .map_err(|problem| format!("{} at byte {} of the row", problem.what, problem.at)),
        };
        match checked {
            Ok(()) => batch.good(end, next, fields),
            Err(problem) => {
                self.spans.truncate(fields);
                batch.bad(end, next, problem);
            }
        }
        true
    }

    fn too_long(&self) -> String {
        format!("the row is longer than the limit of {} bytes (row_bytes_max)", self.row_bytes_max)
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.spans.capacity() * size_of::<FieldSpan>()
    }

    /// The row being read begins elsewhere now.
    pub(crate) fn restart(&mut self) {
        self.searched = 0;
    }

    /// The table of the batch that is handed out.
    pub(crate) fn take_layout(&mut self) -> Layout {
        let mut spans = mem::take(&mut self.spans);
        self.spans_before = spans.len();
        shrink(&mut spans);
        Layout::Json(spans)
    }
}
