//! The ready file: its exact shape, and that its credentials are not shown.

use super::golden;
use crate::ReadyFile;

const FOLDER: &str = "ready";
const FILES: [&str; 2] = ["ready.json", "from-a-newer-version.json"];

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
    let [known, newer] = FILES.map(|file| serde_json::from_slice::<ReadyFile>(&golden::read(FOLDER, file)).unwrap());
    assert_eq!(known, newer);
}

#[test]
fn debug_of_the_ready_file_shows_no_credential() {
    let ready: ReadyFile = serde_json::from_slice(&golden::read(FOLDER, "ready.json")).unwrap();
    let shown = format!("{ready:?} {ready:#?}");
    assert!(shown.contains("batchtoprocess") && shown.contains("globex"), "{shown}");
    assert!(!shown.contains("SECRET"), "{shown}");
}
