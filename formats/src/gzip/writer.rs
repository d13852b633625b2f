//! Plain bytes to one gzip member. `mtime` is 0 and the system unknown, so that the same rows make the same file.

use flate2::{Compress, Compression, FlushCompress, Status};

use super::{DEFLATE, MAGIC};

/// The least room for deflating into.
const ROOM: usize = 16 << 10;

#[derive(Debug)]
pub(crate) struct GzipWriter {
    deflate: Compress,
    crc: crc32fast::Hasher,
    length: u32,
}

impl GzipWriter {
    /// Begins the member: `out` gets its header. Levels beyond 9 count as 9.
    pub(crate) fn new(level: u32, out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(&MAGIC);
        // No flags, no time; no hint about the level; system 255: unknown.
        out.extend_from_slice(&[DEFLATE, 0, 0, 0, 0, 0, 0, 255]);
        Self { deflate: Compress::new(Compression::new(level.min(9)), false), crc: crc32fast::Hasher::new(), length: 0 }
    }

    pub(crate) fn write(&mut self, mut plain: &[u8], out: &mut Vec<u8>) {
        self.crc.update(plain);
        // A member's length is stored modulo 2^32.
        self.length = self.length.wrapping_add(plain.len() as u32);
        while !plain.is_empty() {
            let (consumed, _) = self.deflate(plain, out, FlushCompress::None);
            plain = &plain[consumed..];
        }
    }

    /// Ends the member. Nothing can be written to it afterwards.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) {
        while self.deflate(&[], out, FlushCompress::Finish).1 != Status::StreamEnd {}
        out.extend_from_slice(&self.crc.clone().finalize().to_le_bytes());
        out.extend_from_slice(&self.length.to_le_bytes());
    }

    fn deflate(&mut self, plain: &[u8], out: &mut Vec<u8>, flush: FlushCompress) -> (usize, Status) {
        if out.capacity() - out.len() < ROOM {
            out.reserve(ROOM);
        }
        let before = self.deflate.total_in();
        let status = self.deflate.compress_vec(plain, out, flush).expect("the stream's state is its own");
        (usize::try_from(self.deflate.total_in() - before).expect("no more than was given"), status)
    }
}
