//! `init`: files to start from, and never over a file that is there.

use std::{fs::File, io::Write, path::Path};

use anyhow::{Context, bail};

use crate::{output::line, settings::DEFAULT_FILE};

/// Writes `waybill.toml` with this section, or prints the section for the file that is there already.
///
/// # Errors
/// When the file is there, or cannot be written.
pub fn settings(section: &str) -> anyhow::Result<()> {
    if Path::new(DEFAULT_FILE).exists() {
        line(format_args!("{section}"))?;
        bail!("{DEFAULT_FILE} is there already and was left as it is; add to it the section printed above");
    }
    file(Path::new(DEFAULT_FILE), section)
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
