//! One value of a row, borrowed from its bytes, and where to find it.

use std::borrow::Cow;

/// A value as it stands in the file: numbers are text, as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field<'a> {
    /// The row has no such field.
    Missing,
    /// JSON `null`; in CSV an empty field without quotes.
    Null,
    /// JSON `true` or `false`.
    Bool(bool),
    /// A JSON number, as written: `19.90` stays `19.90`.
    Number(&'a str),
    /// Text, unescaped. Every CSV field that is not null.
    Text(Cow<'a, str>),
    /// A JSON object or array, raw.
    Nested(&'a [u8]),
}

/// A compiled path such as `a.b[0].c`; a name with a dot or bracket is quoted: `"a.b".c`. In CSV a path of one name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FieldPath {}

/// Where a path is wrong.
#[derive(Debug, thiserror::Error)]
#[error("field path {path:?} at byte {at}: {problem}")]
pub struct FieldPathError {
    path: String,
    at: usize,
    problem: &'static str,
}

impl FieldPath {
    /// Compiles a path.
    ///
    /// # Errors
    /// Where and why it is not one.
    pub fn parse(text: &str) -> Result<Self, FieldPathError> {
        todo!("{text}")
    }

    /// A path of one step, taken literally (`Price.Net` is one name).
    #[must_use]
    pub fn name(name: &str) -> Self {
        todo!("{name}")
    }
}
