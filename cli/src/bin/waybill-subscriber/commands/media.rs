//! What a file on this machine is, as its message would say.

use std::path::Path;

use anyhow::{Context as _, anyhow};
use waybill_contracts::{Encoding, Format, Media};

/// What is said of files, if anything is. How they are packed is checked, and no more: their first bytes say it.
pub(super) fn given(content_type: Option<&str>, content_encoding: Option<&str>) -> anyhow::Result<Option<Media>> {
    if let Some(encoding) = content_encoding {
        Encoding::parse(encoding)?;
    }
    Ok(content_type.map(Media::parse).transpose()?)
}

/// By its name, where nothing is said of it.
pub(super) fn by_name(path: &Path) -> anyhow::Result<Media> {
    // A name that is wrong has a wrong suffix, too.
    std::fs::metadata(path).with_context(|| format!("{}: it cannot be read", path.display()))?;
    format_of_name(path).map(Media::new).ok_or_else(|| {
        anyhow!("{}: its suffix names no format; say with --content-type what it is, such as text/csv", path.display())
    })
}

/// The format that the suffix names, with or without `.gz` behind it.
pub(super) fn format_of_name(path: &Path) -> Option<Format> {
    let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    Format::from_suffix(name.rsplit_once('.')?.1)
}
