//! Results for people (tables and sentences) and for programs (JSON), on standard output.

use std::{fmt, io::Write, time::Duration};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use time::OffsetDateTime;

/// Prints one JSON document.
///
/// # Errors
/// When standard output cannot be written.
pub fn json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value).map_err(std::io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// Prints a line for people, as `println!` does; but a reader that went away is an error, not a panic.
///
/// # Errors
/// When standard output cannot be written.
pub fn line(text: fmt::Arguments<'_>) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// Prints a table; nothing but the head when there are no rows.
///
/// # Errors
/// When standard output cannot be written.
pub fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> anyhow::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(head);
    for row in rows {
        table.add_row(row.iter().map(|cell| in_one_line(cell)));
    }
    let mut out = std::io::stdout().lock();
    for line in table.lines() {
        // The padding left of the first column.
        writeln!(out, "{}", line.strip_prefix(' ').unwrap_or(&line).trim_end())?;
    }
    Ok(())
}

/// `2026-11-23 03:15:00Z`: an instant for people.
#[must_use]
pub fn instant(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    )
}

/// `12,345`: a count for people.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 file`, `12,345 files`.
#[must_use]
pub fn many(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(number), if number == 1 { "" } else { "s" })
}

/// Other people's text within a line: what would move a terminal's cursor is shown instead.
#[must_use]
pub fn in_one_line(text: &str) -> String {
    with_controls_shown(text, &[])
}

/// Other people's text as it is laid out, with its lines and tabs: what else would move a terminal's cursor is shown instead.
#[must_use]
pub fn in_lines(text: &str) -> String {
    with_controls_shown(text, &['\n', '\t'])
}

fn with_controls_shown(text: &str, kept: &[char]) -> String {
    text.chars().fold(String::with_capacity(text.len()), |shown, char| match char {
        _ if char.is_control() && !kept.contains(&char) => shown + &char.escape_default().to_string(),
        _ => shown + char.encode_utf8(&mut [0; 4]),
    })
}

/// `2 h 5 min`: a span for people, by its two greatest units.
#[must_use]
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    let (great, great_unit, small, small_unit) = match seconds {
        0..60 => return format!("{seconds} s"),
        60..3_600 => (seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => (seconds / 3_600, "h", seconds / 60 % 60, "min"),
        _ => (seconds / 86_400, "d", seconds / 3_600 % 24, "h"),
    };
    if small == 0 { format!("{great} {great_unit}") } else { format!("{great} {great_unit} {small} {small_unit}") }
}

/// Cuts a text for a table's cell.
#[must_use]
pub fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most { text.to_owned() } else { text.chars().take(most - 1).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_move_the_cursor_is_shown() {
        assert_eq!(in_one_line("a\nb\u{1b}[2J\u{7}é"), "a\\nb\\u{1b}[2J\\u{7}é");
    }

    #[test]
    fn counts_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn one_thing_is_no_plural() {
        assert_eq!([0, 1, 2000].map(|number| many(number, "file")), ["0 files", "1 file", "2,000 files"]);
    }

    #[test]
    fn a_span_is_told_by_its_two_greatest_units() {
        let told = [0, 59, 60, 61, 3_600, 7_505, 86_400, 3 * 86_400 + 4 * 3_600].map(|s| span(Duration::from_secs(s)));
        assert_eq!(told, ["0 s", "59 s", "1 min", "1 min 1 s", "1 h", "2 h 5 min", "1 d", "3 d 4 h"]);
    }

    #[test]
    fn a_cut_text_shows_that_it_was_cut() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdefg", 6), "abcde…");
    }
}
