//! Messages: their ids, outages, and how fast they go.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use waybill_local::{
    broker::{QueueOptions, TopicOptions, Which},
    fault::{BusEvent, BusFrames, Step, What, Whose},
};

use super::{
    change_log::{PostgresService, fresh_schema, server},
    world::{PATIENCE, Running, World, export, row_of, tokens_with, until},
};
use crate::{
    FlushError, Publisher, RelayState,
    change_log::conformance::Service,
    outbox::{PostgresOutbox, PostgresOutboxOptions, State},
};

/// Everybody's way to the bus, which can be closed.
struct Road {
    address: SocketAddr,
    open: watch::Sender<bool>,
    _cars: JoinSet<()>,
}

impl Road {
    /// To this port of this machine.
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, is_open) = watch::channel(true);
        let mut cars = JoinSet::new();
        cars.spawn(async move {
            let mut cars = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut is_open = is_open.clone();
                if !*is_open.borrow() {
                    continue;
                }
                cars.spawn(async move {
                    let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = is_open.wait_for(|open| !open) => {}
                    }
                });
            }
        });
        Self { address, open, _cars: cars }
    }
}

/// The connection string's port, and the string with another.
fn with_port(world: &World, port: u16) -> String {
    let given = &world.local.ready_file().service_bus_connection_string;
    let bus = world.local.ports().amqp.to_string();
    assert!(given.contains(&bus), "the port stands in the connection string");
    given.replacen(&bus, &port.to_string(), 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_keeps_its_id_over_unknown_outcomes() {
    const EXPORTS: usize = 30;
    const ROUNDS_MAX: usize = 30;
    let world = World::new().await;
    let running = world.running().await;
    // Every second delivery is taken, and the connection lost before the sender is told; or it is lost before.
    let (mut rounds, mut came_twice) = (0, 0);
    while rounds < 2 || came_twice == 0 {
        assert!(rounds < ROUNDS_MAX, "no message came twice, so no outcome was unknown");
        let what = match rounds % 2 {
            0 => What::DropAnswer { reset: true },
            _ => What::close(Whose::Event),
        };
        let step = Step::new(BusFrames::of(BusEvent::TransferIn).entity("exports"), what);
        let two = 2.try_into().unwrap();
        world.local.faults().install([step.nth(two).every(two).times(10.try_into().unwrap())]).unwrap();
        for number in 0..EXPORTS {
            export(&running.publisher, &format!("{rounds}-{number}"), 2).await.unwrap();
        }
        running.sent().await;
        world.local.faults().clear();
        rounds += 1;
        came_twice = world.messages().len() - rounds * EXPORTS;
    }
    let sent = world.assert_promises(&running.publisher, 0).await;
    assert_eq!(sent.len(), rounds * EXPORTS);
    running.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_bus_loses_nothing_and_ends_without_a_restart() {
    let world = World::new().await;
    let road = Road::to(world.local.ports().amqp).await;
    let ready = world.local.ready_file();
    let tokens = tokens_with(ready, &ready.topic, &with_port(&world, road.address.port()));
    let publisher = Publisher::builder(tokens, world.outbox()).name("shop").backoff_max(Duration::from_millis(200));
    let running = Running::start(publisher.build().await.unwrap());
    export(&running.publisher, "before", 5).await.unwrap();
    running.sent().await;

    for outage in 0..2 {
        road.open.send_replace(false);
        for number in 0..20 {
            export(&running.publisher, &format!("during-{outage}-{number}"), 5).await.unwrap();
        }
        let mut relay = running.publisher.relay();
        let waiting = relay.wait_for(|state| matches!(state, RelayState::Waiting { .. }));
        let state = timeout(PATIENCE, waiting).await.expect("in time").unwrap().clone();
        assert!(matches!(state, RelayState::Waiting { needs_person: false, .. }), "{state:?}");
        let given_up = running.publisher.flush(Duration::from_millis(50)).await;
        assert!(matches!(given_up, Err(FlushError::Timeout { waiting: 20, .. })), "{given_up:?}");
        road.open.send_replace(true);
        running.sent().await;
        assert_eq!(*running.publisher.relay().borrow(), RelayState::Attached);
    }
    assert_eq!(world.assert_promises(&running.publisher, 0).await.len(), 41);
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_missing_topic_is_waited_for_and_the_outbox_holds() {
    let world = World::new().await;
    let ready = world.local.ready_file();
    let tokens = tokens_with(ready, "later", &ready.service_bus_connection_string);
    let publisher = Publisher::builder(tokens, world.outbox()).name("shop").backoff_max(Duration::from_millis(100));
    let running = Running::start(publisher.build().await.unwrap());
    export(&running.publisher, "early", 5).await.unwrap();
    let mut relay = running.publisher.relay();
    let waiting = relay.wait_for(|state| matches!(state, RelayState::Waiting { .. }));
    let state = timeout(PATIENCE, waiting).await.expect("in time").unwrap().clone();
    let RelayState::Waiting { problem, needs_person: true } = &state else { panic!("{state:?}") };
    assert!(problem.contains("later"), "it names the topic: {problem}");
    assert_eq!(row_of(&running.publisher, "early").await.state, State::Uploaded);
    let given_up = running.publisher.flush(Duration::from_millis(50)).await.unwrap_err().to_string();
    assert!(given_up.starts_with("1 message is not sent after 50ms"), "{given_up}");

    let broker = world.local.broker();
    broker.add_topic("later", TopicOptions::default()).unwrap();
    broker.add_subscription("later", "acme", QueueOptions::default()).unwrap();
    running.sent().await;
    let there = broker.peek("later/subscriptions/acme", 0, 10).unwrap();
    assert_eq!(there.len(), 1);
    assert_eq!(there[0].contents.message_id.as_deref(), Some("early"));
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_publisher_with_nothing_to_send_tells_whether_it_could() {
    let world = World::new().await;
    let ready = world.local.ready_file();
    let tokens = tokens_with(ready, "later", &ready.service_bus_connection_string);
    let publisher = Publisher::builder(tokens, world.outbox()).name("shop").backoff_max(Duration::from_millis(100));
    let running = Running::start(publisher.build().await.unwrap());
    let mut relay = running.publisher.relay();
    let waiting = relay.wait_for(|state| matches!(state, RelayState::Waiting { needs_person: true, .. }));
    timeout(PATIENCE, waiting).await.expect("it is told that the topic is missing").unwrap();
    world.local.broker().add_topic("later", TopicOptions::default()).unwrap();
    let attached = relay.wait_for(|state| *state == RelayState::Attached);
    timeout(PATIENCE, attached).await.expect("it is ready without a message").unwrap();
    running.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn detached_links_and_closed_connections_cost_no_message() {
    let world = World::new().await;
    let running = world.running().await;
    let mut wanted = BTreeSet::new();
    for number in 0..20 {
        if number % 5 == 2 {
            world.local.broker().detach_links("exports").unwrap();
            world.local.broker().close_connections(&Which::Senders);
        }
        let id = format!("n-{number}");
        export(&running.publisher, &id, 3).await.unwrap();
        wanted.insert(id);
    }
    running.sent().await;
    let told: BTreeSet<String> = world.messages().into_iter().map(|message| message.id).collect();
    assert_eq!(told, wanted);
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_uploaded_export_is_at_the_broker_at_once_when_nothing_else_goes_on() {
    let world = World::new().await;
    // Without the wake-up by the upload it would wait for an hour.
    let publisher = world.builder().poll_interval(Duration::from_secs(3600)).build().await.unwrap();
    let running = Running::start(publisher);
    export(&running.publisher, "warm", 1).await.unwrap();
    running.sent().await;
    let mut slowest = Duration::ZERO;
    for number in 0..10 {
        let arrived = world.arrived();
        export(&running.publisher, &format!("n-{number}"), 1).await.unwrap();
        let uploaded = Instant::now();
        let broker = world.local.broker();
        let there = broker.wait_until(|_| world.arrived() > arrived);
        timeout(PATIENCE, there).await.expect("it arrives");
        slowest = slowest.max(uploaded.elapsed());
        running.sent().await;
    }
    println!("slowest of 10: {slowest:?}");
    assert!(slowest < Duration::from_millis(900), "{slowest:?} from uploaded to the broker");
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_publisher_whose_outbox_was_changed_by_a_newer_version_ends_without_sending() {
    let world = World::new().await;
    let publisher = world.publisher().await;
    export(&publisher, "one", 1).await.unwrap();
    let newer = waybill_store::rusqlite::Connection::open(world.outbox().join("outbox.sqlite")).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    timeout(PATIENCE, publisher.run(CancellationToken::new())).await.expect("it ends by itself");
    let state = publisher.relay().borrow().clone();
    let RelayState::GaveUp(problem) = &state else { panic!("{state:?}") };
    assert!(problem.contains("schema version 99") && problem.contains("run the newer version"), "{problem}");
    assert!(matches!(publisher.flush(PATIENCE).await, Err(FlushError::GaveUp(_))));
    assert!(export(&publisher, "two", 1).await.is_err(), "a number of the newer version's");
    assert!(world.messages().is_empty());
    world.end().await;
}

#[tokio::test]
async fn of_two_publishers_on_one_outbox_one_sends_and_the_other_takes_over() {
    let world = World::new().await;
    let first = world.running().await;
    export(&first.publisher, "one", 1).await.unwrap();
    first.sent().await;
    let second = world.running().await;
    until("the second on standby", async || *second.publisher.relay().borrow() == RelayState::Standby).await;
    export(&second.publisher, "two", 1).await.unwrap();
    second.sent().await;
    first.end().await;
    until("the second to send", async || *second.publisher.relay().borrow() == RelayState::Attached).await;
    export(&second.publisher, "three", 1).await.unwrap();
    second.sent().await;
    assert_eq!(world.messages().len(), 3, "each once");
    world.assert_promises(&second.publisher, 0).await;
    second.end().await;
    world.end().await;
}

async fn postgres_outbox(schema: &str) -> PostgresOutbox {
    let options = PostgresOutboxOptions { schema: schema.to_owned(), ..PostgresOutboxOptions::default() };
    PostgresOutbox::open(&server(), options).await.unwrap()
}

/// Only the session of the lock is ended: its publisher goes on with others, as after a restart of the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_whose_session_is_ended_sends_nothing_beside_the_one_that_took_over() {
    let world = World::new().await;
    let schema = fresh_schema();
    let publisher = async |look: Duration| {
        let builder = world.builder().poll_interval(look).manifest_every(None);
        builder.build_on(postgres_outbox(&schema).await).unwrap()
    };
    // It looks up only when it has something to send.
    let first = Running::start(publisher(Duration::from_secs(3600)).await);
    until("the first to send", async || *first.publisher.relay().borrow() == RelayState::Attached).await;
    let second = Running::start(publisher(Duration::from_millis(20)).await);
    until("the second to stand by", async || *second.publisher.relay().borrow() == RelayState::Standby).await;
    export(&first.publisher, "before", 1).await.unwrap();
    first.sent().await;

    let lock = format!("'x' || encode(substr(sha256('waybill relay {schema}'::bytea), 1, 8), 'hex')");
    let end = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted
             AND classid::bigint << 32 | objid::bigint = ({lock})::bit(64)::bigint"
    );
    PostgresService::new(&schema).await.must(&end).await;
    let took_over = async || *second.publisher.relay().borrow() == RelayState::Attached;
    let ended = Instant::now();
    until("the second to take over", took_over).await;
    println!("taken over after {:?}", ended.elapsed());
    assert!(ended.elapsed() < Duration::from_secs(10), "within seconds");
    for number in 0..20 {
        export(&first.publisher, &format!("after-{number}"), 1).await.unwrap();
    }
    second.sent().await;
    until("the first to stand by", async || *first.publisher.relay().borrow() == RelayState::Standby).await;
    let ids: Vec<String> = world.messages().into_iter().map(|message| message.id).collect();
    assert_eq!(ids.len(), 21, "each by one of them: {ids:?}");
    assert_eq!(world.assert_promises(&second.publisher, 0).await.len(), 21);
    second.end().await;
    first.stop_now().await;
    world.end().await;
}

/// Somebody holds its table for long, as an `ALTER TABLE` does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_whose_database_is_slow_says_that_and_not_that_another_one_sends() {
    let world = World::new().await;
    let schema = fresh_schema();
    let builder = world.builder().poll_interval(Duration::from_millis(20)).manifest_every(None);
    let running = Running::start(builder.build_on(postgres_outbox(&schema).await).unwrap());
    let mut relay = running.publisher.relay();
    timeout(PATIENCE, relay.wait_for(|state| *state == RelayState::Attached)).await.unwrap().unwrap();
    let mut watched = running.publisher.relay();
    let seen = async {
        let mut seen = Vec::new();
        while watched.changed().await.is_ok() {
            let state = watched.borrow_and_update().clone();
            let is_over = !seen.is_empty() && state == RelayState::Attached;
            seen.push(state);
            if is_over {
                break;
            }
        }
        seen
    };
    let service = PostgresService::new(&schema).await;
    let slow = async {
        service.must(&format!("BEGIN; LOCK TABLE \"{}\".export", schema.replace('"', "\"\""))).await;
        let unread = timeout(PATIENCE, relay.wait_for(|state| matches!(state, RelayState::NoOutbox(_)))).await;
        let RelayState::NoOutbox(problem) = unread.expect("in time").unwrap().clone() else {
            panic!("of another kind")
        };
        service.must("COMMIT").await;
        problem
    };
    let (problem, seen) = tokio::join!(slow, timeout(PATIENCE, seen));
    assert!(problem.contains("statement timeout"), "{problem}");
    let seen = seen.expect("it goes on");
    assert!(!seen.contains(&RelayState::Standby), "{seen:?}");
    export(&running.publisher, "after", 1).await.unwrap();
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_relay_whose_outbox_cannot_be_read_says_so_until_it_can() {
    let world = World::new().await;
    let running = Running::start(world.builder().poll_interval(Duration::from_millis(20)).build().await.unwrap());
    let mut relay = running.publisher.relay();
    timeout(PATIENCE, relay.wait_for(|state| *state == RelayState::Attached)).await.unwrap().unwrap();
    let beside = waybill_store::rusqlite::Connection::open(world.outbox().join("outbox.sqlite")).unwrap();
    beside.busy_timeout(PATIENCE).unwrap();
    beside.execute_batch("ALTER TABLE export RENAME TO hidden").unwrap();
    let unread = timeout(PATIENCE, relay.wait_for(|state| matches!(state, RelayState::NoOutbox(_)))).await;
    let RelayState::NoOutbox(problem) = unread.expect("in time").unwrap().clone() else { panic!("of another kind") };
    assert!(problem.contains("no such table"), "{problem}");
    beside.execute_batch("ALTER TABLE hidden RENAME TO export").unwrap();
    timeout(PATIENCE, relay.wait_for(|state| *state == RelayState::Attached)).await.expect("in time").unwrap();
    export(&running.publisher, "one", 1).await.unwrap();
    running.end().await;
    world.end().await;
}

/// What the broker wants is given to it, and everything arrives afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_broker_is_left_alone_and_gets_every_message_afterwards() {
    const EXPORTS: u64 = 20;
    let world = World::new().await;
    let busy = What::throttle(Duration::from_secs(2));
    let step = Step::new(BusFrames::of(BusEvent::TransferIn).entity("exports"), busy);
    world.local.faults().install([step.times(1.try_into().unwrap())]).unwrap();
    let publisher = world.publisher().await;
    for number in 0..EXPORTS {
        export(&publisher, &format!("n-{number}"), 1).await.unwrap();
    }
    let running = Running::start(publisher);
    let mut relay = running.publisher.relay();
    let waiting = relay.wait_for(|state| matches!(state, RelayState::Waiting { .. }));
    let state = timeout(PATIENCE, waiting).await.expect("in time").unwrap().clone();
    let RelayState::Waiting { problem, needs_person: false } = state else { panic!("{state:?}") };
    assert!(problem.contains("the broker is busy"), "{problem}");
    let told = Instant::now();
    let arrived = world.arrived();
    running.sent().await;
    assert!(told.elapsed() > Duration::from_secs(5), "it is asked again after {:?}", told.elapsed());
    assert!(arrived < EXPORTS && running.publisher.figures().sends_failed == 1);
    assert_eq!(world.assert_promises(&running.publisher, 0).await.len() as u64, EXPORTS);
    assert_eq!(*running.publisher.relay().borrow(), RelayState::Attached);
    running.end().await;
    world.end().await;
}

/// One that is refused for what it is, among others in one batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_message_in_a_batch_holds_up_no_other_and_waits_on_its_own() {
    let world = World::new().await;
    let broker = world.local.broker();
    broker.add_topic("small", TopicOptions { max_message_bytes: 4_000, ..TopicOptions::default() }).unwrap();
    broker.add_subscription("small", "acme", QueueOptions::default()).unwrap();
    let ready = world.local.ready_file();
    let tokens = tokens_with(ready, "small", &ready.service_bus_connection_string);
    let publisher = Publisher::builder(tokens, world.outbox()).name("shop").build().await.unwrap();
    let mut wanted = BTreeSet::new();
    for number in 0..10 {
        let id = format!("n-{number}");
        export(&publisher, &id, 1).await.unwrap();
        wanted.insert(id);
        if number == 4 {
            let large = publisher.export("Number").unwrap().id("large").unwrap();
            let large = large.properties(&serde_json::json!({ "filler": "x".repeat(8_000) })).unwrap();
            large.rows(futures::stream::iter([serde_json::json!({ "n": 1 })])).await.unwrap();
        }
    }
    // All of them are due at once.
    let running = Running::start(publisher);
    until("the others to be sent", async || running.publisher.status().await.unwrap().counts.sent == 10).await;
    until("the refusal to be noted", async || row_of(&running.publisher, "large").await.tries == 1).await;
    let refused = row_of(&running.publisher, "large").await;
    assert_eq!(refused.state, State::Uploaded);
    assert!(refused.last_error.as_ref().is_some_and(|error| error.contains("too large")), "{refused:?}");
    assert!(refused.due_at.unwrap() > time::OffsetDateTime::now_utc() + Duration::from_secs(30), "{refused:?}");
    assert_eq!(*running.publisher.relay().borrow(), RelayState::Attached, "it is no outage");
    export(&running.publisher, "later", 1).await.unwrap();
    wanted.insert("later".to_owned());
    until("a later one to be sent", async || row_of(&running.publisher, "later").await.state == State::Sent).await;
    let there = broker.peek("small/subscriptions/acme", 0, 100).unwrap();
    let told: BTreeSet<String> = there.into_iter().filter_map(|peeked| peeked.contents.message_id).collect();
    assert_eq!(told, wanted);
    assert_eq!(running.publisher.figures().messages_refused, 1);
    running.stop_now().await;
    world.end().await;
}
