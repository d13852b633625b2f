//! What a filter sees of a message: read from the message's bytes when it is asked for.

use super::operand::Operand;
use crate::amqp::codec::{Fields, Reader};
use crate::amqp::message::{Message, id_text};
use crate::broker::Moment;

/// A message on its way to a subscription, with the places of its sections.
#[derive(Debug)]
pub(crate) struct View<'a> {
    message: &'a Message,
    enqueued_at: Moment,
    /// Encoded, as the next.
    properties: Option<&'a [u8]>,
    application_properties: Option<&'a [u8]>,
}

/// Properties of the `sys` scope that a message has when it is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SystemProperty {
    MessageId,
    To,
    Subject,
    ReplyTo,
    CorrelationId,
    ContentType,
    SessionId,
    ReplyToSessionId,
    PartitionKey,
    TimeToLive,
    EnqueuedTimeUtc,
    ExpiresAtUtc,
    ScheduledEnqueueTimeUtc,
    Size,
}

/// As .NET's `BrokeredMessage` and `ServiceBusMessage` call them; `Subject` is the newer name of `Label`.
const SYSTEM_PROPERTIES: [(&str, SystemProperty); 15] = [
    ("MessageId", SystemProperty::MessageId),
    ("To", SystemProperty::To),
    ("Label", SystemProperty::Subject),
    ("Subject", SystemProperty::Subject),
    ("ReplyTo", SystemProperty::ReplyTo),
    ("CorrelationId", SystemProperty::CorrelationId),
    ("ContentType", SystemProperty::ContentType),
    ("SessionId", SystemProperty::SessionId),
    ("ReplyToSessionId", SystemProperty::ReplyToSessionId),
    ("PartitionKey", SystemProperty::PartitionKey),
    ("TimeToLive", SystemProperty::TimeToLive),
    ("EnqueuedTimeUtc", SystemProperty::EnqueuedTimeUtc),
    ("ExpiresAtUtc", SystemProperty::ExpiresAtUtc),
    ("ScheduledEnqueueTimeUtc", SystemProperty::ScheduledEnqueueTimeUtc),
    ("Size", SystemProperty::Size),
];

impl SystemProperty {
    /// By name, whatever its case.
    pub(crate) fn named(name: &str) -> Option<Self> {
        SYSTEM_PROPERTIES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, property)| *property)
    }

    /// All names, for people.
    pub(crate) fn names() -> String {
        SYSTEM_PROPERTIES.map(|(name, _)| name).join(", ")
    }

    /// Where it stands in the `properties` section (AMQP 1.0 part 3, section 3.2.4).
    fn field(self) -> Option<u32> {
        match self {
            Self::MessageId => Some(0),
            Self::To => Some(2),
            Self::Subject => Some(3),
            Self::ReplyTo => Some(4),
            Self::CorrelationId => Some(5),
            Self::ContentType => Some(6),
            Self::SessionId => Some(10),
            Self::ReplyToSessionId => Some(12),
            Self::PartitionKey
            | Self::TimeToLive
            | Self::EnqueuedTimeUtc
            | Self::ExpiresAtUtc
            | Self::ScheduledEnqueueTimeUtc
            | Self::Size => None,
        }
    }
}

impl<'a> View<'a> {
    pub(crate) fn new(message: &'a Message, enqueued_at: Moment) -> Self {
        let (properties, application_properties) = message.filterable();
        Self { message, enqueued_at, properties, application_properties }
    }

    /// A property of the `sys` scope; one that the sender did not set is unknown.
    pub(crate) fn system(&self, property: SystemProperty) -> Operand<'a> {
        if let Some(index) = property.field() {
            return self.field(index);
        }
        match property {
            SystemProperty::TimeToLive => {
                self.message.ttl().map_or(Operand::Span(i64::MAX), |ms| Operand::span(i64::from(ms)))
            }
            SystemProperty::EnqueuedTimeUtc => Operand::time(self.enqueued_at.0),
            SystemProperty::ExpiresAtUtc => self
                .message
                .ttl()
                .map_or(Operand::Time(i64::MAX), |ms| Operand::time(self.enqueued_at.0.saturating_add(i64::from(ms)))),
            SystemProperty::ScheduledEnqueueTimeUtc => {
                self.message.scheduled_at().map_or(Operand::Unknown, Operand::time)
            }
            SystemProperty::Size => Operand::Int(i128::try_from(self.message.len()).unwrap_or(i128::MAX)),
            SystemProperty::PartitionKey => {
                self.message.annotation("x-opt-partition-key").map_or(Operand::Unknown, Operand::read)
            }
            _ => Operand::Unknown,
        }
    }

    /// An application property, whatever the case of its name: `None` when the message has none, unknown when it is null.
    pub(crate) fn user(&self, name: &str) -> Option<Operand<'a>> {
        let mut pairs = Reader::new(self.application_properties?).map().ok()?;
        while let Some(key) = pairs.next() {
            let key = Reader::new(key.raw().ok()?).text().ok().flatten();
            let value = pairs.raw().ok()?;
            if key.is_some_and(|key| same_name(key, name)) {
                return Some(value.map_or(Operand::Unknown, Operand::read));
            }
        }
        None
    }

    /// The message's ids may be numbers, uuids or binaries on the wire; Azure shows them as texts.
    fn field(&self, index: u32) -> Operand<'a> {
        let list = self.properties.and_then(|bytes| Reader::new(bytes).list().ok());
        let raw = list.and_then(|mut fields: Fields<'a>| {
            fields.skip(index).ok()?;
            fields.raw().ok().flatten()
        });
        match raw.map(Operand::read) {
            None | Some(Operand::Unknown) => Operand::Unknown,
            Some(Operand::Text(text)) => Operand::Text(text),
            Some(_) => raw
                .and_then(|raw| Reader::new(raw).value().ok())
                .and_then(id_text)
                .map_or(Operand::Other, |text| Operand::Text(text.into())),
        }
    }
}

/// Names of properties and parameters have no case.
pub(crate) fn same_name(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
        || (!one.is_ascii() && !other.is_ascii() && one.to_lowercase() == other.to_lowercase())
}
