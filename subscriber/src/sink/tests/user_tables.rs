//! Tables that are there before the sink, and what becomes of them.

use super::{World, world::ITEM};
use crate::sink::Applied;

#[tokio::test]
async fn a_table_of_the_user_takes_rows_and_keeps_what_is_the_users() {
    let table = format!(
        "CREATE TABLE item (
             id INTEGER PRIMARY KEY, price {}, v INTEGER, note TEXT DEFAULT 'mine', size INTEGER,
             doubled INTEGER GENERATED ALWAYS AS (id * 2) STORED, {});
         INSERT INTO item (id, price, note) VALUES (1, '0', 'keep me');",
        World::DECIMAL,
        World::OWN_COLUMNS
    );
    let world = World::with_tables(&table, ITEM).await;
    world.file("item", "{\"id\":1,\"price\":19.90,\"v\":1}\n{\"id\":2,\"price\":5,\"v\":1}").await;
    assert_eq!(
        world.query("SELECT id, price, note, doubled FROM item ORDER BY id"),
        ["1|19.90|keep me|2", "2|5|mine|4"]
    );
    // A field of that name makes the column ours; a generated one stays theirs.
    world.file("item", r#"{"id":2,"price":5,"v":2,"note":"new","size":3,"doubled":9}"#).await;
    assert_eq!(world.query("SELECT note, size, doubled, _rescued FROM item WHERE id = 2"), ["new|3|4|{\"doubled\":9}"]);
    assert_eq!(world.query("SELECT note FROM item WHERE id = 1"), ["keep me"]);
}

#[tokio::test]
async fn a_unique_index_does_for_a_key() {
    let table = format!(
        "CREATE TABLE item (nr {}, id INTEGER, price {}, v INTEGER, {});
         CREATE UNIQUE INDEX by_id ON item (id);",
        World::NUMBERED,
        World::DECIMAL,
        World::OWN_COLUMNS
    );
    let world = World::with_tables(&table, ITEM).await;
    world.file("item", r#"{"id":1,"price":19.90,"v":1}"#).await;
    world.file("item", r#"{"id":1,"price":20,"v":2}"#).await;
    assert_eq!(world.query("SELECT nr, id, price FROM item"), ["1|1|20"]);
}

#[tokio::test]
async fn another_rule_for_keys_or_versions_is_refused() {
    let mut world = World::new(ITEM).await;
    world.file("item", r#"{"id":1,"v":1}"#).await;
    for (toml, expected) in [
        (
            ITEM.replace("\"integer\" }\n    columns", "\"text\" }\n    columns"),
            "was filled by key (id integer), version (v number)",
        ),
        (ITEM.replace("id = \"integer\"", "id = \"text\""), "is now configured as key (id text), version (v number)"),
        (ITEM.replace("[\"id\"]", "[\"id\", \"v\"]"), "under which its rows cannot be compared"),
        (ITEM.replace("key =", "table = \"items\"\nkey ="), "RENAME TO \"items\""),
        (
            ITEM.replace("entity.item", "entity.article").replace("key =", "table = \"item\"\nkey ="),
            "holds the rows of entity \"item\"",
        ),
    ] {
        let problem = world.refusal(&toml).await;
        assert!(problem.contains(expected), "{problem}");
    }
    // Integers and decimals sort alike.
    let alike = ITEM.replace("\"integer\" }\n    columns = {", "\"decimal\" }\n    columns = { v = \"integer\",");
    world.reopen(Some(&alike)).await;
}

#[tokio::test]
async fn the_statement_that_a_refusal_names_for_a_renamed_table_works() {
    let mut world = World::new(ITEM).await;
    world.file("item", r#"{"id":1,"v":1,"more":5}"#).await;
    let renamed = ITEM.replace("key =", "table = \"o'items\"\nkey =");
    let problem = world.refusal(&renamed).await;
    let statements = problem.split_once("as well (").unwrap().1.split_once("), or use").unwrap().0;
    for statement in statements.split("; ") {
        world.query(statement);
    }
    world.reopen(Some(&renamed)).await;
    world.file("item", r#"{"id":2,"v":1,"more":6}"#).await;
    assert_eq!(world.query("SELECT id, more FROM \"o'items\" ORDER BY id"), ["1|5", "2|6"]);
}

#[tokio::test]
async fn rows_of_a_few_fields_go_into_a_table_of_many_columns_whether_they_are_read_before_or_not() {
    let world = World::new(ITEM).await;
    let wide: String = (0..300).map(|nth| format!(",\"c{nth}\":\"x\"")).collect();
    world.file("item", &format!("{{\"id\":0,\"v\":1{wide}}}")).await;
    let rows: String = (1..=2_000).map(|id| format!("{{\"id\":{id},\"v\":1,\"c7\":\"of {id}\"}}\n")).collect();
    assert_eq!(world.file("item", &rows).await, Applied { inserted: 2_000, ..Applied::default() });
    assert_eq!(
        world.query("SELECT count(*), count(*) FILTER (WHERE c7 = 'of ' || id), count(c8) FROM item WHERE id > 0"),
        ["2000|2000|0"]
    );
}

#[tokio::test]
async fn a_version_whose_column_somebody_dropped_is_rescued() {
    let world = World::new(ITEM).await;
    world.file("item", r#"{"id":1,"v":1,"price":1}"#).await;
    world.query("ALTER TABLE item DROP COLUMN v");
    for id in [2, 3] {
        world.file("item", &format!("{{\"id\":{id},\"v\":1,\"price\":1}}")).await;
    }
    assert_eq!(world.query("SELECT id, _rescued FROM item WHERE id > 1"), ["2|{\"v\":1}", "3|{\"v\":1}"]);
}
