//! What TenantService answers at `/api/external/integration/export/temporaryendpoints`: the default shape, which the
//! public description leaves open, and where to find each field when a service uses another one.

use std::fmt;

use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{Date, OffsetDateTime, PrimitiveDateTime};
use url::Url;

use crate::object::kind;
use crate::uri::is_loopback;

/// The path of the grants call, below TenantService's base address.
pub const TEMPORARY_ENDPOINTS_PATH: &str = "/api/external/integration/export/temporaryendpoints";

/// The answer in its default shape, read through a [`GrantLayout`]. In JSON a part with one member is an object, with
/// several a list, with none absent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TemporaryEndpoints {
    /// Where messages are received. At least one of both lists is not empty.
    #[serde(serialize_with = "one_or_list", skip_serializing_if = "Vec::is_empty")]
    pub service_bus: Vec<BusEndpoint>,
    /// Where files are fetched.
    #[serde(serialize_with = "one_or_list", skip_serializing_if = "Vec::is_empty")]
    pub blob_storage: Vec<BlobEndpoint>,
}

/// A namespace, an entity in it and the token for it. `Debug` shows no token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BusEndpoint {
    /// `sb://…` or `amqps://…` (TLS), or `amqp://127.0.0.1:port` (plain, loopback only).
    pub endpoint: String,
    /// `exports/subscriptions/acme`.
    pub entity_path: String,
    /// `SharedAccessSignature sr=…&sig=…&se=…&skn=…`.
    pub sas_token: String,
    /// When the token dies; taken from `se=` when the answer does not say.
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<OffsetDateTime>,
}

/// A blob endpoint, a container in it and the token for it. `Debug` shows no token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobEndpoint {
    /// `https://account.blob.core.windows.net` or `http://127.0.0.1:port/account` (loopback only).
    pub endpoint: String,
    /// `batchtoprocess`.
    pub container: String,
    /// `sv=…&se=…&sr=c&sp=r&sig=…`, with or without a leading `?`.
    pub sas_token: String,
    /// When the token dies; taken from `se=` when the answer does not say.
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<OffsetDateTime>,
}

/// Where each field stands in the answer, as RFC 6901 JSON pointers. The pointers of a part's fields are relative to
/// that part, so that the part may be one object or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrantLayout {
    /// Default `/serviceBus`.
    pub bus: String,
    /// Default `/endpoint`.
    pub bus_endpoint: String,
    /// Default `/entityPath`.
    pub bus_entity: String,
    /// Default `/sasToken`.
    pub bus_sas: String,
    /// Default `/expiresAt`; may be missing in the answer.
    pub bus_expires_at: String,
    /// Default `/blobStorage`.
    pub blob: String,
    /// Default `/endpoint`.
    pub blob_endpoint: String,
    /// Default `/container`.
    pub blob_container: String,
    /// Default `/sasToken`.
    pub blob_sas: String,
    /// Default `/expiresAt`; may be missing in the answer.
    pub blob_expires_at: String,
}

/// Where an answer is not as expected.
#[derive(Debug, thiserror::Error)]
#[error("TenantService's answer at {pointer}: {problem}")]
pub struct TenantError {
    pointer: String,
    problem: String,
}

impl Default for GrantLayout {
    fn default() -> Self {
        Self {
            bus: "/serviceBus".to_owned(),
            bus_endpoint: "/endpoint".to_owned(),
            bus_entity: "/entityPath".to_owned(),
            bus_sas: "/sasToken".to_owned(),
            bus_expires_at: "/expiresAt".to_owned(),
            blob: "/blobStorage".to_owned(),
            blob_endpoint: "/endpoint".to_owned(),
            blob_container: "/container".to_owned(),
            blob_sas: "/sasToken".to_owned(),
            blob_expires_at: "/expiresAt".to_owned(),
        }
    }
}

impl TemporaryEndpoints {
    /// Reads an answer. An endpoint without TLS is taken for loopback only.
    ///
    /// # Errors
    /// Names the JSON pointer that is missing or of the wrong type; never quotes a value.
    pub fn parse(body: &[u8], layout: &GrantLayout) -> Result<Self, TenantError> {
        let body = body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body);
        let answer: Value = serde_json::from_slice(body).map_err(|error| TenantError {
            pointer: "its root".to_owned(),
            // serde_json's own text may quote the value that it met.
            problem: format!("is not JSON (line {}, column {})", error.line(), error.column()),
        })?;
        let service_bus = parts(&answer, &layout.bus)?
            .into_iter()
            .map(|part| {
                let sas_token = part.text(&layout.bus_sas)?;
                Ok(BusEndpoint {
                    endpoint: part.endpoint(&layout.bus_endpoint, &["sb", "amqps"], "amqp")?,
                    entity_path: part.text(&layout.bus_entity)?,
                    expires_at: part.expires_at(&layout.bus_expires_at, || bus_sas_expiry(&sas_token))?,
                    sas_token,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let blob_storage = parts(&answer, &layout.blob)?
            .into_iter()
            .map(|part| {
                let sas_token = part.text(&layout.blob_sas)?;
                Ok(BlobEndpoint {
                    endpoint: part.endpoint(&layout.blob_endpoint, &["https"], "http")?,
                    container: part.text(&layout.blob_container)?,
                    expires_at: part.expires_at(&layout.blob_expires_at, || blob_sas_expiry(&sas_token))?,
                    sas_token,
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        if service_bus.is_empty() && blob_storage.is_empty() {
            return Err(TenantError {
                pointer: format!("{} and {}", layout.bus, layout.blob),
                problem: "both are missing or empty; if your TenantService answers in another shape, configure where \
                          each field stands"
                    .to_owned(),
            });
        }
        Ok(Self { service_bus, blob_storage })
    }
}

/// One endpoint's part of the answer.
struct Part<'a> {
    value: &'a Value,
    pointer: String,
}

/// The part at `pointer`: absent or null gives none, an object one, a list its members.
fn parts<'a>(answer: &'a Value, pointer: &str) -> Result<Vec<Part<'a>>, TenantError> {
    let part = |value, pointer| Part { value, pointer };
    match look_up(answer, "", pointer)? {
        None => Ok(Vec::new()),
        Some(Value::Array(members)) => {
            Ok(members.iter().enumerate().map(|(nth, value)| part(value, format!("{pointer}/{nth}"))).collect())
        }
        Some(value) => Ok(vec![part(value, pointer.to_owned())]),
    }
}

/// Null counts as absent. `base` is where `value` stands, for the error.
fn look_up<'a>(value: &'a Value, base: &str, pointer: &str) -> Result<Option<&'a Value>, TenantError> {
    if !pointer.is_empty() && !pointer.starts_with('/') {
        return Err(TenantError {
            pointer: format!("{base}{pointer}"),
            problem: "the configured place is no JSON pointer; it must start with '/'".to_owned(),
        });
    }
    Ok(value.pointer(pointer).filter(|value| !value.is_null()))
}

impl Part<'_> {
    fn look_up(&self, pointer: &str) -> Result<Option<&Value>, TenantError> {
        look_up(self.value, &self.pointer, pointer)
    }

    fn error(&self, pointer: &str, problem: impl Into<String>) -> TenantError {
        TenantError { pointer: format!("{}{pointer}", self.pointer), problem: problem.into() }
    }

    fn text(&self, pointer: &str) -> Result<String, TenantError> {
        match self.look_up(pointer)? {
            None => Err(self.error(pointer, "is missing")),
            Some(Value::String(text)) if text.trim().is_empty() => Err(self.error(pointer, "is empty")),
            // These go into headers and request lines.
            Some(Value::String(text)) if text.trim().chars().any(char::is_control) => {
                Err(self.error(pointer, "holds a control character"))
            }
            Some(Value::String(text)) => Ok(text.trim().to_owned()),
            Some(other) => Err(self.error(pointer, format!("is {}, not text", kind(&other.to_string())))),
        }
    }

    /// An address without user name, query and fragment, with one of the `secure` schemes, or with `plain` on loopback.
    fn endpoint(&self, pointer: &str, secure: &[&str], plain: &str) -> Result<String, TenantError> {
        let text = self.text(pointer)?;
        let url = Url::parse(&text).map_err(|_| self.error(pointer, "is no absolute address"))?;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(self.error(pointer, "carries a user name, a query or a fragment"));
        }
        // `url` does not look into hosts of schemes it does not know; this reads 127.0.0.1 the same way for all.
        let host = url.host_str().and_then(|host| url::Host::parse(host).ok());
        match host {
            None => Err(self.error(pointer, "has no valid host")),
            Some(_) if secure.contains(&url.scheme()) => Ok(text),
            Some(host) if url.scheme() == plain && is_loopback(&host) => Ok(text),
            Some(_) => {
                let schemes = secure.iter().map(|scheme| format!("{scheme}://")).collect::<Vec<_>>().join(" or ");
                Err(self.error(pointer, format!("must begin with {schemes} ({plain}:// is taken for loopback only)")))
            }
        }
    }

    /// An RFC 3339 time, or seconds since 1970; when the answer does not say, what the token says.
    fn expires_at(
        &self,
        pointer: &str,
        from_token: impl FnOnce() -> Option<OffsetDateTime>,
    ) -> Result<Option<OffsetDateTime>, TenantError> {
        let time = match self.look_up(pointer)? {
            None => return Ok(from_token()),
            Some(Value::String(text)) => OffsetDateTime::parse(text, &Rfc3339).ok(),
            Some(Value::Number(seconds)) => seconds.as_i64().and_then(from_unix),
            Some(_) => None,
        };
        time.map(Some).ok_or_else(|| self.error(pointer, "is no RFC 3339 time such as 2030-01-31T12:00:00Z"))
    }
}

fn from_unix(seconds: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(seconds).ok()
}

/// Seconds since 1970. Source: Microsoft, "Service Bus access control with Shared Access Signatures".
fn bus_sas_expiry(token: &str) -> Option<OffsetDateTime> {
    let (_, fields) = token.split_once(' ').unwrap_or(("", token));
    from_unix(sas_field(fields, "se")?.parse().ok()?)
}

/// ISO 8601 in UTC, to the second, the minute or the day. Source: Microsoft, "Create a service SAS", "Formatting DateTime
/// values" of Storage services.
fn blob_sas_expiry(token: &str) -> Option<OffsetDateTime> {
    const TO_THE_MINUTE: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]T[hour]:[minute]Z");
    const TO_THE_DAY: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");
    let text = sas_field(token.trim_start_matches('?'), "se")?;
    OffsetDateTime::parse(&text, &Rfc3339)
        .or_else(|_| PrimitiveDateTime::parse(&text, TO_THE_MINUTE).map(PrimitiveDateTime::assume_utc))
        .or_else(|_| Date::parse(&text, TO_THE_DAY).map(|date| date.midnight().assume_utc()))
        .ok()
}

fn sas_field(fields: &str, name: &str) -> Option<String> {
    let (_, value) = fields.split('&').filter_map(|field| field.split_once('=')).find(|(field, _)| *field == name)?;
    percent_decode_str(value).decode_utf8().ok().map(|value| value.into_owned())
}

fn one_or_list<T: Serialize, S: Serializer>(parts: &[T], serializer: S) -> Result<S::Ok, S::Error> {
    match parts {
        [one] => one.serialize(serializer),
        list => list.serialize(serializer),
    }
}

impl fmt::Debug for BusEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BusEndpoint")
            .field("endpoint", &self.endpoint)
            .field("entity_path", &self.entity_path)
            .field("sas_token", &"redacted")
            .field("expires_at", &self.expires_at)
            .finish()
    }
}

impl fmt::Debug for BlobEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobEndpoint")
            .field("endpoint", &self.endpoint)
            .field("container", &self.container)
            .field("sas_token", &"redacted")
            .field("expires_at", &self.expires_at)
            .finish()
    }
}
