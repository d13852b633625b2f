//! A batch, read as far as it can be before its transaction.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use waybill_contracts::{Reason, SchemaMode, SqlName};

use super::Failure;
use crate::{
    apply::{Batch, EntityPlan, EntityPlans, Grown, Reading, Shape, ShapeColumn, StreamRows},
    sink::{Ahead, EntityBatch},
};

/// Batches that wait for the transaction that brings their file into effect as a whole.
pub(super) const PLANNED_QUEUED: usize = 1;

/// Columns by entity, or by blobType where there is none, as they were last seen: so that new fields can be found before
/// the transaction.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    seen: Mutex<HashMap<String, Arc<Shape>>>,
    /// Tables and fields whose columns the database would not widen, so that it is tried, and told, once a process.
    stuck: Mutex<HashSet<(String, String)>>,
    /// Those to which values came that do not fit, so that it is told once a process.
    misfits: Mutex<HashSet<(String, String)>>,
}

impl Shapes {
    pub(super) fn new(shapes: HashMap<String, Arc<Shape>>) -> Self {
        Self { seen: Mutex::new(shapes), ..Self::default() }
    }

    pub(super) fn get(&self, name: &str) -> Option<Arc<Shape>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(name).map(Arc::clone)
    }

    pub(super) fn clear(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn set(&self, name: String, shape: Arc<Shape>) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(name, shape);
    }

    /// Leaves out the columns that could not be widened before.
    pub(super) fn without_stuck(&self, table: &SqlName, mut grown: Vec<Grown>) -> Vec<Grown> {
        let stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        grown.retain(|grown| match grown {
            Grown::Widened(column) if !stuck.is_empty() => {
                !stuck.contains(&(table.as_str().to_owned(), column.field.clone()))
            }
            _ => true,
        });
        grown
    }

    /// Tells that a value came which does not fit a column whose type nobody declared. Whether it was told now.
    pub(super) fn misfit(&self, table: &SqlName, column: &ShapeColumn) -> bool {
        let place = (table.as_str().to_owned(), column.field.clone());
        let is_new = column.is_inferred && self.misfits.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
        if is_new {
            tracing::warn!(
                table = table.as_str(),
                field = column.field,
                kind = %column.kind,
                "a value came that its column does not hold: such values are kept in _rescued. The column's type is that of the first \
                 values that came, in whatever order files come; declare the column in entities.toml and rebuild the table"
            );
        }
        is_new
    }

    /// Tells that a column stays as it is.
    pub(super) fn stick(&self, table: &SqlName, field: &str, problem: &str) {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner).insert((table.as_str().to_owned(), field.to_owned()));
        tracing::warn!(
            table = table.as_str(),
            field,
            problem,
            "a decimal came for a column of integers, which the database would not widen: such values are kept in _rescued; \
             take away what stands on the column and rebuild the table, or declare the column"
        );
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
        reading: Reading,
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
                (PlannedRows::new(plan, (&*seen, reading), batch.passed_over(from), &batch), seen, More::default())
            }
        };
        Ok(Self { batch, shape_name, rows, seen, more })
    }

    /// The batch again, with what was found.
    pub(super) fn into_ahead(self, from: u64) -> EntityBatch {
        let Self { batch, rows, seen, more, .. } = self;
        EntityBatch { ahead: Ahead::new(ReadAhead { from, rows, seen, more }), ..batch }
    }

    /// Whether rows that were read whole were read for this table.
    pub(super) fn is_read_for(&self, shape: &Shape) -> bool {
        shape.reads_as(&self.seen)
    }

    /// Reads the rows again when somebody dropped a column since, as its field is new again, and when there is a column now
    /// that they may widen.
    pub(super) fn fit(&mut self, shape: &Shape, from: u64) {
        let saw = |field: &str| self.seen.narrow(SchemaMode::Evolve).any(|seen| seen == field);
        if !shape.covers(&self.seen) || !shape.narrow(SchemaMode::Evolve).all(saw) {
            let plan = match &self.rows {
                PlannedRows::Entity(plan, _) => Some(Arc::clone(plan)),
                PlannedRows::Stream(_) => None,
            };
            // What they are read for then is not what was seen.
            let reading = (shape, Reading::Heads);
            self.rows = PlannedRows::new(plan, reading, self.batch.passed_over(from), &self.batch);
        }
    }
}

impl PlannedRows {
    fn new(plan: Option<Arc<EntityPlan>>, (shape, reading): (&Shape, Reading), from: u64, batch: &EntityBatch) -> Self {
        match plan {
            Some(plan) => {
                let mut rows = Batch::new(&plan, shape, reading, &batch.position, &batch.rows, from);
                rows.dropped += batch.sorted.map_or(0, |stretch| stretch.dropped);
                Self::Entity(plan, rows)
            }
            None => Self::Stream(StreamRows::new(batch.filter.as_deref(), shape, &batch.rows, from)),
        }
    }
}

#[cfg(test)]
mod tests {
    use waybill_contracts::ColumnType;

    use super::*;

    #[test]
    fn a_column_whose_first_values_were_of_another_kind_is_told_once_and_one_that_was_declared_never() {
        let shapes = Shapes::default();
        let column =
            |field: &str, is_inferred| ShapeColumn { is_inferred, ..ShapeColumn::fixed(field, ColumnType::Integer) };
        let told = |table: &str, column: &ShapeColumn| shapes.misfit(&SqlName::new(table), column);
        assert!(told("item", &column("n", true)));
        assert!(!told("item", &column("n", true)));
        assert!(told("item", &column("m", true)) && told("price", &column("n", true)));
        assert!(!told("item", &column("declared", false)));
    }
}
