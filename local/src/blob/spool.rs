//! Where the bytes of blobs and blocks lie: small ones in memory up to a budget, the rest in temporary files. A chunk is
//! written once and never changed, so a blob is a list of shared chunks, and a commit copies nothing.

use std::{
    fs::File,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use tokio::task::spawn_blocking;

/// Bodies longer than this go to a temporary file at once.
const SMALL_MAX: u64 = 4 << 20;
/// A temporary file takes further chunks up to this length. One file per chunk would run out of descriptors, one file
/// for everything would never give space back.
const FILE_FULL: u64 = 256 << 20;
/// How much is read from or written to a file at a time.
const PIECE: usize = 512 << 10;

/// All chunks of a process.
#[derive(Debug)]
pub(super) struct Spool {
    resident: Arc<AtomicU64>,
    resident_max: u64,
    current: Mutex<Option<(Arc<File>, u64)>>,
}

/// Some bytes.
#[derive(Debug)]
pub(super) enum Chunk {
    Memory { bytes: Bytes, lease: Lease },
    File { file: Arc<File>, offset: u64, len: u64 },
}

/// A part of the memory budget.
#[derive(Debug)]
pub(super) struct Lease {
    resident: Arc<AtomicU64>,
    len: u64,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.resident.fetch_sub(self.len, Ordering::Relaxed);
    }
}

impl Spool {
    /// `resident_max`: bytes kept in memory at most.
    pub(super) fn new(resident_max: u64) -> Self {
        Self { resident: Arc::default(), resident_max, current: Mutex::default() }
    }

    /// Room for a body of exactly `len` bytes.
    ///
    /// # Errors
    /// A temporary file could not be made.
    pub(super) fn writer(&self, len: u64) -> io::Result<ChunkWriter> {
        let place = match self.lease(len) {
            Some(lease) => {
                let capacity = usize::try_from(len).map_err(io::Error::other)?;
                Place::Memory { bytes: BytesMut::with_capacity(capacity), lease }
            }
            None => {
                let (file, offset) = self.reserve(len)?;
                Place::File { file, offset, written: 0, pending: BytesMut::new() }
            }
        };
        Ok(ChunkWriter { len, place })
    }

    /// Bytes in memory now.
    pub(super) fn resident(&self) -> u64 {
        self.resident.load(Ordering::Relaxed)
    }

    fn lease(&self, len: u64) -> Option<Lease> {
        if len > SMALL_MAX {
            return None;
        }
        let taken = self.resident.fetch_add(len, Ordering::Relaxed);
        // Dropping the lease gives the bytes back when the budget does not hold them.
        let lease = Lease { resident: Arc::clone(&self.resident), len };
        (taken + len <= self.resident_max).then_some(lease)
    }

    fn reserve(&self, len: u64) -> io::Result<(Arc<File>, u64)> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (file, offset) = match current.take() {
            Some((file, end)) if end < FILE_FULL => (file, end),
            _ => (Arc::new(tempfile::tempfile()?), 0),
        };
        *current = Some((Arc::clone(&file), offset + len));
        Ok((file, offset))
    }
}

/// Takes a body piece by piece.
#[derive(Debug)]
pub(super) struct ChunkWriter {
    len: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Memory { bytes: BytesMut, lease: Lease },
    File { file: Arc<File>, offset: u64, written: u64, pending: BytesMut },
}

impl ChunkWriter {
    /// Adds bytes.
    ///
    /// # Errors
    /// The temporary file could not be written, or there are more bytes than were announced.
    pub(super) async fn write(&mut self, more: &[u8]) -> io::Result<()> {
        if self.received() + more.len() as u64 > self.len {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more bytes than announced"));
        }
        match &mut self.place {
            Place::Memory { bytes, .. } => bytes.extend_from_slice(more),
            Place::File { file, offset, written, pending } => {
                pending.extend_from_slice(more);
                if pending.len() >= PIECE {
                    *written += write_at(file, *offset + *written, pending.split().freeze()).await?;
                }
            }
        }
        Ok(())
    }

    /// The chunk, once all announced bytes are there.
    ///
    /// # Errors
    /// The temporary file could not be written, or bytes are missing (`UnexpectedEof`).
    pub(super) async fn finish(self) -> io::Result<Chunk> {
        if self.received() != self.len {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "fewer bytes than announced"));
        }
        match self.place {
            Place::Memory { bytes, lease } => Ok(Chunk::Memory { bytes: bytes.freeze(), lease }),
            Place::File { file, offset, written, pending } => {
                write_at(&file, offset + written, pending.freeze()).await?;
                Ok(Chunk::File { file, offset, len: self.len })
            }
        }
    }

    fn received(&self) -> u64 {
        match &self.place {
            Place::Memory { bytes, .. } => bytes.len() as u64,
            Place::File { written, pending, .. } => written + pending.len() as u64,
        }
    }
}

impl Chunk {
    /// Its length.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Memory { lease, .. } => lease.len,
            Self::File { len, .. } => *len,
        }
    }

    /// Up to half a mebibyte from `from`, at least one byte while `from` is below `to`.
    ///
    /// # Errors
    /// The temporary file could not be read.
    pub(super) async fn read(&self, from: u64, to: u64) -> io::Result<Bytes> {
        let len = usize::try_from((to - from).min(PIECE as u64)).map_err(io::Error::other)?;
        match self {
            Self::Memory { bytes, .. } => {
                let from = usize::try_from(from).map_err(io::Error::other)?;
                Ok(bytes.slice(from..from + len))
            }
            Self::File { file, offset, .. } => {
                let (file, at) = (Arc::clone(file), offset + from);
                spawn_blocking(move || {
                    let mut piece = vec![0; len];
                    place::read_exact_at(&file, &mut piece, at)?;
                    Ok(Bytes::from(piece))
                })
                .await
                .map_err(io::Error::other)?
            }
        }
    }
}

async fn write_at(file: &Arc<File>, at: u64, bytes: Bytes) -> io::Result<u64> {
    let file = Arc::clone(file);
    spawn_blocking(move || {
        place::write_all_at(&file, &bytes, at)?;
        Ok(bytes.len() as u64)
    })
    .await
    .map_err(io::Error::other)?
}

/// Reads and writes at a place of a file that several share.
#[cfg(unix)]
mod place {
    use std::{fs::File, io, os::unix::fs::FileExt as _};

    pub(super) fn read_exact_at(file: &File, piece: &mut [u8], at: u64) -> io::Result<()> {
        file.read_exact_at(piece, at)
    }

    pub(super) fn write_all_at(file: &File, piece: &[u8], at: u64) -> io::Result<()> {
        file.write_all_at(piece, at)
    }
}

/// Reads and writes at a place of a file that several share.
#[cfg(windows)]
mod place {
    use std::{fs::File, io, os::windows::fs::FileExt as _};

    pub(super) fn read_exact_at(file: &File, mut piece: &mut [u8], mut at: u64) -> io::Result<()> {
        while !piece.is_empty() {
            match file.seek_read(piece, at)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => {
                    at += read as u64;
                    piece = piece.split_at_mut(read).1;
                }
            }
        }
        Ok(())
    }

    pub(super) fn write_all_at(file: &File, mut piece: &[u8], mut at: u64) -> io::Result<()> {
        while !piece.is_empty() {
            let written = file.seek_write(piece, at)?;
            at += written as u64;
            piece = piece.split_at(written).1;
        }
        Ok(())
    }
}
