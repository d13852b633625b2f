//! What the algorithm asks of a database, within one transaction: a key at a time, as if every answer came at once. SQLite
//! answers from its own pages; for a server across a network the dialect fetches what is needed in bulk beforehand, and
//! writes what was said in bulk afterwards.

use std::sync::Arc;

use waybill_contracts::Reason;

use super::Failure;
use crate::apply::{EntityPlan, EntityPlans, ReadRow, Shape};

/// A table that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TableId(pub(super) usize);

/// What is there under a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Current {
    Absent,
    Older,
    SameOrNewer,
}

/// What became of a row that was put without a look at what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    Inserted,
    Updated,
    /// A row that is not older is there.
    NotNewer,
}

/// Whether the database took a row.
#[derive(Debug)]
pub(crate) enum Written {
    Done,
    /// A trigger of the user's left it out.
    Skipped,
    /// What it says; the row had no effect.
    Refused(String),
}

/// Where a row comes from.
#[derive(Debug)]
pub(crate) struct Origin<'a> {
    pub(crate) file: &'a str,
    pub(crate) row: u64,
    pub(crate) offset: Option<u64>,
    /// Its key, if it has one.
    pub(crate) key: Option<&'a str>,
}

/// What became of a row that was to wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parking {
    Parked,
    /// A row that is not older is parked already.
    NotNewer,
    /// The database cannot hold it, and says why.
    Refused(String),
}

/// A row that waits.
#[derive(Debug, Clone)]
pub(crate) struct Parked {
    pub(crate) id: i64,
    pub(crate) entity: String,
    pub(crate) key: String,
    pub(crate) version: Vec<u8>,
    pub(crate) json: String,
    pub(super) file: String,
    pub(super) row: u64,
    /// Parents that it does not wait for any more, though they are missing: entity and key.
    pub(crate) without: Vec<(String, String)>,
}

impl Parked {
    pub(crate) fn origin(&self) -> Origin<'_> {
        Origin { file: &self.file, row: self.row, offset: None, key: Some(&self.key) }
    }
}

/// Reads `without` back. What a hand has damaged is nothing: the row waits again.
pub(super) fn read_without(stored: Option<&str>) -> Vec<(String, String)> {
    stored.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// `without` as it is stored.
pub(super) fn write_without(without: &[(String, String)]) -> Option<String> {
    (!without.is_empty()).then(|| serde_json::json!(without).to_string())
}

/// The table of a type that had no entity when its rows came, and has one with another table now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgrown {
    /// Its name.
    pub table: String,
    /// The type whose rows it holds.
    pub blob_type: String,
    /// The entity that has the type now.
    pub entity: String,
}

impl Outgrown {
    /// Those among the tables of types, each with its type.
    pub(super) fn of(plans: &EntityPlans, tables: Vec<(String, String)>) -> Vec<Self> {
        let outgrown = |(table, blob_type): (String, String)| {
            let entity = plans.for_type(&blob_type)?.name().to_owned();
            Some(Self { table, blob_type, entity })
        };
        tables.into_iter().filter_map(outgrown).collect()
    }
}

/// Of a bad row's bytes.
pub(super) const BAD_BYTES_MAX: usize = 64 << 10;

/// Databases count up to 2^63.
pub(super) fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The tables that one transaction works on. What one call changes, the next one sees.
pub(crate) trait Tables {
    /// An entity that is configured.
    fn plan(&self, name: &str) -> Option<Arc<EntityPlan>>;
    /// Opens an entity's table.
    fn open(&mut self, entity: &str) -> Result<TableId, Failure>;
    /// Its columns.
    fn shape(&mut self, id: TableId) -> Result<Arc<Shape>, Failure>;
    /// Whether the database can hold a row with this key at all; if not, why.
    fn holds_key(&self, id: TableId, key: &str) -> Result<(), String>;
    /// What the table, or a tombstone, holds under a key, against this version.
    fn compare(&mut self, id: TableId, key: &str, version: &[u8]) -> Result<Current, Failure>;
    /// Whether the table has a row with this key.
    fn is_present(&mut self, id: TableId, key: &str) -> Result<bool, Failure>;
    /// Inserts or updates a row; a tombstone goes.
    fn upsert(&mut self, id: TableId, key: &str, version: &[u8], row: ReadRow<'_>) -> Result<Written, Failure>;
    /// The same for a row that may not be newer, where the database itself says what became of it. `None`: nothing did, and
    /// [`compare`](Self::compare) has to say what is there.
    fn put(&mut self, id: TableId, key: &str, version: &[u8], row: ReadRow<'_>) -> Result<Option<Put>, Failure>;
    /// Adds a row of a file of no entity.
    fn append(&mut self, id: TableId, file: &str, number: u64, row: ReadRow<'_>) -> Result<Written, Failure>;
    /// Deletes the row with this key. `version` is the deletion's own.
    fn delete(&mut self, id: TableId, key: &str, version: &[u8]) -> Result<Written, Failure>;
    /// Remembers a deletion.
    fn bury(&mut self, id: TableId, key: &str, version: &[u8]) -> Result<Written, Failure>;
    /// Parks a row, instead of an older one with its key.
    fn park(
        &mut self,
        id: TableId,
        key: &str,
        version: &[u8],
        missing: (TableId, &str),
        origin: &Origin<'_>,
        json: &str,
    ) -> Result<Parking, Failure>;
    /// Removes the parked row with this key, if it is not newer.
    fn forget_parked(&mut self, id: TableId, key: &str, version: &[u8]) -> Result<(), Failure>;
    /// Removes a parked row.
    fn unpark(&mut self, parked: i64) -> Result<(), Failure>;
    /// Lets a parked row of the first table wait for another parent, in the second one, and remembers what it does not wait
    /// for any more.
    fn wait_for(&mut self, parked: &Parked, tables: (TableId, TableId), missing_key: &str) -> Result<Written, Failure>;
    /// Whether any row waits for some row of this entity.
    fn has_waiting(&mut self, id: TableId) -> Result<bool, Failure>;
    /// Whether any row waits for this one.
    fn is_waited_for(&mut self, id: TableId, key: &str) -> Result<bool, Failure>;
    /// Takes note that a value did not fit its column, by the column's place in the table's shape.
    fn note_misfit(&mut self, id: TableId, column: usize);
    /// Keeps a row that cannot be used.
    fn keep_bad_row(&mut self, origin: &Origin<'_>, reason: Reason, problem: &str, bytes: &[u8])
    -> Result<(), Failure>;
}
