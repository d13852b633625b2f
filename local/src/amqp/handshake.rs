//! How a connection begins: protocol headers, SASL, `open`; and what is said to whoever begins otherwise.

use std::time::Duration;

use tokio::time::Instant;

use super::codec::{Reader, Value};
use super::connection::{CHANNEL_MAX, CLOSING, Engine, FRAME_MAX, FRAME_MIN, Phase};
use super::context::scripted;
use super::frame::{AMQP_HEADER, Frame, Kind, SASL_HEADER};
use super::performative::{self as out, AmqpError, Open, read_sasl_init};
use crate::fault::BusEvent;
use crate::log::{printable, say};

const CONTAINER: &str = "waybill-local";

/// Heartbeats come no more often, whatever a client states: a thousand that state a millisecond would keep a core busy.
const HEARTBEAT_MIN: Duration = Duration::from_millis(20);

const MECHANISMS: [&str; 4] = ["MSSBCBS", "ANONYMOUS", "PLAIN", "EXTERNAL"];

impl Engine {
    pub(super) fn header(&mut self, input: &[u8], at: Instant) -> Option<usize> {
        let seen = input.get(..8).unwrap_or(input);
        if self.phase == Phase::Header && SASL_HEADER.starts_with(seen) {
            if seen.len() < 8 {
                return None;
            }
            self.cx.out.extend(SASL_HEADER);
            out::sasl_mechanisms(&mut self.cx.out, &MECHANISMS);
            self.phase = Phase::SaslInit;
        } else if AMQP_HEADER.starts_with(seen) {
            if seen.len() < 8 {
                return None;
            }
            self.cx.out.extend(AMQP_HEADER);
            self.phase = Phase::Open;
        } else {
            // Another protocol, or AMQP with TLS inside: the answer is the header that we do speak.
            let why = format!("the client began with '{}'; {}", seen.escape_ascii(), advice(seen));
            self.say_refused("amqp:connection:framing-error", &why);
            self.cx.out.extend(SASL_HEADER);
            self.phase = Phase::Over(at + CLOSING);
            return Some(input.len());
        }
        Some(8)
    }

    pub(super) fn sasl(&mut self, frame: &Frame<'_>, at: Instant) {
        let mechanism = match (frame.kind, read_sasl_init(frame.body)) {
            (Kind::Sasl, Ok(mechanism)) => mechanism,
            (Kind::Amqp, _) | (_, Err(_)) => {
                let error = AmqpError::new("amqp:connection:framing-error", "a sasl-init frame was expected");
                return self.fail(&error, at);
            }
        };
        // The response is not looked at: what a client may do is decided by the tokens that it puts.
        let known = MECHANISMS.contains(&mechanism);
        if !known {
            let why = format!(
                "the SASL mechanism '{}' is not known; use one of {}",
                printable(mechanism),
                MECHANISMS.join(", ")
            );
            self.say_refused("amqp:unauthorized-access", &why);
        }
        out::sasl_outcome(&mut self.cx.out, u8::from(!known));
        self.phase = if known { Phase::HeaderAfterSasl } else { Phase::Over(at + CLOSING) };
    }

    pub(super) fn open(&mut self, open: &Open<'_>, at: Instant) {
        let client = client_of(open);
        self.cx.peer.introduced(open.container_id, client.as_deref());
        say!(
            self.cx.lines(),
            info,
            "bus: connection opened",
            connection = self.cx.peer.id(),
            from = self.cx.peer.address(),
            container = %printable(open.container_id),
            client = client.as_deref().map(|client| tracing::field::display(printable(client)))
        );
        self.was_open = true;
        let peer_max = open.max_frame_size.clamp(FRAME_MIN, FRAME_MAX);
        self.cx.frame_max = usize::try_from(peer_max).expect("64 KiB fits");
        self.write_open();
        // At two fifths, so that a late timer is still before the half.
        self.heartbeat = open
            .idle_time_out_ms
            .filter(|ms| *ms > 0)
            .map(|ms| (Duration::from_millis(u64::from(ms)) * 2 / 5).max(HEARTBEAT_MIN));
        self.phase = Phase::Running;
        let to_do = self.cx.tell(BusEvent::Connect, "", None, "", 0, None);
        if let Some((refusal, _)) = to_do.and_then(|to_do| to_do.refuse) {
            self.fail(&scripted(refusal.condition()), at);
        }
    }

    pub(super) fn write_open(&mut self) {
        let idle = u32::try_from(self.options.idle_time_out.as_millis()).unwrap_or(u32::MAX);
        out::open(&mut self.cx.out, CONTAINER, FRAME_MAX, CHANNEL_MAX, idle);
    }
}

/// What to do about a client that begins like this.
fn advice(first: &[u8]) -> &'static str {
    if first.starts_with(b"AMQP\x02") {
        "it asks for TLS within AMQP: use amqps:// and the TLS port"
    } else if first.starts_with(b"AMQP") {
        "this is not AMQP 1.0 but another version, as RabbitMQ speaks it: use a client of Service Bus"
    } else {
        "this port speaks AMQP 1.0, bare or over WebSocket"
    }
}

/// The program, as a client names it in its properties: Microsoft's SDKs give a user-agent.
fn client_of(open: &Open<'_>) -> Option<String> {
    let Ok(properties @ Value::Map(_)) = Reader::new(open.properties?).value() else { return None };
    let text = |key| properties.get(key).and_then(Value::as_text);
    let product = || {
        let name = text("product")?;
        Some(text("version").map_or_else(|| name.to_owned(), |version| format!("{name}/{version}")))
    };
    text("user-agent").map(str::to_owned).or_else(product)
}
