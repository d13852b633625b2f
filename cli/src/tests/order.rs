//! Rows in any order, as an operator sees them.

use super::binaries::{beside_local, command, publish, run};

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
    let sink = ["--sink", "sqlite:shop.sqlite", "--entities", "entities.toml"];
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

    // By blobType or by entity.
    let released = parked(&["--release", "MakerChanges", "m"], 0).await.out;
    assert!(released.starts_with("2 rows applied without maker \"m\""), "{released}");
    assert!(released.contains("1 row still waiting for another parent"), "{released}");
    let released = parked(&["--release", "shop", "s", "--format", "json"], 0).await.json();
    assert_eq!(released["applied"], 2);
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
    let elsewhere = ["parked", "--sink", "sqlite:none.sqlite"];
    let err = run(command(&folder, "waybill-subscriber", &elsewhere)).await.with(1).err;
    assert!(err.contains("there is no database none.sqlite"), "{err}");
    assert!(!folder.path().join("none.sqlite").exists());
    local.stop().await;
}
