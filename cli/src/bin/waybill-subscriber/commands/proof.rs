//! What a rebuild stands on: all files that there ever were, or full exports for those that are missing.

use std::collections::BTreeSet;

use anyhow::bail;
use serde::Serialize;
use waybill_cli::{
    args::Common,
    output::{count, many},
    settings::subscriber::Settings,
};
use waybill_contracts::Entities;
use waybill_subscriber::{
    apply::Begin,
    inbox::{Inbox, Wanted},
    replay::{self, Coverage, FullExport, FullExports, UnfitFullExport, Waiting, full_exports},
};

use super::copy::say_gaps;

/// Full exports of a type at which no table can begin that are told, the latest ones.
const TOLD_MAX: usize = 3;

/// What was found.
pub(super) struct Proof {
    /// What is missing all the same.
    coverage: Coverage,
    /// At which full exports tables begin.
    pub(super) begins: Vec<FullExport>,
    /// At which none can, though something of their types is missing.
    unfit: Vec<UnfitFullExport>,
    /// At which tables could begin whose files all came, if these cannot be had any more.
    pub(super) spare: Vec<FullExport>,
}

/// At which full export a table begins, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Begun {
    #[serde(flatten)]
    pub(super) begin: Begin,
    parts: u64,
    /// Files before it that could not be worked any more.
    pub(super) files_passed_over: u64,
}

/// Why none begins at a full export, as JSON.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Unfit {
    #[serde(flatten)]
    begin: Begin,
    problem: String,
}

impl Proof {
    /// Tables begin at full exports only where files are missing, or `lost`: all came of these types, and some cannot be had any more.
    /// The blobs of full exports are asked only where that is decisive.
    pub(super) async fn find(
        inbox: &impl Inbox,
        wanted: &Wanted,
        entities: &Entities,
        lost: &BTreeSet<String>,
        (common, settings): (&Common, &Settings),
        incomplete: bool,
    ) -> anyhow::Result<Self> {
        let coverage = async |begins: &[FullExport]| replay::coverage(inbox, wanted, Waiting::Comes, begins).await;
        let without = coverage(&[]).await?;
        let missing = |coverage: &Coverage, of: &Begin| coverage.missing_of.get(&of.blob_type).copied().unwrap_or(0);
        let FullExports { mut whole, mut unfit } = full_exports(inbox, wanted, entities).await?;
        loop {
            let mut begins: Vec<FullExport> = Vec::new();
            for of in &whole {
                if begins.iter().all(|latest| latest.begin.blob_type != of.begin.blob_type) {
                    begins.push(of.clone());
                }
            }
            let coverage = coverage(&begins).await?;
            // One that stands for nothing that is missing is not needed.
            begins.retain(|FullExport { begin, .. }| {
                missing(&coverage, begin) < missing(&without, begin) || lost.contains(&begin.blob_type)
            });
            let is_decisive = !begins.is_empty() && (coverage.is_complete() || incomplete);
            let mut disproved = None;
            if is_decisive {
                let looker = settings.looker(common.local.as_deref()).await?;
                for of in &begins {
                    if let Some(flaw) = looker.disprove(of).await? {
                        disproved = Some((of.clone(), flaw));
                        break;
                    }
                }
            }
            let Some((of, flaw)) = disproved else {
                unfit.retain(|UnfitFullExport { begin, .. }| {
                    missing(&coverage, begin) > 0
                        || (lost.contains(&begin.blob_type)
                            && begins.iter().all(|of| of.begin.blob_type != begin.blob_type))
                });
                let is_chosen =
                    |of: &FullExport| begins.iter().any(|begun| begun.begin.blob_type == of.begin.blob_type);
                whole.retain(|of| !is_chosen(of) && !lost.contains(&of.begin.blob_type));
                let spare = whole;
                return Ok(Self { coverage, begins, unfit, spare });
            };
            // An earlier one may do.
            whole.retain(|other| *other != of);
            unfit.push(of.unfit(flaw));
        }
    }

    /// Refuses what is not proven to be there, or tells of it when that was asked for.
    pub(super) fn refuse_gaps(&self, incomplete: bool) -> anyhow::Result<()> {
        if self.coverage.files == 0 {
            bail!("no file to derive tables from; `waybill-subscriber list` shows what was received");
        }
        if !self.coverage.is_complete() {
            say_gaps(&self.coverage);
        }
        self.say_unfit();
        if !self.coverage.is_complete() {
            if !incomplete {
                bail!(
                    "the files are not provably all, so tables derived from them might lack rows; nothing was done. Mend what is \
                     named above (`waybill-subscriber reconcile` finds files whose messages are lost; a full export, \
                     `waybill-publisher snapshot`, stands for files that nobody has any more), or go on without it: --incomplete"
                );
            }
            eprintln!("waybill-subscriber: going on without what is named above");
        }
        for FullExport { begin: Begin { blob_type, as_of, snapshot, .. }, parts } in &self.begins {
            eprintln!(
                "waybill-subscriber: {blob_type} begins at full export {snapshot:?}, {} as of number {}, which stands for the files \
                 before it",
                many(parts.len() as u64, "part"),
                count(*as_of),
            );
        }
        Ok(())
    }

    /// How much of a type is missing all the same.
    pub(super) fn missing_of(&self, blob_type: &str) -> u64 {
        self.coverage.missing_of.get(blob_type).copied().unwrap_or(0)
    }

    /// What is missing and was gone over.
    pub(super) fn gaps(&self) -> u64 {
        self.coverage.gaps_found
    }

    fn say_unfit(&self) {
        let mut told: Vec<&str> = Vec::new();
        for UnfitFullExport { begin: Begin { blob_type, as_of, snapshot, .. }, flaw } in &self.unfit {
            if told.iter().filter(|known| *known == blob_type).count() < TOLD_MAX {
                eprintln!(
                    "waybill-subscriber: {blob_type}: full export {snapshot:?}, as of number {}, does not stand for what is \
                     missing: {flaw}",
                    count(*as_of)
                );
            }
            told.push(blob_type);
        }
    }

    /// At which full exports tables begin, without a file passed over yet.
    pub(super) fn begun(&self) -> Vec<Begun> {
        let begun =
            |of: &FullExport| Begun { begin: of.begin.clone(), parts: of.parts.len() as u64, files_passed_over: 0 };
        self.begins.iter().map(begun).collect()
    }

    pub(super) fn unfit(&self) -> Vec<Unfit> {
        let unfit = |of: &UnfitFullExport| Unfit { begin: of.begin.clone(), problem: of.flaw.to_string() };
        self.unfit.iter().map(unfit).collect()
    }
}
