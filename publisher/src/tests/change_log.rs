//! The change log on both databases, and what only happens on one of them.

use std::{env, path::Path};

use tempfile::TempDir;
use tokio::task::JoinSet;
use uuid::Uuid;
use waybill_store::{
    rusqlite::Connection,
    tokio_postgres::{self, Client, NoTls},
};

use crate::change_log::{
    ChangeLog, LogError, PostgresChangeLogOptions,
    conformance::{self, Service, exercise, until_seated},
};

struct SqliteService(std::path::PathBuf);

impl Service for SqliteService {
    async fn run(&self, sql: &str) -> Result<(), String> {
        let db = Connection::open(&self.0).unwrap();
        db.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
        db.execute_batch(&sql.replace("LOG", "waybill_change_log")).map_err(|error| error.to_string())
    }

    async fn last(&self) -> i64 {
        let db = Connection::open(&self.0).unwrap();
        db.query_row("SELECT coalesce(max(id), 0) FROM waybill_change_log", [], |row| row.get(0)).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_sqlite_keeps_the_contract() {
    let folder = TempDir::new().unwrap();
    exercise(|name| {
        let path = folder.path().join(name);
        async move { (ChangeLog::sqlite(&path).await.unwrap(), SqliteService(path)) }
    })
    .await;
}

pub(super) fn server() -> String {
    let server = env::var("WAYBILL_TEST_POSTGRES")
        .expect("WAYBILL_TEST_POSTGRES is not set: run `cargo xtask test`, which starts a PostgreSQL");
    format!("{server}?sslmode=disable")
}

/// A schema that no other test has; its name needs quotes.
pub(super) fn fresh_schema() -> String {
    format!("a \"log\" {}", Uuid::new_v4().simple())
}

pub(super) async fn postgres_log(schema: &str) -> ChangeLog {
    ChangeLog::postgres(&server(), PostgresChangeLogOptions { schema: schema.to_owned() }).await.unwrap()
}

/// A session of the service.
pub(super) struct PostgresService {
    pub(super) client: Client,
    table: String,
    /// Ends with it.
    _served: JoinSet<()>,
}

impl PostgresService {
    pub(super) async fn new(schema: &str) -> Self {
        let (client, connection) = tokio_postgres::connect(&server(), NoTls).await.unwrap();
        let mut served = JoinSet::new();
        served.spawn(async {
            connection.await.unwrap_or_default();
        });
        Self { client, table: format!("\"{}\".change_log", schema.replace('"', "\"\"")), _served: served }
    }

    async fn insert(&self, n: u32) {
        self.must(&format!("INSERT INTO LOG (blob_type, row) VALUES ('N', '{{\"n\":{n}}}')")).await;
    }
}

impl Service for PostgresService {
    async fn run(&self, sql: &str) -> Result<(), String> {
        let done = self.client.batch_execute(&sql.replace("LOG", &self.table)).await;
        done.map_err(|error| format!("{error:?}"))
    }

    async fn last(&self) -> i64 {
        let sql = format!("SELECT coalesce(max(id), 0) FROM {}", self.table);
        self.client.query_one(&sql, &[]).await.unwrap().get(0)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_postgresql_keeps_the_contract() {
    exercise(|_| async {
        let schema = fresh_schema();
        (postgres_log(&schema).await, PostgresService::new(&schema).await)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_began_early_and_commits_late_is_not_skipped() {
    let schema = fresh_schema();
    let log = postgres_log(&schema).await;
    let (early, other) = (PostgresService::new(&schema).await, PostgresService::new(&schema).await);
    let mut seat = conformance::seat(&log).await;
    early.must("BEGIN").await;
    early.insert(1).await;
    other.insert(2).await;
    for _ in 0..3 {
        assert_eq!(seat.settled().await.unwrap(), 0, "the lower id may still come");
    }
    early.must("COMMIT").await;
    assert_eq!(settled(&mut seat).await, 2);
}

/// What began after is not waited for; what is rolled back leaves a gap that nobody waits for.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_may_bring_a_lower_id_is_waited_for() {
    let schema = fresh_schema();
    let log = postgres_log(&schema).await;
    let (early, late, other) =
        (PostgresService::new(&schema).await, PostgresService::new(&schema).await, PostgresService::new(&schema).await);
    let mut seat = conformance::seat(&log).await;
    early.must("BEGIN").await;
    early.insert(1).await;
    other.insert(2).await;
    assert_eq!(seat.settled().await.unwrap(), 0);
    late.must("BEGIN").await;
    late.insert(3).await;
    early.must("ROLLBACK").await;
    assert_eq!(settled(&mut seat).await, 2, "id 3 belongs to one that is under way");
    let waiting = seat.waiting(2).await.unwrap();
    assert_eq!(waiting, [("N".to_owned(), 0)]);
    late.must("COMMIT").await;
    assert_eq!(settled_at(&mut seat, 3).await, 3);
}

/// Waits until something is settled: other tests' transactions are in the same server.
async fn settled(seat: &mut crate::change_log::Seat) -> i64 {
    settled_at(seat, 1).await
}

async fn settled_at(seat: &mut crate::change_log::Seat, least: i64) -> i64 {
    loop {
        let settled = seat.settled().await.unwrap();
        if settled >= least {
            return settled;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_names_the_transaction_that_holds_changes_back_and_how_to_end_it() {
    let schema = fresh_schema();
    let log = postgres_log(&schema).await;
    let (early, other) = (PostgresService::new(&schema).await, PostgresService::new(&schema).await);
    early.must("BEGIN; SET application_name = 'forgotten'").await;
    early.insert(1).await;
    // Other tests have transactions on the same server; this one becomes the oldest.
    let held = loop {
        match log.status().await.unwrap().held_back_by {
            Some(held) if held.who.contains("forgotten") => break held,
            _ => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
        }
    };
    assert!(held.doing.starts_with("idle in transaction: INSERT INTO"), "{held:?}");
    other.insert(2).await;
    other.must(&held.ended_by).await;
    let mut seat = conformance::seat(&log).await;
    assert_eq!(settled_at(&mut seat, 2).await, 2);
    assert_eq!(seat.waiting(2).await.unwrap(), [("N".to_owned(), 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_publisher_takes_over_when_the_session_of_the_first_is_ended() {
    let schema = fresh_schema();
    let log = postgres_log(&schema).await;
    let service = PostgresService::new(&schema).await;
    let mut first = conformance::seat(&log).await;
    let lock = format!("'x' || encode(substr(sha256('waybill change log {schema}'::bytea), 1, 8), 'hex')");
    let end = &format!(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted
             AND classid::bigint << 32 | objid::bigint = ({lock})::bit(64)::bigint"
    );
    service.insert(1).await;
    service.must(end).await;
    let mut second = until_seated(&log).await;
    assert_eq!(settled(&mut second).await, 1);
    assert!(
        matches!(first.settled().await, Err(LogError::Unavailable(_))),
        "who has lost the right writes nothing more"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_database_on_another_server_is_refused_until_it_is_adopted() {
    let schema = fresh_schema();
    let log = postgres_log(&schema).await;
    let service = PostgresService::new(&schema).await;
    service.must(&format!("UPDATE {} SET cluster = '1/1'", service.table.replace("change_log", "log"))).await;
    let refused = log.seat(conformance::EPOCH).await;
    assert!(matches!(refused, Err(LogError::OtherCluster { theirs, .. }) if theirs == "1/1"));
    while !log.adopt(conformance::EPOCH).await.unwrap() {}
    until_seated(&log).await;
}

/// A session would take ids ahead, and commit them after higher ones of others.
#[tokio::test(flavor = "multi_thread")]
async fn ids_that_sessions_take_ahead_are_refused_with_the_statement_that_mends_it() {
    let schema = fresh_schema();
    let log = postgres_log(&schema).await;
    let service = PostgresService::new(&schema).await;
    let sequence = service.table.replace("change_log", "change_log_id_seq");
    service.must(&format!("ALTER SEQUENCE {sequence} CACHE 10")).await;
    let mend = loop {
        match log.seat(conformance::EPOCH).await {
            Err(LogError::Ids { problem, .. }) => break problem.split_once("say: ").unwrap().1.to_owned(),
            Ok(None) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            other => panic!("{other:?}"),
        }
    };
    assert!(log.check().await.is_err());
    service.must(&mend).await;
    log.check().await.unwrap();
    until_seated(&log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_began_anew_are_refused_and_none_is_skipped_silently() {
    let schema = fresh_schema();
    let log = postgres_log(&schema).await;
    let service = PostgresService::new(&schema).await;
    let mut seat = conformance::seat(&log).await;
    for n in 0..3 {
        service.insert(n).await;
    }
    let up_to = settled_at(&mut seat, 3).await;
    let limits = crate::change_log::Cut { max_rows: std::num::NonZeroU32::MAX, max_bytes: std::num::NonZeroU64::MAX };
    seat.plan("N", up_to, limits, true).await.unwrap().unwrap();
    service.must("TRUNCATE LOG RESTART IDENTITY").await;
    service.insert(4).await;
    // Whoever follows finds it, and whoever would.
    let found = loop {
        match seat.settled().await {
            Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            Err(found) => break found,
        }
    };
    assert!(matches!(found, LogError::Ids { .. }) && found.needs_person(), "{found}");
    let LogError::Ids { problem, .. } = log.check().await.unwrap_err() else { panic!("of another kind") };
    let mend = problem.split_once("Say: ").unwrap().1.split_once(", and log again").unwrap().0;
    service.must(mend).await;
    log.check().await.unwrap();
    drop(seat);
    until_seated(&log).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_in_sqlite_that_began_anew_are_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let service = SqliteService(path);
    let mut seat = conformance::seat(&log).await;
    service.must("INSERT INTO LOG (blob_type, row) VALUES ('N', '{}')").await;
    let limits = crate::change_log::Cut { max_rows: std::num::NonZeroU32::MAX, max_bytes: std::num::NonZeroU64::MAX };
    seat.plan("N", 1, limits, true).await.unwrap().unwrap();
    drop(seat);
    service.must("DELETE FROM LOG").await;
    drop(until_seated(&log).await);
    service.must("DELETE FROM sqlite_sequence WHERE name = 'LOG'").await;
    assert!(matches!(log.check().await, Err(LogError::Ids { .. })));
    assert!(matches!(log.seat(conformance::EPOCH).await, Err(LogError::Ids { .. })));
}

/// Bytes that are no text cost nobody else anything.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_stores_in_sqlite_as_bytes_or_as_no_utf_8_stops_nothing() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let service = SqliteService(path);
    for refused in ["CAST('T' AS BLOB)", "'T' || char(0) || ' x'", "CAST(x'54ff' AS TEXT)"] {
        let insert = format!("INSERT INTO LOG (blob_type, row) VALUES ({refused}, '{{}}')");
        assert!(service.run(&insert).await.is_err(), "{refused} is no type");
    }
    service.must(r#"INSERT INTO LOG (blob_type, row) VALUES ('T', CAST('{"a":1}' AS BLOB))"#).await;
    service
        .must(r#"INSERT INTO LOG (blob_type, row, key) VALUES ('T', CAST(x'7b2261223a22ff227d' AS TEXT), x'ff')"#)
        .await;
    service.must("INSERT INTO LOG (blob_type, row, causation_id) VALUES ('T', '{}', CAST(x'ff' AS TEXT))").await;
    let mut seat = conformance::seat(&log).await;
    let settled = seat.settled().await.unwrap();
    let limits = crate::change_log::Cut { max_rows: std::num::NonZeroU32::MAX, max_bytes: std::num::NonZeroU64::MAX };
    let Some(crate::change_log::Tail::File(file, _)) = seat.plan("T", settled, limits, true).await.unwrap() else {
        panic!("they are due");
    };
    use futures::TryStreamExt as _;
    let lines: Vec<bytes::Bytes> = log.lines(&file).try_collect().await.unwrap();
    assert_eq!(lines.concat(), b"{\"a\":1}\n{\"a\":\"\xff\"}\n{}\n", "a reader judges them");
    assert!(log.status().await.unwrap().waiting_since.is_none());
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_with_its_path() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("shop.sqlite");
    std::fs::write(&path, "hello").unwrap();
    let error = ChangeLog::sqlite(Path::new(&path)).await.unwrap_err();
    assert!(crate::relay::chain(&error).contains("shop.sqlite: damaged or no SQLite file"), "{error:?}");
}
