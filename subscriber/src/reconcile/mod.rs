//! Manifests and the container's listing against the inbox: files whose messages are lost, and messages whose files are.
//!
//! A manifest has the message of each file that it names, so a file of which none came is admitted with that.
//!
//! A blob of ours says in its name and headers what its message says, so it is admitted as the same file: a message that
//! still comes is a duplicate, and rows that took effect before are in the sink's progress. Blobs of others are counted and
//! left alone. The other way round, each file of this container that is still to be worked is looked for.
//!
//! One page of the listing and one page of the inbox are in memory. Every page is one transaction, so a walk that was cut
//! off is begun again, and walks side by side add each file once.

mod blob;
mod manifests;

use std::{collections::HashSet, num::NonZeroU32};

use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;
use time::OffsetDateTime;
use url::Url;
use waybill_azure::{
    GrantError,
    blob::{BlobError, Container},
};
use waybill_contracts::{BlobPath, Metadata, is_of_types};
use waybill_formats::Limits;

use self::blob::Reading;
pub(crate) use self::blob::extras as headers_say;
use crate::{
    FileKey,
    fetch::Storage,
    grants::place_of,
    inbox::{Admitted, Announced, Arrival, Inbox, InboxError, InboxRow, ListFilter, Pages, Place, State},
    look::LookError,
};

/// Items of each kind that are kept; more are counted.
pub const SHOWN_MAX: usize = 100;
/// Blobs in one page of the listing, and in one transaction of the inbox. With the longest headers that Azure takes
/// (8 KiB) they have 4 MiB.
const PAGE: NonZeroU32 = NonZeroU32::new(500).expect("it is not zero");
/// Blobs that are looked for at once.
const LOOKS_AT_ONCE: usize = 8;

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reconciled {
    /// Manifests in the inbox. Those that name nothing that is missing are not read.
    pub manifests: u64,
    /// Those of them whose blobs are gone.
    pub manifests_gone: u64,
    /// Containers that the grant does not let us list.
    pub unlisted: u64,
    /// Blobs in the listing.
    pub listed: u64,
    /// Files that the inbox did not know. They wait to be worked now, or would with a dry run.
    pub added: Found<AddedFile>,
    /// Files that the inbox knew.
    pub known: u64,
    /// Files of types that are not wanted.
    pub other_types: u64,
    /// Blobs that are none of ours: without an `exportid`, or with a name that no publisher of ours gives.
    pub foreign: u64,
    /// Blobs that are ours by their name, and whose headers do not say enough. They are left alone.
    pub unusable: Found<UnusableBlob>,
    /// Files in the inbox that are still to be worked and whose blobs are not there.
    pub missing: Found<MissingFile>,
    /// Those of a dry run that manifests name: the listing has them once more.
    #[serde(skip)]
    named: HashSet<FileKey>,
}

/// Items that were found, of which the first [`SHOWN_MAX`] are kept.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Found<T> {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub first: Vec<T>,
}

impl<T> Default for Found<T> {
    fn default() -> Self {
        Self { count: 0, first: Vec::new() }
    }
}

impl<T> Found<T> {
    fn add(&mut self, item: T) {
        self.count += 1;
        if self.first.len() < SHOWN_MAX {
            self.first.push(item);
        }
    }
}

/// A file that the inbox did not know.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AddedFile {
    /// Its number in the inbox; none with a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// The file.
    pub file: FileKey,
    /// The type.
    pub blob_type: String,
    /// The blob's name; of a file that a manifest names, its address.
    pub blob: String,
}

/// A blob that is ours and cannot be admitted, or a row of a manifest that cannot.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UnusableBlob {
    /// Its name.
    pub blob: String,
    /// What is wrong.
    pub problem: String,
}

/// A file that is to be worked and is not there.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingFile {
    /// Its number in the inbox.
    pub id: i64,
    /// Where it is in its life.
    pub state: State,
    /// The type.
    pub blob_type: String,
    /// The blob's name.
    pub blob: String,
}

/// Why container and inbox could not be compared. What was added before stays, and the walk may be begun again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReconcileError {
    /// There is no token.
    #[error("no token for storage")]
    Grant(#[from] GrantError),
    /// The token does not open the listing.
    #[error(
        "the grant does not open the listing of {} / {} ({code}); ask the owner of TenantService for the right to list \
         (`sp=rl` in the token)", place.endpoint, place.container
    )]
    MayNotList {
        /// The container.
        place: Place,
        /// Storage's code.
        code: String,
    },
    /// A manifest cannot be read.
    #[error("manifest {id} cannot be read; `waybill-subscriber show {id}` says more of it")]
    Manifest {
        /// Its number in the inbox.
        id: i64,
        /// Why.
        source: Box<LookError>,
    },
    /// The grant does not name a container any more that it named at the begin.
    #[error("the grant does not open {} / {} any more; begin again", .0.endpoint, .0.container)]
    Moved(Place),
    /// Storage failed.
    #[error("storage failed")]
    Blob(#[from] BlobError),
    /// The inbox failed.
    #[error("the inbox failed")]
    Inbox(#[from] InboxError),
}

/// One walk. See the module.
pub(crate) struct Walk<'a, I> {
    pub(crate) storage: Storage,
    pub(crate) inbox: &'a I,
    /// Only these types; `None` for all.
    pub(crate) types: Option<Vec<String>>,
    /// Nothing is added.
    pub(crate) dry_run: bool,
    pub(crate) limits: Limits,
    pub(crate) now: OffsetDateTime,
}

impl<I: Inbox> Walk<'_, I> {
    pub(crate) async fn run(self) -> Result<Reconciled, ReconcileError> {
        let mut found = Reconciled::default();
        self.read_manifests(&mut found).await?;
        for grant in self.storage.grants().await? {
            self.walk(&self.storage.at(&grant), &place_of(&grant), &mut found).await?;
        }
        Ok(found)
    }

    /// Through one container.
    async fn walk(&self, container: &Container, place: &Place, found: &mut Reconciled) -> Result<(), ReconcileError> {
        if !self.dry_run {
            self.inbox.remember_place(place).await?;
        }
        let mut listing = container.list("", PAGE);
        loop {
            let page = match listing.next_page().await {
                Ok(page) => page,
                // The manifests have been compared.
                Err(BlobError::AccessRefused { .. }) if found.manifests > 0 => {
                    found.unlisted += 1;
                    break;
                }
                Err(BlobError::AccessRefused { code, .. }) => {
                    return Err(ReconcileError::MayNotList { place: place.clone(), code });
                }
                Err(BlobError::Grant(GrantError::Elsewhere { .. })) => {
                    return Err(ReconcileError::Moved(place.clone()));
                }
                Err(error) => return Err(error.into()),
            };
            let Some(page) = page else { break };
            found.listed += page.len() as u64;
            self.admit(page.iter().map(|blob| blob::read(place, blob)).collect(), found).await?;
        }
        self.look_for_missing(container, place, found).await
    }

    /// Takes a page of blobs: those that the inbox does not know are added.
    async fn admit(&self, page: Vec<Reading>, found: &mut Reconciled) -> Result<(), ReconcileError> {
        let mut files = Vec::new();
        for reading in page {
            match reading {
                Reading::Foreign => found.foreign += 1,
                Reading::Unusable(blob) => found.unusable.add(blob),
                Reading::File { blob, arrival } => {
                    let Announced::File(waybill) = &arrival.announced else { continue };
                    if !self.is_wanted(&waybill.metadata.blob_type) {
                        found.other_types += 1;
                        continue;
                    }
                    let blob_type = waybill.metadata.blob_type.clone();
                    files.push((AddedFile { id: None, file: waybill.key.clone(), blob_type, blob }, arrival));
                }
            }
        }
        self.admit_files(files, found).await
    }

    /// Adds those that the inbox does not know.
    async fn admit_files(
        &self,
        mut files: Vec<(AddedFile, Arrival)>,
        found: &mut Reconciled,
    ) -> Result<(), ReconcileError> {
        let keys: Vec<FileKey> = files.iter().map(|(file, _)| file.file.clone()).collect();
        let known = self.inbox.known(&keys).await?;
        files = files.into_iter().zip(&known).filter(|(_, id)| id.is_none()).map(|(file, _)| file).collect();
        found.known += (keys.len() - files.len()) as u64;
        let (mut files, arrivals): (Vec<AddedFile>, Vec<_>) = files.into_iter().unzip();
        if self.dry_run {
            files.retain(|file| !found.named.contains(&file.file));
            files.into_iter().for_each(|file| found.added.add(file));
            return Ok(());
        }
        for (file, admitted) in files.into_iter().zip(self.inbox.admit(arrivals).await?) {
            match admitted {
                Admitted::Saved(id) => found.added.add(AddedFile { id: Some(id), ..file }),
                // Its message came, or another walk was here, since the inbox was asked.
                Admitted::Duplicate { .. } | Admitted::AlreadySeen(_) | Admitted::Quarantined(..) => found.known += 1,
            }
        }
        Ok(())
    }

    /// Looks for the blob of every file that is still to be worked: a request each, because what the listing showed would
    /// have to be remembered.
    async fn look_for_missing(
        &self,
        container: &Container,
        place: &Place,
        found: &mut Reconciled,
    ) -> Result<(), ReconcileError> {
        for state in [State::Saved, State::Working, State::Quarantined] {
            let filter = ListFilter { state: Some(state), most: PAGE.get(), ..ListFilter::default() };
            let mut pages = Pages::new(filter);
            while let Some(rows) = pages.next(self.inbox).await? {
                let looks = rows.into_iter().filter_map(|row| {
                    let blob = self.blob_in(place, &row)?;
                    let blob_type = row.blob_type.filter(|name| self.is_wanted(name))?;
                    Some(MissingFile { id: row.id, state, blob_type, blob: blob.as_str().to_owned() })
                });
                let missing: Vec<MissingFile> = stream::iter(looks)
                    .map(|file| self.missing(container, file))
                    .buffered(LOOKS_AT_ONCE)
                    .try_filter_map(async |file| Ok(file))
                    .try_collect()
                    .await?;
                missing.into_iter().for_each(|file| found.missing.add(file));
            }
        }
        Ok(())
    }

    async fn missing(&self, container: &Container, file: MissingFile) -> Result<Option<MissingFile>, ReconcileError> {
        match container.head(&file.blob).await {
            Ok(_) => return Ok(None),
            Err(BlobError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        // Worked to its end meanwhile, it may have been deleted since.
        let state = self.inbox.get(file.id).await?.map(|row| row.state);
        Ok((state == Some(file.state)).then_some(file))
    }

    /// The row's blob, where it lies in this place.
    fn blob_in(&self, place: &Place, row: &InboxRow) -> Option<BlobPath> {
        let uri = Metadata::parse(row.body.as_bytes()).ok()?.blob_uri().ok()?;
        self.storage.aliases.under(&uri, &Url::parse(&place.endpoint).ok()?, &place.container)
    }

    fn is_wanted(&self, blob_type: &str) -> bool {
        self.types.as_ref().is_none_or(|types| is_of_types(blob_type, types))
    }
}
