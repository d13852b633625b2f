//! `plan`: what would become of the files that the inbox has.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;
use waybill_cli::{
    args::{Common, Format},
    exit::Outcome,
    output::{count, in_one_line, json, line, many, table},
    progress,
    work::check_grant,
};
use waybill_republish::{FileVerdict, Plan, TypePlan};

use crate::{PROGRAM, settings::Settings};

pub(crate) async fn plan(common: &Common, settings: &Settings) -> anyhow::Result<Outcome> {
    let (jobs, subscriber) = settings.looker(common.local.as_deref()).await?;
    check_grant(PROGRAM, &subscriber, true).await?;
    let (looked_at, done) = (AtomicU64::new(0), CancellationToken::new());
    let compression = settings.compression()?;
    let planning = async {
        let planned = jobs.plan(&subscriber, compression, &looked_at).await;
        done.cancel();
        planned
    };
    let progress_now = || format!("{} read", many(looked_at.load(Ordering::Relaxed), "file"));
    let (plan, ()) = tokio::join!(planning, progress::show(progress_now, done.clone()));
    let plan = plan?;
    let is_good = plan.types.iter().all(|of| of.files_quarantined == 0);
    if common.format == Format::Json {
        json(&plan)?;
    } else {
        show(&plan)?;
    }
    Ok(if is_good { Outcome::Done } else { Outcome::Quarantined })
}

fn show(plan: &Plan) -> anyhow::Result<()> {
    let rows = |of: &TypePlan| {
        let TypePlan { rows, .. } = of;
        [rows.rows_passed, rows.rows_deleted, rows.rows_unwanted, rows.rows_left_out].map(count)
    };
    table(
        &[
            "TYPE",
            "BECOMES",
            "FILES",
            "OUT",
            "ROWS PASS",
            "DELETED",
            "BECOME DELETIONS",
            "LEFT OUT",
            "BYTES",
            "BYTES OUT",
        ],
        plan.types.iter().map(|of| {
            let [passed, deleted, unwanted, left_out] = rows(of);
            let (files, out) = (count(of.files), count(of.files_out));
            let (bytes, bytes_out) = (count(of.bytes), count(of.bytes_out));
            vec![of.from.clone(), of.to.clone(), files, out, passed, deleted, unwanted, left_out, bytes, bytes_out]
        }),
    )?;
    let sum = |of: fn(&TypePlan) -> u64| plan.types.iter().map(of).sum::<u64>();
    for (verdict, files, what) in [
        (FileVerdict::Quarantined, sum(|of| of.files_quarantined), "would be quarantined"),
        (FileVerdict::Expired, sum(|of| of.files_expired), "would be expired"),
        (FileVerdict::PutOff, sum(|of| of.files_unreadable), "cannot be read now"),
    ] {
        if files > 0 {
            line(format_args!("\n{} {what}:", many(files, "file")))?;
            for file in plan.files.iter().filter(|file| file.verdict == verdict) {
                let reason = file.reason.map(|reason| format!("{reason}: ")).unwrap_or_default();
                line(format_args!("file {} ({}): {reason}{}", file.id, file.from, in_one_line(&file.problem)))?;
            }
        }
    }
    Ok(())
}
