//! A message as the broker keeps it, and the form in which it goes out.
//!
//! The sender's bytes from `properties` onward are never decoded and encoded again: only `header`, delivery annotations and
//! message annotations are ours to write. There are three exceptions: a message without a `message-id` gets one, one that
//! expires gets an `absolute-expiry-time`, and dead-lettering appends application properties.
//!
//! # Sources
//! AMQP 1.0 part 3, section 3.2 (message format); "AMQP 1.0 in Azure Service Bus and Event Hubs protocol guide" (message
//! annotations; `absolute-expiry-time` is ignored on input and authoritative on output); the lock token's byte order and `x-opt-lock-token` were seen with Microsoft's clients.

use std::borrow::Cow;

use bytes::Bytes;
use uuid::Uuid;

use super::codec::{DecodeError, Fields, Reader, Value};
use super::encode::Write;
use crate::broker::Moment;

const HEADER: u64 = 0x70;
const DELIVERY_ANNOTATIONS: u64 = 0x71;
const MESSAGE_ANNOTATIONS: u64 = 0x72;
const PROPERTIES: u64 = 0x73;
const APPLICATION_PROPERTIES: u64 = 0x74;
const DATA: u64 = 0x75;
const AMQP_VALUE: u64 = 0x77;
const FOOTER: u64 = 0x78;

/// Transfers with this format hold one message per data section.
pub(crate) const BATCH_FORMAT: u32 = 0x8001_3700;

/// More than what we write before and within the sender's annotations and bytes; the longest part is an entity's name.
const OVERHEAD_MAX: usize = 400 + crate::broker::PATH_MAX;

/// Annotations that the broker writes: one that a forwarding sender left in its message would be a lie.
const OWN_ANNOTATIONS: [&str; 7] = [
    "x-opt-sequence-number",
    "x-opt-enqueue-sequence-number",
    "x-opt-enqueued-time",
    "x-opt-locked-until",
    "x-opt-deadletter-source",
    "x-opt-message-state",
    "x-opt-lock-token",
];

/// Place of `absolute-expiry-time` among the properties.
const EXPIRY_FIELD: u32 = 8;

/// Priority of a message whose header states none (AMQP 1.0 part 3, section 3.2.1).
const PRIORITY_DEFAULT: u8 = 4;

/// An immutable message; one allocation, shared by the subscriptions that hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    durable: bool,
    priority: u8,
    /// Milliseconds.
    ttl: Option<u32>,
    /// When the sender wants it to appear, in milliseconds since 1970.
    scheduled_at: Option<i64>,
    /// The sender's message annotations as encoded keys and values, then everything from `properties` on.
    bytes: Bytes,
    annotations_end: usize,
    /// Keys and values together.
    annotations: u32,
}

/// What a delivery adds to a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stamp<'a> {
    pub(crate) delivery_count: u32,
    pub(crate) sequence: i64,
    /// Milliseconds since 1970.
    pub(crate) enqueued_at: i64,
    /// When its life ends, in milliseconds since 1970; absent when it does not.
    pub(crate) expires_at: Option<i64>,
    /// Token and end (milliseconds since 1970) of a peek-lock.
    pub(crate) lock: Option<(Uuid, i64)>,
    /// On a dead-letter queue: the entity it belongs to.
    pub(crate) dead_letter_source: Option<&'a str>,
    /// 0 active, 1 deferred, 2 scheduled; written when a message is peeked.
    pub(crate) state: Option<i32>,
}

/// One section of a message and its place.
#[derive(Debug, Clone, Copy)]
struct Section<'a> {
    code: u64,
    /// Of the descriptor.
    start: usize,
    /// The encoded value.
    value: &'a [u8],
    end: usize,
}

/// The sections as they stand; checks that they cover the message.
struct Sections<'a> {
    reader: Reader<'a>,
}

impl<'a> Sections<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        Self { reader: Reader::new(bytes) }
    }

    fn next(&mut self) -> Result<Option<Section<'a>>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let start = self.reader.position();
        let code = self.reader.descriptor()?;
        if !(HEADER..=FOOTER).contains(&code) {
            return Err(self.reader.error("an unknown message section"));
        }
        let value = self.reader.raw()?;
        Ok(Some(Section { code, start, value, end: self.reader.position() }))
    }
}

/// A message whose sections stand in AMQP's order. JavaScript writes a footer before the body.
fn in_order(encoded: &[u8]) -> Result<Cow<'_, [u8]>, DecodeError> {
    let (mut sections, mut last, mut sorted) = (Sections::of(encoded), HEADER, true);
    while let Some(section) = sections.next()? {
        sorted &= last <= section.code;
        last = section.code;
    }
    if sorted {
        return Ok(Cow::Borrowed(encoded));
    }
    let (mut sections, mut found) = (Sections::of(encoded), Vec::new());
    while let Some(section) = sections.next()? {
        found.push((section.code, encoded.get(section.start..section.end).unwrap_or_default()));
    }
    found.sort_by_key(|(code, _)| *code);
    Ok(Cow::Owned(found.iter().flat_map(|(_, bytes)| *bytes).copied().collect()))
}

/// The messages of one delivery: one, or as many as a batch has data sections.
///
/// # Errors
/// When the payload, or any message in a batch, is malformed; then none of them is taken.
pub(crate) fn messages_of(format: u32, payload: &[u8]) -> Result<Vec<Message>, DecodeError> {
    if format != BATCH_FORMAT {
        return Ok(vec![Message::read(payload)?]);
    }
    let mut messages = Vec::new();
    let mut sections = Sections::of(payload);
    while let Some(section) = sections.next()? {
        if section.code == DATA {
            let inner = Reader::new(section.value).binary()?.unwrap_or_default();
            messages.push(Message::read(inner)?);
        }
    }
    Ok(messages)
}

impl Message {
    /// Takes over an encoded message.
    ///
    /// # Errors
    /// When a section cannot be read. Bodies are checked for their form only, and sections may stand in any order.
    pub(crate) fn read(encoded: &[u8]) -> Result<Self, DecodeError> {
        let encoded = &*in_order(encoded)?;
        let (mut durable, mut priority, mut ttl, mut scheduled_at) = (false, PRIORITY_DEFAULT, None, None);
        let mut kept: Vec<u8> = Vec::new();
        let mut annotations = 0;
        let mut bare_from = None;
        let mut properties: Option<Section<'_>> = None;
        let mut sections = Sections::of(encoded);
        while let Some(section) = sections.next()? {
            match section.code {
                HEADER => {
                    let mut fields = Reader::new(section.value).list()?;
                    durable = fields.bool()?.unwrap_or(false);
                    priority = fields.uint()?.map_or(PRIORITY_DEFAULT, |p| u8::try_from(p).unwrap_or(PRIORITY_DEFAULT));
                    ttl = fields.uint32()?;
                }
                DELIVERY_ANNOTATIONS => {}
                MESSAGE_ANNOTATIONS => {
                    let mut pairs = Reader::new(section.value).map()?;
                    while let Some(reader) = pairs.next() {
                        let key = reader.raw()?;
                        let value = pairs.raw()?;
                        let name = Reader::new(key).text().ok().flatten().unwrap_or_default();
                        if name == "x-opt-scheduled-enqueue-time" {
                            scheduled_at = value.and_then(|value| Reader::new(value).int().ok().flatten());
                        }
                        if !OWN_ANNOTATIONS.contains(&name) {
                            kept.extend_from_slice(key);
                            kept.raw_or_null(value);
                            annotations += 2;
                        }
                    }
                }
                code => {
                    bare_from.get_or_insert(section.start);
                    if code == PROPERTIES {
                        // Read now, so that a time to expire can be written into them.
                        Reader::new(section.value).list()?.skip(u32::MAX)?;
                        properties = Some(section);
                    } else if code == APPLICATION_PROPERTIES {
                        // Read now, so that dead-lettering can rely on it.
                        Reader::new(section.value).map()?.skip(u32::MAX)?;
                    }
                }
            }
        }
        let annotations_end = kept.len();
        let bare = encoded.get(bare_from.unwrap_or(encoded.len())..).unwrap_or_default();
        kept.reserve_exact(bare.len());
        match properties {
            Some(section) if has_message_id(section.value)? => kept.extend_from_slice(bare),
            // Azure gives an id to a message without one; JavaScript's `subscribe` logs an error for each that has none.
            Some(section) => {
                let mut fields = Reader::new(section.value).list()?;
                fields.skip(1)?;
                let mut others = Vec::new();
                while let Some(reader) = fields.next() {
                    others.push(reader.raw()?);
                }
                kept.described_list(0x73, |list| {
                    list.text(&new_message_id());
                    others.iter().for_each(|other| list.raw(other));
                });
                kept.extend_from_slice(encoded.get(section.end..).unwrap_or_default());
            }
            None => {
                kept.described_list(0x73, |list| list.text(&new_message_id()));
                kept.extend_from_slice(bare);
            }
        }
        kept.shrink_to_fit();
        Ok(Self { durable, priority, ttl, scheduled_at, bytes: Bytes::from(kept), annotations_end, annotations })
    }

    /// Bytes that it takes, to be counted against an entity's size.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// More than what [`Self::write`] writes.
    pub(crate) fn encoded_max(&self) -> usize {
        self.bytes.len() + OVERHEAD_MAX
    }

    /// The sender's wish for its life, in milliseconds.
    pub(crate) fn ttl(&self) -> Option<u32> {
        self.ttl
    }

    /// When the sender wants it to appear, in milliseconds since 1970.
    pub(crate) fn scheduled_at(&self) -> Option<i64> {
        self.scheduled_at
    }

    /// When the sender wants it to appear, if that is later than `now`.
    pub(crate) fn due_after(&self, now: Moment) -> Option<Moment> {
        self.scheduled_at.map(Moment).filter(|due| *due > now)
    }

    /// Its `message-id`: the bytes of a text, else the encoded value. Every message has one.
    pub(crate) fn message_id(&self) -> &[u8] {
        let read = || {
            let mut properties = Reader::new(self.bare());
            properties.descriptor().ok()?;
            let encoded = properties.list().ok()?.raw().ok()??;
            Some(Reader::new(encoded).text().ok().flatten().map_or(encoded, str::as_bytes))
        };
        read().unwrap_or_default()
    }

    fn bare(&self) -> &[u8] {
        self.bytes.get(self.annotations_end..).unwrap_or_default()
    }

    /// The encoded values of the properties and application properties sections, for a filter that looks into them.
    pub(crate) fn filterable(&self) -> (Option<&[u8]>, Option<&[u8]>) {
        let (mut properties, mut application_properties) = (None, None);
        let mut sections = Sections::of(self.bare());
        while let Ok(Some(section)) = sections.next() {
            match section.code {
                PROPERTIES => properties = Some(section.value),
                APPLICATION_PROPERTIES => application_properties = Some(section.value),
                _ => break,
            }
        }
        (properties, application_properties)
    }

    /// The encoded value of a message annotation of the sender's.
    pub(crate) fn annotation(&self, name: &str) -> Option<&[u8]> {
        let mut reader = Reader::new(self.bytes.get(..self.annotations_end).unwrap_or_default());
        while !reader.is_empty() {
            let key = reader.raw().ok()?;
            let value = reader.raw().ok()?;
            if Reader::new(key).text().ok().flatten() == Some(name) {
                return Some(value);
            }
        }
        None
    }

    /// Appends the whole message as a receiver gets it.
    pub(crate) fn write(&self, out: &mut Vec<u8>, stamp: &Stamp<'_>) {
        out.described_list(0x70, |list| {
            list.bool(self.durable);
            list.ubyte(self.priority);
            match (stamp.expires_at, self.ttl) {
                (Some(end), _) => list.uint(u32::try_from(end - stamp.enqueued_at).unwrap_or(u32::MAX)),
                (None, Some(ttl)) => list.uint(ttl),
                (None, None) => list.null(),
            }
            list.bool(stamp.delivery_count == 0);
            list.uint(stamp.delivery_count);
        });
        if let Some((token, _)) = stamp.lock {
            // The Rust client reads the token here, Python and JavaScript read the delivery tag.
            out.extend([0x00, 0x53, 0x71]);
            out.map(|map| {
                map.symbol("x-opt-lock-token");
                map.uuid(token);
            });
        }
        out.extend([0x00, 0x53, 0x72]);
        out.map(|map| {
            map.raw_elements(self.annotations, self.bytes.get(..self.annotations_end).unwrap_or_default());
            map.symbol("x-opt-sequence-number");
            map.long(stamp.sequence);
            map.symbol("x-opt-enqueued-time");
            map.timestamp(stamp.enqueued_at);
            if let Some((_, until)) = stamp.lock {
                map.symbol("x-opt-locked-until");
                map.timestamp(until);
            }
            if let Some(source) = stamp.dead_letter_source {
                map.symbol("x-opt-deadletter-source");
                map.text(source);
            }
            if let Some(state) = stamp.state {
                map.symbol("x-opt-message-state");
                map.int(state);
            }
        });
        match stamp.expires_at {
            Some(expires_at) => self.write_bare_until(out, expires_at),
            None => out.extend_from_slice(self.bare()),
        }
    }

    /// Azure ignores a sender's `absolute-expiry-time` and writes its own.
    fn write_bare_until(&self, out: &mut Vec<u8>, expires_at: i64) {
        let bare = self.bare();
        let mut properties = Reader::new(bare);
        let Ok(mut fields) = properties.descriptor().and_then(|_| properties.list()) else {
            return out.extend_from_slice(bare);
        };
        out.described_list(0x73, |list| {
            for place in 0.. {
                if fields.len() == 0 && place > EXPIRY_FIELD {
                    break;
                }
                match fields.raw() {
                    _ if place == EXPIRY_FIELD => list.timestamp(expires_at),
                    Ok(field) => list.raw_or_null(field),
                    Err(_) => break,
                }
            }
        });
        out.extend_from_slice(properties.rest());
    }

    /// The same message with application properties set; values are encoded. Properties of the same name are replaced.
    pub(crate) fn with_properties(&self, set: &[(&str, Vec<u8>)]) -> Self {
        let bare = self.bare();
        let (mut before, mut after, mut old) = (0, 0, None);
        let mut sections = Sections::of(bare);
        while let Ok(Some(section)) = sections.next() {
            if section.code == PROPERTIES {
                (before, after) = (section.end, section.end);
            } else if section.code == APPLICATION_PROPERTIES {
                (before, after, old) = (section.start, section.end, Some(section.value));
            }
        }
        let mut bytes = Vec::with_capacity(self.bytes.len() + 200);
        bytes.extend_from_slice(self.bytes.get(..self.annotations_end).unwrap_or_default());
        bytes.extend_from_slice(bare.get(..before).unwrap_or_default());
        bytes.extend([0x00, 0x53, 0x74]);
        bytes.map(|map| {
            let mut pairs = old.and_then(|old| Reader::new(old).map().ok());
            while let Some((key, value)) = pairs.as_mut().and_then(next_pair) {
                let name = Reader::new(key).text().ok().flatten().unwrap_or_default();
                if !set.iter().any(|(replaced, _)| *replaced == name) {
                    map.raw(key);
                    map.raw_or_null(value);
                }
            }
            for (key, value) in set {
                map.text(key);
                map.raw(value);
            }
        });
        bytes.extend_from_slice(bare.get(after..).unwrap_or_default());
        Self {
            durable: self.durable,
            priority: self.priority,
            ttl: self.ttl,
            scheduled_at: self.scheduled_at,
            bytes: Bytes::from(bytes),
            annotations_end: self.annotations_end,
            annotations: self.annotations,
        }
    }

    /// What a reader would see. Allocates; for tests and people.
    pub(crate) fn contents(&self) -> Contents {
        let mut contents = Contents::default();
        let mut sections = Sections::of(self.bare());
        while let Ok(Some(section)) = sections.next() {
            let mut reader = Reader::new(section.value);
            match section.code {
                PROPERTIES => {
                    if let Ok(Value::List(list)) = reader.value() {
                        let mut list = list.into_iter();
                        contents.message_id = list.next().and_then(id_text);
                        contents.subject = list.nth(2).and_then(id_text);
                        contents.correlation_id = list.nth(1).and_then(id_text);
                        contents.content_type = list.next().and_then(id_text);
                    }
                }
                APPLICATION_PROPERTIES => {
                    if let Ok(Value::Map(pairs)) = reader.value() {
                        contents.properties =
                            pairs.into_iter().filter_map(|(key, value)| Some((id_text(key)?, value))).collect();
                    }
                }
                DATA => contents.body.extend_from_slice(reader.binary().ok().flatten().unwrap_or_default()),
                AMQP_VALUE => match reader.value() {
                    Ok(Value::Text(text)) => contents.body.extend_from_slice(text.as_bytes()),
                    Ok(Value::Binary(bytes)) => contents.body.extend_from_slice(&bytes),
                    _ => contents.body.extend_from_slice(section.value),
                },
                _ => {}
            }
        }
        contents
    }
}

/// A message's parts that tests and people look at.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Contents {
    /// `message-id` as text, whatever its type was.
    pub message_id: Option<String>,
    /// `subject`, which Azure's SDKs also call label.
    pub subject: Option<String>,
    /// `correlation-id` as text.
    pub correlation_id: Option<String>,
    /// `content-type`.
    pub content_type: Option<String>,
    /// Application properties in the sender's order.
    pub properties: Vec<(String, Value)>,
    /// Data sections one after the other, or the text or binary of an AMQP value.
    pub body: Vec<u8>,
}

impl Contents {
    /// An application property.
    #[must_use]
    pub fn property(&self, name: &str) -> Option<&Value> {
        self.properties.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }
}

fn next_pair<'a>(pairs: &mut Fields<'a>) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let key = pairs.next()?.raw().ok()?;
    Some((key, pairs.raw().ok()?))
}

/// An id as text; AMQP allows four types.
pub(crate) fn id_text(value: Value) -> Option<String> {
    match value {
        Value::Text(text) | Value::Symbol(text) => Some(text),
        Value::Uint(number) => Some(number.to_string()),
        Value::Int(number) => Some(number.to_string()),
        Value::Uuid(id) => Some(id.to_string()),
        _ => None,
    }
}

fn has_message_id(properties: &[u8]) -> Result<bool, DecodeError> {
    Ok(Reader::new(properties).list()?.raw()?.is_some())
}

fn new_message_id() -> String {
    Uuid::new_v4().simple().to_string()
}

/// The lock token as a delivery tag: .NET's byte order of a Guid, which Python (`bytes_le`) and JavaScript expect.
pub(crate) fn delivery_tag(token: Uuid) -> [u8; 16] {
    token.to_bytes_le()
}
