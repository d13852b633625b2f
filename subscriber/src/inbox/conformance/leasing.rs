//! A file is in one hand only, for as long as its lease lasts.

use std::time::Duration;

use tokio::time::Instant;
use waybill_formats::seek::Checkpoint;

use super::{arrival, worker};
use crate::inbox::{BlobSeen, End, FileDone, HISTORY_KEPT, Inbox, Lease, State, Wanted};

pub(super) async fn a_noted_blob_is_told_to_the_next_worker(inbox: &impl Inbox) {
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

pub(super) async fn a_lease_is_named_by_its_worker_and_its_time(inbox: &impl Inbox) {
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

pub(super) async fn a_lease_is_trusted_from_before_it_was_asked_for(inbox: &impl Inbox, lease: Duration) {
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

pub(super) async fn a_leased_file_is_leased_to_nobody_else(inbox: &impl Inbox) {
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

pub(super) async fn a_lapsed_lease_changes_nothing(inbox: &impl Inbox, lease: Duration) {
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

pub(super) async fn a_renewed_lease_does_not_lapse(inbox: &impl Inbox, lease: Duration) {
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

pub(super) async fn a_file_put_off_is_not_leased_before_it_is_due(inbox: &impl Inbox) {
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

pub(super) async fn a_file_that_is_tried_for_ever_keeps_the_begin_and_the_latest_of_its_history(inbox: &impl Inbox) {
    inbox.admit(vec![arrival(1, "a", "T"), arrival(2, "b", "U")]).await.unwrap();
    let of_t = Wanted { types: Some(vec!["T".to_owned()]), ..Wanted::default() };
    let tries = HISTORY_KEPT / 2 + 20;
    let mut id = 0;
    for number in 1..=tries {
        let held = inbox.lease(&worker("w"), 1, &of_t).await.unwrap().remove(0).lease;
        id = held.id;
        let later = End::Later { after: Duration::ZERO, problem: format!("try {number}"), counts: number % 2 == 0 };
        assert!(inbox.finish(&held, later).await.unwrap());
    }
    let history = inbox.history(id).await.unwrap();
    let kept = HISTORY_KEPT as usize;
    assert!((kept..=kept + 2).contains(&history.len()), "{} lines", history.len());
    assert_eq!((history[0].state, history[0].problem.as_deref()), (State::Saved, None), "how it came");
    let last: Vec<_> = history.iter().filter_map(|entry| entry.problem.as_deref()).collect();
    assert_eq!(last.last().copied(), Some(format!("try {tries}").as_str()));
    assert!(history.is_sorted_by_key(|entry| entry.at) && last.len() + 2 >= kept / 2, "{last:?}");
    let held = inbox.lease(&worker("w"), 1, &of_t).await.unwrap().remove(0).lease;
    assert!(inbox.finish(&held, End::Done(FileDone::default())).await.unwrap());
    assert_eq!(inbox.history(id).await.unwrap().last().unwrap().state, State::Done);
    let other = inbox.lease(&worker("w"), 1, &Wanted::default()).await.unwrap().remove(0).lease.id;
    assert_eq!(inbox.history(other).await.unwrap().len(), 2, "that of others is their own");
}

pub(super) async fn workers_side_by_side_never_share_a_file(inbox: &(impl Inbox + Clone)) {
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
