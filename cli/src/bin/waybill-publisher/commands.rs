//! What each command does.

mod look;
mod publish;
mod run;

use waybill_cli::{args::Common, exit::Outcome, output::line, starter};
use waybill_publisher::outbox::ListFilter;

use crate::{Command, settings::Settings};

pub(crate) async fn dispatch(common: Common, command: Command) -> anyhow::Result<Outcome> {
    match command {
        Command::Init => {
            starter::settings(include_str!("commands/init/waybill.toml"))?;
            line(format_args!("next: fill it in, then `waybill-publisher publish --type TYPE FILE…`"))?;
            Ok(Outcome::Done)
        }
        Command::Publish(publish) => publish::publish(&common, &Settings::load(&common)?, &publish).await,
        Command::Run => run::run(&common, &Settings::load(&common)?).await,
        Command::Status => look::status(&common, &Settings::load(&common)?).await,
        Command::List { state, blob_type, correlation, before, limit } => {
            let filter =
                ListFilter { state, blob_type, export_id: None, correlation_id: correlation, before, most: limit };
            look::list(&common, &Settings::load(&common)?, &filter).await
        }
        Command::Show { id } => look::show(&common, &Settings::load(&common)?, &id).await,
    }
}
