//! A small endpoint of our own: rotate, install fault scripts, count, look into queues. For development on one machine:
//! it asks for no credential, so it answers only requests that name a loopback host and that no web page has sent.
//!
//! | request | answer |
//! |---|---|
//! | `POST /rotate`, `POST /rotate?tenant=acme` | `{"rotated": "acme"}` |
//! | `POST /faults` with a script in TOML or JSON | `{"installed": 2}` |
//! | `GET /faults` | steps that wait, and what has fired |
//! | `DELETE /faults` | forgets the steps that wait, ends outages |
//! | `GET /stats` | counts of entities, blob requests, grants, tokens by hash |
//! | `GET /entities` | all entities with their counts |
//! | `GET /entities/exports/subscriptions/acme?from=1&max=10` | messages, without taking them |

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value as Json, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    blob::BlobService,
    broker::{Broker, BrokerError, Counts, Moment, Peeked, State, Value},
    fault::{Faults, Step},
    keys::{Keys, StorageQuery, TokenKind},
    listen::{Body, Handler, Line, is_loopback_host, json},
    stats::Stats,
};

/// Longest script.
const BODY_MAX: usize = 1 << 20;
/// Messages of a peek when the request does not say, and at most.
const PEEK_DEFAULT: usize = 20;
const PEEK_MAX: usize = 1_000;

/// What the endpoint reaches.
pub(crate) struct Admin {
    pub(crate) keys: Arc<Keys>,
    pub(crate) broker: Arc<Broker>,
    pub(crate) blob: Arc<BlobService>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) stats: Arc<Stats>,
}

/// A refusal: status and what to do.
type Refusal = (StatusCode, String);

impl Admin {
    async fn answer(&self, request: Request<Incoming>) -> Result<Json, Refusal> {
        let (parts, body) = request.into_parts();
        check_caller(&parts)?;
        let path = percent_decode_str(parts.uri.path()).decode_utf8_lossy().into_owned();
        let query = StorageQuery::parse(parts.uri.query().unwrap_or(""));
        match (&parts.method, path.trim_matches('/')) {
            (&Method::POST, "rotate") => {
                let tenant = query.get("tenant");
                self.keys.rotate(tenant).map_err(|error| (StatusCode::NOT_FOUND, error.to_string()))?;
                Ok(json!({ "rotated": tenant.unwrap_or("all tenants") }))
            }
            (&Method::POST, "faults") => self.install(body).await,
            (&Method::GET, "faults") => {
                Ok(json!({ "waiting": self.faults.waiting(), "fired": self.faults.log_lines() }))
            }
            (&Method::DELETE, "faults") => {
                self.faults.clear();
                Ok(json!({ "waiting": 0 }))
            }
            (&Method::GET, "stats") => Ok(self.stats()),
            (&Method::GET, "entities") => Ok(self.entities()),
            (&Method::GET, path) => match path.strip_prefix("entities/") {
                Some(entity) => self.peek(entity, &query),
                None => Err(nothing_here()),
            },
            _ => Err(nothing_here()),
        }
    }

    async fn install(&self, body: Incoming) -> Result<Json, Refusal> {
        let refuse = |text: String| (StatusCode::BAD_REQUEST, text);
        let body = Limited::new(body, BODY_MAX)
            .collect()
            .await
            .map_err(|error| refuse(format!("the script could not be read: {error}; it may have 1 MiB")))?
            .to_bytes();
        let text = std::str::from_utf8(&body).map_err(|_| refuse("the script is not UTF-8".to_owned()))?;
        let steps = if text.trim_start().starts_with('{') { Step::from_json(text) } else { Step::from_toml(text) };
        let steps = steps.map_err(|error| refuse(error.to_string()))?;
        let installed = steps.len();
        self.faults.install(steps).map_err(|error| refuse(error.to_string()))?;
        Ok(json!({ "installed": installed }))
    }

    fn entities(&self) -> Json {
        let entities = self.broker.entities().into_iter().filter_map(|path| {
            let counts = self.broker.counts(&path).ok()?;
            Some((path, counts_json(&counts)))
        });
        Json::Object(entities.collect())
    }

    fn stats(&self) -> Json {
        let counted = self.stats.counted();
        json!({
            "entities": self.entities(),
            "connections": self.broker.connections(),
            "blob": counted.blob,
            "blobBytesIn": counted.blob_bytes_in,
            "blobBytesOut": counted.blob_bytes_out,
            "blobBytesInMemory": self.blob.resident_bytes(),
            "grants": counted.grants,
            "grantsUnknown": counted.grants_unknown,
            "tokens": {
                "bus": self.keys.tokens_used(TokenKind::Bus),
                "blob": self.keys.tokens_used(TokenKind::Storage),
            },
            "faultsFired": *self.faults.fired().borrow(),
        })
    }

    fn peek(&self, entity: &str, query: &StorageQuery) -> Result<Json, Refusal> {
        let number = |name: &str, default: usize| match query.get(name) {
            None => Ok(default),
            Some(text) => text.parse().map_err(|_| (StatusCode::BAD_REQUEST, format!("`{name}` is not a number"))),
        };
        let from = i64::try_from(number("from", 0)?).unwrap_or(i64::MAX);
        let most = number("max", PEEK_DEFAULT)?.min(PEEK_MAX);
        let messages = self.broker.peek(entity, from, most).map_err(|error: BrokerError| {
            (StatusCode::NOT_FOUND, format!("{error}; GET /entities lists them, and a topic itself holds no messages"))
        })?;
        Ok(json!({ "messages": messages.iter().map(message_json).collect::<Vec<_>>() }))
    }
}

impl Handler for Admin {
    async fn handle(&self, request: Request<Incoming>, _line: &Line) -> Response<Body> {
        match self.answer(request).await {
            Ok(value) => json(StatusCode::OK, &value),
            Err((status, message)) => json(status, &json!({ "error": { "message": message } })),
        }
    }
}

fn nothing_here() -> Refusal {
    let known = "POST /rotate, POST|GET|DELETE /faults, GET /stats, GET /entities, GET /entities/PATH";
    (StatusCode::NOT_FOUND, format!("there is nothing here; there are {known}"))
}

/// A web page in a browser on this machine could send requests here: it would name itself in `Origin`, or reach us by a
/// name of its own that leads to 127.0.0.1.
fn check_caller(parts: &http::request::Parts) -> Result<(), Refusal> {
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    if !is_loopback_host(host) {
        return Err((StatusCode::FORBIDDEN, "use http://127.0.0.1 or http://localhost".to_owned()));
    }
    if parts.headers.contains_key(header::ORIGIN) {
        return Err((StatusCode::FORBIDDEN, "requests from web pages are refused".to_owned()));
    }
    Ok(())
}

fn counts_json(counts: &Counts) -> Json {
    let totals = &counts.totals;
    json!({
        "active": counts.active,
        "locked": counts.locked,
        "deferred": counts.deferred,
        "scheduled": counts.scheduled,
        "deadLettered": counts.dead_lettered,
        "bytes": counts.bytes,
        "totals": {
            "enqueued": totals.enqueued,
            "deliveries": totals.deliveries,
            "completed": totals.completed,
            "abandoned": totals.abandoned,
            "released": totals.released,
            "deferred": totals.deferred,
            "deadLettered": totals.dead_lettered,
            "duplicates": totals.duplicates,
            "expired": totals.expired,
            "locksExpired": totals.locks_expired,
            "locksLost": totals.locks_lost,
        },
    })
}

fn message_json(peeked: &Peeked) -> Json {
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

fn moment_json(moment: Moment) -> Json {
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
