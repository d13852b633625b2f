//! Bytes to rows and back, sans-I/O: bytes are fed in as they come, batches of raw rows come out, and a slow download
//! holds no thread.
//!
//! `decoder` undoes `gzip` and `charset` into a growing `batch`, in which the format's framer (`jsonl`, `json_document`, `csv`,
//! `xml`; `lines` for those of one line a row) says where rows begin and end. The finished `row` batch is read through
//! `field`s that borrow from it; `gather` packs rows one by one, and makes batches of them in another order. `seek` does the same with several segments of a file at once, `unpack` undoes gzip
//! apart from the rows, for those that have none. `writer` goes the other way: `encode` makes a layout's text
//! of rows, which is cut into segments, each of them packed by itself. `json` and `find` are what both directions know of JSON and of bytes. `filter` asks a row
//! whether it is wanted; `scalar` says what numbers, times and booleans mean that stand there as text.

mod batch;
mod charset;
mod csv;
pub mod decoder;
mod encode;
pub mod field;
pub mod filter;
mod find;
pub mod gather;
pub mod gzip;
mod json;
mod json_document;
mod jsonl;
mod lines;
pub mod row;
pub mod scalar;
pub mod seek;
pub mod unpack;
mod varint;
pub mod writer;
mod xml;

#[cfg(test)]
mod tests;

pub use charset::Charset;
pub use decoder::{DecodeError, DecodeOptions, FileStats, Limits, RowDecoder, Source, Step};
pub use field::{Field, FieldPath, FieldPathError};
pub use filter::RowFilter;
pub use gather::{Gathering, NotPacked};
pub use row::{BadRow, Row, RowBatch};
pub use seek::SegmentDecoder;
pub use writer::{
    Compression, EncodeError, FileAssembler, Finished, PackedSegment, RowWriter, Segment, SegmentWriter, WriterOptions,
    WriterStats, Written,
};
