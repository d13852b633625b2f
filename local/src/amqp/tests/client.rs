//! A client whose frames are written by hand, over an engine without a socket.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use time::OffsetDateTime;
use tokio::time::Instant;
use uuid::Uuid;

use crate::amqp::codec::{Reader, Value};
use crate::amqp::connection::Engine;
use crate::amqp::encode::{Compound, Write};
use crate::amqp::frame::{self, AMQP_HEADER, Kind, SASL_HEADER};
use crate::amqp::{EndpointOptions, performative as p};
use crate::broker::{Broker, Now, QueueOptions, TopicOptions};
use crate::keys::Keys;

pub(super) const HOST: &str = "localhost";
pub(super) const LOCK: Duration = Duration::from_secs(10);

/// Where the tests' clock starts.
const START_MS: i64 = 1_795_000_000_000;

/// A namespace with a queue `jobs`, a topic `exports` and its subscription `acme`, on a clock that stands still.
pub(super) struct Bench {
    pub(super) broker: Arc<Broker>,
    pub(super) keys: Arc<Keys>,
    clock: Arc<AtomicI64>,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::with(QueueOptions { lock_duration: LOCK, ..QueueOptions::default() })
    }

    /// As [`Self::new`], on a clock that goes with tokio's.
    pub(super) fn ticking() -> Self {
        let start = Instant::now();
        let now = move || OffsetDateTime::from_unix_timestamp(START_MS / 1_000).unwrap() + start.elapsed();
        let clock = Arc::new(AtomicI64::new(START_MS));
        Self::on(clock, Arc::new(now), QueueOptions { lock_duration: LOCK, ..QueueOptions::default() })
    }

    pub(super) fn with(options: QueueOptions) -> Self {
        let clock = Arc::new(AtomicI64::new(START_MS));
        let shown = Arc::clone(&clock);
        let now = move || {
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(shown.load(Ordering::SeqCst)) * 1_000_000).unwrap()
        };
        Self::on(clock, Arc::new(now), options)
    }

    fn on(clock: Arc<AtomicI64>, now: Now, options: QueueOptions) -> Self {
        let broker = Broker::new(now);
        let topic = TopicOptions { max_message_bytes: options.max_message_bytes, ..TopicOptions::default() };
        broker.add_queue("jobs", options.clone()).unwrap();
        broker.add_topic("exports", topic).unwrap();
        broker.add_subscription("exports", "acme", options).unwrap();
        Self { broker: Arc::new(broker), keys: Arc::new(Keys::emulator()), clock }
    }

    pub(super) fn now_seconds(&self) -> i64 {
        self.clock.load(Ordering::SeqCst) / 1_000
    }

    /// A token of the root key for an entity, `""` being the namespace.
    pub(super) fn token(&self, entity: &str, life: i64) -> String {
        self.keys.root_bus_token(HOST, entity, self.now_seconds() + life)
    }

    /// A client before its first byte.
    pub(super) fn raw_client(&self) -> Client {
        self.client_with(EndpointOptions::default())
    }

    pub(super) fn client_with(&self, options: EndpointOptions) -> Client {
        let at = Instant::now();
        let engine = Engine::new(Arc::clone(&self.broker), Arc::clone(&self.keys), options, at);
        Client {
            engine,
            at,
            clock: Arc::clone(&self.clock),
            broker: Arc::clone(&self.broker),
            unread: Vec::new(),
            sent: Vec::new(),
            requests: 0,
        }
    }

    /// A client that is open, with a session on channel 0 and links to `$cbs` on handles 100 and 101.
    pub(super) fn client(&self) -> Client {
        let mut client = self.raw_client();
        client.handshake(65_536, None);
        client.begin(0, 2_048);
        client.cbs_links();
        client
    }

    /// As [`Self::client`], with a token for the whole namespace that lives for an hour.
    pub(super) fn trusted(&self) -> Client {
        let mut client = self.client();
        assert_eq!(client.put_token("", &self.token("", 3_600)), 202);
        client
    }
}

/// A frame that the engine wrote.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Got {
    pub(super) channel: u16,
    /// The descriptor; `None` for a heartbeat.
    pub(super) code: Option<u8>,
    pub(super) fields: Vec<Value>,
    pub(super) payload: Vec<u8>,
    /// Bytes of the whole frame.
    pub(super) size: usize,
}

impl Got {
    pub(super) fn field(&self, index: usize) -> &Value {
        self.fields.get(index).unwrap_or(&Value::Null)
    }

    pub(super) fn number(&self, index: usize) -> i64 {
        self.field(index).as_int().unwrap_or_else(|| panic!("field {index} of {self:?} is no number"))
    }

    /// Condition and text of the error in a field of a detach, end or close.
    pub(super) fn error(&self, index: usize) -> (String, String) {
        error_of(self.field(index)).unwrap_or_else(|| panic!("field {index} of {self:?} is no error"))
    }

    /// The outcome of a disposition: its descriptor, and the error within.
    pub(super) fn outcome(&self) -> (u64, Option<(String, String)>) {
        let Value::Described(state) = self.field(4) else { panic!("no state in {self:?}") };
        let (Value::Uint(code), fields) = &**state else { panic!("no outcome in {self:?}") };
        (*code, fields.elements().first().and_then(error_of))
    }
}

fn error_of(value: &Value) -> Option<(String, String)> {
    let Value::Described(error) = value else { return None };
    let fields = error.1.elements();
    Some((fields.first()?.as_text()?.to_owned(), fields.get(1)?.as_text()?.to_owned()))
}

/// A message as it was received.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) delivery_id: u32,
    pub(super) tag: Vec<u8>,
    pub(super) settled: bool,
    /// Section code and value, in order.
    pub(super) sections: Vec<(u64, Value)>,
    /// How many frames brought it.
    pub(super) frames: usize,
}

impl Received {
    pub(super) fn section(&self, code: u64) -> &Value {
        self.sections.iter().find(|(known, _)| *known == code).map_or(&Value::Null, |(_, value)| value)
    }

    pub(super) fn body(&self) -> String {
        match self.section(0x75) {
            Value::Binary(bytes) => String::from_utf8(bytes.clone()).unwrap(),
            other => panic!("no data section but {other:?}"),
        }
    }

    pub(super) fn delivery_count(&self) -> i64 {
        self.section(0x70).elements()[4].as_int().unwrap()
    }

    pub(super) fn annotation(&self, name: &str) -> &Value {
        self.section(0x72).get(name).unwrap_or(&Value::Null)
    }
}

/// Settles a delivery.
#[derive(Debug, Clone, Copy)]
pub(super) enum Give {
    Accepted,
    Released,
    Modified,
    Deferred,
    DeadLetter,
}

pub(super) struct Client {
    pub(super) engine: Engine,
    pub(super) at: Instant,
    clock: Arc<AtomicI64>,
    broker: Arc<Broker>,
    /// Output that is not a whole frame yet, or not looked at.
    pub(super) unread: Vec<u8>,
    /// Everything that was sent, so that it can be sent again over a socket.
    pub(super) sent: Vec<u8>,
    requests: u64,
}

impl Client {
    /// Bytes to the engine; the answer stays in the engine until it is taken.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
        let used = self.engine.consume(bytes, self.at);
        assert_eq!(used, bytes.len(), "whole frames are used up");
    }

    pub(super) fn frame(&mut self, channel: u16, code: u8, write: impl FnOnce(&mut Compound<'_>)) {
        self.frame_with(channel, code, &[], write);
    }

    pub(super) fn frame_with(&mut self, channel: u16, code: u8, payload: &[u8], write: impl FnOnce(&mut Compound<'_>)) {
        let mut bytes = Vec::new();
        frame::write(&mut bytes, Kind::Amqp, channel, |out| {
            out.described_list(code, write);
            out.extend_from_slice(payload);
        });
        self.bytes(&bytes);
    }

    /// Lets time pass, for the broker too.
    pub(super) fn pass(&mut self, time: Duration) {
        self.at += time;
        self.clock.fetch_add(i64::try_from(time.as_millis()).unwrap(), Ordering::SeqCst);
        self.broker.tick();
    }

    /// Lets the engine do what it has to, and takes its output, but for at most `most` bytes.
    pub(super) fn read(&mut self, most: usize) {
        self.engine.turn(self.at);
        let output = self.engine.output();
        let taken = output.len().min(most);
        self.unread.extend_from_slice(&output[..taken]);
        self.engine.wrote(taken, self.at);
    }

    /// All frames that the engine has for us.
    pub(super) fn take(&mut self) -> Vec<Got> {
        loop {
            let before = self.unread.len();
            self.read(usize::MAX);
            if self.unread.len() == before {
                return self.frames();
            }
        }
    }

    /// The whole frames among what was read.
    pub(super) fn frames(&mut self) -> Vec<Got> {
        frames_of(&mut self.unread)
    }

    /// All frames, and among them the only one of this kind.
    pub(super) fn expect(&mut self, code: u8) -> Got {
        let frames = self.take();
        let mut found: Vec<_> = frames.iter().filter(|got| got.code == Some(code)).cloned().collect();
        assert_eq!(found.len(), 1, "one frame {code:#x} in {frames:#?}");
        found.remove(0)
    }

    pub(super) fn handshake(&mut self, max_frame_size: u32, idle_ms: Option<u32>) {
        self.bytes(&SASL_HEADER);
        self.read(usize::MAX);
        assert_eq!(self.unread.drain(..8).collect::<Vec<_>>(), SASL_HEADER);
        assert_eq!(self.frames()[0].code, Some(0x40));
        let mut init = Vec::new();
        frame::write(&mut init, Kind::Sasl, 0, |out| {
            out.described_list(0x41, |list| {
                list.symbol("ANONYMOUS");
                list.binary(b"");
            });
        });
        self.bytes(&init);
        let outcome = self.expect(0x44);
        assert_eq!(outcome.number(0), 0);
        self.bytes(&AMQP_HEADER);
        self.read(usize::MAX);
        assert_eq!(self.unread.drain(..8).collect::<Vec<_>>(), AMQP_HEADER);
        self.frame(0, p::OPEN, |list| {
            list.text("tests");
            list.text("localhost");
            list.uint(max_frame_size);
            list.ushort(255);
            match idle_ms {
                Some(ms) => list.uint(ms),
                None => list.null(),
            }
        });
        self.expect(p::OPEN);
    }

    /// As [`Self::handshake`], with all that is said up to the end of it, whatever it is.
    pub(super) fn opened(&mut self) -> Vec<Got> {
        self.bytes(&AMQP_HEADER);
        self.read(usize::MAX);
        self.unread.drain(..8);
        self.frame(0, p::OPEN, |list| list.text("tests"));
        self.take()
    }

    pub(super) fn begin(&mut self, channel: u16, incoming_window: u32) -> Got {
        self.frame(channel, p::BEGIN, |list| {
            list.null();
            list.uint(0);
            list.uint(incoming_window);
            list.uint(2_048);
        });
        self.expect(p::BEGIN)
    }

    pub(super) fn cbs_links(&mut self) {
        self.attach_receiver(0, 100, "$cbs", 2);
        self.attach_sender(0, 101, "$cbs");
        self.credit(0, 100, 0, 1_000);
        self.take();
    }

    /// Puts a token and returns the status; its text is in [`Self::put_token_answer`].
    pub(super) fn put_token(&mut self, entity: &str, token: &str) -> i64 {
        self.put_token_answer(entity, token).0
    }

    pub(super) fn put_token_answer(&mut self, entity: &str, token: &str) -> (i64, String) {
        let name = format!("sb://{HOST}/{entity}");
        let answer = self.request(
            101,
            None,
            |map| {
                for (key, value) in [("operation", "put-token"), ("type", "jwt"), ("name", name.as_str())] {
                    map.text(key);
                    map.text(value);
                }
            },
            |out| out.text(token),
        );
        let properties = answer.section(0x74);
        let status = properties.get("status-code").and_then(Value::as_int).unwrap();
        (status, properties.get("status-description").and_then(Value::as_text).unwrap().to_owned())
    }

    /// Sends a request on a link and takes the answer.
    pub(super) fn request(
        &mut self,
        handle: u32,
        reply_to: Option<&str>,
        properties: impl FnOnce(&mut Compound<'_>),
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Received {
        self.requests += 1;
        let id = Uuid::from_u128(u128::from(self.requests));
        let mut message = Vec::new();
        message.described_list(0x73, |list| {
            list.uuid(id);
            list.null();
            list.null();
            list.null();
            match reply_to {
                Some(to) => list.text(to),
                None => list.null(),
            }
        });
        message.extend([0x00, 0x53, 0x74]);
        message.map(properties);
        message.extend([0x00, 0x53, 0x77]);
        body(&mut message);
        let delivery = 900_000 + u32::try_from(self.requests).unwrap();
        self.transfer(handle, delivery, &message);
        let mut received = self.receive();
        assert_eq!(received.len(), 1, "one answer");
        let answer = received.remove(0);
        assert_eq!(answer.section(0x73).elements()[5], Value::Uuid(id), "the answer names its request, in its type");
        answer
    }

    /// Attaches a link on which the client sends, and returns the answer.
    pub(super) fn attach_sender(&mut self, channel: u16, handle: u32, address: &str) -> Vec<Got> {
        self.frame(channel, p::ATTACH, |list| {
            list.text(&format!("link-{channel}-{handle}"));
            list.uint(handle);
            list.bool(false);
            list.ubyte(0);
            list.ubyte(0);
            list.described_list(0x28, |source| source.text("client"));
            list.described_list(0x29, |target| target.text(address));
            list.null();
            list.null();
            list.uint(0);
        });
        self.take()
    }

    /// Attaches a link on which the client receives; `snd_settle_mode` 0 is peek-lock, 1 receive and delete.
    pub(super) fn attach_receiver(
        &mut self,
        channel: u16,
        handle: u32,
        address: &str,
        snd_settle_mode: u8,
    ) -> Vec<Got> {
        self.frame(channel, p::ATTACH, |list| {
            list.text(&format!("link-{channel}-{handle}"));
            list.uint(handle);
            list.bool(true);
            list.ubyte(snd_settle_mode);
            list.ubyte(1);
            list.described_list(0x28, |source| source.text(address));
            list.described_list(0x29, |target| target.text("client"));
        });
        self.take()
    }

    /// Grants credit; nothing is taken yet.
    pub(super) fn credit(&mut self, channel: u16, handle: u32, delivery_count: u32, credit: u32) {
        self.flow(channel, handle, delivery_count, credit, false);
    }

    pub(super) fn flow(&mut self, channel: u16, handle: u32, delivery_count: u32, credit: u32, drain: bool) {
        self.flow_with_window(channel, Some(handle), delivery_count, credit, drain, None);
    }

    /// `window` is (next-incoming-id, incoming-window); without it a window that never ends.
    pub(super) fn flow_with_window(
        &mut self,
        channel: u16,
        handle: Option<u32>,
        delivery_count: u32,
        credit: u32,
        drain: bool,
        window: Option<(u32, u32)>,
    ) {
        let (next_incoming_id, incoming_window) = window.unwrap_or((0, 1_000_000));
        self.frame(channel, p::FLOW, |list| {
            list.uint(next_incoming_id);
            list.uint(incoming_window);
            list.uint(0);
            list.uint(2_048);
            if let Some(handle) = handle {
                list.uint(handle);
                list.uint(delivery_count);
                list.uint(credit);
                list.null();
                list.bool(drain);
            }
        });
    }

    /// Sends one delivery in one frame on channel 0.
    pub(super) fn transfer(&mut self, handle: u32, delivery_id: u32, payload: &[u8]) {
        self.transfer_part(handle, Some(delivery_id), 0, false, payload);
    }

    pub(super) fn transfer_part(
        &mut self,
        handle: u32,
        delivery_id: Option<u32>,
        format: u32,
        more: bool,
        payload: &[u8],
    ) {
        self.frame_with(0, p::TRANSFER, payload, |list| {
            list.uint(handle);
            match delivery_id {
                Some(id) => {
                    list.uint(id);
                    list.binary(&id.to_be_bytes());
                    list.uint(format);
                    list.bool(false);
                }
                None => {
                    for _ in 0..4 {
                        list.null();
                    }
                }
            }
            list.bool(more);
        });
    }

    /// Sends messages of these bodies on a link, and sees them accepted.
    pub(super) fn send(&mut self, handle: u32, bodies: &[&str]) {
        for (id, body) in (0..).zip(bodies) {
            self.transfer(handle, id, &message(body));
        }
        let accepted: i64 = self
            .take()
            .iter()
            .filter(|got| got.code == Some(p::DISPOSITION))
            .map(|got| {
                assert_eq!(got.outcome(), (0x24, None));
                got.number(2) - got.number(1) + 1
            })
            .sum();
        assert_eq!(accepted, i64::try_from(bodies.len()).unwrap());
    }

    /// What the engine counts as delivered on a link.
    pub(super) fn delivered(&self, handle: u32) -> u32 {
        self.engine.delivered(0, handle)
    }

    /// The deliveries that the engine has for us, and other frames aside.
    pub(super) fn receive(&mut self) -> Vec<Received> {
        let frames = self.take();
        deliveries(&frames)
    }

    /// Settles deliveries, `settled` false: the answer is still to be taken.
    pub(super) fn settle(&mut self, first: u32, last: u32, give: Give) {
        self.settle_with(first, last, false, Some(give));
    }

    pub(super) fn settle_with(&mut self, first: u32, last: u32, settled: bool, give: Option<Give>) {
        self.frame(0, p::DISPOSITION, |list| {
            list.bool(true);
            list.uint(first);
            list.uint(last);
            list.bool(settled);
            match give {
                None => list.null(),
                Some(Give::Accepted) => list.described_list(0x24, |_| {}),
                Some(Give::Released) => list.described_list(0x26, |_| {}),
                // JavaScript leaves delivery-failed null.
                Some(Give::Modified) => list.described_list(0x27, |list| list.null()),
                Some(Give::Deferred) => list.described_list(0x27, |list| {
                    list.null();
                    list.bool(true);
                }),
                // JavaScript writes the keys as strings, where AMQP asks for symbols.
                Some(Give::DeadLetter) => list.described_list(0x25, |list| {
                    list.described_list(0x1d, |list| {
                        list.symbol("com.microsoft:dead-letter");
                        list.null();
                        list.map(|map| {
                            map.text("DeadLetterReason");
                            map.text("bad");
                            map.text("DeadLetterErrorDescription");
                            map.text("very bad");
                            map.text("extra");
                            map.long(7);
                        });
                    });
                }),
            }
        });
    }
}

/// Takes the whole frames from the front of what was read.
pub(super) fn frames_of(unread: &mut Vec<u8>) -> Vec<Got> {
    let mut frames = Vec::new();
    let mut used = 0;
    while let Some(frame) = frame::split(&unread[used..], u32::MAX).unwrap() {
        let mut got =
            Got { channel: frame.channel, code: None, fields: Vec::new(), payload: Vec::new(), size: frame.size };
        if !frame.body.is_empty() {
            let mut reader = Reader::new(frame.body);
            got.code = Some(u8::try_from(reader.descriptor().unwrap()).unwrap());
            got.fields = reader.value().unwrap().elements().to_vec();
            got.payload = reader.rest().to_vec();
        }
        used += frame.size;
        frames.push(got);
    }
    unread.drain(..used);
    frames
}

/// A message with a message-id and one data section.
pub(super) fn message(body: &str) -> Vec<u8> {
    let mut out = Vec::new();
    out.described_list(0x73, |list| list.text(body));
    out.extend([0x00, 0x53, 0x75]);
    out.binary(body.as_bytes());
    out
}

/// Puts the frames of deliveries together.
pub(super) fn deliveries(frames: &[Got]) -> Vec<Received> {
    let mut received = Vec::new();
    let mut open: Option<(Got, Vec<u8>, usize)> = None;
    for frame in frames.iter().filter(|got| got.code == Some(p::TRANSFER)) {
        let (head, mut payload, count) = open.take().unwrap_or((frame.clone(), Vec::new(), 0));
        payload.extend_from_slice(&frame.payload);
        if *frame.field(5) == Value::Bool(true) {
            open = Some((head, payload, count + 1));
            continue;
        }
        let Value::Binary(tag) = head.field(2) else { panic!("no tag in {head:?}") };
        let mut sections = Vec::new();
        let mut reader = Reader::new(&payload);
        while !reader.is_empty() {
            sections.push((reader.descriptor().unwrap(), reader.value().unwrap()));
        }
        received.push(Received {
            delivery_id: u32::try_from(head.number(1)).unwrap(),
            tag: tag.clone(),
            settled: *head.field(4) == Value::Bool(true),
            sections,
            frames: count + 1,
        });
    }
    assert!(open.is_none(), "a delivery has no last frame");
    received
}
