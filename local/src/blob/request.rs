//! What a storage request asks for: which container or blob, which operation, and what its headers say. Pure.
//!
//! # Sources
//! "Naming and referencing containers, blobs, and metadata" and the operations' own pages of the storage REST reference.

use http::{HeaderMap, Method, header};
use percent_encoding::percent_decode_str;
use time::{
    OffsetDateTime, PrimitiveDateTime,
    format_description::{BorrowedFormatItem, well_known::Rfc2822},
    macros::format_description,
};

use super::error::StorageError;
use crate::keys::{StorageLevel, StorageQuery};

pub(super) const RFC1123: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

/// Longest blob name, in characters.
const BLOB_NAME_MAX: usize = 1024;
/// Lengths of container names.
const CONTAINER_NAME_LENGTH: std::ops::RangeInclusive<usize> = 3..=63;

/// What a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) account: String,
    pub(super) container: Option<String>,
    pub(super) blob: Option<String>,
}

impl Target {
    /// Reads `/account/container/blob`, or `/container/blob` when the host is `account.…`. The blob is all that follows
    /// the container, decoded once.
    pub(super) fn parse(path: &str, host: &str, account: &str) -> Result<Self, StorageError> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let in_host = host.strip_prefix(account).is_some_and(|rest| rest.starts_with('.'));
        let (named, rest) = path.split_once('/').unwrap_or((path, ""));
        let rest = match (named == account, in_host) {
            (true, _) => rest,
            (false, true) => path,
            (false, false) => {
                return Err(StorageError::new(
                    http::StatusCode::BAD_REQUEST,
                    "InvalidUri",
                    format!("The URL names no account of this server; it should begin with /{account}/."),
                ));
            }
        };
        let decode = |text: &str| {
            percent_decode_str(text)
                .decode_utf8()
                .map(|text| Some(text.into_owned()).filter(|text| !text.is_empty()))
                .map_err(|_| StorageError::invalid_uri())
        };
        let (container, blob) = rest.split_once('/').unwrap_or((rest, ""));
        let target = Self { account: account.to_owned(), container: decode(container)?, blob: decode(blob)? };
        if target.container.is_none() && target.blob.is_some() {
            return Err(StorageError::invalid_name());
        }
        if let Some(name) = &target.container
            && !is_container_name(name)
        {
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            let too_long_or_short = plain && !CONTAINER_NAME_LENGTH.contains(&name.len());
            return Err(if too_long_or_short { StorageError::name_length() } else { StorageError::invalid_name() });
        }
        if target.blob.as_ref().is_some_and(|name| name.chars().count() > BLOB_NAME_MAX) {
            return Err(StorageError::name_length());
        }
        Ok(target)
    }
}

/// 3 to 63 lower-case letters, digits and single hyphens, none of them first or last; or a container with a `$` name.
pub(crate) fn is_container_name(name: &str) -> bool {
    let plain = CONTAINER_NAME_LENGTH.contains(&name.len())
        && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--");
    plain || matches!(name, "$root" | "$web" | "$logs")
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident $level:ident $rights:literal;)+) => {
        /// An operation of the Blob service that this server has, by Azure's name for it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "the names are Azure's")]
        pub enum BlobOperation {
            $($(#[$doc])* $name,)+
        }

        impl BlobOperation {
            const ALL: &[Self] = &[$(Self::$name,)+];

            /// Azure's name for it, without spaces: `GetBlob`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// What it is about, and which of the rights of a SAS allow it.
            pub(super) fn needs(self) -> (StorageLevel, &'static str) {
                match self {
                    $(Self::$name => (StorageLevel::$level, $rights),)+
                }
            }
        }
    };
}

operations! {
    ListContainers Service "l";
    GetAccountInformation Service "rwdlacup";
    CreateContainer Container "cw";
    DeleteContainer Container "d";
    GetContainerProperties Container "r";
    SetContainerMetadata Container "w";
    ListBlobs Listing "l";
    PutBlob Object "cw";
    PutBlock Object "w";
    PutBlockList Object "w";
    GetBlockList Object "r";
    GetBlob Object "r";
    GetBlobProperties Object "r";
    SetBlobProperties Object "w";
    GetBlobMetadata Object "r";
    SetBlobMetadata Object "w";
    SetBlobTier Object "w";
    DeleteBlob Object "d";
}

impl std::str::FromStr for BlobOperation {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|known| known.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::ALL.iter().map(|known| known.name()).collect();
            format!("{name:?} is no blob operation; there are {}", known.join(", "))
        })
    }
}

impl BlobOperation {
    /// Finds the operation of a request.
    pub(super) fn of(
        method: &Method,
        target: &Target,
        query: &StorageQuery,
        headers: &HeaderMap,
    ) -> Result<Self, StorageError> {
        for parameter in ["snapshot", "versionid"] {
            if query.get(parameter).is_some() {
                return Err(StorageError::not_here("snapshots and versions"));
            }
        }
        let comp = query.get("comp").unwrap_or("");
        let restype = query.get("restype").unwrap_or("");
        let operation = match (&target.container, &target.blob) {
            (None, _) => Self::of_service(method, restype, comp),
            (Some(_), None) => Self::of_container(method, restype, comp),
            (Some(_), Some(_)) => Self::of_blob(method, comp),
        };
        let operation = operation.ok_or_else(|| match what_is_lacking(comp) {
            Some(what) => StorageError::not_here(what),
            None => StorageError::not_here(&format!("{method} with restype={restype:?} and comp={comp:?}")),
        })?;
        for (name, what) in [
            ("x-ms-copy-source", "copying from a URL"),
            ("x-ms-encryption-key", "customer-provided keys"),
            ("x-ms-encryption-scope", "encryption scopes"),
            ("x-ms-immutability-policy-until-date", "immutability policies"),
            ("x-ms-legal-hold", "legal holds"),
            ("x-ms-tags", "blob index tags"),
            ("x-ms-if-tags", "conditions on blob index tags"),
            ("x-ms-structured-body", "structured message bodies"),
        ] {
            if headers.contains_key(name) {
                return Err(StorageError::not_here(what));
            }
        }
        Ok(operation)
    }

    fn of_service(method: &Method, restype: &str, comp: &str) -> Option<Self> {
        match (method.as_str(), restype, comp) {
            ("GET", "", "list") => Some(Self::ListContainers),
            ("GET" | "HEAD", "account", "properties") => Some(Self::GetAccountInformation),
            _ => None,
        }
    }

    fn of_container(method: &Method, restype: &str, comp: &str) -> Option<Self> {
        match (method.as_str(), restype, comp) {
            ("PUT", "container", "") => Some(Self::CreateContainer),
            ("DELETE", "container", "") => Some(Self::DeleteContainer),
            ("GET" | "HEAD", "container", "" | "metadata") => Some(Self::GetContainerProperties),
            ("PUT", "container", "metadata") => Some(Self::SetContainerMetadata),
            ("GET", "container", "list") => Some(Self::ListBlobs),
            ("GET" | "HEAD", "account", "properties") => Some(Self::GetAccountInformation),
            _ => None,
        }
    }

    fn of_blob(method: &Method, comp: &str) -> Option<Self> {
        match (method.as_str(), comp) {
            ("PUT", "") => Some(Self::PutBlob),
            ("PUT", "block") => Some(Self::PutBlock),
            ("PUT", "blocklist") => Some(Self::PutBlockList),
            ("GET", "blocklist") => Some(Self::GetBlockList),
            ("GET", "") => Some(Self::GetBlob),
            ("HEAD", "") => Some(Self::GetBlobProperties),
            ("PUT", "properties") => Some(Self::SetBlobProperties),
            ("GET" | "HEAD", "metadata") => Some(Self::GetBlobMetadata),
            ("PUT", "metadata") => Some(Self::SetBlobMetadata),
            ("PUT", "tier") => Some(Self::SetBlobTier),
            ("DELETE", "") => Some(Self::DeleteBlob),
            _ => None,
        }
    }
}

/// What Azure has under this `comp`, for the text of a refusal.
fn what_is_lacking(comp: &str) -> Option<&'static str> {
    Some(match comp {
        "lease" => "leases",
        "snapshot" => "snapshots",
        "acl" => "stored access policies and public access",
        "batch" => "batches of requests",
        "tags" | "blobs" => "blob index tags",
        "page" | "pagelist" | "appendblock" | "seal" | "incrementalcopy" => "page blobs and append blobs",
        "copy" => "copying from a URL",
        "query" => "queries over a blob's content",
        "undelete" | "expiry" => "soft delete and expiry",
        "immutabilityPolicies" | "legalhold" => "immutability policies and legal holds",
        "userdelegationkey" => "user delegation keys",
        "properties" | "stats" => "properties and statistics of the service",
        _ => return None,
    })
}

/// A header as text.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, StorageError> {
    headers
        .get(name)
        .map(|value| value.to_str().map_err(|_| StorageError::invalid_header(name, "is not visible ASCII")))
        .transpose()
}

/// What a blob carries besides its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Properties {
    pub(super) content_type: Option<String>,
    pub(super) content_encoding: Option<String>,
    pub(super) content_language: Option<String>,
    pub(super) content_disposition: Option<String>,
    pub(super) cache_control: Option<String>,
    /// Base64, as the client or Put Blob set it.
    pub(super) content_md5: Option<String>,
}

impl Properties {
    /// The `x-ms-blob-…` headers.
    pub(super) fn parse(headers: &HeaderMap) -> Result<Self, StorageError> {
        let read =
            |name| Ok::<_, StorageError>(text(headers, name)?.map(str::to_owned).filter(|text| !text.is_empty()));
        Ok(Self {
            content_type: read("x-ms-blob-content-type")?,
            content_encoding: read("x-ms-blob-content-encoding")?,
            content_language: read("x-ms-blob-content-language")?,
            content_disposition: read("x-ms-blob-content-disposition")?,
            cache_control: read("x-ms-blob-cache-control")?,
            content_md5: read("x-ms-blob-content-md5")?,
        })
    }

    /// As [`parse`](Self::parse); what is missing there is taken from the HTTP headers of the same meaning, as Put Blob
    /// does.
    pub(super) fn parse_with_http_headers(headers: &HeaderMap) -> Result<Self, StorageError> {
        let own = Self::parse(headers)?;
        let or = |own: Option<String>, name| {
            Ok::<_, StorageError>(match own {
                Some(own) => Some(own),
                None => text(headers, name)?.map(str::to_owned),
            })
        };
        Ok(Self {
            content_type: or(own.content_type, "content-type")?,
            content_encoding: or(own.content_encoding, "content-encoding")?,
            content_language: or(own.content_language, "content-language")?,
            cache_control: or(own.cache_control, "cache-control")?,
            ..own
        })
    }
}

/// How soon a blob's bytes are at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tier {
    Hot,
    Cool,
    Cold,
    /// Not at all, until the tier is changed.
    Archive,
}

impl Tier {
    pub(super) const HEADER: &str = "x-ms-access-tier";

    /// The header of a write, if it is there.
    pub(super) fn parse(headers: &HeaderMap) -> Result<Option<Self>, StorageError> {
        let Some(name) = text(headers, Self::HEADER)? else { return Ok(None) };
        let known = [Self::Hot, Self::Cool, Self::Cold, Self::Archive].into_iter().find(|tier| tier.name() == name);
        known.map(Some).ok_or_else(|| StorageError::invalid_header(Self::HEADER, "is not Hot, Cool, Cold or Archive"))
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hot => "Hot",
            Self::Cool => "Cool",
            Self::Cold => "Cold",
            Self::Archive => "Archive",
        }
    }
}

/// Metadata: names in lower case, because HTTP does not keep their case here, in the order of the names.
pub(super) type Metadata = Vec<(String, String)>;

/// The `x-ms-meta-…` headers.
pub(super) fn metadata(headers: &HeaderMap) -> Result<Metadata, StorageError> {
    let mut metadata = Metadata::new();
    for (header, value) in headers {
        let Some(name) = header.as_str().strip_prefix("x-ms-meta-") else { continue };
        let identifier = name.bytes().next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !identifier {
            return Err(StorageError::new(
                http::StatusCode::BAD_REQUEST,
                "InvalidMetadata",
                format!("The metadata specified is invalid. It has characters that are not permitted: {name:?}."),
            ));
        }
        let value =
            value.to_str().map_err(|_| StorageError::invalid_header(header.as_str(), "is not visible ASCII"))?;
        metadata.push((name.to_owned(), value.to_owned()));
    }
    metadata.sort();
    Ok(metadata)
}

/// State of a resource that conditions are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    /// With its quotes.
    pub(super) etag: String,
    pub(super) last_modified: OffsetDateTime,
}

/// The conditional headers of HTTP.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    if_match: Option<ETag>,
    if_none_match: Option<ETag>,
    if_modified_since: Option<i64>,
    if_unmodified_since: Option<i64>,
}

#[derive(Debug, PartialEq, Eq)]
enum ETag {
    Any,
    /// Without its quotes: clients send both spellings.
    Is(String),
}

impl ETag {
    fn matches(&self, version: &Version) -> bool {
        match self {
            Self::Any => true,
            Self::Is(etag) => etag == version.etag.trim_matches('"'),
        }
    }
}

impl Conditions {
    pub(super) fn parse(headers: &HeaderMap) -> Result<Self, StorageError> {
        let etag = |name: header::HeaderName| {
            Ok::<_, StorageError>(text(headers, name.as_str())?.map(|value| match value.trim() {
                "*" => ETag::Any,
                etag => ETag::Is(etag.trim_start_matches("W/").trim_matches('"').to_owned()),
            }))
        };
        let date = |name: header::HeaderName| {
            let Some(value) = text(headers, name.as_str())? else { return Ok(None) };
            PrimitiveDateTime::parse(value, RFC1123)
                .map(PrimitiveDateTime::assume_utc)
                .or_else(|_| OffsetDateTime::parse(value, &Rfc2822))
                .map(|date| Some(date.unix_timestamp()))
                .map_err(|_| StorageError::invalid_header(name.as_str(), "is not a date as RFC 1123 writes it"))
        };
        Ok(Self {
            if_match: etag(header::IF_MATCH)?,
            if_none_match: etag(header::IF_NONE_MATCH)?,
            if_modified_since: date(header::IF_MODIFIED_SINCE)?,
            if_unmodified_since: date(header::IF_UNMODIFIED_SINCE)?,
        })
    }

    /// Before something that creates or replaces: `existing` is what would be replaced.
    pub(super) fn check_write(&self, existing: Option<&Version>) -> Result<(), StorageError> {
        let Some(version) = existing else {
            return if self.if_match.is_some() { Err(StorageError::condition_not_met()) } else { Ok(()) };
        };
        if self.if_none_match == Some(ETag::Any) {
            return Err(StorageError::blob_exists());
        }
        self.check_change(version)
    }

    /// Before something that changes or deletes what exists.
    pub(super) fn check_change(&self, version: &Version) -> Result<(), StorageError> {
        let modified_at = version.last_modified.unix_timestamp();
        let met = self.if_match.as_ref().is_none_or(|etag| etag.matches(version))
            && self.if_none_match.as_ref().is_none_or(|etag| !etag.matches(version))
            && self.if_modified_since.is_none_or(|since| modified_at > since)
            && self.if_unmodified_since.is_none_or(|since| modified_at <= since);
        if met { Ok(()) } else { Err(StorageError::condition_not_met()) }
    }

    /// Before a read: what the client already has is 304, what it must not have is 412.
    pub(super) fn check_read(&self, version: &Version) -> Result<(), StorageError> {
        let modified_at = version.last_modified.unix_timestamp();
        if self.if_match.as_ref().is_some_and(|etag| !etag.matches(version))
            || self.if_unmodified_since.is_some_and(|since| modified_at > since)
        {
            return Err(StorageError::condition_not_met());
        }
        let has_it = match &self.if_none_match {
            Some(etag) => etag.matches(version),
            None => self.if_modified_since.is_some_and(|since| modified_at <= since),
        };
        if has_it { Err(StorageError::not_modified()) } else { Ok(()) }
    }
}

/// The range that a read asks for: `x-ms-range`, else `Range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ByteRange {
    first: u64,
    last: Option<u64>,
}

impl ByteRange {
    pub(super) fn parse(headers: &HeaderMap) -> Result<Option<Self>, StorageError> {
        let name = if headers.contains_key("x-ms-range") { "x-ms-range" } else { "range" };
        let Some(value) = text(headers, name)? else { return Ok(None) };
        let wrong = || StorageError::invalid_header(name, "is not 'bytes=first-' or 'bytes=first-last'");
        let (first, last) =
            value.trim().strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or_else(wrong)?;
        let first = first.parse().map_err(|_| wrong())?;
        let last = match last {
            "" => None,
            last => Some(last.parse().map_err(|_| wrong())?),
        };
        if last.is_some_and(|last| last < first) {
            return Err(wrong());
        }
        Ok(Some(Self { first, last }))
    }

    /// First byte and the one after the last, within a blob of this size.
    pub(super) fn within(self, size: u64) -> Result<(u64, u64), StorageError> {
        if self.first >= size {
            return Err(StorageError::invalid_range(size));
        }
        let end = self.last.map_or(size, |last| last.saturating_add(1).min(size));
        Ok((self.first, end))
    }
}
