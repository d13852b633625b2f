//! `reconcile`: manifests and the container's listing against the inbox.

use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{count, json, line, many, table},
    settings::subscriber::Settings,
    work::check_grant,
};
use waybill_subscriber::reconcile::{Found, Reconciled};

use crate::PROGRAM;

pub(crate) async fn reconcile(
    common: &Common,
    settings: &Settings,
    types: Option<Vec<String>>,
    dry_run: bool,
) -> anyhow::Result<Outcome> {
    let local = common.local.as_deref();
    // A dry run beside a running subscriber takes part in nothing.
    let subscriber = if dry_run && settings.inbox_if_there().await?.is_some() {
        settings.looker(local).await?
    } else {
        settings.subscriber(local).await?
    };
    check_grant(PROGRAM, &subscriber, true).await?;
    let found = subscriber.reconcile(types, dry_run).await?;
    let outcome = if found.missing.count + found.unusable.count > 0 { Outcome::Quarantined } else { Outcome::Done };
    if common.format == Format::Json {
        json(&found)?;
    } else {
        say(&found, dry_run)?;
    }
    Ok(outcome)
}

fn say(found: &Reconciled, dry_run: bool) -> anyhow::Result<()> {
    let Reconciled { listed, added, known, other_types, foreign, unusable, missing, .. } = found;
    let compared = if found.unlisted > 0 && *listed == 0 {
        "by manifests alone".to_owned()
    } else {
        format!("{} in the container", many(*listed, "blob"))
    };
    line(format_args!(
        "{compared}: {} {}, {} known, {} of other types, {} of others",
        count(added.count),
        if dry_run { "to be added" } else { "added" },
        count(*known),
        count(*other_types),
        count(*foreign)
    ))?;
    if found.manifests > 0 {
        let gone = match found.manifests_gone {
            0 => String::new(),
            gone => format!(", {} of them gone from the container", count(gone)),
        };
        line(format_args!("{} compared with the inbox{gone}", many(found.manifests, "manifest")))?;
    }
    if found.unlisted > 0 {
        line(format_args!(
            "{} not listed, because the grant does not allow it (`sp=rl`): files that no manifest names may be missing",
            many(found.unlisted, "container")
        ))?;
    }
    if added.count > 0 {
        let id = |id: Option<i64>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        line(format_args!(""))?;
        table(
            &["ID", "TYPE", "BLOB"],
            rows(added, |file| vec![id(file.id), file.blob_type.clone(), file.blob.clone()]),
        )?;
        more(added)?;
    }
    if missing.count > 0 {
        line(format_args!(
            "\n{} to be worked, whose blob is not there; ask the publisher to export them again:",
            many(missing.count, "file")
        ))?;
        table(
            &["ID", "STATE", "TYPE", "BLOB"],
            rows(missing, |file| {
                vec![file.id.to_string(), file.state.to_string(), file.blob_type.clone(), file.blob.clone()]
            }),
        )?;
        more(missing)?;
    }
    if unusable.count > 0 {
        line(format_args!("\n{} whose headers do not say what they are; left alone:", many(unusable.count, "blob")))?;
        table(&["BLOB", "PROBLEM"], rows(unusable, |blob| vec![blob.blob.clone(), blob.problem.clone()]))?;
        more(unusable)?;
    }
    if added.count > 0 && !dry_run {
        line(format_args!("\nwhat was added is worked by `waybill-subscriber run` or `process`"))?;
    }
    Ok(())
}

fn rows<T>(found: &Found<T>, row: impl Fn(&T) -> Vec<String>) -> impl Iterator<Item = Vec<String>> {
    found.first.iter().map(row)
}

fn more<T>(found: &Found<T>) -> anyhow::Result<()> {
    let rest = found.count - found.first.len() as u64;
    if rest > 0 {
        line(format_args!("and {} more", count(rest)))?;
    }
    Ok(())
}
