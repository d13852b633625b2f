//! A claimed file to a stream of bytes, from storage or from a copy in the cache: where it lies is checked here, and nowhere is
//! the SAS sent but to its own grant's endpoint.

mod aliases;

use std::sync::Arc;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::mpsc;
use waybill_azure::{
    Grant, GrantError, OnePlace, Service, TokenSource,
    blob::{BlobError, BlobFacts, BlobHeaders, Container, ContainerOptions, Download, ReadAhead, Traffic},
    http::HttpClient,
};
use waybill_contracts::{BlobPath, BlobUriError, Metadata, Reason};

pub use self::aliases::{AliasError, HostAliases};
use crate::{
    Blame, Verdict,
    cache::{Cache, Copy, Draft},
    grants::place_of,
    inbox::{BlobSeen, Inbox, InboxError, InboxRow, Leased, Place, Waybill},
    rows::Chunk,
};

/// A file whose blob is missing is waited for this long after it was received, when its message names no `expiresAt`.
const MISSING_BLOB_PATIENCE: time::Duration = time::Duration::DAY;

/// So many bytes of one file, or its end, show that storage works; one that opens every file and then dies does not.
const SHOWN_BYTES: u64 = 256 << 10;

/// Of a range beside the first one of a download, at most.
pub(crate) const RANGE_AHEAD_BYTES: u64 = 4 << 20;

/// Why a claimed file cannot be streamed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The address in the message cannot be used.
    #[error("the file's address cannot be used")]
    BadUri(#[from] BlobUriError),
    /// No grant ever named the place; the SAS was not sent there.
    #[error(
        "{uri} lies where no grant ever pointed; it was not fetched. If its host is another name of the grant's, say so in \
         [subscriber.storage.aliases]; else ask the publisher why no grant names it. The message is kept"
    )]
    ForeignUri {
        /// Without its query.
        uri: String,
    },
    /// An earlier grant named the place, the current one does not.
    #[error("{uri} lies in {} / {}, which the current grant does not open; it waits for one that does", place.endpoint, place.container)]
    ElsewhereNow {
        /// Without its query.
        uri: String,
        /// Where it lies.
        place: Place,
    },
    /// There is no token.
    #[error("no token for storage")]
    Grant(#[from] GrantError),
    /// The blob is not there.
    #[error("the blob is missing; it is tried again until {until}")]
    Missing {
        /// When we give up.
        until: OffsetDateTime,
    },
    /// The blob is not there, and its time is over.
    #[error("the blob is gone and its time was over at {since}; ask the publisher to export it again")]
    Gone {
        /// Since when.
        since: OffsetDateTime,
    },
    /// The blob is not as long as its message says.
    #[error(
        "the blob has {found} bytes, its message says {announced}; ask the publisher to export it again under a new name"
    )]
    LengthDiffers {
        /// By `properties.waybill.bytes`.
        announced: u64,
        /// By storage.
        found: u64,
    },
    /// Storage failed.
    #[error("storage failed")]
    Blob(#[from] BlobError),
    /// The inbox could not say whether the place is known.
    #[error("the inbox failed")]
    Inbox(#[from] InboxError),
}

impl FetchError {
    /// Where the file goes.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let dependency = |after| Verdict::Retry { after, blame: Blame::Dependency };
        let file = Verdict::Retry { after: None, blame: Blame::File };
        match self {
            Self::BadUri(error) => Verdict::Quarantine(error.reason),
            Self::ForeignUri { .. } => Verdict::Quarantine(Reason::ForeignUri),
            Self::ElsewhereNow { .. } | Self::Missing { .. } => file,
            Self::Gone { .. } => Verdict::Expire,
            Self::LengthDiffers { .. } => Verdict::Quarantine(Reason::HashMismatch),
            // The grant moved since the file was found; there is no harm in others that lie where it points now.
            Self::Grant(GrantError::Elsewhere { .. }) | Self::Blob(BlobError::Grant(GrantError::Elsewhere { .. })) => {
                file
            }
            Self::Grant(GrantError::Unavailable { retry_after, .. }) => dependency(*retry_after),
            Self::Grant(_) | Self::Inbox(_) => dependency(None),
            Self::Blob(error) => match error {
                BlobError::Grant(_)
                | BlobError::AccessRefused { .. }
                | BlobError::TokenWithheld { .. }
                | BlobError::ContainerNotFound { .. }
                | BlobError::Busy { .. }
                | BlobError::Lost { .. } => dependency(error.retry_after()),
                // Neither the blob nor the container is said to be missing: the account, or a proxy in front of it.
                BlobError::Refused { status: 404, .. } => dependency(None),
                BlobError::Refused { status: 400..=499, .. } => file,
                BlobError::Refused { .. } => dependency(None),
                BlobError::Unfit { .. } => Verdict::Quarantine(Reason::BadUri),
                // Changed: from its begin again, with the new ETag. Archived: until somebody rehydrates it, on its own
                // clock, because other files can be had. An answer that cannot be right may be about this blob alone.
                BlobError::Changed { .. }
                | BlobError::NotFound { .. }
                | BlobError::Archived { .. }
                | BlobError::BadAnswer { .. } => file,
                // Of uploads, or newer than this: what passes is nobody's fault, what stays is kept to this file.
                _ if error.is_transient() => dependency(error.retry_after()),
                _ => file,
            },
        }
    }
}

impl FetchError {
    /// Whether storage answered, and what it said is about this file alone.
    pub(crate) fn is_answer(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::LengthDiffers { .. } => true,
            Self::Blob(BlobError::Grant(_)) => false,
            Self::Blob(_) => !matches!(self.verdict(), Verdict::Retry { blame: Blame::Dependency, .. }),
            _ => false,
        }
    }
}

/// What a message says of its file, and when it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'m> {
    pub(crate) metadata: &'m Metadata,
    pub(crate) expires_at: Option<OffsetDateTime>,
    pub(crate) received_at: OffsetDateTime,
    /// The blob that was noted last, if that is known.
    pub(crate) seen: Option<&'m BlobSeen>,
}

impl<'m> Claim<'m> {
    pub(crate) fn of(file: &'m Leased) -> Self {
        let Waybill { metadata, expires_at, .. } = &file.waybill;
        Self { metadata, expires_at: *expires_at, received_at: file.received_at, seen: file.blob.as_ref() }
    }

    /// Of what the inbox has; whatever it noted of a blob is not asked for.
    pub(crate) fn of_row(row: &InboxRow, metadata: &'m Metadata) -> Self {
        Self { metadata, expires_at: row.expires_at, received_at: row.received_at, seen: None }
    }

    /// How long the blob is, by the message.
    fn announced(&self) -> Option<u64> {
        self.metadata.extras().ok().and_then(|extras| extras.bytes)
    }
}

/// The containers that the grants name, whichever these are at the moment.
#[derive(Debug, Clone)]
pub(crate) struct Storage {
    pub(crate) http: HttpClient,
    pub(crate) tokens: Arc<dyn TokenSource>,
    pub(crate) options: ContainerOptions,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) ahead: Arc<ReadAhead>,
    pub(crate) cache: Option<Arc<Cache>>,
    pub(crate) aliases: HostAliases,
}

impl Storage {
    /// Those that are named now; never empty.
    pub(crate) async fn grants(&self) -> Result<Vec<Grant>, GrantError> {
        self.tokens.grants(Service::Blob, None).await
    }

    /// Whether every place that the grants name answers a reader.
    pub(crate) async fn answers(&self) -> bool {
        let Ok(grants) = self.grants().await else { return false };
        for grant in &grants {
            if self.at(grant).check().await.is_err() {
                return false;
            }
        }
        true
    }

    /// The container of a grant, for as long as there is one for it.
    pub(crate) fn at(&self, grant: &Grant) -> Container {
        let tokens = Arc::new(OnePlace::of(Arc::clone(&self.tokens), grant));
        Container::new(self.http.clone(), tokens, self.options.clone())
            .counting(Arc::clone(&self.traffic))
            .reading_ahead(Arc::clone(&self.ahead))
    }

    /// Finds where the file lies by the current grants.
    ///
    /// # Errors
    /// [`FetchError::ForeignUri`] and [`FetchError::ElsewhereNow`] among others; no request was made to the file's host then.
    pub(crate) async fn locate(
        &self,
        inbox: &impl Inbox,
        file: Claim<'_>,
        now: OffsetDateTime,
    ) -> Result<Located, FetchError> {
        let uri = file.metadata.blob_uri()?;
        let grants = self.grants().await?;
        // A host that a grant names is that one, whatever else it may stand for.
        let is_named = grants.iter().any(|grant| grant.endpoint.origin().ascii_serialization() == uri.origin);
        let none = HostAliases::default();
        let aliases = if is_named { &none } else { &self.aliases };
        let mut here = grants.iter().filter_map(|grant| {
            let blob = aliases.under(&uri, &grant.endpoint, &grant.entity)?;
            Some((grant, blob))
        });
        if let Some((grant, blob)) = here.next() {
            let cache = self.cache.clone().map(|cache| (cache, uri.normalised()));
            return Ok(Located { container: self.at(grant), blob, cache });
        }
        for place in inbox.places().await? {
            if !grants.iter().any(|grant| place_of(grant) == place) && aliases.holds(&place, &uri) {
                return Err(match file.expires_at {
                    Some(since) if since <= now => FetchError::Gone { since },
                    _ => FetchError::ElsewhereNow { uri: uri.normalised(), place },
                });
            }
        }
        Err(FetchError::ForeignUri { uri: uri.normalised() })
    }
}

/// A file's blob, and the container that it is in.
#[derive(Debug)]
pub(crate) struct Located {
    container: Container,
    blob: BlobPath,
    /// And under which name it has copies there.
    cache: Option<(Arc<Cache>, String)>,
}

impl Located {
    /// The blob's name, for people.
    pub(crate) fn name(&self) -> &str {
        self.blob.as_str()
    }

    /// Where it is in its container.
    pub(crate) fn path(&self) -> &BlobPath {
        &self.blob
    }

    /// What storage says of the blob.
    ///
    /// # Errors
    /// [`FetchError`].
    pub(crate) async fn facts(&self, file: Claim<'_>, now: OffsetDateTime) -> Result<BlobFacts, FetchError> {
        self.container.head(self.name()).await.map_err(|error| gone_or(error, file, now))
    }

    /// Opens the file at stored byte `at`: an ordinary gzip can be read from its begin only. With `etag`, only if it is still
    /// the one that was read before. A copy in the cache does as well, when it is of the blob that storage has; or of the one
    /// that was read before, or of one that storage has no more.
    ///
    /// # Errors
    /// [`FetchError`].
    pub(crate) async fn open(
        &self,
        file: Claim<'_>,
        (at, etag): (u64, Option<&str>),
        now: OffsetDateTime,
    ) -> Result<Fetched, FetchError> {
        if let Some((cache, uri)) = &self.cache
            && let Some(copy) = cache.find(uri).await
            && at <= copy.length()
            && let Some(known) = self.known(&copy, etag, &file).await
        {
            cache.hit(&copy);
            return Fetched::of_copy(copy, self, at, known).announced(&file);
        }
        let download = self.container.download(self.name(), at, etag).await;
        let download = download.map_err(|error| gone_or(error, file, now))?;
        let mut fetched = Fetched::of_download(download).announced(&file)?;
        if let Some((cache, uri)) = &self.cache
            && at == 0
        {
            fetched.draft = cache.begin(uri, &fetched.facts).await;
        }
        Ok(fetched)
    }

    /// Why the copy is one of the wanted blob; `None`: it is not, or nobody knows.
    async fn known(&self, copy: &Copy, etag: Option<&str>, file: &Claim<'_>) -> Option<Known> {
        if let Some(wanted) = etag {
            return (wanted == copy.etag()).then_some(Known::Reader);
        }
        match self.container.head(self.name()).await {
            Ok(facts) => (facts.etag == copy.etag() && facts.length == copy.length()).then_some(Known::Storage),
            // Nobody has another one. But the file may never have been the one that there is a copy of: its address was used
            // before, perhaps.
            Err(BlobError::NotFound { .. }) => {
                let extras = file.metadata.extras().unwrap_or_default();
                let is_as_long = extras.bytes.is_none_or(|announced| announced == copy.length());
                match (file.seen.is_some_and(|seen| seen.etag == copy.etag()), extras.plain_sha256) {
                    _ if !is_as_long => None,
                    (true, _) => Some(Known::Storage),
                    (false, Some(_)) => Some(Known::Hash),
                    (false, None) => None,
                }
            }
            // The download says it.
            Err(_) => None,
        }
    }
}

/// Why a copy is one of the wanted blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// Who reads it wants this one.
    Reader,
    /// Storage says so, or that the blob which was read before is gone.
    Storage,
    /// Storage says that it is gone; the announced hash has to show it.
    Hash,
}

/// A file's stored bytes, on their way.
#[derive(Debug)]
pub(crate) struct Fetched {
    facts: BlobFacts,
    position: u64,
    source: Source,
    /// What becomes a copy of it.
    draft: Option<Draft>,
}

#[derive(Debug)]
enum Source {
    Storage(Box<Download>),
    /// Should the copy not be right, the rest comes from the container.
    Copy {
        copy: Copy,
        known: Known,
        container: Container,
        blob: String,
        cache: Option<(Arc<Cache>, String)>,
    },
}

impl Fetched {
    fn of_download(download: Download) -> Self {
        let (facts, position) = (download.facts().clone(), download.position());
        Self { facts, position, source: Source::Storage(Box::new(download)), draft: None }
    }

    fn of_copy(copy: Copy, blob: &Located, at: u64, known: Known) -> Self {
        let (etag, length) = (copy.etag().to_owned(), copy.length());
        let facts = BlobFacts { etag, length, headers: BlobHeaders::default(), content_encoding: None };
        let (container, cache) = (blob.container.clone(), blob.cache.clone());
        let source = Source::Copy { copy, known, container, blob: blob.name().to_owned(), cache };
        Self { facts, position: at, source, draft: None }
    }

    fn announced(self, file: &Claim<'_>) -> Result<Self, FetchError> {
        match file.announced() {
            Some(announced) if announced != self.facts.length => {
                Err(FetchError::LengthDiffers { announced, found: self.facts.length })
            }
            _ => Ok(self),
        }
    }

    /// Of the whole blob; of a copy, its headers are not known.
    pub(crate) fn facts(&self) -> &BlobFacts {
        &self.facts
    }

    /// Whether storage gives it, or at least said what it knows of it.
    pub(crate) fn is_from_storage(&self) -> bool {
        match &self.source {
            Source::Storage(_) => true,
            Source::Copy { known, .. } => *known != Known::Reader,
        }
    }

    /// Whether its hash has to show that it is the file: before any of its rows is used, whoever reads it compares the hash.
    pub(crate) fn is_unsure(&self) -> bool {
        matches!(self.source, Source::Copy { known: Known::Hash, .. })
    }

    /// The next bytes, never empty; `None` at the end.
    ///
    /// # Errors
    /// What the download met.
    ///
    /// # Cancel safety
    /// Not cancel-safe: bytes may be lost with a call that is dropped.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        let bytes = loop {
            match &mut self.source {
                Source::Storage(download) => match download.next().await? {
                    Some(bytes) => break bytes,
                    None => return Ok(None),
                },
                Source::Copy { .. } if self.position == self.facts.length => return Ok(None),
                Source::Copy { copy, container, blob, cache, .. } => match copy.read(self.position).await {
                    Ok(bytes) => break bytes,
                    Err(problem) => {
                        if let Some((cache, uri)) = cache {
                            cache.doubt(uri, copy, problem).await;
                        }
                        let rest = container.download(blob, self.position, Some(&self.facts.etag)).await?;
                        self.source = Source::Storage(Box::new(rest));
                    }
                },
            }
        };
        self.position += bytes.len() as u64;
        if let Some(draft) = &mut self.draft {
            draft.add(&bytes).await;
        }
        Ok(Some(bytes))
    }

    /// What can be kept of it, once it was read to its end and found right.
    pub(crate) fn into_draft(self) -> Option<Draft> {
        self.draft.filter(|_| self.position == self.facts.length)
    }
}

/// Keeps a copy of a file that was read to its end and found right.
pub(crate) async fn keep(draft: Option<Draft>) {
    if let Some(draft) = draft {
        draft.keep().await;
    }
}

/// Of a blob that is not there: whether it is waited for.
fn gone_or(error: BlobError, file: Claim<'_>, now: OffsetDateTime) -> FetchError {
    if !matches!(error, BlobError::NotFound { .. }) {
        return error.into();
    }
    let until = file.expires_at.unwrap_or(file.received_at + MISSING_BLOB_PATIENCE);
    if now < until { FetchError::Missing { until } } else { FetchError::Gone { since: until } }
}

/// Streams the rest of a file into `to`; when nobody takes it any more, it ends quietly. Tells once when storage has
/// [shown](SHOWN_BYTES) that it works.
///
/// # Errors
/// What the download met; `to` is closed without [`Chunk::End`] then.
pub(crate) async fn stream(
    fetched: &mut Fetched,
    to: mpsc::Sender<Chunk>,
    works: impl FnOnce(),
) -> Result<(), FetchError> {
    let (begin, mut works) = (fetched.position, Some(works));
    loop {
        let bytes = fetched.next().await?;
        if (bytes.is_none() || fetched.position - begin >= SHOWN_BYTES)
            && fetched.is_from_storage()
            && let Some(works) = works.take()
        {
            works();
        }
        let Some(bytes) = bytes else { break };
        if to.send(Chunk::Bytes(bytes)).await.is_err() {
            return Ok(());
        }
    }
    let _nobody_listens = to.send(Chunk::End).await;
    Ok(())
}
