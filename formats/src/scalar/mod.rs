//! Text as numbers, instants, dates and booleans: one reading for filters, keys, versions and columns.

mod number;
mod timestamp;

pub use number::Number;
pub use timestamp::{Instant, days_since_2000, parse_date};

/// `true` and `false` in either case, and the digits that databases write for them.
#[must_use]
pub fn parse_boolean(text: &str) -> Option<bool> {
    match text {
        "1" => Some(true),
        "0" => Some(false),
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// A binary floating-point number: what is written as a decimal, rounded to the nearest; neither infinite nor NaN.
#[must_use]
pub fn parse_float(text: &str) -> Option<f64> {
    Number::parse(text)?;
    text.parse().ok().filter(|float: &f64| float.is_finite())
}
