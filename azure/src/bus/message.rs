//! Messages to bytes and back: what goes into a message, how several go as one batch, and what is read from a delivery.
//!
//! A batch is one AMQP message of format `0x80013700` whose data sections each hold a complete encoded message; the
//! broker takes it apart. A batch is accepted or rejected as a whole.
//!
//! # Sources
//! AMQP 1.0 part 3, section 3.2 (message format); Microsoft, "AMQP 1.0 in Azure Service Bus protocol guide" (annotations).
//! The batch format was observed from Microsoft's SDKs; their envelopes carry the first message's `message-id`, so ours do.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use fe2o3_amqp::Sendable;
use fe2o3_amqp_types::{
    definitions::{DeliveryTag as LockToken, MessageFormat},
    messaging::{
        AmqpValue, ApplicationProperties, Batch, Body, Data, Header, MessageId, Properties,
        annotations::{Annotations, OwnedKey},
        message::__private::Serializable,
    },
    primitives::{Binary, SimpleValue, Symbol, Timestamp, Value},
};
use time::OffsetDateTime;

use super::{BusError, Delivery, DeliveryTag, Message};

type AmqpMessage<B> = fe2o3_amqp_types::messaging::Message<B>;

/// Marks a batch: each data section is a message.
const BATCH_FORMAT: MessageFormat = 0x8001_3700;

/// Cap of a batch when the link names none: Service Bus takes batches of up to 1 MB, whatever single messages may be.
const BATCH_BYTES_MAX: u64 = 1024 * 1024;

/// What a data section adds to its bytes: descriptor (3), constructor (1), length (4).
const DATA_SECTION_OVERHEAD: u64 = 8;

/// How large a transfer on a link may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// One message.
    pub(super) message: u64,
    /// One batch.
    pub(super) batch: u64,
}

impl Limits {
    /// From what the broker said at attach: `max-message-size` and `com.microsoft:max-message-batch-size`.
    pub(super) fn new(max_message_size: Option<u64>, max_batch_size: Option<u64>) -> Self {
        let message = max_message_size.unwrap_or(u64::MAX);
        let batch = max_batch_size.filter(|size| *size > 0).unwrap_or(BATCH_BYTES_MAX).min(message);
        Self { message, batch }
    }
}

/// Some messages as one transfer.
#[derive(Debug)]
pub(super) struct Transfer {
    pub(super) sendable: Sendable<Batch<Data>>,
    /// Of the first message: names the transfer in errors.
    pub(super) message_id: String,
}

/// Packs messages, in order, into as few transfers as the limits allow. One message alone goes as itself.
pub(super) fn pack(
    messages: &[Message],
    limits: Limits,
    entity: &str,
    now: OffsetDateTime,
) -> Result<Vec<Transfer>, BusError> {
    let mut transfers = Vec::new();
    let mut open = Open::default();
    for message in messages {
        let encoded = encode(&to_amqp(message, now), entity)?;
        let size = encoded.len() as u64;
        if size > limits.message {
            return Err(BusError::TooLarge {
                entity: entity.to_owned(),
                message_id: message.message_id.clone(),
                problem: format!("{size} bytes, the entity takes {}; send less in one message", limits.message),
            });
        }
        let section = size + DATA_SECTION_OVERHEAD;
        if !open.sections.is_empty() && open.bytes + section > limits.batch {
            transfers.push(std::mem::take(&mut open).close(now));
        }
        if open.sections.is_empty() {
            open.bytes = envelope_size(message, entity)?;
            open.first = Some(message);
        }
        open.bytes += section;
        open.sections.push(encoded);
    }
    if !open.sections.is_empty() {
        transfers.push(open.close(now));
    }
    Ok(transfers)
}

/// A transfer that may still take messages.
#[derive(Default)]
struct Open<'a> {
    first: Option<&'a Message>,
    sections: Vec<Vec<u8>>,
    bytes: u64,
}

impl Open<'_> {
    fn close(self, now: OffsetDateTime) -> Transfer {
        let first = self.first.expect("a transfer is opened by its first message");
        let sendable = if self.sections.len() == 1 {
            Sendable::builder().message(to_amqp(first, now)).build()
        } else {
            let body = self.sections.into_iter().map(Data::from).collect();
            Sendable::builder().message(envelope(first, body)).message_format(BATCH_FORMAT).build()
        };
        Transfer { sendable, message_id: first.message_id.clone() }
    }
}

fn envelope(first: &Message, body: Batch<Data>) -> AmqpMessage<Batch<Data>> {
    let properties = (!first.message_id.is_empty())
        .then(|| Properties { message_id: Some(first.message_id.clone().into()), ..Properties::default() });
    AmqpMessage { properties, ..empty(body) }
}

fn envelope_size(first: &Message, entity: &str) -> Result<u64, BusError> {
    Ok(encode(&envelope(first, Batch::new(Vec::new())), entity)?.len() as u64)
}

fn encode(message: &AmqpMessage<Batch<Data>>, entity: &str) -> Result<Vec<u8>, BusError> {
    serde_amqp::to_vec(&Serializable(message)).map_err(|error| BusError::Rejected {
        entity: entity.to_owned(),
        problem: format!("the message cannot be encoded: {error}"),
    })
}

fn empty<B>(body: B) -> AmqpMessage<B> {
    AmqpMessage {
        header: None,
        delivery_annotations: None,
        message_annotations: None,
        properties: None,
        application_properties: None,
        body,
        footer: None,
    }
}

fn to_amqp(message: &Message, now: OffsetDateTime) -> AmqpMessage<Batch<Data>> {
    let created_at = message.created_at.unwrap_or(now);
    // The header's ttl ends at 49.7 days; `absolute-expiry-time` carries what is longer, as Microsoft's SDKs do.
    let (ttl, expires_at) = match message.time_to_live.map(|life| (u32::try_from(life.as_millis()), life)) {
        None => (None, None),
        Some((Ok(ttl), _)) => (Some(ttl), None),
        Some((Err(_), life)) => (Some(u32::MAX), Some(later(created_at, life))),
    };
    let text = |text: &str| (!text.is_empty()).then(|| MessageId::String(text.to_owned()));
    let properties = Properties {
        message_id: text(&message.message_id),
        correlation_id: message.correlation_id.as_deref().and_then(text),
        subject: message.subject.clone(),
        content_type: message.content_type.clone().map(Symbol::from),
        creation_time: Some(timestamp(created_at)),
        absolute_expiry_time: expires_at.map(timestamp),
        ..Properties::default()
    };
    let application_properties = (!message.properties.is_empty()).then(|| {
        let entries = message.properties.iter();
        ApplicationProperties(entries.map(|(key, value)| (key.clone(), SimpleValue::String(value.clone()))).collect())
    });
    AmqpMessage {
        header: ttl.map(|ttl| Header { ttl: Some(ttl), ..Header::default() }),
        properties: Some(properties),
        application_properties,
        ..empty(Batch::new(vec![Data(Binary::from(message.body.to_vec()))]))
    }
}

fn later(instant: OffsetDateTime, by: Duration) -> OffsetDateTime {
    time::Duration::try_from(by)
        .ok()
        .and_then(|by| instant.checked_add(by))
        .unwrap_or(time::PrimitiveDateTime::MAX.assume_utc())
}

/// AMQP counts milliseconds.
pub(super) fn timestamp(instant: OffsetDateTime) -> Timestamp {
    Timestamp::from_milliseconds(i64::try_from(instant.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX))
}

fn instant(timestamp: &Timestamp) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(timestamp.milliseconds()) * 1_000_000).ok()
}

/// What a consumer sees of a message.
pub(super) fn delivery(message: AmqpMessage<Body<Value>>, tag: DeliveryTag) -> Delivery {
    let annotations = message.message_annotations.map(|section| section.0).unwrap_or_default();
    let properties = message.properties.unwrap_or_default();
    let instant_at = |key| match annotation(&annotations, key) {
        Some(Value::Timestamp(at)) => instant(at),
        _ => None,
    };
    let sequence_number = match annotation(&annotations, "x-opt-sequence-number") {
        Some(Value::Long(number)) => *number,
        _ => 0,
    };
    Delivery {
        body: body(message.body),
        message_id: properties.message_id.map(id_text),
        subject: properties.subject,
        correlation_id: properties.correlation_id.map(id_text),
        content_type: properties.content_type.map(Symbol::into_inner),
        properties: message.application_properties.map(texts).unwrap_or_default(),
        sequence_number,
        enqueued_at: instant_at("x-opt-enqueued-time").unwrap_or(OffsetDateTime::UNIX_EPOCH),
        locked_until: instant_at("x-opt-locked-until"),
        delivery_count: message.header.map_or(0, |header| header.delivery_count),
        tag,
    }
}

/// A delivery whose sections break AMQP's rules, so that nothing of it can be read. The lock token tells it from others.
pub(super) fn undecodable(token: &LockToken, tag: DeliveryTag) -> Delivery {
    let mut number = [0; 8];
    for (to, from) in number.iter_mut().zip(token.iter()) {
        *to = *from;
    }
    Delivery {
        body: None,
        message_id: None,
        subject: None,
        correlation_id: None,
        content_type: None,
        properties: BTreeMap::new(),
        sequence_number: i64::from_be_bytes(number) | i64::MIN,
        enqueued_at: OffsetDateTime::UNIX_EPOCH,
        locked_until: None,
        delivery_count: 0,
        tag,
    }
}

fn annotation<'a>(annotations: &'a Annotations, key: &str) -> Option<&'a Value> {
    let is_key = |found: &OwnedKey| matches!(found, OwnedKey::Symbol(symbol) if symbol.as_str() == key);
    annotations.iter().find(|(found, _)| is_key(found)).map(|(_, value)| value)
}

fn body(body: Body<Value>) -> Option<Bytes> {
    match body {
        Body::Data(sections) => {
            let mut sections: Vec<Vec<u8>> = sections.into_iter().map(|data| data.0.into_vec()).collect();
            match sections.len() {
                0 => None,
                1 => sections.pop().map(Bytes::from),
                _ => Some(Bytes::from(sections.concat())),
            }
        }
        Body::Value(AmqpValue(Value::String(text))) => Some(Bytes::from(text)),
        Body::Value(AmqpValue(Value::Binary(bytes))) => Some(Bytes::from(bytes.into_vec())),
        Body::Value(_) | Body::Sequence(_) | Body::Empty => None,
    }
}

fn id_text(id: MessageId) -> String {
    match id {
        MessageId::String(text) => text,
        MessageId::Ulong(number) => number.to_string(),
        MessageId::Uuid(id) => uuid::Uuid::from_bytes(id.into_inner()).to_string(),
        MessageId::Binary(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

fn texts(properties: ApplicationProperties) -> BTreeMap<String, String> {
    properties.0.into_iter().filter_map(|(key, value)| Some((key, simple_text(value)?))).collect()
}

fn simple_text(value: SimpleValue) -> Option<String> {
    Some(match value {
        SimpleValue::String(text) => text,
        SimpleValue::Symbol(text) => text.into_inner(),
        SimpleValue::Char(char) => char.to_string(),
        SimpleValue::Uuid(id) => uuid::Uuid::from_bytes(id.into_inner()).to_string(),
        SimpleValue::Bool(value) => value.to_string(),
        SimpleValue::Ubyte(value) => value.to_string(),
        SimpleValue::Ushort(value) => value.to_string(),
        SimpleValue::Uint(value) => value.to_string(),
        SimpleValue::Ulong(value) => value.to_string(),
        SimpleValue::Byte(value) => value.to_string(),
        SimpleValue::Short(value) => value.to_string(),
        SimpleValue::Int(value) => value.to_string(),
        SimpleValue::Long(value) => value.to_string(),
        SimpleValue::Float(value) => value.to_string(),
        SimpleValue::Double(value) => value.to_string(),
        SimpleValue::Null
        | SimpleValue::Decimal32(_)
        | SimpleValue::Decimal64(_)
        | SimpleValue::Decimal128(_)
        | SimpleValue::Timestamp(_)
        | SimpleValue::Binary(_)
        | SimpleValue::Described(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use fe2o3_amqp_types::{
        messaging::{AmqpSequence, DeliveryAnnotations, MessageAnnotations, message::__private::Deserializable},
        primitives::Uuid,
    };
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-23 10:00:00.123 UTC);
    const SMALL: Limits = Limits { message: 2048, batch: 1000 };

    fn message(id: &str, body: &str) -> Message {
        Message { body: Bytes::from(body.to_owned()), message_id: id.to_owned(), ..Message::default() }
    }

    fn payload(transfer: &Transfer) -> Vec<u8> {
        encode(&transfer.sendable.message, "exports").unwrap()
    }

    fn decode(bytes: &[u8]) -> AmqpMessage<Body<Value>> {
        serde_amqp::from_slice::<Deserializable<AmqpMessage<Body<Value>>>>(bytes).unwrap().0
    }

    fn tag() -> DeliveryTag {
        DeliveryTag { link: 0, id: 0 }
    }

    /// The messages of a transfer, as a broker takes it apart.
    fn unpack(transfer: &Transfer) -> Vec<Delivery> {
        let whole = decode(&payload(transfer));
        match (transfer.sendable.message_format, whole.body) {
            (BATCH_FORMAT, Body::Data(sections)) => {
                sections.into_iter().map(|section| delivery(decode(&section.0), tag())).collect()
            }
            (0, body) => vec![delivery(AmqpMessage { body, ..decode(&payload(transfer)) }, tag())],
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_message_arrives_as_it_was_sent() {
        let sent = Message {
            body: Bytes::from_static(b"{\"blobType\":\"Product\"}"),
            message_id: "id-1".to_owned(),
            correlation_id: Some("corr".to_owned()),
            subject: Some("Product".to_owned()),
            content_type: Some("application/json".to_owned()),
            created_at: None,
            time_to_live: Some(Duration::from_secs(60)),
            properties: BTreeMap::from([("blobType".to_owned(), "Pro\u{fc}duct".to_owned())]),
        };
        let transfers = pack(std::slice::from_ref(&sent), SMALL, "exports", NOW).unwrap();
        assert_eq!(transfers[0].sendable.message_format, 0, "a message alone is no batch");
        let amqp = decode(&payload(&transfers[0]));
        assert_eq!(amqp.header.as_ref().unwrap().ttl, Some(60_000));
        let creation = amqp.properties.as_ref().unwrap().creation_time.clone().unwrap();
        assert_eq!(instant(&creation), Some(NOW));

        let received = unpack(&transfers[0]).pop().unwrap();
        assert_eq!(received.body, Some(sent.body));
        assert_eq!(received.message_id.as_deref(), Some("id-1"));
        assert_eq!(received.correlation_id.as_deref(), Some("corr"));
        assert_eq!(received.subject.as_deref(), Some("Product"));
        assert_eq!(received.content_type.as_deref(), Some("application/json"));
        assert_eq!(received.properties, sent.properties);
    }

    #[test]
    fn batches_fill_up_to_the_limit_and_keep_the_order() {
        let sent: Vec<Message> = (0..40).map(|n| message(&format!("m{n}"), &"x".repeat(n * 7 % 300))).collect();
        let transfers = pack(&sent, SMALL, "exports", NOW).unwrap();
        let sizes: Vec<u64> = transfers.iter().map(|transfer| payload(transfer).len() as u64).collect();
        assert!(sizes.iter().all(|size| *size <= SMALL.batch), "{sizes:?}");
        // No two neighbours would have fitted into one: the packing wastes less than one message each.
        let largest = 300 + 100;
        assert!(sizes.iter().rev().skip(1).all(|size| *size + largest > SMALL.batch), "{sizes:?}");
        let ids: Vec<String> = transfers.iter().flat_map(unpack).map(|delivery| delivery.message_id.unwrap()).collect();
        assert_eq!(ids, sent.iter().map(|message| message.message_id.clone()).collect::<Vec<_>>());
        let envelope = decode(&payload(&transfers[0]));
        assert_eq!(envelope.properties.unwrap().message_id, Some(MessageId::String("m0".to_owned())));
    }

    #[test]
    fn a_batch_of_exactly_the_limit_is_one_and_one_byte_more_is_two() {
        let sent = [message("a", &"x".repeat(300)), message("b", &"y".repeat(300))];
        let size = payload(&pack(&sent, SMALL, "exports", NOW).unwrap()[0]).len() as u64;
        let pack_into = |batch| pack(&sent, Limits { batch, ..SMALL }, "exports", NOW).unwrap().len();
        assert_eq!(pack_into(size), 1);
        assert_eq!(pack_into(size - 1), 2);
    }

    #[test]
    fn a_small_body_never_makes_a_batch_larger_than_planned() {
        // Sections up to 255 bytes have a shorter constructor, so the plan is an upper bound.
        let sent = [message("a", ""), message("b", "")];
        let transfers = pack(&sent, SMALL, "exports", NOW).unwrap();
        assert_eq!(transfers.len(), 1);
        assert_eq!(unpack(&transfers[0]).len(), 2);
    }

    #[test]
    fn a_message_beyond_the_limit_is_named_before_anything_is_sent() {
        let sent = [message("fits", "x"), message("huge", &"x".repeat(3000))];
        let error = pack(&sent, SMALL, "exports", NOW).unwrap_err();
        assert!(error.had_no_effect());
        assert!(error.to_string().starts_with("exports: message huge is too large: 30"), "{error}");
    }

    #[test]
    fn a_message_too_large_for_a_batch_goes_alone() {
        let sent = [message("a", "x"), message("b", &"x".repeat(1500)), message("c", "x"), message("d", "x")];
        let transfers = pack(&sent, SMALL, "exports", NOW).unwrap();
        let shapes: Vec<(u32, usize)> =
            transfers.iter().map(|transfer| (transfer.sendable.message_format, unpack(transfer).len())).collect();
        assert_eq!(shapes, [(0, 1), (0, 1), (BATCH_FORMAT, 2)]);
    }

    #[test]
    fn limits_come_from_the_attach() {
        assert_eq!(Limits::new(Some(262_144), None), Limits { message: 262_144, batch: 262_144 });
        assert_eq!(Limits::new(Some(100 << 20), None), Limits { message: 100 << 20, batch: 1 << 20 });
        assert_eq!(Limits::new(Some(100 << 20), Some(500)), Limits { message: 100 << 20, batch: 500 });
        assert_eq!(Limits::new(None, Some(0)), Limits { message: u64::MAX, batch: 1 << 20 });
    }

    #[test]
    fn a_life_longer_than_the_header_can_say_goes_into_the_expiry_time() {
        let days = |days: u64| Message { time_to_live: Some(Duration::from_hours(days * 24)), ..message("a", "x") };
        let of = |message: &Message| {
            let amqp = to_amqp(message, NOW);
            (
                amqp.header.unwrap().ttl.unwrap(),
                amqp.properties.unwrap().absolute_expiry_time.as_ref().and_then(instant),
            )
        };
        assert_eq!(of(&days(49)), (49 * 24 * 3_600_000, None));
        assert_eq!(of(&days(90)), (u32::MAX, Some(NOW + time::Duration::days(90))));
        assert!(of(&Message { time_to_live: Some(Duration::MAX), ..message("a", "x") }).1.is_some());
    }

    fn received(body: Body<Value>) -> Delivery {
        delivery(empty(body), tag())
    }

    #[test]
    fn any_body_of_text_or_bytes_is_read_and_others_are_told() {
        let bytes = |text: &str| Some(Bytes::from(text.to_owned()));
        let data = |parts: &[&[u8]]| Body::Data(parts.iter().map(|part| Data::from(*part)).collect());
        assert_eq!(received(data(&[b"one"])).body, bytes("one"));
        assert_eq!(received(data(&[b"one", b"", b"two"])).body, bytes("onetwo"));
        assert_eq!(received(data(&[b""])).body, bytes(""));
        assert_eq!(received(Body::Value(AmqpValue(Value::String("text".to_owned())))).body, bytes("text"));
        assert_eq!(received(Body::Value(AmqpValue(Value::Binary(Binary::from(b"bin".to_vec()))))).body, bytes("bin"));
        assert_eq!(received(Body::Value(AmqpValue(Value::Int(7)))).body, None);
        assert_eq!(received(Body::Sequence(Batch::new(vec![AmqpSequence(vec![Value::Int(7)])]))).body, None);
        assert_eq!(received(Body::Empty).body, None);
    }

    #[test]
    fn annotations_and_header_of_the_broker_are_read() {
        let entry = |key: &str, value| (OwnedKey::from(key), value);
        let at = |instant| Value::Timestamp(timestamp(instant));
        let amqp = AmqpMessage {
            header: Some(Header { delivery_count: 3, ..Header::default() }),
            delivery_annotations: Some(DeliveryAnnotations(Annotations::new())),
            message_annotations: Some(MessageAnnotations(
                [
                    entry("x-opt-sequence-number", Value::Long(77)),
                    entry("x-opt-enqueued-time", at(NOW)),
                    entry("x-opt-locked-until", at(NOW + time::Duration::SECOND)),
                    (OwnedKey::Ulong(5), Value::Null),
                ]
                .into_iter()
                .collect(),
            )),
            ..empty(Body::Data(Batch::new(vec![Data::from(b"x".to_vec())])))
        };
        let delivery = delivery(amqp, tag());
        assert_eq!((delivery.sequence_number, delivery.delivery_count), (77, 3));
        assert_eq!(delivery.enqueued_at, NOW);
        assert_eq!(delivery.locked_until, Some(NOW + time::Duration::SECOND));
    }

    #[test]
    fn an_id_of_any_type_becomes_text() {
        assert_eq!(id_text(MessageId::Ulong(12)), "12");
        assert_eq!(id_text(MessageId::Binary(Binary::from(vec![0, 0xab]))), "00ab");
        let uuid = uuid::Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef);
        assert_eq!(id_text(MessageId::Uuid(Uuid::from(*uuid.as_bytes()))), uuid.to_string());
    }

    #[test]
    fn application_properties_become_text_and_what_has_none_is_left_out() {
        let entry = |key: &str, value| (key.to_owned(), value);
        let entries = [
            entry("text", SimpleValue::String("a".to_owned())),
            entry("symbol", SimpleValue::Symbol(Symbol::from("b"))),
            entry("bool", SimpleValue::Bool(true)),
            entry("long", SimpleValue::Long(-5)),
            entry("double", SimpleValue::Double(1.5.into())),
            entry("null", SimpleValue::Null),
            entry("when", SimpleValue::Timestamp(timestamp(NOW))),
        ];
        let texts = texts(ApplicationProperties(entries.into_iter().collect()));
        let expected = [("bool", "true"), ("double", "1.5"), ("long", "-5"), ("symbol", "b"), ("text", "a")];
        assert_eq!(texts, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn deliveries_that_cannot_be_decoded_are_told_apart_by_their_lock_tokens() {
        let of = |token: u128| undecodable(&LockToken::from(token.to_be_bytes().to_vec()), tag()).sequence_number;
        assert!(of(1 << 70) < 0 && of(1 << 71) < 0);
        assert_ne!(of(1 << 70), of(1 << 71));
        assert!(undecodable(&LockToken::from(vec![1]), tag()).body.is_none());
    }
}
