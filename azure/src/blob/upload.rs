//! Staged blocks and one conditional commit.

use std::{
    collections::HashMap,
    future::Future,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use azure_core::http::RequestContent;
use azure_storage_blob::models::{
    BlockBlobClientCommitBlockListOptions, BlockBlobClientCommitBlockListResultHeaders, BlockLookupList,
};
use bytes::Bytes;

use super::{BlobError, BlobFacts, BlobHeaders, Container, retry::retried};

/// An upload under way. Dropping it leaves staged blocks that are never committed (Azure forgets them after a week).
#[derive(Debug)]
pub struct Upload {
    container: Container,
    blob: String,
    attempt: u64,
    begun: AtomicU32,
    staged: AtomicU32,
    /// The block that goes first.
    first_begun: AtomicBool,
    first_staged: AtomicBool,
    bytes: AtomicU64,
}

/// The index of the block that goes first; a blob has at most 50,000.
const FIRST: u32 = u32::MAX;

impl Upload {
    pub(super) fn new(container: Container, blob: String) -> Self {
        Self {
            container,
            blob,
            attempt: rand::random(),
            begun: AtomicU32::new(0),
            staged: AtomicU32::new(0),
            first_begun: AtomicBool::new(false),
            first_staged: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
        }
    }

    /// Stages the next block; `&self`, so that several may be under way: the order is that of the calls (not of their
    /// first polls). No bytes make no block. The bytes are held until the call ends, and not copied.
    ///
    /// # Errors
    /// [`BlobError`]. Lost connections, 429 and 5xx are retried here on the same block id (which is harmless), 5 tries in
    /// all. After an error this upload cannot be committed any more.
    ///
    /// # Cancel safety
    /// Dropping the call is safe for the blob, and like an error: the upload cannot be committed any more.
    pub fn stage(&self, bytes: Bytes) -> impl Future<Output = Result<(), BlobError>> + Send + '_ {
        let index = (!bytes.is_empty()).then(|| self.begun.fetch_add(1, Ordering::Relaxed));
        async move {
            let Some(index) = index else { return Ok(()) };
            self.stage_as(index, bytes).await?;
            self.staged.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    /// Stages the block that the blob begins with, before all others: for a file whose begin is known last. No bytes make
    /// no block; to be called once.
    ///
    /// # Errors
    /// As [`stage`](Self::stage).
    ///
    /// # Cancel safety
    /// As [`stage`](Self::stage).
    pub async fn stage_first(&self, bytes: Bytes) -> Result<(), BlobError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.first_begun.store(true, Ordering::Relaxed);
        self.stage_as(FIRST, bytes).await?;
        self.first_staged.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn stage_as(&self, index: u32, bytes: Bytes) -> Result<(), BlobError> {
        let id = block_id(self.attempt, index);
        let length = bytes.len() as u64;
        retried(|| {
            self.container.call(&self.blob, |client| {
                let (client, content) = (client.block_blob_client(), bytes.clone().into());
                let id = id.as_bytes();
                async move { client.stage_block(id, length, content, None).await }
            })
        })
        .await?;
        self.bytes.fetch_add(length, Ordering::Relaxed);
        Ok(())
    }

    /// Commits the blocks with `If-None-Match: *`: the blob appears whole, or not at all, and is never overwritten. With
    /// no blocks it is empty. It gets no `Content-Encoding`.
    ///
    /// # Errors
    /// [`BlobError::AlreadyExists`] when there is one: the caller decides whether it is its own. A commit whose outcome is
    /// unknown is repeated; if it had succeeded this shows as `AlreadyExists` as well. [`BlobError::Unfinished`] when a
    /// [`stage`](Self::stage) failed or was dropped; [`BlobError::BlockVanished`] when storage lost a block (another
    /// upload of this name was committed, or a week went by).
    pub async fn commit(self, headers: &BlobHeaders) -> Result<BlobFacts, BlobError> {
        let (others, first) = (self.begun.into_inner(), self.first_begun.into_inner());
        let (begun, staged) =
            (others + u32::from(first), self.staged.into_inner() + u32::from(self.first_staged.into_inner()));
        if begun != staged {
            return Err(BlobError::Unfinished { blob: self.blob, staged, begun });
        }
        check_headers(headers).map_err(|problem| BlobError::Unfit { blob: self.blob.clone(), problem })?;
        let order = first.then_some(FIRST).into_iter().chain(0..others);
        let blocks = order.map(|index| block_id(self.attempt, index).into_bytes()).collect();
        let list = RequestContent::try_from(BlockLookupList { latest: Some(blocks), ..Default::default() })
            .map_err(|error| BlobError::Unfit { blob: self.blob.clone(), problem: error.to_string() })?;
        let metadata: HashMap<String, String> = headers.metadata.clone().into_iter().collect();
        let options = BlockBlobClientCommitBlockListOptions {
            blob_content_type: Some(headers.content_type.clone()),
            metadata: Some(metadata),
            if_none_match: Some("*".into()),
            ..Default::default()
        };
        let committed = retried(|| {
            self.container.call(&self.blob, |client| {
                let (client, list, options) = (client.block_blob_client(), list.clone(), options.clone());
                async move { client.commit_block_list(list, Some(options)).await?.etag() }
            })
        })
        .await;
        match committed {
            Ok(Some(etag)) => Ok(BlobFacts {
                etag: etag.into(),
                length: self.bytes.into_inner(),
                headers: headers.clone(),
                content_encoding: None,
            }),
            Ok(None) => Err(BlobError::BadAnswer { blob: self.blob, problem: "committed, but without an ETag".into() }),
            // The condition is that there is none.
            Err(BlobError::Changed { blob }) => Err(BlobError::AlreadyExists { blob }),
            Err(error) => Err(error),
        }
    }
}

/// All ids of a blob must have one length. These are hexadecimal, so that their base64 needs no escapes in a URL.
fn block_id(attempt: u64, index: u32) -> String {
    format!("{attempt:016x}{index:08x}")
}

/// What HTTP and Azure cannot carry is said before anything is sent.
///
/// # Sources
/// Microsoft, "Setting and retrieving properties and metadata for Blob service resources": names are C# identifiers.
fn check_headers(headers: &BlobHeaders) -> Result<(), String> {
    let carried = |value: &str| value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && value.trim() == value;
    if headers.content_type.is_empty() || !carried(&headers.content_type) {
        return Err(format!(
            "the content type {:?} is empty, not printable ASCII, or has blanks around it",
            headers.content_type
        ));
    }
    for (name, value) in &headers.metadata {
        let identifier = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
            && name.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
        if !identifier {
            return Err(format!("the metadata name {name:?} must be a-z, 0-9 and _, and not begin with a digit"));
        }
        if !carried(value) {
            return Err(format!("the value of the metadata {name:?} is not printable ASCII, or has blanks around it"));
        }
    }
    Ok(())
}
