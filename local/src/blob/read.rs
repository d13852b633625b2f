//! Requests that read: a blob or a range of it, what it carries, its blocks, a container's properties.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use md5::{Digest as _, Md5};
use tokio::time::{Instant, sleep_until};

use super::{
    BlobOperation, BlobService, Call, bare, block_list,
    error::StorageError,
    http_date,
    request::{ByteRange, Conditions, Metadata, Tier},
    set, set_version,
    store::Blob,
    write::CRC64,
    xml,
};
use crate::{
    fault::{Cut, ToBody},
    keys::Keys,
    listen::{Body, Line, empty},
    stats::Stats,
};

/// Largest range whose hash is computed on request ("Get Blob").
const RANGE_HASH_MAX: u64 = 4 << 20;

impl BlobService {
    pub(super) fn container_properties(&self, call: &Call<'_>) -> Result<Response<Body>, StorageError> {
        let containers = self.containers();
        let container = containers.container(call.container())?;
        let mut response = bare(StatusCode::OK, Some(&container.version));
        let headers = response.headers_mut();
        set_metadata(headers, &container.metadata);
        set_lease(headers);
        headers.insert("x-ms-has-immutability-policy", HeaderValue::from_static("false"));
        headers.insert("x-ms-has-legal-hold", HeaderValue::from_static("false"));
        Ok(response)
    }

    pub(super) fn head_blob(&self, call: &Call<'_>, operation: BlobOperation) -> Result<Response<Body>, StorageError> {
        let blob = self.containers().blob(call.container(), call.blob())?;
        Conditions::parse(call.headers)?.check_read(&blob.version)?;
        let mut response = bare(StatusCode::OK, Some(&blob.version));
        if operation == BlobOperation::GetBlobMetadata {
            set_metadata(response.headers_mut(), &blob.metadata);
        } else {
            describe(response.headers_mut(), &blob, call);
            set(response.headers_mut(), header::CONTENT_LENGTH, &call.length_of(&blob).to_string());
            if let Some(md5) = &blob.properties.content_md5 {
                set(response.headers_mut(), HeaderName::from_static("content-md5"), md5);
            }
        }
        Ok(response)
    }

    pub(super) async fn get_blob(&self, call: &Call<'_>) -> Result<Response<Body>, StorageError> {
        let blob = self.containers().blob(call.container(), call.blob())?;
        Conditions::parse(call.headers)?.check_read(&blob.version)?;
        if blob.tier == Some(Tier::Archive) {
            return Err(StorageError::blob_archived());
        }
        let size = call.length_of(&blob);
        let range = ByteRange::parse(call.headers)?;
        let (from, to) = match range {
            Some(range) => range.within(size)?,
            None => (0, size),
        };
        let hash = RangeHash::parse(call.headers)?;
        if hash.is_some() && range.is_none() {
            return Err(StorageError::hash_without_range());
        }
        let mut response = bare(StatusCode::OK, Some(&blob.version));
        let headers = response.headers_mut();
        describe(headers, &blob, call);
        set(headers, header::CONTENT_LENGTH, &(to - from).to_string());
        if range.is_some() {
            set(headers, header::CONTENT_RANGE, &format!("bytes {from}-{}/{size}", to - 1));
            if let Some(md5) = &blob.properties.content_md5 {
                set(headers, HeaderName::from_static("x-ms-blob-content-md5"), md5);
            }
            if let Some(hash) = hash {
                let value = hash.of(&blob, from, to).await?;
                set(headers, HeaderName::from_static(hash.header()), &value);
            }
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        } else if let Some(md5) = &blob.properties.content_md5 {
            set(headers, HeaderName::from_static("content-md5"), md5);
        }
        let to_body = self.faults.on_body(call.blob(), from, to, call.line.id());
        *response.body_mut() = if from == to { empty() } else { self.body(blob, from, to, to_body, call) };
        Ok(response)
    }

    fn body(&self, blob: Arc<Blob>, from: u64, to: u64, to_body: ToBody, call: &Call<'_>) -> Body {
        let sending = Sending {
            blob,
            at: from,
            to,
            cut: to_body.cut,
            corrupt: to_body.corrupt,
            pace: to_body.slow.map(Pace::new),
            line: call.line.clone(),
            keys: Arc::clone(&self.keys),
            signature: call.access.signature.clone(),
            stats: Arc::clone(&self.stats),
        };
        let pieces = stream::try_unfold(sending, |mut sending| async move {
            let piece = sending.next().await?;
            Ok::<_, std::io::Error>(piece.map(|piece| (Frame::data(piece), sending)))
        });
        StreamBody::new(pieces).boxed_unsync()
    }

    pub(super) fn block_list(&self, call: &Call<'_>) -> Result<Response<Body>, StorageError> {
        let (committed, uncommitted) = match call.query.get("blocklisttype").unwrap_or("committed") {
            "committed" => (true, false),
            "uncommitted" => (false, true),
            "all" => (true, true),
            _ => return Err(StorageError::invalid_query("blocklisttype", "is not committed, uncommitted or all")),
        };
        let (blob, kept, staged) = self.containers().block_list(call.container(), call.blob())?;
        if let Some(blob) = &blob {
            Conditions::parse(call.headers)?.check_read(&blob.version)?;
        }
        let mut response = xml(block_list::write(committed.then_some(&kept), uncommitted.then_some(&staged)));
        let headers = response.headers_mut();
        if let Some(blob) = &blob {
            set_version(headers, &blob.version);
        }
        let length = blob.map_or(0, |blob| blob.content.len());
        set(headers, HeaderName::from_static("x-ms-blob-content-length"), &length.to_string());
        Ok(response)
    }
}

impl Call<'_> {
    /// How long the blob is, as this request sees it.
    fn length_of(&self, blob: &Blob) -> u64 {
        self.truncate.map_or(blob.content.len(), |most| blob.content.len().min(most))
    }
}

/// A body on its way out.
struct Sending {
    blob: Arc<Blob>,
    at: u64,
    to: u64,
    cut: Option<Cut>,
    /// Bytes of the blob whose lowest bit is turned over.
    corrupt: Vec<u64>,
    /// A script wants it slow.
    pace: Option<Pace>,
    line: Line,
    keys: Arc<Keys>,
    signature: Option<String>,
    stats: Arc<Stats>,
}

impl Sending {
    async fn next(&mut self) -> std::io::Result<Option<Bytes>> {
        let end = self.cut.as_ref().map_or(self.to, |cut| cut.at);
        if self.at == end {
            let Some(cut) = self.cut.take() else { return Ok(None) };
            if cut.refuse_sas
                && let Some(signature) = &self.signature
            {
                self.keys.refuse(signature);
            }
            self.line.cut();
            cut.happened();
            // The connection ends as soon as what was sent so far is on its way.
            std::future::pending::<()>().await;
        }
        let end = match &mut self.pace {
            Some(pace) => end.min(self.at + pace.next().await),
            None => end,
        };
        let mut piece = self.blob.content.read(self.at, end).await?;
        for at in &self.corrupt {
            if let Some(place) = at.checked_sub(self.at).and_then(|place| usize::try_from(place).ok())
                && place < piece.len()
            {
                let mut turned = piece.to_vec();
                turned[place] ^= 1;
                piece = turned.into();
            }
        }
        self.at += piece.len() as u64;
        self.stats.blob_out(piece.len() as u64);
        Ok(Some(piece))
    }
}

/// A body that may have only so many bytes a second.
struct Pace {
    piece: u64,
    every: Duration,
    due: Instant,
}

impl Pace {
    const PIECES_PER_SECOND: u32 = 100;
    const PIECE_MAX: u32 = 16 << 10;
    /// A client that does not read wins no more than this for later.
    const WON_MAX: Duration = Duration::from_millis(50);

    fn new(bytes_per_second: NonZeroU32) -> Self {
        let piece = bytes_per_second.get().div_ceil(Self::PIECES_PER_SECOND).min(Self::PIECE_MAX);
        let every = Duration::from_secs(1) * piece / bytes_per_second.get();
        Self { piece: piece.into(), every, due: Instant::now() + every }
    }

    /// Waits until more may go, and says how much.
    async fn next(&mut self) -> u64 {
        sleep_until(self.due).await;
        self.due = self.due.max(Instant::now() - Self::WON_MAX) + self.every;
        self.piece
    }
}

/// The hash of a range, when the client asks for one.
#[derive(Debug, Clone, Copy)]
enum RangeHash {
    Md5,
    Crc64,
}

impl RangeHash {
    fn parse(headers: &HeaderMap) -> Result<Option<Self>, StorageError> {
        let asked = |name| headers.get(name).is_some_and(|value| value == "true");
        match (asked("x-ms-range-get-content-md5"), asked("x-ms-range-get-content-crc64")) {
            (true, true) => Err(StorageError::both_hashes()),
            (true, false) => Ok(Some(Self::Md5)),
            (false, true) => Ok(Some(Self::Crc64)),
            (false, false) => Ok(None),
        }
    }

    fn header(self) -> &'static str {
        match self {
            Self::Md5 => "content-md5",
            Self::Crc64 => "x-ms-content-crc64",
        }
    }

    async fn of(self, blob: &Blob, from: u64, to: u64) -> Result<String, StorageError> {
        if to - from > RANGE_HASH_MAX {
            return Err(StorageError::hash_of_long_range());
        }
        let (mut md5, mut crc64) = (Md5::new(), CRC64.digest());
        let mut at = from;
        while at < to {
            let piece = blob.content.read(at, to).await.map_err(|error| StorageError::internal(&error))?;
            match self {
                Self::Md5 => md5.update(&piece),
                Self::Crc64 => crc64.update(&piece),
            }
            at += piece.len() as u64;
        }
        Ok(match self {
            Self::Md5 => STANDARD.encode(md5.finalize()),
            Self::Crc64 => STANDARD.encode(crc64.finalize().to_le_bytes()),
        })
    }
}

/// The headers that every read of a blob has. A SAS may replace some of them.
fn describe(headers: &mut HeaderMap, blob: &Blob, call: &Call<'_>) {
    let properties = &blob.properties;
    for (name, value, by_sas) in [
        (header::CONTENT_TYPE, &properties.content_type, "rsct"),
        (header::CONTENT_ENCODING, &properties.content_encoding, "rsce"),
        (header::CONTENT_LANGUAGE, &properties.content_language, "rscl"),
        (header::CONTENT_DISPOSITION, &properties.content_disposition, "rscd"),
        (header::CACHE_CONTROL, &properties.cache_control, "rscc"),
    ] {
        let replaced = call.access.signature.as_ref().and_then(|_| call.query.get(by_sas));
        if let Some(value) = replaced.or(value.as_deref()) {
            set(headers, name, value);
        } else if by_sas == "rsct" {
            headers.insert(name, HeaderValue::from_static("application/octet-stream"));
        }
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert("x-ms-blob-type", HeaderValue::from_static("BlockBlob"));
    headers.insert("x-ms-server-encrypted", HeaderValue::from_static("true"));
    set(headers, HeaderName::from_static("x-ms-creation-time"), &http_date(blob.created));
    set(headers, HeaderName::from_static(Tier::HEADER), blob.tier.unwrap_or(Tier::Hot).name());
    if blob.tier.is_none() {
        headers.insert("x-ms-access-tier-inferred", HeaderValue::from_static("true"));
    }
    set_lease(headers);
    set_metadata(headers, &blob.metadata);
}

fn set_lease(headers: &mut HeaderMap) {
    headers.insert("x-ms-lease-status", HeaderValue::from_static("unlocked"));
    headers.insert("x-ms-lease-state", HeaderValue::from_static("available"));
}

fn set_metadata(headers: &mut HeaderMap, metadata: &Metadata) {
    for (name, value) in metadata {
        if let Ok(name) = HeaderName::try_from(format!("x-ms-meta-{name}")) {
            set(headers, name, value);
        }
    }
}
