//! Which format a file has and how it is packed: `contentType`, what `properties` add to it, `contentEncoding` and file
//! suffixes.

use serde_json::value::RawValue;

use crate::Reason;
use crate::metadata::as_object;
use crate::object::RawObject;
use crate::quote::quote;

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
    /// For CSV: what is between fields, an ASCII character.
    pub delimiter: u8,
    /// For XML: the local name of the elements that are rows; `None`: the children of the document's element.
    pub row: Option<String>,
}

/// How the blob's bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Not packed.
    Identity,
    /// gzip.
    Gzip,
}

/// Why a `contentType` or `contentEncoding` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct MediaError {
    /// For the inbox.
    pub reason: Reason,
    text: String,
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
        match suffix.to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            "json" => Some(Self::Json),
            "csv" => Some(Self::Csv),
            "xml" => Some(Self::Xml),
            "xmll" => Some(Self::XmlLines),
            _ => None,
        }
    }

    fn from_media_type(name: &str) -> Option<Self> {
        match name {
            "application/x-jsonlines" | "application/jsonl" | "application/x-ndjson" => Some(Self::JsonLines),
            "application/json" => Some(Self::Json),
            "text/csv" | "application/csv" => Some(Self::Csv),
            "text/xml" | "application/xml" => Some(Self::Xml),
            "application/x-xmllines" => Some(Self::XmlLines),
            _ => None,
        }
    }
}

impl Media {
    /// A format without parameters.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self { format, charset: None, header: HeaderRow::Present, delimiter: COMMA, row: None }
    }

    /// Reads a media type with its parameters (RFC 9110, section 8.3.1), in any case. Parameters other than `charset`, for
    /// CSV `header` and `delimiter`, and for XML `row` mean nothing to us and are passed over; of a repeated one the first
    /// counts.
    ///
    /// # Errors
    /// `unknown-content-type` when the type is none of ours or the text is no media type; `unsupported-format` when a
    /// parameter has a value that it cannot have.
    pub fn parse(text: &str) -> Result<Self, MediaError> {
        Self::with_properties(text, None)
    }

    /// As [`Media::parse`]; what no parameter says is looked for in a message's `properties`: `charset`, `csv.header`,
    /// `csv.delimiter`, `xml.row`. There everything but a text counts as absent.
    pub(crate) fn with_properties(text: &str, properties: Option<&RawValue>) -> Result<Self, MediaError> {
        let (name, mut rest) = text.split_once(';').unwrap_or((text, ""));
        let name = name.trim().to_ascii_lowercase();
        let format = Format::from_media_type(&name).ok_or_else(|| MediaError {
            reason: Reason::UnknownContentType,
            text: format!(
                "contentType {} is none of those we read: text/csv, application/json, application/x-jsonlines, \
                 text/xml, application/x-xmllines and their other spellings",
                quote(text)
            ),
        })?;
        let (mut charset, mut header, mut delimiter, mut row) = (None, None, None, None);
        while !rest.trim().is_empty() {
            let (parameter, after) = next_parameter(rest).ok_or_else(|| MediaError {
                reason: Reason::UnknownContentType,
                text: format!("contentType {} has a quoted parameter that does not end", quote(text)),
            })?;
            rest = after;
            match parameter.name.as_str() {
                "charset" => charset = charset.or(Some(parameter.value)),
                "header" if format == Format::Csv => header = header.or(Some(parameter.value)),
                "delimiter" if format == Format::Csv => delimiter = delimiter.or(Some(parameter.value)),
                "row" if format == Format::Xml => row = row.or(Some(parameter.value)),
                _ => {}
            }
        }
        let is_said = |value: &String| !value.trim().is_empty();
        if let Some(properties) = properties.and_then(as_object) {
            let part = |name: &str| properties.get(name).and_then(as_object);
            charset = charset.filter(is_said).or_else(|| text_of(&properties, "charset"));
            if let Some(csv) = part("csv").filter(|_| format == Format::Csv) {
                header = header.or_else(|| text_of(&csv, "header"));
                delimiter = delimiter.or_else(|| text_of(&csv, "delimiter"));
            }
            if let Some(xml) = part("xml").filter(|_| format == Format::Xml) {
                row = row.or_else(|| text_of(&xml, "row"));
            }
        }
        let unsupported = |problem: String| {
            Err(MediaError { reason: Reason::UnsupportedFormat, text: format!("{problem} of {}", quote(text)) })
        };
        let header = match header.map(|header| header.trim().to_ascii_lowercase()).as_deref() {
            None | Some("present") => HeaderRow::Present,
            Some("absent") => HeaderRow::Absent,
            Some(other) => {
                return unsupported(format!(
                    "header {} is neither present nor absent, in contentType or properties",
                    quote(other)
                ));
            }
        };
        let delimiter = match delimiter.as_deref().map(delimiter_of) {
            None => COMMA,
            Some(Some(delimiter)) => delimiter,
            Some(None) => {
                return unsupported(
                    "delimiter must be one ASCII character or comma, semicolon, tab or pipe, in contentType or properties".to_owned(),
                );
            }
        };
        let charset = charset.filter(is_said).map(|charset| charset.trim().to_ascii_lowercase());
        let row = row.filter(is_said).map(|row| row.trim().to_owned());
        Ok(Self { format, charset, header, delimiter, row })
    }
}

impl Encoding {
    /// Reads a `contentEncoding`, in any case; empty text counts as absent.
    ///
    /// # Errors
    /// `unknown-content-encoding`.
    pub fn parse(text: &str) -> Result<Option<Self>, MediaError> {
        match text.trim().to_ascii_lowercase().as_str() {
            "" => Ok(None),
            "identity" => Ok(Some(Self::Identity)),
            "gzip" => Ok(Some(Self::Gzip)),
            _ => Err(MediaError {
                reason: Reason::UnknownContentEncoding,
                text: format!("contentEncoding {} is neither gzip nor identity", quote(text)),
            }),
        }
    }
}

const COMMA: u8 = b',';

fn text_of(object: &RawObject, name: &str) -> Option<String> {
    object.get(name).and_then(|value| serde_json::from_str(value.get()).ok())
}

fn delimiter_of(text: &str) -> Option<u8> {
    match text.trim_matches(' ').to_ascii_lowercase().as_str() {
        "comma" => Some(COMMA),
        "semicolon" => Some(b';'),
        "tab" => Some(b'\t'),
        "pipe" => Some(b'|'),
        other => match other.as_bytes() {
            [byte] if byte.is_ascii() && !byte.is_ascii_alphanumeric() && !matches!(byte, b'"' | b'\r' | b'\n') => {
                Some(*byte)
            }
            _ => None,
        },
    }
}

/// The name in lower case, the value as it is.
struct Parameter {
    name: String,
    value: String,
}

/// The next `name=value` or `name="value"` and what follows its `;`; `None` when a quote is left open.
fn next_parameter(text: &str) -> Option<(Parameter, &str)> {
    let mut value = String::new();
    let mut name = None;
    let (mut quoted, mut escaped) = (false, false);
    let mut chars = text.char_indices();
    let mut after = "";
    for (at, c) in chars.by_ref() {
        match c {
            _ if escaped => {
                escaped = false;
                value.push(c);
            }
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ';' if !quoted => {
                after = text.get(at + 1..).unwrap_or_default();
                break;
            }
            '=' if !quoted && name.is_none() => name = Some(std::mem::take(&mut value)),
            _ => value.push(c),
        }
    }
    if quoted {
        return None;
    }
    let lower = |text: String| text.trim().to_ascii_lowercase();
    let parameter = match name {
        Some(name) => Parameter { name: lower(name), value },
        None => Parameter { name: lower(value), value: String::new() },
    };
    Some((parameter, after))
}
