//! A batch, read as far as it can be before its transaction.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use waybill_contracts::Reason;

use super::Failure;
use crate::{
    apply::{Batch, EntityPlan, EntityPlans, Shape, StreamRows},
    sink::{Ahead, EntityBatch},
};

/// Columns by entity, or by blobType where there is none, as they were last seen: so that new fields can be found before
/// the transaction.
#[derive(Debug, Default)]
pub(super) struct Shapes(Mutex<HashMap<String, Arc<Shape>>>);

impl Shapes {
    pub(super) fn new(shapes: HashMap<String, Arc<Shape>>) -> Self {
        Self(Mutex::new(shapes))
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Shape>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).map(Arc::clone)
    }

    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn set(&self, name: String, shape: Arc<Shape>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name, shape);
    }
}

/// A batch, with what its rows come to, and whatever more a database makes of it before its transaction.
#[derive(Debug)]
pub(super) struct Planned<More = ()> {
    pub(super) batch: EntityBatch,
    /// The entity's name, or the blobType behind a word that tells it from one.
    pub(super) shape_name: String,
    pub(super) rows: PlannedRows,
    seen: Arc<Shape>,
    pub(super) more: More,
}

/// What is left with a batch that was read ahead.
struct ReadAhead<More> {
    from: u64,
    rows: PlannedRows,
    seen: Arc<Shape>,
    more: More,
}

#[derive(Debug)]
pub(super) enum PlannedRows {
    Entity(Arc<EntityPlan>, Batch),
    Stream(StreamRows),
}

impl<More: Default + Send + Sync + 'static> Planned<More> {
    pub(super) fn new(
        plans: &EntityPlans,
        shapes: &Shapes,
        from: u64,
        mut batch: EntityBatch,
    ) -> Result<Self, Failure> {
        let ahead = batch.ahead.take::<ReadAhead<More>>().filter(|ahead| ahead.from == from);
        let plan = match &batch.entity {
            Some(entity) => match plans.get(entity.name()) {
                Some(plan) => Some(Arc::clone(plan)),
                None => {
                    let problem = format!("entity {:?} is not among those of the sink", entity.name());
                    return Err(Failure::Refused { reason: Reason::RefusedByDatabase, problem });
                }
            },
            None => None,
        };
        let shape_name = match &plan {
            Some(plan) => plan.name().to_owned(),
            None => format!("type {}", batch.blob_type),
        };
        let (rows, seen, more) = match ahead {
            Some(ReadAhead { rows, seen, more, .. }) => (rows, seen, more),
            None => {
                let seen = shapes.get(&shape_name).unwrap_or_default();
                (PlannedRows::new(plan, &seen, from, &batch), seen, More::default())
            }
        };
        Ok(Self { batch, shape_name, rows, seen, more })
    }

    /// The batch again, with what was found.
    pub(super) fn into_ahead(self, from: u64) -> EntityBatch {
        let Self { batch, rows, seen, more, .. } = self;
        EntityBatch { ahead: Ahead::new(ReadAhead { from, rows, seen, more }), ..batch }
    }

    /// Reads the rows again when somebody dropped a column since: its field is new again.
    pub(super) fn fit(&mut self, shape: &Shape, from: u64) {
        if !shape.covers(&self.seen) {
            let plan = match &self.rows {
                PlannedRows::Entity(plan, _) => Some(Arc::clone(plan)),
                PlannedRows::Stream(_) => None,
            };
            self.rows = PlannedRows::new(plan, shape, from, &self.batch);
        }
    }
}

impl PlannedRows {
    fn new(plan: Option<Arc<EntityPlan>>, shape: &Shape, from: u64, batch: &EntityBatch) -> Self {
        match plan {
            Some(plan) => {
                let rows = Batch::new(&plan, shape, &batch.position, &batch.rows, from);
                Self::Entity(plan, rows)
            }
            None => Self::Stream(StreamRows::new(batch.filter.as_deref(), shape, &batch.rows, from)),
        }
    }
}
