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
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use waybill_contracts::{Entities, MANIFEST_TYPE, Reason};
use waybill_formats::{Limits, RowFilter};

pub use file::{File, FileError};
pub(crate) use hold::Hold;
pub use reading::Rows;

use crate::{
    OnBadRow, Subscriber,
    apply::EntityPlans,
    fetch::Storage,
    inbox::{End, Inbox, InboxError, Leased, SqliteInbox, Wanted, WorkerId},
    manifest::{BadRow, Names},
    receive::chain,
    schedule::{Circuits, Dependency, LOOK_AGAIN, WorkStats, lease, skip_others},
    tasks::{all, outcome},
    watched::Watched,
};

/// The inbox is waited for so long to take a file back.
const GIVE_BACK: Duration = Duration::from_secs(2);

/// What files are taken and read with. Files of one stream share its clocks.
#[derive(Debug)]
pub(crate) struct Source<I> {
    pub(crate) inbox: Watched<I>,
    pub(crate) worker: WorkerId,
    pub(crate) storage: Storage,
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

/// The files that are due, one after the other. [`Subscriber::files`] begins it. From the first call until it is dropped the
/// subscriber counts as working, in its health and in the inbox.
///
/// Several files may be held at once, and several streams may take from one inbox: a file is in one hand only.
///
/// [`Files::close`] ends it. Dropped, it says no last word: the inbox sees it fall silent, and what it takes at that moment
/// comes again when its lease ends.
#[derive(Debug)]
pub struct Files<I = SqliteInbox> {
    subscriber: Subscriber<I>,
    source: Arc<Source<I>>,
    wanted: Wanted,
    admitted: Arc<Notify>,
    /// Kept here and not in a call, so that what was leased is not lost with a call that is dropped. One at most.
    taking: JoinSet<Result<Vec<Leased>, InboxError>>,
    /// Tokens are renewed ahead of time and the inbox is told of the work while this lives.
    beside: JoinSet<()>,
    over: CancellationToken,
}

impl<I: Inbox + Clone> Files<I> {
    pub(crate) fn new(subscriber: Subscriber<I>, source: Source<I>, wanted: Wanted, admitted: Arc<Notify>) -> Self {
        let (source, over) = (Arc::new(source), CancellationToken::new());
        let (taking, beside) = (JoinSet::new(), JoinSet::new());
        Self { subscriber, source, wanted, admitted, taking, beside, over }
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
                () = &mut arrived => {}
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
            self.subscriber.spawn_grants(&mut self.beside, &self.over);
            self.subscriber.spawn_pulse(&mut self.beside, self.over.clone());
            let (source, admitted, over) = (Arc::clone(&self.source), Arc::clone(&self.admitted), self.over.clone());
            self.beside.spawn(async move {
                tokio::select! {
                    () = over.cancelled() => {}
                    () = skip_others(&source.inbox, source.types.as_deref(), &admitted) => {}
                }
            });
        }
        loop {
            let closed = self.source.circuits.closed_in();
            if closed > Duration::ZERO {
                sleep(closed).await;
            }
            // What was asked for a call that was dropped may be long ago.
            let is_fresh = self.taking.is_empty();
            if is_fresh {
                let (source, wanted) = (Arc::clone(&self.source), self.wanted.clone());
                self.taking.spawn(async move {
                    let on_trial = source.circuits.on_trial();
                    lease(&source.inbox, &source.worker, 1, &wanted, on_trial).await
                });
            }
            let Some(taken) = self.taking.join_next().await else { continue };
            let Some(taken) = outcome(taken) else { return Ok(None) };
            let leased = match taken {
                Ok(leased) => leased,
                Err(error) => {
                    self.source.circuits.of(Dependency::Inbox).failed(None);
                    return Err(error);
                }
            };
            self.source.circuits.of(Dependency::Inbox).worked();
            match leased.into_iter().next() {
                Some(leased) if leased.lease.trusted_until > Instant::now() => {
                    let file = File::new(Arc::clone(&self.source), leased);
                    if file.metadata().blob_type != MANIFEST_TYPE {
                        return Ok(Some(file));
                    }
                    note(file).await;
                }
                None if is_fresh => return Ok(None),
                _ => {}
            }
        }
    }

    /// Ends the stream: what was leased for a call that was dropped is given back at once, and the inbox is told that this
    /// worker stopped. Files that were given out stay with their holders. Waits for the inbox, a few seconds at most.
    ///
    /// # Cancel safety
    /// Dropping the future is as dropping the stream.
    pub async fn close(mut self) {
        let given_back = async {
            while let Some(taken) = self.taking.join_next().await {
                let Ok(Ok(leased)) = taken else { continue };
                for file in leased {
                    if self.source.inbox.finish(&file.lease, End::Release).await.is_err() {
                        tracing::debug!(id = file.lease.id, "not given back; its lease will end");
                    }
                }
            }
        };
        if timeout(GIVE_BACK, given_back).await.is_err() {
            tracing::debug!("the inbox does not answer; the leases of files that were taken last will end");
        }
        self.over.cancel();
        drop(timeout(GIVE_BACK, all(self.beside)).await);
    }
}

/// What a manifest says is for the inbox, and not for whoever takes files.
async fn note<I: Inbox + Clone>(mut file: File<I>) {
    let (inbox, id) = (file.source.inbox.clone(), file.id());
    let mut names = Names::of(file.metadata());
    let noted = async {
        let mut rows = file.rows();
        while let Some(batch) = rows.next().await? {
            names.add(&batch, &inbox).await?;
        }
        Ok::<_, FileError>(names.finish(&inbox).await?)
    };
    let ended = match noted.await {
        Ok(None) => file.done().await,
        Ok(Some(BadRow { row, problem })) => {
            let why = format!("row {row} of the manifest: {problem}; what the others say is noted");
            file.quarantine(Reason::MalformedRow, &why).await
        }
        Err(error) => file.failed(&error).await,
    };
    if let Err(error) = ended {
        tracing::debug!(id, error = %chain(&error), "a manifest comes again");
    }
}
