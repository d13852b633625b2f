//! The waybill: the message that stands for a file.
//!
//! We accept widely and publish narrowly. What cannot be understood keeps its [`Reason`], so that the inbox can hold it
//! where a person sees it.

use std::collections::HashSet;
use std::fmt;

use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::object::{RawObject, kind, raw_text};
use crate::quote::quote;
use crate::{BlobType, BlobUri, BlobUriError, Encoding, Extras, ExtrasError, Media, MediaError, Reason};

/// The longest body that is read, in bytes: what a Service Bus namespace carries unless it is told to carry more.
/// Source: Microsoft, "Azure Service Bus quotas" (256 KB in Standard, 1 MB in Premium by default).
pub const BODY_BYTES_MAX: usize = 1 << 20;

const BLOB_TYPE_CHARACTERS_MAX: usize = 200;
const CORRELATION_ID_CHARACTERS_MAX: usize = 256;

const BLOB_TYPE: &str = "blobType";
const CORRELATION_ID: &str = "correlationId";
const CONTENT_TYPE: &str = "contentType";
const CONTENT_ENCODING: &str = "contentEncoding";
const URI: &str = "uri";
const PROPERTIES: &str = "properties";
const WAYBILL: &str = "waybill";

/// The six fields of the message; what else it holds is kept as raw text and passed on. `Debug` shows no query of the
/// `uri` and no value of `properties`.
#[derive(Clone)]
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

/// Why a body is no waybill.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct MetadataError {
    /// For the inbox.
    pub reason: Reason,
    text: String,
}

/// Why metadata may not be published, though we would accept it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PublishableError(String);

impl Metadata {
    /// Reads a message's body: UTF-8 JSON (a BOM is allowed), one object, at most [`BODY_BYTES_MAX`] bytes. With a
    /// repeated field the first one wins.
    ///
    /// # Errors
    /// [`MetadataError`] says which field, and carries the [`Reason`].
    pub fn parse(body: &[u8]) -> Result<Self, MetadataError> {
        if body.len() > BODY_BYTES_MAX {
            let text = format!("the message has {} bytes; at most {BODY_BYTES_MAX} are read", body.len());
            return Err(MetadataError { reason: Reason::FieldOutOfBounds, text });
        }
        let not_json = |text| MetadataError { reason: Reason::NotJson, text };
        let text = std::str::from_utf8(body)
            .map_err(|error| not_json(format!("the message is not UTF-8 at byte {}", error.valid_up_to())))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let object = serde_json::from_str::<RawObject>(text).map_err(|error| {
            // An error of type would quote the value, and with it perhaps a token.
            not_json(match error.classify() {
                Category::Data => "the message is JSON, but not an object".to_owned(),
                _ => format!("the message is not one JSON object: {error}"),
            })
        })?;

        let (mut blob_type, mut correlation_id, mut content_type, mut uri) = (None, None, None, None);
        let (mut content_encoding, mut properties) = (None, None);
        let mut unknown = Vec::new();
        for (name, value) in object.0 {
            match name.as_str() {
                BLOB_TYPE => blob_type = Some(value),
                CORRELATION_ID => correlation_id = Some(value),
                CONTENT_TYPE => content_type = Some(value),
                CONTENT_ENCODING => content_encoding = Some(value),
                URI => uri = Some(value),
                PROPERTIES => properties = Some(value),
                _ => unknown.push((name, value)),
            }
        }
        Ok(Self {
            blob_type: bounded(BLOB_TYPE, required(BLOB_TYPE, blob_type)?, BLOB_TYPE_CHARACTERS_MAX)?,
            correlation_id: bounded(
                CORRELATION_ID,
                required(CORRELATION_ID, correlation_id)?,
                CORRELATION_ID_CHARACTERS_MAX,
            )?,
            content_type: required(CONTENT_TYPE, content_type)?,
            content_encoding: match content_encoding {
                Some(value) if !is_null(&value) => {
                    Some(text_of(CONTENT_ENCODING, &value, Reason::UnknownContentEncoding)?)
                }
                _ => None,
            },
            uri: required(URI, uri)?,
            properties: properties.filter(|value| !is_null(value)),
            unknown,
        })
    }

    /// The body to send, fields in the order of the public description, unknown ones last.
    ///
    /// # Errors
    /// [`PublishableError`] when a field is outside what we publish: `blobType` as [`BlobType`] has it, a
    /// `correlationId` of 1–256 characters, a `contentType` and `contentEncoding` that a reader knows, and a `uri` that
    /// one may fetch, without a query (it could hold a token); no field twice; at most [`BODY_BYTES_MAX`] bytes.
    pub fn to_json(&self) -> Result<Vec<u8>, PublishableError> {
        let refuse = |error: &dyn fmt::Display| PublishableError(error.to_string());
        BlobType::new(self.blob_type.as_str()).map_err(|error| refuse(&error))?;
        let characters = self.correlation_id.chars().count();
        if !(1..=CORRELATION_ID_CHARACTERS_MAX).contains(&characters) {
            return Err(PublishableError(format!(
                "correlationId has {characters} characters; it needs 1 to {CORRELATION_ID_CHARACTERS_MAX}"
            )));
        }
        self.media().map_err(|error| refuse(&error))?;
        self.encoding().map_err(|error| refuse(&error))?;
        self.blob_uri().map_err(|error| refuse(&error))?;
        if self.uri.contains('?') {
            return Err(PublishableError("uri has a query; publish the address without it".to_owned()));
        }

        let mut fields = vec![
            (BLOB_TYPE.to_owned(), raw_text(&self.blob_type)),
            (CORRELATION_ID.to_owned(), raw_text(&self.correlation_id)),
            (CONTENT_TYPE.to_owned(), raw_text(&self.content_type)),
        ];
        if let Some(encoding) = &self.content_encoding {
            fields.push((CONTENT_ENCODING.to_owned(), raw_text(encoding)));
        }
        fields.push((URI.to_owned(), raw_text(&self.uri)));
        if let Some(properties) = &self.properties {
            fields.push((PROPERTIES.to_owned(), properties.clone()));
        }
        let mut taken = HashSet::from([BLOB_TYPE, CORRELATION_ID, CONTENT_TYPE, CONTENT_ENCODING, URI, PROPERTIES]);
        for (name, value) in &self.unknown {
            if !taken.insert(name) {
                return Err(PublishableError(format!("field {} stands in the message twice", quote(name))));
            }
            fields.push((name.clone(), value.clone()));
        }
        let body = Box::<str>::from(RawObject(fields).to_raw()).into_string().into_bytes();
        if body.len() > BODY_BYTES_MAX {
            return Err(PublishableError(format!(
                "the message would have {} bytes; readers take at most {BODY_BYTES_MAX}",
                body.len()
            )));
        }
        Ok(body)
    }

    /// What Waybill added under `properties.waybill`; all `None` when there is nothing, or when `properties` is not an
    /// object.
    ///
    /// # Errors
    /// When it is there and of the wrong shape ([`Reason::BadExtras`]).
    pub fn extras(&self) -> Result<Extras, ExtrasError> {
        match self.properties.as_deref().and_then(as_object).as_ref().and_then(|object| object.get(WAYBILL)) {
            Some(value) if !is_null(value) => Extras::from_raw(value),
            _ => Ok(Extras::default()),
        }
    }

    /// `properties` with `waybill` set to `extras` and everything else in its place.
    ///
    /// # Errors
    /// When a reader would refuse `extras` (the error names the part), or when `properties` is neither absent nor an
    /// object, so that there is no place for it. Nothing is changed then.
    pub fn set_extras(&mut self, extras: &Extras) -> Result<(), ExtrasError> {
        let mut object = match self.properties.as_deref() {
            None => RawObject::default(),
            Some(properties) => as_object(properties).ok_or_else(|| ExtrasError::no_place(kind(properties.get())))?,
        };
        object.set(WAYBILL, extras.to_raw()?);
        self.properties = Some(object.to_raw());
        Ok(())
    }

    /// The format and its parameters, from `contentType`, and what those do not say from `properties`.
    ///
    /// # Errors
    /// `unknown-content-type`, or `unsupported-format` for a parameter that we cannot follow.
    pub fn media(&self) -> Result<Media, MediaError> {
        Media::with_properties(&self.content_type, self.properties.as_deref())
    }

    /// The packing that the message names; `None` when it does not say (the suffix and the magic bytes decide).
    ///
    /// # Errors
    /// `unknown-content-encoding`.
    pub fn encoding(&self) -> Result<Option<Encoding>, MediaError> {
        self.content_encoding.as_deref().map_or(Ok(None), Encoding::parse)
    }

    /// The address of the file.
    ///
    /// # Errors
    /// `bad-uri`.
    pub fn blob_uri(&self) -> Result<BlobUri, BlobUriError> {
        BlobUri::parse(&self.uri)
    }

    /// `uri` without its query, which may hold a token: for logs and listings, also when the address is a bad one.
    #[must_use]
    pub fn uri_without_query(&self) -> &str {
        self.uri.split(['?', '#']).next().unwrap_or_default()
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata")
            .field("blob_type", &self.blob_type)
            .field("correlation_id", &self.correlation_id)
            .field("content_type", &self.content_type)
            .field("content_encoding", &self.content_encoding)
            .field("uri", &self.uri_without_query())
            .field("properties_bytes", &self.properties.as_ref().map(|value| value.get().len()))
            .field("unknown", &self.unknown.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .finish()
    }
}

/// Raw values are compared as they are written.
impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        fn texts(fields: &[(String, Box<RawValue>)]) -> impl Iterator<Item = (&str, &str)> {
            fields.iter().map(|(name, value)| (name.as_str(), value.get()))
        }
        self.blob_type == other.blob_type
            && self.correlation_id == other.correlation_id
            && self.content_type == other.content_type
            && self.content_encoding == other.content_encoding
            && self.uri == other.uri
            && self.properties.as_deref().map(RawValue::get) == other.properties.as_deref().map(RawValue::get)
            && texts(&self.unknown).eq(texts(&other.unknown))
    }
}

fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

pub(crate) fn as_object(value: &RawValue) -> Option<RawObject> {
    serde_json::from_str(value.get()).ok()
}

fn required(name: &'static str, value: Option<Box<RawValue>>) -> Result<String, MetadataError> {
    let Some(value) = value else {
        let text = format!("the message has no {name}");
        return Err(MetadataError { reason: Reason::MissingField, text });
    };
    text_of(name, &value, Reason::MissingField)
}

fn text_of(name: &str, value: &RawValue, reason: Reason) -> Result<String, MetadataError> {
    if !value.get().starts_with('"') {
        return Err(MetadataError { reason, text: format!("{name} is {}, not text", kind(value.get())) });
    }
    serde_json::from_str(value.get())
        .map_err(|_| MetadataError { reason, text: format!("{name} holds an escape that is no character") })
}

fn bounded(name: &str, text: String, max: usize) -> Result<String, MetadataError> {
    let characters = text.chars().count();
    if (1..=max).contains(&characters) {
        return Ok(text);
    }
    let text = format!("{name} has {characters} characters; it needs 1 to {max}");
    Err(MetadataError { reason: Reason::FieldOutOfBounds, text })
}
