//! What a script is made of: something to wait for, and something to do.

use std::{fmt, num::NonZeroU32, time::Duration};

use serde::Serialize;

use super::script::{self, ScriptError};
use crate::{blob::BlobOperation, broker::Counts};

/// One of the services that a fault can be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// Service Bus.
    Bus,
    /// Blob Storage.
    Blob,
    /// TenantService.
    Tenant,
}

/// Something to wait for and something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What is waited for.
    pub when: When,
    /// What is done.
    pub what: What,
    /// How often: at the first event that fits and at each later one, until it was that often.
    pub times: NonZeroU32,
}

/// What a step waits for. Events count from the moment when the step was installed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum When {
    /// Nothing: it fires when it is installed.
    Now,
    /// This long after it was installed.
    After(Duration),
    /// A blob request.
    Blob(BlobRequests),
    /// A request to TenantService with a known bearer token.
    Grant {
        /// Of this tenant only.
        tenant: Option<String>,
        /// The first that counts: 1 is the next.
        nth: NonZeroU32,
    },
    /// Messages on a queue or subscription. The step fires soon after, not in the middle of the event.
    Bus {
        /// What is counted.
        event: BusEvent,
        /// Its path.
        entity: String,
        /// How many there must be; the step fires again after as many more.
        nth: NonZeroU32,
    },
}

/// What is counted on an entity of the bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusEvent {
    /// Messages that came in.
    Enqueued,
    /// Messages handed to a receiver, redeliveries included.
    Delivered,
    /// Messages completed.
    Completed,
}

impl BusEvent {
    pub(super) fn of(self, counts: &Counts) -> u64 {
        match self {
            Self::Enqueued => counts.totals.enqueued,
            Self::Delivered => counts.totals.deliveries,
            Self::Completed => counts.totals.completed,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Enqueued => "enqueued",
            Self::Delivered => "delivered",
            Self::Completed => "completed",
        }
    }
}

/// Which blob requests a step waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobRequests {
    /// This operation only; [`What::Cut`] always waits for `GetBlob`.
    pub operation: Option<BlobOperation>,
    /// Only blobs whose name contains this.
    pub name_contains: Option<String>,
    /// The first that counts: 1 is the next. For a cut, requests that do not cover the byte do not count.
    pub nth: NonZeroU32,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// New keys for one tenant, or for all: every token issued so far is refused, links that use one are cut.
    Rotate {
        /// `None` is all tenants.
        tenant: Option<String>,
    },
    /// Ends a blob's body before this byte: the connection is closed after exactly the bytes in front of it.
    Cut {
        /// Where.
        at: CutAt,
        /// Whether the SAS that the request came with is refused from that moment.
        refuse_sas: bool,
    },
    /// Refuses the SAS of the blob request that fires the step, and every later request with it.
    RefuseSas,
    /// A TCP reset of all connections of a service; if a request to that service fires the step, of its connection only.
    Reset {
        /// Which service; TenantService only when a grant fires it.
        service: Service,
    },
    /// Answers the request with 503 and `Retry-After`, in whole seconds.
    Busy {
        /// What the client is told.
        retry_after: Duration,
    },
    /// Lets the request wait.
    Delay(Duration),
    /// Every request of the service is answered with 503 while it lasts.
    Down {
        /// Blob or tenant.
        service: Service,
        /// How long.
        lasts: Duration,
    },
    /// Detaches every link of an entity of the bus with `amqp:link:detach-forced`.
    Detach {
        /// The entity's path.
        entity: String,
    },
    /// Closes connections to the bus with `amqp:connection:forced`.
    Close {
        /// Those with a link to this entity; `None` is all.
        entity: Option<String>,
    },
    /// Lets the next messages that are delivered lose their lock at once, so that each comes a second time.
    DeliverTwice {
        /// The path of the queue or subscription.
        entity: String,
        /// How many messages.
        messages: NonZeroU32,
    },
    /// Ends every lock of a queue or subscription now.
    ExpireLocks {
        /// Its path.
        entity: String,
    },
}

/// Where a body is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutAt {
    /// Before this byte of the blob, in the request that covers it.
    BlobByte(u64),
    /// After so many bytes of a response's body, in a request that has more.
    BodyByte(u64),
}

impl Step {
    /// A step that fires once.
    #[must_use]
    pub fn new(when: When, what: What) -> Self {
        Self { when, what, times: NonZeroU32::MIN }
    }

    /// Fires at so many events, the first one included.
    #[must_use]
    pub fn times(self, times: NonZeroU32) -> Self {
        Self { times, ..self }
    }

    /// Reads a script from TOML: a list of `[[faults]]`.
    ///
    /// # Errors
    /// Names the line, what is wrong there, and what may stand there.
    pub fn from_toml(text: &str) -> Result<Vec<Self>, ScriptError> {
        script::from_toml(text)
    }

    /// Reads a script from JSON: `{"faults": [...]}` with the keys that TOML has.
    ///
    /// # Errors
    /// Names the step, what is wrong with it, and what may stand there.
    pub fn from_json(text: &str) -> Result<Vec<Self>, ScriptError> {
        script::from_json(text)
    }

    /// Why this step can never fire, or never do what it says.
    pub(super) fn problem(&self) -> Option<&'static str> {
        let on_request = matches!(self.when, When::Blob(_) | When::Grant { .. });
        let times_later = self.times > NonZeroU32::MIN;
        match (&self.when, &self.what) {
            (When::Now | When::After(_), _) if times_later => {
                Some("what happens at a time happens once; leave `times` out")
            }
            (When::Blob(requests), What::Cut { .. })
                if requests.operation.is_some_and(|operation| operation != BlobOperation::GetBlob) =>
            {
                Some("only GetBlob has a body that can be cut")
            }
            (When::Blob(_), What::Cut { .. } | What::RefuseSas) => None,
            (_, What::Cut { .. } | What::RefuseSas) => Some("this needs a blob request to do it to: on = \"blob\""),
            (_, What::Busy { .. } | What::Delay(_)) if !on_request => {
                Some("this needs a request to do it to: on = \"blob\" or \"grant\"")
            }
            (When::Grant { .. }, What::Reset { service: Service::Tenant }) => None,
            (_, What::Reset { service: Service::Tenant }) => Some("this needs a request to do it to: on = \"grant\""),
            (_, What::Down { service: Service::Bus, .. }) => {
                Some("the bus has no answer that says so; use do = \"reset\" or \"close\"")
            }
            _ => None,
        }
    }
}

impl Default for BlobRequests {
    /// The next request, whatever it is.
    fn default() -> Self {
        Self { operation: None, name_contains: None, nth: NonZeroU32::MIN }
    }
}

impl BlobRequests {
    /// The next request of this operation.
    #[must_use]
    pub fn of(operation: BlobOperation) -> Self {
        Self { operation: Some(operation), ..Self::default() }
    }

    /// Not before the `nth` of them.
    #[must_use]
    pub fn nth(self, nth: NonZeroU32) -> Self {
        Self { nth, ..self }
    }

    pub(super) fn fit(&self, operation: BlobOperation, name: &str) -> bool {
        self.operation.is_none_or(|wanted| wanted == operation)
            && self.name_contains.as_ref().is_none_or(|part| name.contains(part.as_str()))
    }
}

impl What {
    /// Whether the request that fires the step does all there is to do: its own connection is its own business.
    pub(super) fn is_done_by_request(&self, when: &When) -> bool {
        let Self::Reset { service } = self else { return false };
        matches!((when, service), (When::Blob(_), Service::Blob) | (When::Grant { .. }, Service::Tenant))
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rotate { tenant: Some(tenant) } => write!(f, "rotate {tenant}"),
            Self::Rotate { tenant: None } => f.write_str("rotate all tenants"),
            Self::Cut { at, refuse_sas } => {
                match at {
                    CutAt::BlobByte(at) => write!(f, "cut before byte {at}")?,
                    CutAt::BodyByte(at) => write!(f, "cut after {at} bytes")?,
                }
                if *refuse_sas { f.write_str(" and refuse the SAS") } else { Ok(()) }
            }
            Self::RefuseSas => f.write_str("refuse the SAS"),
            Self::Reset { service } => write!(f, "reset {}", service.name()),
            Self::Busy { retry_after } => write!(f, "busy for {} s", retry_after.as_secs()),
            Self::Delay(by) => write!(f, "delay by {} ms", by.as_millis()),
            Self::Down { service, lasts } => write!(f, "{} down for {} ms", service.name(), lasts.as_millis()),
            Self::Detach { entity } => write!(f, "detach the links of {entity}"),
            Self::Close { entity: Some(entity) } => write!(f, "close the connections to {entity}"),
            Self::Close { entity: None } => f.write_str("close all connections"),
            Self::DeliverTwice { entity, messages } => write!(f, "deliver {messages} of {entity} twice"),
            Self::ExpireLocks { entity } => write!(f, "expire the locks of {entity}"),
        }
    }
}

impl Service {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bus => "bus",
            Self::Blob => "blob",
            Self::Tenant => "tenant",
        }
    }
}
