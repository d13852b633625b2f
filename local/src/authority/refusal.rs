//! Why no token is issued, in the words of Entra.
//!
//! # Sources
//! "Microsoft Entra authentication and authorization error codes"; "OAuth 2.0 client credentials flow" (form of errors).

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;
use time::{OffsetDateTime, macros::format_description};
use uuid::Uuid;

use crate::{
    fault,
    listen::{Body, json},
};

/// A refusal: what OAuth calls it, and Entra's number and text for it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) error: &'static str,
    pub(crate) code: u32,
    pub(crate) text: String,
    /// When the client is told to come again, in seconds.
    pub(crate) retry_after: Option<u64>,
}

impl Refusal {
    pub(crate) fn request(code: u32, text: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", code, text)
    }

    /// The client did not prove who it is.
    pub(crate) fn client(code: u32, text: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "invalid_client", code, text)
    }

    pub(crate) fn new(status: StatusCode, error: &'static str, code: u32, text: impl Into<String>) -> Self {
        Self { status, error, code, text: text.into(), retry_after: None }
    }

    /// What a fault script wants.
    pub(crate) fn scripted(refusal: fault::Refusal, retry_after: Option<u64>) -> Self {
        let (status, code, text) = match refusal {
            fault::Refusal::Status(status) if status != 429 => (
                StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
                90_033,
                "A transient error has occurred. Please try again. (fault script)",
            ),
            _ => (StatusCode::TOO_MANY_REQUESTS, 90_055, "There are too many incoming requests. (fault script)"),
        };
        Self { retry_after, ..Self::new(status, "temporarily_unavailable", code, text) }
    }

    pub(crate) fn missing(parameter: &str) -> Self {
        let text = format!("The request body must contain the following parameter: '{parameter}'.");
        Self::request(900_144, text)
    }

    /// The answer; `correlation` is what the client calls its request.
    pub(crate) fn response(&self, now: OffsetDateTime, correlation: &str) -> Response<Body> {
        let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second]Z");
        let timestamp = now.format(&format).unwrap_or_default();
        let trace = Uuid::new_v4();
        let description = format!(
            "AADSTS{}: {} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {timestamp}",
            self.code, self.text
        );
        let mut response = json(
            self.status,
            &json!({
                "error": self.error,
                "error_description": description,
                "error_codes": [self.code],
                "timestamp": timestamp,
                "trace_id": trace.to_string(),
                "correlation_id": correlation,
                "error_uri": format!("https://login.microsoftonline.com/error?code={}", self.code),
            }),
        );
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
