//! Sinks by their names.

use waybill_contracts::Entities;
use waybill_store::rusqlite::Connection;

use super::world::{ITEM, entities, postgres, sqlite};
use crate::sink::{AnySink, Guarantee, Sink, check, open};

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

/// A table of a user whose key is not the entity's.
const OTHER_KEY: &str = "CREATE TABLE item (number bigint PRIMARY KEY)";

fn names_in(folder: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn a_check_says_what_opening_would_and_leaves_a_file_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.sqlite");
    let name = format!("sqlite:{}", path.display());
    assert!(!check(&name, &entities(ITEM)).await.unwrap());
    assert!(names_in(folder.path()).is_empty(), "nothing was made");
    let nowhere = format!("sqlite:{}", folder.path().join("no").join("a.sqlite").display());
    let problem = check(&nowhere, &entities(ITEM)).await.unwrap_err().to_string();
    assert!(problem.contains("there is no folder") && problem.ends_with("; make it"), "{problem}");

    for tables in ["CREATE TABLE mine (a TEXT)", sqlite::World::GOLDEN_1] {
        Connection::open(&path).unwrap().execute_batch(tables).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(check(&name, &entities("")).await.unwrap());
        assert!(std::fs::read(&path).unwrap() == before, "the file is as it was");
        assert_eq!(names_in(folder.path()), ["a.sqlite"]);
        std::fs::remove_file(&path).unwrap();
    }
    Connection::open(&path).unwrap().execute_batch(OTHER_KEY).unwrap();
    let before = std::fs::read(&path).unwrap();
    let checked = check(&name, &entities(ITEM)).await.unwrap_err().to_string();
    assert!(std::fs::read(&path).unwrap() == before, "the file is as it was");
    assert_eq!(checked, open(&name, &entities(ITEM), folder.path()).await.unwrap_err().to_string());

    // Who works the file has it, and goes on.
    let world = sqlite::World::new(ITEM).await;
    world.file("item", r#"{"id":1,"v":1}"#).await;
    assert!(check(&world.name(), &entities(ITEM)).await.unwrap());
    world.file("item", r#"{"id":2,"v":1}"#).await;
    assert_eq!(world.query("SELECT count(*) FROM item"), ["2"]);
}

#[tokio::test]
async fn a_check_of_a_database_leaves_no_table_and_no_step_of_the_schema() {
    let address = postgres::Place::new().await.schema("checked").await;
    let all = "SELECT relname, relnatts FROM pg_class WHERE relnamespace = current_schema()::regnamespace ORDER BY 1";
    assert!(check(&address, &entities(ITEM)).await.unwrap());
    assert!(postgres::run(&address, all).await.is_empty(), "nothing was made");

    postgres::run(&address, postgres::World::GOLDEN_1).await;
    let before = postgres::run(&address, all).await;
    assert!(check(&address, &entities("")).await.unwrap());
    assert_eq!(postgres::run(&address, all).await, before);
    assert_eq!(postgres::run(&address, "SELECT version FROM _waybill_schema").await, ["1"]);

    let address = postgres::Place::new().await.schema("other").await;
    postgres::run(&address, OTHER_KEY).await;
    let checked = check(&address, &entities(ITEM)).await.unwrap_err().to_string();
    assert_eq!(postgres::run(&address, all).await.len(), 2, "the table and its index");
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(checked, open(&address, &entities(ITEM), folder.path()).await.unwrap_err().to_string());
}

#[tokio::test]
async fn a_check_of_a_folder_leaves_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let files = folder.path().join("files");
    let name = format!("dir:{}", files.display());
    assert!(!check(&name, &Entities::default()).await.unwrap());
    std::fs::create_dir(&files).unwrap();
    assert!(check(&name, &Entities::default()).await.unwrap());
    assert!(names_in(&files).is_empty());
    open(&name, &Entities::default(), folder.path()).await.unwrap();
    assert!(check(&name, &Entities::default()).await.unwrap());
    std::fs::write(files.join(".waybill").join("progress.sqlite"), "these are my notes").unwrap();
    assert!(check(&name, &Entities::default()).await.is_err());
}
