//! Inboxes that earlier versions left, of each schema there ever was: they open, keep everything, and go on.
//!
//! What a version left is made of its steps and the same rows, written as SQL alone. The steps are what earlier versions ran: a
//! list of their hashes says that none was changed since.

use std::{fmt::Write as _, time::Duration};

use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use tokio::task::JoinSet;
use uuid::Uuid;
use waybill_contracts::Reason;
use waybill_store::{Schema, rusqlite::Connection, tokio_postgres};

use super::{
    Admitted, Counts, End, FileDone, FileKey, Inbox, InboxError, InboxRow, PostgresInbox, PostgresInboxOptions,
    SequenceSeen, SqliteInbox, SqliteInboxOptions, State, Wanted, WorkerId, conformance::arrival, postgres, sqlite,
};

/// The first bytes of each step's SHA-256. A step that was released never changes; a new one adds its line.
const SQLITE_STEPS: &[&str] = &[
    "9e516b9fa59a",
    "52f25a150c14",
    "326eee8cb26a",
    "8cfafe54bde5",
    "cd321e8b256c",
    "3dd70da620ce",
    "ebc087e8ab00",
    "e527894eff7e",
    "a05d68018ad1",
    "e99f22dc428e",
];
const POSTGRES_STEPS: &[&str] =
    &["9089c46325a7", "8a7d1ffa77de", "ab627980bbb8", "5874042cc9f5", "c9c6d1af4c51", "1774ccfe7b27", "4f3af6d5dd3f"];

/// Seconds since 1970 at which the old rows came.
const THEN: i64 = 1_700_000_000;
const ENTITY: &str = "exports/subscriptions/acme";

/// What the two databases write differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    fn at(self, seconds: i64) -> String {
        match self {
            Self::Sqlite => format!("{seconds}000000000"),
            Self::Postgres => format!("to_timestamp({seconds})"),
        }
    }

    /// The schema version from which on publishers' numbers are kept in runs, what was pruned is known, and workers are.
    fn runs_from(self) -> usize {
        match self {
            Self::Sqlite => 7,
            Self::Postgres => 5,
        }
    }

    fn workers_from(self) -> usize {
        match self {
            Self::Sqlite => 4,
            Self::Postgres => 2,
        }
    }

    fn named_from(self) -> usize {
        match self {
            Self::Sqlite => 8,
            Self::Postgres => 7,
        }
    }
}

/// An old row: its state, with columns and values beside those that all have.
struct Old {
    id: i64,
    state: State,
    more: Vec<(&'static str, String)>,
}

/// One in each state, and a message that is no waybill.
fn old_rows(dialect: Dialect) -> Vec<Old> {
    let old = |id, state, more: &[(&'static str, &str)]| Old {
        id,
        state,
        more: more.iter().map(|(column, value)| (*column, (*value).to_owned())).collect(),
    };
    let [due, leased, expires] = [60, 5, 4_000_000_000].map(|later| dialect.at(THEN + later));
    let [due, leased, expires] = [&*due, &*leased, &*expires];
    vec![
        old(1, State::Saved, &[("due_at", due), ("attempts", "2"), ("problem", "'404'"), ("expires_at", expires)]),
        old(2, State::Working, &[("due_at", due), ("worker", "'host-7'"), ("leased_at", leased), ("rows", "3")]),
        old(
            3,
            State::Done,
            &[("rows", "5"), ("bad_rows", "1"), ("stored_bytes", "100"), ("plain_bytes", "900"), ("blob_etag", "'e'")],
        ),
        old(4, State::Quarantined, &[("reason", "'malformed-row'"), ("problem", "'row 7'"), ("attempts", "1")]),
        old(5, State::Skipped, &[("problem", "'outside the configured types'")]),
        old(6, State::Duplicate, &[("duplicate_of", "3")]),
        old(7, State::Expired, &[("problem", "'gone'")]),
        old(8, State::Quarantined, &[("reason", "'not-json'"), ("problem", "'byte 0'")]),
    ]
}

fn is_waybill(id: i64) -> bool {
    id != 8
}

/// Of the file that a row is about: the duplicate is about the file of row 3.
fn key(id: i64) -> String {
    FileKey::of_uri(&format!("f{}", if id == 6 { 3 } else { id })).as_str().to_owned()
}

fn body(id: i64) -> String {
    format!(
        r#"{{"blobType":"T","correlationId":"c-{id}","uri":"https://a.example/c/f{id}","contentType":"text/csv","properties":{{"waybill":{{"rows":10,"bytes":70}}}}}}"#
    )
}

/// What a program of that version would have written.
fn sql_of(dialect: Dialect, version: usize) -> String {
    let mut sql = String::new();
    for Old { id, state, more } in old_rows(dialect) {
        let mut columns = vec![
            ("id", id.to_string()),
            ("entity_path", format!("'{ENTITY}'")),
            ("broker_sequence", id.to_string()),
            ("enqueued_at", dialect.at(THEN - 10)),
            ("message_id", format!("'m-{id}'")),
            ("state", format!("'{state}'")),
            ("received_at", dialect.at(THEN + id)),
            ("changed_at", dialect.at(THEN + 10 + id)),
        ];
        if is_waybill(id) {
            columns.extend([
                ("body", format!("'{}'", body(id))),
                ("file_key", format!("'{}'", key(id))),
                ("blob_type", "'T'".to_owned()),
                ("correlation_id", format!("'c-{id}'")),
            ]);
            if dialect == Dialect::Postgres {
                columns.push(("file_hash", format!("sha256(convert_to('{}', 'UTF8'))", key(id))));
                columns.extend([("announced_rows", "10".to_owned()), ("announced_bytes", "70".to_owned())]);
            }
        } else {
            columns.push(("body", "'no JSON'".to_owned()));
        }
        // 1, 2, 3, 4 and, after a gap, 7.
        if matches!(id, 1..=4 | 7) {
            let numbers = [("publisher", "'shop'"), ("epoch", "'e'")].map(|(column, value)| (column, value.to_owned()));
            columns.extend(numbers);
            columns.push(("sequence", id.to_string()));
        }
        columns.extend(more);
        let (columns, values): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
        writeln!(sql, "INSERT INTO inbox ({}) VALUES ({});", columns.join(", "), values.join(", ")).unwrap();
        for (number, (state, at)) in [(State::Saved, THEN + id), (state, THEN + 10 + id)].into_iter().enumerate() {
            if number == 0 || state != State::Saved {
                let at = dialect.at(at);
                writeln!(
                    sql,
                    "INSERT INTO history (inbox_id, at, state, problem) VALUES ({id}, {at}, '{state}', 'h');"
                )
                .unwrap();
            }
        }
    }
    if dialect == Dialect::Sqlite && version >= 10 {
        for sum_up in sqlite::SUM_UP {
            writeln!(sql, "{};", sum_up.replace("?1", "0")).unwrap();
        }
    }
    let then = dialect.at(THEN);
    writeln!(sql, "INSERT INTO place VALUES ('https://a.example', 'c', {then});").unwrap();
    if version >= dialect.workers_from() {
        let columns = "worker, started_at, seen_at, receives, works, attached, stopped";
        let yes = if dialect == Dialect::Sqlite { "1" } else { "true" };
        writeln!(sql, "INSERT INTO worker ({columns}) VALUES ('host-7', {then}, {then}, {yes}, {yes}, {yes}, {yes});")
            .unwrap();
    }
    if version >= dialect.runs_from() {
        // A trigger of later versions in PostgreSQL has seen only those that are saved.
        writeln!(sql, "DELETE FROM sequence_run;").unwrap();
        for (first, last) in [(1, 4), (7, 7)] {
            let since = dialect.at(THEN + first);
            writeln!(sql, "INSERT INTO sequence_run VALUES ('shop', 'e', 'T', {first}, {last}, {since});").unwrap();
        }
        let (column, gone) = match dialect {
            Dialect::Sqlite => ("file_key", "'uri:gone'"),
            Dialect::Postgres => ("file_hash", "sha256('uri:gone')"),
        };
        writeln!(sql, "INSERT INTO pruned ({column}, id, pruned_at) VALUES ({gone}, 99, {then});").unwrap();
    }
    if version >= dialect.named_from() {
        writeln!(sql, "INSERT INTO sequence_named VALUES ('shop', 'e', 'T', 9, {then});").unwrap();
        writeln!(sql, "INSERT INTO sequence_void VALUES ('shop', 'e', 'T', 5, 5);").unwrap();
    }
    sql
}

fn instant(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap()
}

/// Everything is there as it was left, and the inbox does what it must.
async fn keeps_everything(inbox: &(impl Inbox + Clone), dialect: Dialect, version: usize) {
    let at = format!("{dialect:?}, schema {version}");
    for Old { id, state, .. } in old_rows(dialect) {
        let row = inbox.get(id).await.unwrap().unwrap_or_else(|| panic!("{at}: row {id} is gone"));
        let InboxRow { ref reason, ref problem, .. } = row;
        // Nobody works an inbox in SQLite that nobody has open.
        let now = if (state, dialect) == (State::Working, Dialect::Sqlite) { State::Saved } else { state };
        assert_eq!((row.state, row.sequence_number, &*row.entity_path), (now, id, ENTITY), "{at}: {row:?}");
        assert_eq!(row.message_id, Some(format!("m-{id}")), "{at}: {row:?}");
        assert_eq!((row.enqueued_at, row.received_at), (instant(THEN - 10), instant(THEN + id)), "{at}: {row:?}");
        if is_waybill(id) {
            assert_eq!(row.file, Some(FileKey::from_stored(key(id))), "{at}: {row:?}");
            assert_eq!((row.blob_type.as_deref(), &*row.body), (Some("T"), &*body(id)), "{at}: {row:?}");
        }
        let wanted = match id {
            1 => (None, Some("404"), 2, 0, 0),
            2 => (None, None, 0, 3, 0),
            3 => (None, None, 0, 5, 1),
            4 => (Some(Reason::MalformedRow), Some("row 7"), 1, 0, 0),
            5 => (None, Some("outside the configured types"), 0, 0, 0),
            7 => (None, Some("gone"), 0, 0, 0),
            8 => (Some(Reason::NotJson), Some("byte 0"), 0, 0, 0),
            _ => (None, None, 0, 0, 0),
        };
        assert_eq!((*reason, problem.as_deref(), row.attempts, row.rows, row.bad_rows), wanted, "{at}: {row:?}");
        assert_eq!(row.expires_at, (id == 1).then(|| instant(THEN + 4_000_000_000)), "{at}: {row:?}");
        assert_eq!(row.duplicate_of, (id == 6).then_some(3), "{at}: {row:?}");
        let history = inbox.history(id).await.unwrap();
        let kept: Vec<_> = history.iter().filter(|entry| entry.problem.as_deref() == Some("h")).collect();
        assert_eq!((kept[0].state, kept[0].at), (State::Saved, instant(THEN + id)), "{at}: {history:?}");
        assert_eq!(kept.last().map(|entry| entry.state), Some(state), "{at}: {history:?}");
    }
    let working = u64::from(dialect == Dialect::Postgres);
    let counts = Counts {
        saved: 2 - working,
        working,
        done: 1,
        quarantined: 2,
        skipped: 1,
        duplicate: 1,
        expired: 1,
        bad_rows: 1,
        ..Counts::default()
    };
    assert_eq!(inbox.counts().await.unwrap(), counts, "{at}");
    let types = inbox.types().await.unwrap();
    let of: Vec<_> =
        types.iter().map(|of| (&*of.blob_type, of.files, of.done, of.skipped, of.rows, of.bytes)).collect();
    assert_eq!(of, [("T", 6, 1, 1, 5 + 5 * 10, 100 + 5 * 70)], "{at}: of row 3 what was read, of others what they say");
    let places = inbox.places().await.unwrap();
    assert_eq!((places.len(), &*places[0].endpoint, &*places[0].container), (1, "https://a.example", "c"), "{at}");
    let workers = inbox.workers().await.unwrap();
    assert_eq!(workers.len(), usize::from(version >= dialect.workers_from()), "{at}: {workers:?}");
    let pruned = inbox.known(&[FileKey::of_uri("gone")]).await.unwrap();
    assert_eq!(pruned, [(version >= dialect.runs_from()).then_some(99)], "{at}");
    let SequenceSeen { first, last, named_to, applied_to, missing, .. } = inbox.sequences().await.unwrap().remove(0);
    // 3 alone took effect; 5 is void where a manifest says so, and 6, 8 and 9 are missing.
    let named = version >= dialect.named_from();
    let (end, names, lost) = if named { (9, Some(9), 3) } else { (7, None, 2) };
    assert_eq!((first, last, named_to, applied_to, missing), (1, end, names, None, lost), "{at}");

    goes_on(inbox, &at).await;
}

/// It knows the old ones, takes new ones, and has them worked.
async fn goes_on(inbox: &(impl Inbox + Clone), at: &str) {
    let mut again = arrival(3, "f3", "T");
    again.enqueued_at = instant(THEN - 10);
    let answers = inbox.admit(vec![again, arrival(20, "f4", "T"), arrival(21, "new", "T")]).await.unwrap();
    assert_eq!(answers[0], Admitted::AlreadySeen(3), "{at}: {answers:?}");
    assert!(matches!(answers[1], Admitted::Duplicate { of: 4, .. }), "{at}: {answers:?}");
    assert!(matches!(answers[2], Admitted::Saved(_)), "{at}: {answers:?}");
    let leased = inbox.lease(&WorkerId("now".to_owned()), 9, &Wanted::default()).await.unwrap();
    let mut names: Vec<&str> = leased.iter().map(|of| of.waybill.key.as_str()).collect();
    names.sort_unstable();
    // The lease of the worker of then is long over.
    assert_eq!(names, ["uri:f1", "uri:f2", "uri:new"], "{at}");
    for file in &leased {
        let done = FileDone { rows: 4, stored_bytes: 50, ..FileDone::default() };
        assert!(inbox.finish(&file.lease, End::Done(done)).await.unwrap(), "{at}");
    }
    let types = inbox.types().await.unwrap().remove(0);
    assert_eq!(
        (types.files, types.done, types.rows, types.bytes),
        (7, 4, 5 + 3 * 10 + 3 * 4, 100 + 3 * 70 + 3 * 50),
        "{at}"
    );
}

#[tokio::test]
async fn an_inbox_in_sqlite_of_any_earlier_schema_keeps_everything_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    for version in 1..=sqlite::SCHEMA.migrations.len() {
        let path = folder.path().join(format!("{version}.sqlite"));
        let old = Connection::open(&path).unwrap();
        for step in &sqlite::SCHEMA.migrations[..version] {
            old.execute_batch(step.sql).unwrap();
        }
        let id = sqlite::SCHEMA.application_id;
        old.execute_batch(&format!("PRAGMA application_id = {id}; PRAGMA user_version = {version}")).unwrap();
        old.execute_batch(&sql_of(Dialect::Sqlite, version)).unwrap();
        drop(old);
        let inbox = SqliteInbox::open(&path, SqliteInboxOptions::default()).await.unwrap();
        keeps_everything(&inbox, Dialect::Sqlite, version).await;
        drop(inbox);
        let again = SqliteInbox::open(&path, SqliteInboxOptions::default()).await.unwrap();
        assert_eq!(again.counts().await.unwrap().done, 4, "schema {version}: opened once more");
    }
}

#[tokio::test]
async fn an_inbox_in_postgresql_of_any_earlier_schema_keeps_everything_and_goes_on() {
    let server = std::env::var("WAYBILL_TEST_POSTGRES")
        .expect("WAYBILL_TEST_POSTGRES is not set: run `cargo xtask test`, which starts a PostgreSQL");
    let server = format!("{server}?sslmode=disable");
    let (old, connection) = tokio_postgres::connect(&server, tokio_postgres::NoTls).await.unwrap();
    let mut served = JoinSet::new();
    served.spawn(async { connection.await.unwrap_or_default() });
    let run = async |sql: &str| old.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    for version in 1..=postgres::SCHEMA.migrations.len() {
        let schema = format!("upgrade_{version}_{}", Uuid::new_v4().simple());
        run(&format!("CREATE SCHEMA {schema}; SET search_path = {schema}")).await;
        for step in &postgres::SCHEMA.migrations[..version] {
            run(step.sql).await;
        }
        run("CREATE TABLE _waybill_schema (name text PRIMARY KEY, version integer NOT NULL)").await;
        run(&format!("INSERT INTO _waybill_schema VALUES ('inbox', {version})")).await;
        run(&sql_of(Dialect::Postgres, version)).await;
        // As the identity has it after eight rows.
        run("SELECT setval('inbox_id_seq', 8)").await;
        let options = || PostgresInboxOptions { lease: Duration::from_secs(60), schema: schema.clone() };
        let inbox = PostgresInbox::open(&server, options()).await.unwrap();
        keeps_everything(&inbox, Dialect::Postgres, version).await;
        inbox.close();
        let again = PostgresInbox::open(&server, options()).await.unwrap();
        assert_eq!(again.counts().await.unwrap().done, 4, "schema {version}: opened once more");
        run(&format!("DROP SCHEMA {schema} CASCADE")).await;
    }
}

#[tokio::test]
async fn an_inbox_in_sqlite_of_a_newer_schema_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("inbox.sqlite");
    drop(SqliteInbox::open(&path, SqliteInboxOptions::default()).await.unwrap());
    let known = sqlite::SCHEMA.migrations.len();
    let newer = Connection::open(&path).unwrap();
    newer.execute_batch(&format!("PRAGMA user_version = {}", known + 1)).unwrap();
    drop(newer);
    // Its writer closes the file when it ends, on a thread of its own.
    while folder.path().join("inbox.sqlite-wal").exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let before = std::fs::read(&path).unwrap();
    let error = SqliteInbox::open(&path, SqliteInboxOptions::default()).await.unwrap_err();
    let InboxError::Open(cause) = &error else { panic!("{error:?}") };
    let told = format!(
        "{}: schema version {}, this program knows up to {known}; use a newer program",
        path.display(),
        known + 1
    );
    assert_eq!(cause.to_string(), told);
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn no_step_that_was_released_is_changed() {
    let hashes = |schema: &Schema| -> Vec<String> {
        let hash = |sql: &str| Sha256::digest(sql).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        schema.migrations.iter().map(|step| hash(step.sql)).collect()
    };
    assert_eq!(hashes(&sqlite::SCHEMA), SQLITE_STEPS, "take a new step instead");
    assert_eq!(hashes(&postgres::SCHEMA), POSTGRES_STEPS, "take a new step instead");
}
