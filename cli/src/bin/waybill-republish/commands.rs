//! What each command does.

mod plan;
mod run;

use std::path::PathBuf;

use waybill_cli::{args::Common, exit::Outcome};

use crate::{Command, settings::Settings};

pub(crate) async fn dispatch(common: Common, entities: Option<PathBuf>, command: Command) -> anyhow::Result<Outcome> {
    let settings = Settings::load(&common, entities)?;
    match command {
        Command::Run { until_idle, health } => run::run(&common, &settings, until_idle, health.as_deref()).await,
        Command::Plan => plan::plan(&common, &settings).await,
    }
}
