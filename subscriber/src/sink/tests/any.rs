//! Sinks by their names.

use waybill_contracts::Entities;

use crate::sink::{AnySink, Guarantee, Sink, open};

#[tokio::test]
async fn a_sink_is_opened_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let sqlite = open(&format!("sqlite:{}", path("a.sqlite")), &Entities::default()).await.unwrap();
    assert!(matches!(sqlite, AnySink::Sqlite(_)));
    assert_eq!(sqlite.guarantee(), Guarantee::ExactlyOnce);
    let dir = open(&format!("dir:{}", path("files")), &Entities::default()).await.unwrap();
    assert!(matches!(dir, AnySink::Dir(_)));
}

#[tokio::test]
async fn other_sinks_are_refused_by_name_without_their_secrets() {
    for (name, expected) in [
        (
            "stdout",
            "sink \"stdout\": this version does not write to standard output yet; write sqlite:PATH, postgres://USER@HOST:PORT/DATABASE or dir:PATH",
        ),
        (
            "postgres://user:secret@",
            "sink \"postgres:…\": the database's address cannot be used: it names no host; write postgres://USER@HOST:PORT/DATABASE",
        ),
        (
            "kafka:secret",
            "sink \"kafka:…\": there is no sink of this kind; write sqlite:PATH, postgres://USER@HOST:PORT/DATABASE or dir:PATH",
        ),
        (
            "shop.sqlite",
            "sink \"shop.sqlite\": there is no sink of this name; write sqlite:PATH, postgres://USER@HOST:PORT/DATABASE or dir:PATH",
        ),
        (
            "sqlite:",
            "sink \"sqlite:\": sqlite: needs a path; write sqlite:PATH, postgres://USER@HOST:PORT/DATABASE or dir:PATH",
        ),
    ] {
        let error = open(name, &Entities::default()).await.unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
}
