//! What is not ours is not opened, and not touched.

use rusqlite::Connection;

use super::{Folder, ID, NOTES, STEPS, add, ids, open};
use crate::{Migration, OpenError, Schema, Sqlite, SqliteOptions};

const SINK: Schema = Schema { application_id: 0, name: "sink", migrations: STEPS, shared_with_user: true };

fn refused(folder: &Folder, schema: &Schema) -> OpenError {
    let before = folder.content();
    let error = Sqlite::open(&folder.file(), schema, SqliteOptions::default()).unwrap_err();
    assert!(folder.content() == before, "a refused file is not touched, and nothing is put beside it");
    error
}

fn foreign(folder: &Folder, sql: &str) {
    let db = Connection::open(folder.file()).unwrap();
    db.execute_batch(sql).unwrap();
    db.close().unwrap();
}

#[tokio::test]
async fn a_fresh_file_gets_its_id_and_every_step() {
    let folder = Folder::new();
    let notes = open(&folder.file());
    let (id, version): (i32, i64) = notes
        .read(|db| {
            Ok((
                db.query_row("PRAGMA application_id", [], |row| row.get(0))?,
                db.query_row("PRAGMA user_version", [], |row| row.get(0))?,
            ))
        })
        .await
        .unwrap();
    assert_eq!((id, version), (ID, 2));
    let settings = notes
        .write(|tx| {
            let pragma = |name: &str| tx.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
            Ok::<_, rusqlite::Error>((pragma("synchronous")?, pragma("foreign_keys")?))
        })
        .await
        .unwrap()
        .unwrap();
    assert_eq!(settings, (2, 1), "synchronous=FULL, foreign keys on");
    // While the WAL still holds everything, the file itself already says whose it is.
    add(&notes, 1).await.unwrap().unwrap();
    let other = Schema { application_id: ID + 1, ..NOTES };
    assert!(matches!(Sqlite::open(&folder.file(), &other, SqliteOptions::default()), Err(OpenError::Foreign { .. })));
}

#[tokio::test]
async fn an_older_file_takes_the_missing_steps_and_keeps_its_rows() {
    let folder = Folder::new();
    let old = Schema { migrations: &STEPS[..1], ..NOTES };
    let notes = Sqlite::open(&folder.file(), &old, SqliteOptions::default()).unwrap();
    add(&notes, 1).await.unwrap().unwrap();
    notes.close().await;
    let notes = open(&folder.file());
    notes.write(|tx| tx.execute("UPDATE note SET author = 'me'", [])).await.unwrap().unwrap();
    assert_eq!(ids(&notes).await, [1]);
}

#[tokio::test]
async fn a_step_that_fails_leaves_the_schema_before_it() {
    let folder = Folder::new();
    open(&folder.file()).close().await;
    const BROKEN: &[Migration] =
        &[STEPS[0], STEPS[1], Migration { name: "half", sql: "CREATE TABLE half (x); INSERT INTO nowhere VALUES (1)" }];
    let broken = Schema { migrations: BROKEN, ..NOTES };
    let error = Sqlite::open(&folder.file(), &broken, SqliteOptions::default()).unwrap_err();
    assert!(matches!(error, OpenError::Migration { name: "half", .. }), "{error}");
    let notes = open(&folder.file());
    let tables: i64 =
        notes.read(|db| db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))).await.unwrap();
    assert_eq!(tables, 1);
}

#[test]
fn somebody_elses_database_is_refused() {
    let folder = Folder::new();
    foreign(&folder, "CREATE TABLE theirs (x)");
    assert!(matches!(refused(&folder, &NOTES), OpenError::Foreign { .. }));
    let folder = Folder::new();
    foreign(&folder, "PRAGMA application_id = 77; PRAGMA user_version = 1; CREATE TABLE theirs (x)");
    let error = refused(&folder, &NOTES);
    assert_eq!(
        error.to_string(),
        format!("{}: not a database of Waybill (notes); give another path", folder.file().display())
    );
    assert!(matches!(refused(&folder, &SINK), OpenError::Foreign { .. }), "an application id is somebody's claim");
}

#[test]
fn somebody_elses_database_is_refused_while_its_tables_are_in_the_wal_only() {
    let folder = Folder::new();
    let theirs = Connection::open(folder.file()).unwrap();
    theirs.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).unwrap();
    theirs.execute_batch("PRAGMA wal_autocheckpoint = 0; CREATE TABLE theirs (x)").unwrap();
    assert!(matches!(refused(&folder, &NOTES), OpenError::Foreign { .. }));
}

#[test]
fn somebody_elses_database_in_the_middle_of_a_transaction_is_refused() {
    let folder = Folder::new();
    foreign(&folder, "CREATE TABLE theirs (x)");
    let theirs = Connection::open(folder.file()).unwrap();
    theirs.execute_batch("PRAGMA cache_size = 1; BEGIN; INSERT INTO theirs VALUES (randomblob(100000))").unwrap();
    assert!(folder.content().iter().any(|(name, bytes)| name.ends_with("-journal") && !bytes.is_empty()));
    let options = SqliteOptions { busy_timeout: std::time::Duration::from_millis(50), ..Default::default() };
    let before = folder.content();
    let error = Sqlite::open(&folder.file(), &NOTES, options).unwrap_err();
    assert!(matches!(error, OpenError::Foreign { .. } | OpenError::Busy { .. }), "{error}");
    assert!(folder.content() == before);
    theirs.execute_batch("COMMIT").unwrap();
}

#[test]
fn a_file_that_somebody_holds_passes_and_one_that_is_not_ours_takes_a_person() {
    let folder = Folder::new();
    let holder = Connection::open(folder.file()).unwrap();
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let options = SqliteOptions { busy_timeout: std::time::Duration::from_millis(50), ..Default::default() };
    let error = Sqlite::open(&folder.file(), &NOTES, options.clone()).unwrap_err();
    assert!(matches!(error, OpenError::Busy { .. }) && error.passes(), "{error}");
    assert!(error.to_string().ends_with("cannot open: another process holds it"), "{error}");
    holder.execute_batch("COMMIT; CREATE TABLE theirs (x)").unwrap();
    assert!(!Sqlite::open(&folder.file(), &NOTES, options).unwrap_err().passes());
}

#[tokio::test]
async fn a_newer_file_is_refused() {
    let folder = Folder::new();
    open(&folder.file()).close().await;
    let older_program = Schema { migrations: &STEPS[..1], ..NOTES };
    let error = refused(&folder, &older_program);
    assert_eq!(
        error.to_string(),
        format!("{}: schema version 2, this program knows up to 1; use a newer program", folder.file().display())
    );
}

#[test]
fn what_is_no_database_is_refused() {
    for bytes in [&b"hello"[..], b"SQLite format 3\0", &[0; 4096]] {
        let folder = Folder::new();
        std::fs::write(folder.file(), bytes).unwrap();
        assert!(matches!(refused(&folder, &NOTES), OpenError::Damaged { .. }));
        assert!(matches!(refused(&folder, &SINK), OpenError::Damaged { .. }));
    }
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let folder = Folder::new();
    let notes = open(&folder.file());
    for id in 0..500 {
        add(&notes, id).await.unwrap().unwrap();
    }
    notes.close().await;
    let good = std::fs::read(folder.file()).unwrap();
    std::fs::write(folder.file(), &good[..good.len() - 4096]).unwrap();
    assert!(matches!(refused(&folder, &NOTES), OpenError::Damaged { .. }), "cut off");
    let mut bad = good.clone();
    bad[4096..4200].fill(0xff);
    std::fs::write(folder.file(), &bad).unwrap();
    assert!(matches!(refused(&folder, &NOTES), OpenError::Damaged { .. }), "overwritten");
    std::fs::write(folder.file(), &good).unwrap();
    assert_eq!(ids(&open(&folder.file())).await.len(), 500);
}

#[tokio::test]
async fn a_folder_that_is_missing_is_named() {
    let folder = Folder::new();
    let path = folder.file().join("deeper").join("notes.sqlite");
    let error = Sqlite::open(&path, &NOTES, SqliteOptions::default()).unwrap_err();
    assert!(error.to_string().contains("the folder") && error.to_string().contains("does not exist"), "{error}");
    let error = Sqlite::open(folder.0.path(), &NOTES, SqliteOptions::default()).unwrap_err();
    assert!(error.to_string().ends_with("cannot open: it is a folder"), "{error}");
}

#[tokio::test]
async fn an_empty_database_is_taken() {
    let folder = Folder::new();
    foreign(&folder, "CREATE TABLE gone (x); DROP TABLE gone; VACUUM");
    assert!(std::fs::metadata(folder.file()).unwrap().len() > 0);
    assert!(ids(&open(&folder.file())).await.is_empty());
}

#[tokio::test]
async fn a_sink_lives_beside_the_tables_of_its_user() {
    let folder = Folder::new();
    foreign(&folder, "CREATE TABLE theirs (x); INSERT INTO theirs VALUES (42); PRAGMA user_version = 9");
    let sink = Sqlite::open(&folder.file(), &SINK, SqliteOptions::default()).unwrap();
    add(&sink, 1).await.unwrap().unwrap();
    sink.close().await;
    let sink = Sqlite::open(&folder.file(), &SINK, SqliteOptions::default()).unwrap();
    let seen: (i64, i64, i64, i64) = sink
        .read(|db| {
            let one = |sql: &str| db.query_row(sql, [], |row| row.get(0));
            Ok((
                one("SELECT x FROM theirs")?,
                one("PRAGMA user_version")?,
                one("PRAGMA application_id")?,
                one("SELECT version FROM _waybill_schema")?,
            ))
        })
        .await
        .unwrap();
    assert_eq!(seen, (42, 9, 0, 2), "their rows, their version, no id, our version");
    sink.close().await;
    let older_program = Schema { migrations: &STEPS[..1], ..SINK };
    let error = Sqlite::open(&folder.file(), &older_program, SqliteOptions::default()).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 2, known: 1, .. }), "{error}");
}
