//! What every inbox stores and says alike, whatever database it has.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::Instant;
use waybill_contracts::{Metadata, MetadataError, Reason};

use super::{BlobSeen, End, FileDone, FileKey, Lease, Leased, PublisherSequence, State, Waybill};

/// The problem of a file that was skipped because its type is not configured.
pub const OTHER_TYPE: &str = "outside the configured types";
/// How many lines of its history a file keeps that waits to be tried again, beside the first one: a grant that moves elsewhere for
/// months would fill a disk with what its files waited for.
pub const HISTORY_KEPT: u32 = 100;
/// Of a file that the inbox calls done.
pub(super) const UNKNOWN_TO_SINK: &str = "the sink does not know this file";
/// Of what a person wants.
pub(super) const WANTED_AGAIN: &str = "a person wants it tried again";

/// Of what a person does not want.
pub(super) fn not_wanted(why: &str) -> String {
    format!("a person does not want it: {why}")
}

/// Until when a worker counts on a lease: from before it was asked for, less a tenth for what is under way when it ends.
pub(super) fn trusted_until(asked: Instant, lease: Duration) -> Instant {
    asked + (lease - lease / 10)
}

/// A file as stored, before its body is parsed again.
pub(super) struct StoredFile {
    pub(super) id: i64,
    pub(super) key: FileKey,
    pub(super) body: String,
    pub(super) sequence: Option<PublisherSequence>,
    pub(super) expires_at: Option<OffsetDateTime>,
    pub(super) sequence_number: i64,
    pub(super) received_at: OffsetDateTime,
    pub(super) attempts: u32,
    pub(super) blob: Option<BlobSeen>,
}

impl StoredFile {
    pub(super) fn leased(self, lease: Lease) -> Result<Leased, MetadataError> {
        let metadata = Metadata::parse(self.body.as_bytes())?;
        Ok(Leased {
            lease,
            waybill: Waybill {
                key: self.key,
                body: self.body,
                metadata,
                sequence: self.sequence,
                expires_at: self.expires_at,
            },
            sequence_number: self.sequence_number,
            received_at: self.received_at,
            attempts: self.attempts,
            blob: self.blob,
        })
    }
}

/// What the history says of a message that was understood when it was saved, and is not any more.
pub(super) fn unreadable(error: &MetadataError) -> String {
    format!("the saved message cannot be read: {error}")
}

/// What the end of a lease does to its row.
pub(super) struct Ending<'e> {
    pub(super) state: State,
    pub(super) reason: Option<Reason>,
    pub(super) problem: Option<&'e str>,
    /// When it may be tried again, from now; `None` where nobody tries it.
    pub(super) due_in: Option<Duration>,
    /// How many tries it counts as.
    pub(super) tries: u32,
    pub(super) figures: Option<&'e FileDone>,
}

impl<'e> Ending<'e> {
    pub(super) fn of(end: &'e End) -> Self {
        let not_again = |state| Self { state, reason: None, problem: None, due_in: None, tries: 1, figures: None };
        match end {
            End::Done(figures) => Self { figures: Some(figures), ..not_again(State::Done) },
            End::Later { after, problem, counts } => Self {
                problem: Some(problem),
                due_in: Some(*after),
                tries: u32::from(*counts),
                ..not_again(State::Saved)
            },
            End::Quarantine { reason, problem } => {
                Self { reason: Some(*reason), problem: Some(problem), ..not_again(State::Quarantined) }
            }
            End::Expire { problem } => Self { problem: Some(problem), ..not_again(State::Expired) },
            End::Release => Self { due_in: Some(Duration::ZERO), tries: 0, ..not_again(State::Saved) },
        }
    }
}

/// An address and content type, as people see them. The query of an address may hold somebody's token.
pub(super) fn shown(body: &str) -> (Option<String>, Option<String>) {
    match Metadata::parse(body.as_bytes()) {
        Ok(metadata) => (Some(metadata.uri_without_query().to_owned()), Some(metadata.content_type)),
        Err(_) => (None, None),
    }
}

/// A worker that was not heard for so long is forgotten.
pub(super) const FORGOTTEN_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
/// And of more than these, all but the latest.
pub(super) const WORKERS_MAX: u32 = 100;

/// What a worker says of its trouble, cut where it goes on for too long.
pub(super) fn trouble(problem: &str) -> String {
    problem.chars().take(2_000).collect()
}
