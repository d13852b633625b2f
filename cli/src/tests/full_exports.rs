//! Full exports, as a publisher's and a subscriber's operator see them.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use waybill_local::Local;
use waybill_store::rusqlite::Connection;

use super::{
    binaries::{Ended, PATIENCE, Running, beside_local, command, delete_blob, publish, run, send},
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

const ROWS: &str = "SELECT CAST(id AS TEXT), CAST(price AS TEXT) FROM item ORDER BY id";

/// A service with a table, and a subscriber that has all that it published: three files, a full export in two parts, as of number 3,
/// and one file more.
struct Shop {
    folder: TempDir,
    local: Local,
}

impl Shop {
    async fn open() -> Self {
        let (folder, local) = beside_local().await;
        let shop = Self { folder, local };
        shop.write("waybill.toml", "[publisher]\nchange_log = \"sqlite:shop.sqlite\"\n");
        // Files that come together are worked in any order, and the first one would say what a price is.
        let item = "[entity.item]\ntypes = [\"ItemChanges\"]\nkey = [\"id\"]\ncolumns = { price = \"text\" }\n";
        shop.write("entities.toml", item);
        shop.publisher(&["init"]).await;
        shop.sql("shop.sqlite", "CREATE TABLE item (id INTEGER PRIMARY KEY, price)");
        let triggers = shop.publisher(&["triggers", "item", "--type", "ItemChanges"]).await.with(0).out;
        shop.sql("shop.sqlite", &triggers);
        shop.publish(1, "INSERT INTO item VALUES (1, 1), (2, 2), (3, 3)").await;
        shop.publish(2, "UPDATE item SET price = 20 WHERE id = 2; INSERT INTO item VALUES (4, 'x')").await;
        shop.publish(3, "DELETE FROM item WHERE id = 3").await;
        let named = ["snapshot", "--local", "local.json", "--type", "ItemChanges", "--table", "item"];
        let full = [&named[..], &["--id", "nightly", "--max-rows", "2"]].concat();
        shop.publisher(&full).await.with(0);
        shop.publish(6, "UPDATE item SET price = 11 WHERE id = 1; INSERT INTO item VALUES (5, 5)").await;
        shop.follow().await;
        assert_eq!(query(&shop.folder, ROWS), Self::ALL);
        shop
    }

    const ALL: [&str; 4] = ["1|11", "2|20", "4|x", "5|5"];

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn sql(&self, database: &str, sql: &str) {
        let connection = Connection::open(self.folder.path().join(database)).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        connection.execute_batch(sql).unwrap();
    }

    async fn publisher(&self, arguments: &[&str]) -> Ended {
        run(command(&self.folder, "waybill-publisher", arguments)).await
    }

    async fn follow(&self) {
        run(with_sink(&self.folder, "run", &["--until-idle", "0.5"])).await.with(0);
    }

    async fn rebuild(&self, more: &[&str]) -> Ended {
        run(with_sink(&self.folder, "rebuild", more)).await
    }

    async fn sent(&self) -> Vec<Value> {
        let list = ["list", "--type", "ItemChanges", "--format", "json", "--state", "sent"];
        let listed = self.publisher(&list).await;
        // Before the first one there is no outbox.
        if listed.code == Some(0) { listed.json().as_array().unwrap().clone() } else { Vec::new() }
    }

    /// In a file of its own, which has this number.
    async fn publish(&self, number: u64, sql: &str) {
        self.sql("shop.sqlite", &format!("BEGIN; {sql}; COMMIT"));
        let running = Running::start(command(&self.folder, "waybill-publisher", &["run", "--local", "local.json"]));
        while self.sent().await.first().is_none_or(|newest| newest["sequence"] != number) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        running.terminate().await.with(0);
    }

    /// The blobs up to this number go.
    async fn delete_blobs(&self, up_to: u64) {
        for file in self.sent().await.iter().filter(|file| file["sequence"].as_u64().unwrap() <= up_to) {
            delete_blob(&self.local, file["uri"].as_str().unwrap()).await;
        }
    }

    /// And the inbox forgets the files.
    async fn prune(&self, up_to: u64) {
        self.sql(
            ".waybill/inbox.sqlite",
            &format!("UPDATE inbox SET changed_at = 0 WHERE blob_type = 'ItemChanges' AND sequence <= {up_to}"),
        );
        let pruned =
            run(command(&self.folder, "waybill-subscriber", &["prune", "--files", "1d", "--format", "json"])).await;
        assert_eq!(pruned.with(0).json()["files"], up_to);
    }

    /// Rows that a table made of what is left would have, and one that it would lack.
    fn damage(&self) {
        self.sql("a.sqlite", "UPDATE item SET id = 3 WHERE id = 4");
    }
}

#[tokio::test]
async fn a_rebuild_begins_at_a_full_export_where_the_blobs_before_it_are_gone() {
    let shop = Shop::open().await;
    shop.delete_blobs(3).await;
    shop.damage();
    let told = shop.rebuild(&[]).await.with(0);
    assert!(
        told.err.contains("ItemChanges: files could not be worked for which a full export may stand"),
        "{}",
        told.err
    );
    let begins = "ItemChanges begins at full export \"nightly\", as of number 3; 3 files before it could not be worked";
    assert!(told.out.contains(begins), "{}", told.out);
    assert!(told.out.contains("1 inserted, 0 updated, 1 deleted"), "{}", told.out);
    assert_eq!(query(&shop.folder, ROWS), Shop::ALL);
    // What was passed over is over for a run, too.
    shop.follow().await;
    let done = ["list", "--state", "done", "--type", "ItemChanges", "--format", "json"];
    let done = run(command(&shop.folder, "waybill-subscriber", &done)).await.with(0).json();
    assert_eq!(done.as_array().unwrap().len(), 6, "{done}");

    // Likewise where the inbox has forgotten them, and where another database is to be filled.
    shop.prune(3).await;
    shop.damage();
    for sink in ["sqlite:a.sqlite", "sqlite:b.sqlite"] {
        let into =
            ["rebuild", "--local", "local.json", "--entities", "entities.toml", "--sink", sink, "--format", "json"];
        let told = run(command(&shop.folder, "waybill-subscriber", &into)).await.with(0);
        assert!(
            told.err.contains("ItemChanges begins at full export \"nightly\", 2 parts as of number 3"),
            "{}",
            told.err
        );
        let report = told.json();
        let begun = &report["fullExports"][0];
        assert_eq!((&begun["snapshot"], &begun["asOf"], &begun["parts"]), (&"nightly".into(), &3.into(), &2.into()));
        assert_eq!(report["fullExports"].as_array().unwrap().len(), 1);
        let passed_over = if sink == "sqlite:a.sqlite" { 3 } else { 0 };
        assert_eq!((&begun["filesPassedOver"], &report["gaps"]), (&passed_over.into(), &0.into()), "{report}");
        assert_eq!(report["tables"][0]["rows"], 4, "{report}");
    }
    assert_eq!(query(&shop.folder, ROWS), Shop::ALL);
    // It goes on, and a table that is right stays so.
    shop.publish(7, "DELETE FROM item WHERE id = 5").await;
    shop.follow().await;
    let told = shop.rebuild(&[]).await.with(0).out;
    assert!(told.contains("was right"), "{told}");
    assert_eq!(query(&shop.folder, ROWS), Shop::ALL[..3]);
    shop.local.stop().await;
}

#[tokio::test]
async fn why_a_rebuild_cannot_begin_at_a_full_export_is_told_and_what_to_do() {
    let shop = Shop::open().await;
    shop.delete_blobs(3).await;
    shop.prune(3).await;
    shop.damage();
    let damaged = query(&shop.folder, ROWS);
    let refused = async |wanted: &str| {
        let told = shop.rebuild(&[]).await.with(1).err;
        assert!(told.contains(wanted), "{wanted}: {told}");
        assert_eq!(query(&shop.folder, ROWS), damaged, "nothing was done");
        told
    };
    let inbox = Connection::open(shop.folder.path().join(".waybill/inbox.sqlite")).unwrap();
    inbox.busy_timeout(PATIENCE).unwrap();
    // Messages that are published together come in any order.
    let id = |sequence: u64| {
        let sql = "SELECT id FROM inbox WHERE blob_type = 'ItemChanges' AND sequence = ?1";
        inbox.query_row(sql, [sequence.cast_signed()], |row| row.get::<_, i64>(0)).unwrap()
    };
    let part = id(5);
    let entity = std::fs::read_to_string(shop.folder.path().join("entities.toml")).unwrap();
    let unfit = "full export \"nightly\", as of number 3, does not stand for what is missing";

    // The version is in no usable form in one of its rows.
    shop.write("entities.toml", &format!("{entity}version = {{ field = \"price\", type = \"integer\" }}\n"));
    let told = refused(&format!(
        "full export \"nightly\" does not stand for what is missing before it: row 1 of file {part} cannot be used"
    ))
    .await;
    assert!(told.contains("have the publisher mend that and make another full export"), "{told}");
    // Other types make the table too; or none does.
    let several = entity.replace("\"ItemChanges\"", "\"ItemChanges\", \"Other\"");
    shop.write("entities.toml", &format!("{several}version = {{ field = \"price\", type = \"text\" }}\n"));
    let told = refused(&format!("{unfit}: entity \"item\" is made of several types: ItemChanges, Other")).await;
    assert!(told.contains("numbers 1 to 3 of publisher") && told.contains("`waybill-publisher snapshot`"), "{told}");
    shop.write("entities.toml", "");
    refused(&format!("{unfit}: its type has no entity")).await;
    shop.write("entities.toml", &entity);

    // A message that claims more than its blob does proves nothing: the full export before it is taken.
    let body = "SELECT CAST(body AS TEXT) FROM inbox WHERE id = ?1";
    let body: String = inbox.query_row(body, [id(6)], |row| row.get(0)).unwrap();
    let mut forged: Value = serde_json::from_str(&body).unwrap();
    let extras = &mut forged["properties"]["waybill"];
    (extras["exportId"], extras["sequence"]) = (json!("0190a5d2-7c31-7c8e-9f5a-0c8f5c1e2b3a"), json!(7));
    extras["snapshot"] = json!({ "id": "forged", "part": 1, "of": 1, "asOf": 6 });
    send(shop.local.ready_file(), forged.to_string(), "forged").await;
    shop.follow().await;
    let told = shop.rebuild(&[]).await.with(0);
    assert!(told.out.contains("ItemChanges begins at full export \"nightly\", as of number 3"), "{}", told.out);
    assert_eq!(query(&shop.folder, ROWS), Shop::ALL);
    shop.damage();
    // Without a part of that one there is none. It is known of the forged one, too, why not.
    let forged_id = id(7);
    inbox.execute("UPDATE inbox SET state = 'quarantined' WHERE id = ?1", [part]).unwrap();
    refused(&format!("{unfit}: part 2, file {part}, is quarantined")).await;
    let told = shop.rebuild(&["--incomplete"]).await.with(3).err;
    assert!(
        told.contains(&format!(
            "\"forged\", as of number 6, does not stand for what is missing: the blob of file {forged_id} does not say"
        )),
        "{told}"
    );
    inbox
        .execute_batch(&format!("DELETE FROM history WHERE inbox_id = {part}; DELETE FROM inbox WHERE id = {part}"))
        .unwrap();
    let told = shop.rebuild(&[]).await.with(1).err;
    assert!(told.contains(&format!("{unfit}: part 2 of 2 never came")), "{told}");

    // Somebody else has ever sent files of the type.
    let other = forged.to_string().replace("0190a5d2-7c31", "0190a5d2-7c32").replace("\"asOf\":6", "\"asOf\":5");
    let mut other: Value = serde_json::from_str(&other).unwrap();
    other["properties"]["waybill"]["epoch"] = json!("01f90000-0000-7000-8000-000000000000");
    send(shop.local.ready_file(), other.to_string(), "other").await;
    shop.follow().await;
    let told = shop.rebuild(&[]).await.with(1).err;
    assert!(told.contains("files of its type came from 2 publishers or epochs"), "{told}");
    shop.local.stop().await;
}
