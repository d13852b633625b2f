//! What of the inbox may be forgotten, and when.
//!
//! A file that came to its end leaves its key behind: another message for it is still a duplicate, and `reconcile` adds it no
//! more. What is gone with it is its message, and so it can neither be replayed nor be part of a rebuild.

use std::time::Duration;

use serde::Serialize;

use super::{Inbox, InboxError};

/// How long what is over is kept; `None` is for ever, and the default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Retention {
    /// Lines of history of files that came to their end, but for the last one of each.
    pub history: Option<Duration>,
    /// Files that are done or skipped, and duplicates, since they became so. Files that wait, are worked, are quarantined or
    /// expired are never pruned: a person has to skip those that are lost.
    pub files: Option<Duration>,
    /// What is kept of files that were pruned, to know them again.
    pub identities: Option<Duration>,
}

impl Retention {
    /// Whether there is anything to do.
    #[must_use]
    pub fn is_for_ever(&self) -> bool {
        *self == Self::default()
    }
}

/// What was pruned, or would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pruned {
    /// Lines of history, without those that go with their file.
    pub history: u64,
    /// Files and other messages.
    pub files: u64,
    /// Those of the files that are done and whose blobs may still be there: a replay or a rebuild would have taken them.
    pub replayable: u64,
    /// Keys of files that were pruned before.
    pub identities: u64,
}

impl std::ops::AddAssign for Pruned {
    fn add_assign(&mut self, other: Self) {
        self.history += other.history;
        self.files += other.files;
        self.replayable += other.replayable;
        self.identities += other.identities;
    }
}

/// What the next call of [`Inbox::prune`] looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneStep {
    /// Lines of history with larger numbers.
    History {
        /// The last one that was looked at.
        after: i64,
    },
    /// Files.
    Files,
    /// Keys of files.
    Identities,
}

impl PruneStep {
    /// Where it begins.
    pub const FIRST: Self = Self::History { after: 0 };

    pub(super) fn next(self) -> Option<Self> {
        match self {
            Self::History { .. } => Some(Self::Files),
            Self::Files => Some(Self::Identities),
            Self::Identities => None,
        }
    }
}

/// Rows of one transaction: few enough that nobody notices who waits for it.
const AT_ONCE: u32 = 500;
/// Between two transactions, so that others come in between.
const PAUSE: Duration = Duration::from_millis(5);

/// Prunes all that `retention` allows, a little at a time. `see` is told of each part.
///
/// # Errors
/// [`InboxError`]; what was pruned before stays so.
///
/// # Cancel safety
/// Dropping the future ends it after the part under way.
pub async fn prune(
    inbox: &impl Inbox,
    retention: &Retention,
    mut see: impl FnMut(&Pruned),
) -> Result<Pruned, InboxError> {
    let (mut pruned, mut step) = (Pruned::default(), Some(PruneStep::FIRST));
    while let Some(now) = step {
        let (part, next) = inbox.prune(retention, now, AT_ONCE).await?;
        pruned += part;
        see(&pruned);
        step = next;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(pruned)
}
