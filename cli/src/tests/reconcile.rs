//! What is in the container and not in the inbox, as an operator sees it.

use super::binaries::{beside_local, beside_local_that_lists, command, publish, run};

const FOLLOW: [&str; 7] = ["run", "--local", "local.json", "--sink", "sqlite:shop.sqlite", "--until-idle", "0.5"];

#[tokio::test]
async fn an_inbox_that_is_lost_is_made_anew_and_rows_take_effect_once() {
    let (folder, local) = beside_local_that_lists().await;
    run(publish(&folder, &["item.csv", "item.csv"])).await.with(0);
    let follow = [&FOLLOW[..], &["--format", "json"]].concat();
    let json = async |arguments: &[&str]| run(command(&folder, "waybill-subscriber", arguments)).await.with(0).json();
    assert_eq!(json(&follow).await["rowsInserted"], 4);

    let data = folder.path().join(".waybill");
    for file in std::fs::read_dir(&data).unwrap().map(|file| file.unwrap()) {
        if file.file_name().to_string_lossy().starts_with("inbox.sqlite") {
            std::fs::remove_file(file.path()).unwrap();
        }
    }
    let reconcile = ["reconcile", "--local", "local.json", "--format", "json"];
    let dry = json(&[&reconcile[..], &["--dry-run"]].concat()).await;
    assert_eq!((&dry["added"]["count"], &dry["added"]["first"][0]["id"]), (&2.into(), &serde_json::Value::Null));
    assert_eq!(json(&reconcile).await["added"]["count"], 2);
    let again = json(&reconcile).await;
    assert_eq!((&again["listed"], &again["known"], &again["added"]["count"]), (&2.into(), &2.into(), &0.into()));
    let worked = json(&follow).await;
    assert_eq!((&worked["filesDone"], &worked["rowsInserted"]), (&2.into(), &0.into()), "{worked}");

    let told = run(command(&folder, "waybill-subscriber", &["reconcile", "--local", "local.json"])).await.with(0).out;
    assert!(told.starts_with("2 blobs in the container: 0 added, 2 known, 0 of other types, 0 of others"), "{told}");
    local.stop().await;
}

#[tokio::test]
async fn without_the_right_to_list_it_is_said_what_to_ask_for() {
    let (folder, local) = beside_local().await;
    let reconcile = ["reconcile", "--local", "local.json"];
    let err = run(command(&folder, "waybill-subscriber", &reconcile)).await.with(1).err;
    assert!(err.contains("does not open the listing of ") && err.contains("sp=rl"), "{err}");
    assert!(!err.contains("sig="), "{err}");
    local.stop().await;
}
