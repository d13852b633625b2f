//! Saved files in the hands of code of one's own.

use std::{
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    sync::atomic::Ordering,
    task::Poll,
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};
use waybill_azure::blob::ContainerOptions;
use waybill_contracts::Reason;
use waybill_local::fault::{BlobRequests, CutAt, Refusal, Step, What, When};

use super::segments::{LARGE_ROWS, large_file, large_row};
use super::world::{Running, World, builder, packed, rows, rows_in, until, within};
use crate::{
    OnBadRow, Subscriber, SubscriberBuilder,
    files::{File, FileError, Files},
    inbox::{
        Inbox, InboxRow, ListFilter, PostgresInbox, PostgresInboxOptions, SqliteInbox, SqliteInboxOptions, State,
        Wanted,
    },
    rows::RowsError,
};

/// A batch has 10,000 rows at most, so a file of this many comes in three.
const LONG: u64 = 25_000;
/// Short enough to be waited for, long enough for a slow machine.
const LEASE: Duration = Duration::from_millis(1500);

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Requests of 64 KiB, so that a long file takes several.
fn in_ranges() -> SubscriberBuilder {
    builder().blob(ContainerOptions { range_bytes: 64 << 10, ..ContainerOptions::default() })
}

async fn short_lease(world: &World, name: &str) -> SqliteInbox {
    let options = SqliteInboxOptions { lease: LEASE, ..SqliteInboxOptions::default() };
    SqliteInbox::open(&world.folder.path().join(name), options).await.unwrap()
}

/// Receives until so many files are saved.
async fn received<I: Inbox + Clone>(subscriber: &Subscriber<I>, files: u64) {
    let receiving = Running::receive(subscriber);
    until("all are received", || async { subscriber.receive_stats().received.load(Ordering::Relaxed) >= files }).await;
    until("all are saved", || async { subscriber.inbox().counts().await.unwrap().saved >= files }).await;
    receiving.stop().await;
}

async fn next<I: Inbox + Clone>(files: &mut Files<I>) -> File<I> {
    within(files.next()).await.unwrap()
}

/// The good rows after `from`, as written, and the numbers of the bad ones.
async fn read<I: Inbox + Clone>(file: &mut File<I>, from: u64) -> Result<(Vec<String>, Vec<u64>), FileError> {
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    let mut rows = file.rows_after(from);
    while let Some(batch) = rows.next().await? {
        good.extend(batch.rows().map(|row| row.to_json().into_owned()));
        bad.extend(batch.bad().iter().map(|bad| bad.row));
    }
    assert!(rows.next().await?.is_none(), "the end stays the end");
    Ok((good, bad))
}

fn expected(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

async fn row(inbox: &impl Inbox, correlation_id: &str) -> InboxRow {
    let filter = ListFilter { correlation_id: Some(correlation_id.to_owned()), ..ListFilter::default() };
    inbox.list(&filter).await.unwrap().remove(0)
}

#[tokio::test]
async fn each_file_comes_once_with_its_rows_and_goes_where_its_holder_says() {
    let world = World::new().await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let mut files = subscriber.files(Wanted::default());
    // Beside it, as `run` would do it.
    let receiving = Running::receive(&subscriber);
    for blob in ["good", "later", "aside", "back"] {
        world.publish(blob, "{\"id\":1}\nbroken\n{\"id\":2.50}\n", "").await;
    }
    let mut seen = BTreeSet::new();
    for _ in 0..4 {
        let mut file = next(&mut files).await;
        let (good, bad) = read(&mut file, 0).await.unwrap();
        assert_eq!((good, bad), (expected("{\"id\":1}\n{\"id\":2.50}"), vec![2]));
        let blob = file.metadata().correlation_id.clone();
        assert_eq!((file.attempts(), file.metadata().blob_type.as_str(), file.is_held()), (0, "T", true));
        match blob.as_str() {
            "c-good" => file.done().await.unwrap(),
            "c-later" => file.retry_in(Duration::from_secs(3600), "not before the sale").await.unwrap(),
            "c-aside" => file.quarantine(Reason::ByOperator, "looks odd").await.unwrap(),
            _ => {
                file.give_back().await.unwrap();
                let again = next(&mut files).await;
                assert_eq!((again.metadata().correlation_id.as_str(), again.attempts()), ("c-back", 0));
                again.done().await.unwrap();
            }
        }
        seen.insert(blob);
    }
    assert_eq!(seen.len(), 4);
    assert!(files.next_due().await.unwrap().is_none(), "nothing is due");
    receiving.stop().await;

    let good = row(&inbox, "c-good").await;
    assert_eq!((good.state, good.rows, good.bad_rows, good.attempts), (State::Done, 3, 1, 1));
    let back = row(&inbox, "c-back").await;
    assert_eq!((back.state, back.rows), (State::Done, 0), "its rows were not asked for the second time");
    let later = row(&inbox, "c-later").await;
    assert_eq!((later.state, later.attempts, later.problem.as_deref()), (State::Saved, 1, Some("not before the sale")));
    assert!(later.due_at.unwrap() - later.changed_at > time::Duration::minutes(59));
    let aside = row(&inbox, "c-aside").await;
    assert_eq!((aside.reason, aside.problem.as_deref()), (Some(Reason::ByOperator), Some("looks odd")));
    let stats = subscriber.work_stats();
    let counted = [&stats.files_done, &stats.files_quarantined, &stats.tries_put_off, &stats.rows, &stats.bad_rows];
    assert_eq!(counted.map(|counter| counter.load(Ordering::Relaxed)), [2, 1, 1, 12, 4]);
}

#[tokio::test]
async fn nothing_is_fetched_before_rows_are_asked_for() {
    let world = World::new().await;
    let subscriber = world.subscriber(world.inbox("inbox").await, builder());
    world.publish("b", &rows(3), "").await;
    received(&subscriber, 1).await;
    let mut files = subscriber.files(Wanted::default());
    let before = world.local.stats().counted().blob.clone();
    let mut file = next(&mut files).await;
    let _rows = file.rows();
    assert_eq!(world.local.stats().counted().blob, before);
    file.done().await.unwrap();
    assert_eq!(world.local.stats().counted().blob, before);
}

#[tokio::test]
async fn a_file_that_was_dropped_without_a_word_comes_again_when_its_lease_ends() {
    let world = World::new().await;
    let inbox = short_lease(&world, "inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    world.publish("b", &rows(3), "").await;
    received(&subscriber, 1).await;
    let mut files = subscriber.files(Wanted::default());
    let mut file = next(&mut files).await;
    assert_eq!(read(&mut file, 0).await.unwrap().0.len(), 3);
    drop(file);
    let dropped = Instant::now();
    let early = files.next_due().await.unwrap();
    // A machine that was busy for a whole lease proves nothing.
    assert!(early.is_none() || dropped.elapsed() >= LEASE / 2, "not before");
    let mut again = match early {
        Some(early) => early,
        None => next(&mut files).await,
    };
    assert_eq!(again.attempts(), 0);
    assert_eq!(read(&mut again, 0).await.unwrap().0.len(), 3);
    again.done().await.unwrap();
    assert_eq!(row(&inbox, "c-b").await.state, State::Done);
}

#[tokio::test]
async fn a_lease_is_renewed_while_the_file_lives_and_nobody_else_gets_it() {
    let world = World::new().await;
    let subscriber = world.subscriber(short_lease(&world, "inbox").await, builder());
    let other = world.subscriber(short_lease(&world, "inbox").await, builder());
    world.publish("b", &rows(3), "").await;
    received(&subscriber, 1).await;
    let (mut files, mut others) = (subscriber.files(Wanted::default()), other.files(Wanted::default()));
    let mut file = next(&mut files).await;
    assert!(tokio::time::timeout(LEASE * 3, others.next()).await.is_err(), "it is held");
    assert!(file.is_held());
    assert_eq!(read(&mut file, 0).await.unwrap().0.len(), 3);
    file.done().await.unwrap();
    assert!(others.next_due().await.unwrap().is_none());
}

/// A file that was held by a process that was frozen until its lease had ended.
async fn lapsed(world: &World, inbox: &str) -> (File, Subscriber) {
    let subscriber = world.subscriber(short_lease(world, inbox).await, builder());
    received(&subscriber, 1).await;
    let file = next(&mut subscriber.files(Wanted::default())).await;
    // This runtime has one thread: nothing renews.
    std::thread::sleep(LEASE + Duration::from_millis(50));
    (file, subscriber)
}

#[tokio::test]
async fn once_the_lease_lapsed_every_call_says_so_and_changes_nothing() {
    let world = World::new().await;
    world.publish("b", &rows(3), "").await;
    let (mut file, subscriber) = lapsed(&world, "inbox").await;
    assert!(!file.is_held());
    let error = file.rows().next().await.unwrap_err();
    assert!(matches!(error, FileError::Lapsed) && error.verdict().is_none(), "{error:?}");
    assert!(error.to_string().contains("let go of it"), "{error}");
    let mut files = subscriber.files(Wanted::default());
    let mut others = next(&mut files).await;
    assert_eq!(others.id(), file.id());
    assert!(matches!(file.done().await, Err(FileError::Lapsed)));
    assert_eq!(read(&mut others, 0).await.unwrap().0.len(), 3);
    others.done().await.unwrap();
    assert_eq!(row(subscriber.inbox(), "c-b").await.state, State::Done);
}

#[tokio::test]
async fn a_lapsed_lease_can_neither_put_off_nor_quarantine_nor_give_back() {
    for word in ["done", "retry_in", "quarantine", "give_back", "failed"] {
        let world = World::new().await;
        world.publish("b", &rows(3), "").await;
        let (file, subscriber) = lapsed(&world, "inbox").await;
        let answer = match word {
            "done" => file.done().await,
            "retry_in" => file.retry_in(Duration::ZERO, "why").await,
            "quarantine" => file.quarantine(Reason::ByOperator, "why").await,
            "give_back" => file.give_back().await,
            _ => file.failed(&FileError::ContentChanged { row: 1 }).await,
        };
        assert!(matches!(answer, Err(FileError::Lapsed)), "{word}: {answer:?}");
        let row = row(subscriber.inbox(), "c-b").await;
        assert_eq!((row.state, row.attempts), (State::Working, 0), "{word}: as its next holder will find it");
    }
}

/// Asks as often as it takes, and drops each call after a few looks at it, never the same number in a row.
async fn in_pieces<S, T>(subject: &mut S, call: impl AsyncFnMut(&mut S) -> T) -> T {
    let mut call = call;
    within(async {
        let mut looks = 0_u32;
        loop {
            looks += 1;
            let mut left = looks % 3 + looks / 20;
            let called = call(subject);
            let mut called = std::pin::pin!(called);
            let answer = std::future::poll_fn(|cx| match called.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(Some(answer)),
                Poll::Pending if left == 0 => Poll::Ready(None),
                Poll::Pending => {
                    left -= 1;
                    Poll::Pending
                }
            });
            if let Some(answer) = answer.await {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    })
    .await
}

#[tokio::test]
async fn calls_for_rows_that_are_dropped_at_any_moment_lose_and_repeat_none() {
    let world = World::new().await;
    let text: String = (1..=LONG)
        .map(|id| if id % 1_000 == 0 { "broken\n".to_owned() } else { format!("{{\"id\":{id}}}\n") })
        .collect();
    world.publish("b", &text, "").await;
    let subscriber = world.subscriber(world.inbox("inbox").await, in_ranges());
    received(&subscriber, 1).await;
    let mut files = subscriber.files(Wanted::default());
    let mut file = next(&mut files).await;
    let (mut numbers, mut dropped) = (Vec::new(), 0);
    let mut rows = file.rows();
    while let Some(batch) = in_pieces(&mut rows, async |rows| {
        dropped += 1;
        rows.next().await
    })
    .await
    .unwrap()
    {
        numbers.extend(batch.rows().map(|row| row.number()));
        numbers.extend(batch.bad().iter().map(|bad| bad.row));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=LONG).collect::<Vec<_>>());
    assert!(dropped > 15, "{dropped}");
    file.done().await.unwrap();
    let row = row(subscriber.inbox(), "c-b").await;
    assert_eq!((row.rows, row.bad_rows), (LONG, LONG / 1_000));
}

#[tokio::test]
async fn calls_for_files_that_are_dropped_at_any_moment_lose_none() {
    const FILES: u64 = 30;
    let world = World::new().await;
    let subscriber = world.subscriber(world.inbox("inbox").await, builder());
    let bodies: Vec<String> = (0..FILES).map(|number| world.waybill("T", &format!("b{number}"), "")).collect();
    world.send(&bodies).await;
    received(&subscriber, FILES).await;
    let mut files = subscriber.files(Wanted::default());
    let mut seen = BTreeSet::new();
    for _ in 0..FILES {
        // No lease ends meanwhile: what a dropped call took has to come with another.
        let file = in_pieces(&mut files, async |files| files.next().await).await.unwrap();
        assert!(seen.insert(file.id()), "one came twice");
        file.done().await.unwrap();
    }
    assert_eq!(subscriber.inbox().counts().await.unwrap().done, FILES);
    assert!(files.next_due().await.unwrap().is_none());
}

#[tokio::test]
async fn an_end_that_is_dropped_at_any_moment_is_noted_whole_or_comes_again() {
    let world = World::new().await;
    let inbox = short_lease(&world, "inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let bodies: Vec<String> = (0..12).map(|number| world.waybill("T", &format!("b{number}"), "")).collect();
    world.send(&bodies).await;
    received(&subscriber, 12).await;
    let mut files = subscriber.files(Wanted::default());
    for looks in 0..12 {
        let mut ending = Box::pin(next(&mut files).await.done());
        for _ in 0..looks / 3 {
            // Whatever it answers, or nothing yet.
            let _answer = futures::poll!(&mut ending);
        }
    }
    within(async {
        // Each is done, or comes again.
        while inbox.counts().await.unwrap().done < 12 {
            match files.next_due().await.unwrap() {
                Some(file) => file.done().await.unwrap(),
                None => tokio::time::sleep(LEASE / 20).await,
            }
        }
    })
    .await;
    for row in inbox.list(&ListFilter::default()).await.unwrap() {
        let done = inbox.history(row.id).await.unwrap().into_iter().filter(|entry| entry.state == State::Done);
        assert_eq!(done.count(), 1, "{row:?}");
    }
}

#[tokio::test]
async fn a_download_goes_on_when_its_token_dies_and_when_its_connection_is_lost() {
    let world = World::new().await;
    let cut = |at, refuse_sas| {
        Step::new(When::Blob(BlobRequests::default()), What::Cut { at: CutAt::BlobByte(at), refuse_sas })
    };
    world.local.faults().install([cut(100_000, true), cut(200_000, false)]).unwrap();
    world.publish("b", &rows(LONG), "").await;
    let subscriber = world.subscriber(world.inbox("inbox").await, in_ranges());
    received(&subscriber, 1).await;
    let mut files = subscriber.files(Wanted::default());
    let mut file = next(&mut files).await;
    assert_eq!(read(&mut file, 0).await.unwrap().0, expected(&rows(LONG)));
    file.done().await.unwrap();
    let renewals = subscriber.grants().unwrap().renewals();
    assert_eq!(renewals[&crate::grants::RenewedBecause::RefusedByStorage], 1);
}

async fn replace(world: &World, with: &str) {
    world.container.delete("b").await.unwrap();
    world.upload("b", with.as_bytes()).await;
}

#[tokio::test]
async fn a_file_that_changes_midway_mixes_no_rows_and_is_read_anew() {
    // Longer than what is read ahead.
    const LONG: u64 = 250_000;
    let world = World::new().await;
    world.publish("b", &rows(LONG), "").await;
    let subscriber = world.subscriber(world.inbox("inbox").await, in_ranges());
    received(&subscriber, 1).await;
    let mut files = subscriber.files(Wanted::default());
    let mut file = next(&mut files).await;
    let other = rows(LONG).replace("\"id\"", "\"ix\"");
    let mut reading = file.rows();
    assert_eq!(reading.next().await.unwrap().unwrap().last_row(), 10_000);
    replace(&world, &other).await;
    let error = loop {
        match reading.next().await {
            Ok(batch) => assert!(batch.unwrap().rows().all(|row| row.to_json().contains("\"id\"")), "of one content"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, FileError::Fetch(_)), "{error:?}");
    assert!(
        matches!(reading.next().await, Err(FileError::Fetch(_))),
        "asked again, it is the same blob that is missing"
    );
    file.failed(&error).await.unwrap();
    let mut again = next(&mut files).await;
    assert_eq!(again.attempts(), 1);
    assert_eq!(read(&mut again, 0).await.unwrap().0, expected(&other));
    again.done().await.unwrap();
}

#[tokio::test]
async fn rows_follow_those_of_an_earlier_try_only_when_they_are_of_the_same_content() {
    let other = rows(LONG).replace("\"id\"", "\"ix\"");
    let hash = format!(r#""plainSha256":"{}""#, sha256(&rows(LONG)));
    for (extras, then, goes_on) in [
        ("", None, true),
        ("", Some(rows(LONG)), false),
        ("", Some(other.clone()), false),
        (hash.as_str(), None, true),
        (hash.as_str(), Some(rows(LONG)), true),
        (hash.as_str(), Some(other), false),
    ] {
        let world = World::new().await;
        world.publish("b", &rows(LONG), extras).await;
        let inbox = world.inbox("inbox").await;
        let subscriber = world.subscriber(inbox.clone(), in_ranges());
        received(&subscriber, 1).await;
        let mut files = subscriber.files(Wanted::default());
        let mut file = next(&mut files).await;
        assert_eq!(file.rows().next().await.unwrap().unwrap().last_row(), 10_000);
        file.retry_in(Duration::ZERO, "the rest later").await.unwrap();
        if let Some(then) = &then {
            replace(&world, then).await;
        }
        let mut file = next(&mut files).await;
        let rest = read(&mut file, 10_000).await;
        if goes_on {
            assert_eq!(rest.unwrap().0, expected(&rows(LONG))[10_000..], "{extras}");
            file.done().await.unwrap();
            assert_eq!(row(&inbox, "c-b").await.rows, LONG);
        } else {
            let error = rest.unwrap_err();
            assert!(matches!(error, FileError::ContentChanged { row: 10_000 }), "{extras}: {error:?}");
            file.failed(&error).await.unwrap();
            assert_eq!(row(&inbox, "c-b").await.reason, Some(Reason::ContentChanged), "{extras}");
        }
    }
}

#[tokio::test]
async fn rows_that_are_said_to_follow_others_need_a_blob_that_was_read() {
    let world = World::new().await;
    world.publish("b", &rows(30), "").await;
    let subscriber = world.subscriber(world.inbox("inbox").await, builder());
    received(&subscriber, 1).await;
    let mut file = next(&mut subscriber.files(Wanted::default())).await;
    assert!(matches!(read(&mut file, 10).await, Err(FileError::ContentChanged { row: 10 })));
}

#[tokio::test]
async fn a_file_that_is_not_whole_or_not_what_was_announced_is_not_done() {
    let whole = packed(LONG);
    let mut turned = whole.clone();
    let near_the_end = turned.len() - 6;
    turned[near_the_end] ^= 1;
    let cases = [
        (whole[..whole.len() - 20].to_vec(), "", Reason::TruncatedFile),
        (turned, "", Reason::CorruptGzip),
        (whole.clone(), r#""rows":7"#, Reason::HashMismatch),
        (whole, r#""bytes":7"#, Reason::HashMismatch),
    ];
    // Side by side, because each waits for a lease to end.
    futures::future::join_all(cases.map(async |(bytes, extras, reason)| {
        let world = World::new().await;
        world.upload("b", &bytes).await;
        world.send(&[world.waybill("T", "b", extras)]).await;
        let inbox = short_lease(&world, "inbox").await;
        let subscriber = world.subscriber(inbox.clone(), builder());
        received(&subscriber, 1).await;
        let mut files = subscriber.files(Wanted::default());
        let mut file = next(&mut files).await;
        let error = read(&mut file, 0).await.unwrap_err();
        let refused = file.done().await.unwrap_err();
        assert!(matches!(refused, FileError::NotRead { .. }) && refused.to_string().contains("not read to their end"));
        let mut again = next(&mut files).await;
        assert!(read(&mut again, 0).await.is_err(), "{extras}");
        assert!(again.rows().next().await.is_ok() || reason == Reason::HashMismatch, "{extras}: from its begin again");
        again.failed(&error).await.unwrap();
        assert_eq!(row(&inbox, "c-b").await.reason, Some(reason), "{extras}");
    }))
    .await;
}

#[tokio::test]
async fn a_row_that_cannot_be_used_does_what_was_configured() {
    let text = rows(LONG) + "broken\n";
    for (what, good, bad) in [(OnBadRow::Quarantine, LONG, 1), (OnBadRow::Skip, LONG, 0), (OnBadRow::Fail, 0, 0)] {
        let world = World::new().await;
        world.publish("b", &text, "").await;
        let inbox = world.inbox("inbox").await;
        let subscriber = world.subscriber(inbox.clone(), builder().on_bad_row(what));
        received(&subscriber, 1).await;
        let mut files = subscriber.files(Wanted::default());
        let mut file = next(&mut files).await;
        if what == OnBadRow::Fail {
            let error = file.rows().next().await.unwrap_err();
            assert!(matches!(&error, FileError::BadRow { row, .. } if *row == LONG + 1), "before any row: {error:?}");
            file.failed(&error).await.unwrap();
            assert_eq!(row(&inbox, "c-b").await.reason, Some(Reason::MalformedRow));
        } else {
            let (rows, refused) = read(&mut file, 0).await.unwrap();
            assert_eq!((rows.len() as u64, refused.len()), (good, bad), "{what:?}");
            file.done().await.unwrap();
            let row = row(&inbox, "c-b").await;
            assert_eq!((row.rows, row.bad_rows), (LONG + 1, 1), "{what:?}");
        }
    }
    let world = World::new().await;
    world.publish("b", &rows(LONG), "").await;
    let subscriber = world.subscriber(world.inbox("inbox").await, builder().on_bad_row(OnBadRow::Fail));
    received(&subscriber, 1).await;
    let mut file = next(&mut subscriber.files(Wanted::default())).await;
    assert_eq!(read(&mut file, 0).await.unwrap().0.len() as u64, LONG, "a good file comes whole");
}

#[tokio::test]
async fn in_an_outage_files_wait_on_one_clock_and_their_tries_do_not_count() {
    let world = World::new().await;
    for number in 0..6 {
        world.publish(&format!("b{number}"), &rows(2), "").await;
    }
    let inbox = world.inbox("inbox").await;
    received(&world.subscriber(inbox.clone(), builder()), 6).await;
    // Without any token yet.
    let subscriber = world.subscriber(inbox.clone(), builder());
    let down = What::Refuse { with: Refusal::Status(503), retry_after: None };
    let asked = Step::new(When::Grant { tenant: None }, down).times(1_000.try_into().unwrap());
    world.local.faults().install([asked]).unwrap();
    let mut files = subscriber.files(Wanted::default());
    let mut failures = 0;
    let mut done = 0;
    within(async {
        while let Some(mut file) = files.next_due().await.unwrap() {
            match read(&mut file, 0).await {
                Ok(_) => {
                    file.done().await.unwrap();
                    done += 1;
                }
                Err(error) => {
                    file.failed(&error).await.unwrap();
                    failures += 1;
                }
            }
            if failures == 2 {
                world.local.faults().clear();
            }
        }
    })
    .await;
    let put_off = inbox.pending(&Wanted::default()).await.unwrap().later;
    // A try may have begun before the outage was over.
    assert!((2..6).contains(&failures) && done + put_off == 6, "{failures} failures, {done} done, {put_off} put off");
    for _ in 0..put_off {
        next(&mut files).await.done().await.unwrap();
    }
    for row in inbox.list(&ListFilter::default()).await.unwrap() {
        assert_eq!((row.state, row.attempts), (State::Done, 1), "{row:?}");
    }
}

#[tokio::test]
async fn a_blob_that_is_gone_and_past_its_time_expires() {
    let world = World::new().await;
    let over = r#""expiresAt":"2020-01-01T00:00:00Z""#;
    world.send(&[world.waybill("T", "gone", over), world.waybill("T", "late", "")]).await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    received(&subscriber, 2).await;
    let mut files = subscriber.files(Wanted::default());
    for _ in 0..2 {
        let mut file = next(&mut files).await;
        let error = read(&mut file, 0).await.unwrap_err();
        file.failed(&error).await.unwrap();
    }
    assert_eq!(row(&inbox, "c-gone").await.state, State::Expired);
    let late = row(&inbox, "c-late").await;
    assert_eq!((late.state, late.attempts), (State::Saved, 1));
    assert!(late.problem.unwrap().contains("the blob is missing"));
}

#[tokio::test]
async fn only_the_types_that_are_wanted_come_and_others_are_skipped_or_left() {
    let world = World::new().await;
    world.send(&["A", "B", "C"].map(|blob_type| world.waybill(blob_type, blob_type, ""))).await;
    let inbox = world.inbox("inbox").await;
    let types = ["A".to_owned(), "B".to_owned()];
    let subscriber = world.subscriber(inbox.clone(), builder().types(types));
    received(&subscriber, 3).await;
    let wanted = Wanted { types: Some(vec!["B".to_owned()]), ..Wanted::default() };
    let mut files = subscriber.files(wanted);
    let file = next(&mut files).await;
    assert_eq!(file.metadata().blob_type, "B");
    file.done().await.unwrap();
    assert!(files.next_due().await.unwrap().is_none());
    assert_eq!(row(&inbox, "c-A").await.state, State::Saved, "of a configured type: for another stream");
    rows_in(&inbox, State::Skipped, 1).await.remove("c-C").unwrap();
    let file = next(&mut subscriber.files(Wanted::default())).await;
    assert_eq!(file.metadata().blob_type, "A", "the configured ones, where none are named");
}

#[tokio::test]
async fn rows_can_be_asked_whether_the_filter_of_their_type_wants_them() {
    let world = World::new().await;
    world.publish("b", &rows(10), "").await;
    let subscriber = world.subscriber(world.inbox("inbox").await, builder().filter("T", "row.id > 7"));
    received(&subscriber, 1).await;
    let mut file = next(&mut subscriber.files(Wanted::default())).await;
    let mut reading = file.rows();
    let batch = reading.next().await.unwrap().unwrap();
    let mut sieve = reading.sieve();
    let wanted: Vec<u64> = batch.rows().filter(|row| sieve.ask(row).unwrap()).map(|row| row.number()).collect();
    assert_eq!((batch.len(), wanted), (10, vec![8, 9, 10]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_two_subscribers_in_one_process_share_an_inbox_and_never_a_file() {
    let world = World::new().await;
    for number in 0..20 {
        world.publish(&format!("b{number}"), &rows(3), "").await;
    }
    let inbox = world.inbox("inbox").await;
    let (one, two) = (world.subscriber(inbox.clone(), builder()), world.subscriber(inbox.clone(), builder()));
    received(&one, 20).await;
    let work = async |subscriber: &Subscriber| {
        let mut files = subscriber.files(Wanted::default());
        let (mut ids, mut held) = (Vec::new(), Vec::new());
        while let Some(mut file) = files.next_due().await.unwrap() {
            assert_eq!(read(&mut file, 0).await.unwrap().0.len(), 3);
            ids.push(file.id());
            held.push(file);
            if held.len() == 3 {
                for file in held.drain(..) {
                    file.done().await.unwrap();
                }
            }
        }
        for file in held {
            file.done().await.unwrap();
        }
        ids
    };
    let (first, second) = within(async { tokio::join!(work(&one), work(&two)) }).await;
    let all: BTreeSet<i64> = first.iter().chain(&second).copied().collect();
    assert_eq!((all.len(), first.len() + second.len()), (20, 20));
    assert_eq!(inbox.counts().await.unwrap().done, 20);
    let done = |of: &Subscriber| of.work_stats().files_done.load(Ordering::Relaxed);
    assert_eq!((done(&one), done(&two)), (first.len() as u64, second.len() as u64), "nothing is shared but the inbox");
}

pub(super) async fn postgres(schema: &str, lease: Duration) -> PostgresInbox {
    let server = std::env::var("WAYBILL_TEST_POSTGRES")
        .expect("WAYBILL_TEST_POSTGRES is not set: run `cargo xtask test`, which starts a PostgreSQL");
    let options = PostgresInboxOptions { lease, schema: schema.to_owned() };
    PostgresInbox::open(&format!("{server}?sslmode=disable"), options).await.unwrap()
}

#[tokio::test]
async fn when_the_inbox_stays_away_the_hold_ends_by_its_time_and_the_file_comes_again() {
    let world = World::new().await;
    world.publish("a", &rows(3), "").await;
    world.publish("b", &rows(3), "").await;
    let schema = format!("files {}", uuid::Uuid::new_v4().simple());
    let (inbox, other) = (postgres(&schema, LEASE).await, postgres(&schema, LEASE).await);
    let subscriber = world.subscriber(inbox.clone(), builder());
    received(&subscriber, 2).await;
    let mut files = subscriber.files(Wanted::default());
    let (mut one, two) = (next(&mut files).await, next(&mut files).await);
    inbox.close();
    assert!(matches!(within(two.done()).await, Err(FileError::Inbox(_))), "it was told until the lease was over");
    until("the hold ends", || async { !one.is_held() }).await;
    assert!(matches!(one.rows().next().await, Err(FileError::Lapsed)));
    assert!(matches!(within(one.done()).await, Err(FileError::Lapsed)), "what could not be read is not said");
    assert!(within(files.next()).await.is_err());

    let other = world.subscriber(other, builder());
    let mut files = other.files(Wanted::default());
    for _ in 0..2 {
        let mut file = next(&mut files).await;
        assert_eq!(read(&mut file, 0).await.unwrap().0.len(), 3);
        file.done().await.unwrap();
    }
    assert_eq!(other.inbox().counts().await.unwrap().done, 2);
}

#[tokio::test]
async fn streams_files_and_calls_can_be_sent_to_other_threads() {
    fn is_send<T: Send>(thing: T) -> T {
        thing
    }
    let world = World::new().await;
    world.publish("b", &rows(3), "").await;
    let subscriber = is_send(world.subscriber(world.inbox("inbox").await, builder()));
    received(&subscriber, 1).await;
    let mut files = is_send(subscriber.files(Wanted::default()));
    let mut file = is_send(is_send(files.next()).await.unwrap());
    let mut rows = is_send(file.rows());
    assert_eq!(is_send(rows.next()).await.unwrap().unwrap().len(), 3);
    assert!(is_send(files.next_due()).await.unwrap().is_none());
    let ending: Pin<Box<dyn Future<Output = Result<(), FileError>> + Send>> = Box::pin(file.done());
    ending.await.unwrap();
}

#[test]
fn each_error_says_what_to_do_and_where_the_file_goes() {
    let differs = RowsError::Differs {
        blob: "b".to_owned(),
        what: "its number of rows",
        announced: "7".to_owned(),
        found: "6".to_owned(),
    };
    for (error, verdict, said) in [
        (FileError::Lapsed, None, "it comes again"),
        (FileError::NotRead { problem: "cut".to_owned() }, None, "say that it failed"),
        (FileError::ContentChanged { row: 7 }, Some(Reason::ContentChanged), "ask the publisher"),
        (FileError::Rows(differs), Some(Reason::HashMismatch), "ask the publisher"),
    ] {
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(error.verdict(), verdict.map(crate::Verdict::Quarantine), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_after_a_crash_go_on_at_a_segment_and_nothing_before_it_is_downloaded_again() {
    let stored = large_file();
    let length = stored.len() as u64;
    for ending in ["the same blob", "a blob that was replaced"] {
        let world = World::new().await;
        world.upload("b", &stored).await;
        let plain: String = (1..=LARGE_ROWS).map(|n| large_row(n) + "\n").collect();
        let sha256 = sha256(&plain);
        world.send(&[world.waybill("T", "b", &format!(r#""rows":250000,"plainSha256":"{sha256}""#))]).await;
        let inbox = world.inbox("inbox").await;
        let subscriber = world.subscriber(inbox.clone(), builder());
        received(&subscriber, 1).await;
        let mut files = subscriber.files(Wanted::default());
        let mut file = next(&mut files).await;
        let mut expected = Vec::new();
        let mut rows = file.rows();
        while expected.len() < 150_000 {
            let batch = rows.next().await.unwrap().expect("there are more");
            expected.extend(batch.rows().map(|row| row.to_json().into_owned()));
        }
        let applied = expected.len() as u64;
        drop(rows);
        file.give_back().await.unwrap();
        if ending == "a blob that was replaced" {
            world.container.delete("b").await.unwrap();
            world.upload("b", &stored).await;
        }

        let mut file = next(&mut files).await;
        let before = world.local.stats().counted().blob_bytes_out;
        let mut rows = file.rows_after(applied);
        while let Some(batch) = rows.next().await.unwrap() {
            assert_eq!(batch.first_row(), expected.len() as u64 + 1, "no row twice, none left out");
            expected.extend(batch.rows().map(|row| row.to_json().into_owned()));
        }
        file.done().await.unwrap();
        assert_eq!(expected.len() as u64, LARGE_ROWS);
        assert!(expected.iter().zip(1..).all(|(row, n)| *row == large_row(n)), "as they are in the file");
        let downloaded = world.local.stats().counted().blob_bytes_out - before;
        match ending {
            "the same blob" => assert!(downloaded < length - (4 << 20), "{downloaded} of {length}"),
            // Read through first, and then from its begin.
            _ => assert!(downloaded >= 2 * length, "{downloaded} of {length}"),
        }
    }
}
