//! Files that are one transaction.

use tokio::sync::mpsc;
use waybill_formats::Source;

use super::{World, world::decode};
use crate::{
    FileKey,
    apply::Position,
    sink::{Applied, BadRowsOf, EntityBatch, Progress, Sink, SqlSink},
};

const ITEMS_WITH_PARENTS: &str = r#"
    [entity.item]
    key = ["id", "site"]
    version = { field = "changed", type = "timestamp" }
    columns = { id = "integer", site = "text", price = "decimal" }
    references = [{ fields = ["p"], entity = "parent" }]
    [entity.parent]
    key = ["id"]
"#;

/// Items of these numbers and prices, each with what else is in it.
fn items(ids: std::ops::RangeInclusive<u32>, more: &str) -> String {
    ids.map(|id| format!("{{\"id\":{id},\"site\":\"a\",\"changed\":\"2024-01-01T00:00:00Z\",\"price\":{id}{more}}}\n"))
        .collect()
}

fn key(name: &str) -> FileKey {
    FileKey::of_export("whole", name)
}

/// Applies a file as one, two rows at a time, or gives it up before its end.
async fn whole(world: &World, name: &str, (blob_type, rows): (&str, &str), is_complete: bool) -> Option<Applied> {
    let parts = decode(Source::JsonLines, rows, 2);
    let last = parts.last().unwrap().last_row();
    let (to, batches) = mpsc::channel(1);
    let giving = async move {
        for part in parts {
            let batch = world.batch(blob_type, Position::Broker { sequence_number: 1 }, vec![part]);
            let end = batch.end.clone().filter(|_| is_complete && batch.to == last);
            to.send(EntityBatch { end, ..batch }).await.unwrap();
        }
    };
    let file = key(name);
    tokio::join!(world.sink.apply_whole(&file, batches), giving).0.unwrap()
}

#[tokio::test]
async fn rows_of_a_file_that_is_one_transaction_are_refused_parked_and_released_as_elsewhere() {
    let world = World::with_tables(World::ITEM_WITHOUT_13, ITEMS_WITH_PARENTS).await;
    let applied = whole(&world, "refused", ("item", &items(10..=16, "")), true).await;
    assert_eq!(applied, Some(Applied { inserted: 6, bad: 1, ..Applied::default() }));
    let bad = world.sink.bad_rows(&BadRowsOf::default(), 10).await.unwrap();
    assert_eq!((bad.len(), bad[0].row, bad[0].reason.as_str()), (1, 4, "refused-by-database"));

    let applied = whole(&world, "parked", ("item", &items(20..=26, ",\"p\":\"1\"")), true).await;
    assert_eq!(applied, Some(Applied { parked: 7, ..Applied::default() }));
    let applied = whole(&world, "parents", ("parent", "{\"id\":\"0\"}\n{\"id\":\"1\"}\n{\"id\":\"2\"}\n"), true).await;
    assert_eq!(applied, Some(Applied { inserted: 3, released: 7, ..Applied::default() }));
    assert_eq!(world.query("SELECT count(*) FROM item"), ["13"]);
    // What came in an earlier batch is there for a later one.
    let twice = items(30..=33, "") + &items(32..=33, "");
    let applied = whole(&world, "twice", ("item", &twice.replace("T00", "T01")), true).await.unwrap();
    assert_eq!((applied.rows(), applied.inserted), (6, 4), "{applied:?}");
    assert_eq!(world.sink.totals().await.unwrap().files, 4);
}

/// What a world holds, as far as a file may change it.
fn held(world: &World) -> Vec<String> {
    let tables = ["item", "parent", "_waybill_bad_row", "_waybill_progress", "_waybill_column", "_waybill_table"];
    let counts = tables.iter().flat_map(|name| world.query(&format!("SELECT count(*) FROM {name}")));
    let parked = world.query("SELECT entity, key, missing_entity, missing_key FROM _waybill_parked ORDER BY key");
    counts.chain(parked).collect()
}

#[tokio::test]
async fn of_a_file_that_is_given_up_no_row_no_column_no_table_and_no_wait_is_left() {
    let parked = Applied { parked: 7, ..Applied::default() };
    let released = Applied { inserted: 3, released: 3, ..Applied::default() };
    let added = Applied { inserted: 3, ..Applied::default() };
    for (blob_type, rows, expected) in [
        ("item", items(10..=16, ",\"p\":\"2\",\"new\":1"), parked),
        ("parent", "{\"id\":\"0\",\"new\":1}\n{\"id\":\"1\"}\n{\"id\":\"2\",\"new\":0.5}\n".to_owned(), released),
        ("Log", "{\"id\":1}\n{\"id\":2}\n{\"id\":0.5}\n".to_owned(), added),
    ] {
        let world = World::with_tables(World::ITEM_WITHOUT_13, ITEMS_WITH_PARENTS).await;
        whole(&world, "children", ("item", &items(1..=3, ",\"p\":\"1\"")), true).await;
        let before = held(&world);
        assert_eq!(whole(&world, "given up", (blob_type, &rows), false).await, None);
        assert_eq!(held(&world), before, "{blob_type}");
        assert_eq!(world.sink.progress(&key("given up")).await.unwrap(), Progress::default());
        assert_eq!(whole(&world, "given up", (blob_type, &rows), true).await, Some(expected), "{blob_type}");
    }
}
