//! Services, a subscriber beside them, and a hand to upload and send.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;
use waybill_azure::{
    Secret,
    blob::{BlobHeaders, Container, ContainerOptions},
    bus::{Bus, BusOptions, Message},
    connection_string::key_tokens,
    http::{HttpClient, HttpOptions},
};
use waybill_contracts::{GrantLayout, ReadyFile};
use waybill_local::Local;

use crate::{
    Subscriber, SubscriberBuilder,
    grants::{Credential, Grants},
    inbox::{Inbox, InboxRow, ListFilter, SqliteInbox, SqliteInboxOptions, State},
    sink::Sink,
};

/// Nothing here takes so long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(60);

/// The entity of the tenant that `local` has by default.
pub(super) const ENTITY: &str = "exports/subscriptions/acme";

pub(super) struct World {
    pub(super) local: Local,
    pub(super) folder: TempDir,
    pub(super) container: Container,
    bus: Bus,
}

impl World {
    pub(super) async fn new() -> Self {
        Self::of(Local::builder().start().await.unwrap())
    }

    pub(super) fn of(local: Local) -> Self {
        let ready = local.ready_file();
        let tokens = key_tokens(
            ready.service_bus_connection_string.parse().unwrap(),
            ready.topic.clone(),
            ready.blob_connection_string.parse().unwrap(),
            ready.container.clone(),
            Duration::from_secs(3600),
        );
        let container = Container::new(http(), Arc::clone(&tokens), ContainerOptions::default());
        let bus = Bus::new(tokens, BusOptions::default());
        Self { folder: tempfile::tempdir().unwrap(), container, bus, local }
    }

    pub(super) fn ready(&self) -> &ReadyFile {
        self.local.ready_file()
    }

    /// The address of a blob of this name.
    pub(super) fn uri(&self, blob: &str) -> String {
        format!("http://127.0.0.1:{}/devstoreaccount1/{}/{blob}", self.local.ports().blob, self.ready().container)
    }

    pub(super) async fn upload(&self, blob: &str, bytes: &[u8]) {
        let upload = self.container.upload(blob);
        upload.stage(Bytes::copy_from_slice(bytes)).await.unwrap();
        let headers = BlobHeaders { content_type: "application/x-jsonlines".to_owned(), ..BlobHeaders::default() };
        upload.commit(&headers).await.unwrap();
    }

    /// Sends bodies as they are, in one go.
    pub(super) async fn send(&self, bodies: &[String]) {
        let messages: Vec<Message> =
            bodies.iter().map(|body| Message { body: Bytes::from(body.clone()), ..Message::default() }).collect();
        self.bus.sender().await.unwrap().send(&messages).await.unwrap();
    }

    /// The message for a blob; `extras` is the inside of `properties.waybill`.
    pub(super) fn waybill(&self, blob_type: &str, blob: &str, extras: &str) -> String {
        format!(
            r#"{{"blobType":"{blob_type}","correlationId":"c-{blob}","uri":"{}","contentType":"application/x-jsonlines","properties":{{"waybill":{{{extras}}}}}}}"#,
            self.uri(blob)
        )
    }

    /// Uploads rows and sends their waybill.
    pub(super) async fn publish(&self, blob: &str, rows: &str, extras: &str) {
        self.upload(blob, rows.as_bytes()).await;
        self.send(&[self.waybill("T", blob, extras)]).await;
    }

    pub(super) async fn inbox(&self, name: &str) -> SqliteInbox {
        SqliteInbox::open(&self.folder.path().join(name), SqliteInboxOptions::default()).await.unwrap()
    }

    pub(super) fn subscriber<I: Inbox + Clone>(&self, inbox: I, builder: SubscriberBuilder) -> Subscriber<I> {
        let tenant = Url::parse(&self.ready().tenant_url).unwrap();
        builder.with_tenant(inbox, &tenant, bearer(&self.ready().bearer_token)).unwrap()
    }

    pub(super) fn grants(&self, token: &str) -> Arc<Grants> {
        let tenant = Url::parse(&self.ready().tenant_url).unwrap();
        Grants::new(http(), &tenant, bearer(token), GrantLayout::default(), OffsetDateTime::now_utc).unwrap()
    }

    /// How often the tenant asked TenantService.
    pub(super) fn asked(&self) -> u64 {
        self.local.stats().grants("acme").requests
    }
}

pub(super) fn bearer(token: &str) -> Credential {
    Credential::Bearer(Secret::new(token))
}

pub(super) fn http() -> HttpClient {
    HttpClient::new(&HttpOptions::default()).unwrap()
}

pub(super) fn builder() -> SubscriberBuilder {
    Subscriber::builder()
}

/// `n` rows of JSON Lines with ids from 1.
pub(super) fn rows(n: u64) -> String {
    (1..=n).map(|id| format!("{{\"id\":{id}}}\n")).collect()
}

/// The same packed.
pub(super) fn packed(n: u64) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut encoder, rows(n).as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// A subscriber at work in the background until it is stopped.
pub(super) struct Running {
    pub(super) stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Running {
    pub(super) fn run<I: Inbox + Clone>(subscriber: &Subscriber<I>, sink: impl Sink) -> Self {
        let (stop, subscriber) = (CancellationToken::new(), subscriber.clone());
        let mut tasks = JoinSet::new();
        let stopped = stop.clone();
        tasks.spawn(async move { subscriber.run(sink, stopped).await.unwrap() });
        Self { stop, tasks }
    }

    pub(super) fn receive<I: Inbox + Clone>(subscriber: &Subscriber<I>) -> Self {
        let (stop, subscriber) = (CancellationToken::new(), subscriber.clone());
        let mut tasks = JoinSet::new();
        let stopped = stop.clone();
        tasks.spawn(async move { subscriber.receive(stopped).await });
        Self { stop, tasks }
    }

    pub(super) async fn stop(mut self) {
        self.stop.cancel();
        within(async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.unwrap();
            }
        })
        .await;
    }
}

pub(super) async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it takes too long")
}

/// Looks until it holds.
pub(super) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let looking = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, looking).await.is_ok(), "it never came: {what}");
}

/// Waits until so many rows are in a state, and gives them by their correlation id.
pub(super) async fn rows_in(inbox: &impl Inbox, state: State, many: usize) -> HashMap<String, InboxRow> {
    let list = || async { inbox.list(&ListFilter { state: Some(state), ..ListFilter::default() }).await.unwrap() };
    until(&format!("{many} rows in state {state}"), || async { list().await.len() >= many }).await;
    list().await.into_iter().map(|row| (row.correlation_id.clone().unwrap_or_default(), row)).collect()
}
