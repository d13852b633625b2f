//! Block ids, and the two XML documents about them: the list that commits a blob, and the answer about what is there.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use quick_xml::{Reader, events::Event};

use super::error::StorageError;

/// Most blocks in one committed blob.
const COMMITTED_MAX: usize = 50_000;
/// Longest id before the encoding.
const ID_MAX: usize = 64;

/// A block's id, decoded: that is what is compared and ordered.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlockId(Vec<u8>);

impl BlockId {
    pub(super) fn parse(encoded: &str) -> Result<Self, StorageError> {
        match STANDARD.decode(encoded) {
            Ok(id) if !id.is_empty() && id.len() <= ID_MAX => Ok(Self(id)),
            _ => Err(StorageError::invalid_block_id()),
        }
    }

    /// Its length; all ids of a blob have the same.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn encoded(&self) -> String {
        STANDARD.encode(&self.0)
    }
}

/// Where a block of a commit is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Committed,
    Uncommitted,
    Latest,
}

/// Reads the body of Put Block List: which blocks, from where, in which order.
pub(super) fn parse(body: &[u8]) -> Result<Vec<(Source, BlockId)>, StorageError> {
    let body = std::str::from_utf8(body).map_err(|_| StorageError::invalid_xml())?;
    let mut reader = Reader::from_str(body.strip_prefix('\u{feff}').unwrap_or(body));
    let mut list = Vec::new();
    let mut depth = 0_usize;
    let mut rooted = false;
    let mut open: Option<(Source, String)> = None;
    loop {
        match reader.read_event().map_err(|_| StorageError::invalid_xml())? {
            Event::Start(tag) => {
                depth += 1;
                match (depth, tag.name().as_ref()) {
                    (1, "BlockList") if !rooted => rooted = true,
                    (2, name) => open = Some((source(name)?, String::new())),
                    _ => return Err(StorageError::invalid_xml()),
                }
            }
            Event::Text(text) => match &mut open {
                Some((_, id)) => id.push_str(&text),
                None if text.trim().is_empty() => {}
                None => return Err(StorageError::invalid_xml()),
            },
            Event::End(_) => {
                depth = depth.checked_sub(1).ok_or_else(StorageError::invalid_xml)?;
                if let Some((source, id)) = open.take() {
                    if list.len() == COMMITTED_MAX {
                        return Err(StorageError::block_list_too_long());
                    }
                    list.push((source, BlockId::parse(id.trim())?));
                }
            }
            Event::Empty(tag) if depth == 0 && !rooted && tag.name().as_ref() == "BlockList" => rooted = true,
            Event::Eof if depth == 0 && rooted => return Ok(list),
            Event::Decl(_) | Event::Comment(_) => {}
            _ => return Err(StorageError::invalid_xml()),
        }
    }
}

fn source(name: &str) -> Result<Source, StorageError> {
    match name {
        "Committed" => Ok(Source::Committed),
        "Uncommitted" => Ok(Source::Uncommitted),
        "Latest" => Ok(Source::Latest),
        _ => Err(StorageError::invalid_xml()),
    }
}

/// Ids and sizes of blocks.
pub(super) type Sizes = Vec<(BlockId, u64)>;

/// The body of Get Block List; a part that was not asked for is `None`.
pub(super) fn write(committed: Option<&Sizes>, uncommitted: Option<&Sizes>) -> String {
    let mut xml = String::from("\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><BlockList>");
    for (name, blocks) in [("CommittedBlocks", committed), ("UncommittedBlocks", uncommitted)] {
        let Some(blocks) = blocks else { continue };
        xml.extend(["<", name, ">"]);
        for (id, size) in blocks {
            xml.extend(["<Block><Name>", &id.encoded(), "</Name><Size>", &size.to_string(), "</Size></Block>"]);
        }
        xml.extend(["</", name, ">"]);
    }
    xml.push_str("</BlockList>");
    xml
}
