//! Saved files as a stream, for those who bring rows into effect with code of their own: each is leased, read as it is asked
//! for, and ended with a word.
//!
//! ```text
//! Files::next ──► File ──► rows, batch by batch ──► done
//!                  │                                ├──► put off (retry_in, give_back)
//!                  │                                └──► quarantined
//!                  └── dropped without a word: its lease ends, and it comes again
//! ```
//!
//! A file comes at least once: after a crash between the last row and `done` it comes again. Who wants its rows once notes the
//! file's [`key`](File::key) and the number of the last row together with what the rows did, and goes on with
//! [`File::rows_after`].
//!
//! # Invariants
//! 1. While a [`File`] lives its lease is renewed; once that failed, every call says [`FileError::Lapsed`].   2. Nothing of a
//!    file is fetched before its rows are asked for.   3. A file that could not be read to its end is not done.

mod file;
mod hold;
mod reading;

use std::{collections::HashMap, sync::Arc, time::Duration};

use time::OffsetDateTime;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use waybill_azure::{TokenSource, blob::Container};
use waybill_contracts::Entities;
use waybill_formats::{Limits, RowFilter};

pub use file::{File, FileError};
pub use reading::Rows;

use crate::{
    OnBadRow, Subscriber,
    apply::EntityPlans,
    inbox::{Inbox, InboxError, Leased, SqliteInbox, Wanted, WorkerId},
    schedule::{Circuits, Dependency, LOOK_AGAIN, Others, WorkStats},
    watched::Watched,
};

/// What files are taken and read with. Files of one stream share its clocks.
#[derive(Debug)]
pub(crate) struct Source<I> {
    pub(crate) inbox: Watched<I>,
    pub(crate) worker: WorkerId,
    pub(crate) tokens: Arc<dyn TokenSource>,
    pub(crate) container: Container,
    pub(crate) entities: Arc<Entities>,
    pub(crate) plans: Arc<EntityPlans>,
    /// Of types that no entity has.
    pub(crate) filters: HashMap<String, Arc<RowFilter>>,
    pub(crate) types: Option<Vec<String>>,
    pub(crate) circuits: Arc<Circuits>,
    pub(crate) stats: Arc<WorkStats>,
    pub(crate) limits: Limits,
    pub(crate) on_bad_row: OnBadRow,
    pub(crate) verify_hash: bool,
    pub(crate) now: fn() -> OffsetDateTime,
}

/// The files that are due, one after the other. [`Subscriber::files`] begins it.
///
/// Several files may be held at once, and several streams may take from one inbox: a file is in one hand only. What the
/// stream takes at the moment when it is dropped comes again when its lease ends.
#[derive(Debug)]
pub struct Files<I = SqliteInbox> {
    subscriber: Subscriber<I>,
    source: Arc<Source<I>>,
    wanted: Wanted,
    admitted: Arc<Notify>,
    others: Others,
    /// Kept here and not in a call, so that what was leased is not lost with a call that is dropped. One at most.
    taking: JoinSet<Result<Vec<Leased>, InboxError>>,
    /// Tokens are renewed ahead of time while this lives.
    beside: JoinSet<()>,
}

impl<I: Inbox + Clone> Files<I> {
    pub(crate) fn new(subscriber: Subscriber<I>, source: Source<I>, wanted: Wanted, admitted: Arc<Notify>) -> Self {
        let (taking, beside) = (JoinSet::new(), JoinSet::new());
        Self { subscriber, source: Arc::new(source), wanted, admitted, others: Others::default(), taking, beside }
    }

    /// The next file; waits until one is due. While storage or the inbox is down it waits on their clocks.
    ///
    /// # Errors
    /// [`InboxError`]. Ask again: the next call waits as long as the inbox should be left alone.
    ///
    /// # Cancel safety
    /// Cancel-safe: a file that was leased for a call that was dropped is given to the next one.
    pub async fn next(&mut self) -> Result<File<I>, InboxError> {
        loop {
            // Armed before looking, so that nothing saved in between is overlooked.
            let admitted = Arc::clone(&self.admitted);
            let arrived = admitted.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();

            if let Some(file) = self.next_due().await? {
                return Ok(file);
            }
            let due = self.source.inbox.pending(&self.wanted).await.ok().and_then(|pending| pending.next_due_in);
            let wait = due.unwrap_or(LOOK_AGAIN).clamp(Duration::from_millis(1), LOOK_AGAIN);
            tokio::select! {
                () = &mut arrived => self.others.may_have_come(),
                () = sleep(wait) => {}
            }
        }
    }

    /// The next file, if one is due now: for those who work what there is and then stop. While storage or the inbox is down
    /// it waits on their clocks, so that a short outage does not end the work.
    ///
    /// # Errors
    /// As [`Files::next`].
    ///
    /// # Cancel safety
    /// As [`Files::next`].
    pub async fn next_due(&mut self) -> Result<Option<File<I>>, InboxError> {
        if self.beside.is_empty() {
            self.subscriber.spawn_grants(&mut self.beside, &CancellationToken::new());
        }
        loop {
            let closed = self.source.circuits.closed_in();
            if closed > Duration::ZERO {
                sleep(closed).await;
            }
            self.others.skip(&self.source.inbox, self.source.types.as_deref()).await;
            // What was asked for a call that was dropped may be long ago.
            let is_fresh = self.taking.is_empty();
            if is_fresh {
                let (source, wanted) = (Arc::clone(&self.source), self.wanted.clone());
                self.taking.spawn(async move { source.inbox.lease(&source.worker, 1, &wanted).await });
            }
            let Some(taken) = self.taking.join_next().await else { continue };
            let leased = match taken.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic())) {
                Ok(leased) => leased,
                Err(error) => {
                    self.source.circuits.of(Dependency::Inbox).failed(None);
                    return Err(error);
                }
            };
            self.source.circuits.of(Dependency::Inbox).worked();
            match leased.into_iter().next() {
                Some(leased) if leased.lease.trusted_until > Instant::now() => {
                    return Ok(Some(File::new(Arc::clone(&self.source), leased)));
                }
                None if is_fresh => return Ok(None),
                _ => {}
            }
        }
    }
}
