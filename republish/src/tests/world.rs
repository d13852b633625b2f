//! Azure in this process: a shop that publishes, a republisher, and a partner whose subscription keeps what comes.

use std::{num::NonZeroU32, path::Path, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use url::Url;
use waybill_azure::{
    Secret, TokenSource,
    blob::{BlobHeaders, Container, ContainerOptions},
    bus::{Bus, BusOptions, Message as BusMessage},
    connection_string::key_tokens,
    http::{HttpClient, HttpOptions},
};
use waybill_contracts::{Extras, Format, Metadata, ReadyFile};
use waybill_formats::{DecodeOptions, RowDecoder, Source, Step};
use waybill_local::{
    Local,
    config::{Config, Ports, TenantConfig},
};
use waybill_publisher::{
    Exported, Publisher, PublisherBuilder,
    outbox::{
        AnyOutbox, ListFilter as ExportFilter, PostgresOutbox, PostgresOutboxOptions, SqliteOutbox, SqliteOutboxOptions,
    },
};
use waybill_subscriber::{
    Subscriber,
    grants::Credential,
    inbox::{
        AnyInbox, Inbox, InboxRow, ListFilter, PostgresInbox, PostgresInboxOptions, SqliteInbox, SqliteInboxOptions,
    },
};

use super::rule::entities;
use crate::{Job, Jobs, Republisher, RepublisherOptions, figures::Figures};

/// Where the partner's messages arrive.
const PARTNER: &str = "exports/subscriptions/partner";
/// Longer than anything takes on a slow machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How long a file waits whose holder was killed.
const LEASE: Duration = Duration::from_secs(2);

pub(super) struct World {
    pub(super) local: Local,
    folder: TempDir,
    pub(super) place: Place,
}

/// A republisher of the tests.
pub(super) type Republishing = Republisher<AnyInbox, AnyOutbox>;

/// Where a republisher has its inbox and outbox.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// In files of the world's folder.
    Files,
    /// In two schemas of PostgreSQL that are called so.
    Schemas(String),
}

/// What came to the partner.
pub(super) struct Message {
    pub(super) id: String,
    pub(super) metadata: Metadata,
    pub(super) extras: Extras,
}

/// A republisher by the job that most tests have: items above a price, without what is secret.
pub(super) fn job() -> Job {
    Job::new("Public", ["Item"]).filter("row.price > 10.0").fields(["id", "v", "shop", "price"])
}

impl World {
    pub(super) async fn new() -> Self {
        Self::at(Place::Files).await
    }

    pub(super) async fn at(place: Place) -> Self {
        let tenants = vec![TenantConfig::named("feed"), TenantConfig::named("partner")];
        let config = Config { tenants, ..Config::default() };
        let local = Local::builder().config(config).ports(Ports::RANDOM).start().await.expect("local starts");
        Self { local, folder: tempfile::tempdir().expect("a folder"), place }
    }

    pub(super) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn ready(&self) -> &ReadyFile {
        self.local.ready_file()
    }

    /// Publishes rows of a type, one file, and waits until its message is sent.
    pub(super) async fn publish(&self, blob_type: &str, id: &str, rows: &str) -> Exported {
        let publisher = Publisher::builder(tokens(self.ready()), self.path("shop")).name("shop");
        let publisher = publisher.build().await.expect("a publisher");
        let export = publisher.export(blob_type).unwrap().id(id).unwrap().correlation_id(&format!("c-{id}")).unwrap();
        let mut writer = export.start_bytes(Format::JsonLines).await.unwrap();
        writer.bytes(rows.as_bytes()).await.unwrap();
        let exported = writer.finish().await.unwrap();
        let stop = CancellationToken::new();
        let sent = async {
            publisher.flush(PATIENCE).await.expect("it is sent");
            stop.cancel();
        };
        tokio::join!(publisher.run(stop.clone()), sent);
        exported
    }

    /// Announces a file of JSON Lines as somebody else's publisher would, with nothing of ours in its message.
    pub(super) async fn announce(&self, blob_type: &str, blob: &str, rows: &str) -> String {
        self.upload(blob, rows).await;
        self.announce_again(blob_type, blob).await
    }

    /// A file that no message announces yet.
    pub(super) async fn upload(&self, blob: &str, rows: &str) {
        let upload = self.container().upload(blob);
        upload.stage(rows.to_owned().into()).await.unwrap();
        let headers = BlobHeaders { content_type: "application/x-jsonlines".to_owned(), ..BlobHeaders::default() };
        upload.commit(&headers).await.unwrap();
    }

    /// The same message, of a blob that is there.
    pub(super) async fn announce_again(&self, blob_type: &str, blob: &str) -> String {
        self.announce_with(blob_type, blob, &serde_json::json!({})).await
    }

    /// The same, with this under `properties`.
    pub(super) async fn announce_with(&self, blob_type: &str, blob: &str, properties: &serde_json::Value) -> String {
        let (port, container) = (self.local.ports().blob, &self.ready().container);
        let uri = format!("http://127.0.0.1:{port}/devstoreaccount1/{container}/{blob}");
        let body = serde_json::json!({
            "blobType": blob_type, "correlationId": format!("c-{blob}"), "uri": uri,
            "contentType": "application/x-jsonlines", "properties": properties,
        });
        let bus = Bus::new(tokens(self.ready()), BusOptions::default());
        let message = BusMessage { body: body.to_string().into(), ..BusMessage::default() };
        bus.sender().await.unwrap().send(&[message]).await.unwrap();
        bus.close().await;
        uri
    }

    pub(super) async fn republisher(&self, jobs: &[Job]) -> Republishing {
        self.republisher_with(jobs, RepublisherOptions::default()).await
    }

    pub(super) async fn republisher_with(&self, jobs: &[Job], options: RepublisherOptions) -> Republishing {
        republisher(self.ready(), self.folder.path(), &self.place, jobs, options).await
    }

    /// The messages of a type that came to the partner.
    pub(super) fn messages(&self, blob_type: &str) -> Vec<Message> {
        let peeked = self.local.broker().peek(PARTNER, 0, usize::MAX).expect("the subscription is there");
        let messages = peeked.into_iter().map(|peeked| {
            let metadata = Metadata::parse(&peeked.contents.body).expect("a waybill");
            let extras = metadata.extras().expect("what we add");
            Message { id: peeked.contents.message_id.unwrap_or_default(), metadata, extras }
        });
        messages.filter(|message| message.metadata.blob_type == blob_type).collect()
    }

    /// How many blobs of a type the container has, announced or not.
    pub(super) async fn blobs(&self, blob_type: &str) -> usize {
        let mut listing = self.container().list(&format!("{blob_type}/"), NonZeroU32::new(1_000).unwrap());
        let mut blobs = 0;
        while let Some(page) = listing.next_page().await.expect("it may be listed") {
            blobs += page.len();
        }
        blobs
    }

    fn container(&self) -> Container {
        let http = HttpClient::new(&HttpOptions::default()).expect("a client");
        Container::new(http, tokens(self.ready()), ContainerOptions::default())
    }

    /// The rows of a file that came, as lines of JSON.
    pub(super) async fn rows(&self, message: &Message) -> Vec<String> {
        let container = format!("/{}/", self.ready().container);
        let name = message.metadata.uri.split_once(&container).expect("an address in the container").1;
        let mut download = self.container().download(name, 0, None).await.expect("the blob is there");
        let source = Source::of(message.metadata.media().unwrap().format);
        let mut decoder = RowDecoder::new(DecodeOptions::new(source));
        while let Some(chunk) = download.next().await.expect("it comes whole") {
            decoder.feed(chunk);
        }
        decoder.end();
        let mut lines = Vec::new();
        loop {
            match decoder.next().expect("it is sound") {
                Step::Batch(batch) => {
                    assert!(batch.bad().is_empty());
                    lines.extend(batch.rows().map(|row| row.to_json().into_owned()));
                }
                Step::Done(_) => return lines,
                Step::NeedInput => panic!("it was ended"),
            }
        }
    }

    pub(super) async fn end(self) {
        self.local.stop().await;
    }
}

fn server() -> String {
    let server = std::env::var("WAYBILL_TEST_POSTGRES")
        .expect("WAYBILL_TEST_POSTGRES is not set: run `cargo xtask test`, which starts a PostgreSQL");
    format!("{server}?sslmode=disable")
}

/// On this folder or in this place, in this process or in one that will be killed.
pub(super) async fn republisher(
    ready: &ReadyFile,
    folder: &Path,
    place: &Place,
    jobs: &[Job],
    options: RepublisherOptions,
) -> Republishing {
    let jobs = Jobs::compile(jobs, &entities()).expect("they can be done");
    let (inbox, outbox) = match place {
        Place::Files => {
            let leased = SqliteInboxOptions { lease: LEASE, ..SqliteInboxOptions::default() };
            let inbox = SqliteInbox::open(&folder.join("inbox.sqlite"), leased).await.expect("an inbox");
            let feed = folder.join("feed");
            std::fs::create_dir_all(&feed).expect("a folder");
            let outbox = SqliteOutbox::open(&feed.join(SqliteOutbox::FILE), SqliteOutboxOptions::default()).await;
            (AnyInbox::Sqlite(inbox), AnyOutbox::Sqlite(outbox.expect("an outbox")))
        }
        Place::Schemas(name) => {
            let (server, schema) = (server(), |of: &str| format!("{name}_{of}"));
            let leased = PostgresInboxOptions { lease: LEASE, schema: schema("inbox") };
            let inbox = PostgresInbox::open(&server, leased).await.expect("an inbox");
            let options = PostgresOutboxOptions { schema: schema("outbox"), ..PostgresOutboxOptions::default() };
            let outbox = PostgresOutbox::open(&server, options).await.expect("an outbox");
            (AnyInbox::Postgres(inbox), AnyOutbox::Postgres(outbox))
        }
    };
    let tenant = Url::parse(&ready.tenant_url).unwrap();
    let credential = Credential::Bearer(Secret::new(&ready.bearer_token));
    let subscriber = jobs.prepare(Subscriber::builder().verify_hash(true));
    let subscriber = subscriber.with_tenant(inbox, &tenant, credential).expect("a subscriber");
    let publisher: PublisherBuilder =
        Publisher::builder(tokens(ready), folder.join("feed")).name("feed").backoff_max(Duration::from_millis(200));
    let publisher = publisher.build_on(outbox).expect("a publisher");
    Republisher::new(jobs, subscriber, publisher, options)
}

/// A republisher at work until it is stopped.
pub(super) struct Running {
    pub(super) republisher: Republishing,
    stop: CancellationToken,
    run: JoinSet<()>,
}

impl Running {
    pub(super) fn start(republisher: Republishing) -> Self {
        let (stop, mut run) = (CancellationToken::new(), JoinSet::new());
        let (running, stopped) = (republisher.clone(), stop.clone());
        run.spawn(async move { running.run(stopped).await });
        Self { republisher, stop, run }
    }

    /// The input of this correlation id, once it is in a state that lasts.
    pub(super) async fn ended(&self, correlation_id: &str) -> InboxRow {
        use waybill_subscriber::inbox::State::{Done, Expired, Quarantined, Skipped};
        let inbox = self.republisher.subscriber().inbox();
        let looking = async {
            loop {
                let filter = ListFilter { correlation_id: Some(correlation_id.to_owned()), ..ListFilter::default() };
                let rows = inbox.list(&filter).await.expect("the inbox answers");
                // What it became comes here as well, with the same correlation id.
                let is_input = |row: &InboxRow| !matches!(row.blob_type.as_deref(), Some("Public" | "Logins"));
                let over =
                    |row: &InboxRow| is_input(row) && matches!(row.state, Done | Expired | Quarantined | Skipped);
                if let Some(row) = rows.into_iter().find(over) {
                    return row;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{correlation_id} did not come to its end"))
    }

    /// Its figures, once they tell of so many files: a moment after the inbox does.
    pub(super) async fn counted(&self, files: u64) -> Figures {
        let looking = async {
            loop {
                let figures = self.republisher.figures();
                let Figures { files_republished, files_repeated, files_empty, files_quarantined, .. } = figures;
                if files_republished + files_repeated + files_empty + files_quarantined >= files {
                    return figures;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, looking).await.expect("it is counted")
    }

    /// Every export that is made is sent.
    pub(super) async fn sent(&self) {
        self.republisher.publisher().flush(PATIENCE).await.expect("everything is sent");
    }

    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        let ending = async {
            while let Some(ended) = self.run.join_next().await {
                ended.expect("it does not panic");
            }
        };
        timeout(PATIENCE, ending).await.expect("it stops");
    }

    /// Exports of the republisher, by state: their states, newest first.
    pub(super) async fn exports(&self) -> Vec<waybill_publisher::outbox::ExportRow> {
        let filter = ExportFilter { most: 1_000, ..ExportFilter::default() };
        self.republisher.publisher().list(&filter).await.expect("the outbox answers")
    }
}

fn tokens(ready: &ReadyFile) -> Arc<dyn TokenSource> {
    key_tokens(
        ready.service_bus_connection_string.parse().expect("a connection string"),
        ready.topic.clone(),
        ready.blob_connection_string.parse().expect("a connection string"),
        ready.container.clone(),
        Duration::from_secs(3600),
    )
}
