//! Checked elements as values: text, null, or the JSON of what is in them. How is told in `docs/wire.md`.

use std::{borrow::Cow, collections::HashMap, iter};

use memchr::{memchr, memchr3, memmem};

use super::{is_space, namespaces, table::TEXT};
use crate::{Field, field::Step, json};

fn slice(text: &str, from: usize, to: usize) -> &str {
    text.get(from..to).expect("checked XML is cut at its marks only")
}

/// Which prefixes mean the namespace of XML Schema instances: what is declared between a row's element and the one that is
/// looked at, the innermost first, and then what holds in the row.
struct Scope<'t, 's> {
    /// By the element's own tag: prefixes, and whether they mean it.
    declared: Vec<(&'t str, bool)>,
    around: Option<&'s Scope<'t, 's>>,
    /// In the row, by declarations of its element or outside of it: those that mean it and are used, by blanks.
    row: &'s str,
}

impl<'s> Scope<'_, 's> {
    fn of_row(row: &'s str) -> Self {
        Self { declared: Vec::new(), around: None, row }
    }

    fn is_xsi(&self, prefix: &str) -> bool {
        if prefix.is_empty() {
            return false;
        }
        let mut scope = self;
        loop {
            if let Some((_, is_xsi)) = scope.declared.iter().find(|(declared, _)| *declared == prefix) {
                return *is_xsi;
            }
            match scope.around {
                Some(around) => scope = around,
                None => return scope.row.split(' ').any(|known| known == prefix),
            }
        }
    }
}

/// An element, taken apart.
struct Element<'t, 's> {
    /// What is in the tag after the name.
    tag: &'t str,
    content: &'t str,
    scope: Scope<'t, 's>,
}

impl<'t, 's> Element<'t, 's> {
    fn new(element: &'t str, around: &'s Scope<'t, 's>) -> Self {
        let bytes = element.as_bytes();
        let name_end =
            1 + bytes[1..].iter().position(|byte| is_space(*byte) || matches!(byte, b'/' | b'>')).unwrap_or(0);
        let (tag_end, empty) = end_of_tag(bytes, name_end);
        let tag = slice(element, name_end, tag_end - if empty { 2 } else { 1 });
        let content_end = if empty { tag_end } else { memchr::memrchr(b'<', bytes).unwrap_or(tag_end) };
        let declared = match tag.contains(XMLNS) {
            true => all_attributes(tag)
                .filter(|(prefix, ..)| *prefix == XMLNS)
                .map(|(_, local, value)| (local, namespaces::is_xsi(attribute(value).as_bytes())))
                .collect(),
            false => Vec::new(),
        };
        let scope = Scope { declared, around: Some(around), row: around.row };
        Self { tag, content: slice(element, tag_end, content_end), scope }
    }

    /// Names and raw values, without declarations of namespaces and what is about schemas.
    fn attributes(&self) -> impl Iterator<Item = (&'t str, &'t str)> {
        all_attributes(self.tag)
            .filter(|(prefix, local, _)| {
                !(*prefix == XMLNS || (prefix.is_empty() && *local == XMLNS) || self.scope.is_xsi(prefix))
            })
            .map(|(_, local, value)| (local, value))
    }

    fn is_nil(&self) -> bool {
        self.content.is_empty()
            && all_attributes(self.tag).any(|(prefix, local, value)| {
                local == "nil" && self.scope.is_xsi(prefix) && matches!(value.trim_ascii(), "true" | "1")
            })
    }

    /// The children, with their local names.
    fn children(&self) -> impl Iterator<Item = (&'t str, &'t str)> + use<'t> {
        nodes(self.content).filter_map(|node| match node {
            Node::Element(element) => Some((local_name(element), element)),
            Node::Text(_) | Node::Cdata(_) => None,
        })
    }
}

const XMLNS: &str = "xmlns";

/// Prefixes, local names and raw values.
fn all_attributes(mut rest: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    iter::from_fn(move || {
        let (name, after) = rest.split_once('=')?;
        let after = after.trim_ascii_start();
        let quote = if after.starts_with('"') { '"' } else { '\'' };
        let (value, after) = after.get(1..)?.split_once(quote)?;
        rest = after;
        let name = name.trim_ascii();
        let (prefix, local) = name.split_once(':').unwrap_or(("", name));
        Some((prefix, local, value))
    })
}

fn local_name(element: &str) -> &str {
    let bytes = element.as_bytes();
    let end = 1 + bytes[1..].iter().position(|byte| is_space(*byte) || matches!(byte, b'/' | b'>')).unwrap_or(0);
    let name = slice(element, 1, end);
    name.split_once(':').map_or(name, |(_, local)| local)
}

/// Where the tag that `at` is in ends, and whether it is an empty element's.
fn end_of_tag(bytes: &[u8], mut at: usize) -> (usize, bool) {
    while let Some(distance) = memchr3(b'>', b'"', b'\'', &bytes[at..]) {
        at += distance + 1;
        match bytes[at - 1] {
            b'>' => return (at, bytes[at - 2] == b'/'),
            quote => at += memchr(quote, &bytes[at..]).map_or(0, |distance| distance + 1),
        }
    }
    (bytes.len(), false)
}

enum Node<'t> {
    /// As written.
    Text(&'t str),
    Cdata(&'t str),
    Element(&'t str),
}

/// What an element holds, without comments and instructions.
fn nodes(content: &str) -> impl Iterator<Item = Node<'_>> {
    let bytes = content.as_bytes();
    let mut at = 0;
    iter::from_fn(move || {
        while at < bytes.len() {
            let start = at;
            if bytes[at] != b'<' {
                at = memchr(b'<', &bytes[at..]).map_or(bytes.len(), |distance| at + distance);
                return Some(Node::Text(slice(content, start, at)));
            }
            match end_of_aside(bytes, at) {
                Some(end) => {
                    at = end;
                    if bytes[start..].starts_with(CDATA) {
                        return Some(Node::Cdata(slice(content, start + CDATA.len(), end - 3)));
                    }
                }
                None => {
                    at = end_of_element(bytes, at);
                    return Some(Node::Element(slice(content, start, at)));
                }
            }
        }
        None
    })
}

const CDATA: &[u8] = b"<![CDATA[";

/// The end of the comment, instruction or CDATA section that begins at `at`, if one does.
fn end_of_aside(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = &bytes[at..];
    let (skip, mark): (usize, &[u8]) = match rest.get(1) {
        Some(b'?') => (2, b"?>"),
        Some(b'!') if rest.starts_with(CDATA) => (CDATA.len(), b"]]>"),
        Some(b'!') => (4, b"-->"),
        _ => return None,
    };
    let length = memmem::find(&rest[skip..], mark).map_or(rest.len(), |length| skip + length + mark.len());
    Some(at + length)
}

/// The end of the element that begins at `at`.
fn end_of_element(bytes: &[u8], mut at: usize) -> usize {
    let mut open = 0_usize;
    while let Some(distance) = memchr(b'<', &bytes[at..]) {
        at += distance;
        if let Some(end) = end_of_aside(bytes, at) {
            at = end;
            continue;
        }
        let is_end = bytes.get(at + 1) == Some(&b'/');
        let (end, empty) = end_of_tag(bytes, at + 1);
        at = end;
        match (is_end, empty) {
            (true, _) => open = open.saturating_sub(1),
            (false, false) => open += 1,
            (false, true) => {}
        }
        if open == 0 {
            break;
        }
    }
    at
}

/// The value of an attribute: references resolved, white space as blanks.
pub(super) fn attribute(raw: &str) -> Cow<'_, str> {
    resolve(raw, true)
}

/// Text: references resolved, line ends as `\n`.
pub(super) fn text(raw: &str) -> Cow<'_, str> {
    resolve(raw, false)
}

fn resolve(raw: &str, in_attribute: bool) -> Cow<'_, str> {
    let is_special = |c: char| c == '&' || c == '\r' || (in_attribute && matches!(c, '\t' | '\n'));
    let Some(first) = raw.find(is_special) else { return Cow::Borrowed(raw) };
    let mut resolved = String::with_capacity(raw.len());
    let (plain, mut rest) = raw.split_at(first);
    resolved.push_str(plain);
    while let Some(special) = rest.chars().next() {
        let after = slice(rest, 1, rest.len());
        rest = match special {
            '&' => {
                let (name, after) = after.split_once(';').unwrap_or((after, ""));
                resolved.extend(referred(name));
                after
            }
            _ => {
                resolved.push(if in_attribute { ' ' } else { '\n' });
                if special == '\r' { after.strip_prefix('\n').unwrap_or(after) } else { after }
            }
        };
        let (plain, others) = rest.split_at(rest.find(is_special).unwrap_or(rest.len()));
        resolved.push_str(plain);
        rest = others;
    }
    Cow::Owned(resolved)
}

/// What a checked reference stands for.
fn referred(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let digits = name.strip_prefix('#')?;
            let code = match digits.strip_prefix('x') {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => digits.parse(),
            };
            code.ok().and_then(char::from_u32)
        }
    }
}

/// The text that is directly in some content.
pub(super) fn own_text(content: &str) -> Cow<'_, str> {
    let mut whole = Cow::Borrowed("");
    for node in nodes(content) {
        let part = match node {
            Node::Text(raw) => text(raw),
            Node::Cdata(raw) if raw.contains('\r') => Cow::Owned(raw.replace("\r\n", "\n").replace('\r', "\n")),
            Node::Cdata(raw) => Cow::Borrowed(raw),
            Node::Element(_) => continue,
        };
        if whole.is_empty() { whole = part } else { whole.to_mut().push_str(&part) }
    }
    whole
}

/// The value of an element of a row in which these prefixes, by blanks, mean the namespace of XML Schema instances.
pub(super) fn read<'t>(element: &'t str, xsi: &str) -> Field<'t> {
    read_in(element, &Scope::of_row(xsi))
}

/// Goes down from an element of such a row.
pub(super) fn walk<'t>(element: &'t str, steps: &[Step], xsi: &str) -> Field<'t> {
    walk_in(element, steps, &Scope::of_row(xsi))
}

fn read_in<'t>(element: &'t str, around: &Scope<'t, '_>) -> Field<'t> {
    let parts = Element::new(element, around);
    if parts.is_nil() {
        return Field::Null;
    }
    if parts.attributes().next().is_none() && parts.children().next().is_none() {
        return Field::Text(own_text(parts.content));
    }
    let mut json = Vec::new();
    write_json(element, around, &mut json);
    Field::Nested(Cow::Owned(json))
}

fn walk_in<'t>(element: &'t str, steps: &[Step], around: &Scope<'t, '_>) -> Field<'t> {
    let (name, rest) = match steps {
        [] => return read_in(element, around),
        // It stands once.
        [Step::Index(0), rest @ ..] => return walk_in(element, rest, around),
        [Step::Index(_), ..] => return Field::Missing,
        [Step::Name(name), rest @ ..] => (&**name, rest),
    };
    let parts = Element::new(element, around);
    if let Some(name) = name.strip_prefix('@') {
        let found: Vec<&str> = parts.attributes().filter(|(local, _)| *local == name).map(|(_, value)| value).collect();
        return match (found.as_slice(), rest) {
            ([one], []) => Field::Text(attribute(one)),
            ([_, _, ..], []) => {
                let mut json = Vec::new();
                write_attributes(&found, &mut json);
                Field::Nested(Cow::Owned(json))
            }
            (_, [Step::Index(index)]) => {
                found.get(*index).map_or(Field::Missing, |value| Field::Text(attribute(value)))
            }
            _ => Field::Missing,
        };
    }
    if name == TEXT {
        let own = own_text(parts.content);
        let is_object = parts.attributes().next().is_some() || parts.children().next().is_some();
        let is_value = !own.bytes().all(is_space) || !(is_object || parts.is_nil());
        return if rest.is_empty() && is_value { Field::Text(own) } else { Field::Missing };
    }
    let mut found = parts.children().filter(|(local, _)| *local == name).map(|(_, child)| child);
    let Some(first) = found.next() else { return Field::Missing };
    let Some(second) = found.next() else { return walk_in(first, rest, &parts.scope) };
    match rest {
        [] => {
            let mut json = Vec::new();
            write_array(iter::once(first).chain(iter::once(second)).chain(found), &parts.scope, &mut json);
            Field::Nested(Cow::Owned(json))
        }
        [Step::Index(index), rest @ ..] => match iter::once(first).chain(iter::once(second)).chain(found).nth(*index) {
            Some(child) => walk_in(child, rest, &parts.scope),
            None => Field::Missing,
        },
        [Step::Name(_), ..] => Field::Missing,
    }
}

fn write_array<'t>(elements: impl Iterator<Item = &'t str>, around: &Scope<'t, '_>, into: &mut Vec<u8>) {
    into.push(b'[');
    for (index, element) in elements.enumerate() {
        if index > 0 {
            into.push(b',');
        }
        write_json(element, around, into);
    }
    into.push(b']');
}

/// Attributes of one local name, in several namespaces.
fn write_attributes(values: &[&str], into: &mut Vec<u8>) {
    for (index, value) in values.iter().enumerate() {
        into.push(if index == 0 { b'[' } else { b',' });
        json::write_text(&attribute(value), into);
    }
    into.push(b']');
}

/// Appends an element's value as JSON. As deep as rows may be nested.
fn write_json<'t>(element: &'t str, around: &Scope<'t, '_>, into: &mut Vec<u8>) {
    let parts = Element::new(element, around);
    if parts.is_nil() {
        into.extend_from_slice(b"null");
        return;
    }
    let mut separator = b'{';
    let mut name_of = |prefix: &str, name: &str, into: &mut Vec<u8>| {
        into.push(separator);
        separator = b',';
        if prefix.is_empty() {
            json::write_text(name, into)
        } else {
            json::write_text(&format!("{prefix}{name}"), into)
        }
        into.push(b':');
    };
    let mut is_object = false;
    for (name, values) in &grouped(parts.attributes()) {
        is_object = true;
        name_of("@", name, into);
        match values.as_slice() {
            [one] => json::write_text(&attribute(one), into),
            many => write_attributes(many, into),
        }
    }
    let groups = grouped(parts.children());
    for (name, elements) in &groups {
        is_object = true;
        name_of("", name, into);
        match elements.as_slice() {
            [one] => write_json(one, &parts.scope, into),
            many => write_array(many.iter().copied(), &parts.scope, into),
        }
    }
    let own = own_text(parts.content);
    if !is_object {
        json::write_text(&own, into);
        return;
    }
    if !own.bytes().all(is_space) {
        name_of("", TEXT, into);
        json::write_text(&own, into);
    }
    into.push(b'}');
}

/// Children or attributes by their names, in the order in which the names come first.
fn grouped<'t>(named: impl Iterator<Item = (&'t str, &'t str)>) -> Vec<(&'t str, Vec<&'t str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut place_of: HashMap<&str, usize> = HashMap::new();
    for (name, one) in named {
        let place = *place_of.entry(name).or_insert_with(|| {
            groups.push((name, Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(one);
    }
    groups
}
