//! Publishers' numbers, and what manifests say of them.

use waybill_contracts::{MANIFEST_TYPE, Reason};

use super::{arrival, end_all, end_one};
use crate::inbox::{
    Admitted, Announced, Arrival, End, FileDone, Inbox, Leased, PublisherSequence, SequenceNamed, State,
};

/// A message of a publisher's sequence.
pub(super) fn numbered(number: i64, blob_type: &str, epoch: &str, sequence: u64) -> Arrival {
    let mut arrival = arrival(number, &format!("{blob_type}-{epoch}-{sequence}"), blob_type);
    let Announced::File(waybill) = &mut arrival.announced else { unreachable!() };
    waybill.sequence = Some(PublisherSequence { publisher: "shop".to_owned(), epoch: epoch.to_owned(), sequence });
    arrival
}

/// Type, epoch, first, last, applied to, and the gaps of each sequence.
pub(super) async fn sequences(inbox: &impl Inbox) -> Vec<(String, String, u64, u64, Option<u64>, Vec<(u64, u64)>)> {
    let seen = inbox.sequences().await.unwrap().into_iter();
    seen.map(|of| {
        let gaps: Vec<_> = of.gaps.iter().map(|gap| (gap.from, gap.to)).collect();
        let missing: u64 = gaps.iter().map(|(from, to)| to - from + 1).sum();
        assert!(of.missing == missing || gaps.len() == 10, "{of:?}");
        (of.blob_type, of.epoch, of.first, of.last, of.applied_to, gaps)
    })
    .collect()
}

pub(super) async fn numbers_that_never_came_are_told_and_up_to_which_one_all_is_applied(inbox: &impl Inbox) {
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

pub(super) fn named(blob_type: &str, up_to: u64, void: &[(u64, u64)]) -> SequenceNamed {
    let (blob_type, publisher, epoch) = (blob_type.to_owned(), "shop".to_owned(), "e".to_owned());
    SequenceNamed { blob_type, publisher, epoch, up_to, void: void.to_vec() }
}

pub(super) async fn what_manifests_say_fills_gaps_and_shows_others(inbox: &impl Inbox) {
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

pub(super) async fn manifests_are_no_files_of_a_sink(inbox: &impl Inbox) {
    inbox.admit(vec![arrival(1, "x", "T"), arrival(2, "m", MANIFEST_TYPE)]).await.unwrap();
    end_all(inbox).await;
    assert_eq!(inbox.counts().await.unwrap().done, 2);
    assert_eq!(inbox.done_files(0, 10).await.unwrap().len(), 1);
}

pub(super) async fn numbers_in_any_order_leave_the_same_gaps(inbox: &impl Inbox) {
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

pub(super) async fn the_largest_number_is_one_like_the_others(inbox: &impl Inbox) {
    const LARGEST: u64 = i64::MAX.unsigned_abs();
    for (number, sequence) in [(1, LARGEST - 1), (2, LARGEST), (3, 1)] {
        let admitted = inbox.admit(vec![numbered(number, "T", "e", sequence)]).await.unwrap();
        assert!(matches!(admitted[..], [Admitted::Saved(_)]), "{admitted:?}");
    }
    let seen = sequences(inbox).await.remove(0);
    assert_eq!((seen.2, seen.3, &seen.5[..]), (1, LARGEST, &[(2, LARGEST - 2)][..]));
}
