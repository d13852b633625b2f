//! Foreign keys that the user has put on the tables.

use super::World;
use crate::sink::Applied;

/// A table whose rows refer to others of it, which the entity does not say; and it takes no 13.
async fn world() -> World {
    let table = format!(
        "CREATE TABLE item (id varchar PRIMARY KEY, up varchar REFERENCES item (id), v bigint CHECK (v <> 13), {})",
        World::OWN_COLUMNS
    );
    World::with_tables(&table, "[entity.item]\nkey = [\"id\"]").await
}

#[tokio::test]
async fn rows_of_a_batch_come_and_go_in_the_order_that_a_foreign_key_wants() {
    let world = world().await;
    // The children sort before their parents, and one row is refused for good.
    let rows = "{\"id\":1,\"up\":2}\n{\"id\":2,\"up\":3}\n{\"id\":3}\n{\"id\":4,\"v\":13}\n{\"id\":5,\"up\":4}\n{\"id\":6,\"up\":3}";
    assert_eq!(world.file("item", rows).await, Applied { inserted: 4, bad: 2, ..Applied::default() });
    assert_eq!(world.query("SELECT id FROM item ORDER BY id"), ["1", "2", "3", "6"]);
    let why = world.query("SELECT key, problem FROM _waybill_bad_row ORDER BY row");
    assert!(why[0].starts_with("4|") && why[0].to_uppercase().contains("CHECK"), "{why:?}");
    assert!(why[1].starts_with("5|") && why[1].contains("name the parent under `references`"), "{why:?}");

    // The parent sorts before its children, and goes after them.
    let rows = "{\"id\":3,\"_deleted\":true}\n{\"id\":6,\"_deleted\":true}\n{\"id\":2,\"_deleted\":true}\n{\"id\":1,\"_deleted\":true}\n{\"id\":7,\"v\":13}";
    assert_eq!(world.file("item", rows).await, Applied { deleted: 4, bad: 1, ..Applied::default() });
    assert!(world.query("SELECT id FROM item").is_empty());
}

#[tokio::test]
async fn a_parent_that_a_foreign_key_holds_is_kept_aside_with_what_to_do() {
    let world = world().await;
    world.file("item", "{\"id\":1}\n{\"id\":2,\"up\":1}\n{\"id\":3}").await;
    let rows = "{\"id\":1,\"_deleted\":true}\n{\"id\":3,\"_deleted\":true}";
    assert_eq!(world.file("item", rows).await, Applied { deleted: 1, bad: 1, ..Applied::default() });
    assert_eq!(world.query("SELECT id FROM item ORDER BY id"), ["1", "2"]);
    let why = world.query("SELECT key, problem FROM _waybill_bad_row");
    assert!(why[0].starts_with("1|") && why[0].contains("DELETE CASCADE or SET NULL"), "{why:?}");
    assert_eq!(
        world.query("SELECT count(*) FROM _waybill_tombstone"),
        ["1"],
        "no deletion is remembered that had no effect"
    );
}
