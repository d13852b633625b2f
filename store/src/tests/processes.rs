//! Several processes on one file, and processes that are killed: this test binary runs itself as the other process.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
};

use futures::future::join_all;

use super::{Folder, add, ids, open};

const ROLE: &str = "WAYBILL_STORE_TEST_FILE";
const FIRST: &str = "WAYBILL_STORE_TEST_FIRST_ID";
const COUNT: &str = "WAYBILL_STORE_TEST_COUNT";

/// What the other process does; without its variables it is no test of its own and has nothing to do.
#[tokio::test]
async fn the_other_process() {
    let Some(file) = std::env::var_os(ROLE) else { return };
    let number = |name| std::env::var(name).unwrap().parse::<i64>().unwrap();
    let (first, count) = (number(FIRST), number(COUNT));
    let notes = open(Path::new(&file));
    let mut out = std::io::stdout();
    for begin in (first..first + count).step_by(20) {
        let group: Vec<i64> = (begin..(begin + 20).min(first + count)).collect();
        for (id, result) in group.iter().zip(join_all(group.iter().map(|id| add(&notes, *id))).await) {
            result.unwrap().unwrap();
            // Reported only after the commit: from here on it must survive anything.
            writeln!(out, "id {id}").unwrap();
        }
        out.flush().unwrap();
    }
    writeln!(out, "done").unwrap();
}

fn other_process(file: &Path, first: i64, count: i64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tests::processes::the_other_process", "--nocapture"])
        .env(ROLE, file)
        .env(FIRST, first.to_string())
        .env(COUNT, count.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The ids it reports until it ends; it is killed after so many. What is still in the pipe then was reported too.
fn reported(child: &mut Child, kill_after: Option<usize>) -> Vec<i64> {
    let mut seen = Vec::new();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        let Ok(line) = line else { break };
        if let Some(id) = line.strip_prefix("id ") {
            seen.push(id.parse().unwrap());
            if Some(seen.len()) == kill_after {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    seen
}

#[tokio::test]
async fn after_kill_9_every_reported_id_is_there() {
    let folder = Folder::new();
    let mut promised = Vec::new();
    for (round, kill_after) in [1, 7, 40, 133, 400].into_iter().enumerate() {
        let mut child = other_process(&folder.file(), round as i64 * 1_000_000, 1_000_000);
        let seen = reported(&mut child, Some(kill_after));
        assert!(seen.len() >= kill_after);
        promised.extend(seen);
        let notes = open(&folder.file());
        let there = ids(&notes).await;
        for id in &promised {
            assert!(there.binary_search(id).is_ok(), "{id} was reported and is gone");
        }
        notes.close().await;
    }
}

#[tokio::test]
async fn processes_that_open_a_fresh_file_at_once_and_write_all_succeed() {
    for _ in 0..5 {
        let folder = Folder::new();
        let mut children: Vec<Child> = (0..4).map(|n| other_process(&folder.file(), n * 1000, 100)).collect();
        for child in &mut children {
            assert_eq!(reported(child, None).len(), 100);
        }
        assert!(children.iter_mut().all(|child| child.wait().unwrap().success()));
        assert_eq!(ids(&open(&folder.file())).await.len(), 400);
    }
}

#[tokio::test]
async fn a_file_held_by_another_for_too_long_is_busy_and_then_goes_on() {
    let folder = Folder::new();
    let options = crate::SqliteOptions { busy_timeout: std::time::Duration::from_millis(50), ..Default::default() };
    let notes = crate::Sqlite::open(&folder.file(), &super::NOTES, options).unwrap();
    let other = rusqlite::Connection::open(folder.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let results = join_all((0..30).map(|id| add(&notes, id))).await;
    assert!(results.iter().all(|result| matches!(result, Err(crate::StoreError::Busy { .. }))), "{results:?}");
    assert!(ids(&notes).await.is_empty(), "readers are not held up");
    other.execute_batch("COMMIT").unwrap();
    add(&notes, 1).await.unwrap().unwrap();
    assert_eq!(ids(&notes).await, [1]);
}
