//! An XML document: the elements that are rows, within those that are not.
//!
//! What is not well-formed ends the file at that byte; the rows before it stand. A row that is well-formed but too long, too
//! deep or too wide is a bad row. Text and attributes around the rows are checked and passed over.

use waybill_contracts::Reason;

use super::{
    scanner::{Fault, Scanner, Token},
    table::Collector,
};
use crate::{Charset, Limits, batch::Growing, decoder::Broken, row::Layout};

#[derive(Debug)]
pub(crate) struct XmlDocument {
    /// The local name of rows; `None`: they are the children of the document's element.
    row: Option<Vec<u8>>,
    row_bytes_max: usize,
    scanner: Scanner,
    collector: Collector,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    InRow,
    /// The row ends here, from where it begins, and was not added yet.
    Complete(usize),
}

impl XmlDocument {
    pub(crate) fn new(row: Option<String>, limits: &Limits) -> Self {
        Self {
            row: row.map(String::into_bytes),
            row_bytes_max: limits.row_bytes_max(),
            scanner: Scanner::new(limits.row_bytes_max()),
            collector: Collector::new(limits),
            state: State::Between,
        }
    }

    /// The declaration has to agree with this.
    pub(crate) fn is_in(&mut self, charset: Charset) {
        self.scanner.is_in(charset);
    }

    /// Reads on to the end of a row. `false`: it needs more bytes, or the batch has to be handed out first.
    ///
    /// # Errors
    /// What is not well-formed.
    pub(crate) fn next_row(&mut self, batch: &mut Growing, last: bool) -> Result<bool, Broken> {
        loop {
            if let State::Complete(end) = self.state {
                return Ok(self.add(batch, end));
            }
            let text = &batch.text[batch.begin..];
            let token = match self.scanner.token(text, last) {
                Ok(token) => token,
                Err(fault) => return Err(broken(fault, batch.begin)),
            };
            if self.state == State::InRow {
                if let Token::More = token {
                    if batch.is_skipping() || text.len() > self.row_bytes_max {
                        self.scanner.at -= batch.skip_part(batch.begin + self.scanner.at);
                    }
                    return Ok(false);
                }
                let end = if batch.is_skipping() {
                    self.collector.end_of_skipped(&self.scanner, token)
                } else {
                    self.collector.token(text, &self.scanner, token)
                };
                if let Some(end) = end {
                    self.state = State::Complete(end);
                }
                continue;
            }
            match token {
                Token::Open { start, end } | Token::Empty { start, end }
                    if self.is_row(text, matches!(token, Token::Empty { .. })) =>
                {
                    let empty = matches!(token, Token::Empty { .. });
                    self.collector.begin(text, &self.scanner, start, end, empty);
                    batch.pass(batch.begin + start);
                    self.scanner.at -= start;
                    self.state = State::InRow;
                    self.scanner.in_row = !empty;
                    if empty {
                        self.collector.end_empty();
                        self.state = State::Complete(end - start);
                    }
                }
                Token::More | Token::End => {
                    batch.pass(batch.begin + self.scanner.at);
                    self.scanner.at = 0;
                    return Ok(false);
                }
                _ => {}
            }
        }
    }

    /// Whether the tag that was read begins a row.
    fn is_row(&self, text: &[u8], empty: bool) -> bool {
        match &self.row {
            Some(name) => self.scanner.name().local(text) == name.as_slice(),
            None => self.scanner.depth() + usize::from(empty) == 2,
        }
    }

    /// Adds the row that ended. `false`: it does not fit.
    fn add(&mut self, batch: &mut Growing, end: usize) -> bool {
        let too_long = || format!("the row is longer than the limit of {} bytes (row_bytes_max)", self.row_bytes_max);
        let next = batch.begin + end;
        if batch.is_skipping() {
            batch.skip_end(next, next, too_long());
            // What was skipped is gone.
            self.scanner.at = 0;
        } else if end > self.row_bytes_max {
            if !batch.fits_alone() {
                return false;
            }
            batch.bad_alone(next, next, too_long());
            self.scanner.at -= end;
        } else if !batch.fits(next) {
            return false;
        } else {
            match self.collector.problem() {
                Some(problem) => batch.bad(next, next, problem.to_owned()),
                None => batch.good(next, next, self.collector.keep()),
            }
            self.scanner.at -= end;
        }
        self.state = State::Between;
        self.scanner.in_row = false;
        true
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.scanner.held() + self.collector.held()
    }

    /// The table of the batch that is handed out.
    pub(crate) fn take_layout(&mut self) -> Layout {
        Layout::Xml(self.collector.take())
    }
}

fn broken(fault: Fault, begin: usize) -> Broken {
    let reason = if fault.cut { Reason::TruncatedFile } else { Reason::MalformedFile };
    Broken { at: Some(begin + fault.at), reason, problem: fault.what.to_string() }
}
