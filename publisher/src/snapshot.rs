//! A full export: all rows of a type as they are at one place of its sequence, in parts.
//!
//! The place is fixed first: the last number that a file of the type has. Whatever is read afterwards holds the effect of all
//! files up to there, so its rows count as newer than theirs, and as older than those of files that get their number later.
//! Parts are staged while rows come, and nothing of them is committed before the last one is: only then it is known how many
//! there are. A crash before that leaves nothing; a crash while they are committed leaves parts of a full export that nobody
//! calls complete, and the next try makes another one.

use std::{
    io::{self, BufRead, BufReader, Read},
    num::NonZeroU64,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use serde::Serialize;
use tokio_util::io::{StreamReader, SyncIoBridge};
use waybill_contracts::{Format, Snapshot};
use waybill_formats::{Field, Row};

use crate::{
    change_log::{ChangeLog, TableRows},
    export::{ExportBuilder, ExportError, ExportWriter, Exported, Staged},
    outbox::{ExportRow, Outbox, OutboxError, SqliteOutbox, State},
    tasks::blocking,
};

/// Longest id: there is room for the number of a further try behind it.
const ID_CHARACTERS_MAX: usize = 120;

/// How a full export is cut into parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// Rows of a part at most; default 1,000,000.
    pub max_rows: NonZeroU64,
    /// The row with which a part's plain text reaches so many bytes is its last; default 256 MiB.
    pub max_bytes: NonZeroU64,
    /// The place of the rows, where they were read before this began: the last number that a file of the type had then.
    /// Default: the last number now, for rows that are read from now on.
    pub as_of: Option<u64>,
}

impl Default for SnapshotOptions {
    fn default() -> Self {
        Self {
            max_rows: NonZeroU64::new(1_000_000).expect("it is not 0"),
            max_bytes: NonZeroU64::new(256 << 20).expect("it is not 0"),
            as_of: None,
        }
    }
}

/// Writes a full export: rows go in, and [`finish`](Self::finish) makes all parts durable. Dropped before that, nothing of it is
/// published.
///
/// When a full export with this id was made before, the writer takes rows and drops them, and `finish` answers with that one:
/// [`already_exported`](Self::already_exported) tells in time.
#[must_use = "nothing is published before `finish`"]
pub struct SnapshotWriter<O: Outbox = SqliteOutbox>(Writing<O>);

enum Writing<O: Outbox> {
    New(Box<Open<O>>),
    Known(Vec<Exported>),
}

struct Open<O: Outbox> {
    /// What each part is made with.
    part: ExportBuilder<O>,
    id: String,
    as_of: u64,
    options: SnapshotOptions,
    staged: Vec<Staged<O>>,
    /// The part that grows.
    writer: Option<ExportWriter<O>>,
    failed: bool,
}

impl<O: Outbox> SnapshotWriter<O> {
    pub(crate) async fn begin(part: ExportBuilder<O>, id: &str, options: SnapshotOptions) -> Result<Self, ExportError> {
        let context = part.context();
        let characters = id.chars().count();
        if !(1..=ID_CHARACTERS_MAX).contains(&characters) {
            let problem = format!("it has {characters} characters; it needs 1 to {ID_CHARACTERS_MAX}");
            return Err(ExportError::Invalid { what: "snapshot", problem });
        }
        let failed = |source| ExportError::Outbox { export_id: id.to_owned(), source };
        let last = context.outbox.last_number(&context.publisher, part.blob_type()).await.map_err(failed)?;
        let as_of = options.as_of.unwrap_or(last);
        if as_of > last {
            let problem = format!("{as_of} is no number of {} yet; the last one is {last}", part.blob_type().as_str());
            return Err(ExportError::Invalid { what: "as_of", problem });
        }
        let mut tried = id.to_owned();
        for further in 2.. {
            let parts = context.outbox.parts(&context.publisher, part.blob_type(), &tried).await.map_err(failed)?;
            if parts.is_empty() {
                break;
            }
            if is_whole(&parts) {
                return Ok(Self(Writing::Known(parts.iter().map(|row| Exported::of(row, true)).collect())));
            }
            tried = format!("{id}.{further}");
        }
        let (staged, writer) = (Vec::new(), None);
        Ok(Self(Writing::New(Box::new(Open { part, id: tried, as_of, options, staged, writer, failed: false }))))
    }

    /// The parts of a full export with this id that was made before, if there is one.
    #[must_use]
    pub fn already_exported(&self) -> Option<&[Exported]> {
        match &self.0 {
            Writing::New(_) => None,
            Writing::Known(parts) => Some(parts),
        }
    }

    /// The place of its rows: the last number that they hold the effect of.
    #[must_use]
    pub fn as_of(&self) -> u64 {
        match &self.0 {
            Writing::New(open) => open.as_of,
            Writing::Known(parts) => {
                parts.iter().filter_map(|part| part.snapshot.as_ref()).map(|of| of.as_of).max().unwrap_or(0)
            }
        }
    }

    /// Writes a row of names and values.
    ///
    /// # Errors
    /// As [`ExportWriter::row`].
    pub async fn row(&mut self, fields: &[(&str, Field<'_>)]) -> Result<(), ExportError> {
        let Writing::New(open) = &mut self.0 else { return Ok(()) };
        open.growing().await?.row(fields).await?;
        open.cut().await
    }

    /// Writes a row that was read from another file, in this one's format.
    ///
    /// # Errors
    /// As [`ExportWriter::row`].
    pub async fn copy(&mut self, row: &Row<'_>) -> Result<(), ExportError> {
        let Writing::New(open) = &mut self.0 else { return Ok(()) };
        open.growing().await?.copy(row).await?;
        open.cut().await
    }

    /// Writes a value that serialises as a JSON object. Convenient, and slower than [`SnapshotWriter::row`].
    ///
    /// # Errors
    /// As [`ExportWriter::serialize`].
    pub async fn serialize<T: Serialize>(&mut self, row: &T) -> Result<(), ExportError> {
        let Writing::New(open) = &mut self.0 else { return Ok(()) };
        open.growing().await?.serialize(row).await?;
        open.cut().await
    }

    /// Takes what a reader gives as a part of its own, as [`ExportBuilder::reader`] does: the same bytes, unless they are
    /// converted. `name` stands for it in errors.
    ///
    /// # Errors
    /// As [`ExportBuilder::reader`].
    pub async fn reader(
        &mut self,
        name: &str,
        format: Format,
        reader: impl Read + Send + 'static,
    ) -> Result<(), ExportError> {
        let Writing::New(open) = &mut self.0 else { return Ok(()) };
        open.end_part().await?;
        open.stage(name, format, reader).await
    }

    /// Takes a file as a part of its own, as [`ExportBuilder::file`] does.
    ///
    /// # Errors
    /// As [`ExportBuilder::file`].
    pub async fn file(&mut self, path: &Path) -> Result<(), ExportError> {
        let Writing::New(open) = &mut self.0 else { return Ok(()) };
        open.end_part().await?;
        let staging = open.part.again().stage_file(path);
        open.keep(staging).await
    }

    /// Takes all rows of a table of the service, as its triggers log them, from the database that the change log is in: as they
    /// are in one moment, however long it takes.
    ///
    /// # Errors
    /// [`ExportError::Read`] for a table that is not there or cannot be read; as [`ExportBuilder::reader`].
    pub async fn table(&mut self, log: &ChangeLog, table: &str) -> Result<(), ExportError> {
        let Writing::New(open) = &mut self.0 else { return Ok(()) };
        open.end_part().await?;
        open.table(log, table).await
    }

    /// Ends the full export: when this returns, every part is durable, as an export is. Without a row there is one empty part: a
    /// full export says that there is nothing else.
    ///
    /// # Errors
    /// As [`ExportWriter::finish`]. Parts that were committed before are published, and no subscriber takes them for all;
    /// begun again with the same id, another full export is made.
    pub async fn finish(self) -> Result<Vec<Exported>, ExportError> {
        match self.0 {
            Writing::Known(parts) => Ok(parts),
            Writing::New(open) => open.finish().await,
        }
    }
}

/// Whether all parts are there and were not given up.
fn is_whole(parts: &[ExportRow]) -> bool {
    let live = parts.iter().filter(|row| matches!(row.state, State::Uploaded | State::Sent)).count() as u64;
    parts.first().and_then(|row| row.snapshot.as_ref()).is_some_and(|snapshot| snapshot.of == live)
}

impl<O: Outbox> Open<O> {
    async fn growing(&mut self) -> Result<&mut ExportWriter<O>, ExportError> {
        if self.failed {
            return Err(ExportError::Failed { export_id: self.id.clone() });
        }
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => self.part.again().start().await?,
        };
        Ok(self.writer.insert(writer))
    }

    /// Keeps a part once it is staged. One that is lost must not be missed in silence: until then nothing can be finished.
    async fn keep(&mut self, staging: impl Future<Output = Result<Staged<O>, ExportError>>) -> Result<(), ExportError> {
        self.failed = true;
        self.staged.push(staging.await?);
        self.failed = false;
        Ok(())
    }

    async fn stage(
        &mut self,
        name: &str,
        format: Format,
        reader: impl Read + Send + 'static,
    ) -> Result<(), ExportError> {
        let staging = self.part.again().stage(name.to_owned(), format, move || Ok(reader));
        self.keep(staging).await
    }

    async fn table(&mut self, log: &ChangeLog, table: &str) -> Result<(), ExportError> {
        self.failed = true;
        let name = format!("table {table}");
        let unreadable = |source: io::Error| ExportError::Read { name: name.clone(), source };
        let TableRows { columns, rows } =
            log.rows_of(table).await.map_err(|error| unreadable(io::Error::other(error)))?;
        self.part.columns_of(columns);
        let lines = Lines(Arc::new(Mutex::new(BufReader::new(SyncIoBridge::new(StreamReader::new(rows))))));
        while !lines.at_end().await.map_err(unreadable)? {
            self.stage(&name, Format::JsonLines, lines.part(&self.options)).await?;
            // What is still to be read may fail as well.
            self.failed = true;
        }
        self.failed = false;
        Ok(())
    }

    /// Ends the part that grows, if it is large enough.
    async fn cut(&mut self) -> Result<(), ExportError> {
        let (rows, bytes) = self.writer.as_ref().map_or((0, 0), ExportWriter::size);
        if rows >= self.options.max_rows.get() || bytes >= self.options.max_bytes.get() {
            self.end_part().await?;
        }
        Ok(())
    }

    async fn end_part(&mut self) -> Result<(), ExportError> {
        if self.failed {
            return Err(ExportError::Failed { export_id: self.id.clone() });
        }
        match self.writer.take() {
            Some(writer) => self.keep(writer.stage()).await,
            None => Ok(()),
        }
    }

    async fn finish(mut self) -> Result<Vec<Exported>, ExportError> {
        if self.staged.is_empty() {
            self.growing().await?;
        }
        self.end_part().await?;
        let of = self.staged.len() as u64;
        let mut parts = Vec::with_capacity(self.staged.len());
        for (part, staged) in (1..).zip(self.staged) {
            let snapshot = Snapshot { id: self.id.clone(), part, of, as_of: self.as_of };
            parts.push(staged.commit(Some(snapshot)).await.map_err(|error| of_the_whole(error, &self.id))?);
        }
        tracing::info!(snapshot = self.id, parts = of, as_of = self.as_of, "a full export is made");
        Ok(parts)
    }
}

/// Somebody else who makes the same full export has taken over, not another try at this part, whose id nobody knows.
fn of_the_whole(error: ExportError, id: &str) -> ExportError {
    match error {
        ExportError::Outbox { source: OutboxError::Overtaken { .. }, .. } => {
            let export_id = id.to_owned();
            ExportError::Outbox { source: OutboxError::Overtaken { export_id: export_id.clone() }, export_id }
        }
        error => error,
    }
}

/// Lines that several parts are read from, one after the other.
struct Lines<R>(Arc<Mutex<R>>);

impl<R: BufRead + Send + 'static> Lines<R> {
    async fn at_end(&self) -> io::Result<bool> {
        let lines = Arc::clone(&self.0);
        blocking(move || {
            let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.fill_buf().map(<[u8]>::is_empty)
        })
        .await
    }

    /// The next lines, as many as a part has.
    fn part(&self, options: &SnapshotOptions) -> PartOfLines<R> {
        let (rows_left, bytes_left) = (options.max_rows.get(), options.max_bytes.get());
        PartOfLines { lines: Arc::clone(&self.0), rows_left, bytes_left }
    }
}

struct PartOfLines<R> {
    lines: Arc<Mutex<R>>,
    rows_left: u64,
    /// The line that passes them is the last one; 0 once it was read.
    bytes_left: u64,
}

impl<R: BufRead> Read for PartOfLines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rows_left == 0 {
            return Ok(0);
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let mut there = lines.fill_buf()?;
        there = there.get(..buffer.len()).unwrap_or(there);
        let mut length = there.len();
        for at in memchr::memchr_iter(b'\n', there) {
            self.rows_left -= 1;
            if at as u64 + 1 >= self.bytes_left {
                self.rows_left = 0;
            }
            if self.rows_left == 0 {
                length = at + 1;
                break;
            }
        }
        self.bytes_left = self.bytes_left.saturating_sub(length as u64);
        buffer.get_mut(..length).expect("as long as it is").copy_from_slice(there.get(..length).expect("as long"));
        lines.consume(length);
        Ok(length)
    }
}

impl<O: Outbox> std::fmt::Debug for SnapshotWriter<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Writing::New(open) => f.debug_struct("SnapshotWriter").field("id", &open.id).finish_non_exhaustive(),
            Writing::Known(parts) => f.debug_struct("SnapshotWriter").field("already_exported", parts).finish(),
        }
    }
}
