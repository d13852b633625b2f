//! Blocks on their way to storage: several at once, in order, never more than the limit.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use tokio::{sync::Semaphore, task::JoinSet};
use waybill_azure::blob::{BlobError, Upload};

use crate::{context::Limits, tasks::joined};

/// A blob has at most 50,000 blocks: after this many, blocks are twice as large as those before, so that 4 MiB suffice for
/// more than a TiB. Source: Microsoft, "Scalability and performance targets for Blob storage".
const BLOCKS_OF_A_SIZE: u32 = 10_000;

/// However many files are open, blocks do not get smaller: a blob of 10,000 of them has 1.2 GiB.
const BLOCK_BYTES_MIN: usize = 128 << 10;
/// What the segments that grow may have of memory, of all open files together: the target is 300 MB for 100 files, each of which also
/// has one that waits for its turn to be packed.
const SEGMENTS_BYTES: usize = 32 << 20;
/// Shorter segments pack worse.
const SEGMENT_BYTES_MIN: usize = 256 << 10;
/// What is shared is counted in these.
const UNIT: usize = 1 << 10;

/// What the blocks of all files share: so many bytes, half of them for blocks that grow, half for those under way.
#[derive(Debug)]
pub(crate) struct Uploads {
    half: usize,
    under_way: Arc<Semaphore>,
    open: AtomicUsize,
}

impl Uploads {
    pub(crate) fn new(bytes_max: usize) -> Self {
        let half = (bytes_max / 2).max(UNIT);
        Self { half, under_way: Arc::new(Semaphore::new(half / UNIT)), open: AtomicUsize::new(0) }
    }

    /// How long the next segment of a file may become.
    pub(crate) fn segment_bytes(&self) -> usize {
        (SEGMENTS_BYTES / self.open.load(Ordering::Relaxed).max(1)).max(SEGMENT_BYTES_MIN)
    }

    /// What one of the files that are open may hold of a block that grows.
    fn share(&self) -> usize {
        (self.half / self.open.load(Ordering::Relaxed).max(1)).max(BLOCK_BYTES_MIN)
    }
}

/// A file is open as long as this lives.
#[derive(Debug)]
struct Opened(Arc<Uploads>);

impl Opened {
    fn new(uploads: &Arc<Uploads>) -> Self {
        uploads.open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(uploads))
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An upload whose blocks are staged by tasks of its own. Dropped, the tasks end.
#[derive(Debug)]
pub(super) struct Blocks {
    upload: Arc<Upload>,
    staging: JoinSet<Result<(), BlobError>>,
    begun: u32,
    block_bytes: usize,
    in_flight_max: usize,
    all: Opened,
}

impl Blocks {
    pub(super) fn new(upload: Upload, limits: &Limits, uploads: &Arc<Uploads>) -> Self {
        Self {
            upload: Arc::new(upload),
            staging: JoinSet::new(),
            begun: 0,
            block_bytes: limits.block_bytes.get(),
            in_flight_max: limits.blocks_in_flight_max.get(),
            all: Opened::new(uploads),
        }
    }

    /// How many bytes the next block should have.
    pub(super) fn size(&self) -> usize {
        size_after(self.begun, self.block_bytes.min(self.all.0.share()))
    }

    /// Hands over the next block; waits while as many as allowed are under way.
    ///
    /// # Errors
    /// What a block met, this one or one before.
    pub(super) async fn stage(&mut self, block: Bytes) -> Result<(), BlobError> {
        // Larger blocks, fewer of them: the bytes in flight stay within the same bound as long as they can.
        let allowed = (self.in_flight_max * self.block_bytes.min(self.all.0.share()) / self.size()).max(1);
        while self.staging.len() >= allowed {
            self.one_done().await?;
        }
        // Those under way end by themselves, whoever waits here.
        let (under_way, most) = (Arc::clone(&self.all.0.under_way), self.all.0.half / UNIT);
        let units = u32::try_from(block.len().div_ceil(UNIT).min(most)).unwrap_or(u32::MAX);
        let room = under_way.acquire_many_owned(units).await.expect("it is never closed");
        self.begun += 1;
        let upload = Arc::clone(&self.upload);
        let mut stage = Box::pin(async move {
            let staged = upload.stage(block).await;
            drop(room);
            staged
        });
        // The block's place is that of the call, which is made at the first poll: here, before the next block's.
        match futures::poll!(&mut stage) {
            std::task::Poll::Ready(done) => done,
            std::task::Poll::Pending => {
                self.staging.spawn(stage);
                Ok(())
            }
        }
    }

    /// Stages the block that the blob begins with.
    ///
    /// # Errors
    /// What it met.
    pub(super) async fn stage_first(&self, block: Bytes) -> Result<(), BlobError> {
        self.upload.stage_first(block).await
    }

    /// Waits for all blocks; then the upload can be committed.
    ///
    /// # Errors
    /// What a block met.
    pub(super) async fn all_staged(mut self) -> Result<Upload, BlobError> {
        while !self.staging.is_empty() {
            self.one_done().await?;
        }
        Ok(Arc::into_inner(self.upload).expect("every task that shared the upload has ended"))
    }

    async fn one_done(&mut self) -> Result<(), BlobError> {
        match self.staging.join_next().await {
            None => Ok(()),
            Some(done) => joined(done).await,
        }
    }
}

fn size_after(blocks: u32, first: usize) -> usize {
    first << (blocks / BLOCKS_OF_A_SIZE).min(6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_grow_so_that_a_tebibyte_fits_into_what_a_blob_may_have() {
        let total: u64 = (0..50_000).map(|index| size_after(index, 4 << 20) as u64).sum();
        assert!(total > 1 << 40, "{total}");
        assert_eq!(size_after(0, 4 << 20), 4 << 20);
        assert!(size_after(49_999, 4 << 20) <= 4000 << 20, "no block is larger than Azure takes");
    }
}
