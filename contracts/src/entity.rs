//! `entities.toml`: which rows make which table, by which key, in which order, and what they refer to.

mod parse;
mod predicate;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

pub use self::predicate::Predicate;
use crate::{pattern::is_of_types, quote::quote};

/// All entities of a configuration, by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Entities(pub BTreeMap<String, Entity>);

/// A kind of row.
#[derive(Debug, Clone, PartialEq)]
pub struct Entity {
    /// The name in `[entity.NAME]`.
    pub name: String,
    /// blobTypes whose rows are this entity; default: the name.
    pub types: Vec<String>,
    /// Field names of the key, in order; at least one.
    pub key: Vec<String>,
    /// The field that orders versions; without it, the place in the sequence does.
    pub version: Option<VersionField>,
    /// Default: the name.
    pub table: String,
    /// What happens to fields that are not columns yet.
    pub schema: SchemaMode,
    /// Declared columns, in the order of the file; the rest is inferred.
    pub columns: Vec<Column>,
    /// What rows refer to.
    pub references: Vec<Reference>,
    /// Which rows the table holds; default: all.
    pub filter: Option<Predicate>,
    /// What becomes of the others.
    pub on_unwanted: OnUnwanted,
}

/// `version = { field = …, type = … }`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionField {
    /// The field's name.
    pub field: String,
    /// How its values compare.
    pub kind: VersionType,
}

/// How versions compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionType {
    /// RFC 3339 instants.
    Timestamp,
    /// Integers of any length.
    Integer,
    /// Decimals of any length.
    Decimal,
    /// Text, by its UTF-8 bytes.
    Text,
}

/// `schema = …`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SchemaMode {
    /// New fields become columns (the default).
    #[default]
    Evolve,
    /// New fields go to `_rescued`.
    Freeze,
}

/// A declared column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// Exactly the field's name.
    pub name: String,
    /// Its type.
    pub kind: ColumnType,
}

/// `integer`, `decimal`, `float`, `boolean`, `text`, `timestamp`, `date`, `uuid`, `json`, `binary`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum ColumnType {
    Integer,
    Decimal,
    Float,
    Boolean,
    Text,
    Timestamp,
    Date,
    Uuid,
    Json,
    Binary,
}

/// `[[entity.NAME.references]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Fields of this entity, in the order of the parent's key; a null in any of them means no reference.
    pub fields: Vec<String>,
    /// The parent's name.
    pub entity: String,
    /// What to do while the parent is missing.
    pub on_missing: OnMissing,
    /// How long a row waits, and what then; `None`: for as long as it takes.
    pub max_wait: Option<MaxWait>,
}

/// `max_wait = …, then = …`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxWait {
    /// Counted from when the row was parked.
    pub after: Duration,
    /// What becomes of the row.
    pub then: AfterWait,
}

/// `then = …`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterWait {
    /// It is applied without its parent.
    Apply,
    /// It is kept aside with the reason, for a person.
    Quarantine,
}

/// `on_unwanted = …`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnUnwanted {
    /// It takes away an older row of its key, and no older one comes later: whatever the order, the table holds the rows whose
    /// newest version matches.
    #[default]
    Remove,
    /// It is dropped as if it had never come. That comes to the same only where what `where` reads never changes for a key.
    Drop,
}

/// `on_missing = …`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnMissing {
    /// Keep the row aside until the parent arrives.
    Park,
    /// Apply the row without its parent.
    Apply,
}

/// What is wrong with an `entities.toml`, and where.
#[derive(Debug, thiserror::Error)]
#[error("{file}:{line}{}: {problem}", self.column.map_or(String::new(), |column| format!(":{column}")))]
pub struct EntityError {
    /// As given to [`Entities::parse`].
    pub file: String,
    /// 1-based.
    pub line: usize,
    /// 1-based, in characters; where it is known.
    pub column: Option<usize>,
    problem: String,
}

/// A configuration that works an entity's rows and never those of the parents that they wait for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "entity {} parks rows until their {} is there, but `types` lists none of its types ({}); add one of them, or set \
     on_missing = \"apply\" for {}",
    quote(entity), quote(parent), types.join(", "), fields.join(", ")
)]
pub struct MissingParentError {
    /// The entity that refers.
    pub entity: String,
    /// The entity that nothing brings.
    pub parent: String,
    /// The types that would bring it.
    pub types: Vec<String>,
    /// The fields of the reference.
    pub fields: Vec<String>,
}

impl Entities {
    /// Reads and checks the text of an `entities.toml`; `file` is for errors only.
    ///
    /// # Errors
    /// The first problem with its line: unknown or not yet supported keys (by name), a key without fields, a reference
    /// to an unknown entity or with another number of fields (or other declared types) than the parent's key, two
    /// entities with one table or one blobType, an entity of several types without a version, a reserved name, two
    /// names that differ in case only.
    pub fn parse(text: &str, file: &str) -> Result<Self, EntityError> {
        parse::parse(text, file)
    }

    /// Checks that what a row may wait for can come: `configured` are the blobTypes that are worked (`*` in them stands for
    /// any characters), `None` for all.
    /// An entity that no configured type brings is not asked: it has no rows that could wait.
    ///
    /// # Errors
    /// The first `park` reference, by the names of the entities, to an entity that no configured type brings.
    pub fn check_types(&self, configured: Option<&[String]>) -> Result<(), MissingParentError> {
        let Some(configured) = configured else { return Ok(()) };
        let is_brought = |entity: &Entity| entity.types.iter().any(|name| is_of_types(name, configured));
        for entity in self.0.values().filter(|entity| is_brought(entity)) {
            for reference in entity.references.iter().filter(|reference| reference.on_missing == OnMissing::Park) {
                let Some(parent) = self.0.get(&reference.entity) else { continue };
                if !is_brought(parent) {
                    return Err(MissingParentError {
                        entity: entity.name.clone(),
                        parent: parent.name.clone(),
                        types: parent.types.clone(),
                        fields: reference.fields.clone(),
                    });
                }
            }
        }
        Ok(())
    }

    /// The entity that rows of `blob_type` belong to.
    #[must_use]
    pub fn for_type(&self, blob_type: &str) -> Option<&Entity> {
        self.0.values().find(|entity| entity.types.iter().any(|name| name == blob_type))
    }
}

impl Entity {
    /// The declared type of a column.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<ColumnType> {
        self.columns.iter().find(|column| column.name == name).map(|column| column.kind)
    }
}

/// As in `entities.toml`.
impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
