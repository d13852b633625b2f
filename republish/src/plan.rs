//! What the jobs would make of the files that an inbox has: read, judged and packed, and not published.

use std::sync::atomic::AtomicU64;

use serde::Serialize;
use waybill_contracts::Reason;
use waybill_formats::{Compression, RowWriter, WriterOptions};
use waybill_subscriber::{
    Blame, Subscriber, Verdict,
    inbox::{Inbox, InboxError, InboxRow, ListFilter, Pages, State},
    look::LookError,
};

use crate::{
    figures::{Rows, add},
    jobs::{Jobs, Task},
    republisher::chain,
    rule::Became,
};

/// Rows of the inbox that are listed together.
const PAGE: u32 = 500;
/// Bytes of an output that are ready before they are dropped.
const READY_BYTES: usize = 1 << 20;
/// Files that are told one by one.
const TOLD_MAX: usize = 100;

/// What it comes to.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Plan {
    /// By the input's type.
    pub types: Vec<TypePlan>,
    /// Files of which nothing would be published, the first 100.
    pub files: Vec<FilePlan>,
}

/// The files of a type.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct TypePlan {
    /// The input's type.
    pub from: String,
    /// The output's.
    pub to: String,
    /// Files, whatever became of them so far; duplicates, skipped and expired ones do not count.
    pub files: u64,
    /// Those that would become a file.
    pub files_out: u64,
    /// Those of which nothing is wanted.
    pub files_empty: u64,
    /// Those that would be quarantined.
    pub files_quarantined: u64,
    /// Those that are gone and past their time.
    pub files_expired: u64,
    /// Those that cannot be read now: they would be tried again.
    pub files_unreadable: u64,
    /// What their rows would become; of files that can be republished.
    #[serde(flatten)]
    pub rows: Rows,
    /// Bytes as stored, of files that can be republished.
    pub bytes: u64,
    /// The same of what they become.
    pub bytes_out: u64,
}

/// A file that cannot be republished as it is.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct FilePlan {
    /// Its number in the inbox.
    pub id: i64,
    /// The input's type.
    pub from: String,
    /// What a run would do with it.
    pub verdict: FileVerdict,
    /// As what it would be quarantined.
    pub reason: Option<Reason>,
    /// Where and why.
    pub problem: String,
}

/// What a run does with a file that it cannot republish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FileVerdict {
    /// It waits for a person.
    Quarantined,
    /// It is gone and past its time.
    Expired,
    /// It is tried again.
    PutOff,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The inbox failed.
    #[error("the inbox failed")]
    Inbox(#[from] InboxError),
}

/// What one file comes to.
struct Judged {
    rows: Rows,
    bytes: u64,
    bytes_out: u64,
}

/// Why it comes to nothing.
struct Refused {
    verdict: Verdict,
    problem: String,
}

impl From<LookError> for Refused {
    fn from(error: LookError) -> Self {
        // What says nothing about the file would be tried again as well.
        let later = Verdict::Retry { after: None, blame: Blame::Dependency };
        Self { verdict: error.verdict().unwrap_or(later), problem: chain(&error) }
    }
}

impl Jobs {
    /// Reads every file of the jobs' types that the inbox has, and says what would become of it; nothing is published, nothing
    /// noted. `looked_at` counts files as they are read.
    ///
    /// # Errors
    /// [`PlanError`]. A file that cannot be read is told in the plan.
    pub async fn plan<I: Inbox + Clone>(
        &self,
        subscriber: &Subscriber<I>,
        compression: Compression,
        looked_at: &AtomicU64,
    ) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        for from in self.types() {
            let Some(task) = self.task(&from) else { continue };
            let mut of = TypePlan { from: from.clone(), to: task.to.clone(), ..TypePlan::default() };
            let filter = ListFilter { blob_type: Some(from), most: PAGE, ..ListFilter::default() };
            let mut pages = Pages::new(filter);
            while let Some(rows) = pages.next(subscriber.inbox()).await? {
                for row in rows.iter().filter(|row| is_file(row)) {
                    let judged = task.judge(subscriber, row.id, compression).await;
                    of.add(row.id, judged, &mut plan.files);
                    add(looked_at, 1);
                }
            }
            plan.types.push(of);
        }
        Ok(plan)
    }
}

/// Whether the row stands for a file that is, was or may be worked.
fn is_file(row: &InboxRow) -> bool {
    row.file.is_some() && matches!(row.state, State::Saved | State::Working | State::Done | State::Quarantined)
}

impl TypePlan {
    fn add(&mut self, id: i64, judged: Result<Judged, Refused>, told: &mut Vec<FilePlan>) {
        self.files += 1;
        match judged {
            Ok(Judged { rows, bytes, bytes_out }) => {
                let of = if rows.read() > rows.rows_left_out { &mut self.files_out } else { &mut self.files_empty };
                *of += 1;
                self.rows += rows;
                self.bytes += bytes;
                self.bytes_out += bytes_out;
            }
            Err(Refused { verdict, problem }) => {
                let (of, verdict, reason) = match verdict {
                    Verdict::Quarantine(reason) => {
                        (&mut self.files_quarantined, FileVerdict::Quarantined, Some(reason))
                    }
                    Verdict::Expire => (&mut self.files_expired, FileVerdict::Expired, None),
                    Verdict::Retry { .. } => (&mut self.files_unreadable, FileVerdict::PutOff, None),
                };
                *of += 1;
                if told.len() < TOLD_MAX {
                    told.push(FilePlan { id, from: self.from.clone(), verdict, reason, problem });
                }
            }
        }
    }
}

impl Task {
    async fn judge<I: Inbox + Clone>(
        &self,
        subscriber: &Subscriber<I>,
        id: i64,
        compression: Compression,
    ) -> Result<Judged, Refused> {
        let faulty = |row, reason, problem| {
            let verdict = Verdict::Quarantine(reason);
            Refused { verdict, problem: format!("row {row}: {problem}") }
        };
        let csv = || self.columns.clone().map(|columns| WriterOptions::Csv { columns });
        let Some(options) = WriterOptions::of(self.format).or_else(csv) else {
            unreachable!("a job in CSV has columns")
        };
        let mut output = RowWriter::new(options, compression);
        let mut counted = Rows::default();
        let mut rows = subscriber.rows(id).await?;
        while let Some(batch) = rows.next().await? {
            if let Some(bad) = batch.bad().first() {
                return Err(faulty(bad.row, Reason::MalformedRow, format!("byte {}: {}", bad.offset, bad.problem)));
            }
            let mut rule = self.rule.apply();
            for row in batch.rows() {
                let became = rule.of(&row).map_err(|fault| faulty(row.number(), fault.reason, fault.problem))?;
                counted.count(&became);
                let written = match became {
                    Became::Nothing => Ok(()),
                    Became::Row(None) => output.copy(&row),
                    Became::Row(Some(fields)) | Became::Deletion { fields, .. } => output.row(fields),
                };
                written.map_err(|error| faulty(row.number(), Reason::MalformedRow, error.problem().to_owned()))?;
            }
            // Only their number counts.
            drop(output.take(READY_BYTES));
        }
        rows.check_announced()?;
        let bytes = rows.stats().map_or(0, |stats| stats.stored_bytes);
        let is_empty = counted.read() == counted.rows_left_out;
        let bytes_out = if is_empty { 0 } else { output.finish().stats.stored_bytes };
        Ok(Judged { rows: counted, bytes, bytes_out })
    }
}
