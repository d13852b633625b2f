//! Storage's errors: status, code and message, in the XML and the `x-ms-error-code` header that clients read.
//!
//! # Sources
//! "Status and error codes" and "Blob Storage error codes" of the storage REST reference.

use std::borrow::Cow;

use http::StatusCode;

use crate::{
    fault::{Refusal, StorageCode},
    keys::StorageRefusal,
};

/// A refusal or failure as the client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StorageError {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: Cow<'static, str>,
    /// For `AuthenticationFailed`: what exactly was wrong.
    pub(super) detail: Option<Cow<'static, str>>,
    /// For a failed range: the size of the blob.
    pub(super) size: Option<u64>,
    /// For an outage that a fault script made: seconds.
    pub(super) retry_after: Option<u64>,
}

/// The error whose parts are all known here.
macro_rules! known {
    ($($(#[$doc:meta])* $name:ident: $status:ident, $code:literal, $message:literal;)+) => {
        impl StorageError {
            $($(#[$doc])* pub(super) fn $name() -> Self {
                Self::new(StatusCode::$status, $code, $message)
            })+
        }
    };
}

known! {
    not_modified: NOT_MODIFIED, "ConditionNotMet", "The condition specified using HTTP conditional header(s) is not met.";
    condition_not_met: PRECONDITION_FAILED, "ConditionNotMet", "The condition specified using HTTP conditional header(s) is not met.";
    blob_exists: CONFLICT, "BlobAlreadyExists", "The specified blob already exists.";
    blob_not_found: NOT_FOUND, "BlobNotFound", "The specified blob does not exist.";
    container_exists: CONFLICT, "ContainerAlreadyExists", "The specified container already exists.";
    container_not_found: NOT_FOUND, "ContainerNotFound", "The specified container does not exist.";
    invalid_block_list: BAD_REQUEST, "InvalidBlockList", "The specified block list is invalid.";
    block_list_too_long: BAD_REQUEST, "BlockListTooLong", "The block list may not contain more than 50,000 blocks.";
    block_count_exceeds: CONFLICT, "BlockCountExceedsLimit", "The uncommitted block count cannot exceed the maximum limit of 100,000 blocks.";
    invalid_blob_or_block: BAD_REQUEST, "InvalidBlobOrBlock", "The specified blob or block content is invalid. All block ids of a blob have the same length.";
    invalid_block_id: BAD_REQUEST, "InvalidBlockId", "The specified block ID is invalid. The block ID must be Base64-encoded and at most 64 bytes before the encoding.";
    invalid_xml: BAD_REQUEST, "InvalidXmlDocument", "XML specified is not syntactically valid.";
    md5_mismatch: BAD_REQUEST, "Md5Mismatch", "The MD5 value specified in the request did not match with the MD5 value calculated by the server.";
    crc64_mismatch: BAD_REQUEST, "Crc64Mismatch", "The CRC64 value specified in the request did not match with the CRC64 value calculated by the server.";
    invalid_md5: BAD_REQUEST, "InvalidMd5", "The MD5 value specified in the request is invalid. The MD5 value must be 128 bits and Base64-encoded.";
    length_missing: LENGTH_REQUIRED, "MissingContentLengthHeader", "Content-Length HTTP header is missing.";
    too_large: PAYLOAD_TOO_LARGE, "RequestBodyTooLarge", "The request body is too large and exceeds the maximum permissible limit.";
    incomplete_body: BAD_REQUEST, "IncompleteBody", "You did not provide the number of bytes specified by the Content-Length HTTP header.";
    container_being_deleted: CONFLICT, "ContainerBeingDeleted", "The specified container is being deleted. Try operation later.";
    public_access_not_permitted: CONFLICT, "PublicAccessNotPermitted", "Public access is not permitted on this storage account.";
    unauthorized_overwrite: FORBIDDEN, "UnauthorizedBlobOverwrite", "This request is not authorized to perform blob overwrites.";
    blob_archived: CONFLICT, "BlobArchived", "This operation is not permitted on an archived blob.";
    both_hashes: BAD_REQUEST, "InvalidHeaderValue", "x-ms-range-get-content-md5 and x-ms-range-get-content-crc64 exclude each other.";
    hash_without_range: BAD_REQUEST, "InvalidHeaderValue", "x-ms-range-get-content-md5 and x-ms-range-get-content-crc64 need a Range or x-ms-range header.";
    hash_of_long_range: BAD_REQUEST, "OutOfRangeInput", "One of the request inputs is out of range: the hash of a range is for up to 4 MiB.";
    invalid_name: BAD_REQUEST, "InvalidResourceName", "The specified resource name contains invalid characters.";
    name_length: BAD_REQUEST, "OutOfRangeInput", "The specified resource name length is not within the permissible limits.";
    invalid_uri: BAD_REQUEST, "InvalidUri", "The requested URI does not represent any resource on the server.";
    lease_not_present: PRECONDITION_FAILED, "LeaseNotPresentWithBlobOperation", "There is currently no lease on the blob.";
    lease_not_present_container: PRECONDITION_FAILED, "LeaseNotPresentWithContainerOperation", "There is currently no lease on the container.";
}

impl StorageError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, message: message.into(), detail: None, size: None, retry_after: None }
    }

    pub(super) fn invalid_range(size: u64) -> Self {
        let error = Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "InvalidRange",
            "The range specified is invalid for the current size of the resource.",
        );
        Self { size: Some(size), ..error }
    }

    pub(super) fn invalid_header(name: &str, problem: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "InvalidHeaderValue",
            format!("The value for one of the HTTP headers is not in the correct format: {name} {problem}."),
        )
    }

    pub(super) fn missing_header(name: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "MissingRequiredHeader",
            format!("An HTTP header that's mandatory for this request is not specified: {name}."),
        )
    }

    pub(super) fn invalid_query(name: &str, problem: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "InvalidQueryParameterValue",
            format!("Value for one of the query parameters specified in the request URI is invalid: {name} {problem}."),
        )
    }

    pub(super) fn out_of_range_query(name: &str, problem: &str) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "OutOfRangeQueryParameterValue",
            format!(
                "One of the query parameters specified in the request URI is outside the permissible range: {name} {problem}."
            ),
        )
    }

    /// An operation that Azure has and this server does not.
    pub(super) fn not_here(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_IMPLEMENTED,
            "NotImplemented",
            format!("waybill-local does not have this: {what}. Use Azurite or Azure for it."),
        )
    }

    /// What a fault script says.
    pub(super) fn scripted(refusal: Refusal, retry_after: Option<u64>) -> Self {
        let error = match refusal {
            Refusal::Blob(StorageCode { code, status, message }) => {
                Self::new(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), code, message)
            }
            Refusal::Busy | Refusal::Status(_) | Refusal::Condition(_) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "ServerBusy",
                "The server is currently unable to receive requests. Please retry your request.",
            ),
        };
        Self { retry_after, ..error }
    }

    pub(super) fn internal(error: &std::io::Error) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "InternalError",
            format!("waybill-local could not keep the bytes: {error}; is the temporary directory full?"),
        )
    }

    /// The body, for methods that have one.
    pub(super) fn xml(&self, request_id: &str, time: &str) -> String {
        use quick_xml::escape::escape;
        let detail = self.detail.as_ref().map_or_else(String::new, |detail| {
            format!("<AuthenticationErrorDetail>{}</AuthenticationErrorDetail>", escape(detail.as_ref()))
        });
        format!(
            "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><Error><Code>{}</Code><Message>{}\nRequestId:{request_id}\nTime:{time}</Message>{detail}</Error>",
            self.code,
            escape(self.message.as_ref()),
        )
    }
}

impl From<StorageRefusal> for StorageError {
    fn from(refusal: StorageRefusal) -> Self {
        const NOT_AUTHORIZED: &str = "This request is not authorized to perform this operation";
        let forbidden = |code, message: String| Self::new(StatusCode::FORBIDDEN, code, message);
        match refusal {
            StorageRefusal::Anonymous => Self::new(
                StatusCode::UNAUTHORIZED,
                "NoAuthenticationInformation",
                "Server failed to authenticate the request. Please refer to the information in the www-authenticate header.",
            ),
            StorageRefusal::InvalidAuthenticationInfo(detail) => Self {
                detail: Some(detail.into()),
                ..Self::new(
                    StatusCode::UNAUTHORIZED,
                    "InvalidAuthenticationInfo",
                    "Server failed to authenticate the request. Please refer to the information in the www-authenticate header.",
                )
            },
            StorageRefusal::AuthenticationFailed(detail) => Self {
                detail: Some(detail.into()),
                ..forbidden(
                    "AuthenticationFailed",
                    "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly including the signature.".to_owned(),
                )
            },
            StorageRefusal::PermissionMismatch => {
                forbidden("AuthorizationPermissionMismatch", format!("{NOT_AUTHORIZED} using this permission."))
            }
            StorageRefusal::ResourceTypeMismatch => {
                forbidden("AuthorizationResourceTypeMismatch", format!("{NOT_AUTHORIZED} using this resource type."))
            }
            StorageRefusal::ServiceMismatch => {
                forbidden("AuthorizationServiceMismatch", format!("{NOT_AUTHORIZED} using this service."))
            }
            StorageRefusal::NotAuthorized => forbidden("AuthorizationFailure", format!("{NOT_AUTHORIZED}.")),
            StorageRefusal::ProtocolMismatch => {
                forbidden("AuthorizationProtocolMismatch", format!("{NOT_AUTHORIZED} using this protocol."))
            }
            StorageRefusal::SourceAddressMismatch => {
                forbidden("AuthorizationSourceIPMismatch", format!("{NOT_AUTHORIZED} using this source IP."))
            }
        }
    }
}
