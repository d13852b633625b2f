//! What a container holds, page by page.

use std::num::NonZeroU32;

use azure_storage_blob::models::{
    BlobContainerClientListBlobsOptions, BlobItem, ListBlobsIncludeItem, ListBlobsResponse,
};
use futures::StreamExt;
use time::OffsetDateTime;

use super::{BlobError, BlobHeaders, Container, retry::retried};

/// What errors of a listing are about, where those of other calls name a blob.
const SUBJECT: &str = "the container's listing";

/// A blob in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedBlob {
    /// Its name, decoded.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    /// When it was last written.
    pub last_modified: Option<OffsetDateTime>,
    /// Its headers.
    pub headers: BlobHeaders,
}

/// A walk through a container in the order of storage, which holds one page at a time. Each page is a request of its own
/// with the token of its time, so a walk may take longer than a token lives. What is written meanwhile may come or not.
#[derive(Debug)]
pub struct Listing {
    container: Container,
    prefix: String,
    page: NonZeroU32,
    /// Where the next page begins; empty for the first one.
    marker: String,
    is_over: bool,
}

impl Listing {
    pub(super) fn new(container: Container, prefix: String, page: NonZeroU32) -> Self {
        Self { container, prefix, page, marker: String::new(), is_over: false }
    }

    /// The next page, which may be an empty one; `None` after the last.
    ///
    /// # Errors
    /// [`BlobError`]; the same page may be asked for again.
    ///
    /// # Cancel safety
    /// A call that is dropped has no effect: the same page comes again.
    pub async fn next_page(&mut self) -> Result<Option<Vec<ListedBlob>>, BlobError> {
        if self.is_over {
            return Ok(None);
        }
        let page = retried(|| async { self.read(self.fetch().await?) }).await?;
        let (blobs, next) = page;
        match next {
            Some(marker) => self.marker = marker,
            None => self.is_over = true,
        }
        Ok(Some(blobs))
    }

    async fn fetch(&self) -> Result<ListBlobsResponse, BlobError> {
        let options = BlobContainerClientListBlobsOptions {
            include: Some(vec![ListBlobsIncludeItem::Metadata]),
            marker: (!self.marker.is_empty()).then(|| self.marker.clone()),
            maxresults: Some(i32::try_from(self.page.get()).unwrap_or(i32::MAX)),
            prefix: (!self.prefix.is_empty()).then(|| self.prefix.clone()),
            ..Default::default()
        };
        let page = self
            .container
            .with_grant(SUBJECT, |grant| {
                let client = self.container.container_client(grant, SUBJECT)?;
                let options = options.clone();
                Ok(async move {
                    match client.list_blobs(Some(options))?.into_pages().next().await {
                        Some(page) => page?.into_model().map(Some),
                        None => Ok(None),
                    }
                })
            })
            .await?;
        page.ok_or_else(|| bad_answer("it has no page".to_owned()))
    }

    fn read(&self, page: ListBlobsResponse) -> Result<(Vec<ListedBlob>, Option<String>), BlobError> {
        let next = page.next_marker.filter(|marker| !marker.is_empty());
        if next.as_ref() == Some(&self.marker) {
            return Err(bad_answer("the page after it is itself".to_owned()));
        }
        Ok((page.blob_items.into_iter().map(listed).collect::<Result<_, _>>()?, next))
    }
}

fn listed(item: BlobItem) -> Result<ListedBlob, BlobError> {
    let name = item.name.ok_or_else(|| bad_answer("a blob has no name".to_owned()))?;
    let properties = item.properties.unwrap_or_default();
    let metadata = item.metadata.and_then(|metadata| metadata.values).unwrap_or_default();
    Ok(ListedBlob {
        length: properties.content_length.ok_or_else(|| bad_answer(format!("{name:?} has no length")))?,
        last_modified: properties.last_modified,
        headers: BlobHeaders {
            content_type: properties.content_type.unwrap_or_default(),
            // Storage keeps the spelling in which they were written, and compares without case.
            metadata: metadata.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect(),
        },
        name,
    })
}

fn bad_answer(problem: String) -> BlobError {
    BlobError::BadAnswer { blob: SUBJECT.to_owned(), problem }
}
