//! P3, P4, P9 and P12 where the container's listing is compared with the inbox.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tokio::task::JoinSet;
use waybill_azure::blob::BlobHeaders;
use waybill_contracts::{Metadata, Snapshot};
use waybill_local::{
    BlobOperation, Local,
    config::{Config, Ports, TenantConfig},
    fault::{BlobRequests, Step, What, When},
};

use super::{
    sink::MemorySink,
    world::{Running, World, builder, rows, rows_in, until, within},
};
use crate::{
    inbox::{Inbox, ListFilter, State},
    reconcile::{ReconcileError, SHOWN_MAX},
};

/// Services whose tenant may list.
async fn world() -> World {
    let mut tenant = TenantConfig::named("acme");
    tenant.blob_permissions = Some("rl".to_owned());
    let config = Config { tenants: vec![tenant], ..Config::default() };
    World::of(Local::builder().config(config).ports(Ports::RANDOM).start().await.unwrap())
}

/// The name of export `number` of a type.
fn name(blob_type: &str, number: u64) -> String {
    format!("{blob_type}/2026-11-25/c-{number}-00000000-0000-0000-0000-{number:012}.jsonl.gz")
}

/// As a publisher of ours writes them (`docs/wire.md`, "The blob").
fn headers(number: u64) -> BlobHeaders {
    let metadata = [
        ("exportid", format!("e{number}")),
        ("publisher", "shop".to_owned()),
        ("epoch", "ep".to_owned()),
        ("sequence", number.to_string()),
        ("correlationid", format!("gr%C3%B6%C3%9Fe%20{number}")),
        ("rows", "3".to_owned()),
    ];
    BlobHeaders {
        content_type: "application/x-jsonlines".to_owned(),
        metadata: metadata.map(|(name, value)| (name.to_owned(), value)).into(),
    }
}

/// What the publisher's message for it says under `properties.waybill`.
fn extras(number: u64) -> String {
    format!(r#""exportId":"e{number}","publisher":"shop","epoch":"ep","sequence":{number},"rows":3"#)
}

async fn put(world: &World, blob: &str, headers: &BlobHeaders) {
    let upload = world.container.upload(blob);
    upload.stage(Bytes::from(rows(3))).await.unwrap();
    upload.commit(headers).await.unwrap();
}

async fn export(world: &World, blob_type: &str, number: u64) {
    put(world, &name(blob_type, number), &headers(number)).await;
}

#[tokio::test]
async fn a_file_whose_message_is_lost_is_admitted_and_its_late_message_is_no_second_file() {
    let world = world().await;
    export(&world, "T", 1).await;
    export(&world, "T", 2).await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let sink = MemorySink::default();
    let running = Running::run(&subscriber, sink.clone());
    world.send(&[world.waybill("T", &name("T", 1), &extras(1))]).await;
    rows_in(&inbox, State::Done, 1).await;

    let found = subscriber.reconcile(None, false).await.unwrap();
    assert_eq!((found.listed, found.known, found.added.count, found.missing.count), (2, 1, 1, 0));
    assert_eq!(found.added.first[0].file.as_str(), "export:shop/e2");
    let done = rows_in(&inbox, State::Done, 2).await;
    let row = &done["größe 2"];
    assert_eq!((row.sequence, row.rows, row.id), (Some(2), 3, found.added.first[0].id.unwrap()));
    assert_eq!((row.blob_type.as_deref(), row.content_type.as_deref()), (Some("T"), Some("application/x-jsonlines")));
    assert_eq!(row.uri, Some(world.uri(&name("T", 2))), "as the publisher writes it");

    world.send(&[world.waybill("T", &name("T", 2), &extras(2))]).await;
    let late = rows_in(&inbox, State::Duplicate, 1).await.into_values().next().unwrap();
    assert_eq!(late.duplicate_of, Some(row.id));
    running.stop().await;
    assert_eq!(sink.rows().len(), 6, "each row once");
}

#[tokio::test]
async fn a_part_of_a_full_export_is_known_as_one_by_its_headers() {
    let world = world().await;
    let part = |headers: BlobHeaders, of: [(&str, &str); 4]| {
        let of = of.map(|(name, value)| (name.to_owned(), value.to_owned()));
        BlobHeaders { metadata: headers.metadata.into_iter().chain(of).collect(), ..headers }
    };
    let said = [("snapshotid", "n%C3%A4chtlich"), ("snapshotpart", "2"), ("snapshotof", "3"), ("snapshotasof", "0")];
    put(&world, &name("T", 1), &part(headers(1), said)).await;
    let odd = [("snapshotid", "x"), ("snapshotpart", "4"), ("snapshotof", "3"), ("snapshotasof", "0")];
    put(&world, &name("T", 2), &part(headers(2), odd)).await;
    let inbox = world.inbox("inbox").await;
    let found = world.subscriber(inbox.clone(), builder()).reconcile(None, false).await.unwrap();
    assert_eq!((found.added.count, found.unusable.count), (1, 1));
    assert!(found.unusable.first[0].problem.contains("part: is 4, more than of, 3"), "{:?}", found.unusable.first);
    let row = inbox.list(&ListFilter::default()).await.unwrap().remove(0);
    let extras = Metadata::parse(row.body.as_bytes()).unwrap().extras().unwrap();
    assert_eq!(extras.snapshot, Some(Snapshot { id: "nächtlich".to_owned(), part: 2, of: 3, as_of: 0 }));
}

#[tokio::test]
async fn an_inbox_that_is_lost_is_made_anew_and_no_row_takes_effect_twice() {
    let world = world().await;
    for number in 1..=3 {
        export(&world, "T", number).await;
        world.send(&[world.waybill("T", &name("T", number), &extras(number))]).await;
    }
    let sink = MemorySink::default();
    let first = world.inbox("first").await;
    let running = Running::run(&world.subscriber(first.clone(), builder()), sink.clone());
    rows_in(&first, State::Done, 3).await;
    running.stop().await;
    let before = sink.rows();

    let inbox = world.inbox("second").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let dry = subscriber.reconcile(None, true).await.unwrap();
    assert_eq!((dry.added.count, dry.added.first[0].id), (3, None));
    assert!(inbox.list(&ListFilter::default()).await.unwrap().is_empty(), "a dry run adds nothing");
    assert!(inbox.places().await.unwrap().is_empty(), "and notes nothing");
    assert_eq!(subscriber.reconcile(None, false).await.unwrap().added.count, 3);
    let running = Running::run(&subscriber, sink.clone());
    rows_in(&inbox, State::Done, 3).await;
    running.stop().await;
    assert_eq!((sink.rows(), before.len()), (before.clone(), 9));
}

#[tokio::test]
async fn what_is_not_ours_is_counted_and_left_and_what_says_too_little_is_told() {
    let world = world().await;
    world.upload("photo.jpg", b"x").await;
    world.upload(&name("T", 1), b"without our headers").await;
    put(&world, "ours/by/headers/alone.gz", &headers(2)).await;
    let lacking = |without: &str, number: u64| {
        let mut headers = headers(number);
        headers.metadata.remove(without);
        headers
    };
    put(&world, &name("T", 3), &lacking("sequence", 3)).await;
    put(&world, &name("T", 4), &lacking("publisher", 4)).await;
    let broken = BTreeMap::from([("sequence".to_owned(), "first".to_owned())]);
    let mut odd = headers(5);
    odd.metadata.extend(broken);
    put(&world, &name("T", 5), &odd).await;
    put(&world, &name("T", 6), &BlobHeaders { content_type: "image/png".to_owned(), ..headers(6) }).await;
    export(&world, "Other", 7).await;
    export(&world, "T", 8).await;

    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder().types(["T".to_owned()]));
    let found = subscriber.reconcile(None, false).await.unwrap();
    assert_eq!((found.listed, found.foreign, found.other_types, found.added.count), (9, 3, 1, 1));
    let problems: Vec<&str> = found.unusable.first.iter().map(|blob| blob.problem.as_str()).collect();
    assert_eq!(found.unusable.count, 4);
    for (problem, wanted) in
        problems.iter().zip(["x-ms-meta-sequence", "x-ms-meta-publisher", "\"first\"", "image/png"])
    {
        assert!(problem.contains(wanted), "{problem}");
    }
    assert_eq!(inbox.list(&ListFilter::default()).await.unwrap().len(), 1);
    let all = subscriber.reconcile(Some(vec!["*".to_owned()]), true).await.unwrap();
    assert_eq!((all.added.count, all.known), (1, 1), "the other type, when it is asked for");
}

#[tokio::test]
async fn files_to_be_worked_whose_blobs_are_gone_are_told_and_done_ones_are_not() {
    let world = world().await;
    for number in 1..=3 {
        export(&world, "T", number).await;
    }
    let elsewhere = world.waybill("T", "b", "").replace(&world.uri("b"), "https://elsewhere.example/c/b");
    world.send(&[elsewhere]).await;
    let bodies: Vec<String> = (1..=3).map(|number| world.waybill("T", &name("T", number), &extras(number))).collect();
    world.send(&bodies[..1]).await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::run(&subscriber, MemorySink::default());
    rows_in(&inbox, State::Done, 1).await;
    running.stop().await;
    world.send(&bodies[1..]).await;
    let receiving = Running::receive(&subscriber);
    rows_in(&inbox, State::Saved, 2).await;
    receiving.stop().await;
    world.container.delete(&name("T", 1)).await.unwrap();
    world.container.delete(&name("T", 3)).await.unwrap();

    let found = subscriber.reconcile(None, false).await.unwrap();
    assert_eq!((found.listed, found.known, found.missing.count), (1, 1, 1));
    let missing = &found.missing.first[0];
    assert_eq!((missing.state, missing.blob.as_str()), (State::Saved, name("T", 3).as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_walks_at_once_and_one_that_was_killed_add_each_file_once_over_several_pages() {
    const FILES: u64 = 1_100;
    let world = world().await;
    for first in (0..FILES).step_by(50) {
        futures::future::join_all((first..first + 50).map(|number| export(&world, "T", number + 1))).await;
    }
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    // Its third page never comes: it is killed there, with two pages on disk.
    let third = std::num::NonZeroU32::new(3).unwrap();
    let slow =
        Step::new(When::Blob(BlobRequests::of(BlobOperation::ListBlobs)), What::throttle(Duration::from_secs(20)));
    world.local.faults().install([slow.nth(third)]).unwrap();
    let mut killed = JoinSet::new();
    killed.spawn({
        let subscriber = subscriber.clone();
        async move { subscriber.reconcile(None, false).await }
    });
    until("two pages", || async { inbox.counts().await.unwrap().saved == 1_000 }).await;
    killed.abort_all();
    assert!(killed.join_next().await.unwrap().unwrap_err().is_cancelled(), "it was cut off");

    let other = world.subscriber(world.inbox("inbox").await, builder());
    let (one, two) =
        within(async { tokio::join!(subscriber.reconcile(None, false), other.reconcile(None, false)) }).await;
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!((one.listed, two.listed), (FILES, FILES));
    assert_eq!(one.added.count + two.added.count, FILES - 1_000);
    assert_eq!(one.known + two.known, FILES + 1_000);
    assert!(one.added.first.len() <= SHOWN_MAX);
    let counts = inbox.counts().await.unwrap();
    assert_eq!((counts.saved, counts.duplicate), (FILES, 0));
}

#[tokio::test]
async fn a_token_that_dies_in_the_middle_of_a_walk_is_renewed() {
    let world = world().await;
    export(&world, "T", 1).await;
    let listing = When::Blob(BlobRequests::of(BlobOperation::ListBlobs));
    world.local.faults().install([Step::new(listing, What::RefuseSas)]).unwrap();
    let subscriber = world.subscriber(world.inbox("inbox").await, builder());
    assert_eq!(subscriber.reconcile(None, false).await.unwrap().added.count, 1);
    assert_eq!((world.asked(), world.local.faults().waiting()), (2, 0));
}

#[tokio::test]
async fn without_the_right_to_list_nothing_is_changed_and_the_error_says_what_to_ask_for() {
    let world = World::new().await;
    export(&world, "T", 1).await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let error = subscriber.reconcile(None, false).await.unwrap_err();
    assert!(matches!(error, ReconcileError::MayNotList { .. }), "{error:?}");
    assert!(error.to_string().contains("ask the owner of TenantService for the right to list"), "{error}");
    assert!(inbox.list(&ListFilter::default()).await.unwrap().is_empty());
}
