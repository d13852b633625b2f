//! Where rows go.

mod any;
pub mod conformance;
mod dir;
mod lines;
pub mod sql;
mod stdout;
#[cfg(test)]
mod tests;
mod trouble;

use std::{any::Any, fmt, future::Future, path::Path, sync::Arc, time::Duration};

use tokio::sync::mpsc;
use waybill_contracts::Format;
use waybill_formats::{FileStats, RowBatch, RowFilter};
use waybill_store::{OpenError, StoreError};

pub use self::{
    any::{AnySink, check, open, shown},
    dir::{DirFormat, DirSink, DirTotals},
    sql::{
        BadRowEntry, BadRowsOf, MissingParent, Outgrown, ParkedRow, PostgresSink, Rebuild, RebuildError, Released,
        Scope, SqlSink, SqliteSink, SwappedTable, Totals, Way,
    },
    stdout::StdoutSink,
};
use crate::{
    FileKey, Verdict,
    apply::{EntityPlan, PlanError, Position, Sieve},
    sorted::Trail,
};

/// What a sink promises about the effect of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    /// Rows and progress are one transaction.
    ExactlyOnce,
    /// A crash may bring a row into effect again.
    AtLeastOnce,
}

/// Whether all of a file takes effect at once, or nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WholeFiles {
    /// It cannot: what was applied is in effect.
    Never,
    /// Always: what is applied is seen once the file is complete.
    Always,
    /// Where it is asked for, by [`Sink::apply_whole`].
    Asked,
}

/// How far a file has come in the sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Rows (good or bad) that have taken effect: the number of the last one.
    pub rows: u64,
    /// Whether the whole file has.
    pub done: bool,
    /// Those of the rows that cannot be used: kept with their error, or left out where `on_bad_row` says so.
    pub bad: u64,
    /// Those that the filter did not want.
    pub filtered: u64,
    /// Where they take effect in the order of their keys: the trail of those that have, and [`Progress::rows`] is how many
    /// they are.
    pub trail: Option<Trail>,
}

impl Progress {
    /// How far the file is once its rows up to `to` have taken effect too. Rows that were not given to the sink were left out
    /// as bad. The trail stays what it was.
    #[must_use]
    pub fn after(self, to: u64, done: bool, applied: &Applied) -> Self {
        let usable = applied.rows() - applied.bad;
        let bad = to.saturating_sub(self.rows).saturating_sub(usable);
        Self { rows: to, done, bad: self.bad + bad, filtered: self.filtered + applied.filtered, trail: self.trail }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = match (self.done, self.trail) {
            (true, _) => "done with row",
            (false, None) => "at row",
            (false, Some(_)) => "in the order of keys at row",
        };
        write!(f, "{at} {}", self.rows)
    }
}

/// A stretch of a file's rows, from the row after `from` to `to`.
#[derive(Debug)]
pub struct EntityBatch {
    /// The file's blobType.
    pub blob_type: Arc<str>,
    /// The entity its rows belong to; `None`: a table or stream of its own, to which rows are only added.
    pub entity: Option<Arc<EntityPlan>>,
    /// Which rows are wanted where there is no entity; an entity has its own. See [`EntityBatch::filter`].
    pub filter: Option<Arc<RowFilter>>,
    /// The format that the file came in.
    pub format: Format,
    /// Where the file stands in the order.
    pub position: Position,
    /// The rows, in the file's order, with the bad ones among them. Rows up to `from` may be among them: they are passed
    /// over.
    pub rows: Vec<RowBatch>,
    /// The number of the last row, good or bad: progress after this batch.
    pub to: u64,
    /// The file ends here; its figures.
    pub end: Option<FileStats>,
    /// Its rows are in the order of their keys, only for a sink that [asks for it](Sink::sorts_in). `from` and `to` count rows
    /// in that order then, and say nothing of their numbers.
    pub sorted: Option<Stretch>,
    /// What the sink found out ahead.
    pub ahead: Ahead,
}

/// A stretch of a file's rows in the order of their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The trail of the rows before it.
    pub before: Trail,
    /// And with its own.
    pub after: Trail,
    /// Rows of it that the entity's filter does not want and has dropped: the batch does not have them, and its progress counts them.
    pub dropped: u64,
}

/// What a sink's [`Sink::look_ahead`] leaves with a batch for its `apply`. Empty by default.
#[derive(Debug, Default)]
pub struct Ahead(Option<Box<dyn Any + Send + Sync>>);

impl Ahead {
    /// Leaves something.
    #[must_use]
    pub fn new(found: impl Any + Send + Sync) -> Self {
        Self(Some(Box::new(found)))
    }

    /// Takes it, if it is a `T`.
    pub fn take<T: Any>(&mut self) -> Option<T> {
        self.0.take()?.downcast().ok().map(|found| *found)
    }
}

impl EntityBatch {
    /// Rows up to this number took effect before, where progress is at `from`.
    #[must_use]
    pub fn passed_over(&self, from: u64) -> u64 {
        if self.sorted.is_some() { 0 } else { from }
    }

    /// Whether it follows what took effect before.
    #[must_use]
    pub fn follows(&self, known: &Progress, from: u64) -> bool {
        let trail = self.sorted.map(|stretch| stretch.before);
        !known.done && known.rows == from && (from == 0 || known.trail == trail)
    }

    /// Which rows are wanted; `None` for all. Of an entity a deletion always is, and a row that is not wanted removes what
    /// the sink holds under its key, if that is older.
    #[must_use]
    pub fn filter(&self) -> Option<&RowFilter> {
        self.entity.as_ref().map_or(self.filter.as_deref(), |entity| entity.filter())
    }

    /// What asks its rows whether they pass the filter; deletions of an entity always do.
    #[must_use]
    pub fn sieve<'r>(&self) -> Sieve<'_, 'r> {
        match &self.entity {
            Some(entity) => Sieve::of_entity(entity.filter()),
            None => Sieve::of_type(self.filter.as_deref()),
        }
    }
}

/// What became of a batch's rows. Each is counted once, in one of the fields but `released`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// New rows.
    pub inserted: u64,
    /// Rows that replaced an older version.
    pub updated: u64,
    /// Deletions that took effect or were remembered.
    pub deleted: u64,
    /// Older than what is there, or the same.
    pub ignored: u64,
    /// Superseded within this batch by a newer version of the same key.
    pub superseded: u64,
    /// Kept until their parent arrives.
    pub parked: u64,
    /// Rows parked earlier that this batch released (not rows of this batch).
    pub released: u64,
    /// Kept with their error.
    pub bad: u64,
    /// Not wanted by the filter: what an entity's table held under their key is gone, if it was older.
    pub filtered: u64,
    /// Of those inserted or updated, rows with a value that did not fit its column: the column is empty, and the value is kept
    /// in the row's `_rescued`.
    pub rescued: u64,
}

impl Applied {
    /// The rows of the batch: all counts but [`Applied::released`] and [`Applied::rescued`].
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.inserted
            + self.updated
            + self.deleted
            + self.ignored
            + self.superseded
            + self.parked
            + self.bad
            + self.filtered
    }
}

impl std::ops::AddAssign for Applied {
    fn add_assign(&mut self, other: Self) {
        self.inserted += other.inserted;
        self.updated += other.updated;
        self.deleted += other.deleted;
        self.ignored += other.ignored;
        self.superseded += other.superseded;
        self.parked += other.parked;
        self.released += other.released;
        self.bad += other.bad;
        self.filtered += other.filtered;
        self.rescued += other.rescued;
    }
}

/// What became of rows that waited for a parent longer than they may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WaitsEnded {
    /// Rows in effect now: those that were applied without their parent, and those that waited for them.
    pub applied: u64,
    /// Rows kept with their error.
    pub bad: u64,
    /// When to look again; `None` where no wait ever ends by itself.
    pub again_in: Option<Duration>,
}

/// Why a sink is not opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkOpenError {
    /// The text that names it is not understood, or names one that this version does not have.
    #[error("sink {given:?}: {problem}")]
    Unsupported {
        /// As given, without secrets.
        given: String,
        /// What to write instead.
        problem: String,
    },
    /// An entity cannot be used as it is configured.
    #[error(transparent)]
    Entity(#[from] PlanError),
    /// The database is not ours to use.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// A table that is there cannot take the rows.
    #[error("{sink}: {problem}")]
    Table {
        /// Which sink.
        sink: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// It cannot be used now; later it may.
    #[error("{sink}: {problem}")]
    Unavailable {
        /// Which sink.
        sink: String,
        /// What happened.
        problem: String,
    },
    /// It says no, which a person has to mend: the password, a database that is not there, a right that is missing.
    #[error("{sink}: {problem}")]
    Refused {
        /// Which sink.
        sink: String,
        /// What it says.
        problem: String,
    },
}

impl SinkOpenError {
    /// Whether it ends without a person, as an outage does: then [waiting](crate::opening) is of use.
    #[must_use]
    pub fn passes(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Store(error) => error.passes(),
            Self::Unsupported { .. } | Self::Entity(_) | Self::Table { .. } | Self::Refused { .. } => false,
        }
    }

    fn of(sink: &str, problem: String, passes: bool) -> Self {
        let sink = sink.to_owned();
        if passes { Self::Unavailable { sink, problem } } else { Self::Refused { sink, problem } }
    }

    fn of_store(sink: &str, error: &StoreError) -> Self {
        Self::of(sink, error.to_string(), error.passes())
    }

    fn closing(sink: &str) -> Self {
        Self::Unavailable { sink: sink.to_owned(), problem: "the program is ending".to_owned() }
    }
}

/// Why a batch did not take effect. Nothing of it did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The file's progress is not where this worker believes: another one was faster, or the lease lapsed.
    #[error("{file}: progress is {found}, not at row {expected}; another worker has it")]
    Fenced {
        /// The file.
        file: String,
        /// The row that the worker believed to be the last one.
        expected: u64,
        /// What the sink says.
        found: Progress,
    },
    /// The sink cannot be used now; later it may.
    #[error("{sink}: {problem}")]
    Unavailable {
        /// Which sink, without secrets.
        sink: String,
        /// What happened.
        problem: String,
    },
    /// The sink cannot be used until a person mends it: it is damaged, nobody may write to it. All files wait for it as in an outage, but
    /// no start does.
    #[error("{sink}: {problem}")]
    Unusable {
        /// Which sink, without secrets.
        sink: String,
        /// What happened and what to do.
        problem: String,
    },
    /// The sink works, and says no to what this file, or its table, asks of it: a trigger that fails, a right that is missing,
    /// a constraint. Tried again after the file's own pause; other files go on.
    #[error("{sink}: {problem}")]
    Failed {
        /// Which sink, without secrets.
        sink: String,
        /// What happened.
        problem: String,
    },
    /// The file cannot be applied as a whole; a person must look.
    #[error("{sink}: {problem}")]
    Refused {
        /// Which sink, without secrets.
        sink: String,
        /// For the inbox.
        reason: waybill_contracts::Reason,
        /// What is wrong and what to do.
        problem: String,
    },
}

/// Takes rows. Contract, exercised by `conformance`:
///
/// - `apply` is atomic: rows, bad rows and progress `from → to` take effect together or not at all (a sink that is only
///   [`Guarantee::AtLeastOnce`] may repeat rows after a crash, never skip them).
/// - `apply` fails with [`SinkError::Fenced`] and no effect when progress is not `from`, or the file is done; where rows are in the
///   order of their keys, also when those before it were others: see [`EntityBatch::follows`].
/// - `progress` moves on by [`Progress::after`], with the figures of all batches of the file, whoever brought them.
/// - Rows that do not pass the batch's [`sieve`](EntityBatch::sieve) are [`filtered`](Applied::filtered): they are left out, and
///   a sink that holds rows by their keys removes the older one. Those of which it cannot be said are bad rows.
/// - `apply_whole` does what the `apply` of each batch would, in one transaction, fenced when the file is not new; where there is no
///   end, or anything fails, nothing of it took effect.
/// - On return the effect is durable. Clones and several callers at once are fine.
///
/// # Cancel safety
/// A dropped `apply` may still take effect, whole or not at all: ask `progress` before going on.
pub trait Sink: Send + Sync + 'static {
    /// Which guarantee it gives.
    fn guarantee(&self) -> Guarantee;
    /// How far a file has come; nothing known is `Progress::default()`.
    fn progress(&self, file: &FileKey) -> impl Future<Output = Result<Progress, SinkError>> + Send;
    /// Reads a batch while the one before it takes effect: what needs no word with the database can be done here and left in
    /// [`EntityBatch::ahead`]. It may be skipped, and nothing may depend on the batch before having been applied.
    fn look_ahead(
        &self,
        file: &FileKey,
        from: u64,
        batch: EntityBatch,
    ) -> impl Future<Output = Result<EntityBatch, SinkError>> + Send {
        let _ = (file, from);
        std::future::ready(Ok(batch))
    }
    /// Plain bytes in one [`apply`](Sink::apply) that suit it, where the user does not say how many.
    fn commit_bytes(&self) -> usize {
        4 << 20
    }
    /// The folder in which rows of a large file of an entity are sorted by their keys before they are applied; `None`: they are
    /// applied in the file's order, as always where there is no entity.
    fn sorts_in(&self) -> Option<&Path> {
        None
    }
    /// Whether rows of this entity may come in the order of their keys: not where it decides whether the database takes a row, as it
    /// does beside a constraint between rows or a trigger. Asked before a file of a sink that sorts begins; default yes.
    fn may_sort(&self, entity: &EntityPlan) -> impl Future<Output = Result<bool, SinkError>> + Send {
        let _ = entity;
        std::future::ready(Ok(true))
    }
    /// Forgets how far a file has come in the order of its keys, if it is there still: its rows begin again, and those that took
    /// effect change nothing. Only asked of a sink that sorts, which has to have it.
    fn begin_again(&self, file: &FileKey, at: Progress) -> impl Future<Output = Result<(), SinkError>> + Send {
        let problem = format!("{at} in the order of keys, which this sink cannot take back");
        std::future::ready(Err(SinkError::Failed { sink: file.to_string(), problem }))
    }
    /// Brings a batch into effect.
    fn apply(
        &self,
        file: &FileKey,
        from: u64,
        batch: EntityBatch,
    ) -> impl Future<Output = Result<Applied, SinkError>> + Send;
    /// Whether a file takes effect as a whole. Default: never.
    fn whole_files(&self) -> WholeFiles {
        WholeFiles::Never
    }
    /// Brings all batches of a file of which nothing took effect before into effect as one, up to the one with the file's
    /// [end](EntityBatch::end). They come as they are made, and no more of them are held at once than elsewhere. `None`: there was
    /// no end, and nothing took effect. Only asked of a sink that takes [whole files](WholeFiles::Asked).
    ///
    /// # Cancel safety
    /// Dropped before the last batch came, nothing takes effect; later all of the file may.
    fn apply_whole(
        &self,
        file: &FileKey,
        batches: mpsc::Receiver<EntityBatch>,
    ) -> impl Future<Output = Result<Option<Applied>, SinkError>> + Send {
        drop(batches);
        let problem = "this sink cannot bring a file into effect as a whole".to_owned();
        std::future::ready(Err(SinkError::Failed { sink: file.to_string(), problem }))
    }
    /// Ends the wait of rows that have waited for a parent longer than `max_wait` allows. Called at the start and then as
    /// the answer says; where nothing waits, the answer is `WaitsEnded::default()`.
    fn end_waits(&self) -> impl Future<Output = Result<WaitsEnded, SinkError>> + Send;
}

impl SinkError {
    /// Where the file goes; `None` for [`SinkError::Fenced`]: the worker lets go.
    #[must_use]
    pub fn verdict(&self) -> Option<Verdict> {
        match self {
            Self::Fenced { .. } => None,
            Self::Unavailable { .. } | Self::Unusable { .. } => {
                Some(Verdict::Retry { after: None, blame: crate::Blame::Dependency })
            }
            Self::Failed { .. } => Some(Verdict::Retry { after: None, blame: crate::Blame::File }),
            Self::Refused { reason, .. } => Some(Verdict::Quarantine(*reason)),
        }
    }
}
