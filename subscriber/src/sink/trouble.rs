//! What went wrong with a file, or a database in one: an outage, which passes; damage or a missing right, which somebody has to mend;
//! or a word about what was asked for, by a sink that works.

use std::io;

use waybill_store::{
    StoreError,
    rusqlite::{self, ErrorCode},
};

use super::SinkError;

/// Whose it is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nobody's: room, another process, a disk that does not answer.
    Passes,
    /// A person's, for all files: with what helps.
    Person(&'static str),
    /// The file's own.
    File,
}

const DAMAGED: &str = "it is damaged: end this program and put a copy of it back, or give another path; files that the copy lacks are worked again";
const NO_RIGHT: &str = "give the user that this program runs as the right to write the file and its folder";

impl Trouble {
    pub(super) fn of_sqlite(error: &rusqlite::Error) -> Self {
        let Some(code) = error.sqlite_error_code() else { return Self::File };
        match code {
            // A constraint, a trigger that fails, a table that is gone.
            ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig | ErrorCode::Unknown => {
                Self::File
            }
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Self::Person(DAMAGED),
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied => Self::Person(NO_RIGHT),
            // Its room, its disk, or other connections. A file that cannot be opened may lie on a disk that is not there yet.
            _ => Self::Passes,
        }
    }

    pub(super) fn of_store(error: &StoreError) -> Self {
        match error {
            StoreError::Sqlite { source, .. } => Self::of_sqlite(source),
            _ => Self::Passes,
        }
    }

    pub(super) fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Person(NO_RIGHT),
            io::ErrorKind::NotADirectory => {
                Self::Person("something else stands in the place of a folder; move it away")
            }
            io::ErrorKind::InvalidData | io::ErrorKind::IsADirectory | io::ErrorKind::InvalidFilename => Self::File,
            _ => Self::Passes,
        }
    }

    /// Where no file is asked about, what is said is about all of them.
    pub(super) fn of_all(self) -> Self {
        if self == Self::File { Self::Person("see what became of its tables") } else { self }
    }

    pub(super) fn error(self, sink: String, problem: String) -> SinkError {
        match self {
            Self::Passes => SinkError::Unavailable { sink, problem },
            Self::Person(what_helps) => SinkError::Unusable { sink, problem: format!("{problem}; {what_helps}") },
            Self::File => SinkError::Failed { sink, problem },
        }
    }
}

#[cfg(test)]
mod tests {
    use waybill_store::rusqlite::ffi;

    use super::*;

    fn of_code(code: i32) -> Trouble {
        Trouble::of_sqlite(&rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
    }

    #[test]
    fn an_outage_of_a_database_is_told_from_damage_a_missing_right_and_a_word_about_a_file() {
        for code in [
            ffi::SQLITE_BUSY,
            ffi::SQLITE_LOCKED,
            ffi::SQLITE_IOERR_READ,
            ffi::SQLITE_FULL,
            ffi::SQLITE_CANTOPEN,
            ffi::SQLITE_NOMEM,
            ffi::SQLITE_PROTOCOL,
            ffi::SQLITE_INTERRUPT,
        ] {
            assert_eq!(of_code(code), Trouble::Passes, "{code}");
        }
        for code in [ffi::SQLITE_CORRUPT, ffi::SQLITE_CORRUPT_INDEX, ffi::SQLITE_NOTADB] {
            assert_eq!(of_code(code), Trouble::Person(DAMAGED), "{code}");
        }
        for code in [ffi::SQLITE_READONLY, ffi::SQLITE_READONLY_DBMOVED, ffi::SQLITE_PERM] {
            assert_eq!(of_code(code), Trouble::Person(NO_RIGHT), "{code}");
        }
        for code in [ffi::SQLITE_ERROR, ffi::SQLITE_CONSTRAINT_UNIQUE, ffi::SQLITE_MISMATCH, ffi::SQLITE_TOOBIG] {
            assert_eq!(of_code(code), Trouble::File, "{code}");
            assert!(matches!(of_code(code).of_all(), Trouble::Person(_)), "{code}");
        }
        let store = |code| StoreError::Sqlite {
            path: "p".to_owned(),
            source: rusqlite::Error::SqliteFailure(ffi::Error::new(code), None),
        };
        assert_eq!(Trouble::of_store(&store(ffi::SQLITE_CORRUPT)), Trouble::Person(DAMAGED));
        assert_eq!(Trouble::of_store(&StoreError::DiskFull { path: "p".to_owned() }), Trouble::Passes);
    }

    #[test]
    fn an_outage_of_a_disk_is_told_from_a_missing_right_and_a_file_that_was_changed() {
        use io::ErrorKind::{
            InvalidData, IsADirectory, NotADirectory, NotFound, Other, PermissionDenied, QuotaExceeded,
            ReadOnlyFilesystem, StorageFull, TimedOut,
        };
        for kind in [StorageFull, QuotaExceeded, TimedOut, NotFound, Other] {
            assert_eq!(Trouble::of_io(&kind.into()), Trouble::Passes, "{kind}");
        }
        for kind in [PermissionDenied, ReadOnlyFilesystem, NotADirectory] {
            assert!(matches!(Trouble::of_io(&kind.into()), Trouble::Person(_)), "{kind}");
        }
        for kind in [InvalidData, IsADirectory] {
            assert_eq!(Trouble::of_io(&kind.into()), Trouble::File, "{kind}");
        }
    }
}
