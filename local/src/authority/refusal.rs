//! Why no token is issued, in the words of Entra.
//!
//! # Sources
//! "Microsoft Entra authentication and authorization error codes"; "OAuth 2.0 client credentials flow" (form of errors).

use http::{Response, StatusCode};
use serde_json::json;
use time::{OffsetDateTime, macros::format_description};
use uuid::Uuid;

use crate::listen::{Body, json};

/// A refusal: what OAuth calls it, and Entra's number and text for it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) error: &'static str,
    pub(crate) code: u32,
    pub(crate) text: String,
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
        Self { status, error, code, text: text.into() }
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
        json(
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
        )
    }
}
