//! A file that is read from one place to its end, on a thread of its own, and on two once it has shown to be long.
//!
//! Whoever works one piece after the other has what belongs to it in the caches of one processor, and wakes nobody in between.
//! Threads of their own, because these wait: for the download, for whoever takes the rows, for each other. On the runtime's
//! blocking threads, of which there may be few, files would wait for each other, and all of them for a short work that finds
//! no thread.

use std::{
    io,
    panic::resume_unwind,
    sync::mpsc::{SyncSender, sync_channel},
    thread::{self, JoinHandle},
};

use tokio::sync::mpsc;
use waybill_formats::{
    DecodeError, RowDecoder, Step,
    unpack::{Unpacked, Unpacking},
};

use super::{Chunk, Decoded, Group, Grouping, Pool};

/// Stored bytes that are unpacked and decoded on one thread, before two are worth their while.
const BYTES_TOGETHER: usize = 128 << 10;
/// Pieces between the two: as long as one of them is held up, the other has work.
const PIECES_QUEUED: usize = 6;

pub(super) struct Reading {
    decoder: RowDecoder,
    grouping: Grouping,
    /// Stored bytes.
    fed_bytes: usize,
    /// The last row that was handed on.
    to: u64,
    /// From a checkpoint on.
    is_gone_on_with: bool,
    pool: Pool,
    groups: mpsc::Sender<Group>,
}

/// Why no more rows are decoded for now.
enum Fill {
    NeedInput,
    Full,
    Done,
    Failed(DecodeError),
}

impl Reading {
    pub(super) fn new(
        decoder: RowDecoder,
        grouping: Grouping,
        is_gone_on_with: bool,
        pool: Pool,
        groups: mpsc::Sender<Group>,
    ) -> Self {
        let to = grouping.from;
        Self { decoder, grouping, fed_bytes: 0, to, is_gone_on_with, pool, groups }
    }

    /// Decodes what was looked at before, and what comes through `chunks`.
    ///
    /// # Errors
    /// What the decoder found; the full groups before it have been handed on.
    pub(super) fn work(
        mut self,
        looked_at: Vec<Chunk>,
        mut chunks: mpsc::Receiver<Chunk>,
    ) -> Result<Decoded, DecodeError> {
        looked_at.into_iter().for_each(|chunk| self.feed(chunk));
        let Helper { thread, give, mut pieces } = loop {
            // What has arrived meanwhile goes along, and is no more than the queue holds.
            while let Ok(chunk) = chunks.try_recv() {
                self.feed(chunk);
            }
            if let Some(ended) = self.decode() {
                return ended;
            }
            // Where the system has no thread left, this one goes on alone.
            if self.fed_bytes > BYTES_TOGETHER
                && let Ok(helper) = Helper::new(self.pool.clone())
            {
                break helper;
            }
            let Some(chunk) = chunks.blocking_recv() else { return Ok(Decoded::Over) };
            self.feed(chunk);
        };
        let _it_waits = give.send((self.decoder.unpacked_elsewhere(), chunks));
        while let Some(piece) = pieces.blocking_recv() {
            self.decoder.hand(piece);
            if let Some(ended) = self.decode() {
                return ended;
            }
        }
        // A download that was cut.
        thread.join().map(|()| Decoded::Over).map_err(|panic| resume_unwind(panic))
    }

    fn feed(&mut self, chunk: Chunk) {
        match chunk {
            Chunk::Bytes(bytes) => {
                self.fed_bytes += bytes.len();
                self.decoder.feed(bytes);
            }
            Chunk::End => self.decoder.end(),
        }
    }

    /// Decodes what was fed, and hands on the groups that are full: each leaves before the next is made. `None` when all of it
    /// is used up.
    fn decode(&mut self) -> Option<Result<Decoded, DecodeError>> {
        loop {
            let pool = self.pool.clone();
            match pool.with_place(|| self.fill()) {
                Fill::NeedInput => return None,
                Fill::Full => {
                    let group = self.grouping.take();
                    self.to = group.to.max(self.to);
                    if self.groups.blocking_send(group).is_err() {
                        return Some(Ok(Decoded::Over));
                    }
                }
                Fill::Done => {
                    // An error here means that the sink failed and will say so itself.
                    let _nobody_listens = self.groups.blocking_send(self.grouping.take());
                    return Some(Ok(Decoded::Over));
                }
                // The unfinished group goes nowhere: what is wrong with the file may be wrong with these rows already, as
                // when a turned bit made one number another and only the checksum tells.
                // From a checkpoint on it may be right for all that, and reading it whole will tell.
                Fill::Failed(_) if self.is_gone_on_with => return Some(Ok(Decoded::Doubt { to: self.to })),
                Fill::Failed(error) => return Some(Err(error)),
            }
        }
    }

    /// Works until the group is full, the input used up, or the file done.
    fn fill(&mut self) -> Fill {
        loop {
            match self.decoder.next() {
                Ok(Step::NeedInput) => return Fill::NeedInput,
                Ok(Step::Done(stats)) => {
                    self.grouping.end(stats);
                    return Fill::Done;
                }
                Ok(Step::Batch(batch)) => {
                    if self.grouping.add(&batch) {
                        return Fill::Full;
                    }
                }
                Err(error) => return Fill::Failed(error),
            }
        }
    }
}

/// The thread that unpacks a long file.
struct Helper {
    thread: JoinHandle<()>,
    give: SyncSender<(Unpacking, mpsc::Receiver<Chunk>)>,
    pieces: mpsc::Receiver<Unpacked>,
}

impl Helper {
    fn new(pool: Pool) -> io::Result<Self> {
        let ((give, given), (piece_to, pieces)) = (sync_channel(1), mpsc::channel(PIECES_QUEUED));
        let thread = thread::Builder::new().name("waybill-unpack".to_owned()).spawn(move || {
            if let Ok((unpacking, chunks)) = given.recv() {
                unpack(unpacking, &pool, chunks, &piece_to);
            }
        })?;
        Ok(Self { thread, give, pieces })
    }
}

/// Unpacks what comes through `chunks`, a piece at a time.
fn unpack(mut unpacking: Unpacking, pool: &Pool, mut chunks: mpsc::Receiver<Chunk>, pieces: &mpsc::Sender<Unpacked>) {
    loop {
        match pool.with_place(|| unpacking.next()) {
            Some(piece) => {
                let is_last = piece.is_last();
                if pieces.blocking_send(piece).is_err() || is_last {
                    return;
                }
            }
            None => match chunks.blocking_recv() {
                Some(Chunk::Bytes(bytes)) => unpacking.feed(bytes),
                Some(Chunk::End) => unpacking.end(),
                None => return,
            },
        }
    }
}
