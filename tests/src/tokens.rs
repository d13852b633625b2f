//! Tokens that expire, are rotated, or die in the middle of something.

use std::{collections::BTreeMap, sync::atomic::Ordering, time::Duration};

use waybill_azure::blob::ContainerOptions;
use waybill_contracts::Entities;
use waybill_local::{
    BlobOperation, Local,
    fault::{BlobRequests, CutAt, Service, Step, What, When},
};
use waybill_subscriber::{Subscriber, SubscriberBuilder, grants::RenewedBecause, inbox::SqliteInbox};

use crate::harness::{
    Subscribing, TENANT, World, assert_each_number_once, assert_nothing_was_dead_lettered, number, until,
};

fn options() -> SubscriberBuilder {
    Subscriber::<SqliteInbox>::builder()
}

fn small_ranges(range_bytes: u64) -> SubscriberBuilder {
    options().blob(ContainerOptions { range_bytes, ..ContainerOptions::default() })
}

/// What the subscriber renewed, after checking that it is what TenantService was asked.
fn renewals(world: &World, subscribing: &Subscribing) -> BTreeMap<RenewedBecause, u64> {
    let renewals = subscribing.subscriber.grants().expect("the tokens come from TenantService").renewals();
    let asked = world.local.stats().grants(TENANT);
    assert_eq!(asked.requests, renewals.values().sum::<u64>(), "one request per token: {renewals:?}");
    assert_eq!(asked.issued, asked.requests);
    renewals
}

#[tokio::test]
async fn a_token_that_dies_at_each_of_20_places_of_a_download_loses_and_repeats_nothing() {
    const RANGE: u64 = 16 * 1024;
    const ROWS: u64 = 12_000;
    let world = World::new().await;
    let publishing = world.publisher().await;
    let exported = publishing.numbers("Number", 0..ROWS).await;
    publishing.end().await;
    assert!(exported.bytes > 250_000, "a file of a few hundred KB, not {}", exported.bytes);

    // The first byte, the last one, both sides of the borders of requests, and places between.
    let mut places = vec![0, exported.bytes - 1, RANGE - 1, RANGE, 5 * RANGE, 5 * RANGE + 1];
    let more = (1..15).map(|place| place * exported.bytes / 15 + 7);
    places.extend(more);
    assert_eq!(places.len(), 20);
    world
        .local
        .faults()
        .install(places.iter().map(|place| {
            Step::new(When::Blob(BlobRequests::default()), What::Cut { at: CutAt::BlobByte(*place), refuse_sas: true })
        }))
        .expect("a sound script");

    let subscribing = world.subscriber(small_ranges(RANGE), &Entities::default()).await;
    subscribing.done(1).await;
    assert_eq!(world.local.faults().log_lines().len(), 20, "every token died: {:?}", world.local.faults().log_lines());
    let renewals = renewals(&world, &subscribing);
    assert_eq!(renewals.get(&RenewedBecause::RefusedByStorage), Some(&20), "{renewals:?}");
    // The download goes on from the next byte: the file was not begun again.
    assert_eq!(subscribing.subscriber.work_stats().tries_put_off.load(Ordering::Relaxed), 0);
    let sent = world.local.stats().counted().blob_bytes_out;
    assert!(sent < exported.bytes + 20 * RANGE, "{sent} bytes for a file of {}", exported.bytes);
    world.all_settled().await;
    subscribing.end().await;
    assert_each_number_once(&world, ROWS);
    assert_nothing_was_dead_lettered(&world);
    world.end().await;
}

#[tokio::test]
async fn rotations_while_files_arrive_lose_and_repeat_nothing() {
    const FILES: u64 = 40;
    const ROWS: u64 = 100;
    let world = World::new().await;
    let publishing = world.publisher().await;
    let subscribing = world.subscriber(small_ranges(1024), &Entities::default()).await;
    for file in 0..FILES {
        publishing.numbers("Number", file * ROWS..(file + 1) * ROWS).await;
        if file % 8 == 3 {
            // Files before this one are on their way: received, downloaded or applied.
            world.local.rotate(None).expect("a rotation");
        }
    }
    publishing.end().await;
    subscribing.done(FILES).await;
    let renewals = renewals(&world, &subscribing);
    let asked = world.local.stats().grants(TENANT).requests;
    assert!((2..=6).contains(&asked), "5 rotations, some perhaps before the new token was used: {renewals:?}");
    assert_eq!(subscribing.rows().await.len() as u64, FILES);
    world.all_settled().await;
    subscribing.end().await;
    assert_each_number_once(&world, FILES * ROWS);
    assert_nothing_was_dead_lettered(&world);
    world.end().await;
}

#[tokio::test]
async fn tenant_service_is_asked_once_per_token_and_process() {
    const AT_ONCE: u32 = 8;
    let world = World::new().await;
    let publishing = world.publisher().await;
    publishing.files_of_numbers(u64::from(AT_ONCE), 10).await;
    publishing.end().await;
    // Every download is on its way when the token dies: eight refusals, and that of the bus, are one renewal.
    let reads = BlobRequests::of(BlobOperation::GetBlob);
    let wait = Step::new(When::Blob(reads), What::Delay(Duration::from_secs(3))).times(number(AT_ONCE));
    world.local.faults().install([wait]).expect("a sound script");
    let subscribing = world.subscriber(options().files_in_flight_max(number(AT_ONCE)), &Entities::default()).await;
    world.local.faults().wait_for(u64::from(AT_ONCE)).await;
    assert_eq!(world.local.stats().grants(TENANT).requests, 1, "one for the start");
    world.local.rotate(None).expect("a rotation");
    subscribing.done(u64::from(AT_ONCE)).await;
    // The link that the rotation cut is back too.
    until("the link is back", || !world.local.broker().links().is_empty()).await;
    let refused = world.local.stats().counted().blob_requests("GetBlob", 403);
    assert!(refused >= u64::from(AT_ONCE), "the refusals were real: {refused}");
    assert_eq!(world.local.stats().grants(TENANT).requests, 2);
    renewals(&world, &subscribing);
    subscribing.end().await;
    assert_each_number_once(&world, u64::from(AT_ONCE) * 10);
    world.end().await;
}

#[tokio::test]
async fn while_tenant_service_is_down_tokens_that_live_are_used_and_its_return_is_enough() {
    let world = World::of(Local::builder().token_life(Duration::from_secs(4))).await;
    let publishing = world.publisher().await;
    let subscribing = world.subscriber(options(), &Entities::default()).await;
    publishing.numbers("Number", 0..10).await;
    subscribing.done(1).await;
    // Longer than the token lives: for a while there is none that works.
    let down = What::Down { service: Service::Tenant, lasts: Duration::from_secs(6) };
    world.local.faults().install([Step::new(When::Now, down)]).expect("a sound script");
    let asked = world.local.stats().grants(TENANT);
    publishing.numbers("Number", 10..20).await;
    publishing.sent().await;
    subscribing.done(2).await;
    until("a renewal ahead of time was refused", || {
        let now = world.local.stats().grants(TENANT);
        now.requests > asked.requests && now.issued == asked.issued
    })
    .await;
    publishing.numbers("Number", 20..30).await;
    publishing.end().await;
    subscribing.done(3).await;
    until("a new token", || world.local.stats().grants(TENANT).issued > asked.issued).await;
    assert_eq!(subscribing.counts().await.done, 3);
    world.all_settled().await;
    subscribing.end().await;
    assert_each_number_once(&world, 30);
    assert_nothing_was_dead_lettered(&world);
    world.end().await;
}
