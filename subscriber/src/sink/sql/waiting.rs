//! Rows that wait for a parent: what is missing, and how they go on without it.

use std::{future::Future, ops::AddAssign, time::Duration};

use time::OffsetDateTime;
use waybill_contracts::AfterWait;

use super::{
    bad_rows::{BadRowEntry, BadRowsOf},
    tables::Outgrown,
};
use crate::{
    apply::EntityPlans,
    sink::{Sink, SinkError},
};

/// Rows let go in one transaction when their time is over.
pub(super) const OVERDUE_ROWS_MAX: i64 = 5_000;
/// Looks for overdue rows at least this often, and at most this often.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A sink in an SQL database, which keeps rows until their parents are there, and those that cannot be used.
pub trait SqlSink: Sink {
    /// Parents that rows wait for, one entry for each entity whose rows do, the longest missed first; at most `limit`. With
    /// `waiting`, only those that rows of this entity wait for.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`].
    fn missing(
        &self,
        waiting: Option<&str>,
        limit: u32,
    ) -> impl Future<Output = Result<Vec<MissingParent>, SinkError>> + Send;

    /// Applies the rows that wait for a parent without it, and those that waited for them, in one transaction: no row waits for the
    /// parent then. A row that misses another parent too goes on waiting for that one only. Rows that come later wait for the parent
    /// again.
    ///
    /// # Errors
    /// [`SinkError::Refused`] when the parent's entity is not configured; [`SinkError::Unavailable`].
    ///
    /// # Cancel safety
    /// A dropped call may still take effect, whole or not at all.
    fn release(&self, entity: &str, key: &str) -> impl Future<Output = Result<Released, SinkError>> + Send;

    /// Rows that cannot be used, by file and number; at most `limit`.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`].
    fn bad_rows(&self, of: &BadRowsOf, limit: u32) -> impl Future<Output = Result<Vec<BadRowEntry>, SinkError>> + Send;

    /// How many they are.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`].
    fn count_bad_rows(&self, of: &BadRowsOf) -> impl Future<Output = Result<u64, SinkError>> + Send;

    /// Tables of types that had no entity when their rows came and have one now: its own table lacks these rows until it is
    /// [derived again](super::Rebuild).
    ///
    /// # Errors
    /// [`SinkError::Unavailable`].
    fn outgrown(&self) -> impl Future<Output = Result<Vec<Outgrown>, SinkError>> + Send;
}

/// A parent that rows wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingParent {
    /// Its entity.
    pub entity: String,
    /// Its key, the parts joined by commas.
    pub key: String,
    /// The entity of the rows that wait.
    pub waiting: String,
    /// How many they are.
    pub rows: u64,
    /// When the first of them was parked, RFC 3339.
    pub since: String,
}

/// What became of rows that were let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Released {
    /// In effect now, those that waited for them among them.
    pub applied: u64,
    /// Older than what is there by now.
    pub ignored: u64,
    /// Wait for another parent.
    pub still_waiting: u64,
    /// Kept with their error.
    pub bad: u64,
    /// Of those in effect, the rows with a value that does not fit its column and is in `_rescued` instead.
    pub rescued: u64,
}

impl Released {
    /// Rows that were looked at.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.applied + self.ignored + self.still_waiting + self.bad
    }
}

impl AddAssign for Released {
    fn add_assign(&mut self, other: Self) {
        self.applied += other.applied;
        self.ignored += other.ignored;
        self.still_waiting += other.still_waiting;
        self.bad += other.bad;
        self.rescued += other.rescued;
    }
}

/// A reference whose rows do not wait for ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Patience {
    pub(super) entity: String,
    pub(super) parent: String,
    pub(super) after: Duration,
    pub(super) then: AfterWait,
}

impl Patience {
    /// Those of all entities. References of one entity to one parent have the same.
    pub(super) fn of(plans: &EntityPlans) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for plan in plans.iter() {
            for reference in plan.references() {
                let Some(wait) = reference.max_wait else { continue };
                let new = Self {
                    entity: plan.name().to_owned(),
                    parent: reference.parent.clone(),
                    after: wait.after,
                    then: wait.then,
                };
                if !all.contains(&new) {
                    all.push(new);
                }
            }
        }
        all
    }

    /// Rows parked before this instant have waited long enough. To the second: what is stored may have a fraction or not.
    pub(super) fn cutoff(&self, now: OffsetDateTime) -> OffsetDateTime {
        let now = now.replace_nanosecond(0).unwrap_or(now);
        now.checked_sub(self.after.try_into().unwrap_or(time::Duration::MAX)).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

/// When to look for overdue rows again.
pub(super) fn again_in(patience: &[Patience]) -> Option<Duration> {
    let shortest = patience.iter().map(|patience| patience.after).min()?;
    Some((shortest / 10).clamp(LOOK_AGAIN.0, LOOK_AGAIN.1))
}
