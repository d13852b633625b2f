//! A stop is over in time, whatever does not answer.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use waybill_local::fault::{Service, Step, What, When, Whose};

use super::{
    receiving::Failing,
    sink::MemorySink,
    world::{Running, World, builder, rows, rows_in, until},
};
use crate::inbox::State;

const DRAIN: Duration = Duration::from_millis(300);
/// What a stop may take on top, as [`drain_timeout`](crate::SubscriberBuilder::drain_timeout) says, and a busy machine.
const MORE: Duration = Duration::from_secs(6);

async fn stop_in_time(running: Running) {
    let began = Instant::now();
    running.stop().await;
    assert!(began.elapsed() < DRAIN + MORE, "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_inbox_that_does_not_answer_holds_up_no_stop() {
    let world = World::new().await;
    let (inbox, sink) = (Failing::new(world.inbox("inbox").await), MemorySink::default());
    let _gate = sink.gate();
    let subscriber = world.subscriber(inbox.clone(), builder().drain_timeout(DRAIN));
    let running = Running::run(&subscriber, sink);
    world.publish("b", &rows(2), "").await;
    rows_in(&inbox, State::Working, 1).await;
    inbox.stuck.store(true, Ordering::SeqCst);
    inbox.silent.store(true, Ordering::SeqCst);
    // So that something is leased, saved and told just now.
    world.publish("c", &rows(2), "").await;
    until("a call that is not answered", || async { inbox.waiting.load(Ordering::SeqCst) > 0 }).await;
    stop_in_time(running).await;
}

#[tokio::test]
async fn a_bus_that_does_not_answer_holds_up_no_stop() {
    let world = World::new().await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox, builder().drain_timeout(DRAIN));
    let running = Running::run(&subscriber, MemorySink::default());
    until("both links", || async {
        subscriber.receive_stats().is_attached() && subscriber.dead_letter_stats().is_attached()
    })
    .await;
    let lasts = Duration::from_secs(120);
    let silent = What::Blackhole { whose: Whose::Service(Service::Bus), lasts };
    world.local.faults().install([Step::new(When::Now, silent)]).unwrap();
    stop_in_time(running).await;
}
