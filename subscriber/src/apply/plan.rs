//! An entity as the sink needs it, and what each row of a batch comes to.

use waybill_contracts::{Entities, Entity};

/// An entity, compiled once: field paths, canonical key types, the order of versions.
#[derive(Debug)]
pub struct EntityPlan {}

/// What one row comes to.
#[derive(Debug)]
pub struct RowPlan {}

/// Why an entity cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
#[error("entity {entity}: {problem}")]
pub struct PlanError {
    entity: String,
    problem: String,
}

/// Why one row is kept aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFault {
    /// For listings.
    pub reason: waybill_contracts::Reason,
    /// What is wrong.
    pub problem: String,
}

impl EntityPlan {
    /// Compiles an entity; `entities` gives the key types of its parents.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn new(entity: &Entity, entities: &Entities) -> Result<Self, PlanError> {
        let _ = (entity, entities);
        Ok(Self {})
    }
}
