//! Charsets: which one a file is in, its bytes to UTF-8, and where in the file's bytes a place of the text lies.
//!
//! What is no character in its charset becomes bytes that are no UTF-8 either, so that the framers find it like any other
//! mistake, with its place; nothing is replaced in silence. Only charsets are read in which the length of a character in
//! the file follows from the character: so a place can be told without keeping a table of places.
//!
//! Sources: RFC 7303, section 3 (a byte order mark counts more than a parameter, that more than the XML declaration); XML
//! 1.0, appendix F; the WHATWG Encoding Standard for the names and tables of charsets, except that ISO-8859-1 is what ISO
//! says, not Windows-1252.

use std::{fmt, mem};

use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

/// A charset that can be read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Charset(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Utf8,
    /// In the order that the byte order mark says.
    Utf16,
    Utf16Le,
    Utf16Be,
    Ascii,
    Latin1,
    /// A byte is a character.
    Table(&'static Encoding),
}

impl Charset {
    /// UTF-8.
    pub const UTF_8: Self = Self(Kind::Utf8);

    /// The charset that a label names, in any case: `utf-8`, `utf-16`, `utf-16le`, `utf-16be`, `us-ascii`, `iso-8859-1`,
    /// and those of the WHATWG Encoding Standard in which a byte is a character (`windows-1252`, `iso-8859-15` …). `None`
    /// when it is unknown or not read.
    #[must_use]
    pub fn from_label(label: &str) -> Option<Self> {
        let label = label.trim();
        let kind = match label.to_ascii_lowercase().as_str() {
            "utf-16" | "iso-10646-ucs-2" | "ucs-2" => Kind::Utf16,
            "us-ascii" | "ascii" | "ansi_x3.4-1968" | "iso646-us" => Kind::Ascii,
            "iso-8859-1" | "iso8859-1" | "iso_8859-1" | "iso88591" | "latin1" | "l1" | "cp819" | "iso-ir-100" => {
                Kind::Latin1
            }
            _ => match Encoding::for_label_no_replacement(label.as_bytes())? {
                encoding if encoding == UTF_8 => Kind::Utf8,
                encoding if encoding == UTF_16LE => Kind::Utf16Le,
                encoding if encoding == UTF_16BE => Kind::Utf16Be,
                encoding if encoding.is_single_byte() => Kind::Table(encoding),
                _ => return None,
            },
        };
        Some(Self(kind))
    }

    /// The name that is registered for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Utf8 => "UTF-8",
            Kind::Utf16 => "UTF-16",
            Kind::Utf16Le => "UTF-16LE",
            Kind::Utf16Be => "UTF-16BE",
            Kind::Ascii => "US-ASCII",
            Kind::Latin1 => "ISO-8859-1",
            Kind::Table(encoding) => encoding.name(),
        }
    }

    pub(crate) fn is_utf8(self) -> bool {
        self.0 == Kind::Utf8
    }

    /// How many bytes of the file became these bytes of the text, wherever they are cut.
    pub(crate) fn bytes_of(self, text: &[u8]) -> u64 {
        let count = |is: fn(u8) -> bool| text.iter().filter(|&&byte| is(byte)).count() as u64;
        let characters = || count(|byte| byte & 0xc0 != 0x80);
        match self.0 {
            Kind::Utf8 => text.len() as u64,
            Kind::Utf16 | Kind::Utf16Le | Kind::Utf16Be => 2 * (characters() + count(|byte| byte >= 0xf0)),
            Kind::Ascii | Kind::Latin1 | Kind::Table(_) => characters(),
        }
    }

    /// Whether bytes in this charset may be called that by themselves: UTF-16 of either order is `UTF-16`.
    pub(crate) fn may_be_called(self, declared: Self) -> bool {
        let is_utf16 = matches!(self.0, Kind::Utf16Le | Kind::Utf16Be);
        self == declared || (is_utf16 && declared.0 == Kind::Utf16)
    }
}

impl fmt::Debug for Charset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Charset({})", self.name())
    }
}

impl fmt::Display for Charset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the first bytes of a file are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// A byte order mark.
    Mark,
    /// Also zeros around a first character, which is ASCII.
    Zeros,
    /// Also an XML declaration.
    Xml,
}

/// What the first bytes told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Begin {
    /// They are too few.
    More,
    Is(Charset),
    /// The XML declaration names this, which is not read or cannot be.
    Refused(String),
}

/// An XML declaration is not longer, or there is none.
const DECLARATION_MAX: usize = 1 << 10;

/// Which charset a file is in, by its first bytes; `last` says that they are all there are.
pub(crate) fn begin(head: &[u8], declared: Option<Charset>, look: Look, last: bool) -> Begin {
    for (mark, kind) in [(&b"\xef\xbb\xbf"[..], Kind::Utf8), (b"\xfe\xff", Kind::Utf16Be), (b"\xff\xfe", Kind::Utf16Le)]
    {
        if head.starts_with(mark) {
            return Begin::Is(Charset(kind));
        }
        if mark.starts_with(head) && !last {
            return Begin::More;
        }
    }
    let zeros = match head {
        [0, byte, ..] if *byte != 0 => Some(Charset(Kind::Utf16Be)),
        [byte, 0, ..] if *byte != 0 => Some(Charset(Kind::Utf16Le)),
        [_] if !last => return Begin::More,
        _ => None,
    };
    match declared {
        // RFC 2781, section 4.3: without a mark the first byte is the higher one; here only if nothing speaks against it.
        Some(Charset(Kind::Utf16)) => return Begin::Is(zeros.unwrap_or(Charset(Kind::Utf16Be))),
        Some(charset) => return Begin::Is(charset),
        None => {}
    }
    match (look, zeros) {
        (Look::Mark, _) => Begin::Is(Charset::UTF_8),
        (Look::Zeros | Look::Xml, Some(charset)) => Begin::Is(charset),
        (Look::Zeros, None) => Begin::Is(Charset::UTF_8),
        (Look::Xml, None) => declaration(head, last),
    }
}

fn declaration(head: &[u8], last: bool) -> Begin {
    const OPEN: &[u8] = b"<?xml";
    let is_one = match head.strip_prefix(OPEN) {
        // Other instructions may have names that begin so.
        Some([next, ..]) => matches!(next, b' ' | b'\t' | b'\r' | b'\n'),
        Some([]) | None if !last && OPEN.starts_with(head) => return Begin::More,
        _ => false,
    };
    if !is_one {
        return Begin::Is(Charset::UTF_8);
    }
    let head = &head[..head.len().min(DECLARATION_MAX)];
    let Some(end) = memchr::memchr(b'>', head) else {
        let more = head.len() < DECLARATION_MAX && !last;
        return if more { Begin::More } else { Begin::Is(Charset::UTF_8) };
    };
    // Whether the declaration is well-formed is the scanner's question.
    let label = memchr::memmem::find(&head[..end], b"encoding").and_then(|at| {
        let rest = head[at + "encoding".len()..end].trim_ascii_start().strip_prefix(b"=")?.trim_ascii_start();
        let (quote, rest) = rest.split_first()?;
        let label = rest.split(|byte| byte == quote).next()?;
        matches!(quote, b'"' | b'\'').then(|| String::from_utf8_lossy(label).into_owned())
    });
    match label {
        None => Begin::Is(Charset::UTF_8),
        Some(label) => match Charset::from_label(&label) {
            Some(Charset(Kind::Utf16 | Kind::Utf16Le | Kind::Utf16Be)) => {
                let problem = "but its bytes are not; fix the producer, or give the charset in contentType";
                Begin::Refused(format!("the XML declaration says that the file is in {label:?}, {problem}"))
            }
            Some(charset) => Begin::Is(charset),
            None => Begin::Refused(format!("the XML declaration names the encoding {label:?}, which is not read")),
        },
    }
}

/// Bytes of a charset to UTF-8, however they are cut.
#[derive(Debug)]
pub(crate) struct Transcoder {
    charset: Charset,
    /// What the bytes from 0x80 on are.
    high: Box<[Option<char>]>,
    /// Half of a code unit.
    odd: Option<u8>,
    /// Half of a pair of code units.
    lead: Option<u16>,
}

/// What a unit of UTF-16 becomes that is no character: as long in the file, and no UTF-8.
const NO_PAIR: &[u8] = b"\xed\xa0\x80";
/// What a byte becomes that is no character.
const NO_BYTE: u8 = 0xff;

impl Transcoder {
    pub(crate) fn new(charset: Charset) -> Self {
        let high: Vec<Option<char>> = (0x80..=0xff_u8)
            .map(|byte| match charset.0 {
                Kind::Latin1 => Some(char::from(byte)),
                Kind::Table(encoding) => encoding
                    .decode_without_bom_handling_and_without_replacement(&[byte])
                    .and_then(|text| text.chars().next()),
                _ => None,
            })
            .collect();
        Self { charset, high: high.into(), odd: None, lead: None }
    }

    /// Appends the text of the next bytes.
    pub(crate) fn decode(&mut self, mut bytes: &[u8], text: &mut Vec<u8>) {
        let unit: fn([u8; 2]) -> u16 = match self.charset.0 {
            Kind::Utf16Le => u16::from_le_bytes,
            Kind::Utf16 | Kind::Utf16Be => u16::from_be_bytes,
            Kind::Utf8 | Kind::Ascii | Kind::Latin1 | Kind::Table(_) => return self.decode_bytes(bytes, text),
        };
        text.reserve(bytes.len() + bytes.len() / 2 + NO_PAIR.len());
        if let (Some(first), Some((second, rest))) = (self.odd, bytes.split_first()) {
            self.odd = None;
            self.unit(unit([first, *second]), text);
            bytes = rest;
        }
        let (units, odd) = bytes.as_chunks::<2>();
        for pair in units {
            match unit(*pair) {
                ascii @ 0..0x80 if self.lead.is_none() => text.push(ascii as u8),
                other => self.unit(other, text),
            }
        }
        self.odd = self.odd.or(odd.first().copied());
    }

    fn unit(&mut self, unit: u16, text: &mut Vec<u8>) {
        let lead = self.lead.take();
        match (lead, unit) {
            (Some(lead), 0xdc00..=0xdfff) => {
                let code = 0x1_0000 + (u32::from(lead - 0xd800) << 10) + u32::from(unit - 0xdc00);
                push(char::from_u32(code), text);
                return;
            }
            (Some(_), _) => text.extend_from_slice(NO_PAIR),
            (None, _) => {}
        }
        match unit {
            0xd800..=0xdbff => self.lead = Some(unit),
            0xdc00..=0xdfff => text.extend_from_slice(NO_PAIR),
            _ => push(char::from_u32(u32::from(unit)), text),
        }
    }

    fn decode_bytes(&self, mut bytes: &[u8], text: &mut Vec<u8>) {
        text.reserve(bytes.len());
        loop {
            let ascii = bytes.iter().position(|byte| !byte.is_ascii()).unwrap_or(bytes.len());
            text.extend_from_slice(&bytes[..ascii]);
            let Some((byte, rest)) = bytes[ascii..].split_first() else { return };
            match self.high[usize::from(byte & 0x7f)] {
                Some(character) => push(Some(character), text),
                None => text.push(NO_BYTE),
            }
            bytes = rest;
        }
    }

    /// The bytes end here.
    pub(crate) fn finish(&mut self, text: &mut Vec<u8>) {
        if mem::take(&mut self.lead).is_some() {
            text.extend_from_slice(NO_PAIR);
        }
        if mem::take(&mut self.odd).is_some() {
            text.extend_from_slice(NO_PAIR);
        }
    }
}

fn push(character: Option<char>, text: &mut Vec<u8>) {
    match character {
        Some(character) => text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
        None => text.push(NO_BYTE),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn charset(label: &str) -> Charset {
        Charset::from_label(label).unwrap()
    }

    fn decoded(charset: Charset, bytes: &[u8], size: usize) -> Vec<u8> {
        let mut transcoder = Transcoder::new(charset);
        let mut text = Vec::new();
        for chunk in bytes.chunks(size) {
            transcoder.decode(chunk, &mut text);
        }
        transcoder.finish(&mut text);
        text
    }

    #[test]
    fn labels_are_those_that_producers_write() {
        for (label, name) in [
            ("UTF-8", "UTF-8"),
            ("utf8", "UTF-8"),
            ("utf-16", "UTF-16"),
            ("UTF-16LE", "UTF-16LE"),
            ("utf-16be", "UTF-16BE"),
            ("US-ASCII", "US-ASCII"),
            ("ISO-8859-1", "ISO-8859-1"),
            (" latin1 ", "ISO-8859-1"),
            ("Windows-1252", "windows-1252"),
            ("cp1252", "windows-1252"),
            ("iso-8859-15", "ISO-8859-15"),
            ("windows-1250", "windows-1250"),
        ] {
            assert_eq!(charset(label).name(), name, "{label}");
        }
        for label in ["", "utf-32", "utf-7", "ebcdic", "shift_jis", "gb18030", "iso-2022-kr"] {
            assert_eq!(Charset::from_label(label), None, "{label}");
        }
    }

    #[test]
    fn what_latin_and_windows_differ_in_is_told_apart() {
        assert_eq!(decoded(charset("iso-8859-1"), b"\x80 \xe9", 9), "\u{80} é".as_bytes());
        assert_eq!(decoded(charset("windows-1252"), b"\x80 \xe9", 9), "€ é".as_bytes());
        assert_eq!(decoded(charset("iso-8859-15"), b"\xa4", 9), "€".as_bytes());
    }

    #[test]
    fn what_is_no_character_is_no_text() {
        for (charset, bytes, good) in [
            (charset("us-ascii"), &b"ab\xe9"[..], 2),
            (charset("windows-1253"), b"a\xaa", 1),
            (Charset(Kind::Utf16Le), b"a\0\x00\xd8b\0", 1),
            (Charset(Kind::Utf16Le), b"a\0\x00\xdcb\0", 1),
            (Charset(Kind::Utf16Be), b"\0a\xd8\x00\xd8\x00\xdc\x00", 1),
            (Charset(Kind::Utf16Be), b"\0a\0b\0", 2),
            (Charset(Kind::Utf16Be), b"\0a\0b\xd8\x00\xdc", 2),
        ] {
            for size in [1, 2, 3, 9] {
                let text = decoded(charset, bytes, size);
                assert_eq!(str::from_utf8(&text).unwrap_err().valid_up_to(), good, "{charset} {bytes:?}");
            }
        }
    }

    #[test]
    fn the_first_bytes_tell_the_charset() {
        let utf8 = Charset::UTF_8;
        let (le, be) = (Charset(Kind::Utf16Le), Charset(Kind::Utf16Be));
        let latin = charset("iso-8859-1");
        for (head, declared, look, expected) in [
            (&b"\xef\xbb\xbfa"[..], Some(latin), Look::Mark, utf8),
            (b"\xff\xfea\0", Some(utf8), Look::Mark, le),
            (b"\xfe\xff\0a", None, Look::Mark, be),
            (b"a\0", None, Look::Mark, utf8),
            (b"a\0", None, Look::Zeros, le),
            (b"\0[", None, Look::Zeros, be),
            (b"a\0", Some(charset("utf-16")), Look::Mark, le),
            (b"\x20\xac", Some(charset("utf-16")), Look::Mark, be),
            (b"", Some(charset("utf-16")), Look::Mark, be),
            (b"\xe9", Some(latin), Look::Mark, latin),
            (b"<?xml version='1.0' encoding = \"ISO-8859-1\"?>", None, Look::Xml, latin),
            (b"<?xml version='1.0' encoding = \"ISO-8859-1\"?>", Some(utf8), Look::Xml, utf8),
            (b"<?xml version='1.0'?><a encoding='latin1'/>", None, Look::Xml, utf8),
            (b"<a/>", None, Look::Xml, utf8),
            (b"<\0a\0", None, Look::Xml, le),
        ] {
            assert_eq!(begin(head, declared, look, true), Begin::Is(expected), "{head:?}");
            for cut in 0..head.len() {
                let early = begin(&head[..cut], declared, look, false);
                assert!(
                    matches!(early, Begin::More) || early == Begin::Is(expected),
                    "{head:?} cut at {cut}: {early:?}"
                );
            }
        }
        for label in ["utf-16", "UTF-16LE", "klingon"] {
            let head = format!("<?xml version='1.0' encoding='{label}'?>");
            assert!(matches!(begin(head.as_bytes(), None, Look::Xml, true), Begin::Refused(_)), "{label}");
        }
    }

    proptest! {
        #[test]
        fn text_and_places_come_back_at_every_split(text in any::<String>(), at: prop::sample::Index, size in 1_usize..7) {
            let at = text.floor_char_boundary(if text.is_empty() { 0 } else { at.index(text.len()) });
            let utf16: Vec<u16> = text.encode_utf16().collect();
            let before = text.get(..at).unwrap().encode_utf16().count() as u64 * 2;
            for (charset, bytes) in [
                (Charset(Kind::Utf16Le), utf16.iter().flat_map(|unit| unit.to_le_bytes()).collect::<Vec<u8>>()),
                (Charset(Kind::Utf16Be), utf16.iter().flat_map(|unit| unit.to_be_bytes()).collect()),
            ] {
                prop_assert_eq!(&decoded(charset, &bytes, size), text.as_bytes());
                prop_assert_eq!(charset.bytes_of(&text.as_bytes()[..at]), before);
            }
        }

        #[test]
        fn every_unit_counts_though_it_is_no_character(units in prop::collection::vec(prop_oneof![any::<u16>(), 0xd7f0_u16..0xe010], 0..20)) {
            let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
            let text = decoded(Charset(Kind::Utf16Le), &bytes, 3);
            prop_assert_eq!(Charset(Kind::Utf16Le).bytes_of(&text), bytes.len() as u64);
            prop_assert_eq!(str::from_utf8(&text).is_ok(), char::decode_utf16(units).all(|unit| unit.is_ok()));
        }

        #[test]
        fn every_byte_counts_in_a_table(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            for label in ["iso-8859-1", "windows-1252", "us-ascii", "windows-1253"] {
                let charset = Charset::from_label(label).unwrap();
                prop_assert_eq!(charset.bytes_of(&decoded(charset, &bytes, 4)), bytes.len() as u64);
            }
        }
    }
}
