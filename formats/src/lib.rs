//! Bytes to rows and back, sans-I/O: bytes are fed in as they come, batches of raw rows come out, and a slow download
//! holds no thread.
//!
//! `decoder` undoes gzip and frames rows of one of the `jsonl` or `csv` layouts into `row` batches, whose `field`s are
//! read lazily; `writer` goes the other way.

pub mod decoder;
pub mod field;
pub mod row;
pub mod writer;

pub use decoder::{DecodeError, DecodeOptions, FileStats, Limits, RowDecoder, Source, Step};
pub use field::{Field, FieldPath, FieldPathError};
pub use row::{BadRow, Row, RowBatch};
pub use writer::{Compression, EncodeError, RowWriter, WriterOptions, WriterStats};
