//! What is told of it all.

use std::time::Duration;

use time::OffsetDateTime;
use waybill_contracts::Reason;

use super::{arrival, broken, worker};
use crate::inbox::{Announced, Asked, Beat, End, FileDone, Inbox, ListFilter, State, Wanted};

pub(super) async fn what_waits_is_told_by_type_and_state(inbox: &impl Inbox) {
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

pub(super) async fn a_file_whose_blob_may_soon_be_deleted_is_at_risk_until_it_is_done(inbox: &impl Inbox) {
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

pub(super) async fn a_worker_is_known_by_what_it_told_last(inbox: &impl Inbox) {
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

pub(super) async fn of_very_many_workers_the_latest_are_known(inbox: &impl Inbox) {
    for number in 0..110 {
        inbox.beat(&worker(&format!("worker-{number}")), &Beat::default()).await.unwrap();
    }
    let workers = inbox.workers().await.unwrap();
    assert!((100..=101).contains(&workers.len()), "{}", workers.len());
    assert_eq!(workers[0].worker.0, "worker-109");
    assert!(workers.iter().all(|of| of.worker.0 != "worker-0"));
}

pub(super) async fn the_history_says_when_and_why(inbox: &impl Inbox) {
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

pub(super) async fn counts_are_right_after_everything(inbox: &impl Inbox) {
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

pub(super) async fn types_are_summed_up(inbox: &impl Inbox) {
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

pub(super) async fn lists_come_newest_first_and_in_pages(inbox: &impl Inbox) {
    inbox.admit((1..=5).map(|number| arrival(number, &number.to_string(), "T")).collect()).await.unwrap();
    let first = inbox.list(&ListFilter { most: 2, ..ListFilter::default() }).await.unwrap();
    let numbers: Vec<_> = first.iter().map(|row| row.sequence_number).collect();
    assert_eq!(numbers, [5, 4]);
    let next = ListFilter { most: 10, before: Some(first[1].id), ..ListFilter::default() };
    assert_eq!(inbox.list(&next).await.unwrap().len(), 3);
    let one = ListFilter { correlation_id: Some("c-3".to_owned()), ..ListFilter::default() };
    assert_eq!(inbox.list(&one).await.unwrap().len(), 1);
}
