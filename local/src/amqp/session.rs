//! Sessions: their links, windows and ends. What comes in is in `incoming`, what goes out in `outgoing`, how it is settled in
//! `settle`.
//!
//! # Sources
//! AMQP 1.0 part 2, sections 2.5.6 (session flow control) and 2.6.7 (link flow control).

use std::collections::{BTreeMap, VecDeque};

use super::address::Address;
use super::context::{Context, scripted};
use super::link::{CREDIT, Link, Origin, Outgoing, left_of};
use super::outgoing::Pending;
use super::performative::{
    self as out, AmqpError, Attach, AttachReply, Begin, Detach, Flow, LinkFlow, Role, SessionFlow,
};
use super::settle::{Runs, UNSETTLED_SWEEP, Unsettled};
use crate::broker::{LinkKey, LinkRole};
use crate::fault::BusEvent;
use crate::log::{printable, say};

/// Frames that a client may send before it hears from us.
pub(super) const WINDOW: u32 = 5_000;

/// Highest handle.
const HANDLE_MAX: u32 = 255;

/// What ends when a client did wrong.
#[derive(Debug)]
pub(crate) enum Failure {
    Connection(AmqpError),
    Session(AmqpError),
    Link(u32, AmqpError),
}

impl Failure {
    pub(super) fn session(condition: &'static str, text: impl Into<String>) -> Self {
        Self::Session(AmqpError::new(condition, text.into()))
    }
}

/// A message for `$cbs` or `$management`.
#[derive(Debug)]
pub(crate) struct RequestBytes {
    pub(crate) node: Address,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(super) channel: u16,
    pub(super) links: BTreeMap<u32, Link>,
    pub(super) next_incoming_id: u32,
    /// Frames that the client may still send.
    pub(super) incoming_left: u32,
    pub(super) next_outgoing_id: u32,
    /// Frames that we may still send.
    pub(super) outgoing_left: u32,
    /// Counted without wrapping; its low 32 bits are the delivery-id.
    pub(super) next_delivery: u64,
    pub(super) unsettled: BTreeMap<u64, Unsettled>,
    pub(super) sweep_at: usize,
    pub(super) backlog: VecDeque<Pending>,
    /// Answers to what the client sent.
    pub(super) received: Runs,
    /// We ended it; what still comes is dropped until the client agrees.
    pub(super) ended: bool,
}

impl Session {
    pub(crate) fn begin(channel: u16, begin: &Begin, out: &mut Vec<u8>) -> Self {
        out::begin(out, channel, 0, WINDOW, HANDLE_MAX);
        Self {
            channel,
            links: BTreeMap::new(),
            next_incoming_id: begin.next_outgoing_id,
            incoming_left: WINDOW,
            next_outgoing_id: 0,
            outgoing_left: begin.incoming_window,
            next_delivery: 0,
            unsettled: BTreeMap::new(),
            sweep_at: UNSETTLED_SWEEP,
            backlog: VecDeque::new(),
            received: Runs::new(Role::Receiver),
            ended: false,
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    #[cfg(test)]
    pub(crate) fn unsettled(&self) -> usize {
        self.unsettled.len()
    }

    #[cfg(test)]
    pub(crate) fn delivery_count(&self, handle: u32) -> u32 {
        match self.links.get(&handle) {
            Some(Link::Outgoing(link)) => link.delivery_count,
            _ => 0,
        }
    }

    /// Ends the session from our side.
    pub(crate) fn end(&mut self, cx: &mut Context, cause: &AmqpError) {
        self.flush(&mut cx.out);
        out::end(&mut cx.out, self.channel, Some(cause));
        self.ended = true;
        self.close_links(cx);
    }

    /// Lets go of all links.
    pub(crate) fn close_links(&mut self, cx: &mut Context) {
        for (_, link) in std::mem::take(&mut self.links) {
            self.forget(&link, cx);
        }
        // Each of what waited was some link's, which took it along.
        self.backlog.clear();
        self.unsettled.clear();
    }

    /// Keeps a link under its handle.
    fn keep(&mut self, cx: &mut Context, handle: u32, link: Link) {
        cx.held.add(link.held_bytes());
        self.links.insert(handle, link);
    }

    fn forget(&mut self, link: &Link, cx: &mut Context) {
        link.close(cx.peer.id());
        cx.held.give_back(link.held_bytes());
        if let Some(key) = link.key() {
            if link.entity().is_some() {
                cx.peer.detached(key);
                cx.broker.changed();
            }
            self.backlog.retain(|pending| {
                let stays = pending.handle() != key.handle;
                if !stays {
                    cx.held.give_back(pending.len());
                }
                stays
            });
            self.unsettled.retain(|_, unsettled| unsettled.handle != key.handle);
        }
    }

    /// Writes the answers that were held back to make ranges.
    pub(crate) fn flush(&mut self, out: &mut Vec<u8>) {
        self.received.flush(out, self.channel);
    }

    pub(crate) fn attach(&mut self, cx: &mut Context, attach: &Attach<'_>) -> Result<(), Failure> {
        if attach.handle > HANDLE_MAX {
            let text = format!("handle {} exceeds the handle-max of {HANDLE_MAX}", attach.handle);
            return Err(Failure::Connection(AmqpError::new("amqp:connection:framing-error", text)));
        }
        if self.links.contains_key(&attach.handle) {
            let text = format!("handle {} is attached already", attach.handle);
            return Err(Failure::session("amqp:session:handle-in-use", text));
        }
        let key = cx.new_key(self.channel, attach.handle);
        let opened = Link::open(attach, key, &cx.broker, &cx.tokens, cx.now).and_then(|link| {
            let place = (self.channel, attach.handle);
            let to_do = link.entity().and_then(|entity| cx.happens(BusEvent::Attach, entity, place));
            match to_do.and_then(|to_do| to_do.refuse) {
                Some((refusal, _)) => Err(scripted(refusal.condition())),
                None => Ok(link),
            }
        });
        match opened {
            Ok(link) => {
                let reply = AttachReply {
                    request: *attach,
                    source: attach.source,
                    target: attach.target,
                    max_message_size: link.bytes_max(),
                };
                out::attach(&mut cx.out, self.channel, &reply);
                if let Some((entity, role)) = link.entity() {
                    cx.peer.attached(key, entity.to_owned(), role, cx.now);
                    cx.broker.changed();
                }
                self.keep(cx, attach.handle, link);
                self.grant(cx, attach.handle, attach.initial_delivery_count);
            }
            Err(refusal) => {
                say!(
                    cx.lines(),
                    warn,
                    "bus: link refused",
                    connection = cx.peer.id(),
                    link = %printable(attach.name),
                    role = ?attach.role,
                    condition = refusal.condition,
                    why = %printable(&refusal.description)
                );
                // A null terminus on the refusing side, then the reason: AMQP 1.0 part 2, section 2.6.3.
                let (source, target) = match attach.role {
                    Role::Receiver => (None, attach.target),
                    Role::Sender => (attach.source, None),
                };
                let reply = AttachReply { request: *attach, source, target, max_message_size: 0 };
                out::attach(&mut cx.out, self.channel, &reply);
                out::detach(&mut cx.out, self.channel, attach.handle, true, Some(&refusal));
                self.keep(cx, attach.handle, Link::Detached);
            }
        }
        Ok(())
    }

    /// Grants a fresh link, or one that has used up half of it, its full credit.
    pub(super) fn grant(&mut self, cx: &mut Context, handle: u32, delivery_count: Option<u32>) {
        let Some(Link::Incoming(link)) = self.links.get_mut(&handle) else { return };
        if let Some(count) = delivery_count {
            link.delivery_count = count;
        }
        if link.credit > CREDIT / 2 {
            return;
        }
        link.credit = CREDIT;
        let flow = LinkFlow { handle, delivery_count: link.delivery_count, link_credit: CREDIT, drain: false };
        self.write_flow(cx, Some(flow));
    }

    pub(super) fn write_flow(&mut self, cx: &mut Context, link: Option<LinkFlow>) {
        self.incoming_left = WINDOW;
        let session = SessionFlow {
            next_incoming_id: self.next_incoming_id,
            incoming_window: WINDOW,
            next_outgoing_id: self.next_outgoing_id,
            outgoing_window: WINDOW,
        };
        out::flow(&mut cx.out, self.channel, session, link);
    }

    pub(crate) fn detach(&mut self, cx: &mut Context, detach: Detach) -> Result<(), Failure> {
        let handle = detach.handle;
        self.flush(&mut cx.out);
        match self.links.remove(&handle) {
            None => {
                let text = format!("a detach for handle {handle}, which is not attached");
                Err(Failure::session("amqp:session:unattached-handle", text))
            }
            Some(link) => {
                self.forget(&link, cx);
                // One that we detached is agreed to by this.
                if !matches!(link, Link::Detached) {
                    out::detach(&mut cx.out, self.channel, handle, detach.closed, None);
                }
                Ok(())
            }
        }
    }

    /// A link is attached on `channel`. One of the same name and direction that is attached already ends: a name is one
    /// link's on a connection. (The same handle once more is refused as such.)
    pub(crate) fn steal(&mut self, cx: &mut Context, channel: u16, attach: &Attach<'_>) {
        let stolen: Vec<u32> = self
            .links()
            .filter(|(_, link)| link.name() == Some((attach.name, attach.role)))
            .map(|(handle, _)| handle)
            .filter(|handle| (self.channel, *handle) != (channel, attach.handle))
            .collect();
        for handle in stolen {
            let text = format!("The link '{}' was stolen: another link was attached under its name.", attach.name);
            self.cut(cx, handle, &AmqpError::new("amqp:link:stolen", text));
        }
    }

    /// Detaches a link from our side.
    pub(crate) fn cut(&mut self, cx: &mut Context, handle: u32, cause: &AmqpError) {
        self.flush(&mut cx.out);
        if let Some(link) = self.links.remove(&handle) {
            self.forget(&link, cx);
            if !matches!(link, Link::Detached) {
                out::detach(&mut cx.out, self.channel, handle, true, Some(cause));
            }
        }
        self.keep(cx, handle, Link::Detached);
    }

    /// What a link is about, for a log line.
    pub(super) fn entity_of(&self, handle: u32) -> String {
        self.links.get(&handle).map_or_else(String::new, Link::node)
    }

    pub(crate) fn links(&self) -> impl Iterator<Item = (u32, &Link)> {
        self.links.iter().map(|(handle, link)| (*handle, link))
    }

    pub(crate) fn flow(&mut self, cx: &mut Context, flow: &Flow) -> Result<(), Failure> {
        // AMQP 1.0 part 2, section 2.5.6; before the client has seen our `begin` it counts from our first id, which is 0.
        self.outgoing_left = left_of(flow.incoming_window, flow.next_incoming_id.unwrap_or(0), self.next_outgoing_id);
        let mut echo = None;
        if let Some(handle) = flow.handle {
            match self.links.get_mut(&handle) {
                Some(Link::Outgoing(link)) => {
                    if let Some(credit) = flow.link_credit {
                        link.grant(flow.delivery_count, credit, flow.drain);
                    }
                    let (delivery_count, link_credit) = (link.delivery_count, link.credit);
                    echo = Some(LinkFlow { handle, delivery_count, link_credit, drain: flow.drain });
                    if let (Origin::Entity { .. }, Some(need)) = (&link.from, &link.need) {
                        cx.happens(BusEvent::Flow, (&need.path, LinkRole::Receiver), (self.channel, handle));
                    }
                }
                Some(Link::Incoming(link)) => {
                    let (delivery_count, link_credit) = (link.delivery_count, link.credit);
                    echo = Some(LinkFlow { handle, delivery_count, link_credit, drain: false });
                }
                Some(Link::Detached) => return Ok(()),
                None => {
                    let text = format!("a flow for handle {handle}, which is not attached");
                    return Err(Failure::session("amqp:session:unattached-handle", text));
                }
            }
        }
        if flow.echo && !flow.drain {
            self.write_flow(cx, echo);
        }
        self.make_runnable(cx);
        Ok(())
    }

    /// Puts every link that could go on into the connection's line.
    pub(super) fn make_runnable(&mut self, cx: &mut Context) {
        for link in self.links.values_mut() {
            if let Link::Outgoing(link) = link {
                enqueue(link, cx);
            }
        }
    }

    /// A link in the connection's line cannot go on for want of room: others may take what it was woken for.
    pub(crate) fn pass_on(&mut self, key: LinkKey) {
        if let Some(Link::Outgoing(link)) = self.links.get_mut(&key.handle) {
            link.pass_on();
        }
    }

    /// The queue has something for a link that stood in its line.
    pub(crate) fn wake(&mut self, cx: &mut Context, key: LinkKey) {
        if let Some(Link::Outgoing(link)) = self.links.get_mut(&key.handle)
            && link.key == key
        {
            link.waiting = false;
            link.woken = true;
            enqueue(link, cx);
            if !link.runnable {
                link.pass_on();
            }
        }
    }

    /// Queues an answer on the link that it belongs to: the one whose target is `reply_to`, or whose name it is
    /// (JavaScript), or without a `reply_to` the one that receives from the same node (Python). False when there is none.
    pub(crate) fn reply(
        &mut self,
        cx: &mut Context,
        node: &Address,
        reply_to: Option<&str>,
        answer: &mut Vec<u8>,
    ) -> Result<bool, Failure> {
        let answers = |link: &Outgoing| matches!(&link.from, Origin::Replies { node: from, .. } if from == node);
        let mut outgoing: Vec<(u32, &mut Outgoing)> = self
            .links
            .iter_mut()
            .filter_map(|(handle, link)| match link {
                Link::Outgoing(link) if answers(link) => Some((*handle, link)),
                _ => None,
            })
            .collect();
        let place = match reply_to {
            Some(to) => outgoing
                .iter()
                .position(|(_, link)| link.target.as_deref() == Some(to))
                .or_else(|| outgoing.iter().position(|(_, link)| link.name == to)),
            None => (!outgoing.is_empty()).then_some(0),
        };
        let Some((handle, link)) = place.and_then(|place| outgoing.get_mut(place)) else { return Ok(false) };
        let bytes = answer.len();
        link.reply(std::mem::take(answer)).map_err(|cause| Failure::Link(*handle, cause))?;
        cx.held.add(bytes);
        enqueue(link, cx);
        Ok(true)
    }
}

/// A link that may go on stands in the connection's line, once.
fn enqueue(link: &mut Outgoing, cx: &mut Context) {
    let has = match &link.from {
        Origin::Entity { .. } => !link.waiting || link.drain,
        Origin::Replies { waiting, .. } => !waiting.is_empty() || link.drain,
    };
    if !link.runnable && has && (link.credit > 0 || link.drain) {
        link.runnable = true;
        cx.runnable.push_back(link.key);
    }
}

/// The delivery-id of a delivery.
pub(super) fn low(id: u64) -> u32 {
    u32::try_from(id & u64::from(u32::MAX)).unwrap_or_default()
}
