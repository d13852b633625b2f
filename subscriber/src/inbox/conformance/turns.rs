//! Whose turn it is: types, what is due longest, what is urgent, what is wanted.

use std::time::Duration;

use time::OffsetDateTime;

use super::{arrival, worker};
use crate::inbox::{Admitted, Announced, Arrival, End, FileDone, Inbox, Pending, Wanted};

pub(super) async fn what_is_due_longest_is_leased_first(inbox: &impl Inbox) {
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
pub(super) async fn taken_singly(inbox: &impl Inbox, many: usize, wanted: &Wanted) -> Vec<(String, i64)> {
    let mut taken = Vec::new();
    for _ in 0..many {
        for file in inbox.lease(&worker("w"), 1, wanted).await.unwrap() {
            assert!(inbox.finish(&file.lease, End::Done(FileDone::default())).await.unwrap());
            taken.push((file.waybill.metadata.blob_type, file.sequence_number));
        }
    }
    taken
}

pub(super) async fn a_type_with_many_files_holds_up_no_other(inbox: &impl Inbox) {
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

pub(super) async fn files_of_several_types_are_dealt_out_together(inbox: &impl Inbox) {
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

pub(super) async fn types_that_wait_for_later_tries_hide_no_work(inbox: &impl Inbox) {
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

pub(super) async fn types_that_nobody_wants_hide_no_work(inbox: &impl Inbox) {
    // More of them than are looked at, before, between and behind the wanted ones.
    let other = |number: i64| {
        arrival(number, &number.to_string(), &format!("{}{number:03}", ["A", "N", "Z"][number as usize % 3]))
    };
    inbox.admit((1..=210).map(other).collect()).await.unwrap();
    let of = |number, blob_type| arrival(number, &number.to_string(), blob_type);
    inbox.admit(vec![of(301, "M"), of(302, "Y"), of(303, "M"), of(304, "Y"), of(305, "M")]).await.unwrap();
    let wanted = Wanted { types: Some(vec!["M".to_owned(), "Y*".to_owned()]), ..Wanted::default() };
    let mut taken = Vec::new();
    for most in [1, 2, 9] {
        let leased = inbox.lease(&worker("w"), most, &wanted).await.unwrap();
        taken.extend(leased.iter().map(|file| file.sequence_number));
        for file in leased {
            assert!(inbox.finish(&file.lease, End::Done(FileDone::default())).await.unwrap());
        }
    }
    taken.sort_unstable();
    assert_eq!(taken, [301, 302, 303, 304, 305]);
    assert!(inbox.lease(&worker("w"), 9, &wanted).await.unwrap().is_empty());
}

/// A message for a file whose blob may be deleted after this time from now.
pub(super) fn expiring(sequence_number: i64, blob_type: &str, after: time::Duration) -> Arrival {
    let mut arrival = arrival(sequence_number, &sequence_number.to_string(), blob_type);
    if let Announced::File(waybill) = &mut arrival.announced {
        waybill.expires_at = Some(OffsetDateTime::now_utc() + after);
    }
    arrival
}

pub(super) async fn files_whose_time_is_short_come_first_and_hold_up_no_other(inbox: &impl Inbox) {
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

pub(super) async fn urgent_files_that_are_not_wanted_or_not_due_are_not_taken(inbox: &impl Inbox) {
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

pub(super) async fn files_that_never_failed_can_be_asked_for(inbox: &impl Inbox) {
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

pub(super) async fn only_wanted_types_are_leased(inbox: &impl Inbox) {
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

pub(super) async fn rows_that_are_named_are_leased_and_no_others(inbox: &impl Inbox) {
    let burst = (1..=20).map(|number| arrival(number, &number.to_string(), if number % 2 == 0 { "T" } else { "U" }));
    let saved = inbox.admit(burst.collect()).await.unwrap();
    let id = |number: usize| match saved[number - 1] {
        Admitted::Saved(id) => id,
        other => panic!("{other:?}"),
    };
    // One twice, and one that nobody knows.
    let ids = vec![id(7), id(3), id(4), id(3), id(20) + 1000];
    let named = Wanted { ids: Some(ids), ..Wanted::default() };
    let pending = async |wanted: &Wanted| {
        let Pending { working, due, later, .. } = inbox.pending(wanted).await.unwrap();
        (working, due, later)
    };
    assert_eq!(pending(&named).await, (0, 3, 0));
    let of_u = Wanted { types: Some(vec!["U".to_owned()]), ..named.clone() };
    let first = inbox.lease(&worker("w"), 1, &of_u).await.unwrap();
    assert_eq!(first.iter().map(|file| file.sequence_number).collect::<Vec<_>>(), [3], "what is due longest");
    let later = End::Later { after: Duration::from_secs(3600), problem: "busy".to_owned(), counts: true };
    assert!(inbox.finish(&first[0].lease, later).await.unwrap());
    assert_eq!(pending(&named).await, (0, 2, 1));
    let untried = Wanted { untried: true, ..named.clone() };
    assert_eq!(inbox.lease(&worker("w"), 1, &untried).await.unwrap().len(), 1);
    let rest = inbox.lease(&worker("w"), 9, &named).await.unwrap();
    assert_eq!(rest.len(), 1, "{rest:?}");
    assert!(inbox.lease(&worker("w"), 9, &named).await.unwrap().is_empty(), "at work, not due, or unknown");
    assert_eq!(pending(&named).await, (2, 0, 1));
    let none = Wanted { ids: Some(Vec::new()), ..Wanted::default() };
    assert!(inbox.lease(&worker("w"), 9, &none).await.unwrap().is_empty());
    assert_eq!(pending(&none).await, (0, 0, 0));
    assert_eq!(inbox.lease(&worker("w"), 99, &Wanted::default()).await.unwrap().len(), 17);
}
