//! XML lines: one element per line, each a document of its own. Lines end with `\n` or `\r\n`; blank ones are no rows, and
//! neither is a first line that is nothing but an XML declaration. A line that is not well-formed is a bad row.

use memchr::memchr;

use super::{
    scanner::{Scanner, Token},
    table::Collector,
};
use crate::{Charset, Limits, batch::Growing, row::Layout};

#[derive(Debug)]
pub(crate) struct XmlLines {
    row_bytes_max: usize,
    scanner: Scanner,
    collector: Collector,
    /// How far the row being read was searched for its end.
    searched: usize,
    is_first: bool,
}

#[derive(Debug)]
enum Line {
    Row,
    Nothing,
    Bad(String),
}

impl XmlLines {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            row_bytes_max: limits.row_bytes_max(),
            scanner: Scanner::new(limits.row_bytes_max()),
            collector: Collector::new(limits),
            searched: 0,
            is_first: true,
        }
    }

    /// The declaration has to agree with this.
    pub(crate) fn is_in(&mut self, charset: Charset) {
        self.scanner.is_in(charset);
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
        self.searched = from;
        let too_long = || format!("the row is longer than the limit of {} bytes (row_bytes_max)", self.row_bytes_max);
        if batch.is_skipping() {
            batch.skip_end(end, next, too_long());
            self.searched = batch.begin;
        } else if end - batch.begin > self.row_bytes_max {
            if !batch.fits_alone() {
                return false;
            }
            batch.bad_alone(end, next, too_long());
        } else if !batch.fits(next) {
            return false;
        } else {
            match self.line(&batch.text[batch.begin..end]) {
                Line::Nothing => batch.pass(next),
                Line::Row => batch.good(end, next, self.collector.keep()),
                Line::Bad(problem) => batch.bad(end, next, problem),
            }
        }
        self.is_first = false;
        true
    }

    fn line(&mut self, line: &[u8]) -> Line {
        if line.iter().all(|&byte| super::is_space(byte)) {
            return Line::Nothing;
        }
        if !self.is_first {
            self.scanner.begin_again();
        }
        let mut in_row = false;
        let mut has_row = false;
        loop {
            let token = match self.scanner.token(line, true) {
                Ok(token) => token,
                Err(_) if self.is_first && !has_row && self.scanner.at == line.len() && line.starts_with(b"<?xml") => {
                    return Line::Nothing;
                }
                Err(fault) => return Line::Bad(format!("{} at byte {} of the row", fault.what, fault.at)),
            };
            match token {
                Token::End => break,
                Token::Open { end, .. } | Token::Empty { end, .. } if !in_row => {
                    let empty = matches!(token, Token::Empty { .. });
                    self.collector.begin(line, &self.scanner, 0, end, empty);
                    if empty {
                        self.collector.end_empty();
                    }
                    (in_row, has_row) = (!empty, true);
                    self.scanner.in_row = in_row;
                }
                token if in_row => in_row = self.collector.token(line, &self.scanner, token).is_none(),
                _ => {}
            }
        }
        match self.collector.problem() {
            Some(problem) => Line::Bad(problem.to_owned()),
            None => Line::Row,
        }
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.scanner.held() + self.collector.held()
    }

    /// The row being read begins elsewhere now.
    pub(crate) fn restart(&mut self) {
        self.searched = 0;
    }

    /// The table of the batch that is handed out.
    pub(crate) fn take_layout(&mut self) -> Layout {
        Layout::Xml(self.collector.take(self.scanner.xsi()))
    }
}
