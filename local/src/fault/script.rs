//! Fault scripts as text. TOML and JSON have the same keys:
//!
//! ```toml
//! [[faults]]
//! on = "blob"                # now (default), after, blob, grant, enqueued, delivered, completed
//! operation = "GetBlob"      # blob: this operation only
//! blob = "ProductChanges/"   # blob: only names that contain this
//! nth = 3                    # the third that fits; default 1
//! do = "cut"                 # rotate, cut, refuse_sas, reset, busy, delay, down, detach, close, deliver_twice, expire_locks
//! at = 1048576               # cut: before this byte of the blob; or after_bytes, of the response's body
//! refuse_sas = true          # cut: and from then on refuse the SAS
//! times = 1
//! ```

use std::{fmt, num::NonZeroU32, time::Duration};

use serde::Deserialize;
use toml::Spanned;

use super::{BlobRequests, BusEvent, CutAt, Service, Step, What, When};

const KNOWN_ON: &str = "now, after, blob, grant, enqueued, delivered, completed";
const KNOWN_DO: &str = "rotate, cut, refuse_sas, reset, busy, delay, down, detach, close, deliver_twice, expire_locks";

/// Why a script was refused. It says where, what, and what may stand there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptError {
    place: String,
    problem: String,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fault script, {}: {}", self.place, self.problem)
    }
}

impl std::error::Error for ScriptError {}

impl ScriptError {
    pub(super) fn step(index: usize, problem: impl Into<String>) -> Self {
        Self { place: format!("step {}", index + 1), problem: problem.into() }
    }

    fn line(text: &str, at: usize, problem: impl Into<String>) -> Self {
        Self { place: format!("line {}", line_of(text, at)), problem: problem.into() }
    }
}

/// The line, counted from 1, of a byte.
pub(crate) fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// A step as it is written: flat, because that is what people type.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Written {
    #[serde(default)]
    on: Option<String>,
    after_ms: Option<u64>,
    operation: Option<String>,
    blob: Option<String>,
    tenant: Option<String>,
    entity: Option<String>,
    nth: Option<NonZeroU32>,
    #[serde(rename = "do")]
    act: String,
    at: Option<u64>,
    after_bytes: Option<u64>,
    #[serde(default)]
    refuse_sas: bool,
    service: Option<String>,
    retry_after_s: Option<u64>,
    ms: Option<u64>,
    messages: Option<NonZeroU32>,
    times: Option<NonZeroU32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TomlScript {
    faults: Vec<Spanned<Written>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonScript {
    faults: Vec<Written>,
}

pub(super) fn from_toml(text: &str) -> Result<Vec<Step>, ScriptError> {
    let script: TomlScript = toml::from_str(text)
        .map_err(|error| ScriptError::line(text, error.span().map_or(0, |span| span.start), error.message()))?;
    from_written(text, script.faults)
}

/// Steps that stand in a TOML document, for errors that name its lines.
pub(crate) fn from_written(text: &str, written: Vec<Spanned<Written>>) -> Result<Vec<Step>, ScriptError> {
    let read = |written: Spanned<Written>| {
        let at = written.span().start;
        written.into_inner().into_step().map_err(|problem| ScriptError::line(text, at, problem))
    };
    written.into_iter().map(read).collect()
}

pub(super) fn from_json(text: &str) -> Result<Vec<Step>, ScriptError> {
    let script: JsonScript = serde_json::from_str(text)
        .map_err(|error| ScriptError { place: format!("line {}", error.line()), problem: error.to_string() })?;
    let read =
        |(index, written): (usize, Written)| written.into_step().map_err(|problem| ScriptError::step(index, problem));
    script.faults.into_iter().enumerate().map(read).collect()
}

impl Written {
    /// Takes each key that its `on` and `do` know, and refuses what is left over: a key that does nothing would hide a
    /// misunderstanding.
    fn into_step(mut self) -> Result<Step, String> {
        let entity = self.entity.clone();
        let when = self.take_when()?;
        let what = self.take_what(entity)?;
        let left_over = [
            ("after_ms", self.after_ms.is_some()),
            ("operation", self.operation.is_some()),
            ("blob", self.blob.is_some()),
            ("tenant", self.tenant.is_some()),
            ("entity", self.entity.is_some()),
            ("nth", self.nth.is_some()),
            ("at", self.at.is_some()),
            ("after_bytes", self.after_bytes.is_some()),
            ("refuse_sas", self.refuse_sas),
            ("service", self.service.is_some()),
            ("retry_after_s", self.retry_after_s.is_some()),
            ("ms", self.ms.is_some()),
            ("messages", self.messages.is_some()),
        ];
        if let Some((name, _)) = left_over.into_iter().find(|(_, there)| *there) {
            let on = self.on.as_deref().unwrap_or("now");
            return Err(format!("`{name}` means nothing with on = {on:?} and do = {:?}; leave it out", self.act));
        }
        let step = Step { when, what, times: self.times.unwrap_or(NonZeroU32::MIN) };
        match step.problem() {
            Some(problem) => Err(problem.to_owned()),
            None => Ok(step),
        }
    }

    fn take_when(&mut self) -> Result<When, String> {
        match self.on.as_deref().unwrap_or("now") {
            "now" => Ok(When::Now),
            "after" => {
                let delay = self.after_ms.take().ok_or("on = \"after\" needs `after_ms`")?;
                Ok(When::After(Duration::from_millis(delay)))
            }
            "blob" => Ok(When::Blob(BlobRequests {
                operation: self.operation.take().map(|name| name.parse()).transpose()?,
                name_contains: self.blob.take(),
                nth: self.nth.take().unwrap_or(NonZeroU32::MIN),
            })),
            "grant" => {
                // With `rotate` the tenant says who is rotated; it cannot also say who asks.
                let tenant = if self.act == "rotate" { None } else { self.tenant.take() };
                Ok(When::Grant { tenant, nth: self.nth.take().unwrap_or(NonZeroU32::MIN) })
            }
            "enqueued" => self.take_bus(BusEvent::Enqueued),
            "delivered" => self.take_bus(BusEvent::Delivered),
            "completed" => self.take_bus(BusEvent::Completed),
            other => Err(format!("on = {other:?} is unknown; there are {KNOWN_ON}")),
        }
    }

    fn take_bus(&mut self, event: BusEvent) -> Result<When, String> {
        let entity = self
            .entity
            .take()
            .ok_or_else(|| format!("on = {:?} needs `entity`: the path of a queue or subscription", event.name()))?;
        Ok(When::Bus { event, entity, nth: self.nth.take().unwrap_or(NonZeroU32::MIN) })
    }

    /// `entity` is the step's, even if its `on` has taken it: one path then serves both.
    fn take_what(&mut self, entity: Option<String>) -> Result<What, String> {
        let named = || entity.clone().ok_or("this needs `entity`: the path of a queue or subscription");
        match self.act.as_str() {
            "rotate" => Ok(What::Rotate { tenant: self.tenant.take() }),
            "cut" => {
                let at = match (self.at.take(), self.after_bytes.take()) {
                    (Some(at), None) => CutAt::BlobByte(at),
                    (None, Some(after)) => CutAt::BodyByte(after),
                    _ => return Err("do = \"cut\" needs either `at` (a byte of the blob) or `after_bytes`".to_owned()),
                };
                Ok(What::Cut { at, refuse_sas: std::mem::take(&mut self.refuse_sas) })
            }
            "refuse_sas" => Ok(What::RefuseSas),
            "reset" => {
                let service = self.take_service(&[Service::Blob, Service::Bus, Service::Tenant])?;
                Ok(What::Reset { service })
            }
            "busy" => Ok(What::Busy { retry_after: Duration::from_secs(self.retry_after_s.take().unwrap_or(1)) }),
            "delay" => Ok(What::Delay(self.take_ms("how long the request waits")?)),
            "down" => Ok(What::Down {
                lasts: self.take_ms("how long it lasts")?,
                service: self.take_service(&[Service::Blob, Service::Tenant])?,
            }),
            "detach" => Ok(What::Detach { entity: named()? }),
            "close" => Ok(What::Close { entity }),
            "deliver_twice" => {
                Ok(What::DeliverTwice { entity: named()?, messages: self.messages.take().unwrap_or(NonZeroU32::MIN) })
            }
            "expire_locks" => Ok(What::ExpireLocks { entity: named()? }),
            other => Err(format!("do = {other:?} is unknown; there are {KNOWN_DO}")),
        }
        .inspect(|what| {
            if matches!(
                what,
                What::Detach { .. } | What::Close { .. } | What::DeliverTwice { .. } | What::ExpireLocks { .. }
            ) {
                self.entity = None;
            }
        })
    }

    fn take_ms(&mut self, what: &str) -> Result<Duration, String> {
        let ms = self.ms.take().ok_or_else(|| format!("do = {:?} needs `ms`: {what}", self.act))?;
        Ok(Duration::from_millis(ms))
    }

    fn take_service(&mut self, known: &[Service]) -> Result<Service, String> {
        let names: Vec<&str> = known.iter().map(|service| service.name()).collect();
        let wrong = || format!("do = {:?} needs `service`: one of {}", self.act, names.join(", "));
        match self.service.take() {
            // A reset that waits for a request means that request's connection.
            None => match (self.act.as_str(), self.on.as_deref()) {
                ("reset", Some("blob")) => Ok(Service::Blob),
                ("reset", Some("grant")) => Ok(Service::Tenant),
                _ => Err(wrong()),
            },
            Some(name) => known.iter().copied().find(|service| service.name() == name).ok_or_else(wrong),
        }
    }
}
