//! What is PostgreSQL's own: its types, its constraints, tables that are there, several writers.

use super::world::{
    ITEM, TYPES, entities, json_lines,
    postgres::{Place, World, run},
};
use crate::{
    FileKey,
    apply::Position,
    sink::{
        Applied, BadRowsOf, EntityBatch, PostgresSink, Rebuild, RebuildError, Scope, Sink, SinkError, SqlSink,
        SwappedTable, Way,
    },
};

#[tokio::test]
async fn declared_columns_have_the_types_of_the_database_and_keep_their_values() {
    let world = World::new(TYPES).await;
    let row =
        r#"{"id":"694215B7-08F7-4C0D-ACB1-D734BA44C0C8","i":-9223372036854775808,"d":19.90,"f":0.1,"b":true,"t":"é",
        "ts":"2014-02-08T10:01:36.8270+01:00","day":"2014-02-08","u":"694215B7-08F7-4C0D-ACB1-D734BA44C0C8",
        "j":{"a":[1.0]},"bin":"aGk="}"#
            .replace('\n', "");
    world.file("thing", &row).await;
    assert_eq!(
        world.query("SELECT id, i, d, f, b, t, ts AT TIME ZONE 'UTC', day, u, j, bin, _rescued FROM thing"),
        ["694215b7-08f7-4c0d-acb1-d734ba44c0c8|-9223372036854775808|19.90|0.1|t|é|2014-02-08 09:01:36.827|2014-02-08|\
             694215b7-08f7-4c0d-acb1-d734ba44c0c8|{\"a\":[1.0]}|\\x6869|-"]
    );
    // The same row by the other way, which passes a temporary table.
    let again = row.replace("19.90", "1e3").replace("aGk=", "aGkh");
    assert_eq!(world.file("thing", &again).await.updated, 1);
    assert_eq!(
        world.query("SELECT d, bin, ts AT TIME ZONE 'UTC' FROM thing"),
        ["1000|\\x686921|2014-02-08 09:01:36.827"]
    );
}

/// Where nothing waits and nothing was deleted, what is there is not asked for: the upsert says what became of the rows.
#[tokio::test]
async fn rows_that_only_their_version_guards_are_counted_as_what_became_of_them() {
    let toml = "[entity.a]\nkey = [\"id\"]\nversion = { field = \"v\", type = \"integer\" }\n\
                [entity.b]\nkey = [\"id\"]\nversion = { field = \"v\", type = \"integer\" }\n\
                [[entity.b.references]]\nfields = [\"a\"]\nentity = \"a\"";
    let world = World::new(toml).await;
    let row = |id: u32, v: u32| format!("{{\"id\":{id},\"v\":{v}}}\n");
    assert_eq!(world.file("a", &(row(1, 5) + &row(2, 5) + &row(3, 5))).await.inserted, 3);
    let mixed = row(1, 4) + &row(2, 6) + &row(2, 7) + &row(3, 5) + &row(4, 1);
    assert_eq!(
        world.file("a", &mixed).await,
        // Of 3 the second file's row is the newer one: the version is the same, its place is not.
        Applied { inserted: 1, updated: 2, ignored: 1, superseded: 1, ..Applied::default() }
    );
    assert_eq!(world.query("SELECT id, v FROM a ORDER BY id"), ["1|5", "2|7", "3|5", "4|1"]);

    // An older row whose parent is not there is old, and does not wait; a new one waits.
    world.file("b", "{\"id\":1,\"v\":5,\"a\":1}").await;
    let rows = "{\"id\":1,\"v\":4,\"a\":9}\n{\"id\":2,\"v\":1,\"a\":9}\n{\"id\":3,\"v\":1,\"a\":2}";
    assert_eq!(world.file("b", rows).await, Applied { inserted: 1, ignored: 1, parked: 1, ..Applied::default() });
    assert_eq!(world.file("a", &row(9, 1)).await.released, 1);

    // A deletion is remembered, so from now on an old row is compared with it.
    assert_eq!(world.file("a", "{\"id\":4,\"v\":3,\"_deleted\":true}").await.deleted, 1);
    assert_eq!(world.file("a", &row(4, 2)).await, Applied { ignored: 1, ..Applied::default() });
}

/// What a pass goes on with that runs before its transaction may no longer be so when it comes to it.
#[tokio::test]
async fn what_changes_after_a_batch_was_read_ahead_counts_all_the_same() {
    let toml = "[entity.a]\nkey = [\"id\"]\nversion = { field = \"v\", type = \"integer\" }\n\
                [entity.b]\nkey = [\"id\"]\nversion = { field = \"v\", type = \"integer\" }\n\
                [[entity.b.references]]\nfields = [\"a\"]\nentity = \"a\"";
    let row = |id: u32, v: u32| format!("{{\"id\":{id},\"v\":{v}}}\n");
    let child = |id: u32, v: u32, a: u32| format!("{{\"id\":{id},\"v\":{v},\"a\":{a}}}\n");
    let world = World::new(toml).await;
    let apply = async |(file, batch): (FileKey, _)| world.sink.apply(&file, 0, batch).await.unwrap();
    // From now on batches of both are known to need nothing but the guard.
    world.file("a", &(row(1, 5) + &row(2, 5) + &row(3, 5))).await;
    world.file("b", &child(1, 5, 1)).await;

    // Nothing: it is as it was read.
    let ahead = world.ahead("b", &(child(1, 6, 2) + &child(2, 1, 3) + &child(3, 1, 9))).await;
    assert_eq!(apply(ahead).await, Applied { inserted: 1, updated: 1, parked: 1, ..Applied::default() });
    world.file("a", &row(9, 1)).await;

    // A newer version comes.
    let ahead = world.ahead("a", &(row(1, 6) + &row(4, 1))).await;
    world.file("a", &row(1, 7)).await;
    assert_eq!(apply(ahead).await, Applied { inserted: 1, ignored: 1, ..Applied::default() });

    // Somebody adds a trigger, a column, takes a column away, or forbids a value.
    let ahead = world.ahead("a", &row(5, 1)).await;
    run(
        &world.address,
        "CREATE FUNCTION twice() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.v = NEW.v * 2; RETURN NEW; END $$;
        CREATE TRIGGER twice BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION twice()",
    )
    .await;
    assert_eq!(apply(ahead).await.inserted, 1);
    assert_eq!(world.query("SELECT v FROM a WHERE id = '5'"), ["2"], "the trigger ran");
    run(&world.address, "DROP TRIGGER twice ON a").await;
    world.file("a", &row(6, 1)).await;
    let ahead = world.ahead("a", &row(7, 1)).await;
    world.file("a", "{\"id\":8,\"v\":1,\"name\":\"new\"}").await;
    assert_eq!(apply(ahead).await.inserted, 1);
    let ahead = world.ahead("a", "{\"id\":10,\"v\":1,\"name\":\"gone\"}").await;
    run(&world.address, "ALTER TABLE a DROP COLUMN name").await;
    assert_eq!(apply(ahead).await.inserted, 1);
    assert_eq!(world.query("SELECT name FROM a WHERE id = '10'"), ["gone"], "it is a new field again");
    let ahead = world.ahead("a", &(row(11, 1) + &row(12, 13))).await;
    run(&world.address, "ALTER TABLE a ADD CHECK (v <> 13)").await;
    assert_eq!(apply(ahead).await, Applied { inserted: 1, bad: 1, ..Applied::default() });

    // A parent goes: its child waits, and what was deleted stays so.
    let (child_of_2, old_2) = (world.ahead("b", &child(4, 1, 2)).await, world.ahead("a", &row(2, 6)).await);
    assert_eq!(world.file("a", "{\"id\":2,\"v\":7,\"_deleted\":true}").await.deleted, 1);
    assert_eq!(apply(child_of_2).await, Applied { parked: 1, ..Applied::default() });
    assert_eq!(apply(old_2).await, Applied { ignored: 1, ..Applied::default() });
    assert_eq!(world.query("SELECT id FROM a WHERE id = '2'"), [""; 0]);

    // Progress is where another left it.
    let (file, batch) = world.ahead("b", &child(20, 1, 1)).await;
    let again = world.batch("b", Position::Broker { sequence_number: 1 }, json_lines(&child(20, 1, 1)));
    world.sink.apply(&file, 0, again).await.unwrap();
    assert!(matches!(world.sink.apply(&file, 0, batch).await, Err(SinkError::Fenced { .. })));
}

/// A batch whose turn has not come holds a session with its rows: not all that there are, and it may lose it.
#[tokio::test]
async fn batches_that_were_copied_ahead_leave_sessions_to_others_and_outlive_their_own() {
    let world = World::new("[entity.a]\nkey = [\"id\"]\nversion = { field = \"v\", type = \"integer\" }").await;
    let row = |id: usize| format!("{{\"id\":{id},\"v\":1}}\n");
    world.file("a", &row(0)).await;
    let mut ahead = Vec::new();
    for id in 1..=20 {
        ahead.push((id, world.ahead("a", &row(id)).await));
    }
    assert_eq!(world.file("a", &row(100)).await.inserted, 1, "while they wait");

    let sessions =
        format!("FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND application_name = '{}'", world.schema());
    let ended = world.query(&format!("SELECT count(pg_terminate_backend(pid, 10000)) {sessions}"));
    assert_ne!(ended, ["0"]);
    for (id, (file, batch)) in ahead {
        let position = batch.position.clone();
        match world.sink.apply(&file, 0, batch).await {
            Ok(applied) => assert_eq!(applied.inserted, 1),
            // Nobody had noticed yet that the session ended; the file is tried again.
            Err(SinkError::Unavailable { .. }) => {
                let again = world.batch("a", position, json_lines(&row(id)));
                assert_eq!(world.sink.apply(&file, 0, again).await.unwrap().inserted, 1);
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(world.query("SELECT count(*) FROM a"), ["22"]);
}

#[tokio::test]
async fn a_row_that_refers_to_a_key_that_no_index_takes_is_kept_aside_alone() {
    let toml = "[entity.a]\nkey = [\"id\"]\nversion = { field = \"v\", type = \"integer\" }\n\
                [entity.b]\nkey = [\"id\"]\nversion = { field = \"v\", type = \"integer\" }\n\
                [[entity.b.references]]\nfields = [\"a\"]\nentity = \"a\"";
    let world = World::new(toml).await;
    // What does not compress: an index entry may have 2,704 bytes.
    let long: String = (0..6_000_u32).filter_map(|n| char::from_u32(0x4e00 + n.wrapping_mul(7_919) % 20_000)).collect();
    let child = |id: u32, v: u32, a: &str| format!("{{\"id\":{id},\"v\":{v},\"a\":\"{a}\"}}\n");
    let rows = child(1, 1, "x") + &child(2, 2, &long) + &child(2, 1, "y") + &child(3, 1, &long) + &child(4, 1, "z");
    // The older row of 2 counts as if the newer one had not come.
    assert_eq!(world.file("b", &rows).await, Applied { parked: 3, bad: 2, ..Applied::default() });
    let bad = world.query(
        "SELECT key, reason, problem LIKE 'it cannot wait for what it refers to: %' FROM _waybill_bad_row ORDER BY key",
    );
    assert_eq!(bad, ["2|refused-by-database|t", "3|refused-by-database|t"]);
    let parents = "{\"id\":\"x\",\"v\":1}\n{\"id\":\"y\",\"v\":1}\n{\"id\":\"z\",\"v\":1}\n";
    assert_eq!(world.file("a", parents).await.released, 3);

    // Nor once its first parent is there.
    let two = "\n[[entity.b.references]]\nfields = [\"other\"]\nentity = \"a\"";
    let other = World::new(&format!("{toml}{two}")).await;
    let row = |id: u32, other: &str| format!("{{\"id\":{id},\"v\":1,\"a\":\"x\",\"other\":\"{other}\"}}\n");
    assert_eq!(other.file("b", &(row(1, "y") + &row(2, &long) + &row(3, "x"))).await.parked, 3);
    assert_eq!(other.file("a", parents).await, Applied { inserted: 3, released: 2, ..Applied::default() });
    assert_eq!(other.query("SELECT id FROM b ORDER BY id"), ["1", "3"]);
    assert_eq!(other.query("SELECT count(*) FROM _waybill_parked"), ["0"]);
    let bad = other.query("SELECT key, problem LIKE 'it cannot wait for what it refers to: %' FROM _waybill_bad_row");
    assert_eq!(bad, ["2|t"]);

    // Neither can its deletion be remembered, and no row can come of which it would have to be.
    let rows = format!("{{\"id\":\"{long}\",\"v\":2,\"_deleted\":true}}\n{{\"id\":\"x\",\"v\":2,\"_deleted\":true}}\n");
    assert_eq!(world.file("a", &rows).await, Applied { deleted: 1, bad: 1, ..Applied::default() });
}

#[tokio::test]
async fn rows_that_are_released_together_are_written_as_foreign_keys_want_it() {
    let toml = r#"
        [entity.top]
        key = ["id"]
        [entity.b]
        key = ["id"]
        references = [{ fields = ["top"], entity = "top" }, { fields = ["up"], entity = "c" }]
        [entity.c]
        key = ["id"]
        references = [{ fields = ["up"], entity = "b" }]
    "#;
    let own = "_waybill_version bytea NOT NULL, _rescued json";
    let world = World::with_tables(
        &format!(
            "CREATE TABLE c (id text PRIMARY KEY, up text, v bigint CHECK (v <> 13), {own});
             CREATE TABLE b (id text PRIMARY KEY, top text, up text REFERENCES c, {own});
             ALTER TABLE c ADD FOREIGN KEY (up) REFERENCES b"
        ),
        toml,
    )
    .await;
    // A chain through both tables, so that neither can be written first as a whole.
    let files = [
        ("b", "{\"id\":1,\"top\":1}\n{\"id\":2,\"up\":1}\n{\"id\":3,\"up\":2}\n{\"id\":4,\"up\":13}"),
        ("c", "{\"id\":1,\"up\":1}\n{\"id\":2,\"up\":2}\n{\"id\":13,\"up\":1,\"v\":13}"),
    ];
    for (name, rows) in files {
        assert_eq!(world.file(name, rows).await.inserted, 0);
    }
    assert_eq!(world.file("top", "{\"id\":1}").await, Applied { inserted: 1, released: 5, ..Applied::default() });
    assert_eq!(world.query("SELECT id, up FROM b ORDER BY id"), ["1|-", "2|1", "3|2"]);
    assert_eq!(world.query("SELECT id, up FROM c ORDER BY id"), ["1|1", "2|2"]);
    assert_eq!(world.query("SELECT key, reason FROM _waybill_bad_row"), ["13|refused-by-database"]);
    assert_eq!(world.query("SELECT entity, key FROM _waybill_parked"), ["b|4"], "what it waits for never came");
}

#[tokio::test]
async fn what_is_wrong_with_a_trigger_is_said_and_not_taken_for_other_transactions() {
    let world = World::new(ITEM).await;
    let trigger = "CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS
                       $$ BEGIN INSERT INTO nowhere VALUES (NEW.id); RETURN NEW; END $$;
                   CREATE TRIGGER audit AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION audit()";
    run(&world.address, trigger).await;
    let batch = world.batch("item", Position::Broker { sequence_number: 1 }, json_lines("{\"id\":1,\"v\":1}"));
    let error = world.sink.apply(&FileKey::of_export("", "1"), 0, batch).await.unwrap_err();
    let SinkError::Failed { problem, .. } = &error else { panic!("the file's own, not an outage: {error:?}") };
    assert!(problem.contains("nowhere") && !problem.contains("in the way"), "{problem}");
    let verdict = error.verdict();
    assert!(matches!(verdict, Some(crate::Verdict::Retry { blame: crate::Blame::File, .. })), "{verdict:?}");
}

/// As after a takeover, on connections to what is a standby now.
#[tokio::test]
async fn a_server_that_only_reads_is_an_outage_and_not_the_fault_of_a_file() {
    let world = World::new(ITEM).await;
    let refuse = "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                      $$ BEGIN RAISE 'cannot execute INSERT in a read-only transaction' USING ERRCODE = '25006'; END $$;
                  CREATE TRIGGER refuse BEFORE INSERT ON _waybill_progress EXECUTE FUNCTION refuse()";
    run(&world.address, refuse).await;
    let batch = world.batch("item", Position::Broker { sequence_number: 1 }, json_lines("{\"id\":1,\"v\":1}"));
    let error = world.sink.apply(&FileKey::of_export("", "1"), 0, batch).await.unwrap_err();
    assert!(matches!(error, SinkError::Unavailable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_row_that_a_trigger_refuses_with_a_code_of_its_own_is_kept_aside_alone() {
    let world = World::new(ITEM).await;
    for (number, code) in (1..).zip(["MY001", "45000", "44000"]) {
        let trigger = format!(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN IF NEW.price = 13 THEN RAISE 'not this one' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$;
             CREATE OR REPLACE TRIGGER refuse BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION refuse()"
        );
        run(&world.address, &trigger).await;
        let row = |id: u32, price: u32| format!("{{\"id\":{id},\"v\":1,\"price\":{price}}}\n");
        let rows = row(number * 10, 1) + &row(number * 10 + 1, 13) + &row(number * 10 + 2, 2);
        assert_eq!(world.file("item", &rows).await, Applied { inserted: 2, bad: 1, ..Applied::default() }, "{code}");
    }
}

#[tokio::test]
async fn a_column_that_postgresql_has_of_its_own_is_refused_with_what_to_do() {
    let world = World::new(ITEM).await;
    let toml = "[entity.other]\nkey = [\"id\"]\n[entity.other.columns]\nxmin = \"text\"";
    let problem = world.refusal(toml).await;
    assert!(problem.contains("entity \"other\"") && problem.contains("_rescued"), "{problem}");
}

#[tokio::test]
async fn a_row_that_the_database_refuses_is_found_among_rows_that_only_their_version_guards() {
    let toml = "[entity.item]\nkey = [\"id\"]\nversion = { field = \"v\", type = \"integer\" }\n\
                columns = { id = \"integer\", v = \"integer\", price = \"decimal\" }";
    let table = "CREATE TABLE item (id bigint PRIMARY KEY, v bigint, price numeric CHECK (price <> 13),
                     _waybill_version bytea, _rescued json)";
    let world = World::with_tables(table, toml).await;
    let row = |id: u32, v: u32, price: u32| format!("{{\"id\":{id},\"v\":{v},\"price\":{price}}}\n");
    world.file("item", &(row(1, 1, 1) + &row(2, 1, 1))).await;
    // The refused row of 1 lets the older one count, which is newer than what is there.
    let rows = row(1, 2, 2) + &row(1, 3, 13) + &row(2, 2, 13) + &row(3, 1, 1);
    assert_eq!(world.file("item", &rows).await, Applied { inserted: 1, updated: 1, bad: 2, ..Applied::default() });
    assert_eq!(world.query("SELECT id, v, price FROM item ORDER BY id"), ["1|2|2", "2|1|1", "3|1|1"]);
}

#[tokio::test]
async fn numbers_of_any_length_arrive_as_they_were_written() {
    let world = World::new("[entity.n]\nkey = [\"id\"]\ncolumns = { id = \"integer\", d = \"decimal\" }").await;
    let numbers = [
        "0",
        "-0.00",
        "19.90",
        "0.0000000000000000000000000000000001",
        "123456789012345678901234567890.123456789000",
        "99999999999999999999",
        "1e3",
        "-12.5e-3",
        "10000",
        "100000000",
        "0.00010002",
        "9999.9999",
    ];
    let rows: Vec<_> = numbers.iter().enumerate().map(|(id, d)| format!("{{\"id\":{id},\"d\":{d}}}")).collect();
    assert_eq!(world.file("n", &rows.join("\n")).await.inserted, numbers.len() as u64);
    for (id, number) in numbers.iter().enumerate() {
        let same = world.query(&format!("SELECT d::text = '{number}'::numeric::text, d::text FROM n WHERE id = {id}"));
        assert!(same[0].starts_with("t|"), "{number}: {same:?}");
    }
    // More digits than a numeric has: kept beside the column.
    assert_eq!(world.file("n", "{\"id\":100,\"d\":1e200000}").await.inserted, 1);
    assert_eq!(world.query("SELECT d, _rescued FROM n WHERE id = 100"), ["-|{\"d\":\"1e200000\"}"]);
}

#[tokio::test]
async fn what_the_database_cannot_hold_is_rescued_whole() {
    let world = World::new(TYPES).await;
    let id = "694215b7-08f7-4c0d-acb1-d734ba44c0c8";
    let row = format!(
        "{{\"id\":\"{id}\",\"t\":\"a\\u0000b\",\"ts\":\"2022-07-05T12:34:56.1234567Z\",\"i\":\"many\",\"j\":\"\\u0000\",\
         \"no\\u0000column\":1}}"
    );
    assert_eq!(world.file("thing", &row).await.inserted, 1);
    assert_eq!(
        world.query("SELECT t, ts AT TIME ZONE 'UTC', i, j, _rescued FROM thing"),
        ["-|2022-07-05 12:34:56.123456|-|\"\\u0000\"|{\"no\\u0000column\":1,\"i\":\"many\",\"t\":\"a\\u0000b\",\
          \"ts\":\"2022-07-05T12:34:56.1234567Z\"}"]
    );
}

#[tokio::test]
async fn a_key_that_the_database_cannot_hold_is_a_bad_row_and_stops_no_other() {
    let toml = "[entity.a]\nkey = [\"id\"]\nversion = { field = \"v\", type = \"integer\" }\n\
                [entity.b]\nkey = [\"at\"]\ncolumns = { at = \"timestamp\" }\n\
                [entity.c]\nkey = [\"id\"]\n[[entity.c.references]]\nfields = [\"a\"]\nentity = \"a\"";
    let world = World::new(toml).await;
    let rows = "{\"id\":\"x\\u0000\",\"v\":1}\n{\"id\":\"y\",\"v\":1}\n{\"id\":\"z\\u0000\",\"v\":1,\"_deleted\":true}";
    assert_eq!(world.file("a", rows).await, Applied { inserted: 1, bad: 2, ..Applied::default() });
    let rows = "{\"at\":\"2022-07-05T12:34:56.1234567Z\"}\n{\"at\":\"0000-01-01T00:00:00Z\"}\n{\"at\":\"2022-07-05T12:34:56Z\"}";
    assert_eq!(world.file("b", rows).await, Applied { inserted: 1, bad: 2, ..Applied::default() });
    let bad = world.sink.bad_rows(&BadRowsOf::default(), 10).await.unwrap();
    assert!(bad.iter().any(|bad| bad.problem.contains("more than six digits after the second")), "{bad:?}");
    // A reference to such a key waits for ever, and harms nobody.
    assert_eq!(world.file("c", "{\"id\":1,\"a\":\"x\\u0000\"}\n{\"id\":2,\"a\":\"y\"}").await.parked, 1);
    assert_eq!(world.file("a", "{\"id\":\"x\u{fffd}\",\"v\":1}").await.inserted, 1);
    assert_eq!(world.query("SELECT id FROM c"), ["2"]);
}

#[tokio::test]
async fn of_a_large_batch_the_rows_that_are_refused_are_found_and_no_other_is_lost() {
    let table = "CREATE TABLE item (id bigint PRIMARY KEY, code varchar(4), n integer CHECK (n <> 13),
                     _waybill_version bytea, _rescued json);
                 CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
                     $$ BEGIN IF NEW.id = 777 THEN RAISE EXCEPTION 'no sevens'; END IF; RETURN NEW; END $$;
                 CREATE TRIGGER no_sevens BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION refuse();";
    let toml = "[entity.item]\nkey = [\"id\"]\nversion = { field = \"v\", type = \"integer\" }\n\
                columns = { id = \"integer\", code = \"text\", n = \"integer\", v = \"integer\" }";
    let world = World::with_tables(table, toml).await;
    let row = |id: u32| match id {
        10 => format!("{{\"id\":{id},\"v\":1,\"code\":\"too long\"}}"),
        20 => format!("{{\"id\":{id},\"v\":1,\"n\":13}}"),
        30 => format!("{{\"id\":{id},\"v\":1,\"n\":3000000000}}"),
        _ => format!("{{\"id\":{id},\"v\":1,\"n\":{id},\"code\":\"c\"}}"),
    };
    let rows: Vec<_> = (0..2_000).filter(|id| *id != 13).map(row).collect();
    let applied = world.file("item", &rows.join("\n")).await;
    assert_eq!(applied, Applied { inserted: 1_995, bad: 4, ..Applied::default() });
    assert_eq!(world.query("SELECT count(*), count(DISTINCT id) FROM item"), ["1995|1995"]);
    let bad = world.query("SELECT problem FROM _waybill_bad_row ORDER BY row");
    assert!(bad[0].contains("value too long for type character varying(4)"), "{bad:?}");
    assert!(bad[1].contains("violates check constraint"), "{bad:?}");
    assert!(bad[2].contains("integer out of range"), "{bad:?}");
    assert!(bad[3].contains("no sevens"), "{bad:?}");
}

#[tokio::test]
async fn a_table_that_cannot_take_the_rows_is_refused_with_what_to_do_and_left_as_it_is() {
    let toml = "[entity.item]\nkey = [\"id\"]\ncolumns = { id = \"integer\", price = \"decimal\" }";
    let own = "_waybill_version bytea, _rescued json";
    for (table, expected) in [
        (format!("CREATE TABLE item (id bigint PRIMARY KEY, price numeric(10,2), {own})"), "numeric(10,2)"),
        (format!("CREATE TABLE item (id bigint, price numeric, {own})"), "neither its primary key nor unique"),
        ("CREATE TABLE item (id bigint PRIMARY KEY, price numeric)".to_owned(), "it lacks _waybill_version; add it"),
        (
            format!("CREATE TABLE item (id bigint PRIMARY KEY, price numeric GENERATED ALWAYS AS (1) STORED, {own})"),
            "is generated by the database",
        ),
        (
            format!("CREATE TABLE item (id bigint PRIMARY KEY, must integer NOT NULL, {own})"),
            "NOT NULL without a default",
        ),
        (format!("CREATE TABLE item (id real PRIMARY KEY, price numeric, {own})"), "declared as \"real\""),
        ("CREATE VIEW item AS SELECT 1 AS id".to_owned(), "is no table"),
    ] {
        let address = Place::new().await.schema("w").await;
        run(&address, &table).await;
        let columns =
            "SELECT attname, atttypid FROM pg_attribute WHERE attrelid = 'item'::regclass AND attnum > 0 ORDER BY 1";
        let before = run(&address, columns).await;
        let error = PostgresSink::open(&address, &super::world::entities(toml)).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{table}: {error}");
        assert!(!error.contains("search_path"), "{error}");
        assert_eq!(run(&address, columns).await, before);
    }
}

/// Under the key's collation `A` and `a` would be one row of the table, and two everywhere else.
#[tokio::test]
async fn a_key_that_is_not_compared_by_its_bytes_is_refused() {
    let toml = "[entity.item]\nkey = [\"id\", \"site\"]\ncolumns = { site = \"integer\" }";
    let own = "_waybill_version bytea, _rescued json";
    let collation = "CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);";
    for (table, of) in [
        (format!("CREATE TABLE item (id varchar(20) COLLATE nocase, site bigint, {own}, PRIMARY KEY (id, site))"), ""),
        (
            format!(
                "CREATE TABLE item (id text, site bigint, {own}, PRIMARY KEY (id, site));
                 CREATE UNIQUE INDEX mine ON item (site, id COLLATE nocase)"
            ),
            "index \"mine\" on ",
        ),
    ] {
        let address = Place::new().await.schema("w").await;
        run(&address, &format!("{collation}{table}")).await;
        let error = PostgresSink::open(&address, &entities(toml)).await.unwrap_err().to_string();
        let expected = format!("key column \"id\" of {of}table \"item\" compares its text by collation \"nocase\"");
        assert!(error.contains(&expected), "{table}: {error}");
        assert!(run(&address, "SELECT * FROM _waybill_table").await.is_empty());
        // What it names does it, once the index is gone.
        let statement = error.split_once("byte by byte (").unwrap().1.split_once("COLLATE").unwrap().0;
        run(&address, &format!("DROP INDEX IF EXISTS mine; {statement} COLLATE \"C\"")).await;
        PostgresSink::open(&address, &entities(toml)).await.unwrap().close();
    }
    let table = format!(
        "{collation}CREATE TABLE item (id text, site bigint, name text COLLATE nocase UNIQUE, {own}, PRIMARY KEY (id, site));
         CREATE INDEX by_id ON item (id COLLATE nocase)"
    );
    let world = World::with_tables(&table, toml).await;
    let rows = "{\"id\":\"A\",\"site\":1}\n{\"id\":\"a\",\"site\":1}";
    assert_eq!(world.file("item", rows).await.inserted, 2);
    assert_eq!(world.file("item", r#"{"id":"a","site":1,"_deleted":true}"#).await.deleted, 1);
    assert_eq!(world.query("SELECT id FROM item"), ["A"]);
}

/// A row has 8 KiB of room in its page: of 1,500 numbers not all have room there, and of short texts fewer.
#[tokio::test]
async fn what_has_no_room_in_its_row_is_rescued_and_the_row_is_no_bad_one() {
    const FIELDS: usize = 1_600;
    let number = |nth: usize| format!("{}", 1_000_000_000_000_000_001 + nth);
    let makes: [(&str, &dyn Fn(usize) -> String); 5] = [
        ("numbers", &number),
        ("texts as long as stay in the row", &|nth| format!("\"{nth:020}\"")),
        ("texts that are moved out", &|nth| format!("\"{nth:040}\"")),
        ("decimals", &|nth| format!("{nth}.12345678901234567890")),
        ("all kinds", &|nth| match nth % 5 {
            0 => "true".to_owned(),
            1 => number(nth),
            2 => format!("{nth}.5"),
            3 => format!("{{\"a\":{nth}}}"),
            _ => format!("\"{}\"", "x".repeat(nth % 50)),
        }),
    ];
    for (what, make) in makes {
        let world = World::new("[entity.thing]\nkey = [\"id\"]").await;
        let fields: String = (0..FIELDS).map(|nth| format!(",\"f{nth}\":{}", make(nth))).collect();
        let row = |id: u32| format!("{{\"id\":\"{id}{}\"{fields}}}\n", "k".repeat(200));
        assert_eq!(
            world.file("thing", &(row(1) + &row(2))).await,
            Applied { inserted: 2, ..Applied::default() },
            "{what}"
        );
        // Also by the other ways: as an update, and when it was read ahead.
        for _ in 0..3 {
            assert_eq!(world.file("thing", &row(1)).await, Applied { updated: 1, ..Applied::default() }, "{what}");
        }
        // Each value is in its column or among what was rescued.
        let found = world.query(
            "WITH found AS MATERIALIZED (SELECT to_jsonb(thing) AS fields, _rescued::jsonb AS rescued FROM thing)
             SELECT (SELECT count(*) FROM found, jsonb_each(fields) WHERE key LIKE 'f%' AND value <> 'null'),
                    (SELECT count(*) FROM found, jsonb_object_keys(rescued) AS key WHERE key LIKE 'f%')",
        );
        let counts: Vec<usize> = found[0].split('|').map(|count| count.parse().unwrap()).collect();
        assert_eq!(counts[0] + counts[1], 2 * FIELDS, "{what}");
        assert!(counts[0] > 2 * 250, "{what}: {counts:?}");
    }
}

#[tokio::test]
async fn dropped_columns_count_and_a_table_without_room_for_more_holds_up_nobody() {
    let all = |what: &str, rest: &str| {
        let actions: Vec<_> = (0..1_590).map(|nth| format!("{what} COLUMN x{nth}{rest}")).collect();
        actions.join(", ")
    };
    let table = format!(
        "CREATE TABLE item (id bigint PRIMARY KEY, v bigint, price numeric, _waybill_version bytea, _rescued json);
         ALTER TABLE item {}; ALTER TABLE item {}",
        all("ADD", " integer"),
        all("DROP", "")
    );
    let world = World::with_tables(&table, ITEM).await;
    let fields: String = (0..20).map(|nth| format!(",\"f{nth}\":{nth}")).collect();
    assert_eq!(world.file("item", &format!("{{\"id\":1,\"v\":1{fields}}}")).await.inserted, 1);
    assert_eq!(world.query("SELECT _rescued ->> 'f0', _rescued ->> 'f19' FROM item"), ["0|19"]);
    let columns: String = (0..10).map(|nth| format!(", c{nth} = \"text\"")).collect();
    let refused = world.refusal(&ITEM.replace("price = \"decimal\"", &format!("price = \"decimal\"{columns}"))).await;
    assert!(refused.contains("table \"item\" would have more columns than PostgreSQL allows"), "{refused}");
}

/// Numbers of a full row take more room as decimals.
#[tokio::test]
async fn a_column_that_has_no_room_for_decimals_stays_as_it_is_and_nothing_waits() {
    let world = World::new("[entity.thing]\nkey = [\"id\"]").await;
    let fields = |count: usize, value: &str| (0..count).map(|nth| format!(",\"f{nth}\":{value}")).collect::<String>();
    assert_eq!(world.file("thing", &format!("{{\"id\":1{}}}", fields(1_100, "1000000000000000001"))).await.inserted, 1);
    assert_eq!(world.file("thing", &format!("{{\"id\":2{}}}", fields(60, "0.5"))).await.inserted, 1);
    let found = world.query(
        "SELECT f0, _rescued -> 'f0', f59, _rescued ->> 'f59', (SELECT f59 FROM thing WHERE id = '1') FROM thing WHERE id = '2'",
    );
    assert_eq!(found, ["0.5|-|-|0.5|1000000000000000001"]);
}

#[tokio::test]
async fn names_may_be_keywords_differ_in_case_or_be_very_long() {
    let long = "x".repeat(200);
    let toml = format!(
        "[entity.a]\ntypes = [\"T\"]\ntable = \"select\"\nkey = [\"from\"]\n[entity.a.columns]\nfrom = \"text\"\n\"{long}\" = \"integer\"\n\
         [entity.b]\ntable = \"{long}\"\nkey = [\"id\"]"
    );
    let world = World::new(&toml).await;
    let row =
        format!("{{\"from\":\"o'x\\\"y\",\"{long}\":7,\"user\":\"u\",\"User\":\"v\",\"{long}y\":1,\"a\\\"b\":2}}");
    assert_eq!(world.file("T", &row).await.inserted, 1);
    assert_eq!(
        world.query("SELECT \"from\", \"user\", \"a\"\"b\", _rescued FROM \"select\""),
        ["o'x\"y|u|2|{\"User\":\"v\"}"]
    );
    assert_eq!(world.file("b", "{\"id\":1}").await.inserted, 1);
    assert_eq!(world.sink.totals().await.unwrap().tables.len(), 2);
}

#[tokio::test]
async fn parents_and_children_side_by_side_leave_nobody_waiting() {
    let toml = "[entity.parent]\nkey = [\"id\"]\nversion = { field = \"v\", type = \"integer\" }\n\
                [entity.child]\nkey = [\"id\"]\nversion = { field = \"v\", type = \"integer\" }\n\
                [[entity.child.references]]\nfields = [\"parent\"]\nentity = \"parent\"\n\
                [entity.grandchild]\nkey = [\"id\"]\nversion = { field = \"v\", type = \"integer\" }\n\
                [[entity.grandchild.references]]\nfields = [\"child\"]\nentity = \"child\"";
    let world = World::new(toml).await;
    let mut files = Vec::new();
    for chunk in 0..6_u32 {
        let ids = chunk * 100..(chunk + 1) * 100;
        let rows = |make: &dyn Fn(u32) -> String| ids.clone().map(make).collect::<Vec<_>>().join("\n");
        files.push(("grandchild", rows(&|id| format!("{{\"id\":{id},\"v\":1,\"child\":{id}}}"))));
        files.push(("child", rows(&|id| format!("{{\"id\":{id},\"v\":1,\"parent\":{}}}", id % 50))));
        files.push(("parent", rows(&|id| format!("{{\"id\":{id},\"v\":{chunk}}}"))));
    }
    let applied = files.iter().enumerate().map(|(nth, (of, rows))| {
        let batch = world.batch(of, Position::Broker { sequence_number: nth as i64 }, json_lines(rows));
        let sink = world.sink.clone();
        async move { sink.apply(&FileKey::of_export("shop", &nth.to_string()), 0, batch).await.unwrap() }
    });
    futures::future::join_all(applied).await;
    assert!(world.query("SELECT * FROM _waybill_parked").is_empty());
    let counts =
        "SELECT (SELECT count(*) FROM parent), (SELECT count(*) FROM child), (SELECT count(*) FROM grandchild)";
    assert_eq!(world.query(counts), ["600|600|600"]);
}

#[tokio::test]
async fn a_column_that_somebody_adds_or_drops_meanwhile_is_noticed() {
    let world = World::new("[entity.item]\nkey = [\"id\"]").await;
    world.file("item", r#"{"id":1,"a":1}"#).await;
    world.query("ALTER TABLE item DROP COLUMN a");
    assert_eq!(world.file("item", r#"{"id":2,"a":2}"#).await.inserted, 1);
    world.query("ALTER TABLE item ADD COLUMN b integer");
    assert_eq!(world.file("item", r#"{"id":3,"a":3,"b":3}"#).await.inserted, 1);
    assert_eq!(world.query("SELECT id, a, b FROM item ORDER BY id"), ["1|-|-", "2|2|-", "3|3|3"]);
    // Another sink, with its own idea of the columns.
    let other = PostgresSink::open(&world.address, &world.entities).await.unwrap();
    let batch = world.batch("item", Position::Broker { sequence_number: 9 }, json_lines(r#"{"id":4,"c":"x"}"#));
    other.apply(&FileKey::of_export("o", "1"), 0, batch).await.unwrap();
    assert_eq!(world.file("item", r#"{"id":5,"c":"y"}"#).await.inserted, 1);
    assert_eq!(world.query("SELECT id, c FROM item WHERE id >= '4' ORDER BY id"), ["4|x", "5|y"]);
}

#[tokio::test]
async fn constraints_that_wait_for_the_commit_do_not_take_other_rows_along() {
    let table = "CREATE TABLE place (id bigint PRIMARY KEY);
                 CREATE TABLE item (id bigint PRIMARY KEY, place bigint REFERENCES place DEFERRABLE INITIALLY DEFERRED,
                     _waybill_version bytea, _rescued json);
                 INSERT INTO place VALUES (1)";
    let toml = "[entity.item]\nkey = [\"id\"]\ncolumns = { id = \"integer\", place = \"integer\" }";
    let world = World::with_tables(table, toml).await;
    let applied = world.file("item", "{\"id\":1,\"place\":1}\n{\"id\":2,\"place\":2}\n{\"id\":3}").await;
    assert_eq!(applied, Applied { inserted: 2, bad: 1, ..Applied::default() });
    assert_eq!(world.query("SELECT id FROM item ORDER BY id"), ["1", "3"]);
}

#[tokio::test]
async fn a_row_that_somebody_else_put_there_is_replaced() {
    let world = World::new("[entity.item]\nkey = [\"id\"]\ncolumns = { id = \"integer\", n = \"integer\" }").await;
    world.query("ALTER TABLE item ALTER COLUMN _waybill_version DROP NOT NULL; INSERT INTO item (id, n) VALUES (1, 7)");
    let applied = world.file("item", "{\"id\":1,\"n\":8}\n{\"id\":2,\"n\":9}").await;
    assert_eq!(applied, Applied { inserted: 1, updated: 1, ..Applied::default() });
    assert_eq!(world.query("SELECT id, n FROM item ORDER BY id"), ["1|8", "2|9"]);
}

#[tokio::test]
async fn a_server_that_is_gone_is_an_outage_and_its_return_is_enough() {
    let world = World::new("[entity.item]\nkey = [\"id\"]").await;
    let file = FileKey::of_export("shop", "1");
    let batch = || world.batch("item", Position::Broker { sequence_number: 1 }, json_lines(r#"{"id":1}"#));
    world.sink.apply(&file, 0, batch()).await.unwrap();
    // Every connection of the sink is ended from outside.
    world.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = current_setting('application_name') AND pid <> pg_backend_pid()",
    );
    let mut outages = 0;
    let other = FileKey::of_export("shop", "2");
    let applied = loop {
        match world.sink.apply(&other, 0, batch()).await {
            Ok(applied) => break applied,
            Err(SinkError::Unavailable { .. }) if outages < 20 => outages += 1,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(applied.rows(), 1);
    let again = world.sink.apply(&file, 0, batch()).await;
    assert!(matches!(again, Err(SinkError::Fenced { .. })), "{again:?}");
}

/// Derives the table again, from the first file of the world.
async fn rebuild(world: &World, toml: &str, rows: &str) -> Result<Vec<SwappedTable>, RebuildError> {
    let scope = Scope::of(&entities(toml), &["item".to_owned()]);
    let mut rebuild = Rebuild::begin(&world.address, &scope).await?;
    let plans = crate::apply::EntityPlans::compile(scope.entities()).unwrap();
    let batch = super::world::batch(&plans, "item", Position::Broker { sequence_number: 1 }, json_lines(rows));
    rebuild.shadow().apply(&FileKey::of_export("shop", "1"), 0, batch).await.unwrap();
    rebuild.hold().await?;
    rebuild.swap().await
}

#[tokio::test]
async fn a_table_made_anew_keeps_what_was_put_on_it_unless_a_view_needs_it() {
    let world = World::new(ITEM).await;
    let rows = "{\"id\":1,\"v\":1,\"price\":19.90}\n{\"id\":2,\"v\":1,\"price\":5}";
    world.file("item", rows).await;
    let role = format!("r{}", uuid::Uuid::new_v4().simple());
    for sql in [
        "CREATE INDEX by_price ON item (price)",
        "ALTER TABLE item ADD CONSTRAINT has_price CHECK (price IS NOT NULL)",
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$",
        "CREATE TRIGGER noted AFTER UPDATE ON item FOR EACH ROW EXECUTE FUNCTION note()",
        &format!("CREATE ROLE {role}"),
        &format!("GRANT SELECT, UPDATE ON item TO {role}"),
        "CREATE VIEW dear AS SELECT id FROM item WHERE price > 6",
    ] {
        world.query(sql);
    }
    let attached = "SELECT indexdef FROM pg_indexes WHERE tablename = 'item' AND schemaname = current_schema()
        UNION ALL SELECT conname || pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'item'::regclass
        UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE tgrelid = 'item'::regclass
        UNION ALL SELECT grantee || privilege_type FROM information_schema.role_table_grants
            WHERE table_name = 'item' AND table_schema = current_schema() ORDER BY 1";
    let before = world.query(attached);
    assert!(before.iter().any(|line| line.starts_with(&role)) && before.len() > 5, "{before:?}");

    let keyed_by_text = ITEM.replace("id = \"integer\"", "id = \"text\"");
    let refused = rebuild(&world, &keyed_by_text, rows).await.unwrap_err().to_string();
    assert!(
        refused.contains("other objects depend on it") && refused.contains("view dear depends on table"),
        "{refused}"
    );
    assert_eq!((world.query("SELECT id FROM dear"), world.query(attached)), (vec!["1".to_owned()], before.clone()));

    world.query("DROP VIEW dear");
    let swapped = rebuild(&world, &keyed_by_text, rows).await.unwrap();
    assert_eq!(swapped.iter().map(|table| (table.way, table.rows)).collect::<Vec<_>>(), [(Way::MadeAnew, 2)]);
    assert_eq!(world.query(attached), before);
    assert_eq!(world.query("SELECT pg_typeof(id) FROM item WHERE id = '1'"), ["text"]);
    assert!(
        world
            .query("SELECT nspname FROM pg_namespace WHERE nspname = '_waybill_rebuild_' || current_schema()")
            .is_empty()
    );
    world.query(&format!("DROP OWNED BY {role}"));
    world.query(&format!("DROP ROLE {role}"));
}

#[tokio::test]
async fn rows_that_refer_to_a_table_are_left_alone_by_its_rebuild() {
    let world = World::new(ITEM).await;
    let rows = "{\"id\":1,\"v\":1,\"price\":19.90}\n{\"id\":2,\"v\":1,\"price\":5}";
    world.file("item", rows).await;
    for sql in [
        "CREATE TABLE note (item bigint REFERENCES item (id) ON DELETE CASCADE, text text)",
        "INSERT INTO note VALUES (1, 'a'), (2, 'b')",
        "UPDATE item SET price = 0",
        "INSERT INTO item (id, _waybill_version) VALUES (3, '')",
        "INSERT INTO note VALUES (3, 'of a row that no file has')",
    ] {
        world.query(sql);
    }
    let swapped = rebuild(&world, ITEM, rows).await.unwrap();
    assert_eq!((swapped[0].inserted, swapped[0].updated, swapped[0].deleted), (0, 2, 1));
    assert_eq!(world.query("SELECT text FROM note ORDER BY 1"), ["a", "b"]);
    assert_eq!(world.query("SELECT price FROM item ORDER BY id"), ["19.90", "5"]);
}

#[tokio::test]
async fn a_foreign_key_refuses_the_same_rows_again() {
    let toml = format!("{ITEM}\n[entity.tag]\nkey = [\"id\"]\ncolumns = {{ id = \"integer\", item = \"integer\" }}");
    let world = World::new(&toml).await;
    world.query("ALTER TABLE tag ADD CONSTRAINT of_item FOREIGN KEY (item) REFERENCES item (id)");
    let tags = "{\"id\":1,\"item\":1}\n{\"id\":2,\"item\":9}";
    world.file("item", r#"{"id":1,"v":1}"#).await;
    assert_eq!(world.file("tag", tags).await, Applied { inserted: 1, bad: 1, ..Applied::default() });
    // One is in the scope beside what it refers to, or alone.
    for wanted in [&["tag", "item"][..], &["tag"]] {
        let wanted: Vec<String> = wanted.iter().map(|name| (*name).to_owned()).collect();
        let scope = Scope::of(&entities(&toml), &wanted);
        let mut rebuild = Rebuild::begin(&world.address, &scope).await.unwrap();
        let shadow = rebuild.shadow();
        for (number, blob_type, rows) in [(1, "item", r#"{"id":1,"v":1}"#), (2, "tag", tags)] {
            if wanted.iter().any(|name| name == blob_type) {
                let batch = world.batch(blob_type, Position::Broker { sequence_number: number }, json_lines(rows));
                shadow.apply(&FileKey::of_export("shop", &number.to_string()), 0, batch).await.unwrap();
            }
        }
        rebuild.hold().await.unwrap();
        assert!(rebuild.behind().await.unwrap().is_empty());
        let swapped = rebuild.swap().await.unwrap();
        assert!(swapped.iter().all(|table| table.inserted + table.updated + table.deleted == 0), "{swapped:?}");
        assert_eq!(world.query("SELECT file_row FROM (SELECT row AS file_row FROM _waybill_bad_row) b"), ["2"]);
    }
}

#[tokio::test]
async fn tables_that_are_made_anew_keep_the_foreign_keys_between_them_and_those_of_others() {
    let toml = |kind: &str| {
        format!(
            "[entity.item]\nkey = [\"id\"]\ncolumns = {{ id = \"integer\", n = \"{kind}\" }}\n\
             [entity.tag]\nkey = [\"id\"]\ncolumns = {{ id = \"integer\", item = \"integer\", n = \"{kind}\" }}\n\
             references = [{{ fields = [\"item\"], entity = \"item\" }}]"
        )
    };
    let world = World::new(&toml("integer")).await;
    let files = [("item", "{\"id\":1,\"n\":1}\n{\"id\":2,\"n\":2}"), ("tag", "{\"id\":1,\"item\":1,\"n\":3}")];
    for (name, rows) in files {
        world.file(name, rows).await;
    }
    world.query(
        "CREATE TABLE note (item bigint REFERENCES item (id) ON DELETE CASCADE, text text);
         ALTER TABLE tag ADD CONSTRAINT of_item FOREIGN KEY (item) REFERENCES item (id) ON DELETE SET NULL;
         INSERT INTO note VALUES (1, 'a'), (2, 'b')",
    );
    let keys = "SELECT conrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint
                WHERE contype = 'f' AND connamespace = current_schema()::regnamespace ORDER BY 1";
    let before = world.query(keys);
    assert_eq!(before.len(), 2);
    let rebuild = async |files: &[(&str, &str)]| {
        let scope = Scope::of(&entities(&toml("text")), &["item".to_owned()]);
        let mut rebuild = Rebuild::begin(&world.address, &scope).await.unwrap();
        for (number, (name, rows)) in (1..).zip(files) {
            let batch = world.batch(name, Position::Broker { sequence_number: number }, json_lines(rows));
            rebuild.shadow().apply(&FileKey::of_export("shop", &number.to_string()), 0, batch).await.unwrap();
        }
        rebuild.hold().await.unwrap();
        rebuild.swap().await
    };
    // By these files there is no item 2, to which a note refers.
    let refused = rebuild(&[("item", "{\"id\":1,\"n\":1}"), files[1]]).await.unwrap_err().to_string();
    assert!(refused.contains("violates foreign key constraint") && refused.contains("note"), "{refused}");
    assert_eq!(
        (world.query(keys), world.query("SELECT n + 1 FROM item ORDER BY 1")),
        (before.clone(), vec!["2".to_owned(), "3".to_owned()])
    );

    let swapped = rebuild(&files).await.unwrap();
    assert_eq!(swapped.iter().map(|table| table.way).collect::<Vec<_>>(), [Way::MadeAnew, Way::MadeAnew]);
    assert_eq!(world.query(keys), before);
    assert_eq!(world.query("SELECT text FROM note ORDER BY 1"), ["a", "b"]);
    assert_eq!(world.query("SELECT n || '' FROM item UNION ALL SELECT n || '' FROM tag ORDER BY 1"), ["1", "2", "3"]);
}

#[tokio::test]
async fn a_table_whose_rows_are_hidden_from_the_sink_is_refused_with_what_to_do() {
    let world = World::new(ITEM).await;
    let role = format!("r{}", uuid::Uuid::new_v4().simple());
    let schema = world.query("SELECT current_schema()").remove(0);
    world.query(&format!(
        "CREATE ROLE {role} LOGIN; GRANT ALL ON SCHEMA {schema} TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role};
         GRANT ALL ON ALL SEQUENCES IN SCHEMA {schema} TO {role}"
    ));
    let address = world.address.replacen("waybill@", &format!("{role}@"), 1);
    let sink = PostgresSink::open(&address, &entities(ITEM)).await.unwrap();
    world.query("ALTER TABLE item ENABLE ROW LEVEL SECURITY");
    let batch = world.batch("item", Position::Broker { sequence_number: 1 }, json_lines(r#"{"id":1,"v":1}"#));
    match sink.apply(&FileKey::of_export("", "1"), 0, batch).await.unwrap_err() {
        SinkError::Failed { problem, .. } => assert!(problem.contains("BYPASSRLS"), "{problem}"),
        other => panic!("{other:?}"),
    }
    sink.close();
    let error = PostgresSink::open(&address, &entities(ITEM)).await.unwrap_err().to_string();
    assert!(error.contains("hides rows from this role; the sink has to see and to write every row"), "{error}");
    world.query(&format!("ALTER ROLE {role} BYPASSRLS"));
    PostgresSink::open(&address, &entities(ITEM)).await.unwrap().close();
    world.query(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

#[tokio::test]
async fn a_schema_of_any_name_has_its_shadow_beside_it() {
    let (server, name) = (Place::new().await.schema("w").await, format!("we\"ird {}", uuid::Uuid::new_v4().simple()));
    let quoted = waybill_contracts::SqlName::new(&name).to_string();
    run(&server, &format!("CREATE SCHEMA {quoted}")).await;
    let escaped = quoted.replace('"', "%22").replace(' ', "%5C%20");
    let address = format!("{}%20-c%20search_path%3D{escaped}", server);
    let sink = PostgresSink::open(&address, &entities(ITEM)).await.unwrap();
    let row = || {
        super::world::batch(
            sink.plans(),
            "item",
            Position::Broker { sequence_number: 1 },
            json_lines(r#"{"id":1,"v":1}"#),
        )
    };
    let file = FileKey::of_export("shop", "1");
    sink.apply(&file, 0, row()).await.unwrap();
    run(&server, &format!("DELETE FROM {quoted}.item")).await;
    let scope = Scope::of(&entities(ITEM), &["item".to_owned()]);
    let mut rebuild = Rebuild::begin(&address, &scope).await.unwrap();
    rebuild.shadow().apply(&file, 0, row()).await.unwrap();
    rebuild.hold().await.unwrap();
    rebuild.swap().await.unwrap();
    assert_eq!(run(&server, &format!("SELECT id FROM {quoted}.item")).await, ["1"]);
    sink.close();
    run(&server, &format!("DROP SCHEMA {quoted} CASCADE")).await;
}

/// The server ends a transaction in which nothing happens: that is for programs that are frozen.
#[tokio::test]
async fn a_file_that_is_one_transaction_may_come_slowly() {
    let world = World::new(ITEM).await;
    let address = format!("{}%20-c%20idle_in_transaction_session_timeout%3D1s", world.address);
    let sink = PostgresSink::open(&address, &world.entities).await.unwrap();
    let (to, batches) = tokio::sync::mpsc::channel(1);
    let giving = async {
        for row in
            super::world::decode(waybill_formats::Source::JsonLines, "{\"id\":1,\"v\":1}\n{\"id\":2,\"v\":1}\n", 1)
        {
            let is_last = row.last_row() == 2;
            let batch = world.batch("item", Position::Broker { sequence_number: 1 }, vec![row]);
            let end = batch.end.clone().filter(|_| is_last);
            if is_last {
                tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
                let open = format!(
                    "SELECT count(*) FROM pg_stat_activity
                     WHERE application_name = '{}' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()",
                    world.schema()
                );
                assert_eq!(world.ask(&open).await, ["1"], "it has begun");
            }
            to.send(EntityBatch { end, ..batch }).await.unwrap();
        }
    };
    let file = FileKey::of_export("slow", "1");
    let (applied, ()) = tokio::join!(sink.apply_whole(&file, batches), giving);
    assert_eq!(applied.unwrap().unwrap().inserted, 2);
    sink.close();
}

#[tokio::test]
async fn whole_files_that_wait_for_each_other_leave_connections_for_the_rest() {
    let world = World::new(ITEM).await;
    let files: Vec<_> = (0..12).map(|number| FileKey::of_export("many", &number.to_string())).collect();
    let (senders, batches): (Vec<_>, Vec<_>) = files.iter().map(|_| tokio::sync::mpsc::channel(1)).unzip();
    let row = || world.batch("item", Position::Broker { sequence_number: 1 }, json_lines(r#"{"id":1,"v":1}"#));
    let begun = format!(
        "SELECT count(*) FROM pg_stat_activity
         WHERE application_name = '{}' AND xact_start IS NOT NULL AND pid <> pg_backend_pid()",
        world.schema()
    );
    let giving = async {
        for to in &senders {
            to.send(EntityBatch { end: None, ..row() }).await.unwrap();
        }
        while world.ask(&begun).await != ["4"] {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        assert_eq!(world.ask(&begun).await, ["4"], "of twelve");
        assert_eq!(world.sink.progress(&files[0]).await.unwrap().rows, 0);
        for to in &senders {
            to.send(EntityBatch { rows: Vec::new(), ..row() }).await.unwrap();
        }
    };
    let all = files.iter().zip(batches).map(|(file, batches)| world.sink.apply_whole(file, batches));
    let (applied, ()) = tokio::join!(futures::future::join_all(all), giving);
    assert!(applied.into_iter().all(|applied| applied.unwrap().unwrap().rows() == 1));
}
