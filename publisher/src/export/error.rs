//! Why something was not exported.

use waybill_azure::blob::BlobError;
use waybill_formats::EncodeError;

use crate::outbox::OutboxError;

/// Why an export came to nothing, or to no known end. Whatever it was, exporting again with the same id is safe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExportError {
    /// What was asked for cannot be published.
    #[error("{what}: {problem}")]
    Invalid {
        /// The parameter.
        what: &'static str,
        /// What is wrong with it and what to do.
        problem: String,
    },
    /// A row cannot be written in this format. It was left out, and the file can go on without it.
    #[error("export {export_id}")]
    Row {
        /// The export.
        export_id: String,
        /// Which row, and why.
        #[source]
        source: EncodeError,
    },
    /// The source does not match its format. Nothing was published.
    #[error("{name}: row {row}, byte {offset}: {problem}; nothing of it was published")]
    Source {
        /// The file.
        name: String,
        /// 1-based.
        row: u64,
        /// Where, in plain bytes from the file's begin.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// The source cannot be read. Nothing was published.
    #[error("{name}: cannot be read; nothing of it was published")]
    Read {
        /// The file.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// The outbox cannot be used.
    #[error("export {export_id}")]
    Outbox {
        /// The export.
        export_id: String,
        /// Why.
        #[source]
        source: OutboxError,
    },
    /// Storage did not take the file. Nothing was published.
    #[error("export {export_id}: storage did not take the file; nothing of it was published, export it again")]
    Storage {
        /// The export.
        export_id: String,
        /// Why.
        #[source]
        source: BlobError,
    },
    /// The blob's name was taken, or a block was lost: this try is void, its number is told as such.
    #[error("export {export_id}: number {number} is void ({reason}); export it again")]
    Void {
        /// The export.
        export_id: String,
        /// Its number.
        number: u64,
        /// Why.
        reason: String,
    },
    /// Storage does not say whether the blob is there. `run` finds out and sends the message if it is; exporting again with
    /// the same id finds out as well.
    #[error(
        "export {export_id}: storage does not say whether the file is there; it is settled as soon as storage answers"
    )]
    Unsettled {
        /// The export.
        export_id: String,
        /// Why.
        #[source]
        source: BlobError,
    },
    /// The writer has failed before; nothing of it will be published.
    #[error("export {export_id}: it has failed already; export it again")]
    Failed {
        /// The export.
        export_id: String,
    },
}

impl ExportError {
    /// Whether the same export may succeed a little later without anybody doing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Storage { source, .. } => source.is_transient(),
            Self::Void { .. } | Self::Unsettled { .. } => true,
            Self::Outbox { source, .. } => matches!(source, OutboxError::Unavailable(_)),
            Self::Invalid { .. } | Self::Row { .. } | Self::Source { .. } | Self::Read { .. } | Self::Failed { .. } => {
                false
            }
        }
    }
}
