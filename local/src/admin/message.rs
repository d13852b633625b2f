//! A message as a peek shows it.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value as Json, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::broker::{Moment, Peeked, State, Value};

pub(super) fn message_json(peeked: &Peeked) -> Json {
    let contents = &peeked.contents;
    let mut message = json!({
        "sequenceNumber": peeked.sequence_number,
        "enqueuedAt": moment_json(peeked.enqueued_at),
        "deliveryCount": peeked.delivery_count,
        "state": match peeked.state {
            State::Active => "active",
            State::Locked => "locked",
            State::Deferred => "deferred",
            State::Scheduled => "scheduled",
        },
        "lockedUntil": peeked.locked_until.map(moment_json),
        "messageId": contents.message_id,
        "subject": contents.subject,
        "correlationId": contents.correlation_id,
        "contentType": contents.content_type,
        "properties": contents
            .properties
            .iter()
            .map(|(name, value)| (name.clone(), value_json(value)))
            .collect::<Map<String, Json>>(),
    });
    match std::str::from_utf8(&contents.body) {
        Ok(text) => message["body"] = json!(text),
        Err(_) => message["bodyBase64"] = json!(STANDARD.encode(&contents.body)),
    }
    message
}

pub(super) fn moment_json(moment: Moment) -> Json {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(moment.0) * 1_000_000).ok();
    json!(at.and_then(|at| at.format(&Rfc3339).ok()))
}

fn value_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Uint(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Double(value) => json!(value),
        Value::Char(value) => json!(value),
        Value::Timestamp(ms) => moment_json(Moment(*ms)),
        Value::Uuid(value) => json!(value.to_string()),
        Value::Binary(value) => json!({ "base64": STANDARD.encode(value) }),
        Value::Text(value) | Value::Symbol(value) => json!(value),
        Value::List(values) | Value::Array(values) => values.iter().map(value_json).collect(),
        Value::Map(pairs) => pairs.iter().map(|(key, value)| json!([value_json(key), value_json(value)])).collect(),
        Value::Described(described) => value_json(&described.1),
        Value::Other(code, bytes) => json!({ "code": code, "base64": STANDARD.encode(bytes) }),
    }
}
