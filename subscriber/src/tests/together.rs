//! Several subscribers in one process share nothing.

use std::{collections::BTreeMap, sync::atomic::Ordering};

use url::Url;
use waybill_contracts::Entities;
use waybill_local::Local;
use waybill_store::rusqlite::Connection;

use super::world::{Running, World, bearer, builder, rows, rows_in, until};
use crate::{
    Subscriber,
    inbox::{Inbox as _, SqliteInbox, State},
    sink::SqliteSink,
};

/// A subscriber of this tenant, with an inbox and a sink of its own in the folder of the first world.
async fn follower(home: &World, of: &World, tenant: usize, name: &str) -> (Subscriber<SqliteInbox>, Running) {
    let ready = of.ready();
    let address = Url::parse(&ready.tenant_url).unwrap();
    let credential = bearer(&ready.tenants[tenant].bearer_token);
    let inbox = home.inbox(&format!("{name}-inbox")).await;
    let subscriber = builder().with_tenant(inbox, &address, credential).unwrap();
    let path = home.folder.path().join(format!("{name}.sqlite"));
    let running = Running::run(&subscriber, SqliteSink::open(path, &Entities::default()).await.unwrap());
    (subscriber, running)
}

/// How many rows each file brought to this sink.
fn files(home: &World, name: &str) -> BTreeMap<String, i64> {
    let db = Connection::open(home.folder.path().join(format!("{name}.sqlite"))).unwrap();
    let mut select = db.prepare("SELECT blob, count(*) FROM T GROUP BY blob").unwrap();
    let rows = select.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))).unwrap();
    let files: Result<_, _> = rows.collect();
    files.unwrap()
}

/// Ten files of as many rows each, that say which file they are of.
async fn publish(world: &World, from: &str) {
    for number in 0..10 {
        let blob = format!("{from}{number}");
        world.publish(&blob, &rows(10).replace('}', &format!(",\"blob\":\"{blob}\"}}")), "").await;
    }
}

fn ten(from: &[&str]) -> BTreeMap<String, i64> {
    from.iter().flat_map(|from| (0..10).map(move |number| (format!("{from}{number}"), 10))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_subscriptions_of_a_topic_and_another_namespace_are_followed_by_one_process() {
    let home = World::of(Local::builder().tenants(["acme", "globex"]).start().await.unwrap());
    let away = World::new().await;
    let (acme, acme_runs) = follower(&home, &home, 0, "acme").await;
    let (globex, globex_runs) = follower(&home, &home, 1, "globex").await;
    let (other, other_runs) = follower(&home, &away, 0, "other").await;
    publish(&home, "home").await;
    publish(&away, "away").await;
    for subscriber in [&acme, &globex, &other] {
        rows_in(subscriber.inbox(), State::Done, 10).await;
    }

    // One that stops is no concern of the others.
    acme_runs.stop().await;
    assert!(!acme.receive_stats().is_attached() && globex.receive_stats().is_attached());
    publish(&home, "late").await;
    for (subscriber, many) in [(&globex, 20), (&other, 10)] {
        rows_in(subscriber.inbox(), State::Done, many).await;
    }
    assert_eq!(acme.inbox().counts().await.unwrap().done, 10);
    let done = [&acme, &globex, &other].map(|of| of.work_stats().files_done.load(Ordering::Relaxed));
    assert_eq!(done, [10, 20, 10]);
    for subscriber in [&acme, &globex, &other] {
        assert_eq!(subscriber.grants().unwrap().renewals().values().sum::<u64>(), 1, "a token for each");
    }
    until("every message for the one that goes on is settled", || async {
        let counts = home.local.broker().counts("exports/subscriptions/globex").unwrap();
        counts.active + counts.locked == 0
    })
    .await;
    globex_runs.stop().await;
    other_runs.stop().await;
    assert_eq!(files(&home, "acme"), ten(&["home"]));
    assert_eq!(files(&home, "globex"), ten(&["home", "late"]));
    assert_eq!(files(&home, "other"), ten(&["away"]));
}
