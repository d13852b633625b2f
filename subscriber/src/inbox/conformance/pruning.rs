//! What is over is forgotten, and known all the same.

use std::time::Duration;

use waybill_contracts::Reason;

use super::{arrival, end_all, end_one, numbers::numbered, numbers::sequences, worker};
use crate::inbox::{
    Admitted, Announced, Asked, End, FileDone, Inbox, Leased, ListFilter, PruneStep, Pruned, Retention, State, Wanted,
    prune,
};

pub(super) async fn what_was_lost_is_told_until_nobody_wants_it(inbox: &impl Inbox) {
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
pub(super) fn at_once() -> Retention {
    Retention { history: Some(Duration::ZERO), files: Some(Duration::ZERO), identities: None }
}

pub(super) async fn nothing_is_pruned_that_is_not_over_or_not_old_enough(inbox: &impl Inbox) {
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

pub(super) async fn a_file_that_was_pruned_is_known_all_the_same(inbox: &impl Inbox) {
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

pub(super) async fn much_is_pruned_in_small_parts(inbox: &impl Inbox) {
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
