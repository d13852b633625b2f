//! The text of a `where`, and where it stands: it is compiled elsewhere, and its errors point here.

use std::ops::Range;

use super::EntityError;

/// `where = …`, in CEL. This crate does not read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Predicate {
    text: String,
    file: String,
    /// Of the first character; of the whole, where escapes stand in it.
    line: usize,
    column: Option<usize>,
}

impl Predicate {
    /// One that stands in no file.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), file: "where".to_owned(), line: 1, column: Some(1) }
    }

    /// One that stands in a TOML file of this text; `at` is the whole value there, in bytes, with its quotes.
    #[must_use]
    pub fn in_document(text: &str, file: &str, document: &str, at: Range<usize>) -> Self {
        let mut placed = Self::placed(text, document, at);
        placed.set_file(file);
        placed
    }

    /// `at` is the whole value in `document`, with its quotes.
    pub(super) fn placed(text: &str, document: &str, at: Range<usize>) -> Self {
        let value = document.get(at.clone()).unwrap_or_default();
        let quotes = if value.starts_with("\'\'\'") || value.starts_with("\"\"\"") { 3 } else { 1 };
        // A line break behind the opening quotes is not part of the text.
        let opening = match value.get(quotes..).unwrap_or_default() {
            rest if quotes == 3 && rest.starts_with('\n') => quotes + 1,
            rest if quotes == 3 && rest.starts_with("\r\n") => quotes + 2,
            _ => quotes,
        };
        let is_verbatim = value.get(opening..).is_some_and(|rest| rest.starts_with(text));
        let before = document.get(..at.start + if is_verbatim { opening } else { 0 }).unwrap_or_default();
        let line_begin = before.rfind('\n').map_or(0, |at| at + 1);
        let column = before.get(line_begin..).map_or(0, |line| line.chars().count()) + 1;
        let line = 1 + before.matches('\n').count();
        Self { text: text.to_owned(), file: String::new(), line, column: is_verbatim.then_some(column) }
    }

    pub(super) fn set_file(&mut self, file: &str) {
        file.clone_into(&mut self.file);
    }

    /// As it was written, without the file's quotes and escapes.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What is wrong with it, `characters` after its begin.
    #[must_use]
    pub fn error(&self, characters: usize, problem: &str) -> EntityError {
        let Some(column) = self.column else {
            let problem = format!("{problem} (at character {} of the predicate)", characters + 1);
            return EntityError { file: self.file.clone(), line: self.line, column: None, problem };
        };
        let (mut line, mut column) = (self.line, column);
        for character in self.text.chars().take(characters) {
            (line, column) = if character == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        EntityError { file: self.file.clone(), line, column: Some(column), problem: problem.to_owned() }
    }
}
