//! Several subscribers on one PostgreSQL inbox and sink: one is stopped, one killed, one frozen past its leases and woken.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    process::{Child, Command},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use url::Url;
use uuid::Uuid;
use waybill_local::Local;
use waybill_store::tokio_postgres::{Client, NoTls, connect};

use crate::harness::{PATIENCE, World, assert_nothing_was_dead_lettered, binary, freeze, log_all_to, number, tail};

/// Of the first part; then there are as many again, and a few more.
const FILES: u64 = 110;
const LAST_FILES: u64 = 6;
const ROWS: u64 = 100;
pub(crate) const LEASE: Duration = Duration::from_secs(3);
/// Every subscriber looks for what lapsed at least this often.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// What lapsed waits behind what was due before, and the machine may have much to do.
const SLACK: Duration = Duration::from_secs(15);

/// A schema for the inbox and one for the sink, in one database.
pub(crate) struct Database {
    client: Client,
    _served: JoinSet<()>,
    server: String,
    name: String,
}

impl Database {
    pub(crate) async fn new() -> Self {
        let server = std::env::var("WAYBILL_TEST_POSTGRES")
            .expect("WAYBILL_TEST_POSTGRES is not set: run `cargo xtask test`, which starts a PostgreSQL");
        let server = format!("{server}?sslmode=disable");
        let name = format!("replicas_{}", Uuid::new_v4().simple());
        let (client, connection) = connect(&server, NoTls).await.expect("the database answers");
        let mut served = JoinSet::new();
        served.spawn(async { connection.await.unwrap_or_default() });
        let database = Self { client, _served: served, server, name };
        let made = format!("CREATE SCHEMA {0}_sink; SET search_path = {0}_inbox, {0}_sink", database.name);
        database.run(&made).await;
        database
    }

    async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
    }

    pub(crate) async fn numbers(&self, sql: &str) -> Vec<i64> {
        let rows = self.client.query(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn until(&self, what: &str, sql: &str, wanted: i64) {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = self.number(sql).await;
            if found >= wanted {
                return;
            }
            assert!(Instant::now() < end, "{what} did not come to be: {found} of {wanted}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Until so many files are done.
    pub(crate) async fn done(&self, files: u64) {
        let there = "SELECT count(*) FROM pg_tables WHERE tablename = 'history' AND schemaname = current_schema()";
        self.until("an inbox", there, 1).await;
        self.until("files done", "SELECT count(*) FROM inbox WHERE state = 'done'", files.cast_signed()).await;
    }

    /// The address as a replica has it. Whoever is frozen holds what it has locked for a second.
    fn address(&self, replica: &str, more: &str) -> String {
        let options =
            format!("-c idle_in_transaction_session_timeout=1000{more}").replace(' ', "%20").replace('=', "%3D");
        format!("{}&application_name={}_{replica}&options={options}", self.server, self.name)
    }

    /// The only value of a query; `None` where the table is not there yet.
    pub(crate) async fn text(&self, sql: &str) -> Option<String> {
        self.client.query_one(sql, &[]).await.ok().map(|row| row.get(0))
    }

    /// For a publisher's change log and outbox.
    pub(crate) fn publisher_schemas(&self) -> [String; 2] {
        ["log", "outbox"].map(|of| format!("{}_{of}", self.name))
    }

    /// Of the server.
    pub(crate) fn port(&self) -> u16 {
        Url::parse(&self.server).ok().and_then(|url| url.port()).expect("its address names a port")
    }

    /// Its address, by a port of this machine that leads to it.
    pub(crate) fn address_by(&self, port: u16) -> String {
        self.server.replace(&format!(":{}/", self.port()), &format!(":{port}/"))
    }

    pub(crate) fn inbox_schema(&self) -> String {
        format!("{}_inbox", self.name)
    }

    pub(crate) fn sink_by(&self, port: u16) -> String {
        let options = format!("-c search_path={}_sink", self.name).replace(' ', "%20").replace('=', "%3D");
        format!("{}&options={options}", self.address_by(port))
    }

    pub(crate) async fn end(self) {
        for of in ["inbox", "sink", "log", "outbox"] {
            self.run(&format!("DROP SCHEMA IF EXISTS {}_{of} CASCADE", self.name)).await;
        }
    }
}

/// A process of its own.
pub(crate) struct Replica {
    child: Child,
    name: String,
    pub(crate) log: PathBuf,
}

impl Replica {
    fn start(world: &World, ready: &Path, database: &Database, name: &str) -> Self {
        Self::start_with(world, ready, database, name, |_| {})
    }

    /// `more` adds to how it is started.
    pub(crate) fn start_with(
        world: &World,
        ready: &Path,
        database: &Database,
        name: &str,
        more: impl FnOnce(&mut Command),
    ) -> Self {
        let mut run = Command::new(binary("waybill-subscriber"));
        run.arg("run").arg("--local").arg(ready).arg("--data").arg(world.path(name));
        run.arg("--inbox").arg(database.address(name, ""));
        run.arg("--sink").arg(database.address(name, &format!(" -c search_path={}_sink", database.name)));
        run.env("WAYBILL_SUBSCRIBER__INBOX_SCHEMA", database.inbox_schema());
        run.env("WAYBILL_SUBSCRIBER__LEASE_MS", LEASE.as_millis().to_string());
        run.env("WAYBILL_SUBSCRIBER__DRAIN_TIMEOUT_MS", "0").env("WAYBILL_SUBSCRIBER__FILES_IN_FLIGHT_MAX", "3");
        // Small transactions: more moments at which something can happen.
        run.env("WAYBILL_SUBSCRIBER__COMMIT_ROWS_MAX", "5");
        run.current_dir(world.path("")).stdin(Stdio::null()).stdout(Stdio::null());
        let log = world.path(&format!("{name}.log"));
        log_all_to(&mut run, &log);
        more(&mut run);
        let child = run.kill_on_drop(true).spawn().expect("the subscriber starts");
        Self { child, name: name.to_owned(), log }
    }

    /// As a condition on `worker`.
    fn is_worker(&self) -> String {
        format!("worker LIKE '%-{}-%'", self.pid())
    }

    fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    pub(crate) async fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.pid().to_string()]).status().await.expect("kill runs");
        assert!(sent.success(), "{signal} to {}", self.name);
    }

    /// Freezes it while it holds files, and not while it sends rows: there the database waits for it, and others with it.
    /// Which files, and when the last of their leases ends, in milliseconds since 1970.
    pub(crate) async fn freeze_at_work(&self, database: &Database) -> (Vec<i64>, i64) {
        let mine = format!("application_name = '{}_{}' AND state = 'active'", database.name, self.name);
        let (at_work, sending) = ("IS DISTINCT FROM 'Client'", "= 'Client'");
        let [at_work, sending] = [at_work, sending]
            .map(|it| format!("SELECT count(*) FROM pg_stat_activity WHERE {mine} AND wait_event_type {it}"));
        let held = format!("SELECT id FROM inbox WHERE state = 'working' AND {}", self.is_worker());
        let end = Instant::now() + PATIENCE;
        loop {
            freeze(self.pid()).await;
            // What it asked for before may still happen, unless that waits for rows that it sends itself.
            while database.number(&at_work).await > 0 && database.number(&sending).await == 0 {
                assert!(Instant::now() < end, "what {} asked for does not end", self.name);
                sleep(Duration::from_millis(1)).await;
            }
            let ids = database.numbers(&held).await;
            if !ids.is_empty() && database.number(&sending).await == 0 {
                let until =
                    "SELECT (extract(epoch FROM max(due_at)) * 1000)::bigint FROM inbox WHERE state = 'working'";
                return (ids, database.number(&format!("{until} AND {}", self.is_worker())).await);
            }
            self.signal("-CONT").await;
            assert!(Instant::now() < end, "{} holds no file", self.name);
            sleep(Duration::from_millis(3)).await;
        }
    }

    /// `kill -9`, and until it is gone.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("it is killed");
    }

    /// Stops it in an orderly way.
    pub(crate) async fn stop(mut self) {
        self.signal("-TERM").await;
        self.signal("-CONT").await;
        let ended = timeout(PATIENCE, self.child.wait()).await.expect("it ends in time").expect("it ran");
        assert!(ended.success(), "{}: {ended} {}", self.name, tail(&self.log));
    }
}

/// As an SQL list.
fn list(ids: &[i64]) -> String {
    ids.iter().map(i64::to_string).collect::<Vec<_>>().join(", ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_apply_each_file_once_whatever_becomes_of_them() {
    // A frozen replica's link is given messages again and again until its credit is used up.
    let world = World::of(Local::builder().lock_duration(Duration::from_secs(2)).max_delivery_count(number(50))).await;
    let ready = world.ready_file();
    let database = Database::new().await;
    let start = |name: &str| Replica::start(&world, &ready, &database, name);
    let publishing = world.publisher().await;
    let publish = async |files: std::ops::Range<u64>| {
        for file in files {
            publishing.numbers("Number", file * ROWS..(file + 1) * ROWS).await;
        }
        publishing.sent().await;
    };

    // All three start for the first time at once.
    let [stopped, killed, frozen] = ["stopped", "killed", "frozen"].map(start);
    let third = async {
        database.done(5).await;
        // One that is stopped gives its files back at once. A lease that ran out while it was frozen is not its own any more.
        let (held, _) = stopped.freeze_at_work(&database).await;
        let worker = stopped.is_worker();
        stopped.stop().await;
        let left = format!(
            "SELECT count(*) FROM inbox WHERE state = 'working' AND due_at > now() + interval '0.5 s' AND {worker}"
        );
        assert_eq!(database.number(&left).await, 0, "nobody waits for the leases of {held:?}");
        start("third")
    };
    let ((), third) = tokio::join!(publish(0..FILES), third);

    // One that is killed keeps them until they end, and not longer.
    let ((), (of_killed, until)) = tokio::join!(publish(FILES..FILES * 3 / 2), killed.freeze_at_work(&database));
    let worker = killed.is_worker();
    killed.signal("-KILL").await;
    let taken_over = format!(
        "SELECT (extract(epoch FROM min(at)) * 1000)::bigint FROM history WHERE inbox_id = ANY (ARRAY[{0}]::bigint[])
             AND state = 'working' AND NOT {worker}
             AND id > (SELECT max(id) FROM history AS before WHERE before.inbox_id = history.inbox_id AND {worker})
         GROUP BY inbox_id",
        list(&of_killed)
    );
    database
        .until("a takeover of all", &format!("SELECT count(*) FROM ({taken_over}) AS taken"), of_killed.len() as i64)
        .await;
    for at in database.numbers(&taken_over).await {
        let late = at - until;
        println!("taken over {late} ms after the last lease of the killed one ended");
        let most = LOOK_AGAIN + SLACK;
        assert!(late > -(LEASE.as_millis() as i64) && late < most.as_millis() as i64, "{late} ms");
    }

    // One that is frozen loses them while it sleeps.
    let ((), (of_frozen, _)) = tokio::join!(publish(FILES * 3 / 2..FILES * 2), frozen.freeze_at_work(&database));
    database.done(FILES * 2).await;
    let worker = frozen.is_worker();
    let done_by_others = format!(
        "SELECT count(*) FROM history WHERE state = 'done' AND NOT {worker} AND inbox_id IN ({})",
        list(&of_frozen)
    );
    assert_eq!(database.number(&done_by_others).await, of_frozen.len() as i64);
    let before = database.number("SELECT max(id) FROM history").await;

    // Woken, it changes nothing of theirs, and goes on with what is new.
    frozen.signal("-CONT").await;
    third.stop().await;
    publish(FILES * 2..FILES * 2 + LAST_FILES).await;
    database.done(FILES * 2 + LAST_FILES).await;
    world.all_settled().await;
    frozen.stop().await;
    let meddled = format!("SELECT count(*) FROM history WHERE id > {before} AND inbox_id IN ({})", list(&of_frozen));
    assert_eq!(database.number(&meddled).await, 0, "what it held is as the others left it");
    let last = format!("SELECT count(*) FROM history WHERE state = 'done' AND id > {before} AND {worker}");
    assert_eq!(database.number(&last).await, LAST_FILES as i64);
    publishing.end().await;

    let (files, rows) = ((FILES * 2 + LAST_FILES) as i64, ((FILES * 2 + LAST_FILES) * ROWS) as i64);
    assert_eq!(database.number("SELECT count(*) FROM \"Number\"").await, rows, "every row");
    assert_eq!(database.number("SELECT count(DISTINCT n) FROM \"Number\"").await, rows, "once");
    let progress = "SELECT count(*) FROM _waybill_progress WHERE done";
    assert_eq!(database.number(progress).await, files);
    assert_eq!(
        database.number("SELECT sum(inserted)::bigint FROM _waybill_progress").await,
        rows,
        "each took effect once"
    );
    assert_eq!(database.number("SELECT count(*) FROM inbox WHERE state = 'done'").await, files);
    assert_eq!(database.number("SELECT count(*) FROM inbox").await, files, "and there is nothing else");
    let ends = "SELECT count(*) FROM history WHERE state = 'done'";
    assert_eq!(database.number(ends).await, files, "each file came to its end once");
    let counts = world.counts();
    assert_eq!(counts.totals.completed, files.cast_unsigned(), "each message was settled once");
    println!("{} deliveries of {files} messages", counts.totals.deliveries);
    assert_nothing_was_dead_lettered(&world);
    database.end().await;
    world.end().await;
}
