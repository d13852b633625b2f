//! What a person, the choice of types, a sink or a new place changes.

use std::time::Duration;

use waybill_contracts::Reason;

use super::{arrival, worker};
use crate::inbox::{Admitted, Asked, End, FileDone, Inbox, ListFilter, Place, State, Wanted};

pub(super) async fn other_types_are_skipped_and_can_be_listed(inbox: &impl Inbox) {
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

pub(super) async fn many_files_of_other_types_are_skipped_and_what_is_worked_is_left_alone(inbox: &impl Inbox) {
    const MANY: i64 = 1_200;
    for from in (1..=MANY).step_by(100) {
        let burst = (from..from + 100).map(|number| arrival(number, &number.to_string(), "Many"));
        inbox.admit(burst.collect()).await.unwrap();
    }
    inbox.admit(vec![arrival(MANY + 1, "x", "Few"), arrival(MANY + 2, "y", "Wanted")]).await.unwrap();
    let of_many = Wanted { types: Some(vec!["Many".to_owned()]), ..Wanted::default() };
    let held = inbox.lease(&worker("w"), 1, &of_many).await.unwrap().remove(0).lease;
    let types = ["Wanted".to_owned(), "Wan*d".to_owned()];
    assert_eq!(inbox.skip_other_types(&types).await.unwrap(), MANY.unsigned_abs());
    assert_eq!(inbox.skip_other_types(&types).await.unwrap(), 0);
    let counts = inbox.counts().await.unwrap();
    assert_eq!((counts.skipped, counts.saved, counts.working), (MANY.unsigned_abs(), 1, 1));
    for row in inbox.list(&ListFilter { state: Some(State::Skipped), most: 3, ..ListFilter::default() }).await.unwrap()
    {
        let history = inbox.history(row.id).await.unwrap();
        assert_eq!(history.iter().map(|entry| entry.state).collect::<Vec<_>>(), [State::Saved, State::Skipped]);
    }
    // Given back, or its lease ended meanwhile: then it is like the others.
    inbox.finish(&held, End::Release).await.unwrap();
    while inbox.skip_other_types(&types).await.unwrap() == 0 {
        let of_many = inbox.lease(&worker("w"), 1, &of_many).await.unwrap();
        for file in of_many {
            inbox.finish(&file.lease, End::Release).await.unwrap();
        }
    }
    assert_eq!(inbox.counts().await.unwrap().skipped, MANY.unsigned_abs() + 1);
}

pub(super) async fn done_files_can_be_reopened(inbox: &impl Inbox) {
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

pub(super) async fn a_person_has_files_tried_again_or_skipped(inbox: &impl Inbox) {
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

pub(super) async fn what_files_waited_for_has_come(inbox: &impl Inbox) {
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

pub(super) async fn a_place_is_known_once_it_was_remembered(inbox: &impl Inbox) {
    let place = Place { endpoint: "https://a.example".to_owned(), container: "c".to_owned() };
    assert_eq!(inbox.places().await.unwrap(), []);
    inbox.remember_place(&place).await.unwrap();
    inbox.remember_place(&place).await.unwrap();
    assert_eq!(inbox.places().await.unwrap(), [place]);
}
