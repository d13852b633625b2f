//! A manifest: what became of every number of a publisher's sequence, as rows of an ordinary file.
//!
//! A manifest is an export of type [`MANIFEST_TYPE`] in JSON Lines. Each row is one number of another type's sequence, and
//! says all that has to be known of it: the message that was sent for it, or why there is none. So rows may be read in any
//! order, kept in a table, and a file whose message was lost can be had from its row alone.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{Metadata, extras::epoch_of, metadata::as_object};

/// The blobType of manifests. No other file has it.
pub const MANIFEST_TYPE: &str = "Waybill.Manifest";

/// A row of a manifest. Unknown fields are passed over.
#[derive(Debug, Clone, PartialEq)]
pub struct ManifestRow {
    /// Who published, as in [`Extras::publisher`](crate::Extras::publisher).
    pub publisher: String,
    /// As in [`Extras::epoch`](crate::Extras::epoch).
    pub epoch: String,
    /// The type whose sequence this is about.
    pub blob_type: String,
    /// The number: 1, 2, 3 …
    pub sequence: u64,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a number. It does not change any more, except that a void export whose message was on its way may have been
/// sent after all.
#[derive(Debug, Clone, PartialEq)]
pub enum Fate {
    /// This message was sent.
    Sent(Box<Metadata>),
    /// No file has it and none will; why.
    Void(String),
}

/// What a manifest names, as `properties.manifest` of its message says: without it, only the file tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestScope {
    /// Who published what it names.
    pub publisher: String,
    /// The epoch of the numbers.
    pub epoch: String,
    /// Their type.
    pub blob_type: String,
    /// The first of them.
    pub first: u64,
    /// The last.
    pub last: u64,
}

impl ManifestScope {
    /// The field of a message's `properties`.
    pub const PROPERTY: &str = "manifest";

    /// As a manifest's message says it; `None` where it does not.
    #[must_use]
    pub fn of(message: &Metadata) -> Option<Self> {
        let properties = message.properties.as_deref().and_then(as_object)?;
        serde_json::from_str(properties.get(Self::PROPERTY)?.get()).ok()
    }
}

/// A row is none of a manifest.
#[derive(Debug, thiserror::Error)]
#[error("the row of a manifest {0}")]
pub struct ManifestError(String);

/// As JSON; null counts as absent.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    publisher: String,
    epoch: String,
    blob_type: String,
    sequence: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    void: Option<String>,
}

impl ManifestRow {
    /// Reads a row: a JSON object.
    ///
    /// # Errors
    /// [`ManifestError`] says which field, also when the message in it is none, or one of another file.
    pub fn parse(row: &[u8]) -> Result<Self, ManifestError> {
        let Wire { publisher, epoch, blob_type, sequence, message, void } =
            serde_json::from_slice(row).map_err(|error| {
                ManifestError(format!(
                    "cannot be read: {error}; it has publisher, epoch, blobType, sequence, and message or void"
                ))
            })?;
        if i64::try_from(sequence).is_err() || sequence == 0 {
            return Err(ManifestError(format!("has sequence {sequence}; it is 1 to {}", i64::MAX)));
        }
        let fate = match (message, void) {
            (Some(message), None) => {
                let message = Metadata::parse(message.get().as_bytes())
                    .map_err(|error| ManifestError(format!("of {blob_type} {sequence}: message: {error}")))?;
                Fate::Sent(Box::new(message))
            }
            (None, Some(why)) => Fate::Void(why),
            _ => return Err(ManifestError(format!("of {blob_type} {sequence} needs one of message and void"))),
        };
        let epoch = epoch_of(epoch);
        let row = Self { publisher, epoch, blob_type, sequence, fate };
        row.check()?;
        Ok(row)
    }

    /// The row as one line of JSON, without a line feed.
    ///
    /// # Errors
    /// [`ManifestError`], when its message may not be published, or is one of another file.
    pub fn to_json(&self) -> Result<String, ManifestError> {
        self.check()?;
        let (message, void) = match &self.fate {
            Fate::Sent(message) => {
                let body = message.to_json().map_err(|error| self.error(&error.to_string()))?;
                let body = String::from_utf8(body).expect("a body is UTF-8");
                (Some(RawValue::from_string(body).expect("a body is JSON")), None)
            }
            Fate::Void(why) => (None, Some(why.clone())),
        };
        let wire = Wire {
            publisher: self.publisher.clone(),
            epoch: self.epoch.clone(),
            blob_type: self.blob_type.clone(),
            sequence: self.sequence,
            message,
            void,
        };
        Ok(serde_json::to_string(&wire).expect("texts and numbers can be written"))
    }

    /// A message that says of itself another place than the row would be taken for two files.
    fn check(&self) -> Result<(), ManifestError> {
        let Fate::Sent(message) = &self.fate else { return Ok(()) };
        let extras = message.extras().map_err(|error| self.error(&error.to_string()))?;
        let place = (extras.publisher.as_ref(), extras.epoch.as_ref(), extras.sequence, &message.blob_type);
        if place != (Some(&self.publisher), Some(&self.epoch), Some(self.sequence), &self.blob_type) {
            return Err(self.error("publisher, epoch, blobType and sequence are others than those of the row"));
        }
        Ok(())
    }

    fn error(&self, problem: &str) -> ManifestError {
        ManifestError(format!("of {} {}: message: {problem}", self.blob_type, self.sequence))
    }
}
