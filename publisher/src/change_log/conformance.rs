//! What every change log must do, as one suite: run against each database.

use std::{
    future::Future,
    num::{NonZeroU32, NonZeroU64},
};

use futures::TryStreamExt;
use time::OffsetDateTime;
use waybill_contracts::BlobType;

use super::{BadChange, ChangeFilter, ChangeLog, Cut, FileNumber, LogError, PlannedFile, Seat, Tail};

/// The service's side of a database.
pub(crate) trait Service {
    /// Runs a statement in a transaction of its own; `LOG` stands for the log's table.
    fn run(&self, sql: &str) -> impl Future<Output = Result<(), String>>;
    /// The highest id in the log.
    fn last(&self) -> impl Future<Output = i64>;
    async fn must(&self, sql: &str) {
        self.run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

/// Runs the suite. `open` makes a log of this name, and the service beside it.
pub(crate) async fn exercise<S: Service, F: Future<Output = (ChangeLog, S)>>(open: impl Fn(&'static str) -> F) {
    let make = async |name| open(name).await;
    changes_become_a_file_in_their_order(make("order").await).await;
    files_end_at_rows_and_at_bytes(make("cut").await).await;
    what_fills_no_file_waits_until_it_is_due(make("due").await).await;
    types_do_not_wait_for_each_other(make("types").await).await;
    a_file_carries_what_all_its_changes_say(make("carry").await).await;
    a_change_that_is_refused_is_left_out(make("refused").await).await;
    a_row_that_is_too_long_is_left_out_when_its_file_is_planned(make("long").await).await;
    a_file_may_have_more_rows_than_are_looked_at_at_once(make("many").await).await;
    files_are_open_until_they_are_exported(make("open").await).await;
    one_publisher_plans_at_a_time(make("seat").await).await;
    a_log_keeps_to_its_outbox(make("epoch").await).await;
    what_has_expired_is_deleted(make("prune").await).await;
    what_nobody_can_prove_is_noted_once(make("unproven").await).await;
    a_trial_of_writing_leaves_nothing(make("trial").await).await;
    what_no_file_could_hold_is_not_logged(make("checks").await).await;
    a_status_tells_what_waits(make("status").await).await;
    a_status_does_not_count_all_that_waits(make("backlog").await).await;
    changes_are_found_by_key_and_correlation_with_their_export(make("changes").await).await;
    a_table_is_read_as_it_is_in_one_moment(make("table").await).await;
}

pub(crate) const EPOCH: &str = "0193-epoch";

pub(crate) async fn seat(log: &ChangeLog) -> Seat {
    log.seat(EPOCH).await.unwrap().expect("nobody has it")
}

fn as_number(sequence: u64) -> FileNumber {
    FileNumber { publisher: "suite".to_owned(), epoch: EPOCH.to_owned(), sequence }
}

fn cut(max_rows: u32, max_bytes: u64) -> Cut {
    Cut { max_rows: NonZeroU32::new(max_rows).unwrap(), max_bytes: NonZeroU64::new(max_bytes).unwrap() }
}

pub(crate) async fn text(log: &ChangeLog, file: &PlannedFile) -> String {
    let chunks: Vec<bytes::Bytes> = log.lines(file).try_collect().await.unwrap();
    String::from_utf8(chunks.concat()).unwrap()
}

/// Waits until all that is logged is settled: other transactions may be under way on the same server.
async fn all_settled<S: Service>(seat: &mut Seat, service: &S) -> i64 {
    let last = service.last().await;
    loop {
        let settled = seat.settled().await.unwrap();
        if settled >= last {
            return settled;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Plans all that is logged of a type, as files of these limits.
async fn files<S: Service>(seat: &mut Seat, service: &S, blob_type: &str, limits: Cut) -> Vec<PlannedFile> {
    let settled = all_settled(seat, service).await;
    let mut files = Vec::new();
    while let Some(Tail::File(file, _)) = seat.plan(blob_type, settled, limits, true).await.unwrap() {
        files.push(*file);
    }
    files
}

async fn numbers<S: Service>(service: &S, blob_type: &str, numbers: std::ops::Range<u32>) {
    let rows: Vec<String> = numbers.map(|n| format!("('{blob_type}', '{{\"n\":{n}}}')")).collect();
    service.must(&format!("INSERT INTO LOG (blob_type, row) VALUES {}", rows.join(", "))).await;
}

async fn changes_become_a_file_in_their_order<S: Service>((log, service): (ChangeLog, S)) {
    let mut seat = seat(&log).await;
    assert_eq!(seat.settled().await.unwrap(), 0);
    service.must(r#"INSERT INTO LOG (blob_type, row) VALUES ('Item', '{"id":1,"price":19.90}')"#).await;
    service.must("INSERT INTO LOG (blob_type, row) VALUES ('Item', '{\"id\":2,\n  \"name\":\"a\\nb\"}')").await;
    service.must(r#"INSERT INTO LOG (blob_type, op, row) VALUES ('Item', 'delete', '{"id":1}')"#).await;
    let planned = files(&mut seat, &service, "Item", cut(100, 1 << 20)).await;
    assert_eq!(planned.len(), 1);
    assert_eq!(planned[0].changes, 3);
    let expected = "{\"id\":1,\"price\":19.90}\n{\"id\":2,   \"name\":\"a\\nb\"}\n{\"_deleted\":true,\"id\":1}\n";
    assert_eq!(text(&log, &planned[0]).await, expected, "numbers as written, one line a row");
    assert!(files(&mut seat, &service, "Item", cut(100, 1 << 20)).await.is_empty(), "planned once");
    let settled = all_settled(&mut seat, &service).await;
    assert!(seat.waiting(settled).await.unwrap().is_empty());
}

async fn a_table_is_read_as_it_is_in_one_moment<S: Service>((log, service): (ChangeLog, S)) {
    let table = format!("all \"rows\" {}", uuid::Uuid::new_v4().simple());
    let quoted = format!("\"{}\"", table.replace('"', "\"\""));
    service.must(&format!("CREATE TABLE {quoted} (id integer PRIMARY KEY, price numeric(9, 2), name text)")).await;
    let text = |chunks: &[bytes::Bytes]| String::from_utf8(chunks.concat()).unwrap();
    let none: Vec<bytes::Bytes> = log.rows_of(&table).await.unwrap().rows.try_collect().await.unwrap();
    assert!(none.is_empty());
    service.must(&format!("INSERT INTO {quoted} VALUES (1, 19.5, 'a\nb'), (2, NULL, '\u{e9}')")).await;
    let all: Vec<bytes::Bytes> = log.rows_of(&table).await.unwrap().rows.try_collect().await.unwrap();
    let rows: Vec<serde_json::Value> = text(&all).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["name"], &rows[1]["price"]), (&"a\nb".into(), &serde_json::Value::Null));
    assert!(text(&all).starts_with("{\"id\":1,\"price\":19.5"), "{}", text(&all));

    // More than is sent at once; what happens to the table while it is read is not seen.
    service.must(&format!("DELETE FROM {quoted}")).await;
    let filler = "x".repeat(1_000);
    let rows = |from: u32| (from..from + 500).map(|id| format!("({id}, 1, '{filler}')")).collect::<Vec<_>>().join(", ");
    for from in [0, 500, 1_000, 1_500] {
        service.must(&format!("INSERT INTO {quoted} VALUES {}", rows(from))).await;
    }
    let mut reading = log.rows_of(&table).await.unwrap().rows;
    let mut chunks = vec![reading.try_next().await.unwrap().unwrap()];
    service.must(&format!("DELETE FROM {quoted} WHERE id > 5")).await;
    service.must(&format!("UPDATE {quoted} SET name = 'new'")).await;
    chunks.extend(reading.try_collect::<Vec<_>>().await.unwrap());
    let (read, few) = (text(&chunks), log.rows_of(&table).await.unwrap().rows.try_collect::<Vec<_>>().await.unwrap());
    assert_eq!((read.lines().count(), read.contains("new"), text(&few).lines().count()), (2_000, false, 6));
    // A reader that goes away in the middle leaves nothing behind that would hold up others.
    let mut reading = log.rows_of(&table).await.unwrap();
    assert_eq!(reading.columns, ["id", "price", "name"]);
    reading.rows.try_next().await.unwrap().unwrap();
    drop(reading);
    let types = BlobType::new("Rows").unwrap();
    assert!(log.other_tables_of(&types, std::slice::from_ref(&table)).await.unwrap().is_empty());
    service.must(&log.triggers(&table, &types, &[]).await.unwrap()).await;
    let others = async |of: &str, tables: &[String]| {
        log.other_tables_of(&BlobType::new(of).unwrap(), tables).await.unwrap().len()
    };
    let named = [table.clone()];
    assert_eq!((others("Rows", &[]).await, others("Rows", &named).await, others("Row", &[]).await), (1, 0, 0));
    service.must(&format!("DROP TABLE {quoted}")).await;
    let Err(missing) = log.rows_of(&table).await else { panic!("it is gone") };
    assert!(matches!(&missing, LogError::Table { problem, .. } if problem.contains("no such table")), "{missing}");
}

async fn files_end_at_rows_and_at_bytes<S: Service>((log, service): (ChangeLog, S)) {
    let mut seat = seat(&log).await;
    numbers(&service, "N", 0..10).await;
    let planned = files(&mut seat, &service, "N", cut(4, 1 << 20)).await;
    assert_eq!(planned.iter().map(|file| file.changes).collect::<Vec<_>>(), [4, 4, 2]);
    assert_eq!(text(&log, &planned[2]).await, "{\"n\":8}\n{\"n\":9}\n");
    // A row of this has 9 bytes with its line end.
    numbers(&service, "N", 10..20).await;
    let planned = files(&mut seat, &service, "N", cut(100, 20)).await;
    assert_eq!(planned.iter().map(|file| file.changes).collect::<Vec<_>>(), [3, 3, 3, 1]);
    let lines: Vec<String> = futures::future::join_all(planned.iter().map(|file| text(&log, file))).await;
    assert_eq!(lines.concat(), (10..20).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>());
}

async fn what_fills_no_file_waits_until_it_is_due<S: Service>((log, service): (ChangeLog, S)) {
    let mut seat = seat(&log).await;
    numbers(&service, "N", 0..5).await;
    let settled = all_settled(&mut seat, &service).await;
    assert!(matches!(seat.plan("N", settled, cut(6, 1 << 20), false).await.unwrap(), Some(Tail::Waits(5))));
    numbers(&service, "N", 5..6).await;
    let settled = all_settled(&mut seat, &service).await;
    let Some(Tail::File(file, true)) = seat.plan("N", settled, cut(6, 1 << 20), false).await.unwrap() else {
        panic!("it is full");
    };
    assert_eq!(file.changes, 6);
    assert!(seat.plan("N", settled, cut(6, 1 << 20), true).await.unwrap().is_none());
}

async fn types_do_not_wait_for_each_other<S: Service>((log, service): (ChangeLog, S)) {
    let mut seat = seat(&log).await;
    numbers(&service, "A", 0..2).await;
    numbers(&service, "B", 0..2).await;
    numbers(&service, "A", 2..3).await;
    let settled = all_settled(&mut seat, &service).await;
    let waiting = seat.waiting(settled).await.unwrap();
    assert_eq!(waiting, [("A".to_owned(), 0), ("B".to_owned(), 0)]);
    let planned = files(&mut seat, &service, "A", cut(100, 1 << 20)).await;
    assert_eq!(text(&log, &planned[0]).await, "{\"n\":0}\n{\"n\":1}\n{\"n\":2}\n");
    let waiting = seat.waiting(settled).await.unwrap();
    assert_eq!(waiting, [("B".to_owned(), 0)]);
}

async fn a_file_carries_what_all_its_changes_say<S: Service>((log, service): (ChangeLog, S)) {
    let mut seat = seat(&log).await;
    let insert = async |correlation: &str, causation: &str| {
        let columns = "(blob_type, row, correlation_id, causation_id, traceparent)";
        service.must(&format!("INSERT INTO LOG {columns} VALUES ('N', '{{}}', {correlation}, {causation}, 't')")).await;
    };
    insert("'c'", "'order-1'").await;
    insert("'c'", "NULL").await;
    let planned = files(&mut seat, &service, "N", cut(100, 1 << 20)).await;
    let file = &planned[0];
    assert_eq!((file.correlation_id.as_str(), &file.causation_id), ("c", &None), "one change says no causation");
    assert_eq!(file.traceparent.as_deref(), Some("t"));
    insert("'c'", "'order-1'").await;
    insert("'d'", "'order-1'").await;
    let planned = files(&mut seat, &service, "N", cut(100, 1 << 20)).await;
    let file = &planned[0];
    assert!(uuid::Uuid::parse_str(&file.correlation_id).is_ok(), "two of them: the file gets its own");
    assert_eq!(file.causation_id.as_deref(), Some("order-1"));
}

async fn a_change_that_is_refused_is_left_out<S: Service>((log, service): (ChangeLog, S)) {
    let mut seat = seat(&log).await;
    numbers(&service, "A", 0..1).await;
    numbers(&service, "N", 0..4).await;
    let planned = files(&mut seat, &service, "N", cut(100, 1 << 20)).await;
    let bad = |row: u64, problem: &str| BadChange { row, problem: problem.to_owned() };
    let refused = seat.refuse(&planned[0], &[bad(2, "nobody likes it"), bad(4, "nor this \0")]).await.unwrap();
    assert_eq!(refused.len(), 2);
    assert_eq!(text(&log, &planned[0]).await, "{\"n\":0}\n{\"n\":2}\n");
    let third = seat.refuse(&planned[0], &[bad(2, "rows are counted without those")]).await.unwrap();
    assert_eq!(text(&log, &planned[0]).await, "{\"n\":0}\n");
    assert!(seat.refuse(&planned[0], &[bad(2, "there is none")]).await.unwrap().is_empty());
    assert_eq!(log.status().await.unwrap().refused, 3);
    let told = log.refused(10).await.unwrap();
    let told: Vec<(i64, &str)> = told.iter().map(|change| (change.id, change.problem.as_str())).collect();
    assert_eq!(told[0].0, *refused.iter().max().unwrap());
    assert!(told[0].1.starts_with("nor this"), "{told:?}");
    assert_eq!(told[1], (third[0], "rows are counted without those"));
    assert_eq!(told[2], (*refused.iter().min().unwrap(), "nobody likes it"));
}

/// What nobody reads is not read here either: it may need all memory that there is.
async fn a_row_that_is_too_long_is_left_out_when_its_file_is_planned<S: Service>((log, service): (ChangeLog, S)) {
    let mut seat = seat(&log).await;
    numbers(&service, "N", 0..1).await;
    let long = "x".repeat((16 << 20) + 1);
    service.must(&format!("INSERT INTO LOG (blob_type, row) VALUES ('N', '{{\"n\":\"{long}\"}}')")).await;
    numbers(&service, "N", 1..2).await;
    let planned = files(&mut seat, &service, "N", cut(100, 1 << 20)).await;
    assert_eq!((planned.len(), text(&log, &planned[0]).await.as_str()), (1, "{\"n\":0}\n{\"n\":1}\n"));
    let told = log.refused(10).await.unwrap();
    assert_eq!(
        (told.len(), told[0].problem.as_str()),
        (1, "the row has 16777225 bytes; readers take 16777216 at most")
    );
}

/// More changes than are looked at first.
async fn a_file_may_have_more_rows_than_are_looked_at_at_once<S: Service>((log, service): (ChangeLog, S)) {
    let mut seat = seat(&log).await;
    numbers(&service, "N", 0..5_000).await;
    let settled = all_settled(&mut seat, &service).await;
    assert!(matches!(seat.plan("N", settled, cut(10_000, 1 << 20), false).await.unwrap(), Some(Tail::Waits(5_000))));
    let planned = files(&mut seat, &service, "N", cut(3_000, 1 << 20)).await;
    assert_eq!(planned.iter().map(|file| file.changes).collect::<Vec<_>>(), [3_000, 2_000]);
    let lines = text(&log, &planned[0]).await + &text(&log, &planned[1]).await;
    assert_eq!(lines, (0..5_000).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>());
}

async fn files_are_open_until_they_are_exported<S: Service>((log, service): (ChangeLog, S)) {
    let mut first = seat(&log).await;
    numbers(&service, "N", 0..4).await;
    numbers(&service, "A", 0..1).await;
    let planned = files(&mut first, &service, "N", cut(2, 1 << 20)).await;
    files(&mut first, &service, "A", cut(2, 1 << 20)).await;
    drop(first);
    let mut next = until_seated(&log).await;
    let open = next.open_files().await.unwrap();
    assert_eq!(open.iter().map(|file| file.blob_type.as_str()).collect::<Vec<_>>(), ["N", "N", "A"]);
    assert_eq!(open[..2], planned, "the same files, with the same exports");
    next.exported(planned[0].number, None, &as_number(1)).await.unwrap();
    assert_eq!(next.open_files().await.unwrap()[0], planned[1]);
}

/// The right of a session ends a moment after it.
pub(crate) async fn until_seated(log: &ChangeLog) -> Seat {
    loop {
        if let Some(seat) = log.seat(EPOCH).await.unwrap() {
            return seat;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

async fn one_publisher_plans_at_a_time<S: Service>((log, _service): (ChangeLog, S)) {
    let first = seat(&log).await;
    assert!(log.clone().seat(EPOCH).await.unwrap().is_none());
    assert!(!log.adopt("another").await.unwrap(), "not while it is followed");
    assert!(log.status().await.unwrap().followed);
    drop(first);
    drop(until_seated(&log).await);
}

async fn a_log_keeps_to_its_outbox<S: Service>((log, _service): (ChangeLog, S)) {
    drop(seat(&log).await);
    drop(until_seated(&log).await);
    let refused = loop {
        match log.seat("another").await {
            Ok(None) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            other => break other,
        }
    };
    assert!(matches!(refused, Err(LogError::OtherOutbox { theirs, .. }) if theirs == EPOCH));
    while !log.adopt("another").await.unwrap() {}
    while log.seat("another").await.unwrap().is_none() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Deletes what is over by then.
async fn prune(seat: &mut Seat, by: OffsetDateTime) {
    let mut last = None;
    loop {
        let page = seat.expired(by, last.as_ref(), false).await.unwrap();
        let Some(file) = page.last() else { return };
        last = Some(file.clone());
        for file in page {
            while !seat.prune(file.number).await.unwrap() {}
        }
    }
}

async fn what_has_expired_is_deleted<S: Service>((log, service): (ChangeLog, S)) {
    let mut seat = seat(&log).await;
    let at = |second: i64| OffsetDateTime::from_unix_timestamp(second).unwrap();
    numbers(&service, "N", 0..6).await;
    numbers(&service, "A", 0..2).await;
    let planned = files(&mut seat, &service, "N", cut(2, 1 << 20)).await;
    let refused = seat.refuse(&planned[0], &[BadChange { row: 1, problem: "kept".to_owned() }]).await.unwrap()[0];
    seat.exported(planned[0].number, Some(at(100)), &as_number(1)).await.unwrap();
    seat.exported(planned[1].number, Some(at(200)), &as_number(2)).await.unwrap();
    seat.exported(planned[2].number, None, &as_number(3)).await.unwrap();
    let over = seat.expired(at(150), None, false).await.unwrap();
    assert_eq!(over.iter().map(|file| file.number).collect::<Vec<_>>(), [planned[0].number]);
    assert_eq!((&over[0].export_id, over[0].blob_type.as_str()), (&planned[0].export_id, "N"));
    assert_eq!((over[0].as_number.clone(), over[0].proven), (Some(as_number(1)), None));
    assert!(seat.expired(at(150), over.last(), false).await.unwrap().is_empty());
    let over = seat.expired(at(200), over.last(), false).await.unwrap();
    assert_eq!(over.iter().map(|file| file.number).collect::<Vec<_>>(), [planned[1].number]);
    prune(&mut seat, at(150)).await;
    let left = PlannedFile { after: 0, ..planned[2].clone() };
    assert_eq!(text(&log, &left).await, "{\"n\":2}\n{\"n\":3}\n{\"n\":4}\n{\"n\":5}\n");
    service.must(&format!("UPDATE LOG SET key = 'still there' WHERE id = {refused}")).await;
    prune(&mut seat, at(9_000_000_000)).await;
    assert_eq!(text(&log, &left).await, "{\"n\":4}\n{\"n\":5}\n", "what is kept for ever");
    assert_eq!(files(&mut seat, &service, "A", cut(10, 1 << 20)).await[0].changes, 2, "what is in no file");
}

/// It is told, and looked at again only by whoever asks for such, or once a person says that it may go.
async fn what_nobody_can_prove_is_noted_once<S: Service>((log, service): (ChangeLog, S)) {
    let mut seat = seat(&log).await;
    numbers(&service, "N", 0..6).await;
    let planned = files(&mut seat, &service, "N", cut(2, 1 << 20)).await;
    let at = OffsetDateTime::from_unix_timestamp(100).unwrap();
    for (file, sequence) in planned.iter().zip(1..) {
        seat.exported(file.number, Some(at), &as_number(sequence)).await.unwrap();
    }
    assert!(log.status().await.unwrap().unproven.is_empty());
    for file in &planned[..2] {
        assert!(seat.unproven(file.number).await.unwrap());
        assert!(!seat.unproven(file.number).await.unwrap(), "once");
    }
    let told = log.status().await.unwrap().unproven;
    assert_eq!((told.len(), told[0].blob_type.as_str(), told[0].files, told[0].changes), (1, "N", 2, 4));
    let over = async |seat: &mut Seat, unproven| {
        let over = seat.expired(at, None, unproven).await.unwrap();
        over.into_iter().map(|file| (file.number, file.proven)).collect::<Vec<_>>()
    };
    let [first, second, third] = [0, 1, 2].map(|file: usize| planned[file].number);
    assert_eq!(over(&mut seat, false).await, [(third, None)]);
    assert_eq!(over(&mut seat, true).await, [(first, Some(false)), (second, Some(false)), (third, None)]);
    service.must(&log.status().await.unwrap().let_go_with).await;
    assert_eq!(over(&mut seat, false).await, [(first, Some(true)), (second, Some(true)), (third, None)]);
    assert!(log.status().await.unwrap().unproven.is_empty());
}

async fn a_trial_of_writing_leaves_nothing<S: Service>((log, service): (ChangeLog, S)) {
    numbers(&service, "N", 0..2).await;
    for _ in 0..2 {
        log.try_writing().await.unwrap();
    }
    let status = log.status().await.unwrap();
    assert_eq!((status.waiting, status.open_files.len(), status.refused), (2, 0, 0));
    let mut seat = seat(&log).await;
    log.try_writing().await.unwrap();
    assert_eq!(files(&mut seat, &service, "N", cut(10, 1 << 20)).await.len(), 1);
}

async fn what_no_file_could_hold_is_not_logged<S: Service>((log, service): (ChangeLog, S)) {
    for values in [
        "('no type', 'upsert', '{}')",
        "('-T', 'upsert', '{}')",
        "('', 'upsert', '{}')",
        "('T', 'insert', '{}')",
        "('T', 'upsert', '[1]')",
        "('T', 'upsert', '{\"a\":}')",
        "('T', 'upsert', NULL)",
    ] {
        let insert = format!("INSERT INTO LOG (blob_type, op, row) VALUES {values}");
        assert!(service.run(&insert).await.is_err(), "{values}");
    }
    let long = format!("INSERT INTO LOG (blob_type, row) VALUES ('{}', '{{}}')", "T".repeat(201));
    assert!(service.run(&long).await.is_err());
    for said in ["''".to_owned(), format!("'{}'", "c".repeat(257))] {
        for column in ["correlation_id", "causation_id", "traceparent"] {
            let insert = format!("INSERT INTO LOG (blob_type, row, {column}) VALUES ('T', '{{}}', {said})");
            assert!(service.run(&insert).await.is_err(), "{column}: a message could not carry it");
        }
    }
    service.must(&format!("INSERT INTO LOG (blob_type, row) VALUES ('{}', '{{}}')", "T".repeat(200))).await;
    assert_eq!(log.status().await.unwrap().waiting, 1);
}

async fn a_status_tells_what_waits<S: Service>((log, service): (ChangeLog, S)) {
    let before = log.status().await.unwrap();
    assert_eq!((before.waiting, before.waiting_since, before.followed), (0, None, false));
    numbers(&service, "N", 0..3).await;
    let since = log.status().await.unwrap().waiting_since.expect("three wait");
    assert!((OffsetDateTime::now_utc() - since).abs() < time::Duration::hours(1), "{since}");
    let mut seat = seat(&log).await;
    files(&mut seat, &service, "N", cut(2, 1 << 20)).await;
    numbers(&service, "N", 3..4).await;
    let status = log.status().await.unwrap();
    assert_eq!((status.waiting, status.open_files.len()), (1, 2));
    assert_eq!((status.open_files[0].blob_type.as_str(), status.open_files[0].changes), ("N", 2));
    assert_eq!(status.types.iter().map(|of| (of.blob_type.as_str(), of.waiting)).collect::<Vec<_>>(), [("N", 1)]);
    let number = seat.open_files().await.unwrap()[0].number;
    seat.not_made(number, "its \0 fault").await.unwrap();
    assert!(log.status().await.unwrap().open_files[0].problem.as_ref().unwrap().starts_with("its "));
}

/// Of ten million only so many are counted as a person can tell apart.
async fn a_status_does_not_count_all_that_waits<S: Service>((log, service): (ChangeLog, S)) {
    for _ in 0..11 {
        numbers(&service, "N", 0..10_000).await;
    }
    numbers(&service, "A", 0..2).await;
    let status = log.status().await.unwrap();
    let types: Vec<_> = status.types.iter().map(|of| (of.blob_type.as_str(), of.waiting, of.waiting_more)).collect();
    assert_eq!(types, [("A", 2, false), ("N", 100_000, true)]);
    assert_eq!((status.waiting, status.waiting_more), (100_002, true));
}

async fn changes_are_found_by_key_and_correlation_with_their_export<S: Service>((log, service): (ChangeLog, S)) {
    let mut seat = seat(&log).await;
    let insert = async |op: &str, key: &str, correlation: &str| {
        let values = format!("'N', '{op}', '{{\"k\":\"{key}\"}}', '{key}', '{correlation}'");
        service.must(&format!("INSERT INTO LOG (blob_type, op, row, key, correlation_id) VALUES ({values})")).await;
    };
    insert("upsert", "a", "order-1").await;
    insert("upsert", "b", "order-1").await;
    let planned = files(&mut seat, &service, "N", cut(100, 1 << 20)).await;
    seat.refuse(&planned[0], &[BadChange { row: 2, problem: "nobody likes it".to_owned() }]).await.unwrap();
    insert("delete", "a", "order-2").await;
    let of_key = ChangeFilter { key: Some("a".to_owned()), ..ChangeFilter::default() };
    let found = log.changes(&of_key).await.unwrap();
    assert_eq!(found.iter().map(|change| change.op.as_str()).collect::<Vec<_>>(), ["delete", "upsert"], "newest first");
    assert_eq!((&found[0].export_id, found[1].export_id.as_deref()), (&None, Some(planned[0].export_id.as_str())));
    assert_eq!(found[1].row, r#"{"k":"a"}"#);
    assert!(OffsetDateTime::parse(&found[0].occurred_at, &time::format_description::well_known::Rfc3339).is_ok());
    let of_order = ChangeFilter { correlation_id: Some("order-1".to_owned()), ..ChangeFilter::default() };
    let found = log.changes(&of_order).await.unwrap();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].refused.as_deref(), Some("nobody likes it"));
    let page = ChangeFilter { before: Some(found[0].id), most: 1, blob_type: Some("N".to_owned()), ..of_order };
    assert_eq!(log.changes(&page).await.unwrap(), found[1..]);
}
