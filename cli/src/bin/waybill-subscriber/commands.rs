//! What each command does.

mod bad_rows;
mod complete;
mod copy;
mod decide;
mod doctor;
mod init;
mod look;
mod media;
mod named;
mod parked;
mod plan;
mod proof;
mod prune;
mod rebuild;
mod reconcile;
mod replay;
mod rows;
mod status;
mod types;
mod work;

use waybill_cli::{
    args::Common,
    exit::Outcome,
    settings::subscriber::{Flags, Settings},
};
use waybill_subscriber::inbox::{ListFilter, Retention, Wanted};

use crate::{Command, PROGRAM, Target};

/// `inbox` is the flag.
pub(crate) async fn dispatch(common: Common, inbox: Option<String>, command: Command) -> anyhow::Result<Outcome> {
    let load = |target: Option<&Target>| {
        let Target { sink, entities } = target.cloned().unwrap_or_default();
        Settings::load(PROGRAM, &common, &Flags { inbox: inbox.clone(), sink, entities })
    };
    match command {
        Command::Init { from, .. } if from.is_empty() => init::init(common.config.as_deref(), common.format),
        Command::Init { from, content_type, content_encoding } => {
            let given = media::given(content_type.as_deref(), content_encoding.as_deref())?;
            init::from_samples(&from, given.as_ref(), common.format).await
        }
        Command::Run { target, until_idle, watch } => {
            work::run(&common, &load(Some(&target))?.watched(watch.health), until_idle).await
        }
        Command::Receive { until_idle, watch } => {
            work::receive(&common, &load(None)?.watched(watch.health), until_idle).await
        }
        Command::Process { target, types, since, ids, limit, watch } => {
            let (types, ids) = ((!types.is_empty()).then_some(types), (!ids.is_empty()).then_some(ids));
            let wanted = Wanted { ids, types, since, limit, ..Wanted::default() };
            work::process(&common, &load(Some(&target))?.watched(watch.health), wanted).await
        }
        Command::Rows(of) => {
            let target = Target { sink: None, entities: of.entities.clone() };
            rows::rows(&common, &load(Some(&target))?, &of).await
        }
        Command::Plan { entities } => {
            let target = Target { sink: None, entities };
            plan::plan(&common, &load(Some(&target))?).await
        }
        Command::Replay { target, types, since, complete } => {
            let wanted = Wanted { types: (!types.is_empty()).then_some(types), since, ..Wanted::default() };
            replay::replay(&common, &load(Some(&target))?, wanted, complete).await
        }
        Command::Rebuild { target, types, incomplete } => {
            let types = (!types.is_empty()).then_some(types);
            rebuild::rebuild(&common, &load(Some(&target))?, types, incomplete).await
        }
        Command::Reconcile { types, dry_run } => {
            let types = (!types.is_empty()).then_some(types);
            reconcile::reconcile(&common, &load(None)?, types, dry_run).await
        }
        Command::Complete { types, up_to } => {
            complete::complete(&common, &load(None)?, (!types.is_empty()).then_some(types), up_to).await
        }
        Command::Prune { history, files, identities, dry_run } => {
            prune::prune(&common, &load(None)?, Retention { history, files, identities }, dry_run).await
        }
        Command::Doctor { target } => doctor::doctor(&common, load(Some(&target))).await,
        Command::Status => status::status(&common, &load(None)?).await,
        Command::List { state, blob_type, correlation, before, limit } => {
            let filter = ListFilter { state, blob_type, correlation_id: correlation, before, most: limit };
            look::list(&common, &load(None)?, &filter).await
        }
        Command::BadRows(of) => bad_rows::list(&common, &load(Some(&of.target))?, &of).await,
        Command::Parked { target, blob_type, limit, release } => {
            let settings = load(Some(&target))?;
            match release.as_deref() {
                Some([parent, key]) => parked::release(&common, &settings, parent, key).await,
                _ => parked::list(&common, &settings, blob_type.as_deref(), limit).await,
            }
        }
        Command::Trace { correlation_id } => look::trace(&common, &load(None)?, &correlation_id).await,
        Command::Retry { ids, quarantined, skipped, blob_type } => {
            let of = match (quarantined, skipped) {
                (true, _) => decide::Of::Quarantined(blob_type),
                (_, true) => decide::Of::Skipped(blob_type),
                _ => decide::Of::Ids(ids),
            };
            decide::retry(&common, &load(None)?, of).await
        }
        Command::Skip { ids, why } => decide::skip(&common, &load(None)?, &ids, &why).await,
        Command::Show { id } => look::show(&common, &load(None)?, id).await,
    }
}
