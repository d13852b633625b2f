//! Names that are safe where they are used: in a blob's path, as a file, as an SQL identifier. Other people's text
//! reaches none of these places but through here.

use std::fmt::{self, Write as _};

use sha2::{Digest, Sha256};

use crate::quote::quote;
use crate::uri::encode_segment;

/// The identity of an export: a publisher's own, or a UUID. 1–120 characters of `[A-Za-z0-9._-]`: it is the message-id,
/// to which a resend appends `.N`, and Service Bus takes 128 characters there (source: Microsoft, "Azure Service Bus
/// quotas").
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExportId(String);

/// A blobType that may be published: `[A-Za-z0-9][A-Za-z0-9._-]*`, 1–200 characters. (Accepted ones are any text.)
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobType(String);

/// The name of a blob in its container: segments joined by `/`, none of them empty, `.` or `..`, no backslash and no
/// control character; ≤ 1,024 characters, ≤ 254 segments.
/// Source: Microsoft, "Naming and referencing containers, blobs, and metadata".
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlobPath(String);

/// A name for a local file made of any text: one path segment, never `.` or `..`, no separator, no NUL, ≤ 200 bytes,
/// safe on Windows too; different texts give different names (also where case does not count).
///
/// ASCII letters, digits, `_`, `-` and `.` stay, every other byte is `=XX`. A name with capitals ends in `~` and a hex
/// number that tells which letters they are (the first letter is the lowest bit), so that `Item` and `item` do not meet
/// on a disk that holds them for the same: `ItemChanges` is `ItemChanges~11`. A name that would be too long is cut and
/// ends in `~x` and a hash of the text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileName(String);

/// A name for a table or a column made of any text: ≤ 63 bytes (PostgreSQL's limit, "Identifiers and Key Words") with a
/// hash suffix where it was cut, always quoted when written. Different texts give different names.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SqlName(String);

/// Why a text is not such a name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{what} {} {problem}", quote(.text))]
pub struct NameError {
    what: &'static str,
    text: String,
    problem: &'static str,
}

const EXPORT_ID_BYTES_MAX: usize = 120;
const BLOB_TYPE_BYTES_MAX: usize = 200;
const BLOB_PATH_CHARACTERS_MAX: usize = 1_024;
const BLOB_PATH_SEGMENTS_MAX: usize = 254;
const FILE_NAME_BYTES_MAX: usize = 200;
const SQL_NAME_BYTES_MAX: usize = 63;

impl ExportId {
    /// # Errors
    /// Says which rule the text breaks.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        let problem = match text.len() {
            _ if !text.bytes().all(is_plain) => "may hold letters, digits, '.', '_' and '-' only",
            1..=EXPORT_ID_BYTES_MAX => return Ok(Self(text)),
            _ => "must have 1 to 120 characters",
        };
        Err(NameError { what: "exportId", text, problem })
    }

    /// A fresh one (UUID version 7).
    #[must_use]
    pub fn random() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl BlobType {
    /// # Errors
    /// Says which rule the text breaks.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        let problem = match text.as_bytes() {
            bytes if !bytes.iter().copied().all(is_plain) => "may hold letters, digits, '.', '_' and '-' only",
            [first, ..] if !first.is_ascii_alphanumeric() => "must start with a letter or a digit",
            bytes if (1..=BLOB_TYPE_BYTES_MAX).contains(&bytes.len()) => return Ok(Self(text)),
            _ => "must have 1 to 200 characters",
        };
        Err(NameError { what: "blobType", text, problem })
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')
}

impl BlobPath {
    /// Takes a decoded name.
    ///
    /// # Errors
    /// Says which rule the text breaks.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        let problem = if text.chars().count() > BLOB_PATH_CHARACTERS_MAX {
            "has more than 1,024 characters"
        } else if text.split('/').count() > BLOB_PATH_SEGMENTS_MAX {
            "has more than 254 segments"
        } else if text.split('/').any(str::is_empty) {
            "has an empty segment"
        } else if text.split('/').any(|segment| segment == "." || segment == "..") {
            "has a dot segment"
        } else if text.contains('\\') {
            "holds a backslash"
        } else if text.chars().any(char::is_control) {
            "holds a control character"
        } else {
            return Ok(Self(text));
        };
        Err(NameError { what: "blob name", text, problem })
    }

    /// `{blobType}/{yyyy-mm-dd}/{correlationId, encoded}-{uuid}.{suffix}.gz`; the correlationId is encoded as a
    /// [`FileName`], `suffix` is a [`Format::suffix`](crate::Format::suffix) without dots.
    #[must_use]
    pub fn for_export(
        blob_type: &BlobType,
        date: time::Date,
        correlation_id: &str,
        unique: uuid::Uuid,
        suffix: &str,
    ) -> Self {
        let correlation_id = FileName::encode(correlation_id);
        let suffix = FileName::encode(suffix);
        Self(format!("{blob_type}/{date}/{correlation_id}-{unique}.{suffix}.gz"))
    }

    /// The blobType of a name that [`BlobPath::for_export`] gives; `None` for any other.
    #[must_use]
    pub fn export_type(&self) -> Option<BlobType> {
        let mut segments = self.0.split('/');
        let (blob_type, date, file) = (segments.next()?, segments.next()?, segments.next()?);
        let is_date = date.len() == 10
            && date.bytes().enumerate().all(
                |(at, byte)| {
                    if matches!(at, 4 | 7) { byte == b'-' } else { byte.is_ascii_digit() }
                },
            );
        let stem = file.strip_suffix(".gz")?.rsplit_once('.')?.0;
        let (before, uuid) = stem.split_at_checked(stem.len().checked_sub(36)?)?;
        let is_ours = segments.next().is_none() && is_date && before.len() > 1 && before.ends_with('-');
        (is_ours && uuid::Uuid::try_parse(uuid).is_ok()).then(|| BlobType::new(blob_type).ok())?
    }

    /// The name, decoded.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name as it stands in a URL: each segment percent-encoded.
    #[must_use]
    pub fn encoded(&self) -> String {
        self.0.split('/').map(encode_segment).collect::<Vec<_>>().join("/")
    }
}

impl FileName {
    /// Encodes any text.
    #[must_use]
    pub fn encode(text: &str) -> Self {
        if text.is_empty() {
            // An escape has two digits, so that no other text gives this name.
            return Self("=".to_owned());
        }
        let reserved = is_reserved_on_windows(text);
        let mut name = String::with_capacity(text.len() + 8);
        let bytes = text.as_bytes();
        for (at, &byte) in bytes.iter().enumerate() {
            let first = at == 0;
            let stays = match byte {
                b'.' => !first && at + 1 < bytes.len() && bytes.get(at - 1) != Some(&b'.'),
                b'-' => !first, // a command would take it for an option
                _ => is_plain(byte) && !(first && reserved),
            };
            if stays {
                name.push(char::from(byte));
            } else {
                write!(name, "={byte:02X}").expect("writing to a string cannot fail");
            }
        }
        name.push_str(&capitals(text));
        if name.len() > FILE_NAME_BYTES_MAX {
            let hash = hash(text, 16);
            name = format!("{}~x{hash}", head(&name, FILE_NAME_BYTES_MAX - 2 - hash.len(), '='));
        }
        Self(name)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Devices of DOS, with or without a suffix. Source: Microsoft, "Naming Files, Paths, and Namespaces".
fn is_reserved_on_windows(text: &str) -> bool {
    let stem = text.split('.').next().unwrap_or_default().to_ascii_uppercase();
    match stem.as_bytes() {
        b"CON" | b"PRN" | b"AUX" | b"NUL" => true,
        [b'C', b'O', b'M', digit] | [b'L', b'P', b'T', digit] => digit.is_ascii_digit(),
        _ => false,
    }
}

/// `~` and a hex number whose bit n says that the n-th ASCII letter is a capital; empty when none is.
fn capitals(text: &str) -> String {
    let letters = text.bytes().filter(u8::is_ascii_alphabetic).collect::<Vec<_>>();
    let digits = letters.chunks(4).map(|chunk| {
        let value = chunk.iter().rev().fold(0, |value, letter| value << 1 | u32::from(letter.is_ascii_uppercase()));
        char::from_digit(value, 16).expect("four bits are one digit")
    });
    let digits = digits.collect::<Vec<_>>().into_iter().rev().skip_while(|digit| *digit == '0').collect::<String>();
    if digits.is_empty() { digits } else { format!("~{digits}") }
}

/// The first `max` bytes or a little less: no character is cut, and neither is an escape of `escape` and two digits.
fn head(text: &str, max: usize, escape: char) -> &str {
    let mut end = text.floor_char_boundary(max);
    if let Some(at) = text.get(..end).and_then(|head| head.rfind(escape))
        && at + 3 > end
    {
        end = at;
    }
    text.get(..end).unwrap_or_default()
}

/// The first `bytes` of the text's SHA-256 in hex.
fn hash(text: &str, bytes: usize) -> String {
    Sha256::digest(text.as_bytes()).iter().take(bytes).fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("writing to a string cannot fail");
        hex
    })
}

impl SqlName {
    /// Takes any text. One that is empty, longer than 63 bytes, holds a NUL (no database takes these), or looks like a
    /// name that was cut, is cut to 46 bytes, then `~` and 16 hex digits of its SHA-256.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let fits = (1..=SQL_NAME_BYTES_MAX).contains(&text.len()) && !text.contains('\0') && !looks_cut(text);
        if fits {
            return Self(text.to_owned());
        }
        let hash = hash(text, 8);
        let head = text.get(..text.floor_char_boundary(SQL_NAME_BYTES_MAX - 1 - hash.len())).unwrap_or_default();
        Self(format!("{}~{hash}", head.replace('\0', "_")))
    }

    /// The name, unquoted: for look-ups in a catalogue only.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn looks_cut(text: &str) -> bool {
    text.rsplit_once('~').is_some_and(|(_, mark)| {
        mark.len() == 16 && mark.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// Quoted for SQL: `"name"`, inner quotes doubled.
impl fmt::Display for SqlName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for (nth, part) in self.0.split('"').enumerate() {
            if nth > 0 {
                f.write_str("\"\"")?;
            }
            f.write_str(part)?;
        }
        f.write_char('"')
    }
}

/// These are written as they are; only an [`SqlName`] needs quotes.
macro_rules! display_as_text {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}

display_as_text!(ExportId, BlobType, BlobPath, FileName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_stay_readable() {
        let names = [
            ("7e06807f-674f-4199-9140-a97b897dbaee", "7e06807f-674f-4199-9140-a97b897dbaee"),
            ("product_list_price_history", "product_list_price_history"),
            ("ItemChanges", "ItemChanges~11"),
            ("itemchanges", "itemchanges"),
            ("ITEM", "ITEM~f"),
            ("order/4711", "order=2F4711"),
            ("order=2F4711", "order=3D2F4711~20"),
            ("å", "=C3=A5"),
            ("", "="),
            (".", "=2E"),
            ("..", "=2E=2E"),
            ("a..b", "a.=2Eb"),
            ("../../etc/passwd", "=2E=2E=2F.=2E=2Fetc=2Fpasswd"),
            ("-rf", "=2Drf"),
            ("CON", "=43ON~7"),
            ("con.txt", "=63on.txt"),
            ("com1", "=63om1"),
            ("console", "console"),
            ("a.", "a=2E"),
            ("a:b", "a=3Ab"),
            ("a~1", "a=7E1"),
            ("\0", "=00"),
        ];
        for (text, name) in names {
            assert_eq!(FileName::encode(text).as_str(), name, "{text:?}");
        }
    }

    #[test]
    fn a_long_file_name_is_cut_between_escapes_and_keeps_a_hash() {
        let name = FileName::encode(&"å".repeat(100));
        // 166 bytes are left for the text: 55 whole escapes.
        assert_eq!(name.as_str().len(), 55 * 3 + 2 + 32);
        assert!(name.as_str().contains("=A5=C3~x"), "{name}");
        let other = FileName::encode(&format!("{}ä", "å".repeat(99)));
        assert_ne!(name, other);
    }

    #[test]
    fn sql_names_are_cut_at_63_bytes_and_never_inside_a_character() {
        assert_eq!(SqlName::new("ProductID").as_str(), "ProductID");
        assert_eq!(SqlName::new(&"a".repeat(63)).as_str(), "a".repeat(63));
        let cut = SqlName::new(&"a".repeat(64));
        assert_eq!(cut.as_str(), format!("{}~ffe054fe7ae0cb6d", "a".repeat(46)));
        assert_ne!(SqlName::new(cut.as_str()), cut);
        assert_eq!(SqlName::new(&"å".repeat(40)).as_str().chars().filter(|c| *c == 'å').count(), 23);
        assert_eq!(SqlName::new("").as_str(), "~e3b0c44298fc1c14");
        assert!(SqlName::new("a\0b").as_str().starts_with("a_b~"));
    }

    #[test]
    fn sql_names_are_always_quoted() {
        assert_eq!(SqlName::new("Group").to_string(), "\"Group\"");
        assert_eq!(SqlName::new("x\"; DROP TABLE t; --").to_string(), "\"x\"\"; DROP TABLE t; --\"");
        assert_eq!(SqlName::new("\"").to_string(), "\"\"\"\"");
    }

    #[test]
    fn names_that_break_a_rule_say_which() {
        let refused = [
            (ExportId::new("").unwrap_err(), "exportId \"\" must have 1 to 120 characters"),
            (ExportId::new("a".repeat(121)).unwrap_err(), "must have 1 to 120 characters"),
            (ExportId::new("å").unwrap_err(), "may hold letters, digits, '.', '_' and '-' only"),
            (BlobType::new("").unwrap_err(), "blobType \"\" must have 1 to 200 characters"),
            (BlobType::new("a".repeat(201)).unwrap_err(), "must have 1 to 200 characters"),
            (BlobType::new("_a").unwrap_err(), "must start with a letter or a digit"),
            (BlobType::new("a/b").unwrap_err(), "may hold letters"),
            (BlobPath::new("").unwrap_err(), "has an empty segment"),
            (BlobPath::new("a//b").unwrap_err(), "has an empty segment"),
            (BlobPath::new("a/../b").unwrap_err(), "has a dot segment"),
            (BlobPath::new("a/.").unwrap_err(), "has a dot segment"),
            (BlobPath::new("a\\b").unwrap_err(), "holds a backslash"),
            (BlobPath::new("a\nb").unwrap_err(), "holds a control character"),
            (BlobPath::new("a".repeat(1_025)).unwrap_err(), "has more than 1,024 characters"),
            (BlobPath::new("a/".repeat(254) + "b").unwrap_err(), "has more than 254 segments"),
        ];
        for (error, words) in refused {
            let text = error.to_string();
            assert!(text.contains(words), "{text}");
            assert!(text.chars().count() < 200, "{text}");
        }
        assert!(ExportId::new("a".repeat(120)).is_ok());
        assert!(BlobPath::new("å".repeat(1_024)).is_ok());
        assert!(BlobPath::new("a/".repeat(253) + "b").is_ok());
    }

    #[test]
    fn the_type_is_read_from_names_of_exports_and_from_no_others() {
        let uuid = uuid::Uuid::from_u128(7);
        let date = time::Date::from_calendar_date(2026, time::Month::March, 9).unwrap();
        let blob_type = BlobType::new("Item.Changes").unwrap();
        for correlation_id in ["c-1", "größe 7/..", ""] {
            let name = BlobPath::for_export(&blob_type, date, correlation_id, uuid, "jsonl");
            assert_eq!(name.export_type().as_ref(), Some(&blob_type), "{name}");
        }
        for other in [
            format!("a-{uuid}.jsonl.gz"),
            format!("T/2026-03-09/a-{uuid}.jsonl"),
            format!("T/2026-03-09/a-{uuid}.gz"),
            format!("T/2026-03-09/{uuid}.jsonl.gz"),
            format!("T/2026-03/a-{uuid}.jsonl.gz"),
            format!("T/2026-03-xx/a-{uuid}.jsonl.gz"),
            format!("_T/2026-03-09/a-{uuid}.jsonl.gz"),
            format!("x/T/2026-03-09/a-{uuid}.jsonl.gz"),
            "T/2026-03-09/a-ååååååååååååååååååååå.jsonl.gz".to_owned(),
            "T/2026-03-09/a.jsonl.gz".to_owned(),
        ] {
            assert_eq!(BlobPath::new(other.as_str()).unwrap().export_type(), None, "{other}");
        }
    }

    #[test]
    fn fresh_export_ids_are_valid_and_sort_by_time() {
        let ids = (0..100).map(|_| ExportId::random()).collect::<Vec<_>>();
        assert!(ids.is_sorted());
        assert!(ids.iter().all(|id| ExportId::new(id.as_str()).as_ref() == Ok(id)));
    }
}
