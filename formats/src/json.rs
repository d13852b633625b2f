//! JSON text in bytes: a row is checked whole, once, and walked over without checks afterwards.
//!
//! Own code, because no crate gives all of: the places of the fields, errors with their place in the row, and a limit of
//! nesting, in one pass without recursion. What [`Checker`] accepts is RFC 8259, less escapes that are no character
//! (a lone surrogate): such text could be stored nowhere.

use std::borrow::Cow;

use crate::{Field, field::Step, find};

/// What is wrong with a row, and where in it (0-based).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) at: usize,
    pub(crate) what: Cow<'static, str>,
}

impl Problem {
    fn new(at: usize, what: impl Into<Cow<'static, str>>) -> Self {
        Self { at, what: what.into() }
    }
}

/// Marks a place whose text holds escapes.
const ESCAPED: u32 = 1 << 31;

/// Where a top-level field lies in its batch's text. Places fit, because a batch stays below 2 GiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FieldSpan {
    name_start: u32,
    name_end: u32,
    value_start: u32,
    value_end: u32,
}

impl FieldSpan {
    fn name_range(self) -> std::ops::Range<usize> {
        self.name_start as usize..(self.name_end & !ESCAPED) as usize
    }

    /// The name, unescaped.
    pub(crate) fn name(self, text: &str) -> Cow<'_, str> {
        let raw = slice(text, self.name_range());
        if self.name_end & ESCAPED == 0 { Cow::Borrowed(raw) } else { Cow::Owned(unescape(raw)) }
    }

    /// Whether the field has this name.
    pub(crate) fn is_named(self, text: &str, name: &str) -> bool {
        let range = self.name_range();
        if self.name_end & ESCAPED == 0 {
            range.len() == name.len() && text.as_bytes().get(range) == Some(name.as_bytes())
        } else {
            unescape(slice(text, range)) == name
        }
    }

    /// The value as it stands.
    pub(crate) fn raw_value(self, text: &str) -> &str {
        slice(text, self.value_start as usize..(self.value_end & !ESCAPED) as usize)
    }

    /// The value.
    pub(crate) fn value(self, text: &str) -> Field<'_> {
        read_value(self.raw_value(text), self.value_end & ESCAPED != 0)
    }
}

fn slice(text: &str, range: std::ops::Range<usize>) -> &str {
    text.get(range).expect("spans were taken from this text at ASCII bytes")
}

/// Checks rows. Holds the stack that a recursive descent would have.
#[derive(Debug)]
pub(crate) struct Checker {
    nesting_max: usize,
    /// For each open container, whether it is an object.
    open: Vec<bool>,
}

impl Checker {
    pub(crate) fn new(nesting_max: usize) -> Self {
        Self { nesting_max, open: Vec::new() }
    }

    /// Checks a row whole: one object, nothing after it. `spans` gets its top-level fields; `base` is where the row
    /// begins in its batch's text.
    pub(crate) fn row(&mut self, row: &[u8], base: usize, spans: &mut Vec<FieldSpan>) -> Result<(), Problem> {
        let place = |at: usize| u32::try_from(base + at).expect("a batch stays below 2 GiB");
        let mut at = skip_space(row, 0);
        if row.get(at) != Some(&b'{') {
            return Err(Problem::new(at, format!("a row must be a JSON object, not {}", kind(row.get(at)))));
        }
        at = skip_space(row, at + 1);
        if row.get(at) == Some(&b'}') {
            return nothing_more(row, at + 1);
        }
        loop {
            let (name, name_escaped, start) = name(row, at)?;
            let (end, escaped) = match row.get(start) {
                Some(b'{' | b'[') => (self.container(row, start, 1)?, false),
                _ => scalar(row, start)?,
            };
            spans.push(FieldSpan {
                name_start: place(at + 1),
                name_end: place(name) | if name_escaped { ESCAPED } else { 0 },
                value_start: place(start),
                value_end: place(end) | if escaped { ESCAPED } else { 0 },
            });
            at = skip_space(row, end);
            match row.get(at) {
                Some(b',') => at = skip_space(row, at + 1),
                Some(b'}') => return nothing_more(row, at + 1),
                _ => return Err(unexpected(row, at, "',' or '}'")),
            }
        }
    }

    /// Checks an object or an array, nothing after it.
    pub(crate) fn nested(&mut self, text: &[u8]) -> Result<(), Problem> {
        let at = skip_space(text, 0);
        if !matches!(text.get(at), Some(b'{' | b'[')) {
            return Err(Problem::new(at, format!("a JSON object or array, not {}", kind(text.get(at)))));
        }
        let end = self.container(text, at, 0)?;
        nothing_more(text, end)
    }

    /// The end of the object or array that begins at `at`, `above` levels deep.
    fn container(&mut self, text: &[u8], mut at: usize, above: usize) -> Result<usize, Problem> {
        self.open.clear();
        loop {
            // A value begins here.
            let value = at;
            at = match text.get(at) {
                Some(&bracket @ (b'{' | b'[')) => {
                    if self.open.len() + above >= self.nesting_max {
                        let problem = format!("nested deeper than the limit of {} levels", self.nesting_max);
                        return Err(Problem::new(at, problem));
                    }
                    self.open.push(bracket == b'{');
                    skip_space(text, at + 1)
                }
                _ => skip_space(text, scalar(text, at)?.0),
            };
            let mut is_first = matches!(text[value], b'{' | b'[');
            // After an opening bracket or a value: brackets close until another value begins.
            loop {
                let Some(&in_object) = self.open.last() else { return Ok(at) };
                match (text.get(at), in_object) {
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.open.pop();
                        at += 1;
                        if !self.open.is_empty() {
                            at = skip_space(text, at);
                        }
                        is_first = false;
                        continue;
                    }
                    _ if is_first => {}
                    (Some(b','), _) => at = skip_space(text, at + 1),
                    (_, true) => return Err(unexpected(text, at, "',' or '}'")),
                    (_, false) => return Err(unexpected(text, at, "',' or ']'")),
                }
                if in_object {
                    at = name(text, at)?.2;
                }
                break;
            }
        }
    }
}

#[inline]
fn skip_space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
        at += 1;
    }
    at
}

fn nothing_more(text: &[u8], at: usize) -> Result<(), Problem> {
    let at = skip_space(text, at);
    if at < text.len() { Err(unexpected(text, at, "nothing after the row's object")) } else { Ok(()) }
}

/// The name of a field that begins at `at`: where its closing quote is, whether it holds escapes, and where the value
/// begins.
#[inline(always)]
fn name(text: &[u8], at: usize) -> Result<(usize, bool, usize), Problem> {
    if text.get(at) != Some(&b'"') {
        return Err(unexpected(text, at, "a field's name in quotes"));
    }
    let (end, escaped) = string(text, at)?;
    let colon = skip_space(text, end + 1);
    if text.get(colon) != Some(&b':') {
        return Err(unexpected(text, colon, "':' after a field's name"));
    }
    Ok((end, escaped, skip_space(text, colon + 1)))
}

/// The end of the text, number or word that begins at `at`, and whether it is a text with escapes.
#[inline(always)]
fn scalar(text: &[u8], at: usize) -> Result<(usize, bool), Problem> {
    match text.get(at) {
        Some(b'"') => string(text, at).map(|(end, escaped)| (end + 1, escaped)),
        Some(b'-' | b'0'..=b'9') => number(text, at).map(|end| (end, false)),
        Some(b't') => literal(text, at, b"true"),
        Some(b'f') => literal(text, at, b"false"),
        Some(b'n') => literal(text, at, b"null"),
        _ => Err(unexpected(text, at, "a value")),
    }
}

fn kind(byte: Option<&u8>) -> &'static str {
    match byte {
        None => "nothing",
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "text",
        Some(b'-' | b'0'..=b'9') => "a number",
        Some(b't' | b'f') => "true or false",
        Some(b'n') => "null",
        Some(_) => "something else",
    }
}

#[cold]
fn unexpected(text: &[u8], at: usize, wanted: &str) -> Problem {
    let found = match text.get(at..).and_then(|rest| rest.utf8_chunks().next()) {
        None => return Problem::new(at, "the row ends in the middle of its JSON"),
        Some(chunk) => chunk.valid().chars().next().map_or("no character".to_owned(), |found| format!("{found:?}")),
    };
    Problem::new(at, format!("expected {wanted}, found {found}"))
}

/// The end of the string whose opening quote is at `at`: where its closing quote is, and whether it holds escapes.
#[inline(always)]
fn string(text: &[u8], at: usize) -> Result<(usize, bool), Problem> {
    let end = find::end_of_plain_text(text, at + 1);
    if text.get(end) == Some(&b'"') { Ok((end, false)) } else { string_with_escapes(text, at, end) }
}

/// Goes on at the first byte that is no plain text.
fn string_with_escapes(text: &[u8], opening: usize, mut at: usize) -> Result<(usize, bool), Problem> {
    loop {
        match text.get(at) {
            Some(b'"') => return Ok((at, true)),
            Some(b'\\') => at = find::end_of_plain_text(text, escape(text, at)?),
            Some(control) => {
                return Err(Problem::new(at, format!("control character {control:#04x} in a text must be escaped")));
            }
            None => return Err(Problem::new(opening, "a text without its closing quote begins")),
        }
    }
}

/// The end of the escape that begins at `at`.
fn escape(text: &[u8], at: usize) -> Result<usize, Problem> {
    match text.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') => match code_unit(text, at)? {
            0xd800..=0xdbff => match code_unit(text, at + 6) {
                Ok(0xdc00..=0xdfff) => Ok(at + 12),
                _ => Err(Problem::new(at, "half of a surrogate pair is no character")),
            },
            0xdc00..=0xdfff => Err(Problem::new(at, "half of a surrogate pair is no character")),
            _ => Ok(at + 6),
        },
        _ => Err(Problem::new(at, "unknown escape in a text")),
    }
}

/// The value of `\uXXXX` at `at`.
fn code_unit(text: &[u8], at: usize) -> Result<u16, Problem> {
    let digits = match text.get(at..at + 6) {
        Some([b'\\', b'u', digits @ ..]) if digits.iter().all(u8::is_ascii_hexdigit) => digits,
        _ => return Err(Problem::new(at, "\\u needs four hexadecimal digits")),
    };
    Ok(digits.iter().fold(0, |value, &digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            _ => (digit | 0x20) - b'a' + 10,
        };
        value << 4 | u16::from(digit)
    }))
}

fn literal(text: &[u8], at: usize, word: &[u8]) -> Result<(usize, bool), Problem> {
    if text.get(at..).is_some_and(|rest| rest.starts_with(word)) {
        Ok((at + word.len(), false))
    } else {
        Err(unexpected(text, at, "a value"))
    }
}

/// The end of the number that begins at `at`.
fn number(text: &[u8], mut at: usize) -> Result<usize, Problem> {
    let digits = |mut at: usize, what: &'static str| {
        let from = at;
        while matches!(text.get(at), Some(b'0'..=b'9')) {
            at += 1;
        }
        if at == from { Err(unexpected(text, at, what)) } else { Ok(at) }
    };
    if text.get(at) == Some(&b'-') {
        at += 1;
    }
    let leading_zero = text.get(at) == Some(&b'0');
    let whole = at;
    at = digits(at, "a digit after '-'")?;
    if leading_zero && at > whole + 1 {
        return Err(Problem::new(whole, "a number with a leading zero"));
    }
    if text.get(at) == Some(&b'.') {
        at = digits(at + 1, "a digit after the decimal point")?;
    }
    if matches!(text.get(at), Some(b'e' | b'E')) {
        at += 1;
        if matches!(text.get(at), Some(b'+' | b'-')) {
            at += 1;
        }
        at = digits(at, "a digit in the exponent")?;
    }
    Ok(at)
}

/// Whether the text is exactly one JSON number.
pub(crate) fn is_number(text: &str) -> bool {
    number(text.as_bytes(), 0).is_ok_and(|end| end == text.len())
}

/// Appends a text as a JSON string.
pub(crate) fn write_text(text: &str, into: &mut Vec<u8>) {
    serde_json::to_writer(into, text).expect("text always has a JSON form and a Vec takes every byte");
}

/// A checked string's content without escapes.
fn unescape(raw: &str) -> String {
    serde_json::from_str(&format!("\"{raw}\"")).expect("the row was checked")
}

fn read_value(raw: &str, escaped: bool) -> Field<'_> {
    match raw.as_bytes().first() {
        Some(b'"') => {
            let inner = slice(raw, 1..raw.len() - 1);
            Field::Text(if escaped { Cow::Owned(unescape(inner)) } else { Cow::Borrowed(inner) })
        }
        Some(b'{' | b'[') => Field::Nested(raw.as_bytes()),
        Some(b't') => Field::Bool(true),
        Some(b'f') => Field::Bool(false),
        Some(b'n') => Field::Null,
        _ => Field::Number(raw),
    }
}

/// Goes down from a checked value.
pub(crate) fn walk<'a>(mut raw: &'a str, steps: &[Step]) -> Field<'a> {
    for step in steps {
        match descend(raw, step) {
            Some(inner) => raw = inner,
            None => return Field::Missing,
        }
    }
    read_value(raw, raw.starts_with('"') && memchr::memchr(b'\\', raw.as_bytes()).is_some())
}

fn descend<'a>(raw: &'a str, step: &Step) -> Option<&'a str> {
    let bytes = raw.as_bytes();
    let mut at = skip_space(bytes, 1);
    match (bytes.first()?, step) {
        (b'{', Step::Name(wanted)) => {
            while bytes[at] == b'"' {
                let (end, escaped) = skip_string(bytes, at);
                let name = slice(raw, at + 1..end - 1);
                let found = if escaped { unescape(name) == **wanted } else { name == &**wanted };
                let start = skip_space(bytes, skip_space(bytes, end) + 1);
                let stop = skip_value(bytes, start);
                if found {
                    return Some(slice(raw, start..stop));
                }
                at = next_item(bytes, stop);
            }
            None
        }
        (b'[', Step::Index(wanted)) => {
            let mut index = 0;
            while bytes[at] != b']' {
                let stop = skip_value(bytes, at);
                if index == *wanted {
                    return Some(slice(raw, at..stop));
                }
                index += 1;
                at = next_item(bytes, stop);
            }
            None
        }
        _ => None,
    }
}

/// After a checked value: where the next name or element begins, or the closing bracket.
fn next_item(bytes: &[u8], at: usize) -> usize {
    let at = skip_space(bytes, at);
    if bytes[at] == b',' { skip_space(bytes, at + 1) } else { at }
}

/// The end (after the quote) of a checked string, and whether it holds escapes.
fn skip_string(bytes: &[u8], at: usize) -> (usize, bool) {
    let mut at = at + 1;
    let mut escaped = false;
    loop {
        at = find::end_of_plain_text(bytes, at);
        if bytes[at] == b'"' {
            return (at + 1, escaped);
        }
        escaped = true;
        at += 2;
    }
}

/// The end of a checked value.
fn skip_value(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0_usize;
    loop {
        match bytes[at] {
            b'"' => at = skip_string(bytes, at).0,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth -= 1;
                at += 1;
            }
            _ if depth > 0 => {
                at += 1;
                continue;
            }
            _ => {
                while bytes
                    .get(at)
                    .is_some_and(|byte| !matches!(byte, b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n'))
                {
                    at += 1;
                }
            }
        }
        if depth == 0 {
            return at;
        }
    }
}
