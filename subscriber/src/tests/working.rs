//! P4, P7, P10, P11 and P12 where files are worked.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use waybill_contracts::{Entities, Reason};
use waybill_local::{
    Local,
    config::{Config, Ports, TenantConfig},
    fault::{BlobRequests, CutAt, Step, What, When},
};
use waybill_store::rusqlite::Connection;

use super::{
    sink::MemorySink,
    world::{Running, World, builder, packed, rows, rows_in, until, within},
};
use crate::{
    OnBadRow,
    grants::RenewedBecause,
    inbox::{Inbox, InboxRow, ListFilter, Place, State, Wanted},
    sink::{BadRowsOf, SqlSink, SqliteSink},
};

/// Batches of the decoder hold 10,000 rows, so a file of this many is applied in three steps.
const LONG: u64 = 25_000;

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_file_where_no_grant_ever_pointed_is_quarantined_and_no_request_is_sent() {
    let world = World::new().await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = elsewhere.local_addr().unwrap().port();
    let at = |uri: String| world.waybill("T", "b", "").replace(&world.uri("b"), &uri);
    let own_port = world.local.ports().blob;
    world
        .send(&[
            at(format!("http://127.0.0.1:{port}/devstoreaccount1/batchtoprocess/a")),
            at(format!("http://127.0.0.1:{own_port}/devstoreaccount1/other/a")),
            at(format!("http://127.0.0.1:{own_port}/otheraccount/batchtoprocess/a")),
            world.waybill("T", "b", r#""exportId":"e1""#).replace(&world.uri("b"), "file:///etc/passwd"),
        ])
        .await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::run(&subscriber, MemorySink::default());
    until("four quarantined", || async { inbox.counts().await.unwrap().quarantined == 4 }).await;
    running.stop().await;
    let mut reasons: Vec<_> =
        inbox.list(&ListFilter::default()).await.unwrap().into_iter().map(|row| row.reason.unwrap()).collect();
    reasons.sort();
    assert_eq!(reasons, [Reason::BadUri, Reason::ForeignUri, Reason::ForeignUri, Reason::ForeignUri]);
    let asked = tokio::time::timeout(Duration::from_millis(50), elsewhere.accept()).await;
    assert!(asked.is_err(), "nobody was asked, with or without a token");
    assert!(world.local.stats().counted().blob.is_empty(), "nor our own storage");
}

#[tokio::test]
async fn a_file_of_an_earlier_grants_place_waits_and_is_no_fault() {
    let world = World::new().await;
    let inbox = world.inbox("inbox").await;
    let endpoint = "https://earlier.example".to_owned();
    inbox.remember_place(&Place { endpoint, container: "c".to_owned() }).await.unwrap();
    let there = |extras: &str| world.waybill("T", "b", extras).replace(&world.uri("b"), "https://earlier.example/c/b");
    let over = r#""exportId":"over","expiresAt":"2020-01-01T00:00:00Z""#;
    world.send(&[there(""), there(over)]).await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::run(&subscriber, MemorySink::default());
    until("a try", || async { subscriber.work_stats().tries_put_off.load(Ordering::Relaxed) >= 1 }).await;
    until("the end of the other", || async { inbox.counts().await.unwrap().expired == 1 }).await;
    running.stop().await;
    let row = rows_in(&inbox, State::Saved, 1).await.remove("c-b").unwrap();
    assert!(row.problem.as_ref().unwrap().contains("current grant does not open"), "{row:?}");
}

#[tokio::test]
async fn a_missing_blob_is_tried_again_and_one_past_its_time_expires() {
    let world = World::new().await;
    let over = r#""exportId":"over","expiresAt":"2020-01-01T00:00:00Z""#;
    world.send(&[world.waybill("T", "late", ""), world.waybill("T", "gone", over)]).await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let sink = MemorySink::default();
    let running = Running::run(&subscriber, sink.clone());
    let expired = rows_in(&inbox, State::Expired, 1).await;
    assert!(expired["c-gone"].problem.as_ref().unwrap().contains("ask the publisher"), "{expired:?}");
    until("a try", || async { subscriber.work_stats().tries_put_off.load(Ordering::Relaxed) >= 1 }).await;
    world.upload("late", rows(3).as_bytes()).await;
    rows_in(&inbox, State::Done, 1).await;
    running.stop().await;
    assert_eq!(sink.rows().len(), 3);
}

#[tokio::test]
async fn a_file_that_ends_early_is_quarantined_and_the_others_go_on() {
    let world = World::new().await;
    let whole = packed(LONG);
    world.upload("cut", &whole[..whole.len() - 20]).await;
    world.upload("good", &packed(7)).await;
    world.send(&[world.waybill("T", "cut", ""), world.waybill("T", "good", "")]).await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder().commit_rows_max(10_000.try_into().unwrap()));
    let running = Running::run(&subscriber, MemorySink::default());
    let quarantined = rows_in(&inbox, State::Quarantined, 1).await;
    assert_eq!(quarantined["c-cut"].reason, Some(Reason::TruncatedFile));
    let problem = quarantined["c-cut"].problem.as_ref().unwrap();
    assert!(problem.contains("applied up to row "), "{problem}");
    rows_in(&inbox, State::Done, 1).await;
    running.stop().await;
}

#[tokio::test]
async fn a_bad_row_does_to_its_file_what_was_configured() {
    for (what, applied, bad, state) in [
        (OnBadRow::Quarantine, 2, 1, State::Done),
        (OnBadRow::Skip, 2, 0, State::Done),
        (OnBadRow::Fail, 0, 0, State::Quarantined),
    ] {
        let world = World::new().await;
        world.publish("b", "{\"id\":1}\n{\"id\":\n{\"id\":3}\n", "").await;
        let inbox = world.inbox("inbox").await;
        let subscriber = world.subscriber(inbox.clone(), builder().on_bad_row(what));
        let sink = MemorySink::default();
        let running = Running::run(&subscriber, sink.clone());
        let row = rows_in(&inbox, state, 1).await.remove("c-b").unwrap();
        running.stop().await;
        assert_eq!((sink.rows().len(), sink.bad()), (applied, bad), "{what:?}");
        if what == OnBadRow::Fail {
            let problem = row.problem.unwrap();
            assert!(problem.contains("row 2 at byte 9") && problem.contains("on_bad_row"), "{problem}");
        } else {
            assert_eq!((row.rows, row.bad_rows), (3, 1), "{what:?}");
        }
    }
}

#[tokio::test]
async fn bad_rows_of_reader_and_sink_are_one_count_whatever_was_cut_short() {
    for what in [OnBadRow::Quarantine, OnBadRow::Skip] {
        let world = World::new().await;
        // Every hundredth row is malformed, and of every hundredth the filter cannot say whether it is wanted.
        let row = |id: u64| match id % 100 {
            0 => format!("{{\"id\":{id}\n"),
            1 => format!("{{\"id\":\"{id}\"}}\n"),
            2 => "{\"id\":0}\n".to_owned(),
            _ => format!("{{\"id\":{id}}}\n"),
        };
        world.publish("b", &(1..=LONG).map(row).collect::<String>(), "").await;
        let inbox = world.inbox("inbox").await;
        let sink = MemorySink::default();
        let gate = sink.gate();
        let options = builder().on_bad_row(what).filter("T", "row.id > 0").commit_rows_max(10_000.try_into().unwrap());
        let subscriber = world.subscriber(inbox.clone(), options);
        let running = Running::run(&subscriber, sink.clone());
        gate.add_permits(1);
        until("the first rows", || async { !sink.rows().is_empty() }).await;
        // In the middle of the file the sink is lost and comes back.
        sink.set_down(true);
        gate.add_permits(1000);
        until("an outage", || async { sink.refused() > 0 }).await;
        sink.set_down(false);
        let row = rows_in(&inbox, State::Done, 1).await.remove("c-b").unwrap();
        let wanted = (LONG, LONG / 50, Some(LONG / 100));
        assert_eq!((row.rows, row.bad_rows, row.filtered_rows), wanted, "{what:?}");
        let counts = inbox.counts().await.unwrap();
        assert_eq!((counts.bad_rows, counts.filtered_rows), (LONG / 50, LONG / 100), "{what:?}");
        let kept = if what == OnBadRow::Skip { LONG / 100 } else { LONG / 50 };
        assert_eq!(sink.bad(), kept, "{what:?}");
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let stats = subscriber.work_stats();
        assert_eq!((read(&stats.bad_rows), read(&stats.left_out)), (kept, LONG / 50 - kept), "{what:?}");

        // As if this process had ended between the sink's last commit and the inbox.
        assert_eq!(inbox.reopen(&[row.id]).await.unwrap(), 1);
        let row = rows_in(&inbox, State::Done, 1).await.remove("c-b").unwrap();
        running.stop().await;
        assert_eq!((row.rows, row.bad_rows, row.filtered_rows), wanted, "{what:?}, again");
        assert_eq!(inbox.counts().await.unwrap().bad_rows, LONG / 50, "{what:?}, again");
        assert_eq!(sink.bad(), kept, "{what:?}, again");
    }
}

#[tokio::test]
async fn a_file_that_is_not_what_its_message_says_is_quarantined() {
    let world = World::new().await;
    let text = rows(3);
    let right = format!(r#""plainBytes":{},"rows":3,"plainSha256":"{}""#, text.len(), sha256(&text));
    for (blob, extras) in [
        ("bytes", r#""bytes":1"#.to_owned()),
        ("plain", r#""plainBytes":1"#.to_owned()),
        ("rows", r#""rows":4"#.to_owned()),
        ("hash", format!(r#""plainSha256":"{}""#, sha256("other"))),
        ("right", right),
    ] {
        world.publish(blob, &text, &extras).await;
    }
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder().verify_hash(true));
    let sink = MemorySink::default();
    let running = Running::run(&subscriber, sink.clone());
    let quarantined = rows_in(&inbox, State::Quarantined, 4).await;
    rows_in(&inbox, State::Done, 1).await;
    running.stop().await;
    assert!(quarantined.values().all(|row| row.reason == Some(Reason::HashMismatch)), "{quarantined:?}");
    assert_eq!(sink.rows().len(), 3, "none of the others had an effect");
}

/// From the message to the table, by what its contentType says and by what its properties do.
#[tokio::test]
async fn how_a_file_is_read_is_said_by_parameters_of_its_content_type_or_by_its_properties() {
    let entities = "[entity.street]\ntypes = [\"Streets\"]\nkey = [\"id\"]\ncolumns = { id = \"integer\", name = \"text\" }\n\
                    [entity.item]\ntypes = [\"Items\"]\nkey = [\"id\"]\ncolumns = { id = \"integer\", name = \"text\" }";
    let entities = Entities::parse(entities, "entities.toml").unwrap();
    let document = |id: u32| {
        let items = format!("<items><item><id>{id}</id><name>a</name></item><item><id>{}</id></item></items>", id + 1);
        format!("<all><head><id>0</id></head>{items}</all>").into_bytes()
    };
    let world = World::new().await;
    for (blob, blob_type, bytes, content_type, properties) in [
        (
            "parameters",
            "Streets",
            b"1;Stra\xdfe\n".to_vec(),
            "text/csv; charset=iso-8859-1; header=absent; delimiter=\";\"",
            json!({}),
        ),
        (
            "properties",
            "Streets",
            b"2;Stra\xdfe\n3;\"a;b\"\n5;x;y\n".to_vec(),
            "text/csv",
            json!({ "charset": "ISO-8859-1", "csv": { "header": "absent", "delimiter": "semicolon" } }),
        ),
        (
            "both, of which the parameter counts",
            "Streets",
            b"4|Stra\xdfe\n".to_vec(),
            "text/csv; header=absent; delimiter=pipe",
            json!({ "charset": "latin1", "csv": { "header": "present", "delimiter": ";" } }),
        ),
        ("rows by a parameter", "Items", document(10), "text/xml; row=item", json!({})),
        ("rows by a property", "Items", document(20), "text/xml", json!({ "xml": { "row": "item" } })),
    ] {
        let blob = blob.replace([' ', ','], "-");
        world.upload(&blob, &bytes).await;
        let message = json!({
            "blobType": blob_type, "correlationId": format!("c-{blob}"), "uri": world.uri(&blob),
            "contentType": content_type, "properties": properties,
        });
        world.send(&[message.to_string()]).await;
    }
    let inbox = world.inbox("inbox").await;
    let path = world.folder.path().join("sink.sqlite");
    let sink = SqliteSink::open(&path, &entities).await.unwrap();
    let subscriber = world.subscriber(inbox.clone(), builder().entities(entities));
    let running = Running::run(&subscriber, sink.clone());
    rows_in(&inbox, State::Done, 5).await;
    running.stop().await;
    let table = |name: &str| -> Vec<(i64, Option<String>)> {
        let connection = Connection::open(&path).unwrap();
        let mut statement = connection.prepare(&format!("SELECT id, name FROM {name} ORDER BY id")).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    };
    let named = |id: i64, name: &str| (id, Some(name.to_owned()));
    assert_eq!(table("street"), [named(1, "Straße"), named(2, "Straße"), named(3, "a;b"), named(4, "Straße")]);
    assert_eq!(table("item"), [named(10, "a"), (11, None), named(20, "a"), (21, None)]);
    let bad = sink.bad_rows(&BadRowsOf::default(), 10).await.unwrap();
    assert_eq!(bad.iter().map(|bad| (bad.row, bad.reason.as_str())).collect::<Vec<_>>(), [(3, "malformed-row")]);
}

/// Publishes a long file, lets its first rows take effect, puts `then` in its place, and lets the subscriber go on.
async fn replaced_in_the_middle(then: &str, extras: &str, end: State) -> (Vec<String>, InboxRow) {
    let world = World::new().await;
    let sink = MemorySink::default();
    let gate = sink.gate();
    world.publish("b", &rows(LONG), extras).await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder().commit_rows_max(10_000.try_into().unwrap()));
    let running = Running::run(&subscriber, sink.clone());
    gate.add_permits(1);
    until("the first rows", || async { sink.rows().len() == 10_000 }).await;
    sink.set_down(true);
    gate.add_permits(1000);
    until("an outage", || async { sink.refused() > 0 }).await;
    world.container.delete("b").await.unwrap();
    world.upload("b", then.as_bytes()).await;
    sink.set_down(false);
    let row = rows_in(&inbox, end, 1).await.remove("c-b").unwrap();
    running.stop().await;
    (sink.rows(), row)
}

#[tokio::test]
async fn rows_of_another_content_never_follow_rows_that_took_effect() {
    let other = rows(LONG).replace("\"id\"", "\"ix\"");
    let hash = format!(r#""plainSha256":"{}""#, sha256(&rows(LONG)));
    // As long and with as many rows as announced, which proves nothing.
    let figures = format!(r#""plainBytes":{},"rows":{LONG}"#, rows(LONG).len());
    for extras in [hash.as_str(), figures.as_str(), ""] {
        let (rows, row) = replaced_in_the_middle(&other, extras, State::Quarantined).await;
        assert_eq!(row.reason, Some(Reason::ContentChanged), "{extras}");
        assert_eq!(rows.len(), 10_000, "{extras}");
        assert!(rows.iter().all(|row| row.contains("\"id\"")), "nothing of the other content: {extras}");
        if extras != hash {
            let problem = row.problem.unwrap();
            assert!(problem.contains("rows up to 10000") && problem.contains("Ask the publisher"), "{problem}");
        }
    }
}

#[tokio::test]
async fn a_blob_that_stayed_goes_on_where_it_stopped_without_a_hash() {
    let world = World::new().await;
    let sink = MemorySink::default();
    let gate = sink.gate();
    world.publish("b", &rows(LONG), "").await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder().commit_rows_max(10_000.try_into().unwrap()));
    let running = Running::run(&subscriber, sink.clone());
    gate.add_permits(1);
    until("the first rows", || async { sink.rows().len() == 10_000 }).await;
    sink.set_down(true);
    gate.add_permits(1000);
    until("an outage", || async { sink.refused() > 0 }).await;
    sink.set_down(false);
    rows_in(&inbox, State::Done, 1).await;
    running.stop().await;
    assert_eq!(sink.rows().len() as u64, LONG);
}

#[tokio::test]
async fn the_same_content_in_a_new_blob_goes_on_where_it_stopped() {
    let extras = format!(r#""plainSha256":"{}""#, sha256(&rows(LONG)));
    let (applied, _) = replaced_in_the_middle(&rows(LONG), &extras, State::Done).await;
    let mut expected: Vec<String> = rows(LONG).lines().map(str::to_owned).collect();
    expected.sort();
    assert_eq!(applied, expected);
}

#[tokio::test]
async fn files_wait_while_the_sink_is_down_and_all_of_them_finish_afterwards() {
    let world = World::new().await;
    let sink = MemorySink::default();
    sink.set_down(true);
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::run(&subscriber, sink.clone());
    for number in 0..12 {
        world.publish(&format!("b{number}"), &rows(2), "").await;
    }
    until("all are received, outage or not", || async {
        subscriber.receive_stats().saved.load(Ordering::Relaxed) == 12
    })
    .await;
    until("tries", || async { sink.refused() >= 3 }).await;
    let tried = sink.refused();
    assert!(tried < 12, "one clock for all files, not {tried} tries");
    sink.set_down(false);
    let done = rows_in(&inbox, State::Done, 12).await;
    running.stop().await;
    assert_eq!(sink.rows().len(), 24);
    assert_eq!(done.values().map(|row| row.attempts).max(), Some(1), "an outage is no try of a file");
    assert_eq!(world.local.broker().counts(super::world::ENTITY).unwrap().dead_lettered, 0);
}

#[tokio::test]
async fn a_file_that_fails_alone_waits_longer_each_time_and_its_tries_count() {
    let world = World::new().await;
    let sink = MemorySink::default();
    sink.set_unfit("poison");
    world.publish("good", &rows(1), "").await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::run(&subscriber, sink.clone());
    rows_in(&inbox, State::Done, 1).await;
    world.publish("bad", "{\"poison\":1}\n", "").await;
    let (mut good, mut seen, mut waits) = (1, 0, Vec::new());
    while waits.len() < 2 {
        // The sink works for others, again and again.
        world.publish(&format!("good{good}"), &rows(1), "").await;
        good += 1;
        rows_in(&inbox, State::Done, good).await;
        let saved = inbox.list(&ListFilter { state: Some(State::Saved), ..ListFilter::default() }).await.unwrap();
        if let Some(row) = saved.into_iter().find(|row| row.attempts > seen) {
            assert!(row.problem.as_ref().unwrap().contains("chokes on a row"), "{row:?}");
            seen = row.attempts;
            waits.push(row.due_at.unwrap() - row.changed_at);
        }
        assert!(good < 5_000, "its tries do not count");
    }
    running.stop().await;
    assert!(waits[0] >= time::Duration::milliseconds(500) && waits[1] >= time::Duration::seconds(1), "{waits:?}");
}

#[tokio::test]
async fn files_that_fail_for_ever_are_not_tried_before_one_that_never_failed() {
    let world = World::new().await;
    let sink = MemorySink::default();
    sink.set_unfit("poison");
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    for number in 0..6 {
        world.publish(&format!("bad{number}"), "{\"poison\":1}\n", "").await;
    }
    let running = Running::run(&subscriber, sink.clone());
    // Nothing has ever worked, so it looks like an outage: after the six that are under way together, one file tries for all,
    // after pauses that grow.
    until("tries", || async { sink.refused() >= 8 }).await;
    world.publish("good", &rows(1), "").await;
    until("saved", || async { subscriber.receive_stats().saved.load(Ordering::Relaxed) == 7 }).await;
    let before = sink.refused();
    rows_in(&inbox, State::Done, 1).await;
    let between = sink.refused_before_last() - before;
    assert!(between <= 1, "{between} tries of others, and only one was leased before the good one was saved");
    running.stop().await;
}

#[tokio::test]
async fn a_stop_gives_back_what_does_not_finish_in_time() {
    let world = World::new().await;
    let sink = MemorySink::default();
    let gate = sink.gate();
    world.publish("b", &rows(2), "").await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder().drain_timeout(Duration::from_millis(50)));
    let running = Running::run(&subscriber, sink.clone());
    until("a file at work", || async { inbox.counts().await.unwrap().working == 1 }).await;
    running.stop().await;
    let row = rows_in(&inbox, State::Saved, 1).await.remove("c-b").unwrap();
    assert_eq!((row.attempts, row.worker), (0, None));
    gate.add_permits(10);
    let running = Running::run(&subscriber, sink.clone());
    rows_in(&inbox, State::Done, 1).await;
    running.stop().await;
    assert_eq!(sink.rows().len(), 2);
}

#[tokio::test]
async fn a_stop_lets_files_under_way_finish() {
    let world = World::new().await;
    let sink = MemorySink::default();
    let gate = sink.gate();
    world.publish("b", &rows(2), "").await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::run(&subscriber, sink.clone());
    until("a file at work", || async { inbox.counts().await.unwrap().working == 1 }).await;
    running.stop.cancel();
    gate.add_permits(1);
    running.stop().await;
    assert_eq!(inbox.counts().await.unwrap().done, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_workers_on_one_inbox_and_one_sink_apply_each_row_once() {
    let world = World::new().await;
    let inbox = world.inbox("inbox").await;
    let sink = MemorySink::default();
    let (one, two) = (world.subscriber(inbox.clone(), builder()), world.subscriber(inbox.clone(), builder()));
    let (first, second) = (Running::run(&one, sink.clone()), Running::run(&two, sink.clone()));
    for number in 0..30 {
        world.publish(&format!("b{number}"), &rows(10), "").await;
    }
    rows_in(&inbox, State::Done, 30).await;
    first.stop().await;
    second.stop().await;
    assert_eq!(sink.rows().len(), 300);
    let done = |subscriber: &crate::Subscriber| subscriber.work_stats().files_done.load(Ordering::Relaxed);
    assert_eq!(done(&one) + done(&two), 30);
}

#[tokio::test]
async fn done_files_that_the_sink_does_not_know_are_worked_again_and_hold_the_end() {
    let world = World::new().await;
    world.publish("a", &rows(2), "").await;
    world.publish("b", &rows(2), "").await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let sink = MemorySink::default();
    let running = Running::run(&subscriber, sink.clone());
    rows_in(&inbox, State::Done, 2).await;
    running.stop().await;
    // As if restored from a backup.
    sink.forget();
    let stop = tokio_util::sync::CancellationToken::new();
    let wanted = Wanted::default();
    let idle = async {
        subscriber.until_idle(&wanted, Duration::ZERO, false, &stop).await.unwrap();
        stop.cancel();
    };
    let (processed, ()) =
        within(async { tokio::join!(subscriber.process(sink.clone(), wanted.clone(), stop.clone()), idle) }).await;
    processed.unwrap();
    assert_eq!(sink.rows().len(), 4);
}

#[tokio::test]
async fn files_of_types_that_are_not_configured_are_skipped_whenever_they_come() {
    let world = World::new().await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder().types(["T".to_owned()]));
    let sink = MemorySink::default();
    let running = Running::run(&subscriber, sink.clone());
    until("a link", || async { subscriber.receive_stats().attached.load(Ordering::Relaxed) == 1 }).await;
    world.send(&[world.waybill("Other", "o1", "")]).await;
    rows_in(&inbox, State::Skipped, 1).await;
    world.publish("b", &rows(2), "").await;
    world.send(&[world.waybill("Other", "o2", "")]).await;
    rows_in(&inbox, State::Done, 1).await;
    until("both are saved", || async { subscriber.receive_stats().saved.load(Ordering::Relaxed) == 3 }).await;
    running.stop().await;
    assert_eq!(inbox.counts().await.unwrap().skipped, 2, "at a stop at the latest");
    assert_eq!(sink.rows().len(), 2);
}

#[tokio::test]
async fn a_grant_without_the_right_to_read_waits_on_a_slow_clock_and_receiving_goes_on() {
    let mut tenant = TenantConfig::named("acme");
    tenant.blob_permissions = Some("l".to_owned());
    let config = Config { tenants: vec![tenant], ..Config::default() };
    let world = World::of(Local::builder().config(config).ports(Ports::RANDOM).start().await.unwrap());
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let running = Running::run(&subscriber, MemorySink::default());
    for number in 0..8 {
        world.publish(&format!("b{number}"), &rows(2), "").await;
    }
    let put_off = || subscriber.work_stats().tries_put_off.load(Ordering::Relaxed);
    until("tries", || async { put_off() >= 5 }).await;
    until("all are received", || async { subscriber.receive_stats().saved.load(Ordering::Relaxed) == 8 }).await;
    let (asked, tried) = (world.asked(), put_off());
    running.stop().await;
    assert!(asked <= 1 + tried, "{asked} requests to TenantService for {tried} tries");
    let problem = inbox.list(&ListFilter::default()).await.unwrap().into_iter().find_map(|row| row.problem).unwrap();
    assert!(problem.contains("check the grant's rights"), "{problem}");
    assert_eq!(inbox.counts().await.unwrap().saved, 8, "nothing is given up");
}

#[tokio::test]
async fn a_token_that_is_refused_in_the_middle_of_a_file_is_renewed_once_and_each_row_comes_once() {
    let world = World::new().await;
    let cut = What::Cut { at: CutAt::BlobByte(100_000), refuse_sas: true };
    world.local.faults().install([Step::new(When::Blob(BlobRequests::default()), cut)]).unwrap();
    world.publish("b", &rows(LONG), "").await;
    let inbox = world.inbox("inbox").await;
    let subscriber = world.subscriber(inbox.clone(), builder());
    let sink = MemorySink::default();
    let running = Running::run(&subscriber, sink.clone());
    let done = rows_in(&inbox, State::Done, 1).await;
    running.stop().await;
    assert_eq!(sink.rows().len() as u64, LONG);
    assert_eq!(done["c-b"].attempts, 1, "the download went on by itself");
    assert_eq!(subscriber.grants().unwrap().renewals()[&RenewedBecause::RefusedByStorage], 1);
}
