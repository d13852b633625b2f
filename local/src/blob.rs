//! The Blob service over HTTP: the calls that we and Microsoft's SDKs use, with Azure's answers, errors and conditions.
//!
//! A request goes through four steps: what does the URL name and ask for; does a fault script want something; may the
//! caller do it (checked once, here); do it. Bodies are kept in memory while they are small and few, else in temporary
//! files, and stream in and out.
//!
//! # Sources
//! The Blob Storage REST reference. Where it is silent, Azurite's behaviour was looked at.

mod block_list;
mod error;
mod listing;
mod read;
mod request;
mod spool;
mod store;
mod write;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};
use uuid::Uuid;

use crate::{
    broker::Now,
    fault::{Fate, Faults},
    keys::{Keys, Resource, StorageAccess, StorageQuery, StorageRequest},
    listen::{Body, Handler, Line, Upload, empty, full},
    log::{Lines, printable, say},
    stats::Stats,
};
use error::StorageError;
pub use request::BlobOperation;
pub(crate) use request::is_container_name;
use request::{Conditions, RFC1123, Target, Version};
use spool::Spool;
pub(crate) use store::ContainerUsage;
use store::Containers;

/// The version that answers name when the request names none.
const DEFAULT_VERSION: &str = "2021-12-02";
/// Bodies kept in memory at most; what comes beyond that lies in temporary files.
const RESIDENT_MAX: u64 = 32 << 20;
/// How one may say who one is, where nobody issues access tokens.
const BY_KEY: &str = "SharedKey";
/// How the text of an error writes the time.
const ERROR_TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:7]Z");

/// What was said of late about refusals.
static SAID: Lines = Lines::new();

/// The storage account.
pub(crate) struct BlobService {
    keys: Arc<Keys>,
    faults: Arc<Faults>,
    stats: Arc<Stats>,
    now: Now,
    /// How one may say who one is.
    challenge: HeaderValue,
    containers: Mutex<Containers>,
    spool: Spool,
}

/// A request whose right to run was checked.
struct Call<'a> {
    target: &'a Target,
    query: &'a StorageQuery,
    headers: &'a HeaderMap,
    access: StorageAccess,
    line: &'a Line,
    /// For a fault: the blob is not longer than this.
    truncate: Option<u64>,
}

impl Call<'_> {
    fn container(&self) -> &str {
        self.target.container.as_deref().unwrap_or_default()
    }

    fn blob(&self) -> &str {
        self.target.blob.as_deref().unwrap_or_default()
    }
}

impl BlobService {
    /// `authorization` is where access tokens are issued, if anywhere.
    pub(crate) fn new(
        keys: Arc<Keys>,
        faults: Arc<Faults>,
        stats: Arc<Stats>,
        now: Now,
        authorization: Option<&str>,
    ) -> Self {
        // Nothing before `Bearer`: Microsoft's clients read what comes behind it.
        let resource = Resource::Storage.uri();
        let bearer = |uri: &str| format!("Bearer authorization_uri={uri} resource_id={resource}");
        let challenge = authorization.and_then(|uri| HeaderValue::try_from(bearer(uri)).ok());
        let challenge = challenge.unwrap_or(HeaderValue::from_static(BY_KEY));
        Self { keys, faults, stats, now, challenge, containers: Mutex::default(), spool: Spool::new(RESIDENT_MAX) }
    }

    /// Makes a container without a request of a client; false when it is there already.
    pub(crate) fn create_container(&self, name: &str) -> bool {
        let mut containers = self.containers();
        containers.free(name);
        containers.create(name, Vec::new(), (self.now)()).is_ok()
    }

    /// Deletes a container with its blobs; false when there is none.
    pub(crate) fn remove_container(&self, name: &str) -> bool {
        self.containers().delete(name, &Conditions::default(), (self.now)()).is_ok()
    }

    /// How much lies in each container.
    pub(crate) fn usage(&self) -> Vec<ContainerUsage> {
        self.containers().usage()
    }

    /// Bytes of bodies in memory now.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.spool.resident()
    }

    fn containers(&self) -> MutexGuard<'_, Containers> {
        // Every change is checked before it begins and ends with one insertion, so a panic leaves nothing half done.
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(
        &self,
        parts: &http::request::Parts,
        body: &mut Upload,
        line: &Line,
        asked: &mut Option<BlobOperation>,
    ) -> Result<Response<Body>, StorageError> {
        let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
        let target = Target::parse(parts.uri.path(), host, self.keys.account())?;
        let query = StorageQuery::parse(parts.uri.query().unwrap_or(""));
        let operation = BlobOperation::of(&parts.method, &target, &query, &parts.headers)?;
        *asked = Some(operation);

        let blob_name = target.blob.as_deref().unwrap_or_default();
        let to_do = self.faults.on_blob(operation, blob_name, line.id());
        self.faults.delay(&to_do).await;
        if let Some(fate) = to_do.fate {
            self.stats.blob_request(operation.name(), None);
            line.meet(fate).await;
        }
        if to_do.refuse_sas {
            let token = || self.check(parts, &target, &query, line).ok()?.signature;
            if let Some(name) = query.get("sig").map(str::to_owned).or_else(token) {
                self.keys.refuse(&name);
            }
        }
        if let Some(at) = to_do.cut_upload {
            body.read_away(at).await;
            self.stats.blob_request(operation.name(), None);
            line.meet(Fate::Reset).await;
        }
        if let Some((refusal, retry_after)) = to_do.refuse {
            return Err(StorageError::scripted(refusal, retry_after));
        }
        if let Some(text) = to_do.replace {
            self.replace(&target, text).await?;
        }

        let access = self.check(parts, &target, &query, line)?;
        let (level, rights) = operation.needs();
        access.allows(level, rights)?;
        if parts.headers.contains_key("x-ms-lease-id") {
            return Err(match target.blob {
                Some(_) => StorageError::lease_not_present(),
                None => StorageError::lease_not_present_container(),
            });
        }
        let call =
            Call { target: &target, query: &query, headers: &parts.headers, access, line, truncate: to_do.truncate };
        let answer = match operation {
            BlobOperation::ListContainers => self.list_containers(&call, host),
            BlobOperation::GetAccountInformation => Ok(account_information()),
            BlobOperation::CreateContainer => self.make_container(&call),
            BlobOperation::DeleteContainer => self.delete_container(&call),
            BlobOperation::GetContainerProperties => self.container_properties(&call),
            BlobOperation::SetContainerMetadata => self.set_container_metadata(&call),
            BlobOperation::ListBlobs => self.list_blobs(&call, host),
            BlobOperation::PutBlob => self.put_blob(&call, body).await,
            BlobOperation::PutBlock => self.put_block(&call, body).await,
            BlobOperation::PutBlockList => self.put_block_list(&call, body).await,
            BlobOperation::GetBlockList => self.block_list(&call),
            BlobOperation::GetBlob => self.get_blob(&call).await,
            BlobOperation::GetBlobProperties | BlobOperation::GetBlobMetadata => self.head_blob(&call, operation),
            BlobOperation::SetBlobProperties => self.set_properties(&call),
            BlobOperation::SetBlobMetadata => self.set_metadata(&call),
            BlobOperation::SetBlobTier => self.set_tier(&call),
            BlobOperation::DeleteBlob => self.delete_blob(&call),
        }?;
        if let Some(reset) = to_do.drop_answer {
            self.stats.blob_request(operation.name(), None);
            line.drop_answer(reset).await;
        }
        Ok(answer)
    }

    /// Fault: another version of a blob, with these bytes or its own. One that is not there stays so.
    async fn replace(&self, target: &Target, text: Option<String>) -> Result<(), StorageError> {
        let (Some(container), Some(blob)) = (&target.container, &target.blob) else { return Ok(()) };
        let chunk = match text {
            None => None,
            Some(text) => {
                let failed = |error: std::io::Error| StorageError::internal(&error);
                let mut writer = self.spool.writer(text.len() as u64).map_err(failed)?;
                writer.write(text.as_bytes()).await.map_err(failed)?;
                Some(writer.finish().await.map_err(failed)?)
            }
        };
        self.containers().make_new_version(container, blob, chunk, (self.now)());
        Ok(())
    }

    fn check(
        &self,
        parts: &http::request::Parts,
        target: &Target,
        query: &StorageQuery,
        line: &Line,
    ) -> Result<StorageAccess, StorageError> {
        let request = StorageRequest {
            method: &parts.method,
            path: parts.uri.path(),
            query,
            headers: &parts.headers,
            account: &target.account,
            container: target.container.as_deref(),
            blob: target.blob.as_deref(),
            client: line.peer(),
            https: line.is_tls(),
        };
        Ok(self.keys.check_storage(&request, (self.now)().unix_timestamp())?)
    }

    fn refuse(&self, error: &StorageError, method: &Method, request_id: &str) -> Response<Body> {
        let time = (self.now)().format(ERROR_TIME).unwrap_or_default();
        let has_body = *method != Method::HEAD && error.status != StatusCode::NOT_MODIFIED;
        let mut response = Response::new(if has_body { full(error.xml(request_id, &time)) } else { empty() });
        *response.status_mut() = error.status;
        let headers = response.headers_mut();
        headers.insert("x-ms-error-code", HeaderValue::from_static(error.code));
        if has_body {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        }
        if let Some(size) = error.size {
            set(headers, header::CONTENT_RANGE, &format!("bytes */{size}"));
        }
        if let Some(seconds) = error.retry_after {
            set(headers, header::RETRY_AFTER, &seconds.to_string());
        }
        if error.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, self.challenge.clone());
        }
        response
    }
}

impl Handler for BlobService {
    async fn handle(&self, request: Request<&mut Upload>, line: &Line) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let request_id = Uuid::new_v4().to_string();
        let mut operation = None;
        let answer = self.answer(&parts, body, line, &mut operation).await;
        let mut response = match answer {
            Ok(response) => response,
            Err(error) => {
                log_refusal(&parts, operation, &error, line.peer());
                self.refuse(&error, &parts.method, &request_id)
            }
        };
        self.stats.blob_request(operation.map_or("Unknown", BlobOperation::name), Some(response.status()));
        let headers = response.headers_mut();
        set(headers, HeaderName::from_static("x-ms-request-id"), &request_id);
        headers.insert(header::SERVER, HeaderValue::from_static("waybill-local"));
        let asked = parts.headers.get("x-ms-version");
        headers.insert("x-ms-version", asked.cloned().unwrap_or(HeaderValue::from_static(DEFAULT_VERSION)));
        if let Some(id) = parts.headers.get("x-ms-client-request-id") {
            headers.insert("x-ms-client-request-id", id.clone());
        }
        response
    }
}

/// Says why a request was refused. What programs ask for in order to learn it (is it there, has it changed) is no warning.
/// The query is left out: it may hold a SAS.
fn log_refusal(
    parts: &http::request::Parts,
    operation: Option<BlobOperation>,
    error: &StorageError,
    from: std::net::IpAddr,
) {
    let operation = operation.map_or("Unknown", BlobOperation::name);
    let (method, path, status) = (&parts.method, printable(parts.uri.path()), error.status.as_u16());
    let why = printable(error.detail.as_deref().unwrap_or(&error.message));
    let code = error.code;
    match error.status {
        StatusCode::NOT_MODIFIED
        | StatusCode::NOT_FOUND
        | StatusCode::CONFLICT
        | StatusCode::PRECONDITION_FAILED
        | StatusCode::RANGE_NOT_SATISFIABLE => {
            say!(SAID, info, "blob: request declined", %from, %method, %path, operation, status, code, %why);
        }
        _ => say!(SAID, warn, "blob: request refused", %from, %method, %path, operation, status, code, %why),
    }
}

/// A header whose value was made here or checked to be visible ASCII when it came in.
fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn http_date(at: OffsetDateTime) -> String {
    at.format(RFC1123).unwrap_or_default()
}

/// `ETag` and `Last-Modified`.
fn set_version(headers: &mut HeaderMap, version: &Version) {
    set(headers, header::ETAG, &version.etag);
    set(headers, header::LAST_MODIFIED, &http_date(version.last_modified));
}

/// An answer without a body.
fn bare(status: StatusCode, version: Option<&Version>) -> Response<Body> {
    let mut response = Response::new(empty());
    *response.status_mut() = status;
    if let Some(version) = version {
        set_version(response.headers_mut(), version);
    }
    response
}

fn xml(body: String) -> Response<Body> {
    let mut response = Response::new(full(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}

fn account_information() -> Response<Body> {
    let mut response = bare(StatusCode::OK, None);
    response.headers_mut().insert("x-ms-sku-name", HeaderValue::from_static("Standard_LRS"));
    response.headers_mut().insert("x-ms-account-kind", HeaderValue::from_static("StorageV2"));
    response.headers_mut().insert("x-ms-is-hns-enabled", HeaderValue::from_static("false"));
    response
}

#[cfg(test)]
mod tests;
