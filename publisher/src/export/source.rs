//! A file that is published: read, checked, cut into segments to be packed, in memory that does not grow with it.
//!
//! Unless it is converted, the file that subscribers unpack is the source, byte for byte; a source that is gzip already is
//! unpacked and packed again, because it may have several members, and some readers stop after the first.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, BufReader, Cursor, Read},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;
use waybill_contracts::Format;
use waybill_formats::{
    Charset, Compression, DecodeOptions, EncodeError, RowBatch, RowDecoder, Segment, SegmentWriter, Source, Step,
    WriterOptions, Written,
};

use super::error::ExportError;

const READ_BYTES: usize = 256 * 1024;
/// Where rows end is told so often that segments are not much longer than they should be.
const BATCH_BYTES: usize = 128 << 10;
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// What becomes of the source's rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Treatment {
    /// The same bytes.
    Verbatim,
    /// The same rows in another format. CSV without columns has those of the first rows.
    Convert(Format, Option<Vec<String>>),
}

/// How to read a source and pack it.
#[derive(Debug)]
pub(super) struct Packing {
    /// For errors.
    pub(super) name: String,
    pub(super) format: Format,
    /// As the caller says.
    pub(super) charset: Option<Charset>,
    pub(super) treatment: Treatment,
    pub(super) compression: Compression,
}

/// A file whose bytes are counted as they are read.
#[derive(Debug)]
pub(super) struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Counted {
    /// Opens it, and begins to count at 0. A folder is refused here: opening one succeeds, reading it does not.
    pub(super) fn open(path: &Path, read: Arc<AtomicU64>) -> io::Result<Self> {
        read.store(0, Ordering::Relaxed);
        let file = File::open(path)?;
        if file.metadata()?.is_dir() {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        Ok(Self { file, read })
    }
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.file.read(buffer)?;
        self.read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

/// Nobody takes the segments any more.
#[derive(Debug)]
pub(super) struct Gone;

#[derive(Debug)]
pub(super) enum PackError {
    Export(ExportError),
    Gone,
}

impl From<ExportError> for PackError {
    fn from(error: ExportError) -> Self {
        Self::Export(error)
    }
}

impl Packing {
    /// Reads all of it; `emit` takes segments to be packed, of which `segment_bytes` says how long the next one may become. Blocks its
    /// thread.
    pub(super) fn run(
        self,
        input: impl Read,
        segment_bytes: impl Fn() -> usize,
        mut emit: impl FnMut(Segment) -> Result<(), Gone>,
    ) -> Result<Written, PackError> {
        let options = DecodeOptions::new(Source::of(self.format));
        let decoder = RowDecoder::new(DecodeOptions { charset: self.charset, batch_bytes: BATCH_BYTES, ..options });
        let mut rows = Rows { name: &self.name, decoder, read: 0, plain: 0 };
        let mut target = match &self.treatment {
            Treatment::Verbatim => {
                Target::open(SegmentWriter::new(WriterOptions::Raw, self.compression).telling_row_ends())
            }
            Treatment::Convert(format, columns) => {
                let csv = || columns.clone().map(|columns| WriterOptions::Csv { columns });
                match WriterOptions::of(*format).or_else(csv) {
                    Some(options) => Target::open(SegmentWriter::new(options, self.compression)),
                    None => Target::AwaitsFirstRow(self.compression),
                }
            }
        };
        let convert = self.treatment != Treatment::Verbatim;

        let mut input = plain(input).map_err(|error| rows.unreadable(error))?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let length = match input.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(rows.unreadable(error).into()),
            };
            let chunk = &buffer[..length];
            if rows.plain == 0 && chunk.starts_with(&GZIP) {
                return Err(rows.problem("it is packed twice; unpack it once".to_owned()).into());
            }
            rows.plain += length as u64;
            target.set_segment_bytes(segment_bytes());
            if !convert {
                target.raw(chunk);
            }
            rows.feed(chunk, |batch, recoded| target.batch(&self.name, batch, (convert, recoded)))?;
            while let Some(segment) = target.segment() {
                emit(segment).map_err(|Gone| PackError::Gone)?;
            }
        }
        rows.end(|batch, recoded| target.batch(&self.name, batch, (convert, recoded)))?;
        let (last, written) = target.finish(&self.name)?;
        for segment in last {
            emit(segment).map_err(|Gone| PackError::Gone)?;
        }
        Ok(written)
    }
}

/// The rows of a source that cannot be published, as many as this at most: number and problem. Blocks its thread.
pub(crate) fn bad_rows(
    format: Format,
    target: Option<WriterOptions>,
    mut input: impl Read,
    most: usize,
) -> io::Result<Vec<(u64, String)>> {
    let options = DecodeOptions::new(Source::of(format));
    let mut decoder = RowDecoder::new(DecodeOptions { batch_bytes: BATCH_BYTES, ..options });
    let mut writer = target.map(|options| SegmentWriter::new(options, Compression::None));
    let (mut bad, mut buffer, mut ended) = (Vec::new(), vec![0; READ_BYTES], false);
    while bad.len() < most {
        let batch = match decoder.next().map_err(|error| io::Error::other(error.to_string()))? {
            Step::Done(_) => break,
            Step::Batch(batch) => batch,
            Step::NeedInput if ended => break,
            Step::NeedInput => {
                match input.read(&mut buffer) {
                    Ok(0) => {
                        decoder.end();
                        ended = true;
                    }
                    Ok(length) => decoder.feed(Bytes::copy_from_slice(&buffer[..length])),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
                continue;
            }
        };
        let before = bad.len();
        bad.extend(batch.bad().iter().map(|bad| (bad.row, bad.problem.clone())));
        if let Some(writer) = &mut writer {
            for row in batch.rows() {
                if let Err(error) = writer.copy(&row) {
                    bad.push((row.number(), error.problem().to_owned()));
                }
            }
            while writer.segment().is_some() {}
            bad[before..].sort_by_key(|(row, _)| *row);
        }
    }
    bad.truncate(most);
    Ok(bad)
}

/// The fields of these rows, in the order in which they come: one may only be there in some rows, as the mark of a deletion.
fn columns(batch: &RowBatch) -> Vec<String> {
    let (mut columns, mut known) = (Vec::new(), HashSet::new());
    for row in batch.rows() {
        row.for_each(&mut |column, _| {
            if known.insert(column.as_ref().to_owned()) {
                columns.push(column.into_owned());
            }
        });
    }
    columns
}

/// Where rows go. The columns of CSV may only be known with the first rows.
#[derive(Debug)]
enum Target {
    Open(Box<SegmentWriter>),
    AwaitsFirstRow(Compression),
}

impl Target {
    fn open(writer: SegmentWriter) -> Self {
        Self::Open(Box::new(writer))
    }

    fn set_segment_bytes(&mut self, bytes: usize) {
        if let Self::Open(writer) = self {
            writer.set_segment_bytes(bytes);
        }
    }

    fn raw(&mut self, bytes: &[u8]) {
        if let Self::Open(writer) = self {
            writer.raw(bytes);
        }
    }

    /// Converts the rows, or notes where they end.
    fn batch(&mut self, name: &str, batch: &RowBatch, (convert, recoded): (bool, bool)) -> Result<(), ExportError> {
        if convert {
            return self.copy(name, batch);
        }
        match self {
            Self::Open(writer) if recoded => writer.rows_of_another_charset(batch.last_row()),
            Self::Open(writer) => writer.row_end(batch.end_offset(), batch.last_row()),
            Self::AwaitsFirstRow(_) => {}
        }
        Ok(())
    }

    fn copy(&mut self, name: &str, batch: &RowBatch) -> Result<(), ExportError> {
        if let (Self::AwaitsFirstRow(compression), true) = (&*self, batch.rows().next().is_some()) {
            *self = Self::open(SegmentWriter::new(WriterOptions::Csv { columns: columns(batch) }, *compression));
        }
        let Self::Open(writer) = self else { return Ok(()) };
        for row in batch.rows() {
            writer.copy(&row).map_err(|error: EncodeError| ExportError::Source {
                name: name.to_owned(),
                row: row.number(),
                offset: row.offset(),
                problem: error.problem().to_owned(),
            })?;
        }
        Ok(())
    }

    fn segment(&mut self) -> Option<Segment> {
        match self {
            Self::Open(writer) => writer.segment(),
            Self::AwaitsFirstRow(_) => None,
        }
    }

    /// The last segments, and what was written.
    fn finish(self, name: &str) -> Result<(impl Iterator<Item = Segment>, Written), ExportError> {
        match self {
            Self::Open(writer) => Ok(writer.finish()),
            Self::AwaitsFirstRow(_) => {
                Err(invalid("as", format!("{name} has no row, so its columns are not known; publish it as jsonl")))
            }
        }
    }
}

/// Reads the rows of what passes by, counts them, and refuses a file with a bad one: a publisher does not send what
/// subscribers would have to quarantine.
#[derive(Debug)]
struct Rows<'a> {
    name: &'a str,
    decoder: RowDecoder,
    read: u64,
    plain: u64,
}

impl Rows<'_> {
    fn feed(
        &mut self,
        chunk: &[u8],
        mut batch: impl FnMut(&RowBatch, bool) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        self.decoder.feed(Bytes::copy_from_slice(chunk));
        self.step(&mut batch)
    }

    fn end(mut self, mut batch: impl FnMut(&RowBatch, bool) -> Result<(), ExportError>) -> Result<(), ExportError> {
        self.decoder.end();
        self.step(&mut batch)
    }

    fn step(&mut self, batch: &mut dyn FnMut(&RowBatch, bool) -> Result<(), ExportError>) -> Result<(), ExportError> {
        loop {
            let step = self.decoder.next().map_err(|error| ExportError::Source {
                name: self.name.to_owned(),
                row: error.row,
                offset: error.offset,
                problem: error.problem().to_owned(),
            })?;
            match step {
                Step::NeedInput | Step::Done(_) => return Ok(()),
                Step::Batch(rows) => {
                    if let Some(bad) = rows.bad().first() {
                        return Err(ExportError::Source {
                            name: self.name.to_owned(),
                            row: bad.row,
                            offset: bad.offset,
                            problem: bad.problem.clone(),
                        });
                    }
                    self.read = rows.last_row();
                    batch(&rows, self.decoder.is_of_another_charset())?;
                }
            }
        }
    }

    /// The gzip stream or the disk failed at this place.
    fn unreadable(&mut self, source: io::Error) -> ExportError {
        self.count_what_came();
        match source.kind() {
            io::ErrorKind::UnexpectedEof => self.problem("its gzip stream ends early".to_owned()),
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
                self.problem(format!("its gzip stream is damaged: {source}"))
            }
            _ => ExportError::Read { name: self.name.to_owned(), source },
        }
    }

    /// Rows that came before the failure wait in the decoder still; the error names the row after them.
    fn count_what_came(&mut self) {
        self.decoder.end();
        if let Err(ExportError::Source { row, .. }) = self.step(&mut |_, _| Ok(())) {
            self.read = row.saturating_sub(1);
        }
    }

    fn problem(&self, problem: String) -> ExportError {
        ExportError::Source { name: self.name.to_owned(), row: self.read + 1, offset: self.plain, problem }
    }
}

fn invalid(what: &'static str, problem: String) -> ExportError {
    ExportError::Invalid { what, problem }
}

/// The plain bytes of a source, whether it is gzip or not: its first bytes decide.
fn plain<'a>(mut input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut first = Vec::with_capacity(2);
    input.by_ref().take(2).read_to_end(&mut first)?;
    let is_gzip = first == GZIP;
    let whole = Cursor::new(first).chain(input);
    if is_gzip {
        Ok(Box::new(MultiGzDecoder::new(BufReader::with_capacity(READ_BYTES, whole))))
    } else {
        Ok(Box::new(whole))
    }
}
