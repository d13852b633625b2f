//! What every part of a publisher shares: its name and limits, its outbox and container, and who wakes whom.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::sync::{Notify, Semaphore, watch};
use waybill_azure::{TokenSource, blob::Container};
use waybill_formats::Compression;

use crate::{export::Uploads, figures::Counting, outbox::Attempt};

/// Limits of a publisher; the builder documents each.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) compression: Compression,
    pub(crate) block_bytes: NonZeroUsize,
    pub(crate) blocks_in_flight_max: NonZeroUsize,
    pub(crate) upload_bytes_max: NonZeroUsize,
    pub(crate) segments_at_once_max: NonZeroUsize,
    pub(crate) files_read_at_once_max: NonZeroUsize,
    pub(crate) batches_in_flight_max: NonZeroU32,
    pub(crate) storage_patience: Duration,
    pub(crate) drain_timeout: Duration,
    pub(crate) poll_interval: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) manifest_every: Option<Duration>,
    pub(crate) prune_every: Option<Duration>,
}

#[derive(Debug)]
pub(crate) struct Context<O> {
    pub(crate) publisher: String,
    pub(crate) outbox: O,
    pub(crate) container: Container,
    pub(crate) tokens: Arc<dyn TokenSource>,
    pub(crate) limits: Limits,
    pub(crate) now: fn() -> OffsetDateTime,
    /// Places for segments that are packed at once.
    pub(crate) packing: Arc<Semaphore>,
    /// Places for sources that are read at once, each on a thread for work that blocks.
    pub(crate) reading: Semaphore,
    /// What files that are uploaded at once share.
    pub(crate) uploads: Arc<Uploads>,
    /// Something was uploaded: the relay has work.
    pub(crate) uploaded: Notify,
    /// A try of this process ended without a result: the recovery has work.
    pub(crate) left: Notify,
    left_tries: Mutex<Vec<Attempt>>,
    /// Changes whenever an export left `uploaded`.
    pub(crate) progress: watch::Sender<u64>,
    pub(crate) counting: Counting,
    #[cfg(test)]
    pub(crate) hook: Option<fn(Step)>,
}

/// Where a process may die; tests make it die there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A file of changes is fixed in the log.
    FilePlanned,
    /// The plan is in the outbox.
    Planned,
    /// A block is staged.
    BlockStaged,
    /// All blocks are staged.
    Staged,
    /// The number is fixed.
    Numbered,
    /// The blob is committed.
    Committed,
    /// The outbox knows it.
    Uploaded,
    /// The broker has accepted the message.
    Accepted,
    /// The outbox knows it.
    Sent,
    /// The file of changes is exported.
    FileExported,
    /// The log knows it.
    FileMarked,
    /// Blobs of exports that are over are deleted.
    BlobsDeleted,
}

impl<O> Context<O> {
    #[allow(clippy::too_many_arguments, reason = "called once, by the builder")]
    pub(crate) fn new(
        publisher: String,
        outbox: O,
        container: Container,
        tokens: Arc<dyn TokenSource>,
        limits: Limits,
        now: fn() -> OffsetDateTime,
    ) -> Self {
        let packing = Arc::new(Semaphore::new(limits.segments_at_once_max.get()));
        let reading = Semaphore::new(limits.files_read_at_once_max.get());
        let uploads = Arc::new(Uploads::new(limits.upload_bytes_max.get()));
        Self {
            publisher,
            outbox,
            container,
            tokens,
            limits,
            now,
            packing,
            reading,
            uploads,
            uploaded: Notify::new(),
            left: Notify::new(),
            left_tries: Mutex::default(),
            progress: watch::Sender::default(),
            counting: Counting::default(),
            #[cfg(test)]
            hook: None,
        }
    }

    /// Hands a try whose end is not known to the recovery.
    pub(crate) fn leave(&self, attempt: Attempt) {
        self.left_tries().push(attempt);
        self.left.notify_one();
    }

    /// The tries whose end is not known. They stay here until it is, so that a recovery that is stopped loses none.
    pub(crate) fn left_tries(&self) -> MutexGuard<'_, Vec<Attempt>> {
        self.left_tries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn progressed(&self) {
        self.progress.send_modify(|count| *count += 1);
    }

    #[cfg(test)]
    pub(crate) fn reached(&self, step: Step) {
        if let Some(hook) = self.hook {
            hook(step);
        }
    }

    #[cfg(not(test))]
    #[allow(clippy::unused_self, reason = "only tests look")]
    pub(crate) fn reached(&self, _step: Step) {}
}
