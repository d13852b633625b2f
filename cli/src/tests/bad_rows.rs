//! Rows that cannot be used, as an operator finds them.

use super::binaries::{beside_local, command, publish, put, run};

const SHOP: &str = r#"
[entity.item]
types = ["ItemChanges"]
key = ["ItemID"]
columns = { ItemID = "integer", Price = "decimal" }
where = 'row.Price > 1.0'
"#;

#[tokio::test]
async fn every_row_that_cannot_be_used_is_counted_and_listed() {
    let (folder, local) = beside_local().await;
    std::fs::write(folder.path().join("entities.toml"), SHOP).unwrap();
    let long = "x".repeat(300);
    run(publish(&folder, &["item.csv"])).await.with(0);
    let text = format!("ItemID,Price\n1,19.90\n2,\"a\u{1b}[2J\n{long}\"\n,3.00\nx,4.00\n5,0.50\n6,7,8\n");
    put(&local, "bad.csv", "text/csv", &text).await;
    let sink = ["--sink", "sqlite:shop.sqlite", "--entities", "entities.toml"];
    let subscriber = |arguments: &[&str]| command(&folder, "waybill-subscriber", arguments);
    let ended = run(subscriber(&[&["run", "--local", "local.json", "--until-idle", "0.5"], &sink[..]].concat())).await;
    let said = ended.with(3).out;
    assert!(said.contains("4 bad, kept with their error"), "{said}");
    assert!(said.contains("4 rows cannot be used; see `waybill-subscriber bad-rows` with the same sink"), "{said}");
    assert!(!said.contains("--state quarantined"), "no file is quarantined: {said}");

    let look = async |arguments: &[&str]| run(subscriber(arguments)).await.with(0);
    let status = look(&["status"]).await.out;
    assert!(status.contains("4 rows could not be used: waybill-subscriber bad-rows"), "{status}");
    assert_eq!(look(&["status", "--format", "json"]).await.json()["badRows"], 4);
    let listed = look(&["list", "--format", "json"]).await.json();
    let bad: Vec<_> = listed.as_array().unwrap().iter().filter(|row| row["badRows"] == 4).collect();
    let [of] = bad[..] else { panic!("{listed}") };
    let id = of["id"].to_string();
    let shown = look(&["show", &id]).await.out;
    assert!(shown.contains("(4 bad, 1 not wanted by a filter)"), "{shown}");
    assert!(shown.contains(&format!("see `waybill-subscriber bad-rows --file {id}`")), "{shown}");

    let bad_rows = async |arguments: &[&str]| look(&[&["bad-rows"], &sink[..], arguments].concat()).await;
    let text = bad_rows(&[]).await.out;
    let heads: Vec<_> = text.lines().filter(|line| !line.starts_with(' ')).collect();
    let file = format!("file {id} (ItemChanges), row ");
    for (head, wanted) in heads.iter().zip([
        "2, byte 21, key 2: filter-error: where row.Price > 1.0: ",
        "3, byte 332: missing-key: key field \"ItemID\" is missing or null",
        "4, byte 338: bad-key: key field \"ItemID\" is \"x\"",
        "6, byte 352: malformed-row: ",
    ]) {
        assert!(head.starts_with(&format!("{file}{wanted}")), "{head}\nis not {wanted}");
    }
    assert_eq!(heads.len(), 4, "{text}");
    assert!(text.contains("\n    x,4.00\n"), "{text}");
    assert!(
        text.contains("\n    2,\"a\\u{1b}[2J\n    xxx") && text.contains("x…\n"),
        "nothing moves the cursor: {text}"
    );

    let json = bad_rows(&["--file", &id, "--format", "json"]).await.json();
    let second = serde_json::json!({
        "file": of["id"], "fileKey": of["file"], "blobType": "ItemChanges", "row": 4, "offset": 338, "key": null,
        "reason": "bad-key", "problem": json[2]["problem"], "bytes": "x,4.00", "isCut": false, "foundAt": json[2]["foundAt"],
    });
    assert_eq!(json[2], second);
    assert_eq!((&json[0]["isCut"], &json[0]["key"]), (&true.into(), &"2".into()));
    let whole = bad_rows(&["--full", "--limit", "1", "--format", "json"]).await.json();
    assert_eq!(whole[0]["bytes"].as_str().unwrap().len(), "2,\"a\u{1b}[2J\n\"".len() + 300);
    let page = bad_rows(&["--file", &id, "--limit", "2"]).await.out;
    assert!(page.ends_with(&format!("\n2 more: --file {id} --after 3\n")), "{page}");
    let rest = bad_rows(&["--file", &id, "--after", "3", "--format", "json"]).await.json();
    assert_eq!(rest.as_array().unwrap().len(), 2);
    for (kind, rows) in [("item", 4), ("ItemChanges", 4), ("Other", 0)] {
        let of_type = bad_rows(&["--type", kind, "--format", "json"]).await.json();
        assert_eq!(of_type.as_array().unwrap().len(), rows, "{kind}");
    }
    let unknown = "\"Nope\" is no entity and no type that has come; case counts, and known are: ItemChanges, item\n";
    assert_eq!(bad_rows(&["--type", "Nope"]).await.out, format!("no row is kept with an error\n{unknown}"));
    let parked = look(&[&["parked"], &sink[..], &["--type", "Nope"]].concat()).await.out;
    assert!(parked.ends_with(unknown), "{parked}");
    let other = if id == "1" { "2" } else { "1" };
    assert_eq!(bad_rows(&["--file", other]).await.out, "no row is kept with an error\n");
    let none = run(subscriber(&[&["bad-rows", "--file", "99"], &sink[..]].concat())).await.with(1).err;
    assert!(none.contains("there is no number 99"), "{none}");
    local.stop().await;
}

#[tokio::test]
async fn a_sink_without_a_list_says_where_its_bad_rows_are() {
    let (folder, local) = beside_local().await;
    put(&local, "bad.csv", "text/csv", "ItemID,Price\n1,2\n1,2,3\n").await;
    for (sink, wanted) in [
        ("dir:out", "those of a file are in out/TYPE/FILE+bad.jsonl, beside its good rows"),
        ("stdout", "each is said once, in a warning of the log (standard error)"),
    ] {
        let process = ["replay", "--local", "local.json", "--sink", sink];
        let receive = ["receive", "--local", "local.json", "--until-idle", "0.2"];
        run(command(&folder, "waybill-subscriber", &receive)).await.with(0);
        let ended = run(command(&folder, "waybill-subscriber", &process)).await.with(3);
        let said = format!("{}{}", ended.out, ended.err);
        assert!(said.contains(&format!("1 row cannot be used; {wanted}")), "{said}");
        let refused = run(command(&folder, "waybill-subscriber", &["bad-rows", "--sink", sink])).await.with(1).err;
        assert!(refused.contains(wanted), "{refused}");
        if sink == "stdout" {
            assert!(ended.err.contains("a row cannot be used"), "{}", ended.err);
        } else {
            let of = |folder: &std::path::Path| -> Vec<_> {
                std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
            };
            let types: Vec<_> =
                of(&folder.path().join("out")).into_iter().filter(|path| !path.ends_with(".waybill")).collect();
            let [of_type] = &types[..] else { panic!("{types:?}") };
            let names: Vec<_> = of(of_type).iter().map(|path| path.display().to_string()).collect();
            assert!(names.iter().any(|name| name.ends_with("+bad.jsonl")), "{names:?}");
        }
    }
    // A mistyped sink may hold a password.
    for sink in [
        "postgress://me:secret@db/shop",
        "dirs://me:secret@db/shop",
        "host=db password=secret",
        "host=db:1 password=secret",
    ] {
        let mut mistyped = command(&folder, "waybill-subscriber", &["bad-rows"]);
        mistyped.env("WAYBILL_SUBSCRIBER__SINK", sink);
        let ended = run(mistyped).await.with(1);
        assert!(!format!("{}{}", ended.out, ended.err).contains("secret"), "{sink}: {}", ended.err);
    }
    // Malformed rows that were left out are counted all the same.
    let mut skipping =
        command(&folder, "waybill-subscriber", &["process", "--local", "local.json", "--sink", "sqlite:s"]);
    skipping.env("WAYBILL_SUBSCRIBER__ON_BAD_ROW", "skip");
    let said = run(skipping).await.with(0).out;
    assert!(said.contains("1 malformed, left out"), "{said}");
    let of_file = ["bad-rows", "--sink", "sqlite:s", "--file", "1"];
    let listed = run(command(&folder, "waybill-subscriber", &of_file)).await.with(0).out;
    assert!(listed.contains("of this file 1 row could not be used: left out"), "{listed}");
    local.stop().await;
}
