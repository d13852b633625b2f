//! CSV as RFC 4180 has it, framed on raw bytes, because null (bare) and "" (quoted) differ and no crate tells them apart.
//!
//! - Lines end with `\n` or `\r\n`. Within quotes a line break is text, and a doubled quote is a quote.
//! - A quote within a field that does not begin with one is text. Text after a closing quote makes a bad row; that row
//!   ends at the next line break outside quotes.
//! - A blank line is no row. In a file of one column it is one: its field is null, and has no other form.
//! - A file that ends within quotes is cut off or lacks a quote somewhere, which cannot be told from here: reading ends
//!   with an error. So does a row over the limit that holds a line break within quotes: it may be many rows.

use std::{borrow::Cow, collections::HashMap, mem, str, sync::Arc};

use memchr::memchr;
use waybill_contracts::Reason;

use crate::{
    Field, Limits,
    batch::{Growing, shrink},
    decoder::Broken,
    find, json,
    row::Layout,
};

/// Marks the end of a field in quotes that holds doubled quotes.
const DOUBLED: u32 = 1 << 31;

/// The columns of a file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    names: Vec<Column>,
    /// For many columns; few are compared.
    positions: HashMap<Box<str>, usize>,
}

#[derive(Debug, PartialEq, Eq)]
struct Column {
    name: Box<str>,
    /// As a JSON string with a colon.
    json: Box<[u8]>,
}

impl Columns {
    const FEW: usize = 32;

    /// Checks the names: at least one, each distinct and not empty.
    pub(crate) fn new(names: impl IntoIterator<Item = impl Into<Box<str>>>) -> Result<Self, String> {
        let mut columns = Self { names: Vec::new(), positions: HashMap::new() };
        for (index, name) in names.into_iter().enumerate() {
            let name = name.into();
            if name.is_empty() {
                return Err(format!("column {} has no name", index + 1));
            }
            if let Some(first) = columns.positions.insert(name.clone(), index) {
                return Err(format!("columns {} and {} are both named {name:?}", first + 1, index + 1));
            }
            let mut json = Vec::new();
            json::write_text(&name, &mut json);
            json.push(b':');
            columns.names.push(Column { name, json: json.into() });
        }
        if columns.names.is_empty() { Err("there is no column".to_owned()) } else { Ok(columns) }
    }

    pub(crate) fn len(&self) -> usize {
        self.names.len()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(|column| &*column.name)
    }

    /// Where a name stands; `hint` is looked at first.
    pub(crate) fn position(&self, name: &str, hint: usize) -> Option<usize> {
        let is = |column: &Column| *column.name == *name;
        if self.names.get(hint).is_some_and(is) {
            Some(hint)
        } else if self.names.len() <= Self::FEW {
            self.names.iter().position(is)
        } else {
            self.positions.get(name).copied()
        }
    }
}

/// Where a field ends, counted from the row's `start`, and whether its quotes are marked.
pub(crate) fn end_place(end: u32, start: u32) -> (u32, bool) {
    ((end & !DOUBLED) - start, end & DOUBLED != 0)
}

/// The end whose [`end_place`] this is.
pub(crate) fn end_of_place((place, is_marked): (u32, bool), start: u32) -> u32 {
    (start + place) | if is_marked { DOUBLED } else { 0 }
}

/// Reads field `index` of a row that begins at `start`.
pub(crate) fn cell<'a>(text: &'a str, start: usize, ends: &[u32], index: usize) -> Field<'a> {
    let end_of = |index: usize| (ends[index] & !DOUBLED) as usize;
    let from = if index == 0 { start } else { end_of(index - 1) + 1 };
    let raw = text.get(from..end_of(index)).expect("fields begin and end at ASCII bytes");
    match raw.as_bytes().first() {
        None => Field::Null,
        Some(b'"') => {
            let inner = raw.get(1..raw.len() - 1).expect("a checked field has both of its quotes");
            Field::Text(if ends[index] & DOUBLED == 0 {
                Cow::Borrowed(inner)
            } else {
                Cow::Owned(inner.replace("\"\"", "\""))
            })
        }
        Some(_) => Field::Text(Cow::Borrowed(raw)),
    }
}

/// Appends a row as a JSON object.
pub(crate) fn write_json(text: &str, columns: &Columns, start: usize, ends: &[u32], into: &mut Vec<u8>) {
    into.push(b'{');
    for (index, column) in columns.names.iter().enumerate() {
        if index > 0 {
            into.push(b',');
        }
        into.extend_from_slice(&column.json);
        match cell(text, start, ends, index) {
            Field::Text(text) => json::write_text(&text, into),
            _ => into.extend_from_slice(b"null"),
        }
    }
    into.push(b'}');
}

/// What we write between fields.
pub(crate) const COMMA: u8 = b',';

/// Appends the header row.
pub(crate) fn write_header(columns: &[String], into: &mut Vec<u8>) {
    for (index, name) in columns.iter().enumerate() {
        if index > 0 {
            into.push(COMMA);
        }
        // Bare, it would be taken for the byte order mark.
        if name.starts_with('\u{feff}') { write_quoted(name, into) } else { write_text(name, into) }
    }
    into.push(b'\n');
}

/// Appends a text as a field. Quoted where it has to be; "" always is, because a bare empty field is null.
pub(crate) fn write_text(text: &str, into: &mut Vec<u8>) {
    if text.is_empty() || text.bytes().any(|byte| matches!(byte, COMMA | b'"' | b'\r' | b'\n')) {
        write_quoted(text, into);
    } else {
        into.extend_from_slice(text.as_bytes());
    }
}

fn write_quoted(text: &str, into: &mut Vec<u8>) {
    into.push(b'"');
    for (index, part) in text.split('"').enumerate() {
        if index > 0 {
            into.extend_from_slice(b"\"\"");
        }
        into.extend_from_slice(part.as_bytes());
    }
    into.push(b'"');
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    FieldStart,
    /// In a field that does not begin with a quote, or in what follows a closing quote by mistake.
    Bare,
    Quoted,
    /// After a quote within quotes: the field's end, or the first of two.
    Quote,
}

#[derive(Debug)]
pub(crate) struct Csv {
    delimiter: u8,
    row_bytes_max: usize,
    columns_max: usize,
    /// `None` until the header was read.
    columns: Option<Arc<Columns>>,
    /// Where the fields of the batch's rows end in the text.
    ends: Vec<u32>,
    ends_before: usize,
    /// Where the fields of the row being read begin in `ends`.
    row_ends: usize,
    // The row being read:
    state: State,
    /// How far it was read.
    at: usize,
    /// Its fields so far.
    fields: usize,
    /// Whether the field being read holds doubled quotes.
    doubled: bool,
    /// Where text follows a closing quote.
    stray: Option<usize>,
}

/// What the end of the scanned bytes was.
enum Scan {
    Row { end: usize, next: usize },
    More,
}

impl Csv {
    /// # Errors
    /// When the declared columns or the delimiter cannot be used.
    pub(crate) fn new(columns: Option<Vec<String>>, delimiter: u8, limits: &Limits) -> Result<Self, Broken> {
        if !delimiter.is_ascii() || matches!(delimiter, b'"' | b'\r' | b'\n') {
            return Err(malformed(format!(
                "{:?} cannot delimit fields; declare another delimiter",
                char::from(delimiter)
            )));
        }
        let columns = match columns {
            Some(names) => {
                let columns =
                    Columns::new(names).map_err(|problem| malformed(format!("in the declared columns {problem}")))?;
                Some(Arc::new(columns))
            }
            None => None,
        };
        Ok(Self {
            delimiter,
            row_bytes_max: limits.row_bytes_max(),
            columns_max: limits.columns_max,
            columns,
            ends: Vec::new(),
            ends_before: 0,
            row_ends: 0,
            state: State::FieldStart,
            at: 0,
            fields: 0,
            doubled: false,
            stray: None,
        })
    }

    /// Begins after the header row, if the columns are not declared.
    pub(crate) fn goes_on(&mut self, columns: Option<Arc<Columns>>) {
        self.columns = self.columns.take().or(columns);
    }

    /// Once they are known.
    pub(crate) fn columns(&self) -> Option<Arc<Columns>> {
        self.columns.clone()
    }

    /// Frames one row. `false`: it needs more bytes, or the batch has to be handed out first.
    ///
    /// # Errors
    /// When the file cannot be read on.
    pub(crate) fn next_row(&mut self, batch: &mut Growing, last: bool) -> Result<bool, Broken> {
        self.at = self.at.max(batch.begin);
        if last && batch.begin == batch.text.len() && !batch.is_skipping() {
            return match self.columns {
                Some(_) => Ok(false),
                None => Err(malformed("there is no header row; a file without rows has one too".to_owned())),
            };
        }
        let scan = self.scan(&batch.text, last);
        let (stop, over) = match scan {
            Scan::Row { end, .. } => (end, end - batch.begin > self.row_bytes_max),
            // One more, because the last byte may be the `\r` of the line end.
            Scan::More => (self.at, batch.text.len() - batch.begin > self.row_bytes_max + 1),
        };
        let is_long = batch.is_skipping() || over;
        if is_long {
            self.check_long(&batch.text[batch.begin..stop])?;
        }
        let Scan::Row { end, next } = scan else {
            if last {
                let problem = "the file ends within quotes; it was cut off, or this row or one after it lacks a quote";
                return Err(Broken::at_row(Reason::TruncatedFile, problem));
            }
            if is_long {
                self.at -= batch.skip_part(self.at);
            }
            return Ok(false);
        };
        if batch.is_skipping() {
            batch.skip_end(end, next, self.too_long());
            self.begin_row(batch.begin);
            return Ok(true);
        }
        if is_long {
            if !batch.fits_alone() {
                return Ok(false);
            }
            batch.bad_alone(end, next, self.too_long());
            self.begin_row(next);
            return Ok(true);
        }
        let is_blank = end == batch.begin;
        let Some(columns) = &self.columns else {
            if !is_blank {
                self.columns = Some(Arc::new(self.header(&batch.text, batch.begin, end)?));
            }
            batch.pass(next);
            self.begin_row(next);
            return Ok(true);
        };
        if is_blank && columns.len() > 1 {
            batch.pass(next);
        } else if !batch.fits(next) {
            return Ok(false);
        } else if let Some(problem) = self.problem(batch.begin, columns.len()).or_else(|| {
            let at = batch.not_utf8(end)?;
            Some(batch.no_character(at))
        }) {
            batch.bad(end, next, problem);
        } else {
            let row_ends = self.row_ends;
            self.row_ends = self.ends.len();
            batch.good(end, next, row_ends);
        }
        self.begin_row(next);
        Ok(true)
    }

    /// Reads on to the row's end, or to the end of the bytes.
    fn scan(&mut self, text: &[u8], last: bool) -> Scan {
        let end_of_bytes = |state| {
            if last && state != State::Quoted { Some((text.len(), text.len())) } else { None }
        };
        loop {
            let row_end = match self.state {
                State::FieldStart => match text.get(self.at) {
                    Some(b'"') => {
                        self.at += 1;
                        self.state = State::Quoted;
                        continue;
                    }
                    Some(_) => {
                        self.state = State::Bare;
                        continue;
                    }
                    None => end_of_bytes(self.state),
                },
                State::Bare => {
                    self.at = find::either(text, self.at, self.delimiter, b'\n');
                    match text.get(self.at) {
                        Some(&byte) if byte == self.delimiter => {
                            self.end_field(self.at);
                            continue;
                        }
                        Some(_) => Some((self.at, self.at + 1)),
                        None => end_of_bytes(self.state),
                    }
                }
                State::Quoted => {
                    self.at = find::either(text, self.at, b'"', b'"');
                    if self.at < text.len() {
                        self.at += 1;
                        self.state = State::Quote;
                        continue;
                    }
                    None
                }
                State::Quote => match text.get(self.at) {
                    Some(b'"') => {
                        self.at += 1;
                        self.doubled = true;
                        self.state = State::Quoted;
                        continue;
                    }
                    Some(&byte) if byte == self.delimiter => {
                        self.end_field(self.at);
                        continue;
                    }
                    Some(b'\n') => Some((self.at, self.at + 1)),
                    Some(b'\r') if text.get(self.at + 1) == Some(&b'\n') => Some((self.at + 1, self.at + 2)),
                    Some(b'\r') if text.len() == self.at + 1 => end_of_bytes(self.state),
                    Some(_) => {
                        self.stray.get_or_insert(self.at);
                        self.state = State::Bare;
                        continue;
                    }
                    None => end_of_bytes(self.state),
                },
            };
            let Some((mut end, next)) = row_end else { return Scan::More };
            if end > 0 && text[end - 1] == b'\r' {
                end -= 1;
            }
            self.end_field(end);
            return Scan::Row { end, next };
        }
    }

    fn end_field(&mut self, end: usize) {
        let kept = self.columns.as_ref().map_or(self.columns_max, |columns| columns.len());
        if self.fields < kept {
            let end = u32::try_from(end).expect("a batch stays below 2 GiB");
            self.ends.push(end | if self.doubled { DOUBLED } else { 0 });
        }
        self.fields += 1;
        self.at += 1;
        self.state = State::FieldStart;
        self.doubled = false;
    }

    fn begin_row(&mut self, at: usize) {
        self.ends.truncate(self.row_ends);
        if self.ends.capacity() == 0 {
            self.ends.reserve(self.ends_before + self.ends_before / 8);
        }
        self.at = at;
        self.state = State::FieldStart;
        self.fields = 0;
        self.doubled = false;
        self.stray = None;
    }

    /// What is wrong with the row's fields.
    fn problem(&self, begin: usize, columns: usize) -> Option<String> {
        if let Some(stray) = self.stray {
            return Some(format!(
                "text after a closing quote at byte {} of the row; a quote within quotes is written twice",
                stray - begin
            ));
        }
        if self.fields != columns {
            let (s, verb) = if self.fields == 1 { ("", "is") } else { ("s", "are") };
            return Some(format!("there {verb} {} field{s} where the file has {columns} columns", self.fields));
        }
        None
    }

    fn header(&self, text: &[u8], begin: usize, end: usize) -> Result<Columns, Broken> {
        let in_header = |problem: String| malformed(format!("in the header row {problem}; fix the producer"));
        if let Some(stray) = self.stray {
            return Err(in_header(format!("text follows a closing quote at byte {}", stray - begin)));
        }
        if self.fields > self.columns_max {
            let problem = format!("there are {} columns, over the limit of {}", self.fields, self.columns_max);
            return Err(in_header(problem));
        }
        let Ok(text) = str::from_utf8(&text[..end]) else {
            return Err(in_header("there are bytes that are no text".to_owned()));
        };
        let mut from = begin;
        for end in &self.ends[self.row_ends..] {
            let to = (end & !DOUBLED) as usize;
            let name = &text.as_bytes()[from..to];
            // Within quotes it is text.
            if !name.starts_with(b"\"") && memchr(b'\r', name).is_some() {
                return Err(in_header("there is \\r without \\n (lines must end with \\n or \\r\\n)".to_owned()));
            }
            from = to + 1;
        }
        let names = (0..self.fields).map(|index| match cell(text, begin, &self.ends[self.row_ends..], index) {
            Field::Text(name) => name.into_owned(),
            _ => String::new(),
        });
        Columns::new(names).map_err(in_header)
    }

    /// A row over the limit is skipped to its end, but only if its end is certain.
    fn check_long(&self, row: &[u8]) -> Result<(), Broken> {
        if self.columns.is_none() {
            return Err(malformed(format!("the header row is longer than the limit of {} bytes", self.row_bytes_max)));
        }
        match memchr(b'\n', row) {
            None => Ok(()),
            Some(_) => Err(malformed(format!(
                "the row is longer than the limit of {} bytes (row_bytes_max) and holds a line break within quotes, so that it \
                 may be many rows: if a quote is missing, fix the producer, else raise the limit",
                self.row_bytes_max
            ))),
        }
    }

    fn too_long(&self) -> String {
        format!("the row is longer than the limit of {} bytes (row_bytes_max)", self.row_bytes_max)
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.ends.capacity() * size_of::<u32>()
    }

    /// The row being read begins elsewhere now: it is read again, but a row that is skipped goes on.
    pub(crate) fn restart(&mut self, batch: &Growing) {
        if batch.is_skipping() {
            self.at = batch.begin;
        } else {
            self.begin_row(batch.begin);
        }
    }

    /// The table of the batch that is handed out.
    pub(crate) fn take_layout(&mut self) -> Layout {
        let mut ends = mem::take(&mut self.ends);
        ends.truncate(mem::take(&mut self.row_ends));
        self.ends_before = ends.len();
        shrink(&mut ends);
        let columns = self.columns.as_ref().expect("rows come after the header");
        Layout::Csv { columns: Arc::clone(columns), ends }
    }
}

fn malformed(problem: String) -> Broken {
    Broken::at_row(Reason::MalformedFile, problem)
}
