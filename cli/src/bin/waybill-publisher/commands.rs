//! What each command does.

mod act;
mod beside;
mod change_log;
mod doctor;
mod look;
mod manifest;
mod publish;
mod run;
mod snapshot;

use waybill_cli::{args::Common, exit::Outcome, settings::publisher::Settings, starter};
use waybill_publisher::{change_log::ChangeFilter, outbox::ListFilter};

use crate::Command;

pub(crate) async fn dispatch(common: Common, change_log: Option<String>, command: Command) -> anyhow::Result<Outcome> {
    if matches!(command, Command::Init) {
        starter::settings(common.config.as_deref(), include_str!("commands/init/waybill.toml"))?;
        return change_log::init(&Settings::load(&common, change_log.as_deref())?).await;
    }
    let settings = Settings::load(&common, change_log.as_deref());
    if matches!(command, Command::Doctor) {
        return doctor::doctor(&common, settings).await;
    }
    let settings = settings?;
    match command {
        Command::Publish(publish) => {
            publish::publish(&common, &settings.with_level(publish.file.level), &publish).await
        }
        Command::Snapshot(args) if args.list => snapshot::list(&common, &settings, &args.blob_type).await,
        Command::Snapshot(args) => snapshot::snapshot(&common, &settings.with_level(args.file.level), &args).await,
        Command::Run { health } => run::run(&common, &settings, health.as_deref()).await,
        Command::Init => unreachable!("it is done above, where settings may be missing"),
        Command::Triggers { table, blob_type, key } => change_log::triggers(&settings, &table, &blob_type, &key).await,
        Command::Refused { limit } => change_log::refused(&common, &settings, limit).await,
        Command::Changes { key, correlation, blob_type, before, limit } => {
            let filter = ChangeFilter { blob_type, key, correlation_id: correlation, before, most: limit };
            change_log::changes(&common, &settings, &filter).await
        }
        Command::Manifest => manifest::manifest(&common, &settings).await,
        Command::Prune { dry_run } => manifest::prune(&common, &settings, dry_run).await,
        Command::Doctor => unreachable!("it is done above, where settings may be wrong"),
        Command::Adopt => change_log::adopt(&settings).await,
        Command::Status => look::status(&common, &settings).await,
        Command::List { state, blob_type, correlation, before, limit } => {
            let filter =
                ListFilter { state, blob_type, export_id: None, correlation_id: correlation, before, most: limit };
            look::list(&common, &settings, &filter).await
        }
        Command::Show { id } => look::show(&common, &settings, &id).await,
        Command::Resend { id, why } => act::resend(&common, &settings, &id, &why).await,
        Command::Void { id, why } => act::void(&common, &settings, &id, &why).await,
        Command::Pause { blob_type, why } => act::pause(&common, &settings, &blob_type, &why).await,
        Command::Resume { blob_type } => act::resume(&common, &settings, &blob_type).await,
    }
}
