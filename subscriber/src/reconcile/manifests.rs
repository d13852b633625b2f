//! Files that manifests name and no message announced.

use waybill_contracts::{Fate, MANIFEST_TYPE, ManifestRow, ManifestScope, Metadata};

use super::{AddedFile, PAGE, ReconcileError, Reconciled, UnusableBlob, Walk};
use crate::{
    fetch::{Claim, FetchError},
    inbox::{Announced, Arrival, Inbox, InboxRow, ListFilter, Pages, SequenceSeen, State},
    look::{FileRows, LookError},
    manifest,
    receive::announced,
};

impl<I: Inbox> Walk<'_, I> {
    /// Reads the manifests that may name a file that never came, and admits what they name.
    pub(super) async fn read_manifests(&self, found: &mut Reconciled) -> Result<(), ReconcileError> {
        let sequences = self.inbox.sequences().await?;
        let of_manifests =
            ListFilter { blob_type: Some(MANIFEST_TYPE.to_owned()), most: PAGE.get(), ..ListFilter::default() };
        let mut pages = Pages::new(of_manifests);
        while let Some(rows) = pages.next(self.inbox).await? {
            for row in rows.into_iter().filter(|row| row.file.is_some() && row.state != State::Duplicate) {
                found.manifests += 1;
                let Ok(metadata) = Metadata::parse(row.body.as_bytes()) else { continue };
                let is_of_interest = ManifestScope::of(&metadata)
                    .is_none_or(|scope| self.is_wanted(&scope.blob_type) && may_lack(&sequences, &scope));
                if is_of_interest {
                    self.read_manifest(&row, &metadata, found).await?;
                }
            }
        }
        Ok(())
    }

    async fn read_manifest(
        &self,
        row: &InboxRow,
        metadata: &Metadata,
        found: &mut Reconciled,
    ) -> Result<(), ReconcileError> {
        let failed = |source: LookError| ReconcileError::Manifest { id: row.id, source: Box::new(source) };
        let claim = Claim::of_row(row, metadata);
        let opened = async {
            let blob = self.storage.locate(self.inbox, claim, self.now).await?;
            let download = blob.open(claim, (0, None), self.now).await?;
            FileRows::of_blob(blob.name().to_owned(), download, metadata, None, &self.limits, false)
        };
        let mut rows = match opened.await {
            Ok(rows) => rows,
            // What it named is over by then.
            Err(LookError::Fetch(FetchError::Gone { .. } | FetchError::Missing { .. })) => {
                found.manifests_gone += 1;
                return Ok(());
            }
            Err(error) => return Err(failed(error)),
        };
        let publisher = manifest::publisher(metadata);
        while let Some(batch) = rows.next().await.map_err(failed)? {
            let mut files = Vec::new();
            for named in manifest::rows(&batch, &publisher) {
                match named {
                    Ok(named) => files.extend(self.file_of(row, named)),
                    Err(bad) => {
                        let problem = format!("row {}: {}", bad.row, bad.problem);
                        found.unusable.add(UnusableBlob { blob: rows.name().to_owned(), problem });
                    }
                }
            }
            for page in files.chunks(PAGE.get() as usize) {
                self.admit_files(page.to_vec(), found).await?;
                if self.dry_run {
                    found.named.extend(page.iter().map(|(file, _)| file.file.clone()));
                }
            }
        }
        Ok(())
    }

    /// The file that a row names, as its message would bring it. The same row is the same arrival, however often it is read.
    fn file_of(&self, manifest: &InboxRow, named: ManifestRow) -> Option<(AddedFile, Arrival)> {
        let Fate::Sent(message) = named.fate else { return None };
        if !self.is_wanted(&named.blob_type) {
            return None;
        }
        let announced = announced(&message.to_json().ok()?);
        let Announced::File(waybill) = &announced else { return None };
        let blob = message.uri_without_query().to_owned();
        let file = AddedFile { id: None, file: waybill.key.clone(), blob_type: named.blob_type, blob };
        let arrival = Arrival {
            entity_path: format!("manifest {}", manifest.file.as_ref()?),
            sequence_number: i64::try_from(named.sequence).unwrap_or(i64::MAX),
            enqueued_at: manifest.enqueued_at,
            message_id: None,
            announced,
        };
        Some((file, arrival))
    }
}

/// Whether a number that a manifest names may never have come.
fn may_lack(sequences: &[SequenceSeen], scope: &ManifestScope) -> bool {
    let ManifestScope { publisher, epoch, blob_type, first, last } = scope;
    let same = |of: &&SequenceSeen| (&of.publisher, &of.epoch, &of.blob_type) == (publisher, epoch, blob_type);
    sequences.iter().find(same).is_none_or(|of| {
        let named: u64 = of.gaps.iter().map(|gap| gap.to - gap.from + 1).sum();
        *first < of.first || named < of.missing || of.gaps.iter().any(|gap| gap.from <= *last && gap.to >= *first)
    })
}
