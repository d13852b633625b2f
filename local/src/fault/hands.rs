//! What a fault can reach beyond the request that fired it: keys, bus, connections.

use std::sync::Arc;

use super::{Service, Step, What, When};
use crate::{
    broker::{Broker, Which},
    keys::Keys,
    listen::Lines,
};

/// The parts of a process that faults befall.
pub(crate) struct Hands {
    pub(crate) keys: Arc<Keys>,
    pub(crate) broker: Arc<Broker>,
    pub(crate) blob_lines: Arc<Lines>,
}

impl Hands {
    /// Why a step names something that does not exist. Entities and tenants are made before the first script runs and are
    /// never removed, so this is asked once.
    pub(super) fn problem(&self, step: &Step) -> Option<String> {
        let counted = if let When::Bus { entity, .. } = &step.when { Some(entity) } else { None };
        let hit = match &step.what {
            What::Detach { entity }
            | What::Close { entity: Some(entity) }
            | What::DeliverTwice { entity, .. }
            | What::ExpireLocks { entity } => Some(entity),
            _ => None,
        };
        for entity in counted.into_iter().chain(hit) {
            if let Err(error) = self.broker.counts(entity) {
                return Some(error.to_string());
            }
        }
        let held = if let What::DeliverTwice { entity, .. } | What::ExpireLocks { entity } = &step.what {
            Some(entity)
        } else {
            None
        };
        for entity in counted.into_iter().chain(held) {
            if self.broker.peek(entity, 0, 0).is_err() {
                return Some(format!("'{entity}' is a topic and holds no messages; name one of its subscriptions"));
            }
        }
        let asks = if let When::Grant { tenant, .. } = &step.when { tenant.as_ref() } else { None };
        let rotated = if let What::Rotate { tenant } = &step.what { tenant.as_ref() } else { None };
        let mut tenants = asks.into_iter().chain(rotated);
        tenants
            .find(|tenant| !self.keys.has_tenant(tenant))
            .map(|tenant| format!("no tenant is called {tenant:?}; the configuration names the tenants"))
    }

    /// For a step that counts messages: how many there were so far, and how many it waits for.
    pub(super) fn count(&self, when: &When) -> Option<(u64, u64)> {
        let When::Bus { event, entity, nth } = when else { return None };
        let counts = self.broker.counts(entity).ok()?;
        Some((event.of(&counts), u64::from(nth.get())))
    }

    /// Does it. What a step names was checked when it was installed.
    pub(super) fn act(&self, what: &What) {
        let done: Result<usize, String> = match what {
            What::Rotate { tenant } => {
                self.keys.rotate(tenant.as_deref()).map(|()| 0).map_err(|error| error.to_string())
            }
            What::Reset { service: Service::Blob } => Ok(self.blob_lines.reset_all()),
            What::Reset { service: Service::Bus } => Ok(self.broker.reset_connections(&Which::All)),
            What::Detach { entity } => self.broker.detach_links(entity).map_err(|error| error.to_string()),
            What::Close { entity } => {
                let which = entity.clone().map_or(Which::All, Which::Entity);
                Ok(self.broker.close_connections(&which))
            }
            What::DeliverTwice { entity, messages } => {
                self.broker.deliver_twice(entity, messages.get()).map(|()| 0).map_err(|error| error.to_string())
            }
            What::ExpireLocks { entity } => self.broker.expire_locks(entity).map_err(|error| error.to_string()),
            // These are done to the request itself.
            What::Cut { .. }
            | What::RefuseSas
            | What::Reset { service: Service::Tenant }
            | What::Busy { .. }
            | What::Delay(_)
            | What::Down { .. } => Ok(0),
        };
        if let Err(error) = done {
            tracing::error!(error, %what, "a fault could not be done");
        }
    }
}
