//! What every [`Inbox`] must do, as one suite: run it against each backend.

#![allow(clippy::missing_panics_doc, clippy::unwrap_used, reason = "a failed assertion is the answer")]

use std::{future::Future, time::Duration};

use time::OffsetDateTime;
use tokio::time::Instant;
use waybill_contracts::{MANIFEST_TYPE, Metadata, Reason};
use waybill_formats::seek::Checkpoint;

use super::{
    Admitted, Announced, Arrival, Asked, Beat, BlobSeen, BrokenMessage, End, FileDone, FileKey, Inbox, Lease, Leased,
    ListFilter, Pending, Place, PruneStep, Pruned, PublisherSequence, Retention, SequenceNamed, State, Wanted, Waybill,
    WorkerId, prune,
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

/// A message that is no waybill.
fn broken(sequence_number: i64) -> Arrival {
    let announced = Announced::Broken(BrokenMessage {
        reason: Reason::NotJson,
        problem: "byte 0: expected an object".to_owned(),
        body: Vec::new(),
        blob_type: None,
        correlation_id: None,
    });
    Arrival { announced, ..arrival(sequence_number, "", "T") }
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
    a_burst_is_answered_in_its_order(&make().await).await;
    bursts_side_by_side_save_each_message_and_each_file_once(&make().await).await;
    any_text_is_kept_and_no_two_files_are_taken_for_one(&make().await).await;
    files_are_known_by_their_keys(&make().await).await;
    a_message_that_is_no_waybill_is_kept_with_its_reason(&make().await).await;
    a_leased_file_is_leased_to_nobody_else(&make().await).await;
    a_lapsed_lease_changes_nothing(&make().await, lease).await;
    a_lease_is_named_by_its_worker_and_its_time(&make().await).await;
    a_lease_is_trusted_from_before_it_was_asked_for(&make().await, lease).await;
    a_renewed_lease_does_not_lapse(&make().await, lease).await;
    a_noted_blob_is_told_to_the_next_worker(&make().await).await;
    a_file_put_off_is_not_leased_before_it_is_due(&make().await).await;
    files_that_never_failed_can_be_asked_for(&make().await).await;
    what_is_due_longest_is_leased_first(&make().await).await;
    a_type_with_many_files_holds_up_no_other(&make().await).await;
    files_of_several_types_are_dealt_out_together(&make().await).await;
    types_that_wait_for_later_tries_hide_no_work(&make().await).await;
    files_whose_time_is_short_come_first_and_hold_up_no_other(&make().await).await;
    urgent_files_that_are_not_wanted_or_not_due_are_not_taken(&make().await).await;
    only_wanted_types_are_leased(&make().await).await;
    other_types_are_skipped_and_can_be_listed(&make().await).await;
    types_are_summed_up(&make().await).await;
    done_files_can_be_reopened(&make().await).await;
    what_files_waited_for_has_come(&make().await).await;
    a_person_has_files_tried_again_or_skipped(&make().await).await;
    a_place_is_known_once_it_was_remembered(&make().await).await;
    lists_come_newest_first_and_in_pages(&make().await).await;
    the_history_says_when_and_why(&make().await).await;
    counts_are_right_after_everything(&make().await).await;
    what_waits_is_told_by_type_and_state(&make().await).await;
    a_file_whose_blob_may_soon_be_deleted_is_at_risk_until_it_is_done(&make().await).await;
    numbers_that_never_came_are_told_and_up_to_which_one_all_is_applied(&make().await).await;
    numbers_in_any_order_leave_the_same_gaps(&make().await).await;
    the_largest_number_is_one_like_the_others(&make().await).await;
    what_manifests_say_fills_gaps_and_shows_others(&make().await).await;
    manifests_are_no_files_of_a_sink(&make().await).await;
    nothing_is_pruned_that_is_not_over_or_not_old_enough(&make().await).await;
    what_was_lost_is_told_until_nobody_wants_it(&make().await).await;
    a_file_that_was_pruned_is_known_all_the_same(&make().await).await;
    much_is_pruned_in_small_parts(&make().await).await;
    a_worker_is_known_by_what_it_told_last(&make().await).await;
    of_very_many_workers_the_latest_are_known(&make().await).await;
    workers_side_by_side_never_share_a_file(&make().await).await;
}

async fn what_waits_is_told_by_type_and_state(inbox: &impl Inbox) {
    let told = async || {
        let backlog = inbox.backlog().await.unwrap();
        let by_type: Vec<_> = backlog.by_type.into_iter().map(|of| (of.blob_type, of.state, of.messages)).collect();
        (by_type, backlog.oldest_waiting.is_some())
    };
    assert_eq!(told().await, (Vec::new(), false));
    let broken = broken(9);
    let burst = vec![arrival(1, "a", "T"), arrival(2, "b", "T"), arrival(3, "c", "U"), arrival(4, "c", "U"), broken];
    inbox.admit(burst).await.unwrap();
    let of_t = Wanted { types: Some(vec!["T".to_owned()]), ..Wanted::default() };
    let leased = inbox.lease(&worker("one"), 2, &of_t).await.unwrap();
    let of = |blob_type: &str, state, messages| (blob_type.to_owned(), state, messages);
    let nameless = of("", State::Quarantined, 1);
    let (first, waits) = told().await;
    assert_eq!(first, [nameless.clone(), of("T", State::Working, 2), of("U", State::Saved, 1)], "no duplicate waits");
    assert!(waits);
    inbox.finish(&leased[0].lease, End::Done(FileDone::default())).await.unwrap();
    inbox.finish(&leased[1].lease, End::Expire { problem: "gone".to_owned() }).await.unwrap();
    assert_eq!(told().await.0, [nameless.clone(), of("T", State::Expired, 1), of("U", State::Saved, 1)]);
    inbox.skip_other_types(&["T".to_owned()]).await.unwrap();
    assert_eq!(told().await, (vec![nameless, of("T", State::Expired, 1)], false), "nothing waits any more");
}

async fn a_file_whose_blob_may_soon_be_deleted_is_at_risk_until_it_is_done(inbox: &impl Inbox) {
    let with_end = |number, file: &str, hours: u64| {
        let mut arrival = arrival(number, file, "T");
        let Announced::File(waybill) = &mut arrival.announced else { unreachable!() };
        waybill.expires_at = Some(OffsetDateTime::now_utc() + Duration::from_secs(hours * 3600));
        arrival
    };
    let burst = vec![with_end(1, "soon", 5), with_end(2, "later", 50), arrival(3, "never", "T"), with_end(4, "now", 1)];
    inbox.admit(burst).await.unwrap();
    let backlog = inbox.backlog().await.unwrap();
    let named: Vec<_> = backlog.first_at_risk.iter().map(|file| (file.id, file.state)).collect();
    let rows = inbox.list(&ListFilter::default()).await.unwrap();
    let id = |number: i64| rows.iter().find(|row| row.sequence_number == number).unwrap().id;
    assert_eq!((backlog.at_risk, named), (2, vec![(id(4), State::Saved), (id(1), State::Saved)]), "the first first");
    for file in inbox.lease(&worker("one"), 9, &Wanted::default()).await.unwrap() {
        inbox.finish(&file.lease, End::Done(FileDone::default())).await.unwrap();
    }
    let backlog = inbox.backlog().await.unwrap();
    assert_eq!((backlog.at_risk, backlog.first_at_risk), (0, Vec::new()));
}

/// A message of a publisher's sequence.
fn numbered(number: i64, blob_type: &str, epoch: &str, sequence: u64) -> Arrival {
    let mut arrival = arrival(number, &format!("{blob_type}-{epoch}-{sequence}"), blob_type);
    let Announced::File(waybill) = &mut arrival.announced else { unreachable!() };
    waybill.sequence = Some(PublisherSequence { publisher: "shop".to_owned(), epoch: epoch.to_owned(), sequence });
    arrival
}

/// Type, epoch, first, last, applied to, and the gaps of each sequence.
async fn sequences(inbox: &impl Inbox) -> Vec<(String, String, u64, u64, Option<u64>, Vec<(u64, u64)>)> {
    let seen = inbox.sequences().await.unwrap().into_iter();
    seen.map(|of| {
        let gaps: Vec<_> = of.gaps.iter().map(|gap| (gap.from, gap.to)).collect();
        let missing: u64 = gaps.iter().map(|(from, to)| to - from + 1).sum();
        assert!(of.missing == missing || gaps.len() == 10, "{of:?}");
        (of.blob_type, of.epoch, of.first, of.last, of.applied_to, gaps)
    })
    .collect()
}

async fn numbers_that_never_came_are_told_and_up_to_which_one_all_is_applied(inbox: &impl Inbox) {
    assert_eq!(inbox.sequences().await.unwrap(), []);
    // The subscription began at 5; 7 and 10 to 12 never came; messages without a place in a sequence are none.
    let numbers =
        [(1, "T", "e", 5), (2, "T", "e", 6), (3, "T", "e", 8), (4, "T", "e", 9), (5, "T", "e", 13), (6, "T", "f", 1)];
    let mut burst: Vec<Arrival> = numbers.map(|(at, of, epoch, number)| numbered(at, of, epoch, number)).to_vec();
    burst.extend([numbered(7, "U", "e", 1), arrival(8, "x", "T"), numbered(9, "T", "e", 8)]);
    inbox.admit(burst).await.unwrap();
    let of = |blob_type: &str, epoch: &str, first, last, applied, gaps: &[(u64, u64)]| {
        (blob_type.to_owned(), epoch.to_owned(), first, last, applied, gaps.to_vec())
    };
    let gaps = [(7, 7), (10, 12)];
    let nothing = [of("T", "e", 5, 13, None, &gaps), of("U", "e", 1, 1, None, &[]), of("T", "f", 1, 1, None, &[])];
    assert_eq!(sequences(inbox).await, nothing);

    let of_e = |sequence: u64| {
        move |file: &Leased| {
            let of = file.waybill.sequence.as_ref();
            of.is_some_and(|of| of.sequence == sequence && of.epoch == "e") && file.waybill.metadata.blob_type == "T"
        }
    };
    let done = async |sequence| end_one(inbox, of_e(sequence), End::Done(FileDone::default())).await;
    let open = async || inbox.sequences().await.unwrap()[0].open.unwrap();
    done(6).await;
    assert_eq!(sequences(inbox).await[0], nothing[0], "the first one is not applied");
    done(5).await;
    assert_eq!(sequences(inbox).await[0], of("T", "e", 5, 13, Some(6), &gaps), "behind it is a gap");
    assert_eq!((open().await.sequence, open().await.state), (8, State::Saved));
    let late = inbox.admit(vec![numbered(20, "T", "e", 7)]).await.unwrap();
    assert!(matches!(late[..], [Admitted::Saved(_)]));
    let gaps = [(10, 12)];
    assert_eq!(sequences(inbox).await[0], of("T", "e", 5, 13, Some(6), &gaps), "it came, and is not applied");
    done(7).await;
    done(8).await;
    let quarantine = End::Quarantine { reason: Reason::NotJson, problem: "a tear".to_owned() };
    end_one(inbox, of_e(9), quarantine).await;
    assert_eq!(sequences(inbox).await[0], of("T", "e", 5, 13, Some(8), &gaps));
    let ninth = open().await;
    assert_eq!((ninth.sequence, ninth.state), (9, State::Quarantined));
    inbox.skip(ninth.id, "not wanted").await.unwrap();
    assert_eq!(sequences(inbox).await[0].4, Some(8), "what a person skips is not applied");
    inbox.retry(ninth.id).await.unwrap();
    for number in [10, 11, 12] {
        inbox.admit(vec![numbered(30 + number, "T", "e", number.unsigned_abs())]).await.unwrap();
    }
    for number in [13, 9, 11, 10, 12] {
        assert!(!inbox.sequences().await.unwrap()[0].is_complete());
        done(number).await;
    }
    let seen = inbox.sequences().await.unwrap().remove(0);
    assert!(seen.is_complete() && seen.open.is_none() && seen.missing == 0, "{seen:?}");
}

/// Ends the file that is meant, and gives back the others; again where leases lapsed meanwhile.
async fn end_one(inbox: &impl Inbox, is_it: impl Fn(&Leased) -> bool, end: End) {
    for _ in 0..100 {
        let mut ended = false;
        for file in inbox.lease(&worker("one"), 99, &Wanted::default()).await.unwrap() {
            let how = if is_it(&file) { end.clone() } else { End::Release };
            ended |= inbox.finish(&file.lease, how).await.unwrap() && is_it(&file);
        }
        if ended {
            return;
        }
    }
    panic!("no such file is to be had");
}

/// Ends all files that are due.
async fn end_all(inbox: &impl Inbox) {
    while inbox.pending(&Wanted::default()).await.unwrap() != Pending::default() {
        for file in inbox.lease(&worker("one"), 99, &Wanted::default()).await.unwrap() {
            inbox.finish(&file.lease, End::Done(FileDone::default())).await.unwrap();
        }
    }
}

fn named(blob_type: &str, up_to: u64, void: &[(u64, u64)]) -> SequenceNamed {
    let (blob_type, publisher, epoch) = (blob_type.to_owned(), "shop".to_owned(), "e".to_owned());
    SequenceNamed { blob_type, publisher, epoch, up_to, void: void.to_vec() }
}

async fn what_manifests_say_fills_gaps_and_shows_others(inbox: &impl Inbox) {
    assert!(inbox.named().await.unwrap().is_empty());
    let burst = [(1, "T", "e", 2), (2, "T", "e", 5), (3, "T", "f", 1)];
    inbox.admit(burst.map(|(at, of, epoch, number)| numbered(at, of, epoch, number)).to_vec()).await.unwrap();
    end_all(inbox).await;
    let first = async || {
        let seen = sequences(inbox).await.remove(0);
        (seen.2, seen.3, seen.4, seen.5, inbox.backlog().await.unwrap().missing)
    };
    assert_eq!(first().await, (2, 5, Some(2), vec![(3, 4)], 2));
    inbox.note_named(&named("T", 4, &[(1, 1), (3, 3)])).await.unwrap();
    assert_eq!(first().await, (1, 5, Some(3), vec![(4, 4)], 1));
    // The next manifest, and the one before it once more.
    inbox.note_named(&named("T", 8, &[(7, 7)])).await.unwrap();
    inbox.note_named(&named("T", 4, &[(1, 1), (3, 3)])).await.unwrap();
    assert_eq!(first().await, (1, 8, Some(3), vec![(4, 4), (6, 6), (8, 8)], 3));
    let seen = inbox.sequences().await.unwrap();
    assert_eq!((seen[0].named_to, seen[1].named_to), (Some(8), None), "of that epoch");
    inbox.note_named(&named("U", 3, &[])).await.unwrap();
    assert_eq!(inbox.sequences().await.unwrap().len(), 2, "nothing of it ever came");
    let all = [named("T", 8, &[(1, 1), (3, 3), (7, 7)]), named("U", 3, &[])];
    assert_eq!(inbox.named().await.unwrap(), all);
    for number in [4, 6, 8] {
        inbox.admit(vec![numbered(10 + number, "T", "e", number.unsigned_abs())]).await.unwrap();
    }
    end_all(inbox).await;
    assert_eq!(first().await, (1, 8, Some(8), vec![], 0));
}

async fn manifests_are_no_files_of_a_sink(inbox: &impl Inbox) {
    inbox.admit(vec![arrival(1, "x", "T"), arrival(2, "m", MANIFEST_TYPE)]).await.unwrap();
    end_all(inbox).await;
    assert_eq!(inbox.counts().await.unwrap().done, 2);
    assert_eq!(inbox.done_files(0, 10).await.unwrap().len(), 1);
}

async fn numbers_in_any_order_leave_the_same_gaps(inbox: &impl Inbox) {
    // 1 to 100 but for every tenth, in an order that has nothing to do with it.
    let numbers: Vec<u64> = (0..101).map(|place| place * 37 % 101).filter(|number| number % 10 != 0).collect();
    for (place, part) in (0..).zip(numbers.chunks(7)) {
        let burst = (0..).zip(part).map(|(at, number)| numbered(place * 10 + at, "T", "e", *number)).collect();
        inbox.admit(burst).await.unwrap();
    }
    let gaps: Vec<_> = (1..10).map(|gap| (gap * 10, gap * 10)).collect();
    let seen = sequences(inbox).await;
    assert_eq!((seen.len(), &seen[0].5, seen[0].2, seen[0].3), (1, &gaps, 1, 99));
}

async fn the_largest_number_is_one_like_the_others(inbox: &impl Inbox) {
    const LARGEST: u64 = i64::MAX.unsigned_abs();
    for (number, sequence) in [(1, LARGEST - 1), (2, LARGEST), (3, 1)] {
        let admitted = inbox.admit(vec![numbered(number, "T", "e", sequence)]).await.unwrap();
        assert!(matches!(admitted[..], [Admitted::Saved(_)]), "{admitted:?}");
    }
    let seen = sequences(inbox).await.remove(0);
    assert_eq!((seen.2, seen.3, &seen.5[..]), (1, LARGEST, &[(2, LARGEST - 2)][..]));
}

async fn what_was_lost_is_told_until_nobody_wants_it(inbox: &impl Inbox) {
    inbox.admit(vec![numbered(1, "T", "e", 1), numbered(2, "T", "e", 2)]).await.unwrap();
    let is_first = |file: &Leased| file.waybill.sequence.as_ref().is_some_and(|of| of.sequence == 1);
    end_one(inbox, is_first, End::Expire { problem: "gone".to_owned() }).await;
    end_all(inbox).await;
    let wanted = Pruned { files: 1, replayable: 1, ..Pruned::default() };
    let files_only = Retention { history: None, ..at_once() };
    assert_eq!(inbox.prunable(&files_only).await.unwrap(), wanted);
    assert_eq!(prune(inbox, &files_only, |_| {}).await.unwrap(), wanted);
    let of = inbox.sequences().await.unwrap().remove(0);
    assert_eq!((of.applied_to, of.is_complete()), (None, false), "its rows never took effect");
    let lost = of.open.unwrap();
    assert_eq!((lost.sequence, lost.state), (1, State::Expired));
    assert_eq!(inbox.skip(lost.id, "known").await.unwrap(), Asked::Done);
    assert_eq!(prune(inbox, &files_only, |_| {}).await.unwrap().files, 1);
}

/// Everything that is over goes.
fn at_once() -> Retention {
    Retention { history: Some(Duration::ZERO), files: Some(Duration::ZERO), identities: None }
}

async fn nothing_is_pruned_that_is_not_over_or_not_old_enough(inbox: &impl Inbox) {
    let burst = [(1, "saved"), (2, "done"), (3, "done"), (4, "quarantined"), (5, "working")];
    inbox.admit(burst.map(|(number, file)| arrival(number, file, file)).to_vec()).await.unwrap();
    let is = |name: &'static str| move |file: &Leased| file.waybill.metadata.blob_type == name;
    end_one(inbox, is("done"), End::Done(FileDone { bad_rows: 2, ..FileDone::default() })).await;
    let quarantine = End::Quarantine { reason: Reason::NotJson, problem: "a tear".to_owned() };
    end_one(inbox, is("quarantined"), quarantine).await;
    let of_working = Wanted { types: Some(vec!["working".to_owned()]), ..Wanted::default() };
    assert_eq!(inbox.lease(&worker("one"), 1, &of_working).await.unwrap().len(), 1);
    let rows = inbox.list(&ListFilter::default()).await.unwrap();
    let id = |state| rows.iter().find(|row| row.state == state).unwrap().id;
    let (done, quarantined) = (id(State::Done), id(State::Quarantined));
    let lines = async |id| inbox.history(id).await.unwrap().len() as u64;
    let former = lines(done).await - 1;
    let before = inbox.counts().await.unwrap();
    for retention in [
        Retention::default(),
        Retention {
            history: Some(Duration::from_secs(60)),
            files: Some(Duration::from_secs(60)),
            identities: Some(Duration::from_secs(60)),
        },
    ] {
        assert_eq!(inbox.prunable(&retention).await.unwrap(), Pruned::default());
        assert_eq!(prune(inbox, &retention, |_| {}).await.unwrap(), Pruned::default());
    }
    assert_eq!(inbox.counts().await.unwrap(), before);

    let history_only = Retention { files: None, ..at_once() };
    let wanted = Pruned { history: former, ..Pruned::default() };
    let of_quarantined = lines(quarantined).await;
    assert_eq!(inbox.prunable(&history_only).await.unwrap(), wanted, "all but the last of the one that is done");
    assert_eq!(prune(inbox, &history_only, |_| {}).await.unwrap(), wanted);
    assert_eq!(lines(done).await, 1, "how it ended is still told");
    assert_eq!(lines(quarantined).await, of_quarantined);
    assert_eq!(inbox.counts().await.unwrap(), before);

    let wanted = Pruned { files: 2, replayable: 1, ..Pruned::default() };
    assert_eq!(inbox.prunable(&at_once()).await.unwrap(), wanted, "the duplicate, then the file itself");
    assert_eq!(prune(inbox, &at_once(), |_| {}).await.unwrap(), wanted);
    assert!(inbox.get(done).await.unwrap().is_none());
    assert_eq!(lines(done).await, 0);
    let left = inbox.counts().await.unwrap();
    assert_eq!((left.saved, left.working, left.quarantined), (1, 1, 1));
    assert_eq!((left.done, left.duplicate, left.bad_rows), (0, 0, 0));
}

async fn a_file_that_was_pruned_is_known_all_the_same(inbox: &impl Inbox) {
    let burst = vec![numbered(1, "T", "e", 1), numbered(2, "T", "e", 2)];
    let key = match &burst[0].announced {
        Announced::File(waybill) => waybill.key.clone(),
        Announced::Broken(_) => unreachable!(),
    };
    inbox.admit(burst).await.unwrap();
    end_all(inbox).await;
    let known = inbox.known(std::slice::from_ref(&key)).await.unwrap();
    prune(inbox, &at_once(), |_| {}).await.unwrap();
    assert_eq!(inbox.counts().await.unwrap().done, 0);
    assert_eq!(inbox.known(std::slice::from_ref(&key)).await.unwrap(), known, "by the number that it had");
    // The same message once more, and another one for the same file.
    for number in [1, 77] {
        let again = inbox.admit(vec![numbered(number, "T", "e", 1)]).await.unwrap();
        assert!(matches!(again[..], [Admitted::Duplicate { of, .. }] if Some(of) == known[0]), "{again:?}");
    }
    assert_eq!(
        inbox.lease(&worker("one"), 9, &Wanted::default()).await.unwrap().len(),
        0,
        "and it is not worked again"
    );
    assert_eq!(sequences(inbox).await[0].4, Some(2), "what was applied stays so");
    prune(inbox, &at_once(), |_| {}).await.unwrap();
    assert_eq!(inbox.known(std::slice::from_ref(&key)).await.unwrap(), known, "though its duplicates went too");

    let no_longer = Retention { identities: Some(Duration::ZERO), ..Retention::default() };
    assert_eq!(inbox.prunable(&no_longer).await.unwrap().identities, 2);
    assert_eq!(prune(inbox, &no_longer, |_| {}).await.unwrap().identities, 2);
    assert_eq!(inbox.known(&[key]).await.unwrap(), [None]);
}

async fn much_is_pruned_in_small_parts(inbox: &impl Inbox) {
    inbox.admit((0..50).map(|number| arrival(number, &number.to_string(), "T")).collect()).await.unwrap();
    inbox.skip_other_types(&[]).await.unwrap();
    let (mut step, mut parts, mut sum) = (Some(PruneStep::FIRST), 0, Pruned::default());
    while let Some(now) = step {
        let (part, next) = inbox.prune(&at_once(), now, 7).await.unwrap();
        assert!(part.history + part.files + part.identities <= 7, "{part:?}");
        (step, parts) = (next, parts + 1);
        sum += part;
    }
    assert_eq!(sum, Pruned { history: 50, files: 50, ..Pruned::default() });
    assert!(parts >= 16, "{parts}");
}

async fn a_worker_is_known_by_what_it_told_last(inbox: &impl Inbox) {
    assert_eq!(inbox.workers().await.unwrap(), []);
    inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap();
    let (one, two) = (worker("one"), worker("two"));
    inbox.beat(&one, &Beat { receives: true, ..Beat::default() }).await.unwrap();
    let first = inbox.workers().await.unwrap().remove(0);
    assert!(first.receives && !first.works && !first.attached && !first.stopped);
    let nothing = (first.last_contact_at, first.bus_token_ends_at, first.blob_token_ends_at, first.lag);
    assert_eq!((nothing, first.problem, first.files), ((None, None, None, None), None, 0));

    inbox.beat(&two, &Beat { works: true, stopped: true, ..Beat::default() }).await.unwrap();
    inbox.lease(&one, 1, &Wanted::default()).await.unwrap();
    let told = Beat {
        receives: true,
        works: true,
        attached: true,
        last_contact_ago: Some(Duration::from_secs(3)),
        bus_token_remaining: Some(Duration::from_secs(60)),
        blob_token_remaining: Some(Duration::ZERO),
        lag: Some(Duration::from_millis(1500)),
        problem: Some("the sink is down".to_owned()),
        stopped: false,
    };
    inbox.beat(&one, &told).await.unwrap();
    let workers = inbox.workers().await.unwrap();
    let names: Vec<_> = workers.iter().map(|of| (of.worker.0.as_str(), of.stopped, of.files)).collect();
    assert_eq!(names, [("one", false, 1), ("two", true, 0)], "latest first, each once");
    let one = &workers[0];
    assert_eq!(
        (one.started_at, one.lag, one.problem.as_deref()),
        (first.started_at, told.lag, told.problem.as_deref())
    );
    assert!(one.receives && one.works && one.attached && one.seen_at >= first.seen_at);
    let after = |at: Option<OffsetDateTime>| (at.unwrap() - one.seen_at).whole_seconds();
    assert_eq!([one.last_contact_at, one.bus_token_ends_at, one.blob_token_ends_at].map(after), [-3, 60, 0]);
    assert!(one.seen_ago < Duration::from_secs(60));
}

async fn of_very_many_workers_the_latest_are_known(inbox: &impl Inbox) {
    for number in 0..110 {
        inbox.beat(&worker(&format!("worker-{number}")), &Beat::default()).await.unwrap();
    }
    let workers = inbox.workers().await.unwrap();
    assert!((100..=101).contains(&workers.len()), "{}", workers.len());
    assert_eq!(workers[0].worker.0, "worker-109");
    assert!(workers.iter().all(|of| of.worker.0 != "worker-0"));
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
    let [old, new] = ["\"1\"", "\"2\""].map(|etag| BlobSeen { etag: etag.to_owned(), length: 7, checkpoint: None });
    assert!(inbox.note_blob(&first.lease, &old).await.unwrap());
    assert!(inbox.note_blob(&first.lease, &new).await.unwrap());
    assert!(inbox.finish(&first.lease, End::Release).await.unwrap());
    assert!(!inbox.note_blob(&first.lease, &old).await.unwrap(), "the lease is over");
    let second = inbox.lease(&worker("two"), 1, &Wanted::default()).await.unwrap().remove(0);
    assert_eq!(second.blob, Some(new.clone()));
    let columns = Some(vec!["a".to_owned(), "\u{0}é".to_owned()]);
    let checkpoint = Checkpoint { stored: 5, plain: 1 << 40, rows: 3, bad_rows: 1, crc: u32::MAX, columns };
    let midway = BlobSeen { checkpoint: Some(checkpoint), ..new };
    assert!(inbox.note_blob(&second.lease, &midway).await.unwrap());
    assert!(inbox.finish(&second.lease, End::Release).await.unwrap());
    let second = inbox.lease(&worker("two"), 1, &Wanted::default()).await.unwrap().remove(0);
    assert_eq!(second.blob, Some(midway));
    assert!(inbox.finish(&second.lease, End::Done(FileDone::default())).await.unwrap());
    assert_eq!(inbox.reopen(&[second.lease.id]).await.unwrap(), 1);
    let third = inbox.lease(&worker("three"), 1, &Wanted::default()).await.unwrap().remove(0);
    assert_eq!(third.blob, None, "nothing of it took effect in the sink that is there now");
}

async fn a_burst_is_answered_in_its_order(inbox: &impl Inbox) {
    assert_eq!(inbox.admit(Vec::new()).await.unwrap(), []);
    let [Admitted::Saved(known)] = inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap()[..] else { panic!() };
    let burst = vec![
        arrival(2, "b", "T"),
        broken(3),
        arrival(1, "a", "T"),
        arrival(4, "a", "T"),
        arrival(2, "b", "T"),
        arrival(5, "b", "T"),
        broken(3),
    ];
    let answers = inbox.admit(burst.clone()).await.unwrap();
    let [
        Admitted::Saved(b),
        Admitted::Quarantined(quarantined, Reason::NotJson),
        Admitted::AlreadySeen(again),
        Admitted::Duplicate { id: second_a, of: of_a },
        Admitted::AlreadySeen(b_again),
        Admitted::Duplicate { id: second_b, of: of_b },
        Admitted::AlreadySeen(quarantined_again),
    ] = answers[..]
    else {
        panic!("{answers:?}")
    };
    assert_eq!((again, of_a, b_again, of_b, quarantined_again), (known, known, b, b, quarantined));
    assert!(known < b && b < quarantined && quarantined < second_a && second_a < second_b, "as they came: {answers:?}");
    let seen = [b, quarantined, known, second_a, b, second_b, quarantined].map(Admitted::AlreadySeen);
    assert_eq!(inbox.admit(burst).await.unwrap(), seen);
}

async fn bursts_side_by_side_save_each_message_and_each_file_once(inbox: &(impl Inbox + Clone)) {
    const FILES: i64 = 12;
    for round in 0..10 {
        // The same messages in opposite orders; and other messages for the same files.
        let first: Vec<Arrival> =
            (1..=FILES).map(|number| arrival(round * 1_000 + number, &format!("{round}-{number}"), "T")).collect();
        let redelivered: Vec<Arrival> = first.iter().rev().cloned().collect();
        let second: Vec<Arrival> = (1..=FILES)
            .map(|number| arrival(round * 1_000 + 500 + number, &format!("{round}-{}", FILES + 1 - number), "T"))
            .collect();
        let (a, b, c) = tokio::join!(inbox.admit(first), inbox.admit(redelivered), inbox.admit(second));
        let (a, mut b, mut c) = (a.unwrap(), b.unwrap(), c.unwrap());
        b.reverse();
        c.reverse();
        for ((a, b), c) in a.iter().zip(&b).zip(&c) {
            let (message, file) = match (*a, *b) {
                (Admitted::AlreadySeen(seen), new) | (new, Admitted::AlreadySeen(seen)) => match new {
                    Admitted::Saved(id) => (id == seen, id),
                    Admitted::Duplicate { id, of } => (id == seen, of),
                    _ => (false, 0),
                },
                _ => (false, 0),
            };
            assert!(message, "one message, one row: {a:?}, {b:?}");
            match *c {
                Admitted::Saved(id) => assert_eq!(id, file, "the file is the other message's: {a:?}, {b:?}"),
                Admitted::Duplicate { of, .. } => assert_eq!(of, file),
                other => panic!("{other:?} for another message"),
            }
        }
    }
    let counts = inbox.counts().await.unwrap();
    assert_eq!((counts.saved, counts.duplicate), (120, 120));
}

async fn any_text_is_kept_and_no_two_files_are_taken_for_one(inbox: &impl Inbox) {
    let named = |number, name: &str| {
        let mut arrival = arrival(number, "a", "T");
        let Announced::File(waybill) = &mut arrival.announced else { unreachable!() };
        waybill.key = FileKey::of_uri(name);
        // A correlation id may be any text that JSON can write.
        waybill.body = format!(
            r#"{{"blobType":"T","correlationId":"c\u0000{number}","uri":"https://a.example/c/a","contentType":"text/csv"}}"#
        );
        waybill.metadata = Metadata::parse(waybill.body.as_bytes()).unwrap();
        arrival
    };
    // Of the length of the longest addresses, and without repetitions.
    let long: String =
        (0..3_000_u32).map(|at| char::from(b'a' + (at.wrapping_mul(2_654_435_761) >> 24) as u8 % 26)).collect();
    let names = ["zero\0", "zero\u{fffd}", "zero\u{fffd}0", "zero\u{fffd}\u{fffd}", &long];
    let burst = (1..).zip(names).map(|(number, name)| named(number, name)).collect();
    let answers = inbox.admit(burst).await.unwrap();
    assert!(answers.iter().all(|answer| matches!(answer, Admitted::Saved(_))), "{answers:?}");
    let keys: Vec<FileKey> = names.iter().map(|name| FileKey::of_uri(name)).collect();
    assert!(inbox.known(&keys).await.unwrap().iter().all(Option::is_some));
    let leased = inbox.lease(&worker("w"), 10, &Wanted::default()).await.unwrap();
    assert_eq!(leased.iter().map(|file| file.waybill.key.clone()).collect::<Vec<_>>(), keys, "as they went in");
    let problem = "a problem with a zero: \0".to_owned();
    assert!(inbox.finish(&leased[0].lease, End::Expire { problem }).await.unwrap());
    assert!(inbox.get(leased[0].lease.id).await.unwrap().unwrap().problem.unwrap().starts_with("a problem with"));
}

async fn a_lease_is_named_by_its_worker_and_its_time(inbox: &impl Inbox) {
    inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap();
    let held = inbox.lease(&worker("one"), 1, &Wanted::default()).await.unwrap().remove(0).lease;
    let blob = BlobSeen { etag: "\"1\"".to_owned(), length: 7, checkpoint: None };
    for other in [
        Lease { worker: worker("two"), ..held.clone() },
        Lease { leased_at: held.leased_at - Duration::from_micros(1), ..held.clone() },
        Lease { id: held.id + 1, ..held.clone() },
    ] {
        assert!(inbox.renew(&other, 1).await.unwrap().is_none(), "{other:?}");
        assert!(!inbox.note_blob(&other, &blob).await.unwrap(), "{other:?}");
        assert!(!inbox.finish(&other, End::Done(FileDone::default())).await.unwrap(), "{other:?}");
    }
    let row = inbox.get(held.id).await.unwrap().unwrap();
    assert_eq!((row.state, row.rows, row.worker.as_deref()), (State::Working, 0, Some("one")));
    assert!(inbox.finish(&held, End::Done(FileDone::default())).await.unwrap());
}

async fn a_lease_is_trusted_from_before_it_was_asked_for(inbox: &impl Inbox, lease: Duration) {
    inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap();
    let asked = Instant::now();
    let held = inbox.lease(&worker("one"), 1, &Wanted::default()).await.unwrap().remove(0).lease;
    let answered = Instant::now();
    assert!(
        held.trusted_until > asked && held.trusted_until < answered + lease,
        "a worker lets go before its lease ends"
    );
    assert_eq!(held.until - held.leased_at, lease);
    let renewed = inbox.renew(&held, 0).await.unwrap().unwrap();
    assert!(renewed.trusted_until > held.trusted_until && renewed.until > held.until);
    assert_eq!(renewed.leased_at, held.leased_at, "it is the same lease");
}

async fn what_is_due_longest_is_leased_first(inbox: &impl Inbox) {
    inbox.admit((1..=4).map(|number| arrival(number, &number.to_string(), "T")).collect()).await.unwrap();
    let take = async |most| {
        let leased = inbox.lease(&worker("w"), most, &Wanted::default()).await.unwrap();
        let numbers: Vec<_> = leased.iter().map(|file| file.sequence_number).collect();
        (numbers, leased)
    };
    let (numbers, first) = take(2).await;
    assert_eq!(numbers, [1, 2], "in the order of their coming");
    // Long enough for the next call, however slow.
    let soon = End::Later { after: Duration::from_secs(2), problem: "busy".to_owned(), counts: false };
    assert!(inbox.finish(&first[0].lease, soon).await.unwrap());
    assert!(inbox.finish(&first[1].lease, End::Release).await.unwrap());
    while inbox.pending(&Wanted::default()).await.unwrap().due < 4 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(take(4).await.0, [3, 4, 2, 1], "then in the order in which they became due");
}

/// One after the other, each done before the next is taken: by type and number.
async fn taken_singly(inbox: &impl Inbox, many: usize, wanted: &Wanted) -> Vec<(String, i64)> {
    let mut taken = Vec::new();
    for _ in 0..many {
        for file in inbox.lease(&worker("w"), 1, wanted).await.unwrap() {
            assert!(inbox.finish(&file.lease, End::Done(FileDone::default())).await.unwrap());
            taken.push((file.waybill.metadata.blob_type, file.sequence_number));
        }
    }
    taken
}

async fn a_type_with_many_files_holds_up_no_other(inbox: &impl Inbox) {
    for burst in 0..10 {
        let many = (1..=100).map(|number| burst * 100 + number);
        inbox.admit(many.map(|number| arrival(number, &number.to_string(), "Many")).collect()).await.unwrap();
    }
    inbox
        .admit(vec![arrival(1_001, "x", "Few"), arrival(1_002, "y", "Few"), arrival(1_003, "z", "One")])
        .await
        .unwrap();
    let taken = taken_singly(inbox, 9, &Wanted::default()).await;
    let of = |blob_type: &str| -> Vec<i64> {
        taken.iter().filter(|(of, _)| of == blob_type).map(|(_, number)| *number).collect()
    };
    assert_eq!((of("Few"), of("One")), (vec![1_001, 1_002], vec![1_003]), "{taken:?}");
    assert_eq!(of("Many"), (1..=6).collect::<Vec<_>>(), "of each what is due longest");
    // Types that nobody wants have no turn.
    inbox
        .admit(vec![arrival(1_004, "v", "Few"), arrival(1_005, "w", "Foo"), arrival(1_006, "u", "Foo")])
        .await
        .unwrap();
    let wanted = Wanted { types: Some(vec!["F*".to_owned()]), ..Wanted::default() };
    let taken = taken_singly(inbox, 4, &wanted).await;
    assert_eq!(taken.iter().filter(|(blob_type, _)| blob_type == "Foo").count(), 2, "{taken:?}");
    assert_eq!(taken.len(), 3, "{taken:?}");
}

async fn files_of_several_types_are_dealt_out_together(inbox: &impl Inbox) {
    inbox.admit((1..=50).map(|number| arrival(number, &number.to_string(), "Many")).collect()).await.unwrap();
    inbox.admit((51..=54).map(|number| arrival(number, &number.to_string(), "Few")).collect()).await.unwrap();
    inbox.admit(vec![arrival(55, "55", "One")]).await.unwrap();
    let mut taken: Vec<i64> = Vec::new();
    let leased = inbox.lease(&worker("w"), 7, &Wanted::default()).await.unwrap();
    taken.extend(leased.iter().map(|file| file.sequence_number));
    taken.sort_unstable();
    assert_eq!(taken, [1, 2, 3, 51, 52, 53, 55], "three of each, where there are");
    let rest = inbox.lease(&worker("w"), 100, &Wanted::default()).await.unwrap();
    assert_eq!(rest.len(), 48, "and everything in the end");
}

async fn types_that_wait_for_later_tries_hide_no_work(inbox: &impl Inbox) {
    // More types than are looked at.
    let types = (1..=90).map(|number| arrival(number, &number.to_string(), &format!("T{number:03}")));
    inbox.admit(types.collect()).await.unwrap();
    let later = || End::Later { after: Duration::from_secs(3600), problem: "busy".to_owned(), counts: true };
    // Few at a time: a lease is short, and a disk may be slow.
    let mut taken = 0;
    loop {
        let held = inbox.lease(&worker("w"), 5, &Wanted::default()).await.unwrap();
        if held.is_empty() {
            break;
        }
        for file in held {
            assert!(inbox.finish(&file.lease, later()).await.unwrap());
            taken += 1;
        }
    }
    assert_eq!(taken, 90, "each once");
    inbox.admit(vec![arrival(91, "a", "A"), arrival(92, "z", "Z"), arrival(93, "t", "T045")]).await.unwrap();
    let mut taken: Vec<String> =
        taken_singly(inbox, 4, &Wanted::default()).await.into_iter().map(|(blob_type, _)| blob_type).collect();
    taken.sort();
    assert_eq!(taken, ["A", "T045", "Z"]);
}

/// A message for a file whose blob may be deleted after this time from now.
fn expiring(sequence_number: i64, blob_type: &str, after: time::Duration) -> Arrival {
    let mut arrival = arrival(sequence_number, &sequence_number.to_string(), blob_type);
    if let Announced::File(waybill) = &mut arrival.announced {
        waybill.expires_at = Some(OffsetDateTime::now_utc() + after);
    }
    arrival
}

async fn files_whose_time_is_short_come_first_and_hold_up_no_other(inbox: &impl Inbox) {
    inbox.admit((1..=9).map(|number| arrival(number, &number.to_string(), "T")).collect()).await.unwrap();
    let hours = time::Duration::hours;
    // One has time, and one is over: it is gone, or will be there for those that come in their order.
    inbox.admit(vec![expiring(10, "T", time::Duration::days(30)), expiring(11, "T", hours(-1))]).await.unwrap();
    let urgent = (12..=20).map(|number| expiring(number, "Urgent", hours(32 - number)));
    inbox.admit(urgent.collect()).await.unwrap();
    let leased = inbox.lease(&worker("w"), 4, &Wanted::default()).await.unwrap();
    let numbers: Vec<_> = leased.iter().map(|file| file.sequence_number).collect();
    assert_eq!(numbers[..2], [20, 19], "half of them, the most urgent first");
    assert!(numbers[2..].iter().any(|number| *number <= 9), "{numbers:?}");
    for file in leased {
        assert!(inbox.finish(&file.lease, End::Done(FileDone::default())).await.unwrap());
    }
    // The urgent ones are of one type, the others of another: both go on, whoever takes one at a time.
    let singly: Vec<i64> =
        taken_singly(inbox, 8, &Wanted::default()).await.into_iter().map(|(_, number)| number).collect();
    let (first, others): (Vec<i64>, Vec<i64>) = singly.iter().partition(|number| **number >= 12);
    assert!(others.len() >= 2 && others.is_sorted(), "{singly:?}");
    assert!(first.len() >= 4, "{singly:?}");
    let rest = inbox.lease(&worker("w"), 100, &Wanted::default()).await.unwrap();
    assert_eq!(rest.len(), 20 - 4 - 8);
}

async fn urgent_files_that_are_not_wanted_or_not_due_are_not_taken(inbox: &impl Inbox) {
    let hour = time::Duration::hours(1);
    inbox.admit(vec![arrival(1, "1", "T"), expiring(2, "Urgent", hour), expiring(3, "Other", hour)]).await.unwrap();
    let wanted = Wanted { types: Some(vec!["T".to_owned(), "Urgent".to_owned()]), ..Wanted::default() };
    let held = inbox.lease(&worker("w"), 2, &wanted).await.unwrap();
    assert_eq!(held.iter().map(|file| file.sequence_number).collect::<Vec<_>>(), [2, 1]);
    assert!(inbox.lease(&worker("w"), 2, &wanted).await.unwrap().is_empty(), "at work, and not wanted");
    let later = End::Later { after: Duration::from_secs(3600), problem: "busy".to_owned(), counts: true };
    assert!(inbox.finish(&held[0].lease, later).await.unwrap());
    assert!(inbox.lease(&worker("w"), 2, &wanted).await.unwrap().is_empty(), "not due");
    let since = Wanted { since: Some(held[0].received_at + Duration::from_secs(3600)), ..Wanted::default() };
    assert!(inbox.lease(&worker("w"), 2, &since).await.unwrap().is_empty(), "received before");
    assert_eq!(inbox.lease(&worker("w"), 2, &Wanted::default()).await.unwrap().len(), 1);
}

async fn the_history_says_when_and_why(inbox: &impl Inbox) {
    inbox.admit(vec![arrival(1, "a", "T")]).await.unwrap();
    let take = async |name: &str| inbox.lease(&worker(name), 1, &Wanted::default()).await.unwrap().remove(0).lease;
    let first = take("one").await;
    let later = End::Later { after: Duration::ZERO, problem: "storage is busy".to_owned(), counts: true };
    assert!(inbox.finish(&first, later).await.unwrap());
    let quarantine = End::Quarantine { reason: Reason::CorruptGzip, problem: "byte 7".to_owned() };
    assert!(inbox.finish(&take("two").await, quarantine).await.unwrap());
    assert_eq!(inbox.retry(first.id).await.unwrap(), Asked::Done);
    assert!(inbox.finish(&take("three").await, End::Done(FileDone::default())).await.unwrap());
    assert_eq!(inbox.reopen(&[first.id]).await.unwrap(), 1);

    let history = inbox.history(first.id).await.unwrap();
    let said: Vec<_> = history
        .iter()
        .map(|entry| (entry.state, entry.reason, entry.problem.as_deref(), entry.worker.as_deref()))
        .collect();
    assert_eq!(
        said,
        [
            (State::Saved, None, None, None),
            (State::Working, None, None, Some("one")),
            (State::Saved, None, Some("storage is busy"), Some("one")),
            (State::Working, None, None, Some("two")),
            (State::Quarantined, Some(Reason::CorruptGzip), Some("byte 7"), Some("two")),
            (State::Saved, None, Some("a person wants it tried again"), None),
            (State::Working, None, None, Some("three")),
            (State::Done, None, None, Some("three")),
            (State::Saved, None, Some("the sink does not know this file"), None),
        ]
    );
    assert!(history.is_sorted_by_key(|entry| entry.at), "{history:?}");
    assert_eq!(history[1].at, first.leased_at);
    let row = inbox.get(first.id).await.unwrap().unwrap();
    assert_eq!((row.received_at, row.changed_at), (history[0].at, history[8].at));
    assert_eq!((row.state, row.attempts, row.worker), (State::Saved, 3, None));
    assert!(inbox.history(first.id + 1).await.unwrap().is_empty());
}

async fn counts_are_right_after_everything(inbox: &impl Inbox) {
    inbox.admit((1..=8).map(|number| arrival(number, &number.to_string(), "T")).collect()).await.unwrap();
    inbox.admit(vec![arrival(9, "1", "T"), arrival(10, "10", "Other"), arrival(1, "1", "T")]).await.unwrap();
    assert_eq!(inbox.skip_other_types(&["T".to_owned()]).await.unwrap(), 1);
    let leased = inbox.lease(&worker("w"), 6, &Wanted::default()).await.unwrap();
    let done = FileDone { rows: 9, filtered_rows: Some(4), ..FileDone::default() };
    let problem = || "because".to_owned();
    let ends = [
        End::Done(done),
        End::Done(FileDone { filtered_rows: None, ..done }),
        End::Quarantine { reason: Reason::CorruptGzip, problem: problem() },
        End::Expire { problem: problem() },
        End::Later { after: Duration::from_secs(3600), problem: problem(), counts: true },
    ];
    for (file, end) in leased.iter().zip(ends) {
        assert!(inbox.finish(&file.lease, end).await.unwrap());
    }
    let counts = inbox.counts().await.unwrap();
    assert_eq!((counts.saved, counts.working, counts.done, counts.quarantined), (3, 1, 2, 1), "{counts:?}");
    assert_eq!((counts.skipped, counts.duplicate, counts.expired, counts.filtered_rows), (1, 1, 1, 4), "{counts:?}");
    let pending = inbox.pending(&Wanted::default()).await.unwrap();
    assert_eq!((pending.working, pending.due, pending.later), (1, 2, 1));
    assert!(pending.next_due_in.is_some());
    for (state, many) in [(State::Saved, 3), (State::Working, 1), (State::Done, 2), (State::Duplicate, 1)] {
        let listed = inbox.list(&ListFilter { state: Some(state), ..ListFilter::default() }).await.unwrap();
        assert_eq!(listed.len(), many, "{state}");
    }
    let types = inbox.types().await.unwrap();
    assert_eq!((types[1].blob_type.as_str(), types[1].files, types[1].done, types[1].rows), ("T", 8, 2, 18));
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
    let blob = BlobSeen { etag: "\"1\"".to_owned(), length: 7, checkpoint: None };
    assert!(!inbox.note_blob(&first, &blob).await.unwrap(), "nor note a blob");
    assert_eq!(inbox.pending(&Wanted::default()).await.unwrap().due, 1, "it waits for the next worker");
    assert!(!inbox.finish(&first, End::Done(FileDone::default())).await.unwrap(), "nor finished, while nobody has it");
    let taken = inbox.lease(&worker("same"), 1, &Wanted::default()).await.unwrap().remove(0);
    assert_eq!((taken.attempts, taken.blob), (0, None), "what lapsed left nothing behind");
    let second = taken.lease;
    assert_ne!(first.leased_at, second.leased_at);
    assert!(inbox.renew(&first, 1).await.unwrap().is_none());
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

async fn files_that_never_failed_can_be_asked_for(inbox: &impl Inbox) {
    let hour = time::Duration::hours(1);
    inbox
        .admit(vec![arrival(1, "a", "T"), expiring(2, "T", hour), arrival(3, "c", "U"), arrival(4, "d", "T")])
        .await
        .unwrap();
    let untried = Wanted { untried: true, ..Wanted::default() };
    for file in inbox.lease(&worker("w"), 3, &untried).await.unwrap() {
        let later = End::Later { after: Duration::ZERO, problem: "busy".to_owned(), counts: false };
        assert!(inbox.finish(&file.lease, later).await.unwrap());
    }
    let left = inbox.lease(&worker("w"), 4, &untried).await.unwrap();
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(inbox.lease(&worker("w"), 4, &untried).await.unwrap().is_empty());
    assert_eq!(inbox.pending(&untried).await.unwrap().due, 0);
    assert_eq!(inbox.pending(&Wanted::default()).await.unwrap().due, 3);
    assert!(inbox.finish(&left[0].lease, End::Release).await.unwrap());
    assert_eq!(inbox.lease(&worker("w"), 4, &untried).await.unwrap().len(), 1, "given back is not failed");
}

async fn only_wanted_types_are_leased(inbox: &impl Inbox) {
    inbox.admit(vec![arrival(1, "a", "Price"), arrival(2, "b", "Item")]).await.unwrap();
    let wanted = Wanted { types: Some(vec!["Item".to_owned()]), ..Wanted::default() };
    let leased = inbox.lease(&worker("w"), 10, &wanted).await.unwrap();
    assert_eq!(leased.len(), 1);
    assert_eq!(leased[0].waybill.metadata.blob_type, "Item");
    assert_eq!(inbox.pending(&wanted).await.unwrap().due, 0);
    assert_eq!(inbox.pending(&Wanted::default()).await.unwrap().due, 1);
    let pattern = Wanted { types: Some(vec!["X".to_owned(), "Pr*".to_owned()]), ..Wanted::default() };
    assert_eq!(inbox.pending(&pattern).await.unwrap().due, 1, "a star stands for any characters");
    let other =
        Wanted { types: Some(vec!["[P]r?ce".to_owned(), "pr*".to_owned(), "[P]*".to_owned()]), ..Wanted::default() };
    assert_eq!(inbox.pending(&other).await.unwrap().due, 0, "and nothing else stands for others");
    let since = Wanted { since: Some(leased[0].received_at + Duration::from_secs(60)), ..Wanted::default() };
    assert!(inbox.lease(&worker("w"), 10, &since).await.unwrap().is_empty());
}

async fn other_types_are_skipped_and_can_be_listed(inbox: &impl Inbox) {
    inbox.admit(vec![arrival(1, "a", "Price"), arrival(2, "b", "Item")]).await.unwrap();
    assert_eq!(inbox.skip_other_types(&["*".to_owned()]).await.unwrap(), 0);
    assert_eq!(inbox.skip_other_types(&["It*m".to_owned()]).await.unwrap(), 1);
    let skipped = inbox.list(&ListFilter { state: Some(State::Skipped), ..ListFilter::default() }).await.unwrap();
    assert_eq!(skipped[0].blob_type.as_deref(), Some("Price"));
    assert_eq!(skipped[0].problem.as_deref(), Some("outside the configured types"));
    assert_eq!(inbox.history(skipped[0].id).await.unwrap().last().unwrap().state, State::Skipped);
    assert_eq!(inbox.lease(&worker("w"), 10, &Wanted::default()).await.unwrap().len(), 1);
    assert_eq!(inbox.skip_other_types(&[]).await.unwrap(), 0, "what is worked is left alone");

    // Nothing but the star stands for others.
    let names = ["a_b", "axb", "a%b", "a\\\\b", "A_B"];
    inbox.admit((3..).zip(names).map(|(number, name)| arrival(number, name, name)).collect()).await.unwrap();
    assert_eq!(inbox.skip_other_types(&["a_b".to_owned(), "a%*".to_owned(), "a\\*".to_owned()]).await.unwrap(), 2);
    let saved = inbox.list(&ListFilter { state: Some(State::Saved), ..ListFilter::default() }).await.unwrap();
    let left: Vec<_> = saved.iter().filter_map(|row| row.blob_type.as_deref()).collect();
    assert_eq!(left, ["a\\b", "a%b", "a_b"]);
}

async fn types_are_summed_up(inbox: &impl Inbox) {
    inbox.admit(vec![arrival(1, "a", "Price"), arrival(2, "b", "Item"), arrival(3, "c", "Item")]).await.unwrap();
    inbox.admit(vec![arrival(4, "a", "Price")]).await.unwrap();
    let wanted = Wanted { types: Some(vec!["Item".to_owned()]), ..Wanted::default() };
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
    assert_eq!(inbox.reopen(&[done[0].0, done[1].0 + 1000]).await.unwrap(), 0, "neither one at work nor one unknown");
    assert_eq!(inbox.done_files(0, 10).await.unwrap(), done[1..]);
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

async fn what_files_waited_for_has_come(inbox: &impl Inbox) {
    let hour = Duration::from_secs(3600);
    let ids = inbox.admit(vec![arrival(1, "a", "T"), arrival(2, "b", "T"), arrival(3, "c", "T")]).await.unwrap();
    let [Admitted::Saved(a), Admitted::Saved(b), Admitted::Saved(c)] = ids[..] else { panic!("{ids:?}") };
    for file in inbox.lease(&worker("w"), 10, &Wanted::default()).await.unwrap() {
        if file.lease.id != c {
            let end = End::Later { after: hour, problem: "not there".to_owned(), counts: true };
            inbox.finish(&file.lease, end).await.unwrap();
        }
    }
    assert_eq!(inbox.hasten(&[a, c, c + 1000]).await.unwrap(), 1, "neither one at work nor one unknown");
    assert_eq!(inbox.hasten(&[a]).await.unwrap(), 0, "it is due");
    let leased = inbox.lease(&worker("w"), 10, &Wanted::default()).await.unwrap();
    // The lease of the third may have ended meanwhile.
    assert!(leased.iter().any(|file| (file.lease.id, file.attempts) == (a, 1)), "{leased:?}");
    assert_eq!(inbox.get(b).await.unwrap().unwrap().state, State::Saved);
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
