//! What a row of an entity comes to under a filter of somebody's own, before any table is asked: for those who pass rows on.

use waybill_formats::{Field, Row, RowFilter};

use super::{
    batch::HeadReader,
    plan::{EntityPlan, RowFault},
    sieve::Sieve,
};

/// What a row comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judged {
    /// The filter wants it.
    Wanted,
    /// It does not.
    Unwanted,
    /// It deletes its key, whatever else it says: the filter was not asked.
    Deletion,
}

/// Judges row after row, with the same room. Each must have what a sink needs of it: a key, the declared version, and a mark
/// of deletion that is one.
#[derive(Debug)]
pub struct Judge<'p, 'r> {
    plan: &'p EntityPlan,
    reader: HeadReader,
    filter: Sieve<'p, 'r>,
    values: Vec<Field<'r>>,
    key: String,
    version: Vec<u8>,
}

impl<'p, 'r> Judge<'p, 'r> {
    /// By this filter, and not the entity's own; `None` wants every row.
    #[must_use]
    pub fn new(plan: &'p EntityPlan, filter: Option<&'p RowFilter>) -> Self {
        let (reader, filter) = (HeadReader::new(plan, []), Sieve::of_type(filter));
        Self { plan, reader, filter, values: Vec::new(), key: String::new(), version: Vec::new() }
    }

    /// What this row comes to.
    ///
    /// # Errors
    /// No sink could use it, or the filter cannot say whether it wants it.
    pub fn of(&mut self, row: &Row<'r>) -> Result<Judged, RowFault> {
        let Self { plan, reader, filter, values, key, version } = self;
        key.clear();
        version.clear();
        reader.read(row, values);
        if reader.identity(plan, values, key, version)? {
            return Ok(Judged::Deletion);
        }
        Ok(if filter.ask(row)? { Judged::Wanted } else { Judged::Unwanted })
    }
}
