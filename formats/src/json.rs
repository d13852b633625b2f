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

#[derive(Clone, Copy)]
enum Expect {
    Name,
    NameOrEnd,
    Value,
    ValueOrEnd,
    CommaOrEnd,
}

impl Checker {
    pub(crate) fn new(nesting_max: usize) -> Self {
        Self { nesting_max, open: Vec::new() }
    }

    /// Checks a row whole: one object, nothing after it. `spans` gets its top-level fields; `base` is where the row
    /// begins in its batch's text.
    pub(crate) fn row(&mut self, row: &[u8], base: usize, spans: &mut Vec<FieldSpan>) -> Result<(), Problem> {
        let at = skip_space(row, 0);
        if row.get(at) != Some(&b'{') {
            return Err(Problem::new(at, format!("a row must be a JSON object, not {}", kind(row.get(at)))));
        }
        self.container(row, at, |name, value, escaped| {
            let place = |at: usize| u32::try_from(base + at).expect("a batch stays below 2 GiB");
            spans.push(FieldSpan {
                name_start: place(name.start),
                name_end: place(name.end) | if name.escaped { ESCAPED } else { 0 },
                value_start: place(value.start),
                value_end: place(value.end) | if escaped { ESCAPED } else { 0 },
            });
        })
    }

    /// Checks an object or an array.
    pub(crate) fn nested(&mut self, text: &[u8]) -> Result<(), Problem> {
        let at = skip_space(text, 0);
        if !matches!(text.get(at), Some(b'{' | b'[')) {
            return Err(Problem::new(at, format!("a JSON object or array, not {}", kind(text.get(at)))));
        }
        self.container(text, at, |_, _, _| {})
    }

    fn container(
        &mut self,
        text: &[u8],
        mut at: usize,
        mut field: impl FnMut(Name, std::ops::Range<usize>, bool),
    ) -> Result<(), Problem> {
        self.open.clear();
        let mut name = Name { start: 0, end: 0, escaped: false };
        let mut nested_start = 0;
        // Where each container opens, `nested_start` is remembered for the top level only.
        let is_object = text.get(at) == Some(&b'{');
        self.enter(at, is_object)?;
        at += 1;
        let mut expect = if is_object { Expect::NameOrEnd } else { Expect::ValueOrEnd };
        loop {
            at = skip_space(text, at);
            let Some(&byte) = text.get(at) else {
                return Err(Problem::new(at, "the row ends in the middle of its JSON"));
            };
            let in_object = *self.open.last().expect("the loop ends with the last container");
            let closes = match (expect, byte) {
                (Expect::NameOrEnd, b'}') | (Expect::ValueOrEnd, b']') => true,
                (Expect::CommaOrEnd, b'}') => in_object,
                (Expect::CommaOrEnd, b']') => !in_object,
                _ => false,
            };
            if closes {
                at += 1;
                self.open.pop();
                match self.open.len() {
                    0 => break,
                    1 if self.open[0] => field(name, nested_start..at, false),
                    _ => {}
                }
                expect = Expect::CommaOrEnd;
                continue;
            }
            match expect {
                Expect::Name | Expect::NameOrEnd => {
                    if byte != b'"' {
                        return Err(unexpected(text, at, "a field's name in quotes"));
                    }
                    let (end, escaped) = string(text, at)?;
                    if self.open.len() == 1 {
                        name = Name { start: at + 1, end, escaped };
                    }
                    at = skip_space(text, end + 1);
                    if text.get(at) != Some(&b':') {
                        return Err(unexpected(text, at, "':' after a field's name"));
                    }
                    at += 1;
                    expect = Expect::Value;
                }
                Expect::Value | Expect::ValueOrEnd => {
                    let start = at;
                    let mut has_escapes = false;
                    at = match byte {
                        b'"' => {
                            let (end, escaped) = string(text, at)?;
                            has_escapes = escaped;
                            end + 1
                        }
                        b'-' | b'0'..=b'9' => number(text, at)?,
                        b't' => literal(text, at, b"true")?,
                        b'f' => literal(text, at, b"false")?,
                        b'n' => literal(text, at, b"null")?,
                        b'{' | b'[' => {
                            if self.open.len() == 1 {
                                nested_start = at;
                            }
                            self.enter(at, byte == b'{')?;
                            expect = if byte == b'{' { Expect::NameOrEnd } else { Expect::ValueOrEnd };
                            at += 1;
                            continue;
                        }
                        _ => return Err(unexpected(text, at, "a value")),
                    };
                    if in_object && self.open.len() == 1 {
                        field(name, start..at, has_escapes);
                    }
                    expect = Expect::CommaOrEnd;
                }
                Expect::CommaOrEnd => {
                    if byte != b',' {
                        let wanted = if in_object { "',' or '}'" } else { "',' or ']'" };
                        return Err(unexpected(text, at, wanted));
                    }
                    at += 1;
                    expect = if in_object { Expect::Name } else { Expect::Value };
                }
            }
        }
        at = skip_space(text, at);
        if at < text.len() { Err(unexpected(text, at, "nothing after the row's object")) } else { Ok(()) }
    }

    fn enter(&mut self, at: usize, is_object: bool) -> Result<(), Problem> {
        if self.open.len() >= self.nesting_max {
            return Err(Problem::new(at, format!("nested deeper than the limit of {} levels", self.nesting_max)));
        }
        self.open.push(is_object);
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Name {
    start: usize,
    end: usize,
    escaped: bool,
}

fn skip_space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
        at += 1;
    }
    at
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

fn unexpected(text: &[u8], at: usize, wanted: &str) -> Problem {
    let found = match text.get(at..).and_then(|rest| rest.utf8_chunks().next()) {
        None => "the end".to_owned(),
        Some(chunk) => chunk.valid().chars().next().map_or("no character".to_owned(), |found| format!("{found:?}")),
    };
    Problem::new(at, format!("expected {wanted}, found {found}"))
}

/// The end of the string whose opening quote is at `at`: where its closing quote is, and whether it holds escapes.
fn string(text: &[u8], at: usize) -> Result<(usize, bool), Problem> {
    let opening = at;
    let mut at = at + 1;
    let mut escaped = false;
    loop {
        at = find::end_of_plain_text(text, at);
        match text.get(at) {
            Some(b'"') => return Ok((at, escaped)),
            Some(b'\\') => {
                escaped = true;
                at = escape(text, at)?;
            }
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

fn literal(text: &[u8], at: usize, word: &[u8]) -> Result<usize, Problem> {
    if text.get(at..).is_some_and(|rest| rest.starts_with(word)) {
        Ok(at + word.len())
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
