//! The nine performatives, the SASL ones we meet, and delivery states: read leniently, written as clients expect them.
//!
//! # Sources
//! AMQP 1.0 part 2, section 2.7 (performatives), part 3, section 3.4 (delivery state), part 5, section 5.3.3 (SASL).

use std::borrow::Cow;

use super::codec::{DecodeError, Reader};
use super::encode::{Compound, Write};
use super::frame::{self, Kind};

pub(crate) const OPEN: u8 = 0x10;
pub(crate) const BEGIN: u8 = 0x11;
pub(crate) const ATTACH: u8 = 0x12;
pub(crate) const FLOW: u8 = 0x13;
pub(crate) const TRANSFER: u8 = 0x14;
pub(crate) const DISPOSITION: u8 = 0x15;
pub(crate) const DETACH: u8 = 0x16;
pub(crate) const END: u8 = 0x17;
pub(crate) const CLOSE: u8 = 0x18;
const ERROR: u8 = 0x1d;
const RECEIVED: u8 = 0x23;
const ACCEPTED: u8 = 0x24;
const REJECTED: u8 = 0x25;
const RELEASED: u8 = 0x26;
const MODIFIED: u8 = 0x27;
const SOURCE: u8 = 0x28;
const TARGET: u8 = 0x29;
const SASL_MECHANISMS: u8 = 0x40;
const SASL_INIT: u8 = 0x41;
const SASL_OUTCOME: u8 = 0x44;

/// What went wrong, as a peer is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AmqpError {
    pub(crate) condition: &'static str,
    pub(crate) description: Cow<'static, str>,
}

impl AmqpError {
    pub(crate) fn new(condition: &'static str, description: impl Into<Cow<'static, str>>) -> Self {
        Self { condition, description: description.into() }
    }
}

/// A link's direction, named from the side that states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Sender,
    Receiver,
}

impl Role {
    fn read(is_receiver: Option<bool>, reader_error: DecodeError) -> Result<Self, DecodeError> {
        match is_receiver {
            Some(true) => Ok(Self::Receiver),
            Some(false) => Ok(Self::Sender),
            None => Err(reader_error),
        }
    }
}

/// A performative as it came in; texts and bytes are borrowed from the frame.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Performative<'a> {
    Open(Open<'a>),
    Begin(Begin),
    Attach(Attach<'a>),
    Flow(Flow),
    Transfer(Transfer<'a>),
    Disposition(Disposition<'a>),
    Detach(Detach),
    End,
    Close,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Open<'a> {
    pub(crate) container_id: &'a str,
    pub(crate) max_frame_size: u32,
    pub(crate) idle_time_out_ms: Option<u32>,
    /// A map of what the client says of itself.
    pub(crate) properties: Option<&'a [u8]>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Begin {
    pub(crate) next_outgoing_id: u32,
    pub(crate) incoming_window: u32,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Attach<'a> {
    pub(crate) name: &'a str,
    pub(crate) handle: u32,
    /// The client's role.
    pub(crate) role: Role,
    pub(crate) snd_settle_mode: u8,
    pub(crate) rcv_settle_mode: u8,
    /// As received, so that it can be echoed byte for byte.
    pub(crate) source: Option<&'a [u8]>,
    pub(crate) target: Option<&'a [u8]>,
    pub(crate) initial_delivery_count: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    pub(crate) next_incoming_id: Option<u32>,
    pub(crate) incoming_window: u32,
    pub(crate) handle: Option<u32>,
    pub(crate) delivery_count: Option<u32>,
    pub(crate) link_credit: Option<u32>,
    pub(crate) drain: bool,
    pub(crate) echo: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Transfer<'a> {
    pub(crate) handle: u32,
    pub(crate) delivery_id: Option<u32>,
    pub(crate) message_format: Option<u32>,
    pub(crate) settled: Option<bool>,
    pub(crate) more: bool,
    pub(crate) aborted: bool,
    pub(crate) transactional: bool,
    /// What follows the performative in its frame.
    pub(crate) payload: &'a [u8],
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Disposition<'a> {
    /// The client's role in the deliveries.
    pub(crate) role: Role,
    pub(crate) first: u32,
    pub(crate) last: u32,
    pub(crate) settled: bool,
    pub(crate) state: Option<State<'a>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Detach {
    pub(crate) handle: u32,
    /// For good; else the client may mean to come back, but no link is resumed.
    pub(crate) closed: bool,
}

/// A delivery state that a client gives.
#[derive(Debug, Clone, Copy)]
pub(crate) enum State<'a> {
    Received,
    Accepted,
    Rejected(Option<PeerError<'a>>),
    Released,
    Modified {
        undeliverable_here: bool,
        delivery_failed: bool,
        annotations: Option<&'a [u8]>,
    },
    /// Transactional, or unknown.
    Other,
}

/// The error within `rejected`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PeerError<'a> {
    pub(crate) condition: &'a str,
    pub(crate) description: Option<&'a str>,
    /// An encoded map; JavaScript's keys are strings where symbols are due.
    pub(crate) info: Option<&'a [u8]>,
}

/// A terminus as a client names it: address, and what of it we must know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terminus<'a> {
    pub(crate) address: Option<&'a str>,
    pub(crate) dynamic: bool,
    /// A transaction coordinator.
    pub(crate) coordinator: bool,
    /// Keys of the filter map, encoded; only its presence of a session filter matters.
    pub(crate) filter: Option<&'a [u8]>,
}

impl<'a> Performative<'a> {
    /// Reads a frame's body.
    ///
    /// # Errors
    /// When the bytes are no performative or lack a mandatory field.
    pub(crate) fn read(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let descriptor = reader.descriptor()?;
        let unknown = reader.error("an unknown performative");
        let missing = reader.error("a mandatory field is missing");
        let mut fields = reader.list()?;
        Ok(match u8::try_from(descriptor).map_err(|_| unknown)? {
            OPEN => {
                let container_id = fields.text()?.unwrap_or_default();
                fields.skip(1)?;
                let max_frame_size = fields.uint32()?.unwrap_or(u32::MAX);
                // We answer on the client's own channels, so its channel-max cannot be exceeded.
                fields.skip(1)?;
                let idle_time_out_ms = fields.uint32()?;
                fields.skip(4)?;
                Self::Open(Open { container_id, max_frame_size, idle_time_out_ms, properties: fields.raw()? })
            }
            BEGIN => {
                fields.skip(1)?;
                let next_outgoing_id = fields.uint32()?.ok_or(missing)?;
                Self::Begin(Begin { next_outgoing_id, incoming_window: fields.uint32()?.ok_or(missing)? })
            }
            ATTACH => {
                let name = fields.text()?.ok_or(missing)?;
                let handle = fields.uint32()?.ok_or(missing)?;
                let role = Role::read(fields.bool()?, missing)?;
                let snd_settle_mode = small(fields.uint32()?, 2);
                let rcv_settle_mode = small(fields.uint32()?, 0);
                let source = fields.raw()?;
                let target = fields.raw()?;
                fields.skip(2)?;
                let initial_delivery_count = fields.uint32()?;
                Self::Attach(Attach {
                    name,
                    handle,
                    role,
                    snd_settle_mode,
                    rcv_settle_mode,
                    source,
                    target,
                    initial_delivery_count,
                })
            }
            FLOW => {
                let next_incoming_id = fields.uint32()?;
                let incoming_window = fields.uint32()?.ok_or(missing)?;
                fields.skip(2)?;
                let handle = fields.uint32()?;
                let delivery_count = fields.uint32()?;
                let link_credit = fields.uint32()?;
                fields.skip(1)?;
                let drain = fields.bool()?.unwrap_or(false);
                let echo = fields.bool()?.unwrap_or(false);
                Self::Flow(Flow { next_incoming_id, incoming_window, handle, delivery_count, link_credit, drain, echo })
            }
            TRANSFER => {
                let handle = fields.uint32()?.ok_or(missing)?;
                let delivery_id = fields.uint32()?;
                fields.skip(1)?;
                let message_format = fields.uint32()?;
                let settled = fields.bool()?;
                let more = fields.bool()?.unwrap_or(false);
                fields.skip(1)?;
                let transactional = matches!(state(fields.raw()?)?, Some(State::Other));
                fields.skip(1)?;
                let aborted = fields.bool()?.unwrap_or(false);
                let payload = reader.rest();
                Self::Transfer(Transfer {
                    handle,
                    delivery_id,
                    message_format,
                    settled,
                    more,
                    aborted,
                    transactional,
                    payload,
                })
            }
            DISPOSITION => {
                let role = Role::read(fields.bool()?, missing)?;
                let first = fields.uint32()?.ok_or(missing)?;
                let last = fields.uint32()?.unwrap_or(first);
                let settled = fields.bool()?.unwrap_or(false);
                Self::Disposition(Disposition { role, first, last, settled, state: state(fields.raw()?)? })
            }
            DETACH => {
                let handle = fields.uint32()?.ok_or(missing)?;
                Self::Detach(Detach { handle, closed: fields.bool()?.unwrap_or(false) })
            }
            END => Self::End,
            CLOSE => Self::Close,
            _ => return Err(unknown),
        })
    }
}

fn small(value: Option<u32>, default: u8) -> u8 {
    value.and_then(|value| u8::try_from(value).ok()).unwrap_or(default)
}

fn state(raw: Option<&[u8]>) -> Result<Option<State<'_>>, DecodeError> {
    let Some(raw) = raw else { return Ok(None) };
    let mut reader = Reader::new(raw);
    let descriptor = reader.descriptor()?;
    let Ok(code) = u8::try_from(descriptor) else { return Ok(Some(State::Other)) };
    Ok(Some(match code {
        RECEIVED => State::Received,
        ACCEPTED => State::Accepted,
        RELEASED => State::Released,
        REJECTED => State::Rejected(reader.list()?.raw()?.map(peer_error).transpose()?),
        MODIFIED => {
            let mut fields = reader.list()?;
            let delivery_failed = fields.bool()?.unwrap_or(false);
            let undeliverable_here = fields.bool()?.unwrap_or(false);
            State::Modified { undeliverable_here, delivery_failed, annotations: fields.raw()? }
        }
        _ => State::Other,
    }))
}

fn peer_error(raw: &[u8]) -> Result<PeerError<'_>, DecodeError> {
    let mut reader = Reader::new(raw);
    if u8::try_from(reader.descriptor()?) != Ok(ERROR) {
        return Err(reader.error("an error was expected"));
    }
    let mut fields = reader.list()?;
    let condition = fields.text()?.unwrap_or_default();
    let description = fields.text()?;
    Ok(PeerError { condition, description, info: fields.raw()? })
}

impl<'a> Terminus<'a> {
    /// Reads a source or target; `None` (null) is one without an address.
    pub(crate) fn read(raw: Option<&'a [u8]>) -> Result<Self, DecodeError> {
        let mut terminus = Self { address: None, dynamic: false, coordinator: false, filter: None };
        let Some(raw) = raw else { return Ok(terminus) };
        let mut reader = Reader::new(raw);
        let descriptor = reader.descriptor()?;
        let unknown = reader.error("a source or target was expected");
        let mut fields = reader.list()?;
        match u8::try_from(descriptor).map_err(|_| unknown)? {
            SOURCE | TARGET => {
                terminus.address = fields.text()?;
                fields.skip(3)?;
                terminus.dynamic = fields.bool()?.unwrap_or(false);
                if descriptor == u64::from(SOURCE) {
                    fields.skip(2)?;
                    terminus.filter = fields.raw()?;
                }
            }
            0x30 => terminus.coordinator = true,
            _ => return Err(unknown),
        }
        Ok(terminus)
    }

    /// Whether the filter asks for a session (`com.microsoft:session-filter`).
    pub(crate) fn wants_session(&self) -> bool {
        let Some(mut map) = self.filter.and_then(|raw| Reader::new(raw).map().ok()) else { return false };
        while map.len() > 0 {
            if map.text().ok().flatten() == Some("com.microsoft:session-filter") {
                return true;
            }
            if map.skip(1).is_err() {
                return false;
            }
        }
        false
    }
}

/// The mechanism a client chose, from a SASL frame's body; any other SASL frame is an error.
pub(crate) fn read_sasl_init(body: &[u8]) -> Result<&str, DecodeError> {
    let mut reader = Reader::new(body);
    if u8::try_from(reader.descriptor()?) != Ok(SASL_INIT) {
        return Err(reader.error("sasl-init was expected"));
    }
    Ok(reader.list()?.text()?.unwrap_or_default())
}

pub(crate) fn sasl_mechanisms(out: &mut Vec<u8>, mechanisms: &[&str]) {
    frame::write(out, Kind::Sasl, 0, |out| {
        out.described_list(SASL_MECHANISMS, |list| {
            let count = u32::try_from(mechanisms.len()).expect("a handful");
            list.array(0xa3, count, |out| {
                for mechanism in mechanisms {
                    out.push(u8::try_from(mechanism.len()).expect("names are short"));
                    out.extend_from_slice(mechanism.as_bytes());
                }
            });
        });
    });
}

/// `code` 0 is ok, 1 a failed authentication.
pub(crate) fn sasl_outcome(out: &mut Vec<u8>, code: u8) {
    frame::write(out, Kind::Sasl, 0, |out| out.described_list(SASL_OUTCOME, |list| list.ubyte(code)));
}

pub(crate) fn open(out: &mut Vec<u8>, container: &str, max_frame_size: u32, channel_max: u16, idle_time_out_ms: u32) {
    performative(out, 0, OPEN, |list| {
        list.text(container);
        list.null();
        list.uint(max_frame_size);
        list.ushort(channel_max);
        list.uint(idle_time_out_ms);
    });
}

/// The answer to a `begin`, on the client's own channel number.
pub(crate) fn begin(out: &mut Vec<u8>, channel: u16, next_outgoing_id: u32, window: u32, handle_max: u32) {
    performative(out, channel, BEGIN, |list| {
        list.ushort(channel);
        list.uint(next_outgoing_id);
        list.uint(window);
        list.uint(window);
        list.uint(handle_max);
    });
}

/// The answer to an `attach`: source and target exactly as received (Python compares them), or null where refused.
pub(crate) struct AttachReply<'a> {
    pub(crate) request: Attach<'a>,
    pub(crate) source: Option<&'a [u8]>,
    pub(crate) target: Option<&'a [u8]>,
    pub(crate) max_message_size: u64,
}

pub(crate) fn attach(out: &mut Vec<u8>, channel: u16, reply: &AttachReply<'_>) {
    let request = &reply.request;
    performative(out, channel, ATTACH, |list| {
        list.text(request.name);
        list.uint(request.handle);
        list.bool(request.role == Role::Sender);
        list.ubyte(request.snd_settle_mode);
        list.ubyte(request.rcv_settle_mode);
        list.raw_or_null(reply.source);
        list.raw_or_null(reply.target);
        list.null();
        list.null();
        // Python detaches when a sender leaves this null.
        if request.role == Role::Receiver {
            list.uint(0)
        } else {
            list.null()
        }
        list.ulong(reply.max_message_size);
        list.null();
        list.null();
        // Never null: Python reads it without asking.
        list.map(|map| {
            map.symbol("com.microsoft:max-message-batch-size");
            map.int(i32::try_from(reply.max_message_size).unwrap_or(i32::MAX));
        });
    });
}

/// The session's part of a `flow`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionFlow {
    pub(crate) next_incoming_id: u32,
    pub(crate) incoming_window: u32,
    pub(crate) next_outgoing_id: u32,
    pub(crate) outgoing_window: u32,
}

/// The link's part of a `flow`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinkFlow {
    pub(crate) handle: u32,
    pub(crate) delivery_count: u32,
    pub(crate) link_credit: u32,
    pub(crate) drain: bool,
}

pub(crate) fn flow(out: &mut Vec<u8>, channel: u16, session: SessionFlow, link: Option<LinkFlow>) {
    performative(out, channel, FLOW, |list| {
        list.uint(session.next_incoming_id);
        list.uint(session.incoming_window);
        list.uint(session.next_outgoing_id);
        list.uint(session.outgoing_window);
        if let Some(link) = link {
            list.uint(link.handle);
            list.uint(link.delivery_count);
            list.uint(link.link_credit);
            list.null();
            list.bool(link.drain);
        }
    });
}

/// What stands in the transfer of one delivery's first frame; the later frames carry the handle alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeliveryHead {
    pub(crate) handle: u32,
    pub(crate) delivery_id: u32,
    pub(crate) tag: [u8; 16],
    pub(crate) settled: bool,
}

/// A frame of a delivery; `payload` appends the piece of the message.
pub(crate) fn transfer(
    out: &mut Vec<u8>,
    channel: u16,
    head: &DeliveryHead,
    first: bool,
    more: bool,
    payload: impl FnOnce(&mut Vec<u8>),
) {
    frame::write(out, Kind::Amqp, channel, |out| {
        out.described_list(TRANSFER, |list| {
            list.uint(head.handle);
            if first {
                list.uint(head.delivery_id);
                list.binary(&head.tag);
                list.uint(0);
                list.bool(head.settled);
                list.bool(more);
            } else {
                for _ in 0..4 {
                    list.null();
                }
                list.bool(more);
            }
        });
        payload(out);
    });
}

/// What we answer to a delivery or a disposition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Accepted,
    Released,
    /// Without an error it confirms a dead-lettering; Python takes any error for a failure.
    Rejected(Option<AmqpError>),
    Modified {
        delivery_failed: bool,
        undeliverable_here: bool,
    },
}

/// A settled disposition for the deliveries `first..=last`; `role` is ours.
pub(crate) fn disposition(out: &mut Vec<u8>, channel: u16, role: Role, first: u32, last: u32, reply: &Reply) {
    performative(out, channel, DISPOSITION, |list| {
        list.bool(role == Role::Receiver);
        list.uint(first);
        list.uint(last);
        list.bool(true);
        match reply {
            Reply::Accepted => list.described_list(ACCEPTED, |_| {}),
            Reply::Released => list.described_list(RELEASED, |_| {}),
            Reply::Rejected(None) => list.described_list(REJECTED, |_| {}),
            Reply::Rejected(Some(cause)) => list.described_list(REJECTED, |list| error(list, cause)),
            Reply::Modified { delivery_failed, undeliverable_here } => list.described_list(MODIFIED, |list| {
                list.bool(*delivery_failed);
                list.bool(*undeliverable_here);
            }),
        }
    });
}

pub(crate) fn detach(out: &mut Vec<u8>, channel: u16, handle: u32, closed: bool, cause: Option<&AmqpError>) {
    performative(out, channel, DETACH, |list| {
        list.uint(handle);
        list.bool(closed);
        optional_error(list, cause);
    });
}

pub(crate) fn end(out: &mut Vec<u8>, channel: u16, cause: Option<&AmqpError>) {
    performative(out, channel, END, |list| optional_error(list, cause));
}

pub(crate) fn close(out: &mut Vec<u8>, cause: Option<&AmqpError>) {
    performative(out, 0, CLOSE, |list| optional_error(list, cause));
}

fn optional_error(list: &mut Compound<'_>, cause: Option<&AmqpError>) {
    if let Some(cause) = cause {
        error(list, cause);
    }
}

fn error(list: &mut Compound<'_>, cause: &AmqpError) {
    list.described_list(ERROR, |list| {
        list.symbol(cause.condition);
        list.text(&cause.description);
        // Python looks at the third field without asking whether there is one.
        list.null();
    });
}

fn performative(out: &mut Vec<u8>, channel: u16, descriptor: u8, write: impl FnOnce(&mut Compound<'_>)) {
    frame::write(out, Kind::Amqp, channel, |out| out.described_list(descriptor, write));
}
