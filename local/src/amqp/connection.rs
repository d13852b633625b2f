//! One connection without its socket: bytes in, bytes out, and what the broker, the tokens and the clock ask for.
//!
//! header ──► SASL ──► header ──► open ──► running ──► closing ──► over
//!
//! Nothing here waits. [`super::wire`] moves the bytes and the time; so a test, or a fuzzer, needs neither.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Display,
    io,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::address::Address;
use super::codec::{Reader, Value};
use super::frame::{self, AMQP_HEADER, Frame, Kind, SASL_HEADER};
use super::held::Held;
use super::performative::{self as out, AmqpError, Begin, Open, Performative, read_sasl_init};
use super::request::Answer;
use super::request::{Request, Spelling};
use super::session::{Failure, RequestBytes, Session};
use super::tokens::{Dead, Tokens};
use super::{EndpointOptions, TokenEnd, cbs, management, rules};
use crate::broker::queue::Handed;
use crate::broker::{Broker, Command, Cut, LinkKey, LinkRole, Moment, Peer, path_of};
use crate::fault::{About, BusEvent, Condition, Fate, Faults, ToDo};
use crate::keys::Keys;
use crate::log::{Lines, printable, say};

/// Largest frame that we take: what the three SDKs were tried with.
pub(crate) const FRAME_MAX: u32 = 65_536;

/// Highest channel.
const CHANNEL_MAX: u16 = 255;

/// Links of one connection: Azure's number (Azure/azure-sdk-for-net issue 18363).
const LINKS_MAX: usize = 4_999;

/// Smallest max-frame-size that a peer may state (AMQP 1.0 part 2, section 2.7.1).
const FRAME_MIN: u32 = 512;

/// Deliveries stop while so much waits to be written.
const OUT_SOFT: usize = 256 * 1024;

/// Reading stops while so much waits to be written: beyond deliveries, only answers to what was read come here.
const OUT_HARD: usize = OUT_SOFT + 1024 * 1024;

/// From the first byte to `open`.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(30);

/// How long a client has to agree to a `close`.
const CLOSING: Duration = Duration::from_secs(1);

/// How long one connection works before others have their turn.
const TURN_MAX: Duration = Duration::from_millis(10);

/// As far ahead as anybody looks.
const DAY: Duration = Duration::from_secs(86_400);

const CONTAINER: &str = "waybill-local";

const MECHANISMS: [&str; 4] = ["MSSBCBS", "ANONYMOUS", "PLAIN", "EXTERNAL"];

/// What sessions and links share of their connection.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) broker: Arc<Broker>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) peer: Arc<Peer>,
    pub(crate) tokens: Tokens,
    /// The broker's time, taken once per turn.
    pub(crate) now: Moment,
    /// Frames to write.
    pub(crate) out: Vec<u8>,
    /// Bytes of `out` that are written already.
    sent: usize,
    /// Largest frame to write.
    pub(crate) frame_max: usize,
    /// Links that may have something to send, each once.
    pub(crate) runnable: VecDeque<LinkKey>,
    pub(crate) held: Held,
    /// Empty between turns; kept for its allocation.
    pub(crate) handed: Vec<Handed>,
    serial: u64,
    /// Who is told what happens here.
    faults: Option<Arc<Faults>>,
    /// What a script wants the connection, a session or a link to meet, as soon as the frame at hand is done with.
    doom: Option<Doom>,
    /// How long a script lets the connection stand still.
    stall: Duration,
}

/// A fate, and whose it is.
#[derive(Debug, Clone, Copy)]
struct Doom {
    channel: u16,
    handle: u32,
    fate: Fate,
}

impl Context {
    /// Bytes of deliveries that may still be written.
    pub(crate) fn room(&self) -> usize {
        OUT_SOFT.saturating_sub(self.out.len() - self.sent)
    }

    /// Whether a script waits for an event of the bus: one load where there is none.
    pub(crate) fn has_scripts(&self) -> bool {
        self.faults.as_ref().is_some_and(|faults| faults.waits_for_bus())
    }

    /// Tells the scripts what happens on a link, and what they want done about it. What ends the link, its session or the
    /// connection comes to pass after the frame; the caller leaves the rest of its work undone then.
    pub(crate) fn happens(
        &mut self,
        event: BusEvent,
        (entity, role): (&str, LinkRole),
        (channel, handle): (u16, u32),
    ) -> Option<ToDo> {
        self.tell(event, entity, Some(role), "", channel, Some(handle))
    }

    fn tell(
        &mut self,
        event: BusEvent,
        entity: &str,
        role: Option<LinkRole>,
        operation: &str,
        channel: u16,
        handle: Option<u32>,
    ) -> Option<ToDo> {
        let faults = self.faults.as_ref().filter(|faults| faults.waits_for_bus())?;
        let link = handle.map(|handle| (channel, handle));
        let to_do = faults.on_bus(&About { event, entity, role, operation, connection: self.peer.id(), link });
        self.stall = self.stall.saturating_add(to_do.delay);
        if let Some(fate) = to_do.fate {
            self.doom = Some(Doom { channel, handle: handle.unwrap_or_default(), fate });
        }
        Some(to_do)
    }

    /// The connection is to be reset once the frame at hand is done with.
    pub(crate) fn reset_after(&mut self) {
        self.doom = Some(Doom { channel: 0, handle: 0, fate: Fate::Reset });
    }

    /// Whether something is to be met before the work goes on.
    pub(crate) fn is_struck(&self) -> bool {
        self.doom.is_some() || !self.stall.is_zero()
    }

    /// How much may be said in the log of what the client does.
    pub(crate) fn lines(&self) -> &Lines {
        self.broker.live().lines()
    }

    pub(crate) fn new_key(&mut self, channel: u16, handle: u32) -> LinkKey {
        self.serial += 1;
        LinkKey { channel, handle, serial: self.serial }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A protocol header is due; SASL may still come.
    Header,
    SaslInit,
    /// A protocol header is due after SASL.
    HeaderAfterSasl,
    Open,
    Running,
    /// We sent `close`; the client is to agree until then.
    Closing(Instant),
    /// Nothing more is read; what is to be written is written, until then.
    Over(Instant),
}

/// How the socket is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// In order.
    Close,
    /// With RST.
    Reset,
}

#[derive(Debug)]
pub(crate) struct Engine {
    cx: Context,
    options: EndpointOptions,
    phase: Phase,
    reset: bool,
    /// Nothing is done or written until then; what comes is left where it is read to.
    stalled_until: Option<Instant>,
    /// There may be input that was not taken: a stall is over, or a turn was.
    input_waits: bool,
    /// What comes is dropped, and nothing is written any more.
    swallows: bool,
    stopping: bool,
    was_open: bool,
    sessions: BTreeMap<u16, Session>,
    /// Half of the client's idle-time-out is not reached without a frame of ours.
    heartbeat: Option<Duration>,
    started: Instant,
    last_read: Instant,
    last_write: Instant,
    woken: Vec<LinkKey>,
    commands: Vec<Command>,
}

impl Engine {
    pub(crate) fn new(broker: Arc<Broker>, keys: Arc<Keys>, options: EndpointOptions, at: Instant) -> Self {
        let (now, faults) = (broker.now(), broker.live().faults());
        let held = Held::new(broker.live().held());
        let peer = broker.live().register(now);
        broker.changed();
        Self {
            cx: Context {
                broker,
                keys,
                peer,
                tokens: Tokens::default(),
                now,
                out: Vec::new(),
                sent: 0,
                frame_max: usize::try_from(FRAME_MIN).expect("512 fits"),
                runnable: VecDeque::new(),
                held,
                handed: Vec::new(),
                serial: 0,
                faults,
                doom: None,
                stall: Duration::ZERO,
            },
            options,
            phase: Phase::Header,
            reset: false,
            stalled_until: None,
            input_waits: false,
            swallows: false,
            stopping: false,
            was_open: false,
            sessions: BTreeMap::new(),
            heartbeat: None,
            started: at,
            last_read: at,
            last_write: at,
            woken: Vec::new(),
            commands: Vec::new(),
        }
    }

    pub(crate) fn peer(&self) -> &Arc<Peer> {
        &self.cx.peer
    }

    /// Deliveries that are remembered until they are settled.
    #[cfg(test)]
    pub(crate) fn unsettled(&self) -> usize {
        self.sessions.values().map(Session::unsettled).sum()
    }

    /// Bytes that the client makes us hold.
    #[cfg(test)]
    pub(crate) fn held_bytes(&self) -> usize {
        self.cx.held.bytes()
    }

    /// The delivery-count of a link on which the client receives.
    #[cfg(test)]
    pub(crate) fn delivered(&self, channel: u16, handle: u32) -> u32 {
        self.sessions.get(&channel).map_or(0, |session| session.delivery_count(handle))
    }

    /// What is to be written next.
    pub(crate) fn output(&self) -> &[u8] {
        if self.stalled_until.is_some() || self.swallows { &[] } else { self.unsent() }
    }

    fn unsent(&self) -> &[u8] {
        self.cx.out.get(self.cx.sent..).unwrap_or_default()
    }

    /// Whether input that was there before is to be given again.
    pub(crate) fn input_waits(&self) -> bool {
        self.input_waits
    }

    /// So many bytes of [`Self::output`] were written.
    pub(crate) fn wrote(&mut self, bytes: usize, at: Instant) {
        if bytes == 0 {
            return;
        }
        let cx = &mut self.cx;
        cx.sent += bytes;
        if cx.sent >= cx.out.len() {
            cx.out.clear();
            cx.sent = 0;
            // One large message must not be paid for by an idle connection.
            cx.out.shrink_to(OUT_SOFT);
        } else if cx.sent >= OUT_SOFT {
            cx.out.drain(..cx.sent);
            cx.sent = 0;
        }
        self.last_write = at;
    }

    /// Whether input is wanted: not while a client that does not read has too much waiting.
    pub(crate) fn wants_input(&self) -> bool {
        let takes = !matches!(self.phase, Phase::Over(_)) && self.unsent().len() < OUT_HARD;
        self.swallows || takes
    }

    /// The socket ended in the middle, or brought what is not for it to bring.
    pub(crate) fn broke(&self, error: &io::Error) {
        let text = error.to_string();
        if error.kind() == io::ErrorKind::InvalidData {
            self.say_refused("amqp:connection:framing-error", &printable(&text));
        } else {
            tracing::debug!(connection = self.cx.peer.id(), why = %printable(&text), "a connection broke");
        }
    }

    /// How the socket is to end now, if it is.
    pub(crate) fn ending(&self) -> Option<Ending> {
        if self.reset {
            return Some(Ending::Reset);
        }
        (matches!(self.phase, Phase::Over(_)) && self.unsent().is_empty() && !self.swallows).then_some(Ending::Close)
    }

    /// When [`Self::turn`] must be called at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        if let Some(until) = self.stalled_until {
            return until;
        }
        match self.phase {
            // It ends with its client.
            _ if self.swallows => Instant::now() + DAY,
            Phase::Header | Phase::SaslInit | Phase::HeaderAfterSasl | Phase::Open => self.started + HANDSHAKE,
            Phase::Closing(until) | Phase::Over(until) => until,
            Phase::Running => {
                let mut next = self.last_read + self.idle_limit();
                if let Some(heartbeat) = self.heartbeat {
                    next = next.min(self.last_write + heartbeat);
                }
                if let Some(expiry) = self.cx.tokens.next_expiry() {
                    let left = Moment(expiry.saturating_mul(1_000)).since(self.cx.broker.now());
                    // A token that lives for years must not overflow the clock.
                    next = next.min(Instant::now() + left.min(DAY));
                }
                next
            }
        }
    }

    /// Frames must come within twice the time-out that we state (AMQP 1.0 part 2, section 2.4.5: state half of it).
    fn idle_limit(&self) -> Duration {
        self.options.idle_time_out * 2
    }

    /// Takes input, and returns how much of it was used up: all but an incomplete frame, unless others are to have their
    /// turn before.
    pub(crate) fn consume(&mut self, input: &[u8], at: Instant) -> usize {
        self.last_read = at;
        self.cx.now = self.cx.broker.now();
        self.input_waits = false;
        let (began, mut used) = (Instant::now(), 0);
        while !self.reset
            && self.stalled_until.is_none()
            && !self.input_waits
            && let Some(size) = self.step(input.get(used..).unwrap_or_default(), at)
        {
            used += size;
            self.meet(at);
            self.relieve(at);
            self.input_waits = began.elapsed() >= TURN_MAX;
        }
        for session in self.sessions.values_mut() {
            session.flush(&mut self.cx.out);
        }
        used
    }

    /// The client has ended its side. There is nobody any more who could be kept waiting: what it sent last is done.
    pub(crate) fn ended(&mut self, input: &[u8], at: Instant) {
        let mut used = 0;
        loop {
            self.stalled_until = None;
            match self.consume(input.get(used..).unwrap_or_default(), at) {
                0 => break,
                size => used += size,
            }
        }
    }

    fn step(&mut self, input: &[u8], at: Instant) -> Option<usize> {
        if input.is_empty() {
            return None;
        }
        match self.phase {
            _ if self.swallows => Some(input.len()),
            Phase::Over(_) => Some(input.len()),
            Phase::Header | Phase::HeaderAfterSasl => self.header(input, at),
            _ => match frame::split(input, FRAME_MAX) {
                Ok(None) => None,
                Ok(Some(frame)) => {
                    self.frame(&frame, at);
                    Some(frame.size)
                }
                Err(error) => {
                    self.fail(&AmqpError::new("amqp:connection:framing-error", error.to_string()), at);
                    // Nobody knows where the next frame starts.
                    Some(input.len())
                }
            },
        }
    }

    fn header(&mut self, input: &[u8], at: Instant) -> Option<usize> {
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

    fn frame(&mut self, frame: &Frame<'_>, at: Instant) {
        if self.phase == Phase::SaslInit {
            return self.sasl(frame, at);
        }
        if frame.kind == Kind::Sasl {
            let error = AmqpError::new("amqp:connection:framing-error", "a SASL frame after SASL was over");
            return self.fail(&error, at);
        }
        if frame.body.is_empty() {
            return;
        }
        let performative = match Performative::read(frame.body) {
            Ok(performative) => performative,
            Err(error) => return self.fail(&AmqpError::new("amqp:decode-error", error.to_string()), at),
        };
        match (self.phase, performative) {
            (Phase::Closing(_), Performative::Close) => self.phase = Phase::Over(at + CLOSING),
            // What was under way when we closed.
            (Phase::Closing(_), _) => {}
            (Phase::Open, Performative::Open(open)) => self.open(&open, at),
            (Phase::Open, _) => {
                self.fail(&AmqpError::new("amqp:not-allowed", "the first frame must be an open"), at);
            }
            (Phase::Running, Performative::Open(_)) => {
                self.fail(&AmqpError::new("amqp:not-allowed", "the connection is open already"), at);
            }
            (Phase::Running, Performative::Close) => {
                self.close_sessions();
                out::close(&mut self.cx.out, None);
                self.phase = Phase::Over(at + CLOSING);
            }
            (Phase::Running, Performative::Begin(begin)) => self.begin(frame.channel, &begin, at),
            (_, performative) => self.session_frame(frame.channel, &performative, at),
        }
    }

    fn sasl(&mut self, frame: &Frame<'_>, at: Instant) {
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

    fn open(&mut self, open: &Open<'_>, at: Instant) {
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
            .map(|ms| (Duration::from_millis(u64::from(ms)) * 2 / 5).max(Duration::from_millis(1)));
        self.phase = Phase::Running;
        let to_do = self.cx.tell(BusEvent::Connect, "", None, "", 0, None);
        if let Some((refusal, _)) = to_do.and_then(|to_do| to_do.refuse) {
            self.fail(&scripted(refusal.condition()), at);
        }
    }

    fn write_open(&mut self) {
        let idle = u32::try_from(self.options.idle_time_out.as_millis()).unwrap_or(u32::MAX);
        out::open(&mut self.cx.out, CONTAINER, FRAME_MAX, CHANNEL_MAX, idle);
    }

    fn begin(&mut self, channel: u16, begin: &Begin, at: Instant) {
        if channel > CHANNEL_MAX {
            let text = format!("channel {channel} exceeds the channel-max of {CHANNEL_MAX}");
            return self.fail(&AmqpError::new("amqp:connection:framing-error", text), at);
        }
        if self.sessions.contains_key(&channel) {
            let text = format!("channel {channel} has a session already");
            return self.fail(&AmqpError::new("amqp:not-allowed", text), at);
        }
        let session = Session::begin(channel, begin, &mut self.cx.out);
        self.sessions.insert(channel, session);
    }

    fn session_frame(&mut self, channel: u16, performative: &Performative<'_>, at: Instant) {
        let cx = &mut self.cx;
        if let Performative::Attach(attach) = performative {
            if self.sessions.values().map(|session| session.links().count()).sum::<usize>() >= LINKS_MAX {
                let failure = Failure::session("amqp:resource-limit-exceeded", too_many_links());
                return self.failed(channel, failure, at);
            }
            self.sessions.values_mut().for_each(|session| session.steal(cx, channel, attach));
        }
        let Some(session) = self.sessions.get_mut(&channel) else {
            let text = format!("a frame on channel {channel}, on which no session was begun");
            return self.fail(&AmqpError::new("amqp:not-allowed", text), at);
        };
        let ended = session.has_ended();
        let result = match performative {
            Performative::End => {
                session.flush(&mut cx.out);
                session.close_links(cx);
                if !ended {
                    out::end(&mut cx.out, channel, None);
                }
                self.sessions.remove(&channel);
                return;
            }
            _ if ended => return,
            Performative::Attach(attach) => session.attach(cx, attach),
            Performative::Flow(flow) => session.flow(cx, flow),
            Performative::Transfer(transfer) => match session.transfer(cx, transfer) {
                Ok(Some(request)) => return self.request(channel, &request, at),
                Ok(None) => Ok(()),
                Err(failure) => Err(failure),
            },
            Performative::Disposition(disposition) => session.disposition(cx, disposition),
            Performative::Detach(detach) => session.detach(cx, *detach),
            Performative::Open(_) | Performative::Begin(_) | Performative::Close => Ok(()),
        };
        if let Err(failure) = result {
            self.failed(channel, failure, at);
        }
    }

    fn failed(&mut self, channel: u16, failure: Failure, at: Instant) {
        let connection = self.cx.peer.id();
        match (failure, self.sessions.get_mut(&channel)) {
            (Failure::Link(handle, cause), Some(session)) => {
                let entity = session.entity_of(handle);
                say!(
                    self.cx.lines(),
                    warn,
                    "bus: link detached",
                    connection,
                    entity = %printable(&entity),
                    channel,
                    handle,
                    condition = cause.condition,
                    why = %printable(&cause.description)
                );
                session.cut(&mut self.cx, handle, &cause);
            }
            (Failure::Session(cause), Some(session)) => {
                say!(
                    self.cx.lines(),
                    warn,
                    "bus: session ended",
                    connection,
                    channel,
                    condition = cause.condition,
                    why = %printable(&cause.description)
                );
                session.end(&mut self.cx, &cause);
            }
            (Failure::Connection(cause) | Failure::Link(_, cause) | Failure::Session(cause), _) => {
                self.fail(&cause, at)
            }
        }
    }

    /// Answers a message to `$cbs` or `$management`.
    fn request(&mut self, channel: u16, bytes: &RequestBytes, at: Instant) {
        let request = match Request::read(&bytes.bytes) {
            Ok(request) => request,
            Err(error) => {
                return self.failed(channel, Failure::session(error.condition(), error.to_string()), at);
            }
        };
        let cx = &mut self.cx;
        let to_do = match &bytes.node {
            _ if !cx.has_scripts() => None,
            Address::Management { entity } => {
                let operation = request.property("operation").unwrap_or_default();
                cx.tell(BusEvent::Management, entity, None, operation, channel, None)
            }
            Address::Cbs | Address::Entity(_) => {
                let entity = path_of(request.property("name").unwrap_or_default());
                cx.tell(BusEvent::PutToken, &entity, None, "", channel, None)
            }
        }
        .unwrap_or_default();
        if to_do.fate.is_some() {
            return;
        }
        let refused = to_do.refuse.map(|(refusal, _)| {
            let condition = refusal.condition();
            Answer::refusal(condition.status(), condition.name(), condition.text())
        });
        let (answer, spelling) = match &bytes.node {
            Address::Management { entity } => {
                let ruled = || rules::answer(&request, entity, &cx.broker, &cx.tokens, cx.now);
                let answer = refused.or_else(ruled).unwrap_or_else(|| {
                    management::answer(&request, entity, cx.broker.node(entity), &cx.tokens, cx.now)
                });
                (answer, Spelling::Management)
            }
            Address::Cbs | Address::Entity(_) => {
                let answer =
                    refused.unwrap_or_else(|| cbs::answer(&request, &mut cx.tokens, &cx.keys, cx.now.seconds()));
                (answer, Spelling::Cbs)
            }
        };
        if answer.status >= 400 {
            let said = |name| request.property(name).map(|text| tracing::field::display(printable(text)));
            say!(
                cx.lines(),
                warn,
                "bus: request refused",
                connection = cx.peer.id(),
                node = %printable(&bytes.node.to_string()),
                operation = said("operation"),
                audience = said("name"),
                status = answer.status,
                why = %printable(&answer.description)
            );
        }
        match to_do.drop_answer {
            Some(true) => return cx.reset_after(),
            Some(false) => return,
            None => {}
        }
        let mut answer = request.answer(spelling, &answer);
        // The session of the request first: with several links to one node that is where its twin is.
        let others = self.sessions.keys().copied().filter(|other| *other != channel);
        let order: Vec<u16> = std::iter::once(channel).chain(others).collect();
        for channel in order {
            let Some(session) = self.sessions.get_mut(&channel).filter(|session| !session.has_ended()) else {
                continue;
            };
            match session.reply(&mut self.cx, &bytes.node, request.reply_to.as_deref(), &mut answer) {
                Ok(true) => return,
                Ok(false) => {}
                Err(failure) => return self.failed(channel, failure, at),
            }
        }
        tracing::debug!(connection = self.cx.peer.id(), "a request came without a link for its answer");
    }

    /// Closes the connection because of what the client did.
    fn fail(&mut self, cause: &AmqpError, at: Instant) {
        let (connection, condition, why) = (self.cx.peer.id(), cause.condition, printable(&cause.description));
        // Idleness, a stop and faults end connections in order; all else is a client's mistake.
        if condition == "amqp:connection:forced" {
            say!(self.cx.lines(), info, "bus: connection is closed", connection, condition, %why);
        } else {
            self.say_refused(condition, &why);
        }
        match self.phase {
            Phase::Header | Phase::SaslInit | Phase::HeaderAfterSasl => {
                out::sasl_outcome(&mut self.cx.out, 1);
                self.phase = Phase::Over(at + CLOSING);
                return;
            }
            // A close may only follow an open.
            Phase::Open => self.write_open(),
            Phase::Running => self.close_sessions(),
            Phase::Closing(_) => {
                self.phase = Phase::Over(at + CLOSING);
                return;
            }
            Phase::Over(_) => return,
        }
        out::close(&mut self.cx.out, Some(cause));
        self.phase = Phase::Closing(at + CLOSING);
    }

    /// Meets what scripts want of the connection, or of a part of it.
    fn meet(&mut self, at: Instant) {
        let stall = std::mem::take(&mut self.cx.stall);
        if !stall.is_zero() {
            self.stalled_until = Some(at.checked_add(stall).unwrap_or(at + DAY));
        }
        let Some(Doom { channel, handle, fate }) = self.cx.doom.take() else { return };
        match fate {
            Fate::Reset => self.reset = true,
            Fate::Blackhole => self.swallow(),
            Fate::Close(condition) => self.fail(&scripted(condition), at),
            Fate::End(condition) => self.failed(channel, Failure::Session(scripted(condition)), at),
            Fate::Detach(condition) => self.failed(channel, Failure::Link(handle, scripted(condition)), at),
        }
    }

    fn say_refused(&self, condition: &str, why: &dyn Display) {
        let (connection, from) = (self.cx.peer.id(), self.cx.peer.address());
        say!(self.cx.lines(), warn, "bus: connection refused", connection, from, condition, %why);
    }

    /// A client that makes us hold too much is let go.
    fn relieve(&mut self, at: Instant) {
        if self.phase == Phase::Running
            && let Some(cause) = self.cx.held.excess(!self.cx.tokens.is_empty())
        {
            self.fail(&cause, at);
        }
    }

    /// From now on the client talks to nobody. The broker has heard that its links are gone; the client has not.
    fn swallow(&mut self) {
        self.close_sessions();
        self.cx.out.clear();
        self.cx.sent = 0;
        self.swallows = true;
        self.stalled_until = None;
    }

    fn close_sessions(&mut self) {
        for session in self.sessions.values_mut() {
            session.flush(&mut self.cx.out);
            session.close_links(&mut self.cx);
        }
        self.sessions.clear();
        self.cx.runnable.clear();
    }

    /// The process stops.
    pub(crate) fn stop(&mut self, at: Instant) {
        if !self.stopping {
            self.stopping = true;
            self.stalled_until = None;
            self.reset |= self.swallows;
            let text = "The server is shutting down.";
            self.fail(&AmqpError::new("amqp:connection:forced", text), at);
        }
    }

    /// Does what time, the broker and the tokens ask for, and fills the out-buffer with deliveries.
    pub(crate) fn turn(&mut self, at: Instant) {
        self.cx.now = self.cx.broker.now();
        self.mail(at);
        if let Some(until) = self.stalled_until {
            if at < until {
                self.pass_on();
                return;
            }
            self.resume(at);
        }
        if !self.swallows {
            self.timers(at);
        }
        if self.phase == Phase::Running && !self.swallows {
            self.bury_tokens();
            self.pump();
            self.meet(at);
            self.relieve(at);
        }
    }

    /// A stall is over.
    fn resume(&mut self, at: Instant) {
        if self.stalled_until.take().is_some() {
            self.input_waits = true;
            self.last_read = at;
        }
    }

    fn timers(&mut self, at: Instant) {
        match self.phase {
            Phase::Header | Phase::SaslInit | Phase::HeaderAfterSasl | Phase::Open => {
                if at >= self.started + HANDSHAKE {
                    let done = match self.phase {
                        Phase::Header => "it sent no AMQP header",
                        Phase::SaslInit => "it did not choose a SASL mechanism",
                        Phase::HeaderAfterSasl => "it sent no AMQP header after SASL",
                        _ => "it sent no open frame",
                    };
                    let why =
                        format!("the client did not open the connection within {} s: {done}", HANDSHAKE.as_secs());
                    self.say_refused("amqp:connection:forced", &why);
                    self.phase = Phase::Over(at + CLOSING);
                }
            }
            Phase::Closing(until) if at >= until => self.phase = Phase::Over(at + CLOSING),
            Phase::Running => {
                if at >= self.last_read + self.idle_limit() {
                    let text = format!(
                        "The connection was inactive for more than the allowed {} milliseconds and is closed by the server.",
                        self.idle_limit().as_millis()
                    );
                    self.fail(&AmqpError::new("amqp:connection:forced", text), at);
                } else if self.heartbeat.is_some_and(|every| at >= self.last_write + every) {
                    if self.output().is_empty() {
                        frame::heartbeat(&mut self.cx.out);
                    }
                    self.last_write = at;
                }
            }
            // The client does not read what is left: it is given up.
            Phase::Over(until) if at >= until => {
                self.cx.out.clear();
                self.cx.sent = 0;
            }
            Phase::Closing(_) | Phase::Over(_) => {}
        }
    }

    fn mail(&mut self, at: Instant) {
        let (mut woken, mut commands) = (std::mem::take(&mut self.woken), std::mem::take(&mut self.commands));
        self.cx.peer.take_mail(&mut woken, &mut commands);
        for key in woken.drain(..) {
            if let Some(session) = self.sessions.get_mut(&key.channel) {
                session.wake(&mut self.cx, key);
            }
        }
        for command in commands.drain(..) {
            match command {
                Command::Reset => self.reset = true,
                Command::Report => self.report(),
                // Of what else is told to a connection that is swallowed nobody would hear.
                _ if self.swallows => {}
                Command::Blackhole => self.swallow(),
                Command::Resume => self.resume(at),
                Command::Close(condition) => {
                    self.resume(at);
                    self.fail(&scripted(condition), at);
                }
                Command::End { entity, condition } => self.end_all(&entity, condition),
                Command::Detach { entity, cut } => self.detach_all(&entity, cut),
            }
        }
        (self.woken, self.commands) = (woken, commands);
    }

    fn end_all(&mut self, entity: &str, condition: Condition) {
        for session in self.sessions.values_mut().filter(|session| !session.has_ended()) {
            if session.links().any(|(_, link)| link.entity().is_some_and(|(path, _)| path == entity)) {
                session.end(&mut self.cx, &scripted(condition));
            }
        }
    }

    fn report(&self) {
        let links = self.sessions.values().flat_map(Session::links);
        let credits: Vec<(LinkKey, u32)> = links.filter_map(|(_, link)| Some((link.key()?, link.credit()))).collect();
        self.cx.peer.report(&credits);
        self.cx.broker.changed();
    }

    fn detach_all(&mut self, entity: &str, cut: Cut) {
        for session in self.sessions.values_mut() {
            let cuts: Vec<_> =
                session.links().filter_map(|(handle, link)| Some((handle, link.cut_of(entity, cut)?))).collect();
            for (handle, cause) in cuts {
                say!(
                    self.cx.lines(),
                    info,
                    "bus: link cut",
                    connection = self.cx.peer.id(),
                    entity = %printable(&session.entity_of(handle)),
                    handle,
                    why = %printable(&cause.description)
                );
                session.cut(&mut self.cx, handle, &cause);
            }
        }
    }

    /// Cuts the links whose token is over.
    fn bury_tokens(&mut self) {
        let now = self.cx.now.seconds();
        let dead = self.cx.tokens.bury(&self.cx.keys, now);
        if dead.is_empty() {
            return;
        }
        for session in self.sessions.values_mut() {
            let mut cuts: Vec<(u32, AmqpError)> = Vec::new();
            for (handle, link) in session.links() {
                let Some(need) = link.need().filter(|need| !self.cx.tokens.allow(need, now)) else { continue };
                let words = dead.iter().find(|dead| dead.covered(need)).map(Dead::words).unwrap_or_default();
                cuts.push((handle, token_end(self.options.token_end, &need.path, words)));
            }
            for (handle, cause) in cuts {
                say!(
                    self.cx.lines(),
                    warn,
                    "bus: link cut with its token",
                    connection = self.cx.peer.id(),
                    entity = %printable(&session.entity_of(handle)),
                    handle,
                    why = %printable(&cause.description)
                );
                session.cut(&mut self.cx, handle, &cause);
            }
        }
    }

    fn pump(&mut self) {
        for session in self.sessions.values_mut() {
            session.pump_backlog(&mut self.cx);
        }
        while self.cx.room() > 0
            && let Some(key) = self.cx.runnable.pop_front()
        {
            if let Some(session) = self.sessions.get_mut(&key.channel)
                && session.pump(&mut self.cx, key)
            {
                self.cx.runnable.push_back(key);
            }
            if self.cx.is_struck() {
                break;
            }
        }
        self.pass_on();
    }

    /// There is no room, or no time: what these links were woken for may go to others.
    fn pass_on(&mut self) {
        for key in &self.cx.runnable {
            if let Some(session) = self.sessions.get_mut(&key.channel) {
                session.pass_on(*key);
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.close_sessions();
        if self.was_open {
            say!(self.cx.lines(), info, "bus: connection closed", connection = self.cx.peer.id());
        }
        self.cx.broker.live().unregister(self.cx.peer.id());
        self.cx.broker.changed();
    }
}

/// Azure's words.
fn too_many_links() -> String {
    format!(
        "Cannot allocate more handles to the current session or connection. The maximum number of handles allowed is \
         {LINKS_MAX}. Please free up resources and try again."
    )
}

/// What a client is told because a script says so.
pub(super) fn scripted(condition: Condition) -> AmqpError {
    AmqpError::new(condition.name(), condition.text())
}

/// What to do about a client that begins like this.
fn advice(first: &[u8]) -> &'static str {
    if first.starts_with(b"AMQP\x02") {
        "it asks for TLS within AMQP: use amqps:// and the TLS port"
    } else if first.starts_with(b"AMQP") {
        "this is not AMQP 1.0 but another version, as RabbitMQ speaks it: use a client of Service Bus"
    } else {
        "this port speaks AMQP 1.0: the other services have ports of their own, which the ready file names"
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

/// What a link is told when its token is over: Azure was seen with either form.
fn token_end(form: TokenEnd, path: &str, words: String) -> AmqpError {
    match form {
        TokenEnd::UnauthorizedAccess => AmqpError::new("amqp:unauthorized-access", words),
        TokenEnd::DetachForced => {
            let text = format!(
                "The link is force detached. Code: RenewToken. Details: Unauthorized access. {words} Resource: '{path}'."
            );
            AmqpError::new("amqp:link:detach-forced", text)
        }
    }
}
