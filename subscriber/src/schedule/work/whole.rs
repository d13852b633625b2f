//! A file's way into effect as a whole, where that is wanted: all of its rows in one transaction of the sink, or none.
//!
//! Rows are read while they are applied, as elsewhere, and what is wrong with the file is known at its end at the latest: then the
//! sink is not given the end, and takes back what it did. So nothing has to be looked through before.

use tokio::sync::{mpsc, oneshot};
use waybill_formats::FileStats;

use super::{Effect, WorkError, Workshop};
use crate::{
    FileKey, OnBadRow,
    inbox::Inbox,
    rows::{self, Group},
    schedule::Dependency,
    sink::{EntityBatch, Progress, Sink, Stretch, WholeFiles},
};

/// Batches between the one who checks them and the sink, which reads one ahead itself.
const BATCHES_QUEUED: usize = 1;

/// What is known once all rows were handed on.
struct Last {
    to: u64,
    stats: FileStats,
    sorted: Option<Stretch>,
}

impl<I: Inbox + Clone, S: Sink> Workshop<I, S> {
    /// Whether all of the file is to take effect at once. One that began to take effect in parts, before that was wanted, goes on
    /// so.
    pub(super) fn takes_whole(&self, key: &FileKey, before: &Progress) -> bool {
        let is_wanted = self.atomic && self.sink.whole_files() == WholeFiles::Asked;
        if is_wanted && before.rows > 0 {
            tracing::warn!(file = %key, %before, "it began to take effect in parts, before `atomic` was set, and ends so");
        }
        is_wanted && before.rows == 0
    }

    /// As [`Workshop::bring_into_effect`], of a file of which nothing took effect yet.
    pub(super) async fn bring_into_effect_as_one(
        &self,
        effect: &Effect<'_>,
        mut groups: mpsc::Receiver<Group>,
        before: Progress,
    ) -> Result<(Progress, Option<FileStats>), WorkError> {
        let Effect { file, blob, extras, facts, reached, .. } = effect;
        let (batch_to, batches) = mpsc::channel::<EntityBatch>(BATCHES_QUEUED);
        let (begin, has_begun) = oneshot::channel::<()>();
        let handing_on = async move {
            let (mut rows, mut last, mut begin) = (0, None, Some(begin));
            while let Some(group) = groups.recv().await {
                if self.on_bad_row == OnBadRow::Fail {
                    WorkError::of_bad_row(&group)?;
                }
                if let Some(stats) = &group.end {
                    rows::check_figures(blob.name(), extras, stats)?;
                    last = Some(Last { to: group.to, stats: stats.clone(), sorted: group.sorted });
                }
                rows += group.rows;
                if batch_to.send(facts.with(group, self.on_bad_row)).await.is_err() {
                    // The sink gave up, and says why.
                    break;
                }
                // Dropped, it says the same.
                drop(begin.take());
            }
            Ok::<_, WorkError>((rows, last))
        };
        let applying = async {
            // A storage that answers late holds up nobody: a file has its turn once there are rows, or will be none.
            let _it_was_dropped = has_begun.await;
            let _turn = self.commits.acquire().await.expect("it is never closed");
            self.sink.apply_whole(&file.waybill.key, batches).await
        };
        let (handed_on, applied) = tokio::join!(handing_on, applying);
        let ((rows, last), applied) = (handed_on?, applied?);
        // Where there was no end, who reads the file says why.
        let (Some(applied), Some(Last { to, stats, sorted })) = (applied, last) else { return Ok((before, None)) };
        self.circuits.of(Dependency::Sink).worked();
        let now = Progress { trail: sorted.map(|stretch| stretch.after), ..before.after(to, true, &applied) };
        self.count(&applied, rows, now.bad);
        reached.at(&now);
        Ok((now, Some(stats)))
    }
}
