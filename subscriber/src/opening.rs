//! What is down when it is to be opened is waited for, as what goes down later is.
//!
//! An outage passes by itself: the server is down, starts, or has no place. A wrong password, a database or a right that is missing, or
//! a newer schema takes a person, and no waiting mends it: that is the answer at once. Which of the two an error is, it says itself
//! ([`NotOpen::passes`]).
//!
//! An inbox has to be there before anything else: [`once_there`] opens it. A sink has not: [`Subscriber::run_once_open`] receives from
//! the begin, and opens the sink beside it.
//!
//! [`Subscriber::run_once_open`]: crate::Subscriber::run_once_open

use std::{future::Future, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::{inbox::InboxError, receive::chain, schedule::Circuit, sink::SinkOpenError};

/// A place that has not answered for so long is told as silent.
const SILENCE: Duration = Duration::from_secs(30);
/// What the last try has, when patience is over.
const LAST_TRY: Duration = Duration::from_secs(5);

/// Why something was not opened.
pub trait NotOpen: std::error::Error + Sized + Send + 'static {
    /// Whether it ends without a person, so that trying again is of use.
    fn passes(&self) -> bool;

    /// `what` has not answered for so long; that passes.
    fn silent(what: &str, waited: Duration) -> Self;
}

fn no_answer(waited: Duration) -> String {
    format!("no answer for {} s", waited.as_secs())
}

impl NotOpen for InboxError {
    fn passes(&self) -> bool {
        Self::passes(self)
    }

    fn silent(_: &str, waited: Duration) -> Self {
        Self::Unavailable(no_answer(waited).into())
    }
}

impl NotOpen for SinkOpenError {
    fn passes(&self) -> bool {
        Self::passes(self)
    }

    fn silent(what: &str, waited: Duration) -> Self {
        Self::Unavailable { sink: what.to_owned(), problem: no_answer(waited) }
    }
}

/// Opens `what` (such as `the inbox`), and as long as it is down tries again, in pauses that grow up to a minute. `None` once `stop` is
/// cancelled, at once. `problem` is told what is wrong, at each try; the log tells an outage once, and once that it is over.
///
/// # Errors
/// What does not pass; and what does, when it has lasted for all of `patience`, if there is one.
///
/// # Cancel safety
/// Cancel-safe as far as `open` is: the call of it that is under way is dropped, here and at a stop.
pub async fn once_there<T, E, F>(
    what: &str,
    patience: Option<Duration>,
    stop: &CancellationToken,
    mut problem: impl FnMut(&str) + Send,
    mut open: impl FnMut() -> F + Send,
) -> Result<Option<T>, E>
where
    T: Send,
    E: NotOpen,
    F: Future<Output = Result<T, E>> + Send,
{
    let (clock, began) = (Circuit::default(), Instant::now());
    let mut is_told = false;
    loop {
        let (tried, opening) = (Instant::now(), open());
        tokio::pin!(opening);
        let left = patience.map(|patience| patience.saturating_sub(began.elapsed()));
        let opened = loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(None),
                opened = &mut opening => break opened,
                // It may wait for a lock, or for a server that is gone without a word.
                () = sleep(left.map_or(SILENCE, |left| left.max(LAST_TRY))) => {
                    let silent = E::silent(what, tried.elapsed());
                    if left.is_some() {
                        break Err(silent);
                    }
                    let why = chain(&silent);
                    problem(&why);
                    tracing::warn!(error = %why, "{what} does not answer; waiting for it");
                    is_told = true;
                }
            }
        };
        let error = match opened {
            Ok(opened) => {
                if is_told {
                    tracing::warn!(waited_s = began.elapsed().as_secs(), "{what} is there again");
                }
                return Ok(Some(opened));
            }
            Err(error) => error,
        };
        let left = patience.map(|patience| patience.saturating_sub(began.elapsed()));
        if !error.passes() || left == Some(Duration::ZERO) {
            return Err(error);
        }
        let why = chain(&error);
        problem(&why);
        if is_told {
            tracing::debug!(error = %why, "{what} is still not there");
        } else {
            tracing::warn!(error = %why, "{what} is not there; trying again until it is");
            is_told = true;
        }
        clock.failed(None);
        let wait = clock.closed_in();
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            // The last try is when patience ends.
            () = sleep(left.map_or(wait, |left| wait.min(left))) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn down() -> SinkOpenError {
        SinkOpenError::Unavailable { sink: "s".to_owned(), problem: "it is down".to_owned() }
    }

    fn closed() -> SinkOpenError {
        SinkOpenError::Refused { sink: "s".to_owned(), problem: "it says no".to_owned() }
    }

    /// Fails so often, then is there.
    async fn nth(tries: &AtomicU32, failures: u32) -> Result<&'static str, SinkOpenError> {
        if tries.fetch_add(1, Ordering::SeqCst) < failures { Err(down()) } else { Ok("there") }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_tried_again_in_pauses_that_grow_and_told_at_each_try() {
        let (tries, stop, mut told) = (AtomicU32::new(0), CancellationToken::new(), Vec::new());
        let began = Instant::now();
        let opened = once_there("s", None, &stop, |why| told.push(why.to_owned()), || nth(&tries, 12)).await.unwrap();
        assert_eq!((opened, tries.load(Ordering::SeqCst)), (Some("there"), 13));
        assert_eq!(told, vec!["s: it is down"; 12]);
        let waited = began.elapsed();
        assert!(waited > Duration::from_secs(60) && waited < Duration::from_secs(360), "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_ends_the_wait_at_once_and_an_outage_when_patience_does() {
        let (tries, stop) = (AtomicU32::new(0), CancellationToken::new());
        let refused = once_there(
            "s",
            None,
            &stop,
            |_| {},
            || async { if tries.fetch_add(1, Ordering::SeqCst) == 0 { Err::<(), _>(down()) } else { Err(closed()) } },
        );
        assert!(matches!(refused.await.unwrap_err(), SinkOpenError::Refused { .. }));
        assert_eq!(tries.load(Ordering::SeqCst), 2);

        let (began, patience) = (Instant::now(), Duration::from_secs(30));
        let out = once_there("s", Some(patience), &stop, |_| {}, || nth(&tries, u32::MAX)).await.unwrap_err();
        assert!(matches!(out, SinkOpenError::Unavailable { .. }));
        assert!(began.elapsed() >= patience && began.elapsed() < patience + Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_patient_ends_with_a_place_that_never_answers_and_whoever_waits_tells_of_it() {
        let (stop, patience, began) = (CancellationToken::new(), Duration::from_secs(30), Instant::now());
        let silent = std::future::pending::<Result<(), SinkOpenError>>;
        let out = once_there("s", Some(patience), &stop, |_| {}, silent).await.unwrap_err();
        assert_eq!(
            (out.to_string(), out.passes(), began.elapsed()),
            ("s: no answer for 30 s".to_owned(), true, patience)
        );
        // One that says no at first, and nothing at last.
        let (tries, began) = (AtomicU32::new(0), Instant::now());
        let open = || async { if tries.fetch_add(1, Ordering::SeqCst) > 0 { silent().await } else { Err(down()) } };
        once_there("s", Some(patience), &stop, |_| {}, open).await.unwrap_err();
        assert!(began.elapsed() <= patience + LAST_TRY, "{:?}", began.elapsed());

        let mut told = Vec::new();
        let waits = once_there("s", None, &stop, |why| told.push(why.to_owned()), silent);
        assert!(tokio::time::timeout(Duration::from_secs(70), waits).await.is_err());
        assert_eq!(told, ["s: no answer for 30 s", "s: no answer for 60 s"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_ends_a_try_and_a_pause_at_once() {
        let stop = CancellationToken::new();
        let hangs = once_there("s", None, &stop, |_| {}, std::future::pending::<Result<(), SinkOpenError>>);
        let (opened, ()) = tokio::join!(hangs, async { stop.cancel() });
        assert!(opened.unwrap().is_none());

        let stop = CancellationToken::new();
        let began = Instant::now();
        let cancel = || stop.cancel();
        // Told, and so between two tries.
        let pauses = once_there("s", None, &stop, |_| cancel(), || async { Err::<(), _>(down()) });
        assert!(pauses.await.unwrap().is_none());
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
