//! Tables derived again from the files, as an operator sees it.

use std::time::Duration;

use tempfile::TempDir;
use waybill_store::rusqlite::Connection;

use super::{
    binaries::{ITEM, PATIENCE, Running, beside_local, command, publish, publish_long, run},
    databases::{Database, Schema},
};

const SINK: [&str; 6] = ["--local", "local.json", "--entities", "entities.toml", "--sink", "sqlite:a.sqlite"];

pub(super) fn with_sink(folder: &TempDir, what: &'static str, more: &[&str]) -> std::process::Command {
    command(folder, "waybill-subscriber", &[&[what], &SINK[..], more].concat())
}

/// What a query gives, the columns by `|`.
pub(super) fn query(folder: &TempDir, sql: &str) -> Vec<String> {
    let connection = Connection::open(folder.path().join("a.sqlite")).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    let mut statement = connection.prepare(sql).unwrap();
    let columns = statement.column_count();
    let row = |row: &waybill_store::rusqlite::Row<'_>| {
        let value = |at| row.get::<_, Option<String>>(at).map(|text| text.unwrap_or_else(|| "-".to_owned()));
        (0..columns).map(value).collect::<Result<Vec<_>, _>>().map(|values| values.join("|"))
    };
    statement.query_map([], row).unwrap().collect::<Result<_, _>>().unwrap()
}

fn change(folder: &TempDir, sql: &str) {
    let connection = Connection::open(folder.path().join("a.sqlite")).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection.execute_batch(sql).unwrap();
}

/// The same into any database.
fn into(folder: &TempDir, database: &Database, what: &str, more: &[&str]) -> std::process::Command {
    let sink = ["--local", "local.json", "--entities", "entities.toml", "--sink", database.sink()];
    command(folder, "waybill-subscriber", &[&[what], &sink[..], more].concat())
}

const ROWS: &str = "SELECT CAST(\"ItemID\" AS TEXT), \"Price\" FROM item ORDER BY \"ItemID\"";
const ALL: &str = "SELECT CAST(count(*) AS TEXT), CAST(sum(\"ItemID\") AS TEXT), CAST(max(\"Price\") AS TEXT) FROM item
                   UNION ALL SELECT file, CAST(rows AS TEXT), CAST(done AS TEXT) FROM _waybill_progress ORDER BY 1";

/// Looks until it holds.
async fn until(folder: &TempDir, sql: &str, expected: &[&str]) {
    let looking = async {
        while query(folder, sql) != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, looking).await;
    assert!(found.is_ok(), "{sql}: {:?} instead of {expected:?}", query(folder, sql));
}

#[tokio::test]
async fn an_entity_that_comes_later_is_told_what_it_lacks_and_gets_it_by_a_rebuild() {
    let (folder, local) = beside_local().await;
    std::fs::write(folder.path().join("entities.toml"), "").unwrap();
    run(publish(&folder, &["item.csv"])).await.with(0);
    for database in Database::both(&folder, "a.sqlite").await {
        let into = |what: &str, more: &[&str]| into(&folder, &database, what, more);
        std::fs::write(folder.path().join("entities.toml"), "").unwrap();
        run(into("run", &["--until-idle", "0.5"])).await.with(0);
        std::fs::write(folder.path().join("entities.toml"), ITEM).unwrap();
        let told = run(into("run", &["--until-idle", "0.5"])).await.with(0).err;
        let wanted = "table \"ItemChanges\" holds what came of ItemChanges before it had an entity; the table of entity \"item\" \
                      gets only what comes from now on, until `waybill-subscriber rebuild --type item` derives it from all files";
        assert_eq!(told.matches(wanted).count(), 1, "{told}");
        assert_eq!(database.query("SELECT count(*) FROM item").await, ["0"]);
        let rebuilt = run(into("rebuild", &["--type", "item"])).await.with(0).out;
        assert!(rebuilt.contains("left as it was: its type has an entity now; yours to drop"), "{rebuilt}");
        assert_eq!(database.query(ROWS).await, ["1|19.90", "2|5.00"]);
        let quiet = run(into("run", &["--until-idle", "0.5"])).await.with(0).err;
        assert!(!quiet.contains("holds what came"), "{quiet}");
        database.remove().await;
    }
    local.stop().await;
}

#[tokio::test]
async fn a_damaged_table_is_right_again_beside_a_running_subscriber_which_goes_on() {
    let (folder, local) = beside_local().await;
    std::fs::write(folder.path().join("entities.toml"), ITEM).unwrap();
    run(publish(&folder, &["item.csv"])).await.with(0);
    run(with_sink(&folder, "run", &["--until-idle", "0.5"])).await.with(0);
    let running = Running::start(with_sink(&folder, "run", &[]));
    std::fs::write(folder.path().join("more.csv"), "ItemID,Price\n3,7.00\n").unwrap();
    run(publish(&folder, &["more.csv"])).await.with(0);
    until(&folder, ROWS, &["1|19.90", "2|5.00", "3|7.00"]).await;

    change(&folder, "DELETE FROM item WHERE ItemID = 2; UPDATE item SET Price = '1' WHERE ItemID = 1");
    let told = run(with_sink(&folder, "rebuild", &[])).await.with(0).out;
    assert!(told.starts_with("2 files, 3 rows; the tables were swapped after "), "{told}");
    assert!(told.contains("1 inserted, 1 updated, 0 deleted"), "{told}");
    assert_eq!(query(&folder, ROWS), ["1|19.90", "2|5.00", "3|7.00"]);
    let told = run(with_sink(&folder, "rebuild", &["--type", "item", "--format", "json"])).await.with(0).json();
    assert_eq!((&told["files"], &told["rows"], &told["gaps"]), (&2.into(), &3.into(), &0.into()));
    let table = serde_json::json!(
        { "table": "item", "way": "compared", "rows": 3, "inserted": 0, "updated": 0, "deleted": 0 });
    assert_eq!(told["tables"], serde_json::json!([table]));

    // The running one goes on.
    std::fs::write(folder.path().join("more.csv"), "ItemID,Price,Name\n1,20.00,x\n").unwrap();
    run(publish(&folder, &["more.csv"])).await.with(0);
    until(&folder, ROWS, &["1|20.00", "2|5.00", "3|7.00"]).await;
    running.terminate().await.with(0);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name == "a.sqlite.rebuild"), "{left:?}");
    assert_eq!(std::fs::read_dir(folder.path().join(".waybill/rebuild")).unwrap().count(), 0);
    local.stop().await;
}

#[tokio::test]
async fn in_postgres_a_running_subscriber_survives_that_its_tables_are_swapped() {
    let (folder, local) = beside_local().await;
    std::fs::write(folder.path().join("entities.toml"), ITEM).unwrap();
    let schema = Schema::new().await;
    let into = |what: &str, more: &[&str]| {
        let sink = ["--local", "local.json", "--entities", "entities.toml", "--sink", &schema.address];
        command(&folder, "waybill-subscriber", &[&[what], &sink[..], more].concat())
    };
    let running = Running::start(into("run", &[]));
    run(publish(&folder, &["item.csv"])).await.with(0);
    let rows = "SELECT \"ItemID\", \"Price\" FROM item ORDER BY 1";
    schema.until(rows, &["1|19.90", "2|5.00"]).await;
    // Once compared, once made anew.
    for damage in ["UPDATE item SET \"Price\" = 19.9", "DROP TABLE item"] {
        schema.client.batch_execute(damage).await.unwrap();
        let told = run(into("rebuild", &[])).await.with(0).out;
        assert!(told.starts_with("1 file, 2 rows; the tables were swapped after "), "{told}");
        assert_eq!(schema.rows(rows).await, ["1|19.90", "2|5.00"]);
    }
    std::fs::write(folder.path().join("more.csv"), "ItemID,Price,Name\n1,20.00,x\n3,7.00,y\n").unwrap();
    run(publish(&folder, &["more.csv"])).await.with(0);
    schema.until(rows, &["1|20.00", "2|5.00", "3|7.00"]).await;
    running.terminate().await.with(0);
    let left = format!("SELECT nspname FROM pg_namespace WHERE nspname = '_waybill_rebuild_{}'", schema.name);
    assert!(schema.rows(&left).await.is_empty());
    schema.remove().await;
    local.stop().await;
}

#[tokio::test]
async fn a_rebuild_that_is_killed_leaves_the_tables_and_the_next_one_does_it() {
    let (folder, local) = beside_local().await;
    const DAMAGE: &str = "DELETE FROM item WHERE \"ItemID\" % 2 = 0";
    publish_long(&folder).await;
    for database in Database::both(&folder, "a.sqlite").await {
        run(into(&folder, &database, "run", &["--until-idle", "0.5"])).await.with(0);
        let right = database.query(ALL).await;
        database.change(DAMAGE).await;
        let damaged = database.query(ALL).await;
        for wait in [100, 200, 300, 400, 600] {
            let mut slowly = into(&folder, &database, "rebuild", &[]);
            slowly.env("WAYBILL_SUBSCRIBER__COMMIT_ROWS_MAX", "1000");
            let rebuild = Running::start(slowly);
            tokio::time::sleep(Duration::from_millis(wait)).await;
            drop(rebuild);
            let now = database.query(ALL).await;
            // Wherever it was: all or nothing.
            assert!(now == damaged || now == right, "after {wait} ms: {now:?}");
        }
        database.change(DAMAGE).await;
        // In PostgreSQL the session of one that was killed may live a moment longer.
        let rebuilding = async {
            loop {
                let ended = run(into(&folder, &database, "rebuild", &[])).await;
                if !ended.err.contains("another rebuild is under way") {
                    return ended.with(0);
                }
            }
        };
        tokio::time::timeout(PATIENCE, rebuilding).await.expect("the killed one has its lock still");
        assert_eq!(database.query(ALL).await, right);
        database.remove().await;
    }
    local.stop().await;
}

#[tokio::test]
async fn what_is_missing_is_named_and_a_rebuild_without_it_has_to_be_asked_for() {
    let (folder, local) = beside_local().await;
    std::fs::write(folder.path().join("entities.toml"), ITEM).unwrap();
    std::fs::write(folder.path().join("more.csv"), "ItemID,Price\n3,7.00\n").unwrap();
    run(publish(&folder, &["item.csv", "more.csv", "item.csv"])).await.with(0);
    let databases = Database::both(&folder, "a.sqlite").await;
    for database in &databases {
        run(into(&folder, database, "run", &["--until-idle", "0.5"])).await.with(0);
    }
    let inbox = Connection::open(folder.path().join(".waybill/inbox.sqlite")).unwrap();
    inbox.execute_batch("DELETE FROM history; DELETE FROM inbox WHERE sequence = 2").unwrap();
    drop(inbox);
    for database in databases {
        let rebuild = |more: &[&str]| into(&folder, &database, "rebuild", more);
        let refused = run(rebuild(&[])).await.with(1).err;
        assert!(refused.contains("ItemChanges: number 2 of publisher"), "{refused}");
        assert!(refused.contains("the files are not provably all") && refused.contains("--incomplete"), "{refused}");
        assert!(refused.contains("`waybill-subscriber reconcile`"), "{refused}");
        assert_eq!(database.query(ROWS).await, ["1|19.90", "2|5.00", "3|7.00"]);

        let told = run(rebuild(&["--incomplete"])).await.with(3);
        assert!(told.err.contains("going on without what is named above"), "{}", told.err);
        assert!(told.err.contains("going on without 1 file that took effect in the tables"), "{}", told.err);
        assert!(told.out.contains("not proven to be whole: 1 gap, 1 file left out; named above"), "{}", told.out);
        assert_eq!(database.query(ROWS).await, ["1|19.90", "2|5.00"]);

        let nothing = run(rebuild(&["--type", "Other"])).await.with(1).err;
        assert!(nothing.contains("no file to derive tables from"), "{nothing}");
        database.remove().await;
    }
    let folder_sink = ["rebuild", "--local", "local.json", "--sink", "dir:out"];
    let refused = run(command(&folder, "waybill-subscriber", &folder_sink)).await.with(1).err;
    assert!(refused.contains("dir:…: rebuild derives the tables of a database"), "{refused}");
    local.stop().await;
}

#[tokio::test]
async fn a_changed_filter_that_a_run_refuses_is_taken_by_a_rebuild() {
    let (folder, local) = beside_local().await;
    run(publish(&folder, &["item.csv"])).await.with(0);
    for database in Database::both(&folder, "a.sqlite").await {
        let into = |what: &str, more: &[&str]| into(&folder, &database, what, more);
        std::fs::write(folder.path().join("entities.toml"), ITEM).unwrap();
        run(into("run", &["--until-idle", "0.5"])).await.with(0);
        std::fs::write(folder.path().join("entities.toml"), format!("{ITEM}where = 'row.Price > 6.0'\n")).unwrap();
        let refused = run(into("run", &["--until-idle", "0.5"])).await.with(1).err;
        assert!(refused.contains("let `waybill-subscriber rebuild --type item` derive the table again"), "{refused}");
        let told = run(into("rebuild", &["--type", "item"])).await.with(0).out;
        assert!(told.contains("0 inserted, 0 updated, 1 deleted"), "{told}");
        run(into("run", &["--until-idle", "0.5"])).await.with(0);
        assert_eq!(database.query(ROWS).await, ["1|19.90"]);
        database.remove().await;
    }
    local.stop().await;
}

#[tokio::test]
async fn a_replay_into_the_same_sink_does_nothing_and_points_to_rebuild() {
    let (folder, local) = beside_local().await;
    std::fs::write(folder.path().join("entities.toml"), ITEM).unwrap();
    run(publish(&folder, &["item.csv"])).await.with(0);
    for database in Database::both(&folder, "a.sqlite").await {
        run(into(&folder, &database, "run", &["--until-idle", "0.5"])).await.with(0);
        database.change("DELETE FROM item WHERE \"ItemID\" = 2").await;
        let told = run(into(&folder, &database, "replay", &[])).await.with(0).err;
        assert!(told.contains("this sink has these files already (1 file), nothing was to be done"), "{told}");
        assert!(told.contains("`waybill-subscriber rebuild`"), "{told}");
        assert_eq!(database.query(ROWS).await, ["1|19.90"]);
        assert_eq!(std::fs::read_dir(folder.path().join(".waybill/replay")).unwrap().count(), 0, "no copy is kept");
        database.remove().await;
    }
    local.stop().await;
}
