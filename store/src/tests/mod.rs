mod commits;
mod full;
mod group;
mod processes;
mod refuse;

use std::path::{Path, PathBuf};

use crate::{Migration, Schema, Sqlite, SqliteOptions};

const ID: i32 = 0x5759_4201;

const STEPS: &[Migration] = &[
    Migration { name: "notes", sql: "CREATE TABLE note (id INTEGER PRIMARY KEY, text TEXT NOT NULL)" },
    Migration { name: "authors", sql: "ALTER TABLE note ADD COLUMN author TEXT" },
];

const NOTES: Schema = Schema { application_id: ID, name: "notes", migrations: STEPS, shared_with_user: false };

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("notes.sqlite")
    }

    /// Every file here with its bytes.
    fn content(&self) -> Vec<(String, Vec<u8>)> {
        let mut all: Vec<_> = std::fs::read_dir(self.0.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
            .collect();
        all.sort();
        all
    }
}

fn open(path: &Path) -> Sqlite {
    Sqlite::open(path, &NOTES, SqliteOptions::default()).unwrap()
}

async fn add(notes: &Sqlite, id: i64) -> Result<Result<usize, rusqlite::Error>, crate::StoreError> {
    notes.write(move |tx| tx.prepare_cached("INSERT INTO note (id, text) VALUES (?1, 'x')")?.execute([id])).await
}

async fn ids(notes: &Sqlite) -> Vec<i64> {
    notes
        .read(|db| db.prepare_cached("SELECT id FROM note ORDER BY id")?.query_map([], |row| row.get(0))?.collect())
        .await
        .unwrap()
}
