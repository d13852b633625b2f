//! Manifests: what is read of their rows, and that every mistake is named.

use super::golden;
use crate::{Fate, ManifestRow, ManifestScope, Metadata};

const ACCEPTED: &str = "manifests/accepted";
const REFUSED: &str = "manifests/refused";
const ACCEPTED_FILES: [&str; 2] = ["manifest.jsonl", "from-a-newer-version.jsonl"];

/// File, and the words by which a person finds the mistake.
const REFUSALS: [(&str, &str); 9] = [
    ("not-an-object.json", "cannot be read"),
    ("no-epoch.json", "missing field `epoch`"),
    ("sequence-zero.json", "has sequence 0; it is 1 to"),
    ("sequence-too-large.json", "has sequence 9223372036854775808; it is 1 to"),
    ("neither-message-nor-void.json", "of T 1 needs one of message and void"),
    ("both-message-and-void.json", "of T 1 needs one of message and void"),
    ("message-is-none.json", "of T 1: message: the message has no correlationId"),
    ("message-of-another-number.json", "of T 1: message: publisher, epoch, blobType and sequence are others"),
    ("message-of-another-type.json", "of T 1: message: publisher, epoch, blobType and sequence are others"),
];

pub(super) fn golden() -> Vec<String> {
    let accepted = ACCEPTED_FILES.iter().map(|file| format!("{ACCEPTED}/{file}"));
    accepted.chain(REFUSALS.iter().map(|(file, _)| format!("{REFUSED}/{file}"))).collect()
}

#[test]
fn rows_of_a_manifest_are_read_and_written_without_a_difference() {
    let text = golden::read_text(ACCEPTED, "manifest.jsonl");
    let rows: Vec<_> = text.lines().map(|line| ManifestRow::parse(line.as_bytes()).unwrap()).collect();
    let written: String = rows.iter().map(|row| row.to_json().unwrap() + "\n").collect();
    assert_eq!(written, text);
    let [sent, void] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((sent.blob_type.as_str(), sent.sequence, void.sequence), ("ProductChanges", 41, 42));
    let Fate::Sent(message) = &sent.fate else { panic!("{sent:?}") };
    assert_eq!(message.extras().unwrap().rows, Some(1000));
    assert_eq!(void.fate, Fate::Void("interrupted; its blob was not committed".to_owned()));
}

#[test]
fn what_a_newer_version_adds_to_a_row_is_passed_over() {
    let row = ManifestRow::parse(&golden::read(ACCEPTED, "from-a-newer-version.jsonl")).unwrap();
    assert_eq!((row.sequence, row.fate), (42, Fate::Void("a person says so".to_owned())));
}

#[test]
fn a_row_that_is_none_of_a_manifest_says_why() {
    for (file, words) in REFUSALS {
        let error = ManifestRow::parse(&golden::read(REFUSED, file)).expect_err(file).to_string();
        assert!(error.contains(words), "{file}: {error}");
    }
}

#[test]
fn a_row_whose_message_may_not_be_published_is_not_written() {
    let text = golden::read_text(ACCEPTED, "manifest.jsonl");
    let mut row = ManifestRow::parse(text.lines().next().unwrap().as_bytes()).unwrap();
    let Fate::Sent(message) = &mut row.fate else { panic!("{row:?}") };
    message.uri.push_str("?sig=SECRET");
    let error = row.to_json().unwrap_err().to_string();
    assert!(error.contains("uri has a query") && !error.contains("SECRET"), "{error}");
}

#[test]
fn a_message_says_what_its_manifest_names() {
    let said = |properties: &str| {
        let fields = r#""blobType":"Waybill.Manifest","correlationId":"c","contentType":"application/x-jsonlines""#;
        let body = format!(r#"{{{fields},"uri":"https://a.example/c/b.jsonl","properties":{properties}}}"#);
        ManifestScope::of(&Metadata::parse(body.as_bytes()).unwrap())
    };
    let scope =
        said(r#"{"manifest":{"publisher":"a","epoch":"e","blobType":"T","first":1,"last":57,"new":[]}}"#).unwrap();
    assert_eq!((scope.blob_type.as_str(), scope.first, scope.last), ("T", 1, 57));
    assert_eq!(said(&format!(r#"{{"manifest":{}}}"#, serde_json::to_string(&scope).unwrap())), Some(scope));
    for other in ["null", "[]", "{}", r#"{"manifest":1}"#, r#"{"manifest":{"publisher":"a"}}"#] {
        assert_eq!(said(other), None, "{other}");
    }
}
