//! What the tests write, looked through for tokens: the files of their temporary folders, also of those that go when a test ends,
//! and those of the database.
//!
//! A test's folder goes with the test, so nothing could be found there afterwards. Therefore each file is held open from soon after it
//! is made ([`EVERY`]), and looked through when it has no name any more, or at the end. So no test has to keep anything,
//! and the disk holds what is deleted a moment longer and no more. What is overwritten meanwhile is not seen, nor what lives
//! shorter than a look takes.
//!
//! In PostgreSQL, tests drop their schemas; but what they ever wrote is in its write-ahead log, which the tests' server keeps long.

use std::{
    collections::{HashMap, HashSet},
    fs::{DirEntry, File, Metadata},
    io::{Read as _, Seek as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use memchr::memmem;

use crate::postgres::Postgres;

/// Between two looks for new files.
const EVERY: Duration = Duration::from_millis(50);
/// Fewer from a run of all tests means that they write elsewhere, and that nothing was looked at.
pub(crate) const FILES_MIN: u64 = 500;
/// Of a file that is looked through. Files of a gigabyte are of tests about memory, and their begins say enough.
const LOOKED_AT_MAX: u64 = 64 << 20;
/// Files that are held open; those beyond are looked through when they are found. Many a system allows a process 1024.
const HELD_MAX: usize = 800;
/// A test of those who look for tokens writes one into a folder whose name has this. The test's side knows it too.
const SHOWS_ONE: &str = "shows-a-token";
/// A signature is an HMAC-SHA-256 in base64, 44 characters or more where some are escaped: what is shorter is none.
const SIGNATURE_MIN: usize = 43;

/// The temporary folder of a run of the tests, and who looks through it; it goes when this is dropped.
pub(crate) struct Left {
    folder: PathBuf,
    ended: Arc<AtomicBool>,
    looking: Option<JoinHandle<Seen>>,
}

impl Left {
    pub(crate) fn new() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("waybill-tests-{}", std::process::id()));
        std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let ended = Arc::<AtomicBool>::default();
        let (below, until) = (folder.clone(), Arc::clone(&ended));
        let looking = thread::spawn(move || {
            let mut seen = Seen::default();
            while !until.load(Ordering::Relaxed) {
                seen.look_below(&below);
                seen.let_go(false);
                thread::sleep(EVERY);
            }
            seen.look_below(&below);
            seen.let_go(true);
            seen
        });
        Ok(Self { folder, ended, looking: Some(looking) })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// After the tests, which have made `files_min` files at least: none of them holds the signature of a SAS.
    pub(crate) fn assert_no_token(mut self, postgres: &Postgres, files_min: u64) -> Result<()> {
        self.ended.store(true, Ordering::Relaxed);
        let looking = self.looking.take().expect("it is awaited once");
        let mut seen = looking.join().map_err(|_| anyhow!("who looks for tokens panicked"))?;
        let of_tests = seen.files;
        seen.look_below(&postgres.folder);
        seen.let_go(true);
        let Seen { found, files, bytes, .. } = seen;
        ensure!(found.is_empty(), "tokens were written:\n{}", found.join("\n"));
        ensure!(
            of_tests >= files_min,
            "only {of_tests} files were seen in {}, and the tests make {files_min} at least: they do not use TMPDIR",
            self.folder.display()
        );
        let of_postgres = files - of_tests;
        ensure!(of_postgres > 0, "nothing of PostgreSQL was seen in {}", postgres.folder.display());
        println!("── no token in {of_tests} files of the tests and {of_postgres} of PostgreSQL, {} MiB", bytes >> 20);
        Ok(())
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(looking) = self.looking.take() {
            drop(looking.join());
        }
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// A file whatever it is called: its device and its number there.
type Identity = (u64, u64);

#[derive(Default)]
struct Seen {
    held: HashMap<Identity, (PathBuf, File)>,
    /// Those beyond [`HELD_MAX`], as long as they have a name.
    beyond: HashSet<Identity>,
    files: u64,
    bytes: u64,
    /// Where tokens are, with what is around them.
    found: Vec<String>,
}

impl Seen {
    /// Takes hold of the files that are new.
    fn look_below(&mut self, folder: &Path) {
        let mut named = HashSet::new();
        self.look_into(folder, &mut named);
        self.beyond.retain(|identity| named.contains(identity));
    }

    fn look_into(&mut self, folder: &Path, named: &mut HashSet<Identity>) {
        // What goes meanwhile is none of the files that are held.
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !entry.file_name().to_string_lossy().contains(SHOWS_ONE) => {
                    self.look_into(&entry.path(), named);
                }
                Ok(kind) if kind.is_file() => self.take(&entry, named),
                _ => {}
            }
        }
    }

    fn take(&mut self, entry: &DirEntry, named: &mut HashSet<Identity>) {
        let Ok(metadata) = entry.metadata() else { return };
        let identity = identity(&metadata);
        named.insert(identity);
        if self.held.contains_key(&identity) || self.beyond.contains(&identity) {
            return;
        }
        let path = entry.path();
        // Another file may have the name now.
        let Ok(mut file) = File::open(&path) else { return };
        let Ok(identity) = file.metadata().map(|metadata| self::identity(&metadata)) else { return };
        self.files += 1;
        if self.held.len() < HELD_MAX {
            self.held.insert(identity, (path, file));
        } else {
            self.look_through(&path, &mut file);
            self.beyond.insert(identity);
        }
    }

    /// Looks through those of the files that were deleted, or through all.
    fn let_go(&mut self, all: bool) {
        let is_over = |file: &File| all || file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        let over: Vec<_> = self.held.extract_if(|_, (_, file)| is_over(file)).map(|(_, of)| of).collect();
        for (path, mut file) in over {
            self.look_through(&path, &mut file);
        }
    }

    fn look_through(&mut self, path: &Path, file: &mut File) {
        let mut bytes = Vec::new();
        if file.rewind().and_then(|()| file.take(LOOKED_AT_MAX).read_to_end(&mut bytes)).is_err() {
            return;
        }
        self.bytes += bytes.len() as u64;
        if let Some(around) = signature_in(&bytes) {
            self.found.push(format!("  {}: {around}", path.display()));
        }
    }
}

fn identity(metadata: &Metadata) -> Identity {
    (metadata.dev(), metadata.ino())
}

/// A signature as text, escaped as in a query, an address in an address, or JSON; and its bytes as those who show bytes write them.
fn signature_in(bytes: &[u8]) -> Option<String> {
    let is_text = |byte: u8| byte.is_ascii_alphanumeric() || b"+/%=-_\\".contains(&byte);
    let is_hex = |byte: u8| byte.is_ascii_hexdigit();
    let is_list = |byte: u8| byte.is_ascii_digit() || b", \n".contains(&byte);
    let text = ["sig=", "sig%3D", "sig%3d", "sig%253D", "sig%253d", "sig\\u003d", "sig\\u003D"];
    let text = text.map(|key| (key, is_text as fn(u8) -> bool, SIGNATURE_MIN));
    let hex = ["7369673d", "7369673D"].map(|key| (key, is_hex as fn(u8) -> bool, SIGNATURE_MIN * 2));
    // At least two digits and what divides them.
    let lists = ["115, 105, 103, 61, "].map(|key| (key, is_list as fn(u8) -> bool, SIGNATURE_MIN * 4));
    text.into_iter().chain(hex).chain(lists).find_map(|(key, is_of_it, least)| {
        memmem::find_iter(bytes, key).find_map(|at| {
            let value = bytes.get(at + key.len()..).unwrap_or_default();
            let is_one = value.iter().take_while(|byte| is_of_it(**byte)).count() >= least;
            let around = bytes.get(at.saturating_sub(120)..bytes.len().min(at + 60)).unwrap_or_default();
            is_one.then(|| String::from_utf8_lossy(around).into_owned())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: &str = "AbCdEfGhIjKlMnOpQrStUvWxYz0123456789%2B%2Fabcdef%3D";

    #[test]
    fn a_signature_is_told_from_what_only_looks_like_one() {
        let has_one = |text: &str| signature_in(text.as_bytes()).is_some();
        assert!(has_one(&format!("?sv=1&sig=x&sig={SIGNATURE}&se=2")));
        assert!(has_one(&format!("sv%3D1%26sig%3D{SIGNATURE}")) && has_one(&format!("sig\\u003d{SIGNATURE}")));
        let bytes = format!("sig={SIGNATURE}&se=2").into_bytes();
        assert!(has_one(&format!("{bytes:?}")) && has_one(&format!("{bytes:02x?}").replace(", ", "")));
        assert!(!has_one("sig=*** sig=secret sig=") && !has_one("[115, 105, 103, 61, 42, 42, 42]"));
    }

    #[test]
    fn a_token_is_found_in_a_file_that_is_deleted_and_in_one_that_is_left() {
        let mut seen = Seen::default();
        let folder = std::env::temp_dir().join(format!("waybill-xtask-{SHOWS_ONE}-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("below")).expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).expect("a file");
        write("below/deleted.log", "nothing yet");
        write("left.log", "nothing");
        seen.look_below(&folder);
        write("below/deleted.log", &format!("GET /c/b?sig={SIGNATURE}"));
        std::fs::remove_dir_all(folder.join("below")).expect("it is there");
        seen.look_below(&folder);
        seen.let_go(false);
        assert!(
            seen.found.len() == 1 && seen.found.iter().all(|found| found.contains("deleted.log")),
            "{:?}",
            seen.found
        );
        write("left.log", &format!("GET /c/b?sig={SIGNATURE}"));
        seen.let_go(true);
        assert_eq!((seen.found.len(), seen.files, seen.held.len()), (2, 2, 0), "{:?}", seen.found);
        std::fs::remove_dir_all(&folder).expect("it is there");
    }
}
