//! XML 1.0 (fifth edition) with Namespaces in XML 1.0 (third edition), without DOCTYPE: what is well-formed, and how its
//! elements are rows.
//!
//! `scanner` cuts text into tokens, checks all of it as it passes by, and knows `names` and `namespaces`. `document` and
//! `lines` say which elements are rows; `table` keeps where the fields of a row lie; `value` reads checked elements. `write`
//! goes the other way.
//!
//! Own code, because no crate checks the whole of both standards and gives places in a stream that comes in pieces: see
//! `docs/adr/0021-xml-rows.md`. The mapping of elements to fields is in `docs/wire.md`.

mod document;
mod lines;
mod names;
mod namespaces;
mod scanner;
mod table;
mod value;
pub(crate) mod write;

pub(crate) use document::XmlDocument;
pub(crate) use lines::XmlLines;
pub(crate) use table::{XmlRow, XmlTable};

/// The namespace whose `nil` means null, and whose other attributes are about schemas.
const XSI: &str = "http://www.w3.org/2001/XMLSchema-instance";
/// Levels beyond which rows are never nested: reading them recurses.
const NESTING_MAX: usize = 256;

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}
