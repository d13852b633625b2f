//! One commit for what waits together, and nobody suffers for a neighbour.

use std::sync::{Arc, mpsc};

use futures::future::join_all;

use super::{Folder, add, ids, open};
use crate::StoreError;

/// Holds the writer in a job until it is let go, so that the jobs behind it wait together.
async fn hold(notes: &crate::Sqlite) -> (mpsc::Sender<()>, impl Future<Output = ()> + use<>) {
    let (go, wait) = mpsc::channel::<()>();
    let (began, begun) = tokio::sync::oneshot::channel();
    let held = notes.clone();
    let job = async move {
        held.write(move |_| {
            began.send(()).unwrap();
            // A sender that is gone lets go as well.
            wait.recv().ok();
            Ok::<_, ()>(())
        })
        .await
        .unwrap()
        .unwrap();
    };
    let mut job = Box::pin(job);
    tokio::select! {
        () = &mut job => unreachable!("it is held"),
        begun = begun => begun.unwrap(),
    }
    (go, job)
}

#[tokio::test]
async fn jobs_that_wait_together_share_one_commit() {
    let folder = Folder::new();
    let notes = open(&folder.file());
    // Long enough that the group closes behind it.
    notes
        .write(|_| {
            std::thread::sleep(std::time::Duration::from_millis(30));
            Ok::<_, ()>(())
        })
        .await
        .unwrap()
        .unwrap();
    let before = notes.stats();
    let (go, held) = hold(&notes).await;
    let writes = join_all((0..100).map(|id| add(&notes, id)));
    let release = async {
        tokio::task::yield_now().await;
        go.send(()).unwrap();
    };
    let ((), results, ()) = tokio::join!(held, writes, release);
    assert!(results.into_iter().all(|result| result.unwrap().is_ok()));
    let after = notes.stats();
    assert_eq!(after.jobs - before.jobs, 101);
    assert!(after.commits - before.commits <= 3, "{} commits", after.commits - before.commits);
    assert_eq!(ids(&notes).await.len(), 100);
}

#[tokio::test]
async fn a_group_is_never_larger_than_its_limit() {
    let folder = Folder::new();
    let options = crate::SqliteOptions { group_max: 10, ..Default::default() };
    let notes = crate::Sqlite::open(&folder.file(), &super::NOTES, options).unwrap();
    let (go, held) = hold(&notes).await;
    let release = async {
        tokio::task::yield_now().await;
        go.send(()).unwrap();
    };
    let (_, _, ()) = tokio::join!(held, join_all((0..99).map(|id| add(&notes, id))), release);
    assert!(notes.stats().commits >= 10, "{:?}", notes.stats());
}

#[tokio::test]
async fn a_job_that_takes_long_keeps_nobody_waiting_who_was_done_before_it() {
    let folder = Folder::new();
    let notes = open(&folder.file());
    let (go, held) = hold(&notes).await;
    let (end, may_end) = mpsc::channel::<()>();
    let before = async {
        let ((), added) = tokio::join!(held, add(&notes, 1));
        assert_eq!(added.unwrap().unwrap(), 1);
        let seen = ids(&notes).await;
        end.send(()).unwrap();
        seen
    };
    let long = notes.write_alone(move |tx| {
        tx.execute("INSERT INTO note (id, text) VALUES (2, 'x')", [])?;
        Ok::<_, rusqlite::Error>(may_end.recv_timeout(std::time::Duration::from_secs(20)).is_ok())
    });
    let release = async {
        tokio::task::yield_now().await;
        go.send(()).unwrap();
    };
    let (seen, is_let_go, last, ()) = tokio::join!(before, long, add(&notes, 3), release);
    assert_eq!(seen, [1], "it was written before the long one was over");
    assert!(is_let_go.unwrap().unwrap());
    assert_eq!(last.unwrap().unwrap(), 1);
    assert_eq!(ids(&notes).await, [1, 2, 3]);
}

#[tokio::test]
async fn a_failing_job_does_not_roll_back_its_neighbours() {
    let folder = Folder::new();
    let notes = open(&folder.file());
    let (go, held) = hold(&notes).await;
    let failing = notes.write(|tx| {
        tx.execute("INSERT INTO note (id, text) VALUES (500, 'half done')", []).unwrap();
        Err::<(), _>("I changed my mind")
    });
    let panicking = notes.write(|tx| -> Result<(), ()> {
        tx.execute("INSERT INTO note (id, text) VALUES (501, 'half done')", []).unwrap();
        panic!("a bug in a job")
    });
    let release = async {
        tokio::task::yield_now().await;
        go.send(()).unwrap();
    };
    let (first, failed, panicked, last, (), ()) =
        tokio::join!(add(&notes, 1), failing, panicking, add(&notes, 2), held, release);
    assert_eq!(first.unwrap().unwrap(), 1);
    assert_eq!(failed.unwrap().unwrap_err(), "I changed my mind");
    assert_eq!(last.unwrap().unwrap(), 1);
    let StoreError::Panicked { problem, .. } = panicked.unwrap_err() else { panic!("it panicked") };
    assert_eq!(problem, "a bug in a job");
    assert_eq!(ids(&notes).await, [1, 2], "of the failed ones nothing is left, and the writer lives");
}

#[tokio::test]
async fn a_job_that_fails_before_all_others_leaves_nothing_and_those_behind_it_are_written() {
    let folder = Folder::new();
    let notes = open(&folder.file());
    for id in 0..20 {
        let failing = notes.write(move |tx| {
            tx.execute("INSERT INTO note (id, text) VALUES (?1, 'half done')", [500 + id]).unwrap();
            if id % 2 == 0 { panic!("a bug in a job") } else { Err::<(), _>("I changed my mind") }
        });
        // The first is polled first, and mostly found alone.
        let (failed, added) = tokio::join!(failing, add(&notes, id));
        match failed {
            Err(StoreError::Panicked { .. }) => assert_eq!(id % 2, 0),
            other => assert_eq!((other.unwrap().unwrap_err(), id % 2), ("I changed my mind", 1)),
        }
        assert_eq!(added.unwrap().unwrap(), 1);
    }
    assert_eq!(ids(&notes).await, (0..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_job_that_ends_the_transaction_fails_and_the_writer_goes_on() {
    let folder = Folder::new();
    let notes = open(&folder.file());
    let result = notes.write(|tx| tx.execute_batch("ROLLBACK")).await;
    assert!(result.is_err(), "{result:?}");
    assert_eq!(add(&notes, 7).await.unwrap().unwrap(), 1);
    assert_eq!(ids(&notes).await, [7]);
}

#[tokio::test]
async fn a_reader_sees_one_state_and_cannot_write() {
    let folder = Folder::new();
    let notes = open(&folder.file());
    add(&notes, 1).await.unwrap().unwrap();
    let (first_read, wait_for_write) = (Arc::new(tokio::sync::Notify::new()), mpsc::channel::<()>());
    let (written, may_go_on) = wait_for_write;
    let told = Arc::clone(&first_read);
    let reading = notes.read(move |db| {
        let count =
            |db: &rusqlite::Connection| db.query_row("SELECT count(*) FROM note", [], |row| row.get::<_, i64>(0));
        let before = count(db)?;
        told.notify_one();
        may_go_on.recv().unwrap();
        Ok((before, count(db)?))
    });
    let writing = async {
        first_read.notified().await;
        add(&notes, 2).await.unwrap().unwrap();
        written.send(()).unwrap();
    };
    let (seen, ()) = tokio::join!(reading, writing);
    assert_eq!(seen.unwrap(), (1, 1), "what was committed meanwhile is not seen");
    let refused = notes.read(|db| db.execute("DELETE FROM note", [])).await;
    assert!(matches!(refused, Err(StoreError::Sqlite { .. })), "{refused:?}");
    assert_eq!(ids(&notes).await, [1, 2]);
}

#[tokio::test]
async fn a_panicking_reader_gives_its_connection_back() {
    let folder = Folder::new();
    let notes = open(&folder.file());
    for _ in 0..5 {
        let result = notes.read(|_| -> Result<(), rusqlite::Error> { panic!("a bug in a reader") }).await;
        assert!(matches!(result, Err(StoreError::Panicked { .. })), "{result:?}");
    }
    assert!(ids(&notes).await.is_empty());
}

#[tokio::test]
async fn what_was_queued_is_written_though_nobody_waits_and_the_last_handle_is_gone() {
    let folder = Folder::new();
    let notes = open(&folder.file());
    let (go, held) = hold(&notes).await;
    for id in 0..20 {
        // Polled once, so that the job is queued; then nobody waits for it.
        let mut write = Box::pin(add(&notes, id));
        assert!(futures::poll!(&mut write).is_pending());
    }
    drop(held);
    drop(notes);
    go.send(()).unwrap();
    // The file can be opened beside the writer; it is closed when it has done everything.
    let again = open(&folder.file());
    while ids(&again).await.len() < 20 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn closing_writes_what_was_queued_and_leaves_one_file() {
    let folder = Folder::new();
    let notes = open(&folder.file());
    let clone = notes.clone();
    let (added, ()) = tokio::join!(join_all((0..50).map(|id| add(&notes, id))), notes.close());
    assert!(added.into_iter().all(|result| result.unwrap().is_ok()));
    assert_eq!(folder.content().len(), 1, "no WAL is left");
    assert!(matches!(add(&clone, 100).await, Err(StoreError::Closed { .. })));
    assert!(matches!(clone.read(|_| Ok(())).await, Err(StoreError::Closed { .. })));
    clone.close().await;
    assert_eq!(ids(&open(&folder.file())).await.len(), 50);
}
