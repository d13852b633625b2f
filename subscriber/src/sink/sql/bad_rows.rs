//! Rows that cannot be used, as they are kept beside the tables.

use crate::FileKey;

/// A row that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRowEntry {
    /// The file.
    pub file: FileKey,
    /// The file's blobType, where it is still known.
    pub blob_type: Option<String>,
    /// The row's number there, from 1.
    pub row: u64,
    /// Where it begins, in plain bytes; unknown for one that was parked before.
    pub offset: Option<u64>,
    /// Its key, the parts joined by commas, if it has a good one.
    pub key: Option<String>,
    /// As in [`Reason::as_str`](waybill_contracts::Reason::as_str).
    pub reason: String,
    /// What is wrong.
    pub problem: String,
    /// The row as it stands in the file, cut at 64 KiB; as JSON if it was parked before.
    pub bytes: Vec<u8>,
    /// When it was found, RFC 3339.
    pub found_at: String,
}

/// Which of them.
#[derive(Debug, Clone, Default)]
pub struct BadRowsOf {
    /// Of this file.
    pub file: Option<FileKey>,
    /// Of files of these blobTypes.
    pub types: Option<Vec<String>>,
    /// After the row of this number: the next page of a file.
    pub after: u64,
}

impl BadRowsOf {
    /// Those of one file.
    #[must_use]
    pub fn file(file: &FileKey) -> Self {
        Self { file: Some(file.clone()), ..Self::default() }
    }
}
