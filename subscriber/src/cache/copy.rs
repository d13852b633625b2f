//! A copy as it lies on the disk: a head with what it is of, then blocks, each with its checksum.
//!
//! ```text
//! head's length (4) │ "waybill copy 1\n" uri \n etag \n length \n │ checksum (4)
//! block 0: up to 256 KiB │ checksum of its number and bytes (4)
//! block 1 …
//! ```

use std::{
    fs::{File, FileTimes},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use crc32fast::Hasher;
use tempfile::NamedTempFile;

use crate::tasks::blocking;

const MAGIC: &str = "waybill copy 1\n";
const BLOCK: usize = 256 << 10;
const SUM: u64 = 4;
/// An address and an ETag are shorter.
const HEAD_MAX: usize = 64 << 10;

/// A copy that is being read. Nothing of it was compared with its checksums yet.
#[derive(Debug)]
pub(crate) struct Copy {
    file: Arc<File>,
    etag: String,
    length: u64,
    blocks_at: u64,
}

impl Copy {
    /// # Errors
    /// What [`is_wrong`] is true of: it is not right. Any other: it cannot be read now.
    pub(super) fn open(file: &Arc<File>, uri: &str) -> io::Result<Self> {
        let head = read_head(&mut &**file)?;
        let (etag, length) = parse_head(&head, uri).ok_or_else(|| wrong("its head"))?;
        let blocks_at = SUM + head.len() as u64 + SUM;
        let sums = SUM * length.div_ceil(BLOCK as u64);
        if Some(file.metadata()?.len()) != blocks_at.checked_add(sums).and_then(|bytes| bytes.checked_add(length)) {
            return Err(wrong("its length"));
        }
        Ok(Self { file: Arc::clone(file), etag, length, blocks_at })
    }

    pub(super) fn file(&self) -> &Arc<File> {
        &self.file
    }

    pub(crate) fn etag(&self) -> &str {
        &self.etag
    }

    /// Of the blob.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Those that were used last stay longest.
    pub(super) fn used_at(&self, now: SystemTime) {
        // Where it cannot be noted, it is as old as it is.
        let _not_noted = self.file.set_times(FileTimes::new().set_accessed(now));
    }

    /// The blob's bytes from `position` on, up to the end of their block. There are some.
    ///
    /// # Errors
    /// It is not right.
    pub(crate) async fn read(&self, position: u64) -> io::Result<Bytes> {
        let (number, within) = (position / BLOCK as u64, (position % BLOCK as u64) as usize);
        let length = (self.length - number * BLOCK as u64).min(BLOCK as u64) as usize;
        let (file, at) = (Arc::clone(&self.file), self.blocks_at + number * (BLOCK as u64 + SUM));
        let read = move || {
            let mut block = vec![0; length + SUM as usize];
            // Nobody else reads by this handle.
            (&*file).seek(SeekFrom::Start(at))?;
            (&*file).read_exact(&mut block)?;
            let sum = block.split_off(length);
            if sum != sum_of(number, &block) { Err(wrong("a block")) } else { Ok(Bytes::from(block)) }
        };
        let shutting_down = || Err(io::Error::other("the runtime is shutting down"));
        Ok(blocking(read).await.unwrap_or_else(shutting_down)?.slice(within..))
    }
}

/// A copy that is being written.
#[derive(Debug)]
pub(super) struct Writing {
    file: NamedTempFile,
    /// What was not written yet; less than a block but for the moment.
    block: Vec<u8>,
    number: u64,
    left: u64,
}

impl Writing {
    pub(super) fn begin(mut file: NamedTempFile, uri: &str, etag: &str, length: u64) -> io::Result<Self> {
        let head = format!("{MAGIC}{uri}\n{etag}\n{length}\n");
        let bytes = u32::try_from(head.len()).map_err(io::Error::other)?;
        file.write_all(&bytes.to_le_bytes())?;
        file.write_all(head.as_bytes())?;
        file.write_all(&crc32fast::hash(head.as_bytes()).to_le_bytes())?;
        Ok(Self { file, block: Vec::with_capacity(BLOCK), number: 0, left: length })
    }

    /// Takes bytes; whether there is something to write.
    pub(super) fn take(&mut self, bytes: &[u8]) -> bool {
        self.block.extend_from_slice(bytes);
        self.block.len() >= BLOCK
    }

    /// Writes the blocks that are full.
    pub(super) fn write(&mut self) -> io::Result<()> {
        let full = self.block.len() / BLOCK * BLOCK;
        let rest = self.block.split_off(full);
        let blocks = std::mem::replace(&mut self.block, rest);
        blocks.chunks(BLOCK).try_for_each(|block| self.write_block(block))
    }

    fn write_block(&mut self, block: &[u8]) -> io::Result<()> {
        self.left = self.left.checked_sub(block.len() as u64).ok_or_else(|| wrong("its length"))?;
        self.file.write_all(block)?;
        self.file.write_all(&sum_of(self.number, block))?;
        self.number += 1;
        Ok(())
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// Also when it is not as long as it was said to be.
    pub(super) fn finish(mut self) -> io::Result<NamedTempFile> {
        self.write()?;
        let rest = std::mem::take(&mut self.block);
        if !rest.is_empty() {
            self.write_block(&rest)?;
        }
        if self.left == 0 { Ok(self.file) } else { Err(wrong("its length")) }
    }
}

/// Whether an error says that a copy is not right, and not that it cannot be read now.
pub(super) fn is_wrong(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

fn read_head(file: &mut impl io::Read) -> io::Result<Vec<u8>> {
    let mut number = [0; SUM as usize];
    file.read_exact(&mut number)?;
    let length = u32::from_le_bytes(number) as usize;
    if length > HEAD_MAX {
        return Err(wrong("its head"));
    }
    let mut head = vec![0; length];
    file.read_exact(&mut head)?;
    file.read_exact(&mut number)?;
    if crc32fast::hash(&head).to_le_bytes() == number { Ok(head) } else { Err(wrong("its head")) }
}

/// ETag and length of the blob that it is a copy of, which has to be this one.
fn parse_head(head: &[u8], uri: &str) -> Option<(String, u64)> {
    let lines = std::str::from_utf8(head).ok()?.strip_prefix(MAGIC)?.strip_suffix('\n')?;
    let (of, rest) = lines.split_once('\n')?;
    let (etag, length) = rest.split_once('\n')?;
    (of == uri).then_some((etag.to_owned(), length.parse().ok()?))
}

/// A block in another one's place is as wrong as other bytes.
fn sum_of(number: u64, block: &[u8]) -> [u8; 4] {
    let mut sum = Hasher::new();
    sum.update(&number.to_le_bytes());
    sum.update(block);
    sum.finalize().to_le_bytes()
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} is not what was written"))
}
