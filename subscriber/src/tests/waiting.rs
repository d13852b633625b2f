//! P6 where a parent never comes.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use time::OffsetDateTime;
use waybill_contracts::Entities;

use super::world::{Running, World, builder, rows_in, until};
use crate::{
    inbox::State,
    sink::{SqlSink, SqliteSink},
};

#[tokio::test]
async fn a_row_goes_on_without_its_parent_though_no_file_comes() {
    let toml = r#"
        [entity.item]
        types = ["T"]
        key = ["id"]
        references = [{ fields = ["category"], entity = "category", max_wait = "10s", then = "apply" }]
        [entity.category]
        key = ["id"]
    "#;
    let entities = Entities::parse(toml, "entities.toml").unwrap();
    let world = World::new().await;
    let second = Arc::new(AtomicI64::new(0));
    let clock = Arc::clone(&second);
    let now = move || OffsetDateTime::UNIX_EPOCH + time::Duration::seconds(clock.load(Ordering::SeqCst));
    let sink = SqliteSink::open_with(world.folder.path().join("sink"), &entities, now).await.unwrap();
    world.publish("b", "{\"id\":1,\"category\":5}\n", "").await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder().entities(entities));
    let running = Running::run(&subscriber, sink.clone());
    rows_in(&inbox, State::Done, 1).await;
    assert_eq!(sink.missing(None, 10).await.unwrap().len(), 1);

    second.store(10, Ordering::SeqCst);
    until("the row", || async { sink.totals().await.unwrap().tables.contains(&("item".to_owned(), 1)) }).await;
    running.stop().await;
    assert!(sink.missing(None, 10).await.unwrap().is_empty());
    assert_eq!(subscriber.work_stats().released.load(Ordering::SeqCst), 1);
}
