//! Listing containers and blobs, page by page.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Response;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use quick_xml::escape::escape;

use super::{
    BlobService, Call,
    error::StorageError,
    http_date,
    request::{Metadata, Tier, Version},
    store::{Blob, Entry, ListQuery},
    xml,
};
use crate::{keys::StorageQuery, listen::Body};

/// Most entries of a page, and how many there are when the client does not say.
const PAGE_MAX: usize = 5_000;

impl BlobService {
    pub(super) fn list_containers(&self, call: &Call<'_>, host: &str) -> Result<Response<Body>, StorageError> {
        let asked = Asked::parse(call.query)?;
        let containers = self.containers();
        let (page, next) = containers.list(asked.prefix, &asked.marker, asked.max);
        let mut out = asked.begin(&call.target.account, host, None);
        out.push_str("<Containers>");
        for (name, container) in page {
            out.push_str("<Container>");
            element(&mut out, "Name", name);
            out.push_str("<Properties>");
            version(&mut out, &container.version);
            lease(&mut out);
            out.push_str("</Properties>");
            metadata(&mut out, &container.metadata, &asked);
            out.push_str("</Container>");
        }
        out.push_str("</Containers>");
        end(&mut out, next.as_deref());
        Ok(xml(out))
    }

    pub(super) fn list_blobs(&self, call: &Call<'_>, host: &str) -> Result<Response<Body>, StorageError> {
        let asked = Asked::parse(call.query)?;
        let query = ListQuery {
            prefix: asked.prefix,
            delimiter: call.query.get("delimiter").filter(|delimiter| !delimiter.is_empty()),
            marker: &asked.marker,
            max: asked.max,
            uncommitted: asked.includes("uncommittedblobs"),
        };
        let page = self.containers().list_blobs(call.container(), &query)?;
        let mut out = asked.begin(&call.target.account, host, Some(call.container()));
        if let Some(delimiter) = query.delimiter {
            element(&mut out, "Delimiter", delimiter);
        }
        out.push_str("<Blobs>");
        for entry in &page.entries {
            match entry {
                Entry::Prefix(prefix) => {
                    out.push_str("<BlobPrefix>");
                    name(&mut out, prefix);
                    out.push_str("</BlobPrefix>");
                }
                Entry::Uncommitted { name: blob } => {
                    out.push_str("<Blob>");
                    name(&mut out, blob);
                    out.push_str("<Properties><Content-Length>0</Content-Length><BlobType>BlockBlob</BlobType></Properties></Blob>");
                }
                Entry::Blob { name: known, blob } => {
                    out.push_str("<Blob>");
                    name(&mut out, known);
                    properties(&mut out, blob);
                    metadata(&mut out, &blob.metadata, &asked);
                    out.push_str("</Blob>");
                }
            }
        }
        out.push_str("</Blobs>");
        end(&mut out, page.next.as_deref());
        Ok(xml(out))
    }
}

/// What both listings are asked for.
struct Asked<'a> {
    prefix: &'a str,
    /// As the client sent it.
    raw_marker: &'a str,
    marker: String,
    max: usize,
    /// Whether the client named a maximum: only then it is repeated.
    max_given: bool,
    include: Vec<&'a str>,
}

impl<'a> Asked<'a> {
    fn parse(query: &'a StorageQuery) -> Result<Self, StorageError> {
        let (max, max_given) = match query.get("maxresults") {
            None => (PAGE_MAX, false),
            Some(max) => match max.parse::<usize>() {
                Ok(0) => return Err(StorageError::out_of_range_query("maxresults", "must be at least 1")),
                Ok(max) => (max.min(PAGE_MAX), true),
                Err(_) => return Err(StorageError::invalid_query("maxresults", "is not a number")),
            },
        };
        let raw_marker = query.get("marker").unwrap_or("");
        let marker = URL_SAFE_NO_PAD
            .decode(raw_marker)
            .ok()
            .and_then(|name| String::from_utf8(name).ok())
            .ok_or_else(|| StorageError::invalid_query("marker", "is not a NextMarker of this server"))?;
        let include = query.get("include").unwrap_or("").split(',').filter(|part| !part.is_empty()).collect();
        Ok(Self { prefix: query.get("prefix").unwrap_or(""), raw_marker, marker, max, max_given, include })
    }

    fn includes(&self, what: &str) -> bool {
        self.include.contains(&what)
    }

    fn begin(&self, account: &str, host: &str, container: Option<&str>) -> String {
        let mut out = String::from("\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults");
        attribute(&mut out, "ServiceEndpoint", &format!("http://{host}/{account}/"));
        if let Some(container) = container {
            attribute(&mut out, "ContainerName", container);
        }
        out.push('>');
        for (name, value) in [("Prefix", self.prefix), ("Marker", self.raw_marker)] {
            if !value.is_empty() {
                element(&mut out, name, value);
            }
        }
        if self.max_given {
            element(&mut out, "MaxResults", &self.max.to_string());
        }
        out
    }
}

fn end(out: &mut String, next: Option<&str>) {
    match next {
        Some(next) => element(out, "NextMarker", &URL_SAFE_NO_PAD.encode(next)),
        None => out.push_str("<NextMarker />"),
    }
    out.push_str("</EnumerationResults>");
}

fn properties(out: &mut String, blob: &Blob) {
    out.push_str("<Properties>");
    element(out, "Creation-Time", &http_date(blob.created));
    version(out, &blob.version);
    element(out, "Content-Length", &blob.content.len().to_string());
    let properties = &blob.properties;
    let content_type = properties.content_type.as_deref().unwrap_or("application/octet-stream");
    for (name, value) in [
        ("Content-Type", Some(content_type)),
        ("Content-Encoding", properties.content_encoding.as_deref()),
        ("Content-Language", properties.content_language.as_deref()),
        ("Content-MD5", properties.content_md5.as_deref()),
        ("Cache-Control", properties.cache_control.as_deref()),
        ("Content-Disposition", properties.content_disposition.as_deref()),
        ("BlobType", Some("BlockBlob")),
        ("AccessTier", Some(blob.tier.unwrap_or(Tier::Hot).name())),
        ("AccessTierInferred", blob.tier.is_none().then_some("true")),
    ] {
        if let Some(value) = value {
            element(out, name, value);
        }
    }
    lease(out);
    out.push_str("<ServerEncrypted>true</ServerEncrypted></Properties>");
}

fn version(out: &mut String, version: &Version) {
    element(out, "Last-Modified", &http_date(version.last_modified));
    // Azure leaves the quotes out here, and only here.
    element(out, "Etag", version.etag.trim_matches('"'));
}

fn lease(out: &mut String) {
    out.push_str("<LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState>");
}

fn metadata(out: &mut String, metadata: &Metadata, asked: &Asked<'_>) {
    if !asked.includes("metadata") {
        return;
    }
    out.push_str("<Metadata>");
    for (name, value) in metadata {
        element(out, name, value);
    }
    out.push_str("</Metadata>");
}

/// A name; one with characters that XML cannot hold is percent-encoded and says so.
fn name(out: &mut String, name: &str) {
    let holds = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    if name.chars().all(holds) {
        element(out, "Name", name);
    } else {
        out.push_str("<Name Encoded=\"true\">");
        out.extend(utf8_percent_encode(name, NON_ALPHANUMERIC));
        out.push_str("</Name>");
    }
}

fn element(out: &mut String, name: &str, text: &str) {
    out.extend(["<", name, ">", &escape(text), "</", name, ">"]);
}

fn attribute(out: &mut String, name: &str, value: &str) {
    out.extend([" ", name, "=\"", &escape(value), "\""]);
}
