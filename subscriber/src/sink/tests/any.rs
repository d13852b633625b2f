//! Sinks by their names.

use waybill_contracts::Entities;

use crate::sink::{AnySink, Guarantee, Sink, open};

#[tokio::test]
async fn a_sink_is_opened_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let sqlite = open(&format!("sqlite:{}", path("a.sqlite")), &Entities::default(), folder.path()).await.unwrap();
    assert!(matches!(sqlite, AnySink::Sqlite(_)));
    assert_eq!(sqlite.guarantee(), Guarantee::ExactlyOnce);
    let dir = open(&format!("dir:{}", path("files")), &Entities::default(), folder.path()).await.unwrap();
    assert!(matches!(dir, AnySink::Dir(_)));
    for format in ["jsonl", "json", "csv", "xml", "xmll", "same"] {
        let name = format!("dir+{format}:{}", path(format));
        assert!(matches!(open(&name, &Entities::default(), folder.path()).await.unwrap(), AnySink::Dir(_)));
    }
    let stdout = open("stdout", &Entities::default(), folder.path()).await.unwrap();
    assert!(matches!(stdout, AnySink::Stdout(_)));
    assert_eq!(stdout.guarantee(), Guarantee::AtLeastOnce);
}

#[tokio::test]
async fn other_sinks_are_refused_by_name_without_their_secrets() {
    let folder = tempfile::tempdir().unwrap();
    for (name, expected) in [
        (
            "postgres://user:secret@",
            "sink \"postgres:…\": the database's address cannot be used: it names no host; write postgres://USER@HOST:PORT/DATABASE",
        ),
        (
            "dir+yaml:x",
            "sink \"dir+yaml:…\": there is no sink of this kind; write sqlite:PATH, postgres://USER@HOST:PORT/DATABASE, dir:PATH or stdout",
        ),
        (
            "kafka:secret",
            "sink \"kafka:…\": there is no sink of this kind; write sqlite:PATH, postgres://USER@HOST:PORT/DATABASE, dir:PATH or stdout",
        ),
        (
            "shop.sqlite",
            "sink \"shop.sqlite\": there is no sink of this name; write sqlite:PATH, postgres://USER@HOST:PORT/DATABASE, dir:PATH or stdout",
        ),
        (
            "sqlite:",
            "sink \"sqlite:\": sqlite: needs a path; write sqlite:PATH, postgres://USER@HOST:PORT/DATABASE, dir:PATH or stdout",
        ),
    ] {
        let error = open(name, &Entities::default(), folder.path()).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}
