//! What is left halfway without a crash: dropped calls, an outbox that cannot be written, storage that is down, a term that
//! ended.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use waybill_contracts::BlobType;
use waybill_formats::Field;
use waybill_local::{
    BlobOperation,
    fault::{BlobRequests, Step, What, When},
};

use super::world::{PATIENCE, Running, World, all_rows, export, numbers, row_of, until};
use crate::{
    ExportError, FlushError, Publisher,
    outbox::{
        Attempt, Counts, ExportRow, FileFacts, FullExport, HistoryEntry, ListFilter, ManifestRange, NamedTo, Outbox,
        OutboxError, OverExport, Paused, Plan, Planned, RelayLock, SqliteOutbox, SqliteOutboxOptions, State,
    },
};

/// An outbox whose disk is full, as long as that is said.
#[derive(Clone)]
struct Full {
    inner: SqliteOutbox,
    is_full: Arc<AtomicBool>,
    refused: Arc<tokio::sync::Notify>,
}

impl Full {
    fn check(&self) -> Result<(), OutboxError> {
        if self.is_full.load(Ordering::SeqCst) {
            self.refused.notify_one();
            return Err(OutboxError::Unavailable("the disk is full".into()));
        }
        Ok(())
    }
}

impl Outbox for Full {
    fn epoch(&self) -> &str {
        self.inner.epoch()
    }

    async fn begin_epoch(&self) -> Result<String, OutboxError> {
        self.inner.begin_epoch().await
    }

    async fn plan(&self, plan: Plan) -> Result<Planned, OutboxError> {
        self.inner.plan(plan).await
    }

    async fn number(&self, attempt: &Attempt, facts: FileFacts) -> Result<u64, OutboxError> {
        self.inner.number(attempt, facts).await
    }

    async fn last_number(&self, publisher: &str, blob_type: &BlobType) -> Result<u64, OutboxError> {
        self.inner.last_number(publisher, blob_type).await
    }

    async fn parts(
        &self,
        publisher: &str,
        blob_type: &BlobType,
        snapshot: &str,
    ) -> Result<Vec<ExportRow>, OutboxError> {
        self.inner.parts(publisher, blob_type, snapshot).await
    }

    async fn full_exports(
        &self,
        publisher: &str,
        blob_type: &BlobType,
        most: u32,
    ) -> Result<Vec<FullExport>, OutboxError> {
        self.inner.full_exports(publisher, blob_type, most).await
    }

    async fn uploaded(&self, attempt: &Attempt) -> Result<ExportRow, OutboxError> {
        self.check()?;
        self.inner.uploaded(attempt).await
    }

    async fn void(&self, attempt: &Attempt, reason: &str) -> Result<(), OutboxError> {
        self.check()?;
        self.inner.void(attempt, reason).await
    }

    async fn claim_abandoned(&self) -> Result<Vec<ExportRow>, OutboxError> {
        self.check()?;
        self.inner.claim_abandoned().await
    }

    async fn lock_relay(&self) -> Result<Option<RelayLock>, OutboxError> {
        self.inner.lock_relay().await
    }

    async fn due(&self, most: u32) -> Result<Vec<ExportRow>, OutboxError> {
        self.inner.due(most).await
    }

    async fn sent(&self, rows: &[i64]) -> Result<(), OutboxError> {
        self.check()?;
        self.inner.sent(rows).await
    }

    async fn not_sent(&self, rows: &[i64], error: &str, due_at: Option<OffsetDateTime>) -> Result<(), OutboxError> {
        self.check()?;
        self.inner.not_sent(rows, error, due_at).await
    }

    async fn resend(&self, row: i64, why: &str) -> Result<ExportRow, OutboxError> {
        self.inner.resend(row, why).await
    }

    async fn pause(&self, blob_type: &str, why: &str) -> Result<(), OutboxError> {
        self.inner.pause(blob_type, why).await
    }

    async fn resume(&self, blob_type: &str) -> Result<bool, OutboxError> {
        self.inner.resume(blob_type).await
    }

    async fn paused(&self) -> Result<Vec<Paused>, OutboxError> {
        self.inner.paused().await
    }

    async fn manifested_at(&self) -> Result<OffsetDateTime, OutboxError> {
        self.inner.manifested_at().await
    }
    async fn named_to(&self, publisher: &str, epoch: &str) -> Result<Vec<NamedTo>, OutboxError> {
        self.inner.named_to(publisher, epoch).await
    }
    async fn plan_manifests(&self, most: u32) -> Result<Vec<ManifestRange>, OutboxError> {
        self.inner.plan_manifests(most).await
    }
    async fn named(&self, range: &ManifestRange, from: u64, most: u32) -> Result<Vec<ExportRow>, OutboxError> {
        self.inner.named(range, from, most).await
    }
    async fn over(&self, after: i64, most: u32) -> Result<Vec<OverExport>, OutboxError> {
        self.inner.over(after, most).await
    }
    async fn not_deleted(&self, row: i64, error: &str, due_at: OffsetDateTime) -> Result<(), OutboxError> {
        self.inner.not_deleted(row, error, due_at).await
    }
    async fn forget(&self, rows: &[i64]) -> Result<u64, OutboxError> {
        self.inner.forget(rows).await
    }
    async fn counts(&self) -> Result<Counts, OutboxError> {
        self.inner.counts().await
    }

    async fn list(&self, filter: &ListFilter) -> Result<Vec<ExportRow>, OutboxError> {
        self.inner.list(filter).await
    }

    async fn get(&self, row: i64) -> Result<Option<ExportRow>, OutboxError> {
        self.inner.get(row).await
    }

    async fn history(&self, row: i64) -> Result<Vec<HistoryEntry>, OutboxError> {
        self.inner.history(row).await
    }
}

/// A publisher on an outbox that can be full.
async fn on_full(world: &World) -> (Publisher<Full>, Full) {
    std::fs::create_dir_all(world.outbox()).unwrap();
    let file = world.outbox().join(SqliteOutbox::FILE);
    let inner = SqliteOutbox::open(&file, SqliteOutboxOptions::default()).await.unwrap();
    let full = Full { inner, is_full: Arc::default(), refused: Arc::default() };
    (world.builder().build_on(full.clone()).unwrap(), full)
}

async fn one_row(publisher: &Publisher<Full>, id: &str) -> Result<crate::Exported, ExportError> {
    let mut writer = publisher.export("Number")?.id(id)?.start().await?;
    writer.row(&[("n", Field::Number("1"))]).await?;
    writer.finish().await
}

#[tokio::test]
async fn a_blob_that_the_outbox_could_not_record_is_adopted_by_the_same_process() {
    let world = World::new().await;
    let (publisher, outbox) = on_full(&world).await;
    outbox.is_full.store(true, Ordering::SeqCst);
    let refused = one_row(&publisher, "one").await.unwrap_err();
    assert!(matches!(refused, ExportError::Outbox { .. }), "{refused:?}");
    assert_eq!((world.commits(), world.arrived()), (1, 0), "the blob is there, and nobody was told");

    // A recovery that is stopped before it could do anything forgets nothing.
    let stop = CancellationToken::new();
    let (stopped, publishing) = (stop.clone(), publisher.clone());
    let mut run = JoinSet::new();
    run.spawn(async move { publishing.run(stopped).await });
    outbox.refused.notified().await;
    stop.cancel();
    run.join_next().await.unwrap().unwrap();

    outbox.is_full.store(false, Ordering::SeqCst);
    let (stop, publishing) = (CancellationToken::new(), publisher.clone());
    let stopped = stop.clone();
    run.spawn(async move { publishing.run(stopped).await });
    publisher.flush_exports(&["one"], PATIENCE).await.unwrap();
    let again = one_row(&publisher, "one").await.unwrap();
    assert_eq!((again.repeated, again.sequence), (true, 1));
    stop.cancel();
    run.join_next().await.unwrap().unwrap();
    let reader = world.publisher().await;
    assert_eq!(world.assert_promises(&reader, 0).await.len(), 1);
    assert_eq!(world.messages().len(), 1);
    world.end().await;
}

#[tokio::test]
async fn a_message_that_the_outbox_could_not_mark_is_marked_later_and_not_sent_again() {
    let world = World::new().await;
    let (publisher, outbox) = on_full(&world).await;
    one_row(&publisher, "one").await.unwrap();
    outbox.is_full.store(true, Ordering::SeqCst);
    let stop = CancellationToken::new();
    let (stopped, publishing) = (stop.clone(), publisher.clone());
    let mut run = JoinSet::new();
    run.spawn(async move { publishing.run(stopped).await });
    world.local.broker().wait_until(|_| world.arrived() == 1).await;
    outbox.refused.notified().await;
    outbox.is_full.store(false, Ordering::SeqCst);
    publisher.flush(PATIENCE).await.unwrap();
    stop.cancel();
    run.join_next().await.unwrap().unwrap();
    assert_eq!(world.messages().len(), 1);
    assert_eq!(world.assert_promises(&world.publisher().await, 0).await.len(), 1);
    world.end().await;
}

#[tokio::test]
async fn an_export_that_is_dropped_in_its_commit_is_settled_and_can_be_made_again() {
    let world = World::new().await;
    let running = world.running().await;
    let late = What::Delay(Duration::from_millis(300));
    world.local.faults().install([Step::new(When::Blob(BlobRequests::of(BlobOperation::PutBlockList)), late)]).unwrap();
    tokio::select! {
        done = export(&running.publisher, "dropped", 10) => panic!("its commit is late: {done:?}"),
        _ = world.local.faults().wait_for(1) => {}
    }
    let settled = async || row_of(&running.publisher, "dropped").await.state != State::Planned;
    until("the dropped export settled", settled).await;
    let again = export(&running.publisher, "dropped", 10).await.unwrap();
    running.sent().await;
    assert_eq!(world.plain(&again.uri).await, numbers("dropped", 10).into_bytes());
    // If the late commit came through after it was looked for, there is a blob that nobody is told of.
    let untold = world.commits() - 1;
    assert!(untold <= 1);
    assert_eq!(world.assert_promises(&running.publisher, untold).await.len(), 1);
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_file_is_tried_again_after_an_outage_of_storage() {
    let world = World::new().await;
    let running = world.running().await;
    // As often as one upload tries one block.
    let busy = What::throttle(Duration::ZERO);
    let step = Step::new(When::Blob(BlobRequests::of(BlobOperation::PutBlock)), busy).times(5.try_into().unwrap());
    world.local.faults().install([step]).unwrap();
    let file = world.file("numbers.jsonl", numbers("file", 50).as_bytes());
    let exported = running.publisher.export("Number").unwrap().id("file").unwrap().file(&file).await.unwrap();
    assert_eq!((exported.repeated, exported.sequence), (false, 1), "a try that was not staged takes no number");
    running.sent().await;
    let rows = all_rows(&running.publisher).await;
    let states: Vec<State> = rows.iter().map(|row| row.state).collect();
    assert_eq!(states, [State::Sent, State::Void], "{rows:?}");
    assert!(rows[1].reason.as_ref().is_some_and(|reason| reason.contains("busy")), "{rows:?}");
    assert_eq!(rows[1].replaced_by, Some(rows[0].row));
    world.assert_promises(&running.publisher, 0).await;
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn storage_that_asks_for_more_time_than_there_is_ends_the_export_at_once() {
    let world = World::new().await;
    let publisher = world.builder().storage_patience(Duration::from_secs(30)).build().await.unwrap();
    let running = Running::start(publisher);
    let busy = What::throttle(Duration::from_secs(3600));
    let step = Step::new(When::Blob(BlobRequests::of(BlobOperation::PutBlock)), busy);
    world.local.faults().install([step]).unwrap();
    let file = world.file("numbers.jsonl", numbers("file", 5).as_bytes());
    let refused = running.publisher.export("Number").unwrap().file(&file).await.unwrap_err();
    assert!(matches!(&refused, ExportError::Storage { .. }) && refused.is_transient(), "{refused:?}");
    running.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_message_whose_blob_may_be_gone_is_not_sent() {
    let world = World::new().await;
    let running = world.running().await;
    let ended = OffsetDateTime::now_utc() - Duration::from_secs(1);
    let late = running.publisher.export("Number").unwrap().id("late").unwrap().expires_at(ended);
    late.start().await.unwrap().finish().await.unwrap();
    let in_time = OffsetDateTime::now_utc() + Duration::from_secs(3600);
    let good = running.publisher.export("Number").unwrap().id("good").unwrap().expires_at(in_time);
    good.start().await.unwrap().finish().await.unwrap();
    running.sent().await;
    let refused = running.publisher.flush_exports(&["late"], PATIENCE).await.unwrap_err();
    assert!(matches!(&refused, FlushError::Void { reason, .. } if reason.contains("term ended")), "{refused}");
    let ids: Vec<String> = world.messages().into_iter().map(|message| message.id).collect();
    assert_eq!(ids, ["good"]);
    world.assert_promises(&running.publisher, 1).await;
    running.end().await;
    world.end().await;
}
