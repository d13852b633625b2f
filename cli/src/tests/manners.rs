//! What somebody is told who mistypes, stands behind a proxy, or has seen enough.

use std::process::Stdio;

use waybill_local::Local;

use super::binaries::{beside_local, command, publish, run};

#[tokio::test]
async fn a_proxy_that_hinders_is_named_by_every_check_that_needs_it() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (proxy, wanted) in [
        (format!("http://user:TOPSECRET@{nobody}"), format!("the proxy {nobody} (HTTPS_PROXY): ")),
        ("foo.invalid".to_owned(), "the proxy foo.invalid:80 (HTTPS_PROXY): ".to_owned()),
        ("http://user:TOPSECRET@:80:80".to_owned(), "HTTPS_PROXY is not a proxy's URL".to_owned()),
    ] {
        let mut doctor = command(&folder, "waybill-subscriber", &["doctor", "--sink", "stdout", "--format", "json"]);
        for variable in ["https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"] {
            doctor.env_remove(variable);
        }
        doctor.env("HTTPS_PROXY", &proxy).env("WAYBILL_SUBSCRIBER__TENANT__URL", "https://tenant.invalid");
        doctor.env("WAYBILL_SUBSCRIBER__TENANT__BEARER_TOKEN", "TOPSECRET");
        let ended = run(doctor).await.with(1);
        let checks = ended.json();
        let of = |name: &str| checks.as_array().unwrap().iter().find(|check| check["check"] == name).unwrap().clone();
        for name in ["clock", "TenantService", "proxy"] {
            let check = of(name);
            assert_eq!(check["state"], "failed", "{check}");
            assert!(check["detail"].as_str().unwrap().contains(&wanted), "{check}");
        }
        assert!(!format!("{}{}", ended.out, ended.err).contains("TOPSECRET"), "{}", ended.out);
    }
}

#[tokio::test]
async fn who_cannot_be_reached_is_told_with_what_to_check() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut doctor = command(&folder, "waybill-subscriber", &["doctor", "--sink", "stdout"]);
    doctor.env("WAYBILL_SUBSCRIBER__TENANT__URL", format!("http://{nobody}"));
    doctor.env("WAYBILL_SUBSCRIBER__TENANT__BEARER_TOKEN", "x");
    let told = run(doctor).await.with(1).out;
    let advice = "; check `url` under [subscriber.tenant], and that a firewall or proxy lets this machine out (docs/networks.md)";
    assert_eq!(told.matches(advice).count(), 2, "clock and TenantService: {told}");
}

#[tokio::test]
async fn the_doctor_tries_each_place_of_the_grant_and_names_those_that_fail() {
    let (folder, local) = beside_local().await;
    let gone = Local::builder().start().await.unwrap();
    let (entity, container) = ("exports/subscriptions/acme", local.ready_file().container.clone());
    let offers = [
        local.bus_offer(entity),
        gone.bus_offer(entity),
        local.blob_offer(&container),
        local.blob_offer("never-made"),
        gone.blob_offer(&container),
    ];
    local.set_grant("acme", offers).unwrap();
    let (bus, blob) = (gone.ports().amqp, gone.ports().blob);
    gone.stop().await;
    let doctor = ["doctor", "--local", "local.json", "--sink", "sqlite:shop.sqlite", "--format", "json"];
    let checks = run(command(&folder, "waybill-subscriber", &doctor)).await.with(1).json();
    let of = |name: &str| -> Vec<(String, String)> {
        let checks = checks.as_array().unwrap().iter().filter(|check| check["check"] == name);
        checks.map(|check| ["state", "detail"].map(|key| check[key].as_str().unwrap().to_owned()).into()).collect()
    };
    let granted = &of("TenantService")[0].1;
    assert!(granted.ends_with("; 2 places on the bus, 3 containers"), "{granted}");
    for (name, expected) in [
        ("Service Bus", vec![("ok", "attached to"), ("failed", &*format!("127.0.0.1:{bus}/{entity}: cannot connect"))]),
        (
            "storage",
            vec![
                ("ok", "the container batchtoprocess can be read"),
                ("failed", "/never-made: "),
                ("failed", &*format!("127.0.0.1:{blob}/devstoreaccount1/batchtoprocess: ")),
            ],
        ),
    ] {
        let found = of(name);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((state, detail), (expected_state, text)) in found.iter().zip(expected) {
            assert!(
                state == expected_state && detail.contains(text),
                "{state}: {detail}, not {expected_state}: {text}"
            );
        }
    }
    local.stop().await;
}

#[tokio::test]
async fn a_ready_file_that_wins_over_the_settings_says_so() {
    let (folder, local) = beside_local().await;
    run(publish(&folder, &["item.csv"])).await.with(0);
    let arguments = ["run", "--local", "local.json", "--sink", "sqlite:a.sqlite", "--until-idle", "0.5"];
    let mut both = command(&folder, "waybill-subscriber", &arguments);
    both.env("WAYBILL_SUBSCRIBER__TENANT__BEARER_TOKEN", "TOPSECRET");
    let ended = run(both).await.with(0);
    assert_eq!(
        ended.err.matches("--local wins: address and token are those of its ready file").count(),
        1,
        "{}",
        ended.err
    );
    let alone = run(command(&folder, "waybill-subscriber", &arguments)).await.with(0);
    assert_eq!(alone.err, "");
    local.stop().await;
}

#[tokio::test]
async fn a_day_is_a_time_and_anything_else_is_answered_with_both_forms() {
    let (folder, local) = beside_local().await;
    run(publish(&folder, &["item.csv"])).await.with(0);
    run(command(&folder, "waybill-subscriber", &["receive", "--local", "local.json", "--until-idle", "0.5"]))
        .await
        .with(0);
    let process = async |since: &str, code| {
        let arguments = ["process", "--local", "local.json", "--sink", "sqlite:a.sqlite", "--since", since];
        run(command(&folder, "waybill-subscriber", &arguments)).await.with(code)
    };
    assert!(process("2999-01-01", 0).await.out.contains("0 files done"));
    for wrong in ["yesterday", "2026-13-01", "2026-11-23 06:00"] {
        let err = process(wrong, 2).await.err;
        assert!(err.contains("write 2026-11-23T06:30:00Z, or 2026-11-23 for the begin of that day in UTC"), "{err}");
    }
    assert!(process("2020-02-29", 0).await.out.contains("1 file done"));
    local.stop().await;
}

#[tokio::test]
async fn a_closed_pipe_ends_a_run_to_standard_output_well() {
    let (folder, local) = beside_local().await;
    run(publish(&folder, &["item.csv"])).await.with(0);
    run(command(&folder, "waybill-subscriber", &["receive", "--local", "local.json", "--until-idle", "0.5"]))
        .await
        .with(0);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut process = command(&folder, "waybill-subscriber", &["process", "--local", "local.json", "--sink", "stdout"]);
    process.stdout(writer).stderr(Stdio::piped());
    let ended =
        tokio::task::spawn_blocking(move || process.spawn().unwrap().wait_with_output().unwrap()).await.unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    // A listing, too.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut list = command(&folder, "waybill-subscriber", &["list"]);
    list.stdout(writer).stderr(Stdio::piped());
    let ended = tokio::task::spawn_blocking(move || list.spawn().unwrap().wait_with_output().unwrap()).await.unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));
    local.stop().await;
}

#[tokio::test]
async fn text_that_is_no_json_is_not_called_null() {
    let (folder, local) = beside_local().await;
    for (name, wanted) in [
        ("a.jsonl", "a.jsonl: row 1, byte 0: a row must be a JSON object, not text that is no JSON"),
        ("a.json", "a.json: row 1, byte 0: a JSON file must be an array of objects or one object, not a word"),
    ] {
        std::fs::write(folder.path().join(name), "not json\n").unwrap();
        let refused = run(publish(&folder, &[name])).await.with(1).err;
        assert!(refused.contains(wanted), "{refused}");
    }
    local.stop().await;
}

#[tokio::test]
async fn an_unknown_section_is_answered_with_those_that_are_known() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("waybill.toml"), "[subscribers]\n").unwrap();
    let refused = run(command(&folder, "waybill-subscriber", &["status"])).await.with(1).err;
    let wanted = "waybill.toml:1: unknown section or key \"subscribers\"; known sections are [subscriber], [publisher], [republish]";
    assert!(refused.contains(wanted), "{refused}");
}

#[tokio::test]
async fn a_workload_identity_without_its_pod_names_the_variable_and_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let settings = "[subscriber.tenant]\nurl = \"https://tenant.invalid\"\n[subscriber.tenant.entra]\nscope = \"api://x/.default\"\nworkload_identity = true\n";
    std::fs::write(folder.path().join("waybill.toml"), settings).unwrap();
    let mut doctor = command(&folder, "waybill-subscriber", &["doctor", "--sink", "stdout"]);
    for variable in ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_FEDERATED_TOKEN_FILE"] {
        doctor.env_remove(variable);
    }
    let told = run(doctor).await.with(1).out;
    assert!(told.contains("neither `directory_id` in the settings nor AZURE_TENANT_ID in the environment"), "{told}");
    assert!(!told.contains("tenant_id"), "{told}");
}

#[tokio::test]
async fn another_name_of_a_host_that_is_none_is_refused_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let told = async |settings: &str| {
        std::fs::write(folder.path().join("waybill.toml"), settings).unwrap();
        run(command(&folder, "waybill-subscriber", &["status"])).await.with(1).err
    };
    let refused =
        told("[subscriber]\n[subscriber.storage.aliases]\n\"https://files.example.com/\" = \"a.example\"\n").await;
    assert!(refused.contains("waybill.toml:"), "{refused}");
    let wanted = "host \"https://files.example.com/\" cannot stand for \"a.example\": write each as host or host:port";
    assert!(refused.contains(wanted), "{refused}");
    let taken = told("[subscriber.storage.aliases]\n\"files.example.com\" = \"a.example:8443\"\n").await;
    assert!(taken.contains("no inbox at"), "{taken}");
    let mut by_environment = command(&folder, "waybill-subscriber", &["status"]);
    std::fs::write(folder.path().join("waybill.toml"), "").unwrap();
    by_environment.env("WAYBILL_SUBSCRIBER__STORAGE__ALIASES", "{\"files.example.com\" = \"a.example\"}");
    let taken = run(by_environment).await.with(1).err;
    assert!(taken.contains("no inbox at"), "{taken}");
}
