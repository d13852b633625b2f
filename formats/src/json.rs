//! JSON text in bytes: a row is checked whole, once, and walked over without checks afterwards.
//!
//! Own code, because no crate gives all of: the places of the fields, errors with their place in the row, and a limit of
//! nesting, in one pass without recursion. What [`Checker`] accepts is RFC 8259, less escapes that are no character
//! (a lone surrogate): such text could be stored nowhere.

use std::{borrow::Cow, iter};

use crate::{
    Field,
    field::Step,
    find::{self, Word},
};

/// What is wrong with a row, and where in it (0-based).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) at: usize,
    pub(crate) what: Cow<'static, str>,
    pub(crate) kind: Kind,
}

/// How far the harm of a problem goes, for those who read on after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It is no JSON: where the value ends cannot be known.
    Grammar,
    /// It is JSON, but no row.
    Unusable,
    /// The text ends too early; with more of it all may be well.
    Incomplete,
}

impl Problem {
    fn new(at: usize, what: impl Into<Cow<'static, str>>) -> Self {
        Self { at, what: what.into(), kind: Kind::Grammar }
    }

    fn unusable(at: usize, what: impl Into<Cow<'static, str>>) -> Self {
        Self { kind: Kind::Unusable, ..Self::new(at, what) }
    }

    /// `complete` says whether more text cannot heal it.
    fn unless(self, complete: bool) -> Self {
        if complete { self } else { Self { kind: Kind::Incomplete, ..self } }
    }
}

/// Fields of a row whose names are remembered.
const NAMED_MAX: usize = 256;
/// How much of the stack of open containers is kept from row to row.
const OPEN_KEPT: usize = 4 << 10;
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
    #[inline]
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

/// What is between two values, and where the field's name is in it.
#[derive(Debug)]
struct Named {
    text: Word,
    place: NamePlace,
}

/// Where a field's name is, counted from where the value before ends.
#[derive(Debug, Clone, Copy)]
struct NamePlace {
    /// Up to where the value may begin.
    length: u32,
    name_start: u32,
    name_end: u32,
}

/// What stands where a name may be.
enum Before {
    Value(NamePlace),
    /// The object's end, and what is behind it.
    End(usize),
}

/// Checks rows. Holds the stack that a recursive descent would have.
#[derive(Debug)]
pub(crate) struct Checker {
    nesting_max: usize,
    fields_max: usize,
    /// For each open container, whether it is an object.
    open: Vec<bool>,
    /// For each field of a row, how it was named when one stood at its place last.
    named: Vec<Named>,
    /// The first thing in a row for which it is JSON, but no row. The rest is checked all the same.
    unusable: Option<Problem>,
}

impl Checker {
    pub(crate) fn new(nesting_max: usize, fields_max: usize) -> Self {
        Self { nesting_max, fields_max: fields_max.max(1), open: Vec::new(), named: Vec::new(), unusable: None }
    }

    /// Checks a row whole: one object, nothing after it. `spans` gets its top-level fields; `base` is where the row
    /// begins in its batch's text.
    pub(crate) fn row(&mut self, row: &[u8], base: usize, spans: &mut Vec<FieldSpan>) -> Result<(), Problem> {
        let at = skip_space(row, 0);
        if row.get(at) != Some(&b'{') {
            return Err(no_object(row, at));
        }
        self.unusable = None;
        let checked = self.fields(row, at, base, spans).and_then(|end| nothing_more(row, end));
        match self.unusable.take() {
            Some(first) => Err(first),
            None => checked,
        }
    }

    /// Checks the element of an array that begins at `at`, and returns where it ends and why it is no row, if it is none.
    pub(crate) fn element(
        &mut self,
        text: &[u8],
        at: usize,
        base: usize,
        spans: &mut Vec<FieldSpan>,
    ) -> Result<(usize, Option<Problem>), Problem> {
        self.unusable = None;
        let end = match text.get(at) {
            Some(b'{') => self.fields(text, at, base, spans)?,
            Some(b'[') => self.container(text, at, 0)?,
            _ => scalar(text, at, &mut self.unusable)?.0,
        };
        if text[at] != b'{' {
            self.unusable = Some(no_object(text, at));
        }
        Ok((end, self.unusable.take()))
    }

    /// Checks the object that begins at `at`, and returns where it ends.
    ///
    /// Rows of a file mostly have the same fields in the same order, so what is before a value is compared with what
    /// was there in the row before, and read only where it differs.
    fn fields(&mut self, row: &[u8], at: usize, base: usize, spans: &mut Vec<FieldSpan>) -> Result<usize, Problem> {
        let place = |at: usize| u32::try_from(base + at).expect("a batch stays below 2 GiB");
        let spans_max = spans.len().saturating_add(self.fields_max);
        // The bracket, then each time where the value before ends.
        let mut from = at;
        for nth in 0.. {
            let named = match self.named.get(nth) {
                Some(named) if named.text.begins(row, from) => named.place,
                _ => match self.read_name(row, from, nth)? {
                    Before::Value(named) => named,
                    Before::End(end) => return Ok(end),
                },
            };
            let start = skip_space(row, from + named.length as usize);
            let (end, escaped) = match row.get(start) {
                Some(b'{' | b'[') => (self.container(row, start, 1)?, 0),
                _ => scalar(row, start, &mut self.unusable)?,
            };
            if spans.len() >= spans_max {
                let problem = format!("there are more fields than the limit of {} (columns_max)", self.fields_max);
                let at = from + named.name_start as usize - 1;
                self.unusable.get_or_insert_with(|| Problem::unusable(at, problem));
                spans.pop();
            }
            spans.push(FieldSpan {
                name_start: place(from) + named.name_start,
                name_end: place(from) + named.name_end,
                value_start: place(start),
                value_end: place(end) | escaped,
            });
            from = end;
        }
        unreachable!("a row ends")
    }

    /// Reads what is between two values, or before the first one at the bracket, or after the last one.
    fn read_name(&mut self, row: &[u8], from: usize, nth: usize) -> Result<Before, Problem> {
        let mut at = skip_space(row, from);
        if nth == 0 {
            at = skip_space(row, at + 1);
            if row.get(at) == Some(&b'}') {
                return Ok(Before::End(at + 1));
            }
        } else {
            match row.get(at) {
                Some(b',') => at = skip_space(row, at + 1),
                Some(b'}') => return Ok(Before::End(at + 1)),
                _ => return Err(unexpected(row, at, "',' or '}'")),
            }
        }
        let (name, escaped, start) = name(row, at, &mut self.unusable)?;
        let far = |at: usize| u32::try_from(at - from).expect("a batch stays below 2 GiB");
        let place = NamePlace { length: far(start), name_start: far(at + 1), name_end: far(name) | escaped };
        // What makes a name unusable must be found again in the next row.
        let text = if escaped != 0 { Word::NEVER } else { Word::new(&row[from..start]) };
        if let Some(before) = self.named.get_mut(nth) {
            *before = Named { text, place };
        } else if nth == self.named.len() && nth < NAMED_MAX {
            self.named.push(Named { text, place });
        }
        Ok(Before::Value(place))
    }

    /// Checks an object or an array, nothing after it.
    pub(crate) fn nested(&mut self, text: &[u8]) -> Result<(), Problem> {
        let at = skip_space(text, 0);
        if !matches!(text.get(at), Some(b'{' | b'[')) {
            return Err(Problem::new(at, format!("a JSON object or array, not {}", kind(text.get(at)))));
        }
        self.unusable = None;
        let checked = self.container(text, at, 0).and_then(|end| nothing_more(text, end));
        match self.unusable.take() {
            Some(first) => Err(first),
            None => checked,
        }
    }

    /// The end of the object or array that begins at `at`, `above` levels deep.
    fn container(&mut self, text: &[u8], mut at: usize, above: usize) -> Result<usize, Problem> {
        if self.open.capacity() > OPEN_KEPT {
            self.open = Vec::new();
        }
        self.open.clear();
        loop {
            // A value begins here.
            let value = at;
            at = match text.get(at) {
                Some(&bracket @ (b'{' | b'[')) => {
                    if self.open.len() + above >= self.nesting_max {
                        let problem = format!("nested deeper than the limit of {} levels", self.nesting_max);
                        self.unusable.get_or_insert_with(|| Problem::unusable(at, problem));
                    }
                    self.open.push(bracket == b'{');
                    skip_space(text, at + 1)
                }
                _ => skip_space(text, scalar(text, at, &mut self.unusable)?.0),
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
                    at = name(text, at, &mut self.unusable)?.2;
                }
                break;
            }
        }
    }
}

/// What stands at `at` is no row.
pub(crate) fn no_object(text: &[u8], at: usize) -> Problem {
    let rest = text.get(at..).unwrap_or_default();
    // By its first letter alone, "not json" would be null.
    let is_word = |word: &str| rest.starts_with(word.as_bytes());
    let is_json = match rest.first() {
        Some(b't' | b'f' | b'n') => ["true", "false", "null"].into_iter().any(is_word),
        Some(b'{' | b'[' | b'"' | b'-' | b'0'..=b'9') | None => true,
        Some(_) => false,
    };
    let found = if is_json { kind(rest.first()) } else { "text that is no JSON" };
    Problem::unusable(at, format!("a row must be a JSON object, not {found}"))
}

#[inline]
pub(crate) fn skip_space(text: &[u8], mut at: usize) -> usize {
    while matches!(text.get(at), Some(b' ' | b'\t' | b'\r' | b'\n')) {
        at += 1;
    }
    at
}

fn nothing_more(text: &[u8], at: usize) -> Result<(), Problem> {
    let at = skip_space(text, at);
    if at < text.len() { Err(unexpected(text, at, "nothing after the row's object")) } else { Ok(()) }
}

/// The name of a field that begins at `at`: where its closing quote is, [`ESCAPED`] if it holds escapes, else 0, and where the value
/// begins.
#[inline(always)]
fn name(text: &[u8], at: usize, unusable: &mut Option<Problem>) -> Result<(usize, u32, usize), Problem> {
    if text.get(at) != Some(&b'"') {
        return Err(unexpected(text, at, "a field's name in quotes"));
    }
    let (end, escaped) = string(text, at, unusable)?;
    let colon = skip_space(text, end + 1);
    if text.get(colon) != Some(&b':') {
        return Err(unexpected(text, colon, "':' after a field's name"));
    }
    Ok((end, escaped, skip_space(text, colon + 1)))
}

/// The end of the text, number or word that begins at `at`, and [`ESCAPED`] if it is a text with escapes, else 0: as a mark and
/// not as a bool, which would be read back wider than it was written and be waited for.
#[inline(always)]
fn scalar(text: &[u8], at: usize, unusable: &mut Option<Problem>) -> Result<(usize, u32), Problem> {
    match text.get(at) {
        Some(b'"') => string(text, at, unusable).map(|(end, escaped)| (end + 1, escaped)),
        Some(b'-' | b'0'..=b'9') => number(text, at).map(|end| (end, 0)),
        Some(b't') => literal(text, at, b"true"),
        Some(b'f') => literal(text, at, b"false"),
        Some(b'n') => literal(text, at, b"null"),
        _ => Err(unexpected(text, at, "a value")),
    }
}

pub(crate) fn kind(byte: Option<&u8>) -> &'static str {
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
pub(crate) fn unexpected(text: &[u8], at: usize, wanted: &str) -> Problem {
    let rest = text.get(at..).unwrap_or_default();
    let Some(chunk) = rest.utf8_chunks().next() else {
        return Problem::new(at, "the row ends in the middle of its JSON").unless(false);
    };
    match chunk.valid().chars().next() {
        Some(found) => Problem::new(at, format!("expected {wanted}, found {found:?}")),
        None => {
            // A character of which the rest may come.
            let is_part =
                str::from_utf8(rest).is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none());
            Problem::new(at, format!("expected {wanted}, found no character")).unless(!is_part)
        }
    }
}

/// The end of the string whose opening quote is at `at`: where its closing quote is, and [`ESCAPED`] if it holds escapes, else 0.
#[inline(always)]
fn string(text: &[u8], at: usize, unusable: &mut Option<Problem>) -> Result<(usize, u32), Problem> {
    let end = find::end_of_plain_text(text, at + 1);
    if text.get(end) == Some(&b'"') { Ok((end, 0)) } else { string_with_escapes(text, at, end, unusable) }
}

/// Goes on at the first byte that is no plain text.
fn string_with_escapes(
    text: &[u8],
    opening: usize,
    mut at: usize,
    unusable: &mut Option<Problem>,
) -> Result<(usize, u32), Problem> {
    loop {
        match text.get(at) {
            Some(b'"') => return Ok((at, ESCAPED)),
            Some(b'\\') => at = find::end_of_plain_text(text, escape(text, at, unusable)?),
            Some(control) => {
                return Err(Problem::new(at, format!("control character {control:#04x} in a text must be escaped")));
            }
            None => return Err(Problem::new(opening, "a text without its closing quote begins").unless(false)),
        }
    }
}

/// The end of the escape that begins at `at`.
fn escape(text: &[u8], at: usize, unusable: &mut Option<Problem>) -> Result<usize, Problem> {
    match text.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') => {
            let first = code_unit(text, at)?;
            // What follows the first half is judged by itself if it is no second half.
            let is_pair = matches!(first, 0xd800..=0xdbff) && matches!(code_unit(text, at + 6), Ok(0xdc00..=0xdfff));
            if matches!(first, 0xd800..=0xdfff) && !is_pair {
                let half = || Problem::unusable(at, "half of a surrogate pair is no character");
                unusable.get_or_insert_with(half);
            }
            Ok(at + if is_pair { 12 } else { 6 })
        }
        None => Err(Problem::new(at, "unknown escape in a text").unless(false)),
        Some(_) => Err(Problem::new(at, "unknown escape in a text")),
    }
}

/// The value of `\uXXXX` at `at`.
fn code_unit(text: &[u8], at: usize) -> Result<u16, Problem> {
    let digits = match text.get(at..at + 6) {
        Some([b'\\', b'u', digits @ ..]) if digits.iter().all(u8::is_ascii_hexdigit) => digits,
        _ => {
            let rest = text.get(at..).unwrap_or_default();
            let begins = |(at, byte): (usize, &u8)| match at {
                0 => *byte == b'\\',
                1 => *byte == b'u',
                _ => byte.is_ascii_hexdigit(),
            };
            let complete = rest.len() >= 6 || !rest.iter().enumerate().all(begins);
            return Err(Problem::new(at, "\\u needs four hexadecimal digits").unless(complete));
        }
    };
    Ok(digits.iter().fold(0, |value, &digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            _ => (digit | 0x20) - b'a' + 10,
        };
        value << 4 | u16::from(digit)
    }))
}

fn literal(text: &[u8], at: usize, word: &[u8]) -> Result<(usize, u32), Problem> {
    let rest = text.get(at..).unwrap_or_default();
    if rest.starts_with(word) {
        Ok((at + word.len(), 0))
    } else {
        Err(unexpected(text, at, "a value").unless(!word.starts_with(rest)))
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
    // Mostly there is nothing to escape.
    if find::end_of_plain_text(text.as_bytes(), 0) == text.len() {
        into.reserve(text.len() + 2);
        into.push(b'"');
        into.extend_from_slice(text.as_bytes());
        into.push(b'"');
        return;
    }
    serde_json::to_writer(into, text).expect("text always has a JSON form and a Vec takes every byte");
}

/// Checked JSON without line breaks, which are only ever space between its tokens.
pub(crate) fn one_line(json: &str) -> Cow<'_, str> {
    if memchr::memchr2(b'\n', b'\r', json.as_bytes()).is_none() {
        return Cow::Borrowed(json);
    }
    let mut lines = json.split(['\n', '\r']);
    let mut line = lines.next().unwrap_or_default().to_owned();
    // Whoever breaks lines indents them too.
    lines.for_each(|next| line.push_str(next.trim_ascii_start()));
    Cow::Owned(line)
}

/// Members of a checked object: names and raw values, a repeated name each time.
pub(crate) fn members(object: &str) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    let bytes = object.as_bytes();
    let mut at = skip_space(bytes, 1);
    iter::from_fn(move || {
        if bytes[at] != b'"' {
            return None;
        }
        let (end, escaped) = skip_string(bytes, at);
        let name = slice(object, at + 1..end - 1);
        let start = skip_space(bytes, skip_space(bytes, end) + 1);
        let stop = skip_value(bytes, start);
        at = next_item(bytes, stop);
        let name = if escaped { Cow::Owned(unescape(name)) } else { Cow::Borrowed(name) };
        Some((name, slice(object, start..stop)))
    })
}

/// Elements of a checked array, raw.
pub(crate) fn elements(array: &str) -> impl Iterator<Item = &str> {
    let bytes = array.as_bytes();
    let mut at = skip_space(bytes, 1);
    iter::from_fn(move || {
        if bytes[at] == b']' {
            return None;
        }
        let stop = skip_value(bytes, at);
        let element = slice(array, at..stop);
        at = next_item(bytes, stop);
        Some(element)
    })
}

/// A checked value.
pub(crate) fn value(raw: &str) -> Field<'_> {
    read_value(raw, raw.starts_with('"') && memchr::memchr(b'\\', raw.as_bytes()).is_some())
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
        Some(b'{' | b'[') => Field::Nested(Cow::Borrowed(raw.as_bytes())),
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
    value(raw)
}

fn descend<'a>(raw: &'a str, step: &Step) -> Option<&'a str> {
    match (raw.as_bytes().first()?, step) {
        (b'{', Step::Name(wanted)) => members(raw).find_map(|(name, value)| (*name == **wanted).then_some(value)),
        (b'[', Step::Index(wanted)) => elements(raw).nth(*wanted),
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
