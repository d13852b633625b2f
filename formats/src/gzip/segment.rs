//! Stretches of a file that are packed each by itself, in any order and beside each other, and joined in their order.
//!
//! Every segment ends with a full flush: at a byte, with nothing after it that refers to anything before. So the segments,
//! one behind the other, are one deflate stream, and a reader can begin at any of them.

use std::mem;

use bytes::Bytes;
use flate2::{Compress, FlushCompress};
use sha2::{Digest, Sha256};

use super::index::IndexWriter;
use crate::{Compression, WriterStats};

/// An empty final block: what ends the stream after any full flush.
const FINAL_BLOCK: [u8; 2] = [3, 0];

/// A stretch of a file's plain bytes. Packing it needs nothing else and takes most of the time that writing takes: do it
/// on whatever thread is free, and [`add`](FileAssembler::add) the outcome in the order of the segments.
#[derive(Debug)]
pub struct Segment {
    pub(crate) plain: Vec<u8>,
    /// Rows that end in it; `None`: where rows end is not known.
    pub(crate) rows: Option<u64>,
    pub(crate) compression: Compression,
}

/// A segment as it is stored.
#[derive(Debug)]
pub struct PackedSegment {
    stored: Vec<u8>,
    plain_bytes: u64,
    rows: Option<u64>,
    crc: crc32fast::Hasher,
}

impl Segment {
    /// Plain bytes, which it holds.
    #[must_use]
    pub fn plain_bytes(&self) -> usize {
        self.plain.len()
    }

    /// Packs it.
    #[must_use]
    pub fn pack(self) -> PackedSegment {
        let Self { plain, rows, compression } = self;
        let (plain_bytes, mut crc) = (plain.len() as u64, crc32fast::Hasher::new());
        let stored = match compression {
            Compression::None => plain,
            Compression::Gzip(level) => {
                crc.update(&plain);
                deflate(&plain, level)
            }
        };
        PackedSegment { stored, plain_bytes, rows, crc }
    }
}

fn deflate(plain: &[u8], level: u32) -> Vec<u8> {
    let mut deflate = Compress::new(flate2::Compression::new(level.min(9)), false);
    let mut stored = Vec::with_capacity(plain.len() / 4 + 128);
    loop {
        let read = usize::try_from(deflate.total_in()).expect("no more than was given");
        deflate.compress_vec(&plain[read..], &mut stored, FlushCompress::Full).expect("the stream's state is its own");
        // While there is no room left, more may be waiting to be written.
        if stored.len() < stored.capacity() {
            debug_assert_eq!(deflate.total_in(), plain.len() as u64);
            return stored;
        }
        stored.reserve(plain.len() / 8 + 128);
    }
}

/// Joins packed segments to a file.
///
/// The file's first bytes, its header, are known last, because the index lies there. So they come apart, from
/// [`FileAssembler::finish`]; only when nothing was [taken](FileAssembler::take) before, the file comes as a whole.
#[derive(Debug)]
pub struct FileAssembler {
    compression: Compression,
    index: IndexWriter,
    crc: crc32fast::Hasher,
    plain_bytes: u64,
    /// What is ready and was not taken.
    body: Vec<u8>,
    taken_bytes: u64,
}

/// What writing came to, before packing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Rows; 0 for raw bytes whose rows nobody told.
    pub rows: u64,
    /// Bytes before compression.
    pub plain_bytes: u64,
    /// SHA-256 of them.
    pub plain_sha256: [u8; 32],
}

/// The end of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// The file's begin, which goes **before** everything that was taken; empty when nothing was, or if not compressed.
    pub head: Bytes,
    /// What remains; the whole file when nothing was taken.
    pub rest: Bytes,
    /// What was written.
    pub stats: WriterStats,
}

impl FileAssembler {
    /// Begins a file.
    #[must_use]
    pub fn new(compression: Compression) -> Self {
        let crc = crc32fast::Hasher::new();
        Self { compression, index: IndexWriter::new(), crc, plain_bytes: 0, body: Vec::new(), taken_bytes: 0 }
    }

    /// Adds the next segment of the file.
    pub fn add(&mut self, segment: PackedSegment) {
        let PackedSegment { stored, plain_bytes, rows, crc } = segment;
        self.index.add(stored.len() as u64, plain_bytes, rows);
        self.crc.combine(&crc);
        self.plain_bytes += plain_bytes;
        if self.body.is_empty() {
            self.body = stored;
        } else {
            self.body.extend_from_slice(&stored);
        }
    }

    /// Takes what is ready to be stored, if it is at least `least` bytes. It goes behind what was taken before, and behind
    /// the head.
    pub fn take(&mut self, least: usize) -> Option<Bytes> {
        (!self.body.is_empty() && self.body.len() >= least).then(|| {
            self.taken_bytes += self.body.len() as u64;
            Bytes::from(mem::take(&mut self.body))
        })
    }

    /// Ends the file, all of whose segments were added.
    ///
    /// # Panics
    /// When they do not hold what was written.
    #[must_use]
    pub fn finish(self, written: Written) -> Finished {
        let Written { rows, plain_bytes, plain_sha256 } = written;
        assert_eq!(self.plain_bytes, plain_bytes, "every segment is added");
        let (mut head, mut rest) = (Vec::new(), self.body);
        if self.compression != Compression::None {
            head = self.index.header();
            rest.extend_from_slice(&FINAL_BLOCK);
            rest.extend_from_slice(&self.crc.finalize().to_le_bytes());
            // A member's length is stored modulo 2^32.
            rest.extend_from_slice(&(plain_bytes as u32).to_le_bytes());
        }
        let stored_bytes = (head.len() + rest.len()) as u64 + self.taken_bytes;
        let sha256 = match self.compression {
            Compression::None => Some(plain_sha256),
            Compression::Gzip(_) if self.taken_bytes > 0 => None,
            Compression::Gzip(_) => {
                head.append(&mut rest);
                mem::swap(&mut head, &mut rest);
                Some(Sha256::digest(&rest).into())
            }
        };
        let stats = WriterStats { rows, plain_bytes, stored_bytes, plain_sha256, sha256 };
        Finished { head: Bytes::from(head), rest: Bytes::from(rest), stats }
    }
}
