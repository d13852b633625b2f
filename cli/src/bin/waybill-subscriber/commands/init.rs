//! `init`: files to start from.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use waybill_cli::{args::Format, exit::Outcome, output::line, starter::Starter};
use waybill_contracts::{Entities, Media};
use waybill_formats::Limits;
use waybill_subscriber::{
    apply::EntityPlans,
    draft::{Sample, draft},
    look::FileRows,
};

use super::media;

const SETTINGS: &str = include_str!("init/waybill.toml");
const ENTITIES: &str = include_str!("init/entities.toml");
const ENTITIES_FILE: &str = "entities.toml";

pub(crate) fn init(config: Option<&Path>, format: Format) -> anyhow::Result<Outcome> {
    let mut starter = Starter::new(format);
    // What is there stays; the other file is written all the same.
    let entities = starter.new_file(Path::new(ENTITIES_FILE), ENTITIES);
    let settings = starter.settings(config, SETTINGS);
    starter.end()?;
    settings?;
    entities?;
    next(format, "next: fill in both, then `waybill-subscriber run`")
}

fn next(format: Format, what: &str) -> anyhow::Result<Outcome> {
    if format == Format::Text {
        line(format_args!("{what}"))?;
    }
    Ok(Outcome::Done)
}

/// Drafts `entities.toml` from sample files, each `FILE` or `TYPE=FILE`. What is `given` of them counts for those whose names do not say
/// another format.
pub(crate) async fn from_samples(from: &[String], given: Option<&Media>, format: Format) -> anyhow::Result<Outcome> {
    let mut samples: Vec<(String, Sample)> = Vec::new();
    for from in from {
        let (blob_type, path) = match from.split_once('=') {
            Some((blob_type, path)) if !blob_type.is_empty() => (blob_type.to_owned(), PathBuf::from(path)),
            _ => (stem(Path::new(from)), PathBuf::from(from)),
        };
        let sample = match samples.iter_mut().find(|(known, _)| *known == blob_type) {
            Some((_, sample)) => sample,
            None => &mut samples.push_mut((blob_type.clone(), Sample::new(&blob_type))).1,
        };
        let read = read(&path, given, sample).await;
        read.with_context(|| format!("{} cannot be used as a sample", path.display()))?;
    }
    let text = draft(samples.into_iter().map(|(_, sample)| sample).collect());
    let entities = Entities::parse(&text, ENTITIES_FILE).context("the draft is not sound; please report this")?;
    EntityPlans::compile(&entities).context("the draft is not sound; please report this")?;
    let mut starter = Starter::new(format);
    let written = starter.draft(Path::new(ENTITIES_FILE), &text);
    starter.end()?;
    written?;
    next(format, "next: read it, and correct what was guessed wrong")
}

/// `product.csv.gz` → `product`.
fn stem(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let unpacked = name.strip_suffix(".gz").unwrap_or(&name);
    unpacked.rsplit_once('.').map_or(unpacked, |(stem, _)| stem).to_owned()
}

async fn read(path: &Path, given: Option<&Media>, sample: &mut Sample) -> anyhow::Result<()> {
    let named = media::format_of_name(path);
    let media = match given.filter(|given| named.is_none_or(|named| named == given.format)) {
        Some(given) => given.clone(),
        None => media::by_name(path)?,
    };
    let format = media.format;
    let mut rows = FileRows::of_file(path, media, None, &Limits::default()).await?;
    while let Some(batch) = rows.next().await? {
        if !sample.see(&batch, format) {
            return Ok(());
        }
        // Bad rows are the file's own trouble, but a draft from a file of them would be one of nothing.
        if let (0, Some(bad)) = (sample.rows(), batch.bad().first()) {
            bail!("row {} at byte {}: {}", bad.row, bad.offset, bad.problem);
        }
    }
    Ok(())
}
