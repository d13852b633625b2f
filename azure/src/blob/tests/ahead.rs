//! Several ranges at once: the same bytes, the same promises.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::Barrier;
use waybill_local::{
    BlobOperation,
    fault::{BlobRequests, Step, What},
};

use super::{container, content, generation, refusal, stored, tokens::CountingTokens};
use crate::{
    BoxFuture, Generation, Grant, GrantError, Service, TokenSource,
    blob::{BlobError, Container, ContainerOptions, Download, ReadAhead},
    peer::{End, Peer, Reply, Seen},
};

/// Of the first range, and of those ahead.
const RANGE: u64 = 4096;

fn reading_ahead(peer: &Peer, ranges_max: usize) -> (Container, Arc<ReadAhead>) {
    let ahead = Arc::new(ReadAhead::new(ranges_max, RANGE).at_once());
    (container(peer, RANGE).0.reading_ahead(Arc::clone(&ahead)), ahead)
}

/// What came before the end, and how it ended.
async fn read(download: &mut Download) -> (Vec<u8>, Result<(), BlobError>) {
    let mut read = Vec::new();
    loop {
        match download.next().await {
            Ok(Some(bytes)) => read.extend_from_slice(&bytes),
            Ok(None) => return (read, Ok(())),
            Err(error) => return (read, Err(error)),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_ranges_as_there_may_be_are_under_way_at_once_and_come_in_order() {
    let blob = content(200_000);
    let served = blob.clone();
    // From byte 100,000 on no range is answered before five have been asked for: the current one, and four beside it.
    let five = Arc::new(Barrier::new(5));
    let gated = AtomicUsize::new(0);
    let peer = Peer::start(move |_, seen| {
        let reply = stored(&served, seen);
        match seen.range() {
            Some((first, _)) if first >= 100_000 && gated.fetch_add(1, Ordering::SeqCst) < 5 => reply.behind(&five),
            _ => reply,
        }
    })
    .await;
    let (container, ahead) = reading_ahead(&peer, 4);
    let mut download = container.download("a", 0, None).await.unwrap();
    let (bytes, end) = read(&mut download).await;
    end.unwrap();
    assert!(bytes == blob, "every byte once and in order");
    drop(download);
    assert_eq!(ahead.ranges(), 0, "every place is free again");
    let mut asked: Vec<_> = peer.seen().iter().filter_map(Seen::range).collect();
    asked.sort_unstable();
    for pair in asked.windows(2) {
        assert_eq!(pair[0].1 + 1, pair[1].0, "no byte was asked for twice");
    }
    assert!(peer.seen().iter().skip(1).all(|seen| seen.header("if-match") == Some("\"0x1\"")), "If-Match on each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_a_slow_connection_starves_gets_more_of_them() {
    let local = super::storage::local().await;
    let (container, _) = super::storage::container(&local);
    let ahead = Arc::new(ReadAhead::new(4, 64 << 10));
    let container = container.reading_ahead(Arc::clone(&ahead));
    let blob = content(1 << 20);
    super::storage::write(&container, "a", &blob).await.unwrap();
    let slow = What::Slow { bytes_per_second: NonZeroU32::new(1 << 20).unwrap() };
    let reads = BlobRequests::of(BlobOperation::GetBlob);
    local.faults().install([Step::new(reads, slow).times(NonZeroU32::MAX)]).unwrap();
    let mut download = container.download("a", 0, None).await.unwrap();
    let (mut read, mut most) = (Vec::new(), 0);
    while let Some(bytes) = download.next().await.unwrap() {
        read.extend_from_slice(&bytes);
        most = most.max(ahead.ranges());
    }
    assert!(read == blob);
    assert!(most > 0, "beside the first one");
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_downloads_together_have_no_more_ranges_ahead_than_there_may_be() {
    let blob = content(300_000);
    let served = blob.clone();
    let peer = Peer::start(move |_, seen| stored(&served, seen)).await;
    let (container, ahead) = reading_ahead(&peer, 3);
    let most = Arc::new(AtomicUsize::new(0));
    let mut downloads = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (container, ahead, most, blob) = (container.clone(), Arc::clone(&ahead), Arc::clone(&most), blob.clone());
        downloads.spawn(async move {
            let mut download = container.download("a", 0, None).await.unwrap();
            let mut read = 0;
            while let Some(bytes) = download.next().await.unwrap() {
                assert!(blob[read..].starts_with(&bytes), "at {read}");
                read += bytes.len();
                most.fetch_max(ahead.ranges(), Ordering::SeqCst);
            }
            assert_eq!(read, blob.len());
        });
    }
    downloads.join_all().await;
    let most = most.load(Ordering::SeqCst);
    assert!((1..=3).contains(&most), "{most}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_dies_is_renewed_once_and_only_the_ranges_it_broke_are_asked_for_again() {
    let blob = content(200_000);
    let served = blob.clone();
    let dead = AtomicBool::new(false);
    let peer = Peer::start(move |_, seen| {
        if generation(seen) == 1 && dead.load(Ordering::SeqCst) {
            return refusal(403, "AuthenticationFailed");
        }
        let reply = stored(&served, seen);
        match seen.range() {
            Some((first, last)) if (first..=last).contains(&100_000) && !dead.swap(true, Ordering::SeqCst) => {
                reply.ending(End::Cut(100_000 - first))
            }
            _ => reply,
        }
    })
    .await;
    let ahead = Arc::new(ReadAhead::new(4, RANGE).at_once());
    let (container, tokens) = container(&peer, RANGE);
    let container = container.reading_ahead(ahead);
    let mut download = container.download("a", 0, None).await.unwrap();
    let (bytes, end) = read(&mut download).await;
    end.unwrap();
    assert!(bytes == blob);
    assert_eq!(tokens.renewals(), 1);
    // What was answered with bytes was not asked for again, but for the rest of the one that was cut.
    let fresh = peer.seen().iter().filter(|seen| generation(seen) == 2).filter_map(Seen::range).count();
    let all = blob.len().div_ceil(RANGE as usize);
    assert!(fresh <= all / 2 + 5, "{fresh} of {all} ranges with the new token");
}

/// One renewal at a time, which takes a moment: whoever else needs a token waits for it.
#[derive(Debug)]
struct OneRenewalAtATime {
    tokens: Arc<CountingTokens>,
    renewing: tokio::sync::Mutex<()>,
}

impl TokenSource for OneRenewalAtATime {
    fn grant(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Grant, GrantError>> {
        Box::pin(async move {
            if refused.is_none() {
                return self.tokens.grant(service, None).await;
            }
            let grant = self.tokens.grant(service, refused);
            let _one = self.renewing.lock().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            grant.await
        })
    }

    fn changes(&self) -> tokio::sync::watch::Receiver<Generation> {
        self.tokens.changes()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_while_ranges_ahead_renew_a_token_holds_up_nobody_else() {
    const FIRST: usize = 4 << 20;
    let blob = content(FIRST + 100_000);
    let served = blob.clone();
    let peer = Peer::start(move |_, seen| match seen.range() {
        Some((0, _)) if seen.path.ends_with("/a") => stored(&served, seen),
        _ if generation(seen) == 1 => refusal(403, "AuthenticationFailed"),
        _ => stored(&served, seen),
    })
    .await;
    let (_, tokens) = container(&peer, RANGE);
    let source = Arc::new(OneRenewalAtATime { tokens: Arc::clone(&tokens), renewing: tokio::sync::Mutex::default() });
    let options = ContainerOptions { range_bytes: FIRST as u64, ..ContainerOptions::default() };
    let container = Container::new(super::http(), source, options);
    let reading = container.clone().reading_ahead(Arc::new(ReadAhead::new(4, RANGE).at_once()));
    let mut download = reading.download("a", 0, None).await.unwrap();
    while tokens.refusals() == 0 {
        download.next().await.unwrap().expect("ranges ahead meet the refusal long before");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // It has the bytes it wants, and the sink is slow.
    let other = tokio::time::timeout(Duration::from_secs(20), container.download("b", 0, None)).await;
    other.expect("it waits for nobody who does not read").unwrap();
    let position = download.position() as usize;
    let (rest, end) = read(&mut download).await;
    end.unwrap();
    assert!(rest == blob[position..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn storage_that_is_too_busy_for_several_ranges_is_asked_for_one_at_a_time_as_it_wants_it() {
    let blob = content(200_000);
    let served = blob.clone();
    let (busy_for, refused) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
    let (open, refusals) = (Arc::clone(&busy_for), Arc::clone(&refused));
    // More than one at once are refused: whoever comes while another is held.
    let peer = Peer::start(move |_, seen| match seen.range() {
        Some((first, _)) if first >= 50_000 && refusals.load(Ordering::SeqCst) == 0 => {
            refusals.fetch_add(1, Ordering::SeqCst);
            open.store(first as u64, Ordering::SeqCst);
            refusal(503, "ServerBusy").with("Retry-After", "0")
        }
        _ => stored(&served, seen),
    })
    .await;
    let (container, ahead) = reading_ahead(&peer, 4);
    let mut download = container.download("a", 0, None).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = download.next().await.unwrap() {
        bytes.extend_from_slice(&piece);
        // Once what was under way at the refusal is handed out, there is one.
        if bytes.len() as u64 > busy_for.load(Ordering::SeqCst) + 5 * RANGE && refused.load(Ordering::SeqCst) > 0 {
            assert_eq!(ahead.ranges(), 0, "at {}", bytes.len());
        }
    }
    assert!(bytes == blob);
    assert_eq!(refused.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_ahead_that_always_fail_do_not_fail_the_download() {
    let blob = content(100_000);
    let served = blob.clone();
    let position = Arc::new(AtomicU64::new(0));
    let handed_out = Arc::clone(&position);
    // A storage, or a firewall before it, that lets each client have one connection.
    let peer = Peer::start(move |_, seen| {
        let first = seen.range().map_or(0, |(first, _)| first as u64);
        match first > handed_out.load(Ordering::SeqCst) {
            true => Reply { end: End::Reset, ..Reply::new(200) },
            false => stored(&served, seen),
        }
    })
    .await;
    let (container, _) = reading_ahead(&peer, 4);
    let mut download = container.download("a", 0, None).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(piece) = download.next().await.unwrap() {
        bytes.extend_from_slice(&piece);
        position.store(download.position(), Ordering::SeqCst);
    }
    assert!(bytes == blob);
}

/// What a script does to the ranges of one download, by a seed.
fn bad_day(seed: u64, blob: Vec<u8>, replaced_at: Option<usize>) -> impl Fn(usize, &Seen) -> Reply {
    let (dead, replaced) = (AtomicU64::new(0), AtomicBool::new(false));
    let other = content(blob.len() + 1).split_off(1);
    move |number, seen| {
        let mut chance = StdRng::seed_from_u64(seed << 20 | number as u64);
        if generation(seen) <= dead.load(Ordering::SeqCst) {
            return refusal(403, "AuthenticationFailed");
        }
        let Some((first, last)) = seen.range() else { return stored(&blob, seen) };
        if replaced.load(Ordering::SeqCst) {
            // Some proxies drop the condition: then the bytes are the other one's, under its own ETag.
            return match seen.header("if-match") {
                Some(_) if chance.random_bool(0.5) => refusal(412, "ConditionNotMet"),
                _ => {
                    let mut reply = stored(&other, seen);
                    reply.headers.retain(|(name, _)| *name != "ETag");
                    reply.with("ETag", "\"0x2\"")
                }
            };
        }
        let reply = stored(&blob, seen);
        let at = chance.random_range(0..=last.min(blob.len() - 1) - first);
        if replaced_at.is_some_and(|byte| (first..=last).contains(&byte)) && !replaced.swap(true, Ordering::SeqCst) {
            return reply.ending(End::Cut(at));
        }
        match chance.random_range(0..20) {
            0 => reply.ending(End::Cut(at)),
            1 => reply.ending(End::Reset),
            2 => refusal(503, "ServerBusy").with("Retry-After", "0"),
            3 => refusal(500, "InternalError"),
            4 => {
                dead.fetch_max(generation(seen), Ordering::SeqCst);
                reply.ending(End::Cut(at))
            }
            5 if chance.random_bool(0.2) => reply.ending(End::Stall(at)),
            _ => reply,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_are_the_same_whatever_breaks_off_wherever() {
    let blob = content(150_000);
    let mut downloads = tokio::task::JoinSet::new();
    for seed in 0..24 {
        let blob = blob.clone();
        downloads.spawn(async move {
            let peer = Peer::start(bad_day(seed, blob.clone(), None)).await;
            let (container, ahead) = reading_ahead(&peer, 1 + seed as usize % 5);
            let mut download = loop {
                match container.download("a", 0, None).await {
                    Ok(download) => break download,
                    Err(error) => assert!(error.is_transient(), "seed {seed}: {error}"),
                }
            };
            let mut read = Vec::new();
            loop {
                match download.next().await {
                    Ok(Some(bytes)) => read.extend_from_slice(&bytes),
                    Ok(None) => break,
                    // Five tries without a byte: whoever goes on loses nothing either.
                    Err(error) => {
                        assert!(
                            error.is_transient() || matches!(error, BlobError::AccessRefused { .. }),
                            "{seed}: {error}"
                        );
                    }
                }
                assert_eq!(download.position(), read.len() as u64);
            }
            assert!(read == blob, "seed {seed}");
            assert_eq!(ahead.ranges(), 0, "seed {seed}");
        });
    }
    downloads.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_is_replaced_under_several_ranges_ends_them_and_nothing_of_the_other_is_handed_out() {
    let blob = content(150_000);
    let mut changed = 0;
    for seed in 0..8_u64 {
        let at = StdRng::seed_from_u64(seed).random_range(RANGE as usize..blob.len());
        let peer = Peer::start(bad_day(100 + seed, blob.clone(), Some(at))).await;
        let (container, _) = reading_ahead(&peer, 4);
        let Ok(mut download) = container.download("a", 0, None).await else { continue };
        let end = loop {
            let (read, end) = read(&mut download).await;
            let from = download.position() as usize - read.len();
            assert!(read == blob[from..from + read.len()], "seed {seed}");
            match end {
                Err(error) if error.is_transient() || matches!(error, BlobError::AccessRefused { .. }) => {}
                end => break end,
            }
        };
        match end {
            Err(BlobError::Changed { .. }) => changed += 1,
            // All that was left of it was under way when it was replaced.
            Ok(()) => assert_eq!(download.position(), blob.len() as u64),
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    assert!(changed > 0, "some are replaced while more is to be asked for");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_next_anywhere_loses_nothing_of_several_ranges() {
    let blob = content(150_000);
    let peer = Peer::start(bad_day(7, blob.clone(), None)).await;
    let (container, _) = reading_ahead(&peer, 4);
    let mut download = loop {
        if let Ok(download) = container.download("a", 0, None).await {
            break download;
        }
    };
    let mut read = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_micros(300), download.next()).await {
            Ok(Ok(Some(bytes))) => read.extend_from_slice(&bytes),
            Ok(Ok(None)) => break,
            Ok(Err(error)) => {
                assert!(error.is_transient() || matches!(error, BlobError::AccessRefused { .. }), "{error}")
            }
            Err(_dropped) => {}
        }
    }
    assert!(read == blob);
}

/// What `docs/performance.md` says of ranges: `cargo test -p waybill-azure --release --lib -- --ignored --nocapture how_fast`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it measures"]
async fn how_fast_ranges_are() {
    const BYTES: usize = 96 << 20;
    let local = super::storage::local().await;
    let (writing, tokens) = super::storage::container(&local);
    let upload = writing.upload("a");
    for block in content(BYTES).chunks(8 << 20) {
        upload.stage(bytes::Bytes::copy_from_slice(block)).await.unwrap();
    }
    upload.commit(&super::storage::headers()).await.unwrap();
    let slow = |mib: u32| What::Slow { bytes_per_second: NonZeroU32::new(mib << 20).unwrap() };
    let delay = |ms| What::Delay(Duration::from_millis(ms));
    let days: [(&str, Vec<What>, u64); 6] = [
        ("nothing in the way", vec![], 0),
        ("a reader that takes 1 ms for each 256 KiB", vec![], 1000),
        ("10 MiB/s each", vec![slow(10)], 0),
        ("30 MiB/s each, 60 ms until it begins", vec![slow(30), delay(60)], 0),
        ("60 ms until it begins", vec![delay(60)], 0),
        ("200 ms until it begins", vec![delay(200)], 0),
    ];
    for (day, faults, pause) in days {
        local.faults().clear();
        let step = |what| Step::new(BlobRequests::of(BlobOperation::GetBlob), what).times(NonZeroU32::MAX);
        local.faults().install(faults.into_iter().map(step).collect::<Vec<_>>()).unwrap();
        for round in 0..2 {
            for ranges in [0, 2, 4, 8] {
                let ahead = Arc::new(ReadAhead::new(ranges, 4 << 20));
                let source: Arc<dyn crate::TokenSource> = Arc::<super::CountingTokens>::clone(&tokens);
                let container = Container::new(super::http(), source, ContainerOptions::default());
                let container = container.reading_ahead(Arc::clone(&ahead));
                let (begun, mut most, mut read, mut taken) = (std::time::Instant::now(), 0, 0, 0);
                let mut download = container.download("a", 0, None).await.unwrap();
                while let Some(bytes) = download.next().await.unwrap() {
                    (read, most) = (read + bytes.len(), most.max(ahead.ranges()));
                    if pause > 0 && read - taken > 256 << 10 {
                        taken = read;
                        tokio::time::sleep(Duration::from_micros(pause)).await;
                    }
                }
                assert_eq!(read, BYTES);
                let took = begun.elapsed().as_secs_f64();
                println!("{day}: {ranges} ahead, {took:.2} s, {:.0} MiB/s, {most} at most; {round}", 96.0 / took);
            }
        }
    }
    local.stop().await;
}
