//! Messages that come twice, links and connections that go, and outages.

use std::{sync::atomic::Ordering, time::Duration};

use waybill_contracts::Entities;
use waybill_local::fault::{BlobRequests, BusEvent, BusFrames, Service, Step, What, When, Whose};
use waybill_local::{BlobOperation, Local};
use waybill_subscriber::{Subscriber, SubscriberBuilder, inbox::SqliteInbox};

use crate::harness::{SUBSCRIPTION, World, assert_each_number_once, assert_nothing_was_dead_lettered, number, until};

const ROWS: u64 = 20;

fn options() -> SubscriberBuilder {
    Subscriber::<SqliteInbox>::builder()
}

#[tokio::test]
async fn a_redelivered_message_adds_no_row() {
    const FILES: u64 = 25;
    const TWICE: u32 = 10;
    let world = World::new().await;
    let publishing = world.publisher().await;
    publishing.files_of_numbers(FILES, ROWS).await;
    publishing.end().await;
    let twice = What::DeliverTwice { whose: Whose::Entity(SUBSCRIPTION.to_owned()), messages: number(TWICE) };
    world.local.faults().install([Step::new(When::Now, twice)]).expect("a sound script");
    let subscribing = world.subscriber(options(), &Entities::default()).await;
    subscribing.done(FILES).await;
    let redelivered = |subscriber: &Subscriber<SqliteInbox>| {
        subscriber.receive_stats().redelivered.load(Ordering::Relaxed) >= u64::from(TWICE)
    };
    subscribing.wait_for("every redelivery was met", redelivered).await;
    until("the bus is empty", || world.counts().active + world.counts().locked == 0).await;
    let counts = subscribing.counts().await;
    assert_eq!((counts.done, counts.duplicate, counts.saved), (FILES, 0, 0));
    assert_eq!(subscribing.rows().await.len() as u64, FILES, "one inbox row per message");
    assert_eq!(subscribing.subscriber.receive_stats().saved.load(Ordering::Relaxed), FILES);
    world.all_settled().await;
    subscribing.end().await;
    assert_each_number_once(&world, FILES * ROWS);
    assert_nothing_was_dead_lettered(&world);
    world.end().await;
}

/// Does `what` to the bus three times while files are received, and looks at everything afterwards.
async fn losing(what: What) {
    const FILES: u64 = 60;
    const TIMES: u32 = 3;
    let world = World::of(Local::builder().lock_duration(Duration::from_secs(2))).await;
    let publishing = world.publisher().await;
    publishing.files_of_numbers(FILES, ROWS).await;
    let delivered = BusFrames::of(BusEvent::TransferOut).entity(SUBSCRIPTION);
    let step = Step::new(delivered, what).nth(number(10)).every(number(10)).times(number(TIMES));
    world.local.faults().install([step]).expect("a sound script");
    let subscribing = world.subscriber(options(), &Entities::default()).await;
    world.local.faults().wait_for(u64::from(TIMES)).await;
    subscribing.done(FILES).await;
    until("the bus is empty", || world.counts().active + world.counts().locked == 0).await;
    let lost = subscribing.lost();
    assert!(lost >= 1, "a link was lost");
    let totals = world.counts().totals;
    assert_eq!(totals.abandoned, 0, "what cannot be settled is never abandoned");
    // At most the credit of each lost link came again, and no message more often than links were lost.
    assert!(
        totals.deliveries <= FILES * (1 + lost),
        "{} deliveries of {FILES} messages, {lost} lost",
        totals.deliveries
    );
    assert_eq!(totals.completed, FILES);
    assert_eq!(subscribing.rows().await.len() as u64, FILES, "one inbox row per message");
    // It receives again, without a restart.
    publishing.numbers("Number", FILES * ROWS..(FILES + 1) * ROWS).await;
    publishing.end().await;
    subscribing.done(FILES + 1).await;
    world.all_settled().await;
    subscribing.end().await;
    assert_each_number_once(&world, (FILES + 1) * ROWS);
    assert_nothing_was_dead_lettered(&world);
    world.end().await;
}

#[tokio::test]
async fn a_detached_link_loses_and_repeats_nothing() {
    losing(What::detach(Whose::Event)).await;
}

#[tokio::test]
async fn a_reset_connection_loses_and_repeats_nothing() {
    losing(What::Reset(Whose::Event)).await;
}

#[tokio::test]
async fn a_connection_that_the_bus_closes_loses_and_repeats_nothing() {
    losing(What::close(Whose::Event)).await;
}

#[tokio::test]
async fn a_publisher_whose_connections_are_reset_sends_every_message_and_no_file_twice() {
    const FILES: u64 = 30;
    let world = World::new().await;
    let reset = |service, nth| {
        let sent = BusFrames::of(BusEvent::TransferIn).entity("exports");
        Step::new(sent, What::Reset(Whose::Service(service))).nth(number(nth)).every(number(nth)).times(number(3))
    };
    let mid_upload = Step::new(BlobRequests::of(BlobOperation::PutBlockList), What::Reset(Whose::Event)).nth(number(4));
    let steps = [reset(Service::Bus, 4), reset(Service::Blob, 6), mid_upload];
    world.local.faults().install(steps).expect("a sound script");
    let publishing = world.publisher().await;
    let subscribing = world.subscriber(options(), &Entities::default()).await;
    publishing.files_of_numbers(FILES, ROWS).await;
    publishing.end().await;
    subscribing.done(FILES).await;
    until("the bus is empty", || world.counts().active + world.counts().locked == 0).await;
    let counts = subscribing.counts().await;
    assert_eq!(
        (counts.done, counts.quarantined, counts.saved),
        (FILES, 0, 0),
        "a second message is a duplicate at most"
    );
    world.all_settled().await;
    subscribing.end().await;
    assert_each_number_once(&world, FILES * ROWS);
    assert_nothing_was_dead_lettered(&world);
    world.end().await;
}

#[tokio::test]
async fn outage_dead_letters_nothing() {
    const FILES: u64 = 30;
    let world = World::of(Local::builder().lock_duration(Duration::from_secs(1))).await;
    let publishing = world.publisher().await;
    publishing.files_of_numbers(FILES, ROWS).await;
    publishing.end().await;
    // No read gets through until every file in flight has used up its tries, and one more that tries for all. The lock ends
    // several times over meanwhile: a subscriber that kept it would use up its deliveries.
    let read = When::Blob(BlobRequests::of(BlobOperation::GetBlob));
    let gone = Step::new(read, What::Reset(Whose::Event)).times(number(24));
    world.local.faults().install([gone]).expect("a sound script");
    let subscribing = world.subscriber(options(), &Entities::default()).await;
    let put_off =
        |subscriber: &Subscriber<SqliteInbox>| subscriber.work_stats().tries_put_off.load(Ordering::Relaxed) > 0;
    subscribing.wait_for("a file was put off", put_off).await;
    until("everything is received although storage is down", || world.counts().totals.completed == FILES).await;
    assert_eq!(subscribing.counts().await.done, 0, "storage is still down");
    // Now everything else is gone as well.
    let down = What::Down { service: Service::Tenant, lasts: Duration::from_secs(3) };
    world.local.faults().install([Step::new(When::Now, down)]).expect("a sound script");
    world.local.rotate(None).expect("a rotation");
    world.local.broker().close_connections(&waybill_local::broker::Which::All);

    subscribing.done(FILES).await;
    until("the link is back", || !world.local.broker().links().is_empty()).await;
    let totals = world.counts().totals;
    let redelivered = totals.deliveries - totals.enqueued;
    assert!(redelivered <= FILES * subscribing.lost(), "{redelivered} redeliveries, {} lost links", subscribing.lost());
    assert_eq!((totals.abandoned, totals.completed), (0, FILES));
    // A file that waits for a dependency has not failed itself.
    let rows = subscribing.rows().await;
    assert!(rows.iter().all(|row| row.attempts <= 1), "{:?}", rows.iter().map(|row| row.attempts).collect::<Vec<_>>());
    world.all_settled().await;
    subscribing.end().await;
    assert_each_number_once(&world, FILES * ROWS);
    assert_nothing_was_dead_lettered(&world);
    world.end().await;
}
