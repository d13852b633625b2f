//! What a publisher has done since it was built, and whether it can do its work: for metrics and health.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// A change log that has not answered for so long is slow, and that is told.
const SLOW_AFTER: Duration = Duration::from_secs(5);

/// A loop that has not come round for so long stands still: no call of its own takes as long.
const STUCK_AFTER: Duration = Duration::from_secs(300);

/// Counts of this process, from zero when the publisher is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Figures {
    /// Files of changes that were fixed in a log.
    pub files_planned: u64,
    /// The changes in them.
    pub changes_planned: u64,
    /// Changes that no file can hold.
    pub changes_refused: u64,
    /// Exports whose blob was committed.
    pub exports_uploaded: u64,
    /// The rows in them, where they are known.
    pub rows_uploaded: u64,
    /// Their bytes, as stored.
    pub bytes_uploaded: u64,
    /// Tries at an export that came to nothing; most are repeated.
    pub exports_failed: u64,
    /// Messages that the broker accepted.
    pub messages_sent: u64,
    /// Times that the broker refused a message for what it is.
    pub messages_refused: u64,
    /// Batches that an outage of the bus kept from being sent.
    pub sends_failed: u64,
    /// Exports whose term was over and that were forgotten.
    pub exports_pruned: u64,
    /// Times that storage refused to delete a blob whose term was over.
    pub deletions_refused: u64,
}

/// Where they are counted.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    figures: [AtomicU64; 12],
    follower: Mutex<Option<Instant>>,
    relay: Mutex<Option<Instant>>,
    log_asked: Mutex<Option<Instant>>,
}

/// What is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Figure {
    FilesPlanned,
    ChangesPlanned,
    ChangesRefused,
    ExportsUploaded,
    RowsUploaded,
    BytesUploaded,
    ExportsFailed,
    MessagesSent,
    MessagesRefused,
    SendsFailed,
    ExportsPruned,
    DeletionsRefused,
}

impl Counting {
    pub(crate) fn add(&self, figure: Figure, count: u64) {
        if let Some(figure) = self.figures.get(figure as usize) {
            figure.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// The loop that makes files comes round; `None` when it ends.
    pub(crate) fn follower_at(&self, at: Option<Instant>) {
        *self.follower.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// The loop that sends comes round; `None` when it ends.
    pub(crate) fn relay_at(&self, at: Option<Instant>) {
        *self.relay.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// Something is asked of the change log now; `None` when there is an answer.
    pub(crate) fn log_asked_at(&self, at: Option<Instant>) {
        *self.log_asked.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// For how long the change log has not answered, once that is long.
    pub(crate) fn log_silent_for(&self) -> Option<Duration> {
        let asked = *self.log_asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.map(|at| at.elapsed()).filter(|silent| *silent >= SLOW_AFTER)
    }

    /// The loops that stand still.
    pub(crate) fn stuck(&self) -> Vec<&'static str> {
        let stands = |of: &Mutex<Option<Instant>>| {
            of.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| at.elapsed() > STUCK_AFTER)
        };
        let loops = [("change log", &self.follower), ("relay", &self.relay)];
        loops.into_iter().filter(|(_, of)| stands(of)).map(|(name, _)| name).collect()
    }

    pub(crate) fn figures(&self) -> Figures {
        let of = |figure: Figure| self.figures.get(figure as usize).map_or(0, |count| count.load(Ordering::Relaxed));
        Figures {
            files_planned: of(Figure::FilesPlanned),
            changes_planned: of(Figure::ChangesPlanned),
            changes_refused: of(Figure::ChangesRefused),
            exports_uploaded: of(Figure::ExportsUploaded),
            rows_uploaded: of(Figure::RowsUploaded),
            bytes_uploaded: of(Figure::BytesUploaded),
            exports_failed: of(Figure::ExportsFailed),
            messages_sent: of(Figure::MessagesSent),
            messages_refused: of(Figure::MessagesRefused),
            sends_failed: of(Figure::SendsFailed),
            exports_pruned: of(Figure::ExportsPruned),
            deletions_refused: of(Figure::DeletionsRefused),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_has_not_come_round_for_minutes_is_told_and_one_that_ended_is_not() {
        let counting = Counting::default();
        counting.relay_at(Some(Instant::now()));
        counting.follower_at(Some(Instant::now()));
        tokio::time::advance(STUCK_AFTER).await;
        assert!(counting.stuck().is_empty());
        counting.follower_at(None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(counting.stuck(), ["relay"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_log_that_does_not_answer_for_seconds_is_told_until_it_does() {
        let counting = Counting::default();
        counting.log_asked_at(Some(Instant::now()));
        assert_eq!(counting.log_silent_for(), None);
        tokio::time::advance(SLOW_AFTER).await;
        assert_eq!(counting.log_silent_for(), Some(SLOW_AFTER));
        counting.log_asked_at(None);
        assert_eq!(counting.log_silent_for(), None);
    }

    #[test]
    fn each_figure_is_counted_in_its_own_place() {
        let counting = Counting::default();
        counting.add(Figure::FilesPlanned, 1);
        counting.add(Figure::SendsFailed, 2);
        counting.add(Figure::SendsFailed, 3);
        assert_eq!(counting.figures(), Figures { files_planned: 1, sends_failed: 5, ..Figures::default() });
    }
}
