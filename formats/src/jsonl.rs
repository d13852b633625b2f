//! JSON Lines: one object per line; blank lines are no rows.

use std::mem;

use crate::{
    Limits,
    batch::{Growing, shrink},
    json::{Checker, FieldSpan},
    lines::{Framed, Lines},
    row::Layout,
};

#[derive(Debug)]
pub(crate) struct JsonLines {
    lines: Lines,
    checker: Checker,
    /// The fields of the batch's rows.
    spans: Vec<FieldSpan>,
    /// How many the batch before had.
    spans_before: usize,
}

impl JsonLines {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            lines: Lines::new(limits),
            checker: Checker::new(limits.nesting_max, limits.columns_max),
            spans: Vec::new(),
            spans_before: 0,
        }
    }

    /// Frames one line. `false`: it needs more bytes, or the batch has to be handed out first.
    pub(crate) fn next_row(&mut self, batch: &mut Growing, last: bool) -> bool {
        let (end, next) = match self.lines.next(batch, last) {
            Framed::NotYet => return false,
            Framed::TooLong => return true,
            Framed::Line { end, next } => (end, next),
        };
        let (begin, not_utf8) = (batch.begin, batch.not_utf8(end));
        let row = &batch.text[begin..end];
        if row.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r')) {
            batch.pass(next);
            return true;
        }
        if self.spans.capacity() == 0 {
            self.spans.reserve(self.spans_before + self.spans_before / 8);
        }
        let fields = self.spans.len();
        let checked = match not_utf8 {
            Some(at) => Err(batch.no_character(at)),
            None => self
                .checker
                .row(row, begin, &mut self.spans)
                .map_err(|problem| format!("{} at byte {} of the row", problem.what, problem.at)),
        };
        match checked {
            Ok(()) => {
                if fields == 0 && self.spans_before == 0 {
                    // As many as what is there will have, if its rows are alike.
                    let rows = (batch.text.len() - begin) / (next - begin);
                    self.spans.reserve(self.spans.len() * rows.saturating_sub(1));
                }
                batch.good(end, next, fields);
            }
            Err(problem) => {
                self.spans.truncate(fields);
                batch.bad(end, next, problem);
            }
        }
        true
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.spans.capacity() * size_of::<FieldSpan>()
    }

    /// The row being read begins elsewhere now.
    pub(crate) fn restart(&mut self) {
        self.lines.restart();
    }

    /// The table of the batch that is handed out.
    pub(crate) fn take_layout(&mut self) -> Layout {
        let mut spans = mem::take(&mut self.spans);
        self.spans_before = spans.len();
        shrink(&mut spans);
        Layout::Json(spans)
    }
}
