//! What a container holds: against `local`, and against a peer that answers what no storage would.

use std::{num::NonZeroU32, time::Duration};

use waybill_local::{
    BlobOperation,
    fault::{BlobRequests, Step, What, When},
};

use super::{
    container, refusal,
    storage::{self, headers, local, write},
};
use crate::{
    blob::{BlobError, Container, ListedBlob},
    peer::{Peer, Reply},
};

const TWO: NonZeroU32 = NonZeroU32::new(2).unwrap();

async fn all(container: &Container, prefix: &str) -> Result<(Vec<ListedBlob>, usize), BlobError> {
    let (mut listing, mut blobs, mut pages) = (container.list(prefix, TWO), Vec::new(), 0);
    while let Some(page) = listing.next_page().await? {
        assert!(page.len() <= 2, "a page holds what was asked for");
        blobs.extend(page);
        pages += 1;
    }
    Ok((blobs, pages))
}

fn names(blobs: &[ListedBlob]) -> Vec<&str> {
    blobs.iter().map(|blob| blob.name.as_str()).collect()
}

#[tokio::test]
async fn every_blob_is_listed_once_with_its_headers_page_by_page() {
    let local = local().await;
    let (container, tokens) = storage::container(&local);
    assert_eq!(all(&container, "").await.unwrap().0, []);
    for (blob, bytes) in [("T/a", "1"), ("T/b é+%&<", "22"), ("T/c", ""), ("U/a", "4444"), ("U/b", "55555")] {
        write(&container, blob, bytes.as_bytes()).await.unwrap();
    }
    let (blobs, pages) = all(&container, "").await.unwrap();
    assert_eq!((names(&blobs), pages), (vec!["T/a", "T/b é+%&<", "T/c", "U/a", "U/b"], 3));
    assert_eq!(blobs.iter().map(|blob| blob.length).collect::<Vec<_>>(), [1, 2, 0, 4, 5]);
    assert!(blobs.iter().all(|blob| blob.headers == headers() && blob.last_modified.is_some()), "{blobs:?}");
    assert_eq!(names(&all(&container, "U/").await.unwrap().0), ["U/a", "U/b"]);
    assert_eq!(tokens.refusals(), 0);
    local.stop().await;
}

#[tokio::test]
async fn a_token_that_dies_between_two_pages_is_renewed_once_and_no_blob_is_lost_or_repeated() {
    let local = local().await;
    let (container, tokens) = storage::container(&local);
    for blob in ["a", "b", "c", "d", "e"] {
        write(&container, blob, b"x").await.unwrap();
    }
    let listing = || When::Blob(BlobRequests::of(BlobOperation::ListBlobs));
    let second = NonZeroU32::MIN.saturating_add(1);
    let third = second.saturating_add(1);
    local
        .faults()
        .install([
            Step::new(listing(), What::RefuseSas).nth(second),
            Step::new(listing(), What::throttle(Duration::ZERO)).nth(third),
        ])
        .unwrap();
    assert_eq!(names(&all(&container, "").await.unwrap().0), ["a", "b", "c", "d", "e"]);
    assert_eq!((tokens.refusals(), tokens.renewals()), (1, 1));
    assert_eq!(local.faults().waiting(), 0, "every fault happened");
    local.stop().await;
}

#[tokio::test]
async fn a_grant_that_may_not_list_is_an_error_that_names_the_code() {
    let peer = Peer::start(|_, _| refusal(403, "AuthorizationPermissionMismatch")).await;
    let (container, tokens) = container(&peer, 4096);
    let error = all(&container, "").await.unwrap_err();
    let BlobError::AccessRefused { code, .. } = &error else { panic!("{error:?}") };
    assert_eq!((code.as_str(), tokens.renewals(), peer.seen().len()), ("AuthorizationPermissionMismatch", 1, 2));
}

#[tokio::test]
async fn a_listing_that_goes_round_in_circles_ends_with_an_error() {
    let page = "<?xml version=\"1.0\"?><EnumerationResults><Blobs/><NextMarker>again</NextMarker></EnumerationResults>";
    let peer = Peer::start(move |_, _| Reply { body: page.as_bytes().to_vec(), ..Reply::new(200) }).await;
    let (container, _) = container(&peer, 4096);
    let error = all(&container, "").await.unwrap_err();
    assert!(matches!(error, BlobError::BadAnswer { .. }), "{error:?}");
    assert_eq!(peer.seen()[0].path, "/account/batchtoprocess");
}
