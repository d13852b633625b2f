//! Whether `waybill-local` is Service Bus, as far as clients can tell: Microsoft's SDKs and Qpid Proton, none of them
//! patched, try every operation of one list.
//!
//! Each client gets a `Local` of its own with an entity per operation, and a plan that names the operations. It prints a
//! JSON line per case. From these comes a table of operation × client; a case that is missing fails like one that failed.

mod operations;
mod table;

use std::{collections::BTreeMap, io::Write as _, path::Path, process::Stdio, time::Duration};

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};
use waybill_local::{
    Local,
    broker::TopicOptions,
    config::{Config, Ports},
};

use super::{node_client, python_client};
use crate::harness::here;
use operations::{Client, Entity, Operation, operations};
use table::{Outcome, Table};

/// Policies beside the root's, which has all rights.
const POLICIES: &str = r#"
    [[policies]]
    name = "listener"
    key = "a key to listen"
    rights = ["Listen"]

    [[policies]]
    name = "sender"
    key = "a key to send"
    rights = ["Send"]
"#;

/// Longer than all cases of one client take on a busy machine; the cases have shorter limits of their own.
const PATIENCE: Duration = Duration::from_secs(240);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_finds_every_operation_of_service_bus() {
    let operations = operations();
    let columns = join_all(Client::ALL.map(|client| judge(client, &operations))).await;
    let table = Table::new(&operations, Client::ALL.into_iter().zip(columns).collect());
    table.write(&target().join("conformance-bus.md"));
    // Not `println!`, which a passing test keeps to itself.
    std::io::stdout().write_all(table.summary().as_bytes()).expect("standard output");
    assert!(table.failures().is_empty(), "\n{}", table.failures().join("\n"));
    let page = std::fs::read_to_string(here().join("../docs/local.md")).expect("docs/local.md is there");
    assert!(
        page.contains(&table.markdown()),
        "docs/local.md shows another table; put that of target/conformance-bus.md into its section \"Judged by\""
    );
}

/// What cases a client has, and what became of each.
async fn judge(client: Client, operations: &[Operation]) -> BTreeMap<String, Outcome> {
    let config = Config::parse(POLICIES).expect("a good configuration");
    let local = Local::builder().config(config).ports(Ports::RANDOM).tls().start().await.expect("local starts");
    make_entities(&local, operations);
    let folder = tempfile::tempdir().expect("a folder for the plan");
    let plan = folder.path().join("plan.json");
    std::fs::write(&plan, plan_of(client, operations, &local)).expect("the plan is written");
    let mut command = command_of(client, &plan);
    // Node.js is told whom to trust before it starts.
    let authority = local.ready_file().ca_file.as_deref().expect("there is TLS");
    command.env("NODE_EXTRA_CA_CERTS", authority);
    // Everything is on this machine, whatever proxy the environment names.
    command.env("NO_PROXY", "127.0.0.1,localhost").stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output())
        .await
        .unwrap_or_else(|_| panic!("{} had not ended after {PATIENCE:?}", client.name()))
        .unwrap_or_else(|error| panic!("{} cannot be started: {error}", client.name()));
    local.stop().await;
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} ended with {}: {complaints}", client.name(), output.status);
    let lines = String::from_utf8(output.stdout).expect("text");
    let mut outcomes = BTreeMap::new();
    for line in lines.lines() {
        let told: Value = serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("{} prints {line:?}, which is no result: {error}", client.name()));
        let operation = told["operation"].as_str().expect("a result names its operation").to_owned();
        let error = told["error"].as_str().map(str::to_owned);
        let outcome = Outcome { error, seconds: told["seconds"].as_f64().unwrap_or_default() };
        let twice = outcomes.insert(operation, outcome);
        assert!(twice.is_none(), "{} prints two results of one case: {line}", client.name());
    }
    outcomes
}

fn make_entities(local: &Local, operations: &[Operation]) {
    let broker = local.broker();
    for Operation { name, entity, .. } in operations {
        match entity {
            Entity::Queue(options) => broker.add_queue(name, options.clone()).expect("a queue"),
            Entity::Topic(rules, options) => {
                broker.add_topic(name, TopicOptions::default()).expect("a topic");
                for (subscription, rules) in ["s1", "s2"].into_iter().zip(rules) {
                    let made = broker.add_subscription_with_rules(name, subscription, options.clone(), rules.clone());
                    made.expect("a subscription");
                }
            }
        }
    }
}

fn plan_of(client: Client, operations: &[Operation], local: &Local) -> String {
    let operations: Vec<_> = operations
        .iter()
        .filter(|operation| operation.why_not(client).is_none())
        .map(|operation| json!({ "name": operation.name, "entity": operation.name }))
        .collect();
    let policies = json!({ "listener": "a key to listen", "sender": "a key to send" });
    json!({ "ready": local.ready_file(), "policies": policies, "operations": operations }).to_string()
}

fn command_of(client: Client, plan: &Path) -> Command {
    let mut command = match client {
        Client::Python | Client::PythonAsync => python_client("bus/sdk.py"),
        Client::Proton => python_client("bus/proton_client.py"),
        Client::JavaScript => node_client("bus/sdk.cjs"),
    };
    match client {
        Client::Python => command.arg("sync"),
        Client::PythonAsync => command.arg("async"),
        Client::JavaScript | Client::Proton => &mut command,
    };
    command.arg(plan);
    command
}

/// The folder that the build writes to.
fn target() -> std::path::PathBuf {
    let test = std::env::current_exe().expect("this program has a path");
    test.ancestors().nth(3).expect("it lies in target/PROFILE/deps").to_owned()
}
