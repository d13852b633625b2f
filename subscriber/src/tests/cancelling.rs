//! What becomes of everything that is asked for when nobody waits for it any more; streams of files have tests of their own.

use std::{path::Path, time::Duration};

use rand::RngExt as _;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use waybill_contracts::Entities;
use waybill_local::Local;
use waybill_store::rusqlite::Connection;

use super::{
    files::postgres,
    world::{ENTITY, World, builder, until, within},
};
use crate::{
    FileKey, Subscriber,
    files::{File, FileError, Files, Rows},
    grants::Grants,
    inbox::{
        AnyInbox, Inbox, ListFilter, Pages, PostgresInbox, Retention, SqliteInbox, SqliteInboxOptions, State, Wanted,
        prune,
    },
    look::FileRows,
    replay::FullExport,
    sink::{AnySink, DirSink, PostgresSink, Rebuild, Scope, Sink, SqliteSink, StdoutSink},
};

const FILES: u64 = 40;
const ROWS: u64 = 20;
const NUMBERS: i64 = (FILES * ROWS) as i64;
/// What is held when a run is dropped comes again after it.
const LEASE: Duration = Duration::from_millis(700);
/// A link takes some milliseconds to open, a file as many.
const DROPPED_AFTER_MS: u64 = 150;
/// The first are dropped early, or all would be over before one is dropped where the machine is quick.
const LATER_EACH_TIME_MS: u64 = 1;

/// Messages that are lost with a link are delivered again at once, however often.
async fn world() -> World {
    let many = 10_000.try_into().expect("not zero");
    let local = Local::builder().lock_duration(Duration::from_secs(2)).max_delivery_count(many);
    World::of(local.start().await.unwrap())
}

async fn sqlite(world: &World) -> SqliteInbox {
    let options = SqliteInboxOptions { lease: LEASE, ..SqliteInboxOptions::default() };
    SqliteInbox::open(&world.folder.path().join("inbox"), options).await.unwrap()
}

async fn publish(world: &World) {
    for number in 0..FILES {
        let text: String = (0..ROWS).map(|row| format!("{{\"id\":{}}}\n", number * ROWS + row)).collect();
        world.upload(&format!("b{number}"), text.as_bytes()).await;
    }
    let bodies: Vec<String> = (0..FILES).map(|number| world.waybill("T", &format!("b{number}"), "")).collect();
    world.send(&bodies).await;
}

/// Asks again and again and drops each call at another moment, until it holds; how many were dropped.
async fn drop_until<F: Future>(mut call: impl FnMut() -> F, holds: impl AsyncFn() -> bool) -> u64 {
    let (mut random, mut dropped) = (rand::rng(), 0);
    within(async {
        while !holds().await {
            let latest = DROPPED_AFTER_MS.min((dropped + 1) * LATER_EACH_TIME_MS);
            let after = Duration::from_millis(random.random_range(0..latest));
            assert!(timeout(after, call()).await.is_err(), "it goes on until it is stopped");
            dropped += 1;
        }
    })
    .await;
    dropped
}

async fn every_message_is_settled(world: &World) {
    until("every message is settled", || async {
        let counts = world.local.broker().counts(ENTITY).unwrap();
        counts.active + counts.locked == 0
    })
    .await;
}

/// Nothing is left at the broker: no link of a call that was dropped, and no message that was lost or given up.
async fn assert_nothing_is_left(world: &World) {
    let broker = world.local.broker();
    until("no link is left", || async { broker.links().is_empty() }).await;
    every_message_is_settled(world).await;
    assert_eq!(broker.counts(ENTITY).unwrap().totals.dead_lettered, 0);
}

/// Each file has one row, which came to its end once; what was dropped counts as no try.
async fn assert_each_is_done_once(inbox: &impl Inbox) {
    let rows = inbox.list(&ListFilter { most: 1000, ..ListFilter::default() }).await.unwrap();
    assert_eq!(rows.len() as u64, FILES);
    for row in rows {
        let ends = inbox.history(row.id).await.unwrap().into_iter().filter(|entry| entry.state == State::Done);
        assert_eq!((row.state, row.attempts, ends.count()), (State::Done, 1, 1), "{row:?}");
    }
}

/// Rows, and different ones.
fn numbers(sink: &Path) -> (i64, i64) {
    let db = Connection::open(sink).unwrap();
    db.query_row("SELECT count(*), count(DISTINCT id) FROM T", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
}

async fn runs_are_dropped<I: Inbox + Clone>(world: World, inbox: I) {
    publish(&world).await;
    let path = world.folder.path().join("sink.sqlite");
    let sink = SqliteSink::open(&path, &Entities::default()).await.unwrap();
    let subscriber = world.subscriber(inbox.clone(), builder());
    let done = async || inbox.counts().await.unwrap().done == FILES;
    let dropped = drop_until(|| subscriber.run(sink.clone(), CancellationToken::new()), done).await;
    // Also what was received and not settled, and what a dropped run began.
    let stop = CancellationToken::new();
    let idle = async {
        every_message_is_settled(&world).await;
        let idle = subscriber.until_idle(&Wanted::default(), LEASE, true, &stop).await.unwrap();
        stop.cancel();
        idle
    };
    let (ran, pending) = within(async { tokio::join!(subscriber.run(sink, stop.clone()), idle) }).await;
    ran.unwrap();
    println!("{dropped} runs were dropped");
    assert!(dropped > 3, "{dropped}");
    assert_eq!((pending.working, pending.due, pending.later), (0, 0, 0));
    assert_eq!(numbers(&path), (NUMBERS, NUMBERS));
    assert_each_is_done_once(&inbox).await;
    assert_nothing_is_left(&world).await;
    assert!(
        subscriber.health().problems.iter().all(|problem| problem.problem.contains("has ended")),
        "{:?}",
        subscriber.health()
    );
}

#[tokio::test]
async fn a_run_that_is_dropped_at_any_moment_loses_repeats_and_leaves_nothing() {
    let world = world().await;
    let inbox = sqlite(&world).await;
    runs_are_dropped(world, inbox).await;
}

#[tokio::test]
async fn a_run_with_its_inbox_in_postgresql_may_be_dropped_at_any_moment_too() {
    let schema = format!("cancelling {}", uuid::Uuid::new_v4().simple());
    runs_are_dropped(world().await, postgres(&schema, LEASE).await).await;
}

#[tokio::test]
async fn receiving_and_working_apart_may_be_dropped_at_any_moment_too() {
    let world = world().await;
    let inbox = sqlite(&world).await;
    publish(&world).await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let saved = async || inbox.counts().await.unwrap().saved == FILES;
    let received = drop_until(|| subscriber.receive(CancellationToken::new()), saved).await;
    // What was saved and not settled when the last one was dropped comes once more, and is known.
    let stop = CancellationToken::new();
    let settled = async {
        every_message_is_settled(&world).await;
        stop.cancel();
    };
    tokio::join!(subscriber.receive(stop.clone()), settled);
    assert_nothing_is_left(&world).await;

    let path = world.folder.path().join("sink.sqlite");
    let sink = SqliteSink::open(&path, &Entities::default()).await.unwrap();
    let done = async || inbox.counts().await.unwrap().done == FILES;
    let process = || subscriber.process(sink.clone(), Wanted::default(), CancellationToken::new());
    let processed = drop_until(process, done).await;
    println!("{received} times receiving, {processed} times working");
    assert!(received > 3 && processed > 3, "{received}, {processed}");
    assert_eq!(numbers(&path), (NUMBERS, NUMBERS));
    assert_each_is_done_once(&inbox).await;
}

#[tokio::test]
async fn a_start_that_is_dropped_while_it_compares_inbox_and_sink_holds_no_end() {
    let world = World::new().await;
    let inbox = world.inbox("inbox").await;
    let sink = SqliteSink::open(world.folder.path().join("sink.sqlite"), &Entities::default()).await.unwrap();
    let subscriber = world.subscriber(inbox, builder());
    for looks in 0..4 {
        let mut run = Box::pin(subscriber.run(sink.clone(), CancellationToken::new()));
        for _ in 0..looks {
            assert!(futures::poll!(&mut run).is_pending());
        }
    }
    let stop = CancellationToken::new();
    let quiet = Duration::from_millis(50);
    within(subscriber.until_idle(&Wanted::default(), quiet, false, &stop)).await.unwrap();
    // The bound on how long it may take is the test's patience.
    sleep(quiet).await;
    assert!(subscriber.health().problems.iter().all(|problem| !problem.problem.contains("compared")));
}

fn is_send<T: Send>(_: T) {}
fn may_be_shared<T: Send + Sync + 'static>() {}

/// Compiled and never called: each future may wait on any thread, whatever the inbox and the sink are.
fn futures_are_send<I: Inbox + Clone, S: Sink>(subscriber: &Subscriber<I>, sink: fn() -> S, file: fn() -> File<I>) {
    let (stop, wanted) = (CancellationToken::new(), Wanted::default());
    is_send(subscriber.run(sink(), stop.clone()));
    is_send(subscriber.receive(stop.clone()));
    is_send(subscriber.process(sink(), wanted.clone(), stop.clone()));
    is_send(subscriber.rows(1));
    is_send(subscriber.reconcile(None, true));
    is_send(subscriber.check_grant());
    is_send(subscriber.backlog());
    is_send(subscriber.until_idle(&wanted, Duration::ZERO, true, &stop));
    let mut files = subscriber.files(wanted);
    is_send(files.next());
    is_send(files.next_due());
    is_send(files.close());
    is_send(file().done());
    is_send(file().retry_in(Duration::ZERO, ""));
    is_send(file().quarantine(waybill_contracts::Reason::ByOperator, ""));
    is_send(file().give_back());
    is_send(file().failed(&FileError::Lapsed));
    let mut file = file();
    let mut rows: Rows<'_, I> = file.rows();
    is_send(rows.next());
    is_send(rows);
    is_send(prune(subscriber.inbox(), &Retention::default(), |_| {}));
    let mut pages = Pages::new(ListFilter::default());
    is_send(pages.next(subscriber.inbox()));
}

fn those_of_a_rebuild_are(mut of: Rebuild, again: fn() -> Rebuild, export: &FullExport, file: &FileKey) {
    is_send(Rebuild::begin("", &Scope::of(&Entities::default(), &[])));
    is_send(of.begin_at(export));
    is_send(of.flaw(export));
    is_send(of.pass_over(file, export));
    is_send(of.behind());
    is_send(of.behind_of(&[]));
    is_send(of.hold());
    is_send(of.swap());
    is_send(again().give_up());
}

#[test]
fn whatever_is_public_can_be_sent_to_other_threads_and_what_is_cloned_be_shared() {
    type Futures<I, S> = fn(&Subscriber<I>, fn() -> S, fn() -> File<I>);
    let _compiled: Futures<SqliteInbox, SqliteSink> = futures_are_send;
    let _compiled: Futures<AnyInbox, AnySink> = futures_are_send;
    let _compiled: fn(Rebuild, fn() -> Rebuild, &FullExport, &FileKey) = those_of_a_rebuild_are;
    may_be_shared::<(Subscriber, Subscriber<PostgresInbox>, Subscriber<AnyInbox>, crate::SubscriberBuilder)>();
    may_be_shared::<(SqliteInbox, PostgresInbox, AnyInbox, Grants)>();
    may_be_shared::<(SqliteSink, PostgresSink, DirSink, StdoutSink, AnySink)>();
    is_send(None::<(Files, File, Files<PostgresInbox>, File<PostgresInbox>, FileRows)>);
}
