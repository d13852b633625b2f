//! Which files `process` takes, and what `init` tells programs.

use waybill_local::fault::Step;

use super::binaries::{beside_local, command, publish, run, send};

#[tokio::test]
async fn process_takes_the_files_that_are_named_and_no_more_than_it_may() {
    let (folder, local) = beside_local().await;
    for _ in 0..4 {
        run(publish(&folder, &["item.csv"])).await.with(0);
    }
    run(command(&folder, "waybill-subscriber", &["receive", "--local", "local.json", "--until-idle", "0.5"]))
        .await
        .with(0);
    let process = async |more: &[&str], code| {
        let all = [&["process", "--local", "local.json", "--sink", "sqlite:shop.sqlite", "--format", "json"], more];
        run(command(&folder, "waybill-subscriber", &all.concat())).await.with(code)
    };
    let done = async || {
        let list = ["list", "--state", "done", "--format", "json"];
        let rows = run(command(&folder, "waybill-subscriber", &list)).await.with(0).json();
        let mut ids: Vec<u64> = rows.as_array().unwrap().iter().map(|row| row["id"].as_u64().unwrap()).collect();
        ids.sort_unstable();
        ids
    };
    let ended = process(&["--id", "3", "2"], 0).await;
    assert_eq!(ended.json()["filesDone"], 2, "{}", ended.out);
    assert_eq!(done().await, [2, 3]);
    // One of them is named again.
    let ended = process(&["--limit", "1", "--id", "3", "--id", "4"], 0).await;
    assert!(ended.err.contains("3 is not worked: it is done; `waybill-subscriber replay`"), "{}", ended.err);
    assert_eq!(done().await, [2, 3, 4]);
    // A file that is done needs nothing.
    let ended = process(&["--id", "3"], 0).await;
    assert!(ended.err.contains("3 is not worked: it is done"), "{}", ended.err);
    run(command(&folder, "waybill-subscriber", &["skip", "1", "--why", "no"])).await.with(0);
    let ended = process(&["--id", "1"], 1).await;
    assert!(ended.err.contains("1 is not worked: it is skipped; `waybill-subscriber retry 1`"), "{}", ended.err);
    let unknown = process(&["--id", "99", "1"], 1).await;
    for wanted in ["99 is not worked: there is no number 99", "1 is not worked: it is skipped"] {
        assert!(unknown.err.contains(wanted), "{}", unknown.err);
    }
    run(command(&folder, "waybill-subscriber", &["retry", "1"])).await.with(0);
    process(&["--limit", "0"], 0).await;
    assert_eq!(done().await, [2, 3, 4]);
    process(&["--limit", "9"], 0).await;
    assert_eq!(done().await, [1, 2, 3, 4]);
    local.stop().await;
}

#[tokio::test]
async fn each_file_that_is_named_and_not_worked_is_said_with_why_and_the_others_are_worked() {
    let (folder, local) = beside_local().await;
    let item = || publish(&folder, &["item.csv"]);
    run(item()).await.with(0);
    let other = ["publish", "--local", "local.json", "--type", "Other", "item.csv"];
    run(command(&folder, "waybill-publisher", &other)).await.with(0);
    // Its message again: a duplicate.
    let uri = run(command(&folder, "waybill-publisher", &["list", "--format", "json"])).await.with(0).json();
    let uri = uri.as_array().unwrap().iter().find(|row| row["blobType"] == "ItemChanges").unwrap()["uri"].clone();
    let again =
        serde_json::json!({ "blobType": "ItemChanges", "correlationId": "c", "uri": uri, "contentType": "text/csv" });
    send(local.ready_file(), "no waybill", "m1").await;
    send(local.ready_file(), again.to_string(), "m2").await;
    send(local.ready_file(), again.to_string(), "m3").await;
    let subscriber =
        async |arguments: &[&str], code| run(command(&folder, "waybill-subscriber", arguments)).await.with(code);
    // One is no waybill.
    subscriber(&["receive", "--local", "local.json", "--until-idle", "0.5"], 3).await;
    let list = subscriber(&["list", "--format", "json"], 0).await.json();
    let id = |wanted: &dyn Fn(&serde_json::Value) -> bool| {
        let row = list.as_array().unwrap().iter().find(|row| wanted(row)).unwrap_or_else(|| panic!("{list:#}"));
        row["id"].to_string()
    };
    let file = id(&|row| row["blobType"] == "ItemChanges" && row["correlationId"] != "c");
    let other = id(&|row| row["blobType"] == "Other");
    let duplicate = id(&|row| row["state"] == "duplicate");
    let broken = id(&|row| row["state"] == "quarantined");
    std::fs::write(folder.path().join("waybill.toml"), "[subscriber]\ntypes = [\"ItemChanges\"]\n").unwrap();
    let process = async |more: &[&str], code| {
        let all = [&["process", "--local", "local.json", "--sink", "sqlite:shop.sqlite"], more];
        subscriber(&all.concat(), code).await
    };
    let ended = process(&["--id", other.as_str(), file.as_str(), duplicate.as_str(), broken.as_str()], 1).await;
    for wanted in [
        format!("{other} is not worked: its type Other is none of the configured ones; add it to `types`"),
        format!("{duplicate} is not worked: its message is another one for a file that is known, which is number "),
        format!(
            "{broken} is not worked: it is quarantined, and its message stands for no file; `waybill-subscriber show"
        ),
    ] {
        assert_eq!(ended.err.matches(&wanted).count(), 1, "{wanted} is not in\n{}", ended.err);
    }
    assert!(!ended.err.contains(&format!("{file} is not")), "{}", ended.err);
    assert!(ended.out.contains("1 file done"), "{}", ended.out);
    let ended = process(&["--id", &other], 1).await;
    assert!(ended.err.contains(&format!("{other} is not worked: it is skipped")), "{}", ended.err);

    run(item()).await.with(0);
    subscriber(&["receive", "--local", "local.json", "--until-idle", "0.5"], 0).await;
    let list = subscriber(&["list", "--state", "saved", "--format", "json"], 0).await.json();
    let file = list[0]["id"].to_string();
    // What was asked for does not fit itself, or the configuration.
    for (more, code, wanted) in [
        (
            &["--id", file.as_str(), "--since", "2100-01-01"][..],
            1,
            format!("{file} is not worked: it was received at "),
        ),
        (
            &["--id", file.as_str(), "--type", "Item"],
            1,
            format!("{file} is not worked: its type is ItemChanges, and --type"),
        ),
        (
            &["--type", "Other"],
            1,
            "nothing of --type \"Other\" is worked: the configured types are ItemChanges; add it to `types`".to_owned(),
        ),
        (&["--type", "*", "--limit", "0"], 0, String::new()),
    ] {
        let err = process(more, code).await.err;
        assert!(err.contains(&wanted), "{wanted} is not in\n{err}");
    }
    std::fs::remove_file(folder.path().join("waybill.toml")).unwrap();
    let err = process(&["--type", "itemchanges"], 0).await.err;
    let wanted = "--type \"itemchanges\" stands for no type that is configured or has come; case counts, and known are: \
                  ItemChanges, Other";
    assert!(err.contains(wanted), "{err}");

    // It was tried, and did not get through.
    let steps = Step::from_toml(
        "[[faults]]\non = \"blob\"\noperation = \"GetBlob\"\ndo = \"refuse\"\ncode = \"InternalError\"\ntimes = 1000\n",
    );
    local.faults().install(steps.unwrap()).unwrap();
    let err = process(&["--id", &file], 1).await.err;
    assert!(err.contains(&format!("{file} is not done: ")) && err.contains("none was done"), "{err}");
    local.stop().await;
}

#[tokio::test]
async fn init_tells_programs_what_it_wrote_and_what_a_person_has_to_add() {
    let folder = tempfile::tempdir().unwrap();
    let init = ["init", "--format", "json"];
    let file = |file: &str, written: bool| serde_json::json!({ "file": file, "written": written });
    let told = run(command(&folder, "waybill-subscriber", &init)).await.with(0).json();
    assert_eq!(told, serde_json::json!({ "files": [file("entities.toml", true), file("waybill.toml", true)] }));
    let again = run(command(&folder, "waybill-subscriber", &init)).await.with(0).json();
    assert_eq!(again, serde_json::json!({ "files": [file("entities.toml", false), file("waybill.toml", false)] }));

    std::fs::write(folder.path().join("waybill.toml"), "[publisher]\n").unwrap();
    let ended = run(command(&folder, "waybill-subscriber", &init)).await.with(1);
    let to_add = ended.json()["files"][1]["toAdd"].as_str().unwrap().to_owned();
    assert!(to_add.contains("[subscriber]"), "{to_add}");
    assert!(ended.err.contains("the section told as toAdd"), "{}", ended.err);

    std::fs::write(folder.path().join("item.csv"), "ItemID,Price\n1,19.90\n").unwrap();
    let from = ["init", "--format", "json", "--from", "item.csv"];
    let ended = run(command(&folder, "waybill-subscriber", &from)).await.with(1);
    assert!(ended.json()["files"][0]["toAdd"].as_str().unwrap().contains("[entity.item]"), "{}", ended.out);
    std::fs::remove_file(folder.path().join("entities.toml")).unwrap();
    let told = run(command(&folder, "waybill-subscriber", &from)).await.with(0).json();
    assert_eq!(told, serde_json::json!({ "files": [file("entities.toml", true)] }));
}
