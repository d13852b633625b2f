//! Rows in, bytes of a file out, compressed or not, in chunks as they become ready.
//!
//! Rows are collected in one buffer, which is hashed and packed whenever it is full. Nothing is allocated per row.

use std::mem;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use waybill_contracts::Format;

use crate::{Field, FieldPath, Row, encode::Encoder, gzip::writer::GzipWriter};

/// How the file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// One gzip member, `mtime` 0, zlib level 1–9 (default of the callers: 4).
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

/// Writes one file. Holds what is ready and was not taken ([`RowWriter::take`]), beside it 64 KiB, a row and, if
/// compressing, deflate's window.
#[derive(Debug)]
pub struct RowWriter {
    encoder: Encoder,
    packer: Packer,
    rows: u64,
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
    /// SHA-256 of the stored bytes.
    pub sha256: [u8; 32],
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

/// Plain bytes that are packed at once.
const PACKED_AT_ONCE: usize = 64 << 10;

impl RowWriter {
    /// Begins a file.
    #[must_use]
    pub fn new(options: WriterOptions, compression: Compression) -> Self {
        Self { encoder: Encoder::new(options), packer: Packer::new(compression), rows: 0 }
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
    /// As [`RowWriter::row`].
    pub fn copy(&mut self, row: &Row<'_>) -> Result<(), EncodeError> {
        let written = self.encoder.copy(row);
        self.wrote_row(written)
    }

    /// Writes chosen fields of a row that was read, named by their paths; what it lacks is left out.
    ///
    /// # Errors
    /// As [`RowWriter::row`].
    pub fn select(&mut self, row: &Row<'_>, paths: &[FieldPath]) -> Result<(), EncodeError> {
        let mut values = Vec::with_capacity(paths.len());
        row.get_many(paths, &mut values);
        let names: Vec<String> = paths.iter().map(FieldPath::to_string).collect();
        let fields: Vec<(&str, Field<'_>)> = names.iter().map(String::as_str).zip(values).collect();
        self.row(&fields)
    }

    fn wrote_row(&mut self, written: Result<(), String>) -> Result<(), EncodeError> {
        let row = self.rows + 1;
        written.map_err(|problem| EncodeError { row, problem })?;
        self.rows = row;
        if self.encoder.text.len() >= PACKED_AT_ONCE {
            self.packer.pack_all(&mut self.encoder.text);
        }
        Ok(())
    }

    /// Writes bytes as they are ([`WriterOptions::Raw`]).
    ///
    /// # Panics
    /// When the file has another layout.
    pub fn raw(&mut self, bytes: &[u8]) {
        assert!(self.encoder.is_raw(), "raw bytes go to a raw file only");
        self.packer.pack(bytes);
    }

    /// Takes what is ready to be stored, if it is at least `least` bytes.
    pub fn take(&mut self, least: usize) -> Option<Bytes> {
        if self.packer.gzip.is_none() {
            self.packer.pack_all(&mut self.encoder.text);
        }
        let ready = self.packer.stored.len();
        (ready > 0 && ready >= least).then(|| self.packer.take())
    }

    /// Ends the file: what remains, and what was written.
    #[must_use]
    pub fn finish(mut self) -> (Bytes, WriterStats) {
        self.encoder.end();
        self.packer.pack_all(&mut self.encoder.text);
        self.packer.finish(self.rows)
    }
}

/// Plain bytes to stored ones, counted and hashed on both sides.
#[derive(Debug)]
struct Packer {
    /// Without it what is stored is what is plain, and is hashed once.
    gzip: Option<Gzip>,
    /// Ready to be stored.
    stored: Vec<u8>,
    plain_bytes: u64,
    plain_sha256: Sha256,
    stored_bytes: u64,
}

#[derive(Debug)]
struct Gzip {
    writer: GzipWriter,
    sha256: Sha256,
}

impl Packer {
    fn new(compression: Compression) -> Self {
        let mut stored = Vec::new();
        let gzip = match compression {
            Compression::None => None,
            Compression::Gzip(level) => {
                Some(Gzip { writer: GzipWriter::new(level, &mut stored), sha256: Sha256::new() })
            }
        };
        Self { gzip, stored, plain_bytes: 0, plain_sha256: Sha256::new(), stored_bytes: 0 }
    }

    fn pack(&mut self, plain: &[u8]) {
        self.count(plain);
        match &mut self.gzip {
            None => self.stored.extend_from_slice(plain),
            Some(gzip) => gzip.writer.write(plain, &mut self.stored),
        }
    }

    /// Packs and empties a buffer; without compression the buffer itself becomes what is stored.
    fn pack_all(&mut self, plain: &mut Vec<u8>) {
        if self.gzip.is_none() && self.stored.is_empty() {
            self.count(plain);
            mem::swap(&mut self.stored, plain);
        } else {
            self.pack(plain);
            plain.clear();
        }
    }

    fn count(&mut self, plain: &[u8]) {
        self.plain_bytes += plain.len() as u64;
        self.plain_sha256.update(plain);
    }

    fn take(&mut self) -> Bytes {
        self.stored_bytes += self.stored.len() as u64;
        if let Some(gzip) = &mut self.gzip {
            gzip.sha256.update(&self.stored);
        }
        Bytes::from(mem::take(&mut self.stored))
    }

    fn finish(mut self, rows: u64) -> (Bytes, WriterStats) {
        if let Some(gzip) = &mut self.gzip {
            gzip.writer.finish(&mut self.stored);
        }
        let rest = self.take();
        let plain_sha256 = self.plain_sha256.finalize().into();
        let stats = WriterStats {
            rows,
            plain_bytes: self.plain_bytes,
            stored_bytes: self.stored_bytes,
            plain_sha256,
            sha256: self.gzip.map_or(plain_sha256, |gzip| gzip.sha256.finalize().into()),
        };
        (rest, stats)
    }
}
