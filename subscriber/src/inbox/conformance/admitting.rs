//! Messages as they come: once, whatever they hold.

use std::time::Duration;

use waybill_contracts::{Metadata, Reason};

use super::{arrival, broken, worker};
use crate::inbox::{
    Admitted, Announced, Arrival, Asked, BrokenMessage, End, FileKey, Inbox, ListFilter, State, Wanted,
};

pub(super) async fn files_are_known_by_their_keys(inbox: &impl Inbox) {
    let answers = inbox.admit(vec![arrival(1, "a", "T"), arrival(2, "a", "T"), arrival(3, "b", "T")]).await.unwrap();
    let [Admitted::Saved(a), Admitted::Duplicate { .. }, Admitted::Saved(b)] = answers[..] else {
        panic!("{answers:?}")
    };
    let keys = ["b", "none", "a"].map(FileKey::of_uri);
    assert_eq!(inbox.known(&keys).await.unwrap(), [Some(b), None, Some(a)], "the file's row, not its duplicate's");
    assert_eq!(inbox.known(&[]).await.unwrap(), []);
}

pub(super) async fn a_burst_is_answered_in_its_order(inbox: &impl Inbox) {
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

pub(super) async fn bursts_side_by_side_save_each_message_and_each_file_once(inbox: &(impl Inbox + Clone)) {
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

pub(super) async fn any_text_is_kept_and_no_two_files_are_taken_for_one(inbox: &impl Inbox) {
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

pub(super) async fn a_redelivery_adds_no_row(inbox: &impl Inbox) {
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

pub(super) async fn a_second_message_for_a_file_is_a_duplicate(inbox: &impl Inbox) {
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

pub(super) async fn a_message_that_is_no_waybill_is_kept_with_its_reason(inbox: &impl Inbox) {
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
