//! Rows of one line each: where a line ends, whatever is in it. Lines end with `\n` or `\r\n`.

use memchr::memchr;

use crate::{Limits, batch::Growing};

#[derive(Debug)]
pub(crate) struct Lines {
    row_bytes_max: usize,
    /// How far the row being read was searched for its end.
    searched: usize,
}

/// What was found.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Framed {
    /// It needs more bytes, or the batch has to be handed out first.
    NotYet,
    /// A line over the limit; it is a bad row by now.
    TooLong,
    /// A line that ends before `end`; what follows begins at `next`.
    Line { end: usize, next: usize },
}

impl Lines {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { row_bytes_max: limits.row_bytes_max(), searched: 0 }
    }

    /// Frames the line that the batch begins to read.
    pub(crate) fn next(&mut self, batch: &mut Growing, last: bool) -> Framed {
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
                return Framed::NotYet;
            }
        };
        if end > batch.begin && batch.text[end - 1] == b'\r' {
            end -= 1;
        }
        self.searched = from;
        if batch.is_skipping() {
            batch.skip_end(end, next, self.too_long());
            self.searched = batch.begin;
            return Framed::TooLong;
        }
        if end - batch.begin > self.row_bytes_max {
            if !batch.fits_alone() {
                return Framed::NotYet;
            }
            batch.bad_alone(end, next, self.too_long());
            return Framed::TooLong;
        }
        if batch.fits(next) { Framed::Line { end, next } } else { Framed::NotYet }
    }

    /// The row being read begins elsewhere now.
    pub(crate) fn restart(&mut self) {
        self.searched = 0;
    }

    fn too_long(&self) -> String {
        format!("the row is longer than the limit of {} bytes (row_bytes_max)", self.row_bytes_max)
    }
}
