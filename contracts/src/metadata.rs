//! The waybill: the message that stands for a file.
//!
//! We accept widely and publish narrowly. What cannot be understood keeps its [`Reason`](crate::Reason), so that the
//! inbox can hold it where a person sees it.

use serde_json::value::RawValue;

use crate::{BlobPath, Extras, Reason};

/// The six fields of the message; what else it holds is kept as raw text and passed on.
#[derive(Debug, Clone)]
pub struct Metadata {
    /// 1–200 characters, any text.
    pub blob_type: String,
    /// 1–256 characters, any text.
    pub correlation_id: String,
    /// As sent; [`Metadata::media`] understands it.
    pub content_type: String,
    /// As sent; absent, `identity` or `gzip` are understood.
    pub content_encoding: Option<String>,
    /// As sent; [`Metadata::blob_uri`] understands it.
    pub uri: String,
    /// The value of `properties` as raw JSON text; `None` when absent or null.
    pub properties: Option<Box<RawValue>>,
    /// Fields we do not know, in their order.
    pub unknown: Vec<(String, Box<RawValue>)>,
}

/// Which of the five formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `application/x-jsonlines`, `application/jsonl`, `application/x-ndjson`.
    JsonLines,
    /// `application/json`: an array of objects, or a single object.
    Json,
    /// `text/csv`, `application/csv`.
    Csv,
    /// `text/xml`, `application/xml`.
    Xml,
    /// `application/x-xmllines`.
    XmlLines,
}

/// Whether a CSV file begins with its columns' names. RFC 4180, section 3 (`header`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum HeaderRow {
    /// The first row is names (the default).
    #[default]
    Present,
    /// `header=absent`: columns come from the entity.
    Absent,
}

/// A parsed `contentType`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// The format.
    pub format: Format,
    /// `charset`, in lower case, if given. The default is UTF-8.
    pub charset: Option<String>,
    /// For CSV.
    pub header: HeaderRow,
}

/// How the blob's bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Not packed.
    Identity,
    /// gzip.
    Gzip,
}

/// A `uri` that may be fetched: https (http for loopback only), no userinfo, no fragment, no dot segments, no encoded
/// slashes; its query was dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobUri {
    /// Scheme, host and port in lower case, without a default port: `https://myaccount.blob.core.windows.net`.
    pub origin: String,
    /// The account segment, for hosts that carry it in the path (`http://127.0.0.1:10000/devstoreaccount1/…`); else empty.
    /// Known only when compared with a grant, so this is every path segment, decoded; see [`BlobUri::under`].
    pub segments: Vec<String>,
}

/// Why a body is no waybill.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct MetadataError {
    /// For the inbox.
    pub reason: Reason,
    text: String,
}

/// Why a `contentType` or `contentEncoding` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct MediaError {
    /// For the inbox.
    pub reason: Reason,
    text: String,
}

/// Why a `uri` will not be fetched.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct BlobUriError {
    /// For the inbox.
    pub reason: Reason,
    text: String,
}

/// Why metadata may not be published, though we would accept it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PublishableError(String);

impl Metadata {
    /// Reads a message's body: UTF-8 JSON (a BOM is allowed), one object. With a repeated field the first one wins.
    ///
    /// # Errors
    /// [`MetadataError`] says which field, and carries the [`Reason`].
    pub fn parse(body: &[u8]) -> Result<Self, MetadataError> {
        todo!("{body:?}")
    }

    /// The body to send, fields in the order of the public description, unknown ones last.
    ///
    /// # Errors
    /// [`PublishableError`] when `blobType` is outside what we publish.
    pub fn to_json(&self) -> Result<Vec<u8>, PublishableError> {
        todo!()
    }

    /// What Waybill added under `properties.waybill`; all `None` when there is nothing.
    ///
    /// # Errors
    /// When it is there and of the wrong shape.
    pub fn extras(&self) -> Result<Extras, crate::ExtrasError> {
        todo!()
    }

    /// `properties` with `waybill` set to `extras` and everything else in its place.
    pub fn set_extras(&mut self, extras: &Extras) {
        todo!("{extras:?}")
    }

    /// The format and its parameters.
    ///
    /// # Errors
    /// `unknown-content-type`.
    pub fn media(&self) -> Result<Media, MediaError> {
        todo!()
    }

    /// The packing that the message names; `None` when it does not say (the suffix and the magic bytes decide).
    ///
    /// # Errors
    /// `unknown-content-encoding`.
    pub fn encoding(&self) -> Result<Option<Encoding>, MediaError> {
        todo!()
    }

    /// The address of the file.
    ///
    /// # Errors
    /// `bad-uri`.
    pub fn blob_uri(&self) -> Result<BlobUri, BlobUriError> {
        todo!()
    }
}

impl BlobUri {
    /// Parses an address by the rules above.
    ///
    /// # Errors
    /// `bad-uri`, naming the rule. The text of the error holds no query.
    pub fn parse(text: &str) -> Result<Self, BlobUriError> {
        todo!("{text}")
    }

    /// The blob's name when this address lies in `container` at `endpoint` (a grant's, which may carry a path such as
    /// `/devstoreaccount1`), else `None`.
    #[must_use]
    pub fn under(&self, endpoint: &url::Url, container: &str) -> Option<BlobPath> {
        todo!("{endpoint} {container}")
    }

    /// The address without its query, in one normal spelling: the identity of a file without an exportId.
    #[must_use]
    pub fn normalised(&self) -> String {
        todo!()
    }
}

impl Format {
    /// The media type that we publish.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::JsonLines => "application/x-jsonlines",
            Self::Json => "application/json",
            Self::Csv => "text/csv",
            Self::Xml => "text/xml",
            Self::XmlLines => "application/x-xmllines",
        }
    }

    /// The suffix in blob names: `jsonl`, `json`, `csv`, `xml`, `xmll`.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::JsonLines => "jsonl",
            Self::Json => "json",
            Self::Csv => "csv",
            Self::Xml => "xml",
            Self::XmlLines => "xmll",
        }
    }

    /// The format that a file's suffix names (`jsonl`, `ndjson`, `json`, `csv`, `xml`, `xmll`), without a dot, any case.
    #[must_use]
    pub fn from_suffix(suffix: &str) -> Option<Self> {
        todo!("{suffix}")
    }
}
