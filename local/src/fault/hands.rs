//! What a fault can reach beyond the event that fired it: keys, queues, connections.

use std::sync::Arc;

use super::{
    BusFrames, Step, What, When,
    refusal::Condition,
    what::{Service, Whose},
};
use crate::{
    broker::{Broker, Command, Cut, Which},
    keys::Keys,
    listen::Lines,
    rotation::Rotations,
};

/// The parts of a process that faults befall.
pub(crate) struct Hands {
    pub(crate) keys: Arc<Keys>,
    pub(crate) rotations: Arc<Rotations>,
    pub(crate) broker: Arc<Broker>,
    pub(crate) blob_lines: Arc<Lines>,
    pub(crate) tenant_lines: Arc<Lines>,
}

impl Hands {
    /// Why a step names something that does not exist. Entities may be made later, but a script that waits for one that is
    /// not there yet would hide a slip of the pen.
    pub(super) fn problem(&self, step: &Step) -> Option<String> {
        let selected =
            if let When::Bus(BusFrames { entity: Some(entity), .. }) = &step.when { Some(entity) } else { None };
        let target = if let Some(Whose::Entity(entity)) = step.what.whose() { Some(entity) } else { None };
        for entity in selected.into_iter().chain(target) {
            if let Err(error) = self.broker.counts(entity) {
                let known = self.broker.entities().join(", ");
                return Some(format!("{error}; there are {known}"));
            }
        }
        let event_has_messages = step.what.whose() == Some(&Whose::Event)
            && step.what.needs_messages()
            && !matches!(&step.when, When::Bus(frames) if frames.event == super::BusEvent::TransferIn);
        let holds = target.filter(|_| step.what.needs_messages()).or(selected.filter(|_| event_has_messages));
        if let Some(entity) = holds
            && self.broker.peek(entity, 0, 0).is_err()
        {
            return Some(format!("'{entity}' is a topic and holds no messages; name one of its subscriptions"));
        }
        let asks = if let When::Grant { tenant } = &step.when { tenant.as_ref() } else { None };
        let hit =
            if let What::Rotate { tenant, .. } | What::Expire { tenant } = &step.what { tenant.as_ref() } else { None };
        let mut tenants = asks.into_iter().chain(hit);
        tenants
            .find(|tenant| !self.keys.has_tenant(tenant))
            .map(|tenant| format!("no tenant is called {tenant:?}; the configuration names the tenants"))
    }

    /// Does it. What a step names was checked when it was installed. `entity` is the event's, if it has one.
    pub(super) fn act(&self, what: &What, entity: &str) {
        let path = |whose: &Whose| match whose {
            Whose::Entity(path) => path.clone(),
            Whose::Event | Whose::Service(_) => entity.to_owned(),
        };
        let done: Result<(), String> = match what {
            What::Rotate { tenant, grace } => {
                self.rotations.rotate(tenant.as_deref(), *grace).map_err(|error| error.to_string())
            }
            What::Expire { tenant } => self.keys.expire(tenant.as_deref()).map_err(|error| error.to_string()),
            What::Reset(whose) => {
                self.tell(whose, &Command::Reset, Lines::reset_all);
                Ok(())
            }
            What::Blackhole { whose, lasts } => {
                if *whose == Whose::Service(Service::Bus) {
                    self.broker.live().blackhole(*lasts);
                }
                self.tell(whose, &Command::Blackhole, |lines| lines.blackhole_all(*lasts));
                Ok(())
            }
            What::Close { whose, condition } => {
                self.tell(whose, &Command::Close(*condition), |_| 0);
                Ok(())
            }
            What::End { whose, condition } => {
                self.tell_links(&path(whose), *condition, |entity, condition| Command::End { entity, condition })
            }
            What::Detach { whose, condition } => self.tell_links(&path(whose), *condition, |entity, condition| {
                Command::Detach { entity, cut: Cut::Fault(condition) }
            }),
            What::LoseLocks(whose) => {
                self.broker.expire_locks(&path(whose)).map(|_| ()).map_err(|error| error.to_string())
            }
            What::DeliverTwice { whose, messages } => {
                self.broker.deliver_twice(&path(whose), messages.get()).map_err(|error| error.to_string())
            }
            What::Reorder { whose, messages, order, patience } => {
                self.broker.reorder(&path(whose), messages.get(), *order, *patience).map_err(|error| error.to_string())
            }
            What::HoldBack { whose, lasts, messages } => self
                .broker
                .hold_back(&path(whose), *lasts, messages.map(std::num::NonZeroU32::get))
                .map_err(|error| error.to_string()),
            // These are done to the event itself, or are looked at when a request comes.
            What::Cut { .. }
            | What::RefuseSas
            | What::Truncate { .. }
            | What::Corrupt { .. }
            | What::Slow { .. }
            | What::Replace { .. }
            | What::Refuse { .. }
            | What::Delay(_)
            | What::DropAnswer { .. }
            | What::Down { .. } => Ok(()),
        };
        if let Err(error) = done {
            tracing::error!(error, %what, "a fault could not be done");
        }
    }

    fn tell(&self, whose: &Whose, command: &Command, lines: impl Fn(&Lines) -> usize) {
        let told = match whose {
            Whose::Service(Service::Blob) => lines(&self.blob_lines),
            Whose::Service(Service::Tenant) => lines(&self.tenant_lines),
            Whose::Service(Service::Bus) => self.broker.live().tell(&Which::All, command),
            Whose::Entity(path) => self.broker.live().tell(&Which::Entity(path.clone()), command),
            Whose::Event => 0,
        };
        tracing::debug!(told, ?command, "connections were told of a fault");
    }

    fn tell_links(
        &self,
        path: &str,
        condition: Condition,
        command: impl Fn(String, Condition) -> Command,
    ) -> Result<(), String> {
        let path = crate::broker::path_of(path);
        self.broker.live().tell(&Which::Entity(path.clone()), &command(path, condition));
        Ok(())
    }

    /// Ends what lasts.
    pub(super) fn clear(&self) {
        self.blob_lines.end_blackhole();
        self.tenant_lines.end_blackhole();
        self.broker.live().end_blackhole();
        self.broker.live().tell(&Which::All, &Command::Resume);
        self.broker.keep_order();
    }
}
