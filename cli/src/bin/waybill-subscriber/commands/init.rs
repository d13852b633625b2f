//! `init`: files to start from.

use std::path::Path;

use waybill_cli::{exit::Outcome, output::line, starter};

const SETTINGS: &str = include_str!("init/waybill.toml");
const ENTITIES: &str = include_str!("init/entities.toml");

pub(crate) fn init() -> anyhow::Result<Outcome> {
    // What is there stays; the other file is written all the same.
    let entities = starter::file(Path::new("entities.toml"), ENTITIES);
    let settings = starter::settings(SETTINGS);
    match (entities, settings) {
        (Ok(()), Ok(())) => {}
        (Err(error), Ok(())) | (Ok(()), Err(error)) => return Err(error),
        (Err(entities), Err(settings)) => anyhow::bail!("{entities:#}; {settings:#}"),
    }
    line(format_args!("next: fill in both, then `waybill-subscriber run`"))?;
    Ok(Outcome::Done)
}
