//! Stops in stages, and several republishers on one inbox and one outbox.

use std::{collections::BTreeSet, time::Duration};

use waybill_local::{
    BlobOperation,
    fault::{BlobRequests, Step, What},
};
use waybill_subscriber::inbox::{Inbox, State};

use super::world::{Running, World, job};
use crate::RepublisherOptions;

const ROWS: &str = "{\"id\":1,\"v\":1,\"price\":20}\n";

#[tokio::test]
async fn what_is_under_way_when_a_stop_has_no_more_time_is_given_back_and_done_by_the_next() {
    let world = World::new().await;
    world.publish("Item", "a", ROWS).await;
    let commit = BlobRequests::of(BlobOperation::PutBlockList).named("Public/");
    let late = What::Delay(Duration::from_secs(3600));
    world.local.faults().install([Step::new(commit, late)]).unwrap();
    let options = RepublisherOptions {
        drain_timeout: Duration::from_millis(50),
        send_timeout: Duration::ZERO,
        ..RepublisherOptions::default()
    };
    let running = Running::start(world.republisher_with(&[job()], options).await);
    world.local.faults().wait_for(1).await;
    let inbox = running.republisher.subscriber().inbox().clone();
    running.stop().await;
    let counts = inbox.counts().await.unwrap();
    assert_eq!((counts.saved, counts.working), (1, 0), "nobody has to wait for a lease: {counts:?}");

    let next = Running::start(world.republisher(&[job()]).await);
    assert_eq!(next.ended("c-a").await.state, State::Done);
    next.sent().await;
    assert_eq!((world.messages("Public").len(), world.blobs("Public").await), (1, 1));
    next.stop().await;
    world.end().await;
}

#[tokio::test]
async fn two_republishers_on_one_inbox_and_one_outbox_make_one_output_of_each_file() {
    const FILES: usize = 12;
    let world = World::new().await;
    let ids: BTreeSet<String> = (0..FILES).map(|file| format!("file-{file}")).collect();
    for id in &ids {
        world.publish("Item", id, ROWS).await;
    }
    let both = [Running::start(world.republisher(&[job()]).await), Running::start(world.republisher(&[job()]).await)];
    for id in &ids {
        assert_eq!(both[0].ended(&format!("c-{id}")).await.state, State::Done);
    }
    both[0].sent().await;
    let messages = world.messages("Public");
    let causes: BTreeSet<String> = messages.iter().filter_map(|message| message.extras.causation_id.clone()).collect();
    assert_eq!((causes, messages.len(), world.blobs("Public").await), (ids, FILES, FILES));
    let [one, other] = both;
    one.stop().await;
    other.stop().await;
    world.end().await;
}
