//! What a row means, whatever the order in which files arrive. Pure: no I/O, no clock.
//!
//! An [`EntityPlan`] is compiled once from the configuration. A stretch of a file is then read twice: first for each row's
//! key and version, which gives the order in which rows are applied and says which are superseded (`batch`); then, row
//! by row as the sink comes to it, for its references and its columns (`row`). So nothing is kept of a row but its key
//! and version, however many columns it has.

mod batch;
mod begin;
mod fields;
mod judge;
mod key;
mod plan;
mod reference;
mod row;
mod shape;
mod sieve;
mod value;
mod version;

#[cfg(test)]
mod tests;

pub(crate) use batch::{Batch, Faulty, Head, RowAt, StreamRows};
pub use begin::{Begin, Side};
pub(crate) use fields::is_marked_deleted;
pub use judge::{Judge, Judged};
pub(crate) use key::KeyPart;
pub use plan::{EntityPlan, EntityPlans, PlanError, RowFault, filter_columns};
pub(crate) use row::RowReader;
pub(crate) use shape::{Grown, NewFields, Shape, ShapeColumn, folded, is_reserved};
pub use sieve::Sieve;
pub(crate) use value::Value;
pub use version::Position;
