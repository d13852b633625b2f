//! What a row becomes. Pure: no I/O, no clock.
//!
//! | row | of an entity with a key | of no entity |
//! |---|---|---|
//! | the filter wants it | the row, projected | the row, projected |
//! | it does not | a deletion | left out |
//! | a deletion | a deletion | a row like any other, which keeps its mark |
//! | it cannot be said, or no sink could use it | a fault | a fault |
//!
//! A deletion has the key, the version and `_deleted`, and nothing else of the row.

use std::sync::Arc;

use waybill_formats::{Field, FieldPath, Row, RowFilter};
use waybill_subscriber::apply::{EntityPlan, Judge, Judged, RowFault, Sieve};

/// The field that makes a row a deletion.
pub(crate) const DELETED: &str = "_deleted";

/// What becomes of the rows of one blobType.
#[derive(Debug)]
pub struct Rule {
    /// The entity whose rows they are.
    plan: Option<Arc<EntityPlan>>,
    filter: Option<RowFilter>,
    /// What is left of a row; `None` for all of it.
    projection: Option<Fields>,
    /// Key and version.
    identity: Fields,
}

/// Fields by name.
#[derive(Debug, Default)]
struct Fields {
    names: Vec<String>,
    paths: Vec<FieldPath>,
}

/// What a row becomes.
#[derive(Debug, PartialEq)]
pub enum Became<'a, 'r> {
    /// Itself; with only these fields, where there is a projection.
    Row(Option<&'a [(&'a str, Field<'r>)]>),
    /// The deletion of its key, of these fields.
    Deletion {
        /// Key, version and mark.
        fields: &'a [(&'a str, Field<'r>)],
        /// It is one because the filter does not want the row, which may have been wanted before.
        is_unwanted: bool,
    },
    /// Nothing.
    Nothing,
}

/// A [`Rule`] applied to the rows of a batch, one after the other, with the same room.
#[derive(Debug)]
pub struct Application<'p, 'r> {
    rule: &'p Rule,
    asked: Asked<'p, 'r>,
    values: Vec<Field<'r>>,
    fields: Vec<(&'p str, Field<'r>)>,
}

/// Who is asked about a row.
#[derive(Debug)]
enum Asked<'p, 'r> {
    Entity(Box<Judge<'p, 'r>>),
    Type(Sieve<'p, 'r>),
}

impl Fields {
    fn of(names: impl IntoIterator<Item = String>) -> Self {
        let mut fields = Self::default();
        for name in names {
            // A version may be a part of the key.
            if !fields.names.contains(&name) {
                fields.paths.push(FieldPath::name(&name));
                fields.names.push(name);
            }
        }
        fields
    }
}

impl Rule {
    /// For rows of an entity with this key and version, in the order in which deletions have them.
    pub(crate) fn of_entity(
        plan: Arc<EntityPlan>,
        identity: impl IntoIterator<Item = String>,
        filter: Option<RowFilter>,
        projection: Option<&[String]>,
    ) -> Self {
        let projection = projection.map(|names| Fields::of(names.iter().cloned()));
        Self { plan: Some(plan), filter, projection, identity: Fields::of(identity) }
    }

    /// For rows of no entity. Others may know one for them: without its mark a deletion would be a row.
    pub(crate) fn of_type(filter: Option<RowFilter>, projection: Option<&[String]>) -> Self {
        let projection =
            projection.map(|names| Fields::of(names.iter().cloned().chain(std::iter::once(DELETED.to_owned()))));
        Self { plan: None, filter, projection, identity: Fields::default() }
    }

    /// Begins a batch.
    #[must_use]
    pub fn apply<'r>(&self) -> Application<'_, 'r> {
        let asked = match &self.plan {
            Some(plan) => Asked::Entity(Box::new(Judge::new(plan, self.filter.as_ref()))),
            None => Asked::Type(Sieve::of_type(self.filter.as_ref())),
        };
        Application { rule: self, asked, values: Vec::new(), fields: Vec::new() }
    }
}

impl<'p, 'r> Application<'p, 'r> {
    /// What this row becomes.
    ///
    /// # Errors
    /// It cannot be said: its file has to be looked at by a person.
    pub fn of(&mut self, row: &Row<'r>) -> Result<Became<'_, 'r>, RowFault> {
        let judged = match &mut self.asked {
            Asked::Entity(judge) => judge.of(row)?,
            Asked::Type(sieve) => match sieve.ask(row)? {
                true => Judged::Wanted,
                false => return Ok(Became::Nothing),
            },
        };
        let rule = self.rule;
        match (judged, &rule.projection) {
            (Judged::Wanted, None) => return Ok(Became::Row(None)),
            (Judged::Wanted, Some(projection)) => self.read(row, projection),
            (Judged::Unwanted | Judged::Deletion, _) => {
                self.read(row, &rule.identity);
                self.fields.push((DELETED, Field::Bool(true)));
            }
        }
        Ok(match judged {
            Judged::Wanted => Became::Row(Some(&self.fields)),
            judged => Became::Deletion { fields: &self.fields, is_unwanted: judged == Judged::Unwanted },
        })
    }

    fn read(&mut self, row: &Row<'r>, fields: &'p Fields) {
        row.get_many(&fields.paths, &mut self.values);
        self.fields.clear();
        self.fields.extend(fields.names.iter().map(String::as_str).zip(self.values.drain(..)));
    }
}
