//! The tables as one pass of the algorithm sees them: what was fetched of the database, and over it what the pass changes.
//!
//! A pass runs without a word to the server. Where it asks for what was not fetched, it goes on with the likely answer and
//! notes it; the caller fetches what is noted, and if an answer was wrong the pass runs again, knowing more. What the last
//! pass says is written in bulk.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::Arc,
};

use waybill_contracts::{Reason, SqlName};

use super::{
    super::{
        Failure, refused,
        tables::{
            BAD_BYTES_MAX, Current, Origin, Parked, Parking, Put, TableId, Tables, Written, stored, write_without,
        },
    },
    encode,
};
use crate::apply::{Begin, EntityPlan, EntityPlans, ReadRow, Shape};

/// A table that a transaction works on.
#[derive(Debug)]
pub(super) struct Open {
    /// `None`: a table to which rows are only added.
    pub(super) plan: Option<Arc<EntityPlan>>,
    pub(super) name: SqlName,
    /// Known where rows are written.
    pub(super) shape: Option<Arc<Shape>>,
    /// Whether its columns are of the types in which tuples are encoded.
    pub(super) is_exact: bool,
    pub(super) flags: Flags,
    /// What is there is not fetched: the guard of the upsert decides row by row, and the counts follow from what it did.
    pub(super) is_guarded: bool,
    /// The full export at which it begins.
    pub(super) begin: Option<Begin>,
    known: HashMap<String, Known>,
}

/// Whether there is anything at all to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Flags {
    pub(super) has_tombstones: bool,
    pub(super) has_parked: bool,
    /// Rows of some entity wait for rows of this one.
    pub(super) is_awaited: bool,
}

/// What the database holds under a key.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) row: Held,
    pub(super) tombstone: Option<Vec<u8>>,
    pub(super) parked: Option<KnownParked>,
    pub(super) is_waited_for: bool,
    /// Not only whether there is a row.
    pub(super) is_whole: bool,
}

/// A row that waits.
#[derive(Debug)]
pub(super) struct KnownParked {
    pub(super) id: i64,
    pub(super) version: Vec<u8>,
}

#[derive(Debug, Default)]
pub(super) enum Held {
    #[default]
    Nothing,
    /// A row; one without a version was not written by us.
    Row(Option<Vec<u8>>),
}

/// Keys of one table that are to be fetched.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Everything about them.
    pub(super) whole: HashSet<String>,
    /// Whether there is a row.
    pub(super) presence: HashSet<String>,
}

/// What a pass says that is to be written.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Tuples of rows, back to back.
    pub(super) tuples: Vec<u8>,
    /// By table.
    pub(super) tables: Vec<HashMap<String, Change>>,
    /// Tuples of rows of no entity, with their numbers.
    pub(super) appended: Vec<(Range<usize>, u64)>,
    /// `None`: what waits, in the database too, goes.
    pub(super) parked: HashMap<(TableId, String), Option<ParkedRow>>,
    pub(super) unparked: Vec<i64>,
    pub(super) waits: Vec<Wait>,
    pub(super) bad: Vec<BadRow>,
    /// Columns to which values came that do not fit.
    pub(super) misfits: HashSet<(TableId, usize)>,
    awaited: HashSet<(TableId, String)>,
    /// The temporary table that holds the tuples of the guarded table already, in the session that will write them.
    pub(super) staged: Option<String>,
    /// What a guarded upsert did.
    pub(super) guarded: Option<Guarded>,
    pub(super) skipped: Skipped,
}

/// Rows that were written and did not come in, because a trigger of the user's left them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Skipped {
    /// Of those whose keys were not there.
    pub(super) new: u64,
    pub(super) known: u64,
}

/// The figures of a guarded upsert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Guarded {
    pub(super) put: u64,
    pub(super) inserted: u64,
    pub(super) updated: u64,
}

/// What becomes of a key.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub(super) row: Option<RowChange>,
    /// `Some(None)`: it goes.
    pub(super) tombstone: Option<Option<Vec<u8>>>,
}

#[derive(Debug)]
pub(super) enum RowChange {
    Put { version: Vec<u8>, tuple: Range<usize> },
    Gone { version: Vec<u8> },
}

#[derive(Debug)]
pub(super) struct ParkedRow {
    pub(super) version: Vec<u8>,
    pub(super) missing: (TableId, String),
    pub(super) file: String,
    pub(super) row: i64,
    pub(super) json: String,
}

/// What a parked row waits for from now on.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) row: RowId,
    pub(super) id: i64,
    pub(super) missing: (TableId, String),
    pub(super) without: Option<String>,
}

#[derive(Debug)]
pub(super) struct BadRow {
    pub(super) file: String,
    pub(super) row: i64,
    pub(super) offset: Option<i64>,
    pub(super) reason: Reason,
    pub(super) problem: String,
    pub(super) bytes: Vec<u8>,
    pub(super) key: Option<String>,
}

/// A row of a table by its key and version: what the database refused.
pub(super) type RowId = (TableId, String, Vec<u8>);

/// See the module.
#[derive(Debug)]
pub(super) struct Overlay {
    plans: Arc<EntityPlans>,
    pub(super) open: Vec<Open>,
    places: HashMap<String, TableId>,
    pub(super) changes: Changes,
    /// Rows that the database refused when they were written, and what it said.
    refused: HashMap<RowId, String>,
    /// The same for rows of no entity, by their numbers.
    pub(super) refused_appended: HashMap<u64, String>,
    /// What was asked for and not known.
    guessed: Vec<(TableId, String, Guess)>,
    scratch: Vec<u8>,
    /// What the last guarded upsert did.
    pub(super) guarded: Option<Guarded>,
    /// Of the last pass.
    pub(super) skipped: Skipped,
    /// Whether a pass brings in rows together with those that wait for them. What the user has put between the tables may
    /// want one before the other in the database: then it is done again a step at a time.
    pub(super) is_deep: bool,
}

/// What a pass went on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guess {
    /// Nothing is there: no row, no tombstone, none parked, none waits.
    Nothing,
    /// A row is there.
    Present,
}

impl Overlay {
    pub(super) fn new(plans: Arc<EntityPlans>) -> Self {
        Self {
            plans,
            open: Vec::new(),
            places: HashMap::new(),
            changes: Changes::default(),
            refused: HashMap::new(),
            refused_appended: HashMap::new(),
            guessed: Vec::new(),
            scratch: Vec::new(),
            guarded: None,
            skipped: Skipped::default(),
            is_deep: false,
        }
    }

    /// Adds an entity's table.
    pub(super) fn open_entity(&mut self, plan: Arc<EntityPlan>, flags: Flags) -> TableId {
        let name = SqlName::new(plan.table());
        self.add(Some(plan), name, flags)
    }

    /// Goes on as if this one's pass, which ran without the database, had been its own: if the tables are the same, and it
    /// went on with what is so. Parents that it guessed are still to be asked for.
    pub(super) fn go_on_as(&mut self, other: Self) -> bool {
        let is_same = |(own, other): (&Open, &Open)| {
            own.name == other.name
                && own.is_guarded == other.is_guarded
                && own.is_exact >= other.is_exact
                && own.shape == other.shape
        };
        let fits = self.open.len() == other.open.len() && self.open.iter().zip(&other.open).all(is_same);
        if fits {
            (self.changes, self.guessed) = (other.changes, other.guessed);
        }
        fits
    }

    /// Adds a table, before the passes that use it.
    pub(super) fn add(&mut self, plan: Option<Arc<EntityPlan>>, name: SqlName, flags: Flags) -> TableId {
        let id = TableId(self.open.len());
        if let Some(plan) = &plan {
            self.places.insert(plan.name().to_owned(), id);
        }
        self.open.push(Open {
            plan,
            name,
            shape: None,
            is_exact: false,
            flags,
            is_guarded: false,
            begin: None,
            known: HashMap::new(),
        });
        id
    }

    pub(super) fn place(&self, entity: &str) -> Option<TableId> {
        self.places.get(entity).copied()
    }

    pub(super) fn table(&self, id: TableId) -> &Open {
        &self.open[id.0]
    }

    pub(super) fn table_mut(&mut self, id: TableId) -> &mut Open {
        &mut self.open[id.0]
    }

    /// Before a pass: what the last one said is forgotten.
    pub(super) fn begin(&mut self) {
        self.guessed.clear();
        self.changes = Changes::default();
        self.changes.tables.resize_with(self.open.len(), HashMap::default);
    }

    /// What the last pass said was written: what was fetched is no longer so.
    pub(super) fn written(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        (self.guarded, self.skipped) = (changes.guarded, changes.skipped);
        for (table, changed) in self.open.iter_mut().zip(&changes.tables) {
            table.known.clear();
            table.is_guarded = false;
            table.flags.has_tombstones |= changed.values().any(|change| matches!(change.tombstone, Some(Some(_))));
        }
        for ((id, _), parked) in &changes.parked {
            self.open[id.0].flags.has_parked |= parked.is_some();
        }
        for (id, _) in &changes.awaited {
            self.open[id.0].flags.is_awaited = true;
        }
    }

    /// Whether the pass must run again without a guard: the guard judges no row that waits for a parent.
    pub(super) fn must_give_up_guard(&mut self) -> bool {
        !self.changes.parked.is_empty() && self.give_up_guard()
    }

    /// Takes note of rows that the database does not take, once it was asked step by step.
    pub(super) fn refused(&mut self, refused: Vec<(RowId, String)>) {
        if !std::mem::take(&mut self.is_deep) {
            self.refused.extend(refused);
        }
    }

    /// Whether a row waits for this one since this pass.
    pub(super) fn is_newly_awaited(&self, id: TableId, key: &str) -> bool {
        self.changes.awaited.contains(&(id, key.to_owned()))
    }

    /// From now on what is there is fetched. Whether it was not so already.
    pub(super) fn give_up_guard(&mut self) -> bool {
        let was_guarded = self.open.iter().any(|table| table.is_guarded);
        self.open.iter_mut().for_each(|table| table.is_guarded = false);
        was_guarded
    }

    /// What the last pass asked for and did not know, by table.
    pub(super) fn needs(&self) -> Vec<(TableId, Needs)> {
        let mut needs: HashMap<TableId, Needs> = HashMap::new();
        for (id, key, guess) in &self.guessed {
            let needs = needs.entry(*id).or_default();
            match guess {
                Guess::Nothing => needs.whole.insert(key.clone()),
                Guess::Present => needs.presence.insert(key.clone()),
            };
        }
        needs.into_iter().collect()
    }

    /// Whether what was fetched since is what the last pass went on with.
    pub(super) fn guessed_right(&self) -> bool {
        self.guessed.iter().all(|(id, key, guess)| {
            let known = self.table(*id).known.get(key);
            match guess {
                Guess::Present => known.is_some_and(|known| matches!(known.row, Held::Row(_))),
                Guess::Nothing => known.is_none_or(|known| {
                    matches!(known.row, Held::Nothing)
                        && known.tombstone.is_none()
                        && known.parked.is_none()
                        && !known.is_waited_for
                }),
            }
        })
    }

    fn guess(&mut self, id: TableId, key: &str, guess: Guess) {
        self.guessed.push((id, key.to_owned(), guess));
    }

    /// What the database said of a row when it was written before.
    fn refusal(&self, id: TableId, key: &str, version: &[u8]) -> Option<String> {
        // Nearly always empty: then no key is made for it.
        if self.refused.is_empty() {
            return None;
        }
        self.refused.get(&(id, key.to_owned(), version.to_owned())).cloned()
    }

    fn change(&mut self, id: TableId, key: &str) -> &mut Change {
        self.changes.tables[id.0].entry(key.to_owned()).or_default()
    }

    /// Everything about a key, or `None` after a guess that there is nothing.
    fn whole(&mut self, id: TableId, key: &str) -> Option<&Known> {
        if self.open[id.0].known.get(key).is_none_or(|known| !known.is_whole) {
            self.guess(id, key, Guess::Nothing);
            return None;
        }
        self.open[id.0].known.get(key)
    }

    fn parked_version(&mut self, id: TableId, key: &str) -> Option<Vec<u8>> {
        if let Some(change) = self.changes.parked.get(&(id, key.to_owned())) {
            return change.as_ref().map(|parked| parked.version.clone());
        }
        if !self.open[id.0].flags.has_parked {
            return None;
        }
        self.whole(id, key)?.parked.as_ref().map(|parked| parked.version.clone())
    }
}

impl Open {
    pub(super) fn entity(&self) -> &str {
        self.plan.as_ref().map(|plan| plan.name()).expect("only rows of entities are parked and buried")
    }

    /// Takes note of what the database holds.
    pub(super) fn know(&mut self, key: &str) -> &mut Known {
        if !self.known.contains_key(key) {
            self.known.insert(key.to_owned(), Known::default());
        }
        self.known.get_mut(key).expect("inserted above")
    }

    pub(super) fn known(&self, key: &str) -> Option<&Known> {
        self.known.get(key)
    }
}

impl Tables for Overlay {
    fn plan(&self, name: &str) -> Option<Arc<EntityPlan>> {
        self.plans.get(name).map(Arc::clone)
    }

    fn open(&mut self, entity: &str) -> Result<TableId, Failure> {
        self.place(entity)
            .ok_or_else(|| refused(format!("entity {entity:?} is not among those that the sink was opened with")))
    }

    fn shape(&mut self, id: TableId) -> Result<Arc<Shape>, Failure> {
        Ok(self.open[id.0].shape.as_ref().map(Arc::clone).expect("it is loaded where rows are written"))
    }

    fn holds_key(&self, id: TableId, key: &str) -> Result<(), String> {
        let Some(plan) = &self.open[id.0].plan else { return Ok(()) };
        for ((part, text), (field, _)) in plan.key_form().split(key).zip(plan.key()) {
            encode::check_key_part(part, &text).map_err(|problem| format!("key field {field:?} {problem}"))?;
        }
        Ok(())
    }

    fn compare(&mut self, id: TableId, key: &str, version: &[u8]) -> Result<Current, Failure> {
        let against = |known: Option<&[u8]>| match known {
            Some(known) if known >= version => Current::SameOrNewer,
            // A row without a version was not written by us; any version is newer.
            _ => Current::Older,
        };
        let change = self.changes.tables[id.0].get(key);
        match change.and_then(|change| change.row.as_ref()) {
            Some(RowChange::Put { version: known, .. }) => return Ok(against(Some(known))),
            Some(RowChange::Gone { .. }) => {}
            None if self.open[id.0].is_guarded => return Ok(Current::Absent),
            None => {
                if let Some(Known { row: Held::Row(known), .. }) = self.whole(id, key) {
                    return Ok(against(known.as_deref()));
                }
            }
        }
        let buried = match self.changes.tables[id.0].get(key).and_then(|change| change.tombstone.as_ref()) {
            Some(tombstone) => tombstone.as_deref(),
            None => self.open[id.0].known.get(key).and_then(|known| known.tombstone.as_deref()),
        };
        Ok(match buried {
            Some(buried) if buried >= version => Current::SameOrNewer,
            _ => Current::Absent,
        })
    }

    fn is_present(&mut self, id: TableId, key: &str) -> Result<bool, Failure> {
        match self.changes.tables[id.0].get(key).and_then(|change| change.row.as_ref()) {
            Some(RowChange::Put { .. }) => return Ok(true),
            Some(RowChange::Gone { .. }) => return Ok(false),
            None => {}
        }
        match self.open[id.0].known.get(key) {
            Some(known) => Ok(matches!(known.row, Held::Row(_))),
            None => {
                self.guess(id, key, Guess::Present);
                Ok(true)
            }
        }
    }

    fn upsert(&mut self, id: TableId, key: &str, version: &[u8], row: ReadRow<'_>) -> Result<Written, Failure> {
        if let Some(problem) = self.refusal(id, key, version) {
            return Ok(Written::Refused(problem));
        }
        let Open { plan: Some(plan), shape: Some(shape), .. } = &self.open[id.0] else {
            unreachable!("a reader was made from its shape");
        };
        let begin = self.changes.tuples.len();
        let tuple = &mut self.changes.tuples;
        if let Err(problem) = encode::push_row(tuple, &mut self.scratch, plan, shape, (key, version), row) {
            return Ok(Written::Refused(problem));
        }
        let tuple = begin..self.changes.tuples.len();
        let may_be_buried = self.open[id.0].flags.has_tombstones;
        let change = self.change(id, key);
        change.row = Some(RowChange::Put { version: version.to_owned(), tuple });
        if may_be_buried || change.tombstone.is_some() {
            change.tombstone = Some(None);
        }
        Ok(Written::Done)
    }

    fn put(&mut self, _: TableId, _: &str, _: &[u8], _: ReadRow<'_>) -> Result<Option<Put>, Failure> {
        Ok(None)
    }

    fn append(&mut self, id: TableId, file: &str, number: u64, row: ReadRow<'_>) -> Result<Written, Failure> {
        if let Some(problem) = self.refused_appended.get(&number) {
            return Ok(Written::Refused(problem.clone()));
        }
        let Some(shape) = &self.open[id.0].shape else { unreachable!("a reader was made from its shape") };
        let begin = self.changes.tuples.len();
        encode::push_appended(&mut self.changes.tuples, &mut self.scratch, shape, (file, stored(number)), row);
        self.changes.appended.push((begin..self.changes.tuples.len(), number));
        Ok(Written::Done)
    }

    fn delete(&mut self, id: TableId, key: &str, version: &[u8]) -> Result<Written, Failure> {
        if let Some(problem) = self.refusal(id, key, version) {
            return Ok(Written::Refused(problem));
        }
        self.change(id, key).row = Some(RowChange::Gone { version: version.to_owned() });
        Ok(Written::Done)
    }

    fn bury(&mut self, id: TableId, key: &str, version: &[u8]) -> Result<Written, Failure> {
        if let Some(problem) = self.refusal(id, key, version) {
            return Ok(Written::Refused(problem));
        }
        self.change(id, key).tombstone = Some(Some(version.to_owned()));
        Ok(Written::Done)
    }

    fn park(
        &mut self,
        id: TableId,
        key: &str,
        version: &[u8],
        (parent, missing_key): (TableId, &str),
        origin: &Origin<'_>,
        json: &str,
    ) -> Result<Parking, Failure> {
        if let Some(problem) = self.refusal(id, key, version) {
            return Ok(Parking::Refused(problem));
        }
        if self.parked_version(id, key).is_some_and(|parked| *parked >= *version) {
            return Ok(Parking::NotNewer);
        }
        let parked = ParkedRow {
            version: version.to_owned(),
            missing: (parent, missing_key.to_owned()),
            file: origin.file.to_owned(),
            row: stored(origin.row),
            json: json.to_owned(),
        };
        self.changes.awaited.insert(parked.missing.clone());
        self.changes.parked.insert((id, key.to_owned()), Some(parked));
        Ok(Parking::Parked)
    }

    fn forget_parked(&mut self, id: TableId, key: &str, version: &[u8]) -> Result<(), Failure> {
        if self.changes.parked.is_empty() && !self.open[id.0].flags.has_parked {
            return Ok(());
        }
        if self.parked_version(id, key).is_some_and(|parked| *parked <= *version) {
            self.changes.parked.insert((id, key.to_owned()), None);
        }
        Ok(())
    }

    fn unpark(&mut self, parked: i64) -> Result<(), Failure> {
        self.changes.unparked.push(parked);
        Ok(())
    }

    fn wait_for(
        &mut self,
        parked: &Parked,
        (table, parent): (TableId, TableId),
        missing_key: &str,
    ) -> Result<Written, Failure> {
        if let Some(problem) = self.refusal(table, &parked.key, &parked.version) {
            return Ok(Written::Refused(problem));
        }
        let (row, missing) = ((table, parked.key.clone(), parked.version.clone()), (parent, missing_key.to_owned()));
        self.changes.awaited.insert(missing.clone());
        self.changes.waits.push(Wait { row, id: parked.id, missing, without: write_without(&parked.without) });
        Ok(Written::Done)
    }

    fn has_waiting(&mut self, id: TableId) -> Result<bool, Failure> {
        Ok(self.open[id.0].flags.is_awaited)
    }

    fn is_waited_for(&mut self, id: TableId, key: &str) -> Result<bool, Failure> {
        if self.changes.awaited.contains(&(id, key.to_owned())) {
            return Ok(true);
        }
        if !self.open[id.0].flags.is_awaited {
            return Ok(false);
        }
        Ok(self.whole(id, key).is_some_and(|known| known.is_waited_for))
    }

    fn note_misfit(&mut self, id: TableId, column: usize) {
        self.changes.misfits.insert((id, column));
    }

    fn keep_bad_row(
        &mut self,
        origin: &Origin<'_>,
        reason: Reason,
        problem: &str,
        bytes: &[u8],
    ) -> Result<(), Failure> {
        self.changes.bad.push(BadRow {
            file: origin.file.to_owned(),
            row: stored(origin.row),
            offset: origin.offset.map(stored),
            reason,
            // PostgreSQL's text has no U+0000.
            problem: problem.replace('\0', "\u{fffd}"),
            bytes: bytes.get(..BAD_BYTES_MAX).unwrap_or(bytes).to_owned(),
            key: origin.key.map(|key| key.replace('\0', "\u{fffd}")),
        });
        Ok(())
    }
}
