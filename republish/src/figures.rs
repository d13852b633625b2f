//! What a republisher has done, as plain numbers: for an embedder's own metrics. They count since it was made and only grow.

use std::{
    ops::AddAssign,
    sync::atomic::{AtomicU64, Ordering},
};

use serde::Serialize;

use crate::rule::Became;

/// A republisher's figures at one moment. The subscriber's and the publisher's own stand beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Figures {
    /// Files that became an export now.
    pub files_republished: u64,
    /// Files that had become one before, at a try whose end was not noted.
    pub files_repeated: u64,
    /// Files nothing of which is wanted: no export is made of them.
    pub files_empty: u64,
    /// Files put aside for a person.
    pub files_quarantined: u64,
    /// Tries that ended early and are repeated.
    pub tries_put_off: u64,
    /// Rows of the exports that were made now.
    #[serde(flatten)]
    pub rows: Rows,
}

/// What rows became.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Rows {
    /// They passed.
    pub rows_passed: u64,
    /// They were deletions.
    pub rows_deleted: u64,
    /// They became deletions, because the filter does not want them.
    pub rows_unwanted: u64,
    /// They have no key, and were left out.
    pub rows_left_out: u64,
}

impl Rows {
    /// All that were read.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.rows_passed + self.rows_deleted + self.rows_unwanted + self.rows_left_out
    }

    pub(crate) fn count(&mut self, became: &Became<'_, '_>) {
        *match became {
            Became::Row(_) => &mut self.rows_passed,
            Became::Deletion { is_unwanted: false, .. } => &mut self.rows_deleted,
            Became::Deletion { is_unwanted: true, .. } => &mut self.rows_unwanted,
            Became::Nothing => &mut self.rows_left_out,
        } += 1;
    }

    /// Those that the filter does not want.
    #[must_use]
    pub fn filtered(&self) -> u64 {
        self.rows_unwanted + self.rows_left_out
    }
}

impl AddAssign for Rows {
    fn add_assign(&mut self, more: Self) {
        self.rows_passed += more.rows_passed;
        self.rows_deleted += more.rows_deleted;
        self.rows_unwanted += more.rows_unwanted;
        self.rows_left_out += more.rows_left_out;
    }
}

/// The same, counting.
#[derive(Debug, Default)]
pub(crate) struct Counting {
    pub(crate) files_republished: AtomicU64,
    pub(crate) files_repeated: AtomicU64,
    pub(crate) files_empty: AtomicU64,
    pub(crate) files_quarantined: AtomicU64,
    pub(crate) tries_put_off: AtomicU64,
    rows_passed: AtomicU64,
    rows_deleted: AtomicU64,
    rows_unwanted: AtomicU64,
    rows_left_out: AtomicU64,
}

pub(crate) fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Counting {
    pub(crate) fn add_rows(&self, rows: &Rows) {
        add(&self.rows_passed, rows.rows_passed);
        add(&self.rows_deleted, rows.rows_deleted);
        add(&self.rows_unwanted, rows.rows_unwanted);
        add(&self.rows_left_out, rows.rows_left_out);
    }

    pub(crate) fn figures(&self) -> Figures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            files_republished: read(&self.files_republished),
            files_repeated: read(&self.files_repeated),
            files_empty: read(&self.files_empty),
            files_quarantined: read(&self.files_quarantined),
            tries_put_off: read(&self.tries_put_off),
            rows: Rows {
                rows_passed: read(&self.rows_passed),
                rows_deleted: read(&self.rows_deleted),
                rows_unwanted: read(&self.rows_unwanted),
                rows_left_out: read(&self.rows_left_out),
            },
        }
    }
}
