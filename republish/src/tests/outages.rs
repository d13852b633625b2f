//! Storage that takes nothing, or answers nothing.

use std::{num::NonZeroU32, time::Duration};

use waybill_local::{
    BlobOperation,
    fault::{BlobRequests, Refusal, Step, What},
};
use waybill_subscriber::inbox::State;

use super::world::{Running, World, job};

const ROWS: &str = "{\"id\":1,\"v\":1,\"price\":20}\n";

fn commit_of_the_output() -> BlobRequests {
    BlobRequests::of(BlobOperation::PutBlockList).named("Public/")
}

#[tokio::test]
async fn while_storage_takes_no_output_files_wait_and_are_published_once_when_it_does() {
    let world = World::new().await;
    for id in ["a", "b", "c"] {
        world.publish("Item", id, ROWS).await;
    }
    // More refusals than one try takes.
    let refuse = What::Refuse { with: Refusal::Busy, retry_after: None };
    let times = NonZeroU32::new(30).unwrap();
    world.local.faults().install([Step::new(commit_of_the_output(), refuse).times(times)]).unwrap();
    let running = Running::start(world.republisher(&[job()]).await);
    for id in ["c-a", "c-b", "c-c"] {
        assert_eq!(running.ended(id).await.state, State::Done);
    }
    running.sent().await;
    let figures = running.counted(3).await;
    assert_eq!((figures.files_republished, figures.files_quarantined), (3, 0));
    assert!(figures.tries_put_off > 0, "{figures:?}");
    let mut causes: Vec<_> =
        world.messages("Public").into_iter().map(|message| message.extras.causation_id.unwrap()).collect();
    causes.sort_unstable();
    assert_eq!((causes.join(" "), world.blobs("Public").await), ("a b c".to_owned(), 3));
    running.stop().await;
    world.end().await;
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_found_and_published_once() {
    let world = World::new().await;
    world.publish("Item", "a", ROWS).await;
    let lost = What::DropAnswer { reset: true };
    world.local.faults().install([Step::new(commit_of_the_output(), lost)]).unwrap();
    let running = Running::start(world.republisher(&[job()]).await);
    assert_eq!(running.ended("c-a").await.state, State::Done);
    running.sent().await;
    assert_eq!((world.messages("Public").len(), world.blobs("Public").await), (1, 1));
    running.stop().await;
    world.end().await;
}

/// What decides between rows of one version: by default no output overtakes another.
#[tokio::test]
async fn outputs_are_numbered_as_their_inputs_came_though_the_first_is_slow() {
    let world = World::new().await;
    for id in ["a", "b", "c"] {
        world.publish("Item", id, ROWS).await;
    }
    // Long enough for any other file that is under way to be through.
    let slow = What::Delay(Duration::from_secs(2));
    world.local.faults().install([Step::new(BlobRequests::of(BlobOperation::GetBlob).named("Item/"), slow)]).unwrap();
    let running = Running::start(world.republisher(&[job()]).await);
    for id in ["c-a", "c-b", "c-c"] {
        assert_eq!(running.ended(id).await.state, State::Done);
    }
    running.sent().await;
    let mut messages = world.messages("Public");
    messages.sort_unstable_by_key(|message| message.extras.sequence);
    let causes: Vec<_> = messages.into_iter().filter_map(|message| message.extras.causation_id).collect();
    assert_eq!(causes, ["a", "b", "c"]);
    running.stop().await;
    world.end().await;
}
