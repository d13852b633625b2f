//! Against `local`: real signatures, real conditions, scripted faults.

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc, time::Duration};

use bytes::Bytes;
use time::OffsetDateTime;
use waybill_local::{
    BlobOperation, Local,
    fault::{BlobRequests, CutAt, Step, What, When, Whose},
};

use super::{content, tokens::CountingTokens, with_tokens};
use crate::{
    BlobPermissions, Generation, Secret,
    blob::{BlobError, BlobFacts, BlobHeaders, Container},
    blob_service_sas,
    connection_string::{BlobConnectionString, key_tokens},
};

/// Small ranges, so that a blob takes several.
const RANGE_BYTES: u64 = 8192;

pub(super) async fn local() -> Local {
    Local::builder().start().await.unwrap()
}

/// Tokens that this crate signs with the account's key and that `local` checks: each generation another one.
pub(super) fn container(local: &Local) -> (Container, Arc<CountingTokens>) {
    let account: BlobConnectionString = local.ready_file().blob_connection_string.parse().unwrap();
    let (endpoint, name) = (account.endpoint.clone(), local.ready_file().container.clone());
    let begun_at = OffsetDateTime::now_utc();
    let sign = move |generation: Generation| -> Secret {
        let all = BlobPermissions { read: true, create: true, write: true, delete: true, list: true };
        let expires_at = begun_at + Duration::from_secs(3600 * (1 + generation.0));
        blob_service_sas(&account.account, &account.key, &name, all, expires_at, &account.endpoint).unwrap()
    };
    let tokens = Arc::new(CountingTokens::new(endpoint, sign));
    (with_tokens(&tokens, RANGE_BYTES), tokens)
}

pub(super) fn headers() -> BlobHeaders {
    BlobHeaders {
        content_type: "application/x-jsonlines".into(),
        metadata: BTreeMap::from([("exportid".into(), "e-1".into()), ("rows".into(), "12".into())]),
    }
}

pub(super) async fn write(container: &Container, blob: &str, content: &[u8]) -> Result<BlobFacts, BlobError> {
    let upload = container.upload(blob);
    for block in content.chunks(30_000) {
        upload.stage(Bytes::copy_from_slice(block)).await?;
    }
    upload.commit(&headers()).await
}

async fn read(container: &Container, blob: &str) -> Result<Vec<u8>, BlobError> {
    let mut download = container.download(blob, 0, None).await?;
    let mut read = Vec::new();
    while let Some(bytes) = download.next().await? {
        read.extend_from_slice(&bytes);
    }
    Ok(read)
}

/// At a request for this blob.
fn at(operation: BlobOperation, blob: &str) -> When {
    When::Blob(BlobRequests { name_contains: Some(blob.to_owned()), ..BlobRequests::of(operation) })
}

#[tokio::test]
async fn what_is_written_is_read_with_its_headers() {
    let local = local().await;
    let (container, tokens) = container(&local);
    let (blob, bytes) = ("Item Changes/2026-11-22/é+%.jsonl.gz", content(100_000));
    assert!(matches!(container.head(blob).await, Err(BlobError::NotFound { .. })));
    let written = write(&container, blob, &bytes).await.unwrap();
    assert_eq!(container.head(blob).await.unwrap(), written);
    let mut download = container.download(blob, 99_999, Some(&written.etag)).await.unwrap();
    assert_eq!(download.facts(), &written);
    assert_eq!(download.next().await.unwrap().unwrap(), bytes[99_999..]);
    assert_eq!(read(&container, blob).await.unwrap(), bytes);
    container.delete(blob).await.unwrap();
    assert!(matches!(container.download(blob, 0, None).await, Err(BlobError::NotFound { .. })));
    assert_eq!(tokens.refusals(), 0);
    local.stop().await;
}

#[tokio::test]
async fn a_commit_over_another_blob_is_a_conflict_and_changes_nothing() {
    let local = local().await;
    let (container, _) = container(&local);
    let written = write(&container, "a", b"first").await.unwrap();
    let error = write(&container, "a", b"second").await.unwrap_err();
    assert!(matches!(error, BlobError::AlreadyExists { .. }), "{error:?}");
    assert_eq!(container.head("a").await.unwrap(), written);
    assert_eq!(read(&container, "a").await.unwrap(), b"first");
    local.stop().await;
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_found_done() {
    let local = local().await;
    let (container, _) = container(&local);
    let upload = container.upload("a");
    upload.stage("block".into()).await.unwrap();
    let step = Step::new(at(BlobOperation::PutBlockList, "a"), What::Reset(Whose::Event));
    local.faults().install([step]).unwrap();
    match upload.commit(&headers()).await {
        // The reset came before it was done, or after.
        Ok(_) | Err(BlobError::AlreadyExists { .. }) => {}
        Err(error) => panic!("{error:?}"),
    }
    assert_eq!(read(&container, "a").await.unwrap(), b"block");
    local.stop().await;
}

#[tokio::test]
async fn staged_blocks_of_two_attempts_cannot_mix() {
    let local = local().await;
    let (container, _) = container(&local);
    let (first, second) = (container.upload("a"), container.upload("a"));
    first.stage("first attempt, block one; ".into()).await.unwrap();
    second.stage("SECOND attempt, block one; ".into()).await.unwrap();
    second.stage("SECOND attempt, block two".into()).await.unwrap();
    first.stage("first attempt, block two".into()).await.unwrap();
    first.commit(&headers()).await.unwrap();
    let error = second.commit(&headers()).await.unwrap_err();
    assert!(matches!(error, BlobError::AlreadyExists { .. } | BlobError::BlockVanished { .. }), "{error:?}");
    assert_eq!(read(&container, "a").await.unwrap(), b"first attempt, block one; first attempt, block two");
    local.stop().await;
}

#[tokio::test]
async fn an_empty_blob_is_written_and_read() {
    let local = local().await;
    let (container, _) = container(&local);
    let written = write(&container, "a", b"").await.unwrap();
    assert_eq!(container.head("a").await.unwrap(), written);
    let mut download = container.download("a", 0, Some(&written.etag)).await.unwrap();
    assert_eq!(download.facts(), &written);
    assert!(download.next().await.unwrap().is_none());
    local.stop().await;
}

#[tokio::test]
async fn a_token_that_storage_refuses_from_any_byte_on_is_renewed_once_and_no_byte_is_lost_or_repeated() {
    let local = local().await;
    let (container, tokens) = container(&local);
    let bytes = content(60_000);
    for place in 0..20u64 {
        let (blob, at_byte) = (format!("place-{place:02}"), place * 59_999 / 19);
        write(&container, &blob, &bytes).await.unwrap();
        let cut = What::Cut { at: CutAt::BlobByte(at_byte), refuse_sas: true };
        local.faults().install([Step::new(at(BlobOperation::GetBlob, &blob), cut)]).unwrap();
        assert_eq!(read(&container, &blob).await.unwrap(), bytes, "cut at byte {at_byte}");
        assert_eq!(tokens.renewals(), place + 1, "cut at byte {at_byte}");
    }
    assert_eq!(local.faults().waiting(), 0, "every cut happened");
    local.stop().await;
}

#[tokio::test]
async fn a_reset_and_a_busy_storage_are_waited_out() {
    let local = local().await;
    let (container, _) = container(&local);
    let bytes = content(60_000);
    write(&container, "a", &bytes).await.unwrap();
    let second = NonZeroU32::MIN.saturating_add(1);
    let reset = What::Reset(Whose::Event);
    let steps = [
        Step::new(at(BlobOperation::GetBlob, "a"), reset.clone()),
        Step::new(at(BlobOperation::GetBlob, "a"), What::throttle(Duration::from_secs(1))).nth(second),
        Step::new(at(BlobOperation::PutBlock, "b"), reset),
        Step::new(at(BlobOperation::PutBlockList, "b"), What::throttle(Duration::ZERO)),
    ];
    local.faults().install(steps).unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(read(&container, "a").await.unwrap(), bytes);
    assert!(begun.elapsed() >= Duration::from_secs(1), "Retry-After was obeyed");
    write(&container, "b", &bytes).await.unwrap();
    assert_eq!(read(&container, "b").await.unwrap(), bytes);
    assert_eq!(local.faults().waiting(), 0, "every fault happened");
    local.stop().await;
}

#[tokio::test]
async fn a_blob_that_is_replaced_between_two_ranges_is_changed() {
    let local = local().await;
    let (container, _) = container(&local);
    write(&container, "a", &content(60_000)).await.unwrap();
    let mut download = container.download("a", 0, None).await.unwrap();
    while download.position() < RANGE_BYTES {
        download.next().await.unwrap();
    }
    container.delete("a").await.unwrap();
    let error = download.next().await.unwrap_err();
    assert!(matches!(error, BlobError::Changed { .. } | BlobError::NotFound { .. }), "{error:?}");
    write(&container, "a", &content(60_000)).await.unwrap();
    let error = download.next().await.unwrap_err();
    assert!(matches!(error, BlobError::Changed { .. }), "{error:?}");
    local.stop().await;
}

#[tokio::test]
async fn a_blob_that_was_replaced_is_not_deleted_in_place_of_the_other() {
    let local = local().await;
    let (container, _) = container(&local);
    write(&container, "a", &content(10)).await.unwrap();
    let before = container.head("a").await.unwrap().etag;
    container.delete_unchanged("a", &before).await.unwrap();
    write(&container, "a", &content(20)).await.unwrap();
    let error = container.delete_unchanged("a", &before).await.unwrap_err();
    assert!(matches!(error, BlobError::Changed { .. }), "{error:?}");
    assert_eq!(container.head("a").await.unwrap().length, 20);
    local.stop().await;
}

#[tokio::test]
async fn tokens_that_are_signed_here_from_the_connection_string_are_taken() {
    let local = local().await;
    let ready = local.ready_file();
    let tokens = key_tokens(
        ready.service_bus_connection_string.parse().unwrap(),
        ready.topic.clone(),
        ready.blob_connection_string.parse().unwrap(),
        ready.container.clone(),
        Duration::from_secs(60),
    );
    let container = Container::new(super::http(), tokens, crate::blob::ContainerOptions::default());
    write(&container, "a", b"content").await.unwrap();
    let refuse = Step::new(at(BlobOperation::GetBlobProperties, "a"), What::RefuseSas);
    local.faults().install([refuse]).unwrap();
    // The next token is another one, although it is made within the same second.
    assert_eq!(container.head("a").await.unwrap().length, 7);
    assert_eq!(local.faults().waiting(), 0, "the refusal happened");
    local.stop().await;
}

#[tokio::test]
async fn a_container_that_is_not_there_is_no_missing_blob() {
    let local = local().await;
    let mut ready = local.ready_file().clone();
    ready.container = "elsewhere".to_owned();
    let tokens = key_tokens(
        ready.service_bus_connection_string.parse().unwrap(),
        ready.topic,
        ready.blob_connection_string.parse().unwrap(),
        ready.container,
        Duration::from_secs(60),
    );
    let container = Container::new(super::http(), tokens, crate::blob::ContainerOptions::default());
    for error in [
        container.head("a").await.unwrap_err(),
        container.download("a", 0, None).await.unwrap_err(),
        container.upload("a").stage("x".into()).await.unwrap_err(),
    ] {
        assert!(matches!(error, BlobError::ContainerNotFound { .. }), "{error:?}");
    }
    local.stop().await;
}
