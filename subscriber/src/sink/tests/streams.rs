//! Rows of a blobType without an entity.

use super::{
    World,
    world::{csv, refused},
};
use crate::{
    FileKey,
    apply::Position,
    sink::{Applied, Sink},
};

const NONE: &str = "[entity.other]\nkey = [\"id\"]\ntable = \"Taken\"";

#[tokio::test]
async fn rows_are_added_with_where_they_came_from() {
    let world = World::new(NONE).await;
    let applied = world.file("Item.Errors", "{\"id\":1,\"_deleted\":true}\nbroken\n{\"id\":1,\"why\":\"x\"}").await;
    assert_eq!(applied, Applied { inserted: 2, bad: 1, ..Applied::default() });
    let batch = world.batch("Item.Errors", Position::Broker { sequence_number: 9 }, csv("id,n\nx,1\n"));
    world.sink.apply(&FileKey::of_export("b", "9"), 0, batch).await.unwrap();
    let file = |publisher: &str, id: &str| FileKey::of_export(publisher, id).as_str().to_owned();
    assert_eq!(
        world.query("SELECT _waybill_file, _waybill_row, id, why, CAST(_deleted AS integer), n, _rescued FROM \"Item.Errors\" ORDER BY _waybill_file DESC, 2"),
        [
            format!("{}|1|1|-|1|-|-", file("shop", "1")),
            format!("{}|3|1|x|-|-|-", file("shop", "1")),
            format!("{}|1|-|-|-|1|{{\"id\":\"x\"}}", file("b", "9")),
        ]
    );
    let totals = world.sink.totals().await.unwrap();
    assert_eq!(totals.tables, [("Item.Errors".to_owned(), 3), ("Taken".to_owned(), 0)]);
}

#[tokio::test]
async fn no_type_reaches_a_table_of_ours_or_of_an_entity() {
    let world = World::new(NONE).await;
    for name in ["_waybill_progress", "_WAYBILL_x", "sqlite_schema", "pg_class", "a\"b", " "] {
        assert_eq!(world.file(name, r#"{"rows":1,"done":1}"#).await.inserted, 1, "{name}");
    }
    assert_eq!(world.query("SELECT rows FROM \"type _waybill_progress\""), ["1"]);
    assert_eq!(world.query("SELECT rows FROM \"a\"\"b\""), ["1"]);
    for name in World::NAMES_OF_TAKEN {
        let batch = world.batch(name, Position::Broker { sequence_number: 1 }, super::world::json_lines("{\"id\":1}"));
        let key = FileKey::of_export("", name);
        let (_, problem) = refused(world.sink.apply(&key, 0, batch).await);
        assert!(problem.contains("define an entity for the type"), "{problem}");
        assert_eq!(world.sink.progress(&key).await.unwrap().rows, 0);
    }
    assert_eq!(world.query("SELECT count(*) FROM _waybill_progress"), ["6"]);
}

#[tokio::test]
async fn a_table_of_the_user_is_left_alone() {
    let world = World::with_tables("CREATE TABLE \"Events\" (id integer)", NONE).await;
    let batch = world.batch("Events", Position::Broker { sequence_number: 1 }, super::world::json_lines("{\"id\":1}"));
    let (_, problem) = refused(world.sink.apply(&FileKey::of_export("", "1"), 0, batch).await);
    assert!(problem.starts_with("type \"Events\" has no entity"), "{problem}");
    assert!(world.query("SELECT id FROM \"Events\"").is_empty());
}

#[tokio::test]
async fn fields_named_as_what_databases_keep_of_every_row_are_rescued() {
    let world = World::new("[entity.item]\nkey = [\"id\"]\nversion = { field = \"v\", type = \"integer\" }").await;
    let names = ["rowid", "OID", "_rowid_", "tableoid", "xmin", "cmin", "Xmax", "cmax", "ctid"];
    for (number, name) in (1..).zip(names) {
        let row = format!("{{\"id\":{number},\"v\":1,\"{name}\":\"own\",\"other\":1}}");
        assert_eq!(world.file("item", &row).await.inserted, 1, "{name}");
        assert_eq!(world.file("Log", &row).await.inserted, 1, "{name}");
    }
    for table in ["item", "\"Log\""] {
        let kept = world.query(&format!("SELECT _rescued FROM {table} ORDER BY id"));
        let expected: Vec<_> = names.iter().map(|name| format!("{{\"{name}\":\"own\"}}")).collect();
        assert_eq!(kept, expected, "{table}");
    }
}
