//! Tables derived again from the files. That they are the same after any history is `order`'s.

use waybill_contracts::Entities;

use super::{
    World,
    world::{Clock, ITEM, batch, entities, json_lines},
};
use crate::{
    FileKey,
    apply::{EntityPlans, Position},
    sink::{Outgrown, Rebuild, RebuildError, Scope, Sink, SinkError, SqlSink, SwappedTable, WaitsEnded, Way},
};

const PAIR: &str = r#"
    [entity.shop]
    key = ["id"]
    [entity.item]
    key = ["id"]
    version = { field = "v", type = "integer" }
    references = [{ fields = ["shop"], entity = "shop", max_wait = "7d", then = "quarantine" }]
"#;

/// Files of a world, in the order in which it was given them.
type Files<'f> = &'f [(&'f str, &'f str)];

async fn filled(toml: &str, files: Files<'_>) -> World {
    let world = World::new(toml).await;
    fill(&world, files).await;
    world
}

async fn fill(world: &World, files: Files<'_>) {
    for (blob_type, rows) in files {
        world.file(blob_type, rows).await;
    }
}

/// The same files, the last one first.
async fn work(sink: &impl Sink, entities: &Entities, files: Files<'_>) {
    let plans = EntityPlans::compile(entities).unwrap();
    for (number, (blob_type, rows)) in (1_i64..).zip(files).collect::<Vec<_>>().into_iter().rev() {
        let file = FileKey::of_export("shop", &i64::to_string(&number));
        if !sink.progress(&file).await.unwrap().done {
            let position = Position::Broker { sequence_number: number };
            sink.apply(&file, 0, batch(&plans, blob_type, position, json_lines(rows))).await.unwrap();
        }
    }
}

async fn begin(world: &World, toml: &str, wanted: &[&str]) -> Result<(Rebuild, Scope), RebuildError> {
    let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
    let scope = Scope::of(&entities(toml), &wanted);
    Ok((Rebuild::begin(&world.name(), &scope).await?, scope))
}

async fn rebuild(
    world: &World,
    toml: &str,
    wanted: &[&str],
    files: Files<'_>,
) -> Result<Vec<SwappedTable>, RebuildError> {
    let (mut rebuild, scope) = begin(world, toml, wanted).await?;
    work(&rebuild.shadow(), scope.entities(), files).await;
    rebuild.hold().await?;
    assert_eq!(rebuild.behind().await?, [], "all files are there");
    rebuild.swap().await
}

fn compared(table: &str, rows: u64, [inserted, updated, deleted]: [u64; 3]) -> SwappedTable {
    SwappedTable { table: table.to_owned(), way: Way::Compared, rows, inserted, updated, deleted }
}

/// What the sink keeps beside the tables, but for times.
fn kept(world: &World) -> Vec<Vec<String>> {
    [
        "SELECT file, blob_type, rows, done FROM _waybill_progress ORDER BY file",
        "SELECT entity, key, version FROM _waybill_tombstone ORDER BY entity, key",
        "SELECT entity, key, missing_entity, missing_key, version, row FROM _waybill_parked ORDER BY entity, key",
        "SELECT file, row, reason, problem FROM _waybill_bad_row ORDER BY file, row",
        "SELECT name, entity, blob_type, rule, filter FROM _waybill_table ORDER BY name",
        "SELECT table_name, field, name, type FROM _waybill_column ORDER BY table_name, field",
    ]
    .map(|sql| world.query(sql))
    .to_vec()
}

const ITEMS: Files<'static> = &[
    (
        "item",
        "{\"id\":1,\"v\":1,\"price\":19.90,\"name\":\"a\"}\n{\"id\":2,\"v\":1,\"price\":5}\n{\"id\":3,\"v\":1,\"price\":7}",
    ),
    ("item", "{\"id\":3,\"v\":2,\"_deleted\":true}\n{\"v\":1}"),
    ("item", "{\"id\":4,\"v\":2,\"price\":1.00,\"more\":{\"x\":1}}"),
];

#[tokio::test]
async fn a_table_damaged_by_hand_is_right_again_and_only_what_was_wrong_is_written() {
    let world = filled(ITEM, ITEMS).await;
    let (all, before) = ("SELECT id, v, price, name, more FROM item ORDER BY id", kept(&world));
    let rows = world.query(all);
    for damage in [
        "DELETE FROM item WHERE id = 2",
        "UPDATE item SET price = '19.9' WHERE id = 1",
        "INSERT INTO item (id, v, _waybill_version) SELECT 9, 9, _waybill_version FROM item WHERE id = 4",
        "DELETE FROM _waybill_tombstone",
        "DELETE FROM _waybill_bad_row",
        "DELETE FROM _waybill_progress WHERE file LIKE '%2'",
    ] {
        world.query(damage);
    }
    assert_ne!(world.query(all), rows);
    let swapped = rebuild(&world, ITEM, &["item"], ITEMS).await.unwrap();
    assert_eq!(swapped, [compared("item", 3, [1, 1, 1])]);
    assert_eq!((world.query(all), kept(&world)), (rows, before));

    let swapped = rebuild(&world, ITEM, &["item"], ITEMS).await.unwrap();
    assert_eq!(swapped, [compared("item", 3, [0, 0, 0])], "nothing is wrong any more");
}

#[tokio::test]
async fn a_column_that_was_dropped_comes_back_and_what_the_user_put_on_the_table_stays() {
    let world = filled(ITEM, ITEMS).await;
    for sql in [
        "ALTER TABLE item ADD COLUMN note TEXT",
        "UPDATE item SET note = 'mine' WHERE id = 1",
        "CREATE VIEW dear AS SELECT id FROM item WHERE note IS NOT NULL",
        "CREATE INDEX item_by_note ON item (note)",
        "UPDATE item SET price = '3' WHERE id = 1",
        "ALTER TABLE item DROP COLUMN name",
    ] {
        world.query(sql);
    }
    let swapped = rebuild(&world, ITEM, &["item"], ITEMS).await.unwrap();
    assert_eq!(swapped, [compared("item", 3, [0, 1, 0])]);
    assert_eq!(world.query("SELECT id, price, name, note FROM item WHERE id = 1"), ["1|19.90|a|mine"]);
    assert_eq!(world.query("SELECT id FROM dear"), ["1"]);
    world.query("DROP INDEX item_by_note");
}

#[tokio::test]
async fn a_changed_definition_that_a_run_refuses_is_taken_by_a_rebuild() {
    let row = |definition: &str| ITEM.replace("columns", &format!("{definition}\n    columns"));
    let key = ITEM.replace("[\"id\"]", "[\"code\"]").replace("{ id = \"integer\"", "{ code = \"text\"");
    let changes = [
        (row("where = 'row.price > 6.0'"), Way::Compared, "1|19.90"),
        (ITEM.replace("field = \"v\"", "field = \"w\""), Way::Compared, "1|19.90,2|5"),
        (ITEM.replace("decimal", "text"), Way::MadeAnew, "1|19.90,2|5"),
        (ITEM.replace("\"integer\", price", "\"text\", price"), Way::MadeAnew, "1|19.90,2|5"),
        (key, Way::MadeAnew, "1|19.90,2|5"),
    ];
    let files: Files<'_> = &[(
        "item",
        "{\"id\":1,\"code\":\"x\",\"v\":1,\"w\":1,\"price\":19.90}\n{\"id\":2,\"code\":\"y\",\"v\":1,\"w\":1,\"price\":5}",
    )];
    for (toml, way, expected) in changes {
        let mut world = filled(ITEM, files).await;
        if way == Way::MadeAnew {
            world.query("CREATE INDEX item_by_v ON item (v)");
        }
        let is_as_text = toml == ITEM.replace("decimal", "text") && world.name().starts_with("sqlite:");
        if !is_as_text {
            // Text and decimal are the same to SQLite.
            let problem = world.refusal(&toml).await;
            assert!(problem.contains("`waybill-subscriber rebuild --type item`"), "{problem}");
        }
        let swapped = rebuild(&world, &toml, &["item"], files).await.unwrap();
        let way = if is_as_text { Way::Compared } else { way };
        assert_eq!(swapped.iter().map(|table| table.way).collect::<Vec<_>>(), [way], "{toml}");
        world.reopen(Some(&toml)).await;
        assert_eq!(world.query("SELECT id, price FROM item ORDER BY id").join(","), expected, "{toml}");
        if way == Way::MadeAnew {
            world.query("DROP INDEX item_by_v");
        }
        // And it goes on.
        let applied = world.file("item", r#"{"id":7,"code":"z","v":2,"w":2,"price":8}"#).await;
        assert_eq!(applied.inserted, 1, "{toml}");
    }
}

#[tokio::test]
async fn tables_that_are_not_held_are_not_swapped_and_a_hold_that_is_dropped_can_be_tried_again() {
    let world = filled(ITEM, &ITEMS[..1]).await;
    let (rebuild, _) = begin(&world, ITEM, &["item"]).await.unwrap();
    let refused = rebuild.swap().await.unwrap_err().to_string();
    assert!(refused.contains("as they were") && refused.ends_with("hold them first"), "{refused}");

    let (mut rebuild, scope) = begin(&world, ITEM, &["item"]).await.unwrap();
    work(&rebuild.shadow(), scope.entities(), &ITEMS[..1]).await;
    for looks in 0..3 {
        let mut hold = Box::pin(rebuild.hold());
        for _ in 0..looks {
            if futures::poll!(&mut hold).is_ready() {
                break;
            }
        }
    }
    rebuild.hold().await.unwrap();
    rebuild.hold().await.unwrap();
    let late = fill(&world, &ITEMS[2..]);
    let swap = async {
        assert_eq!(rebuild.behind().await.unwrap(), []);
        rebuild.swap().await.unwrap()
    };
    let ((), swapped) = tokio::join!(late, swap);
    assert_eq!(swapped, [compared("item", 3, [0, 0, 0])]);
    assert_eq!(world.query("SELECT id FROM item ORDER BY id"), ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn a_program_that_works_meanwhile_loses_nothing_and_goes_on_afterwards() {
    let world = filled(ITEM, &ITEMS[..1]).await;
    let (mut rebuild, scope) = begin(&world, ITEM, &["item"]).await.unwrap();
    work(&rebuild.shadow(), scope.entities(), &ITEMS[..1]).await;
    // The old tables go on.
    fill(&world, &ITEMS[1..2]).await;
    assert_eq!(rebuild.behind().await.unwrap(), [FileKey::of_export("shop", "2")]);
    rebuild.hold().await.unwrap();
    // Whoever comes now waits until the swap.
    let late = fill(&world, &ITEMS[2..]);
    let swap = async {
        assert_eq!(rebuild.behind().await.unwrap(), [FileKey::of_export("shop", "2")]);
        work(&rebuild.shadow(), scope.entities(), &ITEMS[..2]).await;
        assert_eq!(rebuild.behind().await.unwrap(), []);
        rebuild.swap().await.unwrap()
    };
    let ((), swapped) = tokio::join!(late, swap);
    assert_eq!(swapped, [compared("item", 2, [0, 0, 0])], "the late file is not among them");
    assert_eq!(world.query("SELECT id FROM item ORDER BY id"), ["1", "2", "4"]);
    assert_eq!(world.query("SELECT rows, done FROM _waybill_progress").len(), 3);
    assert_eq!(world.file("item", r#"{"id":1,"v":5,"fresh":1}"#).await.updated, 1);
}

#[tokio::test]
async fn a_file_in_its_middle_begins_again() {
    let world = filled(ITEM, &ITEMS[..1]).await;
    let file = FileKey::of_export("shop", "half");
    let position = || Position::Broker { sequence_number: 9 };
    let mut half = world.batch("item", position(), json_lines("{\"id\":8,\"v\":1}"));
    half.end = None;
    world.sink.apply(&file, 0, half).await.unwrap();
    rebuild(&world, ITEM, &["item"], &ITEMS[..1]).await.unwrap();
    let rest = || world.batch("item", position(), json_lines("{\"id\":8,\"v\":1}\n{\"id\":9,\"v\":1}"));
    let fenced = world.sink.apply(&file, 1, rest()).await;
    assert!(matches!(fenced, Err(SinkError::Fenced { found, .. }) if found.rows == 0), "{fenced:?}");
    assert_eq!(world.sink.apply(&file, 0, rest()).await.unwrap().inserted, 2);
}

#[tokio::test]
async fn a_program_with_the_old_definition_is_told_and_brings_nothing_into_the_new_table() {
    for toml in [
        ITEM.replace("columns", "where = 'row.price > 6.0'\n    columns"),
        ITEM.replace("\"integer\", price", "\"text\", price"),
    ] {
        let world = filled(ITEM, &ITEMS[..1]).await;
        rebuild(&world, &toml, &["item"], &ITEMS[..1]).await.unwrap();
        let batch =
            world.batch("item", Position::Broker { sequence_number: 7 }, json_lines("{\"id\":8,\"v\":1,\"price\":1}"));
        let error = world.sink.apply(&FileKey::of_export("shop", "7"), 0, batch).await.unwrap_err();
        assert!(
            matches!(&error, SinkError::Unavailable { problem, .. } if problem.contains("start it again")),
            "{error}"
        );
        assert!(world.query("SELECT 1 FROM item WHERE v = 1 AND price = '1'").is_empty());
    }
}

#[tokio::test]
async fn a_table_made_anew_under_a_running_program_takes_its_rows() {
    // The same definition: the table was spoilt by hand, so that it has to be made anew.
    let world = filled(ITEM, ITEMS).await;
    let rows = world.query("SELECT id, v, price FROM item ORDER BY id");
    world.query("DROP TABLE item");
    let swapped = rebuild(&world, ITEM, &["item"], ITEMS).await.unwrap();
    assert_eq!((swapped[0].way, swapped[0].rows), (Way::Made, 3));
    assert_eq!(world.query("SELECT id, v, price FROM item ORDER BY id"), rows);
    assert_eq!(world.file("item", r#"{"id":1,"v":5,"price":2,"fresh":1}"#).await.updated, 1);
    assert_eq!(world.query("SELECT price, fresh FROM item WHERE id = 1"), ["2|1"]);
}

#[tokio::test]
async fn rows_that_were_let_go_stay_in_effect_and_others_go_on_waiting_since_they_did() {
    let clock = Clock::default();
    let world = World::with_clock(PAIR, &clock).await;
    let files: Files<'_> =
        &[("item", r#"{"id":1,"v":1,"shop":7}"#), ("item", r#"{"id":2,"v":1,"shop":8}"#), ("shop", r#"{"id":9}"#)];
    fill(&world, files).await;
    assert_eq!(world.sink.release("shop", "7").await.unwrap().applied, 1);
    assert_eq!(world.sink.totals().await.unwrap().applied.released, 1, "it is in the totals");
    let waiting = world.query("SELECT key, missing_key FROM _waybill_parked");
    assert_eq!(waiting, ["2|8"]);
    // Far longer ago than rows may wait, on the clock of the rebuild.
    let swapped = rebuild(&world, PAIR, &["shop"], files).await.unwrap();
    assert_eq!(
        swapped.iter().map(|table| (table.table.as_str(), table.rows)).collect::<Vec<_>>(),
        [("shop", 1), ("item", 1)]
    );
    assert_eq!(world.query("SELECT id FROM item"), ["1"]);
    let bad = world.query("SELECT reason FROM _waybill_bad_row");
    assert_eq!(bad, ["parent-missing"], "its time was over");
}

#[tokio::test]
async fn no_wait_ends_while_the_parent_may_still_come_into_the_shadow() {
    let files: Files<'_> = &[("shop", r#"{"id":7}"#), ("item", r#"{"id":1,"v":1,"shop":7}"#)];
    let world = filled(PAIR, files).await;
    let (mut rebuild, scope) = begin(&world, PAIR, &["item"]).await.unwrap();
    let shadow = rebuild.shadow();
    assert_eq!(shadow.end_waits().await.unwrap(), WaitsEnded::default(), "nor is it looked at again");
    assert!(world.sink.end_waits().await.unwrap().again_in.is_some(), "as it is in the tables in use");
    // The item comes before its shop.
    work(&shadow, scope.entities(), files).await;
    rebuild.hold().await.unwrap();
    assert_eq!(rebuild.swap().await.unwrap().iter().map(|table| table.rows).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(world.query("SELECT id FROM item"), ["1"]);
}

#[tokio::test]
async fn a_refused_swap_changes_nothing_and_the_next_one_throws_the_shadow_away() {
    let world = filled(ITEM, &ITEMS[..1]).await;
    let (held, _) = begin(&world, ITEM, &["item"]).await.unwrap();
    let second = begin(&world, ITEM, &["item"]).await.unwrap_err();
    assert!(matches!(second, RebuildError::UnderWay { .. }), "{second}");
    // Ends without a word, as a program that was killed.
    work(&held.shadow(), &entities(ITEM), &[("item", r#"{"id":77,"v":1}"#)]).await;
    drop(held);
    let files: Files<'_> = &[("item", "{\"id\":1,\"v\":1,\"price\":19.90}\n{\"id\":5,\"v\":1,\"price\":5}")];
    for sql in World::REFUSING {
        world.query(sql);
    }
    let before = (world.query("SELECT id FROM item ORDER BY id"), kept(&world));
    let refused = loop {
        // The lock of the one that ended is free when its connection is closed.
        match rebuild(&world, ITEM, &["item"], files).await {
            Err(RebuildError::UnderWay { .. }) => tokio::task::yield_now().await,
            other => break other.unwrap_err(),
        }
    };
    assert!(matches!(&refused, RebuildError::Swap { problem, .. } if problem.contains("not this one")), "{refused}");
    assert!(refused.to_string().contains("the tables were not swapped, and are as they were"), "{refused}");
    assert_eq!((world.query("SELECT id FROM item ORDER BY id"), kept(&world)), before);
}

#[tokio::test]
async fn a_type_without_an_entity_is_derived_again_and_one_that_gets_an_entity_too() {
    let files: Files<'_> = &[("Log", "{\"n\":1}\n{\"n\":2}"), ("Log", r#"{"n":2,"more":3}"#)];
    let mut world = filled("", files).await;
    let before = (world.query("SELECT * FROM \"Log\" ORDER BY 1, 2"), kept(&world));
    world.query("DELETE FROM \"Log\" WHERE n = 1");
    let swapped = rebuild(&world, "", &["Log"], files).await.unwrap();
    assert_eq!(swapped, [compared("Log", 3, [1, 0, 0])]);
    assert_eq!((world.query("SELECT * FROM \"Log\" ORDER BY 1, 2"), kept(&world)), before);

    let toml = "[entity.Log]\nkey = [\"n\"]";
    assert!(
        world.refusal(toml).await.contains("or let `waybill-subscriber rebuild` make the table anew from all files")
    );
    assert_eq!(rebuild(&world, toml, &["Log"], files).await.unwrap()[0].way, Way::MadeAnew);
    world.reopen(Some(toml)).await;
    assert_eq!(world.query("SELECT n, more FROM \"Log\" ORDER BY n"), ["1|-", "2|3"]);
}

#[tokio::test]
async fn an_entity_with_a_table_of_its_own_gets_the_rows_that_came_before_it() {
    let files: Files<'_> = &[("Log", "{\"n\":1}\n{\"n\":2}"), ("Log", r#"{"n":2,"more":3}"#), ("Log", r#"{"n":5}"#)];
    let mut world = filled("", &files[..2]).await;
    let toml = "[entity.entry]\ntypes = [\"Log\"]\nkey = [\"n\"]";
    assert_eq!(world.sink.outgrown().await.unwrap(), []);
    world.reopen(Some(toml)).await;
    fill(&world, &files[2..]).await;
    assert_eq!(world.query("SELECT n FROM entry"), ["5"], "what came before is elsewhere");
    let of = |name: &str| name.to_owned();
    let outgrown = Outgrown { table: of("Log"), blob_type: of("Log"), entity: of("entry") };
    assert_eq!(world.sink.outgrown().await.unwrap(), [outgrown]);

    // The second time there is nothing to leave.
    let left = SwappedTable { table: of("Log"), way: Way::LeftBehind, rows: 3, inserted: 0, updated: 0, deleted: 0 };
    let swapped = rebuild(&world, toml, &["entry"], files).await.unwrap();
    assert_eq!(swapped, [compared("entry", 3, [2, 0, 0]), left]);
    let rows = "SELECT n, more FROM entry ORDER BY n";
    assert_eq!(world.query(rows), ["1|-", "2|3", "5|-"]);
    assert_eq!(world.sink.outgrown().await.unwrap(), []);
    assert_eq!(world.query("SELECT count(*) FROM \"Log\""), ["3"], "nobody's rows were dropped");
    assert_eq!(world.sink.totals().await.unwrap().tables, [("entry".to_owned(), 3)]);
    world.query("DROP TABLE \"Log\"");
    world.reopen(Some(toml)).await;
    assert_eq!(rebuild(&world, toml, &["Log"], files).await.unwrap(), [compared("entry", 3, [0, 0, 0])]);
    assert_eq!(world.query(rows), ["1|-", "2|3", "5|-"]);
}

#[tokio::test]
async fn a_table_of_a_type_without_an_entity_that_somebody_dropped_hinders_no_rebuild() {
    let files: Files<'_> = &[("Log", "{\"n\":1}\n{\"n\":2}")];
    let world = filled("", files).await;
    world.query("DROP TABLE \"Log\"");
    let toml = "[entity.entry]\ntypes = [\"Log\"]\nkey = [\"n\"]";
    let swapped = rebuild(&world, toml, &["entry"], files).await.unwrap();
    assert_eq!((swapped.len(), swapped[0].way, swapped[0].rows), (1, Way::Made, 2));
    assert_eq!(world.query("SELECT name FROM _waybill_table"), ["entry"]);
}

#[tokio::test]
async fn a_table_of_the_user_or_of_another_entity_is_left_alone() {
    let world = World::with_tables("CREATE TABLE item (id INTEGER PRIMARY KEY, mine TEXT)", "").await;
    let refused = begin(&world, ITEM, &["item"]).await.unwrap_err().to_string();
    assert!(refused.contains("was not made by this sink"), "{refused}");

    let world = filled(ITEM, ITEMS).await;
    let other = format!("{ITEM}\n[entity.other]\nkey = [\"id\"]\ntable = \"item\"")
        .replace("[entity.item]", "[entity.item]\ntable = \"elsewhere\"");
    let refused = begin(&world, &other, &["other"]).await.unwrap_err().to_string();
    assert!(refused.contains("holds the rows of entity \"item\""), "{refused}");
    // A column of the user's own would not outlive a table made anew.
    world.query("ALTER TABLE item ADD COLUMN mine TEXT");
    let refused = begin(&world, &ITEM.replace("\"integer\", price", "\"text\", price"), &["item"]).await.unwrap_err();
    assert!(refused.to_string().contains("column \"mine\" is not from the files and would be lost"), "{refused}");
}

#[tokio::test]
async fn what_the_database_refused_it_refuses_again() {
    let toml = "[entity.item]\nkey = [\"id\", \"site\"]\nversion = { field = \"changed\", type = \"timestamp\" }\n\
                columns = { id = \"integer\", price = \"decimal\" }";
    let world = World::with_tables(World::ITEM_WITHOUT_13, toml).await;
    let rows =
        |price| format!("{{\"id\":{price},\"site\":\"x\",\"changed\":\"2026-01-01T00:00:00Z\",\"price\":{price}}}");
    let (good, bad) = (rows(12), rows(13));
    let files: Files<'_> = &[("item", &good), ("item", &bad)];
    fill(&world, files).await;
    let before = (world.query("SELECT id FROM item"), kept(&world));
    assert_eq!(before.0, ["12"]);
    assert_eq!(rebuild(&world, toml, &["item"], files).await.unwrap(), [compared("item", 1, [0, 0, 0])]);
    assert_eq!((world.query("SELECT id FROM item"), kept(&world)), before);
}
