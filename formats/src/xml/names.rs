//! Characters and names: XML 1.0, productions 2 (Char), 4 (NameStartChar) and 4a (NameChar); Namespaces in XML 1.0,
//! productions 4 (NCName) and 7 (QName).

use std::str;

use super::scanner::Fault;

/// A qualified name in the text.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Name {
    pub(super) start: usize,
    /// Where the local part begins: after the colon, if there is one.
    pub(super) local: usize,
    pub(super) end: usize,
}

impl Name {
    pub(super) fn has_prefix(self) -> bool {
        self.local > self.start
    }

    pub(super) fn prefix(self, text: &[u8]) -> &[u8] {
        if self.has_prefix() { &text[self.start..self.local - 1] } else { &[] }
    }

    pub(super) fn local(self, text: &[u8]) -> &[u8] {
        &text[self.local..self.end]
    }

    pub(super) fn whole(self, text: &[u8]) -> &[u8] {
        &text[self.start..self.end]
    }
}

const START: u8 = 1;
const PART: u8 = 2;

/// What ASCII characters may be in a name; the colon is looked at apart.
const CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        class[byte] = match byte as u8 {
            b'A'..=b'Z' | b'a'..=b'z' | b'_' => START | PART,
            b'0'..=b'9' | b'-' | b'.' => PART,
            _ => 0,
        };
        byte += 1;
    }
    class
};

fn is_start(c: char) -> bool {
    matches!(c, 'A'..='Z' | 'a'..='z' | '_' | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}' | '\u{f8}'..='\u{2ff}'
        | '\u{370}'..='\u{37d}' | '\u{37f}'..='\u{1fff}' | '\u{200c}'..='\u{200d}' | '\u{2070}'..='\u{218f}'
        | '\u{2c00}'..='\u{2fef}' | '\u{3001}'..='\u{d7ff}' | '\u{f900}'..='\u{fdcf}' | '\u{fdf0}'..='\u{fffd}'
        | '\u{10000}'..='\u{effff}')
}

fn is_part(c: char) -> bool {
    is_start(c) || matches!(c, '0'..='9' | '-' | '.' | '\u{b7}' | '\u{300}'..='\u{36f}' | '\u{203f}'..='\u{2040}')
}

/// Whether it is a name without a colon.
pub(crate) fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(is_start) && chars.all(is_part)
}

/// Whether XML can hold the character.
pub(crate) fn is_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Reads the name that begins at `at`; `None`: it touches the end of the text.
#[inline(always)]
pub(super) fn name(text: &[u8], at: usize, what: &'static str) -> Result<Option<Name>, Fault> {
    let mut name = Name { start: at, local: at, end: at };
    loop {
        let part_start = name.end;
        match text.get(name.end) {
            Some(&byte) if CLASS[usize::from(byte)] & START != 0 => name.end += 1,
            Some(&byte) if byte >= 0x80 => match other(text, name.end, is_start)? {
                Other::Is(length) => name.end += length,
                Other::IsNot => return Err(no_name(text, name.end, what)),
                Other::Cut => return Ok(None),
            },
            None => return Ok(None),
            Some(_) => return Err(no_name(text, name.end, what)),
        }
        loop {
            match text.get(name.end) {
                Some(&byte) if CLASS[usize::from(byte)] & PART != 0 => name.end += 1,
                Some(&byte) if byte >= 0x80 => match other(text, name.end, is_part)? {
                    Other::Is(length) => name.end += length,
                    Other::IsNot => return Err(no_name(text, name.end, what)),
                    Other::Cut => return Ok(None),
                },
                Some(b':') if part_start == name.start => break,
                None => return Ok(None),
                Some(b':') => return Err(Fault::new(name.end, "a second ':' in a name")),
                Some(_) => return Ok(Some(name)),
            }
        }
        name.end += 1;
        name.local = name.end;
    }
}

enum Other {
    Is(usize),
    IsNot,
    Cut,
}

fn other(text: &[u8], at: usize, is: fn(char) -> bool) -> Result<Other, Fault> {
    match char_at(text, at) {
        Some(Ok(c)) if is(c) => Ok(Other::Is(c.len_utf8())),
        Some(Ok(_)) => Ok(Other::IsNot),
        Some(Err(fault)) => Err(fault),
        None => Ok(Other::Cut),
    }
}

/// The character at `at`; `None`: only a part of it is here.
pub(super) fn char_at(text: &[u8], at: usize) -> Option<Result<char, Fault>> {
    let bytes = &text[at..text.len().min(at + 4)];
    let valid = match str::from_utf8(bytes) {
        Ok(valid) => valid,
        Err(error) => match (error.valid_up_to(), error.error_len()) {
            (0, None) => return None,
            (0, Some(_)) => return Some(Err(Fault::no_text(at))),
            (valid, _) => str::from_utf8(&bytes[..valid]).unwrap_or_default(),
        },
    };
    valid.chars().next().map(Ok)
}

#[cold]
fn no_name(text: &[u8], at: usize, what: &'static str) -> Fault {
    Fault::expected(text, at, what)
}

/// Checks that a run of text holds characters that XML may hold only. Returns how far it goes: less than all of it when
/// the last character is not all there, and unless the run `is_whole`.
pub(super) fn check(text: &[u8], from: usize, to: usize, is_whole: bool) -> Result<usize, Fault> {
    let run = &text[from..to];
    let control = run.iter().position(|&byte| byte < 0x20 && !super::is_space(byte));
    let run = &run[..control.unwrap_or(run.len())];
    let valid = if run.is_ascii() { run.len() } else { check_other(run, from, is_whole || control.is_some())? };
    match control {
        Some(at) => Err(Fault::control(from + at, text[from + at])),
        None => Ok(from + valid),
    }
}

/// As [`check`], for a run without control characters. `is_whole`: it does not end within a character.
pub(super) fn check_other(run: &[u8], from: usize, is_whole: bool) -> Result<usize, Fault> {
    let valid = match str::from_utf8(run) {
        Ok(_) => run.len(),
        Err(error) if error.error_len().is_none() && !is_whole => error.valid_up_to(),
        Err(error) => {
            no_characters(&run[..error.valid_up_to()], from)?;
            return Err(Fault::no_text(from + error.valid_up_to()));
        }
    };
    no_characters(&run[..valid], from)?;
    Ok(valid)
}

/// U+FFFE and U+FFFF are in UTF-8, but no characters.
fn no_characters(run: &[u8], from: usize) -> Result<(), Fault> {
    for at in memchr::memchr_iter(0xef, run) {
        if let Some([_, 0xbf, last @ (0xbe | 0xbf)]) = run.get(at..at + 3) {
            let code = 0xff40 + u32::from(*last);
            return Err(Fault::new(from + at, format!("U+{code:04X} is no character")));
        }
    }
    Ok(())
}
