//! What Waybill adds to a message, under the one key `properties.waybill`. Every part is optional to a reader.

use time::OffsetDateTime;

use crate::ExportId;

/// `properties.waybill`. camelCase on the wire; parts we do not know are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extras {
    /// The export's identity; also the message-id.
    pub export_id: Option<ExportId>,
    /// Who published it: a name from the publisher's configuration.
    pub publisher: Option<String>,
    /// Made with the outbox database, new after a restore: a UUID version 7, so that epochs sort by their creation time.
    pub epoch: Option<String>,
    /// 1, 2, 3 … per publisher, epoch and blobType.
    pub sequence: Option<u64>,
    /// Rows in the file.
    pub rows: Option<u64>,
    /// Bytes of the blob as stored.
    pub bytes: Option<u64>,
    /// Bytes after unpacking.
    pub plain_bytes: Option<u64>,
    /// SHA-256 of the plain bytes, lower-case hex.
    pub plain_sha256: Option<String>,
    /// SHA-256 of the stored bytes, lower-case hex, where known in time.
    pub sha256: Option<String>,
    /// A name or address of the rows' schema.
    pub schema: Option<String>,
    /// The full export that this file is a part of.
    pub snapshot: Option<Snapshot>,
    /// When the blob may be deleted.
    pub expires_at: Option<OffsetDateTime>,
    /// The message or command that caused these changes.
    pub causation_id: Option<String>,
}

/// A file's place in a full export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The full export's identity.
    pub id: String,
    /// 1-based.
    pub part: u64,
    /// How many parts there are.
    pub of: u64,
    /// The last planned sequence number that the snapshot holds the effect of.
    pub as_of: u64,
}

/// `properties.waybill` is there but of the wrong shape.
#[derive(Debug, thiserror::Error)]
#[error("properties.waybill{pointer}: {problem}")]
pub struct ExtrasError {
    pointer: String,
    problem: String,
}
