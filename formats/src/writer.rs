//! Rows in, bytes of a file out, compressed or not, in chunks as they become ready.
//!
//! Rows are collected in one buffer, which becomes a segment whenever it is full, and is packed: here by [`RowWriter`], or
//! wherever the owner of a [`SegmentWriter`] likes. Nothing is allocated per row.

use std::{collections::VecDeque, mem};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use waybill_contracts::Format;

pub use crate::gzip::segment::{FileAssembler, Finished, PackedSegment, Segment, Written};
use crate::{Field, FieldPath, Row, encode::Encoder};

/// How the file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// One gzip member, `mtime` 0, of segments that readers may inflate beside each other; zlib level 1–9 (default of the
    /// callers: 4).
    Gzip(u32),
}

/// The layout to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriterOptions {
    /// A JSON object per line.
    JsonLines,
    /// A JSON array of objects, a line each.
    Json,
    /// RFC 4180 with a header row; null is bare, "" is quoted; an object or array is its JSON as text; `\n` line ends. In a file of one column a null is a blank
    /// line: this crate reads it back, other readers may pass over it.
    Csv {
        /// The columns: at least one, distinct, none empty; otherwise every row is refused. A row's other fields are an
        /// error; a column that the row lacks is null.
        columns: Vec<String>,
    },
    /// An XML document, a line per row. Every field is an element, `@name` an attribute, `#text` the row's own text; an
    /// object holds elements, a list repeats its element, null is `xsi:nil`. Lost are what is text anyway (numbers, true and
    /// false), that a list of one is a list, empty lists and objects, null attributes, and `#text` that is only white space.
    Xml {
        /// The name of the document's element; by custom `rows`.
        root: String,
        /// The name of each row's element; by custom `row`.
        row: String,
    },
    /// An XML element per line, as in [`WriterOptions::Xml`].
    XmlLines {
        /// The name of each row's element; by custom `row`.
        row: String,
    },
    /// Bytes as they are: for files that are published unchanged. Rows are counted by nobody.
    Raw,
}

impl WriterOptions {
    /// How a format is written by custom: in XML `rows` around each `row`. `None` for CSV, which needs its columns.
    #[must_use]
    pub fn of(format: Format) -> Option<Self> {
        match format {
            Format::JsonLines => Some(Self::JsonLines),
            Format::Json => Some(Self::Json),
            Format::Csv => None,
            Format::Xml => Some(Self::Xml { root: "rows".to_owned(), row: "row".to_owned() }),
            Format::XmlLines => Some(Self::XmlLines { row: "row".to_owned() }),
        }
    }
}

/// Rows to the segments of a file, which are packed elsewhere: see [`Segment`]. Holds the segment that grows (1 MiB and
/// a row), and those that were not taken.
#[derive(Debug)]
pub struct SegmentWriter {
    encoder: Encoder,
    compression: Compression,
    rows: u64,
    /// Rows of the segments before the one that grows.
    rows_before: u64,
    cut: VecDeque<Segment>,
    /// Bytes of those that were cut.
    plain_bytes: u64,
    plain_sha256: Sha256,
    /// Somebody tells where rows end in raw bytes.
    told: bool,
    /// See [`SegmentWriter::set_segment_bytes`].
    segment_bytes: usize,
}

/// Writes one file, and packs it as it is written. Holds what is ready and was not taken ([`RowWriter::take`]), beside it a
/// segment of 1 MiB and a row, plain and packed.
#[derive(Debug)]
pub struct RowWriter {
    segments: SegmentWriter,
    assembler: FileAssembler,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterStats {
    /// Rows; 0 for raw bytes.
    pub rows: u64,
    /// Before compression.
    pub plain_bytes: u64,
    /// After it.
    pub stored_bytes: u64,
    /// SHA-256 of the plain bytes.
    pub plain_sha256: [u8; 32],
    /// SHA-256 of the stored bytes. `None` when a part was taken before the file's first bytes, which are known last, were.
    pub sha256: Option<[u8; 32]>,
}

/// A row that cannot be written. Nothing of it was, and others can still be.
#[derive(Debug, thiserror::Error)]
#[error("row {row}: {problem}")]
pub struct EncodeError {
    /// 1-based.
    pub row: u64,
    pub(crate) problem: String,
}

impl EncodeError {
    /// What is wrong, without the place.
    #[must_use]
    pub fn problem(&self) -> &str {
        &self.problem
    }
}

/// Plain bytes of a segment, up to the end of the row that passes them.
const SEGMENT_BYTES: usize = 1 << 20;
/// Twice as much as deflate looks back.
const SEGMENT_BYTES_MIN: usize = 64 << 10;
/// Plain bytes that are held until a row's end is told: more than the longest row and what is read with it. Longer stretches are
/// white space or comments.
const HELD_BYTES_MAX: usize = 32 << 20;

impl SegmentWriter {
    /// Begins a file.
    #[must_use]
    pub fn new(options: WriterOptions, compression: Compression) -> Self {
        Self {
            encoder: Encoder::new(options),
            compression,
            rows: 0,
            rows_before: 0,
            cut: VecDeque::new(),
            plain_bytes: 0,
            plain_sha256: Sha256::new(),
            told: false,
            segment_bytes: SEGMENT_BYTES,
        }
    }

    /// Has segments end after so many plain bytes and the row that passes them, from the one that grows on; default 1 MiB, which is the most.
    /// Shorter ones take less memory, and pack a little worse: each begins without what stands before it. Less than 64 KiB are taken for so many.
    pub fn set_segment_bytes(&mut self, bytes: usize) {
        self.segment_bytes = bytes.clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES);
    }

    /// Writes a row of names and values. [`Field::Missing`] is left out (in CSV: null).
    ///
    /// # Errors
    /// A repeated name, a field that is no column, a number or a nested value that is not JSON; in XML a name that no element
    /// can have, a list in a list, and characters that XML cannot carry.
    pub fn row(&mut self, fields: &[(&str, Field<'_>)]) -> Result<(), EncodeError> {
        let written = self.encoder.row(fields);
        self.wrote_row(written)
    }

    /// Writes a row that was read, in this file's layout. JSON to JSON: the same bytes, but for line breaks between tokens.
    /// With repeated names in JSON the first one goes to CSV and XML.
    ///
    /// # Errors
    /// As [`SegmentWriter::row`].
    pub fn copy(&mut self, row: &Row<'_>) -> Result<(), EncodeError> {
        let written = self.encoder.copy(row);
        self.wrote_row(written)
    }

    fn wrote_row(&mut self, written: Result<(), String>) -> Result<(), EncodeError> {
        let row = self.rows + 1;
        written.map_err(|problem| EncodeError { row, problem })?;
        self.rows = row;
        if self.encoder.text.len() >= self.segment_bytes {
            self.cut(self.encoder.text.len(), Some(self.rows));
        }
        Ok(())
    }

    /// Writes bytes as they are ([`WriterOptions::Raw`]).
    ///
    /// # Panics
    /// When the file has another layout.
    pub fn raw(&mut self, bytes: &[u8]) {
        assert!(self.encoder.is_raw(), "raw bytes go to a raw file only");
        self.encoder.text.extend_from_slice(bytes);
        let most = if self.told { HELD_BYTES_MAX } else { self.segment_bytes };
        while self.encoder.text.len() >= most {
            self.cut(most, None);
        }
    }

    /// Says that where rows end in raw bytes will be told ([`SegmentWriter::row_end`]): then segments end there, and nowhere
    /// else. To be said before there are bytes.
    #[must_use]
    pub fn telling_row_ends(self) -> Self {
        Self { told: true, ..self }
    }

    /// Says that `rows` rows end at or before the plain byte `at` of the file, and the last of them there. What is written
    /// between two row ends is held until the second is told; of more than 32 MiB without one a segment ends where it may, and the
    /// file's index tells no rows.
    pub fn row_end(&mut self, at: u64, rows: u64) {
        self.rows = rows;
        let ended = usize::try_from(at.saturating_sub(self.plain_bytes)).unwrap_or(usize::MAX);
        if (self.segment_bytes..=self.encoder.text.len()).contains(&ended) {
            self.cut(ended, Some(rows));
        }
    }

    /// Says that there are `rows` rows so far, in raw bytes of another charset than UTF-8. Readers cannot begin in the middle of
    /// these: segments end where they may, and the file's index tells no rows. To be said of the first rows already.
    pub fn rows_of_another_charset(&mut self, rows: u64) {
        (self.rows, self.told) = (rows, false);
    }

    /// Ends the segment that grows after `bytes` of it; up to there are `rows` rows.
    fn cut(&mut self, bytes: usize, rows: Option<u64>) {
        let text = &mut self.encoder.text;
        // The next one will be about as long, unless the file ends here.
        let room = if bytes < self.segment_bytes { 0 } else { self.segment_bytes + self.segment_bytes / 16 };
        let mut rest = Vec::with_capacity(room.max(text.len() - bytes));
        rest.extend_from_slice(&text[bytes..]);
        text.truncate(bytes);
        let plain = mem::replace(text, rest);
        self.plain_bytes += plain.len() as u64;
        self.plain_sha256.update(&plain);
        let rows = rows.map(|rows| rows - mem::replace(&mut self.rows_before, rows));
        self.cut.push_back(Segment { plain, rows, compression: self.compression });
    }

    /// Rows and plain bytes so far.
    #[must_use]
    pub fn size(&self) -> (u64, u64) {
        (self.rows, self.plain_bytes + self.encoder.text.len() as u64)
    }

    /// The next segment that is complete.
    pub fn segment(&mut self) -> Option<Segment> {
        self.cut.pop_front()
    }

    /// Ends the file: the segments that were not taken, and what was written.
    pub fn finish(mut self) -> (impl Iterator<Item = Segment> + Send, Written) {
        self.encoder.end();
        let is_known = !self.encoder.is_raw() || self.told;
        if !self.encoder.text.is_empty() {
            self.cut(self.encoder.text.len(), is_known.then_some(self.rows));
        }
        let Self { rows, plain_bytes, plain_sha256, cut, .. } = self;
        (cut.into_iter(), Written { rows, plain_bytes, plain_sha256: plain_sha256.finalize().into() })
    }
}

impl RowWriter {
    /// Begins a file.
    #[must_use]
    pub fn new(options: WriterOptions, compression: Compression) -> Self {
        Self { segments: SegmentWriter::new(options, compression), assembler: FileAssembler::new(compression) }
    }

    /// Writes a row of names and values.
    ///
    /// # Errors
    /// As [`SegmentWriter::row`].
    pub fn row(&mut self, fields: &[(&str, Field<'_>)]) -> Result<(), EncodeError> {
        self.segments.row(fields)?;
        self.pack();
        Ok(())
    }

    /// Writes a row that was read, in this file's layout.
    ///
    /// # Errors
    /// As [`SegmentWriter::copy`].
    pub fn copy(&mut self, row: &Row<'_>) -> Result<(), EncodeError> {
        self.segments.copy(row)?;
        self.pack();
        Ok(())
    }

    /// Writes chosen fields of a row that was read, named by their paths; what it lacks is left out.
    ///
    /// # Errors
    /// As [`SegmentWriter::row`].
    pub fn select(&mut self, row: &Row<'_>, paths: &[FieldPath]) -> Result<(), EncodeError> {
        let mut values = Vec::with_capacity(paths.len());
        row.get_many(paths, &mut values);
        let names: Vec<String> = paths.iter().map(FieldPath::to_string).collect();
        let fields: Vec<(&str, Field<'_>)> = names.iter().map(String::as_str).zip(values).collect();
        self.row(&fields)
    }

    /// Writes bytes as they are ([`WriterOptions::Raw`]).
    ///
    /// # Panics
    /// When the file has another layout.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.segments.raw(bytes);
        self.pack();
    }

    fn pack(&mut self) {
        while let Some(segment) = self.segments.segment() {
            self.assembler.add(segment.pack());
        }
    }

    /// Takes what is ready to be stored, if it is at least `least` bytes. What is compressed lacks its begin, which comes
    /// last: [`Finished::head`].
    pub fn take(&mut self, least: usize) -> Option<Bytes> {
        let waiting = self.segments.encoder.text.len();
        if self.segments.compression == Compression::None && waiting > 0 && waiting >= least {
            self.segments.cut(waiting, Some(self.segments.rows));
            self.pack();
        }
        self.assembler.take(least)
    }

    /// Ends the file.
    #[must_use]
    pub fn finish(self) -> Finished {
        let Self { segments, mut assembler } = self;
        let (last, written) = segments.finish();
        last.for_each(|segment| assembler.add(segment.pack()));
        assembler.finish(written)
    }
}
