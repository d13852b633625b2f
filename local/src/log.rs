//! What strangers say, in log lines: a name, an address or an error's text may hold line breaks that forge a line, codes
//! that steer a terminal, or a megabyte.

use std::fmt::{self, Write as _};

/// Characters of a text that a log line shows.
const SHOWN_MAX: usize = 500;

/// A text from outside, fit for a log line: on one line, without anything that acts on a terminal, and not longer than a
/// person reads. What had to go is shown by its code.
pub(crate) fn printable(text: &str) -> impl fmt::Display {
    fmt::from_fn(move |f| {
        let mut rest = text.chars();
        for letter in rest.by_ref().take(SHOWN_MAX) {
            if acts(letter) { write!(f, "{}", letter.escape_default())? } else { f.write_char(letter)? }
        }
        match rest.as_str().len() {
            0 => Ok(()),
            left => write!(f, "… ({left} more bytes)"),
        }
    })
}

/// Whether a character does something else than to be seen: breaks the line, starts an escape sequence, or changes the
/// direction in which its neighbours are written (Unicode TR 36, section 2.5, and TR 9, section 2).
fn acts(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_from_outside_can_neither_begin_a_line_nor_steer_a_terminal() {
        let forged = "jobs\r\n2026-01-01T00:00:00Z  INFO bus: connection opened\x1b[2J\u{9b}31m\u{2028}x\u{202e}y\0";
        let shown = printable(forged).to_string();
        assert_eq!(
            shown,
            r"jobs\r\n2026-01-01T00:00:00Z  INFO bus: connection opened\u{1b}[2J\u{9b}31m\u{2028}x\u{202e}y\u{0}"
        );
        assert!(!shown.chars().any(char::is_control));
    }

    #[test]
    fn ordinary_texts_are_shown_as_they_are() {
        for text in ["", "exports/subscriptions/acme", "the entity 'Größe' is full; 日本 \"quoted\" C:\\path"] {
            assert_eq!(printable(text).to_string(), text);
        }
    }

    #[test]
    fn a_long_text_is_cut_and_says_how_much_is_left() {
        let text = "é".repeat(SHOWN_MAX);
        assert_eq!(printable(&text).to_string(), text);
        let longer = format!("{text}é and a megabyte");
        assert_eq!(printable(&longer).to_string(), format!("{text}… (17 more bytes)"));
    }
}
