//! Rows before their parents.

use std::{fmt::Write as _, time::Instant};

use super::{World, world::csv};
use crate::{
    FileKey,
    apply::Position,
    sink::{Applied, Sink, SqlSink},
};

const SHOP: &str = r#"
    [entity.category]
    key = ["id"]
    version = { field = "v", type = "integer" }
    columns = { id = "integer", parent = "integer" }
    [[entity.category.references]]
    fields = ["parent"]
    entity = "category"

    [entity.item]
    key = ["id"]
    version = { field = "v", type = "integer" }
    columns = { id = "integer", category = "integer" }
    [[entity.item.references]]
    fields = ["category"]
    entity = "category"

    [entity.price]
    key = ["item", "from"]
    version = { field = "v", type = "integer" }
    columns = { item = "integer", category = "integer", amount = "decimal" }
    [[entity.price.references]]
    fields = ["item"]
    entity = "item"
    [[entity.price.references]]
    fields = ["category"]
    entity = "category"

    [entity.note]
    key = ["id"]
    version = { field = "v", type = "integer" }
    [[entity.note.references]]
    fields = ["price_item", "price_from"]
    entity = "price"
"#;

fn parked(world: &World) -> Vec<String> {
    world.query("SELECT entity, key, missing_entity, missing_key FROM _waybill_parked ORDER BY entity, key")
}

#[tokio::test]
async fn a_price_before_its_item_waits_and_is_applied_with_it() {
    let world = World::new(SHOP).await;
    let applied = world.file("price", r#"{"item":7,"from":"may","amount":19.90,"v":1}"#).await;
    assert_eq!(applied, Applied { parked: 1, ..Applied::default() });
    assert_eq!(parked(&world), ["price|7,may|item|7"]);
    assert!(world.query("SELECT * FROM price").is_empty());

    let applied = world.file("item", r#"{"id":7,"v":1}"#).await;
    assert_eq!(applied, Applied { inserted: 1, released: 1, ..Applied::default() });
    assert_eq!(world.query("SELECT item, \"from\", amount FROM price"), ["7|may|19.90"]);
    assert!(parked(&world).is_empty());

    let totals = world.sink.totals().await.unwrap();
    assert_eq!((totals.parked_now, totals.applied.parked, totals.applied.released), (0, 1, 1));
}

#[tokio::test]
async fn what_waits_is_listed_with_what_it_waits_for() {
    let world = World::new(SHOP).await;
    world.file("price", "{\"item\":1,\"from\":\"a\",\"v\":1}\n{\"item\":7,\"from\":\"may, \\\"25\\\"\",\"v\":1}").await;
    let listed = world.sink.parked(10).await.unwrap();
    let seen: Vec<_> = listed.iter().map(|row| (row.key.as_str(), row.missing_key.as_str(), row.row)).collect();
    assert_eq!(seen, [("1,a", "1", 1), ("7,may\\, \"25\"", "7", 2)]);
    assert_eq!(listed[0].file, FileKey::of_export("shop", "1"));
    assert_eq!(world.sink.parked(1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_row_waits_for_all_of_its_parents() {
    let world = World::new(SHOP).await;
    world.file("price", r#"{"item":1,"from":"a","category":2,"v":1}"#).await;
    assert_eq!(parked(&world), ["price|1,a|item|1"]);
    assert_eq!(world.file("item", r#"{"id":1,"v":1}"#).await.released, 0);
    assert_eq!(parked(&world), ["price|1,a|category|2"]);
    assert_eq!(world.file("category", r#"{"id":2,"v":1}"#).await.released, 1);
    assert!(parked(&world).is_empty());
}

#[tokio::test]
async fn a_null_in_a_reference_is_no_reference() {
    let world = World::new(SHOP).await;
    let rows = "{\"id\":1,\"price_item\":null,\"price_from\":\"x\",\"v\":1}\n{\"id\":2,\"price_from\":\"x\",\"v\":1}";
    assert_eq!(world.file("note", rows).await.inserted, 2);
}

#[tokio::test]
async fn keys_meet_whatever_their_spelling() {
    let world = World::new(SHOP).await;
    world.file("item", r#"{"id":"0070","v":1}"#).await;
    assert_eq!(world.file("price", r#"{"item":7e1,"from":"a","v":1}"#).await.inserted, 1);
    assert_eq!(world.file("note", r#"{"id":1,"price_item":"70.0","price_from":"a","v":1}"#).await.inserted, 1);
    assert_eq!(world.query("SELECT id FROM item"), ["70"]);
}

#[tokio::test]
async fn a_reference_that_is_no_key_waits_under_what_it_says() {
    let world = World::new(SHOP).await;
    assert_eq!(world.file("item", r#"{"id":1,"category":"x1","v":1}"#).await.parked, 1);
    assert_eq!(parked(&world), ["item|1|category|x1"]);
}

#[tokio::test]
async fn a_chain_of_any_depth_is_released_by_its_first_row() {
    let world = World::new(SHOP).await;
    let depth: i32 = 12_000;
    // The deepest first, and keys that sort against the chain.
    let rows: String = (1..depth).rev().map(|n| format!("{{\"id\":{},\"parent\":{},\"v\":1}}\n", -n, 1 - n)).collect();
    assert_eq!(world.file("category", &rows).await.parked, 11_999);
    world.file("item", "{\"id\":1,\"category\":-11999,\"v\":1}").await;
    world.file("price", "{\"item\":1,\"from\":\"a\",\"v\":1}").await;
    world.file("note", "{\"id\":1,\"price_item\":1,\"price_from\":\"a\",\"v\":1}").await;
    let began = Instant::now();
    let applied = world.file("category", r#"{"id":0,"v":1}"#).await;
    let released = began.elapsed();
    println!("a chain of 12,000: released in {released:?}");
    assert_eq!(applied, Applied { inserted: 1, released: 12_002, ..Applied::default() });
    assert!(parked(&world).is_empty());
    assert_eq!(world.query("SELECT count(*) FROM category"), ["12000"]);
    assert_eq!(world.query("SELECT count(*) FROM note"), ["1"]);
    // Generous, as below; a statement a level takes minutes.
    assert!(released.as_secs() < 30, "{released:?}");
}

#[tokio::test]
async fn a_tree_that_comes_in_one_file_is_not_parked() {
    let world = World::new(SHOP).await;
    let rows: String = (1..=1_000).map(|n| format!("{{\"id\":{n},\"parent\":{},\"v\":1}}\n", n + 1)).collect();
    let applied = world.file("category", &format!("{rows}{{\"id\":1001,\"v\":1}}")).await;
    assert_eq!(applied, Applied { inserted: 1_001, ..Applied::default() }, "children sort before their parents");
}

#[tokio::test]
async fn a_row_of_the_same_batch_may_wait_for_one_that_is_released() {
    let world = World::new(SHOP).await;
    world.file("item", r#"{"id":1,"category":9,"v":1}"#).await;
    world.file("price", r#"{"item":1,"from":"a","v":1}"#).await;
    // 5 waits for 8, which is not in this batch; 9 releases the item, and that the price.
    let applied = world.file("category", "{\"id\":5,\"parent\":8,\"v\":1}\n{\"id\":9,\"v\":1}").await;
    assert_eq!(applied, Applied { inserted: 1, parked: 1, released: 2, ..Applied::default() });
    assert_eq!(world.file("category", r#"{"id":8,"v":1}"#).await.released, 1);
}

#[tokio::test]
async fn a_row_that_refers_to_itself_waits_for_nothing() {
    let world = World::new(SHOP).await;
    assert_eq!(world.file("category", r#"{"id":1,"parent":1,"v":1}"#).await.inserted, 1);
}

#[tokio::test]
async fn rows_that_wait_for_each_other_stay_until_one_comes_without() {
    let world = World::new(SHOP).await;
    let applied = world.file("category", "{\"id\":1,\"parent\":2,\"v\":1}\n{\"id\":2,\"parent\":1,\"v\":1}").await;
    assert_eq!(applied.parked, 2);
    let applied = world.file("category", r#"{"id":2,"parent":null,"v":2}"#).await;
    assert_eq!(applied, Applied { inserted: 1, released: 1, ..Applied::default() });
    assert_eq!(world.query("SELECT id, parent, v FROM category ORDER BY id"), ["1|2|1", "2|-|2"]);
    assert!(parked(&world).is_empty());
}

#[tokio::test]
async fn of_rows_that_wait_only_the_newest_is_kept() {
    let world = World::new(SHOP).await;
    world.file("item", r#"{"id":1,"category":5,"v":2}"#).await;
    assert_eq!(
        world.file("item", r#"{"id":1,"category":6,"v":1}"#).await,
        Applied { ignored: 1, ..Applied::default() }
    );
    assert_eq!(world.file("item", r#"{"id":1,"category":7,"v":3}"#).await.parked, 1);
    assert_eq!(parked(&world), ["item|1|category|7"]);
    assert_eq!(world.file("category", "{\"id\":5,\"v\":1}\n{\"id\":6,\"v\":1}").await.released, 0);
    assert_eq!(world.file("category", r#"{"id":7,"v":1}"#).await.released, 1);
    assert_eq!(world.query("SELECT id, v FROM item"), ["1|3"]);
}

#[tokio::test]
async fn an_update_that_waits_leaves_the_row_as_it_is() {
    let world = World::new(SHOP).await;
    world.file("item", r#"{"id":1,"v":1}"#).await;
    world.file("item", r#"{"id":1,"category":5,"v":3}"#).await;
    assert_eq!(world.query("SELECT id, v FROM item"), ["1|1"]);
    // Older than the one that waits, but newer than what is there.
    assert_eq!(world.file("item", r#"{"id":1,"v":2}"#).await.updated, 1);
    assert_eq!(world.query("SELECT id, v FROM item"), ["1|2"]);
    let applied = world.file("category", r#"{"id":5,"v":1}"#).await;
    assert_eq!(applied, Applied { inserted: 1, released: 1, ..Applied::default() });
    assert_eq!(world.query("SELECT id, category, v FROM item"), ["1|5|3"]);
}

#[tokio::test]
async fn a_newer_row_that_waits_for_nothing_supersedes_one_that_waits() {
    let world = World::new(SHOP).await;
    world.file("item", r#"{"id":1,"category":5,"v":1}"#).await;
    world.file("item", r#"{"id":1,"v":2}"#).await;
    assert!(parked(&world).is_empty());
    assert_eq!(world.file("category", r#"{"id":5,"v":1}"#).await.released, 0);
    assert_eq!(world.query("SELECT id, category, v FROM item"), ["1|-|2"]);
}

#[tokio::test]
async fn a_deletion_removes_older_rows_that_wait_and_no_newer_ones() {
    let world = World::new(SHOP).await;
    world.file("item", "{\"id\":1,\"category\":5,\"v\":1}\n{\"id\":2,\"category\":5,\"v\":3}").await;
    world.file("item", "{\"id\":1,\"v\":2,\"_deleted\":true}\n{\"id\":2,\"v\":2,\"_deleted\":true}").await;
    assert_eq!(parked(&world), ["item|2|category|5"]);
    assert_eq!(world.file("category", r#"{"id":5,"v":1}"#).await.released, 1);
    assert_eq!(world.query("SELECT id, v FROM item"), ["2|3"]);
    assert_eq!(
        world.query("SELECT key FROM _waybill_tombstone"),
        ["1"],
        "the released row is newer than its tombstone"
    );
}

#[tokio::test]
async fn children_of_a_deleted_parent_stay_and_later_ones_wait() {
    let world = World::new(SHOP).await;
    world.file("category", r#"{"id":5,"v":1}"#).await;
    world.file("item", r#"{"id":1,"category":5,"v":1}"#).await;
    world.file("category", r#"{"id":5,"v":2,"_deleted":true}"#).await;
    assert_eq!(world.query("SELECT id FROM item"), ["1"]);
    assert_eq!(world.file("item", r#"{"id":2,"category":5,"v":1}"#).await.parked, 1);
    assert_eq!(world.file("category", r#"{"id":5,"v":3}"#).await.released, 1);
}

#[tokio::test]
async fn a_parent_with_another_key_is_another_parent() {
    let world = World::new(SHOP).await;
    world.file("item", "{\"id\":1,\"v\":1}").await;
    world.file("price", "{\"item\":2,\"from\":\"a\",\"v\":1}").await;
    assert_eq!(world.file("item", r#"{"id":2,"was":1,"v":2}"#).await.released, 1);
    assert_eq!(world.query("SELECT id FROM item ORDER BY id"), ["1", "2"], "a new key is a new row");
}

#[tokio::test]
async fn a_row_that_waited_is_the_row_that_came() {
    let toml = r#"
        [entity.item]
        key = ["id"]
        [entity.text]
        key = ["id"]
        columns = { amount = "decimal", payload = "json", flag = "boolean" }
        [[entity.text.references]]
        fields = ["item"]
        entity = "item"
    "#;
    let world = World::new(toml).await;
    let rows = "id,item,amount,payload,flag,plain,empty,none\n1,9,.50,\"{\"\"a\"\":1.0}\",true,\"a\nb\",\"\",\n";
    let now = world.batch("text", Position::Broker { sequence_number: 1 }, csv(rows));
    let later = world.batch("text", Position::Broker { sequence_number: 1 }, csv(&rows.replace("1,9,", "2,,")));
    world.sink.apply(&FileKey::of_export("", "1"), 0, now).await.unwrap();
    world.sink.apply(&FileKey::of_export("", "2"), 0, later).await.unwrap();
    assert_eq!(world.file("item", r#"{"id":"9"}"#).await.released, 1);
    let columns = "amount, payload, CAST(flag AS integer), plain, empty";
    let released = world.query(&format!("SELECT {columns} FROM text WHERE id = '1'"));
    assert_eq!(released, world.query(&format!("SELECT {columns} FROM text WHERE id = '2'")));
    assert_eq!(released[0].trim_start_matches('0'), ".50|{\"a\":1.0}|1|a\nb|");
}

#[tokio::test]
async fn what_waits_outlives_a_restart() {
    let mut world = World::new(SHOP).await;
    world.file("price", r#"{"item":7,"from":"may","amount":19.90,"v":1}"#).await;
    world.reopen(None).await;
    assert_eq!(world.file("item", r#"{"id":7,"v":1}"#).await.released, 1);
    assert_eq!(world.query("SELECT amount FROM price"), ["19.90"]);
}

#[tokio::test]
async fn a_parked_row_that_a_hand_has_damaged_is_kept_as_bad() {
    let world = World::new(SHOP).await;
    world
        .file(
            "item",
            "{\"id\":1,\"category\":5,\"v\":1}\n{\"id\":2,\"category\":5,\"v\":1}\n{\"id\":3,\"category\":5,\"v\":1}",
        )
        .await;
    world.query("UPDATE _waybill_parked SET row = '{\"id\":' WHERE key = '1' RETURNING id");
    world.query("UPDATE _waybill_parked SET row = '' WHERE key = '2' RETURNING id");
    assert_eq!(world.file("category", r#"{"id":5,"v":1}"#).await.released, 1);
    assert_eq!(world.query("SELECT id FROM item"), ["3"]);
    assert_eq!(world.query("SELECT row, reason FROM _waybill_bad_row"), ["1|malformed-row", "2|malformed-row"]);
    assert!(parked(&world).is_empty());
}

/// More rows on each level than are let go at once.
#[tokio::test]
async fn a_wide_tree_is_released_portion_by_portion_with_and_without_its_root() {
    for has_root in [true, false] {
        let world = World::new(SHOP).await;
        let lines = |row: &dyn Fn(u32) -> String| (1..=12_000).map(|id| row(id) + "\n").collect::<String>();
        let item = lines(&|id| format!("{{\"id\":{id},\"category\":{},\"v\":1}}", if id % 5 == 0 { 2 } else { 1 }));
        let price = lines(&|id| format!("{{\"item\":{id},\"from\":\"a\",\"v\":1}}"));
        let note = lines(&|id| format!("{{\"id\":{id},\"price_item\":{id},\"price_from\":\"a\",\"v\":1}}"));
        for (entity, rows) in [("note", &note), ("item", &item), ("price", &price)] {
            assert_eq!(world.file(entity, rows).await.parked, 12_000);
        }
        let released = if has_root {
            world.file("category", "{\"id\":1,\"v\":1}\n{\"id\":2,\"v\":1}").await.released
        } else {
            world.sink.release("category", "1").await.unwrap().applied
                + world.sink.release("category", "2").await.unwrap().applied
        };
        assert_eq!(released, 36_000, "{has_root}");
        assert!(parked(&world).is_empty());
        for table in ["item", "price", "note"] {
            assert_eq!(world.query(&format!("SELECT count(*) FROM {table}")), ["12000"]);
        }
    }
}

#[tokio::test]
async fn a_hundred_thousand_children_are_released_quickly() {
    let world = World::new(SHOP).await;
    let mut rows = String::new();
    for n in 1..=100_000 {
        writeln!(rows, "{{\"id\":{n},\"category\":1,\"name\":\"item number {n}\",\"price\":19.90,\"v\":1}}").unwrap();
    }
    let began = Instant::now();
    assert_eq!(world.file("item", &rows).await.parked, 100_000);
    let parked = began.elapsed();
    let began = Instant::now();
    assert_eq!(world.file("category", r#"{"id":1,"v":1}"#).await.released, 100_000);
    let released = began.elapsed();
    println!("100,000 children: parked in {parked:?}, released by their parent in {released:?}");
    assert_eq!(world.query("SELECT count(*), sum(id) FROM item"), ["100000|5000050000"]);
    // Generous, for a loaded machine and a build without optimisation; a quadratic release takes minutes.
    assert!(released.as_secs() < 30, "{released:?}");
}

#[tokio::test]
async fn a_hundred_thousand_children_are_released_without_their_parent_quickly() {
    let world = World::new(SHOP).await;
    let mut rows = String::new();
    for n in 1..=100_000 {
        writeln!(rows, "{{\"id\":{n},\"category\":1,\"name\":\"item number {n}\",\"price\":19.90,\"v\":1}}").unwrap();
    }
    assert_eq!(world.file("item", &rows).await.parked, 100_000);
    let began = Instant::now();
    assert_eq!(world.sink.release("category", "1").await.unwrap().applied, 100_000);
    let released = began.elapsed();
    println!("100,000 children: released without their parent in {released:?}");
    assert_eq!(world.query("SELECT count(*), sum(id) FROM item"), ["100000|5000050000"]);
    assert!(parked(&world).is_empty());
    // Generous, as above.
    assert!(released.as_secs() < 30, "{released:?}");
}
