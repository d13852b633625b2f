//! The algorithm, within one transaction and without a word of SQL. The steps are told in the parent module.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
};

use bytes::Bytes;
use waybill_contracts::Reason;
use waybill_formats::{DecodeOptions, Limits, Row, RowBatch, RowDecoder, Source, Step};

use super::{
    Failure, Released,
    tables::{Current, Origin, Parked, Parking, Put, TableId, Tables, Written},
};
use crate::{
    apply::{Batch, EntityPlan, Faulty, Head, ReadRow, RowAt, RowReader, StreamRows},
    sink::Applied,
};

/// New rows for which parked ones wait.
pub(super) type Arrived = Vec<(TableId, String)>;

/// Rows of one file that are to take effect now.
pub(super) struct Stretch<'a> {
    pub(super) file: &'a str,
    /// The number of the last row that took effect before.
    pub(super) from: u64,
    pub(super) rows: &'a [RowBatch],
    /// The table begins at a full export that holds what the file brings: only what it takes away takes effect.
    pub(super) is_before_begin: bool,
}

/// A row and what it waits for.
struct Missing {
    parent: TableId,
    key: String,
}

enum Outcome {
    Inserted,
    Updated,
    Removed,
    Ignored,
    Waits(Missing),
    Refused(String),
}

/// Brings an entity's rows into effect. The caller then lets those go that waited for what arrived. `is_kept`: what was kept of the
/// rows was read for this table's columns.
pub(super) fn apply_entity(
    tables: &mut impl Tables,
    plan: &EntityPlan,
    stretch: &Stretch<'_>,
    batch: &Batch,
    is_kept: bool,
) -> Result<(Applied, Arrived), Failure> {
    let mut applied = Applied { filtered: batch.dropped, ..Applied::default() };
    record_bad_rows(tables, stretch, &mut applied)?;
    record_faults(tables, stretch, &batch.faults, &mut applied)?;
    let rows = Rows::new(tables, plan)?;
    let is_awaited = plan.is_awaited() && tables.has_waiting(rows.table)?;
    let mut run = Run {
        stretch,
        batch,
        is_kept,
        rows,
        is_awaited,
        applied,
        held: HashMap::new(),
        due: Vec::new(),
        refused: Vec::new(),
        inserted: Vec::new(),
    };
    for newest_first in batch.keys() {
        // The newest row decides. Only while it waits, or if the database refuses it, does the next older one count: else
        // a deletion before it would be forgotten, and a row older still could come back.
        let (mut is_decided, mut newer_waits) = (false, false);
        for head in newest_first {
            if stretch.is_before_begin && !head.is_removal() {
                run.applied.ignored += 1;
                continue;
            }
            if is_decided {
                run.applied.superseded += 1;
                continue;
            }
            match run.settle(tables, head, newer_waits)? {
                Settled::Decided => is_decided = true,
                Settled::Waits => newer_waits = true,
                Settled::Refused => {}
            }
        }
        run.settle_due(tables)?;
    }
    run.settle_refused(tables)?;
    run.park_held(tables)?;
    Ok((run.applied, run.inserted))
}

/// What a row means for older ones of its key.
enum Settled {
    /// They are superseded.
    Decided,
    /// One of them may take effect until this one does.
    Waits,
    /// As if it had not come.
    Refused,
}

/// A batch on its way.
struct Run<'a, 'p> {
    stretch: &'a Stretch<'a>,
    batch: &'a Batch,
    is_kept: bool,
    rows: Rows<'p, 'a>,
    /// Whether any row waits for some row of this entity.
    is_awaited: bool,
    applied: Applied,
    /// Rows that wait for a row of the same entity, which may follow in this batch, by the key that they wait for.
    held: HashMap<String, Vec<&'a Head>>,
    /// Rows whose parent has come.
    due: Vec<&'a Head>,
    /// Rows that the database does not take, so far, and what it says.
    refused: Vec<(&'a Head, String)>,
    inserted: Arrived,
}

impl<'a> Run<'a, '_> {
    /// Brings a row into effect, or lets it wait: only the newest of its key, so not where `newer_waits`.
    fn settle(&mut self, tables: &mut impl Tables, head: &'a Head, newer_waits: bool) -> Result<Settled, Failure> {
        let row = head.at.of(self.stretch.rows);
        let (key, version) = (self.batch.key(head), self.batch.version(head));
        let kept = if self.is_kept { self.batch.kept(head) } else { None };
        match self.rows.step(tables, key, version, head.is_removal(), (&row, kept), &[])? {
            Outcome::Inserted => {
                self.applied.inserted += 1;
                self.applied.rescued += self.rows.rescued(tables);
                self.due.extend(self.held.remove(key).unwrap_or_default());
                if self.is_awaited && tables.is_waited_for(self.rows.table, key)? {
                    self.inserted.push((self.rows.table, key.to_owned()));
                }
            }
            Outcome::Updated => {
                self.applied.updated += 1;
                self.applied.rescued += self.rows.rescued(tables);
            }
            Outcome::Removed if head.is_filtered => self.applied.filtered += 1,
            Outcome::Removed => self.applied.deleted += 1,
            Outcome::Ignored => self.applied.ignored += 1,
            Outcome::Waits(missing) => {
                if newer_waits {
                    self.applied.superseded += 1;
                } else if missing.parent == self.rows.table {
                    self.held.entry(missing.key).or_default().push(head);
                } else {
                    return self.park(tables, head, &missing);
                }
                return Ok(Settled::Waits);
            }
            Outcome::Refused(problem) => {
                self.refused.push((head, problem));
                return Ok(Settled::Refused);
            }
        }
        Ok(Settled::Decided)
    }

    fn settle_due(&mut self, tables: &mut impl Tables) -> Result<(), Failure> {
        while let Some(head) = self.due.pop() {
            self.settle(tables, head, false)?;
        }
        Ok(())
    }

    /// A foreign key of the user's may have wanted another row to be there, or gone, that came later in the batch.
    fn settle_refused(&mut self, tables: &mut impl Tables) -> Result<(), Failure> {
        let mut before = usize::MAX;
        while !self.refused.is_empty() && self.refused.len() < before {
            before = self.refused.len();
            for (head, _) in std::mem::take(&mut self.refused) {
                self.settle(tables, head, false)?;
                self.settle_due(tables)?;
            }
        }
        for (head, problem) in std::mem::take(&mut self.refused) {
            self.refuse(tables, head, &problem)?;
        }
        Ok(())
    }

    fn refuse(&mut self, tables: &mut impl Tables, head: &Head, problem: &str) -> Result<Settled, Failure> {
        let row = head.at.of(self.stretch.rows);
        let origin = Origin { key: Some(self.batch.key(head)), ..origin(self.stretch, &row) };
        tables.keep_bad_row(&origin, Reason::RefusedByDatabase, problem, row.raw())?;
        self.applied.bad += 1;
        Ok(Settled::Refused)
    }

    fn park(&mut self, tables: &mut impl Tables, head: &Head, missing: &Missing) -> Result<Settled, Failure> {
        let row = head.at.of(self.stretch.rows);
        let (key, version, origin) = (self.batch.key(head), self.batch.version(head), origin(self.stretch, &row));
        match tables.park(self.rows.table, key, version, (missing.parent, &missing.key), &origin, &row.to_json())? {
            Parking::Parked => self.applied.parked += 1,
            Parking::NotNewer => self.applied.ignored += 1,
            Parking::Refused(problem) => return self.refuse(tables, head, &problem),
        }
        Ok(Settled::Waits)
    }

    /// What did not come in this batch may come in another.
    fn park_held(&mut self, tables: &mut impl Tables) -> Result<(), Failure> {
        for (key, heads) in std::mem::take(&mut self.held) {
            let missing = Missing { parent: self.rows.table, key };
            for head in heads {
                self.park(tables, head, &missing)?;
            }
        }
        Ok(())
    }
}

/// Adds rows of a blobType that belongs to no entity.
pub(super) fn append(
    tables: &mut impl Tables,
    table: TableId,
    stretch: &Stretch<'_>,
    rows: &StreamRows,
) -> Result<Applied, Failure> {
    let mut applied = Applied { filtered: rows.filtered, ..Applied::default() };
    record_bad_rows(tables, stretch, &mut applied)?;
    record_faults(tables, stretch, &rows.faults, &mut applied)?;
    let mut reader = RowReader::new(None, &*tables.shape(table)?);
    for row in rows.rows(stretch.rows, stretch.from) {
        let read = reader.read(None, &row);
        let misfit = read.misfit();
        match tables.append(table, stretch.file, row.number(), read)? {
            Written::Done => {
                applied.inserted += 1;
                applied.rescued += rescued(tables, table, misfit);
            }
            Written::Skipped => applied.ignored += 1,
            Written::Refused(problem) => {
                tables.keep_bad_row(&origin(stretch, &row), Reason::RefusedByDatabase, &problem, row.raw())?;
                applied.bad += 1;
            }
        }
    }
    Ok(applied)
}

fn origin<'a>(stretch: &Stretch<'a>, row: &Row<'_>) -> Origin<'a> {
    Origin { file: stretch.file, row: row.number(), offset: Some(row.offset()), key: None }
}

/// Rows that do not match the file's format.
fn record_bad_rows(tables: &mut impl Tables, stretch: &Stretch<'_>, applied: &mut Applied) -> Result<(), Failure> {
    for bad in stretch.rows.iter().flat_map(RowBatch::bad).filter(|bad| bad.row > stretch.from) {
        let origin = Origin { file: stretch.file, row: bad.row, offset: Some(bad.offset), key: None };
        tables.keep_bad_row(&origin, Reason::MalformedRow, &bad.problem, &bad.bytes)?;
        applied.bad += 1;
    }
    Ok(())
}

/// Rows that are well-formed and cannot be used.
fn record_faults(
    tables: &mut impl Tables,
    stretch: &Stretch<'_>,
    faults: &[Faulty],
    applied: &mut Applied,
) -> Result<(), Failure> {
    for Faulty { at, fault, key } in faults {
        let row = at.of(stretch.rows);
        let origin = Origin { key: key.as_deref(), ..origin(stretch, &row) };
        tables.keep_bad_row(&origin, fault.reason, &fault.problem, row.raw())?;
        applied.bad += 1;
    }
    Ok(())
}

/// Rows of one entity on their way into its table.
struct Rows<'p, 'r> {
    plan: &'p EntityPlan,
    table: TableId,
    reader: RowReader<'r>,
    /// The first column that its value does not fit, of the row that took effect last.
    misfit: Option<usize>,
    /// For each reference its parent's table, and keys that are known to be there, as far as they are remembered.
    parents: Vec<(TableId, Present)>,
}

/// Keys that were found to be there lately, one for each of some places. Many children have few parents, or each has its own: then to
/// remember them all would cost as much as to ask for them.
#[derive(Debug, Default)]
struct Present {
    /// None before the first.
    places: Vec<Option<String>>,
    hasher: RandomState,
}

impl Present {
    const PLACES: usize = 1024;

    fn contains(&self, key: &str) -> bool {
        !self.places.is_empty() && self.places[self.place(key)].as_deref() == Some(key)
    }

    fn note(&mut self, key: &str) {
        self.places.resize(Self::PLACES, None);
        let place = self.place(key);
        let known = self.places[place].get_or_insert_default();
        known.clear();
        known.push_str(key);
    }

    fn forget(&mut self, key: &str) {
        if self.contains(key) {
            let place = self.place(key);
            self.places[place] = None;
        }
    }

    fn place(&self, key: &str) -> usize {
        self.hasher.hash_one(key) as usize % Self::PLACES
    }
}

impl<'p, 'r> Rows<'p, 'r> {
    fn new(tables: &mut impl Tables, plan: &'p EntityPlan) -> Result<Self, Failure> {
        let table = tables.open(plan.name())?;
        let mut parent = |name: &str| Ok::<_, Failure>((tables.open(name)?, Present::default()));
        let parents =
            plan.references().iter().map(|of| &of.parent).map(|name| parent(name)).collect::<Result<_, _>>()?;
        let reader = RowReader::new(Some(plan), &*tables.shape(table)?);
        Ok(Self { plan, table, reader, misfit: None, parents })
    }

    /// Of the row that took effect last: see [`Applied::rescued`].
    fn rescued(&self, tables: &mut impl Tables) -> u64 {
        rescued(tables, self.table, self.misfit)
    }

    fn step(
        &mut self,
        tables: &mut impl Tables,
        key: &str,
        version: &[u8],
        is_removal: bool,
        (row, kept): (&Row<'r>, Option<ReadRow<'_>>),
        without: &[(String, String)],
    ) -> Result<Outcome, Failure> {
        if let Err(problem) = tables.holds_key(self.table, key) {
            return Ok(Outcome::Refused(problem));
        }
        if let (false, Some(kept)) = (is_removal, kept)
            && let Some(put) = self.put(tables, key, version, kept, without)?
        {
            return Ok(put);
        }
        let current = tables.compare(self.table, key, version)?;
        if current == Current::SameOrNewer {
            return Ok(Outcome::Ignored);
        }
        if is_removal {
            if current == Current::Older
                && let Written::Refused(problem) = tables.delete(self.table, key, version)?
            {
                return Ok(Outcome::Refused(problem));
            }
            if let Written::Refused(problem) = tables.bury(self.table, key, version)? {
                return Ok(Outcome::Refused(problem));
            }
            tables.forget_parked(self.table, key, version)?;
            for (_, present) in self.parents.iter_mut().filter(|(parent, _)| *parent == self.table) {
                present.forget(key);
            }
            return Ok(Outcome::Removed);
        }
        let Self { plan, table, reader, misfit, parents } = self;
        let read = match kept {
            Some(kept) => kept,
            None => reader.read(Some(*plan), row),
        };
        if let Some(missing) = missing(tables, (*plan, *table), parents, (key, read), without)? {
            return Ok(Outcome::Waits(missing));
        }
        *misfit = read.misfit();
        match tables.upsert(*table, key, version, read)? {
            Written::Done => {}
            Written::Skipped => return Ok(Outcome::Ignored),
            Written::Refused(problem) => return Ok(Outcome::Refused(problem)),
        }
        tables.forget_parked(self.table, key, version)?;
        Ok(if current == Current::Older { Outcome::Updated } else { Outcome::Inserted })
    }

    /// Brings a row that was read into effect without a look at what is there, where that can be.
    fn put(
        &mut self,
        tables: &mut impl Tables,
        key: &str,
        version: &[u8],
        kept: ReadRow<'_>,
        without: &[(String, String)],
    ) -> Result<Option<Outcome>, Failure> {
        let Self { plan, table, parents, .. } = self;
        if missing(tables, (*plan, *table), parents, (key, kept), without)?.is_some() {
            return Ok(None);
        }
        let outcome = match tables.put(*table, key, version, kept)? {
            Some(Put::Inserted) => Outcome::Inserted,
            Some(Put::Updated) => Outcome::Updated,
            Some(Put::NotNewer) => return Ok(Some(Outcome::Ignored)),
            None => return Ok(None),
        };
        self.misfit = kept.misfit();
        tables.forget_parked(self.table, key, version)?;
        Ok(Some(outcome))
    }
}

/// Whether the row is one with a value that its column does not hold: counts it, and has it told.
fn rescued(tables: &mut impl Tables, table: TableId, misfit: Option<usize>) -> u64 {
    misfit.map_or(0, |column| {
        tables.note_misfit(table, column);
        1
    })
}

/// The first parent that is not there and not among those that the row goes `without`. A row is its own parent's equal: it may
/// refer to itself.
fn missing(
    tables: &mut impl Tables,
    (plan, table): (&EntityPlan, TableId),
    parents: &mut [(TableId, Present)],
    (own_key, read): (&str, ReadRow<'_>),
    without: &[(String, String)],
) -> Result<Option<Missing>, Failure> {
    for (((parent, present), reference), key) in parents.iter_mut().zip(plan.references()).zip(read.parents()) {
        let Some(key) = key else { continue };
        if present.contains(key) || (*parent == table && key == own_key) {
            continue;
        }
        if without.iter().any(|(entity, gone)| *entity == reference.parent && is_stored_as(key, gone)) {
            continue;
        }
        if !tables.is_present(*parent, key)? {
            return Ok(Some(Missing { parent: *parent, key: key.to_owned() }));
        }
        present.note(key);
    }
    Ok(None)
}

/// Whether a key that is missing is this one. PostgreSQL has no U+0000, and another character in its place.
fn is_stored_as(key: &str, stored: &str) -> bool {
    key == stored || (key.contains('\0') && key.replace('\0', "\u{fffd}") == stored)
}

/// Applies rows of one entity that waited, and notes for which of them others wait.
pub(super) fn release_rows(
    tables: &mut impl Tables,
    waiting: &[&Parked],
    arrived: &mut Arrived,
) -> Result<Released, Failure> {
    let mut released = Released::default();
    // Rows of an entity that is no longer configured go on waiting.
    let Some(plan) = waiting.first().and_then(|parked| tables.plan(&parked.entity)) else { return Ok(released) };
    let batches = decode(waiting);
    let mut rows = Rows::new(tables, &plan)?;
    for (_, row) in RowAt::all(&batches, 0) {
        let parked = place(waiting, row.number());
        match rows.step(tables, &parked.key, &parked.version, false, (&row, None), &parked.without)? {
            Outcome::Waits(missing) => match tables.wait_for(parked, (rows.table, missing.parent), &missing.key)? {
                Written::Done | Written::Skipped => released.still_waiting += 1,
                Written::Refused(problem) => refuse(tables, parked, &problem, row.raw(), &mut released)?,
            },
            Outcome::Inserted => {
                released.applied += 1;
                released.rescued += rows.rescued(tables);
                if plan.is_awaited() && tables.is_waited_for(rows.table, &parked.key)? {
                    arrived.push((rows.table, parked.key.clone()));
                }
            }
            Outcome::Updated => {
                released.applied += 1;
                released.rescued += rows.rescued(tables);
            }
            Outcome::Refused(problem) => refuse(tables, parked, &problem, row.raw(), &mut released)?,
            Outcome::Ignored | Outcome::Removed => {
                released.ignored += 1;
                tables.unpark(parked.id)?;
            }
        }
    }
    for bad in batches.iter().flat_map(RowBatch::bad) {
        // Not as we wrote it: somebody changed the table.
        let parked = place(waiting, bad.row);
        released.bad += 1;
        tables.keep_bad_row(&parked.origin(), Reason::MalformedRow, &bad.problem, &bad.bytes)?;
        tables.unpark(parked.id)?;
    }
    Ok(released)
}

fn refuse(
    tables: &mut impl Tables,
    parked: &Parked,
    problem: &str,
    bytes: &[u8],
    released: &mut Released,
) -> Result<(), Failure> {
    released.bad += 1;
    tables.keep_bad_row(&parked.origin(), Reason::RefusedByDatabase, problem, bytes)?;
    tables.unpark(parked.id)
}

/// Keeps rows aside that waited too long, each for the last of those that it is to go `without`.
pub(super) fn give_up(tables: &mut impl Tables, waiting: &[Parked]) -> Result<(), Failure> {
    for parked in waiting {
        let (entity, key) = parked.without.last().expect("it waits for something");
        let problem = format!("waited for {entity} {key:?} for as long as max_wait allows, and it did not come");
        tables.keep_bad_row(&parked.origin(), Reason::ParentMissing, &problem, parked.json.as_bytes())?;
        tables.unpark(parked.id)?;
    }
    Ok(())
}

fn place<'w>(waiting: &[&'w Parked], number: u64) -> &'w Parked {
    let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
    index.and_then(|index| waiting.get(index)).expect("a line for each parked row")
}

/// Parked rows as rows again, in their order.
fn decode(waiting: &[&Parked]) -> Vec<RowBatch> {
    let mut text = Vec::with_capacity(waiting.iter().map(|parked| parked.json.len() + 1).sum());
    for parked in waiting {
        // A line end or an empty text, which only a hand could have written, would shift all that follow.
        let json = if parked.json.trim().is_empty() { "null" } else { &parked.json };
        text.extend(json.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
        text.push(b'\n');
    }
    // They came through the limits of the configuration once.
    let limits = Limits { row_bytes_max: usize::MAX, plain_bytes_max: u64::MAX, ..Limits::default() };
    let mut decoder = RowDecoder::new(DecodeOptions { limits, ..DecodeOptions::new(Source::JsonLines) });
    decoder.feed(Bytes::from(text));
    decoder.end();
    let mut batches = Vec::new();
    while let Ok(Step::Batch(batch)) = decoder.next() {
        batches.push(batch);
    }
    batches
}
