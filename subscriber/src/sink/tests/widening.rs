//! A column whose type came from its first values, and values that it does not hold.

use super::{World, world::entities};
use crate::{
    FileKey,
    apply::Position,
    sink::{self, Applied, Rebuild, Scope, Sink, Way},
};

const THING: &str = "[entity.thing]\nkey = [\"id\"]\nversion = { field = \"v\", type = \"integer\" }";

fn inserted(rows: u64) -> Applied {
    Applied { inserted: rows, ..Applied::default() }
}

fn types(world: &World) -> Vec<String> {
    world.query("SELECT table_name, field, type FROM _waybill_column WHERE field = 'n' ORDER BY 1")
}

#[tokio::test]
async fn a_decimal_widens_a_column_of_integers_and_every_value_is_there() {
    let world = World::new(THING).await;
    assert_eq!(
        world.file("thing", "{\"id\":1,\"v\":1,\"n\":10}\n{\"id\":2,\"v\":1,\"n\":-9223372036854775808}").await,
        inserted(2)
    );
    assert_eq!(types(&world), ["thing|n|integer"]);
    world.query("CREATE INDEX by_n ON thing (n)");
    let more = "{\"id\":3,\"v\":1,\"n\":12.50,\"other\":1}\n{\"id\":4,\"v\":1,\"n\":7}\n{\"id\":1,\"v\":2,\"n\":10}";
    assert_eq!(world.file("thing", more).await, Applied { updated: 1, ..inserted(2) });
    assert_eq!(world.file("thing", "{\"id\":5,\"v\":1,\"n\":9223372036854775808}").await, inserted(1));
    assert_eq!(
        world.query("SELECT id, n, _rescued FROM thing ORDER BY id"),
        ["1|10|-", "2|-9223372036854775808|-", "3|12.50|-", "4|7|-", "5|9223372036854775808|-"]
    );
    assert_eq!(types(&world), ["thing|n|decimal"]);
    assert_eq!(world.query("SELECT id FROM thing WHERE n = '12.50'"), ["3"]);

    // Where rows are only added, too; and a value that is no number at all is rescued as ever.
    assert_eq!(world.file("Log", "{\"id\":1,\"n\":1}").await, inserted(1));
    let mixed = world.file("Log", "{\"id\":2,\"n\":0.10}\n{\"id\":3,\"n\":\"many\"}").await;
    assert_eq!(mixed, Applied { rescued: 1, ..inserted(2) });
    assert_eq!(
        world.query("SELECT id, n, _rescued FROM \"Log\" ORDER BY id"),
        ["1|1|-", "2|0.10|-", "3|-|{\"n\":\"many\"}"]
    );
}

#[tokio::test]
async fn what_was_rescued_before_the_column_was_widened_is_put_there() {
    let world = World::new(THING).await;
    world.file("thing", "{\"id\":1,\"v\":1,\"n\":1,\"m\":1}").await;
    // As a version left it that did not know whose types were inferred.
    world.query("UPDATE _waybill_column SET is_inferred = (1 = 0)");
    let rows = "{\"id\":2,\"v\":1,\"n\":2.50}\n{\"id\":3,\"v\":1,\"n\":3e-1,\"m\":7.10}\n{\"id\":4,\"v\":1,\"n\":\"\\u0000\"}\n{\"id\":5,\"v\":1,\"n\":5.0e0,\"m\":\"x\"}";
    assert_eq!(world.file("thing", rows).await.rescued, 4, "5.0e0 is an integer, and x is none");
    world.query("UPDATE _waybill_column SET is_inferred = (1 = 1) WHERE field = 'n'");
    world.file("thing", "{\"id\":6,\"v\":1,\"n\":0.5}").await;
    let kept = world.query("SELECT id, _rescued FROM thing WHERE _rescued IS NOT NULL ORDER BY id");
    assert_eq!(kept, ["3|{\"m\":7.10}", "4|{\"n\":\"\\u0000\"}", "5|{\"m\":\"x\"}"]);
    let numbers = world.query("SELECT id FROM thing WHERE CAST(n AS numeric) IN (1, 2.5, 0.3, 0.5, 5) ORDER BY id");
    assert_eq!(numbers, ["1", "2", "3", "5", "6"]);
    assert_eq!(world.query("SELECT n FROM thing WHERE id = '2'"), ["2.50"]);
}

/// ADR 63: where numbers, texts and the like are mixed, the first value decides the type. What was declared does not.
#[tokio::test]
async fn a_column_of_no_declared_type_is_of_the_first_kind_that_came_and_a_declared_one_of_its_own() {
    let row = |id: u32, n: &str| format!("{{\"id\":{id},\"v\":1,\"n\":{n}}}");
    let files = [row(1, "5"), row(2, "2.50"), row(3, "\"x\""), row(4, "\"7\"")];
    let declared = format!("{THING}\ncolumns = {{ n = \"text\" }}");
    let orders = [[0, 1, 2, 3], [1, 0, 3, 2], [3, 0, 1, 2], [2, 3, 1, 0], [0, 2, 1, 3], [1, 2, 3, 0]];
    for order in orders {
        for (toml, first_kind) in [(THING, if order[0] < 2 { "decimal" } else { "text" }), (&*declared, "text")] {
            let world = World::new(toml).await;
            let mut rescued = 0;
            for file in order {
                rescued += world.file("thing", &files[file]).await.rescued;
            }
            let rows = world.query("SELECT id, n, _rescued FROM thing ORDER BY id");
            let third = if first_kind == "text" { "3|x|-" } else { "3|-|{\"n\":\"x\"}" };
            assert_eq!(rows, ["1|5|-", "2|2.50|-", third, "4|7|-"], "{order:?}");
            assert_eq!(types(&world), [format!("thing|n|{first_kind}")], "{order:?}");
            assert_eq!(rescued, u64::from(first_kind != "text"), "{order:?}");
        }
    }
    // Within one batch the type is the one that holds all of it.
    let world = World::new(THING).await;
    assert_eq!(world.file("thing", &files.join("\n")).await, inserted(4));
    assert_eq!(types(&world), ["thing|n|text"]);
}

#[tokio::test]
async fn a_declared_type_and_a_frozen_table_stay_as_they_are() {
    for (toml, first) in [
        (format!("{THING}\ncolumns = {{ n = \"integer\" }}"), "{\"id\":1,\"v\":1,\"n\":1}"),
        (format!("{THING}\nschema = \"freeze\"\ncolumns = {{ n = \"integer\" }}"), "{\"id\":1,\"v\":1,\"n\":1}"),
    ] {
        let world = World::new(&toml).await;
        world.file("thing", first).await;
        assert_eq!(world.file("thing", "{\"id\":2,\"v\":1,\"n\":2.5}").await.rescued, 1);
        assert_eq!(world.query("SELECT n, _rescued FROM thing WHERE id = '2'"), ["-|{\"n\":2.5}"]);
        assert_eq!(types(&world), ["thing|n|integer"]);
    }
    let mut world = World::new(THING).await;
    world.file("thing", "{\"id\":1,\"v\":1,\"n\":1}").await;
    world.reopen(Some(&format!("{THING}\nschema = \"freeze\""))).await;
    assert_eq!(world.file("thing", "{\"id\":2,\"v\":1,\"n\":2.5}").await.rescued, 1, "inferred before it froze");
    world.reopen(Some(THING)).await;
    assert_eq!(world.file("thing", "{\"id\":3,\"v\":1,\"n\":3.5}").await.rescued, 0, "and thawed");
    assert_eq!(world.query("SELECT n FROM thing ORDER BY id"), ["1", "2.5", "3.5"]);
}

#[tokio::test]
async fn two_programs_that_widen_one_column_do_it_once() {
    let world = World::new(THING).await;
    let other = sink::open(&world.name(), &world.entities, std::path::Path::new("")).await.unwrap();
    let row = |id: &str, n: &str| {
        let row = format!("{{\"id\":{id},\"v\":1,\"n\":{n}}}");
        let batch = world.batch("thing", Position::Broker { sequence_number: 1 }, super::world::json_lines(&row));
        (FileKey::of_export("", id), batch)
    };
    for (here, there) in [("1", "2"), ("0.5", "1.5")] {
        let (file, batch) = row(&format!("1{}", here.len()), here);
        assert_eq!(world.sink.apply(&file, 0, batch).await.unwrap(), inserted(1));
        let (file, batch) = row(&format!("2{}", there.len()), there);
        assert_eq!(other.apply(&file, 0, batch).await.unwrap(), inserted(1));
    }
    assert_eq!(world.query("SELECT n FROM thing ORDER BY id"), ["1", "0.5", "2", "1.5"]);
}

#[tokio::test]
async fn what_stands_on_a_column_keeps_it_and_a_rebuild_says_so_and_widens_it_afterwards() {
    let mut world = World::new(THING).await;
    let files = [
        "{\"id\":1,\"v\":1,\"n\":1}\n{\"id\":2,\"v\":1,\"n\":2}",
        "{\"id\":2,\"v\":2,\"n\":2.50}\n{\"id\":3,\"v\":1,\"n\":\"0.5\",\"x\":1}",
        "{\"id\":4,\"v\":1,\"n\":4.0001}",
    ];
    world.file("thing", files[0]).await;
    world.query("CREATE VIEW of_things AS SELECT n FROM thing");
    for file in &files[1..] {
        assert!(world.file("thing", file).await.rescued > 0, "the view is not broken");
    }
    assert_eq!(world.query("SELECT count(n) FROM of_things"), ["1"]);

    let all = entities(THING);
    let scope = Scope::of(&all, &["thing".to_owned()]);
    let rebuild = async |world: &World| {
        let mut rebuild = Rebuild::begin(&world.name(), &scope).await.unwrap();
        for (number, rows) in (1..).zip(files) {
            let batch =
                world.batch("thing", Position::Broker { sequence_number: number }, super::world::json_lines(rows));
            rebuild.shadow().apply(&FileKey::of_export("shop", &number.to_string()), 0, batch).await.unwrap();
        }
        rebuild.hold().await.unwrap();
        rebuild.swap().await
    };
    let problem = rebuild(&world).await.unwrap_err().to_string();
    assert!(problem.contains("column \"n\" of table \"thing\" must become one of decimals"), "{problem}");
    assert!(problem.contains("of_things"), "{problem}");
    assert_eq!(world.query("SELECT count(n), count(_rescued) FROM thing"), ["1|3"], "nothing was changed");

    world.query("DROP VIEW of_things");
    let swapped = rebuild(&world).await.unwrap();
    assert_eq!((swapped[0].way, swapped[0].rows), (Way::Compared, 4));
    let expected = ["1|1|-", "2|2.50|-", "3|0.5|-", "4|4.0001|-"];
    assert_eq!(world.query("SELECT id, n, _rescued FROM thing ORDER BY id"), expected);
    assert_eq!(types(&world), ["thing|n|decimal"]);
    world.reopen(None).await;
    assert_eq!(world.file("thing", "{\"id\":5,\"v\":1,\"n\":0.001}").await, inserted(1));
}
