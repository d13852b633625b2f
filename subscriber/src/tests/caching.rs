//! Copies of files that are read in place of a download.

use std::{fs, path::PathBuf};

use waybill_contracts::Reason;
use waybill_local::{
    BlobOperation,
    fault::{BlobRequests, Step, What},
};

use super::{
    sink::MemorySink,
    world::{Running, World, builder, packed, rows_in, until},
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
    let (world, inbox, id) = worked(r#""rows":200000"#).await;
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
    assert_eq!(replaying.figures().cache.unwrap().hits, 1);
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
    let (world, inbox, id) = worked("").await;
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
