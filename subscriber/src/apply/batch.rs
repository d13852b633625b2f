//! A stretch of a file in the order in which it is applied: by key, and of each key the newest row first.

use std::{cmp::Reverse, num::NonZeroU32};

use waybill_contracts::{OnUnwanted, Reason, SchemaMode};
use waybill_formats::{Row, RowBatch, RowFilter};

use super::{
    fields::{DELETED, FieldReader, is_deletion},
    kept::{KeptRows, ReadRow},
    key::KeyFault,
    plan::{EntityPlan, RowFault},
    row::{Rescued, RowForm},
    shape::{NewFields, Shape},
    sieve::Sieve,
    version::{self, Position},
};

/// What is kept of rows, for each byte of theirs. Rows of a few fields for a table of many columns would take many times that: those
/// beyond it are read when the sink comes to them.
const KEPT_TIMES_MAX: usize = 2;

/// Where a row is: its batch, and its place there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RowAt {
    batch: u32,
    index: u32,
}

impl RowAt {
    /// The row.
    pub(crate) fn of(self, batches: &[RowBatch]) -> Row<'_> {
        batches.get(self.batch as usize).expect("it was found there").row(self.index as usize)
    }

    /// Every good row after the number `after`, with its place.
    pub(crate) fn all(batches: &[RowBatch], after: u64) -> impl Iterator<Item = (Self, Row<'_>)> {
        (0..).zip(batches).flat_map(move |(batch, rows)| {
            let placed = (0..).zip(rows.rows()).map(move |(index, row)| (Self { batch, index }, row));
            placed.filter(move |(_, row)| row.number() > after)
        })
    }
}

/// A row by its key and version.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) at: RowAt,
    is_deletion: bool,
    /// The entity's filter does not want it.
    pub(crate) is_filtered: bool,
    /// Its place among the rows that were kept.
    kept: Option<NonZeroU32>,
    sort_prefix: u64,
    key: Span,
    version: Span,
}

impl Head {
    /// Whether there is no row of this key from this version on: it was deleted, or left what the filter wants.
    pub(crate) fn is_removal(&self) -> bool {
        self.is_deletion || self.is_filtered
    }
}

#[derive(Debug, Clone, Copy)]
struct Span {
    begin: usize,
    end: usize,
}

/// A row that is well-formed and cannot be used.
#[derive(Debug)]
pub(crate) struct Faulty {
    pub(crate) at: RowAt,
    pub(crate) fault: RowFault,
    /// Whose row it is, if its key is good.
    pub(crate) key: Option<String>,
}

/// What a stretch of an entity's rows comes to, before any table is asked.
#[derive(Debug)]
pub(crate) struct Batch {
    heads: Vec<Head>,
    /// Rows without a usable key, version or deletion mark, and those of which the filter cannot say whether it wants them.
    pub(crate) faults: Vec<Faulty>,
    /// Rows that the filter does not want and that are dropped; those that take a row away are among the others.
    pub(crate) dropped: u64,
    /// Fields that are no columns yet, or do not fit theirs.
    pub(crate) new_fields: NewFields,
    keys: String,
    versions: Vec<u8>,
    kept: KeptRows,
}

/// What is read of rows before the sink comes to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Their keys and versions.
    Heads,
    /// Their columns and references too, for a table that has the columns that are known, as far as there is room.
    Whole,
}

impl Batch {
    /// Reads every row's key and version, and what else there is to be read. Rows up to the number `after` have taken effect before
    /// and are passed over.
    pub(crate) fn new(
        plan: &EntityPlan,
        shape: &Shape,
        reading: Reading,
        position: &Position,
        batches: &[RowBatch],
        after: u64,
    ) -> Self {
        let count = batches.iter().map(RowBatch::len).sum();
        let mut batch = Self {
            heads: Vec::with_capacity(count),
            faults: Vec::new(),
            dropped: 0,
            new_fields: NewFields::default(),
            keys: String::new(),
            versions: Vec::new(),
            kept: KeptRows::default(),
        };
        let known = shape.columns.iter().map(|column| column.field.as_str());
        let mut reader = HeadReader::new(plan, known);
        let narrow: Vec<_> = shape.narrow(plan.mode()).map(|field| (reader.fields.want(field), field)).collect();
        let form = (reading == Reading::Whole && has_columns(plan, shape))
            .then(|| RowForm::new(Some(plan), shape, &mut reader.fields));
        let kept_max = KEPT_TIMES_MAX * batches.iter().map(RowBatch::size).sum::<usize>();
        let position = position.key();
        let (mut values, mut rescued) = (Vec::new(), Rescued::default());
        let mut sieve = Sieve::of_entity(plan.filter());
        for (at, row) in RowAt::all(batches, after) {
            let is_wanted = sieve.ask(&row);
            if plan.on_unwanted == OnUnwanted::Drop && matches!(is_wanted, Ok(false)) {
                batch.dropped += 1;
                continue;
            }
            // What is not stored needs no columns.
            let is_stored = matches!(is_wanted, Ok(true));
            rescued.clear();
            reader.fields.read(&row, &mut values, |name, value| {
                if is_stored {
                    batch.new_fields.see(name, &value);
                    if form.is_some() {
                        rescued.add(name, &value);
                    }
                }
            });
            for (slot, field) in narrow.iter().filter(|_| is_stored) {
                batch.new_fields.see_in_narrow(field, &values[*slot]);
            }
            let (key, version) = (batch.keys.len(), batch.versions.len());
            let head = is_wanted.and_then(|is_wanted| {
                let read = reader.head(plan, &position, &row, &values, &mut batch.keys, &mut batch.versions);
                read.map(|is_deletion| (is_deletion, !is_wanted))
            });
            match head {
                Ok((is_deletion, is_filtered)) => {
                    let key = Span { begin: key, end: batch.keys.len() };
                    let text = batch.keys.get(key.begin..).unwrap_or_default();
                    let sort_prefix = plan.key_form.sort_prefix(text);
                    let version = Span { begin: version, end: batch.versions.len() };
                    let mut head = Head { at, is_deletion, is_filtered, kept: None, sort_prefix, key, version };
                    let is_kept = !head.is_removal() && batch.kept.size() < kept_max;
                    if let Some(form) = form.as_ref().filter(|_| is_kept) {
                        form.keep(Some(plan), &mut values, &mut rescued, &mut batch.kept);
                        head.kept = u32::try_from(batch.kept.len()).ok().and_then(NonZeroU32::new);
                    }
                    batch.heads.push(head);
                }
                Err(fault) => {
                    batch.keys.truncate(key);
                    batch.versions.truncate(version);
                    batch.faults.push(Faulty { at, fault, key: reader.key(plan, &values) });
                }
            }
        }
        batch.sort();
        batch
    }

    fn sort(&mut self) {
        let Self { heads, keys, versions, .. } = self;
        let key = |head: &Head| keys.get(head.key.begin..head.key.end);
        let version = |head: &Head| versions.get(head.version.begin..head.version.end);
        heads.sort_unstable_by(|a, b| {
            let by_key = a.sort_prefix.cmp(&b.sort_prefix).then_with(|| key(a).cmp(&key(b)));
            by_key.then_with(|| Reverse(version(a)).cmp(&Reverse(version(b))))
        });
    }

    /// What was read of the row beside its head.
    pub(crate) fn kept(&self, head: &Head) -> Option<ReadRow<'_>> {
        head.kept.map(|number| self.kept.row(number.get() as usize - 1))
    }

    /// Whether any row takes one away.
    pub(crate) fn has_removals(&self) -> bool {
        self.heads.iter().any(Head::is_removal)
    }

    /// The rows of each key, the newest first, in the order of the keys.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &[Head]> {
        self.heads.chunk_by(|a, b| a.sort_prefix == b.sort_prefix && self.key(a) == self.key(b))
    }

    pub(crate) fn key(&self, head: &Head) -> &str {
        self.keys.get(head.key.begin..head.key.end).expect("the span was made here")
    }

    pub(crate) fn version(&self, head: &Head) -> &[u8] {
        self.versions.get(head.version.begin..head.version.end).expect("the span was made here")
    }
}

/// Whether there are columns, those of all references and the version among them: a field without one, as somebody dropped it, is
/// new or rescued, and here it is read for what else it is.
fn has_columns(plan: &EntityPlan, shape: &Shape) -> bool {
    let has_column = |field: &String| shape.columns.iter().any(|column| column.field == *field);
    let referring = plan.references.iter().flat_map(|reference| &reference.fields);
    let mut read = referring.chain(plan.version.as_ref().map(|version| &version.field));
    !shape.columns.is_empty() && read.all(|field| plan.key.contains(field) || has_column(field))
}

/// Rows of no entity, before any table is asked.
#[derive(Debug)]
pub(crate) struct StreamRows {
    /// Those that the type's filter wants; `None` for all.
    wanted: Option<Vec<RowAt>>,
    /// How many it does not want.
    pub(crate) filtered: u64,
    /// Those of which it cannot say.
    pub(crate) faults: Vec<Faulty>,
    /// Fields that are no columns yet.
    pub(crate) new_fields: NewFields,
}

impl StreamRows {
    /// Rows up to the number `after` have taken effect before and are passed over.
    pub(crate) fn new(filter: Option<&RowFilter>, shape: &Shape, batches: &[RowBatch], after: u64) -> Self {
        let mut rows = Self {
            wanted: filter.map(|_| Vec::new()),
            filtered: 0,
            faults: Vec::new(),
            new_fields: NewFields::default(),
        };
        let mut reader = FieldReader::new([]);
        let narrow: Vec<_> = shape.narrow(SchemaMode::Evolve).map(|field| (reader.want(field), field)).collect();
        reader.pass(shape.columns.iter().map(|column| column.field.as_str()));
        let mut values = Vec::new();
        let mut sieve = Sieve::of_type(filter);
        for (at, row) in RowAt::all(batches, after) {
            match sieve.ask(&row) {
                Ok(true) => {
                    rows.wanted.iter_mut().for_each(|wanted| wanted.push(at));
                    reader.read(&row, &mut values, |name, value| rows.new_fields.see(name, &value));
                    for (slot, field) in &narrow {
                        rows.new_fields.see_in_narrow(field, &values[*slot]);
                    }
                }
                Ok(false) => rows.filtered += 1,
                Err(fault) => rows.faults.push(Faulty { at, fault, key: None }),
            }
        }
        rows
    }

    /// The rows that are wanted; of the same batches and after the same row.
    pub(crate) fn rows<'a>(&'a self, batches: &'a [RowBatch], after: u64) -> Box<dyn Iterator<Item = Row<'a>> + 'a> {
        match &self.wanted {
            Some(wanted) => Box::new(wanted.iter().map(|at| at.of(batches))),
            None => Box::new(RowAt::all(batches, after).map(|(_, row)| row)),
        }
    }
}

/// The fields that make a row's key and version, by their slots.
#[derive(Debug)]
pub(super) struct HeadReader {
    fields: FieldReader,
    key: Vec<usize>,
    version: Option<usize>,
    deleted: usize,
}

impl HeadReader {
    pub(super) fn new<'n>(plan: &EntityPlan, known: impl IntoIterator<Item = &'n str>) -> Self {
        let mut fields = FieldReader::new([]);
        let key = plan.key.iter().map(|name| fields.want(name)).collect();
        let version = plan.version.as_ref().map(|version| fields.want(&version.field));
        let deleted = fields.want(DELETED);
        fields.pass(known);
        Self { fields, key, version, deleted }
    }

    fn key(&self, plan: &EntityPlan, values: &[waybill_formats::Field<'_>]) -> Option<String> {
        let mut key = String::new();
        plan.key_form.push(self.key.iter().filter_map(|slot| values.get(*slot)), &mut key).ok().map(|()| key)
    }

    fn head(
        &self,
        plan: &EntityPlan,
        position: &[u8],
        row: &Row<'_>,
        values: &[waybill_formats::Field<'_>],
        key: &mut String,
        version: &mut Vec<u8>,
    ) -> Result<bool, RowFault> {
        let is_deletion = self.identity(plan, values, key, version)?;
        version.extend_from_slice(position);
        version::push_row(row.number(), is_deletion, row.raw(), version);
        Ok(is_deletion)
    }

    /// Reads a row's fields: its values by their slots.
    pub(super) fn read<'r>(&mut self, row: &Row<'r>, values: &mut Vec<waybill_formats::Field<'r>>) {
        self.fields.read(row, values, |_, _| {});
    }

    /// Appends the row's key, and what its own version says; whether it deletes.
    pub(super) fn identity(
        &self,
        plan: &EntityPlan,
        values: &[waybill_formats::Field<'_>],
        key: &mut String,
        version: &mut Vec<u8>,
    ) -> Result<bool, RowFault> {
        plan.key_form.push(self.key.iter().filter_map(|slot| values.get(*slot)), key).map_err(|fault| match fault {
            KeyFault::Missing { part } => RowFault {
                reason: Reason::MissingKey,
                problem: format!("key field {:?} is missing or null", plan.key[part]),
            },
            KeyFault::Unfit { part, problem } => {
                RowFault { reason: Reason::BadKey, problem: format!("key field {:?} {problem}", plan.key[part]) }
            }
        })?;
        if let (Some(slot), Some(declared)) = (self.version, &plan.version) {
            version::push_field(declared.kind, &values[slot], version).map_err(|problem| RowFault {
                reason: Reason::BadVersion,
                problem: format!("version field {:?} {problem}", declared.field),
            })?;
        }
        is_deletion(&values[self.deleted]).map_err(|problem| RowFault { reason: Reason::MalformedRow, problem })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use waybill_contracts::{ColumnType, Entities};
    use waybill_formats::{DecodeOptions, RowDecoder, Source, Step};

    use super::*;
    use crate::apply::{EntityPlans, ShapeColumn};

    #[test]
    fn what_is_kept_of_rows_is_bounded_by_them_whatever_the_columns_are() {
        const ROWS: usize = 5_000;
        let entities = "[entity.item]\nkey = [\"id\"]\ncolumns = { id = \"integer\" }";
        let plans = EntityPlans::compile(&Entities::parse(entities, "entities.toml").unwrap()).unwrap();
        let plan = plans.for_type("item").unwrap();
        let mut decoder = RowDecoder::new(DecodeOptions::new(Source::JsonLines));
        decoder.feed(Bytes::from((0..ROWS).map(|id| format!("{{\"id\":{id},\"c1\":\"x\"}}\n")).collect::<String>()));
        decoder.end();
        let mut rows = Vec::new();
        while let Step::Batch(batch) = decoder.next().unwrap() {
            rows.push(batch);
        }
        let size: usize = rows.iter().map(RowBatch::size).sum();
        for (columns, keeps_all) in [(2, true), (1_000, false)] {
            let column = |nth| ShapeColumn::fixed(&format!("c{nth}"), ColumnType::Text);
            let shape = Shape { columns: (0..columns).map(column).collect(), ..Shape::default() };
            let position = Position::Broker { sequence_number: 1 };
            let batch = Batch::new(plan, &shape, Reading::Whole, &position, &rows, 0);
            assert_eq!((batch.heads.len(), batch.kept.len() == ROWS), (ROWS, keeps_all), "{columns} columns");
            assert!(batch.kept.len() > 1, "{columns} columns");
            // One row over it at most.
            assert!(batch.kept.size() < KEPT_TIMES_MAX * size + columns * 32 + 100, "{}, {size}", batch.kept.size());
        }
    }
}
