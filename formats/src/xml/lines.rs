//! XML lines: one element per line, each a document of its own. Blank lines are no rows, and neither is a first line that
//! is nothing but an XML declaration. A line that is not well-formed is a bad row.

use super::{
    scanner::{Scanner, Token},
    table::Collector,
};
use crate::{
    Charset, Limits,
    batch::Growing,
    lines::{Framed, Lines},
    row::Layout,
};

#[derive(Debug)]
pub(crate) struct XmlLines {
    lines: Lines,
    scanner: Scanner,
    collector: Collector,
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
            lines: Lines::new(limits),
            scanner: Scanner::new(limits.row_bytes_max()),
            collector: Collector::new(limits),
            is_first: true,
        }
    }

    /// The declaration has to agree with this.
    pub(crate) fn is_in(&mut self, charset: Charset) {
        self.scanner.is_in(charset);
    }

    /// Begins after the first line of a file in this charset.
    pub(crate) fn goes_on(&mut self, charset: Charset, known_from_outside: bool) {
        self.is_first = false;
        if !known_from_outside {
            self.is_in(charset);
        }
    }

    /// Frames one line. `false`: it needs more bytes, or the batch has to be handed out first.
    pub(crate) fn next_row(&mut self, batch: &mut Growing, last: bool) -> bool {
        match self.lines.next(batch, last) {
            Framed::NotYet => return false,
            Framed::TooLong => {}
            Framed::Line { end, next } => match self.line(&batch.text[batch.begin..end]) {
                Line::Nothing => batch.pass(next),
                Line::Row => batch.good(end, next, self.collector.keep()),
                Line::Bad(problem) => batch.bad(end, next, problem),
            },
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
        self.lines.restart();
    }

    /// The table of the batch that is handed out.
    pub(crate) fn take_layout(&mut self) -> Layout {
        Layout::Xml(self.collector.take())
    }
}
