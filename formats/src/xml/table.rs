//! Where the fields of rows lie: filled from the scanner's tokens, read by rows.
//!
//! A field's place is 16 bytes, counted from where its row begins, so that a row that moves to the next batch keeps its
//! places. A value that is text as it stands is only cut out; anything else is read by `value` when it is asked for.

use std::{borrow::Cow, collections::HashMap, mem};

use super::{
    is_space,
    scanner::{Scanner, Token},
    value,
};
use crate::{Field, FieldPath, Limits, batch::shrink, field::Step, json, varint};

/// Marks a flag at the top of a place: rows are shorter than 1 GiB.
const FLAG: u32 = 1 << 31;
/// Attributes and children of one row, those of the same name counted each.
const SPANS_MAX: usize = 1 << 16;

/// Where a field lies.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    /// The local name in the row; of an attribute, in the batch's `attributes`; of the row's own text, nowhere. Flag: it is
    /// an attribute.
    name_start: u32,
    /// Flag: an element before it in the row has the same name.
    name_end: u32,
    /// Flag: an element after it in the row has the same name.
    value_start: u32,
    /// Flag: the value is not as it stands: it is a whole element (an empty place: null), or text with references.
    value_end: u32,
}

impl Span {
    fn is_attribute(self) -> bool {
        self.name_start & FLAG != 0
    }

    fn is_repetition(self) -> bool {
        self.name_end & FLAG != 0
    }

    fn is_repeated(self) -> bool {
        self.value_start & FLAG != 0
    }

    fn name_range(self) -> std::ops::Range<usize> {
        (self.name_start & !FLAG) as usize..(self.name_end & !FLAG) as usize
    }

    /// Of an attribute whose name is kept among these.
    fn be_named(&mut self, name: &str, attributes: &mut String) {
        let start = attributes.len();
        attributes.push_str(name);
        self.name_start = place(start) | FLAG;
        self.name_end = place(attributes.len()) | (self.name_end & FLAG);
    }

    fn value(self, row: &str) -> &str {
        slice(row, (self.value_start & !FLAG) as usize..(self.value_end & !FLAG) as usize)
    }
}

fn slice(text: &str, range: std::ops::Range<usize>) -> &str {
    text.get(range).expect("places were taken from this text at ASCII bytes")
}

/// The table of a batch.
#[derive(Debug)]
pub(crate) struct XmlTable {
    spans: Vec<Span>,
    /// Names of attributes, each with its `@`.
    attributes: String,
    prefixes: Prefixes,
}

/// Which prefixes mean the namespace of XML Schema instances in rows whose elements use some, by declarations of the row's
/// element or around it: noted where it changes, because rows mostly agree. What elements within a row declare themselves is
/// read with them.
#[derive(Debug, Default)]
struct Prefixes {
    /// Those of a row by blanks, which no name has.
    names: String,
    changes: Vec<Change>,
}

#[derive(Debug, Clone, Copy)]
struct Change {
    /// Where the fields of the row lie with which it begins.
    from: u32,
    start: u32,
    end: u32,
}

impl Prefixes {
    /// Of the row whose fields begin here.
    fn of(&self, span: usize) -> &str {
        let after = self.changes.partition_point(|change| change.from as usize <= span);
        self.at(after)
    }

    fn at(&self, after: usize) -> &str {
        match after.checked_sub(1).and_then(|before| self.changes.get(before)) {
            Some(change) => slice(&self.names, change.start as usize..change.end as usize),
            None => "",
        }
    }

    /// From this row on, whose fields begin here.
    fn note(&mut self, span: usize, prefixes: &str) {
        if self.at(self.changes.len()) != prefixes {
            let start = place(self.names.len());
            self.names.push_str(prefixes);
            self.changes.push(Change { from: place(span), start, end: place(self.names.len()) });
        }
    }

    fn size(&self) -> usize {
        self.names.capacity() + self.changes.capacity() * size_of::<Change>()
    }
}

impl XmlTable {
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    pub(crate) fn size(&self) -> usize {
        self.spans.capacity() * size_of::<Span>() + self.attributes.capacity() + self.prefixes.size()
    }

    /// The row `text`, whose fields are `from..to`.
    pub(crate) fn row<'a>(&'a self, text: &'a str, from: usize, to: usize) -> XmlRow<'a> {
        XmlRow { text, spans: &self.spans[from..to], attributes: &self.attributes, xsi: self.prefixes.of(from) }
    }
}

impl XmlTable {
    /// Without rows.
    pub(crate) fn new() -> Self {
        Self { spans: Vec::new(), attributes: String::new(), prefixes: Prefixes::default() }
    }

    /// Takes a row that [`XmlRow::pack`] wrote, which is all of `packed`; `None` when it is none.
    pub(crate) fn unpack(&mut self, mut packed: &[u8]) -> Option<()> {
        let from = &mut packed;
        let xsi = read_text(from)?;
        self.prefixes.note(self.spans.len(), xsi);
        for _ in 0..varint::read(from)? {
            let mut place = || u32::try_from(varint::read(from)?).ok().map(|place| place.rotate_right(1));
            let (name_start, name_end, value_start, value_end) = (place()?, place()?, place()?, place()?);
            let mut span = Span { name_start, name_end, value_start, value_end };
            if span.is_attribute() {
                span.be_named(read_text(from)?, &mut self.attributes);
            }
            self.spans.push(span);
        }
        from.is_empty().then_some(())
    }
}

fn read_text<'p>(from: &mut &'p [u8]) -> Option<&'p str> {
    let length = usize::try_from(varint::read(from)?).ok()?;
    let (text, rest) = from.split_at_checked(length)?;
    *from = rest;
    std::str::from_utf8(text).ok()
}

/// Fills the table.
#[derive(Debug)]
pub(super) struct Collector {
    nesting_max: usize,
    fields_max: usize,
    /// Of the batch's rows.
    spans: Vec<Span>,
    spans_before: usize,
    attributes: String,
    prefixes: Prefixes,
    /// Where the fields of the batch's last row begin.
    last_row: Option<usize>,
    // The row being read:
    row: Vec<Span>,
    /// Its names, each with a mark in front, and where each ends.
    names: Vec<u8>,
    name_ends: Vec<u32>,
    /// The level around it.
    depth: usize,
    content: usize,
    child: Option<Child>,
    has_text: bool,
    problem: Option<String>,
    /// Elements in it have attributes whose names have a prefix.
    has_prefixed: bool,
    /// See [`Prefixes`].
    xsi: String,
    /// The names of a row before, and for each field whether it repeats one and is repeated: rows are mostly alike.
    shape: Vec<u8>,
    shape_flags: Vec<(bool, bool)>,
}

/// An element that is a field, while it is open.
#[derive(Debug, Clone, Copy)]
struct Child {
    name_start: u32,
    name_end: u32,
    start: usize,
    content: usize,
    /// Nothing but its text is in it.
    plain: bool,
    is_nil: bool,
}

fn place(at: usize) -> u32 {
    u32::try_from(at).expect("a row is shorter than 1 GiB")
}

impl Collector {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            nesting_max: limits.nesting_max.min(super::NESTING_MAX),
            fields_max: limits.columns_max,
            spans: Vec::new(),
            spans_before: 0,
            attributes: String::new(),
            prefixes: Prefixes::default(),
            last_row: None,
            row: Vec::new(),
            names: Vec::new(),
            name_ends: Vec::new(),
            depth: 0,
            content: 0,
            child: None,
            has_text: false,
            problem: None,
            has_prefixed: false,
            xsi: String::new(),
            shape: Vec::new(),
            shape_flags: Vec::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let spans = (self.spans.capacity() + self.row.capacity()) * size_of::<Span>();
        spans
            + self.names.capacity()
            + 4 * self.name_ends.capacity()
            + self.attributes.capacity()
            + self.prefixes.size()
            + self.xsi.capacity()
            + self.shape.capacity()
    }

    /// Begins a row that begins at `start`, with its start tag, which is the last token.
    pub(super) fn begin(&mut self, text: &[u8], scanner: &Scanner, start: usize, end: usize, empty: bool) {
        self.depth = scanner.depth() - usize::from(!empty);
        self.content = end - start;
        self.row.clear();
        self.names.clear();
        self.name_ends.clear();
        self.child = None;
        self.has_text = false;
        self.problem = None;
        self.has_prefixed = false;
        self.xsi.clear();
        for (index, attribute) in scanner.attributes().enumerate() {
            let name = attribute.name.local(text);
            let (name_start, name_end) = self.attribute_name(index, name);
            let value_end = place(attribute.value_end - start) | if attribute.plain { 0 } else { FLAG };
            let value_start = place(attribute.value_start - start);
            self.add(b'@', name, Span { name_start: name_start | FLAG, name_end, value_start, value_end });
        }
    }

    /// Where the name of an attribute is; mostly the row before had it too.
    fn attribute_name(&mut self, index: usize, name: &[u8]) -> (u32, u32) {
        let before = self.last_row.and_then(|first| self.spans.get(first + index)).filter(|span| span.is_attribute());
        if let Some(span) = before
            && self.attributes.as_bytes()[span.name_range()].strip_prefix(b"@") == Some(name)
        {
            return (span.name_start & !FLAG, span.name_end & !FLAG);
        }
        let start = self.attributes.len();
        self.attributes.push('@');
        self.attributes.push_str(&String::from_utf8_lossy(name));
        (place(start), place(self.attributes.len()))
    }

    #[inline]
    fn add(&mut self, mark: u8, name: &[u8], span: Span) {
        if self.row.len() < SPANS_MAX {
            self.names.push(mark);
            self.names.extend_from_slice(name);
            self.name_ends.push(place(self.names.len()));
            self.row.push(span);
        } else if self.problem.is_none() {
            self.problem = Some(format!("there are more than {SPANS_MAX} elements and attributes at its top level"));
        }
    }

    /// Takes a token of the row. Returns where the row ends, if it does.
    #[inline]
    pub(super) fn token(&mut self, text: &[u8], scanner: &Scanner, token: Token) -> Option<usize> {
        // While the row's own tag is the innermost.
        let inner = self.depth + 1;
        match token {
            Token::Plain { start, end } => {
                if self.child.is_none() {
                    self.own_text(&text[start..end]);
                }
            }
            Token::Text { start, end } => match &mut self.child {
                Some(child) => child.plain = false,
                None if self.has_text => {}
                // A reference may be to white space.
                None => self.own_text(value::text(&String::from_utf8_lossy(&text[start..end])).as_bytes()),
            },
            Token::Cdata { start, end } => match &mut self.child {
                Some(child) => child.plain = false,
                None => self.own_text(&text[start..end]),
            },
            Token::Aside => {
                if let Some(child) = &mut self.child {
                    child.plain = false;
                }
            }
            Token::Open { start, end } => {
                self.see_tag(text, scanner, scanner.depth(), start);
                match &mut self.child {
                    Some(child) => child.plain = false,
                    None => self.child = Some(self.child_of(scanner, start, end)),
                }
            }
            Token::Empty { start, end } => {
                self.see_tag(text, scanner, scanner.depth() + 1, start);
                match &mut self.child {
                    Some(child) => child.plain = false,
                    None => {
                        let child = self.child_of(scanner, start, end);
                        self.add_child(text, child, end, end);
                    }
                }
            }
            Token::Leaf { start, content, content_end, end } => {
                self.see_tag(text, scanner, scanner.depth() + 1, start);
                match &mut self.child {
                    Some(child) => child.plain = false,
                    None => {
                        let child = self.child_of(scanner, start, content);
                        self.add_child(text, child, content_end, end);
                    }
                }
            }
            Token::Close { start, end } => {
                if scanner.depth() == inner {
                    if let Some(child) = self.child.take() {
                        self.add_child(text, child, start, end);
                    }
                } else if scanner.depth() == self.depth {
                    self.end(start);
                    return Some(end);
                }
            }
            Token::More | Token::End => {}
        }
        None
    }

    /// Where a row ends of which nothing is kept.
    pub(super) fn end_of_skipped(&self, scanner: &Scanner, token: Token) -> Option<usize> {
        match token {
            Token::Close { end, .. } if scanner.depth() == self.depth => Some(end),
            _ => None,
        }
    }

    fn child_of(&self, scanner: &Scanner, start: usize, content: usize) -> Child {
        let name = scanner.name();
        Child {
            name_start: place(name.local),
            name_end: place(name.end),
            start,
            content,
            plain: scanner.attributes().next().is_none(),
            is_nil: scanner.is_nil(),
        }
    }

    /// Looks at the tag of an element in the row.
    #[inline]
    fn see_tag(&mut self, text: &[u8], scanner: &Scanner, level: usize, start: usize) {
        if scanner.has_prefixed() {
            self.note_prefixes(text, scanner);
        }
        if level - self.depth > self.nesting_max && self.problem.is_none() {
            let limit = self.nesting_max;
            self.problem = Some(format!("nested deeper than the limit of {limit} levels at byte {start} of the row"));
        }
    }

    fn note_prefixes(&mut self, text: &[u8], scanner: &Scanner) {
        self.has_prefixed = true;
        for prefix in scanner.xsi_prefixes(text, self.depth) {
            if !self.xsi.split(' ').any(|known| known.as_bytes() == prefix) {
                if !self.xsi.is_empty() {
                    self.xsi.push(' ');
                }
                self.xsi.push_str(&String::from_utf8_lossy(prefix));
            }
        }
    }

    /// Ends a row that is one tag.
    pub(super) fn end_empty(&mut self) {
        self.end(self.content);
    }

    fn own_text(&mut self, text: &[u8]) {
        self.has_text = self.has_text || !text.iter().all(|&byte| is_space(byte));
    }

    fn add_child(&mut self, text: &[u8], child: Child, content_end: usize, end: usize) {
        let (value_start, value_end) = if child.is_nil && child.content == content_end {
            (0, FLAG)
        } else if child.plain {
            (place(child.content), place(content_end))
        } else {
            (place(child.start), place(end) | FLAG)
        };
        let name = &text[child.name_start as usize..child.name_end as usize];
        self.add(b'<', name, Span { name_start: child.name_start, name_end: child.name_end, value_start, value_end });
    }

    fn end(&mut self, content_end: usize) {
        if self.has_text {
            let (value_start, value_end) = (place(self.content), place(content_end) | FLAG);
            self.add(b'#', &[], Span { name_start: 0, name_end: 0, value_start, value_end });
        }
        let fields = self.mark_repeated();
        if fields > self.fields_max && self.problem.is_none() {
            let limit = self.fields_max;
            self.problem = Some(format!("there are {fields} fields, over the limit of {limit} (columns_max)"));
        }
    }

    /// Marks fields of the same name; returns how many there are of different names.
    fn mark_repeated(&mut self) -> usize {
        const FEW: usize = 24;
        if self.problem.is_some() {
            return 0;
        }
        let flag = |row: &mut [Span], at: usize, repetition: bool, repeated: bool| {
            row[at].name_end |= if repetition { FLAG } else { 0 };
            row[at].value_start |= if repeated { FLAG } else { 0 };
        };
        if self.names == self.shape && self.row.len() == self.shape_flags.len() {
            let mut fields = self.row.len();
            for (at, (repetition, repeated)) in self.shape_flags.iter().enumerate() {
                flag(&mut self.row, at, *repetition, *repeated);
                fields -= usize::from(*repetition);
            }
            return fields;
        }
        let name = |at: usize| {
            let begin = if at == 0 { 0 } else { self.name_ends[at - 1] as usize };
            &self.names[begin..self.name_ends[at] as usize]
        };
        let mut fields = self.row.len();
        let mut first_of = HashMap::new();
        for at in 0..self.row.len() {
            let first = if self.row.len() <= FEW {
                (0..at).find(|&before| name(before) == name(at))
            } else {
                let first = *first_of.entry(name(at)).or_insert(at);
                (first < at).then_some(first)
            };
            if let Some(first) = first {
                flag(&mut self.row, at, true, false);
                flag(&mut self.row, first, false, true);
                fields -= 1;
            }
        }
        self.shape_flags.clear();
        self.shape_flags.extend(self.row.iter().map(|span| (span.is_repetition(), span.is_repeated())));
        self.shape.clear();
        self.shape.extend_from_slice(&self.names);
        fields
    }

    /// What is wrong with the row that ended.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Keeps the row that ended. Returns where its fields begin in the table.
    pub(super) fn keep(&mut self) -> usize {
        if self.spans.capacity() == 0 {
            self.spans.reserve(self.spans_before + self.spans_before / 8);
        }
        let from = self.spans.len();
        self.last_row = Some(from);
        // To a row without prefixes it is all the same.
        if self.has_prefixed {
            self.prefixes.note(from, &self.xsi);
        }
        self.spans.extend_from_slice(&self.row);
        from
    }

    /// The table of the batch that is handed out.
    pub(super) fn take(&mut self) -> XmlTable {
        let mut spans = mem::take(&mut self.spans);
        self.spans_before = spans.len();
        shrink(&mut spans);
        self.last_row = None;
        // The row being read refers to names that go with this batch.
        let attributes = mem::take(&mut self.attributes);
        for span in self.row.iter_mut().filter(|span| span.is_attribute()) {
            span.be_named(slice(&attributes, span.name_range()), &mut self.attributes);
        }
        XmlTable { spans, attributes, prefixes: mem::take(&mut self.prefixes) }
    }
}

/// A row, through its places.
#[derive(Debug, Clone, Copy)]
pub(crate) struct XmlRow<'a> {
    text: &'a str,
    spans: &'a [Span],
    attributes: &'a str,
    /// See [`Prefixes`].
    xsi: &'a str,
}

/// The name of an element's own text, where it has others too.
pub(super) const TEXT: &str = "#text";

impl<'a> XmlRow<'a> {
    /// Appends where its fields lie, for [`XmlTable::unpack`].
    pub(crate) fn pack(&self, into: &mut Vec<u8>) {
        let write_text = |text: &str, into: &mut Vec<u8>| {
            varint::write(text.len() as u64, into);
            into.extend_from_slice(text.as_bytes());
        };
        write_text(self.xsi, into);
        varint::write(self.spans.len() as u64, into);
        for span in self.spans {
            // A flag at the top would make every place one of five bytes.
            for place in [span.name_start, span.name_end, span.value_start, span.value_end] {
                varint::write(u64::from(place.rotate_left(1)), into);
            }
            if span.is_attribute() {
                write_text(self.name(*span), into);
            }
        }
    }

    fn name(&self, span: Span) -> &'a str {
        match span.name_range() {
            range if span.is_attribute() => slice(self.attributes, range),
            range if range.is_empty() => TEXT,
            range => slice(self.text, range),
        }
    }

    fn is_named(&self, span: Span, name: &str) -> bool {
        !span.is_repetition() && self.name(span) == name
    }

    /// The field that begins here, with those that repeat it.
    fn value(&self, span: Span) -> Field<'a> {
        if span.is_repeated() {
            return self.nested(self.repeated(span));
        }
        self.single(span)
    }

    fn nested(&self, spans: impl Iterator<Item = Span>) -> Field<'a> {
        let mut json = Vec::new();
        self.write_repeated(spans, &mut json);
        Field::Nested(Cow::Owned(json))
    }

    fn single(&self, span: Span) -> Field<'a> {
        let value = span.value(self.text);
        match span.value_end & FLAG != 0 {
            false => Field::Text(Cow::Borrowed(value)),
            true if span.is_attribute() => Field::Text(value::attribute(value)),
            true if value.is_empty() => Field::Null,
            true if span.name_range().is_empty() => Field::Text(value::own_text(value)),
            true => value::read(value, self.xsi),
        }
    }

    /// The places of the fields of one name, in the row's order.
    fn repeated(&self, span: Span) -> impl Iterator<Item = Span> + '_ {
        let name = self.name(span);
        let others = self.spans.iter().copied().filter(move |other| other.is_repetition() && self.name(*other) == name);
        std::iter::once(span).chain(others)
    }

    /// The places of all names that stand more than once, by name and in the row's order. Whoever goes through all fields looks for
    /// them once: a row may have thousands of names, each of which stands often.
    fn repeats(&self) -> Vec<(&'a str, Span)> {
        let repeats = self.spans.iter().filter(|span| span.is_repeated() || span.is_repetition());
        let mut repeats: Vec<_> = repeats.map(|span| (self.name(*span), *span)).collect();
        repeats.sort_by_key(|(name, _)| *name);
        repeats
    }

    /// Calls `visit` for each name: with its first place, and all its places if there are several.
    fn for_each_name(&self, mut visit: impl FnMut(Span, Option<&[(&str, Span)]>)) {
        let mut repeats = None;
        for span in self.spans.iter().filter(|span| !span.is_repetition()) {
            if span.is_repeated() {
                let name = self.name(*span);
                let repeats = repeats.get_or_insert_with(|| self.repeats());
                let from = repeats.partition_point(|(other, _)| *other < name);
                let to = from + repeats[from..].partition_point(|(other, _)| *other == name);
                visit(*span, Some(&repeats[from..to]));
            } else {
                visit(*span, None);
            }
        }
    }

    fn write_repeated(&self, spans: impl Iterator<Item = Span>, into: &mut Vec<u8>) {
        into.push(b'[');
        for (index, span) in spans.enumerate() {
            if index > 0 {
                into.push(b',');
            }
            write_field(&self.single(span), into);
        }
        into.push(b']');
    }

    fn resolve(&self, span: Span, path: &FieldPath) -> Field<'a> {
        let (first, rest) = match path.rest() {
            [] => return self.value(span),
            [first, rest @ ..] => (first, rest),
        };
        let (span, rest) = match first {
            Step::Index(index) if span.is_repeated() => match self.repeated(span).nth(*index) {
                Some(span) => (span, rest),
                None => return Field::Missing,
            },
            Step::Name(_) if span.is_repeated() => return Field::Missing,
            Step::Index(0) => (span, rest),
            Step::Index(_) => return Field::Missing,
            Step::Name(_) => (span, path.rest()),
        };
        if rest.is_empty() {
            return self.single(span);
        }
        let is_element = !span.is_attribute() && !span.name_range().is_empty();
        match (span.value_end & FLAG != 0, rest) {
            (true, _) if is_element && !span.value(self.text).is_empty() => {
                value::walk(span.value(self.text), rest, self.xsi)
            }
            (false, [Step::Name(name)]) if is_element && **name == *TEXT => self.single(span),
            _ => Field::Missing,
        }
    }

    pub(crate) fn get(&self, path: &FieldPath) -> Field<'a> {
        self.spans
            .iter()
            .find(|span| self.is_named(**span, path.head()))
            .map_or(Field::Missing, |span| self.resolve(*span, path))
    }

    /// At most 64 paths: `into[i]` becomes the value of `paths[i]`.
    pub(crate) fn get_some(&self, paths: &[FieldPath], into: &mut [Field<'a>]) {
        let mut wanted = u64::MAX >> (64 - paths.len());
        for span in self.spans {
            let mut left = wanted;
            while left != 0 {
                let index = left.trailing_zeros() as usize;
                left &= left - 1;
                if self.is_named(*span, paths[index].head()) {
                    into[index] = self.resolve(*span, &paths[index]);
                    wanted &= !(1 << index);
                }
            }
            if wanted == 0 {
                break;
            }
        }
    }

    pub(crate) fn for_each(&self, visit: &mut dyn FnMut(Cow<'a, str>, Field<'a>)) {
        self.for_each_name(|span, all| {
            let value = match all {
                Some(all) => self.nested(all.iter().map(|(_, span)| *span)),
                None => self.single(span),
            };
            visit(Cow::Borrowed(self.name(span)), value);
        });
    }

    pub(crate) fn write_json(&self, into: &mut Vec<u8>) {
        let mut separator = b'{';
        self.for_each_name(|span, all| {
            into.push(separator);
            separator = b',';
            json::write_text(self.name(span), into);
            into.push(b':');
            match all {
                Some(all) => self.write_repeated(all.iter().map(|(_, span)| *span), into),
                None => write_field(&self.single(span), into),
            }
        });
        into.extend_from_slice(if separator == b'{' { b"{}" } else { b"}" });
    }
}

fn write_field(field: &Field<'_>, into: &mut Vec<u8>) {
    match field {
        Field::Text(text) => json::write_text(text, into),
        Field::Nested(json) => into.extend_from_slice(json),
        _ => into.extend_from_slice(b"null"),
    }
}
