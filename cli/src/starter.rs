//! `init`: files to start from, and never over a file that is there.

use std::{fs::File, io::Write, path::Path};

use anyhow::{Context, bail};

use crate::{output::line, settings::DEFAULT_FILE};

/// Writes `waybill.toml` with this section, or prints the section for the file that is there already and has none.
///
/// # Errors
/// When the section has to be added by hand, or the file cannot be read or written.
pub fn settings(section: &str) -> anyhow::Result<()> {
    let file = Path::new(DEFAULT_FILE);
    if !file.exists() {
        return new_file(file, section).map(drop);
    }
    let there = std::fs::read_to_string(file).with_context(|| format!("cannot read {DEFAULT_FILE}"))?;
    let header = section.lines().map(str::trim).find(|line| line.starts_with('[')).unwrap_or_default();
    if there.lines().any(|line| line.trim() == header) {
        return line(format_args!("{DEFAULT_FILE} has its section {header} already, and was left as it is"));
    }
    line(format_args!("{section}"))?;
    bail!(
        "{DEFAULT_FILE} is there already, without {header}, and was left as it is; add to it the section printed above"
    )
}

/// Writes a new file, or leaves the one that is there and says so. Whether it is new.
///
/// # Errors
/// When it cannot be written.
pub fn new_file(path: &Path, text: &str) -> anyhow::Result<bool> {
    if path.exists() {
        line(format_args!("{} is there already, and was left as it is", path.display()))?;
        return Ok(false);
    }
    file(path, text).map(|()| true)
}

/// Writes a new file.
///
/// # Errors
/// When it is there already, or cannot be written.
pub fn file(path: &Path, text: &str) -> anyhow::Result<()> {
    if path.exists() {
        bail!("{} is there already and was left as it is; move it away first", path.display());
    }
    let written = File::options().write(true).create_new(true).open(path);
    written
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))?;
    line(format_args!("wrote {}", path.display()))
}
