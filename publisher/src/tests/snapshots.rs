//! Full exports: that every part says where it belongs, that nothing is published before all is there, and that what a crash
//! leaves is never taken for all.

use std::num::NonZeroU64;

use serde_json::json;
use waybill_contracts::{BlobType, Format, Snapshot};
use waybill_store::rusqlite::Connection;

use super::{
    crash::{is_the_one_to_be_killed, kill_at, publisher_to_be_killed},
    world::{Message, Running, World, all_rows, export, until},
};
use crate::{
    ExportError, Exported, Publisher, SnapshotOptions, SnapshotWriter,
    change_log::ChangeLog,
    context::Step,
    outbox::{Outbox, State},
};

const ROWS: u64 = 5;

/// Parts of two rows.
fn in_twos() -> SnapshotOptions {
    SnapshotOptions { max_rows: NonZeroU64::new(2).unwrap(), ..SnapshotOptions::default() }
}

async fn begin(publisher: &Publisher, id: &str, options: SnapshotOptions) -> Result<SnapshotWriter, ExportError> {
    publisher.export("Number")?.correlation_id("c-full")?.snapshot(id, options).await
}

/// A full export of five rows, in parts of two.
async fn full(publisher: &Publisher, id: &str) -> Result<Vec<Exported>, ExportError> {
    let mut snapshot = begin(publisher, id, in_twos()).await?;
    for n in 0..ROWS {
        snapshot.serialize(&json!({ "n": n })).await?;
    }
    snapshot.finish().await
}

fn part_of(message: &Message) -> Snapshot {
    message.extras.snapshot.clone().expect("a part of a full export")
}

fn shown(part: &Snapshot) -> (&str, u64, u64, u64) {
    (&part.id, part.part, part.of, part.as_of)
}

#[tokio::test]
async fn each_part_says_which_it_is_of_how_many_and_where_the_rows_belong() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    export(&publisher, "one", 1).await.unwrap();
    export(&publisher, "two", 1).await.unwrap();
    let running = Running::start(publisher);
    running.sent().await;

    let mut snapshot = begin(&running.publisher, "nightly", in_twos()).await.unwrap();
    assert_eq!((snapshot.as_of(), snapshot.already_exported()), (2, None));
    // What is published meanwhile counts as newer.
    export(&running.publisher, "three", 1).await.unwrap();
    for n in 0..ROWS {
        snapshot.serialize(&json!({ "n": n })).await.unwrap();
    }
    running.sent().await;
    assert_eq!(world.commits(), 3, "nothing of it is there before all is");
    let parts = snapshot.finish().await.unwrap();
    running.sent().await;

    let messages = world.messages();
    let told: Vec<&Message> = messages.iter().filter(|message| message.extras.snapshot.is_some()).collect();
    assert_eq!((parts.len(), told.len()), (3, 3));
    let mut plain = Vec::new();
    for (place, part) in (1..).zip(&parts) {
        let message = told.iter().find(|message| message.id == part.export_id).unwrap();
        assert_eq!(shown(&part_of(message)), ("nightly", place, 3, 2));
        assert_eq!(part.snapshot, message.extras.snapshot);
        assert_eq!((message.extras.sequence, message.metadata.correlation_id.as_str()), (Some(3 + place), "c-full"));
        let headers = world.facts(&part.uri).await.headers.metadata;
        let said = ["snapshotid", "snapshotpart", "snapshotof", "snapshotasof"].map(|name| headers[name].clone());
        assert_eq!(said, ["nightly".to_owned(), place.to_string(), "3".to_owned(), "2".to_owned()]);
        plain.extend(world.plain(&part.uri).await);
    }
    assert_eq!(String::from_utf8(plain).unwrap(), (0..ROWS).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>());
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn made_again_with_its_id_it_is_answered_with_what_is_there() {
    let world = World::new().await;
    let running = world.running().await;
    let made = full(&running.publisher, "nightly").await.unwrap();
    let again = begin(&running.publisher, "nightly", in_twos()).await.unwrap();
    assert_eq!(again.already_exported().unwrap().len(), 3);
    assert_eq!(again.as_of(), 0);
    drop(again);
    let repeated = full(&running.publisher, "nightly").await.unwrap();
    let ids = |parts: &[Exported]| parts.iter().map(|part| part.export_id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&made), ids(&repeated));
    assert!(repeated.iter().all(|part| part.repeated));

    let other = full(&running.publisher, "the next night").await.unwrap();
    assert!(ids(&other).iter().all(|id| !ids(&made).contains(id)));
    assert!(
        other.iter().all(|part| part.snapshot.as_ref().unwrap().as_of == 3),
        "the first one's parts have numbers too"
    );
    running.sent().await;
    assert_eq!(world.messages().len(), 6);
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_table_without_rows_is_an_empty_part() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    let parts = begin(&publisher, "empty", in_twos()).await.unwrap().finish().await.unwrap();
    let [part] = &parts[..] else { panic!("{parts:?}") };
    assert_eq!((part.rows, part.plain_bytes, shown(part.snapshot.as_ref().unwrap())), (Some(0), 0, ("empty", 1, 1, 0)));
    world.end().await;
}

#[tokio::test]
async fn files_are_parts_beside_rows_and_say_since_when_they_are_right() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    for id in ["one", "two"] {
        export(&publisher, id, 1).await.unwrap();
    }
    let options = |as_of| SnapshotOptions { as_of: Some(as_of), ..SnapshotOptions::default() };
    let refused = begin(&publisher, "ahead", options(3)).await.unwrap_err();
    assert_eq!(refused.to_string(), "as_of: 3 is no number of Number yet; the last one is 2");

    let mut snapshot = begin(&publisher, "files", options(1)).await.unwrap();
    snapshot.serialize(&json!({"n": 1})).await.unwrap();
    snapshot.reader("a", Format::Csv, &b"n\n2\n3\n"[..]).await.unwrap();
    snapshot.reader("b", Format::Csv, &b"n\n4\n"[..]).await.unwrap();
    let parts = snapshot.finish().await.unwrap();
    let rows: Vec<_> = parts.iter().map(|part| (part.rows, part.snapshot.as_ref().unwrap().as_of)).collect();
    assert_eq!(rows, [(Some(1), 1), (Some(2), 1), (Some(1), 1)]);
    assert_eq!(world.plain(&parts[1].uri).await, b"n\n2\n3\n");

    // A file that cannot be read ends it, and nothing of it is published.
    let mut snapshot = begin(&publisher, "broken", in_twos()).await.unwrap();
    snapshot.serialize(&json!({"n": 1})).await.unwrap();
    let error = snapshot.reader("c", Format::JsonLines, &b"{\"n\":1}\n{\"n\"\n"[..]).await.unwrap_err();
    assert!(matches!(&error, ExportError::Source { row: 2, .. }), "{error}");
    assert!(matches!(snapshot.serialize(&json!({"n": 1})).await.unwrap_err(), ExportError::Failed { .. }));
    assert!(matches!(snapshot.finish().await.unwrap_err(), ExportError::Failed { .. }));
    let running = Running::start(publisher);
    until("what was staged is void", async || running.publisher.status().await.unwrap().counts.planned == 0).await;
    running.sent().await;
    assert_eq!(world.messages().len(), 5);
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_table_is_cut_into_parts_with_all_its_rows_in_the_format_of_the_export() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    let path = world.path("service.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let service = Connection::open(&path).unwrap();
    service
        .execute_batch(
            "CREATE TABLE item (id INTEGER PRIMARY KEY, price); INSERT INTO item VALUES (1, 1.5), (2, '2'), (3, NULL)",
        )
        .unwrap();
    let lines = ["{\"id\":1,\"price\":1.5}\n", "{\"id\":2,\"price\":\"2\"}\n", "{\"id\":3,\"price\":null}\n"];
    let bytes = |bytes| SnapshotOptions { max_bytes: NonZeroU64::new(bytes).unwrap(), ..SnapshotOptions::default() };
    for (id, options, expected) in [
        ("by rows", in_twos(), vec![lines[..2].concat(), lines[2].to_owned()]),
        ("by bytes", bytes(20), vec![lines[0].to_owned(), lines[1].to_owned(), lines[2].to_owned()]),
        ("just so", bytes(lines[0].len() as u64 + 1), vec![lines[..2].concat(), lines[2].to_owned()]),
        ("whole", SnapshotOptions::default(), vec![lines.concat()]),
    ] {
        let mut snapshot = begin(&publisher, id, options).await.unwrap();
        snapshot.table(&log, "item").await.unwrap();
        let mut plain = Vec::new();
        for part in snapshot.finish().await.unwrap() {
            plain.push(String::from_utf8(world.plain(&part.uri).await).unwrap());
        }
        assert_eq!(plain, expected, "{id}");
    }
    let as_csv = publisher.export("Number").unwrap().convert_to(Format::Csv).columns(["id", "price"]);
    let mut snapshot = as_csv.snapshot("csv", in_twos()).await.unwrap();
    snapshot.table(&log, "item").await.unwrap();
    let parts = snapshot.finish().await.unwrap();
    assert_eq!(world.plain(&parts[1].uri).await, b"id,price\n3,\n", "each part is a file by itself");

    let mut snapshot = begin(&publisher, "missing", in_twos()).await.unwrap();
    let error = crate::relay::chain(&snapshot.table(&log, "elsewhere").await.unwrap_err());
    assert!(error.contains("table elsewhere: cannot be read") && error.contains("no such table"), "{error}");
    world.end().await;
}

#[tokio::test]
async fn a_table_that_cannot_be_read_to_its_end_fails_all_of_it_and_leaves_no_number() {
    let world = World::new().await;
    let running = world.running().await;
    let path = world.path("service.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let service = Connection::open(&path).unwrap();
    // The value of the fifth row cannot be computed.
    service
        .execute_batch(
            "CREATE TABLE document (id INTEGER PRIMARY KEY, text);
             CREATE VIEW item AS SELECT id, json_extract(text, '$.name') AS name FROM document;
             INSERT INTO document VALUES (1, '{}'), (2, '{}'), (3, '{}'), (4, '{}'), (5, '{')",
        )
        .unwrap();
    let mut snapshot = begin(&running.publisher, "nightly", in_twos()).await.unwrap();
    let error = crate::relay::chain(&snapshot.table(&log, "item").await.unwrap_err());
    assert!(error.contains("table item: cannot be read") && error.contains("malformed JSON"), "{error}");
    // Whoever passes over that gets no full export without the rest.
    assert!(matches!(snapshot.serialize(&json!({"n": 1})).await.unwrap_err(), ExportError::Failed { .. }));
    assert!(matches!(snapshot.table(&log, "item").await.unwrap_err(), ExportError::Failed { .. }));
    assert!(matches!(snapshot.finish().await.unwrap_err(), ExportError::Failed { .. }));
    until("what was staged is void", async || running.publisher.status().await.unwrap().counts.planned == 0).await;
    let last = running.publisher.outbox().last_number("shop", &BlobType::new("Number").unwrap()).await.unwrap();
    assert_eq!((world.commits(), last, world.messages().len()), (0, 0, 0));

    service.execute_batch("UPDATE document SET text = '{}' WHERE id = 5").unwrap();
    let mut snapshot = begin(&running.publisher, "nightly", in_twos()).await.unwrap();
    snapshot.table(&log, "item").await.unwrap();
    let parts = snapshot.finish().await.unwrap();
    let made: Vec<_> = parts.iter().map(|part| (part.snapshot.as_ref().unwrap().id.as_str(), part.rows)).collect();
    assert_eq!(made, [("nightly", Some(2)), ("nightly", Some(2)), ("nightly", Some(1))]);
    running.sent().await;
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn an_id_that_cannot_be_is_refused() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    for id in [String::new(), "x".repeat(121)] {
        let error = begin(&publisher, &id, in_twos()).await.unwrap_err();
        assert!(matches!(&error, ExportError::Invalid { what: "snapshot", .. }), "{error}");
    }
    world.end().await;
}

/// Two who make the same full export at the same time: one of them is told so, and subscribers see no part twice.
#[tokio::test]
async fn of_two_at_once_one_is_made() {
    let world = World::new().await;
    let running = world.running().await;
    let write = async |snapshot: &mut SnapshotWriter| {
        for n in 0..ROWS {
            snapshot.serialize(&json!({ "n": n })).await.unwrap();
        }
    };
    let mut first = begin(&running.publisher, "nightly", in_twos()).await.unwrap();
    let mut second = begin(&running.publisher, "nightly", in_twos()).await.unwrap();
    write(&mut first).await;
    write(&mut second).await;
    first.finish().await.unwrap();
    let error = second.finish().await.unwrap_err();
    assert!(
        matches!(&error, ExportError::Outbox { source: crate::outbox::OutboxError::Overtaken { .. }, .. }),
        "{error}"
    );
    until("the other is void", async || running.publisher.status().await.unwrap().counts.planned == 0).await;
    running.sent().await;
    assert_eq!(world.messages().len(), 3);
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}

/// What a crash at this step leaves, and that the next try with the same id is a whole one.
async fn a_crash_at<T>(step: Step, test: &T, left: usize, next: &str) {
    if is_the_one_to_be_killed() {
        let publisher = publisher_to_be_killed(|builder| builder).await;
        full(&publisher, "nightly").await.unwrap();
        panic!("the step was never reached");
    }
    let world = World::new().await;
    kill_at(step, &world, test).await;

    let running = world.running().await;
    until("what it left is settled", async || running.publisher.status().await.unwrap().counts.planned == 0).await;
    running.sent().await;
    assert_eq!(world.messages().len(), left);
    let parts = full(&running.publisher, "nightly").await.unwrap();
    running.sent().await;
    let messages = world.messages();
    let of = |id: &str| messages.iter().map(part_of).filter(|part| part.id == id).collect::<Vec<_>>();
    assert_eq!(of(next).len(), 3, "{:?}", messages.iter().map(part_of).collect::<Vec<_>>());
    assert!(parts.iter().all(|part| !part.repeated && part.snapshot.as_ref().unwrap().id == next));
    assert_eq!(messages.len(), 3 + left);
    let void = all_rows(&running.publisher).await.into_iter().filter(|row| row.state == State::Void).count();
    assert_eq!(void, 3 - left, "each part of the first try is sent or void");
    assert_eq!(full(&running.publisher, "nightly").await.unwrap()[0].export_id, parts[0].export_id, "it is there now");
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}

/// As a command does that is told to stop: its work is dropped, then its publisher ends.
#[tokio::test]
async fn a_stop_while_parts_are_staged_gives_them_up_at_once() {
    let world = World::new().await;
    let running = world.running().await;
    let mut snapshot = begin(&running.publisher, "nightly", in_twos()).await.unwrap();
    for n in 0..ROWS {
        snapshot.serialize(&json!({ "n": n })).await.unwrap();
    }
    assert_eq!(all_rows(&running.publisher).await.len(), 3, "two are staged, one grows");
    drop(snapshot);
    running.stop_now().await;

    let publisher = world.publisher().await;
    let rows = all_rows(&publisher).await;
    let told: Vec<_> = rows.iter().map(|row| (row.state, row.sequence, row.reason.as_deref())).collect();
    assert_eq!(told, [(State::Void, None, Some("stopped before its file was published")); 3]);
    let parts = full(&publisher, "nightly").await.unwrap();
    assert_eq!(shown(parts[0].snapshot.as_ref().unwrap()), ("nightly", 1, 3, 0), "the next one is not confused");
    let running = Running::start(publisher);
    running.sent().await;
    assert_eq!(world.messages().len(), 3);
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_crash_while_parts_are_staged_leaves_nothing() {
    let test = a_crash_while_parts_are_staged_leaves_nothing;
    if is_the_one_to_be_killed() {
        let publisher = publisher_to_be_killed(|builder| builder).await;
        full(&publisher, "nightly").await.unwrap();
        panic!("the step was never reached");
    }
    let world = World::new().await;
    kill_at(Step::Staged, &world, &test).await;
    let running = world.running().await;
    until("what it left is settled", async || running.publisher.status().await.unwrap().counts.planned == 0).await;
    assert_eq!(
        (
            world.commits(),
            running.publisher.outbox().last_number("shop", &BlobType::new("Number").unwrap()).await.unwrap()
        ),
        (0, 0)
    );
    let parts = full(&running.publisher, "nightly").await.unwrap();
    assert_eq!(parts[0].snapshot.as_ref().unwrap().id, "nightly", "nothing of it had a number");
    running.sent().await;
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_crash_before_the_first_part_is_committed_leaves_no_part() {
    let test = a_crash_before_the_first_part_is_committed_leaves_no_part;
    a_crash_at(Step::Numbered, &test, 0, "nightly.2").await;
}

#[tokio::test]
async fn a_crash_between_two_parts_leaves_parts_that_nobody_takes_for_all() {
    let test = a_crash_between_two_parts_leaves_parts_that_nobody_takes_for_all;
    a_crash_at(Step::Uploaded, &test, 1, "nightly.2").await;
}
