//! A full disk, simulated with `max_page_count`: SQLite answers `SQLITE_FULL` as it does for a disk.

use super::{Folder, add, ids, open};
use crate::{Sqlite, StoreError};

/// Leaves room for about `pages` more pages.
async fn leave_room(notes: &Sqlite, pages: i64) {
    notes
        .write(move |tx| {
            let used: i64 = tx.query_row("PRAGMA page_count", [], |row| row.get(0))?;
            tx.query_row(&format!("PRAGMA max_page_count = {}", used + pages), [], |_| Ok(()))
        })
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_the_writer_goes_on_when_there_is_room() {
    let folder = Folder::new();
    let notes = open(&folder.file());
    add(&notes, 1).await.unwrap().unwrap();
    leave_room(&notes, 2).await;
    let long = || notes.write(|tx| tx.execute("INSERT INTO note (id, text) VALUES (2, ?1)", ["x".repeat(100_000)]));
    let failed = long().await;
    assert!(matches!(failed, Err(StoreError::DiskFull { .. })), "{failed:?}");
    assert_eq!(
        failed.unwrap_err().to_string(),
        format!(
            "{}: the disk is full or refuses to be written; nothing was lost, it goes on when there is room",
            folder.file().display()
        )
    );
    assert_eq!(ids(&notes).await, [1]);
    add(&notes, 3).await.unwrap().unwrap();
    leave_room(&notes, 1000).await;
    long().await.unwrap().unwrap();
    assert_eq!(ids(&notes).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_job_with_an_error_of_its_own_can_tell_a_full_disk() {
    let folder = Folder::new();
    let notes = open(&folder.file());
    leave_room(&notes, 1).await;
    let failed = notes
        .write(|tx| {
            tx.execute("INSERT INTO note (id, text) VALUES (2, ?1)", ["x".repeat(100_000)])
                .map_err(|error| (error, "own"))
        })
        .await
        .unwrap();
    let (error, _) = failed.unwrap_err();
    assert!(matches!(notes.error(error), StoreError::DiskFull { .. }));
}

#[tokio::test]
async fn when_the_disk_fills_within_a_group_whoever_heard_ok_is_stored() {
    let folder = Folder::new();
    let notes = open(&folder.file());
    leave_room(&notes, 20).await;
    let big = |id: i64| {
        notes.write(move |tx| {
            tx.prepare_cached("INSERT INTO note (id, text) VALUES (?1, ?2)")?.execute((id, "x".repeat(3_000)))
        })
    };
    let results = futures::future::join_all((0..100).map(big)).await;
    let stored: Vec<i64> =
        (0..).zip(&results).filter(|(_, result)| matches!(result, Ok(Ok(1)))).map(|(id, _)| id).collect();
    assert!(!stored.is_empty() && stored.len() < 100, "{} stored", stored.len());
    assert!(results.iter().all(|result| matches!(result, Ok(Ok(1)) | Err(StoreError::DiskFull { .. }))));
    assert_eq!(ids(&notes).await, stored);
    notes.close().await;
    assert_eq!(ids(&open(&folder.file())).await, stored);
}
