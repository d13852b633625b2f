//! A small endpoint of our own: look, make and delete entities, rotate, install fault scripts. For development on one
//! machine: it asks for no credential, so it answers only requests that name a loopback host and that no web page has sent.
//!
//! | request | answer |
//! |---|---|
//! | `GET /status` | entities, connections, tokens by hash, faults, blob containers and requests |
//! | `GET /entities` | all entities with properties, rules and counts |
//! | `GET /entities/exports/subscriptions/acme?from=1&max=10` | messages, without taking them |
//! | `PUT /entities/jobs` with properties in JSON | makes it (201), or finds it just so (200) |
//! | `DELETE /entities/jobs` | takes it away with its messages |
//! | `PUT`, `DELETE /containers/more` | a blob container |
//! | `POST /rotate`, `POST /rotate?tenant=acme&grace_ms=5000` | `{"rotated": "acme"}` |
//! | `POST /faults` with a script in TOML or JSON | `{"installed": 2}` |
//! | `GET /faults` | steps that wait, and what has fired |
//! | `DELETE /faults` | forgets the steps that wait, ends outages |

mod entities;
mod message;
mod status;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use percent_encoding::percent_decode_str;
use serde_json::{Value as Json, json};
use time::OffsetDateTime;

use crate::{
    blob::BlobService,
    broker::{Broker, Now, QueueOptions},
    fault::{Faults, Step},
    keys::{KeyError, Keys, StorageQuery},
    listen::{Body, Handler, Line, Upload, is_loopback_host, json},
    log::{Lines, printable, say},
    rotation::Rotations,
    stats::Stats,
};

/// What was said of late about refusals.
static SAID: Lines = Lines::new();

/// Longest script or body.
const BODY_MAX: usize = 1 << 20;

/// What the endpoint reaches.
pub(crate) struct Admin {
    pub(crate) keys: Arc<Keys>,
    pub(crate) rotations: Arc<Rotations>,
    pub(crate) broker: Arc<Broker>,
    pub(crate) blob: Arc<BlobService>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) now: Now,
    pub(crate) started_at: OffsetDateTime,
    /// Of entities that are made here and do not say otherwise.
    pub(crate) defaults: QueueOptions,
    /// What the configuration asked for in vain.
    pub(crate) warnings: Vec<String>,
}

/// A refusal: status and what to do.
type Refusal = (StatusCode, String);

impl Admin {
    async fn answer(&self, request: Request<&mut Upload>) -> Result<(StatusCode, Json), Refusal> {
        let (parts, body) = request.into_parts();
        check_caller(&parts)?;
        let path = percent_decode_str(parts.uri.path()).decode_utf8_lossy().into_owned();
        let query = StorageQuery::parse(parts.uri.query().unwrap_or(""));
        let ok = |json| Ok((StatusCode::OK, json));
        match (&parts.method, path.trim_matches('/')) {
            (&Method::GET, "status") => ok(self.status().await),
            (&Method::GET, "entities") => ok(self.entities()),
            (&Method::POST, "rotate") => ok(self.rotate(&query)?),
            (&Method::POST, "faults") => ok(self.install(body).await?),
            (&Method::GET, "faults") => {
                let (waiting, fired) = (self.faults.waiting_steps(), self.faults.log_lines());
                ok(json!({ "waiting": waiting.len(), "steps": waiting, "fired": fired }))
            }
            (&Method::DELETE, "faults") => {
                self.faults.clear();
                ok(json!({ "waiting": 0 }))
            }
            (method, path) => match (method, path.split_once('/')) {
                (&Method::GET, Some(("entities", entity))) => self.peek(entity, &query),
                (&Method::PUT, Some(("entities", entity))) => self.put_entity(entity, &read(body).await?),
                (&Method::DELETE, Some(("entities", entity))) => self.delete_entity(entity),
                (&Method::PUT, Some(("containers", name))) => self.put_container(name),
                (&Method::DELETE, Some(("containers", name))) => self.delete_container(name),
                _ => Err(nothing_here(method, path)),
            },
        }
    }

    fn rotate(&self, query: &StorageQuery) -> Result<Json, Refusal> {
        // A misspelt name would rotate everybody.
        if let Some(other) = unknown(query, &["tenant", "grace_ms"]) {
            let text = format!("`{other}` is unknown; there are `tenant` (without it all are rotated) and `grace_ms`");
            return Err((StatusCode::BAD_REQUEST, text));
        }
        let grace = match query.get("grace_ms") {
            None => Duration::ZERO,
            Some(text) => Duration::from_millis(text.parse().map_err(|_| {
                (StatusCode::BAD_REQUEST, format!("`grace_ms` is '{text}'; write a number of milliseconds"))
            })?),
        };
        let tenant = query.get("tenant");
        self.rotations.rotate(tenant, grace).map_err(|error| match error {
            KeyError::UnknownTenant { .. } => (StatusCode::NOT_FOUND, error.to_string()),
            _ => (StatusCode::CONFLICT, error.to_string()),
        })?;
        tracing::info!(tenant = tenant.unwrap_or("all"), grace_ms = grace.as_millis(), "admin: tokens rotated");
        Ok(json!({ "rotated": tenant.unwrap_or("all tenants") }))
    }

    async fn install(&self, body: &mut Upload) -> Result<Json, Refusal> {
        let refuse = |text: String| (StatusCode::BAD_REQUEST, text);
        let body = read(body).await?;
        let text = std::str::from_utf8(&body).map_err(|_| refuse("the script is not UTF-8".to_owned()))?;
        let steps = if text.trim_start().starts_with('{') { Step::from_json(text) } else { Step::from_toml(text) };
        let steps = steps.map_err(|error| refuse(error.to_string()))?;
        let installed = steps.len();
        self.faults.install(steps).map_err(|error| refuse(error.to_string()))?;
        Ok(json!({ "installed": installed }))
    }
}

/// The first key of a query that means nothing here.
fn unknown<'q>(query: &'q StorageQuery, known: &[&str]) -> Option<&'q str> {
    query.iter().map(|(name, _)| name).find(|name| !known.contains(name))
}

async fn read(body: &mut Upload) -> Result<Bytes, Refusal> {
    let read = Limited::new(body, BODY_MAX).collect().await;
    read.map(http_body_util::Collected::to_bytes)
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("the body could not be read: {error}; it may have 1 MiB")))
}

impl Handler for Admin {
    async fn handle(&self, request: Request<&mut Upload>, _line: &Line) -> Response<Body> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        match self.answer(request).await {
            Ok((status, value)) => json(status, &value),
            Err((status, message)) => {
                let (path, why, status_code) = (printable(&path), printable(&message), status.as_u16());
                say!(SAID, warn, "admin: request refused", %method, %path, status = status_code, %why);
                json(status, &json!({ "error": { "message": message } }))
            }
        }
    }
}

fn nothing_here(method: &Method, path: &str) -> Refusal {
    let known = "GET /status, GET /entities, GET|PUT|DELETE /entities/PATH, PUT|DELETE /containers/NAME, POST /rotate, \
                 POST|GET|DELETE /faults";
    (StatusCode::NOT_FOUND, format!("there is no {method} /{path}; there are {known}"))
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

#[cfg(test)]
mod tests;
