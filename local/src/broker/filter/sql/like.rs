//! `LIKE`: `%` stands for any characters, `_` for one.
//!
//! When a part after a `%` does not fit, that `%` takes one character more; earlier ones need not be tried again, so the time
//! is at most the product of both lengths.

use crate::broker::filter::operand::EvaluationError;

/// Longest pattern: as long as an expression may be.
const PATTERN_MAX: usize = 4 * 1_024;

/// Longest text; Azure allows 32 KiB for a property.
const TEXT_MAX: usize = 64 * 1_024;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Any,
    One,
    Just(char),
}

pub(super) fn matches(text: &str, pattern: &str, escape: Option<char>) -> Result<bool, EvaluationError> {
    for (length, most) in [(text.len(), TEXT_MAX), (pattern.len(), PATTERN_MAX)] {
        if length > most {
            return Err(EvaluationError::TooLong { operator: "LIKE", bytes: length, most });
        }
    }
    let parts = parts(pattern, escape);
    let mut at = 0;
    let mut rest = text;
    // Where to go on if what follows does not fit: after the last `%`, with what it does not cover.
    let mut retry: Option<(usize, &str)> = None;
    loop {
        let mut chars = rest.chars();
        let next = chars.next();
        match (parts.get(at), next) {
            (Some(Part::Any), _) => {
                at += 1;
                retry = Some((at, rest));
            }
            (Some(Part::One), Some(_)) => {
                at += 1;
                rest = chars.as_str();
            }
            (Some(Part::Just(wanted)), Some(found)) if *wanted == found => {
                at += 1;
                rest = chars.as_str();
            }
            (None, None) => return Ok(true),
            _ => {
                let Some((after, from)) = retry else { return Ok(false) };
                let mut chars = from.chars();
                if chars.next().is_none() {
                    return Ok(false);
                }
                at = after;
                rest = chars.as_str();
                retry = Some((after, rest));
            }
        }
    }
}

/// An escape character makes the next one stand for itself; as the last character it stands for itself too.
fn parts(pattern: &str, escape: Option<char>) -> Vec<Part> {
    let mut chars = pattern.chars();
    let mut parts = Vec::with_capacity(pattern.len());
    while let Some(c) = chars.next() {
        parts.push(match c {
            _ if Some(c) == escape => Part::Just(chars.next().unwrap_or(c)),
            '%' => Part::Any,
            '_' => Part::One,
            _ => Part::Just(c),
        });
    }
    parts
}
