//! `docs/wire.md` says what we do: its examples are read, and it names every field.

use std::collections::BTreeSet;

use serde_json::Value;

use super::golden;
use crate::{Format, GrantLayout, Metadata, Reason, TEMPORARY_ENDPOINTS_PATH, TemporaryEndpoints};

const DOCUMENT: &str = include_str!("../../../docs/wire.md");

/// The blocks of code in a language, in their order.
fn blocks(language: &str) -> Vec<&'static str> {
    let opening = format!("```{language}\n");
    DOCUMENT.split(opening.as_str()).skip(1).map(|after| after.split("```").next().unwrap()).collect()
}

fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                found.insert(name.clone());
                keys(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
        _ => {}
    }
}

#[test]
fn the_example_of_a_message_is_one_that_we_read_and_publish() {
    let metadata = Metadata::parse(blocks("json")[0].as_bytes()).unwrap();
    assert_eq!(metadata.media().unwrap().format, Format::JsonLines);
    assert_eq!(metadata.extras().unwrap().sequence, Some(42));
    metadata.blob_uri().unwrap();
    metadata.to_json().unwrap();
}

#[test]
fn the_example_of_a_manifest_is_the_golden_one() {
    assert_eq!(blocks("jsonl")[1], golden::read_text("manifests/accepted", "manifest.jsonl"));
}

#[test]
fn the_example_of_a_grant_is_one_that_we_read() {
    let grant = TemporaryEndpoints::parse(blocks("json")[1].as_bytes(), &GrantLayout::default()).unwrap();
    assert_eq!(grant.blob_storage[0].expires_at, grant.service_bus[0].expires_at);
    assert!(DOCUMENT.contains(TEMPORARY_ENDPOINTS_PATH));
}

#[test]
fn the_example_of_rows_is_json_lines() {
    let rows = blocks("jsonl")[0].lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>();
    assert_eq!(rows[1]["_deleted"], Value::Bool(true));
}

#[test]
fn every_field_of_the_wire_is_named() {
    let mut names = BTreeSet::new();
    for (folder, file) in [("metadata/accepted", "extras-full.json"), ("grants/accepted", "default.json")] {
        keys(&serde_json::from_slice(&golden::read(folder, file)).unwrap(), &mut names);
    }
    for row in golden::read_text("manifests/accepted", "manifest.jsonl").lines() {
        keys(&serde_json::from_str(row).unwrap(), &mut names);
    }
    names.remove("region"); // somebody's own property
    for name in names {
        assert!(DOCUMENT.contains(&format!("`{name}`")) || DOCUMENT.contains(&format!(".{name}`")), "{name}");
    }
}

#[test]
fn every_content_type_and_reason_it_names_is_ours() {
    for format in [Format::JsonLines, Format::Json, Format::Csv, Format::Xml, Format::XmlLines] {
        assert!(DOCUMENT.contains(&format!("| `{}` |", format.content_type())), "{format:?}");
        assert!(DOCUMENT.contains(&format!("| `{}` |", format.suffix())), "{format:?}");
    }
    for reason in [Reason::BadUri, Reason::ForeignUri, Reason::BadExtras] {
        assert!(DOCUMENT.contains(&format!("(`{reason}`)")), "{reason}");
    }
}
