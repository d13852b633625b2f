//! P7 and P11: which file is worked next, and what is forgotten.

use std::{num::NonZeroU32, sync::atomic::Ordering, time::Duration};

use tokio_util::sync::CancellationToken;
use waybill_local::{
    BlobOperation,
    fault::{BlobRequests, Step, What},
};

use super::{
    receiving::Failing,
    sink::MemorySink,
    world::{Running, World, builder, rows, rows_in, until, within},
};
use crate::inbox::{Inbox, ListFilter, Retention, State, Wanted};

#[tokio::test]
async fn after_an_outage_of_storage_one_long_file_holds_up_no_other() {
    let world = World::new().await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let of_long = || BlobRequests::of(BlobOperation::GetBlob).named("long");
    let gone = Step::new(of_long(), What::throttle(Duration::ZERO)).times(NonZeroU32::MAX);
    world.local.faults().install([gone]).unwrap();
    // Some ten seconds at the speed that follows.
    world.publish("long", &rows(150_000), "").await;
    let running = Running::run(&subscriber, MemorySink::default());
    until("an outage", || async { subscriber.work_stats().tries_put_off.load(Ordering::Relaxed) > 0 }).await;
    world.local.faults().clear();
    let slow = What::Slow { bytes_per_second: NonZeroU32::new(200_000).unwrap() };
    let answered = *world.local.faults().fired().borrow();
    world.local.faults().install([Step::new(of_long(), slow).times(NonZeroU32::MAX)]).unwrap();
    within(world.local.faults().wait_for(answered + 1)).await;
    world.publish("short", &rows(2), "").await;
    rows_in(&inbox, State::Done, 1).await;
    let counts = inbox.counts().await.unwrap();
    assert_eq!((counts.done, counts.working), (1, 1), "the long one is under way still");
    running.stop().await;
}

#[tokio::test]
async fn after_an_outage_of_the_inbox_a_file_under_way_holds_up_no_other() {
    let world = World::new().await;
    let (inbox, sink) = (Failing::new(world.inbox("inbox").await), MemorySink::default());
    let gate = sink.gate();
    let subscriber = world.subscriber(inbox.clone(), builder().commit_rows_max(10_000.try_into().unwrap()));
    inbox.forgetful.store(true, Ordering::SeqCst);
    // With rows of two commits, so that its blob is noted.
    world.publish("long", &rows(25_000), "").await;
    let running = Running::run(&subscriber, sink);
    until("an outage", || async { subscriber.figures().files.put_off.contains_key("inbox") }).await;
    inbox.forgetful.store(false, Ordering::SeqCst);
    world.publish("short", &rows(2), "").await;
    until("both to be worked", || async { inbox.counts().await.unwrap().working == 2 }).await;
    gate.add_permits(10);
    rows_in(&inbox, State::Done, 2).await;
    running.stop().await;
}

#[tokio::test]
async fn a_process_ends_after_so_many_files_and_takes_those_that_are_named() {
    let world = World::new().await;
    let (inbox, sink) = (world.inbox("inbox").await, MemorySink::default());
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::receive(&subscriber);
    for number in 1..=6 {
        world.publish(&format!("b{number}"), &rows(1), "").await;
        rows_in(&inbox, State::Saved, number).await;
    }
    running.stop().await;
    let process = async |wanted: Wanted| {
        within(subscriber.process(sink.clone(), wanted, CancellationToken::new())).await.unwrap();
        let done = inbox.list(&ListFilter { state: Some(State::Done), ..ListFilter::default() }).await.unwrap();
        let mut done: Vec<i64> = done.into_iter().map(|row| row.id).collect();
        done.sort_unstable();
        done
    };
    let named = Wanted { ids: Some(vec![5, 2]), limit: Some(2), ..Wanted::default() };
    assert_eq!(process(named).await, [2, 5]);
    assert_eq!(process(Wanted { limit: Some(3), ..Wanted::default() }).await, [1, 2, 3, 4, 5]);
    assert_eq!(process(Wanted { limit: Some(0), ..Wanted::default() }).await.len(), 5);
    // A file that fails uses it up as well.
    sink.set_unfit("id");
    process(Wanted { limit: Some(1), ..Wanted::default() }).await;
    assert_eq!(inbox.get(6).await.unwrap().unwrap().state, State::Saved);
    assert_eq!(sink.refused(), 1);
}

#[tokio::test]
async fn what_is_over_is_forgotten_by_a_run_and_known_all_the_same() {
    let world = World::new().await;
    let (inbox, sink) = (world.inbox("inbox").await, MemorySink::default());
    world.publish("b", &rows(2), "").await;
    let keeps = world.subscriber(inbox.clone(), builder());
    let running = Running::run(&keeps, sink.clone());
    let row = rows_in(&inbox, State::Done, 1).await.remove("c-b").unwrap();
    running.stop().await;
    assert!(inbox.get(row.id).await.unwrap().is_some(), "nothing is forgotten that nobody wants forgotten");

    let retention = Retention { files: Some(Duration::ZERO), ..Retention::default() };
    let forgets = world.subscriber(inbox.clone(), builder().retention(retention));
    let running = Running::run(&forgets, sink.clone());
    until("it to be forgotten", || async { inbox.get(row.id).await.unwrap().is_none() }).await;
    let key = row.file.unwrap();
    assert_eq!(inbox.known(std::slice::from_ref(&key)).await.unwrap(), [Some(row.id)]);
    world.send(&[world.waybill("T", "b", "")]).await;
    until("another message for it", || async { forgets.receive_stats().duplicates.load(Ordering::Relaxed) == 1 }).await;
    running.stop().await;
    assert_eq!(sink.rows().len(), 2, "its rows came once");
}

#[tokio::test]
async fn no_more_commits_are_in_the_sink_at_once_than_there_may_be() {
    let [two, eight] = [2, 8].map(|many| NonZeroU32::new(many).unwrap());
    for (most, builder) in [(2, builder().commits_in_flight_max(two)), (8, builder())] {
        let world = World::new().await;
        let (inbox, sink) = (world.inbox("inbox").await, MemorySink::default());
        let gate = sink.gate();
        for number in 0..8 {
            world.publish(&format!("b{number}"), &rows(3), "").await;
        }
        let subscriber = world.subscriber(inbox.clone(), builder.files_in_flight_max(eight));
        let running = Running::run(&subscriber, sink.clone());
        until("as many as there may be", || async {
            sink.applying().0 == most && inbox.counts().await.unwrap().working == 8
        })
        .await;
        gate.add_permits(100);
        rows_in(&inbox, State::Done, 8).await;
        running.stop().await;
        assert_eq!(sink.applying(), (0, most));
        assert_eq!(sink.rows().len(), 8 * 3);
    }
}

#[tokio::test]
async fn a_file_that_is_wanted_does_not_wait_until_those_of_other_types_are_skipped() {
    let world = World::new().await;
    let inbox = Failing::new(world.inbox("inbox").await);
    let subscriber = world.subscriber(inbox.clone(), builder().types(["T".to_owned()]));
    // As with a million of them.
    inbox.endless.store(true, Ordering::SeqCst);
    let running = Running::run(&subscriber, MemorySink::default());
    until("skipping", || async { inbox.waiting.load(Ordering::SeqCst) == 1 }).await;
    world.send(&[world.waybill("Other", "o", "")]).await;
    world.publish("b1", &rows(2), "").await;
    rows_in(&inbox, State::Done, 1).await;
    world.publish("b2", &rows(2), "").await;
    rows_in(&inbox, State::Done, 2).await;
    inbox.endless.store(false, Ordering::SeqCst);
    running.stop().await;
    assert_eq!(inbox.counts().await.unwrap().skipped, 1, "at a stop at the latest");

    world.publish("b3", &rows(2), "").await;
    let receiving = Running::receive(&subscriber);
    rows_in(&inbox, State::Saved, 1).await;
    receiving.stop().await;
    inbox.endless.store(true, Ordering::SeqCst);
    let mut files = subscriber.files(Wanted::default());
    let file = within(files.next()).await.unwrap();
    assert_eq!(file.metadata().correlation_id, "c-b3");
    file.done().await.unwrap();
    within(files.close()).await;
}
