//! Whose file it is, read from its first bytes without opening it as a database: SQLite would put `-wal` and `-shm`
//! files beside a stranger's database, and might check-point or recover it.
//!
//! # Sources
//! SQLite, "Database File Format", sections 1.3 (header) and 1.6 (b-tree pages).

use std::{fs::File, io::Read, path::Path};

const MAGIC: &[u8; 16] = b"SQLite format 3\0";
const USER_VERSION: usize = 60;
const APPLICATION_ID: usize = 68;
const FIRST_PAGE: usize = 100;
const LEAF_TABLE: u8 = 0x0d;

/// What the first bytes say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FirstBytes {
    /// No file, or one without a byte.
    Absent,
    /// A transaction with a rollback journal is under way or was cut off: only SQLite can tell.
    Undecided,
    /// Not a database.
    NoDatabase(&'static str),
    /// A database. An inbox or outbox has its id here from its first commit on, because that one is made before the
    /// file changes to WAL; the version may be older than the WAL's.
    Database {
        application_id: i32,
        user_version: i64,
        /// No table in it, and no WAL that could hold one.
        empty: bool,
    },
}

pub(crate) fn read(path: &Path) -> std::io::Result<FirstBytes> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(FirstBytes::Absent),
        Err(error) => return Err(error),
    };
    if file.metadata()?.is_dir() {
        return Err(std::io::Error::new(std::io::ErrorKind::IsADirectory, "it is a folder"));
    }
    let mut bytes = Vec::with_capacity(128);
    file.by_ref().take(128).read_to_end(&mut bytes)?;
    if has_bytes(path, "-journal") {
        return Ok(FirstBytes::Undecided);
    }
    if bytes.is_empty() {
        return Ok(FirstBytes::Absent);
    }
    if !bytes.starts_with(MAGIC) {
        return Ok(FirstBytes::NoDatabase("it does not begin like one"));
    }
    if bytes.len() < 128 {
        return Ok(FirstBytes::NoDatabase("its header is cut off"));
    }
    let number = |at: usize| i32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let tables = u16::from_be_bytes([bytes[FIRST_PAGE + 3], bytes[FIRST_PAGE + 4]]);
    Ok(FirstBytes::Database {
        application_id: number(APPLICATION_ID),
        user_version: i64::from(number(USER_VERSION)),
        empty: bytes[FIRST_PAGE] == LEAF_TABLE && tables == 0 && !has_bytes(path, "-wal"),
    })
}

/// Whether the file beside `path` with this suffix holds anything.
fn has_bytes(path: &Path, suffix: &str) -> bool {
    let mut beside = path.as_os_str().to_owned();
    beside.push(suffix);
    std::fs::metadata(Path::new(&beside)).is_ok_and(|facts| facts.len() > 0)
}
