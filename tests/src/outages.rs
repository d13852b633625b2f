//! Long outages and quiet times: a subscriber waits for TenantService, storage and its database without using the processor or
//! asking again and again, and goes on by itself.
//!
//! A test cuts each of them for some seconds; with `WAYBILL_SOAK_SECONDS`, as `cargo xtask soak` has it, each is away for ten
//! minutes. The pauses between two tries are those of a run in either case.

use std::time::Duration;

use tokio::{
    process::Command,
    time::{Instant, sleep, sleep_until},
};
use url::Url;
use waybill_local::Local;

use crate::{
    harness::{PATIENCE, World, assert_nothing_was_dead_lettered, binary, query, waybill},
    line::{Line, Process},
    replicas::Database,
};

/// Half of it nobody listens; in the other half who comes is counted, and turned away.
const LASTS_S: u64 = 16;
/// Sent before the outage, and as many while it lasts.
const FILES: u64 = 3;
const ROWS: u64 = 10;
/// Of one core, in a thousand.
const OUTAGE_PER_MILLE: u32 = 10;
/// A debug build takes several times as much beside other tests: there it tells a busy loop only.
const IDLE_PER_MILLE: u32 = if cfg!(debug_assertions) { 50 } else { 5 };
/// What is done once, when the outage begins: links that end, what was under way, a line of log for each. In a debug build.
const AT_ITS_BEGINNING: Duration = Duration::from_millis(150);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    TenantService,
    Storage,
    Database,
}

fn lasts() -> Duration {
    let told = std::env::var("WAYBILL_SOAK_SECONDS").ok();
    Duration::from_secs(told.map_or(LASTS_S, |text| text.parse().expect("WAYBILL_SOAK_SECONDS is a number")))
}

/// So short that they are over long before TenantService is back.
fn token_life() -> Duration {
    lasts() / 4
}

/// A subscriber in a process of its own, and the line that is cut.
struct Outage {
    away: Away,
    world: World,
    database: Option<Database>,
    /// To TenantService, by which every grant comes.
    tenant: Line,
    /// To what is cut, where that is another.
    cut: Option<Line>,
    files: u64,
}

impl Outage {
    async fn new(away: Away) -> Self {
        let mut local = Local::builder();
        if away == Away::TenantService {
            local = local.token_life(token_life());
        }
        let world = World::of(local).await;
        let ports = world.local.ports();
        let (tenant, cut, database) = match away {
            Away::TenantService => (Line::to(ports.tenant).await, None, None),
            Away::Storage => {
                let storage = Line::to(ports.blob).await;
                let other = [ports.blob, storage.port].map(|port| format!("127.0.0.1:{port}/"));
                (Line::saying(ports.tenant, Some(other)).await, Some(storage), None)
            }
            Away::Database => {
                let database = Database::new().await;
                let line = Line::to(database.port()).await;
                (Line::to(ports.tenant).await, Some(line), Some(database))
            }
        };
        Self { away, world, database, tenant, cut, files: 0 }
    }

    fn line(&self) -> &Line {
        self.cut.as_ref().unwrap_or(&self.tenant)
    }

    fn start(&self) -> Process {
        let ready = self.world.local.ready_file();
        let (inbox, sink) = match &self.database {
            Some(database) => {
                let port = self.line().port;
                (Some(database.address_by(port)), database.sink_by(port))
            }
            None => (None, format!("sqlite:{}", self.world.database().display())),
        };
        let folder = self.world.path("");
        Process::start("waybill-subscriber", &folder, &format!("{:?}", self.away), |run| {
            run.args(["run", "--data", "subscriber", "--sink", &sink]);
            run.env("WAYBILL_SUBSCRIBER__TENANT__URL", format!("http://127.0.0.1:{}", self.tenant.port));
            run.env("WAYBILL_SUBSCRIBER__TENANT__BEARER_TOKEN", &ready.bearer_token);
            if let (Some(inbox), Some(database)) = (inbox, &self.database) {
                run.args(["--inbox", &inbox]).env("WAYBILL_SUBSCRIBER__INBOX_SCHEMA", database.inbox_schema());
            }
        })
    }

    /// Stores and announces some files; where a line leads to storage, by its address.
    async fn send(&mut self) {
        let mut messages = Vec::new();
        for _ in 0..FILES {
            let numbers = self.files * ROWS..(self.files + 1) * ROWS;
            self.files += 1;
            let rows: String = numbers.map(|n| format!("{{\"n\":{n}}}\n")).collect();
            let uri = self.world.put(&format!("Number/{}.jsonl", self.files), rows).await;
            let mut uri = Url::parse(&uri).expect("an address");
            if self.away == Away::Storage {
                uri.set_port(Some(self.line().port)).expect("it has a port");
            }
            messages.push(waybill("Number", uri.as_str()).to_string());
        }
        self.world.send(messages).await;
    }

    /// Rows, and different ones.
    async fn rows(&self) -> String {
        let counted = "SELECT count(*) || ' ' || count(DISTINCT n) FROM \"Number\"";
        match &self.database {
            Some(database) => database.text(counted).await.unwrap_or_default(),
            // Not made yet.
            None if !self.has_table() => String::new(),
            None => query(&self.world.database(), counted).remove(0),
        }
    }

    fn has_table(&self) -> bool {
        let database = self.world.database();
        database.exists() && query(&database, "SELECT 1 FROM sqlite_schema WHERE name = 'Number'").len() == 1
    }

    async fn until_applied(&self) -> Duration {
        let (began, wanted) = (Instant::now(), format!("{0} {0}", self.files * ROWS));
        loop {
            let rows = self.rows().await;
            if rows == wanted {
                return began.elapsed();
            }
            assert!(began.elapsed() < PATIENCE, "{:?}: {rows:?} rows, not {wanted:?}: {}", self.away, self.log());
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn log(&self) -> String {
        let log = std::fs::read_to_string(self.world.path(&format!("{:?}.log", self.away))).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    async fn pass(mut self) {
        let away = self.away;
        let process = self.start();
        self.send().await;
        self.until_applied().await;
        let half = lasts() / 2;

        self.line().cut();
        let (cpu, began) = (process.cpu(), Instant::now());
        if away == Away::TenantService {
            // Tokens that live are used.
            sleep(token_life() + Duration::from_secs(2)).await;
        }
        self.send().await;
        sleep_until(began + half).await;
        self.line().count();
        sleep(half).await;
        let (cpu, met) = (process.cpu() - cpu, self.line().met());
        let rows = self.rows().await;
        self.line().mend();
        let back = self.until_applied().await;
        println!(
            "{away:?} away for {} s: {} ms of processor time, {met} connections in the second half, on again after {:.1} s",
            lasts().as_secs(),
            cpu.as_millis(),
            back.as_secs_f64()
        );

        assert_eq!(rows, format!("{0} {0}", FILES * ROWS), "{away:?}: nothing came meanwhile");
        let most = AT_ITS_BEGINNING + lasts() * OUTAGE_PER_MILLE / 1000;
        assert!(cpu < most, "{away:?}: {cpu:?} of processor time in {:?}", lasts());
        assert!(met > 0, "{away:?}: nobody tries any more");
        // A try a second, all that need it together.
        assert!(met <= 10 + half.as_secs(), "{away:?}: {met} connections in {half:?}");
        self.world.all_settled().await;
        process.stop(&self.world.path("")).await;
        assert_nothing_was_dead_lettered(&self.world);
        if let Some(database) = self.database {
            database.end().await;
        }
        self.world.end().await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_tenantservice_storage_or_the_database_is_away_for_long_a_subscriber_idles_and_then_goes_on_by_itself() {
    let pass = async |away| Box::pin(Outage::new(away).await.pass()).await;
    tokio::join!(pass(Away::TenantService), pass(Away::Storage), pass(Away::Database));
}

/// A subscriber and a publisher that follows a change log, with SQLite and with PostgreSQL.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_nothing_to_do_hardly_uses_the_processor() {
    let world = World::new().await;
    let (ready, folder, database) = (world.ready_file(), world.path(""), Database::new().await);
    let port = database.port();
    let subscriber = |what: &str, inbox: Option<String>, sink: String| {
        Process::start("waybill-subscriber", &folder, what, |run| {
            run.arg("run").arg("--local").arg(&ready).args(["--data", what, "--sink", &sink]);
            if let Some(inbox) = inbox {
                run.args(["--inbox", &inbox]).env("WAYBILL_SUBSCRIBER__INBOX_SCHEMA", database.inbox_schema());
            }
        })
    };
    let publisher = async |what: &str, settings: String| {
        let path = folder.join(format!("{what}.toml"));
        std::fs::write(&path, format!("[publisher]\ndata = \"{what}\"\n{settings}")).expect("a file");
        let mut init = Command::new(binary("waybill-publisher"));
        init.args(["init", "--config"]).arg(&path).current_dir(&folder);
        let made = init.output().await.expect("it runs");
        assert!(made.status.success(), "{what}: {}", String::from_utf8_lossy(&made.stderr));
        Process::start("waybill-publisher", &folder, what, |run| {
            run.arg("run").arg("--config").arg(&path).arg("--local").arg(&ready);
        })
    };
    let [log, outbox] = database.publisher_schemas();
    let shop = format!(
        "change_log = \"{}\"\nchange_log_schema = \"{log}\"\noutbox_schema = \"{outbox}\"\n",
        database.address_by(port)
    );
    let idle = [
        ("subscriber, SQLite", subscriber("lite", None, format!("sqlite:{}", world.database().display()))),
        ("subscriber, PostgreSQL", subscriber("post", Some(database.address_by(port)), database.sink_by(port))),
        ("publisher, SQLite", publisher("sells-lite", "change_log = \"sqlite:shop.sqlite\"\n".to_owned()).await),
        ("publisher, PostgreSQL", publisher("sells-post", shop).await),
    ];
    // Two of each subscriber, one of each publisher.
    let (links, began) = (6, Instant::now());
    while world.local.broker().links().len() < links {
        assert!(began.elapsed() < PATIENCE, "links of all: {:?}", world.local.broker().links());
        sleep(Duration::from_millis(50)).await;
    }
    // The first looks around are over.
    sleep(Duration::from_secs(3)).await;
    let (before, began) = (idle.each_ref().map(|(_, process)| process.cpu()), Instant::now());
    sleep(Duration::from_secs(15)).await;
    let (lasted, used) = (began.elapsed(), idle.each_ref().map(|(_, process)| process.cpu()));
    for (((what, _), before), after) in idle.iter().zip(before).zip(used) {
        println!("{what}: {} ms of processor time in {:.1} s", (after - before).as_millis(), lasted.as_secs_f64());
    }
    for (((what, process), before), after) in idle.into_iter().zip(before).zip(used) {
        let most = lasted * IDLE_PER_MILLE / 1000;
        assert!(after - before <= most, "{what}: {:?} in {lasted:?}", after - before);
        process.stop(&folder).await;
    }
    database.end().await;
    world.end().await;
}
