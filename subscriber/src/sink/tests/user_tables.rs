//! Tables that are there before the sink.

use waybill_store::rusqlite::Connection;

use super::world::{
    ITEM, entities,
    sqlite::{DATABASE, World},
};
use crate::{
    FileKey,
    apply::Position,
    sink::{Applied, Rebuild, RebuildError, Scope, Sink, SinkOpenError, SqliteSink, SwappedTable, Way},
};

/// What opening says, and that nothing of it took effect.
async fn refusal(tables: &str, toml: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(DATABASE);
    Connection::open(&path).unwrap().execute_batch(tables).unwrap();
    let error = SqliteSink::open(&path, &entities(toml)).await.unwrap_err();
    let schema = super::world::sqlite::query(
        &path,
        "SELECT sql FROM sqlite_schema WHERE name NOT LIKE '\\_waybill%' ESCAPE '\\' AND sql IS NOT NULL",
    );
    let statements: Vec<_> = tables.split(";\n").map(|sql| sql.trim().trim_end_matches(';').to_owned()).collect();
    assert_eq!(schema, statements, "the tables are as they were");
    assert!(super::world::sqlite::query(&path, "SELECT * FROM _waybill_table").is_empty());
    match error {
        SinkOpenError::Table { problem, .. } => problem,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_table_of_the_user_takes_rows_and_keeps_what_is_the_users() {
    let table = "CREATE TABLE item (
        id INTEGER PRIMARY KEY, price TEXT, v INTEGER, note TEXT DEFAULT 'mine', size INTEGER, doubled GENERATED ALWAYS AS (id * 2),
        _waybill_version BLOB, _rescued TEXT);
        INSERT INTO item (id, price, note) VALUES (1, 'old', 'keep me');";
    let world = World::with_tables(table, ITEM).await;
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
    let table = "CREATE TABLE item (nr INTEGER PRIMARY KEY, id INTEGER, price TEXT, v INTEGER, _waybill_version BLOB, _rescued TEXT);
        CREATE UNIQUE INDEX by_id ON item (id);";
    let world = World::with_tables(table, ITEM).await;
    world.file("item", r#"{"id":1,"price":19.90,"v":1}"#).await;
    world.file("item", r#"{"id":1,"price":20,"v":2}"#).await;
    assert_eq!(world.query("SELECT nr, id, price FROM item"), ["1|1|20"]);
}

#[tokio::test]
async fn a_table_that_cannot_take_the_rows_is_refused_with_what_to_do() {
    for (table, expected) in [
        (
            "CREATE TABLE item (id INTEGER PRIMARY KEY, price TEXT, v INTEGER)",
            "ALTER TABLE \"item\" ADD COLUMN _waybill_version BLOB",
        ),
        (
            "CREATE TABLE item (id INTEGER PRIMARY KEY, price DECIMAL(8,2), v INTEGER, _waybill_version BLOB, _rescued TEXT)",
            "column \"price\" of table \"item\" is declared as \"DECIMAL(8,2)\", which would change values of type decimal; make it TEXT",
        ),
        (
            "CREATE TABLE item (id INTEGER, price TEXT, v INTEGER, _waybill_version BLOB, _rescued TEXT)",
            "(\"id\") is neither its primary key nor unique in it",
        ),
        (
            "CREATE TABLE item (id INTEGER, site TEXT, price TEXT, v INTEGER, _waybill_version BLOB, _rescued TEXT, PRIMARY KEY (id, site))",
            "(\"id\") is neither its primary key nor unique in it",
        ),
        (
            "CREATE TABLE item (nr INTEGER PRIMARY KEY, price TEXT, v INTEGER, _waybill_version BLOB, _rescued TEXT)",
            "(\"id\") is neither its primary key nor unique in it",
        ),
        (
            "CREATE TABLE item (id INTEGER PRIMARY KEY, Price TEXT, v INTEGER, _waybill_version BLOB, _rescued TEXT)",
            "ALTER TABLE \"item\" RENAME COLUMN \"Price\" TO \"price\"",
        ),
        (
            "CREATE TABLE item (id INTEGER PRIMARY KEY, price TEXT, v INTEGER, must TEXT NOT NULL, _waybill_version BLOB, _rescued TEXT)",
            "column \"must\" of table \"item\" is NOT NULL without a default",
        ),
        (
            "CREATE TABLE parent (id INTEGER PRIMARY KEY);\nCREATE TABLE item (id INTEGER PRIMARY KEY, price TEXT, v INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED, _waybill_version BLOB, _rescued TEXT)",
            "has a foreign key that is checked at the commit only",
        ),
        (
            "CREATE TABLE item (id INTEGER PRIMARY KEY, price TEXT, v INTEGER, _waybill_version BLOB, _rescued TEXT);\nCREATE TABLE mine (item REFERENCES item (id) DEFERRABLE INITIALLY DEFERRED)",
            "table mine has a foreign key that is checked at the commit only",
        ),
        (
            "CREATE TABLE item (id INTEGER PRIMARY KEY, price TEXT, v INTEGER, _waybill_version BLOB, _rescued TEXT);\nCREATE TRIGGER t BEFORE INSERT ON item BEGIN SELECT raise ( rollback, 'no'); END",
            "rolls the whole transaction back",
        ),
        (
            "CREATE TABLE item (id INTEGER PRIMARY KEY, price TEXT GENERATED ALWAYS AS ('1'), v INTEGER, _waybill_version BLOB, _rescued TEXT)",
            "column \"price\" of table \"item\" is generated by the database, so no value can be put into it; make it an ordinary column",
        ),
        ("CREATE VIEW item AS SELECT 1 AS id", "it lacks _waybill_version"),
    ] {
        let problem = refusal(table, ITEM).await;
        assert!(problem.starts_with("entity \"item\": ") && problem.contains(expected), "{table}: {problem}");
    }
}

/// Under the key's collation `A` and `a` would be one row of the table, and two everywhere else.
#[tokio::test]
async fn a_key_that_is_not_compared_by_its_bytes_is_refused() {
    let own = "_waybill_version BLOB, _rescued TEXT";
    let toml = "[entity.item]\nkey = [\"id\", \"site\"]\ncolumns = { site = \"integer\" }";
    for (table, of) in [
        (format!("CREATE TABLE item (id TEXT COLLATE NOCASE, site INTEGER, {own}, PRIMARY KEY (id, site))"), ""),
        (
            format!(
                "CREATE TABLE item (id TEXT COLLATE nocase, site INTEGER, {own}, PRIMARY KEY (site, id COLLATE binary))"
            ),
            "",
        ),
        (
            format!("CREATE TABLE item (id TEXT, site INTEGER, {own}, PRIMARY KEY (site, id COLLATE RTRIM))"),
            "index \"sqlite_autoindex_item_1\" on ",
        ),
        (
            format!(
                "CREATE TABLE item (id TEXT, site INTEGER, {own}, PRIMARY KEY (id COLLATE NOCASE, site)) WITHOUT ROWID"
            ),
            "index \"sqlite_autoindex_item_1\" on ",
        ),
        (
            format!(
                "CREATE TABLE item (id TEXT, site INTEGER, {own}, PRIMARY KEY (id, site));\n\
                 CREATE UNIQUE INDEX mine ON item (id COLLATE NOCASE, site)"
            ),
            "index \"mine\" on ",
        ),
    ] {
        let problem = refusal(&table, toml).await;
        let expected = format!("key column \"id\" of {of}table \"item\" compares its text by collation");
        assert!(problem.contains(&expected) && problem.contains("COLLATE BINARY)"), "{table}: {problem}");
    }
    // What is compared otherwise is no text, or none of the key's; of other types a value has one spelling.
    let table = format!(
        "CREATE TABLE item (id TEXT COLLATE BINARY, site INTEGER COLLATE NOCASE, name TEXT COLLATE NOCASE UNIQUE, {own},
             PRIMARY KEY (id, site));
         CREATE INDEX by_id ON item (id COLLATE NOCASE);
         CREATE TABLE tag (id TEXT COLLATE NOCASE PRIMARY KEY, {own}) WITHOUT ROWID"
    );
    let world =
        World::with_tables(&table, &format!("{toml}\n[entity.tag]\nkey = [\"id\"]\ncolumns = {{ id = \"uuid\" }}"))
            .await;
    let rows = "{\"id\":\"A\",\"site\":1}\n{\"id\":\"a\",\"site\":1}\n{\"id\":\"a \",\"site\":1}";
    assert_eq!(world.file("item", rows).await.inserted, 3);
    assert_eq!(world.file("item", r#"{"id":"a","site":1,"_deleted":true}"#).await.deleted, 1);
    assert_eq!(world.query("SELECT id FROM item ORDER BY id"), ["A", "a "]);
}

#[tokio::test]
async fn a_frozen_table_is_not_widened() {
    let table = "CREATE TABLE item (id INTEGER PRIMARY KEY, v INTEGER, _waybill_version BLOB, _rescued TEXT)";
    let problem = refusal(table, &ITEM.replace("columns", "schema = \"freeze\"\ncolumns")).await;
    assert!(problem.ends_with("add it: ALTER TABLE \"item\" ADD COLUMN \"price\" TEXT"), "{problem}");
    let world = World::with_tables(table, ITEM).await;
    assert_eq!(world.query("SELECT count(*) FROM pragma_table_info('item')"), ["5"], "an evolving one is");
}

#[tokio::test]
async fn another_rule_for_keys_or_versions_is_refused() {
    let world = World::new(ITEM).await;
    world.file("item", r#"{"id":1,"v":1}"#).await;
    world.sink.close().await;
    let path = world.folder.path().join(DATABASE);
    for (toml, expected) in [
        (
            ITEM.replace("\"integer\" }\n    columns", "\"text\" }\n    columns"),
            "was filled by key (id integer), version (v number)",
        ),
        (ITEM.replace("id = \"integer\"", "id = \"text\""), "is now configured as key (id text), version (v number)"),
        (ITEM.replace("[\"id\"]", "[\"id\", \"v\"]"), "under which its rows cannot be compared"),
        (ITEM.replace("key =", "table = \"items\"\nkey ="), "RENAME TO \"items\""),
        (
            ITEM.replace("entity.item", "entity.article").replace("key =", "table = \"Item\"\nkey ="),
            "holds the rows of entity \"item\"",
        ),
    ] {
        match SqliteSink::open(&path, &entities(&toml)).await.unwrap_err() {
            SinkOpenError::Table { problem, .. } => assert!(problem.contains(expected), "{problem}"),
            other => panic!("{other:?}"),
        }
    }
    // Integers and decimals sort alike.
    let alike = ITEM.replace("\"integer\" }\n    columns = {", "\"decimal\" }\n    columns = { v = \"integer\",");
    SqliteSink::open(&path, &entities(&alike)).await.unwrap();
}

#[tokio::test]
async fn the_statement_that_a_refusal_names_for_a_renamed_table_works() {
    let mut world = World::new(ITEM).await;
    world.file("item", r#"{"id":1,"v":1,"more":5}"#).await;
    let renamed = ITEM.replace("key =", "table = \"o'items\"\nkey =");
    world.sink.close().await;
    let path = world.folder.path().join(DATABASE);
    let SinkOpenError::Table { problem, .. } = SqliteSink::open(&path, &entities(&renamed)).await.unwrap_err() else {
        panic!("refused by its table")
    };
    let statement = problem.split_once("as well (").unwrap().1.split_once("), or use").unwrap().0;
    Connection::open(&path).unwrap().execute_batch(statement).unwrap();
    world.reopen(Some(&renamed)).await;
    world.file("item", r#"{"id":2,"v":1,"more":6}"#).await;
    assert_eq!(world.query("SELECT id, more FROM \"o'items\" ORDER BY id"), ["1|5", "2|6"]);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "these are my notes, not a database at all").unwrap();
    let error = SqliteSink::open(&path, &entities(ITEM)).await.unwrap_err();
    assert!(matches!(error, SinkOpenError::Store(_)), "{error:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "these are my notes, not a database at all");
}

const PRICED: &str = r#"
    [entity.item]
    key = ["id", "site"]
    version = { field = "changed", type = "timestamp" }
    columns = { id = "integer", price = "decimal" }
"#;

fn priced(id: &str) -> String {
    format!("{{\"id\":{id},\"site\":\"a\",\"changed\":\"2024-01-01T00:00:00Z\"}}")
}

#[tokio::test]
async fn a_row_that_the_database_refuses_is_refused_alone() {
    let table = "CREATE TABLE item (
        id INTEGER, site TEXT, changed TEXT, price TEXT CHECK (price <> '13'), code TEXT UNIQUE ON CONFLICT REPLACE,
        _waybill_version BLOB, _rescued TEXT, PRIMARY KEY (id, site));
        CREATE TRIGGER no_seven BEFORE INSERT ON item WHEN NEW.id = 7 BEGIN SELECT RAISE(ABORT, 'no sevens'); END;
        CREATE TRIGGER keep_one BEFORE DELETE ON item WHEN OLD.id = 1 BEGIN SELECT RAISE(ABORT, 'one stays'); END;";
    let world = World::with_tables(table, PRICED).await;
    let with = |id: &str, more: &str| priced(id).replace('}', &format!(",{more}}}"));
    let rows = [
        with("1", "\"price\":12,\"code\":\"A\""),
        with("2", "\"price\":13"),
        with("3", "\"price\":14,\"code\":\"A\""),
        priced("7"),
        priced("8"),
    ];
    let applied = world.file("item", &rows.join("\n")).await;
    assert_eq!(applied, Applied { inserted: 2, bad: 3, ..Applied::default() });
    assert_eq!(world.query("SELECT id, code FROM item ORDER BY id"), ["1|A", "8|-"], "nothing was replaced");
    let bad = world.query("SELECT row, reason, problem FROM _waybill_bad_row ORDER BY row");
    assert_eq!(bad.len(), 3);
    assert!(bad[0].starts_with("2|refused-by-database|CHECK constraint failed"), "{}", bad[0]);
    assert!(bad[1].starts_with("3|refused-by-database|UNIQUE constraint failed"), "{}", bad[1]);
    assert_eq!(bad[2], "4|refused-by-database|no sevens");

    let deletion = priced("1").replace("2024", "2025").replace('}', ",\"_deleted\":true}");
    assert_eq!(world.file("item", &deletion).await, Applied { bad: 1, ..Applied::default() });
    assert!(world.query("SELECT * FROM _waybill_tombstone").is_empty(), "a refused deletion leaves no tombstone");
    assert_eq!(world.query("SELECT id FROM item ORDER BY id"), ["1", "8"]);
}

/// Opens the database beside the sink.
fn by_hand(world: &World, sql: &str) {
    Connection::open(world.folder.path().join(DATABASE)).unwrap().execute_batch(sql).unwrap();
}

#[tokio::test]
async fn what_became_of_a_row_is_told_right_whatever_key_the_table_has() {
    let rest = "price TEXT CHECK (price <> '13'), v INTEGER, _waybill_version BLOB, _rescued TEXT";
    let trigger = "CREATE TABLE log (nr INTEGER PRIMARY KEY, id);
        CREATE TRIGGER logs AFTER INSERT ON item BEGIN INSERT INTO log (id) VALUES (NEW.id); END";
    for table in [
        format!("CREATE TABLE item (id INTEGER PRIMARY KEY, {rest})"),
        format!("CREATE TABLE item (id INTEGER PRIMARY KEY AUTOINCREMENT, {rest})"),
        format!("CREATE TABLE item (id INTEGER PRIMARY KEY, {rest}) STRICT"),
        format!("CREATE TABLE item (id INTEGER PRIMARY KEY, {rest}); {trigger}"),
        format!("CREATE TABLE item (id INTEGER PRIMARY KEY, {rest}) WITHOUT ROWID"),
        format!("CREATE TABLE item (id INTEGER PRIMARY KEY DESC, {rest})"),
        format!("CREATE TABLE item (id INT PRIMARY KEY, {rest})"),
        format!("CREATE TABLE item (nr INTEGER PRIMARY KEY, id INTEGER UNIQUE, {rest})"),
    ] {
        let world = World::with_tables(&table, ITEM).await;
        let none = Applied::default();
        let (insert, update) = (|inserted| Applied { inserted, ..none }, |updated| Applied { updated, ..none });
        let ignore = |ignored| Applied { ignored, ..none };
        // Of each file what is noted of it has a number too, which is the key of a row that follows.
        for (v, expected) in [(1, insert(4)), (2, update(4)), (3, update(4)), (4, update(4)), (1, ignore(4))] {
            let rows = (1..=4).map(|id| format!("{{\"id\":{id},\"v\":{v},\"price\":{v}}}\n")).collect::<String>();
            assert_eq!(world.file("item", &rows).await, expected, "{table}: {v}");
        }
        let far = [i64::MIN, -1, 0, i64::MAX];
        for (v, expected) in [(5, insert(4)), (4, ignore(4)), (6, update(4))] {
            let rows = far.map(|id| format!("{{\"id\":{id},\"v\":{v},\"price\":{v}}}\n")).concat();
            assert_eq!(world.file("item", &rows).await, expected, "{table}: {v}");
        }
        let (text, number) = if table.ends_with("STRICT") { ("x''", "x'00'") } else { ("'text'", "7") };
        let versions = format!("(91, NULL), (92, {text}), (93, {number}), (94, x'ffffffff')");
        by_hand(&world, &format!("INSERT INTO item (id, _waybill_version) VALUES {versions}"));
        for (rows, expected) in [
            (r#"{"id":9,"v":1}"#, insert(1)),
            (r#"{"id":9,"v":2}"#, update(1)),
            (r#"{"id":9,"v":4,"_deleted":true}"#, Applied { deleted: 1, ..none }),
            (r#"{"id":9,"v":3}"#, ignore(1)),
            (r#"{"id":9,"v":5}"#, insert(1)),
            // A row that is refused, one that need not be taken, and the newest that can be.
            (r#"{"id":10,"v":1,"price":13}"#, Applied { bad: 1, ..none }),
            (r#"{"id":9,"v":1,"price":13}"#, ignore(1)),
            ("{\"id\":9,\"v\":7,\"price\":13}\n{\"id\":9,\"v\":6,\"price\":6}", Applied { updated: 1, bad: 1, ..none }),
            ("{\"id\":9,\"v\":8}\n{\"id\":9,\"v\":9}", Applied { updated: 1, superseded: 1, ..none }),
            (
                "{\"id\":11,\"v\":1}\n{\"id\":1,\"v\":9}\n{\"id\":0,\"v\":1}",
                Applied { updated: 1, ignored: 1, inserted: 1, ..none },
            ),
            (
                "{\"id\":91,\"v\":1}\n{\"id\":92,\"v\":1}\n{\"id\":93,\"v\":1}\n{\"id\":94,\"v\":1}",
                Applied { updated: 3, ignored: 1, ..none },
            ),
        ] {
            assert_eq!(world.file("item", rows).await, expected, "{table}: {rows}");
        }
        let rows = world.query("SELECT id, v, price FROM item ORDER BY id");
        let (least, most) = (format!("{}|6|6", i64::MIN), format!("{}|6|6", i64::MAX));
        let all = [
            least.as_str(),
            "-1|6|6",
            "0|6|6",
            "1|9|-",
            "2|4|4",
            "3|4|4",
            "4|4|4",
            "9|9|-",
            "11|1|-",
            "91|1|-",
            "92|1|-",
            "93|1|-",
            "94|-|-",
            most.as_str(),
        ];
        assert_eq!(rows, all, "{table}");
    }
}

#[tokio::test]
async fn rows_of_a_few_fields_go_into_a_table_of_many_columns_whether_they_are_read_before_or_not() {
    let world = World::new(ITEM).await;
    let wide: String = (0..300).map(|nth| format!(",\"c{nth}\":\"x\"")).collect();
    world.file("item", &format!("{{\"id\":0,\"v\":1{wide}}}")).await;
    let rows: String = (1..=2_000).map(|id| format!("{{\"id\":{id},\"v\":1,\"c7\":\"of {id}\"}}\n")).collect();
    assert_eq!(world.file("item", &rows).await, Applied { inserted: 2_000, ..Applied::default() });
    assert_eq!(
        world.query("SELECT count(*), sum(c7 = 'of ' || id), count(c8) FROM item WHERE id > 0"),
        ["2000|2000|0"]
    );
}

#[tokio::test]
async fn a_version_whose_column_somebody_dropped_is_rescued() {
    let world = World::new(ITEM).await;
    world.file("item", r#"{"id":1,"v":1,"price":1}"#).await;
    by_hand(&world, "ALTER TABLE item DROP COLUMN v");
    for id in [2, 3] {
        world.file("item", &format!("{{\"id\":{id},\"v\":1,\"price\":1}}")).await;
    }
    assert_eq!(world.query("SELECT id, _rescued FROM item WHERE id > 1"), ["2|{\"v\":1}", "3|{\"v\":1}"]);
}

/// Derives the table again, from the first file of the world.
async fn rebuild(world: &World, toml: &str, rows: &str) -> Result<Vec<SwappedTable>, RebuildError> {
    let scope = Scope::of(&entities(toml), &["item".to_owned()]);
    let mut rebuild = Rebuild::begin(&world.name(), &scope).await?;
    let plans = crate::apply::EntityPlans::compile(scope.entities()).unwrap();
    let batch =
        super::world::batch(&plans, "item", Position::Broker { sequence_number: 1 }, super::world::json_lines(rows));
    rebuild.shadow().apply(&FileKey::of_export("shop", "1"), 0, batch).await.unwrap();
    rebuild.hold().await?;
    rebuild.swap().await
}

#[tokio::test]
async fn rows_that_refer_to_a_table_are_left_alone_by_its_rebuild() {
    let mut world = World::new(ITEM).await;
    let rows = "{\"id\":1,\"v\":1,\"price\":19.90}\n{\"id\":2,\"v\":1,\"price\":5}";
    world.file("item", rows).await;
    let change = |sql: &str| {
        Connection::open(world.folder.path().join(DATABASE)).unwrap().execute_batch(sql).unwrap();
    };
    change(
        "CREATE TABLE note (item REFERENCES item (id) ON DELETE CASCADE, text);
         CREATE VIEW dear AS SELECT id FROM item WHERE price = '19.90';
         CREATE TRIGGER noted AFTER DELETE ON item BEGIN INSERT INTO note VALUES (NULL, 'gone'); END;
         INSERT INTO note VALUES (1, 'a'), (2, 'b');
         UPDATE item SET price = 0",
    );
    let swapped = rebuild(&world, ITEM, rows).await.unwrap();
    assert_eq!((swapped[0].inserted, swapped[0].updated, swapped[0].deleted), (0, 2, 0));
    assert_eq!(world.query("SELECT text FROM note ORDER BY 1"), ["a", "b"]);

    let keyed_by_text = ITEM.replace("id = \"integer\"", "id = \"text\"");
    let refused = rebuild(&world, &keyed_by_text, "{\"id\":1,\"v\":1}").await.unwrap_err().to_string();
    assert!(refused.contains("a row of table \"note\" would refer to one of \"item\" that is not there"), "{refused}");
    assert_eq!(world.query("SELECT count(*) FROM item"), ["2"]);
    let swapped = rebuild(&world, &keyed_by_text, rows).await.unwrap();
    assert_eq!((swapped[0].way, swapped[0].rows), (Way::MadeAnew, 2));
    assert_eq!(world.query("SELECT id FROM dear"), ["1"], "the view reads the new table");
    world.reopen(Some(&keyed_by_text)).await;
    assert_eq!(world.file("item", r#"{"id":2,"v":2,"_deleted":true}"#).await.deleted, 1);
    assert_eq!(world.query("SELECT count(*) FROM note WHERE text = 'gone'"), ["1"], "the trigger is on it");
}

#[tokio::test]
async fn a_table_that_the_user_made_is_compared_and_never_made_anew() {
    let table = "CREATE TABLE item (id INTEGER PRIMARY KEY, price TEXT CHECK (price <> '5'), v INTEGER,
        other REFERENCES elsewhere (id), _waybill_version BLOB, _rescued TEXT);
        CREATE TABLE elsewhere (id PRIMARY KEY)";
    let world = World::with_tables(table, ITEM).await;
    let rows = r#"{"id":1,"v":1,"price":19.90}"#;
    world.file("item", rows).await;
    world.query("UPDATE item SET price = '1'");
    let swapped = rebuild(&world, ITEM, rows).await.unwrap();
    assert_eq!((swapped[0].way, swapped[0].updated), (Way::Compared, 1));
    let keyed_by_text = ITEM.replace("id = \"integer\"", "id = \"text\"");
    let refused = rebuild(&world, &keyed_by_text, rows).await.unwrap_err().to_string();
    assert!(refused.contains("rebuild makes only tables anew that the sink made"), "{refused}");
}
