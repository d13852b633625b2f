//! The ready file: its exact shape, and that its credentials are not shown.

use super::golden;
use crate::ReadyFile;

const FOLDER: &str = "ready";
const FILES: [&str; 3] = ["ready.json", "from-a-newer-version.json", "with-tls.json"];

pub(super) fn golden() -> Vec<String> {
    FILES.iter().map(|file| format!("{FOLDER}/{file}")).collect()
}

#[test]
fn the_ready_file_is_read_and_written_without_a_difference() {
    let text = golden::read_text(FOLDER, "ready.json");
    let ready: ReadyFile = serde_json::from_str(&text).unwrap();
    assert_eq!(ready.tenants.len(), 2);
    assert_eq!(format!("{}\n", serde_json::to_string_pretty(&ready).unwrap()), text);
}

#[test]
fn fields_of_a_newer_ready_file_are_passed_over() {
    let read = |file| serde_json::from_slice::<ReadyFile>(&golden::read(FOLDER, file)).unwrap();
    let mut newer = read("from-a-newer-version.json");
    // These two were new once.
    assert_eq!(newer.authority_url.take().as_deref(), Some("http://127.0.0.1:8080/authority"));
    assert_eq!(newer.ca_file.take().as_deref(), Some("ca.pem"));
    assert_eq!(newer, read("ready.json"));
}

#[test]
fn what_tls_adds_is_read_and_written_without_a_difference() {
    let text = golden::read_text(FOLDER, "with-tls.json");
    let ready: ReadyFile = serde_json::from_str(&text).unwrap();
    assert_eq!(ready.clients.len(), 2);
    assert_eq!(format!("{}\n", serde_json::to_string_pretty(&ready).unwrap()), text);
}

#[test]
fn debug_of_the_ready_file_shows_no_credential() {
    for file in ["ready.json", "with-tls.json"] {
        let ready: ReadyFile = serde_json::from_slice(&golden::read(FOLDER, file)).unwrap();
        let shown = format!("{ready:?} {ready:#?}");
        assert!(shown.contains("batchtoprocess") && shown.contains("acme"), "{shown}");
        assert!(!shown.contains("SECRET"), "{shown}");
    }
}
