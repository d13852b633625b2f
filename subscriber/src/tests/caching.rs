//! Copies of files that are read in place of a download.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use waybill_contracts::Reason;
use waybill_local::{
    BlobOperation,
    fault::{BlobRequests, Step, What},
};

use super::{
    sink::MemorySink,
    world::{Running, World, builder, packed, rows, rows_in, until},
};
use crate::{
    Subscriber, SubscriberBuilder,
    cache::CacheOptions,
    inbox::{Inbox, SqliteInbox, State, Wanted},
    replay::copy_files,
};

const ROWS: u64 = 200_000;

fn dir(world: &World) -> PathBuf {
    world.folder.path().join("cache")
}

fn caching(world: &World) -> SubscriberBuilder {
    builder().cache(CacheOptions::new(dir(world)))
}

/// Whole downloads and parts of them that were begun.
fn downloads(world: &World) -> u64 {
    world.local.stats().counted().blob_requests("GetBlob", 206)
}

/// Works what is there into a new sink until `done` files are done.
async fn work(subscriber: &Subscriber<SqliteInbox>, done: u64) -> MemorySink {
    let sink = MemorySink::default();
    let running = Running::run(subscriber, sink.clone());
    let inbox = subscriber.inbox();
    until("it is done", || async { inbox.counts().await.unwrap().done >= done && sink.rows_now() > 0 }).await;
    running.stop().await;
    sink
}

/// The rows of a file as they are looked at.
async fn looked_at(subscriber: &Subscriber<SqliteInbox>, id: i64) -> Vec<String> {
    let mut rows = subscriber.rows(id).await.unwrap();
    let mut read = Vec::new();
    while let Some(batch) = rows.next().await.unwrap() {
        read.extend(batch.rows().map(|row| row.to_json().into_owned()));
    }
    read
}

fn expected() -> Vec<String> {
    (1..=ROWS).map(|id| format!("{{\"id\":{id}}}")).collect()
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A world with one file that was worked.
async fn worked(extras: &str) -> (World, SqliteInbox, i64) {
    let world = World::new().await;
    world.upload("b", &packed(ROWS)).await;
    world.send(&[world.waybill("T", "b", extras)]).await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), caching(&world));
    assert!(work(&subscriber, 1).await.in_order() == expected());
    let cache = subscriber.figures().cache.unwrap();
    assert_eq!((cache.hits, cache.misses), (0, 1));
    assert!(cache.bytes > 0);
    let id = rows_in(&inbox, State::Done, 1).await.remove("c-b").unwrap().id;
    (world, inbox, id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_whose_blob_is_deleted_is_replayed_into_another_sink_and_looked_at() {
    let (world, inbox, id) = worked(&format!(r#""rows":200000,"plainSha256":"{}""#, sha256(&rows(ROWS)))).await;
    let before = downloads(&world);
    let subscriber = world.subscriber(inbox.clone(), caching(&world));
    assert!(looked_at(&subscriber, id).await == expected());
    assert_eq!(
        downloads(&world),
        before,
        "while it is there, storage is asked whether it is the same, and for no byte"
    );
    world.container.delete("b").await.unwrap();
    assert!(looked_at(&subscriber, id).await == expected());
    // A new sink, from the same inbox and from a copy of its files.
    assert!(work(&world.subscriber(inbox.clone(), caching(&world)), 1).await.in_order() == expected());
    let copy = world.inbox("copy").await;
    copy_files(&inbox, &copy, &Wanted::default()).await.unwrap();
    let replaying = world.subscriber(copy, caching(&world));
    assert!(work(&replaying, 1).await.in_order() == expected());
    // Looked through for its hash, as nobody noted its ETag for this inbox, and read.
    assert_eq!(replaying.figures().cache.unwrap().hits, 2);
    assert_eq!(downloads(&world), before);
    // Nothing of a token is there, in names and in copies.
    for entry in fs::read_dir(dir(&world)).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        for secret in ["sig=", "sig%3D", "se="] {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found && !path.to_string_lossy().contains(secret), "{secret} in {}", path.display());
        }
        assert!(bytes.windows(2).any(|window| window == b"/b"), "its address is");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_damaged_in_the_middle_is_read_up_to_there_and_the_rest_is_downloaded() {
    let (world, inbox, id) = worked(&format!(r#""plainSha256":"{}""#, sha256(&rows(ROWS)))).await;
    let path = fs::read_dir(dir(&world)).unwrap().next().unwrap().unwrap().path();
    let mut copy = fs::read(&path).unwrap();
    let at = copy.len() - 100;
    assert!(at > 300_000, "in the second block: {at}");
    copy[at] ^= 1;
    fs::write(&path, copy).unwrap();
    let subscriber = world.subscriber(inbox.clone(), caching(&world));
    assert!(looked_at(&subscriber, id).await == expected());
    let cache = subscriber.figures().cache.unwrap();
    assert_eq!((cache.hits, cache.damaged), (1, 1));
    assert!(!path.exists(), "it is removed");
    assert!(looked_at(&subscriber, id).await == expected());
    assert!(path.exists(), "and made anew by who downloads it whole");
    world.container.delete("b").await.unwrap();
    assert!(looked_at(&subscriber, id).await == expected());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_was_replaced_is_not_read_from_the_copy_of_the_one_before() {
    let (world, inbox, id) = worked("").await;
    world.container.delete("b").await.unwrap();
    world.upload("b", &packed(3)).await;
    let subscriber = world.subscriber(inbox.clone(), caching(&world));
    for _ in 0..2 {
        assert_eq!(looked_at(&subscriber, id).await, ["{\"id\":1}", "{\"id\":2}", "{\"id\":3}"]);
    }
    let cache = subscriber.figures().cache.unwrap();
    assert_eq!((cache.hits, cache.misses), (1, 1), "the new one has taken the old one's place");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_copy_of_another_file_that_had_the_address_is_not_read_when_the_blob_is_gone() {
    let (world, inbox, _) = worked("").await;
    world.container.delete("b").await.unwrap();
    let send = async |id: &str, extras: &str| {
        let extras = format!(r#""exportId":"{id}"{extras}"#);
        let body = world.waybill("T", "b", &extras).replace("\"c-b\"", &format!("\"{id}\""));
        world.send(&[body]).await;
    };
    send("nothing-said", "").await;
    send("other-hash", &format!(r#","plainSha256":"{}""#, sha256("other"))).await;
    send("same-hash", &format!(r#","plainSha256":"{}""#, sha256(&rows(ROWS)))).await;
    let subscriber = world.subscriber(inbox.clone(), caching(&world));
    let sink = MemorySink::default();
    let running = Running::run(&subscriber, sink.clone());
    let quarantined = rows_in(&inbox, State::Quarantined, 1).await.remove("other-hash").unwrap();
    assert_eq!(quarantined.reason, Some(Reason::HashMismatch));
    until("the one with its hash is done", || async {
        rows_in(&inbox, State::Done, 1).await.contains_key("same-hash")
    })
    .await;
    until("it waits for its blob", || async {
        let waiting = rows_in(&inbox, State::Saved, 1).await;
        waiting.get("nothing-said").is_some_and(|row| row.problem.as_ref().is_some_and(|why| why.contains("missing")))
    })
    .await;
    running.stop().await;
    assert!(sink.in_order() == expected(), "of the one whose hash is right, once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_that_was_replaced_before_any_row_took_effect_is_read_and_not_the_copy_of_the_one_before() {
    let world = World::new().await;
    world.upload("b", &packed(ROWS)).await;
    world.send(&[world.waybill("T", "b", "")]).await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), caching(&world));
    let sink = MemorySink::default();
    sink.set_unfit("{\"id\":1}");
    let running = Running::run(&subscriber, sink.clone());
    until("the sink refused a row of it", || async { sink.refused() > 0 }).await;
    running.stop().await;
    let id = rows_in(&inbox, State::Saved, 1).await.remove("c-b").unwrap().id;
    assert!(looked_at(&subscriber, id).await == expected(), "there is a copy now");
    world.container.delete("b").await.unwrap();
    world.upload("b", &packed(3)).await;
    let sink = work(&world.subscriber(inbox, caching(&world)), 1).await;
    assert_eq!(sink.in_order(), ["{\"id\":1}", "{\"id\":2}", "{\"id\":3}"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_were_damaged_on_their_way_are_not_kept() {
    let world = World::new().await;
    world.upload("b", &packed(ROWS)).await;
    let corrupt = What::Corrupt { at: 100_000 };
    world.local.faults().install([Step::new(BlobRequests::of(BlobOperation::GetBlob), corrupt)]).unwrap();
    world.send(&[world.waybill("T", "b", "")]).await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), caching(&world));
    let running = Running::run(&subscriber, MemorySink::default());
    let row = rows_in(&inbox, State::Quarantined, 1).await.remove("c-b").unwrap();
    running.stop().await;
    assert_eq!(row.reason, Some(Reason::CorruptGzip));
    assert_eq!(fs::read_dir(dir(&world)).unwrap().count(), 0);
    inbox.retry(row.id).await.unwrap();
    let sink = work(&subscriber, 1).await;
    assert!(sink.in_order() == expected());
    assert_eq!(fs::read_dir(dir(&world)).unwrap().count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_no_longer_what_its_message_says_is_not_kept() {
    let world = World::new().await;
    world.upload("b", &packed(ROWS)).await;
    world.send(&[world.waybill("T", "b", r#""rows":5"#)]).await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), caching(&world));
    let running = Running::run(&subscriber, MemorySink::default());
    let row = rows_in(&inbox, State::Quarantined, 1).await.remove("c-b").unwrap();
    running.stop().await;
    assert_eq!(row.reason, Some(Reason::HashMismatch));
    assert_eq!(fs::read_dir(dir(&world)).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_that_are_too_old_go_though_no_file_is_worked() {
    let (world, inbox, _) = worked("").await;
    let copy = fs::read_dir(dir(&world)).unwrap().next().unwrap().unwrap().path();
    let old = SystemTime::from(OffsetDateTime::now_utc()) - Duration::from_secs(31 * 86_400);
    fs::File::options().write(true).open(&copy).unwrap().set_modified(old).unwrap();
    let running = Running::receive(&world.subscriber(inbox, caching(&world)));
    until("it to be gone", || async { !copy.exists() }).await;
    running.stop().await;
}
