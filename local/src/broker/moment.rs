//! Points in time as the broker counts them.

use std::time::Duration;

use time::OffsetDateTime;

/// Milliseconds since 1970: the resolution of an AMQP timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub i64);

impl Moment {
    /// Later than any other.
    pub const NEVER: Self = Self(i64::MAX);

    /// `duration` later, at most [`Self::NEVER`].
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }

    /// How long it is from `earlier` until here; zero when it is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Milliseconds since 1970, unless it never comes.
    #[must_use]
    pub(crate) fn stated(self) -> Option<i64> {
        (self != Self::NEVER).then_some(self.0)
    }

    /// Whole seconds since 1970, as a SAS counts.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000)
    }
}

impl From<OffsetDateTime> for Moment {
    fn from(at: OffsetDateTime) -> Self {
        Self(at.unix_timestamp().saturating_mul(1_000).saturating_add(i64::from(at.millisecond())))
    }
}
