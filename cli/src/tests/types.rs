//! What the configuration says of types, against what really comes.

use super::binaries::{Ended, beside_local, command, run};

const ENTITIES: &str = r#"
[entity.item]
key = ["ItemID"]
"#;

async fn publish(folder: &tempfile::TempDir, blob_type: &str) {
    let arguments = ["publish", "--local", "local.json", "--type", blob_type, "item.csv"];
    run(command(folder, "waybill-publisher", &arguments)).await.with(0);
}

async fn subscriber(folder: &tempfile::TempDir, arguments: &[&str]) -> Ended {
    run(command(folder, "waybill-subscriber", arguments)).await
}

const RUN: [&str; 7] = ["run", "--local", "local.json", "--sink", "sqlite:s.sqlite", "--until-idle", "0.5"];
const WITH_ENTITIES: [&str; 2] = ["--entities", "entities.toml"];

#[tokio::test]
async fn a_name_that_no_file_has_is_told_by_run_plan_and_doctor() {
    let (folder, local) = beside_local().await;
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("entities.toml", ENTITIES);
    write(
        "waybill.toml",
        "[subscriber]\ntypes = [\"Item*\", \"item\", \"Price\"]\nfilters = { Price = 'row.a > 1' }\n",
    );
    // Nothing has come at all: nothing is strange.
    let quiet = subscriber(&folder, &[&RUN[..], &WITH_ENTITIES].concat()).await.with(0);
    assert!(!quiet.err.contains("no file so far"), "{}", quiet.err);

    publish(&folder, "ItemChanges").await;
    let wanted = "no file so far has a blobType that is named by entity \"item\" (item), the filter of \"Price\", \"item\" of \
                  `types`, \"Price\" of `types`; case counts, and what came is of the types ItemChanges";
    // At the end, because it came meanwhile; the next time at the begin.
    for _ in 0..2 {
        let told = subscriber(&folder, &[&RUN[..], &WITH_ENTITIES].concat()).await.with(0).err;
        assert_eq!(told.matches(wanted).count(), 1, "{told}");
    }
    let plan = subscriber(&folder, &[&["plan"], &WITH_ENTITIES[..]].concat()).await.with(0).out;
    assert!(plan.contains(wanted), "{plan}");
    let plan = subscriber(&folder, &[&["plan", "--format", "json"], &WITH_ENTITIES[..]].concat()).await.with(0).json();
    assert_eq!((&plan["unseen"][0], plan["unseen"].as_array().unwrap().len()), (&"entity \"item\" (item)".into(), 4));
    let doctor = ["doctor", "--local", "local.json", "--sink", "sqlite:s.sqlite"];
    let doctor = subscriber(&folder, &[&doctor[..], &WITH_ENTITIES].concat()).await.with(0).out;
    assert!(doctor.contains(wanted) && doctor.contains("readable; 1 entity; data in"), "{doctor}");

    write("entities.toml", "[entity.item]\ntypes = [\"ItemChanges\"]\nkey = [\"ItemID\"]\n");
    write("waybill.toml", "");
    let told = subscriber(
        &folder,
        &[
            "run",
            "--local",
            "local.json",
            "--sink",
            "sqlite:t.sqlite",
            "--until-idle",
            "0.5",
            "--entities",
            "entities.toml",
        ],
    )
    .await
    .with(0);
    assert!(!told.err.contains("no file so far"), "{}", told.err);
    local.stop().await;
}

#[tokio::test]
async fn a_wrong_filter_or_type_is_refused_by_every_command_with_file_and_line() {
    let (folder, local) = beside_local().await;
    publish(&folder, "ItemChanges").await;
    subscriber(&folder, &["receive", "--local", "local.json", "--until-idle", "0.5"]).await.with(0);
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    for (waybill, entities, wanted) in [
        (
            "[subscriber]\n[subscriber.filters]\nLog = 'row.a = 1'\n",
            "",
            "waybill.toml:3:14: the filter of \"Log\": not CEL: ",
        ),
        (
            "[subscriber.filters]\nA = 'true'\nLog = \"\"\"\n  row.a == 1 &&\n  b\"\"\"\n",
            "",
            "waybill.toml:5:3: the filter of \"Log\": unknown name \"b\"",
        ),
        (
            "[subscriber]\nfilters = { \"Log.*\" = 'row.a == 1' }\n",
            "",
            "waybill.toml:2:24: the filter of \"Log.*\": a star stands for nothing here; name each blobType",
        ),
        (
            "[subscriber.filters]\nitem = 'row.a == 1'\n",
            ENTITIES,
            "waybill.toml:2:9: the filter of \"item\": its rows belong to entity \"item\"; write the predicate there, as `where`",
        ),
        (
            "",
            "[entity.item]\ntypes = [\"I.*\"]\nkey = [\"a\"]\n",
            "entities.toml:2: entity \"item\": type \"I.*\": a star",
        ),
    ] {
        write("waybill.toml", waybill);
        write("entities.toml", entities);
        for command in [
            &RUN[..],
            &["process", "--local", "local.json", "--sink", "sqlite:s.sqlite"],
            &["replay", "--local", "local.json", "--sink", "sqlite:s.sqlite"],
            &["plan"],
            &["doctor", "--local", "local.json", "--sink", "sqlite:s.sqlite"],
        ] {
            let refused = subscriber(&folder, &[command, &WITH_ENTITIES].concat()).await.with(1);
            let said = if command[0] == "doctor" { &refused.out } else { &refused.err };
            assert!(said.contains(wanted), "{command:?}: {said}");
        }
        assert!(!folder.path().join("s.sqlite").exists(), "nothing was begun");
    }
    let mut by_environment = command(&folder, "waybill-subscriber", &["plan"]);
    write("waybill.toml", "");
    by_environment.env("WAYBILL_SUBSCRIBER__FILTERS__LOG", "row.a >");
    let refused = run(by_environment).await.with(1).err;
    assert!(
        refused.contains("WAYBILL_SUBSCRIBER__FILTERS__…: the filter of \"log\": at character 8: not CEL"),
        "{refused}"
    );
    local.stop().await;
}

#[tokio::test]
async fn files_that_an_earlier_choice_of_types_put_aside_are_told_and_taken() {
    let (folder, local) = beside_local().await;
    let write = |text: &str| std::fs::write(folder.path().join("waybill.toml"), text).unwrap();
    for blob_type in ["ItemChanges", "PriceChanges", "PriceChanges", "Log"] {
        publish(&folder, blob_type).await;
    }
    write("[subscriber]\ntypes = [\"ItemChanges\"]\n");
    let first = subscriber(&folder, &RUN).await.with(0);
    assert!(!first.err.contains("earlier choice"), "{}", first.err);
    let listed = subscriber(&folder, &["list", "--type", "PriceChanges", "--format", "json"]).await.with(0).json();
    // One of them nobody wants, whatever the types.
    let unwanted = listed[0]["id"].to_string();
    subscriber(&folder, &["retry", &unwanted]).await.with(0);
    subscriber(&folder, &["skip", &unwanted, "--why", "a test"]).await.with(0);

    write("[subscriber]\ntypes = [\"ItemChanges\", \"PriceChanges\"]\n");
    let told = "skipped by an earlier choice of types, and wanted now: 1 file (PriceChanges)";
    let second = subscriber(&folder, &RUN).await.with(0);
    assert_eq!(second.err.matches(told).count(), 1, "{}", second.err);
    let plan = subscriber(&folder, &["plan"]).await.with(0).out;
    assert!(plan.contains("skipped earlier") && plan.contains("and wanted now: 1 file;"), "{plan}");
    let plan = subscriber(&folder, &["plan", "--format", "json"]).await.with(0).json();
    let sums = (&plan["fetched"]["files"], &plan["saved"]["files"], &plan["saved"]["rows"], &plan["putAside"]);
    assert_eq!(sums, (&1.into(), &3.into(), &6.into(), &1.into()), "{plan}");

    let other = subscriber(&folder, &["retry", "--skipped", "--type", "Log"]).await.with(0).out;
    assert!(other.starts_with("0 files to be tried again"), "its type is not wanted: {other}");
    let taken = subscriber(&folder, &["retry", "--skipped"]).await.with(0).out;
    assert!(taken.starts_with("1 file to be tried again"), "{taken}");
    let third = subscriber(&folder, &RUN).await.with(0);
    assert!(third.out.contains("1 file done, 2 rows") && !third.err.contains("earlier choice"), "{}", third.err);
    let still = subscriber(&folder, &["show", &unwanted]).await.with(0).out;
    assert!(still.contains("a person does not want it: a test"), "{still}");
    for wrong in [&["retry", "--skipped", "1"][..], &["retry", "--skipped", "--quarantined"], &["retry", "--type", "T"]]
    {
        subscriber(&folder, wrong).await.with(2);
    }
    local.stop().await;
}
