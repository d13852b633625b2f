//! `init`: files to start from, and never over a file that is there.

use std::{fs::File, io::Write, path::Path};

use anyhow::{Context, bail};
use serde::Serialize;

use crate::{
    args::Format,
    output::{json, line},
    settings::DEFAULT_FILE,
};

/// Writes files, and tells of each: people at once, programs at the end.
#[derive(Debug, Serialize)]
pub struct Starter {
    #[serde(skip)]
    people: bool,
    files: Vec<Told>,
}

/// What became of a file.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    file: String,
    /// It was not there before.
    written: bool,
    /// What a person has to add to the file that is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    to_add: Option<String>,
}

/// Writes the settings file with this section (`waybill.toml` unless another is named), or prints the section for the file that is there already
/// and has none.
///
/// # Errors
/// When the section has to be added by hand, or the file cannot be read or written.
pub fn settings(file: Option<&Path>, section: &str) -> anyhow::Result<()> {
    Starter::new(Format::Text).settings(file, section)
}

impl Starter {
    /// Has told of nothing yet.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self { people: format == Format::Text, files: Vec::new() }
    }

    /// As [`settings`].
    ///
    /// # Errors
    /// When the section has to be added by hand, or the file cannot be read or written.
    pub fn settings(&mut self, file: Option<&Path>, section: &str) -> anyhow::Result<()> {
        let file = file.unwrap_or(Path::new(DEFAULT_FILE));
        let shown = file.display();
        if !file.exists() {
            return self.file(file, section);
        }
        let there = std::fs::read_to_string(file).with_context(|| format!("cannot read {shown}"))?;
        let header = section.lines().map(str::trim).find(|line| line.starts_with('[')).unwrap_or_default();
        if there.lines().any(|line| line.trim() == header) {
            let was_there = format!("{shown} has its section {header} already, and was left as it is");
            return self.tell(file, false, None, &was_there);
        }
        self.tell(file, false, Some(section), section)?;
        let printed = if self.people { "printed above" } else { "told as toAdd" };
        bail!("{shown} is there already, without {header}, and was left as it is; add to it the section {printed}")
    }

    /// Writes a new file, or leaves the one that is there and says so.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new_file(&mut self, path: &Path, text: &str) -> anyhow::Result<()> {
        if path.exists() {
            let was_there = format!("{} is there already, and was left as it is", path.display());
            return self.tell(path, false, None, &was_there);
        }
        self.file(path, text)
    }

    /// Writes a new file, or tells its text and leaves the one that is there.
    ///
    /// # Errors
    /// When it is there already, or cannot be written.
    pub fn draft(&mut self, path: &Path, text: &str) -> anyhow::Result<()> {
        if !path.exists() {
            return self.file(path, text);
        }
        self.tell(path, false, Some(text), text)?;
        let printed = if self.people { "printed above" } else { "told as toAdd" };
        bail!("{} is there already and was left as it is; the draft is {printed}", path.display());
    }

    /// The document for programs.
    ///
    /// # Errors
    /// When standard output cannot be written.
    pub fn end(self) -> anyhow::Result<()> {
        if self.people { Ok(()) } else { json(&self) }
    }

    fn file(&mut self, path: &Path, text: &str) -> anyhow::Result<()> {
        let written = File::options().write(true).create_new(true).open(path);
        written
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        self.tell(path, true, None, &format!("wrote {}", path.display()))
    }

    fn tell(&mut self, path: &Path, written: bool, to_add: Option<&str>, people: &str) -> anyhow::Result<()> {
        self.files.push(Told { file: path.display().to_string(), written, to_add: to_add.map(str::to_owned) });
        if self.people { line(format_args!("{people}")) } else { Ok(()) }
    }
}
