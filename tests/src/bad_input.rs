//! Messages and files as they should not be: each is kept with what, where and why, and stops nothing else.

use std::{io::Write, num::NonZeroU32, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{net::TcpListener, process::Command};
use waybill_azure::blob::ContainerOptions;
use waybill_contracts::{Entities, Reason};
use waybill_local::{
    BlobOperation,
    fault::{BlobRequests, Step, What, When},
};
use waybill_subscriber::{
    Subscriber, SubscriberBuilder,
    inbox::{InboxRow, SqliteInbox, State},
};

use crate::harness::{Subscribing, World, assert_nothing_was_dead_lettered, binary, number, until, waybill};

fn options() -> SubscriberBuilder {
    Subscriber::<SqliteInbox>::builder()
}

fn lines(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|number| format!("{{\"n\":{number}}}\n")).collect()
}

fn gzip(text: &str) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(text.as_bytes()).expect("it is packed");
    packer.finish().expect("it is packed")
}

/// Lines that hardly compress, so that a part of the packed bytes holds a part of the rows.
fn random_lines(numbers: std::ops::Range<u64>) -> String {
    numbers.map(|number| format!("{{\"n\":{number},\"text\":\"{}\"}}\n", uuid::Uuid::new_v4())).collect()
}

/// The row of a file whose message it was.
async fn row_of(subscribing: &Subscribing, message: &Value) -> InboxRow {
    subscribing.row(message["correlationId"].as_str().expect("it has one")).await
}

/// A good file that was announced after all the others.
async fn good_file(world: &World) -> Value {
    let uri = world.put("Number/good.jsonl", lines(0..3)).await;
    waybill("Number", &uri)
}

fn bytes(message: &Value) -> Bytes {
    Bytes::from(message.to_string())
}

#[track_caller]
fn assert_quarantined(row: &InboxRow, reason: Reason, says: &[&str]) {
    assert_eq!((row.state, row.reason), (State::Quarantined, Some(reason)), "{row:?}");
    let problem = row.problem.as_deref().unwrap_or_default();
    for says in says {
        assert!(problem.contains(says), "{says:?} is not in {problem:?}");
    }
}

#[tokio::test]
async fn messages_that_are_no_waybills_are_kept_with_their_reason_and_the_next_good_file_is_done() {
    let world = World::new().await;
    let good = good_file(&world).await;
    let mut lacking = good.clone();
    lacking.as_object_mut().expect("an object").remove("blobType");
    let mut unknown = good.clone();
    unknown["contentType"] = "application/vnd.ms-excel".into();
    let mut empty_type = good.clone();
    empty_type["blobType"] = "".into();
    let bodies = [
        Bytes::from_static(b"\xffnot json"),
        Bytes::from_static(b"[1, 2]"),
        bytes(&lacking),
        bytes(&empty_type),
        bytes(&unknown),
        bytes(&good),
    ];
    world.send(bodies.clone()).await;
    let subscribing = world.subscriber(options(), &Entities::default()).await;
    let counts = subscribing.until("six rows", |counts| counts.done + counts.quarantined == 6).await;
    assert_eq!((counts.done, counts.quarantined), (1, 5));
    let rows = subscribing.rows().await;
    let of = |body: &Bytes| {
        let text = String::from_utf8_lossy(body);
        rows.iter().find(|row| row.body == *text).unwrap_or_else(|| panic!("{text} was kept as it came"))
    };
    assert_quarantined(of(&bodies[0]), Reason::NotJson, &[]);
    assert_quarantined(of(&bodies[1]), Reason::NotJson, &[]);
    assert_quarantined(of(&bodies[2]), Reason::MissingField, &["blobType"]);
    assert_quarantined(of(&bodies[3]), Reason::FieldOutOfBounds, &["blobType"]);
    assert_quarantined(of(&bodies[4]), Reason::UnknownContentType, &["application/vnd.ms-excel"]);
    assert_eq!(of(&bodies[5]).state, State::Done);
    until("every message is settled", || world.counts().totals.completed == 6).await;
    world.all_settled().await;
    subscribing.end().await;
    assert_eq!(world.query("SELECT n FROM \"Number\" ORDER BY n"), ["0", "1", "2"]);
    assert_nothing_was_dead_lettered(&world);

    // What a person sees.
    let list = async |arguments: &[&str]| {
        let mut command = Command::new(binary("waybill-subscriber"));
        command.args(["--format", "json", "--data"]).arg(world.path("subscriber")).args(arguments);
        let output = command.current_dir(world.path("")).output().await.expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let listed = list(&["list", "--state", "quarantined"]).await;
    let mut reasons: Vec<&str> =
        listed.as_array().expect("a list").iter().filter_map(|row| row["reason"].as_str()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["field-out-of-bounds", "missing-field", "not-json", "not-json", "unknown-content-type"]);
    let missing = listed.as_array().expect("a list").iter().find(|row| row["reason"] == "missing-field");
    let id = missing.expect("it is listed")["id"].to_string();
    let shown = list(&["show", &id]).await;
    assert_eq!(shown["body"], lacking.to_string());
    assert_eq!(shown["state"], "quarantined");
    assert!(shown["history"].as_array().is_some_and(|history| !history.is_empty()));
    world.end().await;
}

#[tokio::test]
async fn an_address_outside_of_every_grant_is_quarantined_and_never_asked() {
    let world = World::new().await;
    // Stands for somebody else's storage account; whoever connects is counted.
    let foreign = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let foreign_host = format!("http://{}/devstoreaccount1/batchtoprocess/x.jsonl", foreign.local_addr().expect("one"));
    let good = good_file(&world).await;
    let own = good["uri"].as_str().expect("text").to_owned();
    let foreign_container = own.replace("/batchtoprocess/", "/somebodyelses/");
    // A name that begins like the grant's container, and one that climbs out of it.
    let similar = own.replace("/batchtoprocess/", "/batchtoprocess2/");
    let climbing = own.replace("/batchtoprocess/", "/batchtoprocess/../somebodyelses/");
    let with_userinfo = own.replacen("http://", "http://user:word@", 1);
    let file = |uri: &str| waybill("Number", uri);
    let bad = [
        (file("file:///etc/passwd"), Reason::BadUri),
        (file("https://"), Reason::BadUri),
        (file(&climbing), Reason::BadUri),
        (file(&with_userinfo), Reason::BadUri),
        (file("http://storage.example/batchtoprocess/x.jsonl"), Reason::BadUri),
        (file(&foreign_host), Reason::ForeignUri),
        (file("https://storage.example/batchtoprocess/x.jsonl"), Reason::ForeignUri),
        (file(&foreign_container), Reason::ForeignUri),
        (file(&similar), Reason::ForeignUri),
    ];
    world.send(bad.iter().map(|(message, _)| bytes(message)).chain([bytes(&good)])).await;
    let subscribing = world.subscriber(options(), &Entities::default()).await;
    let all = bad.len() as u64 + 1;
    let counts = subscribing.until("every row at its end", |counts| counts.done + counts.quarantined == all).await;
    assert_eq!(counts.done, 1);
    for (message, reason) in &bad {
        assert_quarantined(&row_of(&subscribing, message).await, *reason, &[]);
    }
    let row = row_of(&subscribing, &bad[5].0).await;
    assert_quarantined(&row, Reason::ForeignUri, &["no grant ever pointed", &foreign_host]);
    subscribing.end().await;
    let nobody = tokio::time::timeout(Duration::from_millis(200), foreign.accept()).await;
    assert!(nobody.is_err(), "somebody asked the foreign host");
    let asked = world.local.stats().counted();
    let reads: u64 = asked.blob.iter().filter(|count| count.operation == "GetBlob").map(|count| count.count).sum();
    assert_eq!(reads, 1, "only the good file was asked for: {:?}", asked.blob);
    world.end().await;
}

#[tokio::test]
async fn a_query_in_an_address_is_neither_used_nor_kept() {
    let world = World::new().await;
    let mut good = good_file(&world).await;
    let secret = "sv=2021-12-02&sig=SECRETSECRET";
    good["uri"] = format!("{}?{secret}", good["uri"].as_str().expect("text")).into();
    world.send([bytes(&good)]).await;
    let subscribing = world.subscriber(options(), &Entities::default()).await;
    subscribing.done(1).await;
    let row = row_of(&subscribing, &good).await;
    assert!(!row.uri.expect("an address").contains("sig="));
    assert!(!row.file.expect("a file").as_str().contains("sig="));
    subscribing.end().await;
    assert_eq!(world.query("SELECT count(*) FROM \"Number\""), ["3"]);
    world.end().await;
}

#[tokio::test]
async fn a_missing_blob_is_waited_for_and_taken_when_it_comes() {
    let world = World::new().await;
    let missing = waybill("Number", &world.uri("Number/late.jsonl"));
    let good = good_file(&world).await;
    world.send([bytes(&missing), bytes(&good)]).await;
    let subscribing = world.subscriber(options(), &Entities::default()).await;
    let put_off =
        |subscriber: &Subscriber<SqliteInbox>| subscriber.work_stats().tries_put_off.load(Ordering::Relaxed) > 0;
    subscribing.wait_for("the missing file was put off", put_off).await;
    subscribing.done(1).await;
    let row = subscribing.until("the missing one waits", |counts| counts.saved == 1).await;
    assert_eq!((row.quarantined, row.expired), (0, 0));
    let row = row_of(&subscribing, &missing).await;
    assert!(row.problem.as_deref().is_some_and(|problem| problem.contains("missing")), "{row:?}");
    world.put("Number/late.jsonl", lines(3..5)).await;
    subscribing.done(2).await;
    world.all_settled().await;
    subscribing.end().await;
    assert_eq!(world.query("SELECT n FROM \"Number\" ORDER BY n"), ["0", "1", "2", "3", "4"]);
    assert_nothing_was_dead_lettered(&world);
    world.end().await;
}

#[tokio::test]
async fn a_truncated_file_is_quarantined_and_says_up_to_which_row_it_was_applied() {
    let world = World::new().await;
    let whole = gzip(&random_lines(0..4_000));
    let cut = world.put("Number/cut.jsonl.gz", whole[..whole.len() / 2].to_vec()).await;
    let mut damaged = whole.clone();
    let last = damaged.len() - 5;
    damaged[last] ^= 0xff;
    let damaged = world.put("Number/damaged.jsonl.gz", damaged).await;
    let mut cut = waybill("Cut", &cut);
    cut["contentEncoding"] = "gzip".into();
    let damaged = waybill("Damaged", &damaged);
    let good = good_file(&world).await;
    world.send([bytes(&cut), bytes(&damaged), bytes(&good)]).await;
    let subscribing = world.subscriber(options().commit_rows_max(number(100)), &Entities::default()).await;
    let counts = subscribing.until("all at their end", |counts| counts.done + counts.quarantined == 3).await;
    assert_eq!((counts.done, counts.quarantined), (1, 2));
    let of_cut = row_of(&subscribing, &cut).await;
    let applied = world.query("SELECT max(_waybill_row), count(*), count(DISTINCT n) FROM \"Cut\"");
    let rows: Vec<u64> = applied[0].split('|').map(|number| number.parse().expect("a number")).collect();
    assert!(rows[0] > 100 && rows[0] < 4_000, "some rows were applied: {rows:?}");
    assert_eq!((rows[1], rows[2]), (rows[0], rows[0]), "each once, none left out");
    assert_quarantined(&of_cut, Reason::TruncatedFile, &[&format!("applied up to row {}", rows[0])]);
    let of_damaged = row_of(&subscribing, &damaged).await;
    assert_quarantined(&of_damaged, Reason::CorruptGzip, &["Number/damaged.jsonl.gz", "applied up to row"]);
    subscribing.end().await;
    world.end().await;
}

#[tokio::test]
async fn a_row_that_only_the_checksum_tells_to_be_wrong_never_takes_effect() {
    let world = World::new().await;
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    packer.write_all(lines(0..50).as_bytes()).expect("memory");
    let mut turned = packer.finish().expect("memory");
    // Stored, not compressed: one bit makes the last 49 a 48, and every row is as sound as before.
    let place = turned.windows(2).rposition(|digits| digits == b"49").expect("the last row");
    turned[place + 1] ^= 1;
    let uri = world.put("Turned/turned.jsonl.gz", turned).await;
    let message = waybill("Turned", &uri);
    let good = good_file(&world).await;
    world.send([bytes(&message), bytes(&good)]).await;
    let subscribing = world.subscriber(options(), &Entities::default()).await;
    let counts = subscribing.until("both at their end", |counts| counts.done + counts.quarantined == 2).await;
    assert_eq!((counts.done, counts.quarantined), (1, 1));
    let row = row_of(&subscribing, &message).await;
    assert_quarantined(&row, Reason::CorruptGzip, &["Turned/turned.jsonl.gz", "checksum"]);
    assert!(!row.problem.expect("it says why").contains("applied up to"), "nothing was applied");
    subscribing.end().await;
    let tables = world.query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name = 'Turned'");
    assert!(tables.is_empty() || world.query("SELECT * FROM \"Turned\"").is_empty(), "a row of the file took effect");
    world.end().await;
}

#[tokio::test]
async fn a_broken_row_is_kept_with_its_error_and_the_file_goes_on() {
    let world = World::new().await;
    let uri = world.put("Number/row.jsonl", "{\"n\":1}\n{\"n\":2,,}\n{\"n\":3}\n").await;
    let message = waybill("Number", &uri);
    world.send([bytes(&message)]).await;
    let subscribing = world.subscriber(options(), &Entities::default()).await;
    subscribing.done(1).await;
    let row = row_of(&subscribing, &message).await;
    assert_eq!((row.rows, row.bad_rows), (3, 1));
    subscribing.end().await;
    assert_eq!(world.query("SELECT n, _waybill_row FROM \"Number\" ORDER BY n"), ["1|1", "3|3"]);
    let kept = world.query("SELECT row, byte_offset, reason, problem FROM _waybill_bad_row");
    assert_eq!(kept.len(), 1);
    assert!(kept[0].starts_with("2|8|malformed-row|"), "{kept:?}");
    world.end().await;
}

#[tokio::test]
async fn a_blob_that_is_replaced_between_two_requests_is_read_again_from_its_begin() {
    const RANGE: u64 = 4096;
    let world = World::new().await;
    let uri = world.put("Number/changed.jsonl", random_lines(0..500)).await;
    let message = waybill("Number", &uri);
    let third = BlobRequests::of(BlobOperation::GetBlob);
    world
        .local
        .faults()
        .install([Step::new(When::Blob(third), What::Delay(Duration::from_secs(2))).nth(number(3))])
        .expect("a sound script");
    world.send([bytes(&message)]).await;
    let small = ContainerOptions { range_bytes: RANGE, ..ContainerOptions::default() };
    let subscribing = world.subscriber(options().blob(small), &Entities::default()).await;
    // The third request waits at the server while the blob is replaced.
    world.local.faults().wait_for(1).await;
    world.put("Number/changed.jsonl", random_lines(1000..1500)).await;
    subscribing.done(1).await;
    assert_eq!(world.local.stats().counted().blob_requests("GetBlob", 412), 1, "storage refused to mix the two");
    let row = row_of(&subscribing, &message).await;
    assert_eq!((row.attempts, row.rows), (2, 500), "{row:?}");
    subscribing.end().await;
    assert_eq!(
        world.query("SELECT count(*), min(n), max(n) FROM \"Number\""),
        ["500|1000|1499"],
        "rows of one of the two, and of that one all"
    );
    world.end().await;
}

#[tokio::test]
async fn a_file_that_is_not_what_its_message_announced_is_quarantined() {
    let world = World::new().await;
    let text = lines(0..10);
    let stored = text.len() as u64;
    let uri = world.put("Number/other.jsonl", text).await;
    let announcing = |what: &str, value: Value| {
        // Files with an exportId are told apart by it, so that all three may name one blob.
        let mut message = waybill("Other", &uri);
        message["properties"] = json!({"waybill": {"exportId": what, "publisher": "shop", what: value}});
        message
    };
    let bad = [
        (announcing("bytes", (stored + 1).into()), "bytes"),
        (announcing("rows", 11.into()), "its number of rows is 10, its message says 11"),
        (announcing("plainBytes", 5.into()), "its plain length"),
        (announcing("plainSha256", "00".repeat(32).into()), "SHA-256"),
    ];
    let good = good_file(&world).await;
    world.send(bad.iter().map(|(message, _)| bytes(message)).chain([bytes(&good)])).await;
    let subscribing = world.subscriber(options().verify_hash(true), &Entities::default()).await;
    let counts = subscribing.until("all at their end", |counts| counts.done + counts.quarantined == 5).await;
    assert_eq!((counts.done, counts.quarantined), (1, 4));
    for (message, says) in &bad {
        assert_quarantined(&row_of(&subscribing, message).await, Reason::HashMismatch, &[says]);
    }
    subscribing.end().await;
    let tables = world.query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name = 'Other'");
    assert_eq!(tables, [""; 0], "nothing of them was applied");
    world.end().await;
}

#[tokio::test]
async fn files_that_cannot_be_worked_do_not_stand_in_the_way_of_others() {
    const BAD: u64 = 30;
    let world = World::new().await;
    let missing: Vec<Bytes> =
        (0..BAD).map(|number| bytes(&waybill("Number", &world.uri(&format!("Number/none-{number}"))))).collect();
    let good = good_file(&world).await;
    world.send(missing.into_iter().chain([bytes(&good)])).await;
    let one = NonZeroU32::MIN;
    let subscribing = world.subscriber(options().files_in_flight_max(one), &Entities::default()).await;
    subscribing.done(1).await;
    let counts = subscribing.counts().await;
    assert_eq!((counts.done, counts.quarantined, counts.expired), (1, 0, 0));
    assert_eq!(counts.saved + counts.working, BAD);
    subscribing.end().await;
    world.end().await;
}
