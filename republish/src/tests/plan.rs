//! What `plan` foretells is what a run does.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio_util::sync::CancellationToken;
use waybill_contracts::Reason;
use waybill_formats::Compression;

use super::world::{PATIENCE, Running, World, job};
use crate::FileVerdict;

#[tokio::test]
async fn a_plan_tells_what_a_run_then_does_and_does_nothing_itself() {
    let world = World::new().await;
    let rows: String = (0..500)
        .map(|id| format!("{{\"id\":{id},\"v\":1,\"price\":{},\"secret\":\"{}\"}}\n", id % 20, "s".repeat(20)))
        .collect();
    world.publish("Item", "good", &rows).await;
    world.publish("Item", "gone", "{\"id\":1,\"v\":2,\"_deleted\":true}\n").await;
    world.announce("Item", "bad", "{\"id\":1,\"v\":2,\"price\":null}\n").await;
    world.upload("wrong", "{\"id\":1,\"v\":1,\"price\":20}\n").await;
    let hashed = serde_json::json!({ "waybill": { "plainSha256": "0".repeat(64) } });
    world.announce_with("Item", "wrong", &hashed).await;
    let republisher = world.republisher(&[job()]).await;
    let received = CancellationToken::new();
    let until_received = async {
        let quiet = std::time::Duration::from_millis(300);
        let nothing = waybill_subscriber::inbox::Wanted { types: Some(Vec::new()), ..Default::default() };
        let idle = republisher.subscriber().until_idle(&nothing, quiet, true, &received);
        tokio::time::timeout(PATIENCE, idle).await.expect("in time").expect("the inbox answers");
        received.cancel();
    };
    tokio::join!(republisher.subscriber().receive(received.clone()), until_received);

    let looked_at = AtomicU64::new(0);
    let plan = republisher.jobs().plan(republisher.subscriber(), Compression::Gzip(4), &looked_at).await.unwrap();
    let [of] = &plan.types[..] else { panic!("{plan:?}") };
    assert_eq!((of.from.as_str(), of.to.as_str(), looked_at.load(Ordering::Relaxed)), ("Item", "Public", 4));
    assert_eq!((of.files, of.files_out, of.files_empty, of.files_quarantined, of.files_unreadable), (4, 2, 0, 2, 0));
    let told =
        |reason| plan.files.iter().find(|file| file.reason == Some(reason)).unwrap_or_else(|| panic!("{plan:?}"));
    let bad = told(Reason::FilterError);
    assert!(bad.problem.starts_with("row 1: "), "{}", bad.problem);
    assert_eq!((bad.verdict, told(Reason::HashMismatch).verdict), (FileVerdict::Quarantined, FileVerdict::Quarantined));
    assert!(world.messages("Public").is_empty());

    let running = Running::start(republisher);
    for id in ["c-good", "c-gone", "c-bad"] {
        running.ended(id).await;
    }
    let figures = running.counted(4).await;
    running.sent().await;
    assert_eq!(figures.rows, of.rows);
    assert_eq!((figures.files_republished, figures.files_quarantined), (of.files_out, of.files_quarantined));
    let published: u64 = world.messages("Public").iter().map(|message| message.extras.bytes.unwrap()).sum();
    assert_eq!(published, of.bytes_out, "to the byte");
    let read: u64 = world.messages("Item").iter().filter_map(|message| message.extras.bytes).sum();
    assert_eq!(read, of.bytes);
    running.stop().await;
    world.end().await;
}
