//! Rows that go on without their parent: because a person says so, or because they waited long enough.

use std::{fmt::Write as _, time::Duration};

use super::{World, world::Clock};
use crate::sink::{Applied, BadRowsOf, MissingParent, Released, Sink, SqlSink, WaitsEnded};

const SHOP: &str = r#"
    [entity.category]
    key = ["id"]
    version = { field = "v", type = "integer" }
    columns = { id = "integer" }

    [entity.item]
    key = ["id"]
    version = { field = "v", type = "integer" }
    columns = { id = "integer", category = "integer", maker = "integer" }
    [[entity.item.references]]
    fields = ["category"]
    entity = "category"
    [[entity.item.references]]
    fields = ["maker"]
    entity = "maker"

    [entity.maker]
    key = ["id"]
    version = { field = "v", type = "integer" }
    columns = { id = "integer" }

    [entity.price]
    key = ["item", "from"]
    version = { field = "v", type = "integer" }
    columns = { item = "integer", amount = "decimal" }
    [[entity.price.references]]
    fields = ["item"]
    entity = "item"
"#;

/// The same, where items wait a minute for their category and go on without, and prices wait an hour and are put aside.
fn impatient() -> String {
    let category = "entity = \"category\"";
    let item = "entity = \"item\"";
    SHOP.replace(category, &format!("{category}\n max_wait = \"60s\"\n then = \"apply\""))
        .replace(item, &format!("{item}\n max_wait = \"1h\"\n then = \"quarantine\""))
}

fn parked(world: &World) -> Vec<String> {
    world.query("SELECT entity, key, missing_entity, missing_key FROM _waybill_parked ORDER BY entity, key")
}

fn missing(entity: &str, key: &str, waiting: &str, rows: u64, since: &str) -> MissingParent {
    let text = str::to_owned;
    MissingParent { entity: text(entity), key: text(key), waiting: text(waiting), rows, since: text(since) }
}

/// As each database writes them.
fn at_whole_seconds(mut missing: Vec<MissingParent>) -> Vec<MissingParent> {
    missing.iter_mut().for_each(|parent| parent.since = parent.since.replace(".000000Z", "Z"));
    missing
}

#[tokio::test]
async fn what_is_missing_is_listed_with_who_waits_and_since_when() {
    let clock = Clock::default();
    let world = World::with_clock(SHOP, &clock).await;
    world.file("price", "{\"item\":7,\"from\":\"a\",\"v\":1}\n{\"item\":7,\"from\":\"b\",\"v\":1}").await;
    clock.advance(60);
    world.file("item", "{\"id\":1,\"category\":5,\"v\":1}").await;
    clock.advance(60);
    world.file("price", "{\"item\":7,\"from\":\"c\",\"v\":1}\n{\"item\":1,\"from\":\"c\",\"v\":1}").await;
    let all = [
        missing("item", "7", "price", 3, "2014-05-13T16:53:20Z"),
        missing("category", "5", "item", 1, "2014-05-13T16:54:20Z"),
        missing("item", "1", "price", 1, "2014-05-13T16:55:20Z"),
    ];
    assert_eq!(at_whole_seconds(world.sink.missing(None, 10).await.unwrap()), all);
    assert_eq!(at_whole_seconds(world.sink.missing(None, 2).await.unwrap()), all[..2]);
    assert_eq!(at_whole_seconds(world.sink.missing(Some("item"), 10).await.unwrap()), all[1..2]);
    assert!(world.sink.missing(Some("maker"), 10).await.unwrap().is_empty());
}

#[tokio::test]
async fn released_rows_are_applied_with_all_that_waited_for_them() {
    let world = World::new(SHOP).await;
    world.file("item", "{\"id\":1,\"category\":5,\"v\":1}\n{\"id\":2,\"category\":6,\"v\":1}").await;
    world
        .file("price", "{\"item\":1,\"from\":\"a\",\"amount\":19.90,\"v\":1}\n{\"item\":2,\"from\":\"a\",\"v\":1}")
        .await;
    let released = world.sink.release("category", "5").await.unwrap();
    assert_eq!(released, Released { applied: 2, ..Released::default() });
    assert_eq!(world.sink.totals().await.unwrap().applied.released, 2, "they are in the totals");
    assert_eq!(world.query("SELECT id, category FROM item"), ["1|5"]);
    assert_eq!(world.query("SELECT item, amount FROM price"), ["1|19.90"]);
    assert_eq!(parked(&world), ["item|2|category|6", "price|2,a|item|2"]);
    assert_eq!(
        world.sink.release("category", "5").await.unwrap(),
        Released::default(),
        "nothing waits for it any more"
    );
    // The order to go without was for those that waited then.
    assert_eq!(world.file("item", r#"{"id":3,"category":5,"v":1}"#).await.parked, 1);
    assert_eq!(world.file("category", r#"{"id":5,"v":1}"#).await.released, 1);
}

#[tokio::test]
async fn what_waited_for_a_released_row_goes_without_the_same_parent() {
    let toml = r#"
        [entity.category]
        key = ["id"]
        version = { field = "v", type = "integer" }
        [entity.item]
        key = ["id"]
        version = { field = "v", type = "integer" }
        columns = { category = "text" }
        references = [{ fields = ["category"], entity = "category" }]
        [entity.price]
        key = ["id"]
        version = { field = "v", type = "integer" }
        columns = { category = "text", item = "text" }
        references = [{ fields = ["item"], entity = "item" }, { fields = ["category"], entity = "category" }]
    "#;
    // Prices that came before and after the items that they wait for.
    let world = World::new(toml).await;
    let price = |id: u32| format!("{{\"id\":{id},\"item\":{id},\"category\":\"5\",\"v\":1}}\n");
    world.file("price", &(1..=1_500).map(price).collect::<String>()).await;
    let item = |id: u32| format!("{{\"id\":{id},\"category\":\"5\",\"v\":1}}\n");
    world.file("item", &(1..=3_000).map(item).collect::<String>()).await;
    world.file("price", &(1_501..=3_000).map(price).collect::<String>()).await;
    assert_eq!(parked(&world).len(), 6_000);
    let released = world.sink.release("category", "5").await.unwrap();
    assert_eq!(released, Released { applied: 6_000, ..Released::default() }, "each is looked at once");
    assert!(parked(&world).is_empty());
    assert_eq!(world.query("SELECT count(*) FROM price"), ["3000"]);
}

#[tokio::test]
async fn a_released_row_goes_on_waiting_for_its_other_parent_and_for_that_one_only() {
    let mut world = World::new(SHOP).await;
    world.file("item", r#"{"id":1,"category":5,"maker":9,"v":1}"#).await;
    let released = world.sink.release("category", "5").await.unwrap();
    assert_eq!(released, Released { still_waiting: 1, ..Released::default() });
    assert_eq!(parked(&world), ["item|1|maker|9"]);
    world.reopen(None).await;
    assert_eq!(world.file("maker", r#"{"id":9,"v":1}"#).await.released, 1, "the category is not asked for again");
    assert_eq!(world.query("SELECT id, category, maker FROM item"), ["1|5|9"]);
}

#[tokio::test]
async fn a_newer_row_of_a_key_waits_for_what_an_older_one_was_to_go_without() {
    let world = World::new(SHOP).await;
    world.file("item", r#"{"id":1,"category":5,"maker":9,"v":1}"#).await;
    world.sink.release("category", "5").await.unwrap();
    world.file("item", r#"{"id":1,"category":5,"maker":9,"v":2}"#).await;
    assert_eq!(parked(&world), ["item|1|category|5"]);
    assert_eq!(world.file("maker", r#"{"id":9,"v":1}"#).await.released, 0);
    assert_eq!(world.file("category", r#"{"id":5,"v":1}"#).await.released, 1);
}

#[tokio::test]
async fn a_released_row_that_is_older_by_now_changes_nothing() {
    let world = World::new(SHOP).await;
    world.file("item", r#"{"id":1,"category":5,"v":3}"#).await;
    world.file("item", r#"{"id":1,"v":2}"#).await;
    // As if a newer row had come, by some hand.
    world.query("UPDATE _waybill_parked SET version = substr(version, 1, 1) RETURNING id");
    let released = world.sink.release("category", "5").await.unwrap();
    assert_eq!(released, Released { ignored: 1, ..Released::default() });
    assert_eq!(world.query("SELECT id, v FROM item"), ["1|2"]);
    assert!(parked(&world).is_empty());
}

#[tokio::test]
async fn a_key_with_a_nul_is_released_as_it_is_written_and_as_it_is_listed() {
    let row =
        |id: u32| format!("{{\"id\":{id},\"site\":\"a\",\"changed\":\"2014-05-13T16:53:20Z\",\"p\":\"x\\u0000y\"}}");
    for as_listed in [false, true] {
        let world = World::new(ITEMS_WITH_SITES).await;
        assert_eq!(world.file("item", &format!("{}\n{}", row(1), row(2))).await.parked, 2);
        // PostgreSQL has no such character, and another one in its place.
        let listed = world.sink.missing(None, 10).await.unwrap().remove(0).key;
        let key = if as_listed { listed.as_str() } else { "x\0y" };
        assert_eq!(world.sink.release("parent", "x").await.unwrap(), Released::default(), "a NUL ends no key");
        let released = world.sink.release("parent", key).await.unwrap();
        assert_eq!(released, Released { applied: 2, ..Released::default() }, "{listed:?}");
        assert!(parked(&world).is_empty());
    }
}

#[tokio::test]
async fn only_configured_entities_can_be_released() {
    let world = World::new(SHOP).await;
    let error = world.sink.release("warehouse", "1").await.unwrap_err().to_string();
    assert!(error.contains("\"warehouse\" is not among those"), "{error}");
}

#[tokio::test]
async fn a_row_that_the_database_refuses_when_it_is_released_is_kept_as_bad() {
    let world = World::with_tables(World::ITEM_WITHOUT_13, ITEMS_WITH_SITES).await;
    world.file("item", "{\"id\":1,\"site\":\"a\",\"changed\":\"2014-05-13T16:53:20Z\",\"price\":13,\"p\":1}").await;
    let released = world.sink.release("parent", "1").await.unwrap();
    assert_eq!(released, Released { bad: 1, ..Released::default() });
    assert_eq!(world.query("SELECT reason FROM _waybill_bad_row"), ["refused-by-database"]);
    assert!(parked(&world).is_empty());
}

const ITEMS_WITH_SITES: &str = r#"
    [entity.item]
    key = ["id", "site"]
    version = { field = "changed", type = "timestamp" }
    columns = { id = "integer", site = "text", price = "decimal" }
    references = [{ fields = ["p"], entity = "parent" }]
    [entity.parent]
    key = ["id"]
"#;

#[tokio::test]
async fn a_row_that_waited_long_enough_goes_on_without_its_parent() {
    let clock = Clock::default();
    let world = World::with_clock(&impatient(), &clock).await;
    world.file("item", "{\"id\":1,\"category\":5,\"v\":1}\n{\"id\":2,\"category\":5,\"maker\":9,\"v\":1}").await;
    world.file("price", r#"{"item":1,"from":"a","v":1}"#).await;
    clock.advance(30);
    world.file("item", r#"{"id":3,"category":5,"v":1}"#).await;

    clock.advance(29);
    let again_in = Some(Duration::from_secs(6));
    assert_eq!(world.sink.end_waits().await.unwrap(), WaitsEnded { again_in, ..WaitsEnded::default() });
    clock.advance(1);
    let ended = world.sink.end_waits().await.unwrap();
    assert_eq!(ended, WaitsEnded { applied: 2, bad: 0, again_in });
    assert_eq!(world.sink.totals().await.unwrap().applied.released, 2, "they are in the totals");
    assert_eq!(world.query("SELECT id FROM item"), ["1"]);
    assert_eq!(world.query("SELECT item FROM price"), ["1"], "what waited for it comes with it");
    assert_eq!(parked(&world), ["item|2|maker|9", "item|3|category|5"], "for makers there is no max_wait");
    assert_eq!(world.file("category", r#"{"id":5,"v":1}"#).await.released, 1);
    clock.advance(1_000_000);
    assert_eq!(world.sink.end_waits().await.unwrap().applied, 0);
    assert_eq!(world.file("maker", r#"{"id":9,"v":1}"#).await.released, 1);
}

#[tokio::test]
async fn a_row_that_waited_long_enough_is_kept_aside_where_that_is_wanted() {
    let clock = Clock::default();
    let world = World::with_clock(&impatient(), &clock).await;
    world.file("price", "{\"item\":7,\"from\":\"a\",\"v\":1}\n{\"item\":8,\"from\":\"a\",\"v\":1}").await;
    clock.advance(1_800);
    world.file("price", r#"{"item":8,"from":"a","v":2}"#).await;
    clock.advance(1_800);
    let ended = world.sink.end_waits().await.unwrap();
    assert_eq!((ended.applied, ended.bad), (0, 1));
    assert_eq!(parked(&world), ["price|8,a|item|8"], "a newer row of a key waits from when it came");
    let bad = world.sink.bad_rows(&BadRowsOf::default(), 10).await.unwrap();
    assert_eq!((bad.len(), bad[0].row, bad[0].reason.as_str()), (1, 1, "parent-missing"));
    assert_eq!(bad[0].problem, "waited for item \"7\" for as long as max_wait allows, and it did not come");
    assert!(String::from_utf8_lossy(&bad[0].bytes).contains("\"item\":7"));
    assert_eq!(world.file("item", r#"{"id":7,"v":1}"#).await, Applied { inserted: 1, ..Applied::default() });
}

#[tokio::test]
async fn rows_wait_for_ever_where_nothing_else_is_said() {
    let clock = Clock::default();
    let world = World::with_clock(SHOP, &clock).await;
    world.file("item", r#"{"id":1,"category":5,"v":1}"#).await;
    clock.advance(1_000_000_000);
    assert_eq!(world.sink.end_waits().await.unwrap(), WaitsEnded::default());
    assert_eq!(parked(&world).len(), 1);
}

#[tokio::test]
async fn more_rows_than_one_transaction_takes_end_their_wait_together() {
    let clock = Clock::default();
    let world = World::with_clock(&impatient(), &clock).await;
    let (mut items, mut prices) = (String::new(), String::new());
    for n in 1..=11_000 {
        writeln!(items, "{{\"id\":{n},\"category\":{},\"v\":1}}", n % 7).unwrap();
        writeln!(prices, "{{\"item\":-{n},\"from\":\"a\",\"v\":1}}").unwrap();
    }
    world.file("item", &items).await;
    world.file("price", &prices).await;
    clock.advance(3_600);
    let ended = world.sink.end_waits().await.unwrap();
    assert_eq!((ended.applied, ended.bad), (11_000, 11_000));
    assert!(parked(&world).is_empty());
    assert_eq!(world.query("SELECT count(*) FROM item"), ["11000"]);
    assert_eq!(world.query("SELECT count(*) FROM _waybill_bad_row"), ["11000"]);
}
