//! Rows in any order, as an operator sees them.

use super::{
    binaries::{Running, beside_local, command, publish, publish_long, run},
    databases::Database,
};

const SHOP: &str = r#"
[entity.item]
types = ["ItemChanges"]
key = ["ItemID"]
columns = { ItemID = "integer" }
references = [{ fields = ["MakerID"], entity = "maker" }, { fields = ["ShopID"], entity = "shop" }]

[entity.maker]
types = ["MakerChanges"]
key = ["MakerID"]

[entity.shop]
types = ["ShopChanges"]
key = ["ShopID"]
"#;

#[tokio::test]
async fn what_is_missing_is_listed_and_its_children_can_be_let_go() {
    let (folder, local) = beside_local().await;
    std::fs::write(folder.path().join("entities.toml"), SHOP).unwrap();
    std::fs::write(folder.path().join("item.csv"), "ItemID,MakerID,ShopID\n1,m,\n2,m,\n3,,s\n4,m,s\n").unwrap();
    run(publish(&folder, &["item.csv"])).await.with(0);
    for database in Database::both(&folder, "shop.sqlite").await {
        let sink = ["--sink", database.sink(), "--entities", "entities.toml"];
        let follow = [&["run", "--local", "local.json", "--until-idle", "0.5"], &sink[..]].concat();
        let ended = run(command(&folder, "waybill-subscriber", &follow)).await.with(0);
        assert!(ended.out.contains("4 parked until what they refer to comes"), "{}", ended.out);

        let parked = async |arguments: &[&str], code| {
            let arguments = [&["parked"], &sink[..], arguments].concat();
            run(command(&folder, "waybill-subscriber", &arguments)).await.with(code)
        };
        let listed = parked(&[], 0).await.out;
        let words: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().take(4).collect()).collect();
        assert_eq!(words, [["MISSING", "KEY", "ROWS", "OF"], ["maker", "m", "3", "item"], ["shop", "s", "1", "item"]]);
        let json = parked(&["--type", "ItemChanges", "--format", "json"], 0).await.json();
        assert_eq!((&json[0]["parent"], &json[0]["key"], &json[0]["rows"]), (&"maker".into(), &"m".into(), &3.into()));
        assert_eq!(parked(&["--type", "ShopChanges", "--format", "json"], 0).await.json(), serde_json::json!([]));
        assert_eq!(parked(&["--limit", "1", "--format", "json"], 0).await.json().as_array().unwrap().len(), 1);

        // By blobType or by entity.
        let released = parked(&["--release", "MakerChanges", "m"], 0).await.out;
        assert!(released.starts_with("2 rows applied without maker \"m\""), "{released}");
        assert!(released.contains("1 row still waiting for another parent"), "{released}");
        let items = "SELECT CAST(\"ItemID\" AS TEXT) FROM item ORDER BY \"ItemID\"";
        assert_eq!(database.query(items).await, ["1", "2"]);
        let released = parked(&["--release", "shop", "s", "--format", "json"], 0).await.json();
        assert_eq!(released["applied"], 2);
        assert_eq!(database.query(items).await, ["1", "2", "3", "4"]);
        assert_eq!(parked(&[], 0).await.out.lines().count(), 1);

        for (arguments, wanted) in [
            (&["--release", "shop", "s"][..], "no row waits for shop \"s\""),
            (
                &["--release", "house", "s"],
                "\"house\" is no entity; give its definition with --entities, or name one of: item, maker, shop",
            ),
        ] {
            let err = parked(arguments, 1).await.err;
            assert!(err.contains(wanted), "{err}");
        }
        database.remove().await;
    }
    let elsewhere = ["parked", "--sink", "sqlite:none.sqlite"];
    let err = run(command(&folder, "waybill-subscriber", &elsewhere)).await.with(1).err;
    assert!(err.contains("there is no database none.sqlite"), "{err}");
    assert!(!folder.path().join("none.sqlite").exists());
    local.stop().await;
}

#[tokio::test]
async fn a_key_with_a_nul_is_released_as_the_list_shows_it() {
    let (folder, local) = beside_local().await;
    std::fs::write(folder.path().join("entities.toml"), SHOP).unwrap();
    std::fs::write(folder.path().join("item.jsonl"), "{\"ItemID\":1,\"MakerID\":\"m\\u0000n\"}\n").unwrap();
    run(publish(&folder, &["item.jsonl"])).await.with(0);
    let [sqlite, postgres] = Database::both(&folder, "shop.sqlite").await;
    // PostgreSQL cannot hold the character, and keeps another in its place.
    for (database, key, shown) in [(sqlite, "m\0n", "m\\u{0}n"), (postgres, "m\u{fffd}n", "m\u{fffd}n")] {
        let sink = ["--sink", database.sink(), "--entities", "entities.toml"];
        let follow = [&["run", "--local", "local.json", "--until-idle", "0.5"], &sink[..]].concat();
        run(command(&folder, "waybill-subscriber", &follow)).await.with(0);
        let parked = async |arguments: &[&str], code| {
            let arguments = [&["parked"], &sink[..], arguments].concat();
            run(command(&folder, "waybill-subscriber", &arguments)).await.with(code)
        };
        let listed = parked(&[], 0).await.out;
        assert!(listed.contains(&format!(" {shown} ")), "{listed}");
        assert_eq!(parked(&["--format", "json"], 0).await.json()[0]["key"], key);
        let err = parked(&["--release", "maker", "m"], 1).await.err;
        assert!(err.contains("no row waits for maker \"m\""), "{err}");
        let released = parked(&["--release", "maker", shown], 0).await.out;
        assert!(released.starts_with("1 row applied without maker"), "{released}");
        assert_eq!(parked(&[], 0).await.out.lines().count(), 1);
        database.remove().await;
    }
    local.stop().await;
}

#[tokio::test]
async fn a_draft_of_entities_is_loaded_and_the_samples_go_in_with_it() {
    let (folder, local) = beside_local().await;
    let file = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    file(
        "CategoryChanges.csv",
        "CategoryID,Name,ModifiedDate\n1,Bikes,2014-02-08T10:01:36Z\n2,Parts,2014-02-08T10:01:36Z\n",
    );
    file(
        "item.jsonl",
        "{\"ItemID\":7,\"CategoryID\":1,\"Price\":19.90,\"Tags\":[],\"updatedAt\":\"2014-02-08T10:01:36Z\"}\n\
         {\"ItemID\":8,\"CategoryID\":null,\"Price\":5,\"updatedAt\":\"2014-02-08T10:01:36Z\"}\n",
    );
    file(
        "price.xml",
        "<rows><row><ItemID>7</ItemID><ValidFrom>2014-01-01</ValidFrom><Amount>1.50</Amount></row><row><ItemID>7</ItemID><ValidFrom>2015-01-01</ValidFrom><Amount>2</Amount></row></rows>",
    );
    file("maker.json", "[{\"code\":\"a\"},{\"code\":\"b\"}]");
    file("note.xmll", "<note><Text>a</Text></note>\n<note><Text>a</Text></note>\n");
    let from = [
        "init",
        "--from",
        "CategoryChanges.csv",
        "ItemChanges=item.jsonl",
        "PriceChanges=price.xml",
        "maker.json",
        "note.xmll",
    ];
    run(command(&folder, "waybill-subscriber", &from)).await.with(0);
    let draft = std::fs::read_to_string(folder.path().join("entities.toml")).unwrap();
    for wanted in [
        "[entity.category]\ntypes = [\"CategoryChanges\"]\nkey = [\"CategoryID\"]",
        "version = { field = \"ModifiedDate\", type = \"timestamp\" }",
        "version = { field = \"updatedAt\", type = \"timestamp\" }",
        "Price = \"decimal\"\nTags = \"json\"",
        "[[entity.item.references]]\nfields = [\"CategoryID\"]\nentity = \"category\"\non_missing = \"park\"",
        "key = [\"ItemID\", \"ValidFrom\"]",
        "ValidFrom = \"date\"",
        "[[entity.price.references]]\nfields = [\"ItemID\"]\nentity = \"item\"",
        "key = [\"code\"]",
        "# [entity.note]",
    ] {
        assert!(draft.contains(wanted), "{wanted}\nin\n{draft}");
    }

    for (blob_type, name) in [
        ("PriceChanges", "price.xml"),
        ("ItemChanges", "item.jsonl"),
        ("CategoryChanges", "CategoryChanges.csv"),
        ("maker", "maker.json"),
        ("note", "note.xmll"),
    ] {
        let arguments = ["publish", "--local", "local.json", "--type", blob_type, name];
        run(command(&folder, "waybill-publisher", &arguments)).await.with(0);
    }
    let follow = [
        "run",
        "--local",
        "local.json",
        "--until-idle",
        "0.5",
        "--sink",
        "sqlite:shop.sqlite",
        "--entities",
        "entities.toml",
        "--format",
        "json",
    ];
    let summary = run(command(&folder, "waybill-subscriber", &follow)).await.with(0).json();
    assert_eq!(
        (&summary["filesDone"], &summary["rowsInserted"], &summary["rowsBad"]),
        (&5.into(), &(10 - summary["rowsReleased"].as_u64().unwrap()).into(), &0.into()),
        "{summary}"
    );
    let parked = ["parked", "--sink", "sqlite:shop.sqlite", "--format", "json"];
    assert_eq!(run(command(&folder, "waybill-subscriber", &parked)).await.with(0).json(), serde_json::json!([]));

    // A name that says nothing, and one whose file is other than such files are.
    file("export", "ItemID;Price\n7;19,90\n8;5\n");
    file("semicolons.csv", "ShopID;Name\n1;a\n2;b\n");
    let elsewhere = folder.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let samples = ["ItemChanges=../export", "ShopChanges=../semicolons.csv", "../maker.json"];
    let given = ["--content-type", "text/csv; delimiter=semicolon", "--content-encoding", "identity"];
    let mut drafting = command(&folder, "waybill-subscriber", &[&["init", "--from"], &samples[..], &given].concat());
    run({
        drafting.current_dir(&elsewhere);
        drafting
    })
    .await
    .with(0);
    let given = std::fs::read_to_string(elsewhere.join("entities.toml")).unwrap();
    for wanted in [
        "[entity.item]\ntypes = [\"ItemChanges\"]\nkey = [\"ItemID\"]",
        "[entity.shop]\ntypes = [\"ShopChanges\"]\nkey = [\"ShopID\"]",
        "key = [\"code\"]",
    ] {
        assert!(given.contains(wanted), "{wanted}\nin\n{given}");
    }
    for (wrong, code, wanted) in [
        (
            &["init", "--from", "export"][..],
            1,
            "export: its suffix names no format; say with --content-type what it is",
        ),
        (&["init", "--from", "export", "--content-type", "text/html"], 1, "text/html"),
        (&["init", "--from", "export", "--content-type", "text/csv", "--content-encoding", "zip"], 1, "zip"),
        (&["init", "--content-type", "text/csv"], 2, "--from"),
    ] {
        let err = run(command(&folder, "waybill-subscriber", wrong)).await.with(code).err;
        assert!(err.contains(wanted), "{err}");
    }

    file("broken.json", "[{\"a\":1},");
    let again = run(command(&folder, "waybill-subscriber", &from)).await.with(1);
    assert!(again.err.contains("entities.toml is there already"), "{}", again.err);
    assert!(again.out.contains(draft.trim()), "{}", again.out);
    for (sample, wanted) in
        [("none.csv", "No such file"), ("broken.json", "byte"), ("entities.toml", "its suffix names no format")]
    {
        let err = run(command(&folder, "waybill-subscriber", &["init", "--from", sample])).await.with(1).err;
        assert!(err.contains(&format!("{sample} cannot be used as a sample: ")) && err.contains(wanted), "{err}");
    }
    local.stop().await;
}

#[tokio::test]
async fn rows_on_standard_output_are_alone_there_and_come_once() {
    let (folder, local) = beside_local().await;
    run(publish(&folder, &["item.csv"])).await.with(0);
    let follow = ["run", "--local", "local.json", "--sink", "stdout", "--until-idle", "0.5"];
    let ended = run(command(&folder, "waybill-subscriber", &follow)).await.with(0);
    assert_eq!(ended.out, "{\"ItemID\":\"1\",\"Price\":\"19.90\"}\n{\"ItemID\":\"2\",\"Price\":\"5.00\"}\n");
    assert!(ended.err.contains("1 file done, 2 rows"), "{}", ended.err);
    let again = run(command(&folder, "waybill-subscriber", &follow)).await.with(0);
    assert_eq!(again.out, "", "a file that is done is not written again");

    // The reader is gone at the first row: the program ends, and the rows come with the next one.
    run(publish(&folder, &["item.csv"])).await.with(0);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut closed = command(&folder, "waybill-subscriber", &["run", "--local", "local.json", "--sink", "stdout"]);
    closed.stdout(writer);
    let status = tokio::task::spawn_blocking(move || closed.spawn().unwrap().wait().unwrap()).await.unwrap();
    assert!(status.success(), "{status}");
    let follow = ["process", "--local", "local.json", "--sink", "stdout"];
    // What failed is tried again a little later.
    let mut rows = 0;
    for _ in 0..100 {
        rows += run(command(&folder, "waybill-subscriber", &follow)).await.out.lines().count();
        if rows > 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    assert_eq!(rows, 2);
    local.stop().await;
}

/// The same of every database.
async fn tables(database: &Database) -> Vec<String> {
    let sql = "SELECT CAST(count(*) AS TEXT), CAST(sum(\"ItemID\") AS TEXT),
                   (SELECT CAST(\"Price\" AS TEXT) FROM item WHERE \"ItemID\" = 1) FROM item
               UNION ALL SELECT file, CAST(rows AS TEXT), CAST(inserted AS TEXT) FROM _waybill_progress WHERE done ORDER BY 1";
    let mut all = database.query(sql).await;
    all.sort();
    all
}

#[tokio::test]
async fn files_are_replayed_into_another_sink_and_go_on_after_a_kill() {
    let (folder, local) = beside_local().await;
    publish_long(&folder).await;
    let into = |what: &str, sink: &Database, more: &[&str]| {
        let into = [what, "--local", "local.json", "--entities", "entities.toml", "--sink", sink.sink()];
        command(&folder, "waybill-subscriber", &[&into[..], more].concat())
    };
    let first = Database::sqlite(&folder, "a.sqlite");
    run(into("run", &first, &["--until-idle", "0.5"])).await.with(0);
    let history = || async {
        let show = run(command(&folder, "waybill-subscriber", &["show", "1", "--format", "json"])).await.with(0).json();
        show["history"].clone()
    };
    let before = history().await;
    assert_eq!(tables(&first).await.len(), 3);

    for other in Database::both(&folder, "b.sqlite").await {
        // Killed wherever it is, three times.
        for wait in [150, 250, 350] {
            let mut commits = into("replay", &other, &[]);
            commits.env("WAYBILL_SUBSCRIBER__COMMIT_ROWS_MAX", "2000");
            let replay = Running::start(commits);
            tokio::time::sleep(std::time::Duration::from_millis(wait)).await;
            drop(replay);
        }
        run(into("replay", &other, &["--complete"])).await.with(0);
        assert_eq!(tables(&other).await, tables(&first).await);
        assert_eq!(history().await, before, "the inbox itself is left alone");
        // Once more: they are there already.
        let again = run(into("replay", &other, &["--format", "json"])).await.with(0).json();
        assert_eq!(again["rows"], 0);
        assert_eq!(tables(&other).await, tables(&first).await);
        other.remove().await;
    }

    let third = Database::sqlite(&folder, "c.sqlite");
    let none = run(into("replay", &third, &["--type", "Other"])).await.with(1);
    assert!(none.err.contains("no file to replay"), "{}", none.err);
    local.stop().await;
}

#[tokio::test]
async fn a_replay_that_must_be_complete_is_refused_over_a_missing_number() {
    let (folder, local) = beside_local().await;
    run(publish(&folder, &["item.csv", "item.csv", "item.csv"])).await.with(0);
    let follow = ["run", "--local", "local.json", "--sink", "sqlite:a.sqlite", "--until-idle", "0.5"];
    run(command(&folder, "waybill-subscriber", &follow)).await.with(0);
    let inbox = waybill_store::rusqlite::Connection::open(folder.path().join(".waybill/inbox.sqlite")).unwrap();
    inbox.execute_batch("DELETE FROM history; DELETE FROM inbox WHERE sequence = 2").unwrap();
    drop(inbox);
    let replay = ["replay", "--local", "local.json", "--sink", "sqlite:b.sqlite"];
    let refused = run(command(&folder, "waybill-subscriber", &[&replay[..], &["--complete"]].concat())).await.with(1);
    assert!(refused.err.contains("ItemChanges: number 2 of publisher"), "{}", refused.err);
    assert!(refused.err.contains("not provably all; nothing was done"), "{}", refused.err);
    assert!(!folder.path().join("b.sqlite").exists());
    run(command(&folder, "waybill-subscriber", &replay)).await.with(0);
    local.stop().await;
}
