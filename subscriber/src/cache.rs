//! Stored bytes of files that were read to their end, kept on disk to be read again without a download.
//!
//! A folder holds one copy for each address. Several processes may share it: a copy gets its name whole, by a rename, and
//! whoever reads one that another removes reads on.
//!
//! # Invariants
//! 1. A copy has its name only once all of its bytes came, and whoever read them found them right.
//! 2. No byte of a copy is used before its block was compared with its checksum. A copy that is not right is removed, and the
//!    rest is downloaded.
//! 3. Nothing that goes wrong here makes a file fail: then there is no copy.
//! 4. No SAS is in a name or a copy, and none but the owner may read them.

mod copy;
mod room;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use time::OffsetDateTime;
use waybill_azure::blob::BlobFacts;

pub(crate) use self::copy::Copy;
pub use self::room::{CacheUse, cache_use};
use self::{copy::Writing, room::Room};
use crate::tasks::blocking;

/// Of a copy that is not whole. Whoever writes it holds a lock on it.
const UNFINISHED: &str = "unfinished-";
/// Of a copy.
const SUFFIX: &str = ".blob";

/// Where copies of files are kept, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheOptions {
    /// The folder; it is made when it is needed. Several processes may share it.
    pub dir: PathBuf,
    /// All copies together; those that were not used for the longest time go first.
    pub bytes_max: u64,
    /// A copy goes so long after it was downloaded.
    pub age_max: Duration,
}

impl CacheOptions {
    /// In this folder, 10 GiB for 30 days.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), bytes_max: 10 << 30, age_max: Duration::from_secs(30 * 86_400) }
    }
}

/// The copies of a folder.
#[derive(Debug)]
pub(crate) struct Cache {
    options: CacheOptions,
    now: fn() -> OffsetDateTime,
    room: Mutex<Room>,
    hits: AtomicU64,
    misses: AtomicU64,
    damaged: AtomicU64,
    failed: AtomicU64,
    /// The last try to keep a copy failed, and that was said.
    fails: AtomicBool,
}

/// What came of a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct CacheFigures {
    /// Files that were read from a copy.
    pub hits: u64,
    /// Files that were downloaded, because there was no copy of them.
    pub misses: u64,
    /// Copies that were not right, and were removed.
    pub damaged: u64,
    /// Copies that could not be written, as on a full disk.
    pub failed: u64,
    /// Bytes of all copies, about.
    pub bytes: u64,
}

impl Cache {
    pub(crate) fn new(options: CacheOptions, now: fn() -> OffsetDateTime) -> Self {
        Self {
            options,
            now,
            room: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            damaged: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            fails: AtomicBool::new(false),
        }
    }

    pub(crate) fn figures(&self) -> CacheFigures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheFigures {
            hits: read(&self.hits),
            misses: read(&self.misses),
            damaged: read(&self.damaged),
            failed: read(&self.failed),
            bytes: self.room().used(),
        }
    }

    /// The copy of a blob, if there is one; whether it is of the blob that is wanted, its ETag says.
    pub(crate) async fn find(self: &Arc<Self>, uri: &str) -> Option<Copy> {
        let (cache, uri) = (Arc::clone(self), uri.to_owned());
        let open = move || {
            let path = cache.path(&uri);
            match Copy::open(&path, &uri) {
                Ok(copy) => Some(copy),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => {
                    cache.remove(&path, &error);
                    None
                }
            }
        };
        blocking(open).await?
    }

    /// A copy is read instead of a download.
    pub(crate) fn hit(&self, copy: &Copy) {
        self.hits.fetch_add(1, Ordering::Relaxed);
        copy.used_at((self.now)().into());
    }

    /// A file is downloaded: a copy of it, to be [kept](Draft::keep) when it has all and it is right. `None`: it cannot be had.
    pub(crate) async fn begin(self: &Arc<Self>, uri: &str, facts: &BlobFacts) -> Option<Draft> {
        self.misses.fetch_add(1, Ordering::Relaxed);
        let bytes = facts.length;
        if bytes > self.options.bytes_max {
            return None;
        }
        let (cache, uri, etag) = (Arc::clone(self), uri.to_owned(), facts.etag.clone());
        let begin = move || {
            match cache.room().make(&cache.options, bytes, (cache.now)().into()) {
                Ok(()) => {}
                Err(error) => {
                    cache.failed(&error);
                    return None;
                }
            }
            let path = cache.path(&uri);
            // From here on the room is given back when it is dropped.
            let mut draft = Draft { cache, path, bytes, writing: None, kept: false };
            match draft.start(&uri, &etag) {
                Ok(writing) => draft.writing = Some(writing),
                Err(error) => draft.cache.failed(&error),
            }
            draft.writing.is_some().then_some(draft)
        };
        blocking(begin).await?
    }

    /// A block of the copy was not right.
    pub(crate) async fn doubt(self: &Arc<Self>, uri: &str, problem: io::Error) {
        let (cache, uri) = (Arc::clone(self), uri.to_owned());
        blocking(move || cache.remove(&cache.path(&uri), &problem)).await;
    }

    fn remove(&self, path: &Path, problem: &io::Error) {
        self.damaged.fetch_add(1, Ordering::Relaxed);
        let path_shown = path.display();
        tracing::warn!(%problem, "a copy in the cache is not right; it is removed and downloaded again: {path_shown}");
        // If it stays, it will be found out again.
        let _stays = std::fs::remove_file(path);
    }

    /// No copy could be made. Said once, until one can be made again.
    fn failed(&self, error: &io::Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        if !self.fails.swap(true, Ordering::Relaxed) {
            let dir = self.options.dir.display();
            tracing::warn!(%error, "no copies of files are kept in {dir} for now; files are worked all the same");
        }
    }

    fn path(&self, uri: &str) -> PathBuf {
        let name: String = Sha256::digest(uri.as_bytes()).iter().take(20).map(|byte| format!("{byte:02x}")).collect();
        self.options.dir.join(name + SUFFIX)
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A copy in the making. It is gone when it is dropped, also by the end of its process.
#[derive(Debug)]
pub(crate) struct Draft {
    cache: Arc<Cache>,
    path: PathBuf,
    bytes: u64,
    /// `None` once it failed, and while a call works on it.
    writing: Option<Writing>,
    kept: bool,
}

impl Draft {
    fn start(&self, uri: &str, etag: &str) -> io::Result<Writing> {
        let dir = &self.cache.options.dir;
        make_folder(dir)?;
        // Readable by its owner only, as such files are made.
        let file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(dir)?;
        // Whoever clears up knows by it that it is not left over. Where there are no locks, its age has to do.
        let _unlocked = file.as_file().try_lock();
        Writing::begin(file, uri, etag, self.bytes)
    }

    /// The next bytes of the blob. They are not waited for to be on the disk.
    pub(crate) async fn add(&mut self, bytes: &[u8]) {
        let Some(mut writing) = self.writing.take() else { return };
        if !writing.take(bytes) {
            self.writing = Some(writing);
            return;
        }
        match blocking(move || writing.write().map(|()| writing)).await {
            Some(Ok(writing)) => self.writing = Some(writing),
            Some(Err(error)) => self.cache.failed(&error),
            None => {}
        }
    }

    /// Its reader came to its end and found it right.
    pub(crate) async fn keep(mut self) {
        let Some(writing) = self.writing.take() else { return };
        let path = self.path.clone();
        let persist = move || {
            let file: NamedTempFile = writing.finish()?;
            file.persist(&path).map_err(|error| error.error)
        };
        match blocking(persist).await {
            Some(Ok(_file)) => {
                self.kept = true;
                self.cache.room().kept(self.bytes);
                self.cache.fails.store(false, Ordering::Relaxed);
            }
            Some(Err(error)) => self.cache.failed(&error),
            None => {}
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept {
            self.cache.room().give_back(self.bytes);
        }
    }
}

/// A folder that only its owner may look into, if it is made here.
fn make_folder(dir: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

#[cfg(test)]
mod tests;
