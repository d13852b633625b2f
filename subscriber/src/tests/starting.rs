//! P3, P4 and P11 at a start: messages are received from the begin, and no file is worked before the sink was asked what it has.

use std::{
    fs::File,
    io::{Seek, SeekFrom, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use waybill_azure::{BoxFuture, Generation, Grant, GrantError, Service, TokenSource};
use waybill_contracts::Entities;
use waybill_store::rusqlite::Connection;

use super::{
    sink::MemorySink,
    world::{Running, World, builder, rows, rows_in, until, within},
};
use crate::{
    Blame, RunError, Subscriber, Verdict,
    grants::Grants,
    health::Part,
    inbox::{Inbox, ListFilter, SqliteInbox, State, Wanted},
    schedule::CompareError,
    sink::{Sink as _, SinkError, SqliteSink},
};

/// An inbox with a file that is done, and the sink that has it.
async fn begun(world: &World) -> (SqliteInbox, Subscriber, MemorySink) {
    world.publish("a", &rows(2), "").await;
    let (inbox, sink) = (world.inbox("inbox").await, MemorySink::default());
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::run(&subscriber, sink.clone());
    rows_in(&inbox, State::Done, 1).await;
    running.stop().await;
    (inbox, subscriber, sink)
}

fn compares(subscriber: &Subscriber) -> bool {
    subscriber.health().problems.iter().any(|problem| problem.problem.contains("are compared"))
}

#[tokio::test]
async fn with_the_sink_down_at_the_start_messages_are_received_and_all_is_worked_once_it_is_back() {
    let world = World::new().await;
    let (inbox, subscriber, sink) = begun(&world).await;
    // As if restored from a backup that is older than the file.
    sink.forget();
    sink.set_down(true);
    let running = Running::run(&subscriber, sink.clone());
    world.publish("b", &rows(3), "").await;
    rows_in(&inbox, State::Saved, 1).await;
    until("several tries", || async { sink.refused() >= 3 }).await;
    assert!(compares(&subscriber) && subscriber.health().problems.iter().any(|problem| problem.part == Part::Sink));
    assert_eq!(inbox.counts().await.unwrap().done, 1, "nothing is worked before they are compared");
    assert_eq!(inbox.get(1).await.unwrap().unwrap().attempts, 1);
    sink.set_down(false);
    rows_in(&inbox, State::Done, 2).await;
    until("to be ready", || async { subscriber.health().is_ready() }).await;
    running.stop().await;
    assert_eq!(sink.rows().len(), 5, "what the sink had lost is there again");
}

#[tokio::test]
async fn a_comparison_that_takes_long_holds_up_no_message_and_every_file() {
    let world = World::new().await;
    let (inbox, subscriber, sink) = begun(&world).await;
    let looks = sink.looks();
    let running = Running::run(&subscriber, sink.clone());
    world.publish("b", &rows(3), "").await;
    rows_in(&inbox, State::Saved, 1).await;
    assert!(compares(&subscriber) && !subscriber.health().is_ready());
    let stop = CancellationToken::new();
    let wanted = Wanted { types: Some(Vec::new()), ..Wanted::default() };
    let idle = subscriber.until_idle(&wanted, Duration::ZERO, true, &stop);
    assert!(tokio::time::timeout(Duration::from_millis(300), idle).await.is_err(), "a start is not idle");
    assert_eq!(inbox.counts().await.unwrap().working, 0);
    looks.add_permits(1_000);
    rows_in(&inbox, State::Done, 2).await;
    running.stop().await;
}

#[tokio::test]
async fn a_sink_that_does_not_let_itself_be_asked_ends_the_run_and_says_why() {
    let world = World::new().await;
    let (_, subscriber, sink) = begun(&world).await;
    sink.set_closed(true);
    let ended = within(subscriber.run(sink, CancellationToken::new())).await.unwrap_err();
    let RunError::Compare(CompareError::Sink(SinkError::Failed { problem, .. })) = ended else { panic!("{ended:?}") };
    assert!(problem.contains("permission"), "{problem}");
    assert!(!subscriber.receive_stats().is_attached(), "receiving ended with it");
}

#[tokio::test]
async fn a_stop_ends_a_start_that_waits_for_its_sink() {
    let world = World::new().await;
    let (inbox, subscriber, sink) = begun(&world).await;
    let _never = sink.looks();
    let running = Running::run(&subscriber, sink.clone());
    until("the comparison", || async { compares(&subscriber) && subscriber.receive_stats().is_attached() }).await;
    running.stop().await;
    assert_eq!(inbox.counts().await.unwrap().done, 1);
}

#[tokio::test]
async fn many_done_files_are_compared_page_by_page_and_only_those_that_are_missing_are_worked_again() {
    const FILES: usize = 1_100;
    let world = World::new().await;
    let (inbox, sink) = (world.inbox("inbox").await, MemorySink::default());
    world.upload("b", rows(1).as_bytes()).await;
    let bodies: Vec<String> =
        (0..FILES).map(|number| world.waybill("T", "b", &format!(r#""exportId":"e{number}""#))).collect();
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::run(&subscriber, sink.clone());
    for bodies in bodies.chunks(100) {
        world.send(bodies).await;
    }
    until("all", || async { inbox.counts().await.unwrap().done == FILES as u64 }).await;
    running.stop().await;
    let lost = sink.lose("e1007");
    assert_eq!((lost, sink.rows().len()), (1, FILES - 1));
    // In the middle of the comparison the sink goes away for a moment.
    let (looks, stop) = (sink.looks(), CancellationToken::new());
    looks.add_permits(600);
    let wanted = Wanted::default();
    let idle = async {
        until("a part", || async { looks.available_permits() == 0 }).await;
        sink.set_down(true);
        looks.add_permits(10_000);
        until("an outage", || async { sink.refused() > 0 }).await;
        sink.set_down(false);
        subscriber.until_idle(&wanted, Duration::ZERO, false, &stop).await.unwrap();
        stop.cancel();
    };
    let process = subscriber.process(sink.clone(), wanted.clone(), stop.clone());
    let (processed, ()) = within(async { tokio::join!(process, idle) }).await;
    processed.unwrap();
    assert_eq!(sink.rows().len(), FILES);
    let all = ListFilter { most: 2_000, ..ListFilter::default() };
    let again = inbox.list(&all).await.unwrap().into_iter().filter(|row| row.attempts > 1).count();
    assert_eq!(again, 1, "the others are left alone");
}

/// Fails a few times, and never tells of a change.
#[derive(Debug)]
struct Shy {
    grants: Arc<Grants>,
    failures: AtomicU64,
    changes: watch::Sender<Generation>,
}

impl TokenSource for Shy {
    fn grant(&self, service: Service, refused: Option<Generation>) -> BoxFuture<'_, Result<Grant, GrantError>> {
        Box::pin(async move {
            let left = self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if service == Service::Blob && left.is_ok() {
                return Err(GrantError::Unavailable { service, problem: "not yet".to_owned(), retry_after: None });
            }
            self.grants.grant(service, refused).await
        })
    }

    fn changes(&self) -> watch::Receiver<Generation> {
        self.changes.subscribe()
    }
}

#[tokio::test]
async fn a_source_of_tokens_that_fails_at_first_and_tells_of_no_change_has_its_place_remembered() {
    let world = World::new().await;
    let (inbox, stop) = (world.inbox("inbox").await, CancellationToken::new());
    let grants = world.grants(&world.ready().bearer_token);
    let shy = Shy { grants, failures: AtomicU64::new(2), changes: watch::channel(Generation(1)).0 };
    let mut noting = JoinSet::new();
    {
        let (inbox, stop) = (inbox.clone(), stop.clone());
        noting.spawn(async move { crate::subscriber::remember_places(&shy, &inbox, &Default::default(), &stop).await });
    }
    until("its place", || async { inbox.places().await.unwrap().len() == 1 }).await;
    stop.cancel();
    within(noting.join_all()).await;
}

#[tokio::test]
async fn a_sink_that_is_damaged_ends_a_start_with_what_helps_and_puts_no_file_aside() {
    let world = World::new().await;
    let (inbox, path) = (world.inbox("inbox").await, world.folder.path().join("shop.sqlite"));
    let subscriber = world.subscriber(inbox.clone(), builder());
    let sink = SqliteSink::open(&path, &Entities::default()).await.unwrap();
    world.publish("a", &rows(2), "").await;
    let running = Running::run(&subscriber, sink.clone());
    let done = rows_in(&inbox, State::Done, 1).await.remove("c-a").unwrap();
    running.stop().await;
    sink.close().await;
    drop(sink);
    // What it knows of files, in the file itself.
    let (pages, size) = {
        let beside = Connection::open(&path).unwrap();
        beside.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let size: i64 = beside.query_row("PRAGMA page_size", [], |row| row.get(0)).unwrap();
        let sql = "SELECT rootpage FROM sqlite_schema WHERE tbl_name = '_waybill_progress' AND rootpage > 0";
        let mut select = beside.prepare(sql).unwrap();
        let pages: Vec<i64> = select.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap();
        (pages, size)
    };
    assert!(!pages.is_empty());
    // Whoever opens it looks for damage; this comes later.
    let sink = SqliteSink::open(&path, &Entities::default()).await.unwrap();
    let mut file = File::options().write(true).open(&path).unwrap();
    for page in pages {
        file.seek(SeekFrom::Start(((page - 1) * size).cast_unsigned())).unwrap();
        file.write_all(&[0xff; 64]).unwrap();
    }
    drop(file);
    let error = sink.progress(done.file.as_ref().unwrap()).await.unwrap_err();
    assert_eq!(error.verdict(), Some(Verdict::Retry { after: None, blame: Blame::Dependency }), "as in an outage");
    let told = error.to_string();
    assert!(matches!(error, SinkError::Unusable { .. }) && told.contains("put a copy of it back"), "{told}");
    let ended = within(subscriber.run(sink, CancellationToken::new())).await.unwrap_err();
    assert!(matches!(ended, RunError::Compare(CompareError::Sink(SinkError::Unusable { .. }))), "{ended:?}");
    assert_eq!(inbox.counts().await.unwrap().done, 1);
}
