//! What every [`Inbox`] must do, as one suite: run it against each backend.

#![allow(clippy::missing_panics_doc, clippy::unwrap_used, reason = "a failed assertion is the answer")]

use std::{future::Future, time::Duration};

use time::OffsetDateTime;
use waybill_contracts::{Metadata, Reason};

use super::{
    Admitted, Announced, Arrival, Asked, BlobSeen, BrokenMessage, End, FileDone, FileKey, Inbox, ListFilter, Place,
    State, Wanted, Waybill, WorkerId,
};

/// A message that announces `file`, with the broker's number `sequence_number`.
#[must_use]
pub fn arrival(sequence_number: i64, file: &str, blob_type: &str) -> Arrival {
    let body = format!(
        r#"{{"blobType":"{blob_type}","correlationId":"c-{file}","uri":"https://a.example/c/{file}","contentType":"text/csv"}}"#
    );
    Arrival {
        entity_path: "exports/subscriptions/acme".to_owned(),
        sequence_number,
        enqueued_at: OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_000_000),
        message_id: Some(format!("m-{sequence_number}")),
        announced: Announced::File(Box::new(Waybill {
            key: FileKey::of_uri(file),
            metadata: Metadata::parse(body.as_bytes()).expect("the suite's own message is sound"),
            body,
            sequence: None,
            expires_at: None,
        })),
    }
}

/// Runs the suite. `make` gives a fresh, empty inbox whose leases last `lease` each time.
pub async fn exercise<I, M, F>(make: M, lease: Duration)
where
    I: Inbox + Clone,
    M: Fn() -> F,
    F: Future<Output = I>,
{
    a_redelivery_adds_no_row(&make().await).await;
    a_second_message_for_a_file_is_a_duplicate(&make().await).await;
    files_are_known_by_their_keys(&make().await).await;
    a_message_that_is_no_waybill_is_kept_with_its_reason(&make().await).await;
    a_leased_file_is_leased_to_nobody_else(&make().await).await;
    a_lapsed_lease_changes_nothing(&make().await, lease).await;
    a_renewed_lease_does_not_lapse(&make().await, lease).await;
    a_noted_blob_is_told_to_the_next_worker(&make().await).await;
    a_file_put_off_is_not_leased_before_it_is_due(&make().await).await;
    only_wanted_types_are_leased(&make().await).await;
    other_types_are_skipped_and_can_be_listed(&make().await).await;
    types_are_summed_up(&make().await).await;
    done_files_can_be_reopened(&make().await).await;
    a_person_has_files_tried_again_or_skipped(&make().await).await;
    a_place_is_known_once_it_was_remembered(&make().await).await;
    lists_come_newest_first_and_in_pages(&make().await).await;
    workers_side_by_side_never_share_a_file(&make().await).await;
}

async fn files_are_known_by_their_keys(inbox: &impl Inbox) {
    let answers = inbox.admit(vec![arrival(1, "a", "T"), arrival(2, "a", "T"), arrival(3, "b", "T")]).await.unwrap();
    let [Admitted::Saved(a), Admitted::Duplicate { .. }, Admitted::Saved(b)] = answers[..] else {
        panic!("{answers:?}")
    };
    let keys = ["b", "none", "a"].map(FileKey::of_uri);
    assert_eq!(inbox.known(&keys).await.unwrap(), [Some(b), None, Some(a)], "the file's row, not its duplicate's");
    assert_eq!(inbox.known(&[]).await.unwrap(), []);
}

async fn a_noted_blob_is_told_to_the_next_worker(inbox: &impl Inbox) {
    inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap();
    let first = inbox.lease(&worker("one"), 1, &Wanted::default()).await.unwrap().remove(0);
    assert_eq!(first.blob, None);
    let [old, new] = ["\"1\"", "\"2\""].map(|etag| BlobSeen { etag: etag.to_owned(), length: 7 });
    assert!(inbox.note_blob(&first.lease, &old).await.unwrap());
    assert!(inbox.note_blob(&first.lease, &new).await.unwrap());
    assert!(inbox.finish(&first.lease, End::Release).await.unwrap());
    assert!(!inbox.note_blob(&first.lease, &old).await.unwrap(), "the lease is over");
    let second = inbox.lease(&worker("two"), 1, &Wanted::default()).await.unwrap().remove(0);
    assert_eq!(second.blob, Some(new));
    assert!(inbox.finish(&second.lease, End::Done(FileDone::default())).await.unwrap());
    assert_eq!(inbox.reopen(&[second.lease.id]).await.unwrap(), 1);
    let third = inbox.lease(&worker("three"), 1, &Wanted::default()).await.unwrap().remove(0);
    assert_eq!(third.blob, None, "nothing of it took effect in the sink that is there now");
}

fn worker(name: &str) -> WorkerId {
    WorkerId(name.to_owned())
}

async fn a_redelivery_adds_no_row(inbox: &impl Inbox) {
    let first = inbox.admit(vec![arrival(1, "a", "T"), arrival(1, "a", "T")]).await.unwrap();
    let [Admitted::Saved(id), Admitted::AlreadySeen(again)] = first[..] else { panic!("{first:?}") };
    assert_eq!(id, again, "within one burst");
    assert_eq!(inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap(), [Admitted::AlreadySeen(id)]);
    assert_eq!(inbox.counts().await.unwrap().saved, 1);
    // The same number at another time is another message: the entity was deleted and made again.
    let mut later = arrival(1, "b", "T");
    later.enqueued_at += Duration::from_secs(1);
    assert!(matches!(inbox.admit(vec![later]).await.unwrap()[..], [Admitted::Saved(_)]));
}

async fn a_second_message_for_a_file_is_a_duplicate(inbox: &impl Inbox) {
    let answers = inbox.admit(vec![arrival(1, "a", "T"), arrival(2, "a", "T"), arrival(3, "b", "T")]).await.unwrap();
    let [Admitted::Saved(first), Admitted::Duplicate { id, of }, Admitted::Saved(_)] = answers[..] else {
        panic!("{answers:?}")
    };
    assert_eq!(of, first);
    let row = inbox.get(id).await.unwrap().unwrap();
    assert_eq!((row.state, row.duplicate_of), (State::Duplicate, Some(first)));
    let leased = inbox.lease(&worker("w"), 10, &Wanted::default()).await.unwrap();
    assert_eq!(leased.len(), 2, "a duplicate is never worked");
}

async fn a_message_that_is_no_waybill_is_kept_with_its_reason(inbox: &impl Inbox) {
    let mut broken = arrival(1, "a", "T");
    broken.announced = Announced::Broken(BrokenMessage {
        reason: Reason::NotJson,
        problem: "byte 0: expected an object".to_owned(),
        body: b"<xml/>\xff".to_vec(),
        blob_type: Some("Quux".to_owned()),
        correlation_id: Some("c-broken".to_owned()),
    });
    let answers = inbox.admit(vec![broken.clone(), arrival(2, "b", "T")]).await.unwrap();
    let [Admitted::Quarantined(id, Reason::NotJson), Admitted::Saved(_)] = answers[..] else { panic!("{answers:?}") };
    let row = inbox.get(id).await.unwrap().unwrap();
    assert_eq!((row.state, row.reason), (State::Quarantined, Some(Reason::NotJson)));
    assert!(row.body.starts_with("<xml/>"), "{}", row.body);
    assert_eq!(row.problem.as_deref(), Some("byte 0: expected an object"));
    for filter in [
        ListFilter { blob_type: Some("Quux".to_owned()), ..ListFilter::default() },
        ListFilter { correlation_id: Some("c-broken".to_owned()), ..ListFilter::default() },
    ] {
        let found: Vec<i64> = inbox.list(&filter).await.unwrap().into_iter().map(|row| row.id).collect();
        assert_eq!(found, [id], "{filter:?}");
    }
    assert_eq!(inbox.admit(vec![broken]).await.unwrap(), [Admitted::AlreadySeen(id)]);
    assert_eq!(inbox.retry(id).await.unwrap(), Asked::NoFile);
    assert_eq!(inbox.skip(id, "known").await.unwrap(), Asked::Done);
    let row = inbox.get(id).await.unwrap().unwrap();
    assert_eq!((row.state, row.problem.as_deref()), (State::Skipped, Some("a person does not want it: known")));
    assert_eq!(inbox.history(id).await.unwrap().last().unwrap().state, State::Skipped);
    assert_eq!(inbox.retry(id).await.unwrap(), Asked::NoFile);
    assert_eq!(inbox.lease(&worker("w"), 10, &Wanted::default()).await.unwrap().len(), 1);
}

async fn a_leased_file_is_leased_to_nobody_else(inbox: &impl Inbox) {
    inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap();
    let leased = inbox.lease(&worker("one"), 10, &Wanted::default()).await.unwrap();
    assert_eq!(leased[0].waybill.metadata.correlation_id, "c-a");
    assert!(inbox.lease(&worker("two"), 10, &Wanted::default()).await.unwrap().is_empty());
    let pending = inbox.pending(&Wanted::default()).await.unwrap();
    assert_eq!((pending.working, pending.due, pending.later), (1, 0, 0));
    let done = FileDone { rows: 7, bad_rows: 1, filtered_rows: Some(2), stored_bytes: 10, plain_bytes: 100 };
    assert!(inbox.finish(&leased[0].lease, End::Done(done)).await.unwrap());
    assert!(!inbox.finish(&leased[0].lease, End::Release).await.unwrap(), "a lease ends once");
    let row = inbox.get(leased[0].lease.id).await.unwrap().unwrap();
    assert_eq!((row.state, row.rows, row.bad_rows, row.attempts), (State::Done, 7, 1, 1));
    assert_eq!(row.filtered_rows, Some(2));
    assert_eq!(inbox.counts().await.unwrap().bad_rows, 1);
    let states: Vec<_> = inbox.history(row.id).await.unwrap().into_iter().map(|entry| entry.state).collect();
    assert_eq!(states, [State::Saved, State::Working, State::Done]);
}

async fn a_lapsed_lease_changes_nothing(inbox: &impl Inbox, lease: Duration) {
    inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap();
    let first = inbox.lease(&worker("same"), 1, &Wanted::default()).await.unwrap().remove(0).lease;
    tokio::time::sleep(lease + Duration::from_millis(20)).await;
    assert!(inbox.renew(&first, 1).await.unwrap().is_none(), "a lapsed lease cannot be renewed");
    assert!(!inbox.finish(&first, End::Done(FileDone::default())).await.unwrap(), "nor finished, while nobody has it");
    let second = inbox.lease(&worker("same"), 1, &Wanted::default()).await.unwrap().remove(0).lease;
    assert_ne!(first.leased_at, second.leased_at);
    assert!(!inbox.finish(&first, End::Done(FileDone::default())).await.unwrap(), "even for the same worker");
    assert_eq!(inbox.get(first.id).await.unwrap().unwrap().state, State::Working);
    assert!(inbox.finish(&second, End::Done(FileDone::default())).await.unwrap());
}

async fn a_renewed_lease_does_not_lapse(inbox: &impl Inbox, lease: Duration) {
    inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap();
    let mut held = inbox.lease(&worker("one"), 1, &Wanted::default()).await.unwrap().remove(0).lease;
    for rows in 1..=4 {
        tokio::time::sleep(lease / 2).await;
        held = inbox.renew(&held, rows).await.unwrap().expect("renewed in time");
        assert!(inbox.lease(&worker("two"), 1, &Wanted::default()).await.unwrap().is_empty());
    }
    assert_eq!(inbox.get(held.id).await.unwrap().unwrap().rows, 4);
    assert!(inbox.finish(&held, End::Release).await.unwrap());
    assert_eq!(inbox.lease(&worker("two"), 1, &Wanted::default()).await.unwrap().len(), 1);
}

async fn a_file_put_off_is_not_leased_before_it_is_due(inbox: &impl Inbox) {
    inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap();
    let held = inbox.lease(&worker("w"), 1, &Wanted::default()).await.unwrap().remove(0).lease;
    let later = End::Later { after: Duration::from_secs(3600), problem: "storage is busy".to_owned(), counts: true };
    assert!(inbox.finish(&held, later).await.unwrap());
    assert!(inbox.lease(&worker("w"), 1, &Wanted::default()).await.unwrap().is_empty());
    let pending = inbox.pending(&Wanted::default()).await.unwrap();
    assert_eq!((pending.working, pending.due, pending.later), (0, 0, 1));
    assert!(pending.next_due_in.unwrap() > Duration::from_secs(3500));
    let row = inbox.get(held.id).await.unwrap().unwrap();
    assert_eq!((row.state, row.attempts, row.problem.as_deref()), (State::Saved, 1, Some("storage is busy")));

    inbox.admit(vec![arrival(2, "b", "T")]).await.unwrap();
    let held = inbox.lease(&worker("w"), 1, &Wanted::default()).await.unwrap().remove(0).lease;
    assert!(inbox.finish(&held, End::Release).await.unwrap());
    assert_eq!(inbox.lease(&worker("w"), 1, &Wanted::default()).await.unwrap()[0].attempts, 0, "a release is no try");
}

async fn only_wanted_types_are_leased(inbox: &impl Inbox) {
    inbox.admit(vec![arrival(1, "a", "Price"), arrival(2, "b", "Item")]).await.unwrap();
    let wanted = Wanted { types: Some(vec!["Item".to_owned()]), since: None };
    let leased = inbox.lease(&worker("w"), 10, &wanted).await.unwrap();
    assert_eq!(leased.len(), 1);
    assert_eq!(leased[0].waybill.metadata.blob_type, "Item");
    assert_eq!(inbox.pending(&wanted).await.unwrap().due, 0);
    assert_eq!(inbox.pending(&Wanted::default()).await.unwrap().due, 1);
    let pattern = Wanted { types: Some(vec!["X".to_owned(), "Pr*".to_owned()]), since: None };
    assert_eq!(inbox.pending(&pattern).await.unwrap().due, 1, "a star stands for any characters");
    let other = Wanted { types: Some(vec!["[P]r?ce".to_owned(), "pr*".to_owned(), "[P]*".to_owned()]), since: None };
    assert_eq!(inbox.pending(&other).await.unwrap().due, 0, "and nothing else stands for others");
    let since = Wanted { types: None, since: Some(leased[0].received_at + Duration::from_secs(60)) };
    assert!(inbox.lease(&worker("w"), 10, &since).await.unwrap().is_empty());
}

async fn other_types_are_skipped_and_can_be_listed(inbox: &impl Inbox) {
    inbox.admit(vec![arrival(1, "a", "Price"), arrival(2, "b", "Item")]).await.unwrap();
    assert_eq!(inbox.skip_other_types(&["*".to_owned()]).await.unwrap(), 0);
    assert_eq!(inbox.skip_other_types(&["It*m".to_owned()]).await.unwrap(), 1);
    let skipped = inbox.list(&ListFilter { state: Some(State::Skipped), ..ListFilter::default() }).await.unwrap();
    assert_eq!(skipped[0].blob_type.as_deref(), Some("Price"));
    assert_eq!(inbox.lease(&worker("w"), 10, &Wanted::default()).await.unwrap().len(), 1);
}

async fn types_are_summed_up(inbox: &impl Inbox) {
    inbox.admit(vec![arrival(1, "a", "Price"), arrival(2, "b", "Item"), arrival(3, "c", "Item")]).await.unwrap();
    inbox.admit(vec![arrival(4, "a", "Price")]).await.unwrap();
    let wanted = Wanted { types: Some(vec!["Item".to_owned()]), since: None };
    let held = inbox.lease(&worker("w"), 1, &wanted).await.unwrap().remove(0).lease;
    let done = FileDone { rows: 7, bad_rows: 0, filtered_rows: Some(3), stored_bytes: 100, plain_bytes: 1000 };
    assert!(inbox.finish(&held, End::Done(done)).await.unwrap());
    inbox.skip_other_types(&["Item".to_owned()]).await.unwrap();
    let types = inbox.types().await.unwrap();
    assert_eq!(types.iter().map(|of| of.blob_type.as_str()).collect::<Vec<_>>(), ["Item", "Price"]);
    let item = &types[0];
    assert_eq!(item.filtered_rows, 3);
    assert_eq!(inbox.counts().await.unwrap().filtered_rows, 3);
    assert_eq!(
        (item.files, item.done, item.skipped, item.rows >= 7, item.bytes >= 100),
        (2, 1, 0, true, true),
        "{item:?}"
    );
    assert_eq!((types[1].files, types[1].skipped), (1, 1), "a second message is no second file: {types:?}");
}

async fn done_files_can_be_reopened(inbox: &impl Inbox) {
    inbox.admit(vec![arrival(1, "a", "T"), arrival(2, "b", "T")]).await.unwrap();
    for file in inbox.lease(&worker("w"), 10, &Wanted::default()).await.unwrap() {
        inbox.finish(&file.lease, End::Done(FileDone::default())).await.unwrap();
    }
    let done = inbox.done_files(0, 10).await.unwrap();
    assert_eq!(done.len(), 2);
    assert_eq!(inbox.done_files(done[0].0, 10).await.unwrap(), done[1..]);
    assert_eq!(inbox.reopen(&[done[0].0]).await.unwrap(), 1);
    let leased = inbox.lease(&worker("w"), 10, &Wanted::default()).await.unwrap();
    assert_eq!(leased[0].waybill.key, done[0].1);
}

async fn a_person_has_files_tried_again_or_skipped(inbox: &impl Inbox) {
    let ids = inbox.admit(vec![arrival(1, "a", "T"), arrival(2, "b", "T"), arrival(3, "c", "T")]).await.unwrap();
    let [Admitted::Saved(a), Admitted::Saved(b), Admitted::Saved(c)] = ids[..] else { panic!("{ids:?}") };
    let reason = Reason::CorruptGzip;
    let leased = inbox.lease(&worker("w"), 10, &Wanted::default()).await.unwrap();
    let of = |id: i64| leased.iter().find(|file| file.lease.id == id).expect("it was leased").lease.clone();
    assert_eq!(inbox.retry(a).await.unwrap(), Asked::Not(State::Working));
    assert_eq!(inbox.skip(a, "no").await.unwrap(), Asked::Not(State::Working), "a worker has it");
    inbox.finish(&of(a), End::Quarantine { reason, problem: "damaged".to_owned() }).await.unwrap();
    inbox.finish(&of(b), End::Done(FileDone::default())).await.unwrap();
    let hour = Duration::from_secs(3600);
    inbox.finish(&of(c), End::Later { after: hour, problem: "not there".to_owned(), counts: true }).await.unwrap();
    assert_eq!(inbox.lease(&worker("w"), 10, &Wanted::default()).await.unwrap().len(), 0);

    assert_eq!(inbox.retry(a).await.unwrap(), Asked::Done);
    assert_eq!(inbox.retry(c).await.unwrap(), Asked::Done, "now, and not in an hour");
    let row = inbox.get(a).await.unwrap().unwrap();
    assert_eq!((row.state, row.reason, row.problem), (State::Saved, None, None));
    assert_eq!(inbox.retry(b).await.unwrap(), Asked::Not(State::Done));
    assert_eq!(inbox.skip(b, "no").await.unwrap(), Asked::Not(State::Done));
    assert_eq!(inbox.retry(c + 1000).await.unwrap(), Asked::Unknown);
    assert_eq!(inbox.lease(&worker("w"), 10, &Wanted::default()).await.unwrap().len(), 2);
    assert!(!inbox.finish(&of(a), End::Release).await.unwrap(), "the old lease is nobody's");
}

async fn a_place_is_known_once_it_was_remembered(inbox: &impl Inbox) {
    let place = Place { endpoint: "https://a.example".to_owned(), container: "c".to_owned() };
    assert_eq!(inbox.places().await.unwrap(), []);
    inbox.remember_place(&place).await.unwrap();
    inbox.remember_place(&place).await.unwrap();
    assert_eq!(inbox.places().await.unwrap(), [place]);
}

async fn lists_come_newest_first_and_in_pages(inbox: &impl Inbox) {
    inbox.admit((1..=5).map(|number| arrival(number, &number.to_string(), "T")).collect()).await.unwrap();
    let first = inbox.list(&ListFilter { most: 2, ..ListFilter::default() }).await.unwrap();
    let numbers: Vec<_> = first.iter().map(|row| row.sequence_number).collect();
    assert_eq!(numbers, [5, 4]);
    let next = ListFilter { most: 10, before: Some(first[1].id), ..ListFilter::default() };
    assert_eq!(inbox.list(&next).await.unwrap().len(), 3);
    let one = ListFilter { correlation_id: Some("c-3".to_owned()), ..ListFilter::default() };
    assert_eq!(inbox.list(&one).await.unwrap().len(), 1);
}

async fn workers_side_by_side_never_share_a_file(inbox: &(impl Inbox + Clone)) {
    inbox.admit((1..=40).map(|number| arrival(number, &number.to_string(), "T")).collect()).await.unwrap();
    let take = async |name: &str| {
        let mut taken = Vec::new();
        loop {
            let leased = inbox.lease(&worker(name), 3, &Wanted::default()).await.unwrap();
            if leased.is_empty() {
                break taken;
            }
            taken.extend(leased.into_iter().map(|file| file.lease.id));
        }
    };
    let (one, two, three) = tokio::join!(take("one"), take("two"), take("three"));
    let mut all = [one, two, three].concat();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 40);
}
