//! What to do with a file after something went wrong: the one decision every error ends in.

use std::time::Duration;

use waybill_contracts::Reason;

/// Whose fault a passing error is: it decides which retry clock runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The service behind it (bus, storage, TenantService, sink): all files wait on one clock.
    Dependency,
    /// This file alone.
    File,
}

/// Where a file goes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Back to `saved`, due later.
    Retry {
        /// What the other side asked for; else our backoff decides.
        after: Option<Duration>,
        /// Whose clock.
        blame: Blame,
    },
    /// Kept aside until a person acts.
    Quarantine(Reason),
    /// The file is gone and past its time.
    Expire,
}

/// What a malformed row, which is not of its file's format, does to the file. A row that is well-formed and cannot be used (it lacks
/// a usable key, version or mark of deletion, a filter cannot judge it, or the database refuses it) is kept with its error
/// whatever is said here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBadRow {
    /// The row is kept with its error, the file goes on (the default).
    #[default]
    Quarantine,
    /// The row is counted and left out.
    Skip,
    /// Nothing of the file is applied: it is read through once before the first commit.
    Fail,
}
