//! P3, P7 and P11 at the bus: what is saved is settled, what is not stays at the broker.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use waybill_contracts::Reason;
use waybill_local::broker::LinkRole;

use super::{
    sink::MemorySink,
    world::{ENTITY, Running, World, builder, rows_in, until, within},
};
use crate::inbox::{
    Admitted, Arrival, Asked, Backlog, Beat, BlobSeen, Counts, End, FileKey, HistoryEntry, Inbox, InboxError, InboxRow,
    Lease, Leased, ListFilter, Pending, Place, PruneStep, Pruned, Retention, SequenceNamed, SequenceSeen, SqliteInbox,
    SqliteInboxOptions, State, TypeTotals, Wanted, WorkerId, WorkerSeen,
};

/// An inbox whose disk is full when it is told so.
#[derive(Clone)]
pub(super) struct Failing {
    inner: SqliteInbox,
    pub(super) full: Arc<AtomicBool>,
    /// No lease is ever answered while it is set.
    pub(super) stuck: Arc<AtomicBool>,
    /// Nothing that is written is answered while it is set, but leases.
    pub(super) silent: Arc<AtomicBool>,
    /// No renewal is answered while it is set.
    deaf: Arc<AtomicBool>,
    /// Skipping files of other types comes to no end while it is set.
    pub(super) endless: Arc<AtomicBool>,
    /// No blob is noted while it is set.
    pub(super) forgetful: Arc<AtomicBool>,
    /// Calls that were not answered.
    pub(super) waiting: Arc<AtomicU64>,
    failed: Arc<AtomicU64>,
    bursts: Arc<AtomicU64>,
}

impl Failing {
    pub(super) fn new(inner: SqliteInbox) -> Self {
        Self {
            inner,
            full: Arc::default(),
            stuck: Arc::default(),
            silent: Arc::default(),
            deaf: Arc::default(),
            endless: Arc::default(),
            forgetful: Arc::default(),
            waiting: Arc::default(),
            failed: Arc::default(),
            bursts: Arc::default(),
        }
    }

    async fn wait_if(&self, not_answered: &AtomicBool) {
        if not_answered.load(Ordering::SeqCst) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
    }
}

#[deny(clippy::missing_trait_methods)]
impl Inbox for Failing {
    async fn admit(&self, burst: Vec<Arrival>) -> Result<Vec<Admitted>, InboxError> {
        self.wait_if(&self.silent).await;
        if self.full.load(Ordering::SeqCst) {
            self.failed.fetch_add(1, Ordering::SeqCst);
            return Err(InboxError::Unavailable("the disk is full".into()));
        }
        self.bursts.fetch_add(1, Ordering::SeqCst);
        self.inner.admit(burst).await
    }
    async fn known(&self, files: &[FileKey]) -> Result<Vec<Option<i64>>, InboxError> {
        self.inner.known(files).await
    }
    async fn lease(&self, worker: &WorkerId, most: u32, wanted: &Wanted) -> Result<Vec<Leased>, InboxError> {
        self.wait_if(&self.stuck).await;
        if self.full.load(Ordering::SeqCst) {
            return Err(InboxError::Unavailable("the disk is full".into()));
        }
        self.inner.lease(worker, most, wanted).await
    }
    async fn renew(&self, lease: &Lease, rows: u64) -> Result<Option<Lease>, InboxError> {
        self.wait_if(&self.deaf).await;
        if self.full.load(Ordering::SeqCst) {
            self.failed.fetch_add(1, Ordering::SeqCst);
            return Err(InboxError::Unavailable("the disk is full".into()));
        }
        self.inner.renew(lease, rows).await
    }
    async fn note_blob(&self, lease: &Lease, blob: &BlobSeen) -> Result<bool, InboxError> {
        if self.forgetful.load(Ordering::SeqCst) {
            return Err(InboxError::Unavailable("the disk is full".into()));
        }
        self.inner.note_blob(lease, blob).await
    }
    async fn finish(&self, lease: &Lease, end: End) -> Result<bool, InboxError> {
        self.wait_if(&self.silent).await;
        self.inner.finish(lease, end).await
    }
    async fn skip_other_types(&self, types: &[String]) -> Result<u64, InboxError> {
        self.wait_if(&self.endless).await;
        self.inner.skip_other_types(types).await
    }
    async fn done_files(&self, after: i64, most: u32) -> Result<Vec<(i64, FileKey)>, InboxError> {
        self.inner.done_files(after, most).await
    }
    async fn hasten(&self, ids: &[i64]) -> Result<u64, InboxError> {
        self.inner.hasten(ids).await
    }
    async fn reopen(&self, ids: &[i64]) -> Result<u64, InboxError> {
        self.inner.reopen(ids).await
    }
    async fn retry(&self, id: i64) -> Result<Asked, InboxError> {
        self.inner.retry(id).await
    }
    async fn skip(&self, id: i64, why: &str) -> Result<Asked, InboxError> {
        self.inner.skip(id, why).await
    }
    async fn remember_place(&self, place: &Place) -> Result<(), InboxError> {
        self.inner.remember_place(place).await
    }
    async fn places(&self) -> Result<Vec<Place>, InboxError> {
        self.inner.places().await
    }
    async fn pending(&self, wanted: &Wanted) -> Result<Pending, InboxError> {
        self.inner.pending(wanted).await
    }
    async fn counts(&self) -> Result<Counts, InboxError> {
        self.inner.counts().await
    }
    async fn types(&self) -> Result<Vec<TypeTotals>, InboxError> {
        self.inner.types().await
    }
    async fn note_named(&self, of: &SequenceNamed) -> Result<(), InboxError> {
        self.inner.note_named(of).await
    }
    async fn named(&self) -> Result<Vec<SequenceNamed>, InboxError> {
        self.inner.named().await
    }
    async fn sequences(&self) -> Result<Vec<SequenceSeen>, InboxError> {
        self.inner.sequences().await
    }
    async fn prunable(&self, retention: &Retention) -> Result<Pruned, InboxError> {
        self.inner.prunable(retention).await
    }
    async fn prune(
        &self,
        retention: &Retention,
        step: PruneStep,
        most: u32,
    ) -> Result<(Pruned, Option<PruneStep>), InboxError> {
        self.inner.prune(retention, step, most).await
    }
    async fn list(&self, filter: &ListFilter) -> Result<Vec<InboxRow>, InboxError> {
        self.inner.list(filter).await
    }
    async fn get(&self, id: i64) -> Result<Option<InboxRow>, InboxError> {
        self.inner.get(id).await
    }
    async fn history(&self, id: i64) -> Result<Vec<HistoryEntry>, InboxError> {
        self.inner.history(id).await
    }
    async fn backlog(&self) -> Result<Backlog, InboxError> {
        self.inner.backlog().await
    }
    async fn beat(&self, worker: &WorkerId, beat: &Beat) -> Result<(), InboxError> {
        self.wait_if(&self.silent).await;
        if self.full.load(Ordering::SeqCst) {
            return Err(InboxError::Unavailable("the disk is full".into()));
        }
        self.inner.beat(worker, beat).await
    }
    async fn workers(&self) -> Result<Vec<WorkerSeen>, InboxError> {
        self.inner.workers().await
    }
}

fn bodies(world: &World, many: u32) -> Vec<String> {
    (0..many).map(|number| world.waybill("T", &format!("b{number}"), "")).collect()
}

#[tokio::test]
async fn what_arrives_together_is_saved_in_few_commits_and_all_of_it_is_settled() {
    let world = World::new().await;
    world.send(&bodies(&world, 500)).await;
    let inbox = Failing::new(world.inbox("inbox").await);
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::receive(&subscriber);
    until("500 rows", || async { inbox.counts().await.unwrap().saved == 500 }).await;
    within(world.local.broker().wait_until(|broker| broker.counts(ENTITY).unwrap().totals.completed == 500)).await;
    running.stop().await;
    let bursts = inbox.bursts.load(Ordering::SeqCst);
    assert!(bursts <= 250, "{bursts} commits for 500 messages");
    assert_eq!(world.local.broker().counts(ENTITY).unwrap().totals.deliveries, 500, "each once");
}

#[tokio::test]
async fn what_cannot_be_saved_is_released_and_costs_no_delivery() {
    let world = World::new().await;
    let inbox = Failing::new(world.inbox("inbox").await);
    inbox.full.store(true, Ordering::SeqCst);
    world.send(&bodies(&world, 3)).await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::receive(&subscriber);
    until("three tries", || async { inbox.failed.load(Ordering::SeqCst) >= 3 }).await;
    until("a reason", || async { subscriber.receive_stats().problem().is_some() }).await;
    inbox.full.store(false, Ordering::SeqCst);
    until("three rows", || async { inbox.counts().await.unwrap().saved == 3 }).await;
    within(world.local.broker().wait_until(|broker| broker.counts(ENTITY).unwrap().totals.completed == 3)).await;
    assert!(subscriber.receive_stats().problem().is_none(), "all is well again");
    running.stop().await;
    let counts = world.local.broker().counts(ENTITY).unwrap();
    assert_eq!((counts.dead_lettered, counts.totals.abandoned), (0, 0), "an outage dead-letters nothing");
    assert!(counts.totals.released >= 9, "three messages, three tries: {counts:?}");
}

#[tokio::test]
async fn a_message_that_is_no_waybill_is_quarantined_settled_and_keeps_no_token() {
    let world = World::new().await;
    let token = "http://a.example/c/b?sv=1&sig=hunter2";
    world
        .send(&[
            format!("<uri>{token}</uri>"),
            format!(r#"{{"blobType":"T","uri":"{token}"}}"#),
            world.waybill("T", "good", "").replace("/good\",", "/good?sig=hunter2\","),
        ])
        .await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::receive(&subscriber);
    within(world.local.broker().wait_until(|broker| broker.counts(ENTITY).unwrap().totals.completed == 3)).await;
    running.stop().await;
    let all = inbox.list(&ListFilter::default()).await.unwrap();
    let mut reasons: Vec<_> = all.iter().map(|row| row.reason).collect();
    reasons.sort();
    assert_eq!(reasons, [None, Some(Reason::NotJson), Some(Reason::MissingField)]);
    for row in &all {
        assert!(!format!("{row:?}").contains("hunter2"), "{row:?}");
    }
    let good = all.iter().find(|row| row.state == State::Saved).unwrap();
    assert_eq!(good.body, world.waybill("T", "good", ""), "without the query it is the body as it came");
}

#[test]
fn what_is_not_kept_of_a_broken_body_is_told_and_what_was_understood_can_be_found() {
    let broken = |body: &[u8]| match crate::receive::announced(body) {
        crate::inbox::Announced::Broken(broken) => broken,
        crate::inbox::Announced::File(file) => panic!("{file:?}"),
    };
    let long = broken("é".repeat(200_000).as_bytes());
    assert!(long.problem.contains("400000 bytes") && !long.problem.contains("UTF-8, bytes"), "{}", long.problem);
    // An odd byte first, so that the cut goes through a character.
    let halved = broken(format!("x{}", "é".repeat(200_000)).as_bytes());
    assert!(!halved.problem.contains("U+FFFD"), "{}", halved.problem);
    let binary = broken(b"<a>\xff</a>");
    assert!(binary.problem.contains("U+FFFD") && !binary.problem.contains("are kept;"), "{}", binary.problem);
    let whole = broken(b"<a/>");
    assert!(!whole.problem.contains("kept"), "{}", whole.problem);
    assert_eq!((whole.blob_type, whole.correlation_id), (None, None));
    let media =
        broken(br#"{"blobType":"T","correlationId":"c","uri":"https://a.example/c/b","contentType":"image/png"}"#);
    assert_eq!((media.blob_type.as_deref(), media.correlation_id.as_deref()), (Some("T"), Some("c")));
}

#[tokio::test]
async fn a_redelivered_message_adds_no_row_and_is_settled() {
    let world = World::new().await;
    world.local.broker().deliver_twice(ENTITY, 1).unwrap();
    world.send(&bodies(&world, 1)).await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::receive(&subscriber);
    until("the second delivery", || async {
        subscriber.receive_stats().redelivered.load(Ordering::Relaxed) == 1
            || subscriber.receive_stats().received.load(Ordering::Relaxed) == 2
    })
    .await;
    within(world.local.broker().wait_until(|broker| broker.counts(ENTITY).unwrap().totals.completed == 1)).await;
    running.stop().await;
    assert_eq!(inbox.list(&ListFilter::default()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn detached_links_and_lost_connections_come_back_and_nothing_is_lost() {
    let world = World::new().await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::receive(&subscriber);
    let attached = || async { subscriber.receive_stats().attached.load(Ordering::Relaxed) == 1 };
    for round in 0..3_u64 {
        until("a link", attached).await;
        let links = subscriber.receive_stats().links.load(Ordering::Relaxed);
        if round == 1 {
            world.local.broker().close_connections(&waybill_local::broker::Which::All);
        } else {
            world.local.broker().detach_links(ENTITY).unwrap();
        }
        until("the next link", || async { subscriber.receive_stats().links.load(Ordering::Relaxed) > links }).await;
        world.send(&[world.waybill("T", &format!("round-{round}"), "")]).await;
        until("its row", || async { inbox.counts().await.unwrap().saved == round + 1 }).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn each_link_begins_with_little_credit_and_has_more_once_it_brought_something() {
    let world = World::new().await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::receive(&subscriber);
    let credit = async || {
        let connections = world.local.broker().describe_connections().await;
        let mut links = connections.into_iter().flat_map(|connection| connection.links);
        links.find(|link| link.entity == ENTITY && link.role == LinkRole::Receiver).map(|link| link.credit)
    };
    for round in 0..2 {
        until("little credit", || async { credit().await == Some(10) }).await;
        let bodies: Vec<String> = (0..20).map(|number| world.waybill("T", &format!("{round}-{number}"), "")).collect();
        world.send(&bodies).await;
        until("more credit", || async { credit().await.is_some_and(|credit| credit > 100) }).await;
        until("its rows", || async { inbox.counts().await.unwrap().saved == (round + 1) * 20 }).await;
        world.local.broker().detach_links(ENTITY).unwrap();
    }
    running.stop().await;
}

#[tokio::test]
async fn the_dead_letter_queue_is_drained_into_the_inbox() {
    let world =
        World::of(waybill_local::Local::builder().max_delivery_count(1.try_into().unwrap()).start().await.unwrap());
    world.send(&bodies(&world, 1)).await;
    // Somebody else's program took it, and let its lock go.
    let grants = world.grants(&world.ready().bearer_token);
    let bus = waybill_azure::bus::Bus::new(grants, waybill_azure::bus::BusOptions::default());
    let mut other = bus.receiver(waybill_azure::bus::ReceiverOptions::default()).await.unwrap();
    other.add_credit(1).await.unwrap();
    let taken = other.next().await.unwrap();
    other.settle(&[taken.tag], &waybill_azure::bus::Settlement::Abandon).await.unwrap();
    within(world.local.broker().wait_until(|broker| broker.counts(ENTITY).unwrap().dead_lettered == 1)).await;
    other.close().await;
    bus.close().await;

    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::receive(&subscriber);
    let saved = rows_in(&inbox, State::Saved, 1).await;
    assert!(saved["c-b0"].entity_path.to_ascii_lowercase().ends_with("/$deadletterqueue"), "{saved:?}");
    within(world.local.broker().wait_until(|broker| broker.counts(ENTITY).unwrap().dead_lettered == 0)).await;
    running.stop().await;
}

#[tokio::test]
async fn a_bus_out_of_reach_is_told_with_its_reason_and_does_not_count_as_idle() {
    let world = World::new().await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox, builder());
    world.local.stop().await;
    let running = Running::receive(&subscriber);
    until("a reason", || async { subscriber.receive_stats().problem().is_some() }).await;
    let (stop, wanted) = (CancellationToken::new(), Wanted::default());
    let idle = subscriber.until_idle(&wanted, Duration::from_millis(1), true, &stop);
    assert!(tokio::time::timeout(Duration::from_millis(300), idle).await.is_err(), "nobody knows whether it is idle");
    let problem = subscriber.receive_stats().problem().unwrap();
    assert!(problem.contains("TenantService"), "{problem}");
    running.stop().await;
}

#[tokio::test]
async fn a_worker_that_cannot_renew_its_lease_lets_go_before_another_gets_the_file() {
    let lease = Duration::from_secs(1);
    let world = World::new().await;
    let options = SqliteInboxOptions { lease, ..SqliteInboxOptions::default() };
    let inner = SqliteInbox::open(&world.folder.path().join("inbox"), options).await.unwrap();
    let inbox = Failing::new(inner.clone());
    let sink = MemorySink::default();
    let gate = sink.gate();
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::run(&subscriber, sink.clone());
    world.publish("a", "{\"id\":1}\n", "").await;
    rows_in(&inner, State::Working, 1).await;
    inbox.full.store(true, Ordering::SeqCst);
    let other = WorkerId("other".to_owned());
    let mut taken = Vec::new();
    while taken.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        taken = inner.lease(&other, 1, &Wanted::default()).await.unwrap();
    }
    assert!(inbox.failed.load(Ordering::SeqCst) >= 2, "it asked for more time");
    inbox.full.store(false, Ordering::SeqCst);
    // The first worker would be the first in the queue.
    gate.add_permits(1);
    world.publish("b", "{\"id\":2}\n", "").await;
    rows_in(&inner, State::Done, 1).await;
    assert_eq!(sink.rows(), [r#"{"id":2}"#], "nothing of the file that it lost took effect");
    assert!(inner.finish(&taken[0].lease, End::Release).await.unwrap(), "which is the other's");
    running.stop().await;
}

#[tokio::test]
async fn while_a_renewal_is_not_answered_the_file_goes_on() {
    let world = World::new().await;
    let options = SqliteInboxOptions { lease: Duration::from_secs(8), ..SqliteInboxOptions::default() };
    let inner = SqliteInbox::open(&world.folder.path().join("inbox"), options).await.unwrap();
    let inbox = Failing::new(inner.clone());
    inbox.deaf.store(true, Ordering::SeqCst);
    let sink = MemorySink::default();
    let gate = sink.gate();
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::run(&subscriber, sink.clone());
    world.publish("a", "{\"id\":1}\n", "").await;
    until("a renewal", || async { inbox.waiting.load(Ordering::SeqCst) > 0 }).await;
    gate.add_permits(1);
    let done = rows_in(&inner, State::Done, 1).await;
    running.stop().await;
    assert_eq!((sink.rows().len(), done["c-a"].attempts), (1, 1));
}

#[tokio::test]
async fn a_lease_is_renewed_in_time_however_short_the_inboxs_leases_are() {
    let world = World::new().await;
    let lease = Duration::from_secs(1);
    let options = SqliteInboxOptions { lease, ..SqliteInboxOptions::default() };
    let inbox = SqliteInbox::open(&world.folder.path().join("inbox"), options).await.unwrap();
    let sink = MemorySink::default();
    let gate = sink.gate();
    // Whatever its builder was told.
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::run(&subscriber, sink.clone());
    world.publish("a", "{\"id\":1}\n", "").await;
    rows_in(&inbox, State::Working, 1).await;
    tokio::time::sleep(lease * 3).await;
    assert!(inbox.lease(&WorkerId("other".to_owned()), 1, &Wanted::default()).await.unwrap().is_empty());
    gate.add_permits(1);
    let id = rows_in(&inbox, State::Done, 1).await["c-a"].id;
    running.stop().await;
    let states: Vec<_> = inbox.history(id).await.unwrap().into_iter().map(|entry| entry.state).collect();
    assert_eq!(states, [State::Saved, State::Working, State::Done], "one lease was enough");
}
