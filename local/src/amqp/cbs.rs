//! `$cbs`: how a client shows its tokens.
//!
//! # Sources
//! "AMQP 1.0 in Azure Service Bus and Event Hubs protocol guide", claims-based security. The `type` of a token is not
//! looked at: Python labels a SAS `jwt`.

use super::address::path_of;
use super::codec::Value;
use super::request::{Answer, Request};
use super::tokens::{NotPut, Tokens};
use crate::keys::Keys;

/// Condition of a refused token.
const AUTH_FAILED: &str = "com.microsoft:auth-failed";

/// Answers one request; a token that is good is kept in `tokens`. `now` in seconds since 1970.
pub(crate) fn answer(request: &Request<'_>, tokens: &mut Tokens, keys: &Keys, now: i64) -> Answer {
    match request.property("operation") {
        Some("put-token") => {}
        other => {
            let text = format!("the operation '{}' is not supported on $cbs; use put-token", other.unwrap_or_default());
            return Answer::refusal(501, "amqp:not-implemented", text);
        }
    }
    let Some(name) = request.property("name") else {
        return Answer::refusal(400, "amqp:invalid-field", "put-token needs the application property 'name'");
    };
    let Some(token) = request.body.as_text() else {
        let text = match request.body {
            Value::Null => "put-token needs the token as a string in an amqp-value body",
            _ => "the token must be a string",
        };
        return Answer::refusal(400, "amqp:invalid-field", text);
    };
    match tokens.put(keys, token, path_of(name), now) {
        Ok(()) => Answer { status: 202, description: "Accepted".to_owned(), condition: None, body: None },
        Err(NotPut::Refused(refusal)) => Answer::refusal(401, AUTH_FAILED, refusal.to_string()),
        Err(long @ NotPut::LongAudience) => Answer::refusal(400, "amqp:invalid-field", long.to_string()),
        Err(full @ NotPut::Full) => Answer::refusal(403, "amqp:resource-limit-exceeded", full.to_string()),
    }
}
