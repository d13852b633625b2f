//! The sink is the authority on what took effect: at each start it is asked about every file that the inbox calls done, and those
//! that it does not know are worked again.

use std::time::Duration;

use futures::future::try_join_all;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::circuit::{Circuits, Dependency};
use crate::{
    inbox::{Inbox, InboxError},
    receive::chain,
    sink::{Sink, SinkError},
};

/// Files that the inbox is asked for at once.
const PAGE: u32 = 500;
/// Files that the sink is asked about at once: more than its connections, so that none of them waits for us.
const AT_ONCE: usize = 8;

/// Why inbox and sink could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The inbox failed.
    #[error("the inbox failed while it was compared with the sink")]
    Inbox(#[from] InboxError),
    /// The sink failed.
    #[error("the sink failed while it was compared with the inbox")]
    Sink(#[from] SinkError),
}

impl CompareError {
    /// Whether it ends without a person.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self, Self::Inbox(InboxError::Unavailable(_)) | Self::Sink(SinkError::Unavailable { .. }))
    }

    fn dependency(&self) -> Dependency {
        match self {
            Self::Inbox(_) => Dependency::Inbox,
            Self::Sink(_) => Dependency::Sink,
        }
    }
}

/// Compares until all is compared or `stop`; whether it came to the end. An outage is waited out on its dependency's clock, each for
/// `patience` if there is one, and what was compared before it is not compared again.
pub(crate) async fn compare(
    inbox: &impl Inbox,
    sink: &impl Sink,
    circuits: &Circuits,
    patience: Option<Duration>,
    stop: &CancellationToken,
) -> Result<bool, CompareError> {
    let mut comparison = Comparison::default();
    // Where it stands still, and since when.
    let mut outage = (comparison.after, None);
    loop {
        let gone_on = tokio::select! {
            () = stop.cancelled() => return Ok(false),
            gone_on = comparison.go_on(inbox, sink) => gone_on,
        };
        let Err(error) = gone_on else { break };
        if outage.0 != comparison.after {
            outage = (comparison.after, None);
        }
        let since = *outage.1.get_or_insert_with(Instant::now);
        let left = patience.map(|patience| patience.saturating_sub(since.elapsed()));
        if !error.passes() || left == Some(Duration::ZERO) {
            return Err(error);
        }
        let circuit = circuits.of(error.dependency());
        circuit.failed(None);
        // The last try is when patience ends.
        let wait = circuit.closed_in().min(left.unwrap_or(Duration::MAX));
        tracing::warn!(
            error = %chain(&error),
            wait_ms = wait.as_millis(),
            "no file is worked before inbox and sink are compared; trying again"
        );
        tokio::select! {
            () = stop.cancelled() => return Ok(false),
            () = sleep(wait) => {}
        }
    }
    for dependency in [Dependency::Inbox, Dependency::Sink] {
        circuits.of(dependency).answered();
    }
    if comparison.reopened > 0 {
        tracing::warn!(
            files = comparison.reopened,
            "the sink does not know files that the inbox calls done; working them again"
        );
    }
    Ok(true)
}

/// How far it is.
#[derive(Debug, Default)]
struct Comparison {
    /// The last file that was compared, in the order of their numbers.
    after: i64,
    reopened: u64,
}

impl Comparison {
    async fn go_on(&mut self, inbox: &impl Inbox, sink: &impl Sink) -> Result<(), CompareError> {
        loop {
            let page = inbox.done_files(self.after, PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            let mut lacking = Vec::new();
            for files in page.chunks(AT_ONCE) {
                let known = try_join_all(files.iter().map(|(_, key)| sink.progress(key))).await?;
                lacking.extend(files.iter().zip(known).filter(|(_, known)| !known.done).map(|((id, _), _)| *id));
            }
            if !lacking.is_empty() {
                self.reopened += inbox.reopen(&lacking).await?;
            }
            self.after = *last;
        }
    }
}
