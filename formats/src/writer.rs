//! Rows in, bytes of a file out, compressed or not, in chunks as they become ready.

use bytes::Bytes;

use crate::{Field, Row};

/// How the file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// One gzip member, `mtime` 0, zlib level 1–9 (default of the callers: 4).
    Gzip(u32),
}

/// The layout to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriterOptions {
    /// A JSON object per line.
    JsonLines,
    /// RFC 4180 with a header row; null is bare, "" is quoted; `\n` line ends.
    Csv {
        /// The columns. A row's other fields are an error.
        columns: Vec<String>,
    },
    /// Bytes as they are: for files that are published unchanged. Rows are counted by nobody.
    Raw,
}

/// Writes one file.
#[derive(Debug)]
pub struct RowWriter {}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterStats {
    /// Rows; 0 for raw bytes.
    pub rows: u64,
    /// Before compression.
    pub plain_bytes: u64,
    /// After it.
    pub stored_bytes: u64,
    /// SHA-256 of the plain bytes.
    pub plain_sha256: [u8; 32],
    /// SHA-256 of the stored bytes.
    pub sha256: [u8; 32],
}

/// A row that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("row {row}: {problem}")]
pub struct EncodeError {
    /// 1-based.
    pub row: u64,
    pub(crate) problem: String,
}

impl RowWriter {
    /// Begins a file.
    #[must_use]
    pub fn new(options: WriterOptions, compression: Compression) -> Self {
        todo!("{options:?} {compression:?}")
    }

    /// Writes a row of names and values.
    ///
    /// # Errors
    /// A repeated name, a field that is no column, a nested value in CSV, a number that is no JSON number.
    pub fn row(&mut self, fields: &[(&str, Field<'_>)]) -> Result<(), EncodeError> {
        todo!("{fields:?}")
    }

    /// Writes a row that was read, in this file's layout. JSON Lines to JSON Lines: the same bytes.
    ///
    /// # Errors
    /// As [`RowWriter::row`].
    pub fn copy(&mut self, row: &Row<'_>) -> Result<(), EncodeError> {
        todo!("{row:?}")
    }

    /// Writes bytes as they are ([`WriterOptions::Raw`]).
    pub fn raw(&mut self, bytes: &[u8]) {
        todo!("{bytes:?}")
    }

    /// Takes what is ready to be stored, if it is at least `least` bytes.
    pub fn take(&mut self, least: usize) -> Option<Bytes> {
        todo!("{least}")
    }

    /// Ends the file: what remains, and what was written.
    #[must_use]
    pub fn finish(self) -> (Bytes, WriterStats) {
        todo!()
    }
}
