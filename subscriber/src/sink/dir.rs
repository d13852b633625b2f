//! A folder of files: one file for each file of rows, of JSON Lines or in another format.
//!
//! ```text
//! PATH/ItemChanges~1/export=3A8f25….jsonl        rows, under their final name once all are there
//! PATH/ItemChanges~1/export=3A8f25…+bad.jsonl    rows that are not of their format, or that the filter cannot judge
//! PATH/.waybill/progress.sqlite                 how far each file has come
//! PATH/.waybill/parts/                          files that are not complete yet
//! ```
//!
//! Names are [`FileName`]s, so a blobType or a file's identity can be any text.
//!
//! Rows that a filter does not want are left out; what an earlier file holds of them stays there.
//!
//! Each row of a file stands in its JSON Lines file once. Rows are written behind what progress says is there, synced, and
//! then progress is committed: what a crash leaves beyond it is cut off. The file is moved to its final name after progress
//! says that it is done, and at the next start if a crash came in between; so whoever takes finished files away never gets
//! one twice. For another format the whole file is converted before it is moved: so every commit is an append, whatever the
//! format. One process converts a file, which holds a lock on it meanwhile. Rows that the format cannot carry join the bad ones.

mod convert;

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Seek, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use waybill_contracts::{FileName, Format};
use waybill_store::{
    Migration, Schema, Sqlite, SqliteOptions, StoreError,
    rusqlite::{self, Connection, OptionalExtension, Transaction},
};

use super::{
    Applied, EntityBatch, Guarantee, Progress, Sink, SinkError, SinkOpenError, WaitsEnded, WholeFiles, lines::Lines,
    trouble::Trouble,
};
use crate::{FileKey, tasks::blocking};

const SCHEMA: Schema = Schema {
    application_id: 0x5742_4449, // "WBDI"
    name: "folder sink",
    migrations: &[
        Migration { name: "progress", sql: include_str!("dir_0001.sql") },
        Migration { name: "filtered rows are counted", sql: include_str!("dir_0002.sql") },
        Migration { name: "the format of each file", sql: include_str!("dir_0003.sql") },
    ],
    shared_with_user: false,
};

/// A folder of files. Clones share it; several processes may use one folder.
#[derive(Debug, Clone)]
pub struct DirSink {
    folder: Arc<Path>,
    format: DirFormat,
    store: Sqlite,
}

/// In which format files are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirFormat {
    /// In this one.
    Of(Format),
    /// Each in the format that it came in.
    Same,
}

/// What a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DirTotals {
    /// Files that are done.
    pub files: u64,
    /// Rows of all files, also of those that are not done yet.
    pub rows: u64,
    /// Rows that are not of their format, or of which the filter cannot say whether it wants them.
    pub bad_rows: u64,
    /// Rows that the filter did not want.
    pub filtered_rows: u64,
}

/// How far a file has come.
#[derive(Debug, Clone, Copy, Default)]
struct State {
    rows: u64,
    done: bool,
    good_rows: u64,
    bad_rows: u64,
    filtered_rows: u64,
    good_bytes: u64,
    bad_bytes: u64,
}

impl State {
    fn progress(&self) -> Progress {
        let bad = self.rows.saturating_sub(self.good_rows + self.filtered_rows);
        Progress { rows: self.rows, done: self.done, bad, filtered: self.filtered_rows, trail: None }
    }
}

/// Where the files of a file of rows lie.
struct Places {
    folder: PathBuf,
    final_folder: PathBuf,
    name: String,
}

/// Why a job was given up.
enum Failure {
    Fenced { found: Progress },
    File { path: PathBuf, error: io::Error },
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Database(error)
    }
}

impl DirSink {
    /// Opens or makes a folder of JSON Lines files.
    ///
    /// # Errors
    /// [`SinkOpenError`]: the folder cannot be made, its progress cannot be read, or finished files cannot be moved into it.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, SinkOpenError> {
        Self::open_as(path, DirFormat::Of(Format::JsonLines)).await
    }

    /// Opens or makes a folder of files in another format.
    ///
    /// # Errors
    /// As [`DirSink::open`].
    pub async fn open_as(path: impl Into<PathBuf>, format: DirFormat) -> Result<Self, SinkOpenError> {
        let folder: Arc<Path> = path.into().into();
        let name = format!("dir:{}", folder.display());
        let in_file = |path: &Path, error: &io::Error| not_usable(&name, path, error);
        let made = Arc::clone(&folder);
        let open = move || {
            let parts = made.join(".waybill").join("parts");
            fs::create_dir_all(&parts).map_err(|error| (parts, error))?;
            Ok::<_, (PathBuf, io::Error)>(Sqlite::open(
                &made.join(".waybill").join("progress.sqlite"),
                &SCHEMA,
                SqliteOptions::default(),
            ))
        };
        let opened = blocking(open).await.ok_or_else(|| SinkOpenError::closing(&name))?;
        let sink = Self { folder, format, store: opened.map_err(|(path, error)| in_file(&path, &error))?? };
        let folder = Arc::clone(&sink.folder);
        let moved = sink.store.write(move |tx| move_finished(tx, &folder)).await;
        match moved {
            Ok(Ok(())) => Ok(sink),
            Ok(Err(Failure::File { path, error })) => Err(in_file(&path, &error)),
            Ok(Err(Failure::Database(error))) => Err(SinkOpenError::of_store(&name, &sink.store.error(error))),
            Ok(Err(failure @ Failure::Fenced { .. })) => Err(SinkOpenError::of(&name, sink.problem(failure), false)),
            Err(error) => Err(SinkOpenError::of_store(&name, &error)),
        }
    }

    /// Whether [`DirSink::open`] would do in a folder that is there: writes a file without a name, and nothing that stays.
    ///
    /// # Errors
    /// As [`DirSink::open`].
    pub async fn check(path: impl Into<PathBuf>) -> Result<(), SinkOpenError> {
        let folder = path.into();
        let name = format!("dir:{}", folder.display());
        let check = move || {
            tempfile::tempfile_in(&folder).map_err(|error| (folder.clone(), error))?;
            let progress = folder.join(".waybill").join("progress.sqlite");
            Ok(if progress.exists() {
                Sqlite::rehearse(&progress, &SCHEMA, &SqliteOptions::default(), |_| ())
            } else {
                Ok(())
            })
        };
        let checked = blocking(check).await.ok_or_else(|| SinkOpenError::closing(&name))?;
        Ok(checked.map_err(|(path, error)| not_usable(&name, &path, &error))??)
    }

    /// Figures for a summary.
    ///
    /// # Errors
    /// [`SinkError::Unavailable`].
    pub async fn totals(&self) -> Result<DirTotals, SinkError> {
        let sql = "SELECT coalesce(sum(done), 0), coalesce(sum(good_rows), 0), coalesce(sum(bad_rows), 0),
                 coalesce(sum(filtered_rows), 0) FROM progress";
        let read = self.store.read(move |connection| {
            connection.query_row(sql, [], |row| {
                let count = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
                Ok(DirTotals { files: count(0)?, rows: count(1)?, bad_rows: count(2)?, filtered_rows: count(3)? })
            })
        });
        read.await.map_err(|error| self.unavailable(error.to_string()))
    }

    /// Ends the writer. Clones fail from then on.
    pub async fn close(&self) {
        self.store.close().await;
    }

    fn problem(&self, failure: Failure) -> String {
        match failure {
            Failure::Fenced { found } => format!("progress is {found}"),
            Failure::File { path, error } => format!("{}: {error}", path.display()),
            Failure::Database(error) => self.store.error(error).to_string(),
        }
    }

    fn unavailable(&self, problem: String) -> SinkError {
        SinkError::Unavailable { sink: self.name(), problem }
    }

    fn name(&self) -> String {
        format!("dir:{}", self.folder.display())
    }

    /// What the database with the files' progress said.
    fn not_kept(&self, error: &StoreError) -> SinkError {
        Trouble::of_store(error).of_all().error(self.name(), error.to_string())
    }

    fn failed(&self, failure: Failure, file: &FileKey, expected: u64) -> SinkError {
        let trouble = match &failure {
            Failure::Fenced { found } => {
                return SinkError::Fenced { file: file.as_str().to_owned(), expected, found: *found };
            }
            Failure::File { error, .. } => Trouble::of_io(error),
            Failure::Database(error) => Trouble::of_sqlite(error).of_all(),
        };
        trouble.error(self.name(), self.problem(failure))
    }
}

fn not_usable(sink: &str, path: &Path, error: &io::Error) -> SinkOpenError {
    let passes = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    SinkOpenError::of(sink, format!("{}: {error}", path.display()), passes)
}

impl Sink for DirSink {
    /// Of each row in its file; a program that reads finished files twice is on its own.
    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    async fn progress(&self, file: &FileKey) -> Result<Progress, SinkError> {
        let file = file.as_str().to_owned();
        let state = self.store.read(move |connection| state(connection, &file)).await;
        Ok(state.map_err(|error| self.not_kept(&error))?.progress())
    }

    /// A file comes to its place once it is complete.
    fn whole_files(&self) -> WholeFiles {
        WholeFiles::Always
    }

    async fn end_waits(&self) -> Result<WaitsEnded, SinkError> {
        Ok(WaitsEnded::default())
    }

    /// # Cancel safety
    /// Dropping the future does not stop the write: ask [`Sink::progress`] before going on.
    async fn apply(&self, file: &FileKey, from: u64, batch: EntityBatch) -> Result<Applied, SinkError> {
        let (blob_type, to, done) = (Arc::clone(&batch.blob_type), batch.to, batch.end.is_some());
        let format = match self.format {
            DirFormat::Of(format) => format,
            DirFormat::Same => batch.format,
        };
        let Some(lines) = blocking(move || Lines::of(&batch, from)).await else {
            return Err(self.unavailable("the program is ending".to_owned()));
        };
        let applied = lines.applied();
        let (key, folder) = (file.as_str().to_owned(), Arc::clone(&self.folder));
        let places = Places::new(&folder, &blob_type, &key);
        // Within the transaction, so that two workers of one file do not write into each other.
        let write = move |tx: &Transaction<'_>| {
            let known = state(tx, &key)?;
            if known.rows != from || known.done {
                return Err(Failure::Fenced { found: known.progress() });
            }
            let places = Places::new(&folder, &blob_type, &key);
            let next = State {
                rows: to,
                done,
                good_rows: known.good_rows + lines.good_rows,
                bad_rows: known.bad_rows + lines.bad_rows,
                filtered_rows: known.filtered_rows + lines.filtered_rows,
                good_bytes: append(&places.part(GOOD), known.good_bytes, &lines.good)?,
                bad_bytes: match known.bad_bytes + lines.bad_rows {
                    0 => 0,
                    _ => append(&places.part(BAD), known.bad_bytes, &lines.bad)?,
                },
            };
            sync_folder(&places.folder)?;
            advance(tx, &key, &blob_type, format, &next)?;
            Ok(next.bad_bytes)
        };
        let bad_bytes = match self.store.write(write).await {
            Ok(Ok(bad_bytes)) => bad_bytes,
            Ok(Err(failure)) => return Err(self.failed(failure, file, from)),
            Err(error) => return Err(self.not_kept(&error)),
        };
        if done {
            // Progress stands: what fails now is made good at the next start.
            let moved = blocking(move || places.finish(format, bad_bytes)).await;
            if let Some(Err(failure)) = moved {
                tracing::warn!(problem = self.problem(failure), "a finished file waits to be moved to its place");
            }
        }
        Ok(applied)
    }
}

const GOOD: &str = ".jsonl";
/// In another format, before it is moved.
const MADE: &str = "+made";
const BAD: &str = "+bad.jsonl"; // no FileName holds a plus, so this is no other file's name

impl Places {
    fn new(folder: &Path, blob_type: &str, file: &str) -> Self {
        Self {
            folder: folder.join(".waybill").join("parts"),
            final_folder: folder.join(FileName::encode(blob_type).as_str()),
            name: FileName::encode(file).as_str().to_owned(),
        }
    }

    fn part(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{}{kind}", self.name))
    }

    /// Moves the files to their final names; those that were moved before are passed over.
    fn finish(&self, format: Format, bad_bytes: u64) -> Result<(), Failure> {
        let failed = |path: &Path, error| Failure::File { path: path.to_owned(), error };
        let good = match format {
            Format::JsonLines => GOOD,
            _ if self.convert(format, bad_bytes)? => MADE,
            _ => return Ok(()),
        };
        fs::create_dir_all(&self.final_folder).map_err(|error| failed(&self.final_folder, error))?;
        // Whoever sees the rows finds the bad ones beside them.
        for (kind, name) in [(BAD, BAD.to_owned()), (good, format!(".{}", format.suffix()))] {
            let part = self.part(kind);
            match fs::rename(&part, self.final_folder.join(format!("{}{name}", self.name))) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(&part, error)),
            }
        }
        sync_folder(&self.final_folder)
    }

    /// Makes the file in its format, unless another process is at it (`false`), which then moves it too. While the lines are there,
    /// it may be half made; once they are gone it is whole.
    fn convert(&self, format: Format, bad_bytes: u64) -> Result<bool, Failure> {
        let (lines, made, bad) = (self.part(GOOD), self.part(MADE), self.part(BAD));
        let failed = |error| Failure::File { path: lines.clone(), error };
        let file = match OpenOptions::new().read(true).write(true).open(&lines) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            opened => opened.map_err(failed)?,
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(false),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Whoever held it when this one was opened has made the file.
        if !lines.exists() {
            return Ok(true);
        }
        let mut unfit = None;
        let converted = convert::convert(&file, &made, format, |lines| {
            let beside = match &mut unfit {
                Some(beside) => beside,
                None => unfit.insert(open_behind(&bad, bad_bytes)?),
            };
            beside.write_all(lines)
        });
        converted.and_then(|()| unfit.map_or(Ok(()), |beside| beside.sync_data())).map_err(failed)?;
        sync_folder(&self.folder)?;
        fs::remove_file(&lines).map_err(failed)?;
        sync_folder(&self.folder)?;
        Ok(true)
    }
}

/// Moves what was done but not moved when the last run ended.
fn move_finished(tx: &Transaction<'_>, folder: &Path) -> Result<(), Failure> {
    let parts = folder.join(".waybill").join("parts");
    let failed = |error| Failure::File { path: parts.clone(), error };
    if fs::read_dir(&parts).map_err(failed)?.next().is_none() {
        return Ok(());
    }
    let mut statement = tx.prepare("SELECT file, blob_type, format, bad_bytes FROM progress WHERE done")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (file, blob_type, format): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let places = Places::new(folder, &blob_type, &file);
        if [GOOD, MADE, BAD].iter().any(|kind| places.part(kind).exists()) {
            let format = Format::from_suffix(&format).unwrap_or(Format::JsonLines);
            places.finish(format, row.get::<_, i64>(3)?.cast_unsigned())?;
        }
    }
    Ok(())
}

/// Writes behind the first `length` bytes, which are known to be good, and syncs. Returns the new length.
fn append(path: &Path, length: u64, text: &[u8]) -> Result<u64, Failure> {
    let write = || -> io::Result<u64> {
        let mut file = open_behind(path, length)?;
        file.write_all(text)?;
        file.sync_data()?;
        Ok(length + text.len() as u64)
    };
    write().map_err(|error| Failure::File { path: path.to_owned(), error })
}

/// Opens or makes a file to write behind its first `length` bytes; what is there behind them is cut off.
fn open_behind(path: &Path, length: u64) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    if file.metadata()?.len() < length {
        let problem = format!("it is shorter than the {length} bytes that were written; was it changed by hand?");
        return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
    }
    file.set_len(length)?;
    file.seek(SeekFrom::End(0))?;
    Ok(file)
}

/// A new name is on disk once its folder is.
fn sync_folder(path: &Path) -> Result<(), Failure> {
    let sync = || if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) };
    sync().map_err(|error: io::Error| Failure::File { path: path.to_owned(), error })
}

fn state(connection: &Connection, file: &str) -> rusqlite::Result<State> {
    let sql = "SELECT rows, done, good_rows, bad_rows, good_bytes, bad_bytes, filtered_rows
               FROM progress WHERE file = ?1";
    let known = connection.prepare_cached(sql)?.query_row([file], |row| {
        let count = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
        Ok(State {
            rows: count(0)?,
            done: row.get(1)?,
            good_rows: count(2)?,
            bad_rows: count(3)?,
            good_bytes: count(4)?,
            bad_bytes: count(5)?,
            filtered_rows: count(6)?,
        })
    });
    known.optional().map(Option::unwrap_or_default)
}

fn advance(tx: &Transaction<'_>, file: &str, blob_type: &str, format: Format, state: &State) -> rusqlite::Result<()> {
    let sql =
        "INSERT INTO progress (file, blob_type, rows, done, good_rows, bad_rows, good_bytes, bad_bytes, filtered_rows, format)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
               ON CONFLICT (file) DO UPDATE SET rows = excluded.rows, done = excluded.done,
                   good_rows = excluded.good_rows, bad_rows = excluded.bad_rows, good_bytes = excluded.good_bytes,
                   bad_bytes = excluded.bad_bytes, filtered_rows = excluded.filtered_rows, format = excluded.format";
    tx.prepare_cached(sql)?.execute((
        file,
        blob_type,
        state.rows.cast_signed(),
        state.done,
        state.good_rows.cast_signed(),
        state.bad_rows.cast_signed(),
        state.good_bytes.cast_signed(),
        state.bad_bytes.cast_signed(),
        state.filtered_rows.cast_signed(),
        format.suffix(),
    ))?;
    Ok(())
}
