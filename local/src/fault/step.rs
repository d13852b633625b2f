//! A step of a script: something to wait for, how often, and something to do.

use std::{fmt, num::NonZeroU32, time::Duration};

use super::{
    Trigger, fits,
    script::{self, ScriptError},
    what::What,
};
use crate::{
    blob::BlobOperation,
    broker::{LinkRole, path_of},
    log::printable,
};

/// Something to wait for, how often it fires, and something to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What the log calls it; default none.
    pub name: Option<String>,
    /// What is waited for.
    pub when: When,
    /// At which of the events that fit it fires.
    pub trigger: Trigger,
    /// What is done.
    pub what: What,
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
    },
    /// A request for an access token, before the client has proved who it is.
    Token {
        /// Of the client with this id only.
        client: Option<String>,
    },
    /// Something that a client of the bus does, or is sent.
    Bus(BusFrames),
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now => f.write_str("now"),
            Self::After(delay) => write!(f, "{delay:?} after its installation"),
            Self::Blob(BlobRequests { operation, name_contains }) => {
                f.write_str(operation.map_or("a blob request", BlobOperation::name))?;
                name_contains.as_ref().map_or(Ok(()), |part| write!(f, " of a name with '{part}'"))
            }
            Self::Grant { tenant } => write!(f, "grant for {}", tenant.as_deref().unwrap_or("any tenant")),
            Self::Token { client } => write!(f, "token for {}", client.as_deref().unwrap_or("any client")),
            Self::Bus(BusFrames { event, entity, .. }) => {
                f.write_str(event.name())?;
                entity.as_ref().map_or(Ok(()), |entity| write!(f, " {entity}"))
            }
        }
    }
}

/// Which blob requests a step waits for; the default is all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlobRequests {
    /// This operation only. Some deeds wait for certain operations only: a body is cut in a `GetBlob` unless an upload is
    /// named here.
    pub operation: Option<BlobOperation>,
    /// Only blobs whose name contains this.
    pub name_contains: Option<String>,
}

/// Which events of the bus a step waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusFrames {
    /// The kind.
    pub event: BusEvent,
    /// Only those that are about this entity: its path, in any case.
    pub entity: Option<String>,
    /// Only on links on which the client does this.
    pub role: Option<LinkRole>,
    /// Only this request to `$management`, by Azure's name with or without `com.microsoft:`.
    pub operation: Option<String>,
}

/// Something that happens on the bus. A step acts in the middle of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BusEvent {
    /// A connection opens.
    Connect,
    /// A link attaches to an entity, with a right to.
    Attach,
    /// A delivery came in from a sender: one message, or one batch.
    TransferIn,
    /// A message goes out to a receiver.
    TransferOut,
    /// A receiver settles a delivery, or several next to each other.
    Disposition,
    /// A receiver gives credit.
    Flow,
    /// A token is put on `$cbs`; its entity is the one that it is put for.
    PutToken,
    /// A request to the `$management` of an entity.
    Management,
}

impl BusEvent {
    /// All of them, in the order of a connection's life.
    pub(super) const ALL: [Self; 8] = [
        Self::Connect,
        Self::PutToken,
        Self::Attach,
        Self::TransferIn,
        Self::Flow,
        Self::TransferOut,
        Self::Disposition,
        Self::Management,
    ];

    /// As scripts and the log write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Attach => "attach",
            Self::TransferIn => "transfer_in",
            Self::TransferOut => "transfer_out",
            Self::Disposition => "disposition",
            Self::Flow => "flow",
            Self::PutToken => "put_token",
            Self::Management => "management",
        }
    }

    /// Whether it happens on a link to an entity.
    pub(super) fn is_on_link(self) -> bool {
        matches!(self, Self::Attach | Self::TransferIn | Self::TransferOut | Self::Disposition | Self::Flow)
    }
}

impl Step {
    /// A step that fires once.
    #[must_use]
    pub fn new(when: impl Into<When>, what: What) -> Self {
        Self { name: None, when: when.into(), trigger: Trigger::default(), what }
    }

    /// What the log calls it.
    #[must_use]
    pub fn named(self, name: &str) -> Self {
        Self { name: Some(name.to_owned()), ..self }
    }

    /// Not before the `nth` event that fits: 1 is the next.
    #[must_use]
    pub fn nth(mut self, nth: NonZeroU32) -> Self {
        self.trigger.nth = nth;
        self
    }

    /// Fires at so many events, the first one included.
    #[must_use]
    pub fn times(mut self, times: NonZeroU32) -> Self {
        self.trigger.times = times;
        self
    }

    /// After it has fired, it fires again at each so many-th event only.
    #[must_use]
    pub fn every(mut self, every: NonZeroU32) -> Self {
        self.trigger.every = every;
        self
    }

    /// At each event that it would fire at, chance decides, with this probability. The same seed and the same number of
    /// events give the same faults.
    #[must_use]
    pub fn chance(mut self, probability: f64, seed: u64) -> Self {
        self.trigger.chance = Some(super::Chance::new(probability, seed));
        self
    }

    /// Once it has fired, it goes on for so long and is done then, however often it has fired.
    #[must_use]
    pub fn lasting(mut self, lasts: Duration) -> Self {
        self.trigger.lasts = Some(lasts);
        self.times(NonZeroU32::MAX)
    }

    /// Why this step can never fire, or never do what it says.
    pub(super) fn problem(&self) -> Option<String> {
        fits::problem_of_deed(&self.what).or_else(|| fits::problem(self))
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
}

impl From<BlobRequests> for When {
    fn from(requests: BlobRequests) -> Self {
        Self::Blob(requests)
    }
}

impl From<BusFrames> for When {
    fn from(frames: BusFrames) -> Self {
        Self::Bus(frames)
    }
}

impl BlobRequests {
    /// Every request of this operation.
    #[must_use]
    pub fn of(operation: BlobOperation) -> Self {
        Self { operation: Some(operation), ..Self::default() }
    }

    /// Only blobs whose name contains this.
    #[must_use]
    pub fn named(self, part: &str) -> Self {
        Self { name_contains: Some(part.to_owned()), ..self }
    }

    pub(super) fn fit(&self, operation: BlobOperation, name: &str) -> bool {
        self.operation.is_none_or(|wanted| wanted == operation)
            && self.name_contains.as_ref().is_none_or(|part| name.contains(part.as_str()))
    }
}

impl BusFrames {
    /// Every event of this kind.
    #[must_use]
    pub fn of(event: BusEvent) -> Self {
        Self { event, entity: None, role: None, operation: None }
    }

    /// Only those about this entity.
    #[must_use]
    pub fn entity(self, path: &str) -> Self {
        Self { entity: Some(path.to_owned()), ..self }
    }

    /// Only on links on which the client does this.
    #[must_use]
    pub fn role(self, role: LinkRole) -> Self {
        Self { role: Some(role), ..self }
    }

    pub(super) fn fit(&self, about: &About<'_>) -> bool {
        self.event == about.event
            && self.entity.as_ref().is_none_or(|wanted| path_of(wanted) == about.entity)
            && self.role.is_none_or(|wanted| Some(wanted) == about.role)
            && self.operation.as_ref().is_none_or(|wanted| short(wanted) == short(about.operation))
    }
}

fn short(operation: &str) -> &str {
    operation.strip_prefix("com.microsoft:").unwrap_or(operation)
}

/// An event of the bus, as the endpoint tells it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About<'a> {
    pub(crate) event: BusEvent,
    /// Normalised path; empty for a connection.
    pub(crate) entity: &'a str,
    pub(crate) role: Option<LinkRole>,
    /// Of a request to `$management`; else empty.
    pub(crate) operation: &'a str,
    pub(crate) connection: u64,
    /// Channel and handle.
    pub(crate) link: Option<(u16, u32)>,
}

impl std::fmt::Display for About<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.event.name())?;
        for word in [self.entity, self.operation] {
            if !word.is_empty() {
                write!(f, " {}", printable(word))?;
            }
        }
        match self.link {
            Some((channel, handle)) => write!(f, " (link {channel}/{handle})"),
            None => Ok(()),
        }
    }
}
