//! A row's fields as the values of columns and the keys of parents.

use std::collections::HashSet;

use waybill_contracts::ColumnType;
use waybill_formats::{Field, Row};

use super::{
    fields::{DELETED, FieldReader},
    kept::{KeptRows, ReadRow},
    plan::EntityPlan,
    shape::Shape,
    value::{Value, field_json},
};

/// Which of a row's fields become what, by their slots.
#[derive(Debug)]
pub(super) struct RowForm {
    columns: Vec<Column>,
    /// For each reference the slots of its fields.
    references: Vec<Vec<usize>>,
}

#[derive(Debug)]
struct Column {
    slot: usize,
    kind: ColumnType,
    field: String,
}

impl RowForm {
    /// For rows of a table as `shape` says; rows of no entity have no references.
    pub(super) fn new(plan: Option<&EntityPlan>, shape: &Shape, fields: &mut FieldReader) -> Self {
        let mut column = |column: &super::ShapeColumn| Column {
            slot: fields.want(&column.field),
            kind: column.kind,
            field: column.field.clone(),
        };
        let columns = shape.columns.iter().map(&mut column).collect();
        let references = plan.into_iter().flat_map(EntityPlan::references);
        let references = references.map(|of| of.fields.iter().map(|name| fields.want(name)).collect()).collect();
        Self { columns, references }
    }

    /// Keeps a row, given its fields by their slots, and those without a column. The columns' fields are gone then.
    pub(super) fn keep(
        &self,
        plan: Option<&EntityPlan>,
        fields: &mut [Field<'_>],
        rescued: &mut Rescued,
        kept: &mut KeptRows,
    ) {
        kept.begin();
        for (reference, slots) in plan.into_iter().flat_map(EntityPlan::references).zip(&self.references) {
            kept.add_parent(|key| {
                reference.form.push_reference(slots.iter().filter_map(|slot| fields.get(*slot)), key)
            });
        }
        for Column { slot, kind, field } in &self.columns {
            match Value::fit(*kind, std::mem::replace(&mut fields[*slot], Field::Missing)) {
                Ok(value) => kept.add(&value),
                Err(unfit) => {
                    rescued.add(field, &unfit);
                    kept.add_misfit();
                }
            }
        }
        kept.end(rescued.json());
    }
}

/// Reads rows one after the other into the same buffers.
#[derive(Debug)]
pub(crate) struct RowReader<'r> {
    fields: FieldReader,
    form: RowForm,
    read: Vec<Field<'r>>,
    rescued: Rescued,
    kept: KeptRows,
}

impl<'r> RowReader<'r> {
    /// For rows of an entity and a table as `shape` says; rows of no entity have neither references nor deletions.
    pub(crate) fn new(plan: Option<&EntityPlan>, shape: &Shape) -> Self {
        let mut fields = FieldReader::new([]);
        let form = RowForm::new(plan, shape, &mut fields);
        fields.pass(shape.key.iter().map(String::as_str));
        if plan.is_some() {
            fields.pass([DELETED]);
        }
        Self { fields, form, read: Vec::new(), rescued: Rescued::default(), kept: KeptRows::default() }
    }

    /// Reads a row; what was read before is gone.
    pub(crate) fn read(&mut self, plan: Option<&EntityPlan>, row: &Row<'r>) -> ReadRow<'_> {
        let Self { fields, form, read, rescued, kept } = self;
        rescued.clear();
        kept.clear();
        fields.read(row, read, |name, value| rescued.add(name, &value));
        form.keep(plan, read, rescued, kept);
        kept.row(0)
    }
}

/// Fields that have no column or do not fit it, as a JSON object; empty where there are none.
#[derive(Debug, Default)]
pub(super) struct Rescued {
    text: String,
    names: HashSet<String>,
}

impl Rescued {
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.names.clear();
    }

    /// Adds a field. A null is what a column that there is not reads as; of a repeated name the first value counts.
    pub(super) fn add(&mut self, name: &str, value: &Field<'_>) {
        if !self.names.insert(name.to_owned()) || matches!(value, Field::Missing | Field::Null) {
            return;
        }
        let (Ok(name), Some(value)) = (serde_json::to_string(name), field_json(value)) else { return };
        self.text.push(if self.text.is_empty() { '{' } else { ',' });
        self.text.push_str(&name);
        self.text.push(':');
        self.text.push_str(&value);
    }

    /// Nothing more comes.
    fn json(&mut self) -> &str {
        if !self.text.is_empty() {
            self.text.push('}');
        }
        &self.text
    }
}
