//! The change log on both databases, and what only happens on one of them.

use std::{env, path::Path};

use tempfile::TempDir;
use tokio::task::JoinSet;
use uuid::Uuid;
use waybill_contracts::BlobType;
use waybill_store::{
    rusqlite::Connection,
    tokio_postgres::{self, Client, NoTls},
};

use super::world::PATIENCE;
use crate::change_log::{
    ChangeLog, LogError, PostgresChangeLogOptions,
    conformance::{self, Service, exercise, until_seated},
};

pub(super) struct SqliteService(pub(super) std::path::PathBuf);

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

/// The process of a session, as the statement that ends it names it.
async fn pid(service: &PostgresService) -> String {
    let pid: i32 = service.client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    format!("SELECT pg_terminate_backend({pid})")
}

/// The holder, once it is this one: other tests have transactions on the same server, each for a while.
async fn until_held_by(log: &ChangeLog, ended_by: &str) -> crate::change_log::Holder {
    let looking = async {
        loop {
            match log.status().await.unwrap().held_back_by {
                Some(held) if held.ended_by == ended_by => return held,
                _ => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect("it is named")
}

/// Who began first may have got its number last: then nobody waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_names_who_has_the_oldest_number_and_not_who_began_first() {
    let schema = fresh_schema();
    let log = postgres_log(&schema).await;
    let (innocent, holder) = (PostgresService::new(&schema).await, PostgresService::new(&schema).await);
    let (innocents_end, holders_end) = (pid(&innocent).await, pid(&holder).await);
    innocent.must("BEGIN; SELECT 1").await;
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    holder.must("BEGIN").await;
    holder.insert(1).await;
    innocent.insert(2).await;
    assert!(until_held_by(&log, &holders_end).await.since.is_some());
    holder.must("COMMIT").await;
    until_held_by(&log, &innocents_end).await;
    innocent.must("COMMIT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_not_see_others_names_the_holder_and_says_that_its_age_is_not_known() {
    let schema = fresh_schema();
    postgres_log(&schema).await;
    let (early, late) = (PostgresService::new(&schema).await, PostgresService::new(&schema).await);
    let (role, own) = (format!("r{}", Uuid::new_v4().simple()), format!("\"{}\"", schema.replace('"', "\"\"")));
    early
        .client
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT ALL ON SCHEMA {own} TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA {own} TO {role};
             GRANT ALL ON ALL SEQUENCES IN SCHEMA {own} TO {role}"
        ))
        .await
        .unwrap();
    let (before, place) = server().split_once('@').map(|(user, place)| (user.to_owned(), place.to_owned())).unwrap();
    let scheme = before.split_once("://").unwrap().0;
    let options = PostgresChangeLogOptions { schema: schema.clone() };
    let plain = ChangeLog::postgres(&format!("{scheme}://{role}@{place}"), options).await.unwrap();
    let (earlys_end, lates_end) = (pid(&early).await, pid(&late).await);
    // The one that began first is not the one with the oldest number.
    late.must("BEGIN; SELECT 1").await;
    early.must("BEGIN").await;
    early.insert(1).await;
    late.insert(2).await;
    let held = until_held_by(&plain, &earlys_end).await;
    assert_eq!(held.since, None, "{held:?}");
    assert!(until_held_by(&postgres_log(&schema).await, &earlys_end).await.since.is_some(), "others may know it");
    early.must("COMMIT").await;
    until_held_by(&plain, &lates_end).await;
    late.must("COMMIT").await;
    plain.close().await;
    early.must(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// Such a publisher would make files, and prune nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_lacks_one_right_is_told_which_by_a_trial() {
    let schema = fresh_schema();
    postgres_log(&schema).await.try_writing().await.unwrap();
    let service = PostgresService::new(&schema).await;
    let (role, own) = (format!("r{}", Uuid::new_v4().simple()), format!("\"{}\"", schema.replace('"', "\"\"")));
    service
        .client
        .batch_execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {own} TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA {own} TO {role};
             REVOKE DELETE ON {own}.change_log FROM {role}"
        ))
        .await
        .unwrap();
    let (before, place) = server().split_once('@').map(|(user, place)| (user.to_owned(), place.to_owned())).unwrap();
    let scheme = before.split_once("://").unwrap().0;
    let options = PostgresChangeLogOptions { schema: schema.clone() };
    let plain = ChangeLog::postgres(&format!("{scheme}://{role}@{place}"), options).await.unwrap();
    let refused = plain.try_writing().await.unwrap_err();
    let text = crate::relay::chain(&refused);
    assert!(text.contains("permission denied for table change_log"), "{text}");
    plain.close().await;
    service.must(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
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

/// Also while a publisher has it, which looked when it began.
#[tokio::test(flavor = "multi_thread")]
async fn ids_in_sqlite_that_begin_anew_are_refused_at_the_next_look() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let service = SqliteService(path);
    let mut seat = conformance::seat(&log).await;
    for _ in 0..3 {
        service.must("INSERT INTO LOG (blob_type, row) VALUES ('N', '{}')").await;
    }
    assert_eq!(seat.settled().await.unwrap(), 3);
    let limits = crate::change_log::Cut { max_rows: std::num::NonZeroU32::MAX, max_bytes: std::num::NonZeroU64::MAX };
    seat.plan("N", 3, limits, true).await.unwrap().unwrap();
    service.must("DELETE FROM LOG").await;
    assert_eq!(seat.settled().await.unwrap(), 0, "what is published may be deleted");
    service.must("DELETE FROM sqlite_sequence WHERE name = 'LOG'").await;
    service.must("INSERT INTO LOG (blob_type, row) VALUES ('N', '{}')").await;
    let Err(LogError::Ids { problem, .. }) = seat.settled().await else { panic!("it would be skipped") };
    assert!(problem.contains("the last one given is 1, but those up to 3 are published"), "{problem}");
    let mend = problem.split_once("Say: ").unwrap().1.split_once(" (INSERT").unwrap().0;
    service.must(mend).await;
    service.must("INSERT INTO LOG (blob_type, row) VALUES ('N', '{}')").await;
    assert_eq!(seat.settled().await.unwrap(), 4);
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

/// A schema of the service, which no other test has.
fn service_schema(name: &str) -> String {
    format!("service {name} {}", Uuid::new_v4().simple())
}

/// What is logged of a type, oldest first: op, key, row.
async fn logged(log: &ChangeLog, blob_type: &str) -> Vec<(String, String, String)> {
    let filter = crate::change_log::ChangeFilter { blob_type: Some(blob_type.to_owned()), ..Default::default() };
    let mut changes = log.changes(&filter).await.unwrap();
    changes.reverse();
    changes.into_iter().map(|change| (change.op, change.key.unwrap_or_default(), change.row)).collect()
}

fn change(op: &str, key: &str, row: &str) -> (String, String, String) {
    (op.to_owned(), key.to_owned(), row.to_owned())
}

async fn triggers(log: &ChangeLog, service: &impl Service, table: &str, blob_type: &str, key: &[&str]) {
    let key: Vec<String> = key.iter().map(|column| (*column).to_owned()).collect();
    let script = log.triggers(table, &BlobType::new(blob_type).unwrap(), &key).await.unwrap();
    service.must(&script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_one_name_in_two_schemas_are_logged_each_by_its_own_key() {
    let schema = fresh_schema();
    let log = postgres_log(&schema).await;
    let service = PostgresService::new(&schema).await;
    // Long ones, too, and such that a dot does not tell where the schema ends.
    let long = "x".repeat(20);
    let places = [
        (service_schema("one"), "item".to_owned(), "id"),
        (service_schema("two"), "item".to_owned(), "code"),
        (service_schema(&long), long.clone(), "long"),
        (service_schema(&format!("{long}y")), long, "longer"),
    ];
    for (place, table, key) in &places {
        service.must(&format!("CREATE SCHEMA \"{place}\"")).await;
        service.must(&format!("CREATE TABLE \"{place}\".\"{table}\" ({key} integer PRIMARY KEY)")).await;
        triggers(&log, &service, &format!("{place}.{table}"), "ItemChanges", &[]).await;
    }
    for (place, table, key) in &places {
        service.must(&format!("INSERT INTO \"{place}\".\"{table}\" VALUES (1)")).await;
        service.must(&format!("UPDATE \"{place}\".\"{table}\" SET {key} = 2")).await;
    }
    let expected: Vec<_> = places
        .iter()
        .flat_map(|(_, _, key)| {
            let row = |n: u32| format!("{{\"{key}\":{n}}}");
            [("upsert", 1), ("delete", 1), ("upsert", 2)].map(|(op, n)| change(op, &n.to_string(), &row(n)))
        })
        .collect();
    assert_eq!(logged(&log, "ItemChanges").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_logged_as_several_types_and_what_an_earlier_version_made_is_replaced() {
    let schema = fresh_schema();
    let log = postgres_log(&schema).await;
    let service = PostgresService::new(&schema).await;
    let place = service_schema("types");
    let (table, own) = (format!("\"{place}\".item"), format!("\"{}\"", schema.replace('"', "\"\"")));
    service.must(&format!("CREATE SCHEMA \"{place}\"; CREATE TABLE {table} (id integer PRIMARY KEY)")).await;
    // The names of an earlier version, which had one type for a table.
    service
        .must(&format!(
            "CREATE FUNCTION {own}.\"item to First\"() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
             BEGIN
                 INSERT INTO {own}.change_log (blob_type, op, row, key) VALUES ('First', 'upsert', row_to_json(NEW), NEW.id);
                 RETURN NULL;
             END $$;
             CREATE TRIGGER waybill_changed AFTER INSERT OR UPDATE OR DELETE ON {table}
                 FOR EACH ROW EXECUTE FUNCTION {own}.\"item to First\"();
             CREATE TRIGGER waybill_truncated BEFORE TRUNCATE ON {table}
                 FOR EACH STATEMENT EXECUTE FUNCTION {own}.\"item to First\"()"
        ))
        .await;
    let first = format!("{}{}", "First", "x".repeat(60));
    let name = format!("{place}.item");
    for blob_type in ["Second", first.as_str(), &format!("{first}y"), "Second"] {
        triggers(&log, &service, &name, blob_type, &[]).await;
    }
    service.must(&format!("INSERT INTO {table} VALUES (1)")).await;
    let all = ["First", "Second", first.as_str(), &format!("{first}y")];
    for blob_type in all {
        assert_eq!(logged(&log, blob_type).await, [change("upsert", "1", "{\"id\":1}")], "{blob_type}");
        let of = BlobType::new(blob_type).unwrap();
        assert_eq!(log.other_tables_of(&of, &[]).await.unwrap(), std::slice::from_ref(&name), "{blob_type}");
    }
    // Now the first one too: it is logged once, and nothing of the earlier version is left.
    triggers(&log, &service, &name, "First", &[]).await;
    service.must(&format!("UPDATE {table} SET id = 2")).await;
    let row = |n: u32| format!("{{\"id\":{n}}}");
    let again = [change("upsert", "1", &row(1)), change("upsert", "", &row(1)), change("delete", "1", &row(1))];
    let mut expected = again.to_vec();
    expected.push(change("upsert", "2", &row(2)));
    assert_eq!(logged(&log, "First").await, expected);
    let left = "SELECT count(*) FROM pg_proc JOIN pg_namespace n ON n.oid = pronamespace
        WHERE nspname = $1 AND proname = 'item to First'";
    assert_eq!(service.client.query_one(left, &[&schema]).await.unwrap().get::<_, i64>(0), 0);
    assert!(service.run(&format!("TRUNCATE {table}")).await.unwrap_err().contains("TRUNCATE does not tell"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_two_rows_may_have_for_a_while_is_refused_and_one_that_they_may_not_is_taken() {
    let schema = fresh_schema();
    let log = postgres_log(&schema).await;
    let service = PostgresService::new(&schema).await;
    let place = service_schema("deferrable");
    let table = format!("\"{place}\".item");
    service
        .must(&format!(
            "CREATE SCHEMA \"{place}\"; CREATE TABLE {table} (id integer CONSTRAINT late PRIMARY KEY DEFERRABLE, code text NOT NULL UNIQUE)"
        ))
        .await;
    let name = format!("{place}.item");
    let of = BlobType::new("Items").unwrap();
    for key in [&[][..], &["id".to_owned()]] {
        let Err(LogError::Table { problem, .. }) = log.triggers(&name, &of, key).await else { panic!("{key:?}") };
        assert!(problem.contains("constraint late is DEFERRABLE"), "{problem}");
        assert!(problem.contains("ADD PRIMARY KEY (\"id\")"), "{problem}");
    }
    triggers(&log, &service, &name, "Items", &["code"]).await;
    // As the refusal says.
    service.must(&format!("ALTER TABLE {table} DROP CONSTRAINT late, ADD PRIMARY KEY (id) INCLUDE (code)")).await;
    triggers(&log, &service, &name, "Items", &[]).await;
    service.must(&format!("INSERT INTO {table} VALUES (1, 'a')")).await;
    service.must(&format!("UPDATE {table} SET code = 'b'")).await;
    let row = |code: &str| format!("{{\"id\":1,\"code\":\"{code}\"}}");
    let expected = [change("upsert", "1", &row("a")), change("upsert", "1", &row("b"))];
    assert_eq!(logged(&log, "Items").await, expected, "what an index only holds along is no key");
}

/// Equal for the column, and two keys for a subscriber.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_changes_only_in_what_its_column_calls_equal_is_a_deletion_and_an_upsert() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("shop.sqlite");
    let log = ChangeLog::sqlite(&path).await.unwrap();
    let service = SqliteService(path);
    service.must("CREATE TABLE item (code TEXT COLLATE NOCASE, n INTEGER, PRIMARY KEY (code, n))").await;
    triggers(&log, &service, "item", "Items", &[]).await;
    service.must("INSERT INTO item VALUES ('a', 1)").await;
    service.must("UPDATE item SET code = 'A'").await;
    service.must("UPDATE item SET code = 'A'").await;
    let row = |code: &str| format!("{{\"code\":\"{code}\",\"n\":1}}");
    let after = [
        change("upsert", "a,1", &row("a")),
        change("delete", "a,1", &row("a")),
        change("upsert", "A,1", &row("A")),
        change("upsert", "A,1", &row("A")),
    ];
    assert_eq!(logged(&log, "Items").await, after);

    let schema = fresh_schema();
    let log = postgres_log(&schema).await;
    let service = PostgresService::new(&schema).await;
    let place = service_schema("case");
    let table = format!("\"{place}\".item");
    service
        .must(&format!(
            "CREATE SCHEMA \"{place}\";
             CREATE COLLATION \"{place}\".nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
             CREATE TABLE {table} (code text COLLATE \"{place}\".nocase, n integer, PRIMARY KEY (code, n))"
        ))
        .await;
    triggers(&log, &service, &format!("{place}.item"), "Items", &[]).await;
    service.must(&format!("INSERT INTO {table} VALUES ('a', 1)")).await;
    service.must(&format!("UPDATE {table} SET code = 'A'")).await;
    service.must(&format!("UPDATE {table} SET code = 'A'")).await;
    assert_eq!(logged(&log, "Items").await, after);
}

/// However many are read: a pool would give up on who waits for long, and say that a file cannot be made.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_read_leave_connections_to_whoever_plans_and_looks() {
    use futures::TryStreamExt as _;
    let schema = fresh_schema();
    let log = postgres_log(&schema).await;
    let service = PostgresService::new(&schema).await;
    let mut seat = conformance::seat(&log).await;
    service.insert(1).await;
    let up_to = settled(&mut seat).await;
    let limits = crate::change_log::Cut { max_rows: std::num::NonZeroU32::MAX, max_bytes: std::num::NonZeroU64::MAX };
    let Some(crate::change_log::Tail::File(file, _)) = seat.plan("N", up_to, limits, true).await.unwrap() else {
        panic!("it is due");
    };
    let soon = std::time::Duration::from_secs(5);
    let mut first: Vec<_> = (0..6).map(|_| log.lines(&file)).collect();
    for lines in &mut first {
        assert!(lines.try_next().await.unwrap().is_some());
    }
    let mut waits = log.lines(&file);
    let moment = std::time::Duration::from_millis(200);
    assert!(tokio::time::timeout(moment, waits.try_next()).await.is_err(), "it takes the last connection");
    tokio::time::timeout(soon, log.status()).await.expect("one is left for whoever looks").unwrap();
    seat.settled().await.unwrap();
    drop(first);
    let rest: Vec<bytes::Bytes> = tokio::time::timeout(soon, waits.try_collect()).await.expect("its turn").unwrap();
    assert_eq!(rest.concat(), b"{\"n\":1}\n");
}
