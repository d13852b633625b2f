//! Whether a row passes the filter of its entity or type.

use waybill_contracts::Reason;
use waybill_formats::{FieldPath, Row, RowFilter, filter::FilterFields};

use super::{
    fields::{DELETED, is_deletion},
    plan::RowFault,
};

/// Asks row after row, with the same room. [`EntityBatch::sieve`](crate::sink::EntityBatch::sieve) gives a batch's.
#[derive(Debug)]
pub struct Sieve<'f, 'r> {
    filter: Option<&'f RowFilter>,
    /// A deletion of an entity's row passes, whatever its other fields: it may well have none.
    deleted: Option<FieldPath>,
    fields: FilterFields<'r>,
}

impl<'f, 'r> Sieve<'f, 'r> {
    pub(crate) fn of_entity(filter: Option<&'f RowFilter>) -> Self {
        Self { filter, deleted: Some(FieldPath::name(DELETED)), fields: FilterFields::default() }
    }

    /// By a filter alone, as of rows of no entity: they know no deletions. `None` wants every row.
    #[must_use]
    pub fn of_type(filter: Option<&'f RowFilter>) -> Self {
        Self { filter, deleted: None, fields: FilterFields::default() }
    }

    /// Whether the row passes.
    ///
    /// # Errors
    /// It cannot be said: the row is kept with this.
    pub fn ask(&mut self, row: &Row<'r>) -> Result<bool, RowFault> {
        let Some(filter) = self.filter else { return Ok(true) };
        // A mark that is neither true nor false is found with the row's key and version.
        if self.deleted.as_ref().is_some_and(|deleted| is_deletion(&row.get(deleted)) != Ok(false)) {
            return Ok(true);
        }
        filter
            .matches(row, &mut self.fields)
            .map_err(|fault| RowFault { reason: Reason::FilterError, problem: format!("where {filter}: {fault}") })
    }
}
