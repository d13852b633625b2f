//! What a subscriber says of itself, while all is well and while something is not.

use std::{num::NonZeroU32, sync::atomic::Ordering, time::Duration};

use tokio_util::sync::CancellationToken;
use url::Url;
use waybill_contracts::Reason;
use waybill_local::fault::{BlobRequests, Step, What};

use super::{
    receiving::Failing,
    sink::MemorySink,
    world::{Running, World, bearer, builder, rows, rows_in, until},
};
use crate::{
    Subscriber,
    grants::RenewedBecause,
    health::Part,
    inbox::{Asked, Inbox, State, Wanted},
};

fn parts<I: Inbox + Clone>(subscriber: &Subscriber<I>) -> Vec<Part> {
    subscriber.health().problems.into_iter().map(|problem| problem.part).collect()
}

async fn until_ready<I: Inbox + Clone>(subscriber: &Subscriber<I>) {
    until("a subscriber that is ready", || async { subscriber.health().is_ready() }).await;
}

async fn until_trouble_with<I: Inbox + Clone>(part: Part, subscriber: &Subscriber<I>) {
    until(&format!("trouble with {part:?}"), || async { parts(subscriber).contains(&part) }).await;
    assert!(subscriber.health().is_live(), "an outage is not mended by a restart");
}

#[tokio::test]
async fn figures_say_what_was_done_and_no_other_subscriber_of_the_process_counts_it() {
    let world = World::new().await;
    let (inbox, sink) = (world.inbox("inbox").await, MemorySink::default());
    let subscriber = world.subscriber(inbox.clone(), builder());
    let other = world.subscriber(world.inbox("other").await, builder());
    world.publish("good", &rows(3), "").await;
    world.publish("bad", "not gzip and no row\n", "").await;
    world.publish("announced", &rows(2), r#""rows":5"#).await;
    world.send(&["nothing".to_owned()]).await;
    let running = Running::run(&subscriber, sink);
    rows_in(&inbox, State::Done, 2).await;
    rows_in(&inbox, State::Quarantined, 2).await;
    running.stop().await;

    let figures = subscriber.figures();
    let queue = &figures.messages;
    assert_eq!((queue.received, queue.saved, queue.quarantined, queue.completed), (4, 3, 1, 4));
    assert_eq!((queue.released, queue.dead_lettered, queue.links, queue.attached), (0, 0, 1, false));
    assert_eq!(queue.enqueued_to_received.count, 3);
    assert!(figures.last_contact.unwrap() < Duration::from_secs(60));
    let tokens = figures.tokens.unwrap();
    assert_eq!(tokens.renewals.into_iter().collect::<Vec<_>>(), [(RenewedBecause::First, 1)]);
    assert_eq!(tokens.requests.into_iter().collect::<Vec<_>>(), [("granted", world.asked())]);
    assert!(tokens.bus_remaining.unwrap() > Duration::ZERO && tokens.blob_remaining.unwrap() > Duration::ZERO);
    assert_eq!((figures.storage.requests, figures.storage.failed), (3, 0));
    assert_eq!(figures.storage.received_bytes, (rows(3).len() + "not gzip and no row\n".len() + rows(2).len()) as u64);
    assert_eq!((figures.files.done, figures.files.received_to_done.count), (2, 2));
    assert_eq!(figures.files.quarantined.into_iter().collect::<Vec<_>>(), [(Reason::HashMismatch, 1)]);
    assert_eq!(
        (figures.rows.inserted, figures.rows.bad),
        (3, 1),
        "of the file that is not as announced none took effect"
    );
    assert_eq!(figures.commits.count, 2);
    assert_eq!((figures.inbox_calls_failed, figures.sink_calls_failed), (0, 0));
    assert!(figures.circuits.iter().all(|circuit| !circuit.open && circuit.opened == 0));

    let none = other.figures();
    assert_eq!((none.messages.received, none.files.done, none.storage.requests, none.commits.count), (0, 0, 0, 0));
    assert_eq!(none.tokens.unwrap().requests.len(), 0);
}

#[tokio::test]
async fn it_is_ready_only_while_inbox_and_sink_can_be_written() {
    let world = World::new().await;
    let (inbox, sink) = (Failing::new(world.inbox("inbox").await), MemorySink::default());
    let subscriber = world.subscriber(inbox.clone(), builder());
    assert_eq!(parts(&subscriber), [Part::Run, Part::Token], "it has not begun");
    let running = Running::run(&subscriber, sink.clone());
    until_ready(&subscriber).await;

    sink.set_down(true);
    // Also without a file that would show it.
    until_trouble_with(Part::Sink, &subscriber).await;
    let failed = subscriber.figures().sink_calls_failed;
    assert!(failed > 0);
    world.publish("a", &rows(2), "").await;
    until("an open circuit", || async { subscriber.figures().circuits.iter().any(|circuit| circuit.open) }).await;
    assert_eq!(subscriber.figures().files.put_off.keys().copied().collect::<Vec<_>>(), ["sink"]);
    sink.set_down(false);
    until_ready(&subscriber).await;
    rows_in(&inbox, State::Done, 1).await;

    inbox.full.store(true, Ordering::SeqCst);
    until_trouble_with(Part::Inbox, &subscriber).await;
    let health = subscriber.health();
    assert!(health.problems.iter().any(|problem| problem.problem.contains("the disk is full")), "{health:?}");
    inbox.full.store(false, Ordering::SeqCst);
    until_ready(&subscriber).await;
    running.stop().await;
    assert_eq!(parts(&subscriber), [Part::Run], "it has ended");
}

#[tokio::test]
async fn an_outage_that_is_over_is_over_though_no_file_comes() {
    let world = World::new().await;
    let (inbox, sink) = (world.inbox("inbox").await, MemorySink::default());
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::run(&subscriber, sink.clone());
    // As another replica takes the file that failed here.
    let taken_away = async |id: i64| {
        until("the file to be free", || async { inbox.skip(id, "taken").await.unwrap() == Asked::Done }).await;
    };
    sink.set_down(true);
    world.publish("a", &rows(2), "").await;
    until("a failure", || async { subscriber.work_stats().tries_put_off.load(Ordering::Relaxed) > 0 }).await;
    until_trouble_with(Part::Sink, &subscriber).await;
    taken_away(1).await;
    sink.set_down(false);
    until_ready(&subscriber).await;

    let put_off = subscriber.work_stats().tries_put_off.load(Ordering::Relaxed);
    let gone = Step::new(BlobRequests::default(), What::throttle(Duration::ZERO)).times(NonZeroU32::MAX);
    world.upload("b", rows(2).as_bytes()).await;
    world.local.faults().install([gone]).unwrap();
    world.send(&[world.waybill("T", "b", "")]).await;
    until("a failure", || async { subscriber.work_stats().tries_put_off.load(Ordering::Relaxed) > put_off }).await;
    until_trouble_with(Part::Storage, &subscriber).await;
    taken_away(2).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(parts(&subscriber), [Part::Storage], "nobody knows better");
    world.local.faults().clear();
    until_ready(&subscriber).await;
    running.stop().await;
}

#[tokio::test]
async fn without_a_token_it_is_not_ready_and_says_what_tenant_service_answered() {
    let world = World::new().await;
    let tenant = Url::parse(&world.ready().tenant_url).unwrap();
    let subscriber = builder().with_tenant(world.inbox("inbox").await, &tenant, bearer("hunter2")).unwrap();
    let running = Running::receive(&subscriber);
    until_trouble_with(Part::Token, &subscriber).await;
    until_trouble_with(Part::Link, &subscriber).await;
    until("an answer", || async { subscriber.health().problems.iter().any(|of| of.problem.contains("answered 401")) })
        .await;
    assert!(!format!("{:?}", subscriber.health()).contains("hunter2"));
    let figures = subscriber.figures();
    assert!(figures.tokens.unwrap().requests["refused"] > 0);
    assert!(figures.messages.lost.contains_key("no-token"), "{:?}", figures.messages.lost);
    running.stop().await;
}

#[tokio::test]
async fn whoever_only_works_files_needs_no_link() {
    let world = World::new().await;
    let subscriber = world.subscriber(world.inbox("inbox").await, builder());
    let stop = CancellationToken::new();
    let working = subscriber.process(MemorySink::default(), Wanted::default(), stop.clone());
    let looking = async {
        until_ready(&subscriber).await;
        assert!(!subscriber.figures().messages.attached);
        stop.cancel();
    };
    let (worked, ()) = tokio::join!(working, looking);
    worked.unwrap();
}

#[tokio::test]
async fn a_stream_of_files_alone_is_ready_told_to_the_inbox_and_over_when_it_is_dropped() {
    let world = World::new().await;
    let inbox = Failing::new(world.inbox("inbox").await);
    let subscriber = world.subscriber(inbox.clone(), builder());
    let mut files = subscriber.files(Wanted::default());
    assert!(parts(&subscriber).contains(&Part::Run), "it has taken nothing yet");
    assert!(files.next_due().await.unwrap().is_none());
    until_ready(&subscriber).await;
    until("a word to the inbox", || async {
        inbox.workers().await.unwrap().first().is_some_and(|of| of.works && !of.receives)
    })
    .await;

    // Though nobody asks for a file meanwhile.
    inbox.full.store(true, Ordering::SeqCst);
    until_trouble_with(Part::Inbox, &subscriber).await;
    inbox.full.store(false, Ordering::SeqCst);
    until_ready(&subscriber).await;

    drop(files);
    until("an end", || async { parts(&subscriber) == [Part::Run] }).await;
}

#[tokio::test]
async fn a_loop_that_does_not_come_round_is_stuck() {
    let world = World::new().await;
    let inbox = Failing::new(world.inbox("inbox").await);
    let subscriber = world.subscriber(inbox.clone(), builder().stuck_after(Duration::from_millis(300)));
    let _running = Running::run(&subscriber, MemorySink::default());
    until_ready(&subscriber).await;
    inbox.stuck.store(true, Ordering::SeqCst);
    until("a stuck subscriber", || async { !subscriber.health().is_live() }).await;
    let health = subscriber.health();
    assert!(health.stuck.iter().any(|of| of.problem.starts_with("leasing files has stood still")), "{health:?}");
    assert!(!health.is_ready());
}

#[tokio::test]
async fn the_inbox_is_told_who_works_it_and_of_a_token_only_how_long_it_lives() {
    let world = World::new().await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    world.publish("a", &rows(2), "").await;
    let running = Running::run(&subscriber, MemorySink::default());
    let told = async || inbox.workers().await.unwrap();
    until("a word with all of it", || async {
        told().await.first().is_some_and(|of| of.attached && of.last_contact_at.is_some() && of.lag.is_some())
    })
    .await;
    let worker = told().await.remove(0);
    assert!(worker.receives && worker.works && !worker.stopped && worker.problem.is_none(), "{worker:?}");
    assert!(worker.bus_token_ends_at.unwrap() > worker.now() && worker.blob_token_ends_at.unwrap() > worker.now());
    running.stop().await;
    let worker = told().await.remove(0);
    assert!(worker.stopped && !worker.attached, "{worker:?}");
    drop((inbox, subscriber));
    for file in std::fs::read_dir(world.folder.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(
            !text.contains("sig=")
                && !text.contains("SharedAccessSignature")
                && !text.contains(&world.ready().bearer_token)
        );
    }
}
