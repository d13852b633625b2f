//! Which files `process` takes, and what `init` tells programs.

use super::binaries::{beside_local, command, publish, run};

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
    run(command(&folder, "waybill-subscriber", &["skip", "1", "--why", "no"])).await.with(0);
    let ended = process(&["--id", "1"], 0).await;
    assert!(ended.err.contains("1 is not worked: it is skipped; `waybill-subscriber retry 1`"), "{}", ended.err);
    let unknown = process(&["--id", "1", "99"], 1).await;
    assert!(unknown.err.contains("there is no number 99"), "{}", unknown.err);
    run(command(&folder, "waybill-subscriber", &["retry", "1"])).await.with(0);
    process(&["--limit", "0"], 0).await;
    assert_eq!(done().await, [2, 3, 4]);
    process(&["--limit", "9"], 0).await;
    assert_eq!(done().await, [1, 2, 3, 4]);
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
