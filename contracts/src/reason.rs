//! Why a file or a row is kept aside.
//!
//! Inbox rows, sink tables and JSON output carry these names, so the set is closed and a name is never reused.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a message, a file or a row needs a person. Serialised in `kebab-case`; a name is never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// The message's body is not a JSON object in UTF-8.
    NotJson,
    /// The message's body could not be read at all: an AMQP body that is neither data nor text.
    Undecodable,
    /// A required field of the message is missing or is not text.
    MissingField,
    /// A field of the message, or the message as a whole, is longer or shorter than allowed.
    FieldOutOfBounds,
    /// `contentType` names no format that we know.
    UnknownContentType,
    /// `contentEncoding` is neither absent, `identity` nor `gzip`.
    UnknownContentEncoding,
    /// `contentType` names a known format, or a parameter of one, that this version cannot read.
    UnsupportedFormat,
    /// `uri` is not an absolute https address of a blob.
    BadUri,
    /// `uri` is at a host or in a container that no grant ever named; the SAS was not sent there.
    ForeignUri,
    /// `properties.waybill` is present but cannot be understood.
    BadExtras,
    /// The gzip stream is damaged: a bad header, checksum or length.
    CorruptGzip,
    /// The file ends in the middle of its gzip stream or of a row.
    TruncatedFile,
    /// The file's plain size, or its ratio to the compressed size, is over the limit.
    TooLarge,
    /// The file as a whole does not match its declared format (for example a CSV without a header).
    MalformedFile,
    /// A row does not match the declared format.
    MalformedRow,
    /// A row lacks a part of its entity's key, or the part is null.
    MissingKey,
    /// A part of a row's key is not of its declared type.
    BadKey,
    /// A row's version is missing or does not parse as the declared type.
    BadVersion,
    /// The file's content changed between two tries: its length or its hash is not what was announced.
    ContentChanged,
    /// The file's bytes do not match the hash or the length in its message.
    HashMismatch,
    /// A publisher other than the first one of an entity that has no declared version; or a file that cannot be told from one
    /// before the full export at which its table begins.
    ForeignPublisher,
    /// The entity's `where` cannot say whether the row is wanted.
    FilterError,
    /// The database refused the row.
    RefusedByDatabase,
    /// A row waited for its parent for as long as `max_wait` allows.
    ParentMissing,
    /// The file came through the subscription's dead-letter queue and cannot be worked.
    DeadLettered,
    /// A person put it aside.
    ByOperator,
}

impl Reason {
    /// Every reason, in the order of declaration.
    pub const ALL: [Self; 26] = [
        Self::NotJson,
        Self::Undecodable,
        Self::MissingField,
        Self::FieldOutOfBounds,
        Self::UnknownContentType,
        Self::UnknownContentEncoding,
        Self::UnsupportedFormat,
        Self::BadUri,
        Self::ForeignUri,
        Self::BadExtras,
        Self::CorruptGzip,
        Self::TruncatedFile,
        Self::TooLarge,
        Self::MalformedFile,
        Self::MalformedRow,
        Self::MissingKey,
        Self::BadKey,
        Self::BadVersion,
        Self::ContentChanged,
        Self::HashMismatch,
        Self::ForeignPublisher,
        Self::FilterError,
        Self::RefusedByDatabase,
        Self::ParentMissing,
        Self::DeadLettered,
        Self::ByOperator,
    ];

    /// The serialised name, such as `unknown-content-type`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotJson => "not-json",
            Self::Undecodable => "undecodable",
            Self::MissingField => "missing-field",
            Self::FieldOutOfBounds => "field-out-of-bounds",
            Self::UnknownContentType => "unknown-content-type",
            Self::UnknownContentEncoding => "unknown-content-encoding",
            Self::UnsupportedFormat => "unsupported-format",
            Self::BadUri => "bad-uri",
            Self::ForeignUri => "foreign-uri",
            Self::BadExtras => "bad-extras",
            Self::CorruptGzip => "corrupt-gzip",
            Self::TruncatedFile => "truncated-file",
            Self::TooLarge => "too-large",
            Self::MalformedFile => "malformed-file",
            Self::MalformedRow => "malformed-row",
            Self::MissingKey => "missing-key",
            Self::BadKey => "bad-key",
            Self::BadVersion => "bad-version",
            Self::ContentChanged => "content-changed",
            Self::HashMismatch => "hash-mismatch",
            Self::ForeignPublisher => "foreign-publisher",
            Self::FilterError => "filter-error",
            Self::RefusedByDatabase => "refused-by-database",
            Self::ParentMissing => "parent-missing",
            Self::DeadLettered => "dead-lettered",
            Self::ByOperator => "by-operator",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text).ok_or_else(|| UnknownReason(text.to_owned()))
    }
}

/// A stored reason that this version does not know; a newer one wrote it.
#[derive(Debug, thiserror::Error)]
#[error("unknown reason {0:?}; was this written by a newer version?")]
pub struct UnknownReason(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_reads_back_from_both_of_its_forms() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse::<Reason>().unwrap(), reason);
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{reason}\""));
        }
    }
}
