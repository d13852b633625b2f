//! Azure in this process, a publisher on a folder, and what must hold of both at any time.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use waybill_azure::{
    TokenSource,
    blob::{BlobFacts, BlobHeaders, Container, ContainerOptions},
    connection_string::key_tokens,
    http::{HttpClient, HttpOptions},
};
use waybill_contracts::{Extras, Metadata, ReadyFile};
use waybill_formats::Field;
use waybill_local::{Builder, Local};

use crate::{
    ExportError, Exported, Publisher, PublisherBuilder,
    outbox::{ExportRow, ListFilter, Outbox, SqliteOutbox, State},
};

/// Where messages arrive.
pub(super) const SUBSCRIPTION: &str = "exports/subscriptions/acme";
/// Longer than anything takes on a slow machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at something that tells nobody when it changes.
const LOOK: Duration = Duration::from_millis(5);

pub(super) struct World {
    pub(super) local: Local,
    folder: TempDir,
}

/// A message as the broker has it.
pub(super) struct Message {
    pub(super) id: String,
    pub(super) body: Vec<u8>,
    pub(super) metadata: Metadata,
    pub(super) extras: Extras,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::of(Local::builder()).await
    }

    pub(super) async fn of(local: Builder) -> Self {
        Self { local: local.start().await.expect("local starts"), folder: tempfile::tempdir().expect("a folder") }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file to be published.
    pub(super) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("the file is written");
        path
    }

    pub(super) fn outbox(&self) -> PathBuf {
        self.path("outbox")
    }

    pub(super) fn builder(&self) -> PublisherBuilder {
        let ready = self.local.ready_file();
        Publisher::builder(tokens(ready), self.outbox()).name("shop").backoff_max(Duration::from_millis(200))
    }

    pub(super) async fn publisher(&self) -> Publisher {
        self.builder().build().await.expect("a publisher")
    }

    /// A publisher that sends.
    pub(super) async fn running(&self) -> Running {
        Running::start(self.publisher().await)
    }

    pub(super) fn container(&self) -> Container {
        let http = HttpClient::new(&HttpOptions::default()).expect("a client");
        Container::new(http, tokens(self.local.ready_file()), ContainerOptions::default())
    }

    fn name_of(&self, uri: &str) -> String {
        let container = format!("/{}/", self.local.ready_file().container);
        let encoded = uri.split_once(&container).expect("an address in the container").1;
        percent_encoding::percent_decode_str(encoded).decode_utf8().expect("UTF-8").into_owned()
    }

    pub(super) async fn facts(&self, uri: &str) -> BlobFacts {
        let facts = self.container().head(&self.name_of(uri)).await;
        facts.unwrap_or_else(|error| panic!("no blob at {uri}: {error}"))
    }

    /// A blob's bytes as stored.
    pub(super) async fn stored(&self, uri: &str) -> Vec<u8> {
        let mut download = self.container().download(&self.name_of(uri), 0, None).await.expect("the blob is there");
        let mut bytes = Vec::new();
        while let Some(chunk) = download.next().await.expect("it comes whole") {
            bytes.extend_from_slice(&chunk);
        }
        bytes
    }

    /// What subscribers read: one gzip member, and nothing behind it.
    pub(super) async fn plain(&self, uri: &str) -> Vec<u8> {
        let stored = self.stored(uri).await;
        let mut member = flate2::bufread::GzDecoder::new(&stored[..]);
        let mut plain = Vec::new();
        member.read_to_end(&mut plain).expect("sound gzip");
        assert!(member.into_inner().is_empty(), "{uri}: one member is the whole file");
        plain
    }

    /// Stores a blob that no export of ours made.
    pub(super) async fn put_foreign(&self, name: &str, bytes: &'static [u8]) {
        let upload = self.container().upload(name);
        upload.stage(Bytes::from_static(bytes)).await.expect("the block is staged");
        let headers = BlobHeaders { content_type: "text/plain".to_owned(), metadata: BTreeMap::new() };
        upload.commit(&headers).await.expect("the name was free");
    }

    /// All messages on the subscription, in their order.
    pub(super) fn messages(&self) -> Vec<Message> {
        let peeked = self.local.broker().peek(SUBSCRIPTION, 0, usize::MAX).expect("the subscription is there");
        peeked.into_iter().map(|peeked| message(peeked.contents.message_id, peeked.contents.body)).collect()
    }

    /// Messages that came to the subscription so far.
    pub(super) fn arrived(&self) -> u64 {
        self.local.broker().counts(SUBSCRIPTION).expect("the subscription is there").totals.enqueued
    }

    pub(super) fn commits(&self) -> u64 {
        self.local.stats().counted().blob_requests("PutBlockList", 201)
    }

    /// What must hold whenever nothing is under way: every blob that we committed has its message, every message its blob,
    /// all messages of an export are the same, and no number is missing. Returns the exports that are sent.
    pub(super) async fn assert_promises<O: Outbox>(
        &self,
        publisher: &Publisher<O>,
        foreign_blobs: u64,
    ) -> Vec<ExportRow> {
        let rows = all_rows(publisher).await;
        let (sent, rest): (Vec<ExportRow>, Vec<ExportRow>) = rows.into_iter().partition(|row| row.state == State::Sent);
        for row in &rest {
            assert_eq!(row.state, State::Void, "nothing is under way: {row:?}");
        }
        let mut told = BTreeSet::new();
        let mut bodies: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for Message { id, body, metadata, extras } in self.messages() {
            let row = sent.iter().find(|row| Some(&row.export_id) == extras.export_id.as_ref());
            let row = row.unwrap_or_else(|| panic!("message {id} is of no export that is sent"));
            assert_eq!(id, row.export_id.as_str(), "the message-id is the exportId");
            assert_eq!((Some(&metadata.uri), extras.sequence), (row.uri.as_ref(), row.sequence));
            let first = bodies.entry(id.clone()).or_insert_with(|| body.clone());
            assert_eq!(*first, body, "{id}: a message that is sent again is the same message");
            let facts = self.facts(&metadata.uri).await;
            assert_eq!(Some(facts.length), row.bytes, "{id}: the blob is whole");
            let said = &facts.headers.metadata;
            assert_eq!(
                (said["exportid"].as_str(), &said["sequence"]),
                (id.as_str(), &row.sequence.unwrap().to_string())
            );
            told.insert(id);
        }
        let wanted: BTreeSet<String> = sent.iter().map(|row| row.export_id.as_str().to_owned()).collect();
        assert_eq!(told, wanted, "each export that is sent has its message at the broker");
        assert_eq!(self.commits(), sent.len() as u64 + foreign_blobs, "no blob without a message");

        let mut numbers: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for row in sent.iter().chain(&rest) {
            numbers.entry(&row.blob_type).or_default().extend(row.sequence);
        }
        for (blob_type, mut numbers) in numbers {
            numbers.sort_unstable();
            assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "{blob_type}: no gap, no number twice");
        }
        sent
    }

    pub(super) async fn end(self) {
        self.local.stop().await;
    }
}

pub(super) fn tokens(ready: &ReadyFile) -> Arc<dyn TokenSource> {
    tokens_with(ready, &ready.topic, &ready.service_bus_connection_string)
}

pub(super) fn tokens_with(ready: &ReadyFile, topic: &str, bus: &str) -> Arc<dyn TokenSource> {
    key_tokens(
        bus.parse().expect("a connection string"),
        topic.to_owned(),
        ready.blob_connection_string.parse().expect("a connection string"),
        ready.container.clone(),
        Duration::from_secs(3600),
    )
}

pub(super) fn message(id: Option<String>, body: Vec<u8>) -> Message {
    let metadata = Metadata::parse(&body).expect("a waybill");
    let extras = metadata.extras().expect("what we add");
    Message { id: id.expect("a message-id"), body, metadata, extras }
}

/// A publisher whose `run` runs.
pub(super) struct Running<O: Outbox = SqliteOutbox> {
    pub(super) publisher: Publisher<O>,
    stop: CancellationToken,
    run: JoinSet<()>,
}

impl<O: Outbox> Running<O> {
    pub(super) fn start(publisher: Publisher<O>) -> Self {
        let stop = CancellationToken::new();
        let mut run = JoinSet::new();
        let (running, stopped) = (publisher.clone(), stop.clone());
        run.spawn(async move { running.run(stopped).await });
        Self { publisher, stop, run }
    }

    pub(super) async fn sent(&self) {
        self.publisher.flush(PATIENCE).await.expect("everything is sent");
    }

    /// Sends what is left, and ends it; the outbox is nobody's then.
    pub(super) async fn end(self) {
        self.sent().await;
        self.stop_now().await;
    }

    /// Ends it, whatever is still to be sent.
    pub(super) async fn stop_now(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.run.join_next().await {
            ended.expect("it does not panic");
        }
    }
}

/// Exports numbered rows of the type `Number`.
pub(super) async fn export<O: Outbox>(publisher: &Publisher<O>, id: &str, rows: u64) -> Result<Exported, ExportError> {
    let mut writer = publisher.export("Number")?.id(id)?.start().await?;
    for number in 0..rows {
        let number = number.to_string();
        writer.row(&[("n", Field::Number(&number)), ("of", Field::Text(id.into()))]).await?;
    }
    writer.finish().await
}

/// What subscribers read of such an export.
pub(super) fn numbers(id: &str, rows: u64) -> String {
    (0..rows).map(|number| format!("{{\"n\":{number},\"of\":\"{id}\"}}\n")).collect()
}

pub(super) async fn all_rows<O: Outbox>(publisher: &Publisher<O>) -> Vec<ExportRow> {
    publisher.list(&ListFilter { most: 10_000, ..ListFilter::default() }).await.expect("the outbox answers")
}

/// The latest row of an export.
pub(super) async fn row_of(publisher: &Publisher, id: &str) -> ExportRow {
    let rows = publisher.show(id).await.expect("the outbox answers");
    rows.into_iter().next().unwrap_or_else(|| panic!("no export {id}"))
}

/// Asks until it is so.
pub(super) async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !so().await {
            tokio::time::sleep(LOOK).await;
        }
    };
    assert!(timeout(PATIENCE, asking).await.is_ok(), "{what} did not come to be");
}
