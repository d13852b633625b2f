//! `application/json`: an array whose elements are the rows, or one object that is the only row. Read element by element.
//!
//! - An element that is JSON but no row is a bad row, and the file goes on: no object, nested too deep, too many fields,
//!   longer than a row may be, half a surrogate pair, bytes that are no UTF-8.
//! - What is no JSON ends the file at the byte where it stops to be JSON: after a lost quote or bracket, nothing tells where
//!   the next element begins. The rows before it stand.
//! - An array without elements is a file without rows.

use std::mem;

use waybill_contracts::Reason;

use crate::{
    Limits,
    batch::{Growing, shrink},
    decoder::Broken,
    find,
    json::{self, Checker, FieldSpan, Kind, Problem},
    row::Layout,
};

#[derive(Debug)]
pub(crate) struct JsonDocument {
    checker: Checker,
    row_bytes_max: usize,
    /// The fields of the batch's rows.
    spans: Vec<FieldSpan>,
    /// How many the batch before had.
    spans_before: usize,
    state: State,
    is_array: bool,
    /// Looks for the end of an element of which not all was there at first, or which is over the limit.
    skim: Option<Skim>,
}

/// Of UTF-8.
const CHARACTER_BYTES_MAX: usize = 4;
/// A word is shorter, and so are most numbers.
const WORD_BYTES: usize = 64;

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Start,
    /// An element or the array's end.
    First,
    /// An element.
    Element,
    /// A comma or the array's end.
    After,
    /// Nothing.
    End,
}

impl JsonDocument {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            checker: Checker::new(limits.nesting_max, limits.columns_max),
            row_bytes_max: limits.row_bytes_max(),
            spans: Vec::new(),
            spans_before: 0,
            state: State::Start,
            is_array: false,
            skim: None,
        }
    }

    /// Reads on to the end of an element. `false`: it needs more bytes, or the batch has to be handed out first.
    ///
    /// # Errors
    /// Where it is no JSON.
    pub(crate) fn next_row(&mut self, batch: &mut Growing, last: bool) -> Result<bool, Broken> {
        loop {
            if self.skim.is_some() {
                return self.element(batch, last);
            }
            let at = json::skip_space(&batch.text, batch.begin);
            batch.pass(at);
            let byte = batch.text.get(at).copied();
            if byte.is_none() && !(last && self.state != State::End) {
                return Ok(false);
            }
            self.state = match (self.state, byte) {
                (State::Start, Some(b'[')) => {
                    self.is_array = true;
                    batch.pass(at + 1);
                    State::First
                }
                (State::Start, Some(b'{')) => State::Element,
                (State::First | State::After, Some(b']')) => {
                    batch.pass(at + 1);
                    State::End
                }
                (State::After, Some(b',')) => {
                    batch.pass(at + 1);
                    State::Element
                }
                (State::First | State::Element, Some(byte)) if !matches!(byte, b',' | b']') => {
                    return self.element(batch, last);
                }
                // A character of which the rest may come.
                _ if !last && json::unexpected(&batch.text, at, "").kind == Kind::Incomplete => return Ok(false),
                (state, _) => return Err(self.unexpected(state, &batch.text, at)),
            };
        }
    }

    #[cold]
    fn unexpected(&self, state: State, text: &[u8], at: usize) -> Broken {
        let (reason, problem) = match (state, text.get(at)) {
            (State::Start, None) => {
                (Reason::MalformedFile, "the file is empty; an array without elements is []".to_owned())
            }
            (State::Start, byte) => {
                // What follows it may not be here yet, and "not json" is not null.
                let found = match byte {
                    Some(b't' | b'f' | b'n') => "a word",
                    byte => json::kind(byte),
                };
                (Reason::MalformedFile, format!("a JSON file must be an array of objects or one object, not {found}"))
            }
            (_, None) => (Reason::TruncatedFile, "the file ends within its array".to_owned()),
            (State::After, _) => (Reason::MalformedFile, json::unexpected(text, at, "',' or ']'").what.into_owned()),
            (State::End, _) if !self.is_array => {
                let found = json::unexpected(text, at, "nothing after the file's object").what;
                (Reason::MalformedFile, format!("{found}; objects line by line are application/x-jsonlines"))
            }
            (State::End, _) => {
                (Reason::MalformedFile, json::unexpected(text, at, "nothing after the file's array").what.into_owned())
            }
            (State::First | State::Element, _) => {
                (Reason::MalformedFile, json::unexpected(text, at, "a value").what.into_owned())
            }
        };
        Broken { at: Some(at), reason, problem }
    }

    /// Reads the element that begins where the row begins.
    fn element(&mut self, batch: &mut Growing, last: bool) -> Result<bool, Broken> {
        if self.skim.is_none() {
            match self.check(batch) {
                Ok(element) => return Ok(self.row(batch, element)),
                Err(problem) if problem.kind != Kind::Incomplete => return Err(no_json(problem)),
                Err(_) if self.is_short_word(batch) => return if last { Err(truncated(batch)) } else { Ok(false) },
                Err(_) => self.skim = Some(Skim::default()),
            }
        }
        let Some(skim) = &mut self.skim else { return Ok(false) };
        let begin = batch.begin;
        match skim.run(&batch.text[begin..]) {
            Skimmed::End => {
                let end = begin + skim.at;
                self.skim = None;
                if batch.is_skipping() {
                    batch.skip_end(end, end, self.too_long());
                    self.after_element();
                    return Ok(true);
                }
                match self.check(batch) {
                    Ok(element) => Ok(self.row(batch, element)),
                    Err(problem) if problem.kind != Kind::Incomplete => Err(no_json(problem)),
                    // Only its begin was looked at.
                    Err(_) if end - begin > self.row_bytes_max => {
                        Ok(self.row(batch, Element { end, problem: None, fields: self.spans.len() }))
                    }
                    // A character where a digit would have to be: its rest was not looked at, or may come.
                    Err(_) => match self.check_until(batch, end + CHARACTER_BYTES_MAX) {
                        Ok(element) => Ok(self.row(batch, element)),
                        Err(problem) if problem.kind != Kind::Incomplete => Err(no_json(problem)),
                        Err(_) if last => Err(truncated(batch)),
                        Err(_) => Ok(false),
                    },
                }
            }
            Skimmed::Broken(at, problem) => {
                if let Some(element) = self.whole(batch)? {
                    self.spans.truncate(element.fields);
                }
                Err(Broken { at: Some(begin + at), reason: Reason::MalformedFile, problem })
            }
            Skimmed::More => {
                let is_long = batch.is_skipping() || batch.text.len() - begin > self.row_bytes_max;
                let at = begin + skim.at;
                // By the characters alone a number may go on where it has ended: 1e5.0 is one, and then what is no JSON.
                if (is_long || last)
                    && let Some(element) = self.whole(batch)?
                {
                    self.skim = None;
                    return Ok(self.row(batch, element));
                }
                if last {
                    return Err(truncated(batch));
                }
                if is_long {
                    let dropped = batch.skip_part(at);
                    self.skim.iter_mut().for_each(|skim| skim.at -= dropped);
                }
                Ok(false)
            }
        }
    }

    /// Whether it is a number, true, false or null, whose end is not searched for: it is looked at again with every piece that
    /// comes, which costs nothing as long as it is short.
    fn is_short_word(&self, batch: &Growing) -> bool {
        let is_word = !matches!(batch.text.get(batch.begin), Some(b'{' | b'[' | b'"'));
        is_word && batch.text.len() - batch.begin <= self.row_bytes_max.min(WORD_BYTES)
    }

    /// Checks the element as far as a row may be long.
    fn check(&mut self, batch: &Growing) -> Result<Element, Problem> {
        self.check_until(batch, batch.begin + self.row_bytes_max + 1)
    }

    fn check_until(&mut self, batch: &Growing, window: usize) -> Result<Element, Problem> {
        let (begin, fields) = (batch.begin, self.spans.len());
        let window = batch.text.len().min(window);
        let text = &batch.text[..window];
        match self.checker.element(text, begin, 0, &mut self.spans) {
            // A number may go on.
            Ok((end, _)) if end == window && !matches!(text[end - 1], b'}' | b']' | b'"') => {
                self.spans.truncate(fields);
                Err(json::unexpected(text, end, "the element's end"))
            }
            Ok((end, problem)) => Ok(Element { end, problem, fields }),
            Err(problem) => {
                self.spans.truncate(fields);
                Err(problem)
            }
        }
    }

    /// The element, if it is all there. Reports what is no JSON in one that will not become complete, if that comes first.
    fn whole(&mut self, batch: &Growing) -> Result<Option<Element>, Broken> {
        if batch.is_skipping() {
            return Ok(None);
        }
        match self.check(batch) {
            Ok(element) => Ok(Some(element)),
            Err(problem) if problem.kind == Kind::Grammar => Err(no_json(problem)),
            Err(_) => Ok(None),
        }
    }

    /// Adds a row that is all there. `false`: it does not fit.
    fn row(&mut self, batch: &mut Growing, element: Element) -> bool {
        let Element { end, problem, fields } = element;
        let begin = batch.begin;
        let is_long = end - begin > self.row_bytes_max;
        if !(if is_long { batch.fits_alone() } else { batch.fits(end) }) {
            self.spans.truncate(fields);
            return false;
        }
        let problem = match (find::not_utf8(&batch.text[begin..end]), problem) {
            _ if is_long => Some(self.too_long()),
            (Some(at), _) => Some(batch.no_character(at)),
            (None, Some(problem)) => Some(format!("{} at byte {} of the row", problem.what, problem.at - begin)),
            (None, None) => None,
        };
        match problem {
            None => batch.good(end, end, fields),
            Some(problem) => {
                self.spans.truncate(fields);
                if is_long { batch.bad_alone(end, end, problem) } else { batch.bad(end, end, problem) }
            }
        }
        self.after_element();
        true
    }

    fn after_element(&mut self) {
        self.state = if self.is_array { State::After } else { State::End };
        if self.spans.capacity() == 0 {
            self.spans.reserve(self.spans_before + self.spans_before / 8);
        }
    }

    fn too_long(&self) -> String {
        format!("the row is longer than the limit of {} bytes (row_bytes_max)", self.row_bytes_max)
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.spans.capacity() * size_of::<FieldSpan>() + self.skim.as_ref().map_or(0, |skim| skim.open.capacity())
    }

    /// The table of the batch that is handed out.
    pub(crate) fn take_layout(&mut self) -> Layout {
        let mut spans = mem::take(&mut self.spans);
        self.spans_before = spans.len();
        shrink(&mut spans);
        Layout::Json(spans)
    }
}

/// An element that is all there.
#[derive(Debug)]
struct Element {
    end: usize,
    problem: Option<Problem>,
    /// Where its fields begin in the table.
    fields: usize,
}

fn truncated(batch: &Growing) -> Broken {
    let problem = "the file ends within this row".to_owned();
    Broken { at: Some(batch.text.len()), reason: Reason::TruncatedFile, problem }
}

fn no_json(problem: Problem) -> Broken {
    Broken { at: Some(problem.at), reason: Reason::MalformedFile, problem: problem.what.into_owned() }
}

/// Finds the end of an element by its quotes and brackets, piece by piece.
#[derive(Debug, Default)]
struct Skim {
    /// How far it came, from where the row begins.
    at: usize,
    in_text: bool,
    in_number: bool,
    /// For each open container, whether it is an object.
    open: Vec<bool>,
}

enum Skimmed {
    More,
    End,
    Broken(usize, String),
}

/// Levels beyond which the end of an element is not looked for.
const OPEN_MAX: usize = 1 << 20;

impl Skim {
    fn run(&mut self, row: &[u8]) -> Skimmed {
        loop {
            if self.in_text {
                self.at = find::end_of_plain_text(row, self.at);
                match row.get(self.at) {
                    Some(b'"') => self.in_text = false,
                    Some(b'\\') if self.at + 1 < row.len() => {
                        self.at += 2;
                        continue;
                    }
                    Some(b'\\') | None => return Skimmed::More,
                    Some(control) => {
                        let problem = format!(
                            "control character {control:#04x} in a text: a quote is missing in this row or before"
                        );
                        return Skimmed::Broken(self.at, problem);
                    }
                }
            } else {
                match row.get(self.at) {
                    None => return Skimmed::More,
                    Some(byte) if self.in_number && !matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E') => {
                        return Skimmed::End;
                    }
                    Some(b'"') => {
                        self.in_text = true;
                        self.at += 1;
                        continue;
                    }
                    Some(b'{' | b'[') if self.open.len() == OPEN_MAX => {
                        let problem = format!("nested deeper than {OPEN_MAX} levels, where its end is not looked for");
                        return Skimmed::Broken(self.at, problem);
                    }
                    Some(&bracket @ (b'{' | b'[')) => self.open.push(bracket == b'{'),
                    Some(&bracket @ (b'}' | b']')) if self.open.pop() != Some(bracket == b'}') => {
                        let problem = format!("{:?} closes what is not open", char::from(bracket));
                        return Skimmed::Broken(self.at, problem);
                    }
                    Some(b'}' | b']') => {}
                    Some(_) => {
                        self.in_number = self.open.is_empty();
                        self.at += 1;
                        continue;
                    }
                }
            }
            self.at += 1;
            // After a text or a bracket.
            if self.open.is_empty() && !self.in_text {
                return Skimmed::End;
            }
        }
    }
}
