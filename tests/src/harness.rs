//! The whole pipeline, put together as a user would.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use tempfile::TempDir;
use tokio::{process::Command, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use url::Url;
use waybill_azure::{
    Secret, TokenSource,
    blob::{BlobHeaders, Container, ContainerOptions},
    bus::{Bus, BusOptions, Message},
    connection_string::key_tokens,
    http::{HttpClient, HttpOptions},
};
use waybill_contracts::Entities;
use waybill_formats::{Compression, Field};
use waybill_local::{Builder, Local, broker};
use waybill_publisher::{
    Exported, Publisher,
    outbox::{Outbox, SqliteOutbox},
};
use waybill_subscriber::{
    Subscriber, SubscriberBuilder,
    grants::Credential,
    inbox::{Counts, Inbox, InboxRow, ListFilter, SqliteInbox, SqliteInboxOptions},
    sink::{Sink, SqliteSink},
};

use crate::watch;

/// Where the waybills of the one tenant arrive.
pub(crate) const SUBSCRIPTION: &str = "exports/subscriptions/acme";
/// The one tenant.
pub(crate) const TENANT: &str = "acme";
/// Items and their prices, which may come before them.
pub(crate) const PRICED_ITEMS: &str = r#"
[entity.item]
types = ["Item"]
key = ["n"]
version = { field = "v", type = "integer" }

[entity.price]
types = ["Price"]
key = ["n"]
version = { field = "v", type = "integer" }
references = [{ fields = ["n"], entity = "item", on_missing = "park" }]
"#;
/// Longer than anything takes on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at something that tells nobody when it changes.
const LOOK: Duration = Duration::from_millis(10);

/// Azure in this process, and a folder for what the two sides keep.
pub(crate) struct World {
    pub(crate) local: Local,
    folder: TempDir,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::of(Local::builder()).await
    }

    pub(crate) async fn of(local: Builder) -> Self {
        watch::the_logs();
        let folder = tempfile::tempdir().expect("a folder for the test");
        Self { local: local.start().await.expect("local starts"), folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the ready file for another process.
    pub(crate) fn ready_file(&self) -> PathBuf {
        let path = self.path("ready.json");
        self.local.write_ready_file(&path).expect("the ready file is written");
        path
    }

    pub(crate) fn tokens(&self) -> Arc<dyn TokenSource> {
        tokens(self.local.ready_file())
    }

    pub(crate) async fn publisher(&self) -> Publishing {
        let publisher =
            Publisher::builder(self.tokens(), self.path("publisher")).name("shop").build().await.expect("a publisher");
        Publishing::start(publisher)
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path("sink.sqlite")
    }

    /// A subscriber into [`World::database`] that runs from here on.
    pub(crate) async fn subscriber(&self, options: SubscriberBuilder, entities: &Entities) -> Subscribing {
        let sink = SqliteSink::open(self.database(), entities).await.expect("the sink opens");
        let subscriber = self.subscriber_of(options.entities(entities.clone())).await;
        Subscribing::start(subscriber, sink)
    }

    pub(crate) async fn subscriber_of(&self, options: SubscriberBuilder) -> Subscriber<SqliteInbox> {
        let folder = self.path("subscriber");
        std::fs::create_dir_all(&folder).expect("a folder for the inbox");
        let inbox = SqliteInbox::open(&folder.join("inbox.sqlite"), SqliteInboxOptions::default()).await;
        let ready = self.local.ready_file();
        let credential = Credential::Bearer(Secret::new(&ready.bearer_token));
        let tenant = Url::parse(&ready.tenant_url).expect("an address");
        options.with_tenant(inbox.expect("the inbox opens"), &tenant, credential).expect("a subscriber")
    }

    pub(crate) fn query(&self, sql: &str) -> Vec<String> {
        query(&self.database(), sql)
    }

    /// What the broker counted on the subscription.
    pub(crate) fn counts(&self) -> broker::Counts {
        self.local.broker().counts(SUBSCRIPTION).expect("the subscription is there")
    }

    /// Waits until no message waits or is locked: one whose link was cut before it was settled comes again when its lock
    /// ends, and is known then.
    pub(crate) async fn all_settled(&self) {
        until("every message settled", || {
            let counts = self.counts();
            counts.active + counts.locked == 0
        })
        .await;
    }

    fn container(&self) -> Container {
        let http = HttpClient::new(&HttpOptions::default()).expect("a client");
        Container::new(http, self.tokens(), ContainerOptions::default())
    }

    /// The address that a message names for a blob.
    pub(crate) fn uri(&self, name: &str) -> String {
        let ready = self.local.ready_file();
        let endpoint = ready.blob_connection_string.split(';').find_map(|part| part.strip_prefix("BlobEndpoint="));
        format!("{}/{}/{name}", endpoint.expect("an endpoint"), ready.container)
    }

    pub(crate) async fn has_blob(&self, uri: &str) -> bool {
        let name = uri.strip_prefix(&self.uri("")).expect("an address in the container");
        self.container().head(name).await.is_ok()
    }

    /// Stores a blob, in place of one that is there, and tells its address.
    pub(crate) async fn put(&self, name: &str, bytes: impl Into<Bytes>) -> String {
        let container = self.container();
        if container.head(name).await.is_ok() {
            container.delete(name).await.expect("the blob is deleted");
        }
        let upload = container.upload(name);
        upload.stage(bytes.into()).await.expect("the block is staged");
        let headers = BlobHeaders { content_type: "application/x-jsonlines".to_owned(), metadata: BTreeMap::new() };
        upload.commit(&headers).await.expect("the blob is committed");
        self.uri(name)
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.container().delete(name).await.expect("the blob is deleted");
    }

    /// Sends bodies as messages, as a publisher of another house would.
    pub(crate) async fn send<B: Into<Bytes>>(&self, bodies: impl IntoIterator<Item = B>) {
        let bus = Bus::new(self.tokens(), BusOptions::default());
        let sender = bus.sender().await.expect("a link");
        let messages: Vec<Message> = bodies.into_iter().map(message).collect();
        sender.send(&messages).await.expect("the messages are accepted");
        bus.close().await;
    }

    pub(crate) async fn end(self) {
        let Self { local, folder } = self;
        local.stop().await;
        watch::assert_no_token(folder.path());
    }
}

pub(crate) fn tokens(ready: &waybill_contracts::ReadyFile) -> Arc<dyn TokenSource> {
    key_tokens(
        ready.service_bus_connection_string.parse().expect("a connection string"),
        ready.topic.clone(),
        ready.blob_connection_string.parse().expect("a connection string"),
        ready.container.clone(),
        Duration::from_secs(3600),
    )
}

fn message(body: impl Into<Bytes>) -> Message {
    Message {
        body: body.into(),
        message_id: uuid::Uuid::new_v4().to_string(),
        correlation_id: None,
        subject: None,
        content_type: Some("application/json".to_owned()),
        created_at: None,
        time_to_live: None,
        properties: BTreeMap::new(),
    }
}

/// The six fields, for JSON Lines at `uri`.
pub(crate) fn waybill(blob_type: &str, uri: &str) -> serde_json::Value {
    serde_json::json!({
        "blobType": blob_type,
        "correlationId": uuid::Uuid::new_v4().to_string(),
        "contentType": "application/x-jsonlines",
        "contentEncoding": null,
        "uri": uri,
        "properties": {},
    })
}

/// `SELECT`ed rows, the values joined by `|`.
pub(crate) fn query(database: &Path, sql: &str) -> Vec<String> {
    use rusqlite::{Error, ErrorCode, OpenFlags};
    let read = match select(database, sql, OpenFlags::SQLITE_OPEN_READ_ONLY) {
        // A killed program left a journal to be recovered or rolled back first; the next one to open the file does that.
        Err(Error::SqliteFailure(error, _)) if error.code == ErrorCode::ReadOnly => {
            select(database, sql, OpenFlags::SQLITE_OPEN_READ_WRITE)
        }
        read => read,
    };
    read.unwrap_or_else(|error| panic!("{}: {sql}: {error}", database.display()))
}

fn select(database: &Path, sql: &str, flags: rusqlite::OpenFlags) -> rusqlite::Result<Vec<String>> {
    use rusqlite::types::ValueRef;
    let db = rusqlite::Connection::open_with_flags(database, flags)?;
    db.busy_timeout(Duration::from_secs(10))?;
    let mut statement = db.prepare(sql)?;
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        let values: Result<Vec<String>, _> = (0..columns)
            .map(|column| {
                Ok(match row.get_ref(column)? {
                    ValueRef::Null => "-".to_owned(),
                    ValueRef::Integer(number) => number.to_string(),
                    ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                    other => format!("{other:?}"),
                })
            })
            .collect();
        values.map(|values| values.join("|"))
    })?;
    rows.collect()
}

/// A publisher whose relay runs.
pub(crate) struct Publishing<O: Outbox = SqliteOutbox> {
    pub(crate) publisher: Publisher<O>,
    stop: CancellationToken,
    relay: JoinSet<()>,
}

impl<O: Outbox> Publishing<O> {
    pub(crate) fn start(publisher: Publisher<O>) -> Self {
        let stop = CancellationToken::new();
        let mut relay = JoinSet::new();
        let (running, stopped) = (publisher.clone(), stop.clone());
        relay.spawn(async move { running.run(stopped).await });
        Self { publisher, stop, relay }
    }

    /// Publishes a file of numbered rows that hardly compress.
    pub(crate) async fn numbers(&self, blob_type: &str, numbers: std::ops::Range<u64>) -> Exported {
        let export = self.publisher.export(blob_type).expect("a good type").compression(Compression::Gzip(1));
        let mut writer = export.start().await.expect("the export begins");
        for number in numbers {
            let (number, text) = (number.to_string(), uuid::Uuid::new_v4().to_string());
            let row = [("n", Field::Number(&number)), ("text", Field::Text(text.into()))];
            writer.row(&row).await.expect("the row is written");
        }
        writer.finish().await.expect("the export is durable")
    }

    /// Publishes `files` files of type `Number` with `rows` rows each, all numbers different.
    pub(crate) async fn files_of_numbers(&self, files: u64, rows: u64) {
        for file in 0..files {
            self.numbers("Number", file * rows..(file + 1) * rows).await;
        }
        self.sent().await;
    }

    /// Waits until every message is sent.
    pub(crate) async fn sent(&self) {
        self.publisher.flush(PATIENCE).await.expect("everything is sent");
    }

    pub(crate) async fn end(mut self) {
        self.sent().await;
        self.stop.cancel();
        while let Some(ended) = self.relay.join_next().await {
            ended.expect("the relay does not panic");
        }
    }
}

/// A subscriber that runs.
pub(crate) struct Subscribing {
    pub(crate) subscriber: Subscriber<SqliteInbox>,
    stop: CancellationToken,
    run: JoinSet<()>,
}

impl Subscribing {
    pub(crate) fn start(subscriber: Subscriber<SqliteInbox>, sink: impl Sink) -> Self {
        let stop = CancellationToken::new();
        let mut run = JoinSet::new();
        let (running, stopped) = (subscriber.clone(), stop.clone());
        run.spawn(async move { running.run(sink, stopped).await.expect("the subscriber runs") });
        Self { subscriber, stop, run }
    }

    pub(crate) async fn counts(&self) -> Counts {
        self.subscriber.inbox().counts().await.expect("the inbox answers")
    }

    /// Waits until the inbox is as wanted.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Counts) -> bool) -> Counts {
        let end = Instant::now() + PATIENCE;
        loop {
            let counts = self.counts().await;
            if wanted(&counts) {
                return counts;
            }
            if Instant::now() >= end {
                panic!("{what} did not come to be: {counts:?}; {:#?}", self.rows().await);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(crate) async fn done(&self, files: u64) {
        self.until("all files done", |counts| counts.done >= files).await;
    }

    pub(crate) async fn rows(&self) -> Vec<InboxRow> {
        let filter = ListFilter { most: 1000, ..ListFilter::default() };
        self.subscriber.inbox().list(&filter).await.expect("the inbox answers")
    }

    /// The row of the message whose correlation id this is, understood or not.
    pub(crate) async fn row(&self, correlation_id: &str) -> InboxRow {
        let rows = self.rows().await;
        let row = rows.iter().find(|row| row.body.contains(correlation_id));
        row.cloned().unwrap_or_else(|| panic!("no row of {correlation_id}; there are {:#?}", rows))
    }

    /// Asks until it is so.
    pub(crate) async fn wait_for(&self, what: &str, so: impl Fn(&Subscriber<SqliteInbox>) -> bool) {
        until(what, || so(&self.subscriber)).await;
    }

    /// Links and connections lost so far.
    pub(crate) fn lost(&self) -> u64 {
        self.subscriber.receive_stats().lost.load(Ordering::Relaxed)
    }

    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.run.join_next().await {
            ended.expect("the subscriber does not panic");
        }
    }
}

/// Asks until it is so.
pub(crate) async fn until(what: &str, so: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < end, "{what} did not come to be");
        tokio::time::sleep(LOOK).await;
    }
}

/// Stops a process, and waits until all of its threads stand still: one that still runs may take a lock.
pub(crate) async fn freeze(pid: u32) {
    let sent = Command::new("kill").args(["-STOP", &pid.to_string()]).status().await.expect("kill runs");
    assert!(sent.success(), "-STOP to {pid}");
    // The state follows the name, which is in brackets and may have some itself. Source: proc_pid_stat(5).
    let is_still = |stat: String| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'));
    let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    // A thread that is gone since it was listed has no state.
    let state = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("stat")).ok();
    until("a process that stands still", || threads().filter_map(state).all(is_still)).await;
}

/// Every one of the first `rows` numbers is in the table `Number` once, in the order of its file, and nothing else is.
pub(crate) fn assert_each_number_once(world: &World, rows: u64) {
    assert_eq!(
        world.query("SELECT count(*), count(DISTINCT n), min(n), max(n) FROM \"Number\""),
        [format!("{rows}|{rows}|0|{}", rows - 1)],
        "rows, different rows, first, last"
    );
    let torn = "SELECT a._waybill_file FROM \"Number\" a JOIN \"Number\" b USING (_waybill_file) \
                WHERE b._waybill_row = a._waybill_row + 1 AND b.n <> a.n + 1 LIMIT 1";
    assert_eq!(world.query(torn), [""; 0], "rows of a file are numbered as it has them");
}

/// Nothing is left on the bus, and nothing went the way of the dead letters.
pub(crate) fn assert_nothing_was_dead_lettered(world: &World) {
    let counts = world.counts();
    let left = (counts.active, counts.locked, counts.dead_lettered, counts.totals.dead_lettered);
    assert_eq!(left, (0, 0, 0, 0), "active, locked, on the dead-letter queue, ever dead-lettered");
}

pub(crate) fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("not zero")
}

/// A binary of the workspace, as `cargo build --bins` makes it beside this test.
pub(crate) fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("this program has a path");
    let folder = test.parent().and_then(Path::parent).expect("it lies in target/PROFILE/deps");
    let path = folder.join(name).with_extension(std::env::consts::EXE_EXTENSION);
    assert!(path.exists(), "no {}: run `cargo xtask test`, which builds the binaries", path.display());
    path
}

/// Has a program of ours write every line of its log, down to the last level, into a file of the test's folder, which is looked through
/// for tokens when the test ends; behind what another one wrote there before.
pub(crate) fn log_all_to(run: &mut tokio::process::Command, file: &Path) {
    let log = std::fs::File::options().create(true).append(true).open(file).expect("a log");
    run.env("RUST_LOG", "trace").stderr(log);
}

/// The last lines of a log.
pub(crate) fn tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// The Python interpreter with Microsoft's SDKs.
pub(crate) fn python() -> PathBuf {
    std::env::var_os("WAYBILL_TEST_PYTHON")
        .map(PathBuf::from)
        .expect("WAYBILL_TEST_PYTHON is not set: run `cargo xtask test`, which sets up Microsoft's SDKs")
}

/// A folder whose `node_modules` holds Microsoft's JavaScript SDKs and Azurite.
pub(crate) fn node_packages() -> PathBuf {
    std::env::var_os("WAYBILL_TEST_NODE")
        .map(PathBuf::from)
        .expect("WAYBILL_TEST_NODE is not set: run `cargo xtask test`, which sets up Microsoft's SDKs")
}

/// The folder of this crate.
pub(crate) fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
