//! What the fuzz targets in `fuzz/` call. Not part of the public interface.

use std::sync::Arc;

use time::OffsetDateTime;
use tokio::time::Instant;

use crate::amqp::EndpointOptions;
use crate::amqp::connection::Engine;
use crate::amqp::encode::{Compound, Write as _};
use crate::amqp::frame::{self, AMQP_HEADER, Kind, SASL_HEADER};
use crate::amqp::message::Message;
use crate::amqp::performative as p;
use crate::broker::filter::View;
use crate::broker::{Broker, Moment, QueueOptions, SqlFilter, TopicOptions};
use crate::keys::Keys;

/// Output that is waiting beyond this means that a buffer grows without bound.
const OUTPUT_MAX: usize = 4 * 1024 * 1024;

/// Where the clock stands, in seconds since 1970.
const NOW: i64 = 1_795_000_000;

/// Bytes to a new connection. The first byte says how they get there: 0 and 1 as they are, from the start or to a client that
/// has opened; otherwise each is a frame's body, with its length before it (two bytes after 3, else one), to a client with a
/// token and links.
///
/// # Panics
/// When the engine takes more than it was given, or its output grows without bound.
pub fn frames(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    let mut connection = Connection::new();
    match mode {
        0 => connection.feed(rest),
        1 => {
            connection.open();
            connection.feed(rest);
        }
        _ => {
            connection.open();
            connection.attach_all();
            let mut bytes = Vec::new();
            let mut rest = rest;
            while let Some((length, after)) = if *mode == 3 { long(rest) } else { short(rest) } {
                let (body, after) = after.split_at(length.min(after.len()));
                frame::write(&mut bytes, Kind::Amqp, 0, |out| out.extend_from_slice(body));
                rest = after;
            }
            connection.feed(&bytes);
        }
    }
}

fn short(bytes: &[u8]) -> Option<(usize, &[u8])> {
    bytes.split_first().map(|(length, after)| (usize::from(*length), after))
}

fn long(bytes: &[u8]) -> Option<(usize, &[u8])> {
    bytes.split_first_chunk().map(|(length, after)| (usize::from(u16::from_be_bytes(*length)), after))
}

/// Text to the parser of SQL filters; what it takes is evaluated for two messages.
///
/// # Panics
/// When an error points outside of the expression.
pub fn sql_filter(data: &[u8]) {
    let expression = String::from_utf8_lossy(data);
    match SqlFilter::new(&expression) {
        Ok(filter) => {
            for message in [Message::read(&[]), Message::read(&message())].into_iter().flatten() {
                let _truth = filter.matches(&View::new(&message, Moment(NOW * 1_000)));
            }
        }
        Err(error) => {
            let lines = expression.split('\n').count();
            assert!((1..=lines).contains(&error.line), "{error}");
            let line = expression.split('\n').nth(error.line - 1).unwrap_or_default();
            assert!((1..=line.chars().count() + 1).contains(&error.column), "{error}");
        }
    }
}

/// A message with a property of each kind, named by single letters.
fn message() -> Vec<u8> {
    let mut out = Vec::new();
    out.described_list(0x73, |list| {
        list.text("id");
        list.null();
        list.text("to");
        list.text("label");
    });
    out.extend([0x00, 0x53, 0x74]);
    out.map(|map| {
        map.text("a");
        map.int(1);
        map.text("b");
        map.text("text");
        map.text("c");
        map.bool(true);
        map.text("d");
        map.raw(&[0x82, 0x3f, 0xe0, 0, 0, 0, 0, 0, 0]);
        map.text("e");
        map.timestamp(NOW * 1_000);
        map.text("f");
        map.null();
        map.text("g");
        map.long(i64::MIN);
    });
    out
}

/// A connection to a broker of its own, on a clock that stands still.
struct Connection {
    engine: Engine,
    keys: Arc<Keys>,
    at: Instant,
}

impl Connection {
    fn new() -> Self {
        let now = || OffsetDateTime::from_unix_timestamp(NOW).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let broker = Broker::new(Arc::new(now));
        broker.add_queue("jobs", QueueOptions::default()).expect("the broker is empty");
        broker.add_topic("exports", TopicOptions::default()).expect("the name is free");
        broker.add_subscription("exports", "acme", QueueOptions::default()).expect("the topic was made");
        let (keys, at) = (Arc::new(Keys::emulator()), Instant::now());
        let engine = Engine::new(Arc::new(broker), Arc::clone(&keys), EndpointOptions::default(), at);
        Self { engine, keys, at }
    }

    /// As a socket would, with turns between; output is read like by a client that keeps up.
    fn feed(&mut self, bytes: &[u8]) {
        let mut waiting = Vec::new();
        for piece in bytes.chunks(512) {
            waiting.extend_from_slice(piece);
            let used = self.engine.consume(&waiting, self.at);
            assert!(used <= waiting.len(), "the engine took more than it was given");
            waiting.drain(..used);
            self.engine.turn(self.at);
            let output = self.engine.output().len();
            assert!(output < OUTPUT_MAX, "{output} bytes of output");
            self.engine.wrote(output, self.at);
        }
    }

    fn frame(&mut self, code: u8, payload: &[u8], write: impl FnOnce(&mut Compound<'_>)) {
        let mut bytes = Vec::new();
        frame::write(&mut bytes, Kind::Amqp, 0, |out| {
            out.described_list(code, write);
            out.extend_from_slice(payload);
        });
        self.feed(&bytes);
    }

    /// Up to a session on channel 0.
    fn open(&mut self) {
        let mut bytes = SASL_HEADER.to_vec();
        frame::write(&mut bytes, Kind::Sasl, 0, |out| out.described_list(0x41, |list| list.symbol("ANONYMOUS")));
        bytes.extend(AMQP_HEADER);
        self.feed(&bytes);
        self.frame(p::OPEN, &[], |list| {
            list.text("fuzz");
            list.text("localhost");
        });
        self.frame(p::BEGIN, &[], |list| {
            list.null();
            list.uint(0);
            list.uint(2_048);
            list.uint(2_048);
        });
    }

    /// A token for everything, and links: `jobs` on 1 (sends) and 2 (receives), its `$management` on 3 and 4, that of `acme`
    /// on 5 and 6, `exports` on 7 (sends).
    fn attach_all(&mut self) {
        self.attach(100, "$cbs", true);
        self.attach(101, "$cbs", false);
        let token = self.keys.root_bus_token("localhost", "", NOW + 3_600);
        let mut request = Vec::new();
        request.described_list(0x73, |list| list.ulong(1));
        request.extend([0x00, 0x53, 0x74]);
        request.map(|map| {
            for (key, value) in [("operation", "put-token"), ("name", "sb://localhost/")] {
                map.text(key);
                map.text(value);
            }
        });
        request.extend([0x00, 0x53, 0x77]);
        request.text(&token);
        self.transfer(101, &request);
        self.attach(1, "jobs", false);
        self.attach(2, "jobs", true);
        self.attach(3, "jobs/$management", false);
        self.attach(4, "jobs/$management", true);
        self.attach(5, "exports/subscriptions/acme/$management", false);
        self.attach(6, "exports/subscriptions/acme/$management", true);
        self.attach(7, "exports", false);
        let sent = message();
        self.transfer(1, &sent);
    }

    fn attach(&mut self, handle: u32, address: &str, receives: bool) {
        self.frame(p::ATTACH, &[], |list| {
            list.text(&format!("link-{handle}"));
            list.uint(handle);
            list.bool(receives);
            list.null();
            list.null();
            list.described_list(0x28, |source| source.text(if receives { address } else { "client" }));
            list.described_list(0x29, |target| target.text(if receives { "client" } else { address }));
            list.null();
            list.null();
            list.uint(0);
        });
        if receives {
            self.frame(p::FLOW, &[], |list| {
                for value in [0, 2_048, 0, 2_048, handle, 0, 100] {
                    list.uint(value);
                }
            });
        }
    }

    fn transfer(&mut self, handle: u32, payload: &[u8]) {
        self.frame(p::TRANSFER, payload, |list| {
            list.uint(handle);
            list.uint(0);
            list.binary(b"tag");
            list.uint(0);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amqp::performative::TRANSFER;

    /// The targets are worth something only if they get this far.
    #[test]
    fn the_prepared_connection_is_served() {
        let mut connection = Connection::new();
        connection.open();
        connection.attach_all();
        assert!(connection.engine.ending().is_none());
        assert_eq!(connection.engine.unsettled(), 1, "the message was sent, and delivered to the receiver");
        let mut body = Vec::new();
        body.described_list(TRANSFER, |list| list.uint(7));
        let mut data = vec![2, u8::try_from(body.len()).unwrap()];
        data.extend(body);
        frames(&data);
        frames(&[&[3, 0], &data[1..]].concat());
        frames(&[]);
        frames(&[0, b'A', b'M']);
        frames(&[1, 0, 0, 0, 8, 2, 0, 0, 0]);
    }

    #[test]
    fn expressions_are_parsed_and_evaluated() {
        for expression in ["a = 1 AND b LIKE 't%'", "a =", "\n\n é", "g / -1 = g", "sys.Label IN ('label')"] {
            sql_filter(expression.as_bytes());
        }
        sql_filter(&[0xff, b'=', b'1']);
    }
}
