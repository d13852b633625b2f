//! P3, P8 and P10 with several namespaces and containers in one grant, and with grants that move.

use std::{collections::BTreeSet, io, net::TcpListener, num::NonZeroU32, sync::atomic::Ordering, time::Duration};

use time::OffsetDateTime;
use waybill_azure::{GrantError, Service, TokenSource, blob::ContainerOptions};
use waybill_contracts::Reason;
use waybill_local::{
    Local, Offer,
    fault::{Step, What, When},
};

use super::{
    sink::MemorySink,
    world::{ENTITY, Running, World, builder, rows, rows_in, until},
};
use crate::{
    Subscriber,
    fetch::HostAliases,
    grants::place_of,
    inbox::{End, Inbox, Place, SqliteInbox, State, Wanted, WorkerId},
    subscriber::opened,
};

/// A world whose tokens are renewed every one or two seconds, so that a new grant is noticed.
async fn lively() -> World {
    World::of(Local::builder().token_life(Duration::from_secs(2)).start().await.unwrap())
}

fn bus(world: &World) -> Offer {
    world.local.bus_offer(ENTITY)
}

fn blob(world: &World) -> Offer {
    world.local.blob_offer(&world.ready().container)
}

fn place(world: &World) -> Place {
    let endpoint = world.uri("").split("/batchtoprocess").next().unwrap().to_owned();
    Place { endpoint, container: world.ready().container.clone() }
}

fn grant(of: &World, offers: impl IntoIterator<Item = Offer>) {
    of.local.set_grant("acme", offers).unwrap();
}

async fn names(subscriber: &Subscriber<SqliteInbox>, places: &[Place]) {
    until("the new grant", || async { subscriber.grants().unwrap().places() == places }).await;
}

#[tokio::test]
async fn messages_and_files_of_two_namespaces_and_two_accounts_arrive_side_by_side() {
    let (here, there) = (World::new().await, World::new().await);
    grant(&here, [bus(&here), bus(&there), blob(&here), blob(&there)]);
    for number in 1..=3 {
        // Numbers, names and times of the two are as alike as can be.
        here.publish(&format!("b{number}"), &rows(10), "").await;
        there.publish(&format!("b{number}"), &rows(20), "").await;
    }
    let inbox = here.inbox("inbox").await;
    let subscriber = here.subscriber(inbox.clone(), builder());
    let sink = MemorySink::default();
    let running = Running::run(&subscriber, sink.clone());
    until("all files", || async { inbox.counts().await.unwrap().done == 6 }).await;
    assert_eq!(subscriber.receive_stats().attached.load(Ordering::Relaxed), 2, "a link each");
    assert!(subscriber.receive_stats().is_attached() && subscriber.health().is_ready(), "{:?}", subscriber.health());
    running.stop().await;
    assert_eq!(sink.rows().len(), 3 * 10 + 3 * 20);
    let found = inbox.list(&Default::default()).await.unwrap();
    let from: BTreeSet<&str> = found.iter().map(|row| row.entity_path.as_str()).collect();
    assert_eq!(from.len(), 2, "numbers count within a namespace: {from:?}");
    let known: BTreeSet<Place> = inbox.places().await.unwrap().into_iter().collect();
    assert_eq!(known, BTreeSet::from([place(&here), place(&there)]));
    assert_eq!(subscriber.receive_stats().attached.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn when_the_grant_moves_receiving_goes_along_and_files_of_the_old_place_wait_for_it() {
    let (old, new) = (lively().await, World::new().await);
    let inbox = old.inbox("inbox").await;
    let subscriber = old.subscriber(inbox.clone(), builder());
    let sink = MemorySink::default();
    let running = Running::run(&subscriber, sink.clone());
    old.publish("b1", &rows(1), "").await;
    rows_in(&inbox, State::Done, 1).await;

    grant(&old, [bus(&new), blob(&new)]);
    names(&subscriber, &[place(&new)]).await;
    // A message of the new place for a file of the old one, and one for a file that is here.
    old.upload("b2", rows(2).as_bytes()).await;
    new.send(&[old.waybill("T", "b2", "")]).await;
    new.publish("b3", &rows(3), "").await;
    rows_in(&inbox, State::Done, 2).await;
    until("a try", || async { subscriber.work_stats().tries_put_off.load(Ordering::Relaxed) >= 1 }).await;
    let row = rows_in(&inbox, State::Saved, 1).await.remove("c-b2").unwrap();
    assert!(row.problem.unwrap().contains("current grant does not open"));
    until("the old link to be gone", || async { subscriber.receive_stats().attached.load(Ordering::Relaxed) == 1 })
        .await;
    old.send(&[old.waybill("T", "b4", "")]).await;
    until("all to be well", || async { subscriber.health().is_ready() }).await;

    grant(&old, [bus(&new), blob(&new), blob(&old)]);
    rows_in(&inbox, State::Done, 3).await;
    assert_eq!(old.local.broker().counts(ENTITY).unwrap().active, 1, "nobody receives there");
    // The old namespace as well: its message is taken, and its file is not there yet.
    grant(&old, [bus(&new), bus(&old), blob(&old)]);
    until("its message", || async { inbox.counts().await.unwrap().saved == 1 }).await;
    running.stop().await;
    assert_eq!(sink.rows().len(), 1 + 2 + 3);
    assert_eq!(old.local.broker().counts(ENTITY).unwrap().dead_lettered, 0);
}

#[tokio::test]
async fn a_grant_that_moves_in_the_middle_of_a_file_does_not_bring_rows_of_the_new_place_into_it() {
    const ROWS: u64 = 400_000;
    let (old, new) = (lively().await, World::new().await);
    let inbox = old.inbox("inbox").await;
    let blob_options = ContainerOptions { range_bytes: 64 * 1024, ..ContainerOptions::default() };
    let subscriber = old.subscriber(inbox.clone(), builder().blob(blob_options).commit_bytes_max(1));
    let sink = MemorySink::default();
    let gate = sink.gate();
    gate.add_permits(1);
    old.publish("b", &rows(ROWS), "").await;
    // Of the same name, with the same content: a token of the new place would open it.
    new.upload("b", rows(ROWS).as_bytes()).await;
    let running = Running::run(&subscriber, sink.clone());
    until("the first rows", || async { !sink.rows().is_empty() }).await;
    grant(&old, [bus(&old), blob(&new)]);
    names(&subscriber, &[place(&new)]).await;
    gate.add_permits(10_000);
    until("it to be put off", || async { subscriber.work_stats().tries_put_off.load(Ordering::Relaxed) >= 1 }).await;
    let row = rows_in(&inbox, State::Saved, 1).await.remove("c-b").unwrap();
    assert!(row.problem.as_ref().unwrap().contains("grant does not open"), "{row:?}");
    assert_eq!(new.local.stats().counted().blob_bytes_out, 0, "nothing was read there");

    grant(&old, [bus(&old), blob(&old)]);
    rows_in(&inbox, State::Done, 1).await;
    running.stop().await;
    assert!(sink.in_order() == rows(ROWS).lines().map(str::to_owned).collect::<Vec<_>>(), "each row once, in order");
}

#[tokio::test]
async fn files_that_waited_for_a_place_are_due_when_it_is_named_again() {
    let world = World::new().await;
    let inbox = world.inbox("inbox").await;
    let elsewhere = Place { endpoint: "https://other.example".to_owned(), container: "c".to_owned() };
    let here = place(&world);
    world
        .send(&[
            world.waybill("T", "b1", ""),
            world.waybill("T", "b2", "").replace(&world.uri("b2"), "https://other.example/c/b2"),
        ])
        .await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let receiving = Running::receive(&subscriber);
    rows_in(&inbox, State::Saved, 2).await;
    receiving.stop().await;
    let worker = WorkerId("w".to_owned());
    for file in inbox.lease(&worker, 10, &Wanted::default()).await.unwrap() {
        let after = Duration::from_secs(3600);
        inbox.finish(&file.lease, End::Later { after, problem: "elsewhere".to_owned(), counts: true }).await.unwrap();
    }
    let (only_here, both) = (BTreeSet::from([here.clone()]), BTreeSet::from([here, elsewhere.clone()]));
    let none = HostAliases::default();
    // Seen for the first time: nothing can have waited for it with patience.
    opened(&inbox, &none, Some(&only_here), &both).await.unwrap();
    assert_eq!(inbox.pending(&Wanted::default()).await.unwrap().due, 0);
    opened(&inbox, &none, Some(&both), &only_here).await.unwrap();
    assert_eq!(inbox.pending(&Wanted::default()).await.unwrap().due, 0, "a place that goes wakes nobody");
    opened(&inbox, &none, Some(&only_here), &both).await.unwrap();
    let due = inbox.lease(&worker, 10, &Wanted::default()).await.unwrap();
    assert_eq!(
        due.iter().map(|file| file.waybill.metadata.uri.as_str()).collect::<Vec<_>>(),
        ["https://other.example/c/b2"]
    );
    // After a start nobody knows what was named before.
    opened(&inbox, &none, None, &both).await.unwrap();
    assert_eq!(inbox.pending(&Wanted::default()).await.unwrap().due, 1);
}

#[tokio::test]
async fn one_token_that_is_over_hinders_neither_the_other_service_nor_another_place() {
    let (world, other) = (World::new().await, World::new().await);
    let (short, long) = (Duration::from_secs(1), Duration::from_secs(3600));
    grant(&world, [bus(&world).life(long), blob(&world).life(short), blob(&other).life(long)]);
    let grants = world.grants(&world.ready().bearer_token);
    let first = grants.grants(Service::Blob, None).await.unwrap();
    assert_eq!(first.iter().map(place_of).collect::<Vec<_>>(), [place(&world), place(&other)]);
    let ends = grants.ends().unwrap();
    assert_eq!(ends.blob, Some(first[0].expires_at), "the first to die counts");
    assert!(ends.bus.unwrap() > first[0].expires_at + short && first[1].expires_at > first[0].expires_at + short);

    let down = Step::new(When::Grant { tenant: None }, What::throttle(Duration::ZERO)).times(NonZeroU32::MAX);
    world.local.faults().install([down]).unwrap();
    until("its end", || async { OffsetDateTime::now_utc() > first[0].expires_at }).await;
    grants.grant(Service::Bus, None).await.expect("its own token lives");
    let still = grants.grants(Service::Blob, None).await.expect("the other place's token lives");
    assert_eq!(still.len(), 2);
    let refused = grants.grants(Service::Blob, Some(still[0].generation)).await.unwrap_err();
    assert!(matches!(refused, GrantError::Unavailable { .. }), "who was refused is told why: {refused}");
    world.local.faults().clear();
    until("a new one", || async {
        grants
            .grants(Service::Blob, Some(first[0].generation))
            .await
            .is_ok_and(|grants| grants[0].expires_at > first[0].expires_at)
    })
    .await;
}

/// The host of storage, as it stands in addresses.
fn host(world: &World) -> String {
    format!("127.0.0.1:{}", world.local.ports().blob)
}

#[tokio::test]
async fn a_file_under_another_name_of_the_grants_host_is_had_from_that_host_alone() {
    let world = World::new().await;
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let [own, plain, secure] = [host(&world), nobody.local_addr().unwrap().to_string(), "files.example.com".to_owned()];
    let under = |blob: &str, origin: &str| world.waybill("T", blob, "").replace(&format!("http://{own}"), origin);
    for number in 1..=3 {
        world.upload(&format!("b{number}"), rows(number).as_bytes()).await;
    }
    world
        .send(&[
            under("b1", &format!("http://{plain}")),
            under("b2", &format!("https://{secure}")),
            under("b3", "https://files.example.org"),
            under("b3", &format!("https://{secure}")).replace("batchtoprocess", "another").replace("c-b3", "c-b4"),
        ])
        .await;
    let inbox = world.inbox("inbox").await;
    let foreign = async |many| {
        let rows = rows_in(&inbox, State::Quarantined, many).await;
        for row in rows.values() {
            assert_eq!(row.reason, Some(Reason::ForeignUri), "{row:?}");
            assert!(row.problem.as_ref().unwrap().contains("[subscriber.storage.aliases]"), "{row:?}");
        }
        rows
    };
    let sink = MemorySink::default();
    let running = Running::run(&world.subscriber(inbox.clone(), builder()), sink.clone());
    let rows = foreign(4).await;
    running.stop().await;

    // As a person does, once the names are known.
    let aliases = HostAliases::new([(plain, own.clone()), (secure, own)]).unwrap();
    for row in rows.values() {
        inbox.retry(row.id).await.unwrap();
    }
    let running = Running::run(&world.subscriber(inbox.clone(), builder().host_aliases(aliases)), sink.clone());
    let done = rows_in(&inbox, State::Done, 2).await;
    let mut still: Vec<String> = foreign(2).await.into_keys().collect();
    running.stop().await;
    still.sort();
    assert_eq!(still, ["c-b3", "c-b4"], "a host that nobody named, and another container");
    assert!(done.contains_key("c-b1") && done.contains_key("c-b2"));
    assert_eq!(sink.rows().len(), 1 + 2);
    nobody.set_nonblocking(true).unwrap();
    assert_eq!(nobody.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "the alias itself is asked for nothing");
}

#[tokio::test]
async fn a_file_under_another_name_of_an_earlier_places_host_waits_for_that() {
    let world = World::new().await;
    let inbox = world.inbox("inbox").await;
    let (here, earlier) =
        (place(&world), Place { endpoint: "https://old.example".to_owned(), container: "c".to_owned() });
    inbox.remember_place(&earlier).await.unwrap();
    world.send(&[world.waybill("T", "b", "").replace(&world.uri("b"), "https://files.example.com/c/b")]).await;
    let aliases = HostAliases::new([("files.example.com", "old.example")]).unwrap();
    let subscriber = world.subscriber(inbox.clone(), builder().host_aliases(aliases.clone()));
    let receiving = Running::receive(&subscriber);
    rows_in(&inbox, State::Saved, 1).await;
    until("its place", || async { inbox.places().await.unwrap().len() == 2 }).await;
    receiving.stop().await;
    let held = inbox.lease(&WorkerId("w".to_owned()), 1, &Wanted::default()).await.unwrap().remove(0).lease;
    let later = End::Later { after: Duration::from_secs(3600), problem: "elsewhere".to_owned(), counts: true };
    inbox.finish(&held, later).await.unwrap();
    let (before, now) = (BTreeSet::from([here.clone()]), BTreeSet::from([here, earlier]));
    for (aliases, due) in [(&HostAliases::default(), 0), (&aliases, 1)] {
        opened(&inbox, aliases, Some(&before), &now).await.unwrap();
        assert_eq!(
            inbox.pending(&Wanted::default()).await.unwrap().due,
            due,
            "it waited for the place that is named again"
        );
    }
    let running = Running::run(&subscriber, MemorySink::default());
    until("a try", || async { subscriber.work_stats().tries_put_off.load(Ordering::Relaxed) >= 1 }).await;
    running.stop().await;
    let row = rows_in(&inbox, State::Saved, 1).await.remove("c-b").unwrap();
    assert!(row.problem.unwrap().contains("current grant does not open"));
}

#[tokio::test]
async fn a_namespace_that_is_never_heard_of_shows_in_the_last_contact() {
    let (here, there) = (World::new().await, World::new().await);
    grant(&here, [bus(&here), bus(&there), blob(&here)]);
    there.local.stop().await;
    let inbox = here.inbox("inbox").await;
    let subscriber = here.subscriber(inbox.clone(), builder());
    assert_eq!(subscriber.figures().last_contact, None);
    let receiving = Running::receive(&subscriber);
    // The one that answers is heard with each message.
    until("the other one's silence", || async {
        here.send(&[here.waybill("T", "b", "")]).await;
        subscriber.figures().last_contact.is_some_and(|ago| ago > Duration::from_secs(1))
    })
    .await;
    receiving.stop().await;
}
