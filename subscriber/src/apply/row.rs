//! One row's values and references, read when the sink comes to it.

use std::{collections::HashSet, ops::Range};

use waybill_formats::{Field, Row};

use super::{
    fields::{DELETED, FieldReader},
    plan::EntityPlan,
    shape::Shape,
    value::{Value, field_json},
};

/// Reads rows one after the other into the same buffers.
#[derive(Debug)]
pub(crate) struct RowReader<'r> {
    fields: FieldReader,
    kinds: Vec<waybill_contracts::ColumnType>,
    names: Vec<String>,
    /// For each reference the slots of its fields.
    references: Vec<Vec<usize>>,
    read: Vec<Field<'r>>,
    values: Vec<Value<'r>>,
    rescued: Rescued,
    is_misfit: bool,
    parents: String,
    parent_spans: Vec<Option<Range<usize>>>,
}

impl<'r> RowReader<'r> {
    /// For rows of an entity and a table as `shape` says; rows of no entity have neither references nor deletions.
    pub(crate) fn new(plan: Option<&EntityPlan>, shape: &Shape) -> Self {
        let mut fields = FieldReader::new(shape.columns.iter().map(|column| column.field.as_str()));
        let slots = |reference: &super::reference::ParkReference, fields: &mut FieldReader| {
            reference.fields.iter().map(|name| fields.want(name)).collect()
        };
        let references = plan.into_iter().flat_map(EntityPlan::references).map(|of| slots(of, &mut fields)).collect();
        fields.pass(shape.key.iter().map(String::as_str));
        if plan.is_some() {
            fields.pass([DELETED]);
        }
        Self {
            fields,
            kinds: shape.columns.iter().map(|column| column.kind).collect(),
            names: shape.columns.iter().map(|column| column.field.clone()).collect(),
            references,
            read: Vec::new(),
            values: Vec::new(),
            rescued: Rescued::default(),
            is_misfit: false,
            parents: String::new(),
            parent_spans: Vec::new(),
        }
    }

    /// Reads a row; what was read before is gone.
    pub(crate) fn read(&mut self, plan: Option<&EntityPlan>, row: &Row<'r>) {
        self.rescued.clear();
        self.is_misfit = false;
        self.parents.clear();
        self.parent_spans.clear();
        self.values.clear();
        let Self { fields, kinds, names, references, read, values, rescued, is_misfit, parents, parent_spans } = self;
        fields.read(row, read, |name, value| rescued.add(name, &value));
        for (reference, slots) in plan.into_iter().flat_map(EntityPlan::references).zip(references) {
            let begin = parents.len();
            let refers = reference.form.push_reference(slots.iter().filter_map(|slot| read.get(*slot)), parents);
            parent_spans.push(refers.then_some(begin..parents.len()));
        }
        for ((kind, name), field) in kinds.iter().zip(names).zip(read) {
            values.push(Value::fit(*kind, std::mem::replace(field, Field::Missing)).unwrap_or_else(|unfit| {
                rescued.add(name, &unfit);
                *is_misfit = true;
                Value::Null
            }));
        }
        rescued.end();
    }

    /// In the order of the shape's columns.
    pub(crate) fn values(&self) -> &[Value<'r>] {
        &self.values
    }

    /// What has no column or does not fit it, as a JSON object.
    pub(crate) fn rescued(&self) -> Option<&str> {
        Some(self.rescued.json.as_str()).filter(|json| !json.is_empty())
    }

    /// Whether a value does not fit its column.
    pub(crate) fn is_misfit(&self) -> bool {
        self.is_misfit
    }

    /// For each of the plan's references the parent's key, `None` where the row refers to nothing.
    pub(crate) fn parents(&self) -> impl Iterator<Item = Option<&str>> {
        self.parent_spans.iter().map(|span| span.clone().and_then(|span| self.parents.get(span)))
    }
}

/// Fields that have no column or do not fit it, as a JSON object; empty where there are none.
#[derive(Debug, Default)]
struct Rescued {
    json: String,
    names: HashSet<String>,
}

impl Rescued {
    fn clear(&mut self) {
        self.json.clear();
        self.names.clear();
    }

    /// Adds a field. A null is what a column that there is not reads as; of a repeated name the first value counts.
    fn add(&mut self, name: &str, value: &Field<'_>) {
        if !self.names.insert(name.to_owned()) || matches!(value, Field::Missing | Field::Null) {
            return;
        }
        let (Ok(name), Some(value)) = (serde_json::to_string(name), field_json(value)) else { return };
        self.json.push(if self.json.is_empty() { '{' } else { ',' });
        self.json.push_str(&name);
        self.json.push(':');
        self.json.push_str(&value);
    }

    fn end(&mut self) {
        if !self.json.is_empty() {
            self.json.push('}');
        }
    }
}
