//! What a row means, whatever the order in which files arrive. Pure: no I/O, no clock.

mod key;
mod plan;
mod reference;
mod version;

pub use plan::{EntityPlan, PlanError, RowFault, RowPlan};
pub use version::Position;
