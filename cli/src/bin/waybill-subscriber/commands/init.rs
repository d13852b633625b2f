//! `init`: files to start from.

use std::{fs::File, io::Write, path::Path};

use anyhow::{Context, bail};
use waybill_cli::exit::Outcome;

const SETTINGS: &str = include_str!("init/waybill.toml");
const ENTITIES: &str = include_str!("init/entities.toml");

pub(crate) fn init() -> anyhow::Result<Outcome> {
    let files = [(Path::new("waybill.toml"), SETTINGS), (Path::new("entities.toml"), ENTITIES)];
    if let Some((there, _)) = files.iter().find(|(path, _)| path.exists()) {
        bail!("{} is there already and was left as it is; move it away first", there.display());
    }
    for (path, text) in files {
        File::options()
            .write(true)
            .create_new(true)
            .open(path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    println!("next: fill in both, then `waybill-subscriber run`");
    Ok(Outcome::Done)
}
