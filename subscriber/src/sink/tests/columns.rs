//! What fields become.

use super::{
    World,
    world::{TYPES, csv, json_lines},
};
use crate::{
    FileKey,
    apply::Position,
    sink::{self, Applied, Sink},
};

const EVOLVE: &str = "[entity.thing]\nkey = [\"id\"]";
const FREEZE: &str = "[entity.thing]\nkey = [\"id\"]\nschema = \"freeze\"\ncolumns = { name = \"text\" }";

#[tokio::test]
async fn what_does_not_fit_its_column_is_rescued() {
    let world = World::new(TYPES).await;
    let row = r#"{"id":"694215b7-08f7-4c0d-acb1-d734ba44c0c8","i":92233720368547758070,"d":"a lot","f":1e999,"b":"maybe","ts":"now","day":5,"u":null,"j":1}"#;
    assert_eq!(world.file("thing", row).await, Applied { inserted: 1, rescued: 1, ..Applied::default() });
    assert_eq!(
        world.query("SELECT i, d, f, b, ts, day, u, j, _rescued FROM thing"),
        [r#"-|-|-|-|-|-|-|1|{"i":92233720368547758070,"d":"a lot","f":1e999,"b":"maybe","ts":"now","day":5}"#]
    );
    // The next version fits, and clears what was rescued.
    let fits = r#"{"id":"694215b7-08f7-4c0d-acb1-d734ba44c0c8","i":5}"#;
    assert_eq!(world.file("thing", fits).await, Applied { updated: 1, ..Applied::default() });
    assert_eq!(world.query("SELECT i, j, _rescued FROM thing"), ["5|-|-"]);
}

#[tokio::test]
async fn new_fields_become_columns_of_the_type_that_they_have() {
    let world = World::new(EVOLVE).await;
    world.file("thing", "{\"id\":1,\"n\":1}\n{\"id\":2,\"n\":2.50,\"yes\":true,\"later\":null,\"list\":[1, 2]}").await;
    world.file("thing", r#"{"id":3,"n":7,"later":"x","Name":"a","NAME":"b","_Rescued":1,"_waybill_x":2,"":3}"#).await;
    assert_eq!(
        world.query("SELECT id, n, CASE WHEN yes THEN 1 END, list, later, \"Name\", _rescued FROM thing ORDER BY id"),
        [
            "1|1|-|-|-|-|-".to_owned(),
            "2|2.50|1|[1, 2]|-|-|-".to_owned(),
            "3|7|-|-|x|a|{\"NAME\":\"b\",\"_Rescued\":1,\"_waybill_x\":2,\"\":3}".to_owned(),
        ]
    );
    let mut columns = world.query("SELECT field, type FROM _waybill_column");
    columns.sort();
    assert_eq!(columns, ["Name|text", "later|text", "list|json", "n|decimal", "yes|boolean"]);
    // A type is inferred once.
    assert_eq!(world.file("thing", r#"{"id":4,"n":"many"}"#).await.rescued, 1, "and it is told");
    assert_eq!(world.query("SELECT n, _rescued FROM thing WHERE id = '4'"), ["-|{\"n\":\"many\"}"]);
}

#[tokio::test]
async fn frozen_tables_rescue_new_fields() {
    let world = World::new(FREEZE).await;
    world.file("thing", r#"{"id":1,"name":"a","size":19.90,"none":null,"deep":{"a":1}}"#).await;
    assert_eq!(world.query("SELECT count(*) FROM _waybill_column"), ["1"]);
    assert_eq!(world.query("SELECT id, name, _rescued FROM thing"), [r#"1|a|{"size":19.90,"deep":{"a":1}}"#]);
}

#[tokio::test]
async fn of_a_repeated_name_the_first_value_counts_everywhere() {
    let world = World::new(FREEZE).await;
    world
        .file("thing", r#"{"id":1,"name":null,"size":1,"id":2,"name":"b","size":2,"_deleted":false,"_deleted":true}"#)
        .await;
    assert_eq!(world.query("SELECT id, name, _rescued FROM thing"), [r#"1|-|{"size":1}"#]);
}

#[tokio::test]
async fn csv_is_text_and_keeps_null_and_empty_apart() {
    let world = World::new(EVOLVE).await;
    let rows = "id,n,empty,none,text\n1,007,\"\",,a\n2,8,x,y,\"b \"\"c\"\"\"\n";
    let batch = world.batch("thing", Position::Broker { sequence_number: 1 }, csv(rows));
    world.sink.apply(&FileKey::of_export("", "1"), 0, batch).await.unwrap();
    assert_eq!(
        world.query("SELECT id, n, empty, none, text FROM thing ORDER BY id"),
        ["1|007||-|a", "2|8|x|y|b \"c\""]
    );
}

#[tokio::test]
async fn any_text_may_name_a_column() {
    let world = World::new(EVOLVE).await;
    let long = "é".repeat(100);
    let row = format!("{{\"id\":1,\"a \\\"b\\\"; DROP TABLE thing\":1,\"select\":2,\"{long}\":3,\"a.b[0]\":4}}");
    assert_eq!(world.file("thing", &row).await, Applied { inserted: 1, ..Applied::default() });
    assert_eq!(world.query("SELECT \"a \"\"b\"\"; DROP TABLE thing\", \"select\", \"a.b[0]\" FROM thing"), ["1|2|4"]);
    assert_eq!(world.query("SELECT count(*) FROM _waybill_column WHERE length(name) <> length(field)"), ["1"]);
    assert_eq!(world.file("thing", &row.replace(":1,\"a ", ":2,\"a ")).await.inserted, 1, "and is found again");
    assert_eq!(world.query("SELECT count(*) FROM thing WHERE _rescued IS NULL"), ["2"]);
}

#[tokio::test]
async fn columns_outlive_a_restart_and_meet_new_declarations() {
    let mut world = World::new(EVOLVE).await;
    world.file("thing", r#"{"id":1,"n":1,"x":"a"}"#).await;
    world
        .reopen(Some("[entity.thing]\nkey = [\"id\"]\ncolumns = { n = \"integer\", y = \"date\", x = \"json\" }"))
        .await;
    world.file("thing", r#"{"id":2,"n":2,"x":"b","y":"2024-01-01"}"#).await;
    assert_eq!(world.query("SELECT id, n, x, y FROM thing ORDER BY id"), ["1|1|a|-", "2|2|\"b\"|2024-01-01"]);
}

#[tokio::test]
async fn a_column_that_somebody_drops_comes_back_with_its_next_value() {
    let world = World::new(EVOLVE).await;
    world.file("thing", r#"{"id":1,"n":1}"#).await;
    world.query("ALTER TABLE thing DROP COLUMN n");
    world.file("thing", r#"{"id":2,"n":2}"#).await;
    assert_eq!(world.query("SELECT id, n FROM thing ORDER BY id"), ["1|-", "2|2"]);
}

#[tokio::test]
async fn two_programs_may_widen_one_table() {
    let world = World::new(EVOLVE).await;
    let folder = tempfile::tempdir().unwrap();
    let other = sink::open(&world.name(), &world.entities, folder.path()).await.unwrap();
    let batch = |rows: &str| world.batch("thing", Position::Broker { sequence_number: 1 }, json_lines(rows));
    other.apply(&FileKey::of_export("o", "1"), 0, batch(r#"{"id":1,"n":1,"a":1}"#)).await.unwrap();
    world.sink.apply(&FileKey::of_export("o", "2"), 0, batch(r#"{"id":2,"n":2,"b":2}"#)).await.unwrap();
    other.apply(&FileKey::of_export("o", "3"), 0, batch(r#"{"id":3,"n":3,"b":3}"#)).await.unwrap();
    assert_eq!(world.query("SELECT id, n, a, b FROM thing ORDER BY id"), ["1|1|1|-", "2|2|-|2", "3|3|-|3"]);
}
