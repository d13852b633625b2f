//! Requests that change something. Conditions are checked before a body is taken in, so that it need not come for nothing,
//! and once more in the one step that makes the change, so that of two racing writers with `If-None-Match: *` exactly one
//! wins.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use crc::{Crc, Digest as CrcDigest, Table};
use http::{HeaderMap, HeaderName, Response, StatusCode};
use http_body_util::BodyExt as _;
use md5::{Digest as _, Md5};

use super::{
    BlobService, Call, Version, bare,
    block_list::{self, BlockId},
    error::StorageError,
    request::{Conditions, Properties, Tier, metadata, text},
    set,
    spool::Chunk,
    store::Commit,
};
use crate::listen::{Body, Upload};

/// Longest body of Put Blob ("Scalability targets for Blob Storage").
const BLOB_MAX: u64 = 5_000 << 20;
/// Longest body of Put Block.
const BLOCK_MAX: u64 = 4_000 << 20;
/// Longest body of Put Block List: 50,000 ids of 88 characters with their tags fit well.
const BLOCK_LIST_MAX: u64 = 16 << 20;

/// Azure's CRC-64: polynomial 0x9A6C9329AC4BC9B5 reflected, as NVMe has it.
pub(super) static CRC64: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&crc::CRC_64_NVME);

/// What a body is checked against, if the client sent it.
struct Expected {
    md5: Option<Vec<u8>>,
    crc64: Option<Vec<u8>>,
}

impl Expected {
    fn parse(headers: &HeaderMap) -> Result<Self, StorageError> {
        let decode = |name: &str, len: usize| {
            let Some(value) = text(headers, name)? else { return Ok(None) };
            STANDARD.decode(value).ok().filter(|hash| hash.len() == len).map(Some).ok_or_else(StorageError::invalid_md5)
        };
        let expected = Self {
            md5: decode("content-md5", 16)?,
            crc64: decode("x-ms-content-crc64", 8)
                .map_err(|_| StorageError::invalid_header("x-ms-content-crc64", "is not 64 bits in base64"))?,
        };
        if expected.md5.is_some() && expected.crc64.is_some() {
            return Err(StorageError::new(
                StatusCode::BAD_REQUEST,
                "BothCrc64AndMd5HeaderPresent",
                "Both x-ms-content-crc64 header and Content-MD5 header are present.",
            ));
        }
        Ok(expected)
    }
}

/// The hashes of a body, computed while it comes in.
struct Hashes {
    md5: Option<Md5>,
    crc64: Option<CrcDigest<'static, u64, Table<16>>>,
}

impl Hashes {
    fn update(&mut self, bytes: &[u8]) {
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
        if let Some(crc64) = &mut self.crc64 {
            crc64.update(bytes);
        }
    }

    /// Checks them; gives back MD5 and CRC-64 in base64.
    fn check(self, expected: &Expected) -> Result<(Option<String>, Option<String>), StorageError> {
        let md5 = self.md5.map(|md5| md5.finalize().to_vec());
        let crc64 = self.crc64.map(|crc64| crc64.finalize().to_le_bytes().to_vec());
        if expected.md5.is_some() && expected.md5 != md5 {
            return Err(StorageError::md5_mismatch());
        }
        if expected.crc64.is_some() && expected.crc64 != crc64 {
            return Err(StorageError::crc64_mismatch());
        }
        Ok((md5.map(|hash| STANDARD.encode(hash)), crc64.map(|hash| STANDARD.encode(hash))))
    }
}

fn content_length(headers: &HeaderMap, max: u64) -> Result<u64, StorageError> {
    let length = text(headers, "content-length")?.ok_or_else(StorageError::length_missing)?;
    let length = length.parse().map_err(|_| StorageError::invalid_header("content-length", "is not a number"))?;
    if length > max { Err(StorageError::too_large()) } else { Ok(length) }
}

fn set_hashes(headers: &mut HeaderMap, (md5, crc64): (Option<String>, Option<String>)) {
    if let Some(md5) = md5 {
        set(headers, HeaderName::from_static("content-md5"), &md5);
    }
    if let Some(crc64) = crc64 {
        set(headers, HeaderName::from_static("x-ms-content-crc64"), &crc64);
    }
    headers.insert("x-ms-request-server-encrypted", http::HeaderValue::from_static("true"));
}

impl BlobService {
    pub(super) fn make_container(&self, call: &Call<'_>) -> Result<Response<Body>, StorageError> {
        // As accounts are made today: "Remediate anonymous read access to blob data".
        if call.headers.contains_key("x-ms-blob-public-access") {
            return Err(StorageError::public_access_not_permitted());
        }
        let version = self.containers().create(call.container(), metadata(call.headers)?, (self.now)())?;
        Ok(bare(StatusCode::CREATED, Some(&version)))
    }

    pub(super) fn delete_container(&self, call: &Call<'_>) -> Result<Response<Body>, StorageError> {
        self.containers().delete(call.container(), &Conditions::parse(call.headers)?, (self.now)())?;
        Ok(bare(StatusCode::ACCEPTED, None))
    }

    pub(super) fn set_container_metadata(&self, call: &Call<'_>) -> Result<Response<Body>, StorageError> {
        let (metadata, conditions) = (metadata(call.headers)?, Conditions::parse(call.headers)?);
        let version =
            self.containers().set_container_metadata(call.container(), metadata, &conditions, (self.now)())?;
        Ok(bare(StatusCode::OK, Some(&version)))
    }

    pub(super) async fn put_blob(&self, call: &Call<'_>, body: &mut Upload) -> Result<Response<Body>, StorageError> {
        match text(call.headers, "x-ms-blob-type")? {
            Some("BlockBlob") => {}
            Some("PageBlob" | "AppendBlob") => return Err(StorageError::not_here("page blobs and append blobs")),
            Some(_) => return Err(StorageError::invalid_header("x-ms-blob-type", "is not BlockBlob")),
            None => return Err(StorageError::missing_header("x-ms-blob-type")),
        }
        let mut commit = Commit {
            properties: Properties::parse_with_http_headers(call.headers)?,
            metadata: metadata(call.headers)?,
            tier: Tier::parse(call.headers)?,
            conditions: Conditions::parse(call.headers)?,
            may_overwrite: call.access.may("w"),
        };
        let expected = Expected::parse(call.headers)?;
        self.containers().check_write(call.container(), call.blob(), &commit)?;
        let (chunk, hashes) = self.take_in(body, content_length(call.headers, BLOB_MAX)?, &expected, true).await?;
        if let Some(announced) = &commit.properties.content_md5
            && hashes.0.as_ref() != Some(announced)
        {
            return Err(StorageError::md5_mismatch());
        }
        commit.properties.content_md5.clone_from(&hashes.0);
        let version = self.containers().put_blob(call.container(), call.blob(), chunk, commit, (self.now)())?;
        Ok(created(&version, hashes))
    }

    pub(super) async fn put_block(&self, call: &Call<'_>, body: &mut Upload) -> Result<Response<Body>, StorageError> {
        let id = call.query.get("blockid").ok_or_else(|| {
            StorageError::new(
                StatusCode::BAD_REQUEST,
                "MissingRequiredQueryParameter",
                "A query parameter that's mandatory for this request is not specified: blockid.",
            )
        })?;
        let id = BlockId::parse(id)?;
        let expected = Expected::parse(call.headers)?;
        self.containers().container(call.container())?;
        let want_md5 = expected.md5.is_some();
        let (chunk, hashes) = self.take_in(body, content_length(call.headers, BLOCK_MAX)?, &expected, want_md5).await?;
        self.containers().put_block(call.container(), call.blob(), id, chunk)?;
        let mut response = bare(StatusCode::CREATED, None);
        set_hashes(response.headers_mut(), hashes);
        Ok(response)
    }

    pub(super) async fn put_block_list(
        &self,
        call: &Call<'_>,
        body: &mut Upload,
    ) -> Result<Response<Body>, StorageError> {
        let commit = Commit {
            properties: Properties::parse(call.headers)?,
            metadata: metadata(call.headers)?,
            tier: Tier::parse(call.headers)?,
            conditions: Conditions::parse(call.headers)?,
            may_overwrite: call.access.may("w"),
        };
        let expected = Expected::parse(call.headers)?;
        self.containers().check_write(call.container(), call.blob(), &commit)?;
        let length = content_length(call.headers, BLOCK_LIST_MAX)?;
        let body = whole(body, length).await?;
        let mut hashes = Hashes { md5: expected.md5.as_ref().map(|_| Md5::new()), crc64: Some(CRC64.digest()) };
        hashes.update(&body);
        let hashes = hashes.check(&expected)?;
        let list = block_list::parse(&body)?;
        let version = self.containers().put_block_list(call.container(), call.blob(), &list, commit, (self.now)())?;
        Ok(created(&version, hashes))
    }

    pub(super) fn set_properties(&self, call: &Call<'_>) -> Result<Response<Body>, StorageError> {
        let properties = Properties::parse(call.headers)?;
        self.change(call, |blob| blob.properties = properties)
    }

    pub(super) fn set_metadata(&self, call: &Call<'_>) -> Result<Response<Body>, StorageError> {
        let metadata = metadata(call.headers)?;
        self.change(call, |blob| blob.metadata = metadata)
    }

    /// A blob comes back from the archive at once, so this never answers that it is on its way.
    pub(super) fn set_tier(&self, call: &Call<'_>) -> Result<Response<Body>, StorageError> {
        let tier = Tier::parse(call.headers)?.ok_or_else(|| StorageError::missing_header(Tier::HEADER))?;
        self.containers().set_tier(call.container(), call.blob(), tier)?;
        Ok(bare(StatusCode::OK, None))
    }

    fn change(
        &self,
        call: &Call<'_>,
        change: impl FnOnce(&mut super::store::Blob),
    ) -> Result<Response<Body>, StorageError> {
        let conditions = Conditions::parse(call.headers)?;
        let version = self.containers().change(call.container(), call.blob(), &conditions, (self.now)(), change)?;
        Ok(bare(StatusCode::OK, Some(&version)))
    }

    pub(super) fn delete_blob(&self, call: &Call<'_>) -> Result<Response<Body>, StorageError> {
        self.containers().delete_blob(call.container(), call.blob(), &Conditions::parse(call.headers)?)?;
        let mut response = bare(StatusCode::ACCEPTED, None);
        response.headers_mut().insert("x-ms-delete-type-permanent", http::HeaderValue::from_static("true"));
        Ok(response)
    }

    /// Takes a body into a chunk and checks it. The CRC-64 is not computed where the answer names an MD5.
    async fn take_in(
        &self,
        body: &mut Upload,
        length: u64,
        expected: &Expected,
        md5: bool,
    ) -> Result<(Chunk, (Option<String>, Option<String>)), StorageError> {
        let crc64 = !md5 || expected.crc64.is_some();
        let mut hashes = Hashes { md5: md5.then(Md5::new), crc64: crc64.then(|| CRC64.digest()) };
        let mut writer = self.spool.writer(length).map_err(|error| StorageError::internal(&error))?;
        while let Some(data) = next_data(body).await? {
            hashes.update(&data);
            writer.write(&data).await.map_err(|error| StorageError::internal(&error))?;
        }
        let chunk = writer.finish().await.map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => StorageError::incomplete_body(),
            _ => StorageError::internal(&error),
        })?;
        let hashes = hashes.check(expected)?;
        self.stats.blob_in(length);
        Ok((chunk, hashes))
    }
}

/// The next bytes of a body. One that ends early is an error here, and the connection is gone anyway.
async fn next_data(body: &mut Upload) -> Result<Option<Bytes>, StorageError> {
    loop {
        match body.frame().await {
            None => return Ok(None),
            Some(Err(_)) => return Err(StorageError::incomplete_body()),
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => return Ok(Some(data)),
                Err(_trailers) => {}
            },
        }
    }
}

async fn whole(body: &mut Upload, length: u64) -> Result<Vec<u8>, StorageError> {
    let mut bytes = Vec::new();
    while let Some(data) = next_data(body).await? {
        bytes.extend_from_slice(&data);
    }
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(StorageError::incomplete_body()) }
}

fn created(version: &Version, hashes: (Option<String>, Option<String>)) -> Response<Body> {
    let mut response = bare(StatusCode::CREATED, Some(version));
    set_hashes(response.headers_mut(), hashes);
    response
}
