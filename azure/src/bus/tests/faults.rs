//! Lost links, lost connections and peers that say nothing: each ends what waits with a reason, and all of it comes back.

use tokio::time::Instant;
use waybill_local::broker::Which;

use super::*;

/// Loses the link in one way, and checks that nothing is lost with it.
async fn loses_nothing(lose: impl FnOnce(&Broker), told: impl FnOnce(&BusError) -> bool) {
    let local = local().await;
    publish(&local, &messages(10)).await;
    let acme = Client::acme(&local);
    let mut receiver = acme.receiver(6).await;
    take(&mut receiver, 4).await;
    lose(local.broker());
    let error = loop {
        if let Err(error) = soon(receiver.next()).await {
            break error;
        }
    };
    assert!(told(&error), "{error:?}");
    assert!(!error.needs_person() && !error.had_no_effect());
    drop(receiver);

    let mut receiver = acme.receiver(10).await;
    local.broker().expire_locks(ACME).unwrap();
    let taken = take(&mut receiver, 10).await;
    let mut numbers: Vec<i64> = taken.iter().map(|delivery| delivery.sequence_number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 10, "each once");
    assert!(taken.iter().all(|delivery| delivery.delivery_count <= 1), "a lost link costs at most one delivery");
    receiver.settle(&tags(&taken), &Settlement::Complete).await.unwrap();
    soon(local.broker().wait_until(|broker| counts(broker, ACME).totals.completed == 10)).await;
    assert!(acme.tokens.refusals().is_empty(), "no token was to blame");
}

#[tokio::test]
async fn a_forced_detach_ends_the_link_and_nothing_is_lost() {
    loses_nothing(
        |broker| assert_eq!(broker.detach_links(ACME).unwrap(), 1),
        |error| matches!(error, BusError::Detached { problem, .. } if problem.starts_with("amqp:link:detach-forced")),
    )
    .await;
}

#[tokio::test]
async fn a_forced_close_ends_the_connection_and_nothing_is_lost() {
    loses_nothing(
        |broker| assert_eq!(broker.close_connections(&Which::All), 1),
        |error| matches!(error, BusError::Disconnected { problem } if problem.starts_with("amqp:connection:forced")),
    )
    .await;
}

#[tokio::test]
async fn a_reset_ends_the_connection_and_nothing_is_lost() {
    loses_nothing(
        |broker| assert_eq!(broker.reset_connections(&Which::All), 1),
        |error| matches!(error, BusError::Disconnected { .. }),
    )
    .await;
}

#[tokio::test]
async fn a_sender_that_was_detached_while_idle_says_so_at_the_next_send() {
    let local = local().await;
    let publisher = Client::publisher(&local);
    let sender = publisher.sender().await;
    local.broker().detach_links(TOPIC).unwrap();
    soon(local.broker().wait_until(|broker| broker.links().is_empty())).await;
    let error = soon(sender.send(&messages(1))).await.unwrap_err();
    assert!(matches!(error, BusError::Detached { .. }), "{error:?}");
    let error = soon(sender.send(&messages(1))).await.unwrap_err();
    assert!(matches!(error, BusError::Detached { .. }), "the reason stays: {error:?}");
    soon(publisher.sender().await.send(&messages(1))).await.unwrap();
    assert_eq!(counts(local.broker(), TOPIC).totals.enqueued, 1);
}

#[tokio::test]
async fn a_blackhole_is_noticed_within_the_idle_timeout() {
    let local = local().await;
    let proxy = Proxy::start(local.ports().amqp).await;
    let tokens = TestTokens::new(&local, Holder::Tenant("acme".to_owned()), HOUR);
    tokens.with(|state| state.endpoint = endpoint(proxy.port));
    let idle_timeout = Duration::from_secs(2);
    let bus = Bus::new(tokens, BusOptions { idle_timeout, ..options() });
    let mut receiver = soon(bus.receiver(ReceiverOptions::default())).await.unwrap();
    receiver.add_credit(1).await.unwrap();
    let mut dead = soon(bus.receiver(ReceiverOptions { dead_letter_queue: true })).await.unwrap();
    proxy.set(Passage::Blackhole);
    let started = Instant::now();
    let error = soon(receiver.next()).await.unwrap_err();
    assert!(matches!(&error, BusError::Disconnected { problem } if problem.contains("nothing came")), "{error:?}");
    // Ten times as long on a machine that has much to do, and still a fraction of what a service has.
    assert!(started.elapsed() < idle_timeout * 10, "{:?}", started.elapsed());
    assert!(soon(dead.next()).await.is_err(), "every link of the connection is told");

    proxy.set(Passage::Open);
    publish(&local, &messages(1)).await;
    let mut receiver = soon(bus.receiver(ReceiverOptions::default())).await.unwrap();
    receiver.add_credit(1).await.unwrap();
    take(&mut receiver, 1).await;
}

#[tokio::test]
async fn an_idle_connection_is_kept_alive_by_both_sides() {
    let local = local().await;
    let tokens = TestTokens::new(&local, Holder::Tenant("acme".to_owned()), HOUR);
    let bus = Bus::new(tokens, BusOptions { idle_timeout: Duration::from_millis(500), ..options() });
    let mut receiver = soon(bus.receiver(ReceiverOptions::default())).await.unwrap();
    receiver.add_credit(1).await.unwrap();
    let quiet = timeout(Duration::from_millis(1500), receiver.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_times_out() {
    let local = local().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tokens = TestTokens::new(&local, Holder::Root(TOPIC.to_owned()), HOUR);
    tokens.with(|state| state.endpoint = endpoint(listener.local_addr().unwrap().port()));
    let call_timeout = Duration::from_millis(300);
    let bus = Bus::new(tokens, BusOptions { call_timeout, ..options() });
    let error = soon(bus.sender()).await.unwrap_err();
    assert!(
        matches!(error, BusError::Timeout { what: "opening the connection", limit } if limit == call_timeout),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_peer_that_falls_silent_after_opening_times_out_and_the_next_try_connects_anew() {
    let local = local().await;
    let proxy = Proxy::start(local.ports().amqp).await;
    let tokens = TestTokens::new(&local, Holder::Root(TOPIC.to_owned()), HOUR);
    tokens.with(|state| state.endpoint = endpoint(proxy.port));
    let bus = Bus::new(tokens, BusOptions { call_timeout: Duration::from_millis(300), ..options() });
    let sender = soon(bus.sender()).await.unwrap();
    proxy.set(Passage::Blackhole);
    let error = soon(bus.sender()).await.unwrap_err();
    assert!(matches!(error, BusError::Timeout { .. }), "{error:?}");
    assert!(soon(sender.send(&messages(1))).await.is_err(), "the connection was given up");
    proxy.set(Passage::Open);
    soon(soon(bus.sender()).await.unwrap().send(&messages(1))).await.unwrap();
}

#[tokio::test]
async fn no_server_and_a_foreign_server_are_told_apart_from_timeouts() {
    let local = local().await;
    let tokens = TestTokens::new(&local, Holder::Root(TOPIC.to_owned()), HOUR);
    let bus = Bus::new(Arc::clone(&tokens) as Arc<dyn TokenSource>, options());
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    tokens.with(|state| state.endpoint = endpoint(free));
    let error = soon(bus.sender()).await.unwrap_err();
    assert!(
        matches!(&error, BusError::Connect { address, .. } if *address == format!("127.0.0.1:{free}")),
        "{error:?}"
    );
    assert!(error.had_no_effect() && !error.needs_person());

    // An HTTP server on the port.
    tokens.with(|state| state.endpoint = endpoint(local.ports().blob));
    let error = soon(bus.sender()).await.unwrap_err();
    assert!(matches!(error, BusError::Connect { .. }), "{error:?}");
}

#[tokio::test]
async fn closing_twice_is_fine_and_ends_everything() {
    let local = local().await;
    let acme = Client::acme(&local);
    let mut receiver = acme.receiver(1).await;
    soon(acme.bus.close()).await;
    soon(acme.bus.close()).await;
    soon(local.broker().wait_until(|broker| broker.connections() == 0)).await;
    assert!(matches!(soon(receiver.next()).await, Err(BusError::Disconnected { .. })));
    assert!(matches!(soon(acme.bus.receiver(ReceiverOptions::default())).await, Err(BusError::Disconnected { .. })));
    soon(receiver.close()).await;
}

#[tokio::test]
async fn a_bus_that_never_connected_closes_too() {
    let local = local().await;
    let acme = Client::acme(&local);
    soon(acme.bus.close()).await;
    assert_eq!(local.broker().connections(), 0);
}

#[tokio::test]
async fn the_connection_lives_as_long_as_anything_that_uses_it_and_no_longer() {
    let local = local().await;
    let publisher = Client::publisher(&local);
    let sender = publisher.sender().await;
    drop(publisher);
    soon(sender.send(&messages(1))).await.unwrap();
    drop(sender);
    soon(local.broker().wait_until(|broker| broker.connections() == 0)).await;
}

#[tokio::test]
async fn all_who_ask_at_once_share_one_connection() {
    let local = local().await;
    let acme = Client::acme(&local);
    let opened = futures::future::join_all((0..8).map(|_| acme.bus.receiver(ReceiverOptions::default())));
    let opened = soon(opened).await;
    assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    assert_eq!((local.broker().connections(), local.broker().links().len()), (1, 8));
}
