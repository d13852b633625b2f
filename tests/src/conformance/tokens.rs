//! The token authority by Microsoft's credential libraries: assertions of each kind, what is refused and why, the published
//! key, and what a rotation does to tokens that were issued.

use std::time::Duration;

use waybill_local::Local;

use super::{Suite, node_client, python_client};

const OPERATIONS: &[&str] = &[
    "certificate_from_a_file",
    "assertion_signed_with_rs256",
    "assertion_signed_with_ps256",
    "assertion_with_a_jti_that_was_used",
    "assertion_for_another_audience",
    "assertion_whose_time_is_over",
    "assertion_of_another_key",
    "token_is_verified_with_the_published_key",
    "token_of_a_short_life",
    "token_opens_storage",
    "rotation_at_once",
    "rotation_with_a_grace",
    "authority_that_is_down_for_a_moment",
    "authority_that_is_asked_too_often",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn microsofts_credentials_get_their_tokens_and_learn_why_they_get_none() {
    let long = Local::builder().tls().start().await.expect("local starts");
    let short = Local::builder().tls().access_token_life(Duration::from_secs(5)).start().await.expect("local starts");
    let folder = tempfile::tempdir().expect("a folder for the ready files");
    let mut authorities = String::new();
    let mut files = Vec::new();
    for (name, local) in [("long.json", &long), ("short.json", &short)] {
        let path = folder.path().join(name);
        local.write_ready_file(&path).expect("the ready file is written");
        let pem = local.ready_file().ca_file.as_ref().expect("there is TLS");
        authorities += &std::fs::read_to_string(pem).expect("the authority's certificate");
        files.push(path);
    }
    // Node.js is told whom to trust before it starts.
    let trusted = folder.path().join("trusted.pem");
    std::fs::write(&trusted, authorities).expect("a file of certificates");

    let mut suite = Suite::new("The token authority of waybill-local", OPERATIONS);
    for (client, mut command) in [
        ("azure-identity (Python)", python_client("token_cases.py")),
        ("@azure/identity (JavaScript)", node_client("token_cases.cjs")),
    ] {
        command.args(&files).env("NODE_EXTRA_CA_CERTS", &trusted);
        suite.run(client, command).await;
    }
    suite.finish();
    long.stop().await;
    short.stop().await;
}
