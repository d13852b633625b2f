//! Who waits for news gets them from whoever commits, and is left alone otherwise.

use std::time::Duration;

use tokio::time::timeout;

use super::{Folder, add, open};
use crate::Commits;

const EVERY: Duration = Duration::from_millis(5);

async fn comes(commits: &mut Commits) -> bool {
    timeout(Duration::from_secs(60), commits.next()).await.is_ok()
}

/// Bounds how long nothing is waited for, and nothing else.
async fn nothing_comes(commits: &mut Commits) -> bool {
    timeout(40 * EVERY, commits.next()).await.is_err()
}

#[tokio::test]
async fn commits_of_anybody_are_told_and_nothing_else_is() {
    let folder = Folder::new();
    let (notes, other) = (open(&folder.file()), open(&folder.file()));
    let mut commits = notes.commits(EVERY).unwrap();
    assert!(comes(&mut commits).await, "what was before is not known");
    assert!(nothing_comes(&mut commits).await);
    for (id, writer) in (1..).zip([&notes, &other, &notes]) {
        add(writer, id).await.unwrap().unwrap();
        assert!(comes(&mut commits).await, "commit {id}");
        assert!(nothing_comes(&mut commits).await, "after commit {id}");
    }
    notes.write(|tx| tx.execute("INSERT INTO note (id, text) VALUES (1, 'x')", [])).await.unwrap().unwrap_err();
    assert!(nothing_comes(&mut commits).await, "what was rolled back");
}

#[tokio::test]
async fn what_is_committed_while_nobody_waits_is_told_together_afterwards() {
    let folder = Folder::new();
    let notes = open(&folder.file());
    let mut commits = notes.commits(EVERY).unwrap();
    assert!(comes(&mut commits).await);
    for id in 1..=20 {
        add(&notes, id).await.unwrap().unwrap();
    }
    assert!(comes(&mut commits).await);
    // It may have looked in the middle of them.
    let mut told = 1;
    while !nothing_comes(&mut commits).await {
        told += 1;
    }
    assert!(told < 20, "{told}");
}

#[tokio::test]
async fn nothing_is_left_of_it_when_the_file_is_closed() {
    let folder = Folder::new();
    let notes = open(&folder.file());
    let mut commits = notes.commits(EVERY).unwrap();
    assert!(comes(&mut commits).await);
    add(&notes, 1).await.unwrap().unwrap();
    drop(commits);
    notes.close().await;
    let left: Vec<String> = folder.content().into_iter().map(|(name, _)| name).collect();
    assert_eq!(left, ["notes.sqlite"], "the last connection was the writer's");
}

#[tokio::test]
async fn who_was_dropped_is_not_waited_for_when_the_file_is_out_of_reach() {
    let folder = Folder::new();
    let notes = open(&folder.file());
    let commits = notes.commits(EVERY).unwrap();
    // One that lives is as good as one that hangs.
    timeout(Duration::from_secs(60), notes.close()).await.unwrap();
    drop(commits);
}
