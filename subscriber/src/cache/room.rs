//! How much the copies of a folder take, and which of them go.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use super::{CacheOptions, SUFFIX, UNFINISHED};

/// The folder is looked through so often at least: others may have added to it, and copies grow old.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// When it is full, so much more than is needed goes, that it need not be looked through for each file.
const SPARE: u64 = 10;
/// One that nobody writes to for so long was left over by a process that died, where its lock does not say so.
const LEFT_OVER: Duration = Duration::from_secs(24 * 3600);

/// What is known of the folder's room.
#[derive(Debug, Default)]
pub(super) struct Room {
    looked_at: Option<Instant>,
    /// When it was looked through, and what was begun since.
    used: u64,
    /// What is begun and not kept yet; the folder has some of it.
    begun: u64,
}

/// What the copies of a folder take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct CacheUse {
    /// How many copies there are.
    pub copies: u64,
    /// How long all of them are.
    pub bytes: u64,
}

/// Looks at a folder of copies, which need not be there.
///
/// # Errors
/// When it cannot be read.
pub fn cache_use(dir: &Path) -> io::Result<CacheUse> {
    let Listing { copies, .. } = list(dir)?;
    Ok(CacheUse { copies: copies.len() as u64, bytes: copies.iter().map(|copy| copy.bytes).sum() })
}

impl Room {
    pub(super) fn used(&self) -> u64 {
        self.used
    }

    /// Makes room for so many bytes, which are not more than there may be, and takes them as used.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub(super) fn make(&mut self, options: &CacheOptions, bytes: u64, now: SystemTime) -> io::Result<()> {
        let is_known = self.looked_at.is_some_and(|at| at.elapsed() < LOOK_EVERY);
        if !is_known || self.used.saturating_add(bytes) > options.bytes_max {
            self.look(options, bytes, now)?;
        }
        self.used += bytes;
        self.begun += bytes;
        Ok(())
    }

    /// What was to be used is not.
    pub(super) fn give_back(&mut self, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
        self.begun = self.begun.saturating_sub(bytes);
    }

    /// It is a copy now.
    pub(super) fn kept(&mut self, bytes: u64) {
        self.begun = self.begun.saturating_sub(bytes);
    }

    fn look(&mut self, options: &CacheOptions, bytes: u64, now: SystemTime) -> io::Result<()> {
        let Listing { mut copies, unfinished } = list(&options.dir)?;
        for path in unfinished {
            remove_if_left_over(&path, now);
        }
        let older = |at: SystemTime, than: Duration| now.duration_since(at).is_ok_and(|age| age > than);
        copies.retain(|copy| !older(copy.made_at, options.age_max) || !remove(&copy.path));
        copies.sort_unstable_by_key(|copy| copy.used_at);
        let mut used = copies.iter().map(|copy| copy.bytes).sum::<u64>() + self.begun;
        if used.saturating_add(bytes) > options.bytes_max {
            let most = (options.bytes_max - bytes).saturating_sub(options.bytes_max / SPARE);
            for copy in &copies {
                if used <= most {
                    break;
                }
                if remove(&copy.path) {
                    used = used.saturating_sub(copy.bytes);
                }
            }
        }
        self.used = used;
        self.looked_at = Some(Instant::now());
        Ok(())
    }
}

struct OnDisk {
    path: PathBuf,
    bytes: u64,
    made_at: SystemTime,
    used_at: SystemTime,
}

#[derive(Default)]
struct Listing {
    copies: Vec<OnDisk>,
    unfinished: Vec<PathBuf>,
}

fn list(dir: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listing),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with(UNFINISHED) {
            listing.unfinished.push(entry.path());
        } else if name.ends_with(SUFFIX)
            // One that another process has just removed is none.
            && let Ok(metadata) = entry.metadata()
            && let Ok(made_at) = metadata.modified()
        {
            let used_at = metadata.accessed().map_or(made_at, |at| at.max(made_at));
            listing.copies.push(OnDisk { path: entry.path(), bytes: metadata.len(), made_at, used_at });
        }
    }
    Ok(listing)
}

/// What a process that died was writing. One that lives holds a lock on it.
fn remove_if_left_over(path: &Path, now: SystemTime) {
    let Ok(file) = File::open(path) else { return };
    let is_left_over = match file.try_lock() {
        Ok(()) => true,
        Err(fs::TryLockError::WouldBlock) => false,
        Err(fs::TryLockError::Error(_)) => {
            let touched = file.metadata().and_then(|metadata| metadata.modified());
            touched.is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age > LEFT_OVER))
        }
    };
    if is_left_over {
        remove(path);
    }
}

fn remove(path: &Path) -> bool {
    match fs::remove_file(path) {
        Ok(()) => true,
        // Another process was faster.
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}
