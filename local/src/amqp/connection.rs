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

use super::EndpointOptions;
use super::context::{Context, Doom, OUT_SOFT, scripted};
use super::frame::{self, Frame, Kind};
use super::guests::Guest;
use super::held::Held;
use super::performative::{self as out, AmqpError, Begin, Performative};
use super::session::{Failure, Session};
use super::tokens::Tokens;
use crate::broker::{Broker, Command, LinkKey, Moment, Peer};
use crate::fault::Fate;
use crate::keys::Keys;
use crate::log::{Lines, printable, say};

/// Largest frame that we take: what the three SDKs were tried with.
pub(crate) const FRAME_MAX: u32 = 65_536;

/// Highest channel.
pub(super) const CHANNEL_MAX: u16 = 255;

/// Links of one connection: Azure's number (Azure/azure-sdk-for-net issue 18363).
const LINKS_MAX: usize = 4_999;

/// Smallest max-frame-size that a peer may state (AMQP 1.0 part 2, section 2.7.1).
pub(super) const FRAME_MIN: u32 = 512;

/// Reading stops while so much waits to be written: beyond deliveries, only answers to what was read come here.
const OUT_HARD: usize = OUT_SOFT + 1024 * 1024;

/// The same for who has no token: the answer to a frame or two.
const STRANGER_OUT: usize = 16 * 1024;

/// From the first byte to `open`.
pub(super) const HANDSHAKE: Duration = Duration::from_secs(30);

/// How long a client has to agree to a `close`.
pub(super) const CLOSING: Duration = Duration::from_secs(1);

/// How long one connection works before others have their turn.
pub(super) const TURN_MAX: Duration = Duration::from_millis(10);

/// As far ahead as anybody looks.
const DAY: Duration = Duration::from_secs(86_400);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
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
    pub(super) cx: Context,
    pub(super) options: EndpointOptions,
    pub(super) phase: Phase,
    pub(super) reset: bool,
    /// Nothing is done or written until then; what comes is left where it is read to.
    stalled_until: Option<Instant>,
    /// The client has ended its side.
    client_gone: bool,
    /// There may be input that was not taken: a stall is over, or a turn was.
    input_waits: bool,
    /// What comes is dropped, and nothing is written any more.
    pub(super) swallows: bool,
    stopping: bool,
    pub(super) was_open: bool,
    pub(super) sessions: BTreeMap<u16, Session>,
    /// Half of the client's idle-time-out is not reached without a frame of ours.
    pub(super) heartbeat: Option<Duration>,
    started: Instant,
    last_read: Instant,
    last_write: Instant,
    /// Since when bytes wait that the client does not take.
    untaken_since: Option<Instant>,
    /// Input is left where it is, because too much waits to be written.
    is_blocked: bool,
    /// Bytes of the out-buffer that are counted as held.
    out_held: usize,
    /// Its entry at the door.
    guest: Option<Guest>,
    pub(super) woken: Vec<LinkKey>,
    pub(super) commands: Vec<Command>,
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
                own_lines: Lines::of_connection(),
            },
            options,
            phase: Phase::Header,
            reset: false,
            stalled_until: None,
            client_gone: false,
            input_waits: false,
            swallows: false,
            stopping: false,
            was_open: false,
            sessions: BTreeMap::new(),
            heartbeat: None,
            started: at,
            last_read: at,
            last_write: at,
            untaken_since: None,
            is_blocked: false,
            out_held: 0,
            guest: None,
            woken: Vec::new(),
            commands: Vec::new(),
        }
    }

    /// The same, with its entry at the door.
    pub(super) fn of(mut self, guest: Guest) -> Self {
        self.guest = Some(guest);
        self
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

    /// Whether it stands still.
    pub(crate) fn is_stalled(&self) -> bool {
        self.stalled_until.is_some()
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
        self.untaken_since = None;
        if self.is_blocked && self.may_answer() {
            self.is_blocked = false;
            self.input_waits = true;
        }
        self.count_out(at);
    }

    /// Whether input is wanted: not while a client that does not read has too much waiting.
    pub(crate) fn wants_input(&self) -> bool {
        self.swallows || !matches!(self.phase, Phase::Over(_)) && self.may_answer()
    }

    /// Whether so little waits to be written that another frame may be answered.
    fn may_answer(&self) -> bool {
        let most = match (self.cx.tokens.is_empty(), self.cx.held.is_tight()) {
            (true, _) => STRANGER_OUT,
            (false, true) => OUT_SOFT,
            (false, false) => OUT_HARD,
        };
        self.unsent().len() < most
    }

    /// Notes what waits to be written, and since when.
    fn count_out(&mut self, at: Instant) {
        let waits = self.unsent().len();
        self.cx.held.add(waits.saturating_sub(self.out_held));
        self.cx.held.give_back(self.out_held.saturating_sub(waits));
        self.out_held = waits;
        if waits == 0 || self.stalled_until.is_some() {
            self.untaken_since = None;
        } else {
            self.untaken_since.get_or_insert(at);
        }
    }

    /// Tells the door whether the client has a token.
    fn tell_door(&mut self) {
        if let Some(guest) = &mut self.guest {
            guest.has_token(!self.cx.tokens.is_empty());
        }
    }

    /// The client gives its place to another, because it has no token.
    pub(super) fn dismiss(&mut self, at: Instant) {
        let text = "The connection had no token and was closed to make room for another.";
        self.fail(&AmqpError::new("amqp:connection:forced", text), at);
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
                if let Some(since) = self.untaken_since {
                    next = next.min(since + self.options.idle_time_out);
                }
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
            && !self.is_blocked
            && let Some(size) = self.step(input.get(used..).unwrap_or_default(), at)
        {
            used += size;
            self.meet(at);
            self.relieve(at);
            self.input_waits = began.elapsed() >= TURN_MAX;
            self.is_blocked = self.phase == Phase::Running && !self.client_gone && !self.swallows && !self.may_answer();
        }
        for session in self.sessions.values_mut() {
            session.flush(&mut self.cx.out);
        }
        self.count_out(at);
        self.tell_door();
        used
    }

    /// The client has ended its side. There is nobody any more who could be kept waiting: what it sent last is done.
    pub(crate) fn client_gone(&mut self, at: Instant) {
        self.client_gone = true;
        self.is_blocked = false;
        self.resume(at);
    }

    /// The client has ended its side, and this is all that it sent.
    pub(crate) fn ended(&mut self, input: &[u8], at: Instant) {
        self.client_gone(at);
        let mut used = 0;
        loop {
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

    pub(super) fn failed(&mut self, channel: u16, failure: Failure, at: Instant) {
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

    /// Closes the connection because of what the client did.
    pub(super) fn fail(&mut self, cause: &AmqpError, at: Instant) {
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
        if !stall.is_zero() && !self.client_gone {
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

    pub(super) fn say_refused(&self, condition: &str, why: &dyn Display) {
        let (connection, from) = (self.cx.peer.id(), self.cx.peer.address());
        say!(self.cx.lines(), warn, "bus: connection refused", connection, from, condition, %why);
    }

    /// A client that makes us hold too much is let go.
    fn relieve(&mut self, at: Instant) {
        if self.phase == Phase::Running
            && let Some(cause) = self.cx.held.excess(self.cx.tokens.had_one())
        {
            self.fail(&cause, at);
        }
    }

    /// From now on the client talks to nobody. The broker has heard that its links are gone; the client has not.
    pub(super) fn swallow(&mut self) {
        self.close_sessions();
        self.cx.out.clear();
        self.cx.sent = 0;
        self.swallows = true;
        self.is_blocked = false;
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
        self.count_out(at);
        self.tell_door();
    }

    /// A stall is over.
    pub(super) fn resume(&mut self, at: Instant) {
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
                } else if self.untaken_since.is_some_and(|since| at >= since + self.options.idle_time_out) {
                    let waits = self.unsent().len();
                    let why = format!(
                        "the client took none of {waits} bytes for {} milliseconds; it must read what it asked for",
                        self.options.idle_time_out.as_millis()
                    );
                    self.say_refused("amqp:connection:forced", &why);
                    // Nobody would read a close.
                    self.reset = true;
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
        self.cx.lines().end();
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
