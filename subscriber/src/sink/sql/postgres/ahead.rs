//! A pass that runs before its transaction, beside the one that is under way.
//!
//! Where the guard of the upsert judges the versions, a pass needs nothing that only the database knows, but whether parents
//! are there, and that it may guess. So it can run while the server is busy with the batch before; the transaction then has
//! its tuples ready. What it went on with is compared with what the transaction finds, and else it counts for nothing.
//!
//! Tuples of a large batch are copied ahead as well: into a temporary table, in the session in which the transaction will run.
//! The server then has a second processor to do it on, and nobody waits for it, because a temporary table needs no lock of ours.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use waybill_store::PostgresConnection;

use super::{
    super::{
        apply::{Arrived, Stretch, apply_entity},
        planned::{Planned, PlannedRows},
    },
    overlay::{Flags, Overlay},
    write,
};
use crate::{
    apply::{Batch, EntityPlan, EntityPlans, Shape},
    sink::Applied,
};

/// Tuples that are worth a transaction of their own before the one that they are for. In our tests all are, so that every
/// case of a property goes that way too.
const STAGED_BYTES_MIN: usize = if cfg!(test) { 1 } else { 256 * 1024 };

/// What a batch comes to if the guard judges its rows.
pub(super) struct Foregone {
    overlay: Overlay,
    result: (Applied, Arrived),
    session: Option<Session>,
}

/// A connection with a temporary table that is filled.
pub(super) struct Session {
    pub(super) connection: PostgresConnection,
    _permit: OwnedSemaphorePermit,
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
        let stretch = Stretch { file, from, rows: &planned.batch.rows, is_before_begin: false };
        // A failure is met again, and told, where it counts.
        let result = apply_entity(&mut overlay, plan, &stretch, batch, false).ok()?;
        Some(Self { overlay, result, session: None })
    }

    pub(super) fn is_worth_staging(&self) -> bool {
        self.overlay.changes.tuples.len() >= STAGED_BYTES_MIN
    }

    /// Copies the tuples. What fails here is met again where it counts.
    pub(super) async fn stage(&mut self, mut connection: PostgresConnection, permit: OwnedSemaphorePermit) {
        match write::stage(&mut connection, &mut self.overlay).await {
            Ok(()) => self.session = Some(Session { connection, _permit: permit }),
            Err(error) => tracing::debug!(%error, "a batch cannot be copied ahead of its transaction"),
        }
    }

    /// The session in which the transaction has to run, if the tuples are there.
    pub(super) fn session(&mut self) -> Option<Session> {
        let session = self.session.take().filter(|session| !session.connection.is_closed());
        if session.is_none() {
            self.overlay.changes.staged = None;
        }
        session
    }

    /// Takes the place of the first pass, if the transaction finds what it went on with.
    pub(super) fn adopt(self, overlay: &mut Overlay) -> Option<(Applied, Arrived)> {
        overlay.go_on_as(self.overlay).then_some(self.result)
    }
}
