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
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;
use time::OffsetDateTime;
use waybill_azure::blob::BlobFacts;

pub(crate) use self::copy::Copy;
pub use self::room::{CacheUse, cache_use, prune_cache};
use self::{
    copy::{Writing, is_wrong},
    room::{Cleared, Room, clear_up, is_older},
};
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
    /// Held while the folder is looked through, which may take long, and by nobody who must not wait.
    looking: Mutex<()>,
    /// The folder was found to be ours alone.
    ours: OnceLock<()>,
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
    /// Copies that could not be written or read, as on a full disk.
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
            looking: Mutex::default(),
            ours: OnceLock::new(),
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
            let file = match cache.open(&path) {
                Ok(file) => Arc::new(file?),
                Err(error) => {
                    cache.failed(&error);
                    return None;
                }
            };
            match Copy::open(&file, &uri) {
                Ok(copy) => Some(copy),
                Err(error) => {
                    cache.judge(&path, &file, &error);
                    None
                }
            }
        };
        blocking(open).await?
    }

    /// A file of the folder, if it is there and not too old.
    fn open(&self, path: &Path) -> io::Result<Option<File>> {
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        self.check_folder()?;
        if !metadata.is_file() {
            return Err(io::Error::other(format!("{} is no ordinary file; remove it", path.display())));
        }
        if is_older(metadata.modified()?, self.options.age_max, (self.now)().into()) {
            fs::remove_file(path)?;
            return Ok(None);
        }
        match File::open(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whoever else may write in the folder could put rows of their own there.
    fn check_folder(&self) -> io::Result<()> {
        if self.ours.get().is_none() {
            check_folder(&self.options.dir)?;
            let _known_by_another = self.ours.set(());
        }
        Ok(())
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
            match cache.make_room(bytes) {
                Ok(true) => {}
                Ok(false) => return None,
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

    /// Takes room for so many bytes; `false`: there is none, as long as others are written.
    fn make_room(&self, bytes: u64) -> io::Result<bool> {
        let options = &self.options;
        if !self.room().may_fit(options, bytes) {
            return Ok(false);
        }
        if self.room().is_unknown(options, bytes) {
            let _one_at_a_time = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
            if self.room().is_unknown(options, bytes) {
                let begun = self.room().begin_look();
                let Some(needed) = begun.checked_add(bytes).filter(|needed| *needed <= options.bytes_max) else {
                    return Ok(false);
                };
                let copies = clear_up(options, needed, (self.now)().into(), false)?;
                self.room().looked(copies.stay);
            }
        }
        Ok(self.room().take(options, bytes))
    }

    /// Removes what is too old, too much or left over, though nobody makes a copy.
    pub(crate) async fn clear_up(self: &Arc<Self>) {
        let cache = Arc::clone(self);
        let clear = move || {
            let _one_at_a_time = cache.looking.lock().unwrap_or_else(PoisonError::into_inner);
            let begun = cache.room().begin_look();
            match clear_up(&cache.options, begun, (cache.now)().into(), false) {
                Ok(Cleared { stay, gone }) => {
                    cache.room().looked(stay);
                    tracing::debug!(copies = gone.copies, bytes = gone.bytes, "the cache was cleared up");
                }
                Err(error) => cache.failed(&error),
            }
        };
        blocking(clear).await;
    }

    /// The copy could not be read on.
    pub(crate) async fn doubt(self: &Arc<Self>, uri: &str, copy: &Copy, problem: io::Error) {
        let (cache, uri, file) = (Arc::clone(self), uri.to_owned(), Arc::clone(copy.file()));
        blocking(move || cache.judge(&cache.path(&uri), &file, &problem)).await;
    }

    /// Removes a copy that is not right. One that only cannot be read now stays, as does one that has taken its place: it may be
    /// the only one that is left of the file.
    fn judge(&self, path: &Path, file: &File, problem: &io::Error) {
        if !is_wrong(problem) {
            return self.failed(problem);
        }
        self.damaged.fetch_add(1, Ordering::Relaxed);
        let path_shown = path.display();
        tracing::warn!(%problem, "a copy in the cache is not right; it is removed and downloaded again: {path_shown}");
        if is_at(file, path) {
            // If it stays, it will be found out again.
            let _stays = fs::remove_file(path);
        }
    }

    /// No copy could be made. Said once, until one can be made again.
    fn failed(&self, error: &io::Error) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        if !self.fails.swap(true, Ordering::Relaxed) {
            let dir = self.options.dir.display();
            tracing::warn!(%error, "copies of files cannot be used in {dir} for now; files are worked all the same");
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
        self.cache.check_folder()?;
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

/// Whether an open file is the one that has this name now.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let of = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    matches!((file.metadata(), fs::symlink_metadata(path)), (Ok(ours), Ok(there)) if of(&ours) == of(&there))
}

/// One that is open cannot be replaced there.
#[cfg(not(unix))]
fn is_at(_: &File, _: &Path) -> bool {
    true
}

#[cfg(unix)]
fn check_folder(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let of_folder = fs::metadata(dir)?;
    // A file that is made is its maker's.
    let me = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(dir)?.as_file().metadata()?.uid();
    if of_folder.mode() & 0o022 == 0 && [me, 0].contains(&of_folder.uid()) {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "others may write in {}; give the folder to the user that subscribers run as, and take the right to write from all \
         others (chmod 700)",
        dir.display()
    )))
}

#[cfg(not(unix))]
fn check_folder(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests;
