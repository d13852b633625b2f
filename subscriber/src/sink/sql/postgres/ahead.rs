//! A pass that runs before its transaction, beside the one that is under way.
//!
//! Where the guard of the upsert judges the versions, a pass needs nothing that only the database knows, but whether parents
//! are there, and that it may guess. So it can run while the server is busy with the batch before; the transaction then has
//! its tuples ready. What it went on with is compared with what the transaction finds, and else it counts for nothing.

use std::sync::Arc;

use super::{
    super::{
        apply::{Arrived, Stretch, apply_entity},
        planned::{Planned, PlannedRows},
    },
    overlay::{Flags, Overlay},
};
use crate::{
    apply::{Batch, EntityPlan, EntityPlans, Shape},
    sink::Applied,
};

/// What a batch comes to if the guard judges its rows.
#[derive(Debug)]
pub(super) struct Foregone {
    overlay: Overlay,
    result: (Applied, Arrived),
}

/// Whether the guard may judge these rows, as far as they themselves tell: none takes a row away or may refer to another of
/// them.
pub(super) fn may_be_guarded(plan: &EntityPlan, batch: &Batch) -> bool {
    !batch.has_removals() && plan.references().iter().all(|of| of.parent != plan.name())
}

/// An entity and those that it refers to, in the order in which they are opened.
pub(super) fn with_parents<'p>(
    plans: &'p EntityPlans,
    plan: &'p Arc<EntityPlan>,
) -> impl Iterator<Item = &'p Arc<EntityPlan>> {
    let parents = plan.references().iter().filter_map(|reference| plans.get(&reference.parent));
    std::iter::once(plan).chain(parents)
}

impl Foregone {
    /// Runs the pass as it will be if the table has these columns. `None`: it cannot be known before.
    pub(super) fn run<M>(
        plans: &Arc<EntityPlans>,
        shape: Arc<Shape>,
        file: &str,
        from: u64,
        planned: &Planned<M>,
    ) -> Option<Self> {
        let PlannedRows::Entity(plan, batch) = &planned.rows else { return None };
        if !may_be_guarded(plan, batch) {
            return None;
        }
        let mut overlay = Overlay::new(Arc::clone(plans));
        for plan in with_parents(plans, plan) {
            if overlay.place(plan.name()).is_none() {
                overlay.open_entity(Arc::clone(plan), Flags::default());
            }
        }
        let table = overlay.place(plan.name())?;
        let open = overlay.table_mut(table);
        (open.shape, open.is_exact, open.is_guarded) = (Some(shape), true, true);
        overlay.begin();
        let stretch = Stretch { file, from, rows: &planned.batch.rows };
        // A failure is met again, and told, where it counts.
        let result = apply_entity(&mut overlay, plan, &stretch, batch).ok()?;
        Some(Self { overlay, result })
    }

    /// Takes the place of the first pass, if the transaction finds what it went on with.
    pub(super) fn adopt(self, overlay: &mut Overlay) -> Option<(Applied, Arrived)> {
        overlay.go_on_as(self.overlay).then_some(self.result)
    }
}
