//! Names that are safe where they are used: in a blob's path, as a file, as an SQL identifier. Other people's text
//! reaches none of these places but through here.

use std::fmt;

/// The identity of an export: a publisher's own, or a UUID. 1–128 characters of `[A-Za-z0-9._-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExportId(String);

/// A blobType that may be published: `[A-Za-z0-9][A-Za-z0-9._-]*`, 1–200 characters. (Accepted ones are any text.)
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobType(String);

/// The name of a blob in its container: segments joined by `/`, none of them empty, `.` or `..`; ≤ 1,024 characters.
/// Source: Microsoft, "Naming and referencing containers, blobs, and metadata".
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobPath(String);

/// A name for a local file made of any text: one path segment, never `.` or `..`, no separator, no NUL, ≤ 200 bytes,
/// safe on Windows too; different texts give different names (also where case does not count).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileName(String);

/// A name for a table or a column made of any text: ≤ 63 bytes (PostgreSQL's limit) with a hash suffix where it was cut,
/// always quoted when written.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SqlName(String);

/// Why a text is not such a name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} {text:?} {problem}")]
pub struct NameError {
    what: &'static str,
    text: String,
    problem: &'static str,
}

impl ExportId {
    /// # Errors
    /// Says which rule the text breaks.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        todo!("{}", text.into())
    }
    /// A fresh one (UUID version 7).
    #[must_use]
    pub fn random() -> Self {
        todo!()
    }
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl BlobType {
    /// # Errors
    /// Says which rule the text breaks.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        todo!("{}", text.into())
    }
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl BlobPath {
    /// Takes a decoded name.
    ///
    /// # Errors
    /// Says which rule the text breaks.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        todo!("{}", text.into())
    }
    /// `{blobType}/{yyyy-mm-dd}/{correlationId, encoded}-{uuid}.{ext}.gz`.
    #[must_use]
    pub fn for_export(blob_type: &BlobType, date: time::Date, correlation_id: &str, unique: uuid::Uuid, suffix: &str) -> Self {
        todo!("{blob_type:?} {date} {correlation_id} {unique} {suffix}")
    }
    /// The name, decoded.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The name as it stands in a URL: each segment percent-encoded.
    #[must_use]
    pub fn encoded(&self) -> String {
        todo!()
    }
}

impl FileName {
    /// Encodes any text.
    #[must_use]
    pub fn encode(text: &str) -> Self {
        todo!("{text}")
    }
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SqlName {
    /// Takes any text.
    #[must_use]
    pub fn new(text: &str) -> Self {
        todo!("{text}")
    }
    /// The name, unquoted: for look-ups in a catalogue only.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Quoted for SQL: `"name"`, inner quotes doubled.
impl fmt::Display for SqlName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!("{}", f.width().unwrap_or(0))
    }
}
