//! What the inbox says of the work as a whole: what waits, what may be lost, and who works.

use std::time::Duration;

use serde::Serialize;
use time::OffsetDateTime;

use super::{State, WorkerId};

/// What is not in effect yet.
#[derive(Debug, Clone, Default)]
pub struct Backlog {
    /// By blobType and state, in the order of the names: what is saved, working, quarantined or expired.
    pub by_type: Vec<TypeBacklog>,
    /// How long ago the oldest message that is saved or working was received.
    pub oldest_waiting: Option<Duration>,
    /// Files that are not done and whose blobs may be deleted within [`AT_RISK`].
    pub at_risk: u64,
    /// Of those, the ones whose time is over first, ten at most.
    pub first_at_risk: Vec<AtRisk>,
    /// Files that no message announced, though later ones of their publisher's sequences came: see [`SequenceSeen`].
    ///
    /// [`SequenceSeen`]: super::SequenceSeen
    pub missing: u64,
}

/// A file whose blob may soon be deleted is at risk.
pub const AT_RISK: Duration = Duration::from_secs(24 * 3600);

/// How many files at risk are named.
pub(super) const AT_RISK_NAMED: u32 = 10;

/// How much of a blobType is in a state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TypeBacklog {
    /// Empty for messages that do not say it.
    pub blob_type: String,
    /// The state.
    pub state: State,
    /// Messages.
    pub messages: u64,
}

/// A file that may be lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AtRisk {
    /// The row's number.
    pub id: i64,
    /// `blobType`.
    pub blob_type: Option<String>,
    /// Where it is in its life.
    pub state: State,
    /// When the blob may be deleted.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

/// What a subscriber tells of itself every few seconds, for whoever looks from elsewhere. Spans and not instants, because the
/// clocks of several machines differ: the inbox's counts. Of a token only how long it lives.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Beat {
    /// It receives.
    pub receives: bool,
    /// It works files.
    pub works: bool,
    /// A link to the bus is attached.
    pub attached: bool,
    /// How long ago anything was heard of the bus.
    pub last_contact_ago: Option<Duration>,
    /// How long its token for Service Bus lives on.
    pub bus_token_remaining: Option<Duration>,
    /// The same for storage.
    pub blob_token_remaining: Option<Duration>,
    /// From received to done, of the last file that it worked.
    pub lag: Option<Duration>,
    /// What hinders it, without secrets.
    pub problem: Option<String>,
    /// It ends.
    pub stopped: bool,
}

/// A subscriber that works the inbox, or did lately. Those that were not heard for a week are forgotten, and of very many all
/// but the latest hundred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerSeen {
    /// Who.
    #[serde(serialize_with = "name")]
    pub worker: WorkerId,
    /// When it was first heard.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// When it was heard last.
    #[serde(with = "time::serde::rfc3339")]
    pub seen_at: OffsetDateTime,
    /// How long ago that is.
    #[serde(skip)]
    pub seen_ago: Duration,
    /// It receives.
    pub receives: bool,
    /// It works files.
    pub works: bool,
    /// A link to the bus was attached then.
    pub attached: bool,
    /// When anything was heard of the bus.
    #[serde(with = "time::serde::rfc3339::option")]
    pub last_contact_at: Option<OffsetDateTime>,
    /// When its token for Service Bus dies.
    #[serde(with = "time::serde::rfc3339::option")]
    pub bus_token_ends_at: Option<OffsetDateTime>,
    /// When its token for storage dies.
    #[serde(with = "time::serde::rfc3339::option")]
    pub blob_token_ends_at: Option<OffsetDateTime>,
    /// From received to done, of the last file that it worked.
    #[serde(rename = "lagMs", serialize_with = "millis")]
    pub lag: Option<Duration>,
    /// What hindered it.
    pub problem: Option<String>,
    /// It ended as it should.
    pub stopped: bool,
    /// Files that it holds.
    pub files: u64,
}

impl WorkerSeen {
    /// The time by the inbox's clock when this was asked.
    #[must_use]
    pub fn now(&self) -> OffsetDateTime {
        self.seen_at + self.seen_ago
    }
}

fn name<S: serde::Serializer>(worker: &WorkerId, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&worker.0)
}

#[allow(clippy::ref_option, reason = "serde gives the field")]
fn millis<S: serde::Serializer>(lag: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    lag.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX)).serialize(serializer)
}
