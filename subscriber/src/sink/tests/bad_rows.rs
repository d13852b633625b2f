//! Rows that cannot be used are kept, with what, where and why, and stop nothing else.

use super::{
    World,
    world::{PRICED, priced},
};
use crate::{
    FileKey,
    sink::{Applied, BadRowsOf, SqlSink},
};

#[tokio::test]
async fn each_fault_has_its_reason_and_its_place() {
    let world = World::new(PRICED).await;
    let rows = [
        priced("1"),
        "{\"id\":2".to_owned(),
        "{\"site\":\"a\",\"changed\":\"2024-01-01T00:00:00Z\"}".to_owned(),
        priced("null"),
        priced("\"x\""),
        priced("92233720368547758070"),
        "{\"id\":3,\"site\":\"a\",\"changed\":\"yesterday\"}".to_owned(),
        "{\"id\":4,\"site\":\"a\"}".to_owned(),
        priced("5").replace('}', ",\"_deleted\":\"perhaps\"}"),
        priced("6"),
    ];
    let applied = world.file("item", &rows.join("\n")).await;
    assert_eq!(applied, Applied { inserted: 2, bad: 8, ..Applied::default() });
    assert_eq!(world.query("SELECT id FROM item ORDER BY id"), ["1", "6"]);
    let bad = world.sink.bad_rows(&BadRowsOf::file(&FileKey::of_export("shop", "1")), 100).await.unwrap();
    let seen: Vec<_> = bad.iter().map(|bad| (bad.row, bad.reason.as_str())).collect();
    assert_eq!(
        seen,
        [
            (2, "malformed-row"),
            (3, "missing-key"),
            (4, "missing-key"),
            (5, "bad-key"),
            (6, "bad-key"),
            (7, "bad-version"),
            (8, "bad-version"),
            (9, "malformed-row"),
        ]
    );
    for bad in &bad {
        let at = usize::try_from(bad.row).unwrap() - 1;
        assert_eq!(bad.bytes, rows[at].as_bytes());
        let offset: usize = rows[..at].iter().map(|row| row.len() + 1).sum();
        assert_eq!(bad.offset, Some(offset as u64));
    }
    assert_eq!(bad[1].problem, "key field \"id\" is missing or null");
    assert!(bad[3].problem.starts_with("key field \"id\" is \"x\", not an integer of 64 bits"), "{}", bad[3].problem);
    assert!(
        bad[5].problem.starts_with("version field \"changed\" is \"yesterday\", no timestamp"),
        "{}",
        bad[5].problem
    );
    assert_eq!(bad[7].problem, "field \"_deleted\" is \"perhaps\", neither true nor false");
    let keys: Vec<_> = bad.iter().map(|bad| bad.key.as_deref()).collect();
    assert_eq!(keys, [None, None, None, None, None, Some("3,a"), Some("4,a"), Some("5,a")], "where it can be read");
    assert!(bad.iter().all(|bad| bad.blob_type.as_deref() == Some("item")));
    assert_eq!(world.sink.bad_rows(&BadRowsOf::default(), 3).await.unwrap().len(), 3);
    let of = |types: &[&str], after| BadRowsOf {
        types: Some(types.iter().map(|name| (*name).to_owned()).collect()),
        after,
        ..BadRowsOf::default()
    };
    for (of, wanted) in [(of(&["item"], 0), 8), (of(&["x", "item"], 7), 2), (of(&["x"], 0), 0), (of(&[], 0), 0)] {
        assert_eq!(world.sink.bad_rows(&of, 100).await.unwrap().len(), wanted, "{of:?}");
        assert_eq!(world.sink.count_bad_rows(&of).await.unwrap(), wanted as u64, "{of:?}");
    }
    assert!(world.sink.bad_rows(&BadRowsOf::file(&FileKey::of_export("shop", "2")), 3).await.unwrap().is_empty());
    assert_eq!(world.sink.totals().await.unwrap().bad_now, 8);
}

#[tokio::test]
async fn a_row_refused_when_it_is_released_is_kept_as_bad() {
    let toml = format!(
        "{PRICED}\n[[entity.item.references]]\nfields = [\"site\"]\nentity = \"site\"\n[entity.site]\nkey = [\"id\"]"
    );
    let world = World::with_tables(World::ITEM_WITHOUT_13, &toml).await;
    let rows = [priced("1"), priced("2").replace('}', ",\"price\":13}"), priced("3")].join("\n");
    assert_eq!(world.file("item", &rows).await.parked, 3);
    let applied = world.file("site", r#"{"id":"a"}"#).await;
    assert_eq!(applied, Applied { inserted: 1, released: 2, ..Applied::default() });
    assert_eq!(world.query("SELECT id FROM item ORDER BY id"), ["1", "3"]);
    assert!(world.query("SELECT * FROM _waybill_parked").is_empty());
    let bad = world.sink.bad_rows(&BadRowsOf::default(), 10).await.unwrap();
    assert_eq!((bad[0].row, bad[0].offset, bad[0].reason.as_str()), (2, None, "refused-by-database"));
    assert_eq!(bad[0].key.as_deref(), Some("2,a"));
    assert_eq!(bad[0].file, FileKey::of_export("shop", "1"), "its own file, not the one that released it");
}

#[tokio::test]
async fn when_the_newest_row_is_refused_the_one_before_it_counts() {
    let toml = format!(
        "{PRICED}\n[[entity.item.references]]\nfields = [\"site\"]\nentity = \"site\"\n[entity.site]\nkey = [\"id\"]"
    );
    let world = World::with_tables(World::ITEM_WITHOUT_13, &toml).await;
    world.file("site", r#"{"id":"a"}"#).await;
    let priced =
        |year: &str, price: u8| priced("1").replace("2024", year).replace('}', &format!(",\"price\":{price}}}"));
    let rows = [priced("2021", 11), priced("2022", 12), priced("2023", 13)].join("\n");
    let applied = world.file("item", &rows).await;
    assert_eq!(applied, Applied { inserted: 1, superseded: 1, bad: 1, ..Applied::default() });
    assert_eq!(world.query("SELECT price FROM item"), ["12"]);
}

#[tokio::test]
async fn long_bad_rows_are_cut() {
    let world = World::new(PRICED).await;
    let long = format!("{{\"id\":\"{}\",\"site\":\"a\"}}", "x".repeat(100_000));
    world.file("item", &long).await;
    let bad = world.sink.bad_rows(&BadRowsOf::default(), 10).await.unwrap();
    assert_eq!(bad[0].bytes.len(), 64 << 10);
    assert!(bad[0].problem.len() < 300, "{}", bad[0].problem);
}

#[tokio::test]
async fn a_row_that_a_trigger_leaves_out_did_not_take_effect() {
    let item = super::world::ITEM;
    let toml = format!(
        "{item}    references = [{{ fields = [\"p\"], entity = \"parent\" }}]\n[entity.parent]\nkey = [\"id\"]"
    );
    let world = World::new(&toml).await;
    for sql in World::SKIPPING {
        world.query(sql);
    }
    let rows = "{\"id\":4,\"v\":1}\n{\"id\":5,\"v\":1}\n{\"id\":6,\"v\":1}";
    assert_eq!(world.file("item", rows).await, Applied { inserted: 2, ignored: 1, ..Applied::default() });
    assert_eq!(world.query("SELECT id FROM item ORDER BY id"), ["4", "6"]);
    // Neither is it one that was released.
    let waits = "{\"id\":5,\"v\":2,\"p\":1}\n{\"id\":7,\"v\":2,\"p\":1}";
    assert_eq!(world.file("item", waits).await.parked, 2);
    assert_eq!(world.file("parent", "{\"id\":1}").await, Applied { inserted: 1, released: 1, ..Applied::default() });
    assert_eq!(world.query("SELECT id FROM item ORDER BY id"), ["4", "6", "7"]);
}
