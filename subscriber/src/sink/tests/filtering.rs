//! Rows that a filter does not want. That they are to their table what deletions are, in any order, is `order`'s.

use std::sync::Arc;

use waybill_formats::{RowFilter, filter::FilterColumns};

use super::{
    World,
    world::{in_key_order, json_lines, stats},
};
use crate::{
    FileKey,
    apply::Position,
    sink::{Applied, BadRowsOf, EntityBatch, Sink, SqlSink},
};

const PRODUCT: &str = r#"
    [entity.product]
    key = ["id"]
    version = { field = "v", type = "integer" }
    columns = { id = "integer", price = "decimal" }
    where = 'row.price > 10.0'
"#;

#[tokio::test]
async fn a_row_that_leaves_the_filter_leaves_the_table_and_comes_back_with_a_newer_version() {
    let world = World::new(PRODUCT).await;
    let applied = world.file("product", "{\"id\":1,\"v\":1,\"price\":19.90}\n{\"id\":2,\"v\":1,\"price\":10.0}").await;
    assert_eq!(applied, Applied { inserted: 1, filtered: 1, ..Applied::default() });
    assert_eq!(world.query("SELECT id, price FROM product"), ["1|19.90"]);

    assert_eq!(world.file("product", r#"{"id":1,"v":3,"price":9.99}"#).await.filtered, 1);
    assert!(world.query("SELECT * FROM product").is_empty());
    assert_eq!(world.query("SELECT entity, key FROM _waybill_tombstone ORDER BY key"), ["product|1", "product|2"]);
    assert_eq!(world.file("product", r#"{"id":1,"v":2,"price":50}"#).await.ignored, 1, "an older row stays away");

    assert_eq!(world.file("product", r#"{"id":1,"v":4,"price":10.01}"#).await.inserted, 1);
    assert_eq!(world.query("SELECT v, price FROM product"), ["4|10.01"]);
    assert_eq!(world.query("SELECT key FROM _waybill_tombstone"), ["2"]);
    assert_eq!(world.file("product", r#"{"id":1,"v":3,"price":9.99}"#).await.ignored, 1, "and so does an older exit");
    assert_eq!(world.sink.totals().await.unwrap().applied.filtered, 2);
    assert_eq!(world.query("SELECT sum(filtered) FROM _waybill_progress"), ["2"]);
}

#[tokio::test]
async fn a_deletion_passes_the_filter_with_nothing_but_its_key() {
    let world = World::new(PRODUCT).await;
    world.file("product", r#"{"id":1,"v":1,"price":19.90}"#).await;
    let applied = world.file("product", r#"{"id":1,"v":2,"_deleted":true}"#).await;
    assert_eq!(applied, Applied { deleted: 1, ..Applied::default() });
    assert!(world.query("SELECT * FROM product").is_empty());
}

/// What `where` reads never changes for a key, the configuration says: nothing is looked for and nothing is remembered.
#[tokio::test]
async fn a_row_that_is_dropped_takes_nothing_away_and_leaves_nothing() {
    let mut world = World::new(PRODUCT).await;
    let dropping = format!("{PRODUCT}on_unwanted = \"drop\"");
    let problem = world.refusal(&dropping).await;
    assert!(problem.contains("where` now is `row.price > 10.0; price decimal; others dropped`"), "{problem}");

    world.query("UPDATE _waybill_table SET filter = filter || '; others dropped'");
    world.reopen(Some(&dropping)).await;
    let rows =
        "{\"id\":1,\"v\":1,\"price\":19.90}\n{\"id\":2,\"v\":1,\"price\":9}\n{\"id\":3,\"v\":1}\n{\"v\":1,\"price\":9}";
    let applied = world.file("product", rows).await;
    assert_eq!(applied, Applied { inserted: 1, filtered: 2, bad: 1, ..Applied::default() });
    assert!(world.query("SELECT * FROM _waybill_tombstone").is_empty());
    assert_eq!(world.file("product", r#"{"id":1,"v":2,"price":9}"#).await.filtered, 1);
    assert_eq!(world.query("SELECT id, v FROM product"), ["1|1"], "as if it had not come");
    assert_eq!(world.file("product", r#"{"id":1,"v":3,"_deleted":true}"#).await.deleted, 1);
    assert_eq!(world.query("SELECT key FROM _waybill_tombstone"), ["1"], "a deletion is remembered as ever");
    assert_eq!(world.query("SELECT sum(filtered) FROM _waybill_progress"), ["3"]);
}

#[tokio::test]
async fn what_is_dropped_is_left_out_of_a_sorted_file_and_counted_all_the_same() {
    let world = World::new(&format!("{PRODUCT}on_unwanted = \"drop\"")).await;
    let rows = json_lines(
        "{\"id\":3,\"v\":1,\"price\":11}\n{\"id\":2,\"v\":1,\"price\":1}\nnot a row\n{\"id\":1,\"v\":1,\"price\":12}\n\
         {\"id\":4,\"v\":1,\"price\":2}\n{\"id\":4,\"v\":2,\"_deleted\":true}",
    );
    let whole = world.batch("product", Position::Broker { sequence_number: 1 }, rows);
    let (rows, stretch) = in_key_order(whole.entity.as_ref().unwrap(), whole.rows, 0, 6);
    assert_eq!((rows.iter().map(|batch| batch.rows().count()).sum::<usize>(), stretch.dropped), (3, 2));
    let batch = EntityBatch {
        rows,
        to: 6,
        sorted: Some(stretch),
        end: Some(stats(6)),
        ..world.batch("product", whole.position, vec![])
    };
    let file = FileKey::of_export("x", "1");
    let applied = world.sink.apply(&file, 0, batch).await.unwrap();
    // The deletion finds nothing to delete.
    assert_eq!((applied.inserted, applied.filtered, applied.bad), (2, 2, 1), "{applied:?}");
    assert_eq!(world.query("SELECT id FROM product ORDER BY id"), ["1", "3"]);
    assert_eq!(world.query("SELECT rows, filtered FROM _waybill_progress WHERE done"), ["6|2"]);
}

#[tokio::test]
async fn a_row_of_which_nothing_can_be_said_is_kept_with_the_predicate_and_stops_no_other() {
    let world = World::new(PRODUCT).await;
    world.file("product", r#"{"id":1,"v":1,"price":19.90}"#).await;
    let rows = "{\"id\":1,\"v\":2}\n{\"id\":2,\"v\":1,\"price\":\"free\"}\n{\"id\":3,\"v\":1,\"price\":11}";
    let applied = world.file("product", rows).await;
    assert_eq!(applied, Applied { inserted: 1, bad: 2, ..Applied::default() });
    assert_eq!(world.query("SELECT id, v FROM product ORDER BY id"), ["1|1", "3|1"], "what was there stays");
    let bad = world.sink.bad_rows(&BadRowsOf::default(), 10).await.unwrap();
    let shown: Vec<_> = bad.iter().map(|bad| (bad.row, bad.reason.as_str(), bad.problem.as_str())).collect();
    assert_eq!(
        shown,
        [
            (1, "filter-error", "where row.price > 10.0: `>` cannot compare row.price (null) with 10.0"),
            (2, "filter-error", "where row.price > 10.0: row.price is \"free\", no decimal"),
        ]
    );
    assert_eq!(bad[0].bytes, br#"{"id":1,"v":2}"#);
}

#[tokio::test]
async fn fields_of_rows_that_are_not_wanted_become_no_columns() {
    let world = World::new(PRODUCT).await;
    world
        .file(
            "product",
            "{\"id\":1,\"v\":1,\"price\":1,\"secret\":\"x\"}\n{\"id\":2,\"v\":1,\"price\":11,\"name\":\"y\"}",
        )
        .await;
    assert_eq!(world.query("SELECT field FROM _waybill_column ORDER BY field"), ["name", "price", "v"]);
}

#[tokio::test]
async fn a_row_that_is_not_wanted_waits_for_no_parent_and_ends_the_wait_of_an_older_one() {
    let world = World::new(
        r#"
        [entity.shop]
        key = ["id"]
        [entity.product]
        key = ["id"]
        version = { field = "v", type = "integer" }
        where = 'row.price > 10.0'
        references = [{ fields = ["shop"], entity = "shop" }]
        "#,
    )
    .await;
    assert_eq!(world.file("product", r#"{"id":1,"v":1,"price":11,"shop":7}"#).await.parked, 1);
    assert_eq!(world.file("product", r#"{"id":2,"v":1,"price":9,"shop":7}"#).await.filtered, 1);
    assert_eq!(world.file("product", r#"{"id":1,"v":2,"price":9,"shop":7}"#).await.filtered, 1);
    assert!(world.sink.parked(10).await.unwrap().is_empty());
    assert_eq!(world.file("shop", r#"{"id":7}"#).await.released, 0);
    assert!(world.query("SELECT * FROM product").is_empty());
}

#[tokio::test]
async fn rows_of_no_entity_that_are_not_wanted_are_dropped_and_counted() {
    let world = World::new(PRODUCT).await;
    let filter = RowFilter::compile("row.kind == 'error'", &FilterColumns::default()).unwrap();
    let rows = json_lines(
        "{\"kind\":\"error\",\"n\":1}\n{\"kind\":\"info\",\"n\":2,\"more\":1}\n{\"kind\":5}\n{\"kind\":\"error\",\"n\":3}",
    );
    let position = Position::Broker { sequence_number: 1 };
    let batch = EntityBatch { filter: Some(Arc::new(filter)), ..world.batch("Log", position, rows) };
    let applied = world.sink.apply(&FileKey::of_export("x", "1"), 0, batch).await.unwrap();
    assert_eq!(applied, Applied { inserted: 2, filtered: 1, bad: 1, ..Applied::default() });
    assert_eq!(world.query("SELECT _waybill_row, kind, n FROM \"Log\" ORDER BY 1"), ["1|error|1", "4|error|3"]);
    assert_eq!(world.query("SELECT field FROM _waybill_column WHERE table_name = 'Log' ORDER BY 1"), ["kind", "n"]);
}

#[tokio::test]
async fn a_table_that_another_filter_filled_is_refused_until_somebody_says_that_it_may_stay_so() {
    let mut world = World::new(PRODUCT).await;
    world.file("product", "{\"id\":1,\"v\":1,\"price\":15}\n{\"id\":2,\"v\":1,\"price\":25}").await;
    let dearer = PRODUCT.replace("10.0", "20.0");
    let problem = world.refusal(&dearer).await;
    let (expected, accept) = (
        "entity \"product\": table product was filled with `row.price > 10.0; price decimal` and `where` now is \
         `row.price > 20.0; price decimal`; rows that only one of them wants are in it, or missing, until a newer \
         version of them comes.",
        "UPDATE _waybill_table SET filter = 'row.price > 20.0; price decimal' WHERE entity = 'product'",
    );
    assert!(problem.starts_with(expected) && problem.ends_with(accept), "{problem}");
    let without = PRODUCT.replace("where = 'row.price > 10.0'", "");
    let problem = world.refusal(&without).await;
    assert!(problem.contains("`where` now is no filter") && problem.contains("SET filter = NULL"), "{problem}");
    let as_text = PRODUCT.replace("10.0", "\"10\"").replace("decimal", "text");
    assert!(world.refusal(&as_text).await.contains("now is `row.price > \"10\"; price text`"));

    world.query(accept);
    world.reopen(Some(&dearer)).await;
    assert_eq!(world.file("product", r#"{"id":1,"v":2,"price":15}"#).await.filtered, 1);
    assert_eq!(world.query("SELECT id FROM product"), ["2"]);
}
