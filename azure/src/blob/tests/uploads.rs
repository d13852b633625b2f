//! Writing: blocks in the order of the calls, one conditional commit, nothing overwritten.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use tokio::sync::Barrier;

use super::{container, generation, refusal};
use crate::{
    blob::{BlobError, BlobHeaders},
    peer::{End, Peer, Reply, Seen},
};

fn headers() -> BlobHeaders {
    BlobHeaders {
        content_type: "application/x-jsonlines".into(),
        metadata: BTreeMap::from([("exportid".into(), "e-1".into()), ("rows".into(), "12".into())]),
    }
}

fn staged(seen: &Seen) -> bool {
    seen.parameter("comp") == Some("block")
}

fn created() -> Reply {
    Reply::new(201).with("ETag", "\"0x1\"")
}

/// The decoded block id of a staged block.
fn block_id(seen: &Seen) -> String {
    String::from_utf8(STANDARD.decode(seen.parameter("blockid").unwrap()).unwrap()).unwrap()
}

/// The ids that a commit lists.
fn listed(seen: &Seen) -> Vec<String> {
    let xml = String::from_utf8(seen.body.clone()).unwrap();
    xml.split("<Latest>").skip(1).map(|rest| rest.split('<').next().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn blocks_are_committed_in_the_order_of_the_calls_with_their_headers_and_never_over_another_blob() {
    let peer = Peer::start(|_, _| created()).await;
    let (container, _) = container(&peer, 4096);
    let upload = container.upload("Changes/a.jsonl.gz");
    let (first, second, third) =
        (upload.stage("one".into()), upload.stage("two, ".into()), upload.stage("three".into()));
    third.await.unwrap();
    first.await.unwrap();
    second.await.unwrap();
    let facts = upload.commit(&headers()).await.unwrap();
    assert_eq!((facts.etag.as_str(), facts.length), ("\"0x1\"", 13));
    assert_eq!(facts.headers, headers());

    let seen = peer.seen();
    let by_body: BTreeMap<_, _> =
        seen[..3].iter().map(|seen| (String::from_utf8(seen.body.clone()).unwrap(), block_id(seen))).collect();
    let expected: Vec<_> = ["one", "two, ", "three"].iter().map(|body| STANDARD.encode(&by_body[*body])).collect();
    let commit = &seen[3];
    assert_eq!((commit.method.as_str(), commit.parameter("comp")), ("PUT", Some("blocklist")));
    assert_eq!(listed(commit), expected);
    assert_eq!(commit.header("if-none-match"), Some("*"));
    assert_eq!(commit.header("x-ms-blob-content-type"), Some("application/x-jsonlines"));
    assert_eq!(commit.header("x-ms-meta-exportid"), Some("e-1"));
    assert_eq!(commit.header("x-ms-meta-rows"), Some("12"));
    assert_eq!(commit.header("x-ms-blob-content-encoding"), None);
}

#[tokio::test]
async fn the_block_that_goes_first_may_be_staged_last() {
    let peer = Peer::start(|_, _| created()).await;
    let (container, _) = container(&peer, 4096);
    let upload = container.upload("a");
    upload.stage("body, ".into()).await.unwrap();
    upload.stage("end".into()).await.unwrap();
    upload.stage_first("head, ".into()).await.unwrap();
    let facts = upload.commit(&headers()).await.unwrap();
    assert_eq!(facts.length, 15);
    let seen = peer.seen();
    let by_place: Vec<_> = [2, 0, 1].iter().map(|&at: &usize| STANDARD.encode(block_id(&seen[at]))).collect();
    assert_eq!((listed(&seen[3]), &seen[2].body[..]), (by_place, &b"head, "[..]));
    let ids: Vec<_> = seen[..3].iter().map(block_id).collect();
    assert!(ids.iter().all(|id| id.len() == ids[0].len()), "{ids:?}");

    // None is needed.
    let upload = container.upload("b");
    upload.stage_first(Bytes::new()).await.unwrap();
    assert_eq!(upload.commit(&headers()).await.unwrap().length, 0);
}

#[tokio::test]
async fn block_ids_have_one_width_and_are_another_attempts_never() {
    let peer = Peer::start(|_, _| created()).await;
    let (container, _) = container(&peer, 4096);
    for _ in 0..2 {
        let upload = container.upload("a");
        for _ in 0..3 {
            upload.stage("x".into()).await.unwrap();
        }
    }
    let ids: Vec<_> = peer.seen().iter().map(block_id).collect();
    assert!(ids.iter().all(|id| id.len() == 24), "{ids:?}");
    assert_ne!(ids[0].split_at(16).0, ids[3].split_at(16).0, "{ids:?}");
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 6);
}

#[tokio::test]
async fn a_block_is_repeated_under_its_own_id_until_it_is_there() {
    let peer = Peer::start(|number, _| match number {
        0 => created().ending(End::Reset),
        1 => refusal(503, "ServerBusy"),
        2 => refusal(429, "TooManyRequests"),
        3 => created().ending(End::Reset),
        _ => created(),
    })
    .await;
    let (container, _) = container(&peer, 4096);
    let upload = container.upload("a");
    upload.stage("block".into()).await.unwrap();
    let seen = peer.seen();
    assert_eq!(seen.len(), 5);
    assert!(seen.iter().all(|each| block_id(each) == block_id(&seen[0]) && each.body == b"block"));
    upload.commit(&headers()).await.unwrap();
    assert_eq!(listed(&peer.seen()[5]).len(), 1);
}

#[tokio::test]
async fn an_upload_outlives_tokens_that_die_between_any_two_of_its_requests() {
    // Every request finds that its token has just died, and goes through with the next one.
    let peer = Peer::start(|number, seen| match generation(seen) {
        current if current == number as u64 / 2 + 1 && number % 2 == 0 => refusal(403, "AuthenticationFailed"),
        _ => created(),
    })
    .await;
    let (container, tokens) = container(&peer, 4096);
    let upload = container.upload("a");
    for block in ["one", "two", "three"] {
        upload.stage(block.into()).await.unwrap();
    }
    assert_eq!(upload.commit(&headers()).await.unwrap().length, 11);
    let seen = peer.seen();
    assert_eq!((seen.len(), tokens.renewals()), (8, 4));
    let bodies: Vec<_> = seen.iter().skip(1).step_by(2).map(|seen| seen.body.clone()).collect();
    assert_eq!(bodies[..3], [b"one".to_vec(), b"two".to_vec(), b"three".to_vec()]);
    assert_eq!(listed(&seen[7]).len(), 3);
}

#[tokio::test]
async fn a_503_with_retry_after_is_obeyed() {
    let peer = Peer::start(|number, _| match number {
        0 => refusal(503, "ServerBusy").with("Retry-After", "1"),
        _ => created(),
    })
    .await;
    let (container, _) = container(&peer, 4096);
    let begun = Instant::now();
    container.upload("a").stage("block".into()).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(peer.seen().len(), 2);
}

#[tokio::test]
async fn a_longer_retry_after_goes_to_the_caller_at_once() {
    let peer = Peer::start(|_, _| refusal(503, "ServerBusy").with("Retry-After", "600")).await;
    let (container, _) = container(&peer, 4096);
    let error = container.upload("a").stage("block".into()).await.unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(600)));
    assert_eq!(peer.seen().len(), 1);
}

#[tokio::test]
async fn an_outage_ends_after_five_tries() {
    let peer = Peer::start(|_, _| refusal(500, "InternalError")).await;
    let (container, _) = container(&peer, 4096);
    let error = container.upload("a").stage("block".into()).await.unwrap_err();
    assert!(matches!(error, BlobError::Busy { status: 500, .. }), "{error:?}");
    assert_eq!(peer.seen().len(), 5);
}

#[tokio::test]
async fn an_upload_with_a_block_that_failed_or_was_dropped_is_not_committed() {
    let peer = Peer::start(|_, seen| match &seen.body[..] {
        b"bad" => refusal(400, "InvalidInput"),
        _ => created(),
    })
    .await;
    let (container, _) = container(&peer, 4096);
    let upload = container.upload("a");
    upload.stage("good".into()).await.unwrap();
    upload.stage("bad".into()).await.unwrap_err();
    let error = upload.commit(&headers()).await.unwrap_err();
    assert!(matches!(error, BlobError::Unfinished { staged: 1, begun: 2, .. }), "{error:?}");

    let upload = container.upload("a");
    upload.stage("good".into()).await.unwrap();
    drop(upload.stage("dropped".into()));
    let error = upload.commit(&headers()).await.unwrap_err();
    assert!(matches!(error, BlobError::Unfinished { staged: 1, begun: 2, .. }), "{error:?}");

    let upload = container.upload("a");
    upload.stage("good".into()).await.unwrap();
    upload.stage_first("bad".into()).await.unwrap_err();
    let error = upload.commit(&headers()).await.unwrap_err();
    assert!(matches!(error, BlobError::Unfinished { staged: 1, begun: 2, .. }), "{error:?}");
    assert!(peer.seen().iter().all(staged), "nothing was committed");
}

#[tokio::test]
async fn a_commit_whose_outcome_is_unknown_is_repeated_and_its_own_blob_is_a_conflict() {
    let commits = AtomicUsize::new(0);
    let peer = Peer::start(move |_, seen| {
        if staged(seen) {
            return created();
        }
        match commits.fetch_add(1, Ordering::SeqCst) {
            // It was done, but nobody hears of it.
            0 => created().ending(End::Reset),
            _ => refusal(409, "BlobAlreadyExists"),
        }
    })
    .await;
    let (container, _) = container(&peer, 4096);
    let upload = container.upload("a");
    upload.stage("block".into()).await.unwrap();
    let error = upload.commit(&headers()).await.unwrap_err();
    assert!(matches!(error, BlobError::AlreadyExists { .. }), "{error:?}");
}

#[tokio::test]
async fn each_way_to_refuse_a_commit_has_its_name() {
    type Is = fn(&BlobError) -> bool;
    let kinds: [(u16, &str, Is); 4] = [
        (409, "BlobAlreadyExists", |error| matches!(error, BlobError::AlreadyExists { .. })),
        (412, "ConditionNotMet", |error| matches!(error, BlobError::AlreadyExists { .. })),
        (400, "InvalidBlockList", |error| matches!(error, BlobError::BlockVanished { .. })),
        (404, "ContainerNotFound", |error| matches!(error, BlobError::ContainerNotFound { .. })),
    ];
    for (status, code, is) in kinds {
        let peer = Peer::start(move |_, _| refusal(status, code)).await;
        let (container, _) = container(&peer, 4096);
        let error = container.upload("a").commit(&headers()).await.unwrap_err();
        assert!(is(&error), "{status} {code}: {error:?}");
    }
}

#[tokio::test]
async fn no_bytes_make_no_block_and_no_blocks_an_empty_blob() {
    let peer = Peer::start(|_, _| created()).await;
    let (container, _) = container(&peer, 4096);
    let upload = container.upload("a");
    upload.stage(Bytes::new()).await.unwrap();
    assert_eq!(upload.commit(&headers()).await.unwrap().length, 0);
    let seen = peer.seen();
    assert_eq!(seen.len(), 1);
    assert!(String::from_utf8(seen[0].body.clone()).unwrap().contains("<BlockList"));
    assert!(listed(&seen[0]).is_empty());
}

#[tokio::test]
async fn what_headers_cannot_carry_is_refused_before_the_commit() {
    let peer = Peer::start(|_, _| created()).await;
    let (container, _) = container(&peer, 4096);
    let with = |name: &str, value: &str| BlobHeaders {
        metadata: BTreeMap::from([(name.to_owned(), value.to_owned())]),
        ..headers()
    };
    for headers in [
        with("exportId", "x"),
        with("9lives", "x"),
        with("a-b", "x"),
        with("", "x"),
        with("a", "naïve"),
        with("a", "two\nlines"),
        with("a", " x"),
        BlobHeaders::default(),
    ] {
        let error = container.upload("a").commit(&headers).await.unwrap_err();
        assert!(matches!(error, BlobError::Unfit { .. }), "{headers:?}: {error:?}");
    }
    assert!(peer.seen().is_empty());
}

#[tokio::test]
async fn several_blocks_are_under_way_at_once() {
    // Neither is answered before the other has come: one after the other, they would not come through.
    let both = Arc::new(Barrier::new(2));
    let peer = Peer::start(move |_, seen| match staged(seen) {
        true => created().behind(&both),
        false => created(),
    })
    .await;
    let (container, _) = container(&peer, 4096);
    let upload = container.upload("a");
    let (first, second) = tokio::join!(upload.stage("one".into()), upload.stage("two".into()));
    first.unwrap();
    second.unwrap();
    upload.commit(&headers()).await.unwrap();
}
