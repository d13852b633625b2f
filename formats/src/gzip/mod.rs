//! Ordinary gzip (RFC 1952): one member or many read, one written.

pub(crate) mod reader;
pub(crate) mod writer;

/// What every member begins with.
const MAGIC: [u8; 2] = [0x1f, 0x8b];
/// The only compression method there is.
const DEFLATE: u8 = 8;
