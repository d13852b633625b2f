//! The one retry clock of Blob Storage: when a try is repeated, and after how long.

use std::{future::Future, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder, Retryable};

use super::BlobError;

/// Tries of one step in all, counting the first; an outage that outlasts them is for the caller's clock.
pub(super) const TRIES_MAX: usize = 5;
/// Tests have no outage to wait for.
const DELAY_MIN: Duration = Duration::from_millis(if cfg!(test) { 2 } else { 200 });
const DELAY_MAX: Duration = Duration::from_secs(5);
/// A longer `Retry-After` goes back to the caller, who has other work to do meanwhile.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);

fn backoff() -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(DELAY_MIN)
        .with_max_delay(DELAY_MAX)
        .with_max_times(TRIES_MAX - 1)
        .with_jitter()
}

/// The delay before the next try: ours, or what storage asked for if that is longer.
fn adjusted(error: &BlobError, delay: Option<Duration>) -> Option<Duration> {
    let delay = delay?.max(error.retry_after().unwrap_or_default());
    (delay <= RETRY_AFTER_MAX).then_some(delay)
}

/// Repeats what fails for a moment. The first failure is told, so that whoever waits sees what for.
pub(super) async fn retried<T, F>(step: impl FnMut() -> F) -> Result<T, BlobError>
where
    F: Future<Output = Result<T, BlobError>>,
{
    let mut told = false;
    let tell = |error: &BlobError, _: Duration| {
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(problem = %error, "storage does not serve us now; trying again");
        }
    };
    step.retry(backoff()).when(BlobError::is_transient).adjust(adjusted).notify(tell).await
}

/// Counts tries without progress, for a step that makes some.
#[derive(Debug, Default)]
pub(super) struct Stalls {
    backoff: Option<ExponentialBackoff>,
}

impl Stalls {
    /// How long to wait before the next try.
    ///
    /// # Errors
    /// The error itself, when another try is of no use or too many have failed.
    pub(super) fn after(&mut self, error: BlobError) -> Result<Duration, BlobError> {
        if !error.is_transient() {
            return Err(error);
        }
        let delay = self.backoff.get_or_insert_with(|| backoff().build()).next();
        adjusted(&error, delay).ok_or(error)
    }

    /// There was progress: counting begins anew.
    pub(super) fn end(&mut self) {
        self.backoff = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(retry_after: Option<Duration>) -> BlobError {
        BlobError::Busy { blob: "a".into(), status: 503, code: "ServerBusy".into(), retry_after }
    }

    #[test]
    fn five_tries_without_progress_are_all_and_progress_begins_anew() {
        let mut stalls = Stalls::default();
        for _ in 0..3 {
            for _ in 1..TRIES_MAX {
                stalls.after(busy(None)).unwrap();
            }
            stalls.after(busy(None)).unwrap_err();
            stalls.end();
        }
    }

    #[test]
    fn what_storage_asks_for_is_waited_for_and_what_is_too_long_goes_to_the_caller() {
        let second = Duration::from_secs(1);
        assert_eq!(Stalls::default().after(busy(Some(7 * second))).unwrap(), 7 * second);
        assert_eq!(Stalls::default().after(busy(Some(30 * second))).unwrap(), 30 * second);
        let error = Stalls::default().after(busy(Some(31 * second))).unwrap_err();
        assert_eq!(error.retry_after(), Some(31 * second));
        assert!(Stalls::default().after(busy(Some(Duration::ZERO))).unwrap() >= DELAY_MIN);
    }

    #[test]
    fn what_waiting_cannot_mend_is_not_tried_again() {
        Stalls::default().after(BlobError::Changed { blob: "a".into() }).unwrap_err();
    }
}
