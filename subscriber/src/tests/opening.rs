//! P11 at a start: a sink that is down is opened once it is there, and messages are received meanwhile; one that says no ends the run.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{
    sink::MemorySink,
    world::{Running, World, builder, rows, rows_in, until, within},
};
use crate::{
    RunError, Subscriber,
    health::Part,
    inbox::{Inbox, State, Wanted},
    sink::SinkOpenError,
};

/// A sink that is down until it is told otherwise.
#[derive(Clone, Default)]
struct Closed {
    sink: MemorySink,
    is_open: Arc<AtomicBool>,
    says_no: Arc<AtomicBool>,
    tries: Arc<AtomicU32>,
}

impl Closed {
    async fn open(&self) -> Result<MemorySink, SinkOpenError> {
        self.tries.fetch_add(1, Ordering::SeqCst);
        let sink = "memory".to_owned();
        if self.says_no.load(Ordering::SeqCst) {
            return Err(SinkOpenError::Refused { sink, problem: "wrong password".to_owned() });
        }
        match self.is_open.load(Ordering::SeqCst) {
            true => Ok(self.sink.clone()),
            false => Err(SinkOpenError::Unavailable { sink, problem: "connection refused".to_owned() }),
        }
    }

    fn tried(&self) -> u32 {
        self.tries.load(Ordering::SeqCst)
    }
}

struct Beginning {
    stop: CancellationToken,
    tasks: JoinSet<Result<(), RunError>>,
}

impl Beginning {
    fn run(subscriber: &Subscriber, closed: &Closed) -> Self {
        let (stop, subscriber, closed) = (CancellationToken::new(), subscriber.clone(), closed.clone());
        let mut tasks = JoinSet::new();
        let stopped = stop.clone();
        tasks.spawn(async move { subscriber.run_once_open(|| closed.open(), stopped).await });
        Self { stop, tasks }
    }

    async fn ended(&mut self) -> Result<(), RunError> {
        within(self.tasks.join_next()).await.unwrap().unwrap()
    }
}

fn sink_problem(subscriber: &Subscriber) -> Option<String> {
    let problems = subscriber.health().problems;
    problems.into_iter().find(|problem| problem.part == Part::Sink).map(|problem| problem.problem)
}

#[tokio::test]
async fn messages_are_received_while_the_sink_is_down_and_worked_once_it_is_opened() {
    let world = World::new().await;
    let (inbox, closed) = (world.inbox("inbox").await, Closed::default());
    let subscriber = world.subscriber(inbox.clone(), builder());
    let mut beginning = Beginning::run(&subscriber, &closed);
    world.publish("a", &rows(3), "").await;
    rows_in(&inbox, State::Saved, 1).await;
    until("several tries", || async { closed.tried() >= 3 }).await;
    assert_eq!(sink_problem(&subscriber).as_deref(), Some("memory: connection refused"));
    assert!(!subscriber.health().is_ready() && subscriber.health().is_live());
    let stop = CancellationToken::new();
    let nothing = Wanted { types: Some(Vec::new()), ..Wanted::default() };
    let idle = subscriber.until_idle(&nothing, Duration::ZERO, true, &stop);
    assert!(tokio::time::timeout(Duration::from_millis(300), idle).await.is_err(), "a start is not idle");
    closed.is_open.store(true, Ordering::SeqCst);
    rows_in(&inbox, State::Done, 1).await;
    until("to be ready", || async { subscriber.health().is_ready() }).await;
    let tried = closed.tried();
    beginning.stop.cancel();
    beginning.ended().await.unwrap();
    assert_eq!((closed.sink.rows().len(), closed.tried()), (3, tried), "it is opened once");
}

#[tokio::test]
async fn a_sink_that_says_no_ends_the_run_and_receiving_with_it() {
    let world = World::new().await;
    let closed = Closed::default();
    let subscriber = world.subscriber(world.inbox("inbox").await, builder());
    let mut beginning = Beginning::run(&subscriber, &closed);
    until("a try", || async { closed.tried() > 0 && subscriber.receive_stats().is_attached() }).await;
    closed.says_no.store(true, Ordering::SeqCst);
    let ended = beginning.ended().await.unwrap_err();
    assert!(!ended.passes() && ended.to_string().contains("wrong password"), "{ended:?}");
    assert!(matches!(ended, RunError::Open(SinkOpenError::Refused { .. })), "{ended:?}");
    assert!(!subscriber.receive_stats().is_attached(), "receiving ended with it");
}

#[tokio::test]
async fn a_stop_ends_the_wait_for_a_sink_and_what_was_received_is_saved() {
    let world = World::new().await;
    let (inbox, closed) = (world.inbox("inbox").await, Closed::default());
    let subscriber = world.subscriber(inbox.clone(), builder());
    let mut beginning = Beginning::run(&subscriber, &closed);
    world.publish("a", &rows(3), "").await;
    rows_in(&inbox, State::Saved, 1).await;
    beginning.stop.cancel();
    beginning.ended().await.unwrap();
    assert_eq!(inbox.counts().await.unwrap().saved, 1);
}

#[tokio::test]
async fn a_start_waits_no_longer_than_it_may() {
    let world = World::new().await;
    let (inbox, closed) = (world.inbox("inbox").await, Closed::default());
    let patience = Duration::from_millis(400);
    let subscriber = world.subscriber(inbox.clone(), builder().start_patience(patience));
    let ended = Beginning::run(&subscriber, &closed).ended().await.unwrap_err();
    assert!(ended.passes() && matches!(ended, RunError::Open(SinkOpenError::Unavailable { .. })), "{ended:?}");
    let processed = subscriber.process_once_open(|| closed.open(), Wanted::default(), CancellationToken::new());
    assert!(within(processed).await.unwrap_err().passes());

    // It is opened, and goes away before it was asked what it has.
    world.publish("a", &rows(3), "").await;
    let running = Running::run(&subscriber, closed.sink.clone());
    rows_in(&inbox, State::Done, 1).await;
    running.stop().await;
    closed.sink.set_down(true);
    let ended = within(subscriber.run(closed.sink.clone(), CancellationToken::new())).await.unwrap_err();
    assert!(ended.passes() && matches!(ended, RunError::Compare(_)), "{ended:?}");
}
