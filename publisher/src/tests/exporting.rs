//! Exports: whose blob it is, which number it has, and what a second one of the same id does.

use std::{
    collections::BTreeSet,
    num::{NonZeroU32, NonZeroUsize},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{join, sync::watch, time::timeout};
use waybill_azure::{BoxFuture, Generation, Grant, GrantError, Service, TokenSource, connection_string::key_tokens};
use waybill_formats::{Compression, Field};
use waybill_local::{
    BlobOperation,
    fault::{BlobRequests, BusEvent, BusFrames, Step, What, When, Whose},
};

use super::world::{PATIENCE, Running, SUBSCRIPTION, World, all_rows, export, message, numbers, row_of, until};
use crate::{ExportError, FlushError, Publisher, outbox::State};

fn times(times: u32) -> NonZeroU32 {
    times.try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_is_committed_before_its_message_is_sent() {
    const EXPORTS: u64 = 40;
    let world = World::new().await;
    let of = |operation| BlobRequests::of(operation);
    let steps = [
        // Every commit is late: a message that does not wait for it comes before its blob.
        Step::new(When::Blob(of(BlobOperation::PutBlockList)), What::Delay(Duration::from_millis(30)))
            .times(times(1_000)),
        Step::new(of(BlobOperation::PutBlockList), What::Reset(Whose::Event)).nth(times(3)).times(times(3)),
        Step::new(of(BlobOperation::PutBlock), What::throttle(Duration::from_secs(1))).nth(times(9)).times(times(2)),
        // Soon after each fifth delivery, so that some are accepted and nobody is told.
        Step::new(BusFrames::of(BusEvent::TransferIn).entity("exports"), What::DropAnswer { reset: true })
            .nth(times(5))
            .every(times(5))
            .times(times(3)),
    ];
    world.local.faults().install(steps).unwrap();
    let running = world.running().await;

    let look = async {
        let (container, broker) = (world.container(), world.local.broker());
        let mut looked_at = BTreeSet::new();
        let (mut next, mut arrived) = (0, 0);
        while (looked_at.len() as u64) < EXPORTS {
            broker.wait_until(|_| world.arrived() > arrived).await;
            arrived = world.arrived();
            for peeked in broker.peek(SUBSCRIPTION, next, usize::MAX).unwrap() {
                next = peeked.sequence_number + 1;
                let message = message(peeked.contents.message_id, peeked.contents.body);
                let blob = row_of(&running.publisher, &message.id).await.blob;
                let there = container.head(&blob).await;
                assert!(there.is_ok(), "{}: the message is here, its blob is not: {there:?}", message.id);
                looked_at.insert(message.id);
            }
        }
    };
    let exporting = async {
        for number in 0..EXPORTS / 4 {
            let ids = [0, 1, 2, 3].map(|part| format!("{number}-{part}"));
            let exports = ids.iter().map(|id| export(&running.publisher, id, 20));
            for exported in futures::future::join_all(exports).await {
                exported.unwrap();
            }
        }
    };
    timeout(PATIENCE, async { join!(look, exporting) }).await.expect("in time");
    running.sent().await;
    assert!(*world.local.faults().fired().borrow() >= 40, "faults happened");
    assert_eq!(world.assert_promises(&running.publisher, 0).await.len() as u64, EXPORTS);
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_foreign_blob_under_our_name_is_left_alone_and_the_export_is_made_under_another_name() {
    let world = World::new().await;
    let running = world.running().await;
    let mut writer = running.publisher.export("Number").unwrap().id("taken").unwrap().start().await.unwrap();
    let name = row_of(&running.publisher, "taken").await.blob;
    world.put_foreign(&name, b"not ours").await;
    writer.row(&[("n", Field::Number("1"))]).await.unwrap();
    let refused = writer.finish().await.unwrap_err();
    assert!(matches!(&refused, ExportError::Void { number: 1, .. }), "{refused:?}");
    assert!(refused.to_string().contains(&name), "it names the blob: {refused}");

    let again = export(&running.publisher, "taken", 3).await.unwrap();
    assert_eq!((again.repeated, again.sequence), (false, 2));
    assert!(!again.uri.ends_with(&name), "another name");
    running.sent().await;
    world.assert_promises(&running.publisher, 1).await;
    assert_eq!(world.messages().len(), 1);
    let foreign = again.uri.replace(&row_of(&running.publisher, "taken").await.blob, &name);
    assert_eq!(world.stored(&foreign).await, b"not ours");
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_file_whose_name_is_taken_while_it_is_staged_is_exported_under_another_without_being_asked() {
    let world = World::new().await;
    let running = world.running().await;
    // Time for somebody to be faster.
    let late = What::Delay(Duration::from_secs(1));
    world.local.faults().install([Step::new(When::Blob(BlobRequests::of(BlobOperation::PutBlock)), late)]).unwrap();
    let file = world.file("numbers.jsonl", numbers("taken", 50).as_bytes());
    let exporting = running.publisher.export("Number").unwrap().id("taken").unwrap();
    let (exported, name) = join!(exporting.file(&file), async {
        world.local.faults().wait_for(1).await;
        let name = row_of(&running.publisher, "taken").await.blob;
        world.put_foreign(&name, b"not ours").await;
        name
    });
    let exported = exported.unwrap();
    assert_eq!(exported.sequence, 2);
    assert!(!exported.uri.ends_with(&name));
    running.sent().await;
    assert_eq!(world.plain(&exported.uri).await, numbers("taken", 50).into_bytes());
    world.assert_promises(&running.publisher, 1).await;
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn the_same_export_id_is_exported_once() {
    let world = World::new().await;
    let running = world.running().await;
    let first = export(&running.publisher, "nightly-7", 10).await.unwrap();
    assert!(!first.repeated);
    // While it may wait for the bus still, when it is sent, and by another publisher on the same outbox.
    let second = export(&running.publisher, "nightly-7", 99).await.unwrap();
    running.sent().await;
    let third = export(&world.publisher().await, "nightly-7", 10).await.unwrap();
    for again in [second, third] {
        assert_eq!(again, crate::Exported { repeated: true, ..first.clone() });
    }
    let other_type = running.publisher.export("Price").unwrap().id("nightly-7").unwrap().start().await;
    assert!(other_type.unwrap_err().to_string().contains("nightly-7"));
    assert_eq!((world.commits(), world.messages().len(), all_rows(&running.publisher).await.len()), (1, 1, 1));
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tries_of_one_export_id_at_the_same_time_make_one_blob_and_one_message() {
    let world = World::new().await;
    let running = world.running().await;
    let other = world.publisher().await;
    let publishers = [&running.publisher, &other, &running.publisher, &other];
    let tries = publishers.map(|publisher| export(publisher, "once", 500));
    let done = futures::future::join_all(tries).await;
    assert!(done.iter().any(Result::is_ok), "{done:?}");
    running.sent().await;
    assert_eq!(world.assert_promises(&running.publisher, 0).await.len(), 1);
    assert_eq!(world.messages().len(), 1);
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn sequence_numbers_count_per_type_from_one() {
    let world = World::new().await;
    let running = world.running().await;
    let mut given = Vec::new();
    for blob_type in ["Item", "Price", "Item", "Item", "Price"] {
        let mut writer = running.publisher.export(blob_type).unwrap().start().await.unwrap();
        writer.row(&[("n", Field::Number("1"))]).await.unwrap();
        given.push((blob_type, writer.finish().await.unwrap().sequence));
        // One that is given up before its file is whole takes no number.
        running.publisher.export(blob_type).unwrap().start().await.unwrap().abandon("not wanted").await.unwrap();
    }
    assert_eq!(given, [("Item", 1), ("Price", 1), ("Item", 2), ("Item", 3), ("Price", 2)]);
    running.sent().await;
    let epoch = running.publisher.status().await.unwrap().epoch;
    let mut told: Vec<(String, Option<u64>)> = Vec::new();
    for message in world.messages() {
        assert_eq!(message.extras.epoch.as_ref(), Some(&epoch));
        assert_eq!(message.extras.publisher.as_deref(), Some("shop"));
        told.push((message.metadata.blob_type, message.extras.sequence));
    }
    told.sort();
    let wanted = [("Item", 1), ("Item", 2), ("Item", 3), ("Price", 1), ("Price", 2)];
    assert_eq!(told, wanted.map(|(blob_type, number)| (blob_type.to_owned(), Some(number))));
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    // They go on where they were.
    let after = world.publisher().await.export("Price").unwrap().start().await.unwrap().finish().await.unwrap();
    assert_eq!(after.sequence, 3);
    world.end().await;
}

#[tokio::test]
async fn a_correlation_id_that_is_not_ascii_is_percent_encoded_in_the_header_only() {
    let world = World::new().await;
    let running = world.running().await;
    for (id, header) in [
        ("größe 7", "gr%C3%B6%C3%9Fe%207"),
        ("50%/日本\u{7f}", "50%25/%E6%97%A5%E6%9C%AC%7F"),
        ("8f252380-ef1e-4e0e-8f72-5b7362d8db3b", "8f252380-ef1e-4e0e-8f72-5b7362d8db3b"),
    ] {
        let export = running.publisher.export("Number").unwrap().correlation_id(id).unwrap();
        let exported = export.start().await.unwrap().finish().await.unwrap();
        running.sent().await;
        let said = world.facts(&exported.uri).await.headers.metadata;
        assert_eq!(said["correlationid"], header);
        let message = world.messages().pop().unwrap();
        assert_eq!((message.metadata.correlation_id.as_str(), message.metadata.uri), (id, exported.uri));
    }
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_writer_that_is_dropped_is_void_and_takes_no_number() {
    let world = World::new().await;
    let running = world.running().await;
    let small = running.publisher.export("Number").unwrap().id("dropped").unwrap().compression(Compression::None);
    let mut writer = small.start().await.unwrap();
    writer.row(&[("n", Field::Number("1"))]).await.unwrap();
    drop(writer);
    until("the dropped export void", async || row_of(&running.publisher, "dropped").await.state == State::Void).await;
    let flushed = running.publisher.flush_exports(&["dropped"], Duration::from_secs(1)).await;
    assert!(matches!(&flushed, Err(FlushError::Void { .. })), "{flushed:?}");
    assert_eq!(export(&running.publisher, "next", 1).await.unwrap().sequence, 1);
    running.sent().await;
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}

/// Hands out the token for storage until storage refuses it, as one that is withdrawn.
#[derive(Debug)]
struct Stubborn {
    inner: Arc<dyn TokenSource>,
    held: Mutex<Option<Grant>>,
}

impl TokenSource for Stubborn {
    fn grant(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Grant, GrantError>> {
        Box::pin(async move {
            if service != Service::Blob {
                return self.inner.grant(service, refused).await;
            }
            let held = self.held.lock().unwrap().clone();
            if let Some(held) = held.filter(|held| refused != Some(held.generation)) {
                return Ok(held);
            }
            let grant = self.inner.grant(service, refused).await?;
            *self.held.lock().unwrap() = Some(grant.clone());
            Ok(grant)
        })
    }

    fn changes(&self) -> watch::Receiver<Generation> {
        self.inner.changes()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_dies_between_two_blocks_is_renewed_and_the_file_is_whole() {
    let world = World::new().await;
    let ready = world.local.ready_file();
    let inner = key_tokens(
        ready.service_bus_connection_string.parse().unwrap(),
        ready.topic.clone(),
        ready.blob_connection_string.parse().unwrap(),
        ready.container.clone(),
        // Its end is told in whole seconds.
        Duration::from_secs(2),
    );
    let tokens = Arc::new(Stubborn { inner, held: Mutex::default() });
    let block = NonZeroUsize::new(4 << 10).unwrap();
    let builder = Publisher::builder(tokens, world.outbox()).name("shop").compression(Compression::None);
    let running = Running::start(builder.blocks(block, NonZeroUsize::MIN).build().await.unwrap());
    let mut writer = running.publisher.export("Number").unwrap().id("long").unwrap().start().await.unwrap();
    let text = "x".repeat(64 << 10);
    let mut rows = 0;
    // Until it has died twice in the middle of the file.
    let writing = async {
        while world.local.stats().counted().blob_requests("PutBlock", 403) < 2 {
            let number = rows.to_string();
            writer.row(&[("n", Field::Number(&number)), ("x", Field::Text(text.as_str().into()))]).await.unwrap();
            rows += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, writing).await.expect("tokens die");
    let exported = writer.finish().await.unwrap();
    assert_eq!(exported.rows, Some(rows));
    running.sent().await;
    let stored = String::from_utf8(world.stored(&exported.uri).await).unwrap();
    let expected: String = (0..rows).map(|n| format!("{{\"n\":{n},\"x\":\"{text}\"}}\n")).collect();
    assert!(stored == expected, "no block is missing and none is there twice");
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_stream_that_fails_publishes_nothing_and_one_of_results_is_no_stream_of_rows() {
    let world = World::new().await;
    let running = world.running().await;
    let row = |n: u32| serde_json::json!({ "n": n });
    let builder = |id: &str| running.publisher.export("Number").unwrap().id(id).unwrap();

    let fails = futures::stream::iter([Ok(row(1)), Err(std::io::Error::other("the database is gone")), Ok(row(2))]);
    let failed = builder("fails").try_rows(fails).await.unwrap_err();
    assert!(
        matches!(&failed, ExportError::Read { source, .. } if source.to_string() == "the database is gone"),
        "{failed:?}"
    );
    assert_eq!(failed.to_string(), "the rows of Number: cannot be read; nothing of it was published");
    let known = row_of(&running.publisher, "fails").await;
    assert_eq!(known.state, State::Void);
    assert!(known.reason.unwrap().ends_with("the database is gone"));

    // Both sides of it can be serialised, so that it compiles.
    let results = || futures::stream::iter([Ok::<_, String>(row(1)), Err("no row".to_owned())]);
    let refused = builder("results").rows(results()).await.unwrap_err();
    assert!(
        matches!(&refused, ExportError::Invalid { problem, .. } if problem.contains("use `try_rows`")),
        "{refused}"
    );
    let by_reference = [Ok::<_, String>(row(1))];
    assert!(builder("references").rows(futures::stream::iter(&by_reference)).await.is_err());
    assert!(matches!(builder("results").try_rows(results()).await, Err(ExportError::Read { .. })));

    // The same id once more, without a fault.
    let sound = futures::stream::iter([Ok::<_, String>(row(1)), Ok(row(2))]);
    let made = builder("results").try_rows(sound).await.unwrap();
    assert_eq!(world.plain(&made.uri).await, b"{\"n\":1}\n{\"n\":2}\n");
    running.sent().await;
    assert_eq!(world.messages().len(), 1);
    running.end().await;
    world.end().await;
}

/// Each reader has a thread of the runtime's for work that blocks, on which its segments are packed as well.
#[test]
fn many_files_at_once_leave_threads_to_pack_what_they_read() {
    const FILES: usize = 8;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(4).enable_all().build().unwrap();
    runtime.block_on(async {
        let world = World::new().await;
        let publisher = world.builder().files_read_at_once_max(NonZeroUsize::new(2).unwrap()).build().await.unwrap();
        let row = format!("{{\"filler\":\"{}\"}}\n", "x".repeat(16 << 10));
        let file = world.file("large.jsonl", row.repeat(8 << 6).as_bytes());
        let all = (0..FILES).map(|number| {
            let builder = publisher.export("Number").unwrap().id(&format!("n-{number}")).unwrap();
            builder.compression(Compression::None).file(&file)
        });
        let all = timeout(PATIENCE, futures::future::join_all(all)).await.expect("they wait for each other");
        assert!(all.into_iter().all(|exported| exported.unwrap().rows == Some(8 << 6)));
        world.end().await;
    });
    runtime.shutdown_background();
}
