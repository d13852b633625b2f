//! Whether a row is wanted: a predicate in CEL over `row`, typed by the columns that are declared.
//!
//! `cel` parses the text. `check` makes `node`s of its tree and refuses what cannot be right whatever the row: names that
//! there are not, types that do not compare. `eval` asks the nodes of a row: each needed field is found once, in the row's
//! raw bytes, and nothing is allocated for the usual comparisons. `docs/filters.md` says what the language means here.
//!
//! # Bounds
//! A text of [`TEXT_BYTES_MAX`], nodes of [`DEPTH_MAX`] levels, and [`STEPS_MAX`] steps for a row: a node is a step, and so
//! are 64 bytes of text that it looks at, so that loops within loops over a long row end in an error.

mod check;
mod eval;
mod node;
#[cfg(test)]
mod tests;

use std::fmt;

use waybill_contracts::ColumnType;

use self::node::Node;
use crate::{Field, FieldPath, Row};

/// The longest predicate.
pub const TEXT_BYTES_MAX: usize = 8 << 10;
/// The deepest one.
pub const DEPTH_MAX: usize = 64;
/// What one row may cost.
pub const STEPS_MAX: u64 = 1_000_000;

/// A predicate over rows, compiled.
#[derive(Debug)]
pub struct RowFilter {
    text: Box<str>,
    root: Node,
    /// The fields that it reads, each once.
    paths: Vec<FieldPath>,
    kinds: Vec<Option<ColumnType>>,
}

/// What is known of rows before any is there.
#[derive(Debug, Clone, Default)]
pub struct FilterColumns<'c> {
    /// Names, and types where they are declared. A field that is not declared is what the row says.
    pub columns: Vec<(&'c str, Option<ColumnType>)>,
    /// There are no others.
    pub is_closed: bool,
}

/// Why a text is no predicate over these rows, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at character {}: {problem}", self.at + 1)]
pub struct FilterError {
    /// Characters before the place, from the text's begin.
    pub at: usize,
    /// What is wrong there.
    pub problem: String,
}

/// Why it cannot be said whether a row is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct FilterFault {
    problem: String,
}

/// Room for the fields of a row, used again for the next.
#[derive(Debug, Default)]
pub struct FilterFields<'r>(Vec<Field<'r>>);

impl RowFilter {
    /// Compiles a predicate.
    ///
    /// # Errors
    /// The first thing that is wrong, and where: not CEL, too long or too deep, an unknown name or function, types that do
    /// not go together, a result that is not true or false.
    pub fn compile(text: &str, columns: &FilterColumns<'_>) -> Result<Self, FilterError> {
        check::compile(text, columns)
    }

    /// The predicate as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The predicate and the declared types of what it reads: two of the same signature want the same rows.
    #[must_use]
    pub fn signature(&self) -> String {
        let columns = self.paths.iter().zip(&self.kinds).filter_map(|(path, kind)| Some((path, (*kind)?)));
        columns.fold(self.text.trim().to_owned(), |text, (path, kind)| format!("{text}; {path} {kind}"))
    }

    /// Whether the row is wanted.
    ///
    /// # Errors
    /// It cannot be said: the predicate compares what is null, or what is not of the type that was declared, or costs more
    /// than a row may.
    pub fn matches<'r>(&self, row: &Row<'r>, fields: &mut FilterFields<'r>) -> Result<bool, FilterFault> {
        row.get_many(&self.paths, &mut fields.0);
        eval::matches(self, &fields.0, row.is_xml()).map_err(|problem| FilterFault { problem })
    }
}

/// As it was written.
impl fmt::Display for RowFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
