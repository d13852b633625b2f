//! Segments packed on several threads at once, and joined in their order.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use tokio::{sync::Semaphore, task::JoinHandle};
use waybill_formats::{Compression, FileAssembler, Finished, PackedSegment, Segment, Written};

use crate::tasks::joined;

/// Up to so many plain bytes a change of thread costs more than packing.
const SMALL: usize = 32 << 10;

/// A file's segments on their way to its blocks. Dropped, those that are being packed are packed for nobody.
#[derive(Debug)]
pub(super) struct Packer {
    /// Segments of all files that may be packed at once.
    places: Arc<Semaphore>,
    /// Those of this file that are being packed, or wait for one before them, in their order.
    packing: VecDeque<JoinHandle<PackedSegment>>,
    packing_max: usize,
    assembler: FileAssembler,
}

impl Packer {
    /// `at_once` is how many `places` there are.
    pub(super) fn new(compression: Compression, places: &Arc<Semaphore>, at_once: usize) -> Self {
        Self {
            places: Arc::clone(places),
            packing: VecDeque::new(),
            // One more: while the first is joined, every place has work.
            packing_max: at_once + 1,
            assembler: FileAssembler::new(compression),
        }
    }

    /// Hands over the next segment; waits while there are as many as allowed. When the call is dropped the segment is lost.
    pub(super) async fn add(&mut self, segment: Segment) {
        if self.packing.is_empty() && segment.plain_bytes() <= SMALL {
            return self.assembler.add(segment.pack());
        }
        while self.packing.front().is_some_and(|first| self.packing.len() >= self.packing_max || first.is_finished()) {
            self.join_first().await;
        }
        let place = Arc::clone(&self.places).acquire_owned().await.expect("the places are never closed");
        self.packing.push_back(tokio::task::spawn_blocking(move || {
            let _place = place;
            segment.pack()
        }));
    }

    /// Takes a block, if there is one of at least `least` bytes.
    pub(super) fn take(&mut self, least: usize) -> Option<Bytes> {
        self.assembler.take(least)
    }

    /// Waits until all is packed, and ends the file.
    pub(super) async fn finish(mut self, written: Written) -> Finished {
        while !self.packing.is_empty() {
            self.join_first().await;
        }
        self.assembler.finish(written)
    }

    async fn join_first(&mut self) {
        let Some(first) = self.packing.front_mut() else { return };
        let packed = joined(first.await).await;
        self.packing.pop_front();
        self.assembler.add(packed);
    }
}
