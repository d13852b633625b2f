//! What a row means, whatever the order in which files arrive. Pure: no I/O, no clock.
//!
//! An [`EntityPlan`] is compiled once from the configuration. A stretch of a file is then read for each row's key and version,
//! which gives the order in which rows are applied and says which are superseded (`batch`). Its references and its columns
//! (`row`) are read with them and kept until the sink comes to the row (`kept`), or else only then, where it wants so.

mod batch;
mod begin;
mod fields;
mod judge;
mod kept;
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

pub(crate) use batch::{Batch, Faulty, Head, Reading, RowAt, StreamRows};
pub use begin::{Begin, Side};
pub(crate) use fields::is_marked_deleted;
pub use judge::{Judge, Judged};
pub(crate) use kept::ReadRow;
pub(crate) use key::KeyPart;
pub use plan::{EntityPlan, EntityPlans, PlanError, RowFault, filter_columns};
pub(crate) use row::RowReader;
pub(crate) use shape::{Grown, NewFields, Shape, ShapeColumn, folded, is_reserved};
pub use sieve::Sieve;
pub(crate) use value::Value;
pub use version::Position;
