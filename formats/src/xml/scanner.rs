//! Text to tokens, checked as it passes by: a document's declaration, tags, references, characters, comments, processing
//! instructions and CDATA sections, and that there is one element around all.
//!
//! Text comes in pieces; a token is reported when it is all there, except text, comments and the like, which are passed
//! over in parts. All places are counted from where the caller's text begins; a caller that drops text in front lowers
//! [`Scanner::at`]. What is kept of open elements is their names, so that nothing holds on to the text.

use std::{borrow::Cow, mem, ops::Deref};

use memchr::{memchr, memmem};

use super::{
    is_space,
    names::{self, Name},
    namespaces::{self, Namespaces},
    value,
};
use crate::{Charset, find};

/// What is not well-formed. Behind a pointer, because results are moved for every token and faults are rare.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault(Box<What>);

impl Deref for Fault {
    type Target = What;

    fn deref(&self) -> &What {
        &self.0
    }
}

/// What is not well-formed, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct What {
    pub(super) at: usize,
    pub(super) what: Cow<'static, str>,
    /// The text ends too early.
    pub(super) cut: bool,
}

impl Fault {
    pub(super) fn new(at: usize, what: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(What { at, what: what.into(), cut: false }))
    }

    /// The text ends too early.
    pub(super) fn cut(at: usize, what: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(What { at, what: what.into(), cut: true }))
    }

    pub(super) fn no_text(at: usize) -> Self {
        Self::new(at, "bytes that are no character of the file's charset")
    }

    pub(super) fn control(at: usize, byte: u8) -> Self {
        Self::new(at, format!("control character {byte:#04x}, which XML cannot hold"))
    }

    #[cold]
    pub(super) fn expected(text: &[u8], at: usize, wanted: &str) -> Self {
        match names::char_at(text, at) {
            Some(Ok(found)) => Self::new(at, format!("expected {wanted}, found {found:?}")),
            Some(Err(fault)) => fault,
            None => Self::cut(text.len(), format!("the text ends where {wanted} is expected")),
        }
    }
}

/// A stretch of the text. Nothing in it is narrower than a word: it is moved for every token, and what is stored in bytes and
/// loaded in words waits.
#[derive(Debug, Clone, Copy)]
#[repr(usize)]
pub(super) enum Token {
    /// More text is needed.
    More,
    /// Text in an element, as it is.
    Plain { start: usize, end: usize },
    /// Text with references or returns.
    Text { start: usize, end: usize },
    /// The text of a CDATA section, or a part of it.
    Cdata { start: usize, end: usize },
    /// A start tag.
    Open { start: usize, end: usize },
    /// The tag of an empty element.
    Empty { start: usize, end: usize },
    /// An element with nothing in it but text as it is, and without declarations of namespaces.
    Leaf { start: usize, content: usize, content_end: usize, end: usize },
    /// An end tag.
    Close { start: usize, end: usize },
    /// Something else, or a part of it.
    Aside,
    /// The end of the document.
    End,
}

/// An attribute of the tag that was read last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attribute {
    pub(super) name: Name,
    pub(super) value_start: usize,
    pub(super) value_end: usize,
    /// The value is as it is, without references and white space other than blanks.
    pub(super) plain: bool,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Value,
    /// A declaration of a namespace.
    Declaration,
    /// In the namespace of XML Schema instances, to which an element of this level bound its prefix.
    Xsi {
        level: usize,
    },
}

/// In what the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inside {
    Nothing,
    Comment,
    Instruction,
    Cdata,
}

/// Bytes of the names of open elements.
const OPEN_BYTES_MAX: usize = 1 << 20;
/// Namespaces that are declared at once.
const DECLARED_MAX: usize = 1 << 10;
/// Bytes of a reference such as `&#x1F600;`, which may have zeros in front.
const REFERENCE_MAX: usize = 1 << 10;
/// Bytes of the target of an instruction, with its `<?`.
const TARGET_MAX: usize = 1 << 10;
/// Bytes of the XML declaration.
const DECLARATION_MAX: usize = 1 << 10;

#[derive(Debug)]
pub(super) struct Scanner {
    /// How far the text was read.
    pub(super) at: usize,
    tag_bytes_max: usize,
    /// The charset that the text was made of, if the declaration has to agree with it.
    charset: Option<Charset>,
    inside: Inside,
    /// In a row, where elements with nothing but text are one token.
    pub(super) in_row: bool,
    /// Nothing was read yet.
    at_begin: bool,
    /// The document's element was begun.
    has_element: bool,
    /// Of the open elements.
    names: Vec<u8>,
    /// Where in `names` each begins.
    open: Vec<u32>,
    namespaces: Namespaces,
    /// Looks for the end of a tag that was not all there.
    tag: Option<TagEnd>,
    // Of the last start tag:
    name: Name,
    attributes: Vec<Attribute>,
    is_empty: bool,
    is_nil: bool,
    has_prefixed: bool,
    /// Kept for comparing many.
    sorted: Vec<u32>,
}

impl Scanner {
    pub(super) fn new(tag_bytes_max: usize) -> Self {
        Self {
            at: 0,
            tag_bytes_max,
            charset: None,
            inside: Inside::Nothing,
            in_row: false,
            at_begin: true,
            has_element: false,
            names: Vec::new(),
            open: Vec::new(),
            namespaces: Namespaces::default(),
            tag: None,
            name: Name::default(),
            attributes: Vec::new(),
            is_empty: false,
            is_nil: false,
            has_prefixed: false,
            sorted: Vec::new(),
        }
    }

    /// The declaration has to agree with this.
    pub(super) fn is_in(&mut self, charset: Charset) {
        self.charset = Some(charset);
    }

    /// Begins another document, which has no declaration.
    pub(super) fn begin_again(&mut self) {
        self.at = 0;
        self.inside = Inside::Nothing;
        self.in_row = false;
        self.at_begin = false;
        self.has_element = false;
        self.names.clear();
        self.open.clear();
        self.namespaces.clear();
        self.tag = None;
    }

    /// How many elements are open.
    pub(super) fn depth(&self) -> usize {
        self.open.len()
    }

    /// The name in the last start tag.
    pub(super) fn name(&self) -> Name {
        self.name
    }

    /// The attributes of the last start tag that are values.
    pub(super) fn attributes(&self) -> impl Iterator<Item = &Attribute> {
        self.attributes.iter().filter(|attribute| attribute.kind == Kind::Value)
    }

    /// Whether the last start tag says `xsi:nil`.
    pub(super) fn is_nil(&self) -> bool {
        self.is_nil
    }

    /// Whether the last start tag has attributes whose names have a prefix.
    pub(super) fn has_prefixed(&self) -> bool {
        self.has_prefixed
    }

    /// Prefixes in the last start tag that mean the namespace of XML Schema instances because an element of this level, or one
    /// around it, says so.
    pub(super) fn xsi_prefixes<'t>(&self, text: &'t [u8], level_max: usize) -> impl Iterator<Item = &'t [u8]> {
        self.attributes.iter().filter_map(move |attribute| match attribute.kind {
            Kind::Xsi { level } if level <= level_max => Some(attribute.name.prefix(text)),
            _ => None,
        })
    }

    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.names.capacity() + 4 * self.open.capacity() + self.attributes.capacity() * size_of::<Attribute>()
    }

    /// Reads the next token; `last`: no more text comes.
    ///
    /// # Errors
    /// What is not well-formed.
    pub(super) fn token(&mut self, text: &[u8], last: bool) -> Result<Token, Fault> {
        let at_begin = self.at_begin;
        match self.next(text, last) {
            // A character is not all there.
            Err(fault) if fault.cut && !last => {
                self.at_begin = at_begin;
                Ok(Token::More)
            }
            token => token,
        }
    }

    #[inline]
    fn next(&mut self, text: &[u8], last: bool) -> Result<Token, Fault> {
        if self.inside != Inside::Nothing {
            return self.part(text, last);
        }
        match text.get(self.at) {
            Some(b'<') => self.markup(text, last),
            Some(_) if self.open.is_empty() => self.space(text),
            Some(_) => self.text(text, last),
            None if !last => Ok(Token::More),
            None if self.open.is_empty() && self.has_element => Ok(Token::End),
            None => Err(self.ends(text)),
        }
    }

    #[cold]
    fn ends(&self, text: &[u8]) -> Fault {
        match self.open.last() {
            None => Fault::new(text.len(), "there is no element"),
            Some(&at) => {
                let name = String::from_utf8_lossy(&self.names[at as usize..]);
                Fault::cut(text.len(), format!("the text ends within <{name}>"))
            }
        }
    }

    /// White space around the document's element.
    fn space(&mut self, text: &[u8]) -> Result<Token, Fault> {
        let rest = &text[self.at..];
        let space = rest.iter().position(|&byte| !is_space(byte)).unwrap_or(rest.len());
        self.at_begin = false;
        self.at += space;
        match text.get(self.at) {
            None | Some(b'<') => Ok(Token::Aside),
            Some(&byte) if byte < 0x20 => Err(Fault::control(self.at, byte)),
            Some(_) if self.has_element => Err(Fault::expected(text, self.at, "nothing after the document's element")),
            Some(_) => Err(Fault::expected(text, self.at, "'<'")),
        }
    }

    /// Text in an element, up to what is not all there.
    #[inline]
    fn text(&mut self, text: &[u8], last: bool) -> Result<Token, Fault> {
        let start = self.at;
        let mut at = start;
        let mut plain = true;
        let fault = loop {
            at = find::end_of_xml_text(text, at);
            match text.get(at) {
                None | Some(b'<') => break None,
                Some(b'&') => match reference(text, at) {
                    Ok(Some(end)) => {
                        plain = false;
                        at = end;
                    }
                    Ok(None) if last => break Some(Fault::expected(text, text.len(), "';' after a reference")),
                    Ok(None) => break None,
                    Err(fault) => break Some(fault),
                },
                Some(b']') => match text.get(at + 1..text.len().min(at + 3)) {
                    Some(b"]>") => break Some(Fault::new(at, "]]> in text; write ]]&gt;")),
                    Some(b"" | b"]") if !last => break None,
                    _ => at += 1,
                },
                Some(b'\t' | b'\n') => at += 1,
                Some(b'\r') => {
                    plain = false;
                    at += 1;
                }
                Some(&control) => break Some(Fault::control(at, control)),
            }
        };
        let run = &text[start..at];
        if !run.is_ascii() {
            let is_whole = last || fault.is_some() || at < text.len();
            at = start + names::check_other(run, start, is_whole)?;
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        self.at = at;
        Ok(match plain {
            _ if at == start => Token::More,
            true => Token::Plain { start, end: at },
            false => Token::Text { start, end: at },
        })
    }

    fn markup(&mut self, text: &[u8], last: bool) -> Result<Token, Fault> {
        let at_begin = mem::take(&mut self.at_begin);
        let start = self.at;
        let token = match text.get(start + 1) {
            Some(b'/') => self.end_tag(text, last)?,
            Some(b'!') => self.declaration_like(text)?,
            Some(b'?') => self.instruction(text, at_begin, last)?,
            Some(_) => self.start_tag(text, last)?,
            None => None,
        };
        match token {
            Some(token) => Ok(token),
            None if last => Err(Fault::cut(text.len(), "the text ends within a tag")),
            None => {
                self.at_begin = at_begin;
                Ok(Token::More)
            }
        }
    }

    /// A comment, a CDATA section or what we refuse.
    fn declaration_like(&mut self, text: &[u8]) -> Result<Option<Token>, Fault> {
        const COMMENT: &[u8] = b"<!--";
        const CDATA: &[u8] = b"<![CDATA[";
        const DOCTYPE: &[u8] = b"<!DOCTYPE";
        let rest = &text[self.at..];
        if rest.starts_with(COMMENT) {
            self.inside = Inside::Comment;
            self.at += COMMENT.len();
            return Ok(Some(Token::Aside));
        }
        if rest.starts_with(CDATA) && !self.open.is_empty() {
            self.inside = Inside::Cdata;
            self.at += CDATA.len();
            return Ok(Some(Token::Aside));
        }
        if rest.starts_with(DOCTYPE) {
            let problem = "a DOCTYPE, which is refused: entities could grow without bound or name other files";
            return Err(Fault::new(self.at, problem));
        }
        if [COMMENT, CDATA, DOCTYPE].iter().any(|whole| whole.starts_with(rest)) {
            return Ok(None);
        }
        let problem = if rest.starts_with(CDATA) { "a CDATA section outside of elements" } else { "unknown markup" };
        Err(Fault::new(self.at, problem))
    }

    /// A part of a comment, an instruction or a CDATA section: to its end, or as far as it is here.
    fn part(&mut self, text: &[u8], last: bool) -> Result<Token, Fault> {
        let start = self.at;
        let (mark, kept): (&[u8], usize) = match self.inside {
            Inside::Comment => (b"--", 1),
            Inside::Instruction => (b"?>", 1),
            _ => (b"]]>", 2),
        };
        let found = memmem::find(&text[start..], mark).map(|distance| start + distance);
        let end = found.unwrap_or_else(|| if last { text.len() } else { text.len().saturating_sub(kept).max(start) });
        let mut end = names::check(text, start, end, found.is_some())?;
        if found.is_none() && last {
            return Err(Fault::cut(text.len(), "the text ends within a comment, an instruction or a CDATA section"));
        }
        let is_cdata = self.inside == Inside::Cdata;
        let checked = end;
        if let Some(mark_at) = found {
            end = mark_at + mark.len();
            if self.inside == Inside::Comment {
                match text.get(end) {
                    Some(b'>') => end += 1,
                    Some(_) => return Err(Fault::new(mark_at, "-- within a comment")),
                    None if last => return Err(Fault::expected(text, end, "'>'")),
                    // The mark waits for what follows it.
                    None => {
                        self.at = mark_at;
                        return Ok(Token::More);
                    }
                }
            }
            self.inside = Inside::Nothing;
        }
        self.at = end;
        Ok(match (is_cdata, found) {
            (_, None) if end == start => Token::More,
            (true, _) => Token::Cdata { start, end: checked },
            (false, _) => Token::Aside,
        })
    }

    /// The begin of a processing instruction, or the whole XML declaration.
    fn instruction(&mut self, text: &[u8], at_begin: bool, last: bool) -> Result<Option<Token>, Fault> {
        let start = self.at;
        let window = &text[..text.len().min(start + TARGET_MAX)];
        let Some(target) = names::name(window, start + 2, "the target of an instruction")? else {
            // It is read again with every piece that comes.
            let is_long = window.len() < text.len();
            return if is_long { Err(Fault::new(start, "a target that is too long to be read")) } else { Ok(None) };
        };
        let whole = target.whole(text);
        if target.has_prefix() {
            return Err(Fault::new(target.local - 1, "':' in the target of an instruction"));
        }
        if whole == b"xml" && at_begin {
            let window = &text[..text.len().min(start + DECLARATION_MAX)];
            return match memmem::find(&window[start..], b"?>") {
                Some(length) => {
                    let encoding = declaration(text, target.end, start + length)?;
                    self.compare(encoding.map(|(start, end)| (start, &text[start..end])))?;
                    self.at = start + length + 2;
                    Ok(Some(Token::Aside))
                }
                None if window.len() < text.len() || last => {
                    Err(Fault::new(start, "an XML declaration without its end"))
                }
                None => Ok(None),
            };
        }
        if whole.eq_ignore_ascii_case(b"xml") {
            let problem =
                if whole == b"xml" { "an XML declaration that is not at the begin" } else { "a reserved name" };
            return Err(Fault::new(start, problem));
        }
        if !is_space(text[target.end]) && !text[target.end..].starts_with(b"?>") {
            if text[target.end..] == *b"?" {
                return Ok(None);
            }
            return Err(Fault::expected(text, target.end, "white space or '?>'"));
        }
        self.inside = Inside::Instruction;
        self.at = target.end;
        Ok(Some(Token::Aside))
    }

    /// Whether the declaration's encoding is the one that the bytes are in.
    fn compare(&self, encoding: Option<(usize, &[u8])>) -> Result<(), Fault> {
        let (Some(charset), Some((at, label))) = (self.charset, encoding) else { return Ok(()) };
        let label = String::from_utf8_lossy(label);
        match Charset::from_label(&label) {
            Some(declared) if charset.may_be_called(declared) => Ok(()),
            _ => Err(Fault::new(
                at,
                format!("the declaration names the encoding {label:?}, but the file is in {charset}"),
            )),
        }
    }

    #[inline]
    fn end_tag(&mut self, text: &[u8], last: bool) -> Result<Option<Token>, Fault> {
        if !self.may_be_whole(text, last)? {
            return Ok(None);
        }
        let start = self.at;
        let Some(&open) = self.open.last() else { return Err(Fault::new(start, "an end tag without a start tag")) };
        let name = &self.names[open as usize..];
        let rest = &text[start + 2..];
        if !rest.starts_with(name) {
            if name.starts_with(rest) {
                return Ok(self.incomplete(start));
            }
            let expected = String::from_utf8_lossy(name);
            return Err(Fault::new(start, format!("another end tag than </{expected}>, which is expected here")));
        }
        let mut at = start + 2 + name.len();
        while text.get(at).is_some_and(|&byte| is_space(byte)) {
            at += 1;
        }
        // Its end is still to come.
        if at - start >= self.tag_bytes_max {
            return Err(self.long_tag());
        }
        match text.get(at) {
            Some(b'>') => {
                self.names.truncate(open as usize);
                self.open.pop();
                self.namespaces.close(self.open.len());
                self.at = at + 1;
                Ok(Some(Token::Close { start, end: at + 1 }))
            }
            None => Ok(self.incomplete(start)),
            Some(_) => Err(Fault::expected(text, at, "'>' of an end tag")),
        }
    }

    #[cold]
    fn long_tag(&self) -> Fault {
        Fault::new(self.at, format!("a tag longer than the limit of {} bytes (row_bytes_max)", self.tag_bytes_max))
    }

    /// A tag that is not all there is not read again before its end is.
    fn incomplete(&mut self, start: usize) -> Option<Token> {
        self.tag.get_or_insert(TagEnd { read: self.at - start + 1, quote: None });
        None
    }

    #[inline]
    fn may_be_whole(&mut self, text: &[u8], last: bool) -> Result<bool, Fault> {
        let is_long = text.len() - self.at > self.tag_bytes_max;
        if let Some(end) = &mut self.tag {
            let found = end.find(&text[self.at..]);
            if !found && !last && !is_long {
                return Ok(false);
            }
            self.tag = None;
        }
        Ok(true)
    }

    fn start_tag(&mut self, text: &[u8], last: bool) -> Result<Option<Token>, Fault> {
        if !self.may_be_whole(text, last)? {
            return Ok(None);
        }
        let start = self.at;
        if self.open.is_empty() && self.has_element {
            return Err(Fault::new(start, "a second element after the document's"));
        }
        let window = &text[..text.len().min(start + self.tag_bytes_max + 1)];
        let read = match self.read_tag(window) {
            Err(fault) if fault.cut => None,
            other => other?,
        };
        let Some(end) = read else {
            if window.len() < text.len() {
                return Err(self.long_tag());
            }
            return Ok(self.incomplete(start));
        };
        if end - start > self.tag_bytes_max {
            return Err(self.long_tag());
        }
        let depth = self.open.len();
        self.is_nil = false;
        self.has_prefixed = false;
        if !self.attributes.is_empty() || self.name.has_prefix() {
            self.check_attributes(text, depth)?;
        }
        self.has_element = true;
        if self.is_empty {
            self.namespaces.close(depth);
            self.at = end;
            return Ok(Some(Token::Empty { start, end }));
        }
        if let Some(leaf) = self.in_row.then(|| self.leaf(text, start, end)).flatten() {
            return Ok(Some(leaf));
        }
        if self.names.len() > OPEN_BYTES_MAX {
            return Err(Fault::new(start, "nested so deep that it is not read on"));
        }
        self.open.push(u32::try_from(self.names.len()).expect("just compared with its limit"));
        self.names.extend_from_slice(self.name.whole(text));
        self.at = end;
        Ok(Some(Token::Open { start, end }))
    }

    /// Most elements hold text and nothing else: such a one is read at once, if it is all there.
    #[inline(always)]
    fn leaf(&mut self, text: &[u8], start: usize, content: usize) -> Option<Token> {
        let content_end = find::end_of_plain_xml_text(text, content);
        let name = self.name.whole(text);
        let rest = text.get(content_end..)?.strip_prefix(b"</")?.strip_prefix(name)?;
        if rest.first() != Some(&b'>') || self.namespaces.is_declared_at(self.open.len()) {
            return None;
        }
        let end = content_end + name.len() + 3;
        if end - content_end > self.tag_bytes_max {
            return None;
        }
        self.at = end;
        Some(Token::Leaf { start, content, content_end, end })
    }

    /// Reads a start tag by its syntax, and returns where it ends.
    #[inline(always)]
    fn read_tag(&mut self, text: &[u8]) -> Result<Option<usize>, Fault> {
        self.attributes.clear();
        self.is_empty = false;
        let Some(name) = names::name(text, self.at + 1, "the name of an element")? else { return Ok(None) };
        self.name = name;
        let mut at = name.end;
        loop {
            let after = at;
            at = skip_space(text, at);
            match text.get(at) {
                Some(b'>') => return Ok(Some(at + 1)),
                Some(b'/') => {
                    return match text.get(at + 1) {
                        Some(b'>') => {
                            self.is_empty = true;
                            Ok(Some(at + 2))
                        }
                        Some(_) => Err(Fault::expected(text, at + 1, "'>' after '/'")),
                        None => Ok(None),
                    };
                }
                Some(_) if at == after => return Err(Fault::expected(text, at, "white space, '>' or '/>'")),
                Some(_) => {}
                None => return Ok(None),
            }
            let Some(name) = names::name(text, at, "the name of an attribute, '>' or '/>'")? else { return Ok(None) };
            at = skip_space(text, name.end);
            match text.get(at) {
                Some(b'=') => at = skip_space(text, at + 1),
                Some(_) => return Err(Fault::expected(text, at, "'=' after the name of an attribute")),
                None => return Ok(None),
            }
            let quote = match text.get(at) {
                Some(&quote @ (b'"' | b'\'')) => quote,
                Some(_) => return Err(Fault::expected(text, at, "a quoted value")),
                None => return Ok(None),
            };
            let mut plain = true;
            let Some(end) = attribute_value(text, at + 1, quote, &mut plain)? else { return Ok(None) };
            let kind = Kind::Value;
            self.attributes.push(Attribute { name, value_start: at + 1, value_end: end, plain, kind });
            at = end + 1;
        }
    }

    /// Checks what is more than syntax: names are declared, and none is there twice.
    fn check_attributes(&mut self, text: &[u8], depth: usize) -> Result<(), Fault> {
        self.refuse_repeated(text)?;
        for attribute in &mut self.attributes {
            let prefix = match (attribute.name.prefix(text), attribute.name.local(text)) {
                (b"", b"xmlns") => b"",
                (b"xmlns", local) => local,
                _ => continue,
            };
            attribute.kind = Kind::Declaration;
            let raw = String::from_utf8_lossy(&text[attribute.value_start..attribute.value_end]);
            let uri = value::attribute(&raw);
            let declared = self.namespaces.declare(depth, prefix, uri.as_bytes());
            declared.map_err(|problem| Fault::new(attribute.name.start, problem))?;
        }
        if self.namespaces.len() > DECLARED_MAX {
            return Err(Fault::new(self.at, "more namespaces are declared at once than are read"));
        }
        let undeclared = |name: Name| {
            let prefix = String::from_utf8_lossy(name.prefix(text)).into_owned();
            Fault::new(name.start, format!("the prefix {prefix:?} is not declared"))
        };
        if self.name.has_prefix() && self.namespaces.resolve(self.name.prefix(text)).is_none() {
            return Err(undeclared(self.name));
        }
        let mut prefixed = 0;
        for attribute in &mut self.attributes {
            if !attribute.name.has_prefix() || attribute.kind == Kind::Declaration {
                continue;
            }
            prefixed += 1;
            let Some((uri, level)) = self.namespaces.resolve_with_level(attribute.name.prefix(text)) else {
                return Err(undeclared(attribute.name));
            };
            if namespaces::is_xsi(uri) {
                attribute.kind = Kind::Xsi { level };
                if attribute.name.local(text) == b"nil" {
                    let value = text[attribute.value_start..attribute.value_end].trim_ascii();
                    self.is_nil = matches!(value, b"true" | b"1");
                }
            }
        }
        self.has_prefixed = prefixed > 0;
        if prefixed > 1 { self.refuse_same(text) } else { Ok(()) }
    }

    /// XML 1.0, Unique Att Spec.
    fn refuse_repeated(&mut self, text: &[u8]) -> Result<(), Fault> {
        const FEW: usize = 12;
        let name = |index: usize| self.attributes[index].name.whole(text);
        let twice = |index: usize| {
            let name = String::from_utf8_lossy(name(index)).into_owned();
            Fault::new(self.attributes[index].name.start, format!("the attribute {name:?} is there twice"))
        };
        if self.attributes.len() <= FEW {
            return match (1..self.attributes.len()).find(|&at| (0..at).any(|before| name(before) == name(at))) {
                Some(index) => Err(twice(index)),
                None => Ok(()),
            };
        }
        let mut sorted = mem::take(&mut self.sorted);
        sorted.clear();
        sorted.extend(0..u32::try_from(self.attributes.len()).expect("a tag is shorter than 1 GiB"));
        sorted
            .sort_unstable_by(|one, other| name(*one as usize).cmp(name(*other as usize)).then_with(|| one.cmp(other)));
        let repeated = sorted.windows(2).filter(|pair| name(pair[0] as usize) == name(pair[1] as usize));
        let first = repeated.map(|pair| pair[1] as usize).min();
        let result = first.map_or(Ok(()), |index| Err(twice(index)));
        self.sorted = sorted;
        result
    }

    /// Namespaces in XML 1.0, section 6.3: by namespace and local name.
    fn refuse_same(&self, text: &[u8]) -> Result<(), Fault> {
        let mut names: Vec<(&[u8], &[u8], usize)> = self
            .attributes
            .iter()
            .filter(|attribute| attribute.name.has_prefix() && attribute.kind != Kind::Declaration)
            .map(|attribute| {
                let uri = self.namespaces.resolve(attribute.name.prefix(text)).unwrap_or_default();
                (uri, attribute.name.local(text), attribute.name.start)
            })
            .collect();
        names.sort_unstable();
        let same = names.windows(2).filter(|pair| pair[0].0 == pair[1].0 && pair[0].1 == pair[1].1);
        match same.map(|pair| pair[1].2).min() {
            Some(at) => Err(Fault::new(at, "the same attribute is there twice, by two prefixes of one namespace")),
            None => Ok(()),
        }
    }
}

fn skip_space(text: &[u8], mut at: usize) -> usize {
    while text.get(at).is_some_and(|&byte| is_space(byte)) {
        at += 1;
    }
    at
}

/// The closing quote of an attribute's value; says when it is not plain.
#[inline(always)]
fn attribute_value(text: &[u8], start: usize, quote: u8, plain: &mut bool) -> Result<Option<usize>, Fault> {
    let mut at = start;
    let fault = loop {
        at = find::end_of_xml_value(text, at, quote);
        match text.get(at) {
            None => break None,
            Some(&byte) if byte == quote => break None,
            Some(b'&') => match reference(text, at) {
                Ok(Some(end)) => {
                    *plain = false;
                    at = end;
                }
                Ok(None) => {
                    // What stands before it is wrong however much has come of the rest.
                    names::check_other(&text[start..at], start, true)?;
                    return Ok(None);
                }
                Err(fault) => break Some(fault),
            },
            Some(b'<') => break Some(Fault::new(at, "'<' in the value of an attribute; write &lt;")),
            Some(b'\t' | b'\n' | b'\r') => {
                *plain = false;
                at += 1;
            }
            Some(&control) => break Some(Fault::control(at, control)),
        }
    };
    let run = &text[start..at];
    if !run.is_ascii() {
        names::check_other(run, start, fault.is_some() || at < text.len())?;
    }
    match fault {
        Some(fault) => Err(fault),
        None if at == text.len() => Ok(None),
        None => Ok(Some(at)),
    }
}

/// The end of the reference that begins at `at`; `None`: it is not all there.
fn reference(text: &[u8], at: usize) -> Result<Option<usize>, Fault> {
    let window = &text[at + 1..text.len().min(at + REFERENCE_MAX)];
    let length = memchr(b';', window);
    let name = &window[..length.unwrap_or(window.len())];
    let is_whole = length.is_some() || window.len() == REFERENCE_MAX - 1;
    let end = at + 2 + name.len();
    if let Some(digits) = name.strip_prefix(b"#") {
        let (digits, radix) = match digits.strip_prefix(b"x") {
            Some(digits) => (digits, 16),
            None => (digits, 10),
        };
        let wrong = digits.iter().position(|&digit| !char::from(digit).is_digit(radix));
        let code = str::from_utf8(digits).ok().and_then(|digits| u32::from_str_radix(digits, radix).ok());
        return match code.and_then(char::from_u32) {
            _ if wrong.is_some() => Err(Fault::new(at, "a character reference without its ';' or with other digits")),
            _ if length.is_none() && !is_whole => Ok(None),
            Some(character) if length.is_some() && names::is_char(character) => Ok(Some(end)),
            _ => Err(Fault::new(at, "a reference to what is no character of XML")),
        };
    }
    const KNOWN: [&[u8]; 5] = [b"amp", b"lt", b"gt", b"quot", b"apos"];
    match length {
        Some(_) if KNOWN.contains(&name) => Ok(Some(end)),
        None if !is_whole && KNOWN.iter().any(|known| known.starts_with(name)) => Ok(None),
        _ if name.first().is_none_or(|&byte| is_space(byte) || byte.is_ascii_punctuation()) => {
            Err(Fault::new(at, "'&' that begins no reference; write &amp;"))
        }
        _ => Err(Fault::new(at, "a reference to an entity that is none of the five of XML, or one without its ';'")),
    }
}

/// Checks what stands between `<?xml` and `?>`; returns where the encoding's name is, if there is one.
fn declaration(text: &[u8], start: usize, end: usize) -> Result<Option<(usize, usize)>, Fault> {
    let mut at = start;
    let version = pseudo_attribute(text, &mut at, end, b"version")?;
    let Some((from, to)) = version else { return Err(Fault::expected(text, skip_space(text, at), "version")) };
    let digits = text[from..to].strip_prefix(b"1.");
    if !digits.is_some_and(|digits| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)) {
        return Err(Fault::new(from, "a version other than 1.0"));
    }
    let encoding = pseudo_attribute(text, &mut at, end, b"encoding")?;
    if let Some((from, to)) = encoding {
        let (first, rest) = text[from..to].split_first().unwrap_or((&0, &[]));
        let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if !first.is_ascii_alphabetic() || !rest.iter().all(is_part) {
            return Err(Fault::new(from, "what is no name of an encoding"));
        }
    }
    if let Some((from, to)) = pseudo_attribute(text, &mut at, end, b"standalone")?
        && !matches!(&text[from..to], b"yes" | b"no")
    {
        return Err(Fault::new(from, "standalone is neither yes nor no"));
    }
    let at = skip_space(text, at);
    if at < end { Err(Fault::expected(text, at, "'?>'")) } else { Ok(encoding) }
}

fn pseudo_attribute(text: &[u8], at: &mut usize, end: usize, name: &[u8]) -> Result<Option<(usize, usize)>, Fault> {
    let start = skip_space(text, *at);
    if start == *at || !text[start..end].starts_with(name) {
        return Ok(None);
    }
    let equals = skip_space(text, start + name.len());
    if text.get(equals) != Some(&b'=') {
        return Err(Fault::expected(text, equals, "'='"));
    }
    let open = skip_space(text, equals + 1);
    let quote = match text.get(open) {
        Some(&quote @ (b'"' | b'\'')) => quote,
        _ => return Err(Fault::expected(text, open, "a quoted value")),
    };
    match memchr(quote, &text[open + 1..end]) {
        Some(length) => {
            *at = open + 2 + length;
            Ok(Some((open + 1, open + 1 + length)))
        }
        None => Err(Fault::new(open, "a quote that is not closed")),
    }
}

/// Looks for the end of a tag, piece by piece: a `>` outside of quotes.
#[derive(Debug)]
struct TagEnd {
    /// From the tag's begin.
    read: usize,
    quote: Option<u8>,
}

impl TagEnd {
    fn find(&mut self, tag: &[u8]) -> bool {
        while let Some(rest) = tag.get(self.read..) {
            let next = match self.quote {
                Some(quote) => memchr(quote, rest),
                None => memchr::memchr3(b'>', b'"', b'\'', rest),
            };
            let Some(distance) = next else {
                self.read = tag.len();
                return false;
            };
            self.read += distance + 1;
            match (self.quote, rest[distance]) {
                (Some(_), _) => self.quote = None,
                (None, b'>') => return true,
                (None, quote) => self.quote = Some(quote),
            }
        }
        false
    }
}
