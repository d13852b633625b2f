//! What both dialects say of tables: the columns that the sink keeps for itself, whose table it is, and refusals.

use waybill_contracts::{Reason, SqlName};

use super::{Failure, refused};
use crate::{
    apply::{Begin, EntityPlan, KeyPart, Position, ShapeColumn, Side},
    sink::EntityBatch,
};

pub(super) const VERSION: &str = "_waybill_version";
pub(super) const RESCUED: &str = "_rescued";
pub(super) const FILE: &str = "_waybill_file";
pub(super) const ROW: &str = "_waybill_row";

/// Of a foreign key that the user has put between tables.
pub(super) const FOREIGN_KEY_ADVICE: &str = "; files come in any order, so name the parent under `references` of the entity, for whose row its children then wait, and \
     have the foreign key DELETE CASCADE or SET NULL, or drop it";

pub(super) const TO_STRING: &str = "writing to a string cannot fail";

/// A name of the catalogue, for statements.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(super) fn key_columns(plan: &EntityPlan) -> String {
    plan.key().map(|(field, _)| SqlName::new(field).to_string()).collect::<Vec<_>>().join(", ")
}

/// A line of `_waybill_table`: a table in use.
pub(super) struct Registered {
    pub(super) table: String,
    pub(super) entity: Option<String>,
    pub(super) blob_type: Option<String>,
    /// How its keys and versions were made.
    pub(super) rule: String,
    /// Whether it begins at a full export.
    pub(super) is_begun: bool,
    /// Which rows it was filled with; `None` for all.
    pub(super) filter: Option<String>,
}

impl Registered {
    /// Refuses a table that is somebody else's, or was filled under another rule. `is_same` compares its name as the
    /// database does.
    pub(super) fn admit(
        self,
        plan: &EntityPlan,
        name: &SqlName,
        is_same: impl FnOnce(&str, &str) -> bool,
    ) -> Result<(), Failure> {
        let entity = plan.name();
        if self.entity.as_deref() != Some(entity) {
            let rebuild = match self.blob_type {
                Some(_) => ", or let `waybill-subscriber rebuild` make the table anew from all files",
                None => "",
            };
            return Err(refused(format!("{}{rebuild}", self.is_anothers(plan))));
        }
        if !is_same(&self.table, name.as_str()) {
            return Err(self.is_elsewhere(plan, name));
        }
        let Self { table, rule: known, is_begun, filter, .. } = self;
        let literal = |text: &str| text.replace('\'', "''");
        let rule = rule_of(plan, is_begun);
        if known != rule {
            return Err(refused(format!(
                "entity {entity:?} was filled by {known} and is now configured as {rule}, under which its rows cannot be \
                 compared; take back the change, or let `waybill-subscriber rebuild --type {entity}` derive the table again from \
                 all files"
            )));
        }
        let wanted = plan.filter_signature();
        if filter != wanted {
            let shown =
                |filter: &Option<String>| filter.as_ref().map_or("no filter".to_owned(), |text| format!("`{text}`"));
            let value = wanted.as_deref().map_or("NULL".to_owned(), |text| format!("'{}'", literal(text)));
            return Err(refused(format!(
                "entity {entity:?}: table {table} was filled with {} and `where` now is {}; rows that only one of them wants \
                 are in it, or missing, until a newer version of them comes. Take back the change, or let `waybill-subscriber \
                 rebuild --type {entity}` derive the table again from all files; or say that it may stay so: UPDATE _waybill_table SET filter = {value} WHERE \
                 entity = '{}'",
                shown(&filter),
                shown(&wanted),
                literal(entity),
            )));
        }
        Ok(())
    }

    /// Refuses a table that another entity has, or that is in another place than is configured: a rebuild takes none of these.
    pub(super) fn admit_place(
        self,
        plan: &EntityPlan,
        name: &SqlName,
        is_same: impl FnOnce(&str, &str) -> bool,
        is_configured: impl FnOnce(&str) -> bool,
    ) -> Result<(), Failure> {
        match self.entity.as_deref() {
            Some(owner) if owner == plan.name() && !is_same(&self.table, name.as_str()) => {
                Err(self.is_elsewhere(plan, name))
            }
            Some(owner) if owner != plan.name() && is_configured(owner) => Err(refused(self.is_anothers(plan))),
            _ => Ok(()),
        }
    }

    fn is_anothers(&self, plan: &EntityPlan) -> String {
        let Self { table, entity: owner, blob_type, .. } = self;
        let owner = match (owner, blob_type) {
            (Some(owner), _) => format!("entity {owner:?}"),
            (None, Some(blob_type)) => format!("type {blob_type:?}, which had no entity so far"),
            (None, None) => "nobody known".to_owned(),
        };
        format!("entity {:?}: table {table} holds the rows of {owner}; give the entity another `table`", plan.name())
    }

    fn is_elsewhere(&self, plan: &EntityPlan, name: &SqlName) -> Failure {
        let (table, entity) = (&self.table, plan.name());
        let literal = |text: &str| text.replace('\'', "''");
        refused(format!(
            "entity {entity:?} is in table {table} so far, and configured for {new}; rename it there as well (ALTER TABLE {} \
             RENAME TO {name}; UPDATE _waybill_table SET name = '{}' WHERE entity = '{}'; UPDATE _waybill_column SET \
             table_name = '{}' WHERE table_name = '{}'), or use another database",
            quoted(table),
            literal(name.as_str()),
            literal(entity),
            literal(name.as_str()),
            literal(table),
            new = name.as_str(),
        ))
    }
}

/// How keys and versions of a table come about, as it is stored. Of one that begins at a full export it says so: a program that
/// runs since before there were such places takes that for another definition, and brings nothing.
pub(super) fn rule_of(plan: &EntityPlan, is_begun: bool) -> String {
    plan.order() + if is_begun { ", from a full export on" } else { "" }
}

/// The place at which a table begins, as it is stored.
pub(super) fn write_begin(begin: &Begin) -> String {
    serde_json::to_string(begin).expect("names and a number can be written")
}

/// Reads it back.
pub(super) fn read_begin(plan: &EntityPlan, stored: Option<&str>) -> Result<Option<Begin>, Failure> {
    let read = stored.map(serde_json::from_str::<Begin>).transpose();
    read.map_err(|error| {
        refused(format!(
            "entity {entity:?}: at which full export its table begins cannot be read in _waybill_table ({error}); let \
             `waybill-subscriber rebuild --type {entity}` derive the table again",
            entity = plan.name()
        ))
    })
}

/// Whether a file is before the full export at which its table begins. One of which that cannot be said is refused.
pub(super) fn is_before(plan: &EntityPlan, begin: Option<&Begin>, batch: &EntityBatch) -> Result<bool, Failure> {
    let Some(begin) = begin else { return Ok(false) };
    if let Some(side) = begin.side(&batch.blob_type, &batch.position) {
        return Ok(side == Side::Before);
    }
    let Begin { blob_type, publisher, snapshot, .. } = begin;
    let of = match &batch.position {
        _ if *blob_type != *batch.blob_type => format!("is of type {:?}", batch.blob_type),
        Position::Broker { .. } => "has no number".to_owned(),
        Position::Sequenced { publisher: other, .. } | Position::Snapshot { publisher: other, .. }
            if other != publisher =>
        {
            format!("is from {other:?}")
        }
        Position::Sequenced { epoch, .. } | Position::Snapshot { epoch, .. } => {
            format!("has a number of an earlier epoch, {epoch:?}")
        }
    };
    let entity = plan.name();
    Err(Failure::Refused {
        reason: Reason::ForeignPublisher,
        problem: format!(
            "entity {entity:?}: its table begins at the full export {snapshot:?} of {blob_type} from {publisher:?}, and which rows \
             were deleted before that is not known; this file {of}, so it might bring such rows back. Let `waybill-subscriber \
             rebuild --type {entity}` derive the table without that full export (where early files are missing: with --incomplete), \
             or give such files a type and an entity of their own"
        ),
    })
}

/// Lets no rows into a table that was derived again under another definition since this program began.
pub(super) fn same_definition(
    plan: &EntityPlan,
    rule: Option<&str>,
    filter: Option<&str>,
    begins: Option<&str>,
) -> Result<(), Failure> {
    let wanted = plan.filter_signature();
    if rule.is_none_or(|rule| rule == rule_of(plan, begins.is_some()) && filter == wanted.as_deref()) {
        return Ok(());
    }
    let (entity, table) = (plan.name(), plan.table());
    Err(Failure::Outdated {
        problem: format!(
            "entity {entity:?}: table {table} was derived again under another definition than this program was started with; \
             start it again with the new one"
        ),
    })
}

/// A table that must be made anew, with a column that nobody but the user fills.
pub(super) fn would_lose(plan: &EntityPlan, name: &SqlName, column: &str) -> Failure {
    refused(format!(
        "entity {:?}: table {name} does not fit any more and must be made anew, but column {column:?} is not from the files \
         and would be lost; move it to a table of yours, or drop it",
        plan.name()
    ))
}

/// A column of integers to which decimals came, and which something of the user's stands on.
pub(super) fn wont_widen(name: &SqlName, column: &str, problem: &str) -> Failure {
    refused(format!(
        "column {column:?} of table {name} must become one of decimals, which the database does not allow: {problem}; take \
         away what stands on it and put it there again afterwards, or declare the column as integer (decimals are kept in \
         _rescued then)"
    ))
}

/// A table of the user where one without an entity is to be.
pub(super) fn table_is_taken(name: &SqlName) -> Failure {
    refused(format!("table {name} is there and another's; define an entity for the type, or rename that table"))
}

pub(super) fn lacks_own_column(plan: &EntityPlan, name: &SqlName, field: &str, declared: &str) -> Failure {
    refused(format!(
        "entity {:?}: table {name} is there but was not made by this sink: it lacks {field}; add it (ALTER TABLE {name} ADD \
         COLUMN {field} {declared}), or give the entity another `table`",
        plan.name()
    ))
}

pub(super) fn lacks_key(plan: &EntityPlan, name: &SqlName) -> Failure {
    refused(format!(
        "entity {:?}: table {name} is there, but ({}) is neither its primary key nor unique in it; add a unique index on \
         exactly these columns, correct `key`, give the entity another `table`, or, if the sink made the table, let \
         `waybill-subscriber rebuild --type {}` make it anew",
        plan.name(),
        key_columns(plan),
        plan.name()
    ))
}

/// Rows are told apart by the bytes of their keys everywhere else: where they wait, and where deletions are remembered.
pub(super) fn collates_key(
    plan: &EntityPlan,
    name: &SqlName,
    by: &Collating,
    make_bytewise: impl FnOnce(&str) -> String,
) -> Failure {
    let Collating { column, index, collation } = by;
    let (of, also) = match index {
        Some(index) => (format!("of index {index:?} on table {name}"), ", and the index anew without the collation"),
        None => (format!("of table {name}"), ""),
    };
    refused(format!(
        "entity {:?}: key column {column:?} {of} compares its text by collation {collation:?}, under which keys that are not \
         the same could be, and one row would take the place of another; make the column compare byte by byte ({}){also}, or \
         give the entity another `table`",
        plan.name(),
        make_bytewise(column),
    ))
}

/// What compares a key's text otherwise than byte by byte.
pub(super) struct Collating {
    pub(super) column: String,
    /// The unique index that does, unless the column itself does.
    pub(super) index: Option<String>,
    pub(super) collation: String,
}

/// The columns of the key that hold text as it was written; other parts have one spelling for one value.
pub(super) fn text_key_columns(plan: &EntityPlan) -> Vec<String> {
    let texts = plan.key().filter(|(_, part)| *part == KeyPart::AsWritten);
    texts.map(|(field, _)| SqlName::new(field).as_str().to_owned()).collect()
}

pub(super) fn lacks_frozen_column(plan: &EntityPlan, name: &SqlName, column: &ShapeColumn, add: &str) -> Failure {
    refused(format!(
        "entity {:?}: table {name} has no column {:?}, and `schema` is freeze; add it: {add}",
        plan.name(),
        column.field
    ))
}

pub(super) fn needs_column(plan: &EntityPlan, name: &SqlName, column: &str) -> Failure {
    let entity = plan.name();
    refused(format!(
        "entity {entity:?}: column {column:?} of table {name} is NOT NULL without a default, and no declared column brings \
         it; declare it in [entity.{entity}.columns], or give it a default"
    ))
}

pub(super) fn stream_is_taken(blob_type: &str, name: &SqlName) -> Failure {
    refused(format!(
        "type {blob_type:?} has no entity, so its rows would be added to a table {name}, which is there and another's; define \
         an entity for the type, or rename that table"
    ))
}
