//! `entities.toml`: which rows make which table, by which key, in which order, and what they refer to.

use std::collections::BTreeMap;

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
#[error("{file}:{line}: {problem}")]
pub struct EntityError {
    /// As given to [`Entities::parse`].
    pub file: String,
    /// 1-based.
    pub line: usize,
    problem: String,
}

impl Entities {
    /// Reads and checks the text of an `entities.toml`; `file` is for errors only.
    ///
    /// # Errors
    /// The first problem with its line: unknown or not yet supported keys (by name), a key without fields, a reference
    /// to an unknown entity or with another number of fields than the parent's key, two entities with one table or one
    /// blobType twice within an entity.
    pub fn parse(text: &str, file: &str) -> Result<Self, EntityError> {
        todo!("{text} {file}")
    }

    /// The entities that rows of `blob_type` belong to.
    #[must_use]
    pub fn for_type(&self, blob_type: &str) -> Option<&Entity> {
        self.0.values().find(|entity| entity.types.iter().any(|name| name == blob_type))
    }
}
