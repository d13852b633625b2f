//! Why a call to Blob Storage failed: the service's answers and the transport's troubles, sorted by what helps.
//!
//! # Sources
//! Microsoft, "Status and error codes" and "Blob service error codes". An expired SAS is `AuthenticationFailed` there and
//! `AuthorizationFailure` from Azurite, so refusals are known by their status (401, 403) alone.

use std::time::Duration;

use azure_core::{
    error::ErrorKind,
    http::headers::{HeaderName, Headers, RETRY_AFTER},
};

use super::transport::Fault;
use crate::{GrantError, http::retry_after};

const DATE: HeaderName = HeaderName::from_static("date");

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the text of each variant says it")]
pub enum BlobError {
    #[error("no token for storage")]
    Grant(#[from] GrantError),
    #[error("{blob}: storage refused a fresh token too ({code}); {advice}")]
    AccessRefused { blob: String, code: String, advice: &'static str },
    #[error("{blob}: the token was not sent: {problem}")]
    TokenWithheld { blob: String, problem: String },
    #[error("{blob}: no such blob")]
    NotFound { blob: String },
    #[error("{blob}: no such container; check the grant")]
    ContainerNotFound { blob: String },
    #[error("{blob}: archived; it must be rehydrated before it can be read")]
    Archived { blob: String },
    #[error("{blob}: it is there already")]
    AlreadyExists { blob: String },
    #[error("{blob}: it changed since it was first read")]
    Changed { blob: String },
    #[error("{blob}: a staged block vanished ({code})")]
    BlockVanished { blob: String, code: String },
    #[error("{blob}: only {staged} of {begun} blocks were staged; begin the upload again")]
    Unfinished { blob: String, staged: u32, begun: u32 },
    #[error("{blob}: {problem}")]
    Unfit { blob: String, problem: String },
    #[error("{blob}: storage is busy ({status} {code})")]
    Busy { blob: String, status: u16, code: String, retry_after: Option<Duration> },
    #[error("{blob}: the connection was lost: {problem}")]
    Lost { blob: String, problem: String },
    #[error("{blob}: storage gave an answer that cannot be right: {problem}")]
    BadAnswer { blob: String, problem: String },
    #[error("{blob}: refused with {status} {code}")]
    Refused { blob: String, status: u16, code: String },
}

impl BlobError {
    /// Whether the same call may succeed a little later without anybody doing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Lost { .. } | Self::BadAnswer { .. } => true,
            Self::Grant(error) => matches!(error, GrantError::Unavailable { .. }),
            Self::AccessRefused { .. }
            | Self::TokenWithheld { .. }
            | Self::NotFound { .. }
            | Self::ContainerNotFound { .. }
            | Self::Archived { .. }
            | Self::AlreadyExists { .. }
            | Self::Changed { .. }
            | Self::BlockVanished { .. }
            | Self::Unfinished { .. }
            | Self::Unfit { .. }
            | Self::Refused { .. } => false,
        }
    }

    /// How long storage or the token's issuer asked us to wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } | Self::Grant(GrantError::Unavailable { retry_after, .. }) => *retry_after,
            _ => None,
        }
    }
}

/// What an error of the SDK means.
pub(super) enum Failure {
    /// 401 or 403: another token may help.
    Token {
        /// Storage's error code.
        code: String,
    },
    /// Anything else.
    Other(BlobError),
}

/// Sorts an error of the SDK. Its own texts are left out wherever they could quote an answer.
pub(super) fn sort(error: &azure_core::Error, blob: &str) -> Failure {
    let blob = blob.to_owned();
    if let Some(fault) = error.downcast_ref::<Fault>() {
        return Failure::Other(match fault {
            Fault::Withheld(problem) => BlobError::TokenWithheld { blob, problem: problem.clone() },
            Fault::Lost(problem) => BlobError::Lost { blob, problem: problem.clone() },
            Fault::BadAnswer(problem) => BlobError::BadAnswer { blob, problem: problem.clone() },
        });
    }
    match error.kind() {
        ErrorKind::HttpResponse { status, error_code, raw_response } => {
            let code = error_code.clone().unwrap_or_else(|| "no error code".to_owned());
            let headers = raw_response.as_ref().map(|response| response.headers());
            sort_status(**status, code, headers, blob)
        }
        ErrorKind::Connection | ErrorKind::Io | ErrorKind::Credential => {
            Failure::Other(BlobError::Lost { blob, problem: error.kind().to_string() })
        }
        ErrorKind::DataConversion | ErrorKind::Other => {
            Failure::Other(BlobError::BadAnswer { blob, problem: error.to_string() })
        }
    }
}

fn sort_status(status: u16, code: String, headers: Option<&Headers>, blob: String) -> Failure {
    Failure::Other(match (status, code.as_str()) {
        (401 | 403, _) => return Failure::Token { code },
        (404, "BlobNotFound") => BlobError::NotFound { blob },
        (404, "ContainerNotFound") | (409, "ContainerBeingDeleted") => BlobError::ContainerNotFound { blob },
        (409, "BlobArchived" | "BlobBeingRehydrated") => BlobError::Archived { blob },
        (409, "BlobAlreadyExists") => BlobError::AlreadyExists { blob },
        (412, _) => BlobError::Changed { blob },
        (400, "InvalidBlockList") => BlobError::BlockVanished { blob, code },
        (408 | 429 | 500.., _) => {
            let text = |name| headers.and_then(|headers| headers.get_optional_str(name));
            BlobError::Busy { blob, status, code, retry_after: retry_after(text(&RETRY_AFTER), text(&DATE)) }
        }
        _ => BlobError::Refused { blob, status, code },
    })
}
