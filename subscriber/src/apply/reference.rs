//! What a row refers to: the keys of its parents.

use waybill_contracts::{Entities, Entity, MaxWait, OnMissing, Reference};

use super::{key::KeyForm, plan::PlanError};

/// A reference for which rows wait. One with `on_missing = "apply"` has no effect on rows and is left out.
#[derive(Debug)]
pub(crate) struct ParkReference {
    /// Fields of the row, in the order of the parent's key.
    pub(crate) fields: Vec<String>,
    /// The parent's name.
    pub(crate) parent: String,
    /// How the parent spells its key.
    pub(crate) form: KeyForm,
    /// How long rows wait for it.
    pub(crate) max_wait: Option<MaxWait>,
}

impl ParkReference {
    /// The references of `entity` for which its rows wait.
    ///
    /// # Errors
    /// A parent that is not there, or has another number of key fields.
    pub(crate) fn all_of(entity: &Entity, entities: &Entities) -> Result<Vec<Self>, PlanError> {
        let waits = |reference: &&Reference| reference.on_missing == OnMissing::Park;
        entity.references.iter().filter(waits).map(|reference| Self::new(entity, reference, entities)).collect()
    }

    fn new(entity: &Entity, reference: &Reference, entities: &Entities) -> Result<Self, PlanError> {
        let fault = |problem: String| PlanError::new(&entity.name, problem);
        let Some(parent) = entities.0.get(&reference.entity) else {
            return Err(fault(format!("refers to {:?}, which is no entity", reference.entity)));
        };
        if parent.key.len() != reference.fields.len() {
            return Err(fault(format!(
                "refers to {:?} by {} fields, but its key has {}",
                reference.entity,
                reference.fields.len(),
                parent.key.len()
            )));
        }
        Ok(Self {
            fields: reference.fields.clone(),
            parent: parent.name.clone(),
            form: super::plan::key_form(parent)?,
            max_wait: reference.max_wait,
        })
    }
}
