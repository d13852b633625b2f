//! What a client receives: messages under locks, as far as credit, window and the out-buffer allow.
//!
//! A message is locked only when its link has credit, its session window, and the out-buffer room. What does not fit into the
//! window piece by piece waits in the session's backlog, at most one burst of messages.

use std::sync::Arc;

use uuid::Uuid;

use super::context::Context;
use super::link::{Link, Origin};
use super::message::{Message, Stamp, delivery_tag};
use super::performative::{self as out, DeliveryHead, LinkFlow};
use super::session::{Session, low};
use super::settle::Unsettled;
use crate::broker::queue::Handed;
use crate::broker::{LinkKey, Mailbox, Part, Waiter, Wanted};
use crate::fault::{BusEvent, ToDo};

/// Messages that one link takes before the next has its turn.
const TURN: u32 = 100;

/// More than what a transfer frame needs besides its payload.
const TRANSFER_OVERHEAD: usize = 64;

/// A delivery that is written but not sent.
#[derive(Debug)]
pub(super) struct Pending {
    head: DeliveryHead,
    payload: Vec<u8>,
    sent: usize,
    begun: bool,
}

impl Pending {
    fn new(head: DeliveryHead, payload: Vec<u8>) -> Self {
        Self { head, payload, sent: 0, begun: false }
    }

    pub(super) fn handle(&self) -> u32 {
        self.head.handle
    }

    /// Bytes of its message.
    pub(super) fn len(&self) -> usize {
        self.payload.len()
    }
}

impl Session {
    /// Sends what one link has and may; true when it wants another turn.
    pub(crate) fn pump(&mut self, cx: &mut Context, key: LinkKey) -> bool {
        let blocked = !self.backlog.is_empty() || self.outgoing_left == 0;
        let Some(Link::Outgoing(link)) = self.links.get_mut(&key.handle) else { return false };
        if link.key != key {
            return false;
        }
        if blocked {
            // The next flow, or the end of the backlog, brings it back.
            link.runnable = false;
            link.pass_on();
            return false;
        }
        let more = match &mut link.from {
            Origin::Replies { .. } => self.pump_replies(cx, key.handle),
            Origin::Entity { mailbox, part, lock } => {
                let (mailbox, part, lock) = (Arc::clone(mailbox), *part, *lock);
                self.pump_entity(cx, key, &mailbox, part, lock)
            }
        };
        if let Some(Link::Outgoing(link)) = self.links.get_mut(&key.handle) {
            link.runnable = more;
        }
        more
    }

    fn pump_entity(&mut self, cx: &mut Context, key: LinkKey, mailbox: &Mailbox, part: Part, lock: bool) -> bool {
        let Some(Link::Outgoing(link)) = self.links.get_mut(&key.handle) else { return false };
        // A script may act between any two messages.
        let most = link.credit.min(self.outgoing_left).min(if cx.has_scripts() { 1 } else { TURN });
        let mut frames_left = self.outgoing_left;
        let mut room = cx.room();
        let piece = cx.frame_max - TRANSFER_OVERHEAD;
        let mut handed = std::mem::take(&mut cx.handed);
        let mut first = true;
        let fits = |message: &Message| {
            let size = message.encoded_max();
            let frames = u32::try_from(size.div_ceil(piece)).unwrap_or(u32::MAX);
            // One always fits: what the window does not take now waits in the backlog.
            let fits = first || (size <= room && frames <= frames_left);
            first = false;
            room = room.saturating_sub(size);
            frames_left = frames_left.saturating_sub(frames);
            fits
        };
        let waiting = link.waiting;
        let waiter = || (!waiting).then(|| Waiter { peer: Arc::clone(&cx.peer), link: key });
        let wanted = Wanted { part, lock, most };
        let dry = mailbox.take(wanted, cx.now, fits, &mut handed, waiter);
        // Taking woke the next in line where messages were left.
        link.woken = false;
        link.waiting |= dry;
        for given in handed.drain(..) {
            self.deliver(cx, key.handle, mailbox, part, &given);
        }
        cx.handed = handed;
        let Some(Link::Outgoing(link)) = self.links.get_mut(&key.handle) else { return false };
        if link.drain && (dry || link.credit == 0) {
            self.drained(cx, key.handle);
            return false;
        }
        !dry && link.credit > 0
    }

    fn deliver(&mut self, cx: &mut Context, handle: u32, mailbox: &Mailbox, part: Part, given: &Handed) {
        let stamp = Stamp {
            delivery_count: given.delivery_count,
            sequence: given.sequence,
            enqueued_at: given.enqueued_at.0,
            expires_at: given.expires_at.stated(),
            lock: given.lock.map(|(token, until)| (token, until.0)),
            dead_letter_source: (part == Part::DeadLetter).then_some(mailbox.name.as_str()),
            state: None,
        };
        let token = given.lock.map(|(token, _)| token);
        let head = self.head(handle, token, token.is_none());
        if token.is_some() {
            self.unsettled.insert(self.next_delivery - 1, Unsettled { handle, token });
        }
        self.tell_of_delivery(cx, handle, mailbox, part, token);
        let message = &given.message;
        let encoded_max = message.encoded_max();
        if self.backlog.is_empty() && self.outgoing_left > 0 && encoded_max + TRANSFER_OVERHEAD <= cx.frame_max {
            out::transfer(&mut cx.out, self.channel, &head, true, false, |out| message.write(out, &stamp));
            self.frame_sent();
        } else {
            let mut payload = Vec::with_capacity(encoded_max);
            message.write(&mut payload, &stamp);
            cx.held.add(payload.len());
            self.backlog.push_back(Pending::new(head, payload));
            self.pump_backlog(cx);
        }
        self.sweep(cx);
    }

    /// A message is about to be written. What a script ends because of it, it ends after it.
    fn tell_of_delivery(&self, cx: &mut Context, handle: u32, mailbox: &Mailbox, part: Part, token: Option<Uuid>) {
        if !cx.has_scripts() {
            return;
        }
        let Some(entity) = self.links.get(&handle).and_then(Link::entity) else { return };
        let to_do = cx.happens(BusEvent::TransferOut, entity, (self.channel, handle));
        if let (Some(ToDo { lose_lock: true, .. } | ToDo { twice: true, .. }), Some(token)) = (to_do, token) {
            mailbox.lose_locks(part, &[token], cx.now);
        }
    }

    fn pump_replies(&mut self, cx: &mut Context, handle: u32) -> bool {
        loop {
            let Some(Link::Outgoing(link)) = self.links.get_mut(&handle) else { return false };
            let Origin::Replies { waiting, settled, .. } = &mut link.from else { return false };
            let settled = *settled;
            if link.credit == 0 || !self.backlog.is_empty() || self.outgoing_left == 0 {
                break;
            }
            let Some(payload) = waiting.pop_front() else { break };
            let head = self.head(handle, None, settled);
            if !settled {
                self.unsettled.insert(self.next_delivery - 1, Unsettled { handle, token: None });
                self.sweep(cx);
            }
            self.backlog.push_back(Pending::new(head, payload));
            self.pump_backlog(cx);
        }
        let Some(Link::Outgoing(link)) = self.links.get_mut(&handle) else { return false };
        let dry = matches!(&link.from, Origin::Replies { waiting, .. } if waiting.is_empty());
        if link.drain && (dry || link.credit == 0) {
            self.drained(cx, handle);
        }
        false
    }

    /// Starts a delivery on a link: uses up one credit.
    fn head(&mut self, handle: u32, token: Option<Uuid>, settled: bool) -> DeliveryHead {
        let id = self.next_delivery;
        self.next_delivery += 1;
        if let Some(Link::Outgoing(link)) = self.links.get_mut(&handle) {
            link.credit = link.credit.saturating_sub(1);
            link.delivery_count = link.delivery_count.wrapping_add(1);
        }
        let tag = token.map_or_else(|| u128::from(id).to_be_bytes(), delivery_tag);
        DeliveryHead { handle, delivery_id: low(id), tag, settled }
    }

    fn frame_sent(&mut self) {
        self.next_outgoing_id = self.next_outgoing_id.wrapping_add(1);
        self.outgoing_left = self.outgoing_left.saturating_sub(1);
    }

    /// Sends what was begun or has to wait, as far as window and room allow.
    pub(crate) fn pump_backlog(&mut self, cx: &mut Context) {
        if self.backlog.is_empty() {
            return;
        }
        let piece = cx.frame_max - TRANSFER_OVERHEAD;
        while self.outgoing_left > 0
            && cx.room() > 0
            && let Some(pending) = self.backlog.front_mut()
        {
            let rest = pending.payload.get(pending.sent..).unwrap_or_default();
            let part = rest.get(..piece).unwrap_or(rest);
            let more = part.len() < rest.len();
            out::transfer(&mut cx.out, self.channel, &pending.head, !pending.begun, more, |out| {
                out.extend_from_slice(part);
            });
            pending.sent += part.len();
            pending.begun = true;
            if !more && let Some(sent) = self.backlog.pop_front() {
                cx.held.give_back(sent.len());
            }
            self.frame_sent();
        }
        if self.backlog.is_empty() {
            self.make_runnable(cx);
        }
    }

    /// Gives back the credit that nothing was left for, and says so: JavaScript waits for it.
    fn drained(&mut self, cx: &mut Context, handle: u32) {
        let Some(Link::Outgoing(link)) = self.links.get_mut(&handle) else { return };
        link.delivery_count = link.delivery_count.wrapping_add(link.credit);
        link.credit = 0;
        link.drain = false;
        let flow = LinkFlow { handle, delivery_count: link.delivery_count, link_credit: 0, drain: true };
        self.write_flow(cx, Some(flow));
    }
}
