//! What is missing, and what may be forgotten, as an operator sees it.

use time::OffsetDateTime;
use waybill_local::broker::{Filter, Rule};

use super::binaries::{ITEM, beside_local, command, publish, run};

const SUBSCRIPTION: &str = "exports/subscriptions/acme";

#[tokio::test]
async fn what_is_missing_is_told_and_what_is_over_is_pruned() {
    let (folder, local) = beside_local().await;
    let follow = ["run", "--local", "local.json", "--sink", "sqlite:shop.sqlite", "--until-idle", "0.5"];
    let told =
        async |arguments: &[&str], code| run(command(&folder, "waybill-subscriber", arguments)).await.with(code).out;
    let json = async |arguments: &[&str], code| {
        let arguments = [arguments, &["--format", "json"]].concat();
        run(command(&folder, "waybill-subscriber", &arguments)).await.with(code).json()
    };
    run(publish(&folder, &["item.csv"])).await.with(0);
    told(&follow, 0).await;
    let complete = json(&["complete"], 0).await;
    assert_eq!((&complete[0]["appliedTo"], &complete[0]["last"]), (&1.into(), &1.into()), "{complete}");

    // A message that nobody gets is a file that nobody knows of.
    local.broker().remove_rule(SUBSCRIPTION, "$Default").unwrap();
    run(publish(&folder, &["item.csv"])).await.with(0);
    local.broker().add_rule(SUBSCRIPTION, Rule::new("$Default", Filter::True)).unwrap();
    run(publish(&folder, &["item.csv"])).await.with(0);
    told(&follow, 0).await;
    let complete = json(&["complete"], 3).await;
    assert_eq!((&complete[0]["appliedTo"], &complete[0]["last"]), (&1.into(), &3.into()), "{complete}");
    assert_eq!((&complete[0]["gaps"][0]["from"], &complete[0]["gaps"][0]["to"]), (&2.into(), &2.into()));
    let shown = told(&["complete"], 3).await;
    assert!(shown.contains("never announced: 2 since 2") && shown.contains("`reconcile`"), "{shown}");
    assert_eq!(json(&["status"], 0).await["missing"], 1);
    let status = told(&["status"], 0).await;
    assert!(status.contains("1 file never announced, though later ones were: waybill-subscriber complete"), "{status}");
    json(&["complete", "--type", "Other.*"], 0).await;

    // Nothing goes unless it is asked for, and a dry run takes nothing.
    let err = run(command(&folder, "waybill-subscriber", &["prune"])).await.with(1).err;
    assert!(err.contains("--history 30d") && err.contains("[subscriber.retention]"), "{err}");
    run(command(&folder, "waybill-subscriber", &["prune", "--files", "soon"])).await.with(2);
    let all = ["prune", "--history", "0s", "--files", "0s"];
    let dry = told(&[&all[..], &["--dry-run"]].concat(), 0).await;
    assert!(dry.starts_with("would go: ") && dry.contains(" lines of history, 2 files, 0 keys"), "{dry}");
    assert!(dry.contains("the blobs of 2 done files may still be there"), "{dry}");
    assert_eq!(json(&["list"], 0).await.as_array().unwrap().len(), 2);
    let pruned = json(&all, 0).await;
    assert_eq!((&pruned["files"], &pruned["replayable"], &pruned["dryRun"]), (&2.into(), &2.into(), &false.into()));
    assert_eq!(json(&["list"], 0).await.as_array().unwrap().len(), 0);
    assert_eq!(json(&["complete"], 3).await, complete, "what was applied and what is missing is still known");
    local.stop().await;
}

#[tokio::test]
async fn a_manifest_tells_void_numbers_from_lost_files_and_the_lost_ones_are_had_from_it() {
    let (folder, local) = beside_local().await;
    let publisher = async |arguments: &[&str]| run(command(&folder, "waybill-publisher", arguments)).await;
    let subscriber = async |arguments: &[&str]| run(command(&folder, "waybill-subscriber", arguments)).await;
    std::fs::write(folder.path().join("entities.toml"), ITEM).unwrap();
    let sink = ["--sink", "sqlite:shop.sqlite", "--entities", "entities.toml"];
    let follow = [&["run", "--local", "local.json", "--until-idle", "0.5"][..], &sink].concat();
    let rebuild = [&["rebuild", "--local", "local.json"][..], &sink].concat();
    run(publish(&folder, &["item.csv"])).await.with(0);
    // 2 is void, and of 3 nobody gets the message.
    publisher(&["pause", "ItemChanges", "--why", "a wrong price list"]).await.with(0);
    let mut held_back = publish(&folder, &["--id", "wrong", "item.csv"]);
    run({
        held_back.env("WAYBILL_PUBLISHER__SEND_TIMEOUT_MS", "500");
        held_back
    })
    .await;
    publisher(&["void", "wrong", "--why", "a wrong price list"]).await.with(0);
    publisher(&["resume", "ItemChanges"]).await.with(0);
    local.broker().remove_rule(SUBSCRIPTION, "$Default").unwrap();
    run(publish(&folder, &["item.csv"])).await.with(0);
    local.broker().add_rule(SUBSCRIPTION, Rule::new("$Default", Filter::True)).unwrap();
    run(publish(&folder, &["item.csv"])).await.with(0);
    subscriber(&follow).await.with(0);
    let told = subscriber(&["complete"]).await.with(3).out;
    assert!(told.contains("never announced: 2 to 3 since 2"), "{told}");

    let made = publisher(&["manifest", "--local", "local.json"]).await.with(0).out;
    assert!(made.starts_with("ItemChanges: 1 to 4, 1 void: http://"), "{made}");
    let again = publisher(&["manifest", "--local", "local.json"]).await.with(0).out;
    assert_eq!(again, "nothing that is sent or void waits to be named\n");
    subscriber(&follow).await.with(0);
    let told = subscriber(&["complete"]).await.with(3).out;
    assert!(told.contains("never announced: 3 since 2"), "{told}");
    let refused = subscriber(&rebuild).await.with(1).err;
    assert!(refused.contains("ItemChanges: number 3 of publisher"), "{refused}");

    let found = subscriber(&["reconcile", "--local", "local.json"]).await.with(0).out;
    assert!(
        found.contains("1 manifest compared with the inbox") && found.contains("1 container not listed"),
        "{found}"
    );
    subscriber(&follow).await.with(0);
    let up_to = |number| ["complete", "--type", "ItemChanges", "--up-to", number];
    let told = subscriber(&up_to("4")).await.with(0).out;
    assert!(told.ends_with("\neverything up to 4 is there and in effect\n"), "{told}");
    let told = subscriber(&up_to("5")).await.with(3).out;
    assert!(told.ends_with("\nnot everything up to 5 is there and in effect\n"), "{told}");
    subscriber(&["complete", "--up-to", "4"]).await.with(2);
    subscriber(&["complete"]).await.with(0);
    subscriber(&rebuild).await.with(0);

    let pruned = publisher(&["prune", "--local", "local.json"]).await.with(0).out;
    assert_eq!(pruned, "gone: 0 exports with 0 blobs, 0 bytes\n", "no term is over");
    local.stop().await;
}

#[tokio::test]
async fn copies_that_are_too_old_are_pruned_without_an_inbox() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("waybill.toml"), "[subscriber.cache]\ndir = \"cache\"\n").unwrap();
    std::fs::create_dir(folder.path().join("cache")).unwrap();
    let [old, young] = ["old.blob", "young.blob"].map(|name| folder.path().join("cache").join(name));
    std::fs::write(&old, "old").unwrap();
    std::fs::write(&young, "young").unwrap();
    let long_ago = OffsetDateTime::now_utc() - time::Duration::days(31);
    std::fs::File::options().write(true).open(&old).unwrap().set_modified(long_ago.into()).unwrap();
    let prune = async |arguments: &[&str]| {
        let arguments = [&["prune"], arguments].concat();
        run(command(&folder, "waybill-subscriber", &arguments)).await.with(0)
    };
    assert_eq!(prune(&["--dry-run"]).await.out, "would go: 1 copy in the cache, 3 bytes\n");
    let told = prune(&["--dry-run", "--format", "json"]).await.json();
    assert_eq!(told["cache"], serde_json::json!({ "copies": 1, "bytes": 3 }), "{told}");
    assert!(old.exists());
    assert_eq!(prune(&[]).await.out, "gone: 1 copy in the cache, 3 bytes\n");
    assert!(!old.exists() && young.exists());
    assert_eq!(prune(&[]).await.out, "gone: 0 copies in the cache, 0 bytes\n");
}
