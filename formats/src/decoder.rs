//! Bytes fed in, batches of rows out. Undoes gzip (one member or many, or none: magic bytes decide), frames rows,
//! validates each.

use bytes::Bytes;
use waybill_contracts::Reason;

use crate::RowBatch;

/// The rows' layout in the plain bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A JSON object per line.
    JsonLines,
    /// RFC 4180.
    Csv {
        /// Names when the file has no header row; `None`: the first row is names.
        columns: Option<Vec<String>>,
        /// Default `,`.
        delimiter: u8,
    },
}

/// What a file may cost.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Default 16 MiB.
    pub row_bytes_max: usize,
    /// Nesting within a row; default 128.
    pub nesting_max: usize,
    /// CSV columns; default 4,096.
    pub columns_max: usize,
    /// Plain bytes of the file; default 1 TiB.
    pub plain_bytes_max: u64,
    /// Plain bytes per compressed byte (checked beyond the first MiB); default 1,000.
    pub ratio_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            row_bytes_max: 16 << 20,
            nesting_max: 128,
            columns_max: 4096,
            plain_bytes_max: 1 << 40,
            ratio_max: 1000,
        }
    }
}

/// How to decode.
#[derive(Debug, Clone)]
pub struct DecodeOptions {
    /// The layout.
    pub source: Source,
    /// The limits.
    pub limits: Limits,
    /// Plain bytes per batch at which it is handed out; default 1 MiB. A longer row makes a longer batch.
    pub batch_bytes: usize,
    /// Rows per batch at most; default 10,000.
    pub batch_rows: usize,
    /// Compute SHA-256 of the plain bytes; default false.
    pub hash_plain: bool,
}

impl DecodeOptions {
    /// The defaults for a layout.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self { source, limits: Limits::default(), batch_bytes: 1 << 20, batch_rows: 10_000, hash_plain: false }
    }
}

/// Bytes fed in, batches out. `Send + 'static`; holds at most what was fed, one window and one batch.
#[derive(Debug)]
pub struct RowDecoder {}

/// What [`RowDecoder::next`] came to.
#[derive(Debug)]
pub enum Step {
    /// Rows.
    Batch(RowBatch),
    /// Feed more, or say that it ends.
    NeedInput,
    /// The end, everything checked.
    Done(FileStats),
}

/// What the whole file was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileStats {
    /// Rows, good and bad.
    pub rows: u64,
    /// Bad ones among them.
    pub bad_rows: u64,
    /// Bytes fed.
    pub stored_bytes: u64,
    /// Bytes after unpacking.
    pub plain_bytes: u64,
    /// SHA-256 of the plain bytes, if asked for.
    pub plain_sha256: Option<[u8; 32]>,
    /// Whether the bytes were gzip.
    pub gzip: bool,
}

/// The file as a whole cannot be read on. Rows that came out before are good.
#[derive(Debug, Clone, thiserror::Error)]
#[error("row {row}, byte {offset}: {problem}")]
pub struct DecodeError {
    /// For the inbox: `corrupt-gzip`, `truncated-file`, `too-large`, `malformed-file`.
    pub reason: Reason,
    /// The row (1-based) that was being read.
    pub row: u64,
    /// Plain bytes from the file's begin.
    pub offset: u64,
    pub(crate) problem: String,
}

impl RowDecoder {
    /// Begins a file.
    #[must_use]
    pub fn new(options: DecodeOptions) -> Self {
        todo!("{options:?}")
    }

    /// Hands over the next bytes. Call [`RowDecoder::next`] until it needs input before feeding more.
    pub fn feed(&mut self, input: Bytes) {
        todo!("{input:?}")
    }

    /// Says that no more bytes come.
    pub fn end(&mut self) {
        todo!()
    }

    /// Works on until a batch is full, the input is used up, or the file is done.
    ///
    /// # Errors
    /// [`DecodeError`]; afterwards the same error again. Rows read before it are handed out first.
    #[allow(clippy::should_implement_trait, reason = "it is a step of a state machine, not an iterator")]
    pub fn next(&mut self) -> Result<Step, DecodeError> {
        todo!()
    }
}
