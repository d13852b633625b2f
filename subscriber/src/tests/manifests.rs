//! What manifests tell: numbers that no file has, and files whose messages are lost.

use waybill_contracts::{Fate, MANIFEST_TYPE, ManifestRow, ManifestScope, Metadata, Reason};

use super::{
    sink::MemorySink,
    world::{Running, World, builder, rows, rows_in, until, within},
};
use crate::{
    inbox::{Inbox, ListFilter, SequenceSeen, State, Wanted},
    replay::{Waiting, coverage},
};

const EPOCH: &str = "0190a5d0-0000-7000-8000-000000000001";

fn extras(sequence: u64, id: &str) -> String {
    format!(r#""exportId":"{id}","publisher":"shop","epoch":"{EPOCH}","sequence":{sequence},"rows":3"#)
}

fn row(sequence: u64, fate: Fate) -> ManifestRow {
    let (publisher, epoch, blob_type) = ("shop".to_owned(), EPOCH.to_owned(), "T".to_owned());
    ManifestRow { publisher, epoch, blob_type, sequence, fate }
}

fn void(sequence: u64) -> ManifestRow {
    row(sequence, Fate::Void("interrupted".to_owned()))
}

fn message(world: &World, sequence: u64) -> String {
    world.waybill("T", &format!("t{sequence}.jsonl"), &extras(sequence, &format!("t{sequence}")))
}

fn sent(world: &World, sequence: u64) -> ManifestRow {
    row(sequence, Fate::Sent(Box::new(Metadata::parse(message(world, sequence).as_bytes()).unwrap())))
}

async fn upload(world: &World, sequence: u64) {
    world.upload(&format!("t{sequence}.jsonl"), rows(3).as_bytes()).await;
}

/// Uploads a manifest of these lines, and announces it.
async fn announce(world: &World, number: u64, lines: &[String]) {
    let blob = format!("manifest{number}.jsonl");
    world.upload(&blob, (lines.join("\n") + "\n").as_bytes()).await;
    let rows = lines.len();
    let extras = extras(number, &format!("m{number}")).replace("\"rows\":3", &format!("\"rows\":{rows}"));
    let (publisher, epoch, blob_type) = ("shop".to_owned(), EPOCH.to_owned(), "T".to_owned());
    let scope = serde_json::to_string(&ManifestScope { publisher, epoch, blob_type, first: 1, last: 4 }).unwrap();
    let message = world.waybill(MANIFEST_TYPE, &blob, &extras);
    world.send(&[message.replace(r#""properties":{"#, &format!(r#""properties":{{"manifest":{scope},"#))]).await;
}

fn lines(rows: &[ManifestRow]) -> Vec<String> {
    rows.iter().map(|row| row.to_json().unwrap()).collect()
}

async fn sequence(inbox: &impl Inbox) -> SequenceSeen {
    inbox.sequences().await.unwrap().into_iter().find(|of| of.blob_type == "T").unwrap()
}

/// A world in which files 1 and 3 came, 2 is void, and the message of 4 is lost; a manifest names them all.
async fn world() -> World {
    let world = World::new().await;
    for number in [1, 3, 4] {
        upload(&world, number).await;
    }
    world.send(&[message(&world, 1), message(&world, 3)]).await;
    let manifest = [sent(&world, 1), void(2), sent(&world, 3), sent(&world, 4)];
    announce(&world, 1, &lines(&manifest)).await;
    world
}

#[tokio::test]
async fn a_manifest_goes_to_the_inbox_and_not_to_the_sink() {
    let world = world().await;
    let inbox = world.inbox("inbox").await;
    // It is worked whatever types are wanted.
    let subscriber = world.subscriber(inbox.clone(), builder().types(["T".to_owned()]));
    let sink = MemorySink::default();
    let running = Running::run(&subscriber, sink.clone());
    rows_in(&inbox, State::Done, 3).await;
    let seen = sequence(&inbox).await;
    assert_eq!((seen.first, seen.last, seen.applied_to, seen.missing), (1, 4, Some(3), 1));
    assert_eq!((seen.named_to, seen.gaps[0].from), (Some(4), 4));
    assert_eq!(sink.rows().len(), 6, "rows of files alone");
    running.stop().await;

    // The sink does not know it, and is not asked.
    let manifest = rows_in(&inbox, State::Done, 3).await.remove("c-manifest1.jsonl").unwrap();
    assert_eq!(manifest.rows, 4);
    let running = Running::run(&subscriber, sink.clone());
    upload(&world, 5).await;
    world.send(&[message(&world, 5)]).await;
    rows_in(&inbox, State::Done, 4).await;
    running.stop().await;
    let history = inbox.history(manifest.id).await.unwrap();
    assert_eq!(history.iter().filter(|entry| entry.state == State::Done).count(), 1, "it is worked once");
}

#[tokio::test]
async fn a_file_that_a_manifest_names_is_had_without_its_message_and_without_the_right_to_list() {
    let world = world().await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let sink = MemorySink::default();
    let running = Running::run(&subscriber, sink.clone());
    rows_in(&inbox, State::Done, 3).await;

    let dry = subscriber.reconcile(None, true).await.unwrap();
    assert_eq!((dry.manifests, dry.added.count, dry.added.first[0].id), (1, 1, None));
    let found = subscriber.reconcile(None, false).await.unwrap();
    assert_eq!((found.added.count, found.known, found.unlisted), (1, 2, 1));
    assert_eq!(found.added.first[0].file.as_str(), "export:shop/t4");
    let row = rows_in(&inbox, State::Done, 4).await.remove("c-t4.jsonl").unwrap();
    assert_eq!((row.sequence, row.rows), (Some(4), 3));
    assert!(sequence(&inbox).await.is_complete());
    let again = subscriber.reconcile(None, false).await.unwrap();
    assert_eq!((again.manifests, again.added.count, again.known), (1, 0, 0), "nothing is missing, so none is read");

    world.send(&[message(&world, 4)]).await;
    let late = rows_in(&inbox, State::Duplicate, 1).await.into_values().next().unwrap();
    assert_eq!(late.duplicate_of, Some(row.id));
    running.stop().await;
    assert_eq!(sink.rows().len(), 9, "each row once");
}

#[tokio::test]
async fn a_manifest_proves_that_a_number_is_missing_by_right() {
    let world = world().await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let gaps = async || -> Vec<String> {
        let coverage = coverage(&inbox, &Wanted::default(), Waiting::Comes, &[]).await.unwrap();
        coverage.gaps.iter().map(ToString::to_string).collect()
    };
    let receiving = Running::receive(&subscriber);
    rows_in(&inbox, State::Saved, 3).await;
    receiving.stop().await;
    assert_eq!(gaps().await, ["T: number 2 of publisher \"shop\" never came"], "it is not read yet");
    let running = Running::run(&subscriber, MemorySink::default());
    rows_in(&inbox, State::Done, 3).await;
    assert_eq!(gaps().await, ["T: number 4 of publisher \"shop\" never came"]);
    subscriber.reconcile(None, false).await.unwrap();
    rows_in(&inbox, State::Done, 4).await;
    assert!(gaps().await.is_empty());
    running.stop().await;
}

#[tokio::test]
async fn a_row_that_cannot_be_understood_is_told_and_hides_no_other() {
    let world = World::new().await;
    let foreign = ManifestRow { publisher: "else".to_owned(), ..void(9) };
    for (number, bad) in [(1, "{\"publisher\":\"shop\"}".to_owned()), (2, foreign.to_json().unwrap())] {
        announce(&world, number, &[void(number).to_json().unwrap(), bad, void(number + 2).to_json().unwrap()]).await;
    }
    let inbox = world.inbox("inbox").await;
    let running = Running::run(&world.subscriber(inbox.clone(), builder()), MemorySink::default());
    for row in rows_in(&inbox, State::Quarantined, 2).await.into_values() {
        assert_eq!(row.reason, Some(Reason::MalformedRow));
        assert!(row.problem.unwrap().contains("row 2 of the manifest: "));
    }
    running.stop().await;
    let named = inbox.named().await.unwrap();
    assert_eq!((named.len(), named[0].up_to), (1, 4));
    let void: u64 = named[0].void.iter().map(|(from, to)| to - from + 1).sum();
    assert_eq!(void, 4, "1 to 4");
}

#[tokio::test]
async fn manifests_are_noted_and_not_given_to_code_of_ones_own() {
    let world = world().await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let receiving = Running::receive(&subscriber);
    rows_in(&inbox, State::Saved, 3).await;
    receiving.stop().await;
    let mut files = subscriber.files(Wanted::default());
    let mut given = Vec::new();
    while let Some(file) = within(files.next_due()).await.unwrap() {
        given.push(file.metadata().blob_type.clone());
        file.done().await.unwrap();
    }
    files.close().await;
    assert_eq!(given, ["T", "T"]);
    assert_eq!(sequence(&inbox).await.named_to, Some(4));
    let done = ListFilter { state: Some(State::Done), ..ListFilter::default() };
    until("all are done", || async { inbox.list(&done).await.unwrap().len() == 3 }).await;
}
