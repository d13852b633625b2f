//! Rows of a large file in the order of their keys, sorted in a temporary file.
//!
//! A database that keeps a table by its key, as SQLite does, writes whole pages. Rows in any order of their keys touch about as
//! many pages as there are rows, at each commit; in the order of their keys each page is touched once.
//!
//! Rows without a usable key come first, by their numbers, among them those of which nothing but their number is kept because the
//! entity's filter does not want them and has them dropped; then the others by key, and those of one key by their numbers. That
//! order is the file's and the entity's alone: after a crash the file is sorted again, and comes out the same. Whether it did is
//! seen by its [`Trail`]; if not, as when a limit was changed and a row is good now that was bad before, the file begins again.
//!
//! `run` is a stretch of the file that is sorted in memory and written, `merge` makes one order of all. The temporary file has
//! no name: whatever becomes of the process, nothing of it stays.

mod beside;
mod merge;
mod run;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use waybill_formats::{Gathering, NotPacked, RowBatch};

use self::{
    beside::Beside,
    merge::Merge,
    run::{Collected, ReadError, Run, RunWriter, Spill},
};
use crate::apply::EntityPlan;

/// Runs that are merged together at most. A file of more is merged in rounds.
const RUNS_MAX: usize = 64;
/// What they may hold of their rows meanwhile: a block each, which is as long as its longest row.
const BLOCKS_BYTES_MAX: usize = 32 << 20;

/// Which rows were taken so far, and in which order, in one number: two orders that differ differ in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trail(u64);

impl Trail {
    /// Goes on by a row, known by its number in the file.
    #[must_use]
    pub fn after(self, row: u64) -> Self {
        // The finalizer of SplitMix64, of both.
        let mut mixed = (self.0.rotate_left(23) ^ row).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(mixed ^ (mixed >> 31))
    }

    pub(crate) fn to_stored(self) -> i64 {
        self.0.cast_signed()
    }

    pub(crate) fn from_stored(stored: i64) -> Self {
        Self(stored.cast_unsigned())
    }
}

/// Why rows could not be sorted. What is sorted is lost, and nothing else.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SortError {
    /// The temporary file cannot be made, written or read.
    #[error("{}: {}", folder.display(), advice(source))]
    File {
        /// Where it is.
        folder: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// What was written to the temporary file is not what was read.
    #[error("{}: rows that were sorted there came back changed; check the disk", folder.display())]
    Damaged {
        /// Where it is.
        folder: PathBuf,
    },
}

fn advice(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "the disk is full: a large file is sorted there, which takes a little more than its plain bytes; it goes on \
             when there is room"
                .to_owned()
        }
        _ => format!("a large file cannot be sorted there: {error}"),
    }
}

/// Takes a file's rows in the file's order.
#[derive(Debug)]
pub struct Sorter {
    folder: PathBuf,
    plan: Arc<EntityPlan>,
    /// Bytes of rows that are sorted in memory.
    run_bytes: usize,
    run: Collected,
    rounds: Beside<Rounds>,
    /// Makes batches of the same file, once there is a row.
    gathering: Option<Gathering>,
}

/// Runs that were written: those of the file as it came, then those of them that were merged, then those of these.
#[derive(Debug)]
struct Rounds {
    folder: PathBuf,
    rounds: Vec<Round>,
}

/// Runs that wait to be merged.
#[derive(Debug, Default)]
struct Round {
    runs: Vec<Run>,
    spill: Option<Arc<Spill>>,
}

impl Sorter {
    /// Sorts rows of an entity: `run_bytes` of them in memory, all of them in a temporary file in `folder`.
    #[must_use]
    pub fn new(folder: &Path, plan: Arc<EntityPlan>, run_bytes: usize) -> Self {
        let run = Collected::new(&plan);
        let rounds = Rounds { folder: folder.to_owned(), rounds: vec![Round::default()] };
        // One run is collected while the one before it is written.
        let run_bytes = run_bytes / 2;
        Self { folder: folder.to_owned(), plan, run_bytes, run, rounds: Beside::Idle(rounds), gathering: None }
    }

    /// Takes more rows, good and bad.
    ///
    /// # Errors
    /// [`SortError`]; then all of it is to be given up.
    pub fn add(&mut self, batch: RowBatch) -> Result<(), SortError> {
        self.gathering.get_or_insert_with(|| Gathering::like(&batch));
        self.run.add(&self.plan, batch);
        if self.run.bytes() >= self.run_bytes { self.end_run() } else { Ok(()) }
    }

    /// All rows are there.
    ///
    /// # Errors
    /// [`SortError`].
    pub fn finish(mut self) -> Result<Sorted, SortError> {
        self.end_run()?;
        let runs = self.rounds.take()?.rounds.into_iter().flat_map(|round| round.runs).collect();
        Sorted::new(self.folder, runs, self.gathering)
    }

    fn end_run(&mut self) -> Result<(), SortError> {
        if self.run.is_empty() {
            return Ok(());
        }
        let mut rounds = self.rounds.take()?;
        let run = std::mem::replace(&mut self.run, Collected::new(&self.plan));
        self.rounds = Beside::run(move || rounds.write(run).map(|()| rounds))
            .map_err(|source| SortError::File { folder: self.folder.clone(), source })?;
        Ok(())
    }
}

impl Rounds {
    fn write(&mut self, run: Collected) -> Result<(), SortError> {
        let Self { folder, rounds } = self;
        let written = rounds[0].add(folder, |spill| Ok(run.write(spill)?));
        written.map_err(|error| failed(folder, error))?;
        // Runs are merged before they are too many to be read beside each other.
        let mut at = 0;
        while rounds[at].is_full() {
            // Dropped behind the merge, and their file with them.
            let full = std::mem::take(&mut rounds[at]);
            at += 1;
            if rounds.len() == at {
                rounds.push(Round::default());
            }
            let merged = rounds[at].add(folder, |spill| {
                let (mut merge, mut writer) = (Merge::new(&full.runs)?, RunWriter::new(spill)?);
                while let Some((place, packed)) = merge.next()? {
                    writer.write(place, packed)?;
                }
                Ok(writer.finish()?)
            });
            merged.map_err(|error| failed(folder, error))?;
        }
        Ok(())
    }
}

impl Round {
    fn add(
        &mut self,
        folder: &Path,
        write: impl FnOnce(&Arc<Spill>) -> Result<Run, ReadError>,
    ) -> Result<(), ReadError> {
        let spill = match &mut self.spill {
            Some(spill) => spill,
            none => none.insert(Spill::new(folder)?),
        };
        self.runs.push(write(spill)?);
        Ok(())
    }

    fn is_full(&self) -> bool {
        let blocks: usize = self.runs.iter().map(|run| run.block_bytes).sum();
        self.runs.len() > 1 && (self.runs.len() >= RUNS_MAX || blocks > BLOCKS_BYTES_MAX)
    }
}

fn failed(folder: &Path, error: ReadError) -> SortError {
    let folder = folder.to_owned();
    match error {
        ReadError::File(source) => SortError::File { folder, source },
        ReadError::Damaged => SortError::Damaged { folder },
    }
}

/// Gives a file's rows in the order of their keys.
#[derive(Debug)]
pub struct Sorted {
    folder: PathBuf,
    runs: Vec<Run>,
    merge: Merge,
    gathering: Option<Gathering>,
    trail: Trail,
}

/// The next rows in the order of their keys.
#[derive(Debug)]
pub struct SortedRows {
    /// The rows; those of all batches are in order.
    pub batches: Vec<RowBatch>,
    /// How many there are, good and bad, with those that are dropped.
    pub rows: u64,
    /// How many of them the entity's filter does not want and has dropped: they are not in `batches`.
    pub dropped: u64,
    /// The trail behind the last of them.
    pub trail: Trail,
}

impl Sorted {
    fn new(folder: PathBuf, runs: Vec<Run>, gathering: Option<Gathering>) -> Result<Self, SortError> {
        let merge = Merge::new(&runs).map_err(|error| failed(&folder, error))?;
        Ok(Self { folder, runs, merge, gathering, trail: Trail::default() })
    }

    /// Passes over the first `rows`, if they are those of a trail. If not, it begins with the first row still.
    ///
    /// # Errors
    /// [`SortError`].
    pub fn skip(&mut self, rows: u64, trail: Trail) -> Result<bool, SortError> {
        for _ in 0..rows {
            let next = self.merge.next().map_err(|error| failed(&self.folder, error))?;
            let Some((place, _)) = next else { break };
            self.trail = self.trail.after(place.number);
        }
        let is_alike = self.trail == trail;
        if !is_alike {
            self.merge = Merge::new(&self.runs).map_err(|error| failed(&self.folder, error))?;
            self.trail = Trail::default();
        }
        Ok(is_alike)
    }

    /// The next rows: at most `rows_max` beside those that are dropped, and no further one once they take `bytes_max`. `None` behind the
    /// last one.
    ///
    /// # Errors
    /// [`SortError`].
    pub fn next_rows(&mut self, rows_max: u64, bytes_max: usize) -> Result<Option<SortedRows>, SortError> {
        let Some(gathering) = &mut self.gathering else { return Ok(None) };
        let damaged = |NotPacked| SortError::Damaged { folder: self.folder.clone() };
        let (mut rows, mut dropped) = (0, 0);
        while rows - dropped < rows_max && gathering.size() < bytes_max {
            let Some((place, packed)) = self.merge.next().map_err(|error| failed(&self.folder, error))? else { break };
            if packed.is_empty() {
                dropped += 1;
            } else {
                gathering.add(packed).map_err(damaged)?;
            }
            self.trail = self.trail.after(place.number);
            rows += 1;
        }
        if rows == 0 {
            return Ok(None);
        }
        Ok(Some(SortedRows { batches: gathering.take().map_err(damaged)?, rows, dropped, trail: self.trail }))
    }
}
