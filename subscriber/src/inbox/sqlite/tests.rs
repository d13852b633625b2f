//! What is SQLite's own: a file on this machine, its workers, and the schemas before.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::inbox::{
    conformance::{arrival, exercise},
    turns::Share,
};

async fn fresh(folder: &Path, lease: Duration) -> SqliteInbox {
    let folder = tempfile::tempdir_in(folder).unwrap().keep();
    let options = SqliteInboxOptions { lease, ..SqliteInboxOptions::default() };
    SqliteInbox::open(&folder.join("inbox.sqlite"), options).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_does_what_every_inbox_must() {
    let folder = tempfile::tempdir().unwrap();
    let lease = Duration::from_millis(400);
    exercise(|| fresh(folder.path(), lease), lease).await;
}

#[tokio::test]
async fn leases_of_a_dead_process_end_when_the_next_one_opens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inbox.sqlite");
    let worker = WorkerId("dead".to_owned());
    let first = SqliteInbox::open(&path, SqliteInboxOptions::default()).await.unwrap();
    first.admit(vec![arrival(1, "a", "T")]).await.unwrap();
    let held = first.lease(&worker, 1, &Wanted::default()).await.unwrap().remove(0).lease;

    let beside = SqliteInbox::open(&path, SqliteInboxOptions::default()).await.unwrap();
    assert!(
        beside.lease(&WorkerId("other".to_owned()), 1, &Wanted::default()).await.unwrap().is_empty(),
        "a live process keeps its leases"
    );
    drop((first, beside));

    let next = SqliteInbox::open(&path, SqliteInboxOptions::default()).await.unwrap();
    let again = next.lease(&WorkerId("next".to_owned()), 1, &Wanted::default()).await.unwrap();
    assert_eq!(again.len(), 1, "a dead one does not");
    assert!(!next.finish(&held, End::Release).await.unwrap());
}

#[tokio::test]
async fn whoever_only_looks_keeps_no_lease_of_a_dead_process_alive_and_ends_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inbox.sqlite");
    let first = SqliteInbox::open(&path, SqliteInboxOptions::default()).await.unwrap();
    first.admit(vec![arrival(1, "a", "T")]).await.unwrap();
    first.lease(&WorkerId("dead".to_owned()), 1, &Wanted::default()).await.unwrap();
    drop(first);

    let looks = SqliteInbox::open_to_look(&path).await.unwrap();
    assert_eq!(looks.counts().await.unwrap().working, 1, "looking changes nothing");
    let next = SqliteInbox::open(&path, SqliteInboxOptions::default()).await.unwrap();
    assert_eq!(next.lease(&WorkerId("next".to_owned()), 1, &Wanted::default()).await.unwrap().len(), 1);
    assert_eq!(looks.counts().await.unwrap().working, 1);
}

#[tokio::test]
async fn a_file_of_somebody_else_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("photos.sqlite");
    rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE photo (id)").unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = SqliteInbox::open(&path, SqliteInboxOptions::default()).await.unwrap_err();
    assert!(matches!(error, InboxError::Open(_)), "{error:?}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_reader_blocks_no_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inbox.sqlite");
    let inbox = SqliteInbox::open(&path, SqliteInboxOptions::default()).await.unwrap();
    inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap();
    let reader = rusqlite::Connection::open(&path).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    let read = || reader.query_row("SELECT count(*) FROM inbox", [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!(read(), 1);
    inbox.admit(vec![arrival(2, "b", "T")]).await.unwrap();
    let leased = inbox.lease(&WorkerId("w".to_owned()), 9, &Wanted::default()).await.unwrap();
    assert!(inbox.finish(&leased[0].lease, End::Release).await.unwrap());
    assert_eq!((leased.len(), read()), (2, 1), "and goes on seeing what it saw");
}

#[tokio::test]
async fn a_lease_that_is_answered_late_is_trusted_from_when_it_was_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inbox.sqlite");
    let (lease, held_up) = (Duration::from_secs(5), Duration::from_secs(1));
    let inbox = SqliteInbox::open(&path, SqliteInboxOptions { lease, ..SqliteInboxOptions::default() }).await.unwrap();
    inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    let hold_up = async || {
        tokio::time::sleep(held_up).await;
        other.execute_batch("COMMIT").unwrap();
    };
    let in_time = |asked: Instant, held: &Lease| {
        assert!(asked.elapsed() >= held_up, "it was not held up");
        let trust = held.trusted_until - asked;
        assert!(trust >= lease / 2 && trust < lease - lease / 10 + held_up / 2, "{trust:?}");
    };
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let (asked, worker, wanted) = (Instant::now(), WorkerId("w".to_owned()), Wanted::default());
    let (leased, ()) = tokio::join!(inbox.lease(&worker, 1, &wanted), hold_up());
    let held = leased.unwrap().remove(0).lease;
    in_time(asked, &held);
    assert_eq!(held.until - held.leased_at, lease);

    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let asked = Instant::now();
    let (renewed, ()) = tokio::join!(inbox.renew(&held, 1), hold_up());
    in_time(asked, &renewed.unwrap().expect("it lasts"));
}

#[tokio::test]
async fn whoever_looks_at_an_inbox_of_an_earlier_version_leaves_it_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inbox.sqlite");
    rusqlite::Connection::open(&path).unwrap().execute_batch(include_str!("../../../golden/inbox-1.sql")).unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = SqliteInbox::open_to_look(&path).await.unwrap_err();
    assert!(matches!(error, InboxError::Older { found: 1, .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("schema version 1") && text.contains("`waybill-subscriber run`"), "{text}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    SqliteInbox::open(&path, SqliteInboxOptions::default()).await.unwrap();
    assert_eq!(SqliteInbox::open_to_look(&path).await.unwrap().counts().await.unwrap().done, 2);
}

#[tokio::test]
async fn an_inbox_that_an_earlier_version_works_is_left_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inbox.sqlite");
    rusqlite::Connection::open(&path).unwrap().execute_batch(include_str!("../../../golden/inbox-1.sql")).unwrap();
    let earlier = std::fs::File::create(folder.path().join("inbox.sqlite.workers")).unwrap();
    earlier.lock_shared().unwrap();
    let before = std::fs::read(&path).unwrap();
    let error = SqliteInbox::open(&path, SqliteInboxOptions::default()).await.unwrap_err();
    assert!(matches!(error, InboxError::WorkedByOlder { found: 1, .. }), "{error:?}");
    assert!(error.to_string().contains("end that one first"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    earlier.unlock().unwrap();
    SqliteInbox::open(&path, SqliteInboxOptions::default()).await.unwrap();
}

#[tokio::test]
async fn a_row_that_cannot_be_read_is_quarantined_and_stops_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inbox.sqlite");
    let inbox = SqliteInbox::open(&path, SqliteInboxOptions::default()).await.unwrap();
    inbox.admit(vec![arrival(1, "a", "T"), arrival(2, "b", "T")]).await.unwrap();
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute("UPDATE inbox SET body = '{\"blobType\"' WHERE broker_sequence = 1", [])
        .unwrap();
    let leased = inbox.lease(&WorkerId("w".to_owned()), 10, &Wanted::default()).await.unwrap();
    assert_eq!(leased.iter().map(|file| file.sequence_number).collect::<Vec<_>>(), [2]);
    let row = inbox.get(1).await.unwrap().unwrap();
    assert_eq!((row.state, row.reason), (State::Quarantined, Some(Reason::NotJson)));
    assert!(row.problem.unwrap().contains("cannot be read"));
}

#[tokio::test]
async fn a_token_in_an_address_is_not_shown_by_the_list() {
    let folder = tempfile::tempdir().unwrap();
    let inbox = fresh(folder.path(), Duration::from_secs(60)).await;
    let mut with_token = arrival(1, "a", "T");
    let Announced::File(waybill) = &mut with_token.announced else { unreachable!() };
    waybill.body = waybill.body.replace("c/a", "c/a?sig=secret");
    inbox.admit(vec![with_token]).await.unwrap();
    let row = &inbox.list(&ListFilter::default()).await.unwrap()[0];
    assert_eq!(row.uri.as_deref(), Some("https://a.example/c/a"));
}

#[tokio::test]
async fn an_inbox_of_the_first_schema_opens_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inbox.sqlite");
    let golden = include_str!("../../../golden/inbox-1.sql");
    waybill_store::rusqlite::Connection::open(&path).unwrap().execute_batch(golden).unwrap();
    let inbox = SqliteInbox::open(&path, SqliteInboxOptions::default()).await.unwrap();
    let counts = inbox.counts().await.unwrap();
    assert_eq!((counts.done, counts.skipped, counts.filtered_rows), (2, 1, 0));
    let row = inbox.get(1).await.unwrap().unwrap();
    assert_eq!((row.rows, row.bad_rows, row.filtered_rows), (5, 0, None), "what was left out is not known");
    let types = inbox.types().await.unwrap();
    let shown: Vec<_> = types.iter().map(|of| (of.blob_type.as_str(), of.files, of.rows, of.bytes)).collect();
    assert_eq!(shown, [("ItemChanges", 1, 5, 106), ("Log", 1, 2, 54), ("Other", 1, 1, 28)]);
    inbox.admit(vec![arrival(9, "a", "T")]).await.unwrap();
    assert_eq!(inbox.lease(&WorkerId("w".to_owned()), 9, &Wanted::default()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn files_that_nobody_wants_cost_a_lease_no_more_the_more_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inbox.sqlite");
    let inbox = SqliteInbox::open(&path, SqliteInboxOptions::default()).await.unwrap();
    inbox.admit(vec![arrival(1, "a", "Wanted"), arrival(2, "b", "Wanted")]).await.unwrap();
    let mut db = rusqlite::Connection::open(&path).unwrap();
    db.execute(
        "INSERT INTO inbox (entity_path, broker_sequence, enqueued_at, state, body, received_at, changed_at, file_key, blob_type,
             due_at)
         WITH RECURSIVE many (number) AS (VALUES (10) UNION ALL SELECT number + 1 FROM many WHERE number < 20000)
         SELECT 'e', number, 0, 'saved', '{}', 0, 0, 'uri:' || number, 'Other' || (number % 7), 1 FROM many",
        [],
    )
    .unwrap();
    let steps = Arc::new(AtomicU64::new(0));
    {
        let steps = Arc::clone(&steps);
        let count = move || {
            steps.fetch_add(100, Ordering::SeqCst);
            false
        };
        db.progress_handler(100, Some(count)).unwrap();
    }
    for wanted in ["Wanted", "Want*", "Z"] {
        let (tx, before) = (db.transaction().unwrap(), steps.load(Ordering::SeqCst));
        let wanted = Wanted { types: Some(vec![wanted.to_owned()]), ..Wanted::default() };
        let share = Share { urgent: 4, after: "Other3".to_owned() };
        let files = Due { tx: &tx, wanted: &wanted, now: inbox.now() }.choose(8, &share).unwrap().files;
        assert_eq!(files.len(), if wanted.types.as_ref().is_some_and(|types| types[0] == "Z") { 0 } else { 2 });
        let taken = steps.load(Ordering::SeqCst) - before;
        assert!(taken < 5_000, "{taken} steps of SQLite's machine");
    }
}
