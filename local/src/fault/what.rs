//! What a step does, and whom it befalls.

use std::{fmt, num::NonZeroU32, time::Duration};

use serde::Serialize;

use super::refusal::{Condition, Refusal};

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

/// Whom a fault befalls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// What the event itself is about: its message, link, session, connection or queue.
    Event,
    /// An entity of the bus: all that is attached to it, or its messages.
    Entity(String),
    /// All connections of a service.
    Service(Service),
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// New keys for one tenant, or for all: every token issued so far is refused, links that use one are cut.
    Rotate {
        /// `None` is all tenants.
        tenant: Option<String>,
        /// How long the tokens of the old keys are still good; zero is not at all.
        grace: Duration,
    },
    /// Every token issued so far to one tenant, or to all, is expired from now on; the keys stay.
    Expire {
        /// `None` is all tenants.
        tenant: Option<String>,
    },
    /// Refuses the SAS of the blob request that fires the step, and every later request with it.
    RefuseSas,
    /// Ends a body before this byte and closes the connection: that of a `GetBlob`, or that of an upload on its way in.
    Cut {
        /// Where.
        at: CutAt,
        /// Whether the SAS that the request came with is refused from that moment.
        refuse_sas: bool,
    },
    /// Answers as if the blob had only its first bytes.
    Truncate {
        /// So many.
        at: u64,
    },
    /// Turns over a bit of this byte of the blob, in the answer to a `GetBlob` that covers it. The length stays.
    Corrupt {
        /// Which byte, from 0.
        at: u64,
    },
    /// Lets the body of a `GetBlob` trickle: each by itself, as from a service that limits a connection.
    Slow {
        /// Bytes of a body in a second, at most.
        bytes_per_second: NonZeroU32,
    },
    /// Replaces the blob just before the request, which finds another ETag.
    Replace {
        /// By this; `None` keeps the bytes.
        text: Option<String>,
    },
    /// Answers with an error instead of doing it.
    Refuse {
        /// Which.
        with: Refusal,
        /// What the client is told of when to come again, in whole seconds; HTTP only.
        retry_after: Option<Duration>,
    },
    /// Lets the request wait. On the bus the whole connection stands still, its answers included.
    Delay(Duration),
    /// Does it, and never says so.
    DropAnswer {
        /// Whether the connection is reset then, so that the client need not wait until its patience is over.
        reset: bool,
    },
    /// A TCP reset of connections.
    Reset(Whose),
    /// Connections stay open, but their bytes are swallowed and nothing is answered, until the client gives up. For a whole
    /// service that is true of new connections too, while it lasts.
    Blackhole {
        /// Of an event's connection, or of a service's.
        whose: Whose,
        /// How long a service is gone.
        lasts: Duration,
    },
    /// Every request of the service is throttled while it lasts: from its own time on, not from an event's.
    Down {
        /// Blob or tenant.
        service: Service,
        /// How long.
        lasts: Duration,
    },
    /// Closes connections to the bus.
    Close {
        /// The event's, those with a link to an entity, or all.
        whose: Whose,
        /// What they are told; usually `amqp:connection:forced`.
        condition: Condition,
    },
    /// Ends sessions.
    End {
        /// The event's, or those with a link to an entity.
        whose: Whose,
        /// What they are told.
        condition: Condition,
    },
    /// Detaches links.
    Detach {
        /// The event's, or all of an entity.
        whose: Whose,
        /// What they are told; usually `amqp:link:detach-forced`.
        condition: Condition,
    },
    /// Ends locks now, as if their time were over: of the message that goes out or is settled, or all of an entity.
    LoseLocks(Whose),
    /// The event's message comes twice: one that goes out loses its lock at once; one that comes in is put there twice. Of an
    /// entity: the next messages that go out.
    DeliverTwice {
        /// The event's message, or a queue or subscription.
        whose: Whose,
        /// How many messages; of an event one.
        messages: NonZeroU32,
    },
    /// The next messages of a queue or subscription go out in another order, once so many wait there.
    Reorder {
        /// The event's queue, or another.
        whose: Whose,
        /// How many.
        messages: NonZeroU32,
        /// In which order.
        order: NewOrder,
        /// How long is waited for so many; then what is there goes out in that order.
        patience: Duration,
    },
    /// Messages of a queue or subscription are not delivered for a while, or until so many more came.
    HoldBack {
        /// The event's queue, or another.
        whose: Whose,
        /// How long at most.
        lasts: Duration,
        /// Until so many more came, if that is sooner.
        messages: Option<NonZeroU32>,
    },
}

/// An order of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewOrder {
    /// The last first.
    Reverse,
    /// As a seed has it, the same each time.
    Shuffled(u64),
}

/// Where a body is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutAt {
    /// Before this byte of the blob, in the request that covers it.
    BlobByte(u64),
    /// After so many bytes of a body, in a request that has more.
    BodyByte(u64),
}

impl What {
    /// New keys at once; every token issued so far dies.
    #[must_use]
    pub fn rotate(tenant: Option<&str>) -> Self {
        Self::Rotate { tenant: tenant.map(str::to_owned), grace: Duration::ZERO }
    }

    /// "Too busy", as each service says it.
    #[must_use]
    pub fn throttle(retry_after: Duration) -> Self {
        Self::Refuse { with: Refusal::Busy, retry_after: Some(retry_after) }
    }

    /// A detach with `amqp:link:detach-forced`, as after idleness.
    #[must_use]
    pub fn detach(whose: Whose) -> Self {
        Self::Detach { whose, condition: Condition::DETACH_FORCED }
    }

    /// A close with `amqp:connection:forced`.
    #[must_use]
    pub fn close(whose: Whose) -> Self {
        Self::Close { whose, condition: Condition::CONNECTION_FORCED }
    }

    /// Whom it befalls, where that can be chosen.
    pub(super) fn whose(&self) -> Option<&Whose> {
        match self {
            Self::Reset(whose)
            | Self::LoseLocks(whose)
            | Self::Blackhole { whose, .. }
            | Self::Close { whose, .. }
            | Self::End { whose, .. }
            | Self::Detach { whose, .. }
            | Self::DeliverTwice { whose, .. }
            | Self::Reorder { whose, .. }
            | Self::HoldBack { whose, .. } => Some(whose),
            _ => None,
        }
    }

    /// Whether it is about messages that an entity holds: a topic holds none.
    pub(super) fn needs_messages(&self) -> bool {
        matches!(self, Self::LoseLocks(_) | Self::DeliverTwice { .. } | Self::Reorder { .. } | Self::HoldBack { .. })
    }

    /// Its word in a script.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Rotate { .. } => "rotate",
            Self::Expire { .. } => "expire",
            Self::RefuseSas => "refuse_sas",
            Self::Cut { .. } => "cut",
            Self::Truncate { .. } => "truncate",
            Self::Corrupt { .. } => "corrupt",
            Self::Slow { .. } => "slow",
            Self::Replace { .. } => "replace",
            Self::Refuse { with: Refusal::Busy, .. } => "throttle",
            Self::Refuse { .. } => "refuse",
            Self::Delay(_) => "delay",
            Self::DropAnswer { .. } => "drop_answer",
            Self::Reset(_) => "reset",
            Self::Blackhole { .. } => "blackhole",
            Self::Down { .. } => "down",
            Self::Close { .. } => "close",
            Self::End { .. } => "end",
            Self::Detach { .. } => "detach",
            Self::LoseLocks(_) => "lose_lock",
            Self::DeliverTwice { .. } => "deliver_twice",
            Self::Reorder { .. } => "reorder",
            Self::HoldBack { .. } => "hold_back",
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = |tenant: &Option<String>| tenant.clone().unwrap_or_else(|| "all tenants".to_owned());
        match self {
            Self::Rotate { tenant, grace } => {
                write!(f, "rotate {}", all(tenant))?;
                if grace.is_zero() { Ok(()) } else { write!(f, " with a grace of {} ms", grace.as_millis()) }
            }
            Self::Expire { tenant } => write!(f, "expire the tokens of {}", all(tenant)),
            Self::RefuseSas => f.write_str("refuse the SAS"),
            Self::Cut { at, refuse_sas } => {
                match at {
                    CutAt::BlobByte(at) => write!(f, "cut before byte {at}")?,
                    CutAt::BodyByte(at) => write!(f, "cut after {at} bytes")?,
                }
                if *refuse_sas { f.write_str(" and refuse the SAS") } else { Ok(()) }
            }
            Self::Truncate { at } => write!(f, "truncate to {at} bytes"),
            Self::Corrupt { at } => write!(f, "corrupt byte {at}"),
            Self::Slow { bytes_per_second } => write!(f, "slow to {bytes_per_second} bytes a second"),
            Self::Replace { text: None } => f.write_str("replace by the same bytes"),
            Self::Replace { text: Some(text) } => write!(f, "replace by {} other bytes", text.len()),
            Self::Refuse { with: Refusal::Busy, .. } => f.write_str("throttle"),
            Self::Refuse { with, .. } => write!(f, "refuse with {with}"),
            Self::Delay(by) => write!(f, "delay by {} ms", by.as_millis()),
            Self::DropAnswer { reset: false } => f.write_str("drop the answer"),
            Self::DropAnswer { reset: true } => f.write_str("drop the answer and reset"),
            Self::Reset(whose) => write!(f, "reset {whose}"),
            Self::Blackhole { whose: Whose::Event, .. } => f.write_str("blackhole the event's own"),
            Self::Blackhole { whose, lasts } => write!(f, "blackhole {whose} for {} ms", lasts.as_millis()),
            Self::Down { service, lasts } => write!(f, "{} down for {} ms", service.name(), lasts.as_millis()),
            Self::Close { whose, condition } => write!(f, "close {whose} with {condition}"),
            Self::End { whose, condition } => write!(f, "end {whose} with {condition}"),
            Self::Detach { whose, condition } => write!(f, "detach {whose} with {condition}"),
            Self::LoseLocks(whose) => write!(f, "end the locks of {whose}"),
            Self::DeliverTwice { whose: Whose::Event, .. } => f.write_str("deliver the event's own twice"),
            Self::DeliverTwice { whose, messages } => write!(f, "deliver {messages} of {whose} twice"),
            Self::Reorder { whose, messages, order: NewOrder::Reverse, .. } => {
                write!(f, "reverse {messages} of {whose}")
            }
            Self::Reorder { whose, messages, order: NewOrder::Shuffled(seed), .. } => {
                write!(f, "shuffle {messages} of {whose} by seed {seed}")
            }
            Self::HoldBack { whose, lasts, messages } => {
                write!(f, "hold back {whose} for {} ms", lasts.as_millis())?;
                match messages {
                    Some(messages) => write!(f, " or until {messages} more came"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Event => f.write_str("the event's own"),
            Self::Entity(path) => f.write_str(path),
            Self::Service(service) => f.write_str(service.name()),
        }
    }
}

impl Service {
    pub(super) const ALL: [Self; 3] = [Self::Blob, Self::Bus, Self::Tenant];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bus => "bus",
            Self::Blob => "blob",
            Self::Tenant => "tenant",
        }
    }
}
