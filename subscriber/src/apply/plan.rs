//! An entity as the sink needs it, compiled once from the configuration.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use waybill_contracts::{
    ColumnType, Entities, Entity, OnMissing, OnUnwanted, Reason, SchemaMode, VersionField, VersionType,
};
use waybill_formats::{RowFilter, filter::FilterColumns};

use super::{
    fields::DELETED,
    key::{KeyForm, KeyPart},
    reference::ParkReference,
    shape::{ShapeColumn, folded, is_reserved},
    sieve::Sieve,
};

/// An entity: how its rows are keyed, ordered and related, and which columns are known from the configuration.
#[derive(Debug)]
pub struct EntityPlan {
    pub(super) name: String,
    pub(super) table: String,
    pub(super) mode: SchemaMode,
    pub(super) key: Vec<String>,
    pub(super) key_form: KeyForm,
    pub(super) version: Option<VersionField>,
    pub(super) columns: Vec<ShapeColumn>,
    pub(super) references: Vec<ParkReference>,
    pub(super) is_awaited: bool,
    pub(super) filter: Option<RowFilter>,
    pub(super) on_unwanted: OnUnwanted,
}

/// Why an entity cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct PlanError {
    text: String,
}

/// Why one row is kept aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFault {
    /// For listings.
    pub reason: Reason,
    /// What is wrong.
    pub problem: String,
}

impl PlanError {
    pub(super) fn new(entity: &str, problem: impl Into<String>) -> Self {
        Self { text: format!("entity {entity:?}: {}", problem.into()) }
    }
}

impl EntityPlan {
    /// Compiles an entity; `entities` gives the key types of its parents, and says who refers to it.
    ///
    /// # Errors
    /// [`PlanError`]: a key of a type without a canonical form, a reserved name or two that differ in case only, a
    /// reference that does not match its parent, several types without a declared version, a `where` that is wrong (at its
    /// line).
    pub fn new(entity: &Entity, entities: &Entities) -> Result<Self, PlanError> {
        let fault = |problem: String| PlanError::new(&entity.name, problem);
        if entity.key.is_empty() {
            return Err(fault("has no key; name its fields in `key`".to_owned()));
        }
        if entity.version.is_none() && entity.types.len() > 1 {
            return Err(fault(format!(
                "has the types {}, but no `version` that would order their rows; declare one",
                entity.types.join(", ")
            )));
        }
        let mut columns: Vec<_> = entity
            .columns
            .iter()
            .filter(|column| !entity.key.contains(&column.name))
            .map(|column| ShapeColumn::fixed(&column.name, column.kind))
            .collect();
        if let Some(version) = &entity.version
            && !entity.key.contains(&version.field)
            && entity.column(&version.field).is_none()
        {
            columns.push(ShapeColumn::fixed(&version.field, column_type(version.kind)));
        }
        let mut seen = HashSet::new();
        for field in entity.key.iter().chain(columns.iter().map(|column| &column.field)) {
            if is_reserved(field) || folded(field) == DELETED {
                return Err(fault(format!("column {field:?} has a name that the sink keeps for itself")));
            }
            if !seen.insert(folded(field)) {
                return Err(fault(format!("column {field:?} is named twice; case does not tell columns apart")));
            }
        }
        let refers_here = |other: &Entity| {
            other.references.iter().any(|of| of.entity == entity.name && of.on_missing == OnMissing::Park)
        };
        Ok(Self {
            name: entity.name.clone(),
            table: entity.table.clone(),
            mode: entity.schema,
            key: entity.key.clone(),
            key_form: key_form(entity)?,
            version: entity.version.clone(),
            columns,
            references: ParkReference::all_of(entity, entities)?,
            is_awaited: entities.0.values().any(refers_here),
            filter: filter(entity)?,
            on_unwanted: entity.on_unwanted,
        })
    }

    /// The entity's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its table, as configured.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Whether its rows are ordered by their place in one publisher's sequence, for want of a declared version.
    #[must_use]
    pub fn is_ordered_by_position(&self) -> bool {
        self.version.is_none()
    }

    pub(crate) fn mode(&self) -> SchemaMode {
        self.mode
    }

    pub(crate) fn key(&self) -> impl Iterator<Item = (&str, KeyPart)> {
        self.key.iter().map(String::as_str).zip(self.key_form.parts().iter().copied())
    }

    pub(crate) fn key_form(&self) -> &KeyForm {
        &self.key_form
    }

    /// Columns known from the configuration, without the key.
    pub(crate) fn columns(&self) -> &[ShapeColumn] {
        &self.columns
    }

    pub(crate) fn references(&self) -> &[ParkReference] {
        &self.references
    }

    /// Which rows its table holds; `None` for all.
    #[must_use]
    pub fn filter(&self) -> Option<&RowFilter> {
        self.filter.as_ref()
    }

    /// Which rows its table holds, and what the others take away: under another one, other rows would be in it.
    pub(crate) fn filter_signature(&self) -> Option<String> {
        let signature = self.filter.as_ref()?.signature();
        Some(match self.on_unwanted {
            OnUnwanted::Remove => signature,
            OnUnwanted::Drop => format!("{signature}; others dropped"),
        })
    }

    /// Lets all rows pass but those that are dropped, of which nothing is wanted any further.
    pub(crate) fn dropping<'r>(&self) -> Sieve<'_, 'r> {
        Sieve::of_entity(self.filter.as_ref().filter(|_| self.on_unwanted == OnUnwanted::Drop))
    }

    /// Whether rows of some entity wait for rows of this one.
    pub(crate) fn is_awaited(&self) -> bool {
        self.is_awaited
    }

    /// How the stored versions and keys came about; rows made under another order cannot be compared with new ones.
    pub(crate) fn order(&self) -> String {
        let key: Vec<_> = self.key().map(|(field, part)| format!("{field} {}", part.column_type())).collect();
        let version = match &self.version {
            Some(version) => {
                let kind = match version.kind {
                    VersionType::Timestamp => "timestamp",
                    VersionType::Integer | VersionType::Decimal => "number",
                    VersionType::Text => "text",
                };
                format!("{} {kind}", version.field)
            }
            None => "position".to_owned(),
        };
        format!("key ({}), version ({version})", key.join(", "))
    }
}

/// What a predicate over an entity's rows may name, and what that is.
#[must_use]
pub fn filter_columns(entity: &Entity) -> FilterColumns<'_> {
    let mut columns: Vec<(&str, Option<ColumnType>)> =
        entity.columns.iter().map(|column| (column.name.as_str(), Some(column.kind))).collect();
    let mut add = |name, kind| {
        if !columns.iter().any(|(known, _)| *known == name) {
            columns.push((name, kind));
        }
    };
    entity.version.iter().for_each(|version| add(version.field.as_str(), Some(column_type(version.kind))));
    let references = entity.references.iter().flat_map(|reference| &reference.fields);
    entity.key.iter().chain(references).for_each(|name| add(name.as_str(), None));
    FilterColumns { columns, is_closed: entity.schema == SchemaMode::Freeze }
}

/// The entity's `where`, typed by its columns.
fn filter(entity: &Entity) -> Result<Option<RowFilter>, PlanError> {
    let Some(predicate) = &entity.filter else { return Ok(None) };
    RowFilter::compile(predicate.text(), &filter_columns(entity)).map(Some).map_err(|error| PlanError {
        text: predicate.error(error.at, &format!("entity {:?}: `where`: {}", entity.name, error.problem)).to_string(),
    })
}

/// What a version's field is as a column.
fn column_type(kind: VersionType) -> ColumnType {
    match kind {
        VersionType::Timestamp => ColumnType::Timestamp,
        VersionType::Integer => ColumnType::Integer,
        VersionType::Decimal => ColumnType::Decimal,
        VersionType::Text => ColumnType::Text,
    }
}

/// How an entity's keys are spelt.
///
/// # Errors
/// A part of a type without a canonical form.
pub(super) fn key_form(entity: &Entity) -> Result<KeyForm, PlanError> {
    let part = |field: &String| {
        let kind = entity.column(field);
        KeyPart::of(kind).ok_or_else(|| {
            let kind = kind.map(|kind| kind.to_string()).unwrap_or_default();
            PlanError::new(&entity.name, format!("key field {field:?} is declared as {kind}, which cannot be a key"))
        })
    };
    Ok(KeyForm::new(entity.key.iter().map(part).collect::<Result<_, _>>()?))
}

/// All entities, compiled.
#[derive(Debug, Clone, Default)]
pub struct EntityPlans {
    by_name: BTreeMap<String, Arc<EntityPlan>>,
    by_type: HashMap<String, Arc<EntityPlan>>,
}

impl EntityPlans {
    /// Compiles all of them.
    ///
    /// # Errors
    /// The first entity that cannot be used, and two that share a table or a type.
    pub fn compile(entities: &Entities) -> Result<Self, PlanError> {
        let mut plans = Self::default();
        let mut tables = HashSet::new();
        for entity in entities.0.values() {
            let plan = Arc::new(EntityPlan::new(entity, entities)?);
            if !tables.insert(folded(&entity.table)) {
                return Err(PlanError::new(&entity.name, format!("shares its table {:?} with another", entity.table)));
            }
            for blob_type in &entity.types {
                if plans.by_type.insert(blob_type.clone(), Arc::clone(&plan)).is_some() {
                    return Err(PlanError::new(&entity.name, format!("shares its type {blob_type:?} with another")));
                }
            }
            plans.by_name.insert(entity.name.clone(), plan);
        }
        Ok(plans)
    }

    /// The entity that rows of a blobType belong to.
    #[must_use]
    pub fn for_type(&self, blob_type: &str) -> Option<&Arc<EntityPlan>> {
        self.by_type.get(blob_type)
    }

    /// An entity by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<EntityPlan>> {
        self.by_name.get(name)
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<EntityPlan>> {
        self.by_name.values()
    }
}
