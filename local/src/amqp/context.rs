//! What the sessions and links of a connection share: what they act on, where they write to, and what scripts want of them.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::held::Held;
use super::performative::AmqpError;
use super::tokens::Tokens;
use crate::broker::queue::Handed;
use crate::broker::{Broker, LinkKey, LinkRole, Moment, Peer};
use crate::fault::{About, BusEvent, Condition, Fate, Faults, ToDo};
use crate::keys::Keys;
use crate::log::{Lines, OwnLines};

/// Deliveries stop while so much waits to be written.
pub(super) const OUT_SOFT: usize = 256 * 1024;

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
    pub(super) sent: usize,
    /// Largest frame to write.
    pub(crate) frame_max: usize,
    /// Links that may have something to send, each once.
    pub(crate) runnable: VecDeque<LinkKey>,
    pub(crate) held: Held,
    /// Empty between turns; kept for its allocation.
    pub(crate) handed: Vec<Handed>,
    pub(super) serial: u64,
    /// Who is told what happens here.
    pub(super) faults: Option<Arc<Faults>>,
    /// What a script wants the connection, a session or a link to meet, as soon as the frame at hand is done with.
    pub(super) doom: Option<Doom>,
    /// How long a script lets the connection stand still.
    pub(super) stall: Duration,
    /// What was said in the log of this client.
    pub(super) own_lines: Lines,
}

/// A fate, and whose it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doom {
    pub(super) channel: u16,
    pub(super) handle: u32,
    pub(super) fate: Fate,
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

    pub(super) fn tell(
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
    pub(crate) fn lines(&self) -> OwnLines<'_> {
        OwnLines { own: &self.own_lines, all: self.broker.live().lines() }
    }

    pub(crate) fn new_key(&mut self, channel: u16, handle: u32) -> LinkKey {
        self.serial += 1;
        LinkKey { channel, handle, serial: self.serial }
    }
}

/// What a client is told because a script says so.
pub(super) fn scripted(condition: Condition) -> AmqpError {
    AmqpError::new(condition.name(), condition.text())
}
