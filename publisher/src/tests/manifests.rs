//! Manifests: that they tell of every number what subscribers saw of it, once, whatever crashes.

use std::time::Duration;

use time::OffsetDateTime;
use waybill_contracts::{Fate, MANIFEST_TYPE, ManifestRow, ManifestScope};
use waybill_local::{
    BlobOperation,
    fault::{BlobRequests, Step as Fault, What, When},
};

use super::{
    crash::{is_the_one_to_be_killed, kill_at, publisher_to_be_killed},
    world::{Message, Running, World, export, row_of, until},
};
use crate::{
    ExportError, Publisher,
    context::Step,
    outbox::{Outbox, State},
};

/// The rows of the manifest that a message announces.
pub(super) async fn rows_of(world: &World, message: &Message) -> Vec<ManifestRow> {
    let plain = String::from_utf8(world.plain(&message.metadata.uri).await).unwrap();
    plain.lines().map(|line| ManifestRow::parse(line.as_bytes()).unwrap()).collect()
}

/// The messages of manifests, and the others.
fn manifests(world: &World) -> (Vec<Message>, Vec<Message>) {
    world.messages().into_iter().partition(|message| message.metadata.blob_type == MANIFEST_TYPE)
}

async fn export_with_term(publisher: &Publisher, id: &str, term: time::Duration) {
    let expires_at = OffsetDateTime::now_utc() + term;
    let mut writer = publisher.export("Number").unwrap().id(id).unwrap().expires_at(expires_at).start().await.unwrap();
    writer.serialize(&serde_json::json!({"n": 1})).await.unwrap();
    writer.finish().await.unwrap();
}

#[tokio::test]
async fn while_storage_takes_no_manifest_figures_say_that_numbers_are_not_named() {
    let world = World::new().await;
    let running = world.running().await;
    export(&running.publisher, "one", 1).await.unwrap();
    running.sent().await;
    let named = async || {
        let outbox = running.publisher.outbox();
        let named = outbox.named_to("shop", outbox.epoch()).await.unwrap();
        named.into_iter().map(|of| (of.up_to, of.unsent)).collect::<Vec<_>>()
    };
    let step =
        Fault::new(When::Blob(BlobRequests::of(BlobOperation::PutBlock)), What::throttle(Duration::from_secs(3600)));
    world.local.faults().install([step]).unwrap();
    running.publisher.make_manifests().await.unwrap_err();
    assert_eq!(named().await, [(0, 1)]);
    world.local.faults().clear();
    running.publisher.make_manifests().await.unwrap();
    running.sent().await;
    assert_eq!(named().await, [(1, 0)]);
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_manifest_holds_each_message_as_it_was_sent_and_why_there_is_none() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    assert!(publisher.make_manifests().await.unwrap().is_empty(), "there is nothing to tell");
    let price = serde_json::value::RawValue::from_string("19.90".to_owned()).unwrap();
    let first = publisher.export("Number").unwrap().properties(&serde_json::json!({"price": price})).unwrap();
    let mut writer = first.start().await.unwrap();
    writer.serialize(&serde_json::json!({"n": 1})).await.unwrap();
    writer.finish().await.unwrap();
    export(&publisher, "wrong", 3).await.unwrap();
    let wrong = row_of(&publisher, "wrong").await;
    publisher.outbox().void(&wrong.attempt(), "a wrong price list").await.unwrap();
    export(&publisher, "right", 2).await.unwrap();
    let running = Running::start(publisher);
    running.sent().await;

    let made = running.publisher.make_manifests().await.unwrap();
    let [manifest] = &made[..] else { panic!("{made:?}") };
    assert_eq!((manifest.blob_type.as_str(), manifest.first, manifest.last, manifest.void), ("Number", 1, 3, 1));
    assert_eq!(manifest.export.rows, Some(3));
    assert!(running.publisher.make_manifests().await.unwrap().is_empty(), "it is made once");
    running.sent().await;
    let (told, others) = manifests(&world);
    let [told] = &told[..] else { panic!("one message") };
    assert_eq!((told.extras.expires_at, told.extras.sequence), (None, Some(1)), "its files are there for ever");
    let scope = ManifestScope::of(&told.metadata).unwrap();
    assert_eq!((scope.blob_type.as_str(), scope.first, scope.last), ("Number", 1, 3));
    let rows = rows_of(&world, told).await;
    assert_eq!(rows.iter().map(|row| row.sequence).collect::<Vec<_>>(), [1, 2, 3]);
    let epoch = running.publisher.outbox().epoch();
    assert!(rows.iter().all(|row| (row.publisher.as_str(), row.epoch.as_str()) == ("shop", epoch)));
    assert_eq!(rows[1].fate, Fate::Void("a wrong price list".to_owned()));
    for (row, message) in [&rows[0], &rows[2]].into_iter().zip(&others) {
        let Fate::Sent(told) = &row.fate else { panic!("{row:?}") };
        assert_eq!(told.to_json().unwrap(), message.body, "byte for byte");
    }
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_manifest_is_kept_as_long_as_what_it_names_and_a_week_at_least() {
    let day = time::Duration::days(1);
    for (terms, days) in [([day, day], 7), ([day, day * 30], 30)] {
        let world = World::new().await;
        let running = world.running().await;
        for (number, term) in terms.into_iter().enumerate() {
            export_with_term(&running.publisher, &format!("x{number}"), term).await;
        }
        running.sent().await;
        running.publisher.make_manifests().await.unwrap();
        running.sent().await;
        let left = manifests(&world).0[0].extras.expires_at.unwrap() - OffsetDateTime::now_utc();
        assert!(left <= day * days && left > day * days - time::Duration::hours(1), "{left}");
        running.end().await;
        world.end().await;
    }
}

#[tokio::test]
async fn whoever_runs_makes_manifests_when_they_are_due() {
    let world = World::new().await;
    let publisher = world.builder().manifest_every(Some(Duration::from_millis(20))).build().await.unwrap();
    export(&publisher, "x", 1).await.unwrap();
    let running = Running::start(publisher);
    until("a manifest", async || !manifests(&world).0.is_empty()).await;
    running.end().await;
    assert_eq!(rows_of(&world, &manifests(&world).0[0]).await.len(), 1);
    world.end().await;
}

#[tokio::test]
async fn nobody_else_publishes_the_type_of_manifests() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    let error = publisher.export(MANIFEST_TYPE).unwrap_err();
    assert!(matches!(&error, ExportError::Invalid { what: "blobType", .. }), "{error}");
    world.end().await;
}

/// A manifest that a crash left at this step is made, once, by whoever runs next.
async fn a_crash_at<T>(step: Step, test: &T, void: bool) {
    if is_the_one_to_be_killed() {
        let publisher = publisher_to_be_killed(|builder| builder).await;
        publisher.make_manifests().await.unwrap();
        panic!("the step was never reached");
    }
    let world = World::new().await;
    let running = world.running().await;
    export(&running.publisher, "x", 10).await.unwrap();
    running.end().await;
    kill_at(step, &world, test).await;

    let running = world.running().await;
    let settled = async || running.publisher.status().await.unwrap().counts.planned == 0;
    until("the interrupted manifest is settled", settled).await;
    assert_eq!(running.publisher.make_manifests().await.unwrap().len(), usize::from(void));
    running.sent().await;
    let (told, _) = manifests(&world);
    let [told] = &told[..] else { panic!("{} manifests", told.len()) };
    assert_eq!(rows_of(&world, told).await.len(), 1);
    let rows = running.publisher.show(&told.id).await.unwrap();
    assert_eq!(rows.iter().filter(|row| row.state == State::Void).count(), usize::from(void), "under one id");
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_crash_before_a_manifest_is_committed_has_it_made_again() {
    let test = a_crash_before_a_manifest_is_committed_has_it_made_again;
    a_crash_at(Step::Numbered, &test, true).await;
}

#[tokio::test]
async fn a_crash_after_a_manifest_is_committed_sends_it() {
    let test = a_crash_after_a_manifest_is_committed_sends_it;
    a_crash_at(Step::Committed, &test, false).await;
}
