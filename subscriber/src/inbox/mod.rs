//! Durable inbox: which files were announced, who works them, and what became of them.

/// The identity of a file: its exportId, else its normalised uri.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileKey(String);

impl FileKey {
    /// From the extras' exportId and the publisher that gave it; ids of different publishers are different files.
    #[must_use]
    pub fn of_export(export_id: &str) -> Self {
        Self(format!("export:{export_id}"))
    }

    /// From a file's address, query removed.
    #[must_use]
    pub fn of_uri(normalised: &str) -> Self {
        Self(format!("uri:{normalised}"))
    }

    /// Reads back what [`FileKey::as_str`] gave.
    #[must_use]
    pub fn from_stored(text: String) -> Self {
        Self(text)
    }

    /// The text that inbox and sink store.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
