//! What Waybill adds to a message, under the one key `properties.waybill`. Every part is optional to a reader.

use serde::Serialize;
use serde_json::value::RawValue;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use crate::ExportId;
use crate::object::{RawObject, kind, raw_number, raw_text};

/// `properties.waybill`. camelCase on the wire; parts we do not know are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extras {
    /// The export's identity; also the message-id.
    pub export_id: Option<ExportId>,
    /// Who published it: a name from the publisher's configuration, 1–256 characters.
    pub publisher: Option<String>,
    /// Made with the outbox database, new after a restore: a UUID version 7, so that epochs sort by their creation time.
    /// 1–128 characters; a UUID is read in lower case, because epochs are compared as text.
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
    /// A name or address of the rows' schema, 1–2,048 characters.
    pub schema: Option<String>,
    /// The full export that this file is a part of.
    pub snapshot: Option<Snapshot>,
    /// When the blob may be deleted.
    pub expires_at: Option<OffsetDateTime>,
    /// The message or command that caused these changes, 1–256 characters.
    pub causation_id: Option<String>,
}

/// A file's place in a full export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The full export's identity, 1–128 characters.
    pub id: String,
    /// 1-based.
    pub part: u64,
    /// How many parts there are.
    pub of: u64,
    /// The last planned sequence number that the snapshot holds the effect of, below that of each part; 0 when there was none.
    pub as_of: u64,
}

/// `properties.waybill` is there but of the wrong shape.
#[derive(Debug, thiserror::Error)]
#[error("properties.waybill{pointer}: {problem}")]
pub struct ExtrasError {
    pointer: String,
    problem: String,
}

impl ExtrasError {
    /// There is nowhere to put our part.
    pub(crate) fn no_place(kind: &str) -> Self {
        Self { pointer: String::new(), problem: format!("properties is {kind}; only an object has room for it") }
    }
}

impl Extras {
    /// Reads the value of `properties.waybill`.
    pub(crate) fn from_raw(value: &RawValue) -> Result<Self, ExtrasError> {
        let parts = Parts::of(value, "")?;
        let sequence = parts.number("sequence", 1)?;
        Ok(Self {
            export_id: match parts.text("exportId", usize::MAX)? {
                Some(text) => Some(ExportId::new(text).map_err(|error| parts.error("exportId", error.to_string()))?),
                None => None,
            },
            publisher: parts.text("publisher", 256)?,
            epoch: parts.text("epoch", 128)?.map(epoch_of),
            sequence,
            rows: parts.number("rows", 0)?,
            bytes: parts.number("bytes", 0)?,
            plain_bytes: parts.number("plainBytes", 0)?,
            plain_sha256: parts.hash("plainSha256")?,
            sha256: parts.hash("sha256")?,
            schema: parts.text("schema", 2_048)?,
            snapshot: match parts.value("snapshot") {
                Some(value) => Some(Snapshot::from_raw(value, sequence)?),
                None => None,
            },
            expires_at: match parts.text("expiresAt", 64)? {
                Some(text) => Some(OffsetDateTime::parse(&text, &Rfc3339).map_err(|_| {
                    parts.error("expiresAt", "is no RFC 3339 time such as 2030-01-31T12:00:00Z".to_owned())
                })?),
                None => None,
            },
            causation_id: parts.text("causationId", 256)?,
        })
    }

    /// The value of `properties.waybill`. What is returned reads back; anything else is the error of reading it.
    pub(crate) fn to_raw(&self) -> Result<Box<RawValue>, ExtrasError> {
        let mut parts = RawObject::default();
        let mut put = |name: &str, value: Option<Box<RawValue>>| {
            if let Some(value) = value {
                parts.0.push((name.to_owned(), value));
            }
        };
        let text = |text: &Option<String>| text.as_deref().map(raw_text);
        let number = |number: Option<u64>| number.map(raw_number);
        put("exportId", self.export_id.as_ref().map(|id| raw_text(id.as_str())));
        put("publisher", text(&self.publisher));
        put("epoch", text(&self.epoch));
        put("sequence", number(self.sequence));
        put("rows", number(self.rows));
        put("bytes", number(self.bytes));
        put("plainBytes", number(self.plain_bytes));
        put("plainSha256", text(&self.plain_sha256));
        put("sha256", text(&self.sha256));
        put("schema", text(&self.schema));
        put("snapshot", self.snapshot.as_ref().map(Snapshot::to_raw));
        put("expiresAt", self.expires_at.map(raw_time).transpose()?);
        put("causationId", text(&self.causation_id));
        let raw = parts.to_raw();
        Self::from_raw(&raw)?;
        Ok(raw)
    }
}

impl Snapshot {
    /// `sequence`: the file's own number.
    fn from_raw(value: &RawValue, sequence: Option<u64>) -> Result<Self, ExtrasError> {
        let parts = Parts::of(value, "/snapshot")?;
        let missing = |name| move || parts_error("/snapshot", name, "is missing".to_owned());
        let snapshot = Self {
            id: parts.text("id", 128)?.ok_or_else(missing("id"))?,
            part: parts.number("part", 1)?.ok_or_else(missing("part"))?,
            of: parts.number("of", 1)?.ok_or_else(missing("of"))?,
            as_of: parts.number("asOf", 0)?.ok_or_else(missing("asOf"))?,
        };
        if snapshot.part > snapshot.of {
            return Err(parts.error("part", format!("is {}, more than of, {}", snapshot.part, snapshot.of)));
        }
        // No full export holds what was published after it.
        if let Some(own) = sequence.filter(|own| snapshot.as_of >= *own) {
            return Err(parts.error("asOf", format!("is {}, not below the file's own sequence, {own}", snapshot.as_of)));
        }
        Ok(snapshot)
    }

    fn to_raw(&self) -> Box<RawValue> {
        let field = |name: &str, value| (name.to_owned(), value);
        RawObject(vec![
            field("id", raw_text(&self.id)),
            field("part", raw_number(self.part)),
            field("of", raw_number(self.of)),
            field("asOf", raw_number(self.as_of)),
        ])
        .to_raw()
    }
}

/// Epochs are compared as text: a UUID in one spelling.
pub(crate) fn epoch_of(text: String) -> String {
    uuid::Uuid::try_parse(&text).map_or(text, |uuid| uuid.to_string())
}

/// In UTC, so that times written by different publishers look alike.
fn raw_time(time: OffsetDateTime) -> Result<Box<RawValue>, ExtrasError> {
    time.checked_to_offset(UtcOffset::UTC)
        .and_then(|time| time.format(&Rfc3339).ok())
        .map(|text| raw_text(&text))
        .ok_or_else(|| parts_error("", "expiresAt", "lies outside the years 0 to 9999".to_owned()))
}

/// The parts of an object at a JSON pointer below `properties.waybill`; null counts as absent.
struct Parts {
    object: RawObject,
    pointer: &'static str,
}

impl Parts {
    fn of(value: &RawValue, pointer: &'static str) -> Result<Self, ExtrasError> {
        match serde_json::from_str(value.get()) {
            Ok(object) => Ok(Self { object, pointer }),
            Err(_) => Err(ExtrasError {
                pointer: pointer.to_owned(),
                problem: format!("is {}, not an object", kind(value.get())),
            }),
        }
    }

    fn value(&self, name: &str) -> Option<&RawValue> {
        self.object.get(name).filter(|value| value.get() != "null")
    }

    fn text(&self, name: &'static str, characters_max: usize) -> Result<Option<String>, ExtrasError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        let text: String = serde_json::from_str(value.get())
            .map_err(|_| self.error(name, format!("is {}, not proper text", kind(value.get()))))?;
        let characters = text.chars().count();
        if characters == 0 || characters > characters_max {
            return Err(self.error(name, format!("has {characters} characters; it needs 1 to {characters_max}")));
        }
        Ok(Some(text))
    }

    /// Up to the largest integer of SQL, because every store keeps these as one.
    fn number(&self, name: &'static str, min: u64) -> Result<Option<u64>, ExtrasError> {
        let Some(value) = self.value(name) else { return Ok(None) };
        match serde_json::from_str::<u64>(value.get()) {
            Ok(number) if number >= min && i64::try_from(number).is_ok() => Ok(Some(number)),
            _ => Err(self.error(name, format!("is no whole number from {min} to {}", i64::MAX))),
        }
    }

    fn hash(&self, name: &'static str) -> Result<Option<String>, ExtrasError> {
        let Some(text) = self.text(name, 64)? else { return Ok(None) };
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(self.error(name, "is no SHA-256 in 64 hexadecimal digits".to_owned()));
        }
        Ok(Some(text.to_ascii_lowercase()))
    }

    fn error(&self, name: &str, problem: String) -> ExtrasError {
        parts_error(self.pointer, name, problem)
    }
}

fn parts_error(pointer: &str, name: &str, problem: String) -> ExtrasError {
    ExtrasError { pointer: format!("{pointer}/{name}"), problem }
}
