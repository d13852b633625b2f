//! Gzip (RFC 1952): any that others wrote is read; what we write is one member of segments, with an `index` of them.

pub(crate) mod alone;
pub mod index;
pub(crate) mod reader;
pub(crate) mod segment;

/// What every member begins with.
const MAGIC: [u8; 2] = [0x1f, 0x8b];
/// The only compression method there is.
const DEFLATE: u8 = 8;
/// The flag of a header with an extra field.
const EXTRA: u8 = 0x04;
