//! How much the copies of a folder take, and which of them go.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;
use time::OffsetDateTime;

use super::{CacheOptions, SUFFIX, UNFINISHED};

/// The folder is looked through so often at least: others may have added to it, and copies grow old.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// When it is full, so much more than is needed goes, that it need not be looked through for each file.
const SPARE: u64 = 10;
/// One that nobody writes to for so long was left over by a process that died, where its lock does not say so.
const LEFT_OVER: Duration = Duration::from_secs(24 * 3600);

/// A copy of a time further ahead was made or used when a clock was wrong, then or now.
const AHEAD: Duration = Duration::from_secs(3600);

/// What is known of the folder's room.
#[derive(Debug, Default)]
pub(super) struct Room {
    looked_at: Option<Instant>,
    /// When it was looked through, and what was kept since.
    copies: u64,
    /// What was kept since somebody began to look through it.
    kept: u64,
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
        self.copies + self.begun
    }

    /// Whether so many bytes could have room beside what is begun, which nobody can remove.
    pub(super) fn may_fit(&self, options: &CacheOptions, bytes: u64) -> bool {
        self.begun.saturating_add(bytes) <= options.bytes_max
    }

    /// Whether the folder has to be looked through before so many bytes are taken.
    pub(super) fn is_unknown(&self, options: &CacheOptions, bytes: u64) -> bool {
        let is_known = self.looked_at.is_some_and(|at| at.elapsed() < LOOK_EVERY);
        !is_known || self.used().saturating_add(bytes) > options.bytes_max
    }

    /// Somebody begins to look through the folder. How much is begun.
    pub(super) fn begin_look(&mut self) -> u64 {
        self.kept = 0;
        self.begun
    }

    /// So many bytes were left in it.
    pub(super) fn looked(&mut self, copies: u64) {
        // What was kept meanwhile may be among them or not: rather too much than too little.
        self.copies = copies + self.kept;
        self.looked_at = Some(Instant::now());
    }

    /// Takes so many bytes, if there is room for them.
    pub(super) fn take(&mut self, options: &CacheOptions, bytes: u64) -> bool {
        let fits = self.used().saturating_add(bytes) <= options.bytes_max;
        if fits {
            self.begun += bytes;
        }
        fits
    }

    /// What was to be used is not.
    pub(super) fn give_back(&mut self, bytes: u64) {
        self.begun = self.begun.saturating_sub(bytes);
    }

    /// It is a copy now.
    pub(super) fn kept(&mut self, bytes: u64) {
        self.begun = self.begun.saturating_sub(bytes);
        self.copies += bytes;
        self.kept += bytes;
    }
}

/// Removes from a folder of copies, which need not be there, what is too old, too much, or left over by processes that died; with
/// `dry_run` nothing. Which copies go.
///
/// # Errors
/// When it cannot be read.
pub fn prune_cache(options: &CacheOptions, now: OffsetDateTime, dry_run: bool) -> io::Result<CacheUse> {
    Ok(clear_up(options, 0, now.into(), dry_run)?.gone)
}

/// What came of clearing up.
#[derive(Debug)]
pub(super) struct Cleared {
    /// Bytes of the copies that stay.
    pub(super) stay: u64,
    /// Copies that are gone.
    pub(super) gone: CacheUse,
}

/// Removes what is too old or left over, and makes room for so many bytes.
///
/// A clock that was set back makes no copy old, and those of a time that is still to come go first where there is no room: it is
/// not known when they were made.
///
/// # Errors
/// When the folder cannot be read.
pub(super) fn clear_up(options: &CacheOptions, bytes: u64, now: SystemTime, dry_run: bool) -> io::Result<Cleared> {
    let Listing { mut copies, unfinished } = list(&options.dir)?;
    if !dry_run {
        unfinished.iter().for_each(|path| remove_if_left_over(path, now));
    }
    let mut gone = CacheUse::default();
    let mut goes = |copy: &OnDisk| {
        let goes = dry_run || remove(&copy.path);
        if goes {
            gone.copies += 1;
            gone.bytes += copy.bytes;
        }
        goes
    };
    copies.retain(|copy| !is_older(copy.made_at, options.age_max, now) || !goes(copy));
    copies.sort_unstable_by_key(|copy| (copy.used_at <= now + AHEAD, copy.used_at));
    let mut used = copies.iter().map(|copy| copy.bytes).sum::<u64>();
    let most = options.bytes_max.saturating_sub(bytes);
    if used > most {
        let most = most.saturating_sub(options.bytes_max / SPARE);
        for copy in &copies {
            if used <= most {
                break;
            }
            if goes(copy) {
                used = used.saturating_sub(copy.bytes);
            }
        }
    }
    Ok(Cleared { stay: used, gone })
}

pub(super) fn is_older(made_at: SystemTime, than: Duration, now: SystemTime) -> bool {
    now.duration_since(made_at).is_ok_and(|age| age > than)
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
        // To open another one, as a pipe, could take for ever.
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
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
