//! Full exports, as a publisher's and a subscriber's operator see them.

use std::time::Duration;

use waybill_store::rusqlite::Connection;

use super::{
    binaries::{PATIENCE, Running, beside_local, command, publish, run},
    rebuild::{query, with_sink},
};

#[tokio::test]
async fn a_full_export_brings_what_is_lost_and_overwrites_nothing_newer() {
    let (folder, local) = beside_local().await;
    std::fs::write(folder.path().join("waybill.toml"), "[publisher]\nchange_log = \"sqlite:shop.sqlite\"\n").unwrap();
    std::fs::write(folder.path().join("entities.toml"), "[entity.item]\ntypes = [\"ItemChanges\"]\nkey = [\"id\"]\n")
        .unwrap();
    let publisher = async |arguments: &[&str]| run(command(&folder, "waybill-publisher", arguments)).await;
    let follow = async || run(with_sink(&folder, "run", &["--until-idle", "0.5"])).await.with(0);
    publisher(&["init"]).await;
    let service = Connection::open(folder.path().join("shop.sqlite")).unwrap();
    service.busy_timeout(PATIENCE).unwrap();
    service.execute_batch("CREATE TABLE item (id INTEGER PRIMARY KEY, price)").unwrap();
    let triggers = publisher(&["triggers", "item", "--type", "ItemChanges"]).await.with(0).out;
    service.execute_batch(&triggers).unwrap();
    // Each in a file of its own; this is its number.
    let publish = async |number: u64, sql: &str| {
        service.execute_batch(sql).unwrap();
        let running = Running::start(command(&folder, "waybill-publisher", &["run", "--local", "local.json"]));
        let list = ["list", "--type", "ItemChanges", "--format", "json", "--state", "sent"];
        let is_sent = async || {
            let listed = run(command(&folder, "waybill-publisher", &list)).await;
            // Before the first one there is no outbox.
            listed.code == Some(0) && listed.json()[0]["sequence"] == number
        };
        while !is_sent().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        running.terminate().await.with(0);
    };
    publish(1, "INSERT INTO item VALUES (1, 1), (2, 2), (3, 3)").await;
    follow().await;
    publish(
        2,
        "UPDATE item SET price = 20 WHERE id = 2; INSERT INTO item VALUES (4, 4); DELETE FROM item WHERE id = 3",
    )
    .await;
    let elsewhere =
        ["run", "--local", "local.json", "--data", "other", "--sink", "sqlite:other.sqlite", "--until-idle", "0.5"];
    run(command(&folder, "waybill-subscriber", &elsewhere)).await.with(0);
    publish(3, "UPDATE item SET price = 10 WHERE id = 1").await;
    follow().await;
    let rows = "SELECT CAST(id AS TEXT), CAST(price AS TEXT) FROM item ORDER BY id";
    assert_eq!(query(&folder, rows), ["1|10", "2|2", "3|3"], "a file is lost");

    let snapshot = ["snapshot", "--local", "local.json", "--type", "ItemChanges", "--table", "item", "--id", "nightly"];
    let in_parts = [&snapshot[..], &["--max-rows", "2"]].concat();
    let made = publisher(&[&in_parts[..], &["--format", "json"]].concat()).await.with(0).json();
    let shown = (&made["snapshot"], &made["asOf"], &made["rows"], &made["sent"], &made["repeated"]);
    assert_eq!(shown, (&"nightly".into(), &3.into(), &3.into(), &true.into(), &false.into()));
    let told = publisher(&snapshot).await.with(0).out;
    assert!(told.ends_with("full export \"nightly\" of 3 rows, as of number 3: sent before, not again\n"), "{told}");
    publish(6, "UPDATE item SET price = 11 WHERE id = 1").await;
    follow().await;
    assert_eq!(query(&folder, rows), ["1|11", "2|20", "3|3", "4|4"], "and it deletes nothing");
    let told = run(command(&folder, "waybill-subscriber", &["show", "3"])).await.with(0).out;
    assert!(told.contains("full export     \"nightly\", part 1 of 2, as of number 3"), "{told}");
    let told = publisher(&["show", "5"]).await.with(0).out;
    assert!(told.contains("full export     \"nightly\", part 2 of 2, as of number 3"), "{told}");

    // Rows of the type that another table has are not forgotten in silence.
    service.execute_batch("CREATE TABLE more (id INTEGER PRIMARY KEY, price)").unwrap();
    let triggers = publisher(&["triggers", "more", "--type", "ItemChanges"]).await.with(0).out;
    service.execute_batch(&triggers).unwrap();
    let next = |id: &'static str, more: &[&'static str]| {
        let named = ["snapshot", "--local", "local.json", "--type", "ItemChanges", "--table", "Item", "--id", id];
        [&named[..], more].concat()
    };
    let refused = publisher(&next("next", &[])).await.with(1).err;
    assert!(refused.contains("rows of ItemChanges also come from more, by its triggers"), "{refused}");
    let told = publisher(&next("next", &["--table", "more", "--as", "csv"])).await.with(0).out;
    assert!(told.contains("full export \"next\" of 3 rows, as of number 6: sent"), "{told}");
    service.execute_batch("DELETE FROM item").unwrap();
    let told = publisher(&next("empty", &["--table", "more", "--as", "csv"])).await.with(0).out;
    assert!(told.starts_with("part 1 of 1: 0 rows"), "{told}");
    local.stop().await;
}

#[tokio::test]
async fn a_full_export_of_files_says_as_of_which_number_they_are() {
    let (folder, local) = beside_local().await;
    run(publish(&folder, &["item.csv"])).await.with(0);
    let snapshot = ["snapshot", "--local", "local.json", "--type", "ItemChanges", "item.csv"];
    let of = async |more: &[&str]| run(command(&folder, "waybill-publisher", &[&snapshot[..], more].concat())).await;
    let refused = of(&[]).await.with(1).err;
    assert!(
        refused.contains("ItemChanges has files up to number 1 already") && refused.contains("give --as-of"),
        "{refused}"
    );
    let refused = of(&["--as-of", "2"]).await.with(1).err;
    assert!(refused.contains("2 is no number of ItemChanges yet; the last one is 1"), "{refused}");
    let told = of(&["--as-of", "0", "--id", "first", "item.csv"]).await.with(0).out;
    assert!(told.contains("part 2 of 2: 2 rows"), "{told}");
    assert!(told.ends_with("full export \"first\" of 4 rows, as of number 0: sent\n"), "{told}");
    for wrong in [&["--table", "item"][..], &["-"], &["--input", "csv"], &["--max-rows", "5"]] {
        of(wrong).await.with(2);
    }
    let shown = run(command(&folder, "waybill-publisher", &["list", "--format", "json"])).await.with(0).json();
    assert_eq!(shown[0]["snapshot"], serde_json::json!({ "id": "first", "part": 2, "of": 2, "asOf": 0 }));
    local.stop().await;
}
