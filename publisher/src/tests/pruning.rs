//! Pruning: what goes, what stays, and what a crash in the middle leaves.

use time::{Duration, OffsetDateTime};
use waybill_local::{
    BlobOperation,
    fault::{BlobRequests, Refusal, Step as Fault, What, When},
};

use super::{
    crash::{is_the_one_to_be_killed, kill_at, publisher_to_be_killed},
    world::{Running, World, all_rows, export, row_of, until},
};
use crate::{
    Exported, Pruned, Publisher, RelayState,
    context::Step,
    prune::{self, Manner},
};

/// The clock when everything with a term of a day is over, manifests too.
fn later() -> OffsetDateTime {
    OffsetDateTime::now_utc() + Duration::days(30)
}

async fn export_for_a_day(publisher: &Publisher, id: &str) -> Exported {
    let expires_at = OffsetDateTime::now_utc() + Duration::days(1);
    let mut writer = publisher.export("Number").unwrap().id(id).unwrap().expires_at(expires_at).start().await.unwrap();
    writer.serialize(&serde_json::json!({"n": 1})).await.unwrap();
    writer.finish().await.unwrap()
}

async fn is_there(world: &World, exported: &Exported) -> bool {
    let name = exported.uri.split_once("/batchtoprocess/").unwrap().1;
    world.container().head(name).await.is_ok()
}

async fn named(running: &Running) {
    running.sent().await;
    running.publisher.make_manifests().await.unwrap();
    running.sent().await;
}

#[tokio::test]
async fn what_is_over_and_named_goes_and_everything_else_stays() {
    let world = World::new().await;
    let running = world.running().await;
    let over = export_for_a_day(&running.publisher, "over").await;
    let forever = export(&running.publisher, "forever", 1).await.unwrap();
    // Somebody put another blob in the place of this one.
    let replaced = export_for_a_day(&running.publisher, "replaced").await;
    let name = replaced.uri.split_once("/batchtoprocess/").unwrap().1;
    world.container().delete(name).await.unwrap();
    world.put_foreign(name, b"theirs").await;
    named(&running).await;
    let unnamed = export_for_a_day(&running.publisher, "unnamed").await;
    running.end().await;

    let now = world.publisher().await;
    assert_eq!(now.prune(false).await.unwrap(), Pruned::default(), "no term is over");
    drop(now);
    let publisher = world.builder().now(later).build().await.unwrap();
    let counted = publisher.prune(true).await.unwrap();
    // The file of the manifest has no term, since one that it names has none.
    assert_eq!((counted.exports, counted.blobs, counted.unnamed, counted.kept), (2, 2, 1, 0));
    assert_eq!(all_rows(&publisher).await.len(), 5, "it only counted");
    assert!(is_there(&world, &over).await);

    let pruned = publisher.prune(false).await.unwrap();
    assert_eq!((pruned.exports, pruned.blobs, pruned.unnamed, pruned.kept), (2, 1, 1, 0));
    assert_eq!(pruned.bytes, over.bytes);
    assert!(!is_there(&world, &over).await);
    assert_eq!(world.stored(&replaced.uri).await, b"theirs", "what is not ours is not deleted");
    assert!(is_there(&world, &forever).await && is_there(&world, &unnamed).await);
    let left: Vec<_> = all_rows(&publisher).await.into_iter().filter_map(|row| row.sequence).collect();
    assert_eq!(left, [4, 1, 2], "unnamed, the manifest, and the one without a term");
    assert_eq!(publisher.prune(false).await.unwrap(), Pruned { unnamed: 1, ..Pruned::default() });
    drop(publisher);

    // Once it is named it may go.
    let running = world.running().await;
    named(&running).await;
    running.end().await;
    let publisher = world.builder().now(later).build().await.unwrap();
    let pruned = publisher.prune(false).await.unwrap();
    assert_eq!((pruned.blobs, pruned.unnamed), (1, 1), "its manifest is over too, and named by none");
    assert!(!is_there(&world, &unnamed).await);
    assert_eq!(export(&publisher, "next", 1).await.unwrap().sequence, 5, "numbers go on");
    world.end().await;
}

#[tokio::test]
async fn a_publisher_that_is_told_to_prunes_by_itself_while_it_is_the_one_that_sends() {
    let world = World::new().await;
    let running = world.running().await;
    let over = export_for_a_day(&running.publisher, "over").await;
    named(&running).await;
    // The other one sends, so this one leaves to it what is over.
    let every = Some(std::time::Duration::from_millis(20));
    let idle = Running::start(world.builder().now(later).prune_every(every).build().await.unwrap());
    until("the second on standby", async || *idle.publisher.relay().borrow() == RelayState::Standby).await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(is_there(&world, &over).await);
    running.end().await;
    until("the blob to go", async || !is_there(&world, &over).await).await;
    until("the export to go", async || idle.publisher.show("over").await.unwrap().is_empty()).await;
    // A moment after the outbox forgot it.
    until("it to be counted", async || idle.publisher.figures().exports_pruned >= 1).await;
    idle.end().await;
    world.end().await;
}

/// A lease, a policy or a hold keeps one, and nobody may delete another.
#[tokio::test]
async fn a_blob_that_storage_keeps_is_told_once_has_its_time_and_holds_up_no_other() {
    let world = World::new().await;
    let running = world.running().await;
    let leased = export_for_a_day(&running.publisher, "leased").await;
    let forbidden = export_for_a_day(&running.publisher, "forbidden").await;
    let over = export_for_a_day(&running.publisher, "over").await;
    named(&running).await;
    running.end().await;
    let name = |exported: &Exported| exported.uri.rsplit_once('/').unwrap().1.to_owned();
    let refuse = |exported: &Exported, code: &str| {
        let with = Refusal::Blob(code.parse().unwrap());
        let delete = BlobRequests::of(BlobOperation::DeleteBlob).named(&name(exported));
        Fault::new(When::Blob(delete), What::Refuse { with, retry_after: None }).times(1_000.try_into().unwrap())
    };
    let kept_by = [refuse(&leased, "ConditionNotMet"), refuse(&forbidden, "AuthorizationPermissionMismatch")];
    world.local.faults().install(kept_by).unwrap();

    let publisher = world.builder().now(later).build().await.unwrap();
    let pruned = prune::prune(publisher.context(), Manner::ByItself).await.unwrap();
    assert_eq!((pruned.blobs, pruned.kept, pruned.newly_kept), (1, 2, 2), "{pruned:?}");
    assert_eq!(publisher.figures().deletions_refused, 2);
    assert!(!is_there(&world, &over).await && is_there(&world, &leased).await);
    let row = row_of(&publisher, "leased").await;
    assert!(row.tries == 1 && row.last_error.unwrap().contains("it changed"), "{:?}", row.due_at);
    assert!(row.due_at.unwrap() > later() + Duration::minutes(50));
    let asked = || world.local.faults().log_lines().len();
    let before = asked();
    let pruned = prune::prune(publisher.context(), Manner::ByItself).await.unwrap();
    assert_eq!((pruned.kept, pruned.newly_kept, pruned.problem.is_some()), (2, 0, true), "told on, but not asked");
    assert_eq!(asked(), before);
    // A person may have mended it.
    let pruned = publisher.prune(false).await.unwrap();
    assert_eq!((pruned.kept, pruned.newly_kept, asked() > before), (2, 0, true));
    assert!(row_of(&publisher, "leased").await.due_at.unwrap() > later() + Duration::minutes(110), "ever longer");
    world.local.faults().clear();
    let pruned = publisher.prune(false).await.unwrap();
    assert_eq!((pruned.blobs, pruned.kept), (2, 0));
    assert!(!is_there(&world, &leased).await && !is_there(&world, &forbidden).await);
    world.end().await;
}

#[tokio::test]
async fn a_blob_elsewhere_is_kept_and_told() {
    let world = World::new().await;
    let running = world.running().await;
    export_for_a_day(&running.publisher, "x").await;
    named(&running).await;
    running.end().await;
    world.local.add_container("elsewhere").unwrap();
    let ready = waybill_contracts::ReadyFile { container: "elsewhere".to_owned(), ..world.local.ready_file().clone() };
    let publisher = Publisher::builder(super::world::tokens(&ready), world.outbox()).name("shop").now(later);
    let publisher = publisher.build().await.unwrap();
    let pruned = publisher.prune(false).await.unwrap();
    assert_eq!((pruned.exports, pruned.kept), (0, 1));
    assert!(pruned.problem.unwrap().ends_with("not in the container that is configured now"));
    world.end().await;
}

#[tokio::test]
async fn a_crash_after_blobs_are_deleted_is_mended_by_the_next_prune() {
    let test = a_crash_after_blobs_are_deleted_is_mended_by_the_next_prune;
    if is_the_one_to_be_killed() {
        publisher_to_be_killed(|builder| builder.now(later)).await.prune(false).await.unwrap();
        panic!("the step was never reached");
    }
    let world = World::new().await;
    let running = world.running().await;
    let exported = export_for_a_day(&running.publisher, "x").await;
    named(&running).await;
    running.end().await;
    kill_at(Step::BlobsDeleted, &world, &test).await;

    assert!(!is_there(&world, &exported).await, "its blob is gone");
    let publisher = world.builder().now(later).build().await.unwrap();
    assert_eq!(publisher.show("x").await.unwrap().len(), 1, "and the outbox still knows it");
    let pruned = publisher.prune(false).await.unwrap();
    assert_eq!((pruned.exports, pruned.blobs), (1, 0));
    assert!(publisher.show("x").await.unwrap().is_empty());
    world.end().await;
}
