//! What strangers say and do, in log lines: a name, an address or an error's text may hold line breaks that forge a line,
//! codes that steer a terminal, or a megabyte; and whoever is refused may come again a thousand times a second.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

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

/// Lines of one kind within a [`PERIOD`]; the others are counted.
const LINES_MAX: u32 = 300;

/// The same of one connection, so that it does not use up what others may say.
const OWN_LINES_MAX: u32 = 30;

pub(crate) const PERIOD: Duration = Duration::from_secs(60);

/// How many lines of each kind were written of late: a client that fails on purpose must not fill a disk.
#[derive(Debug)]
pub(crate) struct Lines {
    most: u32,
    kinds: Mutex<BTreeMap<&'static str, Kind>>,
}

impl Default for Lines {
    fn default() -> Self {
        Self::new()
    }
}

#[derive(Debug)]
struct Kind {
    since: Instant,
    written: u32,
    left_out: u64,
}

impl Lines {
    pub(crate) const fn new() -> Self {
        Self { most: LINES_MAX, kinds: Mutex::new(BTreeMap::new()) }
    }

    /// Of one connection.
    pub(crate) const fn of_connection() -> Self {
        Self { most: OWN_LINES_MAX, kinds: Mutex::new(BTreeMap::new()) }
    }

    /// Asks for a line of a kind: how many were left out since the last one, or `None` if this one is to be left out too.
    pub(crate) fn pass(&self, kind: &'static str) -> Option<u64> {
        let now = Instant::now();
        // Counters only, so a panic elsewhere leaves nothing to repair.
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = kinds.entry(kind).or_insert(Kind { since: now, written: 0, left_out: 0 });
        if now.duration_since(kind.since) >= PERIOD {
            (kind.since, kind.written) = (now, 0);
        }
        if kind.written == self.most {
            kind.left_out += 1;
            return None;
        }
        kind.written += 1;
        Some(std::mem::take(&mut kind.left_out))
    }

    /// Counts lines of a kind that somebody else left out.
    fn leave_out(&self, kind: &'static str, lines: u64) {
        let now = Instant::now();
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        kinds.entry(kind).or_insert(Kind { since: now, written: 0, left_out: 0 }).left_out += lines;
    }

    /// What was left out and not told yet: for whom no further line of the kind comes to tell it.
    pub(crate) fn take_left_out(&self) -> Vec<(&'static str, u64)> {
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        let left_out = kinds.iter_mut().map(|(kind, counts)| (*kind, std::mem::take(&mut counts.left_out)));
        left_out.filter(|(_, lines)| *lines > 0).collect()
    }
}

/// The lines of one connection, among those of all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnLines<'a> {
    pub(crate) own: &'a Lines,
    pub(crate) all: &'a Lines,
}

impl OwnLines<'_> {
    /// As [`Lines::pass`].
    pub(crate) fn pass(&self, kind: &'static str) -> Option<u64> {
        let own = self.own.pass(kind)?;
        match self.all.pass(kind) {
            Some(all) => Some(own + all),
            None => {
                self.all.leave_out(kind, own);
                None
            }
        }
    }

    /// The connection ends: what it left out is told with what others do.
    pub(crate) fn end(&self) {
        for (kind, lines) in self.own.take_left_out() {
            self.all.leave_out(kind, lines);
        }
    }
}

/// Writes a line of the kind that its text names, unless there were too many: `say!(lines, warn, "text", field = value)`.
macro_rules! say {
    ($lines:expr, $level:ident, $text:literal, $($fields:tt)+) => {
        if let Some(left_out) = $lines.pass($text) {
            let left_out = (left_out > 0).then_some(left_out);
            tracing::$level!($($fields)+, left_out, $text);
        }
    };
}

pub(crate) use say;

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

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_one_kind_is_counted_rather_than_written_and_hides_no_other() {
        let lines = Lines::new();
        let passed = (0..1_000).filter(|_| lines.pass("link refused").is_some()).count();
        assert_eq!(passed, 300);
        assert_eq!(lines.pass("message refused"), Some(0));
        tokio::time::advance(PERIOD).await;
        assert_eq!(lines.pass("link refused"), Some(700));
        assert_eq!(lines.pass("link refused"), Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_one_connection_leaves_others_their_lines_and_is_told_when_it_has_ended() {
        let all = Lines::new();
        let (noisy, quiet) = (Lines::of_connection(), Lines::of_connection());
        let of = |own| OwnLines { own, all: &all };
        let passed = (0..1_000).filter(|_| of(&noisy).pass("link refused").is_some()).count();
        assert_eq!(passed, 30);
        assert_eq!(of(&quiet).pass("link refused"), Some(0));
        assert_eq!(all.take_left_out(), []);
        of(&noisy).end();
        assert_eq!(all.take_left_out(), [("link refused", 970)]);
        assert_eq!(all.take_left_out(), [], "once");
    }
}
