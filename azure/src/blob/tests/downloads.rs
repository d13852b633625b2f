//! Reading: nothing lost, nothing twice, whatever breaks off.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;

use super::{
    container, content, endpoint, generation, http, refusal, stored,
    tokens::{CountingTokens, telling},
};
use crate::{
    blob::{BlobError, Container, ContainerOptions, Download},
    peer::{End, Peer, Reply, Seen},
};

async fn read_to_end(download: &mut Download) -> Result<Vec<u8>, BlobError> {
    let mut read = Vec::new();
    while let Some(bytes) = download.next().await? {
        assert!(!bytes.is_empty());
        read.extend_from_slice(&bytes);
        assert_eq!(download.position(), read.len() as u64);
    }
    Ok(read)
}

/// The ranges that were asked for.
fn ranges(peer: &Peer) -> Vec<(usize, usize)> {
    peer.seen().iter().filter_map(Seen::range).collect()
}

#[tokio::test]
async fn a_blob_comes_in_ranges_and_its_length_is_the_whole_ones() {
    let blob = content(10_000);
    let served = blob.clone();
    let peer = Peer::start(move |_, seen| {
        stored(&served, seen).with("x-ms-meta-exportid", "e-1").with("x-ms-meta-rows", "12")
    })
    .await;
    let (container, tokens) = container(&peer, 4096);
    let mut download = container.download("a", 0, None).await.unwrap();
    assert_eq!(download.facts().length, 10_000);
    assert_eq!(download.facts().etag, "\"0x1\"");
    assert_eq!(download.facts().headers.content_type, "application/jsonl");
    assert_eq!(download.facts().headers.metadata["exportid"], "e-1");
    assert_eq!(download.facts().headers.metadata["rows"], "12");
    assert_eq!(read_to_end(&mut download).await.unwrap(), blob);
    assert!(download.next().await.unwrap().is_none(), "the end stays the end");
    assert_eq!(ranges(&peer), [(0, 4095), (4096, 8191), (8192, 9_999)]);
    let conditions: Vec<_> = peer.seen().iter().map(|seen| seen.header("if-match").map(str::to_owned)).collect();
    assert_eq!(conditions, [None, Some("\"0x1\"".to_owned()), Some("\"0x1\"".to_owned())]);
    assert_eq!(tokens.renewals(), 0);
}

/// A server whose connection breaks before byte `at`, and which refuses the token of before from then on.
async fn token_dies_at(blob: &[u8], at: usize) -> Peer {
    let (blob, dead) = (blob.to_vec(), AtomicUsize::new(0));
    Peer::start(move |_, seen| {
        if generation(seen) <= dead.load(Ordering::SeqCst) as u64 {
            return refusal(403, "AuthenticationFailed");
        }
        let reply = stored(&blob, seen);
        match seen.range() {
            Some((first, last)) if (first..=last).contains(&at) && dead.load(Ordering::SeqCst) == 0 => {
                dead.store(1, Ordering::SeqCst);
                reply.ending(End::Cut(at - first))
            }
            _ => reply,
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_dying_at_each_of_20_places_resumes_at_the_next_byte_with_nothing_lost_or_repeated() {
    let blob = Arc::new(content(100_000));
    let mut downloads = JoinSet::new();
    for place in 0..20 {
        let blob = Arc::clone(&blob);
        downloads.spawn(async move {
            // The first byte, the last one, the ends of ranges, and places between.
            let at = [0, 1, 8191, 8192, 8193, 16_383, 99_999].get(place).copied().unwrap_or(place * 4999);
            let peer = token_dies_at(&blob, at).await;
            let (container, tokens) = container(&peer, 8192);
            let mut download = container.download("a", 0, None).await.unwrap();
            assert_eq!(read_to_end(&mut download).await.unwrap(), *blob, "cut at {at}");
            assert_eq!(tokens.renewals(), 1, "cut at {at}");
            // Byte `at` was asked for in the range that broke, with the dead token, and with the new one from there on.
            let asked: Vec<_> =
                ranges(&peer).into_iter().filter(|(first, last)| (*first..=*last).contains(&at)).collect();
            assert_eq!(asked.len(), 3, "cut at {at}: {asked:?}");
            assert!(asked[1..].iter().all(|(first, _)| *first == at), "cut at {at}: {asked:?}");
        });
    }
    downloads.join_all().await;
}

#[tokio::test]
async fn a_cut_a_reset_a_stall_and_a_503_in_one_download_lose_and_repeat_nothing() {
    let blob = content(50_000);
    let served = blob.clone();
    let peer = Peer::start(move |number, seen| {
        let reply = stored(&served, seen);
        match number {
            1 => reply.ending(End::Cut(10)),
            2 => reply.ending(End::Reset),
            3 => reply.ending(End::Stall(7000)),
            4 => refusal(503, "ServerBusy"),
            6 => refusal(500, "InternalError"),
            7 => reply.ending(End::Cut(0)),
            _ => reply,
        }
    })
    .await;
    let (container, _) = container(&peer, 16_384);
    let mut download = container.download("a", 0, None).await.unwrap();
    assert_eq!(read_to_end(&mut download).await.unwrap(), blob);
    let firsts: Vec<_> = ranges(&peer).into_iter().map(|(first, _)| first).collect();
    assert_eq!(firsts, [0, 16_384, 16_394, 16_394, 23_394, 23_394, 39_778, 39_778, 39_778]);
}

#[tokio::test]
async fn a_body_shorter_than_promised_counts_as_cut_even_when_it_ends_properly() {
    let blob = content(10_000);
    let served = blob.clone();
    let peer = Peer::start(move |number, seen| {
        let mut reply = stored(&served, seen);
        if number == 0 {
            reply.body.truncate(1234);
            reply.chunked = true;
        }
        reply
    })
    .await;
    let (container, _) = container(&peer, 1 << 20);
    let mut download = container.download("a", 0, None).await.unwrap();
    assert_eq!(read_to_end(&mut download).await.unwrap(), blob);
    assert_eq!(ranges(&peer)[1].0, 1234);
}

#[tokio::test]
async fn a_blob_that_changed_meanwhile_is_an_error_and_not_a_mixture() {
    let blob = content(10_000);
    let peer = Peer::start(move |number, seen| match number {
        0 => stored(&blob, seen),
        _ => refusal(412, "ConditionNotMet"),
    })
    .await;
    let (container, _) = container(&peer, 4096);
    let mut download = container.download("a", 0, None).await.unwrap();
    let error = read_to_end(&mut download).await.unwrap_err();
    assert!(matches!(error, BlobError::Changed { .. }), "{error:?}");
    assert_eq!(download.position(), 4096);
}

#[tokio::test]
async fn opening_with_an_etag_asks_for_that_version_only() {
    let peer = Peer::start(|_, seen| match seen.header("if-match") {
        Some("\"0x1\"") => stored(b"abc", seen),
        _ => refusal(412, "ConditionNotMet"),
    })
    .await;
    let (container, _) = container(&peer, 4096);
    let mut download = container.download("a", 1, Some("\"0x1\"")).await.unwrap();
    assert_eq!((download.position(), download.facts().length), (1, 3));
    assert_eq!(download.next().await.unwrap().unwrap(), "bc");
    let error = container.download("a", 1, Some("\"0x2\"")).await.unwrap_err();
    assert!(matches!(error, BlobError::Changed { .. }), "{error:?}");
}

#[tokio::test]
async fn an_empty_blob_ends_at_once() {
    let peer = Peer::start(|_, seen| stored(b"", seen)).await;
    let (container, _) = container(&peer, 4096);
    let mut download = container.download("a", 0, None).await.unwrap();
    assert_eq!((download.facts().length, download.facts().etag.as_str()), (0, "\"0x1\""));
    assert!(download.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_download_opened_at_the_end_has_nothing_left_and_beyond_it_is_refused() {
    let peer = Peer::start(|_, seen| stored(b"abc", seen)).await;
    let (container, _) = container(&peer, 4096);
    let mut download = container.download("a", 3, Some("\"0x1\"")).await.unwrap();
    assert_eq!((download.position(), download.facts().length), (3, 3));
    assert!(download.next().await.unwrap().is_none());
    let error = container.download("a", 4, None).await.unwrap_err();
    assert!(matches!(error, BlobError::Refused { status: 416, .. }), "{error:?}");
    let error = container.download("a", 3, Some("\"0x2\"")).await.unwrap_err();
    assert!(matches!(error, BlobError::Changed { .. }), "{error:?}");
}

#[tokio::test]
async fn an_empty_range_at_the_end_is_the_end_too() {
    let peer = Peer::start(|_, _| Reply::new(206).with("ETag", "\"0x1\"").with("Content-Range", "bytes 3-2/3")).await;
    let (container, _) = container(&peer, 4096);
    let mut download = container.download("a", 3, None).await.unwrap();
    assert_eq!((download.position(), download.facts().length), (3, 3));
    assert!(download.next().await.unwrap().is_none());
    let error = container.download("a", 2, None).await.unwrap_err();
    assert!(matches!(error, BlobError::BadAnswer { .. }), "{error:?}");
}

#[tokio::test]
async fn compressed_bytes_come_as_they_are_stored() {
    let gzip = b"\x1f\x8b\x08\x00not really".to_vec();
    let peer = Peer::start({
        let gzip = gzip.clone();
        move |_, seen| stored(&gzip, seen).with("Content-Encoding", "gzip")
    })
    .await;
    let (container, _) = container(&peer, 4096);
    let mut download = container.download("a", 0, None).await.unwrap();
    assert_eq!(download.facts().content_encoding.as_deref(), Some("gzip"));
    assert_eq!(read_to_end(&mut download).await.unwrap(), gzip);
    assert_eq!(peer.seen()[0].header("accept-encoding"), None);
}

#[tokio::test]
async fn five_tries_without_a_byte_end_it_and_it_can_be_asked_again() {
    let blob = content(10_000);
    let served = blob.clone();
    let peer = Peer::start(move |number, seen| {
        let reply = stored(&served, seen);
        match number {
            0 => reply.ending(End::Cut(5000)),
            1..=4 => reply.ending(End::Cut(0)),
            _ => reply,
        }
    })
    .await;
    let (container, _) = container(&peer, 1 << 20);
    let mut download = container.download("a", 0, None).await.unwrap();
    let mut read = Vec::new();
    let error = loop {
        match download.next().await {
            Ok(bytes) => read.extend_from_slice(&bytes.unwrap()),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, BlobError::Lost { .. }), "{error:?}");
    assert_eq!((read.len(), peer.seen().len()), (5000, 5));
    while let Some(bytes) = download.next().await.unwrap() {
        read.extend_from_slice(&bytes);
    }
    assert_eq!(read, blob);
}

#[tokio::test]
async fn an_answer_to_another_question_is_refused_and_none_of_its_bytes_used() {
    let blob = content(10_000);
    let lies = [
        "bytes 4097-8192/10000",
        "bytes 4096-8190/10000",
        "bytes 4096-4195/10000",
        "bytes 4096-8191/8192",
        "bytes 8191-4096/10000",
        "bytes */10000",
        "nonsense",
    ];
    for lie in lies {
        let served = blob.clone();
        let peer = Peer::start(move |number, seen| {
            let mut reply = stored(&served, seen);
            if number == 1 {
                reply.headers.retain(|(name, _)| *name != "Content-Range");
                reply = reply.with("Content-Range", lie);
            }
            reply
        })
        .await;
        let (container, _) = container(&peer, 4096);
        let mut download = container.download("a", 0, None).await.unwrap();
        assert_eq!(read_to_end(&mut download).await.unwrap(), blob, "{lie}");
        assert_eq!(ranges(&peer)[1], ranges(&peer)[2], "{lie}: asked again");
    }
}

#[tokio::test]
async fn a_whole_body_in_answer_to_a_range_is_not_taken_for_the_range() {
    let peer = Peer::start(|_, _| Reply { body: content(10_000), ..Reply::new(200).with("ETag", "\"0x1\"") }).await;
    let (container, _) = container(&peer, 4096);
    let error = container.download("a", 0, None).await.unwrap_err();
    assert!(matches!(error, BlobError::BadAnswer { .. }), "{error:?}");
}

#[tokio::test]
async fn a_body_longer_than_its_range_is_not_handed_out() {
    let blob = content(10_000);
    let served = blob.clone();
    let peer = Peer::start(move |number, seen| {
        let mut reply = stored(&served, seen);
        reply.chunked = true;
        if number == 0 {
            reply.body.extend_from_slice(b"and more");
        }
        reply
    })
    .await;
    let (container, _) = container(&peer, 4096);
    let mut download = container.download("a", 0, None).await.unwrap();
    assert_eq!(read_to_end(&mut download).await.unwrap(), blob);
}

#[tokio::test]
async fn each_kind_of_missing_is_told_apart() {
    type Is = fn(&BlobError) -> bool;
    let kinds: [(u16, &str, Is); 6] = [
        (404, "BlobNotFound", |error| matches!(error, BlobError::NotFound { .. })),
        (404, "ContainerNotFound", |error| matches!(error, BlobError::ContainerNotFound { .. })),
        (409, "BlobArchived", |error| matches!(error, BlobError::Archived { .. })),
        (409, "BlobBeingRehydrated", |error| matches!(error, BlobError::Archived { .. })),
        // Not from storage, or not about the blob: nobody may conclude that the file is gone.
        (404, "ResourceNotFound", |error| matches!(error, BlobError::Refused { status: 404, .. })),
        (404, "", |error| matches!(error, BlobError::Refused { status: 404, .. })),
    ];
    for (status, code, is) in kinds {
        let peer = Peer::start(move |_, _| refusal(status, code)).await;
        let (container, _) = container(&peer, 4096);
        let error = container.download("a", 0, None).await.unwrap_err();
        assert!(is(&error), "{status} {code}: {error:?}");
        let error = container.head("a").await.unwrap_err();
        assert!(is(&error), "{status} {code}: {error:?}");
    }
}

#[tokio::test]
async fn an_error_code_is_found_in_the_body_when_the_header_lacks_it() {
    let peer = Peer::start(|_, _| {
        let mut reply = refusal(404, "BlobNotFound");
        reply.headers.clear();
        reply
    })
    .await;
    let (container, _) = container(&peer, 4096);
    let error = container.download("a", 0, None).await.unwrap_err();
    assert!(matches!(error, BlobError::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn a_refusal_whose_body_never_ends_is_known_by_its_status() {
    let peer = Peer::start(|number, _| match number {
        0 => Reply { body: vec![b' '; 1000], ..Reply::new(404) }.ending(End::Stall(10)),
        _ => Reply { body: vec![b' '; 1_000_000], ..Reply::new(404) },
    })
    .await;
    let tokens = Arc::new(CountingTokens::new(endpoint(&peer), telling));
    let options = ContainerOptions { request_timeout: Duration::from_millis(100), ..Default::default() };
    let container = Container::new(http(), tokens, options);
    for _ in 0..2 {
        let error = container.download("a", 0, None).await.unwrap_err();
        assert!(matches!(error, BlobError::Refused { status: 404, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn dropping_next_anywhere_loses_nothing() {
    let blob = content(60_000);
    let served = blob.clone();
    let peer = Peer::start(move |number, seen| match number % 3 {
        1 => stored(&served, seen).ending(End::Cut(100)),
        _ => stored(&served, seen),
    })
    .await;
    let (container, _) = container(&peer, 4096);
    let mut download = container.download("a", 0, None).await.unwrap();
    let mut read = Vec::new();
    loop {
        // Polled once and dropped again and again: only what is ready at once comes through.
        match futures::FutureExt::now_or_never(download.next()) {
            Some(bytes) => match bytes.unwrap() {
                Some(bytes) => read.extend_from_slice(&bytes),
                None => break,
            },
            // Now and then one is waited for, else a request that is dropped at its first wait never gets anywhere.
            None => match download.next().await.unwrap() {
                Some(bytes) => read.extend_from_slice(&bytes),
                None => break,
            },
        }
    }
    assert_eq!(read, blob);
}
