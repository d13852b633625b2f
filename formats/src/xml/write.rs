//! Rows to XML, so that what is read back is what was given: the mapping of `docs/wire.md`, the other way round.
//!
//! What XML cannot carry is refused: control characters, names that are no names of elements, lists in lists.

use super::{
    XSI,
    names::{is_char, is_name},
    table::TEXT,
};
use crate::{Field, json};

/// How the text of a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Rows in one document, which declares what they need.
    Document,
    /// A line is a document.
    Lines,
}

/// Begins a document.
///
/// # Errors
/// When the name cannot be one.
pub(crate) fn begin(root: &str, into: &mut Vec<u8>) -> Result<(), String> {
    check_name(root)?;
    into.extend_from_slice(b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<");
    into.extend_from_slice(root.as_bytes());
    declare_xsi(into);
    into.extend_from_slice(b">\n");
    Ok(())
}

/// Ends it.
pub(crate) fn end(root: &str, into: &mut Vec<u8>) {
    end_tag(root, into);
    into.push(b'\n');
}

/// Whether an element can have this name.
///
/// # Errors
/// When it cannot.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if is_name(name) { Ok(()) } else { Err(format!("{name:?} is no name of an XML element; rename the field")) }
}

fn declare_xsi(into: &mut Vec<u8>) {
    into.extend_from_slice(b" xmlns:xsi=\"");
    into.extend_from_slice(XSI.as_bytes());
    into.push(b'"');
}

fn end_tag(name: &str, into: &mut Vec<u8>) {
    into.extend_from_slice(b"</");
    into.extend_from_slice(name.as_bytes());
    into.push(b'>');
}

/// Appends a row as an element. Nested values are JSON that was checked; names are distinct.
pub(crate) fn row(name: &str, fields: &[(&str, Field<'_>)], style: Style, into: &mut Vec<u8>) -> Result<(), String> {
    into.push(b'<');
    into.extend_from_slice(name.as_bytes());
    let may_be_null = |field: &Field<'_>| match field {
        Field::Null => true,
        Field::Nested(raw) => memchr::memmem::find(raw, b"null").is_some(),
        _ => false,
    };
    if style == Style::Lines && fields.iter().any(|(_, field)| may_be_null(field)) {
        declare_xsi(into);
    }
    let values = || fields.iter().map(|(name, field)| (*name, Value::of(field)));
    let written = content(name, values, style, into);
    written.map_err(|Refused { field, problem }| format!("field {field:?}: {problem}"))
}

/// What a field is to XML.
#[derive(Clone, Copy)]
enum Value<'v> {
    Missing,
    Null,
    Text(&'v str),
    /// Checked JSON of any kind.
    Json(&'v str),
}

impl<'v> Value<'v> {
    fn of(field: &'v Field<'_>) -> Self {
        match field {
            Field::Missing => Self::Missing,
            Field::Null => Self::Null,
            Field::Bool(value) => Self::Text(if *value { "true" } else { "false" }),
            Field::Number(text) => Self::Text(text),
            Field::Text(text) => Self::Text(text),
            Field::Nested(raw) => Self::Json(str::from_utf8(raw).unwrap_or_default()),
        }
    }
}

/// What cannot be written, and of which field.
struct Refused {
    field: String,
    problem: String,
}

/// Appends the rest of an element whose name was written: attributes, children and end tag.
fn content<'v, I: Iterator<Item = (&'v str, Value<'v>)>>(
    name: &str,
    values: impl Fn() -> I,
    style: Style,
    into: &mut Vec<u8>,
) -> Result<(), Refused> {
    let refused = |field: &str, problem: String| Refused { field: field.to_owned(), problem };
    for (field, value) in values() {
        let Some(attribute) = field.strip_prefix('@') else { continue };
        if matches!(value, Value::Missing | Value::Null) {
            continue;
        }
        check_name(attribute).map_err(|problem| refused(field, problem))?;
        into.push(b' ');
        into.extend_from_slice(attribute.as_bytes());
        into.extend_from_slice(b"=\"");
        scalar(value, Place::Attribute, into).map_err(|problem| refused(field, problem))?;
        into.push(b'"');
    }
    into.push(b'>');
    for (field, value) in values().filter(|(field, _)| !field.starts_with('@')) {
        let written = match value {
            Value::Missing => Ok(()),
            Value::Null if field == TEXT => Ok(()),
            _ if field == TEXT => scalar(value, Place::text(style), into),
            _ => check_name(field).and_then(|()| element(field, value, style, into)),
        };
        written.map_err(|problem| refused(field, problem))?;
    }
    end_tag(name, into);
    Ok(())
}

/// Appends an element, or one for each of a list.
fn element(name: &str, value: Value<'_>, style: Style, into: &mut Vec<u8>) -> Result<(), String> {
    let open = |into: &mut Vec<u8>| {
        into.push(b'<');
        into.extend_from_slice(name.as_bytes());
    };
    match value {
        Value::Missing => Ok(()),
        Value::Null => {
            open(into);
            into.extend_from_slice(b" xsi:nil=\"true\"/>");
            Ok(())
        }
        Value::Text(text) => {
            open(into);
            into.push(b'>');
            escape(text, Place::text(style), into)?;
            end_tag(name, into);
            Ok(())
        }
        Value::Json(raw) if raw.trim_ascii_start().starts_with('[') => json::elements(raw.trim_ascii_start())
            .try_for_each(|item| {
                if item.starts_with('[') {
                    return Err("XML cannot hold a list in a list; write JSON Lines".to_owned());
                }
                in_json(name, item, style, into)
            }),
        Value::Json(raw) => in_json(name, raw.trim_ascii_start(), style, into),
    }
}

/// Appends an element for a checked value that is no list. As deep as rows may be nested.
fn in_json(name: &str, raw: &str, style: Style, into: &mut Vec<u8>) -> Result<(), String> {
    if !raw.starts_with('{') {
        let field = json::value(raw);
        return element(name, Value::of(&field), style, into);
    }
    // Of a repeated name the first value counts.
    let mut members: Vec<(std::borrow::Cow<'_, str>, &str)> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for (member, value) in json::members(raw) {
        if seen.insert(member.clone()) {
            members.push((member, value));
        }
    }
    into.push(b'<');
    into.extend_from_slice(name.as_bytes());
    let values =
        || members.iter().map(|(member, raw)| (&**member, if *raw == "null" { Value::Null } else { Value::Json(raw) }));
    content(name, values, style, into).map_err(|Refused { field, problem }| format!("in it {field:?}: {problem}"))
}

fn scalar(value: Value<'_>, place: Place, into: &mut Vec<u8>) -> Result<(), String> {
    match value {
        Value::Missing | Value::Null => Ok(()),
        Value::Text(text) => escape(text, place, into),
        Value::Json(raw) => match json::value(raw.trim_ascii_start()) {
            Field::Nested(_) => Err("an object or array, which is no text; write JSON Lines".to_owned()),
            field => scalar(Value::of(&field), place, into),
        },
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Text,
    /// A line break would end the row.
    TextOfLine,
    Attribute,
}

impl Place {
    fn text(style: Style) -> Self {
        if style == Style::Lines { Self::TextOfLine } else { Self::Text }
    }
}

fn escape(text: &str, place: Place, into: &mut Vec<u8>) -> Result<(), String> {
    let mut rest = text.as_bytes();
    loop {
        let plain = rest
            .iter()
            .position(|&byte| byte < 0x20 || matches!(byte, b'<' | b'>' | b'&' | b'"' | 0xef))
            .unwrap_or(rest.len());
        into.extend_from_slice(&rest[..plain]);
        let Some((&special, after)) = rest[plain..].split_first() else { return Ok(()) };
        match (special, place) {
            (b'<', _) => into.extend_from_slice(b"&lt;"),
            (b'>', _) => into.extend_from_slice(b"&gt;"),
            (b'&', _) => into.extend_from_slice(b"&amp;"),
            (b'"', Place::Attribute) => into.extend_from_slice(b"&quot;"),
            (b'\r', _) => into.extend_from_slice(b"&#13;"),
            (b'\n', Place::Attribute | Place::TextOfLine) => into.extend_from_slice(b"&#10;"),
            (b'\t', Place::Attribute) => into.extend_from_slice(b"&#9;"),
            (b'"' | b'\n' | b'\t', _) => into.push(special),
            (0xef, _) => match after {
                // U+FFFE and U+FFFF.
                [0xbf, last @ (0xbe | 0xbf), ..] => return Err(unfit(0xff40 + u32::from(*last))),
                _ => into.push(special),
            },
            (control, _) => return Err(unfit(u32::from(control))),
        }
        rest = after;
    }
}

fn unfit(code: u32) -> String {
    debug_assert!(char::from_u32(code).is_none_or(|c| !is_char(c)));
    format!("it holds U+{code:04X}, which XML cannot carry")
}
