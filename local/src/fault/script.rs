//! Fault scripts as text. TOML and JSON have the same keys; `docs/local.md` has them all:
//!
//! ```toml
//! [[faults]]
//! name = "third download"    # for the log
//! on = "blob"                # now (default), after, blob, grant, token, or an event of the bus: transfer_out, …
//! operation = "GetBlob"      # blob: this operation only
//! blob = "ProductChanges/"   # blob: only names that contain this
//! nth = 3                    # the third that fits; default 1
//! do = "cut"
//! at = 1048576               # cut: before this byte of the blob; or after_bytes, of the body
//! refuse_sas = true          # cut: and from then on refuse the SAS
//! times = 1
//! ```

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

use serde::Deserialize;
use toml::Spanned;

use super::{
    BlobRequests, BusEvent, BusFrames, Chance, Condition, CutAt, NewOrder, Refusal, Service, Step, Trigger, What, When,
    Whose,
};
use crate::{
    broker::LinkRole,
    config::{with_nearest, without_place},
};

/// How long a reordering waits for its messages unless a script says it.
const PATIENCE: Duration = Duration::from_secs(1);

const KNOWN_DO: &str = "rotate, expire, refuse_sas, cut, truncate, corrupt, slow, replace, refuse, throttle, delay, \
                        drop_answer, reset, blackhole, down, close, end, detach, lose_lock, deliver_twice, reorder, \
                        hold_back";

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

/// Declares the keys of a step, and which of them are left when all that mean something were taken.
macro_rules! written {
    ($($(#[$attribute:meta])* $key:ident: $kind:ty,)+) => {
        /// A step as it is written: flat, because that is what people type.
        #[derive(Debug, Clone, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct Written {
            name: Option<String>,
            on: Option<String>,
            #[serde(rename = "do")]
            act: String,
            $($(#[$attribute])* $key: Option<$kind>,)+
        }

        impl Written {
            fn left_over(&self) -> Option<&'static str> {
                $(if self.$key.is_some() {
                    return Some(stringify!($key));
                })+
                None
            }
        }
    };
}

written! {
    after_ms: u64,
    operation: String,
    blob: String,
    tenant: String,
    client: String,
    entity: String,
    role: String,
    nth: NonZeroU32,
    every: NonZeroU32,
    times: NonZeroU32,
    probability: f64,
    seed: u64,
    for_ms: u64,
    target: String,
    service: String,
    at: u64,
    after_bytes: u64,
    refuse_sas: bool,
    text: String,
    code: String,
    condition: String,
    retry_after_s: u64,
    ms: u64,
    grace_ms: u64,
    reset: bool,
    messages: NonZeroU32,
    bytes_per_second: NonZeroU32,
    order: String,
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
    let script: TomlScript = toml::from_str(text).map_err(|error| {
        ScriptError::line(text, error.span().map_or(0, |span| span.start), with_nearest(error.message()))
    })?;
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
        .map_err(|error| ScriptError { place: format!("line {}", error.line()), problem: without_place(&error) })?;
    let read =
        |(index, written): (usize, Written)| written.into_step().map_err(|problem| ScriptError::step(index, problem));
    script.faults.into_iter().enumerate().map(read).collect()
}

impl Written {
    /// Takes each key that its `on` and `do` know, and refuses what is left over: a key that does nothing would hide a
    /// misunderstanding.
    fn into_step(mut self) -> Result<Step, String> {
        let when = self.take_when()?;
        let at_a_time = matches!(when, When::Now | When::After(_));
        let what = self.take_what(&when)?;
        let trigger = if at_a_time { Trigger::default() } else { self.take_trigger()? };
        if let Some(name) = self.left_over() {
            let on = self.on.as_deref().unwrap_or("now");
            return Err(format!("`{name}` means nothing with on = {on:?} and do = {:?}; leave it out", self.act));
        }
        let step = Step { name: self.name, when, trigger, what };
        match step.problem() {
            Some(problem) => Err(problem),
            None => Ok(step),
        }
    }

    fn take_when(&mut self) -> Result<When, String> {
        match self.on.as_deref().unwrap_or("now") {
            "now" => Ok(self.after_ms.take().map_or(When::Now, |ms| When::After(Duration::from_millis(ms)))),
            "after" => {
                let delay = self.after_ms.take().ok_or("on = \"after\" needs `after_ms`")?;
                Ok(When::After(Duration::from_millis(delay)))
            }
            "blob" => Ok(When::Blob(BlobRequests {
                operation: self.operation.take().map(|name| name.parse()).transpose()?,
                name_contains: self.blob.take(),
            })),
            "grant" => {
                // With a deed that is done to a tenant, that is who it befalls; it cannot also say who asks.
                let befalls = matches!(self.act.as_str(), "rotate" | "expire");
                Ok(When::Grant { tenant: if befalls { None } else { self.tenant.take() } })
            }
            "token" => Ok(When::Token { client: self.client.take() }),
            other => {
                let Some(event) = BusEvent::ALL.into_iter().find(|event| event.name() == other) else {
                    let events: Vec<&str> = BusEvent::ALL.iter().map(|event| event.name()).collect();
                    return Err(format!(
                        "on = {other:?} is unknown; there are now, after, blob, grant, token, {}",
                        events.join(", ")
                    ));
                };
                let role = match self.role.take().as_deref() {
                    None => None,
                    Some("sender") if event.is_on_link() => Some(LinkRole::Sender),
                    Some("receiver") if event.is_on_link() => Some(LinkRole::Receiver),
                    Some(_) if !event.is_on_link() => {
                        return Err(format!("on = {other:?} has no `role`; leave it out"));
                    }
                    Some(role) => return Err(format!("role = {role:?} is unknown; there are sender, receiver")),
                };
                let operation = if event == BusEvent::Management { self.operation.take() } else { None };
                let entity = if event == BusEvent::Connect { None } else { self.entity.take() };
                Ok(When::Bus(BusFrames { event, entity, role, operation }))
            }
        }
    }

    fn take_trigger(&mut self) -> Result<Trigger, String> {
        let chance = match (self.probability.take(), self.seed.take()) {
            (None, None) => None,
            (Some(probability), Some(seed)) if (0.0..=1.0).contains(&probability) => {
                Some(Chance::new(probability, seed))
            }
            (Some(_), Some(_)) => return Err("`probability` is from 0 to 1".to_owned()),
            (Some(_), None) => {
                return Err("`probability` needs a `seed`: the same one gives the same faults again".to_owned());
            }
            (None, Some(_)) => return Err("`seed` needs a `probability` or order = \"shuffle\"".to_owned()),
        };
        let lasts = self.for_ms.take().map(Duration::from_millis);
        let every = self.every.take();
        // Who says how often in another way does not mean "once".
        let many = every.is_some() || chance.is_some() || lasts.is_some();
        let times = self.times.take().unwrap_or(if many { NonZeroU32::MAX } else { NonZeroU32::MIN });
        Ok(Trigger {
            nth: self.nth.take().unwrap_or(NonZeroU32::MIN),
            every: every.unwrap_or(NonZeroU32::MIN),
            times,
            chance,
            lasts,
            after: Duration::from_millis(self.after_ms.take().unwrap_or(0)),
        })
    }

    fn take_what(&mut self, when: &When) -> Result<What, String> {
        let act = self.act.clone();
        Ok(match act.as_str() {
            "rotate" => {
                let grace = Duration::from_millis(self.grace_ms.take().unwrap_or(0));
                What::Rotate { tenant: self.tenant.take(), grace }
            }
            "expire" => What::Expire { tenant: self.tenant.take() },
            "cut" => What::Cut { at: self.take_cut_at()?, refuse_sas: self.refuse_sas.take().unwrap_or(false) },
            "refuse_sas" => What::RefuseSas,
            "truncate" => What::Truncate { at: self.take_at("the blob's new length")? },
            "corrupt" => What::Corrupt { at: self.take_at("the byte, from 0")? },
            "slow" => What::Slow {
                bytes_per_second: self.bytes_per_second.take().ok_or("do = \"slow\" needs `bytes_per_second`")?,
            },
            "replace" => What::Replace { text: self.text.take() },
            "throttle" => {
                let retry_after = match when {
                    When::Bus(_) => None,
                    _ => Some(Duration::from_secs(self.retry_after_s.take().unwrap_or(1))),
                };
                What::Refuse { with: Refusal::Busy, retry_after }
            }
            "refuse" => self.take_refusal(when)?,
            "delay" => What::Delay(self.take_ms("how long it waits")?),
            "drop_answer" => What::DropAnswer { reset: self.reset.take().unwrap_or(false) },
            "reset" => What::Reset(self.take_whose(when)?),
            "blackhole" => {
                let whose = self.take_whose(when)?;
                let lasts = match &whose {
                    Whose::Event => Duration::ZERO,
                    _ => self.take_ms("how long the service is gone")?,
                };
                What::Blackhole { whose, lasts }
            }
            "down" => What::Down { lasts: self.take_ms("how long it lasts")?, service: self.take_down()? },
            "close" => {
                let all = matches!(when, When::Now | When::After(_))
                    && self.target.is_none()
                    && self.entity.is_none()
                    && self.service.is_none();
                let whose = if all { Whose::Service(Service::Bus) } else { self.take_whose(when)? };
                What::Close { whose, condition: self.take_condition(Condition::CONNECTION_FORCED)? }
            }
            "end" => {
                let whose = self.take_whose(when)?;
                What::End { whose, condition: self.take_condition(Condition::INTERNAL_ERROR)? }
            }
            "detach" => {
                let whose = self.take_whose(when)?;
                What::Detach { whose, condition: self.take_condition(Condition::DETACH_FORCED)? }
            }
            "lose_lock" => What::LoseLocks(self.take_whose(when)?),
            "deliver_twice" => {
                let whose = self.take_whose(when)?;
                What::DeliverTwice { whose, messages: self.messages.take().unwrap_or(NonZeroU32::MIN) }
            }
            "reorder" => What::Reorder {
                whose: self.take_whose(when)?,
                messages: self.messages.take().ok_or("do = \"reorder\" needs `messages`: how many change places")?,
                order: self.take_order()?,
                patience: self.ms.take().map_or(PATIENCE, Duration::from_millis),
            },
            "hold_back" => What::HoldBack {
                whose: self.take_whose(when)?,
                lasts: self.take_ms("how long at most")?,
                messages: self.messages.take(),
            },
            other => return Err(format!("do = {other:?} is unknown; there are {KNOWN_DO}")),
        })
    }

    /// A `target` or `service` if there is one; an `entity` that the event has no use for; else what the event is about.
    fn take_whose(&mut self, when: &When) -> Result<Whose, String> {
        if let Some(path) = self.target.take() {
            return Ok(Whose::Entity(path));
        }
        if let Some(name) = self.service.take() {
            let known = || Service::ALL.map(Service::name).join(", ");
            let service = Service::ALL.into_iter().find(|service| service.name() == name);
            let service = service.ok_or_else(|| format!("service = {name:?} is unknown; there are {}", known()))?;
            return Ok(Whose::Service(service));
        }
        if let Some(path) = self.entity.take() {
            return Ok(Whose::Entity(path));
        }
        match when {
            When::Now | When::After(_) => {
                let service = matches!(self.act.as_str(), "reset" | "blackhole" | "close");
                Err(format!(
                    "do = {:?} needs {} here",
                    self.act,
                    if service {
                        "a `service`: one of blob, bus, tenant"
                    } else {
                        "`entity`: the path of a queue or subscription"
                    }
                ))
            }
            _ => Ok(Whose::Event),
        }
    }

    fn take_refusal(&mut self, when: &When) -> Result<What, String> {
        let code =
            self.code.take().ok_or("do = \"refuse\" needs `code`: a storage code, an HTTP status or a condition")?;
        let with = match when {
            When::Blob(_) => Refusal::Blob(code.parse()?),
            When::Grant { .. } | When::Token { .. } => Refusal::Status(
                u16::from_str(&code).map_err(|_| format!("code = {code:?} is no HTTP status; use 400 to 599"))?,
            ),
            _ => Refusal::Condition(code.parse()?),
        };
        let retry_after =
            if matches!(when, When::Bus(_)) { None } else { self.retry_after_s.take().map(Duration::from_secs) };
        Ok(What::Refuse { with, retry_after })
    }

    fn take_cut_at(&mut self) -> Result<CutAt, String> {
        match (self.at.take(), self.after_bytes.take()) {
            (Some(at), None) => Ok(CutAt::BlobByte(at)),
            (None, Some(after)) => Ok(CutAt::BodyByte(after)),
            _ => Err("do = \"cut\" needs either `at` (a byte of the blob) or `after_bytes`".to_owned()),
        }
    }

    fn take_order(&mut self) -> Result<NewOrder, String> {
        match (self.order.take().as_deref(), self.probability) {
            (None | Some("reverse"), _) => Ok(NewOrder::Reverse),
            // With a probability the seed is the dice's; one seed serves both.
            (Some("shuffle"), probability) => {
                let seed = if probability.is_some() { self.seed } else { self.seed.take() };
                seed.map(NewOrder::Shuffled).ok_or_else(|| "order = \"shuffle\" needs a `seed`".to_owned())
            }
            (Some(other), _) => Err(format!("order = {other:?} is unknown; there are reverse, shuffle")),
        }
    }

    fn take_condition(&mut self, usual: Condition) -> Result<Condition, String> {
        self.condition.take().map_or(Ok(usual), |name| name.parse())
    }

    fn take_at(&mut self, what: &str) -> Result<u64, String> {
        self.at.take().ok_or_else(|| format!("do = {:?} needs `at`: {what}", self.act))
    }

    fn take_ms(&mut self, what: &str) -> Result<Duration, String> {
        let ms = self.ms.take().ok_or_else(|| format!("do = {:?} needs `ms`: {what}", self.act))?;
        Ok(Duration::from_millis(ms))
    }

    fn take_down(&mut self) -> Result<Service, String> {
        match self.service.take().as_deref() {
            Some("blob") => Ok(Service::Blob),
            Some("tenant") => Ok(Service::Tenant),
            _ => Err("do = \"down\" needs `service`: one of blob, tenant".to_owned()),
        }
    }
}
